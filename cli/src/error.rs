//! What can stand between a user and a result.

/// Said in one sentence on stderr.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The command line is wrong: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// No master gave an answer. `refused`: nobody listens at any of the addresses.
    #[error("no answer from {masters}: {reason}")]
    Unreachable { masters: String, reason: String, refused: bool },
    /// A master answered, but not with what was asked for.
    #[error("{address} answered {status}: {message}")]
    Refused { address: String, status: u16, message: String },
    /// Anything else that failed, as a sentence.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    pub(crate) fn exit_code(&self) -> u8 {
        if matches!(self, Self::Usage(_)) { 2 } else { 1 }
    }

    /// Whether nobody listens at any of the addresses.
    pub(crate) fn is_refused_by_all(&self) -> bool {
        matches!(self, Self::Unreachable { refused: true, .. })
    }
}
