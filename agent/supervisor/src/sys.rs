//! The only unsafe code of this crate: what a supervisor does around `fork` and with signals, in its only
//! thread, pidfds, and what the kernel counts and asks in control groups, which the libraries used here do not wrap.

pub mod bpf;
pub mod counters;
pub mod nvml;
pub mod quota;

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{SigAction, SigSet, Signal, sigaction};
use nix::unistd::ForkResult;

/// Forks. Only for the supervisor, which has one thread.
pub fn fork() -> nix::Result<ForkResult> {
    // SAFETY: the supervisor never starts a thread, so no lock can be held by one that is missing in the child.
    unsafe { nix::unistd::fork() }
}

/// Starts a child that has namespaces of its own, those of `flags`, as users do who are its own, too, or who are `entered`. It
/// says that it has them, or the number of the error, and waits to be killed. Any process may do it, whatever threads it has.
pub(crate) fn hold(
    entered: Option<std::os::fd::BorrowedFd<'_>>,
    flags: nix::sched::CloneFlags,
    writer: &OwnedFd,
) -> nix::Result<nix::unistd::Pid> {
    use nix::sched::{CloneFlags, setns, unshare};
    // SAFETY: the child makes system calls only: it takes no lock and no memory.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let done = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).and_then(|()| match entered {
                None => unshare(flags | CloneFlags::CLONE_NEWUSER),
                Some(users) => setns(users, CloneFlags::CLONE_NEWUSER).and_then(|()| unshare(flags)),
            });
            let said = done.err().map_or(0, |errno| errno as i32);
            let _ = nix::unistd::write(writer, &said.to_ne_bytes());
            loop {
                nix::unistd::pause();
            }
        }
    }
}

/// Ends a forked child at once, without running what the parent registered for its own exit.
pub fn exit(code: i32) -> ! {
    // SAFETY: `_exit` takes any integer and does not return.
    unsafe { libc::_exit(code) }
}

/// Does a step in a child between fork and exec. Only for the supervisor, which has one thread.
pub(crate) fn before_exec(
    command: &mut std::process::Command,
    step: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    use std::os::unix::process::CommandExt;
    // SAFETY: as for `fork`: there is no other thread whose locks could be missing.
    unsafe { command.pre_exec(step) };
}

/// All threads of this process share one heap. By default each gets one of its own, and what a burst leaves free in them stays
/// this process's. Before the first thread.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes two integers; there is no other thread yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives back what the heap has free. Takes milliseconds.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes an integer, and the locks that it needs.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Sets what a signal does.
pub fn set_action(signal: Signal, action: &SigAction) -> nix::Result<()> {
    // SAFETY: only SIG_IGN and SIG_DFL are set here, no handler of ours can run in a signal's context.
    unsafe { sigaction(signal, action) }.map(drop)
}

/// Waits for one of these signals, which are blocked; none if none came in time.
pub fn wait_signal(signals: &SigSet, patience: Duration) -> io::Result<Option<Signal>> {
    let seconds = libc::time_t::try_from(patience.as_secs()).unwrap_or(libc::time_t::MAX);
    let timeout = libc::timespec { tv_sec: seconds, tv_nsec: patience.subsec_nanos().into() };
    let set: *const libc::sigset_t = signals.as_ref();
    // SAFETY: the set and the time live for as long as the call; no information on the signal is asked for.
    let signal = unsafe { libc::sigtimedwait(set, std::ptr::null_mut(), &timeout) };
    match signal {
        -1 => match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => Ok(None),
            error => Err(error),
        },
        signal => Signal::try_from(signal).map(Some).map_err(io::Error::from),
    }
}

