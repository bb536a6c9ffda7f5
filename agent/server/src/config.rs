//! The agent's flags, and what follows from them.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_core::Policy;
use api::flags::Values;
use api::limits::AGENT_ENDED_TASKS_MAX;
use api::v1::{AgentInfo, Attribute, ContainerInfo, DomainInfo, Resource, agent_info};
use api_http::dial::Signer;
use api_http::tls::{self, Tls};
use api_http::{Admission, Audit, Door, Secret, Sources, TokenSources, tokens};
use auth::Realm;
use containers::DockerTerms;
use containers::cgroups::Wanted;
use containers::program::Program;

use crate::dial;
use crate::dns;
use crate::executor_socket;
use crate::gc::Sandboxes;
use crate::gpus;
use crate::identity::Identity;
use crate::images;
use crate::isolation;
use crate::local;
use crate::logger::Logger;
use crate::machine;
use crate::oversubscription::{self, Loads, Modules};

mod table;

pub(crate) use table::FLAGS;
use table::REFUSED;

/// What a registered agent says that it can do.
pub(crate) const CAPABILITIES: [&str; 8] = [
    "MULTI_ROLE",
    "HIERARCHICAL_ROLE",
    "RESERVATION_REFINEMENT",
    "RESIZE_VOLUME",
    "AGENT_OPERATION_FEEDBACK",
    "AGENT_DRAINING",
    PROVIDERS,
    LIMITS,
];
/// Of an agent with which resource providers may subscribe.
pub(crate) const PROVIDERS: &str = "RESOURCE_PROVIDER";
/// Of an agent that bounds tasks by limits of their own.
const LIMITS: &str = "TASK_RESOURCE_LIMITS";
/// The isolators that do.
const LIMITING: [&str; 2] = ["cgroups/cpu", "cgroups/mem"];
/// Those without which masters of today have no use for it.
const CAPABILITIES_NEEDED: [&str; 5] =
    ["MULTI_ROLE", "HIERARCHICAL_ROLE", "RESERVATION_REFINEMENT", "AGENT_OPERATION_FEEDBACK", "AGENT_DRAINING"];

/// How to use the program.
pub(crate) fn help() -> String {
    api::flags::help(
        "meseta-agent --master=HOST:PORT --work_dir=DIR [flags]",
        &[FLAGS, tls::FLAGS, tokens::FLAGS].concat(),
    )
}

/// What was configured, checked.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) values: Values,
    pub(crate) masters: Vec<String>,
    /// The file of what the agent shows to say who it is.
    pub(crate) credential: Option<PathBuf>,
    /// Who it is by itself, and what it joins by.
    pub(crate) identity: Identity,
    /// Shows the masters that this agent knows the cluster's secret.
    pub(crate) signer: Option<Arc<Signer>>,
    /// Where masters show the same to this agent.
    pub(crate) door: Arc<Door>,
    /// What values of tasks' secrets are sealed with.
    pub(crate) secret: Option<Secret>,
    /// Who is let in, and what they may.
    pub(crate) admission: Arc<Admission>,
    /// How what is said is hidden from others, if it is.
    pub(crate) tls: Option<Arc<Tls>>,
    /// What its owner is to know about the secret's file.
    pub(crate) secret_warning: Option<String>,
    pub(crate) work_dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise_ip: IpAddr,
    pub(crate) advertise_port: Option<u16>,
    pub(crate) hostname: String,
    pub(crate) resources: Vec<Resource>,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) domain: Option<DomainInfo>,
    /// What it says that it can do.
    pub(crate) capabilities: Vec<String>,
    /// Where containers have control groups, if they have any.
    pub(crate) groups: Option<Wanted>,
    /// With which changes it keeps its id.
    pub(crate) policy: Policy,
    /// What it can spare, which is revocable.
    pub(crate) spare: Vec<Resource>,
    /// When revocable work gives way, and how often it is looked at.
    pub(crate) loads: Option<Loads>,
    pub(crate) correct_every: Duration,
    pub(crate) launcher: PathBuf,
    /// How isolators are configured.
    pub(crate) isolators: containers::isolators::Settings,
    /// Images of containers, if there are to be any.
    pub(crate) images: Option<images::Settings>,
    /// What containers are of which nobody says anything.
    pub(crate) default_container: Option<ContainerInfo>,
    /// What runs containers in another way, if anything does.
    pub(crate) external: Option<Program>,
    /// How a Docker Engine is used, if one is.
    pub(crate) docker: Option<DockerTerms>,
    /// Resource providers that it starts itself, if it may have any.
    pub(crate) local: Option<local::Configured>,
    /// A socket of this machine for executors, if there is one.
    pub(crate) executor_socket: Option<PathBuf>,
    pub(crate) executor_environment: Vec<(String, String)>,
    pub(crate) settings: agent_core::Settings,
    /// Where the log goes, beside stderr.
    pub(crate) log_file: Option<PathBuf>,
    /// Bounds of what tasks write, if there are any.
    pub(crate) logger: Option<Logger>,
    /// How long sandboxes stay.
    pub(crate) sandboxes: Sandboxes,
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
    let idle = api::flags::surroundings(REFUSED, environment)?;
    let flags = [FLAGS, tls::FLAGS, tokens::FLAGS].concat();
    let mut values =
        api::flags::parse(&flags, words, tls::old_names(environment), |path| std::fs::read_to_string(path))
            .map_err(|error| error.to_string())?;
    if values.help {
        return Ok(Asked::Help);
    }
    values.warnings.extend(idle);
    let without_tls = tls::idle(&values);
    values.warnings.extend(without_tls);
    check(values).map(|config| Asked::Run(Box::new(config)))
}

