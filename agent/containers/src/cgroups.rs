//! The control groups of containers, in the form that this machine has them: a tree for each controller (the kernel's first
//! version), or one tree (its second). Below an agent's own group in each of them there is one for each container; those within
//! another are below that one's:
//!
//! ```text
//! HIERARCHY/freezer/ROOT/ID/mesos/INNER/cgroup.procs      first version; the same in cpu, memory, ...
//! HIERARCHY/ROOT/ID/mesos/INNER/leaf/cgroup.procs         second version
//! ```
//!
//! Who runs where is told by the tree of the freezer, or by the one that there is. One agent has a root: it holds a lock on it for
//! as long as it lives, so that whatever it finds there and does not know is nobody's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use supervisor::cgroup;
use supervisor::mounts::{Mount as Shown, Place};

use crate::watch::is_delegated;

/// Between a container and those within it.
const WITHIN: &str = "mesos";
/// Where processes of the second version are: a group that has others below it, and shares what it may use with them, has none itself.
const LEAF: &str = "leaf";
/// Where the agent itself goes, in a group that was given to it as a whole.
const AGENT: &str = "agent";
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// The kernel's version of control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A tree for each controller.
    First,
    /// One tree.
    Second,
}

/// Where control groups are, and which of them are an agent's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where trees are mounted.
    pub hierarchy: PathBuf,
    /// Name of the agent's own group.
    pub root: String,
    /// So long the end of what is in a group may take.
    pub patience: Duration,
}

/// The control groups of one agent.
#[derive(Clone, Debug)]
pub struct Cgroups(Arc<Trees>);

#[derive(Debug)]
struct Trees {
    version: Version,
    /// The agent's own group, by controller.
    roots: BTreeMap<String, PathBuf>,
    /// The one that tells who runs where.
    main: PathBuf,
    patience: Duration,
    _lock: Flock<File>,
}

/// A tree: its mount, what of it is mounted there, and its controllers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    version: Version,
    place: PathBuf,
    mounted: String,
    options: Vec<String>,
}

/// The trees that are mounted at `hierarchy` or below it, in the text of `/proc/self/mountinfo`.
fn mounts(text: &str, hierarchy: &Path) -> Vec<Mount> {
    let one = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let version = match right.next()? {
            "cgroup" => Version::First,
            "cgroup2" => Version::Second,
            _ => return None,
        };
        let mut left = left.split(' ').skip(3);
        let (mounted, place) = (left.next()?.to_owned(), PathBuf::from(left.next()?));
        let options = right.nth(1).unwrap_or_default().split(',').map(str::to_owned).collect();
        let is_meant = match version {
            Version::First => place.parent() == Some(hierarchy),
            Version::Second => place == hierarchy,
        };
        is_meant.then_some(Mount { version, place, mounted, options })
    };
    text.lines().filter_map(one).collect()
}

/// This process's own group in a tree, in the text of `/proc/self/cgroup`, as a path below the tree's mount.
fn own(text: &str, mount: &Mount) -> Option<PathBuf> {
    let of_tree = |controllers: &str| match mount.version {
        Version::First => {
            !controllers.is_empty()
                && controllers.split(',').all(|one| mount.options.iter().any(|option| option == one))
        }
        Version::Second => controllers.is_empty(),
    };
    let found = text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        of_tree(controllers).then_some(path)
    })?;
    // Of a part of the tree, perhaps.
    let below = Path::new(found).strip_prefix(&mount.mounted).or_else(|_| Path::new(found).strip_prefix("/")).ok()?;
    below.components().all(|part| matches!(part, Component::Normal(_))).then(|| mount.place.join(below))
}

