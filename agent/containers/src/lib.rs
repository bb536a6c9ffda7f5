//! Containers as such: what creates, finds again and ends them ([`Containerizer`]), what changes them on the way ([`Isolator`]),
//! and those that are supervised processes of this machine ([`Supervised`]) or run by another
//! program ([`External`]), or by a Docker Engine ([`Docker`]). Knows no log and no masters: what comes of a
//! container is a [`Report`] to the agent's [`Core`], which decides what follows.
//!
//! ```text
//! create ─► isolators obtain ─► prepare ─► supervisor: claim ─► clone ─► join ─► exec ─► Report::Started
//! destroy ─► supervisor ends all below it ─► its end is on the disk ─► Report::Ended ─► release
//! isolators watch ─► Report::Limited ─► destroy
//! ```

pub mod cgroups;
pub mod conformance;
mod container;
mod containerizer;
mod dns;
mod docker;
mod external;
pub mod isolators;
mod netlink;
mod reports;
mod sandbox;
mod sealed;
mod supervised;
mod watch;

pub use cgroups::Cgroups;
pub use container::{Container, Limitation, Usage, Volume};
pub use containerizer::{Choice, Containerizer, Creation, How, ImageVolume, Inside, Streams};
pub use dns::{Dns, DnsOfNetworks, DockerDns};
pub use docker::{Docker, DockerTerms};
pub use external::{External, read_answer};
pub use isolators::Isolator;
pub use reports::{Core, Facts, Process, Report};
pub use sandbox::{ids, make_sandbox};
pub use supervised::{Supervised, check_machine};
pub use supervisor::{mounts, nodes, processes, program, root, spec, streams, users};
