//! Amounts by name alone, whoever holds them: quantities, which are zero where nothing is said, and limits, which have
//! no end there.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::text::items;
use super::{Milli, Name, Resource, Resources, Value, parse_value};

/// So much of each name, in thousandths. What is not named is zero, and so is never kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantities(BTreeMap<Name, i64>);

/// At most so much of each name, in thousandths; what is not named has no end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits(BTreeMap<Name, i64>);

/// `cpus:10;mem:5`, in the order given.
fn parse(text: &str) -> Result<Vec<(Name, i64)>, String> {
    items(text)
        .map(|item| {
            let bad = || format!("Bad value for quantities, no name and number in '{item}'");
            let (name, value) = item.split_once(':').ok_or_else(bad)?;
            let name = name.trim();
            match parse_value(value) {
                Some(Value::Scalar(milli)) if !name.is_empty() => Ok((name.into(), milli)),
                _ => Err(bad()),
            }
        })
        .collect()
}

fn write(f: &mut fmt::Formatter<'_>, amounts: &BTreeMap<Name, i64>) -> fmt::Result {
    let mut amounts: Vec<(&Name, &i64)> = amounts.iter().collect();
    // By name, as people look for one.
    amounts.sort_by_key(|(name, _)| name.as_str());
    for (index, (name, milli)) in amounts.into_iter().enumerate() {
        write!(f, "{}{name}:{}", if index > 0 { "; " } else { "" }, Milli(*milli))?;
    }
    Ok(())
}

impl Quantities {
    /// Reads `cpus:10;mem:5`. What is named twice counts twice.
    ///
    /// # Errors
    /// A sentence about the first item that is none.
    pub fn parse(text: &str) -> Result<Quantities, String> {
        Ok(parse(text)?.into_iter().collect())
    }

    /// How much of `name`, in thousandths.
    pub fn get(&self, name: &str) -> i64 {
        self.0.get(&Name::from(name)).copied().unwrap_or_default()
    }

    /// All that is not zero, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, i64)> {
        self.0.iter().map(|(name, milli)| (name, *milli))
    }

    /// Adds so much of a name.
    pub fn add_one(&mut self, name: Name, milli: i64) {
        if milli > 0 {
            let sum = self.0.entry(name).or_default();
            *sum = sum.saturating_add(milli);
        }
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Quantities) {
        other.iter().for_each(|(name, milli)| self.add_one(name.clone(), milli));
    }

    /// Takes `other` away, as far as it is there.
    pub fn saturating_sub(&mut self, other: &Quantities) {
        for (name, milli) in other.iter() {
            if let Some(left) = self.0.get_mut(name) {
                *left = left.saturating_sub(milli).max(0);
            }
        }
        self.0.retain(|_, milli| *milli > 0);
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is at least as much of each name as in `other`.
    pub fn contains(&self, other: &Quantities) -> bool {
        other.0.iter().all(|(name, milli)| self.0.get(name).is_some_and(|own| own >= milli))
    }
}

impl FromIterator<(Name, i64)> for Quantities {
    fn from_iter<T: IntoIterator<Item = (Name, i64)>>(amounts: T) -> Quantities {
        let mut sum = Quantities::default();
        amounts.into_iter().for_each(|(name, milli)| sum.add_one(name, milli));
        sum
    }
}

impl fmt::Display for Quantities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, &self.0)
    }
}

impl Limits {
    /// Reads `cpus:10;mem:0`. A limit of zero is one.
    ///
    /// # Errors
    /// A sentence about the first item that is none, or about a name that comes twice.
    pub fn parse(text: &str) -> Result<Limits, String> {
        let mut limits = Limits::default();
        for (name, milli) in parse(text)? {
            if limits.0.contains_key(&name) {
                return Err(format!("'{name}' has two limits"));
            }
            limits.0.insert(name, milli);
        }
        Ok(limits)
    }

    /// The limit of `name`, in thousandths; None if it has no end.
    pub fn get(&self, name: &str) -> Option<i64> {
        self.0.get(&Name::from(name)).copied()
    }

