//! Containers of a real Docker Engine, through real agents.

mod common;
mod engine;
#[path = "engine/run.rs"]
mod run;

use std::fs;
use std::path::Path;
use std::time::Duration;

use api::v1::container_info::DockerInfo;
use api::v1::container_info::docker_info::{Network, PortMapping};
use api::v1::task_status::Reason;
use api::v1::{self, CommandInfo, ContainerInfo, TaskInfo, TaskState};
use common::{Master, PATIENCE, RealAgent, http, task};
use engine::{Engine, IMAGE};
use nix::sys::signal::Signal;
use run::with_engine;
use serde_json::Value;

/// A task in the image.
fn boxed(id: &str, command: &str, change: impl FnOnce(&mut ContainerInfo, &mut DockerInfo)) -> TaskInfo {
    let mut docker = DockerInfo { image: IMAGE.into(), ..DockerInfo::default() };
    let mut info = ContainerInfo { r#type: v1::container_info::Type::Docker as i32, ..ContainerInfo::default() };
    change(&mut info, &mut docker);
    info.docker = Some(docker);
    TaskInfo { container: Some(Box::new(info)), ..task(id, command) }
}

fn plain(id: &str, command: &str) -> TaskInfo {
    boxed(id, command, |_, _| {})
}

fn bridged(id: &str, command: &str) -> TaskInfo {
    boxed(id, command, |_, docker| docker.network = Some(Network::Bridge as i32))
}

fn output(agent: &RealAgent, id: &str, name: &str) -> String {
    fs::read_to_string(agent.sandbox(id).join(name)).unwrap()
}

/// What `docker inspect` said when the task started.
fn inspected(status: &v1::TaskStatus) -> Value {
    let data: Value = serde_json::from_slice(status.data.as_deref().unwrap()).unwrap();
    data[0].clone()
}

fn name(status: &v1::TaskStatus) -> String {
    inspected(status)["Name"].as_str().unwrap().trim_start_matches('/').to_owned()
}

fn addresses(status: &v1::TaskStatus) -> Vec<String> {
    let infos = &status.container_status.as_ref().unwrap().network_infos;
    infos.iter().flat_map(|info| &info.ip_addresses).map(|one| one.ip_address().to_owned()).collect()
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{what} did not happen");
}

async fn failed(master: &Master, task: TaskInfo) -> v1::TaskStatus {
    let id = task.task_id.value.clone();
    master.launch(task);
    master.update(&id, TaskState::TaskFailed).await
}

fn is_empty(folder: &Path) -> bool {
    let found: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    found.iter().all(|name| name == "engine.json")
}

#[test]
fn tasks_run_in_images_and_tell_what_they_are() {
    with_engine("tasks in images", &[], async |engine| {
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let agent = engine.agent(&master, dir.path(), &["--cgroups_enable_cfs"]);
        engine.docker(&["network", "create", "n1"]);
        engine.docker(&["volume", "create", "v1"]);
        let host = dir.path().join("host");
        fs::create_dir(&host).unwrap();
        fs::write(host.join("there"), "of the machine\n").unwrap();

        let mut all = boxed(
            "all",
            "echo out; echo err >&2; echo $MESOS_SANDBOX $MESOS_TASK_ID $A $B; echo kept > $MESOS_SANDBOX/kept; \
             cat /h/there; echo no > /h/new; echo v > /v/f; echo d > data/f; cat data/f; hostname; while [ ! -e go ]; do sleep 0.02; done; exit 3",
            |info, docker| {
                let volume = |host: Option<&str>, path: &str, mode: v1::volume::Mode| v1::Volume {
                    host_path: host.map(str::to_owned),
                    container_path: path.into(),
                    mode: mode as i32,
                    ..Default::default()
                };
                let named = v1::volume::Source {
                    r#type: Some(v1::volume::source::Type::DockerVolume as i32),
                    docker_volume: Some(v1::volume::source::DockerVolume { name: "v1".into(), ..Default::default() }),
                    ..Default::default()
                };
                info.volumes = vec![
                    volume(Some(host.to_str().unwrap()), "/h", v1::volume::Mode::Ro),
                    v1::Volume { source: Some(named), ..volume(None, "/v", v1::volume::Mode::Rw) },
                    volume(Some(host.to_str().unwrap()), "data", v1::volume::Mode::Rw),
                ];
                info.hostname = Some("own".into());
                docker.network = Some(Network::Bridge as i32);
                docker.port_mappings =
                    vec![PortMapping { host_port: 31_005, container_port: 80, protocol: Some("tcp".into()) }];
                docker.parameters = vec![v1::Parameter { key: "workdir".into(), value: "/mnt/mesos/sandbox".into() }];
            },
        );
        let variable = |name: &str, value: &str| v1::environment::Variable {
            name: name.into(),
            value: Some(value.into()),
            ..Default::default()
        };
        let variables = vec![variable("A", "a  # b"), variable("B", "c\nd")];
        all.command.as_mut().unwrap().environment = Some(v1::Environment { variables });
        all.resources.extend(
            api::resources::parse("ports:[31000-31010]", "*")
                .unwrap()
                .resources
                .to_v1(api::resources::Format::PostRefinement),
        );
        master.launch(all);
        let running = master.update("all", TaskState::TaskRunning).await;
        let found = inspected(&running);
        assert_eq!(found["Config"]["Labels"]["MESOS_TASK_ID"], "all");
        assert_eq!(found["HostConfig"]["CpuQuota"], 20_000, "of the task and of what stands for its executor");
        assert_eq!(found["HostConfig"]["CpuShares"], 204);
        assert_eq!(found["HostConfig"]["Memory"], 64 << 20);
        assert_eq!(found["HostConfig"]["PortBindings"]["80/tcp"][0]["HostPort"], "31005");
        assert_eq!(found["State"]["Running"], true);
        let container_id = running.container_status.as_ref().unwrap().container_id.as_ref().unwrap().value.clone();
        assert_eq!(name(&running), format!("mesos-{container_id}"));
        let own = found["NetworkSettings"]["IPAddress"].as_str().unwrap().to_owned();
        assert_eq!(addresses(&running), std::slice::from_ref(&own));
        let starting = master.update("all", TaskState::TaskStarting).await;
        assert_eq!((starting.data.is_none(), addresses(&starting)), (true, vec![own.clone()]));
        let (_, usage) = http(&agent.address, "GET", "/monitor/statistics", "", "").await;
        let usage: Value = serde_json::from_str(&usage).unwrap();
        let usage = &usage[0]["statistics"];
        for field in [
            "mem_rss_bytes",
            "mem_total_bytes",
            "cpus_user_time_secs",
            "cpus_system_time_secs",
            "processes",
            "net_rx_bytes",
        ] {
            assert!(usage[field].is_number(), "{field}: {usage}");
        }
        fs::write(agent.sandbox("all").join("go"), "").unwrap();
        let ended = master.update("all", TaskState::TaskFailed).await;
        assert_eq!(ended.message(), "Command exited with status 3");
        assert_eq!(addresses(&ended), [own], "as it started");
        let out = "out\n/mnt/mesos/sandbox all a # b c d\nof the machine\nd\nown\n";
        assert_eq!(output(&agent, "all", "stdout"), out);
        let errors = output(&agent, "all", "stderr");
        assert!(errors.starts_with("err\n") && errors.contains("Read-only file system"), "{errors}");
        assert_eq!(output(&agent, "all", "kept"), "kept\n");
        assert_eq!(fs::read_to_string(host.join("f")).unwrap(), "d\n");

        // What an image runs, and what it is given.
        let without_shell = |id: &str, value: Option<&str>, arguments: &[&str]| {
            let arguments = arguments.iter().map(|one| (*one).to_owned()).collect();
            let value = value.map(str::to_owned);
            let command = CommandInfo { shell: Some(false), value, arguments, ..CommandInfo::default() };
            TaskInfo { command: Some(command), ..plain(id, "") }
        };
        master.launch(without_shell("own", None, &[]));
        master.launch(without_shell("args", Some("/bin/hello"), &["a  b", "-c"]));
        master.launch(boxed(
            "user",
            "echo $PATH; while [ ! -e $MESOS_SANDBOX/go ]; do sleep 0.02; done",
            |info, docker| {
                docker.network = Some(Network::User as i32);
                info.network_infos = vec![v1::NetworkInfo { name: Some("n1".into()), ..Default::default() }];
            },
        ));
        master.launch(boxed("none", "ls /sys/class/net", |_, docker| docker.network = Some(Network::None as i32)));
        for id in ["own", "args", "none"] {
            master.update(id, TaskState::TaskFinished).await;
        }
        assert_eq!(output(&agent, "own", "stdout"), "hello of the image\n");
        assert_eq!(output(&agent, "args", "stdout"), "hello of the image a  b -c\n");
        assert_eq!(output(&agent, "none", "stdout"), "lo\n");
        let running = master.update("user", TaskState::TaskRunning).await;
        let infos = &running.container_status.as_ref().unwrap().network_infos;
        assert_eq!((infos.len(), infos[0].name()), (1, "n1"));
        assert_eq!(
            addresses(&running)[0],
            inspected(&running)["NetworkSettings"]["Networks"]["n1"]["IPAddress"].as_str().unwrap()
        );
        fs::write(agent.sandbox("user").join("go"), "").unwrap();
        master.update("user", TaskState::TaskFinished).await;
        assert!(output(&agent, "user", "stdout").contains("/usr/bin"), "that of the image");

        // Beside them, what is no image.
        master.launch(task("mesos", "true"));
        master.update("mesos", TaskState::TaskFinished).await;
        assert_eq!(engine.containers().len(), 5, "they stay for --docker_remove_delay");
        until("nothing is kept", || {
            is_empty(&dir.path().join("meta/docker")) && is_empty(&dir.path().join("meta/containers"))
        })
        .await;
    });
}

#[test]
fn tasks_end_as_they_are_told_and_what_cannot_run_says_why() {
    with_engine("ends and failures", &[], async |engine| {
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let agent = engine.agent(&master, dir.path(), &["--docker_remove_delay=0ns"]);
        // One ends as it is asked to, one does not, and one has another signal for it.
        let with_grace = |task: TaskInfo, seconds: i64| {
            let grace_period = Some(v1::DurationInfo { nanoseconds: seconds * 1_000_000_000 });
            TaskInfo { kill_policy: Some(v1::KillPolicy { grace_period }), ..task }
        };
        let loops = "while true; do sleep 0.02; done";
        master.launch(with_grace(plain("asked", &format!("trap 'echo asked; exit 7' TERM; echo ready; {loops}")), 600));
        master.launch(with_grace(plain("forced", &format!("trap '' TERM; echo ready; {loops}")), 1));
        let signalled = boxed("other", &format!("trap 'echo int; exit 0' INT; echo ready; {loops}"), |_, docker| {
            docker.parameters = vec![v1::Parameter { key: "stop-signal".into(), value: "SIGINT".into() }];
        });
        master.launch(with_grace(signalled, 600));
        for id in ["asked", "forced", "other"] {
            master.update(id, TaskState::TaskRunning).await;
            until("it is ready", || output(&agent, id, "stdout").contains("ready")).await;
            master.kill(id);
        }
        for id in ["asked", "forced", "other"] {
            master.update(id, TaskState::TaskKilled).await;
        }
        assert_eq!(output(&agent, "asked", "stdout"), "ready\nasked\n");
        assert_eq!(output(&agent, "other", "stdout"), "ready\nint\n");

        let because = |status: &v1::TaskStatus, reason: Reason, words: &[&str]| {
            assert_eq!(status.reason(), reason, "{}", status.message());
            let missing: Vec<_> = words.iter().filter(|word| !status.message().contains(**word)).collect();
            assert!(missing.is_empty(), "{missing:?} in {}", status.message());
        };
        let launch = Reason::ContainerLaunchFailed;
        let missing = failed(&master, boxed("m", "true", |_, docker| docker.image = "nosuch:1".into())).await;
        because(
            &missing,
            launch,
            &["Failed to launch container: cannot pull the image 'nosuch:1': Error response from daemon"],
        );
        let forced = failed(&master, boxed("f", "true", |_, docker| docker.force_pull_image = Some(true))).await;
        because(&forced, launch, &["cannot pull the image 'box:1'"]);
        let parameter = |key: &str| vec![v1::Parameter { key: key.into(), value: "x".into() }];
        let unknown = failed(&master, boxed("p", "true", |_, docker| docker.parameters = parameter("bogus"))).await;
        because(&unknown, launch, &["Failed to launch container: cannot create the container: unknown flag: --bogus"]);
        let refused = failed(&master, boxed("r", "true", |_, docker| docker.parameters = parameter("restart"))).await;
        because(&refused, launch, &["the parameter 'restart' would take the container from its agent"]);
        let mapped = boxed("o", "true", |_, docker| {
            docker.network = Some(Network::Bridge as i32);
            docker.port_mappings = vec![PortMapping { host_port: 31_500, container_port: 80, protocol: None }];
        });
        because(&failed(&master, mapped).await, launch, &["port mappings need ports among the resources"]);
        let command = CommandInfo { shell: Some(false), value: Some("/nosuch".into()), ..CommandInfo::default() };
        let program = failed(&master, TaskInfo { command: Some(command), ..plain("n", "") }).await;
        because(&program, launch, &["cannot start the container: Docker Engine: ", "/nosuch"]);
        // An engine without all privileges cannot give them.
        let all = boxed("a", "true", |_, docker| docker.privileged = Some(true));
        master.launch(all);
        let ended = master
            .wait("an end", |known| {
                known.statuses().find(|one| {
                    one.task_id.value == "a"
                        && one.state() != TaskState::TaskStarting
                        && one.state() != TaskState::TaskRunning
                })
            })
            .await;
        if ended.state() == TaskState::TaskFailed {
            because(&ended, launch, &["unable to apply caps"]);
        }
        let hungry =
            failed(&master, plain("oom", "x=$(head -c 200000000 /dev/zero | tr '\\0' a); echo $?; exit 1")).await;
        because(&hungry, Reason::ContainerLimitationMemory, &["Memory limit exceeded"]);
        assert_eq!(hungry.limitation.unwrap().resources[0].name, "mem");
        // A label names who is to run it, and that may be wrong.
        let label = v1::Label { key: "meseta.containerizer".into(), value: Some("mesos".into()) };
        let labels = Some(v1::Labels { labels: vec![label] });
        let wrong = failed(&master, TaskInfo { labels, ..plain("l", "true") }).await;
        because(&wrong, launch, &["the containerizer 'mesos' does not run containers of this type"]);
        until("nothing stays", || engine.containers().is_empty()).await;
        until("nothing is kept", || is_empty(&dir.path().join("meta/docker"))).await;
    });
}

#[test]
fn containers_outlive_the_agent_and_their_ends_and_outputs_are_not_lost() {
    with_engine("agents that are killed", &[], async |engine| {
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let agent = engine.agent(&master, dir.path(), &[]);
        let loops = |end: &str| {
            format!(
                "cd $MESOS_SANDBOX; n=0; while [ ! -e go ]; do n=$((n + 1)); echo $n; sleep 0.02; done; echo last $n; exit {end}"
            )
        };
        let mut supervisors = Vec::new();
        for end in ["3", "4", "5"] {
            master.launch(plain(&format!("t{end}"), &loops(end)));
            let running = master.update(&format!("t{end}"), TaskState::TaskRunning).await;
            supervisors.push(running.container_status.unwrap().executor_pid.unwrap() as i32);
        }
        agent.kill();
        let sandbox = |id: &str| dir.path().join(format!("slaves/C-S0/frameworks/C-0000/executors/{id}/runs/latest"));
        // One ends while nobody looks, one as soon as an agent is back, and who stays beside the third is killed.
        fs::write(sandbox("t3").join("go"), "").unwrap();
        until("an end", || fs::read_to_string(sandbox("t3").join("stdout")).unwrap().contains("last")).await;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisors[2]), Signal::SIGKILL).unwrap();
        let agent = engine.agent(&master, dir.path(), &[]);
        assert_eq!(master.update("t3", TaskState::TaskFailed).await.message(), "Command exited with status 3");
        assert_eq!(master.update("t5", TaskState::TaskFailed).await.message(), "Command exited with status 137");
        fs::write(sandbox("t4").join("go"), "").unwrap();
        assert_eq!(master.update("t4", TaskState::TaskFailed).await.message(), "Command exited with status 4");
        for end in ["t3", "t4"] {
            assert_eq!(master.history(end), ["TASK_STARTING", "TASK_RUNNING", "TASK_FAILED"]);
            let lines = output(&agent, end, "stdout");
            let count = lines.lines().count() - 1;
            let expected: String = (1..=count).map(|n| format!("{n}\n")).chain([format!("last {count}\n")]).collect();
            assert_eq!(lines, expected, "all of it, once");
        }

        // An agent that does not know what runs ends it; and what others of the kind left, if it is to.
        master.launch(plain("t6", "while true; do sleep 1; done"));
        let stray = name(&master.update("t6", TaskState::TaskRunning).await);
        agent.kill();
        let nobodys = "mesos-0f0e0d0c-1111-4222-8333-444455556666";
        for (name, label) in [
            (nobodys, "a=b"),
            ("mesos-dns", "a=b"),
            ("mesos-0f0e0d0c-1111-4222-8333-444455556667", "meseta.agent=/other"),
        ] {
            engine.docker(&["run", "-d", "--name", name, "--label", label, "--net=none", IMAGE, "sleep", "1000"]);
        }
        fs::rename(dir.path().join("log"), dir.path().join("old")).unwrap();
        let running = |engine: &Engine| engine.docker(&["ps", "--format", "{{.Names}}"]);
        let agent = engine.agent(&master, dir.path(), &["--docker_kill_orphans=false"]);
        until("its end", || !running(engine).contains(&stray)).await;
        assert!(running(engine).contains(nobodys));
        agent.kill();
        let _agent = engine.agent(&master, dir.path(), &[]);
        until("its end", || !running(engine).contains(nobodys)).await;
        let left = running(engine);
        assert!(left.contains("mesos-dns") && left.contains("444455556667"), "{left}");
    });
}

