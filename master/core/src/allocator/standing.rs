//! Where everybody stands in the order of fairness, for people who ask why.

use super::{Ledger, Options, Plan};
use crate::ids::FrameworkKey;
use crate::state::State;
use allocator::share::largest;
use allocator::{Amounts, Use};
use api::resources::Name;
use std::sync::Arc;

/// What a role holds of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its name; of a part of the names of several roles, that part.
    pub role: Arc<str>,
    /// In millionths.
    pub weight_micro: u64,
    /// The resource of which it holds the largest part; None if it holds nothing.
    pub dominant: Option<Name>,
    /// How much of that it holds, with all roles below it, in thousandths.
    pub held_milli: u64,
    /// How much of it the cluster has, in thousandths; at least 1.
    pub total_milli: u64,
    /// The frameworks of the role itself that want offers for it, next ones first.
    pub frameworks: Vec<FrameworkStanding>,
}

/// What a framework holds for a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameworkStanding {
    /// Which.
    pub framework: FrameworkKey,
    /// The resource of which it holds the largest part; None if it holds nothing.
    pub dominant: Option<Name>,
    /// How much of that it holds, in thousandths.
    pub held_milli: u64,
    /// How much of it the cluster has, in thousandths; at least 1.
    pub total_milli: u64,
}

/// Where every role stands with what it holds and with what `plan` would give it: parents before their children,
/// siblings in the order in which they are next.
pub fn standings(state: &State, options: &Options, plan: &Plan) -> Vec<Standing> {
    let mut ledger = Ledger::of(state, options);
    for group in &plan.groups {
        for (agent, offered) in &group.offers {
            ledger.book.hold(*agent, group.framework, Some(&group.role), offered, Use::Offer, 1);
        }
    }
    let roles = ledger.book.roles_in_order();
    let totals = ledger.book.tree().totals().clone();
    let dominant = |held: Option<&Amounts>| {
        let narrow = |milli: u128| u64::try_from(milli).unwrap_or(u64::MAX);
        let most = held.and_then(|held| largest(held, &totals, &ledger.book.options().excluded));
        let none = totals.iter().next().map_or(1, |(_, total)| narrow(total.unsigned_abs()));
        match most {
            Some((name, held, total)) => (Some(name), narrow(held), narrow(total)),
            None => (None, 0, none.max(1)),
        }
    };
    let standing = |(role, frameworks): (Arc<str>, Vec<FrameworkKey>)| {
        let (name, held_milli, total_milli) = dominant(ledger.book.tree().held_below(&role));
        let frameworks = frameworks.into_iter().map(|framework| {
            let (dominant, held_milli, total_milli) = dominant(ledger.book.held_by(framework, &role));
            FrameworkStanding { framework, dominant, held_milli, total_milli }
        });
        Standing {
            weight_micro: ledger.book.tree().weight_micro(&role),
            dominant: name,
            held_milli,
            total_milli,
            frameworks: frameworks.collect(),
            role: role.clone(),
        }
    };
    roles.into_iter().map(standing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::plan;
    use crate::testing::Cluster;

    #[test]
    fn standings_count_what_is_held_and_what_is_planned() {
        let mut cluster = Cluster::new();
        for role in ["a/x", "b"] {
            cluster.subscribe_with(|info| info.roles = vec![role.into()]);
        }
        for _ in 0..4 {
            cluster.agent("cpus:1;mem:100");
        }
        cluster.offer();
        let told = |cluster: &Cluster, plan: &Plan| -> Vec<String> {
            let standings = standings(&cluster.state, &Options::default(), plan);
            let text = standings.iter().map(|standing| {
                let Standing { role, held_milli, total_milli, frameworks, .. } = standing;
                format!("{role} {held_milli}/{total_milli} {}", frameworks.len())
            });
            text.collect()
        };
        assert_eq!(told(&cluster, &Plan::default()), ["a 2000/4000 0", "a/x 2000/4000 1", "b 2000/4000 1"]);
        for _ in 0..4 {
            cluster.agent("cpus:1;mem:100");
        }
        let plan = plan(&cluster.state, cluster.at_ms, &Options::default());
        assert_eq!(told(&cluster, &plan), ["a 4000/8000 0", "a/x 4000/8000 1", "b 4000/8000 1"]);
        let second = crate::ids::FrameworkKey(1);
        cluster.suppress(second, &["b"]);
        let told = told(&cluster, &Plan::default());
        assert_eq!(told, ["a 2000/8000 0", "a/x 2000/8000 1", "b 2000/8000 0"], "what wants nothing is there too");
    }
}
