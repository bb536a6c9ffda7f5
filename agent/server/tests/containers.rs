//! Containers whose supervisors, agents and machines do not do as they should.

mod common;

use std::path::Path;
use std::process::Command;

use agent_server::spec::{Files, Notice, containers_in};
use api::v1::TaskState;
use api::v1::task_status::Reason;
use common::{Master, PATIENCE, RealAgent, task};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// What a task leaves to find: in its session, in one of its own, without its environment, and both.
const SPREAD: &str = "sleep 1001 & echo $! >> pids; setsid sleep 1002 & echo $! >> pids; \
     env -i sleep 1003 & echo $! >> pids; env -i setsid sleep 1004 & echo $! >> pids; echo $$ >> pids; wait";

fn is_alive(pid: u32) -> bool {
    agent_server::spec::start_ticks(pid).is_some()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

/// The numbers in a file, once there are so many.
async fn numbers(path: &Path, count: usize) -> Vec<u32> {
    let read = || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.parse().ok()).collect::<Vec<u32>>()
    };
    until(&format!("{count} numbers in {}", path.display()), || read().len() >= count).await;
    read()
}

fn supervisors(work_dir: &Path) -> Vec<u32> {
    let dir = work_dir.join("meta/containers");
    let started = containers_in(&dir).unwrap().into_iter().filter_map(|id| Files::new(&dir, &id).start().ok()?);
    started
        .filter_map(|notice| if let Notice::Started(supervisor, ..) = notice { Some(supervisor) } else { None })
        .collect()
}

fn kill(pid: u32, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(pid as i32), signal).unwrap();
}

