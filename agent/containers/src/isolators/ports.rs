//! `network/ports`: finds containers that listen for TCP connections at ports which they were not given. The ports of a container
//! are those of the outermost one that it is within, which is ended for what is within it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use api::v1::task_status::Reason;
use api::v1::value::{self, Ranges};
use api::v1::{Resource, value::Range};
use parking_lot::Mutex;
use supervisor::processes;

use super::posix::of;
use super::{Isolator, PortsSettings, sockets};
use crate::container::{Container, Limitation};

/// So many ranges are told of; a container that listens at more has enough to explain.
const RANGES_MAX: usize = 100;

/// `network/ports`
#[derive(Debug)]
pub struct Ports {
    settings: PortsSettings,
    /// What containers were found to listen at, so that it is said once.
    told: Mutex<BTreeMap<String, BTreeSet<u16>>>,
}

/// The ports of its resources.
pub(super) fn given(container: &Container) -> Vec<RangeInclusive<u64>> {
    let of_ports = container.resources.iter().filter(|resource| resource.name == "ports");
    let ranges = of_ports.filter_map(|resource| resource.ranges.as_ref()).flat_map(|ranges| &ranges.range);
    ranges.map(|range| range.begin..=range.end).collect()
}

fn has(ranges: &[RangeInclusive<u64>], port: u16) -> bool {
    ranges.iter().any(|range| range.contains(&port.into()))
}

/// As few ranges as there are gaps.
fn ranges(ports: &BTreeSet<u16>) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for port in ports.iter().copied().map(u64::from) {
        match ranges.last_mut() {
            Some(last) if last.end + 1 == port => last.end = port,
            _ => ranges.push(Range { begin: port, end: port }),
        }
    }
    ranges.truncate(RANGES_MAX);
    ranges
}

impl Ports {
    pub(super) fn new(settings: &PortsSettings) -> Ports {
        Ports { settings: settings.clone(), told: Mutex::default() }
    }

    /// What each container listens at that it was not given.
    fn foreign(
        &self,
        containers: &[Container],
        listens: impl Fn(&Container) -> BTreeSet<u16>,
    ) -> Vec<(String, Limitation)> {
        let mut told = BTreeMap::new();
        let mut exceeded: Vec<(String, Limitation)> = Vec::new();
        let roots = containers.iter().filter(|one| !one.is_within()).map(|one| (one.id.as_str(), one));
        let roots: BTreeMap<&str, &Container> = roots.collect();
        for container in containers {
            let Some(root) = roots.get(container.root_id()) else { continue };
            let own = given(root);
            let is_watched = |port: &u16| self.settings.only.as_ref().is_none_or(|only| has(only, *port));
            let foreign: BTreeSet<u16> =
                listens(container).into_iter().filter(|port| is_watched(port) && !has(&own, *port)).collect();
            if foreign.is_empty() {
                continue;
            }
            let ranges = ranges(&foreign);
            let text: Vec<String> = ranges.iter().map(|range| format!("{}-{}", range.begin, range.end)).collect();
            let message =
                format!("Container {} is listening on unallocated port(s): [{}]", container.id, text.join(", "));
            if self.told.lock().get(&container.id) != Some(&foreign) {
                tracing::warn!("{message}");
            }
            told.insert(container.id.clone(), foreign);
            if self.settings.is_enforced && !exceeded.iter().any(|(id, _)| *id == root.id) {
                let resource = Resource {
                    name: "ports".to_owned(),
                    r#type: value::Type::Ranges as i32,
                    ranges: Some(Ranges { range: ranges }),
                    ..Resource::default()
                };
                let reason = Reason::ContainerLimitation;
                exceeded.push((root.id.clone(), Limitation { reason, message, resources: vec![resource] }));
            }
        }
        *self.told.lock() = told;
        exceeded
    }
}

impl Isolator for Ports {
    fn name(&self) -> &'static str {
        "network/ports"
    }

    fn interval(&self) -> Option<Duration> {
        Some(self.settings.interval)
    }

    fn watch(&self, containers: &[Container]) -> Vec<(String, Limitation)> {
        let found = sockets::listening().and_then(|listening| Ok((listening, processes::all()?)));
        let (listening, all) = match found {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "cannot look who listens at ports");
                return Vec::new();
            }
        };
        self.foreign(containers, |container| {
            let own = of(container, &all).filter(|process| sockets::is_here(process.pid));
            let open = own.flat_map(|process| sockets::of_process(process.pid));
            open.filter_map(|inode| listening.get(&inode).copied()).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, ports: &[(u64, u64)]) -> Container {
        let range = ports.iter().map(|(begin, end)| Range { begin: *begin, end: *end }).collect();
        let ports = Resource { name: "ports".into(), ranges: Some(Ranges { range }), ..Resource::default() };
        Container { id: id.into(), resources: vec![ports], ..Container::default() }
    }

    fn ports(is_enforced: bool, only: Option<Vec<RangeInclusive<u64>>>) -> Ports {
        Ports::new(&PortsSettings { interval: Duration::from_secs(1), is_enforced, only })
    }

    #[test]
    fn who_listens_where_it_may_not_is_named_with_the_ports() {
        let all = [container("a", &[(31000, 31001)]), container("a.n", &[]), container("b", &[])];
        let listens = |container: &Container| match container.id.as_str() {
            "a" => BTreeSet::from([31000, 31001]),
            "a.n" => BTreeSet::from([31001, 8080, 8081, 9000]),
            _ => BTreeSet::new(),
        };
        let found = ports(true, None).foreign(&all, listens);
        let [(id, why)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(id, "a", "the outermost one is ended");
        assert_eq!(why.message, "Container a.n is listening on unallocated port(s): [8080-8081, 9000-9000]");
        assert_eq!(why.reason, Reason::ContainerLimitation);
        let told = why.resources[0].ranges.as_ref().unwrap();
        assert_eq!(told.range, [Range { begin: 8080, end: 8081 }, Range { begin: 9000, end: 9000 }]);
        assert_eq!(ports(false, None).foreign(&all, listens), [], "who only looks ends nothing");
        assert_eq!(ports(true, Some(vec![31000..=32000])).foreign(&all, listens), [], "these are not watched");
        assert_eq!(ports(true, Some(vec![9000..=9000])).foreign(&all, listens).len(), 1);
    }
}
