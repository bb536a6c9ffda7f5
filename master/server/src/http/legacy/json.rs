//! Writes JSON straight into bytes: big answers are never built as a tree first.

/// A JSON text under construction. Commas and escapes are its business, balance is the closures'.
#[derive(Debug, Default)]
pub struct Json {
    out: Vec<u8>,
    comma: bool,
}

impl Json {
    /// An empty text with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Json {
        Json { out: Vec::with_capacity(bytes), comma: false }
    }

    /// The text.
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// `{...}`
    pub fn object(&mut self, fields: impl FnOnce(&mut Json)) {
        self.value();
        self.out.push(b'{');
        self.comma = false;
        fields(self);
        self.out.push(b'}');
        self.comma = true;
    }

    /// `[...]`
    pub fn array(&mut self, items: impl FnOnce(&mut Json)) {
        self.value();
        self.out.push(b'[');
        self.comma = false;
        items(self);
        self.out.push(b']');
        self.comma = true;
    }

    /// `"name":`, to be followed by one value.
    pub fn key(&mut self, name: &str) -> &mut Json {
        self.value();
        self.escaped(name);
        self.out.push(b':');
        self.comma = false;
        self
    }

    /// A field that holds an object.
    pub fn object_at(&mut self, name: &str, fields: impl FnOnce(&mut Json)) {
        self.key(name).object(fields);
    }

    /// A field that holds an array.
    pub fn array_at(&mut self, name: &str, items: impl FnOnce(&mut Json)) {
        self.key(name).array(items);
    }

    /// A field that holds a string.
    pub fn string_at(&mut self, name: &str, value: &str) {
        self.key(name).string(value);
    }

    /// A field that holds a number that always has a fraction: `2.0`.
    pub fn double_at(&mut self, name: &str, value: f64) {
        self.key(name).double(value);
    }

    /// A field that holds a time in seconds since the epoch.
    pub fn time_at(&mut self, name: &str, at_ms: u64) {
        self.double_at(name, at_ms as f64 / 1000.0);
    }

    /// A field that holds an integer.
    pub fn integer_at(&mut self, name: &str, value: i64) {
        self.key(name).integer(value);
    }

    /// A field that holds true or false.
    pub fn bool_at(&mut self, name: &str, value: bool) {
        self.key(name).bool(value);
    }

    /// A string.
    pub fn string(&mut self, value: &str) {
        self.value();
        self.escaped(value);
        self.comma = true;
    }

    /// A double. JSON has no infinities: they become null.
    pub fn double(&mut self, value: f64) {
        use std::io::Write;
        self.value();
        let written = match value.is_finite() {
            true => write!(self.out, "{value:?}"),
            false => write!(self.out, "null"),
        };
        written.expect("a vector takes every byte");
        self.comma = true;
    }

    /// An integer.
    pub fn integer(&mut self, value: i64) {
        use std::io::Write;
        self.value();
        write!(self.out, "{value}").expect("a vector takes every byte");
        self.comma = true;
    }

    /// true or false.
    pub fn bool(&mut self, value: bool) {
        self.value();
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
        self.comma = true;
    }

    /// A message of the schema.
    pub fn message<T: api::wire::Wire>(&mut self, message: &T) {
        self.value();
        api::json::write_to(message, &mut self.out);
        self.comma = true;
    }

    /// A value that somebody else writes.
    pub fn written(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.value();
        write(&mut self.out);
        self.comma = true;
    }

    /// A value that is JSON already.
    pub fn raw(&mut self, json: &[u8]) {
        self.value();
        self.out.extend_from_slice(json);
        self.comma = true;
    }

    fn value(&mut self) {
        if self.comma {
            self.out.push(b',');
        }
    }

    /// ASCII only: some clients cut the text by characters although they counted bytes.
    fn escaped(&mut self, text: &str) {
        use std::io::Write;
        self.out.push(b'"');
        for part in text.split_inclusive(|c: char| !(' '..='~').contains(&c) || c == '"' || c == '\\') {
            let Some(last) = part.chars().next_back() else { continue };
            if (' '..='~').contains(&last) && last != '"' && last != '\\' {
                self.out.extend_from_slice(part.as_bytes());
                continue;
            }
            self.out.extend_from_slice(&part.as_bytes()[..part.len() - last.len_utf8()]);
            match last {
                '"' => self.out.extend_from_slice(b"\\\""),
                '\\' => self.out.extend_from_slice(b"\\\\"),
                '\n' => self.out.extend_from_slice(b"\\n"),
                '\r' => self.out.extend_from_slice(b"\\r"),
                '\t' => self.out.extend_from_slice(b"\\t"),
                other => {
                    for unit in other.encode_utf16(&mut [0; 2]) {
                        write!(self.out, "\\u{unit:04x}").expect("a vector takes every byte");
                    }
                }
            }
        }
        self.out.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use super::Json;

    #[test]
    fn commas_numbers_and_escapes() {
        let mut json = Json::default();
        json.object(|json| {
            json.string_at("a", "x\"\\\n\u{1f600}é");
            json.array_at("b", |json| {
                json.double(2.0);
                json.double(0.1);
                json.integer(-3);
                json.double(f64::INFINITY);
                json.object(|_| ());
                json.array(|_| ());
            });
            json.bool_at("c", true);
            json.key("d").raw(b"{}");
            json.time_at("e", 1_795_216_398_418);
        });
        let text = String::from_utf8(json.into_bytes()).unwrap();
        assert_eq!(
            text,
            r#"{"a":"x\"\\\n\ud83d\ude00\u00e9","b":[2.0,0.1,-3,null,{},[]],"c":true,"d":{},"e":1795216398.418}"#
        );
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
    }
}
