//! Isolators that end what exceeds what it was given.

mod common;

use std::net::TcpListener;
use std::time::Duration;

use api::v1::task_status::{Reason, Source};
use api::v1::value::{Range, Ranges, Scalar};
use api::v1::{self, Resource, TaskInfo, TaskState};
use common::{Master, PATIENCE, RealAgent, create, http, task, volume};
use serde_json::Value;

fn disk(mebibytes: f64) -> Resource {
    let scalar = Some(Scalar { value: mebibytes });
    Resource { name: "disk".into(), r#type: v1::value::Type::Scalar as i32, scalar, ..Resource::default() }
}

fn ports(begin: u64, end: u64) -> Resource {
    let ranges = Some(Ranges { range: vec![Range { begin, end }] });
    Resource { name: "ports".into(), r#type: v1::value::Type::Ranges as i32, ranges, ..Resource::default() }
}

fn with(mut task: TaskInfo, more: &[Resource]) -> TaskInfo {
    task.resources.extend_from_slice(more);
    task
}

async fn statistics(agent: &RealAgent, executor_id: &str) -> Value {
    let all: Value = serde_json::from_str(&http(&agent.address, "GET", "/monitor/statistics", "", "").await.1).unwrap();
    let found = all.as_array().unwrap().iter().find(|one| one["executor_id"] == executor_id);
    found.map_or(Value::Null, |one| one["statistics"].clone())
}

/// Waits until the statistics of an executor have something.
async fn until(agent: &RealAgent, executor_id: &str, has: impl Fn(&Value) -> bool) -> Value {
    let waiting = async {
        loop {
            let found = statistics(agent, executor_id).await;
            if has(&found) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("statistics")
}

const DISK: [&str; 3] = [
    "--isolation=posix/cpu,posix/mem,disk/du",
    "--container_disk_watch_interval=100ms",
    "--enforce_container_disk_quota",
];

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_more_of_the_disk_than_was_given_ends_and_others_do_not() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &DISK);
    let fill = |mebibytes: u32| format!("dd if=/dev/zero of=data bs=1M count={mebibytes} 2>/dev/null; sleep 1000");
    // A link leads out of the sandbox: what is there is not its own.
    master.launch(with(task("good", &format!("ln -s / all; {}", fill(1))), &[disk(8.0)]));
    master.launch(with(task("free", &fill(4)), &[]));
    let found =
        until(&agent, "good", |found| found["disk_used_bytes"].as_u64().is_some_and(|used| used >= 1 << 20)).await;
    assert_eq!(found["disk_limit_bytes"], 8 << 20);
    assert!(found["disk_used_bytes"].as_u64().unwrap() < 4 << 20, "{found}");
    assert_eq!(found["disk_statistics"][0]["used_bytes"], found["disk_used_bytes"]);
    assert_eq!(found["disk_statistics"].as_array().unwrap().len(), 1);
    master.launch(with(task("greedy", &fill(4)), &[disk(2.0)]));
    let failed = master.update("greedy", TaskState::TaskFailed).await;
    assert_eq!((failed.source(), failed.reason()), (Source::Agent, Reason::ContainerLimitationDisk));
    let message = failed.message();
    assert!(message.starts_with("Disk usage (") && message.ends_with(") exceeds quota (2MB)"), "{message}");
    assert_eq!(failed.limitation.unwrap().resources, [disk(2.0)]);
    assert_eq!(master.history("greedy"), ["TASK_STARTING", "TASK_RUNNING", "TASK_FAILED"]);
    // It is the same for an agent that was started meanwhile.
    agent.kill();
    let agent = RealAgent::start(&master.address, dir.path(), &DISK);
    let big = "while [ ! -e go ]; do sleep 0.05; done; dd if=/dev/zero of=data bs=1M count=4 2>/dev/null; sleep 1000";
    master.launch(with(task("later", big), &[disk(2.0)]));
    master.update("later", TaskState::TaskRunning).await;
    agent.kill();
    let agent = RealAgent::start(&master.address, dir.path(), &DISK);
    std::fs::write(agent.sandbox("later").join("go"), "").unwrap();
    assert_eq!(master.update("later", TaskState::TaskFailed).await.reason(), Reason::ContainerLimitationDisk);
    for id in ["good", "free"] {
        assert_eq!(master.history(id), ["TASK_STARTING", "TASK_RUNNING"], "{id} goes on");
        master.kill(id);
        master.update(id, TaskState::TaskKilled).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_has_a_size_of_its_own() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &DISK);
    let made = Resource { scalar: Some(Scalar { value: 3.0 }), ..volume("v") };
    master.apply(1, create(vec![made.clone()]), vec![made.clone()]);
    let fill = |mebibytes: u32| format!("dd if=/dev/zero of=data/x bs=1M count={mebibytes} 2>/dev/null; sleep 1000");
    master.launch(with(task("small", &fill(2)), &[disk(1.0), made.clone()]));
    let used = |found: &Value| found["disk_statistics"][0]["used_bytes"].as_u64().unwrap_or(0);
    let found = until(&agent, "small", |found| used(found) >= 2 << 20).await;
    assert_eq!(found["disk_statistics"][0]["persistence"]["id"], "v");
    assert_eq!(found["disk_statistics"][0]["limit_bytes"], 3 << 20);
    assert!(found["disk_used_bytes"].as_u64().unwrap() < 1 << 20, "the volume is not the sandbox's: {found}");
    master.kill("small");
    master.update("small", TaskState::TaskKilled).await;
    master.launch(with(task("large", &fill(5)), &[disk(1.0), made.clone()]));
    let failed = master.update("large", TaskState::TaskFailed).await;
    assert_eq!(failed.reason(), Reason::ContainerLimitationDisk);
    assert_eq!(failed.limitation.unwrap().resources, [made]);
}

/// A port that nobody listens at.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn listen(port: u16) -> String {
    let program = format!(
        "import socket,time;s=socket.socket();s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1);\
                           s.bind((\"127.0.0.1\",{port}));s.listen();time.sleep(1000)"
    );
    format!("exec python3 -c '{program}'")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_where_it_may_not_ends_and_the_group_with_it() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let flags =
        ["--isolation=posix/cpu,network/ports", "--container_ports_watch_interval=100ms", "--enforce_container_ports"];
    let _agent = RealAgent::start(&master.address, dir.path(), &flags);
    let (own, foreign, nested) = (free_port(), free_port(), free_port());
    master.launch(with(task("good", &listen(own)), &[ports(own.into(), own.into())]));
    master.launch(with(task("bad", &listen(foreign)), &[ports(own.into(), own.into())]));
    let failed = master.update("bad", TaskState::TaskFailed).await;
    assert_eq!((failed.source(), failed.reason()), (Source::Agent, Reason::ContainerLimitation));
    assert_eq!(failed.limitation.as_ref().unwrap().resources, [ports(foreign.into(), foreign.into())]);
    let expected = format!("is listening on unallocated port(s): [{foreign}-{foreign}]");
    assert!(failed.message().ends_with(&expected), "{}", failed.message());
    // Of a group the executor's container is ended, with all that is within it.
    master.launch_group("pod", vec![task("a", &listen(nested)), task("b", "sleep 1000")]);
    for id in ["a", "b"] {
        let failed = master.update(id, TaskState::TaskFailed).await;
        assert_eq!((failed.source(), failed.reason()), (Source::Agent, Reason::ContainerLimitation), "{id}");
        assert_eq!(failed.limitation.unwrap().resources, [ports(nested.into(), nested.into())], "{id}");
    }
    assert_eq!(master.history("good"), ["TASK_STARTING", "TASK_RUNNING"]);
    master.kill("good");
    master.update("good", TaskState::TaskKilled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_ports_that_are_looked_at_count() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let foreign = free_port();
    let range = format!("--container_ports_isolated_range=[{foreign}-{foreign}]");
    let flags =
        ["--isolation=network/ports", "--container_ports_watch_interval=100ms", "--enforce_container_ports", &range];
    let _agent = RealAgent::start(&master.address, dir.path(), &flags);
    master.launch(task("elsewhere", &listen(free_port())));
    master.update("elsewhere", TaskState::TaskRunning).await;
    master.launch(task("there", &listen(foreign)));
    master.update("there", TaskState::TaskFailed).await;
    assert_eq!(master.history("elsewhere"), ["TASK_STARTING", "TASK_RUNNING"]);
    master.kill("elsewhere");
    master.update("elsewhere", TaskState::TaskKilled).await;
}
