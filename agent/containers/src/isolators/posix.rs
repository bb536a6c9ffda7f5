//! `posix/cpu` and `posix/mem` confine nothing, and say what the processes of a container use. `posix/rlimits` limits them.

use std::collections::BTreeSet;

use supervisor::processes;

use super::{Isolator, Usage};
use crate::reports::Process;

/// `posix/cpu`
#[derive(Clone, Copy, Debug)]
pub struct PosixCpu;
/// `posix/mem`
#[derive(Clone, Copy, Debug)]
pub struct PosixMem;

/// `posix/rlimits`: a container may bring limits of its processes along. The supervisor sets them, between clone and exec.
#[derive(Clone, Copy, Debug)]
pub struct PosixRlimits;

impl Isolator for PosixRlimits {
    fn name(&self) -> &'static str {
        "posix/rlimits"
    }
}

fn of<'a>(process: &Process, all: &'a [processes::Process]) -> impl Iterator<Item = &'a processes::Process> {
    let root = process.supervisor_pid;
    let below = processes::below(all, &BTreeSet::from([root]));
    all.iter().filter(move |process| process.pid == root || below.contains(&process.pid))
}

fn configured(name: nix::unistd::SysconfVar, default: u64) -> u64 {
    nix::unistd::sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok()).unwrap_or(default)
}

impl Isolator for PosixCpu {
    fn name(&self) -> &'static str {
        "posix/cpu"
    }

    fn usage(&self, process: &Process, all: &[processes::Process], usage: &mut Usage) {
        let ticks = configured(nix::unistd::SysconfVar::CLK_TCK, 100) as f64;
        let (user, system) =
            of(process, all).fold((0, 0), |(user, system), one| (user + one.user_ticks, system + one.system_ticks));
        (usage.cpus_user_s, usage.cpus_system_s) = (Some(user as f64 / ticks), Some(system as f64 / ticks));
    }
}

impl Isolator for PosixMem {
    fn name(&self) -> &'static str {
        "posix/mem"
    }

    fn usage(&self, process: &Process, all: &[processes::Process], usage: &mut Usage) {
        let page = configured(nix::unistd::SysconfVar::PAGE_SIZE, 4096);
        usage.rss_bytes = Some(of(process, all).map(|one| one.rss_pages * page).sum());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_supervisor_is_counted() {
        let one = |pid, parent, rss_pages| processes::Process {
            pid,
            parent,
            session: 1,
            is_dead: false,
            start_ticks: 1,
            user_ticks: 100,
            system_ticks: 50,
            rss_pages,
        };
        let all = [one(1, 0, 1000), one(7, 1, 2), one(8, 7, 3), one(9, 8, 4), one(10, 1, 500)];
        let (process, mut usage) = (Process { supervisor_pid: 7, ..Process::default() }, Usage::default());
        PosixMem.usage(&process, &all, &mut usage);
        assert_eq!(usage.cpus_user_s, None, "that is another's");
        PosixCpu.usage(&process, &all, &mut usage);
        let page = configured(nix::unistd::SysconfVar::PAGE_SIZE, 4096);
        assert_eq!(usage.rss_bytes, Some(9 * page));
        assert!(usage.cpus_user_s > usage.cpus_system_s);
    }
}
