//! What the allocator would have offered under other settings: at each plan that the log has, the plan is made again
//! from the recorded state, as it was set and as it might have been, and both are compared.
//!
//! What is compared is one plan at a time. Frameworks would have answered other offers otherwise, and the states after
//! them would have been others: that nobody can know from the log.

mod options;
mod quotas;
mod roles;
mod tally;

use crate::Failure;
use crate::args::Args;
use crate::commands::state;
use crate::output::{Output, time};
use crate::place::Place;
use crate::progress::Progress;
use crate::replay;
use crate::source::{Entry, Kind, Source};
use event_log::Gate;
use master_core::allocator::{Options, Plan, plan};
use master_core::event::{Event, OffersMade};
use master_core::state::Offer;
use master_core::{State, fold};
use options::Other;
use roles::Renamed;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use tally::{Tally, of_plan};

/// `whatif [DIR]`
pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let other = Other::new(args)?;
    let (from, _) = args.span()?;
    let source = Source::open(&args.dir()?)?;
    if source.kind() != Kind::Master {
        return Err(Failure::Damaged("an agent's log has no offers to plan again: name a master's".into()));
    }
    let (_, to) = state::span(args, &source)?;
    let mut walk = Walk::new(other);
    let first = walk.begin(&source)?;
    let mut progress = Progress::new("planning", to);
    source.walk(first, |entries| {
        for entry in entries {
            let entry = entry?;
            if entry.index > to {
                break;
            }
            progress.reached(entry.index);
            let different = walk.go_on(&entry, is_early(from, &entry)).map_err(Failure::in_record(entry.index))?;
            if output.is_json() {
                for difference in different {
                    output.line(String::new, || difference)?;
                }
            }
        }
        Ok::<_, Failure>(())
    })?;
    drop(progress);
    walk.check_roles()?;
    walk.tell(output)
}

fn is_early(from: Option<Place>, entry: &Entry) -> bool {
    match from {
        None => false,
        Some(Place::Index(from)) => entry.index < from,
        Some(Place::Time(from)) => entry.record.header.at_ms < from,
    }
}

/// A way through a log with two allocators.
struct Walk {
    other: Other,
    gate: Gate,
    state: State,
    /// The same history with other roles, if they are other.
    renamed: Option<Renamed>,
    tally: Tally,
    /// Plans in the log, and how many of them the same settings make again from the state just before.
    /// Every role that a framework was in.
    roles: BTreeSet<Arc<str>>,
    plans: u64,
    again: u64,
    different: u64,
    first_different: Option<(u64, u64)>,
}

impl Walk {
    fn new(other: Other) -> Walk {
        let renamed = (!other.roles.is_empty()).then(|| Renamed::new(other.roles.clone()));
        Walk {
            other,
            gate: Gate::default(),
            state: State::default(),
            renamed,
            tally: Tally::default(),
            roles: BTreeSet::new(),
            plans: 0,
            again: 0,
            different: 0,
            first_different: None,
        }
    }

    /// The first index to read.
    fn begin(&mut self, source: &Source) -> Result<u64, Failure> {
        let gone = state::oldest(source, |content| {
            (self.gate, self.state) = replay::read_master_snapshot(content)?;
            Ok(())
        })?;
        self.learn_roles();
        if gone > 0 && self.renamed.is_some() {
            let why =
                "the log was shortened: what other roles would have led to can only be told from the beginning on";
            return Err(Failure::Damaged(why.into()));
        }
        Ok(if gone > 0 { gone + 1 } else { 0 })
    }

    /// Folds an entry; before each of its plans, makes them again. What is different, as JSON.
    fn go_on(&mut self, entry: &Entry, early: bool) -> Result<Vec<serde_json::Value>, String> {
        let events = replay::of_master(entry)?;
        let at_ms = entry.record.header.at_ms;
        let mut different = Vec::new();
        if !self.gate.admit(entry.term, &entry.record.header) {
            return Ok(different);
        }
        for event in events {
            let before = match event {
                Event::OffersMade(_) if !early => Some(self.state.clone()),
                _ => None,
            };
            let renamed_before = before.as_ref().and(self.renamed.as_ref()).map(|renamed| renamed.state.clone());
            replay::folded(|| fold(&mut self.state, event, at_ms))?;
            if let Event::FrameworkSubscribed(_) | Event::FrameworkResubscribed(_) | Event::FrameworkUpdated(_) = event
            {
                self.learn_roles();
            }
            if let Some(renamed) = &mut self.renamed {
                replay::folded(|| renamed.fold(event, at_ms))?;
            }
            if let (Event::OffersMade(made), Some(before)) = (event, before) {
                different.extend(self.compare(entry, made, &before, renamed_before.as_ref()));
            }
        }
        Ok(different)
    }

