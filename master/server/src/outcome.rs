//! How a command ended: done, refused, or unknown. A caller hears one of the three, never a guess.

use master_core::{Refusal, RefusalKind, Reply};
use std::borrow::Cow;

/// The name of the refusal of a command that leads to more than a record holds.
pub(crate) const TOO_LARGE: &str = "TooLarge";

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
    /// It may have been committed or not: leadership was lost on the way.
    Unknown,
    /// Nobody led for as long as it may wait: it had no effect, and never will.
    Untried,
    /// Deciding it failed by a defect of ours; nothing of it was appended.
    Crashed,
}

impl Outcome {
    /// In one word.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Outcome::Done { .. } => "done",
            Outcome::Refused(_) => "refused",
            Outcome::Unknown => "unknown",
            Outcome::Untried => "untried",
            Outcome::Crashed => "crashed",
        }
    }
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
    /// Of a command that is, or leads to, more than goes into one message or record.
    pub(crate) fn too_large(message: impl Into<String>) -> Refused {
        Refused { kind: RefusalKind::Invalid, name: Cow::Borrowed(TOO_LARGE), message: message.into() }
    }

    /// The HTTP status of this kind of no. The kinds that only an agent's connection hears have the nearest.
    pub fn status(&self) -> u16 {
        match self.kind {
            RefusalKind::OnStream => 200,
            RefusalKind::Invalid => 400,
            RefusalKind::Forbidden => 403,
            RefusalKind::NotFound => 404,
            RefusalKind::Conflict | RefusalKind::HolderOver | RefusalKind::StaleConnection => 409,
            RefusalKind::StopAgent | RefusalKind::EndAgent | RefusalKind::OtherCluster | RefusalKind::RegisterAnew => {
                410
            }
            RefusalKind::NotImplemented => 501,
            RefusalKind::Busy => 503,
        }
    }

    /// The number of this kind between masters, and the name that tells kinds of one number apart: there were fewer once.
    pub(crate) fn number(&self) -> u32 {
        KINDS.iter().find(|(kind, ..)| *kind == self.kind).map_or(INVALID, |(_, number, _)| *number)
    }
}

const INVALID: u32 = 400;

/// Every kind, with its number between masters. Where one number has two kinds, the one with a name is known by it.
const KINDS: [(RefusalKind, u32, Option<&str>); 14] = [
    (RefusalKind::Invalid, INVALID, None),
    (RefusalKind::Forbidden, 403, None),
    (RefusalKind::NotFound, 404, None),
    (RefusalKind::HolderOver, 409, Some("MasterOver")),
    (RefusalKind::Conflict, 409, None),
    (RefusalKind::NotImplemented, 501, None),
    (RefusalKind::OnStream, 200, None),
    (RefusalKind::OtherCluster, 410, Some("OtherCluster")),
    (RefusalKind::EndAgent, 410, Some("AgentGone")),
    (RefusalKind::EndAgent, 410, Some("MachineDown")),
    (RefusalKind::StopAgent, 410, None),
    (RefusalKind::RegisterAnew, 412, None),
    (RefusalKind::StaleConnection, 423, None),
    (RefusalKind::Busy, 503, None),
];

/// The kind that `number` and the refusal's `name` mean between masters; an unknown one is a plain refusal.
pub(crate) fn kind_of(number: u32, name: &str) -> RefusalKind {
    let known = KINDS.iter().find(|(_, of, named)| *of == number && named.is_none_or(|named| named == name));
    known.map_or(RefusalKind::Invalid, |(kind, ..)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_survives_the_way_between_masters() {
        for (kind, number, name) in KINDS {
            let name = name.unwrap_or("Reason");
            let refused = Refused { kind, name: name.into(), message: String::new() };
            assert_eq!(refused.number(), number);
            assert_eq!(kind_of(number, name), kind);
        }
        assert_eq!(kind_of(999, "Reason"), RefusalKind::Invalid);
    }
}
