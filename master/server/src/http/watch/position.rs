//! Places among all that operators are told: the index of a record in the log, and which of the events that followed
//! from it. Every master computes the same events in the same order, so a place means the same on all of them.

use api::v1::master::LogPosition;
use std::fmt;
use std::str::FromStr;

/// After one event, or after all events of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Of the record in the log.
    pub index: u64,
    /// The event's number among those of the record, from 0; `ALL` is after the last.
    event: u32,
}

/// Greater than the number of any event.
const ALL: u32 = u32::MAX;

/// A text that names no position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a position is INDEX or INDEX.EVENT, as in 'log_position' of an event")]
pub struct NoPosition;

impl Position {
    /// After event number `event` of the record at `index`.
    pub fn at(index: u64, event: u32) -> Position {
        Position { index, event }
    }

    /// After everything that the record at `index` led to.
    pub fn end_of(index: u64) -> Position {
        Position { index, event: ALL }
    }

    /// Whether more of the same record may follow.
    pub fn is_within(self) -> bool {
        self.event != ALL
    }

    /// As clients see it.
    pub fn to_wire(self) -> LogPosition {
        LogPosition { index: self.index, event: self.is_within().then_some(self.event) }
    }
}

impl From<&LogPosition> for Position {
    fn from(wire: &LogPosition) -> Position {
        Position { index: wire.index, event: wire.event.unwrap_or(ALL) }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.event {
            ALL => write!(formatter, "{}", self.index),
            event => write!(formatter, "{}.{event}", self.index),
        }
    }
}

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Position, NoPosition> {
        // `parse` takes a sign, too.
        let number =
            |digits: &str| digits.starts_with(|first: char| first.is_ascii_digit()).then_some(()).ok_or(NoPosition);
        let (index, event) = text.split_once('.').map_or((text, None), |(index, event)| (index, Some(event)));
        number(index)?;
        let event = match event {
            Some(event) => number(event).and_then(|()| event.parse().map_err(|_| NoPosition))?,
            None => ALL,
        };
        Ok(Position { index: index.parse().map_err(|_| NoPosition)?, event })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_has_an_order_and_a_text() {
        let places = ["7.0", "7.12", "7", "8.0"].map(|text| text.parse::<Position>().unwrap());
        assert!(places.is_sorted());
        assert_eq!(places.map(|place| place.to_string()), ["7.0", "7.12", "7", "8.0"]);
        assert_eq!(places.map(|place| Position::from(&place.to_wire())), places);
        for wrong in ["", ".", "7.", ".1", "+7", "7.-1", "7.1.1", "x", "99999999999999999999", "7.4294967296"] {
            assert_eq!(wrong.parse::<Position>(), Err(NoPosition), "{wrong}");
        }
    }
}
