//! Controllers that containers are put in and nothing is set of: `cgroups/cpuset`, `cgroups/hugetlb` and `cgroups/net_prio`. What
//! the agent's own group has of them its containers have, each in a group of its own that whoever runs the machine may change.

use super::join;
use crate::cgroups::Cgroups;
use crate::containerizer::Creation;
use crate::isolators::Isolator;

/// One of these.
#[derive(Clone, Debug)]
pub struct CgroupsPlain {
    name: &'static str,
    groups: Cgroups,
}

impl CgroupsPlain {
    /// By its name, on these groups.
    pub fn new(name: &'static str, groups: &Cgroups) -> CgroupsPlain {
        CgroupsPlain { name, groups: groups.clone() }
    }
}

impl Isolator for CgroupsPlain {
    fn name(&self) -> &'static str {
        self.name
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        join(&self.groups, self.name, creation).map(drop)
    }
}
