//! The endpoints of version 0: `/state` and its parts, for people, scripts and older clients. Any method will do
//! where Mesos takes any. A master that does not lead sends clients to the one that does, except for what each
//! answers about itself, or when `?stale=true` asks for what is known here.

pub mod about;
pub mod amounts;
pub mod json;
pub mod lists;
pub mod parts;
pub mod state;
pub mod views;

use super::operator::Operators;
use super::render::{Kind, Rendering};
use api::v1;
use api_http::{Query, Request, Response, StatusCode, header};
use event_log::host;
use master_core::command::Command;
use master_core::state::State;
use std::net::SocketAddr;
use std::sync::Arc;

/// An endpoint of version 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// What each master answers about itself.
    Local(Local),
    /// What is read from State.
    Read(Read),
    /// `/redirect`: where the leader is.
    Redirect,
    /// `/teardown`
    Teardown,
    /// Known to Mesos, a POST, not built here.
    Later,
}

/// Answered by every master, about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Local {
    Version,
    Health,
    Flags,
    Metrics,
    Files,
    LoggingToggle,
    SystemStats,
}

/// Read from State.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Read {
    State,
    StateSummary,
    Slaves,
    AgentsAway,
    Frameworks,
    Tasks,
    Roles,
    Weights,
    Quota,
    MaintenanceSchedule,
    MaintenanceStatus,
}

/// Every path with what serves it.
pub const PATHS: &[(&str, Endpoint)] = &[
    ("/version", Endpoint::Local(Local::Version)),
    ("/health", Endpoint::Local(Local::Health)),
    ("/flags", Endpoint::Local(Local::Flags)),
    ("/metrics/snapshot", Endpoint::Local(Local::Metrics)),
    ("/files", Endpoint::Local(Local::Files)),
    ("/logging/toggle", Endpoint::Local(Local::LoggingToggle)),
    ("/system/stats.json", Endpoint::Local(Local::SystemStats)),
    ("/state", Endpoint::Read(Read::State)),
    ("/state-summary", Endpoint::Read(Read::StateSummary)),
    ("/slaves", Endpoint::Read(Read::Slaves)),
    ("/meseta/agents/away", Endpoint::Read(Read::AgentsAway)),
    ("/frameworks", Endpoint::Read(Read::Frameworks)),
    ("/tasks", Endpoint::Read(Read::Tasks)),
    ("/roles", Endpoint::Read(Read::Roles)),
    ("/weights", Endpoint::Read(Read::Weights)),
    ("/quota", Endpoint::Read(Read::Quota)),
    ("/maintenance/schedule", Endpoint::Read(Read::MaintenanceSchedule)),
    ("/maintenance/status", Endpoint::Read(Read::MaintenanceStatus)),
    ("/redirect", Endpoint::Redirect),
    ("/teardown", Endpoint::Teardown),
    ("/reserve", Endpoint::Later),
    ("/unreserve", Endpoint::Later),
    ("/create-volumes", Endpoint::Later),
    ("/destroy-volumes", Endpoint::Later),
    ("/machine/down", Endpoint::Later),
    ("/machine/up", Endpoint::Later),
];

/// Answers a request for `endpoint`; `rest` is what follows the endpoint's path.
pub async fn answer(
    operators: &Arc<Operators>,
    endpoint: &Endpoint,
    rest: &[String],
    request: Request,
    peer: SocketAddr,
) -> Response {
    let query = Query::of(&request);
    let response = match endpoint {
        Endpoint::Local(Local::Files) => return files(operators, rest, query).await,
        Endpoint::Local(local) => answer_local(operators, *local, &query),
        // A client that follows its own path there would come back for ever.
        Endpoint::Redirect if !rest.is_empty() => api_http::not_found(),
        Endpoint::Redirect => match operators.leader().await {
            Some(leader) => redirect(&format!("//{}", operators.told(&leader))),
            None => no_leader(),
        },
        Endpoint::Read(read) => match elsewhere(operators, &request, &query).await {
            Some(response) => response,
            None => answer_read(operators, *read, &query, &request).await,
        },
        Endpoint::Teardown | Endpoint::Later if request.method() != api_http::Method::POST => {
            api_http::method_not_allowed(&["POST"], request.method())
        }
        Endpoint::Later => match elsewhere(operators, &request, &query).await {
            Some(response) => response,
            None => not_built(&format!("{} is not supported by this version of Meseta", request.uri().path())),
        },
        Endpoint::Teardown => match elsewhere(operators, &request, &query).await {
            Some(response) => response,
            None => teardown(operators, request, peer).await,
        },
    };
    api_http::jsonp(response, query.get("jsonp"))
}

fn answer_local(operators: &Operators, local: Local, query: &Query) -> Response {
    match local {
        Local::Version => api_http::json_bytes(lists::version(&operators.about)),
        Local::Health => api_http::empty(StatusCode::OK),
        Local::Flags => api_http::json_bytes(lists::flags(&operators.about)),
        Local::Metrics => {
            if let Some(Err(sentence)) = query.get("timeout").map(super::metrics::parse_timeout) {
                return api_http::text(StatusCode::BAD_REQUEST, &sentence);
            }
            api_http::json_bytes(super::metrics::json(&operators.metrics()))
        }
        Local::LoggingToggle => match query.get("level").or(query.get("duration")) {
            Some(_) => not_built("Changing the level of logging is not supported by this version of Meseta"),
            None => api_http::text(StatusCode::OK, "0\n"),
        },
        Local::SystemStats => api_http::json_bytes(stats()),
        Local::Files => api_http::not_found(),
    }
}

