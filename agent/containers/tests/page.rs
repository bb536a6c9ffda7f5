//! The page on external containerizers tells the truth: its blocks are run, in their order.

use std::path::Path;
use std::process::Command;

#[test]
fn the_page_works_as_it_stands() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/external-containerizer.md")).unwrap();
    let blocks = page.split("\n```sh\n").skip(1).map(|rest| rest.split("\n```").next().unwrap_or_default());
    let script = blocks.collect::<Vec<_>>().join("\n");
    let dir = tempfile::tempdir().unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_meseta-containerizer-check")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let ran = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(dir.path())
        .env("PATH", path)
        .env("PROGRAM", root.join("agent/containers/examples/processes.py"))
        .output()
        .unwrap();
    let (out, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}\n{errors}");
    assert!(
        out.starts_with("holds    describe: it says what it is, and which version it speaks\nholds    version: "),
        "{out}"
    );
    assert!(out.ends_with("{\"exited\": 3}\nhello\n{}\n") && out.contains("\n{\"pid\": "), "{out}");
}
