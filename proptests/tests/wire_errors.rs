//! Malformed and odd requests get the status, the headers and the text that Mesos's clients know. The tables are in
//! `testdata/`: one JSON object a line, `{FRAMEWORK}`, `{STREAM}`, `{AGENT}` and `{LEADER}` standing for those of the run.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use proptests::cluster::{Cluster, Plan};
use proptests::framework::{Framework, Records, SCHEDULER, info};
use proptests::http::{self, Request};
use serde_json::{Value, json};

fn table(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    let text = std::fs::read_to_string(path).expect("the table");
    text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect()
}

fn web_framework() -> Value {
    json!({"user": "root", "name": "web-fw", "roles": ["web"], "capabilities": [{"type": "MULTI_ROLE"}],
        "failover_timeout": 600.0})
}

/// What is different from the row, as lines; nothing when all is equal.
fn differences(cluster: &Cluster, row: &Value, substitute: &impl Fn(&str) -> String) -> String {
    let text = |key: &str| row[key].as_str().unwrap_or_default();
    let mut request = Request {
        method: text("method").into(),
        path: substitute(text("path")),
        body: substitute(text("body")).into(),
        ..Request::default()
    };
    for header in row["headers"].as_array().expect("headers") {
        request = request.header(header[0].as_str().unwrap(), &substitute(header[1].as_str().unwrap()));
    }
    let address = cluster.address(if row["to"] == "agent" { "a0" } else { "m0" });
    let answer = match http::send(address, &request) {
        Ok(answer) => answer,
        Err(error) => return format!("  no answer: {error}\n"),
    };
    let mut found = String::new();
    if row["status"] != answer.status() {
        let _ = writeln!(found, "  status {} instead of {} {:?}", answer.status(), row["status"], answer.text());
    }
    for (name, wanted) in row["answer_headers"].as_object().expect("headers") {
        let wanted = substitute(wanted.as_str().unwrap());
        let had = answer.head.header(name).unwrap_or("(absent)");
        // A redirect may name its host or its address; the port tells which master.
        let same = if name == "Location" { had.rsplit(':').next() == wanted.rsplit(':').next() } else { had == wanted };
        if !same {
            let _ = writeln!(found, "  {name}: {had:?} instead of {wanted:?}");
        }
    }
    if let Some(wanted) = row["text"].as_str().map(substitute)
        && answer.text() != wanted
    {
        let _ = writeln!(found, "  text {:?}\n instead {wanted:?}", answer.text());
    }
    found
}

#[test]
fn every_answer_of_the_table() {
    let cluster = Plan::new().agents(1).start();
    let framework = Framework::subscribe(cluster.address("m0"), &web_framework());
    let agent = cluster.get("m0", "/slaves")["slaves"][0]["id"].as_str().expect("an agent").to_owned();
    let leader = format!("//{}", cluster.address("m0"));
    let substitute = |text: &str| {
        text.replace("{FRAMEWORK}", &framework.id)
            .replace("{STREAM}", &framework.stream_id)
            .replace("{AGENT}", &agent)
            .replace("{LEADER}", &leader)
    };
    let mut report = String::new();
    let rows = table("wire_answers.jsonl");
    let mut wrong = 0;
    for row in &rows {
        let found = differences(&cluster, row, &substitute);
        if !found.is_empty() {
            wrong += 1;
            let _ = write!(report, "{}: {} {} {}\n{found}", row["name"], row["method"], row["path"], row["body"]);
        }
    }
    assert!(report.is_empty(), "{wrong} of {} answers differ:\n{report}", rows.len());
}

