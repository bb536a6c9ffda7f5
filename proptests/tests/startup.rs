//! What a daemon cannot start on is told in one clear sentence on stderr, with exit code 1, and nothing is damaged.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use proptests::cluster::{Plan, binary};

fn start(program: &str, flags: &[String]) -> Output {
    // One that starts after all is ended, and its exit code is not 1.
    Command::new("timeout").arg("20").arg(binary(program)).args(flags).output().expect("it starts")
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
    assert_refused(&start("meseta-agent", &agent), &["cluster"]);
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
}
