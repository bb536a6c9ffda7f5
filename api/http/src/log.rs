//! Where a daemon's log goes: to standard error, to a file, to both, or nowhere.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// A place for lines. Clones write to the same.
#[derive(Clone, Debug)]
pub struct Log {
    to_stderr: bool,
    file: Option<Arc<File>>,
}

impl Log {
    /// Opens `file`, and the folder that it is in, for appending: whoever rotates it copies and truncates it.
    ///
    /// # Errors
    /// One sentence.
    pub fn open(to_stderr: bool, file: Option<&Path>) -> Result<Log, String> {
        let open = |path: &Path| {
            if let Some(dir) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            }
            File::options().create(true).append(true).mode(0o600).open(path)
        };
        let opened = match file {
            None => None,
            Some(path) => {
                let file = open(path).map_err(|error| format!("cannot write the log {}: {error}", path.display()))?;
                Some(Arc::new(file))
            }
        };
        Ok(Log { to_stderr, file: opened })
    }

    /// The same without standard error.
    pub(crate) fn file_alone(&self) -> Log {
        Log { to_stderr: false, file: self.file.clone() }
    }

    /// Whether a line would be seen by nobody.
    pub fn is_nowhere(&self) -> bool {
        !self.to_stderr && self.file.is_none()
    }
}

/// A disk that is full is no reason to stop: what cannot be written is missing in the log, and that is all.
impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.to_stderr {
            let _ = io::stderr().write_all(line);
        }
        if let Some(file) = &self.file {
            let _ = (&**file).write_all(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
