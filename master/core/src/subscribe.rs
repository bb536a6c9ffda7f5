//! The story of subscribing: a framework gets an id and a stream, comes back on another, goes away for a while.

use crate::brakes;
use crate::command::Caller;
use crate::decide::{Draft, Reply, check_holder};
use crate::event::{
    FrameworkDisconnected, FrameworkResubscribed, FrameworkSubscribed, OfferKeys, OffersReturned, Return,
};
use crate::ids::{Connection, FrameworkKey};
use crate::inverse;
use crate::masters::MASTER_LOST_FAILOVER_MS_MIN;
use crate::offer_constraints;
use crate::permit;
use crate::refusal::{Refusal, RefusalKind};
use crate::state::{Framework, State};
use crate::validate;
use api::v1;
use bytes::Bytes;
use prost::Message;
use std::sync::Arc;

/// SUBSCRIBE: what is wrong with the call itself is refused at once; what is wrong with the framework is said on its
/// stream, as clients expect.
pub(crate) fn subscribe(
    draft: &mut Draft,
    connection: Connection,
    subscribe: &v1::scheduler::call::Subscribe,
    framework_id: Option<&str>,
    caller: &Caller,
) -> Result<Reply, Refusal> {
    let info = &subscribe.framework_info;
    validate::subscribe(info, framework_id, caller.principal.as_deref())?;
    check_holder(&draft.state, connection)?;
    let on_stream = |message: String| Refusal::new(RefusalKind::OnStream, "InvalidFramework", message);
    let terms = validate::framework(info, &subscribe.suppressed_roles);
    let wanted = info.id.as_ref().map(|id| id.value.as_str()).filter(|id| !id.is_empty());
    let known = wanted.and_then(|id| draft.state.frameworks.by_id.get(id)).copied();
    let was_removed = known.is_some_and(|key| draft.state.frameworks.get(key).is_none() || draft.state.is_ending(key));
    let terms = terms.and_then(|terms| validate::listed(terms, &draft.options)).map_err(on_stream)?;
    let constraints =
        offer_constraints::check(draft, &terms.roles, subscribe.offer_constraints.as_ref()).map_err(on_stream)?;
    if was_removed {
        return Err(Refusal::new(RefusalKind::OnStream, "FrameworkRemoved", "Framework has been removed"));
    }
    let principal = caller.principal.as_deref().or(info.principal.as_deref());
    permit::roles(draft, principal, wanted.unwrap_or_default(), &terms.roles).map_err(on_stream)?;
    if let Some(key) = known {
        let framework = draft.state.frameworks.get(key).expect("a known framework that was not removed");
        if framework.principal.as_deref() != principal {
            return Err(on_stream(validate::OTHER_PRINCIPAL.to_owned()));
        }
        let info = keep_immutable(framework, info);
        let replaced = framework.stream.as_ref().map(|stream| stream.connection.id);
        return_all(draft, key, Return::FailedOver);
        draft.push(FrameworkResubscribed { framework: key, info, terms, connection, replaced });
        offer_constraints::replace(draft, key, constraints);
        return Ok(Reply::Framework { framework: key });
    }
    brakes::check_new_framework(draft)?;
    let (framework, id) = match wanted {
        Some(id) => (FrameworkKey(draft.state.frameworks.next), Arc::from(id)),
        None => mint(&draft.state),
    };
    draft.push(FrameworkSubscribed {
        framework,
        info: with_id(info, &id),
        id,
        principal: principal.map(Arc::from),
        terms,
        connection,
    });
    offer_constraints::replace(draft, framework, constraints);
    Ok(Reply::Framework { framework })
}

/// The next id that no framework has chosen for itself.
fn mint(state: &State) -> (FrameworkKey, Arc<str>) {
    let mut key = state.frameworks.next;
    loop {
        let id = format!("{}-{key:04}", state.cluster_id);
        if !state.frameworks.by_id.contains_key(id.as_str()) {
            return (FrameworkKey(key), id.into());
        }
        key += 1;
    }
}

/// The info in protobuf, with its id.
pub(crate) fn with_id(info: &v1::FrameworkInfo, id: &str) -> Bytes {
    let id = Some(v1::FrameworkId { value: id.to_owned() });
    v1::FrameworkInfo { id, ..info.clone() }.encode_to_vec().into()
}

