//! The only unsafe code of this crate: what a supervisor does around `fork`, in its only thread.

use nix::sys::signal::{SigAction, Signal, sigaction};
use nix::unistd::ForkResult;

/// Forks. Only for the supervisor, which has one thread.
pub(crate) fn fork() -> nix::Result<ForkResult> {
    // SAFETY: the supervisor never starts a thread, so no lock can be held by one that is missing in the child.
    unsafe { nix::unistd::fork() }
}

/// Ends a forked child at once, without running what the parent registered for its own exit.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: `_exit` takes any integer and does not return.
    unsafe { nix::libc::_exit(code) }
}

/// Sets what a signal does.
pub(crate) fn set_action(signal: Signal, action: &SigAction) -> nix::Result<()> {
    // SAFETY: only SIG_IGN and SIG_DFL are set here, no handler of ours can run in a signal's context.
    unsafe { sigaction(signal, action) }.map(drop)
}
