//! Facts about the order of roles, by share and by chance, and about which roles are known.

use std::collections::{BTreeMap, BTreeSet};

use allocator::dice::Dice;
use allocator::{AgentKey, Amounts, Quota, Sorting, Tree};
use api::resources::{Limits, Quantities, Resources};
use serde_json::Value;

use crate::resources::{minus, resources};
use crate::{Outcome, text, texts, wanted};

/// Asks one fact; of both orders, if it names none.
pub(crate) fn judge(fact: &Value) -> Outcome {
    let sortings: &[Sorting] = match fact["sorter"].as_str() {
        Some("drf" | "none") => &[Sorting::DominantShare],
        Some("random") => &[Sorting::Random],
        Some("any") => &[Sorting::DominantShare, Sorting::Random],
        _ => return Outcome::Cannot(format!("there is no sorter {}", fact["sorter"])),
    };
    for sorting in sortings {
        let mut world = World::new(*sorting);
        for (number, step) in fact["steps"].as_array().into_iter().flatten().enumerate() {
            match world.step(step) {
                Outcome::Hold => {}
                Outcome::Wrong(why) => return Outcome::Wrong(format!("{sorting:?}, step {number}: {why}")),
                other => return other,
            }
        }
    }
    Outcome::Hold
}

struct World {
    sorting: Sorting,
    tree: Tree,
    dice: Dice,
    agents: BTreeMap<String, (AgentKey, Amounts)>,
    next_agent: u64,
    /// What each client has on each agent.
    allocations: BTreeMap<(String, AgentKey), Resources>,
    frameworks: BTreeMap<String, BTreeSet<String>>,
}

pub(crate) fn weight_micro(step: &Value) -> u64 {
    step["weight"].as_f64().map_or(allocator::WEIGHT_MICRO, |weight| (weight * 1_000_000.0).round().max(1.0) as u64)
}

