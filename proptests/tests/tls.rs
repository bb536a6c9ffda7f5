//! TLS: certificates are made, asked for, changed; and a cluster that speaks clear text comes to speak nothing but TLS, one
//! process after the other.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use proptests::clients::Client;
use proptests::cluster::{Cluster, Plan, READY, binary};
use proptests::framework::{Framework, command_task, info};
use proptests::http::{self, Request};
use proptests::wait;
use serde_json::Value;
use tempfile::TempDir;

/// An authority, and what it signed for this machine.
struct Certificates(TempDir);

type Variables = Vec<(&'static str, String)>;

impl Certificates {
    fn make() -> Certificates {
        let made = Certificates(tempfile::tempdir().expect("a folder"));
        made.sign("localhost,127.0.0.1");
        made
    }

    fn sign(&self, host: &str) {
        let dir = self.0.path().display().to_string();
        let signed = Command::new(binary("meseta")).args(["certs", &dir, host]).output().expect("meseta runs");
        assert!(signed.status.success(), "{}", said(&signed));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What whoever dials sets, to believe those whom the authority vouches for.
    fn to_believe(&self) -> Variables {
        vec![
            ("LIBPROCESS_SSL_ENABLED", "true".into()),
            ("LIBPROCESS_SSL_CA_FILE", self.path("ca.pem").display().to_string()),
            ("LIBPROCESS_SSL_VERIFY_SERVER_CERT", "true".into()),
            ("LIBPROCESS_SSL_VERIFY_IPADD", "true".into()),
        ]
    }

    /// And to be believed.
    fn to_show(&self) -> Variables {
        let mut all = self.to_believe();
        all.push(("LIBPROCESS_SSL_CERT_FILE", self.path("localhost.pem").display().to_string()));
        all.push(("LIBPROCESS_SSL_KEY_FILE", self.path("localhost.key").display().to_string()));
        all
    }
}

fn meseta(words: &[&str], environment: &Variables) -> Output {
    let environment = environment.iter().map(|(name, value)| (name, value));
    Command::new(binary("meseta")).args(words).envs(environment).output().expect("meseta runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What a command says in JSON of one master; None if it fails.
fn asked(command: &str, cluster: &Cluster, master: &str, environment: &Variables) -> Option<Value> {
    let at = format!("--master={}", cluster.address(master));
    let answer = meseta(&[command, &at, "--json"], environment);
    answer.status.success().then(|| serde_json::from_slice(&answer.stdout).expect("JSON"))
}

/// Every process starts again with other variables, one after the other; after each the agent is active and its task runs.
fn restart_all(cluster: &mut Cluster, set: &[(&str, Option<&str>)], asking: &Variables) {
    let all: Vec<String> = cluster.masters().into_iter().chain(cluster.agents()).collect();
    for name in all {
        for (variable, value) in set {
            cluster.set_environment(&name, variable, *value);
        }
        cluster.stop(&name);
        cluster.restart(&name);
        for master in cluster.masters() {
            wait::until(&format!("{master} to know an active agent"), READY, || {
                let agents = asked("agents", cluster, &master, asking)?;
                let agents = agents["slaves"].as_array()?;
                (agents.len() == 1 && agents[0]["active"] == true).then_some(())
            });
        }
        let tasks = asked("tasks", cluster, "m0", asking).expect("tasks").to_string();
        assert!(tasks.contains("TASK_RUNNING") && tasks.contains("\"long\""), "{tasks}");
    }
}

#[test]
fn a_cluster_comes_to_speak_tls_while_it_runs() {
    let certificates = Certificates::make();
    let (clear, show) = (Variables::new(), certificates.to_show());
    let mut cluster = Plan::new().masters(3).agents(1).start();
    let mut framework = Framework::subscribe(cluster.address("m0"), &info("f"));
    let offer = framework.offer();
    framework.launch(&offer, &[command_task("long", &offer, "sleep 1000")]);
    let running = framework.until_state("long", "TASK_RUNNING");
    framework.acknowledge(&running);

    // Both are spoken.
    let mut set: Vec<(&str, Option<&str>)> = show.iter().map(|(name, value)| (*name, Some(value.as_str()))).collect();
    set.push(("LIBPROCESS_SSL_SUPPORT_DOWNGRADE", Some("true")));
    restart_all(&mut cluster, &set, &clear);
    assert!(asked("state", &cluster, "m1", &show).is_some(), "who believes nobody else is answered, too");

    // TLS alone is.
    restart_all(&mut cluster, &[("LIBPROCESS_SSL_SUPPORT_DOWNGRADE", None)], &certificates.to_believe());
    for name in ["m0", "m1", "m2"] {
        let answer = http::send(cluster.address(name), &Request::get("/health")).expect("an answer");
        assert_eq!((answer.status(), answer.text().as_str()), (400, "This port speaks TLS only: use https://"));
    }

    // Certificates must be shown.
    restart_all(&mut cluster, &[("LIBPROCESS_SSL_REQUIRE_CLIENT_CERT", Some("true"))], &show);
    let at = format!("--master={}", cluster.address("m0"));
    let shows_none = meseta(&["state", &at], &certificates.to_believe());
    assert!(!shows_none.status.success() && said(&shows_none).contains("CertificateRequired"), "{}", said(&shows_none));
    let strangers = Certificates::make();
    let mut stranger = certificates.to_believe();
    stranger
        .extend(strangers.to_show().into_iter().filter(|(name, _)| name.contains("_CERT_") || name.contains("_KEY_")));
    assert!(!meseta(&["state", &at], &stranger).status.success(), "another authority's certificate");
    let deceived = meseta(&["state", &at], &strangers.to_show());
    assert!(said(&deceived).contains("invalid peer certificate"), "{}", said(&deceived));

    // A task's output comes from its agent, by TLS too; executors on the agent's machine need none.
    let whole = meseta(&["execute", &at, "--name=short", "--command=echo done"], &show);
    assert!(whole.status.success() && said(&whole).contains("done"), "{}", said(&whole));
    let long = asked("tasks", &cluster, "m0", &show).expect("tasks").to_string();
    assert!(long.contains("TASK_RUNNING"), "{long}");
}

#[test]
fn new_certificates_are_used_without_a_restart() {
    let certificates = Certificates::make();
    let mut plan = Plan::new();
    for (name, value) in certificates.to_show() {
        plan = plan.master_environment(name, &value);
    }
    let cluster = plan.start_without_waiting();
    let believes = certificates.to_believe();
    let answers = || asked("state", &cluster, "m0", &believes);
    wait::until("a master that speaks TLS", READY, answers);

    let replace = |name: &str| {
        for ending in ["key", "pem"] {
            let new = certificates.path(&format!("new.{ending}"));
            fs::copy(certificates.path(&format!("{name}.{ending}")), &new).expect("a copy");
            fs::rename(&new, certificates.path(&format!("localhost.{ending}"))).expect("in its place");
        }
    };
    let kept = |name: &str, to: &str| {
        for ending in ["key", "pem"] {
            fs::copy(certificates.path(&format!("{name}.{ending}")), certificates.path(&format!("{to}.{ending}")))
                .expect("a copy");
        }
    };
    kept("localhost", "before");
    certificates.sign("elsewhere.example");
    replace("elsewhere.example");
    wait::until("the certificate of another host", Duration::from_secs(60), || answers().is_none().then_some(()));
    replace("before");
    wait::until("the certificate that fits", Duration::from_secs(60), answers);
    fs::write(certificates.path("localhost.pem"), "nothing").expect("it is written");
    wait::until("a warning", Duration::from_secs(60), || cluster.log("m0").contains("those before stay").then_some(()));
    assert!(answers().is_some(), "the one before stays");
}

#[test]
fn a_client_is_who_its_certificate_says() {
    let certificates = Certificates::make();
    certificates.sign("ops");
    let acls = r#"{"permissive": false, "view_roles": [{"principals": {"type": "ANY"}, "roles": {"type": "ANY"}}],
        "update_weights": [{"principals": {"values": ["ops"]}, "roles": {"type": "ANY"}}]}"#;
    let credentials = certificates.path("credentials");
    fs::write(&credentials, r#"{"credentials": [{"principal": "ops", "secret": "s"}]}"#).expect("it is written");
    let mut plan = Plan::new()
        .master_flag(&format!("--acls={}", acls.replace('\n', " ")))
        .master_flag("--authenticate_http_readwrite")
        .master_flag(&format!("--credentials={}", credentials.display()))
        .master_environment("LIBPROCESS_SSL_REQUIRE_CLIENT_CERT", "true")
        .master_environment("LIBPROCESS_SSL_CLIENT_PRINCIPALS", "true");
    for (name, value) in certificates.to_show() {
        plan = plan.master_environment(name, &value);
    }
    let cluster = plan.start_without_waiting();
    let at = format!("--master={}", cluster.address("m0"));
    let shown = |host: &str| {
        let mut all = certificates.to_believe();
        all.push(("LIBPROCESS_SSL_CERT_FILE", certificates.path(&format!("{host}.pem")).display().to_string()));
        all.push(("LIBPROCESS_SSL_KEY_FILE", certificates.path(&format!("{host}.key")).display().to_string()));
        all
    };
    let set = |host: &str| meseta(&["weights", "set", "a=2", &at], &shown(host));
    wait::until("a leader", READY, || set("ops").status.success().then_some(()));
    let refused = set("localhost");
    assert!(!refused.status.success() && said(&refused).contains("403"), "{}", said(&refused));
    // Whoever shows no certificate is noted among those who were refused.
    assert!(!meseta(&["state", &at], &certificates.to_believe()).status.success());
    let noted = cluster.work_dir("m0").join("meseta-master.refused");
    wait::until("the handshake that failed", READY, || {
        fs::read_to_string(&noted).ok()?.contains(r#""call":"TLS handshake""#).then_some(())
    });
    // Credentials say more than the certificate, and wrong ones do not fall back on it.
    let secret = certificates.path("secret");
    for (text, is_right) in [("s", true), ("wrong", false)] {
        fs::write(&secret, text).expect("it is written");
        let file = format!("--secret_file={}", secret.display());
        let as_ops = meseta(&["weights", "set", "a=3", &at, "--principal=ops", &file], &shown("localhost"));
        assert_eq!(as_ops.status.success(), is_right, "{}", said(&as_ops));
    }
}

#[test]
fn certificates_say_who_is_a_master_and_who_an_agent() {
    let certificates = Certificates::make();
    let (master, agent) = ("m.masters.example", "a.agents.example");
    for name in [master, agent] {
        certificates.sign(&format!("{name},localhost,127.0.0.1"));
    }
    let secret = certificates.path("secret");
    fs::write(&secret, "a secret of sufficient length\n").expect("it is written");
    let file = |name: &str, what: &str| certificates.path(&format!("{name}.{what}")).display().to_string();
    let mut plan = Plan::new().masters(3).agents(2);
    for flag in [
        "--ssl_enabled".to_owned(),
        format!("--ssl_ca_file={}", certificates.path("ca.pem").display()),
        "--ssl_verify_server_cert".to_owned(),
        "--ssl_verify_ipadd".to_owned(),
        "--ssl_master_names=*.masters.example".to_owned(),
        format!("--cluster_secret=file://{}", secret.display()),
    ] {
        plan = plan.master_flag(&flag).agent_flag(&flag);
    }
    plan = plan.master_flag("--ssl_agent_names=*.agents.example");
    for (flag, what) in [("--ssl_cert_file", "pem"), ("--ssl_key_file", "key")] {
        plan = plan.master_flag(&format!("{flag}={}", file(master, what)));
        plan = plan.agent_flag(&format!("{flag}={}", file(agent, what)));
    }
    let mut cluster = plan.start_without_waiting();
    let believes = certificates.to_believe();
    let active = |cluster: &Cluster| {
        let agents = asked("agents", cluster, "m0", &believes)?;
        let agents = agents["slaves"].as_array()?;
        Some(agents.iter().filter(|agent| agent["active"] == true).count())
    };
    let wait_for = |cluster: &Cluster, count: usize| {
        wait::until(&format!("{count} active agents"), READY, || (active(cluster)? == count).then_some(()));
    };
    wait_for(&cluster, 2);

    // The secret goes, one process after the other: those that have it still and those that do not know each other all the time.
    for name in ["m0", "a0", "m1", "a1", "m2"] {
        cluster.set_flag(name, "cluster_secret", None);
        cluster.stop(name);
        cluster.restart(name);
        wait_for(&cluster, 2);
    }
    let at = format!("--master={}", cluster.address("m0"));
    let whole = meseta(&["execute", &at, "--name=short", "--command=echo done"], &believes);
    assert!(whole.status.success() && said(&whole).contains("done"), "{}", said(&whole));

    // Whoever is named is a master to commands; nobody else is, wherever they are.
    let shown = |name: &str| {
        let mut all = believes.clone();
        all.push(("LIBPROCESS_SSL_CERT_FILE", file(name, "pem")));
        all.push(("LIBPROCESS_SSL_KEY_FILE", file(name, "key")));
        all
    };
    let list = |variables: &Variables| meseta(&["masters", "list", &at], variables);
    let named = list(&shown(master));
    assert!(named.status.success() && said(&named).contains("leader"), "{}", said(&named));
    for variables in [believes.clone(), shown(agent), shown("localhost")] {
        let refused = list(&variables);
        let says = "a certificate that --ssl_master_names";
        assert!(!refused.status.success() && said(&refused).contains(says), "{}", said(&refused));
    }

    // An agent that shows a certificate without an agent's name is none, nor is a master one that shows an agent's.
    let show = |cluster: &mut Cluster, name: &str, certificate: &str| {
        cluster.set_flag(name, "ssl_cert_file", Some(&file(certificate, "pem")));
        cluster.set_flag(name, "ssl_key_file", Some(&file(certificate, "key")));
        cluster.stop(name);
        cluster.restart(name);
    };
    show(&mut cluster, "a1", "localhost");
    wait::until("a sentence", READY, || cluster.log("a1").contains("--ssl_agent_names").then_some(()));
    show(&mut cluster, "a1", agent);
    wait_for(&cluster, 2);
    show(&mut cluster, "m2", agent);
    let strangers = |name: &str| cluster.log(name).contains("its certificate is not a master's").then_some(());
    wait::until("m2 to be nobody's master", READY, || strangers("m0").or_else(|| strangers("m1")));
    wait_for(&cluster, 2);
}

#[test]
fn libraries_of_others_run_tasks_by_tls_as_who_they_are() {
    let certificates = Certificates::make();
    let credentials = certificates.path("credentials");
    fs::write(&credentials, "web its-secret\n").expect("it is written");
    let acls = r#"{"permissive": true, "run_tasks": [{"principals": {"values": ["web"]}, "users": {"type": "ANY"}},
        {"principals": {"type": "ANY"}, "users": {"type": "NONE"}}]}"#;
    let mut plan = Plan::new().masters(3).agents(2);
    for (flag, value) in [
        ("ssl_enabled", "true".to_owned()),
        ("ssl_ca_file", certificates.path("ca.pem").display().to_string()),
        ("ssl_cert_file", certificates.path("localhost.pem").display().to_string()),
        ("ssl_key_file", certificates.path("localhost.key").display().to_string()),
        ("ssl_verify_server_cert", "true".to_owned()),
        ("ssl_verify_ipadd", "true".to_owned()),
    ] {
        plan = plan.master_flag(&format!("--{flag}={value}")).agent_flag(&format!("--{flag}={value}"));
    }
    let cluster = plan
        .master_flag("--authenticate_http_frameworks")
        .master_flag("--http_framework_authenticators=basic")
        .master_flag(&format!("--credentials={}", credentials.display()))
        .master_flag(&format!("--acls={}", acls.replace('\n', " ")))
        .start_without_waiting();
    let believes = certificates.to_believe();
    wait::until("two active agents", READY, || {
        let agents = asked("agents", &cluster, "m0", &believes)?;
        (agents["slaves"].as_array()?.iter().filter(|agent| agent["active"] == true).count() == 2).then_some(())
    });
    let masters: Vec<String> = cluster.masters().iter().map(|name| cluster.address(name).to_string()).collect();
    for client in [Client::Pymesos, Client::MesosGo] {
        let flags = [
            format!("--masters={}", masters.join(",")),
            format!("--ca={}", certificates.path("ca.pem").display()),
            "--principal=web".to_owned(),
            "--secret=its-secret".to_owned(),
            "--tasks=20".to_owned(),
        ];
        let mut run = client.start(cluster.dir(), &flags);
        // An offer names its agent as that is reached.
        let is_secured = |line: &Value| line["event"] == "ACCEPT" && line["scheme"] == "https";
        run.wait_lines("an offer of an agent that speaks TLS", 1, READY, is_secured);
        let summary = run.finish(Duration::from_secs(120));
        assert_eq!((&summary["finished"], &summary["subscribed"]), (&20.into(), &1.into()), "{summary}");
    }
}
