//! `posix/cpu` and `posix/mem` confine nothing, and say what the processes of a container use. `posix/rlimits` limits them.

use std::collections::BTreeSet;

use supervisor::processes;

use super::Isolator;
use crate::container::{Container, Usage};

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

/// The processes of a container.
pub(super) fn of<'a>(
    container: &Container,
    all: &'a [processes::Process],
) -> impl Iterator<Item = &'a processes::Process> {
    let root = container.process.as_ref().map(|process| process.supervisor_pid);
    let below = processes::below(all, &root.into_iter().collect::<BTreeSet<u32>>());
    all.iter().filter(move |process| Some(process.pid) == root || below.contains(&process.pid))
}

/// How often a processor's time is counted.
pub(super) fn ticks_per_second() -> f64 {
    configured(nix::unistd::SysconfVar::CLK_TCK, 100) as f64
}

fn configured(name: nix::unistd::SysconfVar, default: u64) -> u64 {
    nix::unistd::sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok()).unwrap_or(default)
}

impl Isolator for PosixCpu {
    fn name(&self) -> &'static str {
        "posix/cpu"
    }

    fn usage(&self, container: &Container, all: &[processes::Process], usage: &mut Usage) {
        let ticks = ticks_per_second();
        let (user, system) =
            of(container, all).fold((0, 0), |(user, system), one| (user + one.user_ticks, system + one.system_ticks));
        usage.cpus_user_time_secs = Some(user as f64 / ticks);
        usage.cpus_system_time_secs = Some(system as f64 / ticks);
    }
}

impl Isolator for PosixMem {
    fn name(&self) -> &'static str {
        "posix/mem"
    }

    fn usage(&self, container: &Container, all: &[processes::Process], usage: &mut Usage) {
        let page = configured(nix::unistd::SysconfVar::PAGE_SIZE, 4096);
        usage.mem_rss_bytes = Some(of(container, all).map(|one| one.rss_pages * page).sum());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::Process;

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
        let process = Some(Process { supervisor_pid: 7, ..Process::default() });
        let (container, mut usage) = (Container { process, ..Container::default() }, Usage::default());
        PosixMem.usage(&container, &all, &mut usage);
        assert_eq!(usage.cpus_user_time_secs, None, "that is another's");
        PosixCpu.usage(&container, &all, &mut usage);
        let page = configured(nix::unistd::SysconfVar::PAGE_SIZE, 4096);
        assert_eq!(usage.mem_rss_bytes, Some(9 * page));
        assert!(usage.cpus_user_time_secs > usage.cpus_system_time_secs);
    }
}
