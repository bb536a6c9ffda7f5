//! Checks and health checks of command tasks, through real agents.

mod common;

use std::net::TcpListener;
use std::time::Duration;

use api::v1::{self, TaskState, check_info, health_check, task_status::Reason};
use common::{Master, RealAgent, task};

fn command(value: &str) -> v1::CommandInfo {
    v1::CommandInfo { value: Some(value.into()), ..Default::default() }
}

fn check_of(kind: check_info::Type) -> v1::CheckInfo {
    v1::CheckInfo {
        r#type: Some(kind as i32),
        delay_seconds: Some(0.0),
        interval_seconds: Some(0.1),
        timeout_seconds: Some(5.0),
        ..Default::default()
    }
}

fn by_command(value: &str) -> v1::CheckInfo {
    let command = Some(check_info::Command { command: command(value) });
    v1::CheckInfo { command, ..check_of(check_info::Type::Command) }
}

fn health_of(kind: health_check::Type) -> v1::HealthCheck {
    v1::HealthCheck {
        r#type: Some(kind as i32),
        delay_seconds: Some(0.0),
        interval_seconds: Some(0.1),
        timeout_seconds: Some(5.0),
        grace_period_seconds: Some(0.0),
        consecutive_failures: Some(2),
        ..Default::default()
    }
}

fn healthy_by(value: &str) -> v1::HealthCheck {
    v1::HealthCheck { command: Some(command(value)), ..health_of(health_check::Type::Command) }
}

/// What was told of a task: state, exit code of the check, healthy.
fn told(master: &Master, id: &str) -> Vec<String> {
    let known: Vec<v1::TaskStatus> =
        master.known.lock().statuses().filter(|status| status.task_id.value == id).collect();
    let tell = |status: &v1::TaskStatus| {
        let mut text = status.state().as_str_name().trim_start_matches("TASK_").to_lowercase();
        if let Some(check) = &status.check_status {
            let code = check.command.as_ref().and_then(|command| command.exit_code).map(|code| code.to_string());
            let code = code.or_else(|| Some(check.http?.status_code?.to_string()));
            let code = code.or_else(|| Some(check.tcp?.succeeded?.to_string()));
            text += &format!(" check={}", code.unwrap_or_default());
        }
        if let Some(healthy) = status.healthy {
            text += &format!(" healthy={healthy}");
        }
        match status.reason.map(|_| status.reason()) {
            None => {}
            Some(Reason::TaskCheckStatusUpdated) => text += " because=check",
            Some(Reason::TaskHealthCheckStatusUpdated) => text += " because=health",
            Some(other) => text += &format!(" because={other:?}"),
        }
        text
    };
    known.iter().map(tell).collect()
}

