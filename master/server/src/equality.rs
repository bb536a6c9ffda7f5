//! Whether this master's State is that of the others. Digests are made in the background at fixed indexes, the leader
//! logs its own, and everybody compares. Whoever differs from most masters stops.
//!
//! ```text
//! applier ──State at a fixed index──► digests, aside ──► kept ──► /meseta/digest?index=N
//!    │                                                     │
//!    │                                      leader: LogDigest, unless it is known
//!    └──StateDigested──► compare ──differs, or it is ours and we lead──► ask all ──► judge
//! ```

mod judge;

use crate::context::Context;
use crate::delivery::Delivery;
use crate::peers::Peers;
use crate::vital;
use api::v1::master::event::closing::Reason;
use bytes::Bytes;
use event_log::host;
use event_log::raft::Role;
use judge::{Judgement, Witnesses, judge};
use master_core::State;
use master_core::command::{Caller, Command};
use master_core::event::StateDigested;
use master_core::ids::NodeId;
use master_core::state::Digests;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Digests that are kept to be compared.
const KEPT: usize = 16;
/// States that wait to be digested. When another one comes, it is left out: digests must not hold up the fold.
const WAITING_MAX: usize = 2;
/// How long the masters are asked for their digests before the answers that came must do.
const PATIENCE: Duration = Duration::from_secs(30);
const PACE: Duration = Duration::from_millis(200);
/// How long a leader that is wrong waits until it no longer leads.
const GIVING_UP: Duration = Duration::from_secs(1);
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// The digests of this master's fold. Shared by the applier, the tasks below, and HTTP.
#[derive(Debug)]
pub(crate) struct Equality {
    work: mpsc::Sender<(u64, State)>,
    kept: Arc<Mutex<Kept>>,
    /// The index of the digest that was made last.
    made: watch::Receiver<u64>,
    logged: mpsc::UnboundedSender<StateDigested>,
}

#[derive(Debug, Default)]
struct Kept {
    made: BTreeMap<u64, Arc<Digests>>,
    waiting: BTreeSet<u64>,
}

/// Digests as they are found in the log.
pub(crate) type Logged = mpsc::UnboundedReceiver<StateDigested>;

impl Equality {
    /// Starts the task that makes digests.
    pub(crate) fn start() -> (Arc<Equality>, Logged) {
        let (work, mut jobs) = mpsc::channel::<(u64, State)>(WAITING_MAX);
        let (done, made) = watch::channel(0);
        let (logged, found) = mpsc::unbounded_channel();
        let kept = Arc::new(Mutex::new(Kept::default()));
        let shelf = kept.clone();
        vital::spawn("digests", async move {
            while let Some((index, state)) = jobs.recv().await {
                let digests = host::blocking(move || state.digests()).await.expect("a state can be digested");
                let mut kept = shelf.lock();
                kept.waiting.remove(&index);
                kept.made.insert(index, Arc::new(digests));
                while kept.made.len() > KEPT {
                    kept.made.pop_first();
                }
                drop(kept);
                done.send_replace(index);
            }
        });
        (Arc::new(Equality { work, kept, made, logged }), found)
    }

    /// State was this at a fixed index.
    pub(crate) fn digest(&self, index: u64, state: State) {
        let mut kept = self.kept.lock();
        match self.work.try_send((index, state)) {
            Ok(()) => drop(kept.waiting.insert(index)),
            Err(_) => tracing::debug!(index, "left out a digest: earlier ones are not done yet"),
        }
    }

    /// The log has this digest.
    pub(crate) fn logged(&self, event: &StateDigested) {
        // Nobody compares any more when the process ends.
        let _ = self.logged.send(event.clone());
    }

    /// This master's digest at an index, if it is kept.
    pub(crate) fn at(&self, index: u64) -> Option<Arc<Digests>> {
        self.kept.lock().made.get(&index).cloned()
    }

