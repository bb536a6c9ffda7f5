//! Members of a quorum in one process: real disks, a network in memory.

mod history;
mod large;
mod membership;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use event_log::raft::{
    AppendError, ArchiveBounds, Committed, FormError, HistoryError, Machine, Member, MembershipError, Node, OpenError,
    Options, RaftReader, Role, Status, Transport, TransportError, WriteSnapshot, read_raft,
};
use event_log::{Gate, Header, RawEvent, Record};
use futures_util::future::BoxFuture;

/// What a member's machine was given: the payloads that took effect, by index.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Entries>>);

#[derive(Clone, Default)]
struct Entries {
    gate: Gate,
    applied: Vec<(u64, u64)>,
    skipped: usize,
    restored: u64,
}

impl Journal {
    fn numbers(&self) -> Vec<(u64, u64)> {
        self.0.lock().unwrap().applied.clone()
    }
}

impl Machine for Journal {
    fn apply(&mut self, entries: Vec<Committed>) {
        let mut journal = self.0.lock().unwrap();
        for entry in entries {
            assert!(journal.applied.last().is_none_or(|(index, _)| *index < entry.index), "in order, once");
            if journal.gate.admit(entry.term, &entry.record.header) {
                for event in &entry.record.events {
                    let number = u64::from_le_bytes(event.payload[..8].try_into().unwrap());
                    journal.applied.push((entry.index, number));
                }
            } else {
                journal.skipped += 1;
            }
        }
    }

    fn snapshot(&self) -> WriteSnapshot {
        let journal = self.0.lock().unwrap().clone();
        Box::new(move |out: &mut dyn Write| {
            let (term, n) = journal.gate.position();
            for (one, two) in [(term, n)].iter().chain(&journal.applied) {
                out.write_all(&one.to_le_bytes())?;
                out.write_all(&two.to_le_bytes())?;
            }
            Ok(journal.applied.len().to_le_bytes().to_vec())
        })
    }

    fn restore(&mut self, index: u64, from: &mut dyn Read) -> Result<(), String> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        let mut pairs = bytes.chunks(16).map(|pair| {
            let part = |at| u64::from_le_bytes(pair[at..at + 8].try_into().unwrap());
            (part(0), part(8))
        });
        let (term, n) = pairs.next().ok_or("empty")?;
        let mut journal = self.0.lock().unwrap();
        *journal = Entries { gate: Gate::resume(term, n), applied: pairs.collect(), skipped: 0, restored: index };
        Ok(())
    }
}

/// Who is up, and who cannot hear whom.
#[derive(Clone, Default)]
struct Net(Arc<Mutex<NetState>>);

#[derive(Default)]
struct NetState {
    up: HashMap<String, Node>,
    cut: HashSet<String>,
    /// How long each message takes, in milliseconds.
    delay_ms: u64,
    /// How many messages did not arrive.
    refused: u64,
}

struct Wire {
    net: Net,
    me: String,
}

impl Transport for Wire {
    fn send(&self, to: &Member, body: Bytes, _: Duration) -> BoxFuture<'_, Result<Bytes, TransportError>> {
        let address = to.address.clone();
        let (node, delay_ms) = {
            let mut net = self.net.0.lock().unwrap();
            let cut = net.cut.contains(&address) || net.cut.contains(&self.me);
            net.refused += u64::from(cut);
            (net.up.get(&address).filter(|_| !cut).cloned(), net.delay_ms)
        };
        Box::pin(async move {
            if delay_ms > 0 {
                tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            }
            match node {
                Some(node) => Ok(node.handle(body).await),
                None => Err(TransportError::Unreachable { address, why: "it is down".into() }),
            }
        })
    }
}

struct Cluster {
    net: Net,
    dirs: Vec<tempfile::TempDir>,
    nodes: Vec<Option<(Node, Journal)>>,
    snapshot_bytes: u64,
    archive: ArchiveBounds,
}

fn address(i: usize) -> String {
    format!("m{i}:5050")
}

