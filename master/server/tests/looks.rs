//! What operators look at beside State: the registry, the level of the log, help, the machine.

mod support;

use serde_json::{Value, json};
use std::net::SocketAddr;
use support::Cluster;
use support::agent::Agent;
use support::client::{Framework, framework_info, post, send, whole};

async fn get(master: SocketAddr, path: &str) -> (u16, String) {
    let request = http::Request::get(path).header("host", "m").body(http_body_util::Full::default()).unwrap();
    whole(send(master, request).await).await
}

async fn call(master: SocketAddr, call: Value) -> (u16, String) {
    let headers = [("content-type", "application/json"), ("accept", "application/json")];
    whole(send(master, post("/api/v1", &headers, call.to_string())).await).await
}

async fn read(master: SocketAddr, path: &str) -> Value {
    let (status, text) = get(master, path).await;
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_is_what_a_new_master_must_know() {
    let mut cluster = Cluster::start(1).await;
    let master = cluster.masters[0].address;
    let agent = Agent::register(master).await;
    let quota = json!({"quota_configs": [{"role": "eng", "limits": {"cpus": {"value": 1.0}}}], "force": true});
    assert_eq!(call(master, json!({"type": "UPDATE_QUOTA", "update_quota": quota})).await, (200, String::new()));
    let weights = json!({"weight_infos": [{"role": "eng", "weight": 2.5}]});
    assert_eq!(call(master, json!({"type": "UPDATE_WEIGHTS", "update_weights": weights})).await.0, 200);

    let registry = read(master, "/registrar(1)/registry").await;
    assert_eq!(read(master, "/registrar%281%29/registry").await, registry);
    assert_eq!(registry["quota_configs"], json!([{"limits": {"cpus": {"value": 1.0}}, "role": "eng"}]));
    assert_eq!(registry["weights"], json!([{"info": {"role": "eng", "weight": 2.5}}]));
    assert_eq!(registry["minimum_capabilities"], json!([{"capability": "QUOTA_V2"}]));
    let slave = &registry["slaves"]["slaves"][0];
    assert_eq!((&slave["deactivated"], &slave["info"]["id"]["value"]), (&json!(false), &json!(agent.id)));
    assert_eq!((&slave["info"]["checkpoint"], &slave["info"]["resources"][0]["role"]), (&json!(true), &json!("*")));
    assert_eq!(registry["master"]["info"]["port"], json!(master.port()));
    assert!(registry.get("schedules").is_none() && registry.get("machines").is_none(), "{registry}");

    let machine = json!({"hostname": "maint.example", "ip": "127.0.0.9"});
    let start = json!({"start": {"nanoseconds": 1_900_000_000_000_000_000_i64}});
    let schedule = json!({"schedule": {"windows": [{"machine_ids": [machine], "unavailability": start}]}});
    let update = json!({"type": "UPDATE_MAINTENANCE_SCHEDULE", "update_maintenance_schedule": schedule});
    assert_eq!(call(master, update).await.0, 200);
    let registry = read(master, "/registrar(1)/registry").await;
    let scheduled = json!([{"info": {"id": machine, "mode": "DRAINING", "unavailability": start}}]);
    assert_eq!(registry["machines"]["machines"], scheduled);
    assert_eq!(registry["schedules"][0]["windows"][0]["machine_ids"][0], machine);
    cluster.masters[0].stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_more_for_a_while() {
    let mut cluster = Cluster::start(1).await;
    let master = cluster.masters[0].address;
    assert_eq!(get(master, "/logging/toggle").await, (200, "0\n".to_owned()));
    let expected = (400, "Expecting 'duration=value' in query.\n".to_owned());
    assert_eq!(get(master, "/logging/toggle?level=2").await, expected);
    assert_eq!(get(master, "/logging/toggle?level=2&duration=1hrs").await, (200, String::new()));
    assert_eq!(get(master, "/logging/toggle").await.1, "2\n");
    let level = call(master, json!({"type": "GET_LOGGING_LEVEL"})).await;
    assert_eq!(level.1, r#"{"type":"GET_LOGGING_LEVEL","get_logging_level":{"level":2}}"#);
    let set = json!({"level": 1, "duration": {"nanoseconds": 1_000_000}});
    assert_eq!(
        call(master, json!({"type": "SET_LOGGING_LEVEL", "set_logging_level": set})).await,
        (200, String::new())
    );
    support::until("the level to be what it was", async || {
        (get(master, "/logging/toggle").await.1 == "0\n").then_some(())
    })
    .await;
    cluster.masters[0].stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_help_for_every_endpoint() {
    let mut cluster = Cluster::start(1).await;
    let master = cluster.masters[0].address;
    let help = read(master, "/help?format=json").await;
    let processes = help["processes"].as_array().unwrap();
    let names: Vec<String> = processes
        .iter()
        .flat_map(|process| {
            let id = process["id"].as_str().unwrap();
            process["endpoints"].as_array().unwrap().iter().map(move |endpoint| {
                format!("/{id}{}", endpoint["name"].as_str().unwrap()).trim_end_matches('/').to_owned()
            })
        })
        .collect();
    let paths = master_server::http::legacy::PATHS.iter().map(|(path, ..)| *path);
    let paths = paths.chain(master_server::http::own::PATHS.iter().map(|(path, ..)| *path));
    for path in paths.filter(|path| !matches!(*path, "/files" | "/__processes__")) {
        assert!(names.iter().any(|name| name == path || name == &format!("/master{path}")), "{path}: {names:?}");
    }
    for name in names {
        assert_eq!(get(master, &format!("/help{name}")).await.0, 200, "{name}");
    }
    assert_eq!(get(master, "/profiler/start").await.0, 400);
    assert_eq!(get(master, "/memory-profiler/state").await.0, 404);
    assert!(read(master, "/__processes__").await.as_array().unwrap().contains(&json!({"events": [], "id": "master"})));
    assert!(read(master, "/system/stats.json").await["cpus_total"].is_u64());
    cluster.masters[0].stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_those_of_mesos_and_of_prometheus() {
    let mut cluster = Cluster::start(1).await;
    let master = cluster.masters[0].address;
    let _agent = Agent::register(master).await;
    let mut framework = Framework::subscribe(master, framework_info("f")).await;
    framework.event("OFFERS").await;
    let decline = json!({"offer_ids": []});
    framework.call("DECLINE", "decline", decline).await;
    framework.call("REVIVE", "revive", json!({})).await;

    let metrics = read(master, "/metrics/snapshot").await;
    let path = format!("{}/../../api/testdata/mesos-1.11/get-metrics-snapshot.json", env!("CARGO_MANIFEST_DIR"));
    let known: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let of_others =
        ["master/frameworks/", "master/task_", "frameworks/", "allocator/mesos/quota", "allocator/mesos/roles"];
    let missing: Vec<&String> = known
        .as_object()
        .unwrap()
        .keys()
        .filter(|name| !of_others.iter().any(|prefix| name.starts_with(prefix)) && !name.contains("_ms"))
        .filter(|name| !name.contains("offer_filters") && metrics.get(*name).is_none())
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    let strange: Vec<&String> =
        metrics.as_object().unwrap().keys().filter(|name| api_http::metrics::find(name).is_none()).collect();
    assert!(strange.is_empty(), "not in the table: {strange:?}");
    let of_it = format!("master/frameworks/f/{}", framework.id);
    for (name, value) in [
        ("master/messages_register_framework", 1.0),
        ("master/messages_register_slave", 1.0),
        ("master/messages_decline_offers", 1.0),
        ("master/messages_revive_offers", 1.0),
        ("master/meseta/members_answering", 1.0),
        ("master/meseta/streams_held", 1.0),
        (&format!("{of_it}/calls"), 3.0),
        (&format!("{of_it}/calls/subscribe"), 1.0),
        (&format!("{of_it}/events/subscribed"), 1.0),
        (&format!("{of_it}/offers/sent"), 1.0),
    ] {
        assert_eq!(metrics[name], json!(value), "{name}");
    }
    for name in
        ["master/meseta/term", "master/meseta/log_bytes", "registrar/state_store_ms", "master/meseta/leader_changes"]
    {
        assert!(metrics[name].as_f64().unwrap() > 0.0, "{name}: {}", metrics[name]);
    }
    let (status, text) = get(master, "/metrics/prometheus").await;
    assert_eq!(status, 200);
    for line in ["meseta_master_elected 1", "# TYPE meseta_framework_calls_total counter", "meseta_log_members 1"] {
        assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
    }
    cluster.masters[0].stop().await;
}

/// Every `href` and `src` of a page.
fn links(page: &str) -> Vec<String> {
    let parts = page.split(['\"']).collect::<Vec<_>>();
    let named = parts.windows(2).filter(|pair| pair[0].ends_with("href=") || pair[0].ends_with("src="));
    named.map(|pair| pair[1].replace("&amp;", "&")).collect()
}

/// Where a link leads from a page.
fn resolved(from: &str, link: &str) -> String {
    let (link, query) = link.split_once('?').map_or((link, None), |(link, query)| (link, Some(query)));
    let mut path: Vec<&str> = from.split('/').collect();
    if !link.is_empty() {
        path.pop();
    }
    for part in link.split('/').filter(|_| !link.is_empty()) {
        match part {
            ".." => drop(path.pop()),
            "." | "" => {}
            part => path.push(part),
        }
    }
    let is_folder = link.ends_with("..") || link.ends_with('/');
    let path = if is_folder { path.join("/") + "/" } else { path.join("/") };
    query.map_or(path.clone(), |query| format!("{path}?{query}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_lead_to_each_other_and_show_names_as_they_are() {
    let mut cluster = Cluster::start(1).await;
    let master = cluster.masters[0].address;
    let _agent = Agent::register(master).await;
    let mut framework = Framework::subscribe(master, framework_info("<script>alert(1)</script>\"'&")).await;
    let offers = framework.event("OFFERS").await;
    framework.launch(&offers["offers"]["offers"][0], "t%<b>").await;
    support::until("the task", async || get(master, "/ui/tasks").await.1.contains("TASK_").then_some(())).await;

    for (path, to) in [("/", "ui/"), ("/master", "master/ui/"), ("/master/", "ui/")] {
        let request = http::Request::get(path).header("host", "m").header("accept", "text/html,*/*");
        let answer = send(master, request.body(http_body_util::Full::default()).unwrap()).await;
        assert_eq!((answer.status().as_u16(), answer.headers()["location"].to_str().unwrap()), (302, to), "{path}");
    }
    assert_eq!(get(master, "/").await.0, 404, "whoever does not want a page");
    let mut todo = vec!["/ui".to_owned(), "/master/ui/".to_owned()];
    let mut seen = std::collections::BTreeSet::new();
    while let Some(path) = todo.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let request = http::Request::get(&*path).header("host", "m").body(http_body_util::Full::default()).unwrap();
        let answer = send(master, request).await;
        let is_page = answer.headers()["content-type"].to_str().unwrap().starts_with("text/html");
        if is_page {
            let policy = answer.headers()["content-security-policy"].to_str().unwrap();
            assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        }
        let (status, text) = whole(answer).await;
        // Files of tasks are the agent's to show, and this one has no machine; and there is a time before everything.
        let is_early = status == 404 && path.contains("at=") && text.contains("was not known then");
        assert!(status == 200 || is_early || path.contains("/files"), "{path}: {status} {text}");
        if !is_page {
            continue;
        }
        assert!(!text.contains("<script>alert") && !text.contains("t%<b>"), "{path}: {text}");
        assert!(text.contains("<html lang=\"en\">") && text.matches("<h1>").count() == 1, "{path}");
        assert!(!text.contains("http://") && !text.contains("https://"), "{path}: nothing from elsewhere");
        let of_ours = links(&text).into_iter().filter(|link| !link.starts_with('#') && !link.contains("../api/"));
        todo.extend(of_ours.map(|link| resolved(path.split('?').next().unwrap(), &link)));
    }
    let about = |what: &str| seen.iter().any(|path| path.contains(what));
    for what in
        ["/ui/agents/", "/ui/frameworks/", "/ui/tasks/", "/ui/roles/", "style.css", "live.js", "/metrics/prometheus"]
    {
        assert!(about(what), "{what}: {seen:?}");
    }
    let (status, text) = get(master, "/ui/tasks/nosuch/x").await;
    assert!(status == 404 && text.contains("no longer known"), "{text}");
    cluster.masters[0].stop().await;
}
