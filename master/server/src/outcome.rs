//! How a command ended: done, refused, or unknown. A caller hears one of the three, never a guess.

use master_core::{Refusal, RefusalKind, Reply};
use std::borrow::Cow;

/// What became of a command.
#[derive(Debug)]
pub enum Outcome {
    /// Decided, and committed at `index`; `reply` is what the decision answers with.
    Done {
        /// Raft index at which the answer may be given.
        index: u64,
        /// What the decision answers with.
        reply: Reply,
    },
    /// Decided against, on a state that is committed.
    Refused(Refused),
    /// It may have been committed or not: leadership was lost on the way, or nobody leads.
    Unknown,
    /// Deciding it failed by a defect of ours; nothing of it was appended.
    Crashed,
}

/// A reason as it travels between masters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What kind of no it is.
    pub kind: RefusalKind,
    /// The stable name of the reason.
    pub name: Cow<'static, str>,
    /// One sentence for the caller.
    pub message: String,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        Refused { kind: refusal.kind, name: Cow::Borrowed(refusal.name), message: refusal.message }
    }
}

impl Refused {
    /// The HTTP status of this kind of no. Kinds that never reach an HTTP client have a status too, since the same
    /// number names the kind between masters: each kind has one of its own.
    pub fn status(&self) -> u16 {
        status_of(self.kind)
    }
}

/// Every kind with its number between masters.
const KINDS: [(RefusalKind, u16); 9] = [
    (RefusalKind::Invalid, 400),
    (RefusalKind::Forbidden, 403),
    (RefusalKind::NotFound, 404),
    (RefusalKind::Conflict, 409),
    (RefusalKind::NotImplemented, 501),
    (RefusalKind::OnStream, 200),
    (RefusalKind::StopAgent, 410),
    (RefusalKind::RegisterAnew, 412),
    (RefusalKind::StaleConnection, 423),
];

fn status_of(kind: RefusalKind) -> u16 {
    KINDS.iter().find(|(known, _)| *known == kind).map_or(400, |(_, status)| *status)
}

/// The kind that `status` names between masters; an unknown one is a plain refusal.
pub(crate) fn kind_of(status: u32) -> RefusalKind {
    KINDS.iter().find(|(_, known)| u32::from(*known) == status).map_or(RefusalKind::Invalid, |(kind, _)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_survives_the_way_between_masters() {
        for (kind, status) in KINDS {
            assert_eq!(kind_of(u32::from(status)), kind);
        }
    }
}
