//! `network/port_mapping`: each container has a network of its own, and in it the address of the machine. Which ports of that are whose
//! filters know: what is for a port of a container, from the network or from the machine, is redirected to it, and what a container
//! sends from ports that are not its own is dropped.
//!
//! ```text
//!        network                     container                       another
//!           |                     eth0 <-> lo                     eth0 <-> lo
//!           |                      |                               |
//!          eth0  ----------------  meseta32768  ----------------  meseta33792
//!                                        \                         /
//!                                         ----------  lo  ---------
//!
//! DIR/CONTAINER/ns      its network, mounted: there as long as this is
//! DIR/CONTAINER/given   its ephemeral ports, by which its link and its filters are found
//! ```
//!
//! Every filter is the only one of its priority, and is put there in one step whether there was one or not. So what an agent that was
//! killed had half done is done again, and nothing needs to be read back.

mod control;
mod ephemeral;
mod links;
mod machine;
mod numbers;
mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use api::v1::value::Range;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use supervisor::spec::Namespace;

use self::control::{ALL, ARP, Action, IP, Place};
use self::machine::{Machine, accept, set, set_if_there};
use self::program::RANGES_MAX;
use super::linux::{enter, is_session};
use super::{Isolator, netns};
use crate::container::{Container, Usage};
use crate::containerizer::Creation;
use crate::netlink::Netlink;

/// Links of containers are called so, with the first of their ephemeral ports behind it.
const LINK: &str = "meseta";
/// Priorities of filters of containers on the machine's links: so many of each, by its ephemeral ports.
const PRIORITIES: u16 = 0x4000;
const PRIORITIES_EACH: u16 = 4;
/// Less than this no container may send, in bytes per second.
pub const EGRESS_RATE_MIN: u64 = 125_000;

/// How `network/port_mapping` is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortMappingSettings {
    /// Ephemeral ports of all containers.
    pub ephemeral: Vec<RangeInclusive<u16>>,
    /// The ports that containers are given as resources.
    pub ports: Vec<RangeInclusive<u16>>,
    /// How many ephemeral ports each has.
    pub each: u16,
    /// The public interface, if it is named.
    pub eth0: Option<String>,
    /// The loopback, if it is named.
    pub lo: Option<String>,
    /// What each may send, in bytes per second.
    pub egress_rate: Option<u64>,
    /// Whether its connections are counted.
    pub with_sockets: bool,
    /// Whether it is told how long their packets take.
    pub with_round_trips: bool,
    /// Whether all that the kernel counts of its network is told.
    pub with_snmp: bool,
    /// Folder of what is kept of containers.
    pub dir: PathBuf,
    /// What was found at the start.
    pub machine: Option<Machine>,
}

/// What a container was given when it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Given {
    /// Its ephemeral ports: first and last.
    ephemeral_ports: (u16, u16),
    /// What it may send, in bytes per second.
    egress_rate: Option<u64>,
}

impl Given {
    fn range(&self) -> RangeInclusive<u16> {
        self.ephemeral_ports.0..=self.ephemeral_ports.1
    }

    fn link(&self) -> String {
        format!("{LINK}{}", self.ephemeral_ports.0)
    }

    /// The first of its priorities: there are no fewer ephemeral ports than there are between two of them.
    fn priority(&self) -> u16 {
        PRIORITIES + self.ephemeral_ports.0 / ephemeral::PORTS_MIN * PRIORITIES_EACH
    }
}

/// A container with a network of its own.
#[derive(Clone, Debug)]
struct Known {
    given: Given,
    /// Those of its resources.
    ports: Vec<RangeInclusive<u16>>,
}

/// `network/port_mapping`
#[derive(Debug)]
pub struct PortMapping {
    settings: PortMappingSettings,
    known: Mutex<BTreeMap<String, Known>>,
}

