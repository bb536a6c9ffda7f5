//! `--default_container_dns`: where containers look for names.

use containers::{Dns, DnsOfNetworks, DockerDns};
use serde::Deserialize;

/// The flag's value.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Given {
    mesos: Vec<One>,
    docker: Vec<One>,
}

/// Of a kind of networks, or of one of them.
#[derive(Debug, Deserialize)]
struct One {
    network_mode: Option<String>,
    network_name: Option<String>,
    dns: Dns,
}

/// What containers are given of whom nothing else says it: in networks of CNI, and in those of a Docker Engine. The error is a
/// sentence.
pub(crate) fn read(text: Option<&str>) -> Result<(DnsOfNetworks, DockerDns), String> {
    let wrong = |why: String| format!("Flag '--default_container_dns' cannot be: {why}");
    let Some(text) = text else { return Ok(Default::default()) };
    let given: Given =
        serde_json::from_str(text).map_err(|error| wrong(format!("it is no ContainerDNSInfo: {error}")))?;
    let (mut cni, mut docker) = (DnsOfNetworks::default(), DockerDns::default());
    for one in given.mesos {
        match one.mode().map_err(wrong)? {
            "CNI" => one.add(&mut cni).map_err(wrong)?,
            mode => return Err(wrong(format!("networks of containers are of network_mode CNI, not {mode}"))),
        }
    }
    for one in given.docker {
        match one.mode().map_err(wrong)? {
            "USER" => one.add(&mut docker.networks).map_err(wrong)?,
            "BRIDGE" if docker.bridge.is_none() => docker.bridge = Some(one.checked().map_err(wrong)?),
            "BRIDGE" => return Err(wrong("it says twice what Docker's network BRIDGE has".to_owned())),
            mode => return Err(wrong(format!("networks of Docker are of network_mode BRIDGE or USER, not {mode}"))),
        }
    }
    Ok((cni, docker))
}

impl One {
    fn mode(&self) -> Result<&str, String> {
        match self.network_mode.as_deref() {
            None | Some("UNKNOWN") => Err("one of its entries has no network_mode".to_owned()),
            Some("HOST") => {
                Err("names of the machine's own network (HOST) are looked for as the machine does".to_owned())
            }
            Some(mode) => Ok(mode),
        }
    }

    fn checked(self) -> Result<Dns, String> {
        match self.dns.clone().plain() == self.dns {
            true => Ok(self.dns),
            false => Err("what it says of dns has to be words, without spaces".to_owned()),
        }
    }

    fn add(self, all: &mut DnsOfNetworks) -> Result<(), String> {
        let name = self.network_name.clone();
        let dns = self.checked()?;
        let before = match &name {
            None => all.others.replace(dns),
            Some(name) => all.named.insert(name.clone(), dns),
        };
        match (before, name) {
            (None, _) => Ok(()),
            (Some(_), None) => Err("it says twice what networks have that it does not name".to_owned()),
            (Some(_), Some(name)) => Err(format!("it says twice what the network '{name}' has")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_networks_have_is_read_and_what_is_wrong_is_said() {
        assert_eq!(read(None), Ok(Default::default()));
        let dns = r#""dns": {"nameservers": ["10.0.0.1"], "search": ["a", "b"], "options": ["rotate"]}"#;
        let text = format!(
            r#"{{"mesos": [{{"network_mode": "CNI", "network_name": "n", {dns}}}, {{"network_mode": "CNI", "dns": {{"domain": "d"}}}}],
                "docker": [{{"network_mode": "BRIDGE", {dns}}}, {{"network_mode": "USER", {dns}}}]}}"#
        );
        let (cni, docker) = read(Some(&text)).unwrap();
        assert_eq!(cni.named["n"].search, ["a", "b"]);
        assert_eq!(cni.others.unwrap().domain.as_deref(), Some("d"));
        assert_eq!(docker.bridge, docker.networks.others);
        for (text, why) in [
            ("[", "no ContainerDNSInfo"),
            (r#"{"mesos": [{"network_mode": "CNI"}]}"#, "missing field `dns`"),
            (r#"{"mesos": [{"dns": {}}]}"#, "has no network_mode"),
            (r#"{"mesos": [{"network_mode": "HOST", "dns": {}}]}"#, "(HOST)"),
            (r#"{"mesos": [{"network_mode": "BRIDGE", "dns": {}}]}"#, "CNI, not BRIDGE"),
            (r#"{"docker": [{"network_mode": "CNI", "dns": {}}]}"#, "BRIDGE or USER, not CNI"),
            (
                r#"{"docker": [{"network_mode": "BRIDGE", "dns": {}}, {"network_mode": "BRIDGE", "dns": {}}]}"#,
                "twice what Docker's",
            ),
            (r#"{"mesos": [{"network_mode": "CNI", "dns": {}}, {"network_mode": "CNI", "dns": {}}]}"#, "does not name"),
            (
                r#"{"docker": [{"network_mode": "USER", "network_name": "n", "dns": {}}, {"network_mode": "USER", "network_name": "n", "dns": {}}]}"#,
                "the network 'n'",
            ),
            (r#"{"mesos": [{"network_mode": "CNI", "dns": {"search": ["a b"]}}]}"#, "without spaces"),
        ] {
            let said = read(Some(text)).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
