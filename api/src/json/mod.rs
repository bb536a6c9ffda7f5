//! The JSON form of every message: field names as in the schema, enums by name, bytes as base64, integers as numbers.
//!
//! Written: fields that are set, lists that are not empty, and the explicit default of a field that is not set (unless
//! the schema calls it deprecated). All output is ASCII.
//!
//! Read: unknown fields and unknown names of enums are left out, `null` is absent, the last of two equal keys wins,
//! numbers and booleans may be strings. Text is checked as JSON as a whole before any of it becomes a message.

mod read;
mod scan;
mod write;

use std::fmt;

pub use read::Reader;
pub use write::Writer;

use crate::budget::{Budget, OverBudget};
use crate::wire::Wire;

/// Objects and lists may be nested this deep.
pub const DEPTH_MAX: usize = 100;

/// Why a text is not the message it should be. Its `Display` is the sentence that clients know from Mesos.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The unqualified name of the message: `Call`.
    pub message: &'static str,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not JSON.
    Syntax(String),
    /// It is JSON, but a value does not fit its field.
    Conversion(String),
    /// These required fields are missing, by their full paths.
    Missing(Vec<String>),
    /// What it says is more than may be built of it.
    OverBudget(OverBudget),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fault {
            Fault::Syntax(what) => write!(f, "Failed to parse body into JSON: {what}"),
            Fault::Conversion(what) => write!(f, "Failed to convert JSON into {} protobuf: {what}", self.message),
            Fault::OverBudget(why) => write!(f, "Failed to convert JSON into {} protobuf: {why}", self.message),
            Fault::Missing(paths) => write!(
                f,
                "Failed to convert JSON into {} protobuf: Missing required fields: {}",
                self.message,
                paths.join(", ")
            ),
        }
    }
}

impl std::error::Error for Error {}

/// Reads a message from a JSON text of a client, within [`Budget::of_body`].
pub fn from_slice<T: Wire>(text: &[u8]) -> Result<T, Error> {
    from_slice_within(text, &mut Budget::of_body(text.len()))
}

/// Reads a message from a JSON text, within `budget`.
pub fn from_slice_within<T: Wire>(text: &[u8], budget: &mut Budget) -> Result<T, Error> {
    let fail = |fault| Error { message: T::TABLE.name, fault };
    let text = scan::check(text).map_err(|what| fail(Fault::Syntax(what)))?;
    let mut reader = Reader::new(text, budget);
    let message = reader.root::<T>();
    if let Some(why) = reader.over_budget() {
        return Err(fail(Fault::OverBudget(why)));
    }
    let message = message.map_err(|what| fail(Fault::Conversion(what)))?;
    match reader.missing() {
        missing if missing.is_empty() => Ok(message),
        missing => Err(fail(Fault::Missing(missing))),
    }
}

/// Reads a message from a JSON value.
pub fn from_value<T: Wire>(value: &serde_json::Value) -> Result<T, Error> {
    from_slice(value.to_string().as_bytes())
}

/// Writes a message as JSON, without white space.
pub fn to_vec<T: Wire>(message: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    write_to(message, &mut out);
    out
}

/// Writes a message as JSON behind what `out` holds.
pub fn write_to<T: Wire>(message: &T, out: &mut Vec<u8>) {
    Writer::new(out).message(message);
}

/// Writes a message as JSON, without white space.
pub fn to_string<T: Wire>(message: &T) -> String {
    String::from_utf8(to_vec(message)).unwrap_or_default()
}

/// A message as a JSON value, for answers that are put together from several parts. Not for the hot path.
pub fn to_value<T: Wire>(message: &T) -> serde_json::Value {
    serde_json::from_slice(&to_vec(message)).unwrap_or_default()
}
