//! Frameworks: who is subscribed, on which stream, with which roles, filters and suppressions.

use crate::event::{FrameworkResubscribed, FrameworkSubscribed, FrameworkTerms};
use crate::ids::{AgentKey, Connection, FrameworkKey};
use crate::resources;
use api::resources::Resources;
use bytes::Bytes;
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Live frameworks by key and id, and the last completed ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Frameworks {
    /// Every framework that is not removed, connected or not.
    pub live: OrdMap<FrameworkKey, Arc<Framework>>,
    /// The same by the id on the wire, completed ones included: a removed id does not subscribe again as long as it is
    /// remembered.
    pub by_id: OrdMap<Arc<str>, FrameworkKey>,
    /// Removed frameworks, oldest first, at most [`History::frameworks`](crate::state::History).
    pub completed: OrdMap<u64, Arc<CompletedFramework>>,
    /// The number of the next removal.
    pub next_completed: u64,
    /// The key of the next framework, and the number in its id.
    pub next: u32,
    /// Who has a role. Derived.
    #[serde(skip)]
    pub by_role: OrdSet<(Arc<str>, FrameworkKey)>,
}

/// One framework.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Framework {
    /// Its place in State.
    pub key: FrameworkKey,
    /// Its id on the wire.
    pub id: Arc<str>,
    /// The `FrameworkInfo` as subscribed, with its id, in protobuf.
    pub info: Bytes,
    /// Who authenticated as it.
    pub principal: Option<Arc<str>>,
    /// From the info, for decisions.
    pub capabilities: Capabilities,
    /// How long its tasks outlive its stream, in milliseconds.
    pub failover_timeout_ms: u64,
    /// Its roles, each with filters and suppression. Without any it is offered nothing.
    #[serde(deserialize_with = "super::cautious::map")]
    pub roles: OrdMap<Arc<str>, RoleState>,
    /// Where its events go; None while it is disconnected.
    pub stream: Option<FrameworkStream>,
    /// When it is removed unless it subscribes again; set while it is disconnected.
    pub failover_deadline_ms: Option<u64>,
    /// First subscription.
    pub registered_ms: u64,
    /// Last subscription, if there were several.
    pub reregistered_ms: Option<u64>,
    /// When its stream ended, while it is disconnected.
    pub disconnected_ms: Option<u64>,
    /// The running and pending use, kept with the tasks and executors: what it holds on each agent.
    #[serde(deserialize_with = "super::cautious::map")]
    pub used: OrdMap<AgentKey, Resources>,
    /// How many offers it declined, for explanations.
    pub declined_offers: u64,
}

/// The capabilities of a framework that decisions ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Offers carry the role they are made to.
    pub multi_role: bool,
    /// Finer states than TASK_LOST.
    pub partition_aware: bool,
    /// Resources in stack format.
    pub reservation_refinement: bool,
    /// May be offered revocable resources.
    pub revocable_resources: bool,
    /// May be offered agents with GPUs.
    pub gpu_resources: bool,
    /// May be offered shared volumes.
    pub shared_resources: bool,
    /// May be offered agents of other regions.
    pub region_aware: bool,
    /// Wants TASK_KILLING.
    pub task_killing_state: bool,
}

/// A framework's event stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameworkStream {
    /// Which master holds it, and the `Mesos-Stream-Id`.
    pub connection: Connection,
}

/// What a framework said about one of its roles.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoleState {
    /// No offers for this role until REVIVE.
    pub suppressed: bool,
    /// What it declined, by agent. An entry is over when `until_ms` has passed; it is removed some time after that.
    #[serde(deserialize_with = "super::cautious::map")]
    pub filters: OrdMap<AgentKey, RoleFilter>,
}

/// Declined resources that are not offered again for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoleFilter {
    /// What was declined: more or different resources pass.
    pub resources: Resources,
    /// In milliseconds since the epoch.
    pub until_ms: u64,
}

/// A framework that was removed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompletedFramework {
    /// As it was at the end, with no stream.
    pub framework: Arc<Framework>,
    /// When it was removed.
    pub removed_ms: u64,
}

impl Framework {
    /// The same without what it declined.
    pub(crate) fn without_filters(&self) -> Framework {
        let bare = |(role, state): (&Arc<str>, &RoleState)| {
            (role.clone(), RoleState { suppressed: state.suppressed, filters: OrdMap::new() })
        };
        Framework { roles: self.roles.iter().map(bare).collect(), ..self.clone() }
    }

