//! Three masters and three agents, each on a host and a small disk of its own.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use proptests::cluster::{READY, binary};
use proptests::http::{self, Request};
use proptests::process::{self, Process};
use proptests::wait;
use serde_json::Value;
use tempfile::TempDir;

use crate::network::Host;

/// Of each work_dir.
const DISK: &str = "size=192m";
/// For one answer to a question of this file.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct World {
    pub(crate) daemons: Vec<Daemon>,
    dir: Option<TempDir>,
}

#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) name: String,
    pub(crate) is_master: bool,
    pub(crate) host: Host,
    pub(crate) address: SocketAddr,
    /// Its disk was full at some time: tasks may have failed for that.
    pub(crate) was_full: bool,
    command: Vec<String>,
    work_dir: PathBuf,
    log: PathBuf,
    process: Option<Process>,
    /// How often it had begun to serve before it was started last.
    began: usize,
}

impl World {
    pub(crate) fn start() -> World {
        let dir = tempfile::Builder::new().prefix("meseta-chaos-").tempdir().expect("a temporary folder");
        let place = |byte: u8, port| SocketAddr::from((Ipv4Addr::new(10, 99, 0, byte), port));
        let masters: Vec<SocketAddr> = (11..14).map(|byte| place(byte, 5050)).collect();
        let agents: Vec<SocketAddr> = (21..24).map(|byte| place(byte, 5051)).collect();
        let list = masters.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
        // They listen where others reach them.
        let secret = dir.path().join("secret");
        fs::write(&secret, "a secret of sufficient length").expect("a file");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("its mode");
        let secret = format!("--cluster_secret=file://{}", secret.display());
        let mut daemons = Vec::new();
        for (number, address) in masters.into_iter().enumerate() {
            // Snapshots, archives and digests often enough to be there when something happens.
            let often = ["--snapshot_bytes=1MB".into(), "--raft_trailing_logs=200".into()];
            let flags = [&[format!("--masters={list}"), secret.clone()][..], &often].concat();
            daemons.push(Daemon::new(dir.path(), format!("m{number}"), address, &flags));
        }
        for (number, address) in agents.into_iter().enumerate() {
            let resources = "--resources=cpus:4;mem:4096;disk:1024;ports:[31000-31999]".into();
            let flags = [format!("--master={list}"), secret.clone(), resources];
            daemons.push(Daemon::new(dir.path(), format!("a{number}"), address, &flags));
        }
        let mut world = World { daemons, dir: Some(dir) };
        world.daemons.iter_mut().for_each(Daemon::start);
        world.wait_ready();
        world
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.as_ref().expect("there until dropped").path()
    }

    pub(crate) fn masters(&self) -> Vec<SocketAddr> {
        self.daemons.iter().filter(|daemon| daemon.is_master).map(|daemon| daemon.address).collect()
    }

    /// Every master's address but that of `daemon`.
    pub(crate) fn other_masters(&self, daemon: usize) -> BTreeSet<Ipv4Addr> {
        let others = self.daemons.iter().enumerate().filter(|(at, other)| other.is_master && *at != daemon);
        others.map(|(_, other)| other.host.address).collect()
    }

    /// Waits until the masters agree on a leader and every agent is active.
    pub(crate) fn wait_ready(&self) {
        for master in self.masters() {
            wait::until("a master with a leader and all agents", READY * 2, || {
                let agents = ask(master, "GET_AGENTS")?;
                let agents = agents["get_agents"]["agents"].as_array()?;
                (agents.iter().filter(|agent| agent["active"] == true).count() == 3).then_some(())
            });
        }
    }

