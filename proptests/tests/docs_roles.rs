//! The page on roles, weights and quota tells the truth: its commands are run against a cluster, in their order.

use proptests::pages::{Local, blocks, page};

#[test]
fn the_page_works_as_it_stands() {
    let dir = tempfile::tempdir().expect("a folder");
    let local = Local::start("cpus:16;mem:32768;disk:2048");
    let mut blocks = blocks(&page("roles-and-quota.md"));
    assert_eq!(blocks.len(), 3, "roles, weights, quota");
    // What it comes to: what is removed last is gone, and more than there is must be forced.
    blocks.push("meseta quota list; meseta roles".to_owned());
    blocks.push(
        "! meseta quota set big --guarantees=cpus:100; meseta quota set big --guarantees=cpus:100 --force".to_owned(),
    );
    blocks.push("meseta quota list --json".to_owned());
    let ran = local.run(&blocks, dir.path());
    let (out, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}\n{errors}");
    for seen in [
        "ROLE  WEIGHT\neng      2.0\nops      0.5\n",
        "eng   cpus:10;mem:20480         -  mem:81920\n",
        r#"{"guarantees":{"cpus":{"value":100.0}},"role":"big"}"#,
    ] {
        assert!(out.contains(seen), "{seen}: {out}");
    }
    assert!(errors.contains("exceed cluster capacity 'cpus:16; disk:2048; mem:32768'"), "{errors}");
}
