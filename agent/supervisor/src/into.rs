//! Volumes of a container that runs already: mounted, and taken away again, in the mounts that its processes see. As elsewhere no path
//! is looked up twice, and nothing on it leads out of the sandbox.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, StatVfsMountFlags, fstat, fstatvfs, open, openat, readlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};
use rustix::process::fchdir;

use crate::mounts::{attach, copy, find, memory};
use crate::{sys, users};

/// What is to be found at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The volume, mounted so that nobody writes to it by that path.
    ReadOnly,
    /// The volume, mounted.
    Mounted,
    /// Whatever leads there, unless it is a mount that nobody writes to.
    Linked,
    /// Nothing of it any more.
    Gone,
}

/// One volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where it is on the machine.
    pub place: String,
    /// Where it is found: below the sandbox, without `..`.
    pub path: String,
    /// How.
    pub found: Found,
}

/// Makes it so for a process, in whose mounts its sandbox is at this path. Blocks, for a moment.
///
/// # Errors
/// A sentence: which volume cannot be found as it is to be. Those before it are.
pub fn settle(pid: u32, sandbox: &str, wanted: &[Wanted]) -> Result<(), String> {
    let mounts =
        File::open(format!("/proc/{pid}/ns/mnt")).map_err(|error| format!("cannot enter its mounts: {error}"))?;
    // Who has a number on the disk is who has it there.
    let users = users::of_process(pid).and_then(|path| path.map(File::open).transpose());
    let users = users.map_err(|error| format!("cannot tell its users: {error}"))?;
    // Of this thread alone, which ends.
    std::thread::scope(|scope| {
        let settling = std::thread::Builder::new().spawn_scoped(scope, || {
            // What is the machine's is taken before it is out of sight.
            let volumes =
                wanted.iter().map(|one| Volume::take(one, users.as_ref())).collect::<Result<Vec<_>, String>>()?;
            unshare(CloneFlags::CLONE_FS)
                .and_then(|()| setns(mounts, CloneFlags::CLONE_NEWNS))
                .map_err(|error| format!("cannot enter its mounts: {error}"))?;
            wanted.iter().zip(volumes).try_for_each(|(one, volume)| {
                let failed = |errno: Errno| match errno {
                    Errno::EXIST => format!("cannot mount a volume at '{}': something else is in its place", one.path),
                    errno => format!("cannot mount a volume at '{}': {errno}", one.path),
                };
                settle_one(sandbox, one, volume).map_err(failed)
            })
        });
        let settled = settling.map_err(|error| error.to_string())?.join();
        settled.unwrap_or_else(|_| Err("the thread that mounts ended".to_owned()))
    })
}

/// A volume as it is known among all that may be found, and a mount of it that is nowhere yet.
struct Volume {
    inode: Option<(u64, u64)>,
    tree: Option<OwnedFd>,
}

impl Volume {
    fn take(one: &Wanted, users: Option<&File>) -> Result<Volume, String> {
        let taken = || -> rustix::io::Result<Volume> {
            let folder =
                match open(one.place.as_str(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
                    // It may be destroyed by now.
                    Err(Errno::NOENT) if matches!(one.found, Found::Gone | Found::Linked) => {
                        return Ok(Volume { inode: None, tree: None });
                    }
                    opened => opened?,
                };
            let inode = Some(inode(&folder)?);
            if matches!(one.found, Found::Gone | Found::Linked) {
                return Ok(Volume { inode, tree: None });
            }
            let tree = copy(&folder, true)?;
            if let Some(users) = users {
                sys::map_mount(tree.as_fd(), users.as_fd())?;
            }
            let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
            attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, one.found == Found::ReadOnly);
            sys::set_mount(tree.as_fd(), attributes.bits().into(), 0, true)?;
            Ok(Volume { inode, tree: Some(tree) })
        };
        taken().map_err(|errno| format!("cannot take the volume at {}: {errno}", one.place))
    }
}

fn inode(file: impl AsFd) -> rustix::io::Result<(u64, u64)> {
    let found = fstat(file)?;
    Ok((found.st_dev, found.st_ino))
}

/// Without following anything.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

fn settle_one(sandbox: &str, one: &Wanted, volume: Volume) -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let sandbox = open(sandbox, flags, Mode::empty())?;
    let (above, name) = one.path.rsplit_once('/').unwrap_or(("", &one.path));
    let made = volume.tree.is_some().then_some(true);
    let parent = match find(sandbox.as_fd(), above, BENEATH, made) {
        Err(Errno::NOENT) if made.is_none() => return Ok(()),
        found => found?,
    };
    let there = match openat(&parent, name, flags | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(folder) => Some(folder),
        Err(Errno::NOENT) => None,
        // A link by which it was found until now.
        Err(Errno::LOOP | Errno::NOTDIR) if volume.tree.is_none() => return Ok(()),
        Err(Errno::LOOP | Errno::NOTDIR) => {
            let to = readlinkat(&parent, name, Vec::new()).map_err(|_| Errno::EXIST)?;
            if to.as_bytes() != one.place.as_bytes() {
                return Err(Errno::EXIST);
            }
            unlinkat(&parent, name, AtFlags::empty())?;
            None
        }
        Err(errno) => return Err(errno),
    };
    if let Some(there) = there {
        let is_mounted = volume.inode.is_some() && Some(inode(&there)?) == volume.inode;
        let is_read_only = fstatvfs(&there)?.f_flag.contains(StatVfsMountFlags::RDONLY);
        let stays = match one.found {
            Found::ReadOnly => is_mounted && is_read_only,
            Found::Mounted => is_mounted && !is_read_only,
            Found::Linked => !is_mounted || !is_read_only,
            Found::Gone => !is_mounted,
        };
        if stays {
            return Ok(());
        }
        drop(there);
        if is_mounted {
            // By its name in a folder that is held: this thread has a working directory of its own.
            fchdir(&parent)?;
            match unmount(name, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                // Where users of its own have their mounts, those that it began with stay for as long as it does: what comes is mounted
                // over them, nothing at all as well.
                Err(Errno::INVAL) if volume.tree.is_none() => {
                    let nothing = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
                    let nothing = memory(None, 0o555, nothing, None)?;
                    return attach(nothing, find(parent.as_fd(), name, BENEATH, None)?);
                }
                Err(Errno::INVAL) => {}
                done => done?,
            }
        }
    }
    let Some(tree) = volume.tree else {
        // What somebody has put there since stays.
        let _ = unlinkat(&parent, name, AtFlags::REMOVEDIR);
        return Ok(());
    };
    let at = find(parent.as_fd(), name, BENEATH, Some(true))?;
    attach(tree, at)
}
