//! `gpu/nvidia` on a machine without GPUs: a library that says there are some, and files of devices that no driver stands behind. Who
//! may open one hears that there is none (ENXIO), and who may not that it is forbidden (EPERM).

mod common;
#[path = "../../images/tests/registry/mod.rs"]
mod registry;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use api::v1::{self, Resource, TaskInfo, TaskState};
use common::groups::Place;
use common::{Master, PATIENCE, RealAgent, http, task, until};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use registry::{Asks, Made, Registry};

/// Three GPUs, whose devices have other numbers than they have.
const LIBRARY: &str = r#"
    static unsigned minors[] = {2, 0, 1};
    int nvmlInit_v2(void) { return 0; }
    int nvmlSystemGetDriverVersion(char *to, unsigned size) { to[0] = '5'; to[1] = 0; return 0; }
    int nvmlDeviceGetCount_v2(unsigned *to) { *to = 3; return 0; }
    int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **to) { *to = &minors[index]; return index < 3 ? 0 : 6; }
    int nvmlDeviceGetMinorNumber(void *gpu, unsigned *to) { *to = *(unsigned *)gpu; return 0; }
    const char *nvmlErrorString(int error) { return "Not Found"; }
"#;

/// What stands for a driver: the library, its programs, and files of devices, which go with it.
struct Machine {
    dir: tempfile::TempDir,
    made: Vec<PathBuf>,
}

impl Machine {
    /// None here is told to who reads the output, not to libtest.
    fn new() -> Option<Machine> {
        let none = |why: &str| {
            let _ = writeln!(std::io::stderr(), "NOT TESTED (gpus): {why}");
            None
        };
        if !nix::unistd::geteuid().is_root() {
            return none("this is not root");
        }
        if Path::new("/dev/nvidiactl").exists() {
            return none("this machine has GPUs of its own, or another test's");
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.path().join("nvml.c"), LIBRARY).unwrap();
        let built = Command::new("gcc")
            .args(["-shared", "-fPIC", "-o"])
            .args([dir.path().join("libnvidia-ml.so.1"), dir.path().join("nvml.c")])
            .status();
        if !built.is_ok_and(|built| built.success()) {
            return none("there is no gcc");
        }
        let mut machine = Machine { dir, made: Vec::new() };
        for (name, major, minor) in [
            ("nvidiactl", 195, 255),
            ("nvidia-uvm", 511, 0),
            ("nvidia0", 195, 0),
            ("nvidia1", 195, 1),
            ("nvidia2", 195, 2),
        ] {
            let path = Path::new("/dev").join(name);
            if mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), makedev(major, minor)).is_err() {
                return none("no files of devices can be made here");
            }
            machine.made.push(path);
        }
        for (name, text) in [
            ("nvidia-smi", "#!/bin/sh\necho it sees GPUs\n".to_owned()),
            ("libcuda.so.1.real", "it drives GPUs\n".to_owned()),
            (
                "ldconfig",
                format!("#!/bin/sh\necho '\tlibcuda.so.1 (libc6,x86-64) => {}/libcuda.so.1.real'\n", machine.folder()),
            ),
        ] {
            let path = machine.dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Some(machine)
    }

    fn folder(&self) -> String {
        self.dir.path().display().to_string()
    }

    fn prelude(&self) -> String {
        format!("export LD_LIBRARY_PATH={0} PATH={0}:$PATH", self.folder())
    }

    fn start(&self, place: &Place, master: &Master, work_dir: &Path, more: &[&str]) -> RealAgent {
        let own = [
            "--isolation=filesystem/linux,docker/runtime,cgroups/devices,gpu/nvidia".to_owned(),
            format!("--cgroups_hierarchy={}", place.hierarchy),
            format!("--cgroups_root={}", place.root),
            "--image_providers=docker".to_owned(),
        ];
        let flags: Vec<&str> = own.iter().map(String::as_str).chain(more.iter().copied()).collect();
        RealAgent::start_after(&self.prelude(), &master.address, work_dir, &flags)
    }

    /// What an agent says that does not start.
    fn refused(&self, flags: &[&str]) -> String {
        let dir = tempfile::tempdir().unwrap();
        // What it makes of control groups goes with these.
        let places = Place::all("gpus-none");
        let output = Command::new(env!("CARGO_BIN_EXE_meseta-agent"))
            .args(["--master=127.0.0.1:1", "--ip=127.0.0.1", "--port=0"])
            .args(places.first().map(|place| format!("--cgroups_root={}", place.root)))
            .arg(format!("--work_dir={}", dir.path().display()))
            .args(flags)
            .env("LD_LIBRARY_PATH", self.folder())
            .output()
            .unwrap();
        assert!(!output.status.success(), "{flags:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.made.iter().for_each(|path| drop(fs::remove_file(path)));
    }
}

