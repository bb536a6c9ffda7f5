//! What the agent and a supervisor tell each other: the description of a container, handed over on the supervisor's
//! standard input, and small files in `work_dir/meta/containers`, named by the container:
//!
//! - `ID.launch`: the claim, a line that says whose. Exactly one of the supervisor and a recovering agent has it. A line is added
//!   when the process runs, and one when it ended. A line is whole if a full stop ends it.
//! - `ID.external`: the program that runs it, if it is no process of ours.
//! - `ID.told`, `ID.exceeded`: what that program told of its start and of its end.
//!
//! Written first, then told through a named pipe: an agent that was away finds all of it in the files. It is one file since a file
//! system takes longer to make one, the more of them were removed just now. Supervisors of before had a symbolic link that
//! was the claim, and `ID.started` and `ID.exit`: they are read as well, and made for an agent of before, which does not say that it
//! reads lines.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sched::CloneFlags;

use crate::mounts::Mount;
use crate::nodes::Node;
use crate::processes;
use crate::program::Program;
use crate::root::Root;
use crate::users::Users;

/// A file that serves one container after the other is no longer than that.
const SPARE_BYTES_MAX: usize = 3 << 10;
/// How late a supervisor may come to claim its launch, after its agent was killed.
const LATE_MAX: Duration = Duration::from_secs(3600);

/// What to run, and how. Every string is free of NUL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    /// The container.
    pub container_id: String,
    /// Folder of the files above.
    pub containers_dir: String,
    /// The named pipe that the agent listens on.
    pub pipe: String,
    /// What is noted are lines of one file: only an agent of before, which cannot read them, does not ask for that.
    pub lines: bool,
    /// A file of a container that is over, which becomes this one's.
    pub spare: Option<String>,
    /// Working directory of the process, with its `stdout` and `stderr`.
    pub sandbox: String,
    /// User to run as; empty for the agent's own.
    pub user: String,
    /// Program and arguments, as the process sees them.
    pub arguments: Vec<String>,
    /// `NAME=value`, all of the environment.
    pub environment: Vec<String>,
    /// What is executed; by default the first of the arguments.
    pub program: Option<String>,
    /// Soft limit of open files for the process.
    pub files: Option<u64>,
    /// Permissions that new files do not get.
    pub umask: Option<u32>,
    /// So long the agent may be away, in milliseconds, before the process is ended; for ever if not given.
    pub away_ms_max: Option<u64>,
    /// Time between the request to end and the end, in milliseconds, when the agent is away too long.
    pub grace_ms: Option<u64>,
    /// Files that the number of the process is written to between clone and exec: what it is to join.
    pub joins: Vec<String>,
    /// Control group of the process: whatever is in it or below it ends with the process.
    pub group: Option<String>,
    /// What the process sees of the machine, and may do there.
    pub world: World,
    /// What is run before the process.
    pub first: Option<First>,
    /// Bounds of its outputs, if they have any.
    pub rotation: Option<Rotation>,
    /// Limits of the process, by their names behind `RLMT_`: soft and hard; none is no limit.
    pub rlimits: Vec<(String, Option<(u64, u64)>)>,
    /// Folder of sockets, if the streams of the process can be connected to: see [`crate::streams`].
    pub sockets: Option<String>,
    /// It has a terminal: so many rows and columns.
    pub terminal: Option<(u16, u16)>,
    /// Its streams are somebody's who is to come: they are not written to files, and wait.
    pub session: bool,
    /// Another program runs it.
    pub external: Option<External>,
}

/// A container that is not run as a process here, but by a program that is asked to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct External {
    /// The program.
    pub program: Program,
    /// What it is to launch, a JSON object; where its outputs go is added by who asks.
    pub request: String,
}

/// What a process can have of its own, or have in common with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// Shared memory, semaphores and queues.
    Ipc,
    /// What is mounted.
    Mount,
    /// Interfaces, addresses and ports.
    Net,
    /// Processes.
    Pid,
    /// Users and groups, and what they may do.
    User,
    /// The machine's name.
    Uts,
}

impl Namespace {
    const ALL: [Namespace; 6] =
        [Namespace::Ipc, Namespace::Mount, Namespace::Net, Namespace::Pid, Namespace::User, Namespace::Uts];

    pub(crate) fn flag(self) -> CloneFlags {
        match self {
            Namespace::Ipc => CloneFlags::CLONE_NEWIPC,
            Namespace::Mount => CloneFlags::CLONE_NEWNS,
            Namespace::Net => CloneFlags::CLONE_NEWNET,
            Namespace::Pid => CloneFlags::CLONE_NEWPID,
            Namespace::User => CloneFlags::CLONE_NEWUSER,
            Namespace::Uts => CloneFlags::CLONE_NEWUTS,
        }
    }

    /// As `/proc/PID/ns` has it.
    pub fn name(self) -> &'static str {
        match self {
            Namespace::Ipc => "ipc",
            Namespace::Mount => "mnt",
            Namespace::Net => "net",
            Namespace::Pid => "pid",
            Namespace::User => "user",
            Namespace::Uts => "uts",
        }
    }

    fn named(name: &str) -> Option<Namespace> {
        Namespace::ALL.into_iter().find(|one| one.name() == name)
    }
}

