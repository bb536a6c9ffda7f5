//! What cannot be decided: it is counted, named and said, and everything else goes on.

use std::process::Command;

use proptests::cluster::{Cluster, Plan, READY, binary};
use proptests::framework::{Framework, command_task, info};
use proptests::wait;
use serde_json::{Value, json};

const CRASHES_ON: &str = "MESETA_REHEARSE_CRASHES_ON";
/// Of the end of a task whose executor ended without a word.
const REASON: &str = "REASON_EXECUTOR_TERMINATED";

fn crashed(cluster: &Cluster) -> f64 {
    cluster.get("m0", "/metrics/snapshot")["master/meseta/crashed_decisions"].as_f64().expect("a number")
}

/// A task on an executor that has nothing beside its tasks, as most are written, and ends by itself.
fn task_on_bare_executor(framework: &Framework, id: &str, offer: &Value) -> Value {
    let mut task = command_task(id, offer, "");
    task.as_object_mut().expect("an object").remove("command");
    task["executor"] = json!({"type": "CUSTOM", "executor_id": {"value": id}, "framework_id": {"value": framework.id},
                              "command": {"value": "exec sleep 0.2"}});
    task
}

#[test]
fn a_call_that_crashes_is_counted_and_named_and_nothing_else_suffers() {
    let mut cluster = Plan::new().agents(1).master_environment(CRASHES_ON, "SUPPRESS").start();
    cluster.expect_crashes();
    let mut framework = Framework::subscribe(cluster.address("m0"), &info("crashes"));
    for _ in 0..3 {
        let answer = framework.try_call(json!({"type": "SUPPRESS", "suppress": {}}));
        assert_eq!(answer.status(), 500, "{}", answer.text());
    }
    assert_eq!(crashed(&cluster), 3.0);
    let offer = framework.offer();
    framework.launch(&offer, &[command_task("t", &offer, "true")]);
    framework.until_state("t", "TASK_FINISHED");

    let log = cluster.log("m0");
    let line = log.lines().find(|line| line.contains("a decision crashed by a defect")).expect("a line of the log");
    for part in ["ERROR", "SUPPRESS", "127.0.0.1", "a defect was rehearsed"] {
        assert!(line.contains(part), "{line}");
    }
    let flag = format!("--master={}", cluster.address("m0"));
    let told = Command::new(binary("meseta")).args(["state", &flag]).output().expect("meseta starts");
    let told = String::from_utf8_lossy(&told.stdout);
    assert!(told.contains("3 decisions by a defect of Meseta, the last of SUPPRESS: a defect was rehearsed"), "{told}");
}

#[test]
fn a_message_that_crashes_does_not_silence_its_agent() {
    let mut cluster = Plan::new().agents(1).master_environment(CRASHES_ON, "executor-exited").start();
    cluster.expect_crashes();
    let mut framework = Framework::subscribe(cluster.address("m0"), &info("crashes"));
    let offer = framework.offer();
    framework.launch(&offer, &[task_on_bare_executor(&framework, "t", &offer)]);
    assert_eq!(framework.update("t")["reason"], REASON);
    wait::until("the crash to be counted", READY, || (crashed(&cluster) >= 1.0).then_some(()));
    let offer = framework.offer();
    framework.launch(&offer, &[command_task("after", &offer, "true")]);
    framework.until_state("after", "TASK_FINISHED");
    let log = cluster.log("m0");
    assert!(!log.contains("messages were not taken"), "{log}");
}

#[test]
fn a_deadline_that_crashes_is_set_aside_and_the_others_pass() {
    let mut cluster = Plan::new().agents(1).master_environment(CRASHES_ON, "deadline-passed").start();
    cluster.expect_crashes();
    // Its failover timeout is over at once.
    let leaves = json!({"user": "root", "name": "leaves", "failover_timeout": 0.0});
    drop(Framework::subscribe(cluster.address("m0"), &leaves));
    let aside = || {
        let metrics = cluster.get("m0", "/metrics/snapshot");
        metrics["master/meseta/deadlines_set_aside"].as_f64().filter(|count| *count >= 2.0)
    };
    wait::until("the deadline to be set aside twice", READY, aside);
    assert!(crashed(&cluster) < 20.0, "it is tried less and less");
    let mut framework = Framework::subscribe(cluster.address("m0"), &info("stays"));
    let offer = framework.offer();
    framework.launch(&offer, &[command_task("t", &offer, "true")]);
    framework.until_state("t", "TASK_FINISHED");
}

#[test]
fn executors_with_nothing_of_their_own_come_and_go() {
    let cluster = Plan::new().agents(1).start();
    let mut framework = Framework::subscribe(cluster.address("m0"), &info("bare"));
    for id in ["first", "second"] {
        let offer = framework.offer();
        framework.launch(&offer, &[task_on_bare_executor(&framework, id, &offer)]);
        assert_eq!(framework.update(id)["reason"], REASON);
    }
    framework.teardown();
    wait::until("the framework to be gone", READY, || {
        let state = cluster.get("m0", "/master/state");
        state["frameworks"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
}
