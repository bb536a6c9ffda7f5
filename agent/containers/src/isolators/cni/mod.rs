//! `network/cni`: containers join networks that somebody configured, by their names. A network of its own is made before the container
//! is, so that its process finds it ready; what was made is in a folder, by which any agent takes it back.
//!
//! ```text
//! DIR/CONTAINER/ns                          its network, mounted: there as long as this is
//! DIR/CONTAINER/users                       its users, mounted, if it has some of its own: the network is theirs
//! DIR/CONTAINER/{hosts,hostname,resolv.conf}
//! DIR/CONTAINER/NETWORK/network.conf        what its plugins were told
//! DIR/CONTAINER/NETWORK/IFNAME/network.info what they answered
//! ```

mod config;
mod plugin;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use api::v1::network_info::{IpAddress, Protocol};
use api::v1::{ContainerStatus, NetworkInfo};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use supervisor::spec::Namespace;

pub use self::config::read_answer;
use self::config::{Given, load};
use self::plugin::About;
use super::linux::{enter, is_session, own};
use super::{Isolator, netns};
use crate::container::{Container, Usage};
use crate::containerizer::Creation;
use crate::dns::{Dns, DnsOfNetworks};

/// How `network/cni` is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniSettings {
    /// Folder of the networks' configurations; none if containers can join none.
    pub configs: Option<PathBuf>,
    /// Folders of plugins.
    pub plugins: Vec<PathBuf>,
    /// Folder of what is kept of containers.
    pub dir: PathBuf,
    /// Whether what went through their interfaces is told.
    pub metrics: bool,
    /// Where names are looked for in networks whose plugins do not say it.
    pub dns: DnsOfNetworks,
}

/// A network that a container joined.
#[derive(Clone, Debug)]
struct Joined {
    info: NetworkInfo,
    given: Given,
}

/// `network/cni`
#[derive(Debug)]
pub struct NetworkCni {
    settings: CniSettings,
    /// Of containers with networks of their own.
    joined: Mutex<BTreeMap<String, Vec<Joined>>>,
}

/// The file of users.
const USERS: &str = "users";

impl NetworkCni {
    /// Knows no container yet.
    pub fn new(settings: &CniSettings) -> NetworkCni {
        NetworkCni { settings: settings.clone(), joined: Mutex::default() }
    }

    /// Looks at what is configured.
    ///
    /// # Errors
    /// A sentence: it cannot be used.
    pub fn check(settings: &CniSettings) -> Result<(), String> {
        if let Some(dir) = &settings.configs {
            let (found, wrong) = load(dir, &settings.plugins)?;
            wrong.iter().for_each(|why| tracing::error!(why, "a network is not used"));
            tracing::info!(networks = ?found.keys().collect::<Vec<_>>(), "networks that containers can join");
            let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(&settings.dir);
            made.map_err(|error| format!("Cannot make {}: {error}", settings.dir.display()))?;
        }
        Ok(())
    }

    fn dir(&self, container_id: &str) -> PathBuf {
        self.settings.dir.join(container_id)
    }

    /// The container whose network one is in: its own, or the nearest around it that has one.
    fn network_of(&self, container_id: &str) -> Option<String> {
        let joined = self.joined.lock();
        let mut at = Some(container_id);
        while let Some(id) = at {
            if joined.contains_key(id) {
                return Some(id.to_owned());
            }
            at = id.rsplit_once('.').map(|(parent, _)| parent);
        }
        None
    }

    /// Makes a network of the container's own, and joins those that it asks for.
    fn join(&self, creation: &Creation, wanted: Vec<NetworkInfo>) -> Result<Vec<Joined>, String> {
        let id = &creation.container.id;
        let Some(configs) = &self.settings.configs else {
            return Err("networks of containers need --network_cni_config_dir and --network_cni_plugins_dir".to_owned());
        };
        // Read again: a network that was configured meanwhile is there.
        let (found, _) = load(configs, &self.settings.plugins)?;
        let dir = self.dir(id);
        let cannot = |what: &str, error: &dyn std::fmt::Display| format!("cannot {what} of its network: {error}");
        let made = fs::DirBuilder::new().mode(0o711).create(&dir);
        made.map_err(|error| cannot("make the folder", &error))?;
        let namespace = dir.join("ns");
        let users = creation.world.users.filter(|_| !creation.container.is_within());
        let made = match users {
            None => netns::make(&namespace, supervisor::sys::raise_loopback),
            Some(users) => netns::make_of(users, &namespace, &dir.join(USERS), supervisor::sys::raise_loopback),
        };
        made.map_err(|error| cannot("make the namespace", &error))?;
        let mut joined: Vec<Joined> = Vec::new();
        for (n, info) in wanted.into_iter().enumerate() {
            let name = info.name();
            let network = found.get(name).ok_or_else(|| format!("Unknown CNI network '{name}'"))?;
            if joined.iter().any(|one| one.info.name() == name) {
                return Err(format!("Attempted to join CNI network '{name}' multiple times"));
            }
            let (interface, told) = (format!("eth{n}"), network.told(&info));
            let folder = dir.join(&network.name).join(&interface);
            // First, so that whatever was begun is taken back.
            let written = fs::create_dir_all(&folder)
                .and_then(|()| fs::write(folder.with_file_name("network.conf"), serde_json::to_vec(&told)?));
            written.map_err(|error| cannot("write down the plugins", &error))?;
            let about = About {
                container_id: id,
                namespace: Some(&namespace),
                interface: &interface,
                dirs: &self.settings.plugins,
            };
            let answer = plugin::add(&told, about)
                .map_err(|why| format!("cannot attach container to CNI network '{name}': {why}"))?;
            let written = serde_json::to_vec(&answer).map_err(io::Error::from);
            let written = written.and_then(|answer| fs::write(folder.join("network.info"), answer));
            written.map_err(|error| cannot("write down the addresses", &error))?;
            joined.push(Joined { given: Given::read(&answer), info });
        }
        Ok(joined)
    }

