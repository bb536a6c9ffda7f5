//! The agent in the world: its log on a disk, its connection to the masters, its containers, and its HTTP endpoints.

mod agent;
mod config;
mod containers;
mod dial;
mod executors;
mod gc;
mod http;
mod incoming;
mod machine;
mod masters;
mod orders;
mod oversubscription;
mod processes;
mod reads;
mod records;
mod run;
pub mod spec;
pub mod supervisor;
pub mod surroundings;
mod sys;
mod systemd;
mod v1_calls;
mod volumes;

pub use run::run;
