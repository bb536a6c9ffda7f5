//! Custom executors over their HTTP API. The test itself speaks as the executor; its process only sleeps.

mod common;

use api::internal::{self, from_agent, order};
use api::v1::{self, TaskState, task_status};
use common::{Master, PATIENCE, RealAgent, framework, http, task};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const JSON: &str = "Content-Type: application/json\r\nAccept: application/json\r\n";

fn executor(command: &str) -> v1::ExecutorInfo {
    v1::ExecutorInfo {
        r#type: Some(v1::executor_info::Type::Custom as i32),
        executor_id: v1::ExecutorId { value: "e1".into() },
        framework_id: framework().id,
        command: Some(v1::CommandInfo { value: Some(command.into()), ..Default::default() }),
        ..Default::default()
    }
}

fn launch(master: &Master, id: &str, command: &str) {
    let task = v1::TaskInfo { command: None, executor: Some(executor(command)), ..task(id, "") };
    master.launch(task);
}

fn call(kind: &str, more: Value) -> String {
    let mut call = json!({ "type": kind, "framework_id": { "value": "C-0000" }, "executor_id": { "value": "e1" } });
    call.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    call.to_string()
}

/// The stream of an executor: each chunk is one record.
struct Stream(BufReader<TcpStream>);

impl Stream {
    async fn open(address: &str, unacknowledged: Value) -> Stream {
        let body = call("SUBSCRIBE", json!({ "subscribe": unacknowledged }));
        let mut socket = TcpStream::connect(address).await.unwrap();
        let head = format!("POST /api/v1/executor HTTP/1.1\r\nHost: x\r\n{JSON}Content-Length: {}\r\n\r\n", body.len());
        socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let mut reader = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).await.unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("application/json\r\n"), "{head}");
        Stream(reader)
    }

    async fn next(&mut self) -> Value {
        let reading = async {
            let mut length = String::new();
            self.0.read_line(&mut length).await.unwrap();
            let mut chunk = vec![0; usize::from_str_radix(length.trim(), 16).unwrap() + 2];
            self.0.read_exact(&mut chunk).await.unwrap();
            let text = String::from_utf8(chunk).unwrap();
            let (length, record) = text.trim_end().split_once('\n').unwrap();
            assert_eq!(length.parse(), Ok(record.len()));
            serde_json::from_str(record).unwrap()
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("an event")
    }
}

async fn update(agent: &RealAgent, task_id: &str, state: &str, uuid: &str) -> (String, String) {
    let status = json!({ "task_id": { "value": task_id }, "state": state, "uuid": uuid, "source": "SOURCE_EXECUTOR" });
    let body = call("UPDATE", json!({ "update": { "status": status } }));
    http(&agent.address, "POST", "/api/v1/executor", JSON, &body).await
}

const UUID_1: &str = "AAAAAAAAAAAAAAAAAAAAAQ==";
const UUID_2: &str = "AAAAAAAAAAAAAAAAAAAAAg==";

/// Waits until the container runs: before that a subscription would come from nobody.
async fn launched(master: &Master) {
    let launched = |known: &common::Known| {
        let mut messages = known.messages.iter();
        messages.any(|one| matches!(one.message, Some(from_agent::Message::ExecutorLaunched(_)))).then_some(())
    };
    master.wait("the executor's launch", launched).await;
}

