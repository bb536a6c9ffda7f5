//! A local log through crashes, damage, full disks and other people's folders.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use event_log::local::{AppendError, LocalOptions, OpenError};
use event_log::{Header, Identity, LocalLog, RawEvent, Record, read_local};

fn identity() -> Identity {
    Identity::new("test", 3)
}

fn record(n: u64) -> Record {
    let payload = vec![n as u8; 10 + (n % 50) as usize];
    let events = vec![RawEvent { number: 1, version: 1, cause: 0, payload }];
    Record { header: Header { n, ..Header::default() }, causes: vec![], events }
}

fn open(dir: &Path) -> (LocalLog, Vec<u64>) {
    let (log, recovered) = LocalLog::open(dir, &identity()).expect("opens");
    let mut expected = None;
    let numbers = recovered.map(|item| {
        let (index, found) = item.expect("readable");
        assert_eq!(found, record(found.header.n));
        assert_eq!(index, *expected.get_or_insert(index), "indexes have no gaps");
        expected = Some(index + 1);
        found.header.n
    });
    let numbers = numbers.collect();
    (log, numbers)
}

fn read(dir: &Path) -> Result<Vec<u64>, OpenError> {
    read_local(dir)?.map(|item| Ok(item?.1.header.n)).collect()
}

/// Appends one by one: each record has its own sync.
fn append_each(log: &LocalLog, numbers: std::ops::Range<u64>) {
    for n in numbers {
        log.append(record(n)).wait().expect("appended");
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "segment")).collect();
    paths.sort();
    paths
}

/// Every file of a folder, to see that nothing was touched.
fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.map(|path| (path.clone(), fs::read(&path).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn what_was_appended_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let (log, found) = open(dir.path());
    assert!(found.is_empty());
    let tickets: Vec<_> = (0..1000).map(|n| log.append(record(n))).collect();
    assert_eq!(log.last_index(), 1000);
    for (n, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(ticket.wait().unwrap(), n as u64 + 1);
    }
    assert_eq!(log.append_all(vec![record(1000), record(1001)]).wait().unwrap(), 1002);
    assert_eq!(read(dir.path()).unwrap(), (0..1002).collect::<Vec<_>>(), "read beside the writer");
    drop(log);
    assert_eq!(open(dir.path()).1, (0..1002).collect::<Vec<_>>());
}

#[tokio::test]
async fn tickets_are_futures() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).0;
    let (one, two) = (log.append(record(0)), log.append(record(1)));
    assert_eq!((two.await.unwrap(), one.await.unwrap()), (2, 1));
}

#[test]
fn a_log_spans_segments() {
    let dir = tempfile::tempdir().unwrap();
    let options = LocalOptions { segment_bytes: 500 };
    let log = LocalLog::open_with(dir.path(), &identity(), options).unwrap().0;
    append_each(&log, 0..50);
    drop(log);
    assert!(segments(dir.path()).len() > 3);
    assert_eq!(read(dir.path()).unwrap(), (0..50).collect::<Vec<_>>());

    // A segment in the middle is gone.
    fs::remove_file(&segments(dir.path())[1]).unwrap();
    let before = content(dir.path());
    assert!(matches!(LocalLog::open(dir.path(), &identity()), Err(OpenError::Damaged { .. })));
    assert_eq!(content(dir.path()), before);
}

#[test]
fn a_snapshot_replaces_history_in_one_step() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    append_each(&log, 0..100);
    let before = log.append(record(100));
    let rotated = log.rotate(vec![record(900), record(901)]);
    let after = log.append(record(101));
    assert_eq!(before.wait().unwrap(), 101);
    assert_eq!(rotated.wait().unwrap(), 103);
    assert_eq!(after.wait().unwrap(), 104);
    assert!(log.size_bytes() < 400);
    drop(log);
    assert_eq!(segments(dir.path()).len(), 1);
    let (log, found) = open(dir.path());
    assert_eq!(found, [900, 901, 101]);
    assert_eq!(log.append(record(102)).wait().unwrap(), 105);
    // An empty state has an empty snapshot.
    log.rotate(vec![]).wait().unwrap();
    append_each(&log, 0..1);
    drop(log);
    assert_eq!(open(dir.path()).1, [0]);
}

