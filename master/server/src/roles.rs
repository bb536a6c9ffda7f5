//! What this master's flags say about roles: which there may be, and what they weigh as long as no operator said so.

use crate::context::Context;
use api::resources::role_problem;
use api::v1::WeightInfo;
use api::v1::master::Call;
use api::v1::master::call::{Type, UpdateWeights};
use master_core::command::{Caller, Command};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// From `--roles` and `--weights`.
#[derive(Clone, Debug, Default)]
pub struct RoleSettings {
    /// The only roles there may be, beside `*` which is among them; None if any will do.
    pub whitelist: Option<Arc<BTreeSet<Arc<str>>>>,
    /// Weights of a cluster that has none.
    pub weights: Vec<(String, f64)>,
}

impl RoleSettings {
    /// From the texts of both flags.
    ///
    /// # Errors
    /// One sentence.
    pub fn read(roles: Option<&str>, weights: Option<&str>) -> Result<RoleSettings, String> {
        let mut settings = RoleSettings::default();
        if let Some(text) = roles {
            let roles = api::resources::parse_roles(text).map_err(|why| format!("--roles={text}: {why}"))?;
            settings.whitelist = Some(Arc::new(roles.into_iter().chain(["*"]).map(Arc::from).collect()));
        }
        let items = weights.unwrap_or_default().split(',').filter(|item| !item.is_empty());
        for item in items {
            let bad = || format!("--weights is ROLE=WEIGHT,ROLE=WEIGHT,..., and '{item}' is none");
            let (role, weight) = item.split_once('=').ok_or_else(bad)?;
            let weight: f64 = weight.parse().map_err(|_| bad())?;
            if let Some(why) = role_problem(role) {
                return Err(format!("--weights: {why}"));
            }
            if !settings.lists(role) {
                return Err(format!("--weights: '{role}' is not among the roles of --roles"));
            }
            if master_core::state::roles::Weight::new(weight).is_none() {
                return Err(format!(
                    "--weights: Invalid weight '{weight}' for role '{role}': Weights must be positive"
                ));
            }
            settings.weights.push((role.to_owned(), weight));
        }
        Ok(settings)
    }

    /// Whether there may be such a role.
    pub fn lists(&self, role: &str) -> bool {
        self.whitelist.as_ref().is_none_or(|whitelist| whitelist.contains(role))
    }
}

/// While this master leads a cluster in which no role has a weight: gives roles those of `--weights`.
pub(crate) async fn weigh(context: Arc<Context>) {
    if context.roles.weights.is_empty() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if context.is_ready() {
            weigh_once(&context).await;
        }
    }
}

/// The same once, if this master leads.
pub(crate) async fn weigh_once(context: &Context) {
    let (state, _) = context.reader.state();
    let leads = context.reader.leader().is_some_and(|leader| leader.is_me);
    let are_wanted = !context.roles.weights.is_empty() && state.roles.weights.is_empty();
    if !leads || !are_wanted || !state.feature_level.has_resource_model() {
        return;
    }
    let info = |(role, weight): &(String, f64)| WeightInfo { weight: *weight, role: Some(role.clone()) };
    let update = UpdateWeights { weight_infos: context.roles.weights.iter().map(info).collect() };
    let call = Call { r#type: Some(Type::UpdateWeights as i32), update_weights: Some(update), ..Call::default() };
    let outcome = context.reader.submit(Command::OperatorCall { call: Box::new(call) }, Caller::default()).await;
    tracing::info!(?outcome, "the weights of --weights");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_as_a_list_and_as_pairs() {
        let settings = RoleSettings::read(Some("a,b/c"), Some("a=2,b/c=0.5")).unwrap();
        assert!(settings.lists("a") && settings.lists("*") && !settings.lists("b"));
        assert_eq!(settings.weights, [("a".to_owned(), 2.0), ("b/c".to_owned(), 0.5)]);
        assert!(RoleSettings::read(None, None).unwrap().lists("any"));
        for (roles, weights, why) in [
            (Some("a,/b"), None, "cannot start with a slash"),
            (Some("a"), Some("b=1"), "not among the roles"),
            (None, Some("a"), "ROLE=WEIGHT"),
            (None, Some("a=x"), "ROLE=WEIGHT"),
            (None, Some("a=0"), "must be positive"),
        ] {
            let refused = RoleSettings::read(roles, weights).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
