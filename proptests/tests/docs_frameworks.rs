//! The page for authors of frameworks tells the truth: its blocks are run against a cluster, in their order.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use api::v1::scheduler::call::Type;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proptests::cluster::binary;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/frameworks.md");
    std::fs::read_to_string(path).expect("the page")
}

/// What stands between "```sh" and "```".
fn blocks(page: &str) -> Vec<String> {
    let after = page.split("\n```sh\n").skip(1);
    after.map(|rest| rest.split("\n```").next().unwrap_or_default().to_owned()).collect()
}

struct Local(Child);

impl Drop for Local {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
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
    let mut local = Local(
        Command::new(binary("meseta"))
            .args(["local", "--port=0", "--resources=cpus:4;mem:2048;disk:2048"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("meseta starts"),
    );
    let lines = BufReader::new(local.0.stdout.take().expect("piped")).lines();
    let told = lines.map_while(Result::ok).find_map(|line| Some(line.strip_prefix("masters")?.trim().to_owned()));
    let master = told.expect("it tells its masters");

    let script = blocks(&page()).join("\n");
    let ran = Command::new("timeout")
        .args(["120", "bash", "-euo", "pipefail", "-c", &script])
        .current_dir(&dir)
        .env("MASTER", &master)
        .output()
        .expect("bash starts");
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
