//! Masters under load: how many commands a second, how late, and how long without a leader.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use proptests::cluster::{Cluster, Plan, binary};
use serde_json::json;
use tokio::task::JoinSet;

use crate::agents::Agents;
use crate::etcd::{self, Etcd};
use crate::http1::{Connection, Login};
use crate::load::{self, Client, Outcome, Pace, Span};
use crate::processes::CpuWatch;
use crate::report::{Report, Row};
use crate::scheduler::Crowd;
use crate::tasks::Launcher;
use crate::{Bench, Fallible};

/// Clients of the rows about throughput.
const CLIENTS: usize = 256;
/// How long a client waits in vain before it asks anew, while there is no leader.
const PATIENCE: Duration = Duration::from_millis(200);
const CALL: &str = "SUPPRESS and REVIVE in turn";

pub(crate) fn rows(bench: &Bench, report: &mut Report) {
    report.measure(&["commands_per_s"], "three masters, 256 clients", || throughput(bench, 3, Spread::Leader));
    report.measure(&["commands_per_s"], "three masters, 256 clients spread", || throughput(bench, 3, Spread::All));
    report.measure(&["commands_per_s"], "one master, 256 clients", || throughput(bench, 1, Spread::Leader));
    report.measure(&["guarded_commands"], "three masters, 256 clients, TLS and lists", || guarded(bench));
    report.measure(&["commit_p99_ms"], "three masters, 1,000 commands/s", || offered(bench, 1_000.0));
    report.measure(&["call_p50_ms"], "one master, one client", || serial(bench));
    report.measure(&["failover_commit_ms"], "three masters, the leader killed", || failover(bench));
}

/// Which members clients talk to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spread {
    Leader,
    All,
}

impl Spread {
    fn text(self) -> &'static str {
        match self {
            Self::Leader => "at the leader",
            Self::All => "spread over all",
        }
    }
}

/// Processes of a cluster, for their costs.
pub(crate) fn pids(cluster: &Cluster) -> Vec<(String, u32)> {
    let names = cluster.masters().into_iter().chain(cluster.agents());
    names.filter_map(|name| cluster.pid(&name).map(|pid| (name, pid))).collect()
}

fn addresses(cluster: &Cluster, spread: Spread) -> Vec<SocketAddr> {
    match spread {
        Spread::Leader => vec![cluster.address(&cluster.leader())],
        Spread::All => cluster.masters().iter().map(|name| cluster.address(name)).collect(),
    }
}

/// Makes load on masters by frameworks of their own.
fn load_masters(bench: &Bench, cluster: &Cluster, clients: usize, spread: Spread, pace: Pace) -> Fallible<Outcome> {
    load_masters_as(bench, cluster, clients, spread, pace, None)
}

fn load_masters_as(
    bench: &Bench,
    cluster: &Cluster,
    clients: usize,
    spread: Spread,
    pace: Pace,
    login: Option<&Login>,
) -> Fallible<Outcome> {
    let addresses = addresses(cluster, spread);
    bench.runtime.block_on(async {
        let crowd = Crowd::subscribe_as(&addresses, clients, login).await?;
        let watch = CpuWatch::start(pids(cluster));
        let outcome = load::run(crowd.clients.clone(), pace, bench.span()).await;
        watch.report();
        outcome
    })
}

fn load_etcd(bench: &Bench, members: usize, clients: usize, spread: Spread, pace: Pace) -> Fallible<Outcome> {
    bench.runtime.block_on(async {
        let etcd = Etcd::start(members).await?;
        let clients = match spread {
            Spread::Leader => etcd.clients_of_leader(clients).await?,
            Spread::All => etcd.clients_spread(clients),
        };
        let watch = CpuWatch::start(etcd.pids());
        let outcome = load::run(clients, pace, bench.span()).await;
        watch.report();
        outcome
    })
}

fn throughput(bench: &Bench, masters: usize, spread: Spread) -> Fallible<Vec<Row>> {
    // One after the other: each has the machine to itself.
    let cluster = Plan::new().masters(masters).start();
    let ours = load_masters(bench, &cluster, CLIENTS, spread, Pace::Closed);
    drop(cluster);
    let ours = ours?;
    let params = format!("{masters} masters, {CLIENTS} clients {}, {CALL}", spread.text());
    let row = Row::new("commands_per_s", params, ours.per_second(), "1/s");
    Ok(vec![beside(row, load_etcd(bench, masters, CLIENTS, spread, Pace::Closed), Outcome::per_second)])
}

