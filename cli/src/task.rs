//! `meseta task exec` and `meseta task attach`: a command beside a task, and a task's own terminal.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use api::flags::{Flag, Kind, Values};
use api::recordio::{self, Decoder};
use api::terminal::plain;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::interval;

use crate::error::Error;
use crate::ids::text;
use crate::sandbox::{Task, find_task};
use crate::tty::{self, Keys, Raw};
use crate::{http, is_unwritten, write_out};

pub(crate) const FLAGS: &[Flag] = &[
    Flag::new("master", Kind::Text, "HOST:PORT of a master, or of several with commas; any will do.")
        .default("127.0.0.1:5050"),
    Flag::new("framework", Kind::Text, "Whose task, if several have one of this id: 0010, or all of it."),
    Flag::new("tty", Kind::Bool, "exec: give the command a terminal. -t is the same.").default("false"),
    Flag::new("interactive", Kind::Bool, "exec: pass on what is typed. -i is the same.").default("false"),
    Flag::new("stdin", Kind::Bool, "attach: pass on what is typed.").default("true"),
];

pub(crate) const ABOUT: &str = "\
A command in the container of a task, with its environment and in its folder; or the terminal that a task has itself.
TASK is its id, or FRAMEWORK/ID.

  meseta task exec [-i] [-t] TASK COMMAND [ARGUMENT ...]
  meseta task attach TASK

A command ends with this program, a task does not: Ctrl-P Ctrl-Q leaves its terminal. Flags stand before the command.
The exit code of exec is the command's, or 128 and the number of the signal that ended it.";

/// Time for an agent to answer.
const ANSWER: Duration = Duration::from_secs(20);
/// A record of output is not longer, in bytes.
const RECORD_BYTES_MAX: usize = 8 << 20;
/// Between two heartbeats of what is typed.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// The words of this program, and those of the command that is to be run: behind `--`, or behind the task.
pub(crate) fn cut(words: Vec<String>) -> (Vec<String>, Vec<String>) {
    let (mut own, mut names) = (Vec::new(), 0);
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--" => break,
            "-t" => own.push("--tty".to_owned()),
            "-i" => own.push("--interactive".to_owned()),
            "-it" | "-ti" => own.extend(["--interactive".to_owned(), "--tty".to_owned()]),
            flag if flag.starts_with('-') => {
                let name = flag.trim_start_matches('-');
                let takes_next = FLAGS.iter().any(|flag| flag.name == name && flag.kind != Kind::Bool);
                own.push(word);
                if takes_next {
                    own.extend(words.next());
                }
            }
            _ => {
                own.push(word);
                names += 1;
                if names == 2 {
                    break;
                }
            }
        }
    }
    let mut rest: Vec<String> = words.collect();
    if rest.first().is_some_and(|word| word == "--") {
        rest.remove(0);
    }
    (own, rest)
}

/// `meseta task exec|attach`
pub(crate) async fn run(words: &[String], flags: Values) -> Result<ExitCode, Error> {
    let usage = |what: &str| Err(Error::Usage(format!("task: {what} (meseta help task tells more)")));
    match words {
        [verb, name, command @ ..] if verb == "exec" => {
            let [program, ..] = command else { return usage("exec needs a command") };
            let place = Place::find(name, &flags).await?;
            exec(&place, program, command, flags.bool("tty"), flags.bool("interactive")).await
        }
        [verb, name] if verb == "attach" => attach(&Place::find(name, &flags).await?, flags.bool("stdin")).await,
        [verb, ..] if verb == "attach" => usage("attach takes one task"),
        [verb] if verb == "exec" => usage("exec needs a task and a command"),
        _ => usage("say exec or attach"),
    }
}

/// The container of a task, on its agent.
struct Place {
    task: String,
    agent: String,
    container_id: Value,
}

impl Place {
    async fn find(name: &str, flags: &Values) -> Result<Place, Error> {
        let masters = http::addresses(flags.text("master").unwrap_or_default())?;
        let task: Task = find_task(&masters, name, flags.text("framework")).await?;
        let agent = task.sandbox(&masters).await?.agent;
        let answer = call(&agent, &json!({ "type": "GET_TASKS" })).await?;
        let lists = ["launched_tasks", "terminated_tasks", "completed_tasks"].into_iter();
        let all = lists.flat_map(|name| answer["get_tasks"][name].as_array().into_iter().flatten());
        let mut own = all.filter(|one| {
            text(&one["task_id"]["value"]) == task.id && text(&one["framework_id"]["value"]) == task.framework_id
        });
        let container_id = own.find_map(|one| {
            let statuses = one["statuses"].as_array()?.iter().rev();
            statuses.map(|status| &status["container_status"]["container_id"]).find(|id| id.is_object()).cloned()
        });
        match container_id {
            Some(container_id) => Ok(Place { task: task.id, agent, container_id }),
            None => Err(Error::Failed(format!("task {} does not run yet", task.id))),
        }
    }
}

