//! The network between everybody: it loses, doubles, delays and reorders requests, and cuts one direction between two
//! without the other. Requests reach the real handlers of masters, without sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api_http::{Body, Request, Response};
use bytes::Bytes;
use event_log::host::{self, Host};
use futures_util::future::BoxFuture;
use http::StatusCode;
use http_body_util::BodyExt;
use master_server::http::Server;
use master_server::peers::{Network, PeerError};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::random::Random;
use crate::world::World;

/// A request that is lost waits for so long before its sender may know.
const LOST: Duration = Duration::from_secs(40);
/// Chunks on their way on one stream.
const STREAM_CHUNKS: usize = 1 << 16;

/// How the network is now.
#[derive(Clone, Debug, Default)]
pub struct Weather {
    /// Delays are up to so many microseconds,
    pub delay_us_max: u64,
    /// and, so many times in a thousand, a hundred times as long.
    pub late_permille: u64,
    /// Requests or answers lost in a thousand.
    pub loss_permille: u64,
    /// Requests between masters that arrive twice, in a thousand.
    pub double_permille: u64,
}

struct Inner {
    random: Random,
    weather: Weather,
    /// (from, to) that nothing passes.
    cut: BTreeSet<(String, String)>,
    /// Masters that run, by address.
    masters: BTreeMap<String, (Host, Arc<Server>)>,
    requests: u64,
}

/// The network. Clones are the same.
#[derive(Clone)]
pub struct Net {
    world: Arc<World>,
    inner: Arc<Mutex<Inner>>,
    changed: Arc<watch::Sender<u64>>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// Nobody listens there: nothing was sent.
    Refused,
    /// It may have arrived or not.
    Silent,
}

/// Everybody has the name of its host; an address is the name and a port.
pub fn name_of(address: &str) -> &str {
    address.split_once(':').map_or(address, |(name, _)| name)
}

impl Net {
    /// A calm network.
    pub fn new(world: &Arc<World>) -> Net {
        let inner = Inner {
            random: world.random("network"),
            weather: Weather { delay_us_max: 2_000, ..Weather::default() },
            cut: BTreeSet::new(),
            masters: BTreeMap::new(),
            requests: 0,
        };
        Net { world: world.clone(), inner: Arc::new(Mutex::new(inner)), changed: Arc::new(watch::Sender::new(0)) }
    }

    /// From now on the network is like this.
    pub fn set_weather(&self, weather: Weather) {
        self.inner.lock().weather = weather;
    }

    /// Cuts or mends one direction.
    pub fn set_cut(&self, from: &str, to: &str, cut: bool) {
        let pair = (from.to_owned(), to.to_owned());
        let mut inner = self.inner.lock();
        let _ = if cut { inner.cut.insert(pair) } else { inner.cut.remove(&pair) };
        drop(inner);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Mends everything.
    pub fn mend(&self) {
        self.inner.lock().cut.clear();
        self.changed.send_modify(|count| *count += 1);
    }

    /// A master listens at `address`.
    pub fn listen(&self, address: &str, host: Host, server: Arc<Server>) {
        self.inner.lock().masters.insert(address.to_owned(), (host, server));
    }

    /// Nobody listens there any more.
    pub fn close(&self, address: &str) {
        self.inner.lock().masters.remove(address);
        self.changed.send_modify(|count| *count += 1);
    }

    fn is_cut(&self, from: &str, to: &str) -> bool {
        let inner = self.inner.lock();
        !inner.cut.is_empty() && inner.cut.contains(&(from.to_owned(), to.to_owned()))
    }

    /// How long a message takes now, and whether it is lost.
    fn fate(&self, from: &str, to: &str) -> (Duration, bool) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let weather = &inner.weather;
        let mut us = 50 + inner.random.below(weather.delay_us_max);
        if inner.random.permille(weather.late_permille) {
            us *= 100;
        }
        let lost = inner.random.permille(weather.loss_permille);
        let cut = !inner.cut.is_empty() && inner.cut.contains(&(from.to_owned(), to.to_owned()));
        (Duration::from_micros(us), lost || cut)
    }

    /// One request of `from` to the master at `to`. The answer's body is still with the master. What is sent is on its
    /// way, whatever becomes of its sender.
    pub async fn call(&self, from: &str, to: &str, request: Request) -> Result<(Response, Host), NoAnswer> {
        let (net, from, to) = (self.clone(), from.to_owned(), to.to_owned());
        let carried = tokio::spawn(async move { net.carry(&from, &to, request).await });
        carried.await.unwrap_or(Err(NoAnswer::Silent))
    }

