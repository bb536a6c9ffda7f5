//! Ports of loopback that the kernel gives.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, sockopt};

/// A port that nobody else is given while this is held: a bound socket that does not listen keeps it, and a daemon
/// binds beside it.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) address: SocketAddr,
    _held: OwnedFd,
}

impl Port {
    pub(crate) fn reserve() -> io::Result<Self> {
        let held = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        socket::bind(held.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0))?;
        // After bind: the kernel picked a port that nobody holds, and shares it only from now on.
        socket::setsockopt(&held, sockopt::ReuseAddr, &true)?;
        let bound: SockaddrIn = socket::getsockname(held.as_raw_fd())?;
        Ok(Self { address: SocketAddr::from((bound.ip(), bound.port())), _held: held })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_daemon_binds_beside_what_holds_the_port() {
        let port = super::Port::reserve().expect("a port");
        let refused = std::net::TcpStream::connect(port.address).expect_err("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        std::net::TcpListener::bind(port.address).expect("std sets SO_REUSEADDR, as daemons do");
    }
}
