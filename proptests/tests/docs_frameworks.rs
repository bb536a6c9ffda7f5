//! The page for authors of frameworks tells the truth: its blocks are run against a cluster, in their order.

use std::process::Command;

use api::v1::scheduler::call::Type;
use proptests::cluster::binary;
use proptests::pages::{Local, blocks};

fn page() -> String {
    proptests::pages::page("frameworks.md")
}

#[test]
fn every_call_is_on_the_page() {
    let scripts = blocks(&page()).join("\n");
    for kind in (1..32).filter_map(|number| Type::try_from(number).ok()) {
        let call = format!("{{\"type\": \"{}\"", kind.as_str_name());
        assert!(scripts.contains(&call), "docs/frameworks.md has no {call}");
    }
}

#[test]
fn the_page_works_as_it_stands() {
    let dir = tempfile::tempdir().expect("a folder");
    let local = Local::start("cpus:4;mem:2048;disk:2048");
    let ran = local.run(&blocks(&page()), dir.path());
    let master = &local.master;
    let (out, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    let events = std::fs::read_to_string(dir.path().join("events")).unwrap_or_default();
    assert!(ran.status.success(), "{out}\n{errors}\n{events}");
    for seen in ["SUBSCRIBED", "OFFERS", "TASK_RUNNING", "REASON_RECONCILIATION", "TASK_KILLED"] {
        assert!(events.contains(seen), "{seen}: {events}");
    }
    let meseta = |words: &[&str]| {
        let output = Command::new(binary("meseta")).args(words).arg(format!("--master={master}")).output();
        String::from_utf8_lossy(&output.expect("meseta starts").stdout).into_owned()
    };
    assert_eq!(meseta(&["logs", "one"]), "hello\n");
    assert!(!meseta(&["frameworks"]).contains("by-hand"), "torn down");
}
