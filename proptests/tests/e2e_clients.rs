//! Frameworks that others wrote run unchanged: pymesos (JSON) and mesos-go (protobuf), against a quorum of real
//! masters and two agents. Each launches 200 tasks, sees every state of each, reconciles, kills, tears down.

use std::time::Duration;

use proptests::clients::Client;
use proptests::cluster::{Cluster, Plan};
use proptests::wait;

const LIMIT: Duration = Duration::from_secs(300);

fn run_to_the_end(cluster: &Cluster, client: Client, first: &str) {
    let mut masters = vec![cluster.address(first).to_string()];
    masters
        .extend(cluster.masters().iter().filter(|name| *name != first).map(|name| cluster.address(name).to_string()));
    let run = client.start(cluster.dir(), &[format!("--masters={}", masters.join(",")), "--tasks=200".into()]);
    let summary = run.finish(LIMIT);
    assert_eq!(summary["finished"], 200, "{summary}");
    assert_eq!(summary["killed"], 5, "{summary}");
    assert_eq!(summary["failed"], 0, "{summary}");
    assert_eq!(summary["lost"], 0, "{summary}");
    assert_eq!(summary["updates"], 205 * 3, "STARTING, RUNNING and the end of each: {summary}");
    assert_eq!(summary["subscribed"], 1, "the stream held: {summary}");
}

/// Nothing of a framework that was torn down is left, on any master or agent.
fn nothing_left(cluster: &Cluster, completed: usize) {
    for master in cluster.masters() {
        let frameworks = cluster.operator(&master, &serde_json::json!({"type": "GET_FRAMEWORKS"}));
        let frameworks = &frameworks["get_frameworks"];
        assert_eq!(frameworks["frameworks"].as_array().map_or(0, Vec::len), 0, "{master}: {frameworks}");
        assert_eq!(frameworks["completed_frameworks"].as_array().map_or(0, Vec::len), completed, "{master}");
    }
    wait::until("all processes of tasks to end", Duration::from_secs(30), || {
        (cluster.other_processes() == 0).then_some(())
    });
}

#[test]
fn two_libraries_run_two_hundred_tasks_each() {
    let cluster = Plan::new().masters(3).agents(2).start();
    // One where decisions are made, one through a master that forwards them.
    run_to_the_end(&cluster, Client::Pymesos, &cluster.follower());
    nothing_left(&cluster, 1);
    run_to_the_end(&cluster, Client::MesosGo, &cluster.leader());
    nothing_left(&cluster, 2);
}

#[test]
fn one_master_alone_is_enough() {
    let cluster = Plan::new().agents(1).start();
    for client in [Client::Pymesos, Client::MesosGo] {
        let flags = [format!("--masters={}", cluster.address("m0")), "--tasks=20".into(), "--long=2".into()];
        let summary = client.start(cluster.dir(), &flags).finish(LIMIT);
        assert_eq!(summary["finished"], 20, "{summary}");
    }
}
