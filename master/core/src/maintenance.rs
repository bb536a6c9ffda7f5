//! The story of machines in maintenance: an operator writes when machines are to be unavailable, takes them down, which
//! ends their agents, and brings them up again.
//!
//! ```text
//! up ──scheduled──► draining ──START_MAINTENANCE──► down ──STOP_MAINTENANCE──► up
//!  ◄──not in the next schedule──┘
//! ```

use crate::command::Caller;
use crate::decide::{Draft, Reply};
use crate::event::{MachinesDown, MachinesUp, MaintenanceScheduled, OfferKeys, OffersReturned, Return};
use crate::ids::{AgentKey, FrameworkKey, OfferKey};
use crate::inverse;
use crate::level;
use crate::lost;
use crate::permit;
use crate::refusal::{Refusal, RefusalKind};
use crate::state::maintenance::{MachineId, MachineKey, Mode, Unavailability, Window};
use crate::state::unfinished::Parting;
use crate::state::{Agent, State};
use api::limits::{HOSTNAME_BYTES_MAX, MACHINES_MAX};
use api::v1;
use auth::Action;
use imbl::{OrdMap, OrdSet};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// UPDATE_MAINTENANCE_SCHEDULE: in place of the schedule before. Whoever was offered an agent that is to be unavailable at
/// another time now is told by a new offer.
pub(crate) fn schedule(
    draft: &mut Draft,
    schedule: &v1::maintenance::Schedule,
    caller: &Caller,
) -> Result<Reply, Refusal> {
    level::check_resource_model(&draft.state, "Maintenance")?;
    let windows = windows(&draft.state, schedule)?;
    if !windows.is_empty() || !draft.state.maintenance.unavailable.is_empty() {
        permit::check_any(draft, caller, Action::UpdateMaintenanceSchedule)?;
    }
    let before = &draft.state.maintenance.unavailable;
    let of = |window: &Window| window.machines.iter().map(|id| (id.key(), window.unavailability)).collect::<Vec<_>>();
    let after: OrdMap<MachineKey, Unavailability> = windows.iter().flat_map(of).collect();
    let machines: OrdSet<&MachineKey> = before.keys().chain(after.keys()).collect();
    let changed = machines.into_iter().filter(|machine| before.get(*machine) != after.get(*machine));
    let agents: Vec<AgentKey> =
        changed.flat_map(|machine| agents_on(&draft.state, machine)).map(|agent| agent.key).collect();
    return_offers(draft, &agents);
    inverse::return_on_all(draft, &agents, Return::MaintenanceChanged);
    draft.push(MaintenanceScheduled { windows });
    Ok(Reply::Empty)
}

fn return_offers(draft: &mut Draft, agents: &[AgentKey]) {
    let mut offers: BTreeMap<FrameworkKey, Vec<OfferKey>> = BTreeMap::new();
    for key in agents.iter().flat_map(|agent| draft.state.offers.on(*agent)) {
        if let Some(offer) = draft.state.offers.get(key) {
            offers.entry(offer.framework).or_default().push(key);
        }
    }
    for (framework, offers) in offers {
        draft.push(OffersReturned { framework, offers: OfferKeys::new(offers), why: Return::MaintenanceChanged });
    }
}

/// START_MAINTENANCE: the agents of these machines are over, and none is admitted until they are up.
pub(crate) fn start(draft: &mut Draft, machines: &[v1::MachineId], caller: &Caller) -> Result<Reply, Refusal> {
    level::check_resource_model(&draft.state, "Maintenance")?;
    let machines = self::machines(machines)?;
    check_modes(&draft.state, &machines, Mode::Draining, "DRAINING mode and cannot be brought down")?;
    permit::check_any(draft, caller, Action::StartMaintenance)?;
    let of = |machine: &MachineId| agents_on(&draft.state, &machine.key()).map(|agent| agent.key).collect::<Vec<_>>();
    let agents: Vec<AgentKey> = machines.iter().flat_map(of).collect();
    for agent in agents {
        lost::remove(draft, agent, Parting::MachineDown);
    }
    draft.push(MachinesDown { machines });
    Ok(Reply::Empty)
}

/// STOP_MAINTENANCE: these machines are up, and out of the schedule.
pub(crate) fn stop(draft: &mut Draft, machines: &[v1::MachineId], caller: &Caller) -> Result<Reply, Refusal> {
    level::check_resource_model(&draft.state, "Maintenance")?;
    let machines = self::machines(machines)?;
    check_modes(&draft.state, &machines, Mode::Down, "DOWN mode and cannot be brought up")?;
    permit::check_any(draft, caller, Action::StopMaintenance)?;
    draft.push(MachinesUp { machines });
    Ok(Reply::Empty)
}

