//! `POST /api/v1/scheduler`: frameworks. The checks stand in the order in which clients of Mesos meet them.

use crate::context::{Context, START_PATIENCE};
use crate::events::{self, HEARTBEAT_SECONDS};
use crate::identity::{connection_text, new_connection};
use crate::outcome::Outcome;
use crate::records::{self, RecordBody, RecordSender};
use crate::streams::Streams;
use crate::throttle::Exceeded;
use api::Media;
use api::media::{self, Rejection};
use api::v1::scheduler::Call;
use api::v1::scheduler::call::{Subscribe, Type};
use api_http::{BODY_BYTES_MAX, Body, HeaderValue, Method, Request, Response, StatusCode, Visitor, header};
use event_log::host;
use master_core::command::{Caller, Command};
use master_core::ids::{Connection, ConnectionId};
use master_core::{RefusalKind, validate};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

const STREAM_ID: &str = "mesos-stream-id";
const HEARTBEAT: Duration = Duration::from_secs(HEARTBEAT_SECONDS);
/// Between two attempts to subscribe while this master finds out that it must begin anew.
const NEW_LIFE_PACE: Duration = Duration::from_millis(50);
/// A 503 is given after a moment: some clients ask again at once.
const PACE: Duration = Duration::from_millis(250);

pub(crate) async fn answer(context: &Arc<Context>, request: Request, visitor: &Visitor) -> Response {
    match serve(context, request, visitor).await {
        Ok(response) => response,
        Err(refusal) => refusal,
    }
}

async fn serve(context: &Arc<Context>, request: Request, visitor: &Visitor) -> Result<Response, Response> {
    if !context.wait_ready().await {
        return Err(super::not_ready(context));
    }
    if request.method() != Method::POST {
        return Err(api_http::method_not_allowed(&["POST"], request.method()));
    }
    let (parts, body) = request.into_parts();
    let text_of = |name| parts.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let media = media::request_media(text_of(header::CONTENT_TYPE.as_str())).map_err(|no| rejected(&no))?;
    let mut body = api_http::read_body(&parts.headers, body, BODY_BYTES_MAX).await.map_err(|no| no.response())?;
    let mut call: Call = body.decode(media).await.map_err(|no| rejected(&no))?;
    let caller = super::caller(visitor);
    validate::call(&call, caller.principal.as_deref()).map_err(|no| super::decided_against(&no.into()))?;
    seal(context, &mut call);
    let stream_id = parts.headers.get(STREAM_ID).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    match call {
        Call { r#type: Some(kind), subscribe: Some(subscribe), framework_id, .. } if kind == Type::Subscribe as i32 => {
            let media = media::accept(text_of(header::ACCEPT.as_str())).map_err(|no| rejected(&no))?;
            if stream_id.is_some() {
                let sentence = "Subscribe calls should not include the 'Mesos-Stream-Id' header";
                return Err(api_http::text(StatusCode::BAD_REQUEST, sentence));
            }
            let framework_id = framework_id.map(|id| id.value);
            let until = Instant::now() + START_PATIENCE;
            loop {
                let opened = open_stream(context, media, subscribe.clone(), framework_id.clone(), caller.clone()).await;
                if let Some(response) = opened {
                    return Ok(response);
                }
                // This master was silent for so long that the cluster gave it up; it begins anew in a moment.
                if Instant::now() > until || !context.wait_ready().await {
                    return Err(super::not_ready(context));
                }
                tokio::time::sleep(NEW_LIFE_PACE).await;
            }
        }
        call => Ok(decide(context, stream_id, Box::new(call), caller).await),
    }
}

/// Values of secrets go no further as they are: what is decided is written down.
fn seal(context: &Context, call: &mut Call) {
    let framework_id = call.framework_id.as_ref().map(|id| id.value.clone()).unwrap_or_default();
    let Some(secret) = &context.secret else { return };
    api::secrets::of_call(call, &mut |value| {
        // One that no process can be given is refused as it is.
        if !value.data.contains(&0) {
            value.data = secret.seal(&value.data, &framework_id).into();
        }
    });
}

