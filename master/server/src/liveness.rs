//! Masters watching each other. The leader misses a follower that does not answer; a master that was missed begins
//! a new life; a master without a leader lets its clients go.

use crate::context::{Context, Reader};
use crate::delivery::Delivery;
use crate::identity::Said;
use crate::level;
use crate::outcome::Outcome;
use crate::peers::Peers;
use crate::roles;
use api::internal;
use api::v1::master::event::closing::Reason;
use bytes::Bytes;
use event_log::{Bug, planted};
use master_core::STILL_HELD;
use master_core::command::{Caller, Command};
use master_core::ids::{Incarnation, NodeId};
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A follower that does not answer for this long is lost: what it held is disconnected.
const MISSED_AFTER: Duration = Duration::from_secs(10);
const HELLO_EVERY: Duration = Duration::from_secs(1);
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// Without contact to a leader for so many looks in a row (five seconds, many election timeouts) clients held here are
/// better off elsewhere.
const ALONE_LOOKS: u64 = 20;
const LOOK_EVERY: Duration = Duration::from_millis(250);
const LOOK_EVERY_AT_START: Duration = Duration::from_millis(5);

/// Keeps this process's life in the log: until `StartMaster` is folded here, clients are not served.
pub(crate) async fn live(context: Arc<Context>, peers: Arc<Peers>, delivery: Delivery, version: String) {
    let address = context.address.member.clone();
    loop {
        let me = context.identity.incarnation();
        let (state, _) = context.reader.state();
        match state.masters.get(&me.node) {
            Some(known) if known.incarnation == me && (known.alive || planted(Bug::LifeKept)) => {
                if !context.is_ready() {
                    level::begin(&context, &peers).await;
                    roles::weigh_once(&context).await;
                }
                context.set_ready(true);
            }
            Some(known) if known.incarnation == me => {
                tracing::warn!("the cluster gave this master up; it begins anew");
                context.set_ready(false);
                context.identity.begin_anew(me.id);
                delivery.close_all(Reason::CutOff, "the cluster gave this master up");
                continue;
            }
            _ => {
                context.set_ready(false);
                if context.reader.leader().is_some() {
                    let (address, version) = (address.clone(), version.clone());
                    let start = Command::StartMaster { master: me, address, version, reads: context.levels.own.reads };
                    let outcome = context.reader.submit(start, Caller::default()).await;
                    tracing::debug!(?outcome, "this master told the cluster that it started");
                    if let Outcome::Refused(refused) = outcome {
                        // An earlier life of this master held much: it is let go record by record.
                        if refused.name == STILL_HELD {
                            continue;
                        }
                        context.fail(refused.message);
                        return;
                    }
                }
            }
        }
        let pause = if context.is_ready() { LOOK_EVERY } else { LOOK_EVERY_AT_START };
        tokio::time::sleep(pause).await;
    }
}

/// Closes what is held here when this master has had no contact to a leader for too long.
pub(crate) async fn let_go(context: Arc<Context>, delivery: Delivery) {
    let status = context.node.status();
    // Counted, not timed: a process that stood still has not looked, and finds a leader in a moment.
    let mut looks = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if status.borrow().leader_contact {
            looks = 0;
            continue;
        }
        looks += 1;
        if looks == ALONE_LOOKS {
            delivery.close_all(Reason::CutOff, "no contact to a leader");
        }
    }
}

