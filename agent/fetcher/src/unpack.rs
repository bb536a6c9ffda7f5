//! Archives, which anybody may have made: what would land outside of the folder, or is not a file, a folder or a link in
//! it, is refused by its kind, and so is what never ends.
//!
//! A link may lead up only at its beginning, and no further than to the folder; and nothing is written through a link.
//! So whatever links lead through, all of them stay inside.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use crate::tape::{self, Broken, EntryType, HEADER_BYTES_MAX};

/// What an archive is, by the name of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Files one behind the other, packed as a whole or not at all.
    Tar(Packing),
    /// One file, packed with gzip.
    Gz,
    /// Files, each packed.
    Zip,
}

/// How a tar archive is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// gzip
    Gz,
    /// bzip2
    Bz2,
    /// xz
    Xz,
    /// Zstandard
    Zst,
}

impl Kind {
    /// By the end of a file's name.
    pub fn of(name: &str) -> Option<Kind> {
        let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end) && name.len() > end.len());
        Some(match () {
            () if ends(&[".tar"]) => Kind::Tar(Packing::Plain),
            () if ends(&[".tar.gz", ".tgz"]) => Kind::Tar(Packing::Gz),
            () if ends(&[".tar.bz2", ".tbz2"]) => Kind::Tar(Packing::Bz2),
            () if ends(&[".tar.xz", ".txz"]) => Kind::Tar(Packing::Xz),
            () if ends(&[".tar.zst", ".tzst"]) => Kind::Tar(Packing::Zst),
            () if ends(&[".gz"]) => Kind::Gz,
            () if ends(&[".zip"]) => Kind::Zip,
            () => return None,
        })
    }
}

/// How much may come out of one archive.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of all that is unpacked, headers included.
    pub bytes_max: u64,
    /// Files, folders and links.
    pub entries_max: u64,
}

