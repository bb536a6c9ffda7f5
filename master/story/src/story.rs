//! Sentences for the events of a master's log.

use super::names::Names;
use super::phrase::{count, reason, span, status, task_state};
use super::shown::Shown;
use super::{Sentence, Subject, Topic, brakes, ending, folded, identities, messages, offers, operation, roles};
use api::resources::Resources;
use api::time::shown as time;
use event_log::{Gate, Record};
use master_core::event::{Event, Fate, FrameworkTerms, Removal};
use master_core::ids::{AgentKey, FrameworkKey, Incarnation, NodeId, OperationKey, TaskKey};
use master_core::state::{AgentLiveness, Task};
use master_core::{State, fold, view};
use std::sync::Arc;

/// What one event led to: its position in the record, how it is shown, and the sentence.
pub type Told = (usize, Shown, Sentence);

/// Tells of the masters' log, one record after the other.
#[derive(Default)]
pub struct Story {
    pub(crate) subject: Subject,
    pub(crate) state: State,
    gate: Gate,
    names: Names,
    /// Tasks that the subject is, as far as it was seen.
    pub(crate) tasks: Vec<TaskKey>,
    /// The launch of it was refused, why.
    pub(crate) refused: Option<String>,
    /// What became of the offer.
    pub(crate) answered: Option<String>,
    hides_commands: bool,
}

impl Story {
    /// From the beginning of the log.
    pub fn new(subject: Subject) -> Story {
        Story { subject, ..Story::default() }
    }

    /// The same without what tasks run: not everybody may know.
    #[must_use]
    pub fn without_commands(self) -> Story {
        Story { hides_commands: true, ..self }
    }

    /// Goes on from here instead of from the beginning.
    pub fn resume(&mut self, gate: Gate, state: State) {
        (self.gate, self.state) = (gate, state);
        self.names = Names::of(&self.state);
        if self.subject.topic == Topic::Task {
            let live = self.state.tasks.live.keys().cloned();
            let all = live.chain(self.state.tasks.completed.values().map(|task| task.key()));
            self.tasks = all.filter(|key| self.is_task_key(key)).collect();
        }
    }

    /// Sentences for events of a record, in order. Folds the record; one that takes no effect is passed over.
    ///
    /// # Errors
    /// One sentence: an event cannot be folded.
    pub fn tell(&mut self, term: u64, record: &Record, events: &[Event]) -> Result<Vec<Told>, String> {
        self.tell_if(term, record, events, &mut |_, _, _| true)
    }

    /// The same about those that somebody `may` hear of, by the states before and after.
    ///
    /// # Errors
    /// As [`Story::tell`].
    pub fn tell_if(
        &mut self,
        term: u64,
        record: &Record,
        events: &[Event],
        may: &mut dyn FnMut(&State, &State, &Event) -> bool,
    ) -> Result<Vec<Told>, String> {
        if !self.gate.admit(term, &record.header) {
            return Ok(Vec::new());
        }
        self.names.begin_record();
        let at_ms = record.header.at_ms;
        let mut told = Vec::new();
        for (at, event) in events.iter().enumerate() {
            let cause = record.events.get(at).map_or(0, |raw| raw.cause);
            let touches = self.names.touches(event, cause);
            let is_it = self.subject.is_in(&touches);
            if is_it && self.subject.topic == Topic::Task {
                let mut new = event.touches().tasks;
                new.retain(|key| self.is_task_key(key) && !self.tasks.contains(key));
                self.tasks.extend(new);
            }
            let beside = !is_it && self.is_beside(event);
            // Clones of a state are cheap; most events need none.
            let before = (is_it || beside).then(|| self.state.clone());
            folded(|| fold(&mut self.state, event, at_ms))?;
            let Some(before) = before.filter(|before| may(before, &self.state, event)) else { continue };
            let shown = Shown { touches, ..Shown::from_display(&event.to_string()) };
            let Some(sentence) = self.sentence(&before, event, &shown, at_ms) else { continue };
            told.push((at, shown, Sentence { beside, ..sentence }));
        }
        self.state.at_ms = self.state.at_ms.max(at_ms);
        Ok(told)
    }

    /// State after the last record.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Who led when the last record was made: term and address.
    pub fn leader(&self) -> Option<(u64, String)> {
        let leader = self.state.leader.as_ref()?;
        Some((leader.term, self.master(leader.master)))
    }

