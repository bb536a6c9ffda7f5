//! What is heard of containers, and by whom.

use crate::container::Limitation;

/// The processes of a container, named so that a pid which was given away again is not mistaken for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// The supervisor.
    pub supervisor_pid: u32,
    /// When it started, in clock ticks since the machine did.
    pub start_ticks: u64,
    /// The start of the machine.
    pub boot_id: String,
    /// The first process in the container.
    pub pid: u32,
}

/// What who runs a container tells of its start, for the updates of its task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its description, in words of its own.
    pub data: Option<String>,
}

/// What became of a container.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Its process runs.
    Started {
        /// The container.
        container_id: String,
        /// Its processes.
        process: Process,
        /// What else is known of it.
        facts: Facts,
    },
    /// It exceeded what it may use: it is to be ended, or ended because of that, which is told next.
    Limited {
        /// The container.
        container_id: String,
        /// What it exceeded.
        limitation: Limitation,
    },
    /// It ended, and nothing of it is left.
    Ended {
        /// The container.
        container_id: String,
        /// Wait status of its first process; none if nobody saw it end.
        status: Option<i32>,
    },
    /// It could not be launched, and never will be.
    Failed {
        /// The container.
        container_id: String,
        /// Why, in a sentence.
        message: String,
    },
    /// The agent itself claimed its launch: nothing ran in it, nothing will.
    Revoked {
        /// The container.
        container_id: String,
    },
}

/// The agent's core, as containers see it.
pub trait Core: Send + Sync {
    /// Something became of a container. It may be said more than once.
    fn report(&self, report: Report);
    /// Whether the end of this container is waited for.
    fn awaits(&self, container_id: &str) -> bool;
    /// A launch did not succeed.
    fn count_failure(&self);
    /// The agent must not go on, for a reason in one sentence.
    fn fail(&self, sentence: String);
}