impl Cgroups {
    /// Finds what there is and makes the agent's own groups.
    ///
    /// # Errors
    /// A sentence: what is missing.
    pub fn open(wanted: &Wanted) -> Result<Cgroups, String> {
        let Wanted { hierarchy, root, patience } = wanted;
        let cannot =
            |what: &str, error: io::Error| format!("--launcher=linux needs control groups, and {what}: {error}");
        if Path::new(root).components().any(|part| !matches!(part, Component::Normal(_))) || root.is_empty() {
            return Err(format!(
                "Flag '--cgroups_root' must be the name of a control group or a relative path, not '{root}'"
            ));
        }
        let text =
            fs::read_to_string("/proc/self/mountinfo").map_err(|error| cannot("mounts cannot be read", error))?;
        let own_text =
            fs::read_to_string("/proc/self/cgroup").map_err(|error| cannot("its own cannot be read", error))?;
        let hierarchy = fs::canonicalize(hierarchy).map_err(|error| {
            format!("--launcher=linux needs control groups at --cgroups_hierarchy={}: {error}", hierarchy.display())
        })?;
        let mounts = mounts(&text, &hierarchy);
        let mut roots = BTreeMap::new();
        let version = match mounts.iter().find(|mount| mount.version == Version::Second) {
            Some(mount) => {
                let root = second(mount, own(&own_text, mount), root)?;
                for controller in controllers(&root) {
                    roots.insert(controller, root.clone());
                }
                roots.insert(String::new(), root);
                Version::Second
            }
            None => {
                for mount in &mounts {
                    let names = mount.options.iter().filter(|name| CONTROLLERS.contains(&name.as_str()));
                    let mut made = None;
                    for name in names {
                        let root = match made.take() {
                            Some(root) => root,
                            None => first(mount, own(&own_text, mount), root)?,
                        };
                        made = Some(root.clone());
                        roots.insert(name.clone(), root);
                    }
                }
                Version::First
            }
        };
        if let (Version::First, Some(memory)) = (version, roots.get("memory")) {
            // As newer kernels have it anyway: what is below a group counts as its own.
            let _ = cgroup::set(&memory.join("memory.use_hierarchy"), "1");
        }
        let main = roots.get(if version == Version::Second { "" } else { FREEZER }).cloned().ok_or_else(|| {
            let there = if mounts.is_empty() { "none is mounted there".to_owned() } else { format!("there is only {}", list(&roots)) };
            format!(
                "--launcher=linux needs control groups at --cgroups_hierarchy={}, of the second version or the first with \
                 its {FREEZER}, and {there}; mount them, or say --launcher=posix",
                hierarchy.display()
            )
        })?;
        let file = File::open(&main).map_err(|error| cannot(&format!("{} cannot be opened", main.display()), error))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
            Errno::EWOULDBLOCK => format!(
                "Another agent runs its containers in {}: give one of them another --cgroups_root",
                main.display()
            ),
            error => cannot(&format!("{} cannot be locked", main.display()), error.into()),
        })?;
        Ok(Cgroups(Arc::new(Trees { version, roots, main, patience: *patience, _lock: lock })))
    }

    /// Which version of control groups it is.
    pub fn version(&self) -> Version {
        self.0.version
    }

    /// Whether there is a controller; one without a name is the tree of the second version.
    pub fn has(&self, controller: &str) -> bool {
        self.0.roots.contains_key(controller)
    }

    /// The agent's own group in the tree of a controller.
    pub fn root(&self, controller: &str) -> Option<&Path> {
        self.0.roots.get(controller).map(PathBuf::as_path)
    }

    /// The controllers that there are, as a list for people.
    pub fn list(&self) -> String {
        list(&self.0.roots)
    }

    /// The group of a container that tells who runs in it.
    pub fn group(&self, container_id: &str) -> PathBuf {
        below(&self.0.main, container_id)
    }

    /// The group of a container in the tree of a controller, if there is that controller.
    pub fn of(&self, controller: &str, container_id: &str) -> Option<PathBuf> {
        self.0.roots.get(controller).map(|root| below(root, container_id))
    }

    /// Makes the group of a container in the tree of a controller, or the one that tells who runs in it; the file by which a
    /// process joins it.
    ///
    /// # Errors
    /// Those of the file system; there is no such controller.
    pub fn make(&self, controller: Option<&str>, container_id: &str) -> io::Result<PathBuf> {
        let trees = &self.0;
        let root = match controller {
            None => &trees.main,
            Some(controller) => trees.roots.get(controller).ok_or(io::ErrorKind::NotFound)?,
        };
        let group = below(root, container_id);
        let missing = group.strip_prefix(root).map_err(io::Error::other)?;
        let mut at = root.clone();
        for part in missing.components() {
            if let (Version::Second, Some(controller)) = (trees.version, controller.filter(|name| !name.is_empty())) {
                hand_down(&at, &[controller])?;
            }
            let above = at.clone();
            at.push(part);
            make_dir(&at)?;
            if controller == Some("cpuset") && trees.version == Version::First {
                inherit_cpus(&above, &at)?;
            }
        }
        if trees.version == Version::Second {
            at.push(LEAF);
            make_dir(&at)?;
        }
        Ok(at.join("cgroup.procs"))
    }

    /// What a container with a root of its own is shown of control groups: its own, or those that it is in, and none above. What is
    /// set there it reads and does not write. The first version's files by which programs are run at an end are not among them: they
    /// are at the top of a tree.
    pub fn mounts(&self, container_id: &str) -> Vec<Shown> {
        let show = |group: &Path, place: String| {
            let source = Place::absolute(group.display().to_string());
            Shown { read_only: true, ..Shown::bind(source, Place::absolute(place)) }
        };
        if self.0.version == Version::Second {
            return vec![show(&self.group(container_id), SHOWN.to_owned())];
        }
        let nearest = |root: &Path| {
            let mut id = container_id;
            loop {
                let group = below(root, id);
                if group.exists() {
                    return Some(group);
                }
                id = id.rsplit_once('.')?.0;
            }
        };
        let groups = self.0.roots.iter().filter_map(|(controller, root)| Some((controller, nearest(root)?)));
        let shown = groups.map(|(controller, group)| show(&group, format!("{SHOWN}/{controller}")));
        std::iter::once(Shown::memory(Some(SHOWN_BYTES), 0o555, Place::absolute(SHOWN))).chain(shown).collect()
    }

    /// Ends all that runs in a container or within it.
    ///
    /// # Errors
    /// Something lives on.
    pub fn end(&self, container_id: &str) -> io::Result<bool> {
        cgroup::end(&self.group(container_id), self.0.patience)
    }

    /// Ends what is left in the groups of a container, and removes them. Blocks for no longer than the patience.
    ///
    /// # Errors
    /// Something of it stays.
    pub fn remove(&self, container_id: &str) -> io::Result<()> {
        let (begun, patience) = (Instant::now(), self.0.patience);
        let groups: BTreeSet<PathBuf> = self.0.roots.values().map(|root| below(root, container_id)).collect();
        let mut pause = PAUSE_MIN;
        loop {
            let removed = cgroup::end(&self.group(container_id), patience)
                .and_then(|_| groups.iter().try_for_each(|group| remove_tree(group, patience)));
            match removed {
                // Who has just ended is not out of it yet.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && begun.elapsed() < patience => {
                    std::thread::sleep(pause);
                    pause = (2 * pause).min(PAUSE_MAX);
                }
                removed => return removed,
            }
        }
    }

    /// The containers that have groups: those within others first.
    ///
    /// # Errors
    /// They cannot be listed.
    pub fn containers(&self) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        let roots: BTreeSet<&PathBuf> = self.0.roots.values().collect();
        for root in roots {
            list_containers(root, "", &mut found)?;
        }
        found.sort();
        found.dedup();
        found.reverse();
        Ok(found)
    }
}