/// Client demands 28 and 29: what SUBSCRIBED says, what an update may lack, what ACKNOWLEDGED echoes.
#[tokio::test(flavor = "multi_thread")]
async fn an_executor_gets_tasks_and_tells_of_them() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    launch(&master, "t1", "env; sleep 1000");
    launched(&master).await;
    let mut stream = Stream::open(&agent.address, json!({})).await;
    let subscribed = stream.next().await;
    assert_eq!(subscribed["type"], "SUBSCRIBED");
    assert_eq!(subscribed["subscribed"]["executor_info"]["executor_id"]["value"], "e1");
    assert_eq!(subscribed["subscribed"]["framework_info"]["id"]["value"], "C-0000");
    assert_eq!(subscribed["subscribed"]["agent_info"]["id"]["value"], "C-S0");
    let event = stream.next().await;
    assert_eq!((&event["type"], &event["launch"]["task"]["task_id"]["value"]), (&"LAUNCH".into(), &"t1".into()));
    assert!(update(&agent, "t1", "TASK_RUNNING", UUID_1).await.0.starts_with("HTTP/1.1 202"));
    let event = stream.next().await;
    assert_eq!(event["type"], "ACKNOWLEDGED");
    assert_eq!(
        (&event["acknowledged"]["uuid"], &event["acknowledged"]["task_id"]["value"]),
        (&UUID_1.into(), &"t1".into())
    );
    let running = master.update("t1", TaskState::TaskRunning).await;
    assert_eq!((running.agent_id.unwrap().value, running.executor_id.unwrap().value), ("C-S0".into(), "e1".into()));
    assert!(running.timestamp.is_some());
    // The same again is acknowledged, and not told twice.
    update(&agent, "t1", "TASK_RUNNING", UUID_1).await;
    assert_eq!(stream.next().await["type"], "ACKNOWLEDGED");

    launch(&master, "t2", "env; sleep 1000");
    assert_eq!(stream.next().await["launch"]["task"]["task_id"]["value"], "t2");
    master.kill("t1");
    assert_eq!(stream.next().await["kill"]["task_id"]["value"], "t1");
    let data = bytes::Bytes::from_static(b"hello");
    master.send(internal::to_agent::Message::FrameworkMessage(internal::FrameworkMessage {
        framework_id: framework().id.unwrap(),
        executor_id: v1::ExecutorId { value: "e1".into() },
        data: data.clone(),
    }));
    assert_eq!(stream.next().await["message"]["data"], "aGVsbG8=");
    let body = call("MESSAGE", json!({ "message": { "data": "aGVsbG8=" } }));
    http(&agent.address, "POST", "/api/v1/executor", JSON, &body).await;
    let message = |known: &common::Known| {
        known.unnumbered.iter().find_map(|one| match one {
            from_agent::Message::ExecutorMessage(message) => Some(message.data.clone()),
            _ => None,
        })
    };
    assert_eq!(master.wait("the executor's message", message).await, data);

    let environment = loop {
        // Written at once, as soon as the process is there.
        let environment = std::fs::read_to_string(agent.sandbox("e1").join("stdout")).unwrap_or_default();
        if !environment.is_empty() {
            break environment;
        }
        tokio::task::yield_now().await;
    };
    for line in [
        "MESOS_FRAMEWORK_ID=C-0000",
        "MESOS_EXECUTOR_ID=e1",
        &format!("MESOS_AGENT_ENDPOINT={}", agent.address),
        "MESOS_CHECKPOINT=1",
        "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD=5secs",
        "MESOS_RECOVERY_TIMEOUT=15mins",
    ] {
        assert!(environment.lines().any(|one| one == line), "{line} in {environment}");
    }

    master.order(order::Order::ShutdownExecutor(internal::ShutdownExecutor {
        framework_id: framework().id.unwrap(),
        executor_id: v1::ExecutorId { value: "e1".into() },
    }));
    assert_eq!(stream.next().await["type"], "SHUTDOWN");
    // It does not end by itself; its time is up after the grace period.
    let failed = master.update("t2", TaskState::TaskFailed).await;
    assert_eq!(failed.reason(), task_status::Reason::ExecutorTerminated);
    let exited = |known: &common::Known| {
        known
            .messages
            .iter()
            .any(|one| matches!(one.message, Some(from_agent::Message::ExecutorExited(_))))
            .then_some(())
    };
    master.wait("the executor's end", exited).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_returns_after_the_agent_did() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    launch(&master, "t1", "sleep 1000");
    launch(&master, "t2", "sleep 1000");
    launched(&master).await;
    let mut stream = Stream::open(&agent.address, json!({})).await;
    for expected in ["SUBSCRIBED", "LAUNCH", "LAUNCH"] {
        assert_eq!(stream.next().await["type"], expected);
    }
    agent.kill();
    let agent = RealAgent::start(&master.address, dir.path(), &["--executor_reregistration_timeout=15secs"]);
    // It has t1 and wrote an update meanwhile; t2 never arrived.
    let status =
        json!({ "task_id": { "value": "t1" }, "state": "TASK_FINISHED", "uuid": UUID_2, "source": "SOURCE_EXECUTOR" });
    let unacknowledged = json!({
        "unacknowledged_tasks": [{ "name": "t1", "task_id": { "value": "t1" }, "agent_id": { "value": "C-S0" } }],
        "unacknowledged_updates": [{ "status": status }],
    });
    let mut stream = Stream::open(&agent.address, unacknowledged).await;
    assert_eq!(stream.next().await["type"], "SUBSCRIBED");
    assert_eq!(stream.next().await["acknowledged"]["uuid"], UUID_2);
    master.update("t1", TaskState::TaskFinished).await;
    let lost = master.update("t2", TaskState::TaskLost).await;
    assert_eq!(lost.reason(), task_status::Reason::AgentRestarted);
    agent.signal(nix::sys::signal::Signal::SIGUSR1);
    assert!(agent.ended().await.success());
}

