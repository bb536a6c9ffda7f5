//! A cluster for stories: commands in, the names of events out. After each command the events are folded, from their
//! bytes, and the invariants are checked.

use crate::allocator::{self, Options, Plan};
use crate::command::{Caller, Command};
use crate::deadlines;
use crate::decide::{Reply, decide_with};
use crate::effect::Effect;
use crate::event::Event;
use crate::fold::fold;
use crate::ids::*;
use crate::invariants;
use crate::level::FeatureLevel;
use crate::lost;
use crate::react::react;
use crate::refusal::Refusal;
use crate::state::{Framework, State};
use crate::view;
use api::internal::{self, from_agent::Message};
use api::resources::{Format, Reservation, Resources};
use api::v1;
use api::v1::scheduler::call::Type;
use api::v1::scheduler::{Call, call};

pub(crate) struct Cluster {
    pub(crate) state: State,
    pub(crate) at_ms: u64,
    pub(crate) options: Options,
    pub(crate) chosen: lost::Options,
    /// Of the last command.
    pub(crate) events: Vec<Event>,
    pub(crate) effects: Vec<Effect>,
    pub(crate) reply: Reply,
    /// Every command that led to events, as it is stored.
    pub(crate) log: Vec<event_log::Record>,
    /// What agents say that they kept when they register.
    pub(crate) brought: Vec<v1::Resource>,
    /// What agents show that come or come back.
    pub(crate) proof: Option<internal::AgentProof>,
    /// As whom agents come back.
    pub(crate) comes_as: Caller,
    connections: u128,
}

/// What agents say that they can.
const AGENT_CAPABILITIES: [&str; 7] = [
    "MULTI_ROLE",
    "HIERARCHICAL_ROLE",
    "RESERVATION_REFINEMENT",
    "RESIZE_VOLUME",
    "AGENT_OPERATION_FEEDBACK",
    "AGENT_DRAINING",
    "RESOURCE_PROVIDER",
];

pub(crate) type Names = Vec<&'static str>;

pub(crate) fn master(node: u64, life: u128) -> Incarnation {
    Incarnation { node: NodeId(node), id: IncarnationId(life) }
}

/// A command task on agent C-S0.
pub(crate) fn task_info(id: &str, resources: &str) -> v1::TaskInfo {
    let resources = api::resources::parse(resources, "*").unwrap().resources;
    v1::TaskInfo {
        name: id.into(),
        task_id: v1::TaskId { value: id.into() },
        agent_id: v1::AgentId { value: "C-S0".into() },
        resources: resources.to_v1(Format::PreRefinement),
        command: Some(v1::CommandInfo { value: Some("true".into()), ..Default::default() }),
        ..Default::default()
    }
}

pub(crate) fn operation(tasks: Vec<v1::TaskInfo>) -> v1::offer::Operation {
    v1::offer::Operation {
        r#type: Some(v1::offer::operation::Type::Launch as i32),
        launch: Some(v1::offer::operation::Launch { task_infos: tasks }),
        ..Default::default()
    }
}

/// Resources in text form, reserved dynamically for each of these roles in turn.
pub(crate) fn reserved(text: &str, roles: &[&str]) -> Resources {
    let plain = api::resources::parse(text, "*").unwrap().resources;
    roles.iter().fold(plain, |resources, role| {
        let (role, labels) = ((*role).into(), Vec::new());
        resources.push_reservation(&Reservation { dynamic: true, role, principal: None, labels })
    })
}

/// A persistent volume of these disks.
pub(crate) fn volume(disk: &Resources, id: &str, shared: bool) -> Resources {
    let mut messages = disk.to_v1(Format::PostRefinement);
    for message in &mut messages {
        let persistence = v1::resource::disk_info::Persistence { id: id.into(), ..Default::default() };
        let volume =
            v1::Volume { container_path: "data".into(), mode: v1::volume::Mode::Rw as i32, ..Default::default() };
        let disk =
            v1::resource::DiskInfo { persistence: Some(persistence), volume: Some(volume), ..Default::default() };
        message.disk = Some(Box::new(disk));
        message.shared = shared.then(Default::default);
    }
    Resources::from_v1(&messages).unwrap()
}

