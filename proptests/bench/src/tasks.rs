//! A framework that launches tasks and acknowledges every update, and what that tells of a real agent.

use std::time::{Duration, Instant};

use bytes::Bytes;
use proptests::cluster::{Cluster, Plan};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::http1::Connection;
use crate::processes::{self, CpuWatch};
use crate::quorum;
use crate::report::{self, Report, Row};
use crate::scheduler::Framework;
use crate::{Bench, Fallible};

/// Connections on which updates are acknowledged: those of one task always on the same, so that they stay in order.
const ACKNOWLEDGERS: usize = 16;
/// The longest that the next event may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn rows(bench: &Bench, report: &mut Report) {
    let names = [
        "task_latency_ms",
        "tasks_per_s_agent",
        "isolated_tasks",
        "rss_mb_master",
        "rss_mb_agent",
        "rss_mb_supervisor",
    ];
    if !report.wants(&names) {
        return;
    }
    let plan = || Plan::new().agents(1).resources("cpus:1000;mem:1000000;disk:100000;ports:[31000-31999]");
    let cluster = match report::attempt(|| Ok(plan().start())) {
        Ok(cluster) => cluster,
        Err(error) => return report.measure(&names, "one master and one agent", || Err(error)),
    };
    report.measure(&["rss_mb_master", "rss_mb_agent"], "memory of idle daemons", || idle(&cluster));
    report.measure(&["task_latency_ms"], "one task after the other", || latency(bench, &cluster));
    report.measure(&["tasks_per_s_agent"], "many tasks at once", || {
        let (count, per_second) = throughput(bench, &cluster)?;
        let params = format!("1 master, 1 agent, {count} × `true` in one ACCEPT, until the last acknowledgement");
        Ok(vec![Row::new("tasks_per_s_agent", params, per_second, "1/s")])
    });
    report.measure(&["isolated_tasks"], "the same with and without isolators", || {
        let isolation = "--isolation=cgroups/cpu,cgroups/mem,namespaces/pid,namespaces/ipc";
        let isolated = plan().agent_flag(isolation).start();
        let (_, plain) = throughput(bench, &cluster)?;
        let (count, per_second) = throughput(bench, &isolated)?;
        let params = format!("{count} × `true` as above, control groups of cpu and mem, pid and ipc namespaces ÷ none");
        Ok(vec![Row::new("isolated_tasks", params, per_second / plain, "×")])
    });
    report.measure(&["rss_mb_supervisor"], "memory of tasks' supervisors", || supervisors(bench, &cluster));
}

/// A subscribed framework with offers and updates.
#[derive(Debug)]
pub(crate) struct Launcher {
    pub(crate) framework: Framework,
    calls: Connection,
    acknowledgers: Vec<mpsc::UnboundedSender<(Bytes, bool)>>,
    /// One message for each terminal update whose acknowledgement was answered.
    completed: mpsc::UnboundedReceiver<Fallible<()>>,
    offers: Vec<Value>,
}

impl Launcher {
    /// Subscribes at a master of the cluster.
    pub(crate) async fn start(cluster: &Cluster, name: &str) -> Fallible<Self> {
        let address = cluster.address(&cluster.leader());
        let framework = Framework::subscribe(address, name).await?;
        let (done, completed) = mpsc::unbounded_channel();
        let mut acknowledgers = Vec::new();
        for _ in 0..ACKNOWLEDGERS {
            let (sender, receiver) = mpsc::unbounded_channel();
            tokio::spawn(acknowledge(Connection::open(address).await?, receiver, done.clone()));
            acknowledgers.push(sender);
        }
        let calls = Connection::open(address).await?;
        Ok(Self { framework, calls, acknowledgers, completed, offers: Vec::new() })
    }

    /// Makes a call; anything but success is an error.
    pub(crate) async fn call(&mut self, call: Value) -> Fallible<()> {
        let request = self.framework.request(call);
        let status = self.calls.call(&request).await?;
        if status / 100 != 2 {
            return Err(format!("{status} {}", String::from_utf8_lossy(self.calls.body())).into());
        }
        Ok(())
    }

    /// Offers, waited for if there are none.
    pub(crate) async fn offers(&mut self) -> Fallible<Vec<Value>> {
        while self.offers.is_empty() {
            self.event().await?;
        }
        Ok(std::mem::take(&mut self.offers))
    }

