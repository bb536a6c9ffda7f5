//! What processes cost: processor time and memory, as the kernel counts them.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::Signal;

use crate::Fallible;

/// Processor time of some processes and of this one since a moment.
#[derive(Debug)]
pub(crate) struct CpuWatch {
    start: Instant,
    processes: Vec<(String, u32, Duration)>,
}

impl CpuWatch {
    /// From now.
    pub(crate) fn start(mut processes: Vec<(String, u32)>) -> Self {
        processes.push(("client".into(), std::process::id()));
        let processes = processes.into_iter().map(|(name, pid)| {
            let used = cpu_time(pid).unwrap_or_default();
            (name, pid, used)
        });
        Self { processes: processes.collect(), start: Instant::now() }
    }

    /// To stderr, in processors: 0.50 is half of one.
    pub(crate) fn report(&self) {
        let elapsed = self.start.elapsed().as_secs_f64();
        let shares = self.processes.iter().filter_map(|(name, pid, before)| {
            let used = cpu_time(*pid)?.saturating_sub(*before).as_secs_f64();
            Some(format!("{name} {:.2}", used / elapsed))
        });
        eprintln!("bench:   processors used: {}", shares.collect::<Vec<_>>().join(", "));
    }
}

/// User and system time of a live process.
fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces: fields are counted after it. utime and stime are fields 14 and 15, in
    // hundredths of a second.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

/// Processor time of this thread: what a computation costs, whatever else the machine does.
pub(crate) fn thread_cpu_time() -> Fallible<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split_whitespace().next().ok_or("no schedstat")?.parse()?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// Resident memory of a live process in MiB.
pub(crate) fn rss_mib(pid: u32) -> Fallible<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("a process without memory")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

/// Live processes whose program has this file name and that have a child at work in `dir`.
pub(crate) fn parents_in(program: &str, dir: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let is_program = fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with(program));
        is_program && children(*pid).any(|child| works_in(&child, dir))
    })
    .collect()
}

fn children(pid: u32) -> impl Iterator<Item = String> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect::<Vec<_>>().into_iter()
}

fn works_in(pid: &str, dir: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
}

/// Asks the kernel to kill the command when the thread that starts it ends, however that happens.
pub(crate) fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl is a plain system call: it allocates nothing and takes no lock, so it may run between fork and exec.
    unsafe {
        command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
    }
}
