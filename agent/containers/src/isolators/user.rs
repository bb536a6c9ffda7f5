//! `namespaces/user`: containers have users and groups of their own. Root in one is nobody in particular on the machine, and nobody in
//! any other: each outermost container has a range of numbers that no other one has as long as it is there. What is within it has
//! that one's.
//!
//! Which range a container has is said by the owner of its sandbox, so it is written down nowhere else. When the container is over its
//! sandbox becomes root's: nobody comes in who has the same numbers later.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;

use parking_lot::Mutex;
use supervisor::spec::Namespace;
use supervisor::users::{self, Users};

use super::Isolator;
use super::linux::own;
use crate::container::Container;
use crate::containerizer::Creation;

/// How `namespaces/user` is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSettings {
    /// Numbers of the machine that containers may have: users and groups.
    pub range: RangeInclusive<u32>,
    /// So many has each.
    pub count: u32,
}

impl Default for UserSettings {
    fn default() -> UserSettings {
        // Nobody's, by the table of systemd.
        UserSettings { range: 0x7000_0000..=0x7ffd_ffff, count: 1 << 16 }
    }
}

impl UserSettings {
    /// So many containers there can be.
    fn places(&self) -> u32 {
        let all = u64::from(*self.range.end()) - u64::from(*self.range.start()) + 1;
        u32::try_from(all / u64::from(self.count)).unwrap_or(u32::MAX)
    }

    fn at(&self, place: u32) -> Users {
        Users { first: self.range.start() + place * self.count, count: self.count }
    }

    fn place_of(&self, owner: u32) -> Option<u32> {
        let place = owner.checked_sub(*self.range.start())? / self.count;
        (place < self.places()).then_some(place)
    }
}

/// `namespaces/user`
#[derive(Debug)]
pub struct NamespacesUser {
    settings: UserSettings,
    given: Mutex<Given>,
}

#[derive(Debug, Default)]
struct Given {
    /// By outermost containers; none of one that was launched without.
    places: BTreeMap<String, Option<u32>>,
    /// Where the next free one is looked for: what was left longest ago comes last.
    next: u32,
}

impl NamespacesUser {
    /// Knows no container yet.
    pub fn new(settings: &UserSettings) -> NamespacesUser {
        NamespacesUser { settings: settings.clone(), given: Mutex::default() }
    }

    /// Whether this machine can do it, with files in these folders.
    ///
    /// # Errors
    /// A sentence.
    pub fn check<'a>(settings: &UserSettings, folders: impl Iterator<Item = &'a Path>) -> Result<(), String> {
        let check = |folder: &Path| users::check_machine(settings.at(0), folder);
        folders.into_iter().try_for_each(check).map_err(|why| format!("Cannot use namespaces/user: {why}"))
    }

    fn given(&self, container_id: &str) -> Option<Users> {
        let outermost = container_id.split('.').next().unwrap_or_default();
        let place = self.given.lock().places.get(outermost).copied().flatten();
        place.map(|place| self.settings.at(place))
    }
}

