//! What of a member's history is kept: pure arithmetic on what is there.
//!
//! History is good for `state at N` from the first entry of all, or from a snapshot on behind which no entry is missing.
//! So the oldest segments go as far as the next snapshot, and the snapshot with which each range begins stays.

use super::archive::{self, Segment};

/// How much history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveBounds {
    /// Of all segments together, in bytes.
    pub bytes_max: u64,
    /// A segment goes when its last record is so much older than the newest record of the log, in milliseconds.
    pub age_ms_max: u64,
}

impl Default for ArchiveBounds {
    fn default() -> ArchiveBounds {
        ArchiveBounds { bytes_max: 10 << 30, age_ms_max: 28 * 24 * 60 * 60 * 1000 }
    }
}

/// Snapshots in the middle of history are so much apart, as a part of all that is kept: each costs space, and lets
/// `state at N` begin closer to N.
const SNAPSHOTS_APART: u64 = 8;
/// The newest are kept in any case: recovery begins at the newest, or at the one before if that is damaged.
const NEWEST_KEPT: usize = 2;

/// What is no longer needed, as positions in the lists that were asked about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Superfluous {
    /// Of the segments: so many of the oldest.
    pub(crate) segments: usize,
    /// Of the snapshots, ascending.
    pub(crate) snapshots: Vec<usize>,
}

/// What to remove of `segments` (with the time of their last record) and of the snapshots taken at `snapshots`, both
/// oldest first. `log_first` is the first entry that is still in the log itself, `now_ms` the time of its newest record.
pub(crate) fn superfluous(
    segments: &[(Segment, u64)],
    snapshots: &[u64],
    log_first: u64,
    now_ms: u64,
    bounds: ArchiveBounds,
) -> Superfluous {
    let mut kept_bytes: u64 = segments.iter().map(|(segment, _)| segment.bytes).sum();
    let mut gone = 0;
    for (segment, last_at_ms) in segments {
        let is_old = now_ms.saturating_sub(*last_at_ms) > bounds.age_ms_max;
        if kept_bytes <= bounds.bytes_max && !is_old {
            break;
        }
        kept_bytes -= segment.bytes;
        gone += 1;
    }
    // From the next snapshot on; what is before it could not be folded.
    let begins_at = |gone: usize| segments.get(gone).map_or(log_first, |(segment, _)| segment.first);
    if begins_at(gone) > 0 {
        let start = snapshots.iter().find(|snapshot| **snapshot + 1 >= begins_at(gone));
        let start = start.map_or(log_first, |snapshot| snapshot + 1);
        gone += segments[gone..].iter().take_while(|(segment, _)| segment.last < start).count();
    }
    let left: Vec<Segment> = segments[gone..].iter().map(|(segment, _)| segment.clone()).collect();
    Superfluous { segments: gone, snapshots: thin(&left, snapshots, (begins_at(gone), log_first), bounds) }
}

/// The snapshots that are not needed beside the segments that are left.
fn thin(left: &[Segment], snapshots: &[u64], (begins_at, log_first): (u64, u64), bounds: ArchiveBounds) -> Vec<usize> {
    let ranges = archive::ranges(left);
    // Where the log goes on behind a hole a range begins, too.
    let starts: Vec<u64> = ranges.iter().map(|range| *range.start()).chain([begins_at, log_first]).collect();
    let bytes_between = |from: u64, to: u64| -> u64 {
        left.iter().filter(|segment| segment.last > from && segment.last <= to).map(|segment| segment.bytes).sum()
    };
    let mut superfluous = Vec::new();
    // The beginning of all history is as good as a snapshot.
    let mut last_kept = Some(begins_at).filter(|first| *first == 0);
    for (at, snapshot) in snapshots.iter().enumerate() {
        let begins_a_range = starts.iter().any(|start| *start > 0 && *snapshot + 1 == *start);
        let is_new = at + NEWEST_KEPT >= snapshots.len();
        let is_apart = || match last_kept {
            Some(kept) => bytes_between(kept, *snapshot) >= bounds.bytes_max / SNAPSHOTS_APART,
            // Before what is kept, it is of no use.
            None => *snapshot + 1 >= begins_at,
        };
        if begins_a_range || is_new || is_apart() {
            last_kept = Some(*snapshot);
        } else {
            superfluous.push(at);
        }
    }
    superfluous
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments of 100 entries and 10 bytes each, made at the time of their last index.
    fn segments(range: std::ops::Range<u64>) -> Vec<(Segment, u64)> {
        let segment = |n: u64| Segment { first: n * 100, last: n * 100 + 99, bytes: 10, path: n.to_string().into() };
        range.map(|n| (segment(n), n * 100 + 99)).collect()
    }

    fn bounds(bytes_max: u64, age_ms_max: u64) -> ArchiveBounds {
        ArchiveBounds { bytes_max, age_ms_max }
    }

    #[test]
    fn everything_is_kept_within_the_bounds_and_snapshots_are_thinned() {
        let snapshots: Vec<u64> = (0..12).map(|n| n * 100 + 99).collect();
        let plan = superfluous(&segments(0..10), &snapshots, 1000, 1200, bounds(160, u64::MAX));
        // Two segments, 20 bytes, lie between those that stay; the newest two stay in any case.
        assert_eq!(plan, Superfluous { segments: 0, snapshots: vec![0, 2, 4, 6, 8] });
    }

    #[test]
    fn the_oldest_go_as_far_as_the_next_snapshot() {
        let plan = superfluous(&segments(0..10), &[399, 599, 999, 1100], 1000, 1100, bounds(80, u64::MAX));
        // Two must go by size; without a snapshot at 199 or 299 the next two are of no use either.
        assert_eq!(plan, Superfluous { segments: 4, snapshots: vec![] });
        let plan = superfluous(&segments(4..10), &[399, 599, 999, 1100], 1000, 1100, bounds(50, u64::MAX));
        assert_eq!(plan, Superfluous { segments: 2, snapshots: vec![0] });
    }

    #[test]
    fn age_is_measured_against_the_newest_record() {
        let snapshots = [399, 599, 999, 1100];
        let plan = superfluous(&segments(0..10), &snapshots, 1000, 1100, bounds(u64::MAX, 1000));
        assert_eq!(plan.segments, 4, "the first is old, and history begins at a snapshot");
        let plan = superfluous(&segments(0..10), &snapshots, 1000, 9999, bounds(u64::MAX, 1000));
        assert_eq!(plan, Superfluous { segments: 10, snapshots: vec![0, 1] }, "the log itself is never touched");
    }

    #[test]
    fn the_snapshot_after_a_hole_stays() {
        let mut with_hole = segments(0..2);
        with_hole.extend(segments(5..8));
        let plan = superfluous(&with_hole, &[499, 650, 799, 900], 800, 900, bounds(1000, u64::MAX));
        assert_eq!(plan, Superfluous { segments: 0, snapshots: vec![1] });
        // Behind the hole nothing has left the log yet.
        let plan = superfluous(&segments(0..2), &[150, 499, 600, 700], 500, 900, bounds(1000, u64::MAX));
        assert_eq!(plan, Superfluous { segments: 0, snapshots: vec![0] });
    }
}