    /// The same, once it is made; None if it was left out.
    async fn own(&self, index: u64) -> Option<Arc<Digests>> {
        let mut made = self.made.clone();
        loop {
            made.borrow_and_update();
            {
                let kept = self.kept.lock();
                if let Some(digests) = kept.made.get(&index) {
                    return Some(digests.clone());
                }
                if !kept.waiting.contains(&index) {
                    return None;
                }
            }
            made.changed().await.ok()?;
        }
    }
}

/// While this master leads: logs its digests.
pub(crate) async fn log(context: Arc<Context>) {
    let mut made = context.equality.made.clone();
    while made.changed().await.is_ok() {
        let index = *made.borrow_and_update();
        let Some(digests) = context.equality.at(index) else { continue };
        if !leads(&context) {
            continue;
        }
        let known = context.reader.state().0.last_digest.as_ref().map_or(0, |last| last.index);
        if known < index {
            submit(&context, index, digests.total).await;
        }
    }
}

async fn submit(context: &Context, index: u64, digest: [u8; 32]) {
    let log = Command::LogDigest { index, digest, by: context.identity.node() };
    let outcome = context.reader.submit(log, Caller::default()).await;
    tracing::debug!(index, ?outcome, "a digest of the state");
}

fn leads(context: &Context) -> bool {
    context.reader.leader().is_some_and(|leader| leader.is_me)
}

/// Compares what is logged with what this master has.
pub(crate) async fn compare(context: Arc<Context>, peers: Arc<Peers>, delivery: Delivery, mut logged: Logged) {
    let mut queue = VecDeque::new();
    loop {
        let Some(event) = next(&mut logged, &mut queue).await else { return };
        let Some(mine) = context.equality.own(event.index).await else {
            tracing::debug!(index = event.index, "nothing to compare a logged digest with");
            continue;
        };
        let equal = mine.total == event.digest;
        if equal && !(event.by == context.identity.node() && leads(&context)) {
            tracing::debug!(index = event.index, "this master's state is that of the log");
            continue;
        }
        if queue.iter().any(|later| later.index == event.index && later.digest == mine.total) {
            tracing::info!(index = event.index, "a digest in the log was corrected by the next one");
            continue;
        }
        // After a restart: the others do not keep what is long past.
        let patience = if queue.is_empty() { PATIENCE } else { Duration::ZERO };
        let asked = ask_until_judged(&context, &peers, &event, &mine, patience).await;
        match asked {
            (Judgement::Mine, _) if equal => {
                tracing::debug!(index = event.index, "this leader's state is that of most masters");
            }
            (Judgement::Mine, _) => {
                tracing::error!(
                    index = event.index,
                    by = format!("{:016x}", event.by.0),
                    "the digest in the log is not that of most masters: the master that logged it had another state"
                );
                host::spawn(correct(context.clone(), event.index, mine.total));
            }
            (Judgement::Others(theirs), witnesses) => {
                stop(&context, &delivery, &event, &mine, witnesses.sections(&theirs)).await;
                return;
            }
            (Judgement::Unknown { different: true }, witnesses) => {
                let where_ = witnesses.differences(&mine);
                tracing::error!(
                    index = event.index,
                    sections = where_.join(", "),
                    "masters have different states, and there is no majority to tell who is right: this one goes on; \
                     compare the disks with meseta-log diff"
                );
            }
            (Judgement::Unknown { different: false }, _) => {
                tracing::info!(index = event.index, "too few masters had a digest to compare with");
            }
        }
    }
}

/// The next digest to compare with; `queue` has those behind it.
async fn next(logged: &mut Logged, queue: &mut VecDeque<StateDigested>) -> Option<StateDigested> {
    while let Ok(event) = logged.try_recv() {
        queue.push_back(event);
    }
    match queue.pop_front() {
        Some(event) => Some(event),
        None => logged.recv().await,
    }
}

