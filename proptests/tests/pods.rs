//! Groups of tasks on the default executor, from a framework's ACCEPT to their end; and a terminal within.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{Winsize, openpty};
use proptests::clients::Client;
use proptests::cluster::{Cluster, Plan, READY, binary};
use proptests::framework::{Framework, command_task, info};
use proptests::http::PATIENCE;
use proptests::wait;
use serde_json::{Value, json};

fn group(framework: &mut Framework, executor: &str, tasks: &[(&str, &str)]) {
    let offer = framework.offer();
    let scalar = |name: &str, value: f64| json!({"name": name, "type": "SCALAR", "scalar": {"value": value}});
    let executor = json!({"type": "DEFAULT", "executor_id": {"value": executor},
        "framework_id": {"value": framework.id},
        "resources": [scalar("cpus", 0.1), scalar("mem", 32.0), scalar("disk", 32.0)]});
    let tasks: Vec<Value> = tasks.iter().map(|(id, command)| command_task(id, &offer, command)).collect();
    let launch =
        json!({"type": "LAUNCH_GROUP", "launch_group": {"executor": executor, "task_group": {"tasks": tasks}}});
    framework.call(json!({"type": "ACCEPT", "accept": {"offer_ids": [offer["id"]], "operations": [launch],
        "filters": {"refuse_seconds": 0.0}}}));
}

#[test]
fn pymesos_launches_groups() {
    let cluster = Plan::new().agents(1).start();
    let dir = tempfile::tempdir().expect("a folder");
    let run = Client::PymesosPods.start(dir.path(), &[format!("--masters={}", cluster.address("m0"))]);
    assert_eq!(run.finish(Duration::from_secs(150))["well"], true);
}

/// Every state of every task comes once, and every exit code is right, whenever the agent is killed.
#[test]
fn groups_outlive_agents_that_are_killed() {
    const ROUNDS: usize = 6;
    let mut cluster = Plan::new().agents(1).agent_flag("--executor_reregistration_timeout=15secs").start();
    let mut framework = Framework::subscribe(cluster.address("m0"), &info("pods"));
    let names: Vec<String> = (0..ROUNDS).map(|round| format!("p{round}")).collect();
    for (round, name) in names.iter().enumerate() {
        let (one, two) = (format!("{name}-a"), format!("{name}-b"));
        let command = format!("sleep 0.{round}; exit {round}");
        group(&mut framework, name, &[(&one, &command), (&two, "sleep 1000")]);
        // Before it starts, while it starts, while it runs, while it ends.
        std::thread::sleep(Duration::from_millis(60 * round as u64));
        cluster.kill("a0");
        cluster.restart("a0");
        cluster.wait_ready();
        if round == 0 {
            framework.call(json!({"type": "KILL", "kill": {"task_id": {"value": two}}}));
        }
        let mut ends = BTreeMap::new();
        while ends.len() < 2 {
            let event = framework.wait("an update", |event| Some(event.clone()));
            if event["type"] == "OFFERS" {
                // They come again.
                let ids: Vec<Value> =
                    event["offers"]["offers"].as_array().expect("offers").iter().map(|one| one["id"].clone()).collect();
                framework.call(json!({"type": "DECLINE",
                    "decline": {"offer_ids": ids, "filters": {"refuse_seconds": 0.1}}}));
            }
            let status = &event["update"]["status"];
            if event["type"] != "UPDATE"
                || status["task_id"]["value"].as_str().is_none_or(|id| !id.starts_with(name.as_str()))
            {
                continue;
            }
            framework.acknowledge(status);
            let (id, state) = (status["task_id"]["value"].as_str().expect("an id"), status["state"].as_str());
            match state.expect("a state") {
                "TASK_STARTING" | "TASK_RUNNING" | "TASK_KILLING" => {}
                end => drop(ends.insert(id.to_owned(), (end.to_owned(), status["message"].clone()))),
            }
        }
        let (first, message) = &ends[&one];
        match round {
            0 => assert!(["TASK_FINISHED", "TASK_KILLED"].contains(&first.as_str()), "{ends:?}"),
            _ => {
                assert_eq!(first, "TASK_FAILED", "{ends:?}");
                assert_eq!(*message, format!("Command exited with status {round}"));
            }
        }
        assert_eq!(ends[&two].0, "TASK_KILLED", "{ends:?}");
    }
    wait::until("nothing is left running", READY, || {
        let meta = cluster.work_dir("a0").join("meta/containers");
        // A launch that an agent gave up stays claimed for a while, against a supervisor that is late.
        let is_given_up = |path: &Path| std::fs::read_to_string(path).is_ok_and(|claim| claim == "agent.\n");
        let mut entries = std::fs::read_dir(meta).ok()?;
        entries.all(|entry| entry.is_ok_and(|entry| is_given_up(&entry.path()))).then_some(())
    });
}

