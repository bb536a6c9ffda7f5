//! Launching a container: when it is answered, its process runs, or nothing of it is left.

use std::fs;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::create;
use crate::engine::{Engine, Error, at};
use crate::{Failure, Request, Settings, name_of};

/// Files of this program about a container, by what follows the container's id.
const FILES: [&str; 4] = ["env", "logs", "gently", "stopping"];

pub(crate) async fn launch(engine: &Engine, settings: &Settings, request: &Request) -> Result<Value, Failure> {
    let Request { folder, container_id: id, sandbox, create, .. } = request;
    let name = name_of(id);
    create::pull(engine, settings, folder, id, sandbox, create).await.map_err(Failure::Refused)?;
    create::create(settings, folder, id, create).await.map_err(Failure::Refused)?;
    let started = start(engine, &name).await;
    match started {
        Ok(found) => Ok(told(&found, create.network_info.as_ref())),
        Err(error) => {
            let sentence = format!("cannot start the container: {error}");
            match engine.remove(&name, true).await {
                Ok(()) => Err(Failure::Refused(sentence)),
                Err(also) => Err(Failure::Broken(format!("{sentence}; it cannot be removed either: {also}"))),
            }
        }
    }
}

async fn start(engine: &Engine, name: &str) -> Result<Value, Error> {
    engine.post(&format!("/containers/{name}/start"), None).await?;
    engine.inspect(name).await
}

/// The container's process, its addresses, and what `docker inspect` says of it.
fn told(found: &Value, network: Option<&Value>) -> Value {
    let mut told = json!({ "data": Value::Array(vec![found.clone()]).to_string() });
    let addresses = addresses(found);
    if !addresses.is_empty() {
        let mut network = network.cloned().filter(Value::is_object).unwrap_or_else(|| json!({}));
        let kind = |address: &IpAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let address = |one: &IpAddr| json!({"protocol": kind(one), "ip_address": one.to_string()});
        network["ip_addresses"] = addresses.iter().map(address).collect();
        told["network_infos"] = json!([network]);
    }
    // It may have ended by now.
    if let Some(pid) = at(found, &["State", "Pid"]).and_then(Value::as_u64).filter(|pid| *pid > 0) {
        told["pid"] = pid.into();
    }
    told
}

/// Addresses of the networks that are the container's own.
fn addresses(found: &Value) -> Vec<IpAddr> {
    let settings = found.get("NetworkSettings");
    let networks = settings.and_then(|settings| settings.get("Networks")).and_then(Value::as_object);
    let of_networks = networks.into_iter().flat_map(|networks| networks.values());
    let mut all: Vec<IpAddr> = Vec::new();
    for one in settings.into_iter().chain(of_networks) {
        for name in ["IPAddress", "GlobalIPv6Address"] {
            let address = one.get(name).and_then(Value::as_str).and_then(|address| address.parse().ok());
            all.extend(address.filter(|address| !all.contains(address)));
        }
    }
    all
}

/// The container's end is written down.
pub(crate) fn release(request: &Request) -> Value {
    for what in FILES {
        let _ = fs::remove_file(request.folder.join(format!("{}.{what}", request.container_id)));
    }
    json!({})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_start() {
        let found = json!({
            "State": {"Pid": 7},
            "NetworkSettings": {"IPAddress": "172.17.0.2", "Networks": {
                "bridge": {"IPAddress": "172.17.0.2", "GlobalIPv6Address": "fe::1"}, "n": {"IPAddress": ""}, "m": 7, "o": {"IPAddress": "evil"}
            }}
        });
        let told = told(&found, Some(&json!({"name": "n"})));
        assert_eq!(told["pid"], 7);
        let addresses = json!([
            {"protocol": "IPv4", "ip_address": "172.17.0.2"}, {"protocol": "IPv6", "ip_address": "fe::1"}
        ]);
        assert_eq!(told["network_infos"], json!([{"name": "n", "ip_addresses": addresses}]));
        let data: Value = serde_json::from_str(told["data"].as_str().unwrap()).unwrap();
        assert_eq!(data, json!([found]));
        let nothing = super::told(&json!({"State": {"Pid": 0}}), None);
        assert_eq!((nothing.get("pid"), nothing.get("network_infos")), (None, None));
    }
}
