//! What was fetched is kept for others of the same user, within a size.
//!
//! ```text
//! DIR/lock              held while room is made
//! DIR/locks/USER.KEY    held by who fetches or uses an entry; says what it weighs; its time is that of the last use
//! DIR/USER/KEY          the file, whole
//! DIR/USER/KEY.part     the file, as it comes
//! ```
//!
//! The locks are the kernel's, on files that no task can reach: a fetch that is killed lets go of them. The folder of a user is
//! the user's own, and nothing is done in it here but to remove files by their name.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, lchown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::unistd::{User, geteuid};
use sha2::{Digest, Sha256};

use crate::say;

/// A cache, as one user sees it.
pub(crate) struct Cache {
    dir: PathBuf,
    user: String,
    bytes_max: u64,
}

/// A file in it, which stays while this is held.
pub(crate) struct Entry {
    lock: File,
    lock_path: PathBuf,
    /// The file.
    pub(crate) whole: PathBuf,
    /// Where it comes in.
    pub(crate) part: PathBuf,
}

impl Cache {
    /// Makes the folders. An empty name is this process's user.
    pub(crate) fn open(dir: &Path, user: &str, bytes_max: u64) -> io::Result<Cache> {
        let found = if user.is_empty() { User::from_uid(geteuid()) } else { User::from_name(user) };
        let found = found.map_err(io::Error::from)?;
        let name = found.as_ref().map_or_else(|| geteuid().to_string(), |found| found.name.clone());
        if name.contains('/') || matches!(name.as_str(), "" | "." | ".." | "lock" | "locks") {
            return Err(io::Error::other(format!("user '{name}' can have no folder of its own")));
        }
        DirBuilder::new().recursive(true).mode(0o711).create(dir)?;
        let make = |path: PathBuf| match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(path),
            done => done.map(|()| path),
        };
        make(dir.join("locks"))?;
        let own = make(dir.join(&name))?;
        if let Some(found) = found.filter(|found| found.uid != geteuid()) {
            lchown(own, Some(found.uid.as_raw()), Some(found.gid.as_raw()))?;
        }
        Ok(Cache { dir: dir.to_owned(), user: name, bytes_max })
    }

    fn entry(&self, uri: &str) -> io::Result<Entry> {
        let key: String = Sha256::digest(uri).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let lock_path = self.dir.join("locks").join(format!("{}.{key}", self.user));
        let own = self.dir.join(&self.user);
        let (whole, part) = (own.join(&key), own.join(format!("{key}.part")));
        Ok(Entry { lock: open_lock(&lock_path)?, lock_path, whole, part })
    }

    /// The entry of a URI, if it is whole, together with whoever else uses it. Who is fetching it is waited for.
    pub(crate) fn find(&self, uri: &str) -> io::Result<Option<Entry>> {
        let mut entry = self.entry(uri)?;
        if let Err(TryLockError::WouldBlock) = entry.lock.try_lock_shared() {
            say('I', &format!("Waiting for another fetch of '{uri}'"));
            entry.lock.lock_shared()?;
        }
        Ok(if entry.is_whole() && entry.share()? { Some(entry) } else { None })
    }

    /// Takes the entry of a URI for oneself: whoever else wants it waits.
    pub(crate) fn take(&self, uri: &str) -> io::Result<Entry> {
        loop {
            let Entry { lock, lock_path, whole, part } = self.entry(uri)?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    say('I', &format!("Waiting for another fetch of '{uri}'"));
                    lock.lock()?;
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // It may have been removed while it was waited for: then another one is in its place.
            if is_current(&lock, &lock_path) {
                return Ok(Entry { lock, lock_path, whole, part });
            }
        }
    }

    /// Makes room for an entry of so many bytes: what was not used for the longest time goes, unless it is in use.
    pub(crate) fn make_room(&self, entry: &mut Entry, bytes: u64) -> Result<(), String> {
        if bytes > self.bytes_max {
            return Err(format!("it has {bytes} bytes, and the cache has {} (--fetcher_cache_size)", self.bytes_max));
        }
        let whole = |error: io::Error| format!("cannot make room in the cache: {error}");
        let all = open_lock(&self.dir.join("lock")).map_err(whole)?;
        all.lock().map_err(whole)?;
        let mut others = self.entries(&entry.lock_path).map_err(whole)?;
        let mut taken: u64 = others.iter().map(|other| other.bytes).fold(0, u64::saturating_add);
        others.sort_by_key(|other| other.used);
        for other in others {
            if taken.saturating_add(bytes) <= self.bytes_max {
                break;
            }
            let Ok(lock) = open_lock(&other.lock_path) else { continue };
            if lock.try_lock().is_ok() && is_current(&lock, &other.lock_path) {
                for file in other.files {
                    let _ = fs::remove_file(file);
                }
                let _ = fs::remove_file(&other.lock_path);
                taken -= other.bytes;
            }
        }
        if taken.saturating_add(bytes) > self.bytes_max {
            return Err(format!(
                "{taken} of the {} bytes of the cache are in use (--fetcher_cache_size)",
                self.bytes_max
            ));
        }
        entry.weigh(bytes).map_err(whole)
    }

    /// All but one.
    fn entries(&self, but: &Path) -> io::Result<Vec<Other>> {
        let mut others = Vec::new();
        for found in fs::read_dir(self.dir.join("locks"))? {
            let lock_path = found?.path();
            let name = lock_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some((user, key)) = name.rsplit_once('.').filter(|_| lock_path != but) else { continue };
            let own = self.dir.join(user);
            let files = [own.join(key), own.join(format!("{key}.part"))];
            let said = fs::read_to_string(&lock_path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
            // Its user may have made more of it.
            let found = files.iter().map(|file| fs::symlink_metadata(file).map_or(0, |found| found.len()));
            let bytes = found.fold(said, u64::max);
            let used = fs::metadata(&lock_path).and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            others.push(Other { lock_path, files, bytes, used });
        }
        Ok(others)
    }
}

