//! The story of an agent's arrival: it gets an id once, and returns with its log ever after.

use crate::accept::rules;
use crate::command::Caller;
use crate::decide::{Draft, Reply, check_holder};
use crate::drain;
use crate::event::{AgentProfile, AgentRegistered, AgentResumed, AgentReturned, AgentReturning, Fate, Return};
use crate::identities::{self, Admitted, Comer};
use crate::ids::{AgentKey, Connection};
use crate::lengths;
use crate::lost::{self, declare, some};
use crate::maintenance;
use crate::permit;
use crate::refusal::{Refusal, RefusalKind};
use crate::resources;
use crate::state::unfinished::Parting;
use crate::state::{Agent, Task};
use crate::status;
use crate::task_state::lost_or;
use crate::view;
use api::internal;
use api::limits::AGENT_CHECKPOINT_BYTES_MAX;
use api::resources::{Resource, Resources};
use api::v1;
use api::v1::TaskState;
use api::v1::task_status::Reason;
use prost::Message;
use std::collections::BTreeSet;
use std::sync::Arc;

fn stop(name: &'static str, message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::StopAgent, name, message)
}

fn end_all(name: &'static str, message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::EndAgent, name, message)
}

fn anew(name: &'static str, message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::RegisterAnew, name, message)
}

/// An agent without an id. The same token gets the same id, however often it is sent.
pub(crate) fn register(
    draft: &mut Draft,
    connection: Connection,
    register: &internal::Register,
    asked: &Caller,
) -> Result<Reply, Refusal> {
    check_holder(&draft.state, connection)?;
    let token = <[u8; 16]>::try_from(register.token.as_ref())
        .map(u128::from_be_bytes)
        .map_err(|_| stop("InvalidToken", "The agent's token must have 16 bytes"))?;
    let again = draft.state.agents.by_token.get(&token).copied();
    let comer = Comer::New { address: &register.address, again };
    let (caller, mut admitted) = identities::admit(draft, asked, register.proof.as_ref(), comer)?;
    permit::agent(draft, &caller, &register.agent_info)?;
    maintenance::check_admission(&draft.state, &register.agent_info.hostname, &register.address)?;
    let profile = |key: AgentKey, draft: &Draft| {
        let (info, version) = (&register.agent_info, &register.version);
        let known = draft.state.agents.get(key).map(Agent::checkpointed);
        let kept = known.map_or_else(|| brought(&register.checkpointed_resources), Ok)?;
        profile(draft, key, info, (version, &register.address), &register.capabilities, &kept)
    };
    let known = draft.state.agents.by_token.get(&token).and_then(|key| draft.state.agents.get(*key));
    if let Some(agent) = known {
        let agent = agent.key;
        if draft.state.is_parting(agent) {
            return Err(still_ending());
        }
        let profile = profile(agent, draft)?;
        let known = draft.state.agents.get(agent).expect("just found");
        if known.orders_acknowledged == 0 && known.messages_received == 0 {
            check_room_of(draft, agent, &profile)?;
            // It did not hear of its id. Whatever it was to run waits in its outbox, even if it was given up meanwhile.
            let reply = resumed(draft, agent, profile, connection, 0);
            identities::bind(draft, agent, admitted);
            bring_back(draft, agent);
            return Ok(reply);
        }
        // It knew its id, and no longer does: its log is not what it was.
        lost::remove(draft, agent, Parting::LogLost);
        if draft.state.is_parting(agent) {
            return Ok(Reply::Refused(still_ending()));
        }
        // It comes as another one than it was.
        let comer = Comer::New { address: &register.address, again: None };
        admitted = identities::admit(draft, asked, register.proof.as_ref(), comer)?.1;
    }
    let agent = AgentKey(draft.state.agents.next);
    let profile = profile(agent, draft)?;
    // Two processes cannot listen on one address: whoever was there before is over.
    let replaced: Vec<AgentKey> = draft
        .state
        .agents
        .at(&profile.address)
        .filter(|key| draft.state.agents.get(*key).is_some_and(|agent| agent.connection().is_none()))
        .filter(|key| !draft.state.is_parting(*key))
        .collect();
    for key in replaced {
        lost::remove(draft, key, Parting::Replaced);
    }
    draft.push(AgentRegistered { agent, token, profile, connection });
    identities::bind(draft, agent, admitted);
    Ok(Reply::Agent { agent })
}

