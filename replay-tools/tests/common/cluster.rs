//! A small cluster that lives in the log of one master: agents, frameworks, offers and tasks, one command a record.

use super::master::Master;
use api::internal::{self, FromAgent, from_agent};
use api::v1;
use api::v1::scheduler::{Call, call};
use bytes::Bytes;
use event_log::raft::Options;
use master_core::ids::{
    AgentKey, Connection, ConnectionId, FrameworkKey, Incarnation, IncarnationId, NodeId, OfferKey,
};
use master_core::{Command, Reply, allocator, view};
use std::path::Path;

/// Everybody, and the log.
pub(crate) struct Cluster {
    pub(crate) log: Master,
    me: Incarnation,
    connections: u128,
    /// Of each agent: its connection, and how many messages it sent.
    agents: Vec<(Connection, u64)>,
    frameworks: Vec<Connection>,
}

impl Cluster {
    /// One master that leads.
    pub(crate) async fn new(dir: &Path) -> Cluster {
        Cluster::with(Options::new(dir, super::master::ADDRESS)).await
    }

    pub(crate) async fn with(options: Options) -> Cluster {
        let log = Master::with(options).await;
        let me = Incarnation { node: NodeId(1), id: IncarnationId(7) };
        let mut cluster = Cluster { log, me, connections: 0, agents: Vec::new(), frameworks: Vec::new() };
        cluster.lead().await;
        let (address, version) = ("127.0.0.1:5050".to_owned(), "0.1.0".to_owned());
        let reads = master_core::FeatureLevel::NEWEST;
        cluster.log.run("start-master", Command::StartMaster { master: me, address, version, reads }).await;
        cluster
    }

    async fn lead(&mut self) {
        let (cluster_id, version) = ("C".to_owned(), "0.1.0".to_owned());
        let (leader, term) = (self.me, self.log.term);
        self.log.run("become-leader", Command::BecomeLeader { leader, term, cluster_id, version }).await;
    }

    fn connection(&mut self) -> Connection {
        self.connections += 1;
        Connection { at: self.me, id: ConnectionId(self.connections) }
    }

