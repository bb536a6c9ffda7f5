//! `meseta-sim`: runs seeds, one seed or scenario again, or looks whether planted defects are found. Started by
//! `make sim` and `make teeth`; everything is said in the environment: SEED, SEEDS, FIRST, JOBS, BUG, SCENARIO, TRACE,
//! SHRINK, TEETH, TWICE, PROVIDERS.

// Set by whoever builds for a run: with it the order of `select!` follows from the seed.
#![allow(unexpected_cfgs)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sim::cluster::{self, Verdict};
use sim::scenario::Scenario;
use sim::shrink::shrink;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn number(name: &str) -> Result<Option<u64>, String> {
    text(name).map(|text| text.parse().map_err(|_| format!("{name} is not a number: {text}"))).transpose()
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(sentence) => {
            eprintln!("meseta-sim: {sentence}");
            ExitCode::from(2)
        }
    }
}

/// True if nothing was violated.
fn run() -> Result<bool, String> {
    if !cfg!(all(feature = "run", tokio_unstable)) {
        return Err("this build has no virtual time: use `make sim`".into());
    }
    if let Some(filter) = text("MESETA_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).without_time().init();
    }
    let print = text("TRACE").is_some();
    cluster::watch_panics(print);
    let (first, count) = (number("FIRST")?.unwrap_or(0), number("SEEDS")?.unwrap_or(100));
    let jobs = number("JOBS")?.unwrap_or(2);
    if text("TWICE").is_some() {
        return twice(first, count);
    }
    if text("TEETH").is_some() {
        return teeth(first, count, jobs);
    }
    if let Some(name) = text("BUG") {
        plant(Some(&name))?;
    }
    let one = match (text("SCENARIO"), number("SEED")?) {
        (Some(path), _) => {
            let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
            Some(text.parse()?)
        }
        (None, Some(seed)) => Some(Scenario::generate(seed)),
        (None, None) => None,
    };
    if let Some(scenario) = one {
        return Ok(again(&scenario, print));
    }
    let kept = match text("BUG") {
        None => kept()?,
        Some(_) => true,
    };
    let batch = Batch::run(first, count, jobs, text("BUG").is_some());
    batch.report();
    Ok(kept && batch.failed().is_empty())
}

#[cfg(feature = "run")]
fn plant(name: Option<&str>) -> Result<(), String> {
    let bug = name.map(|name| {
        let known = event_log::BUGS.iter().find(|(_, known, _)| *known == name);
        known.map(|(bug, ..)| *bug).ok_or(format!("no planted defect is called '{name}'"))
    });
    event_log::plant(bug.transpose()?);
    Ok(())
}

#[cfg(not(feature = "run"))]
fn plant(_: Option<&str>) -> Result<(), String> {
    Ok(())
}

/// One run, told in full; shrunk if that is asked for.
fn again(scenario: &Scenario, print: bool) -> bool {
    if text("SHRINK").is_some() {
        match shrink(scenario) {
            Some((smaller, what)) => print!("# {what}\n{smaller}"),
            None => println!("nothing is violated"),
        }
        return true;
    }
    let began = Instant::now();
    let verdict = cluster::run(scenario, print);
    let Verdict { trace_hash, trace_lines, virtual_ms, records, tasks, answers, .. } = &verdict;
    println!(
        "seed {}: {virtual_ms} ms of virtual time in {:.2} s, {records} records, {tasks} tasks, {answers} answers, trace {trace_hash:016x} of {trace_lines} lines",
        scenario.seed,
        began.elapsed().as_secs_f64(),
    );
    match &verdict.violation {
        Some((invariant, what)) => println!("violated: {invariant}: {what}"),
        None => println!("nothing is violated"),
    }
    verdict.violation.is_none()
}

/// Where kept scenarios are, from the root of the project: not where it was compiled, compiled things are shared by clones.
const SCENARIOS: &str = "proptests/sim/scenarios";

/// The scenarios that are kept because they failed once. True if none does now.
fn kept() -> Result<bool, String> {
    let dir = SCENARIOS;
    let entries = std::fs::read_dir(dir).map_err(|error| format!("{dir}: {error}"))?;
    let mut paths: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    paths.sort();
    let mut all_hold = true;
    for path in &paths {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        if let Some((invariant, what)) = cluster::run(&text.parse()?, false).violation {
            println!("{}: {invariant}: {what}\n  again: make sim SCENARIO={0}", path.display());
            all_hold = false;
        }
    }
    println!("{} kept scenarios", paths.len());
    Ok(all_hold)
}

/// Every seed in two processes: their traces must be the same to the last line.
fn twice(first: u64, count: u64) -> Result<bool, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let run = |seed: u64| {
        let mut command = std::process::Command::new(&program);
        let output = command.env_remove("TWICE").env("SEED", seed.to_string()).output();
        let output = output.map_err(|error| error.to_string())?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        told.lines().find_map(|line| Some(line.split_once(", trace ")?.1.to_owned())).ok_or(told)
    };
    for seed in first..first + count {
        let (one, other) = (run(seed)?, run(seed)?);
        if one != other {
            println!("seed {seed}: one trace is {one}, the other {other}");
            return Ok(false);
        }
    }
    println!("{count} seeds have the same trace in two processes");
    Ok(true)
}

/// How long one seed may take in real time: hundreds of times what it needs.
const STANDSTILL: Duration = Duration::from_secs(60);

