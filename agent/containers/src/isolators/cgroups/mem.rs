//! `cgroups/mem`: no more memory than a container's limit, or than it was given without one; what it was given is kept for it as far
//! as the machine can. A container of which the kernel had to end a process for want of memory is ended as a whole.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use api::v1::task_status::Reason;
use api::v1::value::Scalar;
use api::v1::{Resource, value};
use supervisor::processes;

use super::{Limit, Terms, given, join, limit, number, numbers, own, write};
use crate::cgroups::{Cgroups, Version};
use crate::container::{Container, Limitation, Usage};
use crate::containerizer::Creation;
use crate::isolators::Isolator;

const MB: u64 = 1 << 20;
/// Less is not enough to start anything.
const BYTES_MIN: u64 = 32 * MB;
/// Between two looks at whether the kernel ended something. What it ended is ended; it is the rest that waits so long.
const LOOK: Duration = Duration::from_millis(250);

/// `cgroups/mem`
#[derive(Clone, Debug)]
pub struct CgroupsMem {
    groups: Cgroups,
    terms: Terms,
}

/// What a container may have, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Amounts {
    given: u64,
    /// None is all that there is.
    most: Option<u64>,
}

fn bytes(milli: i64) -> u64 {
    (u64::try_from(milli).unwrap_or(0).saturating_mul(MB) / 1000).max(BYTES_MIN)
}

impl Amounts {
    fn of(container: &Container) -> Amounts {
        let given = bytes(given(container, "mem"));
        let most = match limit(container, "mem") {
            None => Some(given),
            Some(Limit::Milli(most)) => Some(bytes(most)),
            Some(Limit::None) => None,
        };
        Amounts { given, most }
    }
}

impl CgroupsMem {
    /// On these groups.
    pub fn new(groups: &Cgroups, terms: Terms) -> CgroupsMem {
        CgroupsMem { groups: groups.clone(), terms }
    }

    /// `runs`: what it has now may be more than it is to have; then the kernel would end something, so the limit stays.
    fn set(&self, group: &Path, amounts: Amounts, runs: bool) -> Result<(), String> {
        let (soft, hard) = match self.groups.version() {
            Version::First => ("memory.soft_limit_in_bytes", "memory.limit_in_bytes"),
            Version::Second => ("memory.low", "memory.max"),
        };
        write(group, soft, amounts.given)?;
        // Very large, or "max", where there is none.
        let now = number(group, hard).unwrap_or(u64::MAX);
        if runs && amounts.most.is_some_and(|most| most < now) {
            return Ok(());
        }
        let with_swap = "memory.memsw.limit_in_bytes";
        match (self.groups.version(), amounts.most) {
            (Version::First, most) => {
                let value = most.map_or("-1".to_owned(), |most| most.to_string());
                if !self.terms.limit_swap {
                    return write(group, hard, value);
                }
                // Memory alone is never more than memory and swap: which comes first depends on which way they go.
                if most.is_none_or(|most| most > now) {
                    write(group, with_swap, &value)?;
                    write(group, hard, value)
                } else {
                    write(group, hard, &value)?;
                    write(group, with_swap, value)
                }
            }
            (Version::Second, most) => {
                if self.terms.limit_swap && group.join("memory.swap.max").exists() {
                    write(group, "memory.swap.max", if most.is_some() { "0" } else { "max" })?;
                }
                write(group, hard, most.map_or("max".to_owned(), |most| most.to_string()))
            }
        }
    }

    /// Processes that the kernel ended for want of memory because this group had reached its limit.
    fn ended_by_kernel(&self, group: &Path) -> u64 {
        let count = |file: &str, name: &str| numbers(group, file).get(name).copied();
        match self.groups.version() {
            Version::First => count("memory.oom_control", "oom_kill").unwrap_or(0),
            // Those of groups below are counted with it, which may have limits of their own: whose limit it was is told apart.
            Version::Second => {
                let ended = count("memory.events", "oom_kill").unwrap_or(0);
                count("memory.events.local", "oom").map_or(ended, |own| ended.min(own))
            }
        }
    }

    fn exceeded(&self, container: &Container) -> Option<Limitation> {
        let group = own(&self.groups, "memory", container).filter(|group| self.ended_by_kernel(group) > 0)?;
        let (hard, most) = match self.groups.version() {
            Version::First => ("memory.limit_in_bytes", "memory.max_usage_in_bytes"),
            Version::Second => ("memory.max", "memory.peak"),
        };
        let limit_bytes = number(&group, hard);
        let used_bytes = number(&group, most).or(limit_bytes).unwrap_or(0);
        let shown = |bytes: Option<u64>| bytes.map_or("no limit".to_owned(), api::size::format);
        let mut message = format!(
            "Memory limit exceeded: Requested: {} Maximum Used: {}\n\nMEMORY STATISTICS: \n",
            shown(limit_bytes),
            shown(Some(used_bytes))
        );
        // What is told of a task is bounded.
        for (name, value) in numbers(&group, "memory.stat").iter().filter(|(name, _)| SAID.contains(&name.as_str())) {
            let _ = writeln!(message, "{name} {value}");
        }
        let used = Resource {
            name: "mem".to_owned(),
            r#type: value::Type::Scalar as i32,
            scalar: Some(Scalar { value: used_bytes as f64 / MB as f64 }),
            ..Resource::default()
        };
        Some(Limitation { reason: Reason::ContainerLimitationMemory, message, resources: vec![used] })
    }
}