    /// Leaves all networks of a container, and what is kept of it goes.
    fn leave(&self, container_id: &str) -> Result<(), String> {
        let dir = self.dir(container_id);
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(|error| error.to_string())?,
        };
        let namespace = dir.join("ns");
        let is_there = netns::is_there(&namespace);
        let mut failures: Vec<String> = Vec::new();
        for network in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
            let read = |path: &Path| fs::read(path).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
            let told: Option<Vec<Map<String, Value>>> = read(&network.join("network.conf"))
                .and_then(|told| told.as_array()?.iter().map(|one| one.as_object().cloned()).collect());
            let interfaces = fs::read_dir(&network).into_iter().flatten().flatten().map(|entry| entry.path());
            for interface in interfaces.filter(|path| path.is_dir()) {
                let answer = read(&interface.join("network.info")).unwrap_or(Value::Null);
                let name = interface.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let about = About {
                    container_id,
                    namespace: Some(namespace.as_path()).filter(|_| is_there),
                    interface: &name,
                    dirs: &self.settings.plugins,
                };
                let Some(told) = &told else { continue };
                failures.extend(plugin::delete(told, &answer, about).err());
            }
        }
        if let Some(why) = failures.into_iter().next() {
            return Err(why);
        }
        let gone = || -> io::Result<()> {
            netns::remove(&namespace)?;
            netns::remove(&dir.join(USERS))?;
            fs::remove_dir_all(&dir)
        };
        gone().map_err(|error| error.to_string())
    }
}

