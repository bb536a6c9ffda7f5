//! What a container of type DOCKER is made of: options of `docker create`, out of what its task asks for. What would be ignored is
//! refused. Pure.

use std::path::{Component, Path};

use api::v1::container_info::DockerInfo;
use api::v1::container_info::docker_info::Network;
use api::v1::volume::source::Type as SourceType;
use api::v1::volume::{Mode, source};
use api::v1::{ContainerInfo, Resource, Volume};
use serde_json::{Value, json};

use super::DockerTerms;
use crate::container::Container;
use crate::containerizer::Creation;

/// What the kernel takes at least, and what a processor is.
const CPU_SHARES_PER_CPU: f64 = 1024.0;
const CPU_SHARES_MIN: u64 = 2;
/// Microseconds: of a period, and of the least part of it.
const CFS_PERIOD_US: f64 = 100_000.0;
const CFS_QUOTA_US_MIN: u64 = 1_000;
/// Less than this no container is made with, whatever it was given.
const MEMORY_BYTES_MIN: u64 = 32 << 20;
/// Parameters that would take the container from who looks after it.
const PARAMETERS_REFUSED: [&str; 9] =
    ["name", "cidfile", "rm", "restart", "detach", "pull", "label-file", "env-file", "help"];

/// Those that say where names are looked for.
const DNS_PARAMETERS: [&str; 4] = ["dns", "dns-search", "dns-opt", "dns-option"];

/// The image, its options and what follows, as `meseta-docker` reads them. The error is a sentence.
pub(super) fn of(creation: &Creation, terms: &DockerTerms, owner: &str) -> Result<Value, String> {
    let container = &creation.container;
    if container.is_within() {
        return Err("the docker containerizer does not support containers within containers".to_owned());
    }
    let none = || "it has no ContainerInfo with docker".to_owned();
    let info = container.info.as_ref().ok_or_else(none)?;
    let docker = info.docker.as_ref().ok_or_else(none)?;
    if let Some(what) = unsupported(creation, info) {
        return Err(format!("the docker containerizer does not support {what}"));
    }
    let name = agent_docker::name_of(&container.id);
    let mut options = vec![format!("--name={name}"), format!("--label={}={owner}", agent_docker::OWNER)];
    let environment = environment(creation, &name, terms);
    let task_id = environment.iter().find_map(|variable| variable.strip_prefix("MESOS_TASK_ID="));
    options.extend(task_id.map(|id| format!("--label=MESOS_TASK_ID={id}")));
    if docker.privileged() {
        options.push("--privileged".to_owned());
    }
    options.extend(confined(container, terms));
    options.extend(creation.rlimits.iter().map(|(name, limit)| {
        let of = |limit: u64| if limit == u64::MAX { "-1".to_owned() } else { limit.to_string() };
        let (soft, hard) = limit.map_or(("-1".to_owned(), "-1".to_owned()), |(soft, hard)| (of(soft), of(hard)));
        format!("--ulimit={}={soft}:{hard}", name.to_lowercase())
    }));
    let (volumes, driver) = volumes(container, info, docker, terms)?;
    options.extend(volumes.into_iter().map(|volume| format!("--volume={volume}")));
    options.extend(driver.map(|driver| format!("--volume-driver={driver}")));
    let network = network(info, docker)?;
    let given = docker.parameters.iter().find(|one| one.key == "net" || one.key == "network");
    options.push(format!("--network={}", given.map_or(network.as_str(), |one| &one.value)));
    let network = given.map_or(network.as_str(), |one| &one.value);
    if let Some(hostname) = &info.hostname {
        if network == "host" {
            return Err(
                "a hostname of its own needs a network of its own, and it is in the machine's (HOST)".to_owned()
            );
        }
        options.push(format!("--hostname={hostname}"));
    }
    options.extend(names(docker, network, terms));
    options.extend(ports(container, docker, network)?.into_iter().map(|mapping| format!("--publish={mapping}")));
    for one in &docker.parameters {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if one.key.is_empty() || one.key.starts_with('-') || !one.key.chars().all(is_word) {
            return Err(format!("the parameter '{}' is no name of an option of docker", api::limits::quoted(&one.key)));
        }
        if PARAMETERS_REFUSED.contains(&one.key.as_str()) {
            return Err(format!("the parameter '{}' would take the container from its agent", one.key));
        }
    }
    let others = docker.parameters.iter().filter(|one| Some(*one) != given);
    options.extend(others.map(|one| format!("--{}={}", one.key, one.value)));
    let command = creation.command.clone().unwrap_or_default();
    let mut arguments = Vec::new();
    if command.shell() {
        let value = command.value.clone().ok_or("its command is one of a shell, and has no value")?;
        // Whoever wants a shell does not want the image's own program.
        options.push("--entrypoint=/bin/sh".to_owned());
        arguments.extend(["-c".to_owned(), value]);
    } else {
        arguments.extend(command.value.iter().chain(&command.arguments).cloned());
    }
    let network_info = info.network_infos.first().map(api::json::to_value);
    Ok(json!({
        "image": docker.image,
        "network_info": network_info,
        "pull": docker.force_pull_image(),
        "options": options,
        "arguments": arguments,
        "environment": environment,
    }))
}

