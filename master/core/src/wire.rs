//! Protobuf written by hand where State already has the parts in protobuf: an order is put together from bytes that
//! nobody needs to read again.

use bytes::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use std::sync::Arc;

/// An order, in parts.
pub(crate) enum OrderParts<'a> {
    Launch {
        framework_info: &'a Bytes,
        task: &'a Bytes,
        /// The resource providers that it has something of, by id, and the versions of their resources.
        providers: &'a [(Arc<str>, Bytes)],
    },
    LaunchGroup {
        framework_info: &'a Bytes,
        executor: &'a Bytes,
        tasks: &'a [&'a Bytes],
        providers: &'a [(Arc<str>, Bytes)],
    },
    Kill {
        framework_id: &'a str,
        task_id: &'a str,
        policy: Option<&'a Bytes>,
    },
    ShutdownFramework {
        framework_id: &'a str,
    },
    ShutdownExecutor {
        framework_id: &'a str,
        executor_id: &'a str,
    },
    UpdateFramework {
        framework_info: &'a Bytes,
    },
    Drain {
        config: &'a Bytes,
    },
    EndDrain,
    ApplyOperation {
        operation: &'a [u8],
        framework_id: Option<&'a str>,
        info: &'a Bytes,
        checkpointed: &'a [Bytes],
        /// A resource provider by its id, and the version of its resources.
        provider: Option<(&'a str, &'a Bytes)>,
    },
}

impl OrderParts<'_> {
    /// Whether one of `orders`, encoded, is this one, whatever its number.
    pub(crate) fn is_among<'b>(&self, mut orders: impl Iterator<Item = &'b Bytes>) -> bool {
        let wanted = self.encode(0);
        orders.any(|order| without_number(order) == without_number(&wanted))
    }

    /// An `internal::Order` with this number.
    pub(crate) fn encode(&self, seq: u64) -> Bytes {
        let (field, body) = match self {
            OrderParts::Launch { framework_info, task, providers } => {
                let mut parts = fields(&[(1, framework_info), (2, task)]);
                providers.iter().for_each(|(id, version)| put(3, &of_provider(id, version), &mut parts));
                (2, parts)
            }
            OrderParts::LaunchGroup { framework_info, executor, tasks, providers } => {
                let tasks: Vec<(u32, &[u8])> = tasks.iter().map(|task| (1, task.as_ref())).collect();
                let mut parts = fields(&[(1, framework_info), (2, executor), (3, &fields(&tasks))]);
                providers.iter().for_each(|(id, version)| put(4, &of_provider(id, version), &mut parts));
                (3, parts)
            }
            OrderParts::Kill { framework_id, task_id, policy } => {
                let mut parts = [id(1, framework_id), id(2, task_id)].concat();
                parts.extend(policy.iter().flat_map(|policy| fields(&[(3, policy)])));
                (4, parts)
            }
            OrderParts::ShutdownFramework { framework_id } => (5, id(1, framework_id)),
            OrderParts::ShutdownExecutor { framework_id, executor_id } => {
                (6, [id(1, framework_id), id(2, executor_id)].concat())
            }
            OrderParts::UpdateFramework { framework_info } => (7, fields(&[(1, framework_info)])),
            OrderParts::Drain { config } => (10, fields(&[(1, config)])),
            OrderParts::EndDrain => (11, Vec::new()),
            OrderParts::ApplyOperation { operation, framework_id, info, checkpointed, provider } => {
                let mut parts = fields(&[(1, operation)]);
                parts.extend(framework_id.iter().flat_map(|framework_id| id(2, framework_id)));
                put(3, info, &mut parts);
                checkpointed.iter().for_each(|resource| put(4, resource, &mut parts));
                if let Some((provider, version)) = provider {
                    put(5, &of_provider(provider, version), &mut parts);
                }
                (9, parts)
            }
        };
        let mut bytes = Vec::with_capacity(body.len() + 16);
        encode_key(1, WireType::Varint, &mut bytes);
        encode_varint(seq, &mut bytes);
        put(field, &body, &mut bytes);
        bytes.into()
    }
}

/// An encoded order behind its number.
fn without_number(order: &[u8]) -> &[u8] {
    // One byte of a key, then the number, whose last byte is below 128.
    let number = order.iter().skip(1).position(|byte| byte & 0x80 == 0);
    &order[number.map_or(order.len(), |at| at + 2)..]
}

/// A message whose only field, number 1, is text: all the ids.
fn id(field: u32, text: &str) -> Vec<u8> {
    fields(&[(field, &fields(&[(1, text.as_bytes())]))])
}

/// An `OfProvider`.
fn of_provider(provider: &str, version: &Bytes) -> Vec<u8> {
    let mut of = id(1, provider);
    put(2, version, &mut of);
    of
}

fn fields(parts: &[(u32, &[u8])]) -> Vec<u8> {
    let size = parts.iter().map(|(_, part)| part.len() + 1 + encoded_len_varint(part.len() as u64)).sum();
    let mut bytes = Vec::with_capacity(size);
    parts.iter().for_each(|(field, part)| put(*field, part, &mut bytes));
    bytes
}

