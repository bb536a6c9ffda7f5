//! Profiles of system calls as Docker writes them: what is done with a call by its name and its arguments, for processes with some
//! capabilities and for some architectures, and what is done with all others.

use std::collections::BTreeMap;

use api::v1::capability_info::Capability;
use serde::Deserialize;

use super::filter::{Action, Architecture, Condition, Operator};

/// Larger is none that anybody wrote.
pub(super) const BYTES_MAX: u64 = 1 << 20;
/// The number of the first capability, as the schema counts.
const FIRST_CAPABILITY: i32 = 1000;
/// What a call is answered if a profile does not say.
const EPERM: u16 = 1;
const ARGUMENTS: u32 = 6;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    /// As profiles were written before there were several names.
    name: Option<String>,
    action: String,
    errno_ret: Option<u16>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Case>,
    #[serde(default)]
    excludes: Option<Case>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// When a rule is meant, or when it is not. What else it may depend on is not passed over.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// A profile, checked: whoever it is for, it can be a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) default: Action,
    /// Those whose calls are looked at; calls of others end the process.
    pub(super) architectures: Vec<Architecture>,
    rules: Vec<Meant>,
    /// Names that no architecture here has: rules that allow them allow nothing.
    pub(super) unknown: Vec<String>,
}

/// A rule that is meant on this machine, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Meant {
    names: Vec<String>,
    action: Action,
    conditions: Vec<Condition>,
    /// Only for who may have all of these capabilities.
    includes: u64,
    /// Only for who may have none of these.
    excludes: u64,
}

/// What is done with one call: the first whose conditions are met.
pub(super) type Cases = Vec<(Vec<Condition>, Action)>;

fn action(text: &str, errno: Option<u16>) -> Result<Action, String> {
    Ok(match text {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_ERRNO" => Action::Errno(errno.unwrap_or(EPERM)),
        "SCMP_ACT_TRACE" => Action::Trace(errno.unwrap_or(EPERM)),
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_NOTIFY" => return Err("'SCMP_ACT_NOTIFY' is not supported: nobody would be told".to_owned()),
        other => return Err(format!("'{other}' is no action")),
    })
}

fn condition(argument: &Argument) -> Result<Condition, String> {
    let Argument { index, value, value_two, op } = argument;
    if *index >= ARGUMENTS {
        return Err(format!("a call has no argument {index}"));
    }
    let (operator, mask, value) = match op.as_str() {
        "SCMP_CMP_EQ" => (Operator::Equal, u64::MAX, *value),
        "SCMP_CMP_NE" => (Operator::NotEqual, u64::MAX, *value),
        "SCMP_CMP_LT" => (Operator::Less, u64::MAX, *value),
        "SCMP_CMP_LE" => (Operator::LessOrEqual, u64::MAX, *value),
        "SCMP_CMP_GT" => (Operator::Greater, u64::MAX, *value),
        "SCMP_CMP_GE" => (Operator::GreaterOrEqual, u64::MAX, *value),
        "SCMP_CMP_MASKED_EQ" => (Operator::Equal, *value, *value_two),
        other => return Err(format!("'{other}' is no comparison")),
    };
    Ok(Condition { index: *index, operator, mask, value })
}

fn capabilities(case: &Case) -> Result<u64, String> {
    let names = case.caps.iter().flatten();
    names.into_iter().try_fold(0, |set, name| {
        let found =
            name.strip_prefix("CAP_").and_then(Capability::from_str_name).map(|one| one as i32 - FIRST_CAPABILITY);
        let number = found.filter(|number| (0..64).contains(number));
        number.map(|number| set | 1 << number).ok_or_else(|| format!("'{name}' is no capability"))
    })
}

/// The names of architectures as Go has them.
const ARCHES: [&str; 17] = [
    "386",
    "amd64",
    "arm",
    "arm64",
    "mips",
    "mips64",
    "mips64n32",
    "mipsel",
    "mipsel64",
    "mipsel64n32",
    "ppc",
    "ppc64le",
    "riscv64",
    "s390",
    "s390x",
    "x32",
    "x86",
];

