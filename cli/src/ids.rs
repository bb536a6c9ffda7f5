//! Ids as people write them: `S0`, `0010` and `O20` for what is `CLUSTER-S0` on the wire. There is one cluster in a table.

use serde_json::Value;

/// The cluster's id, and what is left of others without it.
#[derive(Debug, Default)]
pub(crate) struct Short {
    cluster: Option<String>,
}

impl Short {
    /// Of the cluster that most of these ids are of; with `full` nothing is shortened.
    pub(crate) fn of<'a>(ids: impl Iterator<Item = &'a str>, full: bool) -> Short {
        let mut counts = std::collections::BTreeMap::new();
        for cluster in ids.filter_map(cluster_of) {
            *counts.entry(cluster).or_insert(0_usize) += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        Short { cluster: most.filter(|_| !full).map(|(cluster, _)| cluster.to_owned()) }
    }

    /// `S0`; an id of another cluster, or of none, whole.
    pub(crate) fn id(&self, id: &str) -> String {
        let own = self.cluster.as_deref().and_then(|cluster| id.strip_prefix(cluster)?.strip_prefix('-'));
        own.unwrap_or(id).to_owned()
    }

    /// What every id that is short begins with, for the end of a table's heading.
    pub(crate) fn heading(&self) -> String {
        self.cluster.as_ref().map_or_else(String::new, |cluster| format!("[ids: {cluster}-ID]"))
    }
}

/// The cluster of an id on the wire: what stands before its last dash, if that is a UUID.
pub(crate) fn cluster_of(id: &str) -> Option<&str> {
    let (cluster, rest) = id.rsplit_once('-')?;
    let dashes = [8, 13, 18, 23];
    let is_uuid = cluster.len() == 36
        && cluster.bytes().enumerate().all(|(at, byte)| match byte {
            b'-' => dashes.contains(&at),
            _ => byte.is_ascii_hexdigit(),
        });
    (is_uuid && !rest.is_empty()).then_some(cluster)
}

/// Whether people who wrote `wanted` mean this id: whole, or without its cluster.
pub(crate) fn is(wanted: &str, id: &str) -> bool {
    wanted == id || cluster_of(id).is_some_and(|cluster| id[cluster.len() + 1..] == *wanted)
}

/// A text field of a JSON object; empty if it is none.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_within_their_cluster() {
        const C: &str = "406fbaac-1d9f-4e32-a562-d48f86141d3c";
        let (agent, framework) = (format!("{C}-S0"), format!("{C}-0010"));
        let other = "506fbaac-1d9f-4e32-a562-d48f86141d3c-S7";
        let short = Short::of([agent.as_str(), other, framework.as_str(), "mine"].into_iter(), false);
        assert_eq!([short.id(&agent), short.id(&framework), short.id(other)], ["S0", "0010", other]);
        assert_eq!(short.heading(), format!("[ids: {C}-ID]"));
        assert!(is("S0", &agent) && is(&agent, &agent) && is("0010", &framework));
        assert!(!is("0", &agent) && !is("10", &framework) && !is("", &agent));
        assert_eq!(Short::of([agent.as_str()].into_iter(), true).id(&agent), agent);
        assert_eq!(cluster_of("a-b"), None);
    }
}
