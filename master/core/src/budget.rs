//! How much one record takes of something large. What is over it goes into the next one.

/// What is left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    events: usize,
    bytes: usize,
}

/// Bytes of events in one step, beside the last one: a large status goes alone.
pub(crate) const STEP_BYTES: usize = 1 << 20;

impl Budget {
    /// For a step of so many events.
    pub(crate) fn of(events: usize) -> Budget {
        Budget { events: events.max(1), bytes: STEP_BYTES }
    }

    /// For what has to be in one record.
    pub(crate) fn unlimited() -> Budget {
        Budget { events: usize::MAX, bytes: usize::MAX }
    }

    /// Takes an event of about so many bytes; false if nothing is left.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        if self.events == 0 || self.bytes == 0 {
            return false;
        }
        self.events -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }

    /// How many events are left.
    pub(crate) fn events(&self) -> usize {
        self.events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_always_taken() {
        let mut budget = Budget::of(0);
        assert!(budget.take(STEP_BYTES * 50), "or nothing would ever be done");
        assert!(!budget.take(1));
        let mut budget = Budget::of(3);
        assert_eq!((0..9).filter(|_| budget.take(1)).count(), 3);
    }
}
