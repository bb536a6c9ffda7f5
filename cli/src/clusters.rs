//! `~/.meseta/config.toml`: clusters by name, each with values of flags. What is said on the command line or by a variable
//! wins.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use api::flags::{Flag, Kind};
use api_http::tls;

use crate::error::Error;
use crate::http;

/// Which of them is asked.
pub(crate) const FLAG: Flag = Flag::new(
    "cluster",
    Kind::Text,
    "A cluster of ~/.meseta/config.toml (or of the file that MESETA_CONFIG names): where its masters are and who you are \
     to them.",
);

/// What a cluster may say, apart from TLS.
const KEYS: [&str; 5] = ["master", "principal", "secret_file", "token_file", "cluster_secret"];
/// Prefixes of variables that stand for flags.
const PREFIXES: [&str; 3] = ["MESETA_", "MESOS_", "LIBPROCESS_"];

/// What the file says of one cluster: values by flag.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Cluster(BTreeMap<String, String>);

impl Cluster {
    /// The one that is named by the words of a command or by MESETA_CLUSTER, or the file's default; empty if none is.
    ///
    /// # Errors
    /// One sentence: the file cannot be read or is wrong, or does not know the cluster.
    pub(crate) fn chosen(words: &[String], environment: &impl Fn(&str) -> Option<String>) -> Result<Cluster, Error> {
        let named = named(words).or_else(|| environment("MESETA_CLUSTER"));
        let home = environment("HOME").map(PathBuf::from);
        let path = match environment("MESETA_CONFIG") {
            Some(path) => Some(PathBuf::from(path)),
            None => home.as_ref().map(|home| home.join(".meseta/config.toml")).filter(|path| path.exists()),
        };
        let Some(path) = path else {
            let missing = |name| Error::Usage(format!("--cluster={name}: there is no ~/.meseta/config.toml"));
            return named.map_or_else(|| Ok(Cluster::default()), |name| Err(missing(name)));
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Error::Failed(format!("cannot read {}: {error}", path.display())))?;
        read(&text, named.as_deref(), home.as_deref()).map_err(|why| Error::Usage(format!("{}: {why}", path.display())))
    }

    /// A variable as it is set, else as the cluster has it under the flag's name.
    pub(crate) fn variable(&self, name: &str, environment: &impl Fn(&str) -> Option<String>) -> Option<String> {
        let set = environment(name);
        if set.is_some() {
            return set;
        }
        let key = name.strip_prefix("MESETA_")?.to_lowercase();
        let value = self.0.get(&key)?;
        let is_set = |prefix: &str| environment(&format!("{prefix}{}", key.to_uppercase())).is_some();
        (!PREFIXES.into_iter().any(is_set)).then(|| value.clone())
    }
}

fn named(words: &[String]) -> Option<String> {
    let words = words.iter().take_while(|word| *word != "--");
    let mut words = words.skip_while(|word| *word != "--cluster" && !word.starts_with("--cluster="));
    match words.next()?.split_once('=') {
        Some((_, name)) => Some(name.to_owned()),
        None => words.next().cloned(),
    }
}