/// What it costs that clients come by TLS, show a secret, and are looked up in lists; masters speak TLS among themselves.
fn guarded(bench: &Bench) -> Fallible<Vec<Row>> {
    let cluster = Plan::new().masters(3).start();
    let plain = load_masters(bench, &cluster, CLIENTS, Spread::Leader, Pace::Closed);
    drop(cluster);
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name).display().to_string();
    let made = Command::new(binary("meseta")).args(["certs", &path("certs"), "localhost,127.0.0.1"]).output()?;
    if !made.status.success() {
        return Err(String::from_utf8_lossy(&made.stderr).into());
    }
    std::fs::write(path("credentials"), "load a-secret\n")?;
    // As long as lists of some teams are.
    let entry = |who: String| json!({"principals": {"values": [who]}, "roles": {"values": ["*", "team", "team/%"]}});
    let entries: Vec<_> = (0..20).map(|team| entry(format!("team-{team}"))).chain([entry("load".into())]).collect();
    std::fs::write(path("acls"), json!({"permissive": false, "register_frameworks": entries}).to_string())?;
    let mut plan = Plan::new().masters(3);
    for flag in [
        // The cluster is looked after without TLS.
        "--ssl_enabled --ssl_support_downgrade --ssl_verify_server_cert --ssl_verify_ipadd".to_owned(),
        format!("--ssl_ca_file={}", path("certs/ca.pem")),
        format!("--ssl_cert_file={} --ssl_key_file={}", path("certs/localhost.pem"), path("certs/localhost.key")),
        "--authenticate_http_frameworks --http_framework_authenticators=basic".to_owned(),
        format!("--credentials={} --acls={}", path("credentials"), path("acls")),
    ] {
        plan = flag.split(' ').fold(plan, Plan::master_flag);
    }
    let cluster = plan.start();
    let login = Login::new("load", "a-secret")?;
    let guarded = load_masters_as(bench, &cluster, CLIENTS, Spread::Leader, Pace::Closed, Some(&login));
    drop(cluster);
    let (plain, guarded) = (plain?.per_second(), guarded?.per_second());
    let params = format!(
        "3 masters, {CLIENTS} clients at the leader, {CALL}: {guarded:.0}/s by TLS, with a secret and lists ÷ {plain:.0}/s without"
    );
    Ok(vec![Row::new("guarded_commands", params, guarded / plain, "×")])
}

fn offered(bench: &Bench, rate: f64) -> Fallible<Vec<Row>> {
    let cluster = Plan::new().masters(3).start();
    let ours = load_masters(bench, &cluster, CLIENTS, Spread::Leader, Pace::PerSecond(rate));
    drop(cluster);
    let ours = ours?;
    let params = format!("3 masters, {rate} commands/s offered by {CLIENTS} clients, {CALL}");
    let row = Row::new("commit_p99_ms", params, ours.quantile_ms(0.99), "ms");
    let peer = load_etcd(bench, 3, CLIENTS, Spread::Leader, Pace::PerSecond(rate));
    Ok(vec![beside(row, peer, |outcome| outcome.quantile_ms(0.99))])
}

fn serial(bench: &Bench) -> Fallible<Vec<Row>> {
    let cluster = Plan::new().start();
    let ours = load_masters(bench, &cluster, 1, Spread::Leader, Pace::Closed);
    drop(cluster);
    let declines = if bench.quick { 50 } else { 500 };
    let decline = serial_declines(bench, declines);
    let ours = ours?;
    let peer = load_etcd(bench, 1, 1, Spread::Leader, Pace::Closed).map(|outcome| outcome.quantile_ms(0.5));
    let row = |what: String, value| Row::new("call_p50_ms", format!("1 master, 1 client, {what}"), value, "ms");
    let mut rows =
        vec![row(format!("{declines} × DECLINE of one offer"), decline?), row(CALL.into(), ours.quantile_ms(0.5))];
    match peer {
        Ok(peer) => rows = rows.into_iter().map(|row| row.beside(etcd::NAME, peer)).collect(),
        Err(error) => eprintln!("bench: no peer: {error}"),
    }
    Ok(rows)
}

