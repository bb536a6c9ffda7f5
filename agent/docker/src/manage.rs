//! What the agent asks for itself: which containers there are, what they use and may use.

use serde_json::{Value, json};

use crate::engine::{Engine, at};
use crate::{Failure, OWNER, PREFIX, Request, Settings, create, name_of};

/// What is taken away at once by one command.
const REMOVED_MAX: usize = 1000;

/// Whether there is an engine, and which; and the program.
pub(crate) async fn version(engine: &Engine, settings: &Settings) -> Result<Value, Failure> {
    let found = engine.get("/version").await.map_err(|error| Failure::Refused(format!("{error} (--docker_socket)")))?;
    create::docker(settings, None, &["--version".to_owned()]).await.map_err(Failure::Refused)?;
    Ok(json!({"version": found.get("Version").and_then(Value::as_str).unwrap_or("of no version")}))
}

/// Containers whose names begin as those of this program do, or of another agent of the kind: their ids, whose they are, whether
/// they run, and when they ended.
pub(crate) async fn list(engine: &Engine, request: &Request) -> Result<Value, Failure> {
    let filters = json!({"name": [format!("^/?{PREFIX}")]}).to_string();
    let encoded: String = filters.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let found = engine.get(&format!("/containers/json?all=1&filters={encoded}")).await?;
    let mut containers = Vec::new();
    for one in found.as_array().into_iter().flatten() {
        let names = one.get("Names").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let ids = names.filter_map(|name| name.trim_start_matches('/').strip_prefix(PREFIX));
        let Some(id) = ids.into_iter().find(|id| is_id(id)) else { continue };
        let owner = at(one, &["Labels", OWNER]).and_then(Value::as_str);
        let owner = match owner {
            Some(folder) if *folder == request.folder.display().to_string() => "own",
            Some(_) => "other",
            None => "none",
        };
        let state = one.get("State").and_then(Value::as_str).unwrap_or_default();
        // Of one that never ran, when it was made.
        let since = one.get("Created").and_then(Value::as_u64).unwrap_or(0);
        let mut told = json!({"container_id": id, "owner": owner, "state": state, "since": since});
        if matches!(state, "exited" | "dead") {
            let ended = engine.inspect(&name_of(id)).await.ok();
            let ended =
                ended.as_ref().and_then(|found| at(found, &["State", "FinishedAt"])?.as_str().and_then(seconds));
            told["since"] = ended.unwrap_or(since).into();
        }
        containers.push(told);
    }
    Ok(json!({ "containers": containers }))
}

/// Ids of containers are those of agents: others have names that begin alike.
fn is_id(text: &str) -> bool {
    // An agent's id before a container's, as older ones have it.
    let id = text.rsplit_once('.').map_or(text, |(before, id)| if id == "executor" { before } else { id });
    let lengths: Vec<usize> = id.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && id.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}

/// Seconds since 1970 of a time with fewer digits behind the seconds than others, perhaps.
fn seconds(time: &str) -> Option<u64> {
    let whole = time.get(..19)?;
    crate::logs::unix(&format!("{whole}.000000000Z"))?.split('.').next()?.parse().ok()
}

/// Takes containers away, with what runs in them.
pub(crate) async fn remove(engine: &Engine, request: &Request) -> Result<Value, Failure> {
    let mut removed = Vec::new();
    for id in request.names.iter().filter(|id| is_id(id)).take(REMOVED_MAX) {
        engine.remove(&name_of(id), true).await?;
        removed.push(id.clone());
    }
    Ok(json!({ "removed": removed }))
}

/// What a container uses.
pub(crate) async fn usage(engine: &Engine, request: &Request) -> Result<Value, Failure> {
    let name = name_of(&request.container_id);
    let found = engine.get(&format!("/containers/{name}/stats?stream=false&one-shot=true")).await?;
    let number = |names: &[&str]| at(&found, names).and_then(Value::as_u64);
    let nanos = |names: &[&str]| number(names).map(|nanos| nanos as f64 / 1e9);
    let memory = |first: &str, second: &str| {
        number(&["memory_stats", "stats", first]).or_else(|| number(&["memory_stats", "stats", second]))
    };
    let network = |name: &str| {
        let all = found.get("networks").and_then(Value::as_object)?;
        let each = all.values().filter_map(|one| one.get(name)?.as_u64());
        Some(each.fold(0_u64, u64::saturating_add))
    };
    let throttled = |name: &str| number(&["cpu_stats", "throttling_data", name]);
    let mut told = json!({});
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            told[name] = value;
        }
    };
    set("cpus_user_secs", nanos(&["cpu_stats", "cpu_usage", "usage_in_usermode"]).map(Value::from));
    set("cpus_system_secs", nanos(&["cpu_stats", "cpu_usage", "usage_in_kernelmode"]).map(Value::from));
    set("cpus_nr_periods", throttled("periods").map(Value::from));
    set("cpus_nr_throttled", throttled("throttled_periods").map(Value::from));
    set("cpus_throttled_time_secs", nanos(&["cpu_stats", "throttling_data", "throttled_time"]).map(Value::from));
    // The first version of control groups names them otherwise than the second.
    set("mem_rss_bytes", memory("rss", "anon").map(Value::from));
    set("mem_cache_bytes", memory("cache", "file").map(Value::from));
    set("mem_mapped_file_bytes", memory("mapped_file", "file_mapped").map(Value::from));
    set("mem_total_bytes", number(&["memory_stats", "usage"]).map(Value::from));
    set("processes", number(&["pids_stats", "current"]).map(Value::from));
    for (name, field) in [
        ("net_rx_bytes", "rx_bytes"),
        ("net_rx_packets", "rx_packets"),
        ("net_rx_errors", "rx_errors"),
        ("net_rx_dropped", "rx_dropped"),
        ("net_tx_bytes", "tx_bytes"),
        ("net_tx_packets", "tx_packets"),
        ("net_tx_errors", "tx_errors"),
        ("net_tx_dropped", "tx_dropped"),
    ] {
        set(name, network(field).map(Value::from));
    }
    Ok(told)
}

/// A container may use something else than it was made for.
pub(crate) async fn update(engine: &Engine, request: &Request) -> Result<Value, Failure> {
    let name = name_of(&request.container_id);
    engine.post(&format!("/containers/{name}/update"), Some(&request.update)).await?;
    Ok(json!({}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_names_that_begin_alike() {
        let id = "0f0e0d0c-1111-4222-8333-444455556666";
        for good in [id.to_owned(), format!("{id}.executor"), format!("S0.{id}"), format!("20-a-S1.{id}")] {
            assert!(is_id(&good), "{good}");
        }
        for bad in ["dns", "master", "", "0f0e0d0c", "zf0e0d0c-1111-4222-8333-444455556666", ".executor"] {
            assert!(!is_id(bad), "{bad}");
        }
        assert_eq!(seconds("1970-01-01T00:01:00.5Z"), Some(60));
        assert_eq!(seconds("0001-01-01T00:00:00Z"), None);
    }
}