    /// Whether the subject is known, even if nothing that touched it was told.
    pub fn knows(&self) -> bool {
        let is = |name: String| self.subject.is(&name);
        let (agents, frameworks) = (&self.state.agents, &self.state.frameworks);
        match self.subject.topic {
            Topic::Task => !self.tasks.is_empty(),
            Topic::Agent => agents.live.keys().any(|key| is(view::agent_id(&self.state, *key))),
            Topic::Framework => {
                let completed = frameworks.completed.values().map(|completed| &completed.framework.id);
                let mut all = frameworks.live.values().map(|framework| &framework.id).chain(completed);
                all.any(|id| is(id.to_string()))
            }
            Topic::Offer => self.state.offers.live.keys().any(|key| is(view::offer_id(&self.state, *key))),
            Topic::Role => {
                frameworks.live.values().any(|it| it.roles.keys().any(|role| is(role.to_string())))
                    || roles::knows(&self.state, &self.subject.id)
            }
            Topic::Cluster => true,
        }
    }

    /// The id of the cluster: what every id on the wire begins with.
    pub fn cluster(&self) -> String {
        self.state.cluster_id.to_string()
    }

    /// The first line: what it is about.
    pub fn title(&self) -> String {
        ending::title(self)
    }

    /// How it stands after the last record.
    pub fn ending(&self) -> Vec<String> {
        ending::ending(self)
    }

    /// Whether the subject is this task: by its id alone, or with its framework.
    fn is_task_key(&self, (framework, id): &TaskKey) -> bool {
        let wire = view::framework_id(&self.state, *framework);
        let names = [id.to_string(), format!("F{}/{id}", framework.0), format!("{wire}/{id}")];
        names.iter().any(|name| self.subject.is(name))
    }

