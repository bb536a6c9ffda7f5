//! The page on resource providers tells the truth: its blocks are run against an agent, in their order.

use std::os::unix::fs::symlink;
use std::path::Path;

use proptests::pages::{Local, blocks, page};

#[test]
fn the_page_works_as_it_stands() {
    let dir = tempfile::tempdir().expect("a folder");
    // As at the root of the project.
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    symlink(project.join("agent"), dir.path().join("agent")).expect("a link");
    let local = Local::start("cpus:4;mem:2048;disk:2048");
    let ran = local.run(&blocks(&page("resource-providers.md")), dir.path());
    let (out, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    let events = std::fs::read_to_string(dir.path().join("events")).unwrap_or_default();
    assert!(ran.status.success(), "{out}\n{errors}\n{events}");
    for seen in ["SUBSCRIBED", "TEARDOWN"] {
        assert!(events.contains(seen), "{seen}: {events}");
    }
    for seen in ["org.example.disks", "org.meseta.examples.disks", "\"profile\":\"fast\"", "\"profile\":\"folder\""] {
        assert!(out.contains(seen), "{seen}: {out}\n{errors}");
    }
}