    async fn carry(&self, from: &str, to: &str, request: Request) -> Result<(Response, Host), NoAnswer> {
        let target = name_of(to);
        let (delay, lost) = self.fate(from, target);
        let number = {
            let mut inner = self.inner.lock();
            inner.requests += 1;
            inner.requests
        };
        let path = request.uri().path().to_owned();
        self.world.trace(format_args!("#{number} {from} -> {target} {path}{}", if lost { " lost" } else { "" }));
        tokio::time::sleep(delay).await;
        if lost {
            tokio::time::sleep(LOST).await;
            return Err(NoAnswer::Silent);
        }
        let Some((host, server)) = self.inner.lock().masters.get(to).filter(|(host, _)| !host.is_dead()).cloned()
        else {
            return Err(NoAnswer::Refused);
        };
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let answer = host.spawn(async move { server.answer(request, peer).await });
        let Ok(response) = answer.await else { return Err(NoAnswer::Silent) };
        let (delay, lost) = self.fate(target, from);
        let status = response.status().as_u16();
        self.world.trace(format_args!("#{number} {from} <- {target} {status}{}", if lost { " lost" } else { "" }));
        tokio::time::sleep(delay).await;
        if lost {
            tokio::time::sleep(LOST).await;
            return Err(NoAnswer::Silent);
        }
        Ok((response, host))
    }

    /// One request whose answer is short: its status and body.
    pub async fn post(
        &self,
        from: &str,
        to: &str,
        path: &str,
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), NoAnswer> {
        let (response, _) = self.call(from, to, request(path, headers, Body::full(body))).await?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|_| NoAnswer::Silent)?.to_bytes();
        Ok((status, body))
    }

    /// The body of an answer as it comes to `to`; ends when the master is gone. What is under way while the direction is
    /// cut arrives later, as with TCP.
    pub fn stream(&self, from: &str, to: &str, response: Response, master: Host) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(STREAM_CHUNKS);
        let (sent, mut under_way) = mpsc::channel::<Bytes>(STREAM_CHUNKS);
        let mut body = response.into_body();
        master.spawn(async move {
            loop {
                let frame = tokio::select! {
                    biased;
                    () = sent.closed() => return,
                    frame = body.frame() => frame,
                };
                let Some(Ok(frame)) = frame else { return };
                let Ok(data) = frame.into_data() else { continue };
                if sent.send(data).await.is_err() {
                    return;
                }
            }
        });
        // What was sent arrives, though its sender be gone.
        let (net, from, to) = (self.clone(), name_of(from).to_owned(), to.to_owned());
        tokio::spawn(async move {
            loop {
                let data = tokio::select! {
                    biased;
                    () = sender.closed() => return,
                    data = under_way.recv() => data,
                };
                let Some(data) = data else { return };
                net.pass(&from, &to).await;
                net.world.trace(format_args!("{from} => {to} {} bytes", data.len()));
                if sender.send(data).await.is_err() {
                    return;
                }
            }
        });
        receiver
    }

    /// Waits as long as a chunk of a stream is under way.
    pub async fn pass(&self, from: &str, to: &str) {
        let (delay, _) = self.fate(from, to);
        tokio::time::sleep(delay).await;
        let mut changed = self.changed.subscribe();
        while self.is_cut(from, to) {
            changed.mark_unchanged();
            let _ = changed.changed().await;
        }
    }
}

/// A request as clients make it.
pub fn request(path: &str, headers: &[(&'static str, String)], body: Body) -> Request {
    let mut request = http::Request::post(format!("http://master{path}")).version(http::Version::HTTP_2);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    request.body(body.into()).expect("names and values are ASCII")
}

/// A master's way to the others.
pub struct Link {
    /// The network.
    pub net: Net,
    /// The master's name.
    pub name: String,
}

impl Network for Link {
    fn post(
        &self,
        address: &str,
        path: &str,
        body: Bytes,
    ) -> BoxFuture<'static, Result<(StatusCode, Bytes), PeerError>> {
        let (net, name, address, path) = (self.net.clone(), self.name.clone(), address.to_owned(), path.to_owned());
        Box::pin(async move {
            let headers = [("content-type", "application/x-protobuf".to_owned())];
            let double = path == "/meseta/raft" && {
                let mut inner = net.inner.lock();
                let chance = inner.weather.double_permille;
                inner.random.permille(chance)
            };
            if double {
                let (net, name, address, path, body) =
                    (net.clone(), name.clone(), address.clone(), path.clone(), body.clone());
                let headers = headers.clone();
                host::spawn(async move {
                    let _ = net.post(&name, &address, &path, &headers, body).await;
                });
            }
            let sent = net.post(&name, &address, &path, &headers, body).await;
            sent.map_err(|error| match error {
                NoAnswer::Refused => PeerError::Unreachable(address),
                NoAnswer::Silent => PeerError::Silent(address),
            })
        })
    }
}
