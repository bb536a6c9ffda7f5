//! How long a master with a long history is away when it starts again.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use event_log::Gate;
use event_log::raft::{Committed, Machine, Node, Options, WriteSnapshot, read_raft, wait_until_closed};
use master_core::{State, decode_record, fold_record};

use crate::core::{Log, Nobody, forget};
use crate::history::Business;
use crate::report::{Report, Row};
use crate::{Bench, Fallible};

const AGENTS: usize = 1_000;

pub(crate) fn rows(bench: &Bench, report: &mut Report) {
    report.measure(&["restart_ms"], "a master with a long history starts again", || restart(bench));
}

fn restart(bench: &Bench) -> Fallible<Vec<Row>> {
    let events_min = if bench.quick { 500_000 } else { 10_000_000 };
    let dir = tempfile::Builder::new().prefix("meseta-restart-").tempdir()?;
    let start = Instant::now();
    let (events, records, written) = bench.runtime.block_on(async {
        let folded = Folded::default();
        let mut log = Log::open(dir.path(), folded.clone()).await?;
        let mut business = Business::begin(1, AGENTS)?;
        let (mut events, mut records) = (0, 0);
        while events < events_min {
            business.lives()?;
            business.history.close();
            for entry in business.history.entries.drain(..) {
                events += entry.events.len();
                records += 1;
                log.append(&entry.record).await?;
            }
        }
        log.close().await?;
        Fallible::Ok((events, records, folded.digest()))
    })?;
    wait_until_closed(std::time::Duration::from_secs(30));
    let bytes = forget(dir.path())?;
    let snapshot = read_raft(dir.path())?.snapshots()?.last().map_or(0, |snapshot| snapshot.index);
    eprintln!(
        "bench:   {events} events, {} MB on disk, written in {:.0} s",
        bytes >> 20,
        start.elapsed().as_secs_f64()
    );

    let start = Instant::now();
    let folded = Folded::default();
    let elapsed = bench.runtime.block_on(async {
        let options = Options::new(dir.path(), "127.0.0.1:1");
        // When it is open, everything known to be committed is folded.
        let node = Node::open(options, Arc::new(Nobody), folded.clone()).await?;
        let elapsed = start.elapsed();
        node.shutdown().await;
        Fallible::Ok(elapsed)
    })?;
    if folded.digest() != written {
        return Err("after the restart the state is another one".into());
    }
    let params = format!(
        "1 master, {events} events in {records} records, {} MB on disk, {} records after the last snapshot, opened and folded",
        bytes >> 20,
        records - snapshot.min(records),
    );
    Ok(vec![Row::new("restart_ms", params, elapsed.as_secs_f64() * 1000.0, "ms")])
}

/// Folds as a master does.
#[derive(Clone, Default)]
struct Folded(Arc<Mutex<(State, Gate)>>);

impl Folded {
    fn digest(&self) -> [u8; 32] {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.digest()
    }
}

impl Machine for Folded {
    fn apply(&mut self, entries: Vec<Committed>) {
        let mut folded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, gate) = &mut *folded;
        for entry in entries {
            if gate.admit(entry.term, &entry.record.header) {
                let events = decode_record(&entry.record).expect("just encoded");
                fold_record(state, &entry.record.header, &events);
            }
        }
    }

    fn snapshot(&self) -> WriteSnapshot {
        let folded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, (term, n)) = (folded.0.clone(), folded.1.position());
        Box::new(move |out: &mut dyn Write| {
            out.write_all(&term.to_be_bytes())?;
            out.write_all(&n.to_be_bytes())?;
            state.write_snapshot(out)?;
            Ok(Vec::new())
        })
    }

    fn restore(&mut self, _: u64, from: &mut dyn Read) -> Result<(), String> {
        let mut number = || {
            let mut bytes = [0; 8];
            from.read_exact(&mut bytes).map(|()| u64::from_be_bytes(bytes)).map_err(|error| error.to_string())
        };
        let gate = Gate::resume(number()?, number()?);
        let state = State::read_snapshot(from).map_err(|error| error.to_string())?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (state, gate);
        Ok(())
    }
}
