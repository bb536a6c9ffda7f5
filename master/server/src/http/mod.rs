//! Everything on the one port: frameworks, operators, agents, and the other masters.

pub(crate) mod agent;
pub(crate) mod internal;
pub mod legacy;
mod masters;
pub mod metrics;
pub mod needs;
mod openapi;
pub mod operator;
pub mod own;
pub mod render;
pub mod roles;
pub(crate) mod scheduler;
mod snapshot;
mod ui;
pub mod watch;

#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
mod shapes;

use crate::context::{Context, START_PATIENCE};
use crate::outcome::Refused;
use api::limits::{MASTERS_BODY_BYTES_MAX, PEER_BYTES_MAX};
use api_http::{Admission, Asked, CHALLENGE_PATH, Carries, Door, For, Request, Response, Router, StatusCode, Visitor};
use auth::{Approver, Realm};
use master_core::Caller;
use operator::Operators;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::SetOnce;

/// What clients hear while a master starts.
const RECOVERING: &str = "Master has not finished recovery";

/// The port's table of contents.
pub struct Server {
    router: Router<Target>,
    /// Who is asked for what, by path: all that the operators' router knows, so that the two agree.
    realms: Router<Option<Realm>>,
    door: Door,
    admission: Arc<Admission>,
    /// Set when the log is open; before that there is nothing to serve from.
    served: SetOnce<(Arc<Context>, Arc<Operators>)>,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    Scheduler,
    Challenge,
    Agent,
    Raft,
    Submit,
    Deliver,
    Hello,
    Digest,
    Masters,
    Snapshot,
    Audit,
    /// What the operators' router knows better.
    Operators,
    Health,
}

impl Default for Server {
    /// Whose inner endpoints are for its own machine.
    fn default() -> Server {
        Server::new(Door::default(), Arc::default())
    }
}

impl Target {
    /// What comes with a request of the cluster's own members, operators included; None of an endpoint for everybody.
    fn inner(self) -> Option<Carries> {
        match self {
            Target::Agent => Some(Carries::Stream),
            Target::Raft | Target::Submit | Target::Deliver => Some(Carries::Body(PEER_BYTES_MAX)),
            Target::Hello | Target::Digest | Target::Masters | Target::Snapshot | Target::Audit => {
                Some(Carries::Body(MASTERS_BODY_BYTES_MAX))
            }
            Target::Scheduler | Target::Challenge | Target::Operators | Target::Health => None,
        }
    }

    /// What may be asked of our own endpoints; empty where Mesos says what is answered. Masters post what they ask of
    /// each other, the digest too, which people get.
    fn methods(self) -> &'static [&'static str] {
        match self {
            Target::Digest => &["GET", "POST"],
            Target::Snapshot => &["GET"],
            Target::Scheduler | Target::Operators | Target::Health => &[],
            _ => &["POST"],
        }
    }
}

impl Server {
    /// Answers that this master has not started yet. Whoever uses the inner endpoints comes through `door`, everybody
    /// else through `admission`.
    pub fn new(door: Door, admission: Arc<Admission>) -> Server {
        let router = Router::new("master")
            .at("/api/v1", Target::Operators)
            .at("/api/v1/scheduler", Target::Scheduler)
            .at("/health", Target::Health)
            .at(CHALLENGE_PATH, Target::Challenge)
            .at("/meseta/agent", Target::Agent)
            .at("/meseta/raft", Target::Raft)
            .at("/meseta/submit", Target::Submit)
            .at("/meseta/deliver", Target::Deliver)
            .at("/meseta/hello", Target::Hello)
            .at("/meseta/digest", Target::Digest)
            .at("/meseta/masters", Target::Masters)
            .at("/meseta/snapshot", Target::Snapshot)
            .at(own::audit::PATH, Target::Audit);
        let mut realms = Router::new("master")
            .at("/api/v1", Some(Realm::MasterReadwrite))
            .at("/api/v1/scheduler", Some(Realm::MasterScheduler));
        for (path, _, endpoint) in legacy::PATHS {
            realms = realms.at(path, legacy::realm(endpoint));
        }
        for (path, _, endpoint) in own::PATHS {
            realms = realms.at(path, Some(own::realm(*endpoint)));
        }
        Server { router, realms, door, admission, served: SetOnce::new() }
    }

    /// From now on requests are answered from `context`.
    pub(crate) fn open(&self, context: Arc<Context>) {
        let operators = Operators::start(context.clone());
        // Opened once; a second opening would change nothing.
        let _ = self.served.set((context, operators));
    }

