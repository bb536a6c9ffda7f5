//! What is too large, too deep or not built, through the front door: one sentence each, and everybody else goes on.

use proptests::cluster::{Cluster, Plan};
use proptests::framework::{Framework, SCHEDULER, command_task, info};
use proptests::http::{self, Request};
use serde_json::{Value, json};
use std::path::Path;

const SECRET: &str = "hunter2-of-the-sizes";

/// What a SUBSCRIBE is refused with.
fn refused(cluster: &Cluster, change: impl FnOnce(&mut Value)) -> String {
    let mut info = info("large");
    info["capabilities"] = json!([{"type": "MULTI_ROLE"}]);
    change(&mut info);
    let Err(sentence) = Framework::try_subscribe(cluster.address("m0"), &info) else { panic!("it subscribed") };
    sentence
}

/// Whether a file below `dir` has this in it.
fn is_written(dir: &Path, needle: &[u8]) -> bool {
    std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()).any(|path| {
        let Ok(kind) = std::fs::symlink_metadata(&path) else { return false };
        if kind.is_dir() {
            return is_written(&path, needle);
        }
        kind.is_file() && std::fs::read(&path).is_ok_and(|bytes| bytes.windows(needle.len()).any(|at| at == needle))
    })
}

/// Launches `task` on a fresh offer; what its framework hears of it.
fn launched(framework: &mut Framework, id: &str, change: impl FnOnce(&mut Value)) -> Value {
    let offer = framework.offer();
    let mut task = command_task(id, &offer, "true");
    change(&mut task);
    let operations = json!([{"type": "LAUNCH", "launch": {"task_infos": [task]}}]);
    let accept = json!({"offer_ids": [offer["id"]], "operations": operations, "filters": {"refuse_seconds": 0.0}});
    framework.call(json!({"type": "ACCEPT", "accept": accept}));
    framework.update(id)
}

#[test]
fn what_is_too_large_is_refused_by_its_bound_and_harms_nobody() {
    let cluster = Plan::new().agents(1).start();
    let mut framework = Framework::subscribe(cluster.address("m0"), &info("small"));
    let deep = vec!["a"; 20_000].join("/");
    let sentence = refused(&cluster, |info| info["roles"] = json!([deep]));
    assert!(sentence.contains("has 39999 bytes, more than the 256 that are allowed"), "{sentence}");
    let deep = vec!["a"; 40].join("/");
    let sentence = refused(&cluster, |info| info["roles"] = json!([deep]));
    assert!(sentence.contains("has 40 components, more than the 32 that are allowed"), "{sentence}");
    let sentence = refused(&cluster, |info| info["user"] = json!("u".repeat(300)));
    assert!(sentence.contains("'FrameworkInfo.user' has 300 bytes, more than the 255"), "{sentence}");

    // One more byte than a body may have.
    let body = vec![b' '; api::limits::BODY_BYTES_MAX + 1];
    let mut request = Request::post_json(SCHEDULER, "");
    request.body = body;
    let answer = http::send(cluster.address("m0"), &request).expect("an answer");
    assert_eq!(answer.status(), 413, "{}", answer.text());

    let told = launched(&mut framework, "large", |task| {
        task["labels"] = json!({"labels": [{"key": "k", "value": "v".repeat(70_000)}]})
    });
    assert_eq!(told["state"], "TASK_ERROR");
    assert!(told["message"].as_str().unwrap().starts_with("'TaskInfo.labels' has 7"), "{told}");
    let told = launched(&mut framework, "larger", |task| {
        task["command"]["value"] = json!(format!(": {}", "x".repeat(5 << 20)))
    });
    assert_eq!(told["state"], "TASK_ERROR");
    assert!(told["message"].as_str().unwrap().contains("more than the 4194304 that are allowed"), "{told}");
    let told = launched(&mut framework, "small", |_| {});
    assert_eq!(told["state"], "TASK_STARTING", "an ordinary task runs: {told}");
    framework.until_state("small", "TASK_FINISHED");
}

#[test]
fn what_is_not_built_is_refused_before_it_is_written() {
    let cluster = Plan::new().agents(1).start();
    let mut framework = Framework::subscribe(cluster.address("m0"), &info("wishes"));
    let variable = json!({"name": "S", "type": "SECRET", "secret": {"type": "VALUE", "value": {
        "data": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, SECRET)}}});
    let told =
        launched(&mut framework, "secret", |task| task["command"]["environment"] = json!({"variables": [variable]}));
    assert_eq!(told["state"], "TASK_ERROR");
    let sentence = "Environment variable 'S' of type 'SECRET' is not written down as it is";
    assert!(told["message"].as_str().unwrap().starts_with(sentence), "{told}");
    let told = launched(&mut framework, "limited", |task| task["limits"] = json!({"cpus": {"value": 2.0}}));
    assert_eq!(told["message"], "Agent is not capable of handling task resource limits");
    // What agents differ in is theirs to refuse.
    let container = json!({"type": "MESOS", "linux_info": {"effective_capabilities": {"capabilities": ["CHOWN"]}}});
    let mut told = launched(&mut framework, "capable", |task| task["container"] = container);
    if told["state"] != "TASK_FAILED" {
        told = framework.until_state("capable", "TASK_FAILED");
    }
    let sentence = "capabilities of containers need linux/capabilities in this agent's --isolation";
    assert!(told["message"].as_str().unwrap().contains(sentence), "{told}");

    assert!(!is_written(cluster.dir(), SECRET.as_bytes()), "a secret was written down");
}

/// Tens of megabytes, a few at a time, in front of three masters: whoever leads goes on to lead.
#[test]
fn large_launches_do_not_cost_the_leadership() {
    let cluster = Plan::new().masters(3).agents(1).start();
    let mut framework = Framework::subscribe(cluster.address(&cluster.leader()), &info("large"));
    let term = |cluster: &Cluster| {
        let ask = Request::post_json("/meseta/masters", r#"{"action": "list", "here": true}"#);
        let answer = http::send(cluster.address(&cluster.leader()), &ask).expect("an answer");
        let answer: Value = serde_json::from_str(&answer.text()).expect("JSON");
        answer["me"]["term"].as_u64().expect("a term")
    };
    let before = term(&cluster);
    for number in 0..10 {
        let told = launched(&mut framework, &format!("t{number}"), |task| {
            task["command"]["value"] = json!(format!(": {}", "x".repeat(3_500_000)));
        });
        // No kernel starts a program with such an argument; that is for its agent to say.
        assert!(["TASK_STARTING", "TASK_FAILED"].contains(&told["state"].as_str().unwrap()), "{told}");
    }
    let lost = term(&cluster) - before;
    assert!(lost <= 1, "{lost} leaderships were lost");
}
