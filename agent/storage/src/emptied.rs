//! What was on a disk goes; the disk stays.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Of the file system itself, at the root of a disk.
const NOT_DATA: &str = "lost+found";

/// Deletes all that is in a folder. Links are removed, not followed. Blocks.
///
/// # Errors
/// Something is left.
pub(crate) fn empty(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name() == NOT_DATA {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    File::open(folder)?.sync_all()
}
