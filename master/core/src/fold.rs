//! What each event does to State. It cannot fail: what has happened is no opinion. It knows no leader, no clock and no
//! chance; an event has everything that it needs.

use crate::event::*;
use crate::ids::{AgentKey, FrameworkKey, OfferKey, OperationKey, TaskKey};
use crate::resources;
use crate::state::brakes::Brake;
use crate::state::identities::Bound;
use crate::state::operations::{OfProvider, Standing};
use crate::state::tasks::STATUSES_MAX;
use crate::state::unfinished::{AgentEnd, FrameworkEnd};
use crate::state::{Deadline, Leader, LoggedDigest, Master, Offer, PendingUpdate, Provider, RoleFilter, State, Task};
use crate::view;
use crate::wire::OrderParts;
use api::resources::Resources;
use api::v1::TaskState;
use prost::Message;
use std::sync::Arc;

/// Applies one event of a record made at `at_ms`, in milliseconds since the epoch.
///
/// # Panics
/// If the event contradicts State: the log is damaged, or it was folded over another State than its own.
pub fn fold(state: &mut State, event: &Event, at_ms: u64) {
    state.at_ms = state.at_ms.max(at_ms);
    match event {
        Event::ClusterCreated(event) => state.cluster_id = event.cluster_id.clone(),
        Event::LeaderElected(event) => {
            state.leader = Some(Leader { term: event.term, master: event.leader, since_ms: at_ms });
        }
        Event::MasterStarted(event) => state.start_master(event, at_ms),
        Event::MasterLost(event) => state.lose_master(event),
        Event::FeatureLevelRaised(event) => state.raise_feature_level(event),
        Event::StateDigested(event) => {
            let StateDigested { index, digest, by } = *event;
            state.last_digest = Some(LoggedDigest { index, digest, by });
        }

        Event::HistoryBounded(event) => state.bound_history(event),

        Event::FrameworkSubscribed(event) => state.frameworks.subscribe(event, at_ms),
        Event::FrameworkResubscribed(event) => state.resubscribe(event, at_ms),
        Event::FrameworkDisconnected(event) => {
            state.frameworks.disconnect(event.framework, event.deadline_ms, at_ms);
            state.maintenance.forget_filters(event.framework);
            state.tidy_refusals(event.framework);
            state.deadlines.insert((event.deadline_ms, Deadline::Framework(event.framework)));
        }
        Event::FrameworkUpdated(event) => {
            state.frameworks.update(event.framework, &event.info, &event.terms);
            state.tidy_framework(event.framework);
        }
        Event::FrameworkRemoved(event) => state.remove_framework(event.framework, at_ms),
        Event::FrameworkEnding(event) => state.begin_end_of_framework(event, at_ms),
        Event::FiltersForgotten(event) => state.forget_expired_filters(event.framework, at_ms),

        Event::AgentRegistered(event) => state.agents.register(event, at_ms),
        Event::AgentResumed(event) => state.resume_agent(event, at_ms),
        Event::AgentDisconnected(event) => {
            state.agents.disconnect(event.agent, event.connection, event.deadline_ms, at_ms);
            state.deadlines.insert((event.deadline_ms, Deadline::Agent(event.agent)));
        }
        Event::AgentUnreachable(event) => {
            state.forget_agent_deadline(event.agent);
            state.agents.set_unreachable(event.agent, at_ms);
        }
        Event::AgentRemoved(event) => state.remove_agent(event, at_ms),
        Event::AgentEnding(event) => state.begin_end_of_agent(event, at_ms),
        Event::AgentReturning(event) => {
            state.unfinished.returns.insert(event.agent, at_ms);
            state.deadlines.insert((at_ms, Deadline::AgentReturn(event.agent)));
        }
        Event::AgentReturned(event) => state.forget_return(event.agent),
        Event::AgentDeactivated(event) => state.agents.set_deactivated(event.agent, true),
        Event::AgentReactivated(event) => state.agents.set_deactivated(event.agent, false),
        Event::OrdersAcknowledged(event) => state.agents.acknowledge_orders(event.agent, event.up_to),
        Event::AgentMessagesReceived(event) => state.agents.receive(event.agent, event.up_to),
        Event::ExecutorExited(event) => {
            let held = state.agents.remove_executor(event.agent, event.framework, &event.executor_id);
            if let Some(held) = held {
                state.frameworks.release(event.framework, event.agent, &held);
            }
        }

        Event::OffersMade(event) => state.make_offers(event, at_ms),
        Event::OffersDeclined(event) => state.decline(event),
        Event::OffersReturned(event) => event.offers.iter().for_each(|offer| {
            state.take_back(offer);
        }),
        Event::OffersAccepted(event) => state.accept(event),
        Event::RolesRevived(event) => {
            state.frameworks.revive(event.framework, &event.roles);
            state.maintenance.forget_filters(event.framework);
            state.tidy_refusals(event.framework);
        }
        Event::RolesSuppressed(event) => state.frameworks.suppress(event.framework, &event.roles),

        Event::TaskLaunched(event) => state.launch(event, at_ms),
        Event::TaskGroupLaunched(event) => state.launch_group(event, at_ms),
        Event::TaskUpdated(event) => state.update_task(event),
        Event::UpdateAcknowledged(event) => state.tasks.acknowledge(&event.task, state.history.tasks),
        Event::KillOrdered(event) => state.order_kill(event),
        Event::TaskDeclared(event) => state.declare(event, at_ms),
        // There is no such task: the log alone remembers, and the framework is told.
        Event::LaunchRefused(_) => {}

        Event::ExecutorShutdownOrdered(event) => {
            let framework_id = &state.frameworks.get(event.framework).expect("the executor's framework is live").id;
            let executor_id = &event.executor_id;
            state.agents.order(event.agent, OrderParts::ShutdownExecutor { framework_id, executor_id });
        }
        Event::FrameworkShutdownOrdered(event) => {
            state.agents.order(event.agent, OrderParts::ShutdownFramework { framework_id: &event.id });
        }
        Event::FrameworkUpdateOrdered(event) => {
            let framework_info = &state.frameworks.get(event.framework).expect("the framework is live").info;
            state.agents.order(event.agent, OrderParts::UpdateFramework { framework_info });
        }

        // Operations on resources.
        Event::OperationApplied(event) => state.apply_operation(event, at_ms),
        Event::OperationUpdated(event) => state.update_operation(event),
        Event::OperationBegun(event) => state.begin_operation(event, at_ms),
        Event::OperationEnded(event) => state.end_operation(event, at_ms),
        Event::OperationAcknowledged(event) => state.operations.forget(event.operation),
        Event::OperationDeclared(event) => {
            state.release_held(event.operation);
            state.operations.forget(event.operation);
        }
        // There is no such operation: the log alone remembers, and the framework is told.
        Event::OperationRefused(_) => {}

        // Roles.
        Event::QuotasSet(event) => {
            event.quotas.iter().for_each(|RoleQuota { role, quota }| state.roles.set_quota(role, quota));
            state.agents.keep_charged(state.roles.has_limits());
        }
        Event::WeightsSet(event) => {
            event.weights.iter().for_each(|RoleWeight { role, weight }| state.roles.set_weight(role, *weight));
        }

        // Offer constraints.
        Event::OfferConstraintsSet(event) => state.constraints.set(event.framework, &event.constraints),

        // Drains, and what agents can spare.
        Event::AgentDrainStarted(event) => state.start_drain(event, at_ms),
        Event::AgentDrainOrdered(event) => state.order_drain(event.agent),
        Event::AgentDrained(event) => state.drains.finish(event.agent, at_ms),
        Event::AgentDrainEnded(event) => state.end_drain(event.agent),
        Event::AgentOversubscribed(event) => {
            state.agents.receive(event.agent, event.seq);
            state.oversubscribed.set(event.agent, &event.resources);
        }

        // Resource providers.
        Event::AgentProvidersChanged(event) => {
            state.agents.receive(event.agent, event.seq);
            state.set_providers(event.agent, &event.providers);
            state.look_at_held(event.agent, at_ms);
            state.forget_filters_of(event.agent);
        }

        // Maintenance.
        Event::MaintenanceScheduled(event) => state.maintenance.schedule(&event.windows, at_ms),
        Event::MachinesDown(event) => state.maintenance.take_down(&event.machines),
        Event::MachinesUp(event) => state.maintenance.bring_up(&event.machines),
        Event::InverseOffersMade(event) => state.make_inverse_offers(event, at_ms),
        Event::InverseOffersReturned(event) => event.offers.iter().for_each(|offer| {
            state.take_back_inverse(offer);
        }),
        Event::InverseOffersAnswered(event) => state.answer_inverse_offers(event, at_ms),
        // Brakes.
        Event::BrakePulled(event) => state.brakes.pull(&event.brake, &event.why, event.by.as_ref(), at_ms),
        Event::BrakeReleased(event) => state.brakes.release(&event.brake),

        // Who agents are.
        Event::JoinTokenMinted(event) => state.identities.mint(event, at_ms),
        Event::JoinTokenRevoked(JoinTokenRevoked { token, .. })
        | Event::JoinTokenForgotten(JoinTokenForgotten { token }) => {
            state.identities.tokens.remove(token);
        }
        Event::AgentJoined(event) => state.identities.join(event, at_ms),
        Event::AgentIdentityMoved(event) => state.identities.hand_over(event.from, event.agent),
        Event::AgentIdentityRotated(event) => {
            state.identities.rotate(event.agent, event.identity, event.until_ms, at_ms);
        }
        Event::AgentRotationWanted(event) => state.identities.want_rotation(event.agent),
        Event::AgentIdentityRevoked(event) => state.identities.revoke(event.agent, event.by.clone(), at_ms),
        Event::AgentBound(event) => {
            let bound = Bound::Principal { principal: event.principal.clone(), since_ms: at_ms };
            state.identities.bind(event.agent, bound);
        }
        Event::AgentIdentityForgotten(event) => drop(state.identities.forget(event.agent)),
    }
}

