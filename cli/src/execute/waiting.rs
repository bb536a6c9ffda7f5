//! Why a task does not run yet, in numbers: what it wants beside what the agents have.

use std::collections::BTreeSet;

use api::resources::{Name, Resources};
use api::v1;
use serde_json::Value;

use crate::http;

/// One clause for people. Asks the masters which agents there are.
pub(super) async fn why(masters: Vec<String>, wanted: Value) -> String {
    match http::get_json(&masters, "/master/slaves").await {
        Ok(answer) => match answer["slaves"].as_array().map_or(&[][..], Vec::as_slice) {
            [] => nobody(&masters).await,
            slaves => explain(&wanted, slaves),
        },
        Err(error) => error.to_string(),
    }
}

async fn nobody(masters: &[String]) -> String {
    let away = http::get_json(masters, "/agents/away").await.unwrap_or_default();
    match away["agents"].as_array().map_or(0, Vec::len) {
        0 => NOBODY.to_owned(),
        count => format!("{NOBODY}; unreachable: {} (meseta agents tells since when)", self::count(count)),
    }
}

const NOBODY: &str = "no agent is registered";

/// An agent, as far as it matters: without reservations.
struct Room {
    total: Resources,
    free: Resources,
}

fn explain(wanted: &Value, slaves: &[Value]) -> String {
    let Some(wanted) = read(wanted) else { return "the task's resources cannot be read".to_owned() };
    let active: Vec<Room> = slaves.iter().filter(|slave| slave["active"] == true).map(room).collect();
    if active.is_empty() {
        return format!("none of {} is active: each is disconnected or deactivated", count(slaves.len()));
    }
    let of = count(active.len());
    let names: BTreeSet<&str> = active.iter().flat_map(|room| names(&room.total)).collect();
    if let Some(unknown) = self::names(&wanted).find(|name| !names.contains(name)) {
        let hint = api::nearest::did_you_mean(names, unknown).replace('"', "'");
        return format!("no agent has a resource named '{unknown}'{hint}");
    }
    let parts = wanted.quantities();
    for (name, milli) in &parts {
        let largest = most(&active, name, |room| &room.total);
        if largest < *milli {
            return format!("no offer fits {} ({of}, the largest has {})", part(name, *milli), part(name, largest));
        }
    }
    if !active.iter().any(|room| room.total.contains(&wanted)) {
        return format!("no agent has all of {wanted} ({of})");
    }
    for (name, milli) in &parts {
        let free = most(&active, name, |room| &room.free);
        if free < *milli {
            let (wanted, free) = (part(name, *milli), part(name, free));
            return format!("no offer fits {wanted} now ({of}, the most that is free on one is {free})");
        }
    }
    if !active.iter().any(|room| room.free.contains(&wanted)) {
        return format!("no agent has all of {wanted} free now ({of})");
    }
    format!("no offer came yet although there is room on {of}: others may be looking at what is free")
}

fn names(resources: &Resources) -> impl Iterator<Item = &str> {
    resources.iter().map(|resource| resource.name.as_str())
}

fn most(rooms: &[Room], name: &Name, of: impl Fn(&Room) -> &Resources) -> i64 {
    rooms.iter().map(|room| of(room).scalar_milli(name.as_str())).max().unwrap_or(0)
}

fn room(slave: &Value) -> Room {
    let total = read(&slave["unreserved_resources_full"]).unwrap_or_default().unallocate();
    let used = read(&slave["used_resources_full"]).unwrap_or_default().unallocate().unreserved();
    let mut free = total.clone();
    free.saturating_sub(&used);
    Room { total, free }
}

fn read(list: &Value) -> Option<Resources> {
    let messages: Result<Vec<v1::Resource>, _> = list.as_array()?.iter().map(api::json::from_value).collect();
    Resources::from_v1(&messages.ok()?).ok()
}

/// `cpus:64`
fn part(name: &Name, milli: i64) -> String {
    format!("{}:{}", name.as_str(), milli as f64 / 1000.0)
}

fn count(agents: usize) -> String {
    if agents == 1 { "1 agent".to_owned() } else { format!("{agents} agents") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::launch;

    fn slave(total: &str, used: &str) -> Value {
        let of = |text: &str| if text.is_empty() { Vec::new() } else { launch::resources(text).expect("resources") };
        json!({"active": true, "unreserved_resources_full": of(total), "used_resources_full": of(used)})
    }

    fn said(wanted: &str, slaves: &[Value]) -> String {
        explain(&launch::resources(wanted).expect("resources").into(), slaves)
    }

    #[test]
    fn what_is_missing_is_told_in_numbers() {
        let two = [slave("cpus:2;mem:512;ports:[1-10]", ""), slave("cpus:1;mem:1024", "cpus:0.5")];
        assert_eq!(said("cpus:64;mem:32", &two), "no offer fits cpus:64 (2 agents, the largest has cpus:2)");
        assert_eq!(said("cpu:0.1", &two), "no agent has a resource named 'cpu'; did you mean 'cpus'?");
        assert_eq!(said("gpus:1", &[slave("mem:1", "")]), "no agent has a resource named 'gpus'");
        assert_eq!(said("cpus:2;mem:1024", &two), "no agent has all of cpus:2; mem:1024 (2 agents)");
        let busy = [slave("cpus:2;mem:512", "cpus:1.9")];
        let now = "no offer fits cpus:0.5 now (1 agent, the most that is free on one is cpus:0.1)";
        assert_eq!(said("cpus:0.5", &busy), now);
        assert!(said("cpus:0.1", &busy).starts_with("no offer came yet"), "{}", said("cpus:0.1", &busy));
        let away = [json!({"active": false})];
        assert_eq!(said("cpus:1", &away), "none of 1 agent is active: each is disconnected or deactivated");
    }
}
