//! A log may be larger than memory: whatever the tool does with it, it holds a small part of it at once.

mod common;

use agent_core::{Blob, Event, LOG_DIR, LOG_KIND, LOG_VERSION};
use common::at;
use common::cluster::Cluster;
use event_log::{Cause, Header, Identity, LocalLog, Record};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Of a log.
const LOG_MB: u64 = 160;
/// Much less than the log. A master's entries are in a store with buffers of its own.
const MEMORY_MB_MAX: u64 = 110;
/// Of the description of a framework, the largest thing that an event has.
const INFO_BYTES: u64 = 200 << 10;

/// Runs the program; the most memory that it held, in megabytes.
fn memory_mb(words: &[&str]) -> u64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meseta-log"));
    let mut child =
        command.args(words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let status = format!("/proc/{}/status", child.id());
    let mut most_kb = 0;
    // The kernel remembers the most: the last look before the end is what counts.
    let ended = loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kb: Option<u64> = peak.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
        most_kb = kb.unwrap_or(most_kb).max(most_kb);
        if let Some(ended) = child.try_wait().expect("a child") {
            break ended;
        }
        std::thread::park_timeout(Duration::from_millis(2));
    };
    assert!(ended.success(), "{words:?}");
    assert!(most_kb > 0, "{words:?}: it was never seen");
    most_kb / 1024
}

fn check(dir: &Path, more: &[&[&str]]) {
    let out = dir.join("events.parquet");
    let out = format!("--out={}", out.display());
    let common: [&[&str]; 4] =
        [&["verify"], &["stats"], &["export", "--format=csv"], &["export", "--format=parquet", &out]];
    for words in common.iter().chain(more) {
        let words: Vec<&str> = words.iter().copied().chain([at(dir)]).collect();
        let most_mb = memory_mb(&words);
        eprintln!("{words:?} held {most_mb} MB of {LOG_MB}");
        assert!(most_mb < MEMORY_MB_MAX, "{words:?} held {most_mb} MB of a log of {LOG_MB} MB");
    }
}

#[test]
fn a_long_log_of_an_agent_takes_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = LocalLog::open(&dir.path().join(LOG_DIR), &Identity::new(LOG_KIND, LOG_VERSION)).unwrap();
    let mut written = None;
    for number in 0..(LOG_MB << 20) / INFO_BYTES {
        let info = Blob(vec![number as u8; INFO_BYTES as usize]);
        let event = Event::FrameworkSeen { framework_id: "C-0000".into(), info };
        let cause = Cause { call: "order".into(), ..Cause::default() };
        let header = Header { at_ms: number, ..Header::default() };
        let ticket = log.append(Record { header, causes: vec![cause], events: vec![event.to_raw(0)] });
        // A few in flight: this process need not hold the log either.
        if number % 32 == 0 {
            ticket.wait().unwrap();
        } else {
            written = Some(ticket);
        }
    }
    written.unwrap().wait().unwrap();
    drop(log);
    check(dir.path(), &[&["explain", "framework", "C-0000"], &["cat", "--type=left"]]);
}

#[tokio::test]
async fn a_long_log_of_a_master_takes_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(dir.path()).await;
    let framework = cluster.framework("large", &["*"]).await;
    for number in 0..(LOG_MB << 20) / INFO_BYTES {
        cluster.update_framework(framework, number as u8, INFO_BYTES as usize).await;
    }
    cluster.last_index(at(dir.path()));
    check(dir.path(), &[&["explain", "framework", "C-0000"], &["bisect", "--select=frameworks.next", "--equals=1"]]);
}