/// What a process sees of the machine, and may do there. By default, what its supervisor does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// What it has of its own.
    pub own: Vec<Namespace>,
    /// What it enters first, by a file that stands for it.
    pub enters: Vec<(Namespace, String)>,
    /// A `/dev/shm` of its own, of so many bytes; 0 if the kernel is to choose.
    pub shm_bytes: Option<u64>,
    /// Nothing that it executes gives it privileges.
    pub no_new_privileges: bool,
    /// Its capabilities, a bit for each by its number.
    pub effective: Option<u64>,
    /// Those that it may ever have.
    pub bounding: Option<u64>,
    /// Which system calls it may make, in instructions of the kernel, first to last; none if all.
    pub filter: Vec<u64>,
    /// Folder that becomes its root.
    pub root: Option<Root>,
    /// What is mounted for it, in this order.
    pub mounts: Vec<Mount>,
    /// Files of devices in the `/dev` of its root, besides those that every process has.
    pub nodes: Vec<Node>,
    /// Where it begins, as it sees it; by default in the sandbox as the machine sees that.
    pub directory: Option<String>,
    /// The name that it has for the machine, with one of its own.
    pub hostname: Option<String>,
    /// The file of another one's mounts, whose `/dev/shm` it has.
    pub shm_of: Option<String>,
    /// Whom its users are on the machine, if it has users of its own or enters such.
    pub users: Option<Users>,
}

impl World {
    /// Whether its queues of messages are not the machine's.
    pub(crate) fn has_queues(&self) -> bool {
        let mut all = self.own.iter().chain(self.enters.iter().map(|(namespace, _)| namespace));
        all.any(|namespace| *namespace == Namespace::Ipc)
    }

    /// Whether it is in a network, or has a name or memory, that is not its supervisor's.
    fn has_network(&self) -> bool {
        let mut all = self.own.iter().chain(self.enters.iter().map(|(namespace, _)| namespace));
        self.hostname.is_some()
            || self.shm_of.is_some()
            || all.any(|one| matches!(one, Namespace::Net | Namespace::Uts))
    }

    /// Whether something is where its supervisor does not have it.
    fn has_places(&self) -> bool {
        self.root.is_some() || !self.mounts.is_empty() || self.directory.is_some()
    }

    /// Whether it has mounts of its own, for whatever reason.
    pub fn has_mounts(&self) -> bool {
        self.root.is_some() || !self.mounts.is_empty() || self.own.contains(&Namespace::Mount)
    }
}

/// Bounds of a process's outputs: how many bytes a file has, and how many older files are kept, of `stdout` and of `stderr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Of `stdout`.
    pub stdout: (u64, u32),
    /// Of `stderr`.
    pub stderr: (u64, u32),
}

impl Rotation {
    fn encode(self) -> String {
        let Rotation { stdout, stderr } = self;
        format!("{} {} {} {}", stdout.0, stdout.1, stderr.0, stderr.1)
    }

    fn decode(text: &str) -> Option<Rotation> {
        let mut words = text.split(' ');
        let mut pair = || Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?));
        Some(Rotation { stdout: pair()?, stderr: pair()? })
    }
}

/// A program that is run before the container's process, in its place and with its outputs, as the agent's own user. If it does
/// not succeed, the process is not started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct First {
    /// Its path.
    pub program: String,
    /// Its standard input.
    pub input: String,
    /// What it means if it fails, the beginning of a sentence.
    pub failure: String,
}

/// The version that this release reads. A supervisor does not run what a newer one describes: it may have to be run otherwise.
const VERSION: u64 = 12;
/// The version without users of its own.
const VERSION_WITHOUT_USERS: u64 = 11;
/// The version without files of devices.
const VERSION_WITHOUT_NODES: u64 = 10;
/// The version without filters of system calls.
const VERSION_WITHOUT_FILTER: u64 = 9;
/// The version without mounts and a root.
const VERSION_WITHOUT_ROOT: u64 = 8;
/// The version without a world of its own.
const VERSION_WITHOUT_WORLD: u64 = 7;
/// The version without a control group.
const VERSION_WITHOUT_GROUP: u64 = 6;
/// The version without other programs.
const VERSION_WITHOUT_EXTERNAL: u64 = 5;
/// The version without limits.
const VERSION_WITHOUT_LIMITS: u64 = 4;
/// The version of [`First`], and the one without, for who does not need the newer ones.
const VERSION_OF_FIRST: u64 = 3;
const VERSION_WITHOUT_FIRST: u64 = 2;