/// The ports of its resources, as few ranges as there are gaps.
fn ports(container: &Container) -> Vec<RangeInclusive<u16>> {
    let port = |port: u64| u16::try_from(port).unwrap_or(u16::MAX);
    let given = super::ports::given(container).into_iter().map(|range| port(*range.start())..=port(*range.end()));
    let mut all: Vec<RangeInclusive<u16>> = given.filter(|range| !range.is_empty()).collect();
    all.sort_by_key(|range| *range.start());
    let mut merged: Vec<RangeInclusive<u16>> = Vec::new();
    for range in all {
        match merged.last_mut() {
            Some(last) if u32::from(*range.start()) <= u32::from(*last.end()) + 1 => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => merged.push(range),
        }
    }
    merged
}

impl PortMapping {
    /// Knows no container yet.
    pub fn new(settings: &PortMappingSettings) -> PortMapping {
        PortMapping { settings: settings.clone(), known: Mutex::default() }
    }

    /// Looks at the machine, and makes it ready for containers.
    ///
    /// # Errors
    /// A sentence: it cannot be used.
    pub fn open(settings: &PortMappingSettings) -> Result<Machine, String> {
        let machine = Machine::open(settings)?;
        let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(&settings.dir);
        made.map_err(|error| format!("Cannot make {}: {error}", settings.dir.display()))?;
        tracing::info!(interface = machine.eth0.name, address = %machine.address, "containers have ports of this interface");
        Ok(machine)
    }

    fn machine(&self) -> io::Result<&Machine> {
        self.settings.machine.as_ref().ok_or_else(|| io::Error::other("the machine was not looked at"))
    }

    fn dir(&self, container_id: &str) -> PathBuf {
        self.settings.dir.join(container_id)
    }

    fn namespace(&self, container_id: &str) -> PathBuf {
        self.dir(container_id).join("ns")
    }

    fn read(&self, container_id: &str) -> io::Result<Given> {
        Ok(serde_json::from_slice(&fs::read(self.dir(container_id).join("given"))?)?)
    }

    /// Gives a container ephemeral ports that no other one has, and writes it down.
    fn give(&self, container_id: &str, ports: Vec<RangeInclusive<u16>>) -> Result<Known, String> {
        let mut known = self.known.lock();
        let used: Vec<RangeInclusive<u16>> = known.values().map(|one| one.given.range()).collect();
        let free = ephemeral::free(&self.settings.ephemeral, self.settings.each, &used);
        let range = free.ok_or_else(|| {
            format!(
                "all ephemeral ports are given to other containers: there are {} with {} each",
                used.len(),
                self.settings.each
            )
        })?;
        let given = Given { ephemeral_ports: range.into_inner(), egress_rate: self.settings.egress_rate };
        let dir = self.dir(container_id);
        let written = fs::DirBuilder::new().mode(0o711).create(&dir).and_then(|()| {
            let text = serde_json::to_vec(&given)?;
            fs::write(dir.join("given"), text)
        });
        written.map_err(|error| format!("cannot write down its ephemeral ports: {error}"))?;
        let one = Known { given, ports };
        known.insert(container_id.to_owned(), one.clone());
        Ok(one)
    }

