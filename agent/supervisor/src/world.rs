//! What a container's process sees of the machine: namespaces of its own, or those of the container that it is within, and what it
//! may do there. All of it happens between clone and exec, in the child. The first process of a new world of processes is this
//! program, which reaps what is left to it and passes the end of the container's process on.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, pipe2, setgroups, sethostname, setresgid, setresuid};

use crate::mounts::Own;
use crate::spec::{Namespace, World as Wanted};
use crate::users::{self, Users, Whose};
use crate::{root, sys};

const NO_CODE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// What belongs to users of its own, if it has such.
const THEIRS: [Namespace; 3] = [Namespace::Ipc, Namespace::Net, Namespace::Uts];

/// What a child is to enter or to have of its own.
#[derive(Debug)]
pub(crate) struct World {
    entered: Vec<(CloneFlags, OwnedFd)>,
    own: CloneFlags,
    /// Users that are not the machine's, and whom they are there.
    users: Option<(OwnedFd, Users)>,
    /// It has processes of its own.
    pub(crate) is_root: bool,
    /// It enters those of another one.
    enters_processes: bool,
    shm_bytes: Option<Option<u64>>,
    /// The write end is the child's: by it the status of the container's process comes back.
    status: Option<(OwnedFd, OwnedFd)>,
}

