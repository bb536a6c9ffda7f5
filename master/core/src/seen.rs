//! State as somebody sees it who may not see all of it. Whatever is shown to them is made of this, so that nothing is
//! shown by mistake; only roles, and what agents have, are looked at one by one where they are shown.

use crate::ids::FrameworkKey;
use crate::state::brakes::Brake;
use crate::state::{Agent, Executor, Framework, State, Task};
use api::resources::{Resource, Resources};
use auth::{Sieve, Sight};
use bytes::Bytes;
use imbl::{OrdMap, OrdSet};
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What of `state` whoever has this sight sees.
pub fn seen(state: &State, sight: &Sight) -> State {
    let mut seen = state.clone();
    if !(sight.frameworks.passes_all() && sight.tasks.passes_all() && sight.executors.passes_all()) {
        let users = Users::of(state);
        let visible = |framework: &Framework| sight.frameworks.passes(Some(users.of_framework(framework.key)));
        hide_frameworks(&mut seen, state, &visible);
        hide_tasks(&mut seen, state, &sight.tasks, &users);
        hide_executors(&mut seen, state, &sight.executors, &users);
    }
    if !sight.quotas.passes_all() {
        let quotas = state.roles.quotas.iter().filter(|(role, _)| sight.quotas.passes(Some(role)));
        seen.roles.quotas = quotas.map(owned).collect();
    }
    if !sight.roles.passes_all() {
        let weights = state.roles.weights.iter().filter(|(role, _)| sight.roles.passes(Some(role)));
        seen.roles.weights = weights.map(owned).collect();
        let is_seen = |resources: &Resources| resources.iter().all(|resource| sees(&sight.roles, resource));
        let operations = seen.operations.live.iter();
        let operations = operations.filter(|(_, one)| is_seen(&one.consumed) && is_seen(&one.produced));
        seen.operations.live = operations.map(owned).collect();
        let hidden = |brake: &Brake| matches!(brake, Brake::Role(role) if !sight.roles.passes(Some(role)));
        let pulled = seen.brakes.pulled.iter().filter(|(brake, _)| !hidden(brake));
        seen.brakes.pulled = pulled.map(owned).collect();
    }
    if !sight.schedule {
        seen.maintenance.windows = Vec::new();
    }
    if !sight.machines {
        seen.maintenance.machines = OrdMap::new();
    }
    seen
}

/// Whether a resource is seen by whoever sees these roles: all that it is reserved for, and the one that it is given to.
pub fn sees(roles: &Sieve, resource: &Resource) -> bool {
    let mut reserved = resource.reservations.iter().map(|reservation| &*reservation.role);
    reserved.all(|role| roles.passes(Some(role)))
        && resource.allocation_role.as_deref().is_none_or(|role| roles.passes(Some(role)))
}

/// The user of a task: its own, or its executor's; `framework` is the user of its framework.
pub fn task_user(task: &Task, framework: &str) -> String {
    let info = OfTask::decode(task.info.clone()).unwrap_or_default();
    let of_executor = || info.executor.and_then(|executor| executor.command).and_then(|command| command.user);
    let own = info.command.and_then(|command| command.user);
    own.or_else(of_executor).unwrap_or_else(|| framework.to_owned())
}

fn executor_user(info: &Bytes) -> Option<String> {
    OfExecutor::decode(info.clone()).unwrap_or_default().command.and_then(|command| command.user)
}

/// The user of a framework.
pub fn framework_user(framework: &Framework) -> String {
    OfFramework::decode(framework.info.clone()).unwrap_or_default().user
}

/// Of a `FrameworkInfo`, as of the others below only what is asked for here: the rest is passed over.
#[derive(Clone, PartialEq, Message)]
struct OfFramework {
    #[prost(string, tag = "1")]
    user: String,
}

#[derive(Clone, PartialEq, Message)]
struct OfTask {
    #[prost(message, optional, tag = "5")]
    executor: Option<OfExecutor>,
    #[prost(message, optional, tag = "7")]
    command: Option<OfCommand>,
}

#[derive(Clone, PartialEq, Message)]
struct OfExecutor {
    #[prost(message, optional, tag = "7")]
    command: Option<OfCommand>,
}

#[derive(Clone, PartialEq, Message)]
struct OfCommand {
    #[prost(string, optional, tag = "5")]
    user: Option<String>,
}

/// Whom frameworks run as, read once.
struct Users(BTreeMap<FrameworkKey, String>);

impl Users {
    fn of(state: &State) -> Users {
        let live = state.frameworks.live.values();
        let completed = state.frameworks.completed.values().map(|completed| &completed.framework);
        Users(live.chain(completed).map(|framework| (framework.key, framework_user(framework))).collect())
    }

    fn of_framework(&self, key: FrameworkKey) -> &str {
        self.0.get(&key).map_or("", String::as_str)
    }
}

fn owned<K: Clone, V: Clone>((key, value): (&K, &V)) -> (K, V) {
    (key.clone(), value.clone())
}