/// Applies a whole record.
///
/// # Panics
/// As [`fold`].
pub fn fold_record(state: &mut State, header: &event_log::Header, events: &[Event]) {
    // A record may be empty: its time counts all the same.
    state.at_ms = state.at_ms.max(header.at_ms);
    for event in events {
        fold(state, event, header.at_ms);
    }
}

impl State {
    fn start_master(&mut self, event: &MasterStarted, at_ms: u64) {
        let master = Master {
            incarnation: event.master,
            address: event.address.clone(),
            version: event.version.clone(),
            started_ms: at_ms,
            alive: true,
            reads: event.reads,
        };
        self.masters.insert(event.master.node, Arc::new(master));
    }

    fn lose_master(&mut self, event: &MasterLost) {
        if let Some(master) = self.masters.get_mut(&event.master.node) {
            Arc::make_mut(master).alive = false;
        }
    }

    fn raise_feature_level(&mut self, event: &FeatureLevelRaised) {
        self.feature_level = event.level;
        self.digest_every = event.digest_every;
        for MasterReads { node, reads } in &event.masters {
            // A member that has not started since it was added says it when it does.
            if let Some(master) = self.masters.get_mut(node) {
                Arc::make_mut(master).reads = *reads;
            }
        }
    }

    fn resubscribe(&mut self, event: &FrameworkResubscribed, at_ms: u64) {
        self.forget_framework_deadline(event.framework);
        self.frameworks.resubscribe(event, at_ms);
        self.maintenance.forget_filters(event.framework);
        self.tidy_framework(event.framework);
    }

