//! Counters of the kernel: how often something happens in a control group, on one processor each.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};

use nix::libc;

/// As perf_event_open(2) takes it, in its first size.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    period: u64,
    sample: u64,
    read: u64,
    flags: u64,
    wakeup: u32,
    breakpoint_kind: u32,
    breakpoint: u64,
}

/// With how long it was wanted and how long it ran.
const READ_TIMES: u64 = 0b11;
const OF_GROUP: libc::c_ulong = 1 << 2;
const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;

/// What is counted, as the kernel numbers it: a kind, and what of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// 0 is hardware, 1 the kernel itself, 3 caches.
    pub kind: u32,
    /// What of it.
    pub config: u64,
}

/// Counts until it is dropped.
#[derive(Debug)]
pub struct Counter(File);

fn open(event: Event, of: i32, processor: i32, flags: libc::c_ulong) -> io::Result<Counter> {
    let attributes = Attributes {
        kind: event.kind,
        size: size_of::<Attributes>() as u32,
        config: event.config,
        read: READ_TIMES,
        ..Attributes::default()
    };
    // SAFETY: the attributes say their size and live for as long as the call; the rest are integers.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            std::ptr::from_ref(&attributes),
            of,
            processor,
            -1,
            flags | CLOSE_ON_EXEC,
        )
    };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the descriptor was just made for us, nobody else owns it.
    Ok(Counter(unsafe { File::from_raw_fd(descriptor) }))
}

impl Counter {
    /// Of a group, a folder that is open, and all that is below it.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn of_group(event: Event, group: &impl AsFd, processor: u32) -> io::Result<Counter> {
        let processor = i32::try_from(processor).map_err(io::Error::other)?;
        open(event, group.as_fd().as_raw_fd(), processor, OF_GROUP)
    }

    /// How much was counted; what was not counted all the time is taken to be as often in the rest of it. None if it never was.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn read(&mut self) -> io::Result<Option<u64>> {
        let mut bytes = [0; 24];
        self.0.read_exact(&mut bytes)?;
        let number = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
        let [count, wanted, ran] = [number(0), number(8), number(16)];
        Ok(match (wanted, ran) {
            // Nobody was there to be counted.
            (0, _) => Some(0),
            (_, 0) => None,
            (wanted, ran) if wanted == ran => Some(count),
            (wanted, ran) => {
                let scaled = u128::from(count) * u128::from(wanted) / u128::from(ran);
                Some(u64::try_from(scaled).unwrap_or(u64::MAX))
            }
        })
    }
}
