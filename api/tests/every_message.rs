//! Every message of the schema with random values, through JSON and protobuf and back.

use api::json;
use api::required::{decode_protobuf, missing};
use api::wire::{Field, Kind, Plain, Table, Visitor, Wire, every_message};
use proptest::prelude::*;

/// Random protobuf bytes of a message, from its table.
struct Generator {
    seed: u64,
    /// Whether fields are set whose default JSON shows: without them the way back has more fields than the way there.
    shown_defaults_set: bool,
    /// Counts down; the required field at which it reaches zero is left out.
    leave_out: Option<u32>,
    left_out: Option<String>,
}

impl Generator {
    fn new(seed: u64) -> Self {
        Generator { seed, shown_defaults_set: true, leave_out: None, left_out: None }
    }

    fn next(&mut self) -> u64 {
        // splitmix64
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.seed;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn message(&mut self, table: &'static Table, path: &str, depth: usize) -> Vec<u8> {
        let mut bytes = vec![];
        for (index, field) in table.fields.iter().enumerate() {
            let required = table.required >> index & 1 == 1;
            if required && let Some(left) = &mut self.leave_out {
                *left -= 1;
                if *left == 0 {
                    self.leave_out = None;
                    self.left_out = Some(format!("{path}{}", field.name));
                    continue;
                }
            }
            let must = required || (field.shows_default && self.shown_defaults_set);
            let likely = if depth > 3 { 0 } else { 6 / (depth as u64 + 1) };
            let times = match (must, self.below(10) < likely) {
                (true, _) => 1,
                (false, false) => 0,
                (false, true) if field.repeated => 1 + self.below(3),
                (false, true) => 1,
            };
            for time in 0..times {
                let path = if field.repeated {
                    format!("{path}{}[{time}].", field.name)
                } else {
                    format!("{path}{}.", field.name)
                };
                self.field(field, &path, depth, &mut bytes);
            }
        }
        bytes
    }

    fn field(&mut self, field: &Field, path: &str, depth: usize, out: &mut Vec<u8>) {
        match field.kind {
            Kind::Plain(plain) => self.plain(field.number, plain, out),
            Kind::Enum(name) => {
                let number = loop {
                    let number = self.below(60) as i32;
                    if name(number).is_some() {
                        break number;
                    }
                };
                tag(field.number, 0, out);
                varint(number as u64, out);
            }
            Kind::Message(table) => {
                let inner = self.message(table, path, depth + 1);
                held(field.number, &inner, out);
            }
            Kind::Map(value) => {
                let mut entry = vec![];
                self.plain(1, Plain::String, &mut entry);
                match value {
                    Some(table) => {
                        let inner = self.message(table, &format!("{path}value."), depth + 1);
                        held(2, &inner, &mut entry);
                    }
                    None => self.plain(2, Plain::String, &mut entry),
                }
                held(field.number, &entry, out);
            }
        }
    }

    fn plain(&mut self, number: u32, plain: Plain, out: &mut Vec<u8>) {
        let any = match self.below(4) {
            0 => self.below(3),
            1 => u64::MAX - self.below(2),
            2 => self.below(1 << 32),
            _ => self.next(),
        };
        match plain {
            Plain::Double => {
                tag(number, 1, out);
                let double = [any as f64 / 1000.0, f64::from_bits(any), f64::INFINITY, -1e-300][self.below(4) as usize];
                out.extend_from_slice(&if double.is_nan() { 0.5 } else { double }.to_le_bytes());
            }
            Plain::Float => {
                tag(number, 5, out);
                out.extend_from_slice(&(any as f32).to_le_bytes());
            }
            Plain::Int32 => number_field(number, any as i32 as i64 as u64, out),
            Plain::Uint32 => number_field(number, any as u32 as u64, out),
            Plain::Int64 | Plain::Uint64 => number_field(number, any, out),
            Plain::Bool => number_field(number, any & 1, out),
            Plain::String => {
                const PIECES: [&str; 12] =
                    ["a", "name", "\"", "\\", "\n", "\u{0}", "\u{7f}", "é", "€", "😀", "/", "\u{2028}"];
                let text: String = (0..self.below(5)).map(|_| PIECES[self.below(12) as usize]).collect();
                held(number, text.as_bytes(), out);
            }
            Plain::Bytes => {
                let bytes: Vec<u8> = (0..self.below(6)).map(|_| self.next() as u8).collect();
                held(number, &bytes, out);
            }
        }
    }
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn tag(number: u32, kind: u64, out: &mut Vec<u8>) {
    varint(u64::from(number) << 3 | kind, out);
}

fn number_field(number: u32, value: u64, out: &mut Vec<u8>) {
    tag(number, 0, out);
    varint(value, out);
}

fn held(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    tag(number, 2, out);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// There and back again, the same.
struct RoundTrip(u64);

impl Visitor for RoundTrip {
    fn visit<T: Wire + Clone + PartialEq + std::fmt::Debug>(&mut self) {
        self.0 += 1;
        let name = T::TABLE.name;
        let bytes = Generator::new(self.0).message(T::TABLE, "", 0);
        let message: T = decode_protobuf(bytes).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let again: T = decode_protobuf(message.encode_to_vec()).expect(name);
        assert_eq!(again, message);

        let text = json::to_vec(&message);
        assert!(text.iter().all(|byte| (b' '..0x7f).contains(byte)), "{name}: not printable ASCII");
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let read: T = json::from_slice(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(read, message, "{name}: {value}");
        assert_eq!(json::to_vec(&read), text);

        // With defaults that are only shown, what is written stays the same.
        let bytes = Generator { shown_defaults_set: false, ..Generator::new(self.0) }.message(T::TABLE, "", 0);
        let text = json::to_vec(&decode_protobuf::<T>(bytes).expect(name));
        assert_eq!(json::to_vec(&json::from_slice::<T>(&text).expect(name)), text);
    }
}

/// A required field that is not there is named, by both readers.
struct LeaveOut(u64);

impl Visitor for LeaveOut {
    fn visit<T: Wire + Clone + PartialEq + std::fmt::Debug>(&mut self) {
        self.0 += 1;
        let mut generator = Generator::new(self.0);
        generator.leave_out = Some(1 + generator.below(8) as u32);
        let bytes = generator.message(T::TABLE, "", 0);
        let Some(path) = generator.left_out else { return };
        let found = missing::<T>(&bytes);
        // Of a oneof only the last stays; what was lost with the others is still told.
        assert_eq!(found, [path], "{}", T::TABLE.name);
        assert!(decode_protobuf::<T>(bytes).is_err());
    }
}

/// Whatever stands in the place of a message: an error or a message, never a panic.
struct Garbage<'a>(&'a [u8], &'a str);

impl Visitor for Garbage<'_> {
    fn visit<T: Wire + Clone + PartialEq + std::fmt::Debug>(&mut self) {
        let _ = decode_protobuf::<T>(self.0.to_vec());
        let _ = json::from_slice::<T>(self.1.as_bytes());
        // Every field of the message with a value of another kind.
        for field in T::TABLE.fields {
            let _ = json::from_slice::<T>(format!("{{\"{}\":{}}}", field.name, self.1).as_bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn round_trips(seed: u64) {
        every_message(&mut RoundTrip(seed));
    }

    #[test]
    fn missing_fields_are_named(seed: u64) {
        every_message(&mut LeaveOut(seed));
    }

    #[test]
    fn garbage_is_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..40),
        text in prop_oneof![
            Just("null".to_owned()), Just("[]".to_owned()), Just("{}".to_owned()), Just("[{}]".to_owned()),
            Just("[[null]]".to_owned()), Just("\"\\u0000\"".to_owned()), Just("1e308".to_owned()),
            Just("1e999".to_owned()), Just("-0.5".to_owned()), Just("true".to_owned()), Just("{\"a\":{}}".to_owned()),
            Just("99999999999999999999999999999999999999999999".to_owned()), "[\\[\\]{}\",:0-9a-z\\\\ ]{0,20}", "\\PC{0,12}"
        ],
    ) {
        every_message(&mut Garbage(&bytes, &text));
    }
}
