//! Looks through a folder and all below it, whoever writes there meanwhile. Who looks shares the machine with those who are looked
//! at: it works half of the time, follows no link, holds what it has open within bounds, and stays on the folder's own disk.

use std::fs::{self, DirEntry, Metadata, ReadDir};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

/// Folders that are within each other and open at once: what is deeper is not looked at.
pub(super) const DEPTH_MAX: usize = 200;
/// Files of one folder that are looked at.
const ENTRIES_MAX: usize = 4_000_000;
/// Files between two pauses.
const BREATH: usize = 1_000;

const FOLDER: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// A folder that is being looked through. It is named by its descriptor: whoever renames what is above it leads nobody elsewhere.
struct Level {
    folder: OwnedFd,
    entries: ReadDir,
}

impl Level {
    fn new(folder: OwnedFd) -> io::Result<Level> {
        let entries = fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))?;
        Ok(Level { folder, entries })
    }
}

/// Opens a folder to look through. A link is followed only above it.
pub(super) fn top(folder: &Path) -> io::Result<OwnedFd> {
    Ok(open(folder, FOLDER, Mode::empty())?)
}

/// Looks at everything below a folder, in no order but that a folder comes before what is in it: `each` has the folder, and what was
/// found there; of a link it is the link's own. What ends meanwhile is not missed. Whether something could not be looked at, or was too
/// much to look at; `each` may say so, too.
pub(super) fn walk(
    top: OwnedFd,
    mut each: impl FnMut(&OwnedFd, &DirEntry, &Metadata) -> io::Result<()>,
) -> io::Result<bool> {
    let own = fs::metadata(format!("/proc/self/fd/{}", top.as_raw_fd()))?;
    let mut is_partial = false;
    let mut levels = vec![Level::new(top)?];
    let (mut count, mut begun) = (0, Instant::now());
    while let Some(level) = levels.last_mut() {
        let entry = match level.entries.next() {
            None => {
                levels.pop();
                continue;
            }
            Some(Ok(entry)) => entry,
            Some(Err(_)) => {
                is_partial = true;
                levels.pop();
                continue;
            }
        };
        count += 1;
        if count > ENTRIES_MAX {
            return Ok(true);
        }
        if count % BREATH == 0 {
            std::thread::sleep(begun.elapsed());
            begun = Instant::now();
        }
        let found = match entry.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => {
                is_partial = true;
                continue;
            }
            Ok(found) => found,
        };
        if found.dev() != own.dev() {
            continue;
        }
        match each(&level.folder, &entry, &found) {
            Err(error) if is_gone(&error) => continue,
            Err(_) => is_partial = true,
            Ok(()) => {}
        }
        if !found.is_dir() {
            continue;
        }
        let below = openat(&level.folder, entry.file_name().as_os_str(), FOLDER | OFlag::O_NOFOLLOW, Mode::empty());
        match below.map_err(io::Error::from).and_then(Level::new) {
            Ok(_) if levels.len() >= DEPTH_MAX => is_partial = true,
            Ok(below) => levels.push(below),
            // It is gone, or another thing has its name now.
            Err(error) if is_gone(&error) => {}
            Err(_) => is_partial = true,
        }
    }
    Ok(is_partial)
}

fn is_gone(error: &io::Error) -> bool {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    matches!(errno, Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)
}
