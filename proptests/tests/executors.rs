//! Custom executors from a framework's ACCEPT to their end: on an unmodified pymesos, and by hand.

use std::net::SocketAddr;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptests::clients;
use proptests::cluster::{Cluster, Plan, READY};
use proptests::framework::{Framework, Records, bytes, command_task, info};
use proptests::http::{self, PATIENCE, Request};
use proptests::wait;
use serde_json::{Value, json};

const EXECUTOR: &str = "/api/v1/executor";

fn start() -> (Cluster, Framework) {
    // A client may wait long between two attempts to subscribe.
    let cluster = Plan::new().agents(1).agent_flag("--executor_reregistration_timeout=1mins").start();
    let framework = Framework::subscribe(cluster.address("m0"), &info("executors"));
    (cluster, framework)
}

fn custom(framework: &Framework, command: Value) -> Value {
    json!({"type": "CUSTOM", "executor_id": {"value": "e1"}, "framework_id": {"value": framework.id},
           "name": "custom", "command": command, "resources": [
               {"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.2}},
               {"name": "mem", "type": "SCALAR", "scalar": {"value": 32.0}}]})
}

fn task(id: &str, offer: &Value, executor: &Value) -> Value {
    let mut task = command_task(id, offer, "");
    task.as_object_mut().expect("an object").remove("command");
    task["executor"] = executor.clone();
    task
}

/// FAILURE of the executor, which may come before or after its tasks' ends.
fn failure(framework: &mut Framework) -> Value {
    let of_executor = |event: &Value| event["type"] == "FAILURE" && event["failure"]["executor_id"]["value"] == "e1";
    let past = framework.seen.iter().position(of_executor);
    let event = match past {
        Some(place) => framework.seen.remove(place),
        None => framework.wait("FAILURE of the executor", |event| of_executor(event).then(|| event.clone())),
    };
    event["failure"].clone()
}

fn message(framework: &mut Framework, agent_id: &Value, text: &str) {
    framework.call(json!({"type": "MESSAGE", "message": {
        "agent_id": agent_id, "executor_id": {"value": "e1"}, "data": STANDARD.encode(text)}}));
}

/// An offer of everything that the agent has, on which no executor is.
fn whole_offer(framework: &mut Framework) -> Value {
    let start = Instant::now();
    loop {
        let offer = fresh_offer(framework);
        let cpus = offer["resources"].as_array().expect("resources").iter().find(|one| one["name"] == "cpus");
        if cpus.is_some_and(|cpus| cpus["scalar"]["value"] == 8.0) {
            assert!(offer.get("executor_ids").is_none(), "{offer}");
            return offer;
        }
        assert!(start.elapsed() < PATIENCE, "something is still held: {offer}");
        decline(framework, &offer);
    }
}

/// An offer, after those that a wait for something else passed over were declined: they would hold a part of it.
fn fresh_offer(framework: &mut Framework) -> Value {
    let passed: Vec<Value> = framework.seen.drain(..).filter(|event| event["type"] == "OFFERS").collect();
    for offer in passed.iter().flat_map(|event| event["offers"]["offers"].as_array().expect("offers")) {
        decline(framework, offer);
    }
    framework.offer()
}

fn decline(framework: &mut Framework, offer: &Value) {
    let filters = json!({"refuse_seconds": 0.1});
    framework.call(json!({"type": "DECLINE", "decline": {"offer_ids": [offer["id"]], "filters": filters}}));
}

fn executors(cluster: &Cluster, name: &str) -> Vec<Value> {
    let answer = cluster.operator(name, &json!({"type": "GET_EXECUTORS"}));
    answer["get_executors"]["executors"].as_array().cloned().unwrap_or_default()
}

/// Client demand 28, by the library that it is of: states, messages both ways, KILL, an agent's `kill -9`, the
/// executor's own end, SHUTDOWN.
#[test]
fn pymesos_executes() {
    let (mut cluster, mut framework) = start();
    let offer = framework.offer();
    let agent_id = offer["agent_id"].clone();
    let command = format!("exec {}", clients::pymesos_executor());
    let executor = custom(&framework, json!({"value": command}));
    let mut finishing = task("t0", &offer, &executor);
    finishing["data"] = json!(STANDARD.encode("finish"));
    framework.launch(&offer, &[task("t1", &offer, &executor), task("t2", &offer, &executor), finishing]);
    framework.until_state("t0", "TASK_FINISHED");
    framework.until_state("t1", "TASK_RUNNING");
    let running = framework.until_state("t2", "TASK_RUNNING");
    assert_eq!((&running["executor_id"]["value"], &running["source"]), (&json!("e1"), &json!("SOURCE_EXECUTOR")));
    assert_eq!(running["agent_id"], agent_id);
    assert!(running["container_status"]["container_id"]["value"].is_string(), "{running}");
    assert!(running["timestamp"].is_number());

    message(&mut framework, &agent_id, "hello");
    let echo =
        framework.wait("the message back", |event| (event["type"] == "MESSAGE").then(|| event["message"].clone()));
    assert_eq!(bytes(&echo["data"]), b"echo:hello");
    assert_eq!((&echo["executor_id"]["value"], &echo["agent_id"]), (&json!("e1"), &agent_id));
    let offer = fresh_offer(&mut framework);
    assert_eq!(offer["executor_ids"], json!([{"value": "e1"}]), "{offer}");
    for name in ["m0", "a0"] {
        let shown = executors(&cluster, name);
        assert_eq!(shown.len(), 1, "{name}: {shown:?}");
        assert_eq!(shown[0]["executor_info"]["executor_id"]["value"], "e1");
    }
    framework.call(json!({"type": "KILL", "kill": {"task_id": {"value": "t2"}, "agent_id": agent_id}}));
    assert_eq!(framework.update("t2")["state"], "TASK_KILLED");

    // The executor outlives its agent; what was wanted meanwhile reaches it.
    cluster.kill("a0");
    framework.call(json!({"type": "KILL", "kill": {"task_id": {"value": "t1"}, "agent_id": agent_id}}));
    cluster.restart("a0");
    cluster.wait_ready();
    assert_eq!(framework.update("t1")["state"], "TASK_KILLED");
    let output = cluster.work_dir("a0").join("slaves").join(agent_id["value"].as_str().expect("an id"));
    let output = output.join("frameworks").join(&framework.id).join("executors/e1/runs/latest/stdout");
    let output = std::fs::read_to_string(output).expect("the executor's output");
    assert!(output.contains("registered e1 ") && output.contains("\nreregistered "), "{output}");

    // It dies with a task. The offer was taken back with the agent's connection.
    let offer = fresh_offer(&mut framework);
    framework.launch(&offer, &[task("t3", &offer, &executor)]);
    framework.until_state("t3", "TASK_RUNNING");
    message(&mut framework, &agent_id, "die");
    let failed = framework.update("t3");
    assert_eq!((&failed["state"], &failed["reason"]), (&json!("TASK_FAILED"), &json!("REASON_EXECUTOR_TERMINATED")));
    let ended = failure(&mut framework);
    assert_eq!((&ended["status"], &ended["agent_id"]), (&json!(3 << 8), &agent_id));
    let offer = whole_offer(&mut framework);
    assert!(executors(&cluster, "m0").is_empty() && executors(&cluster, "a0").is_empty());

    // Another run of the same executor, shut down by its framework.
    framework.launch(&offer, &[task("t4", &offer, &executor)]);
    framework.until_state("t4", "TASK_RUNNING");
    framework.call(json!({"type": "SHUTDOWN", "shutdown": {"executor_id": {"value": "e1"}, "agent_id": agent_id}}));
    let failed = framework.update("t4");
    assert_eq!((&failed["state"], &failed["reason"]), (&json!("TASK_FAILED"), &json!("REASON_EXECUTOR_TERMINATED")));
    assert!(failure(&mut framework)["status"].is_i64());
    whole_offer(&mut framework);
    framework.teardown();
}

/// The test speaks for an executor whose process only sleeps.
fn speak(cluster: &Cluster, framework: &Framework) -> Records {
    let address = cluster.address("a0");
    let call = executor_call(framework, "SUBSCRIBE", json!({"subscribe": {}}));
    let stream = wait::until("the executor to be known", READY, || {
        let stream = http::open(address, &Request::post_json(EXECUTOR, &call.to_string())).expect("an answer");
        (stream.head.status == 200).then_some(stream)
    });
    Records::new(stream)
}

fn executor_call(framework: &Framework, kind: &str, more: Value) -> Value {
    let mut call = json!({"type": kind, "framework_id": {"value": framework.id}, "executor_id": {"value": "e1"}});
    call.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    call
}

fn next(records: &mut Records) -> Value {
    serde_json::from_slice(&records.next(PATIENCE).expect("an event").expect("no end")).expect("JSON")
}

fn say(address: SocketAddr, framework: &Framework, number: u8, task: &str, state: &str) {
    let status = json!({"task_id": {"value": task}, "state": state, "source": "SOURCE_EXECUTOR",
                        "data": STANDARD.encode("data"), "uuid": STANDARD.encode([number; 16])});
    let call = executor_call(framework, "UPDATE", json!({"update": {"status": status}}));
    let answer = http::send(address, &Request::post_json(EXECUTOR, &call.to_string())).expect("an answer");
    assert_eq!(answer.status(), 202, "{}", answer.text());
}

#[test]
fn a_group_arrives_together_and_an_executor_has_no_say_over_others() {
    let (cluster, mut framework) = start();
    let offer = framework.offer();
    let executor = custom(&framework, json!({"value": "sleep 1000"}));
    let tasks: Vec<Value> = ["g1", "g2"]
        .iter()
        .map(|id| {
            let mut task = task(id, &offer, &executor);
            task.as_object_mut().expect("an object").remove("executor");
            task
        })
        .collect();
    framework.call(json!({"type": "ACCEPT", "accept": {"offer_ids": [offer["id"]], "operations": [
        {"type": "LAUNCH_GROUP", "launch_group": {"executor": executor, "task_group": {"tasks": tasks}}}]}}));
    let mut records = speak(&cluster, &framework);
    assert_eq!(next(&mut records)["type"], "SUBSCRIBED");
    let launch = next(&mut records);
    assert_eq!(launch["type"], "LAUNCH_GROUP");
    let ids: Vec<&Value> = launch["launch_group"]["task_group"]["tasks"]
        .as_array()
        .expect("tasks")
        .iter()
        .map(|one| &one["task_id"]["value"])
        .collect();
    assert_eq!(ids, [&json!("g1"), &json!("g2")]);
    let address = cluster.address("a0");
    say(address, &framework, 1, "g1", "TASK_RUNNING");
    assert_eq!(next(&mut records)["acknowledged"]["task_id"]["value"], "g1");
    let running = framework.until_state("g1", "TASK_RUNNING");
    assert_eq!((bytes(&running["data"]), bytes(&running["uuid"])), (b"data".to_vec(), vec![1; 16]));
    framework.call(json!({"type": "KILL", "kill": {"task_id": {"value": "g2"}}}));
    assert_eq!(next(&mut records)["kill"]["task_id"]["value"], "g2");
    say(address, &framework, 2, "g2", "TASK_KILLED");
    assert_eq!(framework.update("g2")["state"], "TASK_KILLED");
    assert_eq!(next(&mut records)["acknowledged"]["task_id"]["value"], "g2");
    say(address, &framework, 3, "g1", "TASK_FINISHED");
    assert_eq!(framework.update("g1")["state"], "TASK_FINISHED");
    assert_eq!(next(&mut records)["type"], "ACKNOWLEDGED");
    // Its framework ends: so does it.
    framework.teardown();
    assert_eq!(next(&mut records)["type"], "SHUTDOWN");
    wait::until("the executor's end", READY, || (cluster.other_processes() == 0).then_some(()));
}

/// What never ran holds nothing: not its task's part of the agent, and not its own.
#[test]
fn an_executor_that_cannot_be_launched_leaves_nothing_behind() {
    let (cluster, mut framework) = start();
    let offer = whole_offer(&mut framework);
    let executor = custom(&framework, json!({"shell": false, "value": "/nosuch/program"}));
    framework.launch(&offer, &[task("missing", &offer, &executor)]);
    let failed = framework.update("missing");
    assert_eq!(failed["state"], "TASK_FAILED", "{failed}");
    assert_eq!(failed["reason"], "REASON_CONTAINER_LAUNCH_FAILED");
    let ended = failure(&mut framework);
    assert_eq!(ended["status"], -1);
    // What it brings along cannot be fetched.
    let offer = whole_offer(&mut framework);
    let uris = json!([{"value": "/no/such/archive"}]);
    let executor = custom(&framework, json!({"value": "sleep 1000", "uris": uris}));
    framework.launch(&offer, &[task("fetched", &offer, &executor)]);
    let failed = framework.update("fetched");
    assert_eq!(failed["state"], "TASK_FAILED", "{failed}");
    assert_eq!(failed["reason"], "REASON_CONTAINER_LAUNCH_FAILED");
    let message = failed["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("Failed to launch container: Failed to fetch all URIs for container '"), "{message}");
    let ended = failure(&mut framework);
    assert_eq!(ended["status"], -1);
    whole_offer(&mut framework);
    assert!(executors(&cluster, "m0").is_empty());
    framework.teardown();
}
