//! One run: a cluster, its clients and its faults, from a scenario to a verdict.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use event_log::host::Host;
use event_log::raft::DiskFault;
use master_core::FeatureLevel;
use master_server::context::Context;
use parking_lot::Mutex;

use crate::agent::Agent;
use crate::doorkeeper::{Door, Doorkeeper};
use crate::framework::Framework;
use crate::invariants::liveness;
use crate::master::{self, Master, Terms};
use crate::net::{Net, Weather, name_of};
use crate::operator::Operator;
use crate::random::Random;
use crate::scenario::{Scenario, Step};
use crate::world::{EPOCH_MS, World};

/// Between two looks at the oracle, in virtual milliseconds.
const LOOK_EVERY_MS: u64 = 200;
/// How long a step waits for whom it means, in virtual milliseconds.
const PATIENCE_MS: u64 = 2_000;
/// How much of a failed panic's text is kept.
const PANIC_CHARS: usize = 400;

thread_local! {
    /// What panicked on this thread.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Why nobody starts a master whose disk is lost.
const LOST: &str = "lost";

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which invariant was violated, and how.
    pub violation: Option<(String, String)>,
    /// Of the whole trace.
    pub trace_hash: u64,
    /// Its lines.
    pub trace_lines: u64,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
    /// Records that were applied.
    pub records: u64,
    /// Tasks that ran.
    pub tasks: u64,
    /// Answers that callers got.
    pub answers: u64,
    /// Names of events and of refusals that were reached: how often.
    pub reached: BTreeMap<String, u64>,
}

/// Everything in one run.
pub struct Cluster {
    /// What all share.
    pub world: Arc<World>,
    net: Net,
    terms: Terms,
    dir: tempfile::TempDir,
    /// Those that are, or are about to be, members.
    pub masters: Vec<Master>,
    /// Machines with agents.
    pub agents: Vec<Agent>,
    /// Frameworks.
    pub frameworks: Vec<Arc<Framework>>,
    addresses: Arc<Mutex<Vec<String>>>,
    random: Random,
    clerk: Host,
    /// As of the last look.
    doors: Arc<Mutex<Vec<Door>>>,
    has_older_releases: bool,
}

/// Keeps the text of panics of simulated processes, in place of printing them.
pub fn watch_panics(print: bool) {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text: String = info.to_string().chars().take(PANIC_CHARS).collect();
        PANICS.with(|panics| panics.borrow_mut().push(text));
        if print {
            usual(info);
        }
    }));
}

/// Runs a scenario on this thread.
///
/// # Panics
/// If the machine has no memory or no room for temporary files.
pub fn run(scenario: &Scenario, print: bool) -> Verdict {
    PANICS.with(|panics| panics.borrow_mut().clear());
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time();
    #[cfg(feature = "run")]
    builder.start_paused(true);
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&scenario.seed.to_le_bytes()));
    let runtime = builder.build().expect("a runtime");
    runtime.block_on(async {
        let mut cluster = Cluster::new(scenario, print);
        cluster.play(scenario).await;
        cluster.verdict()
    })
}

