//! Who asks an agent, and what they may: every endpoint and call with nobody, a wrong password, whoever may all, whoever
//! may nothing, and tokens of executors.

mod common;

use api::v1::TaskState;
use api::v1::agent::call::Type;
use auth::{Need, needs};
use base64::Engine as _;
use common::{Master, RealAgent, http, task};
use serde_json::{Value, json};
use std::path::Path;

const KEY: &str = "a key for tokens of executors";

/// `ops` may everything, `web` nothing.
fn acls() -> Value {
    let mut acls = json!({});
    for list in auth::List::ALL {
        let entry = |who: &str, kind: &str| json!({ "principals": { "values": [who] }, list.objects_field(): { "type": kind } });
        acls[list.field()] = json!([entry("ops", "ANY"), entry("web", "NONE")]);
    }
    acls
}

fn guarded(master: &Master, dir: &Path) -> RealAgent {
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let credentials = file("credentials", "ops secret\nweb wsecret\n");
    let flags = [
        format!("--acls={}", file("acls", &acls().to_string())),
        format!("--http_credentials={credentials}"),
        format!("--jwt_secret_key={}", file("key", KEY)),
        "--authenticate_http_readonly".to_owned(),
        "--authenticate_http_readwrite".to_owned(),
        "--authenticate_http_executors".to_owned(),
        "--launcher=posix".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let work_dir = dir.join("work");
    std::fs::create_dir_all(&work_dir).unwrap();
    RealAgent::start(&master.address, &work_dir, &flags)
}

fn basic(principal: &str, secret: &str) -> String {
    let shown = base64::engine::general_purpose::STANDARD.encode(format!("{principal}:{secret}"));
    format!("Authorization: Basic {shown}\r\n")
}

const JSON: &str = "Content-Type: application/json\r\nAccept: application/json\r\n";

async fn status(agent: &RealAgent, method: &str, path: &str, head: &str, body: &str) -> (u16, String, String) {
    let (head, body) = http(&agent.address, method, path, head, body).await;
    (head[9..12].parse().unwrap(), head, body)
}

/// A call of this kind about an executor's container `root` and the files of `sandbox`; None: it cannot be said alone.
fn call(kind: Type, root: &str, sandbox: &str) -> Option<Value> {
    let nested = json!({ "container_id": { "value": "n", "parent": { "value": root } } });
    let alone = json!({ "container_id": { "value": "n" }, "resources": [] });
    let name = kind.as_str_name();
    let body = match name {
        "UNKNOWN" | "ATTACH_CONTAINER_INPUT" => return None,
        "GET_METRICS" | "GET_CONTAINERS" | "PRUNE_IMAGES" => json!({}),
        "SET_LOGGING_LEVEL" => json!({ "level": 1, "duration": { "nanoseconds": 1 } }),
        "LIST_FILES" => json!({ "path": sandbox }),
        "READ_FILE" => json!({ "path": format!("{sandbox}/stdout"), "offset": 0 }),
        "ADD_RESOURCE_PROVIDER_CONFIG" | "UPDATE_RESOURCE_PROVIDER_CONFIG" => {
            json!({ "info": { "type": "x.y", "name": "z" } })
        }
        "REMOVE_RESOURCE_PROVIDER_CONFIG" => json!({ "type": "x.y", "name": "z" }),
        "MARK_RESOURCE_PROVIDER_GONE" => json!({ "resource_provider_id": { "value": "x" } }),
        "LAUNCH_CONTAINER" | "WAIT_CONTAINER" | "KILL_CONTAINER" | "REMOVE_CONTAINER" => alone,
        name if name.contains("CONTAINER") && !name.starts_with("GET_") => nested,
        _ => return Some(json!({ "type": name })),
    };
    Some(json!({ "type": name, name.to_lowercase(): body }))
}

fn every_call() -> impl Iterator<Item = Type> {
    (0..100).filter_map(|number| Type::try_from(number).ok())
}

#[tokio::test]
async fn every_endpoint_and_call_asks_who_it_is_and_what_they_may() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start().await;
    let agent = guarded(&master, dir.path());
    master.launch(task("t", "sleep 100"));
    master.update("t", TaskState::TaskRunning).await;
    let (ops, web) = (basic("ops", "secret"), basic("web", "wsecret"));
    let (_, _, state) = status(&agent, "GET", "/state", &ops, "").await;
    let state: Value = serde_json::from_str(&state).unwrap();
    let executor = &state["frameworks"][0]["executors"][0];
    let (root, sandbox) = (executor["container"].as_str().unwrap(), executor["directory"].as_str().unwrap());
    assert_eq!(executor["tasks"][0]["id"], "t");

    // path, realm, what `web` gets
    let endpoints = [
        ("/health", None, 200),
        ("/version", None, 200),
        ("/state", Some("readonly"), 200),
        ("/slave(1)/state", Some("readonly"), 200),
        ("/state.json", Some("readonly"), 200),
        ("/flags", Some("readonly"), 403),
        ("/metrics/snapshot", Some("readonly"), 403),
        ("/metrics/prometheus", Some("readonly"), 403),
        ("/containers", Some("readonly"), 403),
        ("/containerizer/debug", Some("readonly"), 403),
        ("/logging/toggle", Some("readwrite"), 403),
        ("/system/stats.json", None, 200),
        ("/help", None, 200),
        ("/__processes__", None, 200),
        ("/monitor/statistics", Some("readonly"), 403),
        ("/files/debug", Some("readonly"), 403),
        (&format!("/files/browse?path={sandbox}"), Some("readonly"), 403),
        (&format!("/files/read?path={sandbox}/stdout&offset=0"), Some("readonly"), 403),
        (&format!("/files/download?path={sandbox}/stdout"), Some("readonly"), 403),
    ];
    for (path, realm, of_web) in endpoints {
        for wrong in [String::new(), basic("ops", "wrong"), basic("", ""), "Authorization: Bearer x\r\n".to_owned()] {
            let (status, head, _) = status(&agent, "GET", path, &wrong, "").await;
            let Some(realm) = realm else { continue };
            assert_eq!(status, 401, "{path}");
            let challenge = format!("Basic realm=\"mesos-agent-{realm}\",Bearer realm=\"mesos-agent-{realm}\"");
            assert!(head.to_lowercase().contains(&challenge.to_lowercase()), "{path}: {head}");
        }
        assert_eq!(status(&agent, "GET", path, &ops, "").await.0, 200, "{path}");
        assert_eq!(status(&agent, "GET", path, &web, "").await.0, of_web, "{path}");
    }
    let (_, _, seen) = status(&agent, "GET", "/state", &web, "").await;
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!((&seen["frameworks"], seen.get("flags")), (&json!([]), None));

    for kind in every_call() {
        let Some(body) = call(kind, root, sandbox) else { continue };
        let (body, need) = (body.to_string(), needs::agent_call(kind));
        let ask = async |who: &str| status(&agent, "POST", "/api/v1", &format!("{JSON}{who}"), &body).await;
        assert_eq!((ask("").await.0, ask(&basic("web", "secret")).await.0), (401, 401), "{body}");
        let (of_web, _, text) = ask(&web).await;
        match need {
            Need::Asks(_) | Need::AsksPath(_) | Need::Decides(_) => assert_eq!(of_web, 403, "{body}: {text}"),
            Need::Nothing | Need::Filters(_) => assert_eq!(of_web, 200, "{body}: {text}"),
            Need::NotBuilt => assert_eq!(of_web, 501, "{body}: {text}"),
        }
        assert!(!text.contains("C-0000") && !text.contains("\"t\""), "{body}: {text}");
        // What would wait for ever, or change something, is not tried; whatever else it is, it is not forbidden.
        if matches!(need, Need::Nothing | Need::Filters(_) | Need::Asks(_)) {
            assert_ne!(ask(&ops).await.0, 403, "{body}");
        }
    }

    // A token is good for its own container, whatever lists say of others.
    let key = auth::Key::parse(KEY).unwrap();
    let token = |root: &str| format!("Authorization: Bearer {}\r\n", key.mint(&[("cid", root)].into()));
    let kill = call(Type::from_str_name("KILL_NESTED_CONTAINER").unwrap(), root, sandbox).unwrap().to_string();
    let ask = async |who: &str| status(&agent, "POST", "/api/v1", &format!("{JSON}{who}"), &kill).await.0;
    assert_eq!((ask(&token(root)).await, ask(&token("other")).await), (404, 403), "there is none in it");
    let alone = call(Type::KillContainer, root, sandbox).unwrap().to_string();
    assert_eq!(status(&agent, "POST", "/api/v1", &format!("{JSON}{}", token("n")), &alone).await.0, 403);
}

