//! Layers, which anybody may have made: what is in an archive becomes a folder as the kernel's overlay file system wants its
//! layers. Every path is resolved by the kernel with the folder as its root (openat2, `RESOLVE_IN_ROOT`), so that links lead
//! where they would lead in a container and nowhere else.
//!
//! | in the archive | here |
//! |---|---|
//! | `/a/b` | `a/b`, as tools that make archives mean it |
//! | `..` in a path | refused |
//! | links | kept as they are; what is written behind one lands where it leads within the folder |
//! | hard links | to files of the same layer, or refused |
//! | set-user-id, owners, `security.capability`, `user.*` | kept; other attributes are not |
//! | devices | left out: a container has those that it may use in its own `/dev` |
//! | `.wh.NAME`, `.wh..wh..opq` | a device 0/0 of that name; the folder is opaque |

use std::ffi::{CStr, CString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use agent_fetcher::tape::{self, Broken, Entry, EntryType};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod, fchown,
    fsetxattr, futimens, linkat, makedev, mkdirat, mknodat, openat, openat2, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::appc::below_rootfs;
use crate::tree;

/// On a folder: nothing of the layers below is seen in it.
pub(crate) const OPAQUE: &CStr = c"trusted.overlay.opaque";

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE_WHITEOUT: &[u8] = b".wh..wh..opq";
/// What programs that make layers have written for themselves.
const META: &[u8] = b".wh..wh.";
/// Longest link, in bytes.
const LINK_BYTES_MAX: usize = 4095;
/// One attribute's value, in bytes.
const ATTRIBUTE_BYTES_MAX: usize = 64 << 10;

/// What an archive of a layer is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// As Docker and OCI have it: its files, and what hides those of layers below.
    #[default]
    Changes,
    /// As appc has it: its files are below `rootfs`, and nothing hides any.
    Aci,
}

/// How much may come out of one layer.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of all that is unpacked, headers included.
    pub bytes_max: u64,
    /// Files, folders and links.
    pub entries_max: u64,
}

/// What came out of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, folders and links.
    pub entries: u64,
    /// Devices that were left out.
    pub devices: u64,
}

/// Why a layer is not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It would land elsewhere.
    #[error("'{0}' in the layer leads out of it by '..'")]
    Parent(String),
    /// It would land behind something that is no folder.
    #[error("'{0}' in the layer lies behind something that is no folder of it")]
    Behind(String),
    /// A hard link to what is not there.
    #[error("the hard link '{path}' in the layer leads to '{target}', which is no file of it")]
    Link {
        /// The link.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// Neither a file nor a folder nor a link.
    #[error("'{0}' in the layer is of a kind that is not known here")]
    Kind(String),
    /// No name of a file.
    #[error("'{0}' in the layer is no name")]
    Name(String),
    /// Too much comes out of it.
    #[error("more than the {0} bytes of --image_size_max come out of its layers")]
    Bytes(u64),
    /// Too many come out of it.
    #[error("more than {0} files come out of one of its layers")]
    Entries(u64),
    /// Its bytes are not those of a layer.
    #[error("a layer is damaged, or packed in a way that is not known here: {0}")]
    Damaged(String),
    /// The disk does not take it.
    #[error("cannot write '{path}' of a layer: {source}")]
    Write {
        /// What was to be written.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Nobody waits for it any more.
    #[error("it is not needed any more")]
    Stopped,
}

impl From<Broken> for Refusal {
    fn from(broken: Broken) -> Refusal {
        match broken {
            Broken::Damaged(why) => Refusal::Damaged(why),
            Broken::Bytes(most) => Refusal::Bytes(most),
        }
    }
}

/// Unpacks a layer that is not packed into an empty folder, for as long as nobody says `stop`. Blocks.
///
/// # Errors
/// A [`Refusal`]. What was unpacked before it stays.
pub fn unpack(
    layer: impl Read,
    kind: Kind,
    folder: &Path,
    bounds: Bounds,
    stop: &AtomicBool,
) -> Result<Unpacked, Refusal> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let root = rustix::fs::open(folder, flags, Mode::empty())
        .map_err(|errno| Refusal::Write { path: folder.display().to_string(), source: errno.into() })?;
    let mut into = Into { root, kind, bounds, done: Unpacked::default(), folders: Vec::new(), last: None };
    tape::each(layer, bounds.bytes_max, |entry| {
        if stop.load(Ordering::Relaxed) {
            return Err(Refusal::Stopped);
        }
        into.entry(entry)
    })?;
    into.date_folders();
    Ok(into.done)
}

