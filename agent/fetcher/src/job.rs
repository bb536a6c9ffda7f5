//! What is to be fetched, as the agent hands it over.

use std::collections::BTreeMap;
use std::path::PathBuf;

use api::v1::{CommandInfo, Labels};
use serde::{Deserialize, Serialize};

use crate::checksum::{self, Checksum};
use crate::source::base_name;

/// All that one container is to find in its sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Where it is to be found.
    pub sandbox: PathBuf,
    /// Whose it will be; empty for the agent's own user.
    pub user: String,
    /// Whose it will be, by numbers of user and group that no name of this machine has: nothing is kept for others then.
    #[serde(default)]
    pub ids: Option<(u32, u32)>,
    /// Folder of the cache.
    pub cache_dir: PathBuf,
    /// What the cache may hold; nothing is kept if 0.
    pub cache_bytes_max: u64,
    /// The longest time without any progress, in milliseconds; 0 for ever.
    pub stall_timeout_ms: u64,
    /// What may come out of one archive.
    pub unpacked_bytes_max: u64,
    /// Where relative paths begin; empty if they are not allowed.
    pub frameworks_home: String,
    /// Where the Hadoop client is; empty if it is looked for in PATH.
    pub hadoop_home: String,
    /// Given to the Hadoop client, and used to find certificate authorities.
    pub environment: BTreeMap<String, String>,
    /// In this order.
    pub items: Vec<Item>,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Where it comes from.
    pub uri: String,
    /// It is to be executed, and not unpacked.
    pub executable: bool,
    /// It is to be unpacked, if it is an archive.
    pub extract: bool,
    /// It may be kept for others of the same user.
    pub cache: bool,
    /// Where it goes, below the sandbox.
    pub output_file: String,
    /// What it must be.
    pub checksum: Option<Checksum>,
}

/// What a command brings along, checked. `labels` are those of its task or executor, which may say what a file must be.
///
/// # Errors
/// A sentence for the framework.
pub fn items(command: &CommandInfo, labels: Option<&Labels>) -> Result<Vec<Item>, String> {
    let mut checksums = checksum::of(labels)?;
    let mut items = Vec::with_capacity(command.uris.len());
    for uri in &command.uris {
        let value = uri.value.trim().to_owned();
        let output_file = match uri.output_file.as_deref().map(str::trim).filter(|name| !name.is_empty()) {
            Some(name) => below(name)?,
            None => base_name(&value)?,
        };
        if matches!(output_file.as_str(), "stdout" | "stderr") {
            return Err(format!("URI '{value}' would take the place of the task's own '{output_file}'"));
        }
        let checksum = checksums.get_mut(&value).map(|(checksum, is_used)| {
            *is_used = true;
            checksum.clone()
        });
        items.push(Item {
            executable: uri.executable(),
            extract: uri.extract(),
            cache: uri.cache(),
            uri: value,
            output_file,
            checksum,
        });
    }
    // One that names nothing would leave unchecked what somebody wants to be checked.
    match checksums.into_iter().find(|(_, (_, is_used))| !is_used) {
        Some((uri, _)) => Err(format!("The label '{}{uri}' names no URI of the command", api::checksums::LABEL)),
        None => Ok(items),
    }
}

/// A place below the sandbox, with the words that clients know for one that is not.
fn below(name: &str) -> Result<String, String> {
    use std::path::{Component, Path};
    let path = Path::new(name);
    let is_below = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if is_below && path.file_name().is_some() && !name.ends_with('/') && !name.contains('\0') {
        Ok(name.to_owned())
    } else {
        Err("URI output file must be within the sandbox directory".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::v1::{Label, command_info::Uri};

    fn check(uri: &str, output_file: Option<&str>, labels: &[(&str, &str)]) -> Result<String, String> {
        let uri = Uri { value: uri.to_owned(), output_file: output_file.map(str::to_owned), ..Uri::default() };
        let command = CommandInfo { uris: vec![uri], ..CommandInfo::default() };
        let label = |(key, value): &(&str, &str)| Label { key: (*key).to_owned(), value: Some((*value).to_owned()) };
        let labels = Labels { labels: labels.iter().map(label).collect() };
        items(&command, Some(&labels)).map(|items| {
            let item = items.into_iter().next().unwrap();
            assert!(item.extract && !item.executable && !item.cache);
            format!("{}{}", item.output_file, if item.checksum.is_some() { " checked" } else { "" })
        })
    }

    #[test]
    fn where_files_go() {
        assert_eq!(check(" http://a/b.tgz ", None, &[]).unwrap(), "b.tgz");
        assert_eq!(check("/x/y", Some("deep/er/z"), &[]).unwrap(), "deep/er/z");
        let out = "URI output file must be within the sandbox directory";
        for name in ["/tmp/x", "../x", "a/../../x", "a/..", ".", "a/"] {
            assert_eq!(check("/x/y", Some(name), &[]).unwrap_err(), out, "{name}");
        }
        assert_eq!(
            check("/x/stderr", None, &[]).unwrap_err(),
            "URI '/x/stderr' would take the place of the task's own 'stderr'"
        );
    }

    #[test]
    fn labels_say_what_files_must_be() {
        let digest = format!("sha256:{}", "0".repeat(64));
        assert_eq!(check("/x/y", None, &[("meseta.checksum:/x/y", &digest), ("a", "b")]).unwrap(), "y checked");
        assert_eq!(
            check("/x/y", None, &[("meseta.checksum:/x/z", &digest)]).unwrap_err(),
            "The label 'meseta.checksum:/x/z' names no URI of the command"
        );
        assert_eq!(
            check("/x/y", None, &[("meseta.checksum:/x/y", "md5:00")]).unwrap_err(),
            "The label 'meseta.checksum:/x/y' has no checksum of the form sha256:HEX or sha512:HEX"
        );
    }
}
