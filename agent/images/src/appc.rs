//! Images of appc: archives (ACI) that are found by their name and labels below one place (simple discovery), each with a manifest and
//! the files of one layer, below those of the images that it depends on.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::future::Future;
use std::io::{self, BufReader, Read, Write};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use agent_fetcher::tape::{self, Broken, EntryType};
use agent_web::Trust;
use serde::Deserialize;
use serde_json::json;
use sha2::Sha512;

use crate::archive::{Section, packing};
use crate::digest::{Digest, Through};
use crate::manifest::{Config, LAYERS_MAX, MANIFEST_BYTES_MAX, architecture};
use crate::name::Name;
use crate::pull::{Blob, keep, layer};
use crate::store::{Image, Kept, Pins, Staging};

/// Longest name, longest part of a label, in bytes, and labels of one image.
const NAME_BYTES_MAX: usize = 255;
const LABEL_BYTES_MAX: usize = 128;
const LABELS_MAX: usize = 16;
/// What an image is known by begins so, and 128 digits follow.
const ID: &str = "sha512-";

/// Which image is meant: `NAME[,LABEL=VALUE]...[@sha512-DIGITS]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Appc {
    name: String,
    /// `version`, `os`, `arch` and others.
    labels: BTreeMap<String, String>,
    /// Which content exactly.
    id: Option<String>,
}

impl Appc {
    /// An image of this name and these labels, and of this id, if there is one.
    ///
    /// # Errors
    /// A sentence.
    pub fn new(
        name: &str,
        labels: impl IntoIterator<Item = (String, String)>,
        id: Option<&str>,
    ) -> Result<Appc, String> {
        let quoted = |text: &str| api::limits::quoted(text).escape_debug().to_string();
        if name.len() > NAME_BYTES_MAX || !is_identifier(name) {
            return Err(format!(
                "'{}' is no name of an image: it has small letters and digits, with one of -._~/ between them",
                quoted(name)
            ));
        }
        let labels: BTreeMap<String, String> = labels.into_iter().collect();
        if labels.len() > LABELS_MAX {
            return Err(format!("an image has at most {LABELS_MAX} labels"));
        }
        for (key, value) in &labels {
            let is_value = !value.is_empty()
                && !value.contains("..")
                && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._+~-".contains(&byte));
            if key.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX || !is_identifier(key) || !is_value {
                return Err(format!(
                    "'{}={}' is no label of an image: values have letters, digits and ._+~-",
                    quoted(key),
                    quoted(value)
                ));
            }
        }
        let is_id = |id: &str| {
            let digits = id.strip_prefix(ID).unwrap_or_default();
            digits.len() == 128 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        if let Some(id) = id.filter(|id| !is_id(id)) {
            return Err(format!("'{}' is no id of an image: {ID} and 128 small digits", quoted(id)));
        }
        Ok(Appc { name: name.to_owned(), labels, id: id.map(str::to_owned) })
    }

    /// As it is written.
    pub(crate) fn parse(text: &str) -> Result<Appc, String> {
        let (rest, id) = text.split_once('@').map_or((text, None), |(rest, id)| (rest, Some(id)));
        let mut parts = rest.split(',');
        let name = parts.next().unwrap_or_default();
        let labels = parts.map(|part| part.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())));
        let labels: Option<Vec<_>> = labels.collect();
        Appc::new(name, labels.ok_or_else(|| format!("'{text}' is no name of an image"))?, id)
    }

    /// With the labels that every image has: the latest one for this machine is meant where nothing is said.
    pub(crate) fn canonical(mut self) -> Appc {
        for (key, value) in [("version", "latest"), ("os", "linux"), ("arch", architecture())] {
            self.labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
        self
    }

    /// The name of its archive.
    fn file(&self) -> String {
        let label = |key: &str| self.labels.get(key).map_or("", String::as_str);
        format!("{}-{}-{}-{}.aci", self.name, label("version"), label("os"), label("arch"))
    }
}

impl fmt::Display for Appc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.labels.iter().try_for_each(|(key, value)| write!(f, ",{key}={value}"))?;
        self.id.iter().try_for_each(|id| write!(f, "@{id}"))
    }
}

