//! Orders that cannot be taken as they are. The masters give an order again until it is acknowledged, and none behind it
//! counts before: so what can be read of such a one is enough to say which tasks will not run, and to go on.

use std::ops::RangeInclusive;

use agent_core::Unreadable;
use api::internal::{Order, order};
use bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};

/// What an order that was read says of itself.
pub(crate) fn given_up(order: &Order, sentence: String) -> Unreadable {
    let mut found = Unreadable { seq: order.seq, sentence, ..Unreadable::default() };
    match &order.order {
        Some(order::Order::Launch(launch)) => {
            found.framework_id = launch.framework_info.id.as_ref().map(|id| id.value.clone());
            found.task_ids.push(launch.task.task_id.value.clone());
            found.executor_id = launch.task.executor.as_ref().map(|executor| executor.executor_id.value.clone());
        }
        Some(order::Order::LaunchGroup(launch)) => {
            found.framework_id = launch.framework_info.id.as_ref().map(|id| id.value.clone());
            found.task_ids.extend(launch.task_group.tasks.iter().map(|task| task.task_id.value.clone()));
            found.executor_id = Some(launch.executor.executor_id.value.clone());
        }
        Some(order::Order::ApplyOperation(order)) => {
            let id = order.info.id.as_ref().map(|id| id.value.clone());
            found.operation = Some((order.operation.to_vec(), id));
        }
        _ => {}
    }
    found
}

/// What is left of an order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// It is of a kind that this release knows.
    Known(Unreadable),
    /// It is not, and has this number.
    Unknown(u64),
}

/// What the bytes of a `ToAgent` say, of which some are damaged or missing at the end. None if it is no order.
pub(crate) fn salvage(message: &[u8], sentence: String) -> Option<Left> {
    let order = fields(message).find(|(number, _)| *number == 3)?.1.bytes()?;
    let mut found = Unreadable { sentence, ..Unreadable::default() };
    let mut is_known = false;
    for (number, value) in fields(order) {
        is_known |= KINDS.contains(&number);
        match (number, value) {
            (1, Value::Number(seq)) => found.seq = seq,
            // Launch: framework_info 1, task 2.
            (2, Value::Bytes(launch)) => {
                found.framework_id = framework_id(launch);
                tasks(&mut found, launch, 2);
                let task = child(launch, 2);
                found.executor_id = task.and_then(|task| text(child(child(task, 5)?, 1)?, 1));
            }
            // LaunchGroup: framework_info 1, executor 2, task_group 3, in which each 1 is a task.
            (3, Value::Bytes(launch)) => {
                found.framework_id = framework_id(launch);
                if let Some(group) = child(launch, 3) {
                    tasks(&mut found, group, 1);
                }
                found.executor_id = child(launch, 2).and_then(|executor| text(child(executor, 1)?, 1));
            }
            // ApplyOperation: operation 1, info 3, in which id is 12.
            (9, Value::Bytes(order)) => {
                let id = child(order, 3).and_then(|info| text(child(info, 12)?, 1));
                found.operation = child(order, 1).map(|operation| (operation.to_vec(), id));
            }
            _ => {}
        }
    }
    match found.seq {
        0 => None,
        seq if !is_known => Some(Left::Unknown(seq)),
        _ => Some(Left::Known(found)),
    }
}

/// Fields of `Order` that are kinds of orders.
const KINDS: RangeInclusive<u32> = 2..=11;

/// `framework_info.id.value`
fn framework_id(launch: &[u8]) -> Option<String> {
    text(child(child(launch, 1)?, 3)?, 1)
}

/// `task_id.value` of each task that is field `number`.
fn tasks(found: &mut Unreadable, within: &[u8], number: u32) {
    let tasks = fields(within).filter(|(field, _)| *field == number).filter_map(|(_, value)| value.bytes());
    found.task_ids.extend(tasks.filter_map(|task| text(child(task, 2)?, 1)));
}

fn child(within: &[u8], number: u32) -> Option<&[u8]> {
    fields(within).find(|(field, _)| *field == number)?.1.bytes()
}

fn text(within: &[u8], number: u32) -> Option<String> {
    String::from_utf8(child(within, number)?.to_vec()).ok()
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

impl<'a> Value<'a> {
    fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// The fields of a message, until one that makes no sense. Of one that is cut off, what is there.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = (u32, Value<'_>)> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (number, wire) = decode_key(&mut rest).ok()?;
        let value = match wire {
            WireType::Varint => Value::Number(decode_varint(&mut rest).ok()?),
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?.min(rest.len());
                let (bytes, after) = rest.split_at(length);
                rest = after;
                Value::Bytes(bytes)
            }
            WireType::SixtyFourBit | WireType::ThirtyTwoBit => {
                let length = if wire == WireType::SixtyFourBit { 8 } else { 4 };
                rest.advance(rest.len().min(length));
                Value::Other
            }
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        Some((number, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::internal::{self, ToAgent, to_agent};
    use api::v1;
    use prost::Message;

    fn task(id: &str, data: usize) -> v1::TaskInfo {
        let executor = v1::ExecutorInfo { executor_id: v1::ExecutorId { value: "e".into() }, ..Default::default() };
        v1::TaskInfo {
            name: id.into(),
            task_id: v1::TaskId { value: id.into() },
            executor: Some(executor),
            data: Some(vec![7; data].into()),
            ..Default::default()
        }
    }

    fn message(order: order::Order) -> (Order, Vec<u8>) {
        let order = Order { seq: 9, order: Some(order) };
        let message = ToAgent { message: Some(to_agent::Message::Order(order.clone())) };
        (order, message.encode_to_vec())
    }

    fn framework_info() -> v1::FrameworkInfo {
        v1::FrameworkInfo { id: Some(v1::FrameworkId { value: "f".into() }), ..Default::default() }
    }

    #[test]
    fn what_is_left_of_an_order_names_its_tasks() {
        let launch =
            internal::Launch { framework_info: framework_info(), task: task("t", 1000), providers: Vec::new() };
        let (order, bytes) = message(order::Order::Launch(launch));
        let whole = given_up(&order, "why".into());
        assert_eq!((whole.seq, whole.framework_id.as_deref(), &whole.task_ids[..]), (9, Some("f"), &["t".into()][..]));
        assert_eq!(whole.executor_id.as_deref(), Some("e"));
        assert_eq!(salvage(&bytes, "why".into()), Some(Left::Known(whole.clone())));
        assert_eq!(salvage(&bytes[..bytes.len() - 900], "why".into()), Some(Left::Known(whole)), "its data is missing");
        let executor = task("", 0).executor.unwrap();
        let task_group = v1::TaskGroupInfo { tasks: vec![task("a", 10), task("b", 10)] };
        let group =
            internal::LaunchGroup { framework_info: framework_info(), executor, task_group, providers: Vec::new() };
        let (order, bytes) = message(order::Order::LaunchGroup(group));
        let whole = given_up(&order, "why".into());
        assert_eq!(whole.task_ids, ["a", "b"]);
        assert_eq!(salvage(&bytes, "why".into()), Some(Left::Known(whole)));
    }

    #[test]
    fn what_is_no_order_is_left_alone() {
        let ping = ToAgent { message: Some(to_agent::Message::Ping(internal::Ping {})) }.encode_to_vec();
        assert_eq!(salvage(&ping, String::new()), None);
        for noise in [&[][..], &[0x1a], &[0x1a, 0xff, 0xff], &[0x1a, 3, 0x80, 0x80, 0x80], &[0x07; 40]] {
            assert_eq!(salvage(noise, String::new()), None, "{noise:?}");
        }
    }
}
