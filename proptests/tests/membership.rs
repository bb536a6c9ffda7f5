//! Masters come and go while a cluster works: one grows to three, the first is killed, an empty disk takes its place; one
//! grows to five and back under load, until none of the first is left. A disk that was wiped has no vote.

use std::process::{Command, Output};
use std::time::Duration;

use proptests::cluster::{Cluster, Plan, READY, binary};
use proptests::counter::{self, Counter};
use proptests::{http, wait};
use serde_json::Value;

fn masters(cluster: &Cluster, at: &str, words: &[&str]) -> Output {
    let master = format!("--master={}", cluster.address(at));
    Command::new(binary("meseta")).arg("masters").args(words).arg(master).output().expect("meseta starts")
}

/// A change that must be made; the masters afterwards.
fn change(cluster: &Cluster, at: &str, words: &[&str]) -> Value {
    let mut words = words.to_vec();
    words.push("--json");
    let output = wait::until("the masters to change", READY, || {
        let output = masters(cluster, at, &words);
        // A master that has just started may not wait to be added yet.
        (output.status.success() || !String::from_utf8_lossy(&output.stderr).contains("cannot be added"))
            .then_some(output)
    });
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn running(cluster: &Cluster, at: &str) -> usize {
    let answer = http::send(cluster.address(at), &http::Request::get("/master/tasks?limit=1000&stale=true"));
    let Some(answer) = answer.ok().filter(|answer| answer.status() == 200) else { return 0 };
    let tasks = answer.json();
    let tasks = tasks["tasks"].as_array().cloned().unwrap_or_default();
    tasks.iter().filter(|task| task["state"] == "TASK_RUNNING").count()
}

#[test]
fn one_master_grows_to_three_and_the_first_is_replaced() {
    let mut cluster = Plan::new().joining(2).agents(1).start();
    let mut task = Command::new(binary("meseta"))
        .arg("execute")
        .arg(format!("--master={}", ["m0", "m1", "m2"].map(|name| cluster.address(name).to_string()).join(",")))
        .args(["--name=long", "--command=sleep 600", "--resources=cpus:0.1;mem:32"])
        .spawn()
        .expect("meseta starts");
    wait::until("a running task", READY, || (running(&cluster, "m0") == 1).then_some(()));

    let nobody = masters(&cluster, "m0", &["add", "127.0.0.1:1"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no master answers there"));
    let last = masters(&cluster, "m0", &["remove", &cluster.address("m0").to_string()]);
    assert!(String::from_utf8_lossy(&last.stderr).contains("is the last master"), "{last:?}");

    for name in ["m1", "m2"] {
        cluster.start_one(name);
        change(&cluster, "m0", &["add", &cluster.address(name).to_string()]);
    }
    cluster.wait_ready();
    let listed = change(&cluster, "m2", &["list"]);
    let listed = listed["masters"].as_array().expect("masters");
    assert_eq!(listed.len(), 3);
    assert!(listed.iter().all(|master| master["alive"] == true && master["role"] != "learner"), "{listed:?}");

    // With its disk.
    cluster.kill("m0");
    wait::until("the task at another master", READY, || (running(&cluster, &cluster.leader()) == 1).then_some(()));
    std::fs::remove_dir_all(cluster.work_dir("m0")).expect("its disk");
    cluster.start_joining("m0", "m1");
    let address = cluster.address("m0").to_string();
    let listed = change(&cluster, "m1", &["replace", &address, &address]);
    assert_eq!(listed["masters"].as_array().map(Vec::len), Some(3), "{listed}");
    cluster.wait_ready();
    wait::until("the task at the new one", Duration::from_secs(30), || (running(&cluster, "m0") == 1).then_some(()));
    let _ = task.kill();
    let _ = task.wait();
}

fn active_agents(cluster: &Cluster, at: &str) -> usize {
    let answer = http::send(cluster.address(at), &http::Request::get("/master/slaves?stale=true")).ok();
    let Some(answer) = answer.filter(|answer| answer.status() == 200) else { return 0 };
    let list = answer.json();
    list["slaves"].as_array().map_or(0, |slaves| slaves.iter().filter(|slave| slave["active"] == true).count())
}

/// Waits until more was acknowledged: the cluster works as it is now.
fn works(counters: &[Counter]) {
    for counter in counters {
        let before = counter.acknowledged();
        wait::until("acknowledged writes", READY, || (counter.acknowledged() > before + 10).then_some(()));
    }
}

#[test]
fn one_master_grows_to_five_and_back_under_load() {
    let mut cluster = Plan::new().joining(4).agents(1).agents_know(1).start();
    let address = |cluster: &Cluster, name: &str| cluster.address(name).to_string();
    let begin = counter::begin(cluster.address("m0"));
    let all: Vec<_> = cluster.masters().iter().map(|name| cluster.address(name)).collect();
    let counters: Vec<Counter> =
        (0..2).map(|number| Counter::start(&format!("counter-{number}"), all.clone())).collect();
    for name in ["m1", "m2"] {
        cluster.start_one(name);
        change(&cluster, "m0", &["add", &address(&cluster, name)]);
        works(&counters);
    }
    // A dead one among three, at its own address, with an empty disk.
    let dead = cluster.follower();
    cluster.kill(&dead);
    std::fs::remove_dir_all(cluster.work_dir(&dead)).expect("its disk");
    let at = cluster.leader();
    cluster.start_joining(&dead, &at);
    change(&cluster, &at, &["replace", &address(&cluster, &dead), &address(&cluster, &dead)]);
    works(&counters);
    for name in ["m3", "m4"] {
        cluster.start_one(name);
        change(&cluster, &at, &["add", &address(&cluster, name)]);
        works(&counters);
    }
    // Whoever leads goes first, then the other old ones, until the only one left was added last.
    let leader = cluster.leader();
    let others = ["m0", "m1", "m2", "m3"].into_iter().filter(|name| *name != leader);
    let gone: Vec<String> =
        (leader != "m4").then_some(leader.clone()).into_iter().chain(others.map(str::to_owned)).collect();
    for name in &gone {
        change(&cluster, "m4", &["remove", &address(&cluster, name)]);
        works(&counters);
        cluster.kill(name);
    }
    let listed = change(&cluster, "m4", &["list"]);
    assert_eq!(listed["masters"].as_array().map(Vec::len), Some(1), "{listed}");
    // None of the addresses that the agent was started with is left.
    wait::until("the agent at the last master", READY, || (active_agents(&cluster, "m4") == 1).then_some(()));
    let acknowledged: usize = counters.into_iter().map(|counter| counter.finish(cluster.address("m4"), &begin)).sum();
    assert!(acknowledged > 100, "{acknowledged}");
}

#[test]
fn a_wiped_disk_has_no_vote() {
    let mut cluster = Plan::new().masters(3).start();
    let wiped = cluster.follower();
    cluster.kill(&wiped);
    std::fs::remove_dir_all(cluster.work_dir(&wiped)).expect("its disk");
    cluster.restart(&wiped);
    let status = cluster.wait_end(&wiped);
    let log = cluster.log(&wiped);
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("meseta masters replace"), "{log}");
    // Nor if it is all that could give the other one a quorum.
    let other = cluster.follower();
    cluster.kill(&other);
    cluster.restart(&wiped);
    assert_eq!(cluster.wait_end(&wiped).code(), Some(1), "{}", cluster.log(&wiped));
}
