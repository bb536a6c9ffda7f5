//! Agents that end in the middle of everything.

mod common;

use api::internal::{self, from_agent, refused};
use api::v1::TaskState;
use common::{Master, PATIENCE, RealAgent, any_ended, task};
use nix::sys::signal::Signal;

#[tokio::test(flavor = "multi_thread")]
async fn tasks_survive_the_agent_and_ends_meanwhile_are_told() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let go = dir.path().join("go");
    master.launch(task("long", &format!("while [ ! -e {}.long ]; do sleep 0.02; done; exit 5", go.display())));
    master.launch(task("short", &format!("while [ ! -e {}.short ]; do sleep 0.02; done", go.display())));
    master.update("long", TaskState::TaskRunning).await;
    master.update("short", TaskState::TaskRunning).await;
    agent.kill();

    // Ends while nobody looks.
    std::fs::write(dir.path().join("go.short"), "").unwrap();
    let containers = dir.path().join("meta/containers");
    let waiting = async {
        while !any_ended(&containers) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();

    let _agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.update("short", TaskState::TaskFinished).await;
    std::fs::write(dir.path().join("go.long"), "").unwrap();
    let failed = master.update("long", TaskState::TaskFailed).await;
    assert_eq!(failed.message(), "Command exited with status 5");
    assert_eq!(master.history("long"), ["TASK_STARTING", "TASK_RUNNING", "TASK_FAILED"]);
    assert_eq!(master.history("short"), ["TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED"]);
    let known = master.known.lock();
    assert_eq!((known.registers.len(), known.resumes.len()), (1, 1));
    assert_eq!(known.resumes[0].orders_up_to, 2);
}

