//! A rolling upgrade and a downgrade under load. One master after the other is exchanged for a newer build; the older one is
//! a stand-in that knows only feature level 1. Nothing acknowledged is lost, no task runs twice, the logs verify and are
//! equal; once the level is raised, the older build is refused.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use proptests::clients::{Client, Run};
use proptests::cluster::{Cluster, Plan, READY, binary};
use proptests::http::{self, Request};
use proptests::wait;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(300);
const TASKS: usize = 200;
const READS: &str = "MESETA_REHEARSE_READS";

/// Who the masters are, and what is written, as one of them says.
fn list(cluster: &Cluster, at: &str) -> Value {
    let answer = http::send(cluster.address(at), &Request::post_json("/meseta/masters", r#"{"action":"list"}"#));
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.json()
}

fn wait_list(cluster: &Cluster, at: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    wait::until(what, READY, || Some(list(cluster, at)).filter(|listed| wanted(listed)))
}

/// Exchanges one master for a build that reads levels up to `reads`; None for this release.
fn exchange(cluster: &mut Cluster, name: &str, reads: Option<&str>) {
    assert!(cluster.stop(name).success());
    cluster.set_environment(name, READS, reads);
    cluster.restart(name);
    cluster.wait_ready();
}

/// The work goes on in this configuration.
fn progress(run: &mut Run, finished: &mut usize) {
    *finished += 15;
    run.wait_lines("more tasks to finish", *finished, LIMIT, |line| line["state"] == "TASK_FINISHED");
}

fn verify(cluster: &Cluster, name: &str, to: Option<u64>) -> Value {
    let mut command = Command::new(binary("meseta-log"));
    command.args(["verify", "--json"]).args(to.map(|to| format!("--to={to}"))).arg(cluster.work_dir(name));
    let output = command.output().expect("meseta-log starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name}: {said}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(said.lines().last().expect("a summary")).expect("JSON")
}

#[test]
fn masters_are_upgraded_downgraded_and_upgraded_under_load() {
    let mut cluster = Plan::new()
        .masters(3)
        .joining(1)
        .agents(2)
        .resources("cpus:2;mem:4096;disk:1024")
        .master_environment(READS, "1")
        .master_environment("MESETA_REHEARSE_DIGEST_EVERY", "50")
        .start();
    let masters = cluster.masters()[..3].to_vec();
    let addresses: Vec<String> = masters.iter().map(|name| cluster.address(name).to_string()).collect();
    let ran = cluster.dir().join("ran");
    let mut run = Client::MesosGo.start(
        cluster.dir(),
        &[
            format!("--masters={}", addresses.join(",")),
            format!("--tasks={TASKS}"),
            format!("--command=echo {{id}} >> {}; sleep 1", ran.display()),
            "--checkpoint".into(),
        ],
    );
    let finished = &mut 0;
    progress(&mut run, finished);

    // Two of three are upgraded: one that still runs the older build holds the level.
    exchange(&mut cluster, "m0", None);
    progress(&mut run, finished);
    exchange(&mut cluster, "m1", None);
    let address = cluster.address("m2").to_string();
    progress(&mut run, finished);
    if cluster.leader() == "m2" {
        // An older build that leads wants nothing.
        assert!(list(&cluster, "m2")["feature_level_waits_for"].is_null());
    } else {
        let old = format!("{address} reads feature level 1 only");
        wait_list(&cluster, "m0", "what the level waits for", |it| it["feature_level_waits_for"] == old.as_str());
    }
    assert_eq!(list(&cluster, "m0")["feature_level"], 1);

    // Back to the older build, and forth again: nothing has been written that it does not read.
    exchange(&mut cluster, "m1", Some("1"));
    progress(&mut run, finished);
    exchange(&mut cluster, "m1", None);
    progress(&mut run, finished);

    // All run the newer build; the operator waits a while with the point of no return.
    cluster.set_flag("m2", "feature_level_max", Some("1"));
    exchange(&mut cluster, "m2", None);
    progress(&mut run, finished);
    let held = format!("{address} is held at feature level 1 by --feature_level_max");
    let listed =
        wait_list(&cluster, "m0", "what the level waits for", |it| it["feature_level_waits_for"] == held.as_str());
    assert_eq!(listed["feature_level"], 1, "{listed}");
    let reads: Vec<&Value> = listed["masters"].as_array().expect("a list").iter().map(|it| &it["reads"]).collect();
    assert_eq!(reads, [6, 6, 6], "{listed}");
    cluster.set_flag("m2", "feature_level_max", None);
    exchange(&mut cluster, "m2", None);
    wait_list(&cluster, "m0", "feature level 6", |listed| listed["feature_level"] == 6);
    progress(&mut run, finished);

    // The older build cannot take part any more, and says why.
    assert!(cluster.stop("m1").success());
    cluster.set_environment("m1", READS, Some("1"));
    cluster.restart("m1");
    assert_eq!(cluster.wait_end("m1").code(), Some(1));
    let log = cluster.log("m1");
    let said = log.lines().rev().find(|line| line.starts_with("meseta-master: ")).expect("a sentence");
    for part in ["the record at index ", "feature level 6", "reads levels up to 1", "This master stops."] {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
    progress(&mut run, finished);
    cluster.set_environment("m1", READS, None);
    cluster.restart("m1");
    cluster.wait_ready();

    // Nor can it be added.
    cluster.start_one("m3");
    let add = format!(r#"{{"action":"add","address":"{}"}}"#, cluster.address("m3"));
    let said = wait::until("a refusal", READY, || {
        let answer = http::send(cluster.address("m0"), &Request::post_json("/meseta/masters", &add)).ok()?;
        assert_eq!(answer.status(), 409, "{}", answer.text());
        // A master that has just started may not answer yet.
        Some(answer.text().to_string()).filter(|said| !said.contains("no master answers there"))
    });
    assert!(said.contains("reads feature levels up to 1, and this cluster writes level 6"), "{said}");
    cluster.kill("m3");

    let summary = run.finish(LIMIT);
    assert_eq!(summary["finished"], TASKS, "{summary}");
    // What the older build had no words for: a reservation, a volume, and their end.
    let flags = [format!("--masters={}", addresses.join(",")), "--feedback".into()];
    let stateful = Client::PymesosStateful.start(cluster.dir(), &flags).finish(LIMIT);
    assert_eq!(stateful["stage"], "gone", "{stateful}");
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for id in fs::read_to_string(&ran).expect("tasks ran").lines() {
        *times.entry(id.to_owned()).or_default() += 1;
    }
    assert!(times.len() == TASKS && times.values().all(|count| *count == 1), "each task runs once: {times:?}");

    masters.iter().for_each(|name| cluster.kill(name));
    let ends: Vec<Value> = masters.iter().map(|name| verify(&cluster, name, None)).collect();
    for end in &ends {
        assert!(end["digests"].as_u64() > Some(3), "digests were logged, and are those of the fold: {end}");
    }
    let least = ends.iter().filter_map(|end| end["last_index"].as_u64()).min().expect("three");
    let digests: Vec<Value> =
        masters.iter().map(|name| verify(&cluster, name, Some(least))["digest"].clone()).collect();
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "the masters differ at index {least}: {digests:?}");
}
