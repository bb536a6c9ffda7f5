//! What registries say about images: of Docker (version 2, schema 2) and of OCI, for one platform or for several.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Largest manifest and largest configuration, in bytes.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 4 << 20;
pub(crate) const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// Layers of one image.
pub(crate) const LAYERS_MAX: usize = 127;

/// What may be answered, as `Accept` has it.
pub(crate) const ACCEPTED: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json";

/// Something that a manifest refers to.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    digest: String,
    /// In bytes.
    #[serde(default)]
    pub(crate) size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: std::collections::BTreeMap<String, String>,
}

impl Descriptor {
    pub(crate) fn digest(&self) -> Result<Digest, String> {
        Digest::parse(&self.digest)
    }
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: u64,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

/// What a manifest is of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Manifest {
    /// Of one image.
    One { config: Descriptor, layers: Vec<Descriptor> },
    /// Of several: for each platform one.
    List(Vec<Descriptor>),
}

impl Manifest {
    /// Reads one. The error is a sentence.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Manifest, String> {
        let raw: Raw =
            serde_json::from_slice(bytes).map_err(|error| format!("its manifest cannot be read: {error}"))?;
        match raw.schema_version {
            2 => {}
            1 => {
                return Err(
                    "its manifest is of schema 1, which Docker gave up: push it again, and it has schema 2".to_owned()
                );
            }
            other => return Err(format!("its manifest is of schema {other}, which is not known here")),
        }
        if let Some(manifests) = raw.manifests {
            return Ok(Manifest::List(manifests));
        }
        let (Some(config), Some(layers)) = (raw.config, raw.layers) else {
            return Err("its manifest names neither layers nor other manifests".to_owned());
        };
        if layers.is_empty() || layers.len() > LAYERS_MAX {
            return Err(format!("it has {} layers, and images have 1 to {LAYERS_MAX}", layers.len()));
        }
        let is_config = ["application/vnd.docker.container.image.v1+json", "application/vnd.oci.image.config.v1+json"]
            .contains(&config.media_type.as_str());
        if !is_config {
            let shown = api::limits::quoted(&config.media_type).into_owned();
            return Err(format!("it is no image of a container: its configuration is '{shown}'"));
        }
        if let Some(layer) = layers.iter().find(|layer| !is_layer(&layer.media_type)) {
            let shown = api::limits::quoted(&layer.media_type).into_owned();
            return Err(format!("it has a layer of a kind that is not read here: '{shown}'"));
        }
        Ok(Manifest::One { config, layers })
    }
}

fn is_layer(media_type: &str) -> bool {
    const KINDS: [&str; 4] = [
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.oci.image.layer.v1.tar",
    ];
    KINDS.contains(&media_type)
        || ["application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.layer.v1.tar+zstd"]
            .contains(&media_type)
}

/// This machine, as images call it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The one of several that is for this machine. The error is a sentence.
pub(crate) fn for_machine(manifests: &[Descriptor]) -> Result<&Descriptor, String> {
    let is_it = |one: &&Descriptor| match &one.platform {
        Some(platform) => platform.os == "linux" && platform.architecture == architecture(),
        None => manifests.len() == 1,
    };
    manifests.iter().find(is_it).ok_or_else(|| {
        let named = manifests.iter().filter_map(|one| one.platform.as_ref()).filter(|one| one.os != "unknown");
        let named: Vec<String> = named.take(20).map(|one| format!("{}/{}", one.os, one.architecture)).collect();
        let named = api::limits::quoted(&named.join(", ")).into_owned();
        format!("there is none for linux/{} among its platforms: {named}", architecture())
    })
}

/// What an image says of itself.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Config {
    /// Kind of machine.
    #[serde(default)]
    pub architecture: String,
    /// System.
    #[serde(default)]
    pub os: String,
    /// What is to run in it.
    #[serde(default, deserialize_with = "or_default")]
    pub config: Process,
    #[serde(default)]
    rootfs: Rootfs,
}

/// What an image says of the process that runs in it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Process {
    /// The program, and arguments that are always there.
    #[serde(default, deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    /// More arguments, or the program and arguments.
    #[serde(default, deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// `NAME=value`
    #[serde(default, deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// Where it runs.
    #[serde(default, deserialize_with = "or_default")]
    pub working_dir: String,
    /// As whom.
    #[serde(default, deserialize_with = "or_default")]
    pub user: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
