//! Writing. Commas follow from what was written before, so no state is kept: behind `{` and `[` none is needed.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::wire::Fields;

/// Appends JSON to a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

const HEX: &[u8; 16] = b"0123456789abcdef";

impl<'a> Writer<'a> {
    /// A writer that appends to `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Writer { out }
    }

    /// `key` is `,"name":`, ready to be copied.
    pub fn key(&mut self, key: &'static str) {
        let skip = usize::from(self.out.last() == Some(&b'{'));
        self.out.extend_from_slice(&key.as_bytes()[skip..]);
    }

    /// A message, in braces.
    pub fn message<T: Fields>(&mut self, message: &T) {
        self.out.push(b'{');
        message.json_write(self);
        self.out.push(b'}');
    }

    /// A list, in brackets.
    pub fn list<T>(&mut self, items: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.out.push(b'[');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            each(self, item);
        }
        self.out.push(b']');
    }

    /// A map, in braces, in the order of its keys.
    pub fn map<T>(&mut self, items: &BTreeMap<String, T>, mut each: impl FnMut(&mut Self, &T)) {
        self.out.push(b'{');
        for (index, (key, value)) in items.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.string(key);
            self.out.push(b':');
            each(self, value);
        }
        self.out.push(b'}');
    }

    /// A name that needs no escapes.
    pub fn name(&mut self, name: &str) {
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(b'"');
    }

    /// A string; what is not printable ASCII is escaped, because some clients count characters by bytes.
    pub fn string(&mut self, text: &str) {
        self.out.push(b'"');
        let mut rest = text;
        while let Some(at) =
            rest.bytes().position(|byte| !(b' '..0x7f).contains(&byte) || byte == b'"' || byte == b'\\')
        {
            self.out.extend_from_slice(&rest.as_bytes()[..at]);
            rest = &rest[at..];
            let Some(special) = rest.chars().next() else { break };
            self.escape(special);
            rest = &rest[special.len_utf8()..];
        }
        self.out.extend_from_slice(rest.as_bytes());
        self.out.push(b'"');
    }

    fn escape(&mut self, special: char) {
        match special {
            '"' => self.out.extend_from_slice(b"\\\""),
            '\\' => self.out.extend_from_slice(b"\\\\"),
            '\n' => self.out.extend_from_slice(b"\\n"),
            '\r' => self.out.extend_from_slice(b"\\r"),
            '\t' => self.out.extend_from_slice(b"\\t"),
            '\u{8}' => self.out.extend_from_slice(b"\\b"),
            '\u{c}' => self.out.extend_from_slice(b"\\f"),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    let digit = |shift: u32| HEX[usize::from(*unit >> shift & 15)];
                    self.out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
                }
            }
        }
    }

    /// Bytes, as standard base64 with padding.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.out.push(b'"');
        let from = self.out.len();
        self.out.resize(from + bytes.len().div_ceil(3) * 4, b'=');
        let written = STANDARD.encode_slice(bytes, &mut self.out[from..]).unwrap_or_default();
        self.out.truncate(from + written);
        self.out.push(b'"');
    }

    /// true or false.
    pub fn bool(&mut self, value: bool) {
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// A number.
    pub fn i32(&mut self, value: i32) {
        self.i64(value.into());
    }

    /// A number.
    pub fn i64(&mut self, value: i64) {
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// A number.
    pub fn u32(&mut self, value: u32) {
        self.u64(value.into());
    }

    /// A number.
    pub fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// The shortest number that reads back as the same double, with a decimal point where it is integral. What JSON
    /// has no number for is a string, as in protobuf's own mapping.
    pub fn f64(&mut self, value: f64) {
        use std::io::Write;
        if value.is_finite() {
            let _ = write!(self.out, "{value:?}");
        } else if value.is_nan() {
            self.name("NaN");
        } else {
            self.name(if value > 0.0 { "Infinity" } else { "-Infinity" });
        }
    }

    /// As [`f64`](Self::f64).
    pub fn f32(&mut self, value: f32) {
        self.f64(value.into());
    }
}
