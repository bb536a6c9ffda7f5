//! Masters that start, elect, pause, fall silent or are cut off: clients wait instead of being turned away, no answer
//! is a lie, and what a lost master held moves on. And an agent that never comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proptests::cluster::{Cluster, Plan};
use proptests::framework::{Framework, SCHEDULER, command_task, info};
use proptests::http::{self, Request};
use proptests::wait;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
/// Agents are watched closely, so that silence is noticed soon.
const PINGS: [&str; 2] = ["--agent_ping_timeout=1secs", "--max_agent_ping_timeouts=3"];

/// SUBSCRIBE again and again, without any pause, until it is answered by a stream; counts the refusals.
fn subscribe_without_pause(cluster: &Cluster, master: &str, info: &Value) -> (Framework, usize) {
    let start = Instant::now();
    let mut refused = 0;
    loop {
        match Framework::try_subscribe(cluster.address(master), info) {
            Ok(framework) => return (framework, refused),
            // Not an answer: nobody listens yet.
            Err(problem) if problem.contains("refused") || problem.contains("reset") => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(problem) => {
                assert!(problem.starts_with("503"), "{problem}");
                refused += 1;
            }
        }
        assert!(start.elapsed() < LIMIT, "no stream at {master}");
    }
}

/// Demand 19: a client that asks again at once is held, not told 503 thousands of times.
#[test]
fn calls_wait_for_masters_that_start_and_elect() {
    let mut cluster = Plan::new().masters(3).start_without_waiting();
    let mut last = None;
    for master in ["m2", "m1", "m0"] {
        let (framework, refused) = subscribe_without_pause(&cluster, master, &info("early"));
        assert!(refused <= 2, "{master} refused {refused} times while it started");
        last = Some(framework);
    }
    drop(last);
    let leader = cluster.leader();
    let survivor = cluster.follower();
    let (mut framework, _) = subscribe_without_pause(&cluster, &survivor, &info("survivor"));
    cluster.kill(&leader);
    let (_, refused) = subscribe_without_pause(&cluster, &survivor, &info("during an election"));
    assert!(refused <= 2, "{survivor} refused {refused} times in an election");
    framework.call(json!({"type": "REVIVE"}));
    // And while a master that was killed starts again.
    cluster.restart(&leader);
    let (_, refused) = subscribe_without_pause(&cluster, &leader, &info("again"));
    assert!(refused <= 2, "{leader} refused {refused} times after its restart");
}

/// A quorum that does not answer for a moment, again and again: the leader may lose count of its records. Whatever it
/// answers for afterwards must take effect.
#[test]
fn a_quorum_that_pauses_makes_no_liar_of_its_leader() {
    let cluster = Plan::new().masters(3).agents(1).start();
    let mut framework = Framework::subscribe(cluster.address(&cluster.leader()), &info("pauses"));
    let offer = framework.offer();
    let done = Arc::new(AtomicBool::new(false));
    let caller = {
        let call = json!({"type": "SUPPRESS", "framework_id": {"value": framework.id}}).to_string();
        let request = Request::post_json(SCHEDULER, &call).header("Mesos-Stream-Id", &framework.stream_id);
        let (done, address) = (done.clone(), framework.address);
        let revive = request.body.clone();
        thread::spawn(move || {
            let revive = Request {
                body: String::from_utf8(revive).unwrap().replace("SUPPRESS", "REVIVE").into(),
                ..request.clone()
            };
            while !done.load(Ordering::Relaxed) {
                for request in [&request, &revive] {
                    // Done, or unknown: both are honest while the quorum is silent.
                    let status = http::send(address, request).expect("an answer").status();
                    assert!(status == 202 || status == 503, "{status}");
                }
            }
        })
    };
    for round in 0..10 {
        let leader = cluster.leader();
        let others: Vec<String> = cluster.masters().into_iter().filter(|name| *name != leader).collect();
        others.iter().for_each(|name| cluster.freeze(name));
        // The length of the fault: from less to more than an election takes.
        thread::sleep(Duration::from_millis(300 + 60 * round));
        others.iter().for_each(|name| cluster.thaw(name));
        wait::until("calls to be answered again", LIMIT, || {
            let answer = framework.try_call(json!({"type": "REVIVE"}));
            (answer.status() == 202).then_some(())
        });
    }
    done.store(true, Ordering::Relaxed);
    caller.join().expect("honest answers");
    framework.launch(&offer, &[command_task("after", &offer, "true")]);
    framework.until_state("after", "TASK_FINISHED");
    framework.teardown();
}

/// The master that holds agent `a0`.
fn holder(cluster: &Cluster) -> Option<String> {
    cluster.masters().into_iter().find(|name| {
        let metrics = http::send(cluster.address(name), &Request::get("/metrics/snapshot"));
        metrics.is_ok() && {
            let log = cluster.log(name);
            log.matches("agent connected").count() > log.matches("agent disconnected").count()
        }
    })
}

fn agents_are_active(cluster: &Cluster, master: &str, count: usize) -> Option<()> {
    let answer = http::send(cluster.address(master), &Request::get("/slaves")).ok().filter(|it| it.status() == 200)?;
    let list = answer.json();
    let active = list["slaves"].as_array()?.iter().filter(|slave| slave["active"] == true).count();
    (active == count).then_some(())
}

