//! What a container's process sees of the machine, and what it may do there: `namespaces/pid`, `namespaces/ipc`, `linux/nnp` and
//! `linux/capabilities`. They say what is wanted; the supervisor does it between clone and exec.

use api::v1::linux_info::IpcMode;
use api::v1::{CapabilityInfo, LinuxInfo};
use supervisor::spec::Namespace;

use super::Isolator;
use crate::container::Container;
use crate::containerizer::Creation;

/// How they are configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinuxSettings {
    /// Capabilities of processes that ask for none: a bit for each, by its number.
    pub effective: Option<u64>,
    /// Those that they may ever have.
    pub bounding: Option<u64>,
    /// Size of a `/dev/shm` of its own for which no size is asked.
    pub shm_bytes: Option<u64>,
    /// Outermost containers have shared memory of their own.
    pub no_agent_ipc: bool,
    /// Outermost containers have processes of their own.
    pub no_agent_pid: bool,
}

/// The number of the first capability, as the schema counts.
const FIRST: i32 = 1000;

/// A set of capabilities, a bit for each by its number. The error names one that there is not.
pub fn capabilities(info: &CapabilityInfo) -> Result<u64, String> {
    info.capabilities.iter().try_fold(0, |set, one| match one - FIRST {
        number @ 0..=63 => Ok(set | 1 << number),
        _ => Err("an unknown capability is asked for".to_owned()),
    })
}

fn names(set: u64) -> String {
    let name =
        |number: i32| api::v1::capability_info::Capability::try_from(FIRST + number).map(|one| one.as_str_name());
    let names: Vec<&str> = (0..64).filter(|number| set & (1 << number) != 0).filter_map(|n| name(n).ok()).collect();
    format!("{{{}}}", names.join(", "))
}

fn linux(container: &Container) -> LinuxInfo {
    container.info.as_ref().and_then(|info| info.linux_info.clone()).unwrap_or_default()
}

/// Whether it is of a session: that shows what it is within as that one sees it.
pub(super) fn is_session(creation: &Creation) -> bool {
    creation.streams.is_some_and(|streams| streams.session)
}

pub(super) fn own(creation: &mut Creation, namespace: Namespace) {
    if !creation.world.own.contains(&namespace) {
        creation.world.own.push(namespace);
    }
}

pub(super) fn enter(creation: &mut Creation, namespace: Namespace) {
    if !creation.enters.contains(&namespace) {
        creation.enters.push(namespace);
    }
}

/// `namespaces/pid`
#[derive(Clone, Copy, Debug)]
pub struct NamespacesPid(pub LinuxSettings);

impl Isolator for NamespacesPid {
    fn name(&self) -> &'static str {
        "namespaces/pid"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        let shares = linux(&creation.container).share_pid_namespace();
        let is_within = creation.container.is_within();
        if shares && !is_within && self.0.no_agent_pid {
            return Err("Sharing agent pid namespace with top-level container is not allowed".to_owned());
        }
        if is_within && !creation.world.has_mounts() {
            // What is mounted there, and not here.
            enter(creation, Namespace::Mount);
        }
        if is_within && (shares || is_session(creation)) {
            enter(creation, Namespace::Pid);
        } else if !shares {
            own(creation, Namespace::Pid);
            own(creation, Namespace::Mount);
        }
        Ok(())
    }
}

/// `namespaces/ipc`
#[derive(Clone, Copy, Debug)]
pub struct NamespacesIpc(pub LinuxSettings);

