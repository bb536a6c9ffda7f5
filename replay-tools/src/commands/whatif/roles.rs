//! The same history with roles by other names: every event is rewritten before it is folded.

use api::resources::{Reservation, Resource, Resources};
use master_core::event::{AgentProfile, Event, ExecutorUse, FrameworkTerms, Offered};
use master_core::{State, fold};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A state of other roles.
pub(super) struct Renamed {
    names: BTreeMap<Arc<str>, Arc<str>>,
    /// What the rewritten events led to.
    pub state: State,
}

impl Renamed {
    /// Before the first event.
    pub(super) fn new(names: BTreeMap<Arc<str>, Arc<str>>) -> Renamed {
        Renamed { names, state: State::default() }
    }

    /// # Panics
    /// As [`fold()`].
    pub(super) fn fold(&mut self, event: &Event, at_ms: u64) {
        let mut event = event.clone();
        self.rewrite(&mut event);
        fold(&mut self.state, &event, at_ms);
    }

    fn rewrite(&self, event: &mut Event) {
        match event {
            Event::FrameworkSubscribed(event) => self.terms(&mut event.terms),
            Event::FrameworkResubscribed(event) => self.terms(&mut event.terms),
            Event::FrameworkUpdated(event) => self.terms(&mut event.terms),
            Event::AgentRegistered(event) => self.profile(&mut event.profile),
            Event::AgentResumed(event) => event.profile.iter_mut().for_each(|profile| self.profile(profile)),
            Event::OffersMade(event) => {
                for group in &mut event.groups {
                    self.role(&mut group.role);
                    for (_, offered) in &mut group.offers.0 {
                        if let Offered::Part(resources) = offered {
                            self.resources(resources);
                        }
                    }
                }
            }
            Event::OffersAccepted(event) => {
                if let Some(unused) = &mut event.unused {
                    self.role(&mut unused.role);
                    self.resources(&mut unused.resources);
                }
            }
            Event::RolesRevived(event) => self.roles(&mut event.roles),
            Event::RolesSuppressed(event) => self.roles(&mut event.roles),
            Event::TaskLaunched(event) => {
                self.role(&mut event.role);
                self.resources(&mut event.resources);
                event.executor.iter_mut().for_each(|executor| self.executor(executor));
            }
            Event::TaskGroupLaunched(event) => {
                self.role(&mut event.role);
                self.executor(&mut event.executor);
                event.tasks.iter_mut().for_each(|task| self.resources(&mut task.resources));
            }
            // No other event names a role.
            _ => {}
        }
    }

    fn terms(&self, terms: &mut FrameworkTerms) {
        self.roles(&mut terms.roles);
        self.roles(&mut terms.suppressed);
    }

    fn profile(&self, profile: &mut AgentProfile) {
        self.resources(&mut profile.total);
    }

    fn executor(&self, executor: &mut ExecutorUse) {
        if let Some(new) = &mut executor.new {
            self.resources(&mut new.resources);
        }
    }

    fn role(&self, role: &mut Arc<str>) {
        if let Some(name) = self.names.get(role) {
            *role = name.clone();
        }
    }

    /// Two roles may become one.
    fn roles(&self, roles: &mut Vec<Arc<str>>) {
        roles.iter_mut().for_each(|role| self.role(role));
        let mut seen = std::collections::BTreeSet::new();
        roles.retain(|role| seen.insert(role.clone()));
    }

    fn resources(&self, resources: &mut Resources) {
        let renamed = resources.iter().cloned().map(|mut resource: Resource| {
            resource.allocation_role.iter_mut().for_each(|role| self.role(role));
            resource.reservations.iter_mut().for_each(|reservation: &mut Reservation| self.role(&mut reservation.role));
            resource
        });
        *resources = renamed.collect();
    }
}