impl Cluster {
    fn new(scenario: &Scenario, print: bool) -> Cluster {
        let world = World::new(scenario.seed, print);
        let mut random = world.random("cluster");
        let net = Net::new(&world);
        // Some masters have forgotten everything that was a moment ago.
        let eager = random.permille(300);
        let mut door = world.random("identities");
        let has_identities = door.permille(500);
        let terms = Terms {
            identity_life: has_identities.then(|| Duration::from_millis(door.range(8_000, 40_000))),
            heartbeat_ms: *random.pick(&[50, 100, 150]).unwrap_or(&50),
            snapshot_bytes: if eager {
                1 << 9
            } else {
                *random.pick(&[8 << 10, 32 << 10, 256 << 20]).unwrap_or(&(8 << 10))
            },
            tail_entries_min: if eager { 1 } else { *random.pick(&[4, 40, 10_000]).unwrap_or(&40) },
            flush_us_max: *random.pick(&[500, 3_000, 12_000]).unwrap_or(&3_000),
            slow_flush_us_max: *random.pick(&[3_000, 60_000, 400_000]).unwrap_or(&60_000),
        };
        world.oracle.lock().options = master::options(&terms);
        let shm = std::path::Path::new("/dev/shm");
        let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.expect("a folder");
        let list: Vec<String> = (1..=scenario.masters).map(|number| format!("m{number}:5050")).collect();
        let addresses = Arc::new(Mutex::new(list.clone()));
        let masters = list
            .iter()
            .map(|address| Master::new(&world, &net, &terms, address, dir.path().join(address), list.clone()))
            .collect();
        let clerk = Host::new(random.number(), EPOCH_MS, 0);
        let mut cluster = Cluster {
            world: world.clone(),
            net: net.clone(),
            terms,
            dir,
            masters,
            agents: Vec::new(),
            frameworks: Vec::new(),
            addresses: addresses.clone(),
            random,
            clerk,
            doors: Arc::default(),
            has_older_releases: scenario.steps.iter().any(|(_, step)| matches!(step, Step::Release(..))),
        };
        cluster.masters.iter_mut().for_each(Master::start);
        for number in 1..=scenario.agents {
            let mut agent = Agent::new(&world, &net, &format!("a{number}"), addresses.clone());
            if has_identities {
                agent.keep_identities(cluster.dir.path());
            }
            agent.start();
            cluster.agents.push(agent);
        }
        for number in 1..=scenario.frameworks {
            cluster.frameworks.push(Framework::start(&world, &net, &format!("f{number}"), addresses.clone()));
        }
        Operator::start(&world, &net, "op1", addresses.clone(), true);
        Operator::start(&world, &net, "op2", addresses.clone(), false);
        if has_identities {
            Doorkeeper::start(&world, &net, addresses, cluster.doors.clone());
        }
        cluster
    }

    fn verdict(&self) -> Verdict {
        let (trace_hash, trace_lines) = self.world.trace_hash();
        let oracle = self.world.oracle.lock();
        Verdict {
            violation: oracle.violation.clone().map(|(invariant, what)| (invariant.to_owned(), what)),
            trace_hash,
            trace_lines,
            virtual_ms: self.world.now_ms(),
            records: oracle.truth.len() as u64,
            tasks: oracle.once.tasks_run,
            answers: oracle.acknowledged.answers,
            reached: oracle.reached.clone(),
        }
    }

    /// True if something is wrong.
    fn is_broken(&self) -> bool {
        // An older release may stop at what it cannot read.
        let may_stop = |text: &String| self.has_older_releases && text.contains("the process ends with code");
        let panicked = PANICS.with(|panics| panics.borrow().iter().find(|text| !may_stop(text)).cloned());
        if let Some(text) = panicked {
            self.world.violated("panics", text);
        }
        // Counted by the masters themselves: a decision may crash without a panic.
        for master in &self.masters {
            let crash = master.context().and_then(|context| context.crashes.last());
            if let Some(crash) = crash {
                self.world.violated("crashes", format!("{} at {}: {}", crash.command, master.name(), crash.message));
            }
        }
        *self.doors.lock() = self.agents.iter().filter_map(Agent::door).collect();
        let mut oracle = self.world.oracle.lock();
        let locked_out =
            oracle.truth.last().and_then(|truth| self.agents.iter().find_map(|one| one.locked_out(&truth.state)));
        if let Some(what) = locked_out {
            oracle.violated("identities", what);
        }
        oracle.look();
        oracle.violation.is_some()
    }

    /// True if something is wrong before then.
    async fn until(&self, at_ms: u64) -> bool {
        loop {
            if self.is_broken() {
                return true;
            }
            let now_ms = self.world.now_ms();
            if now_ms >= at_ms {
                return false;
            }
            tokio::time::sleep(Duration::from_millis((at_ms - now_ms).min(LOOK_EVERY_MS))).await;
        }
    }

    async fn play(&mut self, scenario: &Scenario) {
        for (at_ms, step) in &scenario.steps {
            if self.until(*at_ms).await {
                return;
            }
            if !self.comes(step).await {
                continue;
            }
            self.world.trace(format_args!("--- {step}"));
            self.take(step);
        }
        if self.until(scenario.calm_ms).await {
            return;
        }
        self.converge().await;
    }

