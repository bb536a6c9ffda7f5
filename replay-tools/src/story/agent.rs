//! Sentences for the events of an agent's own log.

use super::phrase::{span, status};
use super::{Sentence, Subject, Teller, Topic};
use crate::output::time;
use crate::replay;
use crate::shown::Shown;
use crate::source::Entry;
use agent_core::{Event, State};
use std::io::Read;

/// Tells of an agent's log.
pub(super) struct Agent {
    subject: Subject,
    state: State,
    at_ms: u64,
    /// Executors that the task was given to: framework and id.
    executors: Vec<(String, String)>,
}

impl Agent {
    pub(super) fn new(subject: Subject) -> Agent {
        Agent { subject, state: State::default(), at_ms: 0, executors: Vec::new() }
    }
}

impl Teller for Agent {
    fn resume(&mut self, _: &mut dyn Read) -> Result<(), String> {
        Err("an agent's log has no snapshots".into())
    }

    fn tell(&mut self, entry: &Entry) -> Result<Vec<(usize, Shown, Sentence)>, String> {
        self.at_ms = self.at_ms.max(entry.record.header.at_ms);
        let mut told = Vec::new();
        for (at, event) in replay::of_agent(entry)?.iter().enumerate() {
            let shown = replay::show_of_agent(event);
            // The whole log of an agent concerns the agent.
            let is_it = self.subject.topic == Topic::Agent || self.subject.is_in(&shown.touches);
            if let (true, Event::TaskAdded { framework_id, executor_id, .. }) = (is_it, event) {
                self.executors.push((framework_id.clone(), executor_id.clone()));
            }
            let beside = !is_it && self.subject.topic == Topic::Task && self.is_beside(event);
            if is_it || beside {
                let sentence = sentence(event, &self.state, self.at_ms);
                told.push((at, shown, Sentence { beside, ..sentence }));
            }
            replay::folded(|| agent_core::fold(&mut self.state, event))?;
        }
        Ok(told)
    }

    fn leader(&self) -> Option<(u64, String)> {
        None
    }

    fn knows(&self) -> bool {
        false
    }

    fn cluster(&self) -> String {
        let agent_id = self.state.registration.agent_id.as_deref().unwrap_or_default();
        agent_id.rsplit_once('-').map_or_else(String::new, |(cluster, _)| cluster.to_owned())
    }

    fn title(&self) -> String {
        let id = self.state.registration.agent_id.as_deref().unwrap_or("an agent without an id");
        format!("The story of {} {}, as {id} wrote it down", self.subject.word(), self.subject.id)
    }

    fn ending(&self) -> Vec<String> {
        let mut lines = vec![format!("At the end, {}:", time(self.at_ms))];
        for (framework_id, executor_id) in &self.executors {
            lines.push(match self.state.executor(framework_id, executor_id) {
                Some(executor) => format!("  executor {executor_id} is live, in container {}.", executor.container_id),
                None => format!("  executor {executor_id} has ended."),
            });
        }
        let waiting = self.state.messages.waiting.len();
        lines.push(format!("  {} wait for the masters to commit them.", super::phrase::count(waiting, "message")));
        lines
    }
}

impl Agent {
    /// Whether it happened to the executor of the task, or to the whole agent.
    fn is_beside(&self, event: &Event) -> bool {
        let is = |framework_id: &String, executor_id: &String| {
            self.executors.iter().any(|(framework, executor)| framework == framework_id && executor == executor_id)
        };
        let is_in = |container_id: &String| {
            self.state.containers.get(container_id).is_some_and(|(framework, executor)| is(framework, executor))
        };
        match event {
            Event::ContainerStarted { container_id, .. } | Event::ContainerReplaced { container_id, .. } => {
                is_in(container_id)
            }
            Event::ExecutorSubscribed { framework_id, executor_id, .. }
            | Event::ExecutorDisconnected { framework_id, executor_id, .. }
            | Event::StopRequested { framework_id, executor_id, .. }
            | Event::StopForced { framework_id, executor_id }
            | Event::ExecutorEnded { framework_id, executor_id, .. } => is(framework_id, executor_id),
            Event::Restarted { .. } => {
                self.executors.iter().any(|(framework, executor)| self.state.executor(framework, executor).is_some())
            }
            _ => false,
        }
    }
}

