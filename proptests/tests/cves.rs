//! What was once wrong with Mesos itself, of each kind one: its public vulnerabilities, tried at the front doors of masters and
//! agents; and ways out of a task's sandbox that need no container to be ways out.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptests::cluster::{Cluster, Plan};
use proptests::framework::{Framework, command_task, info};
use proptests::http::{self, Request};
use serde_json::json;

/// All that somebody answers to these bytes; whoever hangs up has answered, too.
fn said(address: SocketAddr, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).expect("somebody listens");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// The daemons still serve, as the processes that they were.
fn all_is_well(cluster: &Cluster) {
    for name in cluster.masters().into_iter().chain(cluster.agents()) {
        let answer = http::send(cluster.address(&name), &Request::get("/health")).expect("it answers");
        assert_eq!(answer.status(), 200, "{name}");
        assert!(!cluster.log(&name).contains("panicked"), "{name}: {}", cluster.log(&name));
    }
}

fn doors(cluster: &Cluster) -> [SocketAddr; 2] {
    [cluster.address("m0"), cluster.address("a0")]
}

fn is_refused(answer: &str) -> bool {
    answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 501")
}

#[test]
fn cve_2017_7687_a_path_that_is_empty_harms_nobody() {
    let cluster = Plan::new().agents(1).start();
    for at in doors(&cluster) {
        for line in
            ["GET  HTTP/1.1", "POST  HTTP/1.1", "GET HTTP/1.1", "GET ? HTTP/1.1", "GET master@1.2.3.4:5 HTTP/1.1"]
        {
            let head = format!("{line}\r\nHost: h\r\nUser-Agent: libprocess/a@1.2.3.4:5\r\nContent-Length: 0\r\n\r\n");
            let answer = said(at, head.as_bytes());
            assert!(is_refused(&answer), "{line}: {answer}");
        }
    }
    all_is_well(&cluster);
}

#[test]
fn cve_2017_9790_a_path_that_cannot_be_decoded_harms_nobody() {
    let cluster = Plan::new().agents(1).start();
    for at in doors(&cluster) {
        for path in
            ["/%", "/%zz", "/master/%f", "/%c3%28", "/files/browse?path=%zz", "/state?%=%", "/slave(1)/%00%", "/%2"]
        {
            let answer = said(at, format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").as_bytes());
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 "), "{path}: {answer}");
            assert!(!answer.starts_with("HTTP/1.1 500"), "{path}: {answer}");
        }
    }
    all_is_well(&cluster);
}

#[test]
fn cve_2018_1330_broken_json_and_trailers_harm_nobody() {
    let cluster = Plan::new().agents(1).start();
    for at in doors(&cluster) {
        for path in ["/api/v1", "/api/v1/scheduler", "/api/v1/executor"] {
            for body in [
                "{",
                "{\"type\":",
                "\"\\ud800\"",
                "{\"type\":\"\\ud800\\u0041\"}",
                "nul",
                "1e999",
                "{\"type\":1e999}",
                "[",
                "\u{0}",
                "{\"\\u0000\":1}",
            ] {
                let answer = http::send(at, &Request::post_json(path, body)).expect("an answer");
                assert!((400..500).contains(&answer.status()), "{path} {body}: {}", answer.status());
            }
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\
                 Connection: close\r\n\r\n"
            );
            for rest in [
                "2\r\n{}\r\n0\r\nX: y\r\n\r\n",
                "2\r\n{}\r\n0\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n",
                "zz\r\n",
                "-1\r\n{}",
            ] {
                let answer = said(at, format!("{head}{rest}").as_bytes());
                assert!(is_refused(&answer), "{path} {rest:?}: {answer}");
            }
        }
    }
    all_is_well(&cluster);
}

#[test]
fn cve_2018_8023_a_signature_that_begins_right_is_wrong() {
    // That comparing takes as long however much is right is `hmac`'s and `blake3`'s word; that all of it is compared is seen.
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let key = "a key of some length";
    let cluster = Plan::new()
        .agents(1)
        .agent_flag("--authenticate_http_executors")
        .agent_flag(&format!("--jwt_secret_key={}", file("key", key)))
        .agent_flag(&format!("--http_credentials={}", file("credentials", "ops secret\n")))
        .start();
    let token = auth::Key::parse(key).expect("a key").mint(&[("fid", "F"), ("eid", "E")].into());
    let body = r#"{"type":"HEARTBEAT","framework_id":{"value":"F"},"executor_id":{"value":"E"}}"#;
    let shown = |token: &str| {
        let request = Request::post_json("/api/v1/executor", body).header("Authorization", &format!("Bearer {token}"));
        http::send(cluster.address("a0"), &request).expect("an answer").status()
    };
    assert_eq!(shown(&token), 202);
    let (signed, signature) = token.rsplit_once('.').expect("a signature");
    for length in [0, 4, 8, 40, signature.len() - 3] {
        let padded = format!("{}{}", &signature[..length], "A".repeat(signature.len() - length));
        assert_eq!(
            (shown(&format!("{signed}.{}", &signature[..length])), shown(&format!("{signed}.{padded}"))),
            (401, 401)
        );
    }
    all_is_well(&cluster);
}