fn gpus(count: f64) -> Resource {
    let scalar = Some(v1::value::Scalar { value: count });
    Resource { name: "gpus".into(), r#type: v1::value::Type::Scalar as i32, scalar, ..Resource::default() }
}

fn with(mut task: TaskInfo, more: &[Resource]) -> TaskInfo {
    task.resources.extend_from_slice(more);
    task
}

/// Says which devices may be opened, whenever it is asked to: `yes nvidia0`.
const LOOK: &str = r#"
    look() {
        for name in nvidia0 nvidia1 nvidia2 nvidiactl nvidia-uvm; do
            said=$(dd if=/dev/$name of=/dev/null count=0 2>&1)
            case $said in *such\ device*) echo yes $name;; *permitted*) echo no $name;; *) echo $name: $said;; esac
        done
        echo looked
    }
    cd $MESOS_SANDBOX; look > first; while [ ! -e go ]; do sleep 0.02; done; look > second; while :; do sleep 1; done"#;

/// The GPUs that may be opened, once it was looked; the controls always.
async fn opened(agent: &RealAgent, id: &str, when: &str) -> Vec<String> {
    opened_in(&agent.sandbox(id).join(when)).await
}

async fn opened_in(path: &Path) -> Vec<String> {
    let read = || fs::read_to_string(path).unwrap_or_default();
    until(&format!("a look ({})", path.display()), || read().ends_with("looked\n")).await;
    let text = read();
    assert!(text.contains("yes nvidiactl\nyes nvidia-uvm\n") && !text.contains(':'), "{text}");
    let gpus = text.lines().filter_map(|line| line.strip_prefix("yes ")).filter(|name| name.len() == 7);
    gpus.map(str::to_owned).collect()
}

/// One test, as the machine's files of devices are in one place.
#[tokio::test(flavor = "multi_thread")]
async fn gpus_are_given_to_one_container_each() {
    let Some(machine) = Machine::new() else { return };
    for place in Place::all("gpus") {
        let devices = Path::new(place.hierarchy).join("devices");
        if !place.is_second() && !devices.exists() {
            let _ = writeln!(std::io::stderr(), "NOT TESTED (gpus): there is no 'devices' in {}", place.hierarchy);
            continue;
        }
        whole_gpus(&machine, &place).await;
        images(&machine, &place).await;
    }
    let all = "--isolation=filesystem/linux,cgroups/devices,gpu/nvidia";
    for (flags, why) in [
        (&["--isolation=gpu/nvidia,cgroups/devices"][..], "gpu/nvidia in --isolation needs filesystem/linux there"),
        (&["--isolation=gpu/nvidia,filesystem/linux"], "gpu/nvidia in --isolation needs cgroups/devices there"),
        (&["--nvidia_gpu_devices=0"], "'--nvidia_gpu_devices' needs gpu/nvidia in --isolation"),
        (&[all, "--resources=gpus:1"], "'gpus' in '--resources' needs '--nvidia_gpu_devices'"),
        (&[all, "--nvidia_gpu_devices=0"], "needs as many 'gpus' in '--resources'"),
        (&[all, "--nvidia_gpu_devices=0,x", "--resources=gpus:2"], "must be numbers with ',' between them"),
        (&[all, "--nvidia_gpu_devices=0,3", "--resources=gpus:2"], "names GPU 3, and this machine has 3, from 0 on"),
    ] {
        let said = machine.refused(flags);
        assert!(said.contains(why), "{flags:?}: {said}");
    }
    fs::remove_file("/dev/nvidia-uvm").unwrap();
    let said = machine.refused(&[all]);
    assert!(said.contains("cannot find /dev/nvidia-uvm"), "{said}");
    fs::remove_file(machine.dir.path().join("libnvidia-ml.so.1")).unwrap();
    assert!(machine.refused(&[all]).contains("libnvidia-ml.so.1 cannot be used"));
}

