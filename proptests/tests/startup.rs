//! What a daemon cannot start on is told in one clear sentence on stderr, with exit code 1, and nothing is damaged.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use proptests::cluster::{Plan, binary};

fn start(program: &str, flags: &[String]) -> Output {
    // One that starts after all is ended, and its exit code is not 1.
    Command::new("timeout").arg("5").arg(binary(program)).args(flags).output().expect("it starts")
}

fn flags(work_dir: &Path, port: u16) -> Vec<String> {
    vec![format!("--work_dir={}", work_dir.display()), "--ip=127.0.0.1".into(), format!("--port={port}")]
}

/// The sentence is the last line; logs may stand before it.
fn assert_refused(output: &Output, said: &[&str]) {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let last = errors.lines().last().unwrap_or_default().to_owned();
    for part in said {
        assert!(last.contains(part), "{part:?} is not in {last:?}");
    }
    assert!(!errors.contains("panicked"), "{errors}");
}

#[test]
fn a_port_in_use() {
    let dir = tempfile::tempdir().expect("a folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let port_text = port.to_string();
    assert_refused(&start("meseta-master", &flags(&dir.path().join("m"), port)), &[&port_text, "in use"]);
    let mut agent = flags(&dir.path().join("a"), port);
    agent.push("--master=127.0.0.1:1".into());
    assert_refused(&start("meseta-agent", &agent), &[&port_text, "in use"]);
}

#[test]
fn a_work_dir_that_is_a_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("file");
    fs::write(&file, "precious").expect("written");
    let path = file.display().to_string();
    assert_refused(&start("meseta-master", &flags(&file, 0)), &[&path]);
    let mut agent = flags(&file, 0);
    agent.push("--master=127.0.0.1:1".into());
    assert_refused(&start("meseta-agent", &agent), &[&path]);
    assert_eq!(fs::read_to_string(&file).expect("still there"), "precious");
}

#[test]
fn a_work_dir_in_use() {
    let cluster = Plan::new().agents(1).start();
    let path = cluster.work_dir("m0").display().to_string();
    assert_refused(&start("meseta-master", &flags(&cluster.work_dir("m0"), 0)), &[&path]);
    let mut agent = flags(&cluster.work_dir("a0"), 0);
    agent.push(format!("--master={}", cluster.address("m0")));
    assert_refused(&start("meseta-agent", &agent), &[&cluster.work_dir("a0").display().to_string()]);
    cluster.get("m0", "/state");
}

#[test]
fn unknown_flags_suggest_the_nearest() {
    for (program, flag, nearest) in
        [("meseta-master", "--work_dri=/x", "work_dir"), ("meseta-agent", "--resorces=cpus:1", "resources")]
    {
        assert_refused(&start(program, &[flag.into()]), &[nearest]);
    }
}

/// An agent belongs to one cluster for good.
#[test]
fn an_agent_of_another_cluster() {
    let mut first = Plan::new().agents(1).start();
    first.stop("a0");
    let other = Plan::new().start();
    let mut agent = flags(&first.work_dir("a0"), 0);
    agent.push(format!("--master={}", other.address("m0")));
    agent.push("--resources=cpus:8;mem:8192;disk:8192;ports:[31000-31999]".into());
    assert_refused(&start("meseta-agent", &agent), &["cluster"]);
    // One of another cluster among its own is passed over.
    first.set_flag("a0", "master", Some(&format!("{},{}", other.address("m0"), first.address("m0"))));
    first.restart("a0");
    first.wait_ready();
}

/// An agent's disk is no master's.
#[test]
fn a_work_dir_of_something_else() {
    let mut cluster = Plan::new().agents(1).start();
    cluster.stop("a0");
    let path = cluster.work_dir("a0").display().to_string();
    assert_refused(&start("meseta-master", &flags(&cluster.work_dir("a0"), 0)), &[&path]);
    cluster.restart("a0");
    cluster.wait_ready();

    // Nor is a master's disk an agent's.
    cluster.stop("m0");
    let path = cluster.work_dir("m0").display().to_string();
    let mut agent = flags(&cluster.work_dir("m0"), 0);
    agent.push("--master=127.0.0.1:1".into());
    assert_refused(&start("meseta-agent", &agent), &[&path]);
    assert!(!cluster.work_dir("m0").join("log").exists(), "nothing was begun in it");
    cluster.restart("m0");
    cluster.wait_ready();
}