    fn remove_framework(&mut self, key: FrameworkKey, at_ms: u64) {
        self.forget_framework_deadline(key);
        if let Some(end) = self.unfinished.frameworks.remove(&key) {
            self.deadlines.remove(&(end.since_ms, Deadline::FrameworkEnd(key)));
        }
        self.operations.forget_framework(key);
        self.frameworks.remove(key, at_ms);
        self.tidy_refusals(key);
        self.turns.forget(key);
        self.maintenance.forget_framework(key);
        self.constraints.forget(key);
        self.brakes.release(&Brake::Framework(key));
        self.forget_frameworks();
    }

    /// What was kept for roles that it gave up, or for the time before it came back, goes.
    fn tidy_framework(&mut self, key: FrameworkKey) {
        self.tidy_refusals(key);
        let roles = self.frameworks.get(key).map(|framework| framework.roles.clone()).unwrap_or_default();
        self.turns.keep(key, |role| roles.contains_key(role));
    }

    /// Frameworks beyond the bound go at once; of tasks, when the next one of their framework ends.
    fn bound_history(&mut self, event: &HistoryBounded) {
        self.history = event.history;
        self.forget_frameworks();
    }

    fn forget_frameworks(&mut self) {
        for forgotten in self.frameworks.forget_completed(self.history.frameworks) {
            self.tasks.forget(forgotten);
        }
    }