const FREEZER: &str = "freezer";
/// Where programs look for control groups, and room for the folders there.
const SHOWN: &str = "/sys/fs/cgroup";
const SHOWN_BYTES: u64 = 64 << 10;
/// Those that containers are put in, of the first version.
const CONTROLLERS: [&str; 12] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
];

fn list(roots: &BTreeMap<String, PathBuf>) -> String {
    let names: Vec<&str> = roots.keys().map(String::as_str).filter(|name| !name.is_empty()).collect();
    if names.is_empty() { "no controller".to_owned() } else { names.join(", ") }
}

fn below(root: &Path, container_id: &str) -> PathBuf {
    root.join(container_id.split('.').collect::<Vec<_>>().join(&format!("/{WITHIN}/")))
}

fn make_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn make_dirs(base: &Path, name: &str) -> io::Result<PathBuf> {
    let mut at = base.to_owned();
    for part in Path::new(name).components() {
        let above = at.clone();
        at.push(part);
        make_dir(&at)?;
        if above.join("cpuset.cpus").exists() && !above.join("cgroup.controllers").exists() {
            inherit_cpus(&above, &at)?;
        }
    }
    Ok(at)
}

/// The agent's own group in a tree of the first version: below the top of it, or, where that is not this agent's to change, below
/// the group that the agent is in.
fn first(mount: &Mount, own: Option<PathBuf>, root: &str) -> Result<PathBuf, String> {
    let made = make_dirs(&mount.place, root).and_then(|root| check_writable(&root).map(|()| root));
    made.or_else(|error| match own {
        Some(own) if own != mount.place => make_dirs(&own, root),
        _ => Err(error),
    })
    .map_err(|error| cannot_make(&mount.place, root, &error))
}

fn cannot_make(place: &Path, root: &str, error: &io::Error) -> String {
    format!(
        "--launcher=linux needs control groups, and {} cannot be made for them: {error}; run as root, or in a group that is \
         delegated to this agent, or say --launcher=posix",
        place.join(root).display()
    )
}

