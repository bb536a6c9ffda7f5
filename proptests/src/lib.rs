//! Whole clusters under test: real processes on kernel-given ports, killed and stopped at will, and clients that
//! say exactly what a test wants said, byte by byte.
//!
//! Nothing here knows the insides of a daemon: what a test sees is what a client or an operator would see.

pub mod browser;
pub mod clients;
pub mod cluster;
pub mod counter;
pub mod framework;
pub mod http;
pub mod pages;
pub mod process;
pub mod scenario;
pub mod wait;
pub mod watcher;
