//! Who may be connected: how many in all, how many from one address, and a part that only masters and agents may fill.
//!
//! ```text
//! accepted ─► new ──first request──► known ─────────────► over
//!              │                      ▲ │
//!              │ silent beside a      │ └── `/meseta/*`, answered ──► inner
//!              │ stream of its own ───┘
//!              └── silent for too long, or the oldest when there is no room ──► cut
//! ```
//!
//! A connection that has said nothing yet costs nobody a place: the oldest of them goes when a newer one needs it. One
//! that has made a request stays for as long as it likes, however silent it is: clients of Mesos keep connections open
//! and take the end of one for the end of the master.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::bounds::Bounds;

/// Some clients open two connections at once and speak on the second one much later; so far apart they may be accepted.
const PAIR: Duration = Duration::from_secs(5);
/// So many silent connections are let be beside each stream of the same address.
const COMPANIONS_PER_STREAM: usize = 2;
/// Beyond the bound so many may be on their way out.
const LEAVING_MAX: usize = 64;

/// What was turned away, since the process started.
#[derive(Debug, Default)]
pub struct Turned {
    /// Connections that found no room.
    pub refused: AtomicU64,
    /// Connections beyond what one address may have.
    pub refused_address: AtomicU64,
    /// Connections that made no request in time, or had to make room before they did.
    pub silent: AtomicU64,
    /// Requests beyond what is worked on at once, or of a connection for which there is no room.
    pub requests: AtomicU64,
}

/// Everybody who is connected to a port.
#[derive(Debug)]
pub struct Connections {
    bounds: Bounds,
    inner: Mutex<Inner>,
    requests: AtomicUsize,
    /// What was turned away.
    pub turned: Turned,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    total: usize,
    known: usize,
    /// Those that have said nothing yet, oldest first.
    new: BTreeMap<u64, Arc<Notify>>,
    addresses: HashMap<IpAddr, Address>,
}

#[derive(Debug, Default)]
struct Address {
    /// Connections that are not inner ones.
    count: usize,
    /// When the connections were accepted on which a stream is open.
    streams: Vec<Instant>,
    companions: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    New,
    Known,
    Inner,
}

/// Why a connection is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    Full,
    Address,
}

/// A connection's place. It is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    all: Arc<Connections>,
    id: u64,
    address: IpAddr,
    accepted: Instant,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    class: Class,
    streams: bool,
    companion: bool,
}

/// A request that is worked on.
#[derive(Debug)]
pub(crate) struct Working(Option<Arc<Connections>>);

