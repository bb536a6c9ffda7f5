//! What whoever looks for the cause of slowness gets: profiles of the processor's time, and spans for a collector.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use proptests::cluster::{Cluster, Plan, READY, binary};
use proptests::http::{self, Request};
use proptests::wait;

/// A collector that keeps the bodies that it is sent.
struct Collector {
    address: SocketAddr,
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Collector {
    fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let bodies: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let kept = bodies.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let kept = kept.clone();
                std::thread::spawn(move || serve(socket, &kept));
            }
        });
        Collector { address, bodies }
    }

    fn has(&self, text: &str) -> bool {
        let bodies = self.bodies.lock().expect("the bodies");
        bodies.iter().any(|body| body.windows(text.len()).any(|part| part == text.as_bytes()))
    }
}

fn serve(mut socket: TcpStream, kept: &Mutex<Vec<Vec<u8>>>) -> Option<()> {
    let mut buffer = Vec::new();
    let more = |buffer: &mut Vec<u8>, socket: &mut TcpStream| {
        let mut part = [0; 4096];
        let count = socket.read(&mut part).ok().filter(|count| *count > 0)?;
        buffer.extend_from_slice(&part[..count]);
        Some(())
    };
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|part| part == b"\r\n\r\n") {
                break at + 4;
            }
            more(&mut buffer, &mut socket)?;
        };
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        assert!(head.starts_with("post /v1/traces ") && head.contains("application/x-protobuf"), "{head}");
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: "))?.trim().parse::<usize>().ok()?;
        while buffer.len() < end + length {
            more(&mut buffer, &mut socket)?;
        }
        kept.lock().ok()?.push(buffer[end..end + length].to_vec());
        buffer.drain(..end + length);
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
    }
}

fn pause(cluster: &Cluster, why: &str) {
    let call = format!(r#"{{"type":"PAUSE","pause":{{"why":"{why}"}}}}"#);
    let answer = http::send(cluster.address("m0"), &Request::post_json("/brakes", &call)).expect("an answer");
    assert_eq!(answer.status(), 200);
}

#[test]
fn a_collector_gets_spans_and_nobody_waits_for_one_that_is_not_there() {
    let collector = Collector::start();
    let cluster = Plan::new().master_flag(&format!("--otlp_endpoint=http://{}", collector.address)).start();
    pause(&cluster, "once");
    wait::until("spans", READY, || {
        let all = ["meseta-master", "call", "decide", "append", "PAUSE", "service.instance.id"];
        all.iter().all(|text| collector.has(text)).then_some(())
    });
    // The number of the trace is that of the call in the log.
    let told = cluster.get("m0", "/audit");
    let entry = told["done"].as_array().expect("a list").iter().find(|entry| entry["call"] == "PAUSE").expect("it");
    let number = entry["request_id"].as_str().expect("a number");
    let trace: Vec<u8> =
        (0..32).step_by(2).map(|at| u8::from_str_radix(&number[at..at + 2], 16).expect("digits")).collect();
    wait::until("the call, its decision, its record", READY, || {
        let bodies = collector.bodies.lock().expect("the bodies").concat();
        (bodies.windows(16).filter(|part| *part == trace).count() == 3).then_some(())
    });
    let exported = || cluster.get("m0", "/metrics/snapshot")["master/meseta/spans_exported"].as_f64();
    wait::until("counted", READY, || (exported() >= Some(3.0)).then_some(()));

    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let cluster = Plan::new().master_flag(&format!("--otlp_endpoint=http://{nobody}")).start();
    pause(&cluster, "without a collector");
    wait::until("dropped spans", READY, || {
        let dropped = cluster.get("m0", "/metrics/snapshot")["master/meseta/spans_dropped"].as_f64();
        (dropped >= Some(1.0)).then_some(())
    });
}

#[test]
fn a_profile_is_begun_ended_and_part_of_what_debug_writes() {
    let cluster = Plan::new().master_environment("LIBPROCESS_ENABLE_PROFILER", "1").agents(1).start();
    let ask = |name: &str, path: &str| {
        let answer = http::send(cluster.address(name), &Request::get(path)).expect("an answer");
        (answer.status(), answer.body)
    };
    let (status, sentence) = ask("a0", "/profiler/start");
    assert!(status == 400 && String::from_utf8_lossy(&sentence).contains("MESETA_ENABLE_PROFILER=1"));
    assert_eq!(ask("m0", "/profiler/stop"), (400, b"Profiler not running.\n".to_vec()));
    assert_eq!(ask("m0", "/profiler/start"), (200, b"Profiler started.\n".to_vec()));
    assert_eq!(ask("m0", "/profiler/start"), (400, b"Profiler already started.\n".to_vec()));
    (0..200).for_each(|_| drop(cluster.get("m0", "/state")));
    let (status, profile) = ask("m0", "/profiler/stop");
    assert!(status == 200 && profile.windows(11).any(|part| part == b"nanoseconds"), "{status}");
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("bundle.tar.gz");
    let said = Command::new(binary("meseta"))
        .args(["debug", "--profile=1secs", &format!("--master={}", cluster.address("m0"))])
        .arg(&file)
        .output()
        .expect("meseta runs");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let bundle = flate2::read::GzDecoder::new(std::fs::File::open(&file).expect("the bundle"));
    let mut archive = tar::Archive::new(bundle);
    let entries = archive.entries().expect("entries").map(|entry| entry.expect("an entry"));
    let names: Vec<String> = entries.map(|entry| entry.path().expect("a path").display().to_string()).collect();
    assert_eq!(names.iter().filter(|name| name.ends_with("/profile.pb")).count(), 1, "{names:?}");
}
