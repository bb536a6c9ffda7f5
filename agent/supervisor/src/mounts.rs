//! What is mounted for a container's process, in mounts of its own: nothing of it is seen outside, and all of it is gone with the
//! last process that sees it.
//!
//! Whoever runs in a container may own folders on the way to where something is mounted, or taken from, and change them
//! meanwhile. So no path is looked up twice: what was found is held by a descriptor, and mounted from and to descriptors.

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, fstat, mkdirat, open, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use rustix::mount::{fsconfig_create, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount};
use serde_json::{Value, json};

use crate::sys;
use crate::users::{As, Users};

/// Permissions of folders that are made on the way.
const MADE: u32 = 0o755;

/// Where something is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// A folder that is what it is said to be: where `path` begins, and what nothing on it leads out of. None for the root.
    pub folder: Option<String>,
    /// The path; empty for the folder itself.
    pub path: String,
}

impl Place {
    /// An absolute path, that whoever asked for it answers for.
    pub fn absolute(path: impl Into<String>) -> Place {
        Place { folder: None, path: path.into() }
    }

    /// Below a folder, whoever may write there.
    pub fn below(folder: impl Into<String>, path: impl Into<String>) -> Place {
        Place { folder: Some(folder.into()), path: path.into() }
    }
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file or a folder of the machine. Below a folder of its own, one that is missing is made, a folder, its owner's.
    Path(Place),
    /// An empty file system in memory, of so many bytes, if bounded: with these permissions.
    Memory(Option<u64>, u32),
    /// A file in memory with this content, which its user alone reads: uid and gid.
    Content(Vec<u8>, u32, u32),
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What.
    pub source: Source,
    /// Where, as the process will see it. With a root of its own, or below a folder, what is missing is made.
    pub target: Place,
    /// Nobody writes there by it.
    pub read_only: bool,
    /// With what is mounted below the source.
    pub recursive: bool,
    /// Devices in it are none.
    pub no_devices: bool,
    /// What is mounted in it by the process is mounted for the machine, too.
    pub propagates: bool,
    /// Its files are containers': who has a number on the disk is, for users of a container's own, who has it among them. The files
    /// of others are those of nobody for them.
    pub mapped: bool,
}

impl Mount {
    /// A file or a folder of the machine, and what is mounted in it.
    pub fn bind(source: Place, target: Place) -> Mount {
        let source = Source::Path(source);
        Mount { source, target, read_only: false, recursive: true, no_devices: false, propagates: false, mapped: false }
    }

    /// A file system in memory.
    pub fn memory(bytes: Option<u64>, mode: u32, target: Place) -> Mount {
        let source = Source::Memory(bytes, mode);
        Mount { source, target, read_only: false, recursive: false, no_devices: true, propagates: false, mapped: false }
    }

    /// As it is handed over.
    pub(crate) fn encode(&self) -> String {
        let place = |place: &Place| json!([place.folder, place.path]);
        let source = match &self.source {
            Source::Path(found) => json!({ "path": place(found) }),
            Source::Memory(bytes, mode) => json!({ "memory": [bytes, mode] }),
            Source::Content(bytes, uid, gid) => {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                json!({ "content": [hex, uid, gid] })
            }
        };
        let Mount { read_only, recursive, no_devices, propagates, mapped, .. } = self;
        json!([source, place(&self.target), read_only, recursive, no_devices, propagates, mapped]).to_string()
    }

    /// As it was.
    pub(crate) fn decode(text: &str) -> Option<Mount> {
        let value: Value = serde_json::from_str(text).ok()?;
        let place = |value: &Value| -> Option<Place> {
            let folder = value.get(0)?.as_str().map(str::to_owned);
            Some(Place { folder, path: value.get(1)?.as_str()?.to_owned() })
        };
        let number = |value: Option<&Value>| value?.as_u64().and_then(|number| u32::try_from(number).ok());
        let said = value.get(0)?;
        let source = match (said.get("path"), said.get("memory"), said.get("content")) {
            (Some(found), ..) => Source::Path(place(found)?),
            (_, Some(memory), _) => Source::Memory(memory.get(0)?.as_u64(), number(memory.get(1))?),
            (.., Some(file)) => {
                let hex = file.get(0)?.as_str()?.as_bytes();
                let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
                let bytes = hex.chunks(2).map(byte).collect::<Option<Vec<u8>>>()?;
                Source::Content(bytes, number(file.get(1))?, number(file.get(2))?)
            }
            _ => return None,
        };
        let flag = |n: usize| value.get(n)?.as_bool();
        Some(Mount {
            source,
            target: place(value.get(1)?)?,
            read_only: flag(2)?,
            recursive: flag(3)?,
            no_devices: flag(4)?,
            propagates: flag(5)?,
            // Agents of before do not say it.
            mapped: flag(6).unwrap_or_default(),
        })
    }
}

