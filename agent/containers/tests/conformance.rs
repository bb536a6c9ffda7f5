//! The example of an external containerizer keeps every rule, and who breaks one is found.

use std::path::Path;

use containers::conformance::check;

fn example() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/processes.py").display().to_string()
}

#[test]
fn the_example_keeps_every_rule() {
    let mut lines = Vec::new();
    let holds = check(&example(), &[], |line| lines.push(line.to_owned())).unwrap();
    // What only root can look at.
    let is_root = nix::unistd::geteuid().is_root();
    let broken: Vec<&String> =
        lines.iter().filter(|line| line.starts_with("broken") && (is_root || !line.contains("users"))).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(holds || !is_root);
    assert!(lines.len() > 25 && lines.iter().any(|line| line.starts_with("holds    exit-status: ")), "{lines:#?}");
}

/// The example, but for one thing each: what that breaks is said by its name.
#[test]
fn what_is_broken_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let source = std::fs::read_to_string(example()).unwrap();
    for (rule, good, bad) in [
        ("environment", "request[\"environment\"])\n", "{**os.environ, **request[\"environment\"]})\n"),
        ("outputs", "os.O_WRONLY | os.O_APPEND", "os.O_WRONLY | os.O_TRUNC"),
        ("exit-status", "{\"exited\": os.WEXITSTATUS(status)}", "{\"exited\": 0}"),
        ("version", "if request.get(\"protocol\") != 1:", "if False:"),
        ("launch-once", "os.mkdir(folder, 0o700)", "os.makedirs(folder, 0o700, exist_ok=True)"),
        ("destroy-gently", "send(pid, signal.SIGTERM)", "send(pid, signal.SIGKILL)"),
        ("release", "shutil.rmtree(folder, ignore_errors=True)\n    return {}", "return {}"),
    ] {
        assert!(source.contains(good), "{rule}: the example has changed");
        let path = dir.path().join(rule);
        // Copied by another process: a fork of this one would hold it open for writing.
        let text = dir.path().join("text");
        std::fs::write(&text, source.replace(good, bad)).unwrap();
        let installed = std::process::Command::new("install").args(["-m", "755"]).args([&text, &path]).status();
        assert!(installed.unwrap().success());
        let mut said = Vec::new();
        let holds = check(&path.display().to_string(), &[rule], |line| said.push(line.to_owned())).unwrap();
        assert!(!holds && said.len() == 1 && said[0].starts_with(&format!("broken   {rule}: ")), "{said:?}");
    }
}
