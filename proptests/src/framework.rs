//! A framework under a test's control: it says only what it is told to say, in JSON or protobuf, and shows each event
//! with the chunks that brought it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use api::v1;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use serde_json::{Value, json};

use crate::http::{self, Answer, Head, Request, Streaming};

/// The path of scheduler calls.
pub const SCHEDULER: &str = "/api/v1/scheduler";

/// One RecordIO stream.
#[derive(Debug)]
pub struct Records {
    stream: Streaming,
    buffer: Vec<u8>,
    ready: VecDeque<Vec<u8>>,
    /// Every chunk so far held exactly one whole record.
    pub one_record_a_chunk: bool,
}

impl Records {
    /// Reads records from an answer.
    pub fn new(stream: Streaming) -> Self {
        Self { stream, buffer: Vec::new(), ready: VecDeque::new(), one_record_a_chunk: true }
    }

    /// Status and headers of the answer.
    pub fn head(&self) -> &Head {
        &self.stream.head
    }

    /// The next record; `None` when the stream ended well.
    pub fn next(&mut self, patience: Duration) -> io::Result<Option<Vec<u8>>> {
        self.stream.set_patience(patience.max(Duration::from_millis(1)))?;
        while self.ready.is_empty() {
            let Some(chunk) = self.stream.chunk()? else { return Ok(None) };
            self.buffer.extend_from_slice(&chunk);
            let mut count = 0;
            while let Some(record) = self.take()? {
                self.ready.push_back(record);
                count += 1;
            }
            self.one_record_a_chunk &= count == 1 && self.buffer.is_empty();
        }
        Ok(self.ready.pop_front())
    }

    fn take(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let length = std::str::from_utf8(&self.buffer[..end]).ok().and_then(|text| text.parse::<usize>().ok());
        let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a record's length"))?;
        if self.buffer.len() < end + 1 + length {
            return Ok(None);
        }
        let record = self.buffer[end + 1..end + 1 + length].to_vec();
        self.buffer.drain(..end + 1 + length);
        Ok(Some(record))
    }
}

/// A subscribed framework that speaks JSON.
#[derive(Debug)]
pub struct Framework {
    /// The master it subscribed at, and calls.
    pub address: SocketAddr,
    /// As in SUBSCRIBED.
    pub id: String,
    /// The value of `Mesos-Stream-Id`.
    pub stream_id: String,
    /// Its events.
    pub records: Records,
    /// Events that a wait has passed over.
    pub seen: Vec<Value>,
    /// Who it says it is: the value of `Authorization`.
    authorization: Option<String>,
}

/// A FrameworkInfo without MULTI_ROLE, for role `*`, that stays for an hour after it is disconnected.
pub fn info(name: &str) -> Value {
    json!({"user": "root", "name": name, "failover_timeout": 3600.0, "checkpoint": true})
}

impl Framework {
    /// Subscribes and reads SUBSCRIBED. `info` with an id subscribes that framework again.
    ///
    /// # Panics
    /// Unless the answer is a stream whose first event is SUBSCRIBED.
    pub fn subscribe(address: SocketAddr, info: &Value) -> Self {
        Self::try_subscribe(address, info).unwrap_or_else(|problem| panic!("SUBSCRIBE at {address}: {problem}"))
    }

    /// The same, with what stood in the way as text.
    pub fn try_subscribe(address: SocketAddr, info: &Value) -> Result<Self, String> {
        Self::try_subscribe_within(address, info, http::PATIENCE)
    }

    /// The same for somebody who says who they are, with every call.
    pub fn try_subscribe_as(address: SocketAddr, info: &Value, authorization: Option<String>) -> Result<Self, String> {
        Self::open(address, info, authorization, http::PATIENCE)
    }

    /// The same for somebody who waits no longer than `patience` for any one read.
    pub fn try_subscribe_within(address: SocketAddr, info: &Value, patience: Duration) -> Result<Self, String> {
        Self::open(address, info, None, patience)
    }