async fn decide(context: &Context, stream_id: Option<String>, call: Box<Call>, caller: Caller) -> Response {
    let speaker = call.framework_id.as_ref().map(|id| id.value.clone()).unwrap_or_default();
    let (state, _) = context.reader.state();
    let speaker = state.frameworks.by_id(&speaker).map(|known| (known.key, known.principal.clone()));
    let principal = speaker.as_ref().and_then(|(_, principal)| principal.clone());
    // Whoever is no framework is refused, at no great cost.
    if let Some((framework, _)) = &speaker
        && let Err(Exceeded { capacity }) = context.throttle.pass(principal.as_ref()).await
    {
        let sentence = format!("Message {} dropped: capacity({capacity}) exceeded", call.r#type().as_str_name());
        context.streams.tell(*framework, &events::error(&sentence));
        return api_http::text(StatusCode::TOO_MANY_REQUESTS, &sentence);
    }
    let response = decide_now(context, stream_id, call, caller).await;
    context.throttle.processed(principal.as_ref());
    response
}

async fn decide_now(context: &Context, stream_id: Option<String>, call: Box<Call>, caller: Caller) -> Response {
    let done = match call.r#type.and_then(|kind| Type::try_from(kind).ok()) {
        Some(Type::UpdateFramework) => StatusCode::OK,
        _ => StatusCode::ACCEPTED,
    };
    match context.reader.submit(Command::FrameworkCall { stream_id, call }, caller).await {
        Outcome::Done { .. } => api_http::empty(done),
        other => not_done(context, other).await,
    }
}

/// None if this master's life is over as the cluster knows it: nothing happened.
async fn open_stream(
    context: &Arc<Context>,
    media: Media,
    subscribe: Subscribe,
    framework_id: Option<String>,
    caller: Caller,
) -> Option<Response> {
    let connection = Connection { at: context.identity.incarnation(), id: new_connection() };
    let (records, body) = records::channel();
    let ended = context.streams.expect(connection, media, records.clone());
    // A client that leaves while its SUBSCRIBE is decided takes this future with it.
    let mut unwanted = Unwanted { streams: context.streams.clone(), connection: connection.id, armed: true };
    let command = Command::Subscribe { connection, subscribe, framework_id };
    let response = match context.reader.submit(command, caller).await {
        Outcome::Refused(refusal) if refusal.kind == RefusalKind::HolderOver => return None,
        Outcome::Done { .. } => {
            unwanted.armed = false;
            host::spawn(tend(context.streams.clone(), connection.id, records, ended));
            stream_response(media, connection.id, body)
        }
        Outcome::Refused(refusal) if refusal.kind == RefusalKind::OnStream => {
            // The body's only record; nobody can have left yet.
            let _ = records.send(media.encode_record(&events::error(&refusal.message)));
            stream_response(media, connection.id, body)
        }
        other => not_done(context, other).await,
    };
    Some(response)
}

/// Keeps a stream alive until its client leaves or the stream is over.
async fn tend(
    streams: Arc<Streams>,
    connection: ConnectionId,
    records: RecordSender,
    mut ended: oneshot::Receiver<()>,
) {
    let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
    loop {
        tokio::select! {
            () = records.closed() => return streams.forget(connection),
            _ = &mut ended => return,
            _ = beat.tick() => streams.heartbeat(connection),
        }
    }
}

struct Unwanted {
    streams: Arc<Streams>,
    connection: ConnectionId,
    armed: bool,
}

impl Drop for Unwanted {
    fn drop(&mut self) {
        if self.armed {
            self.streams.forget(self.connection);
        }
    }
}

fn stream_response(media: Media, connection: ConnectionId, body: RecordBody) -> Response {
    let mut response = api_http::streaming(media.content_type(), Body::custom(body));
    let id = HeaderValue::from_str(&connection_text(connection)).expect("a uuid is ASCII");
    response.headers_mut().insert(STREAM_ID, id);
    response
}

async fn not_done(context: &Context, outcome: Outcome) -> Response {
    match outcome {
        Outcome::Refused(refusal) => super::decided_against(&refusal),
        Outcome::Crashed => {
            let sentence = "Deciding this call failed; nothing of it took effect";
            api_http::text(StatusCode::INTERNAL_SERVER_ERROR, sentence)
        }
        Outcome::Untried => {
            tokio::time::sleep(PACE).await;
            context.reader.no_leader()
        }
        Outcome::Done { .. } | Outcome::Unknown => {
            tokio::time::sleep(PACE).await;
            let sentence = "The leader changed while the call was under way; it may have taken effect";
            api_http::text(StatusCode::SERVICE_UNAVAILABLE, sentence)
        }
    }
}

fn rejected(rejection: &Rejection) -> Response {
    let status = StatusCode::from_u16(rejection.status).unwrap_or(StatusCode::BAD_REQUEST);
    api_http::text(status, &rejection.message)
}
