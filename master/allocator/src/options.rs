//! What the allocator's operator may choose.

use crate::amounts::Amounts;
use api::resources::Name;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The choices.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// An offer holds at least one of these; none: anything will do.
    pub min_allocatable: Vec<Amounts>,
    /// Agents with GPUs are offered only to frameworks that ask for GPUs.
    pub filter_gpu_resources: bool,
    /// Names that do not count in shares.
    pub excluded: BTreeSet<Name>,
    /// How roles are ordered.
    pub role_sorter: Sorting,
    /// How the frameworks of a role are ordered.
    pub framework_sorter: Sorting,
    /// Where the masters are; None: no agent is elsewhere.
    pub region: Option<Arc<str>>,
    /// A role's limits hold for what is offered to roles below it too. In Mesos they do not: what those have counts, but
    /// they are offered more.
    pub limits_hold_below: bool,
}

/// How the next to be offered something is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sorting {
    /// Whoever has the least dominant share, by weight.
    #[default]
    DominantShare,
    /// Drawn anew for each agent, by weight. The same seed draws the same.
    Random,
}

impl Default for Options {
    /// `cpus:0.01|mem:32`, dominant shares.
    fn default() -> Options {
        let least = |name: Name, milli| {
            let mut least = Amounts::default();
            least.add_one(&name, milli);
            least
        };
        Options {
            min_allocatable: vec![least(Name::Cpus, 10), least(Name::Mem, 32_000)],
            filter_gpu_resources: true,
            excluded: BTreeSet::new(),
            role_sorter: Sorting::DominantShare,
            framework_sorter: Sorting::DominantShare,
            region: None,
            limits_hold_below: false,
        }
    }
}
