//! Containers with images, volumes and networks, as frameworks ask masters for them: from an ACCEPT to what is found in the container,
//! and to what is left when it is over.

#[path = "../../agent/server/tests/engine/mod.rs"]
mod engine;
#[path = "../../agent/server/tests/common/groups.rs"]
mod groups;
#[path = "../../agent/images/tests/registry/made.rs"]
mod made;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use engine::Engine;
use groups::Place;
use made::{Made, layer};
use proptests::cluster::{Cluster, Plan, READY};
use proptests::framework::Framework;
use proptests::wait;
use serde_json::{Value, json};
use supervisor::mounts;

/// States of tasks that are not over.
const LIVE: [&str; 4] = ["TASK_STAGING", "TASK_STARTING", "TASK_RUNNING", "TASK_KILLING"];

const ISOLATION: &str =
    "filesystem/linux,docker/runtime,volume/image,volume/secret,docker/volume,namespaces/pid,disk/du";

/// A framework that knows roles of many levels and volumes, and a cluster whose agent has images in a folder.
struct Bench {
    framework: Framework,
    cluster: Cluster,
    /// With images, the cluster's secret, and what a test puts there.
    given: tempfile::TempDir,
    /// So many persistent volumes an offer must have.
    volumes: usize,
    _groups: Place,
}

