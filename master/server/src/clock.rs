//! The time that decisions are made at: the leader's [`Steady`]. Whoever follows keeps up with it by what is committed, so
//! that time goes on at its own pace from one leader to the next, whatever their clocks show.
//!
//! A master that was started after its machine was knows nothing of it: it asks the others, and as long as one of them
//! knows, no clock is believed.

use crate::context::Context;
use crate::peers::Peers;
use api::internal;
use bytes::Bytes;
use event_log::Steady;
use event_log::raft::Member;
use futures_util::future::join_all;
use prost::Message;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// In the master's folder.
const FILE: &str = "time";
/// Between two looks whether the time is known, and is kept.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The time is kept every so many looks.
const LOOKS_PER_SAVE: u64 = 5;
/// How long another master has to say what time it is.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);
/// Whoever takes office asks so often, unless everybody has answered.
const ASKED_MAX: usize = 4;

/// The time of a master whose folder is `work_dir`.
pub(crate) fn open(work_dir: &Path) -> Steady {
    Steady::open(work_dir.join(FILE))
}

/// Learns what time it is while another leads, and keeps it for the next process.
pub(crate) async fn keep(context: Arc<Context>, peers: Arc<Peers>) {
    let (mut looks, mut kept) = (0_u64, false);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if context.clock.known_ms().is_none() {
            let leader = context.node.status().borrow().leader.clone();
            if let Some(leader) = leader.filter(|leader| leader.node_id != context.identity.node().0) {
                let _ = ask(&context.clock, &peers, &leader).await;
            }
        }
        looks += 1;
        if (looks.is_multiple_of(LOOKS_PER_SAVE) || !kept) && context.clock.known_ms().is_some() {
            match context.clock.save() {
                Ok(()) => kept = true,
                Err(error) => tracing::debug!(%error, "the time could not be kept"),
            }
        }
    }
}

/// A new leader that does not know what time it is asks the others, as long as somebody may know.
pub(crate) async fn ask_others(clock: &Steady, peers: &Peers, others: &[Member]) {
    for _ in 0..ASKED_MAX {
        if clock.known_ms().is_some() {
            return;
        }
        let answered = join_all(others.iter().map(|member| ask(clock, peers, member))).await;
        if answered.into_iter().all(|answered| answered) {
            return;
        }
    }
}

/// Whether it answered.
async fn ask(clock: &Steady, peers: &Peers, member: &Member) -> bool {
    let answer = peers.post(&member.address, "/meseta/hello", Bytes::new(), ASK_TIMEOUT).await;
    let Some((_, body)) = answer.ok().filter(|(status, _)| status.is_success()) else { return false };
    let Ok(hello) = internal::Hello::decode(body) else { return false };
    if let Some(time_ms) = hello.time_ms.filter(|_| hello.incarnation.node_id == member.node_id) {
        clock.learn(time_ms);
    }
    true
}
