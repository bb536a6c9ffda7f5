//! What a task brings along: files named by URIs, fetched into its sandbox before its command runs.
//!
//! A program of its own does it ([`run`]), beside the container's supervisor and not in the agent, so that a fetch goes on
//! when the agent is killed. It coordinates, and keeps the cache; each step of a fetch that reads or writes for a task is
//! done by a child process that has become the task's user.

mod cache;
mod checksum;
mod download;
pub mod hadoop;
mod job;
mod run;
mod source;
mod step;
pub mod tape;
pub mod unpack;

pub use cache::kept_bytes;
pub use checksum::Checksum;
pub use job::{Item, Job, items};
pub use run::run;
pub use source::{Source, base_name, source};

/// A line of the fetcher's log, as readers of sandboxes know such lines.
fn say(level: char, text: &str) {
    use std::io::Write as _;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (month, day) = month_and_day(now.as_secs() / 86_400);
    let second = now.as_secs() % 86_400;
    let (hours, minutes, seconds) = (second / 3600, second / 60 % 60, second % 60);
    let micros = now.subsec_micros();
    let own = std::process::id();
    // Whole lines: others write there too. Who cannot be told is not told.
    let line =
        format!("{level}{month:02}{day:02} {hours:02}:{minutes:02}:{seconds:02}.{micros:06} {own} fetcher] {text}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Of a day since 1970: the calendar of years that begin in March, four centuries at a time.
fn month_and_day(day: u64) -> (u64, u64) {
    let day = (day + 719_468) % 146_097;
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    (if month < 10 { month + 3 } else { month - 9 }, day - (153 * month + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    #[test]
    fn days_of_the_calendar() {
        let days = [(0, (1, 1)), (58, (2, 28)), (59, (3, 1)), (11_016, (2, 29)), (11_017, (3, 1)), (20_787, (11, 30))];
        for (day, expected) in days {
            assert_eq!(super::month_and_day(day), expected, "{day}");
        }
    }
}
