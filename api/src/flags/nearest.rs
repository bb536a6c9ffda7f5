//! Which flag was probably meant.

use super::Flag;

/// The flag whose name takes the fewest changes to become; None if every one is another word altogether.
pub(super) fn nearest(flags: &[Flag], name: &str) -> Option<&'static str> {
    let wanted: String = name.chars().take(64).collect::<String>().replace('-', "_");
    let wanted = wanted.strip_prefix("no_").unwrap_or(&wanted);
    let distance = |flag: &Flag| {
        flag.aliases.iter().chain([&flag.name]).map(|known| changes(wanted, known)).min().unwrap_or(usize::MAX)
    };
    let best = flags.iter().map(|flag| (distance(flag), flag.name)).min()?;
    (best.0 <= 1 + wanted.len() / 3).then_some(best.1)
}

/// Letters to insert, remove, replace or swap with their neighbour.
fn changes(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}
