//! Agents in operation, as clients see them: a drain while the leader is killed, a machine in maintenance.

mod support;

use api::internal::order::Order;
use api::v1::TaskState;
use serde_json::{Value, json};
use std::net::SocketAddr;
use support::agent::Agent;
use support::client::{Framework, framework_info, post, send, whole};
use support::{Cluster, until};

const JSON: [(&str, &str); 2] = [("content-type", "application/json"), ("accept", "application/json")];

async fn operator(to: SocketAddr, call: &Value) -> (u16, String) {
    whole(send(to, post("/api/v1", &JSON, call.to_string())).await).await
}

async fn done(to: SocketAddr, call: Value) {
    assert_eq!(operator(to, &call).await, (200, String::new()), "{call}");
}

async fn asked(to: SocketAddr, call: &str) -> Value {
    let (status, text) = operator(to, &json!({"type": call})).await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

async fn get(to: SocketAddr, path: &str) -> Value {
    let request = http::Request::get(path).header("host", "localhost").body(Default::default()).unwrap();
    serde_json::from_str(&whole(send(to, request).await).await.1).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_outlives_the_leader() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let other = cluster.masters[(leader + 1) % 3].address;
    let mut agent = Agent::register(other).await;
    let mut framework = Framework::subscribe(other, framework_info("f")).await;
    let offers = framework.event("OFFERS").await;
    framework.launch(&offers["offers"]["offers"][0], "t1").await;
    assert!(matches!(agent.order().await, Order::Launch(_)));
    agent.update(&framework.id, "t1", TaskState::TaskRunning);
    let running = framework.event("UPDATE").await;
    framework.acknowledge_at(other, &running).await;

    let drain = json!({"agent_id": {"value": agent.id}, "max_grace_period": {"seconds": 4}});
    done(other, json!({"type": "DRAIN_AGENT", "drain_agent": drain})).await;
    match agent.order().await {
        Order::Drain(drain) => assert_eq!(drain.config.max_grace_period.unwrap().nanoseconds, 4_000_000_000),
        other => panic!("{other:?}"),
    }
    let config = json!({"max_grace_period": {"nanoseconds": 4_000_000_000_u64}, "mark_gone": false});
    let shown = async |at: SocketAddr, state: &str| {
        let answer = asked(at, "GET_AGENTS").await;
        let shown = &answer["get_agents"]["agents"][0];
        let is = shown["drain_info"]["state"] == state;
        if is {
            assert_eq!(shown["drain_info"]["config"], config);
            assert_eq!((&shown["active"], &shown["deactivated"]), (&json!(false), &json!(true)));
            assert!(shown["estimated_drain_start_time"]["nanoseconds"].as_u64().unwrap() % 1_000_000_000 == 0);
        }
        is
    };
    assert!(shown(other, "DRAINING").await);

    cluster.masters[leader].kill();
    agent.update(&framework.id, "t1", TaskState::TaskKilled);
    let killed = framework.event("UPDATE").await;
    assert!(shown(other, "DRAINING").await, "its framework has not acknowledged the end");
    let reactivate = json!({"type": "REACTIVATE_AGENT", "reactivate_agent": {"agent_id": {"value": agent.id}}});
    assert_eq!(operator(other, &reactivate).await, (400, "Agent is still in the DRAINING state".into()));
    framework.acknowledge_at(other, &killed).await;
    until("the agent to be drained", async || shown(other, "DRAINED").await.then_some(())).await;
    done(other, reactivate.clone()).await;
    assert!(matches!(agent.order().await, Order::EndDrain(_)));
    framework.event("OFFERS").await;
    assert_eq!(operator(other, &reactivate).await, (400, "Agent is not deactivated".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_announced_taken_down_and_brought_up() {
    let cluster = Cluster::start(1).await;
    let master = cluster.masters[0].address;
    let mut agent = Agent::register(master).await;
    let mut framework = Framework::subscribe(master, framework_info("f")).await;
    let offers = framework.event("OFFERS").await;
    framework.launch(&offers["offers"]["offers"][0], "t1").await;
    let rest = framework.event("OFFERS").await;
    let machine = json!({"hostname": "localhost", "ip": "127.0.0.1"});
    let window = |start: i64| {
        let unavailability =
            json!({"start": {"nanoseconds": start}, "duration": {"nanoseconds": 3_600_000_000_000_i64}});
        json!({"machine_ids": [machine], "unavailability": unavailability})
    };
    let update = |windows: Vec<Value>| {
        let schedule = json!({"schedule": {"windows": windows}});
        json!({"type": "UPDATE_MAINTENANCE_SCHEDULE", "update_maintenance_schedule": schedule})
    };
    let first = window(1_900_000_000_000_000_000);

    done(master, update(vec![first.clone()])).await;
    let rescind = framework.event("RESCIND").await;
    assert_eq!(rescind["rescind"]["offer_id"], rest["offers"]["offers"][0]["id"]);
    let again = framework.event("OFFERS").await;
    assert_eq!(again["offers"]["offers"][0]["unavailability"], first["unavailability"]);
    let asks = framework.event("INVERSE_OFFERS").await["inverse_offers"]["inverse_offers"][0].clone();
    assert_eq!((&asks["agent_id"]["value"], &asks["unavailability"]), (&json!(agent.id), &first["unavailability"]));
    assert!(asks.get("resources").is_none() && asks["url"]["path"] == "/slave(1)", "{asks}");
    let shown = asked(master, "GET_FRAMEWORKS").await;
    assert_eq!(shown["get_frameworks"]["frameworks"][0]["inverse_offers"], json!([asks]));

    let answer = json!({"inverse_offer_ids": [asks["id"]], "filters": {"refuse_seconds": 1.0}});
    framework.call("ACCEPT_INVERSE_OFFERS", "accept_inverse_offers", answer).await;
    let status = asked(master, "GET_MAINTENANCE_STATUS").await;
    let draining = &status["get_maintenance_status"]["status"]["draining_machines"][0];
    assert_eq!((&draining["id"], &draining["statuses"][0]["status"]), (&machine, &json!("ACCEPT")));
    let asks = framework.event("INVERSE_OFFERS").await["inverse_offers"]["inverse_offers"][0].clone();
    assert_eq!(get(master, "/maintenance/schedule").await, json!({"windows": [first]}));

    done(master, update(vec![window(1_900_000_100_000_000_000)])).await;
    let rescind = framework.event("RESCIND_INVERSE_OFFER").await;
    assert_eq!(rescind["rescind_inverse_offer"]["inverse_offer_id"], asks["id"]);
    framework.event("INVERSE_OFFERS").await;

    let drain = json!({"type": "DRAIN_AGENT", "drain_agent": {"agent_id": {"value": agent.id}}});
    let sentence = format!("Agent {} is part of a maintenance schedule under Machine localhost (127.0.0.1)", agent.id);
    assert_eq!(operator(master, &drain).await, (400, sentence));

    let down = whole(send(master, post("/machine/down", &JSON, json!([machine]).to_string())).await).await;
    assert_eq!(down, (200, String::new()));
    let lost = framework.event("UPDATE").await["update"]["status"].clone();
    assert_eq!((&lost["state"], &lost["reason"]), (&json!("TASK_LOST"), &json!("REASON_AGENT_REMOVED")));
    assert_eq!(lost["message"], "Agent localhost removed: Operator initiated 'Machine DOWN'");
    assert_eq!(framework.event("FAILURE").await["failure"]["agent_id"]["value"], json!(agent.id));
    while agent.next().await.is_some() {}
    assert_eq!(asked(master, "GET_AGENTS").await["get_agents"]["agents"], json!([]));
    assert_eq!(get(master, "/maintenance/status").await, json!({"down_machines": [machine]}));
    done(master, json!({"type": "STOP_MAINTENANCE", "stop_maintenance": {"machines": [machine]}})).await;
    assert_eq!(get(master, "/maintenance/status").await, json!({}));
    let _agent = Agent::register(master).await;
    framework.event("OFFERS").await;
}
