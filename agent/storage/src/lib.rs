//! Resource providers that an agent starts itself: storage of plugins of the Container Storage Interface, as disks. They are clients of
//! their agent, as providers outside of it are, and know nothing of what is in it.
//!
//! ```text
//! a file of --resource_provider_config_dir ─► daemon ─► provider ─► SUBSCRIBE, UPDATE_STATE ─► the agent
//! CREATE_DISK ─► written down ─► CreateVolume ─► written down ─► UPDATE_OPERATION_STATUS
//! PUBLISH_RESOURCES ─► ControllerPublishVolume, NodeStageVolume, NodePublishVolume ─► OK
//! ```

mod configs;
mod containers;
mod conversions;
mod daemon;
mod emptied;
mod host;
mod kept;
mod numbers;
mod plugin;
mod pools;
mod profiles;
mod provider;

pub use configs::{Configs, STORAGE};
pub use daemon::{Changed, Daemon, Settings};
pub use host::{Events, Host, Refused};
pub use profiles::Source;
