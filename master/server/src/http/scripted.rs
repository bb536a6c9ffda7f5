//! A small cluster's history, decided and folded as a master does it, for tests of what is shown of it.

use super::legacy::about::About;
use crate::identity::Identity;
use api::{internal, v1};
use bytes::Bytes;
use master_core::allocator;
use master_core::command::{Caller, Command};
use master_core::ids::{Connection, ConnectionId, Incarnation, IncarnationId, NodeId};
use master_core::{Effect, Event, Reply, State, decide, fold, react, view};

/// When it begins, in milliseconds since the epoch.
pub(crate) const START_MS: u64 = 1_795_216_398_418;

/// A State and the way to its next one.
pub(crate) struct Cluster {
    pub(crate) state: State,
    pub(crate) at_ms: u64,
    pub(crate) me: Incarnation,
    connections: u128,
    messages: u64,
    /// What was announced so far, in order, each with State after the command.
    pub(crate) effects: Vec<(State, Effect)>,
}

pub(crate) fn about() -> About {
    let flags = ["agent_ping_timeout", "log_dir", "port", "quiet"];
    About {
        identity: Identity::new(NodeId(1)).into(),
        hostname: "localhost".into(),
        address: "127.0.0.1:5050".into(),
        flags: flags.map(|name| (name.to_owned(), "x".to_owned())).into(),
        start_ms: START_MS,
        build: api_http::Build::of_this_program(),
    }
}

impl Cluster {
    /// One master that leads.
    pub(crate) fn new() -> Cluster {
        let me = Incarnation { node: NodeId(1), id: IncarnationId(7) };
        let mut cluster =
            Cluster { state: State::default(), at_ms: START_MS, me, connections: 0, messages: 0, effects: Vec::new() };
        cluster.run(Command::BecomeLeader {
            leader: me,
            term: 1,
            cluster_id: "07a2fb05-3b04-45de-a827-16cef013aec7".into(),
            version: "0.1.0".into(),
        });
        let address = "127.0.0.1:5050".to_owned();
        let reads = master_core::FeatureLevel::NEWEST;
        cluster.run(Command::StartMaster { master: me, address, version: "0.1.0".into(), reads });
        cluster
    }

    /// Decides and folds; a millisecond passes.
    pub(crate) fn run(&mut self, command: Command) -> Reply {
        self.at_ms += 1;
        let caller = Caller { principal: None, peer: Some("127.0.0.1:40000".into()) };
        let decision = decide(&self.state, &command, &caller, self.at_ms)
            .unwrap_or_else(|refusal| panic!("{command:?}: {refusal}"));
        let events: &[Event] = &decision.events;
        for event in events {
            fold(&mut self.state, event, self.at_ms);
        }
        for event in events {
            self.effects.extend(react(&self.state, event).into_iter().map(|effect| (self.state.clone(), effect)));
        }
        self.effects.extend(decision.effects.into_iter().map(|effect| (self.state.clone(), effect)));
        let violations = master_core::invariants::check(&self.state);
        assert!(violations.is_empty(), "{violations:?}");
        decision.reply
    }

    fn connection(&mut self) -> Connection {
        self.connections += 1;
        Connection { at: self.me, id: ConnectionId(self.connections) }
    }

