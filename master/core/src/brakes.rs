//! The story of brakes: an operator pauses allocation for all, for a role or for a framework, or refuses new frameworks,
//! says why, and releases it again. What is offered already stays offered, and what runs goes on.

use crate::command::{Caller, What};
use crate::decide::{Draft, Reply};
use crate::event::{BrakePulled, BrakeReleased};
use crate::permit;
use crate::refusal::{Refusal, RefusalKind};
use crate::state::brakes::Brake;
use api::limits::{BRAKES_MAX, SENTENCE_BYTES_MAX};
use api::resources::role_problem;
use std::sync::Arc;

/// Pauses or releases something. Asking again is welcome; releasing what is not paused is not.
pub(crate) fn decide(
    draft: &mut Draft,
    what: &What,
    release: bool,
    why: &str,
    caller: &Caller,
) -> Result<Reply, Refusal> {
    if !draft.state.feature_level.has_resource_model() {
        let message = "Nothing can be paused until every master of this cluster has been upgraded";
        return Err(Refusal::new(RefusalKind::NotImplemented, "NotImplemented", message));
    }
    if why.len() > SENTENCE_BYTES_MAX {
        let message = format!("'why' has {} bytes, more than the {SENTENCE_BYTES_MAX} that are allowed", why.len());
        return Err(Refusal::invalid("TooLarge", message));
    }
    let brake = brake(draft, what)?;
    permit::brake(draft, caller, what)?;
    let (why, by) = (Arc::<str>::from(why.trim()), caller.principal.as_deref().map(Arc::from));
    let pulled = draft.state.brakes.pulled.get(&brake);
    if release {
        if pulled.is_none() {
            return Err(Refusal::invalid("NotPaused", format!("{} not paused", named(what))));
        }
        draft.push(BrakeReleased { brake, why, by });
        return Ok(Reply::Empty);
    }
    if why.is_empty() {
        return Err(Refusal::invalid("InvalidCall", "Expecting 'why' to be present: others will ask"));
    }
    if pulled.is_none() && draft.state.brakes.pulled.len() >= BRAKES_MAX {
        let message = format!("{BRAKES_MAX} things are paused already, and no more are allowed");
        return Err(Refusal::new(RefusalKind::Conflict, "TooLarge", message));
    }
    if pulled.is_none_or(|pulled| pulled.why != why) {
        draft.push(BrakePulled { brake, why, by });
    }
    Ok(Reply::Empty)
}

fn brake(draft: &Draft, what: &What) -> Result<Brake, Refusal> {
    Ok(match what {
        What::Allocation => Brake::Allocation,
        What::NewFrameworks => Brake::NewFrameworks,
        What::Role(role) => match role_problem(role) {
            Some(problem) => return Err(Refusal::invalid("InvalidCall", problem)),
            None => Brake::Role(role.as_str().into()),
        },
        What::Framework(id) => {
            let framework = draft.state.frameworks.by_id(id);
            let unknown = || Refusal::invalid("UnknownFramework", "No framework found with specified ID");
            Brake::Framework(framework.ok_or_else(unknown)?.key)
        }
    })
}

fn named(what: &What) -> String {
    match what {
        What::Allocation => "Allocation is".into(),
        What::NewFrameworks => "New frameworks are".into(),
        What::Role(role) => format!("Role '{}' is", api::limits::quoted(role)),
        What::Framework(id) => format!("Framework '{}' is", api::limits::quoted(id)),
    }
}

/// A framework that is not known yet wants to subscribe.
pub(crate) fn check_new_framework(draft: &Draft) -> Result<(), Refusal> {
    let Some(pulled) = draft.state.brakes.new_frameworks() else { return Ok(()) };
    let message = format!("New frameworks are refused for now: {}", pulled.why);
    Err(Refusal::new(RefusalKind::OnStream, "FrameworksRefused", message))
}

#[cfg(test)]
mod tests {
    use crate::command::{Caller, Command, What};
    use crate::testing::Cluster;

