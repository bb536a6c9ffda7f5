//! `cgroups/cpu`: a share of the processors that follows what was asked for; where there is a limit, or with
//! `--cgroups_enable_cfs`, no more than that, even if nobody else wants them.

use std::path::Path;

use supervisor::processes;

use super::{Limit, Terms, given, join, limit, numbers, own, read, write};
use crate::cgroups::{Cgroups, Version};
use crate::container::{Container, Usage};
use crate::containerizer::Creation;
use crate::isolators::Isolator;
use crate::isolators::posix::ticks_per_second;

/// Shares of one processor, in the first version; the least; those of one that is revocable.
const SHARES: i64 = 1024;
const SHARES_MIN: i64 = 2;
const SHARES_REVOCABLE: i64 = 10;
/// The same in the second version, which calls it weight.
const WEIGHT: i64 = 100;
const WEIGHT_REVOCABLE: i64 = 1;
const WEIGHT_MAX: i64 = 10_000;
/// How often time on processors is counted anew, in microseconds, and the least that there is.
const PERIOD_US: i64 = 100_000;
const QUOTA_US_MIN: i64 = 1_000;

fn shares(cpus_milli: i64, of_one: i64) -> i64 {
    (cpus_milli.saturating_mul(of_one) / 1000).max(SHARES_MIN)
}

fn weight(cpus_milli: i64, of_one: i64) -> i64 {
    (cpus_milli.saturating_mul(of_one) / 1000).clamp(1, WEIGHT_MAX)
}

/// In a period, of microseconds.
fn quota(cpus_milli: i64) -> i64 {
    (cpus_milli.saturating_mul(PERIOD_US) / 1000).max(QUOTA_US_MIN)
}

/// `cgroups/cpu`
#[derive(Clone, Debug)]
pub struct CgroupsCpu {
    groups: Cgroups,
    terms: Terms,
}

impl CgroupsCpu {
    /// On these groups.
    pub fn new(groups: &Cgroups, terms: Terms) -> CgroupsCpu {
        CgroupsCpu { groups: groups.clone(), terms }
    }

    /// In thousandths; none if a container may use all that nobody else wants.
    fn most(&self, container: &Container) -> Option<i64> {
        match limit(container, "cpus") {
            Some(Limit::Milli(most)) => Some(most),
            Some(Limit::None) => None,
            None => self.terms.enable_cfs.then(|| given(container, "cpus")),
        }
    }

    fn set(&self, group: &Path, container: &Container) -> Result<(), String> {
        let cpus_milli = given(container, "cpus");
        let revocable = self.terms.low_revocable
            && container.resources.iter().any(|one| one.name == "cpus" && one.revocable.is_some());
        let quota = self.most(container).map(quota);
        match self.groups.version() {
            Version::First => {
                write(group, "cpu.shares", shares(cpus_milli, if revocable { SHARES_REVOCABLE } else { SHARES }))?;
                // Where the kernel has it: what was not there need not be taken back.
                if quota.is_some() || group.join("cpu.cfs_quota_us").exists() {
                    write(group, "cpu.cfs_period_us", PERIOD_US)?;
                    write(group, "cpu.cfs_quota_us", quota.unwrap_or(-1))?;
                }
            }
            Version::Second => {
                write(group, "cpu.weight", weight(cpus_milli, if revocable { WEIGHT_REVOCABLE } else { WEIGHT }))?;
                let most = quota.map_or("max".to_owned(), |quota| quota.to_string());
                if quota.is_some() || group.join("cpu.max").exists() {
                    write(group, "cpu.max", format!("{most} {PERIOD_US}"))?;
                }
            }
        }
        Ok(())
    }
}

impl Isolator for CgroupsCpu {
    fn name(&self) -> &'static str {
        "cgroups/cpu"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        match join(&self.groups, self.name(), creation)? {
            Some(group) => self.set(&group, &creation.container),
            None => Ok(()),
        }
    }

    fn update(&self, container: &Container) {
        let Some(group) = own(&self.groups, "cpu", container) else { return };
        if let Err(sentence) = self.set(&group, container) {
            tracing::warn!(
                container_id = container.id,
                sentence,
                "a container has not the processors that it should have"
            );
        }
    }

    fn usage(&self, container: &Container, _: &[processes::Process], usage: &mut Usage) {
        let counted = if self.groups.version() == Version::First { "cpuacct" } else { "cpu" };
        let Some(group) = own(&self.groups, counted, container) else { return };
        let seconds = |count: Option<&u64>, in_a_second: f64| count.map(|count| *count as f64 / in_a_second);
        let Some(limits) = own(&self.groups, "cpu", container) else { return };
        let stat = numbers(&limits, "cpu.stat");
        match self.groups.version() {
            Version::First => {
                let used = numbers(&group, "cpuacct.stat");
                let ticks = ticks_per_second();
                usage.cpus_user_time_secs = seconds(used.get("user"), ticks);
                usage.cpus_system_time_secs = seconds(used.get("system"), ticks);
            }
            Version::Second => {
                usage.cpus_user_time_secs = seconds(stat.get("user_usec"), 1e6);
                usage.cpus_system_time_secs = seconds(stat.get("system_usec"), 1e6);
            }
        }
        usage.cpus_soft_limit = Some(given(container, "cpus") as f64 / 1000.0);
        if let Some(most) = self.most(container) {
            let count = |name: &str| stat.get(name).and_then(|count| u32::try_from(*count).ok());
            usage.cpus_limit = Some(most as f64 / 1000.0);
            usage.cpus_nr_periods = count("nr_periods");
            usage.cpus_nr_throttled = count("nr_throttled");
            let in_ns = seconds(stat.get("throttled_time"), 1e9);
            usage.cpus_throttled_time_secs = in_ns.or(seconds(stat.get("throttled_usec"), 1e6));
        }
        if self.terms.count_processes {
            let count = |file: &str| read(&group, file).ok().and_then(|text| u32::try_from(text.lines().count()).ok());
            usage.processes = count("cgroup.procs");
            usage.threads = count(if self.groups.version() == Version::First { "tasks" } else { "cgroup.threads" });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_a_share_and_a_period() {
        let shares = |milli| shares(milli, SHARES);
        let weight = |milli| weight(milli, WEIGHT);
        assert_eq!([shares(1000), shares(100), shares(0)], [1024, 102, 2]);
        assert_eq!([weight(1000), weight(100), weight(0), weight(1_000_000)], [100, 10, 1, 10_000]);
        assert_eq!([quota(1000), quota(2500), quota(1)], [100_000, 250_000, 1_000]);
    }
}
