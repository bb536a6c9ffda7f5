//! Masters: the real ones, each on a disk of its own, through many lives.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use event_log::host::{self, Host};
use event_log::raft::{ArchiveBounds, Committed, Engine, MemoryDisk, Options, Role};
use master_core::command::{Caller, Command};
use master_core::state::History;
use master_core::{FeatureLevel, State};
use master_server::context::{Context, Ping};
use master_server::http::Server;
use master_server::identity::Address;
use master_server::outcome::Outcome;
use master_server::rehearsal::Rehearsal;
use master_server::roles::RoleSettings;
use master_server::run::{self, Forgetting, Settings, Surroundings};
use master_server::witness::Witness;
use parking_lot::Mutex;

use crate::net::{Link, Net, name_of};
use crate::random::Random;
use crate::world::{EPOCH_MS, World};

/// Agents' pings, shorter than usual: runs are short.
pub const PING: Ping = Ping { every: Duration::from_secs(3), misses_max: 4 };

/// What all masters of a run have in common.
#[derive(Clone, Debug)]
pub struct Terms {
    /// A leader shows itself this often, in milliseconds; elections take four to eight times as long.
    pub heartbeat_ms: u64,
    /// A snapshot after so many bytes of records.
    pub snapshot_bytes: u64,
    /// So many entries stay in the log.
    pub tail_entries_min: u64,
    /// A flush of a disk takes up to so many microseconds.
    pub flush_us_max: u64,
    /// Now and then it takes up to so many.
    pub slow_flush_us_max: u64,
    /// Agents have identities, which are good for so long.
    pub identity_life: Option<Duration>,
}

/// One disk, and whoever runs on it.
pub struct Master {
    world: Arc<World>,
    net: Net,
    terms: Terms,
    /// host:port
    pub address: String,
    dir: PathBuf,
    disk: MemoryDisk,
    /// The list that it is started with; empty if it waits to be added.
    masters: Vec<String>,
    random: Random,
    /// What its machine's clock was set forward or back by, in milliseconds.
    clock_off_ms: i64,
    life: Option<Life>,
    /// It behaves as a release that knows the feature levels up to this one.
    pub reads: FeatureLevel,
    /// A bit of its disk is not as it was written: it may refuse to go on.
    pub damaged: bool,
    /// Its disk or its cluster wants it no more.
    pub refused: Arc<Mutex<Option<String>>>,
}

/// One process.
struct Life {
    host: Host,
    context: Arc<Mutex<Option<Arc<Context>>>>,
}

/// Tells the oracle what one life of a master does.
struct Eyes {
    world: Arc<World>,
    name: String,
    life: u64,
}

impl Witness for Eyes {
    fn applied(&self, entry: &Committed, takes_effect: bool, state: &State) {
        let header = &entry.record.header;
        self.world.trace(format_args!(
            "{} applies {} = {}.{} of {} events{}",
            self.name,
            entry.index,
            header.term,
            header.n,
            entry.record.events.len(),
            if takes_effect { "" } else { ", skipped" },
        ));
        self.world.oracle.lock().applied(&self.world, (&self.name, self.life), entry, takes_effect, state);
    }

    fn restored(&self, index: u64, state: &State) {
        self.world.trace(format_args!("{} restores a snapshot at {index}", self.name));
        self.world.oracle.lock().restored(&self.world, (&self.name, self.life), index, state);
    }

    fn asked(&self, request_id: [u8; 16], command: &Command, caller: &Caller) {
        self.world.oracle.lock().asked(request_id, command, caller);
    }

    fn answered(&self, request_id: [u8; 16], outcome: &Outcome) {
        self.world.oracle.lock().answered(&self.world, request_id, outcome);
    }
}

/// How long an agent has to return, in milliseconds.
pub const AGENT_AWAY_MS_MAX: u64 = 25_000;

/// What masters forget, and when. Hardly anything is done in one step.
pub const FORGETTING: Forgetting = Forgetting {
    every: Duration::from_secs(5),
    unreachable_age_max: Duration::from_secs(30),
    unreachable_max: 3,
    history: History { frameworks: 10, tasks: 100 },
    step_events: 2,
    recovery_limit_millipercent: 100_000,
    removal_pace: None,
    reregister: Duration::ZERO,
};

/// What masters decide by.
pub fn options(terms: &Terms) -> master_core::Options {
    master_core::Options {
        agent_away_ms_max: AGENT_AWAY_MS_MAX,
        step_events: FORGETTING.step_events,
        agent_identities: terms.identity_life.is_some(),
        identity_life_ms: terms.identity_life.map_or(0, |life| life.as_millis() as u64),
        ..master_core::Options::default()
    }
}

impl Master {
    /// An empty disk at `address`.
    pub fn new(
        world: &Arc<World>,
        net: &Net,
        terms: &Terms,
        address: &str,
        dir: PathBuf,
        masters: Vec<String>,
    ) -> Master {
        let life = world.next_life();
        Master {
            world: world.clone(),
            net: net.clone(),
            terms: terms.clone(),
            address: address.to_owned(),
            dir,
            disk: MemoryDisk::new(terms.flush_us_max, terms.slow_flush_us_max),
            masters,
            random: world.random(&format!("{address} {life}")),
            clock_off_ms: 0,
            life: None,
            reads: FeatureLevel::NEWEST,
            damaged: false,
            refused: Arc::default(),
        }
    }

    /// Its name in the network.
    pub fn name(&self) -> &str {
        name_of(&self.address)
    }

    /// Whether a process runs on it.
    pub fn is_up(&self) -> bool {
        self.life.as_ref().is_some_and(|life| !life.host.is_dead())
    }