impl Isolator for NetworkCni {
    fn name(&self) -> &'static str {
        "network/cni"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        let id = creation.container.id.clone();
        let info = creation.container.info.clone().unwrap_or_default();
        let wanted: Vec<NetworkInfo> = info.network_infos.into_iter().filter(|one| one.name.is_some()).collect();
        if wanted.is_empty() || is_session(creation) {
            if info.hostname.is_some() {
                return Err("a hostname needs a network of the container's own: a NetworkInfo with a name".to_owned());
            }
            let Some(owner) = self.network_of(&id) else {
                if creation.world.root.is_some() {
                    // The machine's network, and its names.
                    netns::mount_names(creation, &self.dir(&id));
                }
                return Ok(());
            };
            enter(creation, Namespace::Net);
            enter(creation, Namespace::Uts);
            listen_anywhere(creation);
            if is_session(creation) {
                enter(creation, Namespace::Mount);
            } else {
                netns::mount_names(creation, &self.dir(&owner));
            }
            return Ok(());
        }
        let hostname = info.hostname.unwrap_or_else(|| id.rsplit('.').next().unwrap_or_default().to_owned());
        let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        if hostname.is_empty() || hostname.len() > 64 || !hostname.chars().all(is_plain) {
            return Err(format!("'{hostname}' is no hostname: up to 64 letters, digits and .-_ are"));
        }
        let joined = self.join(creation, wanted)?;
        let dir = self.dir(&id);
        let address = joined.iter().find_map(|one| one.given.ip4.clone());
        let hosts = format!(
            "{} localhost\n{}",
            Ipv4Addr::LOCALHOST,
            address.map_or(String::new(), |ip| format!("{ip} {hostname}\n"))
        );
        let mut dns = Dns::default();
        for one in &joined {
            let said = (!one.given.dns.nameservers.is_empty()).then_some(&one.given.dns);
            said.or_else(|| self.settings.dns.of(one.info.name())).into_iter().for_each(|said| dns.extend(said));
        }
        let resolver = dns.resolver();
        for (name, text) in
            [("hosts", Some(hosts)), ("hostname", Some(format!("{hostname}\n"))), ("resolv.conf", resolver)]
        {
            let Some(text) = text else { continue };
            // Whoever runs there reads it, whatever the mask of this process is.
            let written = fs::write(dir.join(name), text)
                .and_then(|()| fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o644)));
            written.map_err(|error| format!("cannot write the file '{name}' of its network: {error}"))?;
        }
        creation.world.enters.push((Namespace::Net, dir.join("ns").display().to_string()));
        if dir.join(USERS).exists() {
            // Made with its network.
            creation.world.own.retain(|one| *one != Namespace::User);
            creation.world.enters.push((Namespace::User, dir.join(USERS).display().to_string()));
        }
        own(creation, Namespace::Uts);
        creation.world.hostname = Some(hostname);
        listen_anywhere(creation);
        self.joined.lock().insert(id.clone(), joined);
        netns::mount_names(creation, &self.dir(&id));
        Ok(())
    }

    fn recover(&self, container: &Container) {
        let dir = self.dir(&container.id);
        if !dir.is_dir() {
            return;
        }
        let infos = container.info.iter().flat_map(|info| &info.network_infos).filter(|one| one.name.is_some());
        let joined = infos.enumerate().map(|(n, info)| {
            let answer = fs::read(dir.join(info.name()).join(format!("eth{n}")).join("network.info"));
            let answer = answer.ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or(Value::Null);
            Joined { info: info.clone(), given: Given::read(&answer) }
        });
        self.joined.lock().insert(container.id.clone(), joined.collect());
    }

    fn sweep(&self, known: &BTreeSet<String>) {
        if self.settings.configs.is_none() {
            return;
        }
        for entry in fs::read_dir(&self.settings.dir).into_iter().flatten().flatten() {
            let container_id = entry.file_name().to_string_lossy().into_owned();
            if known.contains(&container_id) {
                continue;
            }
            match self.leave(&container_id) {
                Ok(()) => tracing::warn!(
                    container_id,
                    "took back the network of a container that this agent's log does not know"
                ),
                Err(why) => tracing::error!(container_id, why, "cannot take back the network of a container"),
            }
        }
    }

    fn usage(&self, container: &Container, _: &[supervisor::processes::Process], usage: &mut Usage) {
        let has_own = self.settings.metrics && self.joined.lock().contains_key(&container.id);
        let Some(process) = container.process.as_ref().filter(|_| has_own) else { return };
        let Ok(table) = fs::read_to_string(format!("/proc/{}/net/dev", process.pid)) else { return };
        let sum = |column: usize| -> u64 {
            let of_interface = |line: &str| -> Option<u64> {
                let (name, numbers) = line.split_once(':')?;
                (name.trim().starts_with("eth")).then(|| numbers.split_whitespace().nth(column)?.parse().ok())?
            };
            table.lines().filter_map(of_interface).sum()
        };
        (usage.net_rx_bytes, usage.net_rx_packets) = (Some(sum(0)), Some(sum(1)));
        (usage.net_rx_errors, usage.net_rx_dropped) = (Some(sum(2)), Some(sum(3)));
        (usage.net_tx_bytes, usage.net_tx_packets) = (Some(sum(8)), Some(sum(9)));
        (usage.net_tx_errors, usage.net_tx_dropped) = (Some(sum(10)), Some(sum(11)));
    }

    fn status(&self, container_id: &str, status: &mut ContainerStatus) {
        let Some(owner) = self.network_of(container_id) else { return };
        let joined = self.joined.lock();
        let address = |ip: &Option<String>, protocol: Protocol| {
            ip.clone().map(|ip| IpAddress { protocol: Some(protocol as i32), ip_address: Some(ip) })
        };
        let one = |one: &Joined| {
            let (ip4, ip6) = (address(&one.given.ip4, Protocol::IPv4), address(&one.given.ip6, Protocol::IPv6));
            NetworkInfo { ip_addresses: ip4.into_iter().chain(ip6).collect(), ..one.info.clone() }
        };
        status.network_infos = joined.get(&owner).into_iter().flatten().map(one).collect();
    }

    fn cleanup(&self, container: &Container) {
        if self.settings.configs.is_none() {
            return;
        }
        self.joined.lock().remove(&container.id);
        if let Err(why) = self.leave(&container.id) {
            tracing::error!(
                container_id = container.id,
                why,
                "cannot take back the network of a container; tried again at the next start"
            );
        }
    }
}

/// The machine's address is none of its own.
fn listen_anywhere(creation: &mut Creation) {
    creation.environment.retain(|variable| !variable.starts_with("LIBPROCESS_IP="));
    creation.environment.push("LIBPROCESS_IP=0.0.0.0".to_owned());
}
