//! What roles have, as operators see it and as quota counts it: computed from State when somebody asks. What is given to
//! `a/b`, or reserved for it, is also `a`'s.

use crate::ids::FrameworkKey;
use crate::state::{Agent, State};
use api::resources::{Quantities, Resource, Resources, Value, is_at_or_below, role_ancestors};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What one role has, those below it included. Ports and items of sets count one each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Amounts {
    /// What tasks and executors hold.
    pub allocated: Quantities,
    /// What offers hold.
    pub offered: Quantities,
    /// What is reserved for it, used or not.
    pub reserved: Quantities,
    /// What its quota counts, apart from offers: all that is reserved for it, and whatever else its tasks and executors
    /// hold that may not be taken back at any time.
    pub consumed: Quantities,
    /// Who subscribed with it or holds something for it; not those of roles below it.
    pub frameworks: BTreeSet<FrameworkKey>,
}

impl Amounts {
    /// What is allocated or offered to it.
    pub fn held(&self) -> Quantities {
        let mut held = self.allocated.clone();
        held.add(&self.offered);
        held
    }
}

/// Every role that is known, by name. With a whitelist these are its roles and those above them, whatever frameworks say;
/// else those that a framework, a reservation, a quota or a weight names, and those above them.
pub fn known(state: &State, whitelist: Option<&BTreeSet<Arc<str>>>) -> BTreeMap<Arc<str>, Amounts> {
    let mut known = Known::default();
    for framework in state.frameworks.live.values() {
        for role in framework.roles.keys() {
            known.role(role).frameworks.insert(framework.key);
        }
        for resource in framework.used.values().flatten() {
            if let Some(role) = &resource.allocation_role {
                known.role(role).frameworks.insert(framework.key);
            }
        }
    }
    for agent in state.agents.live.values().filter(|agent| counts(agent)) {
        known.count(&agent.total, &agent.used);
    }
    for offer in state.offers.live.values() {
        let offered = offer.resources.all_quantities();
        known.each_over(&offer.role, |amounts| amounts.offered.add(&offered));
        known.role(&offer.role).frameworks.insert(offer.framework);
    }
    for role in state.roles.quotas.keys().chain(state.roles.weights.keys()) {
        known.role(role);
    }
    let Some(whitelist) = whitelist else { return known.0 };
    for role in whitelist {
        known.role(role);
    }
    known.0.retain(|role, _| whitelist.iter().any(|listed| is_at_or_below(listed, role)));
    known.0
}

/// What a role's quota counts, apart from offers.
pub fn consumed(state: &State, role: &str) -> Quantities {
    let mut consumed = Quantities::default();
    for agent in state.agents.live.values().filter(|agent| counts(agent)) {
        let reserved = agent.total.iter().filter(|resource| is_reserved(resource, role));
        let used = agent.used.iter().filter(|resource| is_given(resource, role) && !is_reserved(resource, role));
        reserved.chain(used).for_each(|resource| add(&mut consumed, resource));
    }
    consumed
}

/// What a role's limits count: scalars that are reserved for it or for a role below it, and those that nobody reserved and
/// that are offered or given to one of them, unless they may be taken back at any time.
pub fn charged(state: &State, role: &str) -> Quantities {
    if let Some(kept) = state.agents.charged.of(role) {
        return kept;
    }
    let mut charged = Quantities::default();
    for agent in state.agents.live.values() {
        each_charge(agent, |of, resource| {
            if is_at_or_below(of, role) {
                add(&mut charged, resource);
            }
        });
    }
    charged
}

/// What the limits of every role would count, as [`charged`] has it for one.
pub fn charges(state: &State) -> BTreeMap<Arc<str>, Quantities> {
    if let Some(kept) = state.agents.charged.all() {
        return kept;
    }
    let mut charges: BTreeMap<Arc<str>, Quantities> = BTreeMap::new();
    for agent in state.agents.live.values() {
        each_charge(agent, |role, resource| {
            for above in std::iter::once(role).chain(role_ancestors(role)) {
                match charges.get_mut(above) {
                    Some(sum) => add(sum, resource),
                    None => add(charges.entry(above.into()).or_default(), resource),
                }
            }
        });
    }
    charges
}

/// What limits count of one agent: each resource with the role whose limits, and those of the roles above it, count it.
pub(crate) fn each_charge(agent: &Agent, mut charge: impl FnMut(&str, &Resource)) {
    if !counts(agent) {
        return;
    }
    let is_scalar = |resource: &&Resource| matches!(resource.value, Value::Scalar(_));
    for resource in agent.total.iter().filter(is_scalar) {
        resource.reservation_role().into_iter().for_each(|role| charge(role, resource));
    }
    let given = agent.used.iter().chain(agent.offered.iter()).filter(is_scalar);
    for resource in given.filter(|resource| !resource.revocable && resource.reservations.is_empty()) {
        resource.allocation_role.as_deref().into_iter().for_each(|role| charge(role, resource));
    }
}

/// Whether an agent's resources count: while it is unreachable nobody can have them.
fn counts(agent: &Agent) -> bool {
    !agent.is_unreachable()
}

fn add(sum: &mut Quantities, resource: &Resource) {
    sum.add_one(resource.name.clone(), resource.quantity_milli());
}

