//! Disks of a storage plugin, by a real master and a real agent that runs the provider itself: made, used and given back, while the agent is
//! killed; with a plugin that others run, and with one that the agent runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proptests::cluster::{Cluster, Plan, READY, binary};
use proptests::framework::Framework;
use proptests::http::{self, Request};
use proptests::wait;
use serde_json::{Value, json};
use tempfile::TempDir;

const TYPE: &str = "org.apache.mesos.rp.local.storage";
/// Of all disks together.
const CAPACITY_MB: u64 = 64;

/// None is told to who reads the output, not to libtest.
fn may_mount(what: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("NOT TESTED ({what}): mounts need root");
    }
    is_root
}

/// Where a plugin has its volumes, and what the agent is told of it.
struct Machine {
    dir: TempDir,
}

impl Machine {
    fn new() -> Machine {
        let machine = Machine { dir: tempfile::tempdir().expect("a folder") };
        ["disks", "configs"].iter().for_each(|name| fs::create_dir(machine.path(name)).expect("a folder"));
        let profiles = json!({"profile_matrix": {"fast": {"csi_plugin_type_selector": {"plugin_type": "org.example.hostpath"},
            "volume_capabilities": {"mount": {}, "access_mode": {"mode": "SINGLE_NODE_WRITER"}}}}});
        fs::write(machine.path("profiles.json"), profiles.to_string()).expect("profiles");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn cluster(&self) -> Cluster {
        let plan = Plan::new().agents(1).resources("cpus:2;mem:512;disk:100");
        let plan = plan.agent_flag(&format!("--resource_provider_config_dir={}", self.path("configs").display()));
        plan.agent_flag(&format!("--disk_profiles=file://{}", self.path("profiles.json").display())).start()
    }

    fn words(&self) -> Vec<String> {
        let (root, capacity) = (self.path("disks"), CAPACITY_MB << 20);
        vec![format!("--root={}", root.display()), "--stage".to_owned(), format!("--capacity={capacity}")]
    }

    /// One that others run.
    fn plugin(&self) -> Plugin {
        let endpoint = format!("--endpoint=unix://{}", self.path("p.sock").display());
        let mut command = Command::new(binary("csi-hostpath"));
        let child = command.args(self.words()).arg(endpoint).stdout(Stdio::null()).spawn().expect("csi-hostpath");
        Plugin(child)
    }

    fn endpoints(&self) -> Value {
        let socket = self.path("p.sock").display().to_string();
        let one = |service: &str| json!({"csi_service": service, "endpoint": format!("unix://{socket}")});
        json!({"endpoints": [one("CONTROLLER_SERVICE"), one("NODE_SERVICE")]})
    }

    fn containers(&self) -> Value {
        let program = binary("csi-hostpath").display().to_string();
        let arguments: Vec<String> = std::iter::once(program.clone()).chain(self.words()).collect();
        let command = json!({"shell": false, "value": program, "arguments": arguments});
        let scalar = |name: &str, value: f64| json!({"name": name, "type": "SCALAR", "scalar": {"value": value}});
        json!({"containers": [{"services": ["CONTROLLER_SERVICE", "NODE_SERVICE"], "command": command,
            "resources": [scalar("cpus", 0.1), scalar("mem", 64.0)]}]})
    }

    /// What ADD_RESOURCE_PROVIDER_CONFIG is told.
    fn info(&self, plugin: &Value) -> Value {
        let mut storage = plugin.clone();
        (storage["type"], storage["name"]) = ("org.example.hostpath".into(), "first".into());
        json!({"type": TYPE, "name": "disks", "storage": {"plugin": storage, "reconciliation_interval_seconds": 1.0}})
    }

    /// The volumes that the plugin made.
    fn volumes(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("disks")).expect("disks").map(|entry| entry.expect("an entry").path());
        entries.filter(|path| !path.ends_with(".sizes")).collect()
    }
}

struct Plugin(Child);

impl Plugin {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).expect("it runs");
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn configure(cluster: &Cluster, kind: &str, body: Value) {
    let call = json!({"type": kind, kind.to_lowercase(): body});
    let request = Request::post_json("/api/v1", &call.to_string());
    let answer = http::send(cluster.address("a0"), &request).expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.text());
}

fn source(resource: &Value) -> &Value {
    &resource["disk"]["source"]
}

fn is_pool(resource: &Value) -> bool {
    source(resource)["type"] == "RAW" && source(resource)["id"].is_null() && source(resource)["profile"] == "fast"
}

fn framework(cluster: &Cluster) -> Framework {
    let capabilities = ["MULTI_ROLE", "RESERVATION_REFINEMENT"].map(|name| json!({ "type": name }));
    let info = json!({"user": "root", "name": "disks", "roles": ["eng"], "failover_timeout": 3600.0, "capabilities": capabilities});
    Framework::subscribe(cluster.address("m0"), &info)
}

