//! What an event of a master's log concerns, by the names that people use. Events name things by dense keys, and some
//! not at all: an offer's role is told when the offer is made, a task's when it is launched. So names are learnt on the
//! way through the log, and forgotten when nothing can concern them any more.

use crate::shown::Touches;
use master_core::State;
use master_core::event::{Event, FrameworkTerms, OfferGroup, OfferKeys};
use master_core::ids::{FrameworkKey, TaskKey};
use master_core::task_state::is_terminal;
use std::collections::BTreeMap;

/// The names known so far.
#[derive(Default)]
pub struct Names {
    /// Ids on the wire.
    frameworks: BTreeMap<u32, String>,
    /// Roles of frameworks.
    framework_roles: BTreeMap<u32, Vec<String>>,
    /// Roles of outstanding offers.
    offers: BTreeMap<u64, String>,
    /// Roles of tasks that go on.
    tasks: BTreeMap<TaskKey, String>,
    /// What the last answer to offers touched: its launches, granted or refused, follow in the same record.
    answer: Option<Answer>,
}

struct Answer {
    framework: FrameworkKey,
    cause: u32,
    offers: Vec<String>,
    roles: Vec<String>,
}

impl Names {
    /// Those that a state knows, for who begins in the middle.
    pub fn of(state: &State) -> Names {
        let mut names = Names::default();
        let completed = state.frameworks.completed.values().map(|completed| &completed.framework);
        for framework in state.frameworks.live.values().chain(completed) {
            names.frameworks.insert(framework.key.0, framework.id.to_string());
        }
        for framework in state.frameworks.live.values() {
            let roles = framework.roles.keys().map(ToString::to_string).collect();
            names.framework_roles.insert(framework.key.0, roles);
        }
        names.offers = state.offers.live.values().map(|offer| (offer.key.0, offer.role.to_string())).collect();
        names.tasks = state.tasks.live.values().map(|task| (task.key(), task.role.to_string())).collect();
        names
    }

    /// A record begins.
    pub fn begin_record(&mut self) {
        self.answer = None;
    }

    /// What the event concerns; `cause` is the number of its cause in the record.
    pub fn touches(&mut self, event: &Event, cause: u32) -> Touches {
        let touched = event.touches();
        self.learn(event);
        let mut touches = Touches { roles: self.roles(event), ..Touches::default() };
        for key in &touched.frameworks {
            touches.frameworks.push(format!("F{}", key.0));
            touches.frameworks.extend(self.frameworks.get(&key.0).cloned());
        }
        for (key, id) in &touched.tasks {
            touches.tasks.push(id.to_string());
            touches.tasks.push(format!("F{}/{id}", key.0));
            touches.tasks.extend(self.frameworks.get(&key.0).map(|framework| format!("{framework}/{id}")));
        }
        touches.agents.extend(touched.agents.iter().map(|key| format!("S{}", key.0)));
        touches.offers.extend(touched.offers.iter().map(|key| format!("O{}", key.0)));
        self.follow_answer(event, cause, &mut touches);
        self.forget(event);
        touches
    }

    fn learn(&mut self, event: &Event) {
        let roles = |terms: &FrameworkTerms| terms.roles.iter().map(ToString::to_string).collect();
        match event {
            Event::FrameworkSubscribed(event) => {
                self.frameworks.insert(event.framework.0, event.id.to_string());
                self.framework_roles.insert(event.framework.0, roles(&event.terms));
            }
            Event::OffersMade(event) => {
                let of_group = |group: &OfferGroup| vec![group.role.to_string(); group.offers.0.len()];
                self.offers.extend((event.first.0..).zip(event.groups.iter().flat_map(of_group)));
            }
            Event::TaskLaunched(event) => {
                self.tasks.insert(event.task.clone(), event.role.to_string());
            }
            Event::TaskGroupLaunched(event) => {
                let tasks = event.tasks.iter().map(|task| (event.framework, task.task_id.clone()));
                self.tasks.extend(tasks.map(|task| (task, event.role.to_string())));
            }
            _ => {}
        }
    }