    /// An agent like the recorded one, with a reservation for `ops` beside.
    pub(crate) fn agent(&mut self) -> (String, Connection) {
        let connection = self.connection();
        let scalar = |name: &str, value: f64| v1::Resource {
            name: name.into(),
            r#type: v1::value::Type::Scalar.into(),
            scalar: Some(v1::value::Scalar { value }),
            ..Default::default()
        };
        let reserved = v1::Resource {
            reservations: vec![v1::resource::ReservationInfo {
                r#type: Some(v1::resource::reservation_info::Type::Static.into()),
                role: Some("ops".into()),
                ..Default::default()
            }],
            ..scalar("mem", 100.0)
        };
        let ports = v1::Resource {
            name: "ports".into(),
            r#type: v1::value::Type::Ranges.into(),
            ranges: Some(v1::value::Ranges { range: vec![v1::value::Range { begin: 31000, end: 32000 }] }),
            ..Default::default()
        };
        let resources = vec![scalar("cpus", 2.0), scalar("mem", 22981.0), scalar("disk", 252835.0), ports, reserved];
        let register = internal::Register {
            proof: None,
            checkpointed_resources: Vec::new(),
            token: Bytes::from(connection.id.0.to_be_bytes().to_vec()),
            agent_info: v1::AgentInfo {
                hostname: "localhost".into(),
                port: Some(5051),
                resources,
                checkpoint: Some(true),
                ..Default::default()
            },
            version: "0.1.0".into(),
            capabilities: vec!["MULTI_ROLE".into(), "HIERARCHICAL_ROLE".into()],
            address: "127.0.0.1:5051".into(),
        };
        match self.run(Command::RegisterAgent { connection, register }) {
            Reply::Agent { agent } => (view::agent_id(&self.state, agent), connection),
            other => panic!("{other:?}"),
        }
    }

