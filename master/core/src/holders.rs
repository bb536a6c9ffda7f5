//! Who holds what without using it: offers that nobody has answered, reservations and volumes that no task uses, and
//! executors without tasks. Computed from State when somebody asks.

use crate::ids::{AgentKey, ExecutorId, FrameworkKey};
use crate::state::{Agent, State, Task};
use crate::view;
use api::resources::{Resource, Resources};
use api::v1;
use prost::Message;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Something that is held and not used.
#[derive(Clone, Debug, PartialEq)]
pub struct Holder {
    /// What kind of thing it is.
    pub what: Held,
    /// Its id: of an offer, a volume or an executor; empty for a plain reservation.
    pub id: String,
    /// Who holds it, if that is a framework.
    pub framework: Option<FrameworkKey>,
    /// For which role.
    pub role: Arc<str>,
    /// On which agent.
    pub agent: AgentKey,
    /// How much.
    pub resources: Resources,
    /// Since when, in milliseconds since the epoch; None if State does not know.
    pub since_ms: Option<u64>,
}

/// The kinds of what is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// An offer that its framework has not answered.
    Offer,
    /// A dynamic reservation of which nothing is used or offered.
    Reservation,
    /// A persistent volume that no task uses.
    Volume,
    /// A custom executor without tasks.
    Executor,
}

impl Held {
    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Held::Offer => "OFFER",
            Held::Reservation => "RESERVATION",
            Held::Volume => "VOLUME",
            Held::Executor => "EXECUTOR",
        }
    }
}

/// Everything that is held: offers by age, then what each agent has.
pub fn holders(state: &State) -> Vec<Holder> {
    let mut all: Vec<Holder> = state
        .offers
        .live
        .values()
        .map(|offer| Holder {
            what: Held::Offer,
            id: view::offer_id(state, offer.key),
            framework: Some(offer.framework),
            role: offer.role.clone(),
            agent: offer.agent,
            resources: offer.resources.unallocate(),
            since_ms: Some(offer.at_ms),
        })
        .collect();
    for agent in state.agents.live.values() {
        reserved(state, agent, &mut all);
        executors(state, agent, &mut all);
    }
    all
}

fn reserved(state: &State, agent: &Agent, all: &mut Vec<Holder>) {
    let is_left = |resource: &Resource| {
        resource.reservations.last().is_some_and(|last| last.dynamic) || resource.is_persistent_volume()
    };
    let mut idle = agent.total.filter(is_left);
    idle.saturating_sub(&agent.used.unallocate());
    idle.saturating_sub(&agent.offered.unallocate());
    for resource in &idle {
        let volume = resource.disk.as_ref().and_then(|disk| disk.persistence_id.as_ref());
        all.push(Holder {
            what: if volume.is_some() { Held::Volume } else { Held::Reservation },
            id: volume.map_or_else(String::new, ToString::to_string),
            framework: None,
            role: resource.reservation_role().unwrap_or("*").into(),
            agent: agent.key,
            resources: [resource.clone()].into_iter().collect(),
            since_ms: state.held.get(agent.key, resource),
        });
    }
}

fn executors(state: &State, agent: &Agent, all: &mut Vec<Holder>) {
    if agent.executors.is_empty() {
        return;
    }
    let busy: BTreeSet<(FrameworkKey, &ExecutorId)> = state
        .tasks
        .on(agent.key)
        .filter_map(|task| Some((task.framework, task.executor_id.as_ref().filter(|_| !task.is_terminal())?)))
        .collect();
    for ((framework, id), executor) in &agent.executors {
        if busy.contains(&(*framework, id)) {
            continue;
        }
        let role = executor.resources.iter().find_map(|resource| resource.allocation_role.clone());
        all.push(Holder {
            what: Held::Executor,
            id: id.to_string(),
            framework: Some(*framework),
            role: role.unwrap_or_else(|| "*".into()),
            agent: agent.key,
            resources: executor.resources.unallocate(),
            since_ms: idle_since(state, agent.key, *framework, id),
        });
    }
}

/// When the last task of an executor that is remembered ended.
fn idle_since(state: &State, agent: AgentKey, framework: FrameworkKey, id: &ExecutorId) -> Option<u64> {
    let completed = state.tasks.completed.range((framework, 0)..=(framework, u64::MAX)).map(|(_, task)| task);
    let ended = completed
        .chain(state.tasks.on(agent))
        .filter(|task| task.framework == framework && task.agent == agent && task.executor_id.as_ref() == Some(id));
    let at_ms = |task: &Arc<Task>| {
        let status = v1::TaskStatus::decode(task.statuses.last()?.clone()).ok()?;
        Some((status.timestamp? * 1000.0) as u64)
    };
    ended.filter_map(at_ms).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, conversion, executor, operation, reserved, task_on, volume};
    use api::v1::TaskState;

    fn told(cluster: &Cluster) -> Vec<String> {
        let line =
            |holder: &Holder| format!("{} {} {} {}", holder.what.name(), holder.id, holder.role, holder.resources);
        holders(&cluster.state).iter().map(line).collect()
    }

    #[test]
    fn offers_and_idle_executors_are_told() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        let offers = cluster.offer();
        assert_eq!(told(&cluster), ["OFFER C-O0 web cpus:4; mem:100"]);
        assert_eq!(holders(&cluster.state)[0].since_ms, Some(cluster.at_ms));
        let task = task_on(&executor("e"), "t", "cpus:1;mem:10");
        cluster.accept(framework, &offers, vec![operation(vec![task])]);
        assert_eq!(told(&cluster), [""; 0], "its executor is busy");
        cluster.acknowledge_orders(agent, 1);
        let task = (framework, "t".into());
        cluster.update(&task, TaskState::TaskFinished);
        assert_eq!(told(&cluster), ["EXECUTOR e web cpus:0.5; mem:1"]);
    }

    #[test]
    fn what_is_reserved_and_not_used_is_left_over_since_it_was_made() {
        let mut cluster = Cluster::new();
        cluster.raise();
        let framework = cluster.subscribe_with(|info| {
            let refined = Some(v1::framework_info::capability::Type::ReservationRefinement as i32);
            info.capabilities.push(v1::framework_info::Capability { r#type: refined });
        });
        cluster.agent("cpus:4;mem:400;disk:1000");
        cluster.offer();
        let (cpus, disk) = (reserved("cpus:1", &["web"]), reserved("disk:64", &["web"]));
        let reserve = |what| conversion(v1::offer::operation::Type::Reserve, what, None);
        let create = conversion(v1::offer::operation::Type::Create, &volume(&disk, "v1", false), None);
        cluster.accept_all(framework, vec![reserve(&cpus), reserve(&disk), create]);
        let made_ms = cluster.at_ms;
        cluster.at_ms += 10_000;
        let held = holders(&cluster.state);
        assert_eq!(
            held.iter().map(|it| (it.what, &*it.id, &*it.role)).collect::<Vec<_>>(),
            [(Held::Reservation, "", "web"), (Held::Volume, "v1", "web")]
        );
        assert!(held.iter().all(|holder| holder.since_ms == Some(made_ms)));
        let mut bytes = Vec::new();
        cluster.state.write_snapshot(&mut bytes).unwrap();
        assert_eq!(State::read_snapshot(&mut bytes.as_slice()).unwrap().held, cluster.state.held);
    }

    #[test]
    fn what_an_agent_was_started_with_is_not_left_over() {
        let mut cluster = Cluster::new();
        cluster.agent("cpus:4;mem(web):100");
        assert_eq!(told(&cluster), [""; 0]);
    }
}
