//! Files of sandboxes, while those who own them do their worst.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use api_http::{FileTable, FilesError};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// How often each name is asked for while it is exchanged. Looking first and opening later loses within some dozens.
const READS: usize = 4000;

/// Exchanges a file for a link to a secret, and a folder for a link to the folder of the secret, until told to stop.
fn exchange(sandbox: &Path, stop: &AtomicBool) {
    let pairs = [(sandbox.join("file"), sandbox.join("link")), (sandbox.join("dir"), sandbox.join("dirlink"))];
    while !stop.load(Ordering::Relaxed) {
        for (one, other) in &pairs {
            renameat2(AT_FDCWD, one.as_path(), AT_FDCWD, other.as_path(), RenameFlags::RENAME_EXCHANGE).unwrap();
        }
    }
}

#[test]
fn nothing_from_outside_is_served_while_names_are_exchanged() {
    let root = tempfile::tempdir().unwrap();
    let (outside, sandbox) = (root.path().join("outside"), root.path().join("sandbox"));
    fs::create_dir(&outside).unwrap();
    fs::create_dir_all(sandbox.join("dir")).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    fs::write(sandbox.join("file"), "own").unwrap();
    fs::write(sandbox.join("dir/secret"), "own").unwrap();
    symlink("../outside/secret", sandbox.join("link")).unwrap();
    symlink("../outside", sandbox.join("dirlink")).unwrap();
    fs::write(outside.join("only-outside"), "").unwrap();
    let table = FileTable::default();
    table.attach("/s", sandbox.as_path());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| exchange(&sandbox, &stop));
        let mut own = 0;
        for _ in 0..READS {
            for path in ["/s/file", "/s/link", "/s/dir/secret", "/s/dirlink/secret"] {
                match table.read(path, 0, None) {
                    Ok((data, _)) => {
                        assert_eq!(String::from_utf8_lossy(&data), "own", "{path}");
                        own += 1;
                    }
                    Err(FilesError::NotFound) => {}
                    Err(FilesError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => panic!("{path}: {error:?}"),
                }
            }
            for path in ["/s/dir", "/s/dirlink"] {
                let entries = table.list(path).unwrap_or_default();
                assert!(entries.iter().all(|entry| !entry.path.ends_with("only-outside")), "{entries:?}");
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(own > 0, "what is inside is served now and then");
    });
}

#[test]
fn a_listing_tells_of_links_themselves() {
    let dir = tempfile::tempdir().unwrap();
    symlink("/etc/passwd", dir.path().join("link")).unwrap();
    symlink("nowhere", dir.path().join("broken")).unwrap();
    let table = FileTable::default();
    table.attach("/s", dir.path());
    let entries = table.list("/s").unwrap();
    let size_and_kind: Vec<_> =
        entries.iter().map(|entry| (entry.path.as_str(), entry.size, entry.mode >> 12)).collect();
    assert_eq!(size_and_kind, [("/s/broken", 7, 0o12), ("/s/link", 11, 0o12)]);
}

#[test]
fn what_is_no_regular_file_is_neither_opened_nor_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    symlink("/dev/zero", dir.path().join("zero")).unwrap();
    let table = FileTable::default();
    table.attach("/s", dir.path());
    // Opened by us for a moment, the pipe would take this writer for one with a reader.
    for name in ["pipe", "socket"] {
        assert!(matches!(table.read(&format!("/s/{name}"), 0, None), Err(FilesError::Invalid(_))), "{name}");
        assert_eq!(table.list(&format!("/s/{name}")).unwrap(), []);
    }
    assert!(matches!(table.read("/s/zero", 0, None), Err(FilesError::NotFound)));
    // A device as such, where making one is allowed.
    let device = dir.path().join("device");
    let zero = nix::sys::stat::makedev(1, 5);
    if nix::sys::stat::mknod(&device, nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::S_IRUSR, zero).is_ok() {
        assert!(matches!(table.read("/s/device", 0, None), Err(FilesError::Invalid(_))));
    }
}

#[test]
fn odd_paths_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "a").unwrap();
    let table = FileTable::default();
    table.attach("/s", dir.path());
    for good in ["/s/a", "s/a", "//s//a/", "/s/./a", "./s/a"] {
        assert_eq!(table.read(good, 0, None).unwrap().0, b"a", "{good}");
    }
    let long = format!("/s/{}", "x".repeat(300));
    let deep = format!("/s/{}", "x/".repeat(4000));
    for missing in ["", "/", "/sa", "/s/a/b", "/s/none", &long, &deep] {
        assert!(matches!(table.read(missing, 0, None), Err(FilesError::NotFound)), "{missing}");
    }
    for invalid in ["/s/../s/a", "/s/..", "..", "/s/a\0", "/s"] {
        assert!(matches!(table.read(invalid, 0, None), Err(FilesError::Invalid(_))), "{invalid:?}");
    }
    assert_eq!(table.read("/s/a", u64::MAX, None).unwrap(), (vec![], 1));
}
