//! The agent's flags, and what follows from them.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use api::flags::{Flag, Kind, Values};
use api::v1::{Attribute, Resource};

use crate::machine;

const FLAGS: &[Flag] = &[
    Flag::new("master", Kind::Text, "Masters to connect to: HOST:PORT[,HOST:PORT...]; any of them will do.").required(),
    Flag::new("work_dir", Kind::Path, "Folder of the agent's log and of the sandboxes.").required(),
    Flag::new("ip", Kind::Text, "Address to listen on."),
    Flag::new("port", Kind::Int, "Port to listen on.").default("5051"),
    Flag::new("advertise_ip", Kind::Text, "Address told to others."),
    Flag::new("advertise_port", Kind::Int, "Port told to others."),
    Flag::new("hostname", Kind::Text, "Name reported to the masters."),
    Flag::new("hostname_lookup", Kind::Bool, "Whether to report the machine's name when none is given.")
        .default("true"),
    Flag::new("resources", Kind::Content, "Resources to offer, as text or JSON; what is not named is detected."),
    Flag::new("attributes", Kind::Text, "Attributes of the agent: rack:a;zone:b."),
    Flag::new("default_role", Kind::Text, "Role of resources that name none.").default("*"),
    Flag::new("isolation", Kind::Text, "Isolators of containers.").default("posix/cpu,posix/mem"),
    Flag::new("launcher", Kind::Text, "Launcher of containers.").default("posix"),
    Flag::new("containerizers", Kind::Text, "Containerizers.").default("mesos"),
    Flag::new("launcher_dir", Kind::Path, "Folder of meseta-executor; by default that of meseta-agent."),
    Flag::new("switch_user", Kind::Bool, "Whether to run tasks as their user.").default("true"),
    Flag::new("executor_registration_timeout", Kind::Duration, "Time for an executor to subscribe.").default("1mins"),
    Flag::new("executor_reregistration_timeout", Kind::Duration, "Time for executors to return after a restart.")
        .default("2secs"),
    Flag::new("executor_shutdown_grace_period", Kind::Duration, "Time for a stopping executor to end.")
        .default("5secs"),
    Flag::new("executor_environment_variables", Kind::Content, "Environment given to executors, a JSON object."),
    Flag::new("log_bytes_max", Kind::Bytes, "Size of the agent's log at which it is shortened to what still matters.")
        .default("64MB"),
    Flag::new("recovery_timeout", Kind::Duration, "Time that executors wait for a restarted agent.").default("15mins"),
    Flag::new("registration_backoff_factor", Kind::Duration, "Longest first pause between attempts to connect.")
        .default("1secs"),
    Flag::new("logging_level", Kind::Text, "Lowest level logged: INFO, WARNING, ERROR.").default("INFO"),
    Flag::new("quiet", Kind::Bool, "No logging to stderr.").default("false"),
    Flag::new("version", Kind::Bool, "Prints the version.").default("false"),
    // Accepted for drop-in use: leaving out what they do harms nobody.
    Flag::new("runtime_dir", Kind::Path, "Not used: everything is below work_dir."),
    Flag::new("gc_delay", Kind::Duration, "Age at which sandboxes may be deleted; none is, yet.").default("1weeks"),
    Flag::new("gc_disk_headroom", Kind::Double, "Not used yet.").default("0.1"),
    Flag::new("disk_watch_interval", Kind::Duration, "Not used yet.").default("1mins"),
    Flag::new("fetcher_cache_size", Kind::Bytes, "Not used yet.").default("2GB"),
    Flag::new("fetcher_cache_dir", Kind::Path, "Not used yet."),
    Flag::new("http_heartbeat_interval", Kind::Duration, "Not used yet.").default("30secs"),
    Flag::new("http_command_executor", Kind::Bool, "Without effect: there is one kind of command executor.")
        .default("false"),
    Flag::new("systemd_enable_support", Kind::Bool, "Without effect.").default("false"),
    Flag::new("strict", Kind::Bool, "Without effect: a damaged log is never passed over.").default("true"),
    Flag::new("recover", Kind::Text, "What to do with executors found at start: reconnect.").default("reconnect"),
    Flag::new("max_completed_executors_per_framework", Kind::Int, "Ended executors remembered of each framework.")
        .default("150"),
    Flag::new("authenticate_http_readonly", Kind::Bool, "Must be false.").default("false"),
    Flag::new("authenticate_http_readwrite", Kind::Bool, "Must be false.").default("false"),
    Flag::new("authenticate_http_executors", Kind::Bool, "Must be false.").default("false"),
];

