//! The tree of roles by the components of their names: what is reserved and held below each, quotas, weights, and the
//! order in which roles are next. Siblings are ordered by dominant share, then by how often something was allocated
//! below them, then by name; a share is divided by the role's weight. A role's own frameworks are one more sibling of
//! the roles below it, with the name `.` and the usual weight.
//!
//! Everything is kept as it changes: a change costs the depth of the tree times the logarithm of its width. Only when the
//! cluster itself grows or shrinks are all shares measured again, once, before the next order is asked for.

mod order;

use crate::amounts::Amounts;
use crate::ids::{AgentKey, FrameworkKey};
use crate::queue::{Line, Queue};
use crate::share::Share;
use crate::tally::{Charge, Held, Tally, Way};
use api::resources::{Limits, Name, Resources};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The weight of a role that has no other, in millionths.
pub const WEIGHT_MICRO: u64 = 1_000_000;

/// So many components of a role's name are levels of the tree; what is behind them is one more name. Walks along the
/// tree are as deep as it is.
const DEPTH_MAX: usize = 64;
const _: () = assert!(api::limits::ROLE_COMPONENTS_MAX <= DEPTH_MAX);

/// The place of a role in the tree, as long as it is known.
pub(crate) type NodeId = usize;

pub(crate) const ROOT: NodeId = 0;

/// What a role is promised, and what it may have at most.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quota {
    /// As much is held back for it.
    pub guarantees: Amounts,
    /// No more is offered to it.
    pub limits: Limits,
}

impl Quota {
    /// Whether it says nothing.
    pub fn is_none(&self) -> bool {
        self.guarantees.is_zero() && self.limits.iter().next().is_none()
    }
}

/// Which roles are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// All with a client that is active.
    Active,
    /// Those of them with a guarantee that is not met.
    Hungry,
    /// Those of them that want something that they did not want in the last run.
    Fresh,
}

const LANES: [Lane; 3] = [Lane::Active, Lane::Hungry, Lane::Fresh];

/// Of what shares are parts.
pub(crate) struct Measure<'a> {
    totals: &'a Amounts,
    without: &'a BTreeSet<Name>,
}

impl Measure<'_> {
    pub(crate) fn share(&self, held: &Amounts) -> Share {
        Share::of(held, self.totals, self.without, WEIGHT_MICRO)
    }
}

/// Where somebody stands among siblings: the least is next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    share: Share,
    turns: u64,
    name: Arc<str>,
    who: Sibling,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sibling {
    /// The role's own client.
    Own,
    Below(NodeId),
}

/// A role that is known.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) path: Arc<str>,
    name: Arc<str>,
    parent: Option<NodeId>,
    children: BTreeMap<Arc<str>, NodeId>,
    pub(crate) weight_micro: u64,
    pub(crate) quota: Quota,
    /// What is reserved for it and for roles below it.
    reservations: Amounts,
    /// What is held by it and by roles below it.
    pub(crate) held: Held,
    /// Of that, what is in use: neither reserved nor revocable, and not merely offered.
    in_use: Tally,
    turns: u64,
    pub(crate) own: Option<Own>,
    lanes: [BTreeSet<Place>; LANES.len()],
    place: Option<Place>,
    is_in: [bool; LANES.len()],
    /// What is missing of its guarantees.
    unmet: Amounts,
}

/// A role's own client: its frameworks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own {
    held: Held,
    turns: u64,
    active: bool,
    pub(crate) queue: Queue,
    place: Option<Place>,
    is_in: [bool; LANES.len()],
}

/// The tree.
#[derive(Clone, Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    vacant: Vec<NodeId>,
    by_path: BTreeMap<Arc<str>, NodeId>,
    totals: Amounts,
    without: BTreeSet<Name>,
    /// Shares were measured by other totals.
    stale: bool,
    /// What is missing of all guarantees of roles without a parent.
    unmet: Amounts,
    dot: Arc<str>,
}

impl Node {
    fn new(path: Arc<str>, name: Arc<str>, parent: Option<NodeId>) -> Node {
        Node {
            path,
            name,
            parent,
            children: BTreeMap::new(),
            weight_micro: WEIGHT_MICRO,
            quota: Quota::default(),
            reservations: Amounts::default(),
            held: Held::default(),
            in_use: Tally::default(),
            turns: 0,
            own: None,
            lanes: Default::default(),
            place: None,
            is_in: [false; LANES.len()],
            unmet: Amounts::default(),
        }
    }

