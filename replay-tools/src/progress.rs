//! How far a long walk through a log has come: a bar on stderr, if that is a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Whoever is done sooner needs no bar.
const FIRST_AFTER: Duration = Duration::from_millis(400);
const REDRAW_EVERY: Duration = Duration::from_millis(100);
const BAR_CELLS: u64 = 30;

/// A bar under way; it goes away when dropped.
pub(crate) struct Progress {
    what: &'static str,
    end: u64,
    /// When it is drawn next; never, if nobody watches.
    next_draw: Option<Instant>,
    drawn: bool,
}

impl Progress {
    /// For a walk that ends at the index `end`.
    pub(crate) fn new(what: &'static str, end: u64) -> Progress {
        let next_draw = io::stderr().is_terminal().then(|| Instant::now() + FIRST_AFTER);
        Progress { what, end, next_draw, drawn: false }
    }

    /// As `new`, for a walk that writes as it goes: on one terminal a bar would stand between the lines.
    pub(crate) fn beside_output(what: &'static str, end: u64) -> Progress {
        let next_draw = None;
        if io::stdout().is_terminal() { Progress { what, end, next_draw, drawn: false } } else { Self::new(what, end) }
    }

    /// The walk is at `index`.
    pub(crate) fn reached(&mut self, index: u64) {
        let Some(next_draw) = self.next_draw else { return };
        // Asking for the time costs more than most events.
        if !index.is_multiple_of(64) {
            return;
        }
        let now = Instant::now();
        if now >= next_draw {
            self.next_draw = Some(now + REDRAW_EVERY);
            self.drawn = true;
            // A bar that cannot be drawn is no reason to stop.
            let _ = write!(io::stderr(), "\r{}\x1b[K", bar(self.what, index, self.end));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn bar(what: &str, index: u64, end: u64) -> String {
    if end == 0 || end == u64::MAX {
        return format!("{what}: index {index}");
    }
    let part = |of: u64| (u128::from(index.min(end)) * u128::from(of) / u128::from(end)) as u64;
    let cells: String = (0..BAR_CELLS).map(|cell| if cell < part(BAR_CELLS) { '#' } else { '.' }).collect();
    format!("{what} [{cells}] {:>3}% index {index} of {end}", part(100))
}

#[cfg(test)]
mod tests {
    use super::bar;

    #[test]
    fn a_bar_shows_the_part_that_is_done() {
        assert_eq!(bar("folding", 50, 200), "folding [#######.......................]  25% index 50 of 200");
        assert_eq!(bar("folding", 200, 200), "folding [##############################] 100% index 200 of 200");
        assert_eq!(bar("folding", 7, u64::MAX), "folding: index 7");
        assert!(bar("folding", 1, u64::MAX - 1).contains("  0%"));
    }
}
