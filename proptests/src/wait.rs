//! Waiting for conditions. Tests never sleep for a time and hope.

use std::time::{Duration, Instant};

/// Asks `condition` every 20 ms until it gives a value.
///
/// # Panics
/// With `what`, when `limit` has passed.
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < limit, "waited {} s in vain: {what}", limit.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}
