//! What a body takes in memory is bounded before it is built.

use api::budget::Budget;
use api::{Media, limits, v1};
use bytes::Bytes;
use prost::Message;

fn refused<T: api::wire::Wire + std::fmt::Debug>(media: Media, body: Vec<u8>) -> String {
    let rejection = media.decode::<T>(Bytes::from(body)).expect_err("too much");
    assert_eq!(rejection.status, 413, "{}", rejection.message);
    rejection.message
}

/// Two or three bytes each, hundreds of bytes as structs.
fn operations(count: usize) -> [(Media, Vec<u8>); 2] {
    let list = vec!["{}"; count].join(",");
    let json = format!(r#"{{"type":"ACCEPT","framework_id":{{"value":"x"}},"accept":{{"operations":[{list}]}}}}"#);
    let accept = v1::scheduler::call::Accept { operations: vec![Default::default(); count], ..Default::default() };
    let mut call = v1::scheduler::Call { accept: Some(accept), ..Default::default() };
    call.set_type(v1::scheduler::call::Type::Accept);
    // An operation without a type is no whole one; here it is only many.
    [(Media::Json, json.into_bytes()), (Media::Protobuf, call.encode_to_vec())]
}

#[test]
fn many_small_things_are_too_much() {
    for (media, body) in operations(2_000_000) {
        let message = refused::<v1::scheduler::Call>(media, body);
        assert!(
            message.ends_with(
                "Call protobuf: it takes more than 67108864 bytes of memory once it is decoded, the most for a message \
             of its length"
            ),
            "{message}"
        );
    }
    for (media, body) in operations(1_000) {
        refused::<v1::scheduler::Call>(media, body);
    }
    for (media, body) in operations(20) {
        assert!(
            media.decode::<v1::scheduler::Call>(body.into()).is_ok(),
            "a short body may take a little, whatever it holds"
        );
    }
}

#[test]
fn what_a_later_key_replaces_counts_too() {
    let list = vec!["{}"; 100_000].join(",");
    let text = format!(r#"{{"accept":{{"operations":[{list}]}},"accept":{{}},"type":"ACCEPT"}}"#);
    refused::<v1::scheduler::Call>(Media::Json, text.into_bytes());
}

/// Each piece of a message in two is joined on every level that it is nested in.
#[test]
fn pieces_within_pieces_are_not_copied_without_end() {
    fn length(mut length: usize, out: &mut Vec<u8>) {
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
    }
    // ContainerID: value = 1, parent = 2.
    let mut inner = vec![0x0a];
    length(1_000_000, &mut inner);
    inner.extend(vec![b'x'; 1_000_000]);
    for _ in 0..90 {
        let mut outer = vec![0x0a, 1, b'c', 0x12, 0, 0x12];
        length(inner.len(), &mut outer);
        outer.extend_from_slice(&inner);
        inner = outer;
    }
    refused::<v1::ContainerId>(Media::Protobuf, inner);
}

/// Calls as frameworks make them stay far below their budget.
#[test]
fn honest_calls_have_room() {
    let resource = |name: &str, value: f64| {
        let mut resource = v1::Resource { name: name.into(), ..Default::default() };
        resource.set_type(v1::value::Type::Scalar);
        resource.scalar = Some(v1::value::Scalar { value });
        resource
    };
    let task = |n: usize| v1::TaskInfo {
        name: "t".into(),
        task_id: v1::TaskId { value: n.to_string() },
        agent_id: v1::AgentId { value: "a1".into() },
        resources: vec![resource("cpus", 0.1), resource("mem", 32.0)],
        command: Some(v1::CommandInfo { shell: Some(true), value: Some("true".into()), ..Default::default() }),
        ..Default::default()
    };
    let launch = v1::offer::operation::Launch { task_infos: (0..limits::CALL_TASKS_MAX).map(task).collect() };
    let mut operation = v1::offer::Operation { launch: Some(launch), ..Default::default() };
    operation.set_type(v1::offer::operation::Type::Launch);
    let mut call = v1::scheduler::Call {
        accept: Some(v1::scheduler::call::Accept { operations: vec![operation], ..Default::default() }),
        ..Default::default()
    };
    call.set_type(v1::scheduler::call::Type::Accept);
    for media in [Media::Json, Media::Protobuf] {
        let body = media.encode(&call);
        let (length, mut budget) = (body.len(), Budget::of_body(body.len()));
        let decoded: v1::scheduler::Call = media.decode_within(body, &mut budget).expect("room");
        assert!(decoded == call, "the same call");
        let most = limits::decoded_bytes_max(length);
        assert!(budget.spent_bytes() < most / 2, "{media:?}: {} of {most} for {length}", budget.spent_bytes());
    }
}
