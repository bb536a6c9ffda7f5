//! `meseta-fuzz SECONDS [NAME]`: searches every target whose name begins with NAME for so long. What is found is kept in
//! the corpus, and the exit code is 1.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuzz::search::{Found, Until, folder, search};
use fuzz::targets::{Target, targets};

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let seconds = words.next().and_then(|word| word.parse().ok()).unwrap_or(60);
    let wanted = words.next().unwrap_or_default();
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let targets: Vec<Target> = targets().into_iter().filter(|target| target.name.starts_with(&wanted)).collect();
    println!("{} targets, {seconds} s each, seed {seed}", targets.len());
    std::panic::set_hook(Box::new(|_| {}));
    let (next, found) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match search(target, seed, Until::Time(Duration::from_secs(seconds))) {
                        Ok(seen) => println!(
                            "{:<24} {:>10} inputs {:>6} outcomes {:>10} bytes at most",
                            target.name, seen.runs, seen.outcomes, seen.peak_bytes
                        ),
                        Err(bad) => {
                            found.fetch_add(1, Ordering::Relaxed);
                            keep(target, &bad);
                        }
                    }
                }
            });
        }
    });
    if found.into_inner() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn keep(target: &Target, found: &Found) {
    let path = folder(target).join(format!("{:08x}", crc32fast::hash(&found.input)));
    println!("{:<24} FOUND {}\n  {:?}", target.name, found.what, String::from_utf8_lossy(&found.input));
    let kept = std::fs::create_dir_all(folder(target)).and_then(|()| std::fs::write(&path, &found.input));
    println!("  {} {}", if kept.is_ok() { "kept in" } else { "could not be kept in" }, path.display());
}
