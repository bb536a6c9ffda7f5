//! Clients whose machine is gone without a word: nothing that a master sends to them is ever answered. Their frameworks
//! must not hold offers, and nobody's stream memory, for as long as the kernel would believe in them.

use std::fs::File;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use proptests::cluster::binary;
use proptests::framework::{Framework, info};
use proptests::http::{self, Request};
use proptests::wait;
use proptests::watcher::Watcher;

const MASTER: &str = "10.98.0.1:5050";
/// A minute, and a little for a busy machine.
const NOTICED_WITHIN: Duration = Duration::from_secs(70);

/// A process that ends with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(words: &str) {
    let mut words = words.split(' ');
    let output = Command::new(words.next().expect("a program")).args(words).stdin(Stdio::null()).output();
    let output = output.expect("a program that starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn get(path: &str) -> Option<serde_json::Value> {
    let address: SocketAddr = MASTER.parse().expect("an address");
    let answer = http::send(address, &Request::get(path)).ok().filter(|answer| answer.status() == 200)?;
    Some(answer.json())
}

/// In a thread of its own, whose networks go with it.
fn vanish() {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        eprintln!("left out: only root may make networks ({error})");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let far = Ends(Command::new("unshare").args(["--net", "sleep", "300"]).spawn().expect("unshare starts"));
    let namespace = format!("/proc/{}/ns/net", far.0.id());
    let mine = std::fs::read_link("/proc/thread-self/ns/net").expect("a namespace");
    wait::until("a namespace", Duration::from_secs(10), || {
        std::fs::read_link(&namespace).is_ok_and(|its| its != mine).then_some(())
    });
    run("ip link set lo up");
    run(&format!("ip link add v0 type veth peer name v1 netns {}", far.0.id()));
    run("ip addr add 10.98.0.1/24 dev v0");
    run("ip link set v0 up");
    let there = |words: &str| run(&format!("nsenter --net={namespace} {words}"));
    there("ip link set lo up");
    there("ip addr add 10.98.0.2/24 dev v1");
    there("ip link set v1 up");
    let log = File::create(dir.path().join("log")).expect("a file");
    let work_dir = format!("--work_dir={}", dir.path().join("m").display());
    let master = Command::new(binary("meseta-master"))
        .args([&work_dir, "--ip=10.98.0.1", "--port=5050"])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    let _master = Ends(master.expect("a master starts"));
    wait::until("a master that serves", Duration::from_secs(60), || get("/state"));

    let clients = thread::spawn({
        let namespace = File::open(&namespace).expect("a namespace");
        move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("another network");
            let address: SocketAddr = MASTER.parse().expect("an address");
            let framework = Framework::subscribe(address, &info("away"));
            let watchers: Vec<Watcher> = (0..5).map(|_| Watcher::subscribe(address, None)).collect();
            (framework, watchers)
        }
    });
    let _clients = clients.join().expect("clients");
    let frameworks = get("/frameworks").expect("frameworks");
    assert_eq!(frameworks["frameworks"][0]["connected"], true);
    there("ip route add blackhole 10.98.0.1/32");
    let began = Instant::now();
    wait::until("the vanished clients to be noticed", NOTICED_WITHIN + Duration::from_secs(30), || {
        let (frameworks, metrics) = (get("/frameworks")?, get("/metrics/snapshot")?);
        let away = frameworks["frameworks"][0]["connected"] == false;
        (away && metrics["master/operator_event_stream_subscribers"] == 0.0).then_some(())
    });
    println!("vanished clients are noticed after {:?}", began.elapsed());
    assert!(began.elapsed() < NOTICED_WITHIN, "{:?}", began.elapsed());
}

#[test]
fn clients_that_vanish_are_noticed_within_a_minute() {
    thread::spawn(vanish).join().expect("no failure");
}
