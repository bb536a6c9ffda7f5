//! How long a writer waits while a snapshot is written: one writer commits a record after the other, first in peace,
//! then while snapshots are taken without a pause between them.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_log::raft::{Committed, Machine, Node, WriteSnapshot};
use event_log::{Header, RawEvent, Record};

use crate::core::Log;
use crate::report::{Report, Row};
use crate::{Bench, Fallible};

/// Bytes of an event's payload.
const PAYLOAD: usize = 200;

pub(crate) fn rows(bench: &Bench, report: &mut Report) {
    report.measure(&["snapshot_pause_ms"], "a writer while snapshots are written", || pause(bench));
}

fn pause(bench: &Bench) -> Fallible<Vec<Row>> {
    let (megabytes, seconds) = if bench.quick { (32, 2) } else { (256, 10) };
    let dir = tempfile::Builder::new().prefix("meseta-pause-").tempdir()?;
    let state = Large(Arc::new(vec![[7; 1024]; megabytes << 10]));
    bench.runtime.block_on(async {
        let log = Log::open(dir.path(), state).await?;
        let (node, term) = (log.node().clone(), log.term());
        let mut n = 0;
        let span = Duration::from_secs(seconds);
        let peace = write(&node, term, &mut n, span).await?;
        let taking = tokio::spawn({
            let node = node.clone();
            async move { while node.snapshot().await.is_ok() {} }
        });
        let beside = write(&node, term, &mut n, span).await?;
        taking.abort();
        log.close().await?;
        let row = |part: f64, which: &str| {
            let params = format!(
                "1 master, a record after the other while snapshots of {megabytes} MB are written, {which} of {} waits",
                beside.len()
            );
            Row::new("snapshot_pause_ms", params, at(&beside, part), "ms").beside("without snapshots", at(&peace, part))
        };
        Ok(vec![row(0.99, "p99"), row(1.0, "worst")])
    })
}

/// Waits in milliseconds, the shortest first.
async fn write(node: &Node, term: u64, n: &mut u64, span: Duration) -> Fallible<Vec<f64>> {
    let end = Instant::now() + span;
    let mut waits = Vec::new();
    while Instant::now() < end {
        let header = Header { term, n: *n, ..Header::default() };
        *n += 1;
        let events = vec![RawEvent { number: 1, version: 1, cause: 0, payload: vec![1; PAYLOAD] }];
        let begin = Instant::now();
        node.append(term, Record { header, causes: vec![], events }).await?;
        waits.push(begin.elapsed().as_secs_f64() * 1000.0);
    }
    waits.sort_unstable_by(f64::total_cmp);
    Ok(waits)
}

fn at(waits: &[f64], part: f64) -> f64 {
    waits.get((waits.len().saturating_sub(1) as f64 * part) as usize).copied().unwrap_or(f64::NAN)
}

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
