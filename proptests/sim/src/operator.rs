//! Operators: one changes agents, and all read; what they read is compared with what was answered before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::Media;
use api::v1;
use api::v1::master::call::{self, Type};
use api::v1::master::{Call, Response};
use event_log::host::Host;
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::agent::{ip_of, scalar};
use crate::net::Net;
use crate::random::Random;
use crate::world::{EPOCH_MS, World};

const PATIENCE: Duration = Duration::from_secs(20);

/// One operator.
pub struct Operator {
    world: Arc<World>,
    net: Net,
    name: String,
    masters: Arc<Mutex<Vec<String>>>,
    random: Random,
    /// Changes things, too.
    writes: bool,
    agents: Vec<String>,
    /// All that it ever saw: some are away.
    known: BTreeSet<String>,
    /// Where the agents run, and frameworks, as they were seen last.
    hosts: Vec<String>,
    frameworks: Vec<String>,
    /// Machines that it took down or was about to.
    down: BTreeSet<String>,
}

impl Operator {
    /// Starts an operator.
    pub fn start(world: &Arc<World>, net: &Net, name: &str, masters: Arc<Mutex<Vec<String>>>, writes: bool) {
        let mut random = world.random(name);
        let host = Host::new(random.number(), EPOCH_MS, 0);
        let (world, net, name) = (world.clone(), net.clone(), name.to_owned());
        let (agents, hosts, frameworks) = (Vec::new(), Vec::new(), Vec::new());
        let (known, down) = (BTreeSet::new(), BTreeSet::new());
        let operator = Operator { world, net, name, masters, random, writes, agents, known, hosts, frameworks, down };
        host.spawn(operator.run());
    }

    async fn run(mut self) {
        loop {
            let pause_ms = self.random.range(200, 4_000);
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            let quiet = self.world.is_quiet();
            match self.random.below(20) {
                0..=2 if self.writes => self.set_active(quiet).await,
                4 | 5 if self.writes && !quiet => self.convert().await,
                3 if self.writes && !quiet && self.random.permille(200) => self.mark_gone().await,
                6 if self.writes && !quiet => self.set_quota(false).await,
                7 if self.writes && !quiet => self.set_weight().await,
                10 if self.writes && !quiet => self.maintain().await,
                11 if self.writes && !quiet => self.brake().await,
                12 if self.writes && !quiet && self.random.permille(300) => self.be_wrong().await,
                8..=9 => self.read_frameworks().await,
                _ => self.read_agents().await,
            }
            if quiet && self.writes {
                self.set_quota(true).await;
                self.end_maintenance().await;
                self.release().await;
                // Nobody stays deactivated: everything must end.
                for agent in self.agents.clone() {
                    if self.world.oracle.lock().linear.may_be_deactivated(&agent) {
                        self.activate(&agent, true).await;
                    }
                }
            }
        }
    }

    async fn call(&mut self, call: Call) -> Option<(u16, Response)> {
        let masters = self.masters.lock().clone();
        let master = self.random.pick(&masters).cloned()?;
        let protobuf = "application/x-protobuf".to_owned();
        let headers = [("content-type", protobuf.clone()), ("accept", protobuf)];
        let body = Media::Protobuf.encode(&call);
        let asked = self.net.post(&self.name, &master, "/api/v1", &headers, body);
        let (status, body) = timeout(PATIENCE, asked).await.ok()?.ok()?;
        let kind = call.r#type().as_str_name();
        self.world.trace(format_args!("{} {kind} at {master} is answered {status}", self.name));
        let response =
            if status.is_success() { api::decode_protobuf(body).unwrap_or_default() } else { Response::default() };
        Some((status.as_u16(), response))
    }

    async fn set_active(&mut self, always: bool) {
        let deactivate = !always && self.random.permille(500);
        let away: Vec<String> = self.known.iter().filter(|id| !self.agents.contains(id)).cloned().collect();
        let all = if !always && self.random.permille(300) && !away.is_empty() { &away } else { &self.agents };
        let Some(agent) = self.random.pick(all).cloned() else { return };
        self.activate(&agent, !deactivate).await;
    }