fn sentence(event: &Event, state: &State, at_ms: u64) -> Sentence {
    let text = match event {
        Event::Restored { .. } | Event::RestoreBegun { .. } => {
            "The log was shortened: what came before is known by its outcome only.".to_owned()
        }
        Event::TokenChosen { .. } => "The agent is new and will register.".to_owned(),
        Event::Registered { agent_id, cluster_id } => format!("Cluster {cluster_id} registered it as {agent_id}."),
        Event::OrdersTaken { up_to } => {
            return Sentence::routine(format!("Orders up to {up_to} were taken."), "takings of orders");
        }
        Event::FrameworkSeen { framework_id, .. } => format!("Framework {framework_id} has work here or changed."),
        Event::FrameworkRemoved { framework_id } => {
            format!("Framework {framework_id} is over: what it has here is ended.")
        }
        Event::ExecutorAdded { framework_id, executor_id, is_command, container_id, .. } => {
            let what = if *is_command { "the command of task" } else { "executor" };
            format!("For framework {framework_id}, {what} {executor_id} is to run in container {container_id}.")
        }
        Event::TaskAdded { task_id, executor_id, group, .. } => match group {
            Some(group) => format!("Task {task_id} was given to executor {executor_id}, in the group of {group}."),
            None => format!("Task {task_id} was given to executor {executor_id}."),
        },
        Event::TasksDelivered { executor_id, task_ids, .. } => {
            format!("Executor {executor_id} is handed {}.", task_ids.join(", "))
        }
        Event::ContainerStarted { container_id, .. } => format!("Container {container_id} runs."),
        Event::ContainerAdded { container_id, session, .. } => {
            let what = if *session { ", for as long as a session lasts" } else { "" };
            format!("Somebody launches container {container_id}{what}.")
        }
        Event::ContainerKillRequested { container_id } => format!("Container {container_id} is to end."),
        Event::ContainerEnding { container_id, .. } => {
            format!("The process of container {container_id} ended; what is within it is ended.")
        }
        Event::ContainerEnded { container_id, status, failure } => match (failure, status) {
            (Some(why), _) => format!("Container {container_id} never ran: {why}."),
            (None, Some(status)) => format!("Container {container_id} ended with wait status {status}."),
            (None, None) => format!("Container {container_id} ended, and nobody saw how."),
        },
        Event::ContainerRemoved { container_id, .. } => {
            let text = format!("The end of container {container_id} is forgotten.");
            return Sentence::routine(text, "forgotten containers");
        }
        Event::ContainerReplaced { container_id, replacement_id } => {
            format!("Container {container_id} never ran, and never will: {replacement_id} takes its place.")
        }
        Event::StatusWritten { task_id, task_state, status: said, .. } => {
            format!("Task {task_id} is {}; the masters must hear of it.", status(*task_state, &said.0, at_ms))
        }
        Event::ExecutorAnnounced { executor_id, .. } => format!("The masters must hear of executor {executor_id}."),
        Event::ExecutorSubscribed { executor_id, .. } => format!("Executor {executor_id} subscribed."),
        Event::StopRequested { executor_id, why, kill_at_ms, .. } => {
            let patience = span(kill_at_ms.saturating_sub(at_ms));
            format!("Executor {executor_id} is to end ({why:?}), within {patience}.")
        }
        Event::StopForced { executor_id, .. } => format!("Executor {executor_id} did not end in time: it is killed."),
        Event::TaskKillRequested { task_id, executor_id, .. } => {
            format!("Executor {executor_id} is to end task {task_id}.")
        }
        Event::ExecutorEnded { executor_id, status, .. } => {
            let status = status.map_or(String::new(), |status| format!(" with wait status {status}"));
            format!("Executor {executor_id} ended{status}, and so did its container.")
        }
        Event::MessagesReceived { up_to, .. } => {
            return Sentence::routine(format!("The masters committed messages up to {up_to}."), "commits of messages");
        }
        Event::Restarted { reregister_by_ms, ahead_ms, .. } => {
            let live = super::phrase::count(state.containers.len(), "live executor");
            let back = time(*reregister_by_ms);
            let clock = match ahead_ms {
                0 => String::new(),
                ahead_ms => {
                    let way = if *ahead_ms > 0 { "forward" } else { "back" };
                    format!(" The clock was set {way} by {} meanwhile.", span(ahead_ms.unsigned_abs()))
                }
            };
            format!("The agent was started, with {live}, back by {back}.{clock}")
        }
        Event::TasksForgotten { executor_id, task_ids, .. } => {
            let tasks = super::phrase::count(task_ids.len(), "ended task");
            return Sentence::routine(format!("{tasks} of executor {executor_id} are forgotten."), "forgotten tasks");
        }
        Event::ExecutorForgotten { executor_id, .. } => {
            let text = format!("The ended executor {executor_id} is forgotten.");
            return Sentence::routine(text, "forgotten executors");
        }
        Event::FrameworkForgotten { framework_id } => {
            return Sentence::routine(format!("Framework {framework_id} is forgotten."), "forgotten frameworks");
        }
        Event::ExecutorDisconnected { executor_id, .. } => format!("The stream of executor {executor_id} ended."),
        Event::OrderNotUnderstood { seq, sentence } => format!("Order {seq} could not be carried out. {sentence}."),
        Event::MessageRestored { .. }
        | Event::FrameworkRestored { .. }
        | Event::ExecutorRestored { .. }
        | Event::TaskRestored { .. }
        | Event::ModelRestored { .. }
        | Event::OperationRestored { .. }
        | Event::ProviderRestored { .. }
        | Event::ProviderOperationRestored { .. }
        | Event::ContainerRestored { .. } => {
            return Sentence::routine("A part of what came before.".to_owned(), "parts of what came before");
        }
        Event::OperationTaken { operation, info, on_disk, .. } => {
            let kind = info.get::<api::v1::offer::Operation>().r#type().as_str_name();
            let disk = if *on_disk { ", and its disk is to be changed" } else { "" };
            format!("The masters decided operation {} ({kind}){disk}.", crate::replay::hex(operation))
        }
        Event::OperationEnded { operation, status, .. } => {
            let status: api::v1::OperationStatus = status.get();
            let why = status.message.as_ref().map_or(String::new(), |why| format!(": {why}"));
            format!("Operation {} is {}{why}.", crate::replay::hex(operation), status.state().as_str_name())
        }
        Event::OperationsForgotten { operations } => {
            let names: Vec<String> = operations.iter().map(|operation| crate::replay::hex(operation)).collect();
            let text = format!("The masters know nothing more of operations {}.", names.join(", "));
            return Sentence::routine(text, "ends of operations");
        }
        Event::ProviderSubscribed { provider_id, info, .. } => {
            let info: api::v1::ResourceProviderInfo = info.get();
            format!("Resource provider {provider_id} ('{}.{}') subscribed.", info.r#type, info.name)
        }
        Event::ProviderStated { provider_id, resources, .. } => {
            let resources: Vec<api::v1::Resource> = resources.iter().map(agent_core::Blob::get).collect();
            let resources = api::resources::Resources::from_v1(&resources).unwrap_or_default();
            format!("Resource provider {provider_id} has {resources}.")
        }
        Event::ProviderDisconnected { provider_id, .. } => {
            format!("The stream of resource provider {provider_id} ended: what it had is not there for now.")
        }
        Event::ProviderGone { provider_id } => format!("An operator marked resource provider {provider_id} as gone."),
        Event::ProvidersTaken {} => {
            let text = "The masters hear of resource providers from here on.".to_owned();
            return Sentence::routine(text, "readiness of the masters for resource providers");
        }
        Event::ProviderOperationTaken { operation, info, provider_id, .. } => {
            let kind = info.get::<api::v1::offer::Operation>().r#type().as_str_name();
            let name = crate::replay::hex(operation);
            format!("The masters decided operation {name} ({kind}) on what resource provider {provider_id} has.")
        }
        Event::DrainBegun { config, .. } => {
            let grace = config.get::<api::v1::DrainConfig>().max_grace_period;
            let within = grace.map_or(String::new(), |grace| {
                format!(", within {}", span(u64::try_from(grace.nanoseconds / 1_000_000).unwrap_or(0)))
            });
            format!("The masters want the agent empty{within}.")
        }
        Event::DrainEnded {} => "The masters want the agent in use again.".to_owned(),
        Event::InfoTaken { .. } => "The agent describes itself in another way.".to_owned(),
        Event::SpareEstimated { resources } => {
            let resources: Vec<api::v1::Resource> = resources.iter().map(agent_core::Blob::get).collect();
            let resources = api::resources::Resources::from_v1(&resources).unwrap_or_default();
            format!("The masters must hear that the agent can spare {resources}.")
        }
        Event::LeavingBegun {} => "The agent will end, for good.".to_owned(),
        Event::Left {} => "Nothing runs any more; the masters must hear that the agent is gone.".to_owned(),
        Event::Forgotten {} => "The masters do not want this agent's past: it begins anew.".to_owned(),
        Event::RemnantEnded { container_id } => format!("Container {container_id} of the forgotten past ended."),
        Event::HealthSeen { container_id, failures: 0 } => {
            format!("The command in container {container_id} is healthy, as its check sees it.")
        }
        Event::HealthSeen { container_id, failures } => {
            format!("The command in container {container_id} was not healthy {failures} times in a row.")
        }
        Event::ContainerLimited { container_id, message, .. } => {
            format!("Container {container_id} must end: {message}.")
        }
    };
    Sentence::new(text)
}
