//! The page on what tasks bring along tells the truth: its blocks are run against a cluster, in their order.

use proptests::pages::{Local, blocks, page};

#[test]
fn the_page_works_as_it_stands() {
    let dir = tempfile::tempdir().expect("a folder");
    let local = Local::start("cpus:4;mem:2048;disk:2048");
    let ran = local.run(&blocks(&page("fetcher.md")), dir.path());
    let (out, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    let events = std::fs::read_to_string(dir.path().join("events")).unwrap_or_default();
    assert!(ran.status.success(), "{out}\n{errors}\n{events}");
    assert!(out.contains("hello\nhello\npacked\n"), "{out}");
    assert!(out.contains("No such file or directory"), "{out}\n{errors}");
    assert!(events.contains("Failed to launch container: Failed to fetch all URIs for container '"), "{events}");
}