/// Tells agents who the masters are, whenever that changes: once all addresses that they were started with are gone, they
/// still find the others.
pub(crate) async fn introduce(context: Arc<Context>) {
    let mut status = context.node.status();
    let mut members = Vec::new();
    loop {
        let now = {
            let status = status.borrow_and_update();
            (status.members != members).then(|| status.members.clone())
        };
        if let Some(now) = now {
            context.agents.set_masters(now.iter().map(|member| member.address.clone()).collect());
            members = now;
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// Ends this master if it leads and too few agents have returned since it was elected: `--recovery_agent_removal_limit`.
pub(crate) async fn stop_unless_agents_return(context: Arc<Context>) {
    if context.options().recovery_limit_millipercent >= 100_000 {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(HELLO_EVERY).await;
        if context.reader.leader().is_some_and(|leader| leader.is_me) {
            let (state, _) = context.reader.state();
            if let Some(why) = master_core::too_few_returned(&state, context.clock.now_ms(), &context.options()) {
                context.fail(why);
            }
        }
    }
}

/// Learns under which name clients reach the leader: a follower that sends them there tells it.
pub(crate) async fn learn_names(context: Arc<Context>, peers: Arc<Peers>) {
    loop {
        tokio::time::sleep(HELLO_EVERY).await;
        let (state, _) = context.reader.state();
        let Some(leader) = state.leader.as_ref().map(|leader| leader.master) else { continue };
        let known = state.masters.get(&leader.node).filter(|_| leader.node != context.identity.node());
        let Some(known) = known.filter(|known| !context.identity.has_heard(known.incarnation)) else { continue };
        let answer = peers.post(&known.address, "/meseta/hello", Bytes::new(), HELLO_TIMEOUT).await;
        let Some((_, body)) = answer.ok().filter(|(status, _)| status.is_success()) else { continue };
        // The address may be another's by now.
        match internal::Hello::decode(body) {
            Ok(hello) if hello.incarnation.node_id == leader.node.0 => {
                let said = Said { name: hello.hostname, domain: hello.domain };
                context.identity.hear(known.incarnation, said);
            }
            _ => {}
        }
    }
}

/// Has a master's loss decided, in as many records as it takes.
pub(crate) async fn lose(reader: &Reader, master: Incarnation) -> Outcome {
    loop {
        match reader.submit(Command::LoseMaster { master }, Caller::default()).await {
            Outcome::Refused(refused) if refused.name == STILL_HELD => {}
            outcome => return outcome,
        }
    }
}

/// While this master leads: asks the others for a sign of life, and gives up whoever has shown none for too long.
pub(crate) async fn miss(context: Arc<Context>, peers: Arc<Peers>) {
    let status = context.node.status();
    let mut seen: BTreeMap<NodeId, Instant> = BTreeMap::new();
    loop {
        tokio::time::sleep(HELLO_EVERY).await;
        if !context.reader.leader().is_some_and(|leader| leader.is_me) {
            seen.clear();
            continue;
        }
        let members = status.borrow().members.clone();
        let me = context.identity.node();
        // Whoever was removed or replaced is lost at once, whether it still runs or not.
        let (state, _) = context.reader.state();
        let out = state.masters.iter().filter(|(node, known)| {
            known.alive && !members.is_empty() && !members.iter().any(|member| member.node_id == node.0)
        });
        for (_, known) in out {
            tracing::info!(address = %known.address, "a master was taken out; what it held is disconnected");
            let _ = lose(&context.reader, known.incarnation).await;
        }
        let others = members.into_iter().filter(|member| member.node_id != me.0);
        let hellos = others.map(|member| {
            let peers = peers.clone();
            async move {
                let answer = peers.post(&member.address, "/meseta/hello", Bytes::new(), HELLO_TIMEOUT).await;
                let alive = answer.is_ok_and(|(status, body)| {
                    status.is_success()
                        && internal::Hello::decode(body).is_ok_and(|hello| hello.incarnation.node_id == member.node_id)
                });
                (NodeId(member.node_id), alive)
            }
        });
        for (node, alive) in futures_util::future::join_all(hellos).await {
            let last = seen.entry(node).or_insert_with(Instant::now);
            if alive {
                *last = Instant::now();
                continue;
            }
            let missed = last.elapsed() > MISSED_AFTER;
            let known = context.reader.state().0.masters.get(&node).cloned();
            if let Some(known) = known.filter(|known| missed && known.alive) {
                tracing::warn!(address = %known.address, "a master does not answer; what it held is disconnected");
                // Decided again in a second if this came to nothing.
                let _ = lose(&context.reader, known.incarnation).await;
            }
        }
    }
}
