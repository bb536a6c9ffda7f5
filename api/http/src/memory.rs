//! Memory that was needed for a while is given back: after a flood a daemon is as small as before it.

use std::time::Duration;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// Less is kept for the next time, in bytes.
const KEPT_BYTES: usize = 64 << 20;

/// Starts a thread that gives memory back to the system when much of it lies unused.
///
/// # Errors
/// The operating system's, if it has no thread to give.
pub fn give_back_memory() -> std::io::Result<()> {
    let look = || {
        loop {
            std::thread::sleep(LOOK_EVERY);
            if unused_bytes() > KEPT_BYTES {
                give_back();
            }
        }
    };
    std::thread::Builder::new().name("memory".into()).spawn(look).map(drop)
}

#[cfg(target_env = "gnu")]
fn unused_bytes() -> usize {
    // SAFETY: reads counters of the allocator under its own locks.
    unsafe { nix::libc::mallinfo2() }.fordblks
}

#[cfg(target_env = "gnu")]
fn give_back() {
    // SAFETY: touches nothing but memory that the allocator knows to be free, under its own locks.
    unsafe { nix::libc::malloc_trim(0) };
}

/// Other allocators do it by themselves.
#[cfg(not(target_env = "gnu"))]
fn unused_bytes() -> usize {
    0
}

#[cfg(not(target_env = "gnu"))]
fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_lies_unused_is_given_back() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/statm").unwrap();
            status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        let mut pieces: Vec<Vec<u8>> = (0..4000).map(|_| vec![1; 50_000]).collect();
        // The last one pins what is before it, as something always does.
        let pin = pieces.pop();
        drop(pieces);
        assert!(unused_bytes() > KEPT_BYTES);
        let before = resident();
        give_back();
        assert!(resident() + (100 << 20) < before, "{} of {before}", resident());
        drop(pin);
    }
}
