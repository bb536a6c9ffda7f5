//! Netlink: how the kernel is told about networks, and asked. Messages are numbers at fixed places, and attributes that say what they
//! are and how long; all of them in the byte order of the machine, unless the kernel says otherwise.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};

/// Flags of a request.
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
/// Makes what is not there; what is there is replaced.
pub(crate) const CREATE: u16 = 0x400;
/// What is there already is an error.
pub(crate) const EXCLUSIVE: u16 = 0x200;

/// Kinds of answers.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Bytes of what a message, and an attribute, begins with.
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;
/// An attribute that has others in it says so.
const NESTED: u16 = 0x8000;
/// Bits of what an attribute is.
const KIND: u16 = 0x3fff;
/// The kernel answers in pieces of no more than half of this.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// A request.
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// Of a kind, with what stands before its attributes.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Message {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        Message(bytes).aligned()
    }

    /// The same that asks for all there is of something.
    pub(crate) fn dump(kind: u16, fixed: &[u8]) -> Message {
        Message::new(kind, DUMP, fixed)
    }

    fn aligned(mut self) -> Message {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// With an attribute.
    pub(crate) fn with(mut self, kind: u16, value: &[u8]) -> Message {
        let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.aligned()
    }

    /// With a number of 32 bits.
    pub(crate) fn number(self, kind: u16, value: u32) -> Message {
        self.with(kind, &value.to_ne_bytes())
    }

    /// With a text, which ends with a nought.
    pub(crate) fn text(self, kind: u16, value: &str) -> Message {
        self.with(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// With an attribute that has others in it, behind `fixed`.
    pub(crate) fn nested(mut self, kind: u16, fixed: &[u8], within: impl FnOnce(Message) -> Message) -> Message {
        let at = self.0.len();
        self = self.with(kind | NESTED, fixed);
        self = within(self);
        let length = u16::try_from(self.0.len() - at).unwrap_or(u16::MAX);
        self.0[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    fn flags(&self) -> u16 {
        number(&self.0, 6).map_or(0, u16::from_ne_bytes)
    }
}

/// Somebody to talk to, in the network that the thread was in which opened it.
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    /// For links, addresses, routes, queues and filters.
    pub(crate) fn route() -> io::Result<Netlink> {
        Netlink::open(SockProtocol::NetlinkRoute)
    }

    /// For sockets that are open.
    pub(crate) fn sockets() -> io::Result<Netlink> {
        Netlink::open(SockProtocol::NetlinkSockDiag)
    }

    fn open(protocol: SockProtocol) -> io::Result<Netlink> {
        Ok(Netlink(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?))
    }

    /// Asks, and gets all that comes before the end of the answer: of each message what stands behind its header.
    pub(crate) fn ask(&self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        let is_dump = message.flags() & DUMP == DUMP;
        let mut bytes = message.0;
        if !is_dump {
            let flags = number(&bytes, 6).map_or(0, u16::from_ne_bytes) | ACK;
            bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        }
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        sendto(self.0.as_raw_fd(), &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let (mut answers, mut buffer) = (Vec::new(), vec![0; ANSWER_BYTES_MAX]);
        loop {
            let got = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..got];
            while let Some((kind, body, after)) = first(rest) {
                match kind {
                    DONE => return Ok(answers),
                    ERROR => {
                        return match number(body, 0).map_or(0, i32::from_ne_bytes) {
                            0 => Ok(answers),
                            code => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    _ => answers.push(body.to_vec()),
                }
                rest = after;
            }
        }
    }
}

/// The first of several messages: its kind, what it says, and the others.
fn first(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = number(bytes, 0).map(u32::from_ne_bytes)? as usize;
    let kind = number(bytes, 4).map(u16::from_ne_bytes)?;
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The bytes of a number, if there are as many.
pub(crate) fn number<const SIZE: usize>(bytes: &[u8], at: usize) -> Option<[u8; SIZE]> {
    bytes.get(at..at.checked_add(SIZE)?)?.try_into().ok()
}

/// The attribute of a kind.
pub(crate) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = bytes;
    loop {
        let length = usize::from(number(rest, 0).map(u16::from_ne_bytes)?);
        let kind = number(rest, 2).map(u16::from_ne_bytes)? & KIND;
        let value = rest.get(ATTRIBUTE..length)?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

/// A text in an attribute.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_again() {
        let message = Message::new(1, CREATE, &[7; 6])
            .text(3, "lo")
            .nested(5, &[9; 4], |message| message.number(1, 0x0102_0304).with(2, &[1, 2, 3]))
            .number(6, 8);
        let attributes = &message.0[HEADER + 8..];
        assert_eq!(attribute(attributes, 3).map(text).as_deref(), Some("lo"));
        let nested = attribute(attributes, 5).unwrap();
        assert_eq!(nested[..4], [9; 4]);
        assert_eq!(attribute(&nested[4..], 2), Some(&[1, 2, 3][..]));
        assert_eq!(
            attribute(&nested[4..], 1).and_then(|value| number(value, 0)).map(u32::from_ne_bytes),
            Some(0x0102_0304)
        );
        assert_eq!(attribute(attributes, 6).map(<[u8]>::len), Some(4));
        assert_eq!(attribute(attributes, 7), None);
        for broken in [&[][..], &[1], &[0, 0, 3, 0], &[255, 255, 3, 0, 1]] {
            assert_eq!(attribute(broken, 3), None, "{broken:?}");
            assert!(first(broken).is_none(), "{broken:?}");
        }
    }

    #[test]
    fn the_kernel_answers() {
        // Of any address family: all links.
        const GET_LINK: u16 = 18;
        let links = Netlink::route().and_then(|kernel| kernel.ask(Message::dump(GET_LINK, &[0; 16]))).unwrap();
        let names: Vec<String> = links.iter().filter_map(|link| attribute(link.get(16..)?, 3).map(text)).collect();
        assert!(names.iter().any(|name| name == "lo"), "{names:?}");
    }
}
