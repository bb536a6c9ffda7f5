//! One master, from its disk to its last connection.

use crate::agents::Agents;
use crate::ahead::Ahead;
use crate::applier::Applier;
use crate::context::{Context, Ping, Reader};
use crate::crashes::Crashes;
use crate::delivery::{Carriers, Delivery};
use crate::equality::Equality;
use crate::flags::AllocatorSettings;
use crate::http::Server;
use crate::http::metrics::Counters;
use crate::http::watch::recent::Recent;
use crate::identity::{Address, Identity, Said};
use crate::level::Levels;
use crate::peers::{Network, Peers};
use crate::published::Published;
use crate::rehearsal::Rehearsal;
use crate::remote::Remote;
use crate::roles::RoleSettings;
use crate::sequencer::{INBOX_COMMANDS_MAX, Sequencer};
use crate::streams::Streams;
use crate::submit::Submitter;
use crate::throttle::{RateLimits, Throttle};
use crate::traces::{Endpoint, Tracer};
use crate::witness::Witness;
use crate::{allocate, clock, entrance, equality, goodbye, level, liveness, outage, roles, vital};
use api::v1::master::event::closing::Reason;
use api_http::dial::Signer;
use api_http::tls::Tls;
use api_http::{Admission, Bounds, Connections, Door, INNER, Secret, Serving};
use event_log::host::{self, Tasks};
use event_log::raft::{ArchiveBounds, FormError, Node, OpenError};
use master_core::ids::NodeId;
use master_core::state::History;
use master_core::{FeatureLevel, Options, RegexLimits, State};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Between two looks for updates that were not acknowledged in time.
const RESEND_EVERY: Duration = Duration::from_secs(1);
/// Between two looks whether agents have moved.
const MOVE_PACE: Duration = Duration::from_millis(20);
/// What each step of a clean stop may take.
const STOP_STEP: Duration = Duration::from_secs(3);

/// How a master shall run.
#[derive(Debug)]
pub struct Settings {
    /// Where its disk is.
    pub work_dir: PathBuf,
    /// How others reach it.
    pub address: Address,
    /// Where it listens.
    pub listen: SocketAddr,
    /// What it shows the others, and asks of them.
    pub secret: Option<Secret>,
    /// Whether whoever shows nothing is let in all the same.
    pub insecure: bool,
    /// How what is said is hidden from others, if it is.
    pub tls: Option<Arc<Tls>>,
    /// Every member's host:port, this one's included.
    pub masters: Vec<String>,
    /// A master of the cluster that this one waits to be added to, if it does.
    pub join: Option<String>,
    /// Flags as they are reported.
    pub flags: BTreeMap<String, String>,
    /// How agents are watched.
    pub ping: Ping,
    /// The allocator's pause without a reason to run.
    pub allocation_interval: Duration,
    /// What the allocator may offer.
    pub allocator: AllocatorSettings,
    /// The highest feature level that the cluster may be raised to while this master is a member.
    pub feature_level_max: Option<FeatureLevel>,
    /// How much history is kept.
    pub archive: ArchiveBounds,
    /// A snapshot is taken after so many bytes of log.
    pub snapshot_bytes: u64,
    /// So many entries stay in the log behind a snapshot.
    pub trailing_logs: u64,
    /// What is forgotten when.
    pub forgetting: Forgetting,
    /// How long identities of agents are good, if agents have some.
    pub identity_life: Option<Duration>,
    /// What a regular expression of offer constraints may cost.
    pub regex: RegexLimits,
    /// Which roles there may be, and what they weigh.
    pub roles: RoleSettings,
    /// How fast frameworks may call.
    pub rate_limits: RateLimits,
    /// Where spans go, if anywhere.
    pub otlp: Option<Endpoint>,
    /// What a test asks for.
    pub rehearsal: Rehearsal,
}

/// What a master that leads has forgotten, and how often it looks.
#[derive(Clone, Copy, Debug)]
pub struct Forgetting {
    /// Between two looks.
    pub every: Duration,
    /// An agent that is unreachable for longer goes.
    pub unreachable_age_max: Duration,
    /// So many unreachable agents stay.
    pub unreachable_max: usize,
    /// How much of what is over stays.
    pub history: History,
    /// What is large ends so many events at a time.
    pub step_events: usize,
    /// Agents become unreachable so far apart.
    pub removal_pace: Option<Duration>,
    /// If more of them than so many thousandths of a percent do not return, none is given up and the master ends.
    pub recovery_limit_millipercent: u32,
    /// Agents that were away when a leadership began have at least so long from then on.
    pub reregister: Duration,
}

