//! State as the wire shows it: ids, and the messages of Mesos's v1 API.

use crate::ids::{AgentKey, FrameworkKey, NodeId, OfferKey, OperationKey, TaskId};
use crate::maintenance;
use crate::reconcile::time_info;
use crate::state::maintenance::{Answer, MachineId, Mode};
use crate::state::{Agent, Framework, Operation, Order, State, Task};
use api::resources::Format;
use api::v1;
use api::v1::maintenance::cluster_status;
use api::v1::master_info::capability::Type as Capability;
use bytes::Bytes;
use prost::Message;
use std::sync::Arc;

/// A framework's id; an empty text if there never was such a framework.
pub fn framework_id(state: &State, key: FrameworkKey) -> String {
    if let Some(framework) = state.frameworks.get(key) {
        return framework.id.to_string();
    }
    let mut completed = state.frameworks.completed.values().rev();
    let completed = completed.find(|completed| completed.framework.key == key);
    completed.map(|completed| completed.framework.id.to_string()).unwrap_or_default()
}

/// The framework with this id, live or completed.
pub fn parse_framework_id(state: &State, id: &str) -> Option<FrameworkKey> {
    state.frameworks.by_id.get(id).copied()
}

/// An agent's id.
pub fn agent_id(state: &State, key: AgentKey) -> String {
    format!("{}-S{}", state.cluster_id, key.0)
}

/// The reverse of [`agent_id`], whether or not there is such an agent.
pub fn parse_agent_id(state: &State, id: &str) -> Option<AgentKey> {
    parse(state, id, "-S").map(AgentKey)
}

/// An offer's id.
pub fn offer_id(state: &State, key: OfferKey) -> String {
    format!("{}-O{}", state.cluster_id, key.0)
}

/// The reverse of [`offer_id`], whether or not there is such an offer.
pub fn parse_offer_id(state: &State, id: &str) -> Option<OfferKey> {
    parse(state, id, "-O").map(OfferKey)
}

/// The 16 bytes by which agents know an operation: the cluster and the key.
pub fn operation_uuid(state: &State, key: OperationKey) -> [u8; 16] {
    // FNV-1a: another cluster's operations, of which an agent may have a trace, are others.
    let cluster = state
        .cluster_id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (u128::from(cluster) << 64 | u128::from(key.0)).to_be_bytes()
}

/// The reverse of [`operation_uuid`], whether or not there is such an operation.
pub fn parse_operation_uuid(state: &State, uuid: &[u8]) -> Option<OperationKey> {
    let number = u128::from_be_bytes(uuid.try_into().ok()?);
    let key = OperationKey(number as u64);
    (operation_uuid(state, key) == uuid).then_some(key)
}

fn parse(state: &State, id: &str, infix: &str) -> Option<u64> {
    let digits = id.strip_prefix(&*state.cluster_id)?.strip_prefix(infix)?;
    // One spelling only: neither `+1` nor `01` is an id that was ever given.
    let is_canonical = digits == "0" || (!digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit()));
    digits.parse().ok().filter(|_| is_canonical)
}

/// The number of a state by its name: `TASK_RUNNING`, ... An unknown number has no name.
pub fn task_state_name(state: i32) -> &'static str {
    v1::TaskState::try_from(state).map_or("", |state| state.as_str_name())
}

