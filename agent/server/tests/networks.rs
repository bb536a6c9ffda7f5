//! `network/cni`: tasks of real agents in networks of their own, by the plugins of the distribution and by one that tells what it
//! was asked.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use api::v1::{self, ContainerInfo, TaskState};
use common::groups::Place;
use common::{Master, RealAgent, http, task, until};

/// A machine with networks that a test can join.
struct Machine {
    groups: Place,
    configs: tempfile::TempDir,
    plugins: PathBuf,
    bridge: String,
}

impl Machine {
    /// None is told to who reads the output, not to libtest. `n` is a number that no other test here has.
    fn new(what: &str, n: u32) -> Option<Machine> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("NOT TESTED ({what}): networks need root");
            return None;
        }
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/cni.sh");
        let found = Command::new(tool).output().unwrap();
        if !found.status.success() {
            eprintln!("NOT TESTED ({what}): no CNI plugins: {}", String::from_utf8_lossy(&found.stderr));
            return None;
        }
        let plugins = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim());
        let groups = Place::all(what).into_iter().next()?;
        let configs = tempfile::tempdir().unwrap();
        let bridge = format!("mst{n}x{}", std::process::id());
        let machine = Machine { groups, configs, plugins, bridge };
        fs::create_dir(machine.configs.path().join("leases")).unwrap();
        fs::write(machine.configs.path().join("one.conf"), machine.bridged(n)).unwrap();
        Some(machine)
    }

    fn bridged(&self, n: u32) -> String {
        let leases = self.configs.path().join("leases");
        format!(
            r#"{{"cniVersion": "0.3.1", "name": "one", "type": "bridge", "bridge": "{}", "ipam": {{"type": "host-local", "dataDir": "{}",
                "subnet": "10.{}.{n}.0/24"}}, "dns": {{"nameservers": ["10.1.2.3"], "search": ["here"]}}}}"#,
            self.bridge,
            leases.display(),
            100 + std::process::id() % 100
        )
    }

    /// A plugin that writes down what it is asked, and answers as it is told.
    fn noting(&self, answer: &str) -> PathBuf {
        let dir = self.configs.path().join("own");
        fs::create_dir_all(&dir).unwrap();
        let text = format!(
            "#!/bin/sh\ncd {}\ncat > $CNI_COMMAND.$CNI_IFNAME.json\nenv > $CNI_COMMAND.$CNI_IFNAME.env\n{answer}\n",
            self.configs.path().display()
        );
        // By another process: one that is forked meanwhile would hold it open, and it could not be executed.
        let draft = dir.join("draft");
        fs::write(&draft, text).unwrap();
        let installed = Command::new("install").args(["-m", "755"]).arg(&draft).arg(dir.join("noting")).status();
        assert!(installed.unwrap().success());
        fs::write(
            self.configs.path().join("noted.conf"),
            r#"{"cniVersion": "0.3.1", "name": "noted", "type": "noting"}"#,
        )
        .unwrap();
        dir
    }

    fn start(&self, master: &Master, work_dir: &Path, more: &[&str]) -> RealAgent {
        let is_given = more.iter().any(|flag| flag.starts_with("--isolation="));
        let isolation = if is_given { "--port=0" } else { "--isolation=network/cni,namespaces/pid" };
        let own = [
            isolation.to_owned(),
            format!("--network_cni_config_dir={}", self.configs.path().display()),
            format!(
                "--network_cni_plugins_dir=/nowhere:{}:{}/own",
                self.plugins.display(),
                self.configs.path().display()
            ),
        ];
        let flags: Vec<&str> = own.iter().map(String::as_str).chain(more.iter().copied()).collect();
        self.groups.start(master, work_dir, &flags)
    }

    /// Addresses that are taken.
    fn leases(&self) -> Vec<String> {
        let found = fs::read_dir(self.configs.path().join("leases/one")).into_iter().flatten().flatten();
        let names = found.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("10.")).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", &self.bridge]).stderr(std::process::Stdio::null()).status();
    }
}

