//! `meseta state`: a cluster at a glance.

use std::collections::BTreeMap;

use api::terminal::plain;
use serde_json::Value;

use super::{list, number};
use crate::ids::text;

/// `cluster` is the answer about the masters: the cluster's id, and its feature level.
pub(super) fn shown(state: &Value, cluster: &Value) -> String {
    let agents = list(&state["slaves"]);
    let frameworks = list(&state["frameworks"]);
    let mut by_state: BTreeMap<&str, usize> = BTreeMap::new();
    for framework in frameworks.iter().chain(list(&state["completed_frameworks"])) {
        let kinds = ["tasks", "unreachable_tasks", "completed_tasks"];
        for task in kinds.into_iter().flat_map(|kind| list(&framework[kind])) {
            *by_state.entry(text(&task["state"])).or_default() += 1;
        }
    }
    let sum = |kind: &str, name: &str| {
        let total: f64 = agents.iter().filter_map(|agent| agent[kind][name].as_f64()).sum();
        number(total)
    };
    let used = |name| format!("{} of {}", sum("used_resources", name), sum("resources", name));
    let tasks: Vec<String> = by_state.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let mut rows = vec![("leader", text(&state["leader"]).trim_start_matches("master@").to_owned())];
    rows.extend(cluster["cluster_id"].as_str().map(|id| ("cluster", id.to_owned())));
    rows.extend([
        ("agents", how_agents_are(state, agents)),
        ("frameworks", frameworks.len().to_string()),
        ("tasks", if tasks.is_empty() { "none".to_owned() } else { tasks.join(", ") }),
        ("cpus used", used("cpus")),
        ("mem used", format!("{} MB", used("mem"))),
        ("disk used", format!("{} MB", used("disk"))),
    ]);
    rows.extend(cluster["feature_level"].as_u64().map(|level| ("level", level.to_string())));
    let crashed = &cluster["crashed_decisions"];
    rows.extend(crashed["count"].as_u64().map(|count| {
        let (command, panic) = (text(&crashed["command"]), text(&crashed["panic"]));
        ("crashed", format!("{count} decisions by a defect of Meseta, the last of {command}: {panic}"))
    }));
    rows.iter().map(|(name, value)| format!("{name:<11}{}\n", plain(value))).collect()
}

fn how_agents_are(state: &Value, agents: &[Value]) -> String {
    let active = agents.iter().filter(|agent| agent["active"] == true).count();
    let deactivated = agents.iter().filter(|agent| agent["deactivated"] == true).count();
    let mut parts = vec![format!("{active} active")];
    for (count, word) in [(deactivated, "deactivated"), (agents.len() - active - deactivated, "disconnected")] {
        parts.extend((count > 0).then(|| format!("{count} {word}")));
    }
    let mut text = format!("{} ({})", agents.len(), parts.join(", "));
    let unreachable = state["unreachable_slaves"].as_f64().unwrap_or(0.0);
    if unreachable > 0.0 {
        text += &format!(", and {} unreachable", number(unreachable));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cluster_at_a_glance() {
        let answer: Value = serde_json::from_str(
            r#"{"leader": "master@10.0.0.1:5050", "id": "c", "slaves": [{"active": true, "resources": {"cpus": 2.0,
            "mem": 1024.0}, "used_resources": {"cpus": 0.1, "mem": 32.0}}], "frameworks": [{"tasks": [
            {"state": "TASK_RUNNING"}], "unreachable_tasks": [], "completed_tasks": [{"state": "TASK_FINISHED"}]}]}"#,
        )
        .expect("JSON");
        assert_eq!(
            shown(&answer, &json!({"cluster_id": "C", "feature_level": 2})),
            "leader     10.0.0.1:5050\ncluster    C\nagents     1 (1 active)\nframeworks 1\n\
             tasks      1 TASK_FINISHED, 1 TASK_RUNNING\ncpus used  0.1 of 2\nmem used   32 of 1024 MB\n\
             disk used  0 of 0 MB\nlevel      2\n"
        );
        let away =
            json!({"unreachable_slaves": 1.0, "slaves": [{"active": false, "deactivated": true}, {"active": false}]});
        assert!(
            shown(&away, &Value::Null)
                .contains("agents     2 (0 active, 1 deactivated, 1 disconnected), and 1 unreachable\n")
        );
    }
}
