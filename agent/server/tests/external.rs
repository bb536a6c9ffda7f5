//! Containers that another program runs: the example in the tree, and programs that break.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use api::v1::{self, TaskState, task_status};
use common::{Master, PATIENCE, RealAgent, any_ended, http, task};

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../containers/examples/processes.py")
}

fn flags(program: &Path) -> Vec<String> {
    vec!["--containerizers=external,mesos".to_owned(), format!("--containerizer_path={}", program.display())]
}

fn start(master: &Master, dir: &Path, flags: &[String]) -> RealAgent {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    RealAgent::start(&master.address, dir, &flags)
}

fn labeled(mut task: v1::TaskInfo, name: &str) -> v1::TaskInfo {
    let label = v1::Label { key: "meseta.containerizer".into(), value: Some(name.into()) };
    task.labels = Some(v1::Labels { labels: vec![label] });
    task
}

/// A program of a test's own. Its file is written by another process: one that is forked here would hold it open.
fn program(dir: &Path, text: &str) -> PathBuf {
    let (draft, path) = (dir.join("draft"), dir.join("program"));
    fs::write(&draft, text).unwrap();
    let installed = std::process::Command::new("install").args(["-m", "755"]).args([&draft, &path]).status();
    assert!(installed.unwrap().success());
    path
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{what} did not happen");
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

/// Whether the agent that registered says that limits of tasks are kept.
async fn says_limits(master: &Master) -> bool {
    let capabilities =
        master.wait("the agent", |known| known.registers.first().map(|first| first.capabilities.clone()));
    capabilities.await.iter().any(|name| name == "TASK_RESOURCE_LIMITS")
}

fn runs(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_program_outlive_the_agent_and_their_ends_are_not_lost() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let mut flags = flags(&example());
    flags[0] = "--containerizers=external".to_owned();
    let agent = start(&master, dir.path(), &flags);
    assert!(says_limits(&master).await, "the program is handed them");
    let go = dir.path().join("go");
    let loops =
        |end: &str| format!("echo $$ > pid; while [ ! -e {}.{end} ]; do sleep 0.02; done; exit {end}", go.display());
    for end in ["3", "4", "5"] {
        master.launch(task(&format!("t{end}"), &loops(end)));
        master.update(&format!("t{end}"), TaskState::TaskRunning).await;
    }
    let containers = dir.path().join("meta/containers");
    agent.kill();
    // One ends while nobody looks, one as soon as an agent is back, one is killed.
    fs::write(dir.path().join("go.3"), "").unwrap();
    until("an end", || any_ended(&containers)).await;
    let agent = start(&master, dir.path(), &flags);
    assert_eq!(master.update("t3", TaskState::TaskFailed).await.message(), "Command exited with status 3");
    fs::write(dir.path().join("go.4"), "").unwrap();
    assert_eq!(master.update("t4", TaskState::TaskFailed).await.message(), "Command exited with status 4");
    let pid = fs::read_to_string(agent.sandbox("t5").join("pid")).unwrap();
    assert!(runs(&pid));
    let (_, usage) = http(&agent.address, "GET", "/monitor/statistics", "", "").await;
    assert!(usage.contains("\"mem_rss_bytes\":"), "{usage}");
    master.kill("t5");
    master.update("t5", TaskState::TaskKilled).await;
    assert!(!runs(&pid), "it is over when nothing of it runs");
    for end in ["t3", "t4"] {
        assert_eq!(master.history(end), ["TASK_STARTING", "TASK_RUNNING", "TASK_FAILED"]);
    }
    until("nothing is kept", || is_empty(&dir.path().join("meta/external")) && is_empty(&containers)).await;
}

/// Every task runs exactly once, whenever the agent is killed.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_twice_and_nothing_is_lost() {
    const TASKS: usize = 16;
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let (runs, flags) = (dir.path().join("runs"), flags(&example()));
    let mut agent = start(&master, dir.path(), &flags);
    for n in 0..TASKS {
        master.launch(task(&format!("t{n}"), &format!("echo {n} >> {}; exit {n}", runs.display())));
        if n % 4 == 3 {
            // In the middle of it: some have ended, some are being launched.
            master.update(&format!("t{}", n - 2), TaskState::TaskRunning).await;
            agent.kill();
            agent = start(&master, dir.path(), &flags);
        }
    }
    for n in 1..TASKS {
        let failed = master.update(&format!("t{n}"), TaskState::TaskFailed).await;
        assert_eq!(failed.message(), format!("Command exited with status {n}"));
        assert_eq!(master.history(&format!("t{n}")), ["TASK_STARTING", "TASK_RUNNING", "TASK_FAILED"]);
    }
    master.update("t0", TaskState::TaskFinished).await;
    let mut ran: Vec<usize> = fs::read_to_string(runs).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    ran.sort_unstable();
    assert_eq!(ran, (0..TASKS).collect::<Vec<_>>());
    until("nothing is kept", || is_empty(&dir.path().join("meta/external"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stays_beside_may_be_killed_too() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let flags = flags(&example());
    let agent = start(&master, dir.path(), &flags);
    master.launch(task("t1", "echo $$ > pid; exec sleep 1000"));
    let running = master.update("t1", TaskState::TaskRunning).await;
    let supervisor = running.container_status.unwrap().executor_pid.unwrap();
    let pid = fs::read_to_string(agent.sandbox("t1").join("pid")).unwrap();
    agent.kill();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor as i32), nix::sys::signal::Signal::SIGKILL).unwrap();
    let _agent = start(&master, dir.path(), &flags);
    // The program has ended it, and knows how.
    let failed = master.update("t1", TaskState::TaskFailed).await;
    assert_eq!(failed.message(), "Command terminated with signal Killed");
    assert!(!runs(&pid));
    until("nothing is kept", || is_empty(&dir.path().join("meta/external"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_its_log_has_the_program_end_what_it_does_not_know() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let flags = flags(&example());
    let agent = start(&master, dir.path(), &flags);
    master.launch(task("t1", "echo $$ > pid; exec sleep 1000"));
    master.update("t1", TaskState::TaskRunning).await;
    let pid = fs::read_to_string(agent.sandbox("t1").join("pid")).unwrap();
    agent.kill();
    fs::rename(dir.path().join("log"), dir.path().join("old")).unwrap();
    let _agent = start(&master, dir.path(), &flags);
    until("its end", || !runs(&pid)).await;
    assert!(is_empty(&dir.path().join("meta/external")));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_by_name_gets_what_is_named_and_what_is_not_supported_is_refused() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let source = fs::read_to_string(example()).unwrap();
    let small =
        source.replace("SUPPORTS = [\"users\", \"rlimits\", \"nested\", \"signals\", \"usage\"]", "SUPPORTS = []");
    let mut flags = flags(&program(dir.path(), &small));
    flags[0] = "--containerizers=mesos,external".to_owned();
    let agent = start(&master, dir.path(), &flags);
    assert!(!says_limits(&master).await, "no isolator keeps them");
    let external = dir.path().join("meta/external");
    let loops = "while [ ! -e go ]; do sleep 0.02; done";
    master.launch(task("own", loops));
    master.update("own", TaskState::TaskRunning).await;
    assert!(is_empty(&external));
    master.launch(labeled(task("other", loops), "external"));
    master.update("other", TaskState::TaskRunning).await;
    assert!(!is_empty(&external));
    for id in ["own", "other"] {
        fs::write(agent.sandbox(id).join("go"), "").unwrap();
        master.update(id, TaskState::TaskFinished).await;
    }

    let refused = |task: v1::TaskInfo| {
        let (master, id) = (&master, task.task_id.value.clone());
        async move {
            master.launch(task);
            let failed = master.update(&id, TaskState::TaskFailed).await;
            assert_eq!(failed.reason(), task_status::Reason::ContainerLaunchFailed);
            failed.message().to_owned()
        }
    };
    let no = |what: &str| {
        format!("Failed to launch container: the external containerizer 'processes' does not support {what}")
    };
    assert_eq!(
        refused(labeled(task("r1", "true"), "docker")).await,
        "Failed to launch container: the containerizer 'docker' is not one of this agent's --containerizers: mesos, external"
    );
    let mut with_user = labeled(task("r2", "true"), "external");
    with_user.command.as_mut().unwrap().user = Some("nobody".into());
    assert_eq!(refused(with_user).await, no("a user of its own"));
    let mut limited = labeled(task("r3", "true"), "external");
    let rlimit = v1::r_limit_info::RLimit {
        r#type: Some(v1::r_limit_info::r_limit::Type::RlmtCore as i32),
        ..Default::default()
    };
    limited.container = Some(Box::new(v1::ContainerInfo {
        r#type: v1::container_info::Type::Mesos as i32,
        rlimit_info: Some(v1::RLimitInfo { rlimits: vec![rlimit] }),
        ..Default::default()
    }));
    assert_eq!(refused(limited).await, no("limits of processes (rlimit_info)"));
    let mut with_tty = labeled(task("r4", "true"), "external");
    with_tty.container = Some(Box::new(v1::ContainerInfo {
        r#type: v1::container_info::Type::Mesos as i32,
        tty_info: Some(v1::TtyInfo::default()),
        ..Default::default()
    }));
    assert_eq!(refused(with_tty).await, no("streams that somebody can be connected with (sessions, tty_info)"));
    let mut checked = labeled(task("r5", "true"), "external");
    let command =
        v1::check_info::Command { command: v1::CommandInfo { value: Some("true".into()), ..Default::default() } };
    checked.check = Some(Box::new(v1::CheckInfo {
        r#type: Some(v1::check_info::Type::Command as i32),
        command: Some(command),
        ..Default::default()
    }));
    assert_eq!(refused(checked).await, no("checks by COMMAND, which would run outside of the container"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_this_agent_does_not_know_is_for_a_program_that_does() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let source = fs::read_to_string(example()).unwrap();
    let other = source.replace("SUPPORTS = [", "SUPPORTS = [\"images\", ").replace(
        "def launch(request):\n",
        "def launch(request):\n    write(os.path.join(request[\"sandbox\"], \"asked\"), request[\"container\"])\n",
    );
    let agent = start(&master, dir.path(), &flags(&program(dir.path(), &other)));
    let with = |container: v1::ContainerInfo, id: &str| {
        let container = v1::ContainerInfo { r#type: v1::container_info::Type::Mesos as i32, ..container };
        v1::TaskInfo { container: Some(Box::new(container)), ..task(id, "true") }
    };
    let docker = v1::image::Docker { name: "alpine".into(), ..Default::default() };
    let image =
        v1::Image { r#type: v1::image::Type::Docker as i32, docker: Some(docker.clone()), ..Default::default() };
    let of = |image: v1::Image| v1::ContainerInfo {
        mesos: Some(v1::container_info::MesosInfo { image: Some(image) }),
        ..Default::default()
    };
    master.launch(with(of(image.clone()), "with-image"));
    master.update("with-image", TaskState::TaskFinished).await;
    let asked: serde_json::Value =
        serde_json::from_slice(&fs::read(agent.sandbox("with-image").join("asked")).unwrap()).unwrap();
    assert_eq!(asked["mesos"]["image"]["docker"]["name"], "alpine");
    let network = v1::ContainerInfo { network_infos: vec![v1::NetworkInfo::default()], ..Default::default() };
    master.launch(with(network, "with-network"));
    let failed = master.update("with-network", TaskState::TaskFailed).await;
    assert!(failed.message().ends_with("'processes' does not support networks of its ContainerInfo"), "{failed:?}");
    // What would be written down with the task.
    let config = Some(v1::Secret { r#type: Some(v1::secret::Type::Value as i32), ..Default::default() });
    let hidden = v1::Image { docker: Some(v1::image::Docker { config, ..docker }), ..image.clone() };
    master.launch(with(of(hidden), "with-secret"));
    let failed = master.update("with-secret", TaskState::TaskFailed).await;
    assert!(
        failed.message().contains("secrets in images and volumes that are not sealed are not supported"),
        "{failed:?}"
    );
    // Who asks for the agent's own containers gets what those are.
    master.launch(labeled(with(of(image), "own"), "mesos"));
    let failed = master.update("own", TaskState::TaskFailed).await;
    assert!(failed.message().contains("images of containers need docker/runtime"), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_program_could_not_launch_is_in_the_tasks_status() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let text = r#"#!/bin/sh
request=$(cat)
case "$1 $request" in
  describe*) echo '{"protocol": 1, "name": "bad", "supports": ["users"]}' ;;
  list*) echo '{"containers": []}' ;;
  launch*no-room*) echo '{"error": "there is no room"}' ;;
  launch*breaks*) echo "pulling the image" >&2; echo "no such image" >&2; exit 3 ;;
  launch*slow*) exec sleep 1000 ;;
  launch*gone*) echo '{}' ;;
  wait*) echo '{"error": "no such container"}' ;;
esac
"#;
    let path = program(dir.path(), text);
    let mut flags = flags(&path);
    flags.push("--containerizer_launch_timeout=500ms".to_owned());
    let agent = start(&master, dir.path(), &flags);
    let failed = format!("Failed to launch container: the external containerizer {}", path.display());
    for (id, message) in [
        ("no-room", ": there is no room"),
        ("breaks", " failed: 'launch' exited with status 3: no such image"),
        ("slow", " failed: 'launch' took longer than 0.5 s (--containerizer_launch_timeout)"),
    ] {
        master.launch(task(id, id));
        let status = master.update(id, TaskState::TaskFailed).await;
        assert_eq!(status.message(), format!("{failed}{message}"));
        assert_eq!(status.reason(), task_status::Reason::ContainerLaunchFailed);
    }
    // Its complaints are the task's to read.
    let stderr = fs::read_to_string(agent.sandbox("breaks").join("stderr")).unwrap();
    assert_eq!(stderr, "pulling the image\nno such image\n");
    // It ran, and nobody knows how it ended.
    master.launch(task("gone", "gone"));
    let lost = master.update("gone", TaskState::TaskFailed).await;
    assert_eq!(lost.message(), "The supervisor of the task ended without leaving its exit status");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_its_program_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let fails = |words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_meseta-agent"));
        command.args(["--master=127.0.0.1:1", "--ip=127.0.0.1", "--port=0"]);
        command.arg(format!("--work_dir={}", dir.path().display())).args(words);
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap().lines().last().unwrap_or_default().to_owned()
    };
    let error = fails(&["--containerizers=external"]);
    assert!(
        error.contains("'external' in '--containerizers' needs its program: --containerizer_path=/PATH"),
        "{error}"
    );
    let error = fails(&["--containerizer_path=/bin/true"]);
    assert!(error.contains("--containerizer_path needs 'external' in '--containerizers'"), "{error}");
    let error = fails(&["--containerizers=appc,mesos"]);
    let known = "'appc' is not supported in '--containerizers'; there is: mesos, docker, external";
    assert!(error.contains(known), "{error}");
    let error = fails(&["--containerizers=docker,mesos", "--docker_socket=/nowhere/docker.sock"]);
    assert!(error.contains("Cannot use --containerizers=docker: the Docker Engine cannot be asked"), "{error}");
    assert!(error.contains("(--docker_socket)"), "{error}");
    let error = fails(&["--containerizers=external", "--containerizer_path=bin/true"]);
    assert!(error.contains("must be the absolute path of a program, not 'bin/true'"), "{error}");
    let error = fails(&["--containerizers=external", "--containerizer_path=/bin/false"]);
    assert!(error.contains("Cannot use --containerizer_path: the external containerizer /bin/false failed: 'describe' exited with status 1"), "{error}");
    let later = "#!/bin/sh\necho '{\"protocol\": 2, \"name\": \"x\", \"supports\": []}'\n";
    let later = program(dir.path(), later);
    let error = fails(&["--containerizers=external", &format!("--containerizer_path={}", later.display())]);
    assert!(error.contains("it speaks version 2 of the protocol, and this agent version 1"), "{error}");
}
