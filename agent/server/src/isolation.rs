//! How isolators are configured.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{DOCKER, containerizers};
use api::flags::Values;
use api::v1::{CapabilityInfo, DeviceWhitelist, Resource};
use containers::isolators::cgroups::{Handles, Rule, Sampling, Terms, allowed};
use containers::isolators::linux::capabilities;
use containers::isolators::{
    CniSettings, CsiPlugins, CsiSettings, DiskSettings, DockerVolumeSettings, EGRESS_RATE_MIN, FilesystemSettings,
    GpuSettings, LinuxDevices, LinuxSettings, Policy, PortMappingSettings, PortsSettings, SeccompSettings, Settings,
    UserSettings, XfsSettings,
};
use containers::nodes::Node;

/// Projects of XFS that one agent can have: each is looked at when a free one is sought.
const PROJECTS_MAX: u64 = 1_000_000;
/// Users and groups of the machine itself are below.
const USERS_MIN: u32 = 1 << 16;

/// The resource that containers have without being offered it.
pub(crate) const EPHEMERAL_PORTS: &str = "ephemeral_ports";

/// How isolators are configured, and what is to be said of it. The error is a sentence.
pub(crate) fn read(values: &Values, resources: &[Resource]) -> Result<(Settings, Vec<String>), String> {
    let mut warnings = Vec::new();
    let named: Vec<&str> = values.text("isolation").unwrap_or_default().split(',').map(str::trim).collect();
    let has = |names: &[&str]| named.iter().any(|name| names.contains(name));
    let interval = |name: &str| {
        let given = values.duration(name).filter(|pause| !pause.is_zero());
        given.ok_or_else(|| format!("Flag '--{name}' must be longer than nothing"))
    };
    let only = match (values.bool("check_agent_port_range_only"), values.text("container_ports_isolated_range")) {
        (true, Some(_)) => {
            return Err(
                "Only one of '--check_agent_port_range_only' and '--container_ports_isolated_range' can be given"
                    .to_owned(),
            );
        }
        (true, None) => Some(ports(resources)),
        (false, Some(text)) => {
            let none =
                |why: &str| format!("Flag '--container_ports_isolated_range' names no ports, as [1024-65535]: {why}");
            let parsed = api::resources::parse(&format!("ports:{}", text.trim()), "*")
                .map_err(|error| none(&error.to_string()))?;
            let only = ports(&parsed.resources.to_v1(api::resources::Format::PostRefinement));
            Some(only).filter(|only| !only.is_empty()).map_or_else(|| Err(none(text)), |only| Ok(Some(only)))?
        }
        (false, None) => None,
    };
    // What is wanted to be enforced, and would not be.
    for (flag, isolators) in [
        ("enforce_container_disk_quota", &["disk/du", "posix/disk", "disk/xfs"][..]),
        ("xfs_kill_containers", &["disk/xfs"]),
        ("enforce_container_ports", &["network/ports"]),
        ("disallow_sharing_agent_ipc_namespace", &["namespaces/ipc"]),
        ("disallow_sharing_agent_pid_namespace", &["namespaces/pid"]),
        ("cgroups_enable_cfs", &["cgroups/cpu", "cgroups/all", "cgroups"]),
        ("cgroups_limit_swap", &["cgroups/mem", "cgroups/all", "cgroups"]),
        ("cgroups_cpu_enable_pids_and_tids_count", &["cgroups/cpu", "cgroups/all", "cgroups"]),
    ] {
        // The engine does it, too.
        let is_dockers = flag == "cgroups_enable_cfs" && containerizers(values).any(|name| name == DOCKER);
        if values.bool(flag) && !has(isolators) && !is_dockers {
            warnings.push(format!("--{flag} does nothing without {} in --isolation", isolators[0]));
        }
    }
    for (flag, isolators) in [
        ("effective_capabilities", &["linux/capabilities"][..]),
        ("bounding_capabilities", &["linux/capabilities"]),
        ("default_container_shm_size", &["namespaces/ipc"]),
        ("seccomp_config_dir", &["linux/seccomp"]),
        ("seccomp_profile_name", &["linux/seccomp"]),
        ("allowed_devices", &["cgroups/devices", "linux/devices"]),
        ("cgroups_net_cls_primary_handle", &["cgroups/net_cls"]),
        ("perf_events", &["cgroups/perf_event"]),
        ("host_path_volume_force_creation", &["filesystem/linux"]),
        ("network_cni_config_dir", &["network/cni"]),
        ("ephemeral_ports_per_container", &["network/port_mapping"]),
        ("eth0_name", &["network/port_mapping"]),
        ("lo_name", &["network/port_mapping"]),
        ("egress_rate_limit_per_container", &["network/port_mapping"]),
        ("network_enable_socket_statistics_summary", &["network/port_mapping"]),
        ("network_enable_socket_statistics_details", &["network/port_mapping"]),
        ("network_enable_snmp_statistics", &["network/port_mapping"]),
        ("container_user_range", &["namespaces/user"]),
        ("container_user_count", &["namespaces/user"]),
        ("xfs_project_range", &["disk/xfs"]),
        ("xfs_quota_headroom", &["disk/xfs"]),
        ("csi_plugin_config_dir", &["volume/csi"]),
        ("csi_plugin_timeout", &["volume/csi"]),
        ("docker_volume_checkpoint_dir", &["docker/volume"]),
        ("docker_volume_chown", &["docker/volume"]),
    ] {
        let is_there = has(isolators) || isolators[0].starts_with("cgroups/") && has(&["cgroups/all"]);
        // Tasks wait for disks of resource providers, too.
        let is_there = is_there || flag == "csi_plugin_timeout" && values.is_given("resource_provider_config_dir");
        if values.is_given(flag) && !is_there {
            warnings.push(format!("--{flag} does nothing without {} in --isolation", isolators.join(" or ")));
        }
    }
    if values.bool("xfs_kill_containers") && !values.bool("enforce_container_disk_quota") {
        warnings.push("--xfs_kill_containers does nothing without --enforce_container_disk_quota".to_owned());
    }
    if !has(&["network/port_mapping"]) && resources.iter().any(|one| one.name == EPHEMERAL_PORTS) {
        warnings
            .push(format!("{EPHEMERAL_PORTS} in --resources does nothing without network/port_mapping in --isolation"));
    }
    let (devices, nodes) = devices(values, has(&["linux/devices"]))?;
    let settings = Settings {
        filesystem: filesystem(values)?,
        cni: cni(values)?,
        port_mapping: port_mapping(values, resources)?,
        csi: csi(values, has(&["volume/csi"]))?,
        docker_volume: DockerVolumeSettings {
            dir: values.path("docker_volume_checkpoint_dir").unwrap_or_default(),
            is_chowned: values.bool("docker_volume_chown"),
        },
        disk: DiskSettings {
            interval: interval("container_disk_watch_interval")?,
            is_enforced: values.bool("enforce_container_disk_quota"),
        },
        // Known once the library was asked.
        gpus: GpuSettings::default(),
        ports: PortsSettings {
            interval: interval("container_ports_watch_interval")?,
            is_enforced: values.bool("enforce_container_ports"),
            only,
        },
        xfs: xfs(values, interval("container_disk_watch_interval")?)?,
        linux: linux(values)?,
        users: users(values)?,
        seccomp: seccomp(values, has(&["linux/seccomp"]))?,
        cgroups: Terms {
            enable_cfs: values.bool("cgroups_enable_cfs"),
            limit_swap: values.bool("cgroups_limit_swap"),
            count_processes: values.bool("cgroups_cpu_enable_pids_and_tids_count"),
            low_revocable: values.bool("revocable_cpu_low_priority"),
        },
        devices,
        nodes,
        handles: Handles::parse(
            values.text("cgroups_net_cls_primary_handle"),
            values.text("cgroups_net_cls_secondary_handles"),
        )?,
        sampling: Sampling::parse(
            values.text("perf_events"),
            values.duration("perf_duration").unwrap_or_default(),
            values.duration("perf_interval").unwrap_or_default(),
        )?,
    };
    Ok((settings, warnings))
}

