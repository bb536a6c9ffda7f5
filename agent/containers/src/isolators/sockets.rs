//! Sockets that listen for TCP connections in this process's network, as the system lists them, and who has them open.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket};
use nix::sys::time::TimeVal;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST_ALL: u16 = 0x301;
const TCP: u8 = 6;
const LISTEN: u32 = 1 << 10;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER_BYTES: usize = 16;
/// Where the port and the number of the socket are in what describes one, and how long that is.
const PORT_AT: usize = HEADER_BYTES + 4;
const INODE_AT: usize = HEADER_BYTES + 68;
const SOCKET_BYTES: usize = HEADER_BYTES + 72;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// The system answers at once.
const PATIENCE_S: i64 = 5;

/// The port of each socket that listens, by the socket's number.
pub(super) fn listening() -> io::Result<BTreeMap<u64, u16>> {
    let kernel = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    setsockopt(&kernel, ReceiveTimeout, &TimeVal::new(PATIENCE_S, 0))?;
    let mut listening = BTreeMap::new();
    for family in [IPV4, IPV6] {
        send(kernel.as_raw_fd(), &request(family), MsgFlags::empty())?;
        let mut bytes = vec![0; 64 << 10];
        loop {
            let count = recv(kernel.as_raw_fd(), &mut bytes, MsgFlags::empty())?;
            if !read(&bytes[..count], &mut listening)? {
                break;
            }
        }
    }
    Ok(listening)
}

fn request(family: u8) -> [u8; 72] {
    let mut bytes = [0; 72];
    bytes[..4].copy_from_slice(&72u32.to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&REQUEST_ALL.to_ne_bytes());
    (bytes[16], bytes[17]) = (family, TCP);
    bytes[20..24].copy_from_slice(&LISTEN.to_ne_bytes());
    bytes
}

/// Reads some of an answer: whether more is to come.
fn read(mut bytes: &[u8], listening: &mut BTreeMap<u64, u16>) -> io::Result<bool> {
    let number = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).and_then(|four| Some(u32::from_ne_bytes(four.try_into().ok()?)))
    };
    while let Some(length) = number(bytes, 0) {
        let length = length as usize;
        let message = bytes.get(..length).filter(|message| message.len() >= HEADER_BYTES);
        let message = message.ok_or_else(|| io::Error::other("the system's list of sockets is cut off"))?;
        match u16::from_ne_bytes([message[4], message[5]]) {
            DONE => return Ok(false),
            ERROR => {
                let errno = number(message, HEADER_BYTES).unwrap_or(0).cast_signed();
                return Err(io::Error::from_raw_os_error(-errno));
            }
            SOCK_DIAG_BY_FAMILY if message.len() >= SOCKET_BYTES => {
                let port = u16::from_be_bytes([message[PORT_AT], message[PORT_AT + 1]]);
                let inode = number(message, INODE_AT).unwrap_or(0);
                // One that nobody has yet has no number.
                if inode != 0 {
                    listening.insert(inode.into(), port);
                }
            }
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

/// The numbers of the sockets that a process has open; none if it is gone, or cannot be looked at.
pub(super) fn of_process(pid: u32) -> impl Iterator<Item = u64> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.filter_map(|file| {
        let target = fs::read_link(file.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}

/// Whether a process is in this process's network: only there the same ports are the same.
pub(super) fn is_here(pid: u32) -> bool {
    let network = |who: &str| fs::read_link(format!("/proc/{who}/ns/net")).ok();
    network("self").is_some_and(|own| network(&pid.to_string()) == Some(own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn who_listens_is_found_by_port_and_process() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // A machine may have no IPv6.
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            let listening = listening().unwrap();
            let own: Vec<u64> = of_process(std::process::id()).collect();
            assert!(own.iter().any(|inode| listening.get(inode) == Some(&port)), "{address}");
            drop(listener);
            assert!(!super::listening().unwrap().values().any(|one| *one == port));
        }
        assert!(is_here(std::process::id()));
        assert_eq!(of_process(0).count(), 0);
    }

    #[test]
    fn an_answer_that_is_cut_off_is_an_error() {
        let mut all = BTreeMap::new();
        assert!(read(&[88, 0, 0, 0, 20, 0], &mut all).is_err());
        assert!(read(&[0; 16], &mut all).is_err());
        assert!(matches!(read(&[], &mut all), Ok(true)));
    }
}