/// A master as its clients see it; None if it never started.
pub fn master_info(state: &State, node: NodeId) -> Option<v1::MasterInfo> {
    let master = state.masters.get(&node)?;
    let (host, port) = split_address(&master.address);
    let ip: Option<std::net::Ipv4Addr> = host.parse().ok();
    let port = u32::from(port);
    Some(v1::MasterInfo {
        // A master's id lives as long as the master's process.
        id: crate::ids::ConnectionId(master.incarnation.id.0).to_string(),
        // The octets in network order, read as this kind of machine does.
        ip: ip.map_or(0, |ip| u32::from_le_bytes(ip.octets())),
        port,
        pid: Some(format!("master@{}", master.address)),
        hostname: Some(host.to_owned()),
        version: Some(api::MESOS_VERSION.to_owned()),
        address: Some(v1::Address {
            hostname: Some(host.to_owned()),
            ip: ip.map(|ip| ip.to_string()),
            port: port as i32,
        }),
        domain: None,
        capabilities: [Capability::AgentUpdate, Capability::AgentDraining, Capability::QuotaV2]
            .map(|known| v1::master_info::Capability { r#type: Some(known as i32) })
            .to_vec(),
    })
}

fn split_address(address: &str) -> (&str, u16) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    (host.trim_matches(['[', ']']), port.parse().unwrap_or(0))
}

/// How a framework reads resources.
pub fn format(framework: &Framework) -> Format {
    if framework.capabilities.reservation_refinement { Format::PostRefinement } else { Format::PreRefinement }
}

/// An outstanding offer as its framework sees it.
pub fn offer(state: &State, key: OfferKey) -> Option<v1::Offer> {
    let offer = state.offers.get(key)?;
    let framework = state.frameworks.get(offer.framework)?;
    let agent = state.agents.get(offer.agent)?;
    let info = v1::AgentInfo::decode(agent.info.clone()).unwrap_or_default();
    // Whoever has one role only does not know that resources are allocated to roles.
    let multi_role = framework.capabilities.multi_role;
    let resources = if multi_role { offer.resources.clone() } else { offer.resources.unallocate() };
    Some(v1::Offer {
        id: v1::OfferId { value: offer_id(state, key) },
        framework_id: v1::FrameworkId { value: framework.id.to_string() },
        agent_id: v1::AgentId { value: agent_id(state, offer.agent) },
        hostname: agent.hostname.to_string(),
        url: Some(agent_url(agent)),
        domain: info.domain,
        resources: resources.to_v1(format(framework)),
        attributes: info.attributes,
        executor_ids: agent
            .executors
            .keys()
            .filter(|(of, _)| *of == offer.framework)
            .map(|(_, id)| v1::ExecutorId { value: id.to_string() })
            .collect(),
        unavailability: state.maintenance.unavailability(agent).map(|time| time.to_v1()),
        allocation_info: multi_role.then(|| v1::resource::AllocationInfo { role: Some(offer.role.to_string()) }),
    })
}

/// An outstanding inverse offer as its framework sees it. It is for all that the framework has of the agent.
pub fn inverse_offer(state: &State, key: OfferKey) -> Option<v1::InverseOffer> {
    let offer = state.maintenance.inverse_offers.get(&key)?;
    let agent = state.agents.get(offer.agent)?;
    Some(v1::InverseOffer {
        id: v1::OfferId { value: offer_id(state, key) },
        url: Some(agent_url(agent)),
        framework_id: v1::FrameworkId { value: framework_id(state, offer.framework) },
        agent_id: Some(v1::AgentId { value: agent_id(state, offer.agent) }),
        unavailability: state.maintenance.unavailability(agent)?.to_v1(),
        resources: Vec::new(),
    })
}

/// A machine's maintenance as operators see it.
pub fn maintenance_status(state: &State) -> v1::maintenance::ClusterStatus {
    let mut status = v1::maintenance::ClusterStatus::default();
    for (key, machine) in &state.maintenance.machines {
        let id = machine.id.to_v1();
        match machine.mode {
            Mode::Up => {}
            Mode::Down => status.down_machines.push(id),
            Mode::Draining => {
                let agents = maintenance::agents_on(state, key);
                let answers = agents.flat_map(|agent| state.maintenance.answers_of(agent.key));
                let statuses = answers.map(|(framework, answer)| inverse_status(state, framework, answer)).collect();
                status.draining_machines.push(cluster_status::DrainingMachine { id, statuses });
            }
        }
    }
    status
}

fn inverse_status(state: &State, framework: FrameworkKey, answer: &Answer) -> v1::allocator::InverseOfferStatus {
    use v1::allocator::inverse_offer_status::Status;
    v1::allocator::InverseOfferStatus {
        status: if answer.is_accepted { Status::Accept } else { Status::Decline } as i32,
        framework_id: v1::FrameworkId { value: framework_id(state, framework) },
        timestamp: time_info(answer.at_ms),
    }
}

/// The schedule as it was written, without the machines that are up again.
pub fn maintenance_schedule(state: &State) -> v1::maintenance::Schedule {
    let windows = state.maintenance.windows.iter().map(|window| v1::maintenance::Window {
        machine_ids: window.machines.iter().map(MachineId::to_v1).collect(),
        unavailability: window.unavailability.to_v1(),
    });
    v1::maintenance::Schedule { windows: windows.collect() }
}

fn agent_url(agent: &Agent) -> v1::Url {
    let (host, port) = split_address(&agent.address);
    let ip = host.parse::<std::net::IpAddr>().ok().map(|ip| ip.to_string());
    v1::Url {
        scheme: "http".to_owned(),
        address: v1::Address { hostname: Some(agent.hostname.to_string()), ip, port: i32::from(port) },
        path: Some("/slave(1)".to_owned()),
        ..Default::default()
    }
}

/// The update of a task that its framework has to acknowledge next.
pub fn status_of_update(state: &State, framework: FrameworkKey, task_id: &TaskId) -> Option<v1::TaskStatus> {
    let task = state.tasks.get(&(framework, task_id.clone()))?;
    let newest = event_log::planted(event_log::Bug::NewestUpdateFirst);
    let update = if newest { task.updates.back()? } else { task.updates.front()? };
    v1::TaskStatus::decode(update.status.clone()).ok()
}

/// The tasks of a framework with updates that wait for it, for a stream that has just been opened.
pub fn waiting_updates(state: &State, framework: FrameworkKey) -> impl Iterator<Item = &TaskId> + '_ {
    state.tasks.of(framework).filter(|task| !task.updates.is_empty()).map(|task| &task.task_id)
}