impl Stream {
    /// Waits for its end, which is a chunk of nothing.
    async fn ended(mut self) {
        let reading = async {
            let mut line = String::new();
            while line != "0\r\n" {
                line.clear();
                if self.0.read_line(&mut line).await.unwrap() == 0 {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("an end");
    }
}

/// Tasks are launched while their executor, which has updates to tell again, is just subscribing: none is lost.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_meet_a_subscription_run() {
    const ROUNDS: usize = 4;
    let flags = ["--executor_reregistration_timeout=15secs"];
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let mut agent = RealAgent::start(&master.address, dir.path(), &flags);
    launch(&master, "first", "sleep 1000");
    launched(&master).await;
    let mut tasks = Vec::new();
    for round in 0..ROUNDS {
        let mut names = vec!["first".to_owned()];
        if round > 0 {
            agent.kill();
            names = (0..5).map(|n| format!("t{round}-{n}")).collect();
            names.iter().for_each(|name| launch(&master, name, "sleep 1000"));
            agent = RealAgent::start(&master.address, dir.path(), &flags);
        }
        // It has all of the tasks; updates of them were never acknowledged.
        let has: Vec<Value> = tasks
            .iter()
            .map(|id| json!({ "name": id, "task_id": { "value": id }, "agent_id": { "value": "C-S0" } }))
            .collect();
        let updates: Vec<Value> = (0..5u8)
            .map(|n| {
                let uuid = base64(&[round as u8, n]);
                json!({ "status": { "task_id": { "value": "first" }, "uuid": uuid, "source": "SOURCE_EXECUTOR",
                                    "state": if n % 2 == 0 { "TASK_STARTING" } else { "TASK_RUNNING" } } })
            })
            .collect();
        let unacknowledged = if round == 0 {
            json!({})
        } else {
            json!({ "unacknowledged_tasks": has, "unacknowledged_updates": updates })
        };
        let mut stream = Stream::open(&agent.address, unacknowledged).await;
        let mut handed = 0;
        while handed < names.len() {
            let event = stream.next().await;
            handed += usize::from(event["type"] == "LAUNCH");
        }
        tasks.extend(names);
    }
    for task_id in &tasks {
        assert!(!master.history(task_id).contains(&"TASK_LOST"), "{task_id}");
    }
}

/// An executor has one stream: the one before is hung up when it opens another.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_another_takes_its_place() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    launch(&master, "t1", "sleep 1000");
    launched(&master).await;
    let first = Stream::open(&agent.address, json!({})).await;
    let has = json!([{ "name": "t1", "task_id": { "value": "t1" }, "agent_id": { "value": "C-S0" } }]);
    let mut second = Stream::open(&agent.address, json!({ "unacknowledged_tasks": has })).await;
    first.ended().await;
    assert_eq!(second.next().await["type"], "SUBSCRIBED");
    launch(&master, "t2", "sleep 1000");
    assert_eq!(second.next().await["launch"]["task"]["task_id"]["value"], "t2");
}

/// 16 bytes that begin with these, in base64.
fn base64(begin: &[u8; 2]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = [1; 18];
    bytes[..2].copy_from_slice(begin);
    let digits = bytes.chunks(3).flat_map(|three| {
        let bits = u32::from(three[0]) << 16 | u32::from(three[1]) << 8 | u32::from(three[2]);
        [18, 12, 6, 0].map(|shift| DIGITS[(bits >> shift & 63) as usize] as char)
    });
    // 16 bytes are 22 digits, of which the last holds four bits of nothing.
    let mut text: String = digits.take(21).collect();
    text.push_str("Q==");
    text
}

/// What ended is forgotten while its executor lives on, and statuses are bounded where they enter.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_remembers_so_much_of_an_executor() {
    const TASKS: usize = 230;
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    launch(&master, "t0", "sleep 1000");
    launched(&master).await;
    let mut stream = Stream::open(&agent.address, json!({})).await;
    (1..TASKS).for_each(|n| launch(&master, &format!("t{n}"), "sleep 1000"));
    let mut ended = 0;
    while ended < TASKS {
        let event = stream.next().await;
        if event["type"] == "LAUNCH" {
            let task_id = event["launch"]["task"]["task_id"]["value"].as_str().unwrap().to_owned();
            let uuid = base64(&[(ended / 250) as u8, (ended % 250) as u8]);
            assert!(update(&agent, &task_id, "TASK_FINISHED", &uuid).await.0.starts_with("HTTP/1.1 202"));
            ended += 1;
        }
    }
    let (_, state) = http(&agent.address, "GET", "/state", "", "").await;
    let state: Value = serde_json::from_str(&state).unwrap();
    let executor = &state["frameworks"][0]["executors"][0];
    assert_eq!(executor["completed_tasks"].as_array().unwrap().len(), 200);
    assert_eq!(executor["tasks"].as_array().unwrap().len(), 0);

