//! Command tasks, from an order to the last update, with real processes.

mod common;

use api::internal::{self, order};
use api::v1::{self, TaskState, task_status};
use common::{Master, RealAgent, framework, http, task};

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_and_every_state_is_told() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.launch(task("t1", "echo out; echo err >&2; echo \"$MESOS_TASK_ID ${HOME-none}\""));
    let finished = master.update("t1", TaskState::TaskFinished).await;
    assert_eq!(master.history("t1"), ["TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED"]);
    assert_eq!(finished.message(), "Command exited with status 0");
    assert_eq!(finished.source(), task_status::Source::Executor);
    assert_eq!((finished.reason, finished.uuid().len()), (None, 16));
    assert_eq!(finished.agent_id.unwrap().value, "C-S0");
    assert_eq!(finished.executor_id.unwrap().value, "t1");
    let container = finished.container_status.unwrap();
    assert_eq!(container.network_infos[0].ip_addresses[0].ip_address(), "127.0.0.1");
    assert!(container.executor_pid.is_some() && finished.timestamp.unwrap() > 1.7e9);
    let sandbox = agent.sandbox("t1");
    assert_eq!(std::fs::read_to_string(sandbox.join("stdout")).unwrap(), "out\nt1 none\n");
    assert_eq!(std::fs::read_to_string(sandbox.join("stderr")).unwrap(), "err\n");

    let path = "/files/read?path=/frameworks/C-0000/executors/t1/runs/latest/stderr&offset=0";
    assert_eq!(http(&agent.address, "GET", path, "", "").await.1, r#"{"data":"err\n","offset":0}"#);
    let (_, state) = http(&agent.address, "GET", "/slave(1)/state", "", "").await;
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let executor = &state["completed_frameworks"][0]["completed_executors"][0];
    assert_eq!(executor["completed_tasks"][0]["state"], "TASK_FINISHED");
    assert_eq!((&state["id"], &state["version"]), (&"C-S0".into(), &"1.11.0".into()));
    assert_eq!(master.known.lock().registers.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_in_the_words_that_clients_know() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let _agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.launch(task("exit3", "exit 3"));
    master.launch(task("segv", "kill -SEGV $$"));
    let mut missing = task("missing", "/no/such/program");
    missing.command.as_mut().unwrap().shell = Some(false);
    master.launch(missing);
    let mut stranger = task("stranger", "true");
    stranger.command.as_mut().unwrap().user = Some("nobody-of-that-name".into());
    master.launch(stranger);
    let mut fetch = task("fetch", "true");
    fetch.command.as_mut().unwrap().uris = vec![v1::command_info::Uri {
        value: "http://x/y".into(),
        output_file: Some("/tmp/y".into()),
        ..Default::default()
    }];
    master.launch(fetch);
    for (id, message, reason) in [
        ("exit3", "Command exited with status 3", None),
        ("segv", "Command terminated with signal Segmentation fault", None),
        (
            "missing",
            "Failed to launch container: cannot execute '/no/such/program': No such file or directory",
            Some(task_status::Reason::ContainerLaunchFailed),
        ),
        (
            "stranger",
            "Failed to launch container: there is no user 'nobody-of-that-name' on this agent",
            Some(task_status::Reason::ContainerLaunchFailed),
        ),
        (
            "fetch",
            "Failed to launch container: Could not fetch: URI output file must be within the sandbox directory",
            Some(task_status::Reason::ContainerLaunchFailed),
        ),
    ] {
        let failed = master.update(id, TaskState::TaskFailed).await;
        assert!(failed.message().starts_with(message), "{id}: {}", failed.message());
        assert_eq!(failed.reason, reason.map(|reason| reason as i32), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_ends_the_whole_tree_and_patience_ends() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.launch(task("tree", "sleep 1000 & sleep 1000"));
    let mut stubborn = task("stubborn", "trap '' TERM; echo ready; while :; do sleep 0.05; done");
    let grace_period = Some(v1::DurationInfo { nanoseconds: 200_000_000 });
    stubborn.kill_policy = Some(v1::KillPolicy { grace_period });
    master.launch(stubborn);
    master.update("tree", TaskState::TaskRunning).await;
    master.update("stubborn", TaskState::TaskRunning).await;
    let stdout = agent.sandbox("stubborn").join("stdout");
    while std::fs::read_to_string(&stdout).unwrap_or_default().is_empty() {
        tokio::task::yield_now().await;
    }
    master.kill("tree");
    master.kill("stubborn");
    let killed = master.update("tree", TaskState::TaskKilled).await;
    assert_eq!(killed.message(), "Command terminated with signal Terminated");
    assert_eq!(master.history("tree"), ["TASK_STARTING", "TASK_RUNNING", "TASK_KILLING", "TASK_KILLED"]);
    let killed = master.update("stubborn", TaskState::TaskKilled).await;
    assert_eq!(killed.message(), "Command terminated with signal Killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_takes_too_long_fails() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let _agent = RealAgent::start(&master.address, dir.path(), &[]);
    let mut slow = task("slow", "sleep 1000");
    slow.max_completion_time = Some(v1::DurationInfo { nanoseconds: 100_000_000 });
    let mut unhurried = task("unhurried", "sleep 1000");
    unhurried.max_completion_time = Some(v1::DurationInfo { nanoseconds: 0 });
    master.launch(unhurried);
    master.update("unhurried", TaskState::TaskRunning).await;
    master.launch(slow);
    let failed = master.update("slow", TaskState::TaskFailed).await;
    assert_eq!(failed.reason(), task_status::Reason::MaxCompletionTimeReached);
    assert_eq!(master.history("unhurried"), ["TASK_STARTING", "TASK_RUNNING"], "nought is no limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_framework_is_silent_and_gone() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.launch(task("t1", "sleep 1000"));
    master.update("t1", TaskState::TaskRunning).await;
    let framework_id = framework().id.unwrap();
    master.order(order::Order::ShutdownFramework(internal::ShutdownFramework { framework_id }));
    loop {
        let (_, state) = http(&agent.address, "GET", "/state", "", "").await;
        let state: serde_json::Value = serde_json::from_str(&state).unwrap();
        if state["frameworks"].as_array().unwrap().is_empty() {
            break;
        }
    }
    assert_eq!(master.history("t1"), ["TASK_STARTING", "TASK_RUNNING"]);
}

/// Outputs within bounds: the newest of what was written is there, in files of at most so much, and no other.
#[tokio::test(flavor = "multi_thread")]
async fn outputs_are_rotated() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &["--container_logger=rotating"]);
    let mut loud = task(
        "loud",
        "i=0; while test $i -lt 3000; do echo line $i; i=$((i+1)); done; echo error >&2; sleep 0.3 & exit 7",
    );
    let variable = |name: &str, value: &str| v1::environment::Variable {
        name: format!("CONTAINER_LOGGER_{name}"),
        value: Some(value.into()),
        ..Default::default()
    };
    let variables = vec![variable("MAX_STDOUT_SIZE", "8KB"), variable("LOGROTATE_STDOUT_OPTIONS", "rotate 2")];
    loud.command.as_mut().unwrap().environment = Some(v1::Environment { variables: variables.clone() });
    if nix::unistd::geteuid().is_root() {
        loud.command.as_mut().unwrap().user = Some("nobody".into());
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    }
    master.launch(loud);
    let ended = master.update("loud", TaskState::TaskFailed).await;
    assert_eq!(ended.message(), "Command exited with status 7");
    let sandbox = agent.sandbox("loud");
    let read = |name: &str| std::fs::read_to_string(sandbox.join(name)).unwrap();
    let all = format!("{}{}{}", read("stdout.2"), read("stdout.1"), read("stdout"));
    assert!(all.ends_with("line 2998\nline 2999\n"), "{all}");
    assert_eq!((read("stdout.2").len(), read("stdout.1").len()), (8192, 8192));
    assert!(read("stdout").len() <= 8192 && !sandbox.join("stdout.3").exists());
    assert_eq!(read("stderr"), "error\n");
    let mut wrong = task("wrong", "true");
    let variables = vec![variable("MAX_STDERR_SIZE", "1B")];
    wrong.command.as_mut().unwrap().environment = Some(v1::Environment { variables });
    master.launch(wrong);
    let failed = master.update("wrong", TaskState::TaskFailed).await;
    let why = "Failed to launch container: 'CONTAINER_LOGGER_MAX_STDERR_SIZE' must be 4096 bytes at least, not 1B";
    assert_eq!(failed.message(), why);
    // Killed with all that it started; what it wrote last is there.
    master.launch(task("killed", "setsid sleep 1000 & echo ready; sleep 1000"));
    master.update("killed", TaskState::TaskRunning).await;
    while std::fs::read_to_string(agent.sandbox("killed").join("stdout")).unwrap_or_default() != "ready\n" {
        tokio::task::yield_now().await;
    }
    master.kill("killed");
    master.update("killed", TaskState::TaskKilled).await;
}