impl Bench {
    /// None is told to who reads the output, not to libtest.
    fn new(what: &str, isolation: &str, more: &[String]) -> Option<Bench> {
        let machine = mounts::check_machine();
        if !nix::unistd::geteuid().is_root() || machine.is_err() {
            let _ = writeln!(std::io::stderr(), "NOT TESTED ({what}): root and mounts are needed: {machine:?}");
            return None;
        }
        let groups = Place::all(what).into_iter().next()?;
        let given = tempfile::tempdir().expect("a folder");
        fs::set_permissions(given.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        let at = |name: &str| given.path().join(name);
        fs::create_dir_all(at("images/eng")).expect("a folder");
        let save = |name: &str, image: &Made| {
            let saved = image.saved(&[&format!("{name}:latest")]);
            fs::write(at(&format!("images/{name}.tar")), saved).expect("an image");
        };
        let process = r#"{"Entrypoint": ["/bin/echo", "entry"], "Cmd": ["cmd"], "Env": ["A=of-image", "PATH=/bin"], "WorkingDir": "/srv"}"#;
        save("eng/app", &Made::busybox(process));
        save("data", &Made::of(vec![layer(&[("inner/x", b"of-data\n")])], "null"));
        fs::write(at("secret"), "a secret of sufficient length\n").expect("a file");
        fs::set_permissions(at("secret"), fs::Permissions::from_mode(0o600)).expect("its mode");
        let secret = format!("--cluster_secret=file://{}", at("secret").display());
        // Of each volume there is a folder.
        let text = format!(
            "#!/bin/sh\ncd {}\necho $1 $2 $3 >> asked\n[ $1 = unmount ] || {{ mkdir -p of-plugin/${{3#*=}}; echo $PWD/of-plugin/${{3#*=}}; }}\n",
            given.path().display()
        );
        fs::write(at("draft"), text).expect("a file");
        fs::create_dir(at("bin")).expect("a folder");
        // By another process: one that is forked meanwhile would hold it open, and it could not be executed.
        let installed = Command::new("install").args(["-m", "755"]).arg(at("draft")).arg(at("bin/dvdcli")).status();
        assert!(installed.expect("install").success());
        let path = std::env::var("PATH").expect("a PATH");
        let mut plan = Plan::new()
            .agents(1)
            .agent_environment("PATH", &format!("{}:{path}", at("bin").display()))
            .agent_flag(&format!("--docker_volume_checkpoint_dir={}", at("written").display()))
            .resources("cpus:8;mem:4096;disk:4096;ports:[31000-31999]")
            .master_flag(&secret)
            .agent_flag(&secret)
            .agent_flag("--image_providers=docker")
            .agent_flag(&format!("--docker_registry={}", at("images").display()))
            .agent_flag(&format!("--isolation={isolation}"))
            .agent_flag(&format!("--cgroups_hierarchy={}", groups.hierarchy))
            .agent_flag(&format!("--cgroups_root={}", groups.root));
        for flag in more {
            plan = plan.agent_flag(flag);
        }
        let cluster = plan.start();
        let capabilities = ["MULTI_ROLE", "RESERVATION_REFINEMENT", "TASK_KILLING_STATE"];
        let capabilities = capabilities.map(|name| json!({ "type": name }));
        let info = json!({"user": "root", "name": what, "roles": ["eng/dev"], "failover_timeout": 3600.0, "checkpoint": true,
            "capabilities": capabilities});
        let framework = Framework::subscribe(cluster.address("m0"), &info);
        Some(Bench { framework, cluster, given, volumes: 0, _groups: groups })
    }

    /// Accepts the next offer: what is asked for is made of it.
    fn accept(&mut self, operations: impl FnOnce(&Bench, &Value) -> Vec<Value>) {
        let has_all = |offer: &Value| {
            let resources = offer["resources"].as_array().expect("resources");
            let volumes = resources.iter().filter(|resource| resource["disk"]["persistence"].is_object()).count();
            let is_large =
                |resource: &Value| resource["name"] == "cpus" && resource["scalar"]["value"].as_f64() > Some(1.0);
            volumes >= self.volumes && resources.iter().any(is_large)
        };
        let offer = loop {
            // One may have come while something else was waited for, and before what ended gave back what it had.
            let came = self.framework.seen.iter().position(|event| event["type"] == "OFFERS");
            let offer = match came {
                Some(n) => self.framework.seen.remove(n)["offers"]["offers"][0].clone(),
                None => self.framework.offer(),
            };
            if has_all(&offer) {
                break offer;
            }
            self.framework.call(json!({"type": "DECLINE",
                "decline": {"offer_ids": [offer["id"]], "filters": {"refuse_seconds": 0.0}}}));
        };
        let operations = operations(self, &offer);
        self.framework.call(json!({"type": "ACCEPT", "accept": {"offer_ids": [offer["id"]], "operations": operations,
            "filters": {"refuse_seconds": 0.0}}}));
    }

    fn launch(&mut self, task: Value) {
        self.accept(|_, offer| vec![launch(&[of(offer, task)])]);
    }

    fn group(&mut self, executor: &str, container: Option<Value>, tasks: &[Value]) {
        self.accept(|bench, offer| {
            let mut info = json!({"type": "DEFAULT", "executor_id": {"value": executor},
                "framework_id": {"value": bench.framework.id}, "resources": resources()});
            if let Some(container) = container {
                info["container"] = container;
            }
            let tasks: Vec<Value> = tasks.iter().map(|task| of(offer, task.clone())).collect();
            vec![json!({"type": "LAUNCH_GROUP", "launch_group": {"executor": info, "task_group": {"tasks": tasks}}})]
        });
    }

    /// What a task wrote, once it is over, and over well.
    fn finishes(&mut self, task: Value) -> String {
        let id = task["task_id"]["value"].as_str().expect("an id").to_owned();
        self.launch(task);
        let status = self.ends(&id);
        let said = self.said(&id, &id);
        assert_eq!(status["state"], "TASK_FINISHED", "{status}\n{said}");
        said
    }

    /// The next update of a task, acknowledged; it may have come while another was waited for.
    fn update(&mut self, task: &str) -> Value {
        let seen = &mut self.framework.seen;
        match seen.iter().position(|event| event["update"]["status"]["task_id"]["value"] == task) {
            Some(n) => {
                let status = seen.remove(n)["update"]["status"].clone();
                self.framework.acknowledge(&status);
                status
            }
            None => self.framework.update(task),
        }
    }

    /// The last update of a task.
    fn ends(&mut self, task: &str) -> Value {
        loop {
            let status = self.update(task);
            if !LIVE.contains(&status["state"].as_str().expect("a state")) {
                return status;
            }
        }
    }

    /// The update by which a task runs.
    fn runs(&mut self, task: &str) -> Value {
        loop {
            let status = self.update(task);
            assert!(LIVE.contains(&status["state"].as_str().expect("a state")), "{status}");
            if status["state"] == "TASK_RUNNING" {
                return status;
            }
        }
    }

    /// The sandbox of a task on an executor.
    fn sandbox(&self, executor: &str, task: &str) -> PathBuf {
        let agents = self.cluster.get("m0", "/slaves");
        let agent = agents["slaves"][0]["id"].as_str().expect("an id").to_owned();
        let frameworks = self.cluster.work_dir("a0").join("slaves").join(agent).join("frameworks");
        let of_executor = frameworks.join(&self.framework.id).join("executors").join(executor).join("runs/latest");
        if executor == task { of_executor } else { of_executor.join("tasks").join(task) }
    }

    fn said(&self, executor: &str, task: &str) -> String {
        let sandbox = self.sandbox(executor, task);
        ["stdout", "stderr"].map(|name| fs::read_to_string(sandbox.join(name)).unwrap_or_default()).concat()
    }

    /// Waits until nothing is left of containers: roots, mounts, networks.
    fn nothing_is_left(&self) {
        let work_dir = fs::canonicalize(self.cluster.work_dir("a0")).expect("a work_dir");
        let count = |name: &str| fs::read_dir(work_dir.join(name)).map_or(0, |found| found.count());
        wait::until("nothing is left", READY, || {
            let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
            let is_clear = !mounts.contains(&work_dir.display().to_string())
                && count("provisioner/containers") + count("meta/networks") == 0;
            is_clear.then_some(())
        });
    }
}

fn scalar(name: &str, value: f64) -> Value {
    json!({"name": name, "type": "SCALAR", "scalar": {"value": value}, "allocation_info": {"role": "eng/dev"}})
}

fn resources() -> Value {
    json!([scalar("cpus", 0.1), scalar("mem", 32.0), scalar("disk", 32.0)])
}

fn task(id: &str, script: &str) -> Value {
    json!({"name": id, "task_id": {"value": id}, "command": {"value": script}, "resources": resources()})
}

fn of(offer: &Value, mut task: Value) -> Value {
    task["agent_id"] = offer["agent_id"].clone();
    task
}

fn launch(tasks: &[Value]) -> Value {
    json!({"type": "LAUNCH", "launch": {"task_infos": tasks}})
}

/// A task in an image, with more of a ContainerInfo.
fn imaged(id: &str, script: &str, more: Value) -> Value {
    let mut task = task(id, script);
    let mut info = more;
    info["type"] = "MESOS".into();
    info["mesos"] = json!({"image": {"type": "DOCKER", "docker": {"name": "eng/app"}}});
    task["container"] = info;
    task
}

fn volume(path: &str, mode: &str, kind: &str, source: Value) -> Value {
    json!({"mode": mode, "container_path": path, "source": {"type": kind, kind.to_lowercase(): source}})
}

/// A volume of the role, found at `path`.
fn persistent(id: &str, path: &str, mode: &str) -> Value {
    let mut disk = reserved();
    disk["disk"] = json!({"persistence": {"id": id}, "volume": {"container_path": path, "mode": mode}});
    disk
}

fn reserved() -> Value {
    let mut disk = scalar("disk", 64.0);
    disk["reservations"] = json!([{"type": "DYNAMIC", "role": "eng/dev"}]);
    disk
}

#[test]
fn tasks_and_groups_run_in_images() {
    let Some(mut bench) = Bench::new("images", ISOLATION, &[]) else { return };
    let script = "cat /etc/image; pwd; echo $A $MESOS_SANDBOX; ls -d /usr 2>/dev/null; echo kept > $MESOS_SANDBOX/kept";
    assert_eq!(bench.finishes(imaged("shell", script, json!({}))), "busybox\n/srv\nof-image /mnt/mesos/sandbox\n");
    assert_eq!(fs::read_to_string(bench.sandbox("shell", "shell").join("kept")).unwrap(), "kept\n");
    let mut entry = imaged("entry", "", json!({}));
    entry["command"] = json!({"shell": false, "arguments": ["mine"]});
    assert_eq!(bench.finishes(entry), "entry mine\n");
    let mut none = imaged("none", "true", json!({}));
    none["container"]["mesos"]["image"]["docker"]["name"] = "not/there".into();
    bench.launch(none);
    let failed = bench.ends("none");
    assert_eq!(failed["reason"], "REASON_CONTAINER_LAUNCH_FAILED", "{failed}");
    assert!(failed["message"].as_str().unwrap().contains("Failed to pull the image 'not/there'"), "{failed}");
    // Whoever looks at one of a group finds its root, its processes and its environment; what it prints is in the executor's output.
    let mut checked =
        imaged("checked", "echo $$ > /begun; while [ ! -e /seen ]; do sleep 0.05; done; sleep 1000", json!({}));
    let look = "test $A = of-image && test $MESOS_SANDBOX = /mnt/mesos/sandbox && cat /etc/image >&2 && test -e /proc/$(cat /begun) && touch /seen && exit 3";
    checked["check"] = json!({"type": "COMMAND", "delay_seconds": 0.0, "interval_seconds": 0.1,
        "command": {"command": {"value": look, "user": "nobody"}}});
    checked["health_check"] = json!({"type": "COMMAND", "delay_seconds": 0.0, "interval_seconds": 0.1, "grace_period_seconds": 0.0,
        "timeout_seconds": 0.5, "consecutive_failures": 3, "command": {"value": "test ! -e /seen || sleep 1000"}});
    bench.group("looked-at", None, &[checked]);
    let mut codes = Vec::new();
    let killed = loop {
        let status = bench.update("checked");
        codes.extend(status["check_status"]["command"]["exit_code"].as_i64());
        if status["state"] == "TASK_KILLED" {
            break status;
        }
        assert!(LIVE.contains(&status["state"].as_str().unwrap()), "{status}");
    };
    assert!(codes.contains(&3) && killed["healthy"] == false, "{codes:?} {killed}");
    let executor = bench.said("looked-at", "looked-at");
    assert!(executor.contains("busybox\n"), "{executor}");
    // What one of a group writes the other finds, whatever roots they have.
    let shared = |path: &str| json!({"type": "MESOS", "volumes": [volume(path, "RW", "SANDBOX_PATH", json!({"type": "PARENT", "path": "shared"}))]});
    let writer = imaged("writer", "cat /etc/image; echo shared > /all/x; sleep 1000", shared("/all"));
    let mut reader = task("reader", "while ! cat all/x 2>/dev/null; do sleep 0.05; done; ls -d /usr; sleep 1000");
    reader["container"] = shared("all");
    bench.group("pod", None, &[writer, reader]);
    bench.runs("writer");
    let says = |bench: &Bench, task: &str, text: &str| {
        wait::until(&format!("{task} to say {text:?}"), READY, || (bench.said("pod", task) == text).then_some(()));
    };
    says(&bench, "writer", "busybox\n");
    says(&bench, "reader", "shared\n/usr\n");
    // Whoever runs in an image outlives its agent.
    bench.cluster.kill("a0");
    bench.cluster.restart("a0");
    bench.cluster.wait_ready();
    for id in ["writer", "reader"] {
        bench.framework.call(json!({"type": "KILL", "kill": {"task_id": {"value": id}}}));
        assert_eq!(bench.ends(id)["state"], "TASK_KILLED");
    }
    bench.nothing_is_left();
}

#[test]
fn volumes_of_every_kind_are_found_in_an_image() {
    let Some(mut bench) = Bench::new("volumes", ISOLATION, &[]) else { return };
    let host = bench.given.path().join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("there"), "of-the-machine\n").unwrap();
    let secret = base64::engine::general_purpose::STANDARD.encode("hunter2\n");
    let mut image = json!({"mode": "RO", "container_path": "/image"});
    image["image"] = json!({"type": "DOCKER", "docker": {"name": "data"}});
    let volumes = json!([
        volume("/host", "RO", "HOST_PATH", json!({"path": host})),
        volume("host-rw", "RW", "HOST_PATH", json!({"path": host})),
        volume("/own", "RW", "SANDBOX_PATH", json!({"type": "SELF", "path": "own"})),
        image,
        volume("plugins", "RW", "DOCKER_VOLUME", json!({"driver": "d", "name": "named"})),
        volume("/run/secret", "RO", "SECRET", json!({"type": "VALUE", "value": {"data": secret}})),
    ]);
    let script = "set -e; cat /host/there /image/inner/x /run/secret data/kept ro/kept 2>/dev/null || true; cd $MESOS_SANDBOX; \
        cat ro/kept; echo new > data/new; echo rw > host-rw/rw; echo of-plugin > plugins/x; echo own > /own/x; cat own/x; \
        for path in /host/x /image/x ro/x; do if echo x 2>/dev/null > $path; then echo wrote $path; fi; done";
    let mut first = imaged("maker", "echo kept > $MESOS_SANDBOX/data/kept", json!({}));
    first["resources"].as_array_mut().unwrap().push(persistent("v1", "data", "RW"));
    let mut second = imaged("maker2", "echo ro > $MESOS_SANDBOX/data/kept", json!({}));
    second["resources"].as_array_mut().unwrap().push(persistent("v2", "data", "RW"));
    bench.accept(|_, offer| {
        let both = [persistent("v1", "data", "RW"), persistent("v2", "data", "RW")];
        let mut twice = reserved();
        twice["scalar"]["value"] = 128.0.into();
        vec![
            json!({"type": "RESERVE", "reserve": {"resources": [twice]}}),
            json!({"type": "CREATE", "create": {"volumes": both}}),
            launch(&[of(offer, first), of(offer, second)]),
        ]
    });
    bench.volumes = 2;
    for id in ["maker", "maker2"] {
        let status = bench.ends(id);
        assert_eq!(status["state"], "TASK_FINISHED", "{status} {}", bench.said(id, id));
    }
    let mut all = imaged("all", script, json!({ "volumes": volumes.clone() }));
    all["resources"].as_array_mut().unwrap().extend([persistent("v1", "data", "RW"), persistent("v2", "ro", "RO")]);
    assert_eq!(bench.finishes(all), "of-the-machine\nof-data\nhunter2\nro\nown\n");
    assert_eq!(fs::read_to_string(host.join("rw")).unwrap(), "rw\n");
    let plugins = |bench: &Bench, times: usize| {
        let given = bench.given.path();
        assert_eq!(fs::read_to_string(given.join("of-plugin/named/x")).unwrap(), "of-plugin\n");
        let asked =
            "mount --volumedriver=d --volumename=named\nunmount --volumedriver=d --volumename=named\n".repeat(times);
        wait::until("it is unmounted", READY, || {
            (fs::read_to_string(given.join("asked")).unwrap() == asked).then_some(())
        });
    };
    plugins(&bench, 1);
    // The same of a group: its volumes are its executor's, too.
    let mut grouped = imaged("grouped", &format!("cd $MESOS_SANDBOX; {script}"), json!({ "volumes": volumes }));
    grouped["resources"].as_array_mut().unwrap().extend([persistent("v1", "data", "RW"), persistent("v2", "ro", "RO")]);
    bench.group("pod", None, &[grouped]);
    let status = bench.ends("grouped");
    let said = bench.said("pod", "grouped");
    assert_eq!(
        (status["state"].as_str(), said.as_str()),
        (Some("TASK_FINISHED"), "of-the-machine\nof-data\nhunter2\nkept\nro\nro\nown\n"),
        "{status}"
    );
    plugins(&bench, 2);
    let kept = bench.cluster.work_dir("a0").join("volumes/roles/eng dev/v1/new");
    assert_eq!(fs::read_to_string(kept).unwrap(), "new\n");
    bench.nothing_is_left();
}

