//! Who is next.

use super::{Lane, NodeId, Place, ROOT, Sibling, Tree};
use crate::dice::Dice;
use std::collections::btree_set::Iter;
use std::sync::Arc;

impl Tree {
    /// Measures all shares again if the cluster has grown or shrunk since.
    pub fn refresh(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        for id in 0..self.nodes.len() {
            if self.nodes[id].held.all.sum().is_zero() {
                continue;
            }
            self.replace_own(id);
            self.replace(id);
            let measure = super::Measure { totals: &self.totals, without: &self.without };
            if let Some(own) = &mut self.nodes[id].own {
                own.queue.measure_again(&measure);
            }
        }
    }

    /// The roles of a lane, the next one first. Call [`refresh`](Tree::refresh) before.
    pub(crate) fn order(&self, lane: Lane) -> Order<'_> {
        debug_assert!(!self.stale, "shares are measured");
        Order { tree: self, lane: lane as usize, levels: vec![(ROOT, self.nodes[ROOT].lanes[lane as usize].iter())] }
    }

    /// Whether nobody is in the lane.
    pub(crate) fn is_idle(&self, lane: Lane) -> bool {
        self.nodes[ROOT].lanes[lane as usize].is_empty()
    }

    /// Those of the roles that are in the lane, the next one first.
    pub(crate) fn in_order(&self, lane: Lane, roles: impl IntoIterator<Item = NodeId>) -> Vec<NodeId> {
        let is_in = |id: &NodeId| self.nodes[*id].own.as_ref().is_some_and(|own| own.is_in[lane as usize]);
        let mut roles: Vec<(Vec<&Place>, NodeId)> =
            roles.into_iter().filter(is_in).map(|id| (self.places(id), id)).collect();
        roles.sort();
        roles.into_iter().map(|(_, id)| id).collect()
    }

    /// A client's place, and before it those of all roles from the first on.
    fn places(&self, id: NodeId) -> Vec<&Place> {
        let mut places: Vec<&Place> = self.nodes[id].own.iter().filter_map(|own| own.place.as_ref()).collect();
        places.extend(self.lineage(id).filter_map(|id| self.nodes[id].place.as_ref()));
        places.reverse();
        places
    }

    /// A role and all above it, the nearest first.
    pub(crate) fn lineage(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        std::iter::successors(Some(id), |id| self.nodes[*id].parent)
    }

    /// Whether a role is another one or below it.
    pub(crate) fn is_at_or_below(&self, role: NodeId, above: NodeId) -> bool {
        self.lineage(role).any(|id| id == above)
    }

    /// The active clients, the next one first.
    pub fn clients_in_order(&mut self) -> Vec<Arc<str>> {
        self.refresh();
        self.order(Lane::Active).map(|id| self.nodes[id].path.clone()).collect()
    }

    /// The roles with clients and those above them, parents before their children, the next one first.
    pub(crate) fn all_in_order(&self) -> Vec<(Arc<str>, NodeId)> {
        let mut roles = Vec::new();
        let mut waiting: Vec<NodeId> = vec![ROOT];
        while let Some(at) = waiting.pop() {
            if at != ROOT {
                roles.push((self.nodes[at].path.clone(), at));
            }
            let below = self.nodes[at].children.values().filter(|id| self.has_client_at_or_below(**id));
            let mut below: Vec<(&Option<Place>, NodeId)> = below.map(|id| (&self.nodes[*id].place, *id)).collect();
            // The first is taken last.
            below.sort_by(|a, b| b.cmp(a));
            waiting.extend(below.into_iter().map(|(_, id)| id));
        }
        roles
    }

    fn has_client_at_or_below(&self, id: NodeId) -> bool {
        let node = &self.nodes[id];
        node.own.is_some() || node.children.values().any(|id| self.has_client_at_or_below(*id))
    }

    /// The active clients, drawn by weight: among siblings each has its weight's part of what its parent has.
    pub fn clients_by_chance(&self, dice: &mut Dice) -> Vec<Arc<str>> {
        self.shuffled(Lane::Active, dice).into_iter().map(|id| self.nodes[id].path.clone()).collect()
    }

    pub(crate) fn shuffled(&self, lane: Lane, dice: &mut Dice) -> Vec<NodeId> {
        let mut clients = Vec::new();
        self.weigh(ROOT, lane as usize, 1 << 96, &mut clients);
        // By name, not by share: what is drawn must not depend on who holds what.
        clients.sort_unstable_by(|(a, _), (b, _)| self.nodes[*a].path.cmp(&self.nodes[*b].path));
        dice.draw_all(clients)
    }

    fn weigh(&self, at: NodeId, lane: usize, weight: u128, clients: &mut Vec<(NodeId, u128)>) {
        let weight_of = |place: &Place| match place.who {
            Sibling::Own => u128::from(super::WEIGHT_MICRO),
            Sibling::Below(child) => u128::from(self.nodes[child].weight_micro),
        };
        let siblings = &self.nodes[at].lanes[lane];
        let sum: u128 = siblings.iter().map(weight_of).sum();
        for place in siblings {
            // The product has room: a weight has 64 bits, and what is passed on is far above it for as long as that matters.
            let own = part(weight, weight_of(place), sum);
            match place.who {
                Sibling::Own => clients.push((at, own)),
                Sibling::Below(child) => self.weigh(child, lane, own, clients),
            }
        }
    }
}

