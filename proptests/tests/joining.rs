//! Agents join by tokens that an operator mints, and are known by identities of their own: over restarts of everybody, not
//! as somebody else, not when they are revoked, and not for longer than they are good.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use proptests::cluster::{Cluster, Plan, READY, binary};
use proptests::wait;
use serde_json::Value;

const SECRET: &str = "ops-secret-of-the-test";

/// A cluster whose agents wait for a token.
struct Joining {
    cluster: Cluster,
    dir: tempfile::TempDir,
    master: String,
}

impl Joining {
    fn start(masters: usize, agents: usize, life: &str) -> Joining {
        let dir = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
            path.display().to_string()
        };
        let secret = format!("--cluster_secret=file://{}", file("cluster", "one-that-is-long-enough"));
        let credentials = format!("--credentials={}", file("credentials", &format!("ops {SECRET}\nweb {SECRET}\n")));
        file("secret", SECRET);
        let acls = r#"{"mark_agents_gone": [{"principals": {"values": ["ops"]}, "agents": {"type": "ANY"}},
                                            {"principals": {"type": "ANY"}, "agents": {"type": "NONE"}}],
                       "register_agents": [{"principals": {"values": ["rack1"]}, "agents": {"type": "ANY"}},
                                           {"principals": {"type": "ANY"}, "agents": {"type": "NONE"}}]}"#;
        let mut plan = Plan::new().masters(masters).agents(agents).master_flag(&secret).agent_flag(&secret);
        let life = format!("--agent_identity_life={life}");
        let acls = format!("--acls={}", file("acls", acls));
        for flag in
            ["--authenticate_agents", "--agent_identities", "--authenticate_http_readwrite", &life, &credentials, &acls]
        {
            plan = plan.master_flag(flag);
        }
        let nobodys = format!("meseta-join-{}", "0".repeat(64));
        let cluster = plan.agent_flag(&format!("--join_token={}", file("token", &nobodys))).start_without_waiting();
        let addresses = cluster.masters().into_iter().map(|name| cluster.address(&name).to_string());
        let master = addresses.collect::<Vec<_>>().join(",");
        let joining = Joining { cluster, dir, master };
        wait::until("masters that lead", READY, || joining.meseta("ops", &["join", "list"]).is_ok().then_some(()));
        joining
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn meseta(&self, principal: &str, words: &[&str]) -> Result<String, String> {
        let said = Command::new(binary("meseta"))
            .args(words)
            .arg(format!("--master={}", self.master))
            .env("MESETA_PRINCIPAL", principal)
            .env("MESETA_SECRET_FILE", self.file("secret"))
            .output()
            .expect("meseta runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if said.status.success() { Ok(text(&said.stdout)) } else { Err(text(&said.stderr)) }
    }

    fn mint(&self, words: &[&str]) -> String {
        let token = self.meseta("ops", &[&["join", "mint"], words].concat()).expect("a token");
        fs::write(self.file("token"), &token).expect("the token is written");
        token.trim().to_owned()
    }

    fn known(&self) -> Vec<Value> {
        let told = self.meseta("ops", &["identity", "list", "--json"]).expect("identities");
        let told: Value = serde_json::from_str(&told).expect("JSON");
        told["identities"].as_array().expect("a list").clone()
    }

    fn active(&self) -> Vec<String> {
        let state = self.cluster.get(&self.cluster.leader(), "/state");
        let agents = state["slaves"].as_array().expect("agents").iter();
        let active = agents.filter(|agent| agent["active"] == true);
        active.map(|agent| agent["pid"].as_str().unwrap_or_default().to_owned()).collect()
    }

    fn wait_for(&self, count: usize) {
        wait::until(&format!("{count} active agents"), READY, || (self.active().len() == count).then_some(()));
    }

    fn agent_id(&self, name: &str) -> String {
        let address = self.cluster.address(name).to_string();
        let state = self.cluster.get(&self.cluster.leader(), "/state");
        let agents = state["slaves"].as_array().expect("agents").iter();
        let mut agents = agents.filter(|agent| agent["pid"].as_str().is_some_and(|pid| pid.ends_with(&address)));
        agents.next().and_then(|agent| agent["id"].as_str()).expect("the agent is known").to_owned()
    }

    fn identity(&self, agent_id: &str) -> String {
        let known = self.known();
        let own = known.iter().find(|one| one["agent_id"] == agent_id).expect("its identity");
        own["identity"].as_str().expect("a hash").to_owned()
    }
}

