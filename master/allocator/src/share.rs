//! What part of the cluster somebody has. Parts are rounded to 53 binary digits, as everybody's machines round doubles, but
//! by integers alone: so they compare alike everywhere, and ties fall where Mesos has them.

use crate::amounts::Amounts;
use api::resources::Name;
use std::collections::BTreeSet;

/// The largest part that somebody has of any name, by weight: the bits of the double that is nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u64);

/// A positive number: 53 binary digits, the first of them 1, times a power of two.
#[derive(Clone, Copy)]
struct Number {
    digits: u64,
    exponent: i32,
}

const DIGITS: u32 = 53;
const FIRST: u64 = 1 << (DIGITS - 1);
const BIAS: i32 = 1023;

impl Number {
    /// The nearest to `whole`, of two that are as near the even one. `more` is whether it was cut off before.
    fn nearest(whole: u128, more: bool, exponent: i32) -> Number {
        let length = 128 - whole.leading_zeros();
        if length <= DIGITS {
            let shift = DIGITS - length;
            return Number { digits: (whole as u64) << shift, exponent: exponent - shift as i32 };
        }
        let shift = length - DIGITS;
        let (mut digits, rest) = ((whole >> shift) as u64, whole & ((1 << shift) - 1));
        let half = 1_u128 << (shift - 1);
        let mut exponent = exponent + shift as i32;
        if rest > half || (rest == half && (more || digits & 1 == 1)) {
            digits += 1;
            if digits == FIRST << 1 {
                digits = FIRST;
                exponent += 1;
            }
        }
        Number { digits, exponent }
    }

    fn through(self, other: Number) -> Number {
        let dividend = u128::from(self.digits) << 64;
        let divisor = u128::from(other.digits);
        // 64 digits or more: what is cut off decides only of what is half-way.
        Number::nearest(dividend / divisor, dividend % divisor != 0, self.exponent - other.exponent - 64)
    }

    /// So many thousandths.
    fn milli(milli: u128) -> Number {
        Number::ratio(milli, 1000)
    }

    fn ratio(above: u128, below: u128) -> Number {
        Number::nearest(above, false, 0).through(Number::nearest(below, false, 0))
    }
}

impl Share {
    /// Of nothing.
    pub const NONE: Share = Share(0);

    /// The largest of `held` in `totals`, leaving names out.
    pub fn of(held: &Amounts, totals: &Amounts, without: &BTreeSet<Name>, weight_micro: u64) -> Share {
        let Some((_, held, total)) = largest(held, totals, without) else { return Share::NONE };
        let mut part = Number::milli(held).through(Number::milli(total));
        if weight_micro != crate::tree::WEIGHT_MICRO {
            part = part.through(Number::ratio(weight_micro.max(1).into(), crate::tree::WEIGHT_MICRO.into()));
        }
        let exponent = (part.exponent + DIGITS as i32 - 1 + BIAS).clamp(1, 2 * BIAS);
        Share((exponent as u64) << (DIGITS - 1) | (part.digits - FIRST))
    }

    /// The part as a numerator and a denominator.
    pub fn parts(self) -> (u128, u128) {
        if self == Share::NONE {
            return (0, 1);
        }
        let digits = u128::from((self.0 & (FIRST - 1)) | FIRST);
        let exponent = (self.0 >> (DIGITS - 1)) as i32 - BIAS - (DIGITS as i32 - 1);
        match u32::try_from(exponent) {
            Ok(exponent) => (digits.checked_shl(exponent).unwrap_or(u128::MAX), 1),
            Err(_) => 1_u128.checked_shl(exponent.unsigned_abs()).map_or((0, 1), |below| (digits, below)),
        }
    }
}

/// The name of which the largest part is held, how much that is, and of how much; the first of equals. None if nothing is.
pub fn largest(held: &Amounts, totals: &Amounts, without: &BTreeSet<Name>) -> Option<(Name, u128, u128)> {
    let mut most: Option<(Name, u128, u128)> = None;
    held.each_with(totals, |name, held, total| {
        let (held, total) = (held.unsigned_abs(), total.unsigned_abs());
        if held == 0 || total == 0 || (!without.is_empty() && without.contains(name)) {
            return;
        }
        if most.as_ref().is_none_or(|(_, other, of)| product(held, *of) > product(*other, total)) {
            most = Some((name.clone(), held, total));
        }
    });
    most
}

/// All 256 bits, the upper ones first.
fn product(a: u128, b: u128) -> (u128, u128) {
    if (a | b) >> 64 == 0 {
        return (0, a * b);
    }
    let low = |n: u128| n & u128::from(u64::MAX);
    let (a1, a0, b1, b0) = (a >> 64, low(a), b >> 64, low(b));
    let (cross, carried) = (a1 * b0).overflowing_add(a0 * b1);
    let (lower, over) = (a0 * b0).overflowing_add(cross << 64);
    let upper = a1 * b1 + (cross >> 64) + (u128::from(carried) << 64) + u128::from(over);
    (upper, lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(held: i128, total: i128, weight_micro: u64) -> Share {
        let amounts = |milli| {
            let mut sum = Amounts::default();
            sum.add_one(&Name::Cpus, milli);
            sum
        };
        Share::of(&amounts(held), &amounts(total), &BTreeSet::new(), weight_micro)
    }

    #[test]
    fn parts_are_those_of_doubles() {
        for (held, total, weight) in [
            (15_000, 100_000, 3_000_000),
            (10_000, 100_000, 2_000_000),
            (1, 3, 1_000_000),
            (2, 3, 1_000_000),
            (7, 7, 1),
            (999_999_999_999_937, 1_000_000_000_000_000, 1001),
            (1, 1_000_000_000_000_000_000_000, 123_456_789),
            (123_456, 7, 17),
        ] {
            let expected = (held as f64 / 1000.0) / (total as f64 / 1000.0) / (weight as f64 / 1_000_000.0);
            let (above, below) = share(held, total, weight).parts();
            assert_eq!(share(held, total, weight).0, expected.to_bits(), "{held} of {total} by {weight}");
            assert!((above as f64 / below as f64 - expected).abs() <= 1e-15 * expected.max(1.0));
        }
        assert!(share(15_000, 100_000, 3_000_000) < share(10_000, 100_000, 2_000_000), "as doubles have it");
        assert_eq!(share(0, 5, 1_000_000), Share::NONE);
    }

    #[test]
    fn products_of_large_numbers_are_exact() {
        let most = u128::from(u64::MAX);
        assert_eq!(product(most, u128::MAX), (most - 1, u128::MAX - most + 1));
        assert_eq!(product(u128::MAX, u128::MAX), (u128::MAX - 1, 1));
        assert_eq!(product(3, 5), (0, 15));
    }
}
