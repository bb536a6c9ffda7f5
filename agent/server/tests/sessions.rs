//! Sessions in containers, and whoever attaches to the streams of a container's process.

mod common;

use api::v1::{self, TaskInfo, TaskState};
use common::{Master, PATIENCE, RealAgent, http, task};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const JSON: &str = "Content-Type: application/json\r\nAccept: application/json\r\n";
const STREAM: &str =
    "Content-Type: application/json\r\nAccept: application/recordio\r\nMessage-Accept: application/json\r\n";

fn within(parent: &str, value: &str) -> Value {
    json!({ "value": value, "parent": { "value": parent } })
}

async fn running(master: &Master, id: &str, command: &str) -> String {
    master.launch(task(id, command));
    let status = master.update(id, TaskState::TaskRunning).await;
    status.container_status.unwrap().container_id.unwrap().value
}

fn session(id: Value, command: &str, tty: bool) -> Value {
    let mut call = json!({ "container_id": id, "command": { "shell": true, "value": command } });
    if tty {
        let size = json!({ "window_size": { "rows": 24, "columns": 80 } });
        call["container"] = json!({ "type": "MESOS", "tty_info": size });
    }
    json!({ "type": "LAUNCH_NESTED_CONTAINER_SESSION", "launch_nested_container_session": call })
}

/// A stream of output. What was written so far is kept.
struct Output {
    reader: BufReader<TcpStream>,
    text: String,
}

impl Output {
    async fn open(address: &str, call: &Value) -> Output {
        let body = call.to_string();
        let mut socket = TcpStream::connect(address).await.unwrap();
        let head = format!("POST /api/v1 HTTP/1.1\r\nHost: x\r\n{STREAM}Content-Length: {}\r\n\r\n", body.len());
        socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let (mut reader, mut head) = (BufReader::new(socket), String::new());
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).await.unwrap() > 0, "{head}");
        }
        let head = head.to_lowercase();
        assert!(head.starts_with("http/1.1 200 ok") && head.contains("application/recordio\r\n"), "{head}");
        assert!(head.contains("message-content-type: application/json\r\n"), "{head}");
        Output { reader, text: String::new() }
    }

    /// The next record; none at the end.
    async fn next(&mut self) -> Option<Value> {
        let mut length = String::new();
        self.reader.read_line(&mut length).await.unwrap();
        let length = usize::from_str_radix(length.trim(), 16).unwrap();
        let mut chunk = vec![0; length + 2];
        self.reader.read_exact(&mut chunk).await.unwrap();
        let text = String::from_utf8(chunk[..length].to_vec()).unwrap();
        let (_, record) = text.split_once('\n')?;
        Some(serde_json::from_str(record).unwrap())
    }

    /// Reads until something was written; or until the end, if it is none.
    async fn until(&mut self, what: Option<&str>) {
        let reading = async {
            while what.is_none_or(|what| !self.text.contains(what)) {
                let Some(record) = self.next().await else {
                    assert_eq!(what, None, "{}", self.text);
                    return;
                };
                if record["type"] == "DATA" {
                    let data = base64(record["data"]["data"].as_str().unwrap());
                    let kind = if record["data"]["type"] == "STDERR" { "!" } else { "" };
                    self.text += &format!("{kind}{}", String::from_utf8_lossy(&data));
                }
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.unwrap();
    }
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'=').map(digit).collect();
    let of = |part: &[u8]| {
        let bits = part.iter().fold(0u32, |bits, digit| bits << 6 | u32::from(*digit)) << (6 * (4 - part.len()));
        bits.to_be_bytes()[1..part.len()].to_vec()
    };
    digits.chunks(4).flat_map(of).collect()
}

fn to_base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let of = |part: &[u8]| {
        let bits = part.iter().chain(&[0, 0]).take(3).fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        let digit = |at: usize| DIGITS[(bits >> (18 - 6 * at)) as usize & 63] as char;
        (0..4).map(|at| if at <= part.len() { digit(at) } else { '=' }).collect::<String>()
    };
    bytes.chunks(3).map(of).collect()
}

