//! Whole clusters in one thread and on virtual time, from one seed: the real masters, the real core of agents, and
//! frameworks and operators that behave as badly as they may. See `docs/simulator.md`.

// Set by whoever builds for a run: with it the order of `select!` follows from the seed.
#![allow(unexpected_cfgs)]

pub mod agent;
pub mod cluster;
pub mod doorkeeper;
mod executor;
pub mod framework;
pub mod invariants;
pub mod master;
pub mod net;
pub mod operator;
mod provider;
pub mod random;
pub mod scenario;
pub mod shrink;
mod wishes;
mod within;
pub mod world;