/// An agent that has an id and its log.
pub(crate) fn resume(
    draft: &mut Draft,
    connection: Connection,
    resume: &internal::Resume,
    caller: &Caller,
) -> Result<Reply, Refusal> {
    check_holder(&draft.state, connection)?;
    let known = view::parse_agent_id(&draft.state, &resume.agent_id.value);
    // Who is not known hears that, and comes again as somebody.
    let known =
        known.filter(|key| *resume.cluster_id == *draft.state.cluster_id && draft.state.agents.get(*key).is_some());
    let (caller, admitted) = match known {
        Some(key) => identities::admit(draft, caller, resume.proof.as_ref(), Comer::Known(key))?,
        None => (caller.clone(), Admitted::AsItIs),
    };
    if known.is_some() || !draft.options.agent_identities {
        permit::agent(draft, &caller, &resume.agent_info)?;
    }
    let state = &draft.state;
    if *resume.cluster_id != *state.cluster_id {
        let message =
            format!("The agent belongs to cluster {}, this is cluster {}", resume.cluster_id, state.cluster_id);
        return Err(Refusal::new(RefusalKind::OtherCluster, "OtherCluster", message));
    }
    maintenance::check_admission(&draft.state, &resume.agent_info.hostname, &resume.address)?;
    let id = &resume.agent_id.value;
    let key = view::parse_agent_id(state, id);
    if let Some(gone) = key.and_then(|key| state.agents.gone.get(&key)) {
        let message = format!("Agent {id} cannot return: {}", gone.reason);
        return Err(if gone.by_operator { end_all("AgentGone", message) } else { anew("AgentGone", message) });
    }
    if let Some(end) = key.and_then(|key| state.unfinished.agents.get(&key)) {
        let message = format!("Agent {id} cannot return: {}", end.why.sentence());
        let is_final = end.why == Parting::MarkedGone;
        return Err(if is_final { end_all("AgentGone", message) } else { anew("AgentGone", message) });
    }
    let Some(agent) = key.and_then(|key| state.agents.get(key)) else {
        return Err(anew("UnknownAgent", format!("Agent {id} is not known here")));
    };
    let key = agent.key;
    let is_behind = resume.orders_up_to < agent.orders_acknowledged || resume.messages_up_to < agent.messages_received;
    if is_behind || resume.orders_up_to >= agent.next_order {
        lost::remove(draft, key, Parting::LogLost);
        let message = format!("Agent {id} has lost part of its log");
        return Ok(Reply::Refused(anew("LogLost", message)));
    }
    // What the masters know of it counts: orders that it does not have yet wait for it.
    let is_forgotten = event_log::planted(event_log::Bug::ConversionsForgotten);
    let kept = if is_forgotten { Resources::default() } else { agent.checkpointed() };
    let addressed = (resume.version.as_str(), resume.address.as_str());
    let profile = profile(draft, key, &resume.agent_info, addressed, &resume.capabilities, &kept)?;
    check_room_of(draft, key, &profile)?;
    let has_more_to_say =
        resume.messages_up_to > draft.state.agents.get(key).map_or(0, |agent| agent.messages_received);
    if !drop_missing(draft, key, resume, has_more_to_say) {
        // Its tasks that are no more are said to be, some at a time, before it is back.
        let message = format!("Agent {id} comes back without very many tasks: again");
        return Ok(Reply::Refused(Refusal::new(RefusalKind::Conflict, STILL_SETTLING, message)));
    }
    let reply = resumed(draft, key, profile, connection, resume.orders_up_to);
    identities::bind(draft, key, admitted);
    bring_back(draft, key);
    Ok(reply)
}

/// The name of the refusal of an agent some of whose tasks were declared: it is asked to come again.
pub const STILL_SETTLING: &str = "StillSettling";