pub(crate) fn amounts(value: &Value) -> Amounts {
    match value {
        Value::String(text) => Amounts::from(&Quantities::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"))),
        Value::Array(items) => items.iter().map(amounts).fold(Amounts::default(), |mut sum, item| {
            sum.add(&item);
            sum
        }),
        Value::Object(object) => {
            let milli = |value: &Value| (value.as_f64().unwrap_or_default() * 1000.0).round() as i64;
            let quantities: Quantities =
                object.iter().map(|(name, value)| (name.as_str().into(), milli(value))).collect();
            Amounts::from(&quantities)
        }
        _ => Amounts::default(),
    }
}

pub(crate) fn quota(step: &Value) -> Quota {
    let limits = step["limit"].as_str().unwrap_or_default();
    let limits = Limits::parse(limits).unwrap_or_else(|why| panic!("{limits}: {why}"));
    Quota { guarantees: amounts(&step["guarantee"]), limits }
}

impl World {
    fn new(sorting: Sorting) -> World {
        World {
            sorting,
            tree: Tree::new(BTreeSet::new()),
            dice: Dice::new(7),
            agents: BTreeMap::new(),
            next_agent: 1,
            allocations: BTreeMap::new(),
            frameworks: BTreeMap::new(),
        }
    }

    fn agent(&mut self, name: &str) -> AgentKey {
        // One that was never added has no place among the others.
        self.agents.get(name).map_or(AgentKey(0), |(key, _)| *key)
    }

    fn order(&mut self) -> Vec<String> {
        let order = match self.sorting {
            Sorting::DominantShare => self.tree.clients_in_order(),
            Sorting::Random => self.tree.clients_by_chance(&mut self.dice),
        };
        order.iter().map(|client| client.to_string()).collect()
    }

    fn step(&mut self, step: &Value) -> Outcome {
        let (client, role) = (text(step, "client"), text(step, "role"));
        match text(step, "op") {
            "add_agent" => {
                let total = Amounts::of_scalars(&resources(&step["total"]));
                self.tree.add_total(&total);
                self.agents.insert(text(step, "agent").to_owned(), (AgentKey(self.next_agent), total));
                self.next_agent += 1;
            }
            "remove_agent" => {
                let Some((key, total)) = self.agents.remove(text(step, "agent")) else {
                    return Outcome::Cannot(format!("there is no agent {}", step["agent"]));
                };
                self.tree.sub_total(&total);
                // Its name may come again, and what was allocated on it stays where it is.
                self.agents.insert(text(step, "agent").to_owned(), (key, Amounts::default()));
                self.next_agent = self.next_agent.max(key.0 + 1);
            }
            "add" => self.tree.add_client(client),
            "remove" => {
                self.tree.remove_client(client);
                self.allocations.retain(|(of, _), _| of != client);
            }
            "activate" => self.tree.set_active(client, true),
            "deactivate" => self.tree.set_active(client, false),
            "set_weight" => self.tree.set_weight(client, weight_micro(step)),
            "allocated" => self.allocated(step, client, &step["resources"]),
            "unallocated" => self.unallocated(step, client, &step["resources"]),
            "update" => {
                // What it becomes first, so that nothing is gone in between.
                let (key, from, to) =
                    (self.agent(text(step, "agent")), resources(&step["from"]), resources(&step["to"]));
                self.tree.charge(client, key, &to, 0);
                self.tree.discharge(client, key, &from);
                let held = self.allocations.entry((client.to_owned(), key)).or_default();
                *held = minus(held, &from).plus(&to);
            }
            "expect_order" => {
                let order = self.order();
                let expected = texts(&step["clients"]);
                return wanted(order == expected, || format!("{order:?}, not {expected:?}"));
            }
            "expect_members" => {
                let (mut order, mut expected) = (self.order(), texts(&step["clients"]));
                order.sort_unstable();
                expected.sort_unstable();
                return wanted(order == expected, || format!("{order:?}, not {expected:?}"));
            }
            "expect_contains" => {
                let (is, expected) = (self.tree.has_client(client), step["is"].as_bool().unwrap_or(true));
                return wanted(is == expected, || format!("{client} is there: {is}"));
            }
            "expect_count" => {
                let count = self.tree.clients().count() as u64;
                return wanted(step["count"] == count, || format!("{count}, not {}", step["count"]));
            }
            "expect_allocation" => {
                let key = self.agent(text(step, "agent"));
                let allocation = self.allocations.get(&(client.to_owned(), key)).cloned().unwrap_or_default();
                let expected = resources(&step["resources"]);
                return wanted(allocation == expected, || format!("{allocation}, not {expected}"));
            }
            "expect_no_allocation" => {
                let own = self.tree.held(client).is_some_and(|held| !held.is_zero());
                let any = own || self.allocations.iter().any(|((of, _), held)| of == client && !held.is_empty());
                return wanted(!any, || format!("{client} has something"));
            }
            "expect_quantities" => {
                let held = if client.is_empty() { Some(self.tree.held_by_all()) } else { self.tree.held(client) };
                let held = held.cloned().unwrap_or_default();
                let expected = amounts(&step["quantities"]);
                return wanted(held == expected, || format!("{held:?}, not {expected:?}"));
            }
            "expect_distribution" => return self.distribution(step),
            "role_weight" => self.tree.set_weight(role, weight_micro(step)),
            "role_quota" => self.tree.set_quota(role, quota(step)),
            "role_reserve" => self.tree.reserve(&resources(&step["resources"])),
            "role_unreserve" => self.tree.unreserve(&resources(&step["resources"])),
            "role_framework_add" => {
                self.tree.add_client(role);
                self.frameworks.entry(role.to_owned()).or_default().insert(text(step, "framework").to_owned());
            }
            "role_framework_remove" => {
                let of = self.frameworks.entry(role.to_owned()).or_default();
                of.remove(text(step, "framework"));
                if of.is_empty() {
                    self.tree.remove_client(role);
                }
            }
            "expect_roles_known" | "expect_roles_unknown" => {
                let known = text(step, "op") == "expect_roles_known";
                let others: Vec<&str> =
                    texts(&step["roles"]).into_iter().filter(|role| self.tree.is_known(role) != known).collect();
                return wanted(others.is_empty(), || format!("known is {} for {others:?}", !known));
            }
            "expect_role_weight" => {
                let weight = self.tree.weight_micro(role);
                return wanted(weight == weight_micro(step), || format!("{weight} millionths"));
            }
            "expect_role_quota" => {
                let (is, expected) = (self.tree.quota(role), quota(step));
                return wanted(is == expected, || format!("{is:?}, not {expected:?}"));
            }
            "expect_role_reserved" => {
                let (is, expected) = (self.tree.reserved(role), amounts(&step["quantities"]));
                return wanted(is == expected, || format!("{is:?}, not {expected:?}"));
            }
            "expect_role_frameworks" => {
                let count = self.frameworks.get(role).map_or(0, BTreeSet::len) as u64;
                return wanted(step["count"] == count, || format!("{count}, not {}", step["count"]));
            }
            other => return Outcome::Cannot(format!("there is no step {other}")),
        }
        Outcome::Hold
    }

    fn allocated(&mut self, step: &Value, client: &str, value: &Value) {
        let (key, resources) = (self.agent(text(step, "agent")), resources(value));
        self.tree.charge(client, key, &resources, 1);
        self.allocations.entry((client.to_owned(), key)).or_default().add(&resources);
    }

    fn unallocated(&mut self, step: &Value, client: &str, value: &Value) {
        let (key, resources) = (self.agent(text(step, "agent")), resources(value));
        self.tree.discharge(client, key, &resources);
        let held = self.allocations.entry((client.to_owned(), key)).or_default();
        *held = minus(held, &resources);
    }

    /// How often each client comes at each place.
    fn distribution(&mut self, step: &Value) -> Outcome {
        let clients = texts(&step["clients"]);
        let runs = step["runs"].as_u64().unwrap_or(1);
        let mut counts = vec![vec![0_u64; clients.len()]; clients.len()];
        for _ in 0..runs {
            for (place, client) in self.order().iter().enumerate() {
                let Some(at) = clients.iter().position(|each| each == client) else {
                    return Outcome::Wrong(format!("{client} is in the order"));
                };
                counts[at][place] += 1;
            }
        }
        let tolerance = step["tolerance"].as_f64().unwrap_or_default();
        for (at, client) in clients.iter().enumerate() {
            for place in 0..clients.len() {
                let is = counts[at][place] as f64 / runs as f64;
                let expected = step["position_probability"][at][place].as_f64().unwrap_or_default();
                if (is - expected).abs() > tolerance {
                    return Outcome::Wrong(format!("{client} is at place {place} in {is} of all, not {expected}"));
                }
            }
        }
        Outcome::Hold
    }
}
