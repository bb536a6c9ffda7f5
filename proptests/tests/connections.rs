//! Connections as clients have them: idle ones stay, writes are never taken for done, and whoever asks a master that has
//! no leader hears why.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use proptests::cluster::{Cluster, Plan};
use proptests::framework::{Framework, SCHEDULER, info};
use proptests::http::{self, Request};
use proptests::wait;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

/// One connection that is kept open.
struct Kept(BufReader<TcpStream>, SocketAddr);

impl Kept {
    fn open(address: SocketAddr) -> Kept {
        let socket = TcpStream::connect(address).expect("a connection");
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        Kept(BufReader::new(socket), address)
    }

    /// Status and body of the answer, or what stands in the way.
    fn ask(&mut self, path: &str, headers: &str, body: &str) -> Result<(u16, String), std::io::Error> {
        let address = self.1;
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nAccept: application/json\r\n\
             {headers}Content-Length: {length}\r\n\r\n{body}"
        );
        self.0.get_mut().write_all(request.as_bytes())?;
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest[..3].parse().unwrap_or(0);
            } else if let Some((name, value)) = line.split_once(": ") {
                if name.eq_ignore_ascii_case("content-length") {
                    length = value.parse().expect("a length");
                }
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

/// Unmodified C++ clients keep two connections and take the end of the second for the end of the master: after half a
/// minute without a call their framework was disconnected and its tasks killed.
#[test]
fn a_connection_that_was_silent_for_longer_than_a_usual_limit_still_serves() {
    let cluster = Plan::new().agents(1).start();
    let (master, agent) = (cluster.address("m0"), cluster.address("a0"));
    let second = Kept::open(master);
    let mut framework = info("quiet");
    framework["failover_timeout"] = json!(0.0);
    let framework = Framework::subscribe(master, &framework);
    let stream = format!("Mesos-Stream-Id: {}\r\n", framework.stream_id);
    let reconcile =
        json!({"type": "RECONCILE", "framework_id": {"value": framework.id}, "reconcile": {"tasks": []}}).to_string();
    let version = r#"{"type":"GET_VERSION"}"#.to_owned();
    let calls = [
        (Kept::open(master), SCHEDULER, stream.clone(), reconcile.clone(), 202),
        (Kept::open(master), "/api/v1", String::new(), version.clone(), 200),
        (Kept::open(agent), "/api/v1", String::new(), version, 200),
    ];
    thread::scope(|scope| {
        for (mut kept, path, headers, body, expected) in calls {
            scope.spawn(move || {
                for _ in 0..2 {
                    let (status, text) = kept.ask(path, &headers, &body).expect("an answer on the same connection");
                    assert_eq!(status, expected, "{path}: {text}");
                    thread::sleep(Duration::from_secs(33));
                }
            });
        }
        // The second connection of a client with a stream has never said anything yet.
        scope.spawn(|| {
            let mut second = second;
            thread::sleep(Duration::from_secs(34));
            let answer = second.ask(SCHEDULER, &stream, &reconcile).expect("an answer on the second connection");
            assert_eq!(answer.0, 202);
        });
    });
    let frameworks = cluster.get("m0", "/frameworks");
    assert_eq!(frameworks["frameworks"][0]["connected"], true, "{frameworks}");
}

fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String, Option<String>) {
    let request = Request { method: method.into(), ..Request::post_json(path, body) };
    let answer = http::send(address, &request).expect("an answer");
    (answer.status(), answer.text(), answer.head.header("allow").map(str::to_owned))
}

