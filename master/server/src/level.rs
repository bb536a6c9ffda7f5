//! Raising the cluster's feature level: the leader asks every member what it reads, and raises when all read more than
//! what is written now and nobody's operator is against it. Members that do not answer hold it up: they might come back
//! as they were.

use crate::context::Context;
use crate::peers::Peers;
use api::internal;
use bytes::Bytes;
use event_log::raft::Member;
use master_core::FeatureLevel;
use master_core::command::{Caller, Command};
use master_core::ids::NodeId;
use parking_lot::Mutex;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const ASK_EVERY: Duration = Duration::from_millis(500);
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the first clients of a cluster wait for its level.
const BEGIN_PATIENCE: Duration = Duration::from_secs(2);
const BEGIN_LOOK_EVERY: Duration = Duration::from_millis(5);

/// What a master says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Willing {
    /// The highest feature level that it reads.
    pub reads: FeatureLevel,
    /// The highest to which its operator lets the cluster be raised.
    pub raises_to: FeatureLevel,
}

/// What is known of the masters' feature levels.
#[derive(Debug)]
pub struct Levels {
    /// This master.
    pub own: Willing,
    /// State is digested so often once the level is raised, in indexes.
    digest_every: u64,
    heard: Mutex<Heard>,
}

/// On the master that leads, as long as there is something to raise.
#[derive(Debug, Default)]
struct Heard {
    reads: BTreeMap<NodeId, FeatureLevel>,
    waits_for: Option<String>,
}

impl Levels {
    /// Of a master that reads up to `reads`, and whose operator allows no more than `raises_to`.
    pub fn new(reads: FeatureLevel, raises_to: Option<FeatureLevel>, digest_every: u64) -> Levels {
        let raises_to = raises_to.map_or(reads, |most| most.min(reads));
        Levels { own: Willing { reads, raises_to }, digest_every, heard: Mutex::default() }
    }

    /// What a master said that it reads, if this one asked.
    pub(crate) fn heard(&self, node: NodeId) -> Option<FeatureLevel> {
        self.heard.lock().reads.get(&node).copied()
    }

    /// What keeps the level from being raised, if this master wanted to.
    pub(crate) fn waits_for(&self) -> Option<String> {
        self.heard.lock().waits_for.clone()
    }
}

/// A master's levels, from its hello: a release that does not speak of them knows the first only.
pub(crate) fn willing(hello: &internal::Hello) -> Willing {
    let level = |told: Option<u32>| told.map(FeatureLevel);
    let reads = level(hello.reads_level).unwrap_or(FeatureLevel::FIRST);
    Willing { reads, raises_to: level(hello.raises_to_level).unwrap_or(reads) }
}

/// Asks whoever is at `address`; None if there is no answer.
pub(crate) async fn ask(peers: &Peers, address: &str) -> Option<(NodeId, Willing)> {
    let answer = peers.post(address, "/meseta/hello", Bytes::new(), HELLO_TIMEOUT).await;
    let (status, body) = answer.ok().filter(|(status, _)| status.is_success())?;
    let hello = internal::Hello::decode(body).ok()?;
    tracing::trace!(address, %status, "hello");
    Some((NodeId(hello.incarnation.node_id), willing(&hello)))
}

/// While this master leads: raises the level as soon as that can be.
pub(crate) async fn raise(context: Arc<Context>, peers: Arc<Peers>) {
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        let leads = context.is_ready() && context.reader.leader().is_some_and(|leader| leader.is_me);
        if leads && context.reader.state().0.feature_level < context.levels.own.reads {
            raise_once(&context, &peers).await;
        } else {
            *context.levels.heard.lock() = Heard::default();
        }
    }
}

/// A cluster that nobody has used yet begins at the level that all its masters read: until that is so, or cannot be, its
/// first clients wait. The first of them would be refused what is only written from some level on.
pub(crate) async fn begin(context: &Context, peers: &Peers) {
    let until = Instant::now() + BEGIN_PATIENCE;
    while Instant::now() < until {
        let (state, _) = context.reader.state();
        let is_new = state.frameworks.next == 0;
        if !is_new || state.feature_level >= context.levels.own.raises_to {
            return;
        }
        if context.reader.leader().is_some_and(|leader| leader.is_me) {
            return raise_once(context, peers).await;
        }
        tokio::time::sleep(BEGIN_LOOK_EVERY).await;
    }
}

/// Asks every member, and raises the level if all read more.
async fn raise_once(context: &Context, peers: &Peers) {
    let level = context.reader.state().0.feature_level;
    let members = context.node.status().borrow().members.clone();
    let (asked, mut waits_for) = ask_all(context, peers, &members).await;
    let to = asked.iter().map(|(_, willing)| willing.raises_to).min().unwrap_or(level);
    if let Some((node, willing)) = asked.iter().find(|(_, willing)| waits_for.is_none() && willing.raises_to <= level) {
        let who = members.iter().find(|member| member.node_id == node.0);
        let address = who.map_or("a master", |member| member.address.as_str());
        waits_for = Some(if willing.reads <= level {
            format!("{address} reads feature level {level} only")
        } else {
            format!("{address} is held at feature level {} by --feature_level_max", willing.raises_to)
        });
    }
    let masters: Vec<_> = asked.into_iter().map(|(node, willing)| (node, willing.reads)).collect();
    let held = waits_for.is_some();
    *context.levels.heard.lock() = Heard { reads: masters.iter().copied().collect(), waits_for };
    // Whoever was added meanwhile was not asked.
    if held || to <= level || context.node.status().borrow().members != members {
        return;
    }
    tracing::info!(from = %level, %to, "every master reads it: raising the feature level");
    let raise = Command::RaiseFeatureLevel { level: to, digest_every: context.levels.digest_every, masters };
    let outcome = context.reader.submit(raise, Caller::default()).await;
    tracing::info!(?outcome, "the feature level");
}

/// What the members say, and who does not answer.
async fn ask_all(context: &Context, peers: &Peers, members: &[Member]) -> (Vec<(NodeId, Willing)>, Option<String>) {
    let me = context.identity.node();
    let others = members.iter().filter(|member| member.node_id != me.0);
    let hellos = others.map(|member| async move { (member, ask(peers, &member.address).await) });
    let mut asked = vec![(me, context.levels.own)];
    let mut waits_for = None;
    for (member, answer) in futures_util::future::join_all(hellos).await {
        match answer {
            Some((node, willing)) if node.0 == member.node_id => asked.push((node, willing)),
            _ => waits_for = Some(format!("{} does not answer", member.address)),
        }
    }
    (asked, waits_for)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_can_hold_a_master_back_but_not_push_it() {
        let willing = |reads, most: Option<u32>| {
            let own = Levels::new(FeatureLevel(reads), most.map(FeatureLevel), 1).own;
            (own.reads.0, own.raises_to.0)
        };
        assert_eq!(willing(2, None), (2, 2));
        assert_eq!(willing(2, Some(1)), (2, 1), "it still reads what others have raised");
        assert_eq!(willing(2, Some(7)), (2, 2));
    }

    #[test]
    fn a_release_that_does_not_speak_of_levels_knows_the_first() {
        let first = Willing { reads: FeatureLevel::FIRST, raises_to: FeatureLevel::FIRST };
        assert_eq!(willing(&internal::Hello::default()), first);
        let newer = internal::Hello { reads_level: Some(3), ..Default::default() };
        assert_eq!(willing(&newer).raises_to, FeatureLevel(3));
    }
}