fn still_ending() -> Refusal {
    let message = "The agent's last registration is still being ended: again";
    Refusal::new(RefusalKind::Conflict, STILL_SETTLING, message)
}

/// Whoever returns with less than is in use cannot be: somebody would lose what is promised. Tasks that were set aside
/// while it was unreachable count: they come back with it.
fn check_room_of(draft: &Draft, key: AgentKey, profile: &AgentProfile) -> Result<(), Refusal> {
    let agent = draft.state.agents.get(key).expect("a returning agent is registered");
    let away = draft.state.tasks.on(key).filter(|task| task.unreachable_ms.is_some()).map(|task| &task.resources);
    let mut held = Resources::default();
    // What providers have may be less than what is in use of it.
    for used in away.chain([&agent.used]) {
        resources::add(&mut held, &resources::own(&resources::unallocated(used)));
    }
    let total = &profile.total;
    let message = || format!("The agent's resources {total} do not contain what is in use on it");
    if resources::fits(total, &held) { Ok(()) } else { Err(stop("TooSmall", message())) }
}

/// What an agent that registers anew kept of what was made of its resources while it had another id.
fn brought(messages: &[v1::Resource]) -> Result<Resources, Refusal> {
    let invalid = |why: String| stop("InvalidResources", format!("What the agent kept is invalid: {why}"));
    let kept = Resources::from_v1(messages).map_err(|why| invalid(why.to_string()))?;
    let kept = resources::unallocated(&kept).filter(Resource::is_converted);
    rules::any(kept.as_slice()).map_err(invalid)?;
    rules::unique_volumes(&kept).map_err(invalid)?;
    let bytes = resources::bytes(&kept);
    if bytes > AGENT_CHECKPOINT_BYTES_MAX {
        let bound = AGENT_CHECKPOINT_BYTES_MAX;
        return Err(stop(
            "TooLarge",
            format!("What the agent kept has {bytes} bytes, more than the {bound} that are allowed"),
        ));
    }
    Ok(kept)
}

fn resumed(
    draft: &mut Draft,
    key: AgentKey,
    profile: AgentProfile,
    connection: Connection,
    orders_up_to: u64,
) -> Reply {
    let agent = draft.state.agents.get(key).expect("a resuming agent is registered");
    let is_other = !is_same(agent, &profile) || event_log::planted(event_log::Bug::ConversionsForgotten);
    let replaced = agent.connection().map(|connection| connection.id);
    let was_unreachable = agent.is_unreachable();
    if is_other {
        lost::return_offers(draft, key, Return::AgentChanged);
    }
    draft.push(AgentResumed {
        agent: key,
        profile: is_other.then_some(profile),
        connection,
        orders_up_to,
        replaced,
        was_unreachable,
    });
    drain::order_late(draft, key);
    Reply::Agent { agent: key }
}

fn is_same(agent: &Agent, profile: &AgentProfile) -> bool {
    agent.info == profile.info
        && agent.address == profile.address
        && agent.version == profile.version
        && agent.capabilities.iter().eq(&profile.capabilities)
}

/// Tasks that the agent was given and does not have are over. False if there are more than one record takes.
fn drop_missing(draft: &mut Draft, key: AgentKey, resume: &internal::Resume, has_more_to_say: bool) -> bool {
    // Its end may be among what the agent has yet to say.
    if has_more_to_say {
        return true;
    }
    let alive: BTreeSet<(&str, &str)> =
        resume.tasks.iter().map(|task| (task.framework_id.value.as_str(), task.task_id.value.as_str())).collect();
    let is_missing = |task: &&Arc<Task>| {
        let framework = draft.state.frameworks.get(task.framework).expect("a live task's framework is live");
        let was_handed_over = task.launch_order <= resume.orders_up_to;
        let is_over = task.is_terminal() && task.unreachable_ms.is_none();
        !is_over && was_handed_over && !alive.contains(&(&framework.id, &task.task_id))
    };
    let (missing, is_all) = some(draft.state.tasks.on(key).filter(is_missing), draft.options.step_events);
    for task in missing {
        let framework = draft.state.frameworks.get(task.framework).expect("a live task's framework is live");
        let state = lost_or(TaskState::TaskDropped, framework);
        let message = "Reconciliation: Task is unknown to the agent";
        let agent_id = Some(view::agent_id(&draft.state, key));
        let status = status::of_master(&task.task_id, agent_id, state, Reason::Reconciliation, message, draft.at_ms);
        declare(draft, &task, state as i32, status, Fate::Completed);
    }
    is_all
}

