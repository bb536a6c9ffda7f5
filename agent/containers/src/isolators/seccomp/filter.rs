//! Filters of system calls, as the kernel executes them: before every call, a program of a few instructions is told its
//! architecture, its number and its arguments, and says what is to be done. It is classic BPF, which only jumps forward.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::profile::{Cases, Profile};

/// What is done with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    /// Allowed, and told in the kernel's log.
    Log,
    /// It fails with this number.
    Errno(u16),
    /// Whoever traces the process is told this number.
    Trace(u16),
    /// SIGSYS
    Trap,
    KillThread,
    KillProcess,
}

impl Action {
    fn code(self) -> u32 {
        match self {
            Action::Allow => 0x7fff_0000,
            Action::Log => 0x7ffc_0000,
            Action::Errno(number) => 0x0005_0000 | u32::from(number),
            Action::Trace(number) => 0x7ff0_0000 | u32::from(number),
            Action::Trap => 0x0003_0000,
            Action::KillThread => 0,
            Action::KillProcess => 0x8000_0000,
        }
    }
}

/// How arguments are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What an argument of a call has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// Of the argument.
    pub(super) index: u32,
    pub(super) operator: Operator,
    /// The bits that are looked at.
    pub(super) mask: u64,
    pub(super) value: u64,
}

/// Whose numbers of calls they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Architecture {
    Amd64,
    X86,
    Arm64,
    Arm,
}

impl Architecture {
    /// That of this machine.
    pub(super) const NATIVE: Architecture =
        if cfg!(target_arch = "aarch64") { Architecture::Arm64 } else { Architecture::Amd64 };

    /// One that this machine executes, by its name in profiles.
    pub(super) fn named(name: &str) -> Option<Architecture> {
        let found = match name.strip_prefix("SCMP_ARCH_")? {
            "X86_64" => Architecture::Amd64,
            "X86" => Architecture::X86,
            "AARCH64" => Architecture::Arm64,
            "ARM" => Architecture::Arm,
            _ => return None,
        };
        let is_here = match Architecture::NATIVE {
            Architecture::Amd64 | Architecture::X86 => matches!(found, Architecture::Amd64 | Architecture::X86),
            Architecture::Arm64 | Architecture::Arm => matches!(found, Architecture::Arm64 | Architecture::Arm),
        };
        is_here.then_some(found)
    }

    /// As Go calls it.
    pub(super) fn go_name(self) -> &'static str {
        match self {
            Architecture::Amd64 => "amd64",
            Architecture::X86 => "386",
            Architecture::Arm64 => "arm64",
            Architecture::Arm => "arm",
        }
    }

    /// As the kernel tells it to filters.
    fn audit(self) -> u32 {
        match self {
            Architecture::Amd64 => 0xc000_003e,
            Architecture::X86 => 0x4000_0003,
            Architecture::Arm64 => 0xc000_00b7,
            Architecture::Arm => 0x4000_0028,
        }
    }

    /// The number of a call, if it has it.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        let number = match self {
            Architecture::Amd64 => syscalls::x86_64::Sysno::from_str(name).ok()?.id(),
            Architecture::X86 => syscalls::x86::Sysno::from_str(name).ok()?.id(),
            Architecture::Arm64 => syscalls::aarch64::Sysno::from_str(name).ok()?.id(),
            Architecture::Arm => syscalls::arm::Sysno::from_str(name).ok()?.id(),
        };
        u32::try_from(number).ok()
    }

    /// Whether any of these has the call.
    pub(super) fn is_known_anywhere(name: &str) -> bool {
        let all = [Architecture::Amd64, Architecture::X86, Architecture::Arm64, Architecture::Arm];
        // Of machines that this program is not built for.
        let elsewhere =
            ["riscv_flush_icache", "s390_", "spu_", "subpage_prot", "swapcontext", "sync_file_range2", "switch_endian"];
        all.iter().any(|one| one.number(name).is_some()) || elsewhere.iter().any(|start| name.starts_with(start))
    }
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Where the kernel has what it tells.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// Calls of programs with short pointers on long machines have numbers from here on.
const X32: u32 = 0x4000_0000;
const ENOSYS: u16 = 38;
/// The kernel takes no more.
const INSTRUCTIONS_MAX: usize = 4096;

