//! `meseta-log explain` and `whatif` on the log of a small cluster.

mod common;

use api::v1;
use api::v1::TaskState;
use api::v1::master::call::{self, Type};
use common::cluster::Cluster;
use common::{at, failure, json, text};

/// The sentences of a story, without times and indexes.
fn sentences(story: &str) -> Vec<String> {
    let told = story.lines().filter(|line| line.starts_with("20"));
    told.filter_map(|line| Some(line.split_once('#')?.1.split_once("  ")?.1.to_owned())).collect()
}

#[tokio::test]
async fn a_role_is_told_with_its_quota_its_weight_and_those_of_the_roles_above() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(dir.path()).await;
    cluster.raise().await;
    cluster.framework("nightly", &["batch/night"]).await;
    cluster.agent("cpus:4;mem:1000").await;
    cluster.offer().await;
    let of = |kind: Type| v1::master::Call { r#type: Some(kind as i32), ..Default::default() };
    let quota = |cpus: f64| {
        let limits = [("cpus".to_owned(), v1::value::Scalar { value: cpus })].into();
        let config = v1::quota::QuotaConfig { role: "batch".into(), limits, ..Default::default() };
        let update_quota = Some(call::UpdateQuota { quota_configs: vec![config], force: None });
        v1::master::Call { update_quota, ..of(Type::UpdateQuota) }
    };
    cluster.operator(quota(8.0)).await;
    cluster.operator(quota(2.0)).await;
    let weight_infos = vec![v1::WeightInfo { role: Some("batch/night".into()), weight: 2.5 }];
    let update_weights = Some(call::UpdateWeights { weight_infos });
    cluster.operator(v1::master::Call { update_weights, ..of(Type::UpdateWeights) }).await;
    let work_dir = at(dir.path());
    cluster.last_index(work_dir);
    let story = text(&["explain", "role", "batch/night", work_dir]);
    let told = sentences(&story).join("\n");
    for sentence in [
        "An operator said: role batch may have at most cpus:8.",
        "An operator said: role batch may have at most cpus:2; before, may have at most cpus:8.",
        "; quota changed, and it was in the way.",
        "An operator said: role batch/night counts 2.5 among its siblings; before, 1.",
    ] {
        assert!(told.contains(sentence), "{sentence}: {told}");
    }
    assert!(story.contains("it counts 2.5 among its siblings."), "{story}");
    assert!(story.contains("role batch above it may have at most cpus:2; it consumes nothing."), "{story}");
}

#[tokio::test]
async fn an_agent_is_told_as_it_drains_and_its_machine_goes_down() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(dir.path()).await;
    cluster.raise().await;
    let framework = cluster.framework("nightly", &["batch"]).await;
    let agent = cluster.agent("cpus:4;mem:1000").await;
    let offers = cluster.offer().await;
    cluster.launch(framework, offers[0], "report", "cpus:1;mem:100").await;
    let agent_id = v1::AgentId { value: "C-S0".into() };
    let of = |kind: Type| v1::master::Call { r#type: Some(kind as i32), ..Default::default() };
    let drain = call::DrainAgent { agent_id: agent_id.clone(), mark_gone: Some(false), ..Default::default() };
    cluster.operator(v1::master::Call { drain_agent: Some(drain), ..of(Type::DrainAgent) }).await;
    let work_dir = at(dir.path());
    cluster.last_index(work_dir);
    let story = text(&["explain", "agent", "C-S0", work_dir]);
    assert!(story.contains(": 1 task left."), "{story}");

    cluster.log.at_ms += 3000;
    cluster.update(framework, agent, "report", TaskState::TaskKilled).await;
    cluster.acknowledge(framework, agent, "report").await;
    let reactivate = Some(call::ReactivateAgent { agent_id, ..Default::default() });
    cluster.operator(v1::master::Call { reactivate_agent: reactivate, ..of(Type::ReactivateAgent) }).await;
    let machines = vec![v1::MachineId { hostname: Some("host0".into()), ip: Some("10.0.0.0".into()) }];
    let unavailability = v1::Unavailability {
        start: v1::TimeInfo { nanoseconds: 1_900_000_000_000_000_000 },
        duration: Some(v1::DurationInfo { nanoseconds: 3_600_000_000_000 }),
    };
    let window = v1::maintenance::Window { machine_ids: machines.clone(), unavailability };
    let schedule = v1::maintenance::Schedule { windows: vec![window] };
    let update = Some(call::UpdateMaintenanceSchedule { schedule });
    let scheduled = of(Type::UpdateMaintenanceSchedule);
    cluster.operator(v1::master::Call { update_maintenance_schedule: update, ..scheduled }).await;
    cluster.last_index(work_dir);
    let story = text(&["explain", "agent", "C-S0", work_dir]);
    let told = sentences(&story).join("\n");
    for sentence in [
        "An operator wants agent C-S0 (host0) empty.",
        "Agent C-S0 (host0) is drained, 3s after an operator wanted it.",
        "An operator wants agent C-S0 (host0) in use again.",
    ] {
        assert!(told.contains(sentence), "{sentence}: {told}");
    }
    assert!(story.contains("its machine is to be unavailable from 2030-03-17T17:46:40"), "{story}");
}

