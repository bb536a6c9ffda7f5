//! The page on draining and maintenance tells the truth: its blocks are run against a cluster, in their order.

use proptests::pages::{Local, blocks, page};

#[test]
fn the_page_works_as_it_stands() {
    let dir = tempfile::tempdir().expect("a folder");
    let local = Local::start("cpus:4;mem:2048;disk:2048");
    let ran = local.run(&blocks(&page("draining-and-maintenance.md")), dir.path());
    let (out, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}\n{errors}");
    for seen in ["deactivated", "/one is over", "is drained", "is in use", "drained", "draining", "down_machines"] {
        assert!(out.contains(seen), "{seen}: {out}\n{errors}");
    }
}
