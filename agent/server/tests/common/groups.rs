//! Control groups of a test's own, looked at from outside, and what waits for them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Master, PATIENCE, RealAgent};

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

    pub fn start(&self, master: &Master, work_dir: &Path, more: &[&str]) -> RealAgent {
        let own = [
            "--launcher=linux".to_owned(),
            format!("--cgroups_hierarchy={}", self.hierarchy),
            format!("--cgroups_root={}", self.root),
        ];
        let flags: Vec<&str> = own.iter().map(String::as_str).chain(more.iter().copied()).collect();
        RealAgent::start(&master.address, work_dir, &flags)
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
        let _ = agent_server::supervisor::cgroup::end(&self.tree, PATIENCE);
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

pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what} did not happen"));
}

pub async fn number(path: PathBuf) -> u32 {
    let read = || fs::read_to_string(&path).ok().and_then(|text| text.strip_suffix('\n')?.parse().ok());
    until(&path.display().to_string(), || read().is_some()).await;
    read().unwrap()
}
