//! A large cluster of simulated agents and running tasks loses its leader: how long until everything is there again, and
//! who had to start over.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use proptests::cluster::{Cluster, Plan, binary};
use serde_json::Value;

use crate::agents::Agents;
use crate::http1::{self, Connection};
use crate::processes;
use crate::quorum::first_success;
use crate::readers::{TASKS_PER_AGENT, populate};
use crate::report::{Report, Row};
use crate::scheduler::Crowd;
use crate::{Bench, Fallible};

/// How long anything of this file may take.
const LIMIT: Duration = Duration::from_secs(120);
/// Between two looks.
const PACE: Duration = Duration::from_millis(2);

const NAMES: [&str; 4] = ["failover_state_ms", "failover_commit_ms", "agents_registered_again", "rss_mb_master"];

pub(crate) fn rows(bench: &Bench, report: &mut Report) {
    report.measure(&NAMES, "a large cluster loses its leader", || failover(bench));
}

fn failover(bench: &Bench) -> Fallible<Vec<Row>> {
    let agents = bench.agents;
    let mut cluster = Plan::new().masters(3).start();
    // Agents and their tasks live on this runtime: it must run while anything is measured.
    let (simulated, _launcher) = bench.runtime.block_on(populate(&cluster, agents))?;
    let leader = cluster.leader();
    let memory = cluster.pid(&leader).map(processes::rss_mib).transpose()?.unwrap_or(f64::NAN);
    let survivors: Vec<String> = cluster.masters().into_iter().filter(|name| *name != leader).collect();
    let addresses: Vec<SocketAddr> = survivors.iter().map(|name| cluster.address(name)).collect();
    let gone = cluster.address(&leader);
    let at = cluster.masters().iter().position(|name| *name == leader).ok_or("an unknown leader")?;
    // As they were spread: in turn.
    let held = (0..agents).filter(|number| number % cluster.masters().len() == at).count();
    let crowd = bench.runtime.block_on(Crowd::subscribe(&addresses, 4))?;

    let killed = Instant::now();
    cluster.kill(&leader);
    let (commit_ms, elected, complete, resumed) = bench.runtime.block_on(async {
        let commit = first_success(&crowd.clients, killed);
        let state = async {
            let elected = elected(addresses[0], gone).await?;
            let complete = complete(addresses[0], agents).await?;
            Fallible::Ok((elected, complete))
        };
        let (commit, state) = tokio::join!(commit, state);
        let (elected, complete) = state?;
        Fallible::Ok((commit?, elected, complete, welcomed(&simulated, agents + held).await?))
    })?;
    let size = format!("3 masters, {agents} simulated agents, {} running tasks", agents * TASKS_PER_AGENT);
    eprintln!(
        "bench:   a leader was known after {} ms, the {held} agents of the lost one were back after {} ms",
        (elected - killed).as_millis(),
        (resumed - killed).as_millis()
    );
    cluster.stop(&survivors[1]);
    let registered = events(&cluster, &survivors[1], "agent-registered")?;
    let back = events(&cluster, &survivors[1], "agent-resumed")?;
    Ok(vec![
        Row::new("rss_mb_master", format!("{size}, the leader"), memory, "MiB"),
        Row::new(
            "failover_state_ms",
            format!("{size}, a new leader known to a linearizable read of all roles' allocations"),
            (complete - elected).as_secs_f64() * 1000.0,
            "ms",
        ),
        Row::new("failover_commit_ms", format!("{size}, clients at followers"), commit_ms, "ms"),
        Row::new(
            "agents_registered_again",
            format!("{size}, {back} resumed at another master"),
            registered.saturating_sub(agents) as f64,
            "",
        ),
    ])
}

/// When `at` names another leader than the one that is gone.
async fn elected(at: SocketAddr, gone: SocketAddr) -> Fallible<Instant> {
    let request = http1::get(at, "/master/redirect");
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        // Without a leader the answer is none of a redirection, and has a body that is not read.
        let head = Connection::open(at).await?.open_answer(&request).await?;
        let leader =
            head.location.as_deref().and_then(|url| url.trim_end_matches('/').rsplit(':').next()?.parse().ok());
        if leader.is_some_and(|port: u16| port != gone.port()) {
            return Ok(Instant::now());
        }
        tokio::time::sleep(PACE).await;
    }
    Err("no new leader was named".into())
}

/// When a linearizable read shows every task's resources as allocated.
async fn complete(at: SocketAddr, agents: usize) -> Fallible<Instant> {
    let request = http1::post_json(at, "/api/v1", "", r#"{"type":"GET_ROLES"}"#);
    let expected = (agents * TASKS_PER_AGENT) as f64;
    let start = Instant::now();
    let mut connection = Connection::open(at).await?;
    while start.elapsed() < LIMIT {
        if connection.call(&request).await? == 200 {
            let answer: Value = serde_json::from_slice(connection.body())?;
            let roles = answer["get_roles"]["roles"].as_array().into_iter().flatten();
            let resources = roles.flat_map(|role| role["resources"].as_array().into_iter().flatten());
            let cpus: f64 = resources
                .filter(|resource| resource["name"] == "cpus")
                .filter_map(|resource| resource["scalar"]["value"].as_f64())
                .sum();
            if cpus >= expected {
                return Ok(Instant::now());
            }
            return Err(format!("after the election {cpus} of {expected} cpus are allocated: tasks are missing").into());
        }
        tokio::time::sleep(PACE).await;
    }
    Err("no linearizable read was answered".into())
}

/// When so many agents were welcomed.
async fn welcomed(agents: &Agents, count: usize) -> Fallible<Instant> {
    let start = Instant::now();
    while agents.welcomes() < count {
        if start.elapsed() > LIMIT {
            return Err(format!("{} of {count} agents came back", agents.welcomes()).into());
        }
        tokio::time::sleep(PACE).await;
    }
    Ok(Instant::now())
}

/// How many events of a kind are in a master's log.
fn events(cluster: &Cluster, master: &str, kind: &str) -> Fallible<usize> {
    let output = Command::new(binary("meseta-log"))
        .args(["cat", &format!("--type={kind}")])
        .arg(cluster.work_dir(master))
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count())
}