fn is_reserved(resource: &Resource, role: &str) -> bool {
    resource.reservation_role().is_some_and(|holder| is_at_or_below(holder, role))
}

/// Whether it was given to the role or one below it, not to be taken back at any time.
fn is_given(resource: &Resource, role: &str) -> bool {
    !resource.revocable && resource.allocation_role.as_deref().is_some_and(|given| is_at_or_below(given, role))
}

#[derive(Default)]
struct Known(BTreeMap<Arc<str>, Amounts>);

impl Known {
    /// Known from now on, and all above it.
    fn role(&mut self, role: &str) -> &mut Amounts {
        if !self.0.contains_key(role) {
            for above in role_ancestors(role) {
                self.0.entry(above.into()).or_default();
            }
        }
        self.0.entry(role.into()).or_default()
    }

    fn each_over(&mut self, role: &str, change: impl Fn(&mut Amounts)) {
        self.role(role);
        for above in std::iter::once(role).chain(role_ancestors(role)) {
            self.0.get_mut(above).into_iter().for_each(&change);
        }
    }

    fn count(&mut self, total: &Resources, used: &Resources) {
        for resource in total {
            let Some(holder) = resource.reservation_role() else { continue };
            self.each_over(holder, |amounts| {
                add(&mut amounts.reserved, resource);
                add(&mut amounts.consumed, resource);
            });
        }
        for resource in used {
            let Some(role) = &resource.allocation_role else { continue };
            self.role(role);
            for above in std::iter::once(&**role).chain(role_ancestors(role)) {
                let Some(amounts) = self.0.get_mut(above) else { continue };
                add(&mut amounts.allocated, resource);
                if !resource.revocable && !is_reserved(resource, above) {
                    add(&mut amounts.consumed, resource);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Cluster;

    fn text(amounts: &Amounts) -> [String; 4] {
        [&amounts.allocated, &amounts.offered, &amounts.reserved, &amounts.consumed].map(ToString::to_string)
    }

    #[test]
    fn what_a_role_has_is_also_of_those_above_it() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe_with(|info| info.roles = vec!["a/b".into()]);
        cluster.agent("cpus:4;mem:100;ports:[1-10];cpus(a):2;mem(a/c):10");
        cluster.launch(framework, "t", "cpus:1;mem:10");
        cluster.offer();
        let known = known(&cluster.state, None);
        assert_eq!(known.keys().map(|role| &**role).collect::<Vec<_>>(), ["a", "a/b", "a/c"]);
        let offered = "cpus:5; mem:90; ports:10";
        assert_eq!(text(&known["a/b"]), ["cpus:1; mem:10", offered, "", "cpus:1; mem:10"]);
        assert_eq!(text(&known["a"]), ["cpus:1; mem:10", offered, "cpus:2; mem:10", "cpus:3; mem:20"]);
        assert_eq!(text(&known["a/c"]), ["", "", "mem:10", "mem:10"]);
        assert!(known["a"].frameworks.is_empty() && known["a/b"].frameworks.contains(&framework));
        for (role, amounts) in &known {
            assert_eq!(consumed(&cluster.state, role), amounts.consumed);
        }
        assert_eq!(charged(&cluster.state, "a").to_string(), "cpus:6; mem:110", "offers count, ports do not");
        assert_eq!(charged(&cluster.state, "a/b").to_string(), "cpus:4; mem:100", "what is a's counts for a");
        for (role, charges) in charges(&cluster.state) {
            assert_eq!(charged(&cluster.state, &role), charges, "{role}");
        }
    }

    #[test]
    fn what_is_consumed_is_reserved_or_given_and_what_is_offered_is_not() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus(web):1;mem(web):10");
        cluster.launch(framework, "reserved", "cpus(web):1;mem(web):10");
        let second = cluster.agent("cpus:10;mem:100");
        let offers = cluster.offer();
        let agent_id = api::v1::AgentId { value: crate::view::agent_id(&cluster.state, second) };
        let task = api::v1::TaskInfo { agent_id, ..crate::testing::task_info("plain", "cpus:10;mem:100") };
        cluster.accept(framework, &offers, vec![crate::testing::operation(vec![task])]);
        cluster.agent("cpus(web):100;mem(web):1000;ports(web):[100-199];cpus:1000;mem:10000;ports:[1000-1999]");
        cluster.offer();
        let amounts = &known(&cluster.state, None)["web"];
        assert_eq!(amounts.held().to_string(), "cpus:1111; mem:11110; ports:1100");
        assert_eq!(
            text(amounts),
            [
                "cpus:11; mem:110",
                "cpus:1100; mem:11000; ports:1100",
                "cpus:101; mem:1010; ports:100",
                "cpus:111; mem:1110; ports:100"
            ]
        );
    }

    #[test]
    fn a_whitelist_says_which_roles_are_known() {
        let mut cluster = Cluster::new();
        cluster.subscribe_with(|info| info.roles = vec!["other".into()]);
        let whitelist = ["a/b", "c"].into_iter().map(Arc::from).collect();
        let known = known(&cluster.state, Some(&whitelist));
        assert_eq!(known.keys().map(|role| &**role).collect::<Vec<_>>(), ["a", "a/b", "c"]);
    }
}
