//! The one system call around processes that has no safe form.

use std::io;

use nix::sys::prctl;
use nix::sys::signal::Signal;

/// Asks the kernel to send the command SIGTERM when the thread that starts it ends, however that happens.
pub(crate) fn end_with_parent(command: &mut tokio::process::Command) {
    // SAFETY: prctl is a plain system call: it allocates nothing and takes no lock, so it may run between fork and exec.
    unsafe {
        command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGTERM).map_err(io::Error::from));
    }
}