impl Isolator for NamespacesIpc {
    fn name(&self) -> &'static str {
        "namespaces/ipc"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        let info = linux(&creation.container);
        let is_within = creation.container.is_within();
        let is_private = match info.ipc_mode {
            None => false,
            Some(mode) if mode == IpcMode::Private as i32 => true,
            Some(mode) if mode == IpcMode::ShareParent as i32 => false,
            Some(_) => return Err("Unknown IPC mode".to_owned()),
        };
        if info.shm_size.is_some() && !is_private {
            return Err("Only support specifying the size of /dev/shm when the IPC mode is `PRIVATE`".to_owned());
        }
        if is_session(creation) && is_private {
            return Err("Private IPC mode is not supported for DEBUG containers".to_owned());
        }
        if is_within && !creation.world.has_mounts() {
            enter(creation, Namespace::Mount);
        }
        if is_private {
            own(creation, Namespace::Ipc);
            own(creation, Namespace::Mount);
            let asked = info.shm_size.map(|mebibytes| u64::from(mebibytes) << 20);
            creation.world.shm_bytes = Some(asked.or(self.0.shm_bytes).unwrap_or(0));
        } else if is_within {
            enter(creation, Namespace::Ipc);
            if creation.world.has_mounts() {
                // With mounts of its own, what is there is the machine's. Which one it is of is known when it is started.
                creation.world.shm_of = Some(String::new());
            }
        } else if info.ipc_mode.is_none() {
            // As it was before there were modes: its own, but for /dev/shm.
            own(creation, Namespace::Ipc);
        } else if self.0.no_agent_ipc {
            return Err("Sharing agent IPC namespace with top-level container is not allowed".to_owned());
        }
        Ok(())
    }
}

/// `linux/nnp`
#[derive(Clone, Copy, Debug)]
pub struct LinuxNnp;

impl Isolator for LinuxNnp {
    fn name(&self) -> &'static str {
        "linux/nnp"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        creation.world.no_new_privileges = true;
        Ok(())
    }
}

/// `linux/capabilities`
#[derive(Clone, Copy, Debug)]
pub struct LinuxCapabilities(pub LinuxSettings);

impl Isolator for LinuxCapabilities {
    fn name(&self) -> &'static str {
        "linux/capabilities"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        let info = linux(&creation.container);
        #[expect(deprecated, reason = "clients may ask by it")]
        let older = info.capability_info;
        if older.is_some() && info.effective_capabilities.is_some() {
            return Err("Only one of 'capability_info' or 'effective_capabilities' is allowed".to_owned());
        }
        let set = |info: Option<CapabilityInfo>| info.map(|info| capabilities(&info)).transpose();
        let asked = set(info.effective_capabilities.or(older))?;
        let asked_bounding = set(info.bounding_capabilities)?;
        if let (Some(asked), Some(most)) = (asked_bounding, self.0.bounding)
            && asked & !most != 0
        {
            let (asked, most) = (names(asked), names(most));
            return Err(format!("Bounding capabilities '{asked}', but only '{most}' are allowed"));
        }
        let effective = asked.or(self.0.effective);
        let bounding = asked_bounding.or(self.0.bounding).or(effective);
        if let (Some(effective), Some(most)) = (effective, bounding)
            && effective & !most != 0
        {
            let (asked, most) = (names(effective), names(most));
            return Err(format!("Requested capabilities '{asked}', but only '{most}' are allowed"));
        }
        (creation.world.effective, creation.world.bounding) = (effective, bounding);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerizer::Streams;
    use api::v1::ContainerInfo;
    use api::v1::capability_info::Capability;

    fn creation(id: &str, linux_info: LinuxInfo) -> Creation {
        let info = Some(Box::new(ContainerInfo { linux_info: Some(linux_info), ..ContainerInfo::default() }));
        Creation { container: Container { id: id.into(), info, ..Container::default() }, ..Creation::default() }
    }

    fn prepared(isolator: &dyn Isolator, mut creation: Creation) -> Result<Creation, String> {
        isolator.prepare(&mut creation).map(|()| creation)
    }

    #[test]
    fn processes_are_a_containers_own_unless_it_shares_those_around_it() {
        let strict = NamespacesPid(LinuxSettings { no_agent_pid: true, ..LinuxSettings::default() });
        let share = LinuxInfo { share_pid_namespace: Some(true), ..LinuxInfo::default() };
        let own = prepared(&strict, creation("a", LinuxInfo::default())).unwrap();
        assert_eq!((own.world.own, own.enters), (vec![Namespace::Pid, Namespace::Mount], vec![]));
        assert!(prepared(&strict, creation("a", share.clone())).unwrap_err().contains("is not allowed"));
        let lax = NamespacesPid(LinuxSettings::default());
        assert_eq!(prepared(&lax, creation("a", share.clone())).unwrap().world.own, []);
        let inner = prepared(&strict, creation("a.b", share)).unwrap();
        assert_eq!((inner.world.own, inner.enters), (vec![], vec![Namespace::Mount, Namespace::Pid]));
        let streams = Some(Streams { terminal: None, session: true });
        let session = prepared(&strict, Creation { streams, ..creation("a.c", LinuxInfo::default()) }).unwrap();
        assert_eq!((session.world.own, session.enters), (vec![], vec![Namespace::Mount, Namespace::Pid]));
    }

