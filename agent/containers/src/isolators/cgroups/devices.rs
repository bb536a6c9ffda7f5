//! `cgroups/devices`: which devices a container may use, whoever it is and whatever files it has: a few that harm nobody, and those
//! of `--allowed_devices`. The first version has a list in each group, the second a program that the kernel asks.
//!
//! What is within another container may use no more than that one: the first version does not let it be listed, and in the second
//! both programs are asked.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use api::v1::DeviceAccess;
use supervisor::cgroup;
use supervisor::sys::bpf;

use super::{controllers, join, own};
use crate::cgroups::{Cgroups, Version};
use crate::container::Container;
use crate::containerizer::Creation;
use crate::isolators::Isolator;

/// Devices, and what may be done with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// A block device, or else a character device.
    pub is_block: bool,
    /// None is any.
    pub major: Option<u32>,
    /// None is any.
    pub minor: Option<u32>,
    /// Read from.
    pub read: bool,
    /// Written to.
    pub write: bool,
    /// Made.
    pub make: bool,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        let letter = |is: bool, letter| if is { letter } else { "" };
        let (kind, major, minor) = (if self.is_block { 'b' } else { 'c' }, number(self.major), number(self.minor));
        let (read, write, make) = (letter(self.read, "r"), letter(self.write, "w"), letter(self.make, "m"));
        write!(f, "{kind} {major}:{minor} {read}{write}{make}")
    }
}

const fn character(major: u32, minor: Option<u32>) -> Rule {
    Rule { is_block: false, major: Some(major), minor, read: true, write: true, make: true }
}

const fn made(is_block: bool) -> Rule {
    Rule { is_block, major: None, minor: None, read: false, write: false, make: true }
}

/// What any container may use, as Mesos has it. Files of any device may be made: to use them is another matter.
const ALWAYS: [Rule; 14] = [
    made(false),
    made(true),
    // console, tty0, tty1, pts, ptmx, net/tun
    character(5, Some(1)),
    character(4, Some(0)),
    character(4, Some(1)),
    character(136, None),
    character(5, Some(2)),
    character(10, Some(200)),
    // null, zero, full, tty, urandom, random
    character(1, Some(3)),
    character(1, Some(5)),
    character(1, Some(7)),
    character(5, Some(0)),
    character(1, Some(9)),
    character(1, Some(8)),
];
/// Of `--allowed_devices`: a program of the kernel has no more than 4096 instructions, eight for each.
const ALLOWED_MAX: usize = 256;

/// What `--allowed_devices` allows. The error is a sentence.
pub fn allowed(devices: &[DeviceAccess]) -> Result<Vec<Rule>, String> {
    if devices.len() > ALLOWED_MAX {
        return Err(format!("there are {}, and no more than {ALLOWED_MAX} can be", devices.len()));
    }
    let one = |one: &DeviceAccess| {
        let path = one.device.path.as_deref().filter(|path| !path.is_empty()).ok_or("a device has no path")?;
        let (read, write, make) = (one.access.read(), one.access.write(), one.access.mknod());
        if !(read || write || make) {
            return Err(format!("nothing may be done with {path}: give it 'read', 'write' or 'mknod'"));
        }
        let metadata = std::fs::metadata(path).map_err(|error| format!("cannot find {path}: {error}"))?;
        let kind = metadata.file_type();
        if !kind.is_block_device() && !kind.is_char_device() {
            return Err(format!("{path} is no device"));
        }
        let (major, minor) = (nix::sys::stat::major(metadata.rdev()), nix::sys::stat::minor(metadata.rdev()));
        let number = |number: u64| u32::try_from(number).map(Some).map_err(|error| error.to_string());
        let (major, minor) = (number(major)?, number(minor)?);
        Ok(Rule { is_block: kind.is_block_device(), major, minor, read, write, make })
    };
    devices.iter().map(one).collect()
}

/// `cgroups/devices`
#[derive(Clone, Debug)]
pub struct CgroupsDevices {
    groups: Cgroups,
    allowed: Vec<Rule>,
}

impl CgroupsDevices {
    /// On these groups, with what is allowed besides.
    pub fn new(groups: &Cgroups, allowed: &[Rule]) -> CgroupsDevices {
        CgroupsDevices { groups: groups.clone(), allowed: allowed.to_vec() }
    }

