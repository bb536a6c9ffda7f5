//! Who the masters are, and changing that: `POST /meseta/masters` with
//!
//! ```text
//! {"action": "list"}
//! {"action": "list", "here": true}                     at once, as the one that is asked knows them, and how it is itself
//! {"action": "add", "address": "H:P"}                  H:P runs on an empty disk with --join
//! {"action": "remove", "address": "H:P" | id}
//! {"action": "replace", "old": "H:P" | id, "address": "H:P"}
//! {"action": "transfer", "address": "H:P" | id}        without an address: to the one that is furthest
//! ```
//!
//! Any master takes it; the leader does it. Answered with the masters as they are afterwards, or with one sentence: 400
//! if it is no such request, 409 if the masters refuse it, 503 if it is not known whether it happened.

use crate::context::Context;
use crate::level;
use crate::peers::PeerError;
use api::limits::MASTERS_BODY_BYTES_MAX;
use api_http::{Request, Response, StatusCode};
use bytes::Bytes;
use event_log::raft::{MemberStatus, MembershipError, Node, Role};
use master_core::State;
use master_core::ids::NodeId;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// How long a request waits for a leader, or for the next one.
const PATIENCE: Duration = Duration::from_secs(8);
const PACE: Duration = Duration::from_millis(100);
/// A new master first learns everything, which takes as long as it takes.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(600);

enum Action {
    List,
    ListHere,
    Add { address: String },
    Remove { who: String },
    Replace { old: String, address: String },
    Transfer { to: Option<String> },
}

/// What the one who leads says; `Elsewhere` if that is another.
enum Done {
    Answer(Response),
    Elsewhere,
}

pub(super) async fn answer(context: &Context, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = match api_http::read_body(&parts.headers, body, MASTERS_BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => return error.response(),
    };
    let (action, forwarded) = match parse(&body) {
        Ok(parsed) => parsed,
        Err(sentence) => return api_http::text(StatusCode::BAD_REQUEST, &sentence),
    };
    if matches!(action, Action::ListHere) {
        let mut answer = list(context);
        answer["me"] = me(context);
        return api_http::json(&answer);
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let done = match context.reader.leader() {
            Some(leader) if leader.is_me => here(context, &action).await,
            Some(_) if forwarded => Done::Elsewhere,
            Some(leader) => forward(context, &leader.address, &action).await,
            None => Done::Elsewhere,
        };
        match done {
            Done::Answer(response) => return response,
            Done::Elsewhere if forwarded => {
                return api_http::text(StatusCode::MISDIRECTED_REQUEST, "This master does not lead");
            }
            Done::Elsewhere if Instant::now() >= deadline => {
                return match action {
                    // Without a leader an operator needs it most.
                    Action::List => api_http::json(&list(context)),
                    _ => context.reader.no_leader(),
                };
            }
            Done::Elsewhere => tokio::time::sleep(PACE).await,
        }
    }
}

fn parse(body: &[u8]) -> Result<(Action, bool), String> {
    let call: Value = serde_json::from_slice(body).map_err(|error| format!("Not a JSON object: {error}"))?;
    let text = |name: &str| call[name].as_str().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let needed = |name: &str| text(name).ok_or_else(|| format!("'{name}' is missing"));
    let action = match call["action"].as_str() {
        Some("list") if call["here"] == true => Action::ListHere,
        Some("list") => Action::List,
        Some("add") => Action::Add { address: needed("address")? },
        Some("remove") => Action::Remove { who: needed("address")? },
        Some("replace") => Action::Replace { old: needed("old")?, address: needed("address")? },
        Some("transfer") => Action::Transfer { to: text("address") },
        _ => return Err("'action' is one of list, add, remove, replace, transfer".into()),
    };
    Ok((action, call["forwarded"] == true))
}

fn forwarded(action: &Action) -> Value {
    match action {
        Action::List | Action::ListHere => json!({"action": "list", "forwarded": true}),
        Action::Add { address } => json!({"action": "add", "address": address, "forwarded": true}),
        Action::Remove { who } => json!({"action": "remove", "address": who, "forwarded": true}),
        Action::Replace { old, address } => {
            json!({"action": "replace", "old": old, "address": address, "forwarded": true})
        }
        Action::Transfer { to } => json!({"action": "transfer", "address": to, "forwarded": true}),
    }
}

