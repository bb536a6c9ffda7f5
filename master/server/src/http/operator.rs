//! Operators: who watches and administers the cluster. `POST /api/v1` is served by every master from its own fold,
//! as of an index that the leader confirms; the version 0 endpoints are in [`super::legacy`].

pub mod check;
pub mod dry_run;
pub mod get;
pub mod messages;

use super::legacy::about::About;
use super::legacy::{self, Endpoint};
use super::metrics::{self, Counters, Metrics, Moment};
use super::own;
use super::render::{Kind, Rendering, Renderings, shown};
use super::roles;
use super::watch::Watch;
use super::{caller, decided_against};
use crate::context::{Context, Leader};
use crate::outcome::{Outcome, Refused};
use api::media::Media;
use api::v1;
use api::v1::master::call::Type;
use api::v1::master::{Call, response};
use api_http::{FileTable, FilesError, Query, Reason, Request, Response, Router, StatusCode, Visitor};
use auth::{Action, Need, Sight, needs};
use event_log::host;
use get::Read;
use master_core::command::Command;
use master_core::{Reply, view};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::time::Instant;

/// How long a request waits while nobody leads. Clients that do not back off would otherwise ask without end.
const ELECTION_PATIENCE: Duration = Duration::from_secs(5);

/// Everything that operators ask of this master. Made once, by [`Operators::start`].
pub struct Operators {
    /// What all handlers share.
    pub context: Arc<Context>,
    /// What this process tells about itself.
    pub about: About,
    /// Files that operators may read: the log of this master, if it writes one.
    pub files: FileTable,
    /// What this process counted.
    pub counters: Arc<Counters>,
    /// Big answers under way.
    pub renderings: Renderings,
    /// Operators who watch.
    pub watch: Arc<Watch>,
    /// What pages for people have beside State.
    pub(super) pages: super::ui::Pages,
    router: Router<Target>,
}

#[derive(Clone, Debug)]
enum Target {
    V1,
    Legacy(Endpoint, &'static [&'static str]),
    Own(own::Endpoint, &'static [&'static str]),
}

impl Operators {
    /// Begins to count and to tell watchers, from now on.
    pub fn start(context: Arc<Context>) -> Arc<Operators> {
        let counters = context.recent.counters.clone();
        let watch = Arc::new(Watch::new(context.recent.clone()));
        let start = context.started.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let about = About {
            identity: context.identity.clone(),
            hostname: context.address.hostname.clone(),
            address: std::net::SocketAddr::new(context.address.ip, context.address.port).to_string(),
            flags: context.flags.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            start_ms: u64::try_from(start.as_millis()).unwrap_or(u64::MAX),
            build: api_http::Build::of_this_program(),
        };
        let mut router = Router::new("master").at("/api/v1", Target::V1);
        for (path, methods, endpoint) in legacy::PATHS {
            router = router.at(path, Target::Legacy(endpoint.clone(), methods));
        }
        for (path, methods, endpoint) in own::PATHS {
            router = router.at(path, Target::Own(*endpoint, methods));
        }
        let files = FileTable::default();
        let written = || Some(std::path::Path::new(about.flag("log_dir")?).join(crate::flags::LOG_FILE));
        if let Some(log) = about.flag("external_log_file").map(std::path::PathBuf::from).or_else(written) {
            // A link to the newest of many, perhaps.
            files.attach("/master/log", std::fs::canonicalize(&log).unwrap_or(log));
        }
        let (renderings, pages) = (Renderings::default(), super::ui::Pages::default());
        Arc::new(Operators { context, about, files, counters, renderings, watch, pages, router })
    }

    /// Answers whatever is not for frameworks, agents or other masters: 404 for what nobody serves.
    pub async fn answer(self: &Arc<Self>, request: Request, visitor: &Visitor) -> Response {
        match self.router.find(request.uri().path()) {
            None => super::ui::from_root(&request).unwrap_or_else(api_http::not_found),
            Some((Target::V1, _)) => self.v1(request, visitor).await,
            Some((Target::Own(endpoint, _), rest)) if !rest.is_empty() && *endpoint != own::Endpoint::Pages => {
                api_http::not_found()
            }
            Some((Target::Own(endpoint, methods), rest)) => {
                own::answer(self, (*endpoint, methods), rest, request, visitor).await
            }
            Some((Target::Legacy(endpoint, methods), rest)) => {
                legacy::answer(self, (endpoint, methods), &rest, request, visitor).await
            }
        }
    }

