//! Chance that is the same everywhere: numbers drawn from a seed.

/// A source of numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice {
    word: u64,
}

impl Dice {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Dice {
        Dice { word: seed }
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.word = self.word.wrapping_add(STEP);
        mix(self.word)
    }

    /// Any order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, (self.roll() % (last as u64 + 1)) as usize);
        }
    }

    /// These in an order in which each is more often before others, the larger its weight is: as if each next one were
    /// drawn, by weight, from those that are left.
    pub fn draw_all<T>(&mut self, items: Vec<(T, u128)>) -> Vec<T> {
        // Sums of weights by ranges of positions, so that each draw costs the logarithm of how many there are.
        let mut sums = vec![0_u128; items.len() + 1];
        for (at, (_, weight)) in items.iter().enumerate() {
            let mut at = at + 1;
            while at < sums.len() {
                sums[at] = sums[at].saturating_add(*weight);
                at += at & at.wrapping_neg();
            }
        }
        let mut left: u128 = items.iter().fold(0, |sum, (_, weight)| sum.saturating_add(*weight));
        let (mut items, weights): (Vec<Option<T>>, Vec<u128>) =
            items.into_iter().map(|(item, weight)| (Some(item), weight)).unzip();
        let mut drawn = Vec::with_capacity(items.len());
        while left > 0 {
            let mut aim = (u128::from(self.roll()) << 64 | u128::from(self.roll())) % left;
            let (mut at, mut step) = (0, items.len().next_power_of_two());
            while step > 0 {
                if let Some(sum) = sums.get(at + step).filter(|sum| **sum <= aim) {
                    aim -= sum;
                    at += step;
                }
                step /= 2;
            }
            drawn.extend(items[at].take());
            left -= weights[at];
            let mut above = at + 1;
            while above < sums.len() {
                sums[above] -= weights[at];
                above += above & above.wrapping_neg();
            }
        }
        // Who weighs nothing is last.
        drawn.extend(items.into_iter().flatten());
        drawn
    }
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The number that a seed makes of a number: what is ordered by it is in an order that looks like chance, and does not
/// depend on what else there is.
pub fn blend(seed: u64, number: u64) -> u64 {
    mix(mix(seed.wrapping_add(STEP)) ^ number.wrapping_mul(STEP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heavier_ones_are_drawn_more_often() {
        let mut dice = Dice::new(7);
        let mut first = [0; 3];
        for _ in 0..6000 {
            let order = dice.draw_all(vec![(0, 1), (1, 2), (2, 3)]);
            assert_eq!(order.len(), 3);
            first[order[0]] += 1;
        }
        assert!((900..1100).contains(&first[0]) && (2800..3200).contains(&first[2]), "{first:?}");
        assert_eq!(dice.draw_all(vec![("never", 0), ("always", 1)]), ["always", "never"]);
        assert!(dice.draw_all(Vec::<(u8, u128)>::new()).is_empty());
    }
}
