//! The agent in the world: its log on a disk, its connection to the masters, its containers, and its HTTP endpoints.

mod fork;
pub mod spec;
pub mod supervisor;
