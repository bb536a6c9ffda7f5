//! Volumes of plugins of the Container Storage Interface: what publishes them on this machine, once for all containers that use them,
//! and takes them back. Knows no log, no masters and no containers but by their ids.
//!
//! ```text
//! publish ─► NodeStageVolume ─► NodePublishVolume ─► a folder, mounted
//! withdraw, by the last ─► NodeUnpublishVolume ─► NodeUnstageVolume ─► nothing is left
//! ```
//!
//! Where a plugin's controller is known it is asked around that: ControllerPublishVolume before, ControllerUnpublishVolume behind.

mod asked;
mod calls;
mod controller;
mod node;
mod plugins;
mod record;
mod volumes;

/// What is said to plugins: see `proto/csi.proto`.
pub mod wire {
    #![allow(missing_docs, clippy::all, reason = "generated")]
    include!(concat!(env!("OUT_DIR"), "/csi.v1.rs"));
}

pub use asked::Asked;
pub use calls::Calls;
pub use controller::{Abilities, Controller, Found};
pub use node::Failure;
pub use plugins::{Plugin, Plugins, load, socket};
pub use volumes::{Published, Settings, Volumes, target};
