//! Masters whose states are equal say nothing; one whose state differs stops, and the others go on.

mod support;

use master_server::rehearsal::Rehearsal;
use serde_json::json;
use std::time::Duration;
use support::client::{self, framework_info};
use support::{Cluster, until};

const EVERY: u64 = 20;

fn sound() -> Rehearsal {
    Rehearsal { digest_every: EVERY, ..Rehearsal::default() }
}

/// The last digest in the log, as this master has it.
fn last_digest(cluster: &Cluster, number: usize) -> Option<master_core::state::LoggedDigest> {
    cluster.masters[number].running().context.reader.state().0.last_digest.clone()
}

/// Frameworks come and go at a master until a condition holds.
async fn work_until<T>(cluster: &Cluster, at: usize, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    until(what, async || {
        let call = json!({"type": "SUBSCRIBE", "subscribe": {"framework_info": framework_info("f")}});
        let headers = [("content-type", "application/json")];
        let call = client::post("/api/v1/scheduler", &headers, call.to_string());
        // 503 while leadership changes hands: it is not known what became of it.
        let status = client::send(cluster.masters[at].address, call).await.status();
        assert!(status == 200 || status == 503, "{status}");
        condition()
    })
    .await
}

async fn digests_pass(cluster: &Cluster, at: usize, count: u64) {
    let from = last_digest(cluster, at).map_or(0, |last| last.index);
    let reached = || last_digest(cluster, at).filter(|last| last.index >= from + count * EVERY);
    work_until(cluster, at, "digests in the log", reached).await;
}

async fn leads(cluster: &Cluster, number: usize) {
    let node_id = cluster.masters[number].running().context.node.node_id();
    let leader = cluster.leader().await;
    if leader != number {
        let _ = cluster.masters[leader].running().context.node.transfer_leadership_to(node_id).await;
    }
    until("the other leader", async || (cluster.leader().await == number).then_some(())).await;
}

/// Why a master cannot go on, if it says so.
async fn failure(cluster: &Cluster, number: usize) -> Option<String> {
    let watch = cluster.masters[number].running().watch_failure();
    tokio::time::timeout(Duration::from_millis(1), watch).await.ok()
}

async fn level_is_raised(cluster: &Cluster) {
    until("the newest feature level", async || {
        let raised = |master: &support::Master| {
            master.running().context.reader.state().0.feature_level == master_core::FeatureLevel::NEWEST
        };
        cluster.masters.iter().all(raised).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_masters_go_on_restarts_included() {
    let mut cluster = Cluster::rehearse(&[sound(); 3]).await;
    level_is_raised(&cluster).await;
    let leader = cluster.leader().await;
    digests_pass(&cluster, leader, 3).await;
    let other = (leader + 1) % 3;
    cluster.masters[other].restart().await;
    digests_pass(&cluster, other, 2).await;
    cluster.masters[leader].restart().await;
    digests_pass(&cluster, leader, 2).await;
    for number in 0..3 {
        assert_eq!(failure(&cluster, number).await, None);
    }
}

/// The master with this number becomes different; returns what it says.
async fn one_differs(odd: usize, odd_leads: bool) {
    let mut rehearsals = [sound(); 3];
    rehearsals[odd].differs_from = Some(EVERY);
    let mut cluster = Cluster::rehearse(&rehearsals).await;
    level_is_raised(&cluster).await;
    let (here, there) = ((odd + 1) % 3, (odd + 2) % 3);
    leads(&cluster, if odd_leads { odd } else { here }).await;

    let status = cluster.masters[odd].running().context.node.status();
    let term = status.borrow().term;
    let watch = cluster.masters[odd].running().watch_failure();
    let watched = tokio::spawn(watch);
    work_until(&cluster, here, "the odd one to stop", || watched.is_finished().then_some(())).await;
    let said = watched.await.unwrap();
    assert!(said.starts_with("at index "), "{said}");
    assert!(said.contains("in: masters. It stops"), "{said}");
    assert!(said.contains("meseta masters replace"), "{said}");
    let marked: Vec<&str> = said.lines().filter(|line| line.contains("<- differs")).collect();
    assert_eq!(marked.len(), 1, "the summary names one section: {said}");
    if odd_leads {
        let status = status.borrow();
        assert!(status.role != event_log::raft::Role::Leader || status.term > term, "it gave leadership up");
    }
    cluster.masters[odd].kill();

    digests_pass(&cluster, here, 2).await;
    digests_pass(&cluster, there, 1).await;
    for number in [here, there] {
        assert_eq!(failure(&cluster, number).await, None, "the others go on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_differs_stops() {
    one_differs(2, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_differs_gives_up_and_stops() {
    one_differs(1, true).await;
}