/// Who is let in and what they may, as far as flags say.
fn sources(values: &Values) -> Result<Sources, String> {
    let asked = [
        ("authenticate_http_readonly", Realm::AgentReadonly),
        ("authenticate_http_readwrite", Realm::AgentReadwrite),
        ("authenticate_http_executors", Realm::AgentExecutor),
    ];
    let asked: Vec<_> = asked.into_iter().filter(|(flag, _)| values.bool(flag)).collect();
    let credentials = values.path("http_credentials").map(|path| ("http_credentials", path));
    let tokens = TokenSources::of(values)?;
    for (flag, realm) in &asked {
        if *realm == Realm::AgentExecutor && tokens.key.is_none() {
            return Err(format!(
                "--{flag} needs --jwt_secret_key=/PATH: executors show tokens that are signed with it"
            ));
        }
        if credentials.is_none() && tokens.is_empty() {
            return Err(format!(
                "--{flag} needs principals and their secrets: give --http_credentials=/PATH, or --jwt_key_set=/PATH for tokens"
            ));
        }
    }
    let acls = values.text("acls").map(str::to_owned);
    let realms = asked.into_iter().map(|(_, realm)| realm).collect();
    Ok(Sources { credentials, acls, tokens, realms, agents_join: false })
}

fn check(mut values: Values) -> Result<Config, String> {
    only(&values, "isolation", containers::isolators::NAMES)?;
    only(&values, "launcher", &["linux", "posix"])?;
    only(&values, "containerizers", &["mesos", DOCKER, EXTERNAL])?;
    only(&values, "recover", &["reconnect"])?;
    only(&values, "logging_level", &["INFO", "WARNING", "ERROR"])?;
    only(&values, "log_format", &["text", "json", "journald"])?;
    only(&values, "authorizer", &["local"])?;
    only(&values, "http_authenticators", &["basic"])?;
    let (admission, warnings) = Admission::open(sources(&values)?)?;
    values.warnings.extend(warnings);
    if values.bool("authenticate_http_readwrite") && !values.is_given("jwt_secret_key") {
        let why = "--authenticate_http_readwrite without --jwt_secret_key: task groups of the default executor will fail, as it \
                   calls its agent and has nothing to show";
        values.warnings.push(why.to_owned());
    }
    let groups = groups(&mut values)?;
    let masters = masters(values.text("master").unwrap_or_default())?;
    let tls = Tls::load(tls::Settings::read(&values, true)?.asking_members())?;
    let credential = values.path("credential");
    if let Some(path) = &credential {
        let (shown, warning) = dial::read_credential(path)?;
        values.warnings.extend(warning);
        if shown.is_secret() && tls.is_none() && !are_here(&masters) {
            let why =
                "--credential without TLS: its secret is sent as it is, and whoever listens on the network has it";
            values.warnings.push(why.to_owned());
        }
    }
    let work_dir = values.path("work_dir").unwrap_or_default();
    // Whoever a task runs as must find its sandbox below, and need not see what else there is.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&work_dir)
        .map_err(|error| format!("Cannot create the work_dir {}: {error}", work_dir.display()))?;
    let work_dir = std::fs::canonicalize(&work_dir)
        .map_err(|error| format!("Cannot read the work_dir {}: {error}", work_dir.display()))?;
    let join_token = values.path("join_token");
    if join_token.is_some() && tls.is_none() && !are_here(&masters) {
        let why = "--join_token without TLS: it is sent as it is, and whoever listens on the network has it";
        values.warnings.push(why.to_owned());
    }
    let identity = Identity::open(&work_dir, join_token)?;
    let audit = Audit::at(&values.path("log_dir").unwrap_or_else(|| work_dir.clone()), "meseta-agent.refused");
    let admission = Arc::new(admission.noting(audit));
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
        Some(ip) => match ip.parse::<IpAddr>() {
            Ok(ip) if !ip.is_unspecified() => ip,
            _ => return Err(format!("Flag '--advertise_ip' must be an IP address that others can reach, not '{ip}'")),
        },
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
    let gpus = gpus::read(&values, &given, &work_dir)?;
    let resources = machine::resources(given, values.text("default_role").unwrap_or("*"), &work_dir, gpus.gpus.len());
    machine::check_disks(&resources, &work_dir)?;
    let attributes = api::attributes::parse(values.text("attributes").unwrap_or(""))
        .map_err(|error| format!("Failed to parse the attributes: {error}"))?;
    let (mut capabilities, warning) = capabilities(values.text("agent_features"))?;
    // Who does not limit would ignore it, and masters refuse tasks that ask for it.
    capabilities.retain(|name| name != LIMITS || limits(&values));
    let policy = match values.text("reconfiguration_policy") {
        Some("additive") => Policy::Additive,
        Some("equal") | None => Policy::Equal,
        Some(other) => {
            return Err(format!(
                "Unknown option for 'reconfiguration_policy' flag {other}: it must be equal or additive"
            ));
        }
    };
    let modules = Modules::read(values.text("modules"))?;
    let domain = match values.text("domain").map(|text| api::json::from_slice::<DomainInfo>(text.as_bytes())) {
        None => None,
        Some(Ok(domain)) if domain.fault_domain.is_some() => Some(domain),
        Some(Ok(_)) => return Err("Flag '--domain' names no fault_domain".to_owned()),
        Some(Err(error)) => return Err(format!("Flag '--domain' must be a JSON object with a fault_domain: {error}")),
    };
    let external = external(&values, &work_dir)?;
    let (mut docker, idle_docker) = docker(&values)?;
    let (dns, dns_of_docker) = dns::read(values.text("default_container_dns"))?;
    docker.iter_mut().for_each(|terms| terms.dns.clone_from(&dns_of_docker));
    let executor_socket = executor_socket::location(&values, &work_dir)?;
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
        ended_tasks_max: AGENT_ENDED_TASKS_MAX,
    };
    let (mut isolators, idle) = isolation::read(&values, &resources)?;
    // Every container has some of them, and nobody is offered any.
    let resources: Vec<Resource> = resources.into_iter().filter(|one| one.name != isolation::EPHEMERAL_PORTS).collect();
    isolators.port_mapping.dir = work_dir.join("meta/port_mapping");
    isolators.cni.dns = dns;
    isolators.cni.dir = work_dir.join("meta/networks");
    isolators.xfs.work_dir.clone_from(&work_dir);
    isolators.csi.records = work_dir.join("meta/csi");
    isolators.csi.mounts = work_dir.join("csi");
    isolators.gpus = gpus;
    let (local, without_local) = local::read(&values, &modules, &capabilities, isolators.csi.patience)?;
    let (images, without_images) = images::read(&values, &work_dir)?;
    let default_container = values.text("default_container_info").map(|text| {
        let wrong =
            |why: String| format!("Flag '--default_container_info' must be a JSON object, a ContainerInfo: {why}");
        api::json::from_slice::<ContainerInfo>(text.as_bytes()).map_err(|error| wrong(error.to_string()))
    });
    let default_container = default_container.transpose()?;
    let secret = values.text("cluster_secret").map(Secret::read).transpose();
    let secret = secret.map_err(|error| event_log::sentence(&error))?;
    let by_certificate = tls.as_ref().is_some_and(|tls| tls.names_masters());
    let door = Door::new(secret.clone(), values.bool("insecure"), Some(advertise_ip)).by_certificate(by_certificate);
    Ok(Config {
        masters,
        groups,
        admission,
        secret_warning: secret.as_ref().and_then(Secret::warning),
        door: Arc::new(door),
        secret: secret.clone(),
        signer: secret.map(|secret| Arc::new(Signer::new(secret, values.bool("insecure")))),
        credential,
        identity,
        tls,
        listen: SocketAddr::new(ip, port("port")?.unwrap_or(5051)),
        advertise_ip,
        advertise_port: port("advertise_port")?,
        hostname,
        resources,
        attributes,
        domain,
        capabilities,
        policy,
        logger: Logger::read(&modules, values.text("container_logger"))?,
        spare: oversubscription::spare(&modules, values.text("resource_estimator"))?,
        loads: oversubscription::loads(&modules, values.text("qos_controller"))?,
        correct_every: values.duration("qos_correction_interval_min").unwrap_or_default(),
        launcher,
        isolators,
        images,
        default_container,
        external,
        docker,
        local,
        executor_socket,
        executor_environment: executor_environment(&values)?,
        settings,
        log_file: values.path("log_dir").map(|dir| dir.join("meseta-agent.log")),
        sandboxes: Sandboxes {
            age_max: values.duration("gc_delay").unwrap_or(Duration::MAX),
            headroom: values
                .double("gc_disk_headroom")
                .filter(|part| (0.0..=1.0).contains(part))
                .ok_or("Flag '--gc_disk_headroom' must be a part of the disk, between 0 and 1")?,
            look_every: values
                .duration("disk_watch_interval")
                .filter(|pause| !pause.is_zero())
                .ok_or("Flag '--disk_watch_interval' must be longer than nothing")?,
            with_launched: values.bool("gc_non_executor_container_sandboxes"),
        },
        recovery_timeout_ms: millis("recovery_timeout"),
        task_files: None,
        task_umask: None,
        log_bytes_max: values.bytes("log_bytes_max").unwrap_or(u64::MAX),
        work_dir,
        values: warned(
            values,
            warning.into_iter().chain(idle).chain(idle_docker).chain(without_images).chain(without_local),
        ),
    })
}