    /// Whether it has a stream.
    pub fn is_connected(&self) -> bool {
        self.stream.is_some()
    }
}

impl Frameworks {
    /// A framework that is not removed.
    pub fn get(&self, key: FrameworkKey) -> Option<&Framework> {
        self.live.get(&key).map(Arc::as_ref)
    }

    /// A framework that is not removed, by its id on the wire.
    pub fn by_id(&self, id: &str) -> Option<&Framework> {
        self.by_id.get(id).and_then(|key| self.get(*key))
    }

    /// Who has this very role, by key.
    pub fn with<'a>(&'a self, role: &'a str) -> impl Iterator<Item = &'a Framework> {
        let from = (Arc::from(role), FrameworkKey(0));
        let keys = self.by_role.range(from..).take_while(move |(name, _)| **name == *role).map(|(_, key)| *key);
        keys.filter_map(|key| self.get(key))
    }

    fn change(&mut self, key: FrameworkKey) -> &mut Framework {
        Arc::make_mut(self.live.get_mut(&key).expect("the event's framework is live"))
    }

    pub(crate) fn subscribe(&mut self, event: &FrameworkSubscribed, at_ms: u64) {
        let framework = Framework {
            key: event.framework,
            id: event.id.clone(),
            info: event.info.clone(),
            principal: event.principal.clone(),
            capabilities: event.terms.capabilities,
            failover_timeout_ms: event.terms.failover_timeout_ms,
            roles: OrdMap::new(),
            stream: Some(FrameworkStream { connection: event.connection }),
            failover_deadline_ms: None,
            registered_ms: at_ms,
            reregistered_ms: None,
            disconnected_ms: None,
            used: OrdMap::new(),
            declined_offers: 0,
        };
        self.by_id.insert(event.id.clone(), event.framework);
        self.live.insert(event.framework, Arc::new(framework));
        self.next = self.next.max(event.framework.0 + 1);
        self.set_terms(event.framework, &event.terms, true);
    }

    pub(crate) fn resubscribe(&mut self, event: &FrameworkResubscribed, at_ms: u64) {
        let framework = self.change(event.framework);
        framework.info = event.info.clone();
        framework.stream = Some(FrameworkStream { connection: event.connection });
        framework.failover_deadline_ms = None;
        framework.disconnected_ms = None;
        framework.reregistered_ms = Some(at_ms);
        self.set_terms(event.framework, &event.terms, true);
    }

    pub(crate) fn update(&mut self, key: FrameworkKey, info: &Bytes, terms: &FrameworkTerms) {
        self.change(key).info = info.clone();
        self.set_terms(key, terms, false);
    }

    /// Roles that stay keep their filters, unless `afresh`; a role that is no longer suppressed loses them.
    fn set_terms(&mut self, key: FrameworkKey, terms: &FrameworkTerms, afresh: bool) {
        let framework = self.change(key);
        framework.capabilities = terms.capabilities;
        framework.failover_timeout_ms = terms.failover_timeout_ms;
        let before = std::mem::take(&mut framework.roles);
        for role in &terms.roles {
            let suppressed = terms.suppressed.contains(role);
            let mut state = match before.get(role) {
                Some(state) if !afresh => state.clone(),
                _ => RoleState::default(),
            };
            if state.suppressed && !suppressed {
                state.filters = OrdMap::new();
            }
            state.suppressed = suppressed;
            framework.roles.insert(role.clone(), state);
        }
        for role in before.keys() {
            self.by_role.remove(&(role.clone(), key));
        }
        for role in &terms.roles {
            self.by_role.insert((role.clone(), key));
        }
    }

    pub(crate) fn disconnect(&mut self, key: FrameworkKey, deadline_ms: u64, at_ms: u64) {
        let framework = self.change(key);
        framework.stream = None;
        framework.disconnected_ms = Some(at_ms);
        framework.failover_deadline_ms = Some(deadline_ms);
        clear_filters(framework);
    }

    /// On its way out: it has neither stream nor filters.
    pub(crate) fn begin_end(&mut self, key: FrameworkKey, at_ms: u64) {
        end(self.change(key), at_ms);
    }

