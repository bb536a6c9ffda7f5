//! Disks that fail: at every call of the C library that writes, and by what happens to files afterwards. Either everything
//! that was acknowledged is there again, or the log refuses to open and says where it is damaged and what to do.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use event_log::local::{LocalOptions, OpenError};
use event_log::raft::{
    ArchiveBounds, Committed, Machine, Member, Node, Options, Role, Transport, TransportError, WriteSnapshot, read_raft,
};
use event_log::{Gate, Header, Identity, LocalLog, RawEvent, Record};
use futures_util::future::BoxFuture;

const CHILD: &str = "EVENT_LOG_FAULTS_DIR";

/// Set to try every call, not some of them: `make faults`.
const ALL: &str = "EVENT_LOG_FAULTS_ALL";

/// Every call, if that is asked for.
fn step(step: usize) -> usize {
    if std::env::var_os(ALL).is_some() { 1 } else { step }
}

/// The preloaded library that makes calls fail.
fn shim() -> &'static Path {
    static SHIM: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = SHIM.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shim.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proptests/faults/shim.c");
        let built =
            Command::new("gcc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&path).arg(source).arg("-ldl").status();
        assert!(built.expect("gcc is there").success());
        (dir, path)
    });
    path
}

/// What goes wrong, and at which of the matching calls.
#[derive(Clone, Copy, Debug)]
struct Fault {
    kind: &'static str,
    file: &'static str,
    at: usize,
}

impl Fault {
    /// After these, what was acknowledged may only be there; nothing was written that is not what it should be.
    fn leaves_files_whole(&self) -> bool {
        !matches!(self.kind, "lost" | "flip")
    }
}

/// Runs `test` of this program in a process of its own, on a disk with a fault. What it acknowledged, and whether the
/// fault happened.
fn run_on(test: &str, dir: &Path, fault: Fault) -> (BTreeSet<u64>, bool) {
    let fired = dir.with_extension("fired");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .env("LD_PRELOAD", shim())
        .env("FAULT_FILE", fault.file)
        .env("FAULT_CALLS", "write,sync,open,rename,truncate,unlink")
        .env("FAULT_AT", fault.at.to_string())
        .env("FAULT_KIND", fault.kind)
        .env("FAULT_STICKY", if fault.at.is_multiple_of(2) { "1" } else { "" })
        .env("FAULT_FIRED", &fired)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!complaint.contains("panicked"), "{fault:?}: {complaint}");
    let numbers = said.lines().filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
    (numbers.collect(), fs::remove_file(fired).is_ok())
}

fn acknowledge(number: u64) {
    println!("\nacknowledged {number}");
}

fn record(header: Header, number: u64) -> Record {
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(60, 7);
    Record { header, causes: vec![], events: vec![RawEvent { number: 1, version: 1, cause: 0, payload }] }
}

fn number_of(record: &Record) -> u64 {
    u64::from_le_bytes(record.events[0].payload[..8].try_into().unwrap())
}

mod local {
    use super::*;

    const OPTIONS: LocalOptions = LocalOptions { segment_bytes: 700 };

    fn identity() -> Identity {
        Identity::new("test", 1)
    }

    /// Fills several segments and shortens the log once.
    #[test]
    fn child() {
        let Some(dir) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
        let Ok((log, _)) = LocalLog::open_with(&dir, &identity(), OPTIONS) else { return };
        let record = |number| record(Header::default(), number);
        let mut tickets = Vec::new();
        for number in 0..24 {
            tickets.push((number, log.append(record(number))));
            if number % 3 == 2 {
                for (number, ticket) in tickets.drain(..) {
                    if ticket.wait().is_err() {
                        return;
                    }
                    acknowledge(number);
                }
            }
            if number == 14 && log.rotate((0..=number).map(record).collect()).wait().is_err() {
                return;
            }
        }
    }

    fn reopen(dir: &Path) -> Result<BTreeSet<u64>, OpenError> {
        let (log, recovered) = LocalLog::open_with(dir, &identity(), OPTIONS)?;
        let numbers = recovered.map(|item| Ok(number_of(&item?.1))).collect::<Result<_, OpenError>>()?;
        log.append(record(Header::default(), 99)).wait().expect("it goes on");
        Ok(numbers)
    }

