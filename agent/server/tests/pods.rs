//! Groups of tasks on the default executor.

mod common;

use std::path::Path;

use api::internal::from_agent;
use api::v1::task_status::{Reason, Source};
use api::v1::{self, TaskInfo, TaskState, TaskStatus};
use common::{Master, PATIENCE, RealAgent, task};

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

/// The masters hear of the end of an executor; with its wait status.
async fn executor_ended(master: &Master, id: &str) -> Option<i32> {
    let what = format!("the end of executor {id}");
    master
        .wait(&what, |known| {
            known.messages.iter().find_map(|message| match &message.message {
                Some(from_agent::Message::ExecutorExited(ended)) if ended.executor_id.value == id => Some(ended.status),
                _ => None,
            })
        })
        .await
}

/// The container of a task: its own id, and that of its executor.
fn container(status: &TaskStatus) -> (String, String) {
    let id = status.container_status.clone().unwrap().container_id.unwrap();
    (id.value, id.parent.expect("it is within another").value)
}

fn policy(seconds: f64) -> Option<v1::KillPolicy> {
    let nanoseconds = (seconds * 1e9) as i64;
    Some(v1::KillPolicy { grace_period: Some(v1::DurationInfo { nanoseconds }) })
}

fn stdout(agent: &RealAgent, executor: &str, task: &str) -> String {
    let path = agent.sandbox(executor).join("tasks").join(task).join("stdout");
    std::fs::read_to_string(path).unwrap_or_default()
}

fn nothing_runs(work_dir: &Path) -> bool {
    std::fs::read_dir(work_dir.join("meta/containers")).unwrap().next().is_none()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tasks_of_a_group_run_in_containers_of_their_own() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.launch_group(
        "p1",
        vec![task("a", "env; pwd; sleep 0.2"), task("b", "while [ ! -e go ]; do sleep 0.05; done")],
    );
    let running = master.update("b", TaskState::TaskRunning).await;
    let finished = master.update("a", TaskState::TaskFinished).await;
    assert_eq!(finished.message(), "Command exited with status 0");
    assert_eq!((finished.source(), finished.reason), (Source::Executor, None));
    assert_eq!(finished.executor_id.as_ref().unwrap().value, "p1");
    let ended = finished.container_status.clone().unwrap();
    assert_eq!((ended.executor_pid, ended.network_infos.len()), (None, 0), "nothing is said of one that is over");
    assert!(running.container_status.as_ref().unwrap().executor_pid.is_some());
    let ((_, executor), (own, again)) = (container(&finished), container(&running));
    assert_eq!(executor, again, "both within the executor's");
    let printed = stdout(&agent, "p1", "a");
    assert!(printed.contains("MESOS_CONTAINER_IP=127.0.0.1\n"), "{printed}");
    assert!(printed.lines().last().unwrap().contains(&format!("/runs/{executor}/containers/")), "{printed}");
    assert!(!printed.contains("MESOS_EXECUTOR_ID"), "{printed}");
    std::fs::write(agent.sandbox("p1").join("containers").join(own).join("go"), "").unwrap();
    master.update("b", TaskState::TaskFinished).await;
    assert_eq!(executor_ended(&master, "p1").await, Some(0));
    for id in ["a", "b"] {
        assert_eq!(master.history(id), ["TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED"]);
    }
    until("nothing is left", || nothing_runs(dir.path())).await;
}