#[test]
fn what_is_written_to_roots_counts_in_the_disk() {
    let flags = ["--enforce_container_disk_quota".to_owned(), "--container_disk_watch_interval=100ms".to_owned()];
    let Some(mut bench) = Bench::new("roots", ISOLATION, &flags) else { return };
    let fill = |mebibytes: u32| {
        format!("/bin/busybox dd if=/dev/zero of=/big bs=1M count={mebibytes} 2>/dev/null; sleep 1000")
    };
    let exceeds = |status: &Value| {
        assert_eq!(status["reason"], "REASON_CONTAINER_LIMITATION_DISK", "{status}");
        assert!(status["message"].as_str().unwrap().contains("exceeds quota (32MB)"), "{status}");
        assert_eq!(status["limitation"]["resources"][0]["name"], "disk", "{status}");
    };
    bench.launch(imaged("large", &fill(40), json!({})));
    exceeds(&bench.ends("large"));
    // One of a group; what its executor was given is not for that task alone.
    bench.group("pod", None, &[imaged("one", &fill(70), json!({})), imaged("other", &fill(40), json!({}))]);
    let status = bench.ends("one");
    assert!(status["message"].as_str().unwrap().contains("exceeds quota (96MB)"), "{status}");
    bench.launch(imaged("small", &fill(20), json!({})));
    bench.runs("small");
    let used = |bench: &Bench| {
        let all = bench.cluster.get("a0", "/monitor/statistics");
        let one = all.as_array()?.iter().find(|one| one["executor_id"] == "small")?;
        one["statistics"]["disk_used_bytes"].as_u64().filter(|used| *used >= 20 << 20)
    };
    let used = wait::until("it is counted", READY, || used(&bench));
    assert!(used < 22 << 20, "{used}");
    bench.framework.call(json!({"type": "KILL", "kill": {"task_id": {"value": "small"}}}));
    assert_eq!(bench.ends("small")["state"], "TASK_KILLED");
    bench.nothing_is_left();
}