/// Median of DECLINE calls on one connection, each of the one offer of a simulated agent.
fn serial_declines(bench: &Bench, count: usize) -> Fallible<f64> {
    let cluster = Plan::new().start();
    bench.runtime.block_on(async {
        let address = cluster.address("m0");
        let _agents = Agents::register(&[address], count, 4.0, 4096.0).await?;
        let mut launcher = Launcher::start(&cluster, "decline").await?;
        let mut requests = Vec::new();
        while requests.len() < count {
            requests.extend(launcher.offers().await?.iter().map(|offer| {
                launcher.framework.request(json!({"type": "DECLINE", "decline": {
                    "offer_ids": [offer["id"]], "filters": {"refuse_seconds": 3600.0}}}))
            }));
        }
        let mut connection = Connection::open(address).await?;
        let mut times = Vec::new();
        for request in requests {
            let start = Instant::now();
            let status = connection.call(&request).await?;
            if status != 202 {
                return Err(format!("DECLINE is answered {status}").into());
            }
            times.push(start.elapsed().as_secs_f64() * 1000.0);
        }
        Ok(median_and_worst(times).0)
    })
}

/// A row stands without its peer, too.
fn beside(row: Row, peer: Fallible<Outcome>, value: impl Fn(&Outcome) -> f64) -> Row {
    match peer {
        Ok(outcome) => row.beside(etcd::NAME, value(&outcome)),
        Err(error) => {
            eprintln!("bench: no peer: {error}");
            row
        }
    }
}

/// Kills leaders one after the other; each comes back before the next one goes.
fn failover(bench: &Bench) -> Fallible<Vec<Row>> {
    let rounds = if bench.quick { 2 } else { 7 };
    let mut cluster = Plan::new().masters(3).start();
    let mut times = Vec::new();
    for _ in 0..rounds {
        let leader = cluster.leader();
        let others: Vec<SocketAddr> =
            cluster.masters().iter().filter(|name| **name != leader).map(|name| cluster.address(name)).collect();
        let crowd = bench.runtime.block_on(async {
            let crowd = Crowd::subscribe(&others, 4).await?;
            let span = Span { warm_up: Duration::ZERO, measured: Duration::from_millis(300) };
            load::run(crowd.clients.clone(), Pace::Closed, span).await?;
            Fallible::Ok(crowd)
        })?;
        let killed = Instant::now();
        cluster.kill(&leader);
        times.push(bench.runtime.block_on(first_success(&crowd.clients, killed))?);
        cluster.restart(&leader);
        cluster.wait_ready();
    }
    drop(cluster);
    let peer = bench.runtime.block_on(etcd_failover(rounds.min(3)));
    let (median, worst) = median_and_worst(times);
    let row = |which: &str, value| {
        Row::new("failover_commit_ms", format!("3 masters, clients at followers, {which} of {rounds}"), value, "ms")
    };
    let median = row("median", median);
    let median = match peer {
        Ok(times) => median.beside(etcd::NAME, median_and_worst(times).0),
        Err(error) => {
            eprintln!("bench: no peer: {error}");
            median
        }
    };
    Ok(vec![median, row("worst", worst)])
}

async fn etcd_failover(rounds: usize) -> Fallible<Vec<f64>> {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let mut etcd = Etcd::start(3).await?;
        let clients = etcd.clients_of_followers(4).await?;
        let killed = etcd.kill_leader().await?;
        times.push(first_success(&clients, killed).await?);
    }
    Ok(times)
}

/// Milliseconds from `since` to the first success of a call made from now on. Who is refused tries again.
pub(crate) async fn first_success(clients: &[Client], since: Instant) -> Fallible<f64> {
    let mut trying = JoinSet::new();
    for client in clients.iter().cloned() {
        trying.spawn(async move {
            loop {
                if let Ok(mut connection) = Connection::open(client.address).await {
                    for request in client.requests.iter().cycle() {
                        // A call sent into the gap may hang there for long: a client that wants an answer asks anew.
                        let answer = tokio::time::timeout(PATIENCE, connection.call(request)).await;
                        match answer {
                            Ok(Ok(status)) if status / 100 == 2 => return since.elapsed(),
                            Ok(Ok(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                            Ok(Err(_)) | Err(_) => break,
                        }
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    let first = tokio::time::timeout(Duration::from_secs(60), trying.join_next()).await;
    let first = first.map_err(|_| "no write succeeded within 60 s of the kill")?.ok_or("no clients")??;
    Ok(first.as_secs_f64() * 1000.0)
}

fn median_and_worst(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() - 1])
}
