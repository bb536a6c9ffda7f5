//! What the agent and a supervisor tell each other: the description of a container, handed over on the supervisor's
//! standard input, and small files in `work_dir/meta/containers`, named by the container:
//!
//! - `ID.launch`: the claim, a symbolic link that says whose. Exactly one of the supervisor and a recovering agent has it.
//! - `ID.started`: the process runs.
//! - `ID.exit`: how it ended.
//!
//! Written first, then told through a named pipe: an agent that was away finds all of it in the files.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// What to run, and how. Every string is free of NUL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    /// The container.
    pub container_id: String,
    /// Folder of the files above.
    pub containers_dir: String,
    /// The named pipe that the agent listens on.
    pub pipe: String,
    /// Working directory of the process, with its `stdout` and `stderr`.
    pub sandbox: String,
    /// User to run as; empty for the agent's own.
    pub user: String,
    /// Program and arguments.
    pub arguments: Vec<String>,
    /// `NAME=value`, all of the environment.
    pub environment: Vec<String>,
}

impl Spec {
    /// As it is handed over.
    ///
    /// # Errors
    /// The string that contains a NUL, which no process can be given.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let counts = [self.arguments.len().to_string(), self.environment.len().to_string()];
        let fixed = [&self.container_id, &self.containers_dir, &self.pipe, &self.sandbox, &self.user];
        let mut bytes = Vec::new();
        for text in fixed.into_iter().chain(&counts).chain(&self.arguments).chain(&self.environment) {
            if text.contains('\0') {
                return Err(format!("{text:?} contains a NUL"));
            }
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        }
        Ok(bytes)
    }

    /// As it was handed over; none if it was cut off.
    pub fn decode(bytes: &[u8]) -> Option<Spec> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut fields = text.strip_suffix('\0')?.split('\0').map(str::to_owned);
        let mut next = || fields.next();
        let [container_id, containers_dir, pipe, sandbox, user] = [next()?, next()?, next()?, next()?, next()?];
        let (arguments, environment): (usize, usize) = (next()?.parse().ok()?, next()?.parse().ok()?);
        let rest: Vec<String> = fields.collect();
        let (arguments, environment) = (rest.len() == arguments + environment).then(|| rest.split_at(arguments))?;
        let (arguments, environment) = (arguments.to_vec(), environment.to_vec());
        Some(Spec { container_id, containers_dir, pipe, sandbox, user, arguments, environment })
    }
}

/// Who claimed a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A supervisor: pid, start time in clock ticks, boot id.
    Supervisor(u32, u64, String),
    /// An agent: nothing runs in the container, nothing will.
    Agent,
}

/// What is said of a container, in a file and through the pipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Its process runs: supervisor, its start time in clock ticks, and the process.
    Started(u32, u64, u32),
    /// Its process ended, with this wait status.
    Exited(i32),
    /// There never was a process.
    Failed(String),
}

impl Notice {
    /// One line without its end.
    pub fn encode(&self) -> String {
        match self {
            Notice::Started(supervisor, ticks, pid) => format!("started {supervisor} {ticks} {pid}"),
            Notice::Exited(status) => format!("exited {status}"),
            Notice::Failed(message) => {
                // Whole lines of less than PIPE_BUF are never mixed with those of others.
                let line: String = message.chars().take(900).map(|c| if c == '\n' { ' ' } else { c }).collect();
                format!("failed {line}")
            }
        }
    }

    /// Reads such a line.
    pub fn decode(line: &str) -> Option<Notice> {
        let (kind, rest) = line.split_once(' ')?;
        let mut words = rest.split(' ');
        let mut number = || words.next()?.parse::<u64>().ok();
        match kind {
            "started" => {
                let (supervisor, ticks, pid) = (number()?, number()?, number()?);
                Some(Notice::Started(u32::try_from(supervisor).ok()?, ticks, u32::try_from(pid).ok()?))
            }
            "exited" => Some(Notice::Exited(rest.parse().ok()?)),
            "failed" => Some(Notice::Failed(rest.to_owned())),
            _ => None,
        }
    }
}

/// The files of one container.
#[derive(Clone, Debug)]
pub struct Files {
    dir: PathBuf,
    container_id: String,
}

impl Files {
    /// Of a container whose files are in `dir`.
    pub fn new(dir: impl Into<PathBuf>, container_id: &str) -> Files {
        Files { dir: dir.into(), container_id: container_id.to_owned() }
    }

    fn path(&self, what: &str) -> PathBuf {
        self.dir.join(format!("{}.{what}", self.container_id))
    }