impl Cluster {
    fn new(size: usize) -> Cluster {
        Cluster {
            net: Net::default(),
            dirs: (0..size).map(|_| tempfile::tempdir().unwrap()).collect(),
            nodes: (0..size).map(|_| None).collect(),
            snapshot_bytes: 1 << 30,
            archive: ArchiveBounds::default(),
        }
    }

    fn masters(&self) -> Vec<String> {
        (0..self.dirs.len()).map(address).collect()
    }

    fn dir(&self, i: usize) -> PathBuf {
        self.dirs[i].path().join("log")
    }

    async fn start(&mut self, i: usize) -> Node {
        let journal = Journal::default();
        let wire = Arc::new(Wire { net: self.net.clone(), me: address(i) });
        let mut options = Options::new(self.dir(i), address(i));
        options.snapshot_bytes = self.snapshot_bytes;
        options.archive = self.archive;
        (options.tail_entries_min, options.archive_segment_bytes, options.snapshot_chunk_bytes) = (20, 8_000, 200);
        let node = Node::open(options, wire, journal.clone()).await.expect("opens");
        self.net.0.lock().unwrap().up.insert(address(i), node.clone());
        self.nodes[i] = Some((node.clone(), journal));
        node
    }

    async fn formed(size: usize) -> Cluster {
        let mut cluster = Cluster::new(size);
        for i in 0..size {
            cluster.start(i).await;
        }
        let masters = cluster.masters();
        let forming = (0..size).map(|i| {
            let (node, masters) = (cluster.node(i), masters.clone());
            async move { node.form(&masters, &address(i)).await }
        });
        for result in futures_util::future::join_all(forming).await {
            result.expect("forms");
        }
        cluster
    }

    /// One more member, on an empty disk, that waits to be added.
    async fn join(&mut self) -> usize {
        self.dirs.push(tempfile::tempdir().unwrap());
        self.nodes.push(None);
        let i = self.dirs.len() - 1;
        self.start_joining(i).await;
        i
    }

    async fn start_joining(&mut self, i: usize) {
        let node = self.start(i).await;
        let joining = node.clone();
        tokio::spawn(async move { joining.join().await });
        // Spawned is not started; adding it too early is refused.
        tokio::task::yield_now().await;
        drop(node);
    }

    fn node(&self, i: usize) -> Node {
        self.nodes[i].as_ref().unwrap().0.clone()
    }

    fn journal(&self, i: usize) -> Journal {
        self.nodes[i].as_ref().unwrap().1.clone()
    }

    /// Takes a member down; its disk stays.
    async fn stop(&mut self, i: usize) {
        let (node, _) = self.nodes[i].take().unwrap();
        self.net.0.lock().unwrap().up.remove(&address(i));
        node.shutdown().await;
        drop(node);
        // Whoever still answers a request holds on to the folder for a moment.
        let lock = std::fs::File::open(self.dir(i).join("lock")).unwrap();
        eventually("the folder is free", || lock.try_lock().is_ok()).await;
        drop(lock);
    }

    fn up(&self) -> Vec<usize> {
        let cut = self.net.0.lock().unwrap().cut.clone();
        (0..self.nodes.len()).filter(|i| self.nodes[*i].is_some() && !cut.contains(&address(*i))).collect()
    }

    /// Waits until one of those that are up leads and can show it.
    async fn leader(&self) -> (usize, Status) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            for i in self.up() {
                let status = self.node(i).status().borrow().clone();
                if status.role == Role::Leader && self.node(i).confirm().await.is_ok() {
                    return (i, status);
                }
            }
            assert!(tokio::time::Instant::now() < deadline, "nobody leads");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn lead(&self) -> (usize, Sequencer) {
        let (i, status) = self.leader().await;
        let mut sequencer = Sequencer { node: self.node(i), term: status.term, n: 0 };
        match sequencer.append(u64::MAX).await {
            Ok(_) => (i, sequencer),
            Err(error) => panic!("a leader that was confirmed must lead: {error}"),
        }
    }

