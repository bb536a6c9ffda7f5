//! Machines that are to be unavailable for a while: the schedule, what is down, what frameworks were asked and answered.

use crate::event::{InverseOffersAnswered, InverseOffersMade};
use crate::ids::{AgentKey, FrameworkKey, OfferKey};
use crate::state::{Agent, Deadline, State};
use api::v1;
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The schedule and what it led to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Maintenance {
    /// The schedule as the operator wrote it, without the machines that are up again.
    pub windows: Vec<Window>,
    /// Every machine of the schedule, and some that were in it.
    pub machines: OrdMap<MachineKey, Machine>,
    /// What frameworks are asked to give back, and have not answered, by key: a number among those of offers.
    pub inverse_offers: OrdMap<OfferKey, InverseOffer>,
    /// What frameworks answered.
    pub answers: OrdMap<(AgentKey, FrameworkKey), Answer>,
    /// When scheduled machines are to be unavailable. Derived.
    #[serde(skip)]
    pub unavailable: OrdMap<MachineKey, Unavailability>,
    /// Inverse offers by agent and framework: at most one each. Derived.
    #[serde(skip)]
    pub waiting: OrdMap<(AgentKey, FrameworkKey), OfferKey>,
}

/// How many machines that are up again are remembered, those that were scheduled last.
pub const MACHINES_UP_MAX: usize = 10_000;

/// A machine as the operator wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineId {
    /// Its name.
    pub hostname: Option<Arc<str>>,
    /// Its address.
    pub ip: Option<Arc<str>>,
}

/// What machines are compared by: the hostname in lower case, and the address. What is not given is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MachineKey {
    /// In lower case.
    pub hostname: Arc<str>,
    /// As text.
    pub ip: Arc<str>,
}

/// When machines are unavailable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Which, at least one.
    pub machines: Vec<MachineId>,
    /// From when for how long.
    pub unavailability: Unavailability,
}

/// A time without a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unavailability {
    /// In nanoseconds since the epoch.
    pub start_ns: i64,
    /// In nanoseconds, from 0; None: for good.
    pub duration_ns: Option<i64>,
}

/// What is known of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// As it was written first.
    pub id: MachineId,
    /// Where it is in its maintenance.
    pub mode: Mode,
    /// When it was scheduled last, in milliseconds since the epoch.
    pub since_ms: u64,
}

/// Where a machine is in its maintenance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// It is in no schedule.
    Up,
    /// It is scheduled: its frameworks are asked to leave it.
    Draining,
    /// Its agents are over, and none is admitted.
    Down,
}

/// A framework is asked to give back what it has of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InverseOffer {
    /// Who.
    pub framework: FrameworkKey,
    /// Of which agent.
    pub agent: AgentKey,
    /// Since when, in milliseconds since the epoch.
    pub at_ms: u64,
    /// When the question is taken back, if ever.
    pub expires_ms: Option<u64>,
}

/// What a framework answered that was asked of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// It will leave.
    pub is_accepted: bool,
    /// When it said so, in milliseconds since the epoch.
    pub at_ms: u64,
    /// Not to be asked again before, in milliseconds since the epoch.
    pub filtered_until_ms: Option<u64>,
}

impl MachineId {
    /// As the wire has it.
    pub fn to_v1(&self) -> v1::MachineId {
        let text = |part: &Option<Arc<str>>| part.as_ref().map(|part| part.to_string());
        v1::MachineId { hostname: text(&self.hostname), ip: text(&self.ip) }
    }

    /// The same from the wire.
    pub fn from_v1(id: &v1::MachineId) -> MachineId {
        let text = |part: &Option<String>| part.as_deref().map(Arc::from);
        MachineId { hostname: text(&id.hostname), ip: text(&id.ip) }
    }

    /// As people see it: `host (10.0.0.1)`.
    pub fn named(&self) -> String {
        match (self.hostname.as_deref().unwrap_or(""), self.ip.as_deref().unwrap_or("")) {
            (hostname, "") => hostname.to_owned(),
            ("", ip) => ip.to_owned(),
            (hostname, ip) => format!("{hostname} ({ip})"),
        }
    }

    /// What it is compared by.
    pub fn key(&self) -> MachineKey {
        MachineKey::new(self.hostname.as_deref().unwrap_or(""), self.ip.as_deref().unwrap_or(""))
    }
}