/// Statistics that are told of a container that exceeded its limit.
const SAID: [&str; 12] = [
    "anon",
    "cache",
    "file",
    "kernel",
    "mapped_file",
    "rss",
    "shmem",
    "slab",
    "swap",
    "total_cache",
    "total_rss",
    "unevictable",
];

impl Isolator for CgroupsMem {
    fn name(&self) -> &'static str {
        "cgroups/mem"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        let Some(group) = join(&self.groups, self.name(), creation)? else { return Ok(()) };
        self.set(&group, Amounts::of(&creation.container), false)
    }

    fn update(&self, container: &Container) {
        let Some(group) = own(&self.groups, "memory", container) else { return };
        if let Err(sentence) = self.set(&group, Amounts::of(container), true) {
            tracing::warn!(container_id = container.id, sentence, "a container has not the memory that it should have");
        }
    }

    fn interval(&self) -> Option<Duration> {
        Some(LOOK)
    }

    fn watch(&self, containers: &[Container]) -> Vec<(String, Limitation)> {
        let exceeded = |container: &Container| Some((container.id.clone(), self.exceeded(container)?));
        containers.iter().filter_map(exceeded).collect()
    }

    fn ended(&self, container: &Container) -> Option<Limitation> {
        self.exceeded(container)
    }

    fn usage(&self, container: &Container, _: &[processes::Process], usage: &mut Usage) {
        let Some(group) = own(&self.groups, "memory", container) else { return };
        let stat = numbers(&group, "memory.stat");
        let of = |name: &str| stat.get(name).copied();
        let Amounts { given, most } = Amounts::of(container);
        (usage.mem_soft_limit_bytes, usage.mem_limit_bytes) = (Some(given), most);
        match self.groups.version() {
            Version::First => {
                usage.mem_total_bytes = number(&group, "memory.usage_in_bytes");
                if self.terms.limit_swap {
                    usage.mem_total_memsw_bytes = number(&group, "memory.memsw.usage_in_bytes");
                }
                usage.mem_kmem_usage_bytes = number(&group, "memory.kmem.usage_in_bytes");
                usage.mem_kmem_tcp_usage_bytes = number(&group, "memory.kmem.tcp.usage_in_bytes");
                usage.mem_cache_bytes = of("total_cache");
                usage.mem_file_bytes = of("total_cache");
                usage.mem_rss_bytes = of("total_rss");
                usage.mem_anon_bytes = of("total_rss");
                usage.mem_mapped_file_bytes = of("total_mapped_file");
                usage.mem_swap_bytes = of("total_swap");
                usage.mem_unevictable_bytes = of("total_unevictable");
            }
            Version::Second => {
                usage.mem_total_bytes = number(&group, "memory.current");
                usage.mem_cache_bytes = of("file");
                usage.mem_file_bytes = of("file");
                usage.mem_rss_bytes = of("anon");
                usage.mem_anon_bytes = of("anon");
                usage.mem_kmem_usage_bytes = of("kernel");
                usage.mem_mapped_file_bytes = of("file_mapped");
                usage.mem_swap_bytes = number(&group, "memory.swap.current");
                usage.mem_unevictable_bytes = of("unevictable");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(given: f64, most: Option<f64>) -> Container {
        let mem = Resource {
            name: "mem".into(),
            r#type: value::Type::Scalar as i32,
            scalar: Some(Scalar { value: given }),
            ..Resource::default()
        };
        let limits = most.map(|most| ("mem".to_owned(), most)).into_iter().collect();
        Container { id: "c".into(), resources: vec![mem], limits, ..Container::default() }
    }

    #[test]
    fn what_was_given_is_the_limit_unless_there_is_another() {
        let of = |given, most| Amounts::of(&container(given, most));
        assert_eq!(of(64.0, None), Amounts { given: 64 * MB, most: Some(64 * MB) });
        assert_eq!(of(64.0, Some(128.5)), Amounts { given: 64 * MB, most: Some(128 * MB + MB / 2) });
        assert_eq!(of(64.0, Some(f64::INFINITY)), Amounts { given: 64 * MB, most: None });
        assert_eq!(of(1.0, None), Amounts { given: 32 * MB, most: Some(32 * MB) });
    }
}
