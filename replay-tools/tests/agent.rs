//! `meseta-log` on the log of an agent.

mod common;

use agent_core::{Blob, Event, LOG_DIR, LOG_KIND, LOG_VERSION};
use common::{at, failure, json, text};
use event_log::{Cause, Header, Identity, LocalLog, Record};
use std::fs;
use std::path::Path;

/// An agent registers, gets a framework and one task of it, and tells of the task's states; one event each record.
fn history() -> Vec<Event> {
    let (framework_id, executor_id, task_id) = ("C-0000".to_owned(), "t1".to_owned(), "t1".to_owned());
    let status = |task_state| Event::StatusWritten {
        framework_id: framework_id.clone(),
        executor_id: Some(executor_id.clone()),
        task_id: task_id.clone(),
        task_state,
        status: Blob::default(),
        statuses_max: 32,
    };
    vec![
        Event::TokenChosen { token: [7; 16] },
        Event::Registered { agent_id: "C-S0".into(), cluster_id: "C".into() },
        Event::FrameworkSeen { framework_id: framework_id.clone(), info: Blob::default() },
        Event::ExecutorAdded {
            framework_id: framework_id.clone(),
            executor_id: executor_id.clone(),
            is_command: true,
            info: Blob::default(),
            container_id: "c1".into(),
            at_ms: 1000,
            register_by_ms: None,
        },
        Event::TaskAdded {
            framework_id: framework_id.clone(),
            executor_id: executor_id.clone(),
            task_id: task_id.clone(),
            info: Blob::default(),
            group: None,
        },
        status(0),
        status(1),
        Event::MessagesReceived { up_to: 2, operations_stay: false },
    ]
}

fn write(dir: &Path, events: &[Event]) -> LocalLog {
    let (log, _) = LocalLog::open(&dir.join(LOG_DIR), &Identity::new(LOG_KIND, LOG_VERSION)).unwrap();
    for (place, event) in events.iter().enumerate() {
        let cause = Cause { call: "TEST".into(), ..Cause::default() };
        let header = Header { at_ms: 1_795_216_398_418 + place as u64, ..Header::default() };
        log.append(Record { header, causes: vec![cause], events: vec![event.to_raw(0)] }).wait().unwrap();
    }
    log
}

#[test]
fn a_log_is_told_while_its_agent_runs() {
    let dir = tempfile::tempdir().unwrap();
    let _running = write(dir.path(), &history());
    let work_dir = at(dir.path());

    let info = &json(&["info", work_dir])[0];
    assert_eq!((info["kind"].as_str(), info["last_index"].as_u64()), (Some("agent"), Some(8)));

    let lines = text(&["cat", work_dir]);
    let first = lines.lines().next().unwrap();
    assert!(first.starts_with("1 0 2026-11-20T23:13:18.418Z token-chosen token="), "{first}");
    assert_eq!(lines.lines().count(), 8);
    assert!(lines.contains("registered agent_id=C-S0 cluster_id=C cause=TEST"), "{lines}");

    let updates = json(&["cat", work_dir, "--type", "status-written", "--from=7"]);
    assert_eq!(updates.len(), 1);
    assert_eq!(
        (updates[0]["index"].as_u64(), updates[0]["fields"]["task_state"].as_str()),
        (Some(7), Some("TASK_RUNNING"))
    );
    assert_eq!(updates[0]["cause"]["call"], "TEST");
    assert_eq!(json(&["cat", work_dir, "--task=t1"]).len(), 3);
    assert_eq!(json(&["cat", work_dir, "--framework=C-0000", "--to=3"]).len(), 1);
    assert_eq!(json(&["explain", "task", "C-0000/t1", "--events", work_dir]).len(), 3);

    let verified = json(&["verify", work_dir]);
    let last = verified.last().unwrap();
    assert_eq!((last["ok"].as_bool(), last["last_index"].as_u64()), (Some(true), Some(8)));
    let state = &json(&["state", work_dir])[0];
    assert_eq!(state["digest"], last["digest"]);
    assert_eq!(state["state"]["registration"]["agent_id"], "C-S0");
}

