//! What runs containers; there may be several, and each container has one.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use api::v1::{CommandInfo, ContainerStatus};
use supervisor::spec::{First, Namespace, Rotation, World};
use supervisor::users::Users;

use crate::container::{Container, Usage};
use crate::reports::{Core, Process};

pub use supervisor::program::How;

/// A container to be. Every string is free of NUL, or its creation fails.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Creation {
    /// What it is and what it may use; its sandbox exists.
    pub container: Container,
    /// User to run as; empty for the agent's own.
    pub user: String,
    /// What is executed; by default the first of the arguments.
    pub program: Option<String>,
    /// As the process sees them.
    pub arguments: Vec<String>,
    /// `NAME=value`, all of the environment.
    pub environment: Vec<String>,
    /// Soft limit of open files.
    pub files: Option<u64>,
    /// Permissions that new files do not get.
    pub umask: Option<u32>,
    /// So long the agent may be away, in milliseconds, before the process is ended; for ever if not given.
    pub away_ms_max: Option<u64>,
    /// Time between the request to end and the end, in milliseconds, when the agent is away too long.
    pub grace_ms: Option<u64>,
    /// Files that the number of the process is written to between clone and exec.
    pub joins: Vec<PathBuf>,
    /// What its process sees of the machine and may do there; what it enters is below.
    pub world: World,
    /// What it enters of the container that it is within.
    pub enters: Vec<Namespace>,
    /// What is run before its process, which is started only if that succeeds.
    pub first: Option<First>,
    /// Limits of the process, by their names behind `RLMT_`: soft and hard; none is no limit.
    pub rlimits: Vec<(String, Option<(u64, u64)>)>,
    /// How somebody can be connected with its process, if anybody can.
    pub streams: Option<Streams>,
    /// Bounds of its outputs, if nobody can be connected with them.
    pub rotation: Option<Rotation>,
    /// The containerizer that somebody asks for by name.
    pub containerizer: Option<String>,
    /// Labels of the task, or of the executor: name and value.
    pub labels: Vec<(String, String)>,
    /// Commands are to run beside its process, to look at it.
    pub checked: bool,
    /// As its task, or its executor, asked for it: for who makes something else of it than a process.
    pub command: Option<CommandInfo>,
    /// Roots of images that it finds as volumes.
    pub images: Vec<ImageVolume>,
    /// Folder that holds what it writes to its root, beside what its image has.
    pub scratch: Option<PathBuf>,
}

/// The root of an image, as a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageVolume {
    /// Where it is found, as whoever asked for it said.
    pub container_path: String,
    /// The root.
    pub root: PathBuf,
    /// Nobody writes to it.
    pub read_only: bool,
    /// Folder that holds what is written to it, beside what the image has.
    pub scratch: Option<PathBuf>,
}

/// How a container is looked at from within.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// A program that runs commands in it, with its arguments: it is asked as `agent_checks::command::run` is.
    pub helper: (PathBuf, Vec<String>),
    /// A file that stands for its network; none for the machine's.
    pub network: Option<PathBuf>,
}

/// Streams of a container's process that somebody can be connected with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streams {
    /// It has a terminal: so many rows and columns.
    pub terminal: Option<(u16, u16)>,
    /// They are for whoever comes first, and not written to files.
    pub session: bool,
}