    /// The tasks that the story is about, while they are live.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Arc<Task>> + '_ {
        self.tasks.iter().filter_map(|key| self.state.tasks.live.get(key))
    }

    /// Whether it happened to what the subject depends on just now.
    fn is_beside(&self, event: &Event) -> bool {
        if self.subject.topic == Topic::Role {
            return roles::is_over(event, &self.subject.id);
        }
        if self.subject.topic != Topic::Task {
            return false;
        }
        let on = |agent: AgentKey| self.live().any(|task| task.agent == agent && !task.is_terminal());
        let of = |framework: FrameworkKey| self.live().any(|task| task.framework == framework);
        match event {
            Event::AgentDisconnected(event) => on(event.agent),
            Event::AgentResumed(event) => on(event.agent),
            Event::AgentUnreachable(event) => on(event.agent),
            Event::AgentRemoved(event) => on(event.agent),
            Event::AgentDrainStarted(event) => on(event.agent),
            // Its own launch is among the orders.
            Event::OrdersAcknowledged(event) => self.live().any(|task| {
                let before = self.state.agents.get(event.agent).map_or(0, |agent| agent.orders_acknowledged);
                task.agent == event.agent && before < task.launch_order && task.launch_order <= event.up_to
            }),
            Event::FrameworkDisconnected(event) => of(event.framework),
            Event::FrameworkResubscribed(event) => of(event.framework),
            Event::FrameworkRemoved(event) => of(event.framework),
            Event::LeaderElected(_) => self.live().next().is_some(),
            _ => false,
        }
    }

    fn sentence(&mut self, before: &State, event: &Event, shown: &Shown, at_ms: u64) -> Option<Sentence> {
        let until =
            |deadline_ms: u64| format!("{} (in {})", time(deadline_ms), span(deadline_ms.saturating_sub(at_ms)));
        let sentence = match event {
            Event::ClusterCreated(event) => Sentence::new(format!("The cluster {} began.", event.cluster_id)),
            Event::LeaderElected(event) => {
                Sentence::new(format!("Master {} was elected leader, term {}.", self.master(event.leader), event.term))
            }
            Event::MasterStarted(event) => Sentence::new(format!("Master {} started.", event.address)),
            Event::MasterLost(event) => Sentence::new(format!("Master {} was lost.", self.master(event.master))),
            Event::FeatureLevelRaised(event) => {
                Sentence::new(format!("From now on the masters write what level {} knows.", event.level.0))
            }
            Event::StateDigested(event) => Sentence::routine(
                format!("The state at index {} was digested, for the masters to compare.", event.index),
                "digests of the state",
            ),

            Event::FrameworkSubscribed(event) => Sentence::new(format!(
                "{} subscribed for the first time, {}; its tasks outlive its stream by {}.",
                self.framework(event.framework),
                roles(&event.terms),
                span(event.terms.failover_timeout_ms)
            )),
            Event::FrameworkResubscribed(event) => {
                let was = before.frameworks.get(event.framework);
                let how = match was.and_then(|framework| framework.disconnected_ms) {
                    Some(since_ms) => format!("was back after {}", span(at_ms.saturating_sub(since_ms))),
                    None => "subscribed again on another stream, which replaces the one it had".to_owned(),
                };
                Sentence::new(format!("{} {how}, {}.", self.framework(event.framework), roles(&event.terms)))
            }
            Event::FrameworkDisconnected(event) => Sentence::new(format!(
                "The stream of {} ended; it is removed at {} unless it subscribes again.",
                self.framework(event.framework),
                until(event.deadline_ms)
            )),
            Event::FrameworkUpdated(event) => Sentence::new(format!(
                "{} changed what it says of itself: {}.",
                self.framework(event.framework),
                roles(&event.terms)
            )),
            Event::FrameworkRemoved(event) => {
                let why = match event.why {
                    Removal::Teardown => "was torn down",
                    Removal::FailoverTimeout => "was removed: it did not subscribe again in time",
                };
                Sentence::new(format!("{} {why}.", self.framework(event.framework)))
            }

            Event::FrameworkEnding(event) => {
                let why = match event.why {
                    Removal::Teardown => "is torn down",
                    Removal::FailoverTimeout => "is removed: it did not subscribe again in time",
                };
                Sentence::new(format!("{} {why}; it has much, which ends in steps.", self.framework(event.framework)))
            }
            Event::FiltersForgotten(event) => Sentence::routine(
                format!("What {} declined long ago was forgotten.", self.framework(event.framework)),
                "forgettings of old refusals",
            ),
            Event::HistoryBounded(event) => Sentence::new(format!(
                "From now on {} removed frameworks are remembered, and {} ended tasks of each.",
                event.history.frameworks, event.history.tasks
            )),
            Event::AgentEnding(event) => Sentence::new(format!(
                "{} is over for good: {}; its tasks end in steps.",
                self.agent(event.agent),
                event.why.sentence()
            )),
            Event::AgentReturning(event) => {
                Sentence::new(format!("{} is back; its tasks are, step by step.", self.agent(event.agent)))
            }
            Event::AgentReturned(event) => {
                Sentence::new(format!("The last task of {} is back, or it left again.", self.agent(event.agent)))
            }

            Event::AgentRegistered(event) => Sentence::new(format!(
                "{} registered at {}, with {}.",
                self.agent(event.agent),
                event.profile.address,
                event.profile.total
            )),
            Event::AgentResumed(event) => {
                let away = match before.agents.get(event.agent).map(|agent| &agent.liveness) {
                    Some(AgentLiveness::Disconnected { since_ms, .. } | AgentLiveness::Unreachable { since_ms }) => {
                        let what = if event.was_unreachable { "unreachable" } else { "away" };
                        format!("was back with its log, {what} for {}", span(at_ms.saturating_sub(*since_ms)))
                    }
                    _ => "came with its log on another connection, which replaces the one it had".to_owned(),
                };
                let changed = if event.profile.is_some() { "; what it is or has changed" } else { "" };
                Sentence::new(format!("{} {away}{changed}.", self.agent(event.agent)))
            }
            Event::AgentDisconnected(event) => Sentence::new(format!(
                "The connection of {} ended; it is unreachable from {} on unless it returns.",
                self.agent(event.agent),
                until(event.deadline_ms)
            )),
            Event::AgentUnreachable(event) => {
                let away = match before.agents.get(event.agent).map(|agent| &agent.liveness) {
                    Some(AgentLiveness::Disconnected { since_ms, .. }) => {
                        format!(", away for {}", span(at_ms.saturating_sub(*since_ms)))
                    }
                    _ => String::new(),
                };
                Sentence::new(format!("{} was declared unreachable{away}.", self.agent(event.agent)))
            }
            Event::AgentRemoved(event) => {
                let by = if event.by_operator { ", by an operator" } else { "" };
                Sentence::new(format!("{} is over for good{by}: {}.", self.agent(event.agent), event.reason))
            }
            Event::AgentDeactivated(event) => {
                Sentence::new(format!("An operator wants no offers of {}.", self.agent(event.agent)))
            }
            Event::AgentReactivated(event) => {
                Sentence::new(format!("Offers of {} are made again.", self.agent(event.agent)))
            }
            Event::OrdersAcknowledged(event) if self.subject.topic == Topic::Task => {
                Sentence::new(format!("{} has the order to launch it in its log.", self.agent(event.agent)))
            }
            Event::OrdersAcknowledged(event) => Sentence::routine(
                format!("{} has orders up to {} in its log.", self.agent(event.agent), event.up_to),
                "acknowledgements of orders",
            ),
            Event::AgentMessagesReceived(event) => Sentence::routine(
                format!("Messages of {} up to {} need not be sent again.", self.agent(event.agent), event.up_to),
                "receipts of messages",
            ),
            Event::ExecutorExited(event) => Sentence::new(format!(
                "Executor {} of {} ended on {}{}.",
                event.executor_id,
                self.framework(event.framework),
                self.agent(event.agent),
                event.status.map_or(String::new(), |status| format!(" with wait status {status}"))
            )),

            Event::OffersMade(_)
            | Event::OffersDeclined(_)
            | Event::OffersReturned(_)
            | Event::OffersAccepted(_)
            | Event::RolesRevived(_)
            | Event::RolesSuppressed(_) => return offers::sentence(self, before, event, at_ms),

            Event::AgentDrainStarted(_)
            | Event::AgentDrainOrdered(_)
            | Event::AgentDrained(_)
            | Event::AgentDrainEnded(_)
            | Event::AgentOversubscribed(_)
            | Event::AgentProvidersChanged(_)
            | Event::MaintenanceScheduled(_)
            | Event::MachinesDown(_)
            | Event::MachinesUp(_)
            | Event::InverseOffersMade(_)
            | Event::InverseOffersReturned(_)
            | Event::InverseOffersAnswered(_) => return operation::sentence(self, before, event, at_ms),
            Event::QuotasSet(_) | Event::WeightsSet(_) => return roles::sentence(self, before, event),

            Event::OfferConstraintsSet(_) | Event::BrakePulled(_) | Event::BrakeReleased(_) => {
                return brakes::sentence(self, before, event);
            }

            Event::JoinTokenMinted(_)
            | Event::JoinTokenRevoked(_)
            | Event::JoinTokenForgotten(_)
            | Event::AgentJoined(_)
            | Event::AgentIdentityMoved(_)
            | Event::AgentIdentityRotated(_)
            | Event::AgentRotationWanted(_)
            | Event::AgentIdentityRevoked(_)
            | Event::AgentBound(_)
            | Event::AgentIdentityForgotten(_) => return identities::sentence(self, before, event),

            Event::TaskLaunched(event) => Sentence::new(format!(
                "{} launched {} on {} for role {} with {}: {}{}{}.",
                self.framework(event.task.0),
                self.task(&event.task),
                self.agent(event.agent),
                event.role,
                self.offers(shown),
                plain(&event.resources),
                event
                    .executor
                    .as_ref()
                    .map_or(String::new(), |executor| format!(", executor {}", executor.executor_id)),
                Some(&event.info)
                    .filter(|_| !self.hides_commands)
                    .and_then(|info| messages::command_of_task(info))
                    .map_or(String::new(), |command| format!("; {command}"))
            )),
            Event::TaskGroupLaunched(event) => {
                let tasks: Vec<_> = event.tasks.iter().map(|task| task.task_id.to_string()).collect();
                Sentence::new(format!(
                    "{} launched a group of {} ({}) on {} for role {} with {}, executor {}.",
                    self.framework(event.framework),
                    count(tasks.len(), "task"),
                    tasks.join(", "),
                    self.agent(event.agent),
                    event.role,
                    self.offers(shown),
                    event.executor.executor_id
                ))
            }
            Event::TaskUpdated(event) => {
                let said = status(event.state, &event.status, at_ms);
                let text = format!("{} reported {}: {said}.", self.agent(event.agent), self.task(&event.task));
                match self.subject.topic {
                    Topic::Task => Sentence::new(format!("{} reported {said}.", self.agent(event.agent))),
                    // They are what happens in it.
                    Topic::Cluster => Sentence::new(text),
                    _ => Sentence::routine(text, "updates of tasks"),
                }
            }
            Event::UpdateAcknowledged(event) => {
                let state = task_state(event.state);
                let text =
                    format!("{} acknowledged {state} of {}.", self.framework(event.task.0), self.task(&event.task));
                Sentence::routine(text, "acknowledgements of updates")
            }
            Event::KillOrdered(event) => {
                let agent = self.agent(event.agent);
                Sentence::new(format!(
                    "{} wanted {} killed; {agent} was ordered to.",
                    self.framework(event.task.0),
                    self.task(&event.task)
                ))
            }
            Event::TaskDeclared(event) => {
                let fate = match event.fate {
                    Fate::Completed => "it is over",
                    Fate::Unreachable => "it is kept aside while its agent is away",
                    Fate::Back => "it is back with its agent",
                };
                let said = status(event.state, &event.status, at_ms);
                Sentence::new(format!("The masters declared {} {said}; {fate}.", self.task(&event.task)))
            }
            Event::LaunchRefused(event) => {
                if self.subject.topic == Topic::Task {
                    self.refused = Some(event.why.to_string());
                }
                Sentence::new(format!(
                    "{} may not launch {} on agent {} with {}; it is told {} ({}): {}.",
                    self.framework(event.task.0),
                    self.task(&event.task),
                    event.agent_id,
                    self.offers(shown),
                    task_state(event.state),
                    reason(event.reason),
                    event.why
                ))
            }

            Event::ExecutorShutdownOrdered(event) => Sentence::new(format!(
                "{} wanted executor {} ended; {} was ordered to.",
                self.framework(event.framework),
                event.executor_id,
                self.agent(event.agent)
            )),
            Event::FrameworkShutdownOrdered(event) => Sentence::new(format!(
                "{} was ordered to end whatever it has of framework {}.",
                self.agent(event.agent),
                event.id
            )),
            Event::FrameworkUpdateOrdered(event) => Sentence::routine(
                format!(
                    "{} was told what {} says of itself.",
                    self.agent(event.agent),
                    self.framework(event.framework)
                ),
                "tellings of changed frameworks",
            ),

            // Operations on resources.
            Event::OperationApplied(event) => {
                let by =
                    event.framework.map_or_else(|| "an operator".to_owned(), |framework| self.framework(framework));
                let named = event.id.as_ref().map(|id| format!(" ({id})")).unwrap_or_default();
                Sentence::new(format!(
                    "{by} turned {} of {} into {} by {}{named}; the agent was ordered to make it so.",
                    event.consumed,
                    self.agent(event.agent),
                    event.produced,
                    self.operation(&self.state, event.operation),
                ))
            }
            Event::OperationUpdated(event) => {
                let undone = if event.is_undone { "; it is as it was before" } else { "" };
                let waits = self.state.operations.get(event.operation).is_some();
                let waits = if waits { ", which its framework has to acknowledge" } else { "" };
                Sentence::new(format!(
                    "{} said {} of {}{waits}{undone}.",
                    self.agent(event.agent),
                    operation_state(event.state),
                    self.operation(before, event.operation),
                ))
            }
            Event::OperationBegun(event) => {
                let named = event.id.as_ref().map(|id| format!(" ({id})")).unwrap_or_default();
                Sentence::new(format!(
                    "{} wants something else made of {} of {} by {}{named}; its resource provider was ordered to, and will say \
                     what.",
                    self.framework(event.framework),
                    event.consumed.unallocate(),
                    self.agent(event.agent),
                    self.operation(&self.state, event.operation),
                ))
            }
            Event::OperationEnded(event) => {
                let made = match &event.converted {
                    Some(converted) => format!("; it is {converted} now"),
                    None => "; what it took is given back".to_owned(),
                };
                let waits = self.state.operations.get(event.operation).is_some();
                let waits = if waits { ", which its framework has to acknowledge" } else { "" };
                Sentence::new(format!(
                    "{} said {} of {}{waits}{made}.",
                    self.agent(event.agent),
                    operation_state(event.state),
                    self.operation(before, event.operation),
                ))
            }
            Event::OperationAcknowledged(event) => Sentence::routine(
                format!(
                    "{} acknowledged the end of {}.",
                    self.framework(event.framework),
                    self.operation(before, event.operation)
                ),
                "acknowledgements of operations",
            ),
            Event::OperationDeclared(event) => Sentence::new(format!(
                "The masters declared {} of {} {}: {}.",
                operation_state(event.state),
                self.framework(event.framework),
                self.operation(before, event.operation),
                event.why
            )),
            Event::OperationRefused(event) => {
                let kind = api::v1::offer::operation::Type::try_from(event.kind)
                    .map_or("operation", |kind| kind.as_str_name());
                let told = event.id.as_ref().map_or_else(
                    || "without an id it is not told".to_owned(),
                    |id| format!("it is told OPERATION_ERROR of {id}"),
                );
                Sentence::new(format!("{} may not {kind}; {told}: {}.", self.framework(event.framework), event.why))
            }
        };
        Some(sentence)
    }

    /// `framework C-0002 (name)`.
    pub(crate) fn framework(&self, key: FrameworkKey) -> String {
        let id = view::framework_id(&self.state, key);
        let id = if id.is_empty() { format!("F{}", key.0) } else { id };
        match self.framework_name(key).filter(|name| !name.is_empty()) {
            Some(name) => format!("framework {id} ({name})"),
            None => format!("framework {id}"),
        }
    }

    fn framework_name(&self, key: FrameworkKey) -> Option<String> {
        let live = self.state.frameworks.live.get(&key);
        let completed = || {
            let mut completed = self.state.frameworks.completed.values().rev();
            completed.find(|completed| completed.framework.key == key).map(|completed| &completed.framework)
        };
        let info = &live.or_else(completed)?.info;
        prost::Message::decode(info.clone()).ok().map(|info: api::v1::FrameworkInfo| info.name)
    }

    /// `agent C-S0 (host)`.
    pub(crate) fn agent(&self, key: AgentKey) -> String {
        let id = view::agent_id(&self.state, key);
        match self.state.agents.get(key) {
            Some(agent) => format!("agent {id} ({})", agent.hostname),
            None => format!("agent {id}"),
        }
    }

    /// `task t1`; of a story about it, `it`.
    pub(crate) fn task(&self, key: &TaskKey) -> String {
        if self.subject.topic == Topic::Task && self.is_task_key(key) {
            return "it".to_owned();
        }
        format!("task {}", key.1)
    }

    /// `operation P3 (RESERVE)`.
    fn operation(&self, state: &State, key: OperationKey) -> String {
        let kind = state.operations.get(key).map(|operation| view::kind_of(operation).as_str_name());
        format!("operation P{} ({})", key.0, kind.unwrap_or("over"))
    }

    fn offers(&self, shown: &Shown) -> String {
        let offers: Vec<_> =
            shown.touches.offers.iter().map(|key| format!("{}-{key}", self.state.cluster_id)).collect();
        match offers.as_slice() {
            [] => "its offers".to_owned(),
            [offer] => format!("offer {offer}"),
            offers => format!("offers {}", offers.join(", ")),
        }
    }

    /// Its address, or its number if it never started.
    pub(crate) fn master(&self, incarnation: Incarnation) -> String {
        let NodeId(node) = incarnation.node;
        let known = self.state.masters.get(&incarnation.node);
        known.map_or_else(|| format!("{node:016x}"), |master| master.address.to_string())
    }
}

/// Resources without the role that they are allocated to, which is said beside them.
pub(crate) fn plain(resources: &Resources) -> String {
    resources.unallocate().to_string()
}

/// The name of a number of the wire.
fn operation_state(state: i32) -> String {
    let known = api::v1::OperationState::try_from(state);
    known.map_or_else(|_| format!("state {state}"), |state| state.as_str_name().to_owned())
}

fn roles(terms: &FrameworkTerms) -> String {
    let named = |roles: &[Arc<str>]| roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let all = format!("for role{} {}", if terms.roles.len() == 1 { "" } else { "s" }, named(&terms.roles));
    if terms.suppressed.is_empty() {
        all
    } else {
        format!("{all}, with no offers wanted for {}", named(&terms.suppressed))
    }
}