/// Ended with the last of the test: its bridge.
struct Bridge(String);

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", &self.0]).stderr(std::process::Stdio::null()).status();
    }
}

#[test]
fn containers_with_images_join_networks() {
    let found = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/cni.sh")).output().unwrap();
    if !found.status.success() {
        let _ = writeln!(
            std::io::stderr(),
            "NOT TESTED (joining): no CNI plugins: {}",
            String::from_utf8_lossy(&found.stderr)
        );
        return;
    }
    let plugins = String::from_utf8(found.stdout).unwrap().trim().to_owned();
    let configs = tempfile::tempdir().unwrap();
    let bridge = Bridge(format!("msj{}", std::process::id()));
    let net = 100 + std::process::id() % 100;
    let config = json!({"cniVersion": "0.3.1", "name": "one", "type": "bridge", "bridge": bridge.0,
        "ipam": {"type": "host-local", "dataDir": configs.path().join("leases"), "subnet": format!("10.{net}.77.0/24")}});
    fs::write(configs.path().join("one.conf"), config.to_string()).unwrap();
    let flags = [
        format!("--network_cni_config_dir={}", configs.path().display()),
        format!("--network_cni_plugins_dir={plugins}"),
        // The agent listens on loopback alone, which is not in that network.
        "--http_executor_domain_sockets".to_owned(),
    ];
    let Some(mut bench) = Bench::new("joining", &format!("{ISOLATION},network/cni"), &flags) else { return };
    let named = json!({"network_infos": [{"name": "one"}], "hostname": "own-name"});
    let script = "cat /etc/image /etc/hostname; echo ready > $MESOS_SANDBOX/ready; while [ ! -e $MESOS_SANDBOX/go ]; do sleep 0.02; done";
    bench.launch(imaged("t", script, named));
    let address = |status: &Value| {
        let infos = &status["container_status"]["network_infos"];
        infos[0]["ip_addresses"][0]["ip_address"].as_str().map(str::to_owned).unwrap_or_else(|| panic!("{status}"))
    };
    let status = bench.runs("t");
    assert!(address(&status).starts_with(&format!("10.{net}.77.")), "{status}");
    fs::write(bench.sandbox("t", "t").join("go"), "").unwrap();
    assert_eq!(bench.ends("t")["state"], "TASK_FINISHED", "{}", bench.said("t", "t"));
    assert_eq!(bench.said("t", "t"), "busybox\nown-name\n");
    // A group is in its executor's network, by which that one speaks to its agent.
    let container = json!({"type": "MESOS", "network_infos": [{"name": "one"}]});
    let script = "cat /etc/image; while [ ! -e $MESOS_SANDBOX/go ]; do sleep 0.02; done";
    bench.group(
        "pod",
        Some(container),
        &[imaged("a", script, json!({})), task("b", "while [ ! -e go ]; do sleep 0.02; done")],
    );
    let addresses = ["a", "b"].map(|id| address(&bench.runs(id)));
    assert_eq!(addresses[0], addresses[1]);
    for id in ["a", "b"] {
        fs::write(bench.sandbox("pod", id).join("go"), "").unwrap();
        assert_eq!(bench.ends(id)["state"], "TASK_FINISHED", "{}", bench.said("pod", id));
    }
    assert_eq!(bench.said("pod", "a"), "busybox\n");
    bench.nothing_is_left();
}