impl Drop for Working {
    fn drop(&mut self) {
        if let Some(all) = &self.0 {
            all.requests.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Connections {
    /// Nobody is connected yet.
    pub fn new(bounds: Bounds) -> Arc<Connections> {
        Arc::new(Connections {
            bounds,
            inner: Mutex::default(),
            requests: AtomicUsize::new(0),
            turned: Turned::default(),
        })
    }

    /// The bounds that hold.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// How many are connected.
    pub fn count(&self) -> usize {
        self.lock().total
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from `peer`, and what is notified when it has to make room before it has said anything.
    pub(crate) fn admit(self: &Arc<Self>, peer: SocketAddr) -> Result<(Place, Arc<Notify>), NoRoom> {
        let address = peer.ip().to_canonical();
        let mut inner = self.lock();
        let per_address = self.bounds.of_address(address);
        if inner.addresses.get(&address).is_some_and(|known| known.count >= per_address) {
            self.turned.refused_address.fetch_add(1, Ordering::Relaxed);
            return Err(NoRoom::Address);
        }
        let full = inner.total >= self.bounds.connections_max;
        if full || inner.new.len() >= self.bounds.new_max {
            let leaving = inner.total < self.bounds.connections_max + LEAVING_MAX;
            match inner.new.pop_first() {
                Some((_, cut)) if leaving => cut.notify_one(),
                _ if full => {
                    self.turned.refused.fetch_add(1, Ordering::Relaxed);
                    return Err(NoRoom::Full);
                }
                _ => {}
            }
        }
        let cut = Arc::new(Notify::new());
        inner.next += 1;
        let id = inner.next;
        inner.total += 1;
        inner.new.insert(id, cut.clone());
        inner.addresses.entry(address).or_default().count += 1;
        let held = Mutex::new(Held { class: Class::New, streams: false, companion: false });
        Ok((Place { all: self.clone(), id, address, accepted: Instant::now(), held }, cut))
    }
}

impl Place {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn bounds(&self) -> &Bounds {
        &self.all.bounds
    }

    /// Takes up a request; none if there is no room for it. Those of masters and agents always have room.
    pub(crate) fn request(&self, is_inner: bool) -> Option<Working> {
        let mut held = self.held();
        if held.class == Class::New {
            if is_inner {
                // Whether it really is one is seen by the answer; until then nobody else's place is taken.
                self.all.lock().new.remove(&self.id);
            } else if !self.know(&mut held) {
                self.all.turned.requests.fetch_add(1, Ordering::Relaxed);
                return None;
            }
        }
        if is_inner {
            return Some(Working(None));
        }
        if self.all.requests.fetch_add(1, Ordering::AcqRel) >= self.all.bounds.requests_max {
            self.all.requests.fetch_sub(1, Ordering::AcqRel);
            self.all.turned.requests.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Working(Some(self.all.clone())))
    }

    /// An inner request was answered: taken, or refused. False if a stranger asked and there is no room for it.
    pub(crate) fn inner_answered(&self, taken: bool) -> bool {
        let mut held = self.held();
        match (held.class, taken) {
            (Class::Inner, _) => true,
            (Class::New, false) => self.know(&mut held),
            (Class::Known, false) => true,
            (class, true) => {
                let mut inner = self.all.lock();
                if class == Class::Known {
                    inner.known -= 1;
                }
                if let Some(address) = inner.addresses.get_mut(&self.address) {
                    address.count -= 1;
                }
                held.class = Class::Inner;
                true
            }
        }
    }

    /// A stream was opened on this connection.
    pub(crate) fn streams(&self) {
        let mut held = self.held();
        if !held.streams && held.class != Class::Inner {
            held.streams = true;
            self.all.lock().addresses.entry(self.address).or_default().streams.push(self.accepted);
        }
    }

    /// Whether this connection, which was silent for its time, may stay: it belongs to a client that has a stream.
    pub(crate) fn may_stay_silent(&self) -> bool {
        let mut held = self.held();
        let pairs = {
            let mut inner = self.all.lock();
            let Some(address) = inner.addresses.get_mut(&self.address) else { return false };
            let apart = |stream: &Instant| {
                stream.saturating_duration_since(self.accepted).max(self.accepted.saturating_duration_since(*stream))
            };
            let near = address.streams.iter().any(|stream| apart(stream) <= PAIR);
            if held.companion {
                return near;
            }
            let pairs = near && address.companions < address.streams.len() * COMPANIONS_PER_STREAM;
            address.companions += usize::from(pairs);
            pairs
        };
        held.companion = pairs;
        pairs && self.know(&mut held)
    }

    /// It was silent for too long.
    pub(crate) fn cut(&self) {
        self.all.turned.silent.fetch_add(1, Ordering::Relaxed);
    }

    fn know(&self, held: &mut Held) -> bool {
        let mut inner = self.all.lock();
        inner.new.remove(&self.id);
        if inner.known >= self.all.bounds.connections_max - self.all.bounds.reserve {
            return false;
        }
        inner.known += 1;
        held.class = Class::Known;
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let held = self.held.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut inner = self.all.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.total -= 1;
        inner.new.remove(&self.id);
        inner.known -= usize::from(held.class == Class::Known);
        let Some(address) = inner.addresses.get_mut(&self.address) else { return };
        address.count -= usize::from(held.class != Class::Inner);
        address.companions -= usize::from(held.companion);
        if held.streams
            && let Some(place) = address.streams.iter().position(|stream| *stream == self.accepted)
        {
            address.streams.swap_remove(place);
        }
        if address.count == 0 && address.streams.is_empty() && address.companions == 0 {
            inner.addresses.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const FAR: &str = "192.0.2.7:1000";
    const OTHER: &str = "192.0.2.8:1000";

    fn small() -> Arc<Connections> {
        Connections::new(Bounds {
            connections_max: 10,
            address_max: 6,
            reserve: 4,
            new_max: 3,
            requests_max: 100,
            ..Bounds::of_files(1024)
        })
    }

    fn admit(all: &Arc<Connections>, peer: &str) -> Result<(Place, Arc<Notify>), NoRoom> {
        all.admit(peer.parse().unwrap())
    }

    #[test]
    fn whoever_says_nothing_makes_room() {
        let all = small();
        let told = |cut: &Notify| cut.notified().now_or_never().is_some();
        let silent: Vec<_> = (0..3).map(|_| admit(&all, FAR).unwrap()).collect();
        let (spoken, _told) = admit(&all, OTHER).unwrap();
        assert!(told(&silent[0].1), "the oldest goes");
        assert!(!told(&silent[1].1));
        assert!(spoken.request(false).is_some());
        let (_next, _told) = admit(&all, OTHER).unwrap();
        let (_more, _told) = admit(&all, OTHER).unwrap();
        assert!(told(&silent[1].1));
        assert_eq!(all.count(), 6);
        drop(silent);
        assert_eq!(all.count(), 3);
    }

    #[test]
    fn an_address_has_its_share() {
        let all = small();
        let known: Vec<_> = (0..6).map(|_| admit(&all, FAR).unwrap().0).collect();
        assert!(known.iter().all(|place| place.request(false).is_some()));
        assert_eq!(admit(&all, FAR).unwrap_err(), NoRoom::Address);
        assert!(admit(&all, OTHER).is_ok());
    }

    #[test]
    fn strangers_leave_room_for_masters_and_agents() {
        let all = small();
        let strangers: Vec<_> = (0..6).map(|_| admit(&all, FAR).unwrap().0).collect();
        assert!(strangers.iter().all(|place| place.request(false).is_some()));
        let (late, _told) = admit(&all, OTHER).unwrap();
        assert!(late.request(false).is_none(), "no room for one more stranger");
        drop(late);
        let inner: Vec<_> = (0..4).map(|_| admit(&all, OTHER).unwrap().0).collect();
        for place in &inner {
            assert!(place.request(true).is_some() && place.inner_answered(true));
        }
        assert_eq!(admit(&all, OTHER).unwrap_err(), NoRoom::Full);
        drop(inner);
        let (pretends, _told) = admit(&all, OTHER).unwrap();
        assert!(pretends.request(true).is_some());
        assert!(!pretends.inner_answered(false), "a stranger who pretends has no place of theirs");
    }

    #[test]
    fn the_second_connection_of_a_client_with_a_stream_may_be_silent() {
        let all = small();
        let (stream, _told) = admit(&all, FAR).unwrap();
        let (companion, _told) = admit(&all, FAR).unwrap();
        let (stranger, _told) = admit(&all, OTHER).unwrap();
        assert!(!companion.may_stay_silent(), "no stream yet");
        assert!(stream.request(false).is_some());
        stream.streams();
        assert!(companion.may_stay_silent() && companion.may_stay_silent());
        assert!(!stranger.may_stay_silent());
        drop(stream);
        assert!(!companion.may_stay_silent());
    }
}
