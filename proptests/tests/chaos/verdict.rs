//! What must be true when everything has come to rest.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use proptests::cluster::binary;
use serde_json::Value;

use crate::scheduler::{Fate, Task};
use crate::shared::Shared;
use crate::world::World;

/// No task ran twice; what ended well ran; what was refused did not; everything ended. The ends, by state and reason.
pub(crate) fn of_tasks(shared: &Shared, tasks: &[Task], agents_were_full: bool) -> BTreeMap<String, usize> {
    let text = std::fs::read_to_string(&shared.ran).unwrap_or_default();
    let mut ran: BTreeMap<&str, usize> = BTreeMap::new();
    text.lines().for_each(|line| *ran.entry(line).or_default() += 1);
    let mut ends = BTreeMap::new();
    for task in tasks {
        let times = ran.get(task.id.as_str()).copied().unwrap_or(0);
        if times > 1 {
            shared.wrong(format!("{} ran {times} times", task.id));
        }
        let end = match &task.fate {
            Fate::Refused if times > 0 => {
                shared.wrong(format!("{} ran, although its launch was refused", task.id));
                continue;
            }
            Fate::Refused => "refused".to_owned(),
            Fate::Ended(state, reason) => {
                let lost_by_us =
                    matches!(state.as_str(), "TASK_LOST" | "TASK_FAILED" | "TASK_GONE" | "TASK_UNREACHABLE");
                // What an offer that was gone could not launch, and a question about what was never launched.
                let excused = ["REASON_INVALID_OFFERS", "REASON_RECONCILIATION"].contains(&reason.as_str());
                if state == "TASK_FINISHED" && times != 1 {
                    shared.wrong(format!("{} finished, but ran {times} times", task.id));
                }
                if lost_by_us && excused && times > 0 {
                    shared.wrong(format!("{} ran, but is said never to have been launched", task.id));
                }
                if lost_by_us && !excused && !agents_were_full && times > 0 {
                    shared.wrong(format!("{} ran, but ended as {state} ({reason})", task.id));
                }
                format!("{state} {reason}")
            }
            other => {
                shared.wrong(format!("{} never ended: {other:?}", task.id));
                continue;
            }
        };
        *ends.entry(end).or_default() += 1;
    }
    ends
}

/// Every log verifies, and the masters' states are equal at the last index that all of them have.
pub(crate) fn of_logs(world: &World, shared: &Shared) -> u64 {
    let mut lasts = Vec::new();
    for daemon in &world.daemons {
        let Some(verified) = meseta_log(&["verify", "--json"], &daemon.work_dir()) else {
            shared.wrong(format!("the log of {} does not verify", daemon.name));
            continue;
        };
        if verified["ok"] != true {
            shared.wrong(format!("the log of {} is not well: {verified}", daemon.name));
        }
        if daemon.is_master {
            lasts.push(verified["last_index"].as_u64().unwrap_or(0));
        }
    }
    let last = lasts.into_iter().min().unwrap_or(0);
    let at = format!("--at={last}");
    let digests: Vec<Option<Value>> = world
        .daemons
        .iter()
        .filter(|daemon| daemon.is_master)
        .map(|daemon| {
            let state = meseta_log(&["state", &at, "--json", "--select=cluster_id"], &daemon.work_dir())?;
            Some(state["digest"].clone())
        })
        .collect();
    if digests.iter().any(|digest| digest.as_ref().is_none_or(Value::is_null) || *digest != digests[0]) {
        shared.wrong(format!("the masters differ at index {last}: {digests:?}"));
    }
    last
}

/// The last line that it writes.
fn meseta_log(words: &[&str], dir: &Path) -> Option<Value> {
    let output = Command::new(binary("meseta-log")).args(words).arg(dir).output().ok()?;
    if !output.status.success() {
        eprintln!("meseta-log {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().next_back()?).ok()
}