/// Sets the soft and hard limit of open files of a process.
fn limit_files(pid: u32, limit: &str) {
    let limit = format!("--nofile={limit}");
    assert!(Command::new("prlimit").args([&format!("--pid={pid}"), &limit]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_supervisor_leaves_is_ended_before_its_end_is_told() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let mut agent = RealAgent::start(&master.address, dir.path(), &[]);
    for (id, with_agent) in [("t1", false), ("t2", true)] {
        master.launch(task(id, SPREAD));
        let pids = numbers(&agent.sandbox(id).join("pids"), 5).await;
        assert!(pids.iter().all(|pid| is_alive(*pid)));
        until("a start on the disk", || !supervisors(dir.path()).is_empty()).await;
        let supervisor = supervisors(dir.path())[0];
        if with_agent {
            agent.kill();
            kill(supervisor, Signal::SIGKILL);
            agent = RealAgent::start(&master.address, dir.path(), &[]);
        } else {
            kill(supervisor, Signal::SIGKILL);
        }
        let failed = master.update(id, TaskState::TaskFailed).await;
        let left: Vec<_> = pids.iter().filter(|pid| is_alive(**pid)).collect();
        assert_eq!(left, Vec::<&u32>::new(), "of {pids:?}");
        assert_eq!(failed.reason(), Reason::ExecutorTerminated);
        until("its files are gone", || supervisors(dir.path()).is_empty()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_its_log_ends_what_it_does_not_know() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let work_dir = dir.path().join("agent");
    let mut agent = RealAgent::start(&master.address, &work_dir, &[]);
    for (n, lost) in ["log", "", "supervisor"].into_iter().enumerate() {
        let id = format!("t{n}");
        master.launch(task(&id, SPREAD));
        master.update(&id, TaskState::TaskRunning).await;
        let mut pids = numbers(&agent.sandbox(&id).join("pids"), 5).await;
        until("a start on the disk", || !supervisors(&work_dir).is_empty()).await;
        let supervisor = supervisors(&work_dir)[0];
        agent.kill();
        match lost {
            "log" => std::fs::remove_dir_all(work_dir.join("log")).unwrap(),
            // All of it, and the supervisor killed too.
            "supervisor" => {
                kill(supervisor, Signal::SIGKILL);
                // Without supervisor, environment, session and files there is nothing left to know it by.
                kill(pids.remove(3), Signal::SIGKILL);
                std::fs::rename(&work_dir, dir.path().join("moved-2")).unwrap();
            }
            _ => std::fs::rename(&work_dir, dir.path().join("moved-1")).unwrap(),
        }
        {
            let mut known = master.known.lock();
            (known.received_up_to, known.acknowledged) = (0, 0);
            known.orders.clear();
        }
        agent = RealAgent::start(&master.address, &work_dir, &[]);
        master.wait("a registration", |known| (known.registers.len() == n + 2).then_some(())).await;
        let left: Vec<_> = pids.iter().chain([&supervisor]).filter(|pid| is_alive(**pid)).collect();
        assert_eq!(left, Vec::<&u32>::new(), "when {lost} was lost");
        assert!(supervisors(&work_dir).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_waits_until_it_can_be_done() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start_after(":", &master.address, dir.path(), &[]);
    let stderr = || std::fs::read_to_string(dir.path().join("stderr")).unwrap();
    master.launch(task("t1", "echo $$ > pid; exec sleep 1000"));
    master.update("t1", TaskState::TaskRunning).await;
    let pid = numbers(&agent.sandbox("t1").join("pid"), 1).await[0];
    // Not one descriptor more.
    limit_files(agent.child.id(), "3:");
    master.kill("t1");
    until("an attempt fails", || stderr().contains("cannot signal a container; trying again")).await;
    assert!(is_alive(pid));
    assert_eq!(master.history("t1"), ["TASK_STARTING", "TASK_RUNNING", "TASK_KILLING"]);
    limit_files(agent.child.id(), "1024:");
    master.update("t1", TaskState::TaskKilled).await;
    assert!(!is_alive(pid));
}

/// What cannot be looked at is neither alive nor dead.
#[tokio::test(flavor = "multi_thread")]
async fn no_running_task_is_given_up_for_want_of_descriptors() {
    const TASKS: usize = 40;
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    for n in 0..TASKS {
        master.launch(task(&format!("t{n}"), "while [ ! -e go ]; do sleep 0.1; done"));
    }
    for n in 0..TASKS {
        master.update(&format!("t{n}"), TaskState::TaskRunning).await;
    }
    agent.kill();
    let prelude = format!("ulimit -n {}", TASKS - 4);
    let agent = RealAgent::start_after(&prelude, &master.address, dir.path(), &[]);
    let stderr = || std::fs::read_to_string(dir.path().join("stderr")).unwrap();
    until("a look fails", || stderr().contains("cannot find a container again; trying again")).await;
    // Those that end make room for the others to be found.
    for n in 0..TASKS {
        std::fs::write(agent.sandbox(&format!("t{n}")).join("go"), "").unwrap();
        master.update(&format!("t{n}"), TaskState::TaskFinished).await;
        assert_eq!(master.history(&format!("t{n}")), ["TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_waits_for_its_agent_no_longer_than_it_should() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let flags = ["--recovery_timeout=1secs", "--executor_shutdown_grace_period=1secs"];
    let agent = RealAgent::start(&master.address, dir.path(), &flags);
    // One does as it is told, the other does not.
    master.launch(task("t1", "echo $$ > pid; exec sleep 1000"));
    master.launch(task("t2", "trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done"));
    let mut pids = numbers(&agent.sandbox("t1").join("pid"), 1).await;
    pids.extend(numbers(&agent.sandbox("t2").join("pid"), 1).await);
    master.update("t1", TaskState::TaskRunning).await;
    master.update("t2", TaskState::TaskRunning).await;
    agent.kill();
    until("they are ended", || pids.iter().all(|pid| !is_alive(*pid))).await;
    let _agent = RealAgent::start(&master.address, dir.path(), &flags);
    let failed = master.update("t1", TaskState::TaskFailed).await;
    assert_eq!(failed.message(), "Command terminated with signal Terminated");
    let failed = master.update("t2", TaskState::TaskFailed).await;
    assert_eq!(failed.message(), "Command terminated with signal Killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_may_clean_up() {
    const TASKS: usize = 20;
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let command = "trap 'sleep 0.5; echo end $?; exit 0' TERM; echo up; while :; do sleep 0.1; done";
    let stdout = |id: &str| std::fs::read_to_string(agent.sandbox(id).join("stdout")).unwrap_or_default();
    for n in 0..TASKS {
        let id = format!("t{n}");
        master.launch(task(&id, command));
        until("up", || stdout(&id) == "up\n").await;
        master.kill(&id);
    }
    for n in 0..TASKS {
        let id = format!("t{n}");
        master.update(&id, TaskState::TaskKilled).await;
        assert_eq!(stdout(&id), "up\nend 0\n", "{id}");
    }
}

/// Faster than one look after the other, if these were counted.
#[tokio::test(flavor = "multi_thread")]
async fn who_forks_all_the_time_is_killed_too() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let worker = "while :; do (trap '' TERM; (exec setsid sh -c 'sleep 0.02') & ); done";
    master.launch(task("t1", &format!("trap '' TERM; for i in 1 2 3; do ({worker}) & done; echo $$ > pid; wait")));
    let pid = numbers(&agent.sandbox("t1").join("pid"), 1).await[0];
    master.update("t1", TaskState::TaskRunning).await;
    let supervisor = supervisors(dir.path())[0];
    kill(pid, Signal::SIGKILL);
    master.update("t1", TaskState::TaskFailed).await;
    let marked = |pid: &str| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(&format!("@{}\0", dir.path().display()))
    };
    until("the supervisor has ended", || !is_alive(supervisor)).await;
    let names = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| marked(name) && name.parse() != Ok(agent.child.id())).collect::<Vec<_>>(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_sees_its_name_and_is_found_in_its_path() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let tools = dir.path().join("tools");
    std::fs::create_dir(&tools).unwrap();
    // Without a line that names its interpreter.
    std::fs::write(tools.join("only-there"), "echo found $1\n").unwrap();
    let executable = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(tools.join("only-there"), executable).unwrap();
    let exec = |id: &str, value: &str, arguments: &[&str], path: Option<String>| {
        let mut info = task(id, value);
        let command = info.command.as_mut().unwrap();
        command.shell = Some(false);
        command.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        command.environment = path.map(|path| api::v1::Environment {
            variables: vec![api::v1::environment::Variable {
                name: "PATH".into(),
                value: Some(path),
                ..Default::default()
            }],
        });
        master.launch(info);
    };
    exec(
        "name",
        "/bin/sh",
        &["another name", "-c", "tr '\\0' '|' < /proc/self/cmdline; tr '\\0' '|' < /proc/$$/cmdline"],
        None,
    );
    exec("bare", "/bin/pwd", &[], None);
    exec("path", "only-there", &["x", "argument"], Some(format!("/nowhere:{}", tools.display())));
    exec("none", "only-there", &["x"], None);
    let stdout = |id: &str| std::fs::read_to_string(agent.sandbox(id).join("stdout")).unwrap();
    for id in ["name", "bare", "path"] {
        master.update(id, TaskState::TaskFinished).await;
    }
    assert!(stdout("name").contains("another name|-c|"), "{}", stdout("name"));
    assert!(stdout("bare").trim().contains("/runs/"), "{}", stdout("bare"));
    assert_eq!(stdout("path"), "found argument\n");
    let failed = master.update("none", TaskState::TaskFailed).await;
    assert!(failed.message().contains("cannot execute 'only-there': No such file or directory"), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_gets_what_it_would_have_had() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let work_dir = dir.path().join("agent");
    let prelude = format!("mkdir {0}; ulimit -Sn 200; ulimit -Hn 5000; umask 027", work_dir.display());
    let agent = RealAgent::start_after(&prelude, &master.address, &work_dir, &[]);
    master.launch(task("t1", "ulimit -Sn; ulimit -Hn; umask; cat /proc/self/oom_score_adj"));
    master.update("t1", TaskState::TaskFinished).await;
    let stdout = std::fs::read_to_string(agent.sandbox("t1").join("stdout")).unwrap();
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_eq!(stdout, format!("200\n5000\n0027\n{}\n", i32::max(own.trim().parse().unwrap(), 0)));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", agent.child.id())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some("5000"), "{files}");
    // What commands and their environments are written to is for the agent alone; a sandbox can be reached.
    let mode = |path: &Path| {
        let metadata = std::fs::symlink_metadata(path).unwrap();
        std::os::unix::fs::MetadataExt::mode(&metadata) & 0o777
    };
    for name in ["log", "meta", "meta/containers"] {
        assert_eq!(mode(&work_dir.join(name)), 0o700, "{name}");
    }
    for entry in std::fs::read_dir(work_dir.join("log")).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()) & 0o77, 0);
    }
    let sandbox = std::fs::canonicalize(agent.sandbox("t1")).unwrap();
    assert_eq!(mode(&sandbox), 0o750);
    let above = sandbox.ancestors().skip(1).take_while(|path| **path != work_dir);
    above.for_each(|path| assert_eq!(mode(path), 0o711, "{}", path.display()));
}
