//! The bytes of one file, from where they are to a place on this machine.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use agent_web::{Answer, Trust};
use nix::libc::O_NONBLOCK;

use crate::source::Source;
use crate::step::Step;
use crate::{hadoop, say};

/// Between two lines on a fetch that takes long.
const PROGRESS: Duration = Duration::from_secs(10);

/// How many bytes it has, as far as that can be said beforehand.
pub(crate) fn size(step: &Step, source: &Source) -> Result<u64, String> {
    match source {
        Source::File(path) => open(path)?.metadata().map(|found| found.len()).map_err(|error| error.to_string()),
        Source::Web(address) => wait(head(address, step.patience())),
        Source::Client(_) => Err("a Hadoop client does not say how large it is".to_owned()),
    }
}

/// Fetches into a new file, of at most so many bytes. It is whole, or gone again.
pub(crate) fn fetch(step: &Step, source: &Source, to: &Path, bytes_max: Option<u64>) -> Result<(), String> {
    let done = fetch_into(step, source, to, bytes_max);
    if done.is_err() {
        let _ = fs::remove_file(to);
    }
    done
}

fn fetch_into(step: &Step, source: &Source, to: &Path, bytes_max: Option<u64>) -> Result<(), String> {
    // What is there may be a link, or a link to what others need.
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(format!("cannot write '{}': {error}", to.display()));
        }
        _ => {}
    }
    let create = || {
        let file = File::options().write(true).create_new(true).mode(0o644).open(to);
        file.map_err(|error| format!("cannot write '{}': {error}", to.display()))
    };
    let write = |error: io::Error| format!("cannot write '{}': {error}", to.display());
    match source {
        Source::File(path) => {
            let from = open(path)?;
            let mode = from.metadata().map_err(|error| error.to_string())?.permissions().mode() & 0o777;
            let mut into = create()?;
            let limit = bytes_max.unwrap_or(u64::MAX);
            let copied = io::copy(&mut from.take(limit.saturating_add(1)), &mut into).map_err(write)?;
            if copied > limit {
                return Err("it has grown meanwhile".to_owned());
            }
            into.set_permissions(fs::Permissions::from_mode(mode)).map_err(write)?;
            sync(step, &into).map_err(write)
        }
        Source::Web(address) => {
            let mut into = create()?;
            let limit = bytes_max.unwrap_or(u64::MAX);
            wait(download(address, step.patience(), &mut into, limit))?;
            sync(step, &into).map_err(write)
        }
        Source::Client(uri) => hadoop::fetch(&step.hadoop_home, &step.environment, uri, to, step.patience()),
    }
}

/// What is kept for others must not be half a file after a crash of the machine.
fn sync(step: &Step, file: &File) -> io::Result<()> {
    if step.is_kept() { file.sync_all() } else { Ok(()) }
}

fn open(path: &Path) -> Result<File, String> {
    // A pipe without a writer must not hold this up.
    let file = File::options().read(true).custom_flags(O_NONBLOCK).open(path);
    let file = file.map_err(|error| format!("cannot open '{}': {error}", path.display()))?;
    let is_file = file.metadata().is_ok_and(|found| found.is_file());
    if is_file { Ok(file) } else { Err(format!("'{}' is not a file", path.display())) }
}

fn wait<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(work)
}

fn broken(error: agent_web::Error) -> String {
    format!("Error downloading resource: {error}")
}

fn check(answer: &Answer) -> Result<(), String> {
    match answer.status {
        200 => Ok(()),
        status => Err(format!("Error downloading resource, received HTTP return code {status}")),
    }
}

async fn head(address: &str, patience: Option<Duration>) -> Result<u64, String> {
    let answer = agent_web::head(address, Trust::Machine, patience).await.map_err(broken)?;
    check(&answer)?;
    answer.length.ok_or_else(|| "the server does not say how large it is".to_owned())
}

async fn download(address: &str, patience: Option<Duration>, into: &mut File, bytes_max: u64) -> Result<(), String> {
    let mut answer = agent_web::get(address, Trust::Machine, patience).await.map_err(broken)?;
    check(&answer)?;
    let (mut bytes, mut told) = (0, Instant::now());
    while let Some(piece) = answer.next().await.map_err(broken)? {
        bytes += piece.len() as u64;
        if bytes > bytes_max {
            return Err(format!("more than the {bytes_max} bytes came that were announced"));
        }
        into.write_all(&piece).map_err(|error| format!("cannot write it: {error}"))?;
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            let of = answer.length.map_or(String::new(), |length| format!(" of {length}"));
            say('I', &format!("Downloaded {bytes}{of} bytes of '{address}'"));
        }
    }
    Ok(())
}
