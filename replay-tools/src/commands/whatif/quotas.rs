//! Quotas that might have been: `--limits=web=cpus:2;mem:512 --guarantees=db=cpus:1`. A role that is named has the quota
//! that is said, and nothing of its own; `none` takes it away.

use crate::args::{Args, Usage};
use api::resources::{Limits, Quantities};
use master_core::State;
use master_core::state::roles::Quota;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Quotas by role.
#[derive(Clone, Debug, Default)]
pub(super) struct Quotas(BTreeMap<Arc<str>, Quota>);

impl Quotas {
    /// From the flags.
    ///
    /// # Errors
    /// A [`Usage`] if a value makes no sense.
    pub(super) fn new(args: &Args) -> Result<Quotas, Usage> {
        let mut quotas = Quotas::default();
        let bad = |role: &str, why: String| Usage(format!("the quota of {role} makes no sense: {why}"));
        for (role, text) in super::options::pairs(args, "limits", "ROLE=NAME:AMOUNT;...,...")? {
            let limits = if text == "none" { Ok(Limits::default()) } else { Limits::parse(text) };
            quotas.of(role).limits = limits.map_err(|why| bad(role, why))?;
        }
        for (role, text) in super::options::pairs(args, "guarantees", "ROLE=NAME:AMOUNT;...,...")? {
            let guarantees = if text == "none" { Ok(Quantities::default()) } else { Quantities::parse(text) };
            quotas.of(role).guarantees = guarantees.map_err(|why| bad(role, why))?;
        }
        Ok(quotas)
    }

    fn of(&mut self, role: &str) -> &mut Quota {
        self.0.entry(role.into()).or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The roles that are named.
    pub(super) fn roles(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.keys()
    }

    /// The state as it would have been.
    pub(super) fn put(&self, state: &State) -> State {
        let mut state = state.clone();
        for (role, quota) in &self.0 {
            if quota.is_nothing() {
                state.roles.quotas.remove(role);
            } else {
                state.roles.quotas.insert(role.clone(), Arc::new(quota.clone()));
            }
        }
        state
    }

    /// For people.
    pub(super) fn words(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().map(|(role, Quota { guarantees, limits })| match (guarantees.is_empty(), limits.is_empty()) {
            (true, true) => format!("no quota of {role}"),
            (false, true) => format!("{guarantees} guaranteed to {role}"),
            (true, false) => format!("at most {limits} for {role}"),
            (false, false) => format!("{guarantees} guaranteed to {role}, and at most {limits}"),
        })
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let one = |(role, quota): (&Arc<str>, &Quota)| {
            let said = json!({ "guarantees": quota.guarantees.to_string(), "limits": quota.limits.to_string() });
            (role.to_string(), said)
        };
        self.0.iter().map(one).collect::<serde_json::Map<_, _>>().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Flag;

    fn parse(line: &str) -> Result<Quotas, Usage> {
        let known = ["limits", "guarantees"].map(|name| Flag { name, value: Some(""), help: "" });
        Quotas::new(&Args::parse(line.split_whitespace().map(str::to_owned), &known)?)
    }

    #[test]
    fn quotas_are_read_or_explained() {
        let quotas = parse("--limits=web=cpus:2;mem:10,batch=none --guarantees=web=cpus:1").unwrap();
        let words: Vec<String> = quotas.words().collect();
        assert_eq!(words, ["no quota of batch", "cpus:1 guaranteed to web, and at most cpus:2; mem:10"]);
        let mut state = State::default();
        state.roles.quotas.insert("batch".into(), Arc::default());
        let other = quotas.put(&state);
        assert_eq!(other.roles.quotas.keys().map(|role| &**role).collect::<Vec<_>>(), ["web"]);
        assert!(parse("--limits=web=cpus").unwrap_err().0.contains("makes no sense"));
    }
}
