//! Any state as JSON that is the same for the same state: fields in the order of their declaration, maps in the order
//! of their keys. A key of several parts is written as one string, its parts joined by a slash; bytes are written in
//! hexadecimal, numbers of 128 bits too. Messages of the wire are written as they are on it, without what may be secret.

use crate::messages;
use serde::ser::{self, Serialize};
use std::fmt;
use std::io::{self, Write};

/// Writes `value`: on one line, or with `indent` one line for each field and entry.
///
/// # Errors
/// What writing answers, or that a value has no such form (a map with a map as its key).
pub(crate) fn write<T: Serialize + ?Sized>(out: &mut dyn Write, value: &T, indent: bool) -> io::Result<()> {
    value.serialize(&mut Renderer { out, indent, depth: 0, message: None }).map_err(|Error(error)| error)
}

/// The text of `value` on one line.
///
/// # Errors
/// As `write`.
pub(crate) fn line<T: Serialize + ?Sized>(value: &T) -> io::Result<String> {
    let mut text = Vec::new();
    write(&mut text, value, false)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

struct Renderer<'w> {
    out: &'w mut dyn Write,
    indent: bool,
    depth: usize,
    /// What the bytes of the field under way are, if they are a message of the wire.
    message: Option<messages::Kind>,
}

/// Why a value was not written.
#[derive(Debug)]
struct Error(io::Error);

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Error {}

impl ser::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Error {
        Error(io::Error::other(message.to_string()))
    }
}

impl Renderer<'_> {
    fn string(&mut self, text: &str) -> Result<(), Error> {
        let text = serde_json::to_string(text).map_err(io::Error::from)?;
        self.out.write_all(api::terminal::json(&text).as_bytes())?;
        Ok(())
    }

    fn hex(&mut self, bytes: &[u8]) -> Result<(), Error> {
        write!(self.out, "\"")?;
        for byte in bytes {
            write!(self.out, "{byte:02x}")?;
        }
        write!(self.out, "\"")?;
        Ok(())
    }

    fn new_line(&mut self) -> Result<(), Error> {
        if self.indent {
            write!(self.out, "\n{:1$}", "", self.depth)?;
        }
        Ok(())
    }

    fn open(&mut self, bracket: char) -> Result<(), Error> {
        self.depth += 1;
        write!(self.out, "{bracket}")?;
        Ok(())
    }

    fn close(&mut self, bracket: char, empty: bool) -> Result<(), Error> {
        self.depth -= 1;
        if !empty {
            self.new_line()?;
        }
        write!(self.out, "{bracket}")?;
        Ok(())
    }
}

/// An array or object under way.
struct Items<'a, 'w> {
    renderer: &'a mut Renderer<'w>,
    empty: bool,
    end: char,
    /// A variant's own object around this one.
    wrapped: bool,
    /// The struct whose fields these are.
    owner: &'static str,
}

impl<'a, 'w> Items<'a, 'w> {
    fn new(renderer: &'a mut Renderer<'w>, start: char, end: char) -> Result<Self, Error> {
        renderer.open(start)?;
        Ok(Items { renderer, empty: true, end, wrapped: false, owner: "" })
    }

    fn of_variant(renderer: &'a mut Renderer<'w>, variant: &str, start: char, end: char) -> Result<Self, Error> {
        renderer.open('{')?;
        renderer.new_line()?;
        renderer.string(variant)?;
        write!(renderer.out, ":")?;
        Ok(Items { wrapped: true, ..Items::new(renderer, start, end)? })
    }

    fn next(&mut self) -> Result<(), Error> {
        if !self.empty {
            write!(self.renderer.out, ",")?;
        }
        self.empty = false;
        self.renderer.new_line()
    }

    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.next()?;
        value.serialize(&mut *self.renderer)
    }

    fn named<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), Error> {
        self.next()?;
        self.renderer.string(name)?;
        write!(self.renderer.out, ":")?;
        let before = std::mem::replace(&mut self.renderer.message, messages::Kind::of_field(self.owner, name));
        let written = value.serialize(&mut *self.renderer);
        self.renderer.message = before;
        written
    }

    fn finish(self) -> Result<(), Error> {
        self.renderer.close(self.end, self.empty)?;
        if self.wrapped { self.renderer.close('}', false) } else { Ok(()) }
    }
}

macro_rules! plain {
    ($($name:ident: $type:ty),*) => { $(fn $name(self, value: $type) -> Result<(), Error> {
        write!(self.out, "{value}")?;
        Ok(())
    })* };
}

