//! Every decoder and parser, asked with broken inputs. None may panic, none may take more memory than its input allows,
//! and what was read must be the same when it is written and read again.
//!
//! Plain search on stable Rust: inputs are changed at random from one seed; the outcomes (sentences of errors, mostly)
//! guide it. Inputs that found something stay in `corpus/TARGET/` and are asked first, always.

mod doors;
pub mod members;
pub mod memory;
pub mod mutate;
pub mod search;
pub mod seeds;
pub mod targets;
pub mod tasks;