#[test]
fn the_state_at_an_index_is_that_of_the_fold_up_to_it() {
    let dir = tempfile::tempdir().unwrap();
    drop(write(dir.path(), &history()));
    let work_dir = at(dir.path());
    let mut folded = agent_core::State::default();
    for (place, event) in history().iter().enumerate() {
        agent_core::fold(&mut folded, event);
        let state = &json(&["state", "--at", &(place + 1).to_string(), work_dir])[0];
        assert_eq!(state["index"], place + 1);
        assert_eq!(state["state"]["messages"]["up_to"], folded.messages.up_to);
        let verified = json(&["verify", "--to", &(place + 1).to_string(), work_dir]);
        assert_eq!(verified.last().unwrap()["digest"], state["digest"]);
    }
    let (sentence, code) = failure(&["state", "--at=9", work_dir]);
    assert_eq!((sentence.contains("ends at index 8"), code), (true, 1), "{sentence}");

    let difference = text(&["diff", "7", "8", work_dir]);
    assert!(difference.contains("~ messages.received_up_to: 0 -> 2"), "{difference}");
}

#[test]
fn a_time_names_a_place() {
    let dir = tempfile::tempdir().unwrap();
    drop(write(dir.path(), &history()));
    let work_dir = at(dir.path());
    // Each record is a millisecond after the one before it; the first was made at .418.
    for (time, index) in [
        ("2026-11-20T23:13:18.417Z", 0),
        ("2026-11-20T23:13:18.418Z", 1),
        ("2026-11-21T00:13:18.421+01:00", 4),
        ("@1795216398.424", 7),
        ("2027-01-01T00:00:00Z", 8),
    ] {
        assert_eq!(json(&["state", "--at", time, work_dir])[0]["index"], index, "{time}");
    }
    let lines = json(&["cat", "--from=@1795216398.420", "--to=2026-11-20T23:13:18.422Z", work_dir]);
    let indexes: Vec<_> = lines.iter().map(|line| line["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, [3, 4, 5]);
    let verified = json(&["verify", "--to", "@1795216398.420", work_dir]);
    assert_eq!(verified.last().unwrap()["last_index"], 3);
    assert!(text(&["diff", "@1795216398.424", "8", work_dir]).contains("received_up_to"));
}

#[test]
fn a_part_of_the_state_is_selected_and_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    drop(write(dir.path(), &history()));
    let work_dir = at(dir.path());
    assert_eq!(text(&["state", "--select=registration.agent_id", work_dir]), "C-S0\n");
    let selected = &json(&["state", "--select=frameworks.count", "--at=3", work_dir])[0];
    assert_eq!((selected["value"].as_u64(), selected["index"].as_u64()), (Some(1), Some(3)));
    let (sentence, code) = failure(&["state", "--select=frameworks.nobody", work_dir]);
    assert_eq!((sentence.contains("no frameworks.nobody in the state at index 8"), code), (true, 1), "{sentence}");

    let first = &json(&["bisect", "--select", "frameworks.count", "--equals", "1", work_dir])[0];
    assert_eq!((first["index"].as_u64(), first["events"][0]["event"].as_str()), (Some(3), Some("framework-seen")));
    let first = &json(&["bisect", "--select=messages.received_up_to", "--at-least=1", work_dir])[0];
    assert_eq!(first["index"], 8);
    let (sentence, code) = failure(&["bisect", "--select=frameworks.count", "--at-least=2", work_dir]);
    assert_eq!((sentence.contains("never was so up to index 8"), code), (true, 1), "{sentence}");
    let (sentence, code) = failure(&["bisect", work_dir]);
    assert_eq!((sentence.contains("no invariant fails up to index 8"), code), (true, 1), "{sentence}");
    assert_eq!(failure(&["bisect", "--equals=1", work_dir]).1, 2);
}

#[test]
fn a_log_is_counted_and_exported() {
    let dir = tempfile::tempdir().unwrap();
    drop(write(dir.path(), &history()));
    let work_dir = at(dir.path());
    let stats = &json(&["stats", work_dir])[0];
    assert_eq!((stats["records"].as_u64(), stats["events"].as_u64()), (Some(8), Some(8)));
    assert_eq!(stats["by_event"]["status-written"]["events"], 2);
    assert_eq!(stats["by_cause"]["TEST"]["events"], 8);
    assert_eq!((stats["batch_events"]["max"].as_u64(), stats["last_index"].as_u64()), (Some(1), Some(8)));
    assert!(text(&["stats", work_dir]).contains("records      8 (0 without effect)"));

    let exported = common::objects(&text(&["export", work_dir]));
    assert_eq!(exported, json(&["cat", work_dir]));
    let table = text(&["export", "--format=csv", work_dir]);
    assert_eq!(table.lines().count(), 9);
    assert!(table.starts_with("index,term,n,at_ms,at,event,takes_effect,fields,call,principal,peer,request_id\n1,0,"));
    assert_eq!(failure(&["export", "--format=xml", work_dir]).1, 2);
    let part = common::objects(&text(&["export", "--from=3", "--to=@1795216398.421", work_dir]));
    assert_eq!(part.iter().map(|event| event["index"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 4]);
}

#[test]
fn an_export_as_parquet_has_the_same_rows() {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;
    let dir = tempfile::tempdir().unwrap();
    drop(write(dir.path(), &history()));
    let work_dir = at(dir.path());
    let file = dir.path().join("events.parquet");
    text(&["export", "--format=parquet", "--out", at(&file), work_dir]);
    // The same bytes go to a pipe.
    let piped = common::run(&["export", "--format=parquet", work_dir]).stdout;
    assert_eq!(fs::read(&file).unwrap(), piped);

    let reader = SerializedFileReader::new(fs::File::open(&file).unwrap()).unwrap();
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    let expected = json(&["cat", work_dir]);
    assert_eq!(rows.len(), expected.len());
    for (row, event) in rows.iter().zip(&expected) {
        let columns: std::collections::BTreeMap<&str, &Field> =
            row.get_column_iter().map(|(name, field)| (name.as_str(), field)).collect();
        assert_eq!(*columns["index"], Field::Long(event["index"].as_i64().unwrap()));
        assert_eq!(*columns["at_ms"], Field::TimestampMillis(event["at_ms"].as_i64().unwrap()));
        assert_eq!(*columns["event"], Field::Str(event["event"].as_str().unwrap().into()));
        assert_eq!(*columns["fields"], Field::Str(event["fields"].to_string()));
        assert_eq!((columns["call"], columns["principal"]), (&Field::Str("TEST".into()), &Field::Null));
    }
}

#[test]
fn damage_is_named_by_its_index() {
    let dir = tempfile::tempdir().unwrap();
    drop(write(dir.path(), &history()));
    let segment = fs::read_dir(dir.path().join(LOG_DIR)).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.into_iter().find(|path| path.extension().is_some_and(|end| end == "segment")).unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    // A letter of the framework's id in the record of index 3.
    let place = bytes.windows(6).position(|part| part == b"C-0000").unwrap();
    bytes[place] ^= 1;
    fs::write(&segment, bytes).unwrap();

    let output = common::run(&["verify", "--json", at(dir.path())]);
    assert_eq!(output.status.code(), Some(1));
    let last = common::objects(&String::from_utf8(output.stdout).unwrap()).pop().unwrap();
    assert_eq!((last["ok"].as_bool(), last["last_index"].as_u64()), (Some(false), Some(2)));
    assert!(last["error"].as_str().unwrap().contains("index 3"), "{last}");
}

#[test]
fn wrong_use_is_explained() {
    for (words, hint) in [
        (&["verfy"][..], "did you mean \"verify\"?"),
        (&["verify", "--evry=2"], "did you mean --every?"),
        (&["state", "--at=x"], "must be an index, a time"),
        (&["explain", "quota", "O1"], "a task, an agent, a framework, an offer or a role"),
        (&["verify", "a", "b"], "one folder is enough"),
        (&["diff", "1"], "two indexes"),
        (&[], "Usage:"),
    ] {
        let (sentence, code) = failure(words);
        assert_eq!((sentence.contains(hint), code), (true, 2), "{words:?}: {sentence}");
    }
    let nothing = tempfile::tempdir().unwrap();
    let (sentence, code) = failure(&["info", at(nothing.path())]);
    assert_eq!((sentence.contains("there is no log in"), code), (true, 1), "{sentence}");
    assert!(text(&["--help"]).contains("verify [DIR]"));
    assert!(text(&["verify", "--help"]).contains("--every=N"));
}