/// A work_dir whose networks go with it, also with those of a test that failed.
struct WorkDir(tempfile::TempDir);

impl WorkDir {
    fn new() -> WorkDir {
        WorkDir(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        for container in left(self.path()) {
            for name in ["ns", "users"] {
                let _ = nix::mount::umount2(&container.join(name), nix::mount::MntFlags::MNT_DETACH);
            }
        }
    }
}

/// What is left of networks below a work_dir.
fn left(work_dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(work_dir.join("meta/networks")).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn joining(mut task: v1::TaskInfo, more: &str) -> v1::TaskInfo {
    let info: ContainerInfo = api::json::from_slice(format!(r#"{{"type": "MESOS", {more}}}"#).as_bytes()).unwrap();
    task.container = Some(info.into());
    task
}

fn addresses(status: &v1::TaskStatus) -> Vec<String> {
    let infos = &status.container_status.as_ref().unwrap().network_infos;
    infos.iter().flat_map(|info| &info.ip_addresses).map(|ip| ip.ip_address().to_owned()).collect()
}

const ONE: &str = r#""network_infos": [{"name": "one"}]"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_has_a_network_of_its_own_until_it_ends() {
    let Some(machine) = Machine::new("networks", 1) else { return };
    let (master, dir) = (Master::start().await, WorkDir::new());
    let agent = machine.start(&master, dir.path(), &[]);
    let script = "hostname; cat /etc/hosts /etc/resolv.conf /etc/hostname; tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | sort | tr '\\n' ' '; \
                  readlink /proc/self/ns/net > net; touch ready; while [ ! -e go ]; do sleep 0.02; done; echo $LIBPROCESS_IP";
    master.launch(joining(task("t", script), &format!(r#"{ONE}, "hostname": "web-1""#)));
    let status = master.update("t", TaskState::TaskRunning).await;
    let given = addresses(&status);
    assert_eq!((given.len(), machine.leases()), (1, given.clone()));
    let sandbox = agent.sandbox("t");
    until("it looks around", || sandbox.join("ready").exists()).await;
    let said = fs::read_to_string(sandbox.join("stdout")).unwrap();
    let ip = &given[0];
    let expected = format!("web-1\n127.0.0.1 localhost\n{ip} web-1\nsearch here\nnameserver 10.1.2.3\nweb-1\neth0 lo ");
    assert!(said.starts_with(&expected), "{said}");
    let own = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    let net = fs::read_to_string(sandbox.join("net")).unwrap();
    assert_ne!(net.trim(), own);
    // What is within it is in its network, and so are sessions.
    let parent = machine.groups.group().file_name().unwrap().to_str().unwrap().to_owned();
    let call = format!(
        r#"{{"type": "LAUNCH_CONTAINER", "launch_container": {{"container_id": {{"value": "in", "parent": {{"value": "{parent}"}}}},
            "command": {{"value": "readlink /proc/self/ns/net > net; cat /etc/hosts > hosts; hostname > name"}}}}}}"#
    );
    let (answer, body) = http(&agent.address, "POST", "/api/v1", "Content-Type: application/json\r\n", &call).await;
    assert!(answer.contains("200"), "{answer} {body}");
    let within = sandbox.join("containers/in");
    until("it looks", || fs::read_to_string(within.join("name")).is_ok_and(|text| !text.is_empty())).await;
    assert_eq!(fs::read_to_string(within.join("net")).unwrap(), net);
    assert_eq!(fs::read_to_string(within.join("name")).unwrap(), "web-1\n");
    assert!(fs::read_to_string(within.join("hosts")).unwrap().contains(ip));
    let session = format!(
        r#"{{"type": "LAUNCH_NESTED_CONTAINER_SESSION", "launch_nested_container_session": {{"container_id": {{"value": "s",
            "parent": {{"value": "{parent}"}}}}, "command": {{"value": "readlink /proc/self/ns/net > session; cat /etc/hosts >> session"}}}}}}"#
    );
    let head = "Content-Type: application/json\r\nAccept: application/json\r\n";
    let (answer, body) = http(&agent.address, "POST", "/api/v1", head, &session).await;
    assert!(answer.contains("200"), "{answer} {body}");
    let seen = || fs::read_to_string(sandbox.join("session")).unwrap_or_default();
    until("the session looks", || seen().contains("web-1")).await;
    assert!(seen().starts_with(&net), "{}", seen());
    let statistics = http(&agent.address, "GET", "/monitor/statistics", "", "").await.1;
    assert!(statistics.contains("net_tx_packets"), "{statistics}");
    // An agent after it knows, and takes it back.
    agent.kill();
    let agent = machine.start(&master, dir.path(), &[]);
    let shown = http(&agent.address, "GET", "/containers", "", "").await.1;
    assert!(shown.contains(ip), "{shown}");
    fs::write(sandbox.join("go"), "").unwrap();
    let status = master.update("t", TaskState::TaskFinished).await;
    assert_eq!(addresses(&status), given);
    assert!(fs::read_to_string(sandbox.join("stdout")).unwrap().ends_with("0.0.0.0\n"));
    until("its network goes", || left(dir.path()).is_empty() && machine.leases().is_empty()).await;
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&dir.path().display().to_string()), "{mounts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_of_containers_that_nobody_knows_are_taken_back() {
    let Some(machine) = Machine::new("unknown networks", 2) else { return };
    let (master, dir) = (Master::start().await, WorkDir::new());
    let agent = machine.start(&master, dir.path(), &[]);
    master.launch(joining(task("t", "sleep 1000"), ONE));
    master.update("t", TaskState::TaskRunning).await;
    assert_eq!((left(dir.path()).len(), machine.leases().len()), (1, 1));
    agent.kill();
    fs::rename(dir.path().join("log"), dir.path().join("log-that-was-lost")).unwrap();
    let master = Master::start().await;
    let _agent = machine.start(&master, dir.path(), &[]);
    assert_eq!((left(dir.path()), machine.leases()), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_are_told_what_the_task_asks_for_and_what_they_say_is_told() {
    let Some(machine) = Machine::new("plugins", 3) else { return };
    let (master, dir) = (Master::start().await, WorkDir::new());
    machine.noting(
        r#"[ -e fail ] && { echo '{"code": 7, "msg": "no room"}'; exit 1; }
        echo '{"ips": [{"address": "10.9.8.7/24"}, {"address": "fd00::7/64"}]}'"#,
    );
    let agent = machine.start(&master, dir.path(), &[]);
    let asked = r#""network_infos": [{"name": "noted", "labels": {"labels": [{"key": "k", "value": "v"}]},
        "port_mappings": [{"host_port": 31000, "container_port": 80, "protocol": "tcp"}]}]"#;
    master.launch(joining(task("t", "true"), asked));
    let status = master.update("t", TaskState::TaskFinished).await;
    assert_eq!(addresses(&status), ["10.9.8.7", "fd00::7"]);
    let read = |name: &str| fs::read_to_string(machine.configs.path().join(name)).unwrap();
    let told: serde_json::Value = serde_json::from_str(&read("ADD.eth0.json")).unwrap();
    let info = &told["args"]["org.apache.mesos"]["network_info"];
    assert_eq!((&info["name"], &info["port_mappings"][0]["host_port"]), (&"noted".into(), &31000.into()));
    assert_eq!(info["labels"]["labels"][0]["key"], "k");
    let env = read("ADD.eth0.env");
    for line in
        ["CNI_COMMAND=ADD", "CNI_IFNAME=eth0", &format!("CNI_NETNS={}", dir.path().display()), "CNI_CONTAINERID="]
    {
        assert!(env.contains(line), "{line}: {env}");
    }
    until("it leaves", || left(dir.path()).is_empty()).await;
    let told: serde_json::Value = serde_json::from_str(&read("DEL.eth0.json")).unwrap();
    assert_eq!(told["prevResult"]["ips"][0]["address"], "10.9.8.7/24");
    fs::write(machine.configs.path().join("fail"), "").unwrap();
    for (id, more, why) in [
        ("fails", asked, "failed: no room"),
        ("unknown", r#""network_infos": [{"name": "none"}]"#, "Unknown CNI network 'none'"),
        ("twice", r#""network_infos": [{"name": "one"}, {"name": "one"}]"#, "'one' multiple times"),
        ("named", r#""hostname": "h""#, "a hostname needs a network"),
        ("odd", r#""network_infos": [{"name": "one"}], "hostname": "a b""#, "is no hostname"),
    ] {
        master.launch(joining(task(id, "true"), more));
        let status = master.update(id, TaskState::TaskFailed).await;
        assert!(status.message().contains(why), "{id}: {}", status.message());
    }
    fs::remove_file(machine.configs.path().join("fail")).unwrap();
    drop(agent);
    // What failed to be taken back then is at the next start.
    let _agent = machine.start(&master, dir.path(), &[]);
    assert_eq!((left(dir.path()), machine.leases()), (vec![], vec![]));
}

/// What plugins say comes first, then what the agent has for a network, then what it has for all others.
#[tokio::test(flavor = "multi_thread")]
async fn names_are_looked_for_as_the_agent_has_it_where_plugins_do_not_say_it() {
    let Some(machine) = Machine::new("names", 6) else { return };
    let (master, dir) = (Master::start().await, WorkDir::new());
    machine.noting(r#"echo '{"ips": [{"address": "10.9.8.7/24"}], "dns": {}}'"#);
    let other = r#"{"cniVersion": "0.3.1", "name": "other", "type": "noting"}"#;
    fs::write(machine.configs.path().join("other.conf"), other).unwrap();
    let dns = r#"--default_container_dns={"mesos": [
        {"network_mode": "CNI", "network_name": "noted", "dns": {"nameservers": ["10.0.0.1"], "domain": "d", "options": ["rotate"]}},
        {"network_mode": "CNI", "dns": {"nameservers": ["10.0.0.2"], "search": ["all"]}}]}"#;
    let agent = machine.start(&master, dir.path(), &[dns]);
    for (id, networks, expected) in [
        ("named", r#"{"name": "noted"}"#, "domain d\noptions rotate\nnameserver 10.0.0.1\n"),
        ("others", r#"{"name": "other"}"#, "search all\nnameserver 10.0.0.2\n"),
        ("said", r#"{"name": "one"}"#, "search here\nnameserver 10.1.2.3\n"),
        (
            "several",
            r#"{"name": "noted"}, {"name": "one"}"#,
            "domain d\nsearch here\noptions rotate\nnameserver 10.0.0.1\nnameserver 10.1.2.3\n",
        ),
    ] {
        master.launch(joining(task(id, "cat /etc/resolv.conf"), &format!(r#""network_infos": [{networks}]"#)));
        master.update(id, TaskState::TaskFinished).await;
        assert_eq!(fs::read_to_string(agent.sandbox(id).join("stdout")).unwrap(), expected, "{id}");
    }
    until("their networks go", || left(dir.path()).is_empty()).await;
}

/// Servers of a task are where the task is, and nobody on the machine.
#[tokio::test(flavor = "multi_thread")]
async fn checks_are_made_in_the_network_of_their_task() {
    let Some(machine) = Machine::new("checks", 5) else { return };
    let (master, dir) = (Master::start().await, WorkDir::new());
    let agent = machine.start(&master, dir.path(), &[]);
    // A port that nobody has here.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let script = format!("echo hello > index.html; exec busybox httpd -f -p 127.0.0.1:{port}");
    let script = if Command::new("busybox").arg("true").status().is_ok_and(|status| status.success()) {
        script
    } else {
        eprintln!("NOT TESTED (checks): there is no busybox");
        return;
    };
    for (id, check) in [
        ("http", format!(r#"{{"type": "HTTP", "http": {{"port": {port}, "path": "/index.html"}}"#)),
        ("tcp", format!(r#"{{"type": "TCP", "tcp": {{"port": {port}}}"#)),
        (
            "command",
            format!(
                r#"{{"type": "COMMAND", "command": {{"value": "busybox wget -q -O - http://127.0.0.1:{port}/index.html"}}"#
            ),
        ),
    ] {
        let text = format!(r#"{check}, "delay_seconds": 0, "interval_seconds": 0.1, "grace_period_seconds": 60}}"#);
        let mut task = joining(task(id, &script), ONE);
        let health: v1::HealthCheck = api::json::from_slice(text.as_bytes()).unwrap();
        task.health_check = Some(Box::new(health));
        master.launch(task);
        master
            .wait(&format!("{id} is healthy"), |known| {
                known.statuses().find(|status| status.task_id.value == id && status.healthy == Some(true))
            })
            .await;
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
        master.kill(id);
        master.update(id, TaskState::TaskKilled).await;
        until("its network goes", || left(dir.path()).is_empty()).await;
    }
    drop(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_a_network_says_what_is_missing() {
    let Some(machine) = Machine::new("flags", 4) else { return };
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for (flag, why) in [
        ("--network_cni_config_dir=/etc", "Missing required '--network_cni_plugins_dir' flag"),
        ("--network_cni_plugins_dir=/etc", "Missing required '--network_cni_config_dir' flag"),
        (
            r#"--default_container_dns={"mesos": [{"network_mode": "HOST", "dns": {}}]}"#,
            "(HOST) are looked for as the machine does",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_meseta-agent"))
            .args(["--master=127.0.0.1:1", "--ip=127.0.0.1", "--port=0", "--isolation=network/cni", flag])
            .arg(format!("--cgroups_root={}", machine.groups.root))
            .arg(format!("--work_dir={}", dir.path().display()))
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && stderr.contains(why), "{stderr}");
    }
}

/// With users of its own, root of a container may change its network, and no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_is_of_the_users_of_its_container() {
    let Some(machine) = Machine::new("networks of users", 9) else { return };
    let (master, dir) = (Master::start().await, WorkDir::new());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let isolation = "--isolation=network/cni,filesystem/linux,namespaces/pid,namespaces/user";
    let agent = machine.start(&master, dir.path(), &[isolation]);
    let script = "id -u; hostname; ip address add 10.99.99.99/32 dev lo && echo added; ip link set lo down && ip link set lo up && echo raised; \
                  python3 -c 'import socket; s = socket.socket(); s.bind((\"\", 80)); print(\"bound\")'; \
                  hostname other; hostname; touch ready; while [ ! -e go ]; do sleep 0.02; done";
    master.launch(joining(task("t", script), &format!(r#"{ONE}, "hostname": "web-1""#)));
    let status = master.update("t", TaskState::TaskRunning).await;
    assert_eq!(addresses(&status), machine.leases());
    let sandbox = agent.sandbox("t");
    until("it is ready", || sandbox.join("ready").exists()).await;
    let read = |name: &str| fs::read_to_string(sandbox.join(name)).unwrap();
    assert_eq!(read("stdout"), "0\nweb-1\nadded\nraised\nbound\nother\n", "{}", read("stderr"));
    // The machine's is none of a container's.
    let script = "ip link set lo down || echo no; hostname other || echo no";
    master.launch(task("machine", script));
    master.update("machine", TaskState::TaskFinished).await;
    assert_eq!(fs::read_to_string(agent.sandbox("machine").join("stdout")).unwrap(), "no\nno\n");
    agent.kill();
    let agent = machine.start(&master, dir.path(), &[isolation]);
    fs::write(sandbox.join("go"), "").unwrap();
    master.update("t", TaskState::TaskFinished).await;
    until("its network goes", || left(dir.path()).is_empty() && machine.leases().is_empty()).await;
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&dir.path().display().to_string()), "{mounts}");
    drop(agent);
}