    fn open(
        address: SocketAddr,
        info: &Value,
        authorization: Option<String>,
        patience: Duration,
    ) -> Result<Self, String> {
        let mut call = json!({"type": "SUBSCRIBE", "subscribe": {"framework_info": info}});
        if let Some(id) = info.get("id") {
            call["framework_id"] = id.clone();
        }
        let request = Request::post_json(SCHEDULER, &call.to_string()).authorized(authorization.as_deref());
        let stream = http::open_within(address, &request, patience).map_err(|error| error.to_string())?;
        if stream.head.status != 200 {
            let answer = stream.finish().map_err(|error| error.to_string())?;
            return Err(format!("{} {}", answer.status(), answer.text()));
        }
        let stream_id = stream.head.header("mesos-stream-id").ok_or("no Mesos-Stream-Id")?.to_owned();
        let records = Records::new(stream);
        let (id, seen) = (String::new(), Vec::new());
        let mut framework = Self { address, id, stream_id, records, seen, authorization };
        let first = framework.event(patience).ok_or("no first event")?;
        framework.id = first["subscribed"]["framework_id"]["value"].as_str().ok_or(first.to_string())?.to_owned();
        Ok(framework)
    }

    /// The next event; `None` when the stream ended or nothing came in time.
    pub fn event(&mut self, patience: Duration) -> Option<Value> {
        let record = self.records.next(patience).ok()??;
        Some(serde_json::from_slice(&record).expect("a record of JSON"))
    }

    /// The next event for which `wanted` gives a value; what comes before goes to `seen`.
    ///
    /// # Panics
    /// With `what`, when it does not come within [`http::PATIENCE`].
    pub fn wait<T>(&mut self, what: &str, mut wanted: impl FnMut(&Value) -> Option<T>) -> T {
        let start = Instant::now();
        while let Some(left) = http::PATIENCE.checked_sub(start.elapsed()) {
            let Some(event) = self.event(left) else { break };
            if let Some(value) = wanted(&event) {
                return value;
            }
            self.seen.push(event);
        }
        let seen = self.seen.iter().map(|event| format!("{event}\n")).collect::<String>();
        panic!("waited in vain for {what}; events were:\n{seen}")
    }

    /// The next offer, from OFFERS; the others of the same event are declined for a moment.
    pub fn offer(&mut self) -> Value {
        let mut offers = self.wait("an offer", |event| {
            (event["type"] == "OFFERS").then(|| event["offers"]["offers"].as_array().cloned().unwrap_or_default())
        });
        let first = offers.remove(0);
        if !offers.is_empty() {
            let ids: Vec<&Value> = offers.iter().map(|offer| &offer["id"]).collect();
            self.call(json!({"type": "DECLINE",
                "decline": {"offer_ids": ids, "filters": {"refuse_seconds": 0.1}}}));
        }
        first
    }

