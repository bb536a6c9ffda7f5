//! Digests that masters logged are compared with what the log folds to.

mod common;

use common::master::{FRAMEWORK, Master, Subscribe, until_committed};
use common::{at, failure, json};
use master_core::ids::{Connection, ConnectionId, Incarnation, IncarnationId, NodeId};
use master_core::{Command, FeatureLevel};

/// Frameworks subscribe until a record is at an even index; the index.
async fn to_a_fixed_index(master: &mut Master) -> u64 {
    loop {
        let at = Incarnation { node: NodeId(1), id: IncarnationId(7) };
        let name = format!("f{}", master.digests.len());
        let connection = Connection { at, id: ConnectionId(1_000 + master.digests.len() as u128) };
        let subscribe = Subscribe { framework_info: FRAMEWORK.with_name(&name), ..Subscribe::default() };
        master.run("SUBSCRIBE", Command::Subscribe { connection, subscribe, framework_id: None }).await;
        let index = master.digests.last().map_or(0, |(index, _)| *index);
        if index.is_multiple_of(2) {
            return index;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_tells_which_master_had_another_state() {
    let dir = tempfile::tempdir().unwrap();
    let mut master = Master::new(dir.path()).await;
    master.history().await;
    let masters = vec![(NodeId(1), FeatureLevel::NEWEST)];
    let raise = Command::RaiseFeatureLevel { level: FeatureLevel::NEWEST, digest_every: 2, masters };
    master.run("raise-feature-level", raise).await;

    let index = to_a_fixed_index(&mut master).await;
    let digest = master.state.digest();
    master.run("log-digest", Command::LogDigest { index, digest, by: NodeId(1) }).await;
    until_committed(at(dir.path()), master.digests.last().unwrap().0);
    let end = json(&["verify", at(dir.path())]).pop().unwrap();
    assert_eq!((&end["ok"], &end["digests"]), (&true.into(), &1.into()), "{end}");

    let index = to_a_fixed_index(&mut master).await;
    let right = master.state.digest();
    let wrong = Command::LogDigest { index, digest: [9; 32], by: NodeId(0xab) };
    master.run("log-digest", wrong).await;
    until_committed(at(dir.path()), master.digests.last().unwrap().0);
    let (said, code) = failure(&["verify", at(dir.path())]);
    assert_eq!(code, 1);
    let expected = format!("at index {index} master 00000000000000ab had another state than this log folds to");
    assert!(said.contains(&expected), "{said}");

    // The others found out, and said what they have.
    master.run("log-digest", Command::LogDigest { index, digest: right, by: NodeId(1) }).await;
    until_committed(at(dir.path()), master.digests.last().unwrap().0);
    let end = json(&["verify", at(dir.path())]).pop().unwrap();
    assert_eq!((&end["ok"], &end["digests"]), (&true.into(), &2.into()), "{end}");
}