#[tokio::test]
async fn a_task_is_told_from_its_launch_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(dir.path()).await;
    let framework = cluster.framework("nightly", &["batch"]).await;
    let agent = cluster.agent("cpus:4;mem:1000").await;
    let offers = cluster.offer().await;
    cluster.log.at_ms += 40;
    cluster.launch(framework, offers[0], "report", "cpus:1;mem:100").await;
    cluster.update(framework, agent, "report", TaskState::TaskRunning).await;
    cluster.acknowledge(framework, agent, "report").await;
    cluster.log.at_ms += 5000;
    cluster.agent_leaves(agent).await;
    cluster.log.at_ms += 42_000;
    cluster.agent_returns(agent, &[(framework, "report")]).await;
    cluster.kill(framework, "report").await;
    cluster.update(framework, agent, "report", TaskState::TaskKilled).await;
    cluster.acknowledge(framework, agent, "report").await;
    let work_dir = at(dir.path());
    cluster.last_index(work_dir);

    let story = text(&["explain", "task", "report", work_dir]);
    assert!(story.starts_with("The story of task report of framework C-0000 (nightly)\n"), "{story}");
    assert!(story.contains("-- decided by master 127.0.0.1:5050, leader of term 1\n"), "{story}");
    let expected = [
        "Framework C-0000 (nightly) launched it on agent C-S0 (host0) for role batch with offer C-O0: \
         cpus:1; mem:100; command \"true\". [ACCEPT from 127.0.0.1:40000]",
        "Agent C-S0 (host0) has the order to launch it in its log. [agent-messages from 127.0.0.1:40000]",
        "Agent C-S0 (host0) reported TASK_RUNNING: as it is. [agent-messages from 127.0.0.1:40000]",
        "Framework C-0000 (nightly) acknowledged TASK_RUNNING of it. [ACKNOWLEDGE from 127.0.0.1:40000]",
        "The connection of agent C-S0 (host0) ended; it is unreachable from 2026-11-20T23:14:38.466Z (in 1m 15s) on \
         unless it returns. [agent-disconnected from 127.0.0.1:40000]",
        "Agent C-S0 (host0) was back with its log, away for 42s. [resume-agent from 127.0.0.1:40000]",
        "Framework C-0000 (nightly) wanted it killed; agent C-S0 (host0) was ordered to. [KILL from 127.0.0.1:40000]",
        "Agent C-S0 (host0) reported TASK_KILLED: as it is. [agent-messages from 127.0.0.1:40000]",
        "Framework C-0000 (nightly) acknowledged TASK_KILLED of it. [ACKNOWLEDGE from 127.0.0.1:40000]",
    ];
    assert_eq!(sentences(&story), expected, "{story}");
    assert!(story.contains("it is over as TASK_KILLED; it was launched at 2026-11-20T23:13:18.4"), "{story}");

    // The same for programs: one object a line, the last is the end.
    let lines = json(&["explain", "task", "C-0000/report", work_dir]);
    assert_eq!(lines.len(), expected.len() + 1);
    assert_eq!(
        (lines[0]["event"].as_str(), lines[0]["cause"]["call"].as_str()),
        (Some("task-launched"), Some("ACCEPT"))
    );
    assert_eq!((lines[0]["beside"].as_bool(), lines[1]["beside"].as_bool()), (Some(false), Some(true)));
    assert_eq!(lines[0]["leader"]["term"], 1);
    assert!(lines.last().unwrap()["ending"][1].as_str().unwrap().contains("TASK_KILLED"));

    // Up to a place in the middle, the story ends there.
    let middle = text(&["explain", "task", "report", "--to=2026-11-20T23:13:30Z", work_dir]);
    assert!(middle.contains("it is TASK_RUNNING on agent C-S0 (host0) and holds its resources"), "{middle}");
    assert!(middle.contains("agent C-S0 (host0) is away for 0ms, and unreachable from"), "{middle}");
    let (sentence, code) = failure(&["explain", "task", "nobody", work_dir]);
    assert_eq!((sentence.contains("nothing in this log concerns the task nobody"), code), (true, 1), "{sentence}");
}

