//! Clients that others wrote: an unmodified pymesos (JSON), and a small program on the mesos-go library (protobuf).
//! Both take the same options and print the same lines; others show what frameworks with state or services do.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::process::Process;
use crate::wait;

/// Which client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// pymesos 0.3.15.
    Pymesos,
    /// Debian's mesos-go v1 library.
    MesosGo,
    /// pymesos as a stateful framework: reserves, creates a volume, writes, reads, destroys.
    PymesosStateful,
    /// mesos-go as the same.
    MesosGoStateful,
    /// pymesos as a framework that keeps services running in several roles.
    PymesosServices,
    /// pymesos as a framework that launches groups of tasks on the default executor.
    PymesosPods,
}

/// A running client, and the file of its lines.
#[derive(Debug)]
pub struct Run {
    process: Process,
    lines: PathBuf,
    errors: PathBuf,
}

impl Client {
    /// Starts it with `flags` (`--masters=..`, `--tasks=..`; see the clients' own help). Its lines go to `dir`.
    ///
    /// # Panics
    /// When it cannot be made or started.
    pub fn start(self, dir: &Path, flags: &[String]) -> Run {
        let name = format!("{self:?}-{}", fs::read_dir(dir).map_or(0, Iterator::count)).to_lowercase();
        let (lines, errors) = (dir.join(format!("{name}.jsonl")), dir.join(format!("{name}.log")));
        let (python, mesos_go) = programs();
        let (program, first) = match self {
            Self::Pymesos => (python, clients_dir().join("pymesos_framework.py").into()),
            Self::PymesosStateful => (python, clients_dir().join("pymesos_stateful.py").into()),
            Self::PymesosServices => (python, clients_dir().join("pymesos_services.py").into()),
            Self::PymesosPods => (python, clients_dir().join("pymesos_pods.py").into()),
            Self::MesosGo => (mesos_go, OsString::from("--mode=tasks")),
            Self::MesosGoStateful => (mesos_go, OsString::from("--mode=stateful")),
        };
        let mut command = Command::new(program);
        command.arg(first).args(flags).arg(format!("--output={}", lines.display()));
        // A proxy of the user's is not for loopback.
        command.env("NO_PROXY", "*").env("no_proxy", "*").env("PYTHONUNBUFFERED", "1");
        // Nothing is left beside the sources.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        let process = Process::start(&mut command, &errors).expect("the client starts");
        Run { process, lines, errors }
    }
}

impl Run {
    /// What it said so far.
    pub fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.lines).unwrap_or_default();
        // The last line may be half written.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until so many of its lines fulfil a condition.
    ///
    /// # Panics
    /// When that does not happen in `limit`, or the client ends before.
    pub fn wait_lines(&mut self, what: &str, count: usize, limit: Duration, wanted: impl Fn(&Value) -> bool) {
        wait::until(what, limit, || {
            let ended = self.process.ended();
            let enough = self.lines().iter().filter(|line| wanted(line)).count() >= count;
            assert!(enough || ended.is_none(), "the client ended before {what}: {ended:?}\n{}", self.said());
            enough.then_some(())
        });
    }

    /// Waits for the client's end and gives its summary.
    ///
    /// # Panics
    /// Unless it ends with exit code 0 in `limit`.
    pub fn finish(mut self, limit: Duration) -> Value {
        let start = std::time::Instant::now();
        let status: ExitStatus = loop {
            if let Some(status) = self.process.ended() {
                break status;
            }
            assert!(start.elapsed() < limit, "the client did not end in {} s\n{}", limit.as_secs(), self.said());
            std::thread::sleep(Duration::from_millis(50));
        };
        assert!(status.success(), "{status}\n{}", self.said());
        self.lines().pop().expect("a summary")
    }

    fn said(&self) -> String {
        let end = |path: &Path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(25)..].join("\n")
        };
        format!("{}\n{}", end(&self.lines), end(&self.errors))
    }
}

/// The words of a command line, for a shell, that run the executor on pymesos.
pub fn pymesos_executor() -> String {
    format!("{} {}", programs().0.display(), clients_dir().join("pymesos_executor.py").display())
}

/// The folder of the clients' sources.
fn clients_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// The venv's python and the Go program, made if need be.
fn programs() -> &'static (PathBuf, PathBuf) {
    static PROGRAMS: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/clients.sh");
        let output = Command::new(script).output().expect("tools/clients.sh runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "tools/clients.sh: {}", String::from_utf8_lossy(&output.stderr));
        let mut lines = said.lines().map(PathBuf::from);
        (lines.next().expect("python"), lines.next().expect("the Go program"))
    })
}