    async fn activate(&mut self, agent: &str, active: bool) {
        let agent_id = v1::AgentId { value: agent.to_owned() };
        let call = if active {
            // A drain that is not over goes on, or is given up.
            let cancel_drain = Some(self.random.permille(500));
            let reactivate_agent = Some(call::ReactivateAgent { agent_id, cancel_drain });
            Call { r#type: Some(Type::ReactivateAgent as i32), reactivate_agent, ..Call::default() }
        } else if self.random.permille(500) {
            // Every task is killed, and it is not offered until it is reactivated; that waits until it is empty.
            let max_grace_period = self.random.permille(700).then(Default::default);
            let mark_gone = self.random.permille(100).then_some(true);
            if mark_gone.is_some() {
                self.world.oracle.lock().linear.going(agent);
            }
            let mut drain = call::DrainAgent { agent_id, max_grace_period, mark_gone };
            if let Some(grace) = &mut drain.max_grace_period {
                grace.seconds = self.random.below(8) as i64;
            }
            Call { r#type: Some(Type::DrainAgent as i32), drain_agent: Some(drain), ..Call::default() }
        } else {
            let deactivate_agent = Some(call::DeactivateAgent { agent_id });
            Call { r#type: Some(Type::DeactivateAgent as i32), deactivate_agent, ..Call::default() }
        };
        self.world.oracle.lock().linear.write_begins(agent, !active);
        // Of who is away nobody sees yet whether it is done.
        let status = self.call(call).await.map(|(status, _)| status).filter(|status| *status != 409);
        self.world.oracle.lock().linear.write_ends(agent, !active, status);
    }

    /// A piece of an agent's disk is reserved, made a volume, and the way back; where that fits, now.
    async fn convert(&mut self) {
        let Some(agent) = self.random.pick(&self.agents).cloned() else { return };
        let agent_id = v1::AgentId { value: agent };
        let reservation = v1::resource::ReservationInfo {
            r#type: Some(v1::resource::reservation_info::Type::Dynamic as i32),
            role: Some("stored".to_owned()),
            ..Default::default()
        };
        let reserved = v1::Resource { reservations: vec![reservation], ..scalar("disk", 16.0) };
        let id = format!("v{}", self.random.below(2));
        let found =
            v1::Volume { mode: v1::volume::Mode::Rw as i32, container_path: "data".into(), ..Default::default() };
        let persistence = Some(v1::resource::disk_info::Persistence { id, principal: None });
        let disk = v1::resource::DiskInfo { persistence, volume: Some(found), source: None };
        let volume = v1::Resource { disk: Some(disk.into()), ..reserved.clone() };
        let mut call = Call::default();
        let kind = match self.random.below(4) {
            0 => {
                let (resources, source) = (vec![reserved], Vec::new());
                call.reserve_resources = Some(call::ReserveResources { agent_id, source, resources });
                Type::ReserveResources
            }
            1 => {
                call.unreserve_resources = Some(call::UnreserveResources { agent_id, resources: vec![reserved] });
                Type::UnreserveResources
            }
            2 => {
                call.create_volumes = Some(call::CreateVolumes { agent_id, volumes: vec![volume] });
                Type::CreateVolumes
            }
            _ => {
                call.destroy_volumes = Some(call::DestroyVolumes { agent_id, volumes: vec![volume] });
                Type::DestroyVolumes
            }
        };
        call.r#type = Some(kind as i32);
        self.call(call).await;
    }

    /// Machines are scheduled, go down and come up again.
    async fn maintain(&mut self) {
        let Some(host) = self.random.pick(&self.hosts).cloned() else { return };
        match self.random.below(6) {
            0 | 1 => {
                let mut hosts = self.down.clone();
                hosts.insert(host);
                self.schedule(&hosts).await;
            }
            2 => self.schedule(&self.down.clone()).await,
            // Rare: who goes down ends, and comes back as another.
            3 if self.random.permille(300) => {
                let mut hosts = self.down.clone();
                hosts.insert(host.clone());
                self.schedule(&hosts).await;
                self.down.insert(host.clone());
                let start_maintenance = Some(call::StartMaintenance { machines: vec![machine(&host)] });
                let kind = Some(Type::StartMaintenance as i32);
                self.call(Call { r#type: kind, start_maintenance, ..Call::default() }).await;
            }
            _ => {
                let down = self.down.iter().next().cloned();
                self.bring_up(&down.unwrap_or(host)).await;
            }
        }
    }

    async fn bring_up(&mut self, host: &str) {
        let stop_maintenance = Some(call::StopMaintenance { machines: vec![machine(host)] });
        let call = Call { r#type: Some(Type::StopMaintenance as i32), stop_maintenance, ..Call::default() };
        if let Some((200 | 400, _)) = self.call(call).await {
            self.down.remove(host);
        }
    }

    async fn schedule(&mut self, hosts: &BTreeSet<String>) {
        let unavailability = v1::Unavailability {
            start: v1::TimeInfo { nanoseconds: self.random.below(4) as i64 * 1_000_000_000 },
            duration: None,
        };
        let machine_ids: Vec<v1::MachineId> = hosts.iter().map(|host| machine(host)).collect();
        let windows = match machine_ids.is_empty() {
            true => Vec::new(),
            false => vec![v1::maintenance::Window { machine_ids, unavailability }],
        };
        let schedule = v1::maintenance::Schedule { windows };
        let update_maintenance_schedule = Some(call::UpdateMaintenanceSchedule { schedule });
        let kind = Some(Type::UpdateMaintenanceSchedule as i32);
        self.call(Call { r#type: kind, update_maintenance_schedule, ..Call::default() }).await;
    }

    /// Every machine is up, and none is to go down: everything must end.
    async fn end_maintenance(&mut self) {
        for host in self.down.clone() {
            self.bring_up(&host).await;
        }
        if self.down.is_empty() {
            self.schedule(&BTreeSet::new()).await;
        }
    }

    /// Offers are paused for everybody, a role or a framework, or new frameworks are refused; and the way back.
    async fn brake(&mut self) {
        let what = match self.random.below(4) {
            0 => String::new(),
            1 => format!(r#""role": "f{}","#, self.random.range(1, 3)),
            2 => match self.random.pick(&self.frameworks) {
                Some(framework) => format!(r#""framework_id": "{framework}","#),
                None => return,
            },
            _ => r#""new_frameworks": true,"#.to_owned(),
        };
        let (kind, field) = if self.random.permille(400) { ("PAUSE", "pause") } else { ("RESUME", "resume") };
        self.pull(&format!(r#"{{"type": "{kind}", "{field}": {{{what} "why": "a test"}}}}"#)).await;
    }

    async fn release(&mut self) {
        let mut all = vec![String::new(), r#""new_frameworks": true,"#.to_owned()];
        all.extend((1..=3).map(|role| format!(r#""role": "f{role}","#)));
        all.extend(self.frameworks.iter().map(|framework| format!(r#""framework_id": "{framework}","#)));
        for what in all {
            self.pull(&format!(r#"{{"type": "RESUME", "resume": {{{what} "why": "over"}}}}"#)).await;
        }
    }

    async fn pull(&mut self, body: &str) {
        let masters = self.masters.lock().clone();
        let Some(master) = self.random.pick(&masters).cloned() else { return };
        let headers = [("content-type", "application/json".to_owned())];
        let asked = self.net.post(&self.name, &master, "/brakes", &headers, body.to_owned().into());
        let status = timeout(PATIENCE, asked).await.ok().and_then(Result::ok).map(|(status, _)| status.as_u16());
        self.world.trace(format_args!("{} {body} at {master} is answered {status:?}", self.name));
    }

    async fn mark_gone(&mut self) {
        let Some(agent) = self.random.pick(&self.agents).cloned() else { return };
        self.world.oracle.lock().linear.going(&agent);
        let mark_agent_gone = Some(call::MarkAgentGone { agent_id: v1::AgentId { value: agent.clone() } });
        let call = Call { r#type: Some(Type::MarkAgentGone as i32), mark_agent_gone, ..Call::default() };
        if let Some((200, _)) = self.call(call).await {
            self.world.oracle.lock().linear.gone(&agent);
        }
    }

    /// One role may have so much and no more; or all may have anything again.
    async fn set_quota(&mut self, endless: bool) {
        let limited = |role: &str, cpus: Option<u64>| {
            // What operators reserve is disk.
            let (name, each) = if role == "stored" { ("disk", 8.0) } else { ("cpus", 1.0) };
            let limit = |cpus: u64| (name.to_owned(), v1::value::Scalar { value: cpus as f64 * each });
            let limits = cpus.map(limit).into_iter().collect();
            v1::quota::QuotaConfig { role: role.to_owned(), limits, ..Default::default() }
        };
        let quota_configs = if endless {
            ["f1", "f2", "f3", "stored"].map(|role| limited(role, None)).to_vec()
        } else {
            let role = match self.random.below(4) {
                0 => "stored".to_owned(),
                number => format!("f{number}"),
            };
            let cpus = self.random.permille(700).then(|| self.random.below(6));
            vec![limited(&role, cpus)]
        };
        let update_quota = call::UpdateQuota { force: Some(true), quota_configs };
        let call = Call { r#type: Some(Type::UpdateQuota as i32), update_quota: Some(update_quota), ..Call::default() };
        self.call(call).await;
    }

    /// Calls that are refused.
    async fn be_wrong(&mut self) {
        let mut call = Call::default();
        let kind = match self.random.below(4) {
            0 => {
                let weight_infos = vec![v1::WeightInfo { role: Some("f1".to_owned()), weight: -1.0 }];
                call.update_weights = Some(call::UpdateWeights { weight_infos });
                Type::UpdateWeights
            }
            1 => {
                let quota_configs = vec![v1::quota::QuotaConfig { role: "f1/below".to_owned(), ..Default::default() }];
                call.update_quota = Some(call::UpdateQuota { force: None, quota_configs });
                Type::UpdateQuota
            }
            2 => {
                let agent_id = v1::AgentId { value: self.agents.first().cloned().unwrap_or_default() };
                call.create_volumes = Some(call::CreateVolumes { agent_id, volumes: Vec::new() });
                Type::CreateVolumes
            }
            _ => Type::DrainAgent,
        };
        call.r#type = Some(kind as i32);
        self.call(call).await;
    }

    async fn set_weight(&mut self) {
        let role = format!("f{}", self.random.range(1, 3));
        let weight_infos = vec![v1::WeightInfo { role: Some(role), weight: self.random.range(1, 40) as f64 / 10.0 }];
        let update_weights = Some(call::UpdateWeights { weight_infos });
        let call = Call { r#type: Some(Type::UpdateWeights as i32), update_weights, ..Call::default() };
        self.call(call).await;
    }

    async fn read_agents(&mut self) {
        let expected = self.world.oracle.lock().linear.begin_read();
        let call = Call { r#type: Some(Type::GetAgents as i32), ..Call::default() };
        let Some((200, response)) = self.call(call).await else { return };
        let agents = response.get_agents.unwrap_or_default().agents;
        let seen: Vec<(String, bool)> = agents
            .iter()
            .map(|agent| (agent.agent_info.id.clone().unwrap_or_default().value, agent.deactivated()))
            .collect();
        self.agents = seen.iter().map(|(id, _)| id.clone()).collect();
        self.known.extend(self.agents.iter().cloned());
        self.hosts = agents.iter().map(|agent| agent.agent_info.hostname.clone()).collect();
        self.world.oracle.lock().linear.agents_read(&self.world, &self.name, &expected, &seen);
    }

    async fn read_frameworks(&mut self) {
        let expected = self.world.oracle.lock().linear.begin_read();
        let call = Call { r#type: Some(Type::GetFrameworks as i32), ..Call::default() };
        let Some((200, response)) = self.call(call).await else { return };
        let frameworks = response.get_frameworks.unwrap_or_default().frameworks;
        let seen: Vec<String> =
            frameworks.iter().map(|it| it.framework_info.id.clone().unwrap_or_default().value).collect();
        self.frameworks.clone_from(&seen);
        self.world.oracle.lock().linear.frameworks_read(&self.world, &self.name, &expected, &seen);
    }
}

/// The machine of this name.
fn machine(host: &str) -> v1::MachineId {
    v1::MachineId { hostname: Some(host.to_owned()), ip: Some(ip_of(host)) }
}