    fn is_needless(&self) -> bool {
        self.children.is_empty()
            && self.own.is_none()
            && self.reservations.is_zero()
            && self.quota.is_none()
            && self.weight_micro == WEIGHT_MICRO
    }

    /// What counts against its quota: what is reserved, whether held or not, and what is held of the rest.
    pub(crate) fn consumed(&self) -> Amounts {
        let mut sum = self.reservations.clone();
        sum.add(self.held.unreserved.sum());
        sum
    }

    /// What is missing of its guarantees.
    pub(crate) fn unmet(&self) -> &Amounts {
        &self.unmet
    }
}

impl Tree {
    /// Nothing but the root; these names do not count in shares.
    pub fn new(without: BTreeSet<Name>) -> Tree {
        Tree {
            nodes: vec![Node::new("".into(), "".into(), None)],
            vacant: Vec::new(),
            by_path: BTreeMap::new(),
            totals: Amounts::default(),
            without,
            stale: false,
            unmet: Amounts::default(),
            dot: ".".into(),
        }
    }

    // What there is.

    /// The cluster has so much more.
    pub fn add_total(&mut self, total: &Amounts) {
        self.totals.add(total);
        self.stale = true;
    }

    /// The cluster has so much less.
    pub fn sub_total(&mut self, total: &Amounts) {
        self.totals.sub(total);
        self.stale = true;
    }

    /// What the cluster has.
    pub fn totals(&self) -> &Amounts {
        &self.totals
    }

