//! The page on reservations and volumes tells the truth: its blocks are run against a cluster, in their order.

use proptests::pages::{Local, blocks, page};

#[test]
fn the_page_works_as_it_stands() {
    let dir = tempfile::tempdir().expect("a folder");
    let local = Local::start("cpus:4;mem:2048;disk:2048");
    let ran = local.run(&blocks(&page("reservations.md")), dir.path());
    let (out, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    let events = std::fs::read_to_string(dir.path().join("events")).unwrap_or_default();
    assert!(ran.status.success(), "{out}\n{errors}\n{events}");
    for seen in ["reserved for eng", "is larger", "is destroyed", "not reserved for ops any more"] {
        assert!(out.contains(seen), "{seen}: {out}\n{errors}");
    }
    for seen in ["OPERATION_FINISHED", "db-1", "TASK_STARTING"] {
        assert!(events.contains(seen), "{seen}: {events}");
    }
}
