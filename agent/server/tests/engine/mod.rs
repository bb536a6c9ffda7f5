//! A Docker Engine of a test's own, in a network of its own, with an image made of busybox. Nothing of it is left behind.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part of it")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The image: `/bin/sh` and others, and `CMD ["/bin/hello"]`, which says so.
pub const IMAGE: &str = "box:1";

pub struct Engine {
    pub dir: PathBuf,
    /// Goes last.
    _own: tempfile::TempDir,
    flags: Vec<String>,
    daemon: Option<Child>,
    parent: String,
}

pub fn runs(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

impl Engine {
    /// An engine, where there can be one; where not, that is told to who reads the output, not to libtest, unless `ENGINE_NEEDED=1`
    /// says that there is one. What this thread starts from here on, threads and processes, is in the engine's network.
    pub fn start(what: &str, flags: &[&str]) -> Option<Engine> {
        let missing = match (nix::unistd::geteuid().is_root(), runs("dockerd"), runs("docker")) {
            (false, ..) => Some("only root starts a Docker Engine"),
            (_, false, _) | (.., false) => Some("there is no dockerd, or no docker, here (make docker installs them)"),
            _ => None,
        };
        if let Some(missing) = missing {
            assert!(std::env::var_os("ENGINE_NEEDED").is_none(), "{missing}");
            let _ = writeln!(std::io::stderr(), "NOT TESTED ({what}): {missing}");
            return None;
        }
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        let own = tempfile::tempdir().unwrap();
        let dir = own.path().to_owned();
        let parent = format!("/meseta-test-{}", dir.file_name().unwrap().to_str().unwrap().trim_start_matches('.'));
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut engine = Engine { dir: dir.clone(), _own: own, flags, daemon: None, parent };
        engine.restart();
        let root = dir.join("root");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::copy("/usr/bin/busybox", root.join("bin/busybox"))
            .or_else(|_| fs::copy("/bin/busybox", root.join("bin/busybox")))
            .unwrap();
        for name in [
            "sh", "sleep", "echo", "cat", "ls", "env", "id", "hostname", "httpd", "nc", "head", "tr", "kill", "printf",
            "rm", "ln", "wc", "mkdir",
        ] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        ["etc", "tmp", "www"].iter().for_each(|name| fs::create_dir(root.join(name)).unwrap());
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").unwrap();
        fs::write(root.join("www/index.html"), "here\n").unwrap();
        fs::write(root.join("bin/hello"), "#!/bin/sh\necho hello of the image \"$@\"\n").unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(root.join("bin/hello"), fs::Permissions::from_mode(0o755)).unwrap();
        let tar = dir.join("image.tar");
        assert!(
            Command::new("tar").args(["-c", "-f"]).arg(&tar).arg("-C").arg(&root).arg(".").status().unwrap().success()
        );
        engine.docker(&["import", "--change", "CMD [\"/bin/hello\"]", tar.to_str().unwrap(), IMAGE]);
        Some(engine)
    }

    pub fn socket(&self) -> String {
        self.dir.join("docker.sock").display().to_string()
    }

    /// Starts the daemon, and waits until it answers.
    pub fn restart(&mut self) {
        let path = |name: &str| self.dir.join(name).display().to_string();
        // One that was killed left it.
        let _ = fs::remove_file(path("docker.pid"));
        let log = fs::File::options().create(true).append(true).open(path("dockerd.log")).unwrap();
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private", "dockerd"]);
        command.args(["--data-root", &path("data"), "--exec-root", &path("exec"), "--pidfile", &path("docker.pid")]);
        command.args(["-H", &format!("unix://{}", self.socket()), "--cgroup-parent", &self.parent]);
        command.args(["--iptables=false", "--ip6tables=false", "--ip-masq=false", "--ip-forward=false"]);
        command.args(&self.flags).stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
        self.daemon = Some(command.spawn().unwrap());
        let begun = Instant::now();
        while !self.try_docker(&["version"]).0 {
            let log = || fs::read_to_string(path("dockerd.log")).unwrap_or_default();
            assert!(begun.elapsed() < PATIENCE, "dockerd does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Tells the daemon to end, and waits for that.
    pub fn stop(&mut self, signal: Signal) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = kill(Pid::from_raw(daemon.id() as i32), signal);
            let _ = daemon.wait();
        }
        // The program below it ends with it, and may take a moment: another daemon would take it for its own.
        let path = self.dir.join("exec/containerd/containerd.pid");
        if let Some(pid) = fs::read_to_string(&path).ok().and_then(|pid| pid.trim().parse::<u32>().ok()) {
            let begun = Instant::now();
            while supervisor::spec::start_ticks(pid).is_some() && begun.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = fs::remove_file(path);
        }
    }

    pub fn try_docker(&self, words: &[&str]) -> (bool, String) {
        let output =
            Command::new("docker").args(["-H", &format!("unix://{}", self.socket())]).args(words).output().unwrap();
        let said = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    pub fn docker(&self, words: &[&str]) -> String {
        let (is_well, said) = self.try_docker(words);
        assert!(is_well, "docker {words:?}: {said}");
        said
    }

    /// Names of containers, those that are over too.
    pub fn containers(&self) -> Vec<String> {
        self.docker(&["ps", "-a", "--format", "{{.Names}}"]).lines().map(str::to_owned).collect()
    }
}

/// Kills what is in a group and below it, and removes it.
fn end_group(group: &Path) {
    let begun = Instant::now();
    while group.is_dir() && begun.elapsed() < PATIENCE {
        for inner in fs::read_dir(group).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
            end_group(&inner.path());
        }
        for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
            if let Some(pid) = pid.parse().ok().filter(|pid| *pid > 1) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        if fs::remove_dir(group).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let (_, all) = self.try_docker(&["ps", "-aq"]);
        let all: Vec<&str> = all.lines().collect();
        if !all.is_empty() {
            self.try_docker(&[&["rm", "-f"], &all[..]].concat());
        }
        self.stop(Signal::SIGTERM);
        // A test that failed may have left an engine that does nothing any more: who names its folder is of it.
        let own = self.dir.display().to_string();
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let pid = process.file_name().to_str().and_then(|pid| pid.parse::<i32>().ok());
            let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
            if let Some(pid) = pid.filter(|_| String::from_utf8_lossy(&words).contains(&own)) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let groups = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        for tree in groups.chain([PathBuf::from("/sys/fs/cgroup")]) {
            end_group(&tree.join(self.parent.trim_start_matches('/')));
        }
    }
}
