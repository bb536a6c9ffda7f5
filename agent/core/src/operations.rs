//! Operations on the agent's resources. The masters decide them and are the truth; the agent remembers them, makes them so on
//! its disk, and says what became of that.
//!
//! ```text
//! ApplyOperation ─► OperationTaken ─┬─► OperationEnded (nothing to do on the disk: in the same record)
//!                                   └─► Apply, on the disk ─► OperationEnded ─► the masters ─┬─► forgotten (no framework waits)
//!                                                                                            └─► acknowledged ─► forgotten
//! ```

use std::collections::BTreeSet;

use api::internal::ApplyOperation;
use api::v1::offer::Operation as Info;
use api::v1::offer::operation::Type;
use api::v1::{OperationState, OperationStatus, Resource};

use crate::command::Surroundings;
use crate::event::{Blob, Event};
use crate::state::State;
use crate::status::agent_id;
use crate::volumes;

/// The masters decided an operation. One that is known already is passed over.
pub(crate) fn take(state: &State, order: ApplyOperation, around: &mut Surroundings<'_>) -> Vec<Event> {
    if state.model.find(&order.operation).is_some() {
        return Vec::new();
    }
    let operation = order.operation.to_vec();
    let problem = problem(&order.info).err();
    let on_disk = problem.is_none() && !on_disk(&order.info).is_empty();
    let taken = Event::OperationTaken {
        operation: operation.clone(),
        framework_id: order.framework_id.map(|id| id.value),
        info: Blob::of(&order.info),
        on_disk,
        checkpointed: order.checkpointed_resources.iter().map(Blob::of).collect(),
    };
    let ended = (!on_disk).then(|| Event::OperationEnded {
        operation,
        status: Blob::of(&status(state, &order.info, problem.as_deref(), around)),
        told: true,
    });
    std::iter::once(taken).chain(ended).collect()
}

/// The disk was changed, or could not be.
pub(crate) fn report(
    state: &State,
    operation: Vec<u8>,
    failure: Option<&str>,
    around: &mut Surroundings<'_>,
) -> Vec<Event> {
    let Some((_, one)) = state.model.find(&operation).filter(|(_, one)| one.status.is_none()) else {
        return Vec::new();
    };
    let status = Blob::of(&status(state, &one.info.get(), failure, around));
    vec![Event::OperationEnded { operation, status, told: !one.forgotten }]
}

/// An operation that could not be read: what is known of it is enough to say that it failed.
pub(crate) fn invalid(
    state: &State,
    operation: Vec<u8>,
    id: Option<String>,
    sentence: &str,
    around: &mut Surroundings<'_>,
) -> Vec<Event> {
    if state.model.find(&operation).is_some() {
        return Vec::new();
    }
    let info = Info { id: id.map(|value| api::v1::OperationId { value }), ..Info::default() };
    let taken = Event::OperationTaken {
        operation: operation.clone(),
        framework_id: None,
        info: Blob::of(&info),
        on_disk: false,
        // What it would have made of them is not known: the next order says it.
        checkpointed: state.model.checkpointed.clone(),
    };
    let status = Blob::of(&status(state, &info, Some(sentence), around));
    vec![taken, Event::OperationEnded { operation, status, told: true }]
}

/// The masters know nothing of these any more.
pub(crate) fn forget(state: &State, operations: Vec<Vec<u8>>) -> Vec<Event> {
    let heard: BTreeSet<&Vec<u8>> =
        state.model.heard(state.messages.received_up_to).map(|one| &one.operation).collect();
    let operations: Vec<Vec<u8>> = operations.into_iter().filter(|operation| heard.contains(operation)).collect();
    if operations.is_empty() { Vec::new() } else { vec![Event::OperationsForgotten { operations }] }
}

/// Of those that only wait for their frameworks so many are remembered, the newest.
pub(crate) fn forget_oldest(state: &State, received_up_to: u64, kept: usize) -> Option<Event> {
    let known = state.messages.received_up_to;
    let over = state.model.heard(received_up_to).count().saturating_sub(kept);
    // What is heard only now goes, or stays, by the event that says so.
    let operations: Vec<Vec<u8>> = state.model.heard(known).take(over).map(|one| one.operation.clone()).collect();
    (!operations.is_empty()).then_some(Event::OperationsForgotten { operations })
}

fn status(state: &State, info: &Info, failure: Option<&str>, around: &mut Surroundings<'_>) -> OperationStatus {
    let ended = if failure.is_some() { OperationState::OperationFailed } else { OperationState::OperationFinished };
    OperationStatus {
        operation_id: info.id.clone(),
        state: ended as i32,
        message: failure.map(str::to_owned),
        uuid: Some(api::v1::Uuid { value: (around.random)().to_vec().into() }),
        agent_id: agent_id(state),
        ..OperationStatus::default()
    }
}

/// The volumes whose place on the disk an operation changes.
pub fn on_disk(info: &Info) -> &[Resource] {
    match info.r#type() {
        Type::Create => info.create.as_ref().map_or(&[], |create| &create.volumes),
        // With a defect planted: nobody looks for its data.
        Type::Destroy if event_log::planted(event_log::Bug::DestroyedByName) => &[],
        Type::Destroy => info.destroy.as_ref().map_or(&[], |destroy| &destroy.volumes),
        _ => &[],
    }
}

/// Why this agent cannot carry an operation out, whatever its disk says.
fn problem(info: &Info) -> Result<(), String> {
    match info.r#type() {
        Type::Create | Type::Destroy => {
            on_disk(info).iter().try_for_each(|volume| volumes::Volume::of(volume).map(drop))
        }
        Type::Reserve | Type::Unreserve | Type::GrowVolume | Type::ShrinkVolume => Ok(()),
        other => Err(format!("This agent does not know operations of the kind {}", other.as_str_name())),
    }
}
