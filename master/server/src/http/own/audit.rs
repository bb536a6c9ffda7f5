//! `GET /audit`: who did what, from the log, and who was refused what, as every master noted it. With
//! `?since=` (milliseconds since 1970; a day ago if it is not said), `&principal=NAME`, `&refused=true` for that alone,
//! `&all=true` for what frameworks and the masters themselves do all the time, too, and `&limit=N`.
//!
//! It is told in pages from the beginning on: `next` is where the next one begins (`&from=INDEX`), null after the last.

use crate::context::Context;
use crate::http::operator::Operators;
use api::limits::{AUDIT_ENTRIES_MAX, MASTERS_BODY_BYTES_MAX};
use api::v1;
use api_http::{Query, Request, Response, StatusCode, Wanted};
use bytes::Bytes;
use event_log::raft::{HistoryError, Node};
use event_log::{Cause, Gate, RawEvent, Record, host};
use futures_util::future::join_all;
use master_core::Event;
use master_core::command::Joining;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Entries of the log that are looked at together, in bytes.
const PAGE_BYTES: usize = 1 << 20;
/// So many pages are looked at for one answer: whoever asks for more goes on from there.
const PAGES_MAX: usize = 32;
/// How far back it goes unless somebody says.
const SINCE_MS: u64 = 24 * 3_600_000;
/// How long another master may take to tell what it refused.
const PATIENCE: Duration = Duration::from_secs(3);
/// What the other masters are asked by.
pub(crate) const PATH: &str = "/meseta/audit";

/// What is asked.
struct Wish {
    wanted: Wanted,
    /// Go on from here.
    from: Option<u64>,
    refused_alone: bool,
    all: bool,
}

impl Wish {
    fn read(query: &Query, now_ms: u64) -> Result<Wish, String> {
        let is = |name: &str| match query.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(format!("'{name}' is true or false")),
        };
        let mut wanted = Wanted::read(query)?;
        if query.get("since").is_none() {
            wanted.since_ms = now_ms.saturating_sub(SINCE_MS);
        }
        let from = query.get("from").map(|text| text.parse().map_err(|_| "'from' is an index of the log".to_owned()));
        Ok(Wish { wanted, from: from.transpose()?, refused_alone: is("refused")?, all: is("all")? })
    }

    /// Whether what this caused is told. Which agent joined, and by what, always is.
    fn takes(&self, cause: &Cause, joined: bool) -> bool {
        match &self.wanted.principal {
            Some(principal) => cause.principal.as_ref() == Some(principal),
            None => self.all || joined || is_deliberate(&cause.call),
        }
    }
}

/// Whether people do it, and not programs all the time.
fn is_deliberate(call: &str) -> bool {
    let of_frameworks = ["SHUTDOWN", "UPDATE_FRAMEWORK", "PAUSE", "RESUME", "remove-framework"];
    v1::master::call::Type::from_str_name(call).is_some()
        || of_frameworks.contains(&call)
        || Joining::NAMES.contains(&call)
}

pub(super) async fn answer(operators: &Operators, query: &Query) -> Response {
    let context = &operators.context;
    let wish = match Wish::read(query, context.clock.now_ms()) {
        Ok(wish) => wish,
        Err(sentence) => return api_http::text(StatusCode::BAD_REQUEST, &sentence),
    };
    let Ok(reading) = context.reader.read(query.get("stale") == Some("true")).await else {
        return context.reader.no_leader();
    };
    let mut told = Map::new();
    // Of refusals there is one page: they are bounded.
    if wish.from.is_none() {
        told = refused(operators, &wish.wanted).await;
    }
    if !wish.refused_alone {
        let (node, last) = (context.node.clone(), reading.index);
        let done = host::blocking(move || done(&node, last, &wish)).await;
        match done {
            Ok(Ok((entries, next))) => {
                told.insert("done".into(), entries.into());
                told.insert("next".into(), json!(next));
            }
            Ok(Err(HistoryError::Gone { first })) => {
                let sentence = format!("The log is kept from index {first} on");
                return api_http::text(StatusCode::BAD_REQUEST, &sentence);
            }
            Ok(Err(error)) => return api_http::text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
            Err(_) => return api_http::text(StatusCode::INTERNAL_SERVER_ERROR, "The log could not be read"),
        }
    }
    crate::http::render::as_of(&reading, api_http::json(&Value::Object(told)))
}