    /// Into the history.
    pub(crate) fn remove(&mut self, key: FrameworkKey, at_ms: u64) {
        let mut framework = self.live.remove(&key).expect("the event's framework is live");
        for role in framework.roles.keys() {
            self.by_role.remove(&(role.clone(), key));
        }
        end(Arc::make_mut(&mut framework), at_ms);
        self.completed.insert(self.next_completed, Arc::new(CompletedFramework { framework, removed_ms: at_ms }));
        self.next_completed += 1;
    }

    /// Forgets all but `max` completed frameworks: the keys of those that it forgot.
    pub(crate) fn forget_completed(&mut self, max: u32) -> Vec<FrameworkKey> {
        let mut forgotten = Vec::new();
        while self.completed.len() > max as usize
            && let Some(oldest) = self.completed.get_min().map(|(number, _)| *number)
            && let Some(completed) = self.completed.remove(&oldest)
        {
            self.by_id.remove(&completed.framework.id);
            forgotten.push(completed.framework.key);
        }
        forgotten
    }

    /// Forgets what was declined until now or before.
    pub(crate) fn forget_expired_filters(&mut self, key: FrameworkKey, at_ms: u64) {
        let framework = self.change(key);
        let roles: Vec<Arc<str>> = framework.roles.keys().cloned().collect();
        for role in roles {
            if let Some(role) = framework.roles.get_mut(&role) {
                role.filters = role.filters.iter().filter(|(_, filter)| filter.until_ms > at_ms).map(owned).collect();
            }
        }
    }

    pub(crate) fn occupy(&mut self, key: FrameworkKey, agent: AgentKey, used: &Resources) {
        resources::add(self.change(key).used.entry(agent).or_default(), used);
    }

    pub(crate) fn release(&mut self, key: FrameworkKey, agent: AgentKey, used: &Resources) {
        let framework = self.change(key);
        let Some(held) = framework.used.get_mut(&agent) else {
            // Nothing is held on an agent where everything was given back: an executor without resources of its own
            // ends behind its last task.
            let is_nothing = used.is_empty() && !event_log::planted(event_log::Bug::ReleaseOfNothing);
            assert!(is_nothing, "what is released was held: {used}");
            return;
        };
        resources::subtract(held, used);
        if held.is_empty() {
            framework.used.remove(&agent);
        }
    }

    pub(crate) fn filter(&mut self, key: FrameworkKey, role: &str, agent: AgentKey, filter: RoleFilter) {
        // The role may be gone since the offer was made.
        if let Some(role) = self.change(key).roles.get_mut(role) {
            role.filters.insert(agent, filter);
        }
    }

    pub(crate) fn count_declined(&mut self, key: FrameworkKey, offers: usize) {
        self.change(key).declined_offers += offers as u64;
    }

    pub(crate) fn revive(&mut self, key: FrameworkKey, roles: &[Arc<str>]) {
        for role in roles {
            if let Some(role) = self.change(key).roles.get_mut(role) {
                *role = RoleState::default();
            }
        }
    }

    pub(crate) fn suppress(&mut self, key: FrameworkKey, roles: &[Arc<str>]) {
        for role in roles {
            if let Some(role) = self.change(key).roles.get_mut(role) {
                role.suppressed = true;
            }
        }
    }

    /// Forgets what was declined of an agent that is over or has changed.
    pub(crate) fn forget_agent(&mut self, agent: AgentKey) {
        let affected: Vec<FrameworkKey> = self
            .live
            .values()
            .filter(|framework| framework.roles.values().any(|role| role.filters.contains_key(&agent)))
            .map(|framework| framework.key)
            .collect();
        for key in affected {
            let framework = self.change(key);
            let roles: Vec<Arc<str>> = framework.roles.keys().cloned().collect();
            for role in roles {
                if let Some(role) = framework.roles.get_mut(&role) {
                    role.filters.remove(&agent);
                }
            }
        }
    }
}

fn owned((agent, filter): (&AgentKey, &RoleFilter)) -> (AgentKey, RoleFilter) {
    (*agent, filter.clone())
}

/// It has no stream from now on, and will not have another.
fn end(framework: &mut Framework, at_ms: u64) {
    framework.stream = None;
    framework.failover_deadline_ms = None;
    framework.disconnected_ms.get_or_insert(at_ms);
    clear_filters(framework);
}

fn clear_filters(framework: &mut Framework) {
    let roles: Vec<Arc<str>> = framework.roles.keys().cloned().collect();
    for role in roles {
        if let Some(role) = framework.roles.get_mut(&role) {
            role.filters = OrdMap::new();
        }
    }
}