    async fn converge(&mut self) {
        self.world.trace(format_args!("--- calm"));
        self.net.mend();
        self.net.set_weather(Weather { delay_us_max: 2_000, ..Weather::default() });
        for master in &mut self.masters {
            if master.refused.lock().as_ref().is_some_and(|why| why != LOST) {
                *master.refused.lock() = None;
            }
            if master.reads != FeatureLevel::NEWEST {
                master.crash();
                master.reads = FeatureLevel::NEWEST;
            }
        }
        self.take(&Step::DiskWorks("all".into()));
        self.take(&Step::Resume("all".into()));
        self.take(&Step::Start("all".into()));
        self.world.calm_down();
        let began_ms = self.world.now_ms();
        loop {
            if self.until(self.world.now_ms() + 2 * LOOK_EVERY_MS).await {
                return;
            }
            // Whoever does not start with what its disk has become is replaced.
            for master in self.masters.iter().filter(|master| master.damaged && !master.is_up()) {
                *master.refused.lock() = Some(LOST.to_owned());
            }
            self.settle_members();
            // A machine whose agent was sent away for good is set up anew.
            self.agents.iter_mut().filter(|agent| agent.is_stopped()).for_each(Agent::wipe);
            self.take(&Step::Start("all".into()));
            let Some(open) = liveness::unfinished(self) else { break };
            if self.world.now_ms() - began_ms > liveness::BOUND_MS {
                return self.world.violated("liveness", open);
            }
        }
        let accepted: Vec<String> = self.frameworks.iter().flat_map(|framework| framework.accepted()).collect();
        let mut oracle = self.world.oracle.lock();
        if let Some(task_id) = accepted.iter().find(|task_id| !oracle.once.is_decided(task_id)) {
            let what = format!("{task_id} was accepted, and the log does not know it");
            self.world.trace(format_args!("VIOLATED acknowledged: {what}"));
            oracle.violated("acknowledged", what);
        }
        oracle.finish(&self.world);
    }