    /// What its handlers share, once its disk is open.
    pub fn context(&self) -> Option<Arc<Context>> {
        let life = self.life.as_ref().filter(|life| !life.host.is_dead());
        life.and_then(|life| life.context.lock().clone())
    }

    /// The disk, to break it.
    pub fn disk(&self) -> &MemoryDisk {
        &self.disk
    }

    /// The process, to pause it.
    pub fn host(&self) -> Option<&Host> {
        self.life.as_ref().map(|life| &life.host)
    }

    /// Sets its clock forward or back, for this process and those to come.
    pub fn jump_clock(&mut self, by_ms: i64) {
        self.clock_off_ms = self.clock_off_ms.saturating_add(by_ms);
        if let Some(life) = &self.life {
            life.host.jump_clock(by_ms);
        }
    }

    /// Starts a process, if none runs.
    pub fn start(&mut self) {
        if self.is_up() {
            return;
        }
        if self.life.is_some() {
            // It ended by itself. What it had not flushed may be gone as well.
            self.crash();
        }
        let life = self.world.next_life();
        let skew_ms = self.random.below(4_000);
        let drift_ppm = self.random.below(400) as i64 - 200;
        let host = Host::new(self.random.number(), EPOCH_MS + self.world.now_ms() + skew_ms, drift_ppm);
        host.jump_clock(self.clock_off_ms);
        let server = Arc::new(Server::default());
        let context = Arc::new(Mutex::new(None));
        self.world.trace(format_args!("{} starts", self.name()));
        self.net.listen(&self.address, host.clone(), server.clone());
        let heartbeat_ms = self.terms.heartbeat_ms;
        let eyes = Arc::new(Eyes { world: self.world.clone(), name: self.name().to_owned(), life });
        let surroundings = Surroundings {
            connections: None,
            log: Options {
                heartbeat_ms,
                election_ms_min: heartbeat_ms * 4,
                election_ms_max: heartbeat_ms * 8,
                snapshot_bytes: self.terms.snapshot_bytes,
                tail_entries_min: self.terms.tail_entries_min,
                archive_segment_bytes: 8 << 10,
                snapshot_chunk_bytes: 2 << 10,
                engine: Engine::Memory(self.disk.clone()),
                ..Options::default()
            },
            network: Some(Arc::new(Link { net: self.net.clone(), name: self.name().to_owned() })),
            witness: Some(eyes.clone()),
        };
        let settings = Settings {
            work_dir: self.dir.clone(),
            address: Address {
                hostname: self.name().to_owned(),
                is_named: false,
                ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
                port: 5050,
                member: self.address.clone(),
            },
            listen: ([127, 0, 0, 1], 5050).into(),
            secret: None,
            insecure: false,
            tls: None,
            identity_life: self.terms.identity_life,
            otlp: None,
            masters: if self.masters.is_empty() { vec![self.address.clone()] } else { self.masters.clone() },
            join: self.masters.is_empty().then(|| "m1:5050".to_owned()),
            flags: BTreeMap::new(),
            ping: PING,
            allocation_interval: Duration::from_secs(1),
            allocator: Default::default(),
            feature_level_max: None,
            archive: ArchiveBounds::default(),
            forgetting: FORGETTING,
            regex: Default::default(),
            roles: RoleSettings::default(),
            rate_limits: Default::default(),
            snapshot_bytes: self.terms.snapshot_bytes,
            trailing_logs: self.terms.tail_entries_min,
            rehearsal: Rehearsal { reads: self.reads, digest_every: 64, ..Rehearsal::default() },
        };
        let dir = self.dir.display().to_string();
        // Where a run has its files differs from process to process.
        let placeless = move |why: &str| why.replace(&dir, "its folder");
        let (slot, refused, name) = (context.clone(), self.refused.clone(), self.name().to_owned());
        let (world, process) = (self.world.clone(), host.clone());
        host.spawn(async move {
            let ended = async {
                let mut running =
                    run::start_in(settings, server, surroundings).await.map_err(|error| error.to_string())?;
                *slot.lock() = Some(running.context.clone());
                let mut status = running.context.node.status();
                host::spawn(async move {
                    while status.changed().await.is_ok() {
                        let term =
                            Some(&*status.borrow_and_update()).filter(|it| it.role == Role::Leader).map(|it| it.term);
                        if let Some(term) = term {
                            eyes.world.oracle.lock().leads(&eyes.world, (&eyes.name, life), term);
                        }
                    }
                });
                let (failure, removal) = (running.watch_failure(), running.watch_removal());
                tokio::pin!(failure, removal);
                let mut forming = true;
                loop {
                    tokio::select! {
                        biased;
                        why = &mut failure => return Ok(why),
                        () = &mut removal => return Err("this master was removed from its cluster".to_owned()),
                        formed = running.formed(), if forming => {
                            formed.map_err(|error| error.to_string())?;
                            forming = false;
                        }
                    }
                }
            };
            match ended.await {
                // A disk that failed: it may work again when it is started again.
                Ok(why) => world.trace(format_args!("{name} ends: {}", placeless(&why))),
                Err(why) => {
                    world.trace(format_args!("{name} refuses: {}", placeless(&why)));
                    *refused.lock() = Some(why);
                }
            }
            process.kill();
        });
        self.life = Some(Life { host, context });
    }

    /// Ends the process at once, and with it some of what was not flushed.
    pub fn crash(&mut self) {
        let Some(life) = self.life.take() else { return };
        life.host.kill();
        self.net.close(&self.address);
        let mut random = self.random.clone();
        self.random.number();
        let name = self.name().to_owned();
        let world = self.world.clone();
        self.disk.crash(|unflushed| {
            let survivors = random.below(unflushed as u64 + 1) as usize;
            world.trace(format_args!("{name} crashes: {survivors} of {unflushed} unflushed writes survive"));
            survivors
        });
    }
}