impl Spec {
    /// As it is handed over.
    ///
    /// # Errors
    /// The string that contains a NUL, which no process can be given.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let counts = [self.arguments.len().to_string(), self.environment.len().to_string()];
        let fixed = [&self.container_id, &self.containers_dir, &self.pipe, &self.sandbox, &self.user];
        let mut bytes = Vec::new();
        // Behind all that an older supervisor reads, by name: what is not known to the reader is passed over.
        let numbers = [
            ("version", Some(self.version())),
            ("files", self.files),
            ("umask", self.umask.map(u64::from)),
            ("away_ms_max", self.away_ms_max),
            ("grace_ms", self.grace_ms),
            ("terminal", self.terminal.map(|(rows, columns)| u64::from(rows) << 16 | u64::from(columns))),
            ("session", self.session.then_some(1)),
            ("lines", self.lines.then_some(1)),
            ("shm_bytes", self.world.shm_bytes),
            ("no_new_privileges", self.world.no_new_privileges.then_some(1)),
            ("effective", self.world.effective),
            ("bounding", self.world.bounding),
            ("root_read_only", self.world.root.as_ref().and_then(|root| root.read_only.then_some(1))),
            ("users_first", self.world.users.map(|users| users.first.into())),
            ("users_count", self.world.users.map(|users| users.count.into())),
            ("root_mapped", self.world.root.as_ref().and_then(|root| root.mapped.then_some(1))),
            ("root_unmasked", self.world.root.as_ref().and_then(|root| root.unmasked.then_some(1))),
        ];
        let named: Vec<String> = (self.program.iter().map(|program| format!("program={program}")))
            .chain(self.spare.iter().map(|name| format!("spare={name}")))
            .chain(self.sockets.iter().map(|path| format!("sockets={path}")))
            .chain(self.rlimits.iter().map(|(name, limit)| match limit {
                Some((soft, hard)) => format!("rlimit={name}:{soft}:{hard}"),
                None => format!("rlimit={name}"),
            }))
            .chain(self.external.iter().flat_map(|external| {
                let External { program, request } = external;
                let Program { path, folder, launch_ms_max, answer_ms_max, own } = program;
                let own = own.iter().map(|own| format!("external_own={own}"));
                own.chain([
                    format!("external={path}"),
                    format!("external_folder={folder}"),
                    format!("external_launch_ms_max={launch_ms_max}"),
                    format!("external_answer_ms_max={answer_ms_max}"),
                    format!("external_request={request}"),
                ])
            }))
            .chain(self.group.iter().map(|path| format!("group={path}")))
            .chain(self.world.own.iter().map(|namespace| format!("own={}", namespace.name())))
            .chain(self.world.enters.iter().map(|(namespace, path)| format!("enter={}:{path}", namespace.name())))
            .chain(self.world.root.iter().map(|root| format!("root={}", root.path)))
            .chain(self.world.mounts.iter().map(|mount| format!("mount={}", mount.encode())))
            .chain(self.world.nodes.iter().map(|node| format!("node={}", node.encode())))
            .chain((!self.world.filter.is_empty()).then(|| {
                let filter = self.world.filter.iter().map(|one| format!("{one:016x}"));
                format!("filter={}", filter.collect::<String>())
            }))
            .chain(self.world.directory.iter().map(|path| format!("directory={path}")))
            .chain(self.world.hostname.iter().map(|name| format!("hostname={name}")))
            .chain(self.world.shm_of.iter().map(|path| format!("shm_of={path}")))
            .chain(self.joins.iter().map(|path| format!("join={path}")))
            .chain(self.rotation.iter().map(|rotation| format!("rotation={}", rotation.encode())))
            .chain(self.first.iter().flat_map(|first| {
                let First { program, input, failure } = first;
                [format!("first={program}"), format!("first_input={input}"), format!("first_failure={failure}")]
            }))
            .chain(numbers.into_iter().filter_map(|(name, number)| Some(format!("{name}={}", number?))))
            .collect();
        for text in fixed.into_iter().chain(&counts).chain(&self.arguments).chain(&self.environment).chain(&named) {
            if text.contains('\0') {
                return Err(format!("{text:?} contains a NUL"));
            }
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        }
        Ok(bytes)
    }

    fn version(&self) -> u64 {
        match &self.first {
            _ if self.world.users.is_some() => VERSION,
            _ if !self.world.nodes.is_empty() => VERSION_WITHOUT_USERS,
            _ if !self.world.filter.is_empty() || self.world.has_network() => VERSION_WITHOUT_NODES,
            _ if self.world.has_places() => VERSION_WITHOUT_FILTER,
            _ if self.world != World::default() => VERSION_WITHOUT_ROOT,
            _ if self.group.is_some() => VERSION_WITHOUT_WORLD,
            _ if self.external.is_some() => VERSION_WITHOUT_GROUP,
            _ if !self.rlimits.is_empty() => VERSION_WITHOUT_EXTERNAL,
            _ if self.sockets.is_some() || self.rotation.is_some() => VERSION_WITHOUT_LIMITS,
            Some(_) => VERSION_OF_FIRST,
            None => VERSION_WITHOUT_FIRST,
        }
    }

    /// As it was handed over; none if it was cut off, or describes what only a newer release knows to run.
    pub fn decode(bytes: &[u8]) -> Option<Spec> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut fields = text.strip_suffix('\0')?.split('\0').map(str::to_owned);
        let mut next = || fields.next();
        let [container_id, containers_dir, pipe, sandbox, user] = [next()?, next()?, next()?, next()?, next()?];
        let (arguments, environment): (usize, usize) = (next()?.parse().ok()?, next()?.parse().ok()?);
        let rest: Vec<String> = fields.collect();
        let (arguments, rest) = rest.split_at_checked(arguments)?;
        let (environment, named) = rest.split_at_checked(environment)?;
        let text = |name: &str| named.iter().find_map(|text| text.strip_prefix(name)?.strip_prefix('='));
        let number = |name: &str| text(name)?.parse::<u64>().ok();
        let mounts = named.iter().filter_map(|text| text.strip_prefix("mount="));
        let mounts = mounts.map(Mount::decode).collect::<Option<Vec<Mount>>>()?;
        let nodes = named.iter().filter_map(|text| text.strip_prefix("node="));
        let nodes = nodes.map(Node::decode).collect::<Option<Vec<Node>>>()?;
        let filter = text("filter").map_or(Some(Vec::new()), instructions)?;
        // The first had none.
        if number("version").is_some_and(|version| version > VERSION) {
            return None;
        }
        Some(Spec {
            container_id,
            containers_dir,
            pipe,
            sandbox,
            user,
            arguments: arguments.to_vec(),
            environment: environment.to_vec(),
            program: text("program").map(str::to_owned),
            files: number("files"),
            umask: number("umask").and_then(|mask| u32::try_from(mask).ok()),
            away_ms_max: number("away_ms_max"),
            grace_ms: number("grace_ms"),
            rlimits: named.iter().filter_map(|text| text.strip_prefix("rlimit=")).filter_map(rlimit).collect(),
            sockets: text("sockets").map(str::to_owned),
            terminal: number("terminal").map(|size| ((size >> 16) as u16, size as u16)),
            session: number("session") == Some(1),
            lines: number("lines") == Some(1),
            spare: text("spare").map(str::to_owned),
            external: text("external").map(|path| External {
                program: Program {
                    path: path.to_owned(),
                    folder: text("external_folder").unwrap_or_default().to_owned(),
                    launch_ms_max: number("external_launch_ms_max").unwrap_or_default(),
                    answer_ms_max: number("external_answer_ms_max").unwrap_or_default(),
                    own: text("external_own").map(str::to_owned),
                },
                request: text("external_request").unwrap_or_default().to_owned(),
            }),
            joins: named.iter().filter_map(|text| text.strip_prefix("join=")).map(str::to_owned).collect(),
            group: text("group").map(str::to_owned),
            world: World {
                own: named.iter().filter_map(|text| Namespace::named(text.strip_prefix("own=")?)).collect(),
                enters: named.iter().filter_map(|text| entered(text.strip_prefix("enter=")?)).collect(),
                shm_bytes: number("shm_bytes"),
                no_new_privileges: number("no_new_privileges") == Some(1),
                effective: number("effective"),
                bounding: number("bounding"),
                filter,
                root: text("root").map(|path| Root {
                    path: path.to_owned(),
                    read_only: number("root_read_only") == Some(1),
                    unmasked: number("root_unmasked") == Some(1),
                    mapped: number("root_mapped") == Some(1),
                }),
                mounts,
                nodes,
                directory: text("directory").map(str::to_owned),
                hostname: text("hostname").map(str::to_owned),
                shm_of: text("shm_of").map(str::to_owned),
                users: users(number("users_first"), number("users_count")),
            },
            rotation: text("rotation").and_then(Rotation::decode),
            first: text("first").map(|program| First {
                program: program.to_owned(),
                input: text("first_input").unwrap_or_default().to_owned(),
                failure: text("first_failure").unwrap_or_default().to_owned(),
            }),
        })
    }
}