async fn forward(context: &Context, leader: &str, action: &Action) -> Done {
    let body = Bytes::from(forwarded(action).to_string());
    match context.reader.submitter.peers().post(leader, "/meseta/masters", body, FORWARD_TIMEOUT).await {
        Ok((StatusCode::MISDIRECTED_REQUEST, _)) | Err(PeerError::Unreachable(_)) => Done::Elsewhere,
        Ok((StatusCode::OK, body)) => Done::Answer(api_http::json_bytes(body)),
        Ok((status, body)) => Done::Answer(api_http::text(status, &String::from_utf8_lossy(&body))),
        Err(PeerError::Silent(_) | PeerError::Stranger(_)) => match action {
            Action::List => Done::Answer(api_http::json(&list(context))),
            _ => Done::Answer(refusal(&MembershipError::Unknown)),
        },
    }
}

/// On the master that leads.
async fn here(context: &Context, action: &Action) -> Done {
    let node = &context.node;
    let changed = match action {
        Action::List | Action::ListHere => Ok(()),
        Action::Add { address } => match unfit(context, address).await {
            Some(sentence) => return Done::Answer(api_http::text(StatusCode::CONFLICT, &sentence)),
            None => node.add(address).await.map(drop),
        },
        Action::Transfer { to } => return transfer(context, to.as_deref()).await,
        Action::Remove { who } | Action::Replace { old: who, .. } => {
            let gone = match find(node, who) {
                Ok(gone) => gone,
                Err(sentence) => return Done::Answer(api_http::text(StatusCode::CONFLICT, &sentence)),
            };
            let alone = node.members().iter().filter(|member| member.votes).count() == 1;
            if gone.leads && !alone {
                // Another one leads on and takes it out; whoever asked waits for that.
                return match node.transfer_leadership().await {
                    Ok(()) => Done::Elsewhere,
                    Err(_) => Done::Answer(not_taken_over()),
                };
            }
            match action {
                Action::Replace { address, .. } if let Some(sentence) = unfit(context, address).await => {
                    return Done::Answer(api_http::text(StatusCode::CONFLICT, &sentence));
                }
                Action::Replace { address, .. } => node.replace(gone.member.node_id, address).await.map(drop),
                _ => node.remove(gone.member.node_id).await.map(drop),
            }
        }
    };
    match changed {
        Ok(()) => Done::Answer(api_http::json(&list(context))),
        Err(MembershipError::NotLeader { .. }) => Done::Elsewhere,
        Err(error) => Done::Answer(refusal(&error)),
    }
}

/// Why the master at `address` cannot be added: it does not read this cluster's log, or does not say whether it does.
async fn unfit(context: &Context, address: &str) -> Option<String> {
    let level = context.reader.state().0.feature_level;
    let Some((_, willing)) = level::ask(context.reader.submitter.peers(), address).await else {
        return Some(format!(
            "{address} cannot be added: no master answers there (which feature levels it reads is not known); start one \
             with an empty work_dir and --join"
        ));
    };
    (willing.reads < level).then(|| {
        format!(
            "{address} reads feature levels up to {}, and this cluster writes level {level}: it needs a newer release",
            willing.reads
        )
    })
}

async fn transfer(context: &Context, to: Option<&str>) -> Done {
    let node = &context.node;
    let handed = match to.map(|who| find(node, who)) {
        Some(Err(sentence)) => return Done::Answer(api_http::text(StatusCode::CONFLICT, &sentence)),
        Some(Ok(target)) if target.leads => Ok(()),
        Some(Ok(target)) if !target.votes => {
            let sentence = format!("{} does not vote yet, so it cannot lead", target.member.address);
            return Done::Answer(api_http::text(StatusCode::CONFLICT, &sentence));
        }
        Some(Ok(target)) => match node.transfer_leadership_to(target.member.node_id).await {
            Ok(()) if !leads(node, target.member.node_id) => return Done::Elsewhere,
            handed => handed,
        },
        None => node.transfer_leadership().await,
    };
    match handed {
        Ok(()) => Done::Answer(api_http::json(&list(context))),
        Err(_) => Done::Answer(not_taken_over()),
    }
}