/// The containerizer that is another program.
pub(crate) const EXTERNAL: &str = "external";

/// The names of `--containerizers`, in their order.
pub(crate) fn containerizers(values: &Values) -> impl Iterator<Item = &str> {
    let names = values.text("containerizers").unwrap_or_default().split(',').map(str::trim);
    names.filter(|name| !name.is_empty())
}

/// The program of the containerizer that is called external. The error is a sentence.
fn external(values: &Values, work_dir: &Path) -> Result<Option<Program>, String> {
    if containerizers(values).next().is_none() {
        return Err("Flag '--containerizers' names no containerizer".to_owned());
    }
    let path = values.path("containerizer_path");
    match (containerizers(values).any(|name| name == EXTERNAL), path) {
        (false, None) => Ok(None),
        (true, None) => {
            Err("'external' in '--containerizers' needs its program: --containerizer_path=/PATH".to_owned())
        }
        (false, Some(_)) => Err("--containerizer_path needs 'external' in '--containerizers'".to_owned()),
        (true, Some(path)) if !path.is_absolute() || !path.is_file() => {
            Err(format!("Flag '--containerizer_path' must be the absolute path of a program, not '{}'", path.display()))
        }
        (true, Some(path)) => {
            let millis = |name: &str| match values.duration(name).map_or(0, |duration| duration.as_millis() as u64) {
                0 => Err(format!("Flag '--{name}' must be longer than nothing")),
                millis => Ok(millis),
            };
            Ok(Some(Program {
                path: path.display().to_string(),
                folder: work_dir.join("meta/external").display().to_string(),
                launch_ms_max: millis("containerizer_launch_timeout")?,
                answer_ms_max: millis("containerizer_timeout")?,
                own: None,
            }))
        }
    }
}