fn read(text: &str, named: Option<&str>, home: Option<&Path>) -> Result<Cluster, String> {
    let file: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        format!("line {}: {}", before.matches('\n').count() + 1, error.message())
    })?;
    if let Some(key) = file.keys().find(|key| !["default", "clusters"].contains(&key.as_str())) {
        let hint = api::nearest::did_you_mean(["default", "clusters"], key);
        return Err(format!("{key:?} is not known: there are \"default\" and tables [clusters.NAME]{hint}"));
    }
    let none = toml::Table::new();
    let clusters = match file.get("clusters") {
        None => &none,
        Some(clusters) => clusters.as_table().ok_or("clusters are tables: [clusters.NAME]")?,
    };
    let default = match file.get("default") {
        None => None,
        Some(default) => Some(default.as_str().ok_or("default is the name of a cluster, a text")?),
    };
    let Some(name) = named.or(default) else { return Ok(Cluster::default()) };
    let cluster = clusters.get(name).ok_or_else(|| {
        let known = clusters.keys().map(String::as_str);
        format!("there is no cluster {name:?}{}", api::nearest::did_you_mean(known, name))
    })?;
    let cluster = cluster.as_table().ok_or_else(|| format!("[clusters.{name}] is no table"))?;
    let known = || KEYS.into_iter().chain(tls::FLAGS.iter().map(|flag| flag.name));
    let mut values = BTreeMap::new();
    for (key, value) in cluster {
        if !known().any(|known| known == key) {
            return Err(format!("[clusters.{name}]: {key:?} is not known{}", api::nearest::did_you_mean(known(), key)));
        }
        let value = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Boolean(is) => is.to_string(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Array(texts) if key == "master" => {
                let texts: Option<Vec<&str>> = texts.iter().map(toml::Value::as_str).collect();
                texts.ok_or_else(|| format!("[clusters.{name}]: masters are texts, HOST:PORT"))?.join(",")
            }
            _ => return Err(format!("[clusters.{name}]: {key} is a text, a number, true or false")),
        };
        values.insert(key.clone(), at_home(value, home));
    }
    Ok(Cluster(values))
}

/// `~/x` is in the user's home.
fn at_home(value: String, home: Option<&Path>) -> String {
    match (value.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest).display().to_string(),
        _ => value,
    }
}

/// The flag, for commands that ask masters.
pub(crate) fn flag_for(flags: &[Flag]) -> Option<Flag> {
    let asks = flags.iter().any(|flag| flag.name == "master" || flag.name == http::SECRET.name);
    (asks && flags.iter().all(|flag| flag.name != FLAG.name)).then_some(FLAG)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
default = 'here'
[clusters.here]
master = '10.0.0.1:5050'
[clusters.prod]
master = ['a:5050', 'b:5050']
principal = 'ops'
secret_file = '~/.meseta/ops'
ssl_enabled = true
";

    fn value(name: Option<&str>, key: &str) -> Option<String> {
        read(FILE, name, Some(Path::new("/home/me"))).unwrap().0.get(key).cloned()
    }

    #[test]
    fn a_cluster_is_values_of_flags() {
        assert_eq!(value(None, "master").as_deref(), Some("10.0.0.1:5050"));
        assert_eq!(value(Some("prod"), "master").as_deref(), Some("a:5050,b:5050"));
        assert_eq!(value(Some("prod"), "secret_file").as_deref(), Some("/home/me/.meseta/ops"));
        assert_eq!(value(Some("prod"), "ssl_enabled").as_deref(), Some("true"));
    }

    #[test]
    fn what_is_said_wins() {
        let prod = read(FILE, Some("prod"), None).unwrap();
        let nothing = |_: &str| None;
        assert_eq!(prod.variable("MESETA_PRINCIPAL", &nothing).as_deref(), Some("ops"));
        assert_eq!(prod.variable("MESETA_SSL_ENABLED", &nothing).as_deref(), Some("true"));
        assert_eq!(prod.variable("MESOS_PRINCIPAL", &nothing), None, "asked for under one name");
        for set in ["MESETA_PRINCIPAL", "MESOS_PRINCIPAL"] {
            let environment = |name: &str| (name == set).then(|| "me".to_owned());
            let said = |name: &str| prod.variable(name, &environment);
            assert_eq!(said("MESETA_PRINCIPAL").or(said("MESOS_PRINCIPAL")).as_deref(), Some("me"), "{set}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (file, name, why) in [
            (FILE, "prd", "there is no cluster \"prd\"; did you mean \"prod\"?"),
            ("[clusters.a]\nmasters='x:1'", "a", "\"masters\" is not known; did you mean \"master\"?"),
            ("[clusters.a]\nmaster=1.5", "a", "master is a text"),
            ("cluster=1", "a", "\"cluster\" is not known"),
            ("default = 'a'\n[", "a", "line 2: "),
        ] {
            let error = read(file, Some(name), None).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_words_name_it_in_both_ways() {
        let named = |line: &str| named(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(named("--json --cluster=a").as_deref(), Some("a"));
        assert_eq!(named("--cluster a --json").as_deref(), Some("a"));
        assert_eq!(named("t1 -- --cluster=a"), None);
    }
}
