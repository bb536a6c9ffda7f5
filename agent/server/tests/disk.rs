//! What an agent writes down, and what it does when it cannot.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use api::v1::TaskState;
use common::{Master, PATIENCE, RealAgent, task};
use serde_json::Value;

fn log_bytes(work_dir: &Path) -> u64 {
    fs::read_dir(work_dir.join(agent_core::LOG_DIR))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum()
}

/// The log is shortened again and again while tasks run, and what it must not forget is still in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_shortened_and_nothing_that_matters_is_lost() {
    const TASKS: usize = 60;
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let runs = dir.path().join("runs");
    let flags = ["--log_bytes_max=16KB"];
    let agent = RealAgent::start(&master.address, dir.path(), &flags);
    master.launch(task("long", "sleep 1000"));
    master.update("long", TaskState::TaskRunning).await;
    for n in 0..TASKS {
        master.launch(task(&format!("t{n}"), &format!("echo {n} >> {}", runs.display())));
        if n % 5 == 4 {
            master.update(&format!("t{n}"), TaskState::TaskFinished).await;
        }
    }
    for n in 0..TASKS {
        master.update(&format!("t{n}"), TaskState::TaskFinished).await;
    }
    let (_, cat) = log_events(dir.path());
    assert!(cat > 0, "the log was never shortened; it has {} bytes", log_bytes(dir.path()));
    agent.kill();
    let agent = RealAgent::start(&master.address, dir.path(), &flags);
    master.kill("long");
    master.update("long", TaskState::TaskKilled).await;
    assert_eq!(master.history("long"), ["TASK_STARTING", "TASK_RUNNING", "TASK_KILLING", "TASK_KILLED"]);
    let ran = fs::read_to_string(&runs).unwrap();
    let mut ran: Vec<usize> = ran.lines().map(|line| line.parse().unwrap()).collect();
    ran.sort_unstable();
    assert_eq!(ran, (0..TASKS).collect::<Vec<_>>());
    let (_, state) = common::http(&agent.address, "GET", "/state", "", "").await;
    let state: Value = serde_json::from_str(&state).unwrap();
    let completed = state["completed_frameworks"][0]["completed_executors"].as_array().unwrap();
    assert_eq!(completed.len(), TASKS + 1);
    assert_eq!(master.known.lock().registers.len(), 1);
}

/// How many events the log has, and how many of them stand for all before.
fn log_events(work_dir: &Path) -> (usize, usize) {
    let records = event_log::read_local(&work_dir.join(agent_core::LOG_DIR)).unwrap();
    let events: Vec<_> = records.flat_map(|record| record.unwrap().1.events).collect();
    let restored = events
        .iter()
        .filter(|raw| matches!(agent_core::Event::from_raw(raw), Ok(agent_core::Event::RestoreBegun { .. })));
    (events.len(), restored.count())
}

/// An agent that cannot write its log any more says so and ends. What runs goes on, and nothing is lost or run twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_the_agent_and_not_its_tasks() {
    const TASKS: usize = 60;
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let runs = dir.path().join("runs");
    // A file that may not grow looks like a disk that is full; small files still fit.
    let prelude = "trap '' XFSZ; ulimit -f 16";
    let agent = RealAgent::start_after(prelude, &master.address, dir.path(), &[]);
    for n in 0..TASKS {
        master.launch(task(&format!("t{n}"), &format!("echo {n} >> {}", runs.display())));
    }
    let status = tokio::time::timeout(PATIENCE, agent.ended()).await.expect("its end");
    assert_eq!(status.code(), Some(1));
    let said = fs::read_to_string(dir.path().join("stderr")).unwrap();
    let last = said.lines().last().unwrap_or_default();
    assert_eq!(last, "meseta-agent: Cannot write the agent's log: the disk of the log is full");

    let _agent = RealAgent::start(&master.address, dir.path(), &[]);
    for n in 0..TASKS {
        master.update(&format!("t{n}"), TaskState::TaskFinished).await;
        assert_eq!(master.history(&format!("t{n}")), ["TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED"]);
    }
    let ran = fs::read_to_string(&runs).unwrap();
    let mut ran: Vec<usize> = ran.lines().map(|line| line.parse().unwrap()).collect();
    ran.sort_unstable();
    assert_eq!(ran, (0..TASKS).collect::<Vec<_>>());
}

/// `command.user` and the framework's user, for an agent that runs as root; without `--switch_user` all are its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_as_its_user_in_a_sandbox_of_its_own() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not root: nobody to switch to");
        return;
    }
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let with_user = |id: &str| {
        let mut task =
            task(id, "id -un; id -gn; touch made; test ! -w ..; ls -d ../../../../../../../../meta/containers/*");
        task.command.as_mut().unwrap().user = Some("nobody".into());
        task
    };
    master.launch(with_user("t1"));
    // Others' claims are not for its eyes.
    let failed = master.update("t1", TaskState::TaskFailed).await;
    assert_eq!(failed.message(), "Command exited with status 2");
    let sandbox = agent.sandbox("t1");
    let group = nix::unistd::Group::from_gid(nobody.gid).unwrap().unwrap().name;
    assert_eq!(fs::read_to_string(sandbox.join("stdout")).unwrap(), format!("nobody\n{group}\n"));
    for name in ["", "stdout", "stderr", "made"] {
        let found = fs::metadata(sandbox.join(name)).unwrap();
        assert_eq!((found.uid(), found.gid()), (nobody.uid.as_raw(), nobody.gid.as_raw()), "{name}");
    }
    let path = "/files/read?path=/frameworks/C-0000/executors/t1/runs/latest/stdout&offset=0";
    let (head, body) = common::http(&agent.address, "GET", path, "", "").await;
    assert!(head.starts_with("HTTP/1.1 200") && body.contains("nobody"), "{head} {body}");
    agent.kill();

    let agent = RealAgent::start(&master.address, dir.path(), &["--no-switch_user"]);
    master.launch(with_user("t2"));
    master.update("t2", TaskState::TaskFinished).await;
    assert!(fs::read_to_string(agent.sandbox("t2").join("stdout")).unwrap().starts_with("root\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_goes_in_its_time_whatever_the_dates_of_its_files() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let more = ["--gc_delay=1secs", "--disk_watch_interval=100ms"];
    let agent = RealAgent::start(&master.address, dir.path(), &more);
    master.launch(task("t1", "touch -d 2099-01-01 stdout stderr ."));
    master.update("t1", TaskState::TaskFinished).await;
    let runs = agent.work_dir.join("slaves/C-S0/frameworks/C-0000/executors/t1/runs");
    let deadline = std::time::Instant::now() + PATIENCE;
    while runs.exists() {
        assert!(std::time::Instant::now() < deadline, "it stays");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