/// The devices of `--allowed_devices`, and their files if these are to be made.
fn devices(values: &Values, with_files: bool) -> Result<(Vec<Rule>, Vec<Node>), String> {
    let Some(text) = values.text("allowed_devices") else { return Ok(Default::default()) };
    let wrong = |why: String| format!("Flag '--allowed_devices' must be a JSON object with allowed_devices: {why}");
    let list: DeviceWhitelist = api::json::from_slice(text.as_bytes()).map_err(|error| wrong(error.to_string()))?;
    let rules = allowed(&list.allowed_devices).map_err(wrong)?;
    let nodes = if with_files { LinuxDevices::files(&list.allowed_devices).map_err(wrong)? } else { Vec::new() };
    Ok((rules, nodes))
}

/// The profiles of system calls.
fn seccomp(values: &Values, is_there: bool) -> Result<SeccompSettings, String> {
    match values.path("seccomp_config_dir").filter(|_| is_there) {
        None if is_there => {
            Err("linux/seccomp in --isolation needs --seccomp_config_dir, a folder of profiles".to_owned())
        }
        None => Ok(SeccompSettings::default()),
        Some(folder) => SeccompSettings::open(&folder, values.text("seccomp_profile_name"))
            .map_err(|why| format!("Cannot use linux/seccomp: {why}")),
    }
}

