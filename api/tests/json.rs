//! What clients send that is not quite what we would write. Numbers in names are those of the list of what real
//! clients demand.

use api::json::{from_slice, to_string};
use api::v1::{self, agent, executor, master, scheduler};
use expect_test::{Expect, expect};

fn call(text: &str) -> scheduler::Call {
    from_slice(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: impl AsRef<[u8]>, expected: Expect) {
    expected.assert_eq(&from_slice::<scheduler::Call>(text.as_ref()).expect_err("refused").to_string());
}

/// Demand 2 and 4: one line, and one byte for each character.
#[test]
fn demand_2_and_4_output_is_one_line_of_ascii() {
    let status = v1::TaskStatus { message: Some("é\n😀\u{7f}\"\\".into()), ..Default::default() };
    expect![[r#"{"task_id":{"value":""},"state":"TASK_STAGING","message":"\u00e9\n\ud83d\ude00\u007f\"\\"}"#]]
        .assert_eq(&to_string(&v1::TaskStatus { state: v1::TaskState::TaskStaging.into(), ..status }));
}

#[test]
fn demand_11_null_is_absent() {
    let nulls = call(r#"{"framework_id":null,"type":"REVIVE","accept":null,"revive":{"roles":null}}"#);
    assert_eq!(nulls, call(r#"{"type":"REVIVE","revive":{}}"#));
    let call = call(r#"{"type":"ACCEPT","accept":{"offer_ids":[null,{"value":"o"},null],"filters":null}}"#);
    assert_eq!(call.accept.expect("accept").offer_ids.len(), 1);
}

#[test]
fn demand_12_unknown_is_left_out_and_numbers_may_be_strings() {
    let text = r#"{"type":"SUBSCRIBE","subscribe":{"credentials":{"a":[1,{"b":"}"}]},"framework_info":{"user":"u",
        "name":"n","failover_timeout":"1.5","checkpoint":"true","capabilities":[{"type":"NO_SUCH"},{"type":"MULTI_ROLE"}]}}}"#;
    let info = call(text).subscribe.expect("subscribe").framework_info;
    assert_eq!((info.failover_timeout, info.checkpoint), (Some(1.5), Some(true)));
    expect![[r#"[Capability { r#type: None }, Capability { r#type: Some(MultiRole) }]"#]]
        .assert_eq(&format!("{:?}", info.capabilities));
    let range: v1::value::Range = from_slice(br#"{"begin":"31000","end":31001.0}"#).expect("a range");
    assert_eq!((range.begin, range.end), (31000, 31001));
    let range: v1::value::Range = from_slice(br#"{"begin":0,"end":18446744073709551615}"#).expect("a range");
    assert_eq!(range.end, u64::MAX);
}

/// Demand 13: required fields are always there, and explicit defaults where nothing is set.
#[test]
fn demand_13_defaults_and_required_fields_are_written() {
    expect![[r#"{"user":"","name":"","failover_timeout":0.0,"checkpoint":false}"#]]
        .assert_eq(&to_string(&v1::FrameworkInfo::default()));
    expect![[r#"{"refuse_seconds":5.0}"#]].assert_eq(&to_string(&v1::Filters::default()));
    expect![[r#"{"hostname":"","port":5051}"#]].assert_eq(&to_string(&v1::AgentInfo::default()));
    expect![[r#"{"type":"GET_AGENTS","get_agents":{"agents":[],"recovered_agents":[]}}"#]].assert_eq(&to_string(
        &master::Response {
            r#type: Some(master::response::Type::GetAgents.into()),
            get_agents: Some(Default::default()),
            ..Default::default()
        },
    ));
}

#[test]
fn the_last_of_equal_keys_wins() {
    let call = call(
        r#"{"type":3,"type":"KILL","kill":{},"kill":{"task_id":{"value":"a"},"task_id":{"value":"b"}},"type":"ACCEPT"}"#,
    );
    assert_eq!(call.r#type(), scheduler::call::Type::Accept);
    assert_eq!(call.kill.expect("kill").task_id.value, "b");
    let call: scheduler::Call = from_slice(br#"{"type":"KILL","type":null}"#).expect("a call");
    assert_eq!(call.r#type, None);
    refused(
        r#"{"kill":{"task_id":{"value":"a"}},"kill":{}}"#,
        expect!["Failed to convert JSON into Call protobuf: Missing required fields: kill.task_id"],
    );
}

#[test]
fn numbers() {
    let scalar = |text: &str| from_slice::<v1::value::Scalar>(format!("{{\"value\":{text}}}").as_bytes());
    assert_eq!(scalar("\"Infinity\"").expect("read").value, f64::INFINITY);
    assert_eq!(scalar("\"-Infinity\"").expect("read").value, f64::NEG_INFINITY);
    assert_eq!(scalar("12").expect("read").value, 12.0);
    for wrong in ["1e999", "\"\"", "\"inf\"", "\"1x\"", "true", "{}", "[1]"] {
        assert!(scalar(wrong).is_err(), "{wrong}");
    }
    let port = |text: &str| from_slice::<v1::Address>(format!("{{\"port\":{text}}}").as_bytes());
    assert_eq!(port("-1").expect("read").port, -1);
    for wrong in ["2147483648", "1.5", "1e400", "99999999999999999999999999999999999999999", "\"\"", "false"] {
        assert!(port(wrong).is_err(), "{wrong}");
    }
    for (value, text) in [(0.1, "0.1"), (1.0, "1.0"), (1e15, "1000000000000000.0"), (-0.0, "-0.0"), (1e300, "1e300")] {
        assert_eq!(to_string(&v1::value::Scalar { value }), format!("{{\"value\":{text}}}"));
    }
}

#[test]
fn bytes_are_base64() {
    let data = |text: &str| from_slice::<executor::call::Message>(format!("{{\"data\":\"{text}\"}}").as_bytes());
    assert_eq!(&data("aGk=").expect("padded").data[..], b"hi");
    assert_eq!(&data("aGk").expect("bare").data[..], b"hi");
    assert_eq!(&data("").expect("empty").data[..], b"");
    for wrong in ["a", "aG k", "aGk==", "!!!!", "a-_w"] {
        assert!(data(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_is_no_json() {
    refused("", expect!["Failed to parse body into JSON: syntax error at line 1 near: "]);
    refused("{\n\"a\":1,\n}", expect!["Failed to parse body into JSON: syntax error at line 3 near: }"]);
    refused("{'a':1}", expect!["Failed to parse body into JSON: syntax error at line 1 near: 'a':1}"]);
    refused("{\"a\":\"\\x\"}", expect![[r#"Failed to parse body into JSON: syntax error at line 1 near: x"}"#]]);
    refused("{\"a\":\"\\ud800\"}", expect![[r#"Failed to parse body into JSON: syntax error at line 1 near: "}"#]]);
    refused("{\"a\":01}", expect!["Failed to parse body into JSON: syntax error at line 1 near: 1}"]);
    refused(
        "{}x",
        expect!["Failed to parse body into JSON: Parsed JSON included non-whitespace trailing characters: x"],
    );
    refused(b"{\"type\":\"\xff\"}", expect!["Failed to parse body into JSON: not UTF-8 at byte 9"]);
    refused("{\"a\":".repeat(101), expect!["Failed to parse body into JSON: nested deeper than 100 levels"]);
    refused("[".repeat(1_000_000), expect!["Failed to parse body into JSON: nested deeper than 100 levels"]);
    // A syntax error far behind is told before a value that does not fit.
    refused("{\"type\":3,\"x\":}", expect!["Failed to parse body into JSON: syntax error at line 1 near: }"]);
}

#[test]
fn what_does_not_fit() {
    refused("null", expect!["Failed to convert JSON into Call protobuf: Expecting a JSON object"]);
    refused(
        r#"{"type":true}"#,
        expect!["Failed to convert JSON into Call protobuf: Not expecting a JSON boolean for field 'type'"],
    );
    refused(
        r#"{"type":["KILL"]}"#,
        expect!["Failed to convert JSON into Call protobuf: Not expecting a JSON array for field 'type'"],
    );
    refused(
        r#"{"kill":[]}"#,
        expect!["Failed to convert JSON into Call protobuf: Not expecting a JSON array for field 'kill'"],
    );
    refused(
        r#"{"accept":{"offer_ids":[{"value":"a"},7]}}"#,
        expect!["Failed to convert JSON into Call protobuf: Not expecting a JSON number for field 'offer_ids'"],
    );
    refused(
        r#"{"acknowledge":{"uuid":"*"}}"#,
        expect!["Failed to convert JSON into Call protobuf: Field 'uuid' is not base64: Invalid symbol 42, offset 0."],
    );
}

#[test]
fn what_is_missing() {
    refused(
        r#"{"accept":{"operations":[{"launch":{"task_infos":[{},{"name":"t","agent_id":{}}]}}]},"kill":{}}"#,
        expect![
            "Failed to convert JSON into Call protobuf: Missing required fields: accept.operations[0].launch.task_infos[0].name, accept.operations[0].launch.task_infos[0].task_id, accept.operations[0].launch.task_infos[0].agent_id, accept.operations[0].launch.task_infos[1].task_id, accept.operations[0].launch.task_infos[1].agent_id.value, kill.task_id"
        ],
    );
    let error = from_slice::<executor::Call>(b"{}").expect_err("missing");
    expect!["Failed to convert JSON into Call protobuf: Missing required fields: executor_id, framework_id"]
        .assert_eq(&error.to_string());
    // A name that a required enum does not have is as good as none.
    let error = from_slice::<v1::Attribute>(br#"{"name":"a","type":"NO_SUCH"}"#).expect_err("missing");
    expect!["Failed to convert JSON into Attribute protobuf: Missing required fields: type"]
        .assert_eq(&error.to_string());
}

#[test]
fn durations_of_protobuf_have_no_text_form() {
    let text = r#"{"type":"DRAIN_AGENT","drain_agent":{"agent_id":{"value":"a"},"max_grace_period":{"seconds":10,"nanos":5}}}"#;
    let call: master::Call = from_slice(text.as_bytes()).expect("a call");
    let drain = call.drain_agent.clone().expect("drain");
    assert_eq!(drain.max_grace_period.map(|period| (period.seconds, period.nanos)), Some((10, 5)));
    assert_eq!(to_string(&call), text.replace("}}}", "},\"mark_gone\":false}}"));
    let _: agent::Call = from_slice(br#"{"type":"GET_HEALTH"}"#).expect("a call");
}

/// Requests made to cost much: the time must grow with their length, not with its square.
#[test]
fn hostile_requests_are_cheap() {
    let tasks = "{},".repeat(20_000);
    let kinds = "\"type\":\"KILL\",".repeat(100_000);
    let text = format!(
        "{{\"accept\":{{\"operations\":[{{\"launch\":{{\"task_infos\":[{tasks}{{}}]}}}}]}},{kinds}\"type\":null}}"
    );
    let error = from_slice::<scheduler::Call>(text.as_bytes()).expect_err("missing").to_string();
    assert!(error.ends_with(", ...") && error.len() < 20_000, "{} bytes", error.len());
    let deep = format!("{}{}{}", "{\"value\":\"c\",\"parent\":".repeat(90), 7, "}".repeat(90));
    assert!(from_slice::<v1::ContainerId>(deep.as_bytes()).is_err());
    // The same in protobuf: pieces of one message between items of a list.
    let mut bytes = vec![];
    for _ in 0..200_000 {
        bytes.extend_from_slice(&[0x0a, 0, 0x12, 0]);
    }
    assert!(api::required::missing::<v1::offer::operation::LaunchGroup>(&bytes).len() <= 200);
}
