//! What is asked at night: short ids, times as they are typed, misspelt names, folders that are nearly right, damaged disks.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use agent_core::{Event, LOG_DIR, LOG_KIND, LOG_VERSION};
use api::v1::TaskState;
use common::cluster::Cluster;
use common::{at, failure, json, run, text};
use event_log::raft::Options;
use event_log::{Cause, Header, Identity, LocalLog, Record};

/// A framework with a task that was launched, ran and ended.
async fn small(options: Options) -> Cluster {
    let mut cluster = Cluster::with(options).await;
    let framework = cluster.framework("nightly", &["batch"]).await;
    let agent = cluster.agent("cpus:4;mem:1000").await;
    let offers = cluster.offer().await;
    cluster.launch(framework, offers[0], "report", "cpus:1;mem:100").await;
    cluster.update(framework, agent, "report", TaskState::TaskFinished).await;
    cluster.acknowledge(framework, agent, "report").await;
    cluster
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let path = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &path);
        } else {
            fs::copy(entry.path(), path).unwrap();
        }
    }
}

fn flip(file: &Path, place: impl Fn(usize) -> usize) {
    let mut bytes = fs::read(file).unwrap();
    let place = place(bytes.len());
    bytes[place] ^= 0x40;
    fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn short_ids_are_understood_and_wrong_names_are_no_silence() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = small(Options::new(dir.path(), common::master::ADDRESS)).await;
    let work_dir = at(dir.path());
    let last = cluster.last_index(work_dir);
    for (topic, ids) in [
        ("framework", ["0000", "C-0000", "F0"]),
        ("agent", ["S0", "C-S0", "0"]),
        ("offer", ["O0", "C-O0", "0"]),
        ("task", ["report", "0000/report", "F0/report"]),
    ] {
        let told: Vec<String> = ids.iter().map(|id| text(&["cat", &format!("--{topic}={id}"), work_dir])).collect();
        assert!(!told[0].is_empty() && told.iter().all(|other| *other == told[0]), "{topic}: {told:?}");
        ids.iter().for_each(|id| assert!(text(&["explain", topic, id, work_dir]).starts_with("The story of")));
    }
    for (words, said, code) in [
        (vec!["cat", "--type=task-lunched"], "did you mean \"task-launched\"?", 2),
        (vec!["cat", "--type=task-launched,offer-made"], "did you mean \"offers-made\"?", 2),
        (vec!["cat", "--call=SUBSCRIBED"], "did you mean \"SUBSCRIBE\"?", 1),
        (vec!["cat", "--task=nope"], "nothing in this part of the log concerns the task nope", 1),
        (vec!["cat", "--framework=0001"], "concerns the framework 0001", 1),
        (vec!["cat", "--from=5", "--to=4"], "--from=5 is after --to=4", 2),
        (vec!["cat", "--from=1000000"], "is behind the end: the log ends at index", 1),
        (vec!["stats", "--from=1000000"], "is behind the end", 1),
        (vec!["export", "--from=20", "--to=10"], "is after", 2),
        (vec!["explain", "task", "report", "--from=6", "--to=2"], "is after", 2),
        (vec!["explain", "task", "nope"], "nobody tried to launch it", 1),
        (vec!["explain", "tsk", "nope"], "did you mean \"task\"?", 2),
        (vec!["whatif", "--weights=batc=2"], "was ever in the role \"batc\"; did you mean \"batch\"?", 1),
        (vec!["export", "--out=/nope/x"], "/nope/x", 1),
    ] {
        let mut words = words;
        words.push(work_dir);
        let (sentence, found) = failure(&words);
        assert!(sentence.contains(said) && found == code && sentence.lines().count() == 1, "{words:?}: {sentence}");
        assert!(run(&words).stdout.is_empty(), "{words:?}");
    }
    assert!(text(&["cat", "--call=subscribe", work_dir]).contains("framework-subscribed"), "calls have no case");

    // As people type times; everything of the log is in 2026.
    let all = text(&["cat", work_dir]);
    assert_eq!(text(&["cat", "--from=2026-11-20", "--to=2026-11-20", work_dir]), all);
    assert_eq!(text(&["cat", "--from=2026-11-20 23:13", work_dir]), all);
    assert_eq!(text(&["stats", &format!("--to={last}"), work_dir]), text(&["stats", work_dir]));
    let (_, code) = failure(&["cat", "--from=-5m", work_dir]);
    assert!([0, 1].contains(&code), "it is a place");
}

#[tokio::test]
async fn what_ran_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = small(Options::new(dir.path(), common::master::ADDRESS)).await;
    let work_dir = at(dir.path());
    cluster.last_index(work_dir);
    let launched = text(&["cat", "--type=task-launched", work_dir]);
    assert!(launched.contains(" name=report command=true"), "{launched}");
    assert!(text(&["cat", "--type=framework-subscribed", work_dir]).contains(" name=nightly user=root"));
    let updated = text(&["cat", "--type=task-updated", work_dir]);
    assert!(updated.contains(" state=TASK_FINISHED ") && updated.contains(" message=\"as it is\""), "{updated}");
    assert!(text(&["explain", "task", "report", work_dir]).contains("cpus:1; mem:100; command \"true\". [ACCEPT"));
    let state = json(&["state", "--select=frameworks.live.0.info.name", work_dir]);
    assert_eq!(state[0]["value"], "nightly");
}