    /// The ends of all logs, for a failure.
    pub(crate) fn print_logs(&self) {
        for daemon in &self.daemons {
            let log = fs::read_to_string(&daemon.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("---- the last lines of {}\n{}", daemon.name, lines[lines.len().saturating_sub(30)..].join("\n"));
        }
    }
}

/// A v1 read.
pub(crate) fn ask(master: SocketAddr, kind: &str) -> Option<Value> {
    let call = format!(r#"{{"type":"{kind}"}}"#);
    let answer = http::send_within(master, &Request::post_json("/api/v1", &call), PATIENCE).ok()?;
    (answer.status() == 200).then(|| answer.json())
}

impl Daemon {
    fn new(dir: &Path, name: String, address: SocketAddr, flags: &[String]) -> Daemon {
        let SocketAddr::V4(v4) = address else { unreachable!("hosts have IPv4 addresses") };
        let host = Host::new(v4.ip().octets()[3]);
        let is_master = name.starts_with('m');
        let work_dir = dir.join(&name);
        fs::create_dir(&work_dir).expect("a folder");
        mount(Some("tmpfs"), &work_dir, Some("tmpfs"), MsFlags::empty(), Some(DISK)).expect("a disk in memory");
        let program = binary(if is_master { "meseta-master" } else { "meseta-agent" });
        let mut command: Vec<String> = host.prefix().into();
        command.push(program.display().to_string());
        command.push(format!("--work_dir={}", work_dir.join("work").display()));
        command.push(format!("--ip={}", v4.ip()));
        command.push(format!("--port={}", v4.port()));
        command.extend(flags.iter().cloned());
        let log = dir.join(format!("{name}.log"));
        Daemon { name, is_master, host, address, was_full: false, command, work_dir, log, process: None, began: 0 }
    }

    pub(crate) fn work_dir(&self) -> PathBuf {
        self.work_dir.join("work")
    }

    pub(crate) fn start(&mut self) {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).env("MESETA_REHEARSE_DIGEST_EVERY", "256");
        self.began = self.beginnings();
        self.process = Some(Process::start(&mut command, &self.log).expect("it starts"));
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    fn beginnings(&self) -> usize {
        fs::read_to_string(&self.log).unwrap_or_default().lines().filter(|line| line.contains(" listening on ")).count()
    }

    /// SIGTERM, and how it ended if that was no clean end: one that serves must make one.
    pub(crate) fn stop(&mut self) -> Option<ExitStatus> {
        let mut process = self.process.take()?;
        let serves = self.beginnings() > self.began;
        process.signal(Signal::SIGTERM);
        let status = wait::until("an end after SIGTERM", READY, || process.ended());
        let too_early = !serves && status.signal() == Some(Signal::SIGTERM as i32);
        (!status.success() && !too_early).then_some(status)
    }

    /// How it ended, if it did by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.ended()?;
        self.process = None;
        Some(status)
    }

    /// Leaves no byte free on its disk.
    pub(crate) fn fill_disk(&mut self) {
        self.was_full = true;
        let mut file = File::create(self.filler()).expect("a file");
        let chunk = vec![0; 1 << 16];
        while file.write_all(&chunk).is_ok() {}
    }

    pub(crate) fn free_disk(&self) {
        fs::remove_file(self.filler()).expect("the filler");
    }

    fn filler(&self) -> PathBuf {
        self.work_dir.join("filler")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.daemons.iter_mut().for_each(|daemon| daemon.process = None);
        process::kill_left_behind(self.dir());
        if std::thread::panicking() {
            self.print_logs();
        }
        let keep = std::env::var_os("MESETA_KEEP").is_some();
        for daemon in &self.daemons {
            if keep {
                // The disk is in memory: what is to be looked at later must lie elsewhere.
                let copy = self.dir().join(format!("{}.kept", daemon.name));
                let _ = Command::new("cp").arg("-a").arg(&daemon.work_dir).arg(copy).status();
            }
            let _ = umount2(&daemon.work_dir, MntFlags::MNT_DETACH);
        }
        if keep {
            let dir = self.dir.take().expect("dropped once").keep();
            eprintln!("---- kept {}", dir.display());
        }
    }
}