/// Makes the terminal behind a descriptor that of this session, which this process leads.
pub fn take_terminal(terminal: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: takes a descriptor and an integer.
    let done = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Rows and columns of a terminal; whoever runs on it hears of a change.
pub fn set_window(terminal: &impl AsRawFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the size lives for as long as the call.
    let done = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, std::ptr::from_ref(&size)) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Reading and writing no longer wait.
pub fn set_nonblocking(file: &impl AsFd) -> io::Result<()> {
    let flags = nix::fcntl::fcntl(file.as_fd(), nix::fcntl::FcntlArg::F_GETFL)?;
    let flags = nix::fcntl::OFlag::from_bits_retain(flags) | nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(file.as_fd(), nix::fcntl::FcntlArg::F_SETFL(flags))?;
    Ok(())
}

/// A descriptor that stands for a process, and for no other one that gets its number later.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    // SAFETY: takes two integers and touches no memory of ours.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the descriptor was just made for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Signals the process that a pidfd stands for.
pub fn pidfd_signal(pidfd: &OwnedFd, signal: Signal) -> io::Result<()> {
    send(pidfd, signal as i32)
}

/// Whether processes can be signalled in this way at all.
pub fn pidfd_probe(pidfd: &OwnedFd) -> io::Result<()> {
    send(pidfd, 0)
}

fn send(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    let information = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null pointer instead of signal information is allowed and means "as kill(2) would".
    let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, information, 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets this process have nothing open but one file: its standard streams lead nowhere, the file moves. Whoever owned one of the
/// others never gets to use it: from here on this process writes to that file and ends by [`exit`].
pub fn keep_only(file: OwnedFd) -> io::Result<std::fs::File> {
    const KEPT: i32 = 3;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?.into_raw_fd();
    let file = file.into_raw_fd();
    let done = |result: i32| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    for stream in 0..3 {
        // SAFETY: takes two integers; nobody owns the standard streams.
        done(unsafe { libc::dup2(null, stream) })?;
    }
    // SAFETY: takes two integers. What was open there is not used any more.
    done(unsafe { libc::dup2(file, KEPT) })?;
    // SAFETY: takes three integers. What is closed is not used any more.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, KEPT + 1, u32::MAX, 0) };
    if closed < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made for us, nobody else owns it.
    Ok(unsafe { std::fs::File::from_raw_fd(KEPT) })
}

/// Raises the loopback of the network that this thread is in.
///
/// # Errors
/// Those of the kernel.
pub fn raise_loopback() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: an interface request is numbers and bytes: all of them nought is one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request lives for as long as the call, which reads it.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, std::ptr::from_ref(&request)) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What a mount has of its own is nobody else's.
pub(crate) const PRIVATE: u64 = libc::MS_PRIVATE;

/// Adds properties to what is mounted at a descriptor, and to what is mounted in it if `recursive`; with a `propagation` it gets
/// that as well.
pub(crate) fn set_mount(
    mount: std::os::fd::BorrowedFd<'_>,
    attributes: u64,
    propagation: u64,
    recursive: bool,
) -> rustix::io::Result<()> {
    let attributes = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation, userns_fd: 0 };
    change_mount(mount, &attributes, libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 })
}

fn change_mount(
    mount: std::os::fd::BorrowedFd<'_>,
    attributes: &libc::mount_attr,
    flags: i32,
) -> rustix::io::Result<()> {
    let (pointer, size) = (std::ptr::from_ref(attributes), size_of_val(attributes));
    // SAFETY: the path is an empty string that lives for ever, and the attributes, of this size, for as long as the call.
    let done = unsafe { libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), c"".as_ptr(), flags, pointer, size) };
    if done < 0 {
        let error = io::Error::last_os_error();
        return Err(rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO));
    }
    Ok(())
}

/// Lets a mount, which is mounted nowhere yet, show owners as these users see them: who has a number on the disk is who has it among
/// them.
pub(crate) fn map_mount(
    mount: std::os::fd::BorrowedFd<'_>,
    users: std::os::fd::BorrowedFd<'_>,
) -> rustix::io::Result<()> {
    let userns_fd = u64::try_from(users.as_raw_fd()).unwrap_or_default();
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    change_mount(mount, &attributes, libc::AT_EMPTY_PATH)
}

