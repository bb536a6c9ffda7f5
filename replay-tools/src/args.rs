//! The command line: what is asked for, or one sentence about what is wrong with it.

use crate::place::Place;
use std::path::PathBuf;

/// What is asked for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Args {
    /// Everything that is no flag, without the command.
    pub words: Vec<String>,
    /// Flags with their values; of a flag given twice the last one counts.
    flags: Vec<(&'static str, String)>,
}

/// The command line is wrong.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub String);

/// A flag of a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// What its value is called; none: it is there or not.
    pub value: Option<&'static str>,
    /// One line.
    pub help: &'static str,
}

impl Args {
    /// Sorts `words` into flags and the rest. `--name=value` and `--name value` are the same.
    ///
    /// # Errors
    /// A [`Usage`] that names the nearest flag for one that the command does not have.
    pub(crate) fn parse(words: impl IntoIterator<Item = String>, known: &[Flag]) -> Result<Args, Usage> {
        let mut args = Args::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let Some(text) = word.strip_prefix("--").filter(|text| !text.is_empty()) else {
                args.words.push(word);
                continue;
            };
            let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
            let Some(flag) = known.iter().find(|flag| flag.name == name) else { return Err(unknown(name, known)) };
            let value = match (flag.value, value) {
                (None, None) => String::new(),
                (None, Some("true")) => String::new(),
                (None, Some("false")) => continue,
                (None, Some(_)) => return Err(Usage(format!("--{name} takes no value"))),
                (Some(_), Some(value)) => value.to_owned(),
                (Some(what), None) => {
                    words.next().ok_or_else(|| Usage(format!("--{name} needs a value: --{name}={what}")))?
                }
            };
            args.flags.push((flag.name, value));
        }
        Ok(args)
    }

    /// Whether a flag was given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The value of a flag.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.flags.iter().rev().find(|(flag, _)| *flag == name).map(|(_, value)| value.as_str())
    }

    /// The value of a flag as a number.
    ///
    /// # Errors
    /// A [`Usage`] if it is none.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Usage> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.parse().map_err(|_| Usage(format!("--{name} must be a whole number, not {text:?}")))?;
        Ok(Some(number))
    }

    /// The value of a flag as a place in the log.
    ///
    /// # Errors
    /// A [`Usage`] if it is none.
    pub(crate) fn place(&self, name: &str) -> Result<Option<Place>, Usage> {
        self.get(name).map(|text| Place::of_flag(name, text)).transpose()
    }

    /// Where to begin and to end, as the flags say; an end before the beginning would find nothing.
    ///
    /// # Errors
    /// A [`Usage`] if either is no place, or they are in the wrong order.
    pub(crate) fn span(&self) -> Result<(Option<Place>, Option<Place>), Usage> {
        let (from, to) = (self.place("from")?, self.place("to")?);
        let is_wrong = match (from, to) {
            (Some(Place::Index(from)), Some(Place::Index(to))) => from > to,
            (Some(Place::Time(from)), Some(Place::Time(to))) => from > to,
            _ => false,
        };
        if is_wrong {
            let text = |name: &str| self.get(name).unwrap_or_default().to_owned();
            return Err(Usage(format!("--from={} is after --to={}", text("from"), text("to"))));
        }
        Ok((from, to))
    }

    /// The folder: the only word left, or the current one.
    ///
    /// # Errors
    /// A [`Usage`] if there are more words.
    pub(crate) fn dir(&self) -> Result<PathBuf, Usage> {
        match self.words.as_slice() {
            [] => Ok(PathBuf::from(".")),
            [dir] => Ok(PathBuf::from(dir)),
            [_, more, ..] => Err(Usage(format!("one folder is enough: what is {more:?}?"))),
        }
    }
}

fn unknown(name: &str, known: &[Flag]) -> Usage {
    let nearest = api::nearest::nearest(known.iter().map(|flag| flag.name), name);
    Usage(match nearest {
        Some(nearest) => format!("there is no flag --{name} here; did you mean --{nearest}?"),
        None => format!("there is no flag --{name} here"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Flag] =
        &[Flag { name: "at", value: Some("INDEX"), help: "" }, Flag { name: "json", value: None, help: "" }];

    fn parse(line: &str) -> Result<Args, Usage> {
        Args::parse(line.split_whitespace().map(str::to_owned), KNOWN)
    }

    #[test]
    fn flags_take_their_value_either_way() {
        for line in ["--at=7 dir --json", "dir --at 7 --json", "--json --at 5 dir --at=7"] {
            let args = parse(line).unwrap();
            assert_eq!((args.number("at"), args.has("json")), (Ok(Some(7)), true), "{line}");
            assert_eq!(args.dir(), Ok(PathBuf::from("dir")));
        }
        assert_eq!(parse("").unwrap().dir(), Ok(PathBuf::from(".")));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong = |line| parse(line).unwrap_err().0;
        assert_eq!(wrong("--jsno"), "there is no flag --jsno here; did you mean --json?");
        assert_eq!(wrong("--at"), "--at needs a value: --at=INDEX");
        assert_eq!(wrong("--json=1"), "--json takes no value");
        assert_eq!(parse("--at=x").unwrap().number("at").unwrap_err().0, "--at must be a whole number, not \"x\"");
        assert_eq!(parse("a b").unwrap().dir().unwrap_err().0, "one folder is enough: what is \"b\"?");
    }
}
