//! Load: many connections, each with one call at a time, as fast as answers come or at an offered rate.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::Fallible;
use crate::http1::{Connection, Login};

/// One client: where it connects, and the requests that it makes in turn, for ever.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Vec<Bytes>,
    /// Who it is, if masters ask.
    pub(crate) login: Option<Login>,
}

/// When calls are made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// The next one as soon as the last was answered.
    Closed,
    /// So many a second from all clients together. A call that waits for the one before it has waited: latency counts
    /// from when it was due.
    PerSecond(f64),
}

/// How long load is made, and how much of the beginning is not counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Calls answered with success in the time measured.
    pub(crate) calls: u64,
    /// Calls answered otherwise, or not at all.
    pub(crate) failed: u64,
    /// One of the failures.
    pub(crate) failure: Option<String>,
    pub(crate) seconds: f64,
    /// Of successful calls, in microseconds, ascending.
    latencies_us: Vec<u32>,
}

impl Outcome {
    pub(crate) fn per_second(&self) -> f64 {
        self.calls as f64 / self.seconds
    }

    /// The latency, in milliseconds, that this share (0 to 1) of calls did not exceed.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        let last = self.latencies_us.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        self.latencies_us.get(at).map_or(f64::NAN, |us| f64::from(*us) / 1000.0)
    }

    /// Refuses a measurement of which a noticeable part failed: it would say something about errors, not about speed.
    pub(crate) fn checked(self) -> Fallible<Self> {
        if self.calls == 0 || self.failed * 1000 > self.calls {
            let why = self.failure.as_deref().unwrap_or("no answer came in time");
            return Err(format!("{} calls succeeded, {} failed: {why}", self.calls, self.failed).into());
        }
        Ok(self)
    }

    fn add(&mut self, other: Outcome) {
        self.calls += other.calls;
        self.failed += other.failed;
        self.failure = self.failure.take().or(other.failure);
        self.latencies_us.extend(other.latencies_us);
    }
}

/// Makes load by all clients at once and counts what was answered between the end of the warm-up and the end.
pub(crate) async fn run(clients: Vec<Client>, pace: Pace, span: Span) -> Fallible<Outcome> {
    let mut connections = Vec::with_capacity(clients.len());
    for client in &clients {
        connections.push(Connection::open_as(client.address, client.login.as_ref()).await?);
    }
    let count = clients.len();
    let from = Instant::now() + span.warm_up;
    let until = from + span.measured;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for (number, (client, connection)) in clients.into_iter().zip(connections).enumerate() {
        let due = match pace {
            Pace::Closed => None,
            Pace::PerSecond(rate) => {
                let every = Duration::from_secs_f64(count as f64 / rate);
                Some((start + every.mul_f64(number as f64 / count as f64), every))
            }
        };
        tasks.spawn(one_client(client, connection, due, from, until));
    }
    let mut outcome = Outcome::default();
    while let Some(one) = tasks.join_next().await {
        outcome.add(one?);
    }
    outcome.seconds = span.measured.as_secs_f64();
    outcome.latencies_us.sort_unstable();
    outcome.checked()
}

async fn one_client(
    client: Client,
    mut connection: Connection,
    mut due: Option<(Instant, Duration)>,
    from: Instant,
    until: Instant,
) -> Outcome {
    let mut outcome = Outcome::default();
    for request in client.requests.iter().cycle() {
        let sent = match &mut due {
            None => Instant::now(),
            Some((at, every)) => {
                let due = *at;
                *at += *every;
                tokio::time::sleep_until(due.into()).await;
                due
            }
        };
        if sent >= until {
            break;
        }
        let answer = tokio::time::timeout(Duration::from_secs(20), connection.call(request)).await;
        let now = Instant::now();
        let failure = match &answer {
            Ok(Ok(status)) if status / 100 == 2 => None,
            Ok(Ok(status)) => Some(format!("{status} {}", String::from_utf8_lossy(connection.body()))),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer in 20 s".to_owned()),
        };
        let broken = !matches!(answer, Ok(Ok(_)));
        if now >= from && now < until {
            match failure {
                None => {
                    outcome.calls += 1;
                    outcome.latencies_us.push(u32::try_from((now - sent).as_micros()).unwrap_or(u32::MAX));
                }
                Some(failure) => {
                    outcome.failed += 1;
                    outcome.failure.get_or_insert(failure);
                }
            }
        }
        if broken {
            match reconnect(&client, until).await {
                Ok(again) => connection = again,
                Err(_) => break,
            }
        }
    }
    outcome
}

async fn reconnect(client: &Client, until: Instant) -> io::Result<Connection> {
    loop {
        match Connection::open_as(client.address, client.login.as_ref()).await {
            Ok(connection) => return Ok(connection),
            Err(error) if Instant::now() >= until => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