    /// The next offer with such a resource, and the resource. Others are declined for a moment.
    ///
    /// # Panics
    /// When none comes.
    pub fn offered(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> (Value, Value) {
        loop {
            let came = self.seen.iter().position(|event| event["type"] == "OFFERS");
            let offers = match came {
                Some(n) => self.seen.remove(n),
                None => self.wait(what, |event| (event["type"] == "OFFERS").then(|| event.clone())),
            };
            for offer in offers["offers"]["offers"].as_array().expect("offers") {
                let resource = offer["resources"].as_array().expect("resources").iter().find(|one| wanted(one));
                if let Some(resource) = resource {
                    return (offer.clone(), resource.clone());
                }
                self.call(json!({"type": "DECLINE",
                    "decline": {"offer_ids": [offer["id"]], "filters": {"refuse_seconds": 0.0}}}));
            }
        }
    }

    /// Accepts an offer; what is left of it is offered again at once.
    pub fn accept(&mut self, offer: &Value, operations: &[Value]) {
        self.call(json!({"type": "ACCEPT", "accept": {"offer_ids": [offer["id"]], "operations": operations,
            "filters": {"refuse_seconds": 0.0}}}));
    }

    /// The end of an operation, acknowledged.
    pub fn operation_ended(&mut self, id: &str) -> Value {
        let of = |event: &Value| {
            let status = &event["update_operation_status"]["status"];
            (status["operation_id"]["value"] == id).then(|| status.clone())
        };
        let came = self.seen.iter().find_map(of);
        let status = came.unwrap_or_else(|| self.wait(id, of));
        // What the master says by itself is not told again.
        if !status["uuid"].is_null() {
            self.call(json!({"type": "ACKNOWLEDGE_OPERATION_STATUS", "acknowledge_operation_status": {
                "agent_id": status["agent_id"], "resource_provider_id": status["resource_provider_id"],
                "operation_id": status["operation_id"], "uuid": status["uuid"]["value"]}}));
        }
        status
    }

    /// The next update of a task, acknowledged.
    pub fn update(&mut self, task: &str) -> Value {
        let status = self.wait(&format!("an update of {task}"), |event| {
            let status = &event["update"]["status"];
            (event["type"] == "UPDATE" && status["task_id"]["value"] == task).then(|| status.clone())
        });
        self.acknowledge(&status);
        status
    }

    /// Waits, acknowledging, until a task is in this state.
    pub fn until_state(&mut self, task: &str, state: &str) -> Value {
        loop {
            let status = self.update(task);
            if status["state"] == state {
                return status;
            }
            let terminal = ["TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_ERROR", "TASK_LOST"];
            assert!(!terminal.iter().any(|end| status["state"] == *end), "{task} ended: {status}");
        }
    }

    /// Acknowledges an update that asks for it, by its uuid.
    pub fn acknowledge(&mut self, status: &Value) {
        if status["uuid"].is_string() {
            self.call(json!({"type": "ACKNOWLEDGE", "acknowledge": {
                "agent_id": status["agent_id"], "task_id": status["task_id"], "uuid": status["uuid"]}}));
        }
    }

    /// Makes a call as this framework.
    ///
    /// # Panics
    /// Unless it is answered with 202.
    pub fn call(&mut self, call: Value) {
        let answer = self.try_call(call.clone());
        assert_eq!(answer.status(), 202, "{call}: {}", answer.text());
    }

    /// Makes a call as this framework and gives the answer.
    pub fn try_call(&mut self, mut call: Value) -> Answer {
        call["framework_id"] = json!({"value": self.id});
        let request = Request::post_json(SCHEDULER, &call.to_string()).header("Mesos-Stream-Id", &self.stream_id);
        http::send(self.address, &request.authorized(self.authorization.as_deref())).expect("an answer")
    }

    /// Launches command tasks on an offer.
    pub fn launch(&mut self, offer: &Value, tasks: &[Value]) {
        self.call(json!({"type": "ACCEPT", "accept": {
            "offer_ids": [offer["id"]],
            "operations": [{"type": "LAUNCH", "launch": {"task_infos": tasks}}],
            "filters": {"refuse_seconds": 0.1}}}));
    }

    /// Ends the framework.
    pub fn teardown(&mut self) {
        self.call(json!({"type": "TEARDOWN"}));
    }
}

/// A small command task for an offer, in the old format of resources.
pub fn command_task(id: &str, offer: &Value, command: &str) -> Value {
    json!({
        "name": id, "task_id": {"value": id}, "agent_id": offer["agent_id"],
        "command": {"shell": true, "value": command},
        "resources": [
            {"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.1}, "role": "*"},
            {"name": "mem", "type": "SCALAR", "scalar": {"value": 32.0}, "role": "*"},
        ],
    })
}

/// Bytes of a base64 field.
pub fn bytes(field: &Value) -> Vec<u8> {
    STANDARD.decode(field.as_str().expect("a string of base64")).expect("base64")
}

/// Subscribes in protobuf: the records that follow are [`v1::scheduler::Event`]s.
pub fn subscribe_protobuf(address: SocketAddr, name: &str) -> io::Result<Records> {
    let framework_info = v1::FrameworkInfo { user: "root".into(), name: name.into(), ..Default::default() };
    let subscribe = v1::scheduler::call::Subscribe { framework_info, ..Default::default() };
    let call = v1::scheduler::Call {
        r#type: Some(v1::scheduler::call::Type::Subscribe as i32),
        subscribe: Some(subscribe),
        ..Default::default()
    };
    Ok(Records::new(http::open(address, &Request::post_protobuf(SCHEDULER, call.encode_to_vec()))?))
}

/// Reads one event in protobuf.
pub fn protobuf_event(records: &mut Records) -> io::Result<Option<v1::scheduler::Event>> {
    let Some(record) = records.next(http::PATIENCE)? else { return Ok(None) };
    v1::scheduler::Event::decode(&record[..]).map(Some).map_err(io::Error::other)
}
