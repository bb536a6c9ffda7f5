//! What changes a container on its way, or says what it uses: one a file. Coordination is not theirs: the containerizer asks
//! them in the order of `--isolation`.

mod posix;

use crate::containerizer::Creation;
use crate::reports::Process;

pub use posix::{PosixCpu, PosixMem, PosixRlimits};

/// What a container uses, as far as its isolators can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Time on processors, in seconds.
    pub cpus_user_s: Option<f64>,
    /// The same, in the kernel.
    pub cpus_system_s: Option<f64>,
    /// Resident memory.
    pub rss_bytes: Option<u64>,
}

/// One of `--isolation`.
pub trait Isolator: Send + Sync {
    /// As `--isolation` names it.
    fn name(&self) -> &'static str;

    /// Changes what is to be created: environment, limits, and the files by which the process joins something between clone and
    /// exec, when the supervisor holds it back.
    ///
    /// # Errors
    /// A sentence: the container cannot be created.
    fn prepare(&self, _creation: &mut Creation) -> Result<(), String> {
        Ok(())
    }

    /// Takes up again what was prepared by an agent before this one.
    fn recover(&self, _container_id: &str) {}

    /// Adds what a container uses. `processes` are all of the machine.
    fn usage(&self, _process: &Process, _processes: &[supervisor::processes::Process], _usage: &mut Usage) {}

    /// Takes back what was prepared: the container is over.
    fn cleanup(&self, _container_id: &str) {}
}

/// All that `--isolation` may name: what is built, and the old name of `posix/cpu,posix/mem`.
pub const NAMES: &[&str] = &["posix/cpu", "posix/mem", "posix/rlimits", "filesystem/posix", "process"];

/// What is built, by name; a name that is not built has none.
pub fn built(name: &str) -> Option<Option<Box<dyn Isolator>>> {
    match name {
        "posix/cpu" => Some(Some(Box::new(PosixCpu))),
        "posix/mem" => Some(Some(Box::new(PosixMem))),
        "posix/rlimits" => Some(Some(Box::new(PosixRlimits))),
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
            let isolator = built(name).unwrap_or_else(|| panic!("{name}"));
            assert!(isolator.is_none_or(|isolator| isolator.name() == *name));
        }
        assert!(built("cgroups/cpu").is_none());
    }
}