#[test]
fn an_engine_that_is_started_again_keeps_containers_or_ends_them() {
    with_engine("an engine that keeps containers", &["--live-restore"], async |engine| {
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let agent = engine.agent(&master, dir.path(), &[]);
        let loops = "cd $MESOS_SANDBOX; n=0; while [ ! -e go ]; do n=$((n + 1)); echo $n; sleep 0.01; done; echo last $n; exit 3";
        master.launch(plain("t1", loops));
        master.launch(plain("t2", "while true; do sleep 1; done"));
        for id in ["t1", "t2"] {
            master.update(id, TaskState::TaskRunning).await;
        }
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            engine.stop(signal);
            // Killed while nobody can be asked.
            if signal == Signal::SIGKILL {
                master.kill("t2");
                master.update("t2", TaskState::TaskKilling).await;
            }
            engine.restart();
        }
        master.update("t2", TaskState::TaskKilled).await;
        let before = output(&agent, "t1", "stdout").lines().count();
        until("it goes on", || output(&agent, "t1", "stdout").lines().count() > before).await;
        fs::write(agent.sandbox("t1").join("go"), "").unwrap();
        assert_eq!(master.update("t1", TaskState::TaskFailed).await.message(), "Command exited with status 3");
        let lines = output(&agent, "t1", "stdout");
        let numbers: Vec<u32> = lines.lines().filter_map(|line| line.parse().ok()).collect();
        // What an engine had not written down when it was killed, it does not know.
        assert!(numbers.is_sorted_by(|a, b| a < b), "nothing twice: {numbers:?}");
        assert!(lines.ends_with(&format!("last {}\n", numbers.last().unwrap())), "{lines}");
    });
    with_engine("an engine that ends containers", &[], async |engine| {
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let _agent = engine.agent(&master, dir.path(), &[]);
        master.launch(plain("t1", "trap 'exit 9' TERM; while true; do sleep 0.02; done"));
        master.update("t1", TaskState::TaskRunning).await;
        engine.stop(Signal::SIGTERM);
        engine.restart();
        assert_eq!(master.update("t1", TaskState::TaskFailed).await.message(), "Command exited with status 9");
    });
}