/// Known to Mesos, and of consequence: running without them would be a surprise.
const REFUSED: &[&str] = &[
    "acls",
    "agent_features",
    "agent_subsystems",
    "allowed_devices",
    "appc_store_dir",
    "authenticatee",
    "authorizer",
    "bounding_capabilities",
    "cgroups_enable_cfs",
    "cgroups_limit_swap",
    "cgroups_root",
    "container_logger",
    "credential",
    "csi_plugin_config_dir",
    "default_container_dns",
    "default_container_info",
    "default_container_shm_size",
    "disk_profile_adaptor",
    "docker",
    "docker_config",
    "docker_mesos_image",
    "docker_registry",
    "docker_socket",
    "docker_store_dir",
    "domain",
    "domain_socket_location",
    "effective_capabilities",
    "allowed_capabilities",
    "enforce_container_disk_quota",
    "enforce_container_ports",
    "firewall_rules",
    "frameworks_home",
    "hadoop_home",
    "hooks",
    "host_path_volume_force_creation",
    "http_authenticators",
    "http_credentials",
    "http_executor_domain_sockets",
    "image_providers",
    "image_provisioner_backend",
    "image_gc_config",
    "ip6",
    "ip_discovery_command",
    "ip6_discovery_command",
    "jwt_secret_key",
    "executor_secret_key",
    "log_dir",
    "external_log_file",
    "master_detector",
    "memory_profiling",
    "modules",
    "modules_dir",
    "network_cni_config_dir",
    "network_cni_plugins_dir",
    "nvidia_gpu_devices",
    "perf_events",
    "qos_controller",
    "reconfiguration_policy",
    "resource_estimator",
    "resource_provider_config_dir",
    "sandbox_directory",
    "seccomp_config_dir",
    "seccomp_profile_name",
    "secret_resolver",
    "slave_subsystems",
    "volume_gid_range",
    "xfs_project_range",
    "zk_session_timeout",
];

/// How to use the program.
pub(crate) fn help() -> String {
    api::flags::help("meseta-agent --master=HOST:PORT --work_dir=DIR [flags]", FLAGS)
}

/// What was configured, checked.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) values: Values,
    pub(crate) masters: Vec<String>,
    pub(crate) work_dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise_ip: IpAddr,
    pub(crate) advertise_port: Option<u16>,
    pub(crate) hostname: String,
    pub(crate) resources: Vec<Resource>,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) launcher: PathBuf,
    pub(crate) executor_environment: Vec<(String, String)>,
    pub(crate) settings: agent_core::Settings,
    /// So long command tasks wait for an agent that is away.
    pub(crate) recovery_timeout_ms: u64,
    /// What tasks get of what this program changed for itself: the soft limit of open files, and the mask of new files.
    pub(crate) task_files: Option<u64>,
    pub(crate) task_umask: Option<u32>,
    /// The log is shortened when it is larger.
    pub(crate) log_bytes_max: u64,
}

/// What a command line asks for.
pub(crate) enum Asked {
    Help,
    Version,
    Run(Box<Config>),
}

/// Reads the command line and the environment. The error is a sentence.
pub(crate) fn read(words: Vec<String>) -> Result<Asked, String> {
    // Ahead of what else may be missing.
    if words.iter().any(|word| word == "--version") {
        return Ok(Asked::Version);
    }
    for word in &words {
        let name = word.trim_start_matches('-').split('=').next().unwrap_or_default();
        if REFUSED.contains(&name) || REFUSED.contains(&name.trim_start_matches("no-")) {
            return Err(format!("Flag '--{name}' is not supported by this release"));
        }
    }
    let environment = |name: &str| std::env::var(name).ok();
    let values = api::flags::parse(FLAGS, words, environment, |path| std::fs::read_to_string(path))
        .map_err(|error| error.to_string())?;
    if values.help {
        return Ok(Asked::Help);
    }
    check(values).map(|config| Asked::Run(Box::new(config)))
}

