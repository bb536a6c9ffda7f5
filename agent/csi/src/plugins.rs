//! Which plugins there are: a file of a folder for each, JSON, a `CSIPluginInfo`. They are read whenever one is needed, so that what is
//! configured meanwhile is there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use api::v1::CsiPluginInfo;
use api::v1::csi_plugin_container_info::Service;

/// A file with more bytes is none.
const FILE_MAX: u64 = 1 << 20;

/// A plugin that somebody else runs, and that serves this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// As volumes name it.
    pub kind: String,
    /// Distinguishes several.
    pub name: String,
    /// Its socket.
    pub socket: PathBuf,
    /// Where its volumes are to be found, if it is not below the agent's `work_dir`.
    pub root: Option<PathBuf>,
    /// It finds the folder that it mounts on, and does not make it.
    pub target_exists: bool,
    /// The socket of its controller, if that is asked to let this machine have volumes.
    pub controller: Option<PathBuf>,
}

/// Where plugins are told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plugins {
    /// In a folder, a file for each.
    Folder(PathBuf),
    /// There is this one.
    One(Box<Plugin>),
}

impl Default for Plugins {
    fn default() -> Plugins {
        Plugins::Folder(PathBuf::new())
    }
}

/// Those of a folder, by what volumes name them; and for each file that is none a sentence.
///
/// # Errors
/// The folder cannot be read: a sentence.
pub fn load(folder: &Path) -> Result<(BTreeMap<String, Plugin>, Vec<String>), String> {
    let cannot = |error| format!("Cannot read --csi_plugin_config_dir={}: {error}", folder.display());
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let mut files: Vec<PathBuf> = entries.map_err(cannot)?.into_iter().map(|entry| entry.path()).collect();
    files.retain(|path| !path.is_dir());
    files.sort();
    let (mut found, mut wrong) = (BTreeMap::new(), Vec::new());
    for path in files {
        match read(&path) {
            Ok(plugin) if found.contains_key(&plugin.kind) => {
                wrong.push(format!("{}: there is another plugin of type '{}'", path.display(), plugin.kind));
            }
            Ok(plugin) => drop(found.insert(plugin.kind.clone(), plugin)),
            Err(why) => wrong.push(format!("{}: {why}", path.display())),
        }
    }
    Ok((found, wrong))
}

fn read(path: &Path) -> Result<Plugin, String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > FILE_MAX {
        return Err(format!("it has {size} bytes, more than {FILE_MAX}"));
    }
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let info: CsiPluginInfo = api::json::from_slice(&text).map_err(|error| format!("is no CSIPluginInfo: {error}"))?;
    if !info.containers.is_empty() {
        return Err("'containers': plugins that the agent runs itself are not built; run it, and give its 'endpoints'"
            .to_owned());
    }
    // They become names of folders.
    let (kind, name) = (info.r#type.clone(), info.name().to_owned());
    for (field, value) in [("type", &kind), ("name", &name)] {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        if value.is_empty() || value.len() > 128 || value.starts_with('.') || !value.chars().all(is_plain) {
            return Err(format!("'{field}' must be up to 128 letters, digits and .-_, and not begin with a dot"));
        }
    }
    let node = info.endpoints.iter().find(|one| one.csi_service() == Service::NodeService);
    let node = node.ok_or("'endpoints' has none of NODE_SERVICE")?;
    if info.endpoints.iter().any(|one| one.csi_service() == Service::ControllerService) {
        tracing::warn!(plugin = kind, "the endpoint of CONTROLLER_SERVICE is not used: volumes are made by others");
    }
    let socket = socket(&node.endpoint)?;
    let root = info.target_path_root.as_ref().map(PathBuf::from);
    if root.as_ref().is_some_and(|root| !root.is_absolute()) {
        return Err("'target_path_root' is no absolute path".to_owned());
    }
    Ok(Plugin { kind, name, socket, root, target_exists: info.target_path_exists(), controller: None })
}

/// The path of an endpoint.
///
/// # Errors
/// A sentence: it is no socket of this machine.
pub fn socket(endpoint: &str) -> Result<PathBuf, String> {
    let path = endpoint.strip_prefix("unix:").unwrap_or(endpoint);
    let path = path.strip_prefix("//").unwrap_or(path);
    match path.starts_with('/') {
        true => Ok(PathBuf::from(path)),
        false => Err(format!("the endpoint '{endpoint}' is no Unix socket: unix:///PATH, or /PATH")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_plugin_is_told_and_the_others_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let with = |more: &str| {
            format!(
                r#"{{"type": "p{more}", "endpoints": [{{"csi_service": "NODE_SERVICE", "endpoint": "/run/p.sock"}}]}}"#
            )
        };
        write("a", &with(""));
        write("b", &with("2").replace("/run", "unix:///run"));
        fs::create_dir(folder.path().join("folder")).unwrap();
        let wrong = [
            ("c", with(""), "another plugin of type 'p'"),
            ("d", "{".to_owned(), "is no CSIPluginInfo"),
            ("e", with("/.."), "'type' must be"),
            ("f", with("3").replace("/run", "tcp://run"), "is no Unix socket"),
            ("g", with("4").replace("NODE", "CONTROLLER"), "none of NODE_SERVICE"),
            ("h", r#"{"type": "m", "containers": [{"services": ["NODE_SERVICE"]}]}"#.to_owned(), "are not built"),
            ("i", with("5").replace("{\"type", "{\"target_path_root\": \"x\", \"type"), "no absolute path"),
        ];
        wrong.iter().for_each(|(name, text, _)| write(name, text));
        let (found, told) = load(folder.path()).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["p", "p2"]);
        assert_eq!(found["p2"].socket, Path::new("/run/p.sock"));
        assert_eq!((found["p"].name.as_str(), told.len()), ("default", wrong.len()), "{told:?}");
        for ((_, _, why), told) in wrong.iter().zip(&told) {
            assert!(told.contains(why), "{told}");
        }
        assert!(load(Path::new("/none")).unwrap_err().contains("--csi_plugin_config_dir"));
    }
}