/// The containerizer of a Docker Engine.
pub(crate) const DOCKER: &str = "docker";

/// How the engine is used, if it is; and what is to be said of it. The error is a sentence.
fn docker(values: &Values) -> Result<(Option<DockerTerms>, Vec<String>), String> {
    if values.is_given("docker_mesos_image") {
        return Err("Flag '--docker_mesos_image' is not supported: supervisors of containers are processes beside this agent, which \
                    a container that it ran in would take along"
            .to_owned());
    }
    let directory = values.text("sandbox_directory").unwrap_or_default();
    if !containerizers(values).any(|name| name == DOCKER) {
        let given = ["docker", "docker_socket", "docker_remove_delay", "docker_kill_orphans", "docker_stop_timeout"];
        let given = given.into_iter().filter(|name| values.is_given(name));
        return Ok((
            None,
            given.map(|name| format!("--{name} does nothing without docker in --containerizers")).collect(),
        ));
    }
    let config = values.text("docker_config").map(|text| match serde_json::from_str::<serde_json::Value>(text) {
        Ok(config) if config.is_object() => Ok(config),
        _ => Err("Flag '--docker_config' must be a JSON object, as in a config.json of the docker program".to_owned()),
    });
    let duration = |name: &str| values.duration(name).unwrap_or_default();
    let engine = agent_docker::Settings {
        socket: values.text("docker_socket").unwrap_or_default().to_owned(),
        docker: values.text("docker").unwrap_or_default().to_owned(),
        config: config.transpose()?,
        stop_timeout_ms: duration("docker_stop_timeout").as_millis() as u64,
    };
    let socket = engine.socket.strip_prefix("unix://").unwrap_or(&engine.socket);
    if !socket.starts_with('/') {
        return Err(format!("Flag '--docker_socket' must be the absolute path of a socket, not '{socket}'"));
    }
    if directory.contains([':', '\n']) {
        return Err("Flag '--sandbox_directory' has a colon, which docker takes for an end".to_owned());
    }
    let terms = DockerTerms {
        engine,
        sandbox_directory: directory.to_owned(),
        enable_cfs: values.bool("cgroups_enable_cfs"),
        kill_orphans: values.bool("docker_kill_orphans"),
        remove_delay: duration("docker_remove_delay"),
        dns: Default::default(),
    };
    Ok((Some(terms), Vec::new()))
}