/// A disk of a storage provider: its size in whole units, its kind, and what else its source says.
pub(crate) fn stored(
    provider: &str,
    size: i32,
    kind: v1::resource::disk_info::source::Type,
    change: impl FnOnce(&mut v1::resource::disk_info::Source),
) -> Resources {
    let mut message =
        api::resources::parse(&format!("disk:{size}"), "*").unwrap().resources.to_v1(Format::PostRefinement);
    let mut source = v1::resource::disk_info::Source { r#type: kind as i32, ..Default::default() };
    change(&mut source);
    message[0].disk = Some(Box::new(v1::resource::DiskInfo { source: Some(source), ..Default::default() }));
    message[0].provider_id = Some(v1::ResourceProviderId { value: provider.into() });
    Resources::from_v1(&message).unwrap()
}

/// A provider as an agent tells of it, with what it has if it says so.
pub(crate) fn provider(id: &str, version: u8, has: Option<&Resources>) -> internal::Provider {
    let state = has.map(|has| internal::ProviderState {
        total_resources: has.to_v1(Format::PostRefinement),
        resource_version: vec![version; 16].into(),
        operations: Vec::new(),
    });
    let id = Some(v1::ResourceProviderId { value: id.into() });
    let (r#type, name) = ("org.apache.mesos.rp.local.storage".into(), "test".into());
    let info = v1::ResourceProviderInfo { id, r#type, name, ..Default::default() };
    internal::Provider { info, is_subscribed: true, state }
}

/// CREATE_DISK of one disk, for mounting.
pub(crate) fn create_disk(source: &Resources, profile: Option<&str>, id: Option<&str>) -> v1::offer::Operation {
    let source = source.to_v1(Format::PostRefinement).remove(0);
    let target_type = v1::resource::disk_info::source::Type::Mount as i32;
    let target_profile = profile.map(str::to_owned);
    v1::offer::Operation {
        r#type: Some(v1::offer::operation::Type::CreateDisk as i32),
        id: id.map(|id| v1::OperationId { value: id.into() }),
        create_disk: Some(Box::new(v1::offer::operation::CreateDisk { source, target_type, target_profile })),
        ..Default::default()
    }
}

/// DESTROY_DISK of one disk.
pub(crate) fn destroy_disk(source: &Resources, id: Option<&str>) -> v1::offer::Operation {
    let source = source.to_v1(Format::PostRefinement).remove(0);
    v1::offer::Operation {
        r#type: Some(v1::offer::operation::Type::DestroyDisk as i32),
        id: id.map(|id| v1::OperationId { value: id.into() }),
        destroy_disk: Some(Box::new(v1::offer::operation::DestroyDisk { source })),
        ..Default::default()
    }
}

/// RESERVE, UNRESERVE, CREATE or DESTROY of these.
pub(crate) fn conversion(
    kind: v1::offer::operation::Type,
    resources: &Resources,
    id: Option<&str>,
) -> v1::offer::Operation {
    use v1::offer::operation::{Create, Destroy, Reserve, Type, Unreserve};
    let resources = resources.to_v1(Format::PostRefinement);
    let mut operation = v1::offer::Operation {
        r#type: Some(kind as i32),
        id: id.map(|id| v1::OperationId { value: id.into() }),
        ..Default::default()
    };
    match kind {
        Type::Reserve => operation.reserve = Some(Reserve { resources, source: Vec::new() }),
        Type::Unreserve => operation.unreserve = Some(Unreserve { resources }),
        Type::Create => operation.create = Some(Create { volumes: resources }),
        Type::Destroy => operation.destroy = Some(Destroy { volumes: resources }),
        other => panic!("{other:?} is not of a list"),
    }
    operation
}

/// A custom executor.
pub(crate) fn executor(id: &str) -> v1::ExecutorInfo {
    v1::ExecutorInfo {
        r#type: Some(v1::executor_info::Type::Custom as i32),
        executor_id: v1::ExecutorId { value: id.into() },
        command: Some(v1::CommandInfo { value: Some("run".into()), ..Default::default() }),
        resources: task_info("", "cpus:0.5;mem:1").resources,
        ..Default::default()
    }
}

/// A custom executor that has nothing beside its tasks; as legal as any other.
pub(crate) fn bare_executor(id: &str) -> v1::ExecutorInfo {
    v1::ExecutorInfo { resources: Vec::new(), ..executor(id) }
}

/// The same, said in another way.
pub(crate) fn zero_executor(id: &str) -> v1::ExecutorInfo {
    let mut resources = task_info("", "cpus:1").resources;
    resources.iter_mut().for_each(|resource| resource.scalar = Some(v1::value::Scalar { value: 0.0 }));
    v1::ExecutorInfo { resources, ..executor(id) }
}

/// A task on a custom executor.
pub(crate) fn task_on(executor: &v1::ExecutorInfo, id: &str, resources: &str) -> v1::TaskInfo {
    v1::TaskInfo { command: None, executor: Some(executor.clone()), ..task_info(id, resources) }
}

/// Two tasks on one executor.
pub(crate) fn group(executor: v1::ExecutorInfo) -> v1::offer::Operation {
    let tasks = vec![
        v1::TaskInfo { command: None, ..task_info("a", "cpus:1;mem:1") },
        v1::TaskInfo { command: None, ..task_info("b", "cpus:1;mem:1") },
    ];
    v1::offer::Operation {
        r#type: Some(v1::offer::operation::Type::LaunchGroup as i32),
        launch_group: Some(Box::new(v1::offer::operation::LaunchGroup {
            executor,
            task_group: v1::TaskGroupInfo { tasks },
        })),
        ..Default::default()
    }
}

impl Cluster {
    pub(crate) fn empty() -> Cluster {
        Cluster {
            state: State::default(),
            at_ms: 1_000_000,
            options: Options::default(),
            chosen: lost::Options::default(),
            events: Vec::new(),
            effects: Vec::new(),
            reply: Reply::Empty,
            log: Vec::new(),
            brought: Vec::new(),
            proof: None,
            comes_as: Caller::default(),
            connections: 0,
        }
    }

    /// Cluster `C` with one master.
    pub(crate) fn new() -> Cluster {
        let mut cluster = Cluster::empty();
        cluster.lead(1, 1, "C");
        cluster.start_master(master(1, 1));
        cluster
    }

    pub(crate) fn run(&mut self, command: Command, caller: &Caller) -> Result<Names, Refusal> {
        (self.events, self.effects) = (Vec::new(), Vec::new());
        let before = self.state.clone();
        let decision = decide_with(&self.state, &command, caller, self.at_ms, self.chosen.clone());
        assert_eq!(self.state, before, "a decision changes nothing");
        let decision = decision?;
        let mut stored = Vec::new();
        for event in &decision.events {
            let (number, version, payload) = event.encode_at(decision.level()).expect("a shape of the cluster's level");
            assert_eq!(Event::decode(number, version, &payload).as_ref(), Ok(event));
            assert!(event.to_string().starts_with(event.name()));
            fold(&mut self.state, event, self.at_ms);
            stored.push(event_log::RawEvent { number, version, cause: 0, payload });
        }
        self.store(stored, decision.level());
        assert_eq!(self.state, decision.state, "a decision knows what it leads to");
        self.effects = decision.events.iter().flat_map(|event| react(&self.state, event)).collect();
        self.effects.extend(decision.effects);
        let violations: Vec<String> = invariants::check(&self.state).iter().map(ToString::to_string).collect();
        assert_eq!(violations, [""; 0], "after {command:?}");
        let names = decision.events.iter().map(Event::name).collect();
        (self.events, self.reply) = (decision.events, decision.reply);
        Ok(names)
    }

    fn store(&mut self, events: Vec<event_log::RawEvent>, level: FeatureLevel) {
        let Some(term) = self.state.leader.as_ref().map(|leader| leader.term).filter(|_| !events.is_empty()) else {
            return;
        };
        let before = self.log.last().map(|record| record.header);
        let n = before.filter(|before| before.term == term).map_or(0, |before| before.n + 1);
        let header = event_log::Header { term, n, at_ms: self.at_ms, feature_level: level.0 };
        let causes = vec![event_log::Cause::default()];
        self.log.push(event_log::Record { header, causes, events });
    }

    fn done(&mut self, command: Command) -> Names {
        self.run(command, &Caller::default()).unwrap()
    }

    fn connection(&mut self) -> Connection {
        self.connections += 1;
        let at = self.state.masters.values().find(|master| master.alive).map(|master| master.incarnation);
        Connection { at: at.unwrap_or(master(1, 1)), id: ConnectionId(self.connections) }
    }

    pub(crate) fn lead(&mut self, node: u64, term: u64, cluster_id: &str) -> Names {
        let leader = master(node, 1);
        self.done(Command::BecomeLeader { leader, term, cluster_id: cluster_id.into(), version: "0.1.0".into() })
    }

    pub(crate) fn start_master(&mut self, master: Incarnation) -> Names {
        let (address, version) = ("127.0.0.1:5050".into(), "0.1.0".into());
        self.done(Command::StartMaster { master, address, version, reads: FeatureLevel::NEWEST })
    }

    pub(crate) fn lose_master(&mut self, node: u64) -> Names {
        self.done(Command::LoseMaster { master: master(node, 1) })
    }

    /// Everything that is due, item by item, as a leader does it.
    pub(crate) fn deadline_passed(&mut self) -> Names {
        let (mut names, mut events, mut effects) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let due = deadlines::due(&self.state, self.at_ms, &self.chosen, |_| deadlines::Turn::Together);
            if due.is_empty() {
                break;
            }
            for due in due {
                let done = self.done(Command::PassDeadline { due });
                assert!(!done.is_empty(), "something due that is decided is not due any more");
                names.extend(done);
                events.append(&mut self.events);
                effects.append(&mut self.effects);
            }
        }
        (self.events, self.effects) = (events, effects);
        names
    }

    pub(crate) fn forget(&mut self) -> Names {
        self.done(Command::Forget)
    }

    /// To the newest feature level.
    pub(crate) fn raise(&mut self) -> Names {
        let level = FeatureLevel::NEWEST;
        let masters = self.state.masters.keys().map(|node| (*node, level)).collect();
        self.done(Command::RaiseFeatureLevel { level, digest_every: 0, masters })
    }

    pub(crate) fn operator_as(&mut self, call: v1::master::Call, caller: &Caller) -> Result<Names, Refusal> {
        self.run(Command::OperatorCall { call: Box::new(call) }, caller)
    }

    pub(crate) fn operator(&mut self, call: v1::master::Call) -> Result<Names, Refusal> {
        self.run(Command::OperatorCall { call: Box::new(call) }, &Caller::default())
    }

    // Frameworks

    pub(crate) fn try_subscribe(
        &mut self,
        change: impl Fn(&mut v1::FrameworkInfo),
        suppressed: &[&str],
    ) -> Result<FrameworkKey, Refusal> {
        let mut info = framework_info();
        change(&mut info);
        let framework_id = info.id.as_ref().map(|id| id.value.clone());
        let suppressed_roles = suppressed.iter().map(ToString::to_string).collect();
        let subscribe = call::Subscribe { framework_info: info, suppressed_roles, offer_constraints: None };
        let connection = self.connection();
        self.run(Command::Subscribe { connection, subscribe, framework_id }, &Caller::default())?;
        match self.reply {
            Reply::Framework { framework } => Ok(framework),
            ref other => panic!("{other:?}"),
        }
    }

    pub(crate) fn subscribe_with(&mut self, change: impl Fn(&mut v1::FrameworkInfo)) -> FrameworkKey {
        self.try_subscribe(change, &[]).unwrap()
    }

    /// A framework of role `web`.
    pub(crate) fn subscribe(&mut self) -> FrameworkKey {
        self.subscribe_with(|_| {})
    }

    pub(crate) fn subscribe_as_partition_aware(&mut self) -> FrameworkKey {
        self.subscribe_with(|info| {
            info.capabilities.push(capability(v1::framework_info::capability::Type::PartitionAware))
        })
    }

    pub(crate) fn resubscribe(
        &mut self,
        framework: FrameworkKey,
        change: impl Fn(&mut v1::FrameworkInfo),
    ) -> Result<Names, Refusal> {
        let id = v1::FrameworkId { value: view::framework_id(&self.state, framework) };
        self.try_subscribe(
            |info| {
                info.id = Some(id.clone());
                change(info);
            },
            &[],
        )?;
        Ok(self.events.iter().map(Event::name).collect())
    }

    /// The framework's only role is `role`, whatever that is: as a log of an earlier release may have it.
    pub(crate) fn fold_role(&mut self, framework: FrameworkKey, role: &str) {
        let known = self.framework(framework);
        let terms = crate::event::FrameworkTerms {
            capabilities: known.capabilities,
            failover_timeout_ms: known.failover_timeout_ms,
            roles: vec![role.into()],
            suppressed: Vec::new(),
        };
        let event = crate::event::FrameworkUpdated { framework, info: known.info.clone(), terms };
        fold(&mut self.state, &event.into(), self.at_ms);
    }

    pub(crate) fn framework(&self, key: FrameworkKey) -> &Framework {
        self.state.frameworks.get(key).unwrap()
    }

    pub(crate) fn stream_id(&self, key: FrameworkKey) -> String {
        self.framework(key).stream.as_ref().unwrap().connection.id.to_string()
    }

    pub(crate) fn disconnect(&mut self, key: FrameworkKey) -> Names {
        let connection = self.framework(key).stream.as_ref().unwrap().connection;
        self.disconnect_stream(key, connection)
    }

    /// The master that holds the stream closes it.
    pub(crate) fn let_go(&mut self, key: FrameworkKey) -> Names {
        let connection = self.framework(key).stream.as_ref().unwrap().connection;
        let framework_id = view::framework_id(&self.state, key);
        self.done(Command::FrameworkDisconnected { framework_id, connection, by_master: true })
    }

    pub(crate) fn disconnect_stream(&mut self, key: FrameworkKey, connection: Connection) -> Names {
        let framework_id = view::framework_id(&self.state, key);
        self.done(Command::FrameworkDisconnected { framework_id, connection, by_master: false })
    }

    pub(crate) fn call_of(&self, framework: FrameworkKey, kind: Type) -> Call {
        let value = view::framework_id(&self.state, framework);
        Call { framework_id: Some(v1::FrameworkId { value }), r#type: Some(kind as i32), ..Default::default() }
    }

    pub(crate) fn try_call(&mut self, call: &Call, stream: Option<&str>, caller: &Caller) -> Result<Names, Refusal> {
        self.run(Command::FrameworkCall { stream_id: stream.map(str::to_owned), call: Box::new(call.clone()) }, caller)
    }

    pub(crate) fn call(&mut self, framework: FrameworkKey, call: Call) -> Names {
        let stream = self.stream_id(framework);
        self.try_call(&call, Some(&stream), &Caller::default()).unwrap()
    }

    pub(crate) fn accept(
        &mut self,
        framework: FrameworkKey,
        offers: &[OfferKey],
        operations: Vec<v1::offer::Operation>,
    ) -> Names {
        let accept = call::Accept { offer_ids: self.offer_ids(offers), operations, filters: None };
        self.call(framework, Call { accept: Some(accept), ..self.call_of(framework, Type::Accept) })
    }

    /// ACCEPT of all offers that the framework has, which may be offered again at once.
    pub(crate) fn accept_all(&mut self, framework: FrameworkKey, operations: Vec<v1::offer::Operation>) -> Names {
        let offers: Vec<OfferKey> = self.state.offers.to(framework).collect();
        let filters = Some(v1::Filters { refuse_seconds: Some(0.0) });
        let accept = call::Accept { offer_ids: self.offer_ids(&offers), operations, filters };
        self.call(framework, Call { accept: Some(accept), ..self.call_of(framework, Type::Accept) })
    }

    /// The agent tells of all its providers.
    pub(crate) fn tell_providers(&mut self, agent: AgentKey, providers: Vec<internal::Provider>) -> Names {
        let seq = Some(self.state.agents.get(agent).unwrap().messages_received + 1);
        let message = Message::Providers(internal::Providers { providers });
        self.agent_says(agent, vec![internal::FromAgent { seq, message: Some(message) }]).unwrap()
    }

    /// The agent says what became of the oldest operation that it has not ended.
    pub(crate) fn end_operation(&mut self, agent: AgentKey, state: v1::OperationState) -> Names {
        self.end_operation_with(agent, state, &Resources::default())
    }

    /// The same of one that a provider made these of what it was given.
    pub(crate) fn end_operation_with(
        &mut self,
        agent: AgentKey,
        state: v1::OperationState,
        converted: &Resources,
    ) -> Names {
        let operation = self.state.operations.on(agent).find(|operation| operation.is_pending()).unwrap().key;
        let operation = view::operation_uuid(&self.state, operation).to_vec();
        let seq = self.state.agents.get(agent).unwrap().messages_received + 1;
        let uuid = Some(v1::Uuid { value: u128::from(seq).to_be_bytes().to_vec().into() });
        let converted_resources = converted.to_v1(Format::PostRefinement);
        let status = v1::OperationStatus { state: state as i32, uuid, converted_resources, ..Default::default() };
        let message = Message::OperationStatus(internal::OperationStatus { operation: operation.into(), status });
        self.agent_says(agent, vec![internal::FromAgent { seq: Some(seq), message: Some(message) }]).unwrap()
    }

    /// The framework acknowledges the status of its oldest operation that it was told.
    pub(crate) fn acknowledge_operation(&mut self, framework: FrameworkKey) -> Names {
        let operation =
            self.state.operations.of(framework).find(|operation| operation.update.is_some()).unwrap().clone();
        let acknowledge = call::AcknowledgeOperationStatus {
            agent_id: Some(v1::AgentId { value: view::agent_id(&self.state, operation.agent) }),
            resource_provider_id: None,
            uuid: operation.update.as_ref().unwrap().uuid.clone(),
            operation_id: v1::OperationId { value: operation.id.as_ref().unwrap().to_string() },
        };
        let call = self.call_of(framework, Type::AcknowledgeOperationStatus);
        self.call(framework, Call { acknowledge_operation_status: Some(acknowledge), ..call })
    }

    pub(crate) fn decline(&mut self, framework: FrameworkKey, offers: &[OfferKey], seconds: Option<f64>) -> Names {
        let filters = seconds.map(|seconds| v1::Filters { refuse_seconds: Some(seconds) });
        let decline = call::Decline { offer_ids: self.offer_ids(offers), filters };
        self.call(framework, Call { decline: Some(decline), ..self.call_of(framework, Type::Decline) })
    }

    fn offer_ids(&self, offers: &[OfferKey]) -> Vec<v1::OfferId> {
        offers.iter().map(|key| v1::OfferId { value: view::offer_id(&self.state, *key) }).collect()
    }

    pub(crate) fn suppress(&mut self, framework: FrameworkKey, roles: &[&str]) -> Names {
        let suppress = call::Suppress { roles: roles.iter().map(ToString::to_string).collect() };
        self.call(framework, Call { suppress: Some(suppress), ..self.call_of(framework, Type::Suppress) })
    }

    pub(crate) fn revive(&mut self, framework: FrameworkKey, roles: &[&str]) -> Names {
        let revive = call::Revive { roles: roles.iter().map(ToString::to_string).collect() };
        self.call(framework, Call { revive: Some(revive), ..self.call_of(framework, Type::Revive) })
    }

    pub(crate) fn kill(&mut self, framework: FrameworkKey, task: &str) -> Names {
        let kill = call::Kill { task_id: v1::TaskId { value: task.into() }, ..Default::default() };
        self.call(framework, Call { kill: Some(kill), ..self.call_of(framework, Type::Kill) })
    }

    pub(crate) fn reconcile(&mut self, framework: FrameworkKey, tasks: &[(&str, Option<&str>)]) -> Names {
        let tasks = tasks.iter().map(|(task, agent)| call::reconcile::Task {
            task_id: v1::TaskId { value: task.to_string() },
            agent_id: agent.map(|value| v1::AgentId { value: value.into() }),
        });
        let reconcile = call::Reconcile { tasks: tasks.collect() };
        self.call(framework, Call { reconcile: Some(reconcile), ..self.call_of(framework, Type::Reconcile) })
    }

    pub(crate) fn teardown(&mut self, framework: FrameworkKey) -> Names {
        self.call(framework, self.call_of(framework, Type::Teardown))
    }

    pub(crate) fn update_framework(
        &mut self,
        framework: FrameworkKey,
        change: impl Fn(&mut v1::FrameworkInfo),
    ) -> Result<Names, Refusal> {
        self.update_framework_with(framework, change, None)
    }

    pub(crate) fn constrain(
        &mut self,
        framework: FrameworkKey,
        offer_constraints: Option<v1::scheduler::OfferConstraints>,
    ) -> Result<Names, Refusal> {
        self.update_framework_with(framework, |_| {}, offer_constraints)
    }

    fn update_framework_with(
        &mut self,
        framework: FrameworkKey,
        change: impl Fn(&mut v1::FrameworkInfo),
        offer_constraints: Option<v1::scheduler::OfferConstraints>,
    ) -> Result<Names, Refusal> {
        let call = self.call_of(framework, Type::UpdateFramework);
        let mut info = v1::FrameworkInfo { id: call.framework_id.clone(), ..framework_info() };
        change(&mut info);
        let update = call::UpdateFramework { framework_info: info, offer_constraints, ..Default::default() };
        let stream = self.stream_id(framework);
        self.try_call(&Call { update_framework: Some(update), ..call }, Some(&stream), &Caller::default())
    }

    // Agents

    pub(crate) fn agent(&mut self, resources: &str) -> AgentKey {
        let number = self.state.agents.next;
        self.register(u128::from(number) + 1, &format!("10.0.{}.{}:5051", number / 250, number % 250), resources)
    }

    pub(crate) fn agent_at(&mut self, address: &str, resources: &str) -> AgentKey {
        self.register(u128::from(self.state.agents.next) + 1, address, resources)
    }

    pub(crate) fn agent_with_token(&mut self, token: u128, resources: &str) -> AgentKey {
        self.register(token, &format!("10.1.0.{token}:5051"), resources)
    }

    pub(crate) fn try_agent_with_token(&mut self, token: u128, resources: &str) -> Result<AgentKey, Refusal> {
        self.try_register(token, &format!("10.1.0.{token}:5051"), resources)
    }

    pub(crate) fn try_agent_at(&mut self, address: &str) -> Result<AgentKey, Refusal> {
        self.try_register(u128::from(self.state.agents.next) + 1, address, "cpus:1;mem:100")
    }

    fn register(&mut self, token: u128, address: &str, resources: &str) -> AgentKey {
        self.try_register(token, address, resources).unwrap()
    }

    pub(crate) fn try_agent_as(&mut self, caller: &Caller, resources: &str) -> Result<AgentKey, Refusal> {
        let token = u128::from(self.state.agents.next) + 1;
        self.try_register_as(caller, token, &format!("10.1.0.{token}:5051"), resources)
    }

    fn try_register(&mut self, token: u128, address: &str, resources: &str) -> Result<AgentKey, Refusal> {
        self.try_register_as(&Caller::default(), token, address, resources)
    }

    fn try_register_as(
        &mut self,
        caller: &Caller,
        token: u128,
        address: &str,
        resources: &str,
    ) -> Result<AgentKey, Refusal> {
        let register = internal::Register {
            checkpointed_resources: self.brought.clone(),
            token: token.to_be_bytes().to_vec().into(),
            agent_info: v1::AgentInfo {
                hostname: "host".into(),
                resources: api::resources::parse(resources, "*").unwrap().resources.to_v1(Format::PostRefinement),
                ..Default::default()
            },
            version: "0.1.0".into(),
            capabilities: AGENT_CAPABILITIES.map(str::to_owned).to_vec(),
            address: address.into(),
            proof: self.proof.clone(),
        };
        let connection = self.connection();
        self.run(Command::RegisterAgent { connection, register }, caller)?;
        match &self.reply {
            Reply::Agent { agent } => Ok(*agent),
            Reply::Refused(refusal) => Err(refusal.clone()),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn agent_disconnected(&mut self, agent: AgentKey) -> Names {
        let connection = self.state.agents.get(agent).unwrap().connection().unwrap();
        let agent_id = view::agent_id(&self.state, agent);
        self.done(Command::AgentDisconnected { agent_id, connection })
    }

    pub(crate) fn agent_unreachable(&mut self, agent: AgentKey) -> Names {
        self.agent_disconnected(agent);
        self.at_ms = self.state.next_deadline().unwrap();
        self.deadline_passed()
    }

    pub(crate) fn mark_gone(&mut self, agent: AgentKey) -> Names {
        let agent_id = v1::AgentId { value: view::agent_id(&self.state, agent) };
        self.operator(v1::master::Call {
            r#type: Some(v1::master::call::Type::MarkAgentGone as i32),
            mark_agent_gone: Some(v1::master::call::MarkAgentGone { agent_id }),
            ..Default::default()
        })
        .unwrap()
    }

    /// An operator's call about one agent.
    fn on_agent(&mut self, kind: v1::master::call::Type, agent: AgentKey) -> v1::master::Call {
        use v1::master::call;
        let agent_id = v1::AgentId { value: view::agent_id(&self.state, agent) };
        let mut call = v1::master::Call { r#type: Some(kind as i32), ..Default::default() };
        match kind {
            call::Type::DeactivateAgent => call.deactivate_agent = Some(call::DeactivateAgent { agent_id }),
            call::Type::ReactivateAgent => {
                call.reactivate_agent = Some(call::ReactivateAgent { agent_id, ..Default::default() })
            }
            _ => call.drain_agent = Some(call::DrainAgent { agent_id, ..Default::default() }),
        }
        call
    }

    pub(crate) fn deactivate(&mut self, agent: AgentKey) -> Result<Names, Refusal> {
        let call = self.on_agent(v1::master::call::Type::DeactivateAgent, agent);
        self.operator(call)
    }

    pub(crate) fn reactivate(&mut self, agent: AgentKey) -> Result<Names, Refusal> {
        let call = self.on_agent(v1::master::call::Type::ReactivateAgent, agent);
        self.operator(call)
    }

    pub(crate) fn cancel_drain(&mut self, agent: AgentKey) -> Result<Names, Refusal> {
        let mut call = self.on_agent(v1::master::call::Type::ReactivateAgent, agent);
        call.reactivate_agent.as_mut().unwrap().cancel_drain = Some(true);
        self.operator(call)
    }

    pub(crate) fn drain(&mut self, agent: AgentKey) -> Result<Names, Refusal> {
        self.drain_with(agent, |_| {})
    }

    pub(crate) fn drain_with(
        &mut self,
        agent: AgentKey,
        change: impl FnOnce(&mut v1::master::call::DrainAgent),
    ) -> Result<Names, Refusal> {
        let mut call = self.on_agent(v1::master::call::Type::DrainAgent, agent);
        change(call.drain_agent.as_mut().unwrap());
        self.operator(call)
    }

    pub(crate) fn machine_ids(machines: &[(&str, &str)]) -> Vec<v1::MachineId> {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        machines.iter().map(|(hostname, ip)| v1::MachineId { hostname: text(hostname), ip: text(ip) }).collect()
    }

    /// One window for these machines, if there are any.
    pub(crate) fn schedule(&mut self, machines: &[(&str, &str)], start_ns: i64) -> Result<Names, Refusal> {
        let unavailability = v1::Unavailability { start: v1::TimeInfo { nanoseconds: start_ns }, duration: None };
        let machine_ids = Self::machine_ids(machines);
        let window = v1::maintenance::Window { machine_ids, unavailability };
        let windows = if machines.is_empty() { Vec::new() } else { vec![window] };
        self.try_schedule(windows)
    }

    pub(crate) fn try_schedule(&mut self, windows: Vec<v1::maintenance::Window>) -> Result<Names, Refusal> {
        let schedule = v1::maintenance::Schedule { windows };
        let update = v1::master::call::UpdateMaintenanceSchedule { schedule };
        let kind = v1::master::call::Type::UpdateMaintenanceSchedule as i32;
        let update_maintenance_schedule = Some(update);
        self.operator(v1::master::Call { r#type: Some(kind), update_maintenance_schedule, ..Default::default() })
    }

    pub(crate) fn machines_down(&mut self, machines: &[(&str, &str)]) -> Result<Names, Refusal> {
        let start = v1::master::call::StartMaintenance { machines: Self::machine_ids(machines) };
        let kind = v1::master::call::Type::StartMaintenance as i32;
        self.operator(v1::master::Call { r#type: Some(kind), start_maintenance: Some(start), ..Default::default() })
    }

    pub(crate) fn machines_up(&mut self, machines: &[(&str, &str)]) -> Result<Names, Refusal> {
        let stop = v1::master::call::StopMaintenance { machines: Self::machine_ids(machines) };
        let kind = v1::master::call::Type::StopMaintenance as i32;
        self.operator(v1::master::Call { r#type: Some(kind), stop_maintenance: Some(stop), ..Default::default() })
    }

    pub(crate) fn answer_inverse(
        &mut self,
        framework: FrameworkKey,
        offers: &[OfferKey],
        accept: bool,
        refuse_seconds: Option<f64>,
    ) -> Names {
        let inverse_offer_ids = self.offer_ids(offers);
        let filters = refuse_seconds.map(|seconds| v1::Filters { refuse_seconds: Some(seconds) });
        let mut call = self.call_of(framework, Type::AcceptInverseOffers);
        if accept {
            call.accept_inverse_offers = Some(call::AcceptInverseOffers { inverse_offer_ids, filters });
        } else {
            call.set_type(Type::DeclineInverseOffers);
            call.decline_inverse_offers = Some(call::DeclineInverseOffers { inverse_offer_ids, filters });
        }
        self.call(framework, call)
    }

    /// The agent says what it can spare.
    pub(crate) fn oversubscribe(&mut self, agent: AgentKey, resources: &str) -> Names {
        let mut resources = api::resources::parse(resources, "*").unwrap().resources.to_v1(Format::PostRefinement);
        resources.iter_mut().for_each(|resource| resource.revocable = Some(v1::resource::RevocableInfo {}));
        let seq = Some(self.state.agents.get(agent).unwrap().messages_received + 1);
        let message = Message::Oversubscribed(internal::Oversubscribed { resources });
        self.agent_says(agent, vec![internal::FromAgent { seq, message: Some(message) }]).unwrap()
    }

    pub(crate) fn resume(&mut self, agent: AgentKey, tasks: &[&str]) -> Result<Names, Refusal> {
        let framework_id = self.state.frameworks.live.values().next().map(|framework| framework.id.to_string());
        let live = tasks.iter().map(|task| internal::LiveTask {
            framework_id: v1::FrameworkId { value: framework_id.clone().unwrap() },
            task_id: v1::TaskId { value: task.to_string() },
        });
        let live: Vec<_> = live.collect();
        self.resume_with(agent, |resume| resume.tasks = live.clone())
    }

    pub(crate) fn resume_with(
        &mut self,
        key: AgentKey,
        change: impl FnOnce(&mut internal::Resume),
    ) -> Result<Names, Refusal> {
        let agent_id = v1::AgentId { value: view::agent_id(&self.state, key) };
        let mut resume = internal::Resume {
            checkpointed_resources: Vec::new(),
            agent_id,
            cluster_id: self.state.cluster_id.to_string(),
            version: "0.1.0".into(),
            ..Default::default()
        };
        if let Some(agent) = self.state.agents.get(key) {
            resume.orders_up_to = agent.orders_acknowledged;
            resume.messages_up_to = agent.messages_received;
            resume.agent_info = prost::Message::decode(agent.info.clone()).unwrap();
            resume.capabilities = agent.capabilities.iter().map(ToString::to_string).collect();
            resume.address = agent.address.to_string();
        }
        change(&mut resume);
        resume.proof = resume.proof.or(self.proof.clone());
        let connection = self.connection();
        self.run(Command::ResumeAgent { connection, resume }, &self.comes_as.clone())
    }

    pub(crate) fn agent_says(&mut self, agent: AgentKey, messages: Vec<internal::FromAgent>) -> Result<Names, Refusal> {
        let connection = self.state.agents.get(agent).and_then(|agent| agent.connection());
        let connection = connection.unwrap_or_else(|| self.connection());
        let agent_id = view::agent_id(&self.state, agent);
        self.run(Command::AgentMessages { agent_id, connection, messages }, &Caller::default())
    }

    pub(crate) fn acknowledge_orders(&mut self, agent: AgentKey, up_to: u64) -> Names {
        let message = Message::OrdersAcknowledged(internal::OrdersAcknowledged { up_to });
        self.agent_says(agent, vec![internal::FromAgent { seq: None, message: Some(message) }]).unwrap()
    }

    /// The next message of the task's agent.
    pub(crate) fn status_update(&mut self, task: &TaskKey, state: v1::TaskState) -> internal::FromAgent {
        let known = self.state.tasks.get(task).unwrap();
        let seq = self.state.agents.get(known.agent).unwrap().messages_received + 1;
        let status = v1::TaskStatus {
            task_id: v1::TaskId { value: task.1.to_string() },
            state: state as i32,
            uuid: Some(u128::from(seq).to_be_bytes().to_vec().into()),
            ..Default::default()
        };
        let framework_id = v1::FrameworkId { value: view::framework_id(&self.state, task.0) };
        let message = Message::StatusUpdate(internal::StatusUpdate { framework_id, status });
        internal::FromAgent { seq: Some(seq), message: Some(message) }
    }

    pub(crate) fn update(&mut self, task: &TaskKey, state: v1::TaskState) -> Names {
        let agent = self.state.tasks.get(task).unwrap().agent;
        let message = self.status_update(task, state);
        self.agent_says(agent, vec![message]).unwrap()
    }

    /// The agent says that a custom executor ended.
    pub(crate) fn executor_exited(&mut self, agent: AgentKey, framework: FrameworkKey, executor_id: &str) -> Names {
        let seq = Some(self.state.agents.get(agent).unwrap().messages_received + 1);
        let exited = internal::ExecutorExited {
            framework_id: v1::FrameworkId { value: view::framework_id(&self.state, framework) },
            executor_id: v1::ExecutorId { value: executor_id.into() },
            status: Some(0),
        };
        self.agent_says(agent, vec![internal::FromAgent { seq, message: Some(Message::ExecutorExited(exited)) }])
            .unwrap()
    }

    /// The framework acknowledges what it was sent last; a made-up update, if there is none.
    pub(crate) fn acknowledge(&mut self, task: &TaskKey) -> Names {
        let head = self.state.tasks.get(task).and_then(|task| task.updates.front().cloned());
        let uuid = head.map_or_else(|| vec![0; 16].into(), |head| head.uuid.clone());
        let acknowledge =
            call::Acknowledge { uuid, task_id: v1::TaskId { value: task.1.to_string() }, ..Default::default() };
        self.call(task.0, Call { acknowledge: Some(acknowledge), ..self.call_of(task.0, Type::Acknowledge) })
    }

    // Offers and tasks

    /// A plan of the allocator, and the offers made of it.
    pub(crate) fn offer(&mut self) -> Vec<OfferKey> {
        let plan = allocator::plan(&self.state, self.at_ms, &self.options);
        self.make_offers(plan)
    }

    pub(crate) fn make_offers(&mut self, plan: Plan) -> Vec<OfferKey> {
        let first = self.state.offers.next;
        self.done(Command::MakeOffers { plan });
        (first..self.state.offers.next).map(OfferKey).collect()
    }

    /// A task on agent C-S0 from a fresh offer. What is left is offered again at once.
    pub(crate) fn launch(&mut self, framework: FrameworkKey, id: &str, resources: &str) -> TaskKey {
        self.offer();
        let offers: Vec<OfferKey> = self.state.offers.to(framework).collect();
        let filters = Some(v1::Filters { refuse_seconds: Some(0.0) });
        let operations = vec![operation(vec![task_info(id, resources)])];
        let accept = call::Accept { offer_ids: self.offer_ids(&offers), operations, filters };
        let names = self.call(framework, Call { accept: Some(accept), ..self.call_of(framework, Type::Accept) });
        assert_eq!(names, ["offers-accepted", "task-launched"], "{:?}", self.effects);
        (framework, id.into())
    }

    /// A task on an agent, on offers of it.
    pub(crate) fn launch_on(&mut self, framework: FrameworkKey, agent: AgentKey, offers: &[OfferKey], id: &str) {
        let agent_id = v1::AgentId { value: view::agent_id(&self.state, agent) };
        let task = v1::TaskInfo { agent_id, ..task_info(id, "cpus:1;mem:10") };
        let names = self.accept(framework, offers, vec![operation(vec![task])]);
        assert_eq!(names, ["offers-accepted", "task-launched"], "{:?}", self.effects);
    }

    // What was said

    pub(crate) fn statuses(&self) -> Vec<v1::TaskStatus> {
        let statuses = self.effects.iter().flat_map(|effect| match effect {
            Effect::SendStatus { status, .. } => vec![v1::TaskStatus::clone(status)],
            Effect::SendAnswers { framework, at_ms, tasks } => {
                crate::answers(&self.state, *framework, *at_ms, tasks.as_deref()).collect()
            }
            _ => Vec::new(),
        });
        statuses.collect()
    }

    pub(crate) fn operation_statuses(&self) -> Vec<v1::OperationStatus> {
        let statuses = self.effects.iter().filter_map(|effect| match effect {
            Effect::SendOperationStatus { status, .. } => Some(v1::OperationStatus::clone(status)),
            _ => None,
        });
        statuses.collect()
    }

    pub(crate) fn waiting(&self, task: &TaskKey) -> bool {
        let waiting = Effect::UpdateWaiting { framework: task.0, task_id: task.1.clone() };
        self.effects.contains(&waiting)
    }

    pub(crate) fn effects_text(&self) -> String {
        format!("{:?}", self.effects)
    }
}

fn framework_info() -> v1::FrameworkInfo {
    v1::FrameworkInfo {
        user: "root".into(),
        name: "test".into(),
        roles: vec!["web".into()],
        capabilities: vec![capability(v1::framework_info::capability::Type::MultiRole)],
        ..Default::default()
    }
}

fn capability(kind: v1::framework_info::capability::Type) -> v1::framework_info::Capability {
    v1::framework_info::Capability { r#type: Some(kind as i32) }
}
