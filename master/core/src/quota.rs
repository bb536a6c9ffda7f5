//! The story of quota: what roles are entitled to (guarantees) and what they may have at most (limits). Whoever lowers a
//! limit or gives a guarantee takes offers back that are in its way, in the same record.

use crate::command::Caller;
use crate::decide::{Draft, Reply};
use crate::event::{OfferKeys, OffersReturned, QuotasSet, Return, RoleQuota};
use crate::ids::{FrameworkKey, OfferKey};
use crate::lengths;
use crate::level;
use crate::permit;
use crate::refusal::{Refusal, RefusalKind};
use crate::roles::{self, charged, consumed, known};
use crate::state::roles::Quota;
use crate::state::{Offer, State};
use crate::validate;
use api::limits::{CALL_ROLES_MAX, QUOTA_NAMES_MAX, RESOURCE_NAME_BYTES_MAX, ROLES_CONFIGURED_MAX, quoted};
use api::resources::{
    Limits, Name, Quantities, Resource, Resources, Value, is_at_or_below, quota_milli, role_ancestors,
};
use api::v1;
use api::v1::master::call;
use api::v1::quota::{QuotaConfig, QuotaRequest};
use auth::Action;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

type Quotas = BTreeMap<Arc<str>, Quota>;

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::invalid("InvalidQuota", message)
}

/// UPDATE_QUOTA: all configurations or none. `force` lets limits be set below what is consumed already, and more be
/// guaranteed than the cluster has.
pub(crate) fn update(draft: &mut Draft, call: &call::UpdateQuota, caller: &Caller) -> Result<Reply, Refusal> {
    level::needs_resource_model(&draft.state, "UPDATE_QUOTA")?;
    let bad = |why: String| invalid(format!("Invalid QuotaConfig: {why}"));
    let configs = &call.quota_configs;
    lengths::count("roles in one call", configs.len(), CALL_ROLES_MAX)
        .map_err(|why| Refusal::invalid("TooLarge", why))?;
    let mut quotas = Quotas::new();
    for config in configs {
        let role = &config.role;
        if !draft.options.lists(role) {
            return Err(bad(format!("'{}' is not on the roles whitelist", quoted(role))));
        }
        if role.contains('/') {
            return Err(invalid(format!("Updating quota on nested role '{}' is not supported yet", quoted(role))));
        }
        quotas.insert(role.as_str().into(), read(config).map_err(bad)?);
    }
    permit::check(draft, caller, Action::UpdateQuotaWithConfig, quotas.keys().map(|role| &**role))?;
    let force = call.force();
    // One look at every agent for all of them.
    let known = if quotas.len() > 1 && !force { known(&draft.state, None) } else { BTreeMap::new() };
    for config in configs.iter().filter(|_| !force) {
        let limits = &quotas[config.role.as_str()].limits;
        let consumed = match known.get(config.role.as_str()) {
            Some(amounts) => amounts.consumed.clone(),
            None if quotas.len() > 1 => Quantities::default(),
            None => consumed(&draft.state, &config.role),
        };
        if !limits.allow(&consumed) {
            let role = &config.role;
            return Err(bad(format!(
                "Role '{role}' is already consuming '{consumed}'; this is more than the requested limits '{limits}' \
                 (use 'force' flag to bypass this check)"
            )));
        }
    }
    let all = with(&draft.state, &quotas);
    consistent(&all).map_err(bad)?;
    if let Err((guarantees, capacity)) = fits(&draft.state, &all)
        && !force
    {
        return Err(bad(format!(
            "total quota guarantees '{guarantees}' exceed cluster capacity '{capacity}' (use 'force' flag to bypass \
             this check)"
        )));
    }
    apply(draft, &quotas)?;
    let mut charges = Charges::of(&draft.state, &quotas);
    for (role, quota) in &quotas {
        rescind_over_limits(draft, role, &quota.limits, &mut charges);
        rescind_for(draft, role, &quota.guarantees, &mut charges);
    }
    Ok(Reply::Empty)
}

