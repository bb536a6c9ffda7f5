//! Who is offered what. [`plan`] is a pure function from State to a proposal: hierarchical dominant resource fairness
//! over roles, then frameworks; all that is left of an agent goes to one framework. The proposal comes back as a
//! command, and `accept_plan` checks each offer again: what has become stale meanwhile is left out.

mod dice;
mod fair;
mod why;

pub use fair::{FrameworkStanding, Standing, standings};
pub use why::{Reason, WhyNot, reasons};

use crate::decide::{Draft, Reply};
use crate::event::{OfferGroup, OfferItems, Offered, OffersMade};
use crate::ids::{AgentKey, FrameworkKey, OfferKey};
use crate::resources;
use crate::state::{Agent, Framework, State};
use api::resources::Resources;
use dice::Dice;
use fair::Roles;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the allocator's operator may choose.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// An offer holds at least one of these, each a set of scalars by name in thousandths; none: anything will do.
    pub min_allocatable: Vec<Vec<(String, i64)>>,
    /// Agents with GPUs are offered only to frameworks that ask for GPUs.
    pub filter_gpu_resources: bool,
    /// Offers are taken back after this long, in milliseconds.
    pub offer_timeout_ms: Option<u64>,
    /// Who is next.
    pub policy: Policy,
    /// What each role's share counts for among its siblings, in thousandths, at least 1: one of 2,000 is due twice as
    /// much as one of 1,000. A role that is not named has [`WEIGHT_MILLI`]. A role's name stands for all below it.
    pub weights_milli: BTreeMap<Arc<str>, u64>,
}

/// The weight of a role that has no other.
pub const WEIGHT_MILLI: u64 = 1000;

/// How the next to be offered something is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Whoever has the least dominant share, by weight.
    #[default]
    DominantShare,
    /// Drawn anew for each offer, by weight. The same State draws the same.
    Random,
}

impl Default for Options {
    /// `cpus:0.01|mem:32`, no timeout.
    fn default() -> Options {
        Options {
            min_allocatable: vec![vec![("cpus".to_owned(), 10)], vec![("mem".to_owned(), 32_000)]],
            filter_gpu_resources: true,
            offer_timeout_ms: None,
            policy: Policy::DominantShare,
            weights_milli: BTreeMap::new(),
        }
    }
}

/// A proposal. Why it is not another one is for [`reasons`] to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// By framework and role.
    pub groups: Vec<PlanGroup>,
    /// How long the offers are for, in milliseconds.
    pub offer_timeout_ms: Option<u64>,
}

/// What one role of one framework is to be offered.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanGroup {
    /// To whom.
    pub framework: FrameworkKey,
    /// For which role.
    pub role: Arc<str>,
    /// Of which agents, by key, what; with allocation role.
    pub offers: Vec<AgentOffer>,
}

/// An agent, and what is to be offered of it.
pub type AgentOffer = (AgentKey, Resources);

impl Plan {
    /// Whether it proposes nothing.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// How many offers it has.
    pub fn len(&self) -> usize {
        self.groups.iter().map(|group| group.offers.len()).sum()
    }
}

/// Proposes offers at `at_ms`, in milliseconds since the epoch.
pub fn plan(state: &State, at_ms: u64, options: &Options) -> Plan {
    let mut groups: BTreeMap<(FrameworkKey, Arc<str>), Vec<AgentOffer>> = BTreeMap::new();
    let mut agents: Vec<(&Agent, Resources)> = state
        .agents
        .live
        .values()
        .filter(|agent| agent.is_offerable() && !agent.is_behind())
        .map(|agent| (agent.as_ref(), agent.free()))
        .filter(|(_, free)| is_allocatable(free, options))
        .collect();
    // The tree of roles is worth its price only if there is something to share.
    let mut roles = if agents.is_empty() { None } else { Some(Roles::new(state, options)) };
    // The same order for the same number, another one for the next: load spreads, and a replay sees what was seen.
    let mut dice = Dice::new(state.offers.plans);
    dice.shuffle(&mut agents);
    for (agent, mut free) in agents {
        let Some(roles) = &mut roles else { break };
        while is_allocatable(&free, options) {
            // The same for all frameworks of a role.
            let mut offerable: BTreeMap<Arc<str>, Resources> = BTreeMap::new();
            let may = &mut |role: &Arc<str>, framework| {
                let offered = offerable.entry(role.clone()).or_insert_with(|| resources::offerable(&free, role));
                let framework = state.frameworks.get(framework).expect("the tree has live frameworks");
                why_not(agent, framework, role, offered, at_ms, options).is_none()
            };
            let winner = match options.policy {
                Policy::DominantShare => roles.first(may),
                Policy::Random => roles.any(&mut dice, may),
            };
            let Some((role, framework)) = winner else { break };
            let offered = offerable.remove(&role).unwrap_or_default();
            roles.charge(&role, framework, &offered);
            free = resources::minus(&free, &resources::unallocated(&offered));
            groups.entry((framework, role)).or_default().push((agent.key, offered));
        }
    }
    let groups = groups.into_iter().map(|((framework, role), mut offers)| {
        offers.sort_by_key(|(agent, _)| *agent);
        PlanGroup { framework, role, offers }
    });
    Plan { groups: groups.collect(), offer_timeout_ms: options.offer_timeout_ms }
}

