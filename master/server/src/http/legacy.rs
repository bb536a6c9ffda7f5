//! The endpoints of version 0: `/state` and its parts, for people, scripts and older clients. Any method will do
//! where Mesos takes any; each of the others has its methods in the table, and a write that is not built yet says so. A master that does not lead sends clients to the one that does, except for what each
//! answers about itself, or when `?stale=true` asks for what is known here.

pub mod about;
pub mod amounts;
pub mod json;
pub mod lists;
pub mod maintenance;
mod operations;
pub mod parts;
mod registry;
pub mod roles;
pub mod state;
pub mod views;

use super::operator::Operators;
use super::render::{Kind, Rendering, shown};
use crate::context::Context;
use api::limits::SMALL_BODY_BYTES_MAX;
use api::v1;
use api::v1::master::call::Type;
use api_http::metrics;
use api_http::{Method, Query, Request, Response, StatusCode, Topic, Visitor, header};
use auth::{Action, Need, Realm, Sight, needs};
use event_log::host;
use master_core::command::Command;
use master_core::state::State;
use profiler::Act;
use std::sync::Arc;

const JSON: &str = "application/json";

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
    /// Machines go down or come up.
    Machines(maintenance::Change),
    /// `/reserve` and its like: an operation on the resources of one agent.
    Operation(Type),
}

/// Answered by every master, about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Local {
    Version,
    Health,
    Flags,
    Metrics,
    Prometheus,
    Files,
    LoggingToggle,
    SystemStats,
    Help,
    Processes,
    Profiler(Act),
}

/// Read from State.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Read {
    State,
    StateSummary,
    Slaves,
    AgentsAway,
    Frameworks,
    Tasks,
    Roles,
    Registry,
    Weights,
    Quota,
    MaintenanceSchedule,
    MaintenanceStatus,
}

/// Any method: Mesos does not look.
const ANY: &[&str] = &[];
const GET: &[&str] = &["GET"];
const POST: &[&str] = &["POST"];

/// Every path with the methods that it takes and what serves it.
pub const PATHS: &[(&str, &[&str], Endpoint)] = &[
    ("/version", ANY, Endpoint::Local(Local::Version)),
    ("/health", ANY, Endpoint::Local(Local::Health)),
    ("/flags", ANY, Endpoint::Local(Local::Flags)),
    ("/metrics/snapshot", ANY, Endpoint::Local(Local::Metrics)),
    ("/metrics/prometheus", ANY, Endpoint::Local(Local::Prometheus)),
    ("/files", ANY, Endpoint::Local(Local::Files)),
    ("/logging/toggle", ANY, Endpoint::Local(Local::LoggingToggle)),
    ("/system/stats.json", ANY, Endpoint::Local(Local::SystemStats)),
    ("/help", ANY, Endpoint::Local(Local::Help)),
    ("/__processes__", ANY, Endpoint::Local(Local::Processes)),
    ("/profiler/start", ANY, Endpoint::Local(Local::Profiler(Act::Start))),
    ("/profiler/stop", ANY, Endpoint::Local(Local::Profiler(Act::Stop))),
    ("/registrar(1)/registry", ANY, Endpoint::Read(Read::Registry)),
    ("/state", ANY, Endpoint::Read(Read::State)),
    ("/state-summary", ANY, Endpoint::Read(Read::StateSummary)),
    ("/slaves", ANY, Endpoint::Read(Read::Slaves)),
    ("/agents/away", GET, Endpoint::Read(Read::AgentsAway)),
    ("/frameworks", ANY, Endpoint::Read(Read::Frameworks)),
    ("/tasks", ANY, Endpoint::Read(Read::Tasks)),
    ("/roles", ANY, Endpoint::Read(Read::Roles)),
    ("/weights", &["GET", "PUT"], Endpoint::Read(Read::Weights)),
    ("/quota", &["GET", "POST", "DELETE"], Endpoint::Read(Read::Quota)),
    ("/maintenance/schedule", &["GET", "POST"], Endpoint::Read(Read::MaintenanceSchedule)),
    ("/maintenance/status", &["GET"], Endpoint::Read(Read::MaintenanceStatus)),
    ("/redirect", ANY, Endpoint::Redirect),
    ("/teardown", POST, Endpoint::Teardown),
    ("/reserve", POST, Endpoint::Operation(Type::ReserveResources)),
    ("/unreserve", POST, Endpoint::Operation(Type::UnreserveResources)),
    ("/create-volumes", POST, Endpoint::Operation(Type::CreateVolumes)),
    ("/destroy-volumes", POST, Endpoint::Operation(Type::DestroyVolumes)),
    ("/machine/down", POST, Endpoint::Machines(maintenance::Change::Down)),
    ("/machine/up", POST, Endpoint::Machines(maintenance::Change::Up)),
];

