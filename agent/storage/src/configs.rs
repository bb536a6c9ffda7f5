//! Which providers there are to be: a file of a folder for each, JSON, a `ResourceProviderInfo`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use api::resources::Resource;
use api::v1::csi_plugin_container_info::Service;
use api::v1::{CsiPluginInfo, ResourceProviderInfo};

/// The one type that there is.
pub const STORAGE: &str = "org.apache.mesos.rp.local.storage";
/// Where a file is written before it is moved to its place, within the folder.
const STAGING: &str = ".staging";
/// A file with more bytes is none.
const FILE_MAX: u64 = 1 << 20;

/// Type and name.
pub(crate) type Key = (String, String);

/// Those that are configured.
#[derive(Clone, Debug, Default)]
pub struct Configs {
    folder: PathBuf,
    known: BTreeMap<Key, (PathBuf, ResourceProviderInfo)>,
}

pub(crate) fn key(info: &ResourceProviderInfo) -> Key {
    (info.r#type.clone(), info.name.clone())
}

impl Configs {
    /// Those of a folder.
    ///
    /// # Errors
    /// A sentence, which names the file that is none.
    pub fn load(folder: &Path) -> Result<Configs, String> {
        let cannot = |error| format!("Cannot read --resource_provider_config_dir={}: {error}", folder.display());
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut files: Vec<PathBuf> = entries.map_err(cannot)?.into_iter().map(|entry| entry.path()).collect();
        files.retain(|path| !path.is_dir());
        files.sort();
        let mut configs = Configs { folder: folder.to_owned(), known: BTreeMap::new() };
        for path in files {
            let wrong = |why: String| {
                format!("{} in --resource_provider_config_dir is no resource provider: {why}", path.display())
            };
            let info = read(&path).map_err(wrong)?;
            if let Some((other, _)) = configs.known.get(&key(&info)) {
                return Err(wrong(format!(
                    "'{}' has the same type '{}' and name '{}'",
                    other.display(),
                    info.r#type,
                    info.name
                )));
            }
            configs.known.insert(key(&info), (path, info));
        }
        Ok(configs)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &ResourceProviderInfo> {
        self.known.values().map(|(_, info)| info)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&ResourceProviderInfo> {
        self.known.get(key).map(|(_, info)| info)
    }

    /// Written down when this returns: a new one, or another one in its place. Blocks.
    pub(crate) fn put(&mut self, info: &ResourceProviderInfo) -> Result<(), String> {
        let path = match self.known.get(&key(info)) {
            Some((path, _)) => path.clone(),
            None => self.free(info),
        };
        let cannot = |error| format!("Failed to write config file '{}': {error}", path.display());
        self.write(&path, info).map_err(cannot)?;
        self.known.insert(key(info), (path, info.clone()));
        Ok(())
    }

    /// Its file is gone when this returns. Blocks.
    pub(crate) fn remove(&mut self, key: &Key) -> Result<(), String> {
        let Some((path, _)) = self.known.get(key) else { return Ok(()) };
        let removed = match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::open(&self.folder).and_then(|folder| folder.sync_all()),
        };
        removed.map_err(|error| format!("Failed to remove config file '{}': {error}", path.display()))?;
        self.known.remove(key);
        Ok(())
    }

    /// A name that no file has.
    fn free(&self, info: &ResourceProviderInfo) -> PathBuf {
        let name = |n: usize| match n {
            0 => format!("{}.{}.json", info.r#type, info.name),
            n => format!("{}.{}.{n}.json", info.r#type, info.name),
        };
        let mut paths = (0..).map(|n| self.folder.join(name(n)));
        paths.find(|path| fs::symlink_metadata(path).is_err()).unwrap_or_else(|| self.folder.join(name(0)))
    }

    fn write(&self, path: &Path, info: &ResourceProviderInfo) -> io::Result<()> {
        let staging = self.folder.join(STAGING);
        fs::create_dir_all(&staging)?;
        let draft = staging.join(path.file_name().unwrap_or_default());
        let written = File::create(&draft).and_then(|mut file| {
            file.write_all(&api::json::to_vec(info))?;
            file.sync_all()
        });
        let moved = written.and_then(|()| fs::rename(&draft, path));
        if moved.is_err() {
            let _ = fs::remove_file(&draft);
        }
        moved?;
        File::open(&self.folder)?.sync_all()
    }
}

fn read(path: &Path) -> Result<ResourceProviderInfo, String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > FILE_MAX {
        return Err(format!("it has {size} bytes, more than {FILE_MAX}"));
    }
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let info: ResourceProviderInfo =
        api::json::from_slice(&text).map_err(|error| format!("it is no ResourceProviderInfo: {error}"))?;
    validate(&info)?;
    Ok(info)
}

/// Whether there can be such a provider.
///
/// # Errors
/// A sentence.
pub(crate) fn validate(info: &ResourceProviderInfo) -> Result<(), String> {
    if info.r#type != STORAGE {
        return Err(format!("Unknown local resource provider type '{}': there is {STORAGE}", info.r#type));
    }
    if info.id.is_some() {
        return Err("'ResourceProviderInfo.id' must not be set".to_owned());
    }
    if !is_name(&info.name) {
        return Err(format!(
            "Resource provider name '{}' does not follow Java package naming convention: letters, digits and _, up to {NAME_MAX}",
            info.name
        ));
    }
    let storage = info.storage.as_ref().ok_or("'ResourceProviderInfo.storage' must be set")?;
    let interval = storage.reconciliation_interval_seconds();
    if !interval.is_finite() || interval < 0.0 {
        return Err("'storage.reconciliation_interval_seconds' must be 0 or more".to_owned());
    }
    let like = api::v1::Resource {
        name: "disk".to_owned(),
        scalar: Some(api::v1::value::Scalar { value: 1.0 }),
        reservations: info.default_reservations.clone(),
        ..Default::default()
    };
    Resource::from_v1(&like).map_err(|error| format!("'default_reservations': {error}"))?;
    plugin(&storage.plugin)
}

const NAME_MAX: usize = 64;

/// An identifier, as Java has them.
fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && name.len() <= NAME_MAX && name.chars().all(is_plain)
}

fn plugin(info: &CsiPluginInfo) -> Result<(), String> {
    let (kind, name) = (&info.r#type, info.name());
    if kind.len() > 128 || !kind.split('.').all(is_name) || !is_name(name) {
        return Err(format!(
            "CSI plugin type '{kind}' and name '{name}' does not follow Java package naming convention"
        ));
    }
    if !info.containers.is_empty() && !info.endpoints.is_empty() {
        return Err(
            "'storage.plugin' has 'containers' and 'endpoints': either the agent runs it, or others do".to_owned()
        );
    }
    for service in [Service::NodeService, Service::ControllerService] {
        let runs = info.containers.iter().any(|one| one.services().any(|one| one == service));
        let is_there = info.endpoints.iter().any(|one| one.csi_service() == service);
        if !runs && !is_there {
            return Err(format!("{} not found", service.as_str_name()));
        }
    }
    info.endpoints.iter().try_for_each(|one| agent_csi::socket(&one.endpoint).map(drop))?;
    if let Some(one) = info.containers.iter().find(|one| one.command.is_none() && one.container.is_none()) {
        return Err(format!("a container of 'storage.plugin' with {} has no 'command'", services(one)));
    }
    match &info.target_path_root {
        Some(root) if !root.starts_with('/') => Err("'target_path_root' is no absolute path".to_owned()),
        _ => Ok(()),
    }
}

/// The names of a container's services.
pub(crate) fn services(info: &api::v1::CsiPluginContainerInfo) -> String {
    info.services().map(|one| one.as_str_name()).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(text: &str) -> ResourceProviderInfo {
        api::json::from_slice(text.as_bytes()).unwrap()
    }

    fn good(name: &str) -> String {
        format!(
            r#"{{"type": "{STORAGE}", "name": "{name}", "storage": {{"plugin": {{"type": "org.p", "name": "x", "endpoints": [
                {{"csi_service": "NODE_SERVICE", "endpoint": "unix:///run/p"}}, {{"csi_service": "CONTROLLER_SERVICE", "endpoint": "/run/p"}}]}}}}}}"#
        )
    }

    #[test]
    fn a_folder_of_files_is_read_and_changed_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("first.json"), good("a")).unwrap();
        let mut configs = Configs::load(folder.path()).unwrap();
        let second = info(&good("b"));
        configs.put(&second).unwrap();
        let changed = info(&good("a").replace("/run/p", "/run/q"));
        configs.put(&changed).unwrap();
        let again = Configs::load(folder.path()).unwrap();
        assert_eq!(again.all().cloned().collect::<Vec<_>>(), [changed, second.clone()]);
        assert_eq!(fs::read_dir(folder.path().join(STAGING)).unwrap().count(), 0);
        configs.remove(&key(&second)).unwrap();
        configs.remove(&key(&second)).unwrap();
        assert_eq!(Configs::load(folder.path()).unwrap().all().count(), 1);
        fs::write(folder.path().join("twice.json"), good("a")).unwrap();
        let why = Configs::load(folder.path()).unwrap_err();
        assert!(why.contains("twice.json") && why.contains("first.json"), "{why}");
    }

    #[test]
    fn what_is_no_provider_is_said() {
        for (text, why) in [
            (good("a").replace(STORAGE, "org.x"), "Unknown local resource provider type 'org.x'"),
            (good("a").replacen('{', "{\"id\": {\"value\": \"i\"}, ", 1), "'ResourceProviderInfo.id' must not be set"),
            (good("a-b"), "Resource provider name 'a-b' does not follow"),
            (format!("{{\"type\": \"{STORAGE}\", \"name\": \"a\"}}"), "'ResourceProviderInfo.storage' must be set"),
            (good("a").replace("org.p", "org..p"), "CSI plugin type 'org..p'"),
            (good("a").replace("CONTROLLER", "NODE"), "CONTROLLER_SERVICE not found"),
            (good("a").replace("unix:///run", "tcp://run"), "is no Unix socket"),
            (
                good("a").replacen('{', "{\"default_reservations\": [{\"type\": \"DYNAMIC\"}], ", 1),
                "'default_reservations'",
            ),
        ] {
            let told = validate(&info(&text)).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("x.json"), "{").unwrap();
        let why = Configs::load(folder.path()).unwrap_err();
        assert!(why.contains("x.json") && why.contains("is no ResourceProviderInfo"), "{why}");
    }
}
