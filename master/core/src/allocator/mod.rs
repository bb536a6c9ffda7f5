//! Who is offered what. [`plan`] is a pure function from State to a proposal: hierarchical dominant resource fairness
//! over roles, then frameworks; all that is left of an agent goes to one framework. The proposal comes back as a
//! command, and `accept_plan` checks each offer again: what has become stale meanwhile is left out.

mod fair;

use crate::decide::{Draft, Reply};
use crate::event::{OfferGroup, OfferItems, Offered, OffersMade};
use crate::ids::{AgentKey, FrameworkKey, OfferKey};
use crate::resources;
use crate::state::{Agent, Framework, State};
use api::resources::Resources;
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
    /// Collect reasons: for explanations, not for every run.
    pub explain: bool,
}

impl Default for Options {
    /// `cpus:0.01|mem:32`, no timeout.
    fn default() -> Options {
        Options {
            min_allocatable: vec![vec![("cpus".to_owned(), 10)], vec![("mem".to_owned(), 32_000)]],
            filter_gpu_resources: true,
            offer_timeout_ms: None,
            explain: false,
        }
    }
}

/// A proposal, and why it is not another one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// By framework and role.
    pub groups: Vec<PlanGroup>,
    /// How long the offers are for, in milliseconds.
    pub offer_timeout_ms: Option<u64>,
    /// Who was not offered what; only if asked for. Not logged.
    pub reasons: Vec<Reason>,
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

/// Why a framework was not offered something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Who.
    pub framework: FrameworkKey,
    /// For which role.
    pub role: Arc<str>,
    /// Of which agent; None: of any.
    pub agent: Option<AgentKey>,
    /// Why.
    pub why: WhyNot,
}

/// The reasons not to offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// It has no stream.
    Disconnected,
    /// It suppressed the role.
    Suppressed,
    /// It declined as much of the agent not long ago.
    Filtered,
    /// It did not ask for GPUs, which the agent has.
    HasGpus,
    /// What is left of the agent is less than the least that is offered.
    TooSmall,
}

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
    let mut reasons = Vec::new();
    let mut because = |framework: FrameworkKey, role: &Arc<str>, agent: Option<AgentKey>, why: WhyNot| {
        if options.explain {
            reasons.push(Reason { framework, role: role.clone(), agent, why });
        }
    };
    for framework in state.frameworks.live.values() {
        for (name, role) in &framework.roles {
            if !framework.is_connected() {
                because(framework.key, name, None, WhyNot::Disconnected);
            } else if role.suppressed {
                because(framework.key, name, None, WhyNot::Suppressed);
            }
        }
    }
    let mut groups: BTreeMap<(FrameworkKey, Arc<str>), Vec<AgentOffer>> = BTreeMap::new();
    let mut agents: Vec<(&Agent, Resources)> = state
        .agents
        .live
        .values()
        .filter(|agent| agent.is_offerable())
        .map(|agent| (agent.as_ref(), agent.free()))
        .filter(|(_, free)| is_allocatable(free, options))
        .collect();
    // The tree of roles is worth its price only if there is something to share.
    let mut roles = if agents.is_empty() { None } else { Some(Roles::new(state)) };
    shuffle(&mut agents, state.offers.plans);
    for (agent, mut free) in agents {
        let Some(roles) = &mut roles else { break };
        while is_allocatable(&free, options) {
            // The same for all frameworks of a role.
            let mut offerable: BTreeMap<Arc<str>, Resources> = BTreeMap::new();
            let winner = roles.first(&mut |role, framework| {
                let offered = offerable.entry(role.clone()).or_insert_with(|| resources::offerable(&free, role));
                let framework = state.frameworks.get(framework).expect("the tree has live frameworks");
                match why_not(agent, framework, role, offered, at_ms, options) {
                    None => true,
                    Some(why) => {
                        because(framework.key, role, Some(agent.key), why);
                        false
                    }
                }
            });
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
    Plan { groups: groups.collect(), offer_timeout_ms: options.offer_timeout_ms, reasons }
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
    is_filtered(framework, role, agent.key, offered, at_ms).then_some(WhyNot::Filtered)
}

fn is_filtered(framework: &Framework, role: &str, agent: AgentKey, offered: &Resources, at_ms: u64) -> bool {
    let filter = framework.roles.get(role).and_then(|role| role.filters.get(&agent));
    filter.is_some_and(|filter| filter.until_ms > at_ms && resources::contains(&filter.resources, offered))
}

fn is_allocatable(resources: &Resources, options: &Options) -> bool {
    if resources.is_empty() {
        return false;
    }
    let least = &options.min_allocatable;
    least.is_empty()
        || least.iter().any(|names| names.iter().all(|(name, milli)| resources.scalar_milli(name) >= *milli))
}

/// The same order for the same number, another one for the next: load spreads, and a replay sees what was seen.
fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut word = seed;
    for last in (1..items.len()).rev() {
        // splitmix64
        word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = word;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        items.swap(last, (mixed % (last as u64 + 1)) as usize);
    }
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
            let agent = state.agents.get(*key).filter(|agent| agent.is_offerable());
            let Some(agent) = agent else { continue };
            let free = free.entry(*key).or_insert_with(|| agent.free());
            let bare = resources::unallocated(offered);
            let is_stale = offered.is_empty()
                || bare.allocate(&group.role) != *offered
                || !resources::contains(free, &bare)
                || is_filtered(framework, &group.role, *key, offered, draft.at_ms);
            if is_stale {
                continue;
            }
            let is_whole = resources::offerable(free, &group.role) == *offered;
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
        let expires_ms = plan.offer_timeout_ms.map(|timeout_ms| draft.at_ms + timeout_ms);
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
        let reasons = plan(&cluster.state, 0, &Options { explain: true, ..Options::default() }).reasons;
        assert_eq!(reasons[0].why, WhyNot::HasGpus);
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
