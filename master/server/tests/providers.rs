//! Resource providers of an agent, as clients see them: what they have is offered, a disk is made of it, and it goes with them.

mod support;

use api::internal::{self, from_agent::Message, order::Order};
use api::v1;
use serde_json::{Value, json};
use std::net::SocketAddr;
use support::agent::Agent;
use support::client::{Framework, framework_info, post, send, whole};
use support::{Cluster, until};

async fn asked(to: SocketAddr, call: &str) -> Value {
    let headers = [("content-type", "application/json"), ("accept", "application/json")];
    let (status, text) = whole(send(to, post("/api/v1", &headers, json!({"type": call}).to_string())).await).await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// A disk of the provider, and nothing else.
fn disk(kind: v1::resource::disk_info::source::Type, size: f64, id: Option<&str>) -> v1::Resource {
    let (profile, id) = (Some("fast".to_owned()), id.map(str::to_owned));
    let source = v1::resource::disk_info::Source { r#type: kind as i32, profile, id, ..Default::default() };
    let disk = v1::resource::DiskInfo { source: Some(source), ..Default::default() };
    v1::Resource {
        name: "disk".into(),
        r#type: v1::value::Type::Scalar as i32,
        scalar: Some(v1::value::Scalar { value: size }),
        provider_id: Some(v1::ResourceProviderId { value: "p".into() }),
        disk: Some(Box::new(disk)),
        ..Default::default()
    }
}

fn providers(has: Vec<v1::Resource>) -> Message {
    let id = Some(v1::ResourceProviderId { value: "p".into() });
    let (r#type, name) = ("org.apache.mesos.rp.local.storage".to_owned(), "test".to_owned());
    let info = v1::ResourceProviderInfo { id, r#type, name, ..Default::default() };
    let (resource_version, operations) = (vec![7; 16].into(), Vec::new());
    let state = Some(internal::ProviderState { total_resources: has, resource_version, operations });
    Message::Providers(internal::Providers { providers: vec![internal::Provider { info, is_subscribed: true, state }] })
}

/// What is the provider's among resources.
fn provided(resources: &Value) -> Vec<Value> {
    let all = resources.as_array().cloned().unwrap_or_default();
    let sized = |one: &Value| json!([one["disk"]["source"]["type"], one["scalar"]["value"]]);
    all.iter().filter(|one| one["provider_id"]["value"] == "p").map(sized).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_is_made_by_a_provider() {
    use v1::resource::disk_info::source::Type::{Mount, Raw};
    let cluster = Cluster::start(1).await;
    let master = cluster.masters[0].address;
    // Whoever comes before every master is known to be new has to come again.
    let mut agent = Agent::register(master).await;
    while !agent.takes_providers {
        agent = agent.resume(master).await;
    }
    agent.tell(providers(vec![disk(Raw, 100.0, None)]));
    let shown = async || {
        let answer = asked(master, "GET_AGENTS").await;
        answer["get_agents"]["agents"][0].clone()
    };
    let is_there = async || Some(shown().await).filter(|agent| agent["resource_providers"].is_array());
    let there = until("the provider to be shown", is_there).await;
    let provider = &there["resource_providers"][0];
    assert_eq!(provider["resource_provider_info"]["name"], "test");
    assert_eq!(provided(&provider["total_resources"]), [json!(["RAW", 100.0])]);
    assert_eq!(provided(&there["total_resources"]), [json!(["RAW", 100.0])]);

    let mut framework = Framework::subscribe(master, framework_info("f")).await;
    let offers = framework.event("OFFERS").await;
    let offer = &offers["offers"]["offers"][0];
    let storage = offer["resources"].as_array().unwrap().iter().find(|one| one["provider_id"]["value"] == "p");
    let mut source = storage.expect("what a provider has is offered").clone();
    source["scalar"]["value"] = json!(40.0);
    let create = json!({"type": "CREATE_DISK", "id": {"value": "c"},
                        "create_disk": {"source": source, "target_type": "MOUNT"}});
    let accept = json!({"offer_ids": [offer["id"]], "operations": [create], "filters": {"refuse_seconds": 0}});
    framework.call("ACCEPT", "accept", accept).await;
    let Order::ApplyOperation(order) = agent.order().await else { panic!("no operation") };
    let to = order.provider.expect("a provider");
    assert_eq!((to.id.value.as_str(), &to.resource_version[..]), ("p", &[7; 16][..]));
    let there = shown().await;
    assert_eq!(provided(&there["allocated_resources"]), [json!(["RAW", 40.0])], "held until its end");

    let status = v1::OperationStatus {
        state: v1::OperationState::OperationFinished as i32,
        uuid: Some(v1::Uuid { value: vec![9; 16].into() }),
        converted_resources: vec![disk(Mount, 40.0, Some("v1"))],
        ..Default::default()
    };
    agent.tell(Message::OperationStatus(internal::OperationStatus { operation: order.operation, status }));
    let told = framework.event("UPDATE_OPERATION_STATUS").await;
    let status = &told["update_operation_status"]["status"];
    assert_eq!((&status["state"], &status["operation_id"]["value"]), (&json!("OPERATION_FINISHED"), &json!("c")));
    assert_eq!(status["resource_provider_id"]["value"], "p");
    assert_eq!(provided(&status["converted_resources"]), [json!(["MOUNT", 40.0])]);
    let operations = asked(master, "GET_OPERATIONS").await;
    let latest = &operations["get_operations"]["operations"][0]["latest_status"];
    assert_eq!(latest["resource_provider_id"]["value"], "p");
    let there = shown().await;
    assert_eq!(provided(&there["total_resources"]), [json!(["RAW", 60.0]), json!(["MOUNT", 40.0])]);
    assert_eq!(provided(&there["allocated_resources"]), [] as [Value; 0]);

    // What it does not have any more is not offered any more.
    agent.tell(providers(Vec::new()));
    let gone = async || Some(shown().await).filter(|agent| provided(&agent["total_resources"]).is_empty());
    let there = until("what it had to go", gone).await;
    assert_eq!(provided(&there["offered_resources"]), [] as [Value; 0]);
}
