//! The history of a busy cluster, decided and folded in memory as masters do it: frameworks that launch short tasks on
//! many agents. What comes out is the log that a master would have written.

use api::internal::{self, FromAgent, from_agent};
use api::v1;
use bytes::Bytes;
use event_log::{Cause, Header, RawEvent, Record};
use master_core::allocator;
use master_core::ids::{Connection, ConnectionId, Incarnation, IncarnationId, NodeId};
use master_core::{Caller, Command, Event, Reply, State, decide, fold, view};

use crate::Fallible;

/// About as many events a record as a busy master puts into one.
const EVENTS_A_RECORD: usize = 64;
/// Milliseconds since the epoch.
const START_MS: u64 = 1_700_000_000_000;
const PEER: &str = "127.0.0.1:40000";

/// A record and what it says.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) record: Record,
    pub(crate) events: Vec<Event>,
}

/// A State, and everything that led to it.
#[derive(Debug)]
pub(crate) struct History {
    pub(crate) state: State,
    /// Closed records; the first has n = 0 under `TERM`.
    pub(crate) entries: Vec<Entry>,
    open: Entry,
    at_ms: u64,
    me: Incarnation,
    names: u64,
}

/// A party that speaks to the masters.
#[derive(Clone, Debug)]
struct Party {
    id: String,
    connection: Connection,
}

impl History {
    /// One master that leads in `term`.
    pub(crate) fn begin(term: u64) -> Fallible<Self> {
        let me = Incarnation { node: NodeId(1), id: IncarnationId(7) };
        let header = Header { term, n: 0, at_ms: START_MS, feature_level: 0 };
        let open = Entry { record: Record { header, ..Record::default() }, events: Vec::new() };
        let mut history = Self { state: State::default(), entries: Vec::new(), open, at_ms: START_MS, me, names: 0 };
        let cluster_id = "07a2fb05-3b04-45de-a827-16cef013aec7".to_owned();
        history
            .run("BECOME_LEADER", Command::BecomeLeader { leader: me, term, cluster_id, version: "0.1.0".into() })?;
        history.close();
        let address = "127.0.0.1:5050".into();
        let (version, reads) = ("0.1.0".into(), master_core::FeatureLevel::NEWEST);
        history.run("START_MASTER", Command::StartMaster { master: me, address, version, reads })?;
        Ok(history)
    }

    /// Decides, folds, and writes the events into the open record.
    fn run(&mut self, call: &str, command: Command) -> Fallible<(Reply, usize)> {
        let caller = Caller { principal: None, peer: Some(PEER.into()) };
        let decision = decide(&self.state, &command, &caller, self.at_ms);
        let decision = decision.map_err(|refusal| format!("{call} is refused: {refusal}"))?;
        for event in &decision.events {
            fold(&mut self.state, event, self.at_ms);
        }
        let record = &mut self.open.record;
        let cause = u32::try_from(record.causes.len())?;
        let count = decision.events.len();
        if count > 0 {
            let request_id = u128::from(self.next_name()).to_be_bytes();
            let cause = Cause { call: call.into(), principal: None, peer: Some(PEER.into()), request_id };
            self.open.record.causes.push(cause);
        }
        for event in decision.events {
            let (number, version, payload) = event.encode();
            self.open.record.events.push(RawEvent { number, version, cause, payload });
            self.open.events.push(event);
        }
        if self.open.events.len() >= EVENTS_A_RECORD {
            self.close();
        }
        Ok((decision.reply, count))
    }

    /// Ends the open record; the next is ten milliseconds later.
    pub(crate) fn close(&mut self) {
        if self.open.events.is_empty() {
            return;
        }
        self.at_ms += 10;
        let before = self.open.record.header;
        let header = Header { n: before.n + 1, at_ms: self.at_ms, ..before };
        let next = Entry { record: Record { header, ..Record::default() }, events: Vec::new() };
        self.entries.push(std::mem::replace(&mut self.open, next));
    }

