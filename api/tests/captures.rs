//! Every v1 JSON body recorded from Mesos 1.11 is read, and written again with the same content. Answers that are
//! stored byte for byte are written again byte for byte.

use std::path::PathBuf;

use api::json;
use api::v1::{agent, executor, master, scheduler};
use api::wire::Wire;
use serde_json::Value;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/mesos-1.11")
}

/// Files of the folder whose names begin with one of `prefixes`.
fn files(prefixes: &[&str]) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = std::fs::read_dir(folder())
        .expect("captures")
        .map(|entry| entry.expect("entry").path())
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.to_owned();
            let wanted = name.ends_with(".json") && prefixes.iter().any(|prefix| name.starts_with(prefix));
            wanted.then(|| (name, std::fs::read_to_string(&path).expect("text")))
        })
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no files {prefixes:?}");
    found
}

/// Numbers are equal by value: a request may say 2 where we say 2.0.
fn same(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

/// The text with every decimal fraction in its shortest form: Mesos sometimes writes a digit more than it needs.
fn shortest(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(|each: char| each.is_ascii_digit()) {
        out.push_str(&rest[..at]);
        let end =
            rest[at..].find(|each: char| !each.is_ascii_digit() && each != '.').map_or(rest.len(), |end| at + end);
        let token = &rest[at..end];
        match token.parse::<f64>() {
            Ok(value) if token.contains('.') => out.push_str(&format!("{value:?}")),
            _ => out.push_str(token),
        }
        rest = &rest[end..];
    }
    out + rest
}

/// What Mesos wrote, we write again, in the same order of fields.
fn rewritten<T: Wire>(name: &str, theirs: &str) {
    let message: T = json::from_slice(theirs.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let ours = json::to_string(&message);
    // A hash map's order is nobody's promise.
    if name.starts_with("sub-") || name == "v1-get-quota.json" {
        let values: [Value; 2] = [&ours, theirs].map(|text| serde_json::from_str(text).expect("JSON"));
        assert!(same(&values[0], &values[1]), "{name}:\nours   {ours}\ntheirs {theirs}");
        return;
    }
    // Some files were given white space when they were stored.
    let bare = theirs.trim().replace("\": ", "\":").replace("}, {", "},{").replace(", \"", ",\"");
    assert_eq!(shortest(&ours), shortest(&bare), "{name}");
}

#[test]
fn answers_of_a_master() {
    for (name, text) in files(&["v1-", "err-v1-unknown-field"]) {
        rewritten::<master::Response>(&name, &text);
    }
}

#[test]
fn answers_of_an_agent() {
    for (name, text) in files(&["agent-v1-", "agent-running-v1-"]) {
        rewritten::<agent::Response>(&name, &text);
    }
}

#[test]
fn events_for_schedulers() {
    for (name, text) in files(&["event-"]) {
        rewritten::<scheduler::Event>(&name, &text);
    }
    for (name, text) in files(&["sub-"]) {
        let capture: Value = serde_json::from_str(&text).expect("JSON");
        for event in capture["events"].as_array().expect("events").iter().filter(|event| event["type"] != "_CLOSED") {
            rewritten::<scheduler::Event>(&name, &event.to_string());
        }
    }
}

#[test]
fn events_for_operators() {
    for (name, text) in files(&["master-event-"]) {
        rewritten::<master::Event>(&name, &text);
    }
}

/// A request holds what its sender chose to say; what we write must hold all of it that the schema knows.
fn holds(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => b.iter().all(|(key, b)| match a.get(key) {
            Some(a) => holds(a, b),
            // Empty lists are not written, unknown fields not kept.
            None => b.as_array().is_some_and(Vec::is_empty) || key == "nosuch" || b == "NO_SUCH",
        }),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| holds(a, b)),
        (a, b) => same(a, b),
    }
}

fn reread<T: Wire>(name: &str, text: &str) {
    let message: T = json::from_slice(text.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}: {text}"));
    let ours = json::to_value(&message);
    let theirs: Value = serde_json::from_str(text).expect("JSON");
    assert!(holds(&ours, &theirs), "{name}:\nours   {ours}\ntheirs {theirs}");
}

#[test]
fn subscriptions() {
    for (name, text) in files(&["sub-"]) {
        let capture: Value = serde_json::from_str(&text).expect("JSON");
        reread::<scheduler::Call>(&name, &capture["request"].to_string());
    }
    for (name, text) in files(&["sched-subscribe-request"]) {
        reread::<scheduler::Call>(&name, &text);
    }
}