/// What could not be done, and why.
pub(crate) type Failure = (Cow<'static, str>, Errno);

pub(crate) fn failed(what: impl Into<Cow<'static, str>>) -> impl FnOnce(Errno) -> Failure {
    let what = what.into();
    move |error| (what, error)
}

/// A copy of what is mounted at a descriptor, which is mounted nowhere yet.
pub(crate) fn copy(from: impl AsFd, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(from, "", flags)
}

/// Mounts at a descriptor what is mounted nowhere yet.
pub(crate) fn attach(mount: impl AsFd, at: impl AsFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", at, "", flags)
}

/// A file system without a disk, mounted nowhere yet.
pub(crate) fn make(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in options {
        fsconfig_set_string(context.as_fd(), *name, *value)?;
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Makes something in a folder: as the folder's owner, where owners are mapped and root of the machine is nobody.
fn as_owner<T>(folder: &OwnedFd, make: impl Fn() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    match make() {
        Err(Errno::OVERFLOW) => {
            let found = fstat(folder)?;
            let _as = As::owner((found.st_uid.into(), found.st_gid.into()));
            make()
        }
        made => made,
    }
}

/// Finds a path below a folder; what is missing is made, if it is `made` as a folder or as a file.
pub(crate) fn find(
    folder: BorrowedFd<'_>,
    path: &str,
    how: ResolveFlags,
    made: Option<bool>,
) -> rustix::io::Result<OwnedFd> {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(Errno::XDEV);
    }
    let how = how | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let look = |parts: &[&str]| {
        let path = if parts.is_empty() { ".".to_owned() } else { parts.join("/") };
        openat2(folder, path, flags, Mode::empty(), how)
    };
    let is_folder = match (look(&parts), made) {
        (Err(Errno::NOENT), Some(is_folder)) => is_folder,
        (found, _) => return found,
    };
    let mut at = look(&[])?;
    for n in 1..=parts.len() {
        let name = parts[n - 1];
        at = match look(&parts[..n]) {
            Err(Errno::NOENT) => {
                if n == parts.len() && !is_folder {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    as_owner(&at, || openat(&at, name, flags, Mode::from_raw_mode(0o644)))?;
                } else {
                    match as_owner(&at, || mkdirat(&at, name, Mode::from_raw_mode(MADE))) {
                        Err(Errno::EXIST) => {}
                        done => done?,
                    }
                }
                // Its owner's, as what is around it. Where it was replaced meanwhile, that is not followed.
                let around = fstat(&at)?;
                let found = openat(&at, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
                if around.st_uid != 0 {
                    let (uid, gid) = (Uid::from_raw(around.st_uid), Gid::from_raw(around.st_gid));
                    chownat(&found, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
                }
                found
            }
            found => found?,
        };
    }
    Ok(at)
}

/// Within mounts of its own: takes and mounts. `root` is that of the process, if it has one of its own; `scratch` a folder of the
/// machine that may be covered for a moment.
pub(crate) struct Mounter<'a> {
    pub(crate) root: Option<BorrowedFd<'a>>,
    pub(crate) scratch: &'a str,
    pub(crate) own: Option<Own<'a>>,
}

/// Users of the container's own: the file that stands for them, and whom they are on the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own<'a> {
    pub(crate) file: BorrowedFd<'a>,
    pub(crate) users: Users,
}

impl Own<'_> {
    /// Who one of the container's is on the machine; of those that it has not, nobody: its last.
    pub(crate) fn outside(self, within: u32) -> u32 {
        self.users.outside(within).unwrap_or(self.users.first + self.users.count - 1)
    }
}

/// Copies of what is to propagate: taken while it is the machine's as well.
pub(crate) fn propagating(mounts: &[Mount], scratch: &str) -> Result<Vec<Option<OwnedFd>>, Failure> {
    let one = |mount: &Mount| match &mount.source {
        Source::Path(place) if mount.propagates => {
            let found = source(place, scratch)?;
            copy(&found, mount.recursive).map(Some).map_err(failed(format!("take {}", place.path)))
        }
        _ => Ok(None),
    };
    mounts.iter().map(one).collect()
}

/// A folder that is what it is said to be. That of a container within another one is in that one's sandbox: below the folder of all
/// containers no link is followed to it.
fn known(folder: &str, scratch: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // The folder of their files is in it, at `meta/containers`.
    let work_dir = Path::new(scratch).ancestors().nth(2);
    let below = work_dir.and_then(|work_dir| Some((work_dir, Path::new(folder).strip_prefix(work_dir).ok()?)));
    match below.filter(|(_, below)| !below.as_os_str().is_empty()) {
        None => open(folder, flags, Mode::empty()),
        Some((work_dir, below)) => {
            let work_dir = open(work_dir, flags - OFlags::NOFOLLOW, Mode::empty())?;
            openat2(&work_dir, below, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
        }
    }
}

/// A file or a folder of the machine.
fn source(place: &Place, scratch: &str) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = match &place.folder {
        None => open(place.path.as_str(), flags, Mode::empty()),
        Some(folder) => known(folder, scratch)
            .and_then(|folder| find(folder.as_fd(), &place.path, ResolveFlags::BENEATH, Some(true))),
    };
    found.map_err(failed(format!("find {}", place.path)))
}

impl Mounter<'_> {
    /// Mounts one. `taken` if it was taken before.
    pub(crate) fn mount(&self, mount: &Mount, taken: Option<OwnedFd>) -> Result<(), Failure> {
        let (tree, is_folder) = match taken {
            Some(tree) => {
                let is_folder = is_folder(&tree).map_err(failed(format!("look at {}", mount.target.path)))?;
                (tree, is_folder)
            }
            None => self.take(mount)?,
        };
        if let Some(own) = self.own.filter(|_| mount.mapped) {
            sys::map_mount(tree.as_fd(), own.file)
                .map_err(failed(format!("let the container own files at {} (mount_setattr)", mount.target.path)))?;
        }
        let mut attributes = MountAttrFlags::empty();
        attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, mount.read_only);
        attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, mount.no_devices);
        if !attributes.is_empty() {
            sys::set_mount(tree.as_fd(), attributes.bits().into(), 0, mount.recursive)
                .map_err(failed(format!("bound {}", mount.target.path)))?;
        }
        let at = self.target(&mount.target, is_folder).map_err(failed(format!("find {}", mount.target.path)))?;
        attach(tree, at).map_err(failed(format!("mount {}", mount.target.path)))
    }

    /// What is to be mounted, and whether it is a folder.
    fn take(&self, mount: &Mount) -> Result<(OwnedFd, bool), Failure> {
        let what = || format!("take what is to be mounted at {}", mount.target.path);
        match &mount.source {
            Source::Path(place) => {
                let found = source(place, self.scratch)?;
                let is_folder = is_folder(&found).map_err(failed(what()))?;
                Ok((copy(found, mount.recursive).map_err(failed(what()))?, is_folder))
            }
            Source::Memory(bytes, mode) => {
                let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
                Ok((memory(*bytes, *mode, attributes, self.own).map_err(failed(what()))?, true))
            }
            Source::Content(bytes, uid, gid) => {
                let owner = |id: u32| self.own.map_or(id, |own| own.outside(id));
                let made = self.content(bytes, owner(*uid), owner(*gid));
                Ok((made.map_err(failed(what()))?, false))
            }
        }
    }

    /// A file in memory. It is mounted for a moment: of what is mounted nowhere no part can be taken.
    fn content(&self, bytes: &[u8], uid: u32, gid: u32) -> rustix::io::Result<OwnedFd> {
        let attributes =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let memory = memory(None, 0o700, attributes, None)?;
        let scratch = open(self.scratch, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        attach(&memory, &scratch)?;
        let taken = || {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = openat(&memory, "content", flags, Mode::from_raw_mode(0o400))?;
            let mut rest = bytes;
            while !rest.is_empty() {
                let written = rustix::io::write(&file, rest)?;
                rest = &rest[written..];
            }
            rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            let found = openat(&memory, "content", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            copy(found, false)
        };
        let taken = taken();
        unmount(self.scratch, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
        taken
    }

    /// Where it is to be mounted.
    fn target(&self, place: &Place, is_folder: bool) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let made = Some(is_folder);
        let at = match (self.root, &place.folder) {
            // What the machine does not have is not made for one container.
            (None, None) => return open(place.path.as_str(), flags, Mode::empty()),
            (Some(root), None) => return find(root, &place.path, ResolveFlags::IN_ROOT, made),
            (None, Some(folder)) => known(folder, self.scratch)?,
            (Some(root), Some(folder)) => find(root, folder, ResolveFlags::IN_ROOT, Some(true))?,
        };
        find(at.as_fd(), &place.path, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS, made)
    }
}

fn is_folder(found: &OwnedFd) -> rustix::io::Result<bool> {
    Ok(rustix::fs::FileType::from_raw_mode(fstat(found)?.st_mode).is_dir())
}

/// A file system in memory: root's of the container, if it has users of its own.
pub(crate) fn memory(
    bytes: Option<u64>,
    mode: u32,
    attributes: MountAttrFlags,
    own: Option<Own<'_>>,
) -> rustix::io::Result<OwnedFd> {
    let (mode, size) = (format!("{mode:o}"), bytes.map(|bytes| bytes.to_string()));
    let root = own.map(|own| own.users.first.to_string());
    let options = [("mode", Some(&mode)), ("size", size.as_ref()), ("uid", root.as_ref()), ("gid", root.as_ref())];
    let options: Vec<(&str, &str)> =
        options.into_iter().filter_map(|(name, value)| Some((name, value?.as_str()))).collect();
    make("tmpfs", &options, attributes)
}

/// Whether this machine can do what is needed here. The error is a sentence.
///
/// # Errors
/// It cannot.
pub fn check_machine() -> Result<(), String> {
    let can = || {
        let root = openat2(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)?;
        let tree = copy(root, false)?;
        sys::set_mount(tree.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(), 0, false)
    };
    can().map_err(|error: Errno| {
        format!("mounts of a container's own need root and Linux 5.12 (openat2, open_tree, mount_setattr): {error}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_handed_over_unharmed() {
        let target = Place::below("/mnt/mesos/sandbox", "a b/\"c");
        let all = [
            Mount { read_only: true, propagates: true, ..Mount::bind(Place::absolute("/x:y"), target.clone()) },
            Mount { recursive: false, mapped: true, ..Mount::bind(Place::below("/s", ""), Place::absolute("/data")) },
            Mount::memory(Some(1 << 40), 0o1777, Place::absolute("/tmp")),
            Mount { source: Source::Content(b"line\n'\0\xff".to_vec(), 7, 8), ..Mount::memory(None, 0, target) },
        ];
        for mount in all {
            assert_eq!(Mount::decode(&mount.encode()), Some(mount));
        }
        assert_eq!(Mount::decode("[]"), None);
    }

    /// What is looked for below a folder is found there, or not at all.
    #[test]
    fn nothing_leads_out_of_a_folder() {
        use std::fs;
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
        fs::create_dir_all(inside.join("there")).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink(&outside, inside.join("out")).unwrap();
        symlink("../outside", inside.join("up")).unwrap();
        symlink("there", inside.join("near")).unwrap();
        let folder = open(&inside, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let strict = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let found = |path: &str, how| find(folder.as_fd(), path, how, Some(true)).map(drop);
        for path in ["out/x", "up/x", "near/x", "../outside", "there/../../outside", "out", "near"] {
            assert!(found(path, strict).is_err(), "{path}");
        }
        for path in ["out/x", "up/x", "../outside", "out"] {
            assert!(found(path, ResolveFlags::BENEATH).is_err(), "{path}");
        }
        assert_eq!(found("near/y", ResolveFlags::BENEATH), Ok(()));
        assert_eq!(found("a//b/./c", strict), Ok(()));
        assert!(inside.join("a/b/c").is_dir() && inside.join("there/y").is_dir());
        find(folder.as_fd(), "a/file", strict, Some(false)).unwrap();
        assert!(inside.join("a/file").is_file());
        // A root of its own: links lead somewhere within it, or nowhere.
        assert!(found("up/x", ResolveFlags::IN_ROOT).is_err());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}
