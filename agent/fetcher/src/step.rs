//! One step of a fetch, in a process that has become the task's user: it can read and write what that user can.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, User, chdir, geteuid, initgroups, setgid, setgroups, setuid};
use serde::{Deserialize, Serialize};

use crate::download;
use crate::job::{Item, Job};
use crate::say;
use crate::source::source;
use crate::unpack::{Bounds, Kind, unpack};

/// What an archive or a server can make this process hold.
const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// Files, folders and links of one archive.
const ENTRIES_MAX: u64 = 1_000_000;

/// What is to be done, and with what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) user: String,
    pub(crate) ids: Option<(u32, u32)>,
    pub(crate) sandbox: PathBuf,
    pub(crate) stall_timeout_ms: u64,
    pub(crate) unpacked_bytes_max: u64,
    pub(crate) frameworks_home: String,
    pub(crate) hadoop_home: String,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) item: Item,
    pub(crate) what: What,
}

/// The kinds of steps.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum What {
    /// How large will it be?
    Size,
    /// Keep it for others: `part` becomes `whole` when it is.
    Keep { part: PathBuf, whole: PathBuf, bytes_max: u64 },
    /// Put what is kept into the sandbox.
    Place { from: PathBuf },
    /// Fetch it into the sandbox.
    Fetch,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// It is done.
    Done,
    /// So many bytes.
    Size(u64),
    /// It is not what it must be.
    Differs(String),
    /// Why it cannot be done, in a sentence.
    Failed(String),
}

impl Step {
    pub(crate) fn of(job: &Job, item: &Item, what: What) -> Step {
        Step {
            user: job.user.clone(),
            ids: job.ids,
            sandbox: job.sandbox.clone(),
            stall_timeout_ms: job.stall_timeout_ms,
            unpacked_bytes_max: job.unpacked_bytes_max,
            frameworks_home: job.frameworks_home.clone(),
            hadoop_home: job.hadoop_home.clone(),
            environment: job.environment.clone(),
            item: item.clone(),
            what,
        }
    }

    /// The longest time without any progress.
    pub(crate) fn patience(&self) -> Option<Duration> {
        (self.stall_timeout_ms > 0).then(|| Duration::from_millis(self.stall_timeout_ms))
    }

    /// Whether it is fetched for others too.
    pub(crate) fn is_kept(&self) -> bool {
        matches!(self.what, What::Keep { .. })
    }

    /// Does it, in this process, for good another user's.
    pub(crate) fn run(&self) -> Outcome {
        match self.become_user().and_then(|()| self.act()) {
            Ok(outcome) => outcome,
            Err(why) => Outcome::Failed(why),
        }
    }

    fn become_user(&self) -> Result<(), String> {
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_AS) {
            let _ = setrlimit(Resource::RLIMIT_AS, MEMORY_BYTES_MAX.min(hard), hard);
        }
        if let Some((uid, gid)) = self.ids {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            setgroups(&[gid])
                .and_then(|()| setgid(gid))
                .and_then(|()| setuid(uid))
                .map_err(|error| format!("cannot become the user {uid}: {error}"))?;
        } else if !self.user.is_empty() {
            let found =
                User::from_name(&self.user).map_err(|error| format!("cannot look up user '{}': {error}", self.user))?;
            let user = found.ok_or_else(|| format!("there is no user '{}' on this agent", self.user))?;
            if user.uid != geteuid() {
                let name = CString::new(user.name.as_str()).map_err(|error| error.to_string())?;
                initgroups(&name, user.gid)
                    .and_then(|()| setgid(user.gid))
                    .and_then(|()| setuid(user.uid))
                    .map_err(|error| format!("cannot become user '{}': {error}", self.user))?;
            }
        }
        chdir(&self.sandbox).map_err(|error| format!("cannot enter the sandbox: {error}"))
    }

    /// Where it goes.
    pub(crate) fn place(&self) -> PathBuf {
        self.sandbox.join(&self.item.output_file)
    }

    fn act(&self) -> Result<Outcome, String> {
        let from = || source(&self.item.uri, &self.frameworks_home);
        match &self.what {
            What::Size => download::size(self, &from()?).map(Outcome::Size),
            What::Keep { part, whole, bytes_max } => {
                download::fetch(self, &from()?, part, Some(*bytes_max))?;
                fs::rename(part, whole).map_err(|error| format!("cannot keep it: {error}"))?;
                // So that the name lasts as the bytes do.
                let dir = whole.parent().map(File::open).transpose();
                if let Ok(Some(dir)) = dir {
                    let _ = dir.sync_all();
                }
                Ok(Outcome::Done)
            }
            What::Place { from } => {
                if let Some(found) = self.differs(from)? {
                    return Ok(Outcome::Differs(found));
                }
                let place = self.folder()?;
                match self.kind() {
                    Some(kind) => self.unpack(kind, from, &place)?,
                    None => {
                        let from = crate::source::Source::File(from.clone());
                        download::fetch(self, &from, &place, None)?;
                        set_mode(&place, if self.item.executable { 0o755 } else { 0o644 })?;
                    }
                }
                Ok(Outcome::Done)
            }
            What::Fetch => {
                let place = self.folder()?;
                download::fetch(self, &from()?, &place, None)?;
                if let Some(found) = self.differs(&place)? {
                    let _ = fs::remove_file(&place);
                    return Ok(Outcome::Differs(found));
                }
                if self.item.executable {
                    set_mode(&place, 0o755)?;
                }
                if let Some(kind) = self.kind() {
                    self.unpack(kind, &place, &place)?;
                }
                Ok(Outcome::Done)
            }
        }
    }

    /// Makes the folder that it goes to.
    fn folder(&self) -> Result<PathBuf, String> {
        let place = self.place();
        let folder = place.parent().unwrap_or(&self.sandbox);
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(folder);
        made.map_err(|error| format!("cannot make '{}': {error}", folder.display()))?;
        Ok(place)
    }

    /// What it is unpacked as, if it is.
    fn kind(&self) -> Option<Kind> {
        if self.item.executable || !self.item.extract {
            return None;
        }
        let kind = Kind::of(&self.item.output_file);
        if kind.is_none() {
            let uri = &self.item.uri;
            say(
                'W',
                &format!(
                    "Copying instead of extracting resource from URI with 'extract' flag, because it does not seem to be an archive: {uri}"
                ),
            );
        }
        kind
    }

    fn unpack(&self, kind: Kind, archive: &Path, place: &Path) -> Result<(), String> {
        let file = File::open(archive).map_err(|error| format!("cannot open '{}': {error}", archive.display()))?;
        let folder = place.parent().unwrap_or(&self.sandbox);
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let single = name.strip_suffix(".gz").unwrap_or(&name);
        let bounds = Bounds { bytes_max: self.unpacked_bytes_max, entries_max: ENTRIES_MAX };
        unpack(kind, file, folder, single, bounds).map_err(|refusal| format!("Failed to extract: {refusal}"))?;
        say('I', &format!("Extracted '{}' into '{}'", archive.display(), folder.display()));
        Ok(())
    }

    /// What it is in place of what it must be.
    fn differs(&self, path: &Path) -> Result<Option<String>, String> {
        let Some(checksum) = &self.item.checksum else { return Ok(None) };
        let read = File::open(path).and_then(|file| checksum.differs(file));
        read.map_err(|error| format!("cannot read '{}': {error}", path.display()))
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), String> {
    let set = fs::set_permissions(path, fs::Permissions::from_mode(mode));
    set.map_err(|error| format!("cannot change the mode of '{}': {error}", path.display()))
}
