//! Whole folders: removed, however deep somebody made them, and layers copied over each other. Nothing here follows a link.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fgetxattr, flistxattr, fsetxattr, fstat, futimens, linkat, mkdirat, mknodat, openat, readlinkat, renameat,
    statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::layer::{is_opaque, is_whiteout};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
/// So many folders are open within each other; what is deeper is moved up first.
const DEPTH_MAX: usize = 64;
/// Folders within each other of a layer that is copied.
const COPY_DEPTH_MAX: usize = 2048;

fn names(folder: BorrowedFd<'_>) -> Result<Vec<(std::ffi::CString, FileType)>, Errno> {
    let mut found = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            found.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    Ok(found)
}

/// Removes what has this name in a folder, with all that is in it; also if there is none. What is mounted in it is not touched, and
/// is an error.
pub(crate) fn remove(folder: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let top = openat(folder, name, FOLDER, Mode::empty())?;
    let device = fstat(&top)?.st_dev;
    let mut moved = 0;
    loop {
        let before = moved;
        empty(top.as_fd(), top.as_fd(), device, 0, &mut moved)?;
        if moved == before {
            return unlinkat(folder, name, AtFlags::REMOVEDIR);
        }
    }
}

fn empty(top: BorrowedFd<'_>, at: BorrowedFd<'_>, device: u64, depth: usize, moved: &mut u64) -> Result<(), Errno> {
    for (name, _) in names(at)? {
        match unlinkat(at, &name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {}
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        }
        if depth >= DEPTH_MAX {
            // Its name may be taken: then the next one is not.
            while let Err(errno) = renameat(at, &name, top, format!(".meseta-removed-{moved}")) {
                if !matches!(errno, Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) {
                    return Err(errno);
                }
                *moved += 1;
            }
            *moved += 1;
            continue;
        }
        let inner = openat(at, &name, FOLDER, Mode::empty())?;
        if fstat(&inner)?.st_dev != device {
            return Err(Errno::BUSY);
        }
        empty(top, inner.as_fd(), device, depth + 1, moved)?;
        match unlinkat(at, &name, AtFlags::REMOVEDIR) {
            // What was too deep is in the top one now, which this is.
            Err(Errno::NOTEMPTY) if depth == 0 => *moved += 1,
            done => done?,
        }
    }
    Ok(())
}

