//! What is asked of protobuf messages before and beside decoding: that they are not more than may be built, and that
//! they hold what the schema requires, where the decoder fills in zeros.
//!
//! Both are answered by one walk of the encoded bytes beside the schema's tables, which builds nothing.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

use crate::budget::{Budget, ITEM_BYTES, OverBudget};
use crate::json::DEPTH_MAX;
use crate::wire::{Field, Kind, Plain, Table, Wire};

/// The full paths of required fields that `bytes`, an encoded `T`, lacks. Of bytes that are no message at all, the
/// decoder says so, not this check.
pub fn missing<T: Wire>(bytes: &[u8]) -> Vec<String> {
    let mut budget = Budget::endless();
    match survey(T::TABLE, bytes, DEPTH_MAX, &mut budget) {
        Ok(false) => missing_paths(T::TABLE, bytes, &mut budget).unwrap_or_default(),
        _ => vec![],
    }
}

/// Why bytes are not the protobuf message they should be. Its `Display` is the sentence that clients know from Mesos.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// The unqualified name of the message: `Call`.
    pub message: &'static str,
    /// Required fields that are missing, by their full paths; empty if the bytes are no such message.
    pub missing: Vec<String>,
    /// Set if it is more than may be built.
    pub over_budget: Option<OverBudget>,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failed to parse body into {} protobuf", self.message)?;
        self.over_budget.map_or(Ok(()), |why| write!(f, ": {why}"))
    }
}

impl std::error::Error for DecodeError {}

/// Reads a message of our own processes from its protobuf form, within [`Budget::of_message`].
pub fn decode_protobuf<T: Wire>(bytes: impl Into<Bytes>) -> Result<T, DecodeError> {
    decode_protobuf_within(bytes, &mut Budget::of_message())
}

/// Reads a message from its protobuf form, with all that is required in it, within `budget`. Strings must be UTF-8, and
/// messages not nested deeper than [`DEPTH_MAX`].
pub fn decode_protobuf_within<T: Wire>(bytes: impl Into<Bytes>, budget: &mut Budget) -> Result<T, DecodeError> {
    let bytes = bytes.into();
    let fail = |missing, over_budget| DecodeError { message: T::TABLE.name, missing, over_budget };
    let complete = survey(T::TABLE, &bytes, DEPTH_MAX, budget).map_err(|why| fail(vec![], Some(why)))?;
    // The clone shares the bytes; so do the message's own `bytes` fields.
    let message = T::decode(bytes.clone()).map_err(|_| fail(vec![], None))?;
    if complete {
        return Ok(message);
    }
    match missing_paths(T::TABLE, &bytes, budget) {
        Ok(missing) if missing.is_empty() => Ok(message),
        Ok(missing) => Err(fail(missing, None)),
        Err(why) => Err(fail(vec![], Some(why))),
    }
}

/// So many missing fields are told, not more: the list must not grow with the request.
const MISSING_MAX: usize = 100;

/// Counts what `bytes` will be in memory, and says whether nothing is missing, though not what. A message in several
/// pieces counts as incomplete: `walk` joins the pieces and has the last word.
fn survey(table: &'static Table, bytes: &[u8], depth: usize, budget: &mut Budget) -> Result<bool, OverBudget> {
    budget.take(table.size_bytes)?;
    // The decoder refuses what is nested deeper.
    if depth == 0 {
        return Ok(true);
    }
    let mut complete = true;
    let mut seen = 0u128;
    let mut rest = bytes;
    let mut expected = 0;
    while let Some((number, value)) = next(&mut rest) {
        let Some(index) = position(table, number, expected) else { continue };
        expected = index;
        let (field, bit) = (&table.fields[index], 1 << index);
        if field.repeated {
            budget.take(ITEM_BYTES)?;
        }
        match (&field.kind, value) {
            (Kind::Enum(name), Value::Number(value)) if name(value as i32).is_none() => continue,
            (Kind::Message(inside), Value::Bytes(value)) => {
                let piece = inside.demanding && seen & bit != 0 && !field.repeated;
                complete &= survey(inside, value, depth - 1, budget)? && !piece;
            }
            (Kind::Map(inside), Value::Bytes(mut entry)) => {
                budget.take(ITEM_BYTES)?;
                while let Some((number, value)) = next(&mut entry) {
                    match (number, inside, value) {
                        (2, Some(inside), Value::Bytes(value)) => complete &= survey(inside, value, depth - 1, budget)?,
                        (_, _, Value::Bytes(value)) => budget.take(value.len())?,
                        _ => {}
                    }
                }
            }
            (Kind::Plain(Plain::String | Plain::Bytes), Value::Bytes(value)) => budget.take(value.len())?,
            // A list of numbers in one piece: a byte of it can be a number of eight.
            (_, Value::Bytes(value)) => budget.take(value.len().saturating_mul(8))?,
            _ => {}
        }
        seen |= bit;
    }
    Ok(complete && table.required & !seen == 0)
}

