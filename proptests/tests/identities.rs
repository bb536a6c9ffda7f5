//! Agents say who they are: a principal and its secret, or a token; and lists say which of them may come.

use std::fs;

use proptests::cluster::{Cluster, Plan, READY};
use proptests::framework::{Framework, command_task, info};
use proptests::wait;

const KEY: &str = "a key of some length\n";

fn active(cluster: &Cluster) -> usize {
    let state = cluster.get("m0", "/state");
    let agents = state["slaves"].as_array().expect("agents");
    agents.iter().filter(|agent| agent["active"] == true).count()
}

fn wait_for(cluster: &Cluster, count: usize) {
    wait::until(&format!("{count} active agents"), READY, || (active(cluster) == count).then_some(()));
}

#[test]
fn agents_come_as_who_they_are_or_not_at_all() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let acls = r#"{"register_agents": [{"principals": {"values": ["rack1"]}, "agents": {"type": "ANY"}},
                                       {"principals": {"type": "NONE"}, "agents": {"type": "ANY"}}],
                   "reserve_resources": [{"principals": {"values": ["rack1"]}, "roles": {"type": "NONE"}}]}"#;
    let credentials = file("credentials", "rack1 its-secret\nops another-secret\n");
    let good = file("good", r#"{"principal": "rack1", "secret": "its-secret"}"#);
    let mut cluster = Plan::new()
        .agents(2)
        .master_flag("--authenticate_agents")
        .master_flag(&format!("--credentials={credentials}"))
        .master_flag(&format!("--jwt_secret_key={}", file("key", KEY)))
        .master_flag(&format!("--acls={}", file("acls", acls)))
        .agent_flag(&format!("--credential={good}"))
        .start();
    let mut framework = Framework::subscribe(cluster.address("m0"), &info("f"));
    let offer = framework.offer();
    framework.launch(&offer, &[command_task("t", &offer, "exit 0")]);
    framework.until_state("t", "TASK_FINISHED");
    framework.teardown();
    assert!(cluster.log("m0").contains("principal=\"rack1\""), "who came is said");

    let again = |cluster: &mut Cluster, flag: &str, value: Option<&str>, says: &str| {
        cluster.set_flag("a1", flag, value);
        cluster.stop("a1");
        cluster.restart("a1");
        wait::until(says, READY, || cluster.log("a1").contains(says).then_some(()));
        wait_for(cluster, 1);
    };
    again(&mut cluster, "credential", None, "give this one --credential=/PATH");
    let ops = file("ops", "ops another-secret\n");
    again(&mut cluster, "credential", Some(&ops), "does not let agents of principal 'ops' in");
    let own = file("own", "rack1 wrong-secret\n");
    again(&mut cluster, "credential", Some(&own), "refused authentication");
    // The file is read for each connection: who hands out credentials may write it while the agent runs.
    let token = auth::Key::parse(KEY).expect("a key").mint_until("rack1", 4_102_444_800);
    file("own", &format!(r#"{{"token": "{token}"}}"#));
    wait_for(&cluster, 2);
    // And what is reserved from the start is its principal's.
    cluster.set_flag("a1", "reconfiguration_policy", Some("additive"));
    let more = "cpus:8;mem:8192;disk:8192;ports:[31000-31999];cpus(web):1";
    again(&mut cluster, "resources", Some(more), "come with resources of role 'web'");
    for secret in ["its-secret", "wrong-secret", "another-secret", &token] {
        for name in ["m0", "a0", "a1"] {
            assert!(!cluster.log(name).contains(secret), "{name} tells a secret");
        }
    }
}
