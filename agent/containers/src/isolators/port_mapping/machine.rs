//! What of a machine its containers have, too, and what is done to it once, at the start of an agent.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::super::netns;
use super::control::{self, Action, Place};
use super::links::{self, Link};
use super::program::{self, Own};
use super::{PortMappingSettings, ephemeral};
use crate::netlink::Netlink;

/// What containers have as the machine has it, below `/proc/sys/net`. Some kernels have one for all networks: then it is so anyway.
const SHARED: &[&str] = &[
    "core/netdev_max_backlog",
    "core/rmem_max",
    "core/somaxconn",
    "core/wmem_max",
    "ipv4/tcp_ecn",
    "ipv4/tcp_ecn_fallback",
    "ipv4/tcp_keepalive_intvl",
    "ipv4/tcp_keepalive_probes",
    "ipv4/tcp_keepalive_time",
    "ipv4/tcp_max_syn_backlog",
    "ipv4/tcp_retries2",
    "ipv4/tcp_rmem",
    "ipv4/tcp_synack_retries",
    "ipv4/tcp_wmem",
    "ipv4/neigh/default/gc_thresh1",
    "ipv4/neigh/default/gc_thresh2",
    "ipv4/neigh/default/gc_thresh3",
];

/// So long an agent that was just killed may still have the interface.
const TAKEOVER: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// The network of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub(super) eth0: Link,
    pub(super) lo: Link,
    pub(super) address: Ipv4Addr,
    pub(super) bits: u8,
    pub(super) gateway: Ipv4Addr,
    /// Settings of it, below `/proc/sys/net`.
    pub(super) shared: Vec<(&'static str, String)>,
}

impl Machine {
    pub(super) fn own(&self) -> Own {
        Own { address: self.address, mac: self.eth0.mac }
    }

    /// Finds out all of it, and makes it ready for containers. The error is a sentence.
    pub(super) fn open(settings: &PortMappingSettings) -> Result<Machine, String> {
        let cannot = |why: String| format!("network/port_mapping in --isolation cannot be: {why}");
        let own =
            own_ports().map_err(|error| cannot(format!("it cannot read which ports the machine uses: {error}")))?;
        ephemeral::check(&settings.ephemeral, settings.each, &settings.ports, &own).map_err(cannot)?;
        probe(settings.egress_rate.is_some()).map_err(cannot)?;
        let machine = find(settings).map_err(cannot)?;
        hold(&machine.eth0.name).map_err(cannot)?;
        machine.prepare().map_err(|error| cannot(format!("it cannot make the machine's network ready: {error}")))?;
        Ok(machine)
    }

    /// What goes to containers may come from the loopback, as if it came from there: with the interface's address of Ethernet, or
    /// containers would not take it for theirs.
    fn prepare(&self) -> io::Result<()> {
        let kernel = Netlink::route()?;
        links::change(&kernel, self.lo.index, self.eth0.mac, self.eth0.mtu)?;
        for link in [&self.eth0, &self.lo] {
            control::filter_arriving(&kernel, link.index)?;
        }
        accept(&self.lo.name, &["route_localnet", "accept_local"])
    }
}

/// What a link takes that it would not by itself, in the network of this thread.
pub(super) fn accept(link: &str, what: &[&str]) -> io::Result<()> {
    what.iter().try_for_each(|name| set(&format!("ipv4/conf/{link}/{name}"), "1"))
}

/// Sets one of what is below `/proc/sys/net`, of the network of this thread.
pub(super) fn set(name: &str, value: &str) -> io::Result<()> {
    let told = |error: io::Error| io::Error::other(format!("/proc/sys/net/{name} cannot be {value}: {error}"));
    fs::write(format!("/proc/sys/net/{name}"), value).map_err(told)
}

/// The same, if the kernel has it.
pub(super) fn set_if_there(name: &str, value: &str) -> io::Result<()> {
    match fs::exists(format!("/proc/sys/net/{name}"))? {
        true => set(name, value),
        false => Ok(()),
    }
}

/// The ports that the machine takes for whoever asks for any.
fn own_ports() -> io::Result<RangeInclusive<u16>> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let mut ends = text.split_whitespace().map(str::parse::<u16>);
    match (ends.next(), ends.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok(first..=last),
        _ => Err(io::Error::other(format!("'{}' are no ports", text.trim()))),
    }
}

