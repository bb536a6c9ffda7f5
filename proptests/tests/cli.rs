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
        self.command(command).args(flags).output().expect("meseta starts")
    }

    fn command(&self, command: &str) -> Command {
        let mut started = Command::new(binary("meseta"));
        started.arg(command).arg(format!("--master={}", self.masters));
        started
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
    assert_eq!(failed.status.code(), Some(7), "the command's own");
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
fn what_a_task_writes_is_shown_and_found_again() {
    let local = Local::start(1, 1);
    let words = ["--name=ct:17 a", "--resources=cpus:0.5;mem:32"];
    let command = r#"--command=printf 'one\ntwo'; echo wrong >&2; echo kept > f"#;
    let done = local.meseta("execute", &[words[0], words[1], command]);
    let (told, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(
        told.contains("TASK_RUNNING") && told.contains("\none\ntwo\nct:17 a: TASK_") && told.contains("TASK_FINISHED"),
        "{told}"
    );
    assert_eq!(errors, "wrong\n");
    let sandbox = told.lines().last().and_then(|line| line.split_once(", sandbox ")).expect("a sandbox").1;
    let (_, folder) = sandbox.split_once(':').expect("a host");
    assert_eq!(fs::read_to_string(format!("{folder}/stdout")).expect("it is there"), "one\ntwo");

    let logs = |words: &[&str]| String::from_utf8_lossy(&local.meseta("logs", words).stdout).into_owned();
    assert_eq!([logs(&["ct:17 a"]), logs(&["ct:17 a", "--stderr"])], ["one\ntwo", "wrong\n"]);
    let files = out(&local.meseta("files", &["ct:17 a"]));
    assert!(files.starts_with(sandbox) && files.contains("stdout"), "{files}");
    assert_eq!(out(&local.meseta("files", &["ct:17 a", "f"])), "kept\n");
    std::os::unix::fs::symlink("/etc/passwd", format!("{folder}/link")).expect("a link out of the sandbox");
    for path in ["../../x", "link"] {
        let missing = local.meseta("files", &["ct:17 a", path]);
        assert_eq!(missing.status.code(), Some(1), "{}", out(&missing));
    }
    assert!(out(&local.meseta("files", &["ct:17 a", "link"])).contains("there is no \"link\""));
    let nobody = local.meseta("logs", &["ct:17 a", "--framework=nope"]);
    assert!(out(&nobody).contains("no framework \"nope\" is known"), "{}", out(&nobody));

    // Where nothing can be written, whoever asked is told.
    for words in [&["tasks", "--json"][..], &["state"], &["logs", "ct:17 a"], &["files", "ct:17 a"]] {
        let full = fs::File::options().write(true).open("/dev/full").expect("it is there");
        let mut asked = Command::new(binary("meseta"));
        asked.args(words).arg(format!("--master={}", local.masters)).stdout(full);
        let lost = asked.output().expect("meseta starts");
        assert_eq!(lost.status.code(), Some(1), "{words:?}");
        assert!(out(&lost).contains("cannot write the output: "), "{words:?}: {}", out(&lost));
    }
    assert!(out(&local.meseta("logs", &["ct:17 b"])).contains("did you mean \"ct:17 a\"?"));

    // The output alone, for a pipe; and none at all.
    let only = local.meseta("execute", &["--name=o", words[1], "--command=echo x", "--no-statuses"]);
    assert_eq!(out(&only), "x\n");
    let none = local.meseta("execute", &["--name=n", words[1], "--command=echo x", "--no-output"]);
    assert!(!out(&none).contains("\nx\n") && out(&none).contains("TASK_FINISHED"), "{}", out(&none));

    // A task that goes on is followed to its end.
    let mut task = Command::new(binary("meseta"))
        .args(["execute", "--name=long", words[1], "--command=echo first; sleep 2; echo last"])
        .arg(format!("--master={}", local.masters))
        .stdout(Stdio::piped())
        .spawn()
        .expect("meseta starts");
    let lines = BufReader::new(task.stdout.take().expect("piped")).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("first")));
    assert_eq!(logs(&["-f", "long"]), "first\nlast\n");
    let _ = task.wait();
}

