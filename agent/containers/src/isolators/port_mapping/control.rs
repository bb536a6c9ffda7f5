//! What becomes of what goes through links: filters where it arrives, and queues where it leaves.

use std::io;

use api::v1::TrafficControlStatistics;

use super::program::Program;
use crate::netlink::{CREATE, EXCLUSIVE, Message, Netlink, attribute, number, text};

const NEW_QUEUE: u16 = 36;
const GET_QUEUE: u16 = 38;
const NEW_CLASS: u16 = 40;
const NEW_FILTER: u16 = 44;
const DELETE_FILTER: u16 = 45;
const GET_FILTER: u16 = 46;

/// Attributes of all of them.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const STATS: u16 = 7;
/// Bytes of what stands before them.
const FIXED: usize = 20;

/// Handles: of what arrives, of what leaves, and of our queue and its only class.
const ARRIVING: u32 = 0xffff_0000;
const ARRIVING_PARENT: u32 = 0xffff_fff1;
const ROOT: u32 = u32::MAX;
const QUEUE: u32 = 0x0001_0000;
const CLASS: u32 = 0x0001_0001;
/// Each filter has a priority of its own, and is the only one there.
const FILTER: u32 = 1;

/// Options of filters.
const BPF_ACTION: u16 = 1;
const BPF_LENGTH: u16 = 4;
const BPF_PROGRAM: u16 = 5;
const BPF_FLAGS: u16 = 8;
const BPF_DECIDES: u32 = 1;
const ACTION_KIND: u16 = 1;
const ACTION_OPTIONS: u16 = 2;
const MIRRED_TERMS: u16 = 2;
const REDIRECT: u32 = 1;
const MIRROR: u32 = 2;
/// What follows an action: nothing, or what would have been without it.
const STOLEN: u32 = 4;
const GO_ON: u32 = u32::MAX;

/// Options of queues.
const HTB_TERMS: u16 = 1;
const HTB_INIT: u16 = 2;
const HTB_RATE: u16 = 6;
const HTB_CEILING: u16 = 7;
const HTB_VERSION: u32 = 3;
const HTB_RATE_TO_QUANTUM: u32 = 10;
const ETHERNET: u8 = 1;
/// Nanoseconds of what the kernel counts time in here.
const TICK_NS: u64 = 64;

/// Protocols, as Ethernet numbers them.
pub(super) const ALL: u16 = 3;
pub(super) const IP: u16 = 0x0800;
pub(super) const ARP: u16 = 0x0806;

/// What becomes of what a program matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// It leaves by this link, and that is all.
    Redirect(u32),
    /// It leaves by this link as well.
    Mirror(u32),
    /// What the program says.
    AsItSays,
}

/// Where a filter is: it is the only one of a priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) link: u32,
    pub(super) priority: u16,
    pub(super) protocol: u16,
}