/// What it asks for that nothing here does.
fn unsupported(creation: &Creation, info: &ContainerInfo) -> Option<&'static str> {
    let variables = creation.command.iter().flat_map(|command| &command.environment);
    let mut variables = variables.flat_map(|environment| &environment.variables);
    let asked = [
        (
            "streams that somebody can be connected with (sessions, tty_info)",
            creation.streams.is_some() || info.tty_info.is_some(),
        ),
        ("mesos in its ContainerInfo", info.mesos.is_some()),
        ("linux_info", info.linux_info.is_some()),
        (
            "secrets in its environment, which the engine would write down",
            variables.any(|variable| variable.secret.is_some()),
        ),
        ("gpus", creation.container.resources.iter().any(|resource| resource.name == "gpus")),
        (
            "ip_addresses and port_mappings of network_infos",
            info.network_infos.iter().any(|one| !one.ip_addresses.is_empty() || !one.port_mappings.is_empty()),
        ),
        ("images of volumes", info.volumes.iter().any(|volume| volume.image.is_some())),
    ];
    asked.into_iter().find(|(_, is)| *is).map(|(what, _)| what)
}

/// All of it. Programs are looked for where the image says, unless the task does.
fn environment(creation: &Creation, name: &str, terms: &DockerTerms) -> Vec<String> {
    let own = creation.command.iter().flat_map(|command| &command.environment).flat_map(|one| &one.variables);
    let has_path = own.into_iter().any(|variable| variable.name == "PATH");
    let replaced = ["MESOS_SANDBOX=", "MESOS_CONTAINER_NAME="];
    let is_kept = |variable: &&String| {
        !replaced.iter().any(|one| variable.starts_with(one)) && (has_path || !variable.starts_with("PATH="))
    };
    let mut all: Vec<String> = creation.environment.iter().filter(is_kept).cloned().collect();
    all.push(format!("MESOS_SANDBOX={}", terms.sandbox_directory));
    all.push(format!("MESOS_CONTAINER_NAME={name}"));
    all
}

fn promised(resources: &[Resource], name: &str) -> Option<f64> {
    let scalars = resources.iter().filter(|one| one.name == name).filter_map(|one| one.scalar.as_ref());
    scalars.map(|scalar| scalar.value).reduce(|sum, value| sum + value)
}

/// What the kernel is told.
struct Bounds {
    cpu_shares: Option<u64>,
    cpu_quota_us: Option<u64>,
    memory_bytes: Option<u64>,
    reserved_bytes: Option<u64>,
}