/// Why this framework cannot be offered this for this role, apart from fairness.
fn why_not(
    agent: &Agent,
    framework: &Framework,
    role: &Arc<str>,
    offered: &Resources,
    at_ms: u64,
    options: &Options,
) -> Option<WhyNot> {
    if options.filter_gpu_resources && !framework.capabilities.gpu_resources && agent.total.scalar_milli("gpus") > 0 {
        return Some(WhyNot::HasGpus);
    }
    if !is_allocatable(offered, options) {
        return Some(WhyNot::TooSmall);
    }
    filtered_until(framework, role, agent.key, offered, at_ms).map(|until_ms| WhyNot::Filtered { until_ms })
}

/// Until when the framework does not want this again, in milliseconds since the epoch.
fn filtered_until(framework: &Framework, role: &str, agent: AgentKey, offered: &Resources, at_ms: u64) -> Option<u64> {
    let filter = framework.roles.get(role).and_then(|role| role.filters.get(&agent))?;
    (filter.until_ms > at_ms && resources::contains(&filter.resources, offered)).then_some(filter.until_ms)
}

fn is_allocatable(resources: &Resources, options: &Options) -> bool {
    if resources.is_empty() {
        return false;
    }
    let least = &options.min_allocatable;
    least.is_empty()
        || least.iter().any(|names| names.iter().all(|(name, milli)| resources.scalar_milli(name) >= *milli))
}