/// SET_QUOTA (deprecated): what is guaranteed is the limit, too. Only for a role without quota.
pub(crate) fn set(draft: &mut Draft, request: &QuotaRequest, caller: &Caller) -> Result<Reply, Refusal> {
    level::needs_resource_model(&draft.state, "SET_QUOTA")?;
    let bad = |why: String| invalid(format!("Failed to validate set quota request: {why}"));
    let (role, quota) = legacy(request).map_err(bad)?;
    if !draft.options.lists(role) {
        return Err(bad(format!("Unknown role '{role}'")));
    }
    if draft.state.roles.quota(role).is_some() {
        return Err(bad(format!("Cannot set quota for role '{role}' which already has quota")));
    }
    let quotas = Quotas::from([(role.into(), quota)]);
    let all = with(&draft.state, &quotas);
    consistent(&all).map_err(bad)?;
    if role.contains('/') {
        return Err(invalid(format!("Setting quota on nested role '{role}' is not supported yet")));
    }
    permit::check(draft, caller, Action::UpdateQuota, [role])?;
    if let Err((guarantees, capacity)) = fits(&draft.state, &all)
        && !request.force()
    {
        let why = format!(
            "Quota guarantees overcommit the cluster (use 'force' to bypass this check): Total quota guarantees \
             '{guarantees}' exceed cluster capacity '{capacity}'"
        );
        return Err(Refusal::new(RefusalKind::Conflict, "Overcommitted", why));
    }
    apply(draft, &quotas)?;
    let mut charges = Charges::of(&draft.state, &quotas);
    rescind_over_limits(draft, role, &quotas[role].limits, &mut charges);
    rescind_agents(draft, role, &quotas[role].guarantees);
    Ok(Reply::Empty)
}

/// REMOVE_QUOTA (deprecated).
pub(crate) fn remove(draft: &mut Draft, role: &str, caller: &Caller) -> Result<Reply, Refusal> {
    level::needs_resource_model(&draft.state, "REMOVE_QUOTA")?;
    if draft.state.roles.quota(role).is_none() {
        let why = format!("Failed to remove quota: Role '{}' has no quota set", quoted(role));
        return Err(Refusal::invalid("NoQuota", why));
    }
    permit::check(draft, caller, Action::UpdateQuota, [role])?;
    let quotas = Quotas::from([(role.into(), Quota::default())]);
    consistent(&with(&draft.state, &quotas)).map_err(|why| invalid(format!("Failed to remove quota: {why}")))?;
    apply(draft, &quotas)?;
    Ok(Reply::Empty)
}

/// Whether roles may have what an operator wants reserved for them: no limit of theirs, or of a role above, is passed.
/// What a framework reserves is within its offers, which are.
pub(crate) fn check_reservation(state: &State, consumed: &Resources, produced: &Resources) -> Result<(), Refusal> {
    let reserved = |resources: &Resources, role: &str| {
        let holds = |resource: &Resource| resource.reservation_role().is_some_and(|own| is_at_or_below(own, role));
        resources.filter(holds).scalar_quantities()
    };
    for role in produced.reservation_roles() {
        for (over, quota) in state.roles.quotas_over(role).filter(|(_, quota)| !quota.limits.is_empty()) {
            let mut more = reserved(produced, over);
            more.saturating_sub(&reserved(consumed, over));
            let has = charged(state, over);
            if !quota.limits.minus(&has).allow(&more) {
                let limits = &quota.limits;
                let why = format!(
                    "Role '{over}' has '{has}' of its limits '{limits}' already, as reservations, offers and allocations: \
                     '{more}' more would be too much"
                );
                return Err(Refusal::new(RefusalKind::Conflict, "OverLimit", why));
            }
        }
    }
    Ok(())
}

/// A configuration in thousandths, or what is wrong with it.
fn read(config: &QuotaConfig) -> Result<Quota, String> {
    validate::role(&config.role).map_err(|why| format!("Invalid 'QuotaConfig.role': {why}"))?;
    for (name, amounts) in [("guarantees", &config.guarantees), ("limits", &config.limits)] {
        lengths::count(&format!("resources in 'QuotaConfig.{name}'"), amounts.len(), QUOTA_NAMES_MAX)?;
        if let Some(long) = amounts.keys().find(|name| name.len() > RESOURCE_NAME_BYTES_MAX) {
            let (quote, length) = (quoted(long), long.len());
            return Err(format!(
                "Invalid 'QuotaConfig.{name}': the name '{quote}' has {length} bytes, more than the \
                 {RESOURCE_NAME_BYTES_MAX} that are allowed"
            ));
        }
    }
    let too_large = |(name, scalar): (&String, &v1::value::Scalar)| quota_milli::too_large(name, scalar.value);
    for (field, amounts) in [("guarantees", &config.guarantees), ("limits", &config.limits)] {
        if let Some(why) = amounts.iter().find_map(too_large) {
            return Err(format!("Invalid 'QuotaConfig.{field}': {why}"));
        }
    }
    let amounts = |what: &str, amounts: &BTreeMap<String, v1::value::Scalar>| {
        let milli = |(name, scalar): (&String, &v1::value::Scalar)| {
            let value = scalar.value;
            quota_milli::milli(value)
                .map(|milli| (name.as_str().into(), milli))
                .map_err(|why| format!("Invalid {what} configuration {{'{name}': {value}}}: {why}"))
        };
        amounts.iter().map(milli).collect::<Result<Vec<_>, String>>()
    };
    let guarantees: Quantities = amounts("guarantee", &config.guarantees)?.into_iter().collect();
    let limits: Limits = amounts("limit", &config.limits)?.into_iter().collect();
    if !limits.allow(&guarantees) {
        return Err(format!(
            "'QuotaConfig.guarantees' {} is not contained within the 'QuotaConfig.limits' {}",
            map_text(&config.guarantees),
            map_text(&config.limits)
        ));
    }
    Ok(Quota { guarantees, limits })
}