/// The kernel this runs on resolves paths within a folder.
pub(crate) fn check_kernel() -> Result<(), String> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(rustix::fs::CWD, "/", flags, Mode::empty(), resolve).map(drop).map_err(|errno| {
        format!("Cannot open paths within a folder (openat2): {errno}; Linux 5.6 is needed for images")
    })
}

struct Into {
    root: OwnedFd,
    kind: Kind,
    bounds: Bounds,
    done: Unpacked,
    /// Folders, and when they were changed: set at last, since what is put into them changes it.
    folders: Vec<(PathBuf, SystemTime)>,
    /// The folder of the entry before, which many have in common.
    last: Option<(PathBuf, std::sync::Arc<OwnedFd>)>,
}

fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    api::limits::quoted(&text).escape_debug().to_string()
}

/// Where an entry of this name lands; empty for the root.
fn inside(name: &[u8]) -> Result<PathBuf, Refusal> {
    use std::os::unix::ffi::OsStrExt;
    if name.contains(&0) || name.is_empty() {
        return Err(Refusal::Name(shown(name)));
    }
    let mut path = PathBuf::new();
    for component in Path::new(std::ffi::OsStr::from_bytes(name)).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::ParentDir => return Err(Refusal::Parent(shown(name))),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Ok(path)
}

fn c_string(text: &[u8]) -> Result<CString, Refusal> {
    CString::new(text).map_err(|_| Refusal::Name(shown(text)))
}

