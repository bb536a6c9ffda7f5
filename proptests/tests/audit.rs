//! Who did what and who was refused is found out afterwards: with wrong secrets, by access control lists, at masters and at
//! agents, whichever master decided; and what was shown is nowhere.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use proptests::cluster::{Cluster, Plan, READY, binary};
use proptests::http::{self, Request};
use proptests::wait;
use serde_json::{Value, json};

const SECRET: &str = "ops-secret-of-the-test";
const WRONG: &str = "wrong-secret-of-the-test";

fn asked(cluster: &Cluster, name: &str, request: Request, principal: &str, secret: &str) -> u16 {
    let request = request.header("Authorization", &http::basic(principal, secret));
    http::send(cluster.address(name), &request).expect("an answer").status()
}

fn quota(role: &str) -> Request {
    let config = json!({"role": role, "limits": {"cpus": {"value": 1.0}}});
    let call = json!({"type": "UPDATE_QUOTA", "update_quota": {"quota_configs": [config]}});
    Request::post_json("/api/v1", &call.to_string())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn whoever_was_refused_is_found_and_their_secrets_are_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
        path.display().to_string()
    };
    let credentials = file("credentials", &format!("ops {SECRET}\nweb {SECRET}\n"));
    let secret = file("secret", SECRET);
    let acls = file(
        "acls",
        r#"{"update_quotas": [{"principals": {"values": ["ops"]}, "roles": {"type": "ANY"}},
                              {"principals": {"type": "ANY"}, "roles": {"type": "NONE"}}],
            "access_mesos_logs": [{"principals": {"values": ["ops"]}, "logs": {"type": "ANY"}},
                                  {"principals": {"type": "ANY"}, "logs": {"type": "NONE"}}]}"#,
    );
    let shared = format!("--cluster_secret=file://{}", file("cluster", "one-that-is-long-enough"));
    let mut plan = Plan::new().masters(3).agents(1).master_flag(&shared).agent_flag(&shared);
    for flag in [
        format!("--credentials={credentials}"),
        "--authenticate_http_readwrite".into(),
        "--authenticate_http_readonly".into(),
        format!("--acls={acls}"),
    ] {
        plan = plan.master_flag(&flag);
    }
    for flag in
        [format!("--http_credentials={credentials}"), "--authenticate_http_readonly".into(), format!("--acls={acls}")]
    {
        plan = plan.agent_flag(&flag);
    }
    let cluster = plan.start_without_waiting();
    let leads = |name: &String| {
        let request = Request::get("/metrics/snapshot").header("Authorization", &http::basic("ops", SECRET));
        let metrics = http::send(cluster.address(name), &request).ok().filter(|answer| answer.status() == 200)?.json();
        (metrics["master/elected"] == 1.0 && metrics["master/slaves_active"] == 1.0).then_some(())
    };
    let masters = cluster.masters();
    let leader = wait::until("a leader with an agent", READY, || masters.iter().find(|name| leads(name).is_some()));
    let follower = masters.iter().find(|name| *name != leader).expect("three");
    let agent = cluster.agents()[0].clone();
    assert_eq!(asked(&cluster, leader, quota("a"), "ops", SECRET), 200);
    assert_eq!(asked(&cluster, follower, quota("b"), "web", SECRET), 403, "decided by the leader");
    assert_eq!(asked(&cluster, follower, Request::get("/state?token=hidden"), "ops", WRONG), 401);
    assert_eq!(asked(&cluster, leader, Request::get("/audit"), "web", SECRET), 403, "not an operator");
    assert_eq!(asked(&cluster, &agent, Request::get("/state"), "web", WRONG), 401);
    assert_eq!(asked(&cluster, &agent, Request::get("/audit"), "web", SECRET), 403);
    let stranger = http::send(cluster.address(leader), &Request::post_json("/meseta/masters", r#"{"action": "list"}"#));
    assert_eq!(stranger.expect("an answer").status(), 401, "without the cluster's secret");

    let audit = |words: &[&str]| -> Vec<Value> {
        let masters: Vec<String> = cluster.masters().iter().map(|name| cluster.address(name).to_string()).collect();
        let output = Command::new(binary("meseta"))
            .arg("audit")
            .args(["--json", "--principal=ops", &format!("--master={}", masters.join(","))])
            .arg(format!("--secret_file={secret}"))
            .args(words)
            .output()
            .expect("meseta runs");
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let all = audit(&["--agents"]);
    let one = |is: &dyn Fn(&Value) -> bool| -> Value {
        let found: Vec<&Value> = all.iter().filter(|line| is(line)).collect();
        assert_eq!(found.len(), 1, "{all:#?}");
        found[0].clone()
    };
    let done = one(&|line| line["index"].is_u64() && line["call"] == "UPDATE_QUOTA");
    assert_eq!((&done["principal"], &done["events"]), (&json!("ops"), &json!({"quotas-set": 1})), "{done}");
    let denied = one(&|line| line["action"] == "UPDATE_QUOTA_WITH_CONFIG");
    assert_eq!((&denied["principal"], &denied["object"]), (&json!("web"), &json!("b")), "{denied}");
    assert_eq!(denied["why"], "update_quotas[1] refuses it");
    assert_eq!(denied["master"], cluster.address(leader).to_string());
    let stranger = one(&|line| line["path"] == "/meseta/masters");
    assert!(stranger["why"].as_str().is_some_and(|why| why.contains("needs the cluster's secret")), "{stranger}");
    let wrong = one(&|line| line["status"] == 401 && line["path"] == "/state" && line["agent"].is_null());
    assert_eq!((&wrong["claimed"], &wrong["path"]), (&json!("ops"), &json!("/state")), "{wrong}");
    assert_eq!(wrong["master"], cluster.address(follower).to_string());
    one(&|line| line["status"] == 401 && line["agent"].is_string() && line["claimed"] == "web");
    one(&|line| line["agent"].is_string() && line["action"] == "ACCESS_MESOS_LOG");
    assert!(audit(&["--of=web"]).iter().all(|line| line["principal"] == "web"));
    assert!(audit(&["--refused"]).iter().all(|line| line["why"].is_string()));

    for name in cluster.masters().iter().chain(&cluster.agents()) {
        for kind in ["master", "agent"] {
            let path = cluster.work_dir(name).join(format!("meseta-{kind}.refused"));
            let Ok(text) = fs::read_to_string(&path) else { continue };
            assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
            for hidden in [SECRET, WRONG, "hidden", "Basic", "Authorization"] {
                assert!(!text.contains(hidden), "{text}");
            }
        }
    }
}