/// The registered agents of a machine, by key.
pub(crate) fn agents_on<'a>(state: &'a State, machine: &MachineKey) -> impl Iterator<Item = &'a Agent> + use<'a> {
    let start: Arc<str> = format!("{}:", machine.ip).into();
    let hostname = machine.hostname.clone();
    let from = (start.clone(), AgentKey(0));
    let there = state.agents.by_address.range(from..).take_while(move |(address, _)| address.starts_with(&*start));
    let agents = there.filter_map(|(_, key)| state.agents.get(*key));
    let mut agents: Vec<&Agent> = agents
        .filter(|agent| agent.hostname.eq_ignore_ascii_case(&hostname))
        .filter(|agent| !agent.is_unreachable() && !state.is_parting(agent.key))
        .collect();
    agents.sort_unstable_by_key(|agent| agent.key);
    agents.into_iter()
}

/// The machine that this agent runs on as people see it, if it is scheduled.
pub(crate) fn scheduled_machine(state: &State, agent: &Agent) -> Option<String> {
    state.maintenance.unavailability(agent)?;
    Some(state.maintenance.machines.get(&MachineKey::of(agent))?.id.named())
}

/// An agent of a machine that is down is not admitted: what it runs ends.
pub(crate) fn check_admission(state: &State, hostname: &str, address: &str) -> Result<(), Refusal> {
    let maintenance = &state.maintenance;
    if event_log::planted(event_log::Bug::AdmittedWhileDown) {
        return Ok(());
    }
    if !maintenance.unavailable.is_empty() && maintenance.is_down(&MachineKey::announced(hostname, address)) {
        return Err(Refusal::new(RefusalKind::EndAgent, "MachineDown", "Machine is `DOWN`"));
    }
    Ok(())
}

fn wrong(message: impl Into<String>) -> Refusal {
    Refusal::invalid("InvalidMachines", message)
}

fn named(id: &MachineId) -> String {
    format!("Machine '{}'", api::json::to_string(&id.to_v1()))
}

fn windows(state: &State, schedule: &v1::maintenance::Schedule) -> Result<Vec<Window>, Refusal> {
    let mut windows = Vec::with_capacity(schedule.windows.len());
    let mut seen = OrdSet::new();
    for window in &schedule.windows {
        if window.machine_ids.is_empty() {
            return Err(wrong("List of machines in the maintenance window is empty"));
        }
        let v1::Unavailability { start, duration } = &window.unavailability;
        let duration_ns = duration.as_ref().map(|duration| duration.nanoseconds);
        if duration_ns.is_some_and(|duration_ns| duration_ns < 0) {
            return Err(wrong("Unavailability 'duration' is negative"));
        }
        let machines = each_once(&window.machine_ids, &mut seen)?;
        let unavailability = Unavailability { start_ns: start.nanoseconds, duration_ns };
        windows.push(Window { machines, unavailability });
    }
    let mut down = state.maintenance.machines.iter().filter(|(_, machine)| machine.mode == Mode::Down);
    if let Some((_, machine)) = down.find(|(key, _)| !seen.contains(*key)) {
        let message = format!("{} is deactivated and cannot be removed from the schedule", named(&machine.id));
        return Err(wrong(message));
    }
    Ok(windows)
}

fn machines(ids: &[v1::MachineId]) -> Result<Vec<MachineId>, Refusal> {
    if ids.is_empty() {
        return Err(wrong("List of machines is empty"));
    }
    each_once(ids, &mut OrdSet::new())
}

/// Machines that can be, none of them twice.
fn each_once(ids: &[v1::MachineId], seen: &mut OrdSet<MachineKey>) -> Result<Vec<MachineId>, Refusal> {
    let mut machines = Vec::with_capacity(ids.len());
    for id in ids {
        let (hostname, ip) = (id.hostname.as_deref().unwrap_or(""), id.ip.as_deref().unwrap_or(""));
        if hostname.is_empty() && ip.is_empty() {
            return Err(wrong("Both 'hostname' and 'ip' for a machine are empty"));
        }
        if hostname.len() > HOSTNAME_BYTES_MAX {
            let message =
                format!("A machine's 'hostname' has {} bytes, at most {HOSTNAME_BYTES_MAX} are taken", hostname.len());
            return Err(Refusal::invalid("TooLarge", message));
        }
        if !ip.is_empty() && ip.parse::<Ipv4Addr>().is_err() {
            return Err(wrong(format!("Failed to parse IPv4: {}", api::limits::quoted(ip))));
        }
        let id = MachineId::from_v1(id);
        if seen.insert(id.key()).is_some() {
            return Err(wrong(format!("{} appears more than once in the schedule", named(&id))));
        }
        if seen.len() > MACHINES_MAX {
            let message = format!("More than {MACHINES_MAX} machines are named at once");
            return Err(Refusal::invalid("TooLarge", message));
        }
        machines.push(id);
    }
    Ok(machines)
}