fn users(first: Option<u64>, count: Option<u64>) -> Option<Users> {
    Some(Users { first: u32::try_from(first?).ok()?, count: u32::try_from(count?).ok()? })
}

/// Numbers of sixteen digits each.
fn instructions(text: &str) -> Option<Vec<u64>> {
    let digits = text.as_bytes().chunks(16);
    digits
        .map(|one| u64::from_str_radix(std::str::from_utf8(one).ok().filter(|one| one.len() == 16)?, 16).ok())
        .collect()
}

fn entered(text: &str) -> Option<(Namespace, String)> {
    let (name, path) = text.split_once(':')?;
    Some((Namespace::named(name)?, path.to_owned()))
}

fn rlimit(text: &str) -> Option<(String, Option<(u64, u64)>)> {
    match text.split_once(':') {
        None => Some((text.to_owned(), None)),
        Some((name, limits)) => {
            let (soft, hard) = limits.split_once(':')?;
            Some((name.to_owned(), Some((soft.parse().ok()?, hard.parse().ok()?))))
        }
    }
}

/// Who claimed a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A supervisor: pid, start time in clock ticks, boot id.
    Supervisor(u32, u64, String),
    /// An agent: nothing runs in the container, nothing will.
    Agent,
}

/// What is said of a container, in a file and through the pipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Its process runs: supervisor, its start time in clock ticks, and the process.
    Started(u32, u64, u32),
    /// Its process ended, with this wait status.
    Exited(i32),
    /// There never was a process.
    Failed(String),
}

impl Notice {
    /// One line without its end.
    pub fn encode(&self) -> String {
        match self {
            Notice::Started(supervisor, ticks, pid) => format!("started {supervisor} {ticks} {pid}"),
            Notice::Exited(status) => format!("exited {status}"),
            Notice::Failed(message) => {
                // Whole lines of less than PIPE_BUF are never mixed with those of others.
                let line: String = message.chars().take(900).map(|c| if c == '\n' { ' ' } else { c }).collect();
                format!("failed {line}")
            }
        }
    }

    /// Reads such a line.
    pub fn decode(line: &str) -> Option<Notice> {
        let (kind, rest) = line.split_once(' ')?;
        let mut words = rest.split(' ');
        let mut number = || words.next()?.parse::<u64>().ok();
        match kind {
            "started" => {
                let (supervisor, ticks, pid) = (number()?, number()?, number()?);
                Some(Notice::Started(u32::try_from(supervisor).ok()?, ticks, u32::try_from(pid).ok()?))
            }
            "exited" => Some(Notice::Exited(rest.parse().ok()?)),
            "failed" => Some(Notice::Failed(rest.to_owned())),
            _ => None,
        }
    }
}

/// The files of one container.
#[derive(Clone, Debug)]
pub struct Files {
    dir: PathBuf,
    container_id: String,
    of_before: bool,
    spare: Option<String>,
}

impl Files {
    /// Of a container whose files are in `dir`.
    pub fn new(dir: impl Into<PathBuf>, container_id: &str) -> Files {
        Files { dir: dir.into(), container_id: container_id.to_owned(), of_before: false, spare: None }
    }