/// Where a comparison leads.
#[derive(Clone, Copy)]
enum To {
    Next,
    /// Behind the condition, which is met.
    Met,
    /// Behind the rule, which is not.
    NotMet,
}

/// As the kernel has it: operation, how many are left out if so and if not, number. In the order of bytes of a machine whose low
/// ones come first.
fn instruction(operation: u16, if_so: u8, if_not: u8, number: u32) -> u64 {
    u64::from(operation) | u64::from(if_so) << 16 | u64::from(if_not) << 24 | u64::from(number) << 32
}

fn answer(action: Action) -> u64 {
    instruction(RETURN, 0, 0, action.code())
}

/// An operation, its number, and, of a comparison, where it leads if so and if not.
type Step = (u16, u32, Option<(To, To)>);

/// The instructions of a condition.
fn steps(condition: &Condition) -> Vec<Step> {
    let Condition { index, operator, mask, value } = *condition;
    let half = |number: u64, high: bool| if high { (number >> 32) as u32 } else { number as u32 };
    let load = |high: bool| {
        let mut all: Vec<Step> = vec![(LOAD, ARGUMENTS + 8 * index + if high { 4 } else { 0 }, None)];
        if half(mask, high) != u32::MAX {
            all.push((AND, half(mask, high), None));
        }
        all
    };
    let compare = |operation: u16, high: bool, so: To, not: To| (operation, half(value, high), Some((so, not)));
    let mut all = load(true);
    let last = match operator {
        Operator::Equal => {
            all.push(compare(IF_EQUAL, true, To::Next, To::NotMet));
            compare(IF_EQUAL, false, To::Met, To::NotMet)
        }
        Operator::NotEqual => {
            all.push(compare(IF_EQUAL, true, To::Next, To::Met));
            compare(IF_EQUAL, false, To::NotMet, To::Met)
        }
        Operator::Greater | Operator::GreaterOrEqual => {
            all.push(compare(IF_GREATER, true, To::Met, To::Next));
            all.push(compare(IF_EQUAL, true, To::Next, To::NotMet));
            let last = if operator == Operator::Greater { IF_GREATER } else { IF_GREATER_OR_EQUAL };
            compare(last, false, To::Met, To::NotMet)
        }
        Operator::Less | Operator::LessOrEqual => {
            all.push(compare(IF_GREATER, true, To::NotMet, To::Next));
            all.push(compare(IF_EQUAL, true, To::Next, To::Met));
            let last = if operator == Operator::Less { IF_GREATER_OR_EQUAL } else { IF_GREATER };
            compare(last, false, To::NotMet, To::Met)
        }
    };
    all.extend(load(false));
    all.push(last);
    all
}

/// The rule of a call: its answer if all conditions are met, or else it goes on behind it. A call has six arguments, so that no
/// distance is larger than the kernel can have it.
fn rule(conditions: &[Condition], action: Action) -> Vec<u64> {
    let each: Vec<_> = conditions.iter().map(steps).collect();
    let end = each.iter().map(Vec::len).sum::<usize>() + 1;
    let (mut all, mut met) = (Vec::new(), 0);
    for steps in each {
        met += steps.len();
        for (operation, number, leads) in steps {
            let behind = all.len() + 1;
            let distance = |to: To| match to {
                To::Next => 0,
                To::Met => (met - behind) as u8,
                To::NotMet => (end - behind) as u8,
            };
            let (so, not) = leads.map_or((0, 0), |(so, not)| (distance(so), distance(not)));
            all.push(instruction(operation, so, not, number));
        }
    }
    all.push(answer(action));
    all
}

/// Goes on behind the next `length` instructions unless what is loaded is `number`.
fn unless_equal(number: u32, length: usize) -> [u64; 2] {
    [instruction(IF_EQUAL, 1, 0, number), instruction(JUMP, 0, 0, length as u32)]
}