/// What the launcher of Linux needs to know, if it is that one.
fn groups(values: &mut Values) -> Result<Option<Wanted>, String> {
    let isolation = values.text("isolation").unwrap_or_default();
    let needs = isolation.split(',').map(str::trim).find(|name| containers::isolators::needs_groups(name));
    match (values.text("launcher"), needs) {
        (Some("posix"), Some(name)) => return Err(format!("{name} in --isolation needs --launcher=linux")),
        (Some("linux"), _) | (None, Some(_)) => {}
        _ => {
            for name in ["cgroups_hierarchy", "cgroups_root", "cgroups_destroy_timeout"] {
                if values.is_given(name) {
                    values
                        .warnings
                        .push(format!("Flag '--{name}' has no effect: --launcher=posix makes no control groups"));
                }
            }
            return Ok(None);
        }
    }
    Ok(Some(Wanted {
        hierarchy: values.path("cgroups_hierarchy").unwrap_or_default(),
        root: values.text("cgroups_root").unwrap_or_default().to_owned(),
        patience: values.duration("cgroups_destroy_timeout").unwrap_or_default(),
    }))
}

/// The value of `--agent_features`: an `AgentInfo` with nothing but capabilities; and what is to be said of it.
fn capabilities(text: Option<&str>) -> Result<(Vec<String>, Option<String>), String> {
    let all = || CAPABILITIES.map(str::to_owned).to_vec();
    let Some(text) = text else { return Ok((all(), None)) };
    let wrong = |why: &str| format!("Flag '--agent_features' must be a JSON object with capabilities: {why}");
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| wrong(&error.to_string()))?;
    let listed =
        value.get("capabilities").and_then(|listed| listed.as_array()).ok_or_else(|| wrong("there are none"))?;
    let mut names = Vec::new();
    for one in listed {
        let name = one.get("type").and_then(|name| name.as_str()).ok_or_else(|| wrong("one has no type"))?;
        if agent_info::capability::Type::from_str_name(name)
            .is_none_or(|one| one == agent_info::capability::Type::Unknown)
        {
            return Err(wrong(&format!("there is no '{name}'")));
        }
        names.push(name);
    }
    if CAPABILITIES_NEEDED.iter().any(|needed| !names.contains(needed)) {
        let needed = CAPABILITIES_NEEDED.join(", ");
        return Err(format!("At least the following agent features need to be enabled: {needed}"));
    }
    let unknown: Vec<&str> = names.iter().copied().filter(|name| !CAPABILITIES.contains(name)).collect();
    let warning = (!unknown.is_empty()).then(|| {
        format!("--agent_features names what this release does not have, and does not claim: {}", unknown.join(", "))
    });
    Ok((all().into_iter().filter(|name| names.contains(&name.as_str())).collect(), warning))
}