fn put(field: u32, part: &[u8], bytes: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, bytes);
    encode_varint(part.len() as u64, bytes);
    bytes.extend_from_slice(part);
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{internal, v1};
    use prost::Message;

    fn decoded(parts: &OrderParts<'_>) -> internal::order::Order {
        let order = internal::Order::decode(parts.encode(300)).unwrap();
        assert_eq!(order.seq, 300);
        order.order.unwrap()
    }

    #[test]
    fn an_order_is_known_by_what_it_says() {
        let kill = |task_id| OrderParts::Kill { framework_id: "F", task_id, policy: None };
        for number in [1, 127, 128, 300_000, u64::MAX] {
            assert!(kill("T").is_among([kill("T").encode(number)].iter()));
            assert!(!kill("T").is_among([kill("U").encode(number)].iter()));
        }
    }

    #[test]
    fn orders_are_what_the_schema_says() {
        let info = v1::FrameworkInfo { user: "root".into(), name: "f".into(), ..Default::default() };
        let task = v1::TaskInfo { name: "t".repeat(200), ..Default::default() };
        let executor = v1::ExecutorInfo { name: Some("e".into()), ..Default::default() };
        let policy = v1::KillPolicy { grace_period: Some(v1::DurationInfo { nanoseconds: 5 }) };
        let (info_bytes, task_bytes) = (Bytes::from(info.encode_to_vec()), Bytes::from(task.encode_to_vec()));
        let framework_id = v1::FrameworkId { value: "F".into() };

        let id = v1::ResourceProviderId { value: "P".into() };
        let of = vec![internal::apply_operation::OfProvider { id, resource_version: vec![8; 16].into() }];
        let providers = &[("P".into(), Bytes::from(vec![8; 16]))];
        assert_eq!(
            decoded(&OrderParts::Launch { framework_info: &info_bytes, task: &task_bytes, providers }),
            internal::order::Order::Launch(internal::Launch {
                framework_info: info.clone(),
                task: task.clone(),
                providers: of.clone()
            })
        );
        assert_eq!(
            decoded(&OrderParts::LaunchGroup {
                framework_info: &info_bytes,
                executor: &executor.encode_to_vec().into(),
                tasks: &[&task_bytes, &task_bytes],
                providers,
            }),
            internal::order::Order::LaunchGroup(internal::LaunchGroup {
                framework_info: info.clone(),
                executor,
                task_group: v1::TaskGroupInfo { tasks: vec![task.clone(), task] },
                providers: of,
            })
        );
        assert_eq!(
            decoded(&OrderParts::Kill {
                framework_id: "F",
                task_id: "T",
                policy: Some(&policy.encode_to_vec().into())
            }),
            internal::order::Order::Kill(internal::Kill {
                framework_id: framework_id.clone(),
                task_id: v1::TaskId { value: "T".into() },
                kill_policy: Some(policy),
            })
        );
        assert_eq!(
            decoded(&OrderParts::ShutdownExecutor { framework_id: "F", executor_id: "E" }),
            internal::order::Order::ShutdownExecutor(internal::ShutdownExecutor {
                framework_id: framework_id.clone(),
                executor_id: v1::ExecutorId { value: "E".into() },
            })
        );
        assert_eq!(
            decoded(&OrderParts::ShutdownFramework { framework_id: "F" }),
            internal::order::Order::ShutdownFramework(internal::ShutdownFramework { framework_id })
        );
        assert_eq!(
            decoded(&OrderParts::UpdateFramework { framework_info: &info_bytes }),
            internal::order::Order::UpdateFramework(internal::UpdateFramework { framework_info: info })
        );
        let config =
            v1::DrainConfig { max_grace_period: Some(v1::DurationInfo { nanoseconds: -5 }), mark_gone: Some(true) };
        assert_eq!(
            decoded(&OrderParts::Drain { config: &config.encode_to_vec().into() }),
            internal::order::Order::Drain(internal::Drain { config })
        );
        let operation = v1::offer::Operation { r#type: Some(13), ..Default::default() };
        let apply = OrderParts::ApplyOperation {
            operation: &[7; 16],
            framework_id: Some("F"),
            info: &operation.encode_to_vec().into(),
            checkpointed: &[],
            provider: Some(("P", &vec![8; 16].into())),
        };
        let id = v1::ResourceProviderId { value: "P".into() };
        let provider = internal::apply_operation::OfProvider { id, resource_version: vec![8; 16].into() };
        assert_eq!(
            decoded(&apply),
            internal::order::Order::ApplyOperation(internal::ApplyOperation {
                operation: vec![7; 16].into(),
                framework_id: Some(v1::FrameworkId { value: "F".into() }),
                info: operation,
                checkpointed_resources: Vec::new(),
                provider: Some(provider),
            })
        );
        assert_eq!(decoded(&OrderParts::EndDrain), internal::order::Order::EndDrain(internal::EndDrain {}));
    }
}