    fn begin_end_of_framework(&mut self, event: &FrameworkEnding, at_ms: u64) {
        self.forget_framework_deadline(event.framework);
        self.frameworks.begin_end(event.framework, at_ms);
        self.tidy_refusals(event.framework);
        self.maintenance.forget_framework(event.framework);
        let end = FrameworkEnd { since_ms: at_ms, why: event.why };
        self.unfinished.frameworks.insert(event.framework, end);
        self.deadlines.insert((at_ms, Deadline::FrameworkEnd(event.framework)));
    }

    fn begin_end_of_agent(&mut self, event: &AgentEnding, at_ms: u64) {
        self.forget_agent_deadline(event.agent);
        self.forget_return(event.agent);
        self.agents.set_unreachable(event.agent, at_ms);
        self.unfinished.agents.insert(event.agent, AgentEnd { since_ms: at_ms, why: event.why });
        self.deadlines.insert((at_ms, Deadline::AgentEnd(event.agent)));
    }

    fn forget_return(&mut self, agent: AgentKey) {
        if let Some(since_ms) = self.unfinished.returns.remove(&agent) {
            self.deadlines.remove(&(since_ms, Deadline::AgentReturn(agent)));
        }
    }

    fn resume_agent(&mut self, event: &AgentResumed, at_ms: u64) {
        self.forget_agent_deadline(event.agent);
        self.agents.resume(event, at_ms);
        if event.profile.is_some() {
            self.look_at_held(event.agent, at_ms);
            self.forget_filters_of(event.agent);
            self.maintenance.forget_agent(event.agent);
        }
    }

    fn remove_agent(&mut self, event: &AgentRemoved, at_ms: u64) {
        self.forget_agent_deadline(event.agent);
        self.forget_return(event.agent);
        if let Some(end) = self.unfinished.agents.remove(&event.agent) {
            self.deadlines.remove(&(end.since_ms, Deadline::AgentEnd(event.agent)));
        }
        let executors: Vec<_> = match self.agents.get(event.agent) {
            Some(agent) => agent.executors.iter().map(|(key, executor)| (key.0, executor.resources.clone())).collect(),
            None => Vec::new(),
        };
        for (framework, held) in executors {
            self.frameworks.release(framework, event.agent, &held);
        }
        let holding = self.operations.holding().filter(|operation| operation.agent == event.agent);
        let holding: Vec<OperationKey> = holding.map(|operation| operation.key).collect();
        holding.into_iter().for_each(|operation| self.release_held(operation));
        self.operations.forget_agent(event.agent);
        self.held.forget(event.agent);
        self.agents.remove(event.agent, event.by_operator, &event.reason, at_ms);
        self.forget_filters_of(event.agent);
        self.drains.end(event.agent);
        self.maintenance.forget_agent(event.agent);
        self.oversubscribed.forget(event.agent);
        self.providers.forget(event.agent);
        self.identities.end(event.agent, event.by_operator);
    }

    fn forget_framework_deadline(&mut self, key: FrameworkKey) {
        let deadline_ms = self.frameworks.get(key).and_then(|framework| framework.failover_deadline_ms);
        if let Some(deadline_ms) = deadline_ms {
            self.deadlines.remove(&(deadline_ms, Deadline::Framework(key)));
        }
    }

    fn forget_agent_deadline(&mut self, key: AgentKey) {
        use crate::state::AgentLiveness::Disconnected;
        if let Some(Disconnected { deadline_ms, .. }) = self.agents.get(key).map(|agent| &agent.liveness) {
            self.deadlines.remove(&(*deadline_ms, Deadline::Agent(key)));
        }
    }

