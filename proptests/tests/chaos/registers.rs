//! Writers and readers of registers. A write is an UPDATE_FRAMEWORK with a label, at any master; a read is GET_FRAMEWORKS
//! at any master. What was acknowledged before a read began is in it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptests::framework::{Framework, SCHEDULER};
use proptests::http::{self, Request};
use serde_json::{Value, json};

use crate::random::Random;
use crate::shared::{Phase, Shared};
use crate::world::ask;

/// For one answer. Longer than a master waits for a leader.
const PATIENCE: Duration = Duration::from_secs(12);
/// Between two calls: the machine is small, and so are the disks.
const PACE: Duration = Duration::from_millis(10);

fn info(id: Option<&str>, value: u64) -> Value {
    let mut info = json!({"user": "root", "name": "register", "failover_timeout": 1e6, "roles": ["registers"],
        "capabilities": [{"type": "MULTI_ROLE"}],
        "labels": {"labels": [{"key": "value", "value": value.to_string()}]}});
    if let Some(id) = id {
        info["id"] = json!({"value": id});
    }
    info
}

/// Writes 1, 2, 3 ... until the end of a write is unknown; then begins with another register.
pub(crate) fn write(shared: &Shared, mut random: Random) {
    while shared.phase() == Phase::Faults {
        let at = *random.pick(&shared.masters);
        match Framework::try_subscribe_within(at, &info(None, 0), PATIENCE) {
            Ok(framework) => write_one(shared, &mut random, framework),
            Err(_) => std::thread::sleep(PACE),
        }
    }
}

fn write_one(shared: &Shared, random: &mut Random, mut framework: Framework) {
    let register = shared.register(framework.id.clone());
    let mut value = 0;
    while shared.phase() == Phase::Faults {
        let next = value + 1;
        register.attempted.store(next, Ordering::SeqCst);
        let call = json!({"type": "UPDATE_FRAMEWORK", "framework_id": {"value": framework.id},
            "update_framework": {"framework_info": info(Some(&framework.id), next), "suppressed_roles": ["registers"]}});
        let request = Request::post_json(SCHEDULER, &call.to_string()).header("Mesos-Stream-Id", &framework.stream_id);
        match http::send_within(*random.pick(&shared.masters), &request, PATIENCE) {
            Ok(answer) if answer.status() == 200 => {
                value = next;
                register.acknowledged.store(value, Ordering::SeqCst);
                shared.counts.writes.fetch_add(1, Ordering::Relaxed);
            }
            Ok(answer) if (400..500).contains(&answer.status()) => {
                // Refused for certain: the stream is over. Saying the same value again changes nothing.
                register.attempted.store(value, Ordering::SeqCst);
                let at = *random.pick(&shared.masters);
                match Framework::try_subscribe_within(at, &info(Some(&framework.id), value), PATIENCE) {
                    Ok(again) => framework = again,
                    // It may yet take effect, after a later write: no later write then.
                    Err(_) => return,
                }
            }
            // 503, or no answer: it may have happened, or may yet.
            _ => {
                shared.counts.unknown.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        std::thread::sleep(PACE);
    }
}

/// Reads at any master, again and again.
pub(crate) fn read(shared: &Shared, mut random: Random) {
    while shared.phase() == Phase::Faults {
        std::thread::sleep(PACE * 10);
        check(shared, *random.pick(&shared.masters));
    }
}

/// One read that must contain everything acknowledged before. False if there was no answer.
pub(crate) fn check(shared: &Shared, at: std::net::SocketAddr) -> bool {
    let registers = shared.registers();
    let least: Vec<u64> = registers.iter().map(|register| register.acknowledged.load(Ordering::SeqCst)).collect();
    let Some(answer) = ask(at, "GET_FRAMEWORKS") else { return false };
    let values = values(&answer);
    for (register, least) in registers.into_iter().zip(least) {
        let most = register.attempted.load(Ordering::SeqCst);
        match values.get(register.framework_id.as_str()) {
            None => shared.wrong(format!("{at} does not know framework {}", register.framework_id)),
            Some(value) if (least..=most).contains(value) => {}
            Some(value) => shared.wrong(format!(
                "{at} says {value} for register {}: {least} was acknowledged, {most} attempted",
                register.framework_id
            )),
        }
    }
    shared.counts.reads.fetch_add(1, Ordering::Relaxed);
    true
}

fn values(answer: &Value) -> BTreeMap<&str, u64> {
    let frameworks = answer["get_frameworks"]["frameworks"].as_array().into_iter().flatten();
    frameworks
        .filter_map(|framework| {
            let info = &framework["framework_info"];
            let value = info["labels"]["labels"][0]["value"].as_str()?.parse().ok()?;
            Some((info["id"]["value"].as_str()?, value))
        })
        .collect()
}