    /// Makes its network and its link.
    fn make(&self, container_id: &str, known: &Known) -> io::Result<()> {
        let (machine, namespace) = (self.machine()?, self.namespace(container_id));
        let (kernel, name) = (Netlink::route()?, known.given.link());
        netns::make(&namespace, || Ok(()))?;
        let (inside, like) = (File::open(&namespace)?, (machine.eth0.mac, machine.eth0.mtu));
        links::make_pair(&kernel, &name, (&machine.eth0.name, &inside), like)?;
        let link = links::get(&kernel, &name)?;
        // It carries what filters let through, and nothing for the machine itself.
        set_if_there(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
        set(&format!("ipv4/conf/{name}/rp_filter"), "1")?;
        control::filter_arriving(&kernel, link.index)?;
        netns::within(&namespace, || self.furnish(known))?;
        self.filter(container_id, known)?;
        links::raise(&kernel, link.index)
    }

    /// Makes it so within.
    fn furnish(&self, known: &Known) -> io::Result<()> {
        let (machine, kernel) = (self.machine()?, Netlink::route()?);
        set_if_there("ipv6/conf/all/disable_ipv6", "1")?;
        let (first, last) = known.given.ephemeral_ports;
        set("ipv4/ip_local_port_range", &format!("{first} {last}"))?;
        for (name, value) in &machine.shared {
            // What there is one of for all networks cannot be written here, and is as it should be.
            let _ = set_if_there(name, value);
        }
        let (lo, eth0) = (links::get(&kernel, "lo")?, links::get(&kernel, &machine.eth0.name)?);
        links::change(&kernel, lo.index, machine.eth0.mac, machine.eth0.mtu)?;
        for link in [&lo, &eth0] {
            control::filter_arriving(&kernel, link.index)?;
            links::raise(&kernel, link.index)?;
        }
        accept("lo", &["accept_local", "route_localnet"])?;
        accept(&eth0.name, &["accept_local"])?;
        links::add_address(&kernel, eth0.index, machine.address, machine.bits)?;
        links::add_default_route(&kernel, eth0.index, machine.gateway)?;
        match known.given.egress_rate {
            Some(rate) => control::limit(&kernel, eth0.index, rate, machine.eth0.mtu),
            None => Ok(()),
        }
    }

    /// Puts all filters of a container where they are to be: what it sends is looked at before anything is sent to it.
    fn filter(&self, container_id: &str, known: &Known) -> io::Result<()> {
        let (machine, kernel) = (self.machine()?, Netlink::route()?);
        let (own, given) = (machine.own(), &known.given);
        let all: Vec<RangeInclusive<u16>> = known.ports.iter().cloned().chain([given.range()]).collect();
        if all.len() > RANGES_MAX {
            return Err(io::Error::other(format!("its ports are {} ranges, more than {RANGES_MAX}", all.len())));
        }
        let link = links::get(&kernel, &given.link())?.index;
        let (eth0, lo) = (machine.eth0.index, machine.lo.index);
        let put = |link, priority, protocol, program: &program::Program, action| {
            control::put(&kernel, Place { link, priority, protocol }, program, action)
        };
        put(link, 5, ALL, &program::rest(), Action::AsItSays)?;
        put(link, 4, IP, &program::leaving(own, &all), Action::Redirect(eth0))?;
        put(link, 3, IP, &program::leaving_locally(own, &all), Action::Redirect(lo))?;
        put(link, 2, IP, &program::icmp_leaving(own), Action::Redirect(eth0))?;
        put(link, 1, ARP, &program::arp_leaving(own), Action::Redirect(eth0))?;
        let priority = given.priority();
        put(eth0, priority, ARP, &program::arp_arriving(), Action::Mirror(link))?;
        put(eth0, priority + 1, IP, &program::icmp_arriving(own), Action::Mirror(link))?;
        put(eth0, priority + 2, IP, &program::arriving(own, &all), Action::Redirect(link))?;
        put(lo, priority + 2, IP, &program::local(own, &all), Action::Redirect(link))?;
        netns::within(&self.namespace(container_id), || {
            let kernel = Netlink::route()?;
            let (lo, eth0) = (links::get(&kernel, "lo")?.index, links::get(&kernel, &machine.eth0.name)?.index);
            let put = |link, program: &program::Program, to| {
                let place = Place { link, priority: 1, protocol: IP };
                control::put(&kernel, place, program, Action::Redirect(to))
            };
            put(lo, &program::outwards(own, &all), eth0)?;
            put(eth0, &program::inwards(&all), lo)
        })
    }

    /// Takes filters and the link of a container from the machine.
    fn unfilter(&self, given: &Given) -> io::Result<()> {
        let (machine, kernel, priority) = (self.machine()?, Netlink::route()?, given.priority());
        let (eth0, lo) = (machine.eth0.index, machine.lo.index);
        for (link, priority, protocol) in
            [(eth0, priority, ARP), (eth0, priority + 1, IP), (eth0, priority + 2, IP), (lo, priority + 2, IP)]
        {
            control::remove(&kernel, Place { link, priority, protocol })?;
        }
        match links::find(&kernel, &given.link())? {
            Some(link) => links::remove(&kernel, link.index),
            None => Ok(()),
        }
    }

    /// Takes back all that a container has, and what is kept of it goes last.
    fn take_back(&self, container_id: &str) -> io::Result<()> {
        let dir = self.dir(container_id);
        match self.read(container_id) {
            Ok(given) => self.unfilter(&given)?,
            // Nothing was made before it was written down.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(container_id, %error, "cannot read which ephemeral ports a container had"),
        }
        netns::remove(&self.namespace(container_id))?;
        fs::remove_dir_all(&dir)
    }

    /// Takes from the machine links and filters that no container has of which something is kept here: those of a work_dir
    /// that is no more.
    fn take_strays(&self) -> io::Result<()> {
        let (machine, kernel) = (self.machine()?, Netlink::route()?);
        let kept = fs::read_dir(&self.settings.dir)?.flatten();
        let kept = kept.filter_map(|entry| self.read(&entry.file_name().to_string_lossy()).ok());
        let kept: Vec<Given> = kept.collect();
        for link in [machine.eth0.index, machine.lo.index] {
            for place in control::places(&kernel, link)? {
                let is_ours = (PRIORITIES..2 * PRIORITIES).contains(&place.priority);
                let is_kept =
                    |given: &Given| (given.priority()..given.priority() + PRIORITIES_EACH).contains(&place.priority);
                if is_ours && !kept.iter().any(is_kept) {
                    control::remove(&kernel, place)?;
                }
            }
        }
        for link in links::all(&kernel)? {
            let is_ours = link.name.strip_prefix(LINK).is_some_and(|port| port.parse::<u16>().is_ok());
            if is_ours && !kept.iter().any(|given| given.link() == link.name) {
                tracing::warn!(link = link.name, "took back the link of a container that this agent does not know");
                links::remove(&kernel, link.index)?;
            }
        }
        Ok(())
    }

    /// Whose network a container is in, if the outermost one has one of its own.
    fn of(&self, container_id: &str) -> Option<Known> {
        self.known.lock().get(container_id).cloned()
    }
}

impl Isolator for PortMapping {
    fn name(&self) -> &'static str {
        "network/port_mapping"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        let container = &creation.container;
        let id = container.id.clone();
        if container.is_within() {
            if self.of(container.root_id()).is_some() {
                enter(creation, Namespace::Net);
            }
        } else {
            let known = self.give(&id, ports(container))?;
            self.make(&id, &known).map_err(|error| format!("cannot make its network: {error}"))?;
            creation.world.enters.push((Namespace::Net, self.namespace(&id).display().to_string()));
        }
        if creation.world.root.is_some() && !is_session(creation) {
            // It is the machine, for whoever looks for names.
            netns::mount_names(creation, &self.dir(&id));
        }
        Ok(())
    }

