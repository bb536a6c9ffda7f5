//! `meseta-log` on the log of a master.

mod common;

use common::master::{ADDRESS, Master, until_committed};
use common::{at, failure, json, text};
use event_log::raft::Options;
use event_log::{Cause, Header, RawEvent, Record};
use master_core::Event;
use master_core::event::{
    LaunchRefused, OfferGroup, OfferItems, OfferKeys, Offered, OffersAccepted, OffersDeclined, OffersMade,
};
use master_core::ids::{AgentKey, FrameworkKey, OfferKey};

#[tokio::test]
async fn a_log_is_told_while_its_master_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut master = Master::new(dir.path()).await;
    master.history().await;
    let work_dir = at(dir.path());
    until_committed(work_dir, master.digests.last().unwrap().0);

    let info = &json(&["info", work_dir])[0];
    assert_eq!(info["kind"], "master");
    assert!(info["cluster_id"].is_string() && info["node_id"].is_string(), "{info}");

    let lines = text(&["cat", work_dir]);
    assert!(lines.contains("cluster-created cluster_id=C cause=BECOME_LEADER peer=127.0.0.1:40000"), "{lines}");
    assert_eq!(json(&["cat", work_dir, "--type=framework-subscribed"]).len(), 5);
    assert_eq!(json(&["cat", work_dir, "--framework=C-0002"]).len(), 1);
    assert_eq!(json(&["explain", "framework", "F3", "--events", work_dir]).len(), 1);
    let of_role = text(&["explain", "role", "r3", "--events", work_dir]);
    assert_eq!(of_role.lines().count(), 1, "{of_role}");
    assert!(of_role.contains("framework-subscribed framework=F2") && of_role.contains("cause=SUBSCRIBE peer="));
    let third = &json(&["bisect", "--select=frameworks.count", "--equals=3", work_dir])[0];
    assert_eq!(third["events"][0]["fields"]["framework"], "F2");

    let (last_index, digest) = master.digests.last().unwrap().clone();
    let verified = json(&["verify", work_dir]).pop().unwrap();
    assert_eq!(verified["ok"], true, "{verified}");
    assert_eq!((verified["last_index"].as_u64(), verified["digest"].as_str()), (Some(last_index), Some(&*digest)));
    for (index, digest) in &master.digests {
        let state = &json(&["state", "--at", &index.to_string(), work_dir])[0];
        assert_eq!(state["digest"].as_str(), Some(&**digest), "the live fold had another state at {index}");
    }
    let difference = text(&["diff", &(last_index - 1).to_string(), &last_index.to_string(), work_dir]);
    assert!(difference.contains("+ frameworks.live.4"), "{difference}");
}

#[tokio::test]
async fn a_record_that_contradicts_the_state_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut master = Master::unfolded(dir.path()).await;
    master.history().await;
    // An event of an agent that never was.
    let agent = master_core::ids::AgentKey(77);
    let event = master_core::Event::from(master_core::event::AgentDeactivated { agent });
    let (number, version, payload) = event.encode();
    let header = Header { term: master.term, n: master.n, at_ms: 1_795_216_399_418, feature_level: 1 };
    let events = vec![RawEvent { number, version, cause: 0, payload }];
    let record = Record { header, causes: vec![Cause::default()], events };
    let index = master.node.append(master.term, record).await.unwrap();
    until_committed(at(dir.path()), index);
    let (sentence, code) = failure(&["verify", at(dir.path())]);
    assert_eq!((sentence.contains(&format!("the record at index {index}")), code), (true, 1), "{sentence}");
}

#[tokio::test]
async fn an_offer_and_a_role_are_explained_with_their_refused_launch() {
    let framework = FrameworkKey(2);
    let made = |first, role: &str| {
        let offers = OfferItems(vec![(AgentKey(0), Offered::Whole), (AgentKey(1), Offered::Whole)]);
        let groups = vec![OfferGroup { framework, role: role.into(), offers }];
        Event::from(OffersMade { first: OfferKey(first), groups, expires_ms: None })
    };
    let accepted =
        OffersAccepted { framework, offers: OfferKeys::new(vec![OfferKey(0)]), agent: AgentKey(0), unused: None };
    let refused = LaunchRefused {
        task: (framework, "big".into()),
        agent_id: "C-S0".into(),
        state: 9,
        reason: 0,
        why: "more than was offered".into(),
    };
    let declined = OffersDeclined { framework, offers: OfferKeys::new(vec![OfferKey(1)]), until_ms: None };
    // Only what is shown is asked for here: nobody has to be able to fold it.
    let events = [made(0, "r3"), accepted.into(), refused.into(), declined.into()];
    let work_dir = tempfile::tempdir().unwrap();
    let mut log = Master::unfolded(work_dir.path()).await;
    log.append("MAKE_OFFERS", &events[..1]).await;
    log.append("ACCEPT", &events[1..3]).await;
    let index = log.append("DECLINE", &events[3..]).await;
    let work_dir = at(work_dir.path());
    until_committed(work_dir, index);

    let of_offer = text(&["explain", "offer", "C-O0", "--events", work_dir]);
    let names: Vec<_> = of_offer.lines().map(|line| line.split(' ').nth(3).unwrap()).collect();
    assert_eq!(names, ["offers-made", "offers-accepted", "launch-refused"], "{of_offer}");
    assert!(of_offer.contains("why=\"more than was offered\" cause=ACCEPT principal=alice"), "{of_offer}");
    assert_eq!(json(&["explain", "offer", "O1", "--events", work_dir]).len(), 2);
    assert_eq!(json(&["explain", "role", "r3", "--events", work_dir]).len(), 4);
    assert_eq!(json(&["cat", "--role=r3", "--type=offers-declined", work_dir]).len(), 1);
    assert_eq!(json(&["cat", "--principal=alice", work_dir]).len(), 4);
    assert_eq!(json(&["cat", "--call=ACCEPT", work_dir]).len(), 2);
    assert_eq!(json(&["cat", "--peer=127.0.0.1", work_dir]).len(), 0);
    let (sentence, code) = failure(&["explain", "role", "r4", "--events", work_dir]);
    assert_eq!((sentence.contains("nothing in this log concerns the role r4"), code), (true, 1), "{sentence}");
}

#[tokio::test]
async fn a_state_is_folded_from_the_nearest_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let work_dir = at(dir.path());
    let mut master = Master::with(Options { snapshot_bytes: 1, ..Options::new(dir.path(), ADDRESS) }).await;
    master.history().await;
    let last_index = master.digests.last().unwrap().0;
    until_committed(work_dir, last_index);
    let from = loop {
        if let Some(from) = json(&["state", work_dir])[0]["from_snapshot"].as_u64() {
            break from;
        }
    };
    for (index, digest) in &master.digests {
        let state = &json(&["state", "--at", &index.to_string(), work_dir])[0];
        assert_eq!(state["digest"].as_str(), Some(&**digest), "{index}");
        assert!(state["from_snapshot"].as_u64().is_none_or(|from| from <= *index), "{index}");
    }
    assert!(from <= last_index);
}
