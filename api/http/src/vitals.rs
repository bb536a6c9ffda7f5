//! This process, as the kernel tells of it: what it takes, and what its threads do.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

/// More threads are not told of.
const THREADS_MAX: usize = 1000;
/// What of `/proc/self/status` is told, in kB or as a number.
const STATUS: &[&str] = &[
    "VmPeak",
    "VmSize",
    "VmHWM",
    "VmRSS",
    "RssAnon",
    "RssFile",
    "VmSwap",
    "Threads",
    "voluntary_ctxt_switches",
    "nonvoluntary_ctxt_switches",
];
/// Ticks of a processor's time in a second, as `/proc` counts them on every machine that Linux runs on.
const TICKS_PER_S: f64 = 100.0;

/// What `/process` tells: memory, descriptors, and each thread with its name, state, processor's time and where it waits in
/// the kernel. What cannot be read is left out. Blocks.
pub fn vitals() -> Value {
    let mut told = Map::new();
    told.insert("pid".into(), std::process::id().into());
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory: Map<String, Value> = status.lines().filter_map(of_status).collect();
    told.insert("status".into(), memory.into());
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        told.insert("open_files".into(), files.count().into());
    }
    if let Ok(limits) = fs::read_to_string("/proc/self/limits") {
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let most = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        told.insert("open_files_max".into(), json!(most));
    }
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return told.into() };
    let threads: Vec<Value> = tasks.flatten().take(THREADS_MAX).filter_map(|task| thread(&task.path())).collect();
    told.insert("threads".into(), threads.into());
    told.into()
}

fn of_status(line: &str) -> Option<(String, Value)> {
    let (name, rest) = line.split_once(':')?;
    let number: u64 = rest.split_whitespace().next()?.parse().ok()?;
    let unit = if rest.trim_end().ends_with(" kB") { "_kb" } else { "" };
    STATUS.contains(&name).then(|| (format!("{name}{unit}"), number.into()))
}

fn thread(path: &Path) -> Option<Value> {
    let stat = fs::read_to_string(path.join("stat")).ok()?;
    // A name may have anything in it, and ends at the last bracket.
    let (before, after) = stat.rsplit_once(") ")?;
    let (id, name) = before.split_once(" (")?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let seconds =
        |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok()).map(|ticks| ticks / TICKS_PER_S);
    let waits = fs::read_to_string(path.join("wchan")).ok().filter(|place| !matches!(place.as_str(), "" | "0"));
    Some(json!({
        "id": id.parse::<u64>().ok()?, "name": name, "state": fields.first(),
        "user_s": seconds(11), "system_s": seconds(12), "waits_in": waits,
    }))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_process_has_memory_files_and_threads() {
        let told = super::vitals();
        assert!(told["status"]["VmRSS_kb"].as_u64().unwrap() > 0 && told["open_files"].as_u64().unwrap() > 2, "{told}");
        let threads = told["threads"].as_array().unwrap();
        assert!(threads.iter().any(|thread| thread["state"] == "R" && thread["user_s"].is_number()), "{told}");
    }
}
