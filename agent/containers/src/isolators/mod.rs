//! What changes a container on its way, says what it uses, or that it uses too much: one a file. Coordination is not theirs: the
//! containerizer asks them in the order of `--isolation`.

mod disk;
mod du;
mod ports;
mod posix;
mod sockets;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::container::{Container, Limitation, Usage};
use crate::containerizer::Creation;

pub use disk::Disk;
pub use ports::Ports;
pub use posix::{PosixCpu, PosixMem, PosixRlimits};

/// One of `--isolation`. Whatever it is asked, it may be asked of a container that it never prepared: that one was created
/// by an agent with other isolators.
pub trait Isolator: Send + Sync {
    /// As `--isolation` names it.
    fn name(&self) -> &'static str;

    /// Changes what is to be created: environment, limits, and the files by which the process joins something between clone and
    /// exec, when the supervisor holds it back. Blocks.
    ///
    /// # Errors
    /// A sentence: the container cannot be created.
    fn prepare(&self, _creation: &mut Creation) -> Result<(), String> {
        Ok(())
    }

    /// Takes up again what was prepared by an agent before this one.
    fn recover(&self, _container: &Container) {}

    /// Takes back what an agent before this one prepared for containers that are not among these. Blocks.
    fn sweep(&self, _known: &BTreeSet<String>) {}

    /// What a container may use is not what it was: its executor has other tasks. Does not block for long.
    fn update(&self, _container: &Container) {}

    /// Adds what a container that runs uses. `processes` are all of the machine.
    fn usage(&self, _container: &Container, _processes: &[supervisor::processes::Process], _usage: &mut Usage) {}

    /// Between two looks at what containers use, if it looks: see [`Isolator::watch`].
    fn interval(&self) -> Option<Duration> {
        None
    }

    /// Looks at all containers that run, for those that have exceeded what they may use: by their ids, with what they exceeded.
    /// They are ended for it. Blocks for as long as it takes; the next look is an interval later.
    fn watch(&self, _containers: &[Container]) -> Vec<(String, Limitation)> {
        Vec::new()
    }

    /// Whether the process of a container ended because it exceeded something. Asked before its end is told. Does not block for
    /// long.
    fn ended(&self, _container: &Container) -> Option<Limitation> {
        None
    }

    /// Takes back what was prepared: the container is over. Of one that this agent never heard of only the id is known. Blocks.
    fn cleanup(&self, _container: &Container) {}
}

/// All that `--isolation` may name: what is built, and the old name of `posix/cpu,posix/mem`.
pub const NAMES: &[&str] = &[
    "posix/cpu",
    "posix/mem",
    "posix/rlimits",
    "filesystem/posix",
    "disk/du",
    "posix/disk",
    "network/ports",
    "process",
];

/// How isolators are configured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Of `disk/du`.
    pub disk: DiskSettings,
    /// Of `network/ports`.
    pub ports: PortsSettings,
}

/// How `disk/du` is configured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DiskSettings {
    /// Between two looks.
    pub interval: Duration,
    /// Whether a container ends that takes more than it was given.
    pub is_enforced: bool,
}

/// How `network/ports` is configured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PortsSettings {
    /// Between two looks.
    pub interval: Duration,
    /// Whether a container ends that listens where it may not.
    pub is_enforced: bool,
    /// The ports that are looked at, if it is not all of them.
    pub only: Option<Vec<RangeInclusive<u64>>>,
}

/// Whether it does its work on the control groups of containers, so that they must have some.
pub fn needs_groups(name: &str) -> bool {
    name.starts_with("cgroups/") || name.starts_with("namespaces/") || name == "cgroups"
}

/// What is built, by name; a name that is not built has none.
pub fn built(name: &str, settings: &Settings) -> Option<Option<Box<dyn Isolator>>> {
    match name {
        "posix/cpu" => Some(Some(Box::new(PosixCpu))),
        "posix/mem" => Some(Some(Box::new(PosixMem))),
        "posix/rlimits" => Some(Some(Box::new(PosixRlimits))),
        "disk/du" => Some(Some(Box::new(Disk::new("disk/du", &settings.disk)))),
        // Its old name.
        "posix/disk" => Some(Some(Box::new(Disk::new("posix/disk", &settings.disk)))),
        "network/ports" => Some(Some(Box::new(Ports::new(&settings.ports)))),
        // Sandboxes are that.
        "filesystem/posix" => Some(None),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_named_is_built() {
        for name in NAMES.iter().filter(|name| **name != "process") {
            let isolator = built(name, &Settings::default()).unwrap_or_else(|| panic!("{name}"));
            assert!(isolator.is_none_or(|isolator| isolator.name() == *name));
        }
        assert!(built("cgroups/none", &Settings::default()).is_none());
    }
}