    fn learn_roles(&mut self) {
        let frameworks = self.state.frameworks.live.values();
        self.roles.extend(frameworks.flat_map(|framework| framework.roles.keys().cloned()));
    }

    /// Another weight of a role that never was would change nothing, and say so as if it were an answer.
    fn check_roles(&self) -> Result<(), Failure> {
        let asked = self.other.options.weights_micro.keys().chain(self.other.roles.keys());
        let asked = asked.chain(self.other.quotas.roles());
        let is_known = |role: &Arc<str>| {
            let below = format!("{role}/");
            self.roles.iter().any(|known| known == role || known.starts_with(&below))
                || self.other.roles.values().any(|named| named == role || named.starts_with(&below))
        };
        let Some(unknown) = asked.into_iter().find(|role| !is_known(role)) else { return Ok(()) };
        let hint = api::nearest::did_you_mean(self.roles.iter().map(|role| &**role), unknown);
        Err(Failure::Damaged(format!("no framework of this log was ever in the role {unknown:?}{hint}")))
    }

    fn compare(
        &mut self,
        entry: &Entry,
        made: &OffersMade,
        before: &State,
        renamed: Option<&State>,
    ) -> Option<serde_json::Value> {
        let at_ms = entry.record.header.at_ms;
        let as_set = Options::default();
        let base = plan(before, at_ms, &as_set);
        let with_quotas;
        let mut other_state = renamed.unwrap_or(before);
        if !self.other.quotas.is_empty() {
            with_quotas = self.other.quotas.put(other_state);
            other_state = &with_quotas;
        }
        let other = plan(other_state, at_ms, &self.other.options);
        self.plans += 1;
        self.again += u64::from(is_recorded(&base, made, &self.state));
        self.tally.add(before, &as_set, &base, other_state, &self.other.options, &other);
        if base.groups == other.groups {
            return None;
        }
        self.different += 1;
        self.first_different.get_or_insert((entry.index, at_ms));
        Some(json!({
            "index": entry.index, "at_ms": at_ms, "at": time(at_ms),
            "as_set": of_plan(before, &base), "other": of_plan(other_state, &other),
        }))
    }

    fn tell(&self, output: &mut Output) -> Result<(), Failure> {
        if self.plans == 0 {
            return Err(Failure::Damaged("there is no plan of offers in this part of the log".into()));
        }
        output.line(
            || {
                let mut text = format!(
                    "{} plans made again with {}; {} of the recorded ones came out as they are in the log\n",
                    self.plans,
                    self.other.words(),
                    self.again
                );
                text += &match self.first_different {
                    None => "none would have been different\n".to_owned(),
                    Some((index, at_ms)) => format!(
                        "{} would have been different, the first at index {index}, {}\n",
                        self.different,
                        time(at_ms)
                    ),
                };
                text + "\n" + &self.tally.text()
            },
            || {
                json!({
                    "plans": self.plans, "as_recorded": self.again, "different": self.different,
                    "first_different": self.first_different.map(|(index, _)| index),
                    "settings": self.other.json(), "roles": self.tally.roles_json(),
                    "frameworks": self.tally.frameworks_json(),
                })
            },
        )?;
        Ok(())
    }
}

/// Whether the plan is what the log has: the same of the same agents for the same roles. `after` has the offers made.
fn is_recorded(plan: &Plan, made: &OffersMade, after: &State) -> bool {
    let count = made.groups.iter().map(|group| group.offers.0.len()).sum();
    let keys = (made.first.0..).take(count).map(master_core::ids::OfferKey);
    let offers: Vec<&Arc<Offer>> = keys.filter_map(|key| after.offers.live.get(&key)).collect();
    let planned = plan.groups.iter().flat_map(|group| {
        group.offers.iter().map(move |(agent, resources)| (group.framework, &group.role, *agent, resources))
    });
    let planned: Vec<_> = planned.collect();
    planned.len() == count
        && offers.len() == count
        && planned.iter().zip(offers).all(|((framework, role, agent, resources), offer)| {
            (*framework, *role, *agent, *resources) == (offer.framework, &offer.role, offer.agent, &offer.resources)
        })
}
