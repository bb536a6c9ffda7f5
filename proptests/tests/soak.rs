//! Hostile clients of every kind beside an ordinary framework, on three masters and two agents: silent, slow, huge, deep,
//! half-open and flooding ones. Meanwhile the framework's calls take hardly longer, nobody loses the leadership, and no
//! process keeps what strangers made it hold.
//!
//! `SOAK_SECONDS` of it (30 if not given): `make soak`. Everything is on loopback, paced, and ends by itself.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proptests::cluster::{Cluster, Plan};
use proptests::framework::{Framework, SCHEDULER, info};
use proptests::http::{self, Request};
use serde_json::json;

/// Sockets that say nothing, on all processes together.
const SILENT: usize = 5_000;
/// A call may take so much longer than it does undisturbed.
const SLOWER_MAX: u32 = 5;
/// Less is noise.
const NOISE: Duration = Duration::from_millis(100);
/// A call is handed from one thread to the next so often: if the machine, which has the hostile clients to run as well, lets
/// threads wait, a call waits so many times.
const HANDS: u32 = 10;
/// What a process may have kept afterwards, in MiB.
const KEPT_MIB_MAX: u64 = 192;
/// What it may have held meanwhile, in MiB.
const HELD_MIB_MAX: u64 = 1024;
/// Between two calls of the framework.
const PACE: Duration = Duration::from_millis(20);

/// The ordinary framework's calls, on one connection that is kept.
struct Caller {
    socket: BufReader<TcpStream>,
    request: String,
}

impl Caller {
    fn new(framework: &Framework) -> Caller {
        let address = framework.address;
        let socket = TcpStream::connect(address).expect("a connection");
        socket.set_nodelay(true).expect("no delay");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        let body = json!({
            "type": "RECONCILE", "framework_id": {"value": framework.id},
            "reconcile": {"tasks": [{"task_id": {"value": "nobody"}}]},
        })
        .to_string();
        let request = format!(
            "POST {SCHEDULER} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nMesos-Stream-Id: {}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            framework.stream_id,
            body.len()
        );
        Caller { socket: BufReader::new(socket), request }
    }

    /// One call, and how long it took.
    fn call(&mut self) -> Duration {
        let began = Instant::now();
        self.socket.get_mut().write_all(self.request.as_bytes()).expect("the connection stays");
        let mut line = String::new();
        self.socket.read_line(&mut line).expect("an answer");
        if !line.starts_with("HTTP/1.1 202") {
            let _ = self.socket.get_ref().set_read_timeout(Some(Duration::from_secs(1)));
            let _ = self.socket.read_to_string(&mut line);
            panic!("{line}");
        }
        while line.trim_end() != "" {
            line.clear();
            assert!(self.socket.read_line(&mut line).expect("an answer") > 0, "the connection stays");
        }
        began.elapsed()
    }

    /// Calls until `until`; how long each took, the shortest first.
    fn calls(&mut self, until: Instant) -> Vec<Duration> {
        let mut took = Vec::new();
        while Instant::now() < until {
            took.push(self.call());
            thread::sleep(PACE);
        }
        took.sort();
        took
    }
}

/// How late threads are woken on this machine until `over`, the shortest first.
fn lateness(over: &AtomicBool) -> Vec<Duration> {
    const NAP: Duration = Duration::from_millis(5);
    let mut late = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        thread::sleep(NAP);
        late.push(began.elapsed() - NAP);
    }
    late.sort();
    late
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// What every hostile client knows.
struct Ground {
    targets: Vec<SocketAddr>,
    masters: Vec<SocketAddr>,
    over: AtomicBool,
    /// Attempts, for the record.
    tried: AtomicU64,
}

