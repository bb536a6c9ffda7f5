//! Random commands from one seed. After every step: the invariants hold, a decision changed nothing, replay of the
//! encoded events and a snapshot's round trip give the same State, and nothing panics.

use api::internal::from_agent::Message;
use api::resources::{Disk, Format, Name, Quantities, Reservation, Resource, Resources, Value};
use api::v1::resource::disk_info::Source;
use api::v1::resource::disk_info::source::Type as SourceType;
use api::v1::scheduler::call::Type;
use api::v1::scheduler::{Call, call};
use api::{internal, v1};
use master_core::allocator::{self, Options};
use master_core::command::What;
use master_core::deadlines::{self, Turn};
use master_core::ids::*;
use master_core::roles;
use master_core::state::brakes::Brake;
use master_core::state::maintenance::Mode;
use master_core::state::{Agent, AgentLiveness, History, Offer};
use master_core::{Caller, Command, Event, FeatureLevel, State, decide_with, fold, invariants, react, view};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A small generator, so that a failing case is its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> Option<T> {
        (!items.is_empty()).then(|| items[self.roll(items.len() as u64) as usize].clone())
    }
}

/// A disk of a provider, in thousandths.
fn stored(provider: &str, milli: i64, kind: SourceType, id: Option<String>) -> Resource {
    let source = Source { r#type: kind as i32, profile: Some("fast".into()), id, ..Source::default() };
    let info = v1::resource::DiskInfo { source: Some(source), ..Default::default() };
    let disk = Some(Box::new(Disk::from_v1(&info).unwrap()));
    Resource { disk, provider_id: Some(provider.into()), ..Resource::new("disk", Value::Scalar(milli)) }
}

struct World {
    /// Brakes and offer constraints.
    has_wishes: bool,
    dice: Dice,
    state: State,
    /// Folded from bytes, as a follower does.
    replayed: State,
    at_ms: u64,
    options: master_core::Options,
    connections: u128,
    lives: [u128; 3],
    /// How many disks providers made.
    disks: usize,
    /// How often a role came to have just what its limits allow.
    at_limit: usize,
    /// Of the state at the last plan.
    ledger: allocator::Ledger,
    /// A state of before.
    seen: Option<State>,
}

const STATES: [v1::TaskState; 6] = [
    v1::TaskState::TaskStarting,
    v1::TaskState::TaskRunning,
    v1::TaskState::TaskKilling,
    v1::TaskState::TaskFinished,
    v1::TaskState::TaskFailed,
    v1::TaskState::TaskKilled,
];

impl World {
    fn new(seed: u64) -> World {
        let mut world = World {
            has_wishes: true,
            dice: Dice(seed),
            state: State::default(),
            replayed: State::default(),
            at_ms: 1_000,
            // Hardly anything fits into one step.
            options: master_core::Options {
                step_events: 2,
                unreachable_ms_max: 600_000,
                unreachable_max: 4,
                history: History { frameworks: 20, tasks: 10 },
                ..master_core::Options::default()
            },
            connections: 0,
            lives: [1; 3],
            disks: 0,
            at_limit: 0,
            ledger: allocator::Ledger::new(&Options::default()),
            seen: None,
        };
        let leader = world.incarnation(0);
        world.run(&Command::BecomeLeader { leader, term: 1, cluster_id: "C".into(), version: "1".into() });
        for node in 0..3 {
            world.start_master(node);
        }
        world
    }

    fn incarnation(&self, node: usize) -> Incarnation {
        Incarnation { node: NodeId(node as u64), id: IncarnationId(self.lives[node]) }
    }

    fn start_master(&mut self, node: usize) {
        let master = self.incarnation(node);
        let (address, version) = (format!("127.0.0.1:{node}"), "1".into());
        self.run(&Command::StartMaster { master, address, version, reads: FeatureLevel::NEWEST });
    }

    fn connection(&mut self) -> Connection {
        self.connections += 1;
        let node = self.dice.roll(3) as usize;
        Connection { at: self.incarnation(node), id: ConnectionId(self.connections) }
    }

    fn run(&mut self, command: &Command) {
        let before = self.state.clone();
        let volumes = self.volumes();
        let decided = decide_with(&self.state, command, &Caller::default(), self.at_ms, self.options.clone());
        assert_eq!(self.state, before);
        let Ok(decision) = decided else { return };
        for event in &decision.events {
            let provided = self.provided();
            fold(&mut self.state, event, self.at_ms);
            self.check_provided(&provided, event);
            self.disks += usize::from(matches!(event, Event::OperationEnded(ended) if ended.converted.is_some()));
            react(&self.state, event);
            let stored = event.encode_at(decision.level()).expect("a shape of the cluster's level");
            let (number, version, payload) = stored;
            let decoded = Event::decode(number, version, &payload).expect("what was written can be read");
            fold(&mut self.replayed, &decoded, self.at_ms);
            event.touches();
        }
        // Whoever reacts after the whole record must not fall over what is gone by then.
        decision.events.iter().for_each(|event| drop(react(&self.state, event)));
        self.check_limits(&before, command);
        let violations: Vec<String> = invariants::check(&self.state).iter().map(ToString::to_string).collect();
        assert!(violations.is_empty(), "{violations:?} after {command:?}: {:?}", decision.events);
        assert_eq!(self.state, self.replayed);
        self.check_volumes(&volumes, &decision.events);
        assert!(decision.events.is_empty() || self.state == decision.state, "a decision knows what it leads to");
    }

    /// How much the resource providers of each agent have.
    fn provided(&self) -> BTreeMap<AgentKey, Quantities> {
        let agents = self.state.agents.live.values();
        let of = |agent: &Arc<Agent>| agent.total.filter(|one| one.provider_id.is_some()).all_quantities();
        agents.map(|agent| (agent.key, of(agent))).filter(|(_, has)| has.iter().next().is_some()).collect()
    }

    /// Whatever is made of what providers have, it is as much as before: only they say that it is more or less.
    fn check_provided(&self, before: &BTreeMap<AgentKey, Quantities>, event: &Event) {
        match event {
            Event::AgentProvidersChanged(_) | Event::AgentRemoved(_) => {}
            _ => assert_eq!(*before, self.provided(), "{event}"),
        }
    }

    /// Every volume, by agent, role and id.
    fn volumes(&self) -> BTreeSet<(AgentKey, String, String)> {
        let agents = self.state.agents.live.values();
        let all = agents.flat_map(|agent| agent.total.iter().map(|resource| (agent.key, resource)));
        let volumes = all.filter_map(|(agent, resource)| {
            let id = resource.disk.as_ref()?.persistence_id.as_ref()?;
            Some((agent, resource.reservation_role().unwrap_or_default().to_owned(), id.to_string()))
        });
        volumes.collect()
    }

    /// A volume goes by a DESTROY, or with its agent, or because its agent could not make it; never otherwise.
    fn check_volumes(&self, before: &BTreeSet<(AgentKey, String, String)>, events: &[Event]) {
        let now = self.volumes();
        for (agent, role, id) in before.difference(&now) {
            let is_it = |resources: &Resources| {
                resources.iter().any(|resource| {
                    let own = resource.disk.as_ref().and_then(|disk| disk.persistence_id.as_deref());
                    own == Some(id) && resource.reservation_role() == Some(role)
                })
            };
            let is_why = |event: &Event| match event {
                Event::OperationApplied(event) => {
                    event.agent == *agent && is_it(&event.consumed) && !is_it(&event.produced)
                }
                Event::OperationUpdated(event) => event.agent == *agent && event.is_undone,
                Event::AgentRemoved(event) => event.agent == *agent,
                Event::AgentProvidersChanged(event) => event.agent == *agent,
                _ => false,
            };
            assert!(events.iter().any(is_why), "volume {id} of {role} is lost by {events:?}");
        }
    }

    /// Nothing that is decided raises a role above its limits. What agents bring with them is no decision, nor is what they
    /// could not do after all.
    fn check_limits(&mut self, before: &State, command: &Command) {
        let brought = matches!(
            command,
            Command::RegisterAgent { .. }
                | Command::ResumeAgent { .. }
                | Command::AgentMessages { .. }
                | Command::PassDeadline { .. }
        );
        for (role, quota) in self.state.roles.quotas.iter().filter(|_| !brought) {
            let (was, is) = (roles::charged(before, role), roles::charged(&self.state, role));
            for (name, milli) in is.iter() {
                let most = quota.limits.get(name.as_str()).unwrap_or(i64::MAX);
                let had = was.get(name.as_str());
                self.at_limit += usize::from(milli == most && had < most);
                assert!(
                    milli <= most.max(had),
                    "{role} has {milli} of {name:?}, had {had}, may have {most}: {command:?}"
                );
            }
        }
    }

    /// Operators set quota and weights, and reserve.
    fn configure(&mut self) {
        use v1::master::call;
        let of = |kind: call::Type| v1::master::Call { r#type: Some(kind as i32), ..Default::default() };
        let role = ["a", "b", "*", "a/b"][self.dice.roll(4) as usize].to_owned();
        let agents = self.agents();
        let call = match (self.dice.roll(4), self.dice.pick(&agents)) {
            (0, _) => {
                let weight = [0.5, 1.0, 3.0][self.dice.roll(3) as usize];
                let weight_infos = vec![v1::WeightInfo { weight, role: Some(role) }];
                let update_weights = Some(call::UpdateWeights { weight_infos });
                v1::master::Call { update_weights, ..of(call::Type::UpdateWeights) }
            }
            (1, Some(agent)) => {
                let agent_id = v1::AgentId { value: view::agent_id(&self.state, agent) };
                let reservation =
                    api::resources::Reservation { dynamic: true, role: role.into(), principal: None, labels: vec![] };
                let text = ["cpus:1", "mem:20", "cpus:0.5;mem:5"][self.dice.roll(3) as usize];
                let resources = api::resources::parse(text, "*").unwrap().resources.push_reservation(&reservation);
                let (source, resources) = (Vec::new(), resources.to_v1(Format::PostRefinement));
                let reserve_resources = Some(call::ReserveResources { agent_id, source, resources });
                v1::master::Call { reserve_resources, ..of(call::Type::ReserveResources) }
            }
            _ => {
                let amounts = |dice: &mut Dice, most: u64| {
                    let names = [("cpus", 1.0), ("mem", 25.0)];
                    let named = names.into_iter().filter(|_| dice.roll(2) == 0).collect::<Vec<_>>();
                    let scalar = |(name, unit): (&str, f64)| (name.to_owned(), unit * dice.roll(most) as f64);
                    let named: Vec<_> = named.into_iter().map(scalar).collect();
                    named.into_iter().map(|(name, value)| (name, v1::value::Scalar { value })).collect()
                };
                let (guarantees, limits) = (amounts(&mut self.dice, 3), amounts(&mut self.dice, 6));
                let quota_configs = vec![v1::quota::QuotaConfig { role, guarantees, limits }];
                let update_quota = Some(call::UpdateQuota { force: Some(self.dice.roll(2) == 0), quota_configs });
                v1::master::Call { update_quota, ..of(call::Type::UpdateQuota) }
            }
        };
        self.run(&Command::OperatorCall { call: Box::new(call) });
    }

    fn frameworks(&self) -> Vec<FrameworkKey> {
        self.state.frameworks.live.keys().copied().collect()
    }

    fn agents(&self) -> Vec<AgentKey> {
        self.state.agents.live.keys().copied().collect()
    }

    /// Something is paused for a while.
    fn brake(&mut self) {
        let pulled = self.state.brakes.pulled.keys().next().cloned();
        let release = pulled.is_some();
        let known = self.frameworks();
        let what = match (pulled, self.dice.roll(4), self.dice.pick(&known)) {
            (Some(Brake::Allocation), ..) | (None, 0, _) => What::Allocation,
            (Some(Brake::NewFrameworks), ..) | (None, 1, _) => What::NewFrameworks,
            (Some(Brake::Framework(key)), ..) | (None, 2, Some(key)) => {
                What::Framework(view::framework_id(&self.state, key))
            }
            (Some(Brake::Role(role)), ..) => What::Role(role.to_string()),
            (None, ..) => What::Role("a".into()),
        };
        self.run(&Command::Brake { what, release, why: "chance".into() });
    }

    fn subscribe(&mut self) {
        let known = self.frameworks();
        let again = if self.dice.roll(2) == 0 { self.dice.pick(&known) } else { None };
        let id = again.map(|key| v1::FrameworkId { value: view::framework_id(&self.state, key) });
        let roles = ["a", "a/b", "b", "*"];
        let role = roles[self.dice.roll(4) as usize].to_owned();
        let other = roles[self.dice.roll(4) as usize].to_owned();
        let kinds = [
            v1::framework_info::capability::Type::MultiRole,
            v1::framework_info::capability::Type::ReservationRefinement,
            v1::framework_info::capability::Type::PartitionAware,
            v1::framework_info::capability::Type::SharedResources,
        ];
        let count = 1 + self.dice.roll(4) as usize;
        let info = v1::FrameworkInfo {
            user: "u".into(),
            name: "n".into(),
            id: id.clone(),
            failover_timeout: Some(self.dice.roll(3) as f64 * 10.0),
            roles: if role == other { vec![role] } else { vec![role, other] },
            capabilities: kinds[..count]
                .iter()
                .map(|kind| v1::framework_info::Capability { r#type: Some(*kind as i32) })
                .collect(),
            ..Default::default()
        };
        let framework_id = id.map(|id| id.value);
        let offer_constraints = (self.has_wishes && self.dice.roll(5) == 0).then(|| {
            let predicate = ["not_exists", "exists"][self.dice.roll(2) as usize];
            let text = format!(
                r#"{{"role_constraints":{{"a":{{"groups":[{{"attribute_constraints":[{{"selector":
                {{"attribute_name":"zone"}},"predicate":{{"{predicate}":{{}}}}}}]}}]}}}}}}"#
            );
            api::json::from_slice(text.as_bytes()).unwrap()
        });
        let subscribe = call::Subscribe { framework_info: info, offer_constraints, ..Default::default() };
        let connection = self.connection();
        self.run(&Command::Subscribe { connection, subscribe, framework_id });
    }

    fn agent_info(&mut self) -> v1::AgentInfo {
        let text = [
            "cpus:2;mem:100;disk:50",
            "cpus:4;mem:200;disk:50;ports:[1-9]",
            "cpus:1;mem:50;disk:20;cpus(a):1;mem(a):20;disk(a):40",
        ];
        let text = text[self.dice.roll(3) as usize];
        let resources = api::resources::parse(text, "*").unwrap().resources.to_v1(Format::PostRefinement);
        v1::AgentInfo { hostname: "h".into(), resources, ..Default::default() }
    }

    fn register(&mut self) {
        let register = internal::Register {
            proof: None,
            checkpointed_resources: Vec::new(),
            token: u128::from(self.dice.roll(8)).to_be_bytes().to_vec().into(),
            agent_info: self.agent_info(),
            version: "1".into(),
            capabilities: self.capabilities(4),
            address: format!("10.0.0.{}:5051", self.dice.roll(6)),
        };
        let connection = self.connection();
        self.run(&Command::RegisterAgent { connection, register });
    }

    /// Now and then an agent can nothing.
    fn capabilities(&mut self, sides: u64) -> Vec<String> {
        if self.dice.roll(sides) == 0 {
            return Vec::new();
        }
        let all = [
            "AGENT_DRAINING",
            "AGENT_OPERATION_FEEDBACK",
            "HIERARCHICAL_ROLE",
            "MULTI_ROLE",
            "RESERVATION_REFINEMENT",
            "RESIZE_VOLUME",
            "RESOURCE_PROVIDER",
        ];
        all.map(str::to_owned).to_vec()
    }

    fn resume(&mut self) {
        let agents = self.agents();
        let Some(agent) = self.dice.pick(&agents).and_then(|key| self.state.agents.live.get(&key).cloned()) else {
            return;
        };
        let mut orders_up_to = agent.orders_acknowledged + self.dice.roll(agent.next_order - agent.orders_acknowledged);
        if self.dice.roll(10) == 0 {
            orders_up_to = orders_up_to.saturating_sub(1);
        }
        let mut tasks: Vec<internal::LiveTask> = Vec::new();
        for task in self.state.tasks.on(agent.key).cloned().collect::<Vec<_>>() {
            if self.dice.roll(4) > 0 {
                tasks.push(internal::LiveTask {
                    framework_id: v1::FrameworkId { value: view::framework_id(&self.state, task.framework) },
                    task_id: v1::TaskId { value: task.task_id.to_string() },
                });
            }
        }
        let same = prost::Message::decode(agent.info.clone()).unwrap();
        let resume = internal::Resume {
            proof: None,
            checkpointed_resources: Vec::new(),
            agent_id: v1::AgentId { value: view::agent_id(&self.state, agent.key) },
            cluster_id: "C".into(),
            orders_up_to,
            messages_up_to: agent.messages_received + self.dice.roll(2),
            agent_info: if self.dice.roll(4) == 0 { self.agent_info() } else { same },
            version: "1".into(),
            capabilities: self.capabilities(8),
            address: agent.address.to_string(),
            tasks,
        };
        let connection = self.connection();
        self.run(&Command::ResumeAgent { connection, resume });
    }

    fn agent_messages(&mut self) {
        let agents = self.agents();
        let Some(agent) = self.dice.pick(&agents).and_then(|key| self.state.agents.live.get(&key).cloned()) else {
            return;
        };
        let AgentLiveness::Connected { connection } = agent.liveness else { return };
        let tasks: Vec<_> = self.state.tasks.on(agent.key).cloned().collect();
        let mut messages = Vec::new();
        let mut seq = agent.messages_received;
        let up_to = self.dice.roll(agent.next_order + 1);
        let acknowledged = Message::OrdersAcknowledged(internal::OrdersAcknowledged { up_to });
        messages.push(internal::FromAgent { seq: None, message: Some(acknowledged) });
        for _ in 0..self.dice.roll(5) {
            seq += 1;
            if let Some(status) = self.operation_status(agent.key) {
                messages.push(internal::FromAgent { seq: Some(seq), message: Some(status) });
                continue;
            }
            if self.dice.roll(12) == 0 {
                let told = self.providers(agent.key);
                messages.push(internal::FromAgent { seq: Some(seq), message: Some(told) });
                continue;
            }
            let message = match (self.dice.roll(12), self.dice.pick(&tasks)) {
                (0, _) => {
                    let executor = agent.executors.keys().next().cloned();
                    let (framework, executor_id) = executor.unwrap_or((FrameworkKey(0), "none".into()));
                    Message::ExecutorExited(internal::ExecutorExited {
                        framework_id: v1::FrameworkId { value: view::framework_id(&self.state, framework) },
                        executor_id: v1::ExecutorId { value: executor_id.to_string() },
                        status: Some(0),
                    })
                }
                (1, _) if self.dice.roll(10) == 0 => Message::Leaving(internal::Leaving {}),
                (_, Some(task)) => {
                    let state = STATES[self.dice.roll(6) as usize];
                    let status = v1::TaskStatus {
                        task_id: v1::TaskId { value: task.task_id.to_string() },
                        state: state as i32,
                        uuid: Some(u128::from(self.dice.roll(u64::MAX)).to_be_bytes().to_vec().into()),
                        data: (self.dice.roll(2) == 0).then(|| vec![1, 2, 3].into()),
                        ..Default::default()
                    };
                    let framework_id = v1::FrameworkId { value: view::framework_id(&self.state, task.framework) };
                    Message::StatusUpdate(internal::StatusUpdate { framework_id, status })
                }
                _ if self.dice.roll(2) == 0 => {
                    let text = ["cpus:1", "cpus:2;mem:50"][self.dice.roll(2) as usize];
                    let mut resources =
                        api::resources::parse(text, "*").unwrap().resources.to_v1(Format::PostRefinement);
                    resources.iter_mut().for_each(|one| one.revocable = Some(v1::resource::RevocableInfo {}));
                    resources.truncate(self.dice.roll(3) as usize);
                    Message::Oversubscribed(internal::Oversubscribed { resources })
                }
                _ => Message::ExecutorLaunched(internal::ExecutorLaunched::default()),
            };
            messages.push(internal::FromAgent { seq: Some(seq), message: Some(message) });
        }
        let agent_id = view::agent_id(&self.state, agent.key);
        self.run(&Command::AgentMessages { agent_id, connection, messages });
    }

    fn framework_call(&mut self) {
        let known = self.frameworks();
        let Some(key) = self.dice.pick(&known) else { return };
        let framework = self.state.frameworks.get(key).unwrap();
        let stream_id = framework.stream.as_ref().map(|stream| stream.connection.id.to_string());
        let framework_id = Some(v1::FrameworkId { value: framework.id.to_string() });
        let tasks: Vec<_> = self.state.tasks.of(key).cloned().collect();
        let task = self.dice.pick(&tasks);
        let of =
            |kind: Type| Call { framework_id: framework_id.clone(), r#type: Some(kind as i32), ..Default::default() };
        let mut offers: Vec<OfferKey> = self.state.offers.to(key).collect();
        if self.dice.roll(8) == 0 {
            offers.push(OfferKey(self.dice.roll(1 + self.state.offers.next)));
        }
        let call = match self.dice.roll(12) {
            0..=3 => {
                let first = offers.first().and_then(|key| self.state.offers.get(*key)).map(|offer| offer.agent);
                offers.retain(|key| self.state.offers.get(*key).is_none_or(|offer| Some(offer.agent) == first));
                let held = offers.iter().filter_map(|key| self.state.offers.get(*key).cloned()).collect::<Vec<_>>();
                let all = held.iter().fold(Resources::new(), |sum, offer| sum.plus(&offer.resources));
                let has_stored = self.dice.roll(2) == 0 && all.iter().any(|one| one.provider_id.is_some());
                let operations = (0..self.dice.roll(4)).map(|_| {
                    let launch = first.and_then(|agent| self.on_volume(&all, agent));
                    launch.unwrap_or_else(|| match held.first().filter(|_| has_stored || self.dice.roll(3) == 0) {
                        Some(offer) => self.conversion(&all.unallocate(), Some(&offer.role)),
                        None => self.operation(first),
                    })
                });
                let operations = operations.collect();
                let filters = Some(v1::Filters { refuse_seconds: Some(self.dice.roll(3) as f64) });
                let offer_ids = self.offer_ids(&offers);
                Call { accept: Some(call::Accept { offer_ids, operations, filters }), ..of(Type::Accept) }
            }
            4 => {
                let filters = Some(v1::Filters { refuse_seconds: Some(self.dice.roll(3) as f64) });
                let offer_ids = self.offer_ids(&offers);
                Call { decline: Some(call::Decline { offer_ids, filters }), ..of(Type::Decline) }
            }
            5 => of(Type::Revive),
            6 => of(Type::Suppress),
            7 => {
                let task_id = v1::TaskId { value: task.map_or("x".into(), |task| task.task_id.to_string()) };
                Call { kill: Some(call::Kill { task_id, ..Default::default() }), ..of(Type::Kill) }
            }
            8..=9 => {
                let head = task.as_ref().and_then(|task| task.updates.front().cloned());
                let acknowledge = call::Acknowledge {
                    task_id: v1::TaskId { value: task.map_or("x".into(), |task| task.task_id.to_string()) },
                    uuid: head.map_or_else(|| vec![0; 16].into(), |head| head.uuid.clone()),
                    ..Default::default()
                };
                Call { acknowledge: Some(acknowledge), ..of(Type::Acknowledge) }
            }
            10 if self.dice.roll(2) == 0 => {
                let known: Vec<_> = self.state.operations.of(key).cloned().collect();
                let Some(operation) = self.dice.pick(&known) else { return };
                let uuid = operation.update.as_ref().map_or_else(|| vec![1; 16].into(), |update| update.uuid.clone());
                let acknowledge = call::AcknowledgeOperationStatus {
                    agent_id: Some(v1::AgentId { value: view::agent_id(&self.state, operation.agent) }),
                    uuid,
                    operation_id: v1::OperationId { value: operation.id.as_deref().unwrap_or_default().to_owned() },
                    ..Default::default()
                };
                let of = of(Type::AcknowledgeOperationStatus);
                Call { acknowledge_operation_status: Some(acknowledge), ..of }
            }
            10 => Call { reconcile: Some(call::Reconcile::default()), ..of(Type::Reconcile) },
            _ => {
                let mut info: v1::FrameworkInfo = prost::Message::decode(framework.info.clone()).unwrap();
                info.roles = vec![["a", "b"][self.dice.roll(2) as usize].to_owned()];
                let update = call::UpdateFramework { framework_info: info, ..Default::default() };
                Call { update_framework: Some(update), ..of(Type::UpdateFramework) }
            }
        };
        self.run(&Command::FrameworkCall { stream_id, call: Box::new(call) });
    }

    fn offer_ids(&self, offers: &[OfferKey]) -> Vec<v1::OfferId> {
        offers.iter().map(|key| v1::OfferId { value: view::offer_id(&self.state, *key) }).collect()
    }

    fn operation(&mut self, agent: Option<AgentKey>) -> v1::offer::Operation {
        // Some have nothing beside their tasks, or say so with a nought.
        let own = ["cpus:0.1;mem:1", "", "cpus:0"][self.dice.roll(3) as usize];
        let parsed = |text: &str| match text {
            "" => Vec::new(),
            "cpus:0" => {
                let mut resources =
                    api::resources::parse("cpus:1", "*").unwrap().resources.to_v1(Format::PreRefinement);
                resources.iter_mut().for_each(|one| one.scalar = Some(v1::value::Scalar { value: 0.0 }));
                resources
            }
            text => api::resources::parse(text, "*").unwrap().resources.to_v1(Format::PreRefinement),
        };
        let executor = v1::ExecutorInfo {
            r#type: Some(v1::executor_info::Type::Custom as i32),
            executor_id: v1::ExecutorId { value: format!("e{}", self.dice.roll(2)) },
            command: Some(v1::CommandInfo { value: Some("true".into()), ..v1::CommandInfo::default() }),
            resources: parsed(own),
            ..Default::default()
        };
        let kind = self.dice.roll(4);
        let mut tasks = Vec::new();
        for _ in 0..self.dice.roll(3) {
            let text = ["cpus:0.5;mem:5", "cpus:1;mem:10;ports:[2-3]", "cpus:3;mem:1", "cpus(a):0.5", "cpus:0"];
            let text = text[self.dice.roll(5) as usize];
            tasks.push(v1::TaskInfo {
                name: "t".into(),
                task_id: v1::TaskId { value: format!("t{}", self.dice.roll(30)) },
                agent_id: v1::AgentId { value: view::agent_id(&self.state, agent.unwrap_or(AgentKey(0))) },
                resources: parsed(text),
                command: (kind == 0)
                    .then(|| v1::CommandInfo { value: Some("true".into()), ..v1::CommandInfo::default() }),
                executor: (kind == 1).then(|| executor.clone()),
                ..Default::default()
            });
        }
        if kind < 2 {
            return v1::offer::Operation {
                r#type: Some(v1::offer::operation::Type::Launch as i32),
                launch: Some(v1::offer::operation::Launch { task_infos: tasks }),
                ..Default::default()
            };
        }
        let task_group = v1::TaskGroupInfo { tasks };
        v1::offer::Operation {
            r#type: Some(v1::offer::operation::Type::LaunchGroup as i32),
            launch_group: Some(v1::offer::operation::LaunchGroup { executor, task_group }.into()),
            ..Default::default()
        }
    }

    /// What an agent says of an operation, if it says something of one.
    /// An agent has providers, and somebody who is offered what they have wants something made of it.
    fn provide(&mut self) {
        let agents = self.agents();
        let agent = self.dice.pick(&agents).and_then(|key| self.state.agents.live.get(&key).cloned());
        let Some((agent, connection)) = agent.and_then(|agent| Some((agent.clone(), agent.connection()?))) else {
            return;
        };
        let told =
            internal::FromAgent { seq: Some(agent.messages_received + 1), message: Some(self.providers(agent.key)) };
        let agent_id = view::agent_id(&self.state, agent.key);
        self.run(&Command::AgentMessages { agent_id, connection, messages: vec![told] });
        let plan = allocator::plan(&self.state, self.at_ms, &Options::default());
        self.run(&Command::MakeOffers { plan });
        let offers = self.state.offers.on(agent.key).filter_map(|key| self.state.offers.get(key).cloned());
        let stored = |offer: &Offer| offer.resources.iter().any(|one| one.provider_id.is_some());
        let Some(offer) = offers.into_iter().find(stored) else { return };
        let framework = self.state.frameworks.get(offer.framework).expect("an offer is somebody's");
        let stream_id = framework.stream.as_ref().map(|stream| stream.connection.id.to_string());
        let framework_id = Some(v1::FrameworkId { value: framework.id.to_string() });
        let operations = vec![self.conversion(&offer.resources.unallocate(), Some(&offer.role))];
        let accept = call::Accept { offer_ids: self.offer_ids(&[offer.key]), operations, filters: None };
        let kind = Some(Type::Accept as i32);
        let call = Box::new(Call { framework_id, r#type: kind, accept: Some(accept), ..Default::default() });
        self.run(&Command::FrameworkCall { stream_id, call });
    }

    /// Providers of an agent, some of which say that they have something else.
    fn providers(&mut self, agent: AgentKey) -> Message {
        let mut providers = Vec::new();
        let pending: Vec<_> = self.state.operations.on(agent).filter(|it| it.is_pending()).cloned().collect();
        for id in ["p", "q"] {
            if self.dice.roll(4) == 0 {
                continue;
            }
            let mut total_resources = Vec::new();
            for number in 0..self.dice.roll(4) {
                let size = [5_000, 10_000, 20_000][self.dice.roll(3) as usize];
                let kind = [SourceType::Raw, SourceType::Raw, SourceType::Mount][self.dice.roll(3) as usize];
                let name = (kind == SourceType::Mount).then(|| format!("v{number}"));
                total_resources.push(stored(id, size, kind, name).to_v1(Format::PostRefinement));
            }
            let some: Vec<_> = pending.iter().filter(|_| self.dice.roll(2) == 0).collect();
            let operations = some.iter().map(|it| view::operation_uuid(&self.state, it.key).to_vec().into()).collect();
            let resource_version = vec![self.dice.roll(2) as u8; 16].into();
            let state = internal::ProviderState { total_resources, resource_version, operations };
            let provider_id = Some(v1::ResourceProviderId { value: id.into() });
            let (r#type, name) = ("t".into(), id.into());
            let info = v1::ResourceProviderInfo { id: provider_id, r#type, name, ..Default::default() };
            let state = (self.dice.roll(3) > 0).then_some(state);
            providers.push(internal::Provider { info, is_subscribed: self.dice.roll(4) > 0, state });
        }
        Message::Providers(internal::Providers { providers })
    }

    fn operation_status(&mut self, agent: AgentKey) -> Option<Message> {
        let pending: Vec<_> = self.state.operations.on(agent).filter(|it| it.is_pending()).cloned().collect();
        let operation = self.dice.pick(&pending).filter(|_| self.dice.roll(3) > 0)?;
        let states = [v1::OperationState::OperationFinished, v1::OperationState::OperationFailed];
        let state = states[usize::from(self.dice.roll(4) == 0)];
        let mut converted_resources = Vec::new();
        if let Some(of) = self.state.operations.of_provider(operation.key) {
            // Now and then it is not what was to be made.
            let size =
                operation.consumed.iter().map(|one| one.milli()).sum::<i64>() + i64::from(self.dice.roll(8) == 0);
            let kinds = [(SourceType::Mount, Some(format!("n{}", operation.key.0))), (SourceType::Raw, None)];
            let (kind, name) = kinds[self.dice.roll(2) as usize].clone();
            converted_resources.push(stored(&of.provider, size, kind, name).to_v1(Format::PostRefinement));
        }
        let status = v1::OperationStatus { state: state as i32, converted_resources, ..Default::default() };
        let operation = view::operation_uuid(&self.state, operation.key).to_vec().into();
        Some(Message::OperationStatus(internal::OperationStatus { operation, status }))
    }

    /// Some operation upon some of these; now and then one that cannot be.
    fn conversion(&mut self, from: &Resources, role: Option<&str>) -> v1::offer::Operation {
        use v1::offer::operation::{self, Type};
        let format = Format::PostRefinement;
        let items: Vec<Resource> = from.iter().cloned().collect();
        let mut operation = v1::offer::Operation::default();
        if role.is_some() && self.dice.roll(2) == 0 {
            operation.id = Some(v1::OperationId { value: format!("o{}", self.dice.roll(4)) });
        }
        let some = |dice: &mut Dice, wanted: &dyn Fn(&Resource) -> bool| {
            let fit: Vec<Resource> = items.iter().filter(|item| wanted(item)).cloned().collect();
            let mut one = dice.pick(&fit).unwrap_or_else(|| Resource::new("disk", Value::Scalar(1000)));
            // A part of what is an amount.
            if let Value::Scalar(milli) = &mut one.value
                && one.disk.as_ref().is_none_or(|disk| !disk.is_whole())
            {
                *milli = (*milli / (1 + dice.roll(3) as i64)).max(1000);
            }
            one
        };
        let is_volume = |item: &Resource| item.is_persistent_volume();
        let is_disk = |item: &Resource| item.name == Name::Disk && item.disk.is_none() && !item.reservations.is_empty();
        let mut kinds = vec![Type::Reserve];
        for (wanted, more) in [
            (&is_volume as &dyn Fn(&Resource) -> bool, &[Type::Destroy, Type::GrowVolume, Type::ShrinkVolume][..]),
            (&|item| item.is_dynamically_reserved() && !is_volume(item), &[Type::Unreserve]),
            (&is_disk, &[Type::Create, Type::Create, Type::Create]),
        ] {
            if items.iter().any(wanted) || self.dice.roll(8) == 0 {
                kinds.extend(more);
            }
        }
        let is_stored = |item: &Resource| item.provider_id.is_some() && !is_volume(item);
        let is_raw = |item: &Resource| is_stored(item) && item.disk.as_ref().is_some_and(|disk| !disk.is_whole());
        if role.is_some() && items.iter().any(is_stored) {
            kinds.extend([Type::CreateDisk; 4]);
            kinds.push(Type::DestroyDisk);
        }
        let kind = self.dice.pick(&kinds).unwrap();
        operation.set_type(kind);
        match kind {
            Type::CreateDisk => {
                let source = some(&mut self.dice, &is_raw).to_v1(format);
                let target_type = SourceType::Mount as i32;
                let body = operation::CreateDisk { source, target_type, target_profile: None };
                operation.create_disk = Some(Box::new(body));
            }
            Type::DestroyDisk => {
                let source = some(&mut self.dice, &is_stored).to_v1(format);
                operation.destroy_disk = Some(Box::new(operation::DestroyDisk { source }));
            }
            Type::Reserve => {
                let volumes_too = self.dice.roll(4) == 0;
                let mut one = some(&mut self.dice, &|item| volumes_too || !is_volume(item));
                let to = role.unwrap_or(["a", "a/b", "b"][self.dice.roll(3) as usize]);
                one.reservations.push(Reservation { dynamic: true, role: to.into(), principal: None, labels: vec![] });
                operation.reserve = Some(operation::Reserve { resources: vec![one.to_v1(format)], source: vec![] });
            }
            Type::Unreserve => {
                let one = some(&mut self.dice, &|item| item.is_dynamically_reserved() && !is_volume(item));
                operation.unreserve = Some(operation::Unreserve { resources: vec![one.to_v1(format)] });
            }
            Type::Create => {
                let one = some(&mut self.dice, &is_disk);
                let mut volume = one.to_v1(format);
                let id = format!("v{}", self.dice.roll(6));
                let persistence = v1::resource::disk_info::Persistence { id, ..Default::default() };
                let place = v1::Volume {
                    container_path: "data".into(),
                    mode: v1::volume::Mode::Rw as i32,
                    ..Default::default()
                };
                let (persistence, place) = (Some(persistence), Some(place));
                volume.disk =
                    Some(Box::new(v1::resource::DiskInfo { persistence, volume: place, ..Default::default() }));
                volume.shared = (self.dice.roll(3) == 0).then(Default::default);
                operation.create = Some(operation::Create { volumes: vec![volume] });
            }
            Type::Destroy => {
                let mut one = some(&mut self.dice, &is_volume);
                one.copies = 1;
                operation.destroy = Some(operation::Destroy { volumes: vec![one.to_v1(format)] });
            }
            Type::GrowVolume => {
                let volume = some(&mut self.dice, &is_volume);
                let addition = some(&mut self.dice, &|item| item.name == Name::Disk && !is_volume(item));
                let (volume, addition) = (volume.to_v1(format), addition.to_v1(format));
                operation.grow_volume = Some(operation::GrowVolume { volume, addition }.into());
            }
            _ => {
                let volume = some(&mut self.dice, &is_volume).to_v1(format);
                let subtract = v1::value::Scalar { value: 1.0 + self.dice.roll(4) as f64 };
                operation.shrink_volume = Some(operation::ShrinkVolume { volume, subtract }.into());
            }
        }
        operation
    }

    /// A launch on a volume that is among these, now and then.
    fn on_volume(&mut self, from: &Resources, agent: AgentKey) -> Option<v1::offer::Operation> {
        let volumes: Vec<Resource> = from.persistent_volumes().iter().cloned().collect();
        let volume = self.dice.pick(&volumes).filter(|_| self.dice.roll(2) == 0)?;
        let beside = from.iter().find(|item| item.name == Name::Mem)?;
        let own = [Resource { copies: 1, ..volume }, Resource { value: Value::Scalar(1000), ..beside.clone() }];
        let task = v1::TaskInfo {
            name: "t".into(),
            task_id: v1::TaskId { value: format!("t{}", self.dice.roll(30)) },
            agent_id: v1::AgentId { value: view::agent_id(&self.state, agent) },
            resources: own.iter().map(|one| one.to_v1(Format::PostRefinement)).collect(),
            command: Some(v1::CommandInfo { value: Some("true".into()), ..v1::CommandInfo::default() }),
            ..Default::default()
        };
        let launch = v1::offer::operation::Launch { task_infos: vec![task] };
        let mut operation = v1::offer::Operation { launch: Some(launch), ..Default::default() };
        operation.set_type(v1::offer::operation::Type::Launch);
        Some(operation)
    }

    /// An operator turns some of what an agent has into something else.
    fn convert(&mut self) {
        use v1::master::call;
        let agents = self.agents();
        let Some(agent) = self.dice.pick(&agents).and_then(|key| self.state.agents.live.get(&key).cloned()) else {
            return;
        };
        let operation = self.conversion(&agent.total, None);
        let agent_id = v1::AgentId { value: view::agent_id(&self.state, agent.key) };
        let of = |kind: call::Type| v1::master::Call { r#type: Some(kind as i32), ..Default::default() };
        let call = if let Some(body) = operation.reserve {
            let (source, resources) = (body.source, body.resources);
            let reserve = Some(call::ReserveResources { agent_id, source, resources });
            v1::master::Call { reserve_resources: reserve, ..of(call::Type::ReserveResources) }
        } else if let Some(body) = operation.unreserve {
            let unreserve = Some(call::UnreserveResources { agent_id, resources: body.resources });
            v1::master::Call { unreserve_resources: unreserve, ..of(call::Type::UnreserveResources) }
        } else if let Some(body) = operation.create {
            let create = Some(call::CreateVolumes { agent_id, volumes: body.volumes });
            v1::master::Call { create_volumes: create, ..of(call::Type::CreateVolumes) }
        } else if let Some(body) = operation.destroy {
            let destroy = Some(call::DestroyVolumes { agent_id, volumes: body.volumes });
            v1::master::Call { destroy_volumes: destroy, ..of(call::Type::DestroyVolumes) }
        } else if let Some(body) = operation.grow_volume {
            let (volume, addition) = (body.volume, body.addition);
            let grow = Some(call::GrowVolume { agent_id: Some(agent_id), volume, addition });
            v1::master::Call { grow_volume: grow, ..of(call::Type::GrowVolume) }
        } else if let Some(body) = operation.shrink_volume {
            let (volume, subtract) = (body.volume, body.subtract);
            let shrink = Some(call::ShrinkVolume { agent_id: Some(agent_id), volume, subtract });
            v1::master::Call { shrink_volume: shrink, ..of(call::Type::ShrinkVolume) }
        } else {
            return;
        };
        self.run(&Command::OperatorCall { call: Box::new(call) });
    }

    /// The feature level is raised some time, and digests are logged.
    fn agree(&mut self) {
        if self.dice.roll(100) == 0 {
            let masters = self.state.masters.keys().map(|node| (*node, FeatureLevel::NEWEST)).collect();
            self.run(&Command::RaiseFeatureLevel { level: FeatureLevel::NEWEST, digest_every: 1, masters });
        }
        if self.dice.roll(10) == 0 {
            let index = self.at_ms;
            self.run(&Command::LogDigest { index, digest: self.state.digest(), by: NodeId(0) });
        }
    }

    /// Agents are drained, and their machines are scheduled, taken down and brought up.
    fn operate(&mut self) {
        use v1::master::call;
        let agents = self.agents();
        let machines: Vec<v1::MachineId> = (0..1 + self.dice.roll(2))
            .map(|_| v1::MachineId {
                hostname: Some(["h", "H", "far"][self.dice.roll(3) as usize].to_owned()),
                ip: Some(format!("10.0.0.{}", self.dice.roll(3))),
            })
            .collect();
        let of = |kind: call::Type| v1::master::Call { r#type: Some(kind as i32), ..Default::default() };
        let call = match (self.dice.roll(8), self.dice.pick(&agents)) {
            (0..=2, Some(agent)) => {
                let agent_id = v1::AgentId { value: view::agent_id(&self.state, agent) };
                let mut drain = call::DrainAgent { agent_id, ..Default::default() };
                drain.mark_gone = Some(self.dice.roll(4) == 0);
                drain.max_grace_period.get_or_insert_default().seconds = self.dice.roll(2) as i64;
                v1::master::Call { drain_agent: Some(drain), ..of(call::Type::DrainAgent) }
            }
            (3..=4, _) => {
                let window = v1::maintenance::Window {
                    machine_ids: machines,
                    unavailability: v1::Unavailability {
                        start: v1::TimeInfo { nanoseconds: self.dice.roll(3) as i64 },
                        duration: None,
                    },
                };
                let windows = if self.dice.roll(4) == 0 { Vec::new() } else { vec![window] };
                let update = call::UpdateMaintenanceSchedule { schedule: v1::maintenance::Schedule { windows } };
                let kind = of(call::Type::UpdateMaintenanceSchedule);
                v1::master::Call { update_maintenance_schedule: Some(update), ..kind }
            }
            (5, _) => {
                let start = call::StartMaintenance { machines };
                v1::master::Call { start_maintenance: Some(start), ..of(call::Type::StartMaintenance) }
            }
            (6, _) => {
                let machines = self.state.maintenance.machines.values().map(|machine| machine.id.to_v1()).take(1);
                let stop = call::StopMaintenance { machines: machines.collect() };
                v1::master::Call { stop_maintenance: Some(stop), ..of(call::Type::StopMaintenance) }
            }
            _ => return self.answer_inverse_offers(),
        };
        self.run(&Command::OperatorCall { call: Box::new(call) });
    }

    fn answer_inverse_offers(&mut self) {
        let asked = self.state.maintenance.inverse_offers.values().map(|offer| offer.framework);
        let known = asked.chain(self.frameworks()).collect::<Vec<_>>();
        let Some(key) = self.dice.pick(&known) else { return };
        let mut asked: Vec<OfferKey> = self.state.maintenance.waiting_for(key).map(|(key, _)| key).collect();
        asked.push(OfferKey(self.dice.roll(1 + self.state.offers.next)));
        let inverse_offer_ids = self.offer_ids(&asked);
        let filters = Some(v1::Filters { refuse_seconds: Some(self.dice.roll(30) as f64) });
        let framework = self.state.frameworks.get(key).unwrap();
        let stream_id = framework.stream.as_ref().map(|stream| stream.connection.id.to_string());
        let framework_id = Some(v1::FrameworkId { value: framework.id.to_string() });
        let call = Call { framework_id, r#type: Some(Type::AcceptInverseOffers as i32), ..Default::default() };
        let accept = Some(call::AcceptInverseOffers { inverse_offer_ids, filters });
        let call = Call { accept_inverse_offers: accept, ..call };
        self.run(&Command::FrameworkCall { stream_id, call: Box::new(call) });
    }

    fn step(&mut self) {
        self.at_ms += self.dice.roll(4_000);
        self.agree();
        if self.dice.roll(8) == 0 {
            self.operate();
        }
        if self.dice.roll(20) == 0 {
            self.convert();
        }
        if self.dice.roll(35) == 0 {
            self.provide();
        }
        if self.dice.roll(30) == 0 {
            self.configure();
        }
        let rarely = if self.state.brakes.pulled.is_empty() { 150 } else { 4 };
        if self.has_wishes && self.dice.roll(rarely) == 0 {
            self.brake();
        }
        match self.dice.roll(100) {
            0..=5 => self.subscribe(),
            6..=10 => self.register(),
            11..=17 => self.resume(),
            18..=37 => self.agent_messages(),
            38..=69 => self.framework_call(),
            70..=84 => {
                let plan = allocator::plan(&self.state, self.at_ms, &Options::default());
                // What was planned from may never have been committed.
                if let Some(other) = self.seen.as_ref().filter(|_| self.at_ms.is_multiple_of(3)) {
                    self.ledger.follow(other);
                }
                if self.at_ms.is_multiple_of(10) {
                    self.seen = Some(self.state.clone());
                }
                self.ledger.follow(&self.state);
                assert_eq!(self.ledger.plan(self.at_ms), plan, "a ledger that follows proposes what a new one does");
                // Now and then it comes late.
                if self.dice.roll(4) == 0 {
                    self.framework_call();
                }
                self.run(&Command::MakeOffers { plan });
            }
            85..=88 => {
                let agents = self.agents();
                let Some(agent) = self.dice.pick(&agents).and_then(|key| self.state.agents.get(key)) else { return };
                let Some(connection) = agent.connection() else { return };
                let agent_id = view::agent_id(&self.state, agent.key);
                self.run(&Command::AgentDisconnected { agent_id, connection });
            }
            89..=91 => {
                let known = self.frameworks();
                let framework = self.dice.pick(&known).and_then(|key| self.state.frameworks.get(key));
                let Some(framework) = framework else { return };
                let Some(stream) = &framework.stream else { return };
                let (framework_id, connection) = (framework.id.to_string(), stream.connection);
                let by_master = self.dice.roll(2) == 0;
                self.run(&Command::FrameworkDisconnected { framework_id, connection, by_master });
            }
            92..=94 => {
                // Long after.
                self.at_ms += self.dice.roll(700_000);
                for due in deadlines::due(&self.state, self.at_ms, &self.options, |_| Turn::Together) {
                    self.run(&Command::PassDeadline { due });
                }
                self.run(&Command::Forget);
            }
            95 => {
                let node = self.dice.roll(3) as usize;
                let master = self.incarnation(node);
                // Again, as long as it holds something; or its next life ends the rest.
                for _ in 0..self.dice.roll(20) {
                    self.run(&Command::LoseMaster { master });
                }
                self.lives[node] += 1;
                for _ in 0..20 {
                    self.start_master(node);
                }
            }
            96 => {
                let agents = self.agents();
                let Some(agent) = self.dice.pick(&agents) else { return };
                let agent_id = v1::AgentId { value: view::agent_id(&self.state, agent) };
                let call = v1::master::Call {
                    r#type: Some(v1::master::call::Type::MarkAgentGone as i32),
                    mark_agent_gone: Some(v1::master::call::MarkAgentGone { agent_id }),
                    ..Default::default()
                };
                self.run(&Command::OperatorCall { call: Box::new(call) });
            }
            97 => {
                let agents = self.agents();
                let Some(agent) = self.dice.pick(&agents) else { return };
                let agent_id = v1::AgentId { value: view::agent_id(&self.state, agent) };
                let is_off = self.state.agents.get(agent).is_some_and(|agent| agent.deactivated);
                let cancel_drain = Some(self.dice.roll(2) == 0);
                let call = if is_off {
                    v1::master::Call {
                        r#type: Some(v1::master::call::Type::ReactivateAgent as i32),
                        reactivate_agent: Some(v1::master::call::ReactivateAgent { agent_id, cancel_drain }),
                        ..Default::default()
                    }
                } else {
                    v1::master::Call {
                        r#type: Some(v1::master::call::Type::DeactivateAgent as i32),
                        deactivate_agent: Some(v1::master::call::DeactivateAgent { agent_id }),
                        ..Default::default()
                    }
                };
                self.run(&Command::OperatorCall { call: Box::new(call) });
            }
            _ => {
                let known = self.frameworks();
                let Some(framework) = self.dice.pick(&known) else { return };
                if self.dice.roll(3) == 0 {
                    self.run(&Command::RemoveFramework { framework });
                }
            }
        }
    }
}

fn round_trip(state: &State) {
    let mut bytes = Vec::new();
    state.write_snapshot(&mut bytes).unwrap();
    State::check_snapshot(&mut bytes.as_slice()).unwrap();
    let read = State::read_snapshot(&mut bytes.as_slice()).unwrap();
    assert_eq!(read, *state);
    assert_eq!(read.digest(), state.digest());
    assert!(State::read_snapshot(&mut &bytes[..bytes.len() - 1]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_commands_keep_every_invariant(seed: u64) {
        let mut world = World::new(seed);
        for step in 0..250 {
            world.step();
            if step % 50 == 0 {
                round_trip(&world.state);
            }
        }
        round_trip(&world.state);
        prop_assert_eq!(world.state.digest(), world.replayed.digest());
    }
}

#[test]
fn the_random_world_gets_around() {
    // Otherwise the property above would prove little.
    let mut world = World::new(4);
    // What is paused or left out on purpose gets around less.
    world.has_wishes = false;
    let (mut tasks, mut completed, mut offers) = (0, 0, 0);
    let (mut drained, mut asked, mut answered, mut down) = (0, 0, 0, 0);
    let (mut volumes, mut waiting) = (0, 0);
    for _ in 0..7_000 {
        world.step();
        volumes = volumes.max(world.volumes().len());
        waiting = waiting.max(world.state.operations.live.values().filter(|it| it.update.is_some()).count());
        drained = drained.max(world.state.drains.by_agent.values().filter(|drain| drain.is_drained()).count());
        let maintenance = &world.state.maintenance;
        asked = asked.max(maintenance.inverse_offers.len());
        answered = answered.max(maintenance.answers.len());
        down = down.max(maintenance.machines.values().filter(|machine| machine.mode == Mode::Down).count());
        tasks = tasks.max(world.state.tasks.live.len());
        completed = world.state.tasks.next_completed;
        offers = world.state.offers.next;
    }
    assert!(world.at_limit > 10, "{} roles came to their limits", world.at_limit);
    assert!(tasks > 3 && completed > 15 && offers > 100, "{tasks} {completed} {offers}");
    let operations = world.state.operations.next;
    let is_converted = operations > 60 && volumes > 2 && waiting > 0;
    assert!(is_converted, "{operations} operations, {volumes} volumes, {waiting} waiting");
    assert!(world.disks > 3, "{} disks", world.disks);
    let is_operated = drained > 0 && asked > 0 && answered > 0 && down > 0;
    assert!(is_operated, "{drained} drained, {asked} asked, {answered} answered, {down} down");
}
