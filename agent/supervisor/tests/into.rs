//! Volumes that are brought into the mounts of a process that runs, and out of them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use supervisor::into::{Found, Wanted, settle};

/// A process with mounts of its own, and a sandbox with volumes beside it.
struct World {
    dir: tempfile::TempDir,
    process: Child,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl World {
    /// None is told to who reads the output, not to libtest.
    fn new(what: &str) -> Option<World> {
        if let (false, _) | (_, Err(_)) = (nix::unistd::geteuid().is_root(), supervisor::mounts::check_machine()) {
            let _ = writeln!(std::io::stderr(), "NOT TESTED ({what}): root and mounts are needed");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        for name in ["sandbox", "one", "two"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("x"), name).unwrap();
        }
        let script = format!("touch {}; exec sleep 1000", dir.path().join("ready").display());
        let process = Command::new("unshare").args(["-m", "sh", "-c", &script]).spawn().unwrap();
        let world = World { dir, process };
        while !world.dir.path().join("ready").exists() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        Some(world)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn sandbox(&self) -> PathBuf {
        self.at("sandbox")
    }

    fn settle(&self, all: &[(&str, &str, Found)]) -> Result<(), String> {
        let wanted = all.iter().map(|(volume, path, found)| Wanted {
            place: self.at(volume).display().to_string(),
            path: (*path).to_owned(),
            found: *found,
        });
        settle(self.process.id(), self.sandbox().to_str().unwrap(), &wanted.collect::<Vec<_>>())
    }

    /// What its process sees at a path of its sandbox: the content of `x`, and whether that may be written.
    fn seen(&self, path: &str) -> Option<(String, bool)> {
        let sandbox = self.sandbox();
        let root = Path::new("/proc").join(self.process.id().to_string()).join("root");
        let at = root.join(sandbox.strip_prefix("/").unwrap()).join(path);
        let text = fs::read_to_string(at.join("x")).ok()?;
        Some((text, fs::write(at.join("y"), "").is_ok()))
    }
}

fn one(text: &str, is_writable: bool) -> Option<(String, bool)> {
    Some((text.to_owned(), is_writable))
}

#[test]
fn volumes_come_and_go_in_the_mounts_of_one_process() {
    let Some(world) = World::new("volumes of one that runs") else { return };
    for round in 0..2 {
        world.settle(&[("one", "deep/a", Found::ReadOnly), ("two", "b", Found::Mounted)]).unwrap();
        assert_eq!((world.seen("deep/a"), world.seen("b")), (one("one", false), one("two", true)), "{round}");
    }
    assert_eq!(fs::read_dir(world.sandbox().join("deep/a")).unwrap().count(), 0, "for others nothing is there");
    // As it is to be found now.
    world.settle(&[("one", "deep/a", Found::Mounted), ("two", "b", Found::ReadOnly)]).unwrap();
    assert_eq!((world.seen("deep/a"), world.seen("b")), (one("one", true), one("two", false)));
    world.settle(&[("one", "deep/a", Found::Linked), ("two", "b", Found::Linked)]).unwrap();
    assert_eq!((world.seen("deep/a"), world.seen("b")), (one("one", true), None), "who may write need not be linked");
    assert!(!world.sandbox().join("b").exists());
    world.settle(&[("one", "deep/a", Found::Gone), ("two", "b", Found::Gone), ("none", "c/d", Found::Gone)]).unwrap();
    assert_eq!(world.seen("deep/a"), None);
    assert!(!world.sandbox().join("deep/a").exists() && !world.sandbox().join("c").exists());
    // A link by which it was found until now.
    symlink(world.at("one"), world.sandbox().join("link")).unwrap();
    world.settle(&[("one", "link", Found::Linked)]).unwrap();
    assert!(world.sandbox().join("link").is_symlink());
    world.settle(&[("one", "link", Found::ReadOnly)]).unwrap();
    assert_eq!(world.seen("link"), one("one", false));
    assert_eq!(fs::read_to_string(world.at("one/x")).unwrap(), "one");
}

#[test]
fn nothing_in_a_sandbox_leads_out_of_it() {
    let Some(world) = World::new("ways out of one that runs") else { return };
    let outside = world.at("outside");
    fs::create_dir_all(outside.join("in")).unwrap();
    symlink(&outside, world.sandbox().join("way")).unwrap();
    symlink(&outside, world.sandbox().join("other")).unwrap();
    fs::write(world.sandbox().join("file"), "").unwrap();
    for path in ["way/in", "way/new", "../outside/in"] {
        let refused = world.settle(&[("one", path, Found::ReadOnly)]).unwrap_err();
        assert!(refused.starts_with(&format!("cannot mount a volume at '{path}': ")), "{refused}");
    }
    for path in ["other", "file"] {
        let refused = world.settle(&[("one", path, Found::ReadOnly)]).unwrap_err();
        assert!(refused.ends_with("something else is in its place"), "{refused}");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert!(world.settle(&[("none", "a", Found::ReadOnly)]).unwrap_err().contains("cannot take the volume at "));
    let mut gone = Command::new("true").spawn().unwrap();
    let pid = gone.id();
    gone.wait().unwrap();
    assert!(settle(pid, "/", &[]).unwrap_err().contains("cannot enter its mounts"));
}