/// Ends the hostile clients, whatever becomes of the test.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Ground {
    /// Does `attack` on one target after the other, with pauses, until it is over.
    fn again(&self, targets: &[SocketAddr], pause: Duration, mut attack: impl FnMut(SocketAddr)) {
        for target in targets.iter().cycle() {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            attack(*target);
            self.tried.fetch_add(1, Ordering::Relaxed);
            thread::sleep(pause);
        }
    }

    /// Sockets that say nothing, or only half of what they should; whoever is cut comes back.
    fn silent(&self, sockets: usize, says: &[u8]) {
        let mut held: Vec<TcpStream> = Vec::new();
        self.again(&self.targets, Duration::ZERO, |target| {
            if held.len() >= sockets {
                // Those that were cut make room for new ones.
                held.retain(|socket| socket.set_nonblocking(true).is_ok() && !is_over(socket));
                thread::sleep(Duration::from_millis(if held.len() >= sockets { 500 } else { 0 }));
                return;
            }
            if let Ok(mut socket) = connect(target) {
                let _ = socket.write_all(says);
                held.push(socket);
            }
            thread::sleep(Duration::from_millis(1));
        });
    }

    /// Bodies that come byte by byte, or never.
    fn slow(&self) {
        let mut held: Vec<TcpStream> = Vec::new();
        self.again(&self.targets, Duration::from_millis(50), |target| {
            if held.len() < 100
                && let Ok(mut socket) = connect(target)
            {
                let head = "POST /api/v1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 16000000\r\n\r\n";
                let _ = socket.write_all(head.as_bytes());
                held.push(socket);
            }
            held.retain_mut(|socket| socket.write_all(b"{").is_ok());
        });
    }

    /// Much at once: bodies beyond what is taken, deep ones, many elements, heads without end.
    fn huge(&self) {
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        let role = vec!["a"; 20_000].join("/");
        let many = format!(
            r#"{{"type":"ACCEPT","framework_id":{{"value":"x"}},"accept":{{"operations":[{}{{}}]}}}}"#,
            "{},".repeat(300_000)
        );
        let roles = json!({"type": "SUBSCRIBE", "subscribe": {"framework_info": {
            "user": "root", "name": "deep", "roles": [role], "capabilities": [{"type": "MULTI_ROLE"}]}}})
        .to_string();
        let large = "x".repeat(20 << 20);
        let bodies = [deep, many, roles, large];
        let mut turn = 0;
        self.again(&self.targets, Duration::from_millis(700), |target| {
            turn += 1;
            let body = &bodies[turn % bodies.len()];
            for path in [SCHEDULER, "/api/v1"] {
                let _ = http::send_within(target, &Request::post_json(path, body), Duration::from_secs(5));
            }
            if let Ok(mut socket) = connect(target) {
                let _ = socket.write_all(format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(1 << 20)).as_bytes());
            }
        });
    }

    /// Readers who ask for everything and read nothing.
    fn half_open(&self) {
        let mut held: Vec<TcpStream> = Vec::new();
        self.again(&self.masters, Duration::from_millis(25), |target| {
            if held.len() >= 300 {
                held.drain(..100);
            }
            let body = r#"{"type":"SUBSCRIBE"}"#;
            let watch = format!(
                "POST /api/v1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            for request in [watch.as_str(), "GET /state?stale=true HTTP/1.1\r\nHost: x\r\n\r\n"] {
                if let Ok(mut socket) = connect(target) {
                    let _ = socket.write_all(request.as_bytes());
                    held.push(socket);
                }
            }
        });
    }

    /// Everything that is expensive to answer, as fast as one client gets it.
    fn flood(&self, path: &str) {
        self.again(&self.masters, Duration::from_millis(20), |target| {
            let request = Request::get(path).header("Accept-Encoding", "gzip");
            let _ = http::send_within(target, &request, Duration::from_secs(5));
        });
    }
}

fn connect(target: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&target, Duration::from_secs(2))?;
    socket.set_write_timeout(Some(Duration::from_millis(500)))?;
    Ok(socket)
}

