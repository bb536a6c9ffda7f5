//! What the HTTP handlers of this master share: a handle for readers, the way to submit, and what is reported about
//! the process itself.

use crate::crashes::Crashes;
use crate::equality::Equality;
use crate::http::watch::recent::Recent;
use crate::identity::{Address, Identity};
use crate::level::Levels;
use crate::outage::Outage;
use crate::outcome::Outcome;
use crate::published::Published;
use crate::roles::RoleSettings;
use crate::streams::Streams;
use crate::submit::Submitter;
use crate::throttle::Throttle;
use event_log::Steady;
use event_log::raft::Node;
use master_core::State;
use master_core::command::{Caller, Command};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// Everything that a handler may need.
pub struct Context {
    /// Committed state, leader, submission.
    pub reader: Reader,
    /// Frameworks' event streams held here.
    pub streams: Arc<Streams>,
    /// Agents' connections held here.
    pub agents: Arc<crate::agents::Agents>,
    /// The newest of what operators are told.
    pub recent: Arc<Recent>,
    /// This process's disk and life.
    pub identity: Arc<Identity>,
    /// The log's node on this master.
    pub node: Node,
    /// Where spans go, if anywhere.
    pub tracer: crate::traces::Tracer,
    /// How others reach this master.
    pub address: Address,
    /// Flags as `/flags` reports them: name to text, defaults included.
    pub flags: BTreeMap<String, String>,
    /// When this process started: wall clock for reports, monotonic for durations.
    pub started: (SystemTime, Instant),
    /// Where this master's disk is.
    pub work_dir: std::path::PathBuf,
    /// How long opening its log took.
    pub opened: Duration,
    /// Whether this master has joined its cluster and folded its own start: before that clients wait, then hear 503.
    pub ready: watch::Sender<bool>,
    /// What agents are told about pings.
    pub ping: Ping,
    /// Which roles there may be, and what they weigh at first.
    pub roles: RoleSettings,
    /// Frameworks' calls as they come.
    pub throttle: Throttle,
    /// Feature levels, of this master and of the others.
    pub levels: Levels,
    /// Decisions that failed by a defect, on this master.
    pub crashes: Arc<Crashes>,
    /// By what this master would plan offers.
    pub allocator: master_core::allocator::Options,
    /// Whether metrics tell of single frameworks.
    pub of_frameworks: bool,
    /// What is kept of the allocator, and told of it.
    pub allocations: Arc<crate::allocations::Allocations>,
    /// By what this master decides, beside what may change: see [`Context::options`].
    pub(crate) chosen: master_core::Options,
    /// What values of tasks' secrets are sealed with.
    pub secret: Option<api_http::Secret>,
    /// Who is let in, and what they may.
    pub admission: Arc<api_http::Admission>,
    /// What time it is for the log.
    pub(crate) clock: Arc<Steady>,
    /// The digests of this master's fold.
    pub(crate) equality: Arc<Equality>,
    /// Who is connected to this master's port.
    pub connections: Arc<api_http::Connections>,
    /// Why this master cannot go on, once it cannot.
    pub(crate) failure: watch::Sender<Option<String>>,
}

/// How the liveness of agents is watched.
#[derive(Clone, Copy, Debug)]
pub struct Ping {
    /// A ping this often.
    pub every: Duration,
    /// So many unanswered ones end a connection.
    pub misses_max: u32,
}

impl Ping {
    /// A connection without a sign of life for this long is dead.
    pub fn patience(&self) -> Duration {
        self.every * self.misses_max
    }
}

impl Context {
    /// By what this master decides, now.
    pub fn options(&self) -> master_core::Options {
        master_core::Options { authorizer: self.admission.authorizer(), ..self.chosen.clone() }
    }

    /// Whether clients are served yet.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    pub(crate) fn set_ready(&self, is_ready: bool) {
        self.ready.send_if_modified(|ready| std::mem::replace(ready, is_ready) != is_ready);
    }

    /// Ends the process: `why` is one sentence for the operator. The first counts.
    pub(crate) fn fail(&self, why: String) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert(why);
            first
        });
    }

    /// Holds a call until clients are served, which takes a moment after a start or while nobody leads: some clients
    /// that are told 503 ask again at once, thousands of times. False after several seconds: then the call is answered
    /// 503 `Master has not finished recovery`.
    pub(crate) async fn wait_ready(&self) -> bool {
        let mut ready = self.ready.subscribe();
        tokio::time::timeout(START_PATIENCE, ready.wait_for(|ready| *ready)).await.is_ok_and(|ready| ready.is_ok())
    }
}

