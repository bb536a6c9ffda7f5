//! What stays beside a container's process: [`run`] is all of `meseta-executor` as a supervisor. The agent shares what both know:
//! the description of a container and the files that are left of it ([`spec`]), and the processes of the machine ([`processes`]).
//! Needs no runtime and no thread, but for what the agent does in the mounts of a container that runs ([`into`]).

pub mod cgroup;
mod external;
pub mod into;
pub mod mounts;
pub mod nodes;
pub mod processes;
pub mod program;
pub mod root;
mod rotate;
pub mod spec;
pub mod streams;
mod supervise;
pub mod sys;
pub mod users;
mod world;

pub use supervise::run;
