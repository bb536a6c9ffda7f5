//! `meseta local`: a whole cluster of real processes on this machine, found beside this program.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use api::flags::{Flag, Kind, Values};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use crate::error::Error;
use crate::http;
use crate::ids::text;
use crate::port::Port;
use crate::process;
use crate::say;
use crate::secret;

pub(crate) const ABOUT: &str = "\
Start a whole cluster of real processes on this machine, and print its addresses.
Ctrl-C or SIGTERM stops all of it.";

pub(crate) const FLAGS: &[Flag] = &[
    Flag::new("masters", Kind::Int, "How many masters: 1 alone, 3 or 5 as a quorum.").default("1"),
    Flag::new("agents", Kind::Int, "How many agents.").default("1"),
    Flag::new("port", Kind::Int, "Masters listen on this port and those after it, then agents. 0: any free ports.")
        .default("5050"),
    Flag::new(
        "work_dir",
        Kind::Path,
        "Where everything is kept, to be found again by a later start (default: a new folder, removed at the end).",
    ),
    Flag::new("resources", Kind::Text, "What each agent has, as cpus:4;mem:4096 (default: what this machine has)."),
];

/// A cluster that takes longer than this to start will not.
const START: Duration = Duration::from_secs(60);
/// What has not stopped by then is killed.
const STOP: Duration = Duration::from_secs(20);

struct Member {
    name: String,
    program: &'static str,
    address: SocketAddr,
    work_dir: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    _port: Option<Port>,
}