/// The rows of the table of requests: name, method and path, request body, status, answer.
fn rows() -> Vec<(String, String, String, String, String)> {
    let table = std::fs::read_to_string(folder().join("README.md")).expect("README.md");
    table
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.trim().strip_prefix("| ")?.split(" | ").collect();
            let [name, request, status, _, answer] = cells[..] else { return None };
            let path = request.split('`').nth(1)?.to_owned();
            let body = request.split_once("<br>body `").map_or("", |(_, body)| body.strip_suffix('`').unwrap_or(body));
            let answer = answer.trim_end_matches(" |").trim_matches('`');
            Some((name.into(), path, body.into(), status.into(), answer.into()))
        })
        .collect()
}

#[test]
fn request_bodies_of_the_table() {
    let mut read = 0;
    for (name, path, body, status, _) in rows() {
        // A body that was too long for its row was cut off there.
        if !status.starts_with('2') || serde_json::from_str::<Value>(&body).is_err() {
            continue;
        }
        // One body has another message in the place of a google.protobuf.Duration, one the same key twice.
        if ["v1-drain-agent", "err-v1-duplicate-key"].contains(&name.as_str()) {
            continue;
        }
        match path.as_str() {
            "POST /api/v1" if name.starts_with("agent-") => reread::<agent::Call>(&name, &body),
            "POST /api/v1" => reread::<master::Call>(&name, &body),
            "POST /api/v1/scheduler" => reread::<scheduler::Call>(&name, &body),
            "POST /api/v1/executor" => reread::<executor::Call>(&name, &body),
            _ => continue,
        }
        read += 1;
    }
    assert!(read > 60, "{read} bodies were read");
}

/// The status 400 and its text where the body itself is to blame, not what it asks for.
#[test]
fn refused_bodies_of_the_table() {
    let mut refused = 0;
    for (name, path, body, _, answer) in rows() {
        if !answer.starts_with("Failed to parse body into JSON") && !answer.starts_with("Failed to convert JSON") {
            continue;
        }
        let error = match path.as_str() {
            "POST /api/v1" if name.starts_with("agent-") => json::from_slice::<agent::Call>(body.as_bytes()).err(),
            "POST /api/v1" => json::from_slice::<master::Call>(body.as_bytes()).err(),
            "POST /api/v1/scheduler" => json::from_slice::<scheduler::Call>(body.as_bytes()).err(),
            "POST /api/v1/executor" => json::from_slice::<executor::Call>(body.as_bytes()).err(),
            other => panic!("{name}: {other}"),
        };
        let text = error.unwrap_or_else(|| panic!("{name}: {body} was read")).to_string();
        assert_eq!(text.trim_end(), answer.trim_end(), "{name}: {body}");
        refused += 1;
    }
    assert!(refused > 12, "{refused} bodies were refused");
}

#[test]
fn protobuf_and_json_say_the_same() {
    use base64::Engine;
    let text = std::fs::read_to_string(folder().join("err-v1-unknown-field.json")).expect("JSON");
    let from_json: master::Response = json::from_slice(text.as_bytes()).expect("a response");
    for name in ["err-v1-accept-protobuf.txt.base64", "err-v1-protobuf-both.txt.base64"] {
        let encoded: String =
            std::fs::read_to_string(folder().join(name)).expect("base64").split_whitespace().collect();
        let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).expect("base64");
        let response: master::Response = api::decode_protobuf(bytes.clone()).expect("a response");
        assert_eq!(response, from_json);
        assert_eq!(api::Media::Protobuf.encode(&response), bytes, "the same bytes");
    }
}

/// The stream as it came over the wire: one record in each chunk.
#[test]
fn records_of_a_stream() {
    let raw = std::fs::read(folder().join("sched-subscribe-raw-response.txt")).expect("bytes");
    let head = raw.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let mut rest = &raw[head + 4..];
    let mut decoder = api::recordio::Decoder::new(1 << 20);
    let mut types = vec![];
    while let Some(line) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).expect("text"), 16).expect("a size");
        let chunk = rest.get(line + 2..line + 2 + size).expect("a whole chunk");
        rest = &rest[line + 2 + size + 2..];
        decoder.push(chunk);
        let mut records = 0;
        while let Some(record) = decoder.next() {
            let record = record.expect("a record");
            let event: scheduler::Event = json::from_slice(&record).expect("an event");
            assert_eq!(api::Media::Json.encode_record(&event), chunk, "the same chunk");
            types.push(event.r#type().as_str_name());
            records += 1;
        }
        assert!(records == 1 && decoder.is_between_records());
    }
    assert_eq!(types[..2], ["SUBSCRIBED", "HEARTBEAT"]);
}