/// Given out once, known by an agent that takes another one's place, and returned.
async fn whole_gpus(machine: &Machine, place: &Place) {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    // Indices 1 and 2: the devices 0 and 1.
    let listed = ["--resources=cpus:4;mem:1024;disk:1024;gpus:2", "--nvidia_gpu_devices=1,2"];
    let agent = machine.start(place, &master, dir.path(), &listed);
    master.launch(with(task("one", LOOK), &[gpus(1.0)]));
    master.launch(task("none", LOOK));
    assert_eq!(opened(&agent, "one", "first").await, ["nvidia0"], "{}", place.hierarchy);
    assert_eq!(opened(&agent, "none", "first").await.len(), 0);
    agent.kill();
    let agent = machine.start(place, &master, dir.path(), &listed);
    fs::write(agent.sandbox("one").join("go"), "").unwrap();
    assert_eq!(opened(&agent, "one", "second").await, ["nvidia0"], "it has what it had");
    // What others have is not given out again; what comes back is.
    master.launch(with(task("two", LOOK), &[gpus(1.0)]));
    assert_eq!(opened(&agent, "two", "first").await, ["nvidia1"]);
    master.kill("one");
    master.update("one", TaskState::TaskKilled).await;
    master.launch(with(task("three", LOOK), &[gpus(1.0)]));
    assert_eq!(opened(&agent, "three", "first").await, ["nvidia0"]);
    for id in ["two", "three", "none"] {
        master.kill(id);
        master.update(id, TaskState::TaskKilled).await;
    }
    // An executor has what its tasks have, while it runs; what it lost it cannot open.
    master.launch_group("pod", vec![task("p0", LOOK)]);
    let inner = |id: &str| agent.sandbox("pod").join("tasks").join(id);
    master.update("p0", TaskState::TaskRunning).await;
    assert_eq!(opened_in(&inner("p0").join("first")).await.len(), 0);
    master.launch_group("pod", vec![with(task("p1", LOOK), &[gpus(2.0)])]);
    master.update("p1", TaskState::TaskRunning).await;
    assert_eq!(opened_in(&inner("p1").join("first")).await, ["nvidia0", "nvidia1"]);
    // Where its executor looks for it.
    let port = format!("--port={}", agent.address.rsplit_once(':').unwrap().1);
    agent.kill();
    let agent = machine.start(place, &master, dir.path(), &[listed[0], listed[1], &port]);
    master.kill("p1");
    master.update("p1", TaskState::TaskKilled).await;
    let kept = dir.path().join("meta/gpus");
    let kept =
        || fs::read_dir(&kept).unwrap().map(|one| fs::read_to_string(one.unwrap().path()).unwrap()).collect::<String>();
    until("they come back", || kept().is_empty()).await;
    let sandbox = agent.sandbox("pod").join("tasks/p0");
    fs::write(sandbox.join("go"), "").unwrap();
    assert_eq!(opened_in(&sandbox.join("second")).await.len(), 0);
    master.kill("p0");
    master.update("p0", TaskState::TaskKilled).await;
    until("its groups go", || place.containers().is_empty()).await;
    assert!(fs::read_dir(dir.path().join("meta/gpus")).unwrap().next().is_none());
}

/// Without flags all of them are found and offered; in a root of its own a container finds their files, and the driver's if it asks.
async fn images(machine: &Machine, place: &Place) {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let registry = Registry::start(Asks::Nobody).await;
    let process = r#"{"Env": ["NVIDIA_VISIBLE_DEVICES=all", "PATH=/bin"]}"#;
    registry.push("cuda", "latest", &Made::busybox(process));
    registry.push("plain", "latest", &Made::busybox(r#"{"Env": ["PATH=/bin"]}"#));
    let base = format!("--docker_registry={}", registry.base());
    let agent = machine.start(place, &master, dir.path(), &[&base, "--resources=cpus:4;mem:1024;disk:64"]);
    let (_, state) = http(&agent.address, "GET", "/state", "", "").await;
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["resources"]["gpus"], 3.0, "{}", state["resources"]);
    let within = |id: &str, name: &str, script: &str| {
        let docker = v1::image::Docker { name: name.into(), ..Default::default() };
        let image = v1::Image { r#type: v1::image::Type::Docker as i32, docker: Some(docker), ..Default::default() };
        let info = v1::ContainerInfo {
            r#type: v1::container_info::Type::Mesos as i32,
            mesos: Some(v1::container_info::MesosInfo { image: Some(image) }),
            ..Default::default()
        };
        TaskInfo { container: Some(info.into()), ..with(task(id, script), &[gpus(1.0)]) }
    };
    master.launch(within("looks", "plain", LOOK));
    let first = opened(&agent, "looks", "first").await;
    assert_eq!(first, ["nvidia0"]);
    let script = "stat -c '%n %t:%T %a' /dev/nvidia*; nvidia-smi; cat /usr/local/nvidia/lib64/libcuda.so.1; echo $PATH $LD_LIBRARY_PATH; \
        if echo x > /usr/local/nvidia/bin/nvidia-smi; then echo written; fi; ls /usr/local";
    master.launch(within("cuda", "cuda", script));
    master.update("cuda", TaskState::TaskFinished).await;
    let said = fs::read_to_string(agent.sandbox("cuda").join("stdout")).unwrap();
    let expected = "/dev/nvidia-uvm 1ff:0 666\n/dev/nvidia0 c3:0 666\n/dev/nvidia1 c3:1 666\n/dev/nvidia2 c3:2 666\n/dev/nvidiactl c3:ff 666\n\
        it sees GPUs\nit drives GPUs\n/bin:/usr/local/nvidia/bin /usr/local/cuda/compat:/usr/local/nvidia/lib:/usr/local/nvidia/lib64\nnvidia\n";
    assert_eq!(said, expected);
    master.launch(within("plain", "plain", "[ ! -e /usr/local/nvidia ] && ls /dev/nvidia0"));
    master.update("plain", TaskState::TaskFinished).await;
    master.kill("looks");
    master.update("looks", TaskState::TaskKilled).await;
    tokio::time::timeout(PATIENCE, until("its groups go", || place.containers().is_empty())).await.unwrap();
}
