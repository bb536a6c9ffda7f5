//! Who may be connected: how many in all, how many from one address, and a part that only masters and agents may fill.
//!
//! ```text
//! accepted ─► new ──first request──► known ─────────────► over
//!              │                      ▲ │ └── longest idle, when there is no room ──► leaving ──► over
//!              │ silent beside a      │ └──── `/meseta/*`, answered ──► inner
//!              │ stream of its own ───┘
//!              └── silent for too long, or the oldest when there is no room ──► cut
//! ```
//!
//! A connection that has said nothing yet costs nobody a place: the oldest of them goes when a newer one needs it. One
//! that has made a request stays for as long as there is room, however silent it is: clients of Mesos keep connections open
//! and take the end of one for the end of the master. When there is none, one on which nothing happens makes room: of the
//! address that has most of them the one that is idle for longest, and before that one which was not accepted together
//! with a stream.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
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
/// So many idle connections of an address are looked at to find one that belongs to no stream.
const LOOKED_AT_MAX: usize = 64;

/// What was turned away, since the process started.
#[derive(Debug, Default)]
pub struct Turned {
    /// Connections that found no room.
    pub refused: AtomicU64,
    /// Connections beyond what one address may have.
    pub refused_address: AtomicU64,
    /// Connections that made no request in time, or had to make room before they did.
    pub silent: AtomicU64,
    /// Connections that had made a request and were idle, and had to make room.
    pub idle: AtomicU64,
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
    /// How many idle connections addresses have, and which.
    crowds: BTreeSet<(usize, IpAddr)>,
    /// Known ones that were told to make room.
    leaving: HashSet<u64>,
}

/// A known connection on which nothing happens.
#[derive(Debug)]
struct Idle {
    id: u64,
    accepted: Instant,
    cut: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Address {
    /// Connections that are not inner ones.
    count: usize,
    /// When the connections were accepted on which a stream is open.
    streams: Vec<Instant>,
    companions: usize,
    /// Those that may have to make room, by when they became idle.
    idle: BTreeMap<u64, Idle>,
}

impl Address {
    fn has_stream_near(&self, accepted: Instant) -> bool {
        let apart = |stream: &Instant| {
            stream.saturating_duration_since(accepted).max(accepted.saturating_duration_since(*stream))
        };
        self.streams.iter().any(|stream| apart(stream) <= PAIR)
    }
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
    cut: Arc<Notify>,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    class: Class,
    /// Requests that are worked on.
    working: usize,
    /// Since when it is idle, as its place among those of its address.
    idle: Option<u64>,
    streams: bool,
    companion: bool,
}

/// A request that is worked on.
#[derive(Debug)]
pub(crate) struct Working<'a> {
    place: &'a Place,
    counts: bool,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        if self.counts {
            self.place.all.requests.fetch_sub(1, Ordering::AcqRel);
        }
        self.place.rest();
    }
}

impl Inner {
    fn idle(&mut self, address: IpAddr, change: impl FnOnce(&mut BTreeMap<u64, Idle>)) {
        let Some(found) = self.addresses.get_mut(&address) else { return };
        let before = found.idle.len();
        change(&mut found.idle);
        let after = found.idle.len();
        if before != after {
            self.crowds.remove(&(before, address));
            self.crowds.extend((after > 0).then_some((after, address)));
        }
    }

    /// Lets an idle connection go. False if there is none, or if too many are on their way out already.
    fn make_room(&mut self) -> bool {
        if self.leaving.len() >= LEAVING_MAX {
            return false;
        }
        let Some((_, address)) = self.crowds.last().copied() else { return false };
        let known = &self.addresses[&address];
        let alone = known.idle.iter().take(LOOKED_AT_MAX).find(|(_, idle)| !known.has_stream_near(idle.accepted));
        let Some(since) = alone.or_else(|| known.idle.first_key_value()).map(|(since, _)| *since) else { return false };
        let mut told = None;
        self.idle(address, |idle| told = idle.remove(&since));
        let Some(told) = told else { return false };
        self.leaving.insert(told.id);
        self.known -= 1;
        told.cut.notify_one();
        true
    }