    /// Who leads; waits for a while when nobody does. Whom this master has not heard of lately leads no more, or cannot be
    /// reached from here.
    pub async fn leader(&self) -> Option<Leader> {
        let until = Instant::now() + ELECTION_PATIENCE;
        loop {
            match self.context.reader.heard_leader() {
                None if Instant::now() < until => tokio::time::sleep(Duration::from_millis(50)).await,
                leader => return leader,
            }
        }
    }

    /// host:port of the leader as clients are told it.
    pub fn told(&self, leader: &Leader) -> String {
        self.context.identity.told(&self.context.reader.state().0, &leader.address)
    }

    /// What is counted and measured now. Walks over everything there is: not for a thread that serves.
    pub fn metrics(&self, sight: Option<&Sight>) -> Metrics {
        let moment = Moment {
            elected: self.context.reader.leader().is_some_and(|leader| leader.is_me),
            uptime: self.context.started.1.elapsed(),
            watchers: self.watch.watchers(),
            shared: self.renderings.shared(),
            of_frameworks: self.context.of_frameworks,
            work_dir: (!host::is_simulated()).then_some(self.context.work_dir.as_path()),
            term: self.context.node.status().borrow().term,
            opened: self.context.opened,
            waiting: self.context.reader.submitter.waiting(),
            streams: self.context.streams.count(),
            agents: self.context.agents.count(),
            connections: &self.context.connections,
        };
        let (state, _) = self.context.reader.state();
        let mut metrics = metrics::snapshot(&state, &self.counters, moment);
        metrics.append(&mut self.context.allocations.metrics(&state, &self.context.allocator));
        self.context.throttle.metrics(&state, &mut |name, value| {
            metrics.insert(name.to_owned(), value);
        });
        metrics.insert("master/meseta/requests_not_let_in".to_owned(), self.context.admission.refused() as f64);
        metrics.insert("master/meseta/requests_forbidden".to_owned(), self.context.admission.forbidden() as f64);
        let not_noted = self.context.admission.audit().left_out() as f64;
        metrics.insert("master/meseta/refusals_not_noted".to_owned(), not_noted);
        if let Some((exported, dropped)) = self.context.tracer.counts() {
            metrics.insert("master/meseta/spans_exported".to_owned(), exported as f64);
            metrics.insert("master/meseta/spans_dropped".to_owned(), dropped as f64);
        }
        if let Some(sight) = sight {
            metrics::hide(&mut metrics, &state, sight);
        }
        metrics
    }

    /// Has an operator's call decided and answers when that is committed.
    pub async fn decide(&self, call: Call, visitor: &Visitor) -> Response {
        self.change(Command::OperatorCall { call: Box::new(call) }, visitor).await
    }

    /// The same; a refusal is told in other words.
    pub async fn decide_saying(&self, call: Call, visitor: &Visitor, say: impl FnOnce(String) -> String) -> Response {
        match self.submit(Command::OperatorCall { call: Box::new(call) }, visitor).await {
            Outcome::Refused(reason) => decided_against(&Refused { message: say(reason.message), ..reason }),
            outcome => self.told_of(outcome, StatusCode::OK),
        }
    }