pub(crate) async fn run(flags: Values) -> Result<ExitCode, Error> {
    let masters = number(&flags, "masters", 15)?;
    let agents = number(&flags, "agents", 1000)?;
    if masters.is_multiple_of(2) {
        return Err(Error::Usage(format!("--masters={masters}: an odd number of masters makes a quorum")));
    }
    // Before anything is started, so that no Ctrl-C is missed.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| failed("cannot watch signals", &error))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| failed("cannot watch signals", &error))?;
    let folder = Folder::of(flags.text("work_dir"))?;
    let members = members(&flags, masters, agents, &folder.path)?;
    same_as_before(&folder.path, &members, number(&flags, "port", u16::MAX)? == 0)?;
    members.iter().try_for_each(Member::may_listen)?;
    let secret = folder.path.join("secret");
    if !secret.exists() {
        secret::mint(&secret)?;
    }
    let mut cluster = Cluster { members, secret, folder };
    let outcome = tokio::select! {
        outcome = cluster.run(&flags) => outcome,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    say("stopping\n");
    cluster.stop().await;
    secret::forget_all(&cluster.addresses("meseta-master"));
    outcome.map(|()| ExitCode::SUCCESS)
}

fn number(flags: &Values, name: &str, max: u16) -> Result<u16, Error> {
    let value = flags.int(name).unwrap_or_default();
    let small = u16::try_from(value).ok().filter(|value| *value <= max);
    small.ok_or_else(|| Error::Usage(format!("--{name}={value} is not from 0 to {max}")))
}

struct Cluster {
    members: Vec<Member>,
    /// By which they know each other; a task cannot read it, unless it runs as the same user.
    secret: PathBuf,
    folder: Folder,
}

/// Where it all is; a folder of our own making is removed with it.
struct Folder {
    path: PathBuf,
    ours: bool,
}

impl Folder {
    fn of(flag: Option<&str>) -> Result<Self, Error> {
        if let Some(path) = flag {
            fs::create_dir_all(path).map_err(|error| failed(&format!("--work_dir={path}"), &error))?;
            let path = fs::canonicalize(path).map_err(|error| failed(&format!("--work_dir={path}"), &error))?;
            return Ok(Self { path, ours: false });
        }
        let path = nix::unistd::mkdtemp(&std::env::temp_dir().join("meseta-local-XXXXXX"));
        let path = path.map_err(|error| failed("cannot make a temporary folder", &error.into()))?;
        Ok(Self { path, ours: true })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn members(flags: &Values, masters: u16, agents: u16, folder: &Path) -> Result<Vec<Member>, Error> {
    let first = number(flags, "port", u16::MAX)?;
    if first != 0 && first.checked_add(masters + agents).is_none() {
        return Err(Error::Usage(format!("--port={first} leaves no room for {} ports", masters + agents)));
    }
    let kinds =
        (0..masters).map(|n| ("meseta-master", "master", n)).chain((0..agents).map(|n| ("meseta-agent", "agent", n)));
    let mut members = Vec::new();
    for (place, (program, kind, number)) in (0..).zip(kinds) {
        let port = match first {
            0 => Some(Port::reserve().map_err(|error| failed("no free port", &error))?),
            _ => None,
        };
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let address = port.as_ref().map_or_else(|| SocketAddr::new(loopback, first + place), |port| port.address);
        let name = format!("{kind}-{number}");
        let (work_dir, log) = (folder.join(&name), folder.join(format!("{name}.log")));
        members.push(Member { name, program, address, work_dir, log, child: None, _port: port });
    }
    Ok(members)
}

impl Cluster {
    /// Starts everything, says where it is, and reports members that die. Ends only with an error.
    async fn run(&mut self, flags: &Values) -> Result<(), Error> {
        let list = self.addresses("meseta-master").join(",");
        let several = self.members.iter().filter(|member| member.program == "meseta-master").count() > 1;
        for member in &mut self.members {
            let mut words = vec![format!("--cluster_secret=file://{}", self.secret.display())];
            if member.program == "meseta-agent" {
                words.push(format!("--master={list}"));
                // Nobody starts an agent again here: what it ran need not wait for one.
                words.push("--recovery_timeout=10secs".into());
                words.extend(flags.text("resources").map(|resources| format!("--resources={resources}")));
            } else if several {
                words.push(format!("--masters={list}"));
            }
            member.start(&words)?;
        }
        secret::note_all(&self.addresses("meseta-master"), &self.secret);
        self.write_index()?;
        self.wait_ready().await?;
        say(&self.banner(&list));
        loop {
            if let Some(report) = self.dead() {
                eprintln!("meseta: {report}");
                if !self.members.iter().any(|member| member.program == "meseta-master" && member.child.is_some()) {
                    return Err(Error::Failed("no master is left".into()));
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Where everything is, and what to try first.
    fn banner(&self, masters: &str) -> String {
        let (folder, first) = (self.folder.path.display(), self.members[0].address);
        let kept = if self.folder.ours { " (removed at the end; --work_dir keeps it)" } else { "" };
        format!(
            "masters   {masters}\nagents    {}\nwork_dir  {folder}{kept}\nsecret    file://{folder}/secret\noutput    {folder}/*.log\nhistory   meseta-log cat \
             {folder}/master-0\n\nmeseta state --master={first}\nmeseta execute --master={first} --name=hello \
             --command='echo hello' --resources='cpus:0.1;mem:32'\nCtrl-C stops everything.\n",
            self.addresses("meseta-agent").join(","),
        )
    }

    /// `cluster.json`: the members with their addresses and pids, for scripts.
    fn write_index(&self) -> Result<(), Error> {
        let members: Vec<_> = self
            .members
            .iter()
            .map(|member| {
                json!({"name": member.name, "program": member.program, "address": member.address.to_string(),
                    "pid": member.child.as_ref().and_then(Child::id), "work_dir": member.work_dir, "log": member.log})
            })
            .collect();
        let path = self.folder.path.join("cluster.json");
        fs::write(&path, format!("{}\n", json!({"members": members, "cluster_secret": self.secret})))
            .map_err(|error| failed("cluster.json", &error))
    }

    /// Until a leader is known and counts every agent as active; an early death ends the wait.
    async fn wait_ready(&mut self) -> Result<(), Error> {
        let masters = self.addresses("meseta-master");
        let agents = self.addresses("meseta-agent");
        let start = Instant::now();
        loop {
            if let Some(report) = self.dead() {
                return Err(Error::Failed(report));
            }
            if let Ok(Ok(list)) = timeout(Duration::from_secs(2), http::get_json(&masters, "/master/slaves")).await {
                let slaves = list["slaves"].as_array().map_or(&[][..], Vec::as_slice);
                let is_active = |address: &String| {
                    let at = |slave: &&serde_json::Value| text(&slave["pid"]).rsplit('@').next() == Some(address);
                    slaves.iter().filter(at).any(|slave| slave["active"] == true)
                };
                // Ours by their addresses: whoever else listens somewhere has others.
                if agents.iter().all(is_active) && self.dead().is_none() {
                    return Ok(());
                }
            }
            if start.elapsed() > START {
                let (folder, seconds) = (self.folder.path.display(), START.as_secs());
                let last =
                    self.members.iter().filter_map(|member| Some(format!("{}: {}", member.name, member.last_line()?)));
                let last = last.collect::<Vec<_>>().join("; ");
                return Err(Error::Failed(format!("the cluster is not ready after {seconds} s ({folder}): {last}")));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A member that has ended since the last time, and how.
    fn dead(&mut self) -> Option<String> {
        self.members.iter_mut().find_map(|member| {
            let status = member.child.as_mut()?.try_wait().ok()??;
            member.child = None;
            let last = member.last_line().map(|line| format!(": {line}")).unwrap_or_default();
            Some(format!("{} ({}) ended by {status}{last}", member.name, member.address))
        })
    }

    fn addresses(&self, program: &str) -> Vec<String> {
        let members = self.members.iter().filter(|member| member.program == program);
        members.map(|member| member.address.to_string()).collect()
    }

    /// Agents first: their last messages still find a master. Then whatever they left behind.
    async fn stop(&mut self) {
        for program in ["meseta-agent", "meseta-master"] {
            for member in self.members.iter().filter(|member| member.program == program) {
                member.signal(Signal::SIGTERM);
            }
            for member in self.members.iter_mut().filter(|member| member.program == program) {
                let Some(child) = &mut member.child else { continue };
                if timeout(STOP, child.wait()).await.is_err() {
                    eprintln!("meseta: {} does not stop: killing it", member.name);
                    let _ = child.kill().await;
                }
                member.child = None;
            }
        }
        // Tasks outlive their agent, so that it can be restarted; here nobody will.
        for _ in 0..50 {
            let left = working_in(&self.folder.path);
            if left.is_empty() {
                break;
            }
            for pid in left {
                let _ = kill(pid, Signal::SIGKILL);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A folder that holds another cluster than the one that is asked for cannot become this one: its disks know their
/// addresses and each other.
fn same_as_before(folder: &Path, members: &[Member], any_port: bool) -> Result<(), Error> {
    let Ok(index) = fs::read_to_string(folder.join("cluster.json")) else { return Ok(()) };
    let index: serde_json::Value = serde_json::from_str(&index).unwrap_or_default();
    let before: Vec<&serde_json::Value> = index["members"].as_array().into_iter().flatten().collect();
    let count = |program: &str| before.iter().filter(|member| member["program"] == program).count();
    let now = |program: &str| members.iter().filter(|member| member.program == program).count();
    let masters_before = before.iter().filter(|member| member["program"] == "meseta-master");
    let addresses: Vec<&str> = masters_before.map(|member| text(&member["address"])).collect();
    let masters_now = members.iter().filter(|member| member.program == "meseta-master");
    let same_place = masters_now.map(|member| member.address.to_string()).eq(addresses.iter().copied());
    let (masters, agents) = (count("meseta-master"), count("meseta-agent"));
    // One master alone takes another address; a quorum's members know each other by theirs.
    let moved = !same_place && (masters > 1 || now("meseta-master") != masters);
    if masters == 0 || !moved && agents <= now("meseta-agent") {
        return Ok(());
    }
    let port = addresses[0].rsplit_once(':').map_or("", |(_, port)| port);
    let how = if any_port { "it cannot be found again on any free ports" } else { "it is another cluster" };
    Err(Error::Usage(format!(
        "{} holds a cluster with --masters={masters} --agents={agents} --port={port}, and {how}: start it so, or name another \
         --work_dir",
        folder.display()
    )))
}

impl Member {
    /// Before anything is started: whoever listens there would be taken for ours.
    fn may_listen(&self) -> Result<(), Error> {
        match std::net::TcpListener::bind(self.address) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                let Member { name, address, .. } = self;
                let hint = "is another cluster running? --port=0 takes any free ports";
                Err(Error::Failed(format!("{name} cannot listen on {address}: the port is in use ({hint})")))
            }
            Err(error) => Err(failed(&format!("{} cannot listen on {}", self.name, self.address), &error)),
        }
    }

    /// The last that it said.
    fn last_line(&self) -> Option<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().rfind(|line| !line.trim().is_empty()).map(str::to_owned)
    }

    fn start(&mut self, words: &[String]) -> Result<(), Error> {
        let log = fs::File::options().create(true).append(true).open(&self.log);
        let mut log = log.map_err(|error| failed(&self.log.display().to_string(), &error))?;
        let copy = log.try_clone().map_err(|error| failed("cannot share a log", &error))?;
        let program = beside(self.program)?;
        let mut command = Command::new(&program);
        command
            .arg(format!("--work_dir={}", self.work_dir.display()))
            .arg(format!("--external_log_file={}", self.log.display()))
            .arg(format!("--ip={}", self.address.ip()))
            .arg(format!("--port={}", self.address.port()))
            .args(words)
            .stdin(Stdio::null())
            .stdout(copy)
            .kill_on_drop(true)
            // A terminal's Ctrl-C is for us alone: we stop the others in order.
            .process_group(0);
        let _ = writeln!(log, "---- {}", program.display());
        command.stderr(log);
        process::end_with_parent(&mut command);
        let child = command.spawn().map_err(|error| failed(&program.display().to_string(), &error))?;
        self.child = Some(child);
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        // A child that was not waited for keeps its pid, so this cannot reach another process.
        if let Some(pid) = self.child.as_ref().and_then(Child::id) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        }
    }
}

/// Processes whose working folder lies in `folder`.
fn working_in(folder: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder)))
        .filter(|pid| pid.cast_unsigned() != std::process::id())
        .map(Pid::from_raw)
        .collect()
}

/// A program of ours, in the folder of this one.
pub(crate) fn beside(program: &str) -> Result<PathBuf, Error> {
    let own = std::env::current_exe().map_err(|error| failed("cannot tell where this program is", &error))?;
    let path = own.with_file_name(program);
    if path.exists() {
        return Ok(path);
    }
    Err(Error::Failed(format!("{program} is not beside {}: build or install all of Meseta's programs", own.display())))
}

fn failed(what: &str, error: &std::io::Error) -> Error {
    Error::Failed(format!("{what}: {error}"))
}