    fn next_name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }

    fn connection(&mut self) -> Connection {
        Connection { at: self.me, id: ConnectionId(self.next_name().into()) }
    }

    fn agent(&mut self) -> Fallible<Party> {
        let connection = self.connection();
        let number = self.names;
        let register = internal::Register {
            proof: None,
            checkpointed_resources: Vec::new(),
            token: Bytes::copy_from_slice(&u128::from(number).to_be_bytes()),
            agent_info: v1::AgentInfo {
                hostname: format!("agent-{number}"),
                port: Some(5051),
                resources: resources(8.0, 16_384.0),
                ..Default::default()
            },
            version: "0.1.0".into(),
            capabilities: vec!["MULTI_ROLE".into(), "HIERARCHICAL_ROLE".into()],
            address: format!("10.0.0.1:{number}"),
        };
        match self.run("REGISTER", Command::RegisterAgent { connection, register })?.0 {
            Reply::Agent { agent } => Ok(Party { id: view::agent_id(&self.state, agent), connection }),
            other => Err(format!("an agent registers and hears {other:?}").into()),
        }
    }

    fn framework(&mut self) -> Fallible<Party> {
        let connection = self.connection();
        let framework_info = v1::FrameworkInfo {
            user: "root".into(),
            name: "bench".into(),
            failover_timeout: Some(3600.0),
            ..Default::default()
        };
        let subscribe = v1::scheduler::call::Subscribe { framework_info, ..Default::default() };
        match self.run("SUBSCRIBE", Command::Subscribe { connection, subscribe, framework_id: None })?.0 {
            Reply::Framework { framework } => Ok(Party { id: view::framework_id(&self.state, framework), connection }),
            other => Err(format!("a framework subscribes and hears {other:?}").into()),
        }
    }

    fn call(&mut self, framework: &Party, mut call: v1::scheduler::Call) -> Fallible<usize> {
        call.framework_id = Some(v1::FrameworkId { value: framework.id.clone() });
        let name = call.r#type().as_str_name();
        let stream_id = Some(framework.connection.id.to_string());
        Ok(self.run(name, Command::FrameworkCall { stream_id, call: Box::new(call) })?.1)
    }

    fn message(&mut self, agent: &Party, seq: u64, message: from_agent::Message) -> Fallible<()> {
        let messages = vec![FromAgent { seq: Some(seq), message: Some(message) }];
        let (agent_id, connection) = (agent.id.clone(), agent.connection);
        self.run("AGENT_MESSAGES", Command::AgentMessages { agent_id, connection, messages })?;
        Ok(())
    }

    /// One run of the allocator: ids of the offers made and of their agents.
    fn offer(&mut self) -> Fallible<Vec<(String, String)>> {
        self.close();
        let plan = allocator::plan(&self.state, self.at_ms, &allocator::Options::default());
        self.run("MAKE_OFFERS", Command::MakeOffers { plan })?;
        let live = self.state.offers.live.values();
        Ok(live
            .map(|offer| (view::offer_id(&self.state, offer.key), view::agent_id(&self.state, offer.agent)))
            .collect())
    }
}

/// A framework and its agents.
#[derive(Debug)]
pub(crate) struct Business {
    pub(crate) history: History,
    framework: Party,
    agents: Vec<Party>,
    /// Last order acknowledged and last message numbered, by agent.
    numbers: Vec<(u64, u64)>,
}

impl Business {
    pub(crate) fn begin(term: u64, agents: usize) -> Fallible<Self> {
        let mut history = History::begin(term)?;
        let agents = (0..agents).map(|_| history.agent()).collect::<Fallible<Vec<_>>>()?;
        let framework = history.framework()?;
        let numbers = vec![(0, 0); agents.len()];
        history.close();
        Ok(Self { history, framework, agents, numbers })
    }

    /// Every agent is offered, and on each one task lives its whole life: offer, accept with launch, order
    /// acknowledged, three updates, three acknowledgements. Returns how many.
    pub(crate) fn lives(&mut self) -> Fallible<usize> {
        use v1::TaskState::{TaskFinished, TaskRunning, TaskStarting};
        self.tasks(&[TaskStarting, TaskRunning, TaskFinished])
    }

    /// As [`Business::lives`], but the tasks go on running.
    pub(crate) fn launches(&mut self) -> Fallible<usize> {
        self.tasks(&[v1::TaskState::TaskStarting, v1::TaskState::TaskRunning])
    }

    fn tasks(&mut self, states: &[v1::TaskState]) -> Fallible<usize> {
        let offers = self.history.offer()?;
        if offers.is_empty() {
            return Err("the allocator offers nothing".into());
        }
        for (offer_id, agent_id) in &offers {
            let number = self.agents.iter().position(|agent| agent.id == *agent_id).ok_or("an unknown agent")?;
            self.life(number, offer_id, states)?;
        }
        Ok(offers.len())
    }

