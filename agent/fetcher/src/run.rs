//! The program: one item after the other, each step in a process of its own.

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Entry};
use crate::job::{Item, Job};
use crate::say;
use crate::step::{Outcome, Step, What};

/// What standard input asks for.
#[derive(Serialize, Deserialize)]
enum Order {
    Fetch(Box<Job>),
    Do(Box<Step>),
}

impl Job {
    /// As it is handed to the program, on its standard input.
    pub fn encode(&self) -> String {
        serde_json::to_string(&Order::Fetch(Box::new(self.clone()))).unwrap_or_default()
    }
}

/// Attempts to use what another fetch keeps, while others make room.
const ATTEMPTS_MAX: usize = 3;

/// Does what standard input asks for; returns the exit code of this process. What is to be known of it is on standard
/// error.
pub fn run() -> i32 {
    // Nothing is fetched for a container whose supervisor is no more.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    let mut bytes = Vec::new();
    let order = io::stdin().read_to_end(&mut bytes).ok().and_then(|_| serde_json::from_slice(&bytes).ok());
    match order {
        None => {
            eprintln!("meseta-fetcher is started by meseta-agent, which says on standard input what is to be fetched");
            1
        }
        Some(Order::Do(step)) => {
            let outcome = serde_json::to_vec(&step.run()).unwrap_or_default();
            i32::from(io::stdout().write_all(&outcome).is_err())
        }
        Some(Order::Fetch(job)) => match job.items.iter().try_for_each(|item| fetch(&job, item)) {
            Ok(()) => {
                say('I', &format!("Successfully fetched all URIs into '{}'", job.sandbox.display()));
                0
            }
            Err(why) => {
                say('E', &format!("EXIT with status 1: {why}"));
                1
            }
        },
    }
}

fn fetch(job: &Job, item: &Item) -> Result<(), String> {
    let uri = &item.uri;
    say('I', &format!("Fetching URI '{uri}'"));
    into_sandbox(job, item).map_err(|why| format!("Failed to fetch '{uri}': {why}"))?;
    say('I', &format!("Fetched '{uri}' to '{}'", job.sandbox.join(&item.output_file).display()));
    Ok(())
}

fn into_sandbox(job: &Job, item: &Item) -> Result<(), String> {
    let uri = &item.uri;
    // Whoever has these numbers later must not find what somebody else kept.
    if item.cache && job.cache_bytes_max > 0 && job.ids.is_none() {
        match kept(job, item) {
            Ok(entry) => {
                say('I', &format!("Fetching URI '{uri}' from cache"));
                match step(job, item, What::Place { from: entry.whole.clone() })? {
                    Outcome::Differs(found) => {
                        say('W', &format!("What is kept of '{uri}' has the checksum {found}: it is kept no longer"));
                        entry.forget();
                    }
                    outcome => return done(outcome),
                }
            }
            Err(why) => say('W', &format!("Fetching '{uri}' without the cache: {why}")),
        }
    }
    say('I', &format!("Fetching '{uri}' directly into the sandbox directory"));
    done(step(job, item, What::Fetch)?)
}

fn done(outcome: Outcome) -> Result<(), String> {
    match outcome {
        Outcome::Done | Outcome::Size(_) => Ok(()),
        Outcome::Differs(found) => Err(format!("it has the checksum {found}, which is not the one that it must have")),
        Outcome::Failed(why) => Err(why),
    }
}

/// The entry of the cache, whole. If nobody has fetched it yet, it is fetched.
fn kept(job: &Job, item: &Item) -> Result<Entry, String> {
    let broken = |error: io::Error| format!("the cache cannot be used: {error}");
    let cache = Cache::open(&job.cache_dir, &job.user, job.cache_bytes_max).map_err(broken)?;
    for _ in 0..ATTEMPTS_MAX {
        if let Some(entry) = cache.find(&item.uri).map_err(broken)? {
            return Ok(entry);
        }
        let mut entry = cache.take(&item.uri).map_err(broken)?;
        if !entry.is_whole() {
            let Outcome::Size(bytes_max) = checked(step(job, item, What::Size)?)? else {
                return Err("its size is not known".to_owned());
            };
            cache.make_room(&mut entry, bytes_max)?;
            say('I', &format!("Downloading resource from '{}' to '{}'", item.uri, entry.whole.display()));
            let (part, whole) = (entry.part.clone(), entry.whole.clone());
            let outcome = step(job, item, What::Keep { part, whole, bytes_max }).and_then(checked);
            if let Err(why) = outcome {
                entry.forget();
                return Err(why);
            }
        }
        if entry.share().map_err(broken)? {
            return Ok(entry);
        }
    }
    Err("it was removed from the cache each time before it could be used".to_owned())
}

fn checked(outcome: Outcome) -> Result<Outcome, String> {
    match outcome {
        Outcome::Failed(why) => Err(why),
        outcome => Ok(outcome),
    }
}

/// Does a step in a process of its own, which becomes the task's user.
fn step(job: &Job, item: &Item, what: What) -> Result<Outcome, String> {
    let broken = |error: io::Error| format!("cannot start the fetcher: {error}");
    let order = Order::Do(Box::new(Step::of(job, item, what)));
    let order = serde_json::to_vec(&order).map_err(|error| error.to_string())?;
    let authorities =
        ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().filter_map(|name| job.environment.get_key_value(name));
    let mut child = Command::new("/proc/self/exe")
        .envs(authorities)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(broken)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&order).map_err(broken)?;
    }
    let output = child.wait_with_output().map_err(broken)?;
    serde_json::from_slice(&output.stdout).map_err(|_| format!("the fetcher ended with {}", output.status))
}
