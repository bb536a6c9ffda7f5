//! Roles, quota and weights as clients see them: `/roles`, `/quota`, `/weights` and the calls of v1 that say the same.

use super::legacy::amounts::units;
use super::legacy::json::Json;
use api::resources::{Format, Quantities, Resource, Value};
use api::v1;
use api::v1::master::response;
use api::v1::quota::{QuotaConfig, QuotaInfo, QuotaStatus};
use auth::Sight;
use master_core::roles::known;
use master_core::state::State;
use master_core::view;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The roles of `--roles`, if that is given.
pub type Whitelist = Option<Arc<BTreeSet<Arc<str>>>>;

/// `/roles`
pub fn roles_json(state: &State, whitelist: &Whitelist, sight: Option<&Sight>) -> Vec<u8> {
    let mut json = Json::with_capacity(4096);
    json.object(|json| {
        json.array_at("roles", |json| {
            for (name, amounts) in
                known(state, whitelist.as_deref()).into_iter().filter(|(name, _)| is_seen(sight, name))
            {
                json.object(|json| {
                    json.string_at("name", &name);
                    json.double_at("weight", state.roles.weight(&name).as_said());
                    json.object_at("quota", |json| {
                        let quota = state.roles.quota(&name).cloned().unwrap_or_default();
                        json.string_at("role", &name);
                        scalars(json, "guarantee", quota.guarantees.iter().map(|(name, milli)| (name.as_str(), milli)));
                        scalars(json, "limit", quota.limits.iter().map(|(name, milli)| (name.as_str(), milli)));
                        quantities(json, "consumed", &amounts.consumed);
                    });
                    quantities(json, "resources", &amounts.held());
                    quantities(json, "allocated", &amounts.allocated);
                    quantities(json, "offered", &amounts.offered);
                    quantities(json, "reserved", &amounts.reserved);
                    json.array_at("frameworks", |json| {
                        amounts.frameworks.iter().for_each(|key| json.string(&view::framework_id(state, *key)));
                    });
                });
            }
        });
    });
    json.into_bytes()
}

fn is_seen(sight: Option<&Sight>, role: &str) -> bool {
    sight.is_none_or(|sight| sight.roles.passes(Some(role)))
}

/// GET_ROLES
pub fn get_roles(state: &State, whitelist: &Whitelist, sight: Option<&Sight>) -> response::GetRoles {
    let seen = known(state, whitelist.as_deref()).into_iter().filter(|(name, _)| is_seen(sight, name));
    let roles = seen.map(|(name, amounts)| v1::Role {
        weight: state.roles.weight(&name).as_said(),
        frameworks: amounts
            .frameworks
            .iter()
            .map(|key| v1::FrameworkId { value: view::framework_id(state, *key) })
            .collect(),
        // Clients expect these few alone.
        resources: by_name(&amounts.held())
            .filter(|(name, _)| ["cpus", "disk", "gpus", "mem"].contains(name))
            .map(scalar)
            .collect(),
        name: name.to_string(),
    });
    response::GetRoles { roles: roles.collect() }
}

/// GET_WEIGHTS and `/weights`: those that were set.
pub fn weights(state: &State) -> Vec<v1::WeightInfo> {
    let weights = state.roles.weights.iter();
    weights.map(|(role, weight)| v1::WeightInfo { weight: weight.as_said(), role: Some(role.to_string()) }).collect()
}

/// `/weights`
pub fn weights_json(state: &State) -> Vec<u8> {
    let mut json = Json::default();
    json.array(|json| {
        for (role, weight) in &state.roles.weights {
            json.object(|json| {
                json.string_at("role", role);
                json.double_at("weight", weight.as_said());
            });
        }
    });
    json.into_bytes()
}

/// GET_QUOTA and `/quota`: in words of today and in those of old clients.
#[allow(deprecated)]
pub fn quota_status(state: &State) -> QuotaStatus {
    let info = |(role, quota): (&Arc<str>, &Arc<master_core::state::roles::Quota>)| QuotaInfo {
        role: Some(role.to_string()),
        principal: None,
        guarantee: by_name(&quota.guarantees).map(scalar).collect(),
    };
    let amount = |milli| v1::value::Scalar { value: units(milli) };
    let config = |(role, quota): (&Arc<str>, &Arc<master_core::state::roles::Quota>)| QuotaConfig {
        role: role.to_string(),
        guarantees: quota.guarantees.iter().map(|(name, milli)| (name.as_str().to_owned(), amount(milli))).collect(),
        limits: quota.limits.iter().map(|(name, milli)| (name.as_str().to_owned(), amount(milli))).collect(),
    };
    let quotas = &state.roles.quotas;
    QuotaStatus { infos: quotas.iter().map(info).collect(), configs: quotas.iter().map(config).collect() }
}

/// The answer to GET_QUOTA or GET_WEIGHTS.
pub fn answer(state: &State, kind: response::Type) -> v1::master::Response {
    let mut answer = v1::master::Response::default();
    answer.set_type(kind);
    if kind == response::Type::GetQuota {
        answer.get_quota = Some(response::GetQuota { status: quota_status(state) });
    } else if !state.roles.weights.is_empty() {
        answer.get_weights = Some(response::GetWeights { weight_infos: weights(state) });
    }
    answer
}

fn scalar((name, milli): (&str, i64)) -> v1::Resource {
    Resource::new(name, Value::Scalar(milli)).to_v1(Format::PostRefinement)
}

fn by_name(quantities: &Quantities) -> impl Iterator<Item = (&str, i64)> {
    let mut sorted: Vec<(&str, i64)> = quantities.iter().map(|(name, milli)| (name.as_str(), milli)).collect();
    sorted.sort_unstable();
    sorted.into_iter()
}

fn quantities(json: &mut Json, name: &str, quantities: &Quantities) {
    scalars(json, name, by_name(quantities));
}

/// A field that holds numbers by name.
fn scalars<'a>(json: &mut Json, name: &str, amounts: impl Iterator<Item = (&'a str, i64)>) {
    json.object_at(name, |json| amounts.for_each(|(name, milli)| json.double_at(name, units(milli))));
}
