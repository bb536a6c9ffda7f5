//! Who is offered what, apart from the master: a [`Book`] of agents, frameworks, roles, quotas and filters that is changed
//! by named methods, and a run over what has changed since the last one. Pure: no clock, no randomness, no floats; the
//! same history gives the same offers everywhere.

pub mod amounts;
pub mod book;
pub mod constraints;
pub mod dice;
pub mod ids;
pub mod options;
pub mod queue;
mod re2;
pub mod share;
pub mod tally;
pub mod tree;
pub mod why;

pub use amounts::Amounts;
pub use book::{AgentProfile, Book, Capabilities, FrameworkProfile, Proposed, Run, Unavailability, Use, Which};
pub use constraints::OfferConstraints;
pub use ids::{AgentKey, FrameworkKey};
pub use options::{Options, Sorting};
pub use share::Share;
pub use tree::{Quota, Tree, WEIGHT_MICRO};
pub use why::WhyNot;