impl Default for Forgetting {
    /// What the flags say by default.
    fn default() -> Forgetting {
        let Options { unreachable_ms_max, unreachable_max, history, step_events, .. } = Options::default();
        Forgetting {
            every: Duration::from_secs(15 * 60),
            unreachable_age_max: Duration::from_millis(unreachable_ms_max),
            unreachable_max,
            history,
            step_events,
            removal_pace: None,
            recovery_limit_millipercent: 100_000,
            reregister: Duration::ZERO,
        }
    }
}

/// Why a master does not start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its disk.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its quorum.
    #[error(transparent)]
    Form(#[from] FormError),
    /// Strangers could take the cluster over.
    #[error(
        "{0} can be reached from other machines, and whoever reaches it could take this cluster over: make a secret with `meseta \
         secret new FILE` and give --cluster_secret=file:///FILE to every master, agent and command, or name the masters' certificates \
         with --ssl_master_names, or let everybody in with --insecure"
    )]
    Exposed(SocketAddr),
    /// The others look for it elsewhere.
    #[error(
        "the other masters reach the master on this disk at {known}, and it would be at {given}: start it there again (--ip, --port, \
         --advertise_ip, --advertise_port), or let an empty disk take its place: `meseta masters replace {known} {given}`"
    )]
    Moved {
        /// host:port, as the quorum has it.
        known: String,
        /// host:port now.
        given: String,
    },
    /// The operating system.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// What a master finds around it: by default the machine and its network.
#[derive(Clone, Default)]
pub struct Surroundings {
    /// How its log is run; the folder and the address are those of the settings.
    pub log: event_log::raft::Options,
    /// The way to the other masters, if it is not HTTP.
    pub network: Option<Arc<dyn Network>>,
    /// Who looks on.
    pub witness: Option<Arc<dyn Witness>>,
    /// Who is connected, if requests come in by a port.
    pub connections: Option<Arc<Connections>>,
}

/// Who may connect, and where clients are served.
#[derive(Debug)]
pub struct Port {
    /// Who may be connected.
    pub connections: Arc<Connections>,
    /// Where connections are accepted, and where clients are served, if not where everything else runs. The listener is of
    /// the first.
    pub places: Option<(Handle, Handle)>,
    /// Which of them are let in.
    pub admission: Arc<Admission>,
}

impl Default for Port {
    fn default() -> Port {
        let connections = Connections::new(Bounds::of_this_process());
        Port { connections, places: None, admission: Arc::default() }
    }
}

/// A master that serves.
pub struct Running {
    /// What its handlers share.
    pub context: Arc<Context>,
    delivery: Delivery,
    stop: watch::Sender<bool>,
    /// None if nothing listens.
    serving: Option<JoinHandle<()>>,
    forming: JoinHandle<Result<(), FormError>>,
    tasks: Vec<JoinHandle<()>>,
}

/// Opens the disk and serves; the quorum forms meanwhile. Everything runs where this is called, except for clients, if
/// `port` has another place for them.
///
/// # Errors
/// A `RunError` whose text is the sentence for the operator.
pub async fn start(settings: Settings, listener: TcpListener, port: Port) -> Result<Running, RunError> {
    let own = Some(settings.address.ip);
    let (stop, stopped) = watch::channel(false);
    let Port { connections, places, admission } = port;
    let by_certificate = settings.tls.as_ref().is_some_and(|tls| tls.names_members());
    let inner = Door::new(settings.secret.clone(), settings.insecure, own).by_certificate(by_certificate);
    let server = Arc::new(Server::new(inner, admission));
    let (door, clients) = places.unzip();
    let inside = door.as_ref().map(|_| Handle::current());
    if let Some(tls) = settings.tls.clone() {
        crate::offers::speak_tls();
        tls.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        tokio::spawn(tls.follow());
    }
    let tls = settings.tls.clone();
    let connected = connections.clone();
    let noting = Some(server.admission().clone());
    let serving =
        Serving { connections: connected, reserved: INNER, inside, outside: clients, tls, noting, ..Serving::new() };
    let serving = {
        let server = server.clone();
        let handler = move |request, peer| {
            let server = server.clone();
            async move { server.answer(request, peer).await }
        };
        let served = api_http::serve_with(listener, handler, stopped, serving);
        match door {
            Some(door) => door.spawn(served),
            None => tokio::spawn(served),
        }
    };
    let log = event_log::raft::Options {
        archive: settings.archive,
        snapshot_bytes: settings.snapshot_bytes,
        tail_entries_min: settings.trailing_logs,
        ..event_log::raft::Options::default()
    };
    let surroundings = Surroundings { log, connections: Some(connections), ..Surroundings::default() };
    let mut running = start_in(settings, server, surroundings).await?;
    (running.stop, running.serving) = (stop, Some(serving));
    Ok(running)
}

