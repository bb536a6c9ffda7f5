//! A master whose fold goes wrong ends with exit code 1 and says where; the others go on, and their logs verify.

use std::process::Command;

use proptests::cluster::{Cluster, Plan, READY, binary};
use proptests::framework::{Framework, info};
use proptests::{http, wait};
use serde_json::Value;

/// Frameworks come and go at a master until a condition holds.
fn work_until<T>(cluster: &Cluster, at: &str, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    wait::until(what, READY, || {
        // Refused while leadership changes hands.
        let _ = Framework::try_subscribe(cluster.address(at), &info("f"));
        condition()
    })
}

fn verify(cluster: &Cluster, name: &str) -> Value {
    let output = Command::new(binary("meseta-log")).args(["verify", "--json"]).arg(cluster.work_dir(name)).output();
    let output = output.expect("meseta-log starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(said.lines().last().expect("a summary")).expect("JSON")
}

fn logs_digests(cluster: &Cluster, at: &str) -> bool {
    let answer = http::send(cluster.address(at), &http::Request::get("/meseta/digest?index=40"));
    answer.is_ok_and(|answer| answer.status() == 200)
}

/// How far a master is.
fn index(cluster: &Cluster, at: &str) -> u64 {
    cluster.get(at, "/meseta/digest")["index"].as_u64().expect("an index")
}

#[test]
fn the_leader_goes_wrong_and_ends() {
    let mut cluster = Plan::new().masters(3).master_environment("MESETA_REHEARSE_DIGEST_EVERY", "20").start();
    work_until(&cluster, "m0", "digests", || logs_digests(&cluster, "m0").then_some(()));

    // Its fold will go wrong when it leads.
    let odd = cluster.follower();
    let others: Vec<String> = cluster.masters().into_iter().filter(|name| *name != odd).collect();
    assert!(cluster.stop(&odd).success());
    let from = (index(&cluster, &others[0]) + 100).to_string();
    cluster.set_environment(&odd, "MESETA_REHEARSE_DIFFERS_FROM", Some(&from));
    cluster.restart(&odd);
    cluster.wait_ready();
    let transfer = format!(r#"{{"action":"transfer","address":"{}"}}"#, cluster.address(&odd));
    wait::until("the odd one to lead", READY, || {
        let _ = http::send(cluster.address(&odd), &http::Request::post_json("/meseta/masters", &transfer));
        (cluster.leader() == odd).then_some(())
    });
    work_until(&cluster, &others[0], "the odd one to say that it stops", || {
        cluster.log(&odd).contains("It stops, and must not be").then_some(())
    });
    assert_eq!(cluster.wait_end(&odd).code(), Some(1));
    let log = cluster.log(&odd);
    for part in [
        "giving up leadership",
        "meseta-master: at index ",
        "differs from that of most masters, in: masters",
        "<- differs",
    ] {
        assert!(log.contains(part), "{part:?} is not in the log of {odd}");
    }

    // The others elect one of them and go on; what was logged by whomever, their logs verify.
    let reached = index(&cluster, &others[0]);
    work_until(&cluster, &others[0], "more records", || (index(&cluster, &others[0]) > reached + 60).then_some(()));
    wait::until("both to have them", READY, || (index(&cluster, &others[1]) > reached + 60).then_some(()));
    others.iter().for_each(|name| cluster.kill(name));
    for name in &others {
        let end = verify(&cluster, name);
        assert_eq!(end["ok"], true, "{name}: {end}");
        assert!(end["digests"].as_u64() > Some(2), "{name}: {end}");
    }
    // The odd one's disk has what it logged last, and not what the others then said.
    let end = verify(&cluster, &odd);
    assert!(end["error"].as_str().is_some_and(|why| why.contains("had another state than this log folds to")), "{end}");
}