/// What processes of containers see and may do.
fn linux(values: &Values) -> Result<LinuxSettings, String> {
    let set = |name: &str| {
        let wrong = |why: String| format!("Flag '--{name}' must be a JSON object with capabilities: {why}");
        let parse = |text: &str| {
            let info: CapabilityInfo =
                api::json::from_slice(text.as_bytes()).map_err(|error| wrong(error.to_string()))?;
            capabilities(&info).map_err(wrong)
        };
        values.text(name).map(parse).transpose()
    };
    let (effective, bounding) = (set("effective_capabilities")?, set("bounding_capabilities")?);
    if effective.zip(bounding).is_some_and(|(effective, bounding)| effective & !bounding != 0) {
        return Err("--effective_capabilities has some that --bounding_capabilities has not".to_owned());
    }
    Ok(LinuxSettings {
        effective,
        bounding,
        shm_bytes: values.bytes("default_container_shm_size"),
        no_agent_ipc: values.bool("disallow_sharing_agent_ipc_namespace"),
        no_agent_pid: values.bool("disallow_sharing_agent_pid_namespace"),
    })
}

/// Users that containers have.
fn users(values: &Values) -> Result<UserSettings, String> {
    let text = values.text("container_user_range").unwrap_or_default().trim();
    let wrong =
        |why: &str| format!("Flag '--container_user_range' is one range of users, as [1879048192-2147352575]: {why}");
    let parsed = api::resources::parse(&format!("users:{text}"), "*").map_err(|error| wrong(&error.to_string()))?;
    let parsed = ranges(&parsed.resources.to_v1(api::resources::Format::PostRefinement), "users");
    let [range] = &parsed[..] else { return Err(wrong(&format!("'{text}' has {}", parsed.len()))) };
    // Users of this machine are below, and what stands for nobody is above.
    let number = |id: u64| u32::try_from(id).ok().filter(|id| (USERS_MIN..u32::MAX).contains(id));
    let (Some(first), Some(last)) = (number(*range.start()), number(*range.end())) else {
        return Err(wrong(&format!("they are between {USERS_MIN} and {}", u32::MAX - 1)));
    };
    let count = values.int("container_user_count").and_then(|count| u32::try_from(count).ok()).filter(|one| *one > 0);
    let count = count.ok_or("Flag '--container_user_count' is a number of users, 1 or more")?;
    if last - first < count - 1 {
        return Err(wrong(&format!("'{text}' has fewer than the --container_user_count of one container, {count}")));
    }
    Ok(UserSettings { range: first..=last, count })
}

/// Which networks containers can join.
fn cni(values: &Values) -> Result<CniSettings, String> {
    let plugins = values.text("network_cni_plugins_dir").unwrap_or_default();
    let plugins: Vec<PathBuf> = plugins.split(':').filter(|one| !one.is_empty()).map(PathBuf::from).collect();
    let configs = values.path("network_cni_config_dir");
    match (&configs, plugins.is_empty()) {
        (Some(_), true) => return Err("Missing required '--network_cni_plugins_dir' flag".to_owned()),
        (None, false) => return Err("Missing required '--network_cni_config_dir' flag".to_owned()),
        _ => {}
    }
    let metrics = values.bool("network_cni_metrics");
    Ok(CniSettings { configs, plugins, dir: PathBuf::new(), metrics, dns: Default::default() })
}

/// Which ports containers have, and what is told of their networks.
fn port_mapping(values: &Values, resources: &[Resource]) -> Result<PortMappingSettings, String> {
    if values.bool("egress_unique_flow_per_container") {
        return Err(
            "Flag '--egress_unique_flow_per_container' is not supported by this release: it needs flows of fq_codel \
                    (CONFIG_NET_SCH_FQ_CODEL) on the public interface, which no machine has that this was tried on"
                .to_owned(),
        );
    }
    let each = values.int("ephemeral_ports_per_container").unwrap_or_default();
    let each = u16::try_from(each).map_err(|_| {
        format!("Flag '--ephemeral_ports_per_container' must be a power of 2 that is less than 65536, not {each}")
    })?;
    let numbers = |name: &str| {
        let one = |range: RangeInclusive<u64>| match (u16::try_from(*range.start()), u16::try_from(*range.end())) {
            (Ok(first), Ok(last)) => Ok(first..=last),
            _ => Err(format!(
                "{name} in --resources has {}-{}: a port is no more than 65535",
                range.start(),
                range.end()
            )),
        };
        ranges(resources, name).into_iter().map(one).collect::<Result<Vec<_>, _>>()
    };
    let is_there =
        values.text("isolation").unwrap_or_default().split(',').any(|one| one.trim() == "network/port_mapping");
    let of = |name: &str| if is_there { numbers(name) } else { Ok(Vec::new()) };
    Ok(PortMappingSettings {
        ephemeral: of(EPHEMERAL_PORTS)?,
        ports: of("ports")?,
        each,
        eth0: values.text("eth0_name").map(str::to_owned),
        lo: values.text("lo_name").map(str::to_owned),
        egress_rate: values.bytes("egress_rate_limit_per_container").map(|rate| rate.max(EGRESS_RATE_MIN)),
        with_sockets: values.bool("network_enable_socket_statistics_summary"),
        with_round_trips: values.bool("network_enable_socket_statistics_details"),
        with_snmp: values.bool("network_enable_snmp_statistics"),
        dir: PathBuf::new(),
        // Known once it was looked at.
        machine: None,
    })
}