#[test]
fn a_master_that_falls_silent_loses_what_it_held() {
    let mut plan = Plan::new().masters(3).agents(1);
    for flag in PINGS {
        plan = plan.master_flag(flag);
    }
    let mut cluster = plan.start();
    // Until the agent is held by a master that does not lead.
    let silent = loop {
        let holder = wait::until("a master that holds the agent", LIMIT, || holder(&cluster));
        if holder != cluster.leader() {
            break holder;
        }
        cluster.stop("a0");
        cluster.restart("a0");
        cluster.wait_ready();
    };
    let mut mine = info("on the silent one");
    mine["failover_timeout"] = json!(1.0);
    let mut framework = Framework::subscribe(cluster.address(&silent), &mine);
    let leader = cluster.leader();
    cluster.freeze(&silent);
    wait::until("the silent master to be missed", LIMIT, || {
        cluster.log(&leader).contains("a master does not answer").then_some(())
    });
    wait::until("the agent to appear at another master", LIMIT, || agents_are_active(&cluster, &leader, 1));
    let list = cluster.get(&leader, "/frameworks");
    let listed = list["frameworks"].as_array().expect("a list").iter().find(|it| it["id"] == framework.id.as_str());
    assert_eq!(listed.expect("its failover timeout of a second is stretched")["connected"], false);

    cluster.thaw(&silent);
    let thawed = Instant::now();
    while framework.event(LIMIT).is_some() {}
    assert!(thawed.elapsed() < Duration::from_secs(20), "its stream goes on although the cluster gave it up");
    mine["id"] = json!({"value": framework.id});
    let mut again = Framework::subscribe(cluster.address(&silent), &mine);
    assert_eq!(again.id, framework.id);
    again.teardown();
    agents_are_active(&cluster, &leader, 1).expect("the agent stays where it is");
}

#[test]
fn a_master_without_a_leader_lets_its_clients_go() {
    let cluster = Plan::new().masters(3).start();
    let leader = cluster.leader();
    for alone in [leader, cluster.follower()] {
        let mut mine = info("cut off");
        let mut framework = Framework::subscribe(cluster.address(&alone), &mine);
        let others: Vec<String> = cluster.masters().into_iter().filter(|name| *name != alone).collect();
        others.iter().for_each(|name| cluster.freeze(name));
        let cut = Instant::now();
        while framework.event(LIMIT).is_some() {}
        assert!(cut.elapsed() < Duration::from_secs(20), "it held on for {:?}", cut.elapsed());
        others.iter().for_each(|name| cluster.thaw(name));
        mine["id"] = json!({"value": framework.id});
        let (again, _) = subscribe_without_pause(&cluster, &others[0], &mine);
        assert_eq!(again.id, framework.id);
    }
}

#[test]
fn an_agent_that_never_comes_back_is_given_up() {
    let mut plan = Plan::new().agents(2);
    for flag in PINGS {
        plan = plan.master_flag(flag);
    }
    let mut cluster = plan.start();
    let mut aware = info("aware");
    aware["capabilities"] = json!([{"type": "PARTITION_AWARE"}]);
    let mut plain = Framework::subscribe(cluster.address("m0"), &info("plain"));
    let lost = cluster.address("a0").port();
    let agent_of = |cluster: &Cluster, port: u16| {
        let list = cluster.get("m0", "/slaves");
        let slaves = list["slaves"].as_array().expect("a list").clone();
        slaves.into_iter().find(|it| it["port"] == port).expect("it registered")["id"]
            .as_str()
            .expect("an id")
            .to_owned()
    };
    let agent = agent_of(&cluster, lost);

    let mut offers = Vec::new();
    while offers.len() < 2 {
        offers.extend(plain.wait("offers of both agents", |event| {
            (event["type"] == "OFFERS").then(|| event["offers"]["offers"].as_array().cloned().unwrap_or_default())
        }));
    }
    let there = offers.iter().find(|offer| offer["agent_id"]["value"] == agent.as_str()).expect("its offer").clone();
    plain.launch(&there, &[command_task("plain", &there, "sleep 1000")]);
    plain.until_state("plain", "TASK_RUNNING");
    // What is left of the agent comes back as an offer, and a second framework takes a part of it.
    plain.call(json!({"type": "SUPPRESS"}));
    let mut second = Framework::subscribe(cluster.address("m0"), &aware);
    let rest = second.wait("an offer of that agent", |event| {
        let offers = event["offers"]["offers"].as_array()?;
        offers.iter().find(|offer| offer["agent_id"]["value"] == agent.as_str()).cloned()
    });
    second.launch(&rest, &[command_task("aware", &rest, "sleep 1000")]);
    second.until_state("aware", "TASK_RUNNING");
    let open = second.wait("another offer of that agent", |event| {
        let offers = event["offers"]["offers"].as_array()?;
        offers.iter().find(|offer| offer["agent_id"]["value"] == agent.as_str()).cloned()
    });

    cluster.kill("a0");
    second.wait("its offer to be rescinded", |event| {
        (event["type"] == "RESCIND" && event["rescind"]["offer_id"] == open["id"]).then_some(())
    });
    wait::until("the agent to be inactive", LIMIT, || agents_are_active(&cluster, "m0", 1));
    let status = second.wait("the end of the aware one's task", |event| {
        (event["type"] == "UPDATE").then(|| event["update"]["status"].clone())
    });
    assert_eq!((&status["state"], &status["reason"]), (&json!("TASK_UNREACHABLE"), &json!("REASON_AGENT_REMOVED")));
    second.wait("FAILURE", |event| (event["failure"]["agent_id"]["value"] == agent.as_str()).then_some(()));
    let status = plain.wait("the end of the plain one's task", |event| {
        (event["type"] == "UPDATE").then(|| event["update"]["status"].clone())
    });
    assert_eq!((&status["state"], &status["task_id"]["value"]), (&json!("TASK_LOST"), &json!("plain")));
}
