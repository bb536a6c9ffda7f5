//! What is given to others of a cluster has everything that whoever looks for a fault asks for, and nothing that tasks were
//! entrusted with.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use proptests::cluster::{Cluster, Plan, binary};
use proptests::framework::{Framework, command_task, info};
use serde_json::{Value, json};

const HIDDEN: &str = "hunter2-of-the-test";

fn meseta(words: &[&str], cluster: &Cluster) -> Output {
    let masters: Vec<String> = cluster.masters().iter().map(|name| cluster.address(name).to_string()).collect();
    let master = format!("--master={}", masters.join(","));
    Command::new(binary("meseta")).args(words).arg(master).output().expect("meseta runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// A task that was told something.
fn entrusted(cluster: &Cluster) -> Framework {
    let mut framework = Framework::subscribe(cluster.address(&cluster.leader()), &info("secretive"));
    let offer = framework.offer();
    let mut task = command_task("t1", &offer, "sleep 600");
    task["command"]["environment"] = json!({"variables": [{"name": "PASSWORD", "value": HIDDEN}]});
    task["labels"] = json!({"labels": [{"key": "team", "value": HIDDEN}]});
    framework.launch(&offer, &[task]);
    framework.until_state("t1", "TASK_RUNNING");
    framework
}

fn files(bundle: &Path) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(bundle).expect("a file")));
    let files = archive.entries().expect("entries").map(|entry| {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a path").display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("its content");
        (name, content)
    });
    files.collect()
}

#[test]
fn what_is_given_away_tells_of_the_cluster_and_not_of_its_tasks_secrets() {
    let cluster = Plan::new().masters(3).agents(1).start();
    let _framework = entrusted(&cluster);

    let bundle = cluster.dir().join("bundle.tar.gz");
    let path = bundle.to_str().expect("UTF-8");
    let made = meseta(&["debug", path, "--snapshot"], &cluster);
    assert!(made.status.success(), "{}", said(&made));
    assert_eq!(std::fs::metadata(&bundle).expect("it is there").permissions().mode() & 0o777, 0o600);
    let again = meseta(&["debug", path], &cluster);
    assert!(said(&again).contains("is there already"), "{}", said(&again));
    let files = files(&bundle);
    let named = |part: &str| files.iter().filter(|(name, _)| name.contains(part)).collect::<Vec<_>>();
    for (part, count) in [
        ("/masters/", 3 * 11),
        ("/state.json", 4),
        ("/process.json", 4),
        ("/metrics.json", 4),
        ("README.txt", 1),
        ("records.jsonl", 1),
        ("refused.json", 1),
        ("redacted.snapshot", 1),
    ] {
        let found = named(part);
        assert!(found.len() >= count, "{part}: {:?}", files.iter().map(|(name, _)| name).collect::<Vec<_>>());
        assert!(found.iter().all(|(_, content)| !content.is_empty()), "{part}");
    }
    for (name, content) in &files {
        assert!(!has(content, HIDDEN), "{name}");
    }
    assert!(has(&named("records.jsonl")[0].1, "ACCEPT"));
    // What it does not have is said: no log is served without --log_dir.
    assert!(has(&named("README.txt")[0].1, "/master/log (its log"));
}

#[test]
fn a_redacted_snapshot_is_for_looking_at_and_for_no_cluster() {
    let cluster = Plan::new().masters(1).joining(1).agents(1).start();
    let _framework = entrusted(&cluster);
    let (whole, bare) = (cluster.dir().join("whole"), cluster.dir().join("bare"));
    for (file, words) in [(&whole, vec![]), (&bare, vec!["--redact"])] {
        let words = [vec!["snapshot", "save", file.to_str().expect("UTF-8")], words].concat();
        let saved = meseta(&words, &cluster);
        assert!(saved.status.success(), "{}", said(&saved));
    }
    let read = |path: &Path| std::fs::read(path).expect("a file");
    assert!(has(&read(&whole), HIDDEN) && !has(&read(&bare), HIDDEN));
    assert!(has(&read(&bare), "PASSWORD"));
    let look = Command::new(binary("meseta-log")).args(["info", "--json"]).arg(&bare).output().expect("it runs");
    assert!(look.status.success(), "{}", said(&look));
    let facts: Value = serde_json::from_slice(&look.stdout).expect("JSON");
    assert_eq!((&facts["tasks"], &facts["agents"]), (&json!(1), &json!(1)), "{facts}");

    let dir = cluster.dir().join("restored");
    let restored = Command::new(binary("meseta-master"))
        .arg(format!("--restore={}", bare.display()))
        .args([format!("--work_dir={}", dir.display()), "--ip=127.0.0.1".into(), "--port=1".into()])
        .output()
        .expect("it runs");
    assert!(!restored.status.success() && said(&restored).contains("is redacted"), "{}", said(&restored));
    assert!(!dir.exists());
    // Nothing of the copy is left beside the snapshots.
    let master = cluster.work_dir(&cluster.masters()[0]);
    let mut folders = vec![master];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            assert!(!entry.path().display().to_string().contains("redacted"), "{}", entry.path().display());
            folders.extend(entry.path().is_dir().then(|| entry.path()));
        }
    }
}