/// What `disk/xfs` gives, and to whom it denies more.
fn xfs(values: &Values, interval: Duration) -> Result<XfsSettings, String> {
    let text = values.text("xfs_project_range").unwrap_or_default();
    let none = |why: String| format!("Flag '--xfs_project_range' names no projects, as [5000-10000]: {why}");
    let parsed =
        api::resources::parse(&format!("projects:{}", text.trim()), "*").map_err(|error| none(error.to_string()))?;
    let parsed = parsed.resources.to_v1(api::resources::Format::PostRefinement);
    let range = |range: RangeInclusive<u64>| match (u32::try_from(*range.start()), u32::try_from(*range.end())) {
        (Ok(0), _) => Err(none("0 is no project".to_owned())),
        (Ok(first), Ok(last)) => Ok(first..=last),
        _ => Err(none(format!("a project is no more than {}", u32::MAX))),
    };
    let projects = ranges(&parsed, "projects").into_iter().map(range).collect::<Result<Vec<_>, _>>()?;
    let count: u64 = projects.iter().map(|range| u64::from(range.end() - range.start()) + 1).sum();
    if projects.is_empty() || count > PROJECTS_MAX {
        return Err(none(format!("there are {count} in '{text}', and there can be 1 to {PROJECTS_MAX}")));
    }
    let policy = match (values.bool("enforce_container_disk_quota"), values.bool("xfs_kill_containers")) {
        (false, _) => Policy::Count,
        (true, false) => Policy::Deny,
        (true, true) => Policy::End(values.bytes("xfs_quota_headroom").unwrap_or_default()),
    };
    Ok(XfsSettings { projects, policy, interval, work_dir: PathBuf::new() })
}

/// Which plugins there are volumes of.
fn csi(values: &Values, is_there: bool) -> Result<CsiSettings, String> {
    let configs = values.path("csi_plugin_config_dir");
    if is_there && configs.is_none() {
        return Err("Missing required '--csi_plugin_config_dir' flag: volume/csi in --isolation needs it".to_owned());
    }
    let patience = values.duration("csi_plugin_timeout").filter(|patience| !patience.is_zero());
    let patience = patience.ok_or("Flag '--csi_plugin_timeout' must be longer than nothing")?;
    let plugins = CsiPlugins::Folder(configs.unwrap_or_default());
    Ok(CsiSettings { plugins, patience, ..CsiSettings::default() })
}

/// What containers see of files.
fn filesystem(values: &Values) -> Result<FilesystemSettings, String> {
    let sandbox_directory = values.text("sandbox_directory").unwrap_or_default().to_owned();
    let is_folder = sandbox_directory.starts_with('/')
        && sandbox_directory.len() > 1
        && !sandbox_directory.split('/').any(|part| part == "..");
    if !is_folder {
        return Err("Flag '--sandbox_directory' must be an absolute path, without '..'".to_owned());
    }
    let folders = |text: &str| {
        let folders: Vec<PathBuf> = text.split(':').filter(|one| !one.is_empty()).map(PathBuf::from).collect();
        match folders.iter().find(|one| !one.is_absolute()) {
            Some(one) => Err(format!(
                "Flag '--host_path_volume_force_creation' must be absolute paths with ':' between them, not '{}'",
                one.display()
            )),
            None => Ok(folders),
        }
    };
    let made_host_paths = values.text("host_path_volume_force_creation").map(folders).transpose()?;
    Ok(FilesystemSettings { sandbox_directory, made_host_paths })
}

fn ports(resources: &[Resource]) -> Vec<RangeInclusive<u64>> {
    ranges(resources, "ports")
}

fn ranges(resources: &[Resource], name: &str) -> Vec<RangeInclusive<u64>> {
    let named = resources.iter().filter(|resource| resource.name == name);
    let ranges = named.filter_map(|resource| resource.ranges.as_ref()).flat_map(|ranges| &ranges.range);
    ranges.map(|range| range.begin..=range.end).collect()
}