#[test]
fn checks_look_from_within() {
    with_engine("checks of containers", &[], async |engine| {
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let agent = engine.agent(&master, dir.path(), &[]);
        let health = |kind: v1::health_check::Type| v1::HealthCheck {
            r#type: Some(kind as i32),
            delay_seconds: Some(0.0),
            interval_seconds: Some(0.1),
            timeout_seconds: Some(5.0),
            grace_period_seconds: Some(0.0),
            consecutive_failures: Some(2),
            ..Default::default()
        };
        let by_command = |value: &str| {
            let command = Some(CommandInfo { value: Some(value.into()), ..Default::default() });
            Some(Box::new(v1::HealthCheck { command, ..health(v1::health_check::Type::Command) }))
        };
        let serves = "httpd -p 127.0.0.1:8080 -h /www; while true; do sleep 1; done";
        let http_check = v1::health_check::HttpCheckInfo { port: 8080, ..Default::default() };
        let http_check = v1::HealthCheck { http: Some(http_check), ..health(v1::health_check::Type::Http) };
        let tcp_check = v1::health_check::TcpCheckInfo { port: 8080, ..Default::default() };
        let tcp_check = v1::HealthCheck { tcp: Some(tcp_check), ..health(v1::health_check::Type::Tcp) };
        master.launch(TaskInfo { health_check: Some(Box::new(http_check.clone())), ..bridged("h", serves) });
        master.launch(TaskInfo { health_check: Some(Box::new(tcp_check)), ..bridged("t", serves) });
        master.launch(TaskInfo {
            health_check: by_command("[ -x /bin/hello ] && echo looked $X"),
            ..plain("c", "sleep 1000")
        });
        let healthy = |id: &'static str, is: bool| {
            master.wait("a look", move |known| {
                known.statuses().find(|one| one.task_id.value == id && one.healthy == Some(is))
            })
        };
        for id in ["h", "t", "c"] {
            healthy(id, true).await;
        }
        until("it is in the sandbox", || output(&agent, "c", "stderr").contains("looked")).await;
        // Nobody serves there.
        master.launch(TaskInfo { health_check: Some(Box::new(http_check)), ..bridged("u", "sleep 1000") });
        let ended = master.update("u", TaskState::TaskKilled).await;
        assert_eq!(ended.healthy, Some(false));
        // What takes too long is ended in the container, too.
        let slow =
            by_command("sleep 777").map(|check| Box::new(v1::HealthCheck { timeout_seconds: Some(0.2), ..*check }));
        master.launch(TaskInfo { health_check: slow, ..plain("s", "sleep 1000") });
        master.update("s", TaskState::TaskKilled).await;
        let sleepers = || std::process::Command::new("pgrep").args(["-f", "^sleep 777"]).output().unwrap().stdout;
        until("its end", || sleepers().is_empty()).await;
    });
}