    fn recover(&self, container: &Container) {
        if container.is_within() || !self.dir(&container.id).is_dir() {
            return;
        }
        let given = match self.read(&container.id) {
            Ok(given) => given,
            Err(error) => {
                tracing::error!(container_id = container.id, %error, "cannot read which ephemeral ports a container has");
                return;
            }
        };
        let known = Known { given, ports: ports(container) };
        self.known.lock().insert(container.id.clone(), known.clone());
        // After a restart of the machine there is nothing left of it, and of the container neither.
        if netns::is_there(&self.namespace(&container.id))
            && let Err(error) = self.filter(&container.id, &known)
        {
            tracing::error!(container_id = container.id, %error, "cannot put the filters of a container in their places");
        }
    }

    fn sweep(&self, known: &BTreeSet<String>) {
        for entry in fs::read_dir(&self.settings.dir).into_iter().flatten().flatten() {
            let container_id = entry.file_name().to_string_lossy().into_owned();
            if known.contains(&container_id) {
                continue;
            }
            match self.take_back(&container_id) {
                Ok(()) => tracing::warn!(
                    container_id,
                    "took back the network of a container that this agent's log does not know"
                ),
                Err(error) => tracing::error!(container_id, %error, "cannot take back the network of a container"),
            }
        }
        if let Err(error) = self.take_strays() {
            tracing::error!(%error, "cannot take back networks of containers that nobody knows");
        }
    }

