//! `meseta-log` on the log of a master.

mod common;

use bytes::Bytes;
use common::{at, failure, json, text};
use event_log::raft::{Committed, Machine, Member, Node, Options, Transport, TransportError, WriteSnapshot};
use event_log::{Cause, Header, RawEvent, Record};
use master_core::ids::{Incarnation, IncarnationId, NodeId};
use master_core::{Caller, Command, State, decide, fold};
use std::future::Future;
use std::io::Read;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// A quorum of one has nobody to talk to, and here nobody to tell.
struct Alone;

impl Machine for Alone {
    fn apply(&mut self, _: Vec<Committed>) {}

    fn snapshot(&self) -> WriteSnapshot {
        Box::new(|_| Ok(()))
    }

    fn restore(&mut self, _: u64, _: &mut dyn Read) -> Result<(), String> {
        Ok(())
    }
}

impl Transport for Alone {
    fn send(
        &self,
        _: &Member,
        _: Bytes,
        _: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, TransportError>> + Send>> {
        Box::pin(std::future::pending())
    }
}

/// A master's log under the hands of a sequencer.
struct Master {
    node: Node,
    state: State,
    n: u64,
    term: u64,
    /// (index, digest) after each record.
    digests: Vec<(u64, String)>,
}

impl Master {
    async fn new(dir: &Path) -> Master {
        let address = "127.0.0.1:5050";
        let node = Node::open(Options::new(dir, address), Arc::new(Alone), Alone).await.unwrap();
        node.form(&[address.to_owned()], address).await.unwrap();
        let mut status = node.status();
        let term = status.wait_for(|status| status.leader.is_some()).await.unwrap().term;
        Master { node, state: State::default(), n: 0, term, digests: Vec::new() }
    }

    async fn run(&mut self, call: &str, command: Command) {
        let at_ms = 1_795_216_398_418 + self.n;
        let decision = decide(&self.state, &command, &Caller::default(), at_ms).unwrap();
        for event in &decision.events {
            fold(&mut self.state, event, at_ms);
        }
        let events = decision.events.iter().map(|event| {
            let (number, version, payload) = event.encode();
            RawEvent { number, version, cause: 0, payload }
        });
        let cause = Cause { call: call.into(), peer: Some("127.0.0.1:40000".into()), ..Cause::default() };
        let header = Header { term: self.term, n: self.n, at_ms, feature_level: 1 };
        let record = Record { header, causes: vec![cause], events: events.collect() };
        let index = self.node.append(self.term, record).await.unwrap();
        self.n += 1;
        let digest = self.state.digest().iter().map(|byte| format!("{byte:02x}")).collect();
        self.digests.push((index, digest));
    }

    /// A cluster begins, and frameworks subscribe.
    async fn history(&mut self) {
        let me = Incarnation { node: NodeId(1), id: IncarnationId(7) };
        let (cluster_id, version) = ("C".to_owned(), "0.1.0".to_owned());
        self.run("BECOME_LEADER", Command::BecomeLeader { leader: me, term: self.term, cluster_id, version }).await;
        let (address, version) = ("127.0.0.1:5050".to_owned(), "0.1.0".to_owned());
        self.run("START_MASTER", Command::StartMaster { master: me, address, version }).await;
        for id in 1..=5 {
            let connection = master_core::ids::Connection { at: me, id: master_core::ids::ConnectionId(id) };
            let framework_info = FRAMEWORK.with_name(&format!("f{id}"));
            let subscribe = Subscribe { framework_info, ..Subscribe::default() };
            self.run("SUBSCRIBE", Command::Subscribe { connection, subscribe, framework_id: None }).await;
        }
    }
}

type Subscribe = api::v1::scheduler::call::Subscribe;

struct Template;

const FRAMEWORK: Template = Template;

impl Template {
    fn with_name(&self, name: &str) -> api::v1::FrameworkInfo {
        api::v1::FrameworkInfo { user: "root".into(), name: name.into(), ..Default::default() }
    }
}

/// Waits until the disk knows, too, that the entry is committed.
fn until_committed(work_dir: &str, index: u64) {
    while json(&["info", work_dir])[0]["last_index"].as_u64() < Some(index) {}
}

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
    assert_eq!(json(&["explain", "framework", "F3", work_dir]).len(), 1);

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
    let mut master = Master::new(dir.path()).await;
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
