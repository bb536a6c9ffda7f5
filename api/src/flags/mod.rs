//! The flags of all our programs, in the forms that Mesos's flags have: `--name=value`, `--name` and `--no-name` for
//! what is true or false, `--name=file:///path`, and the environment `MESETA_NAME` or `MESOS_NAME`.
//!
//! Pure: words, environment and files are handed in. A program declares its flags in a table:
//!
//! ```
//! use api::flags::{Flag, Kind, parse};
//!
//! const FLAGS: &[Flag] = &[
//!     Flag::new("port", Kind::Int, "Port to listen on.").default("5050"),
//!     Flag::new("work_dir", Kind::Path, "Where the log is kept.").required(),
//!     Flag::new("agent_ping_timeout", Kind::Duration, "...").default("15secs").aliases(&["slave_ping_timeout"]),
//! ];
//! let words = ["--work_dir=/var/lib/meseta", "--slave_ping_timeout=1mins"].map(String::from);
//! let values = parse(FLAGS, words, |_| None, |_| Ok(String::new())).unwrap();
//! assert_eq!(values.int("port"), Some(5050));
//! assert_eq!(values.duration("agent_ping_timeout").unwrap().as_secs(), 60);
//! assert_eq!(values.warnings.len(), 1);
//! ```

mod help;
mod page;
mod surroundings;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use help::help;
pub use page::{Untaken, page};
pub use surroundings::surroundings;

use crate::{duration, size};

/// One flag of a program.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// As on the command line, without dashes.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// The value when it is not given.
    pub default: Option<&'static str>,
    /// Whether it must be given.
    pub required: bool,
    /// What it does, for `--help`.
    pub help: &'static str,
    /// Names it had before; they still work, with a warning.
    pub aliases: &'static [&'static str],
    /// A variable of the environment that stands for it behind `MESETA_NAME` and `MESOS_NAME`.
    pub variable: Option<&'static str>,
    /// Accepted, and nothing comes of it: whoever gives another value than the default is told.
    pub idle: bool,
}

/// What the value of a flag is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// true or false; given without a value it is true, as `--no-name` it is false.
    Bool,
    /// A whole number.
    Int,
    /// A number.
    Double,
    /// `15secs`
    Duration,
    /// `2GB`
    Bytes,
    /// Any text; `file:///path` stands for what is in the file.
    Text,
    /// As `Text`, and `/path` too stands for what is in the file: for JSON, lists of secrets, ...
    Content,
    /// A path; `file://` before it is dropped, and nothing is read.
    Path,
}

impl Flag {
    /// A flag that need not be given and has no default.
    pub const fn new(name: &'static str, kind: Kind, help: &'static str) -> Flag {
        Flag { name, kind, default: None, required: false, help, aliases: &[], variable: None, idle: false }
    }

    /// The same with a default.
    pub const fn default(self, value: &'static str) -> Flag {
        Flag { default: Some(value), ..self }
    }

    /// The same, to be given always.
    pub const fn required(self) -> Flag {
        Flag { required: true, ..self }
    }

    /// The same under older names too.
    pub const fn aliases(self, names: &'static [&'static str]) -> Flag {
        Flag { aliases: names, ..self }
    }

    /// The same, with one more variable of the environment.
    pub const fn variable(self, name: &'static str) -> Flag {
        Flag { variable: Some(name), ..self }
    }

    /// The same without effect.
    pub const fn idle(self) -> Flag {
        Flag { idle: true, ..self }
    }

    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }
}

