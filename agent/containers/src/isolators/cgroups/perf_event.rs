//! `cgroups/perf_event`: what the kernel and the processors count in a container, by `--perf_events`: for `--perf_duration` in each
//! `--perf_interval`. Without events nothing is counted, and containers have groups in which others may.
//!
//! The kernel is asked itself, and no program `perf` is needed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::v1::PerfStatistics;
use parking_lot::Mutex;
use supervisor::processes;
use supervisor::sys::counters::{Counter, Event};

use super::{join, own};
use crate::cgroups::{Cgroups, Version};
use crate::container::{Container, Limitation, Usage};
use crate::containerizer::Creation;
use crate::isolators::Isolator;

/// Counters that are open at once: containers beyond that are counted one lot after the other.
const COUNTERS_MAX: usize = 512;
const NANOS_IN_A_MILLI: f64 = 1e6;

/// What is counted, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sampling {
    /// Events by the names of their fields in statistics.
    events: Vec<(String, Event)>,
    /// So long it is counted.
    duration: Duration,
    /// From the beginning of one time to that of the next.
    interval: Duration,
}

impl Sampling {
    /// As the flags say it.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(events: Option<&str>, duration: Duration, interval: Duration) -> Result<Sampling, String> {
        let names = events.unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty());
        let known = |name: &str| {
            let (kind, config) = event(name).ok_or_else(|| {
                format!("Flag '--perf_events' has '{name}', which is not among what statistics can tell: cycles, instructions, cache-misses, cpu-clock, page-faults, LLC-loads, ...")
            })?;
            Ok((field(name), Event { kind, config }))
        };
        let mut events = names.map(known).collect::<Result<Vec<_>, String>>()?;
        events.sort_by(|one, other| one.0.cmp(&other.0));
        events.dedup();
        if !events.is_empty() && duration.is_zero() {
            return Err("Flag '--perf_duration' must be longer than nothing".to_owned());
        }
        if !events.is_empty() && duration > interval {
            return Err("Flag '--perf_duration' must be no longer than '--perf_interval'".to_owned());
        }
        Ok(Sampling { events, duration, interval })
    }
}

/// The same event may have two names.
fn field(name: &str) -> String {
    let name = match name.to_ascii_lowercase().as_str() {
        "cpu-cycles" => "cycles".to_owned(),
        "branch-instructions" => "branches".to_owned(),
        "faults" => "page-faults".to_owned(),
        "cs" => "context-switches".to_owned(),
        "migrations" => "cpu-migrations".to_owned(),
        name => name.to_owned(),
    };
    name.replace('-', "_")
}

const HARDWARE: [&str; 10] = [
    "cycles",
    "instructions",
    "cache_references",
    "cache_misses",
    "branches",
    "branch_misses",
    "bus_cycles",
    "stalled_cycles_frontend",
    "stalled_cycles_backend",
    "ref_cycles",
];
const KERNEL: [&str; 9] = [
    "cpu_clock",
    "task_clock",
    "page_faults",
    "context_switches",
    "cpu_migrations",
    "minor_faults",
    "major_faults",
    "alignment_faults",
    "emulation_faults",
];
const CACHES: [&str; 7] = ["l1_dcache", "l1_icache", "llc", "dtlb", "itlb", "branch", "node"];
/// What is done with a cache, and how that is called if it is not there.
const USES: [(&str, &str); 3] =
    [("loads", "load_misses"), ("stores", "store_misses"), ("prefetches", "prefetch_misses")];

/// What no field of statistics is for.
const NOT_TOLD: [&str; 5] = ["l1_icache_stor", "itlb_stor", "itlb_pref", "branch_stor", "branch_pref"];

