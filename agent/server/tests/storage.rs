//! Resource providers that a real agent starts itself: what configures them, and what is said of what does not.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Master, PATIENCE, RealAgent, http, until};
use csi_hostpath::Plugin;
use serde_json::{Value, json};

const TYPE: &str = "org.apache.mesos.rp.local.storage";
const JSON: &str = "Content-Type: application/json\r\nAccept: application/json\r\n";

fn info(socket: &Path, plugin: &str) -> Value {
    let one = |service: &str| json!({"csi_service": service, "endpoint": format!("unix://{}", socket.display())});
    let endpoints = [one("CONTROLLER_SERVICE"), one("NODE_SERVICE")];
    json!({"type": TYPE, "name": "disks", "default_reservations": [{"type": "DYNAMIC", "role": "storage"}],
           "storage": {"plugin": {"type": "org.example.p", "name": plugin, "endpoints": endpoints},
                       "reconciliation_interval_seconds": 0.05}})
}

fn profiles(names: &[&str]) -> String {
    let one = json!({"csi_plugin_type_selector": {"plugin_type": "org.example.p"},
                     "volume_capabilities": {"mount": {}, "access_mode": {"mode": "SINGLE_NODE_WRITER"}}});
    let all: serde_json::Map<String, Value> = names.iter().map(|name| ((*name).to_owned(), one.clone())).collect();
    json!({ "profile_matrix": all }).to_string()
}

async fn call(agent: &RealAgent, kind: &str, body: Value) -> (u16, String) {
    let call = json!({ "type": kind, kind.to_lowercase(): body }).to_string();
    let (head, body) = http(&agent.address, "POST", "/api/v1", JSON, &call).await;
    (head[9..12].parse().unwrap(), body)
}

/// What each provider has, as its profiles (or ids) and vendors.
async fn shown(agent: &RealAgent) -> Vec<(String, String)> {
    let (_, text) = call(agent, "GET_RESOURCE_PROVIDERS", json!({})).await;
    let shown: Value = serde_json::from_str(&text).unwrap();
    let providers = shown["get_resource_providers"]["resource_providers"].as_array().cloned().unwrap_or_default();
    let resources = providers.iter().flat_map(|one| one["total_resources"].as_array().cloned().unwrap_or_default());
    let source = |one: Value| {
        let source = &one["disk"]["source"];
        let name = source["profile"].as_str().or(source["id"].as_str()).unwrap_or_default().to_owned();
        (name, source["vendor"].as_str().unwrap_or_default().to_owned())
    };
    let mut found: Vec<_> = resources.map(source).collect();
    found.sort();
    found
}

