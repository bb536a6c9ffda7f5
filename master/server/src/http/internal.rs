//! What the other masters ask: Raft's own messages, commands to decide, deliveries, and which life this is.

use crate::agents::connection_id;
use crate::context::Context;
use crate::equality::hex;
use crate::submit::{Attempt, Verdict};
use crate::wire;
use api::internal::{self, delivery};
use api::limits::PEER_BYTES_MAX;
use api::wire::Wire;
use api_http::{Query, Request, Response, StatusCode};
use bytes::Bytes;
use event_log::host;
use master_core::state::SectionDigest;
use prost::Message;
use serde_json::json;
use std::sync::Arc;

const PROTOBUF: &str = "application/x-protobuf";

pub(super) async fn raft(context: &Context, request: Request) -> Response {
    match body(request).await {
        Ok(body) => api_http::bytes(StatusCode::OK, PROTOBUF, context.node.handle(body).await),
        Err(response) => response,
    }
}

pub(super) async fn submit(context: &Context, request: Request) -> Response {
    let submission: internal::Submission = match read(request).await {
        Ok(submission) => submission,
        Err(response) => return response,
    };
    if let Some(response) = foreign(context, &submission.cluster_id) {
        return response;
    }
    if let Some(response) = removed(context, &submission) {
        return response;
    }
    let (command, caller, request_id) = match wire::command(submission) {
        Ok(parts) => parts,
        Err(error) => return api_http::text(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match context.reader.submitter.here(Attempt { command, caller, request_id }).await {
        Verdict::Ended(outcome) => api_http::bytes(StatusCode::OK, PROTOBUF, wire::answer(outcome).encode_to_vec()),
        Verdict::NotTried(_) => api_http::text(StatusCode::MISDIRECTED_REQUEST, "This master does not lead"),
    }
}

pub(super) async fn deliver(context: &Context, request: Request) -> Response {
    let deliver: internal::Deliver = match read(request).await {
        Ok(deliver) => deliver,
        Err(response) => return response,
    };
    if let Some(response) = foreign(context, &deliver.cluster_id) {
        return response;
    }
    for internal::Delivery { connection, what } in deliver.deliveries {
        let Some(connection) = connection_id(&connection) else { continue };
        match what {
            Some(delivery::What::Event(event)) => context.streams.deliver(connection, &event),
            Some(delivery::What::FrameworkMessage(message)) => context.agents.deliver(connection, message),
            None => {}
        }
    }
    api_http::empty(StatusCode::ACCEPTED)
}

pub(super) fn hello(context: &Context) -> Response {
    let hello = internal::Hello {
        cluster_id: context.node.cluster_id(),
        incarnation: wire::incarnation_to_wire(context.identity.incarnation()),
        reads_level: Some(context.levels.own.reads.0),
        raises_to_level: Some(context.levels.own.raises_to.0),
        hostname: context.identity.name_of(context.identity.node()),
        domain: context.identity.said(context.identity.node()).domain,
        time_ms: context.clock.known_ms(),
    };
    api_http::bytes(StatusCode::OK, PROTOBUF, hello.encode_to_vec())
}

/// What this master's fold is, and at which index, to compare with other masters and with `meseta-log verify --to N` on
/// any disk: `{"index": N, "node": "hex", "digest": "hex", "sections": {NAME: {"entries": N, "digest": "hex"}}}`. As of
/// now, or with `?index=N` at one of the last indexes at which every master made a digest; 404 for any other.
pub(super) async fn digest(context: &Context, request: &Request) -> Response {
    let (index, digests) = match Query::of(request).get("index") {
        Some(text) => {
            let Ok(index) = text.parse() else {
                return api_http::text(StatusCode::BAD_REQUEST, "'index' is not a number");
            };
            match context.equality.at(index) {
                Some(digests) => (index, digests),
                None => return api_http::text(StatusCode::NOT_FOUND, "No digest is kept of that index"),
            }
        }
        None => {
            let (state, index) = context.reader.state();
            match host::blocking(move || state.digests()).await {
                Ok(digests) => (index, Arc::new(digests)),
                Err(_) => return api_http::text(StatusCode::INTERNAL_SERVER_ERROR, "The state could not be digested"),
            }
        }
    };
    let section = |section: &SectionDigest| {
        let digest = json!({ "entries": section.entries, "digest": hex(&section.digest) });
        (section.name.to_owned(), digest)
    };
    api_http::json(&json!({
        "index": index,
        "node": format!("{:016x}", context.identity.node().0),
        "digest": hex(&digests.total),
        "sections": digests.sections.iter().map(section).collect::<serde_json::Map<_, _>>(),
    }))
}

/// A master that is out folds nothing any more: what it submits would bind clients to it that it cannot serve.
fn removed(context: &Context, submission: &internal::Submission) -> Option<Response> {
    let members = context.node.status().borrow().members.clone();
    let known = members.iter().any(|member| member.node_id == submission.origin.node_id);
    (!known).then(|| api_http::text(StatusCode::GONE, "This master is no member of the cluster any more"))
}

/// A master of another cluster must not change this one.
fn foreign(context: &Context, cluster_id: &str) -> Option<Response> {
    let own = context.node.cluster_id();
    (own.as_deref() != Some(cluster_id)).then(|| {
        let sentence = format!("This master belongs to cluster {}, not {cluster_id}", own.unwrap_or_default());
        api_http::text(StatusCode::CONFLICT, &sentence)
    })
}

async fn read<M: Wire>(request: Request) -> Result<M, Response> {
    let body = body(request).await?;
    api::decode_protobuf(body)
        .map_err(|error| api_http::text(StatusCode::BAD_REQUEST, &format!("Not a message: {error}")))
}

async fn body(request: Request) -> Result<Bytes, Response> {
    let (parts, body) = request.into_parts();
    api_http::read_message(&parts.headers, body, PEER_BYTES_MAX).await.map_err(|error| error.response())
}
