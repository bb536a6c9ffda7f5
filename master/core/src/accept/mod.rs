//! The story of saying yes: ACCEPT consumes offers of one agent and role, its operations run in order on what they
//! hold, each upon what the one before made of it, and what they leave over is declined.

pub(crate) mod convert;
mod disk;
mod reserve;
mod resize;
pub(crate) mod rules;
mod volume;

use crate::decide::Draft;
use crate::decline::refused_until;
use crate::event::{OfferKeys, OffersAccepted, OffersReturned, Return, Unused};
use crate::ids::{FrameworkKey, OfferKey};
use crate::launch::{self, Launch};
use crate::operations;
use crate::refusal::{Refusal, RefusalKind};
use crate::resources;
use crate::task_state;
use crate::view;
use api::limits::quoted;
use api::resources::Resources;
use api::v1;
use api::v1::offer::operation::Type;
use api::v1::task_status::Reason;
use std::collections::BTreeSet;

/// Operations on resources that this cluster cannot log yet are refused with their call: nothing could say that one without
/// an id did not happen.
pub(crate) fn check_level(draft: &Draft, call: &v1::scheduler::call::Accept) -> Result<(), Refusal> {
    let kind = call.operations.iter().map(kind_of).find(|kind| operations::is_conversion(*kind));
    kind.map_or(Ok(()), |kind| operations::check_level(&draft.state, kind))
        .map_err(|why| Refusal::new(RefusalKind::NotImplemented, "NotBuilt", why))
}

const ID_ON_LAUNCH: &str = "The `id` field cannot be set on LAUNCH operations";
const ID_ON_GROUP: &str = "The `id` field cannot be set on LAUNCH_GROUP operations";

fn kind_of(operation: &v1::offer::Operation) -> Type {
    operation.r#type.and_then(|number| Type::try_from(number).ok()).unwrap_or(Type::Unknown)
}

/// ACCEPT.
pub(crate) fn accept(draft: &mut Draft, framework: FrameworkKey, call: &v1::scheduler::call::Accept) {
    match check_offers(draft, framework, &call.offer_ids) {
        Ok(offers) => accept_valid(draft, framework, offers, call),
        Err(why) => refuse_all(draft, framework, call, &why),
    }
}

fn accept_valid(draft: &mut Draft, framework: FrameworkKey, offers: Vec<OfferKey>, call: &v1::scheduler::call::Accept) {
    let first = draft.state.offers.get(offers[0]).expect("a checked offer");
    let (agent, role) = (first.agent, first.role.clone());
    let mut remaining = Resources::default();
    for offer in &offers {
        resources::add(&mut remaining, &draft.state.offers.get(*offer).expect("a checked offer").resources);
    }
    // What is shared may be in several offers, and is one thing.
    let remaining = remaining.once();
    // The offers are consumed first: what is made and launched holds their resources from then on.
    let at = draft.events();
    draft.push(OffersAccepted { framework, offers: OfferKeys::new(offers), agent, unused: None });
    let mut launch = Launch::new(draft, framework, agent, role.clone(), remaining);
    for operation in &call.operations {
        perform(draft, &mut launch, operation);
        std::mem::take(&mut launch.events).into_iter().for_each(|event| draft.push(event));
    }
    // What was made just now is offered again without delay.
    let rest = resources::minus(&launch.remaining, &launch.converted);
    if let Some(until_ms) = refused_until(draft, call.filters.as_ref()).filter(|_| !rest.is_empty()) {
        draft.leave_over(at, Unused { role, resources: rest, until_ms });
    }
}

fn perform(draft: &mut Draft, launch: &mut Launch, operation: &v1::offer::Operation) {
    let framework = launch.framework;
    match kind_of(operation) {
        Type::Launch => {
            let tasks = operation.launch.as_ref().map_or(&[][..], |body| &body.task_infos);
            // Of one that names what is no resource nothing is launched.
            let malformed = resources::malformed(tasks.iter().flat_map(launch::resources_of));
            let no_id = || operation.id.as_ref().map(|_| ID_ON_LAUNCH.to_owned());
            match malformed.or_else(no_id) {
                Some(why) => tasks.iter().for_each(|task| launch.refuse(task, Reason::TaskInvalid, &why)),
                None => tasks.iter().for_each(|task| launch.task(draft, task)),
            }
        }
        Type::LaunchGroup => {
            let Some(body) = &operation.launch_group else { return };
            let tasks = &body.task_group.tasks;
            let all = body.executor.resources.iter().chain(tasks.iter().flat_map(launch::resources_of));
            let no_id = || operation.id.as_ref().map(|_| ID_ON_GROUP.to_owned());
            match resources::malformed(all).or_else(no_id) {
                Some(why) => tasks.iter().for_each(|task| launch.refuse(task, Reason::TaskGroupInvalid, &why)),
                None => launch.group(draft, body),
            }
        }
        Type::Unknown => {
            // As at Mesos nobody is told: it may be of a newer schema, with an id that means something else.
            let nameless = v1::offer::Operation { id: None, ..operation.clone() };
            draft.refuse_operation(framework, Some(launch.agent), &nameless, "The type of the operation is unknown");
        }
        kind @ (Type::CreateDisk
        | Type::DestroyDisk
        | Type::Reserve
        | Type::Unreserve
        | Type::Create
        | Type::Destroy
        | Type::GrowVolume
        | Type::ShrinkVolume) => operations::of_framework(draft, launch, kind, operation),
    }
}

