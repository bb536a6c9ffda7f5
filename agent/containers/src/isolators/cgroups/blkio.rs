//! `cgroups/blkio`: counts what a container reads from block devices and writes to them, by device and altogether. Nothing is limited.

use std::collections::BTreeMap;
use std::path::Path;

use api::v1::cgroup_info::blkio::{self, Operation, Value, cfq, throttling};
use api::v1::device::Number;
use supervisor::processes;

use super::{join, own, read};
use crate::cgroups::{Cgroups, Version};
use crate::container::{Container, Usage};
use crate::containerizer::Creation;
use crate::isolators::Isolator;

/// `cgroups/blkio`
#[derive(Clone, Debug)]
pub struct CgroupsBlkio(Cgroups);

impl CgroupsBlkio {
    /// On these groups.
    pub fn new(groups: &Cgroups) -> CgroupsBlkio {
        CgroupsBlkio(groups.clone())
    }
}

impl Isolator for CgroupsBlkio {
    fn name(&self) -> &'static str {
        "cgroups/blkio"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        join(&self.0, self.name(), creation).map(drop)
    }

    fn usage(&self, container: &Container, _: &[processes::Process], usage: &mut Usage) {
        let first = self.0.version() == Version::First;
        let Some(group) = own(&self.0, if first { "blkio" } else { "io" }, container) else { return };
        usage.blkio_statistics = Some(if first {
            blkio::Statistics {
                cfq: scheduled(&group, ""),
                cfq_recursive: scheduled(&group, "_recursive"),
                throttling: throttled(|file| read(&group, file).unwrap_or_default()),
            }
        } else {
            let text = read(&group, "io.stat").unwrap_or_default();
            blkio::Statistics { throttling: of_second(&text), ..blkio::Statistics::default() }
        });
    }
}

/// A device by its numbers; none is all of them together, which comes last.
type Device = Option<(u64, u64)>;

/// Sorted as they are shown: what is of all together comes last.
fn order(device: Device) -> (bool, Device) {
    (device.is_none(), device)
}

fn number(device: Device) -> Option<Number> {
    device.map(|(major_number, minor_number)| Number { major_number, minor_number })
}

/// Lines of the first version: `8:0 Read 4096`, `8:0 4096`, `Total 4096`, or `4096` of all together.
fn lines(text: &str) -> impl Iterator<Item = (Device, Operation, u64)> + '_ {
    text.lines().filter_map(|line| {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let value = words.pop()?.parse().ok()?;
        let mut words = words.into_iter().peekable();
        let device = words.peek().and_then(|word| {
            let (major, minor) = word.split_once(':')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        });
        if device.is_some() {
            words.next();
        }
        let operation = words.next().map_or(Operation::Unknown, |word| {
            Operation::from_str_name(&word.to_ascii_uppercase()).unwrap_or(Operation::Unknown)
        });
        Some((device, operation, value))
    })
}

fn value(operation: Operation, value: u64) -> Value {
    Value { op: Some(operation as i32), value: Some(value) }
}

/// What passed the throttle, which counts whether it holds anything back or not.
fn throttled(read: impl Fn(&str) -> String) -> Vec<throttling::Statistics> {
    let mut found: BTreeMap<(bool, Device), throttling::Statistics> = BTreeMap::new();
    // There even if nothing was read or written.
    found.entry(order(None)).or_default();
    for (device, operation, count) in lines(&read("blkio.throttle.io_serviced")) {
        found.entry(order(device)).or_default().io_serviced.push(value(operation, count));
    }
    for (device, operation, bytes) in lines(&read("blkio.throttle.io_service_bytes")) {
        found.entry(order(device)).or_default().io_service_bytes.push(value(operation, bytes));
    }
    let with_device = |((_, device), one)| throttling::Statistics { device: number(device), ..one };
    found.into_iter().map(with_device).collect()
}

