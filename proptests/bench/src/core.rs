//! What one core folds and replays, and how large the log is: in this process, through the masters' own code.

use std::process::Command;
use std::time::{Duration, Instant};

use event_log::Record;
use event_log::raft::{Committed, Member};
use event_log::raft::{Machine, Node, Options, Role, Ticket, Transport, TransportError, WriteSnapshot};
use futures_util::future::BoxFuture;
use master_core::{State, fold_record};

use crate::history::{Business, Entry};
use crate::processes::thread_cpu_time;
use crate::report::{Report, Row};
use crate::{Bench, Fallible};

const AGENTS: usize = 1_000;
const MIX: &str = "offer, accept with launch, order acknowledged, 3 updates, 3 acknowledgements";

pub(crate) fn rows(bench: &Bench, report: &mut Report) {
    report.measure(&["log_bytes_per_offer"], "the size of offers in the log", || {
        Ok(vec![log_bytes(false)?, log_bytes(true)?])
    });
    if !report.wants(&["fold_events_per_s", "replay_events_per_s"]) {
        return;
    }
    let mut entries = Vec::new();
    // Both are of one history.
    report.measure(&["fold_events_per_s", "replay_events_per_s"], "folding decoded records", || {
        let mut business = Business::begin(1, AGENTS)?;
        let start = thread_cpu_time()?;
        for _ in 0..if bench.quick { 5 } else { 160 } {
            business.lives()?;
        }
        business.history.close();
        let events: usize = business.history.entries.iter().map(|entry| entry.events.len()).sum();
        let rate = events as f64 / (thread_cpu_time()? - start).as_secs_f64();
        eprintln!("bench:   {events} events decided, folded twice and encoded at {rate:.0}/s");
        entries = business.history.entries;
        fold_rate(&entries).map(|row| vec![row])
    });
    report.measure(&["replay_events_per_s"], "replaying a log from disk", || {
        replay_rate(bench, &entries).map(|row| vec![row])
    });
}

/// Bytes of encoded records, causes and headers included, for each offer made and declined.
fn log_bytes(one_by_one: bool) -> Fallible<Row> {
    let mut business = Business::begin(1, AGENTS)?;
    let before = business.history.entries.len();
    let offers = business.decline(one_by_one)?;
    let bytes: usize = business.history.entries[before..].iter().map(|entry| entry.record.encode().len()).sum();
    let calls = if one_by_one { "each declined by a call of its own" } else { "declined by one call" };
    let params = format!("one plan of {offers} offers, {calls}");
    Ok(Row::new("log_bytes_per_offer", params, bytes as f64 / offers as f64, "B"))
}

fn fold_rate(entries: &[Entry]) -> Fallible<Row> {
    let mut rates = Vec::new();
    for _ in 0..3 {
        let mut state = State::default();
        let start = thread_cpu_time()?;
        let mut count = 0;
        for entry in entries {
            fold_record(&mut state, &entry.record.header, &entry.events);
            count += entry.events.len();
        }
        rates.push(count as f64 / (thread_cpu_time()? - start).as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    Ok(Row::new(
        "fold_events_per_s",
        format!("1 core by processor time, {AGENTS} agents, lives of tasks: {MIX}"),
        rates[1],
        "1/s",
    ))
}

/// Writes the history through a quorum of one, forgets it, and reads it back.
fn replay_rate(bench: &Bench, entries: &[Entry]) -> Fallible<Row> {
    let dir = tempfile::Builder::new().prefix("meseta-replay-").tempdir()?;
    let start = Instant::now();
    bench.runtime.block_on(write_log(dir.path(), entries))?;
    let bytes = forget(dir.path())?;
    eprintln!(
        "bench:   {} records, {} MB on disk, written in {:.1} s",
        entries.len(),
        bytes >> 20,
        start.elapsed().as_secs_f64()
    );

    // The program, not its parts: it reads, decodes and folds as an operator has it do.
    let start = Instant::now();
    let mut replay = Command::new(proptests::cluster::binary("meseta-log"));
    let replay = replay.args(["state", "--select=at_ms", "--json"]).arg(dir.path()).output()?;
    let took = start.elapsed().as_secs_f64();
    let told: serde_json::Value = serde_json::from_slice(&replay.stdout)?;
    let last_ms = entries.last().map(|entry| entry.record.header.at_ms);
    if told["value"].as_u64() != last_ms {
        return Err(format!("the log ends at {last_ms:?} ms and was replayed to {}", told["value"]).into());
    }
    let count: usize = entries.iter().map(|entry| entry.events.len()).sum();
    let rate = f64::from(u32::try_from(count)?) / took;
    let params = format!(
        "meseta-log, 2 threads, from disk, decode and fold {count} events, {AGENTS} agents, lives of tasks: {MIX}"
    );
    Ok(Row::new("replay_events_per_s", params, rate, "1/s"))
}

async fn write_log(dir: &std::path::Path, entries: &[Entry]) -> Fallible<()> {
    let mut log = Log::open(dir, Nothing).await?;
    for entry in entries {
        log.append(&entry.record).await?;
    }
    log.close().await
}

/// A quorum of one that leads and appends.
pub(crate) struct Log {
    node: Node,
    term: u64,
    flying: std::collections::VecDeque<Ticket>,
}

impl Log {
    pub(crate) async fn open(dir: &std::path::Path, machine: impl Machine) -> Fallible<Log> {
        let address = "127.0.0.1:1".to_owned();
        let node = Node::open(Options::new(dir, address.clone()), std::sync::Arc::new(Nobody), machine).await?;
        node.form(std::slice::from_ref(&address), &address).await?;
        let mut status = node.status();
        let leads = status.wait_for(|status| status.role == Role::Leader);
        let term = tokio::time::timeout(Duration::from_secs(20), leads).await??.term;
        Ok(Log { node, term, flying: std::collections::VecDeque::new() })
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    pub(crate) fn term(&self) -> u64 {
        self.term
    }

    /// Many are on their way at once.
    pub(crate) async fn append(&mut self, record: &Record) -> Fallible<()> {
        let mut header = record.header;
        header.term = self.term;
        self.flying.push_back(self.node.append(self.term, Record { header, ..record.clone() }));
        if self.flying.len() >= 64
            && let Some(first) = self.flying.pop_front()
        {
            first.await?;
        }
        Ok(())
    }

    /// Waits for all, and closes.
    pub(crate) async fn close(self) -> Fallible<()> {
        for ticket in self.flying {
            ticket.await?;
        }
        self.node.shutdown().await;
        Ok(())
    }
}

/// Writes everything below `dir` back and drops it from the page cache, as far as the kernel allows. Returns the bytes.
pub(crate) fn forget(dir: &std::path::Path) -> Fallible<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            bytes += forget(&entry.path())?;
            continue;
        }
        let file = std::fs::File::open(entry.path())?;
        file.sync_all()?;
        nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        bytes += entry.metadata()?.len();
    }
    Ok(bytes)
}

/// A quorum of one has nobody to talk to.
pub(crate) struct Nobody;

impl Transport for Nobody {
    fn send(&self, _: &Member, _: bytes::Bytes, _: Duration) -> BoxFuture<'_, Result<bytes::Bytes, TransportError>> {
        Box::pin(std::future::pending())
    }
}

/// Only the log is wanted.
struct Nothing;

impl Machine for Nothing {
    fn apply(&mut self, _: Vec<Committed>) {}

    fn snapshot(&self) -> WriteSnapshot {
        Box::new(|_| Ok(Vec::new()))
    }

    fn restore(&mut self, _: u64, _: &mut dyn std::io::Read) -> Result<(), String> {
        Ok(())
    }
}
