//! `linux/seccomp`: which system calls the processes of a container may make, by a profile as Docker writes them: that of
//! `--seccomp_profile_name`, or the one that a container asks for by its name in `--seccomp_config_dir`, or none.
//!
//! The filter is made here and applied by the supervisor as the last thing before exec: nothing but exec has to be allowed for it.

mod filter;
mod profile;

use std::fs;
use std::path::{Component, Path, PathBuf};

use api::v1::SeccompInfo;
use profile::Profile;

use super::Isolator;
use crate::containerizer::Creation;

/// How it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeccompSettings {
    /// Folder of profiles.
    folder: PathBuf,
    /// That of containers that ask for none.
    default: Option<Profile>,
    kernel: (u32, u32),
}

impl SeccompSettings {
    /// Reads the profile of containers that ask for none, if there is to be one.
    ///
    /// # Errors
    /// A sentence.
    pub fn open(folder: &Path, default: Option<&str>) -> Result<SeccompSettings, String> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok().and_then(|text| profile::version(&text));
        let kernel = kernel.unwrap_or_default();
        let mut settings = SeccompSettings { folder: folder.to_owned(), default: None, kernel };
        settings.default = default.map(|name| settings.read(name)).transpose()?;
        if let Some(profile) = &settings.default {
            filter::filter(profile, own_bounding())
                .map_err(|why| format!("--seccomp_profile_name={}: {why}", default.unwrap_or_default()))?;
        }
        Ok(settings)
    }

    /// A profile by its name. The error is a sentence.
    fn read(&self, name: &str) -> Result<Profile, String> {
        let wrong = |why: String| format!("the profile of system calls '{name}' cannot be used: {why}");
        let path = Path::new(name);
        if name.is_empty() || path.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(wrong("its name is no path below --seccomp_config_dir".to_owned()));
        }
        let path = self.folder.join(path);
        let metadata = fs::metadata(&path).map_err(|error| wrong(error.to_string()))?;
        if !metadata.is_file() || metadata.len() > profile::BYTES_MAX {
            return Err(wrong(format!("it is no file of at most {}", api::size::format(profile::BYTES_MAX))));
        }
        let text = fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
        let profile = Profile::parse(&text, self.kernel).map_err(wrong)?;
        if !profile.unknown.is_empty() {
            let names = profile.unknown.join(", ");
            tracing::warn!(
                name,
                "a profile allows system calls that this release does not know, so that they stay denied: {names}"
            );
        }
        Ok(profile)
    }
}

/// What a process here may ever have, a bit for each capability.
fn own_bounding() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}

/// `linux/seccomp`
#[derive(Clone, Debug)]
pub struct LinuxSeccomp(pub SeccompSettings);

