//! The command line against a cluster that it started itself.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proptests::cluster::{READY, binary};
use proptests::wait;
use serde_json::Value;

/// A running `meseta local`, stopped by SIGTERM if the test has not done it.
struct Local {
    child: Child,
    masters: String,
    dir: tempfile::TempDir,
}

impl Local {
    fn start(masters: usize, agents: usize) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let mut child = Command::new(binary("meseta"))
            .args(["local", "--port=0", "--resources=cpus:4;mem:2048;disk:2048"])
            .args([format!("--masters={masters}"), format!("--agents={agents}")])
            .arg(format!("--work_dir={}", dir.path().display()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("meseta starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let told = lines.map_while(Result::ok).find_map(|line| Some(line.strip_prefix("masters")?.trim().to_owned()));
        Self { child, masters: told.expect("it tells its masters"), dir }
    }

    fn meseta(&self, command: &str, flags: &[&str]) -> Output {
        let master = format!("--master={}", self.masters);
        Command::new(binary("meseta")).arg(command).arg(master).args(flags).output().expect("meseta starts")
    }

    fn members(&self) -> Vec<Value> {
        let index = fs::read_to_string(self.dir.path().join("cluster.json")).expect("cluster.json");
        let index: Value = serde_json::from_str(&index).expect("JSON");
        index["members"].as_array().expect("members").clone()
    }

    fn terminate(&mut self) -> std::process::ExitStatus {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        wait::until("meseta local to stop", READY, || self.child.try_wait().expect("our child"))
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.terminate();
        }
    }
}

fn out(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn alive(member: &Value) -> bool {
    let pid = i32::try_from(member["pid"].as_i64().expect("a pid")).expect("small");
    kill(Pid::from_raw(pid), None).is_ok()
}

#[test]
fn a_cluster_a_task_and_what_is_told_about_them() {
    let mut local = Local::start(3, 2);

    let done = local.meseta("execute", &["--name=hello", "--command=echo hello", "--resources=cpus:0.5;mem:32"]);
    assert_eq!(done.status.code(), Some(0), "{}", out(&done));
    let told = out(&done);
    for state in ["hello: TASK_STARTING", "hello: TASK_RUNNING", "hello: TASK_FINISHED"] {
        assert!(told.contains(state), "{told}");
    }
    let failed = local.meseta("execute", &["--name=bad", "--command=exit 7", "--resources=cpus:0.5;mem:32"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(out(&failed).contains("bad: TASK_FAILED"), "{}", out(&failed));
    let arguments = ["--name=long", "--command=sleep 1000", "--kill_after=100ms", "--resources=cpus:0.5;mem:32"];
    let killed = local.meseta("execute", &arguments);
    assert_eq!(killed.status.code(), Some(1));
    assert!(out(&killed).contains("long: TASK_KILLED"), "{}", out(&killed));
    let plain = ["--no-shell", "--name=plain", "--command=/bin/echo $HOME", "--resources=cpus:0.5;mem:32", "--json"];
    let plain = local.meseta("execute", &plain);
    assert_eq!(plain.status.code(), Some(0), "{}", out(&plain));
    let last: Value = serde_json::from_str(out(&plain).lines().last().expect("lines")).expect("JSON");
    assert_eq!(last["state"], "TASK_FINISHED");

    let state = out(&local.meseta("state", &[]));
    assert!(state.contains("agents     2 (2 active)"), "{state}");
    let agents = out(&local.meseta("agents", &[]));
    assert_eq!(agents.lines().count(), 3, "a heading and two agents: {agents}");
    let tasks = out(&local.meseta("tasks", &[]));
    assert!(tasks.contains("TASK_FINISHED") && tasks.contains("hello"), "{tasks}");
    for command in ["state", "agents", "frameworks", "tasks", "roles"] {
        let plain = local.meseta(command, &[]);
        assert_eq!(plain.status.code(), Some(0), "{command}: {}", out(&plain));
        let json = local.meseta(command, &["--json"]);
        let parsed: Result<Value, _> = serde_json::from_slice(&json.stdout);
        assert!(parsed.is_ok_and(|value| value.is_object()), "{command}: {}", out(&json));
    }

    // A member that dies is no end of the others.
    let members = local.members();
    let pid = i32::try_from(members[0]["pid"].as_i64().expect("a pid")).expect("small");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it lives");
    let after = local.meseta("execute", &["--name=after", "--command=true", "--resources=cpus:0.5;mem:32"]);
    assert_eq!(after.status.code(), Some(0), "{}", out(&after));

    assert_eq!(local.terminate().code(), Some(0));
    assert!(!members.iter().any(alive), "everything was stopped");
}

#[test]
fn tasks_end_with_the_cluster() {
    let mut local = Local::start(1, 1);
    let mut task = Command::new(binary("meseta"))
        .args(["execute", "--name=t", "--command=sleep 1000", "--resources=cpus:0.5;mem:32"])
        .arg(format!("--master={}", local.masters))
        .stdout(Stdio::piped())
        .spawn()
        .expect("meseta starts");
    let lines = BufReader::new(task.stdout.take().expect("piped")).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("TASK_RUNNING")));
    let dir = local.dir.path().to_owned();
    assert_eq!(local.terminate().code(), Some(0));
    let left = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    let left: Vec<_> =
        left.filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&dir))).collect();
    assert!(left.is_empty(), "{left:?}");
    let _ = task.kill();
    let _ = task.wait();
}

#[test]
fn an_interrupted_execute_leaves_no_task() {
    let local = Local::start(1, 1);
    let mut task = Command::new(binary("meseta"))
        .args(["execute", "--name=t", "--command=sleep 1000", "--resources=cpus:0.5;mem:32"])
        .arg(format!("--master={}", local.masters))
        .stdout(Stdio::piped())
        .spawn()
        .expect("meseta starts");
    let lines = BufReader::new(task.stdout.take().expect("piped")).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("TASK_RUNNING")));
    kill(Pid::from_raw(task.id().cast_signed()), Signal::SIGINT).expect("it lives");
    assert_eq!(task.wait().expect("our child").code(), Some(130));
    wait::until("no running task", READY, || {
        let state: Value = serde_json::from_slice(&local.meseta("state", &["--json"]).stdout).ok()?;
        state["frameworks"].as_array()?.is_empty().then_some(())
    });
}

#[test]
fn mistakes_are_one_sentence_and_an_exit_code() {
    let meseta = |arguments: &[&str]| Command::new(binary("meseta")).args(arguments).output().expect("it starts");
    let check = |arguments: &[&str], code: i32, said: &str| {
        let output = meseta(arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{arguments:?}: {errors}");
        assert!(errors.contains(said), "{arguments:?}: {errors}");
    };
    check(&["nonsense"], 2, "there is no command 'nonsense'");
    check(&["state", "--mastre=x"], 2, "did you mean '--master'");
    check(&["state", "--master=127.0.0.1:1"], 1, "no answer from 127.0.0.1:1");
    check(&["execute", "--master=127.0.0.1:1", "--name=x"], 2, "--command is required");
    check(&["local", "--masters=2"], 2, "odd number");
    let help = meseta(&["--help"]);
    assert!(help.status.success() && out(&help).contains("execute"));
}