fn find(settings: &PortMappingSettings) -> Result<Machine, String> {
    let asked = |what: &str, error: io::Error| format!("it cannot ask the kernel for {what}: {error}");
    let kernel = Netlink::route().map_err(|error| asked("anything", error))?;
    let all = links::all(&kernel).map_err(|error| asked("links", error))?;
    let route = links::default_route(&kernel).map_err(|error| asked("routes", error))?;
    let named = |flag: &str, name: &str| {
        let found = all.iter().find(|link| link.name == *name).cloned();
        found.ok_or_else(|| format!("the interface '{name}' of --{flag} does not exist"))
    };
    let eth0 = match &settings.eth0 {
        Some(name) => named("eth0_name", name)?,
        None => route
            .and_then(|(index, _)| all.iter().find(|link| link.index == index).cloned())
            .ok_or("there is no default route that tells which interface is the public one: say it with --eth0_name")?,
    };
    let lo = match &settings.lo {
        Some(name) => named("lo_name", name)?,
        None => all.iter().find(|link| link.is_loopback).cloned().ok_or("there is no loopback interface")?,
    };
    if eth0.is_loopback || !lo.is_loopback {
        return Err(format!("'{}' is to be the public interface, and '{}' the loopback", eth0.name, lo.name));
    }
    let name = eth0.name.clone();
    let address = links::address(&kernel, eth0.index).map_err(|error| asked("addresses", error))?;
    let (address, bits) = address.ok_or_else(|| format!("the interface '{name}' has no address of IPv4"))?;
    let gateway = route.filter(|(index, _)| *index == eth0.index);
    let (_, gateway) = gateway.ok_or_else(|| format!("no default route with a gateway leads by '{name}'"))?;
    if eth0.mac == [0; 6] {
        return Err(format!("the interface '{name}' is none of Ethernet"));
    }
    let value = |name: &&'static str| {
        let text = fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?;
        Some((*name, text.trim().to_owned()))
    };
    Ok(Machine { eth0, lo, address, bits, gateway, shared: SHARED.iter().filter_map(value).collect() })
}

/// Of one network and interface one agent disposes, for as long as it lives: its name is only there in that network.
fn hold(eth0: &str) -> Result<(), String> {
    static HELD: OnceLock<UnixListener> = OnceLock::new();
    let name = SocketAddr::from_abstract_name(format!("meseta-port-mapping-{eth0}"));
    let begun = Instant::now();
    loop {
        match name.as_ref().map_err(|error| error.to_string()).map(UnixListener::bind_addr)? {
            Ok(held) => {
                let _ = HELD.set(held);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < TAKEOVER => {
                std::thread::sleep(PAUSE);
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(format!("another agent gives out ports of the interface '{eth0}'"));
            }
            Err(error) => return Err(format!("it cannot hold the interface '{eth0}': {error}")),
        }
    }
}

/// Tries in a network of its own all that is going to be done. The error names what this kernel does not do.
fn probe(with_rate: bool) -> Result<(), String> {
    let tried = netns::scratch(|| {
        let (kernel, here) = (Netlink::route()?, File::open("/proc/thread-self/ns/net")?);
        let lo = links::get(&kernel, "lo")?;
        let pair = links::make_pair(&kernel, "p0", ("p1", &here), ([2, 0, 0, 0, 0, 1], 1500));
        let mut tried = vec![
            ("pairs of links (CONFIG_VETH)", pair),
            ("filters (CONFIG_NET_SCH_INGRESS)", control::filter_arriving(&kernel, lo.index)),
        ];
        let place = |priority| Place { link: lo.index, priority, protocol: control::ALL };
        let rest = program::rest();
        let dropping = control::put(&kernel, place(1), &rest, Action::AsItSays);
        let redirecting = control::put(&kernel, place(2), &rest, Action::Redirect(lo.index));
        tried.push(("filters by program (CONFIG_NET_CLS_BPF, CONFIG_NET_CLS_ACT)", dropping));
        tried.push(("filters that redirect (CONFIG_NET_ACT_MIRRED)", redirecting));
        if with_rate {
            let limited = links::get(&kernel, "p0").and_then(|link| control::limit(&kernel, link.index, 125_000, 1500));
            tried.push(("limits of rates (CONFIG_NET_SCH_HTB)", limited));
        }
        Ok(tried)
    });
    let tried = tried.unwrap_or_else(|error| vec![("networks of their own (CONFIG_NET_NS)", Err(error))]);
    missing(&tried)
}

fn missing(tried: &[(&str, io::Result<()>)]) -> Result<(), String> {
    let failed = tried.iter().filter_map(|(what, done)| Some(format!("{what}: {}", done.as_ref().err()?)));
    let failed: Vec<String> = failed.collect();
    match failed.is_empty() {
        true => Ok(()),
        false => Err(format!("this kernel does not do all that it needs: {}", failed.join("; "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_does_not_do_is_named() {
        let no = || Err(io::Error::from_raw_os_error(nix::libc::ENOENT));
        assert_eq!(missing(&[("one", Ok(())), ("two", Ok(()))]), Ok(()));
        let why = missing(&[("one", no()), ("two", Ok(())), ("three (CONFIG_X)", no())]).unwrap_err();
        assert!(why.starts_with("this kernel does not do all that it needs: one: No such file"), "{why}");
        assert!(why.contains("; three (CONFIG_X): "), "{why}");
    }
}
