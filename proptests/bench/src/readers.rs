//! A middling cluster of simulated agents and running tasks: what readers of the whole state cost those who write.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proptests::cluster::{Cluster, Plan};

use crate::agents::Agents;
use crate::http1::{self, Connection};
use crate::load::{self, Outcome, Pace};
use crate::processes::CpuWatch;
use crate::quorum;
use crate::report::{Report, Row};
use crate::scheduler::Crowd;
use crate::tasks::{Launcher, task};
use crate::{Bench, Fallible};

/// Whoever reads may see what is another user's, which is nothing here.
const NARROW: &str = r#"{
    "view_frameworks": [{"principals": {"type": "ANY"}, "users": {"values": ["narrow"]}}, {"principals": {"type": "ANY"}, "users": {"type": "NONE"}}],
    "view_tasks": [{"principals": {"type": "ANY"}, "users": {"values": ["narrow"]}}, {"principals": {"type": "ANY"}, "users": {"type": "NONE"}}],
    "view_executors": [{"principals": {"type": "ANY"}, "users": {"values": ["narrow"]}}, {"principals": {"type": "ANY"}, "users": {"type": "NONE"}}],
    "view_roles": [{"principals": {"type": "ANY"}, "roles": {"values": ["narrow"]}}, {"principals": {"type": "ANY"}, "roles": {"type": "NONE"}}]}"#;
pub(crate) const TASKS_PER_AGENT: usize = 10;
/// Tasks launched whose updates were not read yet.
const UNREAD_TASKS_MAX: usize = 2_000;
const RATE: f64 = 500.0;
const CLIENTS: usize = 64;
const READERS: usize = 4;

pub(crate) fn rows(bench: &Bench, report: &mut Report) {
    report.measure(&["read_interference", "state_read_ms"], "writers beside readers of the whole state", || {
        let agents = if bench.quick { 100 } else { 1_000 };
        let cluster = Plan::new().masters(3).start();
        let leader = cluster.address(&cluster.leader());
        // Agents and their tasks live on this runtime: it must run while anything is measured.
        let (_agents, _launcher) = bench.runtime.block_on(populate(&cluster, agents))?;
        let size = format!("{agents} simulated agents, {} running tasks, 3 masters", agents * TASKS_PER_AGENT);
        let quiet = reading_times(bench, leader)?;
        let alone = write(bench, &cluster)?;
        let readers = Readers::start(leader);
        let beside = write(bench, &cluster);
        let reads = readers.stop();
        let (alone, beside) = (alone.quantile_ms(0.99), beside?.quantile_ms(0.99));
        let params = format!(
            "{size}, {RATE} commands/s, write p99 with {READERS} readers ({} reads, median {:.0} ms) {beside:.1} ms ÷ without {alone:.1} ms",
            reads.len(),
            median(reads.clone()),
        );
        let mut rows = vec![Row::new("read_interference", params, beside / alone, "×")];
        rows.extend(quiet.into_iter().map(|(what, ms)| Row::new("state_read_ms", format!("{what}, {size}"), ms, "ms")));
        Ok(rows)
    });
    report.measure(&["narrow_state_read"], "reads of who may see little", || narrow(bench));
}

