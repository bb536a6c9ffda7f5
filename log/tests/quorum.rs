//! Members of a quorum in one process: real disks, a network in memory.

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

/// Appends under whoever leads, for as long as the test lasts; keeps what was acknowledged.
struct Load {
    stop: Arc<std::sync::atomic::AtomicBool>,
    task: tokio::task::JoinHandle<(Sequencer, Vec<u64>)>,
}

impl Load {
    /// `node` leads, and goes on leading.
    fn start(mut sequencer: Sequencer, from: u64) -> Load {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            let mut number = from;
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                let tickets: Vec<_> = (0..8).map(|i| (number + i, sequencer.append(number + i))).collect();
                number += 8;
                for (number, ticket) in tickets {
                    ticket.await.expect("the leader leads on");
                    acknowledged.push(number);
                }
            }
            (sequencer, acknowledged)
        });
        Load { stop, task }
    }

    async fn end(self) -> (Sequencer, Vec<u64>) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

async fn add_waiting(node: &Node, address: &str) -> Member {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        match node.add(address).await {
            // It has not said yet that it waits.
            Err(MembershipError::NotWaiting { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            added => return added.expect("added"),
        }
    }
}

#[test]
fn one_member_grows_to_three_and_a_dead_one_is_replaced_by_an_empty_disk() {
    runtime().block_on(async {
        let mut cluster = Cluster::formed(1).await;
        let (first, mut sequencer) = cluster.lead().await;
        // What an empty disk has to catch up with.
        let tickets: Vec<_> = (0..3000).map(|number| sequencer.append(number)).collect();
        for ticket in tickets {
            ticket.await.expect("committed");
        }
        let load = Load::start(sequencer, 10_000);
        for _ in 0..2 {
            let i = cluster.join().await;
            let added = add_waiting(&cluster.node(first), &address(i)).await;
            assert_eq!(added.node_id, cluster.node(i).node_id());
            assert_eq!(cluster.node(i).cluster_id(), cluster.node(first).cluster_id());
        }
        let members = cluster.node(first).members();
        assert_eq!(members.len(), 3);
        assert!(members.iter().all(|member| member.votes), "{members:?}");
        let mut acknowledged: Vec<u64> = (0..3000).collect();
        let (sequencer, numbers) = load.end().await;
        acknowledged.extend(numbers);
        // The folder is free when nobody holds the member.
        drop(sequencer);

        // The one that had everything from the beginning is lost, with its disk.
        let lost = cluster.node(first).node_id();
        cluster.stop(first).await;
        let (leader, sequencer) = cluster.lead().await;
        let load = Load::start(sequencer, 100_000);
        cluster.dirs[first] = tempfile::tempdir().unwrap();
        cluster.start_joining(first).await;
        assert_ne!(cluster.node(first).node_id(), lost, "another disk is another member");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        let replaced = loop {
            match cluster.node(leader).replace(lost, &address(first)).await {
                Err(MembershipError::NotWaiting { .. }) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                replaced => break replaced.expect("replaced"),
            }
        };
        assert_eq!(replaced.node_id, cluster.node(first).node_id());
        let ids: HashSet<u64> = cluster.node(leader).members().iter().map(|it| it.member.node_id).collect();
        assert!(ids.len() == 3 && !ids.contains(&lost), "{ids:?}");
        let (mut sequencer, numbers) = load.end().await;
        acknowledged.extend(numbers);

        // It counts: with it and without another of the old ones there is a quorum.
        let other = (0..3).find(|i| *i != first && *i != leader).unwrap();
        cluster.stop(other).await;
        sequencer.append(999_999).await.expect("committed");
        acknowledged.push(999_999);
        let reference = cluster.journal(leader).numbers();
        cluster.all_applied(reference.len()).await;
        let numbers: HashSet<u64> = reference.iter().map(|(_, number)| *number).collect();
        assert!(acknowledged.iter().all(|number| numbers.contains(number)), "something acknowledged is gone");
        assert_eq!(cluster.journal(first).numbers(), reference);
    });
}

#[test]
fn a_member_that_was_removed_hears_of_it_and_disturbs_nobody() {
    runtime().block_on(async {
        let cluster = Cluster::formed(3).await;
        let (leader, mut sequencer) = cluster.lead().await;
        let (node, gone) = (cluster.node(leader), (0..3).find(|i| *i != leader).unwrap());
        let term = sequencer.term;
        assert!(matches!(node.remove(node.node_id()).await, Err(MembershipError::Leads(_))));
        assert_eq!(node.remove(7).await, Err(MembershipError::NoSuchMember(7)));
        node.remove(cluster.node(gone).node_id()).await.expect("removed");
        let removed = cluster.node(gone);
        tokio::time::timeout(Duration::from_secs(20), removed.removed()).await.expect("it hears of it");
        sequencer.append(1).await.expect("committed");
        assert_eq!(node.status().borrow().term, term, "nobody asked for an election");

        // From two to one, and no further.
        let other = node.members().into_iter().find(|it| !it.leads).unwrap().member;
        node.remove(other.node_id).await.expect("removed");
        assert!(matches!(node.remove(node.node_id()).await, Err(MembershipError::Last(_))));
        sequencer.append(2).await.expect("committed by the one that is left");
    });
}

#[test]
fn what_would_lose_the_quorum_is_refused() {
    runtime().block_on(async {
        let mut cluster = Cluster::formed(3).await;
        let (leader, mut sequencer) = cluster.lead().await;
        let node = cluster.node(leader);
        assert!(matches!(node.add("nowhere:5050").await, Err(MembershipError::Unreachable { .. })));
        let follower = (0..3).find(|i| *i != leader).unwrap();
        let refused = node.add(&address(follower)).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!("{} cannot be added: it is a master of this cluster already", address(follower))
        );
        let refused = cluster.node(follower).add("nowhere:5050").await;
        assert!(matches!(refused, Err(MembershipError::NotLeader { .. })), "{refused:?}");
        // One is down: without another one nobody could commit anything.
        cluster.stop(follower).await;
        let third = (0..3).find(|i| *i != leader && *i != follower).unwrap();
        let refused = node.remove(cluster.node(third).node_id()).await;
        assert!(
            matches!(refused, Err(MembershipError::NoQuorum { answering: 1, voters: 2, needed: 2, .. })),
            "{refused:?}"
        );
        sequencer.append(1).await.expect("the quorum is as it was");
        // The one that is down can go.
        let down = node.members().into_iter().find(|it| it.member.address == address(follower)).unwrap();
        node.remove(down.member.node_id).await.expect("removed");
        sequencer.append(2).await.expect("committed");
        assert_eq!(node.members().len(), 2);
    });
}

