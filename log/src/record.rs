//! A record is what is stored at once: the events of one batch of decisions, and who caused them.

/// Where a record belongs and when it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Term of the leadership that made the record; 0 in a log without leaders.
    pub term: u64,
    /// Position within the leadership: 0 for the record that announces the leader, then 1, 2 ...
    pub n: u64,
    /// When its events were decided, in milliseconds since 1970. Never less than in the record before.
    pub at_ms: u64,
    /// Feature level of the cluster for which its events were written.
    pub feature_level: u32,
}

/// Who made events happen: one accepted command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// Type of the call, as its sender named it.
    pub call: String,
    /// Authenticated principal, if there was one.
    pub principal: Option<String>,
    /// Network address of the sender.
    pub peer: Option<String>,
    /// Names the request across logs and traces.
    pub request_id: [u8; 16],
}

/// An event as stored: its meaning is the business of whoever knows `number` and `version`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawEvent {
    /// Kind of event. Never reused.
    pub number: u16,
    /// Version of the kind's bytes and of what folding them does.
    pub version: u16,
    /// Index into the record's causes.
    pub cause: u32,
    /// Encoded by [`crate::encode_payload`].
    pub payload: Vec<u8>,
}

/// Events decided together. Stored and replicated as one entry: all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Where the record belongs.
    pub header: Header,
    /// What the events name as their cause.
    pub causes: Vec<Cause>,
    /// In the order in which they happened.
    pub events: Vec<RawEvent>,
}

/// Decides which records of a replicated log take effect: each replica asks at each entry, all get the same answers.
///
/// A leader that lost its leadership may leave records behind of which later ones were committed and earlier ones were
/// not, or which were written under another term than the one that decided them. Folding such a record would apply a
/// decision to a state that it was not made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    term: u64,
    n: u64,
}

impl Gate {
    /// The gate of a replica whose last effective record had this (term, n). The gate of an empty log is the default.
    pub fn resume(term: u64, n: u64) -> Gate {
        Gate { term, n }
    }

    /// Whether the record takes effect; if so, it is the position from now on. `entry_term` is the term of the
    /// entry which carried it.
    pub fn admit(&mut self, entry_term: u64, header: &Header) -> bool {
        let first = header.term > self.term && header.n == 0;
        let next = header.term == self.term && header.term > 0 && Some(header.n) == self.n.checked_add(1);
        let admitted = entry_term == header.term && (first || next);
        if admitted {
            (self.term, self.n) = (header.term, header.n);
        }
        admitted
    }

    /// (term, n) of the last record that took effect; (0, 0) before the first.
    pub fn position(&self) -> (u64, u64) {
        (self.term, self.n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(term: u64, n: u64) -> Header {
        Header { term, n, ..Header::default() }
    }

    #[test]
    fn only_the_next_record_takes_effect() {
        let mut gate = Gate::default();
        assert!(!gate.admit(3, &header(3, 1)), "a leadership starts with its record 0");
        assert!(!gate.admit(0, &header(0, 1)), "there is no term 0");
        assert!(gate.admit(3, &header(3, 0)));
        assert!(gate.admit(3, &header(3, 1)));
        assert!(!gate.admit(3, &header(3, 1)), "the same again");
        assert!(!gate.admit(3, &header(3, 3)), "one is missing");
        assert!(gate.admit(3, &header(3, 2)), "what was skipped does not count");
        assert!(!gate.admit(4, &header(3, 3)), "written under a later leadership than decided");
        assert!(gate.admit(7, &header(7, 0)), "terms may be skipped: not every election has a winner");
        assert!(!gate.admit(3, &header(3, 3)), "an old leadership is over");
        assert_eq!(gate.position(), (7, 0));
        assert!(Gate::resume(7, 0).admit(7, &header(7, 1)));
    }
}
