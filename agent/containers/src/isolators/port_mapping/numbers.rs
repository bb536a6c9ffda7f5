//! What a network of a container counts, as whoever is in it sees it.

use std::io;

use api::v1::SnmpStatistics;
use serde_json::{Map, Value};

use super::PortMappingSettings;
use super::control;
use super::links;
use crate::container::Usage;
use crate::netlink::{Message, Netlink, attribute, number};

const BY_FAMILY: u16 = 20;
const INET: u8 = 2;
const TCP: u8 = 6;
/// What is told of a socket, and where the round trip is in it, in bytes.
const INFO: u16 = 2;
const ROUND_TRIP: usize = 68;
const OF_SOCKET: usize = 72;

/// Adds what is wanted of it. For a thread in that network.
pub(super) fn add(settings: &PortMappingSettings, eth0: &str, usage: &mut Usage) -> io::Result<()> {
    if settings.with_sockets {
        let table = std::fs::read_to_string("/proc/thread-self/net/sockstat")?;
        usage.net_tcp_active_connections = of_tcp(&table, "inuse");
        usage.net_tcp_time_wait_connections = of_tcp(&table, "tw");
    }
    if settings.with_round_trips {
        let all = round_trips()?;
        let percentile = |part: usize| all.get(all.len() * part / 100).map(|one| f64::from(*one));
        usage.net_tcp_rtt_microsecs_p50 = percentile(50);
        usage.net_tcp_rtt_microsecs_p90 = percentile(90);
        usage.net_tcp_rtt_microsecs_p95 = percentile(95);
        usage.net_tcp_rtt_microsecs_p99 = percentile(99);
    }
    if settings.with_snmp {
        usage.net_snmp_statistics = Some(snmp(&std::fs::read_to_string("/proc/thread-self/net/snmp")?));
    }
    let kernel = Netlink::route()?;
    if let Some(link) = links::find(&kernel, eth0)? {
        usage.net_traffic_control_statistics = control::queues(&kernel, link.index)?;
    }
    Ok(())
}

/// A number of the line of TCP, by the word before it.
fn of_tcp(table: &str, word: &str) -> Option<f64> {
    let mut words = table.lines().find_map(|line| line.strip_prefix("TCP:"))?.split_whitespace();
    words.find(|one| *one == word)?;
    words.next()?.parse().ok()
}

/// Microseconds of all connections that have measured it, in order.
fn round_trips() -> io::Result<Vec<u32>> {
    let mut fixed = [0; 56];
    fixed[..3].copy_from_slice(&[INET, TCP, 1 << (INFO - 1)]);
    fixed[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    let answers = Netlink::sockets()?.ask(Message::dump(BY_FAMILY, &fixed))?;
    let of_socket = |answer: &Vec<u8>| {
        let info = attribute(answer.get(OF_SOCKET..)?, INFO)?;
        number(info, ROUND_TRIP).map(u32::from_ne_bytes).filter(|micros| *micros != 0)
    };
    let mut all: Vec<u32> = answers.iter().filter_map(of_socket).collect();
    all.sort_unstable();
    Ok(all)
}

/// Two lines of each protocol: names, and numbers.
fn snmp(table: &str) -> SnmpStatistics {
    let lines: Vec<&str> = table.lines().collect();
    let mut all = Map::new();
    for pair in lines.chunks_exact(2) {
        let [Some((name, names)), Some((_, numbers))] = [pair[0], pair[1]].map(|line| line.split_once(':')) else {
            continue;
        };
        let field = match name {
            "Ip" => "ip_stats",
            "Icmp" => "icmp_stats",
            "Tcp" => "tcp_stats",
            "Udp" => "udp_stats",
            _ => continue,
        };
        let numbers = numbers.split_whitespace().map(|number| number.parse::<i64>().map_or(Value::Null, Value::from));
        let counted: Map<String, Value> = names.split_whitespace().map(str::to_owned).zip(numbers).collect();
        all.insert(field.to_owned(), counted.into());
    }
    api::json::from_slice(Value::from(all).to_string().as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_the_kernel_are_read() {
        let sockets = "sockets: used 3\nTCP: inuse 33 orphan 0 tw 7 alloc 37 mem 6\nUDP: inuse 15 mem 7\n";
        assert_eq!((of_tcp(sockets, "inuse"), of_tcp(sockets, "tw")), (Some(33.0), Some(7.0)));
        assert_eq!((of_tcp(sockets, "none"), of_tcp("", "tw")), (None, None));
        let table = "Ip: Forwarding DefaultTTL InReceives Novel\nIp: 2 64 9 1\nIcmpMsg: InType3\nIcmpMsg: 1\n\
                     Tcp: RtoMin MaxConn RetransSegs\nTcp: 200 -1 5\nUdp: InDatagrams\nUdp: 4\n";
        let read = snmp(table);
        assert_eq!(read.ip_stats.as_ref().and_then(|ip| ip.default_ttl), Some(64));
        assert_eq!(read.tcp_stats.as_ref().and_then(|tcp| tcp.max_conn), Some(-1));
        assert_eq!(read.tcp_stats.as_ref().and_then(|tcp| tcp.retrans_segs), Some(5));
        assert_eq!(read.udp_stats.as_ref().and_then(|udp| udp.in_datagrams), Some(4));
        assert_eq!(read.icmp_stats, None);
        assert_eq!(snmp("Ip: 1"), SnmpStatistics::default());
    }
}