/// A framework that subscribes again keeps its user and its checkpointing, whatever it says now.
fn keep_immutable(framework: &Framework, info: &v1::FrameworkInfo) -> Bytes {
    let before = v1::FrameworkInfo::decode(framework.info.clone()).unwrap_or_default();
    let info = v1::FrameworkInfo { user: before.user, checkpoint: before.checkpoint, ..info.clone() };
    with_id(&info, &framework.id)
}

/// The framework's stream ended, if it still was its stream. If a master let it go, the framework has time to find
/// another one, whatever it said itself.
pub(crate) fn stream_ended(draft: &mut Draft, framework_id: &str, connection: Connection, by_master: bool) -> Reply {
    let framework = draft.state.frameworks.by_id(framework_id);
    let current = framework
        .filter(|framework| framework.stream.as_ref().is_some_and(|stream| stream.connection.id == connection.id));
    if let Some(key) = current.map(|framework| framework.key) {
        disconnect(draft, key, if by_master { MASTER_LOST_FAILOVER_MS_MIN } else { 0 });
    }
    Reply::Empty
}

/// The framework is away: its offers go back, its tasks go on until its failover timeout.
pub(crate) fn disconnect(draft: &mut Draft, key: FrameworkKey, timeout_ms_min: u64) {
    return_all(draft, key, Return::Disconnected);
    let framework = draft.state.frameworks.get(key).expect("a live framework");
    let Some(stream) = &framework.stream else { return };
    let timeout_ms = framework.failover_timeout_ms.max(timeout_ms_min);
    draft.push(FrameworkDisconnected {
        framework: key,
        connection: stream.connection.id,
        deadline_ms: draft.at_ms.saturating_add(timeout_ms),
    });
}

/// All offers of a framework go back.
pub(crate) fn return_all(draft: &mut Draft, framework: FrameworkKey, why: Return) {
    let offers = OfferKeys::new(draft.state.offers.to(framework).collect());
    if !offers.is_empty() {
        draft.push(OffersReturned { framework, offers, why });
    }
    inverse::return_all(draft, framework, why);
}

#[cfg(test)]
mod tests {
    use crate::refusal::RefusalKind;
    use crate::testing::Cluster;
    use api::v1;
    use prost::Message;

    #[test]
    fn ids_are_counted_and_a_chosen_one_is_kept() {
        let mut cluster = Cluster::new();
        let first = cluster.subscribe();
        assert_eq!(&*cluster.framework(first).id, "C-0000");
        let own = cluster.subscribe_with(|info| info.id = Some(v1::FrameworkId { value: "C-0002".into() }));
        assert_eq!(&*cluster.framework(own).id, "C-0002");
        let third = cluster.subscribe();
        assert_eq!(&*cluster.framework(third).id, "C-0003", "an id that is taken is not minted");
    }