    /// One that was known is not any more.
    fn forget(&mut self, id: u64) {
        if !self.leaving.remove(&id) {
            self.known -= 1;
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
        let full = inner.total >= self.bounds.connections_max + inner.leaving.len();
        if full || inner.new.len() >= self.bounds.new_max {
            let leaving = inner.total < self.bounds.connections_max + LEAVING_MAX;
            match inner.new.pop_first() {
                Some((_, cut)) if leaving => cut.notify_one(),
                _ if full && inner.make_room() => {
                    self.turned.idle.fetch_add(1, Ordering::Relaxed);
                }
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
        let held = Held { class: Class::New, working: 0, idle: None, streams: false, companion: false };
        let (accepted, held) = (Instant::now(), Mutex::new(held));
        Ok((Place { all: self.clone(), id, address, accepted, cut: cut.clone(), held }, cut))
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
    pub(crate) fn request(&self, is_inner: bool) -> Option<Working<'_>> {
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
            self.wake(&mut held);
            return Some(Working { place: self, counts: false });
        }
        if self.all.requests.fetch_add(1, Ordering::AcqRel) >= self.all.bounds.requests_max {
            self.all.requests.fetch_sub(1, Ordering::AcqRel);
            self.all.turned.requests.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.wake(&mut held);
        Some(Working { place: self, counts: true })
    }

    /// Something happens on it.
    fn wake(&self, held: &mut Held) {
        held.working += 1;
        if let Some(since) = held.idle.take() {
            let mut inner = self.all.lock();
            inner.idle(self.address, |idle| drop(idle.remove(&since)));
            // It was asked once more before it heard that it should go.
            inner.known += usize::from(inner.leaving.remove(&self.id));
        }
    }

    /// A request is over.
    fn rest(&self) {
        let mut held = self.held();
        held.working -= 1;
        if held.working == 0 && held.class == Class::Known && !held.streams && !held.companion {
            let mut inner = self.all.lock();
            inner.next += 1;
            let since = inner.next;
            let idle = Idle { id: self.id, accepted: self.accepted, cut: self.cut.clone() };
            inner.idle(self.address, |all| drop(all.insert(since, idle)));
            held.idle = Some(since);
        }
    }

    /// Whether nobody has asked anything on it.
    pub(crate) fn is_new(&self) -> bool {
        self.held().class == Class::New
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
                    inner.forget(self.id);
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
        if !held.streams {
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
            let near = address.has_stream_near(self.accepted);
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
            if !inner.make_room() {
                return false;
            }
            self.all.turned.idle.fetch_add(1, Ordering::Relaxed);
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
        if held.class == Class::Known {
            inner.forget(self.id);
        }
        if let Some(since) = held.idle {
            inner.idle(self.address, |idle| drop(idle.remove(&since)));
        }
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
    fn the_longest_idle_of_the_address_with_most_makes_room() {
        let all = small();
        let told = |place: &Place| place.cut.notified().now_or_never().is_some();
        let known = |peer| {
            let (place, _told) = admit(&all, peer).unwrap();
            assert!(place.request(false).is_some());
            place
        };
        let others = [OTHER; 2].map(known);
        let far = [FAR; 4].map(known);
        let busy = far[0].request(false).unwrap();
        assert!(far[1].request(false).is_some(), "and so it is not idle for longest");
        assert!(!far.iter().chain(&others).any(told), "there is room");

        let (late, _told) = admit(&all, OTHER).unwrap();
        let working = late.request(false).expect("somebody made room");
        let all_told: Vec<bool> = far.iter().chain(&others).map(told).collect();
        assert_eq!(all_told, [false, false, true, false, false, false]);
        // Who is asked once more before it has gone is still there.
        assert!(far[2].request(false).is_some());
        drop((working, busy));
        drop((late, far));
        drop(others);
        let inner = all.lock();
        assert_eq!((inner.total, inner.known, inner.leaving.len(), inner.crowds.len()), (0, 0, 0, 0));
        assert!(inner.addresses.is_empty());
    }

    #[test]
    fn streams_and_what_belongs_to_them_make_no_room() {
        let all = small();
        let streams: Vec<_> = (0..5).map(|_| admit(&all, FAR).unwrap().0).collect();
        for stream in &streams {
            let _working = stream.request(false).unwrap();
            stream.streams();
        }
        let (pair, _told) = admit(&all, FAR).unwrap();
        assert!(pair.may_stay_silent() && pair.request(false).is_some());
        let (late, _told) = admit(&all, OTHER).unwrap();
        assert!(late.request(false).is_none());
        drop(streams);
        assert!(late.request(false).is_some());
    }

    #[test]
    fn strangers_leave_room_for_masters_and_agents() {
        let all = small();
        let strangers: Vec<_> = (0..6).map(|_| admit(&all, FAR).unwrap().0).collect();
        let _busy: Vec<_> = strangers.iter().map(|place| place.request(false).unwrap()).collect();
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
