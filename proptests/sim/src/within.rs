//! A container within an executor's, by calls to the agent: launched, waited for, ended and removed, each as often as it takes to
//! hear an answer. What the agent says of its end must be how it ended.

#![expect(deprecated, reason = "the older spelling, which executors use")]

use std::sync::Arc;
use std::time::Duration;

use agent_core::path;
use api::Media;
use api::v1::agent::{Call, Response, call};
use api::v1::{self, CommandInfo, ContainerId};
use bytes::Bytes;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::agent::Machine;
use crate::net::request;
use crate::random::Random;
use crate::world::World;

const PROTOBUF: &str = "application/x-protobuf";
/// A call that is to be answered at once is given up after so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a container ended: its wait status, if somebody saw it; or why it never ran.
pub(crate) type Over = Result<Option<i32>, String>;

/// One container.
#[derive(Clone)]
pub(crate) struct Within {
    pub(crate) world: Arc<World>,
    pub(crate) machine: Arc<Mutex<Machine>>,
    /// The name of the machine.
    pub(crate) agent: String,
    pub(crate) id: ContainerId,
}

impl Within {
    fn violated(&self, what: &str) {
        self.world.violated("containers", format!("{} of {} {what}", path(&self.id), self.agent));
    }

    /// Status and body of an answer; none if there was none in time.
    async fn call(&self, call: &Call, patience: Duration) -> Option<(u16, Bytes)> {
        let (host, running) = self.machine.lock().listening()?;
        let headers = [("content-type", PROTOBUF.to_owned()), ("accept", PROTOBUF.to_owned())];
        let request = request("/api/v1", &headers, api_http::Body::full(Media::Protobuf.encode(call)));
        let answer = host.spawn(async move {
            let response = running.answer(request).await;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.ok()?.to_bytes();
            Some((status, body))
        });
        timeout(patience, answer).await.ok()?.ok()?
    }

    async fn pause(random: &mut Random) {
        tokio::time::sleep(Duration::from_millis(random.range(20, 600))).await;
    }

    /// Runs a command to its end.
    pub(crate) async fn run(self, command: String, mut random: Random) -> Over {
        // Whether the agent said that it runs: then it knows how it ended.
        let mut runs = false;
        let launch = Call {
            r#type: Some(call::Type::LaunchNestedContainer as i32),
            launch_nested_container: Some(call::LaunchNestedContainer {
                container_id: self.id.clone(),
                command: Some(CommandInfo { value: Some(command), ..CommandInfo::default() }),
                container: None,
            }),
            ..Call::default()
        };
        loop {
            match self.call(&launch, PATIENCE).await {
                Some((200, _)) => {
                    runs = true;
                    break;
                }
                Some((202, _)) => break,
                Some((400, body)) => return Err(String::from_utf8_lossy(&body).into_owned()),
                _ => Self::pause(&mut random).await,
            }
            // Sent again, though it may have been taken.
        }
        let wait = Call {
            r#type: Some(call::Type::WaitNestedContainer as i32),
            wait_nested_container: Some(call::WaitNestedContainer { container_id: self.id.clone() }),
            ..Call::default()
        };
        let news = self.machine.lock().news.clone();
        let over = loop {
            // It asks anew now and then, above all when it has ended: the agent is about to hear of it.
            let patience = Duration::from_millis(random.range(5, 4_000));
            let answer = tokio::select! {
                biased;
                answer = self.call(&wait, patience) => answer,
                () = news.notified() => {
                    tokio::time::sleep(Duration::from_micros(random.below(3_000))).await;
                    continue;
                }
            };
            match answer {
                Some((200, body)) => {
                    let answer: Response = api::decode_protobuf(body).unwrap_or_default();
                    let status = answer.wait_nested_container.unwrap_or_default().exit_status;
                    self.heard(status);
                    break Ok(status);
                }
                Some((404, _)) => {
                    if runs && self.is_known_executor() {
                        self.violated("is not known, and ran");
                    }
                    break Err("it is not known".to_owned());
                }
                _ => Self::pause(&mut random).await,
            }
        };
        // Known is known, though it be over.
        if random.permille(300)
            && let Some((200, _)) = self.call(&launch, PATIENCE).await
            && self.is_known_executor()
        {
            self.violated("is launched a second time");
        }
        if random.permille(700) {
            let machine = self.machine.clone();
            machine.lock().removed.insert(path(&self.id));
            let remove = Call {
                r#type: Some(call::Type::RemoveNestedContainer as i32),
                remove_nested_container: Some(call::RemoveNestedContainer { container_id: self.id.clone() }),
                ..Call::default()
            };
            while !matches!(self.call(&remove, PATIENCE).await, Some((200 | 404, _))) {
                Self::pause(&mut random).await;
            }
        }
        over
    }

    /// Wants one within what is ending.
    pub(crate) async fn run_late(self, mut random: Random) {
        tokio::time::sleep(Duration::from_millis(random.below(300))).await;
        if !self.world.is_quiet() && random.permille(500) {
            let _ = self.run("run 6000 0".to_owned(), random).await;
        }
    }

    /// Ends it at once.
    pub(crate) async fn kill(self, mut random: Random) {
        let kill = Call {
            r#type: Some(call::Type::KillNestedContainer as i32),
            kill_nested_container: Some(call::KillNestedContainer { container_id: self.id.clone(), signal: None }),
            ..Call::default()
        };
        while !matches!(self.call(&kill, PATIENCE).await, Some((200 | 404, _))) {
            Self::pause(&mut random).await;
        }
    }

    /// Whether the agent's log has the executor that it is within.
    fn is_known_executor(&self) -> bool {
        let root = self.id.parent.as_ref().map(|parent| parent.value.clone()).unwrap_or_default();
        self.machine.lock().knows(&root)
    }

    /// The agent says that it is over.
    fn heard(&self, status: Option<i32>) {
        let id = path(&self.id);
        let wrong = {
            let mut machine = self.machine.lock();
            machine.told_over.insert(id.clone());
            match machine.ends.get(&id) {
                Some(end) if *end == status => None,
                Some(end) => Some(format!("ended with {end:?}, and the agent says {status:?}")),
                None if machine.runs(&id) => Some("is said to be over, and runs".to_owned()),
                None => None,
            }
        };
        wrong.into_iter().for_each(|what| self.violated(&what));
    }
}

/// The id of the container of a task within an executor's.
pub(crate) fn id_of(container_id: &str, task_id: &str) -> ContainerId {
    let parent = v1::ContainerId { value: container_id.to_owned(), parent: None };
    ContainerId { value: task_id.to_owned(), parent: Some(Box::new(parent)) }
}