/// Its kind and what of it, as the kernel numbers them.
fn event(name: &str) -> Option<(u32, u64)> {
    let name = field(name);
    let at = |names: &[&str]| names.iter().position(|one| *one == name).map(|n| n as u64);
    if let Some(config) = at(&HARDWARE) {
        return Some((0, config));
    }
    if let Some(config) = at(&KERNEL) {
        return Some((1, config));
    }
    CACHES.iter().enumerate().find_map(|(cache, prefix)| {
        let is_told = !NOT_TOLD.iter().any(|one| name.starts_with(one));
        let what = name.strip_prefix(prefix)?.strip_prefix('_')?;
        USES.iter().enumerate().filter(|_| is_told).find_map(|(n, (done, missed))| {
            let missed = u64::from(what == *missed);
            (missed == 1 || what == *done).then_some((3, cache as u64 | (n as u64) << 8 | missed << 16))
        })
    })
}

/// `cgroups/perf_event`
#[derive(Clone, Debug)]
pub struct CgroupsPerfEvent {
    groups: Cgroups,
    sampling: Sampling,
    /// What was counted last, by container.
    counted: Arc<Mutex<BTreeMap<String, PerfStatistics>>>,
}

/// The tree that events are counted by.
fn tree(groups: &Cgroups) -> &'static str {
    if groups.version() == Version::First { "perf_event" } else { "" }
}

/// The processors that are there, as `/sys` lists them: `0-3,6`.
fn processors() -> Vec<u32> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let one = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u32>().ok()?..=last.parse().ok()?)
    };
    let found: Vec<u32> = text.trim().split(',').filter_map(one).flatten().collect();
    if found.is_empty() { vec![0] } else { found }
}

/// Whether this machine counts what is asked for.
///
/// # Errors
/// A sentence.
pub(super) fn check(groups: &Cgroups, sampling: &Sampling) -> Result<(), String> {
    let Some(first) = processors().first().copied() else { return Ok(()) };
    for (name, event) in &sampling.events {
        let counted = File::open(groups.root(tree(groups)).unwrap_or(Path::new("/")))
            .and_then(|group| Counter::of_group(*event, &group, first));
        counted.map_err(|error| {
            let name = name.replace('_', "-");
            format!(
                "--perf_events has '{name}', and this machine does not count that in control groups (perf_event_open says: \
                 {error}); it needs CONFIG_CGROUP_PERF, CAP_PERFMON or CAP_SYS_ADMIN, and processors that count it"
            )
        })?;
    }
    Ok(())
}

impl CgroupsPerfEvent {
    /// On these groups.
    pub fn new(groups: &Cgroups, sampling: &Sampling) -> CgroupsPerfEvent {
        CgroupsPerfEvent { groups: groups.clone(), sampling: sampling.clone(), counted: Arc::default() }
    }

    fn open(&self, group: &Path, processors: &[u32]) -> io::Result<Vec<Vec<Counter>>> {
        let group = File::open(group)?;
        let of_all = |event: Event| processors.iter().map(|one| Counter::of_group(event, &group, *one)).collect();
        self.sampling.events.iter().map(|(_, event)| of_all(*event)).collect()
    }

    /// Sums of what all processors counted, by the names of fields.
    fn sums(&self, counters: Vec<Vec<Counter>>) -> io::Result<BTreeMap<&str, u64>> {
        let mut sums = BTreeMap::new();
        for ((name, _), counters) in self.sampling.events.iter().zip(counters) {
            let read = |mut counter: Counter| counter.read();
            let counts: Option<Vec<u64>> = counters.into_iter().map(read).collect::<io::Result<_>>()?;
            if let Some(counts) = counts {
                sums.insert(name.as_str(), counts.iter().fold(0u64, |sum, count| sum.saturating_add(*count)));
            }
        }
        Ok(sums)
    }

    fn count(&self, containers: &[Container], processors: &[u32]) {
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let of = |container: &Container| {
            let group = own(&self.groups, tree(&self.groups), container)?;
            let opened = self.open(&group, processors);
            // It may be over.
            let failed =
                |error: &io::Error| tracing::debug!(container_id = container.id, %error, "cannot count its events");
            Some((container.id.clone(), opened.inspect_err(failed).ok()?))
        };
        let counters: Vec<_> = containers.iter().filter_map(of).collect();
        std::thread::sleep(self.sampling.duration);
        for (id, counters) in counters {
            match self.sums(counters) {
                Ok(sums) => {
                    let told = statistics(began, self.sampling.duration, &sums);
                    self.counted.lock().insert(id, told);
                }
                Err(error) => tracing::warn!(container_id = id, %error, "cannot read what was counted of its events"),
            }
        }
    }
}