#[test]
fn what_masters_and_agents_log_is_shown() {
    let local = Local::start(1, 1);
    let master = local.meseta("logs", &["--of_master"]);
    assert!(master.status.success() && out(&master).contains("listening on"), "{master:?}");
    wait::until("the agent's log to say that it is welcome", READY, || {
        let agent = local.meseta("logs", &["--of_agent=S0"]);
        (agent.status.success() && out(&agent).contains("welcome")).then_some(())
    });
    assert_eq!(local.meseta("logs", &["--of_master", "task"]).status.code(), Some(2));
}

#[test]
fn who_waits_is_told_why() {
    let local = Local::start(1, 1);
    let wait = |resources: &str| {
        let resources = format!("--resources={resources}");
        let gave_up = local.meseta("execute", &["--name=w", "--command=true", "--timeout=3secs", &resources]);
        assert_eq!(gave_up.status.code(), Some(1), "{}", out(&gave_up));
        out(&gave_up)
    };
    let large = wait("cpus:64;mem:32");
    assert!(large.contains("waiting: no offer fits cpus:64 (1 agent, the largest has cpus:4)"), "{large}");
    assert!(large.contains("gave up after 3secs"), "{large}");
    let typo = wait("cpu:0.1;mem:32");
    assert!(typo.contains("no agent has a resource named 'cpu'; did you mean 'cpus'?"), "{typo}");
    let nobody = Local::start(1, 0);
    let waits = nobody.meseta("execute", &["--name=w", "--command=true", "--timeout=3secs"]);
    assert!(out(&waits).contains("waiting: no agent is registered"), "{}", out(&waits));
}

#[test]
fn a_task_is_a_file_as_well() {
    let local = Local::start(1, 1);
    let ran = |task: &str, text: &str| {
        fs::write(local.dir.path().join("task.json"), text).unwrap();
        let ran = local.command("execute").arg(format!("--task={task}")).current_dir(local.dir.path()).output();
        let ran = ran.expect("it starts");
        (ran.status.code(), out(&ran))
    };
    // With no more than it needs: what it is called, and what runs.
    let (code, said) = ran("task.json", r#"{"name": "of-file", "command": {"value": "echo from a file; exit 4"}}"#);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("of-file: TASK_RUNNING") && said.contains("from a file"), "{said}");
    for (task, text, why) in [
        ("none.json", "", "neither a TaskInfo as JSON nor a file of one: cannot read 'none.json'"),
        ("task.json", "{}", "it has neither a name nor a task_id"),
        ("{\"name\": ", "", "neither a TaskInfo as JSON nor a file of one: EOF"),
    ] {
        let (code, said) = ran(task, text);
        assert_eq!(code, Some(2), "{task}: {said}");
        assert!(said.contains(why), "{task}: {said}");
    }
}

#[test]
fn names_of_strangers_stay_in_their_cells() {
    let local = Local::start(1, 1);
    let task = r#"{"name":"a\u001b[2Jb\nt9  TASK_RUNNING","task_id":{"value":"a\u009b31mb\u202ec"},
        "command":{"value":"exit 1"},"resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":0.1}},
        {"name":"mem","type":"SCALAR","scalar":{"value":32}}]}"#;
    let framework = "--framework_name=\u{1b}]0;owned\u{7}fw\nline2";
    let ran = local.meseta("execute", &[&format!("--task={task}"), framework, "--no-output"]);
    let state = local.dir.path().join("master-0");
    let log = |words: &[&str]| Command::new(binary("meseta-log")).args(words).arg(&state).output().expect("it starts");
    let shown = [
        ran,
        local.meseta("tasks", &[]),
        local.meseta("tasks", &["--full", "--json"]),
        local.meseta("frameworks", &[]),
        local.meseta("state", &["--json"]),
        log(&["explain", "task", "a\u{9b}31mb\u{202e}c"]),
        log(&["explain", "role", "*"]),
        log(&["cat"]),
        log(&["cat", "--json"]),
        log(&["export"]),
        log(&["export", "--format=csv"]),
        log(&["state"]),
        log(&["diff", "1", "20"]),
        log(&["stats"]),
        log(&["info"]),
    ];
    for output in shown {
        let text = out(&output);
        let bad = |letter: char| letter != '\n' && letter.is_control() || letter == '\u{202e}';
        assert!(!text.contains(bad), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("t9") || line.starts_with("line2")), "{text}");
    }
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
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let mut task = Command::new(binary("meseta"))
            .args(["execute", "--name=t", "--command=sleep 1000", "--resources=cpus:0.5;mem:32"])
            .arg(format!("--master={}", local.masters))
            .stdout(Stdio::piped())
            .spawn()
            .expect("meseta starts");
        let lines = BufReader::new(task.stdout.take().expect("piped")).lines();
        assert!(lines.map_while(Result::ok).any(|line| line.contains("TASK_RUNNING")));
        kill(Pid::from_raw(task.id().cast_signed()), signal).expect("it lives");
        assert_eq!(task.wait().expect("our child").code(), Some(code));
        wait::until("no running task", READY, || {
            let state: Value = serde_json::from_slice(&local.meseta("state", &["--json"]).stdout).ok()?;
            state["frameworks"].as_array()?.is_empty().then_some(())
        });
    }
}

