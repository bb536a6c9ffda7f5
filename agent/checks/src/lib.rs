//! Checks and health checks of tasks: what is to be looked at and when ([`api::checks::Definition`]), what follows from what was seen
//! ([`Checker`], which knows no clock), and the look itself ([`look`]). Whoever runs tasks joins the three:
//!
//! ```text
//! Definition ─► Checker: due ─► look ─► Outcome ─► Checker ─► Verdict: a status to tell, or the end of the task
//! ```

mod checker;
pub mod command;
mod look;

pub use checker::{Checker, Outcome, Verdict};
pub use look::{Place, look};
