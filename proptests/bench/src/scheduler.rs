//! Frameworks as load: subscribed over JSON, their streams read, their calls prepared as bytes.

use std::net::SocketAddr;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};

use crate::Fallible;
use crate::http1::{self, Connection, Login};
use crate::load::Client;

const PATH: &str = "/api/v1/scheduler";

/// A subscribed framework.
#[derive(Debug)]
pub(crate) struct Framework {
    pub(crate) address: SocketAddr,
    pub(crate) id: String,
    stream_id: String,
    events: Connection,
    /// Who it is, if masters ask.
    login: Option<Login>,
}

impl Framework {
    /// Subscribes for role `*` and reads SUBSCRIBED.
    pub(crate) async fn subscribe(address: SocketAddr, name: &str) -> Fallible<Self> {
        Self::subscribe_as(address, name, None).await
    }

    /// The same as somebody.
    pub(crate) async fn subscribe_as(address: SocketAddr, name: &str, login: Option<Login>) -> Fallible<Self> {
        let mut info = json!({"user": "root", "name": name, "failover_timeout": 3600.0, "checkpoint": true});
        if let Some(login) = &login {
            info["principal"] = json!(login.principal);
        }
        let header = login.as_ref().map_or("", |login| &login.header);
        let call = json!({"type": "SUBSCRIBE", "subscribe": {"framework_info": info}}).to_string();
        let mut events = Connection::open_as(address, login.as_ref()).await?;
        let head = events.open_answer(&http1::post_json(address, PATH, header, &call)).await?;
        if head.status != 200 {
            return Err(format!("SUBSCRIBE is answered {}", head.status).into());
        }
        let stream_id = head.stream_id.ok_or("SUBSCRIBE is answered without Mesos-Stream-Id")?;
        let mut framework = Self { address, id: String::new(), stream_id, events, login };
        let first = framework.event().await?;
        framework.id = first["subscribed"]["framework_id"]["value"].as_str().ok_or(first.to_string())?.to_owned();
        Ok(framework)
    }

    /// The next event of its stream.
    pub(crate) async fn event(&mut self) -> Fallible<Value> {
        let record = self.events.record().await?.ok_or("the stream ended")?;
        Ok(serde_json::from_slice(&record)?)
    }

    /// A call as it goes over the wire.
    pub(crate) fn request(&self, call: Value) -> Bytes {
        self.request_at(self.address, call)
    }

    /// The same, to another master than the one that holds the stream.
    pub(crate) fn request_at(&self, address: SocketAddr, mut call: Value) -> Bytes {
        call["framework_id"] = json!({"value": self.id});
        let shown = self.login.as_ref().map_or("", |login| &login.header);
        let headers = format!("Mesos-Stream-Id: {}\r\n{shown}", self.stream_id);
        http1::post_json(address, PATH, &headers, &call.to_string())
    }

    /// A client that suppresses and revives the framework's role in turn: each call changes State, so that each is one
    /// decision with its events in the log.
    pub(crate) fn suppress_and_revive(&self) -> Client {
        let requests = ["SUPPRESS", "REVIVE"].map(|call| self.request(json!({"type": call})));
        Client { address: self.address, requests: requests.into(), login: self.login.clone() }
    }
}

/// Many frameworks whose streams are read and thrown away while the value lives.
#[derive(Debug)]
pub(crate) struct Crowd {
    pub(crate) clients: Vec<Client>,
    readers: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Subscribes `count` frameworks, spread over `addresses` in turn; each makes SUPPRESS and REVIVE calls.
    pub(crate) async fn subscribe(addresses: &[SocketAddr], count: usize) -> Fallible<Self> {
        Self::subscribe_as(addresses, count, None).await
    }

    /// The same as somebody.
    pub(crate) async fn subscribe_as(addresses: &[SocketAddr], count: usize, login: Option<&Login>) -> Fallible<Self> {
        let mut joining = JoinSet::new();
        for number in 0..count {
            let address = addresses[number % addresses.len()];
            let login = login.cloned();
            joining.spawn(async move { Framework::subscribe_as(address, &format!("load-{number}"), login).await });
        }
        let mut crowd = Self { clients: Vec::new(), readers: Vec::new() };
        while let Some(framework) = joining.join_next().await {
            let mut framework = framework??;
            crowd.clients.push(framework.suppress_and_revive());
            let reader = async move { while framework.events.record().await.is_ok_and(|record| record.is_some()) {} };
            crowd.readers.push(tokio::spawn(reader));
        }
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for reader in &self.readers {
            reader.abort();
        }
    }
}
