//! Who is offered what, apart from the master: a [`Book`](book::Book) of agents, frameworks, roles, quotas and filters
//! that is changed by named methods, and a run over what has changed since the last one. Pure: no clock, no
//! randomness, no floats; the same history gives the same offers everywhere.

pub mod constraints;
pub mod ids;
mod re2;

pub use constraints::OfferConstraints;
pub use ids::{AgentKey, FrameworkKey};
