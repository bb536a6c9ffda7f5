//! What masters and agents say of their API is asked of them by a program that others wrote, and nothing of it, nor what is
//! nearly it, is answered 500. EXAMPLES=N asks so many times as much (`make openapi`).

use std::path::Path;
use std::process::Command;

use proptests::cluster::Plan;

#[test]
fn nothing_that_is_asked_by_its_description_is_answered_500() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let made = Command::new(root.join("tools/schemathesis.sh")).output().expect("bash");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let python = String::from_utf8(made.stdout).expect("a path");
    let examples = std::env::var("EXAMPLES").unwrap_or_else(|_| "1".to_owned());
    let cluster = Plan::new().masters(1).agents(1).start();
    // An agent that was drained or marked gone by what was asked of the master answers nothing any more: it comes first.
    for name in cluster.agents().into_iter().chain(cluster.masters()) {
        let asked = Command::new(python.trim())
            .arg(root.join("proptests/clients/schemathesis_run.py"))
            .args([format!("http://{}", cluster.address(&name)), examples.clone()])
            .env("NO_PROXY", "*")
            .env("no_proxy", "*")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(cluster.dir())
            .output()
            .expect("python");
        let said = String::from_utf8_lossy(&asked.stdout).into_owned() + &String::from_utf8_lossy(&asked.stderr);
        assert!(asked.status.success(), "{name}: {said}");
        println!("{name}: {said}");
    }
}