impl<'a, 'w> ser::Serializer for &'a mut Renderer<'w> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Items<'a, 'w>;
    type SerializeTuple = Items<'a, 'w>;
    type SerializeTupleStruct = Items<'a, 'w>;
    type SerializeTupleVariant = Items<'a, 'w>;
    type SerializeMap = Items<'a, 'w>;
    type SerializeStruct = Items<'a, 'w>;
    type SerializeStructVariant = Items<'a, 'w>;

    plain!(
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64
    );

    fn serialize_i128(self, value: i128) -> Result<(), Error> {
        self.string(&value.to_string())
    }

    fn serialize_u128(self, value: u128) -> Result<(), Error> {
        self.string(&format!("{value:032x}"))
    }

    fn serialize_f32(self, value: f32) -> Result<(), Error> {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Result<(), Error> {
        if value.is_finite() {
            write!(self.out, "{value:?}")?;
            return Ok(());
        }
        self.string(&value.to_string())
    }

    fn serialize_char(self, value: char) -> Result<(), Error> {
        self.string(&value.to_string())
    }

    fn serialize_str(self, value: &str) -> Result<(), Error> {
        self.string(value)
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Error> {
        match self.message.and_then(|kind| messages::json(kind, value)) {
            Some(message) => Ok(self.out.write_all(api::terminal::json(&message.to_string()).as_bytes())?),
            None => self.hex(value),
        }
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        write!(self.out, "null")?;
        Ok(())
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<(), Error> {
        self.string(name)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Error> {
        self.string(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        let mut items = Items::new(self, '{', '}')?;
        items.named(variant, value)?;
        items.finish()
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Items<'a, 'w>, Error> {
        Items::new(self, '[', ']')
    }

    fn serialize_tuple(self, _: usize) -> Result<Items<'a, 'w>, Error> {
        Items::new(self, '[', ']')
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Items<'a, 'w>, Error> {
        Items::new(self, '[', ']')
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Items<'a, 'w>, Error> {
        Items::of_variant(self, variant, '[', ']')
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Items<'a, 'w>, Error> {
        Items::new(self, '{', '}')
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Items<'a, 'w>, Error> {
        Ok(Items { owner: name, ..Items::new(self, '{', '}')? })
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Items<'a, 'w>, Error> {
        Items::of_variant(self, variant, '{', '}')
    }
}

macro_rules! items {
    ($($of:ident $method:ident),*) => { $(impl ser::$of for Items<'_, '_> {
        type Ok = ();
        type Error = Error;

        fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
            self.item(value)
        }

        fn end(self) -> Result<(), Error> {
            self.finish()
        }
    })* };
}

items!(
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field
);

macro_rules! fields {
    ($($of:ident),*) => { $(impl ser::$of for Items<'_, '_> {
        type Ok = ();
        type Error = Error;

        fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Error> {
            self.named(name, value)
        }

        fn end(self) -> Result<(), Error> {
            self.finish()
        }
    })* };
}

fields!(SerializeStruct, SerializeStructVariant);

impl ser::SerializeMap for Items<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.next()?;
        // A key's own JSON, flattened: 7, "a", [7,"a"] become "7", "a", "7/a".
        let key = line(key)?;
        let name = match serde_json::from_str(&key).map_err(io::Error::from)? {
            serde_json::Value::Array(parts) => parts.iter().map(part).collect::<Vec<_>>().join("/"),
            other => part(&other),
        };
        self.renderer.string(&name)?;
        write!(self.renderer.out, ":")?;
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        value.serialize(&mut *self.renderer)
    }

    fn end(self) -> Result<(), Error> {
        self.finish()
    }
}

fn part(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Serialize;
    use std::collections::BTreeMap;

    #[derive(Serialize)]
    struct Thing {
        id: u128,
        by_key: BTreeMap<(u32, String), Kind>,
        none: Option<u8>,
        list: Vec<i64>,
        empty: Vec<i64>,
    }

    #[derive(Serialize)]
    enum Kind {
        Unit,
        New(u8),
        Fields { a: bool, b: f64 },
        Pair(u8, u8),
    }

    fn thing() -> Thing {
        let kinds = [Kind::Unit, Kind::New(1), Kind::Fields { a: true, b: 0.5 }, Kind::Pair(1, 2)];
        let by_key = kinds.into_iter().enumerate().map(|(at, kind)| ((at as u32, format!("t{at}")), kind)).collect();
        Thing { id: 255, by_key, none: None, list: vec![1, -2], empty: vec![] }
    }

    #[test]
    fn one_line_is_json_and_keys_are_strings() {
        let text = line(&thing()).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"id":"000000000000000000000000000000ff","by_key":{"0/t0":"Unit","1/t1":{"New":1},"#,
                r#""2/t2":{"Fields":{"a":true,"b":0.5}},"3/t3":{"Pair":[1,2]}},"none":null,"list":[1,-2],"empty":[]}"#
            )
        );
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
    }

    #[test]
    fn lines_for_people_are_the_same_json() {
        let mut text = Vec::new();
        write(&mut text, &thing(), true).unwrap();
        let shown: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(shown, serde_json::from_str::<serde_json::Value>(&line(&thing()).unwrap()).unwrap());
        assert!(String::from_utf8(text).unwrap().lines().count() > 15);
    }
}