    #[test]
    fn no_call_that_fails_loses_what_was_acknowledged() {
        let (runs, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for kind in ["eio", "enospc", "erofs", "short", "torn", "crash", "lost", "flip"] {
                let (runs, refused) = (&runs, &refused);
                scope.spawn(move || {
                    // The first calls are each of their own kind; later ones repeat themselves.
                    for at in (1..14).chain((14..).step_by(step(4))) {
                        let dir = tempfile::tempdir().unwrap();
                        let (log, fault) = (dir.path().join("log"), Fault { kind, file: "/log/", at });
                        let (acknowledged, fired) = run_on("local::child", &log, fault);
                        if !fired {
                            assert_eq!(acknowledged.len(), 24);
                            assert!(at > 30, "{at} calls only");
                            break;
                        }
                        runs.fetch_add(1, Ordering::Relaxed);
                        refused.fetch_add(usize::from(check(fault, &log, &acknowledged)), Ordering::Relaxed);
                    }
                });
            }
        });
        let (runs, refused) = (runs.into_inner(), refused.into_inner());
        eprintln!("{runs} faults, {refused} refusals");
        assert!(runs > 120 && refused > 2, "{runs} faults, {refused} refusals");
    }

    /// Whether it was refused.
    fn check(fault: Fault, log: &Path, acknowledged: &BTreeSet<u64>) -> bool {
        match reopen(log) {
            Ok(found) => {
                assert!(found.is_superset(acknowledged), "{fault:?}: {acknowledged:?} {found:?}");
                false
            }
            Err(error) => {
                let error = event_log::sentence(&error);
                assert!(!fault.leaves_files_whole(), "{fault:?}: {error}");
                assert!(error.contains("restore the folder from a copy"), "{fault:?}: {error}");
                true
            }
        }
    }
}

mod member {
    use super::*;

    const ADDRESS: &str = "m:1";
    /// And how far apart the calls are that are tried.
    const FAULTS: [(&str, usize); 7] =
        [("eio", 11), ("enospc", 13), ("erofs", 23), ("torn", 9), ("crash", 17), ("lost", 19), ("flip", 15)];

    struct Nobody;