/// Asks the members until most of them agree, or patience ends.
async fn ask_until_judged(
    context: &Context,
    peers: &Peers,
    event: &StateDigested,
    mine: &Digests,
    patience: Duration,
) -> (Judgement, Witnesses) {
    if mine.total != event.digest {
        tracing::warn!(
            index = event.index,
            "this master's state differs from the digest in the log; asking the others"
        );
    }
    let me = context.identity.node();
    let mut witnesses = Witnesses::new(event.index);
    // What was logged is as good as an answer, unless it is what an earlier life of this master said.
    if event.by != me {
        witnesses.hear(event.by, event.digest, Vec::new());
    }
    let deadline = Instant::now() + patience;
    loop {
        let members = context.node.status().borrow().members.clone();
        let others = members.iter().filter(|member| member.node_id != me.0 && !witnesses.has_answered(member.node_id));
        let path = format!("/meseta/digest?index={}", event.index);
        let answers = others.map(|member| peers.post(&member.address, &path, Bytes::new(), ASK_TIMEOUT));
        for (status, body) in futures_util::future::join_all(answers).await.into_iter().flatten() {
            if status.is_success() {
                witnesses.hear_answer(&body);
            }
        }
        let nodes: Vec<NodeId> = members.iter().map(|member| NodeId(member.node_id)).collect();
        let judgement = judge(&nodes, me, mine.total, witnesses.digests());
        let all = nodes.iter().all(|node| *node == me || witnesses.has_answered(node.0));
        if !matches!(judgement, Judgement::Unknown { .. }) || all || Instant::now() >= deadline {
            // Whoever stops wants to say where it differs: that takes an answer, not only what the log has.
            let told = !matches!(judgement, Judgement::Others(theirs) if witnesses.sections(&theirs).is_empty());
            if told || all || Instant::now() >= deadline {
                return (judgement, witnesses);
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

/// A digest that only its leader had is followed in the log by that of the others, so that the log can be verified.
async fn correct(context: Arc<Context>, index: u64, digest: [u8; 32]) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let last = context.reader.state().0.last_digest.clone();
        if last.is_none_or(|last| last.index != index || last.digest == digest) {
            return;
        }
        if leads(&context) {
            submit(&context, index, digest).await;
        }
        tokio::time::sleep(PACE).await;
    }
}

/// This master's state is not that of most masters: it must not serve it any longer, nor decide by it.
async fn stop(
    context: &Context,
    delivery: &Delivery,
    event: &StateDigested,
    mine: &Digests,
    theirs: BTreeMap<String, [u8; 32]>,
) {
    if leads(context) {
        tracing::error!(index = event.index, "giving up leadership: this master's state is wrong");
        let mut status = context.node.status();
        let term = status.borrow().term;
        context.node.give_up(term);
        let given_up = status.wait_for(|status| status.role != Role::Leader || status.term != term);
        if tokio::time::timeout(GIVING_UP, given_up).await.is_err() {
            tracing::warn!(term, "leadership ends with this process");
        }
    }
    context.set_ready(false);
    delivery.close_all(Reason::CutOff, "this master's state differs from that of the others");
    let differing: Vec<&str> = mine
        .sections
        .iter()
        .filter(|section| theirs.get(section.name).is_some_and(|digest| *digest != section.digest))
        .map(|section| section.name)
        .collect();
    let where_ = if differing.is_empty() { "a section that nobody told".to_owned() } else { differing.join(", ") };
    let mut summary = String::new();
    for section in &mine.sections {
        let digest = hex(&section.digest[..8]);
        let mark = if differing.contains(&section.name) { "  <- differs" } else { "" };
        summary += &format!("\n  {:<22}{:>10} entries  {digest}{mark}", section.name, section.entries);
    }
    tracing::error!(
        index = event.index,
        sections = where_,
        digest = hex(&mine.total),
        logged = hex(&event.digest),
        "stopping: this master's state differs from that of most masters"
    );
    context.fail(format!(
        "at index {} this master's state differs from that of most masters, in: {where_}. It stops, and must not be \
         started again on this disk: look at it with `meseta-log verify` and `meseta-log state --at {}`, then let an \
         empty disk take its place with `meseta masters replace`. Its state at that index was:{summary}",
        event.index, event.index,
    ));
}

/// In hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