    let status = json!({ "task_id": { "value": "t0" }, "state": "TASK_RUNNING", "uuid": UUID_1,
                         "source": "SOURCE_EXECUTOR", "data": "A".repeat(400 << 10) });
    let body = call("UPDATE", json!({ "update": { "status": status } }));
    let (head, text) = http(&agent.address, "POST", "/api/v1/executor", JSON, &body).await;
    assert!(head.starts_with("HTTP/1.1 400") && text.contains("262144 at most"), "{head} {text}");
    launch(&master, "long", "sleep 1000");
    while stream.next().await["type"] != "LAUNCH" {}
    let status = json!({ "task_id": { "value": "long" }, "state": "TASK_FAILED", "uuid": UUID_2,
                         "source": "SOURCE_EXECUTOR", "message": "é".repeat(1 << 20) });
    let body = call("UPDATE", json!({ "update": { "status": status } }));
    let (head, text) = http(&agent.address, "POST", "/api/v1/executor", JSON, &body).await;
    assert!(head.starts_with("HTTP/1.1 202"), "{head} {text}");
    let told = master.update("long", TaskState::TaskFailed).await;
    assert_eq!(told.message().len(), 16 << 10, "cut off, and told");
}

/// What is not its to say is refused, new or not yet acknowledged, and nothing of it is lost.
#[tokio::test(flavor = "multi_thread")]
async fn an_executor_may_not_say_everything() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    launch(&master, "t1", "sleep 1000");
    launched(&master).await;
    master.launch(task("command", "sleep 1000"));
    master.update("command", TaskState::TaskRunning).await;
    let mut stream = Stream::open(&agent.address, json!({})).await;
    while stream.next().await["type"] != "LAUNCH" {}
    let (head, text) = update(&agent, "command", "TASK_FINISHED", UUID_1).await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    assert_eq!(text, "Task 'command' is not one of executor 'e1'");

    let status = |more: Value| {
        let mut status = json!({ "task_id": { "value": "t1" }, "state": "TASK_FINISHED", "uuid": UUID_1,
                                 "source": "SOURCE_EXECUTOR" });
        status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        status
    };
    for (more, sentence) in [
        (json!({ "uuid": null }), "Expecting 'uuid' to be present"),
        (json!({ "uuid": "AAAA" }), "Expecting 'uuid' to have 16 bytes, but it has 3"),
        (json!({ "source": "SOURCE_MASTER" }), "expecting SOURCE_EXECUTOR"),
        (json!({ "executor_id": { "value": "e2" } }), "ExecutorID in Call does not match ExecutorID in TaskStatus"),
        (json!({ "state": "TASK_STAGING" }), "Received TASK_STAGING from executor, which is not allowed"),
        (json!({ "state": "TASK_UNREACHABLE" }), "Received TASK_UNREACHABLE from executor, which is not allowed"),
        (json!({ "state": "TASK_UNKNOWN" }), "Received TASK_UNKNOWN from executor, which is not allowed"),
    ] {
        let status = status(more);
        let again = json!({ "subscribe": { "unacknowledged_updates": [{ "status": status }] } });
        for body in [call("UPDATE", json!({ "update": { "status": status } })), call("SUBSCRIBE", again)] {
            let (head, text) = http(&agent.address, "POST", "/api/v1/executor", JSON, &body).await;
            assert!(head.starts_with("HTTP/1.1 400") && text.contains(sentence), "{body}: {head} {text}");
        }
    }
    let body = call("UPDATE", json!({ "update": { "status": status(json!({ "timestamp": "NaN" })) } }));
    let (head, text) = http(&agent.address, "POST", "/api/v1/executor", JSON, &body).await;
    assert!(head.starts_with("HTTP/1.1 202"), "{head} {text}");
    let told = master.update("t1", TaskState::TaskFinished).await;
    assert!(told.timestamp().is_finite() && told.timestamp() > 0.0, "{:?}", told.timestamp);
    agent.signal(nix::sys::signal::Signal::SIGUSR1);
    assert!(agent.ended().await.success());
}