async fn until(master: &Master, id: &str, what: &str) -> Vec<String> {
    let begun = std::time::Instant::now();
    loop {
        let told = told(master, id);
        if told.last().is_some_and(|last| last == what) {
            return told;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{id} waits for '{what}': {told:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_of_a_check_is_told() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let mut changing = task("changing", "while ! test -f done; do sleep 0.05; done; sleep 0.4; exit 5");
    changing.check = Some(Box::new(by_command(
        "test \"$MESOS_TASK_ID\" = changing || exit 99; echo looked; test -f done || exit 7",
    )));
    master.launch(changing);
    until(&master, "changing", "running check=7 because=check").await;
    std::fs::write(agent.sandbox("changing").join("done"), "").unwrap();
    let told = until(&master, "changing", "failed check=").await;
    assert_eq!(
        told,
        [
            "starting check=",
            "running check=",
            "running check=7 because=check",
            "running check=0 because=check",
            "failed check="
        ]
    );
    let stderr = std::fs::read_to_string(agent.sandbox("changing").join("stderr")).unwrap();
    assert!(stderr.starts_with("looked\nlooked\n"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_unhealthy_for_too_long_ends() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let _agent = RealAgent::start(&master.address, dir.path(), &[]);
    let mut bad = task("bad", "sleep 600");
    bad.health_check = Some(Box::new(healthy_by("exit 4")));
    master.launch(bad);
    let killed = master.update("bad", TaskState::TaskKilled).await;
    assert_eq!(killed.message(), "Command terminated with signal Terminated");
    assert_eq!(
        told(&master, "bad"),
        [
            "starting",
            "running",
            "running healthy=false because=health",
            "running healthy=false because=health",
            "killing",
            "killed healthy=false"
        ]
    );
    // One that takes too long is one that failed, and it ends.
    let mut late = task("late", "sleep 600");
    late.health_check = Some(Box::new(v1::HealthCheck {
        timeout_seconds: Some(0.2),
        consecutive_failures: Some(1),
        ..healthy_by("sleep 4217 & setsid sleep 4217 & sleep 4217")
    }));
    master.launch(late);
    until(&master, "late", "killed healthy=false").await;
    let listed = std::process::Command::new("ps").args(["-eo", "args"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&listed.stdout).contains("sleep 4217\n"), "all that it started ended with it");
    // In its grace nothing counts.
    let mut graceful = task("graceful", "sleep 1");
    graceful.health_check =
        Some(Box::new(v1::HealthCheck { grace_period_seconds: Some(60.0), ..healthy_by("exit 1") }));
    master.launch(graceful);
    master.update("graceful", TaskState::TaskFinished).await;
    assert_eq!(told(&master, "graceful"), ["starting", "running", "finished"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_asked() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let _agent = RealAgent::start(&master.address, dir.path(), &[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = u32::from(listener.local_addr().unwrap().port());
    let listener6 = TcpListener::bind("[::1]:0").ok();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
            let _ = std::io::BufRead::read_line(&mut reader, &mut line);
            let status = if line.starts_with("GET /well ") { 204 } else { 404 };
            let _ = std::io::Write::write_all(&mut stream, format!("HTTP/1.1 {status} X\r\n\r\n").as_bytes());
        }
    });
    let mut both = task("both", "sleep 600");
    let http = Some(check_info::Http { port, path: Some("/no".into()) });
    both.check = Some(Box::new(v1::CheckInfo { http, ..check_of(check_info::Type::Http) }));
    let page = health_check::HttpCheckInfo { port, path: Some("/well".into()), ..Default::default() };
    both.health_check = Some(Box::new(v1::HealthCheck { http: Some(page), ..health_of(health_check::Type::Http) }));
    master.launch(both);
    let begun = std::time::Instant::now();
    while !told(&master, "both").last().is_some_and(|last| last.starts_with("running check=404 healthy=true")) {
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", told(&master, "both"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut refused = task("refused", "sleep 600");
    refused.check =
        Some(Box::new(v1::CheckInfo { tcp: Some(check_info::Tcp { port: 1 }), ..check_of(check_info::Type::Tcp) }));
    master.launch(refused);
    until(&master, "refused", "running check=false because=check").await;
    if let Some(listener6) = listener6 {
        let mut six = task("six", "sleep 600");
        let protocol = Some(v1::network_info::Protocol::IPv6 as i32);
        let tcp =
            Some(health_check::TcpCheckInfo { port: u32::from(listener6.local_addr().unwrap().port()), protocol });
        six.health_check = Some(Box::new(v1::HealthCheck { tcp, ..health_of(health_check::Type::Tcp) }));
        master.launch(six);
        until(&master, "six", "running healthy=true because=health").await;
    }
    for id in ["both", "refused", "six"] {
        master.kill(id);
    }
    until(&master, "refused", "killed check=").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_agent_goes_on_looking() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let mut one = task("one", "sleep 600");
    one.check = Some(Box::new(by_command("test ! -f bad || exit 7")));
    one.health_check = Some(Box::new(healthy_by("test ! -f bad")));
    master.launch(one);
    let begun = std::time::Instant::now();
    while !told(&master, "one").last().is_some_and(|last| last.starts_with("running check=0 healthy=true")) {
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", told(&master, "one"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = told(&master, "one");
    agent.kill();
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    // It sees the same, and does not tell it again.
    let mut other = task("other", "sleep 1");
    other.check = Some(Box::new(by_command("true")));
    master.launch(other);
    master.update("other", TaskState::TaskFinished).await;
    assert_eq!(told(&master, "one"), before);
    std::fs::write(agent.sandbox("one").join("bad"), "").unwrap();
    master.update("one", TaskState::TaskKilled).await;
    let told = told(&master, "one");
    let failures = told.iter().filter(|one| one.contains("healthy=false because=health")).count();
    let ends = told.iter().filter(|one| one.starts_with("killing") || one.starts_with("killed")).count();
    assert_eq!((failures, ends), (2, 2), "{told:?}");
}

/// Three agents see a task's failures in a row, and count them together.
#[tokio::test(flavor = "multi_thread")]
async fn failures_in_a_row_outlive_the_agent() {
    const FAILURES: usize = 9;
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let mut agent = RealAgent::start(&master.address, dir.path(), &[]);
    let mut bad = task("bad", "sleep 600");
    let health = v1::HealthCheck { consecutive_failures: Some(FAILURES as u32), ..healthy_by("exit 4") };
    bad.health_check = Some(Box::new(health));
    master.launch(bad);
    let failures = || told(&master, "bad").iter().filter(|one| one.contains("healthy=false because=health")).count();
    let begun = std::time::Instant::now();
    for seen in [2, 4] {
        while failures() < seen {
            assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", told(&master, "bad"));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        agent.kill();
        agent = RealAgent::start(&master.address, dir.path(), &[]);
    }
    let killed = master.update("bad", TaskState::TaskKilled).await;
    assert_eq!((killed.healthy, failures()), (Some(false), FAILURES), "{:?}", told(&master, "bad"));
}

/// What a check's command brings along is there before the task runs.
#[tokio::test(flavor = "multi_thread")]
async fn what_commands_of_checks_bring_along_is_fetched() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let _agent = RealAgent::start(&master.address, dir.path(), &[]);
    let files = tempfile::tempdir().unwrap();
    let uri = |name: &str, text: &str| {
        std::fs::write(files.path().join(name), text).unwrap();
        let value = files.path().join(name).display().to_string();
        v1::command_info::Uri { value, executable: Some(true), ..Default::default() }
    };
    let (look, health) = (uri("look", "#!/bin/sh\nexit 7\n"), uri("health", "#!/bin/sh\ntest -x look\n"));
    let mut brings = task("brings", "sleep 600");
    let own = v1::CommandInfo { uris: vec![look.clone()], ..command("./look") };
    let check = v1::CheckInfo { command: Some(check_info::Command { command: own }), ..by_command("") };
    brings.check = Some(Box::new(check));
    let own = v1::CommandInfo { uris: vec![health, look], ..command("./health") };
    brings.health_check = Some(Box::new(v1::HealthCheck { command: Some(own), ..healthy_by("") }));
    master.launch(brings);
    let begun = std::time::Instant::now();
    while !told(&master, "brings").last().is_some_and(|last| last.starts_with("running check=7 healthy=true")) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", told(&master, "brings"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    master.kill("brings");
    master.update("brings", TaskState::TaskKilled).await;
}

/// The command of a check, and what it started, end with the agent that waits for it: nobody would look at what it says.
#[tokio::test(flavor = "multi_thread")]
async fn no_look_outlives_its_agent() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let mut slow = task("slow", "sleep 600");
    let check = by_command("touch looking; sleep 4219 & setsid sleep 4219");
    slow.check = Some(Box::new(v1::CheckInfo { timeout_seconds: Some(0.0), ..check }));
    master.launch(slow);
    master.update("slow", TaskState::TaskRunning).await;
    let begun = std::time::Instant::now();
    while !agent.sandbox("slow").join("looking").exists() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    agent.kill();
    let is_running = || {
        let listed = std::process::Command::new("ps").args(["-eo", "args"]).output().unwrap();
        String::from_utf8_lossy(&listed.stdout).contains("sleep 4219\n")
    };
    while is_running() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.kill("slow");
    master.update("slow", TaskState::TaskKilled).await;
    while is_running() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it ends with its task");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(agent);
}
