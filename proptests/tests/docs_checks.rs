//! The page on checks tells the truth: its blocks are run against a cluster, in their order.

use proptests::pages::{Local, blocks, page};

#[test]
fn the_page_works_as_it_stands() {
    let dir = tempfile::tempdir().expect("a folder");
    let local = Local::start("cpus:4;mem:2048;disk:2048");
    let ran = local.run(&blocks(&page("checks.md")), dir.path());
    let (out, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    let events = std::fs::read_to_string(dir.path().join("events")).unwrap_or_default();
    assert!(ran.status.success(), "{out}\n{errors}\n{events}");
    for seen in ["REASON_TASK_CHECK_STATUS_UPDATED", "REASON_TASK_HEALTH_CHECK_STATUS_UPDATED", "TASK_KILLING"] {
        assert!(events.contains(seen), "{seen}: {events}");
    }
}