/// To acknowledge an order is to say that it is so. What ran goes on, and is told of.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_of_an_unknown_kind_is_not_taken_and_none_behind_it() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let go = dir.path().join("go");
    master.launch(task("t1", &format!("while [ ! -e {} ]; do sleep 0.02; done", go.display())));
    master.update("t1", TaskState::TaskRunning).await;
    master.order_of_nothing();
    master.launch(task("t2", "true"));
    let refused = async {
        loop {
            let (_, metrics) = http(&agent.address, "GET", "/metrics/snapshot", "", "").await;
            let metrics: Value = serde_json::from_str(&metrics).unwrap();
            if metrics["slave/orders_refused"] == 1.0 {
                return;
            }
        }
    };
    tokio::time::timeout(common::PATIENCE, refused).await.unwrap();
    std::fs::write(&go, "").unwrap();
    master.update("t1", TaskState::TaskFinished).await;
    assert_eq!(master.known.lock().acknowledged, 1);
    assert_eq!(master.history("t2"), [""; 0]);
}

/// What a task uses is there before its executor hears of it, and no longer when it is over.
#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_tasks_come_and_go_while_their_executor_runs() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let volumes = ["v", "w"].map(common::volume);
    for (name, volume) in (1..).zip(&volumes) {
        master.create(name, volume, &volumes);
    }
    let launch_on = |id: &str, volume: &v1::Resource| {
        let mut task = v1::TaskInfo { command: None, executor: Some(executor("sleep 1000")), ..task(id, "") };
        task.resources.push(volume.clone());
        master.launch(task);
    };
    launch_on("t1", &volumes[0]);
    launched(&master).await;
    let data = agent.sandbox("e1").join("data");
    let target = |id: &str| std::fs::canonicalize(dir.path().join(format!("volumes/roles/eng dev/{id}"))).unwrap();
    assert_eq!(std::fs::read_link(&data).unwrap(), target("v"));
    let mut stream = Stream::open(&agent.address, json!({})).await;
    stream.next().await;
    assert_eq!(stream.next().await["type"], "LAUNCH");
    update(&agent, "t1", "TASK_FINISHED", UUID_1).await;
    assert_eq!(stream.next().await["type"], "ACKNOWLEDGED");
    launch_on("t2", &volumes[1]);
    assert_eq!(stream.next().await["type"], "LAUNCH");
    assert_eq!(std::fs::read_link(&data).unwrap(), target("w"));
    update(&agent, "t2", "TASK_FINISHED", UUID_2).await;
    assert_eq!(stream.next().await["type"], "ACKNOWLEDGED");
    launch(&master, "t3", "sleep 1000");
    assert_eq!(stream.next().await["type"], "LAUNCH");
    assert!(std::fs::symlink_metadata(&data).is_err(), "nobody uses one");
    // What the executor put in its place is not replaced; it is not handed the task.
    std::fs::write(&data, "its own").unwrap();
    launch_on("t4", &volumes[0]);
    let failed = master.update("t4", TaskState::TaskFailed).await;
    assert_eq!(failed.reason(), task_status::Reason::ContainerUpdateFailed);
    assert_eq!(std::fs::read_to_string(&data).unwrap(), "its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn executors_that_do_not_subscribe_are_ended() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let _agent = RealAgent::start(&master.address, dir.path(), &["--executor_registration_timeout=100ms"]);
    launch(&master, "t1", "sleep 1000");
    let failed = master.update("t1", TaskState::TaskFailed).await;
    assert_eq!(failed.reason(), task_status::Reason::ExecutorRegistrationTimeout);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_calls_get_the_texts_that_clients_know() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let subscribe = r#"{"type":"SUBSCRIBE","framework_id":{"value":"x"},"executor_id":{"value":"y"},"subscribe":{}}"#;
    let cases = [
        (
            "POST",
            "/api/v1/executor",
            JSON,
            "{}",
            "400",
            "Failed to convert JSON into Call protobuf: Missing required fields: executor_id, framework_id",
        ),
        ("POST", "/api/v1/executor", JSON, subscribe, "400", "Framework cannot be found"),
        (
            "POST",
            "/slave(1)/api/v1/executor",
            "Content-Type: text/plain\r\n",
            "{}",
            "415",
            "Expecting 'Content-Type' of application/json or application/x-protobuf",
        ),
        (
            "GET",
            "/api/v1/executor",
            "",
            "",
            "405",
            "405 Method Not Allowed. Expecting one of { 'POST' }, but received 'GET'.",
        ),
        (
            "POST",
            "/api/v1",
            JSON,
            r#"{"type":"GET_MASTER"}"#,
            "400",
            "Failed to validate agent::Call: Expecting 'type' to be present",
        ),
        (
            "POST",
            "/api/v1",
            JSON,
            r#"{"type":"GET_HEALTH"}"#,
            "200",
            r#"{"type":"GET_HEALTH","get_health":{"healthy":true}}"#,
        ),
        (
            "POST",
            "/api/v1",
            JSON,
            r#"{"type":"GET_OPERATIONS"}"#,
            "200",
            r#"{"type":"GET_OPERATIONS","get_operations":{}}"#,
        ),
        (
            "POST",
            "/api/v1",
            JSON,
            r#"{"type":"ADD_RESOURCE_PROVIDER_CONFIG"}"#,
            "400",
            "Failed to validate agent::Call: Expecting 'add_resource_provider_config' to be present",
        ),
        ("GET", "/nosuch", "", "", "404", "404 Not Found."),
        ("GET", "/health", "", "", "200", ""),
    ];
    for (method, path, head, body, status, expected) in cases {
        let (head, text) = http(&agent.address, method, path, head, body).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{method} {path} {body}: {head}");
        assert_eq!(text, expected, "{method} {path} {body}");
    }
    for call in [
        "GET_STATE",
        "GET_AGENT",
        "GET_TASKS",
        "GET_EXECUTORS",
        "GET_FRAMEWORKS",
        "GET_CONTAINERS",
        "GET_FLAGS",
        "GET_VERSION",
    ] {
        let (head, text) = http(&agent.address, "POST", "/api/v1", JSON, &json!({ "type": call }).to_string()).await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert!(head.starts_with("HTTP/1.1 200") && answer["type"] == call, "{head} {text}");
    }
    for path in ["/metrics/snapshot", "/flags", "/version", "/containers", "/monitor/statistics", "/files/debug"] {
        let (head, text) = http(&agent.address, "GET", path, "", "").await;
        assert!(
            head.starts_with("HTTP/1.1 200") && serde_json::from_str::<Value>(&text).is_ok(),
            "{path}: {head} {text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_finds_room_however_many_idle_connections_there_are() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start_after("ulimit -n 512", &master.address, dir.path(), &[]);
    launch(&master, "t1", "exec sleep 600");
    launched(&master).await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        let mut socket = TcpStream::connect(&agent.address).await.unwrap();
        socket.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        socket.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200", "{}", idle.len());
        idle.push(socket);
    }
    let mut stream = Stream::open(&agent.address, json!({})).await;
    assert_eq!(stream.next().await["type"], "SUBSCRIBED");
    assert!(update(&agent, "t1", "TASK_RUNNING", UUID_1).await.0.starts_with("HTTP/1.1 202"));
}