/// What is kept in a cache, in bytes, of all users.
pub fn kept_bytes(dir: &Path) -> u64 {
    let locks = fs::read_dir(dir.join("locks")).into_iter().flatten().flatten();
    let bytes = locks.filter_map(|lock| fs::read_to_string(lock.path()).ok()?.trim().parse::<u64>().ok());
    bytes.fold(0, u64::saturating_add)
}

struct Other {
    lock_path: PathBuf,
    files: [PathBuf; 2],
    bytes: u64,
    used: SystemTime,
}

fn open_lock(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn is_current(lock: &File, path: &Path) -> bool {
    let number = |found: io::Result<fs::Metadata>| found.map(|found| (found.dev(), found.ino())).ok();
    number(lock.metadata()) == number(fs::metadata(path))
}

impl Entry {
    /// Whether the file is there.
    pub(crate) fn is_whole(&self) -> bool {
        fs::symlink_metadata(&self.whole).is_ok_and(|found| found.is_file())
    }

    /// Says what it weighs, and that it is used now.
    pub(crate) fn weigh(&mut self, bytes: u64) -> io::Result<()> {
        self.lock.set_len(0)?;
        self.lock.rewind()?;
        self.lock.write_all(bytes.to_string().as_bytes())
    }

    /// Says that it is used now, and what it weighs, and lets others use it too. False if it was removed in that moment.
    pub(crate) fn share(&mut self) -> io::Result<bool> {
        let bytes = fs::symlink_metadata(&self.whole).map_or(0, |found| found.len());
        self.weigh(bytes)?;
        self.lock.lock_shared()?;
        Ok(is_current(&self.lock, &self.lock_path) && self.is_whole())
    }

    /// It is not what somebody needs: the next who wants it fetches it again. Others may be using it.
    pub(crate) fn forget(mut self) {
        let _ = fs::remove_file(&self.part);
        let _ = fs::remove_file(&self.whole);
        let _ = self.weigh(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(cache: &Cache, uri: &str, bytes: u64) -> Result<Entry, String> {
        let mut entry = cache.take(uri).unwrap();
        if !entry.is_whole() {
            cache.make_room(&mut entry, bytes)?;
            fs::write(&entry.whole, vec![0; bytes as usize]).unwrap();
        }
        assert!(entry.share().unwrap());
        Ok(entry)
    }

    fn age(entry: &Entry, seconds: u64) {
        let time = SystemTime::now() - std::time::Duration::from_secs(seconds);
        File::options().write(true).open(&entry.lock_path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn what_was_not_used_for_longest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), "", 100).unwrap();
        for (uri, seconds) in [("a", 30), ("b", 20), ("c", 10)] {
            age(&keep(&cache, uri, 30).unwrap(), seconds);
        }
        age(&keep(&cache, "a", 0).unwrap(), 5);
        let _new = keep(&cache, "d", 40).unwrap();
        let is_kept = |uri: &str| cache.take(uri).unwrap().is_whole();
        assert!(is_kept("a") && is_kept("c") && !is_kept("b"));
    }

    #[test]
    fn what_is_in_use_stays() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), "", 100).unwrap();
        let used = keep(&cache, "a", 60).unwrap();
        let error = keep(&cache, "b", 60).err().unwrap();
        assert_eq!(error, "60 of the 100 bytes of the cache are in use (--fetcher_cache_size)");
        let error = keep(&cache, "c", 101).err().unwrap();
        assert_eq!(error, "it has 101 bytes, and the cache has 100 (--fetcher_cache_size)");
        let also = cache.find("a").unwrap().unwrap();
        drop((used, also));
        keep(&cache, "b", 60).unwrap();
    }

    #[test]
    fn one_waits_for_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), "", 100).unwrap();
        let mut first = cache.take("a").unwrap();
        let second = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| cache.find("a").unwrap().is_some());
            cache.make_room(&mut first, 10).unwrap();
            fs::write(&first.whole, "x").unwrap();
            assert!(first.share().unwrap());
            drop(first);
            waiting.join().unwrap()
        });
        assert!(second, "it found what the first had fetched");
    }
}