#[test]
fn every_subscription_of_the_table() {
    let cluster = Plan::new().start();
    let mut report = String::new();
    for row in table("subscribe_answers.jsonl") {
        let request = Request::post_json(SCHEDULER, &row["request"].to_string());
        let stream = http::open(cluster.address("m0"), &request).expect("an answer");
        let status = stream.head.status;
        if row["status"] != status {
            let text = stream.finish().map(|answer| answer.text()).unwrap_or_default();
            let _ = writeln!(report, "{}: {status} {text:?} instead of {}", row["name"], row["status"]);
            continue;
        }
        if status != 200 {
            let text = stream.finish().expect("a body").text();
            if row["text"] != text {
                let _ = writeln!(report, "{}: {text:?} instead of {}", row["name"], row["text"]);
            }
            continue;
        }
        let mut records = Records::new(stream);
        let mut next = || -> Value {
            let record = records.next(http::PATIENCE).expect("a record or the end");
            record.map_or(json!("the end"), |record| serde_json::from_slice(&record).expect("JSON"))
        };
        let first = next();
        let (wanted, had) = match row["error"].as_str() {
            Some(_) => (row["error"].clone(), first["error"]["message"].clone()),
            None => (json!("SUBSCRIBED"), first["type"].clone()),
        };
        if wanted != had {
            let _ = writeln!(report, "{}: {first} instead of {wanted}", row["name"]);
            continue;
        }
        let second = next();
        let right = if row["error"].is_string() { second == "the end" } else { second["type"] == "HEARTBEAT" };
        if !right {
            let _ = writeln!(report, "{}: then {second}", row["name"]);
        }
        if let Some(id) = row["framework_id"].as_str()
            && first["subscribed"]["framework_id"]["value"] != id
        {
            let _ = writeln!(report, "{}: the id is not kept: {first}", row["name"]);
        }
    }
    assert!(report.is_empty(), "{report}");
}

#[test]
fn a_second_stream_ends_the_first() {
    let cluster = Plan::new().start();
    let mut first = Framework::subscribe(cluster.address("m0"), &web_framework());
    let mut again = web_framework();
    again["id"] = json!({"value": first.id});
    let second = Framework::subscribe(cluster.address("m0"), &again);
    assert_eq!(second.id, first.id);
    assert_ne!(second.stream_id, first.stream_id);

    let message = first.wait("the end of the first stream", |event| {
        (event["type"] == "ERROR").then(|| event["error"]["message"].clone())
    });
    assert_eq!(message, "Framework failed over");
    assert_eq!(first.event(Duration::from_secs(10)), None, "and it is closed");

    let old = first.try_call(json!({"type": "REVIVE"}));
    assert_eq!(old.status(), 400);
    assert_eq!(
        old.text(),
        format!(
            "The stream ID '{}' included in this request didn't match the stream ID currently associated with \
             framework ID {}",
            first.stream_id, first.id
        )
    );
}

#[test]
fn after_teardown_the_framework_is_gone() {
    let cluster = Plan::new().start();
    let mut framework = Framework::subscribe(cluster.address("m0"), &web_framework());
    framework.teardown();
    while let Some(event) = framework.event(Duration::from_secs(10)) {
        assert_eq!(event["type"], "HEARTBEAT");
    }
    let after = framework.try_call(json!({"type": "REVIVE"}));
    assert_eq!((after.status(), after.text().as_str()), (400, "Framework cannot be found"));

    let mut again = web_framework();
    again["id"] = json!({"value": framework.id});
    let refused = Framework::try_subscribe(cluster.address("m0"), &again).expect_err("it was removed");
    assert!(refused.contains("Framework has been removed"), "{refused}");
}

/// Whatever is sent, the connection is answered, and the master is as well as before.
#[test]
fn nonsense_is_answered() {
    let cluster = Plan::new().start();
    let address = cluster.address("m0");
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_object = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    let mut bad_utf8 = br#"{"type":"REVIVE","framework_id":{"value":""#.to_vec();
    bad_utf8.extend_from_slice(b"\xff\xfe\"}}");
    let bodies: [(&str, Vec<u8>); 5] = [
        ("deep array", deep.into_bytes()),
        ("deep object", deep_object.into_bytes()),
        ("bad UTF-8", bad_utf8),
        ("a NUL", b"{\"type\":\"\0\"}".to_vec()),
        ("a lone surrogate", br#"{"type":"\ud800"}"#.to_vec()),
    ];
    for (what, body) in bodies {
        for path in [SCHEDULER, "/api/v1"] {
            let mut request = Request::post_json(path, "");
            request.body.clone_from(&body);
            let answer = http::send(address, &request).unwrap_or_else(|error| panic!("{what} to {path}: {error}"));
            assert_eq!(answer.status(), 400, "{what} to {path}: {}", answer.text());
        }
        let request = Request::post_protobuf(SCHEDULER, body);
        let answer = http::send(address, &request).unwrap_or_else(|error| panic!("{what} as protobuf: {error}"));
        assert_eq!(answer.status(), 400, "{what} as protobuf: {}", answer.text());
    }
    Framework::subscribe(address, &info("after all that"));
}