#[test]
fn readers_see_whole_generations_while_the_writer_rotates() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    log.rotate((0..10).map(record).collect()).wait().unwrap();
    let writer = std::thread::spawn(move || {
        for _ in 0..60 {
            let appended = log.append(record(10));
            log.rotate((0..10).map(record).collect()).wait().unwrap();
            appended.wait().unwrap();
        }
    });
    while !writer.is_finished() {
        let numbers = read(dir.path()).unwrap();
        assert!(numbers.len() == 10 || numbers.len() == 11, "{numbers:?}");
        assert!(numbers.iter().copied().eq(0..numbers.len() as u64));
    }
    writer.join().unwrap();
}

#[test]
fn a_torn_tail_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    append_each(&log, 0..5);
    let before = fs::metadata(&segments(dir.path())[0]).unwrap().len() as usize;
    let (reached, reached_path) = (fs::read(dir.path().join("reached")).unwrap(), dir.path().join("reached"));
    append_each(&log, 5..6);
    drop(log);
    let path = &segments(dir.path())[0];
    let whole = fs::read(path).unwrap();
    // The last record was acknowledged: without it the log is not what it was.
    fs::write(path, &whole[..before + 1]).unwrap();
    let refused = LocalLog::open(dir.path(), &identity()).expect_err("something is gone");
    assert!(matches!(refused, OpenError::Damaged { index: 6, .. }), "{refused}");
    for length in before..whole.len() {
        // As if it had not been: the write was not finished.
        fs::write(&reached_path, &reached).unwrap();
        let mut torn = whole[..length].to_vec();
        fs::write(path, &torn).unwrap();
        assert_eq!(read(dir.path()).unwrap(), (0..5).collect::<Vec<_>>());
        // A file system may also have made room and not filled it.
        torn.resize(whole.len() + 100, 0);
        fs::write(path, &torn).unwrap();
        let (log, found) = open(dir.path());
        assert_eq!(found, (0..5).collect::<Vec<_>>(), "cut at {length}");
        append_each(&log, 5..7);
        drop(log);
        assert_eq!(open(dir.path()).1, (0..7).collect::<Vec<_>>());
    }
}

#[test]
fn damage_in_the_middle_is_refused_with_its_index() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    append_each(&log, 0..3);
    let start = fs::metadata(&segments(dir.path())[0]).unwrap().len() as usize;
    append_each(&log, 3..4);
    let end = fs::metadata(&segments(dir.path())[0]).unwrap().len() as usize;
    append_each(&log, 4..8);
    drop(log);
    let path = &segments(dir.path())[0];
    let whole = fs::read(path).unwrap();
    for at in start..end {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(path, &damaged).unwrap();
        let error = LocalLog::open(dir.path(), &identity()).expect_err("damaged");
        assert!(matches!(error, OpenError::Damaged { index: 4, .. }), "byte {at}: {error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert!(matches!(read(dir.path()), Err(OpenError::Damaged { index: 4, .. })));
        assert_eq!(fs::read(path).unwrap(), damaged, "nothing was changed");
    }
    fs::write(path, &whole).unwrap();
    assert_eq!(open(dir.path()).1.len(), 8);
}