#[test]
fn leadership_goes_where_it_is_asked_to() {
    runtime().block_on(async {
        let cluster = Cluster::formed(3).await;
        let (leader, _) = cluster.lead().await;
        let next = (leader + 1) % 3;
        cluster.node(leader).transfer_leadership_to(cluster.node(next).node_id()).await.expect("it takes over");
        assert_eq!(cluster.lead().await.0, next);
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
fn snapshots_speed_recovery_up() {
    runtime().block_on(async {
        let mut cluster = Cluster::new(1);
        cluster.snapshot_bytes = 20_000;
        cluster.start(0).await.form(&cluster.masters(), &address(0)).await.unwrap();
        let (_, mut sequencer) = cluster.lead().await;
        let snapshots = cluster.dir(0).join("snapshots");
        let count = || std::fs::read_dir(&snapshots).unwrap().count();
        let mut number = 0;
        while count() < 2 {
            sequencer.append(number).await.expect("committed");
            number += 1;
            assert!(number < 100_000, "no snapshot is ever taken");
        }
        let before = cluster.journal(0).numbers();

        // Beside the running member: its history is whole, and its snapshots are parts of it.
        let reader = read_raft(&cluster.dir(0)).expect("readable");
        assert_eq!(reader.cluster_id(), cluster.node(0).cluster_id().as_deref());
        let committed = || reader.committed_index().unwrap().unwrap_or(0);
        let last = before.last().unwrap().0;
        eventually("the reader sees what was acknowledged", || reader.refresh().is_ok() && committed() >= last).await;
        let mut history = Journal::default();
        history.apply(reader.entries(0).unwrap().collect::<Result<_, _>>().unwrap());
        assert_eq!(history.numbers(), before);
        let snapshot = reader.snapshots().unwrap().pop().unwrap();
        let mut rebuilt = Journal::default();
        rebuilt.restore(snapshot.index, &mut reader.open_snapshot(&snapshot).unwrap()).unwrap();
        rebuilt.apply(reader.entries(snapshot.index + 1).unwrap().collect::<Result<_, _>>().unwrap());
        assert_eq!(rebuilt.numbers(), before);

        drop(sequencer);
        cluster.stop(0).await;
        cluster.start(0).await;
        cluster.lead().await;
        let journal = cluster.journal(0);
        assert_eq!(journal.numbers()[..before.len()], before);
        assert!(journal.0.lock().unwrap().restored > 0);
    });
}

/// Appends until the condition holds, which must be soon.
async fn append_until(sequencer: &mut Sequencer, next: &mut u64, what: &str, condition: impl Fn(u64) -> bool) {
    for _ in 0..5_000 {
        if condition(*next) {
            return;
        }
        sequencer.append(*next).await.expect("committed");
        *next += 1;
    }
    panic!("never: {what}");
}

fn files(dir: PathBuf) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    // What is written aside has no place among them yet.
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_none_or(|end| end != "tmp")).collect();
    files.sort();
    files
}

/// The journal that follows from what a reader has: a snapshot, if history does not begin at the beginning.
fn read_history(reader: &RaftReader) -> Vec<(u64, u64)> {
    let mut journal = Journal::default();
    let first = reader.first_index().unwrap();
    if first > 0 {
        let snapshots = reader.snapshots().unwrap();
        let snapshot = snapshots.iter().find(|it| it.index + 1 == first).expect("history begins with a snapshot");
        journal.restore(snapshot.index, &mut reader.open_snapshot(snapshot).unwrap()).unwrap();
    }
    journal.apply(reader.entries(first).unwrap().collect::<Result<_, _>>().unwrap());
    journal.numbers()
}

/// The indexes of all records from `from` to `last`, as the running member reads them in small pages.
fn read_live(node: &Node, from: u64, last: u64) -> Vec<u64> {
    let mut history = node.history(from).expect("kept");
    let mut indexes = Vec::new();
    while history.next_index() <= last {
        indexes.extend(history.page(last + 1, 500).expect("readable").iter().map(|record| record.index));
    }
    indexes
}

#[test]
fn history_moves_to_the_archive_and_reads_as_one_log() {
    runtime().block_on(async {
        let mut cluster = Cluster::new(1);
        cluster.snapshot_bytes = 20_000;
        cluster.start(0).await.form(&cluster.masters(), &address(0)).await.unwrap();
        let (_, mut sequencer) = cluster.lead().await;
        let (archive, snapshots) = (cluster.dir(0).join("archive"), cluster.dir(0).join("snapshots"));
        let mut next = 0;
        append_until(&mut sequencer, &mut next, "many segments", |_| files(archive.clone()).len() > 12).await;
        let before = cluster.journal(0).numbers();

        // By the member itself, from its archive and its log.
        let last = before.last().unwrap().0;
        let indexes: Vec<u64> = before.iter().map(|(index, _)| *index).collect();
        for from in [0, last / 3, last / 2, last - 1] {
            let expected: Vec<u64> = indexes.iter().copied().filter(|index| *index >= from).collect();
            assert_eq!(read_live(&cluster.node(0), from, last), expected);
        }
        let until = cluster.node(0).snapshot_until(last).unwrap().expect("a snapshot");
        assert!(until.index <= last && cluster.node(0).snapshot_until(0).unwrap().is_none());

        // Beside the running member.
        let reader = read_raft(&cluster.dir(0)).expect("readable");
        assert_eq!(reader.first_index().unwrap(), 0);
        assert_eq!(reader.ranges().unwrap().len(), 1);
        let committed = || reader.committed_index().unwrap().unwrap_or(0);
        eventually("the reader sees what was acknowledged", || reader.refresh().is_ok() && committed() >= last).await;
        assert_eq!(read_history(&reader), before);
        let middle: Vec<u64> = reader.entries(last / 2).unwrap().map(|entry| entry.unwrap().index).collect();
        assert!(middle.iter().copied().eq(last / 2..=last));
        drop((reader, sequencer));
        cluster.stop(0).await;

        // Damaged snapshots are set aside; without any the archive leads up to the log.
        let newest = files(snapshots.clone()).pop().unwrap();
        let mut bytes = std::fs::read(&newest).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&newest, bytes).unwrap();
        cluster.start(0).await;
        assert!(!newest.exists() && newest.with_extension("damaged").exists());
        cluster.lead().await;
        assert_eq!(cluster.journal(0).numbers()[..before.len()], before);
        cluster.stop(0).await;
        files(snapshots.clone()).iter().for_each(|path| std::fs::remove_file(path).unwrap());
        cluster.start(0).await;
        cluster.lead().await;
        assert_eq!(cluster.journal(0).numbers()[..before.len()], before);
        assert_eq!(cluster.journal(0).0.lock().unwrap().restored, 0);
        cluster.stop(0).await;

        // Without either it is refused.
        files(snapshots.clone()).iter().for_each(|path| std::fs::remove_file(path).unwrap());
        let aside = archive.with_extension("aside");
        std::fs::rename(&archive, &aside).unwrap();
        let wire = Arc::new(Wire { net: Net::default(), me: address(0) });
        let refused = Node::open(Options::new(cluster.dir(0), address(0)), wire, Journal::default()).await.unwrap_err();
        assert!(matches!(refused, OpenError::Damaged { index: 0, .. }), "{refused}");
        std::fs::remove_dir_all(&archive).unwrap();
        std::fs::rename(&aside, &archive).unwrap();

        // History has its bounds.
        cluster.archive.bytes_max = 30_000;
        cluster.start(0).await;
        let (_, mut sequencer) = cluster.lead().await;
        let begins = || read_raft(&cluster.dir(0)).unwrap().first_index().unwrap();
        append_until(&mut sequencer, &mut next, "a later beginning", |next| next % 50 == 0 && begins() > last).await;
        let gone = cluster.node(0).history(0).err().expect("its beginning was removed");
        assert!(matches!(gone, HistoryError::Gone { first } if first > last), "{gone}");
        let size: u64 = files(archive).iter().map(|path| path.metadata().unwrap().len()).sum();
        assert!(size < 60_000, "{size}");
        assert!(files(snapshots).len() < 14);
        drop(sequencer);
        cluster.stop(0).await;
        let whole = cluster.start(0).await;
        cluster.lead().await;
        drop(whole);
        let now = cluster.journal(0).numbers();
        cluster.stop(0).await;
        assert_eq!(read_history(&read_raft(&cluster.dir(0)).unwrap()), now, "what is kept leads to the same state");
    });
}