    /// The roles that an event concerns. Who leaves a role concerns it too.
    fn roles(&mut self, event: &Event) -> Vec<String> {
        let mut of_framework = |key: FrameworkKey, terms: Option<&FrameworkTerms>| {
            let mut roles = self.framework_roles.get(&key.0).cloned().unwrap_or_default();
            if let Some(terms) = terms {
                let now: Vec<_> = terms.roles.iter().map(ToString::to_string).collect();
                self.framework_roles.insert(key.0, now.clone());
                roles.extend(now);
            }
            roles
        };
        let of_offers =
            |offers: &OfferKeys| offers.iter().filter_map(|key| self.offers.get(&key.0).cloned()).collect::<Vec<_>>();
        let mut roles = match event {
            Event::FrameworkSubscribed(event) => of_framework(event.framework, None),
            Event::FrameworkResubscribed(event) => of_framework(event.framework, Some(&event.terms)),
            Event::FrameworkUpdated(event) => of_framework(event.framework, Some(&event.terms)),
            Event::FrameworkDisconnected(event) => of_framework(event.framework, None),
            Event::FrameworkRemoved(event) => of_framework(event.framework, None),
            Event::OffersMade(event) => event.groups.iter().map(|group| group.role.to_string()).collect(),
            Event::OffersDeclined(event) => of_offers(&event.offers),
            Event::OffersReturned(event) => of_offers(&event.offers),
            Event::OffersAccepted(event) => of_offers(&event.offers),
            Event::RolesRevived(event) => event.roles.iter().map(ToString::to_string).collect(),
            Event::RolesSuppressed(event) => event.roles.iter().map(ToString::to_string).collect(),
            Event::QuotasSet(_) | Event::WeightsSet(_) => {
                event.touches().roles.iter().map(ToString::to_string).collect()
            }
            _ => event.touches().tasks.iter().filter_map(|task| self.tasks.get(task).cloned()).collect(),
        };
        roles.sort_unstable();
        roles.dedup();
        roles
    }

    /// A launch concerns the offers that it was made with.
    fn follow_answer(&mut self, event: &Event, cause: u32, touches: &mut Touches) {
        let launching = match event {
            Event::OffersAccepted(event) => {
                let (offers, roles) = (touches.offers.clone(), touches.roles.clone());
                self.answer = Some(Answer { framework: event.framework, cause, offers, roles });
                return;
            }
            Event::OffersReturned(event) => {
                let (offers, roles) = (touches.offers.clone(), touches.roles.clone());
                self.answer = Some(Answer { framework: event.framework, cause, offers, roles });
                return;
            }
            Event::TaskLaunched(event) => event.task.0,
            Event::TaskGroupLaunched(event) => event.framework,
            Event::LaunchRefused(event) => event.task.0,
            _ => return,
        };
        if let Some(answer) = self.answer.as_ref().filter(|it| it.framework == launching && it.cause == cause) {
            touches.offers.extend(answer.offers.iter().cloned());
            touches
                .roles
                .extend(answer.roles.iter().filter(|role| !touches.roles.contains(role)).cloned().collect::<Vec<_>>());
        }
    }

    fn forget(&mut self, event: &Event) {
        let over = match event {
            Event::OffersDeclined(event) => &event.offers,
            Event::OffersReturned(event) => &event.offers,
            Event::OffersAccepted(event) => &event.offers,
            Event::UpdateAcknowledged(event) => {
                if is_terminal(event.state) {
                    self.tasks.remove(&event.task);
                }
                return;
            }
            Event::FrameworkRemoved(event) => {
                self.framework_roles.remove(&event.framework.0);
                self.tasks.retain(|(framework, _), _| *framework != event.framework);
                return;
            }
            _ => return,
        };
        for key in over.iter() {
            self.offers.remove(&key.0);
        }
    }
}