/// A program on a terminal of ours.
struct Terminal {
    child: Child,
    master: File,
    shown: String,
}

impl Terminal {
    fn start(cluster: &Cluster, words: &[&str]) -> Terminal {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("a terminal");
        fcntl(pty.master.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("a flag");
        let end = || -> OwnedFd { pty.slave.try_clone().expect("a descriptor") };
        let mut command = Command::new("setsid");
        // A session of its own, of which the terminal is: so it hears of its size.
        command.arg("--ctty").arg("--wait").arg(binary("meseta")).arg("task");
        command.arg(format!("--master={}", cluster.address("m0"))).args(words);
        let child = command.stdin(end()).stdout(end()).stderr(end()).env("TERM", "xterm").spawn().expect("it starts");
        let master = File::from(pty.master);
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        fcntl(master.as_fd(), FcntlArg::F_SETFL(flags)).expect("a flag");
        Terminal { child, master, shown: String::new() }
    }

    fn typed(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("it is written");
    }

    fn until(&mut self, what: &str) {
        let shown = &mut self.shown;
        let mut master = &self.master;
        wait::until(&format!("{what:?} is shown"), PATIENCE, || {
            let mut bytes = [0; 4096];
            if let Ok(count) = master.read(&mut bytes) {
                shown.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
            shown.contains(what).then_some(())
        });
    }

    fn resize(&self, rows: u16, columns: u16) {
        let status = Command::new("stty")
            .args(["rows", &rows.to_string(), "cols", &columns.to_string()])
            .stdin(self.master.try_clone().expect("a descriptor"))
            .status();
        assert!(status.expect("stty runs").success());
    }

    fn ended(mut self) -> Option<i32> {
        wait::until("its end", PATIENCE, || {
            // It may wait until what it wrote is read.
            let _ = (&self.master).read(&mut [0; 4096]);
            self.child.try_wait().expect("our child")
        })
        .code()
    }
}

#[test]
fn a_command_beside_a_task_has_a_real_terminal() {
    let cluster = Plan::new().agents(1).start();
    let mut framework = Framework::subscribe(cluster.address("m0"), &info("terminals"));
    group(&mut framework, "p", &[("a", "echo from a; sleep 1000"), ("b", "sleep 1000")]);
    framework.until_state("a", "TASK_RUNNING");
    let master = format!("--master={}", cluster.address("m0"));
    let plain = |words: &[&str]| {
        let mut command = Command::new(binary("meseta"));
        command.arg("task").arg(&master).args(words);
        command
    };
    let mut logs = Command::new(binary("meseta"));
    logs.args(["logs", &master, "a"]);
    wait::until("what it wrote", PATIENCE, || (logs.output().expect("it runs").stdout == b"from a\n").then_some(()));
    let output = plain(&["exec", "a", "sh", "-c", "echo out; echo err >&2; exit 7"]).output().expect("it runs");
    assert_eq!((output.status.code(), &output.stdout[..], &output.stderr[..]), (Some(7), &b"out\n"[..], &b"err\n"[..]));
    let mut command = plain(&["exec", "-i", "a", "tr", "a-z", "A-Z"]);
    let mut child =
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().expect("it runs");
    child.stdin.take().expect("piped").write_all(b"typed\n").expect("written");
    assert_eq!(child.wait_with_output().expect("it ends").stdout, b"TYPED\n");
    let mut terminal = Terminal::start(&cluster, &["exec", "-it", "a", "--", "sh"]);
    terminal.typed("printf '\\033[31mred\\033[0m\\n'; stty size\n");
    terminal.until("\u{1b}[31mred\u{1b}[0m");
    terminal.until("24 80");
    terminal.resize(50, 132);
    // It hears of it in its own time.
    wait::until("the new size", PATIENCE, || {
        terminal.typed("stty size\n");
        std::thread::sleep(Duration::from_millis(50));
        let mut bytes = [0; 4096];
        if let Ok(count) = (&terminal.master).read(&mut bytes) {
            terminal.shown.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        terminal.shown.contains("50 132").then_some(())
    });
    terminal.typed("sleep 1000; echo not''yet\n");
    terminal.until("not''yet");
    std::thread::sleep(Duration::from_millis(200));
    terminal.typed("\u{3}");
    terminal.typed("echo st''ill; exit 4\n");
    terminal.until("still");
    assert!(!terminal.shown.contains("notyet"), "Ctrl-C ended what ran");
    assert_eq!(terminal.ended(), Some(4));
    // Whoever leaves ends the command, and not the task.
    let mut terminal = Terminal::start(&cluster, &["exec", "-it", "a", "--", "sh"]);
    terminal.typed("echo h''ere\n");
    terminal.until("here");
    terminal.typed("\u{10}\u{11}");
    assert_eq!(terminal.ended(), Some(0));
    let refused = plain(&["attach", "a"]).output().expect("it runs");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("task a has no terminal"), "{refused:?}");
}
