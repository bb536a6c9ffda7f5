//! How long what others write may be. Each refusal names the field and its bound; none of the bounds has a flag.

use api::limits::*;
use api::v1;
use prost::Message;

/// Whether `field` is short enough.
fn bytes(field: &str, length: usize, bytes_max: usize) -> Result<(), String> {
    if length <= bytes_max {
        return Ok(());
    }
    Err(format!("'{field}' has {length} bytes, more than the {bytes_max} that are allowed"))
}

/// Whether there are few enough of something, which `what` names in the plural.
pub(crate) fn count(what: &str, number: usize, most: usize) -> Result<(), String> {
    if number <= most { Ok(()) } else { Err(format!("{number} {what} are more than the {most} that are allowed")) }
}

fn text(field: &str, text: Option<&String>, bytes_max: usize) -> Result<(), String> {
    bytes(field, text.map_or(0, String::len), bytes_max)
}

fn labels(field: &str, labels: Option<&v1::Labels>) -> Result<(), String> {
    bytes(field, labels.map_or(0, Message::encoded_len), LABELS_BYTES_MAX)
}

/// A framework, apart from its roles.
pub(crate) fn framework(info: &v1::FrameworkInfo) -> Result<(), String> {
    bytes("FrameworkInfo", info.encoded_len(), FRAMEWORK_INFO_BYTES_MAX)?;
    bytes("FrameworkInfo.name", info.name.len(), NAME_BYTES_MAX)?;
    bytes("FrameworkInfo.user", info.user.len(), USER_BYTES_MAX)?;
    text("FrameworkInfo.hostname", info.hostname.as_ref(), HOSTNAME_BYTES_MAX)?;
    text("FrameworkInfo.principal", info.principal.as_ref(), PRINCIPAL_BYTES_MAX)?;
    labels("FrameworkInfo.labels", info.labels.as_ref())
}

/// Offer constraints.
pub(crate) fn offer_constraints(said: &v1::scheduler::OfferConstraints) -> Result<(), String> {
    bytes("offer_constraints", said.encoded_len(), OFFER_CONSTRAINTS_BYTES_MAX)
}

/// The name of a role.
pub(crate) fn role(name: &str) -> Result<(), String> {
    api::limits::role(name).map_or(Ok(()), Err)
}

/// A task, apart from its id and its executor.
pub(crate) fn task(info: &v1::TaskInfo) -> Result<(), String> {
    bytes("TaskInfo", info.encoded_len(), LAUNCH_BYTES_MAX)?;
    bytes("TaskInfo.name", info.name.len(), NAME_BYTES_MAX)?;
    labels("TaskInfo.labels", info.labels.as_ref())?;
    command("TaskInfo.command.user", info.command.as_ref())
}

/// An executor, apart from its id.
#[allow(deprecated)] // Clients still name a source.
pub(crate) fn executor(info: &v1::ExecutorInfo) -> Result<(), String> {
    bytes("ExecutorInfo", info.encoded_len(), LAUNCH_BYTES_MAX)?;
    text("ExecutorInfo.name", info.name.as_ref(), NAME_BYTES_MAX)?;
    text("ExecutorInfo.source", info.source.as_ref(), NAME_BYTES_MAX)?;
    labels("ExecutorInfo.labels", info.labels.as_ref())?;
    command("ExecutorInfo.command.user", info.command.as_ref())
}

fn command(field: &str, command: Option<&v1::CommandInfo>) -> Result<(), String> {
    text(field, command.and_then(|command| command.user.as_ref()), USER_BYTES_MAX)
}

/// The lists and contents of a call, as far as nobody else looks at them.
pub(crate) fn call(call: &v1::scheduler::Call) -> Result<(), String> {
    if let Some(accept) = &call.accept {
        count("operations", accept.operations.len(), CALL_OPERATIONS_MAX)?;
        let ids = accept.operations.iter().filter_map(|operation| operation.id.as_ref());
        ids.into_iter().try_for_each(|id| bytes("Operation.id", id.value.len(), ID_BYTES_MAX))?;
        let tasks = |operation: &v1::offer::Operation| {
            let group = operation.launch_group.as_ref().map_or(0, |group| group.task_group.tasks.len());
            operation.launch.as_ref().map_or(0, |launch| launch.task_infos.len()) + group
        };
        count("tasks in one call", accept.operations.iter().map(tasks).sum(), CALL_TASKS_MAX)?;
    }
    if let Some(reconcile) = &call.reconcile {
        count("tasks in one RECONCILE", reconcile.tasks.len(), RECONCILE_TASKS_MAX)?;
    }
    if let Some(reconcile) = &call.reconcile_operations {
        count("operations in one RECONCILE_OPERATIONS", reconcile.operations.len(), RECONCILE_OPERATIONS_MAX)?;
    }
    bytes("message.data", call.message.as_ref().map_or(0, |message| message.data.len()), MESSAGE_DATA_BYTES_MAX)
}

