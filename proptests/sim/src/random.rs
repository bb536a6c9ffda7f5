//! Streams of random numbers that follow from the run's seed and a name.

use event_log::host::splitmix;

/// A stream. Clones go on separately from the same place.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of `name` in the run of `seed`.
    pub fn new(seed: u64, name: &str) -> Random {
        let mut state = seed ^ 0x6d65_7365_7461_0001;
        for byte in name.bytes() {
            state = state.rotate_left(8) ^ u64::from(byte);
            splitmix(&mut state);
        }
        Random(state)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        splitmix(&mut self.0)
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound.max(1)
    }

    /// A number from `low` to before `high`.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low))
    }

    /// True so many times in a thousand.
    pub fn permille(&mut self, chance: u64) -> bool {
        self.below(1000) < chance
    }

    /// One of `items`, if there is any.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let at = usize::try_from(self.below(items.len() as u64)).ok()?;
        items.get(at)
    }

    /// Sixteen bytes.
    pub fn bytes16(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.number().to_le_bytes());
        bytes[8..].copy_from_slice(&self.number().to_le_bytes());
        bytes
    }
}
