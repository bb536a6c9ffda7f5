//! The heart of Meseta, pure and deterministic: a [`Command`] is decided against [`State`] into [`Event`]s, or refused;
//! events are folded into State on every master; effects are what the world must be told of it.
//!
//! There is no clock, no randomness, no task, no file and no float in any decision: `at_ms` comes in as an argument, ids
//! are counters in State, and the floats of the wire become integers at its edge.

pub mod allocator;
pub mod command;
pub mod deadlines;
pub mod decide;
mod default_executor;
pub mod effect;
pub mod equality;
pub mod event;
pub mod fold;
pub mod holders;
pub mod ids;
pub mod invariants;
pub mod level;
pub mod preemption;
pub mod react;
pub mod redact;
pub mod refusal;
pub mod roles;
pub mod seen;
pub mod state;
pub mod task_state;
pub mod validate;
pub mod view;

mod accept;
mod brakes;
mod budget;
mod by_operator;
mod calls;
mod decline;
mod drain;
mod forget;
mod identities;
mod inverse;
mod kill;
mod launch;
mod lengths;
mod lost;
mod maintenance;
mod masters;
mod message;
pub mod offer_constraints;
mod operations;
mod operator;
mod oversubscribed;
mod permit;
mod providers;
mod quota;
mod reconcile;
mod register;
mod resources;
mod revive;
mod same_executor;
mod shutdown;
mod status;
mod subscribe;
mod teardown;
mod unbuilt;
mod update;
mod update_framework;
mod weights;
mod wire;

#[cfg(test)]
mod golden_logs;
#[cfg(test)]
mod testing;

pub use ::allocator::constraints::Limits as RegexLimits;
pub use command::{Caller, Command};
pub use decide::{Decision, Reply, decide, decide_with};
pub use effect::{Announcement, Effect};
pub use event::{Event, EventError, Touches, decode_record, decode_record_at};
pub use fold::{fold, fold_record};
pub use identities::{IDENTITY_OVER, told as told_of_identity};
pub use invariants::Violation;
pub use level::FeatureLevel;
pub use lost::{Options, too_few_returned};
pub use masters::STILL_HELD;
pub use react::{asks_for_offers, react};
pub use reconcile::answers;
pub use refusal::{Denied, Refusal, RefusalKind, UNAUTHORIZED};
pub use register::STILL_SETTLING;
pub use state::State;
pub use state::snapshot::SnapshotError;
