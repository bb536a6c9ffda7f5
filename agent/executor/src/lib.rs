//! The default executor: runs the groups of tasks that a framework gives it, each task in a container of its own within the
//! executor's. It is a client of its agent and of nobody else, and outlives it: what was not acknowledged is said again.
//!
//! ```text
//! SUBSCRIBED, LAUNCH_GROUP, KILL, ACKNOWLEDGED, SHUTDOWN ─► tasks ─► UPDATE
//!                                                            └─► LAUNCH_CONTAINER, WAIT_CONTAINER, KILL_CONTAINER
//! ```
//!
//! [`Tasks`] decides and does no I/O; `run` carries out what it wants.

mod agent;
mod drive;
mod surroundings;
mod tasks;
mod watch;
mod within;

pub use drive::run;
pub use surroundings::Surroundings;
pub use tasks::{Input, Limited, Tasks, Wish};

/// The program, which lies beside `meseta-executor`.
pub const NAME: &str = "meseta-default-executor";
