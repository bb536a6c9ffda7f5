//! Looks at command tasks, as their checks say, for as long as they run. What was told is in the log: an agent that is started
//! again goes on from there.

use std::time::Duration;

use agent_checks::{Checker, Outcome, Place, Verdict, look};
use agent_core::{Command, Executor, Seen};
use api::checks::Definition;
use api::v1::{TaskInfo, TaskState, TaskStatus};

use crate::secrets;
use crate::surroundings::Inbox;

/// While it looks, between two thoughts of whether the task still runs.
const THOUGHT: Duration = Duration::from_millis(100);
/// The longest sleep, after which it is seen that the task has ended.
const SLEEP_MAX: Duration = Duration::from_secs(10);

/// Begins to look at the task of a container.
pub(crate) fn begin(agent: &Inbox, container_id: &str, place: Place) {
    let Some((framework_id, executor)) = checked(agent, container_id) else { return };
    let Some((_, task)) = executor.live_tasks().next() else { return };
    let info: TaskInfo = secrets::opened(agent.secret(), task.info.get(), &framework_id);
    let statuses: Vec<TaskStatus> = task.statuses.iter().map(|status| status.get()).collect();
    let started =
        statuses.iter().find(|status| status.state() == TaskState::TaskStarting).and_then(|one| one.timestamp);
    let started_ms = started.map_or_else(|| agent.now_ms(), |seconds| (seconds * 1000.0) as u64);
    let last = statuses.last().filter(|status| status.reason.is_some());
    let (status, healthy) = last.map_or((None, None), |last| (last.check_status, last.healthy));
    let check = info.check.as_ref().map(|check| Definition::check(check));
    let health = info.health_check.as_ref().map(|check| Definition::health(check));
    for definition in [check, health].into_iter().flatten() {
        match definition {
            Ok(definition) => {
                let checker = Checker::new(definition, started_ms).knowing(status, healthy, executor.unhealthy);
                tokio::spawn(watch(agent.clone(), container_id.to_owned(), place.clone(), checker));
            }
            // The masters refuse these.
            Err(why) => tracing::error!(container_id, why, "a check that cannot be read; the task is not looked at"),
        }
    }
}

/// The executor, while its task is to be looked at, with the id of its framework.
fn checked(agent: &Inbox, container_id: &str) -> Option<(String, Executor)> {
    agent.executor_of(container_id).filter(|(_, executor)| agent_core::is_checked(executor))
}

async fn watch(agent: Inbox, container_id: String, place: Place, mut checker: Checker) {
    loop {
        let pause = Duration::from_millis(checker.due_ms().saturating_sub(agent.now_ms()));
        tokio::time::sleep(pause.min(SLEEP_MAX)).await;
        if checked(&agent, &container_id).is_none() {
            return;
        }
        if pause > SLEEP_MAX {
            continue;
        }
        let Some(outcome) = look_while_it_runs(&agent, &container_id, &place, &checker).await else { return };
        if let Outcome::Failed(why) = &outcome {
            tracing::debug!(container_id, why, "a look at a task showed nothing");
        }
        let seen = match checker.seen(&outcome, agent.now_ms()) {
            Verdict::Nothing => continue,
            Verdict::Status(status) => Seen::Check(Box::new(status)),
            Verdict::Health { healthy, kill, failures } => Seen::Health { healthy, kill, failures },
        };
        match agent.ask(Command::ReportCheck { container_id: container_id.clone(), seen }).await {
            Some(0) => checker.untold(),
            Some(_) => {}
            None => return,
        }
    }
}

/// One look; none if the task is to be looked at no more.
async fn look_while_it_runs(agent: &Inbox, container_id: &str, place: &Place, checker: &Checker) -> Option<Outcome> {
    let look = look(checker.definition(), place);
    tokio::pin!(look);
    loop {
        tokio::select! {
            outcome = &mut look => return Some(outcome),
            () = tokio::time::sleep(THOUGHT) => {
                checked(agent, container_id)?;
            }
        }
    }
}