/// `{ cpus: 2, mem: 64 }`
fn map_text(amounts: &BTreeMap<String, v1::value::Scalar>) -> String {
    let mut text = String::from("{");
    for (index, (name, scalar)) in amounts.iter().enumerate() {
        let _ = write!(text, "{} {name}: {}", if index > 0 { "," } else { "" }, scalar.value);
    }
    text + if amounts.is_empty() { "}" } else { " }" }
}

/// The role and the quota of a deprecated request, or what is wrong with it.
fn legacy(request: &QuotaRequest) -> Result<(&str, Quota), String> {
    let resources = request.guarantee.iter().map(Resource::from_v1).collect::<Result<Vec<_>, _>>();
    let resources = resources.map_err(|why| format!("QuotaInfo with invalid resource: {why}"))?;
    let role = request.role();
    validate::role(role).map_err(|why| format!("QuotaInfo with invalid role: {why}"))?;
    if resources.is_empty() {
        return Err("QuotaInfo with empty 'guarantee'".into());
    }
    lengths::count("resources in 'guarantee'", resources.len(), QUOTA_NAMES_MAX)?;
    let mut amounts = BTreeMap::new();
    for resource in resources {
        if !resource.reservations.is_empty() {
            return Err("QuotaInfo must not contain any ReservationInfo".into());
        }
        if resource.disk.is_some() {
            return Err("QuotaInfo must not contain DiskInfo".into());
        }
        if resource.revocable {
            return Err("QuotaInfo must not contain RevocableInfo".into());
        }
        let Value::Scalar(milli) = resource.value else {
            return Err("QuotaInfo must not include non-scalar resources".into());
        };
        let name = resource.name.as_str();
        if name.len() > RESOURCE_NAME_BYTES_MAX {
            return Err(format!("the name of a resource has more than the {RESOURCE_NAME_BYTES_MAX} bytes allowed"));
        }
        if amounts.contains_key(&resource.name) {
            return Err(format!("QuotaInfo contains duplicate resource name '{name}'"));
        }
        amounts.insert(resource.name, milli);
    }
    Ok((role, Quota { guarantees: amounts.clone().into_iter().collect(), limits: amounts.into_iter().collect() }))
}

/// Every quota as it would be with `changes`.
fn with(state: &State, changes: &Quotas) -> Quotas {
    let mut all: Quotas = state.roles.quotas.iter().map(|(role, quota)| (role.clone(), Quota::clone(quota))).collect();
    all.extend(changes.iter().map(|(role, quota)| (role.clone(), quota.clone())));
    all.retain(|_, quota| !quota.is_nothing());
    all
}

/// Up and down the tree: what a role is guaranteed contains what the roles right below it are guaranteed together, and no
/// role may have more than one above it.
fn consistent(quotas: &Quotas) -> Result<(), String> {
    let mut nodes: BTreeSet<&str> = quotas.keys().map(|role| &**role).collect();
    nodes.extend(quotas.keys().flat_map(|role| role_ancestors(role)));
    let mut children: BTreeMap<&str, Quantities> = BTreeMap::new();
    for node in &nodes {
        if let (Some(parent), Some(quota)) = (role_ancestors(node).next(), quotas.get(*node)) {
            children.entry(parent).or_default().add(&quota.guarantees);
        }
    }
    let none = Quota::default();
    for (parent, sum) in children {
        let guarantees = &quotas.get(parent).unwrap_or(&none).guarantees;
        if !guarantees.contains(&sum) {
            return Err(format!(
                "Invalid quota configuration. Parent role '{parent}' with guarantees ({guarantees}) does not contain \
                 the sum of its children's guarantees ({sum})"
            ));
        }
    }
    for (role, quota) in quotas {
        let above = role_ancestors(role).find_map(|above| quotas.get(above).map(|quota| (above, quota)));
        if let Some((above, over)) = above.filter(|(_, over)| !over.limits.allow(&quota.guarantees)) {
            let (guarantees, limits) = (&quota.guarantees, &over.limits);
            return Err(format!(
                "Invalid quota configuration. Role '{role}' with guarantees ({guarantees}) may have no more than its \
                 parent '{above}' with limits ({limits})"
            ));
        }
    }
    Ok(())
}