#[tokio::test]
async fn executors_show_their_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start().await;
    let agent = guarded(&master, dir.path());
    let key = auth::Key::parse(KEY).unwrap();
    let beat = json!({ "type": "HEARTBEAT", "framework_id": { "value": "F" }, "executor_id": { "value": "E" } });
    let ask =
        async |who: &str| status(&agent, "POST", "/api/v1/executor", &format!("{JSON}{who}"), &beat.to_string()).await;
    let bearer =
        |claims: &[(&str, &str)]| format!("Authorization: Bearer {}\r\n", key.mint(&claims.iter().copied().collect()));
    let (status, head, _) = ask("").await;
    assert_eq!(status, 401);
    let wanted = "Basic realm=\"mesos-agent-executor\",Bearer realm=\"mesos-agent-executor\"";
    assert!(head.to_lowercase().contains(&wanted.to_lowercase()), "{head}");
    assert_eq!(ask(&bearer(&[("fid", "F"), ("eid", "E"), ("cid", "C")])).await.0, 202);
    let other = auth::Key::parse("another key of some length").unwrap();
    let forged = format!("Authorization: Bearer {}\r\n", other.mint(&[("fid", "F")].into()));
    let (status, head, _) = ask(&forged).await;
    assert!(status == 401 && head.contains("Invalid JWT: Token signature does not match"), "{head}");
}