fn statistics(timestamp: f64, duration: Duration, sums: &BTreeMap<&str, u64>) -> PerfStatistics {
    let mut fields = serde_json::Map::new();
    fields.insert("timestamp".to_owned(), timestamp.into());
    fields.insert("duration".to_owned(), duration.as_secs_f64().into());
    for (name, sum) in sums {
        let value = match *name {
            "cpu_clock" | "task_clock" => (*sum as f64 / NANOS_IN_A_MILLI).into(),
            _ => (*sum).into(),
        };
        fields.insert((*name).to_owned(), value);
    }
    let json = serde_json::Value::Object(fields).to_string();
    api::json::from_slice(json.as_bytes()).unwrap_or_default()
}

impl Isolator for CgroupsPerfEvent {
    fn name(&self) -> &'static str {
        "cgroups/perf_event"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        join(&self.groups, self.name(), creation).map(drop)
    }

    fn interval(&self) -> Option<Duration> {
        let Sampling { events, duration, interval } = &self.sampling;
        (!events.is_empty()).then(|| interval.saturating_sub(*duration))
    }

    fn watch(&self, containers: &[Container]) -> Vec<(String, Limitation)> {
        let processors = processors();
        let of_each = self.sampling.events.len() * processors.len();
        for some in containers.chunks((COUNTERS_MAX / of_each.max(1)).max(1)) {
            self.count(some, &processors);
        }
        let is_there = |id: &String| containers.iter().any(|container| container.id == *id);
        self.counted.lock().retain(|id, _| is_there(id));
        Vec::new()
    }

    fn usage(&self, container: &Container, _: &[processes::Process], usage: &mut Usage) {
        usage.perf = self.counted.lock().get(&container.id).cloned();
    }

    fn cleanup(&self, container: &Container) {
        self.counted.lock().remove(&container.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn events_are_those_that_statistics_can_tell() {
        let all =
            "cycles,Cpu-Cycles,task-clock, L1-dcache-load-misses,LLC-prefetches,node-store-misses,branch-loads,cs";
        let found = Sampling::parse(Some(all), SECOND, SECOND).unwrap();
        let shown: Vec<String> =
            found.events.iter().map(|(name, one)| format!("{name} {} {:#x}", one.kind, one.config)).collect();
        assert_eq!(
            shown,
            [
                "branch_loads 3 0x5",
                "context_switches 1 0x3",
                "cycles 0 0x0",
                "l1_dcache_load_misses 3 0x10000",
                "llc_prefetches 3 0x202",
                "node_store_misses 3 0x10106",
                "task_clock 1 0x1"
            ]
        );
        assert!(Sampling::parse(Some("cycles,mem:0x1"), SECOND, SECOND).unwrap_err().contains("'mem:0x1'"));
        assert!(Sampling::parse(Some("cycles"), 2 * SECOND, SECOND).unwrap_err().contains("no longer than"));
        assert_eq!(Sampling::parse(None, 2 * SECOND, SECOND).unwrap().events, []);
    }

    /// Whatever can be asked for has its field.
    #[test]
    fn what_is_counted_is_told() {
        let caches = CACHES.iter().flat_map(|cache| {
            USES.iter().flat_map(move |(done, missed)| [format!("{cache}_{done}"), format!("{cache}_{missed}")])
        });
        let names: Vec<String> = HARDWARE.iter().chain(&KERNEL).map(|name| (*name).to_owned()).chain(caches).collect();
        for name in &names {
            let told = statistics(1.5, SECOND, &BTreeMap::from([(name.as_str(), 7_000_000)]));
            let json = api::json::to_value(&told);
            let is_told = json.get(name).is_some_and(|count| count.as_f64() == Some(7.0) || *count == 7_000_000);
            assert_eq!(is_told, event(name).is_some(), "{name}: {json}");
            assert_eq!((told.timestamp, told.duration), (1.5, 1.0));
        }
    }
}
