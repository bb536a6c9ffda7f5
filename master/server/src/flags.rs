//! The flags of `meseta-master`: from words to [`Settings`].

pub(crate) mod allocator;
mod table;

pub use allocator::AllocatorSettings;
pub use table::FLAGS;

use crate::context::Ping;
use crate::identity::Address;
use crate::rehearsal::Rehearsal;
use crate::roles::RoleSettings;
use crate::run::{Forgetting, Settings};
use crate::throttle::RateLimits;
use crate::traces::Endpoint;
use api::flags::{Values, parse};
use api_http::{Audit, Secret, Sources, TokenSources, tls, tokens};
use auth::Realm;
use event_log::raft::ArchiveBounds;
use master_core::state::History;
use master_core::{FeatureLevel, RegexLimits};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// The log's name in `--log_dir`.
pub const LOG_FILE: &str = "meseta-master.log";

/// Identities of agents are good for no less.
const IDENTITY_LIFE_MIN: Duration = Duration::from_secs(10);

/// What the command line asks for.
#[derive(Debug)]
pub enum Asked {
    /// `--help`: this text.
    Help(String),
    /// `--version`.
    Version,
    /// To run.
    Run(Box<Flags>),
}

/// Flags that were understood.
#[derive(Debug)]
pub struct Flags {
    values: Values,
    /// Where to listen, unless a socket was inherited.
    pub listen: SocketAddr,
    /// The lowest level that is logged.
    pub log_level: tracing::Level,
    /// As what it is logged.
    pub log_format: api_http::LogFormat,
    rehearsal: Rehearsal,
}

