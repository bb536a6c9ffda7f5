//! A cluster of real processes in a temporary folder: masters `m0`, `m1`, ... and agents `a0`, `a1`, ...

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, sockopt};
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{self, Request};
use crate::process::{self, Process};
use crate::wait;

/// What a master's log says when a decision failed by a defect.
const CRASHED: &str = "a decision crashed by a defect";

/// How long a cluster may take to start, or to find a new leader, on a busy machine.
pub const READY: Duration = Duration::from_secs(60);

/// What a cluster should be.
#[derive(Clone, Debug)]
pub struct Plan {
    masters: usize,
    joining: usize,
    agents: usize,
    known: Option<usize>,
    resources: String,
    master_flags: Vec<String>,
    agent_flags: Vec<String>,
    master_environment: BTreeMap<String, String>,
    agent_environment: BTreeMap<String, String>,
}

impl Plan {
    /// One master, no agent.
    pub fn new() -> Self {
        Self {
            masters: 1,
            joining: 0,
            agents: 0,
            known: None,
            resources: "cpus:8;mem:8192;disk:8192;ports:[31000-31999]".into(),
            master_flags: Vec::new(),
            agent_flags: Vec::new(),
            master_environment: BTreeMap::new(),
            agent_environment: BTreeMap::new(),
        }
    }

    /// 1, or 3 that form a quorum.
    pub fn masters(mut self, count: usize) -> Self {
        self.masters = count;
        self
    }

    /// Masters more, not started yet, that will wait to be added to the first one's cluster.
    pub fn joining(mut self, count: usize) -> Self {
        self.joining = count;
        self
    }

    /// Agents, all on loopback.
    pub fn agents(mut self, count: usize) -> Self {
        self.agents = count;
        self
    }

    /// Agents are started with the addresses of the first `count` masters only.
    pub fn agents_know(mut self, count: usize) -> Self {
        self.known = Some(count);
        self
    }

    /// What each agent offers, as in `--resources`.
    pub fn resources(mut self, resources: &str) -> Self {
        self.resources = resources.into();
        self
    }

    /// A flag more for every master.
    pub fn master_flag(mut self, flag: &str) -> Self {
        self.master_flags.push(flag.into());
        self
    }

    /// Every master has this in its environment.
    pub fn master_environment(mut self, variable: &str, value: &str) -> Self {
        self.master_environment.insert(variable.into(), value.into());
        self
    }

    /// Every agent has this in its environment.
    pub fn agent_environment(mut self, variable: &str, value: &str) -> Self {
        self.agent_environment.insert(variable.into(), value.into());
        self
    }

    /// A flag more for every agent.
    pub fn agent_flag(mut self, flag: &str) -> Self {
        self.agent_flags.push(flag.into());
        self
    }

    /// Starts all of it and waits until a leader is known to every master and every agent is active.
    ///
    /// # Panics
    /// When that does not happen; with the ends of all logs.
    pub fn start(self) -> Cluster {
        let mut cluster = self.start_without_waiting();
        cluster.wait_ready();
        cluster
    }

    /// Starts all of it; nothing may be listening yet.
    ///
    /// # Panics
    /// When a process cannot be started.
    pub fn start_without_waiting(self) -> Cluster {
        let dir = tempfile::Builder::new().prefix("meseta-").tempdir().expect("a temporary folder");
        let masters: Vec<Port> = (0..self.masters + self.joining).map(|_| Port::reserve()).collect();
        let first = masters[0].address;
        let listed = |ports: &[Port]| ports.iter().map(|port| port.address.to_string()).collect::<Vec<_>>().join(",");
        let list = listed(&masters[..self.known.unwrap_or(masters.len())]);
        let quorum = listed(&masters[..self.masters]);
        let mut daemons = Vec::new();
        for (number, port) in masters.into_iter().enumerate() {
            let name = format!("m{number}");
            let mut flags = common_flags(&dir.path().join(&name), port.address);
            if number >= self.masters {
                flags.push(format!("--join={first}"));
            } else if self.masters > 1 {
                flags.push(format!("--masters={quorum}"));
            }
            flags.extend(self.master_flags.iter().cloned());
            daemons.push(Daemon {
                name,
                program: "meseta-master",
                flags,
                environment: self.master_environment.clone(),
                port,
                process: None,
            });
        }
        for number in 0..self.agents {
            let name = format!("a{number}");
            let port = Port::reserve();
            let mut flags = common_flags(&dir.path().join(&name), port.address);
            flags.push(format!("--master={list}"));
            flags.push(format!("--resources={}", self.resources));
            flags.extend(self.agent_flags.iter().cloned());
            daemons.push(Daemon {
                name,
                program: "meseta-agent",
                flags,
                environment: self.agent_environment.clone(),
                port,
                process: None,
            });
        }
        let mut cluster = Cluster { dir: Some(dir), daemons, may_crash: false };
        let later = self.masters..self.masters + self.joining;
        for number in (0..cluster.daemons.len()).filter(|number| !later.contains(number)) {
            cluster.spawn(number);
        }
        cluster
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self::new()
    }
}

