//! `cgroups/pids`: counts the processes and threads of a container, which the kernel keeps apart from those of others.

use supervisor::{cgroup, processes};

use super::{join, number, own};
use crate::cgroups::Cgroups;
use crate::container::{Container, Usage};
use crate::containerizer::Creation;
use crate::isolators::Isolator;

/// `cgroups/pids`
#[derive(Clone, Debug)]
pub struct CgroupsPids(Cgroups);

impl CgroupsPids {
    /// On these groups.
    pub fn new(groups: &Cgroups) -> CgroupsPids {
        CgroupsPids(groups.clone())
    }
}

impl Isolator for CgroupsPids {
    fn name(&self) -> &'static str {
        "cgroups/pids"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        join(&self.0, self.name(), creation).map(drop)
    }

    fn usage(&self, container: &Container, _: &[processes::Process], usage: &mut Usage) {
        let Some(group) = own(&self.0, "pids", container) else { return };
        let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        usage.threads = number(&group, "pids.current").map(count);
        usage.processes = cgroup::processes(&group).ok().map(|all| count(all.len() as u64));
    }
}
