//! What an agent remembers of the resource model: what the masters converted of its resources, operations that are not over for
//! them, whether it is to be empty, how it described itself, and what it can spare.

use std::collections::BTreeMap;

use serde::Serialize;

use api::v1::offer::Operation as OperationInfo;

use crate::event::Blob;
use crate::providers::Provided;
use crate::volumes::Volume;

/// The resource model's part of State.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Model {
    /// All that is reserved dynamically or is a volume, as the masters said it last: a `Resource` each.
    pub checkpointed: Vec<Blob>,
    /// Operations by the order in which they came, until the masters have committed what became of them; those of frameworks
    /// that gave them an id until that is acknowledged, if the masters tell of it.
    pub operations: BTreeMap<u64, Operation>,
    /// Counts operations as they come.
    pub operations_taken: u64,
    /// The masters want the agent empty.
    pub drain: Option<Drain>,
    /// `AgentInfo` as the agent described itself last.
    pub info: Option<Blob>,
    /// What it said last that it can spare: a `Resource` each.
    pub spare: Option<Vec<Blob>>,
}

/// An operation that the masters decided.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Operation {
    /// Names it for ever.
    pub operation: Vec<u8>,
    /// Who wanted it; none if an operator did.
    pub framework_id: Option<String>,
    /// `Offer.Operation`
    pub info: Blob,
    /// Whether the disk is to be changed for it.
    pub on_disk: bool,
    /// `OperationStatus`, once it is over.
    pub status: Option<Blob>,
    /// Number of the message that told its end; 0 if it is not over, or nobody is told.
    pub ended: u64,
    /// The masters that wanted it know the agent by another id now: nobody is told.
    pub forgotten: bool,
    /// The provider whose resources it is on, if they are not the agent's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provided: Option<Provided>,
}

impl Operation {
    /// Whether the masters have committed what became of it, with the messages up to a number.
    fn is_heard(&self, up_to: u64) -> bool {
        self.ended != 0 && self.ended <= up_to
    }

    /// Whether it is over with the messages up to a number.
    pub(crate) fn is_covered(&self, up_to: u64, operations_stay: bool) -> bool {
        self.is_heard(up_to) && !(operations_stay && self.has_framework())
    }

    /// Whether a framework wants to hear of it: one that gave it an id.
    fn has_framework(&self) -> bool {
        self.framework_id.is_some() && self.info.get::<OperationInfo>().id.is_some()
    }
}

/// The order to be empty.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drain {
    /// `DrainConfig`
    pub config: Blob,
    /// When it came, in milliseconds since 1970.
    pub at_ms: u64,
}

impl Model {
    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        *self == Model::default()
    }

    /// The operation of this name, with its place.
    pub fn find(&self, operation: &[u8]) -> Option<(u64, &Operation)> {
        self.operations.iter().find(|(_, one)| one.operation == operation).map(|(place, one)| (*place, one))
    }

    /// Whether a volume is being made. Orders are taken together: a task of a later one may be known before it is.
    pub fn is_to_come(&self, volume: &Volume) -> bool {
        let open = self.operations.values().filter(|one| one.on_disk && one.status.is_none());
        let mut made = open.filter_map(|one| one.info.get::<OperationInfo>().create);
        made.any(|create| create.volumes.iter().any(|made| Volume::of(made).is_ok_and(|made| made == *volume)))
    }

    /// `Resource`s that are reserved dynamically or are volumes.
    pub fn checkpointed(&self) -> Vec<api::v1::Resource> {
        self.checkpointed.iter().map(Blob::get).collect()
    }

    /// The masters have the messages up to a number, and may tell what is acknowledged of that.
    pub(crate) fn cover(&mut self, up_to: u64, operations_stay: bool) {
        self.operations.retain(|_, one| !one.is_covered(up_to, operations_stay));
    }

    /// Operations that are over, as the masters know: only their frameworks have not acknowledged it yet, as far as is known
    /// here. Oldest first.
    pub fn heard(&self, received_up_to: u64) -> impl Iterator<Item = &Operation> {
        self.operations.values().filter(move |one| one.is_heard(received_up_to))
    }

    pub(crate) fn forget_operations(&mut self, operations: &[Vec<u8>]) {
        self.operations.retain(|_, one| one.ended == 0 || !operations.contains(&one.operation));
    }

    /// A provider has heard of these, whatever it was told on which stream.
    pub(crate) fn send_again(&mut self, provider_id: &str, which: impl Fn(&Operation) -> bool) {
        for one in self.operations.values_mut() {
            let is_meant = which(one);
            if let Some(provided) = one.provided.as_mut().filter(|provided| provided.provider_id == provider_id) {
                provided.sent |= is_meant;
            }
        }
    }

    /// What was said to a provider was said on a stream that ended.
    pub(crate) fn unsend(&mut self, provider_id: &str) {
        let provided = self.operations.values_mut().filter_map(|one| one.provided.as_mut());
        provided.filter(|provided| provided.provider_id == provider_id).for_each(|provided| provided.sent = false);
    }

    /// What stays when the agent registers anew: its disk. Operations under way end on it, and nobody is told.
    pub(crate) fn forget(self) -> Model {
        let open = |(place, one): (u64, Operation)| {
            let goes_on = (one.on_disk || one.provided.is_some()) && one.status.is_none();
            goes_on.then_some((place, Operation { forgotten: true, ..one }))
        };
        Model {
            checkpointed: self.checkpointed,
            operations: self.operations.into_iter().filter_map(open).collect(),
            operations_taken: self.operations_taken,
            ..Model::default()
        }
    }
}
