//! Executors that talk to their agent through a socket of this machine.

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use api::v1::{self, TaskInfo, TaskState};
use common::{Master, PATIENCE, RealAgent, framework, task};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const FLAG: &str = "--http_executor_domain_sockets";

/// An HTTP/1.1 answer through a socket; of a stream, its beginning.
async fn ask(socket: &Path, path: &str, head: &str, body: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Accept: application/json\r\n{head}Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&answer).contains("\"SUBSCRIBED\"") {
            if stream.read_buf(&mut answer).await.unwrap() == 0 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

fn call(kind: &str, more: Value) -> String {
    let mut call = json!({ "type": kind, "framework_id": { "value": "C-0000" }, "executor_id": { "value": "e1" } });
    call.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    call.to_string()
}

fn executor(kind: v1::executor_info::Type, command: Option<v1::CommandInfo>) -> v1::ExecutorInfo {
    v1::ExecutorInfo {
        r#type: Some(kind as i32),
        executor_id: v1::ExecutorId { value: "e1".into() },
        framework_id: framework().id,
        command,
        ..Default::default()
    }
}

fn launch(master: &Master) {
    let command =
        v1::CommandInfo { value: Some("echo $MESOS_DOMAIN_SOCKET > where; sleep 60".into()), ..Default::default() };
    let executor = executor(v1::executor_info::Type::Custom, Some(command));
    master.launch(TaskInfo { command: None, executor: Some(executor), ..task("t1", "") });
}

async fn written(path: &Path) -> String {
    let waiting = async {
        loop {
            match fs::read_to_string(path) {
                Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
                _ => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("a file")
}

#[tokio::test(flavor = "multi_thread")]
async fn executors_subscribe_through_a_socket_and_again_behind_a_restart() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let flags = [FLAG, "--executor_reregistration_timeout=15secs"];
    let agent = RealAgent::start(&master.address, dir.path(), &flags);
    let socket = fs::canonicalize(dir.path()).unwrap().join("agent.sock");
    let found = fs::symlink_metadata(&socket).unwrap();
    assert!(found.file_type().is_socket() && found.permissions().mode() & 0o777 == 0o666, "whatever user it runs as");
    launch(&master);
    assert_eq!(written(&agent.sandbox("e1").join("where")).await, socket.display().to_string());
    let subscribe = call("SUBSCRIBE", json!({ "subscribe": {} }));
    let answer = ask(&socket, "/slave(1)/api/v1/executor", "", &subscribe).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"SUBSCRIBED\""), "{answer}");

    agent.kill();
    let _agent = RealAgent::start(&master.address, dir.path(), &flags);
    let known = json!({ "name": "t1", "task_id": { "value": "t1" }, "agent_id": { "value": "C-S0" } });
    let again = call("SUBSCRIBE", json!({ "subscribe": { "unacknowledged_tasks": [known] } }));
    let answer = ask(&socket, "/api/v1/executor", "", &again).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let status = json!({ "task_id": { "value": "t1" }, "state": "TASK_FINISHED", "uuid": "AAAAAAAAAAAAAAAAAAAAAQ==",
                         "source": "SOURCE_EXECUTOR" });
    let answer = ask(&socket, "/api/v1/executor", "", &call("UPDATE", json!({ "update": { "status": status } }))).await;
    assert!(answer.starts_with("HTTP/1.1 202 Accepted"), "{answer}");
    master.update("t1", TaskState::TaskFinished).await;
    // What operators ask for has its port.
    for path in ["/state", "/flags", "/files/debug", "/slave(1)/state", "/api/v1/resource_provider", "/nothing"] {
        let answer = ask(&socket, path, "", "{}").await;
        assert!(answer.starts_with("HTTP/1.1 403 Forbidden"), "{path}: {answer}");
    }
    let answer = ask(&socket, "/api/v1", "", "{\"type\": \"GET_HEALTH\"}").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_through_the_socket_shows_the_token_that_it_would_show_at_the_port() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let key = dir.path().join("key");
    fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let socket = dir.path().join("here");
    let flags = [
        FLAG,
        &format!("--domain_socket_location={}", socket.display()),
        &format!("--jwt_secret_key={}", key.display()),
        "--authenticate_http_executors",
    ];
    let agent = RealAgent::start(&master.address, dir.path(), &flags);
    let command = "echo $MESOS_EXECUTOR_AUTHENTICATION_TOKEN > where; sleep 60";
    let command = v1::CommandInfo { value: Some(command.into()), ..Default::default() };
    let executor = executor(v1::executor_info::Type::Custom, Some(command));
    master.launch(TaskInfo { command: None, executor: Some(executor), ..task("t1", "") });
    let token = written(&agent.sandbox("e1").join("where")).await;
    let subscribe = call("SUBSCRIBE", json!({ "subscribe": {} }));
    let answer = ask(&socket, "/api/v1/executor", "", &subscribe).await;
    assert!(answer.starts_with("HTTP/1.1 401 Unauthorized"), "{answer}");
    let answer = ask(&socket, "/api/v1/executor", &format!("Authorization: Bearer {token}\r\n"), &subscribe).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_executor_needs_no_port() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let flags = [FLAG, "--executor_reregistration_timeout=15secs"];
    let agent = RealAgent::start(&master.address, dir.path(), &flags);
    // Nobody is there.
    let nowhere = v1::environment::Variable {
        name: "MESOS_AGENT_ENDPOINT".into(),
        value: Some("127.0.0.1:1".into()),
        ..Default::default()
    };
    let environment = Some(v1::Environment { variables: vec![nowhere] });
    let command = v1::CommandInfo { environment, ..Default::default() };
    let executor = executor(v1::executor_info::Type::Default, Some(command));
    master.launch_group_on(executor, vec![task("a", "while [ ! -e go ]; do sleep 0.05; done; exit 3")]);
    let running = master.update("a", TaskState::TaskRunning).await;
    agent.kill();
    let agent = RealAgent::start(&master.address, dir.path(), &flags);
    let own = running.container_status.unwrap().container_id.unwrap().value;
    fs::write(agent.sandbox("e1").join("containers").join(own).join("go"), "").unwrap();
    let failed = master.update("a", TaskState::TaskFailed).await;
    assert_eq!(failed.message(), "Command exited with status 3");
}

#[test]
fn what_is_no_place_for_a_socket_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("x".repeat(108));
    let fails = |words: &[&str], why: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meseta-agent"));
        command.args(["--master=127.0.0.1:1", "--ip=127.0.0.1", "--port=0"]);
        command.arg(format!("--work_dir={}", dir.path().display())).args(words);
        let output = command.output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(why), "{error}");
    };
    fails(&["--domain_socket_location=/x"], "--domain_socket_location needs --http_executor_domain_sockets");
    fails(&[FLAG, "--domain_socket_location=x"], "must be an absolute path, not 'x'");
    fails(&[FLAG, "--domain_socket_location=systemd:x"], "systemd:... is not supported");
    fails(&[FLAG, &format!("--domain_socket_location={}", long.display())], "bytes, and must have less than 108");
    fails(&[FLAG, "--domain_socket_location=/nowhere/x"], "Cannot listen on the executors' domain socket /nowhere/x");
}
