//! The disks of a resource provider, by a real master and a real agent: made, reserved, written to and given back, while the
//! agent and the provider are killed.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use proptests::cluster::{Plan, READY};
use proptests::framework::Framework;
use proptests::wait;
use serde_json::{Value, json};

/// The example that the page on resource providers tells of.
struct Provider(Child);

impl Provider {
    fn start(agent: SocketAddr, disks: &Path) -> Provider {
        let example = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../agent/server/examples/disks.py");
        let mut command = Command::new("python3");
        command.arg(example).arg(format!("--agent={agent}")).arg(format!("--dir={}", disks.display()));
        Provider(command.stdout(Stdio::null()).spawn().expect("python3"))
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn kind(resource: &Value) -> &str {
    resource["disk"]["source"]["type"].as_str().unwrap_or_default()
}

#[test]
fn disks_of_a_provider_are_made_used_and_given_back() {
    let mut cluster = Plan::new().agents(1).resources("cpus:2;mem:512;disk:100").start();
    let folder = tempfile::tempdir().expect("a folder");
    let disks = folder.path().join("disks");
    fs::create_dir_all(disks.join("d0")).expect("a disk");
    let provider = Provider::start(cluster.address("a0"), &disks);
    let capabilities = ["MULTI_ROLE", "RESERVATION_REFINEMENT"].map(|name| json!({ "type": name }));
    let info = json!({"user": "root", "name": "disks", "roles": ["eng"], "failover_timeout": 3600.0, "capabilities": capabilities});
    let mut framework = Framework::subscribe(cluster.address("m0"), &info);

    let (offer, raw) = framework.offered("a raw disk", |one| kind(one) == "RAW");
    assert!(raw["provider_id"]["value"].is_string(), "{raw}");
    let create =
        json!({"type": "CREATE_DISK", "id": {"value": "made"}, "create_disk": {"source": raw, "target_type": "MOUNT"}});
    framework.accept(&offer, &[create]);
    let made = framework.operation_ended("made");
    assert_eq!(made["state"], "OPERATION_FINISHED", "{made}");
    assert_eq!(kind(&made["converted_resources"][0]), "MOUNT", "{made}");
    framework.offered("the disk", |one| kind(one) == "MOUNT");

    // Who has it and who offers it end, and come back.
    drop(provider);
    cluster.kill("a0");
    cluster.start_one("a0");
    let _provider = Provider::start(cluster.address("a0"), &disks);
    // What is decided before they are back is dropped, and asked for again.
    let is_free = |one: &Value| kind(one) == "MOUNT" && one["reservations"].as_array().is_none_or(Vec::is_empty);
    let mut asked = 0;
    let state = loop {
        let (offer, disk) = framework.offered("the disk", is_free);
        let mut reserved = disk;
        reserved["reservations"] = json!([{"type": "DYNAMIC", "role": "eng"}]);
        asked += 1;
        let id = format!("reserved-{asked}");
        let reserve = json!({"type": "RESERVE", "id": {"value": id}, "reserve": {"resources": [reserved]}});
        framework.accept(&offer, &[reserve]);
        let status = framework.operation_ended(&id);
        if status["state"] == "OPERATION_FINISHED" || asked == 100 {
            break status["state"].clone();
        }
    };
    assert_eq!(state, "OPERATION_FINISHED");

    let (offer, disk) = framework.offered("what is reserved", |one| kind(one) == "MOUNT" && !is_free(one));
    let mut volume = disk;
    volume["disk"]["persistence"] = json!({"id": "v"});
    volume["disk"]["volume"] = json!({"mode": "RW", "container_path": "data"});
    let scalar = |name: &str, value: f64| json!({"name": name, "type": "SCALAR", "scalar": {"value": value}});
    let mut resources = vec![scalar("cpus", 0.1), scalar("mem", 32.0)];
    resources.iter_mut().for_each(|one| one["allocation_info"] = json!({"role": "eng"}));
    resources.push(volume.clone());
    let task = json!({"name": "writes", "task_id": {"value": "writes"}, "agent_id": offer["agent_id"],
        "command": {"value": "echo kept > data/x"}, "resources": resources});
    framework.accept(
        &offer,
        &[
            json!({"type": "CREATE", "id": {"value": "created"}, "create": {"volumes": [volume]}}),
            json!({"type": "LAUNCH", "launch": {"task_infos": [task]}}),
        ],
    );
    framework.until_state("writes", "TASK_FINISHED");
    assert_eq!(fs::read_to_string(disks.join("d0/x")).expect("what the task wrote"), "kept\n");
    assert_eq!(framework.operation_ended("created")["state"], "OPERATION_FINISHED");

    // All the way back.
    let (offer, volume) = framework.offered("the volume", |one| one["disk"]["persistence"]["id"] == "v");
    framework
        .accept(&offer, &[json!({"type": "DESTROY", "id": {"value": "destroyed"}, "destroy": {"volumes": [volume]}})]);
    assert_eq!(framework.operation_ended("destroyed")["state"], "OPERATION_FINISHED");
    let (offer, reserved) =
        framework.offered("what was reserved", |one| kind(one) == "MOUNT" && !one["disk"]["persistence"].is_object());
    framework.accept(
        &offer,
        &[json!({"type": "UNRESERVE", "id": {"value": "freed"}, "unreserve": {"resources": [reserved]}})],
    );
    assert_eq!(framework.operation_ended("freed")["state"], "OPERATION_FINISHED");
    let (offer, disk) = framework.offered("the free disk", is_free);
    framework
        .accept(&offer, &[json!({"type": "DESTROY_DISK", "id": {"value": "given"}, "destroy_disk": {"source": disk}})]);
    assert_eq!(framework.operation_ended("given")["state"], "OPERATION_FINISHED");
    framework.offered("a raw disk again", |one| kind(one) == "RAW");
    assert_eq!(fs::read_dir(disks.join("d0")).expect("the disk").count(), 0, "and nothing of it is left");
    let kept = || -> Value {
        serde_json::from_str(&fs::read_to_string(disks.join("state.json")).expect("its file")).expect("JSON")
    };
    wait::until("it may forget what is over", READY, || {
        kept()["operations"].as_object().is_some_and(serde_json::Map::is_empty).then_some(())
    });
}