/// Sandboxes are the agents'; a master has its log at most. Reading files blocks, so it is done elsewhere.
async fn files(operators: &Operators, rest: &[String], query: Query) -> Response {
    let (table, endpoint) = (operators.files.clone(), rest.join("/"));
    let answer = host::blocking(move || table.answer(&endpoint, &query)).await;
    answer.ok().flatten().unwrap_or_else(api_http::not_found)
}

/// The answer that sends a client away, unless this master is the right one to ask.
async fn elsewhere(operators: &Operators, request: &Request, query: &Query) -> Option<Response> {
    if query.get("stale") == Some("true") {
        return None;
    }
    match operators.leader().await {
        Some(leader) if leader.is_me => None,
        Some(leader) => {
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            Some(redirect(&format!("//{}{path}", operators.told(&leader))))
        }
        None => Some(no_leader()),
    }
}

async fn answer_read(operators: &Arc<Operators>, read: Read, query: &Query, request: &Request) -> Response {
    let Ok(reading) = operators.context.reader.read(query.get("stale") == Some("true")).await else {
        return no_leader();
    };
    let response = answer_from(operators, read, query, request, reading.state.clone(), reading.index).await;
    super::render::as_of(&reading, response)
}

async fn answer_from(
    operators: &Arc<Operators>,
    read: Read,
    query: &Query,
    request: &Request,
    state: Arc<State>,
    index: u64,
) -> Response {
    let packed = query.get("jsonp").is_none() && api_http::accepts_gzip(request.headers());
    let kind = match read {
        Read::State => Kind::State,
        Read::StateSummary => Kind::Summary,
        _ => return small(&state, read, query),
    };
    let about = operators.clone();
    let render = move || match kind {
        Kind::Summary => state::summary(&state, &about.about),
        _ => state::state(&state, &about.about),
    };
    operators.renderings.answer(Rendering { kind, packed, index }, "application/json", render).await
}

/// Lists that are small, or asked for rarely.
fn small(state: &State, read: Read, query: &Query) -> Response {
    api_http::json_bytes(match read {
        Read::State | Read::StateSummary => return api_http::not_found(),
        Read::Slaves => lists::agents(state, query.get("slave_id")),
        Read::AgentsAway => lists::agents_away(state),
        Read::Frameworks => lists::frameworks(state, query.get("framework_id")),
        Read::Tasks => lists::tasks(state, &lists::TaskQuery::new(|name| query.get(name).map(str::to_owned))),
        Read::Roles => lists::roles(state),
        // Nothing sets these yet.
        Read::Weights => b"[]".to_vec(),
        Read::Quota | Read::MaintenanceSchedule | Read::MaintenanceStatus => b"{}".to_vec(),
    })
}

async fn teardown(operators: &Operators, request: Request, peer: SocketAddr) -> Response {
    let (parts, body) = request.into_parts();
    let body = match api_http::read_body(&parts.headers, body, api_http::BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => return error.response(),
    };
    let form = Query::parse(&String::from_utf8_lossy(&body));
    let Some(framework_id) = form.get("frameworkId") else {
        return api_http::text(StatusCode::BAD_REQUEST, "Missing 'frameworkId' query parameter in the request body");
    };
    let framework_id = v1::FrameworkId { value: framework_id.to_owned() };
    let mut call = v1::master::Call::default();
    call.set_type(v1::master::call::Type::Teardown);
    call.teardown = Some(v1::master::call::Teardown { framework_id });
    operators.change(Command::OperatorCall { call: Box::new(call) }, peer).await
}

fn stats() -> Vec<u8> {
    let host = super::metrics::Host::read();
    let mut json = json::Json::default();
    json.object(|json| {
        json.double_at("avg_load_15min", host.load[2]);
        json.double_at("avg_load_1min", host.load[0]);
        json.double_at("avg_load_5min", host.load[1]);
        json.integer_at("cpus_total", host.cpus as i64);
        json.integer_at("mem_free_bytes", host.mem_free_bytes as i64);
        json.integer_at("mem_total_bytes", host.mem_total_bytes as i64);
    });
    json.into_bytes()
}

fn redirect(location: &str) -> Response {
    let mut response = api_http::empty(StatusCode::TEMPORARY_REDIRECT);
    match api_http::HeaderValue::from_str(location) {
        Ok(location) => drop(response.headers_mut().insert(header::LOCATION, location)),
        Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    response
}

/// 503 while nobody leads.
pub fn no_leader() -> Response {
    api_http::text(StatusCode::SERVICE_UNAVAILABLE, "No leader elected")
}

/// 501 with a sentence.
pub fn not_built(sentence: &str) -> Response {
    api_http::text(StatusCode::NOT_IMPLEMENTED, sentence)
}
