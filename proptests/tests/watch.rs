//! Operators who watch: a stream that goes on after a position, on any master, misses nothing and repeats nothing; who
//! does not read costs a master no memory, hears why it was let go, and goes on.

use std::fs;
use std::time::Duration;

use proptests::cluster::{Cluster, Plan};
use proptests::framework::{Framework, SCHEDULER, command_task, info};
use proptests::http::{self, Request};
use proptests::wait;
use proptests::watcher::{Watcher, position};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

/// A framework that runs some tasks and leaves.
fn work(cluster: &Cluster, master: &str, name: &str) {
    let mut framework = Framework::subscribe(cluster.address(master), &info(name));
    let offer = framework.offer();
    let tasks: Vec<Value> = (0..4).map(|task| command_task(&format!("{name}-{task}"), &offer, "exit 0")).collect();
    framework.launch(&offer, &tasks);
    let mut running = tasks.len();
    while running > 0 {
        let status =
            framework.wait("an update", |event| (event["type"] == "UPDATE").then(|| event["update"]["status"].clone()));
        framework.acknowledge(&status);
        running -= usize::from(status["state"] == "TASK_FINISHED");
    }
    framework.teardown();
}

fn is_end_of(name: &str) -> impl Fn(&Value) -> bool {
    move |event| event["type"] == "FRAMEWORK_REMOVED" && event["framework_removed"]["framework_info"]["name"] == name
}

/// At `master` after each of these places the rest of `events` follows, and nothing else.
fn goes_on(cluster: &Cluster, master: &str, events: &[Value]) {
    for place in [0, events.len() / 3, events.len() / 2, events.len() - 2] {
        let after = position(&events[place]).expect("a position");
        let mut watcher = Watcher::subscribe(cluster.address(master), Some(&after));
        assert!(watcher.subscribed["subscribed"].get("get_state").is_none(), "{}", watcher.subscribed);
        assert_eq!(position(&watcher.subscribed), Some(after.clone()));
        let rest = watcher.take(events.len() - place - 1);
        assert_eq!(rest, events[place + 1..], "after {after} at {master}");
    }
}

#[test]
fn a_stream_goes_on_at_any_master() {
    let mut cluster = Plan::new().masters(3).agents(1).start();
    let leader = cluster.leader();
    let mut watcher = Watcher::subscribe(cluster.address(&leader), None);
    assert!(watcher.subscribed["subscribed"]["get_state"].is_object());
    let begin = position(&watcher.subscribed).expect("a position");
    work(&cluster, &leader, "first");
    let mut events = watcher.until("the end of the first", is_end_of("first"));
    // Several events of one record: a position within it is one, too.
    let within = events.windows(2).any(|pair| pair[0]["log_position"]["index"] == pair[1]["log_position"]["index"]);
    assert!(within, "{events:#?}");
    for master in cluster.masters() {
        goes_on(&cluster, &master, &events);
        let mut whole = Watcher::subscribe(cluster.address(&master), Some(&begin));
        assert_eq!(whole.take(events.len()), events);
    }

    // The master that held the stream dies. Elsewhere it goes on, over what happened meanwhile.
    cluster.kill(&leader);
    let survivor = cluster.leader();
    work(&cluster, &survivor, "second");
    let last = position(events.last().expect("events")).expect("a position");
    let mut watcher = Watcher::subscribe(cluster.address(&survivor), Some(&last));
    let more = watcher.until("the end of the second", is_end_of("second"));
    events.extend(more);
    // One that was away, and remembers nothing of its own, folds its log again.
    cluster.restart(&leader);
    cluster.wait_ready();
    for master in cluster.masters() {
        goes_on(&cluster, &master, &events);
    }
    let positions: Vec<_> = events.iter().map(|event| position(event).expect("a position")).collect();
    let mut once = positions.clone();
    once.dedup();
    assert_eq!(once, positions, "each event has a position of its own");
}

#[test]
fn what_is_no_position_is_refused_with_a_sentence() {
    let cluster = Plan::new().start();
    let refused = |after: &str| {
        let answer = Watcher::try_subscribe(cluster.address("m0"), Some(after)).expect_err("a refusal");
        (answer.status(), answer.text())
    };
    let (status, sentence) = refused("999999999.3");
    assert!(status == 400 && sentence.contains("in the future"), "{status} {sentence}");
    let (status, sentence) = refused("yesterday");
    assert!(status == 400 && sentence.contains("'yesterday' is no position"), "{status} {sentence}");

    let watcher = Watcher::subscribe(cluster.address("m0"), None);
    let after = position(&watcher.subscribed).expect("a position");
    // Three ways to say the same.
    let call = json!({"type": "SUBSCRIBE", "subscribe": {"after": watcher.subscribed["log_position"]}}).to_string();
    let plain = json!({"type": "SUBSCRIBE"}).to_string();
    for request in [
        Request::post_json("/api/v1", &call),
        Request::post_json("/api/v1", &plain).header("Last-Event-ID", &after),
        Request::post_json(&format!("/api/v1?after={after}"), &plain),
    ] {
        let mut records =
            proptests::framework::Records::new(http::open(cluster.address("m0"), &request).expect("a stream"));
        let first: Value =
            serde_json::from_slice(&records.next(LIMIT).expect("a stream").expect("an event")).expect("JSON");
        assert!(first["subscribed"].get("get_state").is_none(), "{first}");
        assert_eq!(first["log_position"], watcher.subscribed["log_position"]);
    }
}

