//! An agent that is killed (`kill -9`) at random moments, again and again, while a framework launches commands, fetches and
//! groups on it and somebody else containers and sessions within one of its tasks. Afterwards: every task has ended once and as it
//! should, nothing ran twice, nothing that was started is left, and every sandbox is somebody's.
//!
//! `KILLS` (10 if not given) of them, from `CHAOS_SEED`: `make chaos MODE=agent KILLS=500`.

mod guests;
#[path = "../chaos/random.rs"]
mod random;
mod tasks;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use proptests::cluster::{Cluster, Plan, READY};
use proptests::wait;
use random::Random;
use serde_json::Value;
use tasks::Task;

/// How long after the last kill everything must have come to its end.
const REST: Duration = Duration::from_secs(60);

/// What all threads of this test have in common.
pub(crate) struct Shared {
    /// No more guests.
    pub(crate) is_late: AtomicBool,
    /// No new work; what runs is brought to its end.
    pub(crate) is_quiet: AtomicBool,
    /// Each line is written by what it names, once.
    pub(crate) ran: PathBuf,
    /// An archive with a file `content` in it.
    pub(crate) archive: PathBuf,
    wrong: Mutex<Vec<String>>,
}

impl Shared {
    pub(crate) fn wrong(&self, sentence: String) {
        eprintln!("wrong: {sentence}");
        self.wrong.lock().expect("no thread panics with it").push(sentence);
    }

