//! `network/port_mapping`: tasks of real agents with ports of the machine's address. The machine is a network of the test's own, with an
//! interface that leads to another one, which is the world.

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use api::v1::{self, TaskState};
use common::groups::Place;
use common::{Master, RealAgent, default_executor, number, task, until};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

/// Longer than an answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
const ADDRESS: &str = "10.77.0.2";
const WORLD: &str = "10.77.0.1";
const RESOURCES: &str = "--resources=cpus:4;mem:1024;disk:1024;ports:[31000-31100];ephemeral_ports:[20480-24575]";

/// A machine and the world around it.
struct Machine {
    groups: Place,
    name: String,
    world: String,
}

fn run(program: &str, words: &str) -> String {
    let output = Command::new(program).args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "{program} {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

impl Machine {
    /// None is told to who reads the output, not to libtest.
    fn new(what: &str) -> Option<Machine> {
        if !nix::unistd::geteuid().is_root() || Command::new("ip").arg("-V").output().is_err() {
            eprintln!("NOT TESTED ({what}): networks need root, and ip and tc of iproute2");
            return None;
        }
        let groups = Place::all(what).into_iter().next()?;
        let name = format!("mst-{what}-{}", std::process::id());
        let machine = Machine { groups, world: format!("{name}-w"), name };
        let (here, world) = (&machine.name, &machine.world);
        run("ip", &format!("netns add {here}"));
        run("ip", &format!("netns add {world}"));
        run("ip", &format!("-n {here} link add up0 type veth peer name down0 netns {world}"));
        run("ip", &format!("-n {here} link set lo up"));
        for (network, link, address) in [(here, "up0", ADDRESS), (world, "down0", WORLD)] {
            run("ip", &format!("-n {network} address add {address}/24 dev {link}"));
            run("ip", &format!("-n {network} link set {link} up"));
        }
        run("ip", &format!("-n {here} route add default via {WORLD}"));
        Some(machine)
    }

    fn network(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    fn world(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.world)
    }

    fn master(&self) -> Master {
        Master::start_on(within(&self.network(), || TcpListener::bind("127.0.0.1:0").unwrap()))
    }

    fn flags(&self, more: &[&str]) -> Vec<String> {
        let own = self
            .groups
            .flags()
            .into_iter()
            .chain(["--isolation=network/port_mapping".to_owned(), RESOURCES.to_owned()]);
        let is_other = |flag: &String| !more.iter().any(|one| one.split('=').next() == flag.split('=').next());
        own.filter(is_other).chain(more.iter().map(|flag| (*flag).to_owned())).collect()
    }

    fn start(&self, master: &Master, work_dir: &Path, more: &[&str]) -> RealAgent {
        let flags = self.flags(more);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        RealAgent::start_within(&self.network(), &master.address, work_dir, &flags)
    }

    /// What an agent says that does not start.
    fn refused(&self, work_dir: &Path, more: &[&str]) -> String {
        let output = Command::new("nsenter")
            .arg(format!("--net={}", self.network().display()))
            .arg(env!("CARGO_BIN_EXE_meseta-agent"))
            .args(["--master=127.0.0.1:1", "--ip=127.0.0.1", "--port=0"])
            .arg(format!("--work_dir={}", work_dir.display()))
            .args(self.flags(more))
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }

    /// Links of containers, and filters on the machine's.
    fn left(&self) -> (Vec<String>, String) {
        let links = run("ip", &format!("-n {} -o link show", self.name));
        let names =
            links.lines().filter_map(|line| line.split(": ").nth(1)).map(|name| name.split('@').next().unwrap());
        let names = names.filter(|name| name.starts_with("meseta")).map(str::to_owned).collect();
        let filters = ["up0", "lo"].map(|link| run("tc", &format!("-n {} filter show dev {link} ingress", self.name)));
        (names, filters.concat())
    }

    fn has_nothing_left(&self) -> bool {
        self.left() == (Vec::new(), String::new())
    }

    /// What a container uses, by its executor.
    fn statistics(&self, agent: &RealAgent, executor_id: &str) -> Value {
        let text = get(&self.network(), &agent.address, "/monitor/statistics");
        let all: Value = serde_json::from_str(&text).expect(&text);
        let all = all.as_array().unwrap();
        all.iter().find(|one| one["executor_id"] == executor_id).map_or(Value::Null, |one| one["statistics"].clone())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for name in [&self.name, &self.world] {
            let _ = Command::new("ip").args(["netns", "delete", name]).output();
        }
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
        for container in fs::read_dir(self.path().join("meta/port_mapping")).into_iter().flatten().flatten() {
            let _ = nix::mount::umount2(&container.path().join("ns"), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// Does something in a network.
fn within<T: Send>(network: &Path, step: impl FnOnce() -> T + Send) -> T {
    let network = File::open(network).unwrap();
    std::thread::scope(|scope| {
        let done = scope.spawn(move || {
            setns(network, CloneFlags::CLONE_NEWNET).unwrap();
            step()
        });
        done.join().unwrap()
    })
}

/// Says a word to everybody who comes there, until the test ends.
fn serve(network: &Path, address: &str, word: &'static str) {
    let listener = within(network, || TcpListener::bind(address).unwrap());
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = client.write_all(word.as_bytes());
        }
    });
}

/// What is said there, if somebody is.
fn reach(network: &Path, address: &str) -> Option<String> {
    let address: SocketAddr = address.parse().unwrap();
    let mut socket = within(network, || TcpStream::connect_timeout(&address, PATIENCE)).ok()?;
    let mut said = String::new();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.read_to_string(&mut said).ok()?;
    Some(said)
}

fn get(network: &Path, address: &str, path: &str) -> String {
    let mut socket = within(network, || TcpStream::connect(address).unwrap());
    write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

fn ports(ranges: &[(u64, u64)]) -> v1::Resource {
    let range = ranges.iter().map(|(begin, end)| v1::value::Range { begin: *begin, end: *end }).collect();
    v1::Resource {
        name: "ports".into(),
        r#type: v1::value::Type::Ranges as i32,
        ranges: Some(v1::value::Ranges { range }),
        ..Default::default()
    }
}

/// A task that waits for a file `go`, with these ports.
fn waiting(id: &str, ranges: &[(u64, u64)]) -> v1::TaskInfo {
    let script = "cat /proc/sys/net/ipv4/ip_local_port_range > range; echo $$ > draft; mv draft pid; \
                  while [ ! -e go ]; do sleep 0.02; done";
    let mut task = task(id, script);
    task.resources.extend((!ranges.is_empty()).then(|| ports(ranges)));
    task
}

/// Launches it, and gives the network that it is in.
async fn launched(master: &Master, agent: &RealAgent, id: &str, ranges: &[(u64, u64)]) -> PathBuf {
    master.launch(waiting(id, ranges));
    master.update(id, TaskState::TaskRunning).await;
    network_of(&agent.sandbox(id)).await
}

async fn network_of(sandbox: &Path) -> PathBuf {
    let pid = number(sandbox.join("pid")).await;
    format!("/proc/{pid}/ns/net").into()
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_have_their_ports_of_the_machine_and_no_others() {
    let Some(machine) = Machine::new("ports") else { return };
    let (master, dir) = (machine.master(), WorkDir::new());
    let agent = machine.start(&master, dir.path(), &[]);
    let one = launched(&master, &agent, "one", &[(31000, 31000)]).await;
    let two = launched(&master, &agent, "two", &[(31005, 31006), (31010, 31010)]).await;
    let (host, world) = (machine.network(), machine.world());
    assert_eq!(fs::read_to_string(agent.sandbox("one").join("range")).unwrap(), "20480\t21503\n");
    assert_eq!(fs::read_to_string(agent.sandbox("two").join("range")).unwrap(), "21504\t22527\n");
    serve(&one, "0.0.0.0:31000", "one");
    serve(&two, "0.0.0.0:31006", "two");
    serve(&two, "127.0.0.1:31010", "two inside");
    // Nobody gave it these.
    serve(&one, "0.0.0.0:31001", "stolen");
    serve(&one, "0.0.0.0:31005", "stolen");
    serve(&host, "0.0.0.0:22", "machine");
    serve(&world, "0.0.0.0:80", "world");
    for (from, to, who) in [
        (&world, "10.77.0.2:31000", Some("one")),
        (&world, "10.77.0.2:31006", Some("two")),
        (&world, "10.77.0.2:22", Some("machine")),
        (&world, "10.77.0.2:31001", None),
        (&world, "10.77.0.2:31005", None),
        (&host, "10.77.0.2:31000", Some("one")),
        (&host, "127.0.0.1:31010", Some("two inside")),
        (&host, "127.0.0.1:31001", None),
        (&one, "10.77.0.2:31006", Some("two")),
        (&one, "127.0.0.1:31010", Some("two inside")),
        (&one, "127.0.0.1:31000", Some("one")),
        (&one, "10.77.0.2:31000", Some("one")),
        (&one, "10.77.0.2:22", Some("machine")),
        (&one, "127.0.0.1:22", Some("machine")),
        (&one, "127.0.0.53:22", Some("machine")),
        (&one, "10.77.0.1:80", Some("world")),
        (&two, "127.0.0.1:31000", Some("one")),
        (&two, "10.77.0.2:31001", None),
    ] {
        assert_eq!(reach(from, to).as_deref(), who, "{to} from {}", from.display());
    }
    // What it sends from a port that is not its own, or as somebody else, goes nowhere; what it sends after that arrives.
    let heard = within(&world, || UdpSocket::bind("10.77.0.1:9").unwrap());
    heard.set_read_timeout(Some(PATIENCE)).unwrap();
    within(&one, || {
        let bound = |address: &str| UdpSocket::bind(address).unwrap();
        bound("10.77.0.2:31001").send_to(b"stolen", "10.77.0.1:9").unwrap();
        bound("10.77.0.2:31006").send_to(b"stolen", "10.77.0.1:9").unwrap();
        run("ip", "address add 10.77.0.3/24 dev up0");
        bound("10.77.0.3:31000").send_to(b"forged", "10.77.0.1:9").unwrap();
        bound("10.77.0.2:31000").send_to(b"own", "10.77.0.1:9").unwrap();
    });
    let mut buffer = [0; 16];
    let (size, from) = heard.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..size], from), (&b"own"[..], "10.77.0.2:31000".parse().unwrap()));
    within(&one, || run("ip", "address delete 10.77.0.3/24 dev up0"));
    let statistics = machine.statistics(&agent, "one");
    let count = |name: &str| statistics[name].as_u64().unwrap_or_else(|| panic!("{name}: {statistics}"));
    assert!(count("net_rx_packets") > 10 && count("net_tx_packets") > 10, "{statistics}");
    assert!(count("net_rx_bytes") > 500 && count("net_tx_bytes") > 500, "{statistics}");
    assert_eq!((count("net_rx_errors"), count("net_tx_errors")), (0, 0));
    assert_eq!(
        (&statistics["net_ephemeral_ports"]["begin"], &statistics["net_ephemeral_ports"]["end"]),
        (&20480.into(), &21503.into())
    );
    assert!(statistics["net_snmp_statistics"].is_null(), "{statistics}");
    // While there is no agent, and with the next one, it is all as it was.
    agent.kill();
    assert_eq!(reach(&world, "10.77.0.2:31000").as_deref(), Some("one"));
    let agent = machine.start(&master, dir.path(), &[]);
    for (to, who) in [("10.77.0.2:31000", Some("one")), ("10.77.0.2:31006", Some("two")), ("10.77.0.2:31001", None)] {
        assert_eq!(reach(&world, to).as_deref(), who, "{to}");
    }
    let after = machine.statistics(&agent, "one");
    assert!(after["net_rx_packets"].as_u64() > Some(count("net_rx_packets")), "{after}");
    launched(&master, &agent, "three", &[(31020, 31020)]).await;
    assert_eq!(fs::read_to_string(agent.sandbox("three").join("range")).unwrap(), "22528\t23551\n");
    // Of each there is nothing left when it is over.
    for id in ["one", "three"] {
        fs::write(agent.sandbox(id).join("go"), "").unwrap();
        master.update(id, TaskState::TaskFinished).await;
    }
    until("their links go", || machine.left().0 == ["meseta21504"]).await;
    until("their folders go", || fs::read_dir(dir.path().join("meta/port_mapping")).unwrap().count() == 1).await;
    assert_eq!(reach(&world, "10.77.0.2:31000"), None);
    assert_eq!(reach(&world, "10.77.0.2:31006").as_deref(), Some("two"));
    fs::write(agent.sandbox("two").join("go"), "").unwrap();
    master.update("two", TaskState::TaskFinished).await;
    until("all of it goes", || fs::read_dir(dir.path().join("meta/port_mapping")).unwrap().count() == 0).await;
    assert!(machine.has_nothing_left(), "{:?}", machine.left());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&dir.path().display().to_string()), "{mounts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kernel_counts_is_told_and_rates_are_limited() {
    let Some(machine) = Machine::new("counts") else { return };
    let (master, dir) = (machine.master(), WorkDir::new());
    let flags = [
        "--network_enable_socket_statistics_summary",
        "--network_enable_socket_statistics_details",
        "--network_enable_snmp_statistics",
        "--egress_rate_limit_per_container=2MB",
    ];
    let agent = machine.start(&master, dir.path(), &flags);
    let network = launched(&master, &agent, "one", &[(31000, 31000)]).await;
    let listener = within(&network, || TcpListener::bind("0.0.0.0:31000").unwrap());
    let mut client = within(&machine.world(), || TcpStream::connect("10.77.0.2:31000").unwrap());
    let (mut server, _) = listener.accept().unwrap();
    let mut buffer = [0; 5];
    server.write_all(b"hello").unwrap();
    client.read_exact(&mut buffer).unwrap();
    client.write_all(b"hello").unwrap();
    server.read_exact(&mut buffer).unwrap();
    let told = machine.statistics(&agent, "one");
    // One that listens, and one that is connected.
    assert_eq!(told["net_tcp_active_connections"], 2.0, "{told}");
    assert_eq!(told["net_tcp_time_wait_connections"], 0.0, "{told}");
    for name in ["net_tcp_rtt_microsecs_p50", "net_tcp_rtt_microsecs_p99"] {
        assert!(told[name].as_f64() > Some(0.0), "{name}: {told}");
    }
    let snmp = &told["net_snmp_statistics"];
    assert_eq!(snmp["tcp_stats"]["PassiveOpens"], 1, "{snmp}");
    assert!(snmp["ip_stats"]["InReceives"].as_u64() > Some(3), "{snmp}");
    assert_eq!(told["net_tx_rate_limit"], 2 << 20, "{told}");
    let queues = told["net_traffic_control_statistics"].as_array().unwrap();
    let limit = queues.iter().find(|one| one["id"] == "bw_limit").unwrap_or_else(|| panic!("{told}"));
    assert!(limit["packets"].as_u64() > Some(1) && limit["bytes"].as_u64() > Some(100), "{limit}");
    // Twice what goes at once waits.
    let sending = std::thread::spawn(move || server.write_all(&vec![7; 1 << 20]).map(|()| server));
    let mut received = vec![0; 1 << 20];
    client.read_exact(&mut received).unwrap();
    drop(sending.join().unwrap().unwrap());
    let told = machine.statistics(&agent, "one");
    let limit = told["net_traffic_control_statistics"].as_array().unwrap().iter().find(|one| one["id"] == "bw_limit");
    assert!(limit.unwrap()["overlimits"].as_u64() > Some(0), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_follow_the_tasks_of_an_executor() {
    let Some(machine) = Machine::new("follow") else { return };
    let (master, dir) = (machine.master(), WorkDir::new());
    let agent = machine.start(&master, dir.path(), &[]);
    master.launch_group("e", vec![waiting("first", &[(31000, 31000)])]);
    master.update("first", TaskState::TaskRunning).await;
    let tasks = agent.sandbox("e").join("tasks");
    let network = network_of(&tasks.join("first")).await;
    serve(&network, "0.0.0.0:31000", "first");
    serve(&network, "0.0.0.0:31001", "second");
    let world = machine.world();
    assert_eq!(reach(&world, "10.77.0.2:31000").as_deref(), Some("first"));
    assert_eq!(reach(&world, "10.77.0.2:31001"), None);
    master.launch_group_on(default_executor("e"), vec![waiting("second", &[(31001, 31001)])]);
    master.update("second", TaskState::TaskRunning).await;
    let beside = network_of(&tasks.join("second")).await;
    assert_eq!(fs::read_link(&network).unwrap(), fs::read_link(&beside).unwrap());
    until("its port is there", || reach(&world, "10.77.0.2:31001").as_deref() == Some("second")).await;
    assert_eq!(reach(&beside, "127.0.0.1:31000").as_deref(), Some("first"));
    fs::write(tasks.join("first").join("go"), "").unwrap();
    master.update("first", TaskState::TaskFinished).await;
    until("its port goes", || reach(&world, "10.77.0.2:31000").is_none()).await;
    assert_eq!(reach(&world, "10.77.0.2:31001").as_deref(), Some("second"));
    fs::write(tasks.join("second").join("go"), "").unwrap();
    master.update("second", TaskState::TaskFinished).await;
    until("all of it goes", || machine.has_nothing_left()).await;
}

/// Servers of a task are where the task is.
#[tokio::test(flavor = "multi_thread")]
async fn checks_are_made_in_the_network_of_their_task() {
    let Some(machine) = Machine::new("checked") else { return };
    let (master, dir) = (machine.master(), WorkDir::new());
    let agent = machine.start(&master, dir.path(), &[]);
    for (id, check) in [
        ("tcp", r#"{"type": "TCP", "tcp": {"port": 31050}"#.to_owned()),
        ("command", r#"{"type": "COMMAND", "command": {"value": "readlink /proc/self/ns/net > ../checked; grep -q : ../checked"}"#.to_owned()),
    ] {
        let mut task = waiting(id, &[(31050, 31050)]);
        let text = format!(r#"{check}, "delay_seconds": 0, "interval_seconds": 0.1, "grace_period_seconds": 60}}"#);
        let text = text.replace("../checked", &dir.path().join("checked").display().to_string());
        let health: v1::HealthCheck = api::json::from_slice(text.as_bytes()).unwrap();
        task.health_check = Some(Box::new(health));
        master.launch(task);
        master.update(id, TaskState::TaskRunning).await;
        let network = network_of(&agent.sandbox(id)).await;
        serve(&network, "127.0.0.1:31050", "checked");
        let is_healthy = |status: &v1::TaskStatus| status.task_id.value == id && status.healthy == Some(true);
        master.wait(&format!("{id} is healthy"), |known| known.statuses().find(is_healthy)).await;
        if id == "command" {
            let seen = fs::read_to_string(dir.path().join("checked")).unwrap();
            assert_eq!(Path::new(seen.trim()), fs::read_link(&network).unwrap());
        }
        fs::write(agent.sandbox(id).join("go"), "").unwrap();
        master.update(id, TaskState::TaskFinished).await;
    }
    until("all of it goes", || machine.has_nothing_left()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_of_containers_that_nobody_knows_are_taken_back() {
    let Some(machine) = Machine::new("strays") else { return };
    let (first, dir) = (machine.master(), WorkDir::new());
    let agent = machine.start(&first, dir.path(), &[]);
    launched(&first, &agent, "one", &[(31000, 31000)]).await;
    assert_eq!(machine.left().0, ["meseta20480"]);
    agent.kill();
    fs::rename(dir.path().join("log"), dir.path().join("log-that-was-lost")).unwrap();
    let master = machine.master();
    let agent = machine.start(&master, dir.path(), &[]);
    assert!(machine.has_nothing_left(), "{:?}", machine.left());
    // And those of a work_dir that is gone.
    launched(&master, &agent, "two", &[(31000, 31000)]).await;
    assert_eq!(machine.left().0, ["meseta20480"]);
    agent.kill();
    let (last, other) = (machine.master(), WorkDir::new());
    let _agent = machine.start(&last, other.path(), &[]);
    assert!(machine.has_nothing_left(), "{:?}", machine.left());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_give_ports_says_why() {
    let Some(machine) = Machine::new("refused") else { return };
    let (master, dir) = (machine.master(), WorkDir::new());
    let with = |ports: &str| format!("--resources=cpus:1;mem:64;disk:64;{ports}");
    let own = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let own = own.split_whitespace().next().unwrap().to_owned();
    for (flag, why) in [
        (with("ports:[31000-31100]"), "it needs ephemeral_ports in --resources"),
        (with("ports:[31000-31100];ephemeral_ports:[31100-33000]"), "meet the ports in --resources: [31000-31100]"),
        (with("ephemeral_ports:[1000-5000]"), "meet the well-known ports"),
        (with(&format!("ports:[31000-31100];ephemeral_ports:[31200-{own}]")), "meet those that the machine uses"),
        (with("ephemeral_ports:[70000-80000]"), "a port is no more than 65535"),
        ("--ephemeral_ports_per_container=1000".to_owned(), "must be a power of 2"),
        ("--ephemeral_ports_per_container=8192".to_owned(), "have no 8192 in a row"),
        ("--eth0_name=none0".to_owned(), "the interface 'none0' of --eth0_name does not exist"),
        ("--eth0_name=lo".to_owned(), "'lo' is to be the public interface"),
        ("--egress_unique_flow_per_container".to_owned(), "it needs flows of fq_codel (CONFIG_NET_SCH_FQ_CODEL)"),
        ("--isolation=network/cni,network/port_mapping".to_owned(), "each give containers a network"),
        ("--egress_rate_per_cpu=auto".to_owned(), "is not supported by this release"),
    ] {
        let said = machine.refused(dir.path(), &[&flag]);
        assert!(said.contains(why), "{flag}: {said}");
    }
    run("ip", &format!("-n {} route delete default", machine.name));
    assert!(machine.refused(dir.path(), &[]).contains("there is no default route"));
    run("ip", &format!("-n {} route add default via {WORLD}", machine.name));
    // One agent disposes of the ports of an interface.
    let agent = machine.start(&master, dir.path(), &[]);
    let (other, groups) = (WorkDir::new(), Place::all("refused-other"));
    let said = machine.refused(other.path(), &[&format!("--cgroups_root={}", groups[0].root)]);
    assert!(said.contains("another agent gives out ports of the interface 'up0'"), "{said}");
    // So many have room; the next one is told that there is none.
    for n in 0..4 {
        launched(&master, &agent, &format!("t{n}"), &[]).await;
    }
    master.launch(waiting("late", &[]));
    let status = master.update("late", TaskState::TaskFailed).await;
    assert!(status.message().contains("all ephemeral ports are given to other containers"), "{}", status.message());
    fs::write(agent.sandbox("t2").join("go"), "").unwrap();
    master.update("t2", TaskState::TaskFinished).await;
    until("its link goes", || machine.left().0.len() == 3).await;
    until("its folder goes", || fs::read_dir(dir.path().join("meta/port_mapping")).unwrap().count() == 3).await;
    // Nobody is offered them.
    let known = master.known.lock();
    let names = known.registers[0].agent_info.resources.iter().map(|one| one.name.as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["cpus", "mem", "disk", "ports"]);
}
