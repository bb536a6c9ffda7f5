//! The arithmetic of resources, in integers only.
//!
//! [`Resources`] is always in one normal form: sorted, joined where it may be joined, nothing empty in it. So equal
//! amounts are equal values with equal bytes, on every replica.

mod convert;
mod disk;
mod find;
mod quantities;
pub mod quota_milli;
mod role;
mod text;
mod v1;
mod value;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use convert::Unfit;
pub use disk::Disk;
pub use quantities::{Limits, Quantities};
pub use role::{is_at_or_below, parse_roles, role_ancestors, role_problem};
pub(crate) use text::parse_value;
pub use text::{Parsed, parse};
pub use v1::{Format, Invalid};
pub(crate) use value::ranges_text;
pub use value::{Milli, SCALAR_MILLI_MAX, Value, scalar_milli};

/// An amount of resources. A clone is cheap: amounts share what is equal by origin.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Resources(Option<Arc<Vec<Resource>>>);

/// One resource. Its order is the order in which resources are shown: unreserved first, then as [`Name`] says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Resource {
    /// Who holds it: empty is unreserved; each next role is below the one before; the last is the owner.
    pub reservations: Vec<Reservation>,
    /// What it is.
    pub name: Name,
    /// The role it is offered or given to.
    pub allocation_role: Option<Arc<str>>,
    /// The resource provider that brings it, if not the agent itself.
    pub provider_id: Option<Arc<str>>,
    /// Of disks: the volume or device it is.
    pub disk: Option<Box<Disk>>,
    /// May be taken back at any time.
    pub revocable: bool,
    /// May be used by several tasks at once.
    pub shared: bool,
    /// How much.
    pub value: Value,
    /// How many times this very thing is in the amount: more than 1 only for what cannot be joined.
    pub copies: u32,
}

/// A resource's name; those that every cluster has come first, in the order that people know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Name {
    /// Processors.
    Cpus,
    /// Memory in megabytes.
    Mem,
    /// Disk space in megabytes.
    Disk,
    /// Graphics processors, whole.
    Gpus,
    /// Ports of the host.
    Ports,
    /// Any other.
    Other(Arc<str>),
}

/// One entry of a reservation stack.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Reservation {
    /// Made by a call, not by an agent's flags.
    pub dynamic: bool,
    /// For whom.
    pub role: Arc<str>,
    /// Who made it.
    pub principal: Option<Arc<str>>,
    /// Keys and values; they make otherwise equal reservations different.
    pub labels: Vec<(Arc<str>, Option<Arc<str>>)>,
}

impl Name {
    /// As on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Name::Cpus => "cpus",
            Name::Mem => "mem",
            Name::Disk => "disk",
            Name::Gpus => "gpus",
            Name::Ports => "ports",
            Name::Other(name) => name,
        }
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Name {
        match name {
            "cpus" => Name::Cpus,
            "mem" => Name::Mem,
            "disk" => Name::Disk,
            "gpus" => Name::Gpus,
            "ports" => Name::Ports,
            other => Name::Other(other.into()),
        }
    }
}

impl Resource {
    /// Plain, unreserved.
    pub fn new(name: impl Into<Name>, value: Value) -> Resource {
        Resource {
            reservations: vec![],
            name: name.into(),
            allocation_role: None,
            provider_id: None,
            disk: None,
            revocable: false,
            shared: false,
            value,
            copies: 1,
        }
    }

    /// The role that holds it; None if it is unreserved.
    pub fn reservation_role(&self) -> Option<&str> {
        self.reservations.last().map(|reservation| &*reservation.role)
    }

    /// Whether it may be offered to `role`: unreserved, or reserved for it or for a role above it.
    pub fn may_go_to(&self, role: &str) -> bool {
        self.reservation_role().is_none_or(|holder| is_at_or_below(role, holder))
    }

    /// A persistent volume.
    pub fn is_persistent_volume(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.persistence_id.is_some())
    }

    /// Scalars in thousandths; 0 for what is no scalar. What is shared counts once, however often it is used.
    pub fn milli(&self) -> i64 {
        match self.value {
            Value::Scalar(milli) if self.shared => milli,
            Value::Scalar(milli) => milli.saturating_mul(self.copies.into()),
            _ => 0,
        }
    }

    /// Volumes and exclusive disks are things, not amounts: two of them are two.
    fn is_thing(&self) -> bool {
        self.shared || self.disk.as_ref().is_some_and(|disk| disk.is_whole())
    }

    /// Compares everything but how much; of things, that too. Agrees with the order of resources.
    fn cmp_kind(&self, other: &Resource) -> Ordering {
        let key = |it: &Resource| (it.revocable, it.shared);
        self.reservations
            .cmp(&other.reservations)
            .then_with(|| self.name.cmp(&other.name))
            .then_with(|| self.allocation_role.cmp(&other.allocation_role))
            .then_with(|| self.provider_id.cmp(&other.provider_id))
            .then_with(|| self.disk.cmp(&other.disk))
            .then_with(|| key(self).cmp(&key(other)))
            .then_with(|| match self.is_thing() {
                true => self.value.cmp(&other.value),
                false => self.value.rank().cmp(&other.value.rank()),
            })
    }
}

