//! The log is the truth: offline tools fold what each master has on disk to the same state, and to what the live
//! masters served.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use proptests::clients::Client;
use proptests::cluster::{Plan, binary};
use proptests::wait;
use serde_json::Value;

/// Runs `meseta-log` and gives the JSON objects that it prints.
fn meseta_log(arguments: &[&str], work_dir: &Path) -> Vec<Value> {
    let output = Command::new(binary("meseta-log")).args(arguments).arg("--json").arg(work_dir).output();
    let output = output.expect("meseta-log starts");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "meseta-log {arguments:?}: {}\n{errors}", output.status);
    said.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect()
}

#[test]
fn three_disks_fold_to_one_state() {
    let mut cluster = Plan::new().masters(3).agents(2).start();
    let masters = cluster.masters();
    let flags = [format!("--masters={}", cluster.address("m0")), "--tasks=50".into()];
    let client = Client::MesosGo.start(cluster.dir(), &flags);

    // What the live folds had, at indexes all through the run, each master in turn.
    let mut lived: BTreeMap<u64, String> = BTreeMap::new();
    for master in masters.iter().cycle().take(30) {
        wait::until("a record more", Duration::from_secs(60), || {
            let live = cluster.get(master, "/meseta/digest");
            let index = live["index"].as_u64().expect("an index");
            let digest = live["digest"].as_str().expect("a digest").to_owned();
            let known = lived.insert(index, digest.clone());
            assert!(known.as_ref().is_none_or(|known| *known == digest), "live folds differ at index {index}");
            known.is_none().then_some(())
        });
    }
    client.finish(Duration::from_secs(200));

    // While the masters run: each disk by itself is sound.
    for master in &masters {
        let last = meseta_log(&["verify"], &cluster.work_dir(master)).pop().expect("a summary");
        assert_eq!(last["ok"], true, "{master}: {last}");
    }

    // Stopped, each has a last index of its own; at the least of them all three are equal.
    for master in &masters {
        cluster.kill(master);
    }
    let ends: Vec<Value> = masters
        .iter()
        .map(|master| meseta_log(&["verify"], &cluster.work_dir(master)).pop().expect("a summary"))
        .collect();
    for end in &ends {
        assert_eq!(end["ok"], true, "{end}");
        assert!(end["digest"].is_string(), "{end}");
    }
    let least = ends.iter().map(|end| end["last_index"].as_u64().expect("an index")).min().expect("three");
    assert!(least > 50, "the work is in the log: {least}");
    for index in [least, least / 2, least / 7, 1] {
        let at = format!("--at={index}");
        let states: Vec<Vec<Value>> =
            masters.iter().map(|master| meseta_log(&["state", &at], &cluster.work_dir(master))).collect();
        assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "the masters differ at index {index}");
    }

    // Each disk folds to what was served live at that index.
    for (index, digest) in lived.iter().filter(|(index, _)| **index <= least) {
        let to = format!("--to={index}");
        for master in &masters {
            let end = meseta_log(&["verify", &to], &cluster.work_dir(master)).pop().expect("a summary");
            assert_eq!(end["digest"].as_str(), Some(digest.as_str()), "{master} at index {index}");
        }
    }

    // The story of a real task, from its launch to its end, told by any of the disks; and the same plans again.
    let launched = meseta_log(&["cat", "--type=task-launched"], &cluster.work_dir(&masters[0]));
    let task = launched[0]["fields"]["task"].as_str().expect("a task").to_owned();
    for master in &masters {
        let told = meseta_log(&["explain", "task", &task], &cluster.work_dir(master));
        let sentence = |at: usize| told[at]["sentence"].as_str().unwrap_or_default().to_owned();
        assert!(sentence(0).contains(" launched it on agent "), "{told:?}");
        assert!(told.iter().any(|line| line["event"] == "task-updated"), "{told:?}");
        let ending = told.last().expect("an end")["ending"].to_string();
        assert!(ending.contains("it is over as TASK_"), "{ending}");
        let again = meseta_log(&["whatif", "--policy=drf"], &cluster.work_dir(master)).pop().expect("a summary");
        assert!(again["plans"].as_u64() > Some(0) && again["different"] == 0, "{again}");
    }
}
