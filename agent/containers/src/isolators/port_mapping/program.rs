//! What filters look at: programs of the kernel's first packet filter, put together instruction by instruction, for frames of
//! Ethernet. Each condition that does not hold ends them, so all jumps are short. Pure.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

/// Ranges of ports that one program has, at most: the kernel takes 4096 instructions.
pub(super) const RANGES_MAX: usize = 1000;

/// It matches, it does not, and what is looked at is to be dropped.
const YES: u32 = u32::MAX;
const NO: u32 = 0;
const DROP: u32 = 2;

/// Operations.
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF_BEHIND: u16 = 0x48;
const LOAD_BYTE_BEHIND: u16 = 0x50;
const BEHIND_HEADER: u16 = 0xb1;
const AND: u16 = 0x54;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_NOT_LESS: u16 = 0x35;
const IF_ANY: u16 = 0x45;
const RETURN: u16 = 0x06;

/// Places in a frame, in bytes.
const MAC_TO: u32 = 0;
const MAC_FROM: u32 = 6;
const IP: u32 = 14;
const FRAGMENT: u32 = IP + 6;
const PROTOCOL: u32 = IP + 9;
const FROM: u32 = IP + 12;
const TO: u32 = IP + 16;
const ARP_OPERATION: u32 = IP + 6;
const ARP_MAC: u32 = IP + 8;
const ARP_FROM: u32 = IP + 14;
/// And behind the header of IP, however long that is.
const PORT_FROM: u32 = IP;
const PORT_TO: u32 = IP + 2;
const ICMP_TYPE: u32 = IP;

const ICMP: u32 = 1;
const TCP: u32 = 6;
const UDP: u32 = 17;
const ICMP_ECHO: u32 = 8;
const ARP_REPLY: u32 = 2;
/// All fragments but the first of a packet have some of these bits.
const LATER_FRAGMENTS: u32 = 0x1fff;

/// Who is who.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    /// The address that the machine and its containers have.
    pub(super) address: Ipv4Addr,
    /// The same of Ethernet.
    pub(super) mac: [u8; 6],
}

/// A port to look at.
#[derive(Clone, Copy)]
enum End {
    From,
    To,
}

/// A program that is being written.
#[derive(Clone, Debug, Default)]
pub(super) struct Program(Vec<(u16, u8, u8, u32)>);

/// Ports, each range by its ends.
pub(super) type Ports = [RangeInclusive<u16>];

impl Program {
    fn then(mut self, steps: &[(u16, u8, u8, u32)]) -> Program {
        self.0.extend_from_slice(steps);
        self
    }

    fn load(self, width: u16, at: u32) -> Program {
        self.then(&[(width, 0, 0, at)])
    }

    /// Ends unless what was loaded is this.
    fn is(self, value: u32) -> Program {
        self.then(&[(IF_EQUAL, 1, 0, value), (RETURN, 0, 0, NO)])
    }

    fn other_than(self, value: u32) -> Program {
        self.then(&[(IF_EQUAL, 0, 1, value), (RETURN, 0, 0, NO)])
    }

    fn mac(self, at: u32, mac: [u8; 6]) -> Program {
        let [a, b, c, d, e, f] = mac;
        self.load(LOAD_WORD, at)
            .is(u32::from_be_bytes([a, b, c, d]))
            .load(LOAD_HALF, at + 4)
            .is(u32::from_be_bytes([0, 0, e, f]))
    }

    fn address(self, at: u32, address: Ipv4Addr) -> Program {
        self.load(LOAD_WORD, at).is(address.to_bits())
    }

    /// It is the machine's address, or one that stands for whoever looks.
    fn here(self, at: u32, address: Ipv4Addr) -> Program {
        self.load(LOAD_WORD, at).then(&[
            (IF_EQUAL, 3, 0, address.to_bits()),
            (AND, 0, 0, 0xff00_0000),
            (IF_EQUAL, 1, 0, 0x7f00_0000),
            (RETURN, 0, 0, NO),
        ])
    }

    fn loopback(self, at: u32) -> Program {
        self.load(LOAD_WORD, at).then(&[(AND, 0, 0, 0xff00_0000)]).is(0x7f00_0000)
    }

    /// Something with ports, and the beginning of it. What follows may look behind the header.
    fn has_ports(self) -> Program {
        self.load(LOAD_BYTE, PROTOCOL).then(&[(IF_EQUAL, 2, 0, TCP), (IF_EQUAL, 1, 0, UDP), (RETURN, 0, 0, NO)]).whole()
    }

