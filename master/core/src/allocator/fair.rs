//! Who is next: a tree of roles by the components of their names, siblings ordered by dominant share, and the frameworks
//! of each role ordered the same way. Only frameworks that want offers are in the order; everybody's share counts.

use crate::ids::FrameworkKey;
use crate::state::State;
use api::resources::{Name, Resources};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The largest part that somebody has of any resource, as a fraction. No floats: shares must compare alike everywhere.
#[derive(Clone, Copy, Debug)]
struct Share {
    held: u64,
    total: u64,
}

impl Ord for Share {
    fn cmp(&self, other: &Share) -> Ordering {
        (u128::from(self.held) * u128::from(other.total)).cmp(&(u128::from(other.held) * u128::from(self.total)))
    }
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
    held: Held,
    /// Its children with anybody who wants offers below. The role's own frameworks are a child with the name `.`.
    children: BTreeSet<Place<(Arc<str>, usize)>>,
    /// Of a leaf: the role, and its frameworks that want offers.
    role: Option<Arc<str>>,
    frameworks: BTreeSet<Place<FrameworkKey>>,
    held_by: BTreeMap<FrameworkKey, Held>,
}

/// The order of all who want offers.
pub(super) struct Roles {
    names: BTreeMap<Name, usize>,
    totals: Vec<u64>,
    nodes: Vec<Node>,
    leaves: BTreeMap<Arc<str>, usize>,
    paths: BTreeMap<String, usize>,
}

impl Roles {
    /// Everybody's shares as State has them.
    pub(super) fn new(state: &State) -> Roles {
        let mut sums: BTreeMap<Name, u64> = BTreeMap::new();
        for agent in state.agents.live.values().filter(|agent| !agent.is_unreachable()) {
            for (name, milli) in agent.total.quantities() {
                *sums.entry(name).or_insert(0) += u64::try_from(milli).unwrap_or(0);
            }
        }
        sums.retain(|_, total| *total > 0);
        let names = sums.keys().cloned().enumerate().map(|(at, name)| (name, at)).collect();
        let totals = sums.into_values().collect();
        let mut roles = Roles { names, totals, nodes: Vec::new(), leaves: BTreeMap::new(), paths: BTreeMap::new() };
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
        self.nodes.push(Node {
            name,
            parent,
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
        for component in role.split('/') {
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
        let place = (self.share(&held), held.count, framework);
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
            let before = (self.share(&held), held.count, framework);
            held.add(&amounts);
            let after = (self.share(&held), held.count, framework);
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
        (self.share(&node.held), node.held.count, (node.name.clone(), at))
    }

    fn share(&self, held: &Held) -> Share {
        let shares = held.milli.iter().zip(&self.totals).map(|(held, total)| Share { held: *held, total: *total });
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
