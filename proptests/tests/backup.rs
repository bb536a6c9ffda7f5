//! A cluster is carried to another machine as a file: its tasks go on, its agents come back, and what nobody can know any
//! more is not made up.

use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::Duration;

use proptests::cluster::{Cluster, Plan, READY, binary};
use proptests::wait;
use serde_json::Value;

fn meseta(words: &[&str]) -> Output {
    Command::new(binary("meseta")).args(words).output().expect("meseta starts")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn save(cluster: &Cluster, at: &str, file: &Path) {
    let master = format!("--master={}", cluster.address(at));
    let saved = meseta(&["snapshot", "save", file.to_str().expect("UTF-8"), &master]);
    assert!(saved.status.success(), "{}", told(&saved));
}

/// Makes the folder of `name` from a saved file, for its address.
fn restore(cluster: &Cluster, name: &str, file: &Path) -> Output {
    let (address, dir) = (cluster.address(name), cluster.work_dir(name));
    let (ip, port) = (format!("--ip={}", address.ip()), format!("--port={}", address.port()));
    let dir = format!("--work_dir={}", dir.display());
    meseta(&["snapshot", "restore", file.to_str().expect("UTF-8"), &dir, &ip, &port])
}

fn execute(cluster: &Cluster, name: &str, command: &str) -> Child {
    let masters: Vec<String> = cluster.masters().iter().map(|name| cluster.address(name).to_string()).collect();
    Command::new(binary("meseta"))
        .arg("execute")
        .arg(format!("--master={}", masters.join(",")))
        .args([format!("--name={name}"), format!("--command={command}"), "--resources=cpus:0.1;mem:32".into()])
        .spawn()
        .expect("meseta starts")
}

fn end(mut client: Child) {
    let _ = client.kill();
    let _ = client.wait();
}

fn states(cluster: &Cluster, at: &str) -> Vec<String> {
    let tasks = cluster.get(at, "/master/tasks?limit=1000&stale=true");
    let tasks = tasks["tasks"].as_array().cloned().unwrap_or_default();
    tasks.iter().filter_map(|task| Some(task["state"].as_str()?.to_owned())).collect()
}

fn active(cluster: &Cluster, at: &str) -> Vec<String> {
    let agents = cluster.get(at, "/master/slaves");
    let agents = agents["slaves"].as_array().cloned().unwrap_or_default();
    agents.iter().filter(|it| it["active"] == true).filter_map(|it| Some(it["id"].as_str()?.to_owned())).collect()
}

fn log(words: &[&str], of: &Path) -> Value {
    let output = Command::new(binary("meseta-log")).args(words).arg("--json").arg(of).output().expect("it starts");
    assert!(output.status.success(), "{words:?}: {}", told(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(said.lines().last().expect("a line")).expect("JSON")
}

#[test]
fn a_cluster_goes_on_from_a_file() {
    let mut cluster = Plan::new().masters(3).joining(1).agents(1).start();
    let client = execute(&cluster, "long", "sleep 600");
    let follower = cluster.follower();
    wait::until("a running task", READY, || (states(&cluster, &follower) == ["TASK_RUNNING"]).then_some(()));
    let agents = active(&cluster, &cluster.leader());
    let file = cluster.dir().join("saved");
    save(&cluster, &follower, &file);
    assert!(!cluster.dir().join("saved.part").exists());

    // Whose it is, and that it is whole.
    let info = log(&["info"], &file);
    // The log folds to what the snapshot says of itself.
    wait::until("a snapshot to be compared", READY, || {
        (log(&["verify"], &cluster.work_dir(&follower))["snapshots"] == 1).then_some(())
    });
    let live = cluster.get(&follower, "/meseta/digest");
    assert!(live["index"].as_u64() >= info["last_index"].as_u64());
    let inspected = meseta(&["snapshot", "inspect", file.to_str().unwrap(), "--json"]);
    let inspected: Value = serde_json::from_slice(&inspected.stdout).expect("JSON");
    assert_eq!(inspected, info);
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    let damaged = cluster.dir().join("damaged");
    std::fs::write(&damaged, bytes).unwrap();
    let refused = restore(&cluster, "m3", &damaged);
    assert_eq!(refused.status.code(), Some(1));
    assert!(told(&refused).contains("damaged") && !cluster.work_dir("m3").exists(), "{}", told(&refused));

    // Everything is gone but the file, and the agent's disk.
    for name in cluster.masters().iter().filter(|name| *name != "m3") {
        cluster.kill(name);
        std::fs::remove_dir_all(cluster.work_dir(name)).unwrap();
    }
    cluster.kill("a0");
    let restored = restore(&cluster, "m3", &file);
    assert!(restored.status.success(), "{}", told(&restored));
    let again = restore(&cluster, "m3", &file);
    assert!(told(&again).contains("is not empty"), "{}", told(&again));
    cluster.start_alone("m3");
    cluster.restart("a0");
    cluster.wait_ready();
    wait::until("the agent", READY, || (active(&cluster, "m3") == agents).then_some(()));
    assert_eq!(states(&cluster, "m3"), ["TASK_RUNNING"]);

    // History begins with the file, and leads on from it.
    let begins = info["last_index"].as_u64().unwrap() + 1;
    let work_dir = cluster.work_dir("m3");
    let after = log(&["info"], &work_dir);
    assert_eq!(after["history"][0][0].as_u64(), Some(begins), "{after}");
    assert_eq!(after["cluster_id"], info["cluster_id"]);
    log(&["state"], &work_dir);

    // It grows as any other, and goes on.
    cluster.start_joining("m0", "m3");
    let (joining, master) = (cluster.address("m0").to_string(), format!("--master={}", cluster.address("m3")));
    wait::until("another master", READY, || {
        meseta(&["masters", "add", &joining, &master]).status.success().then_some(())
    });
    cluster.wait_ready();
    wait::until("its state", READY, || (states(&cluster, "m0") == ["TASK_RUNNING"]).then_some(()));
    let more = execute(&cluster, "more", "true");
    assert!(more.wait_with_output().expect("it ends").status.success());
    end(client);
}

/// The agent knows of an end that the restored masters do not, and forgot it when the lost ones acknowledged it.
#[test]
fn an_agent_that_knows_better_begins_anew() {
    let mut cluster = Plan::new().joining(1).agents(1).start();
    let go = cluster.dir().join("go");
    let client = execute(&cluster, "short", &format!("while ! test -e {}; do sleep 0.1; done", go.display()));
    wait::until("a running task", READY, || (states(&cluster, "m0") == ["TASK_RUNNING"]).then_some(()));
    let agents = active(&cluster, "m0");
    let file = cluster.dir().join("saved");
    save(&cluster, "m0", &file);
    std::fs::write(&go, "").unwrap();
    wait::until("its end", READY, || (states(&cluster, "m0") == ["TASK_FINISHED"]).then_some(()));
    let output = client.wait_with_output().expect("it ends");
    assert!(output.status.success());
    cluster.kill("m0");

    let restored = restore(&cluster, "m1", &file);
    assert!(restored.status.success(), "{}", told(&restored));
    cluster.start_alone("m1");
    cluster.wait_ready();
    let anew = || active(&cluster, "m1").into_iter().find(|id| !agents.contains(id));
    wait::until("the agent under another id", Duration::from_secs(90), anew);
    wait::until("no task runs that has ended", READY, || {
        states(&cluster, "m1").iter().all(|state| state != "TASK_RUNNING").then_some(())
    });
}
