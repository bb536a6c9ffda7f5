//! Projects of XFS: a number that files bear, which those made in a folder have from it; and what all files of one project together
//! take of their file system, and may take.
//!
//! Everything is asked through a file that is open, so no path is looked up, and no device found by its name.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// As `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR` have it.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

/// What is made in a folder has its project.
const INHERIT: u32 = 0x200;
const GET: libc::c_ulong = 0x801c_581f;
const SET: libc::c_ulong = 0x401c_5820;

/// As quotactl(2) has it for XFS: `fs_disk_quota`, in its first version.
#[repr(C)]
#[derive(Default)]
struct Record {
    version: i8,
    kind: i8,
    fields: u16,
    id: u32,
    hard_blocks: u64,
    soft_blocks: u64,
    hard_files: u64,
    soft_files: u64,
    blocks: u64,
    files: u64,
    timers: [i32; 2],
    warnings: [u16; 2],
    timers_high: [i8; 4],
    realtime_blocks: [u64; 3],
    realtime_timer: i32,
    realtime_warnings: u16,
    padding: [u8; 10],
}

/// A block of these counts.
const BLOCK_BYTES: u64 = 512;
const VERSION: i8 = 1;
const KIND_PROJECT: i8 = 2;
const FIELD_SOFT_BLOCKS: u16 = 1 << 2;
const FIELD_HARD_BLOCKS: u16 = 1 << 3;
/// Of the kind that is for projects.
const OF_PROJECTS: libc::c_uint = 2;
const GET_QUOTA: libc::c_uint = 0x5803;
const SET_LIMITS: libc::c_uint = 0x5804;
const GET_STATE: libc::c_uint = 0x5808;
const PROJECTS_COUNTED: u16 = 1 << 4;
const PROJECTS_LIMITED: u16 = 1 << 5;
const MAGIC: u64 = 0x5846_5342;

fn attributes(file: &impl AsFd) -> io::Result<Attributes> {
    let mut found = Attributes::default();
    // SAFETY: the kernel writes a structure of this size, which is what the number of the call says, and nothing after the call.
    let done = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), GET as _, std::ptr::from_mut(&mut found)) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(found) }
}

fn quotactl<T>(file: &impl AsFd, command: libc::c_uint, id: u32, argument: &mut T) -> io::Result<()> {
    let command = command << 8 | OF_PROJECTS;
    let (descriptor, argument) = (file.as_fd().as_raw_fd(), std::ptr::from_mut(argument));
    // SAFETY: each caller gives what its command reads or writes, at least as large as that; it lives for as long as the call.
    let done = unsafe { libc::syscall(libc::SYS_quotactl_fd, descriptor, command, id, argument) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The project that a file bears; 0 if it bears none.
///
/// # Errors
/// Those of the kernel: its file system has no projects.
pub fn project(file: &impl AsFd) -> io::Result<u32> {
    attributes(file).map(|found| found.project)
}

/// Has a file bear a project, and what is made in it, if it is a folder.
///
/// # Errors
/// Those of the kernel.
pub fn set_project(file: &impl AsFd, project: u32, is_folder: bool) -> io::Result<()> {
    let mut wanted = attributes(file)?;
    wanted.project = project;
    if is_folder {
        wanted.flags |= INHERIT;
    }
    // SAFETY: the kernel reads a structure of this size, which is what the number of the call says.
    let done = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), SET as _, std::ptr::from_ref(&wanted)) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What a project takes, and may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Bytes of the disk that its files take.
    pub used_bytes: u64,
    /// Its files.
    pub files: u64,
    /// From here on it is over; 0 without a limit. In the kernel's own blocks.
    pub soft_bytes: u64,
    /// More than this it cannot take; 0 without a limit.
    pub hard_bytes: u64,
}

/// Of a project on the file system of this file.
///
/// # Errors
/// Those of the kernel.
pub fn quota(file: &impl AsFd, project: u32) -> io::Result<Quota> {
    let mut found = Record { version: VERSION, kind: KIND_PROJECT, id: project, ..Record::default() };
    match quotactl(file, GET_QUOTA, project, &mut found) {
        Ok(()) => Ok(Quota {
            used_bytes: found.blocks * BLOCK_BYTES,
            files: found.files,
            soft_bytes: found.soft_blocks * BLOCK_BYTES,
            hard_bytes: found.hard_blocks * BLOCK_BYTES,
        }),
        // There never was such a project.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Quota::default()),
        Err(error) => Err(error),
    }
}

/// Sets what a project may take on the file system of this file, in whole blocks, up to the next one; 0 is no limit.
///
/// # Errors
/// Those of the kernel.
pub fn limit(file: &impl AsFd, project: u32, soft_bytes: u64, hard_bytes: u64) -> io::Result<()> {
    let mut wanted = Record {
        version: VERSION,
        kind: KIND_PROJECT,
        fields: FIELD_SOFT_BLOCKS | FIELD_HARD_BLOCKS,
        id: project,
        hard_blocks: hard_bytes.div_ceil(BLOCK_BYTES),
        soft_blocks: soft_bytes.div_ceil(BLOCK_BYTES),
        ..Record::default()
    };
    quotactl(file, SET_LIMITS, project, &mut wanted)
}

/// Whether the file system of this file counts what projects take, and keeps them to their limits. None if it is not XFS.
///
/// # Errors
/// Those of the kernel; without quotas, or before Linux 5.14, there is no such call.
pub fn state(file: &impl AsFd) -> io::Result<Option<(bool, bool)>> {
    let found = rustix::fs::fstatfs(file)?;
    if u64::try_from(found.f_type).ok() != Some(MAGIC) {
        return Ok(None);
    }
    // `fs_quota_statv`, which begins with its version and, two bytes on, flags; larger than any of its versions.
    let mut state = [0u64; 64];
    state[0] = u64::from_ne_bytes([1, 0, 0, 0, 0, 0, 0, 0]);
    match quotactl(file, GET_STATE, 0, &mut state) {
        // Quotas are off.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(Some((false, false))),
        done => done?,
    }
    let bytes = state[0].to_ne_bytes();
    let flags = u16::from_ne_bytes([bytes[2], bytes[3]]);
    Ok(Some((flags & PROJECTS_COUNTED != 0, flags & PROJECTS_LIMITED != 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_large_as_the_kernels() {
        assert_eq!((size_of::<Attributes>(), size_of::<Record>()), (28, 112));
        assert_eq!(std::mem::offset_of!(Record, blocks), 40);
        assert_eq!(std::mem::offset_of!(Record, realtime_blocks), 72);
    }

    #[test]
    fn what_is_not_xfs_says_so() {
        let proc = std::fs::File::open("/proc").unwrap();
        assert_eq!(state(&proc).unwrap(), None);
        assert!(project(&proc).is_err());
    }
}
