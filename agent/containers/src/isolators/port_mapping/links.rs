//! Links, addresses and routes of the network that the thread is in.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use crate::netlink::{CREATE, EXCLUSIVE, Message, Netlink, attribute, number, text};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;

/// Attributes of links.
const MAC: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const INFO: u16 = 18;
const STATS: u16 = 23;
const NAMESPACE: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const PEER: u16 = 1;
const UP: u32 = 1;
const LOOPBACK: u32 = 8;
/// Bytes of what stands before the attributes of a link, an address and a route.
const LINK: usize = 16;
const ADDRESS: usize = 8;
const ROUTE: usize = 12;

/// Attributes of addresses and routes.
const ADDRESS_IS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const GATEWAY: u16 = 5;
const ON: u16 = 4;

const INET: u8 = 2;
const MAIN_TABLE: u8 = 254;
const BY_BOOT: u8 = 3;
const UNICAST: u8 = 1;
/// The gateway is there, whatever addresses say.
const ONLINK: u32 = 4;

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(super) name: String,
    pub(super) index: u32,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
    pub(super) is_loopback: bool,
    /// What went through it: received and sent packets, bytes, errors, and what was dropped; in this order.
    pub(super) stats: [u64; 8],
}

fn fixed(index: u32, flags: u32) -> [u8; LINK] {
    let mut fixed = [0; LINK];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..].copy_from_slice(&flags.to_ne_bytes());
    fixed
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    number(bytes, at).map(u32::from_ne_bytes)
}

fn read(answer: &[u8]) -> Option<Link> {
    let attributes = answer.get(LINK..)?;
    let stats = attribute(attributes, STATS).unwrap_or_default();
    Some(Link {
        name: attribute(attributes, NAME).map(text)?,
        index: word(answer, 4)?,
        mac: attribute(attributes, MAC).and_then(|mac| number(mac, 0)).unwrap_or_default(),
        mtu: attribute(attributes, MTU).and_then(|mtu| word(mtu, 0)).unwrap_or_default(),
        is_loopback: word(answer, 8)? & LOOPBACK != 0,
        stats: std::array::from_fn(|n| number(stats, 8 * n).map_or(0, u64::from_ne_bytes)),
    })
}

/// All links.
pub(super) fn all(kernel: &Netlink) -> io::Result<Vec<Link>> {
    Ok(kernel.ask(Message::dump(GET_LINK, &fixed(0, 0)))?.iter().filter_map(|answer| read(answer)).collect())
}

/// One by its name, if it is there.
pub(super) fn find(kernel: &Netlink, name: &str) -> io::Result<Option<Link>> {
    match kernel.ask(Message::new(GET_LINK, 0, &fixed(0, 0)).text(NAME, name)) {
        Ok(answers) => Ok(answers.iter().find_map(|answer| read(answer))),
        Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// One that must be there.
pub(super) fn get(kernel: &Netlink, name: &str) -> io::Result<Link> {
    find(kernel, name)?.ok_or_else(|| io::Error::other(format!("there is no link {name}")))
}

/// Makes two links that are one: what goes into one comes out of the other, which is in another network.
pub(super) fn make_pair(
    kernel: &Netlink,
    name: &str,
    (peer, namespace): (&str, &File),
    (mac, mtu): ([u8; 6], u32),
) -> io::Result<()> {
    let namespace = u32::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?;
    let both = |message: Message| message.with(MAC, &mac).number(MTU, mtu);
    let of_peer = |message: Message| both(message.text(NAME, peer)).number(NAMESPACE, namespace);
    let message = both(Message::new(NEW_LINK, CREATE | EXCLUSIVE, &fixed(0, 0)).text(NAME, name));
    let message = message.nested(INFO, &[], |message| {
        let message = message.text(INFO_KIND, "veth");
        message.nested(INFO_DATA, &[], |message| message.nested(PEER, &fixed(0, 0), of_peer))
    });
    kernel.ask(message).map(drop)
}

/// Gives a link these.
pub(super) fn change(kernel: &Netlink, index: u32, mac: [u8; 6], mtu: u32) -> io::Result<()> {
    kernel.ask(Message::new(NEW_LINK, 0, &fixed(index, 0)).with(MAC, &mac).number(MTU, mtu)).map(drop)
}

/// Lets it carry something.
pub(super) fn raise(kernel: &Netlink, index: u32) -> io::Result<()> {
    kernel.ask(Message::new(NEW_LINK, 0, &fixed(index, UP))).map(drop)
}

/// Takes it away, with the other one if it is of a pair.
pub(super) fn remove(kernel: &Netlink, index: u32) -> io::Result<()> {
    kernel.ask(Message::new(DELETE_LINK, 0, &fixed(index, 0))).map(drop)
}

/// The first address of a link, and how many bits of it are its network's.
pub(super) fn address(kernel: &Netlink, index: u32) -> io::Result<Option<(Ipv4Addr, u8)>> {
    let mut fixed = [0; ADDRESS];
    fixed[0] = INET;
    let answers = kernel.ask(Message::dump(GET_ADDRESS, &fixed))?;
    Ok(answers.iter().find_map(|answer| {
        let is_of = answer.first() == Some(&INET) && word(answer, 4) == Some(index);
        let address: [u8; 4] = number(attribute(answer.get(ADDRESS..)?, ADDRESS_LOCAL)?, 0)?;
        is_of.then_some((Ipv4Addr::from(address), *answer.get(1)?))
    }))
}

/// Gives a link an address.
pub(super) fn add_address(kernel: &Netlink, index: u32, address: Ipv4Addr, bits: u8) -> io::Result<()> {
    let mut fixed = [INET, bits, 0, 0, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&index.to_ne_bytes());
    let message = Message::new(NEW_ADDRESS, CREATE | EXCLUSIVE, &fixed);
    kernel.ask(message.with(ADDRESS_LOCAL, &address.octets()).with(ADDRESS_IS, &address.octets())).map(drop)
}

/// By which link, and whom, all goes that no other route is for.
pub(super) fn default_route(kernel: &Netlink) -> io::Result<Option<(u32, Ipv4Addr)>> {
    let mut fixed = [0; ROUTE];
    fixed[0] = INET;
    let answers = kernel.ask(Message::dump(GET_ROUTE, &fixed))?;
    Ok(answers.iter().find_map(|answer| {
        let (bits, table, kind) = (*answer.get(1)?, *answer.get(4)?, *answer.get(7)?);
        let attributes = answer.get(ROUTE..)?;
        let gateway: [u8; 4] = number(attribute(attributes, GATEWAY)?, 0)?;
        let index = word(attribute(attributes, ON)?, 0)?;
        (bits == 0 && table == MAIN_TABLE && kind == UNICAST).then_some((index, gateway.into()))
    }))
}

/// Makes such a route.
pub(super) fn add_default_route(kernel: &Netlink, index: u32, gateway: Ipv4Addr) -> io::Result<()> {
    let mut fixed = [INET, 0, 0, 0, MAIN_TABLE, BY_BOOT, 0, UNICAST, 0, 0, 0, 0];
    fixed[8..].copy_from_slice(&ONLINK.to_ne_bytes());
    let message = Message::new(NEW_ROUTE, CREATE | EXCLUSIVE, &fixed);
    kernel.ask(message.with(GATEWAY, &gateway.octets()).number(ON, index)).map(drop)
}
