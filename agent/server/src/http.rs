//! The agent's endpoints.

use profiler::Act;
use std::net::SocketAddr;
use std::sync::Arc;

use api_http::{
    Asked, CHALLENGE_PATH, Query, Request, Response, Router, StatusCode, Topic, Visitor, method_not_allowed, not_found,
    read_body,
};
use auth::{Action, Realm};

use crate::agent::Agent;
use crate::{attach, executors, files, permit, providers, reads, v1_calls};

#[derive(Clone, Copy, Debug)]
enum Endpoint {
    Api,
    Executor,
    ResourceProvider,
    State,
    Flags,
    Health,
    Version,
    Metrics,
    Prometheus,
    Containers,
    Statistics,
    ContainerizerDebug,
    Files,
    LoggingToggle,
    SystemStats,
    Help,
    Processes,
    Profiler(Act),
    Audit,
    Process,
    /// These two are for masters, and have a door of their own.
    Challenge,
    FilesForMasters,
}

fn router() -> Router<Endpoint> {
    Router::new("slave(1)")
        .at("/api/v1", Endpoint::Api)
        .at("/api/v1/executor", Endpoint::Executor)
        .at("/api/v1/resource_provider", Endpoint::ResourceProvider)
        .at("/state", Endpoint::State)
        .at("/state.json", Endpoint::State)
        .at("/flags", Endpoint::Flags)
        .at("/health", Endpoint::Health)
        .at("/version", Endpoint::Version)
        .at("/metrics/snapshot", Endpoint::Metrics)
        .at("/metrics/prometheus", Endpoint::Prometheus)
        .at("/containers", Endpoint::Containers)
        .at("/monitor/statistics", Endpoint::Statistics)
        .at("/monitor/statistics.json", Endpoint::Statistics)
        .at("/containerizer/debug", Endpoint::ContainerizerDebug)
        .at("/files", Endpoint::Files)
        .at(CHALLENGE_PATH, Endpoint::Challenge)
        .at(files::PATH, Endpoint::FilesForMasters)
        .at("/logging/toggle", Endpoint::LoggingToggle)
        .at("/system/stats.json", Endpoint::SystemStats)
        .at("/help", Endpoint::Help)
        .at("/__processes__", Endpoint::Processes)
        .at("/profiler/start", Endpoint::Profiler(Act::Start))
        .at("/profiler/stop", Endpoint::Profiler(Act::Stop))
        .at("/audit", Endpoint::Audit)
        .at("/process", Endpoint::Process)
}

thread_local! {
    static ROUTER: Router<Endpoint> = router();
}

/// What `/help` tells of this agent's own.
const TOPICS: &[Topic] = &[
    topic("/api/v1", "Calls of operators, by POST."),
    topic("/api/v1/executor", "Calls of executors and the stream of their events, by POST."),
    topic("/api/v1/resource_provider", "Calls of resource providers and the stream of their events, by POST."),
    topic("/audit", "Who was refused what: since (ms since 1970), principal, limit."),
    topic("/containerizer/debug", "What containers wait for."),
    topic("/containers", "Containers with what they use: container_id, or framework_id and executor_id."),
    topic("/flags", "The flags in force."),
    topic("/health", "200 as long as this process answers."),
    topic("/monitor/statistics", "What executors use."),
    topic("/process", "What this process takes, and what its threads do."),
    topic("/state", "Everything: frameworks, executors, tasks, resources."),
];

const fn topic(name: &'static str, text: &'static str) -> Topic {
    Topic { process: "slave(1)", name, text }
}

