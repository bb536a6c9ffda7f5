//! Flags of the agent, by their names in Mesos where it has them.

use api::flags::{Flag, Kind};

/// The flags.
pub(crate) const FLAGS: &[Flag] = &[
    Flag::new("master", Kind::Text, "Masters to connect to: HOST:PORT[,HOST:PORT...]; any of them will do.").required(),
    Flag::new("work_dir", Kind::Path, "Folder of the agent's log and of the sandboxes.").required(),
    Flag::new("ip", Kind::Text, "Address to listen on.").variable("LIBPROCESS_IP"),
    Flag::new("port", Kind::Int, "Port to listen on.").default("5051").variable("LIBPROCESS_PORT"),
    Flag::new("advertise_ip", Kind::Text, "Address told to others.").variable("LIBPROCESS_ADVERTISE_IP"),
    Flag::new("advertise_port", Kind::Int, "Port told to others.").variable("LIBPROCESS_ADVERTISE_PORT"),
    Flag::new("hostname", Kind::Text, "Name reported to the masters."),
    Flag::new("hostname_lookup", Kind::Bool, "Whether to report the machine's name when none is given.")
        .default("true"),
    Flag::new("resources", Kind::Content, "Resources to offer, as text or JSON; what is not named is detected."),
    Flag::new("attributes", Kind::Text, "Attributes of the agent: rack:a;zone:b."),
    Flag::new("default_role", Kind::Text, "Role of resources that name none.").default("*"),
    Flag::new("domain", Kind::Content, "Fault domain of the agent: region and zone, a JSON object."),
    Flag::new("agent_features", Kind::Content, "Capabilities told to the masters, a JSON object; by default all that there are."),
    Flag::new(
        "reconfiguration_policy",
        Kind::Text,
        "Changes of resources, attributes and names with which an agent keeps its id: equal (none) or additive (more of them).",
    )
    .default("equal"),
    Flag::new("modules", Kind::Content, "Parameters of modules, JSON; those of --resource_estimator, --qos_controller, --container_logger and --disk_profile_adaptor are built in."),
    Flag::new(
        "resource_estimator",
        Kind::Text,
        "What can be spared, as revocable resources: org_apache_mesos_FixedResourceEstimator, with its parameter 'resources'.",
    ),
    Flag::new("oversubscribed_resources_interval", Kind::Duration, "what can be spared does not change.")
        .default("15secs")
        .idle(),
    Flag::new(
        "qos_controller",
        Kind::Text,
        "What ends revocable work: org_apache_mesos_LoadQoSController, with load_threshold_5min and load_threshold_15min.",
    ),
    Flag::new("qos_correction_interval_min", Kind::Duration, "Between two looks at the load; never less than a second.")
        .default("0ns"),
    Flag::new(
        "isolation",
        Kind::Text,
        concat!(
            "Isolators of containers: ",
            "posix/cpu, posix/mem, posix/rlimits, ",
            "filesystem/posix, filesystem/linux (with volume/host_path and volume/sandbox_path), volume/secret, volume/csi, ",
            "docker/runtime, appc/runtime, volume/image, ",
            "network/cni, network/ports, ",
            "disk/du, disk/xfs, gpu/nvidia, ",
            "environment_secret, ",
            "cgroups/blkio, cgroups/cpu, cgroups/cpuset, cgroups/devices, cgroups/hugetlb, cgroups/mem, cgroups/net_cls, cgroups/net_prio, ",
            "cgroups/perf_event, cgroups/pids, cgroups/all (those of these that the machine has), ",
            "namespaces/pid, namespaces/ipc, namespaces/user, ",
            "linux/nnp, linux/capabilities, linux/devices, linux/seccomp.",
        ),
    )
    .default("posix/cpu,posix/mem"),
    Flag::new("container_disk_watch_interval", Kind::Duration, "Between two looks of disk/du, or of disk/xfs with --xfs_kill_containers, at what sandboxes and volumes take.")
        .default("15secs"),
    Flag::new("enforce_container_disk_quota", Kind::Bool, "Whether disk/du ends containers that take more than they were given, and disk/xfs denies it to them or ends them.")
        .default("false"),
    Flag::new("xfs_project_range", Kind::Text, "Projects of XFS that disk/xfs gives to sandboxes and volumes, one each.").default("[5000-10000]"),
    Flag::new("container_user_range", Kind::Text, "Users and groups of this machine that namespaces/user gives to containers, each its own while it runs.")
        .default("[1879048192-2147352575]"),
    Flag::new("container_user_count", Kind::Int, "How many of them a container has: its users are those of this machine with numbers below.").default("65536"),
    Flag::new("xfs_kill_containers", Kind::Bool, "Whether disk/xfs ends containers that take more than they were given, where it would deny it to them.")
        .default("false"),
    Flag::new("xfs_quota_headroom", Kind::Bytes, "What a container can take beyond what it was given before it is ended, with --xfs_kill_containers.")
        .default("10MB"),
    Flag::new("nvidia_gpu_devices", Kind::Text, "GPUs that gpu/nvidia gives out, by their indices as nvidia-smi has them: 0,2; as many as gpus in --resources. Without both, all."),
    Flag::new("container_ports_watch_interval", Kind::Duration, "Between two looks of network/ports at who listens where.")
        .default("30secs"),
    Flag::new("enforce_container_ports", Kind::Bool, "Whether network/ports ends containers that listen where they may not.")
        .default("false"),
    Flag::new("check_agent_port_range_only", Kind::Bool, "Whether network/ports looks at the ports that the agent offers only.")
        .default("false"),
    Flag::new("container_ports_isolated_range", Kind::Text, "The ports that network/ports looks at: [1024-65535]."),
    Flag::new("sandbox_directory", Kind::Text, "Where a container with a root of its own finds its sandbox.")
        .default("/mnt/mesos/sandbox"),
    Flag::new("host_path_volume_force_creation", Kind::Text, "Folders of the machine, with ':' between them, in which folders are made that volumes ask for and that are missing."),
    Flag::new("csi_plugin_config_dir", Kind::Path, "Folder of the CSI plugins that containers have volumes of, with volume/csi: a file for each, a CSIPluginInfo in JSON."),
    Flag::new("csi_plugin_timeout", Kind::Duration, "So long a container waits for each of its CSI volumes.").default("5mins"),
    Flag::new("resource_provider_config_dir", Kind::Path, "Folder of the resource providers that the agent starts itself: a file for each, a ResourceProviderInfo in JSON, of type org.apache.mesos.rp.local.storage."),
    Flag::new("disk_profile_adaptor", Kind::Text, "Where profiles of disks are read: org_apache_mesos_UriDiskProfileAdaptor, with its parameters uri, poll_interval and max_random_wait."),
    Flag::new("disk_profiles", Kind::Path, "The same without a module: file:///PATH, http://... or https://... of a JSON object with profile_matrix."),
    Flag::new("disk_profiles_interval", Kind::Duration, "Between two times that --disk_profiles is read; without it that is once."),
    Flag::new("network_cni_config_dir", Kind::Path, "Folder of the networks that containers can join, a CNI configuration each, with network/cni."),
    Flag::new("network_cni_plugins_dir", Kind::Text, "Folders of CNI plugins, with ':' between them."),
    Flag::new("network_cni_root_dir_persist", Kind::Bool, "what is kept of networks is below work_dir.").default("false").idle(),
    Flag::new("docker_volume_checkpoint_dir", Kind::Path, "Where docker/volume writes down which container uses which volumes of Docker's plugins. One agent's.").default("/var/run/mesos/isolators/docker/volume"),
    Flag::new("docker_volume_chown", Kind::Bool, "Whether volumes of Docker's plugins, with docker/volume, become their container's user's: not what is in them.").default("false"),
    Flag::new(
        "default_container_dns",
        Kind::Content,
        "Where containers look for names in networks of CNI and of Docker that do not say it, a JSON object (ContainerDNSInfo).",
    ),
    Flag::new(
        "ephemeral_ports_per_container",
        Kind::Int,
        "Ephemeral ports that each container has of ephemeral_ports in --resources, a power of 2, with network/port_mapping.",
    )
    .default("1024"),
    Flag::new("eth0_name", Kind::Text, "The public interface, whose address containers have; by default that of the default route."),
    Flag::new("lo_name", Kind::Text, "The loopback interface; by default the one that is it."),
    Flag::new("egress_rate_limit_per_container", Kind::Bytes, "What each container may send in a second, with network/port_mapping."),
    Flag::new("egress_unique_flow_per_container", Kind::Bool, "Not supported: containers with flows of their own.").default("false"),
    Flag::new(
        "network_enable_socket_statistics_summary",
        Kind::Bool,
        "Whether it is told how many TCP connections containers have, with network/port_mapping.",
    )
    .default("false"),
    Flag::new(
        "network_enable_socket_statistics_details",
        Kind::Bool,
        "Whether it is told how long containers wait for answers on TCP, with network/port_mapping.",
    )
    .default("false"),
    Flag::new(
        "network_enable_snmp_statistics",
        Kind::Bool,
        "Whether it is told what the kernel counts of containers' networks, with network/port_mapping.",
    )
    .default("false"),
    Flag::new("network_cni_metrics", Kind::Bool, "Whether what went through the interfaces of containers is told.").default("true"),
    Flag::new("effective_capabilities", Kind::Content, "Capabilities of processes that ask for none, with linux/capabilities: {\"capabilities\": [\"NET_RAW\"]}.")
        .aliases(&["allowed_capabilities"]),
    Flag::new("bounding_capabilities", Kind::Content, "Capabilities that processes may ever have, with linux/capabilities; JSON as above."),
    Flag::new("default_container_shm_size", Kind::Bytes, "Size of a /dev/shm of a container's own for which no size is asked, with namespaces/ipc."),
    Flag::new("disallow_sharing_agent_ipc_namespace", Kind::Bool, "Whether outermost containers may not ask for the machine's shared memory.")
        .default("false"),
    Flag::new("disallow_sharing_agent_pid_namespace", Kind::Bool, "Whether outermost containers may not ask for the machine's processes.")
        .default("false"),
    Flag::new("cgroups_enable_cfs", Kind::Bool, "Whether cgroups/cpu bounds containers by the processors that they were given, too, and not by their limits alone.")
        .default("false"),
    Flag::new("cgroups_limit_swap", Kind::Bool, "Whether cgroups/mem limits memory and swap together.").default("false"),
    Flag::new("cgroups_cpu_enable_pids_and_tids_count", Kind::Bool, "Whether cgroups/cpu counts processes and threads.")
        .default("false"),
    Flag::new("seccomp_config_dir", Kind::Path, "Folder of profiles of system calls, as Docker writes them, for linux/seccomp."),
    Flag::new("seccomp_profile_name", Kind::Text, "Profile of containers that ask for none, a file of that folder; without it those make all calls."),
    Flag::new("allowed_devices", Kind::Content, "Devices that containers may use besides those that harm nobody, with cgroups/devices; with linux/devices their files are in the /dev of a root of a container's own: {\"allowed_devices\": [{\"device\": {\"path\": \"/dev/fuse\"}, \"access\": {\"read\": true, \"write\": true}}]}."),
    Flag::new("cgroups_net_cls_primary_handle", Kind::Text, "With cgroups/net_cls, the upper half of the numbers on what containers send: 0x12; without it they are not numbered."),
    Flag::new("cgroups_net_cls_secondary_handles", Kind::Text, "The lower halves, one for each container: the first and the last, 0x1,0xffff."),
    Flag::new("perf_events", Kind::Text, "What cgroups/perf_event counts: cycles,task-clock,page-faults; nothing without it."),
    Flag::new("perf_duration", Kind::Duration, "So long it counts in each --perf_interval.").default("10secs"),
    Flag::new("perf_interval", Kind::Duration, "From the beginning of one time that cgroups/perf_event counts to that of the next.")
        .default("1mins"),
    Flag::new("revocable_cpu_low_priority", Kind::Bool, "Whether revocable processors are for when nobody else wants them.")
        .default("true"),
    Flag::new(
        "launcher",
        Kind::Text,
        "What starts and ends containers: linux (a control group for each, which nothing leaves), or posix; linux if --isolation needs it, else posix.",
    ),
    Flag::new("cgroups_hierarchy", Kind::Path, "Where control groups are mounted: the second version, or a folder for each controller of the first.")
        .default("/sys/fs/cgroup"),
    Flag::new("cgroups_root", Kind::Text, "Name of the control group that those of containers are below; no two agents have the same.")
        .default("mesos"),
    Flag::new("cgroups_destroy_timeout", Kind::Duration, "So long the end of what is in a control group may take, before that is said and it is tried again.")
        .default("1mins"),
    Flag::new(
        "containerizers",
        Kind::Text,
        "Containerizers: mesos, docker, external; the first that runs what asks for none by its label meseta.containerizer has it.",
    )
    .default("mesos"),
    Flag::new("containerizer_path", Kind::Path, "Program of the external containerizer; an absolute path."),
    Flag::new("containerizer_launch_timeout", Kind::Duration, "Time for that program to launch a container.")
        .default("5mins"),
    Flag::new("containerizer_timeout", Kind::Duration, "Time for that program to answer anything else.")
        .default("30secs"),
    Flag::new("docker", Kind::Text, "The docker program, which makes containers for the docker containerizer.").default("docker"),
    Flag::new("docker_socket", Kind::Text, "The socket of the Docker Engine.").default("/var/run/docker.sock"),
    Flag::new("docker_config", Kind::Content, "Passwords of registries, for both kinds of containers: a config.json as the docker program has it, JSON or /PATH of it. Read once."),
    Flag::new("docker_remove_delay", Kind::Duration, "How long containers of the Docker Engine stay when they are over.").default("6hrs"),
    Flag::new("docker_kill_orphans", Kind::Bool, "Whether containers named mesos-ID are ended at the start that no agent of this kind has launched.")
        .default("true"),
    Flag::new("docker_stop_timeout", Kind::Duration, "Between SIGTERM and SIGKILL for a container of the Docker Engine that is ended without a kill policy.")
        .default("0ns"),
    Flag::new("docker_mesos_image", Kind::Text, "Image of executors, for an agent in a container: not supported."),
    Flag::new("launcher_dir", Kind::Path, "Folder of meseta-executor; by default that of meseta-agent."),
    Flag::new("switch_user", Kind::Bool, "Whether to run tasks as their user.").default("true"),
    Flag::new(
        "cluster_secret",
        Kind::Path,
        "file:///PATH of the cluster's secret, as the masters have it: both sides show that they know it.",
    ),
    Flag::new(
        "credential",
        Kind::Path,
        "A file of the agent's principal and its secret, for masters with --authenticate_agents: {\"principal\": \"P\", \"secret\": \
         \"S\"}, a line P S, or {\"token\": \"T\"}. Read again for each connection.",
    ),
    Flag::new(
        "join_token",
        Kind::Path,
        "A file with a token of `meseta join mint`, for masters with --agent_identities: the agent joins by it, and keeps an identity of \
         its own from then on. Read again for each connection.",
    ),
    Flag::new("insecure", Kind::Bool, "Whether masters on other machines need not show that they know a secret.")
        .default("false"),
    Flag::new("executor_registration_timeout", Kind::Duration, "Time for an executor to subscribe.").default("1mins"),
    Flag::new("executor_reregistration_timeout", Kind::Duration, "Time for executors to return after a restart.")
        .default("2secs"),
    Flag::new("executor_shutdown_grace_period", Kind::Duration, "Time for a stopping executor to end.")
        .default("5secs"),
    Flag::new("executor_environment_variables", Kind::Content, "Environment given to executors, a JSON object."),
    Flag::new("log_bytes_max", Kind::Bytes, "Size of the agent's log at which it is shortened to what still matters.")
        .default("64MB"),
    Flag::new("recovery_timeout", Kind::Duration, "Time that commands and executors wait for an agent that is away.")
        .default("15mins"),
    Flag::new("registration_backoff_factor", Kind::Duration, "Longest first pause between attempts to connect.")
        .default("1secs"),
    Flag::new("logging_level", Kind::Text, "Lowest level logged: INFO, WARNING, ERROR.").default("INFO"),
    Flag::new("quiet", Kind::Bool, "No logging to stderr; to --log_dir it goes.").default("false"),
    Flag::new("log_dir", Kind::Path, "The log goes to meseta-agent.log in this folder too, served as /slave/log."),
    Flag::new("external_log_file", Kind::Path, "A log that something else writes, served as /slave/log."),
    Flag::new("version", Kind::Bool, "Prints the version.").default("false"),
    // Accepted for drop-in use: leaving out what they do harms nobody.
    Flag::new("runtime_dir", Kind::Path, "everything is below work_dir.").idle(),
    Flag::new("gc_delay", Kind::Duration, "Age at which the sandbox of an executor that ended is deleted.")
        .default("1weeks"),
    Flag::new(
        "gc_disk_headroom",
        Kind::Double,
        "Part of the disk to keep free: the fuller it is, the younger sandboxes go.",
    )
    .default("0.1"),
    Flag::new(
        "gc_non_executor_container_sandboxes",
        Kind::Bool,
        "Whether sandboxes of containers that were launched by call are deleted too, while what they are within is there.",
    )
    .default("false"),
    Flag::new("disk_watch_interval", Kind::Duration, "Between two looks for sandboxes to delete.").default("1mins"),
    Flag::new(
        "container_logger",
        Kind::Text,
        "What becomes of outputs: sandbox (files without bounds), or rotating (org_apache_mesos_LogrotateContainerLogger): bounded files, and older ones.",
    )
    .default("sandbox"),
    Flag::new("fetcher_cache_size", Kind::Bytes, "What is kept of fetched files for others; nothing if 0.").default("2GB"),
    Flag::new("fetcher_cache_dir", Kind::Path, "Folder of what is kept of fetched files; by default fetch below work_dir."),
    Flag::new("fetcher_stall_timeout", Kind::Duration, "Longest time that a fetch makes no progress; 0 for ever.")
        .default("1mins"),
    Flag::new("fetcher_unpacked_size", Kind::Bytes, "What may come out of one archive.").default("16GB"),
    Flag::new("image_providers", Kind::Text, "Kinds of images that containers may have: docker, which is that of OCI, too, and appc. Needs filesystem/linux in --isolation; docker/runtime and appc/runtime for roots, volume/image for volumes."),
    Flag::new("image_provisioner_backend", Kind::Text, "How roots are made of images: overlay (the default, where the kernel can), copy, bind (of one layer, read-only)."),
    Flag::new("image_gc_config", Kind::Content, "When images go that nobody uses, JSON: {\"image_disk_headroom\": 0.1, \"image_disk_watch_interval\": {\"nanoseconds\": 3600000000000}, \"excluded_images\": []}."),
    Flag::new("image_size_max", Kind::Bytes, "What an image may be, packed and unpacked.").default("16GB"),
    Flag::new("docker_registry", Kind::Text, "Where images are that name no registry: https://HOST[:PORT], a folder (/PATH) with archives of docker save and layouts of OCI, or hdfs://PLACE with archives.")
        .default("https://registry-1.docker.io"),
    Flag::new("appc_simple_discovery_uri_prefix", Kind::Text, "Where images of appc are, before their names: http://..., https://... or /FOLDER/.").default("http://"),
    Flag::new("appc_store_dir", Kind::Path, "Folder of what is kept of images of appc, of one agent; by default store/appc below work_dir."),
    Flag::new("docker_store_dir", Kind::Path, "Folder of what is kept of images, of one agent; by default store/docker below work_dir."),
    Flag::new("docker_ignore_runtime", Kind::Bool, "Whether what images say of their process (entry point, command, environment, folder) does not matter.")
        .default("false"),
    Flag::new("default_container_info", Kind::Content, "What containers of executors and commands are that say nothing of it, a ContainerInfo as JSON."),
    Flag::new("frameworks_home", Kind::Text, "Folder that relative paths of fetched files begin at.").default(""),
    Flag::new("hadoop_home", Kind::Text, "Folder of the Hadoop client, which fetches hdfs, s3 and others: bin/hadoop in it."),
    Flag::new("http_heartbeat_interval", Kind::Duration, "Between two heartbeats on streams of containers' output.")
        .default("30secs"),
    Flag::new("http_command_executor", Kind::Bool, "there is one kind of command executor.").default("false").idle(),
    Flag::new(
        "systemd_enable_support",
        Kind::Bool,
        "Looks at the start whether systemd lets tasks outlive this program.",
    )
    .default("true"),
    Flag::new("strict", Kind::Bool, "a damaged log is never passed over.").default("true").idle(),
    Flag::new("recover", Kind::Text, "What to do with executors found at start: reconnect.").default("reconnect"),
    Flag::new("max_completed_executors_per_framework", Kind::Int, "Ended executors remembered of each framework.")
        .default("150"),
    Flag::new("initialize_driver_logging", Kind::Bool, "there are no drivers.").default("true").idle(),
    Flag::new("log_format", Kind::Text, "As what the log is written: text, json (one object a line), or journald (fields).")
        .default("text"),
    Flag::new("logbufsecs", Kind::Int, "the log is not buffered.").default("0").idle(),
    Flag::new(
        "acls",
        Kind::Path,
        "Who may do what, as JSON or a file of it (/PATH or file:///PATH), which is read again on SIGHUP.",
    ),
    Flag::new(
        "authenticate_http_readonly",
        Kind::Bool,
        "Whoever reads must show a principal of --http_credentials and its secret, or a token.",
    )
    .default("false"),
    Flag::new(
        "authenticate_http_readwrite",
        Kind::Bool,
        "Whoever calls /api/v1 must show a principal of --http_credentials and its secret, or a token.",
    )
    .default("false"),
    Flag::new(
        "authenticate_http_executors",
        Kind::Bool,
        "Executors must show the token that they find in their environment; needs --jwt_secret_key.",
    )
    .default("false"),
    Flag::new(
        "http_executor_domain_sockets",
        Kind::Bool,
        "Whether executors find a socket of this machine in MESOS_DOMAIN_SOCKET, to talk to the agent without TCP.",
    )
    .default("false"),
    Flag::new(
        "domain_socket_location",
        Kind::Text,
        "Where that socket is: an absolute path of less than 108 bytes; by default agent.sock below work_dir.",
    ),
    Flag::new("authorizer", Kind::Text, "Who decides by --acls: local.").default("local"),
    Flag::new("http_authenticators", Kind::Text, "How it is shown: basic, and tokens with --jwt_secret_key.")
        .default("basic"),
    Flag::new(
        "http_credentials",
        Kind::Path,
        "A file of principals and their secrets, as --credentials of masters; read again on SIGHUP.",
    ),
    Flag::new(
        "jwt_secret_key",
        Kind::Path,
        "A file with the key that tokens of executors are signed with (JWT, HS256), of 16 bytes or more.",
    )
    .aliases(&["executor_secret_key"]),
];

