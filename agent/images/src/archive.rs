//! Images that are files of this machine: archives as `docker save` writes them, and layouts of OCI, as a folder or within an
//! archive.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use agent_fetcher::tape::{self, Broken, EntryType};
use agent_fetcher::unpack::Packing;
use serde::Deserialize;

use crate::digest::Digest;
use crate::manifest::{CONFIG_BYTES_MAX, LAYERS_MAX, MANIFEST_BYTES_MAX, Manifest, for_machine};
use crate::reference::{HUB_HOST, Reference};

/// Files in one archive of an image.
const MEMBERS_MAX: usize = 100_000;
/// Manifests within each other.
const DEPTH_MAX: usize = 3;

/// Some bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) path: PathBuf,
    pub(crate) position: u64,
    /// In bytes.
    pub(crate) size: u64,
    /// What they must be.
    pub(crate) digest: Option<Digest>,
}

impl Section {
    pub(crate) fn open(&self) -> std::io::Result<std::io::Take<File>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.position))?;
        Ok(file.take(self.size))
    }
}

/// An image in files: its configuration and its layers, the lowest first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Section>,
}

/// Finds an image in a folder of archives and layouts. Blocks. The error is a sentence.
pub(crate) fn find(folder: &Path, name: &Reference, scratch: &Path, bytes_max: u64) -> Result<Files, String> {
    let whole = name.to_string();
    let place = name.registry.as_deref().filter(|registry| !registry.is_empty());
    let untagged = place.map_or(name.repository.clone(), |registry| format!("{registry}/{}", name.repository));
    let archives = [format!("{whole}.tar"), format!("{untagged}:{}.tar", name.tag()), format!("{untagged}.tar")];
    // A name without a version is that of the latest, and the other way round.
    let archives = archives.iter().take(if name.digest.is_none() && name.tag() == "latest" { 3 } else { 1 });
    for archive in archives.map(|archive| folder.join(archive)) {
        if archive.is_file() {
            return read(&archive, name, scratch, bytes_max);
        }
    }
    let layout = folder.join(&untagged);
    if layout.join("oci-layout").is_file() {
        return Content::Folder(layout).layout(name);
    }
    Err(format!("Failed to find archive for image '{whole}' at '{}'", folder.join(format!("{whole}.tar")).display()))
}

/// Finds an image in an archive. Blocks. The error is a sentence.
pub(crate) fn read(archive: &Path, name: &Reference, scratch: &Path, bytes_max: u64) -> Result<Files, String> {
    let broken = |error: std::io::Error| format!("cannot read '{}': {error}", archive.display());
    let mut file = File::open(archive).map_err(broken)?;
    let packing = packing(&mut file).map_err(broken)?;
    let plain = if packing == Packing::Plain {
        archive.to_owned()
    } else {
        // What is in it is looked for by its place.
        let plain = scratch.join("archive.tar");
        let mut reader = tape::unpacked(packing, file).map_err(|error| error.to_string())?.take(bytes_max + 1);
        let copied = File::create_new(&plain).and_then(|mut into| std::io::copy(&mut reader, &mut into));
        if copied.map_err(broken)? > bytes_max {
            return Err(format!(
                "more than the {bytes_max} bytes of --image_size_max come out of '{}'",
                archive.display()
            ));
        }
        plain
    };
    let content = Content::of_archive(&plain).map_err(|why| format!("cannot read '{}': {why}", archive.display()))?;
    if content.has("manifest.json") {
        return content.saved(name);
    }
    if content.has("index.json") {
        return content.layout(name);
    }
    Err(format!(
        "'{}' has neither manifest.json nor index.json: it is no archive of an image, or of a Docker before 1.10",
        archive.display()
    ))
}

/// How something is packed, by its first bytes.
pub(crate) fn packing(file: &mut (impl Read + Seek)) -> std::io::Result<Packing> {
    let mut first = [0; 10];
    let start = file.stream_position()?;
    let mut count = 0;
    while count < first.len() {
        match file.read(&mut first[count..])? {
            0 => break,
            more => count += more,
        }
    }
    file.seek(SeekFrom::Start(start))?;
    Ok(match first {
        [0x1f, 0x8b, ..] => Packing::Gz,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zst,
        // A frame that is passed over: some programs begin with one.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Packing::Zst,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Packing::Xz,
        // A block of such an archive begins with the digits of pi.
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59] => Packing::Bz2,
        _ => Packing::Plain,
    })
}

/// Files with names.
enum Content {
    Folder(PathBuf),
    Archive { path: PathBuf, members: BTreeMap<String, Member> },
}