#[test]
fn tasks_run_in_containers_of_an_engine() {
    let Some(engine) = Engine::start("an engine behind a master", &[]) else { return };
    let plan = Plan::new()
        .agents(1)
        .agent_flag("--containerizers=mesos,docker")
        .agent_flag("--executor_registration_timeout=5mins")
        .agent_flag(&format!("--docker_socket={}", engine.socket()));
    let cluster = plan.start();
    let info = json!({"user": "root", "name": "boxes", "roles": ["eng/dev"], "capabilities": [{"type": "MULTI_ROLE"}, {"type": "RESERVATION_REFINEMENT"}]});
    let mut framework = Framework::subscribe(cluster.address("m0"), &info);
    let offer = framework.offer();
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("there"), "of-the-machine\n").unwrap();
    let mut boxed = task("boxed", "cat /h/there; echo of-the-box > /h/new; sleep 1000");
    boxed["container"] = json!({"type": "DOCKER", "docker": {"image": engine::IMAGE, "network": "HOST"},
        "volumes": [{"mode": "RW", "container_path": "/h", "host_path": host.path()}]});
    let mut hello = task("hello", "");
    hello["container"] = json!({"type": "DOCKER", "docker": {"image": engine::IMAGE, "network": "HOST"}});
    hello["command"] = json!({"shell": false});
    framework.launch(&offer, &[of(&offer, boxed), of(&offer, hello)]);
    framework.until_state("hello", "TASK_FINISHED");
    framework.until_state("boxed", "TASK_RUNNING");
    wait::until("it writes", READY, || {
        fs::read_to_string(host.path().join("new")).is_ok_and(|text| text == "of-the-box\n").then_some(())
    });
    framework.call(json!({"type": "KILL", "kill": {"task_id": {"value": "boxed"}}}));
    framework.until_state("boxed", "TASK_KILLED");
}

