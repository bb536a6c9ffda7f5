//! What may be launched, and in which words the rest is refused.

use crate::testing::{Cluster, executor, group, operation, task_info};
use api::limits::LAUNCH_BYTES_MAX;
use api::v1;

/// In the words that clients know.
#[test]
fn checks_that_make_no_sense_are_refused() {
    use v1::health_check::HttpCheckInfo;
    use v1::{CheckInfo, HealthCheck, check_info, health_check};
    let check = |info: CheckInfo| refused(|task| task.check = Some(Box::new(info))).0;
    let of = |kind: check_info::Type| CheckInfo { r#type: Some(kind as i32), ..Default::default() };
    let invalid = "Task uses invalid check:";
    assert_eq!(check(CheckInfo::default()), format!("{invalid} CheckInfo must specify 'type'"));
    let expecting = |what: &str, kind: &str| format!("{invalid} Expecting '{what}' to be set for {kind} check");
    assert_eq!(check(of(check_info::Type::Http)), expecting("http", "HTTP"));
    assert_eq!(check(of(check_info::Type::Command)), expecting("command", "COMMAND"));
    assert_eq!(check(of(check_info::Type::Tcp)), expecting("tcp", "TCP"));
    let health = |info: HealthCheck| refused(|task| task.health_check = Some(Box::new(info))).0;
    let of = |kind: health_check::Type| HealthCheck { r#type: Some(kind as i32), ..Default::default() };
    let page = |scheme: &str, path: &str| HealthCheck {
        http: Some(HttpCheckInfo {
            port: 80,
            scheme: Some(scheme.into()),
            path: Some(path.into()),
            ..Default::default()
        }),
        ..of(health_check::Type::Http)
    };
    let invalid = "Task uses invalid health check:";
    let expecting = |what: &str, kind: &str| format!("{invalid} Expecting '{what}' to be set for {kind} health check");
    assert_eq!(health(of(health_check::Type::Http)), expecting("http", "HTTP"));
    assert_eq!(health(of(health_check::Type::Tcp)), expecting("tcp", "TCP"));
    assert_eq!(health(of(health_check::Type::Command)), expecting("command", "COMMAND"));
    assert_eq!(health(page("ftp", "/")), format!("{invalid} Unsupported HTTP health check scheme: 'ftp'"));
    let path = "The path 'x' of HTTP health check must start with '/'";
    assert_eq!(health(page("http", "x")), format!("{invalid} {path}"));
    let command = Some(v1::CommandInfo { value: Some("true".into()), ..Default::default() });
    let early = HealthCheck { command, delay_seconds: Some(-1.0), ..of(health_check::Type::Command) };
    assert_eq!(health(early), format!("{invalid} Expecting 'delay_seconds' to be non-negative"));
}

fn refused(change: impl FnOnce(&mut v1::TaskInfo)) -> (String, v1::task_status::Reason) {
    let mut cluster = Cluster::new();
    let framework = cluster.subscribe();
    cluster.agent("cpus:2;mem:100");
    let offers = cluster.offer();
    let mut task = task_info("t", "cpus:1;mem:10");
    change(&mut task);
    assert_eq!(cluster.accept(framework, &offers, vec![operation(vec![task])]), ["offers-accepted", "launch-refused"]);
    let status = cluster.statuses().pop().unwrap();
    assert_eq!(status.state(), v1::TaskState::TaskError);
    (status.message().to_owned(), status.reason())
}

#[test]
fn an_invalid_task_is_an_error() {
    let resources = |text: &str| task_info("t", text).resources;
    assert_eq!(
        refused(|task| task.resources = resources("cpus:9999;mem:32")),
        (
            "Total resources cpus(allocated: web):9999; mem(allocated: web):32 required by task and its executor is \
             more than available cpus(allocated: web):2; mem(allocated: web):100"
                .to_owned(),
            v1::task_status::Reason::TaskInvalid
        )
    );
    assert_eq!(refused(|task| task.resources.clear()).0, "Task uses no resources");
    assert_eq!(refused(|task| task.task_id.value = "a/b".into()).0, "'a/b' contains invalid characters");
    assert_eq!(
        refused(|task| task.agent_id.value = "x".into()).0,
        "Task uses invalid agent x while agent C-S0 is expected"
    );
    assert_eq!(
        refused(|task| task.command = None).0,
        "Task should have at least one (but not both) of CommandInfo or ExecutorInfo present"
    );
}

#[test]
fn a_command_has_something_to_run() {
    let shell = "Task uses invalid command: 'value' must be set, it is the shell command";
    assert_eq!(refused(|task| task.command = Some(v1::CommandInfo::default())).0, shell);
    let command = |shell| Some(v1::CommandInfo { shell: Some(shell), ..v1::CommandInfo::default() });
    assert_eq!(refused(|task| task.command = command(true)).0, shell);
    let arguments = vec!["true".to_owned()];
    assert_eq!(
        refused(|task| task.command = command(false).map(|command| v1::CommandInfo { arguments, ..command })).0,
        "Task uses invalid command: 'value' must be set, it is the path of the executable"
    );
    let mut cluster = Cluster::new();
    let framework = cluster.subscribe();
    cluster.agent("cpus:4;mem:100");
    let offers = cluster.offer();
    let docker = v1::container_info::DockerInfo { image: "i".into(), ..Default::default() };
    let docker_type = v1::container_info::Type::Docker as i32;
    let container = v1::ContainerInfo { r#type: docker_type, docker: Some(docker), ..Default::default() };
    let mesos = v1::container_info::MesosInfo { image: Some(v1::Image::default()) };
    let mesos_type = v1::container_info::Type::Mesos as i32;
    let imaged = v1::ContainerInfo { r#type: mesos_type, mesos: Some(mesos), ..Default::default() };
    let task = |id: &str, container: v1::ContainerInfo| v1::TaskInfo {
        command: command(false),
        container: Some(Box::new(container)),
        ..task_info(id, "cpus:1;mem:10")
    };
    let tasks = vec![task("docker", container), task("image", imaged)];
    let names = cluster.accept(framework, &offers, vec![operation(tasks)]);
    assert_eq!(names, ["offers-accepted", "task-launched", "task-launched"], "its image runs something");
    assert_eq!(
        refused(|task| {
            task.command = None;
            task.executor = Some(v1::ExecutorInfo { command: command(true), ..executor("e") });
        })
        .0,
        "Executor uses invalid command: 'value' must be set, it is the shell command"
    );
}

/// Whatever one launch may be, it fits where it is put: into a call, among an agent's orders, into a command.
#[test]
fn the_largest_launch_is_launched() {
    let mut cluster = Cluster::new();
    let text = |length| Some("x".repeat(length));
    let labels = |length| v1::Labels { labels: vec![v1::Label { key: String::new(), value: text(length) }] };
    let framework = cluster.subscribe_with(|info| info.labels = Some(labels(60_000)));
    let agent = cluster.agent("cpus:8;mem:1000");
    let large = |id: &str, length| v1::ExecutorInfo { data: Some(vec![7; length].into()), ..executor(id) };
    let task = |length| {
        let executor = Some(large("e", length));
        operation(vec![v1::TaskInfo { command: None, executor, ..task_info("t", "cpus:1;mem:1") }])
    };
    let offers = cluster.offer();
    let names = cluster.accept(framework, &offers, vec![task(LAUNCH_BYTES_MAX)]);
    assert_eq!(names, ["offers-accepted", "launch-refused"]);
    let status = cluster.statuses().pop().unwrap();
    assert_eq!(status.state(), v1::TaskState::TaskError);
    assert!(status.message().contains(&format!("more than the {LAUNCH_BYTES_MAX} that")), "{}", status.message());

    cluster.at_ms += 10_000;
    let offers = cluster.offer();
    let names = cluster.accept(framework, &offers, vec![task(LAUNCH_BYTES_MAX - 1000)]);
    assert_eq!(names, ["offers-accepted", "task-launched"]);

    cluster.at_ms += 10_000;
    let offers = cluster.offer();
    let mut one = group(large("f", LAUNCH_BYTES_MAX - 1000));
    one.launch_group.as_mut().unwrap().task_group.tasks.truncate(1);
    let names = cluster.accept(framework, &offers, vec![one]);
    assert_eq!(names, ["offers-accepted", "task-group-launched"]);
    let sent = cluster.state.agents.get(agent).unwrap().outbox_bytes();
    assert!((3 * LAUNCH_BYTES_MAX..3 * LAUNCH_BYTES_MAX + 200_000).contains(&sent), "{sent}");
}

#[test]
fn a_task_may_need_nothing_but_say_so() {
    let mut cluster = Cluster::new();
    let framework = cluster.subscribe();
    cluster.agent("cpus:2;mem:100");
    let offers = cluster.offer();
    let mut task = task_info("t", "disk:1");
    task.resources[0].scalar = Some(v1::value::Scalar { value: 0.0 });
    let events = cluster.accept(framework, &offers, vec![operation(vec![task])]);
    assert!(events.contains(&"task-launched"), "{events:?}");
}

#[test]
fn limits_are_for_agents_that_keep_them() {
    let mut cluster = Cluster::new();
    let framework = cluster.subscribe();
    let agent = cluster.agent("cpus:4;mem:100");
    let limits = || [("cpus".to_owned(), v1::value::Scalar { value: f64::INFINITY })].into();
    let limited = |id: &str| v1::TaskInfo { limits: limits(), ..task_info(id, "cpus:1;mem:10") };
    let offers = cluster.offer();
    cluster.accept(framework, &offers, vec![operation(vec![limited("t")])]);
    let status = cluster.statuses().pop().unwrap();
    assert_eq!(status.message(), "Agent is not capable of handling task resource limits");
    cluster.agent_disconnected(agent);
    cluster.resume_with(agent, |resume| resume.capabilities.push("TASK_RESOURCE_LIMITS".into())).unwrap();
    let offers = cluster.offer();
    let names = cluster.accept(framework, &offers, vec![operation(vec![limited("u")])]);
    assert_eq!(names, ["offers-accepted", "task-launched"]);
    let task = cluster.state.tasks.on(agent).next().unwrap();
    assert_eq!(crate::view::task(&cluster.state, task).limits, limits());
}

#[test]
fn an_id_in_use_is_not_used_twice() {
    let mut cluster = Cluster::new();
    let framework = cluster.subscribe();
    let agent = cluster.agent("cpus:4;mem:100");
    cluster.launch(framework, "t", "cpus:1;mem:10");
    let offers = cluster.offer();
    let launch =
        operation(vec![task_info("t", "cpus:1;mem:1"), task_info("u", "cpus:1;mem:1"), task_info("u", "cpus:1;mem:1")]);
    let names = cluster.accept(framework, &offers, vec![launch]);
    assert_eq!(names, ["offers-accepted", "launch-refused", "task-launched", "launch-refused"]);
    let messages: Vec<String> = cluster.statuses().iter().map(|status| status.message().to_owned()).collect();
    assert_eq!(messages, ["Task has duplicate ID: t", "Task has duplicate ID: u"]);
    cluster.agent_unreachable(agent);
    cluster.agent("cpus:4;mem:100");
    let offers = cluster.offer();
    let task = v1::TaskInfo { agent_id: v1::AgentId { value: "C-S1".into() }, ..task_info("t", "cpus:1;mem:1") };
    cluster.accept(framework, &offers, vec![operation(vec![task])]);
    let message = cluster.statuses().pop().unwrap().message().to_owned();
    assert_eq!(message, "Task reuses the ID of an unreachable task: t");
}

#[test]
fn nothing_is_given_twice() {
    let mut cluster = Cluster::new();
    let framework = cluster.subscribe();
    cluster.agent("cpus:4;mem:100;ports:[1-9]");
    let offers = cluster.offer();
    let mut same_port = group(executor("e"));
    for task in &mut same_port.launch_group.as_mut().unwrap().task_group.tasks {
        task.resources = task_info("", "cpus:1;mem:1;ports:[2-3]").resources;
    }
    assert_eq!(
        cluster.accept(framework, &offers, vec![same_port]),
        ["offers-accepted", "launch-refused", "launch-refused"]
    );
    assert_eq!(cluster.statuses().len(), 2);
}

#[test]
fn a_group_goes_to_its_executor_together() {
    let mut cluster = Cluster::new();
    let framework = cluster.subscribe();
    let agent = cluster.agent("cpus:4;mem:100");
    let offers = cluster.offer();
    let names = cluster.accept(framework, &offers, vec![group(executor("e"))]);
    assert_eq!(names, ["offers-accepted", "task-group-launched"]);
    let agent = cluster.state.agents.get(agent).unwrap();
    assert_eq!(agent.used.scalar_milli("cpus"), 2500);
    assert_eq!((agent.outbox.len(), agent.executors.len()), (1, 1));

    // A later task uses the executor that is there, and pays nothing for it.
    cluster.at_ms += 10_000;
    let offers = cluster.offer();
    let task = v1::TaskInfo { command: None, executor: Some(executor("e")), ..task_info("c", "cpus:1.5;mem:1") };
    let names = cluster.accept(framework, &offers, vec![operation(vec![task])]);
    assert_eq!(names, ["offers-accepted", "task-launched"]);
}

#[test]
fn a_large_executor_is_not_copied_into_a_large_group() {
    let mut cluster = Cluster::new();
    let framework = cluster.subscribe();
    cluster.agent("cpus:4;mem:100");
    let offers = cluster.offer();
    let large = v1::ExecutorInfo { data: Some(vec![0; 9 << 20].into()), ..executor("e") };
    let names = cluster.accept(framework, &offers, vec![group(large)]);
    assert_eq!(names, ["offers-accepted", "launch-refused", "launch-refused"]);
    assert!(cluster.statuses()[0].message().starts_with("'ExecutorInfo' in each task of the group has"));
}

#[test]
fn a_group_that_cannot_be_launched_is_refused_as_a_whole() {
    let mut cluster = Cluster::new();
    let framework = cluster.subscribe();
    cluster.agent("cpus:4;mem:100");
    let offers = cluster.offer();
    let default = v1::ExecutorInfo { r#type: Some(v1::executor_info::Type::Default as i32), ..executor("e") };
    assert_eq!(
        cluster.accept(framework, &offers, vec![group(default)]),
        ["offers-accepted", "launch-refused", "launch-refused"]
    );
    let statuses = cluster.statuses();
    assert_eq!(statuses.len(), 2);
    assert_eq!(statuses[0].message(), "'ExecutorInfo.command' must not be set for 'DEFAULT' executor");
    assert_eq!(statuses[0].reason(), v1::task_status::Reason::TaskGroupInvalid);
}