/// Reads the words behind the program's name.
///
/// # Errors
/// One sentence.
pub fn read(words: Vec<String>, environment: impl Fn(&str) -> Option<String>) -> Result<Asked, String> {
    if words.iter().any(|word| word == "--version" || word == "--version=true") {
        return Ok(Asked::Version);
    }
    let rehearsal = Rehearsal::from_environment(&environment)?;
    let idle = api::flags::surroundings(&[], &environment)?;
    let flags = [FLAGS, tls::FLAGS, tokens::FLAGS].concat();
    let environment = tls::old_names(environment);
    let mut values =
        parse(&flags, words, environment, |path| std::fs::read_to_string(path)).map_err(|error| error.to_string())?;
    if values.help {
        return Ok(Asked::Help(api::flags::help("meseta-master --work_dir=DIR [flags]", &flags)));
    }
    refuse_unbuilt(&values)?;
    values.warnings.extend(idle);
    let without_tls = tls::idle(&values);
    values.warnings.extend(without_tls);
    let ip = match values.text("ip") {
        Some(text) => text.parse().map_err(|_| format!("--ip is not an address: '{text}'"))?,
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let port = values.int("port").unwrap_or(5050);
    let port = u16::try_from(port).map_err(|_| format!("--port is not a port: {port}"))?;
    for name in ["max_connections", "max_connections_per_address"] {
        if values.int(name).is_some_and(|count| count < 1) {
            return Err(format!("--{name} is a number of connections, from 1"));
        }
    }
    let log_level = match values.text("logging_level") {
        Some("WARNING") => tracing::Level::WARN,
        Some("ERROR") => tracing::Level::ERROR,
        Some("INFO") | None => tracing::Level::INFO,
        Some(other) => return Err(format!("--logging_level is INFO, WARNING or ERROR, not '{other}'")),
    };
    let log_format = api_http::LogFormat::parse(values.text("log_format"))?;
    Ok(Asked::Run(Box::new(Flags { values, listen: SocketAddr::new(ip, port), log_level, log_format, rehearsal })))
}

/// Nothing that would make the cluster less open than it is may be ignored silently.
fn refuse_unbuilt(values: &Values) -> Result<(), String> {
    if values.is_given("zk") {
        return Err("--zk: there is no ZooKeeper here, name the masters by --masters=HOST:PORT,HOST:PORT,...".into());
    }
    if let Some(count) = values.int("max_unreachable_tasks_per_framework").filter(|count| *count != 1000) {
        return Err(format!(
            "--max_unreachable_tasks_per_framework={count}: unreachable tasks are remembered as long as their agents may \
             return, since whoever forgets one would kill it then; --registry_max_agent_age and --registry_max_agent_count \
             say how long and how many agents: only the default, 1000, is taken"
        ));
    }
    for (name, only) in table::ONLY {
        if let Some(value) = values.text(name).filter(|value| value != only) {
            return Err(format!("--{name}={value} is not built yet: only --{name}={only} is"));
        }
    }
    match table::NEVER.iter().find(|name| values.is_given(name)) {
        Some(name) => Err(format!("--{name} is not built yet: start without it")),
        None => Ok(()),
    }
}

impl Flags {
    /// Sentences about names that are no longer used.
    pub fn warnings(&self) -> &[String] {
        &self.values.warnings
    }

    /// Where the log goes.
    ///
    /// # Errors
    /// One sentence.
    pub fn log(&self) -> Result<api_http::Log, String> {
        api_http::Log::open(!self.values.bool("quiet"), self.log_file().as_deref())
    }

    fn log_file(&self) -> Option<std::path::PathBuf> {
        self.values.path("log_dir").map(|dir| dir.join(LOG_FILE))
    }

    /// How many connections there may be at once, if that was chosen.
    pub fn connections_max(&self) -> Option<usize> {
        self.values.int("max_connections").and_then(|count| usize::try_from(count).ok())
    }

    /// How many of them may come from one address, if that was chosen.
    pub fn address_connections_max(&self) -> Option<usize> {
        self.values.int("max_connections_per_address").and_then(|count| usize::try_from(count).ok())
    }

    /// The snapshot that a new work_dir is to be made from, if that is asked for.
    pub fn restore(&self) -> Option<std::path::PathBuf> {
        self.values.path("restore")
    }

    /// What they mean for a master that listens at `bound`.
    ///
    /// # Errors
    /// One sentence.
    pub fn settings(&self, bound: SocketAddr) -> Result<Settings, String> {
        let address = self.address(bound)?;
        let masters = match self.values.text("masters") {
            Some(list) => list.split(',').map(|member| member.trim().to_owned()).collect(),
            None => vec![address.member.clone()],
        };
        let join = self.values.text("join").map(|address| address.trim().to_owned());
        if join.is_some() && self.values.is_given("masters") {
            return Err("--masters forms a new cluster and --join waits for a running one: give one of them".into());
        }
        if let (Some(quorum), true) = (self.values.int("quorum"), join.is_none()) {
            let majority = masters.len() / 2 + 1;
            if usize::try_from(quorum) != Ok(majority) {
                return Err(format!(
                    "--quorum={quorum} is not the majority of --masters, {majority}, which is the quorum"
                ));
            }
        }
        let is_address = |text: &String| {
            text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        if let Some(join) = join.as_ref().filter(|join| !is_address(join)) {
            return Err(format!("--join={join} is no HOST:PORT of a running master"));
        }
        let every = self.values.duration("agent_ping_timeout").unwrap_or(Duration::from_secs(15));
        let misses = self.values.int("max_agent_ping_timeouts").unwrap_or(5);
        let misses_max = u32::try_from(misses).ok().filter(|misses| *misses > 0);
        let allocation_interval = self.values.duration("allocation_interval").unwrap_or(Duration::from_secs(1));
        if every.is_zero() || allocation_interval.is_zero() {
            return Err("--agent_ping_timeout and --allocation_interval must be longer than nothing".into());
        }
        let told = self.values.iter().filter(|(name, _)| tls::is_told(&self.values, name));
        let mut reported: std::collections::BTreeMap<String, String> =
            told.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        reported.insert("help".into(), "false".into());
        reported.insert("hostname".into(), address.hostname.clone());
        reported.insert("port".into(), bound.port().to_string());
        Ok(Settings {
            work_dir: self.values.path("work_dir").ok_or("--work_dir is required")?,
            address,
            listen: bound,
            secret: self.secret()?,
            tls: tls::Tls::load(tls::Settings::read(&self.values, true)?.asking_members())?,
            insecure: self.values.bool("insecure"),
            masters,
            join,
            flags: reported,
            ping: Ping { every, misses_max: misses_max.ok_or("--max_agent_ping_timeouts must be at least 1")? },
            allocation_interval,
            allocator: allocator::read(&self.values)?,
            feature_level_max: self.feature_level_max()?,
            archive: self.archive(),
            snapshot_bytes: self.values.bytes("snapshot_bytes").unwrap_or(256 << 20).max(1),
            trailing_logs: self.trailing_logs()?,
            forgetting: self.forgetting()?,
            identity_life: self.identity_life()?,
            regex: self.regex()?,
            rate_limits: self.values.text("rate_limits").map(RateLimits::read).transpose()?.unwrap_or_default(),
            roles: RoleSettings::read(self.values.text("roles"), self.values.text("weights"))?,
            otlp: self.values.text("otlp_endpoint").map(Endpoint::read).transpose()?,
            rehearsal: self.rehearsal,
        })
    }

    fn forgetting(&self) -> Result<Forgetting, String> {
        let default = Forgetting::default();
        let count = |name: &str, default: u32| -> Result<u32, String> {
            let Some(count) = self.values.int(name) else { return Ok(default) };
            u32::try_from(count).map_err(|_| format!("--{name}={count} is a number of things, from 0"))
        };
        let every = self.values.duration("registry_gc_interval").unwrap_or(default.every);
        if every.is_zero() {
            return Err("--registry_gc_interval must be longer than nothing".into());
        }
        let reregister = self.values.duration("agent_reregister_timeout").unwrap_or(REREGISTER_MIN);
        if reregister < REREGISTER_MIN {
            let least = api::duration::format(REREGISTER_MIN);
            return Err(format!("--agent_reregister_timeout must be at least {least}: agents need time to come back"));
        }
        Ok(Forgetting {
            every,
            removal_pace: self.values.text("agent_removal_rate_limit").map(removal_pace).transpose()?,
            recovery_limit_millipercent: removal_limit(self.values.text("recovery_agent_removal_limit"))?,
            // Unless somebody wants it, agents have the time of their pings.
            reregister: if self.values.is_given("agent_reregister_timeout") { reregister } else { Duration::ZERO },
            unreachable_age_max: self.values.duration("registry_max_agent_age").unwrap_or(default.unreachable_age_max),
            unreachable_max: count("registry_max_agent_count", 102_400)? as usize,
            history: History {
                frameworks: count("max_completed_frameworks", default.history.frameworks)?,
                tasks: count("max_completed_tasks_per_framework", default.history.tasks)?,
            },
            ..default
        })
    }

    fn regex(&self) -> Result<RegexLimits, String> {
        let default = RegexLimits::default();
        let name = "offer_constraints_re2_max_program_size";
        let size = self.values.int(name).map_or(Ok(default.program_size_max), u64::try_from);
        Ok(RegexLimits {
            mem_bytes_max: self.values.bytes("offer_constraints_re2_max_mem").unwrap_or(default.mem_bytes_max),
            program_size_max: size.map_err(|_| format!("--{name} is a number of instructions, from 0"))?,
        })
    }

    /// Where refusals are noted: where the log is, or else on the master's disk.
    pub fn audit(&self) -> Audit {
        let folder = self.values.path("log_dir").or_else(|| self.values.path("work_dir"));
        folder.map_or_else(Audit::default, |folder| Audit::at(&folder, "meseta-master.refused"))
    }

    /// Who is let in and what they may, as far as flags say.
    ///
    /// # Errors
    /// One sentence: a flag that asks for protection and has nothing to protect with must not be passed over.
    pub fn sources(&self) -> Result<Sources, String> {
        let credentials = self.values.path("credentials").map(|path| ("credentials", path));
        let frameworks = self.values.bool("authenticate_http_frameworks");
        let asked = [
            ("authenticate_http_readonly", Realm::MasterReadonly),
            ("authenticate_http_readwrite", Realm::MasterReadwrite),
            ("authenticate_http_frameworks", Realm::MasterScheduler),
        ];
        let mut asked: Vec<_> = asked.into_iter().filter(|(flag, _)| self.values.bool(flag)).collect();
        let tokens = TokenSources::of(&self.values)?;
        let agents_join = self.identity_life()?.is_some();
        if self.values.bool("authenticate_agents") {
            if agents_join && !self.values.bool("authenticate_http_readwrite") {
                return Err("--agent_identities needs --authenticate_http_readwrite: whoever reaches this port could mint tokens \
                            for agents"
                    .into());
            }
            if credentials.is_some() || !tokens.is_empty() {
                asked.push(("authenticate_agents", Realm::MasterAgent));
            } else if !self.values.is_given("cluster_secret") && !agents_join {
                return Err(
                    "--authenticate_agents needs principals and their secrets: give --credentials=/PATH, and agents \
                            --credential=/PATH; or --cluster_secret=file:///PATH alone, which all of them show"
                        .into(),
                );
            } else if self.values.bool("insecure") {
                return Err("--insecure lets agents in that show nothing: give it or --authenticate_agents".into());
            }
        }
        if let (Some((flag, _)), None, true) = (asked.first(), &credentials, tokens.is_empty()) {
            return Err(format!(
                "--{flag} needs principals and their secrets: give --credentials=/PATH, or --jwt_key_set=/PATH for tokens"
            ));
        }
        let http_frameworks = self.values.is_given("http_framework_authenticators");
        if frameworks && !http_frameworks {
            let why = "--authenticate_http_frameworks needs --http_framework_authenticators=basic";
            return Err(why.to_owned());
        }
        if self.values.bool("authenticate_frameworks") && !frameworks {
            return Err("--authenticate_frameworks is of the older drivers' protocol, which is not spoken here: frameworks would \
                        come in without a secret, so give --authenticate_http_frameworks, too"
                .into());
        }
        let acls = self.values.text("acls").map(str::to_owned);
        let realms = asked.into_iter().map(|(_, realm)| realm).collect();
        Ok(Sources { credentials, acls, tokens, realms, agents_join })
    }

    /// How long identities of agents are good, if agents have some.
    fn identity_life(&self) -> Result<Option<Duration>, String> {
        if !self.values.bool("agent_identities") {
            return Ok(None);
        }
        if !self.values.bool("authenticate_agents") {
            return Err(
                "--agent_identities is about agents that say who they are: give --authenticate_agents, too".into()
            );
        }
        let life = self.values.duration("agent_identity_life").unwrap_or_default();
        if life < IDENTITY_LIFE_MIN {
            let least = api::duration::format(IDENTITY_LIFE_MIN);
            return Err(format!("--agent_identity_life must be at least {least}: agents need time to make another"));
        }
        Ok(Some(life))
    }

    fn secret(&self) -> Result<Option<Secret>, String> {
        let read = self.values.text("cluster_secret").map(Secret::read).transpose();
        read.map_err(|error| event_log::sentence(&error))
    }

    fn archive(&self) -> ArchiveBounds {
        let default = ArchiveBounds::default();
        let age_ms_max = self.values.duration("archive_age_max");
        ArchiveBounds {
            bytes_max: self.values.bytes("archive_bytes_max").unwrap_or(default.bytes_max),
            age_ms_max: age_ms_max.map_or(default.age_ms_max, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    fn trailing_logs(&self) -> Result<u64, String> {
        let count = self.values.int("raft_trailing_logs").unwrap_or(10_000);
        u64::try_from(count).map_err(|_| format!("--raft_trailing_logs={count} is a number of entries, from 0"))
    }

    fn feature_level_max(&self) -> Result<Option<FeatureLevel>, String> {
        let Some(most) = self.values.int("feature_level_max") else { return Ok(None) };
        let level = u32::try_from(most).ok().filter(|level| *level >= FeatureLevel::FIRST.0);
        let level = level.ok_or_else(|| format!("--feature_level_max is not a feature level: {most}"))?;
        Ok(Some(FeatureLevel(level)))
    }

    fn address(&self, bound: SocketAddr) -> Result<Address, String> {
        let ip = match self.values.text("advertise_ip") {
            Some(text) => match text.parse::<IpAddr>() {
                Ok(ip) if ip.is_unspecified() => {
                    return Err(format!("--advertise_ip={ip} is every address and none that others could reach"));
                }
                Ok(ip) => ip,
                Err(_) => return Err(format!("--advertise_ip is not an address: '{text}'")),
            },
            None if bound.ip().is_unspecified() => own_ip(),
            None => bound.ip(),
        };
        let port = match self.values.int("advertise_port") {
            Some(port) => u16::try_from(port).map_err(|_| format!("--advertise_port is not a port: {port}"))?,
            None => bound.port(),
        };
        let hostname = match self.values.text("hostname") {
            Some(name) => name.to_owned(),
            None if self.values.bool("hostname_lookup") => name_of(ip),
            None => ip.to_string(),
        };
        let plain = SocketAddr::new(ip, port).to_string();
        let member = match self.values.text("masters") {
            None => plain,
            Some(list) => {
                let named = format!("{hostname}:{port}");
                let own_name = this_host().map(|name| format!("{name}:{port}"));
                let mut listed = list.split(',').map(str::trim);
                let own = |member: &str| {
                    member == plain
                        || member == named
                        || own_name.as_deref() == Some(member)
                        || leads_to(member, ip, port)
                };
                listed
                    .find(|member| own(member))
                    .ok_or_else(|| format!("--masters={list} does not list this master itself, {plain}"))?
                    .to_owned()
            }
        };
        Ok(Address { hostname, is_named: self.values.is_given("hostname"), ip, port, member })
    }
}

/// The least that agents have to come back after an election.
const REREGISTER_MIN: Duration = Duration::from_secs(600);

/// How far apart agents become unreachable: `1/10mins` is one in ten minutes.
fn removal_pace(text: &str) -> Result<Duration, String> {
    let wrong = || format!("--agent_removal_rate_limit={text} is not as 1/10mins: agents, and in how long");
    let (agents, time) = text.split_once('/').ok_or_else(wrong)?;
    let agents = agents.trim().parse::<u32>().ok().filter(|agents| *agents > 0).ok_or_else(wrong)?;
    let time = api::duration::parse(time.trim()).map_err(|_| wrong())?;
    Ok(time / agents)
}

/// The largest part of all agents that may be lost after an election, in thousandths of a percent.
fn removal_limit(text: Option<&str>) -> Result<u32, String> {
    let Some(text) = text else { return Ok(100_000) };
    let wrong = || format!("--recovery_agent_removal_limit={text} is not a part of all agents, from 0% to 100%");
    let percent = text.trim().strip_suffix('%').and_then(|percent| percent.trim().parse::<f64>().ok());
    let percent = percent.filter(|percent| (0.0..=100.0).contains(percent)).ok_or_else(wrong)?;
    Ok((percent * 1000.0).round() as u32)
}

/// Whether `member` is another name of this address.
fn leads_to(member: &str, ip: IpAddr, port: u16) -> bool {
    member.to_socket_addrs().is_ok_and(|mut found| found.any(|it| it.ip() == ip && it.port() == port))
}

fn this_host() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok()
}

/// The address behind this host's name, for a master that listens on every address.
fn own_ip() -> IpAddr {
    let named = this_host().and_then(|name| (name.as_str(), 0).to_socket_addrs().ok());
    let found = named.and_then(|mut found| found.find(SocketAddr::is_ipv4));
    found.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

/// A name that leads back to `ip`, or the address itself.
fn name_of(ip: IpAddr) -> String {
    if ip.is_loopback() {
        return "localhost".into();
    }
    this_host().filter(|name| leads_to(&format!("{name}:0"), ip, 0)).unwrap_or_else(|| ip.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn flags(text: &str) -> Result<Flags, String> {
        match read(words(text), |_| None)? {
            Asked::Run(flags) => Ok(*flags),
            other => Err(format!("{other:?}")),
        }
    }

    fn settings(text: &str) -> Result<Settings, String> {
        flags(text)?.settings("127.0.0.1:5050".parse().unwrap())
    }

    #[test]
    fn agents_are_given_up_at_a_pace_and_after_a_time() {
        let forgetting = |text: &str| settings(&format!("--work_dir=/d --ip=127.0.0.1 {text}")).map(|it| it.forgetting);
        let plain = forgetting("").unwrap();
        assert_eq!((plain.removal_pace, plain.reregister), (None, Duration::ZERO));
        let chosen = forgetting("--agent_removal_rate_limit=2/10mins --agent_reregister_timeout=20mins").unwrap();
        let minutes = |count: u64| Duration::from_secs(60 * count);
        assert_eq!((chosen.removal_pace, chosen.reregister), (Some(minutes(5)), minutes(20)));
        let limit = |text: &str| {
            let read = forgetting(&format!("--recovery_agent_removal_limit={text}"));
            read.map(|chosen| chosen.recovery_limit_millipercent)
        };
        assert_eq!((plain.recovery_limit_millipercent, limit("33.3%")), (100_000, Ok(33_300)));
        for wrong in ["5", "101%", "-1%", "NaN%", "%"] {
            assert!(limit(wrong).unwrap_err().contains("from 0% to 100%"), "{wrong}");
        }
        for wrong in ["0/10mins", "1", "x/1mins", "1/soon"] {
            let why = forgetting(&format!("--agent_removal_rate_limit={wrong}")).unwrap_err();
            assert!(why.contains("is not as 1/10mins"), "{why}");
        }
        assert!(forgetting("--agent_reregister_timeout=5mins").unwrap_err().contains("at least 10mins"));
    }

    #[test]
    fn a_master_alone_is_a_quorum_of_one() {
        let settings = settings("--work_dir=/d --ip=127.0.0.1").unwrap();
        assert_eq!(settings.masters, ["127.0.0.1:5050"]);
        assert_eq!(settings.address.hostname, "localhost");
        assert_eq!(settings.ping.patience(), Duration::from_secs(75));
    }

    #[test]
    fn the_list_of_masters_contains_its_reader_by_any_name() {
        for list in ["127.0.0.1:5050,a:1,b:2", "a:1,localhost:5050"] {
            let settings = settings(&format!("--work_dir=/d --masters={list}")).unwrap();
            assert!(list.contains(&settings.address.member));
        }
        let refused = settings("--work_dir=/d --masters=127.0.0.1:1,127.0.0.1:2").unwrap_err();
        assert!(refused.contains("does not list this master itself, 127.0.0.1:5050"), "{refused}");
    }

    #[test]
    fn what_would_change_safety_is_refused_rather_than_ignored() {
        for bad in [
            "--zk=zk://h/p",
            "--no-root_submissions",
            "--http_authenticators=kerberos",
            "--http_framework_authenticators=x",
            "--authorizers=x",
            "--modules={}",
            "--no-log_auto_initialize",
        ] {
            let refused = flags(&format!("--work_dir=/d {bad}")).unwrap_err();
            assert!(refused.contains("not built yet") || refused.contains("ZooKeeper"), "{refused}");
        }
        assert!(flags("--work_dir=/d --no-authenticate_agents --registry=replicated_log").is_ok());
        assert!(flags("--work_dirr=/d").unwrap_err().contains("work_dir"));
    }

    #[test]
    fn whoever_asks_for_protection_names_what_protects() {
        let sources = |words: &str| flags(&format!("--work_dir=/d {words}")).and_then(|flags| flags.sources());
        for (words, why) in [
            ("--authenticate_http_readonly", "--authenticate_http_readonly needs principals"),
            ("--authenticate_http_readwrite", "give --credentials=/PATH"),
            ("--authenticate", "--authenticate_frameworks is of the older drivers' protocol"),
            ("--authenticate_http_frameworks --credentials=/c", "needs --http_framework_authenticators=basic"),
            ("--authenticate_agents", "--authenticate_agents needs principals and their secrets"),
            ("--authenticate_agents --cluster_secret=file:///s --insecure", "--insecure lets agents in"),
        ] {
            let refused = sources(words).unwrap_err();
            assert!(refused.contains(why), "{words}: {refused}");
        }
        let all = "--authenticate_http_readonly --authenticate_http_readwrite --authenticate_http_frameworks \
                   --http_framework_authenticators=basic --credentials=file:///c --authenticate --acls={}";
        let sources = sources(all).unwrap();
        assert_eq!((sources.realms.len(), sources.acls.as_deref()), (3, Some("{}")));
        assert_eq!(sources.credentials, Some(("credentials", "/c".into())));
        for (more, realms) in [
            ("--credentials=/c", 1),
            ("--jwt_key_set=/k --insecure", 1),
            ("--cluster_secret=file:///s", 0),
            ("--cluster_secret=file:///s --credentials=/c", 1),
        ] {
            let flags = flags(&format!("--work_dir=/d --authenticate_agents {more}")).unwrap();
            assert_eq!(flags.sources().unwrap().realms, vec![Realm::MasterAgent; realms], "{more}");
        }
    }

    #[test]
    fn variables_count_as_flags_do() {
        let read = |name: &str, value: &str| {
            let asked = read(words("--work_dir=/d"), |asked| (asked == name).then(|| value.to_owned()))?;
            match asked {
                Asked::Run(flags) => Ok(*flags),
                other => Err(format!("{other:?}")),
            }
        };
        for (name, value) in
            [("LIBPROCESS_MEMORY_PROFILING", "true"), ("MESETA_MODULES", "{}"), ("LIBPROCESS_IP6", "::1")]
        {
            assert!(read(name, value).unwrap_err().contains("not built yet"), "{name}");
        }
        assert_eq!(read("MESOS_ACLS", "{}").unwrap().sources().unwrap().acls.as_deref(), Some("{}"));
        assert_eq!(read("LIBPROCESS_IP", "127.0.0.9").unwrap().listen.ip().to_string(), "127.0.0.9");
        assert_eq!(read("LIBPROCESS_PORT", "5999").unwrap().listen.port(), 5999);
        assert!(read("MESOS_WEBUI_DIR", "/x").unwrap().warnings()[0].contains("'--webui_dir' has no effect"));
        let advertised = read("LIBPROCESS_ADVERTISE_IP", "0.0.0.0").unwrap();
        let refused = advertised.settings("127.0.0.1:5050".parse().unwrap()).unwrap_err();
        assert!(refused.contains("--advertise_ip=0.0.0.0"), "{refused}");
        assert!(settings("--work_dir=/d --quorum=1").is_ok());
        assert!(settings("--work_dir=/d --quorum=2").unwrap_err().contains("majority"));
    }

    #[test]
    fn what_is_offered_follows_flags() {
        let read = |text: &str| settings(&format!("--work_dir=/d {text}")).map(|settings| settings.allocator);
        let default = read("").unwrap();
        assert_eq!(default, AllocatorSettings::default());
        let chosen = read(
            "--role_sorter=random --offer_timeout=2secs --no-filter_gpu_resources --min_allocatable_resources=cpus:1|gpus:2 \
             --fair_sharing_excluded_resource_names=gpus,tapes --allocator=HierarchicalDRF \
             --domain={\"fault_domain\":{\"region\":{\"name\":\"r\"},\"zone\":{\"name\":\"z\"}}} --require_agent_domain",
        )
        .unwrap();
        assert_eq!(chosen.options.offer_timeout_ms, Some(2000));
        assert!(!chosen.options.filter_gpu_resources && chosen.require_agent_domain);
        assert_eq!(chosen.options.min_allocatable.len(), 2);
        assert_eq!(chosen.options.excluded.len(), 2);
        assert_ne!(chosen.options.role_sorter, chosen.options.framework_sorter);
        assert_eq!(chosen.options.region.as_deref(), Some("r"));
        assert!(read("--min_allocatable_resources=").unwrap().options.min_allocatable.is_empty());
        for (bad, why) in [
            ("--allocator=fifo", "hierarchical"),
            ("--role_sorter=fifo", "drf or random"),
            ("--framework_sorter=fifo", "drf or random"),
            ("--offer_timeout=0secs", "longer than nothing"),
            ("--min_allocatable_resources=cpus", "min_allocatable_resources"),
            ("--require_agent_domain", "--domain"),
            ("--domain={}", "fault_domain"),
            ("--whitelist=/nowhere/at/all", "/nowhere/at/all"),
        ] {
            let refused = read(bad).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn the_page_says_which_flags_there_are() {
        let untaken = api::flags::Untaken { refused: table::NEVER, only: table::ONLY };
        let page = api::flags::page("meseta-master", &[FLAGS, tls::FLAGS, tokens::FLAGS].concat(), &untaken);
        expect_test::expect_file!["../../../docs/flags-master.md"].assert_eq(&page);
    }

    /// What Mesos reports without any flag given, we report with the same values.
    #[test]
    fn defaults_are_reported_as_mesos_reports_them() {
        let reported = settings("--work_dir=/d").unwrap().flags;
        for (name, value) in [
            ("agent_ping_timeout", "15secs"),
            ("agent_reregister_timeout", "10mins"),
            ("allocation_interval", "1secs"),
            ("registry_max_agent_age", "2weeks"),
            ("offer_constraints_re2_max_mem", "4KB"),
            ("recovery_agent_removal_limit", "100%"),
            ("min_allocatable_resources", "cpus:0.01|mem:32"),
            ("help", "false"),
            ("version", "false"),
            ("port", "5050"),
        ] {
            assert_eq!(reported.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert_eq!(reported.get("acls"), None);
    }
}
