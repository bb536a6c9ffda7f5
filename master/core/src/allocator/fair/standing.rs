//! Where everybody stands in the order of fairness, for people who ask why.

use super::{Held, Roles, Share};
use crate::allocator::{Options, Plan};
use crate::ids::FrameworkKey;
use crate::state::State;
use api::resources::Name;
use std::sync::Arc;

/// What a role holds of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its name; of a part of the names of several roles, that part.
    pub role: Arc<str>,
    /// In thousandths.
    pub weight_milli: u64,
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
    let mut roles = Roles::new(state, options);
    for group in &plan.groups {
        for (_, offered) in &group.offers {
            roles.charge(&group.role, group.framework, offered);
        }
    }
    let mut standings = Vec::new();
    roles.stand(0, "", &mut standings);
    standings
}

impl Roles<'_> {
    fn stand(&self, at: usize, path: &str, standings: &mut Vec<Standing>) {
        for (_, _, (name, child)) in &self.nodes[at].children {
            let node = &self.nodes[*child];
            if node.role.is_some() {
                continue;
            }
            let path = if path.is_empty() { name.to_string() } else { format!("{path}/{name}") };
            let (dominant, held_milli, total_milli) = self.dominant(&node.held);
            let leaf =
                node.children.iter().map(|(_, _, (_, leaf))| &self.nodes[*leaf]).find(|leaf| leaf.role.is_some());
            let frameworks = leaf.map_or(Vec::new(), |leaf| {
                let stand = |framework: FrameworkKey| {
                    let held = leaf.held_by.get(&framework).map(|held| self.dominant(held));
                    let (dominant, held_milli, total_milli) = held.unwrap_or((None, 0, 1));
                    FrameworkStanding { framework, dominant, held_milli, total_milli }
                };
                leaf.frameworks.iter().map(|(_, _, framework)| stand(*framework)).collect()
            });
            let (role, weight_milli) = (path.as_str().into(), node.weight_milli);
            standings.push(Standing { role, weight_milli, dominant, held_milli, total_milli, frameworks });
            self.stand(*child, &path, standings);
        }
    }

    /// The resource of which the largest part is held, how much that is, and of how much.
    fn dominant(&self, held: &Held) -> (Option<Name>, u64, u64) {
        let names = self.names.iter().rev().map(|(name, at)| (name, held.milli[*at], self.totals[*at]));
        let share = |held: u64, total: u64| Share { held, total: u128::from(total) };
        // The last of equals is the first by name.
        let most = names.max_by(|a, b| share(a.1, a.2).cmp(&share(b.1, b.2)));
        match most {
            Some((name, held, total)) if held > 0 => (Some(name.clone()), held, total),
            Some((_, _, total)) => (None, 0, total),
            None => (None, 0, 1),
        }
    }
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
    }
}
