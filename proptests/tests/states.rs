//! The states of a task as a framework sees them: which fields come with which, and what the texts say.

use std::collections::BTreeSet;

use proptests::cluster::Plan;
use proptests::framework::{Framework, command_task, info};
use serde_json::{Value, json};

/// The paths of all fields, without list indexes.
fn fields(value: &Value, prefix: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                fields(value, &format!("{prefix}.{key}"), into);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| fields(item, prefix, into)),
        _ => {
            into.insert(prefix.trim_start_matches('.').to_owned());
        }
    }
}

fn assert_fields(status: &Value, wanted: &[&str]) {
    let mut had = BTreeSet::new();
    fields(status, "", &mut had);
    let wanted: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(had, wanted, "{status}");
}

const BY_EXECUTOR: [&str; 10] = [
    "task_id.value",
    "state",
    "source",
    "agent_id.value",
    "executor_id.value",
    "timestamp",
    "uuid",
    "container_status.container_id.value",
    "container_status.network_infos.ip_addresses.protocol",
    "container_status.network_infos.ip_addresses.ip_address",
];
const BY_MASTER: [&str; 6] = ["task_id.value", "state", "message", "source", "reason", "timestamp"];

fn by_executor(more: &[&'static str]) -> Vec<&'static str> {
    let mut all = BY_EXECUTOR.to_vec();
    all.push("container_status.executor_pid");
    all.extend(more);
    all
}

fn by_master(more: &[&'static str]) -> Vec<&'static str> {
    let mut all = BY_MASTER.to_vec();
    all.extend(more);
    all
}

#[test]
fn the_life_of_command_tasks() {
    let cluster = Plan::new().agents(1).start();
    let mut framework = Framework::subscribe(cluster.address("m0"), &info("states"));
    let offer = framework.offer();
    let tasks = [("short", "true"), ("failing", "exit 3"), ("killed", "sleep 1000")];
    let mut tasks: Vec<Value> = tasks.iter().map(|(id, command)| command_task(id, &offer, command)).collect();
    let mut too_big = command_task("toobig", &offer, "true");
    too_big["resources"][0]["scalar"]["value"] = json!(9999.0);
    tasks.push(too_big);
    framework.launch(&offer, &tasks);

    let mut ends = 0;
    let mut states: Vec<(String, String)> = Vec::new();
    while ends < 4 {
        let status =
            framework.wait("an update", |event| (event["type"] == "UPDATE").then(|| event["update"]["status"].clone()));
        framework.acknowledge(&status);
        let (id, state) = (status["task_id"]["value"].as_str().unwrap(), status["state"].as_str().unwrap());
        states.push((id.to_owned(), state.to_owned()));
        match (id, state) {
            (_, "TASK_STARTING") => assert_fields(&status, &by_executor(&[])),
            (_, "TASK_RUNNING") => {
                assert_fields(&status, &by_executor(&[]));
                if id == "killed" {
                    framework.call(json!({"type": "KILL", "kill": {"task_id": {"value": id}}}));
                }
            }
            (_, "TASK_ERROR") => {
                assert_eq!(status["reason"], "REASON_TASK_INVALID");
                assert_fields(&status, &by_master(&["agent_id.value"]));
                let message = status["message"].as_str().unwrap();
                assert!(message.contains("required by task and its executor is more than available"), "{message}");
                ends += 1;
            }
            _ => {
                assert_fields(&status, &by_executor(&["message"]));
                let message = match id {
                    "short" => "Command exited with status 0",
                    "failing" => "Command exited with status 3",
                    _ => "Command terminated with signal Terminated",
                };
                assert_eq!(status["message"], message);
                assert_eq!(status["source"], "SOURCE_EXECUTOR");
                ends += 1;
            }
        }
    }
    for (id, end) in [("short", "TASK_FINISHED"), ("failing", "TASK_FAILED"), ("killed", "TASK_KILLED")] {
        let of_task: Vec<&str> =
            states.iter().filter(|(task, _)| task == id).map(|(_, state)| state.as_str()).collect();
        assert_eq!(of_task, ["TASK_STARTING", "TASK_RUNNING", end], "{id}");
    }
}

#[test]
fn what_the_master_says_of_tasks_that_it_does_not_know() {
    let cluster = Plan::new().agents(1).start();
    let mut framework = Framework::subscribe(cluster.address("m0"), &info("unknown"));
    let offer = framework.offer();
    let agent = offer["agent_id"].clone();
    let reconcile = |task: Value| json!({"type": "RECONCILE", "reconcile": {"tasks": [task]}});
    let asked = [
        (
            reconcile(json!({"task_id": {"value": "a"}, "agent_id": agent})),
            "Reconciliation: Task is unknown to the agent",
            "REASON_RECONCILIATION",
            true,
        ),
        (
            reconcile(json!({"task_id": {"value": "b"}, "agent_id": {"value": "nosuch-S0"}})),
            "Reconciliation: Task is unknown",
            "REASON_RECONCILIATION",
            true,
        ),
        (
            json!({"type": "KILL", "kill": {"task_id": {"value": "c"}}}),
            "Reconciliation: Task is unknown",
            "REASON_RECONCILIATION",
            false,
        ),
    ];
    for (id, (call, message, reason, with_agent)) in ["a", "b", "c"].into_iter().zip(asked) {
        framework.call(call);
        let status = framework.update(id);
        assert_eq!((&status["state"], &status["message"]), (&json!("TASK_LOST"), &json!(message)));
        assert_eq!(status["reason"], reason);
        assert_fields(&status, &by_master(if with_agent { &["agent_id.value"] } else { &[] }));
    }

    framework.call(json!({"type": "DECLINE", "decline": {"offer_ids": [offer["id"]]}}));
    framework.launch(&offer, &[command_task("stale", &offer, "true")]);
    let status = framework.update("stale");
    assert_eq!(status["state"], "TASK_LOST");
    assert_eq!(status["reason"], "REASON_INVALID_OFFERS");
    let id = offer["id"]["value"].as_str().unwrap();
    assert_eq!(status["message"], format!("Task launched with invalid offers: Offer {id} is no longer valid"));
}

#[test]
fn implicit_reconciliation_tells_the_latest_state() {
    let cluster = Plan::new().agents(1).start();
    let mut framework = Framework::subscribe(cluster.address("m0"), &info("reconcile"));
    let offer = framework.offer();
    framework.launch(&offer, &[command_task("t", &offer, "sleep 1000")]);
    framework.until_state("t", "TASK_RUNNING");
    framework.call(json!({"type": "RECONCILE", "reconcile": {"tasks": []}}));
    let status = framework.update("t");
    assert_eq!(status["message"], "Reconciliation: Latest task state");
    assert!(status.get("uuid").is_none(), "{status}");
    assert_eq!(status["state"], "TASK_RUNNING");
}