/// Why the words of a command line make no sense. One sentence each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No flag has that name.
    #[error("Unknown flag '--{name}'{}", suggestion(nearest))]
    Unknown {
        /// As given.
        name: String,
        /// A flag that there is.
        nearest: Option<&'static str>,
    },
    /// A word that is no flag.
    #[error("Unexpected word '{0}': flags look like --name=value")]
    Unexpected(String),
    /// Twice on one command line.
    #[error("Flag '--{0}' is given twice")]
    Twice(&'static str),
    /// No value.
    #[error("Flag '--{0}' needs a value: --{0}=VALUE")]
    NoValue(&'static str),
    /// `--no-name` of something that is not true or false.
    #[error("Flag '--{0}' is not a boolean, so there is no '--no-{0}'")]
    NotBoolean(&'static str),
    /// Required and not given.
    #[error("Flag '--{0}' is required")]
    Required(&'static str),
    /// A value of the wrong kind.
    #[error("Failed to load flag '--{name}' from '{value}': {why}")]
    Value {
        /// Which flag.
        name: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file named by a flag.
    #[error("Failed to load flag '--{name}': error reading file '{path}': {why}")]
    File {
        /// Which flag.
        name: &'static str,
        /// Which file.
        path: String,
        /// What the system said.
        why: String,
    },
}

fn suggestion(nearest: &Option<&'static str>) -> String {
    nearest.map(|name| format!(", did you mean '--{name}'?")).unwrap_or_default()
}

/// The values of a program's flags.
#[derive(Clone, Debug)]
pub struct Values {
    /// `--help` was asked for; then nothing else was checked.
    pub help: bool,
    /// Sentences about names that are no longer used.
    pub warnings: Vec<String>,
    kinds: BTreeMap<&'static str, Kind>,
    values: BTreeMap<&'static str, String>,
    given: Vec<&'static str>,
}

/// Reads the words behind a program's name. `environment` looks up a variable, `read` a file.
///
/// The command line wins over `MESETA_NAME`, that over `MESOS_NAME`, that over the flag's other variable, and that over
/// the default. Unknown variables of
/// the environment are nobody's business; an unknown flag is an error.
pub fn parse(
    flags: &[Flag],
    words: impl IntoIterator<Item = String>,
    environment: impl Fn(&str) -> Option<String>,
    read: impl Fn(&Path) -> std::io::Result<String>,
) -> Result<Values, Error> {
    let mut values = Values {
        help: false,
        warnings: vec![],
        kinds: flags.iter().map(|flag| (flag.name, flag.kind)).collect(),
        values: BTreeMap::new(),
        given: vec![],
    };
    let words: Vec<String> = words.into_iter().collect();
    let asks_help = |word: &String| ["--help", "-h", "--help=true"].contains(&word.as_str());
    if words.iter().take_while(|word| *word != "--").any(asks_help) {
        values.help = true;
        return Ok(values);
    }
    let mut raw: BTreeMap<&'static str, String> = BTreeMap::new();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let (flag, called, value) = one(flags, &word, || words.next_if(|next| !next.starts_with("--")))?;
        if called != flag.name {
            let warning = format!("Flag '--{called}' is deprecated, use '--{}'", flag.name);
            values.warnings.push(warning);
        }
        if raw.insert(flag.name, value).is_some() {
            return Err(Error::Twice(flag.name));
        }
    }
    for flag in flags {
        let value = raw.remove(flag.name).or_else(|| from_environment(flag, &environment, &mut values.warnings));
        if value.is_some() {
            values.given.push(flag.name);
        }
        match value.or_else(|| flag.default.map(str::to_owned)) {
            Some(value) => {
                let value = load(flag, value, &read)?;
                if flag.idle && values.is_given(flag.name) && flag.default != Some(value.as_str()) {
                    values.warnings.push(format!("Flag '--{}' has no effect: {}", flag.name, flag.help));
                }
                values.values.insert(flag.name, value);
            }
            None if flag.required => return Err(Error::Required(flag.name)),
            None => {}
        }
    }
    Ok(values)
}

/// One word of the command line: the flag, the name it was called by, its value. `next` takes the word behind it.
fn one<'a>(
    flags: &'a [Flag],
    word: &str,
    next: impl FnOnce() -> Option<String>,
) -> Result<(&'a Flag, String, String), Error> {
    let text = word.strip_prefix("--").filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| Error::Unexpected(word.to_owned()))?;
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    if let Some(flag) = flags.iter().find(|flag| flag.is_called(name)) {
        let value = match (flag.kind, value) {
            (_, Some(value)) => value,
            (Kind::Bool, None) => "true".to_owned(),
            (_, None) => next().ok_or(Error::NoValue(flag.name))?,
        };
        return Ok((flag, name.to_owned(), value));
    }
    let unknown = || Error::Unknown { name: name.to_owned(), nearest: nearest(flags, name) };
    let positive = name.strip_prefix("no-").ok_or_else(unknown)?;
    let flag = flags.iter().find(|flag| flag.is_called(positive)).ok_or_else(unknown)?;
    match (flag.kind, value) {
        (Kind::Bool, None) => Ok((flag, positive.to_owned(), "false".to_owned())),
        (Kind::Bool, Some(value)) => {
            Err(Error::Value { name: flag.name, value, why: format!("'--no-{}' takes no value", flag.name) })
        }
        _ => Err(Error::NotBoolean(flag.name)),
    }
}

fn nearest(flags: &[Flag], name: &str) -> Option<&'static str> {
    let wanted = name.strip_prefix("no-").unwrap_or(name);
    let names = flags.iter().flat_map(|flag| flag.aliases.iter().chain([&flag.name]).copied());
    let found = crate::nearest::nearest(names, wanted)?;
    // An older name leads to the one of today.
    flags.iter().find(|flag| flag.is_called(found)).map(|flag| flag.name)
}