/// What runs containers. Nothing here waits: what comes of it is reported.
pub trait Containerizer: Send + Sync {
    /// As `--containerizers` names it.
    fn name(&self) -> &'static str;
    /// Whether it would run this one, which asks for none by name.
    fn takes(&self, creation: &Creation) -> bool;
    /// Whether it has begun to run this one.
    fn has(&self, container_id: &str) -> bool;
    /// Whom users of a container are on the machine, if it is to have some of its own. The error is a sentence: it cannot be created.
    fn users(&self, _container_id: &str) -> Result<Option<Users>, String> {
        Ok(None)
    }
    /// Creates a container.
    fn create(&self, core: Arc<dyn Core>, creation: Creation);
    /// What was to be created cannot be, for a reason in a sentence, and never will.
    fn give_up(&self, core: Arc<dyn Core>, container_id: &str, message: String);
    /// Ends what runs in a container; what does not run yet must never run.
    fn destroy(&self, core: Arc<dyn Core>, container_id: &str, how: How);
    /// Sends a signal to the first process of a container; false if it is no more.
    ///
    /// # Errors
    /// It cannot be done.
    fn signal(&self, container_id: &str, process: &Process, signal: i32) -> std::io::Result<bool>;
    /// Connects with the streams of a container's process: see `supervisor::streams`.
    ///
    /// # Errors
    /// It cannot be done.
    fn connect(&self, process: &Process) -> std::io::Result<UnixStream>;
    /// Finds out what became of a container that an agent before this one created.
    fn recover(&self, core: Arc<dyn Core>, container: &Container);
    /// What a container that runs may use is not what it was. Does not block for long.
    fn update(&self, container: &Container);
    /// A container that runs is to have these volumes now, and none of those that are `over` any more: paths in its sandbox, and where
    /// the volumes are. What others find by links, they find so. Blocks, for a moment.
    ///
    /// # Errors
    /// A sentence: it does not have them, and will not.
    fn find_volumes(&self, container: &Container, over: &[(String, PathBuf)]) -> Result<(), String> {
        let _ = (container, over);
        Ok(())
    }
    /// Nobody needs what is kept of its launch and its end any more.
    fn release(&self, container_id: &str);
    /// What a container was given, as far as whoever runs it knows. Does not block for long.
    fn status(&self, _container_id: &str) -> ContainerStatus {
        ContainerStatus::default()
    }
    /// Numbers of its own, by their names at `/metrics/snapshot`. Does not block.
    fn numbers(&self, _set: &mut dyn FnMut(&str, f64)) {}
    /// What a container that runs uses now. Blocks.
    fn usage(&self, container: &Container) -> Usage;
    /// How a container is looked at from within, if its checks are not made beside its process.
    fn inside(&self, container_id: &str, process: Option<&Process>) -> Option<Inside> {
        let _ = (container_id, process);
        None
    }
}

/// Those that there are, in the order of `--containerizers`: the first that takes a container has it.
#[derive(Clone)]
pub struct Choice(Vec<Arc<dyn Containerizer>>);

impl std::fmt::Debug for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|one| one.name())).finish()
    }
}

impl Choice {
    /// Of these.
    ///
    /// # Panics
    /// If there is none.
    pub fn of(all: Vec<Arc<dyn Containerizer>>) -> Choice {
        assert!(!all.is_empty(), "there is a containerizer");
        Choice(all)
    }

    /// Numbers of all of them.
    pub fn numbers(&self, set: &mut dyn FnMut(&str, f64)) {
        self.0.iter().for_each(|one| one.numbers(set));
    }

    fn last(&self) -> &dyn Containerizer {
        self.0.last().expect("there is one").as_ref()
    }

    /// The one for a new container: what is within another belongs to who has that; otherwise the one that is asked for by name, or
    /// the first that takes it.
    ///
    /// # Errors
    /// There is none of that name, or none that takes it: a sentence.
    pub fn for_new(&self, creation: &Creation) -> Result<&dyn Containerizer, String> {
        if let Some((parent, _)) = creation.container.id.rsplit_once('.') {
            return Ok(self.of_container(parent));
        }
        match &creation.containerizer {
            None => self.0.iter().find(|one| one.takes(creation)).map(AsRef::as_ref).ok_or_else(|| {
                // There is no other type that somebody may not take.
                format!("containers of type DOCKER need docker in this agent's --containerizers: {}", self.names())
            }),
            Some(name) => match self.0.iter().find(|one| one.name() == name).map(AsRef::as_ref) {
                Some(one) if one.takes(creation) => Ok(one),
                Some(_) => Err(format!("the containerizer '{name}' does not run containers of this type")),
                None => Err(format!(
                    "the containerizer '{name}' is not one of this agent's --containerizers: {}",
                    self.names()
                )),
            },
        }
    }

    fn names(&self) -> String {
        self.0.iter().map(|one| one.name()).collect::<Vec<_>>().join(", ")
    }

    /// The one that has a container, or would have had it.
    pub fn of_container(&self, container_id: &str) -> &dyn Containerizer {
        match &self.0[..] {
            // Without a look at the disk.
            [one] => one.as_ref(),
            all => all.iter().find(|one| one.has(container_id)).map_or(self.last(), AsRef::as_ref),
        }
    }
}