    /// Answers one request of `peer`.
    pub async fn answer(&self, request: Request, peer: SocketAddr) -> Response {
        let target = self.router.find(request.uri().path()).map_or(Target::Operators, |(target, _)| *target);
        let mut asked = Asked::new(&request, peer);
        if let Some(carries) = target.inner() {
            // Whoever knows the cluster's secret is one of us.
            let visitor = Visitor { principal: None, peer, approver: Approver::default() };
            let whom = if matches!(target, Target::Agent) { For::Agents } else { For::Masters };
            let response = match self.door.admit(request, peer, carries, whom).await {
                Ok((request, seal)) if whom == For::Agents => seal.answer(self.agent(request, peer).await),
                Ok((request, seal)) => seal.answer(self.serve(target, request, visitor).await),
                Err(refused) => refused,
            };
            self.admission.note(&asked, &response);
            return response;
        }
        let realm = self.realms.find(request.uri().path()).and_then(|(realm, _)| *realm);
        let response = match self.admission.admit(realm, &request, peer).await {
            // A token says what it is good for, and not who holds it.
            Ok(visitor) if visitor.has_claims_alone() => api_http::text(StatusCode::FORBIDDEN, "403 Forbidden."),
            Ok(visitor) => {
                asked.by(&visitor);
                self.serve(target, request, visitor).await
            }
            Err(refused) => *refused,
        };
        self.admission.note(&asked, &response);
        response
    }

    /// An agent that came through the inner door says who it is, if agents are asked.
    async fn agent(&self, request: Request, peer: SocketAddr) -> Response {
        match self.admission.admit(Some(Realm::MasterAgent), &request, peer).await {
            Ok(visitor) if visitor.has_claims_alone() => api_http::text(StatusCode::FORBIDDEN, "403 Forbidden."),
            Ok(visitor) => self.serve(Target::Agent, request, visitor).await,
            Err(refused) => *refused,
        }
    }

    /// Who is let in, and what they may.
    pub(crate) fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    async fn serve(&self, target: Target, request: Request, visitor: Visitor) -> Response {
        let methods = target.methods();
        if !methods.is_empty() && !methods.contains(&request.method().as_str()) {
            return api_http::method_not_allowed(methods, request.method());
        }
        let served = match target {
            // A client that is told 503 at once may come back at once; whoever asks for a sign of life, or is one of
            // us, gets an answer now.
            Target::Scheduler | Target::Operators | Target::Masters | Target::Snapshot => {
                tokio::time::timeout(START_PATIENCE, self.served.wait()).await.ok()
            }
            _ => self.served.get(),
        };
        let Some((context, operators)) = served else {
            return match target {
                Target::Health => api_http::empty(StatusCode::OK),
                Target::Challenge => self.door.challenge(),
                _ => recovering(),
            };
        };
        match target {
            // The large ones are boxed, so that a heartbeat of the quorum does not carry their room about.
            Target::Scheduler => Box::pin(scheduler::answer(context, request, &visitor)).await,
            Target::Agent => agent::answer(context, request, caller(&visitor)),
            Target::Raft => internal::raft(context, request).await,
            Target::Submit => internal::submit(context, request).await,
            Target::Deliver => internal::deliver(context, request).await,
            Target::Hello => internal::hello(context),
            Target::Digest => internal::digest(context, &request).await,
            Target::Masters => masters::answer(context, request).await,
            Target::Snapshot => snapshot::answer(context, request).await,
            Target::Audit => own::audit::noted(context, request).await,
            Target::Challenge => self.door.challenge(),
            Target::Operators | Target::Health => Box::pin(operators.answer(request, &visitor)).await,
        }
    }
}

/// Who is behind a command of this visitor.
pub(crate) fn caller(visitor: &Visitor) -> Caller {
    Caller { principal: visitor.name().map(str::to_owned), peer: Some(visitor.peer.to_string()) }
}

/// The answer to what was decided against. What the lists refused is noted by the master that decided it.
pub(crate) fn decided_against(refused: &Refused) -> Response {
    let status = StatusCode::from_u16(refused.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let response = api_http::text(status, &refused.message);
    if refused.name == master_core::UNAUTHORIZED { api_http::unnoted(response) } else { response }
}

/// 503 while this master does not serve clients: it starts, or begins anew, which takes a leader.
pub(crate) fn not_ready(context: &Context) -> Response {
    match context.reader.leader() {
        None => context.reader.no_leader(),
        Some(_) => recovering(),
    }
}

/// 503 while this master starts.
fn recovering() -> Response {
    api_http::text(StatusCode::SERVICE_UNAVAILABLE, RECOVERING)
}