fn is_over(mut socket: &TcpStream) -> bool {
    let mut bytes = [0; 512];
    match socket.read(&mut bytes) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// Resident memory of a process, in MiB.
fn memory_mib(cluster: &Cluster, name: &str) -> u64 {
    let pid = cluster.pid(name).expect("it runs");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1024
}

/// How often any master began to lead.
fn elections(cluster: &Cluster) -> usize {
    cluster.masters().iter().map(|name| cluster.log(name).matches("this master leads").count()).sum()
}

#[test]
fn hostile_clients_hold_up_nobody() {
    let seconds: u64 = env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let cluster = Plan::new().masters(3).agents(2).start();
    let names: Vec<String> = cluster.masters().into_iter().chain(cluster.agents()).collect();
    let framework = Framework::subscribe(cluster.address(&cluster.leader()), &info("ordinary"));
    let mut caller = Caller::new(&framework);
    let records = framework.records;
    // Its events are read, as an ordinary framework does.
    thread::spawn(move || {
        let mut records = records;
        while let Ok(Some(_)) = records.next(Duration::from_secs(600)) {}
    });

    let quiet = caller.calls(Instant::now() + Duration::from_secs((seconds / 6).max(5)));
    let (elected, before) =
        (elections(&cluster), names.iter().map(|name| memory_mib(&cluster, name)).collect::<Vec<_>>());
    let ground = Ground {
        targets: names.iter().map(|name| cluster.address(name)).collect(),
        masters: cluster.masters().iter().map(|name| cluster.address(name)).collect(),
        over: AtomicBool::new(false),
        tried: AtomicU64::new(0),
    };
    let mut most = before.clone();
    let (disturbed, late) = thread::scope(|scope| {
        let ground = &ground;
        let over = Over(&ground.over);
        let late = scope.spawn(|| lateness(&ground.over));
        scope.spawn(|| ground.silent(SILENT * 4 / 5, b""));
        scope.spawn(|| ground.silent(SILENT / 5, b"POST /api/v1 HTTP/1.1\r\nHost: "));
        scope.spawn(|| ground.slow());
        scope.spawn(|| ground.huge());
        scope.spawn(|| ground.half_open());
        for path in ["/state", "/slaves", "/metrics/snapshot", "/tasks?stale=true"] {
            scope.spawn(|| ground.flood(path));
        }
        let until = Instant::now() + Duration::from_secs(seconds);
        let mut took = Vec::new();
        while Instant::now() < until {
            took.extend(caller.calls((Instant::now() + Duration::from_secs(2)).min(until)));
            for (name, most) in names.iter().zip(&mut most) {
                *most = memory_mib(&cluster, name).max(*most);
            }
        }
        took.sort();
        drop(over);
        (took, late.join().expect("numbers"))
    });
    // Time for what was given up to be given back.
    thread::sleep(Duration::from_secs(5));
    let after: Vec<u64> = names.iter().map(|name| memory_mib(&cluster, name)).collect();
    let (undisturbed, p99, late) = (percentile(&quiet, 99), percentile(&disturbed, 99), percentile(&late, 99));
    println!(
        "soak: {seconds} s, {} attempts; calls p50 {:?} -> {:?}, p99 {undisturbed:?} -> {p99:?}, longest {:?}; threads are \
         woken {late:?} late",
        ground.tried.load(Ordering::Relaxed),
        percentile(&quiet, 50),
        percentile(&disturbed, 50),
        disturbed.last(),
    );
    for (((name, before), most), after) in names.iter().zip(&before).zip(&most).zip(&after) {
        println!("soak: {name}: {before} MiB before, {most} at most, {after} afterwards");
    }
    let statistics = cluster.get(&cluster.leader(), "/metrics/snapshot");
    let turned: Vec<_> = statistics.as_object().expect("an object").iter().collect();
    for (name, value) in turned.iter().filter(|(name, _)| name.contains("meseta/connections")) {
        println!("soak: {name} {value}");
    }
    assert_eq!(elections(&cluster), elected, "a leadership was lost");
    let slow = (undisturbed * SLOWER_MAX).max(NOISE) + late * HANDS;
    assert!(p99 <= slow, "{p99:?} instead of {undisturbed:?}, {slow:?} at most");
    for (((name, before), most), after) in names.iter().zip(&before).zip(&most).zip(&after) {
        assert!(after.saturating_sub(*before) <= KEPT_MIB_MAX, "{name} keeps {after} MiB, {before} before");
        assert!(*most <= HELD_MIB_MAX, "{name} held {most} MiB");
    }
}
