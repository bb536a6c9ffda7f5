//! Folding a log again, whoever wrote it: the same few questions to a master's and to an agent's state.

use crate::messages::{self, Kind as Message};
use crate::names::Names;
use crate::render;
use crate::shown::Shown;
use crate::source::{Entry, Events, Kind};
use crate::story::phrase::{reason, task_state};
use event_log::Gate;
use master_core::Event;
use master_core::equality::{Compared, Comparison};
use master_core::event::GroupTask;
pub(crate) use master_story::folded;
use std::io::{self, Read, Write};

/// A state under replay.
pub(crate) trait Replay {
    /// Whether the entry takes effect. Moves on if it does.
    fn admit(&mut self, entry: &Entry) -> bool;

    /// Folds the events of an entry that takes effect.
    ///
    /// # Errors
    /// One sentence: an event cannot be read, or contradicts the state before it.
    fn fold(&mut self, entry: &Entry) -> Result<(), String>;

    /// The events of an entry, for people.
    ///
    /// # Errors
    /// One sentence about the first that cannot be read.
    fn show(&mut self, entry: &Entry) -> Result<Vec<Shown>, String>;

    /// Goes on from what a snapshot holds instead of from the beginning.
    ///
    /// # Errors
    /// One sentence: it is no snapshot of such a state.
    fn resume(&mut self, from: &mut dyn Read) -> Result<(), String>;

    /// This entry is next, whether it takes effect or not: from the first call on, the fold is compared with the digests
    /// that masters have logged of theirs.
    fn compare(&mut self, _next: &Entry) {}

    /// What comparing has shown; none where nobody logs digests.
    fn compared(&self) -> Option<&Compared> {
        None
    }

    /// What should never be, and is.
    fn violations(&self) -> Vec<String>;

    /// Equal for equal states.
    fn digest(&self) -> String;

    /// The state as JSON, the same for the same state.
    ///
    /// # Errors
    /// What writing answers.
    fn render(&self, out: &mut dyn Write, indent: bool) -> io::Result<()>;
}

/// The state before the first record of a log.
pub(crate) fn begin(kind: Kind) -> Box<dyn Replay> {
    match kind {
        Kind::Master => Box::new(Master::default()),
        Kind::Agent => Box::new(Agent::default()),
    }
}

/// A master's state.
#[derive(Default)]
struct Master {
    gate: Gate,
    state: master_core::State,
    comparison: Option<Comparison>,
    /// For [`Replay::show`].
    names: Names,
}

impl Replay for Master {
    fn admit(&mut self, entry: &Entry) -> bool {
        self.gate.admit(entry.term, &entry.record.header)
    }

    fn fold(&mut self, entry: &Entry) -> Result<(), String> {
        let events = of_master(entry)?;
        folded(|| master_core::fold_record(&mut self.state, &entry.record.header, events))?;
        if let Some(comparison) = &mut self.comparison {
            for event in events {
                if let Event::StateDigested(event) = event {
                    comparison.logged(event);
                }
            }
        }
        Ok(())
    }

    fn compare(&mut self, next: &Entry) {
        // The state is that after the entry before, or the empty one.
        let comparison = self.comparison.get_or_insert_with(|| Comparison::after(next.index.saturating_sub(1)));
        comparison.before(&self.state, next.index);
    }

    fn compared(&self) -> Option<&Compared> {
        self.comparison.as_ref().map(Comparison::compared)
    }

    fn show(&mut self, entry: &Entry) -> Result<Vec<Shown>, String> {
        let events = of_master(entry)?;
        self.names.begin_record();
        let shown = events
            .iter()
            .zip(&entry.record.events)
            .map(|(event, raw)| Shown { touches: self.names.touches(event, raw.cause), ..show_of_master(event) });
        Ok(shown.collect())
    }

    fn resume(&mut self, from: &mut dyn Read) -> Result<(), String> {
        (self.gate, self.state) = read_master_snapshot(from)?;
        self.names = Names::of(&self.state);
        Ok(())
    }

    fn violations(&self) -> Vec<String> {
        master_core::invariants::check(&self.state).iter().map(ToString::to_string).collect()
    }

    fn digest(&self) -> String {
        hex(&self.state.digest())
    }

    fn render(&self, out: &mut dyn Write, indent: bool) -> io::Result<()> {
        render::write(out, &self.state, indent)
    }
}

/// An agent's state.
#[derive(Default)]
struct Agent {
    state: agent_core::State,
}

impl Replay for Agent {
    fn admit(&mut self, _: &Entry) -> bool {
        true
    }

    fn fold(&mut self, entry: &Entry) -> Result<(), String> {
        of_agent(entry)?.iter().try_for_each(|event| folded(|| agent_core::fold(&mut self.state, event)))
    }

    fn show(&mut self, entry: &Entry) -> Result<Vec<Shown>, String> {
        Ok(of_agent(entry)?.iter().map(show_of_agent).collect())
    }

    fn resume(&mut self, _: &mut dyn Read) -> Result<(), String> {
        Err("an agent's log has no snapshots".into())
    }

    fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (container_id, (framework_id, executor_id)) in &self.state.containers {
            match self.state.executor(framework_id, executor_id) {
                Some(executor) if executor.container_id == *container_id => {}
                _ => found.push(format!("containers: {container_id} is not that of executor {executor_id}")),
            }
        }
        let live = self.state.frameworks.values().flat_map(|framework| framework.executors.values());
        for executor in live.filter(|executor| !self.state.containers.contains_key(&executor.container_id)) {
            found.push(format!("containers: executor {} has none", executor.executor_id));
        }
        let messages = &self.state.messages;
        if !messages.waiting.keys().copied().eq(messages.received_up_to + 1..=messages.up_to) {
            found.push(format!(
                "messages: {} wait, not those from {} to {}",
                messages.waiting.len(),
                messages.received_up_to + 1,
                messages.up_to
            ));
        }
        found
    }

    fn digest(&self) -> String {
        blake3::hash(&event_log::encode_payload(&self.state)).to_hex().to_string()
    }

    fn render(&self, out: &mut dyn Write, indent: bool) -> io::Result<()> {
        render::write(out, &self.state, indent)
    }
}

/// The events of an entry of a master's log.
///
/// # Errors
/// One sentence about the first that cannot be read.
pub(crate) fn of_master(entry: &Entry) -> Result<&[Event], String> {
    match entry.events.as_ref().map_err(Clone::clone)? {
        Events::Master(events) => Ok(events),
        Events::Agent(_) => Err("it is of an agent's log".to_owned()),
    }
}

/// The events of an entry of an agent's log.
///
/// # Errors
/// One sentence about the first that cannot be read.
pub(crate) fn of_agent(entry: &Entry) -> Result<&[agent_core::Event], String> {
    match entry.events.as_ref().map_err(Clone::clone)? {
        Events::Agent(events) => Ok(events),
        Events::Master(_) => Err("it is of a master's log".to_owned()),
    }
}

/// What a master's snapshot holds: the position of the log's gate, then the state.
///
/// # Errors
/// One sentence: it is none.
pub(crate) fn read_master_snapshot(from: &mut dyn Read) -> Result<(Gate, master_core::State), String> {
    let mut number = || -> Result<u64, String> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes).map_err(|error| format!("it ends early: {error}"))?;
        Ok(u64::from_be_bytes(bytes))
    };
    let (term, n) = (number()?, number()?);
    let state = master_core::State::read_snapshot(from).map_err(|error| event_log::sentence(&error))?;
    Ok((Gate::resume(term, n), state))
}

/// An event of a master's log, for people: with what its messages say in the place of their sizes.
pub(crate) fn show_of_master(event: &Event) -> Shown {
    let mut shown = Shown::from_display(&event.to_string());
    match event {
        Event::FrameworkSubscribed(event) => shown.say("info", messages::fields(Message::Framework, &event.info)),
        Event::FrameworkResubscribed(event) => shown.say("info", messages::fields(Message::Framework, &event.info)),
        Event::FrameworkUpdated(event) => shown.say("info", messages::fields(Message::Framework, &event.info)),
        Event::TaskLaunched(event) => shown.say("info", messages::fields(Message::Task, &event.info)),
        Event::TaskGroupLaunched(event) => {
            let of = |task: &GroupTask| Some(format!("{}: {}", task.task_id, messages::command_of_task(&task.info)?));
            let ran: Vec<String> = event.tasks.iter().filter_map(of).collect();
            shown.fields.push(("ran".to_owned(), format!("{ran:?}")));
        }
        Event::TaskUpdated(event) => shown.say("status", messages::fields(Message::Status, &event.status)),
        Event::TaskDeclared(event) => shown.say("status", messages::fields(Message::Status, &event.status)),
        _ => {}
    }
    for (name, value) in &mut shown.fields {
        // Numbers of the wire.
        match (name.as_str(), value.parse()) {
            ("state", Ok(number)) => *value = task_state(number),
            ("reason", Ok(number)) => *value = reason(number),
            _ => {}
        }
    }
    shown
}

/// An event of an agent's log, for people.
pub(crate) fn show_of_agent(event: &agent_core::Event) -> Shown {
    use agent_core::Event;
    let mut shown = Shown::from_debug(&format!("{event:?}"));
    match event {
        Event::FrameworkSeen { info, .. } => shown.say("info", messages::fields(Message::Framework, &info.0)),
        Event::ExecutorAdded { info, .. } => shown.say("info", messages::fields(Message::Executor, &info.0)),
        Event::TaskAdded { info, .. } => shown.say("info", messages::fields(Message::Task, &info.0)),
        Event::StatusWritten { status, .. } => shown.say("status", messages::fields(Message::Status, &status.0)),
        _ => {}
    }
    if let Some((_, value)) = shown.fields.iter_mut().find(|(name, _)| name == "task_state")
        && let Ok(number) = value.parse()
    {
        *value = task_state(number);
    }
    let framework = shown.get("framework_id").map(str::to_owned);
    let tasks = shown.fields.iter().filter(|(name, _)| name == "task_id" || name == "task_ids");
    let ids: Vec<String> = tasks.flat_map(|(_, value)| ids(value)).collect();
    for id in ids {
        shown.touches.tasks.extend(framework.iter().map(|framework| format!("{framework}/{id}")));
        shown.touches.tasks.push(id);
    }
    shown.touches.agents.extend(shown.get("agent_id").map(str::to_owned));
    shown.touches.frameworks.extend(framework);
    shown
}

/// `t1`, or the items of `["t1","t2"]`.
fn ids(value: &str) -> Vec<String> {
    serde_json::from_str::<Vec<String>>(value).unwrap_or_else(|_| vec![value.to_owned()])
}

/// In lower case.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