/// A task as operators see it.
pub fn task(state: &State, task: &Task) -> v1::Task {
    let info = v1::TaskInfo::decode(task.info.clone()).unwrap_or_default();
    // The task's own user, or its executor's; else the framework's is used, and not shown.
    let executor = info.executor.as_ref().and_then(|executor| executor.command.as_ref());
    let user = info.command.as_ref().or(executor).and_then(|command| command.user.clone());
    v1::Task {
        name: info.name,
        task_id: v1::TaskId { value: task.task_id.to_string() },
        framework_id: v1::FrameworkId { value: framework_id(state, task.framework) },
        executor_id: task.executor_id.as_ref().map(|id| v1::ExecutorId { value: id.to_string() }),
        agent_id: v1::AgentId { value: agent_id(state, task.agent) },
        state: task.state,
        resources: task.resources.to_v1(Format::PostRefinement),
        statuses: task.statuses.iter().filter_map(|status| v1::TaskStatus::decode(status.clone()).ok()).collect(),
        status_update_state: task.delivered.as_ref().map(|(state, _)| *state),
        status_update_uuid: task.delivered.as_ref().map(|(_, uuid)| uuid.clone()),
        labels: info.labels,
        discovery: info.discovery,
        container: info.container,
        health_check: info.health_check,
        kill_policy: info.kill_policy,
        user,
        limits: info.limits,
    }
}

/// What its framework has to acknowledge of an operation, or has heard last.
pub fn operation_status(state: &State, operation: &Operation) -> v1::OperationStatus {
    let update = operation.update.as_ref().and_then(|update| v1::OperationStatus::decode(update.status.clone()).ok());
    update.unwrap_or_else(|| v1::OperationStatus {
        operation_id: operation.id.as_ref().map(|id| v1::OperationId { value: id.to_string() }),
        state: operation.state,
        agent_id: Some(v1::AgentId { value: agent_id(state, operation.agent) }),
        resource_provider_id: provider_of(state, operation.key),
        ..Default::default()
    })
}

/// The resource provider whose resources an operation is upon.
pub fn provider_of(state: &State, operation: OperationKey) -> Option<v1::ResourceProviderId> {
    let of = state.operations.of_provider(operation)?;
    Some(v1::ResourceProviderId { value: of.provider.to_string() })
}

