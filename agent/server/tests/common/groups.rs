//! Control groups of a test's own, looked at from outside.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part of it")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longer than the end of what is in a group takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A place for control groups of one test: a hierarchy, a name that nobody else uses, and the tree that tells who runs where.
pub struct Place {
    pub hierarchy: &'static str,
    pub root: String,
    pub tree: PathBuf,
}

impl Place {
    /// One of each version of control groups that can be made here. None here is told to who reads the output, not to libtest.
    pub fn all(what: &str) -> Vec<Place> {
        let root = format!("meseta-test-{what}-{}", std::process::id());
        let of = |(hierarchy, tree): (&'static str, &str)| {
            let place = Place { hierarchy, tree: Path::new(tree).join(&root), root: root.clone() };
            let can = Path::new(tree).join("cgroup.procs").exists() && fs::create_dir(&place.tree).is_ok();
            can.then_some(place)
        };
        let trees = [
            ("/sys/fs/cgroup", "/sys/fs/cgroup/freezer"),
            ("/sys/fs/cgroup", "/sys/fs/cgroup"),
            ("/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified"),
        ];
        let found: Vec<Place> = trees.into_iter().filter_map(of).collect();
        if found.is_empty() {
            let _ = writeln!(std::io::stderr(), "NOT TESTED ({what}): no control groups can be made here");
        }
        found
    }

    /// Whether it is of the second version.
    pub fn is_second(&self) -> bool {
        Path::new(self.hierarchy).join("cgroup.controllers").exists()
    }

    /// The containers that have a group.
    pub fn containers(&self) -> Vec<PathBuf> {
        let found = fs::read_dir(&self.tree).into_iter().flatten().flatten();
        found.filter(|entry| entry.file_type().unwrap().is_dir()).map(|entry| entry.path()).collect()
    }

    /// The group of a container that has no other beside it.
    pub fn group(&self) -> PathBuf {
        let found = self.containers();
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Of a test that failed.
        let _ = supervisor::cgroup::end(&self.tree, PATIENCE);
        let trees = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        for root in trees.chain([PathBuf::from("/sys/fs/cgroup")]).map(|tree| tree.join(&self.root)) {
            for group in innermost_first(&root) {
                let _ = fs::remove_dir(group);
            }
        }
    }
}

/// A group and all below it, the inner ones first.
pub fn innermost_first(root: &Path) -> Vec<PathBuf> {
    let below = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let inner = below.filter(|path| path.is_dir()).flat_map(|path| innermost_first(&path));
    inner.collect::<Vec<_>>().into_iter().chain([root.to_owned()]).collect()
}