/// `POST /meseta/audit`: what this master noted, for another one.
pub(crate) async fn noted(context: &Context, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = match api_http::read_message(&parts.headers, body, MASTERS_BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => return error.response(),
    };
    let wanted = match Wanted::read(&Query::parse(&String::from_utf8_lossy(&body))) {
        Ok(wanted) => wanted,
        Err(sentence) => return api_http::text(StatusCode::BAD_REQUEST, &sentence),
    };
    let admission = context.admission.clone();
    match host::blocking(move || admission.audit().told(&wanted)).await {
        Ok(told) => api_http::json(&told),
        Err(_) => api_http::text(StatusCode::INTERNAL_SERVER_ERROR, "The log of refusals could not be read"),
    }
}

/// Of all masters; those that do not answer are named.
async fn refused(operators: &Operators, wanted: &Wanted) -> Map<String, Value> {
    let context = &operators.context;
    let members = context.node.status().borrow().members.clone();
    let me = context.node.node_id();
    let asked = join_all(members.into_iter().map(|member| async move {
        if member.node_id == me {
            let (admission, wanted) = (context.admission.clone(), wanted.clone());
            let told = host::blocking(move || admission.audit().told(&wanted)).await;
            return (member.address, told.map_err(|_| "it could not be read".to_owned()));
        }
        let body = Bytes::from(wanted.to_query());
        let answer = context.reader.submitter.peers().post(&member.address, PATH, body, PATIENCE).await;
        let told = match answer {
            Ok((StatusCode::OK, body)) => {
                serde_json::from_slice(&body).map_err(|_| "it answers with something else".to_owned())
            }
            Ok((status, _)) => Err(format!("it answers {status}")),
            Err(error) => Err(error.to_string()),
        };
        (member.address, told)
    }));
    let (mut all, mut silent, mut not_noted) = (Vec::new(), Vec::new(), 0);
    for (address, told) in asked.await {
        match told {
            Err(why) => silent.push(json!({ "master": address, "why": why })),
            Ok(mut told) => {
                not_noted += told["not_noted"].as_u64().unwrap_or(0);
                let lines = told["refused"].as_array_mut().map(std::mem::take).unwrap_or_default();
                all.extend(lines.into_iter().map(|mut line| {
                    line["master"] = address.clone().into();
                    line
                }));
            }
        }
    }
    all.sort_by_key(|line| line["at_ms"].as_u64());
    all.drain(..all.len().saturating_sub(wanted.lines_max));
    let told = [("refused", all.into()), ("not_noted", not_noted.into()), ("silent", silent.into())];
    told.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A page of what was done, and where the next one begins. Blocks.
fn done(node: &Node, last: u64, wish: &Wish) -> Result<(Vec<Value>, Option<u64>), HistoryError> {
    let first = node.first_kept()?;
    let from = match wish.from {
        Some(from) => from.max(first),
        None => since(node, first, last, wish.wanted.since_ms)?,
    };
    let mut history = node.history(from)?;
    let (mut told, mut gate) = (Vec::new(), None);
    for _ in 0..PAGES_MAX {
        if history.next_index() > last {
            return Ok((told, None));
        }
        for committed in history.page(last + 1, PAGE_BYTES)? {
            let header = &committed.record.header;
            // What came before the first one is not known here: it counts.
            let gate = gate.get_or_insert_with(|| Gate::resume(header.term, header.n.saturating_sub(1)));
            if !gate.admit(committed.term, header) && header.n > 0 {
                continue;
            }
            told.extend(of_record(committed.index, &committed.record, wish));
            if told.len() >= wish.wanted.lines_max.min(AUDIT_ENTRIES_MAX) {
                return Ok((told, (committed.index < last).then_some(committed.index + 1)));
            }
        }
    }
    Ok((told, (history.next_index() <= last).then(|| history.next_index())))
}

/// The first index at or after this time, found by halving: time never goes back in the log.
fn since(node: &Node, first: u64, last: u64, since_ms: u64) -> Result<u64, HistoryError> {
    let (mut low, mut high) = (first, last + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        // Entries without a record have no time: the next one that has one tells.
        let mut history = node.history(middle)?;
        let at_ms = loop {
            if history.next_index() >= high {
                break None;
            }
            if let Some(committed) = history.page(high, 0)?.first() {
                break Some(committed.record.header.at_ms);
            }
        };
        match at_ms {
            Some(at_ms) if at_ms < since_ms => low = history.next_index(),
            _ => high = middle,
        }
    }
    Ok(low)
}

/// What says who an agent is.
const JOINING: [&str; 2] = ["agent-joined", "agent-bound"];

/// Who an agent is since this event, and by what.
fn told_of_joining(event: &RawEvent) -> Option<String> {
    let is_it = |(number, _, name): &&(u16, u16, &str)| *number == event.number && JOINING.contains(name);
    Event::KINDS.iter().find(is_it)?;
    match Event::decode(event.number, event.version, &event.payload) {
        Ok(Event::AgentJoined(joined)) => {
            Some(format!("S{} joined as {} by token {}", joined.agent.0, joined.principal, joined.token))
        }
        Ok(Event::AgentBound(bound)) => Some(format!("S{} is bound to {}", bound.agent.0, bound.principal)),
        _ => None,
    }
}

/// An entry for each cause that is wanted, with what it led to.
fn of_record(index: u64, record: &Record, wish: &Wish) -> Vec<Value> {
    let mut events: BTreeMap<u32, BTreeMap<&'static str, u64>> = BTreeMap::new();
    let mut joined: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for event in &record.events {
        if let Some(sentence) = told_of_joining(event) {
            joined.entry(event.cause).or_default().push(sentence);
        }
        let known = Event::KINDS.iter().find(|(number, ..)| *number == event.number);
        let name = known.map_or("unknown", |(.., name)| name);
        *events.entry(event.cause).or_default().entry(name).or_default() += 1;
    }
    let at_ms = record.header.at_ms;
    let causes = events.into_iter().filter_map(|(cause, events)| {
        let joined = joined.remove(&cause).unwrap_or_default();
        let cause = record.causes.get(cause as usize).filter(|cause| wish.takes(cause, !joined.is_empty()))?;
        Some(json!({
            "joined": joined,
            "index": index,
            "at_ms": at_ms,
            "at": api::time::shown(at_ms),
            "call": cause.call,
            "principal": cause.principal,
            "peer": cause.peer,
            "request_id": cause.request_id.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
            "events": events,
        }))
    });
    causes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_do_all_the_time_is_left_out() {
        let wish = |query: &str| Wish::read(&Query::parse(query), 7 + SINCE_MS).unwrap();
        let cause = |call: &str, principal: Option<&str>| Cause {
            call: call.into(),
            principal: principal.map(str::to_owned),
            ..Cause::default()
        };
        let plain = wish("");
        assert_eq!(plain.wanted.since_ms, 7);
        for (call, is_told) in
            [("UPDATE_QUOTA", true), ("SUBSCRIBE", true), ("PAUSE", true), ("ACCEPT", false), ("agent-messages", false)]
        {
            assert_eq!(plain.takes(&cause(call, Some("web")), false), is_told, "{call}");
            assert!(wish("all=true").takes(&cause(call, None), false));
        }
        assert!(plain.takes(&cause("register-agent", None), true), "who joined");
        assert!(wish("principal=web").takes(&cause("ACCEPT", Some("web")), false));
        assert!(!wish("principal=web").takes(&cause("ACCEPT", Some("ops")), true));
        assert!(Wish::read(&Query::parse("refused=yes"), 0).is_err());
        assert!(Wish::read(&Query::parse("limit=1001"), 0).is_err());
    }
}