/// A volume outlives the group that wrote to it; another one finds it, and who names the sandboxes of tasks is refused.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_a_group_find_their_volumes() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let made = common::volume("v");
    master.create(1, &made, std::slice::from_ref(&made));
    let with = |id: &str, command: &str, volume: &v1::Resource| {
        let mut task = task(id, command);
        task.resources.push(volume.clone());
        task
    };
    let write = "echo kept > data/x; readlink data; ls ../../data/x";
    master.launch_group("p1", vec![with("a", write, &made), task("b", "test ! -e data")]);
    for id in ["a", "b"] {
        master.update(id, TaskState::TaskFinished).await;
    }
    let place = std::fs::canonicalize(dir.path().join("volumes/roles/eng dev/v")).unwrap();
    assert_eq!(std::fs::read_to_string(place.join("x")).unwrap(), "kept\n");
    let printed = stdout(&agent, "p1", "a");
    assert!(printed.starts_with(place.to_str().unwrap()), "{printed}");
    executor_ended(&master, "p1").await;
    master.launch_group("p2", vec![with("c", "cat data/x; sleep 1000", &made)]);
    master.update("c", TaskState::TaskRunning).await;
    until("it reads", || stdout(&agent, "p2", "c") == "kept\n").await;
    master.kill("c");
    master.update("c", TaskState::TaskKilled).await;
    for path in ["tasks", "containers/c"] {
        let mut there = made.clone();
        there.disk.as_mut().unwrap().volume.as_mut().unwrap().container_path = path.into();
        let id = format!("at-{}", &path[..4]);
        master.launch_group(&id, vec![with(&id, "true", &there)]);
        let failed = master.update(&id, TaskState::TaskFailed).await;
        assert_eq!(failed.reason(), Reason::ContainerLaunchFailed);
        assert!(failed.message().contains(&path[..5]), "{}", failed.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_task_takes_its_group_along_and_no_other() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let _agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.launch_group("p1", vec![task("other", "sleep 1000")]);
    master.update("other", TaskState::TaskRunning).await;
    master.launch_group("p1", vec![task("a", "sleep 0.3; exit 3"), task("b", "sleep 1000")]);
    let failed = master.update("a", TaskState::TaskFailed).await;
    assert_eq!((failed.message(), failed.reason), ("Command exited with status 3", None));
    let killed = master.update("b", TaskState::TaskKilled).await;
    assert_eq!(killed.message(), "Command terminated with signal Terminated");
    assert_eq!(master.history("b"), ["TASK_STARTING", "TASK_RUNNING", "TASK_KILLING", "TASK_KILLED"]);
    assert_eq!(master.history("other"), ["TASK_STARTING", "TASK_RUNNING"]);
    master.kill("other");
    master.update("other", TaskState::TaskKilled).await;
    assert_eq!(executor_ended(&master, "p1").await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_policies_and_times_are_each_tasks_own() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let stubborn =
        TaskInfo { kill_policy: policy(0.3), ..task("a", "trap '' TERM; echo up; while :; do sleep 0.05; done") };
    master.launch_group("p1", vec![stubborn, task("b", "sleep 1000")]);
    until("up", || stdout(&agent, "p1", "a") == "up\n").await;
    master.update("b", TaskState::TaskRunning).await;
    master.kill("a");
    let killed = master.update("a", TaskState::TaskKilled).await;
    assert_eq!(killed.message(), "Command terminated with signal Killed");
    master.update("b", TaskState::TaskKilled).await;
    let limit = Some(v1::DurationInfo { nanoseconds: 300_000_000 });
    master.launch_group(
        "p2",
        vec![TaskInfo { max_completion_time: limit, ..task("c", "sleep 1000") }, task("d", "sleep 1000")],
    );
    let failed = master.update("c", TaskState::TaskFailed).await;
    assert_eq!(failed.reason(), Reason::MaxCompletionTimeReached);
    master.update("d", TaskState::TaskKilled).await;
    assert_eq!(master.history("c"), ["TASK_STARTING", "TASK_RUNNING", "TASK_FAILED"], "nobody killed it");
    assert_eq!(executor_ended(&master, "p2").await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_outlives_its_agent() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let patience = "--executor_reregistration_timeout=15secs";
    let mut agent = RealAgent::start(&master.address, dir.path(), &[patience]);
    // Where its executors look for it.
    let port = format!("--port={}", agent.address.rsplit_once(':').unwrap().1);
    let waiting = |code: u32| format!("while [ ! -e go ]; do sleep 0.05; done; exit {code}");
    master.launch_group("p1", vec![task("a", &waiting(0)), task("b", &waiting(7))]);
    let own = container(&master.update("a", TaskState::TaskRunning).await).0;
    let other = container(&master.update("b", TaskState::TaskRunning).await).0;
    let go = |agent: &RealAgent, own: &str| {
        std::fs::write(agent.sandbox("p1").join("containers").join(own).join("go"), "").unwrap();
    };
    agent.kill();
    // One ends while nobody looks.
    agent = {
        let dead = dir.path().join("slaves/C-S0/frameworks/C-0000/executors/p1/runs/latest/containers").join(&own);
        std::fs::write(dead.join("go"), "").unwrap();
        RealAgent::start(&master.address, dir.path(), &[patience, &port])
    };
    assert_eq!(master.update("a", TaskState::TaskFinished).await.message(), "Command exited with status 0");
    agent.kill();
    agent = RealAgent::start(&master.address, dir.path(), &[patience, &port]);
    go(&agent, &other);
    assert_eq!(master.update("b", TaskState::TaskFailed).await.message(), "Command exited with status 7");
    assert_eq!(executor_ended(&master, "p1").await, Some(0));
    for (id, end) in [("a", "TASK_FINISHED"), ("b", "TASK_FAILED")] {
        assert_eq!(master.history(id), ["TASK_STARTING", "TASK_RUNNING", end]);
    }
    until("nothing is left", || nothing_runs(dir.path())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_a_group_are_launched_or_none() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let _agent = RealAgent::start(&master.address, dir.path(), &[]);
    let mut bad = task("b", "true");
    bad.command.as_mut().unwrap().user = Some("nosuchuser".into());
    master.launch_group("p1", vec![task("a", "sleep 1000"), bad]);
    let failed = master.update("b", TaskState::TaskFailed).await;
    assert_eq!(failed.reason(), Reason::ContainerLaunchFailed);
    assert!(failed.message().contains("nosuchuser"), "{}", failed.message());
    master.update("a", TaskState::TaskKilled).await;
    assert!(!master.history("a").contains(&"TASK_RUNNING"));
    assert_eq!(executor_ended(&master, "p1").await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_is_killed_takes_its_tasks_along() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.launch_group("p1", vec![task("a", "trap '' TERM; echo $$; while :; do sleep 0.05; done")]);
    master.update("a", TaskState::TaskRunning).await;
    until("it runs", || stdout(&agent, "p1", "a").ends_with('\n')).await;
    let pid: u32 = stdout(&agent, "p1", "a").trim().parse().unwrap();
    let marks = |pid: &str| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let all = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let of_here = |pid: &String| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(&format!("MESOS_SANDBOX={}", dir.path().display()))
    };
    let executor = all.filter(|pid| of_here(pid) && String::from_utf8_lossy(&marks(pid)).contains("default-executor"));
    let executor: Vec<i32> = executor.filter_map(|pid| pid.parse().ok()).collect();
    assert_eq!(executor.len(), 1);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(executor[0]), nix::sys::signal::Signal::SIGKILL).unwrap();
    let failed = master.update("a", TaskState::TaskFailed).await;
    assert_eq!((failed.source(), failed.reason()), (Source::Agent, Reason::ExecutorTerminated));
    assert!(agent_server::spec::start_ticks(pid).is_none(), "alive when its end is told");
    assert_eq!(executor_ended(&master, "p1").await, Some(9));
}

/// What checks of a group's tasks show is told, and who is unhealthy for too long takes the group along. Each task finds what it
/// brings along.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_a_group_are_checked_and_bring_files_along() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("x"), "hello").unwrap();
    let command = |value: &str| v1::CommandInfo { value: Some(value.into()), ..Default::default() };
    std::fs::write(files.path().join("look"), "test -f x -a -n \"$MESOS_SANDBOX\" && exit 7\n").unwrap();
    let brought =
        v1::command_info::Uri { value: files.path().join("look").display().to_string(), ..Default::default() };
    let look = v1::CommandInfo { uris: vec![brought], ..command(". ./look") };
    let mut checked = task("checked", "cat x; env | grep -c checksum; sleep 600");
    checked.command.as_mut().unwrap().uris = vec![v1::command_info::Uri {
        value: files.path().join("x").display().to_string(),
        cache: Some(true),
        ..Default::default()
    }];
    let label = |name: &str, digest: &str| v1::Label {
        key: format!("meseta.checksum:{}", files.path().join(name).display()),
        value: Some(format!("sha256:{digest}")),
    };
    let digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    checked.labels = Some(v1::Labels { labels: vec![label("x", digest)] });
    checked.check = Some(Box::new(v1::CheckInfo {
        r#type: Some(v1::check_info::Type::Command as i32),
        command: Some(v1::check_info::Command { command: look }),
        delay_seconds: Some(0.0),
        interval_seconds: Some(0.1),
        ..Default::default()
    }));
    let mut ill = task("ill", "sleep 600");
    ill.health_check = Some(Box::new(v1::HealthCheck {
        command: Some(command("test ! -f ../../ill")),
        delay_seconds: Some(0.0),
        interval_seconds: Some(0.1),
        grace_period_seconds: Some(0.0),
        consecutive_failures: Some(2),
        ..Default::default()
    }));
    master.launch_group("pod", vec![checked, ill]);
    let told = |id: &str| -> Vec<TaskStatus> {
        master.known.lock().statuses().filter(|status| status.task_id.value == id).collect()
    };
    until("the check's exit code and health", || {
        let code = |status: &TaskStatus| status.check_status?.command?.exit_code;
        told("checked").iter().any(|status| code(status) == Some(7))
            && told("ill").iter().any(|status| status.healthy == Some(true))
    })
    .await;
    assert_eq!(stdout(&agent, "pod", "checked"), "hello0\n");
    std::fs::write(agent.sandbox("pod").join("ill"), "").unwrap();
    for id in ["ill", "checked"] {
        let killed = master.update(id, TaskState::TaskKilled).await;
        assert_eq!(killed.healthy, Some(false), "{id}");
    }
    let failures =
        told("ill").iter().filter(|one| one.healthy == Some(false) && one.state() == TaskState::TaskRunning).count();
    assert_eq!(failures, 2);
    let first = &told("checked")[0];
    assert_eq!(first.check_status.unwrap().command, Some(v1::check_status_info::Command::default()));
    // A file that is not there: none of the group is launched.
    let mut missing = task("missing", "true");
    missing.command.as_mut().unwrap().uris =
        vec![v1::command_info::Uri { value: "/no/such/file".into(), ..Default::default() }];
    master.launch_group("none", vec![missing]);
    let failed = master.update("missing", TaskState::TaskFailed).await;
    assert_eq!(failed.reason(), Reason::ContainerLaunchFailed);
    assert!(failed.message().contains("Failed to fetch all URIs for container"), "{}", failed.message());
    let mut other = task("other", "true");
    let value = files.path().join("x").display().to_string();
    other.command.as_mut().unwrap().uris = vec![v1::command_info::Uri { value, ..Default::default() }];
    other.labels = Some(v1::Labels { labels: vec![label("x", &"0".repeat(64))] });
    master.launch_group("other", vec![other]);
    let failed = master.update("other", TaskState::TaskFailed).await;
    assert!(failed.message().contains("Failed to fetch all URIs for container"), "{}", failed.message());
    let mut none = task("unnamed", "true");
    none.labels = Some(v1::Labels { labels: vec![label("x", digest)] });
    master.launch_group("unnamed", vec![none]);
    let failed = master.update("unnamed", TaskState::TaskFailed).await;
    assert!(failed.message().contains("names no URI of the command"), "{}", failed.message());
}
