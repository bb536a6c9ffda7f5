//! Programs that isolators ask: told on their standard input, with an answer on their standard output, and bounded in time.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

const PAUSE_MAX: Duration = Duration::from_millis(20);
/// An answer has so many bytes at most.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// What a program answered.
pub(super) struct Answer {
    /// None if a signal ended it.
    pub(super) code: Option<i32>,
    /// Without the space around it, as what is below.
    pub(super) said: String,
    pub(super) errors: String,
}

/// Runs a program, for no longer than `patience`: it is killed then, with what it started. Blocks.
pub(super) fn ask(command: &mut Command, told: &[u8], patience: Duration) -> io::Result<Answer> {
    let (mut input, mut out, mut errors) = (memory("told")?, memory("answer")?, memory("errors")?);
    input.write_all(told)?;
    input.rewind()?;
    let mut child = command
        .stdin(Stdio::from(input))
        .stdout(out.try_clone()?)
        .stderr(errors.try_clone()?)
        .process_group(0)
        .spawn()?;
    let (begun, mut pause) = (Instant::now(), Duration::from_millis(1));
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status.code();
        }
        if begun.elapsed() > patience {
            // Its number is its group's for as long as nobody has waited for it.
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
            let _ = child.wait();
            return Err(io::Error::other(format!("it took longer than {} s", patience.as_secs())));
        }
        std::thread::sleep(pause);
        pause = (2 * pause).min(PAUSE_MAX);
    };
    Ok(Answer { code: status, said: text(&mut out), errors: text(&mut errors) })
}

fn memory(what: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(what, MFdFlags::MFD_CLOEXEC)?))
}

fn text(file: &mut File) -> String {
    let mut text = Vec::new();
    let _ = file.rewind().and_then(|()| file.take(ANSWER_BYTES_MAX).read_to_end(&mut text));
    String::from_utf8_lossy(&text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_too_long_ends_with_what_it_started() {
        let mut shell = Command::new("/bin/sh");
        let answer = ask(shell.args(["-c", "cat; echo no >&2; exit 3"]), b"told\n", Duration::from_secs(60)).unwrap();
        assert_eq!((answer.code, answer.said.as_str(), answer.errors.as_str()), (Some(3), "told", "no"));
        let dir = tempfile::tempdir().unwrap();
        let mut shell = Command::new("/bin/sh");
        let script = format!("sleep 1000 & echo $! > {0}/draft; mv {0}/draft {0}/pid; wait", dir.path().display());
        let late = ask(shell.args(["-c", &script]), b"", Duration::from_millis(300));
        assert!(late.err().unwrap().to_string().contains("longer than"));
        let Ok(pid) = std::fs::read_to_string(dir.path().join("pid")) else { return };
        let begun = Instant::now();
        // What is dead may wait to be reaped.
        let lives = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        while lives() {
            assert!(begun.elapsed() < Duration::from_secs(30), "it lives");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