async fn shows(agent: &RealAgent, wanted: &[(&str, &str)]) {
    let wanted: Vec<_> = wanted.iter().map(|(name, vendor)| ((*name).to_owned(), (*vendor).to_owned())).collect();
    let waiting = async {
        while shown(agent).await != wanted {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "it shows {:?}, and not {wanted:?}", shown(agent).await);
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.is_file()).collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn configurations_are_read_added_changed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    ["root/v", "root/.sizes", "configs", "work"].iter().for_each(|name| fs::create_dir_all(path(name)).unwrap());
    fs::write(path("root/.sizes/v"), (4 << 20).to_string()).unwrap();
    let socket = path("p.sock");
    let _plugin = Plugin::start_with(&socket, &path("root"), true, Some(16 << 20)).unwrap();
    let first = path("configs/first.json");
    fs::write(&first, info(&socket, "x").to_string()).unwrap();
    fs::write(path("profiles.json"), profiles(&["fast"])).unwrap();
    let master = Master::start().await;
    master.known.lock().takes_providers = true;
    let configs = format!("--resource_provider_config_dir={}", path("configs").display());
    let uri = format!("--disk_profiles={}", path("profiles.json").display());
    let flags = [configs.as_str(), uri.as_str(), "--disk_profiles_interval=20ms"];
    let agent = RealAgent::start(&master.address, &path("work"), &flags);
    shows(&agent, &[("fast", "org.example.p.x"), ("v", "org.example.p.x")]).await;
    // More profiles, and another volume.
    fs::write(path("draft"), profiles(&["fast", "slow"])).unwrap();
    fs::rename(path("draft"), path("profiles.json")).unwrap();
    fs::write(path("root/.sizes/w"), (4 << 20).to_string()).unwrap();
    fs::create_dir(path("root/w")).unwrap();
    let all = ["fast", "slow", "v", "w"];
    shows(&agent, &all.map(|name| (name, "org.example.p.x"))).await;

    // What there is already is welcome; another one is not.
    assert_eq!(
        call(&agent, "ADD_RESOURCE_PROVIDER_CONFIG", json!({"info": info(&socket, "x")})).await,
        (200, String::new())
    );
    let (code, told) = call(&agent, "ADD_RESOURCE_PROVIDER_CONFIG", json!({"info": info(&socket, "y")})).await;
    assert_eq!(code, 409);
    assert_eq!(told, format!("Resource provider with type '{TYPE}' and name 'disks' already exists"));
    let mut other = info(&socket, "x");
    other["name"] = "others".into();
    let (code, told) = call(&agent, "UPDATE_RESOURCE_PROVIDER_CONFIG", json!({ "info": other })).await;
    assert_eq!(code, 409);
    assert_eq!(told, format!("Resource provider with type '{TYPE}' and name 'others' does not exist"));
    for (field, value, why) in [
        ("storage", Value::Null, "'ResourceProviderInfo.storage' must be set"),
        ("type", "org.x".into(), "Unknown local resource provider type 'org.x'"),
        ("id", json!({"value": "i"}), "Expecting 'add_resource_provider_config.info.id' to be unset"),
    ] {
        let mut wrong = other.clone();
        wrong[field] = value;
        if field == "storage" {
            wrong.as_object_mut().unwrap().remove(field);
        }
        let (code, told) = call(&agent, "ADD_RESOURCE_PROVIDER_CONFIG", json!({ "info": wrong })).await;
        assert_eq!(code, 400, "{told}");
        assert!(told.contains(why), "{told}");
    }
    assert_eq!(files(&path("configs")), std::slice::from_ref(&first));

    // A changed one is in the file of the one before, and has another vendor.
    assert_eq!(call(&agent, "UPDATE_RESOURCE_PROVIDER_CONFIG", json!({"info": info(&socket, "y")})).await.0, 200);
    let read = |path: &Path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    assert_eq!(read(&first)["storage"]["plugin"]["name"], "y");
    shows(&agent, &all.map(|name| (name, "org.example.p.y"))).await;
    // One more beside it; an agent that is started again has both.
    assert_eq!(call(&agent, "ADD_RESOURCE_PROVIDER_CONFIG", json!({ "info": other })).await.0, 200);
    assert_eq!(files(&path("configs")).len(), 2);
    agent.kill();
    let agent = RealAgent::start(&master.address, &path("work"), &flags);
    let both: Vec<_> = all.iter().flat_map(|name| [(*name, "org.example.p.x"), (*name, "org.example.p.y")]).collect();
    shows(&agent, &both).await;
    for _ in 0..2 {
        let removed = call(&agent, "REMOVE_RESOURCE_PROVIDER_CONFIG", json!({"type": TYPE, "name": "disks"})).await;
        assert_eq!(removed, (200, String::new()));
    }
    shows(&agent, &all.map(|name| (name, "org.example.p.x"))).await;
    assert!(!first.exists());
    drop(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_folder_there_are_none() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let (code, told) =
        call(&agent, "ADD_RESOURCE_PROVIDER_CONFIG", json!({"info": info(Path::new("/run/p"), "x")})).await;
    assert_eq!((code, told.as_str()), (500, "Missing required flag --resource_provider_config_dir"));
    let told = call(&agent, "REMOVE_RESOURCE_PROVIDER_CONFIG", json!({"type": TYPE, "name": "disks"})).await;
    assert_eq!(told, (500, "Missing required flag --resource_provider_config_dir".to_owned()));
    until("it is there", || agent.work_dir.exists()).await;
}

#[test]
fn what_configures_nothing_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    ["work", "good", "bad", "twice"].iter().for_each(|name| fs::create_dir(path(name)).unwrap());
    let good = info(Path::new("/run/p"), "x").to_string();
    fs::write(path("bad/b.json"), good.replace("org.example.p", "org..p")).unwrap();
    ["twice/a.json", "twice/b.json"].iter().for_each(|name| fs::write(path(name), &good).unwrap());
    let refused = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meseta-agent"));
        let work_dir = format!("--work_dir={}", path("work").display());
        command.args(["--master=127.0.0.1:1", &work_dir, "--ip=127.0.0.1", "--port=0"]);
        let output = command.args(words).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let folder = |name: &str| format!("--resource_provider_config_dir={}", path(name).display());
    let good = folder("good");
    let module = |parameters: &str| {
        format!(
            r#"--modules={{"libraries": [{{"modules": [{{"name": "org_apache_mesos_UriDiskProfileAdaptor", "parameters": [{parameters}]}}]}}]}}"#
        )
    };
    let adaptor = "--disk_profile_adaptor=org_apache_mesos_UriDiskProfileAdaptor";
    for (words, why) in [
        (vec![folder("none")], "Cannot read --resource_provider_config_dir="),
        (vec![folder("bad")], "bad/b.json in --resource_provider_config_dir is no resource provider: CSI plugin type 'org..p'"),
        (vec![folder("twice")], "has the same type"),
        (vec![good.clone(), r#"--agent_features={"capabilities": [{"type": "MULTI_ROLE"}, {"type": "HIERARCHICAL_ROLE"}, {"type": "RESERVATION_REFINEMENT"}, {"type": "AGENT_OPERATION_FEEDBACK"}, {"type": "AGENT_DRAINING"}]}"#.to_owned()], "needs RESOURCE_PROVIDER"),
        (vec![good.clone(), "--disk_profiles=ftp://x/y".to_owned()], "must use a supported scheme (file or http(s))"),
        (vec![good.clone(), "--disk_profiles=x".to_owned()], "to a file must be an absolute path"),
        (vec![good.clone(), "--disk_profiles_interval=1secs".to_owned()], "--disk_profiles_interval needs --disk_profiles"),
        (vec![good.clone(), "--disk_profile_adaptor=mine".to_owned()], "'mine' is not supported in '--disk_profile_adaptor'"),
        (vec![good.clone(), adaptor.to_owned()], "it needs the parameter 'uri'"),
        (vec![good.clone(), adaptor.to_owned(), module(r#"{"key": "uri", "value": "/p"}, {"key": "poll_interval", "value": "0secs"}"#)], "'poll_interval' must be longer than nothing"),
        (vec![good.clone(), adaptor.to_owned(), module(r#"{"key": "url", "value": "/p"}"#)], "has no parameter 'url'"),
    ] {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let told = refused(&words);
        assert!(told.contains(why), "{told}");
    }
}