/// Small letters and digits, with one of some others between them.
fn is_identifier(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut may_separate = false;
    let is_well = text.bytes().all(|byte| {
        let is_well = is_plain(byte) || (may_separate && b"-._~/".contains(&byte));
        may_separate = is_plain(byte);
        is_well
    });
    is_well && may_separate
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Manifest {
    ac_kind: String,
    name: String,
    labels: Vec<Pair>,
    app: Option<App>,
    dependencies: Vec<Dependency>,
    path_whitelist: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pair {
    name: String,
    value: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct App {
    exec: Vec<String>,
    user: String,
    working_directory: String,
    environment: Vec<Pair>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Dependency {
    image_name: String,
    #[serde(rename = "imageID")]
    image_id: String,
    labels: Vec<Pair>,
}

impl Manifest {
    /// Reads that of an image which was asked for as `asked`. The error is a sentence.
    fn parse(bytes: &[u8], asked: &Appc) -> Result<Manifest, String> {
        let read: Manifest =
            serde_json::from_slice(bytes).map_err(|error| format!("its manifest cannot be read: {error}"))?;
        let quoted = |text: &str| api::limits::quoted(text).escape_debug().to_string();
        if read.ac_kind != "ImageManifest" {
            return Err(format!("its manifest is of the kind '{}', and not ImageManifest", quoted(&read.ac_kind)));
        }
        if read.name != asked.name {
            return Err(format!("its manifest is that of '{}'", quoted(&read.name)));
        }
        // An archive may be called the latest one and have a version.
        let other = read.labels.iter().find(|label| {
            label.name != "version" && asked.labels.get(&label.name).is_some_and(|value| *value != label.value)
        });
        if let Some(Pair { name, value }) = other {
            return Err(format!("its manifest has the label {}={}", quoted(name), quoted(value)));
        }
        if !read.path_whitelist.is_empty() {
            return Err("its manifest has a pathWhitelist, which is not supported".to_owned());
        }
        Ok(read)
    }

    /// What runs in it, as an image of OCI says it.
    fn config(&self, layers: &[Digest]) -> Vec<u8> {
        let nothing = App::default();
        let app = self.app.as_ref().unwrap_or(&nothing);
        let (program, arguments) = app.exec.split_at(app.exec.len().min(1));
        let environment: Vec<String> =
            app.environment.iter().map(|one| format!("{}={}", one.name, one.value)).collect();
        let layers: Vec<String> = layers.iter().map(ToString::to_string).collect();
        let config = json!({
            "os": "linux",
            "config": {"Entrypoint": program, "Cmd": arguments, "Env": environment, "WorkingDir": app.working_directory, "User": app.user},
            "rootfs": {"type": "layers", "diff_ids": layers}
        });
        config.to_string().into_bytes()
    }
}

/// What is pulled for one image: its layers, the lowest first, and those that it is within.
struct Pulling {
    kept: Arc<Kept>,
    staging: Arc<Staging>,
    /// Below which its archives are.
    prefix: String,
    layers: Vec<Digest>,
    pins: Pins,
    above: Vec<Appc>,
    /// Archives so far.
    count: usize,
    left: Arc<AtomicU64>,
}

/// Pulls an image. The error is a sentence.
pub(crate) async fn pull(
    kept: Arc<Kept>,
    staging: Arc<Staging>,
    prefix: &str,
    name: Appc,
) -> Result<(Image, Pins), String> {
    let mut pulling = Pulling {
        staging,
        prefix: prefix.to_owned(),
        layers: Vec::new(),
        pins: Pins::new(kept.clone()),
        above: Vec::new(),
        count: 0,
        left: Arc::new(AtomicU64::new(kept.settings.bytes_max)),
        kept,
    };
    let manifest = pulling.one(name.clone()).await?;
    let Pulling { kept, layers, pins, .. } = pulling;
    let config = manifest.config(&layers);
    let process = Config::parse(&config)?.config;
    let image = Image { name: Name::Appc(name), config: process, layers };
    keep(kept, image.clone(), config).await?;
    Ok((image, pins))
}

impl Pulling {
    /// One of them, above those that it depends on.
    fn one(&mut self, name: Appc) -> Pin<Box<dyn Future<Output = Result<Manifest, String>> + Send + '_>> {
        Box::pin(async move {
            self.count += 1;
            if self.count > LAYERS_MAX {
                return Err(format!("it depends on more than {LAYERS_MAX} others"));
            }
            if self.above.contains(&name) {
                return Err(format!("'{name}' depends on itself"));
            }
            let section = self.fetch(&name).await?;
            let (bytes_max, looked, asked) = (self.kept.settings.bytes_max, section.clone(), name.clone());
            let look = move || look(&looked, &asked, bytes_max);
            let (manifest, digest) = tokio::task::spawn_blocking(look).await.map_err(|error| error.to_string())??;
            self.above.push(name);
            for dependency in &manifest.dependencies {
                let labels = dependency.labels.iter().map(|one| (one.name.clone(), one.value.clone()));
                let id = Some(dependency.image_id.as_str()).filter(|id| !id.is_empty());
                let below = Appc::new(&dependency.image_name, labels, id)?.canonical();
                let shown = below.to_string();
                self.one(below).await.map_err(|why| format!("'{shown}', which it depends on: {why}"))?;
            }
            self.above.pop();
            let (kept, staging) = (self.kept.clone(), self.staging.clone());
            let pins = layer(kept, staging, digest, Blob::Aci(section), self.left.clone()).await?;
            self.pins.extend(pins);
            // The same one twice hides all of its first time.
            self.layers.retain(|layer| *layer != digest);
            self.layers.push(digest);
            Ok(manifest)
        })
    }

    /// Its archive, here.
    async fn fetch(&self, name: &Appc) -> Result<Section, String> {
        let place = format!("{}{}", self.prefix, name.file());
        let bytes_max = self.kept.settings.bytes_max;
        let too_much = |size: u64| format!("'{place}' has {size} bytes, more than the {bytes_max} of --image_size_max");
        if place.starts_with('/') {
            let found = fs::metadata(&place).map_err(|error| format!("cannot read '{place}': {error}"))?;
            return match found.len() {
                _ if !found.is_file() => Err(format!("'{place}' is no file")),
                size if size > bytes_max => Err(too_much(size)),
                size => Ok(Section { path: PathBuf::from(place), position: 0, size, digest: None }),
            };
        }
        let path = self.staging.path().join(format!("{}.aci", self.count));
        let mut answer = agent_web::get(&place, Trust::Machine, self.kept.settings.patience)
            .await
            .map_err(|error| error.to_string())?;
        if answer.status != 200 {
            return Err(format!("'{place}' is answered with status {}", answer.status));
        }
        let write = |error: io::Error| format!("cannot write '{}': {error}", path.display());
        let mut file = File::create_new(&path).map_err(write)?;
        let mut size = 0;
        while let Some(piece) = answer.next().await.map_err(|error| error.to_string())? {
            size += piece.len() as u64;
            if size > bytes_max {
                return Err(too_much(size));
            }
            file.write_all(&piece).map_err(write)?;
        }
        Ok(Section { path, position: 0, size, digest: None })
    }
}

/// What an archive says of itself, and the digest of what comes out of it. Blocks. The error is a sentence.
fn look(section: &Section, asked: &Appc, bytes_max: u64) -> Result<(Manifest, Digest), String> {
    let broken = |error: io::Error| format!("cannot read its archive: {error}");
    let mut probe = File::open(&section.path).map_err(broken)?;
    let packing = packing(&mut probe).map_err(broken)?;
    let packed = BufReader::with_capacity(256 << 10, section.open().map_err(broken)?);
    let content = tape::unpacked(packing, packed).map_err(|error| error.to_string())?;
    let mut content = Through::new(Through::<_, Sha512>::of(content));
    let mut found: Option<Vec<u8>> = None;
    let done: Result<(), Broken> = tape::each(&mut content, bytes_max, |entry| {
        let is_it = matches!(entry.name.as_slice(), b"manifest" | b"./manifest" | b"/manifest");
        if is_it && entry.kind == EntryType::Regular {
            let mut bytes = Vec::new();
            let read = entry.content.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes);
            read.map_err(|error| Broken::Damaged(error.to_string()))?;
            if bytes.len() as u64 > MANIFEST_BYTES_MAX {
                return Err(Broken::Damaged(format!("its manifest has more than {MANIFEST_BYTES_MAX} bytes")));
            }
            found = Some(bytes);
        }
        Ok(())
    });
    done.map_err(|broken| match broken {
        Broken::Bytes(most) => format!("more than the {most} bytes of --image_size_max come out of its archive"),
        Broken::Damaged(why) => format!("its archive is damaged, or packed in a way that is not known here: {why}"),
    })?;
    // What is behind the archive's end is in what it is known by as well.
    let trailing = io::copy(&mut (&mut content).take(bytes_max), &mut io::sink()).map_err(broken)?;
    if trailing >= bytes_max {
        return Err(format!("more than the {bytes_max} bytes of --image_size_max come out of its archive"));
    }
    let (inner, digest) = content.digest_of();
    let id: String = inner.digits();
    if let Some(expected) = asked.id.as_ref().filter(|expected| expected.strip_prefix(ID) != Some(id.as_str())) {
        return Err(format!("its archive has the id {ID}{id}, and not {expected}"));
    }
    let bytes = found.ok_or("its archive has no manifest")?;
    Ok((Manifest::parse(&bytes, asked)?, digest))
}

/// Where an entry of an archive is in the root that it is the files of; none of what is beside that.
pub(crate) fn below_rootfs(name: &[u8]) -> Option<Vec<u8>> {
    let name = name.strip_prefix(b"./").or_else(|| name.strip_prefix(b"/")).unwrap_or(name);
    match name.strip_prefix(b"rootfs")? {
        b"" => Some(b"/".to_vec()),
        rest => rest.starts_with(b"/").then(|| rest.to_vec()),
    }
}

/// Whether a prefix is one that archives are found below. The error is a sentence.
pub(crate) fn check_prefix(prefix: &str) -> Result<(), String> {
    let is_known = ["/", "http://", "https://"].iter().any(|begin| prefix.starts_with(begin));
    let shown = api::limits::quoted(prefix).escape_debug().to_string();
    if is_known { Ok(()) } else { Err(format!("'{shown}' begins neither with / nor with http:// or https://")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Result<String, String> {
        Appc::parse(text).map(|name| name.canonical().file())
    }

    #[test]
    fn names_are_those_of_archives() {
        let machine = architecture();
        assert_eq!(named("example.com/app"), Ok(format!("example.com/app-latest-linux-{machine}.aci")));
        assert_eq!(named("a,version=1.0+x,os=o,arch=b,channel=c"), Ok("a-1.0+x-o-b.aci".to_owned()));
        let name = Appc::parse(&format!("a~b,version=2@sha512-{}", "0f".repeat(64))).unwrap();
        assert_eq!(Appc::parse(&name.to_string()), Ok(name));
        for (wrong, why) in [
            ("", "no name of an image"),
            ("../etc", "no name of an image"),
            ("a//b", "no name of an image"),
            ("A", "no name of an image"),
            ("a-", "no name of an image"),
            ("a,version=../x", "no label of an image"),
            ("a,version=", "no label of an image"),
            ("a,version", "no name of an image"),
            ("a@sha256-00", "no id of an image"),
        ] {
            assert!(named(wrong).unwrap_err().contains(why), "{wrong}: {:?}", named(wrong));
        }
    }

    #[test]
    fn manifests_are_of_what_was_asked_for() {
        let asked = Appc::parse("a").unwrap().canonical();
        let read = |text: &str| Manifest::parse(text.as_bytes(), &asked);
        let whole = r#"{"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "a", "labels": [{"name": "version", "value": "7"}],
            "app": {"exec": ["/bin/run", "-x"], "user": "0", "group": "0", "workingDirectory": "/w", "environment": [{"name": "A", "value": "b=c"}]}}"#;
        let config = Config::parse(&read(whole).unwrap().config(&[Digest::of(b"x")])).unwrap();
        assert_eq!(config.layers(), Ok(vec![Digest::of(b"x")]));
        let process = config.config;
        assert_eq!((process.entrypoint.join(" "), process.cmd.join(" ")), ("/bin/run".into(), "-x".into()));
        assert_eq!((process.env.join(" "), process.working_dir.as_str()), ("A=b=c".into(), "/w"));
        let empty = Config::parse(&read(r#"{"acKind": "ImageManifest", "name": "a"}"#).unwrap().config(&[])).unwrap();
        assert_eq!(empty.config, Default::default());
        for (text, why) in [
            ("[", "cannot be read"),
            (r#"{"acKind": "PodManifest", "name": "a"}"#, "of the kind 'PodManifest'"),
            (r#"{"acKind": "ImageManifest", "name": "b"}"#, "that of 'b'"),
            (r#"{"acKind": "ImageManifest", "name": "a", "labels": [{"name": "os", "value": "plan9"}]}"#, "os=plan9"),
            (r#"{"acKind": "ImageManifest", "name": "a", "pathWhitelist": ["/x"]}"#, "pathWhitelist"),
        ] {
            assert!(read(text).unwrap_err().contains(why), "{text}");
        }
    }

    #[test]
    fn files_are_those_below_rootfs() {
        let below = |name: &str| below_rootfs(name.as_bytes()).map(|path| String::from_utf8(path).unwrap());
        for (name, path) in [("rootfs", "/"), ("rootfs/", "/"), ("./rootfs/a", "/a"), ("/rootfs/b/c", "/b/c")] {
            assert_eq!(below(name).as_deref(), Some(path), "{name}");
        }
        for name in ["manifest", "rootfsx", "", "a/rootfs/b"] {
            assert_eq!(below(name), None, "{name}");
        }
        assert!(check_prefix("hdfs://x").is_err() && check_prefix("/x").is_ok());
    }
}