/// Makes the offers of a plan that are still possible.
pub(crate) fn accept_plan(draft: &mut Draft, plan: &Plan) -> Reply {
    let state = &draft.state;
    let mut free: BTreeMap<AgentKey, Resources> = BTreeMap::new();
    let mut groups = Vec::new();
    for group in &plan.groups {
        let Some(framework) = state.frameworks.get(group.framework) else { continue };
        let wanted = framework.roles.get(&group.role).is_some_and(|role| !role.suppressed);
        if !wanted || !framework.is_connected() {
            continue;
        }
        let mut items = Vec::with_capacity(group.offers.len());
        for (key, offered) in &group.offers {
            let agent = state.agents.get(*key).filter(|agent| agent.is_offerable() && !agent.is_behind());
            let Some(agent) = agent else { continue };
            let free = free.entry(*key).or_insert_with(|| agent.free());
            let bare = resources::unallocated(offered);
            let is_stale = offered.is_empty()
                || bare.allocate(&group.role) != *offered
                || !resources::contains(free, &bare)
                || filtered_until(framework, &group.role, *key, offered, draft.at_ms).is_some();
            if is_stale {
                continue;
            }
            // Of what is shared there is as much for the next in this plan, but it is offered once.
            let is_plain = agent.total.shared().is_empty();
            let is_whole = is_plain && resources::offerable(free, &group.role) == *offered;
            *free = resources::minus(free, &bare);
            items.push((*key, if is_whole { Offered::Whole } else { Offered::Part(offered.clone()) }));
        }
        if !items.is_empty() {
            let (framework, role) = (group.framework, group.role.clone());
            groups.push(OfferGroup { framework, role, offers: OfferItems(items) });
        }
    }
    if !groups.is_empty() {
        let first = OfferKey(draft.state.offers.next);
        let expires_ms = plan.offer_timeout_ms.map(|timeout_ms| draft.at_ms.saturating_add(timeout_ms));
        draft.push(OffersMade { first, groups, expires_ms });
    }
    Reply::Empty
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Cluster;

    fn shares(cluster: &Cluster) -> Vec<usize> {
        cluster.state.frameworks.live.keys().map(|key| cluster.state.offers.to(*key).count()).collect()
    }

    #[test]
    fn agents_are_shared_fairly() {
        let mut cluster = Cluster::new();
        for _ in 0..3 {
            cluster.subscribe();
        }
        for _ in 0..12 {
            cluster.agent("cpus:1;mem:100");
        }
        assert_eq!(cluster.offer().len(), 12);
        assert_eq!(shares(&cluster), [4, 4, 4]);
    }

    #[test]
    fn roles_share_before_their_frameworks_do() {
        let mut cluster = Cluster::new();
        for role in ["a/x", "a/y", "a", "b"] {
            cluster.subscribe_with(|info| info.roles = vec![role.into()]);
        }
        for _ in 0..12 {
            cluster.agent("cpus:1;mem:100");
        }
        cluster.offer();
        assert_eq!(shares(&cluster), [2, 2, 2, 6], "a and b share, then what is in a");
    }

    #[test]
    fn whoever_has_less_is_next() {
        let mut cluster = Cluster::new();
        let rich = cluster.subscribe();
        cluster.agent("cpus:8;mem:100");
        cluster.launch(rich, "t", "cpus:4;mem:10");
        cluster.subscribe();
        cluster.at_ms += 10_000;
        assert_eq!(cluster.offer().len(), 1);
        assert_eq!(shares(&cluster), [0, 1]);
    }

    #[test]
    fn reserved_resources_go_to_their_role() {
        let mut cluster = Cluster::new();
        let web = cluster.subscribe_with(|info| info.roles = vec!["web".into()]);
        let db = cluster.subscribe_with(|info| info.roles = vec!["db/a".into()]);
        cluster.agent("cpus:1;mem:100;cpus(db):3;mem(db):100");
        cluster.offer();
        let cpus = |framework| {
            let offers = cluster.state.offers.to(framework);
            offers.map(|key| cluster.state.offers.get(key).unwrap().resources.scalar_milli("cpus")).sum::<i64>()
        };
        assert_eq!(cpus(web) + cpus(db), 4000);
        assert!(cpus(db) >= 3000);
    }

    #[test]
    fn gpus_are_for_those_who_ask() {
        let mut cluster = Cluster::new();
        cluster.subscribe();
        cluster.agent("cpus:1;mem:100;gpus:1");
        assert!(cluster.offer().is_empty());
        let (options, plan) = (Options::default(), Plan::default());
        assert_eq!(reasons(&cluster.state, 0, &options, &plan)[0].why, WhyNot::HasGpus);
    }

    #[test]
    fn too_little_is_not_offered() {
        let mut cluster = Cluster::new();
        cluster.subscribe();
        cluster.agent("cpus:0.009;mem:31;disk:1000");
        assert!(cluster.offer().is_empty());
        cluster.agent("cpus:0.01");
        assert_eq!(cluster.offer().len(), 1);
    }

    #[test]
    fn a_stale_plan_offers_what_is_still_there() {
        let mut cluster = Cluster::new();
        cluster.subscribe();
        let away = cluster.agent("cpus:1;mem:100");
        cluster.agent("cpus:1;mem:100");
        let plan = plan(&cluster.state, cluster.at_ms, &Options::default());
        cluster.agent_disconnected(away);
        assert_eq!(cluster.make_offers(plan.clone()).len(), 1);
        assert!(cluster.make_offers(plan).is_empty(), "nor twice");
    }

    #[test]
    fn an_offer_and_its_decline_are_few_bytes() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        for _ in 0..1000 {
            cluster.agent("cpus:1;mem:100;ports:[31000-32000]");
        }
        let offers = cluster.offer();
        let mut bytes: usize = cluster.events.iter().map(|event| event.encode().2.len()).sum();
        cluster.decline(framework, &offers, None);
        bytes += cluster.events.iter().map(|event| event.encode().2.len()).sum::<usize>();
        assert!(bytes / 1000 <= 4, "{bytes} bytes for 1,000 offers");
    }
}