#[tokio::test]
async fn a_refused_launch_is_told_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(dir.path()).await;
    let framework = cluster.framework("analysts", &["analytics"]).await;
    cluster.agent("cpus:4;mem:1000").await;
    let offers = cluster.offer().await;
    cluster.launch(framework, offers[0], "crunch", "cpus:64;mem:100").await;
    let work_dir = at(dir.path());
    cluster.last_index(work_dir);

    let story = text(&["explain", "task", "crunch", work_dir]);
    let [sentence] = sentences(&story).try_into().unwrap();
    let start = "Framework C-0000 (analysts) may not launch it on agent C-S0 with offer C-O0; it is told TASK_ERROR \
                 (REASON_TASK_INVALID): Total resources cpus";
    assert!(sentence.starts_with(start) && sentence.contains("is more than available cpus"), "{story}");
    assert!(story.contains("  it never ran: Total resources"), "{story}");

    let story = text(&["explain", "offer", "C-O0", work_dir]);
    assert_eq!(
        sentences(&story)[..2],
        [
            "The allocator offered cpus:4; mem:1000 as C-O0 of agent C-S0 (host0) to framework C-0000 (analysts) for role \
             analytics. [make-offers from 127.0.0.1:40000]",
            "Framework C-0000 (analysts) accepted offer C-O0 of agent C-S0 (host0) for role analytics after 1ms. \
             [ACCEPT from 127.0.0.1:40000]",
        ]
    );
    assert!(story.ends_with("  framework C-0000 (analysts) accepted it.\n"), "{story}");
}

