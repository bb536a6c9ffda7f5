//! Users of a container that are none of the machine's: who is root there is nobody in particular here. The namespace that says so is
//! made before the container's process, with what else is to be that namespace's; the process enters it when all is done that takes the
//! machine's root.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid, Uid, pipe2, setfsgid, setfsuid};
use nix::{errno::Errno, fcntl::OFlag};

use crate::spec::Namespace;
use crate::{mounts, sys};

/// Whom the users of a container, and its groups, are on the machine: number 0 is the `first` there, and so on, `count` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Users {
    /// Its root.
    pub first: u32,
    /// So many there are.
    pub count: u32,
}

impl Users {
    /// Who one is on the machine.
    pub fn outside(self, within: u32) -> Option<u32> {
        (within < self.count).then(|| self.first + within)
    }

    /// Who one of the machine is in the container.
    pub fn within(self, outside: u32) -> Option<u32> {
        outside.checked_sub(self.first).filter(|one| *one < self.count)
    }
}

/// Where namespaces belong.
#[derive(Clone, Copy, Debug)]
pub enum Whose<'a> {
    /// To users that are made for it.
    New(Users),
    /// To these, which there are.
    Of(BorrowedFd<'a>),
}

/// What was made. It is there as long as it is open, or somebody is in it.
#[derive(Debug)]
pub struct Made {
    /// The users.
    pub users: OwnedFd,
    /// What is theirs.
    pub others: Vec<(Namespace, OwnedFd)>,
}

/// Makes namespaces, `others` than of processes, that belong to users who are none of this process's. A child of a moment does it, since who has entered such a
/// namespace does not come back. Any process may ask, whatever threads it has.
///
/// # Errors
/// Those of the kernel.
pub fn make(whose: Whose<'_>, others: &[Namespace]) -> io::Result<Made> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    let entered = match whose {
        Whose::New(_) => None,
        Whose::Of(users) => Some(users),
    };
    let flags = others.iter().map(|one| one.flag()).collect();
    let child = sys::hold(entered, flags, &writer)?;
    drop(writer);
    let made = || -> io::Result<Made> {
        let mut said = [0; 4];
        File::from(reader).read_exact(&mut said)?;
        match i32::from_ne_bytes(said) {
            0 => {}
            errno => return Err(Errno::from_raw(errno).into()),
        }
        if let Whose::New(Users { first, count }) = whose {
            for map in ["uid_map", "gid_map"] {
                fs::write(format!("/proc/{child}/{map}"), format!("0 {first} {count}"))?;
            }
        }
        let taken =
            |namespace: Namespace| File::open(format!("/proc/{child}/ns/{}", namespace.name())).map(OwnedFd::from);
        let others = others.iter().map(|one| Ok((*one, taken(*one)?))).collect::<io::Result<_>>()?;
        Ok(Made { users: taken(Namespace::User)?, others })
    };
    let made = made();
    end(child);
    made
}

/// This thread opens and makes files as somebody else, who cannot be led to others' by whatever is put in the way meanwhile. Until it
/// goes.
pub(crate) struct As;

impl As {
    pub(crate) fn owner((uid, gid): (Uid, Gid)) -> As {
        setfsgid(gid);
        setfsuid(uid);
        As
    }
}

impl Drop for As {
    fn drop(&mut self) {
        setfsuid(nix::unistd::geteuid());
        setfsgid(nix::unistd::getegid());
    }
}

fn end(child: Pid) {
    let _ = kill(child, Signal::SIGKILL);
    while waitpid(child, None) == Err(Errno::EINTR) {}
}

/// The users of a process, by a file; none if they are this process's own.
///
/// # Errors
/// It is no more, or cannot be looked at.
pub fn of_process(pid: u32) -> io::Result<Option<String>> {
    let path = format!("/proc/{pid}/ns/user");
    Ok(if fs::read_link(&path)? == fs::read_link("/proc/self/ns/user")? { None } else { Some(path) })
}

/// Whom the users of a process are on the machine.
///
/// # Errors
/// It is no more, or they are not in one piece.
pub fn map_of(pid: u32) -> io::Result<Users> {
    let text = fs::read_to_string(format!("/proc/{pid}/uid_map"))?;
    let mut words = text.split_whitespace().map(str::parse::<u32>);
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(Ok(0)), Some(Ok(first)), Some(Ok(count)), None) => Ok(Users { first, count }),
        _ => Err(io::Error::other(format!("the users of process {pid} are not in one piece"))),
    }
}

/// A folder, mounted nowhere yet, in which whoever has a number on the disk is who has it among these users.
///
/// # Errors
/// Its file system cannot do that.
pub fn mapped(folder: impl AsFd, users: impl AsFd) -> io::Result<OwnedFd> {
    let tree = mounts::copy(folder, false)?;
    sys::map_mount(tree.as_fd(), users.as_fd())?;
    Ok(tree)
}

/// Whether this machine can do what is needed here, with files in a folder. The error is a sentence.
///
/// # Errors
/// It cannot.
pub fn check_machine(users: Users, folder: &std::path::Path) -> Result<(), String> {
    let made = make(Whose::New(users), &[]);
    let made = made.map_err(|error| format!("users of a container's own cannot be made (user namespaces): {error}"))?;
    let wrong = |error: io::Error| {
        format!(
            "owners of files in {} cannot be told as containers see them (mount_setattr): {error}",
            folder.display()
        )
    };
    mapped(File::open(folder).map_err(wrong)?, &made.users).map(drop).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const USERS: Users = Users { first: 1_879_048_192, count: 1000 };

    #[test]
    fn who_is_who() {
        assert_eq!(
            (USERS.outside(0), USERS.outside(999), USERS.outside(1000)),
            (Some(1_879_048_192), Some(1_879_049_191), None)
        );
        assert_eq!((USERS.within(1_879_048_193), USERS.within(0), USERS.within(1_879_049_192)), (Some(1), None, None));
    }

    #[test]
    fn namespaces_are_made_and_files_have_owners_in_them() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let others = [Namespace::Net, Namespace::Uts];
        let made = make(Whose::New(USERS), &others).unwrap();
        assert_eq!(made.others.len(), 2);
        // Others can be made for the same.
        assert_eq!(make(Whose::Of(made.users.as_fd()), &[Namespace::Ipc]).unwrap().others.len(), 1);
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let tree = mapped(File::open(dir.path()).unwrap(), &made.users).unwrap();
        assert_eq!(rustix::fs::fstat(&tree).unwrap().st_uid, USERS.first);
        assert_eq!(fs::metadata(dir.path()).unwrap().uid(), 0, "on the disk nothing is changed");
        assert!(mapped(File::open("/proc").unwrap(), &made.users).is_err());
        assert_eq!(of_process(std::process::id()).unwrap(), None);
        assert_eq!(check_machine(USERS, dir.path()), Ok(()));
        let too_many = Users { first: u32::MAX, count: 2 };
        assert!(make(Whose::New(too_many), &others).is_err());
    }
}
