//! Networks as their configurations describe them: one file each, `.conf` and `.json` with one plugin, `.conflist` with several that
//! are asked one after the other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use api::v1::NetworkInfo;
use serde_json::{Map, Value, json};

use crate::dns::Dns;

/// A configuration has so many bytes at most.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// What plugins are told by whoever runs containers, below `args`.
const OURS: &str = "org.apache.mesos";

/// A network.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Network {
    pub(super) name: String,
    /// What each of its plugins is told.
    plugins: Vec<Map<String, Value>>,
}

/// The networks that are configured, by name, and what is wrong with other files.
pub(super) fn load(dir: &Path, plugins: &[PathBuf]) -> Result<(BTreeMap<String, Network>, Vec<String>), String> {
    let cannot =
        |error: &dyn std::fmt::Display| format!("Cannot read --network_cni_config_dir {}: {error}", dir.display());
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| cannot(&error))? {
        paths.push(entry.map_err(|error| cannot(&error))?.path());
    }
    paths.sort();
    let (mut found, mut wrong) = (BTreeMap::new(), Vec::new());
    for path in paths.iter().filter(|path| path.is_file()) {
        let network = read(path).and_then(|network| {
            network.check(plugins)?;
            match found.contains_key(&network.name) {
                true => Err(format!("there is another network '{}'", network.name)),
                false => Ok(network),
            }
        });
        match network {
            Ok(network) => drop(found.insert(network.name.clone(), network)),
            Err(why) => wrong.push(format!("{}: {why}", path.display())),
        }
    }
    Ok((found, wrong))
}

fn read(path: &Path) -> Result<Network, String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > CONFIG_BYTES_MAX {
        return Err(format!("it has {size} bytes, more than {CONFIG_BYTES_MAX}"));
    }
    let text = fs::read(path).map_err(|error| error.to_string())?;
    parse(&text)
}

fn parse(text: &[u8]) -> Result<Network, String> {
    let config: Map<String, Value> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let name = config.get("name").and_then(Value::as_str).ok_or("it has no 'name'")?.to_owned();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if name.is_empty() || name.starts_with('.') || name.len() > 255 || !name.chars().all(is_plain) {
        return Err(format!("'{name}' is no name of a network: letters, digits and _.- are"));
    }
    let Some(all) = config.get("plugins") else { return Ok(Network { name, plugins: vec![config] }) };
    let all = all.as_array().filter(|all| !all.is_empty()).ok_or("its 'plugins' are no list of some")?;
    let one = |plugin: &Value| {
        let mut plugin = plugin.as_object().cloned().ok_or("one of its 'plugins' is no object")?;
        plugin.insert("name".to_owned(), name.clone().into());
        if let Some(version) = config.get("cniVersion") {
            plugin.insert("cniVersion".to_owned(), version.clone());
        }
        Ok::<_, &str>(plugin)
    };
    let plugins = all.iter().map(one).collect::<Result<_, _>>()?;
    Ok(Network { name, plugins })
}

/// Where a plugin is.
pub(super) fn plugin(name: &str, dirs: &[PathBuf]) -> Option<PathBuf> {
    if name.is_empty() || name.contains('/') {
        return None;
    }
    dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file())
}

impl Network {
    fn check(&self, dirs: &[PathBuf]) -> Result<(), String> {
        for config in &self.plugins {
            let kind = config.get("type").and_then(Value::as_str).ok_or("a plugin has no 'type'")?;
            let ipam = config.get("ipam").and_then(|ipam| ipam.get("type")).and_then(Value::as_str);
            if let Some(missing) = [Some(kind), ipam].into_iter().flatten().find(|name| plugin(name, dirs).is_none()) {
                return Err(format!("there is no plugin '{missing}' in --network_cni_plugins_dir"));
            }
            if config.get("args").is_some_and(|args| args.get(OURS).is_some()) {
                return Err(format!("'{OURS}' in 'args' is what the agent tells plugins"));
            }
        }
        Ok(())
    }

    /// What each plugin is told for a container.
    pub(super) fn told(&self, info: &NetworkInfo) -> Vec<Map<String, Value>> {
        let ports: Vec<Value> = (info.port_mappings.iter())
            .map(|port| {
                let protocol = port.protocol.clone().unwrap_or_else(|| "tcp".to_owned()).to_lowercase();
                json!({ "hostPort": port.host_port, "containerPort": port.container_port, "protocol": protocol })
            })
            .collect();
        let one = |config: &Map<String, Value>| {
            let mut config = config.clone();
            let mut args = config.get("args").and_then(Value::as_object).cloned().unwrap_or_default();
            args.insert(OURS.to_owned(), json!({ "network_info": api::json::to_value(info) }));
            config.insert("args".to_owned(), args.into());
            // As other programs that run containers tell it.
            let maps = config.get("capabilities").and_then(|all| all.get("portMappings")).and_then(Value::as_bool);
            if maps == Some(true) && !ports.is_empty() {
                config.insert("runtimeConfig".to_owned(), json!({ "portMappings": ports }));
            }
            config
        };
        self.plugins.iter().map(one).collect()
    }
}

