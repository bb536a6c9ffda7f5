//! How long writers wait while a snapshot is written: `snapshot_pause [megabytes of state] [seconds]`.
//!
//! A member alone, with a real disk below the current folder; one writer commits a record after the other, first in peace,
//! then while snapshots are taken one after the other.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use event_log::raft::{Committed, Machine, Member, Node, Options, Role, Transport, TransportError, WriteSnapshot};
use event_log::{Header, RawEvent, Record};
use futures_util::future::BoxFuture;

/// A state that is cheap to take hold of and long to write.
struct Large(Arc<Vec<[u8; 1024]>>);

impl Machine for Large {
    fn apply(&mut self, _: Vec<Committed>) {}

    fn snapshot(&self) -> WriteSnapshot {
        let state = self.0.clone();
        Box::new(move |out: &mut dyn Write| {
            state.iter().try_for_each(|part| out.write_all(part))?;
            Ok(Vec::new())
        })
    }

    fn restore(&mut self, _: u64, _: &mut dyn Read) -> Result<(), String> {
        Ok(())
    }
}

struct Nobody;

impl Transport for Nobody {
    fn send(&self, to: &Member, _: Bytes, _: Duration) -> BoxFuture<'_, Result<Bytes, TransportError>> {
        let address = to.address.clone();
        Box::pin(async move { Err(TransportError::Unreachable { address, why: "alone".into() }) })
    }
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>().expect("a number"));
    let megabytes = arguments.next().unwrap_or(256);
    let seconds = arguments.next().unwrap_or(10);
    let dir = tempfile::tempdir_in(".").expect("a folder for the disk");
    let address = "m:1".to_owned();
    let state = Large(Arc::new(vec![[7; 1024]; (megabytes << 10) as usize]));
    let options = Options::new(dir.path().join("log"), address.clone());
    let node = Node::open(options, Arc::new(Nobody), state).await.expect("opens");
    node.form(std::slice::from_ref(&address), &address).await.expect("forms");
    let mut status = node.status();
    let term = status.wait_for(|status| status.role == Role::Leader).await.expect("leads").term;
    let mut n = 0;
    println!("{megabytes} MB of state, a record after the other; waits in milliseconds");
    write(&node, term, &mut n, seconds, "in peace").await;
    let taking = tokio::spawn({
        let node = node.clone();
        async move {
            for taken in 0.. {
                if node.snapshot().await.is_err() {
                    return taken;
                }
            }
            0
        }
    });
    write(&node, term, &mut n, seconds, "while snapshots are written").await;
    taking.abort();
    node.shutdown().await;
}

async fn write(node: &Node, term: u64, n: &mut u64, seconds: u64, when: &str) {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut waits: Vec<Duration> = Vec::new();
    while Instant::now() < end {
        let header = Header { term, n: *n, ..Header::default() };
        *n += 1;
        let events = vec![RawEvent { number: 1, version: 1, cause: 0, payload: vec![1; 200] }];
        let begin = Instant::now();
        node.append(term, Record { header, causes: vec![], events }).await.expect("committed");
        waits.push(begin.elapsed());
    }
    waits.sort_unstable();
    let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0;
    println!("{when:<28} {:>7} records   p50 {:.2}   p99 {:.2}   worst {:.2}", waits.len(), at(0.5), at(0.99), at(1.0));
}
