//! The story of weights: how much a role counts among its siblings.

use crate::command::Caller;
use crate::decide::{Draft, Reply};
use crate::event::{Return, RoleWeight, WeightsSet};
use crate::level;
use crate::permit;
use crate::quota;
use crate::refusal::Refusal;
use crate::state::roles::Weight;
use crate::validate;
use api::limits::{CALL_ROLES_MAX, ROLES_CONFIGURED_MAX, WEIGHT_MAX, quoted};
use api::v1::master::call;
use auth::Action;
use std::collections::BTreeMap;
use std::sync::Arc;

/// UPDATE_WEIGHTS: all of them or none. Where one of the roles has a framework, every offer is taken back, so that the
/// next allocation is by the new weights.
pub(crate) fn update(draft: &mut Draft, call: &call::UpdateWeights, caller: &Caller) -> Result<Reply, Refusal> {
    level::needs_resource_model(&draft.state, "UPDATE_WEIGHTS")?;
    let infos = &call.weight_infos;
    crate::lengths::count("roles in one call", infos.len(), CALL_ROLES_MAX)
        .map_err(|why| Refusal::invalid("TooLarge", why))?;
    let mut weights: BTreeMap<Arc<str>, Weight> = BTreeMap::new();
    for info in infos {
        let role = info.role.as_deref().unwrap_or_default().trim();
        let refuse = |why: String| {
            Refusal::invalid("InvalidWeight", format!("Failed to validate update weights request JSON{why}"))
        };
        validate::role(role).map_err(|why| refuse(format!(": Invalid role '{}': {why}", quoted(role))))?;
        if !draft.options.lists(role) {
            return Err(refuse(format!(": Unknown role '{role}'")));
        }
        let weight = info.weight;
        let why = if weight > WEIGHT_MAX as f64 {
            format!("Weights above {WEIGHT_MAX} are not supported")
        } else {
            "Weights must be positive".into()
        };
        let known = Weight::new(weight);
        let known = known.ok_or_else(|| refuse(format!(" for role '{role}': Invalid weight '{weight}': {why}")))?;
        weights.insert(role.into(), known);
    }
    permit::check(draft, caller, Action::UpdateWeight, weights.keys().map(|role| &**role))?;
    let roles = &draft.state.roles;
    weights.retain(|role, weight| roles.weights.get(role) != Some(weight));
    let new = weights.keys().filter(|role| !roles.weights.contains_key(*role)).count();
    if roles.weights.len() + new > ROLES_CONFIGURED_MAX {
        let why = format!("More than {ROLES_CONFIGURED_MAX} roles would have a weight, more than are allowed");
        return Err(Refusal::invalid("TooLarge", why));
    }
    if weights.is_empty() {
        return Ok(Reply::Empty);
    }
    let is_active = |role: &Arc<str>| draft.state.frameworks.with(role).next().is_some();
    let rescinds = weights.keys().any(is_active);
    let weights = weights.into_iter().map(|(role, weight)| RoleWeight { role, weight }).collect();
    draft.push(WeightsSet { weights });
    if rescinds {
        let offers = draft.state.offers.live.keys().copied().collect();
        quota::rescind(draft, offers, Return::WeightsSet);
    }
    Ok(Reply::Empty)
}

#[cfg(test)]
mod tests {
    use crate::refusal::Refusal;
    use crate::testing::Cluster;
    use api::v1::WeightInfo;
    use api::v1::master::Call;
    use api::v1::master::call::{Type, UpdateWeights};

    fn update(cluster: &mut Cluster, weights: &[(&str, f64)]) -> Result<Vec<&'static str>, Refusal> {
        let info = |(role, weight): &(&str, f64)| WeightInfo { role: Some((*role).into()), weight: *weight };
        let update_weights = Some(UpdateWeights { weight_infos: weights.iter().map(info).collect() });
        cluster.operator(Call { r#type: Some(Type::UpdateWeights as i32), update_weights, ..Default::default() })
    }

    fn cluster() -> Cluster {
        let mut cluster = Cluster::new();
        cluster.raise();
        cluster
    }

    #[test]
    fn weights_are_set_together_or_not_at_all() {
        let mut cluster = cluster();
        assert_eq!(update(&mut cluster, &[(" a ", 2.0), ("a/b", 0.1), ("a", 3.5)]).unwrap(), ["weights-set"]);
        assert_eq!(cluster.state.roles.weight("a").as_said(), 3.5, "the last one of a role counts, blanks do not");
        assert_eq!(cluster.state.roles.weight("a/b").as_said(), 0.1);
        assert_eq!(cluster.events[0].to_string(), "weights-set weights=[a:3.5,a/b:0.1]");
        assert_eq!(update(&mut cluster, &[("a", 3.5)]).unwrap(), [""; 0], "nothing new");
        let mut refused = |weights: &[(&str, f64)]| update(&mut cluster, weights).unwrap_err().message;
        let json = "Failed to validate update weights request JSON";
        assert_eq!(
            refused(&[("good", 2.0), ("bad", -1.0)]),
            format!("{json} for role 'bad': Invalid weight '-1': Weights must be positive")
        );
        assert_eq!(
            refused(&[("a", 0.0)]),
            format!("{json} for role 'a': Invalid weight '0': Weights must be positive")
        );
        assert_eq!(refused(&[("", 1.0)]), format!("{json}: Invalid role '': Role names cannot be the empty string"));
        assert_eq!(refused(&[("/a", 1.0)]), format!("{json}: Invalid role '/a': Role '/a' cannot start with a slash"));
        assert!(refused(&[("a", f64::NAN)]).contains("must be positive"));
        assert!(refused(&[("a", 1e13)]).ends_with("Weights above 1000000000000 are not supported"));
        assert_eq!(cluster.state.roles.weights.get("good"), None);
    }

    #[test]
    fn offers_are_taken_back_where_a_role_with_a_framework_counts_differently() {
        let mut cluster = cluster();
        cluster.subscribe();
        cluster.agent("cpus:1;mem:100");
        cluster.agent("cpus:1;mem:100");
        assert_eq!(cluster.offer().len(), 2);
        assert_eq!(update(&mut cluster, &[("other", 2.0)]).unwrap(), ["weights-set"]);
        assert_eq!(update(&mut cluster, &[("other", 3.0), ("web", 2.0)]).unwrap(), ["weights-set", "offers-returned"]);
        assert!(cluster.state.offers.live.is_empty());
        assert_eq!(cluster.effects_text().matches("SendRescind").count(), 2);
    }

    #[test]
    fn a_whitelist_and_older_masters_are_respected() {
        let mut cluster = Cluster::new();
        let refusal = update(&mut cluster, &[("a", 2.0)]).unwrap_err();
        assert_eq!(
            refusal.message,
            "UPDATE_WEIGHTS is not possible until every master of this cluster has been upgraded"
        );
        cluster.raise();
        cluster.chosen.whitelist = Some(std::sync::Arc::new(["a".into()].into()));
        assert!(update(&mut cluster, &[("a", 2.0)]).is_ok());
        let refusal = update(&mut cluster, &[("b", 2.0)]).unwrap_err();
        assert_eq!(refusal.message, "Failed to validate update weights request JSON: Unknown role 'b'");
    }
}
