//! A master's log under the hands of a test.

use super::json;
use bytes::Bytes;
use event_log::raft::{Committed, Machine, Member, Node, Options, Transport, TransportError, WriteSnapshot};
use event_log::{Cause, Gate, Header, RawEvent, Record};
use master_core::ids::{Incarnation, IncarnationId, NodeId};
use master_core::{Caller, Command, Event, Reply, State, decide, decode_record, fold, fold_record};
use std::future::Future;
use std::io::Read;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// A quorum of one has nobody to talk to.
struct Alone;

/// Folds what is committed, for snapshots.
#[derive(Default)]
struct Folding {
    gate: Gate,
    state: State,
    /// It does not.
    blind: bool,
}

impl Machine for Folding {
    fn apply(&mut self, entries: Vec<Committed>) {
        for Committed { term, record, .. } in entries {
            if !self.blind && self.gate.admit(term, &record.header) {
                fold_record(&mut self.state, &record.header, &decode_record(&record).unwrap());
            }
        }
    }

    fn snapshot(&self) -> WriteSnapshot {
        let (state, (term, n)) = (self.state.clone(), self.gate.position());
        Box::new(move |out| {
            out.write_all(&[term.to_be_bytes(), n.to_be_bytes()].concat())?;
            state.write_snapshot(out)?;
            Ok(state.digest().to_vec())
        })
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

/// Of the first record.
const START_MS: u64 = 1_795_216_398_418;

pub(crate) const ADDRESS: &str = "127.0.0.1:5050";

/// A master's log under the hands of a sequencer.
pub(crate) struct Master {
    pub(crate) node: Node,
    pub(crate) state: State,
    pub(crate) n: u64,
    pub(crate) term: u64,
    /// Of the next record.
    pub(crate) at_ms: u64,
    /// (index, digest) after each record.
    pub(crate) digests: Vec<(u64, String)>,
}

impl Master {
    pub(crate) async fn new(dir: &Path) -> Master {
        Master::with(Options::new(dir, ADDRESS)).await
    }

    /// One that does not look at what it stores.
    pub(crate) async fn unfolded(dir: &Path) -> Master {
        Master::open(Options::new(dir, ADDRESS), Folding { blind: true, ..Folding::default() }).await
    }

    pub(crate) async fn with(options: Options) -> Master {
        Master::open(options, Folding::default()).await
    }

    async fn open(options: Options, machine: Folding) -> Master {
        let address = ADDRESS;
        let node = Node::open(options, Arc::new(Alone), machine).await.unwrap();
        node.form(&[address.to_owned()], address).await.unwrap();
        let mut status = node.status();
        let term = status.wait_for(|status| status.leader.is_some()).await.unwrap().term;
        Master { node, state: State::default(), n: 0, term, at_ms: START_MS, digests: Vec::new() }
    }

    /// Appends events without asking whether they can be.
    pub(crate) async fn append(&mut self, call: &str, events: &[Event]) -> u64 {
        let events = events.iter().map(|event| {
            let (number, version, payload) = event.encode();
            RawEvent { number, version, cause: 0, payload }
        });
        let principal = Some("alice".into());
        let cause = Cause { call: call.into(), principal, ..Cause::default() };
        let header = Header { term: self.term, n: self.n, at_ms: 1_795_216_399_418, feature_level: 1 };
        let record = Record { header, causes: vec![cause], events: events.collect() };
        self.n += 1;
        self.node.append(self.term, record).await.unwrap()
    }

    pub(crate) async fn run(&mut self, call: &str, command: Command) -> Reply {
        let at_ms = self.at_ms;
        self.at_ms += 1;
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
        decision.reply
    }

    /// A cluster begins, and frameworks subscribe.
    pub(crate) async fn history(&mut self) {
        let me = Incarnation { node: NodeId(1), id: IncarnationId(7) };
        let (cluster_id, version) = ("C".to_owned(), "0.1.0".to_owned());
        self.run("BECOME_LEADER", Command::BecomeLeader { leader: me, term: self.term, cluster_id, version }).await;
        let (address, version) = ("127.0.0.1:5050".to_owned(), "0.1.0".to_owned());
        let reads = master_core::FeatureLevel::NEWEST;
        self.run("START_MASTER", Command::StartMaster { master: me, address, version, reads }).await;
        for id in 1..=5 {
            let connection = master_core::ids::Connection { at: me, id: master_core::ids::ConnectionId(id) };
            let framework_info = FRAMEWORK.with_name(&format!("f{id}"));
            let subscribe = Subscribe { framework_info, ..Subscribe::default() };
            self.run("SUBSCRIBE", Command::Subscribe { connection, subscribe, framework_id: None }).await;
        }
    }
}

pub(crate) type Subscribe = api::v1::scheduler::call::Subscribe;

pub(crate) struct Template;

pub(crate) const FRAMEWORK: Template = Template;

impl Template {
    pub(crate) fn with_name(&self, name: &str) -> api::v1::FrameworkInfo {
        let role = Some(name.replace('f', "r"));
        #[allow(deprecated, reason = "what a framework of one role has")]
        api::v1::FrameworkInfo { user: "root".into(), name: name.into(), role, ..Default::default() }
    }
}

/// Waits until the disk knows, too, that the entry is committed.
pub(crate) fn until_committed(work_dir: &str, index: u64) {
    while json(&["info", work_dir])[0]["last_index"].as_u64() < Some(index) {}
}