/// What a narrow view of the whole state costs, beside all of it.
fn narrow(bench: &Bench) -> Fallible<Vec<Row>> {
    let agents = if bench.quick { 100 } else { 1_000 };
    let dir = tempfile::tempdir()?;
    let acls = dir.path().join("acls");
    std::fs::write(&acls, "{}")?;
    let cluster = Plan::new().masters(3).master_flag(&format!("--acls={}", acls.display())).start();
    let leader = cluster.address(&cluster.leader());
    let (_agents, _launcher) = bench.runtime.block_on(populate(&cluster, agents))?;
    let whole = reading_times(bench, leader)?;
    let length = |bench: &Bench| {
        bench.runtime.block_on(async {
            let mut connection = Connection::open(leader).await?;
            connection.call(&http1::get(leader, "/state")).await?;
            Fallible::Ok(connection.body().len())
        })
    };
    let before = length(bench)?;
    std::fs::write(&acls, NARROW)?;
    for pid in cluster.masters().iter().filter_map(|name| cluster.pid(name)) {
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGHUP)?;
    }
    let start = Instant::now();
    while length(bench)? * 2 > before {
        if start.elapsed() > Duration::from_secs(10) {
            return Err("the lists were not read again".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let narrow = reading_times(bench, leader)?;
    let tasks = agents * TASKS_PER_AGENT;
    let rows = whole.into_iter().zip(narrow).map(|((what, whole), (_, narrow))| {
        let params = format!(
            "{what}, {agents} simulated agents, {tasks} running tasks: {narrow:.1} ms of nothing of them ÷ {whole:.1} ms of all"
        );
        Row::new("narrow_state_read", params, narrow / whole, "×")
    });
    Ok(rows.collect())
}

/// Registers agents and fills each with running tasks, so that nothing is left to offer.
pub(crate) async fn populate(cluster: &Cluster, agents: usize) -> Fallible<(Agents, Launcher)> {
    let masters: Vec<SocketAddr> = cluster.masters().iter().map(|name| cluster.address(name)).collect();
    let start = Instant::now();
    let simulated = Agents::register(&masters, agents, TASKS_PER_AGENT as f64, 100.0 * TASKS_PER_AGENT as f64).await?;
    eprintln!("bench:   {agents} agents registered in {:.1} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    let mut launcher = Launcher::start(cluster, "populate").await?;
    let (mut used, mut running) = (0, 0);
    while used < agents {
        for offer in launcher.offers().await? {
            let tasks = (0..TASKS_PER_AGENT).map(|n| task(&format!("t-{used}-{n}"), &offer, "sleep 1000", 1.0, 100.0));
            launcher.accept(&offer, tasks.collect()).await?;
            used += 1;
            // Who does not read what comes back is dropped in the end.
            while running + UNREAD_TASKS_MAX < used * TASKS_PER_AGENT {
                running += usize::from(launcher.update().await? == "TASK_RUNNING");
            }
        }
    }
    while running < agents * TASKS_PER_AGENT {
        running += usize::from(launcher.update().await? == "TASK_RUNNING");
    }
    eprintln!("bench:   {running} tasks running after {:.1} s", start.elapsed().as_secs_f64());
    Ok((simulated, launcher))
}

fn write(bench: &Bench, cluster: &Cluster) -> Fallible<Outcome> {
    let leader = cluster.address(&cluster.leader());
    bench.runtime.block_on(async {
        let crowd = Crowd::subscribe(&[leader], CLIENTS).await?;
        let watch = CpuWatch::start(quorum::pids(cluster));
        let outcome = load::run(crowd.clients.clone(), Pace::PerSecond(RATE), bench.span()).await;
        watch.report();
        outcome
    })
}

/// Median times of reads one after the other, nothing else going on.
fn reading_times(bench: &Bench, leader: SocketAddr) -> Fallible<Vec<(&'static str, f64)>> {
    let mut times = Vec::new();
    for (what, request) in ["GET /state", "GET_STATE"].into_iter().zip(requests(leader)) {
        let one = bench.runtime.block_on(async {
            let mut connection = Connection::open(leader).await?;
            let mut times = Vec::new();
            for _ in 0..7 {
                let start = Instant::now();
                let status = connection.call(&request).await?;
                if status != 200 {
                    return Err(format!("{what} is answered {status}").into());
                }
                times.push(start.elapsed().as_secs_f64() * 1000.0);
            }
            Fallible::Ok(median(times))
        })?;
        times.push((what, one));
    }
    Ok(times)
}

fn requests(leader: SocketAddr) -> [bytes::Bytes; 2] {
    [http1::get(leader, "/state"), http1::post_json(leader, "/api/v1", "", r#"{"type":"GET_STATE"}"#)]
}

/// Readers in a thread of their own, each once a second, half of them of either form.
struct Readers {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<f64>>,
}

impl Readers {
    fn start(leader: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return Vec::new() };
            runtime.block_on(async {
                let readers: Vec<_> =
                    (0..READERS).map(|number| tokio::spawn(read(leader, number, Arc::clone(&stopped)))).collect();
                let mut times = Vec::new();
                for reader in readers {
                    times.extend(reader.await.unwrap_or_default());
                }
                times
            })
        });
        Self { stop, thread }
    }

    /// The time of each read in milliseconds.
    fn stop(self) -> Vec<f64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

async fn read(leader: SocketAddr, number: usize, stop: Arc<AtomicBool>) -> Vec<f64> {
    let mut times = Vec::new();
    let request = &requests(leader)[number % 2];
    let Ok(mut connection) = Connection::open(leader).await else { return times };
    tokio::time::sleep(Duration::from_secs(1).mul_f64(number as f64 / READERS as f64)).await;
    let mut every = tokio::time::interval(Duration::from_secs(1));
    while !stop.load(Ordering::Relaxed) {
        every.tick().await;
        let start = Instant::now();
        if !connection.call(request).await.is_ok_and(|status| status == 200) {
            break;
        }
        times.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    times
}

pub(crate) fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
