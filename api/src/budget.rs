//! What a message may take in memory. Two bytes on the wire can be hundreds in a struct, so the sizes of what is built
//! are counted while it is read, not the bytes that it is read from.
//!
//! Counted are the size of every message, the length of every string, and a flat sum for every other item of a list.
//! What is counted is at least what is held; short of a list's spare capacity it is seldom more than twice that.

use crate::limits;

/// Of an item of a list or map, beside what it holds.
pub(crate) const ITEM_BYTES: usize = 32;

/// Counts what is built.
#[derive(Clone, Debug)]
pub struct Budget {
    bytes_max: usize,
    spent_bytes: usize,
    over: bool,
}

/// A message takes more than its budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it takes more than {bytes_max} bytes of memory once it is decoded, the most for a message of its length")]
pub struct OverBudget {
    /// The budget, in bytes.
    pub bytes_max: usize,
}

impl Budget {
    /// Up to `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Budget {
        Budget { bytes_max, spent_bytes: 0, over: false }
    }

    /// What a client's body of `body_bytes` may take: [`limits::decoded_bytes_max`].
    pub fn of_body(body_bytes: usize) -> Budget {
        Budget::new(limits::decoded_bytes_max(body_bytes))
    }

    /// What a message between our own processes may take.
    pub fn of_message() -> Budget {
        Budget::new(limits::DECODED_MESSAGE_BYTES_MAX)
    }

    /// For what this process wrote itself.
    pub fn endless() -> Budget {
        Budget::new(usize::MAX)
    }

    /// Counts `bytes`.
    ///
    /// # Errors
    /// If that is more than there is; from then on everything is.
    pub fn take(&mut self, bytes: usize) -> Result<(), OverBudget> {
        self.spent_bytes = self.spent_bytes.saturating_add(bytes);
        self.over |= self.spent_bytes > self.bytes_max;
        if self.over { Err(self.refusal()) } else { Ok(()) }
    }

    /// What was counted so far, in bytes.
    pub fn spent_bytes(&self) -> usize {
        self.spent_bytes
    }

    /// Whether more was wanted than there was.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// What to say about it.
    pub fn refusal(&self) -> OverBudget {
        OverBudget { bytes_max: self.bytes_max }
    }
}
