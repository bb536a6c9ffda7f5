//! Who is next: a tree of roles by the components of their names, siblings ordered by dominant share, and the frameworks
//! of each role ordered the same way. Only frameworks that want offers are in the order; everybody's share counts. A
//! role's share is divided by its weight before it is compared with those of its siblings.

mod standing;

pub use standing::{FrameworkStanding, Standing, standings};

use super::dice::Dice;
use super::{Options, WEIGHT_MILLI};
use crate::ids::FrameworkKey;
use crate::state::State;
use api::resources::{Name, Resources};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// So many components of a role's name are levels of the tree; what is behind them is one more name. Walks along the
/// tree are as deep as it is, and State may hold a role from before their length was bounded.
const DEPTH_MAX: usize = 64;
const _: () = assert!(api::limits::ROLE_COMPONENTS_MAX <= DEPTH_MAX);

/// The largest part that somebody has of any resource, by weight, as a fraction. No floats: shares must compare alike
/// everywhere.
#[derive(Clone, Copy, Debug)]
struct Share {
    held: u64,
    /// Of the cluster, times the weight in thousandths.
    total: u128,
}

impl Ord for Share {
    fn cmp(&self, other: &Share) -> Ordering {
        product(self.held, other.total).cmp(&product(other.held, self.total))
    }
}

/// All 192 bits of it, the upper ones first.
fn product(a: u64, b: u128) -> (u128, u64) {
    let low = u128::from(a) * u128::from(b as u64);
    let high = u128::from(a) * (b >> 64);
    (high + (low >> 64), low as u64)
}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Share) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Share {
    fn eq(&self, other: &Share) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Share {}

/// Share, number of allocations, name or key: the smallest is next.
type Place<K> = (Share, u64, K);

/// What somebody holds, in thousandths by the totals' order of names.
#[derive(Clone, Default)]
struct Held {
    milli: Vec<u64>,
    count: u64,
}

/// A role, or a part of the name of several.
struct Node {
    name: Arc<str>,
    parent: Option<usize>,
    /// In thousandths.
    weight_milli: u64,
    held: Held,
    /// Its children with anybody who wants offers below. The role's own frameworks are a child with the name `.`.
    children: BTreeSet<Place<(Arc<str>, usize)>>,
    /// Of a leaf: the role, and its frameworks that want offers.
    role: Option<Arc<str>>,
    frameworks: BTreeSet<Place<FrameworkKey>>,
    held_by: BTreeMap<FrameworkKey, Held>,
}

/// The order of all who want offers.
pub(super) struct Roles<'a> {
    options: &'a Options,
    names: BTreeMap<Name, usize>,
    totals: Vec<u64>,
    nodes: Vec<Node>,
    leaves: BTreeMap<Arc<str>, usize>,
    paths: BTreeMap<String, usize>,
}

