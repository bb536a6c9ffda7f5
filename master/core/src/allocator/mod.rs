//! Who is offered what. The allocator is a package of its own, a book of the cluster; here it meets State. [`plan`] is a
//! pure function from State to a proposal, and [`Ledger`] is the same for whoever asks often. The proposal comes back as a
//! command, and `accept_plan` checks each offer again: what has become stale meanwhile is left out.

mod ledger;
mod profile;
mod standing;
mod why;

pub use allocator::book::Figure;
pub use allocator::{Sorting, WEIGHT_MICRO};
pub use ledger::Ledger;
pub use standing::{FrameworkStanding, Standing, standings};
pub use why::{Reason, WhyNot, reasons, reasons_where, words};

use crate::decide::{Draft, Reply};
use crate::event::{OfferGroup, OfferItems, Offered, OffersMade};
use crate::ids::{AgentKey, FrameworkKey, OfferKey};
use crate::resources;
use crate::roles::charged;
use crate::state::{Agent, State};
use allocator::Amounts;
use api::resources::{Limits, Name, Quantities, Resources, role_ancestors};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the allocator's operator may choose.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// An offer holds at least one of these; none: anything will do.
    pub min_allocatable: Vec<Quantities>,
    /// Agents with GPUs are offered only to frameworks that ask for GPUs.
    pub filter_gpu_resources: bool,
    /// Names that do not count in shares.
    pub excluded: BTreeSet<Name>,
    /// How roles are ordered.
    pub role_sorter: Sorting,
    /// How the frameworks of a role are ordered.
    pub framework_sorter: Sorting,
    /// The region of the masters; None: no agent is elsewhere.
    pub region: Option<Arc<str>>,
    /// Only agents of these hosts are offered; None: all.
    pub whitelist: Option<BTreeSet<Arc<str>>>,
    /// Offers are taken back after this long, in milliseconds.
    pub offer_timeout_ms: Option<u64>,
    /// Weights in place of those that State has, in millionths, at least 1.
    pub weights_micro: BTreeMap<Arc<str>, u64>,
}

impl Default for Options {
    /// `cpus:0.01|mem:32`, no timeout.
    fn default() -> Options {
        let least = |name, milli| Quantities::from_iter([(name, milli)]);
        Options {
            min_allocatable: vec![least(Name::Cpus, 10), least(Name::Mem, 32_000)],
            filter_gpu_resources: true,
            excluded: BTreeSet::new(),
            role_sorter: Sorting::DominantShare,
            framework_sorter: Sorting::DominantShare,
            region: None,
            whitelist: None,
            offer_timeout_ms: None,
            weights_micro: BTreeMap::new(),
        }
    }
}

impl Options {
    fn for_book(&self) -> allocator::Options {
        allocator::Options {
            min_allocatable: self.min_allocatable.iter().map(Amounts::from).collect(),
            filter_gpu_resources: self.filter_gpu_resources,
            excluded: self.excluded.clone(),
            role_sorter: self.role_sorter,
            framework_sorter: self.framework_sorter,
            region: self.region.clone(),
            limits_hold_below: true,
        }
    }
}

/// A proposal. Why it is not another one is for [`reasons`] to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// By framework and role.
    pub groups: Vec<PlanGroup>,
    /// Whom to ask to leave which agent, by key.
    pub inverse: Vec<(FrameworkKey, AgentKey)>,
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
        self.groups.is_empty() && self.inverse.is_empty()
    }

    /// How many offers it has.
    pub fn len(&self) -> usize {
        self.groups.iter().map(|group| group.offers.len()).sum()
    }
}

/// Proposes offers at `at_ms`, in milliseconds since the epoch.
pub fn plan(state: &State, at_ms: u64, options: &Options) -> Plan {
    Ledger::of(state, options).plan(at_ms)
}

