//! The format of pprof (`profile.proto`), as far as it is written here.

use std::collections::HashMap;

use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    /// The innermost first.
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<LineOf>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct LineOf {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// Where a thread was.
pub(crate) struct Line {
    pub(crate) function: String,
    pub(crate) file: String,
    pub(crate) line: i64,
}

/// Makes a profile of samples. Numbers begin at 1; of texts the first is empty.
pub(crate) struct Encoder {
    profile: Profile,
    texts: HashMap<String, i64>,
    functions: HashMap<(i64, i64), u64>,
    locations: HashMap<(u64, i64), u64>,
}

impl Default for Encoder {
    fn default() -> Encoder {
        let mut encoder = Encoder {
            profile: Profile::default(),
            texts: HashMap::new(),
            functions: HashMap::new(),
            locations: HashMap::new(),
        };
        encoder.text("");
        encoder
    }
}

impl Encoder {
    fn text(&mut self, text: &str) -> i64 {
        if let Some(known) = self.texts.get(text) {
            return *known;
        }
        let at = i64::try_from(self.profile.string_table.len()).unwrap_or(i64::MAX);
        self.profile.string_table.push(text.to_owned());
        self.texts.insert(text.to_owned(), at);
        at
    }

    fn location(&mut self, line: &Line) -> u64 {
        let (name, filename) = (self.text(&line.function), self.text(&line.file));
        let functions = &mut self.profile.function;
        let function_id = *self.functions.entry((name, filename)).or_insert_with(|| {
            let id = functions.len() as u64 + 1;
            functions.push(Function { id, name, system_name: name, filename });
            id
        });
        let locations = &mut self.profile.location;
        *self.locations.entry((function_id, line.line)).or_insert_with(|| {
            let id = locations.len() as u64 + 1;
            locations.push(Location { id, line: vec![LineOf { function_id, line: line.line }] });
            id
        })
    }

    /// `count` times a thread was here; the innermost line first.
    pub(crate) fn sample(&mut self, lines: Vec<Line>, count: i64, period_ns: i64, thread: &str) {
        let location_id = lines.iter().map(|line| self.location(line)).collect();
        let label = vec![Label { key: self.text("thread"), str: self.text(thread) }];
        self.profile.sample.push(Sample { location_id, value: vec![count, count.saturating_mul(period_ns)], label });
    }

    /// The bytes of it.
    pub(crate) fn finish(mut self, began_ns: i64, lasted_ns: i64, period_ns: i64) -> Vec<u8> {
        let samples = ValueType { r#type: self.text("samples"), unit: self.text("count") };
        let cpu = ValueType { r#type: self.text("cpu"), unit: self.text("nanoseconds") };
        self.profile.sample_type = vec![samples, cpu];
        (self.profile.period_type, self.profile.period) = (Some(cpu), period_ns);
        (self.profile.time_nanos, self.profile.duration_nanos) = (began_ns, lasted_ns);
        self.profile.encode_to_vec()
    }
}

/// How many samples there are in a profile, and the functions in it.
#[cfg(test)]
pub(crate) fn read(bytes: &[u8]) -> (i64, Vec<String>) {
    let profile = Profile::decode(bytes).unwrap();
    let samples = profile.sample.iter().map(|sample| sample.value[0]).sum();
    let name = |function: &Function| profile.string_table[usize::try_from(function.name).unwrap()].clone();
    assert_eq!(profile.string_table[0], "");
    (samples, profile.function.iter().map(name).collect())
}