/// The normal form of resources in any order.
fn normal(mut resources: Vec<Resource>) -> Vec<Resource> {
    resources.retain(|resource| !resource.value.is_empty() && resource.copies > 0);
    // Stable: of equal disks that are seen at different places, the first stands for all.
    resources.sort();
    let mut items: Vec<Resource> = Vec::with_capacity(resources.len());
    let mut values = vec![];
    let mut rest = resources.into_iter().peekable();
    while let Some(mut first) = rest.next() {
        while let Some(twin) = rest.next_if(|next| next.cmp_kind(&first).is_eq()) {
            if first.is_thing() {
                first.copies = first.copies.saturating_add(twin.copies);
            } else {
                values.push(twin.value);
            }
        }
        if !values.is_empty() {
            let own = std::mem::replace(&mut first.value, Value::Scalar(0));
            values.push(own);
            first.value = Value::sum(std::mem::take(&mut values));
        }
        items.push(first);
    }
    items
}

impl FromIterator<Resource> for Resources {
    fn from_iter<T: IntoIterator<Item = Resource>>(resources: T) -> Self {
        Resources::from_normal(normal(resources.into_iter().collect()))
    }
}

impl<'a> IntoIterator for &'a Resources {
    type Item = &'a Resource;
    type IntoIter = std::slice::Iter<'a, Resource>;
    fn into_iter(self) -> Self::IntoIter {
        self.as_slice().iter()
    }
}

impl Resources {
    /// Nothing.
    pub fn new() -> Resources {
        Resources::default()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    /// The single resources, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Resource> {
        self.as_slice().iter()
    }

    /// The single resources, in order.
    pub fn as_slice(&self) -> &[Resource] {
        self.0.as_ref().map_or(&[], |items| items)
    }

    fn from_normal(items: Vec<Resource>) -> Resources {
        Resources((!items.is_empty()).then(|| Arc::new(items)))
    }

    /// Where a resource of the same kind is, or would be.
    fn find_kind(&self, resource: &Resource) -> Option<&Resource> {
        let items = self.as_slice();
        items.binary_search_by(|item| item.cmp_kind(resource)).ok().map(|at| &items[at])
    }

    /// Works on the items and keeps the rule that nothing is None.
    fn with<R>(&mut self, work: impl FnOnce(&mut Vec<Resource>) -> R) -> R {
        let items = Arc::make_mut(self.0.get_or_insert_default());
        let result = work(items);
        if items.is_empty() {
            self.0 = None;
        }
        result
    }

