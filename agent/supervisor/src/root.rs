//! The root of a container: a folder of the machine, an unpacked image perhaps, that becomes `/` of its process. Nothing in it is
//! believed: it may have been made to mislead whoever sets it up.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, open, symlinkat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::{fchdir, pivot_root};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::mounts::{self, Failure, Mounter, Own, attach, copy, failed, find, make};
use crate::nodes::Node;
use crate::spec::World;
use crate::sys;

const NO_CODE: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Devices that every process has.
const DEVICES: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];
/// The group of terminals, as all distributions have it.
const TERMINALS: u32 = 5;
/// Where programs look for what is elsewhere.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// What tells of the whole machine, and is changed by nobody in a container.
const READ_ONLY: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];
/// What tells too much of the machine.
const MASKED: [&str; 14] = [
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/key-users",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "proc/timer_stats",
    "sys/devices/virtual/powercap",
    "sys/firmware",
    "sys/kernel/security",
];

/// A root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Root {
    /// The folder.
    pub path: String,
    /// Nothing is written to it but what is mounted there.
    pub read_only: bool,
    /// What `/proc` and `/sys` tell of the machine is not hidden.
    pub unmasked: bool,
    /// Its files are the container's: who has a number on the disk is, for users of its own, who has it among them.
    pub mapped: bool,
}

/// Mounts what is wanted, in mounts that are this process's own and have been made so just now. Afterwards it is in its root, if
/// it is to have one, and nothing leads back.
pub(crate) fn enter(wanted: &World, scratch: &str, own: Option<Own<'_>>) -> Result<(), Failure> {
    let taken = mounts::propagating(&wanted.mounts, scratch)?;
    // What the machine mounts later is seen, what is mounted here is not.
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", flags).map_err(failed("have mounts of its own"))?;
    let root = wanted.root.as_ref().map(|root| attached(root, own)).transpose()?;
    if let (Some(root), Some(wanted_root)) = (&root, &wanted.root) {
        system(root.as_fd(), wanted, own)?;
        if !wanted_root.unmasked {
            mask(root.as_fd())?;
        }
    }
    let mounter = Mounter { root: root.as_ref().map(AsFd::as_fd), scratch, own };
    for (mount, taken) in wanted.mounts.iter().zip(taken) {
        mounter.mount(mount, taken)?;
    }
    let (Some(root), Some(wanted_root)) = (root, &wanted.root) else { return Ok(()) };
    if let Some(directory) = &wanted.directory {
        // As every image has it that names one.
        find(root.as_fd(), directory, ResolveFlags::IN_ROOT, Some(true))
            .map_err(failed(format!("find {directory}")))?;
    }
    if wanted_root.read_only {
        sys::set_mount(root.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(), 0, false)
            .map_err(failed("make its root read-only"))?;
    }
    pivot(root.as_fd()).map_err(failed("enter its root"))
}

/// The shared memory of another container, by the file of its mounts: mounted nowhere yet. What is there is whatever that one has.
pub(crate) fn shm_of(mounts: &str) -> Result<OwnedFd, Failure> {
    let taken = || {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let (own, other) = (open("/proc/self/ns/mnt", flags, Mode::empty())?, open(mounts, flags, Mode::empty())?);
        let enter = |file: &OwnedFd| move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Mount));
        enter(&other)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let taken = open("/dev/shm", flags, Mode::empty()).and_then(|shm| copy(shm, false));
        // Back, whatever was found.
        enter(&own)?;
        taken
    };
    taken().map_err(failed("take the shared memory of what it is within"))
}

/// Mounts it; in a root of its own, that is where the process is by now.
pub(crate) fn mount_shm(shm: &OwnedFd, wanted: &World) -> Result<(), Failure> {
    let at = if wanted.root.is_some() {
        let root = open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed("find its root"))?;
        find(root.as_fd(), "dev/shm", ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS, None)
    } else {
        open("/dev/shm", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    };
    at.and_then(|at| attach(shm, at)).map_err(failed("mount /dev/shm"))
}