/// Whether it does, as this master knows. If somebody else was faster, that one is asked to hand over again.
fn leads(node: &Node, node_id: u64) -> bool {
    node.status().borrow().leader.as_ref().is_some_and(|leader| leader.node_id == node_id)
}

fn not_taken_over() -> Response {
    api_http::text(
        StatusCode::CONFLICT,
        "No other master took over leadership: none answers, or none has everything yet",
    )
}

fn refusal(error: &MembershipError) -> Response {
    let status = match error {
        MembershipError::Unknown => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::CONFLICT,
    };
    api_http::text(status, &error.to_string())
}

/// By its address, or by its id where two have the same address.
fn find(node: &Node, who: &str) -> Result<MemberStatus, String> {
    let is = |member: &MemberStatus| member.member.address == who || id_text(member.member.node_id) == who;
    let mut found: Vec<MemberStatus> = node.members().into_iter().filter(is).collect();
    match found.len() {
        0 => Err(format!("{who} is not a master of this cluster")),
        1 => Ok(found.remove(0)),
        _ => Err(format!("two masters have the address {who}: name one of them by its id")),
    }
}

fn id_text(node_id: u64) -> String {
    format!("{node_id:016x}")
}

/// How this master is, by itself: nobody else is asked.
fn me(context: &Context) -> Value {
    let status = context.node.status().borrow().clone();
    let role = match status.role {
        Role::Leader if status.leader_contact => "leader",
        Role::Leader | Role::Candidate => "candidate",
        Role::Follower => "follower",
        Role::Learner => "learner",
        Role::Stopped => "stopped",
    };
    let flag = |name: &str| context.flags.get(name).filter(|text| !text.is_empty());
    json!({
        "id": id_text(context.identity.node().0),
        "address": context.address.member,
        "role": role,
        "term": status.term,
        "index": status.committed,
        "leader_contact": status.leader_contact,
        "leader_contact_ms": context.node.last_contact().map(|ago| ago.as_millis() as u64),
        // Before there is a quorum: with whom it is to be formed; a master without waits to be added to one.
        "forms_with": flag("masters").filter(|_| status.members.is_empty()),
    })
}

fn list(context: &Context) -> Value {
    let (state, _) = context.reader.state();
    let leader = context.reader.heard_leader().map(|leader| leader.address);
    // Without a leader the log does not learn who is gone.
    let silent = context.reader.outage.silent();
    let masters: Vec<Value> = context
        .node
        .members()
        .into_iter()
        .map(|it| {
            let known = state.masters.get(&NodeId(it.member.node_id));
            // Who led last, and is not heard of, leads no more.
            let role = match (it.leads && leader.is_some(), it.votes) {
                (true, _) => "leader",
                (false, true) => "follower",
                (false, false) => "learner",
            };
            json!({
                "address": it.member.address,
                "id": id_text(it.member.node_id),
                "role": role,
                "alive": known.is_some_and(|master| master.alive) && !silent.contains(&it.member.address),
                "version": known.map(|master| master.version.to_string()),
                "reads": reads(context, &state, NodeId(it.member.node_id)),
                "index": it.matched,
            })
        })
        .collect();
    json!({
        "cluster_id": context.node.cluster_id(),
        "leader": leader,
        "outage": context.reader.outage.sentence(),
        "feature_level": state.feature_level.0,
        "feature_level_waits_for": context.levels.waits_for(),
        "masters": masters,
        "crashed_decisions": crashed(context),
    })
}

/// Decisions that failed by a defect on this master, if there were any: how many, and the last one.
fn crashed(context: &Context) -> Option<Value> {
    let last = context.crashes.last()?;
    Some(json!({
        "count": context.crashes.count(),
        "command": last.command,
        "caller": last.caller,
        "panic": last.message,
        "at_ms": last.at_ms,
    }))
}

/// The highest feature level that a master reads, as far as it is known.
fn reads(context: &Context, state: &State, node: NodeId) -> Option<u32> {
    let told = context.levels.heard(node).or_else(|| {
        // Below level 2 State has no room for it.
        let known = state.masters.get(&node).filter(|_| state.feature_level.has_reads());
        known.map(|master| master.reads)
    });
    told.map(|level| level.0)
}
