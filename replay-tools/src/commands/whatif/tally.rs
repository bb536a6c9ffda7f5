//! Sums over all plans: what each role and framework was offered, and would have been.

use crate::story::phrase::{milli, percent};
use master_core::allocator::{Options, Plan, Standing, standings};
use master_core::{State, view};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What somebody was offered under one of the settings.
#[derive(Clone, Debug, Default)]
struct Sum {
    offers: u64,
    /// By name, in thousandths.
    resources: BTreeMap<String, u64>,
    /// Dominant share after each plan in millionths, summed, and how many plans that were.
    share: (u64, u64),
}

/// Under both.
#[derive(Clone, Debug, Default)]
struct Pair {
    as_set: Sum,
    other: Sum,
}

/// By role and by framework.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    roles: BTreeMap<String, Pair>,
    frameworks: BTreeMap<String, Pair>,
}

impl Tally {
    /// Counts one plan under both settings, each with the state that it was made from.
    pub(super) fn add(
        &mut self,
        state: &State,
        as_set: &Options,
        base: &Plan,
        other_state: &State,
        options: &Options,
        other: &Plan,
    ) {
        self.count(state, as_set, base, |pair| &mut pair.as_set);
        self.count(other_state, options, other, |pair| &mut pair.other);
    }

    fn count(&mut self, state: &State, options: &Options, plan: &Plan, side: impl Fn(&mut Pair) -> &mut Sum) {
        for group in &plan.groups {
            let framework = view::framework_id(state, group.framework);
            let of_role = side(self.roles.entry(group.role.to_string()).or_default());
            let of_framework = side(self.frameworks.entry(framework).or_default());
            for sum in [of_role, of_framework] {
                for (_, resources) in &group.offers {
                    sum.offers += 1;
                    for (name, milli) in resources.quantities() {
                        *sum.resources.entry(name.to_string()).or_default() += milli.unsigned_abs();
                    }
                }
            }
        }
        for Standing { role, held_milli, total_milli, frameworks, .. } in standings(state, options, plan) {
            side(self.roles.entry(role.to_string()).or_default()).stand(held_milli, total_milli);
            for framework in frameworks {
                let id = view::framework_id(state, framework.framework);
                side(self.frameworks.entry(id).or_default()).stand(framework.held_milli, framework.total_milli);
            }
        }
    }

    /// Two tables.
    pub(super) fn text(&self) -> String {
        let mut text = table("role", &self.roles);
        text.push('\n');
        text += &table("framework", &self.frameworks);
        text.trim_end().to_owned()
    }

    /// By name.
    pub(super) fn roles_json(&self) -> Value {
        object(&self.roles)
    }

    /// By id.
    pub(super) fn frameworks_json(&self) -> Value {
        object(&self.frameworks)
    }
}

const MILLION: u64 = 1_000_000;

impl Sum {
    fn stand(&mut self, held_milli: u64, total_milli: u64) {
        let share = u128::from(held_milli) * u128::from(MILLION) / u128::from(total_milli.max(1));
        self.share.0 += u64::try_from(share).unwrap_or(MILLION);
        self.share.1 += 1;
    }

    /// The mean, in millionths.
    fn mean_share(&self) -> u64 {
        self.share.0 / self.share.1.max(1)
    }

    fn json(&self) -> Value {
        let resources = self.resources.iter().map(|(name, sum)| (name.clone(), milli(*sum).into()));
        json!({
            "offers": self.offers,
            "resources": Value::Object(resources.collect::<Map<_, _>>()),
            "mean_dominant_share_ppm": self.mean_share(),
        })
    }
}

fn object(pairs: &BTreeMap<String, Pair>) -> Value {
    let rows = pairs
        .iter()
        .map(|(name, pair)| (name.clone(), json!({ "as_set": pair.as_set.json(), "other": pair.other.json() })));
    Value::Object(rows.collect::<Map<_, _>>())
}

fn table(title: &str, pairs: &BTreeMap<String, Pair>) -> String {
    let width = pairs.keys().map(|name| name.len()).max().unwrap_or(0).max(title.len());
    let mut text = format!(
        "{title:<width$}  {:>17}  {:>23}  {:>23}  {:>19}\n",
        "offers", "cpus offered", "mem offered", "dominant share"
    );
    for (name, Pair { as_set, other }) in pairs {
        let of = |sum: &Sum, name: &str| milli(sum.resources.get(name).copied().unwrap_or(0));
        let change =
            |before: String, after: String| if before == after { before } else { format!("{before} -> {after}") };
        let share = |sum: &Sum| percent(sum.mean_share(), MILLION);
        text += &format!(
            "{name:<width$}  {:>17}  {:>23}  {:>23}  {:>19}\n",
            change(as_set.offers.to_string(), other.offers.to_string()),
            change(of(as_set, "cpus"), of(other, "cpus")),
            change(of(as_set, "mem"), of(other, "mem")),
            change(share(as_set), share(other)),
        );
    }
    text
}

/// A plan as JSON: what each role of each framework is offered, by agent.
pub(super) fn of_plan(state: &State, plan: &Plan) -> Value {
    let groups = plan.groups.iter().map(|group| {
        let offers = group.offers.iter().map(|(agent, resources)| {
            json!({ "agent": view::agent_id(state, *agent), "resources": resources.unallocate().to_string() })
        });
        json!({
            "framework": view::framework_id(state, group.framework), "role": *group.role,
            "offers": offers.collect::<Vec<_>>(),
        })
    });
    groups.collect::<Vec<_>>().into()
}