/// What plugins answered: addresses, and where names are looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) ip4: Option<String>,
    pub(super) ip6: Option<String>,
    pub(super) dns: Dns,
}

impl Given {
    /// Reads an answer of any version.
    pub(super) fn read(answer: &Value) -> Given {
        // Without the size of the network.
        let address = |text: &str| text.split('/').next().unwrap_or_default().to_owned();
        let newer = answer.get("ips").and_then(Value::as_array).into_iter().flatten();
        let newer: Vec<String> = newer.filter_map(|ip| ip.get("address")?.as_str()).map(address).collect();
        let older = |name: &str| answer.get(name).and_then(|ip| ip.get("ip")).and_then(Value::as_str).map(address);
        let dns = answer.get("dns");
        let texts = |name: &str| -> Vec<String> {
            let all = dns.and_then(|dns| dns.get(name)).and_then(Value::as_array).into_iter().flatten();
            all.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let dns = Dns {
            nameservers: texts("nameservers"),
            domain: dns.and_then(|dns| dns.get("domain")).and_then(Value::as_str).map(str::to_owned),
            search: texts("search"),
            options: texts("options"),
        };
        Given {
            ip4: newer.iter().find(|ip| !ip.contains(':')).cloned().or_else(|| older("ip4")),
            ip6: newer.iter().find(|ip| ip.contains(':')).cloned().or_else(|| older("ip6")),
            dns: dns.plain(),
        }
    }
}

/// What is read of an answer of a plugin, and the `resolv.conf` that comes of it: for who looks for what no answer may do.
pub fn read_answer(answer: &[u8]) -> (String, Option<String>) {
    let Ok(answer) = serde_json::from_slice::<Value>(answer) else { return ("no JSON".to_owned(), None) };
    let given = Given::read(&answer);
    (format!("{given:?}"), given.dns.resolver())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_what_is_wrong_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let (configs, plugins) = (dir.path().join("configs"), dir.path().join("plugins"));
        fs::create_dir_all(&configs).unwrap();
        fs::create_dir_all(&plugins).unwrap();
        for name in ["bridge", "host-local", "portmap"] {
            fs::write(plugins.join(name), "").unwrap();
        }
        for (name, text) in [
            ("a.conf", r#"{"name": "one", "type": "bridge", "ipam": {"type": "host-local"}}"#),
            (
                "b.conflist",
                r#"{"name": "two", "cniVersion": "0.4.0", "plugins": [{"type": "bridge"}, {"type": "portmap", "capabilities": {"portMappings": true}}]}"#,
            ),
            ("c.conf", r#"{"name": "one", "type": "bridge"}"#),
            ("d.conf", r#"{"name": "no", "type": "nothing"}"#),
            ("e.conf", r#"{"name": "../x", "type": "bridge"}"#),
            ("f.conf", "{"),
            ("g.conf", r#"{"name": "ours", "type": "bridge", "args": {"org.apache.mesos": {}}}"#),
        ] {
            fs::write(configs.join(name), text).unwrap();
        }
        let (found, wrong) = load(&configs, std::slice::from_ref(&plugins)).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["one", "two"]);
        let why = [
            "another network 'one'",
            "no plugin 'nothing'",
            "'../x' is no name",
            "EOF",
            "'org.apache.mesos' in 'args'",
        ];
        assert_eq!(wrong.len(), why.len());
        assert!(wrong.iter().zip(why).all(|(said, why)| said.contains(why)), "{wrong:?}");
        let port = api::v1::network_info::PortMapping { host_port: 31000, container_port: 80, protocol: None };
        let info = NetworkInfo { name: Some("two".into()), port_mappings: vec![port], ..NetworkInfo::default() };
        let told = found["two"].told(&info);
        assert_eq!(told[0]["args"][OURS]["network_info"]["port_mappings"][0]["host_port"], 31000);
        assert_eq!((&told[0]["cniVersion"], told[0].get("runtimeConfig")), (&json!("0.4.0"), None));
        assert_eq!(told[1]["runtimeConfig"]["portMappings"][0]["containerPort"], 80);
    }

    #[test]
    fn answers_of_every_version_are_read() {
        let new = json!({"ips": [{"address": "10.1.0.2/16"}, {"address": "fd00::2/64"}],
            "dns": {"nameservers": ["10.1.0.1", "bad\nline"], "search": ["a", "b"], "options": []}});
        let given = Given::read(&new);
        assert_eq!((given.ip4.as_deref(), given.ip6.as_deref()), (Some("10.1.0.2"), Some("fd00::2")));
        assert_eq!(given.dns.resolver().unwrap(), "search a b\nnameserver 10.1.0.1\n");
        let old = json!({"ip4": {"ip": "10.2.0.9/24"}, "dns": {}});
        let given = Given::read(&old);
        assert_eq!(
            (given.ip4.as_deref(), given.ip6.as_deref(), given.dns.nameservers.len()),
            (Some("10.2.0.9"), None, 0)
        );
        assert_eq!(Given::read(&json!({})), Given::default());
    }
}