/// What the provider wrote down.
fn kept(cluster: &Cluster) -> Value {
    let file = cluster.work_dir("a0").join(format!("meta/storage/{TYPE}/disks/state.json"));
    fs::read(file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Does an operation on what is offered until it is not dropped: what is decided while its provider is away is.
fn done(
    framework: &mut Framework,
    name: &str,
    wanted: impl Fn(&Value) -> bool,
    operation: impl Fn(Value) -> Value,
) -> Value {
    for n in 0..100 {
        let (offer, resource) = framework.offered(name, &wanted);
        let id = format!("{name}-{n}");
        let mut operation = operation(resource);
        operation["id"] = json!({ "value": id });
        framework.accept(&offer, &[operation]);
        let status = framework.operation_ended(&id);
        if status["state"] != "OPERATION_DROPPED" {
            assert_eq!(status["state"], "OPERATION_FINISHED", "{status}");
            return status["converted_resources"][0].clone();
        }
    }
    panic!("{name} is dropped again and again");
}

fn create_disk(pool: Value) -> Value {
    let mut part = pool;
    part["scalar"]["value"] = 16.0.into();
    json!({"type": "CREATE_DISK", "create_disk": {"source": part, "target_type": "MOUNT"}})
}

fn is_free(resource: &Value) -> bool {
    source(resource)["type"] == "MOUNT" && resource["reservations"].as_array().is_none_or(Vec::is_empty)
}

fn reserve(disk: Value) -> Value {
    let mut reserved = disk;
    reserved["reservations"] = json!([{"type": "DYNAMIC", "role": "eng"}]);
    json!({"type": "RESERVE", "reserve": {"resources": [reserved]}})
}

/// Gives everything back, and sees that nothing is left.
fn give_back(machine: &Machine, cluster: &Cluster, framework: &mut Framework) {
    done(
        framework,
        "destroyed",
        |one| one["disk"]["persistence"]["id"] == "v",
        |volume| json!({"type": "DESTROY", "destroy": {"volumes": [volume]}}),
    );
    let is_reserved =
        |one: &Value| source(one)["type"] == "MOUNT" && !one["disk"]["persistence"].is_object() && !is_free(one);
    assert_eq!(fs::read_dir(&machine.volumes()[0]).expect("the volume").count(), 0, "what was on it is gone");
    done(framework, "freed", is_reserved, |disk| json!({"type": "UNRESERVE", "unreserve": {"resources": [disk]}}));
    done(framework, "given", is_free, |disk| json!({"type": "DESTROY_DISK", "destroy_disk": {"source": disk}}));
    framework.offered("all of the pool", |one| is_pool(one) && one["scalar"]["value"] == CAPACITY_MB as f64);
    assert!(machine.volumes().is_empty());
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the table of mounts");
    let disks = cluster.work_dir("a0").join("csi/org.example.hostpath/first/disks");
    let is_left = |line: &str| {
        line.split(' ').nth(4).is_some_and(|at| Path::new(at).starts_with(&disks) && Path::new(at) != disks)
    };
    assert!(!mounts.lines().any(is_left), "{mounts}");
    wait::until("it may forget what is over", READY, || {
        kept(cluster)["operations"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
}

/// A task that writes to a volume on a disk, waits for a file, and ends.
fn write(machine: &Machine, framework: &mut Framework) {
    let (offer, disk) = framework.offered("what is reserved", |one| source(one)["type"] == "MOUNT" && !is_free(one));
    let mut volume = disk;
    volume["disk"]["persistence"] = json!({"id": "v"});
    volume["disk"]["volume"] = json!({"mode": "RW", "container_path": "data"});
    let scalar = |name: &str, value: f64| json!({"name": name, "type": "SCALAR", "scalar": {"value": value}});
    let mut resources = vec![scalar("cpus", 0.1), scalar("mem", 32.0)];
    resources.iter_mut().for_each(|one| one["allocation_info"] = json!({"role": "eng"}));
    resources.push(volume.clone());
    let go = machine.path("go").display().to_string();
    let command = format!("echo kept > data/x; while [ ! -e {go} ]; do sleep 0.02; done; cat data/x > data/y");
    let task = json!({"name": "writes", "task_id": {"value": "writes"}, "agent_id": offer["agent_id"],
        "command": {"value": command}, "resources": resources});
    framework.accept(
        &offer,
        &[
            json!({"type": "CREATE", "id": {"value": "created"}, "create": {"volumes": [volume]}}),
            json!({"type": "LAUNCH", "launch": {"task_infos": [task]}}),
        ],
    );
    assert_eq!(framework.operation_ended("created")["state"], "OPERATION_FINISHED");
    framework.until_state("writes", "TASK_RUNNING");
    wait::until("it has written", READY, || machine.volumes()[0].join("x").exists().then_some(()));
}

#[test]
fn disks_of_a_plugin_are_made_used_and_given_back_while_the_agent_is_killed() {
    if !may_mount("storage") {
        return;
    }
    let machine = Machine::new();
    let mut cluster = machine.cluster();
    let plugin = machine.plugin();
    let mut framework = framework(&cluster);
    configure(&cluster, "ADD_RESOURCE_PROVIDER_CONFIG", json!({"info": machine.info(&machine.endpoints())}));
    let (offer, pool) = framework.offered("a pool", is_pool);
    assert_eq!(pool["scalar"]["value"], CAPACITY_MB as f64, "{pool}");
    assert_eq!(source(&pool)["vendor"], "org.example.hostpath.first", "{pool}");
    // The agent is killed while the plugin does not answer.
    plugin.signal(Signal::SIGSTOP);
    let mut create = create_disk(pool);
    create["id"] = json!({"value": "made"});
    framework.accept(&offer, &[create]);
    wait::until("it is begun", READY, || {
        kept(&cluster)["operations"].as_array().is_some_and(|all| all.len() == 1).then_some(())
    });
    cluster.kill("a0");
    cluster.start_one("a0");
    plugin.signal(Signal::SIGCONT);
    let made = framework.operation_ended("made");
    assert_eq!(made["state"], "OPERATION_FINISHED", "{made}");
    let made = &made["converted_resources"][0];
    assert_eq!(source(made)["type"], "MOUNT", "{made}");
    assert_eq!(machine.volumes(), [machine.path("disks").join(source(made)["id"].as_str().expect("an id"))]);
    assert_eq!(source(made)["metadata"]["labels"][0]["key"], "made-as", "{made}");
    framework.offered("the rest", |one| is_pool(one) && one["scalar"]["value"] == (CAPACITY_MB - 16) as f64);

    done(&mut framework, "reserved", is_free, reserve);
    write(&machine, &mut framework);
    cluster.kill("a0");
    cluster.start_one("a0");
    fs::write(machine.path("go"), "").expect("a file");
    framework.until_state("writes", "TASK_FINISHED");
    assert_eq!(fs::read_to_string(machine.volumes()[0].join("y")).expect("what it wrote"), "kept\n");
    give_back(&machine, &cluster, &mut framework);
}

/// The process of the plugin that the agent runs.
fn plugin_of(machine: &Machine) -> Option<u32> {
    let root = format!("--root={}", machine.path("disks").display());
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let mut found = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).filter(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = words.split(|byte| *byte == 0);
        words.next().is_some_and(|program| program.ends_with(b"csi-hostpath"))
            && words.any(|word| word == root.as_bytes())
    });
    found.next()
}

#[test]
fn a_plugin_that_the_agent_runs_outlives_it_and_is_started_again_when_it_ends() {
    if !may_mount("storage-managed") {
        return;
    }
    let machine = Machine::new();
    let mut cluster = machine.cluster();
    let mut framework = framework(&cluster);
    configure(&cluster, "ADD_RESOURCE_PROVIDER_CONFIG", json!({"info": machine.info(&machine.containers())}));
    done(&mut framework, "made", is_pool, create_disk);
    done(&mut framework, "reserved", is_free, reserve);
    write(&machine, &mut framework);
    let first = plugin_of(&machine).expect("it runs");
    cluster.kill("a0");
    cluster.start_one("a0");
    fs::write(machine.path("go"), "").expect("a file");
    framework.until_state("writes", "TASK_FINISHED");
    assert_eq!(plugin_of(&machine), Some(first), "it runs on");
    kill(Pid::from_raw(first.cast_signed()), Signal::SIGKILL).expect("it runs");
    wait::until("another one", READY, || plugin_of(&machine).filter(|pid| *pid != first).map(drop));
    give_back(&machine, &cluster, &mut framework);
    // What it was told goes, and its process with it.
    configure(&cluster, "REMOVE_RESOURCE_PROVIDER_CONFIG", json!({"type": TYPE, "name": "disks"}));
    assert_eq!(plugin_of(&machine), None);
    let files = fs::read_dir(machine.path("configs")).expect("configs").flatten();
    assert_eq!(files.filter(|entry| entry.path().is_file()).count(), 0);
    let shown = cluster.operator("a0", &json!({"type": "GET_RESOURCE_PROVIDERS"}));
    assert_eq!(shown["get_resource_providers"], json!({}), "{shown}");
}
