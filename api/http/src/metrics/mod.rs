//! What masters and agents count and measure: one table of all of it, by Mesos's names, and the same as Prometheus reads it.

mod table;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::OnceLock;

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until the process starts anew.
    Counter,
    /// As it is now.
    Gauge,
}

/// A name that metrics have, or many that differ in parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// As `/metrics/snapshot` has it. What is in braces stands for anything without a slash; of roles and principals with
    /// them, too.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// What it means.
    pub help: &'static str,
    /// As Prometheus has it, with the labels that are always the same; empty if it is not told there.
    pub exposed: String,
    /// By what it is multiplied there: Prometheus is told bytes and seconds.
    pub scale: f64,
}

/// The content type of the text format.
pub const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Every metric there is, in the order in which people are told.
pub fn table() -> &'static [Metric] {
    static TABLE: OnceLock<Vec<Metric>> = OnceLock::new();
    TABLE.get_or_init(table::all)
}

/// The row of a name, and what its braces stand for.
pub fn find(name: &str) -> Option<(&'static Metric, Vec<(&'static str, String)>)> {
    static EXACT: OnceLock<HashMap<&'static str, &'static Metric>> = OnceLock::new();
    let exact = EXACT.get_or_init(|| table().iter().map(|metric| (metric.name.as_str(), metric)).collect());
    if let Some(metric) = exact.get(name) {
        return Some((metric, Vec::new()));
    }
    table().iter().filter(|metric| metric.name.contains('{')).find_map(|metric| {
        let mut labels = Vec::new();
        matches(&metric.name, name, &mut labels).then_some((metric, labels))
    })
}

/// Whether a name is of this form; with what its braces stand for.
fn matches(form: &'static str, name: &str, labels: &mut Vec<(&'static str, String)>) -> bool {
    let Some((fixed, rest)) = form.split_once('{') else { return form == name };
    let Some(name) = name.strip_prefix(fixed) else { return false };
    let Some((label, rest)) = rest.split_once('}') else { return false };
    let may_have_slashes = matches!(label, "role" | "principal");
    let next = rest.split('{').next().unwrap_or_default();
    for (at, _) in name.char_indices().chain([(name.len(), ' ')]) {
        let (value, behind) = name.split_at(at);
        if !may_have_slashes && value.contains('/') {
            break;
        }
        // The root of all roles has no name.
        let is_value = !value.is_empty() || label == "role";
        if is_value && behind.starts_with(next) {
            labels.push((label, value.to_owned()));
            if matches(rest, behind, labels) {
                return true;
            }
            labels.pop();
        }
    }
    false
}

/// Numbers by Mesos's names, in the text format of Prometheus. What the table does not know is left out.
pub fn exposition(numbers: impl IntoIterator<Item = (String, f64)>) -> String {
    let mut families: BTreeMap<&str, (&Metric, Vec<String>)> = BTreeMap::new();
    for (name, number) in numbers {
        let Some((metric, labels)) = find(&name).filter(|(metric, _)| !metric.exposed.is_empty()) else { continue };
        let (family, fixed) = metric.exposed.split_once('{').unwrap_or((&metric.exposed, ""));
        let mut pairs: Vec<String> = fixed.trim_end_matches('}').split(',').map(str::to_owned).collect();
        pairs.retain(|pair| !pair.is_empty());
        pairs.extend(
            labels.into_iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(&decoded(label, value)))),
        );
        let pairs = if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) };
        let sample = format!("{family}{pairs} {}", number * metric.scale);
        families.entry(family).or_insert((metric, Vec::new())).1.push(sample);
    }
    let mut text = String::new();
    for (family, (metric, samples)) in families {
        let kind = if metric.kind == Kind::Counter { "counter" } else { "gauge" };
        let _ = write!(text, "# HELP {family} {}\n# TYPE {family} {kind}\n", metric.help.replace('\\', "\\\\"));
        samples.iter().for_each(|sample| {
            let _ = writeln!(text, "{sample}");
        });
    }
    text
}