#[test]
fn cve_2018_11793_json_of_any_depth_harms_nobody() {
    let cluster = Plan::new().agents(1).start();
    for at in doors(&cluster) {
        for path in ["/api/v1", "/api/v1/scheduler", "/api/v1/executor"] {
            for body in [
                "[".repeat(100_000),
                "{\"a\":".repeat(100_000),
                format!("{{\"type\":\"SUBSCRIBE\",\"subscribe\":{}1{}}}", "[".repeat(200_000), "]".repeat(200_000)),
                format!("{{\"type\":\"GET_STATE\",\"unknown\":{}1{}}}", "{\"a\":".repeat(50_000), "}".repeat(50_000)),
            ] {
                let answer = http::send(at, &Request::post_json(path, &body)).expect("an answer");
                assert!((400..500).contains(&answer.status()), "{path}: {}", answer.status());
            }
        }
    }
    for path in ["/maintenance/schedule", "/quota", "/reserve", "/machine/down"] {
        let answer =
            http::send(cluster.address("m0"), &Request::post_json(path, &"[".repeat(100_000))).expect("an answer");
        assert!((400..500).contains(&answer.status()), "{path}: {}", answer.status());
    }
    all_is_well(&cluster);
}

fn sandbox(cluster: &Cluster, task: &str) -> PathBuf {
    let one = |dir: PathBuf| fs::read_dir(&dir).expect("a folder").next().expect("an entry").expect("a name").path();
    let agent = one(cluster.work_dir("a0").join("slaves"));
    one(agent.join("frameworks")).join("executors").join(task).join("runs/latest")
}

fn run(framework: &mut Framework, id: &str, user: &str, command: &str) {
    let offer = framework.offer();
    let mut task = command_task(id, &offer, command);
    task["command"]["user"] = json!(user);
    framework.launch(&offer, &[task]);
    framework.until_state(id, "TASK_FINISHED");
}

fn output(cluster: &Cluster, task: &str) -> String {
    fs::read_to_string(sandbox(cluster, task).join("stdout")).expect("an output")
}

#[test]
fn cve_2019_0204_a_task_changes_nothing_of_what_runs_it() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let cluster = Plan::new().agents(1).start();
    let mut framework = Framework::subscribe(cluster.address("m0"), &info("escapes"));
    run(&mut framework, "secret", "root", "umask 077; echo hunter2 > kept; echo hunter2");
    let other = sandbox(&cluster, "secret");
    let launcher = proptests::cluster::binary("meseta-executor");
    let (before, length) =
        (fs::metadata(&launcher).expect("a program"), |path: &Path| fs::metadata(path).map(|of| of.len()).ok());
    let (work_dir, agent) = (cluster.work_dir("a0"), cluster.pid("a0").expect("it runs"));
    let script = format!(
        r#"for to in /proc/$PPID/exe /proc/$PPID/mem {launcher} {work_dir}/log {work_dir}/meta {work_dir}/x /proc/{agent}/mem; do
             (echo x >> $to) 2> /dev/null && echo wrote $to; (: > $to/x) 2> /dev/null && echo wrote $to/x; done
           for pid in $PPID {agent}; do kill -0 $pid 2> /dev/null && echo signals $pid; done
           for of in {other}/kept {other}/stdout /proc/$PPID/environ /proc/{agent}/environ; do
             cat $of 2> /dev/null && echo read $of; done
           ln -s {other} link; cat link/kept 2> /dev/null && echo followed
           for fd in /proc/$$/fd/*; do readlink $fd; done | grep -v -e /dev/null -e pipe: -e {own}
           echo over"#,
        launcher = launcher.display(),
        work_dir = work_dir.display(),
        other = other.display(),
        own = "executors/escape/",
    );
    run(&mut framework, "escape", "nobody", &script);
    assert_eq!(output(&cluster, "escape"), "over\n");
    let after = fs::metadata(&launcher).expect("a program");
    assert_eq!((after.len(), after.modified().ok()), (before.len(), before.modified().ok()));
    assert_eq!(length(&other.join("kept")), Some(8));

    // Whoever browses sandboxes sees what a task has linked to as little as the task does.
    let own = sandbox(&cluster, "escape");
    for path in ["link/kept", "../secret/runs/latest/kept", "../../secret/runs/latest/kept"] {
        let asked = Request::get(&format!("/files/read?path={}/{path}&offset=0", own.display()));
        let answer = http::send(cluster.address("a0"), &asked).expect("an answer");
        assert!(!answer.text().contains("hunter2"), "{path}: {}", answer.text());
    }
    all_is_well(&cluster);
}
