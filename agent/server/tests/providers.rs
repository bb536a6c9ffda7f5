//! Providers of resources of real agents: their calls and their stream, what the masters hear, and what is made ready for tasks.

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use api::internal::{self, from_agent, order, to_agent};
use api::limits::{
    AGENT_OPERATIONS_MAX, AGENT_PROVIDERS_BYTES_MAX, AGENT_PROVIDERS_MAX, NAME_BYTES_MAX, OPERATION_BYTES_MAX, cut,
};
use api::media::Media;
use api::v1::offer::{Operation, operation};
use api::v1::resource_provider::{Call, Event};
use api::v1::{self, OperationState, TaskState, task_status::Reason};
use common::{Master, PATIENCE, RealAgent, http, task};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const PATH: &str = "/api/v1/resource_provider";
const JSON: &str = "Content-Type: application/json\r\nAccept: application/json\r\n";
/// base64 of 16 bytes.
const VERSION: &str = "BwcHBwcHBwcHBwcHBwcHBw==";

/// A provider of a few lines, in one encoding or the other.
struct Provider {
    address: String,
    media: Media,
    id: String,
    stream_id: String,
    body: BufReader<TcpStream>,
}

fn info(id: Option<&str>) -> Value {
    let mut info = json!({ "type": "org.example.disks", "name": "a" });
    if let Some(id) = id {
        info["id"] = json!({ "value": id });
    }
    info
}

fn encoded(media: Media, call: &Value) -> bytes::Bytes {
    media.encode::<Call>(&api::json::from_slice(call.to_string().as_bytes()).unwrap())
}

/// Status and text of the answer to a request as it stands.
async fn post(address: &str, head: &str, body: &[u8]) -> (u16, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let head =
        format!("POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}Content-Length: {length}\r\n\r\n");
    socket.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

impl Provider {
    /// With its SUBSCRIBED; the answer if there is none.
    async fn subscribe(agent: &RealAgent, id: Option<&str>) -> Result<Provider, String> {
        Provider::subscribe_in(Media::Json, agent, id).await
    }

    async fn subscribe_in(media: Media, agent: &RealAgent, id: Option<&str>) -> Result<Provider, String> {
        let call = json!({ "type": "SUBSCRIBE", "subscribe": { "resource_provider_info": info(id) } });
        let call = encoded(media, &call);
        let mut socket = TcpStream::connect(&agent.address).await.unwrap();
        let (length, kind) = (call.len(), media.content_type());
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nAccept: {kind}\r\nContent-Length: {length}\r\n\r\n"
        );
        socket.write_all(&[head.as_bytes(), &call].concat()).await.unwrap();
        let mut body = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(body.read_line(&mut head).await.unwrap() > 0, "{head}");
        }
        if !head.starts_with("HTTP/1.1 200") {
            return Err(head);
        }
        let lower = head.to_lowercase();
        assert!(lower.contains(&format!("content-type: {kind}\r\n")), "{head}");
        let stream_id = lower.split("mesos-stream-id: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
        let mut provider = Provider { address: agent.address.clone(), media, id: String::new(), stream_id, body };
        let event = provider.event().await.expect("an event");
        assert_eq!(event["type"], "SUBSCRIBED");
        provider.id = event["subscribed"]["provider_id"]["value"].as_str().unwrap().to_owned();
        Ok(provider)
    }

    /// The next event: each is a chunk. None if the stream ended.
    async fn event(&mut self) -> Option<Value> {
        let read = async {
            let mut line = String::new();
            if self.body.read_line(&mut line).await.unwrap_or(0) == 0 {
                return None;
            }
            let length = usize::from_str_radix(line.trim(), 16).unwrap();
            let mut chunk = vec![0; length + 2];
            self.body.read_exact(&mut chunk).await.ok()?;
            // The last one.
            if length == 0 {
                return None;
            }
            let at = chunk.iter().position(|byte| *byte == b'\n').unwrap();
            let event: Event = self.media.decode(chunk[at + 1..length].to_vec().into()).unwrap();
            serde_json::from_slice(&api::json::to_vec(&event)).unwrap()
        };
        tokio::time::timeout(PATIENCE, read).await.expect("an event or the end")
    }

    async fn call(&self, kind: &str, body: Value) -> (u16, String) {
        let call = json!({ "type": kind, "resource_provider_id": { "value": self.id }, kind.to_lowercase(): body });
        let head = format!("Content-Type: {}\r\nMesos-Stream-Id: {}\r\n", self.media.content_type(), self.stream_id);
        post(&self.address, &head, &encoded(self.media, &call)).await
    }

    fn disk(&self) -> Value {
        let source = json!({ "type": "MOUNT", "mount": { "root": "/nowhere" }, "id": "d", "profile": "fast" });
        json!({ "name": "disk", "type": "SCALAR", "scalar": { "value": 64.0 }, "provider_id": { "value": self.id },
                "disk": { "source": source } })
    }

    async fn says(&self, operations: Value) -> (u16, String) {
        let state = json!({
            "resources": [self.disk()], "operations": operations, "resource_version_uuid": { "value": VERSION },
        });
        self.call("UPDATE_STATE", state).await
    }

    async fn reports(&self, event: &Value, state: &str) -> (u16, String) {
        let status = json!({ "state": state, "resource_provider_id": { "value": self.id }, "uuid": { "value": VERSION },
                             "converted_resources": [self.disk()] });
        let operation = &event["apply_operation"]["operation_uuid"];
        self.call("UPDATE_OPERATION_STATUS", json!({ "status": status, "operation_uuid": operation })).await
    }
}

