//! Files of sandboxes for masters, which show them to whoever asks them: a browser that reaches a master need not reach
//! every agent. Whoever asks the master gets what they would get here: a name is believed of those who know the cluster's
//! secret or show a master's certificate, and decided upon by this agent's own lists.

use std::net::SocketAddr;
use std::sync::Arc;

use api::internal::{FileListed, FilePart, FilesAnswer, FilesAsked, FilesRefused};
use api::limits::SMALL_BODY_BYTES_MAX;
use api_http::{
    Carries, Door, FilesError, For, READ_BYTES_MAX, Reason, Refused, Request, Response, StatusCode, Visitor, mode_text,
};
use auth::{Principal, Realm, Subject};
use prost::Message;

use crate::agent::Agent;
use crate::permit;

/// Where masters ask.
pub(crate) const PATH: &str = "/meseta/files";

/// Answers a request of `peer`, if that is one of ours.
pub(crate) async fn answer(agent: Arc<Agent>, request: Request, peer: SocketAddr) -> Response {
    let door = agent.config.door.clone();
    let is_named = Door::is_of_master(&request);
    match door.admit(request, peer, Carries::Body(SMALL_BODY_BYTES_MAX), For::Masters).await {
        Ok((request, seal)) => seal.answer(read(agent, request, peer, is_named || seal.is_proven()).await),
        Err(refused) => refused,
    }
}

async fn read(agent: Arc<Agent>, request: Request, peer: SocketAddr, is_proven: bool) -> Response {
    let (parts, body) = request.into_parts();
    let body = match api_http::read_message(&parts.headers, body, SMALL_BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => return error.response(),
    };
    let mut asked = match api::decode_protobuf::<FilesAsked>(body) {
        Ok(asked) => asked,
        Err(error) => return api_http::text(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    if !is_proven {
        asked.principal = None;
    }
    let answered = event_log::host::blocking(move || {
        files(&agent, &asked, peer, is_proven).unwrap_or_else(|(status, message)| {
            let refused = FilesRefused { status: status.as_u16().into(), message };
            FilesAnswer { refused: Some(refused), ..FilesAnswer::default() }
        })
    });
    match answered.await {
        Ok(answer) => api_http::bytes(StatusCode::OK, "application/x-protobuf", answer.encode_to_vec()),
        Err(_) => api_http::text(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error."),
    }
}

/// Status and one sentence.
type Sentence = (StatusCode, String);

fn files(agent: &Agent, asked: &FilesAsked, peer: SocketAddr, is_proven: bool) -> Result<FilesAnswer, Sentence> {
    let refused = |status, why: &str| Err((status, why.to_owned()));
    let name = asked.principal.as_deref();
    let admission = &agent.config.admission;
    if name.is_none() && admission.asks(Realm::AgentReadonly) {
        let why = match is_proven {
            true => "This agent asks who reads it, and the master did not",
            false => "This agent asks who reads it, and takes no master's word without --cluster_secret",
        };
        return refused(StatusCode::UNAUTHORIZED, why);
    }
    let visitor = Visitor {
        principal: name.map(|name| Principal { value: Some(name.to_owned()), ..Principal::default() }),
        peer,
        approver: admission.authorizer().approver(Subject::named(name)),
    };
    let run = asked.container_id.as_deref().unwrap_or("latest");
    let path = format!("{}/{run}/{}", agent.runs(&asked.framework_id, &asked.executor_id).display(), asked.path);
    if let Err(why) = permit::file(agent, &visitor, &path) {
        // The answer to the master is none that refuses.
        let reason = why.extensions().get::<Reason>();
        admission.audit().note(&Refused {
            status: Some(StatusCode::FORBIDDEN.as_u16()),
            peer: Some(peer.to_string()),
            principal: name.map(str::to_owned),
            method: Some("POST".to_owned()),
            path: Some(PATH.to_owned()),
            action: reason.map(|reason| reason.action.name()),
            object: reason.and_then(|reason| reason.object.clone()),
            why: reason.map_or_else(String::new, |reason| reason.why.clone()),
            ..Refused::default()
        });
        return refused(StatusCode::FORBIDDEN, "The agent's access control lists do not let you see this sandbox");
    }
    found(agent, asked, &path).map_err(|error| match error {
        FilesError::NotFound => (StatusCode::NOT_FOUND, "It is not there any more, or never was".to_owned()),
        FilesError::Invalid(why) => (StatusCode::BAD_REQUEST, why.trim_end().to_owned()),
        FilesError::Io(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    })
}

fn found(agent: &Agent, asked: &FilesAsked, path: &str) -> Result<FilesAnswer, FilesError> {
    if !agent.files.is_folder(path)? {
        let part = Some(part(agent, path, asked)?);
        return Ok(FilesAnswer { part, ..FilesAnswer::default() });
    }
    let listed = agent.files.list(path)?.into_iter().map(|entry| FileListed {
        name: entry.path.rsplit('/').next().unwrap_or_default().to_owned(),
        mode: mode_text(entry.mode),
        user: entry.user,
        size: entry.size,
        mtime_secs: entry.mtime_secs,
    });
    Ok(FilesAnswer { entries: listed.collect(), ..FilesAnswer::default() })
}

fn part(agent: &Agent, path: &str, asked: &FilesAsked) -> Result<FilePart, FilesError> {
    let length = usize::try_from(asked.length).unwrap_or(READ_BYTES_MAX).min(READ_BYTES_MAX);
    let offset = match asked.offset {
        Some(offset) => offset,
        None => agent.files.read(path, 0, Some(0))?.1.saturating_sub(length as u64),
    };
    let (data, size) = agent.files.read(path, offset, Some(length))?;
    Ok(FilePart { data: data.into(), offset, size })
}