    #[test]
    fn a_second_stream_replaces_the_first() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:1;mem:100");
        cluster.offer();
        let old = cluster.stream_id(framework);
        let names = cluster.resubscribe(framework, |info| info.user = "other".into()).unwrap();
        assert_eq!(names, ["offers-returned", "framework-resubscribed"]);
        let info = v1::FrameworkInfo::decode(cluster.framework(framework).info.clone()).unwrap();
        assert_eq!(info.user, "root", "the user is kept");
        assert_ne!(cluster.stream_id(framework), old);
        assert!(cluster.effects_text().contains("Framework failed over"), "{}", cluster.effects_text());
        assert!(!cluster.effects_text().contains("SendRescind"), "its offers go without a word");
    }

    #[test]
    fn without_a_timeout_a_framework_is_removed_when_its_stream_ends() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe_with(|info| info.failover_timeout = Some(-1.0));
        assert_eq!(cluster.disconnect(framework), ["framework-disconnected"]);
        assert_eq!(cluster.state.next_deadline(), Some(cluster.at_ms));
        assert_eq!(cluster.deadline_passed(), ["framework-removed"]);
        let refusal = cluster.resubscribe(framework, |_| {}).unwrap_err();
        assert_eq!((refusal.kind, refusal.message.as_str()), (RefusalKind::OnStream, "Framework has been removed"));
    }

    #[test]
    fn a_framework_that_a_master_let_go_has_time_to_find_another() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe_with(|info| info.failover_timeout = None);
        assert_eq!(cluster.let_go(framework), ["framework-disconnected"]);
        assert_eq!(cluster.state.next_deadline(), Some(cluster.at_ms + 600_000));
        assert_eq!(cluster.deadline_passed(), [""; 0]);
        assert_eq!(cluster.resubscribe(framework, |_| {}).unwrap(), ["framework-resubscribed"]);
    }

    #[test]
    fn roles_that_are_not_listed_are_refused() {
        let mut cluster = Cluster::new();
        cluster.chosen.whitelist = Some(std::sync::Arc::new(["web".into(), "db".into()].into()));
        let framework = cluster.subscribe_with(|info| info.roles = vec!["web".into(), "*".into()]);
        let refusal = cluster.try_subscribe(|info| info.roles = vec!["web".into(), "dev".into()], &[]).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::OnStream);
        assert_eq!(refusal.message, "Roles { dev } are not present in the master's --roles");
        assert!(
            cluster.try_subscribe(|info| info.roles = vec!["web/a".into()], &[]).is_err(),
            "nor what is below them"
        );
        let refusal = cluster.update_framework(framework, |info| info.roles = vec!["dev".into()]).unwrap_err();
        assert!(refusal.message.ends_with("Roles { dev } are not present in the master's --roles"), "{refusal}");
        assert!(cluster.update_framework(framework, |info| info.roles = vec!["db".into()]).is_ok());
    }

    #[test]
    fn a_framework_in_time_keeps_its_tasks() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe_with(|info| info.failover_timeout = Some(10.0));
        cluster.disconnect(framework);
        cluster.at_ms += 9_999;
        assert_eq!(cluster.deadline_passed(), [""; 0]);
        assert_eq!(cluster.resubscribe(framework, |_| {}).unwrap(), ["framework-resubscribed"]);
        assert_eq!(cluster.state.next_deadline(), None);
    }

    #[test]
    fn the_end_of_a_replaced_stream_means_nothing() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let old = cluster.framework(framework).stream.clone().unwrap().connection;
        cluster.resubscribe(framework, |_| {}).unwrap();
        assert_eq!(cluster.disconnect_stream(framework, old), [""; 0]);
    }

    #[test]
    #[allow(deprecated)] // The role of frameworks without MULTI_ROLE.
    fn what_is_wrong_with_a_framework_is_said_on_its_stream() {
        let mut cluster = Cluster::new();
        let mut refused = |change: &dyn Fn(&mut v1::FrameworkInfo), suppressed: &[&str]| {
            let refusal = cluster.try_subscribe(change, suppressed).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::OnStream);
            refusal.message
        };
        assert_eq!(
            refused(&|info| info.roles = vec!["a/../b".into()], &[]),
            "'FrameworkInfo.roles' contains invalid role: Role 'a/../b' cannot include '..' as a component"
        );
        assert_eq!(
            refused(&|info| info.roles = vec!["/a".into()], &[]),
            "'FrameworkInfo.roles' contains invalid role: Role '/a' cannot start with a slash"
        );
        assert_eq!(
            refused(&|info| info.role = Some("x".into()), &[]),
            "'FrameworkInfo.role' must not be set when the framework is MULTI_ROLE capable"
        );
        assert_eq!(
            refused(&|info| info.capabilities.clear(), &[]),
            "'FrameworkInfo.roles' must not be set when the framework is not MULTI_ROLE capable"
        );
        assert_eq!(
            refused(&|info| info.roles = vec!["a".into(), "a".into()], &[]),
            "'FrameworkInfo.roles' contains duplicate items: { a }"
        );
        assert_eq!(refused(&|_| {}, &["other"]), "Suppressed role 'other' is not contained in the list of roles");
        assert!(refused(&|info| info.failover_timeout = Some(1e300), &[]).contains("failover_timeout"));
        assert!(refused(&|info| info.name = "x".repeat(300_000), &[]).starts_with("'FrameworkInfo' has 300"));
    }
}
