//! The cluster's secret: who knows it works as ever, who does not changes nothing.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use proptests::cluster::{Cluster, Plan, binary};
use proptests::framework::{Framework, command_task, info};
use proptests::http::{self, Request};
use serde_json::json;

const SECRET: &str = "a secret of sufficient length";

fn secret(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).expect("a file");
    format!("--cluster_secret=file://{}", path.display())
}

fn meseta(words: &[&str]) -> Output {
    Command::new(binary("meseta")).args(words).env_remove("MESETA_CLUSTER_SECRET").output().expect("meseta runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A task, from its offer to its end, through the master that leads.
fn run_one(cluster: &Cluster, task: &str) {
    let mut framework = Framework::subscribe(cluster.address(&cluster.leader()), &info(task));
    let offer = framework.offer();
    framework.launch(&offer, &[command_task(task, &offer, "exit 0")]);
    framework.until_state(task, "TASK_FINISHED");
    framework.teardown();
}

fn three(flag: &str) -> Cluster {
    Plan::new().masters(3).agents(2).master_flag(flag).agent_flag(flag).start()
}

#[test]
fn a_cluster_with_a_secret_runs_tasks_elects_and_is_operated_by_who_knows_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let flag = secret(dir.path(), "secret", SECRET);
    let mut cluster = three(&flag);
    run_one(&cluster, "before");
    let leader = cluster.leader();
    cluster.kill(&leader);
    run_one(&cluster, "after");
    cluster.restart(&leader);
    cluster.wait_ready();
    let at = format!("--master={}", cluster.address(&leader));
    let list = meseta(&["masters", "list", &at, &flag]);
    assert!(list.status.success() && said(&list).contains("leader"), "{}", said(&list));
    let saved = dir.path().join("saved");
    let save = meseta(&["snapshot", "save", &saved.display().to_string(), &at, &flag]);
    assert!(save.status.success(), "{}", said(&save));
    for (words, says) in [
        (vec!["masters", "list", &at], "This needs the cluster's secret"),
        (
            vec!["masters", "list", &at, &secret(dir.path(), "other", "another one of that length")],
            "not this cluster's secret",
        ),
        (vec!["masters", "list", &at, "--cluster_secret=its very own words"], "names a file"),
    ] {
        let refused = meseta(&words);
        assert!(!refused.status.success() && said(&refused).contains(says), "{}", said(&refused));
        assert!(!said(&refused).contains("its very own words"));
    }
    let flags = cluster.get(&leader, "/flags").to_string();
    assert!(!flags.contains(SECRET) && flags.contains("cluster_secret"), "{flags}");
}

/// The value of a task's secret.
const VALUE: &str = "hunter2-of-the-secrets";

/// Whether the bytes are in some file below a folder.
fn is_written(dir: &Path, needle: &[u8]) -> bool {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).any(|path| {
        let Ok(kind) = fs::symlink_metadata(&path) else { return false };
        if kind.is_dir() {
            return is_written(&path, needle);
        }
        kind.is_file() && fs::read(&path).is_ok_and(|bytes| bytes.windows(needle.len()).any(|at| at == needle))
    })
}

/// A command, and a task of a group with a check, find the secret in their environment; it is on no disk, and nobody is shown it.
#[test]
fn secrets_of_tasks_reach_them_and_no_disk() {
    let dir = tempfile::tempdir().expect("a folder");
    let flag = secret(dir.path(), "secret", SECRET);
    let mut cluster = Plan::new().masters(3).agents(1).master_flag(&flag).agent_flag(&flag).start();
    let follower = ["m0", "m1", "m2"].into_iter().find(|name| *name != cluster.leader()).expect("a follower");
    let mut framework = Framework::subscribe(cluster.address(follower), &info("secrets"));
    let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, VALUE);
    let variable = json!({"name": "S", "type": "SECRET", "secret": {"type": "VALUE", "value": {"data": data}}});
    let environment = json!({"variables": [variable]});
    // Its length, and not what it is: the sandbox is on the disk, too.
    let right = format!("test ${{#S}} = {}", VALUE.len());
    let offer = framework.offer();
    let mut task = command_task("command", &offer, &format!("{right} && sleep 1000"));
    task["command"]["environment"] = environment.clone();
    let mut wrong = command_task("refers", &offer, "true");
    let reference = json!({"name": "S", "type": "SECRET",
        "secret": {"type": "REFERENCE", "reference": {"name": "vault/s"}}});
    wrong["command"]["environment"] = json!({"variables": [reference]});
    framework.launch(&offer, &[task, wrong]);
    let refused = framework.until_state("refers", "TASK_ERROR");
    assert!(refused["message"].as_str().unwrap().contains("'S' refers to secret 'vault/s'"), "{refused}");
    framework.until_state("command", "TASK_RUNNING");
    let offer = framework.offer();
    let scalar = |name: &str, value: f64| json!({"name": name, "type": "SCALAR", "scalar": {"value": value}});
    let executor = json!({"type": "DEFAULT", "executor_id": {"value": "pod"}, "framework_id": {"value": framework.id},
        "resources": [scalar("cpus", 0.1), scalar("mem", 32.0), scalar("disk", 32.0)]});
    let mut task = command_task("grouped", &offer, &format!("{right} && sleep 1000"));
    task["command"]["environment"] = environment.clone();
    task["check"] = json!({"type": "COMMAND", "delay_seconds": 0.0, "interval_seconds": 0.2,
        "command": {"command": {"value": right}}});
    let launch =
        json!({"type": "LAUNCH_GROUP", "launch_group": {"executor": executor, "task_group": {"tasks": [task]}}});
    framework.call(json!({"type": "ACCEPT", "accept": {"offer_ids": [offer["id"]], "operations": [launch]}}));
    framework.until_state("grouped", "TASK_RUNNING");
    let checked = framework.until_state("grouped", "TASK_RUNNING");
    assert_eq!(checked["check_status"]["command"]["exit_code"], 0, "{checked}");
    // The agent is started again, and the log of the masters is read again.
    cluster.kill("a0");
    cluster.restart("a0");
    let leader = cluster.leader();
    cluster.kill(&leader);
    cluster.restart(&leader);
    cluster.wait_ready();
    for needle in [VALUE.as_bytes(), data.as_bytes()] {
        assert!(!is_written(cluster.dir(), needle), "a secret was written down");
    }
    for id in ["command", "grouped"] {
        framework.call(json!({"type": "KILL", "kill": {"task_id": {"value": id}}}));
        framework.until_state(id, "TASK_KILLED");
    }
}

