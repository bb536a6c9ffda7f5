//! The story of saying no: DECLINE, and for how long.

use crate::decide::Draft;
use crate::event::{OfferKeys, OffersDeclined};
use crate::ids::{AgentKey, FrameworkKey, OfferKey};
use crate::view;
use api::resources::Resources;
use api::v1;

/// The longest refusal, in milliseconds: a year.
const REFUSE_MS_MAX: u64 = 365 * 24 * 3600 * 1000;

/// Refused for this long unless the framework says otherwise, in milliseconds.
const REFUSE_MS_DEFAULT: u64 = 5000;

/// DECLINE: offers that are not outstanding, or not its own, are no longer its business; none at all is legal.
pub(crate) fn decline(draft: &mut Draft, framework: FrameworkKey, call: &v1::scheduler::call::Decline) {
    let offers = call
        .offer_ids
        .iter()
        .filter_map(|id| view::parse_offer_id(&draft.state, &id.value))
        .filter(|key| draft.state.offers.get(*key).is_some_and(|offer| offer.framework == framework));
    let until_ms = refused_until(draft, call.filters.as_ref());
    // What is refused for longer already stays refused for so long.
    let (longer, others): (Vec<OfferKey>, Vec<OfferKey>) = offers.partition(|key| {
        let offer = draft.state.offers.get(*key);
        offer.is_some_and(|offer| is_refused(draft, framework, &offer.role, offer.agent, &offer.resources, until_ms))
    });
    for (offers, until_ms) in [(longer, None), (others, until_ms)] {
        let offers = OfferKeys::new(offers);
        if !offers.is_empty() {
            draft.push(OffersDeclined { framework, offers, until_ms });
        }
    }
}

/// Whether the framework refuses this already, and for longer than until then.
pub(crate) fn is_refused(
    draft: &Draft,
    framework: FrameworkKey,
    role: &str,
    agent: AgentKey,
    resources: &Resources,
    until_ms: Option<u64>,
) -> bool {
    let role = draft.state.frameworks.get(framework).and_then(|framework| framework.roles.get(role));
    let filter = role.and_then(|role| role.filters.get(&agent));
    filter.is_some_and(|filter| {
        until_ms.is_some_and(|until_ms| filter.until_ms > until_ms) && filter.resources.contains(resources)
    })
}

/// Until when a refusal with these filters holds; None: not at all. It holds until the next plan at least, which would not
/// know of it otherwise.
pub(crate) fn refused_until(draft: &Draft, filters: Option<&v1::Filters>) -> Option<u64> {
    until(filters, draft.at_ms, draft.options.refuse_ms_min)
}

fn until(filters: Option<&v1::Filters>, at_ms: u64, refuse_ms_min: u64) -> Option<u64> {
    let refuse_ms = match filters.and_then(|filters| filters.refuse_seconds) {
        None => REFUSE_MS_DEFAULT,
        Some(seconds) if seconds.is_nan() || seconds < 0.0 => REFUSE_MS_DEFAULT,
        Some(seconds) if seconds * 1000.0 >= REFUSE_MS_MAX as f64 => REFUSE_MS_MAX,
        Some(seconds) => (seconds * 1000.0).round() as u64,
    };
    (refuse_ms > 0).then(|| at_ms.saturating_add(refuse_ms.max(refuse_ms_min)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Cluster;

    #[test]
    fn refusals_have_bounds() {
        let until = |seconds: f64| until(Some(&v1::Filters { refuse_seconds: Some(seconds) }), 100, 1_000);
        assert_eq!(super::until(None, 100, 1_000), Some(5_100));
        assert_eq!(super::until(None, 100, 60_000), Some(60_100), "at least until the next plan");
        assert_eq!(until(-1.0), Some(5_100));
        assert_eq!(until(f64::NAN), Some(5_100));
        assert_eq!(until(0.0), None);
        assert_eq!(until(0.1), Some(1_100), "at least until the next plan");
        assert_eq!(until(7.5), Some(7_600));
        assert_eq!(until(f64::INFINITY), Some(100 + REFUSE_MS_MAX));
    }

    #[test]
    fn what_was_declined_comes_back_when_the_filter_is_over() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:1;mem:100");
        let offers = cluster.offer();
        assert_eq!(cluster.decline(framework, &offers, Some(60.0)), ["offers-declined"]);
        assert_eq!(cluster.decline(framework, &offers, Some(60.0)), [""; 0], "a stale offer is nobody's business");
        assert!(cluster.offer().is_empty());
        cluster.at_ms += 59_999;
        assert!(cluster.offer().is_empty());
        cluster.at_ms += 1;
        assert_eq!(cluster.offer().len(), 1);
    }

    #[test]
    fn more_than_was_declined_is_offered() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:2;mem:100");
        let task = cluster.launch(framework, "t", "cpus:1;mem:50");
        let rest = cluster.offer();
        cluster.decline(framework, &rest, Some(60.0));
        assert!(cluster.offer().is_empty());
        cluster.update(&task, v1::TaskState::TaskFinished);
        assert_eq!(cluster.offer().len(), 1);
    }

    #[test]
    fn a_shorter_refusal_does_not_take_the_place_of_a_longer_one() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:2;mem:200");
        let task = cluster.launch(framework, "t", "cpus:1;mem:100");
        let first = cluster.offer();
        // The other half comes as an offer of its own.
        cluster.update(&task, v1::TaskState::TaskFinished);
        let second = cluster.offer();
        assert_eq!((first.len(), second.len()), (1, 1));
        cluster.decline(framework, &first, Some(3600.0));
        cluster.decline(framework, &second, Some(5.0));
        let filters: Vec<u64> =
            cluster.framework(framework).roles["web"].filters.values().map(|it| it.until_ms).collect();
        assert_eq!(filters, [cluster.at_ms + 3_600_000]);
    }
}