#[tokio::test]
async fn a_part_is_read_from_the_snapshot_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster =
        small(Options { snapshot_bytes: 2000, ..Options::new(dir.path(), common::master::ADDRESS) }).await;
    for round in 0..40 {
        cluster.update_framework(master_core::ids::FrameworkKey(0), round, 500).await;
    }
    let work_dir = at(dir.path());
    let last = cluster.last_index(work_dir);
    assert!(!json(&["info", work_dir])[0]["snapshots"].as_array().unwrap().is_empty(), "it took some");
    let all = text(&["cat", work_dir]);
    let of_framework = text(&["cat", "--framework=0000", work_dir]);
    for from in [1, last / 2, last] {
        let is_late = |line: &&str| line.split(' ').next().unwrap().parse::<u64>().unwrap() >= from;
        let expected = |text: &str| text.lines().filter(is_late).map(str::to_owned).collect::<Vec<_>>();
        let from = format!("--from={from}");
        let lines = |words: &[&str]| text(words).lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lines(&["cat", &from, work_dir]), expected(&all));
        assert_eq!(lines(&["cat", &from, "--framework=0000", work_dir]), expected(&of_framework));
    }
}

#[tokio::test]
async fn the_folder_of_a_cluster_names_its_members() {
    let dir = tempfile::tempdir().unwrap();
    let master = dir.path().join("master-0");
    let cluster = small(Options::new(&master, common::master::ADDRESS)).await;
    cluster.last_index(at(&master));
    let (sentence, code) = failure(&["cat", at(dir.path())]);
    assert!(code == 1 && sentence.contains(&format!("did you mean {}?", master.display())), "{sentence}");
    fs::write(dir.path().join("afile"), b"").unwrap();
    let (sentence, _) = failure(&["cat", at(&dir.path().join("afile"))]);
    assert!(sentence.contains("is a file, but no whole snapshot"), "{sentence}");
}

/// What was before the damage comes first, then one sentence, and 1.
fn told_up_to_damage(damaged: &Path, all: &str, said: &[&str]) {
    let output = run(&["cat", at(damaged)]);
    let (lines, sentence) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{sentence}");
    assert!(!lines.is_empty() && lines.len() < all.len() && all.starts_with(&*lines), "{lines}");
    for said in said {
        assert!(sentence.contains(said), "{said}: {sentence}");
    }
    assert_eq!(sentence.lines().count(), 1, "{sentence}");
    let state = run(&["state", "--json", at(damaged)]);
    assert_eq!(state.status.code(), Some(1));
    let state: serde_json::Value = serde_json::from_slice(&state.stdout).expect("the state before the damage");
    let last = lines.lines().last().unwrap().split(' ').next().unwrap();
    assert_eq!(state["index"].to_string(), last);
    assert!(String::from_utf8_lossy(&run(&["verify", at(damaged)]).stdout).starts_with("NOT ok"));
    // A place before the damage is as good as ever.
    assert!(text(&["cat", "--to=3", at(damaged)]).lines().count() > 1);
}

#[tokio::test]
async fn a_damaged_master_is_read_up_to_the_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = small(Options::new(dir.path().join("m"), common::master::ADDRESS)).await;
    for round in 0..20 {
        cluster.update_framework(master_core::ids::FrameworkKey(0), round, 500).await;
    }
    let work_dir = dir.path().join("m");
    cluster.last_index(at(&work_dir));
    let all = text(&["cat", at(&work_dir)]);
    let damaged = dir.path().join("damaged");
    copy(&work_dir, &damaged);
    let files = fs::read_dir(damaged.join("entries")).unwrap().map(|entry| entry.unwrap().path());
    let wal = files.filter(|path| path.extension().is_some_and(|end| end == "log")).max().unwrap();
    flip(&wal, |length| length * 3 / 4);
    let file: PathBuf = wal.file_name().unwrap().into();
    told_up_to_damage(&damaged, &all, &["damaged after index", at(&file), "--join", "a master alone"]);
    let story = run(&["explain", "task", "report", at(&damaged)]);
    assert_eq!(story.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&story.stdout).contains("reported TASK_FINISHED"));
}

#[test]
fn a_damaged_agent_is_read_up_to_the_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = LocalLog::open(&dir.path().join(LOG_DIR), &Identity::new(LOG_KIND, LOG_VERSION)).unwrap();
    let event = |up_to| match up_to {
        0 => Event::Registered { agent_id: "C-S0".into(), cluster_id: "C".into() },
        up_to => Event::OrdersTaken { up_to },
    };
    for number in 0..20 {
        let header = Header { at_ms: 1_795_216_398_418 + number, ..Header::default() };
        let record = Record { header, causes: vec![Cause::default()], events: vec![event(number).to_raw(0)] };
        log.append(record).wait().unwrap();
    }
    drop(log);
    let all = text(&["cat", at(dir.path())]);
    let files = fs::read_dir(dir.path().join(LOG_DIR)).unwrap().map(|entry| entry.unwrap().path());
    let segment = files.filter(|path| path.extension().is_some_and(|end| end == "segment")).max().unwrap();
    let used = fs::read(&segment).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
    flip(&segment, |_| used * 3 / 4);
    told_up_to_damage(
        dir.path(),
        &all,
        &["the log is damaged at index", at(&segment), "restore the folder from a copy"],
    );
}