#[tokio::test]
async fn a_role_is_told_why_it_is_offered_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(dir.path()).await;
    let web = cluster.framework("web", &["web"]).await;
    let batch = cluster.framework("batch", &["batch"]).await;
    let agents = [cluster.agent("cpus:4;mem:1000").await, cluster.agent("cpus:4;mem:1000").await];
    for round in 0..5 {
        let offers = cluster.offer().await;
        for offer in offers {
            let framework = cluster.log.state.offers.get(offer).unwrap().framework;
            if round == 4 && framework == batch {
                let agent = cluster.log.state.offers.get(offer).unwrap().agent;
                cluster.launch(framework, offer, "hog", "cpus:4;mem:1000").await;
                cluster.update(framework, agent, "hog", TaskState::TaskRunning).await;
            } else {
                cluster.decline(framework, &[offer], if round == 4 { 3600.0 } else { 0.0 }).await;
            }
        }
    }
    cluster.suppress(batch).await;
    let work_dir = at(dir.path());
    cluster.last_index(work_dir);

    let story = text(&["explain", "role", "web", work_dir]);
    assert!(story.contains("... and until #"), "many offers are counted, not told: {story}");
    assert!(story.contains("declines: "), "{story}");
    assert!(story.contains("  role batch holds 50 % of cpus (4 of 8) as its dominant share.\n"), "{story}");
    assert!(story.contains("  this role web holds nothing as its dominant share.\n"), "{story}");
    let filtered = "is not offered C-S";
    assert!(
        story.contains(filtered) && story.contains("in role web: it declined as much until 2026-11-21T00:13:18"),
        "{story}"
    );
    assert!(story.contains("in role web: what may go to the role is in use or offered already."), "{story}");
    let story = text(&["explain", "role", "batch", work_dir]);
    assert!(
        story.contains("framework C-0001 (batch) is not offered anything in role batch: it suppressed the role."),
        "{story}"
    );
    assert!(story.contains("Framework C-0001 (batch) wants no offers for role batch. [SUPPRESS"), "{story}");

    cluster.agent_leaves(agents[0]).await;
    cluster.last_index(work_dir);
    let story = text(&["explain", "agent", "C-S0", work_dir]);
    assert!(story.starts_with("The story of agent C-S0 (host0)\n"), "{story}");
    assert!(story.contains("  it is away for 0ms, and unreachable from"), "{story}");
    let story = text(&["explain", "framework", "C-0000", work_dir]);
    assert!(
        story.contains(
            "Framework C-0000 (web) subscribed for the first time, for role web; its tasks outlive its stream by 1h."
        ),
        "{story}"
    );
    assert!(
        story.contains("framework C-0000 (web) is not offered C-S0 in role web: the agent is not connected."),
        "{story}"
    );
    let _ = web;
}

#[tokio::test]
async fn other_settings_would_have_led_to_other_offers() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(dir.path()).await;
    for role in ["web", "batch", "batch/night"] {
        cluster.framework(role, &[role]).await;
    }
    for _ in 0..12 {
        cluster.agent("cpus:1;mem:100").await;
    }
    for _ in 0..3 {
        for offer in cluster.offer().await {
            let framework = cluster.log.state.offers.get(offer).unwrap().framework;
            cluster.decline(framework, &[offer], 0.0).await;
        }
    }
    let work_dir = at(dir.path());
    cluster.last_index(work_dir);

    let lines = json(&["whatif", "--weights=web=2", work_dir]);
    let summary = lines.last().unwrap();
    assert_eq!((summary["plans"].as_u64(), summary["as_recorded"].as_u64()), (Some(3), Some(3)), "{summary}");
    assert_eq!((summary["different"].as_u64(), lines.len()), (Some(3), 4));
    assert_eq!(summary["first_different"], lines[0]["index"]);
    let offers = |side: &str, role: &str| summary["roles"][role][side]["offers"].as_u64();
    assert_eq!((offers("as_set", "web"), offers("other", "web")), (Some(18), Some(24)));
    assert_eq!((offers("as_set", "batch/night"), offers("other", "batch/night")), (Some(9), Some(6)));
    assert_eq!(summary["roles"]["web"]["other"]["resources"]["cpus"], "24");
    assert_eq!(summary["frameworks"]["C-0000"]["other"]["offers"], 24);
    let table = text(&["whatif", "--weights=web=2", work_dir]);
    assert!(
        table.starts_with("3 plans made again with weight 2 of web; 3 of the recorded ones came out as they are"),
        "{table}"
    );
    assert!(table.contains("18 -> 24"), "{table}");

    // A role elsewhere in the tree is due its own share.
    let lines = json(&["whatif", "--roles=batch/night=night", work_dir]);
    let summary = lines.last().unwrap();
    let offers = |side: &str, role: &str| summary["roles"][role][side]["offers"].as_u64();
    assert_eq!((offers("as_set", "batch/night"), offers("other", "night")), (Some(9), Some(12)), "{summary}");
    // The same settings make the same plans; chance makes others.
    assert_eq!(json(&["whatif", "--policy=drf", work_dir])[0]["different"], 0);
    assert!(json(&["whatif", "--policy=random", work_dir]).last().unwrap()["different"].as_u64() > Some(0));
    let (sentence, code) = failure(&["whatif", "--policy=random", "--to=3", work_dir]);
    assert_eq!((sentence.contains("no plan of offers"), code), (true, 1), "{sentence}");
}
