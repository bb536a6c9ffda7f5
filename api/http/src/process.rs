//! What a daemon asks of the system for itself, first of all.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

/// Below so many open files a busy daemon cannot keep up its connections.
const FILES_MIN: u64 = 4096;

/// How many files may be open at once: the soft limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLimit {
    /// As it was found.
    pub before: u64,
    /// As it is now: the most that the system allows.
    pub now: u64,
}

/// Raises the soft limit of open files to the hard one. Every connection, task and follower takes a descriptor, and the
/// usual 1,024 are a limit for programs that `select`.
///
/// # Errors
/// One sentence.
pub fn raise_file_limit() -> Result<FileLimit, String> {
    let cannot = |error: nix::errno::Errno| format!("cannot read the limit of open files: {}", error.desc());
    let (before, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(cannot)?;
    // The system may have lowered what it allows at all below an older hard limit.
    let raised = before < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    Ok(FileLimit { before, now: if raised { hard } else { before } })
}

impl FileLimit {
    /// A sentence, if so few files will not do for long.
    pub fn warning(self) -> Option<String> {
        let few = self.now < FILES_MIN;
        few.then(|| format!("only {} files may be open at once (ulimit -n); raise it to {FILES_MIN} or more", self.now))
    }
}

/// A sentence for a daemon whose port, `what` it is for, can be reached from other machines.
pub fn open_door(listen: SocketAddr, what: &str) -> Option<String> {
    (!listen.ip().is_loopback()).then(|| {
        format!(
            "{listen} is open to other machines and nobody is asked who they are: whoever reaches it {what}; use a firewall, \
             --ip with an address of a network that is yours alone, or, on masters, --credentials (docs/security.md)"
        )
    })
}

/// New files and folders are for this user alone, if they do not say otherwise. Returns the mask that was.
pub fn keep_files_private() -> u32 {
    umask(Mode::S_IRWXG | Mode::S_IRWXO).bits()
}

/// Takes what an older release let others read in `dir` from them. Below a folder that is closed nothing can be reached.
///
/// # Errors
/// The first of those that were in the way; the others are closed all the same.
pub fn close_to_others(dir: &Path) -> io::Result<()> {
    let close = |entry: io::Result<fs::DirEntry>| {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let mode = metadata.permissions().mode() & 0o7777;
        if metadata.is_symlink() || mode & 0o77 == 0 {
            return Ok(());
        }
        fs::set_permissions(entry.path(), Permissions::from_mode(mode & !0o77))
    };
    let closed: Vec<io::Result<()>> = fs::read_dir(dir)?.map(close).collect();
    closed.into_iter().collect()
}