impl Into {
    fn entry(&mut self, mut entry: Entry<'_>) -> Result<(), Refusal> {
        use std::os::unix::ffi::OsStrExt;
        self.done.entries += 1;
        if self.done.entries > self.bounds.entries_max {
            return Err(Refusal::Entries(self.bounds.entries_max));
        }
        if entry.kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        if self.kind == Kind::Aci {
            let Some(name) = below_rootfs(&entry.name) else { return Ok(()) };
            entry.name = name;
            if entry.kind == EntryType::Link {
                // One that leads elsewhere leads nowhere.
                entry.link = below_rootfs(&entry.link).unwrap_or_default();
            }
        }
        let path = inside(&entry.name)?;
        let name = entry.name.clone();
        let wrote =
            |done: Result<(), Errno>| done.map_err(|errno| Refusal::Write { path: shown(&name), source: errno.into() });
        let Some(file_name) = path.file_name().map(|name| name.as_bytes()) else {
            // The root.
            if entry.kind == EntryType::Directory {
                wrote(self.open(Path::new("")).and_then(|folder| settle(&folder, &entry)))?;
            }
            return Ok(());
        };
        let is_change = self.kind == Kind::Changes;
        if is_change && file_name.starts_with(META) && file_name != OPAQUE_WHITEOUT {
            return Ok(());
        }
        if entry.kind.is_character_special() || entry.kind.is_block_special() {
            self.done.devices += 1;
            return Ok(());
        }
        let parent = self.above(&path, &name)?;
        if is_change && file_name == OPAQUE_WHITEOUT {
            let folder = self.open(path.parent().unwrap_or(Path::new("")));
            return wrote(folder.and_then(|folder| make_opaque(&folder)));
        }
        if is_change && let Some(hidden) = file_name.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(Refusal::Name(shown(&name)));
            }
            return wrote(hide(&*parent, &c_string(hidden)?));
        }
        let target = c_string(file_name)?;
        match entry.kind {
            EntryType::Directory => {
                wrote(make_folder(&*parent, &target))?;
                let folder = openat(&*parent, &target, FOLDER, Mode::empty());
                wrote(folder.and_then(|folder| settle(&folder, &entry)))?;
                if let Some(modified) = entry.modified {
                    self.folders.push((path, modified));
                }
                Ok(())
            }
            EntryType::Regular | EntryType::Continuous => {
                wrote(make_room(&*parent, &target))?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(&*parent, &target, flags, Mode::from_raw_mode(0o600));
                let file = file.map_err(|errno| Refusal::Write { path: shown(&name), source: errno.into() })?;
                let mut file = std::fs::File::from(file);
                copy(&mut entry, &mut file)?;
                wrote(settle(&file, &entry))?;
                if let Some(modified) = entry.modified {
                    wrote(futimens(&file, &times(modified)))?;
                }
                Ok(())
            }
            EntryType::Symlink => {
                if entry.link.is_empty() || entry.link.len() > LINK_BYTES_MAX {
                    return Err(Refusal::Name(shown(&entry.link)));
                }
                wrote(make_room(&*parent, &target))?;
                wrote(symlinkat(&c_string(&entry.link)?, &*parent, &target))?;
                let (user, group) = owner(&entry);
                wrote(chownat(&*parent, &target, user, group, AtFlags::SYMLINK_NOFOLLOW))?;
                if let Some(modified) = entry.modified {
                    wrote(utimensat(&*parent, &target, &times(modified), AtFlags::SYMLINK_NOFOLLOW))?;
                }
                Ok(())
            }
            EntryType::Link => self.hard_link(&entry, &parent, &target),
            EntryType::Fifo => {
                wrote(make_room(&*parent, &target))?;
                wrote(mknodat(&*parent, &target, FileType::Fifo, Mode::from_raw_mode(entry.mode & 0o777), 0))?;
                let (user, group) = owner(&entry);
                wrote(chownat(&*parent, &target, user, group, AtFlags::SYMLINK_NOFOLLOW))
            }
            _ => Err(Refusal::Kind(shown(&name))),
        }
    }

    /// Opens a folder within the layer, as a container would.
    fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        openat2(&self.root, path, FOLDER & !OFlags::NOFOLLOW, Mode::empty(), IN_ROOT)
    }

    /// The folder of an entry; those that are missing are made.
    fn above(&mut self, path: &Path, name: &[u8]) -> Result<std::sync::Arc<OwnedFd>, Refusal> {
        let above = path.parent().unwrap_or(Path::new(""));
        if let Some((last, folder)) = &self.last
            && last == above
        {
            return Ok(folder.clone());
        }
        let failed = |errno: Errno| match errno {
            Errno::NOTDIR | Errno::EXIST | Errno::LOOP | Errno::XDEV => Refusal::Behind(shown(name)),
            errno => Refusal::Write { path: shown(name), source: errno.into() },
        };
        let opened = match self.open(above) {
            Err(Errno::NOENT) => {
                let mut at = self.open(Path::new("")).map_err(failed)?;
                let mut so_far = PathBuf::new();
                for part in above.components() {
                    so_far.push(part);
                    at = match self.open(&so_far) {
                        Err(Errno::NOENT) => {
                            mkdirat(&at, part.as_os_str(), Mode::from_raw_mode(0o755)).map_err(failed)?;
                            self.open(&so_far).map_err(failed)?
                        }
                        opened => opened.map_err(failed)?,
                    };
                }
                at
            }
            opened => opened.map_err(failed)?,
        };
        let folder = std::sync::Arc::new(opened);
        self.last = Some((above.to_owned(), folder.clone()));
        Ok(folder)
    }

    fn hard_link(&mut self, entry: &Entry<'_>, parent: &OwnedFd, target: &CStr) -> Result<(), Refusal> {
        use std::os::unix::ffi::OsStrExt;
        let out = || Refusal::Link { path: shown(&entry.name), target: shown(&entry.link) };
        let original = inside(&entry.link).map_err(|_| out())?;
        let file_name = c_string(original.file_name().ok_or_else(out)?.as_bytes())?;
        let above = self.open(original.parent().unwrap_or(Path::new(""))).map_err(|_| out())?;
        let found = statat(&above, &file_name, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| out())?;
        // Of folders there are none, and what hides is nobody's file.
        if !matches!(FileType::from_raw_mode(found.st_mode), FileType::RegularFile | FileType::Symlink | FileType::Fifo)
        {
            return Err(out());
        }
        if let Ok(there) = statat(parent, target, AtFlags::SYMLINK_NOFOLLOW)
            && (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino)
        {
            return Ok(());
        }
        let linked =
            make_room(parent, target).and_then(|()| linkat(&above, &file_name, parent, target, AtFlags::empty()));
        linked.map_err(|errno| Refusal::Write { path: shown(&entry.name), source: errno.into() })
    }

    fn date_folders(&self) {
        for (path, modified) in self.folders.iter().rev() {
            // Perhaps it was replaced; then there is nothing to date.
            if let Ok(folder) = self.open(path) {
                let _ = futimens(&folder, &times(*modified));
            }
        }
    }
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