    /// Claims the launch, for good: true for exactly one caller ever.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn claim(&self, claim: &Claim) -> io::Result<bool> {
        let text = match claim {
            Claim::Supervisor(pid, ticks, boot_id) => format!("supervisor {pid} {ticks} {boot_id}"),
            Claim::Agent => "agent".to_owned(),
        };
        // A link that leads nowhere: it appears with its content or not at all, only if nobody was faster, and one
        // sync makes it last.
        match symlink(text, self.path("launch")) {
            Ok(()) => sync_dir(&self.dir).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Who claimed the launch.
    pub fn claimed(&self) -> Option<Claim> {
        let text = fs::read_link(self.path("launch")).ok()?;
        let mut words = text.to_str()?.split_whitespace();
        match words.next()? {
            "agent" => Some(Claim::Agent),
            _ => {
                Some(Claim::Supervisor(words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.into()))
            }
        }
    }

    /// Writes the start; a crash of the machine ends the process too, so it need not be synced.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_start(&self, notice: &Notice) -> io::Result<()> {
        replace(&self.path("started"), &notice.encode())
    }

    /// Writes the end. Readers see all of it or nothing; it is synced by [`Files::sync_end`].
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_end(&self, notice: &Notice) -> io::Result<()> {
        replace(&self.path("exit"), &notice.encode())
    }

    /// Makes the end outlive a crash of the machine.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn sync_end(&self) -> io::Result<()> {
        File::open(self.path("exit"))?.sync_all()?;
        sync_dir(&self.dir)
    }

    /// The start, if it was written.
    pub fn start(&self) -> Option<Notice> {
        Notice::decode(&fs::read_to_string(self.path("started")).ok()?)
    }

    /// The end, if it was written.
    pub fn end(&self) -> Option<Notice> {
        Notice::decode(&fs::read_to_string(self.path("exit")).ok()?)
    }

    /// Removes the files of a container that ended. A claim of the agent's own stays: it keeps a supervisor that is
    /// late from running what was given up.
    pub fn release(&self) {
        if self.claimed() == Some(Claim::Agent) {
            return;
        }
        // The claim last: without it, the others would be taken for those of a launch to come.
        for what in ["started", "exit", "launch"] {
            let _ = fs::remove_file(self.path(what));
        }
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    fs::write(&draft, text).and_then(|()| fs::rename(&draft, path)).inspect_err(|_| {
        let _ = fs::remove_file(&draft);
    })
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// When a process started, in clock ticks since the machine did; none if there is no such process, or only what is
/// left of one that ended.
pub fn start_ticks(pid: u32) -> Option<u64> {
    let mut stat = String::new();
    File::open(format!("/proc/{pid}/stat")).ok()?.read_to_string(&mut stat).ok()?;
    // The name in parentheses may contain anything, parentheses too.
    let mut fields = stat[stat.rfind(')')? + 2..].split(' ');
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then(|| fields.nth(18)?.parse().ok())?
}

/// Names this start of the machine.
pub fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_handed_over_unharmed() {
        let spec = Spec {
            container_id: "c".into(),
            sandbox: "/a b".into(),
            arguments: vec!["sh".into(), "-c".into(), "echo\n'x'".into(), String::new()],
            environment: vec!["A=".into()],
            ..Spec::default()
        };
        let bytes = spec.encode().unwrap();
        assert_eq!(Spec::decode(&bytes), Some(spec.clone()));
        assert_eq!(Spec::decode(&bytes[..bytes.len() - 2]), None);
        assert!(Spec { user: "a\0b".into(), ..spec }.encode().is_err());
    }

    #[test]
    fn a_launch_is_claimed_once() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path(), "c1");
        let claim = Claim::Supervisor(7, 8, "boot".into());
        assert_eq!(files.claimed(), None);
        assert!(files.claim(&claim).unwrap());
        assert!(!files.claim(&Claim::Agent).unwrap());
        assert_eq!(files.claimed(), Some(claim));
        files.write_end(&Notice::Exited(256)).unwrap();
        assert_eq!(files.end(), Some(Notice::Exited(256)));
        files.release();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(files.claim(&Claim::Agent).unwrap());
        files.release();
        assert!(!files.claim(&Claim::Agent).unwrap(), "an agent's claim stays");
    }

    #[test]
    fn a_process_is_named_by_its_start() {
        let own = start_ticks(std::process::id()).unwrap();
        assert!(own > 0);
        assert_eq!(start_ticks(u32::MAX), None);
        assert!(!boot_id().is_empty());
    }
}