/// What `/help` tells of this master's own.
const TOPICS: &[Topic] = &[
    topic("/api/v1", "Calls of operators and the stream of what happens, by POST (docs/events.md)."),
    topic("/api/v1/scheduler", "Calls of frameworks and the stream of their events, by POST (docs/frameworks.md)."),
    topic("/agents/away", "Agents that were away when this leadership began, and have not returned."),
    topic("/allocator/offer_constraints_debug", "Which agents offer constraints keep from whom."),
    topic("/audit", "Who did what, and who was refused what: since (ms since 1970), principal, refused, all, limit."),
    topic("/ui", "Pages for people; a browser is sent there from /."),
    topic("/brakes", "What is paused; by POST: pauses it, or lets it go on."),
    topic("/can-i", "Whether a principal may do something, and which entry of the access control lists says so."),
    topic("/create-volumes", "Persistent volumes are made of reserved disk: slaveId, volumes."),
    topic("/destroy-volumes", "Persistent volumes are destroyed: slaveId, volumes."),
    topic("/explain", "Why a framework has no offers."),
    topic("/flags", "The flags in force."),
    topic("/frameworks", "Frameworks with their tasks, live and completed: framework_id."),
    topic("/health", "200 as long as this process answers."),
    topic("/holders", "Who holds what, and since when."),
    topic("/identities", "Tokens that agents join by, and whom agents are; by POST: makes, rotates and revokes them."),
    topic("/machine/down", "Machines of the maintenance schedule go down."),
    topic("/machine/up", "Machines are up again."),
    topic("/maintenance/schedule", "When machines are to be unavailable; by POST: another schedule."),
    topic("/maintenance/status", "Machines that drain, or are down."),
    topic("/preemption", "Which tasks would have to go for an amount to be free."),
    topic("/process", "What this process takes, and what its threads do."),
    topic("/quota", "Guarantees and limits of roles; POST and DELETE change them."),
    topic("/redirect", "Leads to the master that leads."),
    topic("/reserve", "Resources of an agent are reserved: slaveId, resources."),
    topic("/roles", "Roles with their weights, quota, frameworks and what they hold."),
    topic("/slaves", "Agents: slave_id."),
    topic("/state", "Everything: agents, frameworks, tasks."),
    topic("/state-summary", "Agents and frameworks with the numbers of their tasks."),
    topic("/tasks", "Tasks: limit, offset, order, framework_id, task_id."),
    topic("/teardown", "A framework ends: frameworkId."),
    topic("/unreserve", "Reserved resources of an agent are reserved no more: slaveId, resources."),
    topic("/weights", "Weights of roles; PUT changes them."),
    Topic { process: "registrar(1)", name: "/registry", text: "What a master that takes over must know." },
];

const fn topic(name: &'static str, text: &'static str) -> Topic {
    Topic { process: "master", name, text }
}

/// Who is asked for what; None: everybody is told.
pub fn realm(endpoint: &Endpoint) -> Option<Realm> {
    match endpoint {
        Endpoint::Local(Local::Version | Local::Health | Local::SystemStats | Local::Help | Local::Processes)
        | Endpoint::Redirect => None,
        Endpoint::Local(Local::Flags | Local::Metrics | Local::Prometheus | Local::Files) => {
            Some(Realm::MasterReadonly)
        }
        Endpoint::Local(Local::LoggingToggle | Local::Profiler(_)) => Some(Realm::MasterReadwrite),
        Endpoint::Read(
            Read::State
            | Read::StateSummary
            | Read::Slaves
            | Read::AgentsAway
            | Read::Frameworks
            | Read::Tasks
            | Read::Roles
            | Read::Registry
            | Read::MaintenanceStatus,
        ) => Some(Realm::MasterReadonly),
        Endpoint::Read(Read::Weights | Read::Quota | Read::MaintenanceSchedule)
        | Endpoint::Teardown
        | Endpoint::Machines(_)
        | Endpoint::Operation(_) => Some(Realm::MasterReadwrite),
    }
}