/// Makes the offers of a plan that are still possible.
pub(crate) fn accept_plan(draft: &mut Draft, plan: &Plan) -> Reply {
    let state = &draft.state;
    let mut free: BTreeMap<AgentKey, Resources> = BTreeMap::new();
    let mut quota = Room::of(state, plan);
    let mut groups = Vec::new();
    for group in &plan.groups {
        let Some(framework) = state.frameworks.get(group.framework) else { continue };
        let wanted = framework.roles.get(&group.role).is_some_and(|role| !role.suppressed);
        if !wanted || !framework.is_connected() || state.brakes.hold(group.framework, &group.role).is_some() {
            continue;
        }
        let mut items = Vec::with_capacity(group.offers.len());
        for (key, offered) in &group.offers {
            let agent = state.agents.get(*key).filter(|agent| agent.is_offerable() && !agent.is_behind());
            let Some(agent) = agent else { continue };
            let free = free.entry(*key).or_insert_with(|| free_of(state, agent));
            let bare = resources::unallocated(offered);
            let is_refused = state
                .filters_of(group.framework, &group.role, *key)
                .any(|filter| filter.until_ms > draft.at_ms && filter.resources.contains(offered));
            let is_stale = offered.is_empty()
                || bare.allocate(&group.role) != *offered
                || !resources::contains(free, &bare)
                || is_refused
                || !quota.take(&group.role, &bare);
            if is_stale {
                continue;
            }
            // Of what is shared there is as much for the next in this plan, but it is offered once; what an agent can
            // spare is not its own.
            let is_plain = agent.total.shared().is_empty() && bare.revocable().is_empty();
            let is_whole = is_plain && resources::offerable(&agent_free(free), &group.role) == *offered;
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

/// What of an agent can be offered, what it can spare included.
fn free_of(state: &State, agent: &Agent) -> Resources {
    let Some(spare) = state.oversubscribed.of(agent.key) else { return agent.free() };
    let mut free = spare.clone();
    free.saturating_sub(&resources::unallocated(&agent.used));
    free.saturating_sub(&resources::unallocated(&agent.offered));
    free.plus(&agent.free())
}

/// The same without what it can spare.
fn agent_free(free: &Resources) -> Resources {
    free.non_revocable()
}

/// What may still be offered under limits.
struct Room {
    left: BTreeMap<Arc<str>, Limits>,
}

impl Room {
    /// For the roles of a plan, and those above them.
    fn of(state: &State, plan: &Plan) -> Room {
        let mut left: BTreeMap<Arc<str>, Limits> = BTreeMap::new();
        for (role, quota) in &state.roles.quotas {
            let is_meant = |group: &PlanGroup| api::resources::is_at_or_below(&group.role, role);
            if !quota.limits.is_empty() && plan.groups.iter().any(is_meant) {
                left.insert(role.clone(), quota.limits.minus(&charged(state, role)));
            }
        }
        Room { left }
    }

    fn charge(&mut self, role: &str, sum: &Quantities) {
        for role in std::iter::once(role).chain(role_ancestors(role)) {
            if let Some(left) = self.left.get_mut(role) {
                *left = left.minus(sum);
            }
        }
    }

    /// Whether a role may be offered this too; it is counted then.
    fn take(&mut self, role: &str, offered: &Resources) -> bool {
        if self.left.is_empty() {
            return true;
        }
        let sum = quota_of(offered);
        let mut lineage = std::iter::once(role).chain(role_ancestors(role));
        let fits = lineage.all(|role| self.left.get(role).is_none_or(|left| left.allow(&sum)));
        if fits {
            self.charge(role, &sum);
        }
        fits
    }
}

/// What of the resources uses up quota, beside what is reserved.
fn quota_of(resources: &Resources) -> Quantities {
    resources.filter(|resource| resource.reservations.is_empty() && !resource.revocable).scalar_quantities()
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

    fn offers(cluster: &Cluster, options: &Options) -> Vec<(String, usize)> {
        let plan = plan(&cluster.state, cluster.at_ms, options);
        plan.groups.iter().map(|group| (group.role.to_string(), group.offers.len())).collect()
    }

    fn cluster(roles: &[&str], agents: usize) -> Cluster {
        let mut cluster = Cluster::new();
        for role in roles {
            cluster.subscribe_with(|info| info.roles = vec![(*role).into()]);
        }
        for _ in 0..agents {
            cluster.agent("cpus:1;mem:100");
        }
        cluster
    }

    fn weights(weights: &[(&str, u64)]) -> Options {
        let weights_micro = weights.iter().map(|(role, milli)| ((*role).into(), *milli * 1000)).collect();
        Options { weights_micro, ..Options::default() }
    }

    #[test]
    fn a_heavier_role_is_due_more() {
        let cluster = cluster(&["a", "b"], 12);
        assert_eq!(offers(&cluster, &Options::default()), [("a".into(), 6), ("b".into(), 6)]);
        assert_eq!(offers(&cluster, &weights(&[("a", 3000)])), [("a".into(), 9), ("b".into(), 3)]);
        assert_eq!(offers(&cluster, &weights(&[("a", 500)])), [("a".into(), 4), ("b".into(), 8)]);
    }

    #[test]
    fn a_weight_counts_among_siblings() {
        let cluster = cluster(&["a/x", "a/y", "b"], 12);
        let options = weights(&[("a", 3000), ("a/x", 2000)]);
        assert_eq!(offers(&cluster, &options), [("a/x".into(), 6), ("a/y".into(), 3), ("b".into(), 3)]);
    }

    fn random() -> Options {
        Options { role_sorter: Sorting::Random, framework_sorter: Sorting::Random, ..Options::default() }
    }

    /// Roles as an earlier release took them: as deep as they were written, the tree is not.
    #[test]
    fn a_role_of_any_depth_is_offered_to() {
        let deep = vec!["a"; 100_000].join("/");
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:1;mem:100");
        cluster.fold_role(framework, &deep);
        for options in [Options::default(), random()] {
            assert_eq!(offers(&cluster, &options), [(deep.clone(), 1)]);
        }
        let standings = standings(&cluster.state, &Options::default(), &Plan::default());
        assert_eq!(*standings.last().unwrap().role, *deep);
    }

    #[test]
    fn chance_goes_by_weight_and_is_the_same_again() {
        let cluster = cluster(&["a", "b"], 300);
        let options = Options { weights_micro: weights(&[("a", 3000)]).weights_micro, ..random() };
        let drawn = offers(&cluster, &options);
        assert!((200..250).contains(&drawn[0].1), "{drawn:?}");
        assert_eq!(drawn, offers(&cluster, &options));
    }

    #[test]
    fn between_equal_shares_whoever_had_fewer_turns_is_next() {
        let mut cluster = Cluster::new();
        cluster.raise();
        let frameworks = [cluster.subscribe(), cluster.subscribe()];
        cluster.agent("cpus:1;mem:100");
        let mut turns = [0, 0];
        for _ in 0..10 {
            let offers = cluster.offer();
            let whose = cluster.state.offers.get(offers[0]).unwrap().framework;
            let at = frameworks.iter().position(|key| *key == whose).unwrap();
            turns[at] += 1;
            cluster.decline(whose, &offers, Some(0.0));
        }
        assert_eq!(turns, [5, 5]);
    }

    #[test]
    fn a_ledger_that_follows_proposes_what_a_new_one_does() {
        let mut cluster = cluster(&["a", "a/x", "b"], 4);
        let mut ledger = Ledger::of(&cluster.state, &Options::default());
        let check = |cluster: &Cluster, ledger: &mut Ledger| {
            ledger.follow(&cluster.state);
            let expected = plan(&cluster.state, cluster.at_ms, &Options::default());
            assert_eq!(ledger.plan(cluster.at_ms), expected);
        };
        check(&cluster, &mut ledger);
        let offers = cluster.offer();
        check(&cluster, &mut ledger);
        let framework = cluster.state.offers.get(offers[0]).unwrap().framework;
        cluster.decline(framework, &offers, Some(60.0));
        check(&cluster, &mut ledger);
        cluster.at_ms += 60_000;
        check(&cluster, &mut ledger);
        cluster.agent("cpus:3;mem:10;gpus:1");
        cluster.agent_disconnected(AgentKey(0));
        check(&cluster, &mut ledger);
    }

    #[test]
    fn an_offer_that_limits_no_longer_allow_is_not_made() {
        let mut cluster = cluster(&["a", "a/x"], 2);
        let plan = plan(&cluster.state, cluster.at_ms, &Options::default());
        assert_eq!(plan.len(), 2);
        let quota = crate::state::roles::Quota {
            limits: Limits::parse("cpus:1;mem:100").unwrap(),
            ..crate::state::roles::Quota::default()
        };
        cluster.state.roles.set_quota(&"a".into(), &quota);
        cluster.state.agents.keep_charged(true);
        assert_eq!(cluster.make_offers(plan).len(), 1, "for a and all below it");
        assert!(cluster.offer().is_empty());
        let (options, plan) = (Options::default(), Plan::default());
        let told = reasons(&cluster.state, cluster.at_ms, &options, &plan);
        assert!(told.iter().any(|reason| reason.why == WhyNot::OverLimit), "{told:?}");
    }
}
