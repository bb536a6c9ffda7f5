//! One container after the other, created, run to its end and gone: by the agent's own code, and by runc and crun with the same root,
//! namespaces and control groups.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use containers::cgroups::Wanted;
use containers::isolators::{Settings, built};
use containers::root::Root;
use containers::spec::{Namespace, World, containers_in};
use containers::{Cgroups, Container, Containerizer, Core, Creation, Report, Supervised};
use serde_json::json;
use tokio::sync::mpsc;

use crate::report::{Report as Rows, Row};
use crate::{Bench, Fallible};

const NAMES: [&str; 1] = ["container_cycle_ms"];
/// The longest that one may take.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_micros(100);
/// What runs in all of them.
const NOTHING: &str = "int main(void) { return 0; }\n";

pub(crate) fn rows(bench: &Bench, report: &mut Rows) {
    let rounds = if bench.quick { 10 } else { 100 };
    report.measure(&NAMES, "one container after the other", || {
        let dir = tempfile::Builder::new().prefix("meseta-cycle-").tempdir()?;
        let root = root(dir.path())?;
        let own = bench.runtime.block_on(own(dir.path(), &root, rounds))?;
        let params = |what: &str| {
            format!("root, pid, ipc and mount namespaces, cpu and memory groups, {what}, median of {rounds}")
        };
        let row = |name: &str, value| Row::new(NAMES[0], params("create to gone"), own, "ms").beside(name, value);
        let mut rows = Vec::new();
        for peer in ["crun", "runc"] {
            match of_peer(peer, dir.path(), &root, rounds) {
                Ok(value) => rows.push(row(peer, value)),
                Err(error) => eprintln!("bench: {peer} (apt-get install {peer}): {error}"),
            }
        }
        if rows.is_empty() {
            rows.push(Row::new(NAMES[0], params("create to gone"), own, "ms"));
        }
        Ok(rows)
    });
}

/// A root with one program, which needs nothing else.
fn root(dir: &Path) -> Fallible<PathBuf> {
    let (root, source) = (dir.join("root"), dir.join("nothing.c"));
    fs::create_dir(&root)?;
    fs::write(&source, NOTHING)?;
    let made = Command::new("gcc").args(["-static", "-O1", "-o"]).arg(root.join("nothing")).arg(&source).status()?;
    if made.success() { Ok(root) } else { Err("gcc cannot make a program".into()) }
}

/// Passes on what it hears, and remembers whose end it heard.
struct Heard(mpsc::UnboundedSender<Report>, Mutex<BTreeSet<String>>);

impl Heard {
    fn ended(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core for Heard {
    fn report(&self, report: Report) {
        if let Report::Ended { container_id, .. } = &report {
            self.ended().insert(container_id.clone());
        }
        let _ = self.0.send(report);
    }

    fn awaits(&self, container_id: &str) -> bool {
        !self.ended().contains(container_id)
    }

    fn count_failure(&self) {}

    fn fail(&self, sentence: String) {
        eprintln!("bench: {sentence}");
    }
}

async fn own(dir: &Path, root: &Path, rounds: usize) -> Fallible<f64> {
    let name = format!("meseta-bench-{}", std::process::id());
    let groups = Cgroups::open(&Wanted { hierarchy: "/sys/fs/cgroup".into(), root: name.clone(), patience: PATIENCE })?;
    let isolators = ["filesystem/linux", "cgroups/cpu", "cgroups/mem"].iter();
    let isolators = isolators.filter_map(|name| built(name, &Settings::default(), Some(&groups)).flatten()).collect();
    let launcher = std::env::current_exe()?.with_file_name("meseta-executor");
    let work_dir = dir.join("work");
    fs::create_dir(&work_dir)?;
    let (supervised, receiver) = Supervised::open(&work_dir, &launcher, isolators, Some(groups.clone()), &[])?;
    let (sender, mut reports) = mpsc::unbounded_channel();
    let core: Arc<dyn Core> = Arc::new(Heard(sender, Mutex::default()));
    let listening = tokio::spawn(supervised.clone().listen(core.clone(), receiver));
    let mut times = Vec::new();
    for round in 0..=rounds {
        let id = format!("c{round}");
        let sandbox = work_dir.join(&id);
        let start = Instant::now();
        fs::create_dir(&sandbox)?;
        supervised.create(core.clone(), creation(&id, sandbox, root));
        loop {
            match tokio::time::timeout(PATIENCE, reports.recv()).await?.ok_or("nobody reports")? {
                Report::Ended { status: Some(0), .. } => break,
                Report::Started { .. } => {}
                other => return Err(format!("{other:?}").into()),
            }
        }
        supervised.release(&id);
        let is_there = || {
            groups.group(&id).exists()
                || containers_in(&work_dir.join("meta/containers")).is_ok_and(|all| !all.is_empty())
        };
        while is_there() {
            if start.elapsed() > PATIENCE {
                return Err("it does not go".into());
            }
            std::thread::sleep(PAUSE);
            tokio::task::yield_now().await;
        }
        times.push(start.elapsed());
    }
    listening.abort();
    for tree in fs::read_dir("/sys/fs/cgroup")?.flatten() {
        let _ = fs::remove_dir(tree.path().join(&name));
    }
    for controller in ["freezer", "cpu", "memory"] {
        groups.root(controller).into_iter().for_each(|group| drop(fs::remove_dir(group)));
    }
    Ok(median(times.split_off(1)))
}

fn creation(id: &str, sandbox: PathBuf, root: &Path) -> Creation {
    let resource = |name: &str, value: f64| api::v1::Resource {
        name: name.to_owned(),
        r#type: api::v1::value::Type::Scalar as i32,
        scalar: Some(api::v1::value::Scalar { value }),
        ..Default::default()
    };
    Creation {
        container: Container {
            id: id.to_owned(),
            sandbox,
            resources: vec![resource("cpus", 1.0), resource("mem", 64.0)],
            ..Container::default()
        },
        arguments: vec!["/nothing".to_owned()],
        world: World {
            own: vec![Namespace::Pid, Namespace::Ipc, Namespace::Mount],
            root: Some(Root { path: root.display().to_string(), ..Root::default() }),
            directory: Some("/".to_owned()),
            ..World::default()
        },
        ..Creation::default()
    }
}

/// `run` of an OCI runtime: it creates, starts, waits and deletes.
fn of_peer(program: &str, dir: &Path, root: &Path, rounds: usize) -> Fallible<f64> {
    let bundle = dir.join(program);
    fs::create_dir(&bundle)?;
    let mount = |at: &str, kind: &str, options: &[&str]| json!({"destination": at, "type": kind, "source": kind, "options": options});
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/nothing"], "cwd": "/", "env": []},
        "root": {"path": root},
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777"]),
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "mount"}],
            "cgroupsPath": format!("/meseta-bench-{program}-{}", std::process::id()),
            "resources": {"cpu": {"shares": 1024}, "memory": {"limit": 64 << 20}},
        },
    });
    fs::write(bundle.join("config.json"), config.to_string())?;
    let mut times = Vec::new();
    for round in 0..=rounds {
        let start = Instant::now();
        let mut command = Command::new(program);
        command.arg("--root").arg(dir.join("state")).args(["run", "--bundle"]).arg(&bundle);
        let output = command.arg(format!("meseta-bench-{round}")).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into());
        }
        times.push(start.elapsed());
    }
    Ok(median(times.split_off(1)))
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1000.0
}