    fn whole(self) -> Program {
        self.load(LOAD_HALF, FRAGMENT).then(&[
            (IF_ANY, 0, 1, LATER_FRAGMENTS),
            (RETURN, 0, 0, NO),
            (BEHIND_HEADER, 0, 0, IP),
        ])
    }

    /// The last of it: whether a port is one of these, or none of them.
    fn port(self, end: End, ports: &Ports, wanted: bool) -> Program {
        let at = match end {
            End::From => PORT_FROM,
            End::To => PORT_TO,
        };
        let (found, not_found) = if wanted { (YES, NO) } else { (NO, YES) };
        let program = self.has_ports().load(LOAD_HALF_BEHIND, at);
        let of_range = |program: Program, range: &RangeInclusive<u16>| {
            program.then(&[
                (IF_NOT_LESS, 0, 2, u32::from(*range.start())),
                (IF_GREATER, 1, 0, u32::from(*range.end())),
                (RETURN, 0, 0, found),
            ])
        };
        ports.iter().fold(program, of_range).then(&[(RETURN, 0, 0, not_found)])
    }

    fn yes(self) -> Program {
        self.then(&[(RETURN, 0, 0, YES)])
    }

    /// How many instructions it has, and these as the kernel takes them.
    pub(super) fn encode(&self) -> (u16, Vec<u8>) {
        let one = |(code, yes, no, k): &(u16, u8, u8, u32)| {
            [&code.to_ne_bytes()[..], &[*yes, *no], &k.to_ne_bytes()].concat()
        };
        (u16::try_from(self.0.len()).unwrap_or(u16::MAX), self.0.iter().flat_map(one).collect())
    }
}

/// From the network to a container: to its ports at the machine's address.
pub(super) fn arriving(own: Own, ports: &Ports) -> Program {
    Program::default().mac(MAC_TO, own.mac).address(TO, own.address).port(End::To, ports, true)
}

/// From the network to all: what answers to an echo, or tells of an error. An echo itself the machine answers.
pub(super) fn icmp_arriving(own: Own) -> Program {
    Program::default()
        .load(LOAD_BYTE, PROTOCOL)
        .is(ICMP)
        .address(TO, own.address)
        .whole()
        .load(LOAD_BYTE_BEHIND, ICMP_TYPE)
        .other_than(ICMP_ECHO)
        .yes()
}

/// From the network to all: who has an address that was asked for. Who asks the machine answers.
pub(super) fn arp_arriving() -> Program {
    Program::default().load(LOAD_HALF, ARP_OPERATION).is(ARP_REPLY).yes()
}

/// From whoever is on the machine to a container.
pub(super) fn local(own: Own, ports: &Ports) -> Program {
    Program::default().here(TO, own.address).port(End::To, ports, true)
}

/// From a container to whoever is on the machine.
pub(super) fn leaving_locally(own: Own, ports: &Ports) -> Program {
    Program::default().here(FROM, own.address).here(TO, own.address).port(End::From, ports, true)
}

/// From a container to the network, as the machine and as nobody else.
pub(super) fn leaving(own: Own, ports: &Ports) -> Program {
    Program::default().mac(MAC_FROM, own.mac).address(FROM, own.address).port(End::From, ports, true)
}

/// The same of ICMP.
pub(super) fn icmp_leaving(own: Own) -> Program {
    let begun = Program::default().load(LOAD_BYTE, PROTOCOL).is(ICMP).mac(MAC_FROM, own.mac);
    begun.address(FROM, own.address).load(LOAD_WORD, TO).other_than(own.address.to_bits()).yes()
}

/// Who has the address that a container sends to, asked by the machine and by nobody else.
pub(super) fn arp_leaving(own: Own) -> Program {
    Program::default().mac(MAC_FROM, own.mac).mac(ARP_MAC, own.mac).address(ARP_FROM, own.address).yes()
}

/// Whatever is left.
pub(super) fn rest() -> Program {
    Program::default().then(&[(RETURN, 0, 0, DROP)])
}

/// Within a container, from it to the machine: all but what is for itself.
pub(super) fn outwards(own: Own, ports: &Ports) -> Program {
    Program::default().here(TO, own.address).port(End::To, ports, false)
}

