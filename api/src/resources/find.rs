//! Which resources of an amount serve a wish for others: its own reservations first, then what nobody has reserved,
//! then what others have.

use std::collections::BTreeMap;

use super::{Reservation, Resource, Resources, Value};

impl Resources {
    /// What of this best serves `wanted`, whose reservations are only a preference; None if it cannot. Revocable
    /// resources serve only who asks for them.
    pub fn find(&self, wanted: &Resources) -> Option<Resources> {
        let mut left = self.clone();
        let mut found = Resources::new();
        for wish in wanted {
            let served = left.find_one(wish)?;
            left.saturating_sub(&served);
            found.add(&served);
        }
        Some(found)
    }

    fn find_one(&self, wish: &Resource) -> Option<Resources> {
        let own = wish.reservation_role();
        let ranks: [&dyn Fn(&Resource) -> bool; 3] =
            [&|item| own.is_some() && item.reservation_role() == own, &|item| item.reservations.is_empty(), &|item| {
                !item.reservations.is_empty() && (own.is_none() || item.reservation_role() != own)
            }];
        let mut missing = Resources::from_iter([wish.clone()]).without_reservations();
        let mut found = Resources::new();
        for item in ranks.iter().flat_map(|is_next| self.iter().filter(|item| is_next(item))) {
            let plain = Resources::from_iter([item.clone()]).without_reservations();
            let both = plain.intersection(&missing);
            missing.saturating_sub(&both);
            found.add(&both.map(|each| each.reservations.clone_from(&item.reservations)));
        }
        missing.is_empty().then_some(found)
    }

    /// All that is allocated, by the role that has it.
    pub fn allocations(&self) -> BTreeMap<&str, Resources> {
        let mut roles: Vec<&str> = self.iter().filter_map(|item| item.allocation_role.as_deref()).collect();
        roles.dedup();
        roles.into_iter().map(|role| (role, self.allocated_to(role))).collect()
    }

    /// All that is reserved, by the role that has it.
    pub fn reservations(&self) -> BTreeMap<&str, Resources> {
        self.reservation_roles().into_iter().map(|role| (role, self.reserved_by(role))).collect()
    }

    /// What several tasks may use at once.
    #[must_use]
    pub fn shared(&self) -> Resources {
        self.filter(|resource| resource.shared)
    }

    /// What only one task may use at a time.
    #[must_use]
    pub fn non_shared(&self) -> Resources {
        self.filter(|resource| !resource.shared)
    }

    /// Persistent volumes.
    #[must_use]
    pub fn persistent_volumes(&self) -> Resources {
        self.filter(Resource::is_persistent_volume)
    }

    /// What has this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Resources {
        self.filter(|resource| resource.name.as_str() == name)
    }

    /// How often this very resource is in it: for a shared one, how often it is used; another is there or not.
    pub fn count(&self, resource: &Resource) -> u32 {
        let held = self.find_kind(resource).filter(|item| item.value == resource.value);
        held.map_or(0, |item| if item.shared { item.copies } else { 1 })
    }

    /// Plain scalars: without reservations, disks, and whatever else may be said of them. What is shared counts once.
    #[must_use]
    pub fn stripped_scalars(&self) -> Resources {
        let quantities = self.scalar_quantities();
        quantities.iter().map(|(name, milli)| Resource::new(name.clone(), Value::Scalar(milli))).collect()
    }
}

impl Resource {
    /// The reservations that both have in common, from the first on.
    pub fn common_reservations<'a>(&'a self, other: &Resource) -> &'a [Reservation] {
        let pairs = self.reservations.iter().zip(&other.reservations);
        &self.reservations[..pairs.take_while(|(own, others)| own == others).count()]
    }
}
