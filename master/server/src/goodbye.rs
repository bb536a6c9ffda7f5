//! Connections that ended from below, told to the leader until it has heard.

use crate::agents::LostAgent;
use crate::outcome::Outcome;
use crate::streams::LostStream;
use crate::submit::Submitter;
use event_log::host;
use master_core::command::{Caller, Command};
use std::time::Duration;
use tokio::sync::mpsc;

/// Between two attempts when nobody leads.
const PACE: Duration = Duration::from_millis(500);

/// Submits a `FrameworkDisconnected` or `AgentDisconnected` for everything lost, each until it was decided.
pub(crate) async fn run(
    submitter: Submitter,
    mut streams: mpsc::UnboundedReceiver<LostStream>,
    mut agents: mpsc::UnboundedReceiver<LostAgent>,
) {
    loop {
        let command = tokio::select! {
            Some(LostStream { framework_id, connection, by_master }) = streams.recv() => {
                Command::FrameworkDisconnected { framework_id, connection, by_master }
            }
            Some(LostAgent { agent_id, connection }) = agents.recv() => {
                Command::AgentDisconnected { agent_id, connection }
            }
            else => return,
        };
        let submitter = submitter.clone();
        // Each on its own: one that waits for a leader must not hold up the others.
        host::spawn(async move {
            while let Outcome::Unknown | Outcome::Untried = submitter.submit(command.clone(), Caller::default()).await {
                tokio::time::sleep(PACE).await;
            }
        });
    }
}