/// All calls of an architecture.
fn section(architecture: Architecture, calls: &BTreeMap<u32, Cases>, default: Action) -> Vec<u64> {
    let mut all = vec![instruction(LOAD, 0, 0, NUMBER)];
    if architecture == Architecture::Amd64 {
        all.push(instruction(IF_GREATER_OR_EQUAL, 0, 1, X32));
        all.push(answer(Action::Errno(ENOSYS)));
    }
    let mut calls = calls.iter().peekable();
    while let Some((first, cases)) = calls.next() {
        match cases.as_slice() {
            [(conditions, action)] if conditions.is_empty() => {
                // Those behind it for which the same is done.
                let mut last = *first;
                while let Some((number, _)) = calls.next_if(|(number, next)| **number == last + 1 && *next == cases) {
                    last = *number;
                }
                if last == *first {
                    all.push(instruction(IF_EQUAL, 0, 1, last));
                } else {
                    all.push(instruction(IF_GREATER_OR_EQUAL, 0, 2, *first));
                    all.push(instruction(IF_GREATER, 1, 0, last));
                }
                all.push(answer(*action));
            }
            cases => {
                let rules: Vec<u64> = cases.iter().flat_map(|(conditions, action)| rule(conditions, *action)).collect();
                all.extend(unless_equal(*first, rules.len() + 1));
                all.extend(rules);
                all.push(answer(default));
            }
        }
    }
    all.push(answer(default));
    all
}

/// The filter of a profile, for processes that may have these capabilities. The error is a sentence.
pub(super) fn filter(profile: &Profile, bounding: u64) -> Result<Vec<u64>, String> {
    let mut all = vec![instruction(LOAD, 0, 0, ARCHITECTURE)];
    for architecture in &profile.architectures {
        let section = section(*architecture, &profile.calls(*architecture, bounding), profile.default);
        all.extend(unless_equal(architecture.audit(), section.len()));
        all.extend(section);
    }
    all.push(answer(Action::KillProcess));
    if all.len() > INSTRUCTIONS_MAX {
        let count = all.len();
        return Err(format!(
            "its rules are {count} instructions, and the kernel takes no more than {INSTRUCTIONS_MAX}"
        ));
    }
    Ok(all)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What the kernel would do with these instructions, of which there are few.
    pub(crate) fn asked(program: &[u64], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let load = |at: u32| match at {
            NUMBER => number,
            ARCHITECTURE => architecture,
            at => {
                let argument = arguments[(at as usize - 16) / 8];
                if at.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
        };
        let (mut loaded, mut at) = (0u32, 0usize);
        loop {
            let one = program[at];
            let (so, not, number) = ((one >> 16 & 255) as usize, (one >> 24 & 255) as usize, (one >> 32) as u32);
            at += 1;
            let mut leads = |is: bool| at += if is { so } else { not };
            match one as u16 {
                LOAD => loaded = load(number),
                AND => loaded &= number,
                JUMP => at += number as usize,
                IF_EQUAL => leads(loaded == number),
                IF_GREATER => leads(loaded > number),
                IF_GREATER_OR_EQUAL => leads(loaded >= number),
                RETURN => return number,
                other => panic!("{other:x}"),
            }
        }
    }

    #[test]
    fn arguments_are_compared_as_long_numbers() {
        let numbers = [0, 1, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, 0x2_0000_0000, u64::MAX - 1, u64::MAX];
        type Compare = fn(&u64, &u64) -> bool;
        let operators: [(Operator, Compare); 6] = [
            (Operator::Equal, u64::eq),
            (Operator::NotEqual, u64::ne),
            (Operator::Less, u64::lt),
            (Operator::LessOrEqual, u64::le),
            (Operator::Greater, u64::gt),
            (Operator::GreaterOrEqual, u64::ge),
        ];
        for (operator, compare) in operators {
            for (value, argument, index) in
                numbers.iter().flat_map(|value| numbers.iter().map(move |one| (value, one, 3u32)))
            {
                let condition = Condition { index, operator, mask: u64::MAX, value: *value };
                // Twice, so that both have to be met.
                let other = Condition { index: 5, operator: Operator::Equal, mask: 0xf0, value: 0x10 };
                let program = [rule(&[condition, other], Action::Allow), vec![answer(Action::KillThread)]].concat();
                for (fifth, is_met) in [(0x1f, true), (0x2f, false), (0x1_0000_0010, true)] {
                    let found = asked(&program, 0, 0, [0, 0, 0, *argument, 0, fifth]);
                    let expected = if is_met && compare(argument, value) { Action::Allow } else { Action::KillThread };
                    assert_eq!(found, expected.code(), "{argument:x} {operator:?} {value:x}, {fifth:x}");
                }
            }
        }
    }
}