/// Changes the format that a log's folder claims, with the checksum that belongs to it.
fn claim_version(identity: &Path, version: &str) -> String {
    let before = fs::read_to_string(identity).expect("an identity");
    let (fields, _) = before.rsplit_once("crc32 ").expect("a checksum");
    let mut lines: Vec<String> = fields.lines().map(str::to_owned).collect();
    lines.iter_mut().filter(|line| line.starts_with("version ")).for_each(|line| *line = format!("version {version}"));
    let text = lines.join("\n") + "\n";
    fs::write(identity, format!("{text}crc32 {:08x}\n", crc32fast::hash(text.as_bytes()))).expect("written");
    before
}

#[test]
fn a_work_dir_of_a_newer_version() {
    let mut cluster = Plan::new().agents(1).start();
    cluster.stop("a0");
    cluster.stop("m0");
    for (name, program, inner) in [("m0", "meseta-master", ""), ("a0", "meseta-agent", "log")] {
        let work_dir = cluster.work_dir(name);
        let identity = work_dir.join(inner).join("identity");
        let before = claim_version(&identity, "99");
        let mut flags = flags(&work_dir, 0);
        if name == "a0" {
            flags.push("--master=127.0.0.1:1".into());
        }
        assert_refused(&start(program, &flags), &["99", "newer release"]);
        fs::write(identity, before).expect("written");
    }
    cluster.restart("m0");
    cluster.restart("a0");
    cluster.wait_ready();
}

/// Nobody but its owner may read it; and root, who may read everything, finds no folder but a socket.
#[test]
fn a_work_dir_that_cannot_be_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("socket");
    let _held = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let path = socket.display().to_string();
    assert_refused(&start("meseta-master", &flags(&socket, 0)), &[&path]);
    let mut agent = flags(&socket, 0);
    agent.push("--master=127.0.0.1:1".into());
    assert_refused(&start("meseta-agent", &agent), &[&path]);
}

/// A file's size limit stands for a disk that is full: the system refuses to write any more.
#[test]
fn a_full_disk() {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, program) in [("m", "meseta-master"), ("a", "meseta-agent")] {
        let work_dir = dir.path().join(name);
        let mut flags = flags(&work_dir, 0);
        if name == "a" {
            flags.push("--master=127.0.0.1:1".into());
        }
        // Ignored, SIGXFSZ lets the write fail with an error instead.
        let output = Command::new("timeout")
            .args(["20", "bash", "-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""])
            .arg(binary(program))
            .args(&flags)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .output()
            .expect("it starts");
        assert_refused(&output, &[&work_dir.display().to_string()]);
        // With room it starts where it was refused.
        let output = start(program, &flags);
        assert_eq!(output.status.code(), Some(124), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn bad_values() {
    let dir = tempfile::tempdir().expect("a folder");
    for (program, flag, said) in [
        ("meseta-master", "--port=70000", "70000"),
        ("meseta-master", "--ip=nowhere", "nowhere"),
        ("meseta-master", "--agent_ping_timeout=soon", "soon"),
        ("meseta-master", "--max_agent_ping_timeouts=0", "max_agent_ping_timeouts"),
        ("meseta-master", "--masters=127.0.0.1:1,127.0.0.1:2,127.0.0.1:3", "does not list this master"),
        ("meseta-agent", "--port=70000", "port"),
        ("meseta-agent", "--master=nobody", "nobody"),
        ("meseta-agent", "--resources=cpus:many", "cpus"),
        ("meseta-agent", "--isolation=magic", "magic"),
    ] {
        let work_dir = dir.path().join("w");
        let mut flags = vec![format!("--work_dir={}", work_dir.display()), flag.to_owned()];
        if program == "meseta-agent" && !flag.starts_with("--master") {
            flags.push("--master=127.0.0.1:1".into());
        }
        assert_refused(&start(program, &flags), &[said]);
    }
}

/// Every stop is an exit, not an abort in the middle of closing the log.
#[test]
fn a_clean_stop_is_clean_every_time() {
    let mut cluster = Plan::new().masters(1).start();
    for round in 0..15 {
        let status = cluster.stop("m0");
        assert_eq!(status.code(), Some(0), "round {round}: {status}\n{}", cluster.log("m0"));
        cluster.restart("m0");
        cluster.wait_ready();
    }
}