#[test]
fn what_is_away_is_shown() {
    let local = Local::start(3, 1);
    let members = local.members();
    let end = |name: &str| {
        let member = members.iter().find(|member| member["name"] == name).expect("a member");
        let pid = i32::try_from(member["pid"].as_i64().expect("a pid")).expect("small");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it lives");
        member["address"].as_str().expect("an address").to_owned()
    };
    end("agent-0");
    wait::until("the agent is missed", READY, || {
        let agents = out(&local.meseta("agents", &[]));
        (agents.contains("disconnected") && agents.contains("unreachable at ")).then_some(())
    });
    let listed = local.meseta("masters", &[]);
    assert_eq!(listed.status.code(), Some(0), "{}", out(&listed));

    // One of three is left, whoever led before: it is asked alone.
    let gone = [end("master-0"), end("master-1")];
    let left = local.masters.split(',').find(|master| !gone.contains(&(*master).to_owned())).expect("one is left");
    let listed = Command::new(binary("meseta")).args(["masters", "list"]).arg(format!("--master={left}")).output();
    let listed = listed.expect("meseta starts");
    let told = out(&listed);
    assert_eq!(listed.status.code(), Some(1), "{told}");
    assert!(told.contains("no quorum: ") && told.contains("do not answer (1 of 3, 2 needed)"), "{told}");
    assert!(!told.contains(" leader ") && gone.iter().all(|gone| told.matches(gone.as_str()).count() == 2), "{told}");
}

/// Ends with it.
struct Daemon(Child);

impl Daemon {
    fn start(program: &str, words: &[&str]) -> Self {
        let child = Command::new(binary(program)).args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.expect("it starts"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn another_cluster_at_the_old_address_has_no_word_about_our_task() {
    let mut local = Local::start(1, 1);
    let port = local.masters.rsplit_once(':').expect("a port").1.to_owned();
    let mut task = Command::new(binary("meseta"))
        .args(["execute", "--name=t", "--command=sleep 1000", "--resources=cpus:0.5;mem:32"])
        .arg(format!("--master={}", local.masters))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("meseta starts");
    let lines = BufReader::new(task.stdout.take().expect("piped")).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("TASK_RUNNING")));
    local.terminate();
    let other = tempfile::tempdir().expect("a folder");
    let work_dir = format!("--work_dir={}", other.path().display());
    let _other = Daemon::start("meseta-master", &[&work_dir, "--ip=127.0.0.1", &format!("--port={port}")]);
    let ended = task.wait_with_output().expect("it ends");
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{errors}");
    assert!(errors.contains(" is a master of cluster ") && errors.contains("may still run"), "{errors}");
}

#[test]
fn a_quorum_that_forms_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let local = Local::start(1, 0);
    // Free while it is looked for; whoever takes it meanwhile is no master either.
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let all = format!("127.0.0.1:{port},127.0.0.1:1,127.0.0.1:2");
    let words = [format!("--work_dir={}", dir.path().display()), format!("--port={port}"), format!("--masters={all}")];
    let _forming = Daemon::start("meseta-master", &[&words[0], "--ip=127.0.0.1", &words[1], &words[2]]);
    wait::until("it says what it waits for", READY, || {
        let listed = Command::new(binary("meseta")).args(["masters", &format!("--master=127.0.0.1:{port}")]).output();
        let listed = listed.expect("meseta starts");
        assert_eq!(listed.status.code(), Some(1), "{}", out(&listed));
        out(&listed).contains(&format!("forms a quorum with {all}")).then_some(())
    });
    drop(local);
}

