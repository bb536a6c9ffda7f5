//! A task is launched at most once and ends exactly once, also when agents, masters and frameworks come and go.

use std::collections::{BTreeMap, BTreeSet};

use api::v1;
use master_core::ids::FrameworkKey;
use master_core::{Event, State};
use prost::Message as _;

use crate::framework::is_over;
use crate::world::World;

/// Launches and ends.
#[derive(Default)]
pub struct Once {
    /// (framework, task): where it ran, in which container.
    launched: BTreeMap<(String, String), (String, String)>,
    /// Ended in the log: (framework's key, task), by the state's number.
    ended: BTreeMap<(u32, String), (i32, u64)>,
    /// Containers on machines that were lost with all their processes.
    lost: BTreeSet<String>,
    in_log: BTreeSet<(u32, String)>,
    /// Tasks that were launched, or refused, in the log.
    decided: BTreeSet<String>,
    pub(super) twice: Option<String>,
    /// How many tasks ran.
    pub tasks_run: u64,
}

impl Once {
    /// A process runs.
    pub fn launched(&mut self, world: &World, agent: &str, framework_id: &str, task_id: &str, container_id: &str) {
        self.tasks_run += 1;
        let key = (framework_id.to_owned(), task_id.to_owned());
        let place = (agent.to_owned(), container_id.to_owned());
        if let Some(before) = self.launched.insert(key, place) {
            let what = format!("{task_id} ran on {} and again on {agent}", before.0);
            world.trace(format_args!("VIOLATED once: {what}"));
            self.twice.get_or_insert(what);
        }
    }

    /// A machine was lost.
    pub fn machine_lost<'a>(&mut self, containers: impl Iterator<Item = &'a String>) {
        self.lost.extend(containers.cloned());
    }

    /// A record took effect.
    pub fn committed(&mut self, index: u64, _state: &State, events: &[Event]) -> Result<(), String> {
        if let Some(what) = &self.twice {
            return Err(what.clone());
        }
        for event in events {
            match event {
                Event::TaskLaunched(launched) => self.launch(index, launched.task.0, &launched.task.1)?,
                Event::TaskGroupLaunched(launched) => {
                    for task in &launched.tasks {
                        self.launch(index, launched.framework, &task.task_id)?;
                    }
                }
                Event::TaskUpdated(updated) if is_over(updated.state) => {
                    let key = (updated.task.0.0, updated.task.1.to_string());
                    if let Some((_, before)) = self.ended.insert(key, (updated.state, index)) {
                        return Err(format!("{} ends at index {index}, and ended at {before}", updated.task.1));
                    }
                }
                // A machine that lost its disk is another agent: whoever returns has all that was handed to it.
                Event::TaskDeclared(declared) => {
                    let status = v1::TaskStatus::decode(declared.status.clone()).unwrap_or_default();
                    if status.reason() == v1::task_status::Reason::Reconciliation {
                        let task_id = &declared.task.1;
                        return Err(format!("{task_id} is said to be unknown to its agent, at index {index}"));
                    }
                }
                Event::LaunchRefused(refused) => {
                    self.decided.insert(refused.task.1.to_string());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn launch(&mut self, index: u64, framework: FrameworkKey, task_id: &str) -> Result<(), String> {
        self.decided.insert(task_id.to_owned());
        if self.in_log.insert((framework.0, task_id.to_owned())) {
            return Ok(());
        }
        Err(format!("{task_id} is launched a second time at index {index}"))
    }

    /// Whether the log says what became of a launch.
    pub fn is_decided(&self, task_id: &str) -> bool {
        self.decided.contains(task_id)
    }

    /// Everything has ended.
    pub fn finish(&self) -> Result<(), String> {
        if let Some(what) = &self.twice {
            return Err(what.clone());
        }
        Ok(())
    }
}