#[test]
fn agents_join_by_a_token_and_are_known_by_their_own_identities() {
    let mut joining = Joining::start(3, 2, "10mins");
    let refused = joining.meseta("web", &["join", "mint"]).unwrap_err();
    assert!(refused.contains("403"), "{refused}");
    let token = joining.mint(&["--uses=2", "--as=rack1", "--note=the first rack"]);
    joining.wait_for(2);
    let listed = joining.meseta("ops", &["join", "list"]).expect("a list");
    assert!(listed.contains("2 of 2") && listed.contains("the first rack"), "{listed}");
    let (first, second) = (joining.agent_id("a0"), joining.agent_id("a1"));
    let file = |joining: &Joining, name: &str| joining.cluster.work_dir(name).join("identity");
    let mode = fs::metadata(file(&joining, "a0")).expect("its identity is kept").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // Another agent's identity lets nobody in.
    joining.cluster.stop("a1");
    let own = fs::read(file(&joining, "a1")).expect("an identity");
    fs::copy(file(&joining, "a0"), file(&joining, "a1")).expect("a copy");
    joining.cluster.restart("a1");
    let says = format!("that of agent {first}");
    wait::until(&says, READY, || joining.cluster.log("a1").contains(&says).then_some(()));
    joining.cluster.stop("a1");
    fs::write(file(&joining, "a1"), own).expect("its own again");
    joining.cluster.restart("a1");
    joining.wait_for(2);

    // Another one on demand, and over restarts of everybody.
    let before = joining.identity(&first);
    joining.meseta("ops", &["identity", "rotate", &first]).expect("a rotation");
    let after = wait::until("another identity", READY, || Some(joining.identity(&first)).filter(|now| *now != before));
    for name in ["m0", "m1", "m2", "a0", "a1"] {
        joining.cluster.stop(name);
    }
    for name in ["m0", "m1", "m2", "a0", "a1"] {
        joining.cluster.restart(name);
    }
    joining.cluster.wait_ready();
    joining.wait_for(2);
    assert_eq!((joining.agent_id("a0"), joining.identity(&first)), (first.clone(), after));

    // Revoked, and let in again by a token for it alone.
    joining.meseta("ops", &["identity", "revoke", &second]).expect("a revocation");
    joining.wait_for(1);
    let says = "join token is unknown, used up";
    wait::until(says, READY, || joining.cluster.log("a1").contains(says).then_some(()));
    joining.mint(&["--as=rack1", &format!("--agent={second}")]);
    joining.wait_for(2);
    assert_eq!(joining.agent_id("a1"), second, "it is who it was");

    let audit = joining.meseta("ops", &["audit"]).expect("who did what");
    let number = |id: &str| id.rsplit('-').next().unwrap_or_default().to_owned();
    let again = format!("{} joined as rack1 by token J1", number(&second));
    let once = format!("{} joined as rack1 by token J0", number(&first));
    for says in [&once, &again, "MINT_JOIN_TOKEN", "REVOKE_IDENTITY"] {
        assert!(audit.contains(says), "{says}: {audit}");
    }
    assert!(audit.contains("refused REGISTER_AGENT"), "{audit}");
    joining.cluster.stop("m0");
    let told = Command::new(binary("meseta-log"))
        .args(["explain", "agent", &number(&second)])
        .arg(joining.cluster.work_dir("m0"))
        .output()
        .expect("meseta-log runs");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    for says in ["joined as rack1 by token J0, which ops made (the first rack)", "Ops revoked the identity"] {
        assert!(told.contains(says), "{says}: {told}");
    }
    let secrets =
        [token.trim_start_matches("meseta-join-").to_owned(), fs::read_to_string(file(&joining, "a0")).unwrap()];
    let held: Value = serde_json::from_str(&secrets[1]).expect("JSON");
    for secret in [secrets[0].as_str(), held["identities"][0].as_str().expect("an identity")] {
        for name in ["m0", "m1", "m2", "a0", "a1"] {
            assert!(!joining.cluster.log(name).contains(secret), "{name} tells a secret");
        }
    }
}

#[test]
fn an_identity_is_changed_before_it_ends_and_one_that_ended_lets_nobody_in() {
    let mut joining = Joining::start(1, 1, "10secs");
    joining.mint(&["--as=rack1"]);
    joining.wait_for(1);
    let id = joining.agent_id("a0");
    let before = joining.identity(&id);
    wait::until("another identity", READY, || (joining.identity(&id) != before).then_some(()));
    joining.cluster.stop("a0");
    let over = |joining: &Joining| {
        let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
        let known = joining.known();
        known[0]["until_ms"].as_u64().is_some_and(|until_ms| until_ms + 200 < now_ms)
    };
    wait::until("its identity is over", READY, || over(&joining).then_some(()));
    joining.cluster.restart("a0");
    let says = "used up, over or revoked";
    wait::until(says, READY, || joining.cluster.log("a0").contains(says).then_some(()));
    joining.mint(&["--as=rack1", &format!("--agent={id}")]);
    joining.wait_for(1);
    assert_eq!(joining.agent_id("a0"), id);
}