/// What an agent says of itself.
pub(crate) fn agent(info: &v1::AgentInfo, version: &str, capabilities: &[String], address: &str) -> Result<(), String> {
    bytes("AgentInfo", info.encoded_len(), AGENT_INFO_BYTES_MAX)?;
    bytes("AgentInfo.hostname", info.hostname.len(), HOSTNAME_BYTES_MAX)?;
    bytes("version", version.len(), NAME_BYTES_MAX)?;
    bytes("capabilities", capabilities.iter().map(String::len).sum(), NAME_BYTES_MAX)?;
    bytes("address", address.len(), NAME_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use crate::ids::FrameworkKey;
    use crate::testing::{Cluster, executor, group, operation, task_info};
    use api::limits::*;
    use api::v1;
    use std::default::Default;
    use v1::scheduler::{Call, call};

    fn subscribed(change: impl Fn(&mut v1::FrameworkInfo)) -> String {
        Cluster::new().try_subscribe(change, &[]).unwrap_err().message
    }

    #[test]
    fn what_a_framework_says_of_itself_has_bounds() {
        assert!(Cluster::new().try_subscribe(|info| info.roles = vec!["r".repeat(ROLE_BYTES_MAX)], &[]).is_ok());
        let role = "r".repeat(ROLE_BYTES_MAX + 1);
        assert_eq!(
            subscribed(|info| info.roles = vec![role.clone()]),
            format!("Role '{role}' has 257 bytes, more than the 256 that are allowed")
        );
        let deep = vec!["a"; 19_000].join("/");
        assert!(subscribed(|info| info.roles = vec![deep.clone()]).contains("has 37999 bytes, more than the 256"));
        let deep = vec!["a"; 33].join("/");
        assert_eq!(
            subscribed(|info| info.roles = vec![deep.clone()]),
            format!("Role '{deep}' has 33 components, more than the 32 that are allowed")
        );
        assert_eq!(
            subscribed(|info| info.roles = (0..1001).map(|number| format!("r{number}")).collect()),
            "1001 roles are more than the 1000 that are allowed"
        );
        assert_eq!(
            subscribed(|info| info.user = "u".repeat(256)),
            "'FrameworkInfo.user' has 256 bytes, more than the 255 that are allowed"
        );
        assert!(subscribed(|info| info.name = "n".repeat(300_000)).starts_with("'FrameworkInfo' has 3000"));
        assert!(subscribed(|info| info.name = "n".repeat(5000)).starts_with("'FrameworkInfo.name' has 5000 bytes"));
    }

    #[test]
    fn an_update_of_a_framework_has_the_same_bounds() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let deep = vec!["a"; 33].join("/");
        let refusal = cluster.update_framework(framework, |info| info.roles = vec![deep.clone()]).unwrap_err();
        assert!(refusal.message.contains("33 components, more than the 32"), "{}", refusal.message);
    }

    fn cluster() -> (Cluster, FrameworkKey) {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:4000;mem:100000");
        (cluster, framework)
    }

    /// What the framework hears of its tasks, each once.
    fn heard(cluster: &Cluster) -> Vec<(v1::TaskState, String)> {
        let mut heard: Vec<_> =
            cluster.statuses().iter().map(|status| (status.state(), status.message().to_owned())).collect();
        heard.dedup();
        heard
    }

    fn launched(change: impl FnOnce(&mut v1::TaskInfo)) -> String {
        let (mut cluster, framework) = cluster();
        let offers = cluster.offer();
        let mut task = task_info("t", "cpus:1;mem:1");
        change(&mut task);
        assert_eq!(
            cluster.accept(framework, &offers, vec![operation(vec![task])]),
            ["offers-accepted", "launch-refused"]
        );
        let (state, why) = heard(&cluster).pop().unwrap();
        assert_eq!(state, v1::TaskState::TaskError);
        why
    }

    #[test]
    fn a_task_has_bounds() {
        let data = |bytes: usize| Some(vec![0; bytes].into());
        assert!(
            launched(|task| task.data = data(LAUNCH_BYTES_MAX)).ends_with("more than the 4194304 that are allowed")
        );
        assert!(launched(|task| task.name = "n".repeat(5000)).starts_with("'TaskInfo.name' has 5000 bytes"));
        assert_eq!(launched(|task| task.task_id.value = "x".repeat(256)), "ID must not be greater than 255 characters");
        let label = v1::Label { key: "k".into(), value: Some("v".repeat(70_000)) };
        assert!(
            launched(|task| task.labels = Some(v1::Labels { labels: vec![label] })).starts_with("'TaskInfo.labels'")
        );
        let named = launched(|task| task.agent_id.value = "x".repeat(1 << 20));
        assert!(named.len() < 500, "{} bytes", named.len());
        // Together they are what the agent must read at once.
        let own = v1::ExecutorInfo { data: data(3 << 20), ..executor("e") };
        let both = launched(|task| (task.command, task.executor, task.data) = (None, Some(own), data(2 << 20)));
        assert!(both.starts_with("'TaskInfo' has 524"), "{both}");
    }

    #[test]
    fn a_group_has_bounds_and_no_square() {
        let (mut cluster, framework) = cluster();
        let offers = cluster.offer();
        let of = |tasks: usize| {
            let mut operation = group(executor("e"));
            let task =
                |number: usize| v1::TaskInfo { command: None, ..task_info(&format!("t{number}"), "cpus:0.1;mem:1") };
            operation.launch_group.as_mut().unwrap().task_group.tasks = (0..tasks).map(task).collect();
            operation
        };
        cluster.accept(framework, &offers, vec![of(1001)]);
        let sentence = "1001 tasks in one group are more than the 1000 that are allowed";
        assert_eq!(heard(&cluster), [(v1::TaskState::TaskError, sentence.to_owned())]);
        cluster.at_ms += 10_000;
        let offers = cluster.offer();
        let names = cluster.accept(framework, &offers, vec![of(1000)]);
        assert_eq!(names, ["offers-accepted", "task-group-launched"]);
        let refused = |call: &Call| super::call(call).unwrap_err();
        let accept = call::Accept { operations: vec![of(CALL_TASKS_MAX + 1)], ..Default::default() };
        assert_eq!(
            refused(&Call { accept: Some(accept), ..Default::default() }),
            "5001 tasks in one call are more than the 5000 that are allowed"
        );
    }

    #[test]
    fn what_is_said_to_an_executor_and_asked_of_the_masters_has_bounds() {
        let (mut cluster, framework) = cluster();
        let stream = cluster.stream_id(framework);
        let mut refused = |change: &dyn Fn(&mut Call), kind: call::Type| {
            let mut call = cluster.call_of(framework, kind);
            change(&mut call);
            cluster.try_call(&call, Some(&stream), &Default::default()).unwrap_err().message
        };
        let message = |call: &mut Call| {
            let data = vec![0; MESSAGE_DATA_BYTES_MAX + 1].into();
            call.message = Some(call::Message { data, ..Default::default() });
        };
        assert_eq!(
            refused(&message, call::Type::Message),
            "'message.data' has 4194305 bytes, more than the 4194304 that are allowed"
        );
        let reconcile = |call: &mut Call| {
            let tasks = vec![call::reconcile::Task::default(); RECONCILE_TASKS_MAX + 1];
            call.reconcile = Some(call::Reconcile { tasks });
        };
        assert_eq!(
            refused(&reconcile, call::Type::Reconcile),
            "100001 tasks in one RECONCILE are more than the 100000 that are allowed"
        );
    }

    /// An agent that takes no orders is not buried under launches, and does not become more than a snapshot can hold.
    #[test]
    fn an_agent_that_takes_nothing_is_not_launched_on_for_ever() {
        let (mut cluster, framework) = cluster();
        let data = || Some(vec![7; 3 << 20].into());
        let mut sent = 0;
        loop {
            cluster.at_ms += 10_000;
            let offers = cluster.offer();
            assert!(!offers.is_empty(), "it has room for an order");
            let task = v1::TaskInfo { data: data(), ..task_info(&format!("t{sent}"), "cpus:1;mem:1") };
            let names = cluster.accept(framework, &offers, vec![operation(vec![task])]);
            if names == ["offers-accepted", "launch-refused"] {
                break;
            }
            sent += 1;
        }
        assert_eq!(sent, OUTBOX_BYTES_MAX / ((3 << 20) + 200));
        let (state, why) = heard(&cluster).pop().unwrap();
        assert_eq!(state, v1::TaskState::TaskLost, "it may be tried again");
        assert!(why.starts_with("The agent has not taken its earlier orders yet"), "{why}");
    }

    #[test]
    fn one_call_launches_no_more_than_one_record_holds() {
        let mut cluster = Cluster::new();
        let label = v1::Label { key: "k".into(), value: Some("v".repeat(60_000)) };
        let labels = v1::Labels { labels: vec![label] };
        let framework = cluster.subscribe_with(|info| info.labels = Some(labels.clone()));
        cluster.agent("cpus:4000;mem:100000");
        let offers = cluster.offer();
        // Each order has the framework's info beside its task.
        let tasks = (0..1000).map(|number| task_info(&format!("t{number}"), "cpus:1;mem:1")).collect();
        let names = cluster.accept(framework, &offers, vec![operation(tasks)]);
        let launched = names.iter().filter(|name| **name == "task-launched").count();
        let most = CALL_LAUNCHES_BYTES_MAX / 60_000;
        assert!((most - 3..=most).contains(&launched), "{launched}");
        let (state, why) = heard(&cluster).pop().unwrap();
        assert_eq!(state, v1::TaskState::TaskLost, "it may be tried again");
        assert!(why.ends_with("launch fewer tasks with one call"), "{why}");
    }
}
