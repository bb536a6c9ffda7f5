//! The search: changed inputs, one after the other; those with an outcome that was not seen before are changed further.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::memory;
use crate::mutate::{Dice, mutate};
use crate::targets::Target;

/// How long to search.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// So many inputs.
    Runs(u64),
    /// So long.
    Time(Duration),
}

/// What a search saw.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Inputs tried.
    pub runs: u64,
    /// Outcomes that differ, numbers aside.
    pub outcomes: usize,
    /// The most memory that one input took, in bytes.
    pub peak_bytes: usize,
}

/// An input that should not do what it does.
#[derive(Clone, Debug)]
pub struct Found {
    /// As short as it was made.
    pub input: Vec<u8>,
    /// What it does.
    pub what: String,
}

/// Inputs that are kept with the sources: what was found once, and where a search begins.
pub fn kept(target: &Target) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder(target)).into_iter().flatten().map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("an input")).collect()
}

/// Where a target's inputs are kept.
pub fn folder(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// Asks a target one input. Err says what is wrong: a panic, or too much memory.
fn ask(target: &Target, input: &[u8]) -> Result<(String, usize), String> {
    let (outcome, peak_bytes) = memory::peak(|| catch_unwind(AssertUnwindSafe(|| (target.run)(input))));
    let outcome = outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        format!("panics: {}", text.unwrap_or("without words"))
    })?;
    let bytes_max = (target.bytes_max)(input.len());
    if peak_bytes > bytes_max {
        return Err(format!("{} bytes take {peak_bytes} bytes of memory, more than {bytes_max}", input.len()));
    }
    Ok((outcome, peak_bytes))
}

/// The outcome without what varies in it: numbers, names between quotes, what stands near a mistake.
fn kind_of(outcome: &str) -> String {
    let outcome = ["near:", "characters:"].iter().find_map(|end| outcome.split_once(end)).map_or(outcome, |it| it.0);
    let quoted = outcome.split('\'').enumerate().filter(|(index, _)| index % 2 == 0).map(|(_, part)| part);
    quoted.flat_map(str::chars).filter(|each| each.is_ascii_alphabetic()).take(100).collect()
}

/// Searches.
///
/// # Errors
/// The first input that should not do what it does.
pub fn search(target: &Target, seed: u64, until: Until) -> Result<Seen, Found> {
    let begin = Instant::now();
    let mut dice = Dice::new(seed);
    let mut seen = Seen { runs: 0, outcomes: 0, peak_bytes: 0 };
    let mut kinds: HashMap<String, usize> = HashMap::new();
    let mut corpus = kept(target);
    corpus.extend((target.seeds)());
    corpus.push(vec![]);
    let try_one = |input: &[u8], kinds: &mut HashMap<String, usize>, seen: &mut Seen| match ask(target, input) {
        Ok((outcome, peak_bytes)) => {
            seen.runs += 1;
            seen.peak_bytes = seen.peak_bytes.max(peak_bytes);
            let length = kinds.entry(kind_of(&outcome)).or_insert(usize::MAX);
            let new = input.len() < *length && (*length == usize::MAX || input.len() < *length / 2);
            *length = (*length).min(input.len());
            Ok(new)
        }
        Err(what) => Err(shrink(target, Found { input: input.to_vec(), what })),
    };
    for input in &corpus {
        try_one(input, &mut kinds, &mut seen)?;
    }
    let goes_on = |seen: &Seen| match until {
        Until::Runs(runs) => seen.runs < runs,
        Until::Time(time) => begin.elapsed() < time,
    };
    while goes_on(&seen) {
        let mut input = corpus[dice.below(corpus.len())].clone();
        let other = &corpus[dice.below(corpus.len())];
        mutate(&mut dice, &mut input, target.words, other);
        if let Some(mend) = target.mend
            && dice.below(8) > 0
        {
            mend(&mut input);
        }
        if try_one(&input, &mut kinds, &mut seen)? && corpus.len() < 4096 {
            corpus.push(input);
        }
    }
    seen.outcomes = kinds.len();
    Ok(seen)
}

/// The same with less input, as far as cutting pieces out goes.
fn shrink(target: &Target, found: Found) -> Found {
    let mut least = found;
    let mut piece = least.input.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at < least.input.len() {
            let mut shorter = least.input.clone();
            shorter.drain(at..(at + piece).min(shorter.len()));
            match ask(target, &shorter) {
                Err(what) => least = Found { input: shorter, what },
                Ok(_) => at += piece,
            }
        }
        piece /= 2;
    }
    least
}