fn missing_paths(table: &'static Table, bytes: &[u8], budget: &mut Budget) -> Result<Vec<String>, OverBudget> {
    let mut found = Vec::new();
    walk(table, bytes, "", DEPTH_MAX, (&mut found, budget))?;
    Ok(found)
}

/// The place of a field. Encoders write fields in order, so the search starts at `from`.
fn position(table: &Table, number: u32, from: usize) -> Option<usize> {
    let search = |fields: &[Field]| fields.iter().position(|field| field.number == number);
    search(&table.fields[from..]).map(|at| at + from).or_else(|| search(&table.fields[..from]))
}

fn walk(
    table: &'static Table,
    bytes: &[u8],
    path: &str,
    depth: usize,
    (found, budget): (&mut Vec<String>, &mut Budget),
) -> Result<(), OverBudget> {
    if !table.demanding || depth == 0 || found.len() >= MISSING_MAX {
        return Ok(());
    }
    let mut seen = 0u128;
    // Where the piece of a message that is not repeated is in `inner`.
    let mut pieces: Vec<Option<usize>> = vec![None; table.fields.len()];
    let mut inner: Vec<(usize, Cow<'_, [u8]>)> = Vec::new();
    let mut rest = bytes;
    while let Some((number, value)) = next(&mut rest) {
        let Some(index) = position(table, number, 0) else { continue };
        let field = &table.fields[index];
        match (&field.kind, value) {
            // A number that the enum does not have counts as unknown, that is, as not there.
            (Kind::Enum(name), Value::Number(value)) if name(value as i32).is_none() => continue,
            (Kind::Message(inside) | Kind::Map(Some(inside)), Value::Bytes(value)) if inside.demanding => {
                // What comes twice is merged, and joined bytes are how protobuf merges. Each depth has its own copy.
                match pieces[index] {
                    Some(at) if !field.repeated => {
                        budget.take(
                            value.len() + if matches!(inner[at].1, Cow::Owned(_)) { 0 } else { inner[at].1.len() },
                        )?;
                        inner[at].1.to_mut().extend_from_slice(value);
                    }
                    _ => {
                        pieces[index] = Some(inner.len());
                        inner.push((index, Cow::Borrowed(value)));
                    }
                }
            }
            _ => {}
        }
        seen |= 1 << index;
    }
    let absent = table.required & !seen;
    for (_, field) in table.fields.iter().enumerate().filter(|(index, _)| absent >> index & 1 == 1) {
        found.push(format!("{path}{}", field.name));
    }
    inner.sort_by_key(|(index, _)| table.fields[*index].number);
    let mut place = 0;
    for (at, (index, value)) in inner.iter().enumerate() {
        place = if at > 0 && inner[at - 1].0 == *index { place + 1 } else { 0 };
        let field = &table.fields[*index];
        match &field.kind {
            Kind::Message(inside) => {
                walk(inside, value, &inner_path(path, field, place), depth - 1, (found, budget))?;
            }
            Kind::Map(Some(inside)) => {
                let mut entry: &[u8] = value;
                let path = format!("{}value.", inner_path(path, field, place));
                let mut held: Option<&[u8]> = None;
                while let Some((number, value)) = next(&mut entry) {
                    if let (2, Value::Bytes(value)) = (number, value) {
                        held = Some(value);
                    }
                }
                // An entry without a value is how our encoder writes one that is all zeros.
                if let Some(held) = held {
                    walk(inside, held, &path, depth - 1, (found, budget))?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn inner_path(path: &str, field: &Field, place: usize) -> String {
    if field.repeated { format!("{path}{}[{place}].", field.name) } else { format!("{path}{}.", field.name) }
}

/// An encoded message from the first of its fields with this number or a higher one on, keys and all; to be asked of
/// bytes whose fields are in the order of their numbers.
pub(crate) fn from_field(bytes: &[u8], first: u32) -> &[u8] {
    let mut rest = bytes;
    loop {
        let before = rest;
        match next(&mut rest) {
            Some((number, _)) if number < first => {}
            _ => return before,
        }
    }
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

/// The next field: its number and value. None at the end, and where the bytes are no protobuf.
fn next<'a>(rest: &mut &'a [u8]) -> Option<(u32, Value<'a>)> {
    let tag = varint(rest)?;
    let number = u32::try_from(tag >> 3).ok()?;
    let value = match tag & 7 {
        0 => Value::Number(varint(rest)?),
        1 => take(rest, 8).map(|_| Value::Other)?,
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            Value::Bytes(take(rest, length)?)
        }
        3 => {
            skip_group(rest)?;
            Value::Other
        }
        5 => take(rest, 4).map(|_| Value::Other)?,
        _ => return None,
    };
    Some((number, value))
}

/// Groups are not in the schema, but an unknown field may be one.
fn skip_group(rest: &mut &[u8]) -> Option<()> {
    let mut depth = 1usize;
    while depth > 0 {
        let tag = varint(rest)?;
        match tag & 7 {
            0 => drop(varint(rest)?),
            1 => drop(take(rest, 8)?),
            2 => {
                let length = usize::try_from(varint(rest)?).ok()?;
                take(rest, length)?;
            }
            3 => depth += 1,
            4 => depth -= 1,
            5 => drop(take(rest, 4)?),
            _ => return None,
        }
    }
    Some(())
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (place, byte) in rest.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            *rest = &rest[place + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::v1;

    /// `path` of LIST_FILES is left out by encoding the call without it.
    #[test]
    fn paths_of_what_is_missing() {
        // type LIST_FILES, list_files { }
        let list_files = v1::master::call::Type::ListFiles as u8;
        assert_eq!(missing::<v1::master::Call>(&[0x08, list_files, 0x22, 0x00]), ["list_files.path"]);
        assert_eq!(missing::<v1::TaskInfo>(&[]), ["name", "task_id", "agent_id"]);
        // A list, and a message inside an item: task_infos { name: "x" }.
        let launch = [0x0a, 3, 0x0a, 1, b'x'];
        assert_eq!(
            missing::<v1::offer::operation::Launch>(&launch),
            ["task_infos[0].task_id", "task_infos[0].agent_id"]
        );
    }

    #[test]
    fn a_message_in_two_pieces_is_one() {
        // master_info: id in one piece, ip and port in the other.
        let pieces = [0x0a, 3, 0x0a, 1, b'i', 0x0a, 4, 0x10, 1, 0x18, 2];
        assert_eq!(missing::<v1::master::response::GetMaster>(&pieces), Vec::<String>::new());
    }

    #[test]
    fn whole_messages_pass() {
        let task = v1::TaskInfo { name: "t".into(), ..Default::default() };
        let decoded: v1::TaskInfo = decode_protobuf(task.encode_to_vec()).expect("whole");
        assert_eq!(decoded, task);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let error = decode_protobuf::<v1::master::Call>(&b"{\"type\":\"GET_VERSION\"}"[..]).expect_err("JSON");
        assert_eq!(error.to_string(), "Failed to parse body into Call protobuf");
        let error = decode_protobuf::<v1::TaskInfo>(&b""[..]).expect_err("empty");
        assert_eq!(error.missing, ["name", "task_id", "agent_id"]);
    }

    #[test]
    fn deep_nesting_is_an_error() {
        let mut id = vec![0x0a, 1, b'c'];
        for _ in 0..100_000 {
            let mut outer = vec![0x0a, 1, b'c', 0x12];
            let mut length = id.len();
            while length >= 0x80 {
                outer.push(length as u8 | 0x80);
                length >>= 7;
            }
            outer.push(length as u8);
            if outer.len() + id.len() > 2_000 {
                break;
            }
            outer.extend_from_slice(&id);
            id = outer;
        }
        assert!(decode_protobuf::<v1::ContainerId>(id).is_err());
    }
}