/// A stream of input.
struct Input(TcpStream);

impl Input {
    async fn open(address: &str, id: &Value) -> Input {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let kind = "Content-Type: application/recordio\r\nMessage-Content-Type: application/json\r\n";
        let head = format!("POST /api/v1 HTTP/1.1\r\nHost: x\r\n{kind}Transfer-Encoding: chunked\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut input = Input(socket);
        input.send(json!({ "type": "CONTAINER_ID", "container_id": id })).await;
        input
    }

    async fn send(&mut self, content: Value) {
        let record = json!({ "type": "ATTACH_CONTAINER_INPUT", "attach_container_input": content }).to_string();
        let record = format!("{}\n{record}", record.len());
        self.0.write_all(format!("{:x}\r\n{record}\r\n", record.len()).as_bytes()).await.unwrap();
    }

    async fn write(&mut self, text: &str) {
        let data = json!({ "type": "STDIN", "data": to_base64(text.as_bytes()) });
        self.send(json!({ "type": "PROCESS_IO", "process_io": { "type": "DATA", "data": data } })).await;
    }

    async fn control(&mut self, control: Value) {
        self.send(json!({ "type": "PROCESS_IO", "process_io": { "type": "CONTROL", "control": control } })).await;
    }

    /// Ends the stream, if it is to end by itself, and reads the answer.
    async fn answer(mut self, end: bool) -> String {
        if end {
            self.0.write_all(b"0\r\n\r\n").await.unwrap();
        }
        let mut answer = vec![0; 4096];
        let count = tokio::time::timeout(PATIENCE, self.0.read(&mut answer)).await.unwrap().unwrap();
        String::from_utf8_lossy(&answer[..count]).into_owned()
    }
}

async fn wait(address: &str, id: Value) -> String {
    let call = json!({ "type": "WAIT_CONTAINER", "wait_container": { "container_id": id } });
    http(address, "POST", "/api/v1", JSON, &call.to_string()).await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_shows_what_its_process_writes_and_ends_with_it() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &["--http_heartbeat_interval=100ms"]);
    let parent = running(&master, "t1", "sleep 1000").await;
    let id = within(&parent, "s1");
    let command = "echo out; echo err >&2; pwd; env | grep MESOS_TASK_ID; sleep 0.5; exit 3";
    let mut output = Output::open(&agent.address, &session(id.clone(), command, false)).await;
    let mut beats = 0;
    loop {
        let Some(record) = output.next().await else { break };
        if record["type"] == "CONTROL" {
            assert_eq!(record["control"]["heartbeat"]["interval"]["nanoseconds"], 100_000_000);
            beats += 1;
        } else {
            output.text += &String::from_utf8(base64(record["data"]["data"].as_str().unwrap())).unwrap();
        }
    }
    assert!(beats > 0);
    for part in ["out\n", "err\n", "MESOS_TASK_ID=t1\n"] {
        assert!(output.text.contains(part), "{}", output.text);
    }
    let sandbox = std::fs::canonicalize(agent.sandbox("t1")).unwrap();
    assert!(output.text.contains(&format!("{}\n", sandbox.display())), "in the folder of what it is within");
    let ended = r#"{"type":"WAIT_CONTAINER","wait_container":{"exit_status":768}}"#;
    assert_eq!(wait(&agent.address, id).await, ended);
    assert_eq!(std::fs::read_to_string(sandbox.join("stdout")).unwrap(), "", "it is not in the task's files");
    let file = dir.path().join("brought");
    std::fs::write(&file, "brought\n").unwrap();
    let mut brings = session(within(&parent, "s3"), "cat brought", false);
    brings["launch_nested_container_session"]["command"]["uris"] = json!([{ "value": file }]);
    let mut output = Output::open(&agent.address, &brings).await;
    output.until(None).await;
    assert_eq!(output.text, "brought\n");
    let digest = format!("sha256:{}", "0".repeat(64));
    let name = format!("meseta.checksum:{}", file.display());
    let environment = json!({ "variables": [{ "name": name, "value": digest }] });
    brings["launch_nested_container_session"]["command"]["environment"] = environment;
    brings["launch_nested_container_session"]["container_id"] = within(&parent, "s4");
    let refused = http(&agent.address, "POST", "/api/v1", STREAM, &brings.to_string()).await;
    assert!(refused.0.starts_with("HTTP/1.1 400") && refused.1.contains("Failed to fetch all URIs"), "{refused:?}");
    let mut missing = session(within(&parent, "s2"), "", false);
    missing["launch_nested_container_session"]["command"] = json!({ "shell": false, "value": "/nosuch" });
    let mut output = Output::open(&agent.address, &missing).await;
    output.until(None).await;
    assert_eq!(output.text, "!Failed to execute '/nosuch': No such file or directory\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_typed_on_resized_and_left() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let parent = running(&master, "t1", "sleep 1000").await;
    let id = within(&parent, "sh");
    let mut output = Output::open(&agent.address, &session(id.clone(), "stty size; exec sh -i", true)).await;
    output.until(Some("24 80")).await;
    let mut input = Input::open(&agent.address, &id).await;
    let size = json!({ "type": "TTY_INFO", "tty_info": { "window_size": { "rows": 50, "columns": 132 } } });
    input.control(size).await;
    let beat = json!({ "type": "HEARTBEAT", "heartbeat": { "interval": { "nanoseconds": 1 } } });
    input.control(beat).await;
    input.write("stty size\n").await;
    output.until(Some("50 132")).await;
    // One at a time; whoever is attached stays.
    let second = Input::open(&agent.address, &id).await.answer(false).await;
    assert!(second.starts_with("HTTP/1.1 409"), "{second}");
    assert!(input.answer(true).await.starts_with("HTTP/1.1 200"), "detached");
    let mut input = Input::open(&agent.address, &id).await;
    // Ctrl-C ends what runs in the foreground, and not the shell.
    input.write("sleep 1000\n").await;
    output.until(Some("sleep 1000")).await;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    input.write("\u{3}").await;
    input.write("echo st''ill\n").await;
    output.until(Some("still")).await;
    input.write("exit 4\n").await;
    output.until(None).await;
    assert!(input.answer(false).await.starts_with("HTTP/1.1 200"), "it ended");
    let ended = r#"{"type":"WAIT_CONTAINER","wait_container":{"exit_status":1024}}"#;
    assert_eq!(wait(&agent.address, id).await, ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_input_of_a_session_has_an_end_and_whoever_hangs_up_ends_it() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let parent = running(&master, "t1", "sleep 1000").await;
    let id = within(&parent, "cat");
    let mut output = Output::open(&agent.address, &session(id.clone(), "wc -c; echo over", false)).await;
    let mut input = Input::open(&agent.address, &id).await;
    let large = "x".repeat(100_000);
    for _ in 0..5 {
        input.write(&large).await;
    }
    input.write("").await;
    output.until(None).await;
    assert_eq!(output.text, "500000\nover\n");
    let id = within(&parent, "left");
    let mut output = Output::open(&agent.address, &session(id.clone(), "echo $$; exec sleep 1000", false)).await;
    output.until(Some("\n")).await;
    let pid: u32 = output.text.trim().parse().unwrap();
    drop(output);
    assert!(wait(&agent.address, id).await.contains("\"exit_status\":9"));
    assert!(agent_server::spec::start_ticks(pid).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_of_a_task_outlives_the_agent() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let patience = "--executor_reregistration_timeout=15secs";
    let mut agent = RealAgent::start(&master.address, dir.path(), &[patience]);
    let port = format!("--port={}", agent.address.rsplit_once(':').unwrap().1);
    let tty = TaskInfo {
        container: Some(Box::new(v1::ContainerInfo {
            r#type: v1::container_info::Type::Mesos as i32,
            tty_info: Some(v1::TtyInfo { window_size: Some(v1::tty_info::WindowSize { rows: 30, columns: 90 }) }),
            ..Default::default()
        })),
        ..task("a", "stty size; while read line; do echo got $line; done; exit 5")
    };
    master.launch_group("p1", vec![tty]);
    let status = master.update("a", TaskState::TaskRunning).await;
    let id = status.container_status.unwrap().container_id.unwrap();
    let (own, parent) = (id.value, id.parent.unwrap().value);
    let id = within(&parent, &own);
    let attach = json!({ "type": "ATTACH_CONTAINER_OUTPUT", "attach_container_output": { "container_id": id } });
    for (n, word) in ["one", "two"].into_iter().enumerate() {
        if n > 0 {
            agent.kill();
            agent = RealAgent::start(&master.address, dir.path(), &[patience, &port]);
        }
        let mut output = Output::open(&agent.address, &attach).await;
        let mut input = Input::open(&agent.address, &id).await;
        input.write(&format!("{word}\n")).await;
        output.until(Some(&format!("got {word}"))).await;
        if n > 0 {
            input.write("\u{4}").await;
            output.until(None).await;
        }
    }
    assert_eq!(master.update("a", TaskState::TaskFailed).await.message(), "Command exited with status 5");
    let stdout = std::fs::read_to_string(agent.sandbox("p1").join("tasks/a/stdout")).unwrap();
    assert!(stdout.contains("30 90\r\n") && stdout.contains("got one\r\n"), "{stdout:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_attached_to_is_said() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let parent = running(&master, "t1", "sleep 1000").await;
    let attach = |id: Value| {
        json!({ "type": "ATTACH_CONTAINER_OUTPUT", "attach_container_output": { "container_id": id } }).to_string()
    };
    let disabled = "I/O switchboard server was disabled for this container";
    let unknown = format!("Unknown container {parent}.nosuch");
    for (id, why) in [(json!({ "value": parent }), disabled), (within(&parent, "nosuch"), &unknown)] {
        let (head, body) = http(&agent.address, "POST", "/api/v1", STREAM, &attach(id.clone())).await;
        assert!(head.starts_with("HTTP/1.1 500") && body == why, "{head} {body}");
        let answer = Input::open(&agent.address, &id).await.answer(false).await;
        assert!(answer.starts_with("HTTP/1.1 500") && answer.ends_with(why), "{answer}");
    }
    let plain = json!({ "type": "ATTACH_CONTAINER_INPUT",
        "attach_container_input": { "type": "CONTAINER_ID", "container_id": { "value": parent } } });
    let (head, body) = http(&agent.address, "POST", "/api/v1", JSON, &plain.to_string()).await;
    assert!(head.starts_with("HTTP/1.1 415"), "{head} {body}");
    assert_eq!(body, "Expecting 'Content-Type' to be application/recordio for ATTACH_CONTAINER_INPUT call");
    let stream = "Content-Type: application/recordio\r\nMessage-Content-Type: application/json\r\n";
    for (body, status, why) in [
        (
            "22\n{\"type\": \"GET_HEALTH\"}",
            "415",
            "Streaming 'Content-Type' application/recordio is not supported for GET_HEALTH call",
        ),
        ("abc\nhello", "500", "Decoder failure: Failed to decode length 'abc': Failed to convert 'abc' to number"),
        (
            "81\n{\"type\": \"ATTACH_CONTAINER_INPUT\", \"attach_container_input\": {\"type\": \"UNKNOWN\"}}",
            "400",
            "Expecting 'attach_container_input.type' to be CONTAINER_ID",
        ),
    ] {
        let (head, answer) = http(&agent.address, "POST", "/api/v1", stream, body).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")) && answer == why, "{head} {answer}");
    }
    let (head, body) = http(&agent.address, "POST", "/api/v1", "Content-Type: application/recordio\r\n", "").await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head} {body}");
    assert_eq!(body, "Expecting 'Message-Content-Type' to be set for streaming requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_may_have_a_terminal_and_limits() {
    use v1::r_limit_info::{RLimit, r_limit::Type};
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &["--isolation=posix/cpu,posix/mem,posix/rlimits"]);
    let limit = |kind: Type, soft, hard| RLimit { r#type: Some(kind as i32), soft, hard };
    let info = |id: &str, command: &str, container: v1::ContainerInfo| TaskInfo {
        container: Some(Box::new(v1::ContainerInfo { r#type: v1::container_info::Type::Mesos as i32, ..container })),
        ..task(id, command)
    };
    let limits = v1::RLimitInfo {
        rlimits: vec![limit(Type::RlmtNofile, Some(100), Some(200)), limit(Type::RlmtCore, Some(0), Some(0))],
    };
    let container = || v1::ContainerInfo { rlimit_info: Some(limits.clone()), ..Default::default() };
    master.launch(info("limited", "ulimit -Sn; ulimit -Hn; ulimit -c", container()));
    master.update("limited", TaskState::TaskFinished).await;
    let stdout = std::fs::read_to_string(agent.sandbox("limited").join("stdout")).unwrap();
    assert_eq!(stdout, "100\n200\n0\n");
    let tty_info = Some(v1::TtyInfo { window_size: Some(v1::tty_info::WindowSize { rows: 40, columns: 100 }) });
    let terminal = v1::ContainerInfo { tty_info, ..Default::default() };
    master.launch(info("tty", "stty size; read line; echo got $line; exit 3", terminal));
    let status = master.update("tty", TaskState::TaskRunning).await;
    let id = json!({ "value": status.container_status.unwrap().container_id.unwrap().value });
    let attach = json!({ "type": "ATTACH_CONTAINER_OUTPUT", "attach_container_output": { "container_id": id } });
    let mut output = Output::open(&agent.address, &attach).await;
    let mut input = Input::open(&agent.address, &id).await;
    input.write("hello\n").await;
    output.until(Some("got hello")).await;
    assert_eq!(master.update("tty", TaskState::TaskFailed).await.message(), "Command exited with status 3");
    let stdout = std::fs::read_to_string(agent.sandbox("tty").join("stdout")).unwrap();
    assert!(stdout.contains("40 100\r\n"), "{stdout:?}");
    drop(agent);
    // Without the isolator that sets them.
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let _agent = RealAgent::start(&master.address, dir.path(), &[]);
    master.launch(info("refused", "true", container()));
    let failed = master.update("refused", TaskState::TaskFailed).await;
    assert!(failed.message().contains("posix/rlimits"), "{}", failed.message());
}

/// Whoever hangs up before there is an answer ends the session, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_who_does_not_wait_for_it() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &[]);
    let parent = running(&master, "t1", "sleep 1000").await;
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let id = within(&parent, "s1");
    let mut call = session(id.clone(), "sleep 1000", false);
    let uri = json!([{ "value": format!("http://{}/brought", server.local_addr().unwrap()) }]);
    call["launch_nested_container_session"]["command"]["uris"] = uri;
    let body = call.to_string();
    let mut client = TcpStream::connect(&agent.address).await.unwrap();
    let head = format!("POST /api/v1 HTTP/1.1\r\nHost: x\r\n{STREAM}Content-Length: {}\r\n\r\n", body.len());
    client.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let (mut asked, _) = server.accept().await.unwrap();
    drop(client);
    let mut request = [0; 4096];
    assert!(asked.read(&mut request).await.unwrap() > 0);
    asked.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nx\n").await.unwrap();
    drop(asked);
    let begun = std::time::Instant::now();
    let ended = r#"{"type":"WAIT_CONTAINER","wait_container":{"exit_status":9}}"#;
    assert_eq!(tokio::time::timeout(PATIENCE, wait(&agent.address, id)).await.expect("its end"), ended);
    // The last words of who is told to end are kept for nobody.
    assert!(begun.elapsed() < PATIENCE / 4, "{:?}", begun.elapsed());
}
