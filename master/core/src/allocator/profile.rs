//! What the allocator's book knows of an agent or a framework, from what State has.

use crate::state::{Agent, Framework, State};
use allocator::{AgentProfile, Amounts, Capabilities, FrameworkProfile};
use api::resources::{Name, SCALAR_MILLI_MAX, scalar_milli};
use api::v1;
use prost::Message;
use std::sync::Arc;

pub(super) fn of_agent(agent: &Agent) -> AgentProfile {
    let info = v1::AgentInfo::decode(agent.info.clone()).unwrap_or_default();
    let domain = info.domain.and_then(|domain| domain.fault_domain);
    let can = |name: &str| agent.capabilities.iter().any(|known| &**known == name);
    AgentProfile {
        hostname: agent.hostname.clone(),
        attributes: info.attributes.into(),
        region: domain.as_ref().map(|domain| domain.region.name.as_str().into()),
        zone: domain.as_ref().map(|domain| domain.zone.name.as_str().into()),
        multi_role: can("MULTI_ROLE"),
        hierarchical_role: can("HIERARCHICAL_ROLE"),
    }
}

/// Whether what the book knows of them differs.
pub(super) fn differs(old: &Framework, new: &Framework) -> bool {
    old.capabilities != new.capabilities || old.info != new.info || !old.roles.keys().eq(new.roles.keys())
}

pub(super) fn of_framework(framework: &Framework, state: &State) -> FrameworkProfile {
    let crate::state::frameworks::Capabilities {
        multi_role,
        reservation_refinement,
        revocable_resources,
        gpu_resources,
        shared_resources,
        region_aware,
        ..
    } = framework.capabilities;
    let info = v1::FrameworkInfo::decode(framework.info.clone()).unwrap_or_default();
    let least = info.offer_filters.iter().filter_map(|(role, filters)| {
        let least = filters.min_allocatable_resources.as_ref()?;
        Some((Arc::from(role.as_str()), least.quantities.iter().map(amounts).collect()))
    });
    FrameworkProfile {
        roles: framework.roles.keys().cloned().collect(),
        capabilities: Capabilities {
            multi_role,
            reservation_refinement,
            revocable_resources,
            gpu_resources,
            shared_resources,
            region_aware,
        },
        min_allocatable: least.collect(),
        constraints: state.constraints.of(framework.key).map(|ready| (**ready).clone()).unwrap_or_default(),
    }
}

fn amounts(quantities: &v1::offer_filters::ResourceQuantities) -> Amounts {
    let mut sum = Amounts::default();
    for (name, scalar) in &quantities.quantities {
        sum.add_one(&Name::from(name.as_str()), milli(scalar.value).into());
    }
    sum
}

/// More than there may be of anything is still more than there is.
fn milli(value: f64) -> i64 {
    scalar_milli(value).unwrap_or(if value > 1.0 { SCALAR_MILLI_MAX } else { 0 })
}
