//! The listening socket: our own, or one that whoever started us opened (systemd's LISTEN_FDS), so that a restart
//! loses no connection attempt.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd};

/// The first descriptor that is handed over.
const FIRST_FD: i32 = 3;
/// Connections that the kernel holds until they are accepted; it may allow fewer (net.core.somaxconn).
const CONNECTIONS_WAITING_MAX: i32 = 4096;

/// Binds `address`, unless a socket was inherited.
///
/// # Errors
/// One sentence.
pub fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    let listener = match inherited()? {
        Some(listener) => listener,
        None => TcpListener::bind(address).map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => format!("cannot listen on {address}: the port is in use"),
            _ => format!("cannot listen on {address}: {error}"),
        })?,
    };
    // A whole cluster may reconnect at once; the standard library's queue of 128 would turn most of it away.
    nix::sys::socket::Backlog::new(CONNECTIONS_WAITING_MAX)
        .and_then(|backlog| nix::sys::socket::listen(&listener, backlog))
        .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    listener.set_nonblocking(true).map_err(|error| format!("cannot use the listening socket: {error}"))?;
    Ok(listener)
}

fn inherited() -> Result<Option<TcpListener>, String> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let ours = number("LISTEN_PID").is_none_or(|pid| pid == std::process::id());
    if !ours || number("LISTEN_FDS").unwrap_or(0) == 0 {
        return Ok(None);
    }
    nix::fcntl::fcntl(borrowed(), nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))
        .map_err(|error| format!("LISTEN_FDS names no open descriptor: {error}"))?;
    // SAFETY: descriptor 3 is open (checked above) and was given to this process to own; it is taken once, at start,
    // before anything else could have opened a descriptor of that number.
    let socket = unsafe { OwnedFd::from_raw_fd(FIRST_FD) };
    let listener = TcpListener::from(socket);
    listener.local_addr().map_err(|error| format!("the inherited descriptor is no listening socket: {error}"))?;
    Ok(Some(listener))
}

fn borrowed() -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: only handed to fcntl, which answers EBADF if the number is not open.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(FIRST_FD) }
}
