//! `meseta-log` beside a log that grows, moves and is shortened meanwhile.

mod common;

use agent_core::{Event, LOG_DIR, LOG_KIND, LOG_VERSION};
use common::cluster::Cluster;
use common::master::ADDRESS;
use common::{at, json, text};
use event_log::raft::{ArchiveBounds, Options};
use event_log::{Cause, Header, Identity, LocalLog, Record};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

/// `meseta-log follow`, under way.
struct Follower {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Follower {
    fn new(words: &[&str]) -> Follower {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meseta-log"));
        let mut child = command.arg("follow").args(words).arg("--json").stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Follower { child, lines }
    }

    /// The next event; waits for it.
    fn next(&mut self) -> Value {
        let mut line = String::new();
        assert!(self.lines.read_line(&mut line).unwrap() > 0, "the follower ended");
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_agents_log_is_followed_through_a_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = LocalLog::open(&dir.path().join(LOG_DIR), &Identity::new(LOG_KIND, LOG_VERSION)).unwrap();
    let record = |up_to: u64| {
        let events = vec![Event::OrdersTaken { up_to }.to_raw(0)];
        Record { header: Header { at_ms: up_to, ..Header::default() }, causes: vec![Cause::default()], events }
    };
    let append = |up_to| log.append(record(up_to)).wait().unwrap();
    append(1);
    let mut follower = Follower::new(&[at(dir.path())]);
    assert_eq!(follower.next()["fields"]["up_to"], "1");
    append(2);
    assert_eq!(follower.next()["fields"]["up_to"], "2");
    // What came before is replaced by its outcome, which is a record of its own.
    let index = log.rotate(vec![record(3)]).wait().unwrap();
    append(4);
    assert_eq!(follower.next()["index"], index);
    let next = follower.next();
    assert_eq!((next["index"].as_u64(), next["fields"]["up_to"].as_str()), (Some(index + 1), Some("4")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_masters_log_is_followed_while_its_history_is_purged() {
    let dir = tempfile::tempdir().unwrap();
    let work_dir = at(dir.path()).to_owned();
    let options = Options {
        snapshot_bytes: 2000,
        tail_entries_min: 4,
        archive: ArchiveBounds { bytes_max: 1, ..ArchiveBounds::default() },
        archive_segment_bytes: 1000,
        ..Options::new(dir.path(), ADDRESS)
    };
    let mut cluster = Cluster::with(options).await;
    let mut follower = Follower::new(&[&work_dir, "--type=framework-subscribed"]);
    let mut seen = 0;
    // Until the beginning is gone, each event is followed as it happens.
    let gone = loop {
        cluster.framework(&format!("f{seen}"), &["*"]).await;
        assert_eq!(follower.next()["fields"]["framework"], format!("F{seen}"));
        seen += 1;
        let first = json(&["info", &work_dir])[0]["first_index"].as_u64().unwrap();
        if first > 3 {
            break first;
        }
        assert!(seen < 500, "the history is never shortened");
    };
    drop(follower);

    // What is left is whole, and told as what it is.
    let last_index = cluster.last_index(&work_dir);
    let verified = json(&["verify", &work_dir]).pop().unwrap();
    assert_eq!(
        (verified["ok"].as_bool(), verified["last_index"].as_u64()),
        (Some(true), Some(last_index)),
        "{verified}"
    );
    assert!(verified["from_snapshot"].as_u64().is_some_and(|index| index + 1 >= gone), "{verified}");
    assert_eq!(verified["digest"].as_str(), Some(&*cluster.log.digests.last().unwrap().1));
    let lines = json(&["cat", &work_dir]);
    assert!(lines.iter().all(|line| line["takes_effect"] == true), "{lines:?}");
    let story = text(&["explain", "framework", &format!("C-{:04}", seen - 1), &work_dir]);
    assert!(story.contains("subscribed for the first time, for role *"), "{story}");
    let found = &json(&["bisect", "--select=frameworks.next", "--at-least", &seen.to_string(), &work_dir])[0];
    assert_eq!(found["index"], last_index);
}