/// Running processes. Dropped, all of them end, with the tasks they started; in a test that fails, the ends of their
/// logs are printed first, and with `MESETA_KEEP` set the folder stays.
#[derive(Debug)]
pub struct Cluster {
    dir: Option<TempDir>,
    daemons: Vec<Daemon>,
    may_crash: bool,
}

#[derive(Debug)]
struct Daemon {
    name: String,
    program: &'static str,
    flags: Vec<String>,
    environment: BTreeMap<String, String>,
    port: Port,
    process: Option<Process>,
}

impl Cluster {
    /// The folder that holds `NAME` (work_dir) and `NAME.log` of each process; tests may put files beside them.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("there until dropped").path()
    }

    /// The work_dir of one process.
    pub fn work_dir(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Where a process listens.
    pub fn address(&self, name: &str) -> SocketAddr {
        self.daemon(name).port.address
    }

    /// `m0`, `m1`, ...
    pub fn masters(&self) -> Vec<String> {
        self.names("meseta-master")
    }

    /// `a0`, `a1`, ...
    pub fn agents(&self) -> Vec<String> {
        self.names("meseta-agent")
    }

    /// The master that leads, as some running master says.
    pub fn leader(&self) -> String {
        wait::until("a leader", READY, || {
            let running = self.daemons.iter().filter(|daemon| daemon.program == "meseta-master" && daemon.runs());
            running.filter_map(|daemon| self.leader_by(&daemon.name)).find(|leader| self.daemon(leader).runs())
        })
    }

    /// A running master that does not lead.
    ///
    /// # Panics
    /// When there is none.
    pub fn follower(&self) -> String {
        let leader = self.leader();
        let mut others = self.masters().into_iter().filter(|name| *name != leader && self.daemon(name).runs());
        others.next().expect("a master that does not lead")
    }

    /// Whom this master takes for the leader.
    fn leader_by(&self, name: &str) -> Option<String> {
        let answer = http::send(self.address(name), &Request::get("/master/redirect")).ok()?;
        // The host may be a name; the ports differ anyway.
        let (_, port) = answer.head.header("location")?.trim_end_matches('/').rsplit_once(':')?;
        let port: u16 = port.parse().ok()?;
        let leader = self.daemons.iter().find(|daemon| daemon.port.address.port() == port)?;
        Some(leader.name.clone())
    }

    /// The process id of a running process.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.daemon(name).process.as_ref().map(|process| process.pid().as_raw().cast_unsigned())
    }

    /// `kill -9`.
    pub fn kill(&mut self, name: &str) {
        // Dropping a process kills it and waits.
        self.daemon_mut(name).process = None;
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self, name: &str) -> std::process::ExitStatus {
        let mut process = self.daemon_mut(name).process.take().expect("it runs");
        process.signal(Signal::SIGTERM);
        wait::until("an end after SIGTERM", READY, || process.ended())
    }

    /// SIGSTOP: there, but silent.
    pub fn freeze(&self, name: &str) {
        self.daemon(name).process.as_ref().expect("it runs").signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn thaw(&self, name: &str) {
        self.daemon(name).process.as_ref().expect("it runs").signal(Signal::SIGCONT);
    }

    /// Starts a killed or stopped process again, as it was started the first time. Does not wait.
    pub fn restart(&mut self, name: &str) {
        let number = self.daemons.iter().position(|daemon| daemon.name == name).expect("a known name");
        self.spawn(number);
    }

    /// From its next start on a process has this in its environment, or no longer has it.
    pub fn set_environment(&mut self, name: &str, variable: &str, value: Option<&str>) {
        let environment = &mut self.daemon_mut(name).environment;
        match value {
            Some(value) => environment.insert(variable.into(), value.into()),
            None => environment.remove(variable),
        };
    }

    /// From its next start on a process has this flag; `None` takes it away.
    pub fn set_flag(&mut self, name: &str, flag: &str, value: Option<&str>) {
        let flags = &mut self.daemon_mut(name).flags;
        flags.retain(|known| !known.starts_with(&format!("--{flag}=")));
        flags.extend(value.map(|value| format!("--{flag}={value}")));
    }

    /// Waits until a process ends by itself.
    pub fn wait_end(&mut self, name: &str) -> std::process::ExitStatus {
        let daemon = self.daemon_mut(name);
        let process = daemon.process.as_mut().expect("it runs");
        let status = wait::until(&format!("{name} to end"), READY, || process.ended());
        daemon.process = None;
        status
    }

    /// Waits until a process has ended by itself.
    pub fn ended(&mut self, name: &str) -> std::process::ExitStatus {
        let mut process = self.daemon_mut(name).process.take().expect("it was started");
        wait::until("an end by itself", READY, || process.ended())
    }

    /// Starts a process that was planned, but not started; or ended.
    pub fn start_one(&mut self, name: &str) {
        self.restart(name);
    }

    /// Starts one agent more, with these resources. Does not wait.
    pub fn add_agent(&mut self, resources: &str) -> String {
        let name = format!("a{}", self.agents().len());
        let port = Port::reserve();
        let masters: Vec<String> = self.masters().iter().map(|name| self.address(name).to_string()).collect();
        let mut flags = common_flags(&self.work_dir(&name), port.address);
        flags.push(format!("--master={}", masters.join(",")));
        flags.push(format!("--resources={resources}"));
        let environment = BTreeMap::new();
        let program = "meseta-agent";
        self.daemons.push(Daemon { name: name.clone(), program, flags, environment, port, process: None });
        self.spawn(self.daemons.len() - 1);
        name
    }

    /// Waits until a master leads and serves.
    pub fn wait_master(&self, name: &str) {
        wait::until("a master that serves", READY, || {
            let answer = http::send(self.address(name), &Request::get("/slaves")).ok()?;
            (answer.status() == 200).then_some(())
        });
    }

    /// Starts a master again that waits to be added to the cluster of `at`: its disk is another one.
    pub fn start_joining(&mut self, name: &str, at: &str) {
        let join = format!("--join={}", self.address(at));
        let daemon = self.daemon_mut(name);
        daemon.flags.retain(|flag| !flag.starts_with("--masters=") && !flag.starts_with("--join="));
        daemon.flags.push(join);
        self.restart(name);
    }

    /// Starts a master whose disk was made for it: neither forms it a quorum nor does it wait to be added.
    pub fn start_alone(&mut self, name: &str) {
        let daemon = self.daemon_mut(name);
        daemon.flags.retain(|flag| !flag.starts_with("--masters=") && !flag.starts_with("--join="));
        self.restart(name);
    }

    /// Waits until every running master knows one leader, and the leader counts every running agent as active.
    pub fn wait_ready(&mut self) {
        for number in 0..self.daemons.len() {
            let name = self.daemons[number].name.clone();
            if !self.daemons[number].runs() {
                continue;
            }
            wait::until(&format!("{name} to answer /health"), READY, || {
                if let Some(status) = self.daemons[number].process.as_mut().and_then(Process::ended) {
                    // Somebody's connection got the port while nobody listened on it.
                    let is_taken = self.log(&name).trim_end().ends_with("the port is in use");
                    assert!(is_taken, "{name} ended: {status}");
                    self.start_one(&name);
                }
                let answer = http::send(self.address(&name), &Request::get("/health")).ok()?;
                (answer.status() == 200).then_some(())
            });
        }
        let masters: Vec<String> = self.masters().into_iter().filter(|name| self.daemon(name).runs()).collect();
        wait::until("one leader, known to all", READY, || {
            let leaders: Vec<String> = masters.iter().map(|name| self.leader_by(name)).collect::<Option<_>>()?;
            leaders.windows(2).all(|pair| pair[0] == pair[1]).then_some(())
        });
        let agents = self.agents().iter().filter(|name| self.daemon(name).runs()).count();
        if agents > 0 {
            wait::until("every agent to be active", READY, || (self.active_agents() >= agents).then_some(()));
        }
    }

    fn active_agents(&self) -> usize {
        let answer = http::send(self.address(&self.leader()), &Request::get("/master/slaves")).ok();
        let Some(answer) = answer.filter(|answer| answer.status() == 200) else { return 0 };
        let list = answer.json();
        list["slaves"].as_array().map_or(0, |slaves| slaves.iter().filter(|slave| slave["active"] == true).count())
    }

    /// One v1 operator call in JSON; panics unless it is answered with 200.
    pub fn operator(&self, name: &str, call: &Value) -> Value {
        let answer = http::send(self.address(name), &Request::post_json("/api/v1", &call.to_string())).expect("answer");
        assert_eq!(answer.status(), 200, "{call}: {}", answer.text());
        answer.json()
    }

    /// A GET that must be answered with 200 and JSON.
    pub fn get(&self, name: &str, path: &str) -> Value {
        let answer = http::send(self.address(name), &Request::get(path)).expect("answer");
        assert_eq!(answer.status(), 200, "{path}: {}", answer.text());
        answer.json()
    }

    /// This test makes masters crash when they decide; any other fails if one did.
    pub fn expect_crashes(&mut self) {
        self.may_crash = true;
    }

    /// What a process wrote to stdout and stderr, all its lives together.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.dir().join(format!("{name}.log"))).unwrap_or_default()
    }

    /// Processes of this cluster that still live besides the daemons: tasks and their supervisors.
    pub fn other_processes(&self) -> usize {
        let daemons: Vec<_> = self.daemons.iter().filter_map(|daemon| Some(daemon.process.as_ref()?.pid())).collect();
        process::left_behind(self.dir()).iter().filter(|pid| !daemons.contains(pid)).count()
    }

    /// What a master said of a decision that crashed by a defect.
    fn crashed(&self) -> Option<String> {
        let logs = self.masters().into_iter().map(|name| self.log(&name));
        let mut lines = logs.filter_map(|log| Some(log.lines().find(|line| line.contains(CRASHED))?.to_owned()));
        lines.next().filter(|_| !self.may_crash)
    }

    fn spawn(&mut self, number: usize) {
        let log = self.dir().join(format!("{}.log", self.daemons[number].name));
        let daemon = &mut self.daemons[number];
        let mut command = Command::new(binary(daemon.program));
        command.args(&daemon.flags).envs(&daemon.environment);
        let process = Process::start(&mut command, &log).unwrap_or_else(|error| panic!("{}: {error}", daemon.program));
        daemon.process = Some(process);
    }

    fn daemon(&self, name: &str) -> &Daemon {
        self.daemons.iter().find(|daemon| daemon.name == name).expect("a known name")
    }

    fn daemon_mut(&mut self, name: &str) -> &mut Daemon {
        self.daemons.iter_mut().find(|daemon| daemon.name == name).expect("a known name")
    }

    fn names(&self, program: &str) -> Vec<String> {
        self.daemons.iter().filter(|daemon| daemon.program == program).map(|daemon| daemon.name.clone()).collect()
    }
}