/// Answers a request for `endpoint`; `rest` is what follows the endpoint's path.
pub async fn answer(
    operators: &Arc<Operators>,
    (endpoint, methods): (&Endpoint, &'static [&'static str]),
    rest: &[String],
    request: Request,
    visitor: &Visitor,
) -> Response {
    let query = visitor.query(&request);
    if !methods.is_empty() && !methods.contains(&request.method().as_str()) {
        return api_http::jsonp(api_http::method_not_allowed(methods, request.method()), query.get("jsonp"));
    }
    let response = match endpoint {
        Endpoint::Local(Local::Files) => return files(operators, rest, query, visitor).await,
        Endpoint::Local(local) => match permit_local(*local, &request, visitor) {
            Ok(()) => answer_local(operators, *local, (&query, rest), visitor.approver.sight()).await,
            Err(response) => *response,
        },
        // A client that follows its own path there would come back for ever.
        Endpoint::Redirect if !rest.is_empty() => api_http::not_found(),
        Endpoint::Redirect => match operators.leader().await {
            Some(leader) => redirect(&format!("//{}", operators.told(&leader))),
            None => no_leader(&operators.context),
        },
        Endpoint::Read(Read::MaintenanceSchedule) if request.method() == Method::POST => {
            match elsewhere(operators, &request, &query).await {
                Some(response) => response,
                None => maintenance::change(operators, maintenance::Change::Schedule, request, visitor).await,
            }
        }
        Endpoint::Machines(change) => match elsewhere(operators, &request, &query).await {
            Some(response) => response,
            None => maintenance::change(operators, *change, request, visitor).await,
        },
        // Whoever sends a change must not believe that it was made.
        Endpoint::Read(read) if !methods.is_empty() && request.method() != Method::GET => {
            match elsewhere(operators, &request, &query).await {
                Some(response) => response,
                None if *read == Read::Quota => roles::quota(operators, request, rest, visitor).await,
                None if *read == Read::Weights => roles::weights(operators, request, visitor).await,
                None => later(&request),
            }
        }
        Endpoint::Read(read) => match elsewhere(operators, &request, &query).await {
            Some(response) => response,
            None => answer_read(operators, *read, &query, &request, visitor).await,
        },
        Endpoint::Operation(kind) => match elsewhere(operators, &request, &query).await {
            Some(response) => response,
            None => operations::answer(operators, *kind, request, visitor).await,
        },
        Endpoint::Teardown => match elsewhere(operators, &request, &query).await {
            Some(response) => response,
            None => teardown(operators, request, visitor).await,
        },
    };
    api_http::jsonp(response, query.get("jsonp"))
}

/// 501: a change that is not built yet.
fn later(request: &Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    not_built(&format!("{method} {path} is not supported by this version of Meseta: nothing was changed"))
}

/// What a request for `endpoint` needs, by its method.
pub fn need(endpoint: &Endpoint, method: &Method) -> Need {
    let is_read = *method == Method::GET;
    match endpoint {
        Endpoint::Local(Local::Version | Local::Health | Local::SystemStats | Local::Help | Local::Processes)
        | Endpoint::Redirect => Need::Nothing,
        Endpoint::Local(Local::Profiler(Act::Start)) => Need::AsksPath("/profiler/start"),
        Endpoint::Local(Local::Profiler(Act::Stop)) => Need::AsksPath("/profiler/stop"),
        Endpoint::Local(Local::Flags) => Need::Asks(Action::ViewFlags),
        Endpoint::Local(Local::Metrics) => Need::AsksPath("/metrics/snapshot"),
        Endpoint::Local(Local::Prometheus) => Need::AsksPath("/metrics/prometheus"),
        Endpoint::Local(Local::LoggingToggle) => Need::AsksPath("/logging/toggle"),
        // All that a master serves is its log; `/files/debug` is GET_ENDPOINT_WITH_PATH.
        Endpoint::Local(Local::Files) => Need::Asks(Action::AccessMesosLog),
        Endpoint::Read(Read::State) => Need::Filters(&[
            Action::ViewFramework,
            Action::ViewTask,
            Action::ViewExecutor,
            Action::ViewRole,
            Action::ViewFlags,
        ]),
        Endpoint::Read(Read::StateSummary) => {
            Need::Filters(&[Action::ViewFramework, Action::ViewTask, Action::ViewRole])
        }
        Endpoint::Read(Read::Slaves) => Need::Filters(&[Action::ViewRole]),
        Endpoint::Read(Read::AgentsAway) => Need::Nothing,
        Endpoint::Read(Read::Frameworks) => {
            Need::Filters(&[Action::ViewFramework, Action::ViewTask, Action::ViewExecutor])
        }
        Endpoint::Read(Read::Tasks) => Need::Filters(&[Action::ViewFramework, Action::ViewTask]),
        Endpoint::Read(Read::Roles | Read::Registry) => Need::Filters(&[Action::ViewRole]),
        Endpoint::Read(Read::Weights) if is_read => Need::Filters(&[Action::ViewRole]),
        Endpoint::Read(Read::Weights) => Need::Decides(&[Action::UpdateWeight]),
        Endpoint::Read(Read::Quota) if is_read => Need::Filters(&[Action::GetQuota]),
        Endpoint::Read(Read::Quota) => Need::Decides(&[Action::UpdateQuota]),
        Endpoint::Read(Read::MaintenanceSchedule) if is_read => Need::Filters(&[Action::GetMaintenanceSchedule]),
        Endpoint::Read(Read::MaintenanceSchedule) => Need::Decides(&[Action::UpdateMaintenanceSchedule]),
        Endpoint::Read(Read::MaintenanceStatus) => Need::Filters(&[Action::GetMaintenanceStatus]),
        Endpoint::Teardown => needs::master_call(Type::Teardown),
        Endpoint::Machines(maintenance::Change::Down) => needs::master_call(Type::StartMaintenance),
        Endpoint::Machines(maintenance::Change::Up) => needs::master_call(Type::StopMaintenance),
        Endpoint::Machines(maintenance::Change::Schedule) => needs::master_call(Type::UpdateMaintenanceSchedule),
        Endpoint::Operation(kind) => needs::master_call(*kind),
    }
}