enum Member {
    File {
        position: u64,
        size: u64,
    },
    /// The same as another one.
    Link(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// What is under a name in an archive: without dots.
fn plain(name: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

impl Content {
    fn of_archive(path: &Path) -> Result<Content, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let mut members = BTreeMap::new();
        let done: Result<(), Broken> =
            tape::each(std::io::BufReader::with_capacity(256 << 10, file), u64::MAX, |entry| {
                let (Ok(name), Ok(link)) = (std::str::from_utf8(&entry.name), std::str::from_utf8(&entry.link)) else {
                    return Ok(());
                };
                let member = match entry.kind {
                    EntryType::Regular | EntryType::Continuous => {
                        Member::File { position: entry.position, size: entry.size }
                    }
                    EntryType::Link => Member::Link(link.to_owned()),
                    // From where it is.
                    EntryType::Symlink => Member::Link(format!("{name}/../{link}")),
                    _ => return Ok(()),
                };
                if members.len() >= MEMBERS_MAX {
                    return Err(Broken::Damaged(format!("it has more than {MEMBERS_MAX} files")));
                }
                members.extend(plain(name).map(|name| (name, member)));
                Ok(())
            });
        done.map_err(|error| error.to_string())?;
        Ok(Content::Archive { path: path.to_owned(), members })
    }

    fn section(&self, name: &str) -> Result<Section, String> {
        let missing = || format!("'{}' is not in it", api::limits::quoted(name).escape_debug());
        match self {
            Content::Folder(folder) => {
                let name = plain(name).ok_or_else(missing)?;
                let path = folder.join(name);
                let found = fs::metadata(&path).ok().filter(|found| found.is_file()).ok_or_else(missing)?;
                Ok(Section { path, position: 0, size: found.len(), digest: None })
            }
            Content::Archive { path, members } => {
                let mut name = plain(name).ok_or_else(missing)?;
                for _ in 0..10 {
                    match members.get(&name).ok_or_else(missing)? {
                        Member::File { position, size } => {
                            return Ok(Section { path: path.clone(), position: *position, size: *size, digest: None });
                        }
                        Member::Link(target) => name = plain(target).ok_or_else(missing)?,
                    }
                }
                Err(missing())
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.section(name).is_ok()
    }

    fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, String> {
        let section = self.section(name)?;
        if section.size > bytes_max {
            return Err(format!(
                "'{}' in it has more than {bytes_max} bytes",
                api::limits::quoted(name).escape_debug()
            ));
        }
        let mut bytes = Vec::new();
        section.open().and_then(|mut file| file.read_to_end(&mut bytes)).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    /// As `docker save` writes it.
    fn saved(&self, name: &Reference) -> Result<Files, String> {
        let text = self.read("manifest.json", MANIFEST_BYTES_MAX)?;
        let all: Vec<Saved> = serde_json::from_slice(&text)
            .map_err(|error| format!("manifest.json of its archive cannot be read: {error}"))?;
        let wanted = name.clone().canonical(HUB_HOST);
        let is_it = |tag: &String| Reference::parse(tag).is_ok_and(|tag| tag.canonical(HUB_HOST) == wanted);
        let tagged = all.iter().find(|one| one.repo_tags.iter().flatten().any(is_it));
        let alone = || all.first().filter(|one| all.len() == 1 && one.repo_tags.as_ref().is_none_or(Vec::is_empty));
        let saved = tagged.or_else(alone).ok_or_else(|| {
            let tags: Vec<&str> =
                all.iter().flat_map(|one| one.repo_tags.iter().flatten()).map(String::as_str).collect();
            format!("its archive has other images: {}", api::limits::quoted(&tags.join(", ")).escape_debug())
        })?;
        if saved.layers.is_empty() || saved.layers.len() > LAYERS_MAX {
            return Err(format!("it has {} layers, and images have 1 to {LAYERS_MAX}", saved.layers.len()));
        }
        let layers = saved.layers.iter().map(|layer| self.section(layer)).collect::<Result<_, _>>()?;
        Ok(Files { config: self.read(&saved.config, CONFIG_BYTES_MAX)?, layers })
    }

    /// As OCI has it.
    fn layout(&self, name: &Reference) -> Result<Files, String> {
        const NAME: &str = "org.opencontainers.image.ref.name";
        let index = match Manifest::parse(&self.read("index.json", MANIFEST_BYTES_MAX)?)? {
            Manifest::List(all) => all,
            Manifest::One { .. } => return Err("index.json of its layout is no index".to_owned()),
        };
        let is_named = |called: &String| {
            let is_whole = Reference::parse(called).is_ok_and(|one| {
                called.contains(['/', ':', '@']) && one.canonical(HUB_HOST) == name.clone().canonical(HUB_HOST)
            });
            *called == name.tag() || is_whole
        };
        let mut found: Vec<_> = match &name.digest {
            Some(digest) => index.iter().filter(|one| one.digest().as_ref() == Ok(digest)).cloned().collect(),
            None => index.iter().filter(|one| one.annotations.get(NAME).is_some_and(is_named)).cloned().collect(),
        };
        if found.is_empty() && name.digest.is_none() && index.iter().all(|one| !one.annotations.contains_key(NAME)) {
            found = index;
        }
        if found.is_empty() {
            return Err(format!("its layout has no '{}'", name.version()));
        }
        for _ in 0..DEPTH_MAX {
            let one = if let [one] = &found[..] { one } else { for_machine(&found)? };
            match Manifest::parse(&self.blob(one.digest()?, MANIFEST_BYTES_MAX)?)? {
                Manifest::List(all) => found = all,
                Manifest::One { config, layers } => {
                    let layer = |one: &crate::manifest::Descriptor| {
                        let digest = one.digest()?;
                        let section = self.section(&format!("blobs/sha256/{}", digest.hex()))?;
                        Ok(Section { digest: Some(digest), ..section })
                    };
                    let layers = layers.iter().map(layer).collect::<Result<_, String>>()?;
                    return Ok(Files { config: self.blob(config.digest()?, CONFIG_BYTES_MAX)?, layers });
                }
            }
        }
        Err(format!("its manifests are more than {DEPTH_MAX} within each other"))
    }

    fn blob(&self, digest: Digest, bytes_max: u64) -> Result<Vec<u8>, String> {
        let bytes = self.read(&format!("blobs/sha256/{}", digest.hex()), bytes_max)?;
        let found = Digest::of(&bytes);
        if found == digest {
            Ok(bytes)
        } else {
            Err(format!("a blob of its layout has the digest {found}, and not {digest}"))
        }
    }
}