/// Whether containers are bounded by limits beyond what they were given.
fn limits(values: &Values) -> bool {
    let has = |name: &str| values.text("isolation").unwrap_or_default().split(',').any(|one| one.trim() == name);
    // Docker keeps them, and another program is handed them.
    !containerizers(values).any(|name| name == "mesos")
        || has("cgroups")
        || has("cgroups/all")
        || LIMITING.into_iter().all(has)
}

fn warned(mut values: Values, warnings: impl Iterator<Item = String>) -> Values {
    values.warnings.extend(warnings);
    values
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

impl Config {
    /// Whether an isolator is in `--isolation`.
    pub(crate) fn isolates(&self, name: &str) -> bool {
        self.values.text("isolation").unwrap_or_default().split(',').any(|one| one.trim() == name)
    }

    /// The program that is asked for containers of a Docker Engine. The error is a sentence.
    pub(crate) fn docker_program(&self) -> Result<Program, String> {
        let path = self.launcher.with_file_name(agent_docker::NAME);
        if !path.is_file() {
            return Err(format!("There is no {}; say where it is with --launcher_dir", path.display()));
        }
        let millis = |name: &str| self.values.duration(name).map_or(0, |duration| duration.as_millis() as u64);
        let stop_timeout_ms = self.docker.as_ref().map_or(0, |terms| terms.engine.stop_timeout_ms);
        Ok(Program {
            path: path.display().to_string(),
            folder: self.work_dir.join("meta/docker").display().to_string(),
            launch_ms_max: millis("executor_registration_timeout"),
            answer_ms_max: millis("containerizer_timeout").saturating_add(stop_timeout_ms),
            own: Some(DOCKER.to_owned()),
        })
    }

    /// Folder of what is kept of fetched files.
    pub(crate) fn fetcher_cache(&self) -> PathBuf {
        self.values.path("fetcher_cache_dir").unwrap_or_else(|| self.work_dir.join("fetch"))
    }

    /// How it was told to describe the agent. A port that nobody chose is not part of that.
    pub(crate) fn described(&self) -> AgentInfo {
        let port = self.advertise_port.unwrap_or(self.listen.port());
        AgentInfo {
            hostname: self.hostname.clone(),
            port: (port != 0).then_some(port.into()),
            resources: self.resources.clone(),
            attributes: self.attributes.clone(),
            domain: self.domain.clone(),
            ..AgentInfo::default()
        }
    }

    /// What an operator is to know: whoever takes a master's place could have this agent run anything.
    pub(crate) fn is_exposed(&self) -> bool {
        let names_masters = self.tls.as_ref().is_some_and(|tls| tls.names_masters());
        self.signer.is_none() && !names_masters && !self.values.bool("insecure") && !are_here(&self.masters)
    }
}

/// Whether masters are on this machine.
fn are_here(masters: &[String]) -> bool {
    masters.iter().all(|master| {
        let mut found = master.to_socket_addrs().into_iter().flatten().peekable();
        found.peek().is_some() && found.all(|address| address.ip().to_canonical().is_loopback())
    })
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
