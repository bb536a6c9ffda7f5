//! Where answers go: text for people, or one JSON object a line for programs.

use std::io::{self, BufWriter, Stdout, Write};

/// Standard output.
pub(crate) struct Output {
    json: bool,
    out: BufWriter<Stdout>,
}

impl Output {
    /// As JSON, or as text.
    pub(crate) fn new(json: bool) -> Output {
        Output { json, out: BufWriter::new(io::stdout()) }
    }

    /// Whether programs read it.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// One answer in either form.
    ///
    /// # Errors
    /// What writing answers.
    pub(crate) fn line(
        &mut self,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> serde_json::Value,
    ) -> io::Result<()> {
        // Names in a log are of strangers.
        if self.json {
            writeln!(self.out, "{}", api::terminal::json(&json().to_string()))
        } else {
            writeln!(self.out, "{}", api::terminal::plain_lines(&text()))
        }
    }

    /// For what is written piece by piece.
    pub(crate) fn writer(&mut self) -> &mut dyn Write {
        &mut self.out
    }

    /// Shows what was written so far.
    ///
    /// # Errors
    /// What writing answers.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The end.
    ///
    /// # Errors
    /// What writing answers.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()
    }
}

/// Milliseconds since the epoch as `2026-11-20T23:13:28.419Z`.
pub(crate) use api::time::shown as time;
