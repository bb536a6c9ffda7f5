//! Outputs of a process within bounds: what is written goes to `stdout` and `stderr`, and when one of them is full it becomes `stdout.1`,
//! and that `stdout.2`, up to so many. A process of its own does it, forked from the supervisor and the task's user: it lives
//! as long as somebody may write.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Gid, Pid, Uid, User, chdir, initgroups, pipe2, setgid, setgroups, setsid, setuid};

use crate::spec::Rotation;
use crate::sys;

/// The writing ends of `stdout` and `stderr`, and the process that reads.
pub(crate) struct Rotated {
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    pub(crate) logger: Pid,
}

/// Starts the process, as the user or, if there is an `owner`, as that one and nobody else. The error is a sentence.
pub(crate) fn start(
    rotation: &Rotation,
    sandbox: &Path,
    user: Option<&User>,
    owner: Option<(Uid, Gid)>,
) -> Result<Rotated, String> {
    let failed = |error: Errno| format!("cannot rotate its outputs: {error}");
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(failed);
    let ((out, stdout), (err, stderr)) = (pipe()?, pipe()?);
    match sys::fork().map_err(failed)? {
        ForkResult::Parent { child } => Ok(Rotated { stdout, stderr, logger: child }),
        ForkResult::Child => {
            drop((stdout, stderr));
            let is_ready = prctl::set_pdeathsig(Signal::SIGKILL).is_ok()
                && become_user(user, owner).is_ok()
                && chdir(sandbox).is_ok();
            let _ = setsid();
            if !is_ready {
                sys::exit(1);
            }
            let logs = [(out, "stdout", rotation.stdout), (err, "stderr", rotation.stderr)];
            let logs = logs.map(|(pipe, name, bounds)| (Some(File::from(pipe)), Log::open(name, bounds)));
            sys::exit(i32::from(copy(logs).is_err()))
        }
    }
}

fn become_user(user: Option<&User>, owner: Option<(Uid, Gid)>) -> nix::Result<()> {
    if let Some((uid, gid)) = owner {
        setgroups(&[gid])?;
        setgid(gid)?;
        return setuid(uid);
    }
    let Some(user) = user else { return Ok(()) };
    let name = CString::new(user.name.as_str()).unwrap_or_default();
    initgroups(&name, user.gid)?;
    setgid(user.gid)?;
    setuid(user.uid)
}

/// Until nobody can write any more.
fn copy(mut logs: [(Option<File>, Log); 2]) -> io::Result<()> {
    let mut bytes = [0; 16 << 10];
    loop {
        let waited: Vec<usize> = (0..logs.len()).filter(|at| logs[*at].0.is_some()).collect();
        if waited.is_empty() {
            return Ok(());
        }
        let ready: Vec<usize> = {
            let files = waited.iter().filter_map(|at| logs[*at].0.as_ref());
            let mut fds: Vec<PollFd<'_>> = files.map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN)).collect();
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
            waited.iter().zip(&fds).filter(|(_, fd)| is_ready(fd)).map(|(at, _)| *at).collect()
        };
        for at in ready {
            let (pipe, log) = &mut logs[at];
            match pipe.as_mut().map(|pipe| pipe.read(&mut bytes)) {
                Some(Ok(count)) if count > 0 => log.write(&bytes[..count]),
                Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => *pipe = None,
            }
        }
    }
}

/// One output, in the folder that this process is in.
struct Log {
    name: &'static str,
    bytes_max: u64,
    files_max: u32,
    file: Option<File>,
    bytes: u64,
}

impl Log {
    fn open(name: &'static str, (bytes_max, files_max): (u64, u32)) -> Log {
        let mut log = Log { name, bytes_max, files_max, file: None, bytes: 0 };
        log.begin();
        log
    }

    fn begin(&mut self) {
        let mut options = File::options();
        options.create(true).append(true).mode(0o644).custom_flags(OFlag::O_NOFOLLOW.bits());
        self.file = options.open(self.name).ok();
        self.bytes = self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |found| found.len());
    }

    /// On a disk that is full what does not fit is lost: a task must not stand still for it.
    fn write(&mut self, mut content: &[u8]) {
        while !content.is_empty() {
            if self.bytes >= self.bytes_max {
                self.rotate();
            }
            let fits = usize::try_from(self.bytes_max.saturating_sub(self.bytes).max(1)).unwrap_or(usize::MAX);
            let (now, later) = content.split_at(fits.min(content.len()));
            if let Some(file) = &mut self.file {
                let _ = file.write_all(now);
            }
            self.bytes += now.len() as u64;
            content = later;
        }
    }

    fn rotate(&mut self) {
        let numbered = |number: u32| PathBuf::from(format!("{}.{number}", self.name));
        if self.files_max == 0 {
            let _ = fs::remove_file(self.name);
        } else {
            for number in (1..self.files_max).rev() {
                let _ = fs::rename(numbered(number), numbered(number + 1));
            }
            let _ = fs::rename(self.name, numbered(1));
        }
        self.begin();
        // What could not be moved goes on; looked at again when as much has come once more.
        if self.bytes >= self.bytes_max {
            self.bytes = 0;
        }
    }
}
