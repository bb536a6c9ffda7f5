//! The page on reasons, brakes and dry runs tells the truth: its blocks are run against a cluster, in their order.

use proptests::pages::{Local, blocks, page};

#[test]
fn the_page_works_as_it_stands() {
    let dir = tempfile::tempdir().expect("a folder");
    let local = Local::start("cpus:4;mem:2048;disk:2048");
    let ran = local.run(&blocks(&page("explaining.md")), dir.path());
    let (out, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}\n{errors}");
    for seen in [
        "Role web has 1 unanswered offer.",
        "is in use or offered already",
        "NEW_FRAMEWORKS",
        "has paused all offers: the storage is down",
        "\"why\":\"it is day\"",
        "OFFER",
        "quotas-set",
        "framework-removed",
        "weights-set",
        "DRAIN_AGENT would be refused",
        "refused: exit code 1",
        "Role db: cpus:1",
        "\"regex\":\"r[0-9]+\"",
    ] {
        assert!(out.contains(seen), "{seen}: {out}\n{errors}");
    }
}