fn check_writable(root: &Path) -> io::Result<()> {
    nix::unistd::access(&root.join("cgroup.procs"), nix::unistd::AccessFlags::W_OK).map_err(io::Error::from)
}

/// The same in the tree of the second version. In a group that was delegated, which systemd says, that group is the top; the agent
/// then moves into one below it, since a group that shares with others below it has no processes itself.
fn second(mount: &Mount, own: Option<PathBuf>, root: &str) -> Result<PathBuf, String> {
    let make = |top: &Path| -> io::Result<PathBuf> {
        hand_down_all(top)?;
        let made = make_dirs(top, root)?;
        let mut at = top.to_owned();
        for part in Path::new(root).components() {
            at.push(part);
            hand_down_all(&at)?;
        }
        check_writable(&made)?;
        Ok(made)
    };
    let inside = |top: &Path| -> io::Result<PathBuf> {
        let agent = top.join(AGENT);
        make_dir(&agent)?;
        for pid in fs::read_to_string(top.join("cgroup.procs"))?.lines() {
            match cgroup::set(&agent.join("cgroup.procs"), pid) {
                // It has ended.
                Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => {}
                moved => moved?,
            }
        }
        make(top)
    };
    // It moved there at an earlier start, perhaps.
    let top = own.map(|own| if own.ends_with(AGENT) { own.parent().map_or(own.clone(), Path::to_owned) } else { own });
    let made = match top.filter(|top| *top != mount.place || !is_top(top)) {
        Some(top) if is_delegated(&top) => inside(&top),
        top => make(&mount.place).or_else(|error| top.map_or(Err(error), |top| inside(&top))),
    };
    made.map_err(|error| cannot_make(&mount.place, root, &error))
}

/// Whether it is the top of the whole machine's tree, which alone may have processes and share.
fn is_top(place: &Path) -> bool {
    !place.join("cgroup.type").exists()
}

/// The controllers that a group of the second version has.
fn controllers(group: &Path) -> Vec<String> {
    let text = fs::read_to_string(group.join("cgroup.subtree_control")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

fn hand_down_all(group: &Path) -> io::Result<()> {
    let text = fs::read_to_string(group.join("cgroup.controllers"))?;
    let all: Vec<&str> = text.split_whitespace().filter(|name| CONTROLLERS_OF_SECOND.contains(name)).collect();
    hand_down(group, &all)
}

/// Those that containers are limited by, of the second version.
const CONTROLLERS_OF_SECOND: [&str; 6] = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids"];

/// Lets the groups below one have controllers.
fn hand_down(group: &Path, controllers: &[&str]) -> io::Result<()> {
    let path = group.join("cgroup.subtree_control");
    let has = fs::read_to_string(&path)?;
    let missing = controllers.iter().filter(|name| !has.split_whitespace().any(|one| one == **name));
    let text: Vec<String> = missing.map(|name| format!("+{name}")).collect();
    if text.is_empty() { Ok(()) } else { cgroup::set(&path, &text.join(" ")) }
}

/// A group without processors takes no process.
fn inherit_cpus(above: &Path, group: &Path) -> io::Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        if fs::read_to_string(group.join(name))?.trim().is_empty() {
            cgroup::set(&group.join(name), fs::read_to_string(above.join(name))?.trim())?;
        }
    }
    Ok(())
}

fn remove_tree(group: &Path, patience: Duration) -> io::Result<()> {
    for one in cgroup::tree(group)?.iter().rev() {
        match fs::remove_dir(one) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Somebody in this tree alone.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                cgroup::end(one, patience)?;
                return Err(error);
            }
            removed => removed?,
        }
    }
    Ok(())
}