/// `whole` times `weight` through `sum`, at least 1.
fn part(whole: u128, weight: u128, sum: u128) -> u128 {
    // Neither factor loses more than what chance would not notice.
    let shift = (128 - weight.leading_zeros()).saturating_sub(whole.leading_zeros());
    ((whole >> shift) * weight / sum.max(1)).checked_shl(shift).unwrap_or(u128::MAX).max(1)
}

/// Roles in order, one after the other.
pub(crate) struct Order<'a> {
    tree: &'a Tree,
    lane: usize,
    levels: Vec<(NodeId, Iter<'a, Place>)>,
}

impl Iterator for Order<'_> {
    type Item = NodeId;

    fn next(&mut self) -> Option<NodeId> {
        loop {
            let (at, siblings) = self.levels.last_mut()?;
            match siblings.next() {
                None => drop(self.levels.pop()),
                Some(Place { who: Sibling::Own, .. }) => return Some(*at),
                Some(Place { who: Sibling::Below(child), .. }) => {
                    self.levels.push((*child, self.tree.nodes[*child].lanes[self.lane].iter()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amounts::Amounts;
    use crate::ids::AgentKey;
    use api::resources::{Resources, parse};
    use std::collections::BTreeSet;

    fn resources(text: &str) -> Resources {
        parse(text, "*").expect(text).resources
    }

    fn tree(clients: &[&str]) -> Tree {
        let mut tree = Tree::new(BTreeSet::new());
        tree.add_total(&Amounts::of_scalars(&resources("cpus:100;mem:100")));
        for client in clients {
            tree.add_client(client);
            tree.set_active(client, true);
        }
        tree
    }

    fn check(tree: &mut Tree, expected: &str) {
        let order = tree.clients_in_order();
        let order: Vec<&str> = order.iter().map(|client| &**client).collect();
        assert_eq!(order.join(" "), expected);
    }

    #[test]
    fn parents_are_compared_before_their_children() {
        let mut tree = tree(&["a/x", "a", "b"]);
        let on = AgentKey(0);
        tree.charge("a/x", on, &resources("cpus:5"), 1);
        check(&mut tree, "b a a/x");
        tree.charge("b", on, &resources("cpus:6"), 1);
        check(&mut tree, "a a/x b");
        tree.set_weight("b", 3_000_000);
        check(&mut tree, "b a a/x");
        tree.discharge("a/x", on, &resources("cpus:5"));
        check(&mut tree, "a a/x b");
        tree.set_active("a", false);
        check(&mut tree, "a/x b");
        tree.remove_client("a/x");
        check(&mut tree, "b");
        tree.remove_client("a");
        assert!(!tree.is_known("a") && tree.is_known("b"));
    }

    #[test]
    fn a_larger_cluster_makes_other_shares() {
        let mut tree = tree(&["a", "b"]);
        tree.charge("a", AgentKey(0), &resources("cpus:2;mem:1"), 1);
        tree.charge("b", AgentKey(0), &resources("cpus:1;mem:3"), 1);
        check(&mut tree, "a b");
        tree.add_total(&Amounts::of_scalars(&resources("mem:1000")));
        check(&mut tree, "b a");
    }

    #[test]
    fn parts_of_large_weights_do_not_overflow() {
        assert_eq!(part(1 << 96, 1000, 3000), (1_u128 << 96) / 3);
        assert!(part(u128::MAX, u64::MAX.into(), u64::MAX.into()) > 1 << 126);
        assert_eq!(part(1, 1, 1000), 1);
    }
}
