//! Reading a text that is known to be JSON. Values that do not fit are refused by the name of their field; a value
//! that a later one of the same key replaces is as if it had never been there.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;

use crate::budget::{Budget, ITEM_BYTES, OverBudget};
use crate::wire::{Fields, Table, Wire};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads values from a text, in order.
#[derive(Debug)]
pub struct Reader<'a> {
    text: &'a str,
    at: usize,
    budget: &'a mut Budget,
    /// Whose value is being read.
    field: &'static str,
    missing: Vec<Missing>,
    /// There were more of them than are told.
    more_missing: bool,
}

/// So many missing fields are told, not more: an answer is a sentence, and the list must not grow with its request.
const MISSING_MAX: usize = 100;

/// A required field that is not there.
#[derive(Debug)]
struct Missing {
    path: String,
    /// Paths are told in the order of field numbers, a message's own fields first, wherever they are in the text.
    order: Vec<u32>,
}

impl Missing {
    fn inside(&mut self, name: &str, order: u32) {
        let dot = if self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{name}{dot}{}", self.path);
        self.order.insert(0, order);
    }
}

impl<'a> Reader<'a> {
    /// `text` must be one JSON value.
    pub(super) fn new(text: &'a str, budget: &'a mut Budget) -> Self {
        Reader { text, at: 0, budget, field: "", missing: Vec::new(), more_missing: false }
    }

    pub(super) fn root<T: Wire>(&mut self) -> Result<T, String> {
        self.space();
        if self.peek() != b'{' {
            return Err("Expecting a JSON object".to_owned());
        }
        self.message()
    }

    /// Set if more was wanted than the budget has: then nothing else counts, not even that a later key of the same name
    /// would have put something smaller in its place.
    pub(super) fn over_budget(&self) -> Option<OverBudget> {
        self.budget.is_over().then(|| self.budget.refusal())
    }

    /// Counts what is about to be built. Once that is too much, the text ends here.
    fn take(&mut self, bytes: usize) -> Result<(), String> {
        self.budget.take(bytes).map_err(|why| {
            self.at = self.text.len();
            why.to_string()
        })
    }

