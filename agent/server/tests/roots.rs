//! Containers with roots of their own, made by the supervisor that the agent starts: what their processes see, and what those who
//! made the root, or write to the sandbox, try.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use common::groups::Place as Hierarchy;
use containers::cgroups::{Cgroups, Wanted as Groups};
use containers::isolators::{FilesystemLinux, FilesystemSettings, NamespacesPid};
use containers::mounts::{Mount, Place, Source};
use containers::root::Root;
use containers::spec::World;
use containers::{Container, Containerizer, Core, Creation, Isolator, Report, Supervised};
use parking_lot::Mutex;

const PATIENCE: Duration = Duration::from_secs(30);

/// What a test wants of its container, in the place of what unpacks images.
struct Wanted(Mutex<World>);

impl Isolator for Wanted {
    fn name(&self) -> &'static str {
        "test"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        creation.world = self.0.lock().clone();
        Ok(())
    }
}

struct Hears(Mutex<Sender<Report>>);

impl Core for Hears {
    fn report(&self, report: Report) {
        let _ = self.0.lock().send(report);
    }

    fn awaits(&self, _: &str) -> bool {
        true
    }

    fn count_failure(&self) {}

    fn fail(&self, sentence: String) {
        panic!("{sentence}");
    }
}

struct Bench {
    dir: tempfile::TempDir,
    root: PathBuf,
    /// Control groups of its containers, if they have any.
    groups: Option<Cgroups>,
    /// So many containers there were.
    count: std::cell::Cell<u32>,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    /// None here is told to who reads the output, not to libtest.
    fn new(what: &str) -> Option<Bench> {
        if let Err(why) = containers::mounts::check_machine() {
            let _ = writeln!(std::io::stderr(), "NOT TESTED ({what}): {why}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        // The programs of this machine, and nothing else of it.
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("usr")).unwrap();
        for name in ["bin", "lib", "lib64"] {
            symlink(format!("usr/{name}"), root.join(name)).unwrap();
        }
        let runtime = tokio::runtime::Runtime::new().unwrap();
        Some(Bench { dir, root, groups: None, count: Default::default(), runtime })
    }

    fn sandbox(&self) -> PathBuf {
        let sandbox = self.dir.path().join("work/sandbox");
        fs::create_dir_all(&sandbox).unwrap();
        sandbox
    }

    fn world(&self) -> World {
        let usr = Mount::bind(Place::absolute("/usr"), Place::absolute("/usr"));
        let root = Root { path: self.root.display().to_string(), ..Root::default() };
        World { root: Some(root), mounts: vec![Mount { read_only: true, ..usr }], ..World::default() }
    }

    /// Runs a script to its end: its wait status and what it wrote, or why there was none.
    fn run(&self, world: World, script: &str) -> Result<(i32, String), String> {
        self.run_as("", world, script)
    }

    fn run_as(&self, user: &str, world: World, script: &str) -> Result<(i32, String), String> {
        let sandbox = self.sandbox();
        self.count.set(self.count.get() + 1);
        let id = format!("c{}", self.count.get());
        let (sender, reports): (_, Receiver<Report>) = channel();
        let core = Arc::new(Hears(Mutex::new(sender)));
        let _inside = self.runtime.enter();
        let isolators: Vec<Box<dyn Isolator>> = vec![
            Box::new(Wanted(Mutex::new(world))),
            Box::new(FilesystemLinux::new(&FilesystemSettings::default())),
            Box::new(NamespacesPid(Default::default())),
        ];
        let launcher = Path::new(env!("CARGO_BIN_EXE_meseta-executor"));
        let work_dir = self.dir.path().join("work");
        let (supervised, pipe) = Supervised::open(&work_dir, launcher, isolators, self.groups.clone(), &[]).unwrap();
        self.runtime.spawn(supervised.clone().listen(core.clone(), pipe));
        let creation = Creation {
            container: Container { id: id.clone(), sandbox: sandbox.clone(), ..Container::default() },
            user: user.to_owned(),
            arguments: vec!["/bin/sh".into(), "-c".into(), script.into()],
            environment: vec!["PATH=/usr/bin:/bin".into(), format!("MESOS_SANDBOX={}", sandbox.display())],
            umask: Some(0o22),
            ..Creation::default()
        };
        supervised.create(core, creation);
        let ended = loop {
            match reports.recv_timeout(PATIENCE).unwrap() {
                Report::Ended { container_id, status } if container_id == id => {
                    let text = ["stdout", "stderr"].map(|name| fs::read_to_string(sandbox.join(name)).unwrap());
                    break Ok((status.unwrap(), text.concat()));
                }
                Report::Failed { container_id, message } if container_id == id => break Err(message),
                _ => {}
            }
        };
        for name in ["stdout", "stderr"] {
            let _ = fs::remove_file(sandbox.join(name));
        }
        if let Some(groups) = &self.groups {
            groups.remove(&id).unwrap();
        }
        ended
    }

    /// The same of one that does not fail.
    fn says(&self, world: World, script: &str) -> String {
        let (status, text) = self.run(world, script).unwrap();
        assert_eq!(status, 0, "{text}");
        text
    }
}

#[test]
fn a_root_of_its_own_has_what_processes_need_and_nothing_of_the_machine() {
    let Some(bench) = Bench::new("roots") else { return };
    fs::write(bench.root.join("mark"), "of the image").unwrap();
    let script = r#"
        set -e
        [ "$PWD" = /mnt/mesos/sandbox ] && [ "$MESOS_SANDBOX" = /mnt/mesos/sandbox ] && touch seen
        cat /mark; echo
        echo x > /dev/null; [ "$(head -c 3 /dev/zero | wc -c)" = 3 ]; head -c 3 /dev/urandom > /dev/null
        [ -L /dev/fd ] && [ -c /dev/ptmx ] && [ "$(stat -fc %T /dev/pts)" = devpts ]
        echo x > /dev/shm/x; [ "$(stat -c %a /dev/shm)" = 1777 ]
        for path in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/x; do
            if (echo x > $path) 2> /dev/null; then echo "$path was written"; fi
        done
        for path in /proc/kcore /proc/keys /proc/timer_list; do [ ! -e $path ] || [ -c $path ]; done
        ls -A /sys/firmware; ls -A /sys/fs/cgroup
        if (echo x > /usr/x) 2> /dev/null; then echo "/usr was written"; fi
        echo root: $(ls /)
        echo files: $(ls /proc/self/fd | wc -l)
        echo processes: $(ls /proc | grep -c '^[0-9]')
        echo first: $(cat /proc/1/comm | head -c 4) $(readlink /proc/1/cwd) $(readlink /proc/1/root)
        grep -c . /proc/self/mountinfo > count; ! grep -E '/work|/tmp/.tmp' /proc/self/mounts"#;
    let text = bench.says(bench.world(), script);
    let expected = "of the image\nroot: bin dev lib lib64 mark mnt proc sys usr\n";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains("files: 4\n") && text.contains("first: ") && text.ends_with(" / /\n"), "{text}");
    assert!(bench.sandbox().join("seen").exists());
    assert!(fs::read_dir(bench.root.join("proc")).unwrap().next().is_none(), "none of it is seen outside");
    let machine = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!machine.contains(&bench.dir.path().display().to_string()), "{machine}");
}