/// As [`start`], in surroundings of the caller's own; requests come in by [`Server::answer`].
///
/// # Errors
/// A `RunError` whose text is the sentence for the operator.
pub async fn start_in(
    settings: Settings,
    server: Arc<Server>,
    surroundings: Surroundings,
) -> Result<Running, RunError> {
    let started = (UNIX_EPOCH + Duration::from_millis(host::wall_ms()), Instant::now());
    let Surroundings { log, network, witness, connections } = surroundings;
    let signer = settings.secret.clone().map(|secret| Signer::new(secret, settings.insecure));
    let peers = Arc::new(network.map_or_else(|| Peers::new(signer, settings.tls.clone()), Peers::over));
    entrance::check(&settings, settings.masters.len() > 1 || settings.join.is_some())?;
    entrance::say(&settings);
    let ahead = Arc::new(Ahead::default());
    let (publish, published) = watch::channel(Published::empty());
    let late_delivery = Arc::new(OnceLock::new());
    let (rehearsal, forgetting) = (settings.rehearsal, settings.forgetting);
    let (equality, logged) = Equality::start();
    let late = late_delivery.clone();
    let clock = Arc::new(clock::open(&settings.work_dir));
    let counters = Arc::new(Counters::default());
    let applier =
        Applier::new(ahead.clone(), publish, late, equality.clone(), clock.clone(), rehearsal, witness.clone())
            .counting(counters.clone());
    let (dir, address) = (settings.work_dir.clone(), settings.address.member.clone());
    let options = event_log::raft::Options { dir, address, ..log };
    let opening = Instant::now();
    let node = Node::open(options, peers.clone(), applier).await?;
    let opened = opening.elapsed();
    entrance::check(&settings, node.members().len() > 1)?;
    entrance::find_address(&settings, &node)?;

    let name = settings.address.is_named.then(|| settings.address.hostname.clone());
    let said = Said { name, domain: settings.allocator.domain.clone() };
    let identity = Arc::new(Identity::new(NodeId(node.node_id())).saying(said));
    let (lost_stream, lost_streams) = mpsc::unbounded_channel();
    let (lost_agent, lost_agents) = mpsc::unbounded_channel();
    let streams = Arc::new(Streams::new(identity.clone(), counters.clone(), lost_stream));
    let agents = Arc::new(Agents::new(identity.clone(), settings.ping, lost_agent));
    let (recent, announcer) = Recent::start(counters.clone())?;
    let outlook = Arc::new(allocate::Outlook::default());
    let delivery = Delivery::start(Carriers {
        identity: identity.clone(),
        streams: streams.clone(),
        agents: agents.clone(),
        remote: Arc::new(Remote::new(node.clone(), identity.clone(), peers.clone(), Tasks::current())),
        announcer,
    })?;
    // From here on effects concern connections of this process.
    let _ = late_delivery.set(delivery.clone());

    let version = env!("CARGO_PKG_VERSION").to_owned();
    let crashes = Arc::new(Crashes::new(recent.counters.clone()));
    let (requests, inbox) = mpsc::channel(INBOX_COMMANDS_MAX);
    let options = Options {
        agent_away_ms_max: u64::try_from(settings.ping.patience().as_millis()).unwrap_or(u64::MAX),
        reregister_ms_max: u64::try_from(forgetting.reregister.as_millis()).unwrap_or(u64::MAX),
        removal_pace_ms: forgetting.removal_pace.map(|pace| u64::try_from(pace.as_millis()).unwrap_or(u64::MAX)),
        recovery_limit_millipercent: forgetting.recovery_limit_millipercent,
        step_events: forgetting.step_events,
        refuse_ms_min: u64::try_from(settings.allocation_interval.as_millis()).unwrap_or(u64::MAX),
        has_domain: settings.allocator.domain.is_some(),
        require_agent_domain: settings.allocator.require_agent_domain,
        unreachable_ms_max: u64::try_from(forgetting.unreachable_age_max.as_millis()).unwrap_or(u64::MAX),
        unreachable_max: forgetting.unreachable_max,
        history: forgetting.history,
        regex: settings.regex,
        whitelist: settings.roles.whitelist.clone(),
        authorizer: auth::Authorizer::default(),
        agent_identities: settings.identity_life.is_some(),
        identity_life_ms: settings.identity_life.map_or(0, |life| u64::try_from(life.as_millis()).unwrap_or(u64::MAX)),
    };
    let tracer = settings.otlp.map_or_else(Tracer::default, |to| Tracer::start(to, settings.address.member.clone()));
    let sequencer = Sequencer {
        tracer: tracer.clone(),
        node: node.clone(),
        status: node.status(),
        identity: identity.clone(),
        published: published.clone(),
        inbox,
        ahead,
        outlook: outlook.clone(),
        delivery: delivery.clone(),
        version: version.clone(),
        peers: peers.clone(),
        clock: clock.clone(),
        crashes: crashes.clone(),
        rehearsal,
        options: options.clone(),
        admission: server.admission().clone(),
        forget_every: forgetting.every,
    };
    let submitter = Submitter::new(requests, node.clone(), identity.clone(), peers.clone(), witness, tracer.clone());
    let reader = Reader { node: node.clone(), published, submitter: submitter.clone(), outage: Arc::default() };
    let context = Arc::new(Context {
        tracer,
        reader: reader.clone(),
        streams: streams.clone(),
        agents,
        recent,
        identity,
        node: node.clone(),
        address: settings.address.clone(),
        of_frameworks: settings.flags.get("publish_per_framework_metrics").is_none_or(|value| value != "false"),
        flags: settings.flags,
        started,
        work_dir: settings.work_dir.clone(),
        opened,
        ready: watch::Sender::new(false),
        ping: settings.ping,
        roles: settings.roles,
        allocations: Arc::default(),
        throttle: Throttle::new(settings.rate_limits),
        levels: Levels::new(rehearsal.reads, settings.feature_level_max, rehearsal.digest_every),
        crashes,
        equality,
        connections: connections.unwrap_or_else(|| Connections::new(Bounds::of_this_process())),
        allocator: settings.allocator.options.clone(),
        chosen: options,
        secret: settings.secret.clone(),
        admission: server.admission().clone(),
        clock: clock.clone(),
        failure: watch::Sender::new(None),
    });
    server.open(context.clone());

    let join = settings.join.clone();
    let forming = {
        let (node, masters, me) = (node.clone(), settings.masters, settings.address.member);
        host::spawn(async move {
            entrance::say_what_is_not_read(&masters, &node);
            let Some(join) = settings.join else { return node.form(&masters, &me).await };
            if node.status().borrow().members.is_empty() {
                tracing::info!(
                    "waiting to be added: meseta masters add {me} --master={join}, or replace LOST {me} in the place of one \
                     that is lost"
                );
            }
            node.join().await;
            Ok(())
        })
    };
    let tasks = vec![
        vital::spawn("sequencer", sequencer.run()),
        vital::spawn("goodbye", goodbye::run(submitter, lost_streams, lost_agents)),
        vital::spawn("life", liveness::live(context.clone(), peers.clone(), delivery.clone(), version)),
        vital::spawn("introductions", liveness::introduce(context.clone())),
        vital::spawn("letting go", liveness::let_go(context.clone(), delivery.clone())),
        vital::spawn("recovery", liveness::stop_unless_agents_return(context.clone())),
        vital::spawn("names", liveness::learn_names(context.clone(), peers.clone())),
        vital::spawn("watch on the leader", outage::watch(context.clone(), peers.clone())),
        vital::spawn("watch on others", liveness::miss(context.clone(), peers.clone())),
        vital::spawn("feature level", level::raise(context.clone(), peers.clone())),
        vital::spawn("weights", roles::weigh(context.clone())),
        vital::spawn("other cluster", entrance::meet(context.clone(), peers.clone(), join)),
        vital::spawn("time", clock::keep(context.clone(), peers.clone())),
        vital::spawn("digests", equality::log(context.clone())),
        vital::spawn("comparison", equality::compare(context.clone(), peers, delivery.clone(), logged)),
        vital::spawn(
            "allocator",
            allocate::run(
                reader.clone(),
                clock,
                outlook,
                settings.allocation_interval,
                settings.allocator,
                context.allocations.clone(),
            ),
        ),
        vital::spawn("resending", resend(streams, reader)),
    ];
    let stop = watch::Sender::new(false);
    Ok(Running { context, delivery, stop, serving: None, forming, tasks })
}