/// Every task runs exactly once, whenever the agent is killed.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_twice_and_nothing_is_lost() {
    const TASKS: usize = 40;
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let runs = dir.path().join("runs");
    let mut agent = RealAgent::start(&master.address, dir.path(), &[]);
    for n in 0..TASKS {
        master.launch(task(&format!("t{n}"), &format!("echo {n} >> {}", runs.display())));
        if n % 10 == 9 {
            // In the middle of it: some have ended, some have not begun.
            master.update(&format!("t{}", n - 7), TaskState::TaskRunning).await;
            agent.kill();
            agent = RealAgent::start(&master.address, dir.path(), &[]);
        }
    }
    for n in 0..TASKS {
        master.update(&format!("t{n}"), TaskState::TaskFinished).await;
        assert_eq!(master.history(&format!("t{n}")), ["TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED"]);
    }
    let mut ran: Vec<usize> =
        std::fs::read_to_string(runs).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    ran.sort_unstable();
    assert_eq!(ran, (0..TASKS).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_sent_again_until_they_are_committed() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    master.known.lock().silent = true;
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.launch(task("t1", "true"));
    master.update("t1", TaskState::TaskFinished).await;
    agent.kill();
    {
        // As if nothing of it had been committed.
        let mut known = master.known.lock();
        (known.silent, known.received_up_to) = (false, 0);
        known.messages.clear();
    }
    let _agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.update("t1", TaskState::TaskFinished).await;
    assert_eq!(master.history("t1"), ["TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_known_already_change_nothing() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let _agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.wait("a registration", |known| (!known.registers.is_empty()).then_some(())).await;
    master.launch(task("t1", "true"));
    let order = internal::Order {
        seq: 1,
        order: Some(internal::order::Order::Launch(internal::Launch {
            framework_info: common::framework(),
            task: task("t1", "true"),
            providers: Vec::new(),
        })),
    };
    master.update("t1", TaskState::TaskFinished).await;
    master.send(internal::to_agent::Message::Order(order));
    master.launch(task("t2", "true"));
    master.update("t2", TaskState::TaskFinished).await;
    assert_eq!(master.history("t1"), ["TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_told_to_begins_anew() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.launch(task("t1", "echo $$; exec sleep 1000"));
    master.update("t1", TaskState::TaskRunning).await;
    let stdout = agent.sandbox("t1").join("stdout");
    let pid = loop {
        let text = std::fs::read_to_string(&stdout).unwrap();
        if text.ends_with('\n') {
            break text.trim().to_owned();
        }
        tokio::task::yield_now().await;
    };
    agent.kill();
    let remedy = refused::Remedy::RegisterNew as i32;
    master.known.lock().refuse =
        Some(internal::Refused { message: "gone".into(), remedy, end_all: None, make_identity: None });
    let _agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.wait("a second registration", |known| (known.registers.len() == 2).then_some(())).await;
    {
        let known = master.known.lock();
        assert_ne!(known.registers[0].token, known.registers[1].token);
    }
    // Before the resources are offered again.
    assert!(agent_server::spec::start_ticks(pid.parse().unwrap()).is_none());
}

/// Whether it is told while it lives, or when it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_gone_for_the_masters_ends_what_it_runs() {
    for alive in [true, false] {
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let mut agent = RealAgent::start(&master.address, dir.path(), &[]);
        master.launch(task("t1", "echo $$; exec sleep 1000"));
        master.update("t1", TaskState::TaskRunning).await;
        let stdout = agent.sandbox("t1").join("stdout");
        let pid = loop {
            let text = std::fs::read_to_string(&stdout).unwrap();
            if text.ends_with('\n') {
                break text.trim().parse().unwrap();
            }
            tokio::task::yield_now().await;
        };
        let remedy = refused::Remedy::Stop as i32;
        let gone = internal::Refused { message: "gone".into(), remedy, end_all: Some(true), make_identity: None };
        if alive {
            master.send(internal::to_agent::Message::Refused(gone.clone()));
        } else {
            agent.kill();
            master.known.lock().refuse = Some(gone.clone());
            agent = RealAgent::start(&master.address, dir.path(), &[]);
        }
        assert_eq!(agent.ended().await.code(), Some(1), "alive: {alive}");
        assert!(agent_server::spec::start_ticks(pid).is_none(), "alive: {alive}");
        // Again, with nothing left to end.
        master.known.lock().refuse = Some(gone);
        let agent = RealAgent::start(&master.address, dir.path(), &[]);
        assert_eq!(agent.ended().await.code(), Some(1), "alive: {alive}");
    }
}

/// One that is only too small now keeps its tasks, for the one that is started again with more.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_must_stop_keeps_what_it_runs() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.launch(task("t1", "sleep 1000"));
    master.update("t1", TaskState::TaskRunning).await;
    let remedy = refused::Remedy::Stop as i32;
    let stop = internal::Refused { message: "too small".into(), remedy, end_all: None, make_identity: None };
    master.send(internal::to_agent::Message::Refused(stop));
    assert_eq!(agent.ended().await.code(), Some(1));
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.wait("a return", |known| (!known.resumes.is_empty()).then_some(())).await;
    assert_eq!(master.known.lock().resumes[0].tasks.len(), 1);
    agent.signal(Signal::SIGUSR1);
    assert!(agent.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_leaves_tasks_alone_and_leaving_ends_them() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.launch(task("t1", "sleep 1000"));
    master.update("t1", TaskState::TaskRunning).await;
    agent.signal(Signal::SIGTERM);
    assert!(agent.ended().await.success());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.wait("a return", |known| (!known.resumes.is_empty()).then_some(())).await;
    assert_eq!(master.known.lock().resumes[0].tasks.len(), 1);
    agent.signal(Signal::SIGUSR1);
    assert!(agent.ended().await.success());
    assert_eq!(master.history("t1").last(), Some(&"TASK_KILLED"));
    let last = master.known.lock().messages.last().unwrap().message.clone();
    assert_eq!(last, Some(from_agent::Message::Leaving(internal::Leaving {})));
}

/// A log with records of a newer release, as this one is for those of before: it is refused first of all. What runs runs on, what is
/// noted of it stays as it is, and the newer release finds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_of_before_ends_nothing_and_loses_nothing() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.launch(task("long", "while [ ! -e go ]; do sleep 0.02; done; exit 5"));
    master.launch(task("gone", "while [ ! -e go ]; do sleep 0.02; done"));
    master.update("long", TaskState::TaskRunning).await;
    master.update("gone", TaskState::TaskRunning).await;
    let (long, gone) = (agent.sandbox("long"), agent.sandbox("gone"));
    agent.kill();
    std::fs::write(gone.join("go"), "").unwrap();
    let containers = dir.path().join("meta/containers");
    let waiting = async {
        while !any_ended(&containers) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    let notes = || -> Vec<(std::ffi::OsString, Vec<u8>)> {
        let all = std::fs::read_dir(&containers).unwrap().map(|entry| entry.unwrap());
        let mut all: Vec<_> = all.map(|one| (one.file_name(), std::fs::read(one.path()).unwrap())).collect();
        all.sort();
        all
    };
    let noted = notes();
    let log_dir = dir.path().join(agent_core::LOG_DIR);
    let kept = dir.path().join("kept");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let copied = std::process::Command::new("cp").arg("-r").args([from, to]).status().unwrap();
        assert!(copied.success());
    };
    copy(&log_dir, &kept);
    {
        let kind = event_log::Identity::new(agent_core::LOG_KIND, agent_core::LOG_VERSION);
        let (log, recovered) = event_log::LocalLog::open(&log_dir, &kind).unwrap();
        assert!(recovered.count() > 0);
        let header = event_log::Header { feature_level: agent_core::FEATURE_LEVEL + 1, ..Default::default() };
        log.append(event_log::Record { header, ..Default::default() }).await.unwrap();
    }
    let refused = std::process::Command::new(env!("CARGO_BIN_EXE_meseta-agent"))
        .args([format!("--master={}", master.address), format!("--work_dir={}", dir.path().display())])
        .args(["--ip=127.0.0.1", "--port=0"])
        .output()
        .unwrap();
    let sentence = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{sentence}");
    assert!(sentence.contains("start the newer release that wrote it") && sentence.lines().count() == 1, "{sentence}");
    assert_eq!(notes(), noted);
    std::fs::remove_dir_all(&log_dir).unwrap();
    std::fs::rename(&kept, &log_dir).unwrap();
    let _agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.update("gone", TaskState::TaskFinished).await;
    std::fs::write(long.join("go"), "").unwrap();
    let failed = master.update("long", TaskState::TaskFailed).await;
    assert_eq!(failed.message(), "Command exited with status 5");
}

/// An agent of before describes a container without asking for lines, and finds links and files in its place.
#[test]
fn a_supervisor_of_now_writes_what_an_agent_of_before_reads() {
    let dir = tempfile::tempdir().unwrap();
    let text = |path: &std::path::Path| path.display().to_string();
    let spec = agent_server::spec::Spec {
        container_id: "c".into(),
        containers_dir: text(dir.path()),
        pipe: text(&dir.path().join("pipe")),
        sandbox: text(dir.path()),
        arguments: ["/bin/sh", "-c", "exit 3"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    let bytes = spec.encode().unwrap();
    assert!(!String::from_utf8_lossy(&bytes).contains("lines"));
    let input = dir.path().join("spec");
    std::fs::write(&input, bytes).unwrap();
    let supervisor = std::process::Command::new(env!("CARGO_BIN_EXE_meseta-executor"))
        .stdin(std::fs::File::open(input).unwrap())
        .status();
    assert!(supervisor.unwrap().success());
    let claim = std::fs::read_link(dir.path().join("c.launch")).unwrap();
    assert!(claim.display().to_string().starts_with("supervisor "), "{claim:?}");
    assert!(std::fs::read_to_string(dir.path().join("c.started")).unwrap().starts_with("started "));
    assert_eq!(std::fs::read_to_string(dir.path().join("c.exit")).unwrap(), "exited 768");
    assert!(any_ended(dir.path()), "an agent of now reads them, too");
}

#[test]
fn errors_at_start_are_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("--port={}", taken.local_addr().unwrap().port());
    let work_dir = format!("--work_dir={}", dir.path().display());
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let not_a_dir = format!("--work_dir={}", file.display());
    let cases: [(&[&str], &str); 5] = [
        (&["--master=127.0.0.1:1", &work_dir, "--ip=127.0.0.1", &port], "Cannot listen on"),
        (&["--master=127.0.0.1:1", &not_a_dir, "--ip=127.0.0.1", "--port=0"], "Cannot create the work_dir"),
        (&["--master=127.0.0.1:1"], "Flag '--work_dir' is required"),
        (&["--master=zk://a/b", &work_dir], "Masters are not found through ZooKeeper"),
        (&["--master=a:1", &work_dir, "--http_credentials=/x"], "--http_credentials=/x: cannot be read"),
    ];
    for (words, sentence) in cases {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_meseta-agent")).args(words).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {stderr}");
        assert!(stderr.contains(sentence) && stderr.lines().count() == 1, "{words:?}: {stderr}");
    }
}
