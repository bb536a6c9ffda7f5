//! Resources as unmodified clients use them, on real programs: reservations and volumes over the restart of an agent,
//! quota, and a drain during which the leader is killed.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use proptests::clients::{Client, Run};
use proptests::cluster::{Cluster, Plan};
use proptests::http::{self, Request};
use proptests::wait;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(120);

fn masters(cluster: &Cluster) -> String {
    let masters = cluster.masters().iter().map(|name| cluster.address(name).to_string()).collect::<Vec<_>>();
    format!("--masters={}", masters.join(","))
}

/// An operator's call that is answered with nothing.
fn change(cluster: &Cluster, name: &str, call: &Value) {
    let answer = http::send(cluster.address(name), &Request::post_json("/api/v1", &call.to_string()));
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.text());
}

fn is(event: &'static str) -> impl Fn(&Value) -> bool {
    move |line| line["event"] == event
}

/// The agent that said this id in its registration.
fn agent_of(cluster: &Cluster, id: &str) -> String {
    let agents = cluster.operator("m0", &json!({"type": "GET_AGENTS"}));
    let agents = agents["get_agents"]["agents"].as_array().cloned().unwrap_or_default();
    let port = agents.iter().find(|agent| agent["agent_info"]["id"]["value"] == id).map(|it| &it["agent_info"]["port"]);
    let port = port.and_then(Value::as_u64).expect("a registered agent");
    cluster.agents().into_iter().find(|name| u64::from(cluster.address(name).port()) == port).expect("an agent of ours")
}

/// Reserve, create and write in one ACCEPT; the agent dies and comes back; read; destroy and unreserve.
fn a_volume_outlives_its_agent(client: Client, flags: &[&str]) {
    let mut cluster = Plan::new().masters(3).agents(2).resources("cpus:2;mem:512;disk:256").start();
    let gate = cluster.dir().join("gate");
    let mut all = vec![masters(&cluster), format!("--gate={}", gate.display())];
    all.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let mut run = client.start(cluster.dir(), &all);
    run.wait_lines("the volume to be written", 1, LIMIT, is("WRITTEN"));
    let id = run.lines().iter().rfind(|line| line["event"] == "OFFER" && line["stage"] == "write").cloned();
    let id = id.and_then(|line| line["agent"].as_str().map(str::to_owned)).expect("an offer was accepted");
    let agent = agent_of(&cluster, &id);
    cluster.kill(&agent);
    cluster.restart(&agent);
    cluster.wait_ready();
    fs::write(&gate, "").unwrap();
    let summary = run.finish(LIMIT);
    assert_eq!(summary["stage"], "gone", "{summary}");
    let volumes = cluster.work_dir(&agent).join("volumes/roles/db");
    let left = fs::read_dir(&volumes).map_or(0, Iterator::count);
    assert_eq!(left, 0, "DESTROY takes the data with it: {}", volumes.display());
}

#[test]
fn a_volume_of_pymesos_outlives_its_agent() {
    a_volume_outlives_its_agent(Client::PymesosStateful, &["--feedback"]);
}

#[test]
fn a_volume_of_mesos_go_outlives_its_agent() {
    a_volume_outlives_its_agent(Client::MesosGoStateful, &[]);
}

fn services(cluster: &Cluster, flags: &[&str]) -> Run {
    let gate = format!("--gate={}", cluster.dir().join("gate").display());
    let mut all = vec![masters(cluster), gate];
    all.extend(flags.iter().map(|flag| (*flag).to_owned()));
    Client::PymesosServices.start(cluster.dir(), &all)
}

fn running(line: &Value, role: &str) -> u64 {
    line["running"][role].as_u64().unwrap_or(0)
}

#[test]
fn roles_of_one_framework_share_a_cluster_under_quota() {
    let cluster = Plan::new().agents(2).resources("cpus:2;mem:512;disk:256").start();
    let limit = |cpus: f64| {
        let limits = json!({"cpus": {"value": cpus}});
        json!({"type": "UPDATE_QUOTA", "update_quota": {"quota_configs": [{"role": "web", "limits": limits}]}})
    };
    change(&cluster, "m0", &limit(1.0));
    let mut run = services(&cluster, &["--roles=web,batch", "--wanted=3", "--cpus=0.5"]);
    run.wait_lines("both roles to have what they may", 1, LIMIT, |line| {
        running(line, "web") == 2 && running(line, "batch") == 3
    });
    // What is over the limit is not offered, however long one waits: decisions go on meanwhile.
    wait::until("the allocator to have gone on", LIMIT, || {
        let runs = cluster.get("m0", "/metrics/snapshot")["allocator/mesos/allocation_runs"].as_f64();
        runs.is_none_or(|runs| runs > 5.0).then_some(())
    });
    assert!(run.lines().iter().all(|line| running(line, "web") <= 2), "the limit holds");
    change(&cluster, "m0", &limit(1.5));
    run.wait_lines("the raised limit to be used", 1, LIMIT, |line| running(line, "web") == 3);
    fs::write(cluster.dir().join("gate"), "").unwrap();
    let summary = run.finish(LIMIT);
    assert_eq!(summary["most"], json!({"web": 3, "batch": 3}), "{summary}");
}

#[test]
fn a_drain_goes_on_when_the_leader_dies() {
    let mut cluster = Plan::new().masters(3).agents(2).resources("cpus:2;mem:512;disk:256").start();
    let mut run = services(&cluster, &["--roles=web", "--wanted=4", "--cpus=0.5"]);
    run.wait_lines("all services to run", 1, LIMIT, |line| running(line, "web") == 4);
    let used: BTreeSet<String> = run
        .lines()
        .iter()
        .filter(|line| line["event"] == "ACCEPT")
        .filter_map(|line| line["agent"].as_str().map(str::to_owned))
        .collect();
    let drained = used.first().expect("services run somewhere").clone();
    let leader = cluster.leader();
    let other = cluster.masters().into_iter().find(|name| *name != leader).expect("three masters");
    let drain = json!({"agent_id": {"value": drained}, "max_grace_period": {"seconds": 1}});
    change(&cluster, &leader, &json!({"type": "DRAIN_AGENT", "drain_agent": drain}));
    cluster.kill(&leader);
    wait::until("the agent to be drained", LIMIT, || {
        let agents = cluster.get(&other, "/slaves?stale=true");
        let agents = agents["slaves"].as_array()?;
        let agent = agents.iter().find(|agent| agent["id"] == *drained)?;
        (agent["drain_info"]["state"] == "DRAINED").then_some(())
    });
    run.wait_lines("all services to run elsewhere", 1, LIMIT, |line| {
        running(line, "web") == 4 && line["agent"] != *drained && line["state"] == "TASK_RUNNING"
    });
    cluster.restart(&leader);
    fs::write(cluster.dir().join("gate"), "").unwrap();
    let summary = run.finish(LIMIT);
    assert!(summary["reasons"]["REASON_AGENT_DRAINING"].as_u64() >= Some(1), "{summary}");
}