#[test]
fn a_member_too_far_behind_catches_up_by_a_snapshot_even_if_that_breaks_off() {
    runtime().block_on(async {
        let mut cluster = Cluster::new(3);
        cluster.snapshot_bytes = 10_000;
        for i in 0..3 {
            cluster.start(i).await;
        }
        let masters = cluster.masters();
        let forming = (0..3).map(|i| {
            let (node, masters) = (cluster.node(i), masters.clone());
            async move { node.form(&masters, &address(i)).await }
        });
        futures_util::future::join_all(forming).await.into_iter().for_each(|formed| formed.unwrap());
        let (leader, mut sequencer) = cluster.lead().await;
        let mut next = 0;
        append_until(&mut sequencer, &mut next, "some", |next| next == 30).await;
        cluster.all_applied(31).await;
        let behind = (0..3).find(|i| *i != leader).unwrap();
        let had = cluster.journal(behind).numbers();
        cluster.stop(behind).await;
        let archived = || files(cluster.dir(leader).join("archive")).len();
        append_until(&mut sequencer, &mut next, "entries leave the leader's log", |_| archived() > 8).await;

        // Slow enough to be cut off in the middle.
        cluster.net.0.lock().unwrap().delay_ms = 2;
        cluster.start(behind).await;
        let snapshots = cluster.dir(behind).join("snapshots");
        let incoming = || {
            let mut entries = std::fs::read_dir(&snapshots).unwrap().map(|entry| entry.unwrap());
            entries.any(|entry| {
                entry.path().extension().is_some_and(|end| end == "tmp")
                    && entry.metadata().is_ok_and(|it| it.len() > 0)
            })
        };
        for _ in 0..2 {
            eventually("a snapshot is on its way", incoming).await;
            let refused = || cluster.net.0.lock().unwrap().refused;
            cluster.net.0.lock().unwrap().cut.insert(address(behind));
            let before = refused();
            eventually("it breaks off", || refused() > before + 3).await;
            assert_eq!(cluster.journal(behind).0.lock().unwrap().restored, 0, "a part is not taken for the whole");
            cluster.net.0.lock().unwrap().cut.clear();
        }
        cluster.net.0.lock().unwrap().delay_ms = 0;
        sequencer.append(next).await.expect("committed by the same leader");
        let journal = cluster.journal(behind);
        eventually("it has everything", || journal.numbers().last().is_some_and(|(_, number)| *number == next)).await;
        let restored = journal.0.lock().unwrap().restored;
        assert!(restored > had.last().unwrap().0);
        let expected = journal.numbers();

        // So does whoever is new.
        let joined = cluster.join().await;
        cluster.node(leader).add(&address(joined)).await.expect("it learns by a snapshot first");
        let learned = cluster.journal(joined);
        eventually("the new one has everything", || learned.numbers() == expected).await;
        assert!(learned.0.lock().unwrap().restored > 0);

        // It says what it lacks, and the rest reads as ever.
        drop(sequencer);
        cluster.stop(behind).await;
        let reader = read_raft(&cluster.dir(behind)).unwrap();
        let ranges = reader.ranges().unwrap();
        assert!(matches!(&ranges[..], [old, new] if *old.start() == 0 && *new.start() == restored + 1), "{ranges:?}");
        assert_eq!(reader.first_index().unwrap(), restored + 1);
        assert_eq!(read_history(&reader), expected);
        let mut old = Journal::default();
        old.apply(reader.entries_of_range(0).unwrap().collect::<Result<_, _>>().unwrap());
        assert_eq!(old.numbers(), had, "what it had before is history still");
    });
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