impl MachineKey {
    /// Of a name and an address, each of which may be empty.
    pub fn new(hostname: &str, ip: &str) -> MachineKey {
        MachineKey { hostname: hostname.to_ascii_lowercase().into(), ip: ip.into() }
    }

    /// The machine that an agent runs on, as it said.
    pub fn of(agent: &Agent) -> MachineKey {
        MachineKey::announced(&agent.hostname, &agent.address)
    }

    /// The machine of an agent with this name and `host:port`.
    pub fn announced(hostname: &str, address: &str) -> MachineKey {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        MachineKey::new(hostname, host.trim_matches(['[', ']']))
    }
}

impl Unavailability {
    /// As the wire has it.
    pub fn to_v1(self) -> v1::Unavailability {
        v1::Unavailability {
            start: v1::TimeInfo { nanoseconds: self.start_ns },
            duration: self.duration_ns.map(|nanoseconds| v1::DurationInfo { nanoseconds }),
        }
    }
}

impl Maintenance {
    /// When the machine of this agent is to be unavailable.
    pub fn unavailability(&self, agent: &Agent) -> Option<Unavailability> {
        // Nearly always there is no schedule, and nothing to be put together for a look.
        if self.unavailable.is_empty() {
            return None;
        }
        self.unavailable.get(&MachineKey::of(agent)).copied()
    }

    /// Whether this machine is down: its agents are not admitted.
    pub fn is_down(&self, machine: &MachineKey) -> bool {
        self.machines.get(machine).is_some_and(|machine| machine.mode == Mode::Down)
    }

    /// What the frameworks answered that were asked of an agent.
    pub fn answers_of(&self, agent: AgentKey) -> impl Iterator<Item = (FrameworkKey, &Answer)> {
        let all = (agent, FrameworkKey(0))..=(agent, FrameworkKey(u32::MAX));
        self.answers.range(all).map(|((_, framework), answer)| (*framework, answer))
    }

