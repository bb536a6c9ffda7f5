//! Opens what lies beneath a folder that strangers write to, in one step: no name is looked at first and opened later,
//! so there is nothing to exchange between the two.

use std::ffi::OsStr;
use std::fs::{File, Metadata, ReadDir};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;

/// Attempts while others rename folders on the way: the kernel then says "again" rather than something wrong.
const ATTEMPTS: usize = 128;

/// Something found: it stays the same file or folder, whatever becomes of its name. Finding it neither waits nor has
/// an effect on what it is, a named pipe or a device too.
#[derive(Debug)]
pub(crate) struct Found {
    descriptor: OwnedFd,
    /// Of what was found itself.
    pub(crate) metadata: Metadata,
}

/// Finds `path`, which is relative, beneath `root`. Links are followed while they do not lead out; an absolute one
/// does. An empty path is `root` itself.
pub(crate) fn find(root: &Path, path: &str) -> io::Result<Found> {
    let found = OFlag::O_PATH | OFlag::O_CLOEXEC;
    // Who could exchange the last name of the root would be served what they liked.
    let top = nix::fcntl::open(root, found | OFlag::O_NOFOLLOW, Mode::empty())?;
    let descriptor = if path.is_empty() { top } else { beneath(&top, path, found)? };
    // Of the descriptor: its name may be another's by now.
    let file = File::from(descriptor);
    let metadata = file.metadata()?;
    Ok(Found { descriptor: file.into(), metadata })
}

fn beneath(top: &OwnedFd, path: &str, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    for _ in 0..ATTEMPTS {
        match openat2(top, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // Before Linux 5.6, or forbidden by a filter that does not know it.
            Err(Errno::ENOSYS | Errno::EPERM) => return step_by_step(top, Path::new(path), flags),
            Err(Errno::EXDEV | Errno::ELOOP) => return Err(Errno::ENOENT),
            done => return done,
        }
    }
    Err(Errno::EAGAIN)
}

/// The same without the kernel's help: no link is followed.
fn step_by_step(top: &OwnedFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let mut at = top.try_clone().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    for part in path.components() {
        let Component::Normal(name) = part else { return Err(Errno::ENOENT) };
        at = openat(&at, name, flags | OFlag::O_NOFOLLOW, Mode::empty())?;
        let kind = nix::sys::stat::fstat(&at)?.st_mode & nix::libc::S_IFMT;
        if kind == nix::libc::S_IFLNK {
            return Err(Errno::ENOENT);
        }
    }
    Ok(at)
}

impl Found {
    /// By its descriptor, through the one way that opens just this inode again.
    fn again(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(OsStr::new(&self.descriptor.as_fd().as_raw_fd().to_string()))
    }

    /// Opens a regular file for reading; anything else must not be opened.
    pub(crate) fn open(&self) -> io::Result<File> {
        File::open(self.again())
    }

    /// The entries of a folder. Their metadata is of the entries themselves, not of what links lead to.
    pub(crate) fn entries(&self) -> io::Result<ReadDir> {
        std::fs::read_dir(self.again())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn without_help_of_the_kernel_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/c"), "c").unwrap();
        symlink("b", dir.path().join("a/link")).unwrap();
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let top = nix::fcntl::open(dir.path(), flags, Mode::empty()).unwrap();
        assert!(step_by_step(&top, Path::new("a/b/c"), flags).is_ok());
        for refused in ["a/link", "a/link/c", "a/../a", "/etc", "a/none"] {
            assert!(step_by_step(&top, Path::new(refused), flags).is_err(), "{refused}");
        }
    }

    #[test]
    fn links_are_followed_as_far_as_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/c"), "c").unwrap();
        symlink("b/../b", dir.path().join("a/link")).unwrap();
        symlink("../out", dir.path().join("a/up")).unwrap();
        symlink("/etc", dir.path().join("a/etc")).unwrap();
        symlink("/proc/self/root", dir.path().join("a/magic")).unwrap();
        std::fs::write(dir.path().join("out"), "secret").unwrap();
        symlink(dir.path().join("a"), dir.path().join("root")).unwrap();
        let root = dir.path().join("a");
        assert!(find(&root, "link/c").unwrap().metadata.is_file());
        assert!(find(&root, "").unwrap().metadata.is_dir());
        for refused in ["up", "etc", "etc/passwd", "magic", "none"] {
            let error = find(&root, refused).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{refused}");
        }
        assert!(find(&dir.path().join("root"), "link").is_err(), "the root is no link");
    }
}
