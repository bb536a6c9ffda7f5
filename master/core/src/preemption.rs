//! What would have to go so that a role gets what is guaranteed to it: first what is free, then offers, then tasks of
//! others. A plan only: nothing here is done.

use crate::ids::{OfferKey, TaskKey};
use crate::roles::consumed;
use crate::state::{Agent, State, Task};
use api::resources::{Quantities, Resources, is_at_or_below};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What it takes to give a role its guarantee.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preemption {
    /// What is guaranteed to the role.
    pub guarantee: Quantities,
    /// What it has of it.
    pub consumed: Quantities,
    /// What it lacks.
    pub lacking: Quantities,
    /// What of that is free on agents that are offered.
    pub free: Quantities,
    /// Offers to others that would have to be taken back, youngest first.
    pub offers: Vec<OfferKey>,
    /// Tasks of others that would have to end, in the order in which they are the least loss.
    pub tasks: Vec<Victim>,
    /// What would be lacking even then.
    pub still_lacking: Quantities,
}

/// A task that would have to end.
#[derive(Clone, Debug, PartialEq)]
pub struct Victim {
    /// Which.
    pub task: TaskKey,
    /// Why it is one of the least losses.
    pub why: Why,
}

/// Why a task may be taken rather than another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Nothing is guaranteed to its role.
    NoGuarantee,
    /// Its role has more than its guarantee.
    AboveGuarantee,
}

/// Plans it for `role`, by its own guarantee.
pub fn preemption(state: &State, role: &str) -> Preemption {
    let mut plan = Preemption { consumed: consumed(state, role), ..Preemption::default() };
    if let Some(quota) = state.roles.quota(role) {
        plan.guarantee = quota.guarantees.clone();
    }
    plan.lacking = plan.guarantee.clone();
    plan.lacking.saturating_sub(&plan.consumed);
    let mut missing = plan.lacking.clone();
    let usable = |agent: &&Arc<Agent>| agent.is_offerable();
    for agent in state.agents.live.values().filter(usable) {
        let free = agent.free().unreserved().non_revocable().scalar_quantities();
        plan.free.add(&part(&free, &plan.lacking));
        missing.saturating_sub(&free);
    }
    // Offers to the role itself are its own already, though they are not consumed yet.
    for offer in state.offers.live.values().rev() {
        if missing.is_empty() {
            break;
        }
        let held = gain(&offer.resources);
        let is_own = is_at_or_below(&offer.role, role);
        if part(&held, &missing).is_empty() {
            continue;
        }
        missing.saturating_sub(&held);
        if !is_own {
            plan.offers.push(offer.key);
        }
    }
    take_tasks(state, role, &mut missing, &mut plan.tasks);
    plan.still_lacking = missing;
    plan
}

/// Youngest first among equals: they lose the least work.
fn take_tasks(state: &State, role: &str, missing: &mut Quantities, victims: &mut Vec<Victim>) {
    if missing.is_empty() {
        return;
    }
    let mut above: BTreeMap<Arc<str>, Quantities> = BTreeMap::new();
    let mut candidates: Vec<(Why, u64, &Arc<Task>)> = Vec::new();
    for task in state.tasks.live.values() {
        let agent = state.agents.get(task.agent).filter(|agent| agent.is_offerable());
        if task.released || agent.is_none() || is_at_or_below(&task.role, role) {
            continue;
        }
        let why = match guaranteed(state, &task.role) {
            None => Why::NoGuarantee,
            Some(holder) => {
                above.entry(holder.into()).or_insert_with(|| surplus(state, holder));
                Why::AboveGuarantee
            }
        };
        candidates.push((why, u64::MAX - task.launched_ms, task));
    }
    candidates.sort_by_key(|(why, age, task)| (*why, *age, task.key()));
    for (why, _, task) in candidates {
        if missing.is_empty() {
            return;
        }
        let held = gain(&task.resources);
        if part(&held, missing).is_empty() {
            continue;
        }
        if why == Why::AboveGuarantee {
            let surplus = guaranteed(state, &task.role).and_then(|holder| above.get_mut(holder));
            let Some(surplus) = surplus else { continue };
            let counted = task.resources.non_revocable().scalar_quantities();
            if !surplus.contains(&counted) {
                continue;
            }
            surplus.saturating_sub(&counted);
        }
        missing.saturating_sub(&held);
        victims.push(Victim { task: task.key(), why });
    }
}