/// What the kernel holds a task to, as the task finds it; and whoever may see tasks finds what was asked for.
#[test]
fn tasks_may_take_more_than_they_were_given_up_to_their_limits() {
    let isolation = "filesystem/linux,docker/runtime,cgroups/cpu,cgroups/mem";
    let Some(mut bench) = Bench::new("limits", isolation, &[]) else { return };
    let script = "of() { sed -n \"s/^[0-9]*:\\(.*,\\)*$1\\(,.*\\)*:\\(.*\\)/\\3/p\" /proc/self/cgroup; }; at=/sys/fs/cgroup; \
        if [ -n \"$(of memory)\" ]; then cat $at/memory$(of memory)/memory.limit_in_bytes; cat $at/cpu$(of cpu)/cpu.cfs_quota_us; \
        else own=$(sed -n 's/^0:://p' /proc/self/cgroup); cat $at$own/memory.max; cut -d' ' -f1 $at$own/cpu.max; fi";
    let mut limited = task("limited", script);
    limited["limits"] = json!({"cpus": {"value": 1.0}, "mem": {"value": 128.0}});
    // Beside that, a tenth of a processor and 32 MB for who runs it.
    assert_eq!(bench.finishes(limited), format!("{}\n110000\n", 160 << 20));
    let found = bench.cluster.get("m0", "/tasks?task_id=limited");
    assert_eq!(found["tasks"][0]["limits"], json!({"cpus": 1.0, "mem": 128.0}));
    let mut endless = task("endless", script);
    endless["limits"] = json!({"cpus": {"value": "Infinity"}});
    assert_eq!(bench.finishes(endless), format!("{}\n-1\n", 64 << 20));
    assert_eq!(bench.cluster.get("m0", "/tasks?task_id=endless")["tasks"][0]["limits"], json!({"cpus": "Infinity"}));
    // One of a group has a control group of its own, if it asks for that, within that of all of them.
    let mut grouped = task("grouped", script);
    grouped["limits"] = json!({"cpus": {"value": 1.0}, "mem": {"value": 128.0}});
    grouped["container"] = json!({"type": "MESOS", "linux_info": {"share_cgroups": false}});
    bench.group("pod", None, &[grouped]);
    assert_eq!(bench.ends("grouped")["state"], "TASK_FINISHED");
    assert_eq!(bench.said("pod", "grouped"), format!("{}\n100000\n", 128 << 20));
}