/// Why an archive is not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It would land at an absolute path.
    #[error("'{0}' in the archive is an absolute path")]
    Absolute(String),
    /// It would land above the folder.
    #[error("'{0}' in the archive leads out of the folder by '..'")]
    Parent(String),
    /// A link that leads elsewhere.
    #[error("the link '{path}' in the archive leads out of the folder, to '{target}'")]
    LinkOut {
        /// The link.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// It would be written through a link.
    #[error("'{path}' in the archive lies behind '{link}', which is not a folder")]
    BehindLink {
        /// What would be written.
        path: String,
        /// What is in the way.
        link: String,
    },
    /// Neither a file nor a folder nor a link.
    #[error("'{0}' in the archive is a device, a pipe or of another kind that is not unpacked")]
    Device(String),
    /// Too much comes out of it.
    #[error("more than {0} bytes come out of the archive")]
    Bytes(u64),
    /// Too many come out of it.
    #[error("more than {0} files come out of the archive")]
    Entries(u64),
    /// It needs a password.
    #[error("'{0}' in the archive is encrypted")]
    Encrypted(String),
    /// Its bytes are not those of such an archive.
    #[error("the archive is damaged, or packed in a way that is not known here: {0}")]
    Damaged(String),
    /// The disk does not take it.
    #[error("cannot write '{path}': {source}")]
    Write {
        /// What was to be written.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Unpacks `archive` into `folder`; one packed file becomes `single` there.
///
/// # Errors
/// A [`Refusal`]. What was unpacked before it stays.
pub fn unpack(kind: Kind, archive: File, folder: &Path, single: &str, bounds: Bounds) -> Result<(), Refusal> {
    unpack_from(kind, BufReader::with_capacity(256 << 10, archive), folder, single, bounds)
}

/// The same from anything that can be read as a file can.
///
/// # Errors
/// A [`Refusal`].
pub fn unpack_from(
    kind: Kind,
    archive: impl Read + Seek,
    folder: &Path,
    single: &str,
    bounds: Bounds,
) -> Result<(), Refusal> {
    let mut into = Into { folder, bounds, entries: 0, bytes: 0 };
    match kind {
        Kind::Tar(packing) => {
            let reader = tape::unpacked(packing, archive)?;
            tape::each(reader, bounds.bytes_max, |entry| tar_entry(entry, &mut into))
        }
        Kind::Gz => {
            let path = inside(single)?;
            let mut reader = flate2::read::MultiGzDecoder::new(archive);
            into.enter()?;
            into.file(&path, 0o644, None, &mut reader)
        }
        Kind::Zip => zip(archive, &mut into),
    }
}

impl From<Broken> for Refusal {
    fn from(broken: Broken) -> Refusal {
        match broken {
            Broken::Damaged(why) => Refusal::Damaged(why),
            Broken::Bytes(most) => Refusal::Bytes(most),
        }
    }
}

fn tar_entry(entry: tape::Entry<'_>, into: &mut Into<'_>) -> Result<(), Refusal> {
    into.enter()?;
    let name = String::from_utf8_lossy(&entry.name).into_owned();
    let (path, target) = (inside(&name)?, String::from_utf8_lossy(&entry.link));
    match entry.kind {
        EntryType::Directory => into.folder(&path, entry.mode),
        EntryType::Symlink => into.link(&path, &target),
        EntryType::Link => into.hard_link(&path, &target),
        EntryType::Regular | EntryType::Continuous => into.file(&path, entry.mode, entry.modified, entry.content),
        _ => Err(Refusal::Device(name)),
    }
}

fn zip(archive: impl Read + Seek, into: &mut Into<'_>) -> Result<(), Refusal> {
    use ::zip::result::ZipError;
    let damaged = |error: ZipError| Refusal::Damaged(error.to_string());
    let mut archive = ::zip::ZipArchive::new(archive).map_err(damaged)?;
    for index in 0..archive.len() {
        into.enter()?;
        let name = archive.name_for_index(index).unwrap_or_default().to_owned();
        let mut entry = match archive.by_index(index) {
            Err(ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED)) => return Err(Refusal::Encrypted(name)),
            found => found.map_err(damaged)?,
        };
        let path = inside(&name)?;
        let mode = entry.unix_mode();
        match mode.unwrap_or(0) & 0o170000 {
            0o040000 => into.folder(&path, mode.unwrap_or(0o755))?,
            _ if name.ends_with('/') => into.folder(&path, 0o755)?,
            0o120000 => {
                let mut target = Vec::new();
                let mut read = (&mut entry).take(HEADER_BYTES_MAX);
                read.read_to_end(&mut target).map_err(|error| Refusal::Damaged(error.to_string()))?;
                into.link(&path, &String::from_utf8_lossy(&target))?;
            }
            0 | 0o100000 => into.file(&path, mode.unwrap_or(0o644), None, &mut entry)?,
            _ => return Err(Refusal::Device(name)),
        }
    }
    Ok(())
}

/// Where an entry of this name lands.
fn inside(name: &str) -> Result<PathBuf, Refusal> {
    let shown = || api::limits::quoted(name).into_owned();
    let mut path = PathBuf::new();
    for component in Path::new(name).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir => return Err(Refusal::Parent(shown())),
            Component::RootDir | Component::Prefix(_) => return Err(Refusal::Absolute(shown())),
        }
    }
    if name.contains('\0') || name.is_empty() {
        return Err(Refusal::Damaged(format!("'{}' is no name", shown().escape_debug())));
    }
    Ok(path)
}

/// Where entries land.
struct Into<'a> {
    folder: &'a Path,
    bounds: Bounds,
    entries: u64,
    bytes: u64,
}