    impl Transport for Nobody {
        fn send(&self, to: &Member, _: Bytes, _: Duration) -> BoxFuture<'_, Result<Bytes, TransportError>> {
            let address = to.address.clone();
            Box::pin(async move { Err(TransportError::Unreachable { address, why: "it is alone".into() }) })
        }
    }

    /// The numbers that took effect.
    #[derive(Clone, Default)]
    struct Numbers(Arc<Mutex<(Gate, Vec<u64>)>>);

    impl Machine for Numbers {
        fn apply(&mut self, entries: Vec<Committed>) {
            let (gate, numbers) = &mut *self.0.lock().unwrap();
            let taken = entries.iter().filter(|entry| gate.admit(entry.term, &entry.record.header));
            numbers.extend(taken.map(|entry| number_of(&entry.record)));
        }

        fn snapshot(&self) -> WriteSnapshot {
            let (gate, numbers) = self.0.lock().unwrap().clone();
            Box::new(move |out| {
                let (term, n) = gate.position();
                for number in [term, n].iter().chain(&numbers) {
                    out.write_all(&number.to_le_bytes())?;
                }
                Ok(vec![1])
            })
        }

        fn restore(&mut self, _: u64, from: &mut dyn Read) -> Result<(), String> {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
            let mut numbers = bytes.chunks(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
            let (term, n) = (numbers.next().ok_or("empty")?, numbers.next().ok_or("empty")?);
            *self.0.lock().unwrap() = (Gate::resume(term, n), numbers.collect());
            Ok(())
        }
    }

    fn options(dir: &Path) -> Options {
        let mut options = Options::new(dir, ADDRESS);
        (options.heartbeat_ms, options.election_ms_min, options.election_ms_max) = (5, 15, 30);
        (options.snapshot_bytes, options.tail_entries_min, options.archive_segment_bytes) = (3_000, 5, 2_000);
        options.archive = ArchiveBounds { bytes_max: 20_000, ..ArchiveBounds::default() };
        options
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    }

    /// Leads alone and appends `count` numbers, as far as the disk lets it.
    async fn append(dir: &Path, from: u64, count: u64, acknowledged: impl Fn(u64)) -> Option<Node> {
        let node = Node::open(options(dir), Arc::new(Nobody), Numbers::default()).await.ok()?;
        node.form(&[ADDRESS.to_owned()], ADDRESS).await.ok()?;
        let mut status = node.status();
        let ends = |role: Role| role == Role::Leader || role == Role::Stopped;
        let term = status.wait_for(|status| ends(status.role)).await.ok()?.term;
        for (n, number) in (0..).zip(from..from + count) {
            let header = Header { term, n, ..Header::default() };
            node.append(term, record(header, number)).await.ok()?;
            acknowledged(number);
        }
        Some(node)
    }

    #[test]
    fn child() {
        let Some(dir) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
        // What goes wrong may go wrong while it stops: nobody waits for that.
        let runtime = runtime();
        runtime.block_on(async {
            let node = append(&dir, 0, 150, acknowledge).await;
            if let Some(node) = &node {
                node.shutdown().await;
            }
        });
        runtime.shutdown_timeout(Duration::from_secs(5));
        event_log::host::exit(0)
    }

    /// Everything that the member has after it was opened and leads again.
    async fn reopen(dir: &Path) -> Result<BTreeSet<u64>, OpenError> {
        let numbers = Numbers::default();
        let node = Node::open(options(dir), Arc::new(Nobody), numbers.clone()).await?;
        node.form(&[ADDRESS.to_owned()], ADDRESS).await.expect("alone");
        let mut status = node.status();
        let leads = status.wait_for(|status| status.role == Role::Leader || status.role == Role::Stopped);
        let led = tokio::time::timeout(Duration::from_secs(20), leads).await;
        let led = led.expect("it leads").expect("it lives").clone();
        assert_eq!(led.failure, None);
        node.read_index().await.expect("it has applied everything");
        let found = numbers.0.lock().unwrap().1.iter().copied().collect();
        node.shutdown().await;
        Ok(found)
    }

    fn check(context: &dyn std::fmt::Debug, dir: &Path, acknowledged: &BTreeSet<u64>, may_refuse: bool) -> bool {
        match runtime().block_on(reopen(dir)) {
            Ok(found) => {
                let gone: Vec<_> = acknowledged.difference(&found).collect();
                assert!(gone.is_empty(), "{context:?}: acknowledged and gone: {gone:?}");
                false
            }
            Err(error) => {
                let error = event_log::sentence(&error);
                assert!(may_refuse, "{context:?}: {error}");
                let remedy =
                    error.contains("meseta masters replace") || error.contains("restore the folder from a copy");
                assert!(remedy, "{context:?}: {error}");
                true
            }
        }
    }

    #[test]
    fn no_call_that_fails_loses_what_was_acknowledged() {
        let (runs, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        // Most of the time each of them waits.
        std::thread::scope(|scope| {
            let files = ["/log/entries/", "/log/snapshots/", "/log/archive/", "/log/"];
            for (file, (kind, step)) in files.into_iter().flat_map(|file| FAULTS.map(|fault| (file, fault))) {
                let (runs, refused) = (&runs, &refused);
                scope.spawn(move || {
                    // The first calls are each of their own kind; later ones repeat themselves.
                    let step = self::step(if file == "/log/archive/" { step / 3 } else { step });
                    let most = if std::env::var_os(ALL).is_some() { usize::MAX } else { 6 };
                    for at in (1..4).chain((4..).step_by(step)).take(most) {
                        let dir = tempfile::tempdir().unwrap();
                        let (log, fault) = (dir.path().join("log"), Fault { kind, file, at });
                        let (acknowledged, fired) = run_on("member::child", &log, fault);
                        if !fired {
                            break;
                        }
                        runs.fetch_add(1, Ordering::Relaxed);
                        let was_refused = check(&fault, &log, &acknowledged, !fault.leaves_files_whole());
                        refused.fetch_add(usize::from(was_refused), Ordering::Relaxed);
                    }
                });
            }
        });
        let (runs, refused) = (runs.into_inner(), refused.into_inner());
        eprintln!("{runs} faults, {refused} refusals");
        assert!(runs > 80, "{runs} faults");
    }

    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let to = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &to);
            } else {
                fs::copy(entry.path(), to).unwrap();
            }
        }
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
        }
        found.sort();
        found
    }

    /// Flips a bit, cuts the end off, or takes the file away.
    #[test]
    fn damage_anywhere_is_refused_or_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().join("log");
        let acknowledged: BTreeSet<u64> = (0..150).collect();
        for from in [0, 75] {
            let appended = async { append(&whole, from, 75, |_| {}).await.expect("a good disk").shutdown().await };
            runtime().block_on(appended);
            // Opening again also moves what is in the engine's own log to its tables.
            assert!(event_log::raft::wait_until_closed(Duration::from_secs(10)));
        }
        let whole_files = files(&whole);
        let (mut refused, mut damages) = (0, 0);
        for path in &whole_files {
            let name = path.file_name().unwrap().to_str().unwrap();
            // Diaries of the engine, and what is only locked.
            let length = fs::metadata(path).unwrap().len();
            if name.starts_with("LOG") || name.starts_with("OPTIONS") || name == "LOCK" || name == "lock" || length == 0
            {
                continue;
            }
            let relative = path.strip_prefix(&whole).unwrap();
            let places = [0, 9, length / 5, length / 3, length / 2, length * 4 / 5, length - 1];
            let flips = places.iter().map(|at| (Some(*at), length));
            let cuts = [0, length / 4, length / 2, length - 1].map(|length| (None, length));
            for (flip, length) in flips.chain(cuts) {
                let copied = dir.path().join("copy");
                copy(&whole, &copied);
                let mut bytes = fs::read(path).unwrap();
                bytes.truncate(length as usize);
                if let Some(at) = flip {
                    bytes[at as usize] ^= 0x20;
                }
                fs::write(copied.join(relative), bytes).unwrap();
                damages += 1;
                refused += usize::from(check(&(relative, flip, length), &copied, &acknowledged, true));
                // Whoever reads history is told, too, and gets nothing wrong.
                if let Ok(reader) = read_raft(&copied)
                    && let Ok(entries) = reader.entries(0)
                {
                    let good = entries.take_while(Result::is_ok).map(|entry| number_of(&entry.unwrap().record));
                    assert!(good.collect::<BTreeSet<_>>().is_subset(&acknowledged));
                }
                fs::remove_dir_all(&copied).unwrap();
            }
        }
        eprintln!("{damages} damages, {refused} refusals");
        assert!(refused > 20 && refused < damages, "{refused} of {damages}");
    }
}
