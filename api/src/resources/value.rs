//! What a resource is worth: numbers in integer thousandths, ranges without gaps or overlaps, sets.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The worth of one resource. Never empty inside [`Resources`](super::Resources).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Value {
    /// In thousandths of the unit (a cpu, a megabyte), positive.
    Scalar(i64),
    /// Both ends inclusive, ascending, neither overlapping nor adjacent.
    Ranges(Vec<(u64, u64)>),
    /// Ascending, unique.
    Set(Vec<Arc<str>>),
}

/// Larger scalars are refused, so that sums of them cannot overflow.
pub const SCALAR_MILLI_MAX: i64 = 1_000_000_000_000_000;

/// A double in thousandths. None if it is no number of resources: negative, not finite, too large, or so small that
/// rounding would make nothing out of something.
pub fn scalar_milli(value: f64) -> Option<i64> {
    if !value.is_finite() || value < 0.0 || value > (SCALAR_MILLI_MAX / 1000) as f64 {
        return None;
    }
    let milli = (value * 1000.0).round() as i64;
    (milli > 0 || value == 0.0).then_some(milli)
}

/// Thousandths as people write them: `2`, `0.1`, `1.125`.
#[derive(Clone, Copy, Debug)]
pub struct Milli(pub i64);

impl fmt::Display for Milli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, rest) = (self.0.unsigned_abs() / 1000, self.0.unsigned_abs() % 1000);
        match rest {
            0 => write!(f, "{sign}{whole}"),
            _ if rest % 100 == 0 => write!(f, "{sign}{whole}.{}", rest / 100),
            _ if rest % 10 == 0 => write!(f, "{sign}{whole}.{:02}", rest / 10),
            _ => write!(f, "{sign}{whole}.{rest:03}"),
        }
    }
}

/// `[1-2, 5-6]`
pub(crate) fn ranges_text(ranges: impl Iterator<Item = (u64, u64)>) -> String {
    let ranges: Vec<String> = ranges.map(|(begin, end)| format!("{begin}-{end}")).collect();
    format!("[{}]", ranges.join(", "))
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Scalar(milli) => Milli(*milli).fmt(f),
            Value::Ranges(ranges) => f.write_str(&ranges_text(ranges.iter().copied())),
            Value::Set(items) => {
                f.write_str("{")?;
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if index > 0 { ", " } else { "" })?;
                }
                f.write_str("}")
            }
        }
    }
}

impl Value {
    /// Nothing at all.
    pub fn is_empty(&self) -> bool {
        match self {
            Value::Scalar(milli) => *milli <= 0,
            Value::Ranges(ranges) => ranges.is_empty(),
            Value::Set(items) => items.is_empty(),
        }
    }

    /// Ranges in any order, joined where they touch or overlap. Those that end before they begin count for nothing.
    pub fn ranges(ranges: impl IntoIterator<Item = (u64, u64)>) -> Value {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|(begin, end)| begin <= end).collect();
        ranges.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
        for (begin, end) in ranges {
            match joined.last_mut() {
                Some(last) if begin <= last.1.saturating_add(1) => last.1 = last.1.max(end),
                _ => joined.push((begin, end)),
            }
        }
        Value::Ranges(joined)
    }

    /// A set of items in any order.
    pub fn set(items: impl IntoIterator<Item = Arc<str>>) -> Value {
        let mut items: Vec<_> = items.into_iter().collect();
        items.sort_unstable();
        items.dedup();
        Value::Set(items)
    }

    /// Whether they are of one type.
    pub(super) fn fits(&self, other: &Value) -> bool {
        self.rank() == other.rank()
    }

    /// The place of its type in the order of values.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Value::Scalar(_) => 0,
            Value::Ranges(_) => 1,
            Value::Set(_) => 2,
        }
    }

    /// The sum of values of one type, all of them at once: cheaper than one by one.
    pub(super) fn sum(values: Vec<Value>) -> Value {
        match values.first() {
            Some(Value::Ranges(_)) => Value::ranges(values.into_iter().flat_map(|value| match value {
                Value::Ranges(ranges) => ranges,
                _ => vec![],
            })),
            Some(Value::Set(_)) => Value::set(values.into_iter().flat_map(|value| match value {
                Value::Set(items) => items,
                _ => vec![],
            })),
            _ => Value::Scalar(values.iter().fold(0, |sum, value| match value {
                Value::Scalar(milli) => sum.saturating_add(*milli),
                _ => sum,
            })),
        }
    }

    pub(super) fn add(&mut self, other: &Value) {
        match (&mut *self, other) {
            (Value::Scalar(a), Value::Scalar(b)) => *a = a.saturating_add(*b),
            (Value::Ranges(a), Value::Ranges(b)) => *self = Value::ranges(a.iter().chain(b).copied()),
            (Value::Set(a), Value::Set(b)) => *self = Value::set(a.iter().chain(b).cloned()),
            _ => {}
        }
    }

    /// What is left of it without `other`; nothing is taken that is not there.
    pub(super) fn subtract(&mut self, other: &Value) {
        match (self, other) {
            (Value::Scalar(a), Value::Scalar(b)) => *a = a.saturating_sub(*b).max(0),
            (Value::Ranges(a), Value::Ranges(b)) => *a = cut(a, b),
            (Value::Set(a), Value::Set(b)) => a.retain(|item| b.binary_search(item).is_err()),
            _ => {}
        }
    }

    pub(super) fn contains(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Scalar(a), Value::Scalar(b)) => a >= b,
            (Value::Ranges(a), Value::Ranges(b)) => {
                // The only range that can hold it is the last that does not begin behind it.
                b.iter().all(|(begin, end)| {
                    let after = a.partition_point(|(from, _)| from <= begin);
                    after > 0 && *end <= a[after - 1].1
                })
            }
            (Value::Set(a), Value::Set(b)) => b.iter().all(|item| a.binary_search(item).is_ok()),
            _ => false,
        }
    }

    /// What both have.
    pub(super) fn intersect(&self, other: &Value) -> Value {
        match (self, other) {
            (Value::Scalar(a), Value::Scalar(b)) => Value::Scalar(*a.min(b)),
            (Value::Ranges(a), Value::Ranges(b)) => Value::Ranges(cut(a, &cut(a, b))),
            (Value::Set(a), Value::Set(b)) => {
                Value::Set(a.iter().filter(|item| b.binary_search(item).is_ok()).cloned().collect())
            }
            _ => Value::Scalar(0),
        }
    }
}

/// `ranges` without `holes`; both ascending and joined, and so is the result.
fn cut(ranges: &[(u64, u64)], holes: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut left = Vec::with_capacity(ranges.len());
    let mut holes = holes.iter().peekable();
    for &(mut begin, end) in ranges {
        let mut whole = true;
        while let Some(&&(from, to)) = holes.peek() {
            if to < begin {
                holes.next();
                continue;
            }
            if from > end {
                break;
            }
            if from > begin {
                left.push((begin, from - 1));
            }
            if to >= end {
                // It may reach into the next range too.
                whole = false;
                break;
            }
            begin = to + 1;
            holes.next();
        }
        if whole {
            left.push((begin, end));
        }
    }
    left
}