    /// Adds one resource; an empty one changes nothing.
    pub fn add_one(&mut self, resource: Resource) {
        if resource.value.is_empty() || resource.copies == 0 {
            return;
        }
        self.with(|items| match items.binary_search_by(|item| item.cmp_kind(&resource)) {
            Ok(at) if items[at].is_thing() => items[at].copies = items[at].copies.saturating_add(resource.copies),
            Ok(at) => items[at].value.add(&resource.value),
            Err(at) => items.insert(at, resource),
        });
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Resources) {
        if self.is_empty() {
            self.clone_from(other);
            return;
        }
        // A few are put in their places; many are sorted in.
        if other.as_slice().len() <= 8 {
            other.iter().for_each(|resource| self.add_one(resource.clone()));
        } else {
            *self = self.iter().chain(other).cloned().collect();
        }
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(&self, other: &Resources) -> Resources {
        let mut sum = self.clone();
        sum.add(other);
        sum
    }

    /// Whether all of `other` is in it.
    pub fn contains(&self, other: &Resources) -> bool {
        other.iter().all(|wanted| {
            self.find_kind(wanted).is_some_and(|item| {
                if item.is_thing() { item.copies >= wanted.copies } else { item.value.contains(&wanted.value) }
            })
        })
    }

    /// What is left without `other`; None unless all of it is there.
    #[must_use]
    pub fn checked_sub(&self, other: &Resources) -> Option<Resources> {
        self.contains(other).then(|| {
            let mut left = self.clone();
            left.saturating_sub(other);
            left
        })
    }

    /// Takes `other` away, as far as it is there.
    pub fn saturating_sub(&mut self, other: &Resources) {
        if self.is_empty() || other.is_empty() {
            return;
        }
        self.with(|items| {
            for gone in other {
                let Ok(at) = items.binary_search_by(|item| item.cmp_kind(gone)) else { continue };
                let item = &mut items[at];
                if item.is_thing() {
                    item.copies = item.copies.saturating_sub(gone.copies);
                } else {
                    item.value.subtract(&gone.value);
                }
            }
            items.retain(|item| item.copies > 0 && !item.value.is_empty());
        });
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Resources) -> Resources {
        self.iter()
            .filter_map(|item| {
                let twin = other.find_kind(item)?;
                let mut both = item.clone();
                if item.is_thing() {
                    both.copies = item.copies.min(twin.copies);
                } else {
                    both.value = item.value.intersect(&twin.value);
                }
                Some(both)
            })
            .collect()
    }

    /// Those that `keep` says to keep.
    #[must_use]
    pub fn filter(&self, keep: impl Fn(&Resource) -> bool) -> Resources {
        if self.iter().all(&keep) {
            return self.clone();
        }
        Resources::from_normal(self.iter().filter(|item| keep(item)).cloned().collect())
    }

    /// Each shared resource once, however often it is in it.
    #[must_use]
    pub fn once(&self) -> Resources {
        if self.iter().all(|resource| !resource.shared || resource.copies == 1) {
            return self.clone();
        }
        self.map(|resource| resource.copies = if resource.shared { 1 } else { resource.copies })
    }

    /// What nobody has reserved.
    #[must_use]
    pub fn unreserved(&self) -> Resources {
        self.filter(|resource| resource.reservations.is_empty())
    }

    /// What somebody has reserved.
    #[must_use]
    pub fn reserved(&self) -> Resources {
        self.filter(|resource| !resource.reservations.is_empty())
    }

    /// What exactly `role` has reserved.
    #[must_use]
    pub fn reserved_by(&self, role: &str) -> Resources {
        self.filter(|resource| resource.reservation_role() == Some(role))
    }

    /// What may be offered to `role`.
    #[must_use]
    pub fn available_to(&self, role: &str) -> Resources {
        self.filter(|resource| resource.may_go_to(role))
    }

    /// What may be taken back at any time.
    #[must_use]
    pub fn revocable(&self) -> Resources {
        self.filter(|resource| resource.revocable)
    }

    /// What may not be taken back.
    #[must_use]
    pub fn non_revocable(&self) -> Resources {
        self.filter(|resource| !resource.revocable)
    }

    /// What is allocated to `role`.
    #[must_use]
    pub fn allocated_to(&self, role: &str) -> Resources {
        self.filter(|resource| resource.allocation_role.as_deref() == Some(role))
    }

    /// All of it, allocated to `role`.
    #[must_use]
    pub fn allocate(&self, role: &str) -> Resources {
        let role: Arc<str> = role.into();
        self.map(|resource| resource.allocation_role = Some(role.clone()))
    }

    /// The same, where the role's name is shared already. What is allocated to nobody yet keeps its order, and so costs
    /// no sorting.
    #[must_use]
    pub fn allocate_shared(&self, role: &Arc<str>) -> Resources {
        if self.iter().any(|resource| resource.allocation_role.is_some()) {
            return self.allocate(role);
        }
        let allocated = |resource: &Resource| Resource { allocation_role: Some(role.clone()), ..resource.clone() };
        Resources::from_normal(self.iter().map(allocated).collect())
    }

    /// All of it, allocated to nobody.
    #[must_use]
    pub fn unallocate(&self) -> Resources {
        if self.iter().all(|resource| resource.allocation_role.is_none()) {
            return self.clone();
        }
        self.map(|resource| resource.allocation_role = None)
    }

    /// All of it, with one more reservation on its stack.
    #[must_use]
    pub fn push_reservation(&self, reservation: &Reservation) -> Resources {
        self.map(|resource| resource.reservations.push(reservation.clone()))
    }

    /// All of it, with one reservation less on its stack.
    #[must_use]
    pub fn pop_reservation(&self) -> Resources {
        self.map(|resource| drop(resource.reservations.pop()))
    }

    /// All of it, unreserved.
    #[must_use]
    pub fn without_reservations(&self) -> Resources {
        self.map(|resource| resource.reservations.clear())
    }

    fn map(&self, change: impl Fn(&mut Resource)) -> Resources {
        self.iter()
            .cloned()
            .map(|mut resource| {
                change(&mut resource);
                resource
            })
            .collect()
    }

    /// The total of a scalar in thousandths, whoever holds it.
    pub fn scalar_milli(&self, name: &str) -> i64 {
        let of_name = self.iter().filter(|resource| resource.name.as_str() == name);
        of_name.map(Resource::milli).fold(0, i64::saturating_add)
    }

    /// The totals of all scalars in thousandths, by name.
    pub fn quantities(&self) -> BTreeMap<Name, i64> {
        let mut totals = BTreeMap::new();
        for resource in self.iter().filter(|resource| matches!(resource.value, Value::Scalar(_))) {
            let total: &mut i64 = totals.entry(resource.name.clone()).or_default();
            *total = total.saturating_add(resource.milli());
        }
        totals
    }

    /// The roles that have reserved something, each once, in order.
    pub fn reservation_roles(&self) -> Vec<&str> {
        let mut roles: Vec<&str> = self.iter().filter_map(Resource::reservation_role).collect();
        roles.sort_unstable();
        roles.dedup();
        roles
    }
}
