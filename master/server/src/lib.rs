//! The master's process: HTTP, the clock, the sequencer, and the connections that this master holds. What is decided
//! and what it means is `master-core`'s; what is stored and replicated is `event-log`'s.
//!
//! A command's way: `http` → [`submit`] → `sequencer` (on the leader) → log → `applier` (on every master) →
//! `delivery` → [`streams`] and [`agents`].

pub mod agents;
mod ahead;
mod allocate;
pub mod allocations;
mod applier;
mod aside;
mod cause;
mod clock;
pub mod context;
pub mod crashes;
mod delivery;
mod entrance;
mod equality;
mod events;
pub mod flags;
mod goodbye;
pub mod http;
pub mod identity;
pub mod level;
pub mod listen;
mod liveness;
mod offers;
mod outage;
pub mod outcome;
pub mod peers;
pub mod published;
mod records;
pub mod rehearsal;
mod remote;
pub mod restore;
pub mod roles;
pub mod run;
mod samples;
mod sequencer;
pub mod streams;
pub mod submit;
pub mod threads;
pub mod throttle;
mod traces;
mod vital;
mod wire;
pub mod witness;
