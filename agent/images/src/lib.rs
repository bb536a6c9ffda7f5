//! Images of containers: where they come from, what is kept of them, and root file systems made of them. Knows no log, no masters
//! and no agent; whoever has a container asks for its root, and says when it is over.
//!
//! ```text
//! name ─► Reference ─► Store: kept? ─► registry, archive or folder ─► layers: verified, unpacked, synced, then named
//!                        └─► Held ─► Provisioner: overlay, copy or bind ─► a root, and what the image says of its process
//! ```

mod appc;
mod archive;
mod auth;
mod backend;
mod digest;
mod layer;
mod manifest;
mod name;
mod provisioner;
mod pull;
mod reference;
mod registry;
mod runtime;
mod source;
mod store;
mod tree;

pub use appc::Appc;
pub use auth::Credentials;
pub use backend::{Backend, Owners};
pub use digest::Digest;
pub use layer::{Bounds, Kind, Refusal, Unpacked, unpack};
pub use manifest::{Config, Process};
pub use name::Name;
pub use provisioner::{Provisioned, Provisioner};
pub use pull::Client;
pub use reference::Reference;
pub use runtime::{Launch, command};
pub use source::Source;
pub use store::{Held, Image, Pruned, Pulls, Settings, Store, Wanted};