    /// All limits, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, i64)> {
        self.0.iter().map(|(name, milli)| (name, *milli))
    }

    /// Whether nothing has an end.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The narrower of both, name by name.
    pub fn narrow(&mut self, other: &Limits) {
        for (name, milli) in other.iter() {
            let limit = self.0.entry(name.clone()).or_insert(milli);
            *limit = milli.min(*limit);
        }
    }

    /// Whether whoever keeps `other` keeps this too.
    pub fn contains(&self, other: &Limits) -> bool {
        self.0.iter().all(|(name, milli)| other.0.get(name).is_some_and(|others| others <= milli))
    }

    /// Whether so much is within the limits.
    pub fn allow(&self, quantities: &Quantities) -> bool {
        quantities.iter().all(|(name, milli)| self.0.get(name).is_none_or(|limit| milli <= *limit))
    }

    /// What may still be had when `quantities` are had already.
    #[must_use]
    pub fn minus(&self, quantities: &Quantities) -> Limits {
        let left =
            |(name, milli): (&Name, &i64)| (name.clone(), milli.saturating_sub(quantities.get(name.as_str())).max(0));
        Limits(self.0.iter().map(left).collect())
    }
}

impl FromIterator<(Name, i64)> for Limits {
    fn from_iter<T: IntoIterator<Item = (Name, i64)>>(limits: T) -> Limits {
        Limits(limits.into_iter().collect())
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, &self.0)
    }
}

impl Resource {
    /// How much of its name it is, in thousandths: a scalar as it is, ports and items of a set one each.
    pub fn quantity_milli(&self) -> i64 {
        let count = match &self.value {
            Value::Scalar(_) => return self.milli(),
            Value::Ranges(ranges) => {
                ranges.iter().fold(0u64, |sum, (begin, end)| sum.saturating_add((end - begin).saturating_add(1)))
            }
            Value::Set(items) => items.len() as u64,
        };
        i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(1000)
    }
}

impl Resources {
    /// The totals of scalars.
    pub fn scalar_quantities(&self) -> Quantities {
        self.quantities().into_iter().collect()
    }

    /// The totals of everything, as [`Resource::quantity_milli`] counts.
    pub fn all_quantities(&self) -> Quantities {
        self.iter().map(|resource| (resource.name.clone(), resource.quantity_milli())).collect()
    }

    /// Whether there is at least so much of each name, whoever holds it.
    pub fn contains_quantities(&self, quantities: &Quantities) -> bool {
        self.all_quantities().contains(quantities)
    }

    /// As much of it as the quantities have; names that they do not have go. What can only be had as a whole is left out
    /// where there is no room for it. `first` is the resource to begin with, counted from 0: where not all can be had,
    /// those that come first are.
    #[must_use]
    pub fn shrink_to_quantities(&self, quantities: &Quantities, first: usize) -> Resources {
        self.shrink(first, quantities.0.clone(), Some(0))
    }

    /// As much of it as the limits allow; names without a limit stay. For `first` see
    /// [`shrink_to_quantities`](Self::shrink_to_quantities).
    #[must_use]
    pub fn shrink_to_limits(&self, limits: &Limits, first: usize) -> Resources {
        self.shrink(first, limits.0.clone(), None)
    }

    fn shrink(&self, first: usize, mut left: BTreeMap<Name, i64>, unnamed: Option<i64>) -> Resources {
        let items = self.as_slice();
        let (before, after) = items.split_at(first.checked_rem(items.len()).unwrap_or_default());
        let mut kept = Resources::new();
        for each in after.iter().chain(before).flat_map(Resource::one_by_one) {
            let Some(room) = left.get(&each.name).copied().or(unnamed) else {
                kept.add_one(each);
                continue;
            };
            let Some(fitting) = each.at_most(room) else { continue };
            if let Some(room) = left.get_mut(&fitting.name) {
                *room -= fitting.quantity_milli();
            }
            kept.add_one(fitting);
        }
        kept
    }
}

impl Resource {
    /// Copies of a thing one by one; a shared one counts once, so its copies stay together.
    fn one_by_one(&self) -> impl Iterator<Item = Resource> {
        let (times, copies) = if self.shared { (1, self.copies) } else { (self.copies, 1) };
        std::iter::repeat_n(Resource { copies, ..self.clone() }, times as usize)
    }

    /// So much of it as fits into `room_milli`; None if nothing does.
    fn at_most(mut self, room_milli: i64) -> Option<Resource> {
        if self.quantity_milli() > room_milli {
            match &mut self.value {
                Value::Scalar(milli) if !self.shared && !self.disk.as_ref().is_some_and(|disk| disk.is_whole()) => {
                    *milli = room_milli;
                }
                _ => return None,
            }
        }
        (!self.value.is_empty()).then_some(self)
    }
}
