//! Golden logs of agents: what a release wrote, and what it folded to. They must fold to the same state for ever, or an agent
//! would not find its tasks after an upgrade. None is ever written again; `make bless` leaves a new one when a release has
//! kinds of events that no golden log has, or has left none yet.
//!
//! ```text
//! testdata/logs/VERSION-NUMBER/log.txt     a record a line, in hexadecimal
//! testdata/logs/VERSION-NUMBER/state.txt   State after each record
//! ```

use agent_core::{
    Blob, Clock, Event, EventError, FEATURE_LEVEL, Process, State, Why, decode_record, first, fold, restoring,
};
use api::v1::{self, TaskState};
use event_log::{Header, Record};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn logs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/logs")
}

fn golden() -> Vec<PathBuf> {
    let entries = fs::read_dir(logs()).into_iter().flatten();
    let mut dirs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    dirs.sort();
    dirs
}

fn read(dir: &Path) -> Vec<Record> {
    let text = fs::read_to_string(dir.join("log.txt")).unwrap();
    let record = |line: &str| {
        let bytes = (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap());
        let bytes: Vec<u8> = bytes.collect();
        let record = Record::decode(&bytes).unwrap();
        assert_eq!(record.encode(), bytes, "a record is encoded as it was");
        record
    };
    text.lines().map(record).collect()
}

fn fold_all(records: &[Record]) -> String {
    let mut state = State::default();
    let mut text = String::new();
    for record in records {
        for (event, raw) in decode_record(record).unwrap().iter().zip(&record.events) {
            if Event::KINDS.iter().any(|(number, version, _)| (*number, *version) == (raw.number, raw.version)) {
                assert_eq!(event.to_raw(raw.cause), *raw, "{event:?}");
            }
            fold(&mut state, event);
            text += &format!("# {}\n", event.name());
        }
        // As the releases that wrote it had it: what they did not know is not in what they left.
        let shown = match record.header.feature_level {
            ..=1 => ron::to_string(&first::State::from(&state)),
            _ => ron::to_string(&state),
        };
        text += &format!("{}\n", shown.unwrap());
    }
    text
}

fn kinds(records: &[Record]) -> BTreeSet<(u16, u16)> {
    records.iter().flat_map(|record| &record.events).map(|event| (event.number, event.version)).collect()
}

fn lacking(known: &BTreeSet<(u16, u16)>) -> Vec<&'static str> {
    let written = Event::KINDS.iter().filter(|(number, ..)| !PAST.contains(number));
    let lacking = written.filter(|(number, version, _)| !known.contains(&(*number, *version)));
    lacking.map(|(_, _, name)| *name).collect()
}

/// Kinds that were written once and are only read.
const PAST: [u16; 1] = [1];

fn missing() -> Vec<&'static str> {
    lacking(&golden().iter().flat_map(|dir| kinds(&read(dir))).collect())
}

fn status(task: &str, state: TaskState, uuid: u8) -> Blob {
    Blob::of(&v1::TaskStatus {
        task_id: v1::TaskId { value: task.into() },
        state: state as i32,
        uuid: Some(vec![uuid; 16].into()),
        ..Default::default()
    })
}

fn added(executor: &str, is_command: bool, container: &str) -> Event {
    Event::ExecutorAdded {
        framework_id: "f".into(),
        executor_id: executor.into(),
        is_command,
        info: Blob::of(&v1::ExecutorInfo::default()),
        container_id: container.into(),
        at_ms: 1_000,
        register_by_ms: (!is_command).then_some(61_000),
    }
}

fn task(executor: &str, task: &str) -> Event {
    let task_id = v1::TaskId { value: task.into() };
    Event::TaskAdded {
        framework_id: "f".into(),
        executor_id: executor.into(),
        task_id: task.into(),
        info: Blob::of(&v1::TaskInfo { name: task.into(), task_id, ..Default::default() }),
        group: None,
    }
}