/// Whatever is open beyond the standard streams is not what this process executes.
pub(crate) fn close_on_exec() {
    const CLOEXEC: libc::c_uint = 4;
    // All that is opened here is closed so anyway: an older kernel that cannot is no harm.
    // SAFETY: takes three integers.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, CLOEXEC) };
}

/// The highest number of a capability that can be asked for.
const CAPABILITY_MAX: u32 = 63;

fn prctl(option: i32, arguments: [libc::c_ulong; 4]) -> io::Result<i32> {
    let [two, three, four, five] = arguments;
    // SAFETY: only options that take integers are used here.
    let done = unsafe { libc::prctl(option, two, three, four, five) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

/// Gives up for good all capabilities but these: a bit for each, by its number.
pub fn bound_capabilities(kept: u64) -> io::Result<()> {
    for number in 0..=CAPABILITY_MAX {
        let has = match prctl(libc::PR_CAPBSET_READ, [number.into(), 0, 0, 0]) {
            // The kernel has no more of them.
            Err(_) => return Ok(()),
            Ok(has) => has == 1,
        };
        if has && kept & (1 << number) == 0 {
            prctl(libc::PR_CAPBSET_DROP, [number.into(), 0, 0, 0])?;
        }
    }
    Ok(())
}

/// Capabilities outlast that this process becomes somebody else.
pub fn keep_capabilities() -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, [1, 0, 0, 0]).map(drop)
}

/// With it filters of system calls are applied that may also bind what has privileges.
pub const SYS_ADMIN: u64 = 1 << 21;

/// Has these capabilities itself, and those of `inherited` may be what it executes has.
pub fn have_capabilities(own: u64, inherited: u64) -> io::Result<()> {
    const VERSION: u32 = 0x2008_0522;
    let half = |set: u64, high: bool| if high { (set >> 32) as u32 } else { set as u32 };
    let header = [VERSION, 0];
    // Effective, permitted and inheritable, of the first 32 and of the others.
    let data = [false, true].map(|high| [half(own, high), half(own, high), half(inherited, high)]);
    // SAFETY: the header has two integers and the data six, as this version of the call wants them; both live for as long as it.
    let done = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has a session keyring of its own: whatever keys whoever started the agent had are not a container's.
pub fn own_keys() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: takes two integers; without a name it is a new one.
    let done = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0) };
    match io::Error::last_os_error() {
        // The kernel has no keys, or nobody here may use any.
        error if done < 0 && matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EACCES)) => Ok(()),
        error if done < 0 => Err(error),
        _ => Ok(()),
    }
}

/// Lets this process, and all that comes of it, make no other system calls than a program of the kernel allows.
pub fn filter_calls(instructions: &[u64]) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        length: u16,
        first: *const u64,
    }
    let length = u16::try_from(instructions.len()).map_err(io::Error::other)?;
    let program = Program { length, first: instructions.as_ptr() };
    // SAFETY: the program says how many instructions it has, of eight bytes each, and lives for as long as the call.
    let done =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&program)) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What it executes has these capabilities: not more for being root. Itself it may have `more` until then.
pub fn set_capabilities(set: u64, more: u64) -> io::Result<()> {
    const NO_ROOT_LOCKED: libc::c_ulong = 0b11;
    if nix::unistd::geteuid().is_root() {
        prctl(libc::PR_SET_SECUREBITS, [NO_ROOT_LOCKED, 0, 0, 0])?;
    }
    have_capabilities(set | more, set)?;
    prctl(libc::PR_CAP_AMBIENT, [libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0, 0, 0])?;
    for number in (0..=CAPABILITY_MAX).filter(|number| set & (1 << number) != 0) {
        prctl(libc::PR_CAP_AMBIENT, [libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong, number.into(), 0, 0])?;
    }
    Ok(())
}