/// What an operation does.
pub fn kind_of(operation: &Operation) -> v1::offer::operation::Type {
    v1::offer::Operation::decode(operation.info.clone())
        .map_or(v1::offer::operation::Type::Unknown, |info| info.r#type())
}

/// An operation as operators see it.
pub fn operation(state: &State, operation: &Operation) -> v1::Operation {
    let latest = operation_status(state, operation);
    let framework = operation.framework.map(|key| framework_id(state, key)).filter(|id| !id.is_empty());
    v1::Operation {
        framework_id: framework.map(|value| v1::FrameworkId { value }),
        agent_id: Some(v1::AgentId { value: agent_id(state, operation.agent) }),
        info: v1::offer::Operation::decode(operation.info.clone()).unwrap_or_default(),
        statuses: operation.update.iter().map(|_| latest.clone()).collect(),
        latest_status: latest,
        uuid: v1::Uuid { value: operation_uuid(state, operation.key).to_vec().into() },
    }
}

/// The operations that operators see: those on agents that are not away for long.
pub fn operations(state: &State) -> impl Iterator<Item = v1::Operation> + '_ {
    let is_shown =
        |operation: &&Arc<Operation>| state.agents.get(operation.agent).is_some_and(|agent| !agent.is_unreachable());
    state.operations.live.values().filter(is_shown).map(|known| operation(state, known))
}

/// The status of an operation that never was.
pub fn operation_error(id: &str, why: &str) -> v1::OperationStatus {
    v1::OperationStatus {
        operation_id: Some(v1::OperationId { value: id.to_owned() }),
        state: v1::OperationState::OperationError as i32,
        message: Some(why.to_owned()),
        ..Default::default()
    }
}

/// The orders that an agent has not acknowledged, each an `internal::Order` in protobuf, by number.
pub fn orders(state: &State, agent: AgentKey, after: u64) -> Vec<(u64, Bytes)> {
    let Some(agent) = state.agents.get(agent) else { return Vec::new() };
    agent.outbox.range(after + 1..).map(|(seq, order)| (*seq, order_bytes(order))).collect()
}

/// An `internal::Order` in protobuf.
pub fn order_bytes(order: &Order) -> Bytes {
    order.bytes.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Cluster;

    #[test]
    fn ids_have_one_spelling() {
        let cluster = Cluster::new();
        let state = &cluster.state;
        assert_eq!(parse_agent_id(state, &agent_id(state, AgentKey(12))), Some(AgentKey(12)));
        assert_eq!(parse_offer_id(state, "C-O0"), Some(OfferKey(0)));
        for wrong in ["C-S", "C-S+1", "C-S01", "D-S1", "C-O1", "C-S99999999999999999999", "", "C"] {
            assert_eq!(parse_agent_id(state, wrong), None, "{wrong}");
        }
    }

    #[test]
    #[allow(deprecated)] // The role of frameworks without RESERVATION_REFINEMENT.
    fn offers_are_written_as_their_framework_reads_them() {
        let mut cluster = Cluster::new();
        cluster.subscribe();
        cluster.agent("cpus:4;mem:100");
        let offers = cluster.offer();
        let shown = offer(&cluster.state, offers[0]).unwrap();
        assert_eq!(shown.allocation_info.unwrap().role(), "web");
        assert!(shown.resources.iter().all(|r| r.allocation_info.is_some() && r.role == Some("*".into())));
        assert_eq!(shown.url.unwrap().address.port, 5051);

        let mut cluster = Cluster::new();
        cluster.subscribe_with(|info| {
            info.capabilities.clear();
            info.roles.clear();
        });
        cluster.agent("cpus:4;mem:100");
        let offers = cluster.offer();
        let shown = offer(&cluster.state, offers[0]).unwrap();
        assert_eq!(shown.allocation_info, None);
        assert!(shown.resources.iter().all(|resource| resource.allocation_info.is_none()));
    }

    #[test]
    fn a_master_is_shown_as_clients_parse_it() {
        let cluster = Cluster::new();
        let info = master_info(&cluster.state, NodeId(1)).unwrap();
        assert_eq!((info.ip, info.port), (16_777_343, 5050));
        assert_eq!(info.pid.unwrap(), "master@127.0.0.1:5050");
    }
}