/// The offers of a call, or why they cannot be accepted together.
fn check_offers(draft: &Draft, framework: FrameworkKey, ids: &[v1::OfferId]) -> Result<Vec<OfferKey>, String> {
    if ids.is_empty() {
        return Err("No offers specified".to_owned());
    }
    let state = &draft.state;
    let (mut keys, mut seen): (Vec<OfferKey>, BTreeSet<OfferKey>) = (Vec::with_capacity(ids.len()), BTreeSet::new());
    for id in ids {
        let key = view::parse_offer_id(state, &id.value);
        let offer = key.and_then(|key| state.offers.get(key));
        let Some(offer) = offer else { return Err(format!("Offer {} is no longer valid", quoted(&id.value))) };
        if !seen.insert(offer.key) {
            return Err(format!("Duplicate offer {} in offer list", id.value));
        }
        if offer.framework != framework {
            return Err(format!(
                "Offer {} has invalid framework {} while framework {} is expected",
                id.value,
                view::framework_id(state, offer.framework),
                view::framework_id(state, framework)
            ));
        }
        if let Some(first) = keys.first().and_then(|key| state.offers.get(*key)) {
            if first.role != offer.role {
                return Err(format!(
                    "Aggregated offers must be allocated to the same role. Offer {} uses role '{}' but another is \
                     using role '{}'",
                    id.value, offer.role, first.role
                ));
            }
            if first.agent != offer.agent {
                return Err(format!(
                    "Aggregated offers must belong to one single agent. Offer {} uses agent {} and agent {}",
                    id.value,
                    view::agent_id(state, offer.agent),
                    view::agent_id(state, first.agent)
                ));
            }
        }
        keys.push(offer.key);
    }
    Ok(keys)
}

/// No operation of the call happens. Those of its offers that are valid go back without a filter.
fn refuse_all(draft: &mut Draft, framework: FrameworkKey, call: &v1::scheduler::call::Accept, why: &str) {
    let own = call
        .offer_ids
        .iter()
        .filter_map(|id| view::parse_offer_id(&draft.state, &id.value))
        .filter(|key| draft.state.offers.get(*key).is_some_and(|offer| offer.framework == framework));
    let offers = OfferKeys::new(own.collect());
    if !offers.is_empty() {
        draft.push(OffersReturned { framework, offers, why: Return::Invalid });
    }
    let speaker = draft.state.frameworks.get(framework).expect("the speaker is live");
    let state = task_state::lost_or(v1::TaskState::TaskDropped, speaker);
    for operation in &call.operations {
        let launched = operation.launch.iter().flat_map(|body| &body.task_infos);
        let grouped = operation.launch_group.iter().flat_map(|body| &body.task_group.tasks);
        for task in launched.chain(grouped) {
            let why = format!("Task launched with invalid offers: {why}");
            draft.push(launch::refused(framework, task, state, Reason::InvalidOffers, &why));
        }
        if operation.launch.is_none() && operation.launch_group.is_none() {
            let why = format!("Operation attempted with invalid offers: {why}");
            draft.refuse_operation(framework, None, operation, &why);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ids::OfferKey;
    use crate::testing::{Cluster, operation, task_info};
    use api::v1;

    #[test]
    fn the_rest_of_an_offer_is_declined() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:4;mem:100");
        let offers = cluster.offer();
        let launch = operation(vec![task_info("a", "cpus:1;mem:10"), task_info("b", "cpus:1;mem:10")]);
        assert_eq!(
            cluster.accept(framework, &offers, vec![launch]),
            ["offers-accepted", "task-launched", "task-launched"]
        );
        assert!(cluster.offer().is_empty(), "for 5 seconds");
        cluster.at_ms += 5_000;
        assert_eq!(cluster.offer().len(), 1);
        assert_eq!(cluster.state.agents.live.values().next().unwrap().outbox.len(), 2);
    }

    #[test]
    fn a_launch_of_nothing_is_a_decline() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:4;mem:100");
        let offers = cluster.offer();
        assert_eq!(cluster.accept(framework, &offers, vec![operation(vec![])]), ["offers-accepted"]);
        assert!(cluster.offer().is_empty());
    }

    #[test]
    fn tasks_on_stale_offers_are_lost_and_the_rest_goes_back() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:4;mem:100");
        let mut offers = cluster.offer();
        offers.push(OfferKey(77));
        let names = cluster.accept(framework, &offers, vec![operation(vec![task_info("t", "cpus:1;mem:10")])]);
        assert_eq!(names, ["offers-returned", "launch-refused"]);
        let status = cluster.statuses().pop().unwrap();
        assert_eq!(status.state(), v1::TaskState::TaskLost);
        assert_eq!(status.reason(), v1::task_status::Reason::InvalidOffers);
        assert_eq!(status.message(), "Task launched with invalid offers: Offer C-O77 is no longer valid");
        assert_eq!(status.uuid, None);
        assert_eq!(cluster.offer().len(), 1, "without a filter");
    }
}