#[test]
fn what_is_mounted_is_found_where_it_was_asked_for() {
    let Some(bench) = Bench::new("mounts") else { return };
    let given = bench.dir.path().join("given");
    fs::create_dir_all(given.join("inner")).unwrap();
    fs::write(given.join("file"), "given\n").unwrap();
    let given = |name: &str| Place::absolute(given.join(name).display().to_string());
    let mut world = bench.world();
    let content = Source::Content(b"hidden\n".to_vec(), 0, 0);
    world.mounts.extend([
        Mount { read_only: true, ..Mount::bind(given(""), Place::absolute("/a/deep/place")) },
        Mount::bind(given(""), Place::absolute("/there")),
        Mount::bind(given("file"), Place::absolute("/etc/file")),
        Mount::memory(Some(1 << 20), 0o700, Place::absolute("/memory")),
        Mount { source: content, read_only: true, ..Mount::memory(None, 0, Place::absolute("/run/secret")) },
    ]);
    world.directory = Some("/not/there/before".into());
    world.root.as_mut().unwrap().read_only = true;
    let script = r#"
        set -e
        pwd; cat /a/deep/place/file /etc/file /run/secret
        if (echo x > /a/deep/place/x) 2> /dev/null; then echo "it was written"; fi
        if (echo x > /x) 2> /dev/null; then echo "the root was written"; fi
        if (echo x > /run/secret) 2> /dev/null; then echo "the secret was written"; fi
        echo x > /there/inner/new; stat -c '%a %s' /memory /run/secret; stat -fc %T /memory /run/secret
        if (head -c 2000000 /dev/zero > /memory/x) 2> /dev/null; then echo "without bounds"; fi
        cd /mnt/mesos/sandbox && touch here"#;
    let text = bench.says(world, script);
    let stat = "700 40\n400 7\ntmpfs\ntmpfs\n";
    assert_eq!(text, format!("/not/there/before\ngiven\ngiven\nhidden\n{stat}"));
    assert!(bench.dir.path().join("given/inner/new").exists());
    assert!(bench.dir.path().join("work/meta/containers").exists());
}

