//! How much a port takes, as numbers.

use std::net::IpAddr;
use std::time::Duration;

use api::limits::{CONNECTIONS_MAX, FILES_FREE_MIN, INNER_CONNECTIONS_MAX, INNER_CONNECTIONS_MIN};
use nix::sys::resource::{Resource, getrlimit};

/// What one port takes.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Connections in all.
    pub connections_max: usize,
    /// Connections from one address, masters and agents aside. From this machine itself as many as there is room for.
    pub address_max: usize,
    /// So many of all connections are for masters and agents alone.
    pub reserve: usize,
    /// Connections that have not made a request yet.
    pub new_max: usize,
    /// Requests that are worked on at once, those of masters and agents aside. Streams are not counted once they are open.
    pub requests_max: usize,
    /// How long a new connection may say nothing at all.
    pub first_byte: Duration,
    /// How long the head of its first request may take from there.
    pub first_head: Duration,
}

impl Bounds {
    /// For a process that may have as many files open as this one.
    pub fn of_this_process() -> Bounds {
        Bounds::of_files(files())
    }

    /// For a process that may have so many files open.
    pub fn of_files(files: usize) -> Bounds {
        let free = (files / 4).max(FILES_FREE_MIN);
        Bounds::of(files.saturating_sub(free).min(CONNECTIONS_MAX))
    }

    fn of(connections_max: usize) -> Bounds {
        let connections_max = connections_max.max(4 * INNER_CONNECTIONS_MIN);
        let reserve = (connections_max / 8).clamp(INNER_CONNECTIONS_MIN, INNER_CONNECTIONS_MAX);
        Bounds {
            connections_max,
            address_max: (connections_max - reserve) / 2,
            reserve,
            new_max: connections_max / 4,
            requests_max: 2 * connections_max,
            first_byte: Duration::from_secs(15),
            first_head: Duration::from_secs(20),
        }
    }

    /// The same with what an operator chose, as far as something was chosen and there are files for it.
    #[must_use]
    pub fn with(self, connections_max: Option<usize>, address_max: Option<usize>) -> Bounds {
        let bounds = match connections_max {
            Some(chosen) => Bounds::of(chosen.min(self.connections_max)),
            None => self,
        };
        Bounds { address_max: address_max.unwrap_or(bounds.address_max), ..bounds }
    }

    /// Connections from `address`.
    pub(crate) fn of_address(&self, address: IpAddr) -> usize {
        if address.is_loopback() { self.connections_max } else { self.address_max }
    }
}

/// How many files this process may have open now.
fn files() -> usize {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_process_may_open_something_is_left_for_files_and_for_masters() {
        for files in [256, 1024, 4096, 20_000, 1 << 20] {
            let bounds = Bounds::of_files(files);
            assert!(bounds.reserve >= 16 && bounds.new_max >= 16);
            assert!(bounds.address_max + bounds.reserve < bounds.connections_max);
            assert!(files < 512 || bounds.connections_max + FILES_FREE_MIN <= files, "{files}: {bounds:?}");
        }
        let chosen = Bounds::of_files(20_000).with(Some(100), None);
        assert_eq!((chosen.connections_max, chosen.reserve), (100, 16));
        assert_eq!(
            Bounds::of_files(1024).with(Some(1 << 20), None).connections_max,
            768,
            "no more than there are files"
        );
    }
}