#[test]
fn executors_of_frameworks_and_volumes() {
    with_engine("executors in images", &[], async |engine| {
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let agent = engine.agent(&master, dir.path(), &["--resources=cpus:4;mem:1024;disk(eng/dev):1024"]);
        // Says what an executor says, by hand: it is here, and its task runs.
        let ids = r#""executor_id":{"value":"e1"},"framework_id":{"value":"C-0000"}"#;
        let subscribe = format!(r#"{{"type":"SUBSCRIBE",{ids},"subscribe":{{}}}}"#);
        let status = r#"{"task_id":{"value":"t1"},"state":"TASK_RUNNING","source":"SOURCE_EXECUTOR","uuid":"AAAAAAAAAAAAAAAAAAAAAA=="}"#;
        let update = format!(r#"{{"type":"UPDATE",{ids},"update":{{"status":{status}}}}}"#);
        let say = |body: &str| {
            format!(
                "printf 'POST /api/v1/executor HTTP/1.1\\r\\nHost: x\\r\\nContent-Type: application/json\\r\\nAccept: application/json\\r\\n\
                 Content-Length: {}\\r\\n\\r\\n%s' '{body}'",
                body.len()
            )
        };
        let line = "host=${MESOS_AGENT_ENDPOINT%:*} port=${MESOS_AGENT_ENDPOINT#*:}";
        let script = format!(
            "{line}; echo $MESOS_EXECUTOR_ID $MESOS_SANDBOX; ({}; sleep 1000) | nc $host $port & sleep 0.5; ({}; sleep 1) | nc $host $port; wait",
            say(&subscribe),
            say(&update)
        );
        let docker = DockerInfo { image: IMAGE.into(), ..DockerInfo::default() };
        let info = ContainerInfo {
            r#type: v1::container_info::Type::Docker as i32,
            docker: Some(docker),
            ..Default::default()
        };
        let own = api::resources::parse("cpus:0.5;mem:64", "*")
            .unwrap()
            .resources
            .to_v1(api::resources::Format::PostRefinement);
        let executor = v1::ExecutorInfo {
            r#type: Some(v1::executor_info::Type::Custom as i32),
            executor_id: v1::ExecutorId { value: "e1".into() },
            command: Some(CommandInfo { value: Some(script), ..Default::default() }),
            container: Some(Box::new(info)),
            resources: own,
            ..Default::default()
        };
        master.launch(TaskInfo { command: None, executor: Some(executor.clone()), ..task("t1", "") });
        let running = master.update("t1", TaskState::TaskRunning).await;
        let container = format!("mesos-{}", running.container_status.unwrap().container_id.unwrap().value);
        until("its output", || output(&agent, "e1", "stdout").starts_with("e1 /mnt/mesos/sandbox\n")).await;
        // What it may use follows its tasks.
        let memory = |engine: &Engine| engine.docker(&["inspect", "--format", "{{.HostConfig.Memory}}", &container]);
        until("its memory", || memory(engine).trim() == (96 << 20).to_string()).await;
        // What runs gets no volumes.
        let late = common::volume("late");
        master.create(2, &late, std::slice::from_ref(&late));
        let mut brings = TaskInfo { command: None, executor: Some(executor.clone()), ..task("t2", "") };
        brings.resources.push(late);
        master.launch(brings);
        let ended = master.update("t1", TaskState::TaskFailed).await;
        assert_eq!(ended.reason(), Reason::ContainerUpdateFailed);
        assert!(!memory(engine).is_empty(), "it stays for --docker_remove_delay");

        // A persistent volume is where its task looks for it.
        let volume = common::volume("v");
        master.create(1, &volume, std::slice::from_ref(&volume));
        let mut keeps = plain("v1", "echo kept >> $MESOS_SANDBOX/data/f; cat $MESOS_SANDBOX/data/f");
        keeps.resources.push(volume);
        for n in 1..=2 {
            let id = v1::TaskId { value: format!("v{n}") };
            master.launch(TaskInfo { task_id: id, ..keeps.clone() });
            master.update(&format!("v{n}"), TaskState::TaskFinished).await;
            assert_eq!(output(&agent, &format!("v{n}"), "stdout"), "kept\n".repeat(n));
        }
    });
}

/// `docs/docker.md`: its flags, its task, and what it looks at.
#[test]
fn the_page_works_as_it_stands() {
    with_engine("the page", &[], async |engine| {
        let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/docker.md")).unwrap();
        let block = |kind: &str, beginning: &str| {
            let begins = format!("```{kind}\n{beginning}");
            let from = page.find(&begins).unwrap() + "```\n".len() + kind.len();
            page[from..].split("\n```").next().unwrap().to_owned()
        };
        let flags = block("sh", "meseta-agent");
        let replaced = ["--master", "--work_dir", "--docker_socket"];
        let flags: Vec<&str> =
            flags.split(' ').skip(1).filter(|flag| !replaced.iter().any(|one| flag.starts_with(one))).collect();
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let _agent = engine.agent(&master, dir.path(), &flags);
        let task: TaskInfo = api::json::from_slice(block("json", "{").as_bytes()).unwrap();
        master.launch(task);
        master
            .wait("health", |known| {
                known.statuses().find(|one| one.task_id.value == "web-1" && one.healthy == Some(true))
            })
            .await;
        let (_, body) = http("127.0.0.1:31000", "GET", "/index.html", "", "").await;
        assert_eq!(body, "here\n");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &block("sh", "docker ps")]).env("DOCKER_HOST", format!("unix://{}", engine.socket()));
        let said = String::from_utf8(shell.output().unwrap().stdout).unwrap();
        assert!(said.starts_with("mesos-") && said.contains(" Up "), "{said}");
        master.kill("web-1");
        master.update("web-1", TaskState::TaskKilled).await;
    });
}