/// A step that failed, and why.
pub(crate) type Failure = (Cow<'static, str>, Errno);

impl World {
    /// Lets the next child of this process have its world of processes. The error is a sentence.
    pub(crate) fn prepare(wanted: &Wanted) -> Result<World, String> {
        let (mut entered, mut own) = (Vec::new(), CloneFlags::empty());
        let users = Self::users(wanted, &mut entered)?;
        for (namespace, path) in &wanted.enters {
            let file = File::open(path).map_err(|error| format!("cannot enter {path}: {error}"))?;
            let flag = match namespace {
                Namespace::Ipc | Namespace::Mount | Namespace::Net | Namespace::Uts => namespace.flag(),
                // Last: who has entered it has no more to say here.
                Namespace::User => continue,
                Namespace::Pid => {
                    // Of its children; it stays where it is itself.
                    setns(&file, CloneFlags::CLONE_NEWPID)
                        .map_err(|error| format!("cannot enter {path}: {}", error.desc()))?;
                    continue;
                }
            };
            entered.push((flag, file.into()));
        }
        let has = |namespace| wanted.own.contains(&namespace);
        // Those of users of its own are made already.
        let others = THEIRS.into_iter().filter(|namespace| users.is_none() && has(*namespace));
        own.extend(others.map(Namespace::flag));
        if wanted.has_mounts() {
            own |= CloneFlags::CLONE_NEWNS;
        }
        let is_root = has(Namespace::Pid);
        let enters_processes = wanted.enters.iter().any(|(namespace, _)| *namespace == Namespace::Pid);
        let status = if is_root {
            unshare(CloneFlags::CLONE_NEWPID)
                .map_err(|error| format!("cannot have processes of its own: {}", error.desc()))?;
            Some(pipe2(OFlag::O_CLOEXEC).map_err(|error| error.to_string())?)
        } else {
            None
        };
        Ok(World {
            entered,
            own,
            users,
            is_root,
            enters_processes,
            shm_bytes: wanted.shm_bytes.map(|bytes| (bytes > 0).then_some(bytes)),
            status,
        })
    }

    /// Users that are not the machine's, if it is to have such, and whom they are there; and what is to be theirs, for a child to
    /// enter.
    fn users(wanted: &Wanted, entered: &mut Vec<(CloneFlags, OwnedFd)>) -> Result<Option<(OwnedFd, Users)>, String> {
        let cannot = |error: std::io::Error| format!("cannot have users of its own: {error}");
        let Some(users) = wanted.users else { return Ok(None) };
        let there = wanted.enters.iter().find(|(namespace, _)| *namespace == Namespace::User);
        let there = there.map(|(_, path)| File::open(path)).transpose().map_err(cannot)?;
        let whose = there.as_ref().map_or(Whose::New(users), |there| Whose::Of(there.as_fd()));
        let others: Vec<Namespace> = THEIRS.into_iter().filter(|one| wanted.own.contains(one)).collect();
        if let (Some(there), true) = (&there, others.is_empty()) {
            return Ok(Some((there.try_clone().map_err(cannot)?.into(), users)));
        }
        let made = users::make(whose, &others).map_err(cannot)?;
        entered.extend(made.others.into_iter().map(|(namespace, file)| (namespace.flag(), file)));
        Ok(Some((made.users, users)))
    }

    /// In the child, while it is what the supervisor is.
    /// `scratch` is a folder of the machine that may be covered for a moment.
    pub(crate) fn enter(&self, wanted: &Wanted, scratch: &str) -> Result<(), Failure> {
        let shm = wanted.shm_of.as_deref().map(root::shm_of).transpose();
        let shm = shm.map_err(|(what, error)| (what, Errno::from_raw(error.raw_os_error())))?;
        for (flag, file) in &self.entered {
            setns(file, *flag).map_err(|error| ("enter a namespace".into(), error))?;
        }
        if !self.own.is_empty() {
            unshare(self.own).map_err(|error| ("have a namespace of its own".into(), error))?;
        }
        if let Some(name) = wanted.hostname.as_ref().filter(|_| wanted.own.contains(&Namespace::Uts)) {
            sethostname(name).map_err(|error| ("have a name of its own".into(), error))?;
        }
        let mounted = |what: &'static str, done: nix::Result<()>| done.map_err(|error| (what.into(), error));
        if self.own.contains(CloneFlags::CLONE_NEWNS) {
            root::enter(wanted, scratch, self.own_users())
                .map_err(|(what, error)| (what, Errno::from_raw(error.raw_os_error())))?;
        }
        if let Some(shm) = shm {
            root::mount_shm(&shm, wanted).map_err(|(what, error)| (what, Errno::from_raw(error.raw_os_error())))?;
        }
        // A root of its own has these.
        if wanted.root.is_some() {
            return Ok(());
        }
        // Of those that it sees: what is mounted there is the machine's, unless it entered the other one's mounts.
        let has_others_proc = self.enters_processes && self.own.contains(CloneFlags::CLONE_NEWNS);
        if self.is_root || has_others_proc {
            mounted("mount /proc", mount(Some("proc"), "/proc", Some("proc"), NO_CODE, None::<&str>))?;
        }
        if let Some(size) = self.shm_bytes {
            let size = size.map_or(String::new(), |bytes| format!(",size={bytes}"));
            let owner = self.own_users().map_or(String::new(), |own| format!(",uid={0},gid={0}", own.users.first));
            let options = format!("mode=1777{size}{owner}");
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_STRICTATIME;
            mounted("mount /dev/shm", mount(Some("tmpfs"), "/dev/shm", Some("tmpfs"), flags, Some(options.as_str())))?;
        }
        Ok(())
    }

    fn own_users(&self) -> Option<Own<'_>> {
        self.users.as_ref().map(|(file, users)| Own { file: file.as_fd(), users: *users })
    }

    /// In the child, once there is nothing to do that takes the machine's root: it becomes root among its own users, if it has such. What
    /// it sees mounted becomes theirs, and what is covered there stays covered.
    pub(crate) fn become_own(&self) -> Result<(), Failure> {
        let Some((users, _)) = &self.users else { return Ok(()) };
        let step = |what: &'static str| move |error: Errno| (what.into(), error);
        setns(users, CloneFlags::CLONE_NEWUSER).map_err(step("enter users of its own"))?;
        let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
        setgroups(&[]).map_err(step("leave the groups of the machine"))?;
        setresgid(gid, gid, gid).map_err(step("become root among its own"))?;
        setresuid(uid, uid, uid).map_err(step("become root among its own"))?;
        if self.own.contains(CloneFlags::CLONE_NEWNS) {
            unshare(CloneFlags::CLONE_NEWNS).map_err(step("own its mounts"))?;
        }
        Ok(())
    }

    /// In the child that is the first process of its world: goes on as its child, the container's process. The first one stays
    /// behind until that ends.
    pub(crate) fn become_second(&self) -> Result<(), Failure> {
        let Some((_, writer)) = self.status.as_ref().filter(|_| self.is_root) else { return Ok(()) };
        match sys::fork().map_err(|error| ("fork".into(), error))? {
            ForkResult::Child => Ok(()),
            ForkResult::Parent { child } => first_process(child, writer),
        }
    }

    /// In the supervisor: where the status of the container's process comes back.
    pub(crate) fn status(self) -> Option<File> {
        self.status.map(|(reader, _)| File::from(reader))
    }
}

/// Reaps until the container's process ends. With this one all others of its world end.
fn first_process(child: Pid, writer: &OwnedFd) -> ! {
    // Whoever reads what the container writes must not wait for this process.
    let Ok(mut writer) = writer.try_clone().and_then(sys::keep_only) else { sys::exit(127) };
    let status = loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => break code << 8,
            Ok(WaitStatus::Signaled(pid, signal, core)) if pid == child => {
                break signal as i32 | if core { 0x80 } else { 0 };
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => sys::exit(127),
        }
    };
    let _ = writer.write_all(&status.to_ne_bytes());
    sys::exit(0)
}

/// The container's process, as the machine numbers it: the first child of the first process of its world.
pub(crate) fn second_of(first: Pid) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{first}/task/{first}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok().map(Pid::from_raw)
}

/// The status that came back, if it did.
pub(crate) fn read_status(file: &mut File) -> Option<i32> {
    let mut bytes = [0; 4];
    file.read_exact(&mut bytes).ok().map(|()| i32::from_ne_bytes(bytes))
}
