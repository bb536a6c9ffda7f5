//! The agent in the world: its log on a disk, its connection to the masters, its containers, and its HTTP endpoints.

mod agent;
mod attach;
mod checks;
mod config;
mod dial;
mod executor_socket;
mod executors;
mod files;
mod gc;
mod http;
mod identity;
mod images;
mod incoming;
mod isolation;
mod logger;
mod machine;
mod masters;
mod nested;
mod orders;
mod oversubscription;
mod paths;
mod permit;
mod place;
mod promised;
mod reads;
mod records;
mod run;
mod secrets;
pub mod surroundings;
mod systemd;
mod v1_calls;
mod volumes;
mod waiting;

pub use run::run;
pub use supervisor;
pub use supervisor::spec;