fn bounds(container: &Container, terms: &DockerTerms) -> Bounds {
    let (cpus, mem) = (promised(&container.resources, "cpus"), promised(&container.resources, "mem"));
    let (cpus_max, mem_max) = (container.limits.get("cpus").copied(), container.limits.get("mem").copied());
    let bytes = |megabytes: f64| ((megabytes * (1 << 20) as f64) as u64).max(MEMORY_BYTES_MIN);
    let quota = |cpus: f64| ((cpus * CFS_PERIOD_US) as u64).max(CFS_QUOTA_US_MIN);
    Bounds {
        cpu_shares: cpus.map(|cpus| ((cpus * CPU_SHARES_PER_CPU) as u64).max(CPU_SHARES_MIN)),
        cpu_quota_us: match cpus_max {
            Some(most) => most.is_finite().then(|| quota(most)),
            None => cpus.filter(|_| terms.enable_cfs).map(quota),
        },
        memory_bytes: mem_max.or(mem).filter(|most| most.is_finite()).map(bytes),
        reserved_bytes: mem_max.and(mem).map(bytes),
    }
}

fn confined(container: &Container, terms: &DockerTerms) -> Vec<String> {
    let Bounds { cpu_shares, cpu_quota_us, memory_bytes, reserved_bytes } = bounds(container, terms);
    let all = [
        ("cpu-shares", cpu_shares),
        ("cpu-quota", cpu_quota_us),
        ("memory", memory_bytes),
        ("memory-reservation", reserved_bytes),
    ];
    all.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value?))).collect()
}

/// The same for one that runs, as the engine reads it.
pub(super) fn resources(container: &Container, terms: &DockerTerms) -> Value {
    let Bounds { cpu_shares, cpu_quota_us, memory_bytes, reserved_bytes } = bounds(container, terms);
    let mut update = json!({});
    // Memory and swap together are twice the memory, as they are when it is made; that is never less than what it had.
    let all = [
        ("CpuShares", cpu_shares),
        ("CpuQuota", cpu_quota_us),
        ("Memory", memory_bytes),
        ("MemorySwap", memory_bytes.map(|bytes| bytes.saturating_mul(2))),
        ("MemoryReservation", reserved_bytes),
    ];
    for (name, value) in all {
        if let Some(value) = value {
            update[name] = value.into();
        }
    }
    update
}

/// `PLACE:PATH:MODE` of each, and what drives those that are no places of this machine.
fn volumes(
    container: &Container,
    info: &ContainerInfo,
    docker: &DockerInfo,
    terms: &DockerTerms,
) -> Result<(Vec<String>, Option<String>), String> {
    #[allow(deprecated)] // Clients still name the driver of all volumes here.
    let mut driver = docker.volume_driver.clone();
    let mut all = vec![bind(&container.sandbox.display().to_string(), &terms.sandbox_directory, "rw")?];
    // What the sandbox has there leads elsewhere on the machine.
    for volume in &container.volumes {
        let Some(found) = volume.resource.disk.as_ref().and_then(|disk| disk.volume.as_ref()) else { continue };
        let path = within(&terms.sandbox_directory, &found.container_path)?;
        let mode = if found.mode() == Mode::Ro { "ro" } else { "rw" };
        all.push(bind(&volume.place.display().to_string(), &path, mode)?);
    }
    for volume in &info.volumes {
        let path = if Path::new(&volume.container_path).is_absolute() {
            volume.container_path.clone()
        } else {
            within(&terms.sandbox_directory, &volume.container_path)?
        };
        let mode = if volume.mode() == Mode::Ro { "ro" } else { "rw" };
        let place = place(volume, &container.sandbox, &mut driver)?;
        all.push(bind(&place, &path, mode)?);
    }
    Ok((all, driver))
}