/// Whose hash that is: u, hunter2.
const PASSWORDS: &str = "u:$2b$04$mlJW9x6xmqQpzsesve4e7uybUMTWPW/k9Tip3jhkAUhH4U71IrvFm\n";
const AUTHS: &str = r#"{"127.0.0.1:5000": {"auth": "dTpodW50ZXIy"}}"#;

#[test]
fn images_are_pulled_with_credentials_and_in_time() {
    with_engine("a registry", &[], async |engine| {
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let path = |name: &str| engine.dir.join(name);
        // Whoever is slow is bounded by a flag.
        let slow = path("slow");
        fs::write(path("draft"), "#!/bin/sh\ncase \"$*\" in *pull*) sleep 1000;; esac\nexec docker \"$@\"\n").unwrap();
        let installed =
            std::process::Command::new("install").args(["-m", "755"]).args([&path("draft"), &slow]).status();
        assert!(installed.unwrap().success());
        let slow = format!("--docker={}", slow.display());
        let agent = engine.agent(&master, dir.path(), &[&slow]);
        master.launch(boxed("told", "true", |_, docker| docker.image = "nosuch:1".into()));
        let pulls = || {
            let all = fs::read_dir("/proc").unwrap().flatten();
            let words = all.map(|entry| fs::read(entry.path().join("cmdline")).unwrap_or_default());
            let words = words.map(|words| String::from_utf8_lossy(&words).into_owned());
            words
                .filter(|words| words.contains(slow.trim_start_matches("--docker=")) && words.contains("\0pull\0"))
                .count()
        };
        until("a pull", || pulls() > 0).await;
        master.kill("told");
        assert_eq!(master.update("told", TaskState::TaskKilled).await.reason(), Reason::TaskKilledDuringLaunch);
        until("its end", || pulls() == 0).await;
        agent.kill();
        let agent = engine.agent(&master, dir.path(), &[&slow, "--executor_registration_timeout=1secs"]);
        let late = failed(&master, boxed("late", "true", |_, docker| docker.image = "nosuch:1".into())).await;
        let why = "'launch' took longer than 1 s (--executor_registration_timeout)";
        assert!(late.message().contains(why), "{}", late.message());
        agent.kill();

        if !engine::runs("docker-registry") {
            assert!(std::env::var_os("ENGINE_NEEDED").is_none(), "there is no docker-registry");
            eprintln!("NOT TESTED (credentials): there is no docker-registry here");
            return;
        }
        fs::write(path("passwords"), PASSWORDS).unwrap();
        let config = serde_json::json!({
            "version": "0.1",
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": path("registry")}},
            "http": {"addr": "127.0.0.1:5000"},
            "auth": {"htpasswd": {"realm": "r", "path": path("passwords")}},
        });
        fs::write(path("registry.yml"), config.to_string()).unwrap();
        let mut registry =
            std::process::Command::new("docker-registry").arg("serve").arg(path("registry.yml")).spawn().unwrap();
        let named = "127.0.0.1:5000/box:1";
        fs::create_dir(path("config")).unwrap();
        let auths = format!("{{\"auths\": {AUTHS}}}");
        fs::write(path("config/config.json"), &auths).unwrap();
        let config = path("config").display().to_string();
        engine.docker(&["tag", IMAGE, named]);
        until("it is there", || engine.try_docker(&["--config", &config, "push", named]).0).await;
        engine.docker(&["rmi", named]);

        let own = |id: &str| boxed(id, "echo here", |_, docker| docker.image = named.into());
        let agent = engine.agent(&master, dir.path(), &[]);
        let refused = failed(&master, own("none")).await;
        assert!(refused.message().contains("cannot pull the image '127.0.0.1:5000/box:1'"), "{}", refused.message());
        fs::write(path(".dockercfg"), AUTHS).unwrap();
        let mut brings = own("brings");
        let uri = v1::command_info::Uri { value: path(".dockercfg").display().to_string(), ..Default::default() };
        brings.command.as_mut().unwrap().uris = vec![uri];
        master.launch(brings);
        master.update("brings", TaskState::TaskFinished).await;
        assert_eq!(output(&agent, "brings", "stdout"), "here\n");
        agent.kill();
        engine.docker(&["rmi", "-f", named]);
        let _agent = engine.agent(&master, dir.path(), &[&format!("--docker_config={auths}")]);
        master.launch(own("flag"));
        master.update("flag", TaskState::TaskFinished).await;
        registry.kill().unwrap();
        registry.wait().unwrap();
    });
}