fn written(executor: &str, task: &str, state: TaskState, uuid: u8) -> Event {
    Event::StatusWritten {
        framework_id: "f".into(),
        executor_id: Some(executor.into()),
        task_id: task.into(),
        task_state: state as i32,
        status: status(task, state, uuid),
        statuses_max: 32,
    }
}

/// Something of everything: an agent that is forgotten, and the one that it becomes.
fn story() -> Vec<Record> {
    let (f, e) = (|| "f".to_owned(), || "e".to_owned());
    let seen = || Event::FrameworkSeen { framework_id: f(), info: Blob::of(&v1::FrameworkInfo::default()) };
    let process = Process { supervisor_pid: 41, start_ticks: 5, boot_id: "boot".into(), pid: 42 };
    let started = |container: &str| Event::ContainerStarted {
        container_id: container.into(),
        process: process.clone(),
        complete_by_ms: Some(90_000),
    };
    let ended = |executor: &str, announced: bool| Event::ExecutorEnded {
        framework_id: f(),
        executor_id: executor.into(),
        status: Some(0),
        announced,
        completed_max: 150,
    };
    let clock = |at_ms: u64| Clock { at_ms, boot_id: "boot".into(), since_boot_ms: 500 };
    let subscribed = |stream| Event::ExecutorSubscribed { framework_id: f(), executor_id: e(), stream };
    let mut batches = vec![
        vec![Event::TokenChosen { token: [7; 16] }],
        vec![Event::Registered { agent_id: "S0".into(), cluster_id: "C".into() }],
        vec![Event::OrdersTaken { up_to: 1 }, seen(), added("t", true, "c1"), task("t", "t")],
        vec![started("c1"), written("t", "t", TaskState::TaskRunning, 1)],
        vec![Event::HealthSeen { container_id: "c1".into(), failures: 2 }],
        vec![Event::Forgotten {}],
        vec![Event::RemnantEnded { container_id: "c1".into() }],
        vec![
            Event::TokenChosen { token: [8; 16] },
            Event::Registered { agent_id: "S1".into(), cluster_id: "C".into() },
        ],
        vec![Event::OrdersTaken { up_to: 2 }, seen(), added("e", false, "c2"), task("e", "a"), task("e", "b")],
        vec![Event::ContainerReplaced { container_id: "c2".into(), replacement_id: "c3".into() }, started("c3")],
        vec![Event::ExecutorAnnounced { framework_id: f(), executor_id: e() }],
        vec![subscribed(1)],
        vec![Event::TasksDelivered { framework_id: f(), executor_id: e(), task_ids: vec!["a".into(), "b".into()] }],
        vec![written("e", "a", TaskState::TaskRunning, 2), written("e", "b", TaskState::TaskRunning, 3)],
        vec![Event::MessagesReceived { up_to: 2, operations_stay: false }],
    ];
    let mut state = State::default();
    batches.iter().flatten().for_each(|event| fold(&mut state, event));
    batches.extend([
        restoring(&state).collect(),
        vec![Event::Restarted { reregister_by_ms: 5_000, register_by_ms: 9_000, clock: clock(2_000), ahead_ms: 100 }],
        vec![subscribed(1), Event::ExecutorDisconnected { framework_id: f(), executor_id: e(), stream: 1 }],
        vec![subscribed(2)],
        vec![Event::TaskKillRequested { framework_id: f(), executor_id: e(), task_id: "a".into(), policy: None }],
        vec![written("e", "a", TaskState::TaskKilled, 4)],
        vec![Event::TasksForgotten { framework_id: f(), executor_id: e(), task_ids: vec!["a".into()] }],
        vec![Event::OrderNotUnderstood { seq: 3, sentence: "It is of a new kind".into() }],
        vec![Event::StopRequested { framework_id: f(), executor_id: e(), why: Why::Kill, kill_at_ms: 9_000 }],
        vec![Event::StopForced { framework_id: f(), executor_id: e() }],
        vec![written("e", "b", TaskState::TaskFailed, 5), ended("e", true)],
        vec![Event::OrdersTaken { up_to: 3 }, Event::FrameworkRemoved { framework_id: f() }],
        vec![Event::ExecutorForgotten { framework_id: f(), executor_id: e(), container_id: "c3".into() }],
        vec![Event::FrameworkForgotten { framework_id: f() }],
    ]);
    let checkpointed = || vec![Blob::of(&v1::Resource { name: "disk".into(), ..Default::default() })];
    let taken = |name: u8, on_disk: bool| Event::OperationTaken {
        operation: vec![name; 16],
        framework_id: (!on_disk).then(f),
        info: Blob::of(&v1::offer::Operation::default()),
        on_disk,
        checkpointed: checkpointed(),
    };
    let over = |name: u8, told: bool| Event::OperationEnded {
        operation: vec![name; 16],
        status: Blob::of(&v1::OperationStatus::default()),
        told,
    };
    let later = batches.len();
    batches.extend([
        vec![Event::InfoTaken { info: Blob::of(&v1::AgentInfo { hostname: "h".into(), ..Default::default() }) }],
        vec![taken(1, false), over(1, true), taken(2, true)],
        vec![Event::SpareEstimated { resources: checkpointed() }],
        vec![Event::DrainBegun { config: Blob::of(&v1::DrainConfig::default()), at_ms: 7_000 }],
    ]);
    batches[later - 1..].iter().flatten().for_each(|event| fold(&mut state, event));
    batches.extend([
        restoring(&state).collect(),
        vec![over(2, true), Event::DrainEnded {}],
        vec![Event::MessagesReceived { up_to: 8, operations_stay: true }],
        vec![Event::OperationsForgotten { operations: vec![vec![2; 16]] }],
        vec![taken(3, true)],
        vec![Event::Forgotten {}],
        vec![over(3, false)],
    ]);
    let version = || vec![5; 16];
    let provider = |stream| Event::ProviderSubscribed {
        provider_id: "p".into(),
        info: Blob::of(&v1::ResourceProviderInfo { r#type: "a.b".into(), name: "c".into(), ..Default::default() }),
        stream,
    };
    let stated = |operations| Event::ProviderStated {
        provider_id: "p".into(),
        version: version(),
        resources: checkpointed(),
        operations,
    };
    let provided = |name: u8| Event::ProviderOperationTaken {
        operation: vec![name; 16],
        framework_id: Some(f()),
        info: Blob::of(&v1::offer::Operation::default()),
        provider_id: "p".into(),
        version: version(),
    };
    let later = batches.len();
    batches.extend([
        vec![provider(1), stated(Vec::new())],
        vec![Event::ProvidersTaken {}],
        vec![provided(4), provided(5)],
        vec![Event::ProviderDisconnected { provider_id: "p".into(), stream: 1 }],
        vec![provider(2), stated(vec![vec![4; 16]])],
    ]);
    let mut state = State::default();
    batches[later..].iter().flatten().for_each(|event| fold(&mut state, event));
    batches.extend([
        restoring(&state).collect(),
        vec![over(4, true), over(5, true), Event::ProviderGone { provider_id: "p".into() }],
        vec![Event::Forgotten {}],
    ]);
    let launched = |id: &str, session: bool| Event::ContainerAdded {
        container_id: id.into(),
        info: Blob::of(&v1::agent::call::LaunchContainer::default()),
        user: "u".into(),
        session,
        at_ms: 8_000,
    };
    let container_ended = |id: &str, failure: Option<&str>| Event::ContainerEnded {
        container_id: id.into(),
        status: failure.is_none().then_some(256),
        failure: failure.map(str::to_owned),
    };
    let later = batches.len();
    batches.extend([
        vec![launched("a", false), started("a"), launched("a.b", false), started("a.b"), launched("a.c", true)],
        vec![launched("a.d", false), container_ended("a.d", None), launched("a.e", false)],
        vec![container_ended("a.e", Some("why"))],
        vec![Event::ContainerKillRequested { container_id: "a.c".into() }],
        vec![Event::ContainerEnding { container_id: "a".into(), status: Some(9) }],
        vec![Event::ContainerLimited {
            container_id: "a.c".into(),
            reason: 20,
            message: "Disk usage (2MB) exceeds quota (1MB)".into(),
            resources: checkpointed(),
        }],
    ]);
    // After what was forgotten.
    let mut state = State::default();
    batches[later..].iter().flatten().for_each(|event| fold(&mut state, event));
    batches.extend([
        restoring(&state).collect(),
        vec![Event::ContainerRemoved { container_id: "a.d".into(), with_files: true }],
        vec![container_ended("a.c", None), container_ended("a.b", None), container_ended("a", None)],
        vec![Event::LeavingBegun {}],
        vec![Event::Left {}],
    ]);
    let record = |(n, events): (usize, &Vec<Event>)| Record {
        header: Header { at_ms: 1_000 + n as u64, feature_level: FEATURE_LEVEL, ..Header::default() },
        causes: vec![event_log::Cause::default()],
        events: events.iter().map(|event| event.to_raw(0)).collect(),
    };
    batches.iter().enumerate().map(record).collect()
}

/// Leaves a new golden log if one is needed and it is allowed to (`make bless`).
fn bless() {
    let release = env!("CARGO_PKG_VERSION");
    let left = golden().iter().filter(|dir| is_of(dir, release)).count();
    if env::var_os("UPDATE_EXPECT").is_none() || (left > 0 && missing().is_empty()) {
        return;
    }
    let records = story();
    assert_eq!(lacking(&kinds(&records)), [""; 0], "the story of golden logs lacks these");
    let dir = logs().join(format!("{release}-{}", left + 1));
    // Not over one that is there, whatever it is.
    fs::create_dir_all(logs()).and_then(|()| fs::create_dir(&dir)).unwrap();
    let hex = |record: &Record| record.encode().iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    fs::write(dir.join("log.txt"), records.iter().map(hex).collect::<String>()).unwrap();
    fs::write(dir.join("state.txt"), fold_all(&records)).unwrap();
}

fn is_of(dir: &Path, release: &str) -> bool {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.rsplit_once('-').is_some_and(|(version, _)| version == release)
}

#[test]
fn golden_logs_fold_to_the_same_state_for_ever() {
    bless();
    for dir in golden() {
        let text = fold_all(&read(&dir));
        let expected = fs::read_to_string(dir.join("state.txt")).unwrap();
        assert!(text == expected, "{} folds to another state than it did:\n{text}", dir.display());
    }
    assert_eq!(missing(), [""; 0], "no golden log has these: `make bless` leaves a new one");
    let release = env!("CARGO_PKG_VERSION");
    let left = golden().iter().any(|dir| is_of(dir, release));
    assert!(left, "release {release} has left no golden log: `make bless` leaves one");
}

/// A shortened log of the first releases that is damaged is refused with a sentence; folding it would be too late.
#[test]
fn a_state_that_cannot_be_read_is_refused() {
    let raw = Event::Restored { state: Blob(vec![7; 3]) }.to_raw(0);
    assert!(matches!(Event::from_raw(&raw), Err(EventError::Payload { name: "Restored", .. })));
    assert!(golden().iter().flat_map(|dir| kinds(&read(dir))).any(|kind| kind == (1, 1)), "one is read");
}

#[test]
fn the_first_logs_had_no_level_and_newer_ones_are_refused() {
    let mut record = story().swap_remove(0);
    record.header.feature_level = 0;
    assert!(decode_record(&record).is_ok());
    record.header.feature_level = FEATURE_LEVEL + 1;
    assert_eq!(decode_record(&record), Err(EventError::Level { level: FEATURE_LEVEL + 1 }));
}
