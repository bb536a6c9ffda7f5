//! Every flag of the master: Mesos's names and defaults, and a few of our own.

use api::flags::{Flag, Kind};

const fn flag(name: &'static str, kind: Kind, help: &'static str) -> Flag {
    Flag::new(name, kind, help)
}

/// The flags.
pub const FLAGS: &[Flag] = &[
    flag(
        "acls",
        Kind::Path,
        "Who may do what, as JSON or a file of it (/PATH or file:///PATH), which is read again on SIGHUP. What no entry matches is \
         allowed, unless permissive is false.",
    ),
    flag("advertise_ip", Kind::Text, "Address told to clients, agents and masters.")
        .variable("LIBPROCESS_ADVERTISE_IP"),
    flag("advertise_port", Kind::Int, "Port told to clients, agents and masters.")
        .variable("LIBPROCESS_ADVERTISE_PORT"),
    flag("agent_ping_timeout", Kind::Duration, "Between two pings of an agent.")
        .default("15secs")
        .aliases(&["slave_ping_timeout"]),
    flag(
        "agent_removal_rate_limit",
        Kind::Text,
        "At most so many agents become unreachable in a time, as 1/10mins; any number if not given.",
    )
    .aliases(&["slave_removal_rate_limit"]),
    flag(
        "agent_reregister_timeout",
        Kind::Duration,
        "Agents that were away when a master was elected have so long to return, if given; else the time of their pings.",
    )
    .default("10mins")
    .aliases(&["slave_reregister_timeout"]),
    flag(
        "agent_identities",
        Kind::Bool,
        "With --authenticate_agents: each agent is known as itself, by an identity that it has since it joined by a token of `meseta \
         join mint`, or by the principal that it came as first.",
    )
    .default("false"),
    flag("agent_identity_life", Kind::Duration, "An agent's identity is good for so long; at half of it the agent makes another.")
        .default("30days"),
    flag("allocation_interval", Kind::Duration, "Between two plans of the allocator without another reason.")
        .default("1secs"),
    flag("allocator", Kind::Text, "The allocator: hierarchical, or random (both sorters are).").default("hierarchical"),
    flag("allocator_agent_recovery_factor", Kind::Double, "nothing needs to recover.").default("0.8").idle(),
    flag("allocator_recovery_timeout", Kind::Duration, "nothing needs to recover.").default("10mins").idle(),
    flag("archive_age_max", Kind::Duration, "History goes that is so much older than the newest.").default("4weeks"),
    flag("archive_bytes_max", Kind::Bytes, "History goes, the oldest first, beyond so many bytes of archive.")
        .default("10GB"),
    flag(
        "authenticate_agents",
        Kind::Bool,
        "Agents must show a principal of --credentials and its secret (their --credential), or a token; without --credentials, the \
         cluster's secret alone, and then there may be no --insecure.",
    )
    .default("false")
    .aliases(&["authenticate_slaves"]),
    flag(
        "authenticate_frameworks",
        Kind::Bool,
        "Of the older drivers' protocol, which is not spoken: true needs --authenticate_http_frameworks beside it.",
    )
    .default("false")
    .aliases(&["authenticate"]),
    flag("authenticate_http_frameworks", Kind::Bool, "Frameworks must show a principal of --credentials and its secret.")
        .default("false"),
    flag("authenticate_http_readonly", Kind::Bool, "Whoever reads must show a principal of --credentials and its secret.")
        .default("false"),
    flag(
        "authenticate_http_readwrite",
        Kind::Bool,
        "Whoever calls /api/v1 or changes something must show a principal of --credentials and its secret.",
    )
    .default("false")
    .aliases(&["authenticate_http"]),
    flag("authentication_v0_timeout", Kind::Duration, "there is nothing to wait for.").default("15secs").idle(),
    flag("authenticators", Kind::Text, "Of the older protocol: as it is.").default("crammd5"),
    flag("authorizers", Kind::Text, "Who decides by --acls: local.").default("local"),
    flag("cluster", Kind::Text, "The cluster's name, shown to people."),
    flag(
        "cluster_secret",
        Kind::Path,
        "file:///PATH of the cluster's secret, one a line: masters, agents and commands show that they know it. The first is shown, \
         each is taken.",
    ),
    flag(
        "credentials",
        Kind::Path,
        "A file (/PATH or file:///PATH) of principals and their secrets, as {\"credentials\": [{\"principal\": \"P\", \"secret\": \
         \"S\"}]} or a line P S for each; a secret may be a hash that `meseta auth hash` makes. Read again on SIGHUP.",
    ),
    flag("domain", Kind::Content, "The fault domain of the masters, as JSON."),
    flag("external_log_file", Kind::Path, "A log that something else writes, served as /master/log."),
    flag("fair_sharing_excluded_resource_names", Kind::Text, "Names that do not count in shares: NAME,NAME,..."),
    flag(
        "feature_level_max",
        Kind::Int,
        "Highest feature level that the cluster is raised to while this master is a member; else the highest it reads.",
    ),
    flag("filter_gpu_resources", Kind::Bool, "Offers agents with GPUs only to frameworks that know them.")
        .default("true"),
    flag("firewall_rules", Kind::Content, "Not built yet."),
    flag("framework_sorter", Kind::Text, "How frameworks of a role are sorted: drf or random.").default("drf"),
    flag("hooks", Kind::Text, "Modules are not supported."),
    flag("hostname", Kind::Text, "Name told to clients instead of the one that was found."),
    flag("hostname_lookup", Kind::Bool, "Whether to look for a name at all; otherwise the address is it.")
        .default("true"),
    flag("http_authenticators", Kind::Text, "How operators show who they are: basic.").default("basic"),
    flag("http_framework_authenticators", Kind::Text, "How frameworks show who they are: basic."),
    flag("initialize_driver_logging", Kind::Bool, "there are no drivers.").default("true").idle(),
    flag(
        "insecure",
        Kind::Bool,
        "Lets in whoever does not show that it knows the cluster's secret, or that there is none.",
    )
    .default("false"),
    flag("ip", Kind::Text, "Address to listen on; every one if not given.").variable("LIBPROCESS_IP"),
    flag("ip_discovery_command", Kind::Text, "Not built yet."),
    flag("join", Kind::Text, "HOST:PORT of a master of a running cluster; this one waits to be added to it."),
    flag(
        "jwt_secret_key",
        Kind::Path,
        "A file with the key of bearer tokens (JWT, HS256); the claim `sub` names the principal. Taken wherever secrets are.",
    ),
    flag("log_auto_initialize", Kind::Bool, "An empty log forms as --masters says.").default("true"),
    flag("log_dir", Kind::Path, "The log goes to meseta-master.log in this folder too, served as /master/log."),
    flag("log_format", Kind::Text, "As what the log is written: text, json (one object a line), or journald (fields).").default("text"),
    flag("logbufsecs", Kind::Int, "the log is not buffered.").default("0").idle(),
    flag("logging_level", Kind::Text, "Lowest level that is logged: INFO, WARNING or ERROR.").default("INFO"),
    flag("master_contender", Kind::Text, "Modules are not supported."),
    flag("master_detector", Kind::Text, "Modules are not supported."),
    flag("masters", Kind::Text, "host:port of every master of the quorum, this one included, on each the same list."),
    flag(
        "max_agent_ping_timeouts",
        Kind::Int,
        "So many unanswered pings end an agent's connection; as long again, and it is unreachable.",
    )
    .default("5")
    .aliases(&["max_slave_ping_timeouts"]),
    flag(
        "max_completed_frameworks",
        Kind::Int,
        "Removed frameworks that are remembered, at least the last one; the leader's flag counts.",
    )
    .default("50"),
    flag(
        "max_completed_tasks_per_framework",
        Kind::Int,
        "Ended tasks of a framework that are remembered; the leader's flag counts.",
    )
    .default("1000"),
    flag("max_connections", Kind::Int, "Connections at once; else three quarters of the files that may be open."),
    flag("max_connections_per_address", Kind::Int, "How many of them one address may have; else nearly half."),
    flag("max_executors_per_agent", Kind::Int, "Not built yet.").aliases(&["max_executors_per_slave"]),
    flag("max_operator_event_stream_subscribers", Kind::Int, "1000 may watch a master.").default("1000").idle(),
    flag(
        "max_unreachable_tasks_per_framework",
        Kind::Int,
        "Only its default is taken: unreachable tasks are remembered as long as their agents may return.",
    )
    .default("1000"),
    flag("memory_profiling", Kind::Bool, "Not built yet.").default("false"),
    flag("min_allocatable_resources", Kind::Text, "An offer has at least one of these: NAME:AMOUNT;...|...")
        .default("cpus:0.01|mem:32"),
    flag("modules", Kind::Content, "Modules are not supported."),
    flag("modules_dir", Kind::Path, "Modules are not supported."),
    flag(
        "offer_constraints_re2_max_mem",
        Kind::Bytes,
        "Memory of RE2 for a regular expression in offer constraints; the leader's flag counts.",
    )
    .default("4KB"),
    flag(
        "offer_constraints_re2_max_program_size",
        Kind::Int,
        "Instructions of RE2's program of a regular expression in offer constraints; the leader's flag counts.",
    )
    .default("100"),
    flag("offer_timeout", Kind::Duration, "Offers are taken back after so long."),
    flag(
        "otlp_endpoint",
        Kind::Text,
        "http://HOST:PORT of a collector that takes spans of calls, decisions and records by OTLP over HTTP; they go to /v1/traces there.",
    ),
    flag("port", Kind::Int, "Port to listen on; 0 lets the system choose.").default("5050").variable("LIBPROCESS_PORT"),
    flag("publish_per_framework_metrics", Kind::Bool, "Whether metrics tell of single frameworks.").default("true"),
    flag("quiet", Kind::Bool, "Logs nothing to stderr; to --log_dir it does.").default("false"),
    flag("quorum", Kind::Int, "The majority of --masters is the quorum: nothing else may be given."),
    flag(
        "raft_trailing_logs",
        Kind::Int,
        "So many entries stay in the log behind a snapshot, for masters that are behind.",
    )
    .default("10000"),
    flag(
        "rate_limits",
        Kind::Content,
        "How fast frameworks may call, by principal: RateLimits as JSON, or file:///PATH of it.",
    ),
    flag(
        "recovery_agent_removal_limit",
        Kind::Text,
        "If more of all agents do not return after an election, none of them is given up and the master ends, for somebody to look.",
    )
    .default("100%")
    .aliases(&["recovery_slave_removal_limit"]),
    flag("registry", Kind::Text, "Where the truth is: the replicated log.").default("replicated_log"),
    flag("registry_fetch_timeout", Kind::Duration, "the registry is this log.").default("1mins").idle(),
    flag("registry_gc_interval", Kind::Duration, "Between two looks of the leader for what is to be forgotten.")
        .default("15mins"),
    flag(
        "registry_max_agent_age",
        Kind::Duration,
        "An agent that is unreachable for longer is forgotten, with its tasks.",
    )
    .default("2weeks"),
    flag(
        "registry_max_agent_count",
        Kind::Int,
        "So many unreachable agents are remembered, those that were lost last.",
    )
    .default("102400"),
    flag("registry_store_timeout", Kind::Duration, "the registry is this log.").default("20secs").idle(),
    flag("registry_strict", Kind::Bool, "Mesos refuses it too.").default("false"),
    flag("require_agent_domain", Kind::Bool, "Only agents that say where they are may register.").default("false"),
    flag("restore", Kind::Path, "A saved snapshot: makes a new work_dir from it, for this master alone, and exits."),
    flag("role_sorter", Kind::Text, "How roles are sorted: drf or random.").default("drf").aliases(&["user_sorter"]),
    flag("roles", Kind::Text, "The only roles that there may be, beside *: ROLE,ROLE,... (Mesos says: deprecated.)"),
    flag("root_submissions", Kind::Bool, "Whether frameworks may run as root.").default("true"),
    flag("snapshot_bytes", Kind::Bytes, "A snapshot is taken after so many bytes of log.").default("256MB"),
    flag("version", Kind::Bool, "Prints the version and exits.").default("false"),
    flag("webui_dir", Kind::Path, "there is no web interface yet.").default("/usr/share/mesos/webui").idle(),
    flag(
        "weights",
        Kind::Text,
        "Weights of a cluster in which none was set: ROLE=WEIGHT,... (Mesos says: deprecated; see `meseta weights`.)",
    ),
    flag("whitelist", Kind::Path, "A file of hosts, one a line: only their agents are offered. It may change."),
    flag("work_dir", Kind::Path, "Where this master's part of the log is kept.").required(),
    flag("zk", Kind::Text, "There is no ZooKeeper: use --masters."),
    flag("zk_session_timeout", Kind::Duration, "there is no ZooKeeper.").default("10secs").idle(),
];

/// A flag that would change what is safe or allowed, if it were not ignored: it may only have this value.
pub(super) const ONLY: &[(&str, &str)] = &[
    ("authenticators", "crammd5"),
    ("authorizers", "local"),
    ("http_authenticators", "basic"),
    ("http_framework_authenticators", "basic"),
    ("log_auto_initialize", "true"),
    ("memory_profiling", "false"),
    ("registry", "replicated_log"),
    ("registry_strict", "false"),
    ("root_submissions", "true"),
];

/// The same for flags without a default: they must not be given.
pub(super) const NEVER: &[&str] = &[
    "firewall_rules",
    "hooks",
    "ip_discovery_command",
    "master_contender",
    "master_detector",
    "max_executors_per_agent",
    "modules",
    "modules_dir",
];
