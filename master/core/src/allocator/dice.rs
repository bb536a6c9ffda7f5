//! Chance that is the same everywhere: numbers drawn from a seed that State has.

/// A source of numbers (splitmix64).
pub(super) struct Dice {
    word: u64,
}

impl Dice {
    /// The same numbers for the same seed.
    pub(super) fn new(seed: u64) -> Dice {
        Dice { word: seed }
    }

    fn next(&mut self) -> u64 {
        self.word = self.word.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.word;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Any order.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, (self.next() % (last as u64 + 1)) as usize);
        }
    }

    /// The position of one of these weights, drawn by weight; None of none.
    pub(super) fn draw(&mut self, weights: impl Iterator<Item = u64> + Clone) -> Option<usize> {
        let sum: u128 = weights.clone().map(u128::from).sum();
        if sum == 0 {
            return None;
        }
        let mut left = u128::from(self.next()) % sum;
        weights.into_iter().position(|weight| {
            let found = left < u128::from(weight);
            left = left.saturating_sub(u128::from(weight));
            found
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heavier_ones_are_drawn_more_often() {
        let mut dice = Dice::new(7);
        let mut drawn = [0; 3];
        for _ in 0..6000 {
            drawn[dice.draw([1, 2, 3].into_iter()).unwrap()] += 1;
        }
        assert!((900..1100).contains(&drawn[0]) && (2800..3200).contains(&drawn[2]), "{drawn:?}");
        assert_eq!(dice.draw(std::iter::empty()), None);
    }
}