#[test]
fn who_is_ended_at_once_may_have_time() {
    with_engine("the time to stop", &[], async |engine| {
        let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
        let agent = engine.agent(
            &master,
            dir.path(),
            &["--docker_stop_timeout=10mins", "--containerizers=docker,mesos", "--executor_registration_timeout=5secs"],
        );
        // An executor that says nothing.
        let docker = DockerInfo { image: IMAGE.into(), ..DockerInfo::default() };
        let info = ContainerInfo {
            r#type: v1::container_info::Type::Docker as i32,
            docker: Some(docker),
            ..Default::default()
        };
        let script = "trap 'echo asked; exit 0' TERM; while true; do sleep 0.02; done";
        let executor = v1::ExecutorInfo {
            r#type: Some(v1::executor_info::Type::Custom as i32),
            executor_id: v1::ExecutorId { value: "e1".into() },
            command: Some(CommandInfo { value: Some(script.into()), ..Default::default() }),
            container: Some(Box::new(info)),
            ..Default::default()
        };
        master.launch(TaskInfo { command: None, executor: Some(executor), ..task("t1", "") });
        let ended = master.update("t1", TaskState::TaskFailed).await;
        assert_eq!(ended.reason(), Reason::ExecutorRegistrationTimeout);
        until("it is asked", || output(&agent, "e1", "stdout") == "asked\n").await;
        // What runs no image is not the engine's, whatever the order.
        master.launch(task("t2", "true"));
        master.update("t2", TaskState::TaskFinished).await;
        assert_eq!(engine.containers().len(), 1);
    });
}