/// The master that leads, as this master believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// host:port for clients and peers.
    pub address: String,
    /// It is this process.
    pub is_me: bool,
}

/// No master leads, or none could confirm that it does, for as long as a read may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("No leader elected")]
pub struct NoLeader;

/// A handle on the committed state of this master, for reads and for submitting. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    pub(crate) node: Node,
    pub(crate) published: watch::Receiver<Published>,
    pub(crate) submitter: Submitter,
    pub(crate) outage: Arc<Outage>,
}

/// State that a reader was given.
pub struct Reading {
    /// The State.
    pub state: Arc<State>,
    /// The last index that is folded into it.
    pub index: u64,
    /// Set if nobody vouched that it is the newest.
    pub staleness: Option<Staleness>,
}

/// What a master knows about how old its State is.
#[derive(Clone, Copy, Debug)]
pub struct Staleness {
    /// The last index that it knows to be committed; what is between is on its way into its State.
    pub committed: u64,
    /// How long ago it heard from a leader, or as a leader from a quorum: what was committed since then may be missing.
    /// None if it never did.
    pub contact: Option<Duration>,
}

/// How long a call waits for this master to have started.
pub(crate) const START_PATIENCE: Duration = Duration::from_secs(8);
/// How long a linearizable read waits for a leader before it gives up.
const READ_PATIENCE: Duration = Duration::from_secs(8);

impl Reader {
    /// State as folded here, and its index: may be older than what the leader committed.
    pub fn state(&self) -> (Arc<State>, u64) {
        let now = self.published.borrow();
        (now.state.clone(), now.index)
    }

    /// State for a reader: as of now, or whatever this master has if `stale` will do.
    ///
    /// # Errors
    /// `NoLeader` when no leader confirmed itself for several seconds. Never if `stale` will do.
    pub async fn read(&self, stale: bool) -> Result<Reading, NoLeader> {
        if !stale {
            let (state, index) = self.linearizable().await?;
            return Ok(Reading { state, index, staleness: None });
        }
        // Looked at before the State: it is not younger than they say.
        let committed = self.node.status().borrow().committed;
        let contact = self.node.last_contact();
        let (state, index) = self.state();
        Ok(Reading { state, index, staleness: Some(Staleness { committed: committed.max(index), contact }) })
    }

    /// State that contains everything that was answered anywhere before this call.
    ///
    /// # Errors
    /// `NoLeader` when no leader confirmed itself for several seconds.
    pub async fn linearizable(&self) -> Result<(Arc<State>, u64), NoLeader> {
        let read = async {
            loop {
                // Resolves when all of it is folded here.
                if self.node.read_index().await.is_ok() {
                    return self.state();
                }
                // Paced: an election takes a moment, and readers that ask again at once slow it down.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(READ_PATIENCE, read).await.map_err(|_| NoLeader)
    }

    /// Who leads, if anybody is known to.
    pub fn leader(&self) -> Option<Leader> {
        self.submitter.leader()
    }

    /// Who leads, if this master has heard of it lately: whoever is sent elsewhere must find somebody there.
    pub fn heard_leader(&self) -> Option<Leader> {
        let has_contact = self.node.status().borrow().leader_contact;
        self.leader().filter(|_| has_contact)
    }

    /// 503 while nobody leads, with what stands in the way as far as it is known.
    pub fn no_leader(&self) -> api_http::Response {
        api_http::text(api_http::StatusCode::SERVICE_UNAVAILABLE, &self.no_leader_sentence())
    }

    /// The same as a sentence.
    pub fn no_leader_sentence(&self) -> String {
        match self.outage.sentence() {
            Some(why) => format!("{NoLeader}: {why}"),
            None => NoLeader.to_string(),
        }
    }

    /// Decides `command` on the leader, wherever that is, and answers after the commit. Waits for a while if nobody
    /// leads.
    pub async fn submit(&self, command: Command, caller: Caller) -> Outcome {
        self.submitter.submit(command, caller).await
    }
}
