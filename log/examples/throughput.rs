//! How many records a second a quorum commits on this machine: `throughput [members] [writers] [seconds]`.
//!
//! All members are in this process, with real disks below the current folder and a network in memory.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use event_log::raft::{Committed, Machine, Member, Node, Options, Role, Transport, TransportError, WriteSnapshot};
use event_log::{Header, RawEvent, Record};
use futures_util::future::BoxFuture;

struct Counter(Arc<AtomicU64>);

impl Machine for Counter {
    fn apply(&mut self, entries: Vec<Committed>) {
        self.0.fetch_add(entries.len() as u64, Ordering::Relaxed);
    }

    fn snapshot(&self) -> WriteSnapshot {
        Box::new(|_: &mut dyn Write| -> io::Result<Vec<u8>> { Ok(Vec::new()) })
    }

    fn restore(&mut self, _: u64, _: &mut dyn Read) -> Result<(), String> {
        Ok(())
    }
}

#[derive(Clone, Default)]
struct Net(Arc<Mutex<HashMap<String, Node>>>);

impl Transport for Net {
    fn send(&self, to: &Member, body: Bytes, _: Duration) -> BoxFuture<'_, Result<Bytes, TransportError>> {
        let address = to.address.clone();
        let node = self.0.lock().expect("nobody panics").get(&address).cloned();
        Box::pin(async move {
            match node {
                Some(node) => Ok(node.handle(body).await),
                None => Err(TransportError::Unreachable { address, why: "down".into() }),
            }
        })
    }
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>().expect("a number"));
    let members = arguments.next().unwrap_or(3);
    let writers = arguments.next().unwrap_or(64);
    let seconds = arguments.next().unwrap_or(3);

    let dir = tempfile::tempdir_in(".").expect("a folder for the disks");
    let net = Net::default();
    let addresses: Vec<String> = (0..members).map(|i| format!("m{i}:1")).collect();
    let mut nodes = Vec::new();
    for address in &addresses {
        let options = Options::new(dir.path().join(address), address.clone());
        let node = Node::open(options, Arc::new(net.clone()), Counter(Arc::default())).await.expect("opens");
        net.0.lock().expect("nobody panics").insert(address.clone(), node.clone());
        nodes.push(node);
    }
    let forming = nodes.iter().zip(&addresses).map(|(node, address)| node.form(&addresses, address));
    futures_util::future::try_join_all(forming).await.expect("forms");
    let (node, term) = 'found: loop {
        for node in &nodes {
            let status = node.status().borrow().clone();
            if status.role == Role::Leader && node.confirm().await.is_ok() {
                break 'found (node.clone(), status.term);
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };

    let end = Instant::now() + Duration::from_secs(seconds);
    let tasks: Vec<_> = (0..writers)
        .map(|_| {
            let node = node.clone();
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while Instant::now() < end {
                    let events = vec![RawEvent { number: 1, version: 1, cause: 0, payload: vec![7; 200] }];
                    let record = Record { header: Header { term, ..Header::default() }, causes: vec![], events };
                    let start = Instant::now();
                    node.append(term, record).await.expect("committed");
                    latencies.push(start.elapsed());
                }
                latencies
            })
        })
        .collect();
    let mut latencies: Vec<Duration> = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("nobody panics"));
    }
    latencies.sort();
    println!(
        "{members} members, {writers} writers: {} records/s, p50 {:?}, p99 {:?}",
        latencies.len() as u64 / seconds,
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100]
    );
    let start = Instant::now();
    let rounds = 200;
    for _ in 0..rounds {
        node.confirm().await.expect("leads");
    }
    println!("confirm: {:?}", start.elapsed() / rounds);
    for node in nodes {
        node.shutdown().await;
    }
}