/// Where a volume is on this machine, or its name at its driver.
fn place(volume: &Volume, sandbox: &Path, driver: &mut Option<String>) -> Result<String, String> {
    let path = &volume.container_path;
    let source = volume.source.as_ref();
    let kind = source.map(source_type);
    let host_path = match (&volume.host_path, kind) {
        (Some(host_path), None) => host_path,
        (None, Some(Some(SourceType::HostPath))) => {
            let found = source.and_then(|source| source.host_path.as_ref());
            let found = found.ok_or_else(|| format!("the volume at '{path}' has no host_path in its source"))?;
            if found.mount_propagation.is_some() {
                return Err("the docker containerizer does not support mount_propagation of volumes".to_owned());
            }
            &found.path
        }
        (None, Some(Some(SourceType::DockerVolume))) => {
            let found = source.and_then(|source| source.docker_volume.as_ref());
            let found = found.ok_or_else(|| format!("the volume at '{path}' has no docker_volume in its source"))?;
            if found.driver_options.is_some() {
                return Err(
                    "the docker containerizer does not support driver_options of volumes: make the volume first"
                        .to_owned(),
                );
            }
            if let Some(name) = &found.driver {
                if driver.as_ref().is_some_and(|other| other != name) {
                    return Err("only one driver of volumes is supported for a container".to_owned());
                }
                *driver = Some(name.clone());
            }
            return Ok(found.name.clone());
        }
        (None, None) => return Err(format!("the volume at '{path}' has neither a host_path nor a source")),
        _ => {
            return Err(format!(
                "the volume at '{path}' is of a kind that the docker containerizer does not support: there are host_path, and \
                 the sources HOST_PATH and DOCKER_VOLUME"
            ));
        }
    };
    if Path::new(host_path).is_absolute() || driver.is_some() {
        return Ok(host_path.clone());
    }
    if !Path::new(path).is_absolute() {
        return Err(format!("both host_path '{host_path}' and container_path '{path}' of a volume are relative"));
    }
    within(&sandbox.display().to_string(), host_path)
}

fn source_type(source: &api::v1::volume::Source) -> Option<source::Type> {
    source.r#type.and_then(|number| SourceType::try_from(number).ok())
}

/// A relative path that stays within a folder.
fn within(folder: &str, path: &str) -> Result<String, String> {
    let stays = Path::new(path).components().all(|one| matches!(one, Component::Normal(_) | Component::CurDir));
    match stays && !path.is_empty() {
        true => Ok(format!("{}/{path}", folder.trim_end_matches('/'))),
        false => Err(format!("the path '{path}' of a volume leaves the sandbox")),
    }
}

fn bind(place: &str, path: &str, mode: &str) -> Result<String, String> {
    match [place, path].into_iter().find(|part| part.is_empty() || part.contains([':', '\n', '\0'])) {
        None => Ok(format!("{place}:{path}:{mode}")),
        Some(part) => {
            Err(format!("the path '{part}' of a volume is empty, or has a colon, which docker takes for an end"))
        }
    }
}

fn network(info: &ContainerInfo, docker: &DockerInfo) -> Result<String, String> {
    Ok(match docker.network() {
        Network::Host => "host".to_owned(),
        Network::Bridge => "bridge".to_owned(),
        Network::None => "none".to_owned(),
        Network::User => match &info.network_infos[..] {
            [] => return Err("its network is USER, and there is no network_info with a name".to_owned()),
            [one] => match &one.name {
                Some(name) if !name.is_empty() => name.clone(),
                _ => return Err("its network is USER, and its network_info has no name".to_owned()),
            },
            _ => return Err("only one network_info is supported for a container of type DOCKER".to_owned()),
        },
    })
}

/// Where it looks for names: as the agent has it for its network, unless it says anything of that itself.
fn names(docker: &DockerInfo, network: &str, terms: &DockerTerms) -> Vec<String> {
    let is_said = |one: &api::v1::Parameter| DNS_PARAMETERS.contains(&one.key.as_str());
    let dns = match docker.network() {
        _ if docker.parameters.iter().any(is_said) => None,
        Network::Bridge => terms.dns.bridge.as_ref(),
        Network::User => terms.dns.networks.of(network),
        Network::Host | Network::None => None,
    };
    let Some(dns) = dns else { return Vec::new() };
    let all = [("dns", &dns.nameservers), ("dns-search", &dns.search), ("dns-opt", &dns.options)];
    all.into_iter().flat_map(|(name, words)| words.iter().map(move |word| format!("--{name}={word}"))).collect()
}