/// Known to Mesos, and not built: running without them would be a surprise. As variables of the environment too.
pub(crate) const REFUSED: &[&str] = &[
    "agent_subsystems",
    "authenticatee",
    "authentication_backoff_factor",
    "authentication_timeout_max",
    "authentication_timeout_min",
    "egress_burst",
    "egress_ceil_limit",
    "egress_flow_classifier_parent",
    "egress_rate_per_cpu",
    "executor_reregistration_retry_interval",
    "firewall_rules",
    "hooks",
    "ingress_burst",
    "ingress_ceil_limit",
    "ingress_isolate_existing_containers",
    "ingress_rate_limit_per_container",
    "ingress_rate_per_cpu",
    "ip6",
    "ip6_discovery_command",
    "ip_discovery_command",
    "master_detector",
    "maximum_egress_rate_limit",
    "maximum_ingress_rate_limit",
    "memory_profiling",
    "minimum_egress_rate_limit",
    "minimum_ingress_rate_limit",
    "modules_dir",
    "network_enable_rate_statistics",
    "network_link_speed",
    "network_rate_statistics_interval",
    "network_rate_statistics_window",
    "secret_resolver",
    "slave_subsystems",
    "systemd_runtime_directory",
    "volume_gid_range",
    "zk_session_timeout",
];

#[cfg(test)]
mod tests {
    use super::*;
    use api_http::{tls, tokens};

    #[test]
    fn the_page_says_which_flags_there_are() {
        let untaken = api::flags::Untaken { refused: REFUSED, only: &[] };
        let page = api::flags::page("meseta-agent", &[FLAGS, tls::FLAGS, tokens::FLAGS].concat(), &untaken);
        expect_test::expect_file!["../../../../docs/flags-agent.md"].assert_eq(&page);
    }
}
