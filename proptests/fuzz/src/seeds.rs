//! Where a search begins: recordings of Mesos, calls written down here, logs of earlier releases, and messages made from
//! the schema's tables.

use std::path::{Path, PathBuf};

use api::Media;
use api::wire::{Kind, Plain, Table, Wire};
use event_log::Record;

use crate::mutate::Dice;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The JSON of recordings that are short enough to be changed usefully.
fn recordings() -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(root().join("api/testdata/mesos-1.11")).expect("recordings");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a recording")).filter(|text| text.len() < 6_000).collect()
}

/// A message in JSON, made from the table as far as `depth`; what is not set is skipped at random.
fn json_of(dice: &mut Dice, table: &'static Table, depth: usize, out: &mut String) {
    out.push('{');
    let mut comma = "";
    for (index, field) in table.fields.iter().enumerate() {
        let inner = matches!(field.kind, Kind::Message(_) | Kind::Map(_));
        let required = table.required >> index & 1 == 1;
        if !required && (dice.below(3) == 0 || (inner && depth == 0)) {
            continue;
        }
        out.push_str(&format!("{comma}\"{}\":", field.name));
        comma = ",";
        out.push_str(if field.repeated && !matches!(field.kind, Kind::Map(_)) { "[" } else { "" });
        match &field.kind {
            Kind::Plain(Plain::Bytes) => out.push_str("\"YQ==\""),
            Kind::Plain(Plain::String) => out.push_str(["\"\"", "\"YQ==\"", "\"*\"", "\"a/b\""][dice.below(4)]),
            Kind::Plain(Plain::Bool) => out.push_str("true"),
            Kind::Plain(Plain::Double | Plain::Float) => out.push_str(["0.25", "1", "-3", "1e9"][dice.below(4)]),
            Kind::Plain(_) => out.push_str(["0", "1", "7", "31000"][dice.below(4)]),
            Kind::Enum(name) => {
                let number = (0..40).cycle().skip(dice.below(40)).take(80).find(|number| name(*number).is_some());
                out.push_str(&format!("\"{}\"", number.and_then(name).unwrap_or_default()));
            }
            Kind::Message(inside) => json_of(dice, inside, depth.saturating_sub(1), out),
            Kind::Map(Some(inside)) => {
                out.push_str("{\"k\":");
                json_of(dice, inside, depth.saturating_sub(1), out);
                out.push('}');
            }
            Kind::Map(None) => out.push_str("{\"k\":\"v\"}"),
        }
        out.push_str(if field.repeated && !matches!(field.kind, Kind::Map(_)) { "]" } else { "" });
    }
    out.push('}');
}

/// JSON texts for a message.
pub fn json<T: Wire>() -> Vec<Vec<u8>> {
    let mut dice = Dice::new(1);
    let mut texts = recordings();
    for depth in [1, 2, 3, 4, 4, 4, 5, 5] {
        let mut text = String::new();
        json_of(&mut dice, T::TABLE, depth, &mut text);
        texts.push(text.into_bytes());
    }
    texts.retain(|text| text.len() < 12_000);
    texts
}

/// The same in protobuf, as far as they are such messages.
pub fn protobuf<T: Wire>() -> Vec<Vec<u8>> {
    let decoded = json::<T>().into_iter().filter_map(|text| Media::Json.decode::<T>(text.into()).ok());
    decoded.map(|message| message.encode_to_vec()).filter(|bytes| !bytes.is_empty()).collect()
}

/// The records of a log that an earlier release left.
pub fn records(core: &str) -> Vec<Record> {
    let mut records = vec![];
    let folders = std::fs::read_dir(root().join(core).join("testdata/logs")).expect("logs");
    for folder in folders.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir()) {
        let text = std::fs::read_to_string(folder.join("log.txt")).expect("a log");
        let byte = |line: &str, at: usize| u8::from_str_radix(&line[at..at + 2], 16).expect("hexadecimal");
        for line in text.lines() {
            let bytes: Vec<u8> = (0..line.len()).step_by(2).map(|at| byte(line, at)).collect();
            records.push(Record::decode(&bytes).expect("a record"));
        }
    }
    records
}