/// Whether the cluster has what is guaranteed; else both. Agents that are away count: most come back soon.
fn fits(state: &State, quotas: &Quotas) -> Result<(), (Quantities, Quantities)> {
    let mut guarantees = Quantities::default();
    // What is guaranteed to roles below others is part of what those are guaranteed.
    let top = quotas.iter().filter(|(role, _)| !role.contains('/'));
    top.for_each(|(_, quota)| guarantees.add(&quota.guarantees));
    let mut capacity = Quantities::default();
    for agent in state.agents.live.values().filter(|agent| !agent.is_unreachable()) {
        capacity.add(&agent.total.non_revocable().scalar_quantities());
    }
    if capacity.contains(&guarantees) { Ok(()) } else { Err((guarantees, capacity)) }
}

/// Sets those that are new.
fn apply(draft: &mut Draft, quotas: &Quotas) -> Result<(), Refusal> {
    let (roles, none) = (&draft.state.roles, Quota::default());
    let is_new = |(role, quota): &(&Arc<str>, &Quota)| roles.quota(role).unwrap_or(&none) != *quota;
    let new = quotas.iter().filter(is_new);
    let quotas: Vec<RoleQuota> =
        new.map(|(role, quota)| RoleQuota { role: role.clone(), quota: quota.clone() }).collect();
    let more = quotas.iter().filter(|new| roles.quota(&new.role).is_none()).count();
    if roles.quotas.len() + more > ROLES_CONFIGURED_MAX {
        let why = format!("More than {ROLES_CONFIGURED_MAX} roles would have quota, more than are allowed");
        return Err(Refusal::invalid("TooLarge", why));
    }
    if !quotas.is_empty() {
        draft.push(QuotasSet { quotas });
    }
    Ok(())
}

/// Offers to the role, or to one below it, go until the limits hold, the youngest first: those that have anything of what
/// there is too much of.
fn rescind_over_limits(draft: &mut Draft, role: &str, limits: &Limits, charges: &mut Charges) {
    let mut taken = Vec::new();
    let live = &draft.state.offers.live;
    let mut offers = live.values().rev().filter(|offer| is_at_or_below(&offer.role, role));
    while !limits.allow(charges.get(role)) {
        let Some(offer) = offers.next() else { break };
        let counted = counted(offer);
        let is_over = |name: &str| limits.get(name).is_some_and(|limit| charges.get(role).get(name) > limit);
        if counted.iter().any(|(name, _)| is_over(name.as_str())) {
            charges.take_back(&offer.role, &counted);
            taken.push(offer.key);
        }
    }
    rescind(draft, taken, Return::QuotaSet);
}

/// What of an offer counts under limits, beside what is reserved anyway.
fn counted(offer: &Offer) -> Quantities {
    offer.resources.unreserved().non_revocable().scalar_quantities()
}

/// What the limits of some roles count, while offers are taken back.
struct Charges(BTreeMap<Arc<str>, Quantities>);

impl Charges {
    /// Of the roles of `quotas`.
    fn of(state: &State, quotas: &Quotas) -> Charges {
        let is_one = quotas.len() == 1;
        let all = if is_one { BTreeMap::new() } else { roles::charges(state) };
        let charge = |role: &Arc<str>| match all.get(role) {
            Some(sum) => sum.clone(),
            None if is_one => roles::charged(state, role),
            None => Quantities::default(),
        };
        Charges(quotas.keys().map(|role| (role.clone(), charge(role))).collect())
    }

    fn get(&self, role: &str) -> &Quantities {
        &self.0[role]
    }

    fn take_back(&mut self, role: &str, counted: &Quantities) {
        for role in std::iter::once(role).chain(role_ancestors(role)) {
            if let Some(sum) = self.0.get_mut(role) {
                sum.saturating_sub(counted);
            }
        }
    }
}

/// Offers to other roles go until what is guaranteed to the role could be made of them and of what it has. What is free
/// does not count: others may be about to be offered it.
fn rescind_for(draft: &mut Draft, role: &str, guarantees: &Quantities, charges: &mut Charges) {
    let state = &draft.state;
    let mut within = charges.get(role).clone();
    let mut taken = Vec::new();
    // By agent, so that what is taken back lies together.
    let mut offers = state.offers.by_agent.iter().filter_map(|(_, key)| state.offers.get(*key));
    while !within.contains(guarantees) {
        let Some(offer) = offers.next() else { break };
        let counted = counted(offer);
        let is_missing =
            |(name, milli): (&Name, i64)| within.get(name.as_str()) < milli && counted.get(name.as_str()) > 0;
        if !is_at_or_below(&offer.role, role) && guarantees.iter().any(is_missing) {
            within.add(&counted);
            charges.take_back(&offer.role, &counted);
            taken.push(offer.key);
        }
    }
    rescind(draft, taken, Return::QuotaSet);
}