    async fn all_applied(&self, count: usize) {
        for i in self.up() {
            let journal = self.journal(i);
            eventually("everybody applies everything", || journal.numbers().len() >= count).await;
        }
    }
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Numbers records as a leader does.
struct Sequencer {
    node: Node,
    term: u64,
    n: u64,
}

impl Sequencer {
    fn append(&mut self, number: u64) -> event_log::raft::Ticket {
        let header = Header { term: self.term, n: self.n, ..Header::default() };
        self.n += 1;
        let mut payload = number.to_le_bytes().to_vec();
        payload.resize(200, 0);
        let events = vec![RawEvent { number: 1, version: 1, cause: 0, payload }];
        self.node.append(self.term, Record { header, causes: vec![], events })
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn a_quorum_of_one_appends_and_recovers() {
    runtime().block_on(async {
        let mut cluster = Cluster::formed(1).await;
        let cluster_id = cluster.node(0).cluster_id().expect("minted");
        let node_id = cluster.node(0).node_id();
        let (_, mut sequencer) = cluster.lead().await;
        let tickets: Vec<_> = (0..500).map(|number| sequencer.append(number)).collect();
        let mut last = 0;
        for ticket in tickets {
            let index = ticket.await.expect("committed");
            assert!(index > last);
            last = index;
        }
        let before = cluster.journal(0).numbers();
        assert_eq!(before.len(), 501);
        assert!(sequencer.node.confirm().await.unwrap() >= last);
        let term = sequencer.node.status().borrow().term;
        assert!(sequencer.node.confirm_term(term).await.unwrap() >= last);
        assert!(sequencer.node.confirm_term(term - 1).await.is_err(), "an earlier leadership is over");
        assert!(sequencer.node.read_index().await.unwrap() >= last);
        drop(sequencer);
        cluster.stop(0).await;

        let node = cluster.start(0).await;
        assert_eq!((node.node_id(), node.cluster_id()), (node_id, Some(cluster_id)));
        node.form(&cluster.masters(), &address(0)).await.expect("has formed");
        drop(node);
        let (_, mut sequencer) = cluster.lead().await;
        sequencer.append(1000).await.expect("committed");
        let after = cluster.journal(0).numbers();
        assert_eq!(after[..501], before);
        assert_eq!(after.last().unwrap().1, 1000);
    });
}

#[test]
fn three_members_lose_their_leader_and_nothing_else() {
    runtime().block_on(async {
        let mut cluster = Cluster::formed(3).await;
        let ids: HashSet<_> = (0..3).map(|i| cluster.node(i).cluster_id().unwrap()).collect();
        assert_eq!(ids.len(), 1);
        let mut acknowledged = Vec::new();
        for round in 0..3u64 {
            let (leader, mut sequencer) = cluster.lead().await;
            let tickets: Vec<_> = (0..200).map(|i| (round * 1000 + i, sequencer.append(round * 1000 + i))).collect();
            let mut open = Vec::new();
            for (number, ticket) in tickets {
                if number % 1000 < 100 {
                    ticket.await.expect("committed");
                    acknowledged.push(number);
                } else {
                    open.push((number, ticket));
                }
            }
            drop(sequencer);
            cluster.stop(leader).await;
            for (number, ticket) in open {
                if ticket.await.is_ok() {
                    acknowledged.push(number);
                }
            }
            cluster.lead().await;
            cluster.start(leader).await;
        }
        let (leader, mut sequencer) = cluster.lead().await;
        let last = sequencer.append(9999).await.expect("committed");
        let reference = cluster.journal(leader).numbers();
        cluster.all_applied(reference.len()).await;
        for i in 0..3 {
            assert!(cluster.node(i).read_index().await.unwrap() >= last);
            assert_eq!(cluster.journal(i).numbers(), reference, "member {i}");
        }
        let numbers: HashSet<u64> = reference.iter().map(|(_, number)| *number).collect();
        for number in acknowledged {
            assert!(numbers.contains(&number), "{number} was acknowledged and is gone");
        }
    });
}

#[test]
fn a_leader_without_a_quorum_gives_up_and_its_proposals_are_unknown() {
    runtime().block_on(async {
        let cluster = Cluster::formed(3).await;
        let (old, mut sequencer) = cluster.lead().await;
        let term = sequencer.term;
        cluster.net.0.lock().unwrap().cut.insert(address(old));
        let lost = sequencer.append(1);
        assert_eq!(lost.await, Err(AppendError::Unknown));
        let status = cluster.node(old).status();
        eventually("it no longer leads", || status.borrow().role != Role::Leader).await;
        assert!(cluster.node(old).confirm().await.is_err());
        assert!(matches!(sequencer.append(2).await, Err(AppendError::NotLeader { .. })));

        let (new, mut successor) = cluster.lead().await;
        assert!(new != old && successor.term > term);
        successor.append(3).await.expect("committed");
        // Under a leadership that is not the one that is:
        sequencer.node = cluster.node(new);
        assert!(matches!(sequencer.append(4).await, Err(AppendError::NotLeader { .. })));

        cluster.net.0.lock().unwrap().cut.clear();
        let leader = match successor.append(5).await {
            Ok(_) => new,
            // The old leader's return may cost an election.
            Err(_) => {
                let (leader, mut sequencer) = cluster.lead().await;
                sequencer.append(5).await.expect("committed");
                leader
            }
        };
        let reference = cluster.journal(leader).numbers();
        let numbers: Vec<u64> = reference.iter().map(|(_, number)| *number).filter(|number| *number < 100).collect();
        assert_eq!(numbers, [3, 5]);
        let journal = cluster.journal(old);
        eventually("the old leader learns the truth", || journal.numbers() == reference).await;
    });
}

#[test]
fn leadership_is_handed_over() {
    runtime().block_on(async {
        let cluster = Cluster::formed(3).await;
        let (leader, mut sequencer) = cluster.lead().await;
        sequencer.append(1).await.expect("committed");
        cluster.node(leader).transfer_leadership().await.expect("somebody takes over");
        let (next, _) = cluster.lead().await;
        assert_ne!(next, leader);
        assert!(matches!(sequencer.append(2).await, Err(AppendError::NotLeader { .. })));
    });
}

/// Whoever is left with a leader that can do nothing does not go on believing in it.
#[test]
fn a_follower_of_a_leader_without_a_quorum_has_none() {
    runtime().block_on(async {
        let mut cluster = Cluster::formed(5).await;
        let (leader, _) = cluster.leader().await;
        let others: Vec<usize> = (0..5).filter(|i| *i != leader).collect();
        for i in &others[1..] {
            cluster.stop(*i).await;
        }
        let left = [cluster.node(leader), cluster.node(others[0])];
        let is_alone = |node: &Node| !node.status().borrow().leader_contact;
        eventually("nobody believes in a leader", || left.iter().all(is_alone)).await;
        cluster.start(others[1]).await;
        cluster.leader().await;
    });
}

/// Whoever cannot count on from its last record begins again, in a term of its own.
#[test]
fn a_leadership_given_up_is_not_taken_up_again() {
    for size in [1, 3] {
        runtime().block_on(async {
            let cluster = Cluster::formed(size).await;
            let (leader, mut sequencer) = cluster.lead().await;
            sequencer.append(1).await.expect("committed");
            let term = cluster.node(leader).status().borrow().term;
            cluster.node(leader).give_up(term);
            assert!(matches!(sequencer.append(2).await, Err(AppendError::NotLeader { .. })));
            let (next, mut sequencer) = cluster.lead().await;
            assert!(cluster.node(next).status().borrow().term > term);
            sequencer.append(3).await.expect("committed");
            let numbers: Vec<u64> = cluster.journal(next).numbers().into_iter().map(|(_, number)| number).collect();
            assert_eq!(numbers, [u64::MAX, 1, u64::MAX, 3], "each leadership begins with a record of its own");
        });
    }
}

#[test]
fn a_quorum_forms_of_equals_only() {
    runtime().block_on(async {
        let mut cluster = Cluster::new(2);
        let (one, two) = (cluster.start(0).await, cluster.start(1).await);
        let masters = cluster.masters();
        let (me, other) = (address(0), address(1));
        let not_listed = one.form(&["x:1".into()], &me).await;
        assert!(matches!(not_listed, Err(FormError::NotListed { .. })));
        let longer = [masters.clone(), vec!["m9:5050".into()]].concat();
        let (first, second) = tokio::join!(
            tokio::time::timeout(Duration::from_secs(10), one.form(&masters, &me)),
            tokio::time::timeout(Duration::from_secs(10), two.form(&longer, &other))
        );
        assert!(matches!(first, Ok(Err(FormError::ListsDiffer { .. }))), "{first:?}");
        assert!(matches!(second, Ok(Err(FormError::ListsDiffer { .. }))), "{second:?}");
        // Until the other has heard of its new list, the lists differ.
        let persistent = async {
            while one.form(&masters, &me).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(persistent, two.form(&masters, &other)).1.expect("forms");
        drop((one, two));
        cluster.lead().await;

        // A member comes back with an empty disk.
        cluster.stop(1).await;
        std::fs::remove_dir_all(cluster.dir(1)).unwrap();
        let empty = cluster.start(1).await;
        let refused = empty.form(&masters, &address(1)).await.expect_err("it must not vote");
        assert!(matches!(refused, FormError::ClusterRunning { .. }), "{refused}");
        assert!(refused.to_string().contains("meseta masters replace"));
    });
}

#[test]
fn folders_are_checked_before_they_are_opened() {
    runtime().block_on(async {
        let mut cluster = Cluster::formed(1).await;
        let (_, mut sequencer) = cluster.lead().await;
        for number in 0..10 {
            sequencer.append(number).await.unwrap();
        }
        drop(sequencer);
        let wire = || Arc::new(Wire { net: Net::default(), me: address(0) });
        let dir = cluster.dir(0);
        let open = async |dir: &PathBuf| {
            Node::open(Options::new(dir, address(0)), wire(), Journal::default()).await.map(|_| ()).unwrap_err()
        };
        assert!(matches!(open(&dir).await, OpenError::Locked { .. }));
        cluster.stop(0).await;

        let identity = std::fs::read_to_string(dir.join("identity")).unwrap();
        std::fs::write(dir.join("identity"), identity.replace("version 1", "version 2")).unwrap();
        assert!(matches!(open(&dir).await, OpenError::DamagedFile { .. }));
        std::fs::write(dir.join("identity"), &identity).unwrap();

        let local = tempfile::tempdir().unwrap();
        drop(event_log::LocalLog::open(local.path(), &event_log::Identity::new("other", 1)).unwrap());
        assert!(matches!(open(&local.path().to_owned()).await, OpenError::OtherKind { .. }));
        let newer = tempfile::tempdir().unwrap();
        drop(event_log::LocalLog::open(newer.path(), &event_log::Identity::new("quorum-log", 9)).unwrap());
        assert!(matches!(open(&newer.path().to_owned()).await, OpenError::Newer { found: 9, supported: 1, .. }));

        // Neither above nor below the folder of another log.
        let above = tempfile::tempdir().unwrap();
        drop(event_log::LocalLog::open(&above.path().join("log"), &event_log::Identity::new("other", 1)).unwrap());
        assert!(matches!(open(&above.path().to_owned()).await, OpenError::OtherKind { .. }));
        let refused = event_log::LocalLog::open(&dir.join("log"), &event_log::Identity::new("other", 1));
        assert!(matches!(refused, Err(OpenError::OtherKind { .. })));
        assert!(!dir.join("log").exists() && !above.path().join("lock").exists(), "nothing was changed");

        // Damage in the middle of what was synced.
        let entries = dir.join("entries");
        let wal = std::fs::read_dir(&entries).unwrap().map(|entry| entry.unwrap().path());
        let wal = wal.filter(|path| path.extension().is_some_and(|end| end == "log")).max().unwrap();
        let mut bytes = std::fs::read(&wal).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        std::fs::write(&wal, &bytes).unwrap();
        let error = open(&dir).await;
        assert!(error.to_string().contains("meseta masters replace"), "{error}");
    });
}

/// What the tests below run in a process of its own: this test, told so by its environment.
#[test]
fn child() {
    let Some(dir) = std::env::var_os("EVENT_LOG_TEST_DIR").map(PathBuf::from) else { return };
    runtime().block_on(async {
        let wire = Arc::new(Wire { net: Net::default(), me: address(0) });
        let node = Node::open(Options::new(dir, address(0)), wire, Journal::default()).await.unwrap();
        node.form(&[address(0)], &address(0)).await.unwrap();
        let mut status = node.status();
        let term = status.wait_for(|status| status.role == Role::Leader).await.unwrap().term;
        let mut sequencer = Sequencer { node, term, n: 0 };
        let start = term * 1_000_000;
        for batch in 0.. {
            let tickets: Vec<_> = (0..7).map(|i| sequencer.append(start + batch * 7 + i)).collect();
            for (i, ticket) in tickets.into_iter().enumerate() {
                match ticket.await {
                    Ok(_) => println!("\nacknowledged {}", start + batch * 7 + i as u64),
                    Err(error) => {
                        assert_eq!(error, AppendError::Unknown);
                        let status = status.wait_for(|status| status.role == Role::Stopped).await.unwrap().clone();
                        println!("\nfailed {}", status.failure.expect("says why"));
                        return;
                    }
                }
            }
        }
    });
}

fn child_command(program: impl AsRef<std::ffi::OsStr>, dir: PathBuf) -> Command {
    let mut command = Command::new(program);
    command.env("EVENT_LOG_TEST_DIR", dir).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn acknowledged(line: &str) -> Option<u64> {
    line.strip_prefix("acknowledged ")?.parse().ok()
}

/// Opens the member again and compares what it has with what was acknowledged.
async fn has_all(cluster: &mut Cluster, numbers: &[u64]) {
    cluster.start(0).await;
    cluster.lead().await;
    let present: HashSet<u64> = cluster.journal(0).numbers().into_iter().map(|(_, number)| number).collect();
    for number in numbers {
        assert!(present.contains(number), "{number} was acknowledged and is gone");
    }
    cluster.stop(0).await;
}

#[test]
fn a_killed_process_loses_nothing_that_it_acknowledged() {
    runtime().block_on(async {
        let mut cluster = Cluster::new(1);
        let mut numbers = Vec::new();
        for _ in 0..3 {
            let mut command = child_command(std::env::current_exe().unwrap(), cluster.dir(0));
            let mut child = command.args(["--exact", "child", "--nocapture"]).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
            let enough = numbers.len() + 50;
            while numbers.len() < enough {
                numbers.extend(acknowledged(&lines.next().expect("the child works until it is killed")));
            }
            child.kill().unwrap();
            numbers.extend(lines.filter_map(|line| acknowledged(&line)));
            child.wait().unwrap();
            has_all(&mut cluster, &numbers).await;
        }
    });
}

#[test]
fn a_full_disk_stops_a_member_and_loses_nothing() {
    runtime().block_on(async {
        let mut cluster = Cluster::new(1);
        // A limit on the size of files stands for a full disk.
        let mut command = child_command("bash", cluster.dir(0));
        command.args(["-c", "trap '' XFSZ; ulimit -f 128; exec \"$0\" --exact child --nocapture"]);
        let output = command.arg(std::env::current_exe().unwrap()).output().unwrap();
        let lines: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        assert!(lines.iter().any(|line| line.starts_with("failed ")), "{lines:?}");
        let numbers: Vec<u64> = lines.iter().filter_map(|line| acknowledged(line)).collect();
        assert!(!numbers.is_empty());
        has_all(&mut cluster, &numbers).await;
    });
}
