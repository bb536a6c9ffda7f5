//! Errors as one sentence.

/// An error with its causes, from the outermost on: `cannot open the log in /x: permission denied`. What ends with its
/// cause already does not say it twice.
pub fn sentence(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes
        .map(ToString::to_string)
        .fold(error.to_string(), |text, cause| if text.ends_with(&cause) { text } else { format!("{text}: {cause}") })
}