    fn list(&self, group: &Path) -> Result<(), String> {
        cgroup::set(&group.join("devices.deny"), "a").map_err(|error| format!("cannot deny it devices: {error}"))?;
        let allow = |rule: &Rule| cgroup::set(&group.join("devices.allow"), &rule.to_string());
        for rule in &ALWAYS {
            match allow(rule) {
                // What is around it has it not; so then has it neither.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                allowed => allowed.map_err(|error| format!("cannot allow it the devices {rule}: {error}"))?,
            }
        }
        let allow = |rule| allow(rule).map_err(|error| format!("cannot allow it the devices {rule}: {error}"));
        self.allowed.iter().try_for_each(allow)
    }
}

impl CgroupsDevices {
    /// Lets a container use these, too, and none of `others`: what any may use stays. Nothing for one that is limited with what it is
    /// within. The error is a sentence.
    pub(in crate::isolators) fn grant(
        &self,
        container: &Container,
        wanted: &[Rule],
        others: &[Rule],
    ) -> Result<(), String> {
        let controller = controllers(self.name(), self.groups.version())[0];
        let Some(group) = own(&self.groups, controller, container) else { return Ok(()) };
        let cannot = |rule: &Rule| format!("cannot change what it may do with the devices {rule}");
        match self.groups.version() {
            Version::First => {
                let set = |file: &str, rule: &Rule| {
                    cgroup::set(&group.join(file), &rule.to_string())
                        .map_err(|error| format!("{}: {error}", cannot(rule)))
                };
                others.iter().try_for_each(|rule| set("devices.deny", rule))?;
                wanted.iter().try_for_each(|rule| set("devices.allow", rule))
            }
            Version::Second => {
                let rules: Vec<Rule> = ALWAYS.iter().chain(&self.allowed).chain(wanted).copied().collect();
                bpf::load_device_program(&program(&rules))
                    .and_then(|program| bpf::replace_device_programs(&File::open(&group)?, &program))
                    .map_err(|error| format!("cannot change which devices it may use: {error}"))
            }
        }
    }
}

impl Isolator for CgroupsDevices {
    fn name(&self) -> &'static str {
        "cgroups/devices"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        let Some(group) = join(&self.groups, self.name(), creation)? else { return Ok(()) };
        match self.groups.version() {
            Version::First => self.list(&group),
            Version::Second => {
                let rules: Vec<Rule> = ALWAYS.iter().chain(&self.allowed).copied().collect();
                bpf::load_device_program(&program(&rules))
                    .and_then(|program| bpf::attach_device_program(&File::open(&group)?, &program))
                    .map_err(|error| format!("cannot limit its devices: {error}"))
            }
        }
    }
}

/// Whether this kernel takes programs on devices from this process.
///
/// # Errors
/// A sentence.
pub(super) fn check() -> Result<(), String> {
    bpf::load_device_program(&program(&[])).map(drop).map_err(|error| {
        format!("it needs a kernel with CONFIG_CGROUP_BPF, and CAP_SYS_ADMIN or CAP_BPF and CAP_NET_ADMIN: bpf(2) says {error}")
    })
}

const R0: u64 = 0;
const R1: u64 = 1;
/// Whether it is a block device or a character device.
const KIND: u64 = 2;
/// What is to be done with it.
const ACCESS: u64 = 3;
const MAJOR: u64 = 4;
const MINOR: u64 = 5;

const KIND_BLOCK: u32 = 1;
const KIND_CHARACTER: u32 = 2;
const ACCESS_MAKE: u32 = 1;
const ACCESS_READ: u32 = 2;
const ACCESS_WRITE: u32 = 4;

/// An instruction as the kernel has it: operation, target, source, distance, number.
fn instruction(operation: u8, target: u64, source: u64, distance: i16, number: u32) -> u64 {
    u64::from(operation) | target << 8 | source << 12 | u64::from(distance as u16) << 16 | u64::from(number) << 32
}