impl Isolator for LinuxSeccomp {
    fn name(&self) -> &'static str {
        "linux/seccomp"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        let info = creation.container.info.as_ref().and_then(|info| info.linux_info.as_ref()?.seccomp.clone());
        let asked;
        let profile = match info {
            None => self.0.default.as_ref(),
            Some(SeccompInfo { profile_name: Some(_), unconfined: Some(true) }) => {
                return Err("a container is to be unconfined in its system calls, and has a profile of them".to_owned());
            }
            Some(SeccompInfo { profile_name: Some(name), .. }) => {
                asked = self.0.read(&name)?;
                Some(&asked)
            }
            Some(SeccompInfo { unconfined: Some(true), .. }) => None,
            Some(_) => return Err("a container asks for a profile of system calls, and does not name it".to_owned()),
        };
        if let Some(profile) = profile {
            let bounding = creation.world.bounding.unwrap_or_else(own_bounding);
            creation.world.filter = filter::filter(profile, bounding)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::filter::tests::asked;
    use super::*;

    const AMD64: u32 = 0xc000_003e;
    const X86: u32 = 0x4000_0003;
    const ALLOWED: u32 = 0x7fff_0000;
    const DENIED: u32 = 0x0005_0001;
    const SYS_ADMIN: u64 = 1 << 21;

    const PROFILE: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
            {"architecture": "SCMP_ARCH_S390X", "subArchitectures": ["SCMP_ARCH_S390"]}
        ],
        "syscalls": [
            {"names": ["read", "write", "open", "close", "stat"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}, "excludes": {}},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 0, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 4294967295, "op": "SCMP_CMP_EQ"}]},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
             "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390", "s390x"]}},
            {"names": ["clone", "mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
            {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
            {"names": ["arm_fadvise64_64", "s390_pci_mmio_read", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["keyctl"], "action": "SCMP_ACT_KILL_PROCESS"}
        ]
    }"#;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_profile_is_what_is_done_with_each_call() {
        let profile = Profile::parse(PROFILE, (6, 1)).unwrap();
        assert_eq!(profile.unknown, ["no_such_call"]);
        let (plain, strong) = (filter::filter(&profile, 0).unwrap(), filter::filter(&profile, SYS_ADMIN).unwrap());
        let none = [0; 6];
        let first = |value| [value, 0, 0, 0, 0, 0];
        for (what, architecture, number, arguments, expected) in [
            ("read", AMD64, 0, none, ALLOWED),
            ("close", AMD64, 3, none, ALLOWED),
            ("stat", AMD64, 4, none, ALLOWED),
            ("fstat", AMD64, 5, none, DENIED),
            ("the last", AMD64, 0x3fff_ffff, none, DENIED),
            ("read of x86", X86, 3, none, ALLOWED),
            ("exit of x86", X86, 1, none, DENIED),
            ("read of x32", AMD64, 0x4000_0000, none, 0x0005_0026),
            ("read of arm", 0x4000_0028, 3, none, 0x8000_0000),
            ("personality", AMD64, 135, none, ALLOWED),
            ("personality", AMD64, 135, first(0xffff_ffff), ALLOWED),
            ("personality", AMD64, 135, first(0x1_ffff_ffff), DENIED),
            ("personality of x86", X86, 136, first(8), DENIED),
            ("fork by clone", AMD64, 56, first(17), ALLOWED),
            ("clone with CLONE_NEWUSER", AMD64, 56, first(0x1000_0000), DENIED),
            ("clone3", AMD64, 435, none, 0x0005_0026),
            ("mount", AMD64, 165, none, DENIED),
            ("ptrace", AMD64, 101, none, ALLOWED),
            ("bpf", AMD64, 321, none, DENIED),
            ("arch_prctl", AMD64, 158, none, ALLOWED),
            ("keyctl", AMD64, 250, none, 0x8000_0000),
        ] {
            assert_eq!(asked(&plain, architecture, number, arguments), expected, "{what} {arguments:x?}");
        }
        assert_eq!(asked(&strong, AMD64, 56, first(0x1000_0000)), ALLOWED);
        assert_eq!(asked(&strong, AMD64, 165, none), ALLOWED);
        assert_eq!(asked(&strong, AMD64, 435, none), DENIED);
    }

    #[test]
    fn what_a_profile_may_not_be_is_said() {
        let rule = |rule: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{rule}]}}"#);
        for (text, why) in [
            ("{}".to_owned(), "missing field `defaultAction`"),
            (r#"{"defaultAction": "SCMP_ACT_MAYBE"}"#.to_owned(), "'SCMP_ACT_MAYBE' is no action"),
            (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#.to_owned(), "'SCMP_ACT_NOTIFY' is not supported"),
            (rule(r#"{"names": [], "action": "SCMP_ACT_ALLOW"}"#), "a rule names no system call"),
            (
                rule(r#"{"names": ["raed"], "action": "SCMP_ACT_KILL"}"#),
                "'raed' is no system call that this release knows",
            ),
            (
                rule(
                    r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}"#,
                ),
                "in the rule for read: a call has no argument 6",
            ),
            (
                rule(
                    r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_IS"}]}"#,
                ),
                "'SCMP_CMP_IS' is no comparison",
            ),
            (
                rule(
                    r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_GT"}, {"index": 0, "value": 9, "op": "SCMP_CMP_LT"}]}"#,
                ),
                "argument 0 has two conditions",
            ),
            (
                rule(r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["SYS_ADMIN"]}}"#),
                "'SYS_ADMIN' is no capability",
            ),
            (
                rule(r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["vax"]}}"#),
                "'vax' is no architecture",
            ),
            (
                rule(r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"moon": "full"}}"#),
                "unknown field `moon`",
            ),
        ] {
            let said = Profile::parse(&text, (6, 1)).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn profiles_are_files_of_their_folder() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("p.json"), PROFILE).unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        let settings = SeccompSettings::open(dir.path(), Some("p.json")).unwrap();
        assert!(settings.default.is_some());
        for (name, why) in [
            ("", "no path below"),
            ("../p.json", "no path below"),
            ("/etc/passwd", "no path below"),
            ("folder", "no file of at most 1MB"),
            ("none.json", "No such file"),
        ] {
            let said = settings.read(name).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        assert!(SeccompSettings::open(dir.path(), Some("none.json")).is_err());
        let isolator = LinuxSeccomp(settings);
        let prepared = |info: Option<SeccompInfo>| {
            let linux_info = Some(api::v1::LinuxInfo { seccomp: info, ..Default::default() });
            let info = Some(Box::new(api::v1::ContainerInfo { linux_info, ..Default::default() }));
            let container = crate::container::Container { id: "a".into(), info, ..Default::default() };
            let mut creation = Creation { container, ..Creation::default() };
            isolator.prepare(&mut creation).map(|()| !creation.world.filter.is_empty())
        };
        let asked =
            |name: Option<&str>, unconfined| Some(SeccompInfo { profile_name: name.map(str::to_owned), unconfined });
        assert_eq!(prepared(None), Ok(true));
        assert_eq!(prepared(asked(Some("p.json"), None)), Ok(true));
        assert_eq!(prepared(asked(None, Some(true))), Ok(false));
        for wrong in [asked(Some("p.json"), Some(true)), asked(None, Some(false)), asked(Some("x"), None)] {
            assert!(prepared(wrong).is_err());
        }
    }
}