    fn make_offers(&mut self, event: &OffersMade, at_ms: u64) {
        self.offers.plans += 1;
        let mut key = event.first;
        for group in &event.groups {
            if self.feature_level.has_resource_model() {
                self.turns.add(group.framework, &group.role, group.offers.0.len() as u64);
            }
            for (agent, offered) in &group.offers.0 {
                let resources = match offered {
                    Offered::Part(resources) => resources.clone(),
                    Offered::Whole => {
                        let free = self.agents.get(*agent).expect("the offer's agent is registered").free();
                        resources::offerable(&free, &group.role)
                    }
                };
                self.agents.offer(*agent, &resources);
                if let Some(expires_ms) = event.expires_ms {
                    self.deadlines.insert((expires_ms, Deadline::Offer(key)));
                }
                self.offers.insert(Offer {
                    key,
                    framework: group.framework,
                    role: group.role.clone(),
                    agent: *agent,
                    resources,
                    at_ms,
                    expires_ms: event.expires_ms,
                });
                key = OfferKey(key.0 + 1);
            }
        }
    }

    fn take_back(&mut self, key: OfferKey) -> Arc<Offer> {
        let offer = self.offers.remove(key);
        if let Some(expires_ms) = offer.expires_ms {
            self.deadlines.remove(&(expires_ms, Deadline::Offer(key)));
        }
        self.agents.take_back(offer.agent, &offer.resources);
        offer
    }

    fn decline(&mut self, event: &OffersDeclined) {
        self.frameworks.count_declined(event.framework, event.offers.len());
        for key in event.offers.iter() {
            let offer = self.take_back(key);
            if let Some(until_ms) = event.until_ms {
                let resources = match Arc::try_unwrap(offer) {
                    Ok(offer) => (offer.role, offer.agent, offer.resources),
                    Err(shared) => (shared.role.clone(), shared.agent, shared.resources.clone()),
                };
                let (role, agent, resources) = resources;
                self.refuse(event.framework, &role, agent, RoleFilter { resources, until_ms });
            }
        }
    }

    fn accept(&mut self, event: &OffersAccepted) {
        event.offers.iter().for_each(|offer| {
            self.take_back(offer);
        });
        if let Some(unused) = &event.unused {
            self.leave_over(event.framework, event.agent, unused);
        }
    }

    /// What a framework does not want again for a while.
    pub(crate) fn leave_over(&mut self, framework: FrameworkKey, agent: AgentKey, unused: &Unused) {
        let filter = RoleFilter { resources: unused.resources.clone(), until_ms: unused.until_ms };
        self.refuse(framework, &unused.role, agent, filter);
    }

    fn occupy(&mut self, framework: FrameworkKey, agent: AgentKey, resources: &Resources) {
        self.agents.occupy(agent, resources);
        self.frameworks.occupy(framework, agent, resources);
    }

    /// What is offered and used stays what it is: an operation is upon what nobody holds at that moment.
    fn apply_operation(&mut self, event: &OperationApplied, at_ms: u64) {
        self.agents.convert(event.agent, &event.consumed, &event.produced);
        self.look_at_held(event.agent, at_ms);
        self.operations.apply(event, at_ms);
        self.order_operation(event.operation, &event.consumed, Standing::Made);
    }

    /// Whoever is to do an operation is ordered to.
    fn order_operation(&mut self, key: OperationKey, consumed: &Resources, standing: Standing) {
        let uuid = view::operation_uuid(self, key);
        let operation = self.operations.get(key).expect("the event's operation is known");
        let (agent, info) = (operation.agent, operation.info.clone());
        let framework = operation.framework.and_then(|framework| self.frameworks.get(framework));
        let framework_id = framework.map(|framework| framework.id.clone());
        let provider = resources::provider_of(consumed).and_then(|id| self.providers.get(agent, id)).cloned();
        if let Some(Provider { id, version, .. }) = &provider {
            self.operations.belong(key, OfProvider { provider: id.clone(), version: version.clone(), standing });
        }
        let known = self.agents.get(agent).expect("the operation's agent is registered");
        let checkpointed = resources::to_message(&known.checkpointed());
        let checkpointed: Vec<_> = checkpointed.iter().map(|resource| resource.encode_to_vec().into()).collect();
        let order = OrderParts::ApplyOperation {
            operation: &uuid,
            framework_id: framework_id.as_deref(),
            info: &info,
            checkpointed: &checkpointed,
            provider: provider.as_ref().map(|provider| (&*provider.id, &provider.version)),
        };
        self.agents.order(agent, order);
    }