impl Master {
    async fn taker() -> Master {
        let master = Master::start().await;
        master.known.lock().takes_providers = true;
        master.known.lock().tells = true;
        master
    }

    /// Waits until the last that was said of providers is so.
    async fn hears(&self, what: &str, condition: impl Fn(&[internal::Provider]) -> bool) {
        self.wait(what, |known| {
            let lists = known.messages.iter().filter_map(|message| match &message.message {
                Some(from_agent::Message::Providers(list)) => Some(&list.providers),
                _ => None,
            });
            lists.last().is_some_and(|list| condition(list)).then_some(())
        })
        .await;
    }

    fn provide(&self, name: u8, provider: &Provider, version: u8) {
        let source: v1::Resource = api::json::from_slice(provider.disk().to_string().as_bytes()).unwrap();
        self.decide(name, create_disk(name, source), &provider.id, vec![version; 16].into());
    }

    fn decide(&self, name: u8, info: Operation, provider_id: &str, resource_version: bytes::Bytes) {
        self.order(order::Order::ApplyOperation(internal::ApplyOperation {
            operation: vec![name; 16].into(),
            framework_id: common::framework().id,
            info,
            checkpointed_resources: Vec::new(),
            provider: Some(internal::apply_operation::OfProvider {
                id: v1::ResourceProviderId { value: provider_id.to_owned() },
                resource_version,
            }),
        }));
    }
}

fn create_disk(name: u8, source: v1::Resource) -> Operation {
    let target_type = v1::resource::disk_info::source::Type::Mount as i32;
    Operation {
        r#type: Some(operation::Type::CreateDisk as i32),
        id: Some(v1::OperationId { value: format!("o{name}") }),
        create_disk: Some(Box::new(operation::CreateDisk { source, target_type, ..Default::default() })),
        ..Default::default()
    }
}

async fn call(agent: &RealAgent, call: Value) -> (u16, String) {
    let (head, body) = http(&agent.address, "POST", "/api/v1", JSON, &call.to_string()).await;
    (head[9..12].parse().unwrap(), body)
}