#[test]
fn snapshots_are_not_written_over_and_not_restored_beside_their_cluster() {
    let local = Local::start(1, 0);
    let file = local.dir.path().join("saved");
    let (file, dir) = (file.to_str().expect("UTF-8"), local.dir.path().join("restored"));
    let save = |more: &[&str]| local.meseta("snapshot", &[&["save", file], more].concat());
    assert!(save(&[]).status.success());
    let again = save(&[]);
    assert!(again.status.code() == Some(1) && out(&again).contains("--force"), "{}", out(&again));
    assert!(save(&["--force"]).status.success());
    let inspected = Command::new(binary("meseta")).args(["snapshot", "inspect", file]).output().expect("meseta starts");
    let told = out(&inspected);
    assert!(told.contains("\nat  ") && told.contains("\nagents ") && told.contains(&local.masters), "{told}");
    let restore = || {
        let work_dir = format!("--work_dir={}", dir.display());
        Command::new(binary("meseta")).args(["snapshot", "restore", file, &work_dir]).output().expect("meseta starts")
    };
    let refused = restore();
    assert!(out(&refused).contains("still answers for cluster") && !dir.exists(), "{}", out(&refused));
    assert_eq!(refused.status.code(), Some(1));
}

#[test]
fn a_local_cluster_is_not_mistaken_for_another() {
    let local = Local::start(1, 1);
    let port = local.masters.rsplit_once(':').expect("a port").1.to_owned();
    let start = |words: &[&str]| {
        let output = Command::new(binary("meseta")).arg("local").args(words).output().expect("meseta starts");
        assert!(!out(&output).contains("masters  "), "no banner: {}", out(&output));
        out(&output)
    };
    let taken = start(&[&format!("--port={port}"), "--agents=0"]);
    assert!(taken.contains("the port is in use"), "{taken}");
    let kept = format!("--work_dir={}", local.dir.path().display());
    let other = start(&[&kept, "--masters=3", "--port=0"]);
    assert!(other.contains("holds a cluster with --masters=1 --agents=1"), "{other}");
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
    check(&["framworks"], 2, "did you mean 'frameworks'?");
    check(&["masters", "lst"], 2, "did you mean 'list'?");
    check(&["tasks", "--state=RUNING"], 2, "did you mean 'TASK_RUNNING'?");
    check(&["state", "--master=http://h:5050/"], 2, "without http:// and path, as h:5050");
    check(&["snapshot", "inspect", "/nope"], 1, "/nope");
    check(&["execute", "--master=127.0.0.1:1", "--name=x", "--command=true"], 1, "Connection refused");
    check(&["state", "--mastre=x"], 2, "did you mean '--master'");
    check(&["state", "--master=127.0.0.1:1"], 1, "no answer from 127.0.0.1:1");
    check(&["execute", "--master=127.0.0.1:1", "--name=x"], 2, "--command is required");
    check(&["local", "--masters=2"], 2, "odd number");
    let help = meseta(&["--help"]);
    assert!(help.status.success() && out(&help).contains("execute"));
}