fn fixed(link: u32, handle: u32, parent: u32, info: u32) -> [u8; FIXED] {
    let mut fixed = [0; FIXED];
    for (at, value) in [(4, link), (8, handle), (12, parent), (16, info)] {
        fixed[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    fixed
}

/// Priority and protocol, as filters are found by them.
fn info(place: Place) -> u32 {
    u32::from(place.priority) << 16 | u32::from(place.protocol.to_be())
}

fn unless(error: io::Error, is_fine: &[i32]) -> io::Result<()> {
    match error.raw_os_error().is_some_and(|code| is_fine.contains(&code)) {
        true => Ok(()),
        false => Err(error),
    }
}

/// Filters can be where something arrives by this link. They may be already.
pub(super) fn filter_arriving(kernel: &Netlink, link: u32) -> io::Result<()> {
    let message = Message::new(NEW_QUEUE, CREATE | EXCLUSIVE, &fixed(link, ARRIVING, ARRIVING_PARENT, 0));
    let made = kernel.ask(message.text(KIND, "ingress"));
    made.map(drop).or_else(|error| unless(error, &[nix::libc::EEXIST]))
}

/// Puts a filter there, in one step also if there is one.
pub(super) fn put(kernel: &Netlink, place: Place, program: &Program, action: Action) -> io::Result<()> {
    let (length, instructions) = program.encode();
    let terms = |what: u32, then: u32, link: u32| [0, 0, then, 0, 0, what, link].map(u32::to_ne_bytes).concat();
    let terms = match action {
        Action::Redirect(link) => Some(terms(REDIRECT, STOLEN, link)),
        Action::Mirror(link) => Some(terms(MIRROR, GO_ON, link)),
        Action::AsItSays => None,
    };
    let message = Message::new(NEW_FILTER, CREATE, &fixed(place.link, FILTER, ARRIVING, info(place)));
    let message = message.text(KIND, "bpf").nested(OPTIONS, &[], |message| {
        let message = message.with(BPF_LENGTH, &length.to_ne_bytes()).with(BPF_PROGRAM, &instructions);
        match terms {
            None => message.number(BPF_FLAGS, BPF_DECIDES),
            Some(terms) => message.nested(BPF_ACTION, &[], |message| {
                message.nested(1, &[], |message| {
                    let message = message.text(ACTION_KIND, "mirred");
                    message.nested(ACTION_OPTIONS, &[], |message| message.with(MIRRED_TERMS, &terms))
                })
            }),
        }
    });
    kernel.ask(message).map(drop)
}

/// Takes away what is at a place, if anything is.
pub(super) fn remove(kernel: &Netlink, place: Place) -> io::Result<()> {
    let removed = kernel.ask(Message::new(DELETE_FILTER, 0, &fixed(place.link, 0, ARRIVING, info(place))));
    // Of another protocol it is not ours.
    let is_fine = [nix::libc::ENOENT, nix::libc::EINVAL, nix::libc::ENODEV];
    removed.map(drop).or_else(|error| unless(error, &is_fine))
}

/// Where filters are of what arrives by a link.
pub(super) fn places(kernel: &Netlink, link: u32) -> io::Result<Vec<Place>> {
    let answers = kernel.ask(Message::dump(GET_FILTER, &fixed(link, 0, ARRIVING, 0)))?;
    let mut places: Vec<Place> = Vec::new();
    for answer in answers {
        let Some(info) = number(&answer, 16).map(u32::from_ne_bytes) else { continue };
        let place = Place { link, priority: (info >> 16) as u16, protocol: u16::from_be(info as u16) };
        if !places.contains(&place) {
            places.push(place);
        }
    }
    Ok(places)
}

/// What leaves by a link does so at no more than this rate, in bytes per second, one flow not at the cost of the others if the
/// kernel can do that.
pub(super) fn limit(kernel: &Netlink, link: u32, rate: u64, mtu: u32) -> io::Result<()> {
    let begin = [HTB_VERSION, HTB_RATE_TO_QUANTUM, CLASS & 0xffff, 0, 0].map(u32::to_ne_bytes).concat();
    let message = Message::new(NEW_QUEUE, CREATE | EXCLUSIVE, &fixed(link, QUEUE, ROOT, 0));
    kernel.ask(message.text(KIND, "htb").nested(OPTIONS, &[], |message| message.with(HTB_INIT, &begin)))?;
    let message = Message::new(NEW_CLASS, CREATE | EXCLUSIVE, &fixed(link, CLASS, QUEUE, 0));
    kernel.ask(message.text(KIND, "htb").nested(OPTIONS, &[], |message| {
        let message = message.with(HTB_TERMS, &terms(rate, mtu));
        // Beyond what 32 bits can say.
        match u32::try_from(rate) {
            Ok(_) => message,
            Err(_) => message.with(HTB_RATE, &rate.to_ne_bytes()).with(HTB_CEILING, &rate.to_ne_bytes()),
        }
    }))?;
    let message = Message::new(NEW_QUEUE, CREATE | EXCLUSIVE, &fixed(link, 0, CLASS, 0));
    let made = kernel.ask(message.text(KIND, "fq_codel"));
    made.map(drop).or_else(|error| unless(error, &[nix::libc::ENOENT]))
}

/// How the kernel is told of a rate: with how much may go at once, as the time that it takes.
fn terms(rate: u64, mtu: u32) -> Vec<u8> {
    let spec = [&[0, ETHERNET, 0, 0, 0, 0, 0, 0][..], &u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes()].concat();
    let burst_bytes = rate / 1000 + u64::from(mtu) + 100;
    let ticks = burst_bytes.saturating_mul(1_000_000_000) / rate.max(1) / TICK_NS;
    let ticks = u32::try_from(ticks).unwrap_or(u32::MAX).max(1);
    let quantum = u32::try_from((rate / 10).clamp(u64::from(mtu), 200_000)).unwrap_or(u32::MAX);
    let rest = [ticks, ticks, quantum, 0, 0].map(u32::to_ne_bytes).concat();
    [&spec[..], &spec, &rest].concat()
}

/// The rate that was set for a link, if one was, with what came of it: of the queue, and of what keeps it short.
pub(super) fn queues(kernel: &Netlink, link: u32) -> io::Result<Vec<TrafficControlStatistics>> {
    let answers = kernel.ask(Message::dump(GET_QUEUE, &fixed(link, 0, 0, 0)))?;
    let one = |answer: &Vec<u8>| {
        let word = |at| number(answer, at).map(u32::from_ne_bytes);
        let attributes = answer.get(FIXED..)?;
        let kind = attribute(attributes, KIND).map(text)?;
        let id = match (kind.as_str(), word(12)?) {
            _ if word(4)? != link => return None,
            ("htb", ROOT) => "bw_limit",
            ("fq_codel", CLASS) => "bloat_reduction",
            _ => return None,
        };
        Some(counted(id, attribute(attributes, STATS)?))
    };
    Ok(answers.iter().filter_map(one).collect())
}

fn counted(id: &str, stats: &[u8]) -> TrafficControlStatistics {
    const BASIC: u16 = 1;
    const OF_QUEUE: u16 = 3;
    let (basic, queue) = (attribute(stats, BASIC), attribute(stats, OF_QUEUE));
    let of_queue = |n: usize| queue.and_then(|queue| number(queue, 4 * n)).map(|word| u32::from_ne_bytes(word).into());
    TrafficControlStatistics {
        id: id.to_owned(),
        bytes: basic.and_then(|basic| number(basic, 0)).map(u64::from_ne_bytes),
        packets: basic.and_then(|basic| number(basic, 8)).map(|word| u32::from_ne_bytes(word).into()),
        qlen: of_queue(0),
        backlog: of_queue(1),
        drops: of_queue(2),
        requeues: of_queue(3),
        overlimits: of_queue(4),
        // Nobody estimates them.
        ratebps: Some(0),
        ratepps: Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_told_with_what_may_go_at_once() {
        let terms = terms(125_000, 1500);
        let word = |at| number(&terms, at).map(u32::from_ne_bytes).unwrap();
        assert_eq!((terms.len(), word(8), word(20)), (44, 125_000, 125_000));
        // 1725 bytes take 13.8 ms.
        assert_eq!((word(24), word(32)), (215_625, 12_500));
    }
}