    fn begin_operation(&mut self, event: &OperationBegun, at_ms: u64) {
        self.occupy(event.framework, event.agent, &event.consumed);
        self.operations.begin(event, at_ms);
        self.order_operation(event.operation, &event.consumed, Standing::Held);
    }

    fn end_operation(&mut self, event: &OperationEnded, at_ms: u64) {
        self.agents.receive(event.agent, event.seq);
        if event.converted.is_some() || !event_log::planted(event_log::Bug::HeldForEver) {
            self.release_held(event.operation);
        }
        let operation = self.operations.get(event.operation).expect("the event's operation is known");
        let consumed = operation.consumed.clone();
        if let Some(converted) = &event.converted {
            self.agents.convert(event.agent, &resources::unallocated(&consumed), converted);
            self.look_at_held(event.agent, at_ms);
        }
        let (state, uuid, status) = (event.state, event.uuid.clone(), event.status.clone());
        self.operations.update(event.operation, PendingUpdate { state, uuid, status });
    }

    /// Gives back what an operation holds, if any; its framework may be over by then.
    fn release_held(&mut self, key: OperationKey) {
        let Some(operation) = self.operations.held_by(key) else { return };
        let (framework, agent, held) = (operation.framework, operation.agent, operation.consumed.clone());
        self.agents.release(agent, &held);
        if let Some(framework) = framework.filter(|framework| self.frameworks.get(*framework).is_some()) {
            self.frameworks.release(framework, agent, &held);
        }
    }

    fn look_at_held(&mut self, agent: AgentKey, at_ms: u64) {
        let agent = self.agents.get(agent).expect("the operation's agent is registered");
        self.held.look(agent, at_ms);
    }

    fn update_operation(&mut self, event: &OperationUpdated) {
        self.agents.receive(event.agent, event.seq);
        if event.is_undone {
            let operation = self.operations.get(event.operation).expect("the event's operation is known");
            let (consumed, produced) = (operation.consumed.clone(), operation.produced.clone());
            self.agents.convert(event.agent, &produced, &consumed);
            self.look_at_held(event.agent, self.at_ms);
        }
        let (state, uuid, status) = (event.state, event.uuid.clone(), event.status.clone());
        self.operations.update(event.operation, PendingUpdate { state, uuid, status });
    }

    fn launch(&mut self, event: &TaskLaunched, at_ms: u64) {
        let (framework, agent) = (event.task.0, event.agent);
        if let Some(executor) = &event.executor {
            self.bring_executor(framework, agent, executor);
        }
        self.occupy(framework, agent, &event.resources);
        let executor_id = event.executor.as_ref().map(|executor| executor.executor_id.clone());
        let launch_order = self.next_order(agent);
        self.tasks.insert(Task {
            executor_id,
            launch_order,
            ..new_task(&event.task, agent, &event.role, &event.info, &event.resources, at_ms)
        });
        let framework_info = &self.frameworks.get(framework).expect("the task's framework is live").info;
        let own = event.executor.as_ref().and_then(|executor| executor.new.as_ref()).map(|new| &new.resources);
        let providers = self.providers.versions(agent, own.into_iter().chain([&event.resources]));
        self.agents.order(agent, OrderParts::Launch { framework_info, task: &event.info, providers: &providers });
    }