    fn measure(&self) -> Measure<'_> {
        Measure { totals: &self.totals, without: &self.without }
    }

    // Roles.

    /// All roles that are known, by name: with a weight, a quota, a reservation or a client, and all above them.
    pub fn known(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_path.keys()
    }

    /// Whether a role is known.
    pub fn is_known(&self, role: &str) -> bool {
        self.by_path.contains_key(role)
    }

    /// The name of a role, shared with the tree where it has it.
    pub(crate) fn name(&self, role: &str) -> Arc<str> {
        self.by_path.get_key_value(role).map_or_else(|| role.into(), |(role, _)| role.clone())
    }

    pub(crate) fn id(&self, role: &str) -> Option<NodeId> {
        self.by_path.get(role).copied()
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    fn named(&self, role: &str) -> Option<&Node> {
        self.id(role).map(|id| &self.nodes[id])
    }

    /// A role's weight, in millionths.
    pub fn weight_micro(&self, role: &str) -> u64 {
        self.named(role).map_or(WEIGHT_MICRO, |node| node.weight_micro)
    }

    /// A role's quota.
    pub fn quota(&self, role: &str) -> Quota {
        self.named(role).map(|node| node.quota.clone()).unwrap_or_default()
    }

    /// All roles with a quota.
    pub fn quotas(&self) -> impl Iterator<Item = (&Arc<str>, &Quota)> {
        let nodes = self.by_path.iter().map(|(role, id)| (role, &self.nodes[*id].quota));
        nodes.filter(|(_, quota)| !quota.is_none())
    }

    /// What is reserved for a role and for roles below it, on all agents.
    pub fn reserved(&self, role: &str) -> Amounts {
        self.named(role).map(|node| node.reservations.clone()).unwrap_or_default()
    }

    /// What counts against a role's quota, with all below it; offers count.
    pub fn consumed(&self, role: &str) -> Amounts {
        self.named(role).map(Node::consumed).unwrap_or_default()
    }

    /// The same without what is merely offered.
    pub fn consumed_for_good(&self, role: &str) -> Amounts {
        let Some(node) = self.named(role) else { return Amounts::default() };
        let mut sum = node.reservations.clone();
        sum.add(node.in_use.sum());
        sum
    }

    /// The frameworks of a role: how many are subscribed or hold something.
    pub fn framework_count(&self, role: &str) -> usize {
        let own = self.named(role).and_then(|node| node.own.as_ref());
        own.map_or(0, |own| own.queue.members().count())
    }

    fn make(&mut self, role: &str) -> NodeId {
        if let Some(id) = self.id(role) {
            return id;
        }
        let mut at = ROOT;
        for component in role.splitn(DEPTH_MAX, '/') {
            if let Some(child) = self.nodes[at].children.get(component) {
                at = *child;
                continue;
            }
            let path: Arc<str> = match at {
                ROOT => component.into(),
                _ => format!("{}/{component}", self.nodes[at].path).into(),
            };
            let name: Arc<str> = component.into();
            let node = Node::new(path.clone(), name.clone(), Some(at));
            let id = match self.vacant.pop() {
                Some(id) => {
                    self.nodes[id] = node;
                    id
                }
                None => {
                    self.nodes.push(node);
                    self.nodes.len() - 1
                }
            };
            self.nodes[at].children.insert(name, id);
            self.by_path.insert(path, id);
            self.nodes[id].place = Some(self.place_of(id));
            at = id;
        }
        at
    }

    /// Forgets a role, and those above it, if nothing is left to know of them.
    fn tidy(&mut self, mut at: NodeId) {
        while let Some(parent) = self.nodes[at].parent {
            if !self.nodes[at].is_needless() {
                return;
            }
            let node = std::mem::replace(&mut self.nodes[at], Node::new("".into(), "".into(), None));
            self.by_path.remove(&node.path);
            self.nodes[parent].children.remove(&node.name);
            self.vacant.push(at);
            at = parent;
        }
    }

    /// Sets a role's weight, in millionths, at least 1.
    pub fn set_weight(&mut self, role: &str, weight_micro: u64) {
        let id = self.make(role);
        self.nodes[id].weight_micro = weight_micro.max(1);
        self.replace(id);
        self.tidy(id);
    }

    /// Sets a role's quota.
    pub fn set_quota(&mut self, role: &str, quota: Quota) {
        let id = self.make(role);
        self.nodes[id].quota = quota;
        self.count_unmet(id);
        self.tidy(id);
    }

    /// So much is reserved on some agent, each resource for its own role.
    pub fn reserve(&mut self, resources: &Resources) {
        self.each_reserved(resources, |sum, more| sum.add(more));
    }

    /// So much is no longer reserved.
    pub fn unreserve(&mut self, resources: &Resources) {
        self.each_reserved(resources, |sum, less| sum.sub(less));
    }

    fn each_reserved(&mut self, resources: &Resources, change: impl Fn(&mut Amounts, &Amounts)) {
        for resource in resources {
            let Some(role) = resource.reservation_role() else { continue };
            let mut amount = Amounts::default();
            amount.count(resource);
            if amount.is_zero() {
                continue;
            }
            let id = self.make(role);
            let mut at = Some(id);
            while let Some(id) = at {
                change(&mut self.nodes[id].reservations, &amount);
                self.count_unmet(id);
                at = self.nodes[id].parent;
            }
            self.tidy(id);
        }
    }

    // Clients.

    /// Whether a role has a client.
    pub fn has_client(&self, role: &str) -> bool {
        self.named(role).is_some_and(|node| node.own.is_some())
    }

    /// The roles with a client.
    pub fn clients(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_path.iter().filter(|(_, id)| self.nodes[**id].own.is_some()).map(|(role, _)| role)
    }

    /// Makes a client for a role; it is not active.
    pub(crate) fn enter(&mut self, role: &str) -> NodeId {
        let id = self.make(role);
        if self.nodes[id].own.is_none() {
            self.nodes[id].own = Some(Own::default());
            self.replace_own(id);
        }
        id
    }

    /// Makes a client for a role; it is not active.
    pub fn add_client(&mut self, role: &str) {
        self.enter(role);
    }

    /// Forgets a role's client and what it holds.
    pub fn remove_client(&mut self, role: &str) {
        if let Some(id) = self.id(role) {
            self.leave(id);
        }
    }

    pub(crate) fn leave(&mut self, id: NodeId) {
        self.set_lanes(id, [false; LANES.len()]);
        let Some(own) = self.nodes[id].own.take() else { return };
        let mut at = Some(id);
        while let Some(id) = at {
            self.nodes[id].held.sub_all(&own.held);
            self.replace(id);
            self.count_unmet(id);
            at = self.nodes[id].parent;
        }
        self.tidy(id);
    }

    /// Whether a role's client is in the order.
    pub fn set_active(&mut self, role: &str, active: bool) {
        if let Some(id) = self.id(role) {
            self.set_own_active(id, active);
        }
    }

    fn set_own_active(&mut self, id: NodeId, active: bool) {
        if let Some(own) = &mut self.nodes[id].own {
            own.active = active;
        }
        self.relane(id);
    }

    /// The lanes of a role's client follow from what it is.
    fn relane(&mut self, id: NodeId) {
        let node = &self.nodes[id];
        let Some(own) = &node.own else { return };
        let lanes = [own.active, own.active && !node.unmet.is_zero(), own.active && !own.queue.is_idle(Line::Fresh)];
        self.set_lanes(id, lanes);
    }

    fn set_lanes(&mut self, id: NodeId, lanes: [bool; LANES.len()]) {
        for (lane, is) in lanes.into_iter().enumerate() {
            let node = &mut self.nodes[id];
            let Some(own) = &mut node.own else { return };
            if own.is_in[lane] == is {
                continue;
            }
            own.is_in[lane] = is;
            let Some(place) = own.place.clone() else { continue };
            if is {
                node.lanes[lane].insert(place)
            } else {
                node.lanes[lane].remove(&place)
            };
            self.lift(id, lane);
        }
    }

    /// A role is in a lane of its parent as long as anybody is in its own.
    fn lift(&mut self, mut at: NodeId, lane: usize) {
        while let Some(parent) = self.nodes[at].parent {
            let is = !self.nodes[at].lanes[lane].is_empty();
            if self.nodes[at].is_in[lane] == is {
                return;
            }
            self.nodes[at].is_in[lane] = is;
            let Some(place) = self.nodes[at].place.clone() else { return };
            let lane_above = &mut self.nodes[parent].lanes[lane];
            if is {
                lane_above.insert(place)
            } else {
                lane_above.remove(&place)
            };
            at = parent;
        }
    }

    fn place_of(&self, id: NodeId) -> Place {
        let node = &self.nodes[id];
        let share = Share::of(node.held.all.sum(), &self.totals, &self.without, node.weight_micro);
        Place { share, turns: node.turns, name: node.name.clone(), who: Sibling::Below(id) }
    }

    /// Puts a role where it belongs among its siblings.
    fn replace(&mut self, id: NodeId) {
        let Some(parent) = self.nodes[id].parent else { return };
        let after = self.place_of(id);
        let before = self.nodes[id].place.replace(after.clone());
        if before.as_ref() == Some(&after) {
            return;
        }
        for lane in 0..LANES.len() {
            if self.nodes[id].is_in[lane] {
                let lane = &mut self.nodes[parent].lanes[lane];
                before.as_ref().map(|before| lane.remove(before));
                lane.insert(after.clone());
            }
        }
    }

    fn replace_own(&mut self, id: NodeId) {
        let Some(own) = &self.nodes[id].own else { return };
        let share = self.measure().share(own.held.all.sum());
        let after = Place { share, turns: own.turns, name: self.dot.clone(), who: Sibling::Own };
        let node = &mut self.nodes[id];
        let Some(own) = &mut node.own else { return };
        let before = own.place.replace(after.clone());
        if before.as_ref() == Some(&after) {
            return;
        }
        for lane in 0..LANES.len() {
            if own.is_in[lane] {
                before.as_ref().map(|before| node.lanes[lane].remove(before));
                node.lanes[lane].insert(after.clone());
            }
        }
    }

    /// Counts again what is missing of a role's guarantees.
    fn count_unmet(&mut self, id: NodeId) {
        let node = &self.nodes[id];
        if node.quota.guarantees.is_zero() && node.unmet.is_zero() {
            return;
        }
        let unmet = node.quota.guarantees.minus(&node.consumed());
        if node.parent == Some(ROOT) {
            self.unmet.sub(&node.unmet);
            self.unmet.add(&unmet);
        }
        self.nodes[id].unmet = unmet;
        self.relane(id);
    }

    /// What must be held back so that every guarantee can still be met.
    pub(crate) fn headroom_needed(&self) -> &Amounts {
        &self.unmet
    }

    /// What of the cluster is neither held nor reserved.
    pub(crate) fn headroom(&self) -> Amounts {
        let root = &self.nodes[ROOT];
        let mut left = self.totals.minus(root.held.all.sum());
        left.sub(&root.reservations.minus(root.held.reserved.sum()));
        left
    }

    // What is held.

    /// A role's client holds this too. `turns` is how often it was its turn for it.
    pub fn charge(&mut self, role: &str, agent: AgentKey, resources: &Resources, turns: u64) {
        if let Some(id) = self.id(role) {
            self.charge_at(id, None, agent, &Charge::of(resources), turns, Way::More);
        }
    }

    /// A role's client does not hold this any more.
    pub fn discharge(&mut self, role: &str, agent: AgentKey, resources: &Resources) {
        if let Some(id) = self.id(role) {
            self.charge_at(id, None, agent, &Charge::of(resources), 0, Way::Less);
        }
    }

    /// A role's client holds so much more or less, and so do the roles above it; one of its frameworks, if that is known.
    pub(crate) fn charge_at(
        &mut self,
        id: NodeId,
        framework: Option<FrameworkKey>,
        agent: AgentKey,
        charge: &Charge,
        turns: u64,
        way: Way,
    ) {
        let measure = Measure { totals: &self.totals, without: &self.without };
        if let Some(own) = &mut self.nodes[id].own {
            own.held.change(agent, charge, way);
            own.turns = way.count(own.turns, turns);
            if let Some(framework) = framework {
                own.queue.charge(framework, agent, charge, turns, way, &measure);
            }
        }
        self.replace_own(id);
        let mut at = Some(id);
        while let Some(id) = at {
            let node = &mut self.nodes[id];
            node.held.change(agent, charge, way);
            node.turns = way.count(node.turns, turns);
            at = node.parent;
            self.replace(id);
            self.count_unmet(id);
        }
    }

    /// It was a framework's turn so often more or less, whatever it holds.
    pub(crate) fn turn_at(&mut self, id: NodeId, framework: FrameworkKey, more: u64, less: u64) {
        let change = |turns: u64| turns.saturating_add(more).saturating_sub(less);
        if let Some(own) = &mut self.nodes[id].own {
            own.turns = change(own.turns);
            own.queue.change(framework, |member| member.turns = change(member.turns));
        }
        self.replace_own(id);
        let mut at = Some(id);
        while let Some(id) = at {
            self.nodes[id].turns = change(self.nodes[id].turns);
            at = self.nodes[id].parent;
            self.replace(id);
        }
    }

    /// Counts what is in use, apart from what is offered.
    pub(crate) fn use_at(&mut self, id: NodeId, agent: AgentKey, charge: &Charge, way: Way) {
        let mut at = Some(id);
        while let Some(id) = at {
            let node = &mut self.nodes[id];
            node.in_use.change_use(agent, charge, way);
            at = node.parent;
        }
    }

    /// What a role's client holds; None without one.
    pub fn held(&self, role: &str) -> Option<&Amounts> {
        self.named(role).and_then(|node| node.own.as_ref()).map(|own| own.held.all.sum())
    }

    /// What a role's client and those below it hold; None for a role that is not known.
    pub fn held_below(&self, role: &str) -> Option<&Amounts> {
        self.named(role).map(|node| node.held.all.sum())
    }

    /// What all hold.
    pub fn held_by_all(&self) -> &Amounts {
        self.nodes[ROOT].held.all.sum()
    }

    /// The share of a role's own client.
    pub fn share(&self, role: &str) -> Option<Share> {
        let node = self.named(role)?;
        let own = node.own.as_ref()?;
        // With nobody below it, the role and its client are one.
        let weight_micro = if node.children.is_empty() { node.weight_micro } else { WEIGHT_MICRO };
        Some(Share::of(own.held.all.sum(), &self.totals, &self.without, weight_micro))
    }

    // Frameworks.

    pub(crate) fn queue(&self, id: NodeId) -> Option<&Queue> {
        self.nodes[id].own.as_ref().map(|own| &own.queue)
    }

    /// Changes the queue of a role's client; its lanes follow.
    pub(crate) fn with_queue<R>(&mut self, id: NodeId, change: impl FnOnce(&mut Queue) -> R) -> Option<R> {
        let own = self.nodes[id].own.as_mut()?;
        let result = change(&mut own.queue);
        own.active = !own.queue.is_idle(Line::Active);
        self.relane(id);
        Some(result)
    }
}
