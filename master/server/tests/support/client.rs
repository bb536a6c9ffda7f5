//! A framework that speaks JSON.

use super::PATIENCE;
use api::recordio::Decoder;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::net::SocketAddr;

/// One request on a connection of its own.
pub async fn send(to: SocketAddr, request: http::Request<Full<Bytes>>) -> http::Response<Incoming> {
    let socket = tokio::net::TcpStream::connect(to).await.expect("the master listens");
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    sender.send_request(request).await.expect("an answer")
}

pub fn post(path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> http::Request<Full<Bytes>> {
    let mut request = http::Request::builder().method("POST").uri(path).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body.into())).unwrap()
}

/// Status and body of an answer that ends.
pub async fn whole(response: http::Response<Incoming>) -> (u16, String) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

pub async fn scheduler(to: SocketAddr, stream_id: &str, call: &Value) -> (u16, String) {
    let headers = [("content-type", "application/json"), ("Mesos-Stream-Id", stream_id)];
    whole(send(to, post("/api/v1/scheduler", &headers, call.to_string())).await).await
}

/// A subscribed framework.
pub struct Framework {
    pub master: SocketAddr,
    pub id: String,
    pub stream_id: String,
    body: Incoming,
    decoder: Decoder,
}

pub fn framework_info(name: &str) -> Value {
    json!({"user": "root", "name": name, "roles": ["web"], "failover_timeout": 600.0,
           "capabilities": [{"type": "MULTI_ROLE"}, {"type": "PARTITION_AWARE"}]})
}

impl Framework {
    pub async fn subscribe(master: SocketAddr, info: Value) -> Framework {
        let mut call = json!({"type": "SUBSCRIBE", "subscribe": {"framework_info": info}});
        if let Some(id) = call["subscribe"]["framework_info"].get("id").cloned() {
            call["framework_id"] = id;
        }
        let headers = [("content-type", "application/json"), ("accept", "application/json")];
        let response = send(master, post("/api/v1/scheduler", &headers, call.to_string())).await;
        let (parts, body) = response.into_parts();
        assert_eq!(parts.status, 200);
        assert_eq!(parts.headers["content-type"], "application/json");
        let stream_id = parts.headers["mesos-stream-id"].to_str().unwrap().to_owned();
        let mut framework = Framework { master, id: String::new(), stream_id, body, decoder: Decoder::new(64 << 20) };
        let subscribed = framework.event("SUBSCRIBED").await;
        assert_eq!(subscribed["subscribed"]["heartbeat_interval_seconds"], 15.0);
        framework.id = subscribed["subscribed"]["framework_id"]["value"].as_str().unwrap().to_owned();
        framework
    }

    /// The next event; None when the stream ends.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(record) = self.decoder.next() {
                return Some(serde_json::from_slice(&record.unwrap()).unwrap());
            }
            let frame = self.body.frame().await?.ok()?;
            if let Some(data) = frame.data_ref() {
                self.decoder.push(data);
            }
        }
    }

    /// The next event of this type; others are passed over.
    pub async fn event(&mut self, kind: &str) -> Value {
        let find = async {
            loop {
                let event = self.next().await.unwrap_or_else(|| panic!("the stream ended before {kind}"));
                if event["type"] == kind {
                    return event;
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, find).await;
        found.unwrap_or_else(|_| panic!("waited too long for {kind}"))
    }

    /// Waits for the end of the stream.
    pub async fn ended(&mut self) {
        let end = async { while self.next().await.is_some() {} };
        tokio::time::timeout(PATIENCE, end).await.expect("the stream ends");
    }

    /// A call at the master given, which is accepted.
    pub async fn call_at(&self, master: SocketAddr, kind: &str, name: &str, body: Value) {
        let mut call = json!({"type": kind, "framework_id": {"value": self.id}});
        if !name.is_empty() {
            call[name] = body;
        }
        let (status, text) = scheduler(master, &self.stream_id, &call).await;
        assert_eq!((status, text.as_str()), (202, ""), "{call}");
    }

    /// A call that is accepted.
    pub async fn call(&self, kind: &str, name: &str, body: Value) {
        self.call_at(self.master, kind, name, body).await;
    }

    /// Launches one task from an offer's first resources.
    pub async fn launch(&self, offer: &Value, task_id: &str) {
        let task = json!({"name": task_id, "task_id": {"value": task_id}, "agent_id": offer["agent_id"],
            "command": {"value": "true"},
            "resources": [{"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.1}},
                          {"name": "mem", "type": "SCALAR", "scalar": {"value": 32.0}}]});
        let operations = json!([{"type": "LAUNCH", "launch": {"task_infos": [task]}}]);
        let accept = json!({"offer_ids": [offer["id"]], "operations": operations,
                            "filters": {"refuse_seconds": 0.0}});
        self.call("ACCEPT", "accept", accept).await;
    }

    /// Acknowledges an UPDATE event.
    pub async fn acknowledge_at(&self, master: SocketAddr, update: &Value) {
        let status = &update["update"]["status"];
        let acknowledge = json!({"agent_id": status["agent_id"], "task_id": status["task_id"], "uuid": status["uuid"]});
        self.call_at(master, "ACKNOWLEDGE", "acknowledge", acknowledge).await;
    }
}
