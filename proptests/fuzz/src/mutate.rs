//! Changes to inputs, from one seed: bits and bytes, pieces cut out, doubled, swapped in from others, words of the
//! format, numbers on the edge.

/// Random numbers.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same seed, the same numbers.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Less than `bound`; 0 if there is nothing less.
    pub fn below(&mut self, bound: usize) -> usize {
        self.next().checked_rem(bound as u64).unwrap_or_default() as usize
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let (a, b) = (self.below(length + 1), self.below(length + 1));
        // Mostly short.
        let end = if self.below(4) > 0 { a.saturating_add(1 + self.below(16)).min(length) } else { b.max(a) };
        a.min(end)..end
    }
}

/// Inputs do not grow beyond this, in bytes.
const BYTES_MAX: usize = 16 << 10;

const EDGES: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, i64::MIN as u64, u64::MAX];

/// One to eight changes.
pub fn mutate(dice: &mut Dice, input: &mut Vec<u8>, words: &[&[u8]], other: &[u8]) {
    for _ in 0..1 + dice.below(8) {
        change(dice, input, words, other);
    }
    input.truncate(BYTES_MAX);
}

fn change(dice: &mut Dice, input: &mut Vec<u8>, words: &[&[u8]], other: &[u8]) {
    let range = dice.range(input.len());
    match dice.below(11) {
        0 => flip(dice, input),
        1 => {
            let at = dice.below(input.len());
            if let Some(byte) = input.get_mut(at) {
                *byte = dice.next() as u8;
            }
        }
        2 => drop(input.drain(range)),
        3 => {
            let piece = input[range.clone()].to_vec();
            let most = if dice.below(8) == 0 { 200 } else { 3 };
            let times = 1 + dice.below(most);
            put(input, range.end..range.end, &piece.repeat(times));
        }
        4 => {
            let piece = input[range].to_vec();
            let at = dice.below(input.len() + 1);
            put(input, at..at, &piece);
        }
        5 => {
            let piece = other[dice.range(other.len())].to_vec();
            put(input, range, &piece);
        }
        6 | 7 => {
            let word = words.get(dice.below(words.len())).copied().unwrap_or(b"\0");
            let end = if dice.below(2) == 0 { range.start } else { range.end };
            put(input, range.start..end, word);
        }
        8 => {
            let edge = EDGES[dice.below(EDGES.len())].wrapping_add(dice.below(3) as u64).wrapping_sub(1);
            let width = [1, 2, 4, 8][dice.below(4)];
            put(input, range, &edge.to_le_bytes()[..width]);
        }
        9 => {
            let edge = EDGES[dice.below(EDGES.len())];
            put(input, range, edge.to_string().as_bytes());
        }
        _ => input.truncate(range.end),
    }
}

fn flip(dice: &mut Dice, input: &mut [u8]) {
    let at = dice.below(input.len());
    if let Some(byte) = input.get_mut(at) {
        *byte ^= 1 << dice.below(8);
    }
}

fn put(input: &mut Vec<u8>, range: std::ops::Range<usize>, piece: &[u8]) {
    if input.len() + piece.len() <= 2 * BYTES_MAX {
        input.splice(range, piece.iter().copied());
    }
}