fn check_modes(state: &State, machines: &[MachineId], mode: Mode, what: &str) -> Result<(), Refusal> {
    for id in machines {
        let key = id.key();
        let known = state.maintenance.machines.get(&key).map(|machine| machine.mode);
        // A machine with an agent is known, whether or not it was ever scheduled.
        let known = known.or_else(|| agents_on(state, &key).next().map(|_| Mode::Up));
        match known {
            Some(known) if known == mode => {}
            Some(_) => return Err(wrong(format!("{} is not in {what}", named(id)))),
            None => return Err(wrong(format!("{} is not part of a maintenance schedule", named(id)))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::refusal::RefusalKind;
    use crate::testing::Cluster;
    use crate::view;
    use api::v1;
    use api::v1::TaskState::*;

    const HERE: (&str, &str) = ("host", "10.0.0.0");
    const FAR: (&str, &str) = ("far.example", "127.0.0.9");

    fn cluster() -> Cluster {
        let mut cluster = Cluster::new();
        cluster.raise();
        cluster
    }

    fn status(cluster: &Cluster) -> String {
        api::json::to_string(&view::maintenance_status(&cluster.state))
    }

    fn schedule(cluster: &Cluster) -> String {
        api::json::to_string(&view::maintenance_schedule(&cluster.state))
    }

    #[test]
    fn a_machine_is_scheduled_goes_down_and_comes_up() {
        let mut cluster = cluster();
        assert_eq!((status(&cluster), schedule(&cluster)), ("{}".into(), "{}".into()));
        assert_eq!(cluster.schedule(&[("FAR.example", "127.0.0.9")], 19).unwrap(), ["maintenance-scheduled"]);
        let far = r#"{"hostname":"FAR.example","ip":"127.0.0.9"}"#;
        assert_eq!(status(&cluster), format!(r#"{{"draining_machines":[{{"id":{far}}}]}}"#));
        let window = format!(r#"{{"machine_ids":[{far}],"unavailability":{{"start":{{"nanoseconds":19}}}}}}"#);
        assert_eq!(schedule(&cluster), format!(r#"{{"windows":[{window}]}}"#));

        assert_eq!(cluster.machines_down(&[FAR]).unwrap(), ["machines-down"]);
        assert_eq!(status(&cluster), format!(r#"{{"down_machines":[{far}]}}"#));
        let refusal = cluster.schedule(&[], 0).unwrap_err();
        assert_eq!(refusal.message, format!("Machine '{far}' is deactivated and cannot be removed from the schedule"));
        cluster.schedule(&[FAR], 20).unwrap();
        assert_eq!(status(&cluster), format!(r#"{{"down_machines":[{far}]}}"#), "it stays down");

        assert_eq!(cluster.machines_up(&[FAR]).unwrap(), ["machines-up"]);
        assert_eq!((status(&cluster), schedule(&cluster)), ("{}".into(), "{}".into()));
        let named = r#"Machine '{"hostname":"far.example","ip":"127.0.0.9"}'"#;
        let refusal = cluster.machines_up(&[FAR]).unwrap_err();
        assert_eq!(refusal.message, format!("{named} is not in DOWN mode and cannot be brought up"));
    }

    #[test]
    fn what_cannot_be_is_refused_as_known() {
        let mut cluster = cluster();
        let window = |machines: &[(&str, &str)], duration_ns: i64| v1::maintenance::Window {
            machine_ids: Cluster::machine_ids(machines),
            unavailability: v1::Unavailability {
                start: v1::TimeInfo { nanoseconds: 1 },
                duration: Some(v1::DurationInfo { nanoseconds: duration_ns }),
            },
        };
        let mut refused = |windows: Vec<_>| {
            let refusal = cluster.try_schedule(windows).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::Invalid);
            refusal.message
        };
        assert_eq!(refused(vec![window(&[], 0)]), "List of machines in the maintenance window is empty");
        assert_eq!(refused(vec![window(&[FAR], -1)]), "Unavailability 'duration' is negative");
        assert_eq!(refused(vec![window(&[("", "")], 0)]), "Both 'hostname' and 'ip' for a machine are empty");
        assert_eq!(refused(vec![window(&[("x", "not-an-ip")], 0)]), "Failed to parse IPv4: not-an-ip");
        let twice = r#"Machine '{"hostname":"FAR.example","ip":"127.0.0.9"}' appears more than once in the schedule"#;
        assert_eq!(refused(vec![window(&[FAR], 0), window(&[("FAR.example", "127.0.0.9")], 0)]), twice);

        cluster.schedule(&[FAR], 1).unwrap();
        let other = ("other.example", "127.0.0.5");
        let unscheduled =
            r#"Machine '{"hostname":"other.example","ip":"127.0.0.5"}' is not part of a maintenance schedule"#;
        assert_eq!(cluster.machines_down(&[FAR, other]).unwrap_err().message, unscheduled);
        let by_name = r#"Machine '{"hostname":"far.example"}' is not part of a maintenance schedule"#;
        assert_eq!(cluster.machines_down(&[("far.example", "")]).unwrap_err().message, by_name);
        assert_eq!(cluster.machines_down(&[]).unwrap_err().message, "List of machines is empty");
        cluster.machines_down(&[FAR]).unwrap();
        let again = r#"Machine '{"hostname":"far.example","ip":"127.0.0.9"}' is not in DRAINING mode and cannot be brought down"#;
        assert_eq!(cluster.machines_down(&[FAR]).unwrap_err().message, again);
        cluster.agent("cpus:1;mem:100");
        let known =
            r#"Machine '{"hostname":"host","ip":"10.0.0.0"}' is not in DRAINING mode and cannot be brought down"#;
        assert_eq!(cluster.machines_down(&[HERE]).unwrap_err().message, known);
    }

    #[test]
    fn the_agents_of_a_machine_that_goes_down_are_over_and_none_is_admitted() {
        let mut cluster = cluster();
        let framework = cluster.subscribe_as_partition_aware();
        let agent = cluster.agent("cpus:4;mem:100");
        cluster.launch(framework, "t", "cpus:1;mem:10");
        cluster.schedule(&[HERE], 19).unwrap();
        let refusal = cluster.drain(agent).unwrap_err();
        assert_eq!(refusal.message, "Agent C-S0 is part of a maintenance schedule under Machine host (10.0.0.0)");
        let names = cluster.machines_down(&[HERE]).unwrap();
        assert_eq!(names, ["task-declared", "agent-removed", "machines-down"]);
        let status = cluster.statuses().pop().unwrap();
        assert_eq!((status.state(), status.reason()), (TaskLost, v1::task_status::Reason::AgentRemoved));
        assert_eq!(status.message(), "Agent host removed: Operator initiated 'Machine DOWN'");
        let refusal = cluster.resume_with(agent, |resume| {
            resume.agent_info.hostname = "HOST".into();
            resume.address = "10.0.0.0:5051".into();
        });
        assert_eq!(refusal.unwrap_err().message, "Machine is `DOWN`");
        let refusal = cluster.try_agent_at("10.0.0.0:5051").unwrap_err();
        assert_eq!((refusal.kind, refusal.name), (RefusalKind::EndAgent, "MachineDown"));
        cluster.machines_up(&[HERE]).unwrap();
        cluster.try_agent_at("10.0.0.0:5051").unwrap();
    }

    #[test]
    fn another_time_takes_offers_back_and_the_same_does_not() {
        let mut cluster = cluster();
        cluster.subscribe();
        cluster.agent("cpus:4;mem:100");
        cluster.agent("cpus:4;mem:100");
        assert_eq!(cluster.offer().len(), 2);
        assert_eq!(cluster.schedule(&[HERE], 19).unwrap(), ["offers-returned", "maintenance-scheduled"]);
        let offers = cluster.offer();
        let shown = view::offer(&cluster.state, offers[0]).unwrap();
        assert_eq!(shown.unavailability.unwrap().start.nanoseconds, 19);
        assert_eq!(cluster.schedule(&[HERE, FAR], 19).unwrap(), ["maintenance-scheduled"]);
        let names = cluster.schedule(&[], 0).unwrap();
        assert_eq!(names, ["offers-returned", "inverse-offers-returned", "maintenance-scheduled"]);
        let offers = cluster.offer();
        assert_eq!(view::offer(&cluster.state, offers[0]).unwrap().unavailability, None);
    }
}
