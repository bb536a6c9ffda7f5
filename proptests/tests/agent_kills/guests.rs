//! Containers and sessions within a task, by somebody who asks again until it is answered.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use proptests::framework::Records;
use proptests::http::{self, Answer, Request};
use serde_json::{Value, json};

use crate::random::Random;
use crate::{REST, Shared};

const PATIENCE: Duration = Duration::from_secs(20);

/// How many there were.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    containers: usize,
    /// Of those, whose launch was given up.
    given_up: usize,
    sessions: usize,
    /// Of those, seen to their end.
    whole_sessions: usize,
}

struct Guest<'a> {
    shared: &'a Shared,
    agent: SocketAddr,
    home: String,
}

impl Guest<'_> {
    /// Asks until there is an answer of an agent that serves. None if there is none in time.
    fn ask(&self, call: &Value) -> Option<Answer> {
        let start = Instant::now();
        while start.elapsed() < REST {
            let request = Request::post_json("/api/v1", &call.to_string());
            match http::send_within(self.agent, &request, PATIENCE) {
                Ok(answer) if answer.status() != 503 => return Some(answer),
                _ => thread::sleep(Duration::from_millis(10)),
            }
        }
        self.shared.wrong(format!("no answer to {call}"));
        None
    }

    fn id(&self, name: &str) -> Value {
        json!({"value": name, "parent": {"value": self.home}})
    }

    fn runs(&self, name: &str) -> usize {
        self.shared.runs().get(name).copied().unwrap_or(0)
    }

    fn script(&self, name: &str, rest: &str) -> Value {
        json!({"value": format!("echo {name} >> {}; {rest}", self.shared.ran.display())})
    }

    /// One container from its launch to its removal.
    fn container(&self, name: &str, random: &mut Random, guests: &mut Guests) -> Option<()> {
        let code = random.below(100);
        let command = self.script(name, &format!("sleep 0.{}; exit {code}", random.below(10)));
        let launch = json!({"type": "LAUNCH_NESTED_CONTAINER",
            "launch_nested_container": {"container_id": self.id(name), "command": command}});
        let launched = self.ask(&launch)?;
        let wait = json!({"type": "WAIT_NESTED_CONTAINER", "wait_nested_container": {"container_id": self.id(name)}});
        let waited = self.ask(&wait)?;
        let runs = self.runs(name);
        let told = format!(
            "{} {}, then {} {}, ran {runs} times",
            launched.status(),
            launched.text(),
            waited.status(),
            waited.text()
        );
        guests.containers += 1;
        let status = (waited.status() == 200).then(|| waited.json()["wait_nested_container"]["exit_status"].as_u64());
        match status {
            Some(Some(status)) if status == code << 8 && runs == 1 => {}
            // An agent was killed before anything ran: nothing ever will.
            Some(None) | None if launched.status() != 200 && runs == 0 => guests.given_up += 1,
            _ => self.shared.wrong(format!("{name} should have ended with {code}: {told}")),
        }
        let remove =
            json!({"type": "REMOVE_NESTED_CONTAINER", "remove_nested_container": {"container_id": self.id(name)}});
        let removed = self.ask(&remove)?;
        if removed.status() != 200 {
            self.shared.wrong(format!("{name} cannot be removed: {} {}; {told}", removed.status(), removed.text()));
        }
        Some(())
    }

    /// A session, read to its end or left in its middle.
    fn session(&self, name: &str, random: &mut Random, guests: &mut Guests) {
        let lines = 200;
        let rest = *random.pick(&["", "sleep 1000"]);
        let command = self.script(name, &format!("seq {lines}; {rest}"));
        let call = json!({"type": "LAUNCH_NESTED_CONTAINER_SESSION",
            "launch_nested_container_session": {"container_id": self.id(name), "command": command}});
        let request = Request::post_json("/api/v1", &call.to_string());
        let request = Request { headers: vec![("Content-Type".into(), "application/json".into())], ..request }
            .header("Accept", "application/recordio")
            .header("Message-Accept", "application/json");
        guests.sessions += 1;
        let Ok(stream) = http::open_within(self.agent, &request, PATIENCE) else { return };
        if stream.head.status != 200 {
            return;
        }
        let mut records = Records::new(stream);
        let mut output = Vec::new();
        let wanted: String = (1..=lines).map(|line| format!("{line}\n")).collect();
        loop {
            match records.next(PATIENCE) {
                Ok(Some(record)) => {
                    let record: Value = serde_json::from_slice(&record).unwrap_or_default();
                    if record["data"]["type"] == "STDOUT" {
                        output.extend(proptests::framework::bytes(&record["data"]["data"]));
                    }
                }
                Ok(None) => {
                    guests.whole_sessions += 1;
                    if output != wanted.as_bytes() {
                        let output = String::from_utf8_lossy(&output);
                        self.shared.wrong(format!("{name} ended well, and has not all that it wrote: {output:?}"));
                    }
                    return;
                }
                Err(_) => return,
            }
            if !rest.is_empty() && output.len() >= wanted.len() {
                return;
            }
        }
    }

    /// Nothing is within the task any more but itself.
    fn is_empty(&self) -> bool {
        let call = json!({"type": "GET_CONTAINERS", "get_containers": {"show_nested": true}});
        let Some(answer) = self.ask(&call).filter(|answer| answer.status() == 200) else { return false };
        let parent =
            |one: &Value| one["container_status"]["container_id"]["parent"]["value"].as_str().map(String::from);
        let answer = answer.json();
        let mut all = answer["get_containers"]["containers"].as_array().into_iter().flatten();
        !all.any(|one| parent(one).as_deref() == Some(&self.home))
    }
}

/// One after the other, until it is late.
pub(crate) fn run(shared: &Shared, agent: SocketAddr, mut random: Random, home: String) -> Guests {
    let mut guests = Guests::default();
    let guest = Guest { shared, agent, home };
    let mut count = 0;
    while !shared.is_late.load(Ordering::Acquire) {
        count += 1;
        if random.one_in(3) {
            guest.session(&format!("session-{count}"), &mut random, &mut guests);
        } else if guest.container(&format!("guest-{count}"), &mut random, &mut guests).is_none() {
            break;
        }
    }
    let start = Instant::now();
    while !guest.is_empty() {
        if start.elapsed() > REST {
            shared.wrong("containers are left within a task whose guests have gone".to_owned());
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    for (name, runs) in shared.runs().into_iter().filter(|(name, runs)| name.starts_with("session-") && *runs > 1) {
        shared.wrong(format!("{name} ran {runs} times"));
    }
    guests
}