impl<'a> Roles<'a> {
    /// Everybody's shares as State has them.
    pub(super) fn new(state: &State, options: &'a Options) -> Roles<'a> {
        let mut sums: BTreeMap<Name, u64> = BTreeMap::new();
        for agent in state.agents.live.values().filter(|agent| !agent.is_unreachable()) {
            for (name, milli) in agent.total.quantities() {
                let sum = sums.entry(name).or_insert(0_u64);
                *sum = sum.saturating_add(u64::try_from(milli).unwrap_or(0));
            }
        }
        sums.retain(|_, total| *total > 0);
        let names = sums.keys().cloned().enumerate().map(|(at, name)| (name, at)).collect();
        let totals = sums.into_values().collect();
        let (nodes, leaves, paths) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let mut roles = Roles { options, names, totals, nodes, leaves, paths };
        roles.node("", "".into(), None);
        for framework in state.frameworks.live.values() {
            for (name, role) in &framework.roles {
                if framework.is_connected() && !role.suppressed {
                    roles.enter(name, framework.key);
                }
            }
        }
        for framework in state.frameworks.live.values() {
            for used in framework.used.values() {
                roles.charge_all(framework.key, used);
            }
        }
        for offer in state.offers.live.values() {
            roles.charge(&offer.role, offer.framework, &offer.resources);
        }
        roles
    }

    fn node(&mut self, path: &str, name: Arc<str>, parent: Option<usize>) -> usize {
        let held = Held { milli: vec![0; self.totals.len()], count: 0 };
        let at = self.nodes.len();
        self.paths.insert(path.to_owned(), at);
        let weight_milli = path.strip_prefix('/').and_then(|role| self.options.weights_milli.get(role));
        self.nodes.push(Node {
            name,
            parent,
            weight_milli: weight_milli.map_or(WEIGHT_MILLI, |weight| (*weight).max(1)),
            held,
            children: BTreeSet::new(),
            role: None,
            frameworks: BTreeSet::new(),
            held_by: BTreeMap::new(),
        });
        if let Some(parent) = parent {
            let place = self.place(at);
            self.nodes[parent].children.insert(place);
        }
        at
    }

    /// The node of a role's own frameworks, made with all above it.
    fn leaf(&mut self, role: &Arc<str>) -> usize {
        if let Some(at) = self.leaves.get(role) {
            return *at;
        }
        let mut above = 0;
        let mut path = String::new();
        for component in role.splitn(DEPTH_MAX, '/') {
            path.push('/');
            path.push_str(component);
            above = match self.paths.get(&path) {
                Some(at) => *at,
                None => self.node(&path, component.into(), Some(above)),
            };
        }
        // No component is a dot, so this name is free.
        let leaf = self.node(&format!("{path}/."), ".".into(), Some(above));
        self.nodes[leaf].role = Some(role.clone());
        self.leaves.insert(role.clone(), leaf);
        leaf
    }

    fn enter(&mut self, role: &Arc<str>, framework: FrameworkKey) {
        let leaf = self.leaf(role);
        let held = Held { milli: vec![0; self.totals.len()], count: 0 };
        let place = (self.share(&held, WEIGHT_MILLI), held.count, framework);
        self.nodes[leaf].frameworks.insert(place);
        self.nodes[leaf].held_by.insert(framework, held);
    }

    /// The first, in order of fairness, for whom `may` says yes.
    pub(super) fn first(
        &self,
        may: &mut dyn FnMut(&Arc<str>, FrameworkKey) -> bool,
    ) -> Option<(Arc<str>, FrameworkKey)> {
        self.first_below(0, may)
    }

    fn first_below(
        &self,
        at: usize,
        may: &mut dyn FnMut(&Arc<str>, FrameworkKey) -> bool,
    ) -> Option<(Arc<str>, FrameworkKey)> {
        let node = &self.nodes[at];
        if let Some(role) = &node.role {
            let framework = node.frameworks.iter().map(|(_, _, framework)| *framework).find(|key| may(role, *key));
            return framework.map(|framework| (role.clone(), framework));
        }
        node.children.iter().find_map(|(_, _, (_, child))| self.first_below(*child, may))
    }

    /// One for whom `may` says yes, drawn by the weights of roles; the frameworks of a role have equal chances.
    pub(super) fn any(
        &self,
        dice: &mut Dice,
        may: &mut dyn FnMut(&Arc<str>, FrameworkKey) -> bool,
    ) -> Option<(Arc<str>, FrameworkKey)> {
        self.any_below(0, dice, may)
    }

    fn any_below(
        &self,
        at: usize,
        dice: &mut Dice,
        may: &mut dyn FnMut(&Arc<str>, FrameworkKey) -> bool,
    ) -> Option<(Arc<str>, FrameworkKey)> {
        let node = &self.nodes[at];
        if let Some(role) = &node.role {
            // By key, not by share: what is drawn must not depend on who holds what.
            let mut left: Vec<FrameworkKey> = node.held_by.keys().copied().collect();
            dice.shuffle(&mut left);
            return left.into_iter().find(|key| may(role, *key)).map(|framework| (role.clone(), framework));
        }
        let mut left: Vec<usize> = node.children.iter().map(|(_, _, (_, child))| *child).collect();
        left.sort_unstable();
        while let Some(drawn) = dice.draw(left.iter().map(|child| self.nodes[*child].weight_milli)) {
            let child = left.swap_remove(drawn);
            if let Some(found) = self.any_below(child, dice, may) {
                return Some(found);
            }
        }
        None
    }

    /// Adds to what a framework holds, by the roles that its resources are allocated to.
    fn charge_all(&mut self, framework: FrameworkKey, resources: &Resources) {
        let mut roles: BTreeSet<Arc<str>> = BTreeSet::new();
        roles.extend(resources.iter().filter_map(|resource| resource.allocation_role.clone()));
        for role in roles {
            let part = resources.allocated_to(&role);
            self.charge(&role, framework, &part);
        }
    }

    /// Adds to what a framework holds for a role.
    pub(super) fn charge(&mut self, role: &Arc<str>, framework: FrameworkKey, resources: &Resources) {
        let amounts: Vec<(usize, u64)> = resources
            .quantities()
            .into_iter()
            .filter_map(|(name, milli)| Some((*self.names.get(&name)?, u64::try_from(milli).ok()?)))
            .collect();
        let leaf = self.leaf(role);
        if let Some(mut held) = self.nodes[leaf].held_by.remove(&framework) {
            let before = (self.share(&held, WEIGHT_MILLI), held.count, framework);
            held.add(&amounts);
            let after = (self.share(&held, WEIGHT_MILLI), held.count, framework);
            let node = &mut self.nodes[leaf];
            node.frameworks.remove(&before);
            node.frameworks.insert(after);
            node.held_by.insert(framework, held);
        }
        let mut at = leaf;
        while let Some(parent) = self.nodes[at].parent {
            let before = self.place(at);
            self.nodes[at].held.add(&amounts);
            let after = self.place(at);
            self.nodes[parent].children.remove(&before);
            self.nodes[parent].children.insert(after);
            at = parent;
        }
    }

    fn place(&self, at: usize) -> Place<(Arc<str>, usize)> {
        let node = &self.nodes[at];
        (self.share(&node.held, node.weight_milli), node.held.count, (node.name.clone(), at))
    }

    fn share(&self, held: &Held, weight_milli: u64) -> Share {
        let of = |total: u64| u128::from(total) * u128::from(weight_milli);
        let shares = held.milli.iter().zip(&self.totals).map(|(held, total)| Share { held: *held, total: of(*total) });
        shares.max().unwrap_or(Share { held: 0, total: 1 })
    }
}

impl Held {
    fn add(&mut self, amounts: &[(usize, u64)]) {
        for (at, milli) in amounts {
            self.milli[*at] = self.milli[*at].saturating_add(*milli);
        }
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::{Policy, plan};
    use crate::testing::Cluster;

    #[test]
    fn products_of_large_numbers_are_exact() {
        let share = |held, total: u128| Share { held, total };
        let (most, total) = (u64::MAX, u128::from(u64::MAX) * u128::from(u64::MAX));
        assert!(share(most, total) > share(most - 1, total));
        assert!(share(most, total) < share(most, total - 1));
        assert!(share(1, 3) < share(2, 5));
        assert_eq!(product(most, u128::MAX), (u128::MAX - (1 << 64), 1));
    }

    fn offers(cluster: &Cluster, options: &Options) -> Vec<(String, usize)> {
        let plan = plan(&cluster.state, cluster.at_ms, options);
        plan.groups.iter().map(|group| (group.role.to_string(), group.offers.len())).collect()
    }

    fn cluster(roles: &[&str], agents: usize) -> Cluster {
        let mut cluster = Cluster::new();
        for role in roles {
            cluster.subscribe_with(|info| info.roles = vec![(*role).into()]);
        }
        for _ in 0..agents {
            cluster.agent("cpus:1;mem:100");
        }
        cluster
    }

    fn weights(weights: &[(&str, u64)]) -> Options {
        let weights_milli = weights.iter().map(|(role, milli)| ((*role).into(), *milli)).collect();
        Options { weights_milli, ..Options::default() }
    }

    #[test]
    fn a_heavier_role_is_due_more() {
        let cluster = cluster(&["a", "b"], 12);
        assert_eq!(offers(&cluster, &Options::default()), [("a".into(), 6), ("b".into(), 6)]);
        assert_eq!(offers(&cluster, &weights(&[("a", 3000)])), [("a".into(), 9), ("b".into(), 3)]);
        assert_eq!(offers(&cluster, &weights(&[("a", 500)])), [("a".into(), 4), ("b".into(), 8)]);
    }

    #[test]
    fn a_weight_counts_among_siblings() {
        let cluster = cluster(&["a/x", "a/y", "b"], 12);
        let options = weights(&[("a", 3000), ("a/x", 2000)]);
        assert_eq!(offers(&cluster, &options), [("a/x".into(), 6), ("a/y".into(), 3), ("b".into(), 3)]);
    }

    /// Roles as an earlier release took them: as deep as they were written, the tree is not.
    #[test]
    fn a_role_of_any_depth_is_offered_to() {
        let deep = vec!["a"; 100_000].join("/");
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:1;mem:100");
        cluster.fold_role(framework, &deep);
        for policy in [Policy::DominantShare, Policy::Random] {
            let drawn = offers(&cluster, &Options { policy, ..Options::default() });
            assert_eq!(drawn, [(deep.clone(), 1)]);
        }
        let standings = standings(&cluster.state, &Options::default(), &crate::allocator::Plan::default());
        assert_eq!(*standings.last().unwrap().role, *deep);
    }

    #[test]
    fn chance_goes_by_weight_and_is_the_same_again() {
        let cluster = cluster(&["a", "b"], 300);
        let options = Options { policy: Policy::Random, ..weights(&[("a", 3000)]) };
        let drawn = offers(&cluster, &options);
        assert!((200..250).contains(&drawn[0].1), "{drawn:?}");
        assert_eq!(drawn, offers(&cluster, &options));
    }
}
