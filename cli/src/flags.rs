//! Flags in Mesos's forms: `--flag=value`, `--flag value`, `--flag` and `--no-flag` for booleans. A flag that is not
//! given is looked for in the environment, as `MESETA_FLAG`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::error::Error;

/// One flag of a command.
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    /// Shown as `--name=VALUE`; none for a boolean.
    pub(crate) value: Option<&'static str>,
    pub(crate) about: &'static str,
}

/// A flag with a value.
pub(crate) const fn value(name: &'static str, value: &'static str, about: &'static str) -> Flag {
    Flag { name, value: Some(value), about }
}

/// A flag that is there or not.
pub(crate) const fn boolean(name: &'static str, about: &'static str) -> Flag {
    Flag { name, value: None, about }
}

/// The flags given, by name.
#[derive(Debug)]
pub(crate) struct Flags(BTreeMap<&'static str, String>);

pub(crate) enum Parsed {
    Help,
    Flags(Flags),
}

/// Reads a command's words.
pub(crate) fn parse(known: &'static [Flag], words: &[String]) -> Result<Parsed, Error> {
    parse_with(known, words, |name| std::env::var(name).ok())
}

fn parse_with(
    known: &'static [Flag],
    words: &[String],
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Parsed, Error> {
    let mut given = BTreeMap::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--help" || word == "-h" {
            return Ok(Parsed::Help);
        }
        let Some(text) = word.strip_prefix("--") else {
            return Err(Error::Usage(format!("'{word}' is not a flag: flags look like --name=value")));
        };
        let (name, mut value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        let negated = name.strip_prefix("no-").filter(|_| value.is_none());
        let flag = known.iter().find(|flag| flag.name == name);
        let (flag, value) = match (flag, negated) {
            (Some(flag), _) if flag.value.is_none() => {
                (flag, truth(name, value.as_deref().unwrap_or("true"))?.to_owned())
            }
            (Some(flag), _) => {
                value = value.or_else(|| words.next().cloned());
                (flag, value.ok_or_else(|| Error::Usage(format!("--{name} wants a value")))?)
            }
            (None, Some(name)) => {
                let flag = known.iter().find(|flag| flag.name == name && flag.value.is_none());
                (flag.ok_or_else(|| unknown(known, &format!("no-{name}")))?, "false".to_owned())
            }
            (None, None) => return Err(unknown(known, name)),
        };
        if given.insert(flag.name, value).is_some() {
            return Err(Error::Usage(format!("--{} is given twice", flag.name)));
        }
    }
    for flag in known {
        if let Some(value) = environment(&format!("MESETA_{}", flag.name.to_uppercase())) {
            given.entry(flag.name).or_insert(value);
        }
    }
    Ok(Parsed::Flags(Flags(given)))
}

impl Flags {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(crate) fn required(&self, name: &str) -> Result<&str, Error> {
        self.get(name).ok_or_else(|| Error::Usage(format!("--{name} is required (--help tells all flags)")))
    }

    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// A whole number, or `default`.
    pub(crate) fn number(&self, name: &str, default: u16) -> Result<u16, Error> {
        let Some(text) = self.get(name) else { return Ok(default) };
        text.parse().map_err(|_| Error::Usage(format!("--{name}={text} is not a number from 0 to 65535")))
    }
}

/// The text of `--help`.
pub(crate) fn help(command: &str, about: &str, flags: &[Flag]) -> String {
    let mut text = format!("{about}\n\nUsage: meseta {command} [--flag=value ...]\n\nFlags:\n");
    let spelled = |flag: &Flag| match flag.value {
        Some(value) => format!("--{}={value}", flag.name),
        None => format!("--[no-]{}", flag.name),
    };
    let width = flags.iter().map(|flag| spelled(flag).len()).max().unwrap_or(0);
    for flag in flags {
        let mut lines = flag.about.lines();
        let _ = writeln!(text, "  {:width$}  {}", spelled(flag), lines.next().unwrap_or_default());
        for line in lines {
            let _ = writeln!(text, "  {:width$}  {line}", "");
        }
    }
    text
}

fn truth<'a>(name: &str, text: &'a str) -> Result<&'a str, Error> {
    match text {
        "true" | "1" => Ok("true"),
        "false" | "0" => Ok("false"),
        _ => Err(Error::Usage(format!("--{name}={text}: only true or false"))),
    }
}

fn unknown(known: &[Flag], name: &str) -> Error {
    let hint = nearest(name, known.iter().map(|flag| flag.name));
    let hint = hint.map(|near| format!("; did you mean --{near}?")).unwrap_or_default();
    Error::Usage(format!("there is no flag --{name}{hint} (--help tells all flags)"))
}

/// The known word that is closest, if one is close at all.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.replace('-', "_");
    known
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many letters must be changed, added or left out.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Flag] = &[value("master", "H:P", ""), boolean("json", ""), value("name", "N", "")];

    fn check(words: &[&str]) -> String {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        match parse_with(KNOWN, &words, |name| (name == "MESETA_NAME").then(|| "env".to_owned())) {
            Ok(Parsed::Help) => "help".into(),
            Ok(Parsed::Flags(flags)) => format!("{:?}", flags.0),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn flags_take_mesos_forms_and_the_environment() {
        assert_eq!(check(&["--master=a:1", "--json"]), r#"{"json": "true", "master": "a:1", "name": "env"}"#);
        assert_eq!(check(&["--name", "n", "--no-json"]), r#"{"json": "false", "name": "n"}"#);
        assert_eq!(check(&["--json=false", "--name=a=b"]), r#"{"json": "false", "name": "a=b"}"#);
        assert_eq!(check(&["--json", "--help"]), "help");
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(check(&["--mster=x"]), "there is no flag --mster; did you mean --master? (--help tells all flags)");
        assert_eq!(check(&["--no-name"]), "there is no flag --no-name (--help tells all flags)");
        assert_eq!(check(&["master"]), "'master' is not a flag: flags look like --name=value");
        assert_eq!(check(&["--json", "--json"]), "--json is given twice");
        assert_eq!(check(&["--json=maybe"]), "--json=maybe: only true or false");
        assert_eq!(check(&["--master"]), "--master wants a value");
    }
}