    /// Those that a supervisor writes, as its agent reads them.
    pub fn of(spec: &Spec) -> Files {
        let files = Files::new(&spec.containers_dir, &spec.container_id);
        Files { of_before: !spec.lines, spare: spec.spare.clone(), ..files }
    }

    fn path(&self, what: &str) -> PathBuf {
        self.dir.join(format!("{}.{what}", self.container_id))
    }

    /// Claims the launch, for good: true for exactly one caller ever.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn claim(&self, claim: &Claim) -> io::Result<bool> {
        let text = match claim {
            Claim::Supervisor(pid, ticks, boot_id) if self.of_before => format!("supervisor {pid} {ticks} {boot_id}"),
            // It says whose it is, since a file serves one after the other. What is behind it is this one's, also after a crash of the machine.
            Claim::Supervisor(pid, ticks, boot_id) => {
                format!("\nsupervisor {pid} {ticks} {boot_id} {}.\n", self.container_id)
            }
            Claim::Agent if self.of_before => "agent".to_owned(),
            Claim::Agent => "agent.\n".to_owned(),
        };
        // It appears with its content or not at all, only if nobody was faster, and one sync makes it last: after a crash of the
        // machine without its content, which then says enough.
        // Opened first: whoever gets no descriptor has claimed nothing.
        let dir = File::open(&self.dir)?;
        if self.of_before {
            let linked = symlink(text, self.path("launch")).map(|()| true).or_else(there);
            return if linked? { dir.sync_all().map(|()| true) } else { Ok(false) };
        }
        let draft = self.path(&format!("draft-{}", std::process::id()));
        // One that is not there is made.
        let _ = self.spare.iter().try_for_each(|spare| fs::rename(spare, &draft));
        let opened = File::options().create(true).append(true).open(&draft);
        let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
        let claimed = written.and_then(|()| appear(&draft, &self.path("launch")));
        if !matches!(claimed, Ok(true)) {
            let _ = fs::remove_file(&draft);
        }
        if claimed? { dir.sync_all().map(|()| true) } else { Ok(false) }
    }

    /// Who claimed the launch, if anybody did.
    ///
    /// # Errors
    /// It cannot be told, now.
    pub fn claimed(&self) -> io::Result<Option<Claim>> {
        let path = self.path("launch");
        let text = match fs::read_link(&path) {
            Ok(text) => text.to_str().unwrap_or_default().to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
                let Some(text) = unless_missing(fs::read_to_string(&path))? else { return Ok(None) };
                match self.lines(&text).next() {
                    Some(line) => line.to_owned(),
                    // The machine crashed before the disk had it: a supervisor's of before.
                    None => return Ok(Some(Claim::Supervisor(0, 0, String::new()))),
                }
            }
            Err(error) => return Err(error),
        };
        let mut words = text.split_whitespace();
        let mut parse = || match words.next()? {
            "agent" => Some(Claim::Agent),
            _ => {
                Some(Claim::Supervisor(words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.into()))
            }
        };
        parse().map(Some).ok_or_else(|| io::Error::other(format!("'{text}' is no claim of a launch")))
    }

    /// Adds how it goes on: readers see all of it or nothing. A crash of the machine ends the process too, so its start need not be
    /// synced; its end is by [`Files::sync_end`].
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, notice: &Notice) -> io::Result<()> {
        if self.of_before {
            let what = if matches!(notice, Notice::Started(..)) { "started" } else { "exit" };
            return replace(&self.path(what), &notice.encode());
        }
        let mut file = File::options().append(true).open(self.path("launch"))?;
        // What a full disk left of an attempt before is a line without a full stop.
        file.write_all(format!("\n{}.\n", notice.encode()).as_bytes())
    }

    /// Makes the end outlive a crash of the machine, unless an agent has it in its log already and removed it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn sync_end(&self) -> io::Result<()> {
        let what = if self.of_before { "exit" } else { "launch" };
        unless_missing(File::open(self.path(what)))?.map_or(Ok(()), |file| file.sync_data())?;
        if self.of_before { File::open(&self.dir)?.sync_all() } else { Ok(()) }
    }

    /// The start, if it was written.
    ///
    /// # Errors
    /// It cannot be told, now.
    pub fn start(&self) -> io::Result<Option<Notice>> {
        self.notice("started", |notice| matches!(notice, Notice::Started(..)))
    }

    /// The end, if it was written.
    ///
    /// # Errors
    /// It cannot be told, now.
    pub fn end(&self) -> io::Result<Option<Notice>> {
        self.notice("exit", |notice| !matches!(notice, Notice::Started(..)))
    }

    /// Says that a program runs it, before anything is asked of that.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_program(&self, program: &Program) -> io::Result<()> {
        replace(&self.path("external"), &program.encode())
    }

    /// The program that runs it, if it is none of our processes.
    ///
    /// # Errors
    /// It cannot be told, now.
    pub fn program(&self) -> io::Result<Option<Program>> {
        let Some(text) = unless_missing(fs::read_to_string(self.path("external")))? else { return Ok(None) };
        Program::decode(&text).map(Some).ok_or_else(|| io::Error::other("a file that names no program"))
    }

    /// Keeps what the program told of the container's start, for the updates of its task: JSON.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_told(&self, told: &str) -> io::Result<()> {
        replace(&self.path("told"), told)
    }

    /// The same, if it was written and can be read.
    pub fn told(&self) -> Option<String> {
        fs::read_to_string(self.path("told")).ok()
    }

    /// Keeps what the program told of a resource that the container exceeded, and ended of: JSON.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_exceeded(&self, exceeded: &str) -> io::Result<()> {
        replace(&self.path("exceeded"), exceeded)
    }

    /// The same, if it was written and can be read.
    pub fn exceeded(&self) -> Option<String> {
        fs::read_to_string(self.path("exceeded")).ok()
    }

    /// The first that was noted of its kind; `before` is the file that a supervisor of before has for it.
    fn notice(&self, before: &str, is_meant: impl Fn(&Notice) -> bool) -> io::Result<Option<Notice>> {
        // A link of before leads nowhere.
        if let Some(text) = unless_missing(fs::read_to_string(self.path("launch")))? {
            return Ok(self.lines(&text).filter_map(Notice::decode).find(is_meant));
        }
        Ok(unless_missing(fs::read_to_string(self.path(before)))?.as_deref().and_then(Notice::decode))
    }

    /// The lines of this container that are whole, from its claim on.
    fn lines<'a>(&self, text: &'a str) -> impl Iterator<Item = &'a str> + use<'a> {
        let all: Vec<&str> = text.split_inclusive('\n').filter_map(|line| line.strip_suffix(".\n")).collect();
        let owner = |line: &str| line.strip_prefix("supervisor ")?.split(' ').nth(3).map(str::to_owned);
        let own = all.iter().rposition(|line| owner(line).as_ref() == Some(&self.container_id));
        let own = match own {
            // Supervisors did not always say whose it is; then nobody else had it.
            None if all.iter().any(|line| owner(line).is_some()) => all.len(),
            own => own.unwrap_or(0),
        };
        all.into_iter().skip(own)
    }

    /// Removes the files of a container that ended. A claim of the agent's own stays: it keeps a supervisor that is
    /// late from running what was given up.
    pub fn release(&self) {
        match self.claimed() {
            Ok(Some(Claim::Agent)) | Err(_) => {}
            Ok(_) => self.remove(),
        }
    }

    /// The same, but the file becomes this one, for another container: who makes files and removes them makes the next ones slow.
    /// False if there is none that could be kept.
    pub fn release_to(&self, spare: &Path) -> bool {
        let path = self.path("launch");
        let whose = format!(" {}.\n", self.container_id);
        let can = |text: String| text.len() < SPARE_BYTES_MAX && text.contains(&whose);
        let is_programs = fs::symlink_metadata(self.path("external")).is_ok();
        // A link of before leads nowhere.
        let kept = !is_programs && fs::read_to_string(&path).is_ok_and(can) && fs::rename(&path, spare).is_ok();
        if !kept {
            self.release();
        }
        kept
    }

    /// Removes the files of a container that no log knows any more. An agent's claim of not long ago stays: a supervisor
    /// may be late by so much.
    pub fn sweep(&self) {
        let is_fresh = || {
            let changed = fs::symlink_metadata(self.path("launch")).and_then(|found| found.modified());
            changed.is_ok_and(|changed| changed.elapsed().map_or(true, |age| age < LATE_MAX))
        };
        match self.claimed() {
            Ok(Some(Claim::Agent)) if is_fresh() => {}
            Err(_) => {}
            Ok(_) => self.remove(),
        }
    }

    /// Removes the files of a container whose launch was given up, and that is launched again.
    pub fn forget(&self) {
        self.remove();
    }

    fn remove(&self) {
        // The claim last: without it, the others would be taken for those of a launch to come.
        let is_of_before = fs::read_link(self.path("launch")).is_ok();
        let of_before = ["started", "exit"].into_iter().filter(|_| is_of_before);
        let is_programs = fs::symlink_metadata(self.path("external")).is_ok();
        let of_program = ["told", "exceeded", "external"].into_iter().filter(|_| is_programs);
        for what in of_before.chain(of_program).chain(["launch"]) {
            let _ = fs::remove_file(self.path(what));
        }
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    fs::write(&draft, text).and_then(|()| fs::rename(&draft, path)).inspect_err(|_| {
        let _ = fs::remove_file(&draft);
    })
}