/// What is refused to whoever may not have it. With lists in force flags are read by GET alone.
fn permit_local(local: Local, request: &Request, visitor: &Visitor) -> Result<(), Box<Response>> {
    if visitor.approver.is_in_force() && local == Local::Flags && request.method() != Method::GET {
        return Err(Box::new(api_http::method_not_allowed(GET, request.method())));
    }
    match need(&Endpoint::Local(local), request.method()) {
        Need::Asks(action) => visitor.ask(action, None),
        Need::AsksPath(path) => visitor.ask(Action::GetEndpointWithPath, Some(path)),
        Need::Nothing | Need::Decides(_) | Need::Filters(_) | Need::NotBuilt => Ok(()),
    }
}

/// 403 for whoever may not.
pub fn forbidden() -> Response {
    api_http::text(StatusCode::FORBIDDEN, "403 Forbidden.")
}

async fn answer_local(
    operators: &Arc<Operators>,
    local: Local,
    (query, rest): (&Query, &[String]),
    sight: Option<Arc<Sight>>,
) -> Response {
    match local {
        Local::Version => api_http::json_bytes(lists::version(&operators.about)),
        Local::Health => api_http::empty(StatusCode::OK),
        Local::Flags => api_http::json_bytes(lists::flags(&operators.about)),
        Local::Metrics => {
            if let Some(Err(sentence)) = query.get("timeout").map(api_http::parse_timeout) {
                return api_http::text(StatusCode::BAD_REQUEST, &sentence);
            }
            let about = operators.clone();
            operators.renderings.alone(JSON, move || super::metrics::json(&about.metrics(sight.as_deref()))).await
        }
        Local::Prometheus => {
            let about = operators.clone();
            let render = move || metrics::exposition(about.metrics(sight.as_deref())).into();
            operators.renderings.alone(metrics::PROMETHEUS, render).await
        }
        Local::LoggingToggle => api_http::toggle_log_level(query),
        Local::Help if rest == ["openapi.json"] => api_http::json(&super::openapi::told()),
        Local::Help => api_http::help(TOPICS, rest, query),
        Local::Processes => api_http::processes(TOPICS),
        Local::Profiler(asked) => {
            let answered = host::blocking(move || profiler::answer(asked)).await;
            answered.unwrap_or_else(|_| api_http::text(StatusCode::INTERNAL_SERVER_ERROR, "The profiler failed"))
        }
        Local::SystemStats => api_http::json(&api_http::Host::read().stats()),
        Local::Files => api_http::not_found(),
    }
}

/// Sandboxes are the agents'; a master has its log at most. Reading files blocks, so it is done elsewhere.
async fn files(operators: &Operators, rest: &[String], query: Query, visitor: &Visitor) -> Response {
    let debug = rest.first().is_some_and(|name| matches!(name.as_str(), "debug" | "debug.json"));
    if debug && let Err(refused) = visitor.ask(Action::GetEndpointWithPath, Some("/files/debug")) {
        return *refused;
    }
    // All that a master serves is its log.
    if !debug && !visitor.approver.approves(Action::AccessMesosLog, None) {
        let reason = visitor.reason(Action::AccessMesosLog, None);
        return reason.on(api_http::empty(StatusCode::FORBIDDEN));
    }
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
        None => Some(no_leader(&operators.context)),
    }
}

