//! Processes die in the middle of the work, by `kill -9`: the leading master and an agent. Streams on the masters that
//! live do not break, every task ends, no update is lost, nothing runs twice.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use proptests::clients::{Client, Run};
use proptests::cluster::{Cluster, Plan};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(300);
const TASKS: usize = 200;

/// 40 places for tasks of a second each: the work lasts long enough to be disturbed.
fn cluster() -> Cluster {
    Plan::new().masters(3).agents(2).resources("cpus:2;mem:4096;disk:1024").start()
}

/// Starts the client at `first`; each task writes its id once.
fn start(cluster: &Cluster, client: Client, first: &str) -> Run {
    let mut masters = vec![cluster.address(first).to_string()];
    masters
        .extend(cluster.masters().iter().filter(|name| *name != first).map(|name| cluster.address(name).to_string()));
    let ran = cluster.dir().join("ran");
    client.start(
        cluster.dir(),
        &[
            format!("--masters={}", masters.join(",")),
            format!("--tasks={TASKS}"),
            format!("--command=echo {{id}} >> {}; sleep 1", ran.display()),
            "--checkpoint".into(),
        ],
    )
}

fn finished(line: &Value) -> bool {
    line["state"] == "TASK_FINISHED"
}

/// Each task ran, and ran once.
fn ran_once(cluster: &Cluster) {
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for id in fs::read_to_string(cluster.dir().join("ran")).expect("tasks ran").lines() {
        *times.entry(id.to_owned()).or_default() += 1;
    }
    let twice: Vec<_> = times.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "ran more than once: {twice:?}");
    assert_eq!(times.len(), TASKS);
}

/// The leader dies, then an agent; the agent comes back, then the master.
fn disturb(cluster: &mut Cluster, run: &mut Run, leader: &str) {
    run.wait_lines("20 tasks to finish", 20, LIMIT, finished);
    cluster.kill(leader);
    run.wait_lines("60 tasks to finish without that master", 60, LIMIT, finished);
    cluster.kill("a0");
    run.wait_lines("80 tasks to finish without that agent", 80, LIMIT, finished);
    cluster.restart("a0");
    cluster.restart(leader);
}

fn through_a_follower(client: Client) {
    let mut cluster = cluster();
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let mut run = start(&cluster, client, &follower);
    disturb(&mut cluster, &mut run, &leader);
    let summary = run.finish(LIMIT);
    assert_eq!(summary["finished"], TASKS, "{summary}");
    assert_eq!(summary["subscribed"], 1, "the stream on a master that lives must not break: {summary}");
    ran_once(&cluster);
}

#[test]
fn the_leader_and_an_agent_die_behind_a_pymesos_framework() {
    through_a_follower(Client::Pymesos);
}

#[test]
fn the_leader_and_an_agent_die_behind_a_mesos_go_framework() {
    through_a_follower(Client::MesosGo);
}

fn on_the_leader(client: Client) {
    let mut cluster = cluster();
    let leader = cluster.leader();
    let mut run = start(&cluster, client, &leader);
    disturb(&mut cluster, &mut run, &leader);
    let summary = run.finish(LIMIT);
    assert_eq!(summary["finished"], TASKS, "{summary}");
    assert!(summary["subscribed"].as_u64() >= Some(2), "it subscribed again: {summary}");
    ran_once(&cluster);
}

#[test]
fn a_pymesos_framework_on_the_leader_that_dies_goes_on_elsewhere() {
    on_the_leader(Client::Pymesos);
}

#[test]
fn a_mesos_go_framework_on_the_leader_that_dies_goes_on_elsewhere() {
    on_the_leader(Client::MesosGo);
}
