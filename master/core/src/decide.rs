//! Who may have what: the table of contents of all stories. A decision sees State and changes nothing; what it wants to
//! happen is in its events.

use crate::command::{Caller, Command};
use crate::effect::Effect;
use crate::event::{Event, Unused};
use crate::fold::fold;
use crate::ids::{AgentKey, FrameworkKey};
use crate::lost::Options;
use crate::refusal::{Denied, Refusal, RefusalKind};
use crate::state::State;
use crate::*;
use api::v1;
use std::cell::RefCell;
use std::collections::BTreeSet;

/// What a command leads to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// What happens, for the log. None: the command changed nothing.
    pub events: Vec<Event>,
    /// What to tell whom after the commit, beside what `react` makes of the events. May be lost; never logged.
    pub effects: Vec<Effect>,
    /// What the caller gets after the commit.
    pub reply: Reply,
    /// What State is then. A defect that stops the fold of an event stops its decision.
    pub state: State,
    /// What the access control lists refused of it: for a log of that.
    pub denied: Vec<Denied>,
}

impl Decision {
    /// The feature level whose shapes the events are to be stored in.
    pub fn level(&self) -> FeatureLevel {
        self.state.feature_level
    }
}

/// The answer to a command that was not refused.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Reply {
    /// Done.
    #[default]
    Empty,
    /// The agent has this key.
    Agent {
        /// Of the agent.
        agent: AgentKey,
    },
    /// The framework has this key.
    Framework {
        /// Of the framework.
        framework: FrameworkKey,
    },
    /// An operator's answer.
    Operator(Box<v1::master::Response>),
    /// The caller is refused, although something happened: the events are to be committed all the same.
    Refused(Refusal),
}

/// Decides `command` at `at_ms`, in milliseconds since the epoch.
///
/// # Errors
/// A [`Refusal`] that says why not; nothing happens then.
pub fn decide(state: &State, command: &Command, caller: &Caller, at_ms: u64) -> Result<Decision, Refusal> {
    decide_with(state, command, caller, at_ms, Options::default())
}

/// As [`decide()`], by what an operator chose.
///
/// # Errors
/// As [`decide()`].
pub fn decide_with(
    state: &State,
    command: &Command,
    caller: &Caller,
    at_ms: u64,
    options: Options,
) -> Result<Decision, Refusal> {
    let mut draft = Draft { options, ..Draft::new(state, at_ms) };
    let decided = route(&mut draft, command, caller);
    let Draft { state, events, effects, denied, .. } = draft;
    match decided {
        Ok(reply) => Ok(Decision { events, effects, reply, state, denied: denied.into_inner() }),
        Err(refusal) => Err(Refusal { denied: denied.into_inner(), ..refusal }),
    }
}

fn route(draft: &mut Draft, command: &Command, caller: &Caller) -> Result<Reply, Refusal> {
    let reply = match command {
        Command::Subscribe { connection, subscribe, framework_id } => {
            subscribe::subscribe(draft, *connection, subscribe, framework_id.as_deref(), caller)?
        }
        Command::FrameworkCall { stream_id, call } => calls::call(draft, stream_id.as_deref(), call, caller)?,
        Command::FrameworkDisconnected { framework_id, connection, by_master } => {
            subscribe::stream_ended(draft, framework_id, *connection, *by_master)
        }

        Command::RegisterAgent { connection, register } => register::register(draft, *connection, register, caller)?,
        Command::ResumeAgent { connection, resume } => register::resume(draft, *connection, resume, caller)?,
        Command::AgentMessages { agent_id, connection, messages } => {
            update::messages(draft, agent_id, *connection, messages)?
        }
        Command::AgentDisconnected { agent_id, connection } => lost::connection_ended(draft, agent_id, *connection),

        Command::OperatorCall { call } => operator::call(draft, call, caller)?,

        Command::BecomeLeader { leader, term, cluster_id, version } => {
            masters::become_leader(draft, *leader, *term, cluster_id, version)
        }
        Command::StartMaster { master, address, version, reads } => {
            masters::start(draft, *master, address, version, *reads)?
        }
        Command::LoseMaster { master } => masters::lose(draft, *master),
        Command::RaiseFeatureLevel { level, digest_every, masters } => {
            level::raise(draft, *level, *digest_every, masters)?
        }
        Command::LogDigest { index, digest, by } => equality::log_digest(draft, *index, *digest, *by),
        Command::PassDeadline { due } => deadlines::pass(draft, due),
        Command::Forget => forget::forget(draft),
        Command::MakeOffers { plan } => {
            let reply = allocator::accept_plan(draft, plan);
            inverse::make(draft, plan);
            reply
        }
        Command::Brake { what, release, why } => brakes::decide(draft, what, *release, why, caller)?,
        Command::Join(wanted) => identities::decide(draft, wanted, caller)?,
        Command::RemoveFramework { framework } => teardown::by_key(draft, *framework)?,
    };
    drain::settle(draft);
    Ok(reply)
}

/// A decision in the making. Each event is folded into a copy of State at once, so that the next step of the story sees
/// what the one before did.
#[derive(Default)]
pub(crate) struct Draft {
    pub(crate) state: State,
    pub(crate) at_ms: u64,
    pub(crate) options: Options,
    events: Vec<Event>,
    effects: Vec<Effect>,
    /// Agents that may have become empty.
    pub(crate) emptied: BTreeSet<AgentKey>,
    /// What the access control lists refused so far. Whoever asks them changes nothing.
    denied: RefCell<Vec<Denied>>,
}

/// Of one decision not more is told to the log of refusals: there may be thousands of tasks in a call.
const DENIED_MAX: usize = 16;

impl Draft {
    fn new(state: &State, at_ms: u64) -> Draft {
        // Time never goes back, whatever the caller's clock says.
        let at_ms = if event_log::planted(event_log::Bug::TimeGoesBack) { at_ms } else { at_ms.max(state.at_ms) };
        Draft { state: state.clone(), at_ms, ..Draft::default() }
    }

    pub(crate) fn push(&mut self, event: impl Into<Event>) {
        let event = event.into();
        self.emptied.extend(drain::emptied(&self.state, &event));
        fold(&mut self.state, &event, self.at_ms);
        self.events.push(event);
    }

    /// How many there are so far.
    pub(crate) fn events(&self) -> usize {
        self.events.len()
    }

    /// What a framework left over of offers that it accepted by the event at `at`: known only when all that follows there
    /// is decided. It is a filter, and a filter commutes with whatever else is in a record.
    pub(crate) fn leave_over(&mut self, at: usize, unused: Unused) {
        let Some(Event::OffersAccepted(event)) = self.events.get_mut(at) else { return };
        self.state.leave_over(event.framework, event.agent, &unused);
        event.unused = Some(unused);
    }

    /// Notes what the lists refuse.
    pub(crate) fn deny(&self, denied: Denied) {
        let mut all = self.denied.borrow_mut();
        if all.len() < DENIED_MAX {
            all.push(denied);
        }
    }

    pub(crate) fn tell(&mut self, effect: Effect) {
        self.effects.push(effect);
    }
}

/// The holder of a new connection must be alive as State knows it: what a dead one holds would never be let go.
pub(crate) fn check_holder(state: &State, connection: ids::Connection) -> Result<(), Refusal> {
    if state.is_over(connection.at) {
        return Err(Refusal::new(
            RefusalKind::HolderOver,
            "MasterOver",
            "This master's connections were given up; try again",
        ));
    }
    Ok(())
}
