//! Profiles: names that operators give to kinds of disks, and what they mean to plugins. They come as one JSON object, from a file or
//! over HTTP. What a name means stays so: a set in which one means something else is not taken at all.
//!
//! ```json
//! {"profile_matrix": {"fast": {"csi_plugin_type_selector": {"plugin_type": "org.example.p"},
//!   "volume_capabilities": {"mount": {}, "access_mode": {"mode": "SINGLE_NODE_WRITER"}}, "create_parameters": {"kind": "ssd"}}}}
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use api::v1::ResourceProviderInfo;
use api::v1::volume::source::csi_volume::VolumeCapability;
use api::v1::volume::source::csi_volume::volume_capability::AccessType;
use api::v1::volume::source::csi_volume::volume_capability::access_mode::Mode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use crate::kept::as_json;

/// What is fetched has no more bytes.
const BYTES_MAX: usize = 4 << 20;
/// Nothing comes for so long: nobody is there.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pauses before what failed is tried again, when nothing was ever read.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// So much the specification lets flags be together.
const MOUNT_FLAGS_BYTES_MAX: usize = 4096;

/// What a name means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Profile {
    /// How a volume is to be had.
    #[serde(with = "as_json")]
    pub(crate) capability: VolumeCapability,
    /// What its plugin is told when it is made.
    pub(crate) parameters: BTreeMap<String, String>,
}

impl Profile {
    pub(crate) fn is_mount(&self) -> bool {
        matches!(self.capability.access_type, Some(AccessType::Mount(_)))
    }
}

/// Whom a profile is for.
#[derive(Clone, Debug, PartialEq)]
enum Selector {
    /// Providers of these types and names.
    Providers(Vec<(String, String)>),
    /// Those of a type of plugin.
    Plugin(String),
}

/// Profiles that there are.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Matrix(BTreeMap<String, (Selector, Profile)>);

#[derive(Deserialize)]
struct Written {
    #[serde(default, alias = "profileMatrix")]
    profile_matrix: BTreeMap<String, Manifest>,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default, alias = "resourceProviderSelector")]
    resource_provider_selector: Option<OfProviders>,
    #[serde(default, alias = "csiPluginTypeSelector")]
    csi_plugin_type_selector: Option<OfPlugin>,
    #[serde(alias = "volumeCapabilities")]
    volume_capabilities: Option<Value>,
    #[serde(default, alias = "createParameters")]
    create_parameters: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct OfProviders {
    #[serde(default, alias = "resourceProviders")]
    resource_providers: Vec<OfProvider>,
}

#[derive(Deserialize)]
struct OfProvider {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct OfPlugin {
    #[serde(default, alias = "pluginType")]
    plugin_type: String,
}

impl Matrix {
    /// The error is a sentence.
    fn read(text: &[u8]) -> Result<Matrix, String> {
        let written: Written =
            serde_json::from_slice(text).map_err(|error| format!("it is no set of profiles: {error}"))?;
        let all = written.profile_matrix.into_iter().map(|(name, manifest)| {
            let wrong = |why: String| format!("Profile '{name}' {why}");
            Ok((name.clone(), read(manifest).map_err(wrong)?))
        });
        all.collect::<Result<_, String>>().map(Matrix)
    }