fn hide_frameworks(seen: &mut State, state: &State, visible: &impl Fn(&Framework) -> bool) {
    let frameworks = &state.frameworks;
    let live = frameworks.live.iter().filter(|(_, framework)| visible(framework));
    seen.frameworks.live = live.map(owned).collect();
    let completed = frameworks.completed.iter().filter(|(_, completed)| visible(&completed.framework));
    seen.frameworks.completed = completed.map(owned).collect();
    let known: OrdSet<FrameworkKey> = seen
        .frameworks
        .live
        .keys()
        .copied()
        .chain(seen.frameworks.completed.values().map(|completed| completed.framework.key))
        .collect();
    let by_id = frameworks.by_id.iter().filter(|(_, key)| known.contains(*key));
    seen.frameworks.by_id = by_id.map(owned).collect();
    let by_role = frameworks.by_role.iter().filter(|(_, key)| known.contains(key));
    seen.frameworks.by_role = by_role.cloned().collect();
    let offers = state.offers.live.iter().filter(|(_, offer)| known.contains(&offer.framework));
    seen.offers.live = offers.map(owned).collect();
    let mine = |key: &Option<FrameworkKey>| key.is_none_or(|key| known.contains(&key));
    let operations = state.operations.live.iter().filter(|(_, operation)| mine(&operation.framework));
    seen.operations.live = operations.map(owned).collect();
    let asked = state.maintenance.inverse_offers.iter().filter(|(_, offer)| known.contains(&offer.framework));
    seen.maintenance.inverse_offers = asked.map(owned).collect();
    let answers = state.maintenance.answers.iter().filter(|((_, framework), _)| known.contains(framework));
    seen.maintenance.answers = answers.map(owned).collect();
    let is_hidden = |brake: &Brake| matches!(brake, Brake::Framework(key) if !known.contains(key));
    let pulled = state.brakes.pulled.iter().filter(|(brake, _)| !is_hidden(brake));
    seen.brakes.pulled = pulled.map(owned).collect();
}

/// What tasks of the frameworks that are seen are seen; theirs lie side by side.
fn hide_tasks(seen: &mut State, state: &State, tasks: &Sieve, users: &Users) {
    let live = seen.frameworks.live.keys().copied();
    let completed = seen.frameworks.completed.values().map(|completed| completed.framework.key);
    let keys: Vec<FrameworkKey> = live.chain(completed).collect();
    let is_seen = |task: &Task| {
        let framework = users.of_framework(task.framework);
        tasks.passes_all() || tasks.passes(Some(&task_user(task, framework)))
    };
    let of = |key: FrameworkKey| {
        let from = state.tasks.live.range((key, Arc::from(""))..);
        from.take_while(move |((framework, _), _)| *framework == key)
    };
    let live = keys.iter().flat_map(|key| of(*key)).filter(|(_, task)| is_seen(task));
    seen.tasks.live = live.map(owned).collect();
    let ended = keys.iter().flat_map(|key| state.tasks.completed.range((*key, 0)..=(*key, u64::MAX)));
    seen.tasks.completed = ended.filter(|(_, task)| is_seen(task)).map(owned).collect();
}

fn hide_executors(seen: &mut State, state: &State, executors: &Sieve, users: &Users) {
    let frameworks = seen.frameworks.live.clone();
    let is_seen = |framework: FrameworkKey, executor: &Executor| {
        let user = || executor_user(&executor.info).unwrap_or_else(|| users.of_framework(framework).to_owned());
        frameworks.contains_key(&framework) && (executors.passes_all() || executors.passes(Some(&user())))
    };
    for (key, agent) in &state.agents.live {
        if agent.executors.iter().all(|((framework, _), executor)| is_seen(*framework, executor)) {
            continue;
        }
        let left = agent.executors.iter().filter(|((framework, _), executor)| is_seen(*framework, executor));
        let left = left.map(owned).collect();
        seen.agents.live.insert(*key, Arc::new(Agent { executors: left, ..Agent::clone(agent) }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Cluster;
    use auth::{Acls, Authorizer, Subject};

    #[test]
    fn what_is_hidden_is_nowhere() {
        let mut cluster = Cluster::new();
        let of = |user: &'static str, role: &'static str| {
            move |info: &mut api::v1::FrameworkInfo| {
                info.user = user.into();
                info.roles = vec![role.into()];
            }
        };
        let mine = cluster.subscribe_with(of("me", "web"));
        cluster.agent("cpus:8;mem:800");
        cluster.launch(mine, "mine", "cpus:1;mem:10");
        cluster.suppress(mine, &[]);
        let theirs = cluster.subscribe_with(of("them", "db"));
        cluster.launch(theirs, "theirs", "cpus:1;mem:10");
        let ids = |state: &State| state.tasks.live.keys().map(|(_, id)| id.to_string()).collect::<Vec<_>>();
        assert_eq!(ids(&cluster.state), ["mine", "theirs"]);
        let acls = r#"{"view_frameworks": [{"principals": {"values": ["web"]}, "users": {"values": ["me"]}},
                                           {"principals": {"values": ["web"]}, "users": {"type": "NONE"}}]}"#;
        let approver = Authorizer::new(Acls::parse(acls).unwrap()).approver(Subject::named(Some("web")));
        let seen = seen(&cluster.state, &approver.sight().unwrap());
        assert_eq!(seen.frameworks.live.keys().copied().collect::<Vec<_>>(), [mine]);
        assert_eq!(ids(&seen), ["mine"]);
        let frameworks: Vec<&str> = seen.frameworks.by_id.keys().map(|id| &**id).collect();
        assert_eq!(frameworks, ["C-0000"]);
    }
}
