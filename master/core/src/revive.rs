//! The story of wanting offers, or none: REVIVE and SUPPRESS.

use crate::decide::Draft;
use crate::event::{RolesRevived, RolesSuppressed};
use crate::ids::FrameworkKey;
use std::sync::Arc;

/// REVIVE: what was declined for these roles may be offered again.
pub(crate) fn revive(draft: &mut Draft, framework: FrameworkKey, roles: &[String]) {
    if let Some(roles) = chosen(draft, framework, roles) {
        draft.push(RolesRevived { framework, roles });
    }
}

/// SUPPRESS: no offers for these roles until they are revived.
pub(crate) fn suppress(draft: &mut Draft, framework: FrameworkKey, roles: &[String]) {
    let Some(mut roles) = chosen(draft, framework, roles) else { return };
    let known = draft.state.frameworks.get(framework).expect("the speaker is live");
    roles.retain(|role| known.roles.get(role).is_some_and(|role| !role.suppressed));
    if !roles.is_empty() {
        draft.push(RolesSuppressed { framework, roles });
    }
}

/// None named means all. A role that is not the framework's makes the whole call void, silently.
fn chosen(draft: &Draft, framework: FrameworkKey, roles: &[String]) -> Option<Vec<Arc<str>>> {
    let known = &draft.state.frameworks.get(framework)?.roles;
    if roles.is_empty() {
        return Some(known.keys().cloned().collect());
    }
    roles.iter().map(|role| known.get_key_value(role.as_str()).map(|(role, _)| role.clone())).collect()
}

#[cfg(test)]
mod tests {
    use crate::testing::Cluster;

    #[test]
    fn a_suppressed_role_gets_nothing_until_it_is_revived() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:1;mem:100");
        assert_eq!(cluster.suppress(framework, &[]), ["roles-suppressed"]);
        assert_eq!(cluster.suppress(framework, &[]), [""; 0], "once is enough");
        assert!(cluster.offer().is_empty());
        assert_eq!(cluster.revive(framework, &["nosuch"]), [""; 0]);
        assert!(cluster.offer().is_empty());
        assert_eq!(cluster.revive(framework, &["web"]), ["roles-revived"]);
        assert_eq!(cluster.offer().len(), 1);
    }

    #[test]
    fn revive_forgets_what_was_declined() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:1;mem:100");
        let offers = cluster.offer();
        cluster.decline(framework, &offers, Some(3600.0));
        cluster.revive(framework, &[]);
        assert_eq!(cluster.offer().len(), 1);
    }
}
