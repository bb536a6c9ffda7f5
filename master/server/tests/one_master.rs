//! One master, end to end: a framework, an agent, a task's life, and a restart in the middle of it.

mod support;

use api::internal::order::Order;
use api::v1::TaskState;
use serde_json::{Value, json};
use std::time::Duration;
use support::agent::Agent;
use support::client::{Framework, framework_info, post, scheduler, send, whole};
use support::{Cluster, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_task_lives_through_a_restart_of_the_master() {
    let mut cluster = Cluster::start(1).await;
    let master = cluster.masters[0].address;
    let mut agent = Agent::register(master).await;
    let mut framework = Framework::subscribe(master, framework_info("f")).await;
    framework.event("HEARTBEAT").await;

    let offers = framework.event("OFFERS").await;
    let offer = offers["offers"]["offers"][0].clone();
    assert_eq!(offer["agent_id"]["value"], agent.id.as_str());
    framework.launch(&offer, "t1").await;
    match agent.order().await {
        Order::Launch(launch) => assert_eq!(launch.task.task_id.value, "t1"),
        other => panic!("{other:?}"),
    }
    agent.update(&framework.id, "t1", TaskState::TaskRunning);
    let running = framework.event("UPDATE").await;
    assert_eq!(running["update"]["status"]["state"], "TASK_RUNNING");

    cluster.masters[0].restart().await;
    framework.ended().await;

    // The framework comes back with its id: the update that it did not acknowledge is still there.
    let mut info = framework_info("f");
    info["id"] = json!({"value": framework.id});
    let mut framework = Framework::subscribe(master, info).await;
    let again = framework.event("UPDATE").await;
    assert_eq!(again["update"]["status"]["uuid"], running["update"]["status"]["uuid"]);
    framework.acknowledge_at(master, &again).await;

    let mut agent = agent.resume(master).await;
    agent.update(&framework.id, "t1", TaskState::TaskFinished);
    let finished = framework.event("UPDATE").await;
    assert_eq!(finished["update"]["status"]["state"], "TASK_FINISHED");
    framework.acknowledge_at(master, &finished).await;

    until("the task to be completed", async || {
        let (state, _) = cluster.masters[0].running().context.reader.state();
        (state.tasks.live.is_empty() && state.tasks.completed.len() == 1).then_some(())
    })
    .await;
}

/// Client demand 1: one record is one chunk. Demand 5: chunked whatever the request says of its connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_a_chunk() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let cluster = Cluster::start(1).await;
    let mut socket = tokio::net::TcpStream::connect(cluster.masters[0].address).await.unwrap();
    let body = json!({"type": "SUBSCRIBE", "subscribe": {"framework_info": framework_info("f")}}).to_string();
    let request = format!(
        "POST /api/v1/scheduler HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("HEARTBEAT") {
        assert!(socket.read_buf(&mut seen).await.unwrap() > 0);
    }
    let text = String::from_utf8(seen).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("Transfer-Encoding: chunked") && !head.contains("Content-Length"), "{head}");
    let (size, rest) = body.split_once("\r\n").unwrap();
    let (chunk, rest) = rest.split_at(usize::from_str_radix(size, 16).unwrap());
    let (length, record) = chunk.split_once('\n').unwrap();
    assert_eq!(length.parse::<usize>().unwrap(), record.len());
    assert!(record.starts_with(r#"{"type":"SUBSCRIBED""#) && !record.contains('\n'), "{record}");
    assert!(rest.starts_with("\r\n17\r\n20\n{\"type\":\"HEARTBEAT\"}\r\n"), "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_refused_in_the_order_and_with_the_texts_that_clients_know() {
    let cluster = Cluster::start(1).await;
    let to = cluster.masters[0].address;
    let json_headers = [("content-type", "application/json")];
    let ask = async |headers: &[(&str, &str)], body: &str| {
        whole(send(to, post("/api/v1/scheduler", headers, body.to_owned())).await).await
    };
    let subscribe = json!({"type": "SUBSCRIBE", "subscribe": {"framework_info": framework_info("x")}}).to_string();
    assert_eq!(ask(&[], "{}").await, (400, "Expecting 'Content-Type' to be present".into()));
    assert_eq!(
        ask(&[("content-type", "text/plain")], "{}").await,
        (415, "Expecting 'Content-Type' of application/json or application/x-protobuf".into())
    );
    let not_json = "Failed to parse body into JSON: syntax error at line 1 near: hello";
    assert_eq!(ask(&json_headers, "hello").await, (400, not_json.into()));
    let no_type = "Failed to validate scheduler::Call: Expecting 'type' to be present";
    assert_eq!(ask(&json_headers, "{}").await, (400, no_type.into()));
    let html = [("content-type", "application/json"), ("accept", "text/html")];
    let not_html = "Expecting 'Accept' to allow 'application/x-protobuf' or 'application/json'";
    assert_eq!(ask(&html, &subscribe).await, (406, not_html.into()));
    let with_stream = [("content-type", "application/json"), ("mesos-stream-id", "x")];
    let no_stream = "Subscribe calls should not include the 'Mesos-Stream-Id' header";
    assert_eq!(ask(&with_stream, &subscribe).await, (400, no_stream.into()));
    let unknown = json!({"type": "REVIVE", "framework_id": {"value": "nosuch"}});
    assert_eq!(scheduler(to, "x", &unknown).await, (400, "Framework cannot be found".into()));

    let request = http::Request::get("/api/v1/scheduler").body(Default::default()).unwrap();
    let response = send(to, request).await;
    assert_eq!(response.headers()["allow"], "POST");
    let text = "405 Method Not Allowed. Expecting one of { 'POST' }, but received 'GET'.";
    assert_eq!(whole(response).await, (405, text.into()));
    for (method, path, allow) in [
        ("POST", "/agents/away", "GET"),
        ("GET", "/meseta/challenge", "POST"),
        ("DELETE", "/meseta/hello", "POST"),
        ("PUT", "/meseta/digest", "GET, POST"),
        ("PUT", "/meseta/masters", "POST"),
        ("POST", "/meseta/snapshot", "GET"),
    ] {
        let request = http::Request::builder().method(method).uri(path).body(Default::default()).unwrap();
        let response = send(to, request).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["allow"]),
            (405, &allow.parse().unwrap()),
            "{path}"
        );
    }
}