impl Into<'_> {
    fn enter(&mut self) -> Result<(), Refusal> {
        self.entries += 1;
        if self.entries > self.bounds.entries_max { Err(Refusal::Entries(self.bounds.entries_max)) } else { Ok(()) }
    }

    fn write<T>(path: &Path, done: io::Result<T>) -> Result<T, Refusal> {
        done.map_err(|source| Refusal::Write { path: path.display().to_string(), source })
    }

    /// Makes the folders above, none of which may be a link.
    fn above(&self, path: &Path) -> Result<PathBuf, Refusal> {
        let mut above = self.folder.to_owned();
        for part in path.parent().unwrap_or(Path::new("")) {
            above.push(part);
            match fs::symlink_metadata(&above) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => {
                    return Err(Refusal::BehindLink {
                        path: path.display().to_string(),
                        link: above.strip_prefix(self.folder).unwrap_or(&above).display().to_string(),
                    });
                }
                Err(_) => Self::write(path, fs::DirBuilder::new().mode(0o755).create(&above))?,
            }
        }
        Ok(self.folder.join(path))
    }

    /// Makes room for something that is not a folder.
    fn room(&self, path: &Path) -> Result<PathBuf, Refusal> {
        let place = self.above(path)?;
        match fs::remove_file(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Self::write(path, Err(error)),
            _ => Ok(place),
        }
    }

    fn folder(&self, path: &Path, mode: u32) -> Result<(), Refusal> {
        let place = self.above(path)?;
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        match fs::DirBuilder::new().create(&place) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let is_folder = fs::symlink_metadata(&place).is_ok_and(|found| found.is_dir());
                let link = path.display().to_string();
                return if is_folder { Ok(()) } else { Err(Refusal::BehindLink { path: link.clone(), link }) };
            }
            done => Self::write(path, done)?,
        }
        // Its owner puts in what follows.
        Self::write(path, fs::set_permissions(&place, fs::Permissions::from_mode(mode & 0o777 | 0o700)))
    }

    fn file(
        &mut self,
        path: &Path,
        mode: u32,
        modified: Option<SystemTime>,
        content: &mut (impl Read + ?Sized),
    ) -> Result<(), Refusal> {
        let place = self.room(path)?;
        let mut file = Self::write(path, File::options().write(true).create_new(true).mode(0o600).open(&place))?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Refusal::Damaged(error.to_string())),
            };
            self.bytes += count as u64;
            if self.bytes > self.bounds.bytes_max {
                return Err(Refusal::Bytes(self.bounds.bytes_max));
            }
            Self::write(path, file.write_all(&buffer[..count]))?;
        }
        Self::write(path, file.set_permissions(fs::Permissions::from_mode(mode & 0o777)))?;
        if let Some(modified) = modified {
            let _ = file.set_modified(modified);
        }
        Ok(())
    }

    fn link(&self, path: &Path, target: &str) -> Result<(), Refusal> {
        let depth = path.components().count().saturating_sub(1);
        let out =
            || Refusal::LinkOut { path: path.display().to_string(), target: api::limits::quoted(target).into_owned() };
        let (mut up, mut is_down) = (0, false);
        for component in Path::new(target).components() {
            match component {
                Component::CurDir => {}
                Component::ParentDir if !is_down => up += 1,
                Component::Normal(_) => is_down = true,
                _ => return Err(out()),
            }
        }
        if up > depth || target.is_empty() || target.contains('\0') {
            return Err(out());
        }
        let place = self.room(path)?;
        Self::write(path, symlink(target, place))
    }

    fn hard_link(&self, path: &Path, target: &str) -> Result<(), Refusal> {
        let out =
            || Refusal::LinkOut { path: path.display().to_string(), target: api::limits::quoted(target).into_owned() };
        let target = inside(target).map_err(|_| out())?;
        let original = self.above(&target)?;
        // Of a file of the archive: the link to a link would lead where that one leads from another place.
        if !fs::symlink_metadata(&original).is_ok_and(|found| found.is_file()) {
            return Err(out());
        }
        if original == self.folder.join(path) {
            return Ok(());
        }
        let place = self.room(path)?;
        Self::write(path, fs::hard_link(original, place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;
    use std::time::Duration;

    const BOUNDS: Bounds = Bounds { bytes_max: 1 << 20, entries_max: 100 };

    /// A tar archive of entries: kind, name, content or target.
    fn tar_of(entries: &[(tar::EntryType, &str, &str)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, name, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o6755);
            header.set_mtime(7);
            // Written by hand: the library refuses to.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            let is_link = matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link);
            let content = if is_link {
                header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
                ""
            } else {
                content
            };
            header.set_size(content.len() as u64);
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(content.as_bytes());
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.extend([0; 1024]);
        bytes
    }

    fn check(kind: Kind, bytes: &[u8], bounds: Bounds) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let done = unpack_from(kind, Cursor::new(bytes), &folder, "one", bounds);
        (dir, done.map_or_else(|refusal| refusal.to_string(), |()| "unpacked".to_owned()))
    }

    fn tar_says(entries: &[(tar::EntryType, &str, &str)]) -> String {
        let (dir, said) = check(Kind::Tar(Packing::Plain), &tar_of(entries), BOUNDS);
        let beside: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(beside, ["folder"], "nothing lands outside");
        said
    }

    use tar::EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};

    #[test]
    fn hostile_archives_are_refused_by_their_kind() {
        assert_eq!(tar_says(&[(Regular, "/etc/x", "x")]), "'/etc/x' in the archive is an absolute path");
        assert_eq!(
            tar_says(&[(Regular, "a/../../x", "x")]),
            "'a/../../x' in the archive leads out of the folder by '..'"
        );
        let out = |path: &str, to: &str| format!("the link '{path}' in the archive leads out of the folder, to '{to}'");
        assert_eq!(tar_says(&[(Symlink, "l", "/etc")]), out("l", "/etc"));
        assert_eq!(tar_says(&[(Symlink, "a/l", "../../x")]), out("a/l", "../../x"));
        assert_eq!(tar_says(&[(Symlink, "d", "."), (Symlink, "l", "d/../x")]), out("l", "d/../x"));
        assert_eq!(tar_says(&[(Link, "l", "/etc/passwd")]), out("l", "/etc/passwd"));
        assert_eq!(tar_says(&[(Symlink, "d", "."), (Link, "l", "d")]), out("l", "d"));
        assert_eq!(
            tar_says(&[(Directory, "a/", ""), (Symlink, "l", "a"), (Regular, "l/x", "x")]),
            "'l/x' in the archive lies behind 'l', which is not a folder"
        );
        for kind in [Char, Block, Fifo] {
            let said = tar_says(&[(kind, "dev", "")]);
            assert_eq!(said, "'dev' in the archive is a device, a pipe or of another kind that is not unpacked");
        }
        let many: Vec<_> = (0..101).map(|_| (Regular, "x", "")).collect();
        assert_eq!(tar_says(&many), "more than 100 files come out of the archive");
    }

    #[test]
    fn bombs_end() {
        let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        bomb.write_all(&vec![0; 8 << 20]).unwrap();
        let bomb = bomb.finish().unwrap();
        let (_dir, said) = check(Kind::Gz, &bomb, BOUNDS);
        assert_eq!(said, "more than 1048576 bytes come out of the archive");
        let large = "x".repeat(2 << 20);
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(&tar_of(&[(Regular, "x", &large)])).unwrap();
        let (_dir, said) = check(Kind::Tar(Packing::Gz), &packed.finish().unwrap(), BOUNDS);
        assert_eq!(said, "more than 1048576 bytes come out of the archive");
    }

    #[test]
    fn what_is_well_comes_out_as_it_was() {
        let entries = [
            (Directory, "./d/", ""),
            (Regular, "./d/x", "hello"),
            (Symlink, "d/l", "../d/x"),
            (Link, "h", "d/x"),
            (Regular, "d/x", "again"),
        ];
        let (dir, said) = check(Kind::Tar(Packing::Plain), &tar_of(&entries), BOUNDS);
        assert_eq!(said, "unpacked");
        let folder = dir.path().join("folder");
        assert_eq!(fs::read_to_string(folder.join("d/l")).unwrap(), "again");
        assert_eq!(fs::read_to_string(folder.join("h")).unwrap(), "hello");
        let found = fs::metadata(folder.join("d/x")).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, 0o755, "without what makes others of users");
        assert_eq!(found.modified().unwrap(), SystemTime::UNIX_EPOCH + Duration::from_secs(7));
    }

    #[test]
    fn every_packing_of_the_tools_is_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        let long = "n".repeat(120);
        for (name, text) in [("a.txt", "hello"), (&*long, "long")] {
            fs::write(dir.path().join("in").join(name), text).unwrap();
        }
        for (option, end, program) in
            [("-z", "tar.gz", "gzip"), ("-j", "tbz2", "bzip2"), ("-J", "txz", "xz"), ("--zstd", "tar.zst", "zstd")]
        {
            let archive = dir.path().join(format!("a.{end}"));
            let packed = std::process::Command::new("tar")
                .args([option, "-cf"])
                .arg(&archive)
                .args(["-C".as_ref(), dir.path().join("in").as_os_str(), ".".as_ref()])
                .output()
                .unwrap();
            if !packed.status.success() {
                eprintln!("there is no {program} on this machine");
                continue;
            }
            let kind = Kind::of(&archive.display().to_string()).unwrap();
            let (out, said) = check(kind, &fs::read(&archive).unwrap(), BOUNDS);
            assert_eq!(said, "unpacked", "{end}");
            assert_eq!(fs::read_to_string(out.path().join("folder").join(&long)).unwrap(), "long", "{end}");
        }
    }

    #[test]
    fn zip_archives() {
        let zip_of = |entries: &[(&str, u32, &str)]| {
            let mut writer = ::zip::ZipWriter::new(Cursor::new(Vec::new()));
            for (name, mode, content) in entries {
                let options = ::zip::write::SimpleFileOptions::default();
                if mode & 0o170000 == 0o120000 {
                    writer.add_symlink(*name, *content, options).unwrap();
                } else {
                    writer.start_file(*name, options.unix_permissions(*mode)).unwrap();
                    writer.write_all(content.as_bytes()).unwrap();
                }
            }
            writer.finish().unwrap().into_inner()
        };
        let (dir, said) = check(Kind::Zip, &zip_of(&[("d/x", 0o755, "hello"), ("l", 0o120777, "d/x")]), BOUNDS);
        assert_eq!(said, "unpacked");
        assert_eq!(fs::read_to_string(dir.path().join("folder/l")).unwrap(), "hello");
        let says = |entries: &[(&str, u32, &str)]| check(Kind::Zip, &zip_of(entries), BOUNDS).1;
        assert_eq!(says(&[("../x", 0o644, "")]), "'../x' in the archive leads out of the folder by '..'");
        assert_eq!(says(&[("/x", 0o644, "")]), "'/x' in the archive is an absolute path");
        assert_eq!(says(&[("l", 0o120777, "/etc")]), "the link 'l' in the archive leads out of the folder, to '/etc'");
        assert_eq!(says(&[("x", 0o644, &"x".repeat(2 << 20))]), "more than 1048576 bytes come out of the archive");
        let (_dir, said) = check(Kind::Zip, b"PK no zip", BOUNDS);
        assert!(said.starts_with("the archive is damaged"), "{said}");
    }

    #[test]
    fn kinds_by_name() {
        assert_eq!(Kind::of("a.tar.gz"), Some(Kind::Tar(Packing::Gz)));
        assert_eq!(Kind::of("a.gz"), Some(Kind::Gz));
        assert_eq!(Kind::of("a.txt"), None);
        assert_eq!(Kind::of(".gz"), None);
        assert_eq!(Kind::of("a.tgz?x=1"), None);
    }
}
