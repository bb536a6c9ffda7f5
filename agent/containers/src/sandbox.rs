//! The folders that containers run in.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::sync::OnceLock;

use nix::unistd::{Gid, Uid, User};

/// Attempts more to make the folders of a sandbox.
const FOLDER_RETRIES: usize = 3;

/// Makes a sandbox, and the folders between it and the one `above`, for `user` if there is one and this process may; `latest` beside it leads to it if it is to.
///
/// # Errors
/// Those of the file system.
pub fn make_sandbox(above: &Path, sandbox: &Path, user: &str, is_latest: bool) -> io::Result<()> {
    // Empty folders above old sandboxes are deleted, perhaps in this moment.
    let missing = |made: &io::Result<()>| matches!(made, Err(error) if error.kind() == io::ErrorKind::NotFound);
    let mut made = make_folders(above, sandbox);
    for _ in 0..FOLDER_RETRIES {
        if missing(&made) {
            made = make_folders(above, sandbox);
        }
    }
    made?;
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
    if !user.is_empty() && !is_own_user(user) && Uid::effective().is_root() {
        // A user that there is not is told of by the supervisor.
        if let Ok(Some(User { uid, gid, .. })) = User::from_name(user) {
            let (uid, gid): (Uid, Gid) = (uid, gid);
            if !uid.is_root() {
                chown(sandbox, Some(uid.as_raw()), Some(gid.as_raw()))?;
            }
        }
    }
    Ok(())
}

/// Whether this is the user that this process runs as: who becomes that need not be looked up for each task.
pub(crate) fn is_own_user(user: &str) -> bool {
    static OWN: OnceLock<Option<String>> = OnceLock::new();
    let own = OWN.get_or_init(|| User::from_uid(Uid::effective()).ok().flatten().map(|own| own.name));
    own.as_deref() == Some(user)
}

/// The sandbox is for its user alone. The folders above can be passed through by every user, not listed.
fn make_folders(above: &Path, sandbox: &Path) -> io::Result<()> {
    let mut path = above.to_owned();
    for part in sandbox.strip_prefix(above).map_err(io::Error::other)? {
        path.push(part);
        let mode = if path == sandbox { 0o750 } else { 0o711 };
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            // Most are those of many sandboxes: what is as it is to be is not written again.
            Err(_) if fs::metadata(&path)?.mode() & 0o7777 == mode => continue,
            _ => {}
        }
        // The mask of this process leaves nothing to others.
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}
