//! Commands that look at a task from within its container: sessions of the agent, which see the root, the mounts and the processes
//! that the task sees.

use std::cell::Cell;
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

use agent_checks::Outcome;
use api::v1::agent::{Call, ProcessIo, Response, call};
use api::v1::{CommandInfo, ContainerId};
use tokio::time::{sleep, timeout};

use crate::agent::{Broken, Line};

/// What one look may write, in bytes; what is beyond is lost.
const SAID_BYTES_MAX: usize = 64 << 10;
/// What the end of a command may take beyond its time until it is taken for lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts to reach the agent.
const RETRY: Duration = Duration::from_millis(100);

/// A container that commands run in.
#[derive(Clone, Debug)]
pub(crate) struct Within {
    pub(crate) container_id: ContainerId,
    pub(crate) line: Rc<Line>,
}

/// One of the agent's calls.
fn call(kind: call::Type) -> Call {
    Call { r#type: Some(kind as i32), ..Call::default() }
}

/// Runs a command, as the user of the container, for no longer than this; what it writes goes to this process's `stderr`. None if the
/// agent was away: nobody looked.
pub(crate) async fn look(within: &Within, command: &CommandInfo, most: Option<Duration>) -> Option<Outcome> {
    let value = format!("check-{}", uuid::Uuid::new_v4());
    let container_id = ContainerId { value, parent: Some(Box::new(within.container_id.clone())) };
    // Whoever the command names: it may do what its task may. What it brings along was fetched with the task.
    let command = CommandInfo { user: None, uris: Vec::new(), ..command.clone() };
    let session = call::LaunchNestedContainerSession {
        container_id: container_id.clone(),
        command: Some(command),
        ..call::LaunchNestedContainerSession::default()
    };
    let launch =
        Call { launch_nested_container_session: Some(session), ..call(call::Type::LaunchNestedContainerSession) };
    let left = Cell::new(SAID_BYTES_MAX);
    let running = within.line.session(&launch, |said| tell(&said, &left));
    let ran = match most {
        None => running.await,
        Some(most) => timeout(most, running).await.unwrap_or_else(|_| Err(late(most))),
    };
    // Whoever hangs up ends it. Before that is so the next look does not begin.
    let status = timeout(PATIENCE, end(&within.line, &container_id)).await;
    Some(match (ran, status) {
        (Err(broken), _) if !broken.is_refused => return None,
        (Err(broken), _) => Outcome::Failed(broken.why),
        // No process has a larger code: there was no program.
        (Ok(()), Ok(Some(status))) if status & 0x7f == 0 && status >> 8 <= 255 => Outcome::Exited(status >> 8),
        (Ok(()), Ok(Some(status))) => Outcome::Failed(api::exit::describe(status)),
        (Ok(()), _) => Outcome::Failed("nobody saw how the command ended".to_owned()),
    })
}

fn late(most: Duration) -> Broken {
    Broken { is_refused: true, why: format!("it took longer than {} ms", most.as_millis()) }
}

/// Waits for the end of one, and lets the agent forget it: its wait status, if the agent knows.
async fn end(line: &Line, container_id: &ContainerId) -> Option<i32> {
    let wait = call::WaitContainer { container_id: container_id.clone() };
    let wait = Call { wait_container: Some(wait), ..call(call::Type::WaitContainer) };
    let status = loop {
        match line.call(&wait).await {
            Ok((200, body)) => {
                let answer = api::decode_protobuf::<Response>(body).ok()?;
                break answer.wait_container?.exit_status;
            }
            // It never was, or is forgotten.
            Ok((400..=499, _)) => return None,
            Ok(_) | Err(_) => sleep(RETRY).await,
        }
    };
    let remove = call::RemoveContainer { container_id: container_id.clone() };
    let remove = Call { remove_container: Some(remove), ..call(call::Type::RemoveContainer) };
    // What is not forgotten now, the agent forgets when there are too many.
    let _ = line.call(&remove).await;
    status
}

fn tell(said: &ProcessIo, left: &Cell<usize>) {
    let bytes = said.data.as_ref().and_then(|data| data.data.as_ref());
    let Some(bytes) = bytes else { return };
    let part = &bytes[..bytes.len().min(left.get())];
    left.set(left.get() - part.len());
    let _ = std::io::stderr().write_all(part);
}
