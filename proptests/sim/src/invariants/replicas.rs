//! Replicas are equal at every index: the same record, let in or skipped alike, and the same State after it. A life
//! applies indexes in order.

use std::collections::BTreeMap;

use event_log::raft::Committed;
use master_core::State;

use super::{Truth, Who};

/// States are compared whole at every so many'th index; records at every one.
const COMPARE_EVERY: u64 = 4;

/// Where everybody is.
#[derive(Default)]
pub struct Replicas {
    last: BTreeMap<(String, u64), u64>,
}

/// Of an entry's term and its record.
pub fn hash(entry: &Committed) -> u64 {
    let mut hash = entry.term ^ 0xcbf2_9ce4_8422_2325;
    for byte in entry.record.encode() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

impl Replicas {
    /// True if nobody had applied this index before.
    pub fn applied(
        &mut self,
        truth: &[Truth],
        (name, life): Who<'_>,
        index: u64,
        hash: u64,
        takes_effect: bool,
        state: &State,
    ) -> Result<bool, String> {
        let last = self.last.entry((name.to_owned(), life)).or_default();
        if index <= *last {
            return Err(format!("{name} applied index {index} after {last}"));
        }
        *last = index;
        let newest = truth.last().map_or(0, |truth| truth.index);
        if index > newest {
            return Ok(true);
        }
        let place = truth.partition_point(|truth| truth.index < index);
        let Some(known) = truth.get(place).filter(|truth| truth.index == index) else {
            return Err(format!("{name} applied a record at index {index}, where others have none"));
        };
        if known.hash != hash {
            return Err(format!("{name} applied another record at index {index} than others"));
        }
        if known.takes_effect != takes_effect {
            return Err(format!("the record at index {index} takes effect on some masters and not on {name}"));
        }
        if index.is_multiple_of(COMPARE_EVERY) && known.state != *state {
            return Err(format!("{name} has another state than others at index {index}"));
        }
        Ok(false)
    }

    /// A snapshot stands for everything up to its index.
    pub fn restored(
        &mut self,
        truth: &[Truth],
        (name, life): Who<'_>,
        index: u64,
        state: &State,
    ) -> Result<(), String> {
        let last = self.last.entry((name.to_owned(), life)).or_default();
        *last = index;
        let place = truth.partition_point(|truth| truth.index <= index);
        let Some(known) = place.checked_sub(1).and_then(|place| truth.get(place)) else { return Ok(()) };
        // A derived part may be rebuilt, but it is compared, too.
        if known.state != *state {
            return Err(format!("{name} restored a snapshot at index {index} that is not the state there"));
        }
        Ok(())
    }
}