#[test]
fn no_write_is_answered_as_if_it_were_done() {
    let cluster = Plan::new().agents(1).start();
    let (master, agent) = (cluster.address("m0"), cluster.address("a0"));
    let guarantee = r#"{"role":"dev","guarantee":[{"name":"cpus","type":"SCALAR","scalar":{"value":1}}]}"#;
    for prefix in ["", "/master"] {
        // What is answered as done shows.
        for (method, path, body, shown_at, shown, is_there) in [
            ("POST", "/quota", guarantee, "/quota", "dev", true),
            ("DELETE", "/quota/dev", "", "/quota", "dev", false),
            ("PUT", "/weights", r#"[{"role":"a","weight":2}]"#, "/weights", "2.0", true),
            ("PUT", "/weights", r#"[{"role":"a","weight":3}]"#, "/weights", "3.0", true),
        ] {
            let (status, text, _) = ask(master, method, &format!("{prefix}{path}"), body);
            assert_eq!(status, 200, "{method} {path}: {text}");
            let (_, text, _) = ask(master, "GET", &format!("{prefix}{shown_at}"), "");
            assert_eq!(text.contains(shown), is_there, "{method} {path}: {text}");
        }
        for (method, path, body) in [
            ("POST", "/quota", "{}"),
            ("DELETE", "/quota/dev", ""),
            ("PUT", "/weights", "[{}]"),
            ("POST", "/machine/down", "[]"),
            ("POST", "/machine/up", "[]"),
            ("POST", "/reserve", ""),
            ("POST", "/unreserve", ""),
            ("POST", "/create-volumes", ""),
            ("POST", "/destroy-volumes", ""),
        ] {
            let (status, text, _) = ask(master, method, &format!("{prefix}{path}"), body);
            assert!(status == 400 && !text.is_empty(), "{method} {path}: {status} {text}");
        }
        for (method, path, allow) in [
            ("PUT", "/quota", "GET, POST, DELETE"),
            ("POST", "/weights", "GET, PUT"),
            ("DELETE", "/weights", "GET, PUT"),
            ("PUT", "/maintenance/schedule", "GET, POST"),
            ("POST", "/maintenance/status", "GET"),
            ("GET", "/machine/down", "POST"),
            ("GET", "/teardown", "POST"),
            ("GET", "/api/v1", "POST"),
            ("PUT", "/api/v1/scheduler", "POST"),
        ] {
            let (status, text, allowed) = ask(master, method, &format!("{prefix}{path}"), "");
            assert_eq!((status, allowed.as_deref()), (405, Some(allow)), "{method} {path}: {text}");
        }
        for (path, body) in [("/quota", "{}"), ("/maintenance/schedule", "{}")] {
            let answer = ask(master, "GET", &format!("{prefix}{path}"), "");
            assert_eq!((answer.0, answer.1.as_str()), (200, body), "{path}");
        }
        // Mesos does not look at the method of these, and neither do clients.
        for path in ["/state", "/slaves", "/metrics/snapshot", "/version", "/flags"] {
            assert_eq!(ask(master, "POST", &format!("{prefix}{path}"), "").0, 200, "{path}");
        }
    }
    for address in [master, agent] {
        let (status, text, _) = ask(address, "GET", "/metrics/snapshot?timeout=abc", "");
        assert!(status == 400 && text.contains("Invalid timeout 'abc'"), "{status} {text}");
        assert_eq!(ask(address, "GET", "/metrics/snapshot?timeout=5secs", "").0, 200);
    }
    // What streams is refused in a word, however it would be taken.
    for (call, refused) in [
        ("LAUNCH_NESTED_CONTAINER_SESSION", (400, "Parent container p does not exist")),
        ("ATTACH_CONTAINER_OUTPUT", (500, "Unknown container p.c")),
    ] {
        let id = json!({"value": "c", "parent": {"value": "p"}});
        let body = json!({"type": call, call.to_lowercase(): {"container_id": id}}).to_string();
        for accept in ["application/json", "application/recordio"] {
            let request =
                Request { headers: Vec::new(), ..Request::post_json("/api/v1", &body) }.header("Accept", accept);
            let answer = http::send(agent, &request.header("Content-Type", "application/json")).expect("an answer");
            assert_eq!((answer.status(), answer.text().as_str()), refused, "{call}");
        }
    }
}

#[test]
fn without_a_quorum_whoever_asks_hears_who_does_not_answer() {
    let mut cluster = Plan::new().masters(3).start();
    let leader = cluster.leader();
    let others: Vec<String> = cluster.masters().into_iter().filter(|name| *name != leader).collect();
    let (gone, left) = (others[0].clone(), others[1].clone());
    cluster.kill(&gone);
    cluster.kill(&leader);
    let address = cluster.address(&left);
    let names = [cluster.address(&gone).to_string(), cluster.address(&leader).to_string()];
    let sentence = wait::until("the masters to be named", LIMIT, || {
        let answer = http::send(address, &Request::get("/state")).ok()?;
        assert!([503, 307].contains(&answer.status()), "{}", answer.text());
        let text = answer.text();
        names.iter().all(|name| text.contains(name)).then_some(text)
    });
    assert!(sentence.starts_with("No leader elected: ") && sentence.contains("1 of 3 masters, 2 needed"), "{sentence}");
    for path in ["/slaves", "/tasks", "/redirect"] {
        let answer = http::send(address, &Request::get(path)).expect("an answer");
        assert_eq!((answer.status(), answer.text()), (503, sentence.clone()), "{path}");
    }
    let refused = Framework::try_subscribe(address, &info("late")).expect_err("a refusal");
    assert_eq!(refused, format!("503 {sentence}"), "nothing was tried");
    let log =
        wait::until("a line in its log", LIMIT, || Some(cluster.log(&left)).filter(|log| log.contains("no leader: ")));
    assert!(log.lines().any(|line| line.contains("WARN") && names.iter().all(|name| line.contains(name))), "{log}");
    cluster.start_one(&gone);
    cluster.wait_ready();
    let leader = cluster.leader();
    assert_eq!(http::send(cluster.address(&leader), &Request::get("/state")).expect("an answer").status(), 200);
}

/// Resident memory of a process, in MiB.
fn memory_mib(cluster: &Cluster, name: &str) -> u64 {
    let pid = cluster.pid(name).expect("it runs");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1024
}

#[test]
fn silent_watchers_share_the_state_that_they_do_not_read() {
    let cluster = Plan::new().start();
    let address = cluster.address("m0");
    // Some MiB of state, in few calls.
    let frameworks: Vec<Framework> = (0..40)
        .map(|number| {
            let mut large = info(&format!("large{number}"));
            let labels: Vec<Value> =
                (0..6).map(|key| json!({"key": format!("k{key}"), "value": "x".repeat(10_000)})).collect();
            large["labels"] = json!({"labels": labels});
            Framework::subscribe(address, &large)
        })
        .collect();
    let subscribe = Request::post_json("/api/v1", r#"{"type":"SUBSCRIBE"}"#);
    let warm = http::open(address, &subscribe).expect("a stream");
    let before = memory_mib(&cluster, "m0");
    let silent: Vec<_> = (0..200).map(|_| http::open(address, &subscribe).expect("a stream")).collect();
    let grown = memory_mib(&cluster, "m0").saturating_sub(before);
    // Each for itself they would hold 2.4 MiB and more.
    assert!(grown < 150, "{grown} MiB for {} watchers", silent.len());
    drop((silent, warm, frameworks));
}
