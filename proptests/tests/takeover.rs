//! What a change of leader leaves as it was, sentence by sentence of what is promised: connections on masters that live,
//! offers, updates, timers, agents. And reads, which are never older than they say.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use proptests::cluster::{Cluster, Plan, binary};
use proptests::framework::{Framework, command_task, info};
use proptests::http::{self, Request};
use proptests::wait;
use proptests::watcher::Watcher;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
/// Agents are watched closely, so that time without a leader is soon made up for.
const PINGS: [&str; 2] = ["--agent_ping_timeout=1secs", "--max_agent_ping_timeouts=3"];

fn plan() -> Plan {
    PINGS.iter().fold(Plan::new().masters(3), |plan, flag| plan.master_flag(flag))
}

/// How many events of this type are in a master's log.
fn count(cluster: &Cluster, master: &str, event: &str) -> usize {
    let output = Command::new(binary("meseta-log"))
        .args(["cat", &format!("--type={event}"), "--json"])
        .arg(cluster.work_dir(master))
        .output()
        .expect("meseta-log starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.contains(event)).count()
}

fn frameworks(cluster: &Cluster, master: &str) -> Vec<Value> {
    let list = cluster.get(master, "/frameworks?stale=true");
    list["frameworks"].as_array().expect("a list").clone()
}

#[test]
fn what_was_on_other_masters_goes_on() {
    let mut cluster = plan().agents(2).resources("cpus:4;mem:1024").start();
    let leader = cluster.leader();
    let follower = cluster.follower();
    let mut framework = Framework::subscribe(cluster.address(&follower), &info("stays"));
    let first = framework.offer();
    framework.launch(&first, &[command_task("long", &first, "sleep 1000"), command_task("short", &first, "exit 0")]);
    // Told, and not acknowledged yet.
    let unacknowledged = framework.wait("an update of the short one", |event| {
        let status = &event["update"]["status"];
        (event["type"] == "UPDATE" && status["task_id"]["value"] == "short").then(|| status.clone())
    });
    framework.until_state("long", "TASK_RUNNING");
    // It may have come while updates were waited for.
    let offered = |event: &Value| event["offers"]["offers"].as_array().and_then(|offers| offers.first().cloned());
    let seen = framework.seen.iter().rev().find_map(offered);
    let open = seen.unwrap_or_else(|| framework.wait("another offer", offered));
    // One that leaves just now: its time goes on under the next leader.
    let mut leaving = info("leaves");
    leaving["failover_timeout"] = json!(1.0);
    drop(Framework::subscribe(cluster.address(&follower), &leaving));
    wait::until("it to be disconnected", LIMIT, || {
        frameworks(&cluster, &leader).iter().any(|it| it["name"] == "leaves" && it["connected"] == false).then_some(())
    });

    cluster.kill(&leader);
    let killed = Instant::now();
    // The first call is held until there is a leader, and done.
    framework.launch(&open, &[command_task("after", &open, "exit 0")]);
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(8), "a call waited for {took:?}");
    // An update from before is acknowledged after, and the next one comes.
    framework.acknowledge(&unacknowledged);
    framework.until_state("short", "TASK_FINISHED");
    framework.until_state("after", "TASK_FINISHED");
    wait::until("the time of the one that left to pass", LIMIT, || {
        (!frameworks(&cluster, &follower).iter().any(|it| it["name"] == "leaves")).then_some(())
    });
    assert!(framework.seen.iter().all(|event| event["type"] != "SUBSCRIBED" && event["type"] != "ERROR"));
    let list = frameworks(&cluster, &follower);
    let stays = list.iter().find(|it| it["name"] == "stays").expect("it stays");
    assert_eq!(stays["connected"], true);

    // Agents go on; those that the leader held resume. Nobody registers again, and no task was lost or launched twice.
    wait::until("both agents", LIMIT, || {
        let list = cluster.get(&follower, "/slaves?stale=true");
        let active = list["slaves"].as_array()?.iter().filter(|it| it["active"] == true).count();
        (active == 2).then_some(())
    });
    assert_eq!(count(&cluster, &follower, "agent-registered"), 2);
    assert_eq!(count(&cluster, &follower, "task-launched"), 3);
    assert_eq!(count(&cluster, &follower, "task-declared"), 0);
    framework.teardown();
}

#[test]
fn a_planned_stop_disconnects_no_agent() {
    let mut cluster = Plan::new().masters(3).agents(3).start();
    let leader = cluster.leader();
    let mut watcher = Watcher::subscribe(cluster.address(&leader), None);
    let status = cluster.stop(&leader);
    assert_eq!(status.code(), Some(0), "{}", cluster.log(&leader));
    let told = watcher.until("the last word", |event| event["type"] == "UNKNOWN");
    assert_eq!(told.last().expect("an event")["closing"]["reason"], "STOPPING", "{told:?}");
    let next = cluster.leader();
    cluster.wait_ready();
    assert_eq!(count(&cluster, &next, "agent-registered"), 3);
    assert_eq!(count(&cluster, &next, "agent-disconnected"), 0, "they moved before");
    // Handed over, not fought for: one term more.
    assert_eq!(count(&cluster, &next, "leader-elected"), 2);
}

