//! Containers within others and containers that stand alone, launched by calls on the agent's API.

mod common;

use api::v1::TaskState;
use common::{Master, PATIENCE, RealAgent, any_ended, http, task};
use serde_json::{Value, json};

const JSON: &str = "Content-Type: application/json\r\nAccept: application/json\r\n";

/// Status and body of the answer to a call.
async fn call(address: &str, kind: &str, content: Value) -> (String, String) {
    let field = kind.to_lowercase();
    let (head, body) =
        http(address, "POST", "/api/v1", JSON, &json!({ "type": kind, field: content }).to_string()).await;
    (head.lines().next().unwrap().trim_start_matches("HTTP/1.1 ").to_owned(), body)
}

fn within(parent: &str, value: &str) -> Value {
    json!({ "value": value, "parent": { "value": parent } })
}

fn shell(id: Value, command: &str) -> Value {
    json!({ "container_id": id, "command": { "shell": true, "value": command } })
}

async fn expect(address: &str, kind: &str, content: Value, status: &str, body: &str) {
    let answer = call(address, kind, content.clone()).await;
    assert_eq!(answer, (status.to_owned(), body.to_owned()), "{kind} {content}");
}

/// A task that runs, and the id of its container.
async fn running(master: &Master, id: &str, command: &str) -> String {
    master.launch(task(id, command));
    let status = master.update(id, TaskState::TaskRunning).await;
    status.container_status.unwrap().container_id.unwrap().value
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_within_a_task_are_launched_waited_for_killed_and_removed() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let (parent, at) = (running(&master, "t1", "sleep 1000").await, agent.address.as_str());
    let id = |value: &str| json!({ "container_id": within(&parent, value) });
    expect(at, "LAUNCH_NESTED_CONTAINER", shell(within(&parent, "n1"), "echo hello; pwd; sleep 1000"), "200 OK", "")
        .await;
    expect(at, "LAUNCH_NESTED_CONTAINER", shell(within(&parent, "n1"), "true"), "202 Accepted", "").await;
    let stdout = agent.sandbox("t1").join("containers/n1/stdout");
    until("its output", || std::fs::read_to_string(&stdout).is_ok_and(|text| text.ends_with("/containers/n1\n"))).await;
    let (_, shown) = call(at, "GET_CONTAINERS", json!({ "show_nested": true })).await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let containers = shown["get_containers"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 2);
    assert_eq!(containers[1]["container_id"], json!({ "value": "n1" }));
    assert_eq!(containers[1]["container_status"]["container_id"], within(&parent, "n1"));
    let (_, plain) = call(at, "GET_CONTAINERS", json!({})).await;
    assert!(!plain.contains("n1"), "{plain}");
    let runs = "Nested container has not terminated yet";
    expect(at, "REMOVE_NESTED_CONTAINER", id("n1"), "500 Internal Server Error", runs).await;
    expect(at, "KILL_NESTED_CONTAINER", id("n1"), "200 OK", "").await;
    let killed = r#"{"type":"WAIT_NESTED_CONTAINER","wait_nested_container":{"exit_status":9}}"#;
    for _ in 0..2 {
        expect(at, "WAIT_NESTED_CONTAINER", id("n1"), "200 OK", killed).await;
    }
    let dead = format!("Container '{parent}.n1' cannot be found (or is already killed)");
    expect(at, "KILL_NESTED_CONTAINER", id("n1"), "404 Not Found", &dead).await;
    for _ in 0..2 {
        expect(at, "REMOVE_NESTED_CONTAINER", id("n1"), "200 OK", "").await;
    }
    let gone = format!("Container {parent}.n1 cannot be found");
    expect(at, "WAIT_NESTED_CONTAINER", id("n1"), "404 Not Found", &gone).await;
    until("its sandbox is gone", || !stdout.exists()).await;
    // A signal reaches the first process, and the newer spelling does the same.
    let trap = "trap 'exit 9' USR1; echo up; while :; do sleep 0.1; done";
    expect(at, "LAUNCH_CONTAINER", shell(within(&parent, "n2"), trap), "200 OK", "").await;
    let up = agent.sandbox("t1").join("containers/n2/stdout");
    until("up", || std::fs::read_to_string(&up).is_ok_and(|text| text == "up\n")).await;
    let usr1 = json!({ "container_id": within(&parent, "n2"), "signal": 10 });
    expect(at, "KILL_CONTAINER", usr1, "200 OK", "").await;
    let ended = r#"{"type":"WAIT_CONTAINER","wait_container":{"exit_status":2304}}"#;
    expect(at, "WAIT_CONTAINER", id("n2"), "200 OK", ended).await;
    let argv = json!({ "shell": false, "value": "/nosuch" });
    let missing = json!({ "container_id": within(&parent, "n3"), "command": argv });
    expect(at, "LAUNCH_CONTAINER", missing, "200 OK", "").await;
    let ended = r#"{"type":"WAIT_CONTAINER","wait_container":{"exit_status":256256}}"#;
    expect(at, "WAIT_CONTAINER", id("n3"), "200 OK", ended).await;
    let mut other = shell(within(&parent, "n4"), "true");
    other["command"]["user"] = "nosuchuser".into();
    let (status, why) = call(at, "LAUNCH_NESTED_CONTAINER", other).await;
    assert!(status == "400 Bad Request" && why.contains("nosuchuser"), "{status} {why}");
    let mut bare = shell(within(&parent, "n5"), "true");
    bare["command"]["environment"] = json!({ "variables": [{ "name": "V" }] });
    let sentence = "Failed to validate agent::Call: 'launch_nested_container.command' is invalid: Environment variable \
                    'V' of type 'VALUE' must have a value set";
    expect(at, "LAUNCH_NESTED_CONTAINER", bare, "400 Bad Request", sentence).await;
    let unknown = shell(within("nosuch", "x"), "true");
    let sentence = "Parent container nosuch does not exist";
    expect(at, "LAUNCH_NESTED_CONTAINER", unknown, "400 Bad Request", sentence).await;
    let sentence =
        "Failed to validate agent::Call: Expecting 'launch_nested_container.container_id.parent' to be present";
    expect(at, "LAUNCH_NESTED_CONTAINER", shell(json!({ "value": "x" }), "true"), "400 Bad Request", sentence).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_takes_what_runs_within_it_along() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let (parent, at) = (running(&master, "t1", "while [ ! -e go ]; do sleep 0.05; done").await, agent.address.as_str());
    let inner = json!({ "value": "b", "parent": within(&parent, "a") });
    let command = "trap '' TERM; echo $$ > pid; sleep 1000";
    expect(at, "LAUNCH_CONTAINER", shell(within(&parent, "a"), command), "200 OK", "").await;
    expect(at, "LAUNCH_CONTAINER", shell(inner.clone(), command), "200 OK", "").await;
    let pids = ["containers/a/pid", "containers/a/containers/b/pid"].map(|path| agent.sandbox("t1").join(path));
    let read = |path: &std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default().trim().parse::<u32>().ok();
    until("both run", || pids.iter().all(|path| read(path).is_some())).await;
    let pids: Vec<u32> = pids.iter().filter_map(read).collect();
    let address = agent.address.clone();
    let waiting = tokio::spawn(async move { call(&address, "WAIT_CONTAINER", json!({ "container_id": inner })).await });
    std::fs::write(agent.sandbox("t1").join("go"), "").unwrap();
    master.update("t1", TaskState::TaskFinished).await;
    assert!(pids.iter().all(|pid| agent_server::spec::start_ticks(*pid).is_none()), "alive: {pids:?}");
    let ended = r#"{"type":"WAIT_CONTAINER","wait_container":{"exit_status":9}}"#;
    assert_eq!(waiting.await.unwrap().1, ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_outlive_an_agent_and_their_ends_are_not_lost() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let mut agent = RealAgent::start(&master.address, dir.path(), &[]);
    let parent = running(&master, "t1", "sleep 1000").await;
    let files = dir.path().join("files");
    std::fs::create_dir(&files).unwrap();
    let command = |n: u32| format!("while [ ! -e {}/{n} ]; do sleep 0.05; done; exit {n}", files.display());
    for n in 1..=3 {
        let id = within(&parent, &n.to_string());
        expect(&agent.address, "LAUNCH_NESTED_CONTAINER", shell(id, &command(n)), "200 OK", "").await;
    }
    expect(&agent.address, "LAUNCH_CONTAINER", shell(json!({ "value": "alone" }), &command(4)), "200 OK", "").await;
    agent.kill();
    // One ends while nobody looks.
    std::fs::write(files.join("1"), "").unwrap();
    until("an exit on the disk", || any_ended(&dir.path().join("meta/containers"))).await;
    agent = RealAgent::start(&master.address, dir.path(), &[]);
    for n in 2..=4 {
        std::fs::write(files.join(n.to_string()), "").unwrap();
    }
    let wait = |id: Value| json!({ "container_id": id });
    for n in 1..=3 {
        let ended = format!("{{\"type\":\"WAIT_CONTAINER\",\"wait_container\":{{\"exit_status\":{}}}}}", n << 8);
        let id = within(&parent, &n.to_string());
        expect(&agent.address, "WAIT_CONTAINER", wait(id), "200 OK", &ended).await;
    }
    let (status, body) = call(&agent.address, "WAIT_CONTAINER", wait(json!({ "value": "alone" }))).await;
    assert!(body.contains("\"exit_status\":1024") || body == "Container alone cannot be found", "{status} {body}");
    assert!(dir.path().join("containers/alone/stdout").exists(), "its folder stays");
    assert_eq!(master.history("t1"), ["TASK_STARTING", "TASK_RUNNING"]);
    master.kill("t1");
    master.update("t1", TaskState::TaskKilled).await;
    let ids = agent_ids(dir.path());
    until("nothing is left of them", || agent_ids(dir.path()).is_empty()).await;
    drop(ids);
}

fn agent_ids(work_dir: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(work_dir.join("meta/containers")).unwrap().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_pending_when_all_run_and_there_are_no_images() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let (_, at) = (running(&master, "t1", "sleep 1000").await, agent.address.as_str());
    for path in ["/containerizer/debug", "/slave(1)/containerizer/debug"] {
        let (head, body) = http(at, "GET", path, "", "").await;
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert_eq!(body, r#"{"pending":[]}"#);
    }
    let excluded = json!({ "excluded_images": [{ "type": "DOCKER", "docker": { "name": "x" } }] });
    expect(at, "PRUNE_IMAGES", excluded, "200 OK", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_alone_is_launched_shown_and_ended() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.wait("a registration", |known| (!known.registers.is_empty()).then_some(())).await;
    let (at, alone) = (agent.address.as_str(), json!({ "value": "alone" }));
    let cpus = json!([{ "name": "cpus", "type": "SCALAR", "scalar": { "value": 0.1 } }]);
    let mut launch = shell(alone.clone(), "env; pwd; sleep 1000");
    launch["resources"] = cpus.clone();
    expect(at, "LAUNCH_CONTAINER", launch.clone(), "200 OK", "").await;
    expect(at, "LAUNCH_CONTAINER", launch.clone(), "202 Accepted", "").await;
    let kid = within("alone", "kid");
    expect(at, "LAUNCH_CONTAINER", shell(kid.clone(), "exit 2"), "200 OK", "").await;
    let ended = r#"{"type":"WAIT_CONTAINER","wait_container":{"exit_status":512}}"#;
    expect(at, "WAIT_CONTAINER", json!({ "container_id": kid }), "200 OK", ended).await;
    let (_, shown) = call(at, "GET_CONTAINERS", json!({ "show_standalone": true })).await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["get_containers"]["containers"][0]["container_id"], alone);
    assert_eq!(shown["get_containers"]["containers"][0]["resource_statistics"]["cpus_soft_limit"], 0.1);
    let stdout = std::fs::read_to_string(dir.path().join("containers/alone/stdout")).unwrap();
    assert!(stdout.contains("MESOS_SANDBOX=") && !stdout.contains("MESOS_EXECUTOR_ID"), "{stdout}");
    let address = agent.address.clone();
    let id = json!({ "container_id": alone });
    let waiting = tokio::spawn(async move { call(&address, "WAIT_CONTAINER", id).await });
    let killed = json!({ "container_id": alone, "signal": 15 });
    expect(at, "KILL_CONTAINER", killed, "200 OK", "").await;
    let (status, body) = waiting.await.unwrap();
    assert!(body.contains("\"exit_status\":15") || status.starts_with("404"), "{status} {body}");
    launch["resources"][0]["reservations"] = json!([{ "type": "DYNAMIC", "role": "x" }]);
    launch["container_id"] = json!({ "value": "other" });
    let sentence = "Failed to validate agent::Call: 'launch_container.resources' must be unreserved";
    expect(at, "LAUNCH_CONTAINER", launch, "400 Bad Request", sentence).await;
}
