//! What real clients of Mesos demand of a master and an agent: public behaviour that some client depends on. Each test
//! names its demand by number; the numbers are only for reference.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use api::v1;
use proptests::cluster::{Cluster, Plan};
use proptests::framework::{self, Framework, Records, SCHEDULER, command_task, info, protobuf_event};
use proptests::http::{self, Answer, PATIENCE, Request};
use proptests::wait;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

fn one_master() -> (Cluster, SocketAddr) {
    let cluster = Plan::new().start();
    let address = cluster.address("m0");
    (cluster, address)
}

fn with_agent() -> (Cluster, SocketAddr) {
    let cluster = Plan::new().agents(1).start();
    let address = cluster.address("m0");
    (cluster, address)
}

fn get(address: SocketAddr, path: &str) -> Answer {
    http::send(address, &Request::get(path)).expect("an answer")
}

fn subscribe_request(info: &Value) -> Request {
    let call = json!({"type": "SUBSCRIBE", "subscribe": {"framework_info": info}});
    Request::post_json(SCHEDULER, &call.to_string())
}

#[test]
fn demand_01_one_record_is_one_chunk() {
    let (_cluster, address) = with_agent();
    let mut framework = Framework::subscribe(address, &info("json"));
    let offer = framework.offer();
    framework.launch(&offer, &[command_task("t", &offer, "true")]);
    framework.until_state("t", "TASK_FINISHED");
    assert!(framework.records.one_record_a_chunk);
    framework.teardown();

    let mut records = framework::subscribe_protobuf(address, "protobuf").expect("a stream");
    let mut offers = false;
    while !offers {
        let event = protobuf_event(&mut records).expect("a record").expect("no end");
        offers = event.r#type() == v1::scheduler::event::Type::Offers;
    }
    assert!(records.one_record_a_chunk);
}

#[test]
fn demand_02_no_newline_in_or_after_a_record() {
    let (_cluster, address) = with_agent();
    let mut records = Records::new(http::open(address, &subscribe_request(&info("lines"))).expect("a stream"));
    for _ in 0..3 {
        let record = records.next(PATIENCE).expect("a record").expect("no end");
        assert!(!record.contains(&b'\n'), "{}", String::from_utf8_lossy(&record));
        assert_eq!(record.last(), Some(&b'}'));
    }
}

#[test]
fn demand_03_heartbeats_keep_their_clock_under_traffic() {
    let (_cluster, address) = one_master();
    let mut framework = Framework::subscribe(address, &info("heartbeats"));
    let mut beats: Vec<Instant> = Vec::new();
    while beats.len() < 3 {
        // Traffic: each answer is an event of its own.
        framework.call(json!({"type": "RECONCILE", "reconcile": {"tasks": [{"task_id": {"value": "nosuch"}}]}}));
        let event = framework.event(Duration::from_secs(20)).expect("an event");
        if event["type"] == "HEARTBEAT" {
            beats.push(Instant::now());
        }
        std::thread::sleep(Duration::from_millis(50));
        let late = beats.last().is_some_and(|beat| beat.elapsed() > Duration::from_secs(20));
        assert!(!late, "no heartbeat for 20 s");
    }
    let gap = beats[2] - beats[1];
    assert!((13..=18).contains(&gap.as_secs()), "{gap:?} between heartbeats");
}

#[test]
fn demand_04_json_is_ascii() {
    let (_cluster, address) = one_master();
    let mut framework = Framework::subscribe(address, &info("ascii"));
    framework.call(json!({"type": "RECONCILE", "reconcile": {"tasks": [{"task_id": {"value": "tâche-😀"}}]}}));
    loop {
        let record = framework.records.next(PATIENCE).expect("a record").expect("no end");
        assert!(record.is_ascii(), "{}", String::from_utf8_lossy(&record));
        let event: Value = serde_json::from_slice(&record).expect("JSON");
        if event["type"] == "UPDATE" {
            assert_eq!(event["update"]["status"]["task_id"]["value"], "tâche-😀");
            return;
        }
    }
}

#[test]
fn demand_05_streams_are_chunked_even_when_asked_to_close() {
    let (_cluster, address) = one_master();
    let request = subscribe_request(&info("close")).header("Connection", "close");
    let stream = http::open(address, &request).expect("a stream");
    assert_eq!(stream.head.status, 200);
    assert_eq!(stream.head.header("Transfer-Encoding"), Some("chunked"));
    assert_eq!(stream.head.header("Content-Length"), None);
}