fn times(modified: SystemTime) -> Timestamps {
    let since = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let time = Timespec { tv_sec: i64::try_from(since.as_secs()).unwrap_or(0), tv_nsec: since.subsec_nanos().into() };
    Timestamps { last_access: time, last_modification: time }
}

/// A number that no user has is nobody's.
fn owner(entry: &Entry<'_>) -> (Option<Uid>, Option<Gid>) {
    let number = |number: u64| u32::try_from(number).ok().filter(|number| *number != u32::MAX).unwrap_or(65_534);
    (Some(Uid::from_raw(number(entry.owner.0))), Some(Gid::from_raw(number(entry.owner.1))))
}

/// Owner first: to change it takes away what makes others of users.
fn settle(file: &impl AsFd, entry: &Entry<'_>) -> Result<(), Errno> {
    let (user, group) = owner(entry);
    fchown(file, user, group)?;
    fchmod(file, Mode::from_raw_mode(entry.mode & 0o7777))?;
    for (name, value) in &entry.attributes {
        let is_kept = name == b"security.capability" || name.starts_with(b"user.");
        if !is_kept || value.len() > ATTRIBUTE_BYTES_MAX || name.contains(&0) {
            continue;
        }
        match fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
            // Of what is not a file or a folder, or where there are none.
            Err(Errno::OPNOTSUPP | Errno::PERM) if name.starts_with(b"user.") => {}
            done => done?,
        }
    }
    Ok(())
}

fn copy(entry: &mut Entry<'_>, file: &mut std::fs::File) -> Result<(), Refusal> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match entry.content.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => file
                .write_all(&buffer[..count])
                .map_err(|source| Refusal::Write { path: shown(&entry.name), source })?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Refusal::Damaged(error.to_string())),
        }
    }
}

pub(crate) fn make_opaque(folder: &impl AsFd) -> Result<(), Errno> {
    fsetxattr(folder, OPAQUE, b"y", XattrFlags::empty())
}

/// Whether nothing of the layers below is seen in a folder.
pub(crate) fn is_opaque(folder: &impl AsFd) -> bool {
    let mut value = [0; 1];
    matches!(rustix::fs::fgetxattr(folder, OPAQUE, &mut value), Ok(1)) && value == *b"y"
}

/// Whether it hides what is below it.
pub(crate) fn is_whiteout(found: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice && found.st_rdev == 0
}

/// What the layers below have under this name is not seen. What this layer has itself is.
fn hide(parent: &impl AsFd, name: &CStr) -> Result<(), Errno> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)),
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
            make_opaque(&openat(parent, name, FOLDER, Mode::empty())?)
        }
        found => found.map(drop),
    }
}

/// A folder of this name; one that is there already stays.
fn make_folder(parent: &impl AsFd, name: &CStr) -> Result<(), Errno> {
    let make = || mkdirat(parent, name, Mode::from_raw_mode(0o700));
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => make(),
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => Ok(()),
        found => {
            let was_hidden = is_whiteout(&found?);
            unlinkat(parent, name, AtFlags::empty())?;
            make()?;
            if was_hidden { make_opaque(&openat(parent, name, FOLDER, Mode::empty())?) } else { Ok(()) }
        }
    }
}