    fn launch_group(&mut self, event: &TaskGroupLaunched, at_ms: u64) {
        let (framework, agent) = (event.framework, event.agent);
        self.bring_executor(framework, agent, &event.executor);
        let executor_id = &event.executor.executor_id;
        let launch_order = self.next_order(agent);
        for task in &event.tasks {
            self.occupy(framework, agent, &task.resources);
            let key = (framework, task.task_id.clone());
            self.tasks.insert(Task {
                executor_id: Some(executor_id.clone()),
                launch_order,
                ..new_task(&key, agent, &event.role, &task.info, &task.resources, at_ms)
            });
        }
        let executor = {
            let agent = self.agents.get(agent).expect("the task's agent is registered");
            let executor = agent.executors.get(&(framework, executor_id.clone()));
            executor.expect("the group's executor is there").info.clone()
        };
        let tasks: Vec<_> = event.tasks.iter().map(|task| &task.info).collect();
        let framework_info = &self.frameworks.get(framework).expect("the task's framework is live").info;
        let own = event.executor.new.as_ref().map(|new| &new.resources);
        let all = own.into_iter().chain(event.tasks.iter().map(|task| &task.resources));
        let providers = &self.providers.versions(agent, all);
        let order = OrderParts::LaunchGroup { framework_info, executor: &executor, tasks: &tasks, providers };
        self.agents.order(agent, order);
    }

    fn next_order(&self, agent: AgentKey) -> u64 {
        self.agents.get(agent).expect("the task's agent is registered").next_order
    }

    fn bring_executor(&mut self, framework: FrameworkKey, agent: AgentKey, executor: &ExecutorUse) {
        if let Some(new) = &executor.new {
            self.agents.add_executor(agent, framework, &executor.executor_id, new);
            self.frameworks.occupy(framework, agent, &new.resources);
        }
    }

    fn update_task(&mut self, event: &TaskUpdated) {
        self.agents.receive(event.agent, event.seq);
        let update = PendingUpdate { state: event.state, uuid: event.uuid.clone(), status: event.status.clone() };
        if self.tasks.update(&event.task, update, event.brief.as_ref(), self.statuses_max()) {
            self.release(&event.task);
        }
    }

    /// Gives a task's resources back, once.
    fn release(&mut self, key: &TaskKey) {
        let task = self.tasks.change(key);
        if !task.released {
            task.released = true;
            let (agent, resources) = (task.agent, task.resources.clone());
            self.agents.release(agent, &resources);
            self.frameworks.release(key.0, agent, &resources);
        }
    }

    fn order_kill(&mut self, event: &KillOrdered) {
        self.tasks.change(&event.task).kill_requested = true;
        let framework_id = &self.frameworks.get(event.task.0).expect("the task's framework is live").id;
        let order = OrderParts::Kill { framework_id, task_id: &event.task.1, policy: event.policy.as_ref() };
        self.agents.order(event.agent, order);
    }

    /// How many statuses of a task are kept.
    fn statuses_max(&self) -> usize {
        if self.feature_level.forgets() { STATUSES_MAX } else { usize::MAX }
    }

    fn declare(&mut self, event: &TaskDeclared, at_ms: u64) {
        let keep = self.statuses_max();
        match event.fate {
            Fate::Completed => {
                self.release(&event.task);
                self.tasks.declare(&event.task, event.state, &event.status, keep);
                self.tasks.complete(&event.task, self.history.tasks);
            }
            Fate::Unreachable => {
                self.release(&event.task);
                let task = self.tasks.change(&event.task);
                task.state_before = Some(task.state);
                task.unreachable_ms = Some(at_ms);
                self.tasks.declare(&event.task, event.state, &event.status, keep);
            }
            Fate::Back => {
                self.tasks.declare(&event.task, event.state, &event.status, keep);
                let task = self.tasks.change(&event.task);
                task.state_before = None;
                task.unreachable_ms = None;
                task.released = false;
                let resources = task.resources.clone();
                self.occupy(event.task.0, event.agent, &resources);
            }
        }
    }
}

fn new_task(
    key: &TaskKey,
    agent: AgentKey,
    role: &Arc<str>,
    info: &bytes::Bytes,
    resources: &Resources,
    at_ms: u64,
) -> Task {
    Task {
        framework: key.0,
        task_id: key.1.clone(),
        agent,
        executor_id: None,
        role: role.clone(),
        info: info.clone(),
        resources: resources.clone(),
        state: TaskState::TaskStaging as i32,
        delivered: None,
        statuses: Vec::new(),
        updates: std::collections::VecDeque::new(),
        released: false,
        launch_order: 0,
        kill_requested: false,
        launched_ms: at_ms,
        unreachable_ms: None,
        state_before: None,
    }
}