    /// How often each name was written.
    pub(crate) fn runs(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for line in fs::read_to_string(&self.ran).unwrap_or_default().lines() {
            *counts.entry(line.to_owned()).or_default() += 1;
        }
        counts
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Kills while it starts, while it recovers, and while it works.
fn kill_again_and_again(cluster: &mut Cluster, mut random: Random, kills: u64) {
    for _ in 0..kills {
        if random.one_in(3) {
            cluster.wait_ready();
        }
        thread::sleep(Duration::from_millis(*random.pick(&[30, 300, 1200])).mul_f64(0.001 * random.below(1000) as f64));
        cluster.kill("a0");
        if random.one_in(3) {
            thread::sleep(Duration::from_millis(random.below(400)));
        }
        cluster.restart("a0");
    }
}

fn archive(dir: &Path) -> PathBuf {
    fs::write(dir.join("content"), "fetched\n").expect("a file");
    let archive = dir.join("content.tar.gz");
    let packed = std::process::Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(dir).arg("content").status();
    assert!(packed.expect("tar runs").success());
    archive
}

#[test]
fn nothing_is_lost_or_done_twice_by_an_agent_that_is_killed() {
    let (kills, seed) = (number("KILLS", 10), number("CHAOS_SEED", u64::from(std::process::id())));
    println!("{kills} kills of an agent, CHAOS_SEED={seed}");
    let plan = Plan::new().agents(1).agent_flag("--executor_reregistration_timeout=15secs");
    // The sandboxes are looked at afterwards, however full this disk is.
    let mut cluster = plan.agent_flag("--gc_disk_headroom=0").start();
    let shared = Shared {
        is_late: AtomicBool::new(false),
        is_quiet: AtomicBool::new(false),
        ran: cluster.dir().join("ran"),
        archive: archive(cluster.dir()),
        wrong: Mutex::default(),
    };
    let (master, agent) = (cluster.address("m0"), cluster.address("a0"));
    let (tell, home) = mpsc::channel();
    let (tasks, guests) = thread::scope(|scope| {
        let (shared, random) = (&shared, |stream: u64| Random::new(seed.wrapping_mul(1000) + stream));
        let tasks = scope.spawn(move || tasks::run(shared, master, random(1), &tell));
        let home = home.recv_timeout(READY).expect("a task that runs, before anybody is killed");
        let guests = scope.spawn(move || guests::run(shared, agent, random(2), home));
        kill_again_and_again(&mut cluster, random(3), kills);
        cluster.wait_ready();
        let quiet = Instant::now();
        shared.is_late.store(true, Ordering::Release);
        let guests = guests.join();
        shared.is_quiet.store(true, Ordering::Release);
        let tasks = tasks.join();
        println!("at rest after {:?}", quiet.elapsed());
        (tasks.expect("the framework"), guests.expect("the guests"))
    });
    verdict(&cluster, &shared, &tasks);
    let kinds = tasks.values().fold(BTreeMap::<&str, usize>::new(), |mut all, task| {
        *all.entry(task.ended()).or_default() += 1;
        all
    });
    println!("{} tasks: {kinds:?}; {guests:?}", tasks.len());
    let wrong = shared.wrong.into_inner().expect("no thread panicked with it");
    assert!(wrong.is_empty(), "CHAOS_SEED={seed}: {} promises broken:\n{}", wrong.len(), wrong.join("\n"));
}

/// What is left on the machine.
fn verdict(cluster: &Cluster, shared: &Shared, tasks: &BTreeMap<String, Task>) {
    let runs = shared.runs();
    for (id, task) in tasks {
        if let Err(sentence) = task.judge(runs.get(id).copied().unwrap_or(0)) {
            shared.wrong(format!("{id}: {sentence}"));
        }
    }
    for log in [cluster.log("a0"), cluster.log("m0")] {
        for line in log.lines().filter(|line| line.contains("panicked at")) {
            shared.wrong(line.to_owned());
        }
    }
    wait::until("no process is left", READY, || (cluster.other_processes() == 0).then_some(()));
    wait::until("nothing is left running", READY, || {
        let meta = cluster.work_dir("a0").join("meta/containers");
        // A launch that an agent gave up stays claimed for a while, against a supervisor that is late.
        let is_given_up = |path: &Path| fs::read_to_string(path).is_ok_and(|claim| claim == "agent.\n");
        fs::read_dir(meta).ok()?.all(|entry| entry.is_ok_and(|entry| is_given_up(&entry.path()))).then_some(())
    });
    wait::until("nothing is in use", READY, || {
        let used: Value = cluster.get("a0", "/metrics/snapshot");
        (used["slave/cpus_used"] == 0.0 && used["slave/executors_running"] == 0.0).then_some(())
    });
    sandboxes(cluster, shared, tasks);
}

/// Each executor has run once at most, and is one that was launched.
fn sandboxes(cluster: &Cluster, shared: &Shared, tasks: &BTreeMap<String, Task>) {
    let folders = |path: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
    };
    let agents = folders(&cluster.work_dir("a0").join("slaves"));
    if agents.len() != 1 {
        shared.wrong(format!("an agent with {} ids", agents.len()));
    }
    let mut found = BTreeMap::new();
    let executors = agents.iter().flat_map(|agent| folders(&agent.join("frameworks")));
    for executor in executors.flat_map(|framework| folders(&framework.join("executors"))) {
        let name = executor.file_name().expect("a name").to_string_lossy().into_owned();
        // Another container takes the place of one whose launch an agent gave up: nothing was in that.
        let mut runs = folders(&executor.join("runs"));
        runs.retain(|run| fs::read_dir(run).is_ok_and(|mut entries| entries.next().is_some()));
        if runs.len() > 1 {
            shared.wrong(format!("executor {name} has {} runs", runs.len()));
        }
        found.insert(name, runs);
    }
    for name in found.keys().filter(|name| !tasks.values().any(|task| task.executor == **name)) {
        shared.wrong(format!("a sandbox of {name}, which nobody launched"));
    }
    for (id, task) in tasks.iter().filter(|(_, task)| task.ended() == "TASK_FINISHED") {
        let runs = found.get(&task.executor).map_or(&[][..], Vec::as_slice);
        let of_task = |run: &PathBuf| if task.is_grouped { run.join("tasks").join(id) } else { run.clone() };
        let written = runs.first().map(|run| fs::read_to_string(of_task(run).join("stdout")).unwrap_or_default());
        if !written.as_ref().is_some_and(|text| text.lines().any(|line| line == id)) {
            shared.wrong(format!("the sandbox of {id} has not what it wrote: {written:?}"));
        }
    }
}