    #[test]
    fn shared_memory_is_a_containers_own_or_that_around_it() {
        let settings = LinuxSettings { no_agent_ipc: true, shm_bytes: Some(5 << 20), ..LinuxSettings::default() };
        let isolator = NamespacesIpc(settings);
        let info = |mode: Option<IpcMode>, shm_size| LinuxInfo {
            ipc_mode: mode.map(|mode| mode as i32),
            shm_size,
            ..LinuxInfo::default()
        };
        let plain = prepared(&isolator, creation("a", info(None, None))).unwrap();
        assert_eq!((plain.world.own, plain.world.shm_bytes), (vec![Namespace::Ipc], None));
        let private = prepared(&isolator, creation("a", info(Some(IpcMode::Private), Some(3)))).unwrap();
        assert_eq!((private.world.own.len(), private.world.shm_bytes), (2, Some(3 << 20)));
        let private = prepared(&isolator, creation("a.b", info(Some(IpcMode::Private), None))).unwrap();
        assert_eq!((private.enters, private.world.shm_bytes), (vec![Namespace::Mount], Some(5 << 20)));
        let shared = prepared(&isolator, creation("a.b", info(Some(IpcMode::ShareParent), None))).unwrap();
        assert_eq!((shared.enters, shared.world.own), (vec![Namespace::Mount, Namespace::Ipc], vec![]));
        for (asked, why) in [
            (info(Some(IpcMode::ShareParent), None), "Sharing agent IPC namespace"),
            (info(None, Some(3)), "when the IPC mode is `PRIVATE`"),
            (info(Some(IpcMode::Unknown), None), "Unknown IPC mode"),
        ] {
            assert!(prepared(&isolator, creation("a", asked)).unwrap_err().contains(why));
        }
    }

    #[test]
    fn capabilities_are_within_what_is_allowed() {
        let of = |all: &[Capability]| CapabilityInfo { capabilities: all.iter().map(|one| *one as i32).collect() };
        let (raw, chown) = (of(&[Capability::NetRaw]), of(&[Capability::Chown, Capability::NetRaw]));
        assert_eq!((capabilities(&raw).unwrap(), capabilities(&chown).unwrap()), (1 << 13, 1 << 13 | 1));
        assert!(capabilities(&of(&[Capability::Unknown])).is_err());
        let isolator =
            |effective, bounding| LinuxCapabilities(LinuxSettings { effective, bounding, ..Default::default() });
        let info = |effective: Option<&CapabilityInfo>, bounding: Option<&CapabilityInfo>| LinuxInfo {
            effective_capabilities: effective.cloned(),
            bounding_capabilities: bounding.cloned(),
            ..LinuxInfo::default()
        };
        let set = |isolator, info| {
            prepared(&isolator, creation("a", info)).map(|creation| (creation.world.effective, creation.world.bounding))
        };
        assert_eq!(set(isolator(None, None), info(None, None)), Ok((None, None)));
        assert_eq!(set(isolator(Some(1), None), info(None, None)), Ok((Some(1), Some(1))));
        assert_eq!(set(isolator(Some(1), Some(3)), info(None, None)), Ok((Some(1), Some(3))));
        assert_eq!(set(isolator(None, None), info(Some(&raw), Some(&chown))), Ok((Some(1 << 13), Some(1 << 13 | 1))));
        let why = set(isolator(None, Some(1)), info(Some(&raw), None)).unwrap_err();
        assert_eq!(why, "Requested capabilities '{NET_RAW}', but only '{CHOWN}' are allowed");
        let why = set(isolator(None, Some(1)), info(None, Some(&raw))).unwrap_err();
        assert_eq!(why, "Bounding capabilities '{NET_RAW}', but only '{CHOWN}' are allowed");
    }
}
