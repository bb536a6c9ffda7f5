//! What is written down of a volume before a plugin is asked for anything: whatever ends this process, who comes after it knows what may
//! have been begun, and takes it back.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use serde::{Deserialize, Serialize};

use crate::asked::Terms;

/// How far a volume got. What is under way may have been done, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    /// The plugin was asked for nothing that stays.
    Nothing,
    Staging,
    Publishing,
    Published,
    Unpublishing,
    Unstaging,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) plugin: String,
    pub(crate) volume_id: String,
    /// Who has it, by their ids.
    pub(crate) containers: BTreeSet<String>,
    pub(crate) step: Step,
    pub(crate) terms: Terms,
    /// Where its plugin was found, for the time when it is no longer configured.
    pub(crate) socket: PathBuf,
    /// Where it is staged, if it is.
    pub(crate) staging: Option<PathBuf>,
    /// Where it is published.
    pub(crate) target: PathBuf,
    /// The plugin leaves the folder that it mounted on.
    pub(crate) target_exists: bool,
    /// Where the service that lets machines have it was asked, and what for: the plugin's name of this machine.
    #[serde(default)]
    pub(crate) attached: Option<Attached>,
}

/// What a controller was asked, before it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attached {
    pub(crate) controller: PathBuf,
    pub(crate) node_id: String,
}

impl Record {
    /// All of a folder; what cannot be read is said.
    ///
    /// # Errors
    /// The folder cannot be made, or read.
    pub(crate) fn all(folder: &Path) -> io::Result<Vec<Record>> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut found = Vec::new();
        for plugin in fs::read_dir(folder)? {
            for file in fs::read_dir(plugin?.path())? {
                let path = file?.path();
                if path.extension().is_none_or(|extension| extension != "json") {
                    // A draft of one that was never written down.
                    let _ = fs::remove_file(&path);
                    continue;
                }
                match serde_json::from_slice(&fs::read(&path)?) {
                    Ok(record) => found.push(record),
                    Err(error) => {
                        tracing::error!(path = %path.display(), %error, "what is known of a CSI volume cannot be read")
                    }
                }
            }
        }
        Ok(found)
    }

    fn path(&self, folder: &Path) -> PathBuf {
        folder.join(&self.plugin).join(format!("{}.json", folder_name(&self.volume_id)))
    }

    /// Written down when this returns. Blocks.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn save(&self, folder: &Path) -> io::Result<()> {
        let path = self.path(folder);
        let around = path.parent().unwrap_or(folder);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(around)?;
        let draft = path.with_extension("draft");
        let mut file = File::create(&draft)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(around)?.sync_all()
    }

    /// It is as if it had never been. Blocks.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn remove(&self, folder: &Path) -> io::Result<()> {
        // What is not empty is somebody else's.
        if let Some(around) = self.target.parent() {
            let _ = fs::remove_dir(around);
        }
        match fs::remove_file(self.path(folder)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// An id as the name of a folder: what is no letter, digit or one of `_-.` is `%XX`.
pub(crate) fn folder_name(id: &str) -> String {
    let is_plain =
        |at: usize, byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte) || byte == b'.' && at > 0;
    let one = |(at, byte): (usize, u8)| match is_plain(at, byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    id.bytes().enumerate().map(one).collect()
}

/// Whether something is mounted there. Blocks.
///
/// # Errors
/// It cannot be looked at.
pub(crate) fn is_mounted(path: &Path) -> io::Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    match statx(CWD, path, flags, StatxFlags::TYPE) {
        Ok(found) => Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Removes a folder, which is empty; it may be gone. Blocks.
///
/// # Errors
/// It is not empty, or cannot be removed.
pub(crate) fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_is_found_again_whatever_it_is_called() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("volumes");
        assert_eq!(Record::all(&folder).unwrap(), []);
        let record = Record {
            plugin: "p".into(),
            volume_id: "../a b/é".into(),
            containers: BTreeSet::from(["c.d".to_owned()]),
            step: Step::Staging,
            terms: Terms::default(),
            socket: "/run/p.sock".into(),
            staging: None,
            target: dir.path().join("mounts/x/target"),
            target_exists: false,
            attached: None,
        };
        assert_eq!(folder_name(&record.volume_id), "%2E.%2Fa%20b%2F%C3%A9");
        record.save(&folder).unwrap();
        fs::write(folder.join("p/x.draft"), "").unwrap();
        fs::write(folder.join("p/y.json"), "").unwrap();
        assert_eq!(Record::all(&folder).unwrap(), std::slice::from_ref(&record));
        assert!(!folder.join("p/x.draft").exists());
        record.remove(&folder).unwrap();
        record.remove(&folder).unwrap();
        assert_eq!(Record::all(&folder).unwrap(), []);
        assert!(is_mounted(Path::new("/proc")).unwrap());
        assert!(!is_mounted(dir.path()).unwrap() && !is_mounted(&folder.join("none")).unwrap());
    }
}