/// All offers of one agent after the other go, until they would make up what is guaranteed and each framework of the role
/// could be offered an agent.
fn rescind_agents(draft: &mut Draft, role: &str, guarantees: &Quantities) {
    let state = &draft.state;
    let frameworks = state.frameworks.with(role).filter(|framework| framework.is_connected()).count();
    let (mut within, mut agents, mut taken) = (Quantities::default(), 0, Vec::new());
    for agent in state.agents.live.values().filter(|agent| agent.is_offerable()) {
        if within.contains(guarantees) && agents >= frameworks {
            break;
        }
        let before = taken.len();
        for offer in state.offers.on(agent.key).filter_map(|key| state.offers.get(key)) {
            within.add(&counted(offer));
            taken.push(offer.key);
        }
        agents += usize::from(taken.len() > before);
    }
    rescind(draft, taken, Return::QuotaSet);
}

/// These offers go back, one event for each framework.
pub(crate) fn rescind(draft: &mut Draft, offers: Vec<OfferKey>, why: Return) {
    let mut by_framework: BTreeMap<FrameworkKey, Vec<OfferKey>> = BTreeMap::new();
    for key in offers {
        if let Some(offer) = draft.state.offers.get(key) {
            by_framework.entry(offer.framework).or_default().push(key);
        }
    }
    for (framework, offers) in by_framework {
        draft.push(OffersReturned { framework, offers: OfferKeys::new(offers), why });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Cluster;
    use api::resources::{Format, parse};
    use api::v1::master::Call;
    use api::v1::master::call::Type;

    type Names = Result<Vec<&'static str>, Refusal>;

    fn cluster() -> Cluster {
        let mut cluster = Cluster::new();
        cluster.raise();
        cluster
    }

    fn amounts(text: &str) -> BTreeMap<String, v1::value::Scalar> {
        let scalars = text.split(';').filter_map(|item| item.split_once(':'));
        scalars.map(|(name, value)| (name.into(), v1::value::Scalar { value: value.parse().unwrap() })).collect()
    }

    fn update_all(cluster: &mut Cluster, force: bool, quotas: &[(&str, &str, &str)]) -> Names {
        let config = |(role, guarantees, limits): &(&str, &str, &str)| QuotaConfig {
            role: (*role).into(),
            guarantees: amounts(guarantees),
            limits: amounts(limits),
        };
        let quota_configs = quotas.iter().map(config).collect();
        let update_quota = Some(call::UpdateQuota { force: Some(force), quota_configs });
        cluster.operator(Call { r#type: Some(Type::UpdateQuota as i32), update_quota, ..Default::default() })
    }

    fn update(cluster: &mut Cluster, role: &str, guarantees: &str, limits: &str) -> Names {
        update_all(cluster, false, &[(role, guarantees, limits)])
    }

    #[allow(deprecated)]
    fn set(cluster: &mut Cluster, role: &str, guarantee: Vec<v1::Resource>, force: bool) -> Names {
        let quota_request = QuotaRequest { role: Some(role.into()), guarantee, force: Some(force) };
        let set_quota = Some(call::SetQuota { quota_request });
        cluster.operator(Call { r#type: Some(Type::SetQuota as i32), set_quota, ..Default::default() })
    }

    #[allow(deprecated)]
    fn remove(cluster: &mut Cluster, role: &str) -> Names {
        let remove_quota = Some(call::RemoveQuota { role: role.into() });
        cluster.operator(Call { r#type: Some(Type::RemoveQuota as i32), remove_quota, ..Default::default() })
    }

    fn resources(text: &str) -> Vec<v1::Resource> {
        parse(text, "*").unwrap().resources.to_v1(Format::PostRefinement)
    }

    fn rescinded(cluster: &Cluster) -> usize {
        cluster.effects_text().matches("SendRescind").count()
    }

    #[test]
    fn quotas_are_set_together_or_not_at_all() {
        let mut cluster = cluster();
        cluster.agent("cpus:4;mem:2048;disk:4096");
        let names =
            update_all(&mut cluster, false, &[("eng", "cpus:1;mem:128", "cpus:2;mem:512"), ("*", "", "cpus:1")]);
        assert_eq!(names.unwrap(), ["quotas-set"]);
        assert_eq!(
            cluster.events[0].to_string(),
            "quotas-set quotas=[*:{guarantees:{},limits:{cpus:1}},eng:{guarantees:{cpus:1;mem:128},limits:{cpus:2;mem:512}}]"
        );
        assert_eq!(update(&mut cluster, "*", "", "cpus:1").unwrap(), [""; 0], "nothing new");
        let names = update_all(&mut cluster, false, &[("good", "", "cpus:1"), ("bad", "cpus:2", "cpus:1")]);
        assert_eq!(
            names.unwrap_err().message,
            "Invalid QuotaConfig: 'QuotaConfig.guarantees' { cpus: 2 } is not contained within the \
             'QuotaConfig.limits' { cpus: 1 }"
        );
        assert_eq!(cluster.state.roles.quota("good"), None);
        assert_eq!(update(&mut cluster, "*", "", "").unwrap(), ["quotas-set"]);
        assert_eq!(cluster.state.roles.quota("*"), None, "nothing is no quota");
        assert_eq!(update(&mut cluster, "zero", "", "cpus:0").unwrap(), ["quotas-set"]);
        assert_eq!(cluster.state.roles.quota("zero").unwrap().limits.get("cpus"), Some(0), "none is a limit");
    }

    #[test]
    fn what_is_no_quota_is_refused_as_clients_know_it() {
        let mut cluster = cluster();
        cluster.agent("cpus:4;mem:2048;disk:4096");
        let mut refused = |role: &str, guarantees: &str, limits: &str| {
            update(&mut cluster, role, guarantees, limits).unwrap_err().message
        };
        assert_eq!(refused("a/../b", "", "cpus:1"), "Updating quota on nested role 'a/../b' is not supported yet");
        assert_eq!(
            refused("", "", "cpus:1"),
            "Invalid QuotaConfig: Invalid 'QuotaConfig.role': Role names cannot be the empty string"
        );
        for (field, what) in [("guarantee", true), ("limit", false)] {
            let why = if what { refused("x", "cpus:-1", "") } else { refused("x", "", "cpus:-1") };
            let known = format!("Invalid {field} configuration {{'cpus': -1}}: Negative values not supported");
            assert_eq!(why, format!("Invalid QuotaConfig: {known}"));
        }
        assert!(refused("x", "", "cpus:NaN").ends_with("NaN not supported"));
        assert!(refused("x", "", "cpus:inf").contains("values greater than 1 trillion (1000000000000)"));
        assert!(refused("x", "", "cpus:1e-310").ends_with("Subnormal values not supported"));
        assert_eq!(
            refused("x", "", "mem:1099511627777"),
            "Invalid QuotaConfig: Invalid 'QuotaConfig.limits': {'mem': 1099511627777} is invalid: values greater than \
             1 exabyte (1099511627776) are not supported"
        );
        assert_eq!(
            refused("x", "cpus:10", ""),
            "Invalid QuotaConfig: total quota guarantees 'cpus:10' exceed cluster capacity 'cpus:4; disk:4096; \
             mem:2048' (use 'force' flag to bypass this check)"
        );
        assert!(refused("x", "gold:1", "").contains("total quota guarantees 'gold:1' exceed"));
        assert!(refused("x", "", &format!("{}:1", "a".repeat(300))).contains("has 300 bytes, more than the 256"));
        cluster.chosen.whitelist = Some(Arc::new(["a".into()].into()));
        let refusal = update(&mut cluster, "dev", "", "cpus:1").unwrap_err();
        assert_eq!(refusal.message, "Invalid QuotaConfig: 'dev' is not on the roles whitelist");
    }

    #[test]
    fn a_cluster_is_promised_to_more_than_it_has_only_by_force() {
        let mut cluster = cluster();
        cluster.agent("cpus:4;mem:100;cpus(other):1");
        assert_eq!(update(&mut cluster, "a", "cpus:3", "").unwrap(), ["quotas-set"]);
        assert!(update(&mut cluster, "b", "cpus:3", "").unwrap_err().message.contains("'cpus:6' exceed"));
        assert_eq!(update_all(&mut cluster, true, &[("b", "cpus:30", "")]).unwrap(), ["quotas-set"]);
        let refusal = update(&mut cluster, "c", "cpus:0.1", "").unwrap_err();
        assert!(refusal.message.contains("'cpus:33.1' exceed"), "whoever comes later hears of it: {refusal}");
        assert_eq!(
            update(&mut cluster, "b", "cpus:2", "").unwrap(),
            ["quotas-set"],
            "what is reserved is capacity, too"
        );
    }

    #[test]
    fn a_limit_is_not_set_below_what_is_consumed_unless_forced() {
        let mut cluster = cluster();
        let framework = cluster.subscribe();
        cluster.agent("cpus:4;mem:100");
        cluster.launch(framework, "t", "cpus:1.5;mem:64");
        let refusal = update(&mut cluster, "web", "", "cpus:1").unwrap_err();
        assert_eq!(
            refusal.message,
            "Invalid QuotaConfig: Role 'web' is already consuming 'cpus:1.5; mem:64'; this is more than the requested \
             limits 'cpus:1' (use 'force' flag to bypass this check)"
        );
        assert_eq!(update(&mut cluster, "web", "", "cpus:1.5").unwrap(), ["quotas-set"]);
        // Nor among others, which are looked at together.
        let both = [("new", "", "cpus:9"), ("web", "", "cpus:1")];
        let refusal = update_all(&mut cluster, false, &both).unwrap_err();
        assert!(refusal.message.starts_with("Invalid QuotaConfig: Role 'web' is already consuming"), "{refusal}");
        assert_eq!(update_all(&mut cluster, true, &both).unwrap(), ["quotas-set"]);
    }

    #[test]
    fn offers_over_a_new_limit_are_taken_back_and_no_others() {
        let mut cluster = cluster();
        let parent = cluster.subscribe();
        cluster.agent("cpus:1;mem:1024");
        cluster.offer();
        let child = cluster.subscribe_with(|info| info.roles = vec!["web/child".into()]);
        cluster.agent("cpus:1;mem:1024");
        cluster.offer();
        let held = |cluster: &Cluster| [parent, child].map(|framework| cluster.state.offers.to(framework).count());
        assert_eq!(held(&cluster), [1, 1]);
        assert_eq!(
            update(&mut cluster, "web", "", "cpus:2;mem:2048").unwrap(),
            ["quotas-set"],
            "nothing is in its way"
        );
        assert_eq!(update(&mut cluster, "web", "", "cpus:1").unwrap(), ["quotas-set", "offers-returned"]);
        assert_eq!(held(&cluster), [1, 0], "the youngest goes");
        update(&mut cluster, "web", "", "cpus:0.5;mem:512").unwrap();
        assert_eq!((held(&cluster), rescinded(&cluster)), ([0, 0], 1));
    }

    #[test]
    fn offers_to_others_are_taken_back_for_a_guarantee() {
        let mut cluster = cluster();
        cluster.subscribe();
        for _ in 0..3 {
            cluster.agent("cpus:1;mem:1024");
        }
        assert_eq!(cluster.offer().len(), 3);
        assert_eq!(update(&mut cluster, "other", "cpus:2", "").unwrap(), ["quotas-set", "offers-returned"]);
        assert_eq!(rescinded(&cluster), 2);
        assert_eq!(update(&mut cluster, "web", "mem:512", "").unwrap(), ["quotas-set"], "its own offer will do");
    }

    #[test]
    fn what_does_not_help_a_guarantee_stays_with_whom_it_was_offered() {
        let mut cluster = cluster();
        cluster.subscribe();
        for resources in ["mem:1024", "cpus:1;mem:1024", "mem:1024"] {
            cluster.agent(resources);
        }
        assert_eq!(cluster.offer().len(), 3);
        update(&mut cluster, "other", "cpus:1", "").unwrap();
        let left = cluster.state.offers.live.values().map(|offer| offer.agent.0).collect::<Vec<_>>();
        assert_eq!((left, rescinded(&cluster)), (vec![0, 2], 1));
    }

    #[test]
    fn the_deprecated_way_guarantees_and_limits_the_same() {
        let mut cluster = cluster();
        cluster.agent("cpus:4;mem:2048;disk:4096");
        assert_eq!(set(&mut cluster, "old", resources("cpus:1;mem:64"), false).unwrap(), ["quotas-set"]);
        let quota = cluster.state.roles.quota("old").unwrap().clone();
        assert_eq!(quota.guarantees.to_string(), "cpus:1; mem:64");
        assert_eq!(quota.limits.to_string(), "cpus:1; mem:64");
        let mut refused = |role: &str, guarantee: Vec<v1::Resource>| {
            let refusal = set(&mut cluster, role, guarantee, false).unwrap_err();
            (refusal.kind, refusal.message.trim_start_matches("Failed to validate set quota request: ").to_owned())
        };
        let bad = |why: &str| (RefusalKind::Invalid, why.to_owned());
        assert_eq!(refused("old", resources("cpus:2")), bad("Cannot set quota for role 'old' which already has quota"));
        assert_eq!(refused("x", vec![]), bad("QuotaInfo with empty 'guarantee'"));
        assert_eq!(
            refused("", resources("cpus:1")),
            bad("QuotaInfo with invalid role: Role names cannot be the empty string")
        );
        assert_eq!(refused("x", resources("cpus(x):1")), bad("QuotaInfo must not contain any ReservationInfo"));
        assert_eq!(refused("x", resources("ports:[1-2]")), bad("QuotaInfo must not include non-scalar resources"));
        let twice = [resources("cpus:1"), resources("cpus:1")].concat();
        assert_eq!(refused("x", twice), bad("QuotaInfo contains duplicate resource name 'cpus'"));
        let mut revocable = resources("cpus:1");
        revocable[0].revocable = Some(Default::default());
        assert_eq!(refused("x", revocable), bad("QuotaInfo must not contain RevocableInfo"));
        assert_eq!(
            refused("old/kid", resources("cpus:0.5")),
            bad("Setting quota on nested role 'old/kid' is not supported yet")
        );
        assert!(refused("none/kid", resources("cpus:0.5")).1.contains("Parent role 'none' with guarantees ()"));
        assert_eq!(
            refused("x", resources("cpus:50")),
            (
                RefusalKind::Conflict,
                "Quota guarantees overcommit the cluster (use 'force' to bypass this check): Total quota guarantees \
                 'cpus:51; mem:64' exceed cluster capacity 'cpus:4; disk:4096; mem:2048'"
                    .into()
            )
        );
        assert_eq!(set(&mut cluster, "x", resources("cpus:50"), true).unwrap(), ["quotas-set"]);
        assert_eq!(remove(&mut cluster, "x").unwrap(), ["quotas-set"]);
        assert_eq!(remove(&mut cluster, "x").unwrap_err().message, "Failed to remove quota: Role 'x' has no quota set");
    }

    #[test]
    fn the_deprecated_way_frees_an_agent_for_each_framework() {
        let mut cluster = cluster();
        cluster.subscribe();
        for _ in 0..3 {
            cluster.agent("cpus:2;mem:1024");
        }
        assert_eq!(cluster.offer().len(), 3);
        for _ in 0..2 {
            cluster.subscribe_with(|info| info.roles = vec!["two".into()]);
        }
        set(&mut cluster, "two", resources("cpus:1;mem:512"), false).unwrap();
        assert_eq!(rescinded(&cluster), 2, "one would hold it all");
    }

    #[test]
    fn guarantees_add_up_in_the_tree() {
        let quota = |guarantees: &str, limits: &str| Quota {
            guarantees: Quantities::parse(guarantees).unwrap(),
            limits: Limits::parse(limits).unwrap(),
        };
        let check = |quotas: &[(&str, &str, &str)]| {
            consistent(&quotas.iter().map(|(role, least, most)| ((*role).into(), quota(least, most))).collect())
        };
        assert_eq!(check(&[("a", "cpus:2", ""), ("a/x", "cpus:1", ""), ("a/y", "cpus:1", "")]), Ok(()));
        let why = check(&[("a", "cpus:1", ""), ("a/x", "cpus:1", ""), ("a/y", "cpus:1", "")]).unwrap_err();
        assert!(why.contains("Parent role 'a' with guarantees (cpus:1) does not contain"), "{why}");
        assert!(check(&[("a", "cpus:9", ""), ("a/b/c", "cpus:1", "")]).is_err(), "a/b is guaranteed nothing");
        let why = check(&[("a", "cpus:2", "mem:1"), ("a/x", "cpus:2;mem:2", "")]).unwrap_err();
        assert!(why.contains("'a'"), "{why}");
    }

    #[test]
    fn an_operator_reserves_up_to_the_limit() {
        let mut cluster = cluster();
        cluster.subscribe();
        cluster.agent("cpus:4;mem:100");
        update(&mut cluster, "web", "", "cpus:1.5").unwrap();
        update(&mut cluster, "other", "", "mem:10").unwrap();
        let reserve = |cluster: &mut Cluster, role: &str, text: &str| {
            let resources = parse(text, "*").unwrap().resources;
            let reservation =
                api::resources::Reservation { dynamic: true, role: role.into(), principal: None, labels: Vec::new() };
            let resources = resources.push_reservation(&reservation).to_v1(Format::PostRefinement);
            let agent_id = v1::AgentId { value: "C-S0".into() };
            let reserve_resources = Some(call::ReserveResources { agent_id, source: Vec::new(), resources });
            let kind = Some(Type::ReserveResources as i32);
            cluster.operator(Call { r#type: kind, reserve_resources, ..Default::default() })
        };
        assert!(reserve(&mut cluster, "web/a", "cpus:1").is_ok());
        let refusal = reserve(&mut cluster, "web", "cpus:1").unwrap_err();
        assert_eq!(
            refusal.message,
            "Role 'web' has 'cpus:1' of its limits 'cpus:1.5' already, as reservations, offers and allocations: \
             'cpus:1' more would be too much"
        );
        assert!(reserve(&mut cluster, "web", "cpus:0.5;mem:90").is_ok(), "what has no limit has none");
        assert!(reserve(&mut cluster, "web", "cpus:0.001").is_err());
        assert!(reserve(&mut cluster, "free", "cpus:1").is_ok());
        assert!(reserve(&mut cluster, "other", "mem:11").is_err());
    }

    #[test]
    fn older_masters_are_waited_for() {
        let mut cluster = Cluster::new();
        let refusal = update(&mut cluster, "a", "", "cpus:1").unwrap_err();
        let why = "UPDATE_QUOTA is not possible until every master of this cluster has been upgraded";
        assert_eq!((refusal.kind, refusal.message.as_str()), (RefusalKind::Conflict, why));
        assert!(set(&mut cluster, "a", resources("cpus:1"), true).is_err() && remove(&mut cluster, "a").is_err());
    }
}