    fn life(&mut self, number: usize, offer_id: &str, states: &[v1::TaskState]) -> Fallible<()> {
        let (framework, agent) = (self.framework.clone(), self.agents[number].clone());
        let task_id = format!("task-{}", self.history.next_name());
        let accept = v1::scheduler::Call {
            r#type: Some(v1::scheduler::call::Type::Accept.into()),
            accept: Some(accept(offer_id, &task_id, &agent.id)),
            ..Default::default()
        };
        self.history.call(&framework, accept)?;
        self.numbers[number].0 += 1;
        let up_to = self.numbers[number].0;
        let acknowledged = from_agent::Message::OrdersAcknowledged(internal::OrdersAcknowledged { up_to });
        self.history.message(&agent, 0, acknowledged)?;
        for state in states.iter().copied() {
            self.numbers[number].1 += 1;
            let uuid = Bytes::copy_from_slice(&u128::from(self.history.next_name()).to_be_bytes());
            let update = internal::StatusUpdate {
                framework_id: v1::FrameworkId { value: framework.id.clone() },
                status: status(&task_id, &agent.id, state, uuid.clone()),
            };
            let seq = self.numbers[number].1;
            self.history.message(&agent, seq, from_agent::Message::StatusUpdate(update))?;
            let acknowledge = v1::scheduler::call::Acknowledge {
                agent_id: v1::AgentId { value: agent.id.clone() },
                task_id: v1::TaskId { value: task_id.clone() },
                uuid,
            };
            let call = v1::scheduler::Call {
                r#type: Some(v1::scheduler::call::Type::Acknowledge.into()),
                acknowledge: Some(acknowledge),
                ..Default::default()
            };
            self.history.call(&framework, call)?;
        }
        Ok(())
    }

    /// Every agent is offered and the framework declines: all with one call, or each with a call of its own. Returns
    /// how many offers that were.
    pub(crate) fn decline(&mut self, one_by_one: bool) -> Fallible<usize> {
        let offers = self.history.offer()?;
        let ids: Vec<v1::OfferId> = offers.iter().map(|(offer, _)| v1::OfferId { value: offer.clone() }).collect();
        for ids in ids.chunks(if one_by_one { 1 } else { ids.len().max(1) }) {
            let filters = Some(v1::Filters { refuse_seconds: Some(5.0) });
            let call = v1::scheduler::Call {
                r#type: Some(v1::scheduler::call::Type::Decline.into()),
                decline: Some(v1::scheduler::call::Decline { offer_ids: ids.to_vec(), filters }),
                ..Default::default()
            };
            let framework = self.framework.clone();
            self.history.call(&framework, call)?;
        }
        self.history.close();
        Ok(offers.len())
    }
}

fn resources(cpus: f64, mem: f64) -> Vec<v1::Resource> {
    [("cpus", cpus), ("mem", mem)]
        .map(|(name, value)| v1::Resource {
            name: name.into(),
            r#type: v1::value::Type::Scalar.into(),
            scalar: Some(v1::value::Scalar { value }),
            ..Default::default()
        })
        .into()
}

fn accept(offer_id: &str, task_id: &str, agent_id: &str) -> v1::scheduler::call::Accept {
    let task = v1::TaskInfo {
        name: task_id.into(),
        task_id: v1::TaskId { value: task_id.into() },
        agent_id: v1::AgentId { value: agent_id.into() },
        resources: resources(0.1, 32.0),
        command: Some(v1::CommandInfo { value: Some("true".into()), ..Default::default() }),
        ..Default::default()
    };
    let operation = v1::offer::Operation {
        r#type: Some(v1::offer::operation::Type::Launch.into()),
        launch: Some(v1::offer::operation::Launch { task_infos: vec![task] }),
        ..Default::default()
    };
    v1::scheduler::call::Accept {
        offer_ids: vec![v1::OfferId { value: offer_id.into() }],
        operations: vec![operation],
        filters: Some(v1::Filters { refuse_seconds: Some(0.0) }),
    }
}

/// What an agent says of a command task.
fn status(task_id: &str, agent_id: &str, state: v1::TaskState, uuid: Bytes) -> v1::TaskStatus {
    let address = v1::network_info::IpAddress {
        protocol: Some(v1::network_info::Protocol::IPv4.into()),
        ip_address: Some("127.0.0.1".into()),
    };
    let container_status = v1::ContainerStatus {
        container_id: Some(v1::ContainerId {
            value: "5b57a02a-1d4f-4d2b-9e51-0f4a1fd2d3ab".into(),
            ..Default::default()
        }),
        network_infos: vec![v1::NetworkInfo { ip_addresses: vec![address], ..Default::default() }],
        ..Default::default()
    };
    v1::TaskStatus {
        task_id: v1::TaskId { value: task_id.into() },
        state: state.into(),
        source: Some(v1::task_status::Source::Executor.into()),
        agent_id: Some(v1::AgentId { value: agent_id.into() }),
        executor_id: Some(v1::ExecutorId { value: task_id.into() }),
        timestamp: Some(1_700_000_000.25),
        uuid: Some(uuid),
        container_status: Some(container_status),
        ..Default::default()
    }
}