/// Seeds that run now, and since when. Code that goes round in circles never gives its thread back: all that is left is
/// to say which seed it was, and to end.
#[derive(Default)]
struct Running(Mutex<BTreeMap<u64, Instant>>);

impl Running {
    fn begin(&self, seed: u64) {
        self.seeds().insert(seed, Instant::now());
    }

    fn end(&self, seed: u64) {
        self.seeds().remove(&seed);
    }

    fn seeds(&self) -> MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until this value is dropped.
    fn watch(self: &Arc<Self>) {
        let running = Arc::downgrade(self);
        std::thread::spawn(move || {
            while let Some(running) = running.upgrade() {
                let stuck =
                    running.seeds().iter().find(|(_, began)| began.elapsed() > STANDSTILL).map(|(seed, _)| *seed);
                if let Some(seed) = stuck {
                    let limit = STANDSTILL.as_secs();
                    println!("{}", told(seed, "standstill", &format!("no end after {limit} s of real time")));
                    std::process::exit(1);
                }
                drop(running);
                std::thread::sleep(Duration::from_secs(1));
            }
        });
    }
}

/// A violation as it is told, and as `found_by` reads it.
fn told(seed: u64, invariant: &str, what: &str) -> String {
    format!("seed {seed}: {invariant}: {what}\n  again: make sim SEED={seed}")
}

/// Many seeds.
struct Batch {
    verdicts: BTreeMap<u64, Verdict>,
    real_s: f64,
}

impl Batch {
    /// Stops at the first violation if `stop`.
    fn run(first: u64, count: u64, jobs: u64, stop: bool) -> Batch {
        let began = Instant::now();
        let next = AtomicU64::new(first);
        let stopped = AtomicBool::new(false);
        let verdicts: Mutex<BTreeMap<u64, Verdict>> = Mutex::default();
        let running = Arc::new(Running::default());
        running.watch();
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= first + count || stopped.load(Ordering::Relaxed) {
                            return;
                        }
                        running.begin(seed);
                        let verdict = cluster::run(&Scenario::generate(seed), false);
                        running.end(seed);
                        if stop && verdict.violation.is_some() {
                            stopped.store(true, Ordering::Relaxed);
                        }
                        verdicts.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(seed, verdict);
                    }
                });
            }
        });
        let verdicts = verdicts.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        Batch { verdicts, real_s: began.elapsed().as_secs_f64() }
    }

    fn failed(&self) -> Vec<(u64, &(String, String))> {
        let failed = self.verdicts.iter().filter_map(|(seed, verdict)| Some((*seed, verdict.violation.as_ref()?)));
        failed.collect()
    }

    fn report(&self) {
        let failed = self.failed();
        for (seed, (invariant, what)) in &failed {
            println!("{}", told(*seed, invariant, what));
        }
        let sum = |of: fn(&Verdict) -> u64| self.verdicts.values().map(of).sum::<u64>();
        let virtual_s = sum(|verdict| verdict.virtual_ms) as f64 / 1000.0;
        println!(
            "{} seeds, {} failed, {:.1} s; {virtual_s:.0} s of virtual time: sim_speed {:.0}; {} records, {} tasks, {} answers",
            self.verdicts.len(),
            failed.len(),
            self.real_s,
            virtual_s / self.real_s,
            sum(|verdict| verdict.records),
            sum(|verdict| verdict.tasks),
            sum(|verdict| verdict.answers),
        );
        println!("reached by no seed: {}", self.unreached().join(", "));
    }

    /// Kinds of events and refusals that no seed came across: nothing is proved about them.
    fn unreached(&self) -> Vec<&'static str> {
        let events = master_core::Event::KINDS.iter().map(|(.., name)| *name);
        let all = events.chain(master_core::refusal::NAMES.iter().copied());
        all.filter(|name| !self.verdicts.values().any(|verdict| verdict.reached.contains_key(*name))).collect()
    }
}

/// Every planted defect, one at a time and each in a process of its own, until a seed finds it; prints the table.
#[cfg(feature = "run")]
fn teeth(first: u64, count: u64, jobs: u64) -> Result<bool, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    println!("| defect | what it does | seeds until found | invariant |\n|---|---|---|---|");
    let (mut found, mut all) = (0, 0);
    for (_, name, what) in event_log::BUGS {
        let mut command = std::process::Command::new(&program);
        command.env_remove("TEETH").env("BUG", name);
        command.env("FIRST", first.to_string()).env("SEEDS", count.to_string()).env("JOBS", jobs.to_string());
        let output = command.output().map_err(|error| error.to_string())?;
        all += 1;
        match found_by(&String::from_utf8_lossy(&output.stdout)) {
            Some((seed, invariant)) => {
                found += 1;
                println!("| `{name}` | {what} | {} | {invariant} |", seed - first + 1);
            }
            None => println!("| `{name}` | {what} | not within {count} | |"),
        }
    }
    println!("\n{found} of {all} defects were found within {count} seeds each.");
    Ok(found + 1 >= all)
}

/// The first violation in what a run printed.
#[cfg(feature = "run")]
fn found_by(text: &str) -> Option<(u64, String)> {
    text.lines().find_map(|line| {
        let (seed, rest) = line.strip_prefix("seed ")?.split_once(": ")?;
        Some((seed.parse().ok()?, rest.split_once(": ")?.0.to_owned()))
    })
}

#[cfg(not(feature = "run"))]
fn teeth(_: u64, _: u64, _: u64) -> Result<bool, String> {
    Ok(false)
}
