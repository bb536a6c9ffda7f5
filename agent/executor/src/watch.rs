//! Looks at tasks that run, as their checks say. Nobody looks while the agent is away: nobody would be told.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use agent_checks::{Checker, Place, Verdict, look};
use api::checks::{Definition, Target};
use api::v1::{ContainerId, TaskInfo};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::within::{self, Within};

/// Between two thoughts of whether the agent is back.
const THOUGHT: Duration = Duration::from_millis(100);

/// Where the commands of a task's checks run: in its sandbox, with what it finds in its environment.
pub(crate) fn place(
    task: &TaskInfo,
    sandbox: &str,
    container_id: &ContainerId,
    variables: BTreeMap<&'static str, String>,
) -> Place {
    let sandbox = Path::new(sandbox).join("containers").join(&container_id.value);
    let command = task.command.clone().unwrap_or_default();
    let own = |name: &str| std::env::var(name).ok().map(|value| (name.to_owned(), value));
    let mut all: BTreeMap<String, String> =
        BTreeMap::from([("MESOS_SANDBOX".to_owned(), sandbox.display().to_string())]);
    // By the second one the agent knows what comes of a container.
    all.extend(["PATH", supervisor::processes::CONTAINER].into_iter().filter_map(own));
    all.extend(variables.into_iter().map(|(name, value)| (name.to_owned(), value)));
    let brought = command.environment.into_iter().flat_map(|environment| environment.variables);
    // The agent opens secrets for its executors: one that is not open is not there.
    all.extend(brought.filter_map(|variable| Some((variable.name.clone(), api::secrets::value(&variable)?))));
    Place {
        helper: ("/proc/self/exe".into(), vec![agent_checks::command::WORD.to_owned()]),
        sandbox,
        user: command.user.unwrap_or_default(),
        environment: all.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
        umask: None,
        network: None,
        beside: None,
    }
}

/// Whether the commands of a task's checks run within its container: what they would find beside it is another root.
pub(crate) fn is_within(task: &TaskInfo) -> bool {
    let mesos = task.container.as_ref().and_then(|container| container.mesos.as_ref());
    mesos.is_some_and(|mesos| mesos.image.is_some())
}

/// Begins to look at a task that has just started; if that is so `within` its container.
pub(crate) fn begin(
    task: &TaskInfo,
    place: &Place,
    within: Option<&Within>,
    is_connected: &Rc<Cell<bool>>,
    seen: impl Fn(Verdict) + Clone + 'static,
) -> Vec<JoinHandle<()>> {
    let check = task.check.as_ref().map(|check| Definition::check(check));
    let health = task.health_check.as_ref().map(|check| Definition::health(check));
    let mut watches = Vec::new();
    for definition in [check, health].into_iter().flatten() {
        match definition {
            Ok(definition) => {
                let (place, is_connected, seen) = (place.clone(), is_connected.clone(), seen.clone());
                let looking = watch(Checker::new(definition, 0), place, within.cloned(), is_connected, seen);
                watches.push(tokio::task::spawn_local(looking));
            }
            // The masters refuse these.
            Err(why) => eprintln!("meseta-default-executor: a check that cannot be read: {why}"),
        }
    }
    watches
}

async fn watch(
    mut checker: Checker,
    place: Place,
    within: Option<Within>,
    is_connected: Rc<Cell<bool>>,
    seen: impl Fn(Verdict),
) {
    let begun = Instant::now();
    let now_ms = || u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    loop {
        sleep(Duration::from_millis(checker.due_ms().saturating_sub(now_ms()))).await;
        while !is_connected.get() {
            sleep(THOUGHT).await;
        }
        let definition = checker.definition();
        let outcome = match (&definition.target, &within) {
            (Target::Command(command), Some(within)) => match within::look(within, command, definition.timeout).await {
                Some(outcome) => outcome,
                None => {
                    sleep(THOUGHT).await;
                    continue;
                }
            },
            _ => look(definition, &place).await,
        };
        match checker.seen(&outcome, now_ms()) {
            Verdict::Nothing => {}
            verdict => seen(verdict),
        }
    }
}
