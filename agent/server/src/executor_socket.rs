//! A socket of this machine through which executors talk to their agent: `--http_executor_domain_sockets`.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use api::flags::Values;

/// Its path has fewer bytes: that is what the kernel takes.
const PATH_BYTES: usize = 108;
/// Its name below the work_dir, if nobody chose a place.
const NAME: &str = "agent.sock";

/// Where it is to be, if it is. The error is a sentence.
pub(crate) fn location(values: &Values, work_dir: &Path) -> Result<Option<PathBuf>, String> {
    let given = values.text("domain_socket_location");
    if !values.bool("http_executor_domain_sockets") {
        return match given {
            None => Ok(None),
            Some(_) => Err("--domain_socket_location needs --http_executor_domain_sockets".to_owned()),
        };
    }
    if given.is_some_and(|given| given.starts_with("systemd:")) {
        return Err("--domain_socket_location=systemd:... is not supported: give it a path".to_owned());
    }
    let path = given.map_or_else(|| work_dir.join(NAME), PathBuf::from);
    if !path.is_absolute() {
        return Err(format!("Flag '--domain_socket_location' must be an absolute path, not '{}'", path.display()));
    }
    let bytes = path.as_os_str().len();
    if bytes >= PATH_BYTES {
        return Err(format!(
            "The path of the executors' domain socket has {bytes} bytes, and must have less than {PATH_BYTES}: {}; give a \
             shorter --domain_socket_location",
            path.display()
        ));
    }
    Ok(Some(path))
}

/// Listens there, in the place of an agent that is no more. Executors run as many users, so everybody may connect: who they are is
/// asked as it is at the port. The error is a sentence.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, String> {
    let listen = || -> io::Result<UnixListener> {
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(io::Error::other("there is something else of that name"));
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                return Err(io::Error::other("another program listens there"));
            }
            Ok(_) => fs::remove_file(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    listen().map_err(|error| format!("Cannot listen on the executors' domain socket {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_an_agent_left_is_taken_over_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        assert!(listen(&path).unwrap_err().ends_with("another program listens there"));
        drop(listener);
        listen(&path).unwrap();
        let other = dir.path().join("other");
        fs::write(&other, "mine").unwrap();
        assert!(listen(&other).unwrap_err().ends_with("there is something else of that name"));
        assert_eq!(fs::read_to_string(other).unwrap(), "mine");
    }
}