#[test]
fn other_folders_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path());
    append_each(&log, 0..3);
    assert!(matches!(LocalLog::open(dir.path(), &identity()), Err(OpenError::Locked { .. })));
    drop(log);
    let before = content(dir.path());
    let try_open = |identity: Identity| LocalLog::open(dir.path(), &identity).map(|_| ()).unwrap_err();
    let other = try_open(Identity::new("other", 3));
    assert_eq!(
        other.to_string(),
        format!("{} holds a log of kind 'test', not 'other': use a folder of its own", dir.path().display())
    );
    assert!(matches!(try_open(Identity::new("test", 2)), OpenError::Newer { found: 3, supported: 2, .. }));
    assert_eq!(content(dir.path()), before);
    assert!(LocalLog::open(dir.path(), &Identity::new("test", 4)).is_ok(), "an older version is welcome");

    fs::write(dir.path().join("identity"), "event log\nkind test\nversion 3\ncrc32 00000000\n").unwrap();
    assert!(matches!(try_open(identity()), OpenError::DamagedFile { .. }));
    fs::remove_file(dir.path().join("identity")).unwrap();
    assert!(matches!(try_open(identity()), OpenError::DamagedFile { .. }));
    assert!(matches!(read_local(dir.path()), Err(OpenError::Missing { .. })));

    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(LocalLog::open(&file.join("log"), &identity()), Err(OpenError::Io { .. })));
}

/// What the tests below run in a process of its own: this test, told so by its environment.
#[test]
fn child() {
    let Some(dir) = std::env::var_os("EVENT_LOG_TEST_DIR").map(PathBuf::from) else { return };
    let log = open(&dir).0;
    let mut out = std::io::stdout().lock();
    let start = log.last_index();
    for batch in 0.. {
        let tickets: Vec<_> = (0..7).map(|n| log.append(record(start + batch * 7 + n))).collect();
        for (n, ticket) in tickets.into_iter().enumerate() {
            match ticket.wait() {
                Ok(_) => writeln!(out, "acknowledged {}", start + batch * 7 + n as u64).unwrap(),
                Err(error) => {
                    assert!(matches!(error, AppendError::DiskFull), "{error:?}");
                    let later = log.append(record(0)).wait();
                    assert!(matches!(later, Err(AppendError::DiskFull)), "{later:?}");
                    writeln!(out, "full").unwrap();
                    return;
                }
            }
        }
    }
}

fn acknowledged(lines: &[String]) -> Option<u64> {
    let mut numbers = lines.iter().filter_map(|line| line.split_once("acknowledged ")?.1.parse().ok());
    numbers.next_back()
}

fn child_command(program: impl AsRef<std::ffi::OsStr>, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("EVENT_LOG_TEST_DIR", dir).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

#[test]
fn a_killed_process_loses_nothing_that_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut survived = 0;
    for round in 1..=5 {
        let mut command = child_command(std::env::current_exe().unwrap(), dir.path());
        let mut child = command.args(["--exact", "child", "--nocapture"]).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut seen: Vec<String> = Vec::new();
        while acknowledged(&seen).is_none_or(|number| number < survived + round * 20) {
            seen.push(lines.next().expect("the child works until it is killed"));
        }
        child.kill().unwrap();
        seen.extend(lines);
        child.wait().unwrap();
        let acknowledged = acknowledged(&seen).unwrap();
        let (log, found) = open(dir.path());
        assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>());
        assert!(found.len() as u64 > acknowledged, "{} records, {acknowledged} acknowledged", found.len());
        survived = log.last_index();
    }
}

#[test]
fn a_full_disk_refuses_and_keeps_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    // A limit on the size of files, met by a write in the middle of a record, as on a full disk.
    let mut command = child_command("bash", dir.path());
    command.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" --exact child --nocapture"]);
    let output = command.arg(std::env::current_exe().unwrap()).output().unwrap();
    let lines: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert!(lines.iter().any(|line| line.ends_with("full")), "{lines:?}");
    let acknowledged = acknowledged(&lines).unwrap();
    assert!(read(dir.path()).unwrap().len() as u64 > acknowledged);
    let (log, found) = open(dir.path());
    assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>());
    assert!(found.len() as u64 > acknowledged);
    append_each(&log, 0..1);
}
