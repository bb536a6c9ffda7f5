//! Which of the words that there are was probably meant.

/// The name that takes the fewest changes to become; None if every one is another word altogether. Dashes and
/// underscores are the same, and so are small and large letters.
///
/// ```
/// assert_eq!(api::nearest::nearest(["tasks", "agents"], "taks"), Some("tasks"));
/// assert_eq!(api::nearest::nearest(["tasks", "agents"], "quota"), None);
/// ```
pub fn nearest<'a>(names: impl IntoIterator<Item = &'a str>, word: &str) -> Option<&'a str> {
    let same = |text: &str| text.chars().take(64).collect::<String>().to_lowercase().replace('-', "_");
    let wanted = same(word);
    let best = names.into_iter().map(|name| (changes(&wanted, &same(name)), name)).min()?;
    (best.0 <= 1 + wanted.len() / 3).then_some(best.1)
}

/// `; did you mean "tasks"?`, or nothing.
pub fn did_you_mean<'a>(names: impl IntoIterator<Item = &'a str>, word: &str) -> String {
    nearest(names, word).map_or_else(String::new, |name| format!("; did you mean {name:?}?"))
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