/// Names of frameworks are parts of paths, and written so.
fn decoded(label: &str, value: String) -> String {
    if label == "framework" { crate::query::decode(&value, false) } else { value }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The names of what Prometheus is told, without labels.
pub fn exposed_names() -> impl Iterator<Item = &'static str> {
    let names = table().iter().map(|metric| metric.exposed.split('{').next().unwrap_or_default());
    names.filter(|name| !name.is_empty())
}

/// The page about all of them, for `docs/`.
pub fn page() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         Made of the table in `api/http/src/metrics/`, and compared with it by a test. Masters and agents tell the names of Mesos at \
         `/metrics/snapshot` and to GET_METRICS, and the names of Prometheus at `/metrics/prometheus`, in its text format: bytes and seconds, \
         `_total` for what only grows. Both need GET_ENDPOINT_WITH_PATH for their path where [lists](security.md) are in force, and leave out \
         roles, principals and frameworks that whoever asks may not see. A dashboard for Grafana and rules for alerts are in \
         `packaging/monitoring/`; how to have Prometheus read all of it is in [operating.md](operating.md#metrics).\n\n\
         Gauges of masters come from the log: every master tells the same. Counters begin at 0 with each process: calls and messages are counted \
         by the master that decides them, events on a stream by the master that holds it, what happened by every master. What is 0 \
         because it never happens here says so.\n",
    );
    for (title, prefix) in [
        ("Masters", "master/"),
        ("The log of masters", "registrar/"),
        ("Allocator", "allocator/"),
        ("Frameworks by principal", "frameworks/"),
        ("Agents", "slave/"),
        ("Containers", "containerizer/"),
        ("Plugins of storage", "csi_plugins/"),
        ("Collection of sandboxes", "gc/"),
        ("Resource providers", "resource_provider_manager/"),
        ("Disks of resource providers", "resource_providers/"),
        ("The machine", "system/"),
    ] {
        let _ = write!(page, "\n## {title}\n\n| name | kind | meaning | for Prometheus |\n|---|---|---|---|\n");
        for metric in table().iter().filter(|metric| metric.name.starts_with(prefix)) {
            let kind = if metric.kind == Kind::Counter { "counter" } else { "gauge" };
            let exposed = if metric.exposed.is_empty() { "-".to_owned() } else { format!("`{}`", metric.exposed) };
            let _ = writeln!(page, "| `{}` | {kind} | {} | {exposed} |", metric.name, metric.help);
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_with_what_differs() {
        let (metric, labels) = find("allocator/mesos/quota/roles/eng/web/resources/cpus/limit").unwrap();
        assert_eq!(metric.name, "allocator/mesos/quota/roles/{role}/resources/{resource}/limit");
        assert_eq!(labels, [("role", "eng/web".to_owned()), ("resource", "cpus".to_owned())]);
        let (metric, _) = find("master/task_lost/source_master/reason_slave_removed").unwrap();
        assert_eq!(metric.name, "master/task_{state}/source_{source}/reason_{reason}");
        assert!(find("master/nosuch").is_none());
    }

    #[test]
    fn the_table_says_each_thing_once_and_prometheus_likes_its_names() {
        let mut names = std::collections::BTreeSet::new();
        let mut kinds: BTreeMap<&str, (Kind, &str)> = BTreeMap::new();
        for metric in table() {
            assert!(names.insert(&metric.name), "{} is there twice", metric.name);
            if metric.exposed.is_empty() {
                continue;
            }
            let family = metric.exposed.split('{').next().unwrap();
            assert!(family.starts_with("meseta_"), "{family}");
            assert!(
                family.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
                "{family}"
            );
            assert_eq!(family.ends_with("_total"), metric.kind == Kind::Counter, "{family}");
            let known = kinds.entry(family).or_insert((metric.kind, metric.help));
            assert_eq!(known.0, metric.kind, "{family}");
        }
    }

    #[test]
    fn values_are_in_base_units_with_labels() {
        let numbers = [
            ("master/mem_total", 2.0),
            ("master/frameworks/a%20%22b/id-0000/offers/sent", 3.0),
            ("registrar/state_store_ms/p50", 4.0),
            ("master/nosuch", 1.0),
        ];
        let text = exposition(numbers.map(|(name, number)| (name.to_owned(), number)));
        for line in [
            "meseta_master_memory_bytes 2097152",
            "meseta_framework_offers_sent_total{framework=\"a \\\"b\",id=\"id-0000\"} 3",
            "meseta_log_commit_seconds{statistic=\"p50\"} 0.004",
            "# TYPE meseta_framework_offers_sent_total counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
        }
        assert!(!text.contains("nosuch"));
    }

    /// A sample: its family, labels and number; in the words of the text format.
    fn sample(line: &str) -> Option<(&str, BTreeMap<&str, String>, f64)> {
        let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))?;
        let (family, mut rest) = line.split_at(end);
        let mut labels = BTreeMap::new();
        if let Some(mut inside) = rest.strip_prefix('{') {
            loop {
                let (label, behind) = inside.split_once("=\"")?;
                let is_name = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                let (mut value, mut chars) = (String::new(), behind.char_indices());
                let end = loop {
                    match chars.next()? {
                        (at, '"') => break at + 1,
                        (_, '\\') => value.push(match chars.next()?.1 {
                            'n' => '\n',
                            escaped @ ('"' | '\\') => escaped,
                            _ => return None,
                        }),
                        (_, '\n') => return None,
                        (_, other) => value.push(other),
                    }
                };
                if !is_name || label.is_empty() || labels.insert(label, value).is_some() {
                    return None;
                }
                match behind[end..].strip_prefix(',') {
                    Some(more) => inside = more,
                    None => {
                        rest = behind[end..].strip_prefix('}')?;
                        break;
                    }
                }
            }
        }
        Some((family, labels, rest.strip_prefix(' ')?.parse().ok()?))
    }

    #[test]
    fn everything_in_the_table_can_be_read_by_prometheus() {
        let strange = "a\"b\\c\nd{e},f=\"";
        let fill = |name: &str| {
            let mut filled = name.to_owned();
            while let Some((before, rest)) = filled.split_once('{') {
                let (label, behind) = rest.split_once('}').unwrap();
                let value =
                    if matches!(label, "role" | "principal") { strange.replace(['{', '}'], "") } else { "v".into() };
                filled = format!("{before}{value}{behind}");
            }
            filled
        };
        let numbers = table().iter().map(|metric| (fill(&metric.name), 1.5));
        let text = exposition(numbers);
        let (mut typed, mut seen, mut helped) = (BTreeMap::new(), std::collections::BTreeSet::new(), "");
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                helped = help.split(' ').next().unwrap();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (family, kind) = kind.split_once(' ').unwrap();
                assert!(typed.insert(family, kind).is_none() && helped == family, "{family} is told twice");
            } else {
                let (family, labels, _) = sample(line).unwrap_or_else(|| panic!("no sample: {line}"));
                assert!(helped == family && typed.contains_key(family), "{line}");
                assert!(seen.insert((family, labels)), "twice: {line}");
            }
        }
        let wanted: std::collections::BTreeSet<&str> = exposed_names().collect();
        assert_eq!(typed.keys().copied().collect::<std::collections::BTreeSet<_>>(), wanted);
        assert!(text.contains("role=\"a\\\"b\\\\c\\nde,f=\\\"\""), "{text}");
    }

    /// Dashboards and rules name only what there is.
    #[test]
    fn what_monitoring_asks_for_is_there() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/monitoring");
        let dashboard = std::fs::read_to_string(format!("{folder}/grafana-dashboard.json")).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
        assert!(parsed["panels"].as_array().is_some_and(|panels| panels.len() > 8));
        let rules = std::fs::read_to_string(format!("{folder}/alerts.yml")).unwrap();
        let known: std::collections::BTreeSet<&str> = exposed_names().collect();
        let mut asked = 0;
        for word in
            [dashboard, rules].iter().flat_map(|text| text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')))
        {
            if word.starts_with("meseta_") {
                assert!(known.contains(word), "there is no metric {word}");
                asked += 1;
            }
        }
        assert!(asked > 20, "{asked}");
    }
}
