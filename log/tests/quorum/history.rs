//! Snapshots, the archive, and members that are too far behind.

use super::*;

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