async fn resend(streams: Arc<Streams>, reader: Reader) {
    loop {
        tokio::time::sleep(RESEND_EVERY).await;
        streams.resend(&reader.state().0);
    }
}

impl Running {
    /// Whoever watches may see other things from now on: they come back for them.
    pub fn let_watchers_go(&self) {
        self.context.recent.close_all(Reason::Unknown, "Who may see what was read again: subscribe again");
    }

    /// Resolves when the quorum is formed, or says why this master can have no part in it.
    ///
    /// # Errors
    /// A `RunError` whose text is the sentence for the operator.
    pub async fn formed(&mut self) -> Result<(), RunError> {
        match (&mut self.forming).await {
            Ok(formed) => Ok(formed?),
            // Aborted: the process stops.
            Err(_) => Ok(()),
        }
    }

    /// Resolves when this master cannot go on, and says why: the log has stopped by itself because its disk is full or
    /// failed, or this master's state is not that of the others.
    pub fn watch_failure(&self) -> impl Future<Output = String> + use<> {
        let mut status = self.context.node.status();
        let mut failure = self.context.failure.subscribe();
        let log = async move {
            let status = status.wait_for(|status| status.failure.is_some()).await.ok()?;
            Some(format!("the log has stopped: {}", status.failure.clone().unwrap_or_default()))
        };
        let own = async move { failure.wait_for(Option::is_some).await.ok()?.clone() };
        async move {
            tokio::select! {
                Some(why) = log => why,
                Some(why) = own => why,
                // Stopped on purpose.
                else => std::future::pending().await,
            }
        }
    }