/// Somebody was faster.
fn there(error: io::Error) -> io::Result<bool> {
    if error.kind() == io::ErrorKind::AlreadyExists { Ok(false) } else { Err(error) }
}

/// Gives a file another name, unless something has that.
fn appear(draft: &Path, path: &Path) -> io::Result<bool> {
    match renameat2(AT_FDCWD, draft, AT_FDCWD, path, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => Ok(true),
        // The file system cannot.
        Err(Errno::EINVAL | Errno::ENOSYS) => {
            fs::hard_link(draft, path).and_then(|()| fs::remove_file(draft)).map(|()| true).or_else(there)
        }
        Err(error) => there(error.into()),
    }
}

fn unless_missing<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The containers that have files in `dir`.
pub fn containers_in(dir: &Path) -> io::Result<std::collections::BTreeSet<String>> {
    let mut found = std::collections::BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        if let Some((container_id, _)) = entry?.file_name().to_str().and_then(|name| name.rsplit_once('.')) {
            found.insert(container_id.to_owned());
        }
    }
    Ok(found)
}

/// When a process started, in clock ticks since the machine did; none if there is no such process, or only what is
/// left of one that ended.
///
/// # Errors
/// It cannot be told, now.
pub fn look(pid: u32) -> io::Result<Option<u64>> {
    let found = processes::find(pid)?;
    Ok(found.filter(|process| !process.is_dead).map(|process| process.start_ticks))
}

