//! What every message of the schema knows about itself: its fields, which of them must be there, how they are read
//! and written. Generated from the schema; the hot path has no reflection.

use crate::json::{Reader, Writer};

/// A message of the schema.
pub trait Wire: Fields + prost::Message + Default {
    /// The message's fields.
    const TABLE: &'static Table;
}

/// How a message's fields are read from and written to JSON. The number of a field is its place in [`Table::fields`].
pub trait Fields {
    /// Writes every field that is to be seen, each as `,"name":value`.
    fn json_write(&self, w: &mut Writer<'_>);
    /// Reads one field's value. Ok(false) if the value counts as absent (a name that the enum does not have).
    fn json_read(&mut self, field: usize, r: &mut Reader<'_>) -> Result<bool, String>;
    /// Makes one field absent.
    fn json_clear(&mut self, field: usize);
}

/// An enum of the schema, by its names and numbers.
pub trait Enumeration {
    /// The name of a number, if the schema has it.
    fn name(number: i32) -> Option<&'static str>;
    /// The number of a name, if the schema has it.
    fn number(name: &str) -> Option<i32>;
}

/// What a message is made of, in the order of declaration.
#[derive(Debug)]
pub struct Table {
    /// Unqualified: `Call`, `TaskInfo`.
    pub name: &'static str,
    /// Whether a required field exists in it, at any depth.
    pub demanding: bool,
    /// A bit for each required field, by its place in `fields`.
    pub required: u128,
    /// Of the struct that it is decoded to, in bytes.
    pub size_bytes: usize,
    /// All fields.
    pub fields: &'static [Field],
}

/// One field of a message.
#[derive(Debug)]
pub struct Field {
    /// As in the schema, snake_case.
    pub name: &'static str,
    /// On the protobuf wire.
    pub number: u32,
    /// Whether it is a list (maps included).
    pub repeated: bool,
    /// Whether JSON shows its explicit default where it is not set.
    pub shows_default: bool,
    /// What its value is.
    pub kind: Kind,
}

/// A value without parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names of protobuf.
pub enum Plain {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Bool,
    String,
    Bytes,
}

/// What a field's value is, as far as the check for required fields must know.
#[derive(Debug)]
pub enum Kind {
    /// A number, string, bool or bytes.
    Plain(Plain),
    /// An enum, with the function that knows its numbers.
    Enum(fn(i32) -> Option<&'static str>),
    /// A message.
    Message(&'static Table),
    /// A map from strings, to messages of this table if they are messages.
    Map(Option<&'static Table>),
}

impl Table {
    /// The place of a field. Clients mostly keep the order of the schema, so the search starts at `from`.
    pub(crate) fn find(&self, name: &str, from: usize) -> Option<usize> {
        let from = from.min(self.fields.len());
        let position = |fields: &[Field]| fields.iter().position(|field| field.name == name);
        position(&self.fields[from..]).map(|at| at + from).or_else(|| position(&self.fields[..from]))
    }
}

pub(crate) static DURATION: Table = Table {
    name: "Duration",
    demanding: false,
    required: 0,
    size_bytes: size_of::<prost_types::Duration>(),
    fields: &[
        Field { name: "seconds", number: 1, repeated: false, shows_default: false, kind: Kind::Plain(Plain::Int64) },
        Field { name: "nanos", number: 2, repeated: false, shows_default: false, kind: Kind::Plain(Plain::Int32) },
    ],
};

impl Wire for prost_types::Duration {
    const TABLE: &'static Table = &DURATION;
}

// From a proto3 file: a zero is the same as nothing.
impl Fields for prost_types::Duration {
    fn json_write(&self, w: &mut Writer<'_>) {
        if self.seconds != 0 {
            w.key(",\"seconds\":");
            w.i64(self.seconds);
        }
        if self.nanos != 0 {
            w.key(",\"nanos\":");
            w.i32(self.nanos);
        }
    }

    fn json_read(&mut self, field: usize, r: &mut Reader<'_>) -> Result<bool, String> {
        match field {
            0 => self.seconds = r.i64()?,
            _ => self.nanos = r.i32()?,
        }
        Ok(true)
    }

    fn json_clear(&mut self, field: usize) {
        match field {
            0 => self.seconds = 0,
            _ => self.nanos = 0,
        }
    }
}

/// Does something for a message type, whichever it is.
pub trait Visitor {
    /// Called with one message type.
    fn visit<T: Wire + Clone + PartialEq + std::fmt::Debug>(&mut self);
}

pub use generated::every_message;

#[allow(clippy::all, deprecated, unused_mut)]
mod generated {
    use super::{Enumeration, Field, Fields, Kind, Plain, Table, Visitor, Wire};
    use crate::json::{Reader, Writer};

    include!(concat!(env!("OUT_DIR"), "/wire.rs"));
}