/// A call that is answered at once.
async fn call(agent: &str, call: &Value) -> Result<Value, Error> {
    let failed = |why| Error::Failed(format!("the agent at {agent} cannot be asked: {why}"));
    let answer = http::ask(agent, &http::Request::post("/api/v1", call), ANSWER).await.map_err(failed)?;
    http::json(answer).await
}

/// What a process writes, record by record.
struct Output {
    body: Incoming,
    records: Decoder,
}

impl Output {
    async fn open(agent: &str, call: &Value) -> Result<Output, Error> {
        let headers = [
            ("content-type", "application/json"),
            ("accept", "application/recordio"),
            ("message-accept", "application/json"),
        ];
        let body = api_http::Body::full(call.to_string());
        let response = http::stream(agent, "/api/v1", &headers, body).await;
        let failed = |why: String| Error::Failed(format!("the agent at {agent} cannot be asked: {why}"));
        let response = response.map_err(failed)?;
        let status = response.status().as_u16();
        if status != 200 {
            let body = response.into_body().collect().await.map_err(|error| failed(error.to_string()))?;
            let message = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            return Err(Error::Refused { address: agent.to_owned(), status, message });
        }
        Ok(Output { body: response.into_body(), records: Decoder::new(RECORD_BYTES_MAX) })
    }

    /// Shows what comes next; false at the end.
    async fn show(&mut self) -> Result<bool, Error> {
        let broken = |why: String| Error::Failed(format!("the stream of output broke: {why}"));
        loop {
            match self.records.next() {
                Some(Ok(record)) => {
                    show(&serde_json::from_slice(&record).map_err(|error| broken(error.to_string()))?);
                    return Ok(true);
                }
                Some(Err(error)) => return Err(broken(error.to_string())),
                None => {}
            }
            match self.body.frame().await {
                None => return Ok(false),
                Some(Err(error)) => return Err(broken(error.to_string())),
                Some(Ok(frame)) => self.records.push(&frame.into_data().unwrap_or_default()),
            }
        }
    }
}

fn show(record: &Value) {
    let data = &record["data"];
    let Ok(bytes) = STANDARD.decode(text(&data["data"])) else { return };
    if data["type"] == "STDERR" {
        let mut stderr = std::io::stderr().lock();
        let _ = stderr.write_all(&bytes).and_then(|()| stderr.flush());
    } else {
        write_out(&bytes);
    }
}

fn record(content: &Value) -> Bytes {
    let call = json!({ "type": "ATTACH_CONTAINER_INPUT", "attach_container_input": content });
    recordio::encode(call.to_string().as_bytes())
}

fn io(content: Value) -> Bytes {
    record(&json!({ "type": "PROCESS_IO", "process_io": content }))
}

fn stdin(bytes: &[u8]) -> Bytes {
    io(json!({ "type": "DATA", "data": { "type": "STDIN", "data": STANDARD.encode(bytes) } }))
}

fn window((rows, columns): (u16, u16)) -> Value {
    json!({ "window_size": { "rows": rows, "columns": columns } })
}

/// How typing ended.
enum Typed {
    /// The keys to leave were pressed.
    Left,
    /// Nobody takes it any more, for a reason in a sentence if it is not the end.
    Over(Option<String>),
}

/// Passes on what is typed, and the size of this terminal. `keys`: those that leave are heard.
async fn pass(agent: String, container_id: Value, keys: bool) -> Typed {
    let (sender, body) = api_http::stream(16);
    let sending = async {
        let mut typed = tty::typed();
        let (mut filter, mut pace) = (Keys::default(), interval(HEARTBEAT));
        let mut resized = signal(SignalKind::window_change()).ok();
        let mut ended = false;
        if sender.send(record(&json!({ "type": "CONTAINER_ID", "container_id": container_id }))).await.is_err() {
            return false;
        }
        loop {
            let changed = async {
                match &mut resized {
                    Some(resized) => resized.recv().await,
                    None => std::future::pending().await,
                }
            };
            let next = tokio::select! {
                bytes = typed.recv(), if !ended => match bytes {
                    Some(bytes) if keys => match filter.filter(&bytes) {
                        (_, true) => return true,
                        (bytes, false) if bytes.is_empty() => continue,
                        (bytes, false) => stdin(&bytes),
                    },
                    Some(bytes) => stdin(&bytes),
                    None => {
                        ended = true;
                        stdin(&[])
                    }
                },
                _ = changed => match tty::size() {
                    Some(size) => {
                        io(json!({ "type": "CONTROL", "control": { "type": "TTY_INFO", "tty_info": window(size) } }))
                    }
                    None => continue,
                },
                _ = pace.tick() => {
                    let heartbeat = json!({ "interval": { "nanoseconds": HEARTBEAT.as_nanos() as u64 } });
                    io(json!({ "type": "CONTROL", "control": { "type": "HEARTBEAT", "heartbeat": heartbeat } }))
                }
            };
            if sender.send(next).await.is_err() {
                return false;
            }
        }
    };
    let headers = [
        ("content-type", "application/recordio"),
        ("message-content-type", "application/json"),
        ("accept", "application/json"),
    ];
    let answered = http::stream(&agent, "/api/v1", &headers, body);
    tokio::select! {
        left = sending => if left { Typed::Left } else { Typed::Over(None) },
        answer = answered => Typed::Over(match answer {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => {
                let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                Some(String::from_utf8_lossy(&body).into_owned())
            }
            Err(why) => Some(why),
        }),
    }
}