async fn answer_read(
    operators: &Arc<Operators>,
    read: Read,
    query: &Query,
    request: &Request,
    visitor: &Visitor,
) -> Response {
    let Ok(reading) = operators.context.reader.read(query.get("stale") == Some("true")).await else {
        return no_leader(&operators.context);
    };
    let now = (reading.state.clone(), reading.index);
    let response = answer_from(operators, read, query, request, now, visitor.approver.sight()).await;
    super::render::as_of(&reading, response)
}

async fn answer_from(
    operators: &Arc<Operators>,
    read: Read,
    query: &Query,
    request: &Request,
    (state, index): (Arc<State>, u64),
    sight: Option<Arc<Sight>>,
) -> Response {
    let packed = query.get("jsonp").is_none() && api_http::accepts_gzip(request.headers());
    let kind = match read {
        Read::State => Kind::State,
        Read::StateSummary => Kind::Summary,
        Read::Weights => return api_http::json_bytes(super::roles::weights_json(&shown(state, sight.as_deref()))),
        Read::Quota => {
            let state = shown(state, sight.as_deref());
            return api_http::json_bytes(api::json::to_vec(&super::roles::quota_status(&state)));
        }
        Read::MaintenanceSchedule => {
            return api_http::json_bytes(maintenance::schedule(&shown(state, sight.as_deref())));
        }
        Read::Registry => {
            return api_http::json(&registry::registry(&state, &operators.about.identity, sight.as_deref()));
        }
        Read::MaintenanceStatus => return api_http::json_bytes(maintenance::status(&shown(state, sight.as_deref()))),
        _ => Kind::List(read, request.uri().query().unwrap_or_default().to_owned()),
    };
    let (about, query, seeing) = (operators.clone(), query.clone(), sight.clone());
    let render = move || {
        let sight = seeing.as_deref();
        // What a role has is told whole to whoever may see the role.
        if read == Read::Roles {
            return super::roles::roles_json(&state, &about.context.roles.whitelist, sight);
        }
        let state = shown(state, sight);
        match read {
            Read::StateSummary => state::summary(&state, &about.about, sight),
            Read::Slaves => lists::agents(&state, query.get("slave_id"), sight),
            Read::AgentsAway => lists::agents_away(&state),
            Read::Frameworks => lists::frameworks(&state, query.get("framework_id")),
            Read::Tasks => lists::tasks(&state, &lists::TaskQuery::new(|name| query.get(name).map(str::to_owned))),
            _ => state::state(&state, &about.about, sight),
        }
    };
    operators.renderings.answer(Rendering { kind, packed, index, sight }, JSON, render).await
}

async fn teardown(operators: &Operators, request: Request, visitor: &Visitor) -> Response {
    let (parts, body) = request.into_parts();
    let body = match api_http::read_body(&parts.headers, body, SMALL_BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => return error.response(),
    };
    let form = match Query::decode(&String::from_utf8_lossy(&body)) {
        Ok(form) => form,
        Err(why) => return api_http::text(StatusCode::BAD_REQUEST, &why),
    };
    let Some(framework_id) = form.get("frameworkId") else {
        return api_http::text(StatusCode::BAD_REQUEST, "Missing 'frameworkId' query parameter in the request body");
    };
    let framework_id = v1::FrameworkId { value: framework_id.to_owned() };
    let mut call = v1::master::Call::default();
    call.set_type(v1::master::call::Type::Teardown);
    call.teardown = Some(v1::master::call::Teardown { framework_id });
    operators.change(Command::OperatorCall { call: Box::new(call) }, visitor).await
}

fn redirect(location: &str) -> Response {
    let mut response = api_http::empty(StatusCode::TEMPORARY_REDIRECT);
    match api_http::HeaderValue::from_str(location) {
        Ok(location) => drop(response.headers_mut().insert(header::LOCATION, location)),
        Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    response
}

/// 503 while nobody leads, with what stands in the way.
pub fn no_leader(context: &Context) -> Response {
    context.reader.no_leader()
}

/// 501 with a sentence.
pub fn not_built(sentence: &str) -> Response {
    api_http::text(StatusCode::NOT_IMPLEMENTED, sentence)
}
