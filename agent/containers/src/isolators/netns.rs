//! Networks of containers: namespaces that are there as long as they are mounted.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use supervisor::mounts::{Mount, Place};
use supervisor::spec::Namespace;
use supervisor::users::{self, Users, Whose};

use crate::containerizer::Creation;

/// What programs look for names in.
const FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// Makes one, in which `first` is done before anybody else is in it.
pub(super) fn make(at: &Path, first: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
    File::create_new(at)?;
    // Of this thread alone, which ends.
    apart(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        first()?;
        let own = "/proc/thread-self/ns/net";
        Ok(mount(Some(own), at, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
    })
}

/// The same, of users of a container's own: root among them may change it. They are mounted as well, at `users_at`.
pub(super) fn make_of(
    users: Users,
    at: &Path,
    users_at: &Path,
    first: impl FnOnce() -> io::Result<()> + Send,
) -> io::Result<()> {
    let made = users::make(Whose::New(users), &[Namespace::Net])?;
    for (file, at) in made.others.iter().map(|(_, file)| (file, at)).chain([(&made.users, users_at)]) {
        File::create_new(at)?;
        let own = format!("/proc/self/fd/{}", file.as_raw_fd());
        mount(Some(own.as_str()), at, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    }
    within(at, first)
}

/// Does something in one of its own, which is there for that alone.
pub(super) fn scratch<T: Send>(step: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    apart(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        step()
    })
}

/// Does something in one.
pub(super) fn within<T: Send>(at: &Path, step: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(at)?;
    apart(|| {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        step()
    })
}

fn apart<T: Send>(step: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, step)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in it ended")))
    })
}

/// Whether there is one.
pub(super) fn is_there(at: &Path) -> bool {
    const NSFS: i64 = 0x6e73_6673;
    nix::sys::statfs::statfs(at).is_ok_and(|found| found.filesystem_type().0 == NSFS)
}

/// Takes one away, or the users whose it is, with its file: with that it goes wherever else it is mounted.
pub(super) fn remove(at: &Path) -> io::Result<()> {
    if is_there(at) {
        umount2(at, MntFlags::MNT_DETACH)?;
    }
    match std::fs::remove_file(at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Mounts what programs look for names in: what is in the folder of a container's network, and otherwise the machine's.
pub(super) fn mount_names(creation: &mut Creation, dir: &Path) {
    for name in FILES {
        let own = dir.join(name);
        let source = if own.exists() { own } else { Path::new("/etc").join(name) };
        let target = Path::new("/etc").join(name);
        // What neither has cannot be mounted.
        let has_place = creation.world.root.is_some() || target.exists();
        if source.exists() && has_place {
            let at = Place::absolute(target.display().to_string());
            creation.world.mounts.push(Mount::bind(Place::absolute(source.display().to_string()), at));
        }
    }
}