/// An agent that the masters know.
async fn start(master: &Master, dir: &Path, more: &[&str]) -> RealAgent {
    let hellos = |known: &common::Known| known.registers.len() + known.resumes.len();
    let before = hellos(&master.known.lock());
    let agent = RealAgent::start(&master.address, dir, more);
    master.wait("a hello", |known| (hellos(known) > before).then_some(())).await;
    let welcomed = async {
        // Until it has taken the welcome nobody subscribes.
        while http(&agent.address, "POST", PATH, JSON, "{}").await.0.starts_with("HTTP/1.1 503") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, welcomed).await.unwrap();
    agent
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_subscribes_says_what_it_has_and_comes_back_by_its_id() {
    let (master, dir) = (Master::taker().await, tempfile::tempdir().unwrap());
    let agent = start(&master, dir.path(), &[]).await;
    let mut first = Provider::subscribe(&agent, None).await.unwrap();
    assert_eq!(first.says(json!([])).await, (202, String::new()));
    master.hears("a disk", |list| list[0].state.as_ref().is_some_and(|state| state.total_resources.len() == 1)).await;
    let shown = call(&agent, json!({ "type": "GET_RESOURCE_PROVIDERS" })).await.1;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let shown = &shown["get_resource_providers"]["resource_providers"][0];
    assert_eq!(shown["resource_provider_info"]["name"], "a");
    assert_eq!(shown["total_resources"][0]["scalar"]["value"], 64.0);
    let state: Value = serde_json::from_str(&http(&agent.address, "GET", "/state", "", "").await.1).unwrap();
    assert_eq!(state["resources"]["disk"], 1088.0);
    assert_eq!(state["resource_providers"][0]["resource_provider_info"]["id"]["value"], first.id.as_str());
    // Another stream ends the one before, and its name is good no more.
    let second = Provider::subscribe(&agent, Some(&first.id)).await.unwrap();
    assert_eq!((first.event().await, &second.id), (None, &first.id));
    let (code, told) = first.says(json!([])).await;
    assert_eq!(code, 400, "{told}");
    assert!(told.contains("didn't match the stream ID"), "{told}");
    assert_eq!(second.says(json!([])).await.0, 202);
    // An agent that is started again knows it, and has nothing of it until it is back.
    agent.kill();
    let agent = start(&master, dir.path(), &[]).await;
    master.hears("its absence", |list| !list[0].is_subscribed).await;
    let id = second.id.clone();
    drop(second);
    let third = Provider::subscribe(&agent, Some(&id)).await.unwrap();
    assert_eq!(third.says(json!([])).await.0, 202);
    master.hears("its return", |list| list[0].is_subscribed && list[0].state.is_some()).await;
    drop(third);
    master.hears("its end", |list| !list[0].is_subscribed).await;
    let head = Provider::subscribe(&agent, Some("nobody")).await.err().unwrap();
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    let gone = json!({ "type": "MARK_RESOURCE_PROVIDER_GONE",
                       "mark_resource_provider_gone": { "resource_provider_id": { "value": id } } });
    assert_eq!(call(&agent, gone.clone()).await, (200, String::new()));
    master.hears("its end for good", <[_]>::is_empty).await;
    let (code, told) = call(&agent, gone).await;
    assert_eq!(code, 500);
    assert!(told.contains("Attempted to remove an unknown resource provider"), "{told}");
    assert!(Provider::subscribe(&agent, Some(&id)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_provider_must_not_say_is_refused() {
    let (master, dir) = (Master::taker().await, tempfile::tempdir().unwrap());
    let agent = start(&master, dir.path(), &[]).await;
    let mut provider = Provider::subscribe(&agent, None).await.unwrap();
    let version = json!({ "value": VERSION });
    let with = |change: Value| {
        let mut disk = provider.disk();
        disk.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({ "resources": [disk], "resource_version_uuid": version })
    };
    for (state, why) in [
        (with(json!({ "provider_id": { "value": "x" } })), "Inconsistent resource provider ID in 'update_state'"),
        (with(json!({ "allocation_info": { "role": "a" } })), "is allocated"),
        (with(json!({ "revocable": {} })), "is revocable"),
        (with(json!({ "scalar": { "value": -1.0 } })), ""),
        (json!({ "resources": [], "resource_version_uuid": { "value": "AAAA" } }), "have 16 bytes"),
    ] {
        let (code, told) = provider.call("UPDATE_STATE", state).await;
        assert_eq!(code, 400, "{told}");
        assert!(told.contains(why), "{told}");
    }
    let status = json!({ "status": { "state": "OPERATION_FINISHED" }, "operation_uuid": version });
    let (code, told) = provider.call("UPDATE_OPERATION_STATUS", status).await;
    assert_eq!(code, 400);
    assert!(told.contains("Inconsistent resource provider ID in 'update_operation_status'"), "{told}");
    let without = json!({ "type": "UPDATE_STATE", "resource_provider_id": { "value": provider.id },
                          "update_state": { "resource_version_uuid": version } });
    let told = http(&agent.address, "POST", PATH, JSON, &without.to_string()).await.1;
    assert_eq!(told, "All non-subscribe calls should include to 'Mesos-Stream-Id' header");
    for (call, why) in [
        (json!({ "type": "SUBSCRIBE" }), "Expecting 'subscribe' to be present"),
        (json!({ "type": "UPDATE_STATE" }), "Expecting 'resource_provider_id' to be present"),
        (json!({}), "Expecting 'type' to be present"),
    ] {
        let told = http(&agent.address, "POST", PATH, JSON, &call.to_string()).await.1;
        assert_eq!(told, format!("Failed to validate resource_provider::Call: {why}"));
    }
    let known = http(&agent.address, "GET", PATH, "", "").await.0;
    assert!(known.starts_with("HTTP/1.1 405"), "{known}");
    // One that has disks is not gone, and hears the end when it is.
    let gone = json!({ "type": "MARK_RESOURCE_PROVIDER_GONE",
                       "mark_resource_provider_gone": { "resource_provider_id": { "value": provider.id } } });
    assert_eq!(provider.says(json!([])).await.0, 202);
    let (code, told) = call(&agent, gone.clone()).await;
    assert_eq!(code, 500);
    assert!(told.ends_with("as gone: Resource provider has resources"), "{told}");
    let nothing = json!({ "resources": [], "resource_version_uuid": version });
    assert_eq!(provider.call("UPDATE_STATE", nothing).await.0, 202);
    assert_eq!(call(&agent, gone).await.0, 200);
    assert_eq!(provider.event().await.unwrap()["type"], "TEARDOWN");
    assert_eq!(provider.event().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_may_speak_protobuf() {
    let (master, dir) = (Master::taker().await, tempfile::tempdir().unwrap());
    let agent = start(&master, dir.path(), &[]).await;
    let mut provider = Provider::subscribe_in(Media::Protobuf, &agent, None).await.unwrap();
    assert_eq!(provider.says(json!([])).await, (202, String::new()));
    master.provide(1, &provider, 7);
    let event = provider.event().await.unwrap();
    assert_eq!(event["type"], "APPLY_OPERATION");
    assert_eq!(event["apply_operation"]["info"]["create_disk"]["source"], provider.disk());
    assert_eq!(provider.reports(&event, "OPERATION_FINISHED").await, (202, String::new()));
    assert_eq!(master.operation_ended(1).await.state(), OperationState::OperationFinished);
    // What is wrong is said in words, whatever was sent.
    let (code, told) = post(&agent.address, "Content-Type: application/x-protobuf\r\n", b"\xff\xff").await;
    assert_eq!(code, 400, "{told}");
    let head = format!("Content-Type: application/x-protobuf\r\nMesos-Stream-Id: {}\r\n", provider.stream_id);
    let nothing = Call { resource_provider_id: None, r#type: Some(2), ..Call::default() };
    let told = post(&agent.address, &head, &Media::Protobuf.encode(&nothing)).await;
    let why = "Failed to validate resource_provider::Call: Expecting 'resource_provider_id' to be present";
    assert_eq!(told, (400, why.to_owned()));
    // Bodies in one encoding may have a stream in the other.
    let id = provider.id.clone();
    let resubscribed = Provider::subscribe(&agent, Some(&id)).await.unwrap();
    assert_eq!((resubscribed.id.as_str(), provider.event().await), (id.as_str(), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_cannot_be_are_answered_with_what_is_wrong() {
    let (master, dir) = (Master::taker().await, tempfile::tempdir().unwrap());
    let agent = start(&master, dir.path(), &[]).await;
    let provider = Provider::subscribe(&agent, None).await.unwrap();
    let subscribe =
        |info: Value| json!({ "type": "SUBSCRIBE", "subscribe": { "resource_provider_info": info } }).to_string();
    let own = format!("Mesos-Stream-Id: {}\r\n", provider.stream_id);
    let known = subscribe(info(None));
    let of = |kind: &str, id: &str, body: Value| {
        json!({ "type": kind, "resource_provider_id": { "value": id }, kind.to_lowercase(): body }).to_string()
    };
    let state = json!({ "resource_version_uuid": { "value": VERSION } });
    let mine = of("UPDATE_STATE", &provider.id, state.clone());
    let (json, yaml) = ("Content-Type: application/json\r\n", "Content-Type: text/yaml\r\n");
    let name = "n".repeat(NAME_BYTES_MAX + 1);
    let long = format!("The name of a resource provider has 1 to {NAME_BYTES_MAX} bytes, and not {}", name.len());
    let status = |more: Value| {
        let mut status = json!({ "state": "OPERATION_FINISHED", "resource_provider_id": { "value": provider.id } });
        status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "status": status, "operation_uuid": { "value": VERSION } })
    };
    let mut large = provider.disk();
    large["disk"]["source"]["id"] = json!("d".repeat(OPERATION_BYTES_MAX));
    let converted = status(json!({ "converted_resources": [large] }));
    let operation = json!({ "info": { "type": "CREATE_DISK" }, "latest_status": { "state": "OPERATION_PENDING" },
                            "uuid": { "value": VERSION } });
    let mut many = state.clone();
    many["operations"] = vec![operation; AGENT_OPERATIONS_MAX + 1].into();
    let other = "Mesos-Stream-Id: another\r\n";
    let cases: Vec<(String, String, u16, &str)> = vec![
        (String::new(), known.clone(), 400, "Expecting 'Content-Type' to be present"),
        (yaml.into(), known.clone(), 415, "Expecting 'Content-Type' of application/json or application/x-protobuf"),
        (
            format!("{json}Accept: text/html\r\n"),
            known.clone(),
            406,
            "Expecting 'Accept' to allow 'application/x-protobuf' or 'application/json'",
        ),
        (json.into(), "{".into(), 400, ""),
        (format!("{json}{own}"), known.clone(), 400, "Subscribe calls should not include the 'Mesos-Stream-Id' header"),
        (json.into(), subscribe(json!({ "type": "", "name": "a" })), 400, "of a resource provider has 1 to"),
        (json.into(), subscribe(json!({ "type": "t", "name": name })), 400, &long),
        (
            json.into(),
            subscribe(json!({ "type": "t", "name": "a", "id": { "value": provider.id } })),
            400,
            "is known as 'org.example.disks.a'",
        ),
        (json.into(), subscribe(info(Some("nobody"))), 400, "Resource provider 'nobody' is not known to this agent"),
        (json.into(), mine.clone(), 400, "All non-subscribe calls should include to 'Mesos-Stream-Id' header"),
        (format!("{json}{other}"), mine, 400, "The stream ID another included in this request didn't match"),
        (format!("{json}{own}"), of("UPDATE_STATE", "nobody", state), 400, "Resource provider is not subscribed"),
        (format!("{json}{own}"), of("UNKNOWN", &provider.id, json!({})), 501, "501 Not Implemented."),
        (format!("{json}{own}"), of("UPDATE_STATE", &provider.id, many), 400, "'operations' has 1001 entries"),
        (
            format!("{json}{own}"),
            of("UPDATE_OPERATION_STATUS", &provider.id, converted),
            400,
            "'converted_resources' has ",
        ),
        (
            format!("{json}{own}"),
            json!({ "type": "UPDATE_PUBLISH_RESOURCES_STATUS", "resource_provider_id": { "value": provider.id } })
                .to_string(),
            400,
            "Expecting 'update_publish_resources_status' to be present",
        ),
        (
            format!("{json}{own}"),
            json!({ "type": "UPDATE_OPERATION_STATUS", "resource_provider_id": { "value": provider.id } }).to_string(),
            400,
            "Expecting 'update_operation_status' to be present",
        ),
    ];
    for (head, body, wanted, why) in cases {
        let (code, told) = post(&agent.address, &head, body.as_bytes()).await;
        let shown = cut(&body, 200);
        assert_eq!(code, wanted, "{head}{shown}: {told}");
        assert!(told.contains(why), "{head}{shown}: {told}");
    }
    // Whoever is not told of is none of them, and none is one too many.
    let mut all = Vec::new();
    while all.len() + 1 < AGENT_PROVIDERS_MAX {
        all.push(Provider::subscribe(&agent, None).await.unwrap());
    }
    let (code, told) = post(&agent.address, json, known.as_bytes()).await;
    assert_eq!(code, 400);
    assert!(told.starts_with("64 resource providers are known to this agent, and more are not allowed"), "{told}");
    assert!(Provider::subscribe(&agent, Some(&all[0].id)).await.is_ok(), "one that is known may come back");
    // The stream that was there all the time is good.
    assert_eq!(provider.says(json!([])).await.0, 202);
    let large = json!({ "resource_version_uuid": { "value": VERSION }, "resources": [large] });
    assert_eq!(provider.call("UPDATE_STATE", large.clone()).await.0, 202, "one such disk has room");
    let mut larger = large;
    larger["resources"][0]["disk"]["source"]["id"] = json!("d".repeat(AGENT_PROVIDERS_BYTES_MAX));
    let (code, told) = provider.call("UPDATE_STATE", larger).await;
    assert_eq!(code, 400);
    assert!(told.contains("bytes of descriptions and resources, more than the 262144 that are allowed"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_subscribe_is_told_so() {
    const KEY: &str = "a key for tokens of executors";
    let (master, dir) = (Master::taker().await, tempfile::tempdir().unwrap());
    // Before it is welcomed nobody can be told of.
    let refused = internal::Refused { message: "not yet".into(), ..Default::default() };
    master.known.lock().refuse = Some(refused);
    let (work_dir, key) = (dir.path().join("work"), dir.path().join("key"));
    std::fs::create_dir_all(&work_dir).unwrap();
    std::fs::write(&key, KEY).unwrap();
    let flags = [format!("--jwt_secret_key={}", key.display()), "--authenticate_http_readwrite".into()];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let agent = RealAgent::start(&master.address, &work_dir, &flags);
    let call = json!({ "type": "SUBSCRIBE", "subscribe": { "resource_provider_info": info(None) } }).to_string();
    assert_eq!(post(&agent.address, JSON, call.as_bytes()).await.0, 401);
    let bearer = |claims: &[(&str, &str)], key: &str| {
        let token = auth::Key::parse(key).unwrap().mint(&claims.iter().copied().collect());
        format!("{JSON}Authorization: Bearer {token}\r\n")
    };
    let executor = bearer(&[("fid", "F"), ("eid", "E"), ("cid", "C")], KEY);
    let told = post(&agent.address, &executor, call.as_bytes()).await;
    assert_eq!(told, (403, "Resource providers do not subscribe with the token of an executor".to_owned()));
    let forged = bearer(&[("fid", "F")], "another key of some length");
    assert_eq!(post(&agent.address, &forged, call.as_bytes()).await.0, 401);
    agent.kill();
    // Who has left the capability away says so, in place of a stream on which nothing would come.
    let features =
        ["MULTI_ROLE", "HIERARCHICAL_ROLE", "RESERVATION_REFINEMENT", "AGENT_OPERATION_FEEDBACK", "AGENT_DRAINING"];
    let features = json!({ "capabilities": features.map(|name| json!({ "type": name })) });
    let agent = RealAgent::start(&master.address, &work_dir, &[&format!("--agent_features={features}")]);
    let (code, told) = post(&agent.address, JSON, call.as_bytes()).await;
    assert_eq!(code, 501);
    assert_eq!(
        told,
        "Resource providers are not enabled on this agent: --agent_features leaves RESOURCE_PROVIDER away"
    );
    agent.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_the_providers_until_it_is_acknowledged() {
    let (master, dir) = (Master::taker().await, tempfile::tempdir().unwrap());
    let agent = start(&master, dir.path(), &[]).await;
    let mut provider = Provider::subscribe(&agent, None).await.unwrap();
    assert_eq!(provider.says(json!([])).await.0, 202);
    master.provide(1, &provider, 6);
    let dropped = master.operation_ended(1).await;
    assert_eq!(dropped.state(), OperationState::OperationDropped);
    assert!(dropped.message().contains("are not what they were"), "{dropped:?}");
    master.provide(2, &provider, 7);
    let event = provider.event().await.unwrap();
    assert_eq!(event["type"], "APPLY_OPERATION");
    assert_eq!(event["apply_operation"]["resource_version_uuid"]["value"], VERSION);
    assert_eq!(event["apply_operation"]["info"]["type"], "CREATE_DISK");
    let listed = call(&agent, json!({ "type": "GET_OPERATIONS" })).await.1;
    assert!(listed.contains("OPERATION_PENDING") && listed.contains(&provider.id), "{listed}");
    assert_eq!(provider.reports(&event, "OPERATION_FINISHED").await.0, 202);
    let finished = master.operation_ended(2).await;
    assert_eq!((finished.state(), finished.converted_resources.len()), (OperationState::OperationFinished, 1));
    assert_eq!(finished.operation_id.map(|id| id.value).as_deref(), Some("o2"));
    assert_eq!(finished.agent_id.map(|id| id.value).as_deref(), Some("C-S0"));
    // When its framework has acknowledged it, and not before.
    let over = to_agent::Message::OperationsOver(internal::OperationsOver { operations: vec![vec![2; 16].into()] });
    let operation = &event["apply_operation"]["operation_uuid"];
    let acknowledged = async {
        loop {
            master.send(over.clone());
            tokio::select! {
                event = provider.event() => return event.unwrap(),
                // That the masters have its end may not have been heard.
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
    };
    let acknowledged = tokio::time::timeout(PATIENCE, acknowledged).await.unwrap();
    assert_eq!(acknowledged["type"], "ACKNOWLEDGE_OPERATION_STATUS");
    assert_eq!(&acknowledged["acknowledge_operation_status"]["operation_uuid"], operation);
    // One that did not hear it says it again, and hears it again.
    assert_eq!(provider.reports(&event, "OPERATION_FINISHED").await.0, 202);
    assert_eq!(provider.event().await.unwrap(), acknowledged);
    // Whoever comes back without an operation never had it.
    master.provide(3, &provider, 7);
    assert_eq!(provider.event().await.unwrap()["type"], "APPLY_OPERATION");
    let id = provider.id.clone();
    drop(provider);
    master.hears("its end", |list| !list[0].is_subscribed).await;
    agent.kill();
    let agent = start(&master, dir.path(), &[]).await;
    let provider = Provider::subscribe(&agent, Some(&id)).await.unwrap();
    assert_eq!(provider.says(json!([])).await.0, 202);
    let dropped = master.operation_ended(3).await;
    assert_eq!(dropped.message(), "The resource provider does not know this operation");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_when_what_it_uses_is_published() {
    let (master, dir) = (Master::taker().await, tempfile::tempdir().unwrap());
    let agent = start(&master, dir.path(), &["--executor_registration_timeout=2secs"]).await;
    let mut provider = Provider::subscribe(&agent, None).await.unwrap();
    assert_eq!(provider.says(json!([])).await.0, 202);
    let disk = provider.disk().to_string();
    let launch = |id: &str| {
        let mut task = task(id, "true");
        task.resources.push(api::json::from_slice(disk.as_bytes()).unwrap());
        master.launch(task);
    };
    launch("t");
    let event = provider.event().await.unwrap();
    assert_eq!(event["type"], "PUBLISH_RESOURCES");
    assert_eq!(event["publish_resources"]["resources"][0]["provider_id"]["value"], provider.id.as_str());
    assert_eq!(master.history("t"), [""; 0]);
    let answer = |event: &Value, status: &str| json!({ "uuid": event["publish_resources"]["uuid"], "status": status });
    assert_eq!(provider.call("UPDATE_PUBLISH_RESOURCES_STATUS", answer(&event, "OK")).await.0, 202);
    master.update("t", TaskState::TaskFinished).await;
    launch("u");
    let event = provider.event().await.unwrap();
    assert_eq!(provider.call("UPDATE_PUBLISH_RESOURCES_STATUS", answer(&event, "FAILED")).await.0, 202);
    let failed = master.update("u", TaskState::TaskFailed).await;
    assert_eq!(failed.reason(), Reason::ContainerLaunchFailed);
    assert!(failed.message().starts_with("Failed to launch container: Failed to publish resources '"), "{failed:?}");
    assert!(failed.message().ends_with("Received FAILED status"), "{failed:?}");
    launch("v");
    assert_eq!(provider.event().await.unwrap()["type"], "PUBLISH_RESOURCES");
    let failed = master.update("v", TaskState::TaskFailed).await;
    assert!(failed.message().contains("has not published them within 2secs"), "{failed:?}");
    drop(provider);
    master.hears("its end", |list| !list[0].is_subscribed).await;
}

/// `examples/disks.py`, for the folders of one. Killed when dropped.
struct Example(Child);

impl Example {
    fn start(agent: &RealAgent, dir: &Path) -> Example {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/disks.py");
        let mut python = Command::new("python3");
        python.arg(program).args([format!("--agent={}", agent.address), format!("--dir={}", dir.display())]);
        Example(python.stdout(Stdio::null()).spawn().expect("python3, which this test runs a provider with"))
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_makes_disks_of_folders_and_keeps_them_when_it_and_the_agent_are_killed() {
    use v1::resource::disk_info::source::Type as SourceType;
    let (master, dir, disks) = (Master::taker().await, tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let disks_dir = std::fs::canonicalize(disks.path()).unwrap();
    ["d0", "d1"].iter().for_each(|name| std::fs::create_dir(disks_dir.join(name)).unwrap());
    let agent = start(&master, dir.path(), &[]).await;
    let port = format!("--port={}", agent.address.rsplit_once(':').unwrap().1);
    let example = Example::start(&agent, &disks_dir);
    let kinds = |wanted: &'static [SourceType]| {
        move |list: &[internal::Provider]| {
            let state = list.first().and_then(|one| one.state.as_ref());
            let kind = |one: &v1::Resource| one.disk.as_ref().unwrap().source.as_ref().unwrap().r#type();
            let mut kinds: Vec<i32> =
                state.iter().flat_map(|state| &state.total_resources).map(|one| kind(one) as i32).collect();
            kinds.sort_unstable();
            kinds == wanted.iter().map(|kind| *kind as i32).collect::<Vec<i32>>()
        }
    };
    master.hears("two raw disks", kinds(&[SourceType::Raw, SourceType::Raw])).await;
    let (id, version, source) = {
        let known = master.known.lock();
        let last = known.messages.iter().rev().find_map(|message| match &message.message {
            Some(from_agent::Message::Providers(list)) => list.providers[0].state.clone().map(|state| (list, state)),
            _ => None,
        });
        let (list, state) = last.unwrap();
        let id = list.providers[0].info.id.clone().unwrap().value;
        (id, state.resource_version.clone(), state.total_resources[0].clone())
    };
    master.decide(1, create_disk(1, source), &id, version.clone());
    let made = master.operation_ended(1).await;
    assert_eq!(made.state(), OperationState::OperationFinished, "{made:?}");
    let mut disk = made.converted_resources[0].clone();
    let root = disk.disk.as_ref().unwrap().source.as_ref().unwrap().mount.as_ref().unwrap().root.clone().unwrap();
    assert_eq!(root, disks_dir.join("d0").display().to_string());
    drop(example);
    agent.kill();
    let agent = start(&master, dir.path(), &[&port]).await;
    master.hears("its absence", |list| !list[0].is_subscribed).await;
    let _example = Example::start(&agent, &disks_dir);
    master.hears("its return", kinds(&[SourceType::Mount, SourceType::Raw])).await;
    // A volume of it is found in a sandbox.
    let mut volume = common::volume_on("v", disk.disk.as_ref().unwrap().source.clone());
    volume.provider_id = disk.provider_id.clone();
    let mut writer = task("t", "echo kept > data/x");
    writer.resources.push(volume);
    master.launch(writer);
    master.update("t", TaskState::TaskFinished).await;
    assert_eq!(std::fs::read_to_string(disks_dir.join("d0/x")).unwrap(), "kept\n");
    disk.allocation_info = None;
    let destroy = Operation {
        r#type: Some(operation::Type::DestroyDisk as i32),
        destroy_disk: Some(operation::DestroyDisk { source: disk }.into()),
        ..Default::default()
    };
    master.decide(2, destroy, &id, version);
    let raw = master.operation_ended(2).await;
    assert_eq!(raw.state(), OperationState::OperationFinished, "{raw:?}");
    assert_eq!(raw.converted_resources[0].disk.as_ref().unwrap().source.as_ref().unwrap().r#type(), SourceType::Raw);
    assert!(std::fs::read_dir(disks_dir.join("d0")).unwrap().next().is_none());
}
