//! Hadoop's client, which gets what is in hdfs, s3 and others.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Between two looks at what a client does.
const LOOK: Duration = Duration::from_millis(50);

/// Lets a client get a file: the one in `home`, or the one in PATH if that is empty. Without any progress for so long it is ended.
///
/// # Errors
/// A sentence.
pub fn fetch(
    home: &str,
    environment: &BTreeMap<String, String>,
    uri: &str,
    to: &Path,
    patience: Option<Duration>,
) -> Result<(), String> {
    let program = hadoop(home, environment).ok_or_else(|| {
        "Failed to create HDFS client: Hadoop client is not available: there is no 'hadoop' in PATH, and --hadoop_home \
         names no folder with bin/hadoop"
            .to_owned()
    })?;
    let output = io::stderr().as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
    let mut child = Command::new(&program)
        .args(["fs", "-copyToLocal", uri])
        .arg(to)
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(output)
        .spawn()
        .map_err(|error| format!("cannot start '{}': {error}", program.display()))?;
    let (mut size, mut since) = (0, Instant::now());
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("'{} fs -copyToLocal' failed: {status}", program.display())),
            Ok(None) => {}
            Err(error) => return Err(stop(child, error.to_string())),
        }
        let partial = to.with_file_name(format!("{}._COPYING_", to.file_name().unwrap_or_default().display()));
        let bytes = |path: &Path| fs::symlink_metadata(path).map_or(0, |found| found.len());
        let found = bytes(to).max(bytes(&partial));
        if found != size {
            (size, since) = (found, Instant::now());
        }
        if patience.is_some_and(|patience| since.elapsed() >= patience) {
            let seconds = since.elapsed().as_secs();
            return Err(stop(child, format!("'{}' made no progress for {seconds} s", program.display())));
        }
        std::thread::sleep(LOOK);
    }
}

fn stop(mut child: Child, why: String) -> String {
    let _ = child.kill();
    let _ = child.wait();
    why
}

fn hadoop(home: &str, environment: &BTreeMap<String, String>) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if !home.is_empty() {
        return Some(Path::new(home).join("bin/hadoop")).filter(is_program);
    }
    let path = environment.get("PATH").cloned().or_else(|| std::env::var("PATH").ok()).unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join("hadoop")).find(is_program)
}