    /// Launches tasks on one offer.
    pub(crate) async fn accept(&mut self, offer: &Value, tasks: Vec<Value>) -> Fallible<()> {
        self.call(json!({"type": "ACCEPT", "accept": {
            "offer_ids": [offer["id"]],
            "operations": [{"type": "LAUNCH", "launch": {"task_infos": tasks}}],
            "filters": {"refuse_seconds": 0.0}}}))
            .await
    }

    /// The state in the next update, whose acknowledgement is on its way when this returns.
    pub(crate) async fn update(&mut self) -> Fallible<String> {
        loop {
            if let Some(state) = self.event().await? {
                return Ok(state);
            }
        }
    }

    /// Waits until so many terminal updates were acknowledged, and the acknowledgements answered.
    pub(crate) async fn completed(&mut self, count: usize) -> Fallible<()> {
        for _ in 0..count {
            tokio::time::timeout(PATIENCE, self.completed.recv()).await?.ok_or("nobody acknowledges")??;
        }
        Ok(())
    }

    async fn event(&mut self) -> Fallible<Option<String>> {
        let event = tokio::time::timeout(PATIENCE, self.framework.event());
        let mut event = event.await.map_err(|_| "no event came for 30 s")??;
        match event["type"].as_str() {
            Some("OFFERS") => {
                if let Value::Array(offers) = event["offers"]["offers"].take() {
                    self.offers.extend(offers);
                }
                Ok(None)
            }
            Some("RESCIND") => {
                let gone = &event["rescind"]["offer_id"];
                self.offers.retain(|offer| offer["id"] != *gone);
                Ok(None)
            }
            Some("UPDATE") => self.updated(&event["update"]["status"]).map(Some),
            Some("ERROR") => Err(event["error"]["message"].to_string().into()),
            _ => Ok(None),
        }
    }