/// Tasks that were set aside are back with their agent: as many as one record takes, and the rest soon.
fn bring_back(draft: &mut Draft, key: AgentKey) {
    let has_steps = draft.state.feature_level.has_steps();
    let max = if has_steps { draft.options.step_events } else { usize::MAX };
    if !bring_some_back(draft, key, max) {
        draft.push(AgentReturning { agent: key });
    }
}

/// The next step of an agent's return.
pub(crate) fn go_on(draft: &mut Draft, key: AgentKey) {
    let is_here = draft.state.agents.get(key).is_some_and(|agent| agent.connection().is_some());
    // Whoever went away again settles it when it comes back.
    if !is_here || bring_some_back(draft, key, draft.options.step_events) {
        draft.push(AgentReturned { agent: key });
    }
}

/// True if no task is left that was set aside.
fn bring_some_back(draft: &mut Draft, key: AgentKey, max: usize) -> bool {
    let away = draft.state.tasks.on(key).filter(|task| task.unreachable_ms.is_some());
    let (tasks, is_all) = some(away, max);
    for task in tasks {
        let state = task.state_before.and_then(|state| TaskState::try_from(state).ok());
        let state = state.unwrap_or(TaskState::TaskRunning);
        let (reason, message) = (Reason::AgentReregistered, "Unreachable agent re-registered");
        let agent_id = Some(view::agent_id(&draft.state, key));
        let status = status::of_master(&task.task_id, agent_id, state, reason, message, draft.at_ms);
        declare(draft, &task, state as i32, status, Fate::Back);
    }
    is_all
}

/// The oldest release of the agent that these masters work with.
const OLDEST_AGENT: [u64; 3] = [0, 1, 0];

/// Masters and agents of one cluster are of neighbouring releases.
fn check_version(version: &str) -> Result<(), Refusal> {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = [0; 3];
    let mut parts = core.split('.');
    let is_read = numbers.iter_mut().zip(&mut parts).all(|(number, part)| part.parse().map(|it| *number = it).is_ok());
    let shown = api::limits::quoted(version);
    if !is_read || parts.next().is_some() {
        return Err(stop("AgentVersion", format!("The agent's version '{shown}' is none: it should be as 0.1.0")));
    }
    let [major, minor, patch] = OLDEST_AGENT;
    if numbers < OLDEST_AGENT {
        let oldest = format!("{major}.{minor}.{patch}");
        let message = format!("The agent is of version {shown}, and the masters work with {oldest} and newer ones");
        return Err(stop("AgentVersion", message));
    }
    Ok(())
}

/// What the agent says of itself, or why it cannot be. What it has is what it was configured with, and `kept` in place of
/// what that was made of.
fn profile(
    draft: &Draft,
    key: AgentKey,
    info: &v1::AgentInfo,
    (version, address): (&str, &str),
    capabilities: &[String],
    kept: &Resources,
) -> Result<AgentProfile, Refusal> {
    let long = lengths::agent(info, version, capabilities, address);
    long.map_err(|why| stop("TooLarge", format!("The agent's description is too large: {why}")))?;
    check_domain(draft, info)?;
    check_version(version)?;
    let total = Resources::from_v1(&info.resources)
        .map_err(|why| stop("InvalidResources", format!("The agent's resources are invalid: {why}")))?;
    if resources::provider_of(&total).is_some() {
        let why = "The agent's resources are invalid: what resource providers have is told by them, not configured";
        return Err(stop("InvalidResources", why));
    }
    let total =
        resources::with_converted(&resources::unallocated(&total), kept).map_err(|why| stop("TooSmall", why))?;
    let provided = draft.state.agents.get(key).map(|known| resources::provided(&known.total));
    let total = total.plus(&provided.unwrap_or_default());
    let id = Some(v1::AgentId { value: view::agent_id(&draft.state, key) });
    Ok(AgentProfile {
        info: v1::AgentInfo { id, ..info.clone() }.encode_to_vec().into(),
        hostname: info.hostname.as_str().into(),
        address: address.into(),
        version: version.into(),
        capabilities: capabilities.iter().map(|name| name.as_str().into()).collect(),
        total,
    })
}

