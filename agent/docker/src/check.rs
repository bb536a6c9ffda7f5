//! The command of a check, run within a container: as `meseta-executor check` runs it on the machine, and asked in the same way. It
//! is ended when its time is over or nobody waits for it.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use agent_checks::command::Order;
use bytes::{Buf, BytesMut};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use supervisor::processes;
use tokio::io::AsyncReadExt;

use crate::engine::{Engine, at};
use crate::name_of;

/// The word behind `meseta-docker` by which it becomes this; the engine's socket and the container's id follow.
pub const WORD: &str = "check";

/// How long what is killed may resist.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// What is kept of a piece that is not whole.
const PIECE_BYTES_MAX: usize = 4 << 20;

/// Returns the exit code of this process; how the command ended is on standard output.
pub(crate) fn run(words: &[String]) -> i32 {
    let mut line = String::new();
    let order =
        std::io::stdin().lock().read_line(&mut line).ok().and_then(|_| serde_json::from_str::<Order>(&line).ok());
    let (Some(order), [socket, container_id]) = (order, words) else { return 1 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let said = runtime.map_err(|error| format!("cannot start: {error}")).and_then(|runtime| {
        let said = runtime.block_on(execute(&Engine::new(socket), &name_of(container_id), &order));
        // Somebody may still hold standard input, which a thread reads.
        runtime.shutdown_background();
        said
    });
    let said = match said {
        Ok(code) => format!("exited {code}"),
        Err(why) => format!("failed {why}"),
    };
    i32::from(std::io::stdout().write_all(said.as_bytes()).is_err())
}

async fn execute(engine: &Engine, name: &str, order: &Order) -> Result<i64, String> {
    let failed = |error: crate::engine::Error| format!("cannot run it in the container: {error}");
    let mut words = vec![order.program.clone()];
    words.extend(order.arguments.iter().skip(1).cloned());
    let body = json!({"AttachStdout": true, "AttachStderr": true, "Cmd": words, "Env": order.environment});
    let made = engine.post(&format!("/containers/{name}/exec"), Some(&body)).await.map_err(failed)?;
    let id = made.get("Id").and_then(Value::as_str).filter(|id| id.chars().all(|c| c.is_ascii_alphanumeric()));
    let id = id.ok_or("the Docker Engine's answer names no command")?.to_owned();
    let running = async {
        let (path, start) = (format!("/exec/{id}/start"), json!({"Detach": false, "Tty": false}));
        let answer = engine.open(Method::POST, &path, Some(&start)).await;
        copy(answer.map_err(failed)?.into_body(), order).await;
        let found = engine.get(&format!("/exec/{id}/json")).await.map_err(failed)?;
        at(&found, &["ExitCode"]).and_then(Value::as_i64).ok_or_else(|| "nobody knows how it ended".to_owned())
    };
    let late = async {
        match order.timeout_ms {
            Some(most) => {
                tokio::time::sleep(Duration::from_millis(most)).await;
                format!("it took longer than {most} ms")
            }
            None => std::future::pending().await,
        }
    };
    let left_alone = async {
        let mut stdin = tokio::io::stdin();
        while matches!(stdin.read(&mut [0; 64]).await, Ok(count) if count > 0) {}
        "nobody waits for it".to_owned()
    };
    let why = tokio::select! {
        ended = running => return ended,
        why = late => why,
        why = left_alone => why,
    };
    let found = engine.get(&format!("/exec/{id}/json")).await.map_err(failed)?;
    let runs = at(&found, &["Running"]).and_then(Value::as_bool) == Some(true);
    let pid = at(&found, &["Pid"]).and_then(Value::as_u64).and_then(|pid| u32::try_from(pid).ok());
    if let Some(pid) = pid.filter(|pid| runs && *pid > 1) {
        let _ = processes::end(END_PATIENCE, |all| {
            let mut below = processes::below(all, &BTreeSet::from([pid]));
            below.insert(pid);
            Ok(below)
        });
    }
    Err(why)
}

/// What the command says goes to `stderr` in the sandbox, until it ends.
async fn copy(mut body: hyper::body::Incoming, order: &Order) {
    let path = order.sandbox.join("stderr");
    let mut errors = std::fs::File::options().append(true).custom_flags(nix::libc::O_NOFOLLOW).open(path).ok();
    let mut buffer = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        buffer.extend_from_slice(&frame.into_data().unwrap_or_default());
        while let Some(head) = buffer.get(..8) {
            let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
            if length > PIECE_BYTES_MAX {
                return;
            }
            if buffer.len() < 8 + length {
                break;
            }
            buffer.advance(8);
            let piece = buffer.split_to(length);
            if let Some(errors) = &mut errors {
                let _ = errors.write_all(&piece);
            }
        }
    }
}
