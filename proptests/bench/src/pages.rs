//! Pages for people on a middling cluster: how long until one is there, alone and while much happens, and whether the
//! master that makes it again and again grows.

use std::net::SocketAddr;
use std::time::Instant;

use proptests::cluster::{Cluster, Plan};

use crate::http1::{self, Connection};
use crate::load::{self, Pace};
use crate::readers::{TASKS_PER_AGENT, median, populate};
use crate::report::{Report, Row};
use crate::scheduler::Crowd;
use crate::{Bench, Fallible};

/// The first is what a browser is sent to, with all that it loads.
const PAGES: [(&str, &[&str]); 7] = [
    ("the first page, whole", &["/ui/", "/ui/style.css", "/ui/live.js"]),
    ("agents", &["/ui/agents"]),
    ("tasks", &["/ui/tasks"]),
    ("tasks, searched", &["/ui/tasks?q=t-99"]),
    ("frameworks", &["/ui/frameworks"]),
    ("offers and holders", &["/ui/offers"]),
    ("history", &["/ui/history"]),
];
const TIMES: usize = 7;
const RATE: f64 = 500.0;
const CLIENTS: usize = 64;
/// One after the other, while memory is looked at.
const LOADS: u32 = 6;

pub(crate) fn rows(bench: &Bench, report: &mut Report) {
    report.measure(&["page_ms", "page_growth_mb"], "pages for people", || {
        let agents = if bench.quick { 100 } else { 1_000 };
        let cluster = Plan::new().start();
        let master = cluster.address("m0");
        let (_agents, _launcher) = bench.runtime.block_on(populate(&cluster, agents))?;
        let size = format!("{agents} simulated agents, {} running tasks", agents * TASKS_PER_AGENT);
        let mut rows = Vec::new();
        for (what, paths) in PAGES {
            let ms = bench.runtime.block_on(times(master, paths))?;
            rows.push(Row::new("page_ms", format!("{what}, {size}"), median(ms), "ms"));
        }
        let (ms, growth) = followed(bench, &cluster, master)?;
        let params = format!("{}, while {RATE} commands/s are decided, {size}", PAGES[0].0);
        rows.push(Row::new("page_ms", params, median(ms.clone()), "ms"));
        rows.push(Row::new("page_growth_mb", format!("{} pages of tasks meanwhile, {size}", ms.len()), growth, "MB"));
        Ok(rows)
    });
}

/// How long each of some reads takes, in milliseconds.
async fn times(master: SocketAddr, paths: &[&str]) -> Fallible<Vec<f64>> {
    let mut connection = Connection::open(master).await?;
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let start = Instant::now();
        for path in paths {
            let status = connection.call(&http1::get(master, path)).await?;
            if status != 200 {
                return Err(format!("{path} is answered {status}").into());
            }
        }
        times.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(times)
}

/// The first page and that of tasks twice a second beside writers, as somebody who follows them reads them; and by how much
/// the master grew from the second third to the last: in the first it fills what it keeps.
fn followed(bench: &Bench, cluster: &Cluster, master: SocketAddr) -> Fallible<(Vec<f64>, f64)> {
    let pid = cluster.pid("m0").ok_or("no master")?;
    bench.runtime.block_on(async {
        let crowd = Crowd::subscribe(&[master], CLIENTS).await?;
        let reading = async {
            let (mut all, mut memory) = (Vec::new(), Vec::new());
            let mut every = tokio::time::interval(std::time::Duration::from_millis(500));
            let rounds = 2 * u64::from(LOADS) * (bench.span().warm_up + bench.span().measured).as_secs().max(2);
            let mut connection = Connection::open(master).await?;
            for _ in 0..rounds {
                every.tick().await;
                let start = Instant::now();
                for path in PAGES[0].1 {
                    connection.call(&http1::get(master, path)).await?;
                }
                all.push(start.elapsed().as_secs_f64() * 1000.0);
                connection.call(&http1::get(master, "/ui/tasks")).await?;
                memory.push(rss_mb(pid)?);
            }
            let third = memory.len() / 3;
            let (second, last) = (memory[third..2 * third].to_vec(), memory[2 * third..].to_vec());
            Fallible::Ok((all, median(last) - median(second)))
        };
        let loading = async {
            for _ in 0..LOADS {
                load::run(crowd.clients.clone(), Pace::PerSecond(RATE), bench.span()).await?;
            }
            Fallible::Ok(())
        };
        let (loaded, read) = tokio::join!(loading, reading);
        loaded?;
        read
    })
}

fn rss_mb(pid: u32) -> Fallible<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kb: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kb / 1024.0)
}