/// What a role has above its guarantee, of what is guaranteed; of the rest, all that it has.
fn surplus(state: &State, role: &str) -> Quantities {
    let mut surplus = consumed(state, role);
    if let Some(quota) = state.roles.quota(role) {
        surplus.saturating_sub(&quota.guarantees);
    }
    surplus
}

/// The nearest role, upwards, to which something is guaranteed.
fn guaranteed<'a>(state: &'a State, role: &'a str) -> Option<&'a str> {
    state.roles.quotas_over(role).find(|(_, quota)| !quota.guarantees.is_empty()).map(|(holder, _)| holder)
}

/// What others could have if this were given back. What may be taken back at any time was never a part of that.
fn gain(resources: &Resources) -> Quantities {
    resources.unallocate().unreserved().non_revocable().scalar_quantities()
}

/// Of each thing named in `wanted`, at most so much as is wanted.
fn part(have: &Quantities, wanted: &Quantities) -> Quantities {
    let mut part = Quantities::default();
    for (name, milli) in wanted.iter() {
        let milli = milli.min(have.get(name.as_str()));
        if milli > 0 {
            part.add_one(name.clone(), milli);
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Cluster;
    use api::v1::master::Call;

    fn guarantee(cluster: &mut Cluster, role: &str, cpus: f64) {
        let text = format!(
            r#"{{"type":"UPDATE_QUOTA","update_quota":{{"force":true,"quota_configs":[{{"role":"{role}",
            "guarantees":{{"cpus":{{"value":{cpus}}}}},"limits":{{"cpus":{{"value":{cpus}}}}}}}]}}}}"#
        );
        cluster.operator(api::json::from_slice::<Call>(text.as_bytes()).unwrap()).unwrap();
    }

    fn told(cluster: &Cluster, role: &str) -> String {
        let plan = preemption(&cluster.state, role);
        let tasks: Vec<String> = plan.tasks.iter().map(|it| format!("{} {:?}", it.task.1, it.why)).collect();
        let [lacking, free, still] = [&plan.lacking, &plan.free, &plan.still_lacking].map(ToString::to_string);
        format!("lacks {lacking} | free {free} | offers {} | {} | still {still}", plan.offers.len(), tasks.join(", "))
    }

    #[test]
    fn what_is_free_goes_first_then_offers_then_the_youngest_tasks_of_others() {
        let mut cluster = Cluster::new();
        cluster.raise();
        let framework = cluster.subscribe();
        cluster.agent("cpus:4;mem:100");
        guarantee(&mut cluster, "db", 2.0);
        assert_eq!(told(&cluster, "db"), "lacks cpus:2 | free cpus:2 | offers 0 |  | still ");
        guarantee(&mut cluster, "db", 0.0);
        cluster.launch(framework, "old", "cpus:1;mem:1");
        cluster.at_ms += 10_000;
        cluster.launch(framework, "young", "cpus:1;mem:1");
        cluster.at_ms += 10_000;
        cluster.offer();
        guarantee_without_rescinding(&mut cluster, "db", 3.0);
        assert_eq!(told(&cluster, "db"), "lacks cpus:3 | free  | offers 1 | young NoGuarantee | still ");
        guarantee_without_rescinding(&mut cluster, "db", 9.0);
        assert!(told(&cluster, "db").ends_with("young NoGuarantee, old NoGuarantee | still cpus:5"));
        assert_eq!(told(&cluster, "nobody"), "lacks  | free  | offers 0 |  | still ");
    }

    /// As a log might have it: offers that were made before stand.
    fn guarantee_without_rescinding(cluster: &mut Cluster, role: &str, cpus: f64) {
        let guarantees = Quantities::parse(&format!("cpus:{cpus}")).unwrap();
        let quota = crate::state::roles::Quota { guarantees, ..Default::default() };
        cluster.state.roles.quotas.insert(role.into(), Arc::new(quota));
    }
}
