//! Files of devices in the `/dev` of a container with a root of its own: made there, and taken from nobody. Which of them may be used
//! is for its control group to say.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, chmodat, chownat, major, makedev, minor, mkdirat, mknodat,
};
use rustix::fs::{open, openat, unlinkat};
use rustix::io::Errno;

use crate::mounts::{Own, attach, copy};

/// The file of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where it is, below `/dev`: `fuse`, `net/tun`.
    pub path: String,
    /// A block device, or else a character device.
    pub is_block: bool,
    /// The device's first number.
    pub major: u32,
    /// Its second.
    pub minor: u32,
    /// Who may read and write: bits as of a file.
    pub mode: u32,
}

impl Node {
    /// The same as a file of the machine, below `/dev` at `path`.
    ///
    /// # Errors
    /// There is none, or it is no device.
    pub fn of(file: &str, path: &str) -> std::io::Result<Node> {
        let found = fs::metadata(file)?;
        let kind = found.file_type();
        if !kind.is_block_device() && !kind.is_char_device() {
            return Err(std::io::Error::other(format!("{file} is no device")));
        }
        Ok(Node {
            path: path.to_owned(),
            is_block: kind.is_block_device(),
            major: major(found.rdev()),
            minor: minor(found.rdev()),
            mode: found.mode() & 0o777,
        })
    }

    /// As it is handed over.
    pub(crate) fn encode(&self) -> String {
        let Node { path, is_block, major, minor, mode } = self;
        format!("{} {major}:{minor} {mode:o} {path}", if *is_block { 'b' } else { 'c' })
    }

    /// As it was.
    pub(crate) fn decode(text: &str) -> Option<Node> {
        let mut words = text.splitn(4, ' ');
        let is_block = match words.next()? {
            "b" => true,
            "c" => false,
            _ => return None,
        };
        let (major, minor) = words.next()?.split_once(':')?;
        let mode = u32::from_str_radix(words.next()?, 8).ok()?;
        let path = words.next()?.to_owned();
        Some(Node { path, is_block, major: major.parse().ok()?, minor: minor.parse().ok()?, mode })
    }

    /// Makes it in a `/dev` that nobody else sees yet, with the folders on the way, and in the place of what is there.
    /// Root's of the container, if that has users of its own.
    pub(crate) fn make(&self, dev: BorrowedFd<'_>, own: Option<Own<'_>>) -> rustix::io::Result<()> {
        let (parent, name) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at = openat(dev, ".", folder, Mode::empty())?;
        for part in parent.split('/').filter(|part| !part.is_empty()) {
            match mkdirat(&at, part, Mode::empty()) {
                // Whatever the mask is.
                Ok(()) => chmodat(&at, part, Mode::from_raw_mode(0o755), AtFlags::empty())?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            at = openat(&at, part, folder, Mode::empty())?;
        }
        let parent = at;
        match unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        let kind = if self.is_block { FileType::BlockDevice } else { FileType::CharacterDevice };
        let mode = Mode::from_raw_mode(self.mode);
        match mknodat(&parent, name, kind, mode, makedev(self.major, self.minor)) {
            // Whoever may make none has the machine's mounted, with the machine's permissions.
            Err(Errno::PERM) => {
                let path = format!("/dev/{}", self.path);
                let machines = Node::of(&path, &self.path).map_err(|_| Errno::PERM)?;
                if (machines.is_block, machines.major, machines.minor) != (self.is_block, self.major, self.minor) {
                    return Err(Errno::PERM);
                }
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                openat(&parent, name, flags, Mode::from_raw_mode(0o644))?;
                let at = openat(&parent, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
                let found = open(path.as_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
                attach(copy(found.as_fd(), false)?, at)
            }
            Err(error) => Err(error),
            Ok(()) => {
                let root = own.map(|own| own.users.first);
                let (uid, gid) = (root.map(Uid::from_raw), root.map(Gid::from_raw));
                chownat(&parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
                chmodat(&parent, name, mode, AtFlags::empty())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_devices_are_handed_over_unharmed() {
        let fuse = Node { path: "fu se".into(), is_block: false, major: 10, minor: 229, mode: 0o606 };
        for node in [Node { path: "a/b".into(), is_block: true, major: u32::MAX, minor: 0, mode: 0 }, fuse] {
            assert_eq!(Node::decode(&node.encode()), Some(node));
        }
        assert_eq!(Node::decode("c 1:3 666"), None);
        let null = Node::of("/dev/null", "null").unwrap();
        assert_eq!(null.encode(), format!("c 1:3 {:o} null", null.mode));
        assert!(Node::of("/", "x").unwrap_err().to_string().contains("no device"));
    }
}