/// The same by a path, the last part of which is what is removed.
pub(crate) fn remove_path(path: &std::path::Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = match openat(CWD, parent, FOLDER, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let name = std::ffi::CString::new(name.as_bytes())?;
    remove(folder.as_fd(), &name).map_err(io::Error::from)
}

/// Copies a layer over what is in a folder already: what it hides goes.
pub(crate) fn copy_over(layer: &OwnedFd, into: &OwnedFd) -> io::Result<()> {
    let mut links = std::collections::HashMap::new();
    copy_folder(layer.as_fd(), into.as_fd(), into.as_fd(), &mut std::path::PathBuf::new(), &mut links, 0)?;
    Ok(())
}

/// Gives a folder the owner, the permissions and the attributes of another.
pub(crate) fn settle_as(from: &OwnedFd, into: &OwnedFd) -> io::Result<()> {
    settle(into.as_fd(), &fstat(from)?)?;
    Ok(attributes(from.as_fd(), into.as_fd())?)
}

type Links = std::collections::HashMap<(u64, u64), std::path::PathBuf>;

fn copy_folder(
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    root: BorrowedFd<'_>,
    path: &mut std::path::PathBuf,
    links: &mut Links,
    depth: usize,
) -> Result<(), Errno> {
    if depth > COPY_DEPTH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    if is_opaque(&from) {
        for (name, _) in names(into)? {
            remove(into, &name)?;
        }
    }
    for (name, _) in names(from)? {
        let found = statat(from, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(found.st_mode);
        let there = match statat(into, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => None,
            there => Some(FileType::from_raw_mode(there?.st_mode)),
        };
        if there.is_some_and(|there| kind != FileType::Directory || there != FileType::Directory) {
            remove(into, &name)?;
        }
        if is_whiteout(&found) {
            continue;
        }
        path.push(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name.to_bytes()));
        if kind == FileType::Directory {
            if there != Some(FileType::Directory) {
                mkdirat(into, &name, Mode::from_raw_mode(0o700))?;
            }
            let (inner_from, inner_into) =
                (openat(from, &name, FOLDER, Mode::empty())?, openat(into, &name, FOLDER, Mode::empty())?);
            copy_folder(inner_from.as_fd(), inner_into.as_fd(), root, path, links, depth + 1)?;
        } else if let Some(first) = links.get(&(found.st_dev, found.st_ino)) {
            // Of this layer, where nothing is a link but what was just made.
            linkat(root, first, into, &name, AtFlags::empty())?;
        } else {
            copy_one(from, into, &name, &found, kind)?;
            if found.st_nlink > 1 {
                links.insert((found.st_dev, found.st_ino), path.clone());
            }
        }
        path.pop();
    }
    let own = fstat(from)?;
    settle(into, &own)?;
    attributes(from, into)?;
    futimens(into, &times(&own))
}

fn copy_one(
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    name: &CStr,
    found: &Stat,
    kind: FileType,
) -> Result<(), Errno> {
    let owner = |found: &Stat| (Some(Uid::from_raw(found.st_uid)), Some(Gid::from_raw(found.st_gid)));
    let (user, group) = owner(found);
    match kind {
        FileType::RegularFile => {
            let reading = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let writing = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let source = openat(from, name, reading, Mode::empty())?;
            let target = openat(into, name, writing, Mode::from_raw_mode(0o600))?;
            let (mut source, mut target) = (std::fs::File::from(source), std::fs::File::from(target));
            // In one step where the file system can.
            if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
                let copied = io::copy(&mut source, &mut target);
                copied.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            }
            settle(target.as_fd(), found)?;
            attributes(source.as_fd(), target.as_fd())?;
            futimens(&target, &times(found))
        }
        FileType::Symlink => {
            let link = readlinkat(from, name, Vec::new())?;
            symlinkat(&link, into, name)?;
            chownat(into, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
            utimensat(into, name, &times(found), AtFlags::SYMLINK_NOFOLLOW)
        }
        FileType::Fifo => {
            mknodat(into, name, FileType::Fifo, Mode::from_raw_mode(found.st_mode & 0o777), 0)?;
            chownat(into, name, user, group, AtFlags::SYMLINK_NOFOLLOW)
        }
        // There are no others in layers.
        _ => Ok(()),
    }
}

fn settle(file: BorrowedFd<'_>, found: &Stat) -> Result<(), Errno> {
    fchown(file, Some(Uid::from_raw(found.st_uid)), Some(Gid::from_raw(found.st_gid)))?;
    fchmod(file, Mode::from_raw_mode(found.st_mode & 0o7777))
}

fn attributes(from: BorrowedFd<'_>, into: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut list = vec![0; 64 << 10];
    let length = match flistxattr(from, &mut list[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        length => length?,
    };
    for name in list[..length].split(|byte| *byte == 0) {
        if name == b"security.capability" || name.starts_with(b"user.") {
            let mut value = vec![0; 64 << 10];
            let length = fgetxattr(from, name, &mut value[..])?;
            fsetxattr(into, name, &value[..length], XattrFlags::empty())?;
        }
    }
    Ok(())
}

fn times(found: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: found.st_mtime, tv_nsec: found.st_mtime_nsec as _ };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    #[test]
    fn what_is_deeper_than_paths_can_be_is_removed_and_no_link_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("outside"), "x").unwrap();
        let top = dir.path().join("top");
        fs::create_dir(&top).unwrap();
        symlink(dir.path(), top.join("link")).unwrap();
        fs::create_dir(top.join(".meseta-removed-0")).unwrap();
        fs::write(top.join(".meseta-removed-0/x"), "x").unwrap();
        let mut at = openat(CWD, &top, FOLDER, Mode::empty()).unwrap();
        for _ in 0..3000 {
            mkdirat(&at, "deeper", Mode::from_raw_mode(0o755)).unwrap();
            at = openat(&at, "deeper", FOLDER, Mode::empty()).unwrap();
        }
        remove_path(&top).unwrap();
        assert!(!top.exists() && dir.path().join("outside").exists());
        remove_path(&top).unwrap();
        remove_path(&dir.path().join("not/there")).unwrap();
    }

    #[test]
    fn layers_are_copied_over_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["low/d", "low/e", "up/d", "up/e", "up/link", "into"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for name in ["low/d/gone", "low/d/kept", "low/e/gone", "low/changed"] {
            fs::write(at(name), "low").unwrap();
        }
        symlink("/etc", at("low/link")).unwrap();
        fs::hard_link(at("low/d/kept"), at("low/again")).unwrap();
        fs::set_permissions(at("low/d/kept"), fs::Permissions::from_mode(0o4751)).unwrap();
        for name in ["up/changed", "up/e/new", "up/link/x"] {
            fs::write(at(name), "up").unwrap();
        }
        let open = |path: &Path| openat(CWD, path, FOLDER, Mode::empty()).unwrap();
        mknodat(open(&at("up/d")), "gone", FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        crate::layer::make_opaque(&open(&at("up/e"))).unwrap();
        let into = open(&at("into"));
        copy_over(&open(&at("low")), &into).unwrap();
        assert_eq!(fs::metadata(at("into/d/kept")).unwrap().nlink(), 2);
        copy_over(&open(&at("up")), &into).unwrap();
        let text = |name: &str| fs::read_to_string(at(name)).unwrap_or_default();
        let found =
            ["into/d/gone", "into/d/kept", "into/e/gone", "into/e/new", "into/changed", "into/link/x"].map(text);
        assert_eq!(found, ["", "low", "", "up", "up", "up"]);
        assert!(!Path::new("/etc/x").exists());
        assert_eq!(fs::metadata(at("into/d/kept")).unwrap().mode() & 0o7777, 0o4751);
        assert!(!is_opaque(&open(&at("into/e"))));
    }
}