    pub(crate) async fn agent(&mut self, resources: &str) -> AgentKey {
        let connection = self.connection();
        let number = self.agents.len();
        let register = internal::Register {
            proof: None,
            checkpointed_resources: Vec::new(),
            token: Bytes::copy_from_slice(&(number as u128 + 1).to_be_bytes()),
            agent_info: v1::AgentInfo {
                hostname: format!("host{number}"),
                port: Some(5051),
                resources: v1_resources(resources),
                ..Default::default()
            },
            version: "0.1.0".into(),
            capabilities: ["MULTI_ROLE", "HIERARCHICAL_ROLE", "AGENT_DRAINING"].map(str::to_owned).to_vec(),
            address: format!("10.0.0.{number}:5051"),
        };
        self.agents.push((connection, 0));
        match self.log.run("register-agent", Command::RegisterAgent { connection, register }).await {
            Reply::Agent { agent } => agent,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn framework(&mut self, name: &str, roles: &[&str]) -> FrameworkKey {
        let connection = self.connection();
        let framework_info = v1::FrameworkInfo {
            user: "root".into(),
            name: name.into(),
            roles: roles.iter().map(|role| (*role).into()).collect(),
            capabilities: vec![v1::framework_info::Capability {
                r#type: Some(v1::framework_info::capability::Type::MultiRole.into()),
            }],
            failover_timeout: Some(3600.0),
            ..Default::default()
        };
        let subscribe = call::Subscribe { framework_info, ..Default::default() };
        self.frameworks.push(connection);
        let command = Command::Subscribe { connection, subscribe, framework_id: None };
        match self.log.run("SUBSCRIBE", command).await {
            Reply::Framework { framework } => framework,
            other => panic!("{other:?}"),
        }
    }

    async fn call(&mut self, framework: FrameworkKey, mut call: Call) {
        call.framework_id = Some(v1::FrameworkId { value: view::framework_id(&self.log.state, framework) });
        let stream_id = Some(self.frameworks[framework.0 as usize].id.to_string());
        let name = call.r#type().as_str_name();
        self.log.run(name, Command::FrameworkCall { stream_id, call: Box::new(call) }).await;
    }

    /// One plan; the offers that it made.
    pub(crate) async fn offer(&mut self) -> Vec<OfferKey> {
        let before = self.log.state.offers.next;
        let plan = allocator::plan(&self.log.state, self.log.at_ms, &allocator::Options::default());
        self.log.run("make-offers", Command::MakeOffers { plan }).await;
        (before..self.log.state.offers.next).map(OfferKey).collect()
    }

    fn offer_ids(&self, offers: &[OfferKey]) -> Vec<v1::OfferId> {
        offers.iter().map(|key| v1::OfferId { value: view::offer_id(&self.log.state, *key) }).collect()
    }

    pub(crate) async fn decline(&mut self, framework: FrameworkKey, offers: &[OfferKey], seconds: f64) {
        let filters = Some(v1::Filters { refuse_seconds: Some(seconds) });
        let decline = Some(call::Decline { offer_ids: self.offer_ids(offers), filters });
        let call = Call { r#type: Some(call::Type::Decline.into()), decline, ..Default::default() };
        self.call(framework, call).await;
    }

    /// Launches one task; whether that is granted is for the log to say.
    pub(crate) async fn launch(&mut self, framework: FrameworkKey, offer: OfferKey, task: &str, resources: &str) {
        let offered = self.log.state.offers.get(offer).expect("an outstanding offer");
        let agent_id = view::agent_id(&self.log.state, offered.agent);
        let task = v1::TaskInfo {
            name: task.into(),
            task_id: v1::TaskId { value: task.into() },
            agent_id: v1::AgentId { value: agent_id },
            resources: v1_resources(resources),
            command: Some(v1::CommandInfo { value: Some("true".into()), ..Default::default() }),
            ..Default::default()
        };
        let operation = v1::offer::Operation {
            r#type: Some(v1::offer::operation::Type::Launch.into()),
            launch: Some(v1::offer::operation::Launch { task_infos: vec![task] }),
            ..Default::default()
        };
        let accept = call::Accept {
            offer_ids: self.offer_ids(&[offer]),
            operations: vec![operation],
            filters: Some(v1::Filters { refuse_seconds: Some(0.0) }),
        };
        let call = Call { r#type: Some(call::Type::Accept.into()), accept: Some(accept), ..Default::default() };
        self.call(framework, call).await;
    }

    pub(crate) async fn kill(&mut self, framework: FrameworkKey, task: &str) {
        let kill = Some(call::Kill { task_id: v1::TaskId { value: task.into() }, ..Default::default() });
        let call = Call { r#type: Some(call::Type::Kill.into()), kill, ..Default::default() };
        self.call(framework, call).await;
    }

    pub(crate) async fn suppress(&mut self, framework: FrameworkKey) {
        let suppress = Some(call::Suppress::default());
        self.call(framework, Call { r#type: Some(call::Type::Suppress.into()), suppress, ..Default::default() }).await;
    }

    /// The framework says of itself so many bytes.
    pub(crate) async fn update_framework(&mut self, framework: FrameworkKey, byte: u8, bytes: usize) {
        let known = &self.log.state.frameworks.get(framework).expect("it is live").info;
        let mut framework_info: v1::FrameworkInfo = prost::Message::decode(known.clone()).expect("a FrameworkInfo");
        framework_info.webui_url = Some(char::from(b'a' + byte % 26).to_string().repeat(bytes));
        let update_framework = Some(call::UpdateFramework { framework_info, ..Default::default() });
        let kind = call::Type::UpdateFramework;
        self.call(framework, Call { r#type: Some(kind.into()), update_framework, ..Default::default() }).await;
    }

    /// The agent has its orders, and says what became of a task.
    pub(crate) async fn update(&mut self, framework: FrameworkKey, agent: AgentKey, task: &str, state: v1::TaskState) {
        let agent_id = view::agent_id(&self.log.state, agent);
        let up_to = self.log.state.agents.get(agent).expect("it is registered").next_order - 1;
        let number = agent.0 as usize;
        self.agents[number].1 += 1;
        let (connection, seq) = self.agents[number];
        let status = v1::TaskStatus {
            task_id: v1::TaskId { value: task.into() },
            state: state.into(),
            message: Some("as it is".into()),
            agent_id: Some(v1::AgentId { value: agent_id.clone() }),
            uuid: Some(Bytes::copy_from_slice(&u128::from(self.log.at_ms).to_be_bytes())),
            ..Default::default()
        };
        let framework_id = v1::FrameworkId { value: view::framework_id(&self.log.state, framework) };
        let update = internal::StatusUpdate { framework_id, status };
        let acknowledged = from_agent::Message::OrdersAcknowledged(internal::OrdersAcknowledged { up_to });
        let messages = vec![
            FromAgent { seq: Some(0), message: Some(acknowledged) },
            FromAgent { seq: Some(seq), message: Some(from_agent::Message::StatusUpdate(update)) },
        ];
        self.log.run("agent-messages", Command::AgentMessages { agent_id, connection, messages }).await;
    }

    pub(crate) async fn acknowledge(&mut self, framework: FrameworkKey, agent: AgentKey, task: &str) {
        let waiting = view::status_of_update(&self.log.state, framework, &task.into()).expect("an update waits");
        let acknowledge = call::Acknowledge {
            agent_id: v1::AgentId { value: view::agent_id(&self.log.state, agent) },
            task_id: v1::TaskId { value: task.into() },
            uuid: waiting.uuid.expect("it has a number"),
        };
        let acknowledge = Some(acknowledge);
        let call = Call { r#type: Some(call::Type::Acknowledge.into()), acknowledge, ..Default::default() };
        self.call(framework, call).await;
    }

    /// What is written at the newest level.
    pub(crate) async fn raise(&mut self) {
        let level = master_core::FeatureLevel::NEWEST;
        let masters = vec![(NodeId(1), level)];
        self.log.run("raise", Command::RaiseFeatureLevel { level, digest_every: 0, masters }).await;
    }

    pub(crate) async fn operator(&mut self, call: v1::master::Call) {
        self.log.run(call.r#type().as_str_name(), Command::OperatorCall { call: Box::new(call) }).await;
    }

    pub(crate) async fn agent_leaves(&mut self, agent: AgentKey) {
        let agent_id = view::agent_id(&self.log.state, agent);
        let connection = self.agents[agent.0 as usize].0;
        self.log.run("agent-disconnected", Command::AgentDisconnected { agent_id, connection }).await;
    }

    pub(crate) async fn agent_returns(&mut self, agent: AgentKey, tasks: &[(FrameworkKey, &str)]) {
        let connection = self.connection();
        self.agents[agent.0 as usize].0 = connection;
        let state = &self.log.state;
        let known = state.agents.get(agent).expect("it is registered");
        let live = tasks.iter().map(|(framework, task)| internal::LiveTask {
            framework_id: v1::FrameworkId { value: view::framework_id(state, *framework) },
            task_id: v1::TaskId { value: (*task).into() },
        });
        let resume = internal::Resume {
            proof: None,
            checkpointed_resources: Vec::new(),
            agent_id: v1::AgentId { value: view::agent_id(state, agent) },
            cluster_id: state.cluster_id.to_string(),
            orders_up_to: known.orders_acknowledged,
            messages_up_to: known.messages_received,
            agent_info: prost::Message::decode(known.info.clone()).expect("an AgentInfo"),
            version: "0.1.0".into(),
            capabilities: known.capabilities.iter().map(ToString::to_string).collect(),
            address: known.address.to_string(),
            tasks: live.collect(),
        };
        self.log.run("resume-agent", Command::ResumeAgent { connection, resume }).await;
    }

    /// The index of the last record, known to be committed on the disk.
    pub(crate) fn last_index(&self, work_dir: &str) -> u64 {
        let index = self.log.digests.last().expect("a record").0;
        super::master::until_committed(work_dir, index);
        index
    }
}

fn v1_resources(text: &str) -> Vec<v1::Resource> {
    api::resources::parse(text, "*").expect("resources").resources.to_v1(api::resources::Format::PreRefinement)
}