impl Isolator for NamespacesUser {
    fn name(&self) -> &'static str {
        "namespaces/user"
    }

    fn users(&self, container_id: &str) -> Result<Option<Users>, String> {
        if container_id.contains('.') {
            // What it is within may have been there before this isolator.
            return Ok(self.given(container_id));
        }
        let mut given = self.given.lock();
        let places = self.settings.places();
        let place = match given.places.get(container_id) {
            Some(None) => return Ok(None),
            Some(Some(place)) => *place,
            None => {
                let taken = |place: &u32| given.places.values().any(|one| *one == Some(*place));
                let mut all = (0..places).map(|n| ((u64::from(given.next) + u64::from(n)) % u64::from(places)) as u32);
                let free = all.find(|place| !taken(place));
                let free = free.ok_or_else(|| {
                    format!("all users for containers are taken: {places} containers have --container_user_count of --container_user_range")
                })?;
                given.next = (free + 1) % places;
                given.places.insert(container_id.to_owned(), Some(free));
                free
            }
        };
        Ok(Some(self.settings.at(place)))
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        let Some(users) = self.given(&creation.container.id) else { return Ok(()) };
        creation.world.users = Some(users);
        if !creation.container.is_within() {
            own(creation, Namespace::User);
        }
        // What is made of a root by layers is so already.
        if let Some(root) = creation.world.root.as_mut() {
            root.mapped = creation.scratch.is_none();
        }
        Ok(())
    }

    fn recover(&self, container: &Container) {
        if container.is_within() {
            return;
        }
        let owner = std::fs::symlink_metadata(&container.sandbox).map(|found| found.uid());
        let place = owner.ok().and_then(|owner| self.settings.place_of(owner));
        self.given.lock().places.insert(container.id.clone(), place);
    }

    fn cleanup(&self, container: &Container) {
        if container.is_within() {
            return;
        }
        if self.given(&container.id).is_some()
            && container.sandbox.is_absolute()
            && let Err(error) = lchown(&container.sandbox, Some(0), Some(0))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            // Its users stay its own, until the agent is started again.
            tracing::warn!(container_id = container.id, %error, "cannot take back the sandbox of a container");
            return;
        }
        self.given.lock().places.remove(&container.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_have_the_same_users() {
        let settings = UserSettings { range: 100_000..=100_399, count: 100 };
        let isolator = NamespacesUser::new(&settings);
        let of = |id: &str| isolator.users(id).map(|users| users.map(|users| users.first));
        assert_eq!((of("a"), of("b"), of("a")), (Ok(Some(100_000)), Ok(Some(100_100)), Ok(Some(100_000))));
        assert_eq!((of("a.x.y"), of("z.x")), (Ok(Some(100_000)), Ok(None)));
        let over = |id: &str| isolator.cleanup(&Container { id: id.to_owned(), ..Container::default() });
        over("a.x");
        over("a");
        // What was left just now comes last.
        assert_eq!((of("c"), of("d"), of("e")), (Ok(Some(100_200)), Ok(Some(100_300)), Ok(Some(100_000))));
        assert!(of("f").unwrap_err().contains("4 containers"), "{:?}", of("f"));
        over("d");
        assert_eq!(of("f"), Ok(Some(100_300)));
    }

    #[test]
    fn a_sandbox_says_whose_it_is() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let settings = UserSettings { range: 100_000..=100_399, count: 100 };
        let dir = tempfile::tempdir().unwrap();
        lchown(dir.path(), Some(100_165), Some(100_165)).unwrap();
        let container = Container { id: "a".to_owned(), sandbox: dir.path().to_owned(), ..Container::default() };
        let isolator = NamespacesUser::new(&settings);
        isolator.recover(&container);
        assert_eq!(isolator.users("a"), Ok(Some(Users { first: 100_100, count: 100 })));
        isolator.cleanup(&container);
        assert_eq!(std::fs::metadata(dir.path()).unwrap().uid(), 0);
        isolator.recover(&container);
        assert_eq!(isolator.users("a"), Ok(None), "launched before there were any");
        let mut creation = Creation { container, ..Creation::default() };
        isolator.prepare(&mut creation).unwrap();
        assert_eq!((creation.world.users, &creation.world.own[..]), (None, &[][..]));
        isolator.cleanup(&Container { id: "a".to_owned(), ..Container::default() });
        isolator.users("a").unwrap();
        isolator.prepare(&mut creation).unwrap();
        assert_eq!(creation.world.own, [Namespace::User]);
        creation.container.id = "a.b".to_owned();
        creation.world = Default::default();
        isolator.prepare(&mut creation).unwrap();
        assert_eq!((creation.world.users.is_some(), &creation.world.own[..]), (true, &[][..]));
    }
}