#[test]
fn an_image_that_misleads_reaches_nothing_outside() {
    let Some(bench) = Bench::new("hostile roots") else { return };
    let outside = bench.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let (root, inner) = (&bench.root, outside.display().to_string());
    // Where the machine's own would be mounted, were links followed.
    for name in ["proc", "sys", "dev"] {
        symlink(&outside, root.join(name)).unwrap();
        let why = bench.run(bench.world(), "exit 0").unwrap_err();
        assert!(why.contains(&format!("cannot mount /{name} in its root")), "{why}");
        fs::remove_file(root.join(name)).unwrap();
    }
    // Links that lead out are followed within, and no further.
    for (name, target) in [("mnt", inner.as_str()), ("up", "../../../../../../outside"), ("etc", "/up")] {
        symlink(target, root.join(name)).unwrap();
    }
    let mut world = bench.world();
    world.mounts.push(Mount::memory(None, 0o755, Place::absolute("/etc/x")));
    let ended = bench.run(world, "ls -d /mnt/mesos/sandbox");
    assert!(ended.is_err(), "{ended:?}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    for name in ["mnt", "etc", "up"] {
        fs::remove_file(root.join(name)).unwrap();
    }
    // A link within is a link: /var/run of many images.
    fs::create_dir(root.join("run")).unwrap();
    symlink("/run", root.join("varrun")).unwrap();
    let mut world = bench.world();
    world.mounts.push(Mount::memory(None, 0o755, Place::absolute("/varrun/x")));
    assert_eq!(bench.says(world, "stat -fc %T /run/x"), "tmpfs\n");
    // `..` is no part of what is asked for.
    for path in ["/../x", "/a/../../x", "/mnt/mesos/sandbox/../../../x"] {
        let mut world = bench.world();
        world.mounts.push(Mount::memory(None, 0o755, Place::absolute(path)));
        assert!(bench.run(world, "exit 0").is_err(), "{path}");
    }
    // Devices of the image are none, the image's users decide nothing, and its loader is not run as the agent.
    nix::sys::stat::mknod(
        &root.join("disk"),
        nix::sys::stat::SFlag::S_IFCHR,
        nix::sys::stat::Mode::from_bits_truncate(0o666),
        nix::sys::stat::makedev(1, 5),
    )
    .unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/group"), "root:x:0:nobody\nwheel:x:0:nobody\n").unwrap();
    fs::write(root.join("etc/passwd"), "nobody:x:0:0::/:/bin/sh\n").unwrap();
    fs::set_permissions(bench.sandbox(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let (status, text) = bench.run_as("nobody", bench.world(), "id -u; id -G; head -c 1 /disk").unwrap();
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    assert!(status != 0 && text.contains("Permission denied"), "{text}");
    assert!(text.starts_with(&format!("{}\n{}\n", nobody.uid, nobody.gid)), "{text}");
}

/// What a task does in its sandbox while something else is set up there.
#[test]
fn a_sandbox_that_misleads_reaches_nothing_outside() {
    let Some(bench) = Bench::new("hostile sandboxes") else { return };
    let outside = bench.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let sandbox = bench.sandbox();
    symlink(&outside, sandbox.join("out")).unwrap();
    symlink("../../outside", sandbox.join("up")).unwrap();
    symlink(".", sandbox.join("self")).unwrap();
    let folder = sandbox.display().to_string();
    let host = World { own: vec![containers::spec::Namespace::Mount], ..World::default() };
    for (name, world, seen) in [("host", host, folder.clone()), ("root", bench.world(), "/mnt/mesos/sandbox".into())] {
        for path in ["out/x", "out", "up/x", "self/x", "../x", "a/../../x"] {
            let mut to = world.clone();
            let at = Place::below(seen.clone(), path);
            to.mounts.push(Mount::memory(None, 0o755, at));
            let why = bench.run(to, "exit 0").unwrap_err();
            assert!(why.contains(&format!("cannot find {path}")), "{name} {path}: {why}");
            if path.starts_with("self") {
                continue;
            }
            let mut from = world.clone();
            let source = Place::below(folder.clone(), path);
            from.mounts.push(Mount::bind(source, Place::below(seen.clone(), "data")));
            let why = bench.run(from, "exit 0").unwrap_err();
            assert!(why.contains(&format!("cannot find {path}")), "{name} {path}: {why}");
        }
        let mut good = world.clone();
        let source = Place::below(folder.clone(), "made/for/it");
        good.mounts.push(Mount::bind(source, Place::below(seen.clone(), "data")));
        assert_eq!(bench.says(good, "echo x > data/x; cat made/for/it/x"), "x\n");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    // While links are swapped in and out, a mount goes where it belongs or nowhere.
    let swapping = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let swapper = {
        let (swapping, sandbox, outside) = (swapping.clone(), sandbox.clone(), outside.clone());
        std::thread::spawn(move || {
            let (place, aside) = (sandbox.join("race"), sandbox.join("aside"));
            fs::create_dir_all(place.join("in")).unwrap();
            while swapping.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = fs::rename(&place, &aside);
                let _ = symlink(&outside, &place);
                let _ = fs::remove_file(&place);
                let _ = fs::rename(&aside, &place);
            }
        })
    };
    for _ in 0..20 {
        let mut world = World { own: vec![containers::spec::Namespace::Mount], ..World::default() };
        world.mounts.push(Mount::memory(None, 0o755, Place::below(folder.clone(), "race/in/x")));
        let _ = bench.run(world, "exit 0");
    }
    swapping.store(false, std::sync::atomic::Ordering::Relaxed);
    swapper.join().unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

/// The attack on what set a container up: its program, found through /proc, is opened and written to as soon as it does not run.
#[test]
fn the_program_of_the_supervisor_cannot_be_overwritten() {
    let Some(bench) = Bench::new("overwriting") else { return };
    let launcher = fs::read(env!("CARGO_BIN_EXE_meseta-executor")).unwrap();
    let script = r#"
        readlink /proc/1/exe
        exec 7< /proc/1/exe
        for way in /proc/1/exe /proc/self/fd/7; do
            if (echo x > $way) 2> /dev/null; then echo "written by $way"; fi
            if (echo x >> $way) 2> /dev/null; then echo "appended by $way"; fi
        done
        cmp -s /proc/self/fd/7 /proc/self/exe; echo $?"#;
    let text = bench.says(bench.world(), script);
    assert_eq!(text, "/memfd:meseta-executor (deleted)\n1\n");
    assert_eq!(fs::read(env!("CARGO_BIN_EXE_meseta-executor")).unwrap(), launcher);
}

/// Of each version that there is here: its own groups are shown, and are not its to change.
#[test]
fn control_groups_are_shown_and_not_changed() {
    for place in Hierarchy::all("shown") {
        let Some(mut bench) = Bench::new("shown") else { return };
        let wanted = Groups { hierarchy: place.hierarchy.into(), root: place.root.clone(), patience: PATIENCE };
        bench.groups = Some(Cgroups::open(&wanted).unwrap());
        let script = r#"
            cd /sys/fs/cgroup
            group=$(if [ -d freezer ]; then echo freezer; else echo .; fi)
            cat $group/cgroup.procs $group/leaf/cgroup.procs 2> /dev/null | grep -c .
            for path in $(find . -name cgroup.procs -o -name 'freezer.state' -o -name 'cgroup.freeze' -o -name 'memory.max' -o -name 'memory.limit_in_bytes'); do
                if (echo 1 > $path) 2> /dev/null; then echo "$path was written"; fi
            done
            if mkdir $group/mine 2> /dev/null; then echo made; fi
            find . -name release_agent
            mount -o remount,rw,bind $group 2> /dev/null
            ls -d ../../../sys/fs/cgroup/../cgroup/*/meseta-* 2> /dev/null; grep -c cgroup /proc/self/mountinfo"#;
        // Who may not mount; root may, and is bound by capabilities or a profile of system calls.
        let world = World { effective: Some(0), bounding: Some(0), ..bench.world() };
        let text = bench.says(world, script);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() == 2 && lines[0].parse::<u32>().is_ok_and(|count| count > 0), "{text}");
        assert!(lines[1].parse::<u32>().is_ok_and(|count| count > 0), "{text}");
    }
}

/// CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID, SYS_CHROOT and MKNOD.
const USUAL: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 18 | 1 << 27;

/// Ways out that are known by name, tried by root with the capabilities that root in containers usually has.
#[test]
fn known_ways_out_lead_nowhere() {
    if !nix::unistd::geteuid().is_root() || !Path::new("/usr/bin/python3").exists() {
        let _ = writeln!(std::io::stderr(), "NOT TESTED (ways out): this is not root, or there is no python3");
        return;
    }
    for place in Hierarchy::all("ways") {
        let Some(mut bench) = Bench::new("ways") else { return };
        let wanted = Groups { hierarchy: place.hierarchy.into(), root: place.root.clone(), patience: PATIENCE };
        bench.groups = Some(Cgroups::open(&wanted).unwrap());
        let mut neighbour = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let script = r#"
            export PATH=/usr/bin:/usr/sbin:/bin; exec 2> /dev/null
            # release_agent: a program that the kernel runs outside when a group becomes empty
            mkdir m; for tree in freezer memory rdma pids; do mount -t cgroup -o $tree cgroup m && echo "out: mounted $tree"; done
            mount -t cgroup2 cgroup2 m && echo "out: mounted cgroup2"
            for file in /sys/fs/cgroup/release_agent /sys/fs/cgroup/*/release_agent; do [ -e $file ] && echo "out: $file"; done
            # neighbours, by their numbers on the machine
            for pid in NEIGHBOUR AGENT; do
                kill -0 $pid && echo "out: signals $pid"
                [ -d /proc/$pid ] && echo "out: sees $pid"
                nsenter -t $pid -m true && echo "out: enters $pid"
            done
            # the first process and the kernel's own, by ptrace and by memory
            python3 -c 'import ctypes; c = ctypes.CDLL(None); print("out: traces" if c.ptrace(16, 1, 0, 0) == 0 else "held")'
            # devices
            mknod disk b 254 0 && head -c 1 disk && echo "out: disk"
            mknod kmsg c 1 11 && head -c 1 kmsg && echo "out: kmsg"
            mknod mem c 1 1 && head -c 1 mem && echo "out: mem"
            # namespaces, with all capabilities within them
            unshare -Ur sh -c 'mount -t tmpfs x m && echo "out: mounts"; mount -t cgroup -o memory cgroup m && echo "out: cgroup"; head -c 1 disk && echo "out: disk"'
            unshare -m true && echo "out: mounts of its own"
            # handles of files by number, modules, clock, name, and programs of the kernel
            python3 -c 'import ctypes; c = ctypes.CDLL(None); h = (ctypes.c_uint * 34)(8, 1, 2); print("out: handles" if c.open_by_handle_at(3, h, 0) >= 0 else "held")' 3< /
            for file in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /sys/kernel/uevent_helper /proc/sysrq-trigger; do
                true >> $file && echo "out: opens $file"
            done
            python3 -c 'import ctypes; c = ctypes.CDLL(None); print("out: sets the name" if c.sethostname(b"x", 1) == 0 else "held")'
            # a root within a root
            python3 -c 'import os; os.chroot("m"); [os.chdir("..") for _ in range(64)]; os.chroot("."); print("out: chroot" if os.path.exists("/home") else "held")'"#;
        let script = script.replace("NEIGHBOUR", &neighbour.id().to_string());
        let script = script.replace("AGENT", &std::process::id().to_string());
        let world = World { effective: Some(USUAL), bounding: Some(USUAL), ..bench.world() };
        let found = bench.run(world, &script);
        neighbour.kill().unwrap();
        neighbour.wait().unwrap();
        let (_, found) = found.unwrap();
        // Within a user namespace it may mount memory, in mounts that are gone with it: that leads nowhere.
        let out: Vec<&str> = found.lines().filter(|line| line.starts_with("out") && *line != "out: mounts").collect();
        assert!(out.is_empty(), "{}: {found}", place.hierarchy);
        assert_eq!(found.matches("held\n").count(), 4, "{found}");
    }
}
