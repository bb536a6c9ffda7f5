//! Disks that fail under real masters and a real agent: they say so and end, the others go on, and nothing acknowledged is
//! lost. A damaged disk is rebuilt from the others with one command.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use proptests::cluster::{Cluster, Plan, READY, binary};
use proptests::wait;
use serde_json::Value;

/// The preloaded library that makes calls of the C library fail.
fn shim(dir: &Path) -> PathBuf {
    let path = dir.join("shim.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("faults/shim.c");
    let built = Command::new("gcc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&path).arg(source).arg("-ldl").status();
    assert!(built.expect("gcc is there").success());
    path
}

/// When the process starts the next time, its disk below `file` fails as `kind` says, from the `at`th matching call on.
fn disk_fails(cluster: &mut Cluster, name: &str, kind: &str, file: &str, calls: &str, at: usize) {
    let shim = shim(cluster.dir()).display().to_string();
    cluster.set_environment(name, "LD_PRELOAD", Some(&shim));
    cluster.set_environment(name, "FAULT_FILE", Some(file));
    cluster.set_environment(name, "FAULT_CALLS", Some(calls));
    cluster.set_environment(name, "FAULT_AT", Some(&at.to_string()));
    cluster.set_environment(name, "FAULT_KIND", Some(kind));
    cluster.set_environment(name, "FAULT_STICKY", Some("1"));
}

fn disk_works(cluster: &mut Cluster, name: &str) {
    cluster.set_environment(name, "LD_PRELOAD", None);
}

/// Begins a task that must run to its end; none of them may be lost.
fn begin(cluster: &Cluster, name: &str) -> Child {
    let masters: Vec<String> = cluster.masters().iter().map(|name| cluster.address(name).to_string()).collect();
    Command::new(binary("meseta"))
        .arg("execute")
        .arg(format!("--master={}", masters.join(",")))
        .args([&format!("--name={name}"), "--command=true", "--resources=cpus:0.1;mem:32"])
        .spawn()
        .expect("meseta starts")
}

fn work(cluster: &Cluster, name: &str) {
    assert!(begin(cluster, name).wait().expect("it ends").success(), "{name}");
}

/// The last index and the digest of the fold of what a stopped master has on its disk, up to `to`.
fn verified(cluster: &Cluster, name: &str, to: u64) -> (u64, String) {
    let output = Command::new(binary("meseta-log"))
        .args(["verify", "--json", &format!("--to={to}")])
        .arg(cluster.work_dir(name))
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let last: Value = serde_json::from_str(said.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["ok"], true, "{name}: {last}");
    (last["last_index"].as_u64().expect("an index"), last["digest"].as_str().expect("a digest").to_owned())
}

fn index_of(cluster: &Cluster, name: &str) -> u64 {
    cluster.get(name, "/meseta/digest")["index"].as_u64().expect("an index")
}

#[test]
fn a_disk_that_fails_ends_its_process_and_loses_nothing() {
    let mut cluster = Plan::new().masters(3).agents(1).start();
    work(&cluster, "first");
    let victim = cluster.follower();
    for (kind, calls, at) in [("eio", "sync", 3), ("enospc", "write", 5), ("erofs", "write", 1)] {
        cluster.stop(&victim);
        disk_fails(&mut cluster, &victim, kind, &format!("{victim}/entries/"), calls, at);
        cluster.restart(&victim);
        work(&cluster, kind);
        let status = cluster.ended(&victim);
        assert_eq!(status.code(), Some(1), "{kind}: {}", cluster.log(&victim));
        let log = cluster.log(&victim);
        let last = log.lines().last().unwrap_or_default();
        assert!(last.starts_with("meseta-master: "), "{kind}: {last}");
        // Repaired, it goes on with what it has.
        disk_works(&mut cluster, &victim);
        cluster.restart(&victim);
        cluster.wait_ready();
    }
    // An archive or a snapshot that cannot be written stops nobody.
    cluster.stop(&victim);
    disk_fails(&mut cluster, &victim, "enospc", &format!("{victim}/snapshots/"), "write,open", 1);
    cluster.restart(&victim);
    cluster.wait_ready();
    let address = format!("--master={}", cluster.address(&victim));
    let saved = Command::new(binary("meseta"))
        .args(["snapshot", "save", &cluster.dir().join("saved").display().to_string(), &address])
        .output()
        .expect("meseta starts");
    let refused = String::from_utf8_lossy(&saved.stderr).into_owned();
    assert!(refused.contains("503") && refused.contains("No space left"), "{refused}");
    work(&cluster, "last");

    // The agent says so, too; its tasks and what it told are there when it is back.
    cluster.stop("a0");
    disk_fails(&mut cluster, "a0", "eio", "a0/log/", "sync", 4);
    cluster.restart("a0");
    let mut patient = begin(&cluster, "patient");
    assert_eq!(cluster.ended("a0").code(), Some(1));
    let log = cluster.log("a0");
    assert!(log.lines().last().is_some_and(|last| last.contains("Cannot write the agent's log")), "{log}");
    disk_works(&mut cluster, "a0");
    cluster.restart("a0");
    assert!(patient.wait().expect("it ends").success());
}

#[test]
fn a_damaged_disk_is_refused_and_rebuilt_from_the_others() {
    let mut cluster = Plan::new().masters(3).agents(1).start();
    for n in 0..3 {
        work(&cluster, &format!("t{n}"));
    }
    let victim = cluster.follower();
    let before = index_of(&cluster, &victim);
    cluster.stop(&victim);
    let entries = cluster.work_dir(&victim).join("entries");
    let files = fs::read_dir(&entries).expect("a folder").map(|entry| entry.expect("an entry").path());
    let wal = files.filter(|path| path.extension().is_some_and(|end| end == "log"));
    let wal = wal.max_by_key(|path| path.metadata().map_or(0, |it| it.len())).expect("a file");
    let mut bytes = fs::read(&wal).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&wal, bytes).expect("writable");
    cluster.restart(&victim);
    assert_eq!(cluster.ended(&victim).code(), Some(1));
    let log = cluster.log(&victim);
    assert!(log.contains("up to index") && log.contains("meseta masters replace"), "{log}");
    work(&cluster, "meanwhile");

    // As it says: the folder away, an empty one, one command.
    let damaged = cluster.work_dir(&victim);
    fs::rename(&damaged, damaged.with_extension("damaged")).expect("moved");
    let leader = cluster.leader();
    cluster.start_joining(&victim, &leader);
    let (address, master) = (cluster.address(&victim).to_string(), format!("--master={}", cluster.address(&leader)));
    wait::until("the master to be replaced", READY, || {
        let words = ["masters", "replace", &address, &address, &master];
        Command::new(binary("meseta")).args(words).output().expect("it starts").status.success().then_some(())
    });
    cluster.wait_ready();
    work(&cluster, "after");
    let index = index_of(&cluster, &leader);
    wait::until("everything to be there", READY, || (index_of(&cluster, &victim) >= index).then_some(()));
    let masters = cluster.masters();
    masters.iter().for_each(|name| cluster.kill(name));
    // A disk may not know of the last ones that they are committed.
    let least = masters.iter().map(|name| verified(&cluster, name, index).0).min().expect("three");
    assert!(least > before, "{least}, {before}");
    let folds: Vec<(u64, String)> = masters.iter().map(|name| verified(&cluster, name, least)).collect();
    assert!(folds.windows(2).all(|pair| pair[0] == pair[1]), "{folds:?}");
}