    /// Those for one provider.
    pub(crate) fn of(&self, info: &ResourceProviderInfo) -> BTreeMap<String, Profile> {
        let plugin = info.storage.as_ref().map(|storage| storage.plugin.r#type.as_str());
        let is_for = |selector: &Selector| match selector {
            Selector::Providers(all) => all.iter().any(|(kind, name)| *kind == info.r#type && *name == info.name),
            Selector::Plugin(kind) => plugin == Some(kind.as_str()),
        };
        let selected = self.0.iter().filter(|(_, (selector, _))| is_for(selector));
        selected.map(|(name, (_, profile))| (name.clone(), profile.clone())).collect()
    }
}

fn read(manifest: Manifest) -> Result<(Selector, Profile), String> {
    let selector = match (manifest.resource_provider_selector, manifest.csi_plugin_type_selector) {
        (None, None) => return Err("has no valid selector: Expecting a selector to be present".to_owned()),
        (Some(_), Some(_)) => return Err("has no valid selector: there are two".to_owned()),
        (Some(of), None) => {
            let missing = |field: &str| {
                format!("has no valid selector: '{field}' is a required field for ResourceProviderSelector")
            };
            let all = of.resource_providers.into_iter().map(|one| match one {
                one if one.r#type.is_empty() => Err(missing("type")),
                one if one.name.is_empty() => Err(missing("name")),
                one => Ok((one.r#type, one.name)),
            });
            Selector::Providers(all.collect::<Result<_, _>>()?)
        }
        (None, Some(of)) if of.plugin_type.is_empty() => {
            return Err("has no valid selector: 'plugin_type' is a required field for CSIPluginTypeSelector".to_owned());
        }
        (None, Some(of)) => Selector::Plugin(of.plugin_type),
    };
    let capability = manifest.volume_capabilities.ok_or("is missing the required field 'volume_capabilities'")?;
    let invalid = |why: &str| format!("has an invalid VolumeCapability: {why}");
    let mode = capability.get("access_mode").or_else(|| capability.get("accessMode"));
    let mode = mode.ok_or_else(|| invalid("'access_mode' is a required field"))?;
    if mode.get("mode").is_none() {
        return Err(invalid("'access_mode.mode' is unknown or not set"));
    }
    let capability: VolumeCapability =
        api::json::from_value(&snake_case(&capability)).map_err(|error| invalid(&error.to_string()))?;
    if capability.access_mode.mode() == Mode::Unknown {
        return Err(invalid("'access_mode.mode' is unknown or not set"));
    }
    match &capability.access_type {
        Some(AccessType::Mount(mount)) => {
            let bytes: usize = mount.mount_flags.iter().map(String::len).sum();
            if bytes > MOUNT_FLAGS_BYTES_MAX {
                return Err(invalid("Size of 'mount_flags' may not exceed 4 KB"));
            }
        }
        Some(AccessType::Block(_)) => {}
        None => return Err(invalid("it has neither 'mount' nor 'block'")),
    }
    Ok((selector, Profile { capability, parameters: manifest.create_parameters }))
}

/// Names as `.proto` files have them: JSON of protobuf may write them in two ways.
fn snake_case(value: &Value) -> Value {
    let Value::Object(fields) = value else { return value.clone() };
    let name = |name: &str| {
        name.chars().fold(String::new(), |mut all, c| {
            if c.is_ascii_uppercase() {
                all.push('_');
            }
            all.push(c.to_ascii_lowercase());
            all
        })
    };
    fields.iter().map(|(key, value)| (name(key), snake_case(value))).collect()
}

/// Where profiles are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    uri: String,
    every: Option<Duration>,
    wait_max: Duration,
}

impl Source {
    /// `file:///PATH`, `/PATH`, `http://...` or `https://...`; read again as often as `every` says, or once. Who hears of it hears of it
    /// within `wait_max`.
    ///
    /// # Errors
    /// A sentence without a subject.
    pub fn new(uri: &str, every: Option<Duration>, wait_max: Duration) -> Result<Source, String> {
        let path = uri.strip_prefix("file://").unwrap_or(uri);
        if !is_web(uri) {
            if path.contains("://") {
                return Err("must use a supported scheme (file or http(s))".to_owned());
            }
            if !path.starts_with('/') {
                return Err("to a file must be an absolute path".to_owned());
            }
        }
        Ok(Source { uri: path.to_owned(), every, wait_max })
    }

    async fn fetch(&self) -> Result<Matrix, String> {
        let text = match is_web(&self.uri) {
            true => get(&self.uri).await?,
            false => tokio::fs::read(&self.uri).await.map_err(|error| error.to_string())?,
        };
        Matrix::read(&text)
    }
}

fn is_web(uri: &str) -> bool {
    uri.starts_with("http://") || uri.starts_with("https://")
}

async fn get(uri: &str) -> Result<Vec<u8>, String> {
    let answer = agent_web::get(uri, agent_web::Trust::Machine, Some(PATIENCE)).await;
    let mut answer = answer.map_err(|error| error.to_string())?;
    if answer.status != 200 {
        return Err(format!("Unexpected HTTP response '{}'", answer.status));
    }
    let mut text = Vec::new();
    while let Some(bytes) = answer.next().await.map_err(|error| error.to_string())? {
        text.extend_from_slice(&bytes);
        if text.len() > BYTES_MAX {
            return Err(format!("it has more than {BYTES_MAX} bytes"));
        }
    }
    Ok(text)
}

/// Tells of profiles for as long as somebody listens; of none until some were read.
pub(crate) async fn follow(source: Source, told: watch::Sender<Option<Matrix>>) {
    // What a name meant when it was read first.
    let mut meant: BTreeMap<String, Profile> = BTreeMap::new();
    let mut retry = RETRY_MIN;
    loop {
        match source.fetch().await {
            Err(why) => tracing::error!(why, uri = source.uri, "cannot read profiles of disks"),
            Ok(matrix) => match other(&meant, &matrix) {
                Some(name) => tracing::error!(
                    profile = name,
                    uri = source.uri,
                    "a profile of disks is not what it was: none of what was read is used"
                ),
                None => {
                    meant.extend(matrix.0.iter().map(|(name, (_, profile))| (name.clone(), profile.clone())));
                    if told.borrow().as_ref() != Some(&matrix) {
                        tokio::time::sleep(source.wait_max.mul_f64(part())).await;
                        tracing::info!(profiles = matrix.0.len(), "profiles of disks");
                        told.send_replace(Some(matrix));
                    }
                }
            },
        }
        let has_some = told.borrow().is_some();
        let pause = match (source.every, has_some) {
            (Some(every), true) => every,
            (Some(every), false) => every.min(retry),
            (None, true) => return told.closed().await,
            (None, false) => retry,
        };
        retry = (2 * retry).min(RETRY_MAX);
        tokio::select! {
            () = told.closed() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// A profile that means something else than before.
fn other<'a>(meant: &BTreeMap<String, Profile>, matrix: &'a Matrix) -> Option<&'a String> {
    let changed = |name: &str, profile: &Profile| meant.get(name).is_some_and(|before| before != profile);
    matrix.0.iter().find(|(name, (_, profile))| changed(name, profile)).map(|(name, _)| name)
}

/// At random, of 1.
fn part() -> f64 {
    f64::from(u32::from_le_bytes(*uuid::Uuid::new_v4().as_bytes().first_chunk().unwrap_or(&[0; 4])))
        / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(more: &str) -> String {
        format!(
            r#"{{"profile_matrix": {{"fast": {{"csi_plugin_type_selector": {{"plugin_type": "org.p"}},
                "volume_capabilities": {{"mount": {{}}, "access_mode": {{"mode": "SINGLE_NODE_WRITER"}}}},
                "create_parameters": {{"kind": "ssd"}}}}{more}}}}}"#
        )
    }

    fn provider(name: &str, plugin: &str) -> ResourceProviderInfo {
        let text = format!(r#"{{"type": "t", "name": "{name}", "storage": {{"plugin": {{"type": "{plugin}"}}}}}}"#);
        api::json::from_slice(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_profile_is_for_those_that_are_selected() {
        let other = r#", "slow": {"resourceProviderSelector": {"resourceProviders": [{"type": "t", "name": "b"}]},
            "volumeCapabilities": {"block": {}, "accessMode": {"mode": "MULTI_NODE_MULTI_WRITER"}}, "unknown": 1}"#;
        let read = Matrix::read(matrix(other).as_bytes()).unwrap();
        let names = |info| read.of(&info).into_keys().collect::<Vec<_>>();
        assert_eq!(names(provider("a", "org.p")), ["fast"]);
        assert_eq!(names(provider("b", "org.p")), ["fast", "slow"]);
        assert_eq!(names(provider("b", "org.q")), ["slow"]);
        let fast = read.of(&provider("a", "org.p")).remove("fast").unwrap();
        assert!(fast.is_mount());
        let written = serde_json::to_string(&fast).unwrap();
        assert_eq!(serde_json::from_str::<Profile>(&written).unwrap(), fast);
        assert_eq!(Matrix::read(b"{}").unwrap(), Matrix::default());
    }

    #[test]
    fn what_is_no_profile_is_said() {
        for (from, to, why) in [
            ("csi_plugin_type_selector", "x", "Expecting a selector to be present"),
            ("org.p", "", "'plugin_type' is a required field"),
            ("volume_capabilities", "x", "missing the required field 'volume_capabilities'"),
            ("access_mode", "x", "'access_mode' is a required field"),
            ("SINGLE_NODE_WRITER", "UNKNOWN", "'access_mode.mode' is unknown or not set"),
            ("\"mount\"", "\"x\"", "neither 'mount' nor 'block'"),
            ("{\"profile_matrix\"", "[", "is no set of profiles"),
        ] {
            let told = Matrix::read(matrix("").replace(from, to).as_bytes()).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
        for (uri, why) in [("ftp://x/y", "supported scheme"), ("x/y", "absolute path"), ("file://x", "absolute path")] {
            assert!(Source::new(uri, None, Duration::ZERO).unwrap_err().contains(why));
        }
    }

    #[tokio::test]
    async fn a_file_is_read_again_and_what_a_name_means_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("profiles.json");
        std::fs::write(&file, matrix("")).unwrap();
        let uri = format!("file://{}", file.display());
        let source = Source::new(&uri, Some(Duration::from_millis(5)), Duration::ZERO).unwrap();
        let (told, mut heard) = watch::channel(None);
        tokio::spawn(follow(source, told));
        let has = |count| move |matrix: &Option<Matrix>| matrix.as_ref().is_some_and(|all| all.0.len() == count);
        heard.wait_for(has(1)).await.unwrap();
        let second = matrix("").replace("fast", "slow");
        let both = matrix(&format!(", {}", &second[second.find("\"slow").unwrap()..second.len() - 2]));
        let write = |text: &str| {
            let draft = file.with_extension("draft");
            std::fs::write(&draft, text).unwrap();
            std::fs::rename(&draft, &file).unwrap();
        };
        write(&both);
        heard.wait_for(has(2)).await.unwrap();
        // One that means something else: none of it is taken, until it means what it did.
        write(&matrix("").replace("ssd", "disk"));
        write(&matrix(""));
        let last = heard.wait_for(has(1)).await.unwrap().clone().unwrap();
        assert_eq!(last, Matrix::read(matrix("").as_bytes()).unwrap());
    }
}
