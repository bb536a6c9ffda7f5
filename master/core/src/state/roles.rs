//! What operators said about roles: quota and weights. Which roles there are is not stored: a role is there as long as
//! a framework, a reservation, a quota or a weight names it or one below it.

use api::limits::WEIGHT_MAX;
use api::resources::{Limits, Quantities, role_ancestors};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Quota and weights by role.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Roles {
    /// Quota by role; one that says nothing is not kept.
    #[serde(deserialize_with = "super::cautious::map")]
    pub quotas: OrdMap<Arc<str>, Arc<Quota>>,
    /// Weights that were set, by role; a weight of 1 is kept as it was said.
    #[serde(deserialize_with = "super::cautious::map")]
    pub weights: OrdMap<Arc<str>, Weight>,
}

/// What a role is entitled to, and what it may have at most, together with all roles below it. In thousandths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// So much is held back for it; nothing of what is not named.
    pub guarantees: Quantities,
    /// So much it may have; without end of what is not named.
    pub limits: Limits,
}

/// How much a role counts among its siblings: positive, at most [`WEIGHT_MAX`]. Kept as the double that was said, so
/// that it is shown as it was said; computed with in millionths, see [`Weight::micro`].
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weight(u64);

impl Quota {
    /// Whether it says nothing at all: the same as no quota.
    pub fn is_nothing(&self) -> bool {
        *self == Quota::default()
    }
}

impl Weight {
    /// Of a role that has no other.
    pub const DEFAULT: Weight = Weight(1.0_f64.to_bits());

    /// The weight that a call names; None if it is not positive, not finite or above [`WEIGHT_MAX`].
    pub fn new(weight: f64) -> Option<Weight> {
        (weight > 0.0 && weight <= WEIGHT_MAX as f64).then_some(Weight(weight.to_bits()))
    }

    /// As it was said.
    pub fn as_said(self) -> f64 {
        f64::from_bits(self.0)
    }

    /// In millionths, rounded to the nearest, at least one and at most 10^18. Integers only: the same on every master.
    pub fn micro(self) -> u64 {
        let exponent = (self.0 >> 52 & 0x7ff) as i32;
        let fraction = self.0 & ((1 << 52) - 1);
        // value = mantissa * 2^shift
        let (mantissa, shift) = if exponent == 0 { (fraction, -1074) } else { (fraction | 1 << 52, exponent - 1075) };
        let micro = u128::from(mantissa) * 1_000_000;
        let micro = match shift.unsigned_abs() {
            0 => micro,
            left if shift > 0 => micro.checked_shl(left).unwrap_or(u128::MAX),
            right if right < 128 => (micro + (1 << (right - 1))) >> right,
            _ => 0,
        };
        micro.clamp(1, u128::from(WEIGHT_MAX) * 1_000_000) as u64
    }
}

impl Default for Weight {
    fn default() -> Weight {
        Weight::DEFAULT
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_said().fmt(f)
    }
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_said().fmt(f)
    }
}

impl Roles {
    /// The role's own quota, if it has one.
    pub fn quota(&self, role: &str) -> Option<&Quota> {
        self.quotas.get(role).map(Arc::as_ref)
    }

    /// The role's weight: 1 unless an operator said something else.
    pub fn weight(&self, role: &str) -> Weight {
        self.weights.get(role).copied().unwrap_or_default()
    }

    /// Every quota that counts for what `role` has: its own and those of the roles above it, the nearest first.
    pub fn quotas_over<'a>(&'a self, role: &'a str) -> impl Iterator<Item = (&'a str, &'a Quota)> {
        let lineage = std::iter::once(role).chain(role_ancestors(role));
        lineage.filter_map(|role| self.quota(role).map(|quota| (role, quota)))
    }

    /// Whether any role has a limit.
    pub fn has_limits(&self) -> bool {
        self.quotas.values().any(|quota| !quota.limits.is_empty())
    }

    pub(crate) fn set_quota(&mut self, role: &Arc<str>, quota: &Quota) {
        if quota.is_nothing() {
            self.quotas.remove(role);
        } else {
            self.quotas.insert(role.clone(), Arc::new(quota.clone()));
        }
    }

    pub(crate) fn set_weight(&mut self, role: &Arc<str>, weight: Weight) {
        self.weights.insert(role.clone(), weight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_shown_as_said_and_counted_in_millionths() {
        for (said, micro) in [
            (1.0, 1_000_000),
            (2.5, 2_500_000),
            (0.1, 100_000),
            (1.0 / 3.0, 333_333),
            (0.000_000_6, 1),
            (1e-9, 1),
            (5e-324, 1),
            (1e12, 1_000_000_000_000_000_000),
            (123_456_789.123_456_7, 123_456_789_123_457),
        ] {
            let weight = Weight::new(said).unwrap();
            assert_eq!((weight.as_said(), weight.micro()), (said, micro));
        }
        for none in [0.0, -0.0, -1.0, f64::NAN, f64::INFINITY, 1.1e12] {
            assert_eq!(Weight::new(none), None);
        }
        assert_eq!(Roles::default().weight("any").micro(), 1_000_000);
    }

    #[test]
    fn the_quotas_of_the_roles_above_count_too() {
        let mut roles = Roles::default();
        let quota = Quota { limits: Limits::parse("cpus:1").unwrap(), ..Quota::default() };
        for role in ["a", "a-b", "a/b", "a/b/c", "ab", "b"] {
            roles.set_quota(&role.into(), &quota);
        }
        let over: Vec<&str> = roles.quotas_over("a/b/c/d").map(|(role, _)| role).collect();
        assert_eq!(over, ["a/b/c", "a/b", "a"]);
        roles.set_quota(&"a/b".into(), &Quota::default());
        assert_eq!(roles.quota("a/b"), None, "a quota that says nothing is none");
    }
}
