//! Processes that do not outlive the test that started them.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A child whose output goes to a file, and which the kernel kills when the thread that started it ends.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `command`; what it writes is appended to `log`.
    pub fn start(command: &mut Command, log: &Path) -> io::Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        die_with_parent(command);
        Ok(Self { child: command.spawn()? })
    }

    /// Sends a signal, if it still lives.
    pub fn signal(&self, signal: Signal) {
        // A child that has ended is still ours until it was waited for: the pid cannot be another's.
        let _ = kill(self.pid(), signal);
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Asks the kernel to kill the command when the thread that starts it ends, however that happens.
pub(crate) fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl is a plain system call: it allocates nothing and takes no lock, so it may run between fork and exec.
    unsafe {
        command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
    }
}

/// Kills every process that works in `dir` or has it in its environment: tasks that a killed agent left behind.
pub fn kill_left_behind(dir: &Path) {
    // Children of what was killed may have been started meanwhile: until none is found.
    for _ in 0..50 {
        let found = left_behind(dir);
        if found.is_empty() {
            return;
        }
        for pid in found {
            let _ = kill(pid, Signal::SIGKILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Unmounts what killed agents left mounted below `dir`: roots of containers, and networks.
pub fn unmount_left_behind(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    for place in places.filter(|place| Path::new(place).starts_with(dir)) {
        let _ = nix::mount::umount2(place, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Live processes (not zombies) that belong to `dir`.
pub(crate) fn left_behind(dir: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let own = std::process::id();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own && belongs(*pid, dir))
        .map(|pid| Pid::from_raw(pid.cast_signed()))
        .collect()
}

fn belongs(pid: u32, dir: &Path) -> bool {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    if fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir)) {
        return true;
    }
    let dir = dir.as_os_str().as_encoded_bytes();
    // Both are empty for a zombie.
    ["environ", "cmdline"]
        .iter()
        .filter_map(|name| fs::read(proc.join(name)).ok())
        .any(|bytes| bytes.windows(dir.len()).any(|window| window == dir))
}