    /// A framework like the recorded one.
    pub(crate) fn framework(&mut self, name: &str, roles: &[&str]) -> (String, Connection) {
        let connection = self.connection();
        let capability = v1::framework_info::capability::Type::MultiRole;
        let framework_info = v1::FrameworkInfo {
            user: "root".into(),
            name: name.into(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            failover_timeout: Some(600.0),
            capabilities: vec![v1::framework_info::Capability { r#type: Some(capability.into()) }],
            labels: Some(v1::Labels { labels: vec![v1::Label { key: "k".into(), value: Some("v".into()) }] }),
            ..Default::default()
        };
        let subscribe = v1::scheduler::call::Subscribe { framework_info, ..Default::default() };
        match self.run(Command::Subscribe { connection, subscribe, framework_id: None }) {
            Reply::Framework { framework } => (view::framework_id(&self.state, framework), connection),
            other => panic!("{other:?}"),
        }
    }

    /// One run of the allocator.
    pub(crate) fn offer(&mut self) {
        let plan = allocator::plan(&self.state, self.at_ms, &allocator::Options::default());
        self.run(Command::MakeOffers { plan });
    }

    pub(crate) fn call(&mut self, stream: Connection, call: v1::scheduler::Call) {
        self.run(Command::FrameworkCall { stream_id: Some(stream.id.to_string()), call: Box::new(call) });
    }

    /// Accepts the oldest offer of the framework with these tasks.
    pub(crate) fn launch(&mut self, framework: &(String, Connection), agent_id: &str, tasks: &[&str]) {
        let framework_key = self.state.frameworks.by_id[framework.0.as_str()];
        let offer = self
            .state
            .offers
            .live
            .values()
            .find(|offer| offer.framework == framework_key)
            .expect("an offer to accept")
            .key;
        let task = |id: &&str| v1::TaskInfo {
            name: (*id).to_owned(),
            task_id: v1::TaskId { value: (*id).to_owned() },
            agent_id: v1::AgentId { value: agent_id.to_owned() },
            resources: [("cpus", 0.1), ("mem", 32.0)]
                .map(|(name, value)| v1::Resource {
                    name: name.into(),
                    r#type: v1::value::Type::Scalar.into(),
                    scalar: Some(v1::value::Scalar { value }),
                    ..Default::default()
                })
                .into(),
            command: Some(v1::CommandInfo { value: Some("sleep 3600".into()), ..Default::default() }),
            ..Default::default()
        };
        let mut operation = v1::offer::Operation::default();
        operation.set_type(v1::offer::operation::Type::Launch);
        operation.launch = Some(v1::offer::operation::Launch { task_infos: tasks.iter().map(task).collect() });
        let accept = v1::scheduler::call::Accept {
            offer_ids: vec![v1::OfferId { value: view::offer_id(&self.state, offer) }],
            operations: vec![operation],
            ..Default::default()
        };
        let mut call = v1::scheduler::Call {
            framework_id: Some(v1::FrameworkId { value: framework.0.clone() }),
            accept: Some(accept),
            ..Default::default()
        };
        call.set_type(v1::scheduler::call::Type::Accept);
        self.call(framework.1, call);
    }

    /// The agent tells a new state of a task, and the framework acknowledges it.
    pub(crate) fn update(
        &mut self,
        agent: &(String, Connection),
        framework: &(String, Connection),
        task_id: &str,
        state: v1::TaskState,
    ) {
        self.messages += 1;
        let uuid = Bytes::from(u128::from(self.messages).to_be_bytes().to_vec());
        let container_status = v1::ContainerStatus {
            container_id: Some(v1::ContainerId { value: "c1".into(), ..Default::default() }),
            network_infos: vec![v1::NetworkInfo {
                ip_addresses: vec![v1::network_info::IpAddress {
                    protocol: Some(v1::network_info::Protocol::IPv4.into()),
                    ip_address: Some("127.0.0.1".into()),
                }],
                ..Default::default()
            }],
            executor_pid: Some(1234),
            ..Default::default()
        };
        let status = v1::TaskStatus {
            task_id: v1::TaskId { value: task_id.into() },
            state: state.into(),
            message: Some("m".into()),
            source: Some(v1::task_status::Source::Executor.into()),
            agent_id: Some(v1::AgentId { value: agent.0.clone() }),
            executor_id: Some(v1::ExecutorId { value: task_id.into() }),
            timestamp: Some(self.at_ms as f64 / 1000.0),
            uuid: Some(uuid.clone()),
            container_status: Some(container_status),
            ..Default::default()
        };
        let framework_id = v1::FrameworkId { value: framework.0.clone() };
        let update = internal::StatusUpdate { framework_id: framework_id.clone(), status };
        let message = internal::FromAgent {
            seq: Some(self.messages),
            message: Some(internal::from_agent::Message::StatusUpdate(update)),
        };
        let (agent_id, connection) = agent.clone();
        self.run(Command::AgentMessages { agent_id, connection, messages: vec![message] });
        let acknowledge = v1::scheduler::call::Acknowledge {
            agent_id: v1::AgentId { value: agent.0.clone() },
            task_id: v1::TaskId { value: task_id.into() },
            uuid,
        };
        let mut call = v1::scheduler::Call {
            framework_id: Some(framework_id),
            acknowledge: Some(acknowledge),
            ..Default::default()
        };
        call.set_type(v1::scheduler::call::Type::Acknowledge);
        self.call(framework.1, call);
    }

    pub(crate) fn teardown(&mut self, framework: &(String, Connection)) {
        let mut call = v1::scheduler::Call {
            framework_id: Some(v1::FrameworkId { value: framework.0.clone() }),
            ..Default::default()
        };
        call.set_type(v1::scheduler::call::Type::Teardown);
        self.call(framework.1, call);
    }
}

/// What a cluster looks like after a while: an agent; a framework with a task that runs, one that ended and an offer;
/// one that was torn down with its task.
pub(crate) fn busy() -> Cluster {
    use v1::TaskState::{TaskFinished, TaskRunning, TaskStarting};
    let mut cluster = Cluster::new();
    let agent = cluster.agent();
    let gone = cluster.framework("gone-fw", &["raw"]);
    cluster.offer();
    cluster.launch(&gone, &agent.0, &["g1"]);
    cluster.update(&agent, &gone, "g1", TaskRunning);
    cluster.teardown(&gone);
    let framework = cluster.framework("capture-fw", &["web", "db"]);
    cluster.offer();
    cluster.launch(&framework, &agent.0, &["sleeper", "short"]);
    for (task, state) in [
        ("sleeper", TaskStarting),
        ("sleeper", TaskRunning),
        ("short", TaskStarting),
        ("short", TaskRunning),
        ("short", TaskFinished),
    ] {
        cluster.update(&agent, &framework, task, state);
    }
    cluster.at_ms += 60_000;
    cluster.offer();
    cluster
}