/// Within a container, from its link to its loopback.
pub(super) fn inwards(ports: &Ports) -> Program {
    Program::default().loopback(TO).port(End::To, ports, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Own = Own { address: Ipv4Addr::new(10, 0, 0, 7), mac: [2, 3, 4, 5, 6, 7] };

    /// As the kernel runs it: what is behind the end of a frame is never so.
    fn run(program: &Program, frame: &[u8]) -> u32 {
        let get = |at: usize, size: usize| {
            let bytes = frame.get(at..at + size)?;
            Some(bytes.iter().fold(0_u32, |value, byte| value << 8 | u32::from(*byte)))
        };
        let (mut accumulator, mut index, mut at) = (0_u32, 0_usize, 0);
        loop {
            let (code, yes, no, k) = program.0[at];
            at += 1;
            let place = k as usize;
            let loaded = match code {
                LOAD_WORD => get(place, 4),
                LOAD_HALF => get(place, 2),
                LOAD_BYTE => get(place, 1),
                LOAD_HALF_BEHIND => get(index + place, 2),
                LOAD_BYTE_BEHIND => get(index + place, 1),
                BEHIND_HEADER => get(place, 1).map(|byte| {
                    index = 4 * (byte as usize & 0xf);
                    accumulator
                }),
                AND => Some(accumulator & k),
                RETURN => return k,
                _ => {
                    let is = match code {
                        IF_EQUAL => accumulator == k,
                        IF_GREATER => accumulator > k,
                        IF_NOT_LESS => accumulator >= k,
                        IF_ANY => accumulator & k != 0,
                        _ => panic!("{code:#x}"),
                    };
                    at += usize::from(if is { yes } else { no });
                    continue;
                }
            };
            match loaded {
                Some(value) => accumulator = value,
                None => return NO,
            }
        }
    }

    struct Packet {
        from: [u8; 4],
        to: [u8; 4],
        mac_from: [u8; 6],
        protocol: u8,
        options: usize,
        fragment: u16,
        ports: (u16, u16),
    }

    const PLAIN: Packet = Packet {
        from: [10, 0, 0, 7],
        to: [10, 0, 0, 9],
        mac_from: OWN.mac,
        protocol: 6,
        options: 0,
        fragment: 0,
        ports: (31000, 80),
    };

    fn frame(packet: &Packet) -> Vec<u8> {
        let words = 5 + packet.options;
        let mut frame = [&OWN.mac[..], &packet.mac_from, &[8, 0]].concat();
        frame.extend([0x40 | words as u8, 0, 0, 60, 0, 1]);
        frame.extend(packet.fragment.to_be_bytes());
        frame.extend([64, packet.protocol, 0, 0]);
        frame.extend(packet.from);
        frame.extend(packet.to);
        frame.extend(vec![1; 4 * packet.options]);
        frame.extend(packet.ports.0.to_be_bytes());
        frame.extend(packet.ports.1.to_be_bytes());
        frame.extend([0; 16]);
        frame
    }

    #[test]
    fn what_leaves_a_container_is_its_own() {
        let ports = [31000..=31000, 31005..=31007, 32768..=33791];
        let leaves = |packet: Packet| run(&leaving(OWN, &ports), &frame(&packet)) == YES;
        for port in [31000, 31005, 31006, 31007, 32768, 33791] {
            assert!(leaves(Packet { ports: (port, 80), ..PLAIN }), "{port}");
        }
        for port in [0, 30999, 31001, 31004, 31008, 32767, 33792, 65535] {
            assert!(!leaves(Packet { ports: (port, 31000), ..PLAIN }), "{port}");
        }
        assert!(leaves(Packet { options: 10, ..PLAIN }), "its ports are behind the options");
        assert!(leaves(Packet { protocol: 17, ..PLAIN }));
        assert!(leaves(Packet { fragment: 0x2000, ..PLAIN }), "the first of several");
        assert!(!leaves(Packet { fragment: 0x2001, ..PLAIN }), "a later one has no ports");
        assert!(!leaves(Packet { protocol: 47, ..PLAIN }));
        assert!(!leaves(Packet { from: [10, 0, 0, 8], ..PLAIN }), "it says that it is somebody else");
        assert!(!leaves(Packet { mac_from: [9; 6], ..PLAIN }));
        assert_eq!(run(&leaving(OWN, &ports), &frame(&PLAIN)[..30]), NO, "it ends too early");
        let echo = Packet { protocol: 1, ..PLAIN };
        assert_eq!(run(&icmp_leaving(OWN), &frame(&echo)), YES);
        assert_eq!(run(&icmp_leaving(OWN), &frame(&Packet { from: [1; 4], ..echo })), NO);
        assert_eq!(run(&rest(), &[]), DROP);
    }

    #[test]
    fn what_is_for_a_container_finds_it() {
        let ports = [31000..=31000, 32768..=33791];
        let to = |address: [u8; 4], port| Packet { to: address, ports: (5, port), from: [1, 2, 3, 4], ..PLAIN };
        let (own, loopback) = ([10, 0, 0, 7], [127, 0, 0, 53]);
        assert_eq!(run(&arriving(OWN, &ports), &frame(&to(own, 31000))), YES);
        assert_eq!(run(&arriving(OWN, &ports), &frame(&to(own, 31001))), NO);
        assert_eq!(run(&arriving(OWN, &ports), &frame(&to([10, 0, 0, 8], 31000))), NO);
        for address in [own, loopback] {
            assert_eq!(run(&local(OWN, &ports), &frame(&to(address, 33000))), YES);
            assert_eq!(run(&local(OWN, &ports), &frame(&to(address, 22))), NO);
            assert_eq!(run(&outwards(OWN, &ports), &frame(&to(address, 33000))), NO);
            assert_eq!(run(&outwards(OWN, &ports), &frame(&to(address, 22))), YES);
        }
        assert_eq!(run(&local(OWN, &ports), &frame(&to([10, 0, 0, 8], 33000))), NO);
        assert_eq!(run(&outwards(OWN, &ports), &frame(&to([10, 0, 0, 8], 22))), NO);
        assert_eq!(run(&outwards(OWN, &ports), &frame(&Packet { protocol: 1, ..to(own, 22) })), NO);
        assert_eq!(run(&inwards(&ports), &frame(&to(loopback, 31000))), YES);
        assert_eq!(run(&inwards(&ports), &frame(&to(own, 31000))), NO);
        assert_eq!(run(&leaving_locally(OWN, &ports), &frame(&Packet { to: loopback, ..PLAIN })), YES);
        assert_eq!(run(&leaving_locally(OWN, &ports), &frame(&PLAIN)), NO);
        let icmp = |kind: u8| Packet { protocol: 1, ports: (u16::from(kind) << 8, 0), ..to(own, 0) };
        assert_eq!(run(&icmp_arriving(OWN), &frame(&icmp(0))), YES);
        assert_eq!(run(&icmp_arriving(OWN), &frame(&icmp(3))), YES);
        assert_eq!(run(&icmp_arriving(OWN), &frame(&icmp(8))), NO, "the machine answers");
    }

    #[test]
    fn a_container_asks_for_addresses_as_the_machine_only() {
        let arp = |mac: [u8; 6], address: [u8; 4], operation: u8| {
            let begun = [&[255; 6][..], &OWN.mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]].concat();
            [&begun[..], &mac, &address, &[0; 6], &[10, 0, 0, 1]].concat()
        };
        assert_eq!(run(&arp_leaving(OWN), &arp(OWN.mac, [10, 0, 0, 7], 1)), YES);
        assert_eq!(run(&arp_leaving(OWN), &arp(OWN.mac, [10, 0, 0, 1], 2)), NO, "it says that it is the gateway");
        assert_eq!(run(&arp_leaving(OWN), &arp([9; 6], [10, 0, 0, 7], 1)), NO);
        assert_eq!(run(&arp_arriving(), &arp([9; 6], [10, 0, 0, 1], 2)), YES);
        assert_eq!(run(&arp_arriving(), &arp([9; 6], [10, 0, 0, 1], 1)), NO);
    }

    #[test]
    fn many_ranges_fit() {
        let ports: Vec<RangeInclusive<u16>> = (0..RANGES_MAX as u16).map(|n| 10_000 + 2 * n..=10_000 + 2 * n).collect();
        let program = arriving(OWN, &ports);
        assert!(program.encode().0 < 4096);
        let to = |port| frame(&Packet { to: [10, 0, 0, 7], ports: (5, port), ..PLAIN });
        assert_eq!((run(&program, &to(11_998)), run(&program, &to(11_999))), (YES, NO));
    }
}