/// The program that says yes to what one of the rules allows.
///
/// It is told of three numbers: what is to be done, shifted by 16, and the kind of the device; and the device's own two.
fn program(rules: &[Rule]) -> Vec<u64> {
    const LOAD: u8 = 0x61;
    const COPY: u8 = 0xbc;
    const SHIFT_RIGHT: u8 = 0x74;
    const AND: u8 = 0x54;
    const SET: u8 = 0xb4;
    const UNLESS_EQUAL: u8 = 0x55;
    const UNLESS_EQUAL_TO: u8 = 0x5d;
    const END: u8 = 0x95;
    let mut all = vec![
        instruction(LOAD, KIND, R1, 0, 0),
        instruction(COPY, ACCESS, KIND, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD, MAJOR, R1, 4, 0),
        instruction(LOAD, MINOR, R1, 8, 0),
    ];
    for rule in rules {
        let kind = if rule.is_block { KIND_BLOCK } else { KIND_CHARACTER };
        let access = [(rule.make, ACCESS_MAKE), (rule.read, ACCESS_READ), (rule.write, ACCESS_WRITE)];
        let access = access.into_iter().filter(|(is, _)| *is).fold(0, |all, (_, one)| all | one);
        // Each leads behind the rule if it is not met.
        let mut tests = vec![(UNLESS_EQUAL, KIND, 0, kind), (UNLESS_EQUAL_TO, R1, ACCESS, 0)];
        tests.extend(rule.major.map(|major| (UNLESS_EQUAL, MAJOR, 0, major)));
        tests.extend(rule.minor.map(|minor| (UNLESS_EQUAL, MINOR, 0, minor)));
        let mut left = tests.len() as i16 + 3;
        for (n, (operation, target, source, number)) in tests.into_iter().enumerate() {
            if n == 1 {
                // What is to be done, without what may be done, is nothing.
                all.push(instruction(COPY, R1, ACCESS, 0, 0));
                all.push(instruction(AND, R1, 0, 0, access));
                left -= 2;
            }
            all.push(instruction(operation, target, source, left, number));
            left -= 1;
        }
        all.push(instruction(SET, R0, 0, 0, 1));
        all.push(instruction(END, 0, 0, 0, 0));
    }
    all.push(instruction(SET, R0, 0, 0, 0));
    all.push(instruction(END, 0, 0, 0, 0));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::v1::{Device, device_access::Access};

    /// What the kernel would do with these instructions, of which there are few.
    fn asked(program: &[u64], rule: Rule) -> bool {
        let access = u32::from(rule.make) | u32::from(rule.read) << 1 | u32::from(rule.write) << 2;
        let kind = if rule.is_block { KIND_BLOCK } else { KIND_CHARACTER };
        let told = [access << 16 | kind, rule.major.unwrap(), rule.minor.unwrap()];
        let (mut registers, mut at) = ([0u32; 11], 0usize);
        loop {
            let one = program[at];
            let (target, source) = ((one >> 8 & 15) as usize, (one >> 12 & 15) as usize);
            let (distance, number) = (usize::from((one >> 16) as u16), (one >> 32) as u32);
            at += 1;
            match one as u8 {
                0x61 => registers[target] = told[distance / 4],
                0xbc => registers[target] = registers[source],
                0x74 => registers[target] >>= number,
                0x54 => registers[target] &= number,
                0xb4 => registers[target] = number,
                0x55 if registers[target] != number => at += distance,
                0x5d if registers[target] != registers[source] => at += distance,
                0x55 | 0x5d => {}
                0x95 => return registers[0] == 1,
                other => panic!("{other:x}"),
            }
        }
    }

    #[test]
    fn a_program_allows_what_its_rules_do() {
        let own = Rule { is_block: true, major: Some(8), minor: Some(1), read: true, write: false, make: false };
        let program = program(&ALWAYS.iter().copied().chain([own]).collect::<Vec<_>>());
        let rule = |is_block, major, minor, what: &str| Rule {
            is_block,
            major: Some(major),
            minor: Some(minor),
            read: what.contains('r'),
            write: what.contains('w'),
            make: what.contains('m'),
        };
        for allowed in [
            rule(false, 1, 3, "rw"),
            rule(false, 136, 77, "rwm"),
            rule(true, 8, 1, "r"),
            rule(true, 8, 0, "m"),
            rule(false, 250, 1, "m"),
        ] {
            assert!(asked(&program, allowed), "{allowed}");
        }
        for denied in [
            rule(true, 8, 1, "w"),
            rule(true, 8, 1, "rw"),
            rule(true, 8, 0, "r"),
            rule(true, 1, 3, "r"),
            rule(false, 1, 1, "r"),
            rule(false, 8, 1, "r"),
            rule(false, 10, 229, "rm"),
        ] {
            assert!(!asked(&program, denied), "{denied}");
        }
    }

    #[test]
    fn what_is_allowed_besides_is_there_and_a_device() {
        let device = |path: Option<&str>, read| DeviceAccess {
            device: Device { path: path.map(str::to_owned), number: None },
            access: Access { read: Some(read), ..Access::default() },
        };
        let found = allowed(&[device(Some("/dev/kmsg"), true), device(Some("/dev/full"), true)]).unwrap();
        assert_eq!(found.iter().map(Rule::to_string).collect::<Vec<_>>(), ["c 1:11 r", "c 1:7 r"]);
        for (device, why) in [
            (device(None, true), "has no path"),
            (device(Some("/dev/null"), false), "nothing may be done with /dev/null"),
            (device(Some("/no/such"), true), "cannot find /no/such"),
            (device(Some("/"), true), "/ is no device"),
        ] {
            let said = allowed(&[device]).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