    fn brake(cluster: &mut Cluster, release: bool, what: What) -> Result<Vec<&'static str>, String> {
        let caller = Caller { principal: Some("ops".into()), ..Caller::default() };
        let command = Command::Brake { what, release, why: "a bad night".into() };
        cluster.run(command, &caller).map_err(|refusal| refusal.message)
    }

    fn holds(cluster: &Cluster) -> Vec<String> {
        let web = |framework: &std::sync::Arc<crate::state::Framework>| {
            let held = cluster.state.brakes.hold(framework.key, "web/shop");
            held.map_or("-".into(), |(brake, pulled)| format!("{brake:?} {} {:?}", pulled.why, pulled.by))
        };
        cluster.state.frameworks.live.values().map(web).collect()
    }

    #[test]
    fn the_widest_brake_is_the_reason_until_it_is_released() {
        let mut cluster = Cluster::new();
        cluster.raise();
        let (a, _) = (cluster.subscribe(), cluster.subscribe());
        let id = crate::view::framework_id(&cluster.state, a);
        assert_eq!(brake(&mut cluster, false, What::Framework(id.clone())).unwrap(), ["brake-pulled"]);
        assert_eq!(holds(&cluster), [r#"Framework(FrameworkKey(0)) a bad night Some("ops")"#, "-"]);
        assert_eq!(brake(&mut cluster, false, What::Role("web".into())).unwrap(), ["brake-pulled"]);
        assert!(holds(&cluster).iter().all(|held| held.starts_with(r#"Role("web")"#)));
        assert_eq!(brake(&mut cluster, false, What::Allocation).unwrap(), ["brake-pulled"]);
        assert_eq!(brake(&mut cluster, false, What::Allocation).unwrap(), [""; 0], "once is enough");
        assert!(holds(&cluster).iter().all(|held| held.starts_with("Allocation")));
        assert_eq!(brake(&mut cluster, true, What::Allocation).unwrap(), ["brake-released"]);
        assert_eq!(brake(&mut cluster, true, What::Allocation).unwrap_err(), "Allocation is not paused");
        assert_eq!(brake(&mut cluster, true, What::Role("web".into())).unwrap(), ["brake-released"]);

        let mut bytes = Vec::new();
        cluster.state.write_snapshot(&mut bytes).unwrap();
        let read = crate::State::read_snapshot(&mut bytes.as_slice()).unwrap();
        assert_eq!(read.brakes, cluster.state.brakes);
        cluster.teardown(a);
        assert!(cluster.state.brakes.pulled.is_empty(), "it goes with its framework");
        assert_eq!(
            brake(&mut cluster, false, What::Framework(id)).unwrap_err(),
            "No framework found with specified ID"
        );
    }

    #[test]
    fn frameworks_that_are_known_may_come_back_while_new_ones_are_refused() {
        let mut cluster = Cluster::new();
        assert!(brake(&mut cluster, false, What::NewFrameworks).unwrap_err().contains("has been upgraded"));
        cluster.raise();
        let known = cluster.subscribe();
        brake(&mut cluster, false, What::NewFrameworks).unwrap();
        let refusal = cluster.try_subscribe(|_| {}, &[]).unwrap_err();
        assert_eq!(refusal.message, "New frameworks are refused for now: a bad night");
        assert!(cluster.resubscribe(known, |_| {}).is_ok());
        brake(&mut cluster, true, What::NewFrameworks).unwrap();
        assert!(cluster.try_subscribe(|_| {}, &[]).is_ok());
    }

    #[test]
    fn a_reason_is_needed() {
        let mut cluster = Cluster::new();
        cluster.raise();
        let command = Command::Brake { what: What::Allocation, release: false, why: " ".into() };
        assert!(cluster.run(command, &Caller::default()).unwrap_err().message.contains("'why'"));
        let command = Command::Brake { what: What::Role("a//b".into()), release: false, why: "x".into() };
        assert_eq!(cluster.run(command, &Caller::default()).unwrap_err().name, "InvalidCall");
    }
}
