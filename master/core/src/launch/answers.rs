//! What is wrong with launches, in the words that clients know: `testdata/launch_answers.tsv`, an id, what the answer begins
//! with, and an `Offer.Operation` as clients write it. Agent `C-S0` is free, framework `C-0000` asks; each task is told the same.

use crate::testing::Cluster;
use api::v1;
use api::v1::task_status::Reason;

#[test]
fn what_is_wrong_with_a_launch_is_said_as_clients_know_it() {
    let mut wrong = Vec::new();
    for line in include_str!("../../testdata/launch_answers.tsv").lines() {
        let [id, message, operation] = line.splitn(3, '\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let operation: v1::offer::Operation = api::json::from_slice(operation.as_bytes()).unwrap();
        let group = operation.launch_group.as_ref().map(|group| group.task_group.tasks.len());
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe_with(|info| info.roles = vec!["web".into()]);
        cluster.agent("cpus:4;mem:4096;disk:1024;ports:[31000-32000]");
        let offers = cluster.offer();
        let names = cluster.accept(framework, &offers, vec![operation]);
        let statuses = cluster.statuses();
        let reason = if group.is_some() { Reason::TaskGroupInvalid } else { Reason::TaskInvalid };
        let is_right = |status: &v1::TaskStatus| {
            status.state() == v1::TaskState::TaskError
                && status.reason() == reason
                && status.uuid.is_none()
                && status.message().starts_with(message)
        };
        if statuses.len() != group.unwrap_or(1) || !statuses.iter().all(is_right) {
            wrong.push(format!("{id}: {names:?} {statuses:?}, not {message}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
