//! Three masters: streams on a follower survive the leader, and a lost master's frameworks find another.

mod support;

use api::internal::order::Order;
use api::v1::TaskState;
use serde_json::json;
use std::time::Duration;
use support::Cluster;
use support::agent::Agent;
use support::client::{Framework, framework_info};

#[tokio::test(flavor = "multi_thread")]
async fn streams_on_followers_survive_the_leader() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (here, there) = ((leader + 1) % 3, (leader + 2) % 3);
    let mut agent = Agent::register(cluster.masters[there].address).await;
    let mut framework = Framework::subscribe(cluster.masters[here].address, framework_info("f")).await;
    let offers = framework.event("OFFERS").await;
    framework.launch(&offers["offers"]["offers"][0], "t1").await;
    assert!(matches!(agent.order().await, Order::Launch(_)));

    cluster.masters[leader].kill();

    agent.update(&framework.id, "t1", TaskState::TaskRunning);
    let running = framework.event("UPDATE").await;
    assert_eq!(running["update"]["status"]["state"], "TASK_RUNNING");
    framework.acknowledge_at(framework.master, &running).await;
    agent.update(&framework.id, "t1", TaskState::TaskFinished);
    let finished = framework.event("UPDATE").await;
    assert_eq!(finished["update"]["status"]["state"], "TASK_FINISHED");
    framework.acknowledge_at(framework.master, &finished).await;

    // A message that may be lost reaches a stream that the new leader may not hold.
    framework.call("RECONCILE", "reconcile", json!({"tasks": [{"task_id": {"value": "nosuch"}}]})).await;
    let answer = framework.event("UPDATE").await;
    assert_eq!(answer["update"]["status"]["reason"], "REASON_RECONCILIATION");

    cluster.masters[leader].restart().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_framework_on_the_killed_leader_loses_nothing() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let other = (leader + 1) % 3;
    let mut agent = Agent::register(cluster.masters[other].address).await;
    let mut framework = Framework::subscribe(cluster.masters[leader].address, framework_info("f")).await;
    let offers = framework.event("OFFERS").await;
    framework.launch(&offers["offers"]["offers"][0], "t1").await;
    assert!(matches!(agent.order().await, Order::Launch(_)));

    cluster.masters[leader].kill();
    framework.ended().await;
    agent.update(&framework.id, "t1", TaskState::TaskFinished);

    let mut info = framework_info("f");
    info["id"] = json!({"value": framework.id});
    let mut framework = Framework::subscribe(cluster.masters[other].address, info).await;
    let finished = framework.event("UPDATE").await;
    assert_eq!(finished["update"]["status"]["state"], "TASK_FINISHED");
    framework.acknowledge_at(framework.master, &finished).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_of_the_leader_moves_its_agents() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let mut agent = Agent::register(cluster.masters[leader].address).await;
    cluster.masters[leader].stop().await;
    let mut moved = false;
    while let Some(message) = agent.next().await {
        moved |= matches!(message, api::internal::to_agent::Message::Move(_));
    }
    assert!(moved, "the agent was asked to move before the connection ended");
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    agent.resume(cluster.masters[next].address).await;
}

/// As on one machine that is not let run for longer than anybody's patience.
#[tokio::test(flavor = "multi_thread")]
async fn masters_that_stood_still_together_give_nobody_up() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (here, there) = ((leader + 1) % 3, (leader + 2) % 3);
    let mut agent = Agent::register(cluster.masters[there].address).await;
    let mut framework = Framework::subscribe(cluster.masters[here].address, framework_info("f")).await;
    let offers = framework.event("OFFERS").await;
    let lives = |master: usize| cluster.masters[master].running().context.identity.incarnation();
    let before = [lives(0), lives(1), lives(2)];
    for master in &cluster.masters {
        master.stand_still(Duration::from_secs(12));
    }
    framework.launch(&offers["offers"]["offers"][0], "t1").await;
    assert!(matches!(agent.order().await, Order::Launch(_)), "on the connection that it had before");
    assert_eq!([lives(0), lives(1), lives(2)], before, "nobody was given up");
}