/// What the scheduler of a device did for the group: of CFQ, which kernels before 5.0 have, or of BFQ, which came after it.
fn scheduled(group: &Path, recursive: &str) -> Vec<cfq::Statistics> {
    let mut found: BTreeMap<(bool, Device), cfq::Statistics> = BTreeMap::new();
    let text = |what: &str| {
        let of = |scheduler: &str| read(group, &format!("blkio.{scheduler}{what}{recursive}")).ok();
        of("").or_else(|| of("bfq.")).unwrap_or_default()
    };
    for (device, _, sectors) in lines(&text("sectors")) {
        found.entry(order(device)).or_default().sectors = Some(sectors);
    }
    for (device, _, time) in lines(&text("time")) {
        found.entry(order(device)).or_default().time = Some(time);
    }
    type Field = fn(&mut cfq::Statistics) -> &mut Vec<Value>;
    let fields: [(&str, Field); 6] = [
        ("io_serviced", |one| &mut one.io_serviced),
        ("io_service_bytes", |one| &mut one.io_service_bytes),
        ("io_service_time", |one| &mut one.io_service_time),
        ("io_wait_time", |one| &mut one.io_wait_time),
        ("io_merged", |one| &mut one.io_merged),
        ("io_queued", |one| &mut one.io_queued),
    ];
    for (what, field) in fields {
        for (device, operation, count) in lines(&text(what)) {
            field(found.entry(order(device)).or_default()).push(value(operation, count));
        }
    }
    found.entry(order(None)).or_default();
    let with_device = |((_, device), one)| cfq::Statistics { device: number(device), ..one };
    found.into_iter().map(with_device).collect()
}

/// Lines of the second version, `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`, as the first tells the same.
fn of_second(text: &str) -> Vec<throttling::Statistics> {
    let (mut lines_of_counts, mut lines_of_bytes) = (String::new(), String::new());
    let mut totals = [0u64; 2];
    for line in text.lines() {
        let Some((device, rest)) = line.split_once(' ') else { continue };
        let counts: BTreeMap<&str, u64> = rest
            .split(' ')
            .filter_map(|word| word.split_once('='))
            .filter_map(|(name, count)| Some((name, count.parse().ok()?)))
            .collect();
        for (n, (lines, suffix)) in
            [(&mut lines_of_counts, "ios"), (&mut lines_of_bytes, "bytes")].into_iter().enumerate()
        {
            let mut total = 0u64;
            for (operation, letter) in [("Read", 'r'), ("Write", 'w'), ("Discard", 'd')] {
                let count = counts.get(format!("{letter}{suffix}").as_str()).copied().unwrap_or(0);
                total = total.saturating_add(count);
                lines.push_str(&format!("{device} {operation} {count}\n"));
            }
            lines.push_str(&format!("{device} Total {total}\n"));
            totals[n] = totals[n].saturating_add(total);
        }
    }
    lines_of_counts.push_str(&format!("Total {}\n", totals[0]));
    lines_of_bytes.push_str(&format!("Total {}\n", totals[1]));
    throttled(|file| if file.ends_with("io_serviced") { lines_of_counts.clone() } else { lines_of_bytes.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(found: &[throttling::Statistics]) -> Vec<String> {
        let values = |values: &[Value]| -> Vec<String> {
            values.iter().map(|one| format!("{}={}", one.op().as_str_name(), one.value())).collect()
        };
        found
            .iter()
            .map(|one| {
                let device = one.device.map_or("all".to_owned(), |d| format!("{}:{}", d.major_number, d.minor_number));
                format!("{device} {} / {}", values(&one.io_serviced).join(" "), values(&one.io_service_bytes).join(" "))
            })
            .collect()
    }

    #[test]
    fn what_is_counted_is_told_by_device_and_altogether() {
        let first = throttled(|file| match file {
            "blkio.throttle.io_serviced" => "253:0 Read 2\n253:0 Write 1\n253:0 Total 3\n8:0 Read 1\nTotal 4\n".into(),
            _ => "253:0 Read 8192\n8:0 Discard 512\nTotal 8704\n".into(),
        });
        assert_eq!(
            shown(&first),
            ["8:0 READ=1 / DISCARD=512", "253:0 READ=2 WRITE=1 TOTAL=3 / READ=8192", "all TOTAL=4 / TOTAL=8704"]
        );
        let second = of_second("253:0 rbytes=8192 wbytes=4096 rios=2 wios=1 dbytes=0 dios=0\n7:1 \nbroken\n");
        assert_eq!(
            shown(&second),
            [
                "7:1 READ=0 WRITE=0 DISCARD=0 TOTAL=0 / READ=0 WRITE=0 DISCARD=0 TOTAL=0",
                "253:0 READ=2 WRITE=1 DISCARD=0 TOTAL=3 / READ=8192 WRITE=4096 DISCARD=0 TOTAL=12288",
                "all TOTAL=3 / TOTAL=12288"
            ]
        );
        assert_eq!(shown(&of_second("")), ["all TOTAL=0 / TOTAL=0"]);
        assert_eq!(shown(&throttled(|_| String::new())), ["all  / "]);
    }
}