fn check(values: Values) -> Result<Config, String> {
    only(&values, "isolation", &["posix/cpu", "posix/mem", "filesystem/posix", "process"])?;
    only(&values, "launcher", &["posix"])?;
    only(&values, "containerizers", &["mesos"])?;
    only(&values, "recover", &["reconnect"])?;
    for name in ["authenticate_http_readonly", "authenticate_http_readwrite", "authenticate_http_executors"] {
        only(&values, name, &["false"])?;
    }
    let masters = masters(values.text("master").unwrap_or_default())?;
    let work_dir = values.path("work_dir").unwrap_or_default();
    // Whoever a task runs as must find its sandbox below, and need not see what else there is.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&work_dir)
        .map_err(|error| format!("Cannot create the work_dir {}: {error}", work_dir.display()))?;
    let work_dir = std::fs::canonicalize(&work_dir)
        .map_err(|error| format!("Cannot read the work_dir {}: {error}", work_dir.display()))?;
    let port = |name: &str| match values.int(name).map(u16::try_from) {
        None => Ok(None),
        Some(Ok(port)) => Ok(Some(port)),
        Some(Err(_)) => Err(format!("Flag '--{name}' must be between 0 and 65535")),
    };
    let ip: IpAddr = match values.text("ip") {
        Some(ip) => ip.parse().map_err(|_| format!("Flag '--ip' must be an IP address, not '{ip}'"))?,
        None => IpAddr::from([0, 0, 0, 0]),
    };
    let advertise_ip = match values.text("advertise_ip") {
        Some(ip) => ip.parse().map_err(|_| format!("Flag '--advertise_ip' must be an IP address, not '{ip}'"))?,
        None if ip.is_unspecified() => towards(&masters).unwrap_or(IpAddr::from([127, 0, 0, 1])),
        None => ip,
    };
    let hostname = match values.text("hostname") {
        Some(name) => name.to_owned(),
        None if values.bool("hostname_lookup") => hostname(advertise_ip),
        None => advertise_ip.to_string(),
    };
    let given =
        api::resources::parse(values.text("resources").unwrap_or(""), values.text("default_role").unwrap_or("*"))
            .map_err(|error| format!("Failed to parse the resources: {error}"))?;
    let attributes = api::attributes::parse(values.text("attributes").unwrap_or(""))
        .map_err(|error| format!("Failed to parse the attributes: {error}"))?;
    let launcher = match values.path("launcher_dir") {
        Some(dir) => dir.join("meseta-executor"),
        None => std::env::current_exe()
            .map_err(|error| format!("Cannot find the folder of this program: {error}"))?
            .with_file_name("meseta-executor"),
    };
    if !launcher.is_file() {
        return Err(format!("There is no {}; say where it is with --launcher_dir", launcher.display()));
    }
    let millis = |name: &str| values.duration(name).map_or(0, |duration| duration.as_millis() as u64);
    let settings = agent_core::Settings {
        ip: advertise_ip.to_string(),
        executor_registration_timeout_ms: millis("executor_registration_timeout"),
        executor_reregistration_timeout_ms: millis("executor_reregistration_timeout"),
        executor_shutdown_grace_ms: millis("executor_shutdown_grace_period"),
        launcher_dir: launcher.parent().map_or(String::new(), |dir| dir.display().to_string()),
        completed_executors_max: completed_executors_max(&values)?,
    };
    Ok(Config {
        masters,
        listen: SocketAddr::new(ip, port("port")?.unwrap_or(5051)),
        advertise_ip,
        advertise_port: port("advertise_port")?,
        hostname,
        resources: machine::resources(given, &work_dir),
        attributes,
        launcher,
        executor_environment: executor_environment(&values)?,
        settings,
        recovery_timeout_ms: millis("recovery_timeout"),
        task_files: None,
        task_umask: None,
        log_bytes_max: values.bytes("log_bytes_max").unwrap_or(u64::MAX),
        work_dir,
        values,
    })
}

fn completed_executors_max(values: &Values) -> Result<u32, String> {
    let count = values.int("max_completed_executors_per_framework").unwrap_or(150);
    u32::try_from(count).ok().filter(|count| *count <= 100_000).ok_or_else(|| {
        format!("Flag '--max_completed_executors_per_framework' must be between 0 and 100000, not {count}")
    })
}

fn only(values: &Values, name: &str, allowed: &[&str]) -> Result<(), String> {
    let given = values.text(name).unwrap_or_default();
    match given.split(',').map(str::trim).find(|value| !value.is_empty() && !allowed.contains(value)) {
        None => Ok(()),
        Some(value) => Err(format!("'{value}' is not supported in '--{name}'; there is: {}", allowed.join(", "))),
    }
}

fn masters(text: &str) -> Result<Vec<String>, String> {
    if text.starts_with("zk://") {
        return Err("Masters are not found through ZooKeeper: use --master=HOST:PORT[,HOST:PORT...]".to_owned());
    }
    let masters: Vec<String> =
        text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect();
    for master in &masters {
        let port = master.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none() {
            return Err(format!("'{master}' in '--master' is not of the form HOST:PORT"));
        }
    }
    if masters.is_empty() { Err("Flag '--master' names no master".to_owned()) } else { Ok(masters) }
}

/// The address of this machine on the way to the masters. Connecting a datagram socket sends nothing.
fn towards(masters: &[String]) -> Option<IpAddr> {
    let master = masters.iter().find_map(|master| master.to_socket_addrs().ok()?.find(SocketAddr::is_ipv4))?;
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect(master).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn hostname(ip: IpAddr) -> String {
    if ip.is_loopback() {
        return "localhost".to_owned();
    }
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| ip.to_string())
}

fn executor_environment(values: &Values) -> Result<Vec<(String, String)>, String> {
    let Some(text) = values.text("executor_environment_variables") else { return Ok(Vec::new()) };
    serde_json::from_str::<std::collections::BTreeMap<String, String>>(text)
        .map(|variables| variables.into_iter().collect())
        .map_err(|error| format!("Flag '--executor_environment_variables' must be a JSON object of strings: {error}"))
}
