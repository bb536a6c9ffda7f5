//! The folders that containers run in.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{fchown, symlink};
use std::path::Path;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};
use nix::unistd::{Gid, Uid, User};
use supervisor::users::Users;

/// Attempts more to make the folders of a sandbox.
const FOLDER_RETRIES: usize = 3;

/// Makes a sandbox, and the folders between it and the one `above`, for `user` if there is one and this process may; `latest` beside
/// it leads to it if it is to. With `users` of its container's own, it is whom the user is among these. No link is followed below
/// `work_dir`: what is within another container's sandbox is made where that one may change everything meanwhile.
///
/// # Errors
/// Those of the file system.
pub fn make_sandbox(
    work_dir: &Path,
    above: &Path,
    sandbox: &Path,
    user: &str,
    users: Option<Users>,
    is_latest: bool,
) -> io::Result<()> {
    // Empty folders above old sandboxes are deleted, perhaps in this moment.
    let missing = |made: &io::Result<OwnedFd>| matches!(made, Err(error) if error.kind() == io::ErrorKind::NotFound);
    let mut made = make_folders(work_dir, above, sandbox);
    for _ in 0..FOLDER_RETRIES {
        if missing(&made) {
            made = make_folders(work_dir, above, sandbox);
        }
    }
    let folder = made?;
    if is_latest {
        let (latest, name) = (sandbox.with_file_name("latest"), sandbox.file_name().unwrap_or_default());
        match symlink(name, &latest) {
            // Replaced at once: somebody may be looking through it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let draft = sandbox.with_extension("latest");
                let _ = fs::remove_file(&draft);
                symlink(name, &draft)?;
                fs::rename(&draft, &latest)?;
            }
            made => made?,
        }
    }
    match users {
        Some(_) => {
            let (uid, gid) = ids(user, users).map_err(io::Error::other)?;
            fchown(&folder, Some(uid), Some(gid))?;
        }
        None if !user.is_empty() && !is_own_user(user) && Uid::effective().is_root() => {
            // A user that there is not is told of by the supervisor.
            if let Ok(Some(User { uid, gid, .. })) = User::from_name(user)
                && !uid.is_root()
            {
                fchown(&folder, Some(uid.as_raw()), Some(gid.as_raw()))?;
            }
        }
        None => {}
    }
    Ok(())
}

/// Who a container's process becomes, on the machine: user and group. An empty name is this process's user.
///
/// # Errors
/// A sentence: there is no such user, or none among `users`.
pub fn ids(user: &str, users: Option<Users>) -> Result<(u32, u32), String> {
    let (uid, gid) = if user.is_empty() {
        (Uid::effective().as_raw(), Gid::effective().as_raw())
    } else {
        let found = User::from_name(user).map_err(|error| format!("cannot look up user '{user}': {error}"))?;
        let found = found.ok_or_else(|| format!("there is no user '{user}' on this agent"))?;
        (found.uid.as_raw(), found.gid.as_raw())
    };
    let Some(users) = users else { return Ok((uid, gid)) };
    users.outside(uid).zip(users.outside(gid)).ok_or_else(|| {
        format!(
            "user '{user}' has the numbers {uid} and {gid}, and containers have {} (--container_user_count)",
            users.count
        )
    })
}

/// Whether this is the user that this process runs as: who becomes that need not be looked up for each task.
pub(crate) fn is_own_user(user: &str) -> bool {
    static OWN: OnceLock<Option<String>> = OnceLock::new();
    let own = OWN.get_or_init(|| User::from_uid(Uid::effective()).ok().flatten().map(|own| own.name));
    own.as_deref() == Some(user)
}

/// The sandbox is for its user alone. The folders above can be passed through by every user, not listed.
fn make_folders(work_dir: &Path, above: &Path, sandbox: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    // Where it is may be said by a link.
    let mut at = open(work_dir, flags - OFlag::O_NOFOLLOW, Mode::empty())?;
    for part in above.strip_prefix(work_dir).map_err(io::Error::other)? {
        at = openat(&at, part, flags, Mode::empty())?;
    }
    let parts: Vec<&OsStr> = sandbox.strip_prefix(above).map_err(io::Error::other)?.iter().collect();
    for (n, part) in parts.iter().enumerate() {
        let mode = if n + 1 == parts.len() { 0o750 } else { 0o711 };
        match mkdirat(&at, *part, Mode::from_bits_truncate(0o700)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        at = openat(&at, *part, flags, Mode::empty())?;
        // Most are those of many sandboxes: what is as it is to be is not written again. The mask of this process leaves nothing to
        // others.
        if fstat(&at)?.st_mode & 0o7777 != mode {
            fchmod(&at, Mode::from_bits_truncate(mode))?;
        }
    }
    Ok(at)
}