#[test]
fn a_stranger_is_told_401_on_every_inner_path_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = three(&secret(dir.path(), "secret", SECRET));
    let leader = cluster.leader();
    let before = cluster.get(&leader, "/state")["slaves"].to_string();
    let masters = r#"{"action":"remove","address":"m1"}"#;
    for path in ["agent", "raft", "submit", "deliver", "hello", "digest", "masters", "snapshot", "snapshot?stale=true"]
    {
        for key in [None, Some("not.a.key".to_owned()), Some(format!("{0}.{0}.1.-.{0}{0}", "0".repeat(32)))] {
            for request in
                [Request::post_json(&format!("/meseta/{path}"), masters), Request::get(&format!("/meseta/{path}"))]
            {
                let request = key.iter().fold(request, |request, key| request.header("meseta-key", key));
                let answer = http::send(cluster.address(&leader), &request).expect("an answer");
                assert_eq!(answer.status(), 401, "{path}: {}", answer.text());
                assert!(answer.text().contains("secret"), "{path}: {}", answer.text());
            }
        }
    }
    assert_eq!(cluster.get(&leader, "/state")["slaves"].to_string(), before);
    assert_eq!(cluster.leader(), leader, "and the leader leads on");
    let warned = cluster.log(&leader).matches("a stranger was refused").count();
    assert!((1..10).contains(&warned), "{warned} warnings");
}

#[test]
fn a_secret_is_changed_one_process_after_the_other() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("secret");
    let flag = secret(dir.path(), "secret", SECRET);
    let mut cluster = three(&flag);
    let new = "the next secret, as long";
    for text in [format!("{SECRET}\n{new}\n"), format!("{new}\n{SECRET}\n"), format!("{new}\n")] {
        fs::write(&file, text).expect("a file");
        for name in ["m0", "m1", "m2", "a0", "a1"] {
            cluster.kill(name);
            cluster.restart(name);
            cluster.wait_ready();
        }
    }
    let list = meseta(&["masters", "list", &format!("--master={}", cluster.address("m0")), &flag]);
    assert!(list.status.success(), "{}", said(&list));
    fs::write(&file, SECRET).expect("a file");
    let list = meseta(&["masters", "list", &format!("--master={}", cluster.address("m0")), &flag]);
    assert!(!list.status.success(), "the old one is worth nothing: {}", said(&list));
}

#[test]
fn a_quorum_that_strangers_reach_does_not_start_without_a_secret_or_a_word() {
    let dir = tempfile::tempdir().expect("a folder");
    let start = |words: &[&str]| {
        let work_dir = format!("--work_dir={}", dir.path().join("m").display());
        let mut command = Command::new(binary("meseta-master"));
        command.args(["--port=0", "--join=127.0.0.1:1", &work_dir]).args(words).env_remove("MESETA_CLUSTER_SECRET");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("a master")
    };
    for open in ["--ip=0.0.0.0", "--ip=::"] {
        let refused = start(&[open]).wait_with_output().expect("it ends");
        assert!(!refused.status.success() && said(&refused).contains("meseta secret new FILE"), "{}", said(&refused));
    }
    let flag = secret(dir.path(), "secret", SECRET);
    for words in [&["--ip=0.0.0.0", "--insecure"][..], &["--ip=0.0.0.0", &flag], &["--ip=127.0.0.1"]] {
        let mut child = start(words);
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        assert!(line.contains("listening on"), "{words:?}: {line}");
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }
    let literal = start(&["--cluster_secret=hunter2-hunter2-hunter2"]).wait_with_output().expect("it ends");
    assert!(said(&literal).contains("names a file") && !said(&literal).contains("hunter2"), "{}", said(&literal));
}

#[test]
fn a_new_secret_is_for_its_owner_and_replaces_none() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("secret");
    let words = ["secret", "new", &file.display().to_string()];
    let made = meseta(&words);
    assert!(made.status.success() && said(&made).contains("--cluster_secret=file://"), "{}", said(&made));
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).expect("a file");
    assert!(!meseta(&words).status.success(), "it is not written over");
    assert_eq!(fs::read_to_string(&file).expect("a file"), text);
}