/// The number that a framework's info carries, by a read that is not allowed to be stale.
fn number(cluster: &Cluster, master: &str) -> Result<u64, u16> {
    let call = json!({"type": "GET_FRAMEWORKS"}).to_string();
    let answer = http::send(cluster.address(master), &Request::post_json("/api/v1", &call)).map_err(|_| 0u16)?;
    if answer.status() != 200 {
        return Err(answer.status());
    }
    let list = answer.json();
    let info = &list["get_frameworks"]["frameworks"][0]["framework_info"];
    Ok(info["labels"]["labels"][0]["value"].as_str().expect("a number").parse().expect("a number"))
}

fn write(framework: &Framework, number: u64) -> u16 {
    let mut info = info("numbers");
    info["failover_timeout"] = json!(0.0);
    info["id"] = json!({"value": framework.id});
    info["labels"] = json!({"labels": [{"key": "number", "value": number.to_string()}]});
    let call = json!({"type": "UPDATE_FRAMEWORK", "framework_id": {"value": framework.id},
        "update_framework": {"framework_info": info}});
    let request = Request::post_json(proptests::framework::SCHEDULER, &call.to_string())
        .header("Mesos-Stream-Id", &framework.stream_id);
    http::send(framework.address, &request).map_or(0, |answer| answer.status())
}

/// A master that slept through a write, as the leader or not, answers with the write or not at all.
#[test]
fn no_read_is_older_than_what_was_acknowledged() {
    let cluster = Plan::new().masters(3).start();
    for round in 0..4 {
        let number_written = round + 1;
        let sleeper = if round % 2 == 0 { cluster.leader() } else { cluster.follower() };
        let awake = cluster.masters().into_iter().find(|name| *name != sleeper).expect("another one");
        let mut info = info("numbers");
        info["failover_timeout"] = json!(0.0);
        info["labels"] = json!({"labels": [{"key": "number", "value": round.to_string()}]});
        let framework = Framework::subscribe(cluster.address(&awake), &info);
        cluster.freeze(&sleeper);
        let asleep = Instant::now();
        wait::until("a write without the sleeper", LIMIT, || (write(&framework, number_written) == 200).then_some(()));
        // A call that was on its way to a leader that fell asleep is not waited for when another one leads.
        assert!(asleep.elapsed() < Duration::from_secs(8), "{:?}", asleep.elapsed());
        // Many ask at the very moment at which it wakes.
        let asked: Vec<_> = thread::scope(|scope| {
            let readers: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..5).map(|_| number(&cluster, &sleeper)).collect::<Vec<_>>()))
                .collect();
            // They wait in its queue before it runs again.
            thread::sleep(Duration::from_millis(100));
            cluster.thaw(&sleeper);
            readers.into_iter().flat_map(|reader| reader.join().expect("a reader")).collect()
        });
        let fresh = asked.iter().filter(|it| **it == Ok(number_written)).count();
        assert!(asked.iter().all(|it| it.is_err() || *it == Ok(number_written)), "{sleeper}: {asked:?}");
        assert!(fresh > 0, "{asked:?}");
        drop(framework);
        wait::until("the framework to be over", LIMIT, || frameworks(&cluster, &awake).is_empty().then_some(()));
    }
}

fn header(answer: &http::Answer, name: &str) -> u64 {
    let value = answer.head.header(name).unwrap_or_else(|| panic!("no {name}: {:?}", answer.head));
    value.parse().expect("a number")
}