/// The folder, mounted upon itself. Devices in it are none: images have no business with those of the machine.
fn attached(root: &Root, own: Option<Own<'_>>) -> Result<OwnedFd, Failure> {
    let attached = || {
        let folder = open(root.path.as_str(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let tree = copy(&folder, true)?;
        if let Some(own) = own.filter(|_| root.mapped) {
            sys::map_mount(tree.as_fd(), own.file)?;
        }
        sys::set_mount(tree.as_fd(), MountAttrFlags::MOUNT_ATTR_NODEV.bits().into(), sys::PRIVATE, true)?;
        attach(&tree, &folder)?;
        Ok(tree)
    };
    attached().map_err(failed(format!("mount its root {}", root.path)))
}

/// `/proc`, `/sys` and `/dev`.
fn system(root: BorrowedFd<'_>, wanted: &World, own: Option<Own<'_>>) -> Result<(), Failure> {
    let folder = |path: &str| find(root, path, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS, Some(true));
    let mount = |path: &'static str, tree: rustix::io::Result<OwnedFd>| -> Result<OwnedFd, Failure> {
        let mounted = tree.and_then(|tree| folder(path).and_then(|at| attach(&tree, at)).map(|()| tree));
        mounted.map_err(failed(format!("mount /{path} in its root")))
    };
    let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
    mount("proc", make("proc", &[], NO_CODE))?;
    mount("sys", make("sysfs", &[], NO_CODE | read_only))?;
    // What controls the machine is not shown, unless there is nowhere to show nothing.
    match folder("sys/fs/cgroup") {
        Err(_) => {}
        Ok(_) => drop(mount("sys/fs/cgroup", mounts::memory(None, 0o755, NO_CODE | read_only, own))?),
    }
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let attributes = attributes | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    let dev = mount("dev", mounts::memory(Some(64 << 10), 0o755, attributes, own))?;
    for name in DEVICES {
        device(dev.as_fd(), name, own).map_err(failed(format!("make /dev/{name} in its root")))?;
    }
    for (name, target) in LINKS {
        symlinkat(target, &dev, name).map_err(failed(format!("make /dev/{name} in its root")))?;
    }
    // In the place of what was made above, perhaps: with the permissions that are wanted.
    for node in &wanted.nodes {
        node.make(dev.as_fd(), own).map_err(failed(format!("make /dev/{} in its root", node.path)))?;
    }
    let terminals = own.map_or(TERMINALS, |own| own.outside(TERMINALS)).to_string();
    let options = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", terminals.as_str())];
    let no_code = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    mount("dev/pts", make("devpts", &options, no_code))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let bytes = wanted.shm_bytes.filter(|bytes| *bytes > 0);
    let attributes = attributes | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    mount("dev/shm", mounts::memory(bytes, 0o1777, attributes, own))?;
    // Queues of messages that are not the machine's.
    if wanted.has_queues() {
        match make("mqueue", &[], NO_CODE) {
            // A kernel without any.
            Err(Errno::NODEV) => {}
            made => drop(mount("dev/mqueue", made)?),
        }
    }
    Ok(())
}

/// A device as the machine has it.
fn device(dev: BorrowedFd<'_>, name: &str, own: Option<Own<'_>>) -> rustix::io::Result<()> {
    let found = Node::of(&format!("/dev/{name}"), name);
    found.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOTTY))?.make(dev, own)
}

/// What is not to be seen, or not to be changed.
fn mask(root: BorrowedFd<'_>) -> Result<(), Failure> {
    let look = |path: &str| match find(root, path, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS, None) {
        Err(Errno::NOENT) => Ok(None),
        found => found.map(Some),
    };
    let cover = |path: &'static str, with: &mut dyn FnMut(OwnedFd) -> rustix::io::Result<()>| {
        let covered = look(path).and_then(|found| found.map_or(Ok(()), with));
        covered.map_err(failed(format!("cover /{path} in its root")))
    };
    let attributes = NO_CODE | MountAttrFlags::MOUNT_ATTR_RDONLY;
    for path in READ_ONLY {
        cover(path, &mut |at| {
            let tree = copy(&at, true)?;
            sys::set_mount(tree.as_fd(), attributes.bits().into(), 0, true)?;
            attach(tree, at)
        })?;
    }
    // One for all: a file system costs more to make, and to take away, than all else that is done for a mount.
    let (mut nothing, mut null) = (None, None);
    for path in MASKED {
        cover(path, &mut |at| {
            let with = if FileType::from_raw_mode(rustix::fs::fstat(&at)?.st_mode).is_dir() {
                let Some(nothing) = &nothing else {
                    let made = nothing.insert(mounts::memory(None, 0o555, attributes, None)?);
                    return attach(made, at);
                };
                nothing
            } else {
                match &mut null {
                    Some(null) => null,
                    none => none.insert(look("dev/null")?.ok_or(Errno::NOENT)?),
                }
            };
            attach(copy(with, false)?, at)
        })?;
    }
    Ok(())
}

/// The old root goes, with all that was mounted there.
fn pivot(root: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old = rustix::fs::openat(CWD, "/", flags, Mode::empty())?;
    fchdir(root)?;
    pivot_root(".", ".")?;
    fchdir(&old)?;
    // Whatever it was: what happens to it here happens nowhere else.
    mount_change(".", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}