    /// Whoever is no member, and will not be one, is forgotten.
    fn settle_members(&mut self) {
        let Some(leader) = self.leader() else { return };
        let members = leader.node.members();
        let mut kept = Vec::new();
        for mut master in std::mem::take(&mut self.masters) {
            let known = members.iter().find(|member| member.member.address == master.address);
            let same = master
                .context()
                .is_none_or(|context| known.is_none_or(|known| known.member.node_id == context.node.node_id()));
            let lost = master.refused.lock().as_ref().is_some_and(|why| why == LOST);
            match known {
                Some(known) if known.votes && same && !lost => kept.push(master),
                // A learner whose change was given up, or a master that is out.
                _ => {
                    self.world.trace(format_args!("{} is no member", master.name()));
                    master.crash();
                    self.addresses.lock().retain(|address| *address != master.address);
                    if known.is_some_and(|known| !known.votes) {
                        let body = format!(r#"{{"action": "remove", "address": "{}"}}"#, master.address);
                        self.change_members(body);
                    }
                }
            }
        }
        self.masters = kept;
        // A member that nobody runs any more: its disk is lost.
        for member in members {
            let address = member.member.address;
            if !self.masters.iter().any(|master| master.address == address) {
                self.change_members(format!(r#"{{"action": "remove", "address": "{:016x}"}}"#, member.member.node_id));
            }
        }
    }

    fn change_members(&self, body: String) {
        let (net, world, addresses) = (self.net.clone(), self.world.clone(), self.addresses.clone());
        let mut random = Random::new(self.world.seed, &body);
        self.clerk.spawn(async move {
            let list = addresses.lock().clone();
            let Some(address) = random.pick(&list) else { return };
            let headers = [("content-type", "application/json".to_owned())];
            let answer = net.post("clerk", address, "/meseta/masters", &headers, Bytes::from(body.clone())).await;
            let answer = answer.map(|(status, text)| (status, String::from_utf8_lossy(&text).into_owned()));
            world.trace(format_args!("{body} is answered {answer:?}"));
        });
    }

    fn teardown(&self, framework: &str) {
        let Some(framework) = self.frameworks.iter().find(|known| known.name == framework) else { return };
        let Some(id) = framework.book.lock().id.clone() else { return };
        self.world.oracle.lock().linear.framework_leaving(&id);
        let (net, list) = (self.net.clone(), self.addresses.lock().clone());
        let mut random = Random::new(self.world.seed, &id);
        self.clerk.spawn(async move {
            let Some(address) = random.pick(&list) else { return };
            let body = format!(r#"{{"type": "TEARDOWN", "teardown": {{"framework_id": {{"value": "{id}"}}}}}}"#);
            let headers = [("content-type", "application/json".to_owned())];
            let _ = net.post("clerk", address, "/api/v1", &headers, Bytes::from(body)).await;
        });
    }

    /// The master that leads in the newest term, as it knows.
    fn leader(&self) -> Option<Arc<Context>> {
        let contexts = self.masters.iter().filter_map(Master::context);
        let leaders = contexts.filter(|context| context.reader.leader().is_some_and(|leader| leader.is_me));
        leaders.max_by_key(|context| context.node.status().borrow().term)
    }

    /// Whether one more disk can be lost without losing the cluster.
    fn can_lose_one(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let voters: Vec<String> =
            leader.node.members().into_iter().filter(|it| it.votes).map(|it| it.member.address).collect();
        let whole = |address: &String| {
            self.masters.iter().any(|it| it.address == *address && it.refused.lock().is_none() && !it.damaged)
        };
        voters.len() >= 3 && voters.iter().all(whole)
    }

    /// Whoever is meant.
    fn resolve(&self, who: &str) -> Option<String> {
        match who {
            "leader" => self.leader().map(|context| name_of(&context.address.member).to_owned()),
            "busy" => {
                let leader = self.leader()?;
                let status = leader.node.status();
                let is_busy = status.borrow().last_log > status.borrow().committed;
                is_busy.then(|| name_of(&leader.address.member).to_owned())
            }
            "writing" => {
                let writing = self.masters.iter().filter(|master| master.is_up() && master.disk().unflushed() > 0);
                let names: Vec<&str> = writing.map(Master::name).collect();
                let place = usize::try_from(self.world.now_ms()).unwrap_or(0).checked_rem(names.len())?;
                Some(names[place].to_owned())
            }
            "agent" => {
                let writing = self.agents.iter().filter(|agent| agent.is_writing());
                let names: Vec<&String> = writing.map(|agent| &agent.name).collect();
                let place = usize::try_from(self.world.now_ms()).unwrap_or(0).checked_rem(names.len())?;
                Some(names[place].clone())
            }
            _ => Some(who.to_owned()),
        }
    }

    /// Waits until there is whom a step means; false if nobody comes.
    async fn comes(&self, step: &Step) -> bool {
        let (Step::Crash(who) | Step::Pause(who) | Step::Isolate(who) | Step::Deafen(who)) = step else { return true };
        if !matches!(who.as_str(), "busy" | "writing" | "agent") {
            return true;
        }
        let until_ms = self.world.now_ms() + PATIENCE_MS;
        while self.resolve(who).is_none() {
            if self.world.now_ms() >= until_ms {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        true
    }

    fn master(&mut self, who: &str) -> Option<&mut Master> {
        let name = self.resolve(who)?;
        self.masters.iter_mut().find(|master| master.name() == name)
    }

    fn host(&self, who: &str) -> Option<Host> {
        let name = self.resolve(who)?;
        let masters = self.masters.iter().filter(|master| master.name() == name).filter_map(Master::host);
        let agents = self.agents.iter().filter(|agent| agent.name == name).filter_map(Agent::host);
        masters.chain(agents).next().cloned()
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Crash(who) if who.starts_with('a') => {
                let name = self.resolve(who);
                self.agents.iter_mut().filter(|agent| Some(&agent.name) == name.as_ref()).for_each(Agent::crash);
            }
            Step::Crash(who) => {
                if let Some(master) = self.master(who) {
                    master.crash();
                }
            }
            Step::Start(_) => {
                self.masters.iter_mut().filter(|master| master.refused.lock().is_none()).for_each(Master::start);
                self.agents.iter_mut().for_each(Agent::start);
            }
            Step::Pause(who) => {
                if let Some(host) = self.host(who) {
                    host.pause();
                }
                self.agents.iter().for_each(Agent::look);
            }
            Step::Resume(_) => {
                self.masters.iter().filter_map(Master::host).for_each(Host::resume);
                self.agents.iter().filter_map(Agent::host).for_each(Host::resume);
                self.agents.iter().for_each(Agent::look);
            }
            Step::Cut(from, to) => {
                if let (Some(from), Some(to)) = (self.resolve(from), self.resolve(to)) {
                    self.net.set_cut(&from, &to, true);
                }
            }
            Step::Isolate(who) | Step::Deafen(who) => {
                let Some(name) = self.resolve(who) else { return };
                for master in self.masters.iter().filter(|master| master.name() != name) {
                    self.net.set_cut(master.name(), &name, true);
                    if matches!(step, Step::Isolate(_)) {
                        self.net.set_cut(&name, master.name(), true);
                    }
                }
            }
            Step::Mend => self.net.mend(),
            Step::Weather(delay_us_max, late_permille, loss_permille, double_permille) => {
                self.net.set_weather(Weather {
                    delay_us_max: *delay_us_max,
                    late_permille: *late_permille,
                    loss_permille: *loss_permille,
                    double_permille: *double_permille,
                });
            }
            Step::Clock(who, by_ms) => {
                if let Some(master) = self.master(who) {
                    master.jump_clock(*by_ms);
                }
            }
            Step::DiskFull(who) | Step::DiskBroken(who) => {
                let fault = if matches!(step, Step::DiskFull(_)) { DiskFault::Full } else { DiskFault::Broken };
                if let Some(master) = self.master(who) {
                    master.disk().set_fault(Some(fault));
                }
            }
            Step::DiskWorks(_) => self.masters.iter().for_each(|master| master.disk().set_fault(None)),
            Step::Flip(who) => {
                let random = self.random.number();
                if !self.can_lose_one() {
                    return;
                }
                if let Some(master) = self.master(who) {
                    master.crash();
                    master.damaged = master.disk().flip_bit(random).is_some();
                }
            }
            Step::Away(who, ms) => {
                let until_ms = self.world.now_ms() + ms;
                self.agents.iter_mut().filter(|agent| agent.name == *who).for_each(|agent| agent.leave(until_ms));
            }
            Step::Wipe(who) => {
                self.agents.iter_mut().filter(|agent| agent.name == *who).for_each(|agent| {
                    agent.wipe();
                    agent.start();
                });
            }
            Step::Transfer => self.change_members(r#"{"action": "transfer"}"#.to_owned()),
            Step::Add(who) => {
                self.new_master(who);
                self.change_members(format!(r#"{{"action": "add", "address": "{who}:5050"}}"#));
            }
            Step::Remove(who) => {
                if let Some(name) = self.resolve(who) {
                    self.change_members(format!(r#"{{"action": "remove", "address": "{name}:5050"}}"#));
                }
            }
            Step::Replace(old, new) => {
                let Some(name) = self.resolve(old).filter(|_| self.can_lose_one()) else { return };
                if let Some(master) = self.master(&name) {
                    master.crash();
                    // Its disk is lost: nobody starts it again.
                    *master.refused.lock() = Some(LOST.to_owned());
                }
                self.new_master(new);
                let body = format!(r#"{{"action": "replace", "old": "{name}:5050", "address": "{new}:5050"}}"#);
                self.change_members(body);
            }
            Step::Teardown(who) => self.teardown(who),
            Step::Release(who, level) => {
                if let Some(master) = self.master(who) {
                    master.crash();
                    master.reads = FeatureLevel(u32::try_from(*level).unwrap_or(u32::MAX));
                    *master.refused.lock() = None;
                    master.start();
                }
            }
        }
    }

    fn new_master(&mut self, name: &str) {
        let address = format!("{name}:5050");
        let dir = self.dir.path().join(&address);
        let mut master = Master::new(&self.world, &self.net, &self.terms, &address, dir, Vec::new());
        master.start();
        self.masters.push(master);
        self.addresses.lock().push(address);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.masters.iter().filter_map(Master::host).for_each(Host::kill);
        self.agents.iter().filter_map(Agent::host).for_each(Host::kill);
    }
}
