//! A container as its isolators see it, and what they find out about it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use api::v1::task_status::Reason;
use api::v1::{ContainerInfo, Resource};

use crate::reports::Process;

/// What is used of a container's resources; an isolator fills in what it knows. Limits that none knows are what was promised.
pub type Usage = api::v1::ResourceStatistics;

/// What a container is, and what it may use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Container {
    /// Its id: of one within others theirs and its own, from the outermost, with dots between them.
    pub id: String,
    /// Folder that its process runs in, with its `stdout` and `stderr`. It exists when the container is created.
    pub sandbox: PathBuf,
    /// What it was given: of an executor's its own resources and those of its live tasks. Of one within another what it was
    /// launched with, which is part of what that one has.
    pub resources: Vec<Resource>,
    /// What it may use of a resource, by the resource's name, where that is more than it was given; infinite without a limit.
    pub limits: BTreeMap<String, f64>,
    /// As whoever launched it described it.
    pub info: Option<Box<ContainerInfo>>,
    /// The folder that takes what it writes to roots of its images, if these are not its own copies. It may not exist.
    pub written: Option<PathBuf>,
    /// The persistent volumes among its resources.
    pub volumes: Vec<Volume>,
    /// Its processes, once it runs.
    pub process: Option<Process>,
}

impl Container {
    /// Whether it is within another one.
    pub fn is_within(&self) -> bool {
        self.id.contains('.')
    }

    /// The id of the outermost container that it is within, or its own.
    pub fn root_id(&self) -> &str {
        self.id.split('.').next().unwrap_or_default()
    }
}

/// A persistent volume that a container uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Volume {
    /// The resource that it is.
    pub resource: Resource,
    /// Where it is on this machine, outside of the sandbox.
    pub place: PathBuf,
}

/// That a container has exceeded what it may use.
#[derive(Clone, Debug, PartialEq)]
pub struct Limitation {
    /// Why its tasks fail.
    pub reason: Reason,
    /// What exceeded what, in a sentence.
    pub message: String,
    /// What was exceeded.
    pub resources: Vec<Resource>,
}