/// The same for those who can do nothing about a machine that does not tell.
pub fn start_ticks(pid: u32) -> Option<u64> {
    look(pid).ok().flatten()
}

/// Names this start of the machine.
///
/// # Errors
/// It cannot be read, now.
pub fn boot_id() -> io::Result<String> {
    let id = processes::read_small("/proc/sys/kernel/random/boot_id")?;
    Ok(String::from_utf8_lossy(&id).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mounts::Place;

    #[test]
    fn a_spec_is_handed_over_unharmed() {
        let spec = Spec {
            container_id: "c".into(),
            sandbox: "/a b".into(),
            arguments: vec!["sh".into(), "-c".into(), "echo\n'x'".into(), String::new()],
            environment: vec!["A=".into()],
            program: Some("busy=box".into()),
            umask: Some(0o22),
            away_ms_max: Some(900_000),
            joins: vec!["/a".into(), "/b".into()],
            group: Some("/sys/fs/cgroup/g".into()),
            world: World {
                own: vec![Namespace::Pid, Namespace::Mount, Namespace::User],
                enters: vec![(Namespace::Ipc, "/proc/7/ns/ipc".into())],
                shm_bytes: Some(0),
                no_new_privileges: true,
                effective: Some(1 << 40),
                bounding: Some(u64::MAX),
                root: Some(Root { path: "/r".into(), read_only: true, unmasked: false, mapped: true }),
                mounts: vec![Mount::bind(Place::absolute("/a=b"), Place::below("/c", "d"))],
                nodes: vec![Node { path: "a b".into(), is_block: true, major: 8, minor: 1, mode: 0o640 }],
                filter: vec![0x0006_0000_7fff_0000, 7],
                directory: Some("/e f".into()),
                hostname: Some("h".into()),
                shm_of: Some("/proc/8/ns/mnt".into()),
                users: Some(Users { first: 1 << 30, count: 65_536 }),
            },
            rotation: Some(Rotation { stdout: (4096, 2), stderr: (1 << 40, 0) }),
            rlimits: vec![("NOFILE".into(), Some((10, 20))), ("CORE".into(), None)],
            sockets: Some("/s".into()),
            terminal: Some((24, 80)),
            session: true,
            lines: true,
            spare: Some("/spare".into()),
            ..Spec::default()
        };
        let bytes = spec.encode().unwrap();
        assert_eq!(Spec::decode(&bytes), Some(spec.clone()));
        let first = First { program: "/p".into(), input: "{\"a\": 1}".into(), failure: "It failed".into() };
        let with = Spec { first: Some(first), ..spec.clone() };
        assert_eq!(Spec::decode(&with.encode().unwrap()), Some(with));
        let without = Spec { program: None, umask: None, away_ms_max: None, ..spec.clone() };
        let bytes = without.encode().unwrap();
        assert_eq!(Spec::decode(&bytes), Some(without));
        assert_eq!(Spec::decode(&bytes[..bytes.len() - 2]), None);
        let own = Some("docker".to_owned());
        let program = Program { path: "/p".into(), folder: "/f".into(), launch_ms_max: 1, answer_ms_max: 2, own };
        let external = Some(External { program: program.clone(), request: "{\"a\": \"=\"}".into() });
        let with = Spec { external, ..spec.clone() };
        assert_eq!(Spec::decode(&with.encode().unwrap()), Some(with));
        let newer = [&bytes[..], b"version=13\0"].concat();
        let newer = String::from_utf8(newer).unwrap().replace("version=12\0", "");
        assert_eq!(Spec::decode(newer.as_bytes()), None);
        assert!(Spec { user: "a\0b".into(), ..spec }.encode().is_err());
    }

    #[test]
    fn a_launch_is_claimed_once() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path(), "c1");
        let claim = Claim::Supervisor(7, 8, "boot".into());
        assert_eq!(files.claimed().unwrap(), None);
        assert!(files.claim(&claim).unwrap());
        assert!(!files.claim(&Claim::Agent).unwrap());
        assert_eq!(files.claimed().unwrap(), Some(claim));
        assert_eq!((files.start().unwrap(), files.end().unwrap()), (None, None));
        files.write(&Notice::Started(7, 8, 9)).unwrap();
        files.write(&Notice::Exited(256)).unwrap();
        files.sync_end().unwrap();
        assert_eq!(files.start().unwrap(), Some(Notice::Started(7, 8, 9)));
        assert_eq!(files.end().unwrap(), Some(Notice::Exited(256)));
        let program = Program { path: "/p".into(), ..Program::default() };
        assert_eq!(files.program().unwrap(), None);
        files.write_program(&program).unwrap();
        assert_eq!(files.program().unwrap(), Some(program));
        assert_eq!((files.told(), files.exceeded()), (None, None));
        files.write_told("a").unwrap();
        files.write_exceeded("b").unwrap();
        assert_eq!((files.told(), files.exceeded()), (Some("a".to_owned()), Some("b".to_owned())));
        files.release();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(files.claim(&Claim::Agent).unwrap());
        files.release();
        assert!(!files.claim(&Claim::Agent).unwrap(), "an agent's claim stays");
    }

    #[test]
    fn what_a_supervisor_of_before_left_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path(), "c");
        std::os::unix::fs::symlink("supervisor 7 8 boot", dir.path().join("c.launch")).unwrap();
        assert_eq!(files.claimed().unwrap(), Some(Claim::Supervisor(7, 8, "boot".into())));
        assert!(!files.claim(&Claim::Agent).unwrap());
        assert_eq!((files.start().unwrap(), files.end().unwrap()), (None, None));
        fs::write(dir.path().join("c.started"), "started 7 8 9").unwrap();
        fs::write(dir.path().join("c.exit"), "exited 256").unwrap();
        assert_eq!(files.start().unwrap(), Some(Notice::Started(7, 8, 9)));
        assert_eq!(files.end().unwrap(), Some(Notice::Exited(256)));
        files.release();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// One file serves one container after the other, and never says of one what became of another.
    #[test]
    fn a_file_is_used_again() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let inode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().ino();
        let first = Files::new(dir.path(), "c1");
        assert!(first.claim(&Claim::Supervisor(7, 8, "boot".into())).unwrap());
        first.write(&Notice::Exited(256)).unwrap();
        let used = inode("c1.launch");
        let spare = dir.path().join("spare");
        assert!(first.release_to(&spare));
        let spec = Spec {
            container_id: "c2".into(),
            containers_dir: dir.path().display().to_string(),
            lines: true,
            spare: Some(spare.display().to_string()),
            ..Spec::default()
        };
        let before = fs::read(&spare).unwrap();
        let second = Files::of(&spec);
        assert!(second.claim(&Claim::Supervisor(9, 10, "boot".into())).unwrap());
        assert_eq!(inode("c2.launch"), used);
        assert_eq!(second.claimed().unwrap(), Some(Claim::Supervisor(9, 10, "boot".into())));
        assert_eq!((second.start().unwrap(), second.end().unwrap()), (None, None));
        second.write(&Notice::Exited(9)).unwrap();
        assert_eq!(second.end().unwrap(), Some(Notice::Exited(9)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        // The machine crashed before the disk had it: that it was claimed is all that is known.
        fs::write(dir.path().join("c2.launch"), before).unwrap();
        assert_eq!(second.claimed().unwrap(), Some(Claim::Supervisor(0, 0, String::new())));
        assert_eq!(second.end().unwrap(), None);
        // One that is not there is made; what an agent claimed is not kept for others.
        let third = Files { container_id: "c3".into(), ..second };
        assert!(third.claim(&Claim::Agent).unwrap());
        assert!(!third.release_to(&spare));
        assert_eq!(third.claimed().unwrap(), Some(Claim::Agent));
    }

    /// An agent of before does not say that it reads lines.
    #[test]
    fn an_agent_of_before_gets_files_that_it_reads() {
        let dir = tempfile::tempdir().unwrap();
        let spec = Spec {
            container_id: "c".into(),
            containers_dir: dir.path().display().to_string(),
            lines: true,
            ..Spec::default()
        };
        let bytes = String::from_utf8(spec.encode().unwrap()).unwrap();
        let before = Spec::decode(bytes.replace("lines=1\0", "").as_bytes()).unwrap();
        assert_eq!(before, Spec { lines: false, ..spec });
        let files = Files::of(&before);
        assert!(files.claim(&Claim::Supervisor(7, 8, "boot".into())).unwrap());
        assert!(!files.claim(&Claim::Agent).unwrap());
        let text = |what: &str| fs::read_to_string(dir.path().join(what)).unwrap();
        assert_eq!(fs::read_link(dir.path().join("c.launch")).unwrap(), Path::new("supervisor 7 8 boot"));
        files.write(&Notice::Started(7, 8, 9)).unwrap();
        assert_eq!(text("c.started"), "started 7 8 9");
        files.write(&Notice::Exited(256)).unwrap();
        files.sync_end().unwrap();
        assert_eq!(text("c.exit"), "exited 256");
        // An agent of now, that takes the place of that one, finds all of it.
        let now = Files::new(dir.path(), "c");
        assert_eq!(now.claimed().unwrap(), Some(Claim::Supervisor(7, 8, "boot".into())));
        assert_eq!(now.start().unwrap(), Some(Notice::Started(7, 8, 9)));
        assert_eq!(now.end().unwrap(), Some(Notice::Exited(256)));
        now.release();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        files.sync_end().unwrap();
    }

    #[test]
    fn what_a_full_disk_cut_off_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path(), "c");
        assert!(files.claim(&Claim::Supervisor(7, 8, "boot".into())).unwrap());
        File::options().append(true).open(dir.path().join("c.launch")).unwrap().write_all(b"\nexited 2").unwrap();
        assert_eq!(files.end().unwrap(), None);
        files.write(&Notice::Exited(256)).unwrap();
        assert_eq!(files.end().unwrap(), Some(Notice::Exited(256)));
        // The machine crashed: of the claim there is only that it was made.
        fs::write(dir.path().join("c.launch"), "").unwrap();
        assert!(!files.claim(&Claim::Agent).unwrap());
        assert_eq!(files.claimed().unwrap(), Some(Claim::Supervisor(0, 0, String::new())));
    }

    #[test]
    fn a_process_is_named_by_its_start() {
        let own = start_ticks(std::process::id()).unwrap();
        assert!(own > 0);
        assert_eq!(start_ticks(u32::MAX), None);
        assert!(!boot_id().unwrap().is_empty());
    }

    #[test]
    fn an_end_that_was_taken_meanwhile_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path(), "c");
        assert!(files.claim(&Claim::Supervisor(1, 1, "boot".into())).unwrap());
        files.write(&Notice::Exited(0)).unwrap();
        files.release();
        files.sync_end().unwrap();
    }
}