struct Rootfs {
    #[serde(default, deserialize_with = "or_default")]
    diff_ids: Vec<String>,
}

/// Programs write `null` for what is empty.
fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Config {
    /// Reads one. The error is a sentence.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Config, String> {
        let config: Config =
            serde_json::from_slice(bytes).map_err(|error| format!("its configuration cannot be read: {error}"))?;
        if !matches!(config.os.as_str(), "" | "linux") {
            return Err(format!("it is for {}, and this is linux", api::limits::quoted(&config.os)));
        }
        let process = &config.config;
        let texts = [&process.entrypoint, &process.cmd, &process.env].into_iter().flatten();
        if texts.chain([&process.working_dir, &process.user]).any(|text| text.contains('\0')) {
            return Err("its configuration has text with NUL, which no process can be given".to_owned());
        }
        Ok(config)
    }

    /// What its layers are once they are unpacked, the lowest first. The error is a sentence.
    pub(crate) fn layers(&self) -> Result<Vec<Digest>, String> {
        self.rootfs.diff_ids.iter().map(|one| Digest::parse(one)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(layer: &str, config: &str, version: u64) -> Result<Manifest, String> {
        let digest = Digest::of(b"x");
        Manifest::parse(
            format!(
                r#"{{"schemaVersion": {version}, "config": {{"mediaType": "{config}", "digest": "{digest}", "size": 1}},
                    "layers": [{{"mediaType": "{layer}", "digest": "{digest}", "size": 2}}]}}"#
            )
            .as_bytes(),
        )
    }

    #[test]
    fn manifests_of_images_alone_are_read() {
        let oci = ("application/vnd.oci.image.layer.v1.tar+zstd", "application/vnd.oci.image.config.v1+json");
        assert!(matches!(manifest(oci.0, oci.1, 2), Ok(Manifest::One { layers, .. }) if layers[0].size == 2));
        let says = |layer, config, version| manifest(layer, config, version).unwrap_err();
        assert!(says(oci.0, oci.1, 1).contains("of schema 1, which Docker gave up"));
        assert!(
            says(oci.0, "application/vnd.cncf.helm.config.v1+json", 2).starts_with("it is no image of a container")
        );
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        assert!(says(foreign, oci.1, 2).contains("of a kind that is not read here"));
        assert!(Manifest::parse(b"{\"schemaVersion\": 2}").unwrap_err().contains("neither layers nor"));
        assert!(Manifest::parse(b"<html>").unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn the_one_for_this_machine_is_taken() {
        let of = |os: &str, architecture: &str| Descriptor {
            media_type: String::new(),
            digest: Digest::of(architecture.as_bytes()).to_string(),
            size: 1,
            platform: Some(Platform { architecture: architecture.into(), os: os.into() }),
            annotations: Default::default(),
        };
        let all = [of("windows", architecture()), of("unknown", "unknown"), of("linux", architecture())];
        assert_eq!(for_machine(&all), Ok(&all[2]));
        let error = for_machine(&all[..2]).unwrap_err();
        assert!(error.ends_with(&format!("its platforms: windows/{}", architecture())), "{error}");
        let alone = [Descriptor { platform: None, ..of("", "") }];
        assert_eq!(for_machine(&alone), Ok(&alone[0]));
    }

    #[test]
    fn configurations_are_as_programs_write_them() {
        let config = Config::parse(
            br#"{"architecture": "amd64", "os": "linux", "config": {"Cmd": ["a"], "Entrypoint": null, "Env": ["A=b"], "WorkingDir": "/w",
                "User": "u", "Volumes": {"/v": {}}}, "rootfs": {"type": "layers", "diff_ids": null}, "history": []}"#,
        );
        let config = config.unwrap();
        assert_eq!((config.config.cmd, config.config.entrypoint.len()), (vec!["a".to_owned()], 0));
        assert_eq!(Config::parse(br#"{"config": null}"#).unwrap().config, Process::default());
        assert!(Config::parse(br#"{"os": "windows"}"#).unwrap_err().contains("for windows"));
        assert!(Config::parse(br#"{"config": {"Cmd": ["\u0000"]}}"#).unwrap_err().contains("NUL"));
    }
}
