//! What a real agent makes of groups, of containers within containers, and of a thousand tasks.

use std::time::{Duration, Instant};

use proptests::cluster::{Cluster, Plan};
use proptests::framework::{Framework, Records, command_task, info};
use proptests::http::{self, Request};
use serde_json::{Value, json};

use crate::processes;
use crate::report::{self, Report, Row};
use crate::tasks::{Launcher, task};
use crate::{Bench, Fallible};

/// The longest that one answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn rows(bench: &Bench, report: &mut Report) {
    let names =
        ["group_tasks_per_s", "nested_start_ms", "exec_first_byte_ms", "rss_mb_agent_busy", "agent_recovery_ms"];
    if !report.wants(&names) {
        return;
    }
    let plan = Plan::new().agents(1).resources("cpus:1000;mem:1000000;disk:100000;ports:[31000-31999]");
    let mut cluster = match report::attempt(|| Ok(plan.start())) {
        Ok(cluster) => cluster,
        Err(error) => return report.measure(&names, "one master and one agent", || Err(error)),
    };
    report.measure(&names[..1], "a group of tasks", || group(bench, &cluster));
    report.measure(&names[1..3], "containers within a task", || within(bench, &cluster));
    report.measure(&names[3..], "many running tasks", || many(bench, &mut cluster));
}

fn group(bench: &Bench, cluster: &Cluster) -> Fallible<Vec<Row>> {
    let count = if bench.quick { 20 } else { 100 };
    let seconds = bench.runtime.block_on(async {
        let mut launcher = Launcher::start(cluster, "group").await?;
        let offer = launcher.offers().await?.remove(0);
        let scalar = |name: &str, value: f64| json!({"name": name, "type": "SCALAR", "scalar": {"value": value}});
        let executor = json!({"type": "DEFAULT", "executor_id": {"value": "group"},
            "framework_id": {"value": launcher.framework.id},
            "resources": [scalar("cpus", 0.1), scalar("mem", 32.0), scalar("disk", 32.0)]});
        let tasks: Vec<Value> =
            (0..count).map(|number| task(&format!("grouped-{number}"), &offer, "true", 0.1, 32.0)).collect();
        let operation =
            json!({"type": "LAUNCH_GROUP", "launch_group": {"executor": executor, "task_group": {"tasks": tasks}}});
        let accept = json!({"type": "ACCEPT", "accept": {"offer_ids": [offer["id"]],
            "operations": [operation], "filters": {"refuse_seconds": 0.0}}});
        let start = Instant::now();
        launcher.call(accept).await?;
        let mut left = count;
        while left > 0 {
            left -= usize::from(launcher.update().await? == "TASK_FINISHED");
        }
        launcher.completed(count).await?;
        let seconds = start.elapsed().as_secs_f64();
        launcher.call(json!({"type": "TEARDOWN"})).await?;
        Fallible::Ok(seconds)
    })?;
    let params = format!("one group of {count} × `true` on a new default executor, until the last acknowledgement");
    Ok(vec![Row::new("group_tasks_per_s", params, count as f64 / seconds, "1/s")])
}

fn within(bench: &Bench, cluster: &Cluster) -> Fallible<Vec<Row>> {
    let rounds = if bench.quick { 5 } else { 25 };
    let agent = cluster.address("a0");
    let mut framework = Framework::try_subscribe(cluster.address("m0"), &info("within"))?;
    let offer = framework.offer();
    framework.launch(&offer, &[command_task("home", &offer, "exec sleep 1000")]);
    let status = framework.until_state("home", "TASK_RUNNING");
    let parent = &status["container_status"]["container_id"];
    let id = |name: String| json!({"value": name, "parent": parent});
    let (mut starts, mut firsts) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let call = json!({"type": "LAUNCH_NESTED_CONTAINER", "launch_nested_container": {
            "container_id": id(format!("nested-{round}")), "command": {"value": "true"}}});
        let start = Instant::now();
        let answer = http::send_within(agent, &Request::post_json("/api/v1", &call.to_string()), PATIENCE)?;
        starts.push(start.elapsed());
        if answer.status() != 200 {
            return Err(format!("a launch is answered {} {}", answer.status(), answer.text()).into());
        }
        let call = json!({"type": "LAUNCH_NESTED_CONTAINER_SESSION", "launch_nested_container_session": {
            "container_id": id(format!("session-{round}")), "command": {"value": "echo first"}}});
        let mut request = Request::post_json("/api/v1", &call.to_string());
        request.headers.retain(|(name, _)| name != "Accept");
        let request = request.header("Accept", "application/recordio").header("Message-Accept", "application/json");
        let start = Instant::now();
        let mut records = Records::new(http::open_within(agent, &request, PATIENCE)?);
        records.next(PATIENCE)?.ok_or("a session without output")?;
        firsts.push(start.elapsed());
    }
    framework.teardown();
    let row = |name: &'static str, what: &str, times: &mut Vec<Duration>| {
        times.sort();
        let params = format!("{what}, median of {rounds}");
        Row::new(name, params, times[times.len() / 2].as_secs_f64() * 1000.0, "ms")
    };
    Ok(vec![
        row("nested_start_ms", "LAUNCH_NESTED_CONTAINER of `true` until it is answered", &mut starts),
        row("exec_first_byte_ms", "LAUNCH_NESTED_CONTAINER_SESSION of `echo` until its output", &mut firsts),
    ])
}

fn many(bench: &Bench, cluster: &mut Cluster) -> Fallible<Vec<Row>> {
    let count = if bench.quick { 100 } else { 1_000 };
    let memory = bench.runtime.block_on(async {
        let mut launcher = Launcher::start(cluster, "many").await?;
        let offer = launcher.offers().await?.remove(0);
        let tasks = (0..count).map(|number| task(&format!("runs-{number}"), &offer, "exec sleep 1000", 0.1, 32.0));
        launcher.accept(&offer, tasks.collect()).await?;
        let mut left = count;
        while left > 0 {
            left -= usize::from(launcher.update().await? == "TASK_RUNNING");
        }
        processes::rss_mib(cluster.pid("a0").ok_or("it does not run")?)
    })?;
    let agent = cluster.address("a0");
    cluster.kill("a0");
    let start = Instant::now();
    cluster.restart("a0");
    // It listens when it has found everything again.
    while !http::send_within(agent, &Request::get("/health"), PATIENCE).is_ok_and(|answer| answer.status() == 200) {
        if start.elapsed() > PATIENCE {
            return Err("the agent does not come back".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let recovered = start.elapsed().as_secs_f64() * 1000.0;
    Ok(vec![
        Row::new("rss_mb_agent_busy", format!("{count} running tasks"), memory, "MiB"),
        Row::new("agent_recovery_ms", format!("{count} running tasks, started until it serves"), recovered, "ms"),
    ])
}