    fn updated(&self, status: &Value) -> Fallible<String> {
        let task = status["task_id"]["value"].as_str().ok_or("an update of no task")?.to_owned();
        let state = status["state"].as_str().ok_or("an update without a state")?.to_owned();
        if matches!(state.as_str(), "TASK_FAILED" | "TASK_ERROR" | "TASK_LOST" | "TASK_DROPPED" | "TASK_GONE") {
            return Err(format!("{task} is {state}: {}", status["message"]).into());
        }
        if status["uuid"].is_string() {
            let request = self.framework.request(json!({"type": "ACKNOWLEDGE", "acknowledge": {
                "agent_id": status["agent_id"], "task_id": status["task_id"], "uuid": status["uuid"]}}));
            let number = task.bytes().fold(0, |sum: usize, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
            let terminal = matches!(state.as_str(), "TASK_FINISHED" | "TASK_KILLED");
            self.acknowledgers[number % ACKNOWLEDGERS].send((request, terminal))?;
        }
        Ok(state)
    }
}

async fn acknowledge(
    mut connection: Connection,
    mut requests: mpsc::UnboundedReceiver<(Bytes, bool)>,
    done: mpsc::UnboundedSender<Fallible<()>>,
) {
    while let Some((request, terminal)) = requests.recv().await {
        let outcome = match connection.call(&request).await {
            Ok(status) if status / 100 == 2 => Ok(()),
            Ok(status) => Err(format!("ACKNOWLEDGE is answered {status}").into()),
            Err(error) => Err(error.into()),
        };
        if terminal || outcome.is_err() {
            // The launcher is gone: nobody waits.
            let _ = done.send(outcome);
        }
    }
}

/// A command task that asks for so much of an offer's agent.
pub(crate) fn task(id: &str, offer: &Value, command: &str, cpus: f64, mem: f64) -> Value {
    json!({
        "name": id, "task_id": {"value": id}, "agent_id": offer["agent_id"],
        "command": {"shell": true, "value": command},
        "resources": [
            {"name": "cpus", "type": "SCALAR", "scalar": {"value": cpus}, "role": "*"},
            {"name": "mem", "type": "SCALAR", "scalar": {"value": mem}, "role": "*"},
        ],
    })
}

fn latency(bench: &Bench, cluster: &Cluster) -> Fallible<Vec<Row>> {
    let rounds = if bench.quick { 5 } else { 25 };
    let (mut running, mut finished) = (Vec::new(), Vec::new());
    bench.runtime.block_on(async {
        let mut launcher = Launcher::start(cluster, "latency").await?;
        for round in 0..rounds {
            let offer = launcher.offers().await?.remove(0);
            let task = task(&format!("one-{round}"), &offer, "true", 0.1, 32.0);
            let start = Instant::now();
            launcher.accept(&offer, vec![task]).await?;
            loop {
                match launcher.update().await?.as_str() {
                    "TASK_RUNNING" => running.push(start.elapsed()),
                    "TASK_FINISHED" => break finished.push(start.elapsed()),
                    _ => {}
                }
            }
            launcher.completed(1).await?;
        }
        launcher.call(json!({"type": "TEARDOWN"})).await
    })?;
    let row = |what: &str, times: &mut Vec<Duration>| {
        times.sort();
        let median = times[times.len() / 2].as_secs_f64() * 1000.0;
        Row::new(
            "task_latency_ms",
            format!("1 master, 1 agent, `true`, ACCEPT to {what}, median of {rounds}"),
            median,
            "ms",
        )
    };
    Ok(vec![row("TASK_RUNNING", &mut running), row("TASK_FINISHED", &mut finished)])
}

/// How many tasks, and how many of them in a second.
fn throughput(bench: &Bench, cluster: &Cluster) -> Fallible<(usize, f64)> {
    let count = if bench.quick { 100 } else { 1_000 };
    let seconds = bench.runtime.block_on(async {
        let mut launcher = Launcher::start(cluster, "throughput").await?;
        let offer = launcher.offers().await?.remove(0);
        let tasks = (0..count).map(|number| task(&format!("many-{number}"), &offer, "true", 0.1, 32.0)).collect();
        let watch = CpuWatch::start(quorum::pids(cluster));
        let start = Instant::now();
        launcher.accept(&offer, tasks).await?;
        let mut left = count;
        while left > 0 {
            left -= usize::from(launcher.update().await? == "TASK_FINISHED");
        }
        launcher.completed(count).await?;
        let seconds = start.elapsed().as_secs_f64();
        watch.report();
        launcher.call(json!({"type": "TEARDOWN"})).await?;
        Fallible::Ok(seconds)
    })?;
    Ok((count, count as f64 / seconds))
}

fn idle(cluster: &Cluster) -> Fallible<Vec<Row>> {
    // Long enough for whatever a start leaves behind to be done.
    std::thread::sleep(Duration::from_secs(3));
    let rss = |name: &str| processes::rss_mib(cluster.pid(name).ok_or("it does not run")?);
    Ok(vec![
        Row::new("rss_mb_master", "1 master with 1 agent, idle", rss("m0")?, "MiB"),
        Row::new("rss_mb_agent", "idle", rss("a0")?, "MiB"),
    ])
}

fn supervisors(bench: &Bench, cluster: &Cluster) -> Fallible<Vec<Row>> {
    const COUNT: usize = 20;
    bench.runtime.block_on(async {
        let mut launcher = Launcher::start(cluster, "memory").await?;
        let offer = launcher.offers().await?.remove(0);
        let tasks = (0..COUNT).map(|number| task(&format!("idle-{number}"), &offer, "exec sleep 1000", 0.1, 32.0));
        launcher.accept(&offer, tasks.collect()).await?;
        let mut left = COUNT;
        while left > 0 {
            left -= usize::from(launcher.update().await? == "TASK_RUNNING");
        }
        let pids = processes::parents_in("meseta-executor", cluster.dir());
        let sizes = pids.iter().map(|pid| processes::rss_mib(*pid)).collect::<Fallible<Vec<f64>>>()?;
        if sizes.len() < COUNT {
            return Err(format!("{COUNT} tasks run, but {} supervisors", sizes.len()).into());
        }
        launcher.call(json!({"type": "TEARDOWN"})).await?;
        let mean = sizes.iter().sum::<f64>() / sizes.len() as f64;
        Ok(vec![Row::new("rss_mb_supervisor", format!("mean of {COUNT}, one per running task"), mean, "MiB")])
    })
}