fn list_containers(root: &Path, above: &str, found: &mut Vec<String>) -> io::Result<()> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Files have one, and no name of a container does.
        if name.contains('.') || !entry.file_type()?.is_dir() {
            continue;
        }
        let container_id = format!("{above}{name}");
        list_containers(&entry.path().join(WITHIN), &format!("{container_id}."), found)?;
        found.push(container_id);
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write;

    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs ro,size=4096k,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
        37 31 0:34 /docker/x /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer\n\
        40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn what_is_mounted_is_told_by_the_machine() {
        let places = |hierarchy: &str| -> Vec<(Version, String)> {
            let found = mounts(HYBRID, Path::new(hierarchy)).into_iter();
            found.map(|mount| (mount.version, mount.place.display().to_string())).collect()
        };
        let first = |place: &str| (Version::First, format!("/sys/fs/cgroup/{place}"));
        assert_eq!(places("/sys/fs/cgroup"), [first("cpu,cpuacct"), first("freezer"), first("systemd")]);
        assert_eq!(places("/sys/fs/cgroup/unified"), [(Version::Second, "/sys/fs/cgroup/unified".to_owned())]);
        assert_eq!(places("/cgroups"), []);
        let found = mounts(HYBRID, Path::new("/sys/fs/cgroup"));
        let groups = "7:freezer:/docker/x/y\n4:cpu,cpuacct:/a.slice\n1:name=systemd:/s\n0::/u\n";
        let own = |mount: &Mount| own(groups, mount).map(|path| path.display().to_string());
        assert_eq!(own(&found[0]).as_deref(), Some("/sys/fs/cgroup/cpu,cpuacct/a.slice"));
        assert_eq!(own(&found[1]).as_deref(), Some("/sys/fs/cgroup/freezer/y"));
        let unified = &mounts(HYBRID, Path::new("/sys/fs/cgroup/unified"))[0];
        assert_eq!(own(unified).as_deref(), Some("/sys/fs/cgroup/unified/u"));
    }

    #[test]
    fn where_there_are_none_that_is_said() {
        let wanted = |hierarchy: &str, root: &str| Wanted {
            hierarchy: hierarchy.into(),
            root: root.into(),
            patience: PAUSE_MAX,
        };
        let dir = tempfile::tempdir().unwrap();
        let why = |hierarchy: &str, root: &str| Cgroups::open(&wanted(hierarchy, root)).unwrap_err();
        assert!(why(&dir.path().display().to_string(), "mesos").contains("none is mounted there"));
        assert!(why("/no/such/place", "mesos").contains("/no/such/place: No such file"));
        for root in ["", "/mesos", "../mesos"] {
            assert!(why("/sys/fs/cgroup", root).contains("'--cgroups_root'"), "{root}");
        }
    }

    /// Real groups of each version that can be made here.
    pub(crate) fn real(what: &str) -> Vec<(Cgroups, Wanted)> {
        let root = format!("meseta-unit-{what}-{}", std::process::id());
        let all = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(|hierarchy| Wanted {
            hierarchy: hierarchy.into(),
            root: root.clone(),
            patience: Duration::from_secs(30),
        });
        let opened: Vec<_> =
            all.into_iter().filter_map(|wanted| Some((Cgroups::open(&wanted).ok()?, wanted))).collect();
        if opened.is_empty() {
            // To who reads the output, not to libtest.
            let _ = writeln!(io::stderr(), "NOT TESTED ({what}): no control groups can be made here");
        }
        opened
    }

    /// They are needed no more.
    pub(crate) fn take_away(groups: &Cgroups) {
        let roots: BTreeSet<&PathBuf> = groups.0.roots.values().collect();
        roots.into_iter().for_each(|root| fs::remove_dir(root).unwrap());
    }

    #[test]
    fn groups_are_made_found_and_removed_with_what_runs_in_them() {
        for (groups, wanted) in real("made") {
            let second = Cgroups::open(&wanted).unwrap_err();
            assert!(second.contains("give one of them another --cgroups_root"), "{second}");
            let controller = groups.has("memory").then_some("memory");
            for id in ["a", "a.b"] {
                let joins = BTreeSet::from([groups.make(None, id).unwrap(), groups.make(controller, id).unwrap()]);
                let files: Vec<String> = joins.iter().map(|join| join.display().to_string()).collect();
                let join = format!("for f in {}; do echo $$ > $f; done; exec sleep 1000", files.join(" "));
                let child = std::process::Command::new("sh").args(["-c", &join]).spawn().unwrap();
                while !joins.iter().all(|join| fs::read_to_string(join).unwrap().contains(&child.id().to_string())) {
                    std::thread::yield_now();
                }
                // Reaped when it was killed.
                std::thread::spawn(move || { child }.wait());
            }
            assert_eq!(groups.containers().unwrap(), ["a.b", "a"]);
            assert_eq!(cgroup::processes(&groups.group("a")).unwrap().len(), 2);
            groups.remove("a.b").unwrap();
            assert_eq!(cgroup::processes(&groups.group("a")).unwrap().len(), 1);
            groups.remove("a").unwrap();
            assert_eq!(groups.containers().unwrap(), Vec::<String>::new());
            groups.remove("a").unwrap();
            take_away(&groups);
        }
    }
}
