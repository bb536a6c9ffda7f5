//! Scheduler events, made from State and what is to be told.

use crate::identity::Identity;
use crate::offers;
use api::v1;
use api::v1::scheduler::{Event, event};
use master_core::effect::Effect;
use master_core::ids::FrameworkKey;
use master_core::{State, view};

/// Between two heartbeats of a stream, in seconds; clients are told.
pub(crate) const HEARTBEAT_SECONDS: u64 = 15;

/// The first event of a stream.
pub(crate) fn subscribed(state: &State, framework: FrameworkKey, here: &Identity) -> Event {
    Event {
        r#type: Some(event::Type::Subscribed as i32),
        subscribed: Some(event::Subscribed {
            framework_id: v1::FrameworkId { value: view::framework_id(state, framework) },
            heartbeat_interval_seconds: Some(HEARTBEAT_SECONDS as f64),
            master_info: here.master_info(state, here.node()),
        }),
        ..Event::default()
    }
}

/// Says that the stream is alive.
pub(crate) fn heartbeat() -> Event {
    Event { r#type: Some(event::Type::Heartbeat as i32), ..Event::default() }
}

/// Says why the stream ends.
pub(crate) fn error(message: &str) -> Event {
    Event {
        r#type: Some(event::Type::Error as i32),
        error: Some(event::Error { message: message.to_owned() }),
        ..Event::default()
    }
}

/// A status, of an update or without one.
pub(crate) fn update(status: v1::TaskStatus) -> Event {
    Event { r#type: Some(event::Type::Update as i32), update: Some(event::Update { status }), ..Event::default() }
}

/// What became of an operation.
pub(crate) fn operation_update(status: v1::OperationStatus) -> Event {
    Event {
        r#type: Some(event::Type::UpdateOperationStatus as i32),
        update_operation_status: Some(event::UpdateOperationStatus { status }),
        ..Event::default()
    }
}

/// The framework and the event that `effect` is for it; None for effects that are no event, and for what is over
/// meanwhile.
pub(crate) fn of(state: &State, effect: &Effect) -> Option<(FrameworkKey, Event)> {
    match effect {
        Effect::SendOffers { framework, offers } => {
            let offers: Vec<v1::Offer> = offers.iter().filter_map(|offer| offers::offer(state, *offer)).collect();
            (!offers.is_empty()).then(|| {
                let offers = Some(event::Offers { offers });
                (*framework, Event { r#type: Some(event::Type::Offers as i32), offers, ..Event::default() })
            })
        }
        Effect::SendRescind { framework, offer } => {
            let offer_id = v1::OfferId { value: view::offer_id(state, *offer) };
            let rescind = Some(event::Rescind { offer_id });
            Some((*framework, Event { r#type: Some(event::Type::Rescind as i32), rescind, ..Event::default() }))
        }
        Effect::SendInverseOffers { framework, offers } => {
            let offers = offers.iter().filter_map(|offer| offers::inverse_offer(state, *offer));
            let inverse_offers: Vec<v1::InverseOffer> = offers.collect();
            (!inverse_offers.is_empty()).then(|| {
                let (kind, offers) = (event::Type::InverseOffers as i32, Some(event::InverseOffers { inverse_offers }));
                (*framework, Event { r#type: Some(kind), inverse_offers: offers, ..Event::default() })
            })
        }
        Effect::SendRescindInverse { framework, offer } => {
            let inverse_offer_id = v1::OfferId { value: view::offer_id(state, *offer) };
            let kind = Some(event::Type::RescindInverseOffer as i32);
            let rescind_inverse_offer = Some(event::RescindInverseOffer { inverse_offer_id });
            Some((*framework, Event { r#type: kind, rescind_inverse_offer, ..Event::default() }))
        }
        Effect::SendOperationStatus { framework, status } => {
            Some((*framework, operation_update(v1::OperationStatus::clone(status))))
        }
        Effect::SendStatus { framework, status } => Some((*framework, update(v1::TaskStatus::clone(status)))),
        Effect::SendFailure { framework, agent, executor_id, status } => {
            let failure = Some(event::Failure {
                agent_id: Some(v1::AgentId { value: view::agent_id(state, *agent) }),
                executor_id: executor_id.as_ref().map(|id| v1::ExecutorId { value: id.to_string() }),
                // Clients read it whenever there is an executor; -1 says that nobody saw how it ended.
                status: executor_id.as_ref().map(|_| status.unwrap_or(-1)),
            });
            Some((*framework, Event { r#type: Some(event::Type::Failure as i32), failure, ..Event::default() }))
        }
        Effect::SendMessage { framework, agent, executor_id, data } => {
            let message = Some(event::Message {
                agent_id: v1::AgentId { value: view::agent_id(state, *agent) },
                executor_id: v1::ExecutorId { value: executor_id.to_string() },
                data: data.clone(),
            });
            Some((*framework, Event { r#type: Some(event::Type::Message as i32), message, ..Event::default() }))
        }
        _ => None,
    }
}