impl Daemon {
    fn runs(&self) -> bool {
        self.process.is_some()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            daemon.process = None;
        }
        process::kill_left_behind(self.dir());
        process::unmount_left_behind(self.dir());
        let crashed = self.crashed();
        if std::thread::panicking() || crashed.is_some() {
            for daemon in &self.daemons {
                let log = self.log(&daemon.name);
                let lines: Vec<&str> = log.lines().collect();
                let end = lines[lines.len().saturating_sub(40)..].join("\n");
                eprintln!("---- the last lines of {} ({})\n{end}", daemon.name, daemon.port.address);
            }
        }
        if env::var_os("MESETA_KEEP").is_some() {
            let dir = self.dir.take().expect("dropped once").keep();
            eprintln!("---- kept {}", dir.display());
        }
        if let Some(line) = crashed.filter(|_| !std::thread::panicking()) {
            panic!("a master crashed when it decided: {line}");
        }
    }
}

fn common_flags(work_dir: &Path, address: SocketAddr) -> Vec<String> {
    vec![
        format!("--work_dir={}", work_dir.display()),
        format!("--ip={}", address.ip()),
        format!("--port={}", address.port()),
    ]
}

/// A program of ours, from the target folder that holds the running test or program.
///
/// # Panics
/// When it was not built: `cargo build --workspace --bins`.
pub fn binary(name: &str) -> PathBuf {
    let test = env::current_exe().expect("the test's own path");
    // target/PROFILE/deps for a test, target/PROFILE for a program.
    let mut found = test.ancestors().skip(1).take(2).map(|dir| dir.join(name)).filter(|path| path.exists());
    found
        .next()
        .unwrap_or_else(|| panic!("{name} is missing beside {}: cargo build --workspace --bins", test.display()))
}

/// A port of loopback that nobody else is given: a bound socket that does not listen keeps it, and a daemon binds
/// beside it. While the daemon is down, connections are refused, as on a machine of its own.
#[derive(Debug)]
struct Port {
    address: SocketAddr,
    _held: OwnedFd,
}

impl Port {
    fn reserve() -> Self {
        Self::try_reserve().expect("a free port of loopback")
    }

    fn try_reserve() -> io::Result<Self> {
        let held = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        socket::bind(std::os::fd::AsRawFd::as_raw_fd(&held), &SockaddrIn::new(127, 0, 0, 1, 0))?;
        // After bind: so that the kernel picked a port which nobody holds, and shares it only from now on.
        socket::setsockopt(&held, sockopt::ReuseAddr, &true)?;
        let bound: SockaddrIn = socket::getsockname(std::os::fd::AsRawFd::as_raw_fd(&held))?;
        Ok(Self { address: SocketAddr::from((bound.ip(), bound.port())), _held: held })
    }
}