fn from_environment(
    flag: &Flag,
    environment: &impl Fn(&str) -> Option<String>,
    warnings: &mut Vec<String>,
) -> Option<String> {
    for name in [flag.name].iter().chain(flag.aliases) {
        for prefix in ["MESETA_", "MESOS_"] {
            let variable = format!("{prefix}{}", name.to_uppercase());
            let Some(value) = environment(&variable) else { continue };
            if *name != flag.name {
                warnings.push(format!("Variable {variable} is deprecated, use MESETA_{}", flag.name.to_uppercase()));
            }
            return Some(value);
        }
    }
    environment(flag.variable?)
}

/// Reads files, checks the value, and brings it into the form in which `/flags` shows it.
fn load(flag: &Flag, value: String, read: &impl Fn(&Path) -> std::io::Result<String>) -> Result<String, Error> {
    let path = match (flag.kind, value.strip_prefix("file://")) {
        (Kind::Path, path) => return Ok(path.unwrap_or(&value).to_owned()),
        (_, Some(path)) => Some(path),
        (Kind::Content, None) if value.starts_with('/') => Some(value.as_str()),
        _ => None,
    };
    let value = match path {
        Some(path) => read(Path::new(path)).map_err(|error| Error::File {
            name: flag.name,
            path: path.to_owned(),
            why: error.to_string(),
        })?,
        None => value,
    };
    let trimmed = value.trim();
    let checked = match flag.kind {
        Kind::Bool => match trimmed {
            "true" | "1" => Ok("true".to_owned()),
            "false" | "0" => Ok("false".to_owned()),
            _ => Err("expecting a boolean (true or false)".to_owned()),
        },
        Kind::Int => match trimmed.parse::<i64>() {
            Ok(number) => Ok(number.to_string()),
            Err(_) => Err("expecting a whole number".to_owned()),
        },
        Kind::Double => match trimmed.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(trimmed.to_owned()),
            _ => Err("expecting a number".to_owned()),
        },
        Kind::Duration => duration::parse(trimmed).map(duration::format),
        Kind::Bytes => size::parse(trimmed).map(size::format),
        Kind::Text | Kind::Content | Kind::Path => return Ok(value),
    };
    checked.map_err(|why| Error::Value { name: flag.name, value: value.clone(), why })
}

impl Values {
    /// The text of a flag that was given or has a default.
    ///
    /// # Panics
    /// If no flag of that name was declared: that is a mistake in the program, not in its use.
    pub fn text(&self, name: &str) -> Option<&str> {
        assert!(self.kinds.contains_key(name), "flag '{name}' was not declared");
        self.values.get(name).map(String::as_str)
    }

    fn typed(&self, name: &str, kind: Kind) -> Option<&str> {
        debug_assert!(self.kinds.get(name) == Some(&kind), "flag '{name}' was not declared as {kind:?}");
        self.text(name)
    }

    /// A boolean; false if it was neither given nor has a default.
    pub fn bool(&self, name: &str) -> bool {
        self.typed(name, Kind::Bool) == Some("true")
    }

    /// A whole number.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.typed(name, Kind::Int)?.parse().ok()
    }

    /// A number.
    pub fn double(&self, name: &str) -> Option<f64> {
        self.typed(name, Kind::Double)?.parse().ok()
    }

    /// A duration.
    pub fn duration(&self, name: &str) -> Option<Duration> {
        duration::parse(self.typed(name, Kind::Duration)?).ok()
    }

    /// An amount, in bytes.
    pub fn bytes(&self, name: &str) -> Option<u64> {
        size::parse(self.typed(name, Kind::Bytes)?).ok()
    }

    /// A path.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.typed(name, Kind::Path).map(PathBuf::from)
    }

    /// Whether it was given, on the command line or in the environment.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains(&name)
    }

    /// All flags that have a value, by name, as `/flags` shows them.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.values.iter().map(|(name, value)| (*name, value.as_str()))
    }
}