#[test]
fn demand_06_content_type_has_no_parameters() {
    let (_cluster, address) = one_master();
    let stream = http::open(address, &subscribe_request(&info("json"))).expect("a stream");
    assert_eq!(stream.head.header("Content-Type"), Some("application/json"));
    let records = framework::subscribe_protobuf(address, "protobuf").expect("a stream");
    assert_eq!(records.head().header("Content-Type"), Some("application/x-protobuf"));
    let call = Request::post_json("/api/v1", r#"{"type":"GET_HEALTH"}"#);
    let answer = http::send(address, &call).expect("an answer");
    assert_eq!(answer.head.header("Content-Type"), Some("application/json"));
}

#[test]
fn demand_07_accepted_calls_are_202_and_empty() {
    let (_cluster, address) = one_master();
    let mut framework = Framework::subscribe(address, &info("calls"));
    let calls = [
        json!({"type": "REVIVE"}),
        json!({"type": "SUPPRESS"}),
        json!({"type": "DECLINE", "decline": {"offer_ids": [{"value": "nosuch"}]}}),
        json!({"type": "RECONCILE", "reconcile": {"tasks": []}}),
        json!({"type": "KILL", "kill": {"task_id": {"value": "nosuch"}}}),
        json!({"type": "REQUEST", "request": {"requests": []}}),
        json!({"type": "TEARDOWN"}),
    ];
    for call in calls {
        let answer = framework.try_call(call.clone());
        assert_eq!((answer.status(), answer.body.len()), (202, 0), "{call}: {}", answer.text());
        assert_eq!(answer.head.header("Content-Length"), Some("0"), "{call}");
    }
}

#[test]
fn demand_08_the_stream_id_comes_back_in_any_letter_case() {
    let (_cluster, address) = one_master();
    let framework = Framework::subscribe(address, &info("header"));
    for name in ["Mesos-Stream-Id", "MESOS-STREAM-ID", "mesos-stream-id", "Mesos-Stream-ID"] {
        let call = json!({"type": "REVIVE", "framework_id": {"value": framework.id}});
        let request = Request::post_json(SCHEDULER, &call.to_string()).header(name, &framework.stream_id);
        assert_eq!(http::send(address, &request).expect("an answer").status(), 202, "{name}");
    }
}

#[test]
fn demand_09_chunked_request_bodies() {
    let (_cluster, address) = one_master();
    let framework = Framework::subscribe(address, &info("chunks"));
    let call = json!({"type": "REVIVE", "framework_id": {"value": framework.id}});
    let mut request = Request::post_json(SCHEDULER, &call.to_string()).header("Mesos-Stream-Id", &framework.stream_id);
    request.chunks = Some(vec![1, 2, 7]);
    assert_eq!(http::send(address, &request).expect("an answer").status(), 202);
}

#[test]
fn demand_10_no_accept_means_json() {
    let (_cluster, address) = one_master();
    let mut request = subscribe_request(&info("no accept"));
    request.headers.retain(|(name, _)| name != "Accept");
    let mut records = Records::new(http::open(address, &request).expect("a stream"));
    assert_eq!(records.head().header("Content-Type"), Some("application/json"));
    let first: Value =
        serde_json::from_slice(&records.next(PATIENCE).expect("a record").expect("no end")).expect("JSON");
    assert_eq!(first["type"], "SUBSCRIBED");
}

#[test]
fn demand_11_null_is_unset() {
    let (_cluster, address) = one_master();
    let call = json!({"type": "SUBSCRIBE", "framework_id": null, "accept": null, "decline": null, "kill": null,
        "subscribe": {"framework_info": {"user": "root", "name": "nulls", "id": null, "roles": null, "role": null,
        "failover_timeout": null, "labels": null}, "suppressed_roles": null}});
    let stream = http::open(address, &Request::post_json(SCHEDULER, &call.to_string())).expect("a stream");
    assert_eq!(stream.head.status, 200);
}

#[test]
fn demand_12_unknown_fields_numbers_in_strings_unknown_enums() {
    let (_cluster, address) = with_agent();
    let mut info = info("lenient");
    info["failover_timeout"] = json!("3600");
    info["nosuch"] = json!({"a": [1]});
    info["capabilities"] = json!([{"type": "NO_SUCH_CAPABILITY"}]);
    let mut framework = Framework::subscribe(address, &info);
    let offer = framework.offer();
    let mut task = command_task("t", &offer, "true");
    task["slave_id"] = offer["agent_id"].clone();
    let ranges = json!([{"begin": "31000", "end": "31001"}]);
    let ports = json!({"name": "ports", "type": "RANGES", "role": "*", "ranges": {"range": ranges}});
    task["resources"].as_array_mut().expect("a list").push(ports);
    framework.launch(&offer, &[task]);
    framework.until_state("t", "TASK_FINISHED");
}

/// Reading what was served into the schema and writing it again loses nothing: no foreign names, all that is required.
fn strict<T: api::wire::Wire>(answer: &Value) {
    let text = answer.to_string();
    let message: T = api::json::from_slice(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
    let again = api::json::to_value(&message);
    assert_eq!(&again, answer);
}

#[test]
fn demand_13_v1_json_has_proto_names_only_and_all_required_fields() {
    let (cluster, address) = with_agent();
    let mut framework = Framework::subscribe(address, &info("strict"));
    let offer = framework.offer();
    framework.launch(&offer, &[command_task("done", &offer, "true"), command_task("runs", &offer, "sleep 1000")]);
    framework.until_state("runs", "TASK_RUNNING");
    for call in [
        "GET_STATE",
        "GET_AGENTS",
        "GET_FRAMEWORKS",
        "GET_TASKS",
        "GET_EXECUTORS",
        "GET_ROLES",
        "GET_MASTER",
        "GET_VERSION",
        "GET_HEALTH",
        "GET_FLAGS",
        "GET_LOGGING_LEVEL",
    ] {
        strict::<v1::master::Response>(&cluster.operator("m0", &json!({"type": call})));
    }
    for call in ["GET_STATE", "GET_AGENT", "GET_FRAMEWORKS", "GET_TASKS", "GET_EXECUTORS", "GET_VERSION"] {
        strict::<v1::agent::Response>(&cluster.operator("a0", &json!({"type": call})));
    }
    strict::<v1::Offer>(&offer);
    for event in &framework.seen {
        strict::<v1::scheduler::Event>(event);
    }
}

#[test]
fn demand_14_paths_fall_back_to_the_longest_registered_prefix() {
    let (cluster, address) = with_agent();
    let call = Request::post_json("/api/v1/operator", r#"{"type":"GET_HEALTH"}"#);
    assert_eq!(http::send(address, &call).expect("an answer").status(), 200);
    for path in
        ["/frameworks/", "/master/frameworks/", "/slaves/AGENT", "/tasks/?task_id=x", "/state/", "/master/state"]
    {
        assert_eq!(get(address, path).status(), 200, "{path}");
    }
    for path in ["/slave(1)/state", "/state", "/slave(1)/monitor/statistics"] {
        assert_eq!(get(cluster.address("a0"), path).status(), 200, "{path}");
    }
}

#[test]
fn demand_15_post_reads_like_get() {
    let (_cluster, address) = with_agent();
    for path in ["/slaves", "/master/slaves", "/tasks"] {
        let request = Request { method: "POST".into(), path: path.into(), ..Request::default() };
        let answer = http::send(address, &request).expect("an answer");
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(
            answer.json().as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()),
            get(address, path).json().as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()),
            "{path}"
        );
    }
}

#[test]
fn demand_16_useless_credentials_do_not_fail() {
    let (_cluster, address) = one_master();
    let request = subscribe_request(&info("credentials")).header("Authorization", "Basic Og==");
    assert_eq!(http::open(address, &request).expect("a stream").head.status, 200);
}

#[test]
fn demand_17_host_may_name_another_host() {
    let (_cluster, address) = one_master();
    let request = subscribe_request(&info("host")).header("Host", "elsewhere.example:5050");
    assert_eq!(http::open(address, &request).expect("a stream").head.status, 200);
}

#[test]
fn demand_18_followers_redirect_and_some_answer_locally() {
    let cluster = Plan::new().masters(3).start();
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let port = cluster.address(&leader).port();
    for path in ["/master/state", "/slaves?slave_id=x", "/master/frameworks", "/tasks?limit=1&order=asc"] {
        let answer = get(cluster.address(&follower), path);
        assert_eq!(answer.status(), 307, "{path}");
        let location = answer.head.header("Location").expect("a location").to_owned();
        let (host, rest) = location.strip_prefix("//").and_then(|text| text.split_once('/')).expect("//host:port/path");
        assert!(host.ends_with(&format!(":{port}")), "{location}");
        assert_eq!(format!("/{rest}"), path);
    }
    for path in ["/redirect", "/master/redirect"] {
        for master in cluster.masters() {
            let answer = get(cluster.address(&master), path);
            assert_eq!(answer.status(), 307);
            let location = answer.head.header("Location").expect("a location");
            assert!(location.starts_with("//") && location.ends_with(&format!(":{port}")), "{location}");
        }
    }
    for path in ["/version", "/health", "/metrics/snapshot"] {
        assert_eq!(get(cluster.address(&follower), path).status(), 200, "{path}");
    }
}

#[test]
fn demand_19_without_a_leader_calls_are_paced() {
    let mut cluster = Plan::new().masters(3).start();
    let follower = cluster.follower();
    let address = cluster.address(&follower);
    for master in cluster.masters().iter().filter(|name| **name != follower) {
        cluster.kill(master);
    }
    // A client that does not back off: it asks again as soon as it is answered.
    let start = Instant::now();
    let mut answers = 0;
    while start.elapsed() < Duration::from_secs(4) {
        let stream = http::open(address, &subscribe_request(&info("impatient"))).expect("an answer");
        assert_eq!(stream.head.status, 503);
        answers += 1;
    }
    assert!(answers <= 40, "{answers} answers in 4 s");
    assert_eq!(get(address, "/health").status(), 200);
    for master in cluster.masters().iter().filter(|name| **name != follower) {
        cluster.restart(master);
    }
    cluster.wait_ready();
    Framework::subscribe(address, &info("patient"));
}

#[test]
fn demand_20_without_multi_role_no_allocation_info() {
    let (_cluster, address) = with_agent();
    let offer = Framework::subscribe(address, &info("single")).offer();
    assert!(offer.get("allocation_info").is_none(), "{offer}");
    for resource in offer["resources"].as_array().expect("resources") {
        assert!(resource.get("allocation_info").is_none(), "{resource}");
    }
    let mut multi = info("multi");
    multi["roles"] = json!(["web"]);
    multi["capabilities"] = json!([{"type": "MULTI_ROLE"}]);
    let (_other, address) = with_agent();
    let offer = Framework::subscribe(address, &multi).offer();
    assert_eq!(offer["allocation_info"]["role"], "web");
    assert_eq!(offer["resources"][0]["allocation_info"]["role"], "web");
}

#[test]
fn demand_21_reservation_refinement_decides_the_format_of_resources() {
    let (_cluster, address) = with_agent();
    let mut framework = Framework::subscribe(address, &info("old"));
    for resource in framework.offer()["resources"].as_array().expect("resources") {
        assert_eq!(resource["role"], "*");
    }
    framework.teardown();
    let mut refined = info("new");
    refined["capabilities"] = json!([{"type": "RESERVATION_REFINEMENT"}]);
    for resource in Framework::subscribe(address, &refined).offer()["resources"].as_array().expect("resources") {
        assert!(resource.get("role").is_none(), "{resource}");
    }
}

#[test]
fn demand_22_empty_launches_and_declines_are_legal() {
    let (_cluster, address) = with_agent();
    let mut framework = Framework::subscribe(address, &info("empty"));
    framework.call(json!({"type": "DECLINE", "decline": {"offer_ids": []}}));
    let offer = framework.offer();
    framework.launch(&offer, &[]);
    // What was accepted for nothing is offered again.
    framework.offer();
}

#[test]
fn demand_23_role_and_roles() {
    let (cluster, address) = one_master();
    let mut legacy = info("legacy");
    legacy["role"] = json!("web");
    let mut multi = info("multi");
    multi["roles"] = json!(["a", "b"]);
    multi["capabilities"] = json!([{"type": "MULTI_ROLE"}]);
    let kept = [legacy, multi, info("neither")].map(|info| Framework::subscribe(address, &info));
    let frameworks = cluster.get("m0", "/frameworks");
    let by_id = |id: &str| {
        let list = frameworks["frameworks"].as_array().expect("a list");
        list.iter().find(|framework| framework["id"] == id).expect("there").clone()
    };
    assert_eq!(by_id(&kept[0].id)["role"], "web");
    assert_eq!(by_id(&kept[1].id)["roles"], json!(["a", "b"]));
    assert_eq!(by_id(&kept[2].id)["role"], "*");
}

#[test]
fn demand_24_a_framework_subscribes_again_by_its_id() {
    let (_cluster, address) = with_agent();
    let mut first = Framework::subscribe(address, &info("again"));
    let offer = first.offer();
    first.launch(&offer, &[command_task("t", &offer, "sleep 1000")]);
    first.until_state("t", "TASK_RUNNING");
    let id = first.id.clone();
    drop(first);
    let mut known = info("again");
    known["id"] = json!({"value": id});
    let mut second = Framework::subscribe(address, &known);
    assert_eq!(second.id, id);
    second.call(json!({"type": "KILL", "kill": {"task_id": {"value": "t"}}}));
    let status = second.update("t");
    assert_eq!(status["state"], "TASK_KILLED");
}

#[test]
fn demand_25_single_answers_have_a_length_and_streams_have_chunks() {
    let (_cluster, address) = one_master();
    let answer = http::send(address, &Request::post_json("/api/v1", r#"{"type":"GET_STATE"}"#)).expect("an answer");
    assert!(answer.head.header("Content-Length").is_some());
    assert_eq!(answer.head.header("Transfer-Encoding"), None);
    let stream = http::open(address, &Request::post_json("/api/v1", r#"{"type":"SUBSCRIBE"}"#)).expect("a stream");
    assert_eq!(stream.head.header("Transfer-Encoding"), Some("chunked"));
    assert_eq!(stream.head.header("Content-Length"), None);
}

#[test]
fn demand_26_the_operator_stream() {
    let (_cluster, address) = with_agent();
    let subscribe = Request::post_json("/api/v1", r#"{"type":"SUBSCRIBE"}"#);
    let mut records = Records::new(http::open(address, &subscribe).expect("a stream"));
    assert_eq!(records.head().header("Mesos-Stream-Id"), None);
    let mut next = || -> Value {
        let record = records.next(PATIENCE).expect("a record").expect("no end");
        let event = serde_json::from_slice(&record).expect("JSON");
        strict::<v1::master::Event>(&event);
        event
    };
    let first = next();
    assert_eq!(first["type"], "SUBSCRIBED");
    assert!(first["subscribed"]["get_state"].is_object(), "{first}");
    assert_eq!(first["subscribed"]["heartbeat_interval_seconds"], 15.0);
    assert_eq!(next()["type"], "HEARTBEAT");

    let mut framework = Framework::subscribe(address, &info("watched"));
    let offer = framework.offer();
    framework.launch(&offer, &[command_task("t", &offer, "true")]);
    framework.until_state("t", "TASK_FINISHED");
    framework.teardown();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|kind| kind != "FRAMEWORK_REMOVED") {
        let event = next();
        let state = event["task_updated"]["state"].as_str().map(|state| format!(" {state}")).unwrap_or_default();
        let kind = format!("{}{state}", event["type"].as_str().expect("a type"));
        if kind != "HEARTBEAT" {
            seen.push(kind);
        }
    }
    for kind in ["FRAMEWORK_ADDED", "TASK_ADDED", "TASK_UPDATED TASK_RUNNING", "TASK_UPDATED TASK_FINISHED"] {
        assert!(seen.iter().any(|had| had == kind), "no {kind} in {seen:?}");
    }
}

/// A task whose executor is this test: the command only writes down its environment and waits.
fn with_own_executor() -> (Cluster, Framework, Vec<(String, String)>) {
    let (cluster, address) = with_agent();
    let mut framework = Framework::subscribe(address, &info("own executor"));
    let offer = framework.offer();
    let mut task = command_task("t", &offer, "");
    task.as_object_mut().expect("an object").remove("command");
    let file = cluster.dir().join("environment");
    let command = format!("env > {0}.part && mv {0}.part {0}; exec sleep 1000", file.display());
    task["executor"] = json!({"executor_id": {"value": "e"}, "type": "CUSTOM", "command": {"value": command}});
    framework.launch(&offer, &[task]);
    let text = wait::until("the executor's environment", LIMIT, || std::fs::read_to_string(&file).ok());
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let environment = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    (cluster, framework, environment)
}

fn value<'a>(environment: &'a [(String, String)], name: &str) -> &'a str {
    let found = environment.iter().find(|(had, _)| had == name);
    found
        .map(|(_, value)| value.as_str())
        .unwrap_or_else(|| panic!("{name} is not in the environment: {environment:?}"))
}

#[test]
fn demand_28_and_29_the_executor_api() {
    let (cluster, mut framework, environment) = with_own_executor();
    let address: SocketAddr = value(&environment, "MESOS_AGENT_ENDPOINT").parse().expect("IPv4 and port");
    assert_eq!(address, cluster.address("a0"));
    let framework_id = json!({"value": value(&environment, "MESOS_FRAMEWORK_ID")});
    let executor_id = json!({"value": value(&environment, "MESOS_EXECUTOR_ID")});
    let call = |mut call: Value| {
        call["framework_id"] = framework_id.clone();
        call["executor_id"] = executor_id.clone();
        Request::post_json("/api/v1/executor", &call.to_string())
    };
    let subscribe = call(json!({"type": "SUBSCRIBE",
        "subscribe": {"unacknowledged_tasks": [], "unacknowledged_updates": []}}));
    let mut events = Records::new(http::open(address, &subscribe).expect("a stream"));
    let mut next = |wanted: &str| -> Value {
        let record = events.next(PATIENCE).expect("a record").expect("no end");
        let event: Value = serde_json::from_slice(&record).expect("JSON");
        // Also 29: a heartbeat among the first events would end some executors.
        assert_eq!(event["type"], wanted, "{event}");
        event
    };
    let subscribed = next("SUBSCRIBED")["subscribed"].clone();
    assert_eq!(subscribed["executor_info"]["executor_id"], executor_id);
    assert_eq!(subscribed["framework_info"]["id"], framework_id);
    let task = next("LAUNCH")["launch"]["task"].clone();
    assert_eq!(task["task_id"]["value"], "t");

    // Without agent_id and timestamp: the agent fills them in.
    let uuid = "AAECAwQFBgcICQoLDA0ODw==";
    let status = json!({"task_id": {"value": "t"}, "state": "TASK_RUNNING", "source": "SOURCE_EXECUTOR", "uuid": uuid});
    let update = call(json!({"type": "UPDATE", "update": {"status": status}}));
    assert_eq!(http::send(address, &update).expect("an answer").status(), 202);
    let seen = framework.update("t");
    assert_eq!(seen["state"], "TASK_RUNNING");
    assert!(seen["agent_id"]["value"].is_string() && seen["timestamp"].is_f64(), "{seen}");
    assert_eq!(seen["executor_id"], executor_id);
    let acknowledged = next("ACKNOWLEDGED")["acknowledged"].clone();
    assert_eq!(acknowledged, json!({"task_id": {"value": "t"}, "uuid": uuid}));
}

#[test]
fn demand_30_the_environment_of_an_executor() {
    let (_cluster, framework, environment) = with_own_executor();
    assert_eq!(value(&environment, "MESOS_FRAMEWORK_ID"), framework.id);
    assert_eq!(value(&environment, "MESOS_EXECUTOR_ID"), "e");
    for name in ["MESOS_DIRECTORY", "MESOS_SANDBOX"] {
        assert!(value(&environment, name).starts_with('/'), "{name}");
    }
    // `checkpoint` was set; when it is not, the variable is 0, as in Mesos.
    assert_eq!(value(&environment, "MESOS_CHECKPOINT"), "1");
    for name in ["MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", "MESOS_RECOVERY_TIMEOUT", "MESOS_SUBSCRIPTION_BACKOFF_MAX"] {
        let duration = value(&environment, name);
        let unit = duration.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
        assert!(["ms", "secs", "mins", "hrs"].contains(&unit), "{name}={duration}");
    }
}

#[test]
fn demands_31_and_32_the_shape_of_state() {
    let (cluster, address) = with_agent();
    let mut framework = Framework::subscribe(address, &info("state"));
    let offer = framework.offer();
    let mut task = command_task("t", &offer, "sleep 1000");
    let ranges = json!([{"begin": 31000, "end": 31000}]);
    let ports = json!({"name": "ports", "type": "RANGES", "role": "*", "ranges": {"range": ranges}});
    task["resources"].as_array_mut().expect("a list").push(ports);
    task["discovery"] = json!({"visibility": "CLUSTER", "name": "t", "ports": {"ports": [{"number": 31000}]}});
    framework.launch(&offer, &[task]);
    framework.until_state("t", "TASK_RUNNING");

    let state = cluster.get("m0", "/state");
    assert_eq!(state["leader"], format!("master@{address}"));
    assert!(state["leader_info"]["hostname"].is_string());
    assert_eq!(state["leader_info"]["port"], address.port());
    assert_eq!(state["slaves"][0]["pid"], format!("slave(1)@{}", cluster.address("a0")));
    let found = &state["frameworks"][0];
    assert!(found.get("pid").is_none(), "{found}");
    let task = &found["tasks"][0];
    assert_eq!(task["resources"]["ports"], "[31000-31000]");
    assert_eq!(task["discovery"]["ports"]["ports"][0]["number"], 31000);
    let statuses = task["statuses"].as_array().expect("statuses");
    let running = statuses.iter().find(|status| status["state"] == "TASK_RUNNING").expect("TASK_RUNNING");
    let address = &running["container_status"]["network_infos"][0]["ip_addresses"][0]["ip_address"];
    assert!(address.is_string(), "{running}");
}

#[test]
fn demand_33_jsonp() {
    let (cluster, address) = with_agent();
    for path in ["/master/state", "/metrics/snapshot", "/master/roles"] {
        let answer = get(address, &format!("{path}?jsonp=call"));
        assert_eq!(answer.head.header("Content-Type"), Some("text/javascript"), "{path}");
        let text = answer.text();
        assert!(text.starts_with("call(") && text.ends_with(')'), "{path}: {text}");
    }
    for path in ["/slave(1)/state", "/slave(1)/monitor/statistics", "/metrics/snapshot"] {
        let text = get(cluster.address("a0"), &format!("{path}?jsonp=call")).text();
        assert!(text.starts_with("call(") && text.ends_with(')'), "{path}: {text}");
    }
}

#[test]
fn demand_34_filters_on_tasks() {
    let (cluster, address) = with_agent();
    let mut framework = Framework::subscribe(address, &info("tasks"));
    let offer = framework.offer();
    let tasks: Vec<Value> = (0..5).map(|n| command_task(&format!("t{n}"), &offer, "true")).collect();
    framework.launch(&offer, &tasks);
    for n in 0..5 {
        let id = format!("t{n}");
        if !framework.seen.iter().any(|event| event["update"]["status"]["task_id"]["value"] == id.as_str()) {
            framework.update(&id);
        }
    }
    let ids = |query: &str| -> Vec<String> {
        let answer = cluster.get("m0", &format!("/tasks?{query}"));
        let tasks = answer["tasks"].as_array().expect("tasks");
        tasks.iter().map(|task| task["id"].as_str().expect("an id").to_owned()).collect()
    };
    assert_eq!(ids("task_id=t3"), ["t3"]);
    assert_eq!(ids(&format!("framework_id={}", framework.id)).len(), 5);
    assert_eq!(ids("framework_id=nosuch").len(), 0);
    assert_eq!(ids("limit=2&order=asc").len(), 2);
    assert_eq!(ids("limit=-1").len(), 5);
}

#[test]
fn demand_35_metrics_are_flat_numbers() {
    let cluster = Plan::new().masters(3).start();
    let leader = cluster.leader();
    for master in cluster.masters() {
        let metrics = cluster.get(&master, "/metrics/snapshot");
        let metrics = metrics.as_object().expect("an object");
        assert!(metrics.values().all(Value::is_number));
        let elected = metrics["master/elected"].as_f64();
        assert_eq!(elected, Some(if master == leader { 1.0 } else { 0.0 }), "{master}");
    }
}

#[test]
fn demand_36_the_version_is_dotted_integers() {
    let (cluster, address) = with_agent();
    for address in [address, cluster.address("a0")] {
        let version = get(address, "/version").json()["version"].as_str().expect("a version").to_owned();
        let parts: Vec<u32> = version.split('.').map(|part| part.parse().expect("an integer")).collect();
        assert!(parts >= vec![1, 8, 0], "{version}");
    }
    let slaves = get(address, "/slaves").json();
    assert_eq!(slaves["slaves"][0]["version"], "1.11.0");
    assert_eq!(slaves["slaves"][0]["meseta_version"], env!("CARGO_PKG_VERSION"));
    let agents = cluster.operator("m0", &json!({"type": "GET_AGENTS"}));
    assert_eq!(agents["get_agents"]["agents"][0]["version"], "1.11.0");
    let subscribed = http::open(address, &subscribe_request(&info("version"))).expect("a stream");
    let record = Records::new(subscribed).next(PATIENCE).expect("a record").expect("no end");
    let event: Value = serde_json::from_slice(&record).expect("JSON");
    assert_eq!(event["subscribed"]["master_info"]["version"], "1.11.0");
}