    /// Has a change decided and answers when it is committed.
    pub async fn change(&self, command: Command, visitor: &Visitor) -> Response {
        // Its agent makes it so in its own time.
        let is_operation = matches!(&command, Command::OperatorCall { call } if is_operation(call.r#type()));
        let done = if is_operation { StatusCode::ACCEPTED } else { StatusCode::OK };
        self.told_of(self.submit(command, visitor).await, done)
    }

    /// Waits for this master's cluster first: a new one is about to raise what it can do.
    async fn submit(&self, command: Command, visitor: &Visitor) -> Outcome {
        match self.context.wait_ready().await {
            true => self.context.reader.submit(command, caller(visitor)).await,
            false => Outcome::Untried,
        }
    }

    pub(super) fn told_of(&self, outcome: Outcome, done: StatusCode) -> Response {
        match outcome {
            Outcome::Done { reply: Reply::Refused(refusal), .. } => decided_against(&refusal.into()),
            Outcome::Done { .. } => api_http::empty(done),
            Outcome::Refused(reason) => decided_against(&reason),
            Outcome::Untried => legacy::no_leader(&self.context),
            Outcome::Unknown => api_http::text(
                StatusCode::SERVICE_UNAVAILABLE,
                "It is not known whether this was done: the leader changed meanwhile, try again",
            ),
            Outcome::Crashed => api_http::text(StatusCode::INTERNAL_SERVER_ERROR, "The call could not be decided"),
        }
    }

    async fn v1(self: &Arc<Self>, request: Request, visitor: &Visitor) -> Response {
        if !self.context.wait_ready().await {
            return super::not_ready(&self.context);
        }
        if request.method() != api_http::Method::POST {
            return api_http::method_not_allowed(&["POST"], request.method());
        }
        let (parts, body) = request.into_parts();
        let sent = match check::request_media(&parts.headers) {
            Ok(media) => media,
            Err(response) => return *response,
        };
        let mut body = match api_http::read_body(&parts.headers, body, api_http::BODY_BYTES_MAX).await {
            Ok(body) => body,
            Err(error) => return error.response(),
        };
        let (call, media) = match check::call(body.decode(sent).await, &parts.headers) {
            // Large, and held while it is decided.
            Ok((call, media)) => (Box::new(call), media),
            Err(response) => return *response,
        };
        if call.r#type() == Type::Subscribe {
            return match check::position(&call, &parts) {
                Ok(after) => {
                    let sight = visitor.approver.sight();
                    self.watch.subscribe((&self.context.reader, &self.renderings), media, after, sight).await
                }
                Err(response) => *response,
            };
        }
        let packed = api_http::accepts_gzip(&parts.headers);
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let stale = query.get("stale") == Some("true");
        match dry_run::is_wanted(&query) {
            Ok(false) => self.call(call, media, (packed, stale), visitor).await,
            Ok(true) if is_change(&call) => dry_run::answer(self, call, stale, visitor).await,
            Ok(true) => api_http::text(StatusCode::BAD_REQUEST, "Only calls that change something have a dry run"),
            Err(response) => *response,
        }
    }

    /// `packed`: the client takes gzip. `stale`: what this master has is good enough for a read.
    async fn call(
        self: &Arc<Self>,
        call: Box<Call>,
        media: Media,
        (packed, stale): (bool, bool),
        visitor: &Visitor,
    ) -> Response {
        if let Err(mut reason) = may(visitor, call.r#type()) {
            reason.call = Some(call.r#type().as_str_name());
            let is_file = matches!(call.r#type(), Type::ListFiles | Type::ReadFile);
            return reason.on(if is_file { api_http::empty(StatusCode::FORBIDDEN) } else { legacy::forbidden() });
        }
        let sight = visitor.approver.sight();
        let read = match call.r#type() {
            Type::GetState => Read::State,
            Type::GetTasks => Read::Tasks,
            Type::GetExecutors => Read::Executors,
            Type::GetFrameworks => Read::Frameworks,
            Type::GetAgents => Read::Agents,
            Type::GetOperations => Read::Operations,
            Type::ListFiles | Type::ReadFile => return self.read_files(call, media).await,
            Type::GetRoles => return self.roles(media, (packed, stale), sight).await,
            Type::GetMaintenanceStatus | Type::GetMaintenanceSchedule => {
                return self.maintenance(call.r#type(), media, stale, sight).await;
            }
            Type::GetQuota => return self.configured(response::Type::GetQuota, media, stale, sight).await,
            Type::GetWeights => return self.configured(response::Type::GetWeights, media, stale, sight).await,
            Type::GetMaster => return self.leading_master(media, stale).await,
            Type::GetMetrics if call.get_metrics.is_some() => {
                let about = self.clone();
                let render = move || media.encode(&about.metrics_message(sight.as_deref())).into();
                return self.renderings.alone(media.content_type(), render).await;
            }
            Type::SetLoggingLevel => {
                let wanted = call.set_logging_level.unwrap_or_default();
                let duration = u64::try_from(wanted.duration.nanoseconds).unwrap_or(0);
                api_http::set_log_level(wanted.level, Duration::from_nanos(duration));
                return api_http::empty(StatusCode::OK);
            }
            other => {
                return match self.known(other) {
                    Some(answer) => encoded(media, &answer),
                    None => self.change(Command::OperatorCall { call }, visitor).await,
                };
            }
        };
        let Ok(reading) = self.context.reader.read(stale).await else { return legacy::no_leader(&self.context) };
        let (state, index, seeing) = (reading.state.clone(), reading.index, sight.clone());
        let response = match media {
            Media::Json => {
                let wanted = Rendering { kind: Kind::Json(read), packed, index, sight };
                self.renderings
                    .answer(wanted, media.content_type(), move || {
                        let sight = seeing.as_deref();
                        get::json(&shown(state, sight), read, sight)
                    })
                    .await
            }
            Media::Protobuf => {
                let wanted = Rendering { kind: Kind::Protobuf(read), packed, index, sight };
                let render = move || {
                    let sight = seeing.as_deref();
                    prost::Message::encode_to_vec(&get::message(&shown(state, sight), read, sight))
                };
                self.renderings.answer(wanted, media.content_type(), render).await
            }
        };
        super::render::as_of(&reading, response)
    }

    /// Answers that need no State, or say that there is nothing of the kind.
    fn known(&self, call_type: Type) -> Option<v1::master::Response> {
        let mut answer = v1::master::Response::default();
        let kind = match call_type {
            Type::GetHealth => {
                answer.get_health = Some(response::GetHealth { healthy: true });
                response::Type::GetHealth
            }
            Type::GetVersion => {
                answer.get_version = Some(response::GetVersion { version_info: self.version() });
                response::Type::GetVersion
            }
            Type::GetFlags => {
                let flags = self.about.flags.iter();
                let flags = flags.map(|(name, value)| v1::Flag { name: name.clone(), value: Some(value.clone()) });
                answer.get_flags = Some(response::GetFlags { flags: flags.collect() });
                response::Type::GetFlags
            }
            Type::GetLoggingLevel => {
                answer.get_logging_level = Some(response::GetLoggingLevel { level: api_http::log_level() });
                response::Type::GetLoggingLevel
            }
            _ => return None,
        };
        answer.set_type(kind);
        Some(answer)
    }

    fn version(&self) -> v1::VersionInfo {
        self.about.build.version_info()
    }

    fn metrics_message(&self, sight: Option<&Sight>) -> v1::master::Response {
        let metrics = self.metrics(sight).into_iter().map(|(name, value)| v1::Metric { name, value: Some(value) });
        let get_metrics = Some(response::GetMetrics { metrics: metrics.collect() });
        let mut answer = v1::master::Response { get_metrics, ..Default::default() };
        answer.set_type(response::Type::GetMetrics);
        answer
    }

    async fn roles(&self, media: Media, (packed, stale): (bool, bool), sight: Option<Arc<Sight>>) -> Response {
        let Ok(reading) = self.context.reader.read(stale).await else { return legacy::no_leader(&self.context) };
        let state = reading.state.clone();
        let whitelist = self.context.roles.whitelist.clone();
        let seeing = sight.clone();
        let wanted = Rendering { kind: Kind::Roles(media == Media::Json), packed, index: reading.index, sight };
        let render = move || {
            let mut answer = v1::master::Response::default();
            answer.set_type(response::Type::GetRoles);
            answer.get_roles = Some(roles::get_roles(&state, &whitelist, seeing.as_deref()));
            media.encode(&answer).into()
        };
        let response = self.renderings.answer(wanted, media.content_type(), render).await;
        super::render::as_of(&reading, response)
    }

    async fn maintenance(&self, kind: Type, media: Media, stale: bool, sight: Option<Arc<Sight>>) -> Response {
        let Ok(reading) = self.context.reader.read(stale).await else { return legacy::no_leader(&self.context) };
        let state = shown(reading.state.clone(), sight.as_deref());
        let mut answer = v1::master::Response::default();
        if kind == Type::GetMaintenanceStatus {
            answer.set_type(response::Type::GetMaintenanceStatus);
            let status = view::maintenance_status(&state);
            answer.get_maintenance_status = Some(response::GetMaintenanceStatus { status });
        } else {
            answer.set_type(response::Type::GetMaintenanceSchedule);
            let schedule = view::maintenance_schedule(&state);
            answer.get_maintenance_schedule = Some(response::GetMaintenanceSchedule { schedule });
        }
        super::render::as_of(&reading, encoded(media, &answer))
    }

    /// What operators said about roles.
    async fn configured(&self, kind: response::Type, media: Media, stale: bool, sight: Option<Arc<Sight>>) -> Response {
        let Ok(reading) = self.context.reader.read(stale).await else { return legacy::no_leader(&self.context) };
        let state = shown(reading.state.clone(), sight.as_deref());
        super::render::as_of(&reading, encoded(media, &roles::answer(&state, kind)))
    }

    async fn leading_master(&self, media: Media, stale: bool) -> Response {
        let Ok(reading) = self.context.reader.read(stale).await else { return legacy::no_leader(&self.context) };
        let state = &reading.state;
        let mut answer = v1::master::Response::default();
        answer.set_type(response::Type::GetMaster);
        // Clients ask for the leading master, whichever they reach.
        let leader = state.leader.as_ref().map_or(self.about.identity.node(), |leader| leader.master.node);
        let started = state.masters.get(&leader).map(|master| master.started_ms as f64 / 1000.0);
        answer.get_master = Some(response::GetMaster {
            master_info: self.about.identity.master_info(state, leader),
            start_time: started,
            elected_time: state.leader.as_ref().map(|leader| leader.since_ms as f64 / 1000.0),
        });
        super::render::as_of(&reading, encoded(media, &answer))
    }

    /// LIST_FILES and READ_FILE. Reading blocks, so it is done elsewhere.
    async fn read_files(&self, call: Box<Call>, media: Media) -> Response {
        let table = self.files.clone();
        let read = host::blocking(move || -> Result<v1::master::Response, FilesError> {
            let mut answer = v1::master::Response::default();
            if let Some(list) = call.list_files {
                let entries = table.list(&list.path)?;
                answer.set_type(response::Type::ListFiles);
                answer.list_files = Some(response::ListFiles { file_infos: entries.into_iter().map(file).collect() });
            } else if let Some(read) = call.read_file {
                let length = read.length.and_then(|length| usize::try_from(length).ok());
                let (data, size) = table.read(&read.path, read.offset, length)?;
                answer.set_type(response::Type::ReadFile);
                answer.read_file = Some(response::ReadFile { size, data: data.into() });
            }
            Ok(answer)
        });
        match read.await {
            Ok(Ok(answer)) => encoded(media, &answer),
            Ok(Err(error)) => error.response(),
            Err(_) => api_http::text(StatusCode::INTERNAL_SERVER_ERROR, "The file could not be read"),
        }
    }
}

/// Whether a call may be answered at all; what it answers is made of what may be seen, and what it changes is asked for
/// where it is decided.
fn may(visitor: &Visitor, kind: Type) -> Result<(), Reason> {
    let (action, object) = match needs::master_call(kind) {
        Need::Asks(action) => (action, None),
        Need::AsksPath(path) => (Action::GetEndpointWithPath, Some(path)),
        Need::Nothing | Need::Decides(_) | Need::Filters(_) | Need::NotBuilt => return Ok(()),
    };
    if visitor.approver.approves(action, object) { Ok(()) } else { Err(visitor.reason(action, object)) }
}

/// Whether masters decide it.
fn is_change(call: &Call) -> bool {
    let name = call.r#type().as_str_name();
    !name.starts_with("GET_") && !matches!(name, "LIST_FILES" | "READ_FILE" | "SET_LOGGING_LEVEL" | "SUBSCRIBE")
}

/// Whether a call turns resources of an agent into others.
fn is_operation(kind: Type) -> bool {
    matches!(
        kind,
        Type::ReserveResources
            | Type::UnreserveResources
            | Type::CreateVolumes
            | Type::DestroyVolumes
            | Type::GrowVolume
            | Type::ShrinkVolume
    )
}

fn file(entry: api_http::FileEntry) -> v1::FileInfo {
    v1::FileInfo {
        path: entry.path,
        nlink: i32::try_from(entry.nlink).ok(),
        size: Some(entry.size),
        mtime: Some(v1::TimeInfo { nanoseconds: entry.mtime_secs.saturating_mul(1_000_000_000) }),
        mode: Some(entry.mode),
        uid: Some(entry.user),
        gid: Some(entry.group),
    }
}

fn encoded(media: Media, answer: &v1::master::Response) -> Response {
    api_http::bytes(StatusCode::OK, media.content_type(), media.encode(answer))
}
