//! How much of each name, in thousandths, wide enough for the sum of any number of agents. The names that every cluster
//! has cost no memory of their own.

use api::resources::{Limits, Name, Quantities, Resource, Resources, Value};
use std::sync::Arc;

const KNOWN: [Name; 5] = [Name::Cpus, Name::Mem, Name::Disk, Name::Gpus, Name::Ports];

/// So much of each name, in thousandths; never less than nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    known: [i128; KNOWN.len()],
    /// By name; never zero.
    others: Vec<(Arc<str>, i128)>,
}

fn slot(name: &Name) -> Result<usize, &Arc<str>> {
    match name {
        Name::Cpus => Ok(0),
        Name::Mem => Ok(1),
        Name::Disk => Ok(2),
        Name::Gpus => Ok(3),
        Name::Ports => Ok(4),
        Name::Other(name) => Err(name),
    }
}

impl Amounts {
    /// The totals of scalars. What is shared counts once.
    pub fn of_scalars(resources: &Resources) -> Amounts {
        let mut sum = Amounts::default();
        resources.iter().for_each(|resource| sum.count(resource));
        sum
    }

    /// The totals of everything: ports and items of a set are one each.
    pub fn of_all(resources: &Resources) -> Amounts {
        let mut sum = Amounts::default();
        resources.iter().for_each(|resource| sum.add_one(&resource.name, resource.quantity_milli().into()));
        sum
    }

    /// Adds a resource, if it is a scalar.
    pub fn count(&mut self, resource: &Resource) {
        if matches!(resource.value, Value::Scalar(_)) {
            self.add_one(&resource.name, resource.milli().into());
        }
    }

    /// Adds so much of a name.
    pub fn add_one(&mut self, name: &Name, milli: i128) {
        if milli <= 0 {
            return;
        }
        match slot(name) {
            Ok(at) => self.known[at] += milli,
            Err(name) => match self.others.binary_search_by(|(other, _)| other.cmp(name)) {
                Ok(at) => self.others[at].1 += milli,
                Err(at) => self.others.insert(at, (name.clone(), milli)),
            },
        }
    }

    /// How much of a name.
    pub fn get(&self, name: &Name) -> i128 {
        match slot(name) {
            Ok(at) => self.known[at],
            Err(name) => self.other(name),
        }
    }

    fn other(&self, name: &Arc<str>) -> i128 {
        let found = self.others.binary_search_by(|(other, _)| other.cmp(name));
        found.map_or(0, |at| self.others[at].1)
    }

    /// Whether there is nothing.
    pub fn is_zero(&self) -> bool {
        self.known == [0; KNOWN.len()] && self.others.is_empty()
    }

    /// All that is not zero, by name.
    pub fn iter(&self) -> impl Iterator<Item = (Name, i128)> + '_ {
        let known = KNOWN.iter().cloned().zip(self.known).filter(|(_, milli)| *milli > 0);
        known.chain(self.others.iter().map(|(name, milli)| (Name::Other(name.clone()), *milli)))
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Amounts) {
        for (own, more) in self.known.iter_mut().zip(other.known) {
            *own += more;
        }
        for (name, milli) in &other.others {
            self.add_one(&Name::Other(name.clone()), *milli);
        }
    }

    /// Takes `other` away, as far as it is there.
    pub fn sub(&mut self, other: &Amounts) {
        for (own, less) in self.known.iter_mut().zip(other.known) {
            *own = (*own - less).max(0);
        }
        if other.others.is_empty() || self.others.is_empty() {
            return;
        }
        for (name, milli) in &mut self.others {
            *milli -= other.other(name);
        }
        self.others.retain(|(_, milli)| *milli > 0);
    }

    /// What is left without `other`, nothing where there is less.
    #[must_use]
    pub fn minus(&self, other: &Amounts) -> Amounts {
        let mut left = self.clone();
        left.sub(other);
        left
    }

    /// Whether there is at least as much of each name.
    pub fn contains(&self, other: &Amounts) -> bool {
        self.known.iter().zip(other.known).all(|(own, wanted)| *own >= wanted)
            && other.others.iter().all(|(name, milli)| self.other(name) >= *milli)
    }

    /// The same in the arithmetic of resources.
    pub fn to_quantities(&self) -> Quantities {
        self.iter().map(|(name, milli)| (name, narrow(milli))).collect()
    }

    /// For each pair of what is held and what there is of the same name, in the order of names.
    pub(crate) fn each_with(&self, totals: &Amounts, mut each: impl FnMut(&Name, i128, i128)) {
        for (at, name) in KNOWN.iter().enumerate() {
            each(name, self.known[at], totals.known[at]);
        }
        for (name, total) in &totals.others {
            each(&Name::Other(name.clone()), self.other(name), *total);
        }
    }
}

/// What fits into the arithmetic of resources; more than that is as good as no end.
fn narrow(milli: i128) -> i64 {
    i64::try_from(milli).unwrap_or(i64::MAX)
}

impl From<&Quantities> for Amounts {
    fn from(quantities: &Quantities) -> Amounts {
        let mut sum = Amounts::default();
        quantities.iter().for_each(|(name, milli)| sum.add_one(name, milli.into()));
        sum
    }
}

/// What may still be had under limits when so much is had already.
pub fn room(limits: &Limits, had: &Amounts) -> Limits {
    let left = limits.iter().map(|(name, milli)| (name.clone(), narrow((i128::from(milli) - had.get(name)).max(0))));
    left.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::resources::parse;

    fn amounts(text: &str) -> Amounts {
        Amounts::from(&Quantities::parse(text).expect(text))
    }

    #[test]
    fn sums_are_by_name() {
        let resources = parse("cpus:2;cpus(a):1;mem:10;ports:[1-3];tapes:4", "*").expect("valid").resources;
        assert_eq!(Amounts::of_scalars(&resources), amounts("cpus:3;mem:10;tapes:4"));
        assert_eq!(Amounts::of_all(&resources), amounts("cpus:3;mem:10;tapes:4;ports:3"));
    }

    #[test]
    fn nothing_is_less_than_nothing() {
        let mut sum = amounts("cpus:1;tapes:4;x:1");
        sum.sub(&amounts("cpus:2;x:1;tapes:1"));
        assert_eq!(sum, amounts("tapes:3"));
        assert!(sum.contains(&amounts("tapes:3")) && !sum.contains(&amounts("cpus:1")));
        assert!(amounts("").is_zero());
        let left = room(&Limits::parse("cpus:2;mem:0").expect("valid"), &amounts("cpus:3;mem:1"));
        assert_eq!(left, Limits::parse("cpus:0;mem:0").expect("valid"));
    }
}
