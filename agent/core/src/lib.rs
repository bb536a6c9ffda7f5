//! The agent without the world: what happened on it ([`Event`]), what follows from that ([`State`]), and what may
//! happen next ([`decide`]). No I/O, no clock, no randomness: time and random bytes are arguments.
//!
//! ```text
//! Command ─► decide(&State, command, &mut Surroundings) ─► events ─► the agent's log ─► fold(&mut State, &Event)
//!                                                                          └─ synced ─► react(&State, &Event) ─► Effects
//! ```

mod checks;
mod command;
mod configured;
mod containers;
mod decide;
mod drain;
mod effect;
mod event;
mod executors;
mod fold;
mod kill;
mod launch;
mod limits;
mod model;
mod operations;
mod providers;
mod restore;
mod spare;
mod state;
mod status;
mod volumes;

pub use checks::is_checked;
pub use command::{Command, Facts, Limitation, Refusal, Seen, Settings, Surroundings, Unreadable, uuid_text};
pub use configured::{Policy, total};
pub use containers::{Container, Containers, Stage, id_of, parent_of, path};
pub use decide::decide;
pub use effect::{Delivery, Effect, Said, Signal, Told, part, react, resume, without_useless};
pub use event::{Blob, Event, EventError, FEATURE_LEVEL, decode_record, first};
pub use executors::check_status;
pub use fold::fold;
pub use limits::Limited;
pub use model::{Drain, Model, Operation};
pub use operations::on_disk;
pub use providers::{Provided, Provider, ProviderTold, Providers, Stated, is_end};
pub use restore::restoring;
pub use state::{
    Clock, Executor, Framework, Message, Messages, Process, Registration, State, Stop, Task, Why, is_terminal,
};
pub use volumes::{Use, Volume, uses};

/// The kind that identifies an agent's log on disk.
pub const LOG_KIND: &str = "agent";
/// The newest format of an agent's log that this release reads, and the one it writes.
pub const LOG_VERSION: u32 = 1;
/// Where the log is, below an agent's work_dir.
pub const LOG_DIR: &str = "log";
