//! Sockets whose other end may vanish without a word: a machine that lost its power, a cable, a firewall that forgot.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

/// A connection on which nothing was heard for so long is asked for a sign of life.
pub const IDLE: Duration = Duration::from_secs(20);
/// Between two such questions.
pub const PROBE: Duration = Duration::from_secs(5);
/// What was sent and not taken for so long ends the connection, and so do questions without an answer. Whoever is alive
/// but reads nothing for so long, while more waits than the kernel holds, is let go as well.
pub const VANISHED: Duration = Duration::from_secs(42);
/// Between two pings on an HTTP/2 connection.
pub const PING: Duration = Duration::from_secs(20);
/// How long the answer to one may take.
pub const PONG: Duration = Duration::from_secs(20);

/// Has the kernel look after a TCP socket, so that the end of a vanished peer is noticed within a minute; and sends small
/// records at once.
pub fn look_after(socket: &impl AsFd) {
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    // Refused by a kernel that does not know them; then the kernel's own patience holds.
    let _ = setsockopt(socket, sockopt::TcpNoDelay, &true);
    let _ = setsockopt(socket, sockopt::KeepAlive, &true);
    let _ = setsockopt(socket, sockopt::TcpKeepIdle, &seconds(IDLE));
    let _ = setsockopt(socket, sockopt::TcpKeepInterval, &seconds(PROBE));
    let vanished_ms = u32::try_from(VANISHED.as_millis()).unwrap_or(u32::MAX);
    let _ = setsockopt(socket, sockopt::TcpUserTimeout, &vanished_ms);
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::getsockopt;

    #[test]
    fn the_kernel_looks_after_a_socket() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        look_after(&socket);
        assert!(getsockopt(&socket, sockopt::KeepAlive).unwrap());
        assert!(getsockopt(&socket, sockopt::TcpNoDelay).unwrap());
        assert_eq!(getsockopt(&socket, sockopt::TcpKeepIdle).unwrap(), 20);
        assert_eq!(getsockopt(&socket, sockopt::TcpKeepInterval).unwrap(), 5);
        assert_eq!(getsockopt(&socket, sockopt::TcpUserTimeout).unwrap(), 42_000);
        // A stream has a heartbeat every 15 s: that is how late the first thing is sent that is not taken.
        assert!(
            VANISHED + Duration::from_secs(15) < Duration::from_secs(60)
                && IDLE + PROBE < VANISHED
                && PING + PONG < VANISHED
        );
    }
}
