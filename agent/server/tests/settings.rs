//! Flags and variables: what is not built is refused by name, the rest has the effect that it says.

mod common;

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use api::v1::TaskState;
use common::{Master, PATIENCE, RealAgent, http, task};

fn program(work_dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meseta-agent"));
    command.args(["--master=127.0.0.1:1", &format!("--work_dir={}", work_dir.display())]);
    command.args(["--ip=127.0.0.1", "--port=0"]).args(words);
    command
}

#[test]
fn what_is_not_built_is_refused_by_its_variable_too() {
    let dir = tempfile::tempdir().unwrap();
    let check = |command: &mut Command, names: &[&str]| {
        let Output { status, stderr, .. } = command.output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!((status.code(), stderr.lines().count()), (Some(1), 1), "{names:?}: {stderr}");
        assert!(names.iter().all(|name| stderr.contains(name)), "{names:?}: {stderr}");
    };
    for name in ["firewall_rules", "hooks", "secret_resolver"] {
        check(&mut program(dir.path(), &[&format!("--{name}=x")]), &[&format!("'--{name}' is not supported")]);
        for prefix in ["MESOS_", "MESETA_"] {
            let variable = format!("{prefix}{}", name.to_uppercase());
            check(program(dir.path(), &[]).env(&variable, "x"), &[&variable, "not built yet"]);
        }
    }
    for (variable, why) in [
        ("LIBPROCESS_SSL_ENABLED", "--ssl_enabled needs --ssl_cert_file"),
        ("SSL_ENABLED", "--ssl_enabled needs --ssl_"),
        ("LIBPROCESS_SSL_REQUIRE_CLIENT_CERT", "protects nobody without --ssl_enabled"),
    ] {
        check(program(dir.path(), &[]).env(variable, "true"), &[why]);
    }
    check(program(dir.path(), &[]).env("MESOS_AUTHENTICATE_HTTP_READWRITE", "true"), &["authenticate_http_readwrite"]);
    for (flag, why) in [
        ("--acls=x", "--acls=x: cannot be read"),
        ("--acls={\"view_task\": []}", "did you mean \"view_tasks\"?"),
        ("--http_credentials=/none", "--http_credentials=/none: cannot be read"),
        ("--credential=/none", "--credential=/none: cannot be read"),
        ("--jwt_secret_key=/none", "--jwt_secret_key=/none: cannot be read"),
        ("--authorizer=x", "--authorizer"),
        ("--http_authenticators=kerberos", "--http_authenticators"),
        ("--authenticate_http_readonly", "give --http_credentials=/PATH"),
        ("--authenticate_http_executors", "needs --jwt_secret_key"),
    ] {
        check(&mut program(dir.path(), &[flag]), &[why]);
    }
    for (flag, why) in [
        ("--modules={\"libraries\":[{\"modules\":[{\"name\":\"mine\"}]}]}", "'mine' in '--modules' is not built in"),
        ("--resource_estimator=mine", "there is: org_apache_mesos_FixedResourceEstimator"),
        ("--qos_controller=org_apache_mesos_LoadQoSController", "'--modules' has no parameters for it"),
        ("--domain={}", "names no fault_domain"),
        ("--launcher=windows", "'windows' is not supported in '--launcher'; there is: linux, posix"),
        ("--reconfiguration_policy=x", "must be equal or additive"),
        ("--agent_features={\"capabilities\":[{\"type\":\"MULTI_ROLE\"}]}", "AGENT_OPERATION_FEEDBACK, AGENT_DRAINING"),
        ("--agent_features={\"capabilities\":[{\"type\":\"X\"}]}", "there is no 'X'"),
        ("--container_ports_isolated_range=80", "'--container_ports_isolated_range' names no ports"),
        ("--container_disk_watch_interval=0secs", "'--container_disk_watch_interval' must be longer"),
    ] {
        check(&mut program(dir.path(), &[flag]), &[why]);
    }
    for (flag, why) in [
        ("--cgroups_hierarchy=/proc", "needs control groups at --cgroups_hierarchy=/proc"),
        ("--cgroups_root=../x", "must be the name of a control group or a relative path, not '../x'"),
    ] {
        check(&mut program(dir.path(), &["--launcher=linux", flag]), &[why]);
    }
    let images = ["--image_providers=docker", "--isolation=filesystem/linux,docker/runtime"];
    for (words, why) in [
        (&["--image_providers=appc"][..], "--image_providers needs filesystem/linux in --isolation"),
        (
            &["--appc_simple_discovery_uri_prefix=hdfs://x", "--image_providers=appc", "--isolation=filesystem/linux"],
            "begins neither with / nor",
        ),
        (&["--isolation=filesystem/linux,appc/runtime"], "appc/runtime in --isolation needs appc in --image_providers"),
        (&["--image_providers=rkt"], "'rkt' is not supported in '--image_providers'; there is: docker, appc"),
        (&["--image_providers=DOCKER"], "--image_providers needs filesystem/linux in --isolation"),
        (
            &["--isolation=filesystem/linux,docker/runtime"],
            "docker/runtime in --isolation needs docker in --image_providers",
        ),
        (
            &["--isolation=filesystem/linux,volume/image"],
            "volume/image in --isolation needs docker or appc in --image_providers",
        ),
        (&["--default_container_info={\"type\": 1}"], "'--default_container_info' must be a JSON object"),
        (&[images[0], images[1], "--image_provisioner_backend=aufs"], "use overlay"),
        (&[images[0], images[1], "--image_provisioner_backend=zfs"], "there is: overlay, copy, bind"),
        (&[images[0], images[1], "--image_gc_config={}"], "'--image_gc_config' must be a JSON object"),
        (&[images[0], images[1], "--docker_registry=ftp://x"], "is neither a registry"),
        (&[images[0], images[1], "--docker_config=/none"], "docker_config"),
        (&[images[0], images[1], "--docker_config={\"auths\": {\"h\": {\"auth\": \"x\"}}}"], "in base64"),
    ] {
        check(&mut program(dir.path(), words), &[why]);
    }
    check(&mut program(dir.path(), &["--advertise_ip=0.0.0.0"]), &["--advertise_ip", "0.0.0.0"]);
    check(program(dir.path(), &[]).env("LIBPROCESS_ADVERTISE_IP", "::"), &["--advertise_ip", "'::'"]);
    check(&mut program(dir.path(), &["--logging_level=DEBUG"]), &["--logging_level", "DEBUG"]);
    let disk = r#"--resources=[{"name":"disk","type":"SCALAR","scalar":{"value":100},
        "disk":{"source":{"type":"MOUNT","mount":{"root":"/no/such/disk"}}}}]"#;
    check(&mut program(dir.path(), &[disk]), &["/no/such/disk", "No such file or directory"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_written_where_it_should_be() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let logs = dir.path().join("a/b");
    let log_dir = format!("--log_dir={}", logs.display());
    let words = [log_dir.as_str(), "--quiet", "--runtime_dir=/x", "--no-strict"];
    let agent = RealAgent::start_after(":", &master.address, dir.path(), &words);
    master.wait("a registration", |known| (!known.registers.is_empty()).then_some(())).await;
    master.launch(task("t1", "true"));
    master.update("t1", TaskState::TaskFinished).await;
    let log = fs::read_to_string(logs.join("meseta-agent.log")).unwrap();
    for expected in ["welcome", "'--runtime_dir' has no effect", "'--strict' has no effect"] {
        assert!(log.contains(expected), "{expected}: {log}");
    }
    assert_eq!(fs::read_to_string(dir.path().join("stderr")).unwrap(), "");
    assert_eq!(fs::metadata(logs.join("meseta-agent.log")).unwrap().mode() & 0o777, 0o600);
    let (_, body) = http(&agent.address, "GET", "/files/read?path=/slave/log&offset=0", "", "").await;
    assert!(body.contains("has no effect"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_sandboxes_go_and_those_in_use_stay() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let flags = ["--gc_delay=1ms", "--disk_watch_interval=20ms"];
    let agent = RealAgent::start(&master.address, dir.path(), &flags);
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "").unwrap();
    master.launch(task("t1", "sleep 1000"));
    master.update("t1", TaskState::TaskRunning).await;
    master.launch(task("t2", &format!("mkdir -p a/b; ln -s {} a/link; ln -s {0}/file", outside.display())));
    master.update("t2", TaskState::TaskFinished).await;
    let executor = dir.path().join("slaves/C-S0/frameworks/C-0000/executors/t2");
    let gone = async {
        while executor.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the sandbox of what ended is deleted");
    assert!(outside.join("file").exists(), "links are not followed");
    assert!(agent.sandbox("t1").join("stdout").exists(), "the sandbox of what runs is not");
}

/// Under a service whose stop would end the tasks too, and under one whose stop would not.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_says_what_systemd_would_do_to_its_tasks() {
    let Some(Unit { name: unit, path: cgroup }) = &Unit::new("kill-mode") else { return };
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let tools = dir.path().join("tools");
    fs::create_dir(&tools).unwrap();
    let systemctl = tools.join("systemctl");
    for (mode, warns) in [("control-group", true), ("mixed", true), ("process", false)] {
        fs::write(&systemctl, format!("#!/bin/sh\n[ \"$3\" = {unit} ] && echo KillMode={mode}\n")).unwrap();
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
        let work_dir = dir.path().join(mode);
        fs::create_dir(&work_dir).unwrap();
        let prelude = format!("echo $$ > {}/cgroup.procs; PATH={}:$PATH", cgroup.display(), tools.display());
        let agent = RealAgent::start_after(&prelude, &master.address, &work_dir, &[]);
        let stderr = fs::read_to_string(work_dir.join("stderr")).unwrap();
        assert_eq!(stderr.contains(&format!("{unit} has KillMode={mode}: ")), warns, "{stderr}");
        agent.kill();
    }
}

/// What systemd does to a service: under KillMode=process the agent alone is stopped, under control-group everything is.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_outlive_a_stop_of_the_agent_and_not_one_of_its_control_group() {
    let Some(unit) = Unit::new("restart") else { return };
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let prelude = format!("echo $$ > {}/cgroup.procs", unit.path.display());
    let start = || RealAgent::start_after(&prelude, &master.address, dir.path(), &["--no-systemd_enable_support"]);
    let agent = start();
    master.launch(task("t1", "while [ ! -e go ]; do sleep 0.02; done"));
    master.launch(task("t2", "sleep 1000 & env -i setsid sleep 1000 & wait"));
    master.update("t1", TaskState::TaskRunning).await;
    master.update("t2", TaskState::TaskRunning).await;
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(agent.ended().await.success());
    assert!(unit.processes().len() >= 4, "tasks stay in the group");
    let agent = start();
    fs::write(agent.sandbox("t1").join("go"), "").unwrap();
    master.update("t1", TaskState::TaskFinished).await;
    assert_eq!(master.history("t2"), ["TASK_STARTING", "TASK_RUNNING"]);
    unit.kill();
    drop(agent);
    let _agent = start();
    master.update("t2", TaskState::TaskFailed).await;
}

/// A control group as systemd makes it for a service, where one can be made.
struct Unit {
    name: String,
    path: PathBuf,
}

impl Unit {
    fn new(what: &str) -> Option<Unit> {
        let name = format!("meseta-test-{what}-{}.service", std::process::id());
        // In the forms that there are.
        let made = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup"].map(|root| Path::new(root).join(&name));
        let is_group = |path: &PathBuf| {
            fs::DirBuilder::new().mode(0o755).create(path).is_ok() && path.join("cgroup.procs").exists()
        };
        let made = made.into_iter().find(is_group);
        if made.is_none() {
            eprintln!("no control groups can be made here");
        }
        made.map(|path| Unit { name, path })
    }

    fn processes(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.path.join("cgroup.procs")).unwrap();
        let live = |pid: &i32| agent_server::spec::start_ticks(pid.unsigned_abs()).is_some();
        text.lines().filter_map(|line| line.parse().ok()).filter(live).collect()
    }

    fn kill(&self) {
        loop {
            let processes = self.processes();
            for pid in &processes {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL);
            }
            if processes.is_empty() {
                return;
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir(&self.path);
    }
}

/// Sandboxes of containers that were launched by call stay, unless they are to go too.
#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_of_launched_containers_go_if_they_are_to() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let sandbox = dir.path().join("containers/one");
    let start = |flag| {
        let flags = ["--gc_delay=1ms", "--disk_watch_interval=20ms", flag];
        RealAgent::start(&master.address, dir.path(), &flags)
    };
    let agent = start("--no-gc_non_executor_container_sandboxes");
    master.wait("a registration", |known| (!known.registers.is_empty()).then_some(())).await;
    let call = r#"{"type": "LAUNCH_CONTAINER", "launch_container": {"container_id": {"value": "one"}, "command": {"value": "true"}}}"#;
    let head = "Content-Type: application/json\r\n";
    let (status, body) = http(&agent.address, "POST", "/api/v1", head, call).await;
    assert!(status.contains("200"), "{status} {body}");
    let wait = r#"{"type": "WAIT_CONTAINER", "wait_container": {"container_id": {"value": "one"}}}"#;
    // Nothing is known of it any more, or how it ended.
    let (status, body) = http(&agent.address, "POST", "/api/v1", head, wait).await;
    assert!(status.contains("200") || status.contains("404"), "{status} {body}");
    // One of an executor goes meanwhile.
    master.launch(task("t", "true"));
    master.update("t", TaskState::TaskFinished).await;
    let gone = |path: std::path::PathBuf| async move {
        while path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let executor = dir.path().join("slaves/C-S0/frameworks/C-0000/executors/t");
    tokio::time::timeout(PATIENCE, gone(executor)).await.expect("the sandbox of what ended is deleted");
    assert!(sandbox.join("stdout").exists(), "{}", sandbox.display());
    agent.kill();
    let agent = start("--gc_non_executor_container_sandboxes");
    tokio::time::timeout(PATIENCE, gone(sandbox)).await.expect("it is deleted");
    let (_, metrics) = http(&agent.address, "GET", "/metrics/snapshot", "", "").await;
    assert!(metrics.contains("\"gc/path_removals_succeeded\":"), "{metrics}");
}