#[test]
fn history_that_is_gone_is_said_to_be_gone() {
    let flags = ["--snapshot_bytes=4KB", "--raft_trailing_logs=1", "--archive_bytes_max=1B"];
    let mut cluster = flags.into_iter().fold(Plan::new().agents(1), Plan::master_flag).start();
    let begin = position(&Watcher::subscribe(cluster.address("m0"), None).subscribed).expect("a position");
    for name in ["first", "second", "third"] {
        work(&cluster, "m0", name);
    }
    // It remembers nothing but what is on its disk.
    cluster.restart("m0");
    cluster.wait_ready();
    let answer = Watcher::try_subscribe(cluster.address("m0"), Some(&begin)).expect_err("a refusal");
    let (status, sentence) = (answer.status(), answer.text());
    assert!(status == 410 && sentence.contains("subscribe without a position"), "{status} {sentence}");
    let watcher = Watcher::subscribe(cluster.address("m0"), None);
    assert!(watcher.subscribed["subscribed"]["get_state"].is_object());
}

/// Resident memory of a process, in MiB.
fn memory_mib(cluster: &Cluster, name: &str) -> u64 {
    let pid = cluster.pid(name).expect("it runs");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1024
}

#[test]
fn an_operator_who_does_not_read_is_let_go_and_goes_on() {
    const UPDATES: usize = 750;
    let cluster = Plan::new().start();
    let address = cluster.address("m0");
    let mut framework = Framework::subscribe(address, &info("large"));
    let before_mib = memory_mib(&cluster, "m0");
    let mut reader = Watcher::subscribe(address, None);
    let mut idle: Vec<Watcher> = (0..6).map(|_| Watcher::subscribe(address, None)).collect();
    let mut events = Vec::new();
    for update in 0..UPDATES {
        let mut info = info("large");
        info["id"] = json!({"value": framework.id});
        info["labels"] = json!({"labels": [{"key": update.to_string(), "value": "x".repeat(60 << 10)}]});
        let call = json!({"type": "UPDATE_FRAMEWORK", "update_framework": {"framework_info": info}});
        assert_eq!(framework.try_call(call).status(), 200);
        events.extend(reader.take(1));
    }
    let grown_mib = memory_mib(&cluster, "m0").saturating_sub(before_mib);
    // 45 MiB of events; six queues of them would be more.
    assert!(grown_mib < 400, "{grown_mib} MiB for watchers who do not read");

    let mut slow = idle.remove(0);
    let mut read = slow.until("the end of a slow stream", |event| event["type"] == "UNKNOWN");
    let closing = read.pop().expect("the last event");
    assert_eq!(closing["closing"]["reason"], "SLOW", "{closing}");
    assert!(slow.event(Duration::from_secs(10)).is_none(), "nothing follows");
    assert!(!read.is_empty() && read.len() < UPDATES);
    let after = position(read.last().expect("events")).expect("a position");
    assert_eq!(position(&closing).as_ref(), Some(&after), "it says how far it came");
    read.extend(Watcher::subscribe(address, Some(&after)).take(UPDATES - read.len()));
    assert!(read == events, "something is missing or came twice");
}

#[test]
fn a_framework_that_does_not_read_is_let_go() {
    let cluster = Plan::new().start();
    let address = cluster.address("m0");
    let framework = Framework::subscribe(address, &info("silent"));
    let before_mib = memory_mib(&cluster, "m0");
    let reconcile = |count: usize| {
        let tasks: Vec<Value> =
            (0..count).map(|task| json!({"task_id": {"value": format!("unknown-{task}")}})).collect();
        let call = json!({"type": "RECONCILE", "framework_id": {"value": framework.id}, "reconcile": {"tasks": tasks}});
        let request = Request::post_json(SCHEDULER, &call.to_string()).header("Mesos-Stream-Id", &framework.stream_id);
        http::send(address, &request).expect("an answer").status()
    };
    // On a slow machine it is let go while it still calls.
    let taken = (0..15).take_while(|_| reconcile(20_000) == 202).count();
    assert!(taken > 0);
    wait::until("the framework to be let go", LIMIT, || {
        reconcile(1);
        let list = cluster.get("m0", "/frameworks");
        let frameworks = list["frameworks"].as_array().expect("a list");
        frameworks.iter().any(|it| it["connected"] == false).then_some(())
    });
    let grown_mib = memory_mib(&cluster, "m0").saturating_sub(before_mib);
    assert!(grown_mib < 512, "{grown_mib} MiB for a framework that does not read");
}
