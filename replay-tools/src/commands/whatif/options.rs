//! The settings that might have been: `--weights=web=2,batch=0.5 --policy=random --roles=batch=web/batch`.

use super::quotas::Quotas;
use crate::args::{Args, Usage};
use crate::story::phrase::milli;
use master_core::allocator::{Options, Sorting};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Other settings.
#[derive(Clone, Debug)]
pub(super) struct Other {
    /// Weights and policy.
    pub options: Options,
    /// Roles by the name that they would have had.
    pub roles: BTreeMap<Arc<str>, Arc<str>>,
    /// Of roles that would have had another one.
    pub quotas: Quotas,
}

impl Other {
    /// From the flags.
    ///
    /// # Errors
    /// A [`Usage`] if nothing is other, or a value makes no sense.
    pub(super) fn new(args: &Args) -> Result<Other, Usage> {
        let mut options = Options::default();
        for (role, weight) in pairs(args, "weights", "ROLE=WEIGHT,...")? {
            let weight_milli = thousandths(weight)
                .filter(|milli| *milli > 0)
                .ok_or_else(|| Usage(format!("the weight of {role} must be a number above 0, not {weight:?}")))?;
            options.weights_micro.insert(role.into(), weight_milli.saturating_mul(1000));
        }
        let mut roles = BTreeMap::new();
        for (role, name) in pairs(args, "roles", "ROLE=NAME,...")? {
            if let Some(problem) = api::resources::role_problem(name) {
                return Err(Usage(format!("{name:?} cannot be a role: {problem}")));
            }
            roles.insert(role.into(), name.into());
        }
        options.role_sorter = match args.get("policy") {
            None | Some("drf") => Sorting::DominantShare,
            Some("random") => Sorting::Random,
            Some(other) => return Err(Usage(format!("--policy must be drf or random, not {other:?}"))),
        };
        options.framework_sorter = options.role_sorter;
        let other = Other { options, roles, quotas: Quotas::new(args)? };
        let is_same = other.options == Options::default() && other.roles.is_empty() && other.quotas.is_empty();
        if is_same && !args.has("policy") {
            return Err(Usage("what if what? Name --weights, --roles, --limits, --guarantees or --policy".into()));
        }
        Ok(other)
    }

    /// For people.
    pub(super) fn words(&self) -> String {
        let mut words = Vec::new();
        if self.options.role_sorter == Sorting::Random {
            words.push("policy random".to_owned());
        }
        words.extend(
            self.options
                .weights_micro
                .iter()
                .map(|(role, weight)| format!("weight {} of {role}", milli(*weight / 1000))),
        );
        words.extend(self.quotas.words());
        words.extend(self.roles.iter().map(|(role, name)| format!("role {role} as {name}")));
        if words.is_empty() { "the same settings".to_owned() } else { words.join(", ") }
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let policy = match self.options.role_sorter {
            Sorting::DominantShare => "drf",
            Sorting::Random => "random",
        };
        let weights: BTreeMap<_, _> =
            self.options.weights_micro.iter().map(|(role, weight)| (role.to_string(), milli(*weight / 1000))).collect();
        let roles: BTreeMap<_, _> =
            self.roles.iter().map(|(role, name)| (role.to_string(), name.to_string())).collect();
        json!({ "policy": policy, "weights": weights, "roles": roles, "quotas": self.quotas.json() })
    }
}

pub(super) fn pairs<'a>(args: &'a Args, flag: &str, form: &str) -> Result<Vec<(&'a str, &'a str)>, Usage> {
    let Some(text) = args.get(flag) else { return Ok(Vec::new()) };
    let pair = |text: &'a str| {
        let pair = text.split_once('=').filter(|(role, value)| !role.is_empty() && !value.is_empty());
        pair.ok_or_else(|| Usage(format!("--{flag} must be {form}, and {text:?} is no such pair")))
    };
    text.split(',').map(pair).collect()
}

/// `1.5` is 1500; at most three digits after the point.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 3 {
        return None;
    }
    let part: u64 = format!("{part:0<3}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Flag;

    fn parse(line: &str) -> Result<Other, Usage> {
        let known = ["weights", "roles", "policy"].map(|name| Flag { name, value: Some(""), help: "" });
        Other::new(&Args::parse(line.split_whitespace().map(str::to_owned), &known)?)
    }

    #[test]
    fn settings_are_read_or_explained() {
        let other = parse("--weights=web=2,a/b=0.25 --roles=batch=web/batch --policy=random").unwrap();
        assert_eq!(other.words(), "policy random, weight 0.25 of a/b, weight 2 of web, role batch as web/batch");
        assert_eq!(parse("--policy=drf").unwrap().words(), "the same settings");
        for (line, hint) in [
            ("", "what if what?"),
            ("--weights=web", "no such pair"),
            ("--weights=web=0", "above 0"),
            ("--weights=web=-1", "above 0"),
            ("--weights=web=1.2345", "above 0"),
            ("--roles=a=/b", "cannot be a role"),
            ("--policy=fifo", "drf or random"),
        ] {
            let said = parse(line).unwrap_err().0;
            assert!(said.contains(hint), "{line}: {said}");
        }
    }
}