/// `HOST:CONTAINER/PROTOCOL` of each, whose ports it was given.
fn ports(container: &Container, docker: &DockerInfo, network: &str) -> Result<Vec<String>, String> {
    if docker.port_mappings.is_empty() {
        return Ok(Vec::new());
    }
    if network == "host" || network == "none" {
        return Err("port mappings are only for networks BRIDGE and USER".to_owned());
    }
    let ranges = container.resources.iter().filter(|resource| resource.name == "ports");
    let ranges: Vec<_> =
        ranges.filter_map(|resource| resource.ranges.as_ref()).flat_map(|ranges| &ranges.range).collect();
    if ranges.is_empty() {
        return Err("port mappings need ports among the resources".to_owned());
    }
    let one = |mapping: &api::v1::container_info::docker_info::PortMapping| {
        let (host, inner) = (mapping.host_port, mapping.container_port);
        if !ranges.iter().any(|range| (range.begin..=range.end).contains(&u64::from(host))) {
            return Err(format!("the port {host} of a port mapping is not among the resources"));
        }
        if host > u32::from(u16::MAX) || !(1..=u32::from(u16::MAX)).contains(&inner) {
            return Err(format!("the port mapping from {host} to {inner} is no mapping of ports"));
        }
        let protocol = mapping.protocol().to_lowercase();
        match protocol.as_str() {
            "" => Ok(format!("{host}:{inner}")),
            "tcp" | "udp" | "sctp" => Ok(format!("{host}:{inner}/{protocol}")),
            other => {
                Err(format!("the protocol '{}' of a port mapping is not tcp, udp or sctp", api::limits::quoted(other)))
            }
        }
    };
    docker.port_mappings.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::{Dns, DnsOfNetworks, DockerDns};
    use api::v1::container_info::docker_info::PortMapping;
    use api::v1::{self, CommandInfo, NetworkInfo, Parameter};

    fn creation(change: impl FnOnce(&mut ContainerInfo, &mut DockerInfo), command: CommandInfo) -> Creation {
        let mut docker = DockerInfo { image: "busybox".into(), ..DockerInfo::default() };
        let docker_type = v1::container_info::Type::Docker as i32;
        let mut info = ContainerInfo { r#type: docker_type, ..ContainerInfo::default() };
        change(&mut info, &mut docker);
        info.docker = Some(docker);
        let parsed = api::resources::parse("cpus:0.5;mem:64;ports:[31000-31001]", "*").unwrap();
        let container = Container {
            id: "c".into(),
            sandbox: "/w/s".into(),
            resources: parsed.resources.to_v1(api::resources::Format::PostRefinement),
            info: Some(Box::new(info)),
            ..Container::default()
        };
        let environment = ["PATH=/bin", "MESOS_SANDBOX=/w/s", "MESOS_TASK_ID=t", "A=b"].map(str::to_owned).to_vec();
        Creation { container, environment, command: Some(command), ..Creation::default() }
    }

    fn terms() -> DockerTerms {
        DockerTerms { sandbox_directory: "/mnt/mesos/sandbox".into(), ..DockerTerms::default() }
    }

    fn shell() -> CommandInfo {
        CommandInfo { value: Some("id".into()), ..CommandInfo::default() }
    }

    fn options(change: impl FnOnce(&mut ContainerInfo, &mut DockerInfo)) -> Result<Vec<String>, String> {
        let made = of(&creation(change, shell()), &terms(), "/w")?;
        Ok(made["options"].as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect())
    }

    fn added(change: impl FnOnce(&mut ContainerInfo, &mut DockerInfo)) -> Result<Vec<String>, String> {
        let plain = options(|_, _| {}).unwrap();
        options(change).map(|all| all.into_iter().filter(|one| !plain.contains(one)).collect())
    }

    #[test]
    fn a_plain_task() {
        let made = of(&creation(|_, _| {}, shell()), &terms(), "/w").unwrap();
        let options = [
            "--name=mesos-c",
            "--label=meseta.agent=/w",
            "--label=MESOS_TASK_ID=t",
            "--cpu-shares=512",
            "--memory=67108864",
            "--volume=/w/s:/mnt/mesos/sandbox:rw",
            "--network=host",
            "--entrypoint=/bin/sh",
        ];
        assert_eq!(made["options"], json!(options));
        assert_eq!(made["arguments"], json!(["-c", "id"]));
        let environment =
            ["MESOS_TASK_ID=t", "A=b", "MESOS_SANDBOX=/mnt/mesos/sandbox", "MESOS_CONTAINER_NAME=mesos-c"];
        assert_eq!(made["environment"], json!(environment));
        assert_eq!((&made["image"], &made["pull"]), (&json!("busybox"), &json!(false)));
    }

    #[test]
    fn commands_follow_the_images_own_program_unless_they_are_a_shells() {
        let of = |command| of(&creation(|_, _| {}, command), &terms(), "/w");
        let arguments = vec!["x".to_owned(), "y".to_owned()];
        let none = CommandInfo { shell: Some(false), ..CommandInfo::default() };
        assert_eq!(of(none.clone()).unwrap()["arguments"], json!([]));
        let with = CommandInfo { value: Some("p".into()), arguments: arguments.clone(), ..none.clone() };
        let made = of(with).unwrap();
        assert_eq!(made["arguments"], json!(["p", "x", "y"]));
        assert!(!made["options"].to_string().contains("entrypoint"));
        assert_eq!(of(CommandInfo { arguments, ..none }).unwrap()["arguments"], json!(["x", "y"]));
        assert_eq!(of(CommandInfo::default()).unwrap_err(), "its command is one of a shell, and has no value");
    }

    #[test]
    fn networks_names_and_ports() {
        let named = |name: Option<&str>| NetworkInfo { name: name.map(str::to_owned), ..NetworkInfo::default() };
        let net = |network: Network| {
            move |_: &mut ContainerInfo, docker: &mut DockerInfo| docker.network = Some(network as i32)
        };
        assert_eq!(added(net(Network::Bridge)).unwrap(), ["--network=bridge"]);
        assert_eq!(added(net(Network::None)).unwrap(), ["--network=none"]);
        let user = |infos: Vec<NetworkInfo>| {
            added(|info, docker| {
                docker.network = Some(Network::User as i32);
                info.network_infos = infos;
            })
        };
        assert_eq!(user(vec![named(Some("n"))]).unwrap(), ["--network=n"]);
        assert!(user(vec![]).unwrap_err().contains("there is no network_info"));
        assert!(user(vec![named(None)]).unwrap_err().contains("has no name"));
        assert!(user(vec![named(Some("a")), named(Some("b"))]).unwrap_err().contains("only one network_info"));
        let hostname = |network: Network| {
            added(|info, docker| {
                docker.network = Some(network as i32);
                info.hostname = Some("h".into());
            })
        };
        assert_eq!(hostname(Network::Bridge).unwrap(), ["--network=bridge", "--hostname=h"]);
        assert!(hostname(Network::Host).unwrap_err().contains("hostname"));
        let mapped = |network: Network, host_port, protocol: Option<&str>| {
            added(|_, docker| {
                docker.network = Some(network as i32);
                let protocol = protocol.map(str::to_owned);
                docker.port_mappings = vec![PortMapping { host_port, container_port: 80, protocol }];
            })
        };
        assert_eq!(mapped(Network::Bridge, 31_000, None).unwrap(), ["--network=bridge", "--publish=31000:80"]);
        assert_eq!(mapped(Network::Bridge, 31_001, Some("UDP")).unwrap()[1], "--publish=31001:80/udp");
        let not = "the port 31002 of a port mapping is not among the resources";
        assert_eq!(mapped(Network::Bridge, 31_002, None).unwrap_err(), not);
        assert!(mapped(Network::Host, 31_000, None).unwrap_err().contains("only for networks BRIDGE and USER"));
        assert!(mapped(Network::Bridge, 31_000, Some("x")).unwrap_err().contains("protocol 'x'"));
    }

    #[test]
    fn names_are_looked_for_as_the_agent_has_it_for_the_network_unless_the_container_says_it() {
        let dns = |server: &str| Dns { nameservers: vec![server.into()], ..Dns::default() };
        let networks =
            DnsOfNetworks { others: Some(dns("10.0.0.2")), named: [("n".to_owned(), dns("10.0.0.3"))].into() };
        let bridge = Dns { search: vec!["a".into()], options: vec!["rotate".into()], ..dns("10.0.0.1") };
        let terms = DockerTerms { dns: DockerDns { bridge: Some(bridge), networks }, ..terms() };
        let of = |network: Network, name: Option<&str>, parameter: Option<&str>| {
            let creation = creation(
                |info, docker| {
                    docker.network = Some(network as i32);
                    let named = |name: &str| NetworkInfo { name: Some(name.into()), ..NetworkInfo::default() };
                    info.network_infos = name.map(named).into_iter().collect();
                    let parameter = parameter.map(|key| Parameter { key: key.into(), value: "10.9.9.9".into() });
                    docker.parameters = parameter.into_iter().collect();
                },
                shell(),
            );
            let told = super::of(&creation, &terms, "o").unwrap();
            let options = told["options"].as_array().unwrap().iter().map(|one| one.as_str().unwrap());
            options.filter(|one| one.starts_with("--dns")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of(Network::Bridge, None, None), "--dns=10.0.0.1 --dns-search=a --dns-opt=rotate");
        assert_eq!(of(Network::User, Some("n"), None), "--dns=10.0.0.3");
        assert_eq!(of(Network::User, Some("m"), None), "--dns=10.0.0.2");
        assert_eq!(of(Network::Host, None, None), "");
        assert_eq!(of(Network::None, None, None), "");
        assert_eq!(of(Network::Bridge, None, Some("dns")), "--dns=10.9.9.9");
        assert_eq!(of(Network::Bridge, None, Some("dns-option")), "--dns-option=10.9.9.9");
    }

    #[test]
    fn parameters_are_options_unless_they_take_the_container_away() {
        let with = |key: &str, value: &str| {
            added(|_, docker| docker.parameters = vec![Parameter { key: key.into(), value: value.into() }])
        };
        assert_eq!(with("env", "A=b c").unwrap(), ["--env=A=b c"]);
        assert_eq!(with("network", "n").unwrap(), ["--network=n"]);
        assert!(with("restart", "always").unwrap_err().contains("'restart' would take the container from its agent"));
        for bad in ["", "-v", "a b", "a=b"] {
            assert!(with(bad, "").unwrap_err().contains("is no name of an option"), "{bad}");
        }
        assert_eq!(added(|_, docker| docker.privileged = Some(true)).unwrap(), ["--privileged"]);
    }

    #[test]
    #[allow(deprecated)] // Clients still name the driver of all volumes there.
    fn volumes_lead_where_they_say() {
        let volume = |host: Option<&str>, path: &str, mode: Mode| Volume {
            host_path: host.map(str::to_owned),
            container_path: path.into(),
            mode: mode as i32,
            ..Volume::default()
        };
        let with = |volume: Volume| added(|info, _| info.volumes = vec![volume]);
        assert_eq!(with(volume(Some("/a"), "/b", Mode::Rw)).unwrap(), ["--volume=/a:/b:rw"]);
        assert_eq!(with(volume(Some("/a"), "b", Mode::Ro)).unwrap(), ["--volume=/a:/mnt/mesos/sandbox/b:ro"]);
        assert_eq!(with(volume(Some("a"), "/b", Mode::Ro)).unwrap(), ["--volume=/w/s/a:/b:ro"]);
        for (host, path, why) in [
            (Some("a"), "b", "are relative"),
            (Some("../a"), "/b", "leaves the sandbox"),
            (Some("/a"), "../b", "leaves the sandbox"),
            (Some("/a:/etc"), "/b", "has a colon"),
            (None, "/b", "neither a host_path nor a source"),
        ] {
            let error = with(volume(host, path, Mode::Rw)).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let source = |driver: Option<&str>| {
            let docker_volume =
                source::DockerVolume { driver: driver.map(str::to_owned), name: "n".into(), driver_options: None };
            let source = v1::volume::Source {
                r#type: Some(SourceType::DockerVolume as i32),
                docker_volume: Some(docker_volume),
                ..Default::default()
            };
            Volume { source: Some(source), ..volume(None, "/b", Mode::Rw) }
        };
        assert_eq!(with(source(None)).unwrap(), ["--volume=n:/b:rw"]);
        assert_eq!(with(source(Some("d"))).unwrap(), ["--volume=n:/b:rw", "--volume-driver=d"]);
        let two = added(|info, _| info.volumes = vec![source(Some("d")), source(Some("e"))]);
        assert_eq!(two.unwrap_err(), "only one driver of volumes is supported for a container");
        let old = added(|info, docker| {
            docker.volume_driver = Some("d".into());
            info.volumes = vec![volume(Some("n"), "/b", Mode::Rw)];
        });
        assert_eq!(old.unwrap(), ["--volume=n:/b:rw", "--volume-driver=d"]);
    }

    #[test]
    fn resources_become_bounds() {
        let mut one = creation(|_, _| {}, shell()).container;
        let told = |one: &Container, enable_cfs: bool| confined(one, &DockerTerms { enable_cfs, ..terms() }).join(" ");
        assert_eq!(told(&one, true), "--cpu-shares=512 --cpu-quota=50000 --memory=67108864");
        one.limits = [("cpus".to_owned(), 2.0), ("mem".to_owned(), 128.0)].into();
        let limited = "--cpu-shares=512 --cpu-quota=200000 --memory=134217728 --memory-reservation=67108864";
        assert_eq!(told(&one, false), limited);
        one.limits = [("cpus".to_owned(), f64::INFINITY), ("mem".to_owned(), f64::INFINITY)].into();
        assert_eq!(told(&one, true), "--cpu-shares=512 --memory-reservation=67108864");
        one.limits.clear();
        one.resources = api::resources::parse("cpus:0.001;mem:1", "*")
            .unwrap()
            .resources
            .to_v1(api::resources::Format::PostRefinement);
        assert_eq!(told(&one, true), "--cpu-shares=2 --cpu-quota=1000 --memory=33554432");
        assert_eq!(resources(&one, &terms()), json!({"CpuShares": 2, "Memory": 33_554_432, "MemorySwap": 67_108_864}));
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        let refused = |change: &dyn Fn(&mut Creation)| {
            let mut creation = creation(|_, _| {}, shell());
            change(&mut creation);
            of(&creation, &terms(), "/w").unwrap_err()
        };
        let no = |what: &str| format!("the docker containerizer does not support {what}");
        assert_eq!(refused(&|it| it.container.id = "a.b".into()), no("containers within containers"));
        assert_eq!(
            refused(&|it| it.container.info.as_mut().unwrap().linux_info = Some(Default::default())),
            no("linux_info")
        );
        let secret =
            v1::environment::Variable { name: "S".into(), secret: Some(Default::default()), ..Default::default() };
        let hides = v1::Environment { variables: vec![secret] };
        assert!(refused(&|it| it.command.as_mut().unwrap().environment = Some(hides.clone())).contains("secrets"));
        assert_eq!(refused(&|it| it.container.info = None), "it has no ContainerInfo with docker");
    }
}