    /// The inverse offers of an agent, by framework.
    pub fn waiting_on(&self, agent: AgentKey) -> impl Iterator<Item = (FrameworkKey, OfferKey)> + '_ {
        let all = (agent, FrameworkKey(0))..=(agent, FrameworkKey(u32::MAX));
        self.waiting.range(all).map(|((_, framework), key)| (*framework, *key))
    }

    /// The inverse offers that a framework has not answered, by age.
    pub fn waiting_for(&self, framework: FrameworkKey) -> impl Iterator<Item = (OfferKey, &InverseOffer)> {
        let own = move |(_, offer): &(&OfferKey, &InverseOffer)| offer.framework == framework;
        self.inverse_offers.iter().filter(own).map(|(key, offer)| (*key, offer))
    }

    /// Whether this framework is not to be asked of this agent at `at_ms`: it was, or it does not want to be again yet.
    pub fn is_asked(&self, agent: AgentKey, framework: FrameworkKey, at_ms: u64) -> bool {
        let key = (agent, framework);
        let answer = self.answers.get(&key).and_then(|answer| answer.filtered_until_ms);
        self.waiting.contains_key(&key) || answer.is_some_and(|until_ms| until_ms > at_ms)
    }

    /// A new schedule in place of the one before.
    pub(crate) fn schedule(&mut self, windows: &[Window], at_ms: u64) {
        self.windows = windows.to_vec();
        self.index_windows();
        // They were to other questions.
        self.answers = OrdMap::new();
        let known: Vec<MachineKey> = self.machines.keys().cloned().collect();
        for key in known.into_iter().filter(|key| !self.unavailable.contains_key(key)) {
            self.machines.get_mut(&key).expect("a key of the map").mode = Mode::Up;
        }
        for id in windows.iter().flat_map(|window| &window.machines) {
            let new = || Machine { id: id.clone(), mode: Mode::Up, since_ms: at_ms };
            let machine = self.machines.entry(id.key()).or_insert_with(new);
            machine.since_ms = at_ms;
            if machine.mode == Mode::Up {
                machine.mode = Mode::Draining;
            }
        }
        self.forget_machines();
    }

    /// These machines are down.
    pub(crate) fn take_down(&mut self, machines: &[MachineId]) {
        for id in machines {
            if let Some(machine) = self.machines.get_mut(&id.key()) {
                machine.mode = Mode::Down;
            }
        }
    }

    /// These machines are up again, and out of the schedule.
    pub(crate) fn bring_up(&mut self, machines: &[MachineId]) {
        let keys: OrdSet<MachineKey> = machines.iter().map(MachineId::key).collect();
        for key in &keys {
            if let Some(machine) = self.machines.get_mut(key) {
                machine.mode = Mode::Up;
            }
        }
        for window in &mut self.windows {
            window.machines.retain(|id| !keys.contains(&id.key()));
        }
        self.windows.retain(|window| !window.machines.is_empty());
        self.index_windows();
        self.forget_machines();
    }

    /// Of the machines that are up again, only the last are remembered.
    fn forget_machines(&mut self) {
        let up = self.machines.iter().filter(|(_, machine)| machine.mode == Mode::Up);
        let mut up: Vec<(u64, MachineKey)> = up.map(|(key, machine)| (machine.since_ms, key.clone())).collect();
        let too_many = up.len().saturating_sub(MACHINES_UP_MAX);
        up.sort_unstable();
        for (_, key) in up.into_iter().take(too_many) {
            self.machines.remove(&key);
        }
    }

    fn index_windows(&mut self) {
        let of =
            |window: &Window| window.machines.iter().map(|id| (id.key(), window.unavailability)).collect::<Vec<_>>();
        self.unavailable = self.windows.iter().flat_map(of).collect();
    }

    /// Makes what is derived.
    pub(crate) fn rebuild(&mut self) {
        self.index_windows();
        self.waiting = self.inverse_offers.iter().map(|(key, offer)| ((offer.agent, offer.framework), *key)).collect();
    }

    pub(crate) fn ask(&mut self, key: OfferKey, offer: InverseOffer) {
        self.waiting.insert((offer.agent, offer.framework), key);
        self.inverse_offers.insert(key, offer);
    }

    /// It is answered, or taken back.
    pub(crate) fn take_back(&mut self, key: OfferKey) -> InverseOffer {
        let offer = self.inverse_offers.remove(&key).expect("the event's inverse offer is outstanding");
        self.waiting.remove(&(offer.agent, offer.framework));
        offer
    }

    /// Whatever a framework refused it may be asked again.
    pub(crate) fn forget_filters(&mut self, framework: FrameworkKey) {
        let keys: Vec<_> = self.answers.keys().filter(|(_, of)| *of == framework).copied().collect();
        for key in keys {
            self.answers.get_mut(&key).expect("a key of the map").filtered_until_ms = None;
        }
    }

    /// A framework is over: what it answered is not remembered.
    pub(crate) fn forget_framework(&mut self, framework: FrameworkKey) {
        self.forget_answers(|(_, of)| *of == framework);
    }

    /// An agent is over, or runs on another machine.
    pub(crate) fn forget_agent(&mut self, agent: AgentKey) {
        self.forget_answers(|(of, _)| *of == agent);
    }

    fn forget_answers(&mut self, is: impl Fn(&(AgentKey, FrameworkKey)) -> bool) {
        let keys: Vec<_> = self.answers.keys().filter(|key| is(key)).copied().collect();
        for key in keys {
            self.answers.remove(&key);
        }
    }
}

impl State {
    pub(crate) fn make_inverse_offers(&mut self, event: &InverseOffersMade, at_ms: u64) {
        let mut key = event.first;
        for group in &event.groups {
            for agent in &group.agents {
                if let Some(expires_ms) = event.expires_ms {
                    self.deadlines.insert((expires_ms, Deadline::InverseOffer(key)));
                }
                let expires_ms = event.expires_ms;
                self.maintenance
                    .ask(key, InverseOffer { framework: group.framework, agent: *agent, at_ms, expires_ms });
                key = OfferKey(key.0 + 1);
            }
        }
        self.offers.next = self.offers.next.max(key.0);
    }

    pub(crate) fn take_back_inverse(&mut self, key: OfferKey) -> InverseOffer {
        let offer = self.maintenance.take_back(key);
        if let Some(expires_ms) = offer.expires_ms {
            self.deadlines.remove(&(expires_ms, Deadline::InverseOffer(key)));
        }
        offer
    }

    pub(crate) fn answer_inverse_offers(&mut self, event: &InverseOffersAnswered, at_ms: u64) {
        let InverseOffersAnswered { is_accepted, until_ms: filtered_until_ms, .. } = *event;
        for key in event.offers.iter() {
            let offer = self.take_back_inverse(key);
            let answer = Answer { is_accepted, at_ms, filtered_until_ms };
            self.maintenance.answers.insert((offer.agent, offer.framework), answer);
        }
    }
}