/// Agents say where they are only if the masters do, and must where `--require_agent_domain` says so.
fn check_domain(draft: &Draft, info: &v1::AgentInfo) -> Result<(), Refusal> {
    let has_domain = info.domain.as_ref().is_some_and(|domain| domain.fault_domain.is_some());
    if has_domain && !draft.options.has_domain {
        return Err(stop("UnknownDomain", "The agent has a --domain, and the masters have none to compare it with"));
    }
    if !has_domain && draft.options.require_agent_domain {
        let why = "The agent has no --domain, and the masters want one of each agent (--require_agent_domain)";
        return Err(stop("DomainRequired", why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::decide::Reply;
    use crate::refusal::RefusalKind;
    use crate::testing::Cluster;
    use api::v1::TaskState::*;

    #[test]
    fn a_token_is_one_id() {
        let mut cluster = Cluster::new();
        let first = cluster.agent_with_token(7, "cpus:4;mem:100");
        let again = cluster.agent_with_token(7, "cpus:4;mem:100");
        assert_eq!(first, again);
        assert_ne!(cluster.agent_with_token(8, "cpus:4;mem:100"), first);
    }

    #[test]
    fn an_agent_that_comes_back_from_elsewhere_is_found_there_and_has_taken_what_it_says() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        cluster.launch(framework, "t", "cpus:1;mem:10");
        cluster.agent_disconnected(agent);
        let names = cluster.resume_with(agent, |resume| {
            resume.orders_up_to = 1;
            resume.address = "10.9.9.9:5051".into();
            let framework_id = api::v1::FrameworkId { value: "C-0000".into() };
            let task_id = api::v1::TaskId { value: "t".into() };
            resume.tasks = vec![api::internal::LiveTask { framework_id, task_id }];
        });
        assert_eq!(names.unwrap(), ["agent-resumed"]);
        let agent = cluster.state.agents.get(agent).unwrap();
        assert_eq!((&*agent.address, agent.outbox.len()), ("10.9.9.9:5051", 0));
        assert_eq!(cluster.state.agents.by_address.len(), 1, "it is nowhere else");
    }

    #[test]
    fn an_agent_says_where_it_is_if_the_masters_do() {
        use api::v1::domain_info::FaultDomain;
        use api::v1::domain_info::fault_domain::{RegionInfo, ZoneInfo};
        let mut cluster = Cluster::new();
        let agent = cluster.agent("cpus:4;mem:100");
        cluster.agent_disconnected(agent);
        let (region, zone) = (RegionInfo { name: "r".into() }, ZoneInfo { name: "z".into() });
        let domain = api::v1::DomainInfo { fault_domain: Some(FaultDomain { region, zone }) };
        for (has_domain, required, says, expected) in [
            (false, false, true, Err("UnknownDomain")),
            (true, true, false, Err("DomainRequired")),
            (true, true, true, Ok(())),
            (true, false, false, Ok(())),
        ] {
            (cluster.chosen.has_domain, cluster.chosen.require_agent_domain) = (has_domain, required);
            let told = says.then(|| domain.clone());
            let resumed = cluster.resume_with(agent, |resume| resume.agent_info.domain = told);
            assert_eq!(resumed.map(drop).map_err(|refusal| refusal.name), expected, "{has_domain} {required} {says}");
        }
    }

    #[test]
    fn an_agent_behind_what_it_acknowledged_begins_anew() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        let task = cluster.launch(framework, "t", "cpus:1;mem:10");
        cluster.acknowledge_orders(agent, 1);
        cluster.agent_disconnected(agent);
        let resume = |resume: &mut api::internal::Resume| resume.orders_up_to = 0;
        assert_eq!(cluster.resume_with(agent, resume).unwrap(), ["task-declared", "agent-removed"]);
        let Reply::Refused(refusal) = &cluster.reply else { panic!("{:?}", cluster.reply) };
        assert_eq!(refusal.kind, RefusalKind::RegisterAnew);
        assert!(cluster.state.tasks.get(&task).is_none());
        assert_eq!(cluster.statuses().pop().unwrap().state(), TaskLost);
    }

    #[test]
    fn who_may_not_return() {
        let mut cluster = Cluster::new();
        let agent = cluster.agent("cpus:4;mem:100");
        let other = cluster.resume_with(agent, |resume| resume.cluster_id = "D".into()).unwrap_err();
        assert_eq!(other.kind, RefusalKind::OtherCluster);
        assert_eq!(other.message, "The agent belongs to cluster D, this is cluster C");
        let unknown = cluster.resume_with(agent, |resume| resume.agent_id.value = "C-S99".into()).unwrap_err();
        assert_eq!(unknown.kind, RefusalKind::RegisterAnew);
    }

    #[test]
    fn an_agent_is_not_too_old() {
        let mut cluster = Cluster::new();
        let agent = cluster.agent("cpus:4;mem:100");
        cluster.agent_disconnected(agent);
        let mut refused = |version: &str| {
            let refusal = cluster.resume_with(agent, |resume| resume.version = version.into()).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::StopAgent);
            refusal.message
        };
        assert_eq!(refused("soon"), "The agent's version 'soon' is none: it should be as 0.1.0");
        assert_eq!(refused("1.2.3.4"), "The agent's version '1.2.3.4' is none: it should be as 0.1.0");
        assert_eq!(
            refused("0.0.9-rc1"),
            "The agent is of version 0.0.9-rc1, and the masters work with 0.1.0 and newer ones"
        );
        cluster.resume_with(agent, |resume| resume.version = "1.0.0-rc1+5".into()).unwrap();
    }

    #[test]
    fn a_task_that_was_handed_over_and_is_not_there_is_dropped() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        let lost = cluster.launch(framework, "lost", "cpus:1;mem:10");
        cluster.acknowledge_orders(agent, 1);
        let waiting = cluster.launch(framework, "waiting", "cpus:1;mem:10");
        cluster.agent_disconnected(agent);
        assert_eq!(cluster.resume(agent, &[]).unwrap(), ["task-declared", "agent-resumed"]);
        assert!(cluster.state.tasks.get(&lost).is_none());
        assert!(cluster.state.tasks.get(&waiting).is_some(), "its order waits in the outbox");
    }

    #[test]
    fn a_new_agent_at_the_same_address_replaces_one_that_is_away() {
        let mut cluster = Cluster::new();
        let first = cluster.agent_at("host:1", "cpus:1;mem:100");
        let second = cluster.agent_at("host:1", "cpus:1;mem:100");
        assert!(cluster.state.agents.get(first).is_some(), "not while it is connected");
        cluster.agent_disconnected(first);
        cluster.agent_at("host:1", "cpus:1;mem:100");
        assert!(cluster.state.agents.get(first).is_none());
        assert!(cluster.state.agents.get(second).is_some());
    }

    #[test]
    fn an_agent_returns_with_other_resources() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        cluster.launch(framework, "t", "cpus:3;mem:10");
        let with = |text: &str| {
            let resources = crate::testing::task_info("", text).resources;
            move |resume: &mut api::internal::Resume| resume.agent_info.resources = resources
        };
        assert!(cluster.resume_with(agent, with("cpus:2;mem:100")).is_err());
        cluster.resume_with(agent, with("cpus:8;mem:100")).unwrap();
        assert_eq!(cluster.state.agents.get(agent).unwrap().total.scalar_milli("cpus"), 8000);
    }
}