    /// Resolves when the other masters say that this one is none of them any more.
    pub fn watch_removal(&self) -> impl Future<Output = ()> + use<> {
        let node = self.context.node.clone();
        async move { node.removed().await }
    }

    /// A clean stop: hands leadership over, tells the cluster and the agents, closes the streams.
    pub async fn stop(self) {
        let context = &self.context;
        let members = context.node.status().borrow().members.clone();
        let others: Vec<String> =
            members.into_iter().map(|member| member.address).filter(|it| *it != context.address.member).collect();
        if !others.is_empty() && context.reader.leader().is_some_and(|leader| leader.is_me) {
            let transfer = tokio::time::timeout(STOP_STEP, context.node.transfer_leadership()).await;
            if let Err(error) = transfer.map_err(too_slow("transfer of leadership")).unwrap_or(Ok(())) {
                tracing::warn!(%error, "leadership was not handed over");
            }
        }
        // A master alone has nowhere to send them: they come back when it does.
        if !others.is_empty() {
            context.agents.move_all(&others);
            // Whoever has moved before this master is lost was never disconnected.
            let me = context.identity.incarnation();
            let is_left = |state: &State| {
                let mut connections = state.agents.live.values().filter_map(|agent| agent.connection());
                !connections.any(|connection| connection.at == me)
            };
            let moved = async {
                while !is_left(&context.reader.state().0) {
                    tokio::time::sleep(MOVE_PACE).await;
                }
            };
            let _ = tokio::time::timeout(STOP_STEP, moved).await.map_err(too_slow("agents that move"));
        }
        if context.is_ready() {
            let goodbye = liveness::lose(&context.reader, context.identity.incarnation());
            let said = tokio::time::timeout(STOP_STEP, goodbye).await;
            if let Ok(outcome) = said.map_err(too_slow("goodbye")) {
                tracing::info!(?outcome, "told the cluster that this master stops");
            }
        }
        self.close("this master stops").await;
    }

    /// Closes the streams with a last event that says why, and the log.
    pub async fn close(self, why: &'static str) {
        self.delivery.close_all(Reason::Stopping, why);
        self.stop.send_replace(true);
        if let Some(serving) = self.serving {
            let _ = tokio::time::timeout(STOP_STEP, serving).await.map_err(too_slow("requests under way"));
        }
        self.forming.abort();
        self.tasks.iter().for_each(JoinHandle::abort);
        let _ = tokio::time::timeout(STOP_STEP, self.context.node.shutdown()).await.map_err(too_slow("the log"));
    }
}

/// Says that a step of a clean stop took longer than it may.
fn too_slow(what: &'static str) -> impl FnOnce(tokio::time::error::Elapsed) {
    move |_| tracing::warn!(what, "a step of the clean stop took too long")
}