/// Nothing has this name any more.
fn make_room(parent: &impl AsFd, name: &CStr) -> Result<(), Errno> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => tree::remove(parent.as_fd(), name),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
    use tar::EntryType::{Block, Char, Directory, Fifo, GNUSparse, Link, Regular, Symlink};

    const BOUNDS: Bounds = Bounds { bytes_max: 1 << 20, entries_max: 100 };

    /// A tar archive of entries: kind, name, content or target.
    fn tar_of(entries: &[(tar::EntryType, &str, &str)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, name, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(if name.ends_with("suid") { 0o4755 } else { 0o755 });
            header.set_mtime(7);
            header.set_uid(1234);
            header.set_gid(4321);
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
            // Written by hand: the library refuses to.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            let is_link = matches!(kind, Symlink | Link);
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

    struct Done {
        dir: tempfile::TempDir,
        said: String,
        unpacked: Unpacked,
    }

    impl Done {
        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join("folder").join(name)
        }
    }

    fn unpacked_with(bytes: &[u8], bounds: Bounds) -> Done {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        fs::write(dir.path().join("outside"), "outside").unwrap();
        let done = unpack(bytes, Kind::Changes, &folder, bounds, &AtomicBool::new(false));
        let beside: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(beside.len(), 2, "nothing lands outside: {beside:?}");
        assert_eq!(fs::read_to_string(dir.path().join("outside")).unwrap(), "outside");
        let (said, unpacked) = match done {
            Ok(done) => ("unpacked".to_owned(), done),
            Err(refusal) => (refusal.to_string(), Unpacked::default()),
        };
        Done { dir, said, unpacked }
    }

    fn unpacked(entries: &[(tar::EntryType, &str, &str)]) -> Done {
        unpacked_with(&tar_of(entries), BOUNDS)
    }

    #[test]
    fn hostile_layers_are_refused_by_their_kind() {
        let says = |entries: &[(tar::EntryType, &str, &str)]| unpacked(entries).said;
        assert_eq!(says(&[(Regular, "a/../../x", "x")]), "'a/../../x' in the layer leads out of it by '..'");
        assert_eq!(says(&[(Directory, "..", "")]), "'..' in the layer leads out of it by '..'");
        assert_eq!(
            says(&[(Link, "l", "../outside")]),
            "the hard link 'l' in the layer leads to '../outside', which is no file of it"
        );
        assert_eq!(
            says(&[(Link, "l", "/etc/passwd")]),
            "the hard link 'l' in the layer leads to '/etc/passwd', which is no file of it"
        );
        assert_eq!(
            says(&[(Directory, "d", ""), (Link, "l", "d")]),
            "the hard link 'l' in the layer leads to 'd', which is no file of it"
        );
        assert_eq!(
            says(&[(Regular, "f", ""), (Regular, "f/x", "x")]),
            "'f/x' in the layer lies behind something that is no folder of it"
        );
        assert_eq!(
            says(&[(Symlink, "l", "l"), (Regular, "l/x", "x")]),
            "'l/x' in the layer lies behind something that is no folder of it"
        );
        assert_eq!(
            says(&[(Symlink, "l", "/not/there"), (Regular, "l/x", "x")]),
            "'l/x' in the layer lies behind something that is no folder of it"
        );
        for wrong in [".wh.", ".wh..", ".wh..."] {
            assert_eq!(says(&[(Regular, wrong, "")]), format!("'{wrong}' in the layer is no name"));
        }
        assert!(says(&[(GNUSparse, "s", "")]).starts_with("a layer is damaged"));
        assert_eq!(
            says(&[(tar::EntryType::new(b'Z'), "z", "")]),
            "'z' in the layer is of a kind that is not known here"
        );
        let many: Vec<_> = (0..101).map(|_| (Regular, "x", "")).collect();
        assert_eq!(says(&many), "more than 100 files come out of one of its layers");
        let large = "x".repeat(2 << 20);
        assert_eq!(
            says(&[(Regular, "x", &large)]),
            "more than the 1048576 bytes of --image_size_max come out of its layers"
        );
        assert!(unpacked_with(b"no archive at all", BOUNDS).said.starts_with("a layer is damaged"));
    }

    #[test]
    fn what_leads_out_stays_inside() {
        let done = unpacked(&[
            (Regular, "/etc/absolute", "1"),
            (Symlink, "up", "../../../.."),
            (Regular, "up/etc/behind", "2"),
            (Symlink, "slash", "/etc"),
            (Regular, "slash/again", "3"),
            (Symlink, "hosts", "/etc/hosts"),
            (Regular, "hosts", "4"),
        ]);
        assert_eq!(done.said, "unpacked");
        for (name, text) in [("etc/absolute", "1"), ("etc/behind", "2"), ("etc/again", "3"), ("hosts", "4")] {
            assert_eq!(fs::read_to_string(done.path(name)).unwrap(), text, "{name}");
        }
        assert_eq!(fs::read_link(done.path("up")).unwrap(), Path::new("../../../.."));
    }

    #[test]
    fn what_is_well_comes_out_as_it_was_and_devices_do_not() {
        let done = unpacked(&[
            (Directory, "./", ""),
            (Directory, "./d/", ""),
            (Regular, "./d/suid", "hello"),
            (Symlink, "d/l", "suid"),
            (Link, "h", "d/suid"),
            (Fifo, "pipe", ""),
            (Char, "null", ""),
            (Block, "sda", ""),
            (Regular, "f", "old"),
            (Directory, "f", ""),
            (Regular, "f/deep/er", "new"),
            (Regular, "d2/x", "x"),
            (Regular, "d2", "a file"),
        ]);
        assert_eq!((done.said.as_str(), done.unpacked.devices), ("unpacked", 2));
        assert!(!done.path("null").exists() && !done.path("sda").exists());
        let found = fs::metadata(done.path("d/suid")).unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid(), found.gid(), found.nlink()), (0o4755, 1234, 4321, 2));
        assert_eq!((found.mtime(), fs::metadata(done.path("d")).unwrap().mtime()), (7, 7));
        assert_eq!(fs::symlink_metadata(done.path("d/l")).unwrap().uid(), 1234);
        assert_eq!(fs::metadata(done.path("")).unwrap().uid(), 1234);
        assert!(fs::symlink_metadata(done.path("pipe")).unwrap().file_type().is_fifo());
        assert_eq!(fs::read_to_string(done.path("f/deep/er")).unwrap(), "new");
        assert_eq!(fs::read_to_string(done.path("d2")).unwrap(), "a file");
    }

    #[test]
    fn what_hides_is_as_the_kernel_wants_it() {
        let done = unpacked(&[
            (Regular, "a/.wh.gone", ""),
            (Regular, "a/.wh..wh..opq", ""),
            (Regular, ".wh..wh.plnk", ""),
            (Regular, ".wh.was", ""),
            (Directory, "was", ""),
            (Directory, "is", ""),
            (Regular, ".wh.is", ""),
            (Regular, ".wh.file", ""),
            (Regular, "file", "x"),
            (Regular, "kept", "x"),
            (Regular, ".wh.kept", ""),
        ]);
        assert_eq!(done.said, "unpacked");
        let gone = fs::symlink_metadata(done.path("a/gone")).unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        let opaque = |name: &str| is_opaque(&fs::File::open(done.path(name)).unwrap());
        assert_eq!(["a", "was", "is", ""].map(opaque), [true, true, true, false]);
        assert_eq!(fs::read_to_string(done.path("file")).unwrap(), "x");
        assert_eq!(fs::read_to_string(done.path("kept")).unwrap(), "x");
        assert_eq!(fs::metadata(done.path("kept")).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn attributes_that_are_a_programs_or_a_users_are_kept() {
        let mut text = Vec::new();
        let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        for (name, value) in [
            ("security.capability", &capability[..]),
            ("user.a", b"b"),
            ("trusted.overlay.opaque", b"y"),
            ("system.x", b""),
        ] {
            let line = [format!(" SCHILY.xattr.{name}=").as_bytes(), value, b"\n"].concat();
            // The length counts itself.
            let length = (line.len()..).find(|length| length - length.to_string().len() == line.len()).unwrap();
            text.extend([length.to_string().as_bytes(), &line].concat());
        }
        let mut bytes = tar_of(&[(tar::EntryType::XHeader, "pax", std::str::from_utf8(&text).unwrap())]);
        bytes.truncate(bytes.len() - 1024);
        bytes.extend(tar_of(&[(Directory, "d", "")]));
        let done = unpacked_with(&bytes, BOUNDS);
        // A folder has no capability: the kernel says so, or takes it.
        assert!(!done.path("d").exists() || !is_opaque(&fs::File::open(done.path("d")).unwrap()), "{}", done.said);
        let mut bytes = tar_of(&[(tar::EntryType::XHeader, "pax", std::str::from_utf8(&text).unwrap())]);
        bytes.truncate(bytes.len() - 1024);
        bytes.extend(tar_of(&[(Regular, "f", "x")]));
        let done = unpacked_with(&bytes, BOUNDS);
        assert_eq!(done.said, "unpacked");
        let file = fs::File::open(done.path("f")).unwrap();
        let mut value = [0; 64];
        assert_eq!(rustix::fs::fgetxattr(&file, "security.capability", &mut value), Ok(capability.len()));
        assert_eq!(rustix::fs::fgetxattr(&file, "user.a", &mut value), Ok(1));
        assert!(rustix::fs::fgetxattr(&file, OPAQUE, &mut value).is_err());
    }

    #[test]
    fn whoever_does_not_need_it_any_more_stops_it() {
        let dir = tempfile::tempdir().unwrap();
        let layer = tar_of(&[(Regular, "x", "")]);
        let stop = AtomicBool::new(true);
        let error = unpack(&layer[..], Kind::Changes, dir.path(), BOUNDS, &stop).unwrap_err();
        assert!(matches!(error, Refusal::Stopped));
    }
}