/// Shows what is written and passes on what is typed until the one ends, or the keys to leave come; whether they did.
async fn both(place: &Place, id: &Value, mut output: Output, types: bool, keys: bool) -> Result<bool, Error> {
    let (agent, id) = (place.agent.clone(), id.clone());
    let typing = async move {
        match types {
            true => pass(agent, id, keys).await,
            false => std::future::pending().await,
        }
    };
    tokio::pin!(typing);
    let mut is_typed = true;
    loop {
        tokio::select! {
            biased;
            shown = output.show() => {
                if !shown? || is_unwritten() {
                    return Ok(false);
                }
            }
            typed = &mut typing, if is_typed => match typed {
                Typed::Left => return Ok(true),
                Typed::Over(None) => is_typed = false,
                Typed::Over(Some(why)) => {
                    return Err(Error::Failed(format!("what is typed is not taken: {why}")));
                }
            }
        }
    }
}

fn random() -> Result<String, Error> {
    let mut bytes = [0; 16];
    let file = std::fs::File::open("/dev/urandom");
    let read = file.and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes));
    read.map_err(|error| Error::Failed(format!("cannot read random bytes: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn exec(
    place: &Place,
    program: &str,
    arguments: &[String],
    tty: bool,
    interactive: bool,
) -> Result<ExitCode, Error> {
    let id = json!({ "value": format!("exec-{}", random()?), "parent": place.container_id });
    let mut command = json!({ "shell": false, "value": program, "arguments": arguments });
    let mut launch = json!({ "container_id": id });
    if tty {
        let size = tty::size().unwrap_or((24, 80));
        launch["container"] = json!({ "type": "MESOS", "tty_info": window(size) });
        let term = std::env::var("TERM").unwrap_or_else(|_| "xterm".to_owned());
        command["environment"] = json!({ "variables": [{ "name": "TERM", "value": term }] });
    }
    launch["command"] = command;
    let session = json!({ "type": "LAUNCH_NESTED_CONTAINER_SESSION", "launch_nested_container_session": launch });
    let output = Output::open(&place.agent, &session).await?;
    let left = {
        let _raw = (tty && interactive && tty::is_one()).then(Raw::enter);
        both(place, &id, output, interactive, tty && interactive).await?
    };
    if left {
        return Ok(ExitCode::SUCCESS);
    }
    let wait = json!({ "type": "WAIT_CONTAINER", "wait_container": { "container_id": id } });
    let answer = call(&place.agent, &wait).await?;
    let Some(status) = answer["wait_container"]["exit_status"].as_i64() else {
        return Err(Error::Failed(format!("nobody saw how '{}' ended", plain(program))));
    };
    let code = if status & 0x7f == 0 { status >> 8 & 0xff } else { 128 + (status & 0x7f) };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

async fn attach(place: &Place, types: bool) -> Result<ExitCode, Error> {
    let id = &place.container_id;
    let call = json!({ "type": "ATTACH_CONTAINER_OUTPUT", "attach_container_output": { "container_id": id } });
    let output = Output::open(&place.agent, &call).await.map_err(|error| match error {
        Error::Refused { message, .. } if message.starts_with("I/O switchboard") => {
            Error::Failed(format!("task {} has no terminal: meseta logs shows what it writes", place.task))
        }
        other => other,
    })?;
    let left = {
        let _raw = (types && tty::is_one()).then(Raw::enter);
        both(place, id, output, types, true).await?
    };
    if left {
        eprintln!("meseta: left; task {} goes on", place.task);
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_keeps_its_flags() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (line, own, rest) in [
            ("exec -it t ls -la", "exec --interactive --tty t", "ls -la"),
            ("exec --master h:1 t -- ls --x", "exec --master h:1 t", "ls --x"),
            ("--master=h:1 exec t sh", "--master=h:1 exec t", "sh"),
            ("exec t -- -x", "exec t", "-x"),
        ] {
            assert_eq!(cut(words(line)), (words(own), words(rest)), "{line}");
        }
        assert_eq!(cut(words("attach t")), (words("attach t"), Vec::new()));
    }
}