    fn update(&self, container: &Container) {
        let ports = ports(container);
        let Some(known) = self.of(&container.id).filter(|known| known.ports != ports) else { return };
        let known = Known { ports, ..known };
        match self.filter(&container.id, &known) {
            Ok(()) => drop(self.known.lock().insert(container.id.clone(), known)),
            Err(error) => {
                tracing::error!(container_id = container.id, %error, "cannot change the ports of a container")
            }
        }
    }

    fn usage(&self, container: &Container, _: &[supervisor::processes::Process], usage: &mut Usage) {
        let Some(known) = self.of(&container.id) else { return };
        let given = &known.given;
        usage.net_ephemeral_ports =
            Some(Range { begin: given.ephemeral_ports.0.into(), end: given.ephemeral_ports.1.into() });
        usage.net_tx_rate_limit = given.egress_rate;
        let mut counted = || -> io::Result<()> {
            let machine = self.machine()?;
            // What the machine receives from it, it sends.
            if let Some(link) = links::find(&Netlink::route()?, &given.link())? {
                let [received, sent, received_bytes, sent_bytes, errors, sent_errors, dropped, sent_dropped] =
                    link.stats;
                (usage.net_rx_packets, usage.net_rx_bytes) = (Some(sent), Some(sent_bytes));
                (usage.net_rx_errors, usage.net_rx_dropped) = (Some(sent_errors), Some(sent_dropped));
                (usage.net_tx_packets, usage.net_tx_bytes) = (Some(received), Some(received_bytes));
                (usage.net_tx_errors, usage.net_tx_dropped) = (Some(errors), Some(dropped));
            }
            let settings = &self.settings;
            if settings.with_sockets || settings.with_round_trips || settings.with_snmp || given.egress_rate.is_some() {
                let namespace = self.namespace(&container.id);
                netns::within(&namespace, || numbers::add(settings, &machine.eth0.name, usage))?;
            }
            Ok(())
        };
        if let Err(error) = counted() {
            tracing::debug!(container_id = container.id, %error, "cannot tell what went through the network of a container");
        }
    }

    fn cleanup(&self, container: &Container) {
        if !self.dir(&container.id).is_dir() {
            return;
        }
        match self.take_back(&container.id) {
            // Its ports are the next one's.
            Ok(()) => drop(self.known.lock().remove(&container.id)),
            Err(error) => tracing::error!(
                container_id = container.id, %error,
                "cannot take back the network of a container; tried again at the next start"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::v1::Resource;
    use api::v1::value::Ranges;

    #[test]
    fn ports_are_as_few_ranges_as_there_are_gaps() {
        let resource = |ranges: &[(u64, u64)]| Resource {
            name: "ports".into(),
            ranges: Some(Ranges {
                range: ranges.iter().map(|(begin, end)| Range { begin: *begin, end: *end }).collect(),
            }),
            ..Resource::default()
        };
        let resources =
            vec![resource(&[(31_005, 31_007), (31_000, 31_000)]), resource(&[(31_001, 31_001), (65_535, 65_535)])];
        let container = Container { resources, ..Container::default() };
        assert_eq!(ports(&container), [31_000..=31_001, 31_005..=31_007, 65_535..=65_535]);
        assert_eq!(ports(&Container::default()), []);
    }

    #[test]
    fn each_container_has_priorities_of_its_own() {
        let given = |first: u16| Given { ephemeral_ports: (first, first + 15), egress_rate: None };
        let priorities: Vec<u16> = (64..=4095_u16).map(|n| given(n * 16).priority()).collect();
        assert!(priorities.windows(2).all(|pair| pair[0] + PRIORITIES_EACH == pair[1]));
        assert!(priorities.iter().all(|one| (PRIORITIES..2 * PRIORITIES).contains(one)));
        assert_eq!(given(32_768).link(), "meseta32768");
    }
}
