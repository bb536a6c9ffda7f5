//! Which agents frameworks want to be offered.

use crate::ids::FrameworkKey;
use allocator::OfferConstraints;
use allocator::constraints::{Limits, Subject};
use api::v1::{AgentInfo, scheduler};
use bytes::Bytes;
use imbl::OrdMap;
use prost::Message;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Which agents frameworks want to be offered: a part of their calls, not of what they are. Who is not here takes all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Constraints {
    /// The `OfferConstraints` in protobuf, of each live framework that has some.
    pub said: OrdMap<FrameworkKey, Bytes>,
    /// The same, ready to be asked. Derived.
    #[serde(skip)]
    pub ready: OrdMap<FrameworkKey, Arc<OfferConstraints>>,
}

impl Constraints {
    pub(crate) fn set(&mut self, framework: FrameworkKey, said: &Bytes) {
        if said.is_empty() {
            return self.forget(framework);
        }
        self.ready.insert(framework, ready(said));
        self.said.insert(framework, said.clone());
    }

    pub(crate) fn forget(&mut self, framework: FrameworkKey) {
        self.said.remove(&framework);
        self.ready.remove(&framework);
    }

    pub(crate) fn rebuild(&mut self) {
        self.ready = self.said.iter().map(|(framework, said)| (*framework, ready(said))).collect();
    }

    /// The constraints of a framework, ready to be asked; None: every agent will do.
    pub fn of(&self, framework: FrameworkKey) -> Option<&Arc<OfferConstraints>> {
        self.ready.get(&framework)
    }

    /// As the framework said them.
    pub fn message(&self, framework: FrameworkKey) -> scheduler::OfferConstraints {
        let said = self.said.get(&framework).and_then(|said| scheduler::OfferConstraints::decode(said.clone()).ok());
        said.unwrap_or_default()
    }
}

/// They were judged by the flags of the leader of their time; here they are only read.
fn ready(said: &Bytes) -> Arc<OfferConstraints> {
    let limits = Limits { mem_bytes_max: u64::MAX, program_size_max: u64::MAX };
    let message = scheduler::OfferConstraints::decode(said.clone()).unwrap_or_default();
    Arc::new(OfferConstraints::new(&message, limits).unwrap_or_default())
}

/// What constraints ask of an agent.
pub fn subject(info: &AgentInfo) -> Subject<'_> {
    let domain = info.domain.as_ref().and_then(|domain| domain.fault_domain.as_ref());
    Subject {
        hostname: &info.hostname,
        region: domain.map(|domain| domain.region.name.as_str()),
        zone: domain.map(|domain| domain.zone.name.as_str()),
        attributes: &info.attributes,
    }
}