/// Cut off from its quorum, a leader refuses what would have to be true now, and says how old everything else is.
#[test]
fn a_leader_without_a_quorum_answers_nothing_as_leader() {
    let cluster = Plan::new().masters(3).start();
    let leader = cluster.leader();
    let others: Vec<String> = cluster.masters().into_iter().filter(|name| *name != leader).collect();
    let ask = |path: &str| http::send(cluster.address(&leader), &Request::get(path)).expect("an answer");
    let fresh = ask("/state");
    assert_eq!(fresh.status(), 200);
    assert!(fresh.head.header("meseta-leader-contact-ms").is_none(), "nothing about it is stale");
    let index = header(&fresh, "meseta-index");
    for name in &others {
        let stale = http::send(cluster.address(name), &Request::get("/state?stale=true")).expect("an answer");
        assert_eq!(stale.status(), 200);
        assert!(header(&stale, "meseta-leader-contact-ms") < 5_000);
        assert!(header(&stale, "meseta-committed-index") >= header(&stale, "meseta-index"));
    }
    let mut watcher = Watcher::subscribe(cluster.address(&leader), None);

    others.iter().for_each(|name| cluster.freeze(name));
    wait::until("its leadership to be over", LIMIT, || {
        ask("/metrics/snapshot").json()["master/elected"].as_f64().filter(|elected| *elected == 0.0)
    });
    for path in ["/state", "/redirect"] {
        let refused = ask(path);
        let sentence = refused.text();
        assert!(refused.status() == 503 && sentence.starts_with("No leader elected"), "{path}: {sentence}");
        // Named as soon as they were asked.
        let named = others.iter().all(|name| sentence.contains(&cluster.address(name).to_string()));
        assert!(sentence == "No leader elected" || named, "{path}: {sentence}");
    }
    let call = Request::post_json("/api/v1", r#"{"type":"GET_AGENTS"}"#);
    assert_eq!(http::send(cluster.address(&leader), &call).expect("an answer").status(), 503);
    for stale in
        [Request::get("/state?stale=true"), Request::post_json("/api/v1?stale=true", r#"{"type":"GET_STATE"}"#)]
    {
        let stale = http::send(cluster.address(&leader), &stale).expect("an answer");
        assert_eq!(stale.status(), 200);
        assert!(header(&stale, "meseta-index") >= index);
        assert!(header(&stale, "meseta-leader-contact-ms") > 1_000, "{:?}", stale.head);
    }
    let told = watcher.until("the last word", |event| event["type"] == "UNKNOWN");
    assert_eq!(told.last().expect("an event")["closing"]["reason"], "CUT_OFF", "{told:?}");
    others.iter().for_each(|name| cluster.thaw(name));
    wait::until("reads as of now", LIMIT, || {
        let call = Request::post_json("/api/v1", r#"{"type":"GET_AGENTS"}"#);
        (http::send(cluster.address(&leader), &call).ok()?.status() == 200).then_some(())
    });
}

/// As clients of Mesos know it: whom the new leader has not seen is named apart, and announced when it is back.
#[test]
fn who_has_not_come_back_is_told_apart() {
    let mut cluster = Plan::new().masters(3).agents(1).start();
    let leader = cluster.leader();
    let mut framework = Framework::subscribe(cluster.address(&leader), &info("away"));
    let offer = framework.offer();
    let agent = offer["agent_id"].clone();
    let agents = |cluster: &Cluster, master: &str| {
        cluster.operator(master, &json!({"type": "GET_AGENTS"}))["get_agents"].clone()
    };
    cluster.kill("a0");
    wait::until("an agent that is away", LIMIT, || {
        let told = agents(&cluster, &leader);
        assert_eq!(told["recovered_agents"], json!([]), "this leader knew it");
        (told["agents"][0]["active"] == false).then_some(())
    });
    cluster.kill(&leader);
    let leader = cluster.leader();
    // A leadership begins with a record of its own.
    let told = wait::until("an agent that has not come back", LIMIT, || {
        let told = agents(&cluster, &leader);
        (told["recovered_agents"] != json!([])).then_some(told)
    });
    assert_eq!((&told["agents"], &told["recovered_agents"][0]["id"]), (&json!([]), &agent), "{told}");
    assert_eq!(told["recovered_agents"][0]["port"], cluster.address("a0").port());
    for path in ["/slaves", "/state", &format!("/slaves?slave_id={}", agent["value"].as_str().expect("an id"))] {
        let told = cluster.get(&leader, path);
        assert_eq!((&told["slaves"], &told["recovered_slaves"][0]["id"]), (&json!([]), &agent["value"]), "{path}");
    }
    let metrics = cluster.get(&leader, "/metrics/snapshot");
    for name in ["master/slaves_disconnected", "master/slaves_inactive", "master/cpus_total"] {
        assert_eq!(metrics[name], 0.0, "{name}");
    }
    assert_eq!(metrics["master/meseta/agents_recovered"], 1.0);
    // Its stream is given up with the master that had it.
    wait::until("a framework that has not come back", LIMIT, || {
        let told = cluster.get(&leader, "/frameworks");
        let recovered = &told["frameworks"][0]["recovered"];
        (*recovered == true && told["frameworks"][0]["connected"] == false).then_some(())
    });
    let mut watcher = Watcher::subscribe(cluster.address(&leader), None);
    let state = &watcher.subscribed["subscribed"]["get_state"];
    assert_eq!(state["get_agents"]["recovered_agents"][0]["id"], agent);
    assert_eq!(state["get_frameworks"]["frameworks"][0]["recovered"], true);
    cluster.restart("a0");
    watcher.until("the agent", |event| {
        event["type"] == "AGENT_ADDED" && event["agent_added"]["agent"]["agent_info"]["id"] == agent
    });
    let told = agents(&cluster, &leader);
    assert_eq!(told["recovered_agents"], json!([]), "{told}");
    assert_eq!((&told["agents"][0]["active"], &told["agents"][0]["agent_info"]["id"]), (&json!(true), &agent));
    let mut again = info("away");
    again["id"] = json!({"value": framework.id});
    let _framework = Framework::subscribe(cluster.address(&leader), &again);
    watcher.until("the framework", |event| {
        event["type"] == "FRAMEWORK_UPDATED" && event["framework_updated"]["framework"]["recovered"] == false
    });
}