/// A SUBSCRIBE that is refused for what it says is answered 200, and on its stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_role_is_told_on_the_stream() {
    let cluster = Cluster::start(1).await;
    let mut info = framework_info("x");
    info["roles"] = json!(["/a"]);
    let call = json!({"type": "SUBSCRIBE", "subscribe": {"framework_info": info}}).to_string();
    let response =
        send(cluster.masters[0].address, post("/api/v1/scheduler", &[("content-type", "application/json")], call))
            .await;
    assert!(response.headers().contains_key("mesos-stream-id"));
    let (status, body) = whole(response).await;
    assert_eq!(status, 200);
    let event: Value = serde_json::from_str(body.split_once('\n').unwrap().1).unwrap();
    let sentence = "'FrameworkInfo.roles' contains invalid role: Role '/a' cannot start with a slash";
    assert_eq!(event, json!({"type": "ERROR", "error": {"message": sentence}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_stream_ends_the_first() {
    let cluster = Cluster::start(1).await;
    let master = cluster.masters[0].address;
    let mut first = Framework::subscribe(master, framework_info("f")).await;
    let mut info = framework_info("f");
    info["id"] = json!({"value": first.id});
    let second = Framework::subscribe(master, info).await;
    let error = first.event("ERROR").await;
    assert_eq!(error["error"]["message"], "Framework failed over");
    first.ended().await;
    let revive = json!({"type": "REVIVE", "framework_id": {"value": second.id}});
    let (status, text) = scheduler(master, &first.stream_id, &revive).await;
    assert_eq!(status, 400);
    assert!(text.contains("didn't match the stream ID currently associated with framework ID"), "{text}");
    assert_eq!(scheduler(master, &second.stream_id.to_uppercase(), &revive).await.0, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_noticed_at_once() {
    let cluster = Cluster::start(1).await;
    let framework = Framework::subscribe(cluster.masters[0].address, framework_info("f")).await;
    drop(framework);
    until("the framework to be disconnected", async || {
        let (state, _) = cluster.masters[0].running().context.reader.state();
        state.frameworks.live.values().all(|framework| framework.stream.is_none()).then_some(())
    })
    .await;
}

/// What came while it stood still is read before anybody is missed.
#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_stood_still_blames_no_agent() {
    let cluster = Cluster::start(1).await;
    let master = cluster.masters[0].address;
    let mut agent = Agent::register(master).await;
    cluster.masters[0].stand_still(Duration::from_secs(7));
    let mut framework = Framework::subscribe(master, framework_info("f")).await;
    let offers = framework.event("OFFERS").await;
    framework.launch(&offers["offers"]["offers"][0], "t1").await;
    assert!(matches!(agent.order().await, Order::Launch(_)), "on the connection that it had before");
}