/// What an agent is asked and answers, as OpenAPI describes it.
fn openapi() -> serde_json::Value {
    use api::openapi::{Calls, Endpoint, Schemas, document};
    const GET: &[&str] = &["GET"];
    const PATHS: &[(&str, &[&str])] = &[
        ("/state", &["jsonp"]),
        ("/flags", &["jsonp"]),
        ("/health", &[]),
        ("/version", &["jsonp"]),
        ("/metrics/snapshot", &["timeout", "jsonp"]),
        ("/metrics/prometheus", &[]),
        ("/containers", &["container_id", "framework_id", "executor_id", "show_nested", "show_standalone", "jsonp"]),
        ("/monitor/statistics", &["jsonp"]),
        ("/containerizer/debug", &["jsonp"]),
        ("/files/browse", &["path", "jsonp"]),
        ("/files/read", &["path", "offset", "length", "jsonp"]),
        ("/files/download", &["path"]),
        ("/files/debug", &["jsonp"]),
        ("/logging/toggle", &["level", "duration"]),
        ("/system/stats.json", &["jsonp"]),
        ("/help", &["format"]),
        ("/__processes__", &[]),
        ("/audit", &["since", "principal", "limit"]),
        ("/process", &[]),
    ];
    let mut schemas = Schemas::default();
    let calls = [
        Calls {
            path: "/api/v1",
            body: schemas.calls::<api::v1::agent::Call>("Agent"),
            answer: schemas.of::<api::v1::agent::Response>("Agent"),
        },
        Calls {
            path: "/api/v1/executor",
            body: schemas.calls::<api::v1::executor::Call>("Executor"),
            answer: schemas.of::<api::v1::executor::Event>("Executor"),
        },
        Calls {
            path: "/api/v1/resource_provider",
            body: schemas.calls::<api::v1::resource_provider::Call>("ResourceProvider"),
            answer: schemas.of::<api::v1::resource_provider::Event>("ResourceProvider"),
        },
    ];
    let endpoint =
        |(path, parameters): &(&'static str, &'static [&'static str])| Endpoint { path, methods: GET, parameters };
    let endpoints: Vec<Endpoint> = PATHS.iter().map(endpoint).collect();
    document("Meseta agent", env!("CARGO_PKG_VERSION"), &endpoints, &calls, schemas)
}

/// Who is asked for what; None: everybody is told.
fn realm(endpoint: Endpoint) -> Option<Realm> {
    match endpoint {
        Endpoint::Challenge | Endpoint::FilesForMasters => None,
        Endpoint::Health | Endpoint::Version | Endpoint::SystemStats | Endpoint::Help | Endpoint::Processes => None,
        Endpoint::Api | Endpoint::ResourceProvider | Endpoint::LoggingToggle | Endpoint::Profiler(_) => {
            Some(Realm::AgentReadwrite)
        }
        Endpoint::Executor => Some(Realm::AgentExecutor),
        Endpoint::State
        | Endpoint::Flags
        | Endpoint::Metrics
        | Endpoint::Prometheus
        | Endpoint::Containers
        | Endpoint::Statistics
        | Endpoint::ContainerizerDebug
        | Endpoint::Audit
        | Endpoint::Process
        | Endpoint::Files => Some(Realm::AgentReadonly),
    }
}

/// Whether a visitor may have an endpoint; what it shows is made of what they see. `rest` and `query` say of which file.
fn permit_endpoint(
    agent: &Agent,
    endpoint: Endpoint,
    visitor: &Visitor,
    rest: &[String],
    query: &Query,
) -> Result<(), Box<Response>> {
    let of_path = |path| visitor.ask(Action::GetEndpointWithPath, Some(path));
    match endpoint {
        Endpoint::Flags | Endpoint::Process => visitor.ask(Action::ViewFlags, None),
        Endpoint::Audit => visitor.ask(Action::AccessMesosLog, None),
        Endpoint::Metrics => of_path("/metrics/snapshot"),
        Endpoint::Prometheus => of_path("/metrics/prometheus"),
        Endpoint::Containers => of_path("/containers"),
        Endpoint::Statistics => of_path("/monitor/statistics"),
        Endpoint::ContainerizerDebug => of_path("/containerizer/debug"),
        Endpoint::LoggingToggle => of_path("/logging/toggle"),
        Endpoint::Profiler(Act::Start) => of_path("/profiler/start"),
        Endpoint::Profiler(Act::Stop) => of_path("/profiler/stop"),
        Endpoint::Files => match rest.first().map(String::as_str) {
            Some("debug" | "debug.json") => of_path("/files/debug"),
            _ => query.get("path").map_or(Ok(()), |path| permit::file(agent, visitor, path)),
        },
        // Calls are asked for one by one.
        Endpoint::Api | Endpoint::Executor | Endpoint::ResourceProvider => Ok(()),
        Endpoint::State
        | Endpoint::Health
        | Endpoint::Version
        | Endpoint::SystemStats
        | Endpoint::Help
        | Endpoint::Processes
        | Endpoint::Challenge
        | Endpoint::FilesForMasters => Ok(()),
    }
}

/// Answers a request that came through the executors' socket: what executors ask for, and nothing else.
pub(crate) async fn answer_executor(agent: Arc<Agent>, request: Request, peer: SocketAddr) -> Response {
    let found = ROUTER.with(|router| router.find(request.uri().path()).map(|(endpoint, _)| *endpoint));
    match found {
        Some(Endpoint::Api | Endpoint::Executor) => answer(agent, request, peer).await,
        _ => api_http::text(StatusCode::FORBIDDEN, "Only /api/v1 and /api/v1/executor are served through this socket"),
    }
}

/// Answers a request of `peer`.
pub(crate) async fn answer(agent: Arc<Agent>, request: Request, peer: SocketAddr) -> Response {
    let mut asked = Asked::new(&request, peer);
    let response = answer_one(agent.clone(), request, peer, &mut asked).await;
    agent.config.admission.note(&asked, &response);
    response
}

async fn answer_one(agent: Arc<Agent>, request: Request, peer: SocketAddr, asked: &mut Asked) -> Response {
    let found = ROUTER.with(|router| router.find(request.uri().path()).map(|(endpoint, rest)| (*endpoint, rest)));
    let Some((endpoint, rest)) = found else { return not_found() };
    if matches!(endpoint, Endpoint::Challenge | Endpoint::FilesForMasters) {
        return match endpoint {
            _ if request.method() != "POST" => method_not_allowed(&["POST"], request.method()),
            Endpoint::Challenge => agent.config.door.challenge(),
            _ => files::answer(agent, request, peer).await,
        };
    }
    let visitor = match agent.config.admission.admit(realm(endpoint), &request, peer).await {
        Ok(visitor) => visitor,
        Err(refused) => return *refused,
    };
    asked.by(&visitor);
    let query = visitor.query(&request);
    if let Err(refused) = permit_endpoint(&agent, endpoint, &visitor, &rest, &query) {
        return *refused;
    }
    let is_call = matches!(endpoint, Endpoint::Api | Endpoint::Executor | Endpoint::ResourceProvider);
    if is_call && request.method() != "POST" {
        return method_not_allowed(&["POST"], request.method());
    }
    let (parts, body) = request.into_parts();
    if is_call {
        if matches!(endpoint, Endpoint::Api) && attach::is_stream(&parts.headers) {
            return attach::input(&agent, &parts.headers, body, &visitor).await;
        }
        let mut body = match read_body(&parts.headers, body, api_http::BODY_BYTES_MAX).await {
            Ok(body) => body,
            Err(error) => return error.response(),
        };
        return match endpoint {
            Endpoint::Executor => executors::answer(&agent, &parts.headers, &mut body, &visitor).await,
            Endpoint::Api => v1_calls::answer(&agent, &parts.headers, &mut body, &visitor).await,
            _ => providers::answer(&agent, &parts.headers, &mut body, &visitor).await,
        };
    }
    match endpoint {
        // What is to end after a while is begun inside of the runtime.
        Endpoint::LoggingToggle => return api_http::toggle_log_level(&query),
        Endpoint::Help if rest == ["openapi.json"] => return api_http::json(&openapi()),
        Endpoint::Help => return api_http::help(TOPICS, &rest, &query),
        Endpoint::Processes => return api_http::processes(TOPICS),
        _ => {}
    }
    let answered = event_log::host::blocking(move || {
        let response = match endpoint {
            Endpoint::Files => {
                let endpoint = rest.first().map_or("", String::as_str);
                return agent.files.answer(endpoint, &query).unwrap_or_else(not_found);
            }
            Endpoint::Health => return api_http::empty(StatusCode::OK),
            Endpoint::Profiler(asked) => return profiler::answer(asked),
            Endpoint::State => api_http::json_bytes(reads::state(&agent, &visitor)),
            Endpoint::Flags => api_http::json(&serde_json::json!({ "flags": reads::flags(&agent) })),
            Endpoint::Version => api_http::json(&reads::version()),
            Endpoint::Metrics if let Some(Err(sentence)) = query.get("timeout").map(api_http::parse_timeout) => {
                return api_http::text(StatusCode::BAD_REQUEST, &sentence);
            }
            Endpoint::Metrics => api_http::json(&reads::metrics(&agent).into_iter().collect()),
            Endpoint::Prometheus => {
                let numbers = reads::metrics(&agent).into_iter();
                let numbers = numbers.filter_map(|(name, value)| Some((name, value.as_f64()?)));
                let text = api_http::metrics::exposition(numbers);
                return api_http::bytes(StatusCode::OK, api_http::metrics::PROMETHEUS, text);
            }
            // Nothing is pending without a container to wait for, and those are in `/containers`.
            Endpoint::ContainerizerDebug => api_http::json(&serde_json::json!({ "pending": [] })),
            Endpoint::SystemStats => api_http::json(&api_http::Host::read().stats()),
            Endpoint::Process => api_http::json(&api_http::vitals()),
            Endpoint::Audit => match api_http::Wanted::read(&query) {
                Ok(wanted) => api_http::json(&agent.config.admission.audit().told(&wanted)),
                Err(sentence) => return api_http::text(StatusCode::BAD_REQUEST, &sentence),
            },
            Endpoint::Containers => api_http::json(&reads::containers(&agent, &query, &visitor)),
            _ => api_http::json(&reads::statistics(&agent)),
        };
        api_http::jsonp(response, query.get("jsonp"))
    });
    answered.await.unwrap_or_else(|_| api_http::text(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error."))
}