    pub(super) fn missing(mut self) -> Vec<String> {
        self.missing.sort_by(|a, b| a.order.cmp(&b.order));
        let paths = self.missing.into_iter().map(|each| each.path);
        paths.chain(self.more_missing.then(|| "...".to_owned())).collect()
    }

    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or_default()
    }

    fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
    }

    /// Whether another item follows in an object or list that ends with `end`; steps over what is between.
    fn another(&mut self, first: &mut bool, end: u8) -> bool {
        self.space();
        if self.peek() == end || self.at >= self.text.len() {
            self.at += 1;
            return false;
        }
        if !std::mem::take(first) {
            self.at += 1;
            self.space();
        }
        true
    }

    fn key(&mut self) -> Cow<'a, str> {
        let key = self.raw_string();
        self.space();
        self.at += 1;
        self.space();
        key
    }

    fn null(&mut self) -> bool {
        let null = self.peek() == b'n';
        if null {
            self.at += 4;
        }
        null
    }

    fn object(&mut self, into: &mut dyn Fields, table: &'static Table) -> Result<(), String> {
        self.at += 1;
        let start = self.missing.len();
        let mut seen = 0u128;
        let mut failed: Vec<(&'static str, String)> = Vec::new();
        let (mut first, mut next) = (true, 0);
        while self.another(&mut first, b'}') {
            let key = self.key();
            let Some(index) = table.find(&key, next) else {
                self.skip();
                continue;
            };
            next = index + 1;
            let (field, bit) = (&table.fields[index], 1 << index);
            if seen & bit != 0 || !failed.is_empty() {
                into.json_clear(index);
                seen &= !bit;
                failed.retain(|(name, _)| *name != field.name);
                let mut place = 0;
                self.missing.retain(|missing| {
                    place += 1;
                    place <= start || missing.order.first() != Some(&(field.number + 1))
                });
            }
            if self.null() {
                continue;
            }
            let from = self.missing.len();
            self.field = field.name;
            match into.json_read(index, self) {
                Ok(true) => seen |= bit,
                Ok(false) => {}
                Err(what) => {
                    failed.push((field.name, what));
                    self.missing.truncate(from);
                }
            }
            for missing in &mut self.missing[from..] {
                missing.inside(field.name, field.number + 1);
            }
        }
        if let Some((_, what)) = failed.into_iter().min() {
            return Err(what);
        }
        let absent = table.required & !seen;
        if absent != 0 {
            for (index, field) in table.fields.iter().enumerate().filter(|(index, _)| absent >> index & 1 == 1) {
                if self.missing.len() == MISSING_MAX {
                    self.more_missing = true;
                    break;
                }
                self.missing.push(Missing { path: field.name.to_owned(), order: vec![0, index as u32] });
            }
        }
        Ok(())
    }

    /// Steps over a value of any kind.
    fn skip(&mut self) {
        let bytes = self.text.as_bytes();
        let mut depth = 0usize;
        while self.at < bytes.len() {
            match bytes[self.at] {
                b'"' => {
                    self.raw_token();
                    if depth == 0 {
                        return;
                    }
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth == 0 => return,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        self.at += 1;
                        return;
                    }
                }
                b',' if depth == 0 => return,
                _ => {}
            }
            self.at += 1;
        }
    }

    /// The text between the quotes of a string, escapes and all.
    fn raw_token(&mut self) -> &'a str {
        let bytes = self.text.as_bytes();
        let from = self.at + 1;
        let mut at = from;
        while at < bytes.len() && bytes[at] != b'"' {
            at += 1 + usize::from(bytes[at] == b'\\');
        }
        self.at = at + 1;
        self.text.get(from..at).unwrap_or_default()
    }

    fn raw_string(&mut self) -> Cow<'a, str> {
        let raw = self.raw_token();
        if raw.contains('\\') { Cow::Owned(unescape(raw)) } else { Cow::Borrowed(raw) }
    }

    fn raw_number(&mut self) -> &'a str {
        let from = self.at;
        while matches!(self.peek(), b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9') {
            self.at += 1;
        }
        &self.text[from..self.at]
    }

    /// Refuses the value that stands here, and steps over it: after an error too, what follows is read.
    fn unexpected<T>(&mut self) -> Result<T, String> {
        let kind = match self.peek() {
            b'{' => "object",
            b'[' => "array",
            b'"' => "string",
            b't' | b'f' => "boolean",
            b'n' => "null",
            _ => "number",
        };
        self.skip();
        Err(format!("Not expecting a JSON {kind} for field '{}'", self.field))
    }

    /// A number's text, be it a JSON number or a string.
    fn numeral(&mut self) -> Result<Cow<'a, str>, String> {
        match self.peek() {
            b'"' => Ok(self.raw_string()),
            b'-' | b'0'..=b'9' => Ok(Cow::Borrowed(self.raw_number())),
            _ => self.unexpected(),
        }
    }

    fn integer<T: TryFrom<i128>>(&mut self) -> Result<T, String> {
        let text = self.numeral()?;
        let whole = text.parse::<i128>().ok().or_else(|| {
            // 31000.0 and 3.1e4 are whole numbers too.
            let double = text.parse::<f64>().ok()?;
            (double.fract() == 0.0 && double.abs() < 1e19).then_some(double as i128)
        });
        whole
            .and_then(|whole| T::try_from(whole).ok())
            .ok_or_else(|| format!("'{}' is not a number that field '{}' can hold", clip(&text), self.field))
    }

    /// A 32-bit integer.
    pub fn i32(&mut self) -> Result<i32, String> {
        self.integer()
    }

    /// A 64-bit integer.
    pub fn i64(&mut self) -> Result<i64, String> {
        self.integer()
    }

    /// An unsigned 32-bit integer.
    pub fn u32(&mut self) -> Result<u32, String> {
        self.integer()
    }

    /// An unsigned 64-bit integer.
    pub fn u64(&mut self) -> Result<u64, String> {
        self.integer()
    }

    /// A double. Only the strings "Infinity", "-Infinity" and "NaN" stand for what is not finite.
    pub fn f64(&mut self) -> Result<f64, String> {
        let text = self.numeral()?;
        let value = match text.as_ref() {
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            "NaN" => Some(f64::NAN),
            other => other.parse::<f64>().ok().filter(|value| value.is_finite()),
        };
        value.ok_or_else(|| format!("'{}' is not a number that field '{}' can hold", clip(&text), self.field))
    }

    /// As [`f64`](Self::f64), rounded.
    pub fn f32(&mut self) -> Result<f32, String> {
        self.f64().map(|value| value as f32)
    }

    /// A boolean, also as "true" or "false".
    pub fn bool(&mut self) -> Result<bool, String> {
        match self.peek() {
            b't' => {
                self.at += 4;
                Ok(true)
            }
            b'f' => {
                self.at += 5;
                Ok(false)
            }
            b'"' => match self.raw_string().as_ref() {
                "true" => Ok(true),
                "false" => Ok(false),
                other => Err(format!("'{}' is not a boolean, as field '{}' wants", clip(other), self.field)),
            },
            _ => self.unexpected(),
        }
    }

    /// A string.
    pub fn string(&mut self) -> Result<String, String> {
        if self.peek() != b'"' {
            return self.unexpected();
        }
        let text = self.raw_string();
        self.take(text.len())?;
        Ok(text.into_owned())
    }

    /// Bytes, as base64.
    pub fn bytes(&mut self) -> Result<Bytes, String> {
        if self.peek() != b'"' {
            return self.unexpected();
        }
        let text = self.raw_string();
        self.take(text.len())?;
        match BASE64.decode(text.as_bytes()) {
            Ok(bytes) => Ok(Bytes::from(bytes)),
            Err(error) => Err(format!("Field '{}' is not base64: {error}", self.field)),
        }
    }

    /// A name of an enum; None if the enum has no such name.
    pub fn enumeration(&mut self, number: fn(&str) -> Option<i32>) -> Result<Option<i32>, String> {
        if self.peek() != b'"' {
            return self.unexpected();
        }
        Ok(number(&self.raw_string()))
    }

    /// A message.
    pub fn message<T: Wire>(&mut self) -> Result<T, String> {
        if self.peek() != b'{' {
            return self.unexpected();
        }
        self.take(T::TABLE.size_bytes)?;
        let mut message = T::default();
        self.object(&mut message, T::TABLE)?;
        Ok(message)
    }

    /// A list; a value that is not in brackets is a list of one. What `each` gives None for is left out.
    pub fn list<T>(&mut self, each: impl Fn(&mut Self) -> Result<Option<T>, String>) -> Result<Vec<T>, String> {
        let (field, mut items) = (self.field, Vec::new());
        if self.peek() != b'[' {
            items.extend(self.item(0, &each)?);
            return Ok(items);
        }
        self.at += 1;
        let (mut first, mut index, mut failed) = (true, 0, None);
        while self.another(&mut first, b']') {
            self.field = field;
            if !self.null() {
                match self.item(index, &each) {
                    Ok(item) => items.extend(item),
                    Err(what) => failed = failed.or(Some(what)),
                }
            }
            index += 1;
        }
        failed.map_or(Ok(items), Err)
    }

    fn item<T>(
        &mut self,
        index: u32,
        each: &impl Fn(&mut Self) -> Result<Option<T>, String>,
    ) -> Result<Option<T>, String> {
        let from = self.missing.len();
        self.take(ITEM_BYTES)?;
        let item = each(self)?;
        for missing in &mut self.missing[from..] {
            missing.inside(&format!("[{index}]"), index);
        }
        Ok(item)
    }

    /// A map from strings.
    pub fn map<T>(
        &mut self,
        each: impl Fn(&mut Self) -> Result<Option<T>, String>,
    ) -> Result<BTreeMap<String, T>, String> {
        if self.peek() != b'{' {
            return self.unexpected();
        }
        self.at += 1;
        let (field, mut items) = (self.field, BTreeMap::new());
        let (mut first, mut index, mut failed) = (true, 0, None);
        while self.another(&mut first, b'}') {
            let key = self.key().into_owned();
            self.field = field;
            items.remove(&key);
            if !self.null() {
                let from = self.missing.len();
                match self.take(2 * ITEM_BYTES + key.len()).and_then(|()| each(self)) {
                    Ok(item) => items.extend(item.map(|item| (key, item))),
                    Err(what) => failed = failed.or(Some(what)),
                }
                for missing in &mut self.missing[from..] {
                    missing.inside(&format!("[{index}].value"), index);
                }
            }
            index += 1;
        }
        failed.map_or(Ok(items), Err)
    }
}

fn clip(text: &str) -> String {
    text.chars().take(100).collect()
}

fn unescape(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let kind = rest.as_bytes().get(at + 1).copied().unwrap_or(b'\\');
        let mut used = 2;
        text.push(match kind {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = |at: usize| rest.get(at..at + 4).and_then(|hex| u16::from_str_radix(hex, 16).ok());
                let units = [unit(at + 2).unwrap_or_default(), unit(at + 8).unwrap_or_default()];
                let pair = (0xD800..0xDC00).contains(&units[0]);
                used = if pair { 12 } else { 6 };
                let units = if pair { &units[..] } else { &units[..1] };
                char::decode_utf16(units.iter().copied()).next().and_then(Result::ok).unwrap_or('\u{FFFD}')
            }
            other => char::from(other),
        });
        rest = rest.get(at + used..).unwrap_or_default();
    }
    text.push_str(rest);
    text
}