/// Whether a machine of these architectures, or of this kernel, is meant; none if nothing is said.
fn fits(case: &Case, kernel: (u32, u32)) -> Result<Option<bool>, String> {
    let mut fits = None;
    if let Some(arches) = &case.arches {
        let known = |name: &&String| !ARCHES.contains(&name.as_str());
        if let Some(unknown) = arches.iter().find(known) {
            return Err(format!("'{unknown}' is no architecture"));
        }
        fits = Some(arches.iter().any(|name| name == Architecture::NATIVE.go_name()));
    }
    if let Some(least) = &case.min_kernel {
        let least = version(least).ok_or_else(|| format!("'{least}' is no version of a kernel"))?;
        fits = Some(fits.unwrap_or(true) && kernel >= least);
    }
    Ok(fits)
}

/// Major and minor version.
pub(super) fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

impl Profile {
    /// Reads one, for a machine with this kernel. The error is a sentence without its beginning.
    pub(super) fn parse(text: &str, kernel: (u32, u32)) -> Result<Profile, String> {
        let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let default = action(&file.default_action, file.default_errno_ret)?;
        let mut architectures = vec![Architecture::NATIVE];
        let mut add = |name: &str| -> Result<(), String> {
            if !name.starts_with("SCMP_ARCH_") {
                return Err(format!("'{name}' is no architecture"));
            }
            // Others than those that this machine executes need not be looked at.
            if let Some(found) = Architecture::named(name)
                && !architectures.contains(&found)
            {
                architectures.push(found);
            }
            Ok(())
        };
        for one in &file.arch_map {
            if Architecture::named(&one.architecture) == Some(Architecture::NATIVE) {
                one.sub_architectures.iter().flatten().try_for_each(|name| add(name))?;
            }
        }
        file.architectures.iter().try_for_each(|name| add(name))?;
        let (mut rules, mut unknown) = (Vec::new(), Vec::new());
        for rule in file.syscalls {
            let names: Vec<String> = rule.names.into_iter().chain(rule.name).collect();
            let of =
                |why: String| format!("in the rule for {}: {why}", names.first().map_or("nothing", String::as_str));
            if names.is_empty() {
                return Err("a rule names no system call".to_owned());
            }
            let action = action(&rule.action, rule.errno_ret).map_err(of)?;
            let (includes, excludes) = (rule.includes.unwrap_or_default(), rule.excludes.unwrap_or_default());
            let conditions: Vec<Condition> =
                rule.args.iter().flatten().map(condition).collect::<Result<_, _>>().map_err(of)?;
            if let Some(twice) = (0..ARGUMENTS).find(|n| conditions.iter().filter(|one| one.index == *n).count() > 1) {
                return Err(of(format!("argument {twice} has two conditions; make two rules of it")));
            }
            let meant = Meant {
                names: names.clone(),
                action,
                conditions,
                includes: capabilities(&includes).map_err(of)?,
                excludes: capabilities(&excludes).map_err(of)?,
            };
            let is_included = fits(&includes, kernel).map_err(of)?.unwrap_or(true);
            let is_excluded = fits(&excludes, kernel).map_err(of)?.unwrap_or(false);
            if !is_included || is_excluded {
                continue;
            }
            for name in &names {
                match Architecture::is_known_anywhere(name) {
                    true => {}
                    // What is not known cannot be kept from anybody; not to allow it keeps it.
                    false if matches!(action, Action::Allow | Action::Log) => unknown.push(name.clone()),
                    false => return Err(of(format!("'{name}' is no system call that this release knows"))),
                }
            }
            rules.push(meant);
        }
        Ok(Profile { default, architectures, rules, unknown })
    }

    /// What is done with calls, by their numbers, for processes that may have these capabilities. A rule without conditions is the
    /// only one for its calls, the first of several: so does the library that Mesos and Docker use.
    pub(super) fn calls(&self, architecture: Architecture, bounding: u64) -> BTreeMap<u32, Cases> {
        let mut calls: BTreeMap<u32, Cases> = BTreeMap::new();
        for rule in &self.rules {
            if rule.includes & !bounding != 0 || rule.excludes & bounding != 0 {
                continue;
            }
            for number in rule.names.iter().filter_map(|name| architecture.number(name)) {
                let cases = calls.entry(number).or_default();
                let is_whole = |cases: &Cases| cases.first().is_some_and(|(conditions, _)| conditions.is_empty());
                match (is_whole(cases), rule.conditions.is_empty()) {
                    (true, _) => {}
                    (false, true) => *cases = vec![(Vec::new(), rule.action)],
                    (false, false) => cases.push((rule.conditions.clone(), rule.action)),
                }
            }
        }
        calls
    }
}
