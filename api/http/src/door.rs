//! Who may use the inner endpoints of a server: whoever shows that it knows the cluster's secret, or a certificate that names a
//! member.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use tokio::time::Instant;

use crate::secret::{self, CHALLENGE, KEY, PROOF, Random, Secret, Shown};
use crate::tls::Member;
use crate::{Body, Request, Response, read_message, text};

/// A challenge is given out for so long, and taken for as long again.
const CHALLENGE_LIFE: Duration = Duration::from_secs(600);
/// Or until so many have answered it.
const SESSIONS_MAX: usize = 16_384;
/// So many requests of one session may overtake each other.
const WINDOW: u64 = 4096;
/// Between two warnings of strangers.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// What whoever is not named is told, where certificates name members.
const NO_MEMBER: &str = "This needs the cluster's secret, or a certificate that --ssl_master_names (for agents --ssl_agent_names) of \
                         this master names: a master's for commands, too";

/// What a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// A body of at most so many bytes, all of which is vouched for.
    Body(usize),
    /// A body without an end: only that it was begun is vouched for.
    Stream,
}

/// Whom an inner endpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// Masters, and operators with all that a master has.
    Masters,
    /// Agents.
    Agents,
}

/// A server's inner door.
#[derive(Debug)]
pub struct Door {
    secret: Option<Secret>,
    /// Certificates that name members are as good as the secret.
    by_certificate: bool,
    /// Whoever shows nothing is let in as well.
    is_insecure: bool,
    /// Other than the loopback addresses.
    own: Option<IpAddr>,
    challenges: Mutex<Challenges>,
    warned: Mutex<(Option<Instant>, u64)>,
}

/// Shows in the answer that this server knows the secret that the request was made with.
#[derive(Debug)]
pub struct Seal(Option<([u8; 32], [u8; 32])>);

/// Why a request is not let in.
enum Stranger {
    /// It shows nothing.
    Nothing,
    /// What it shows was made with another secret.
    OtherSecret,
    /// It knows the secret, but not the challenge, or it was here before.
    Again,
}

#[derive(Debug, Default)]
struct Challenges {
    current: Option<Challenge>,
    before: Option<Challenge>,
}

struct Challenge {
    name: Random,
    began: Instant,
    sessions: BTreeMap<Random, Window>,
}

impl fmt::Debug for Challenge {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Challenge").field("sessions", &self.sessions.len()).finish_non_exhaustive()
    }
}

/// Which numbers of a session were used.
struct Window {
    highest: u64,
    /// One bit for each of the last numbers, at its remainder.
    used: Box<[u64]>,
}

impl Window {
    fn new() -> Window {
        Window { highest: 0, used: vec![0; WINDOW as usize / 64].into() }
    }

    /// Whether it is used for the first time, as far as that is known.
    fn take(&mut self, number: u64) -> bool {
        let bit = |number: u64| ((number % WINDOW / 64) as usize, 1_u64 << (number % 64));
        if number > self.highest {
            let from = self.highest.max(number.saturating_sub(WINDOW)) + 1;
            for passed in from..=number {
                let (word, mask) = bit(passed);
                self.used[word] &= !mask;
            }
            self.highest = number;
        } else if self.highest - number >= WINDOW {
            return false;
        }
        let (word, mask) = bit(number);
        let is_first = self.used[word] & mask == 0;
        self.used[word] |= mask;
        is_first
    }
}

impl Challenges {
    /// The one that is given out.
    fn current(&mut self) -> &mut Challenge {
        let age = self.current.as_ref().map(|current| (current.began.elapsed(), current.sessions.len()));
        match age {
            Some((age, sessions)) if age < CHALLENGE_LIFE && sessions < SESSIONS_MAX => {}
            Some((age, _)) => self.before = self.current.take().filter(|_| age < 2 * CHALLENGE_LIFE),
            None => {}
        }
        let fresh = || Challenge { name: secret::random(), began: Instant::now(), sessions: BTreeMap::new() };
        self.current.get_or_insert_with(fresh)
    }

    /// Whether this is the first request that shows this.
    fn take(&mut self, shown: &Shown) -> bool {
        let is_current = self.current().name == shown.challenge;
        let challenge = if is_current { self.current.as_mut() } else { self.before.as_mut() };
        let challenge = challenge.filter(|known| known.name == shown.challenge);
        challenge
            .is_some_and(|known| known.sessions.entry(shown.session).or_insert_with(Window::new).take(shown.counter))
    }
}

impl Default for Door {
    /// Without a secret: for whoever is on this machine.
    fn default() -> Door {
        Door::new(None, false, None)
    }
}

impl Door {
    /// Without a `secret` only this machine is let in, which has the address `own` as well; with `is_insecure`
    /// everybody is, though they show nothing.
    pub fn new(secret: Option<Secret>, is_insecure: bool, own: Option<IpAddr>) -> Door {
        Door { secret, by_certificate: false, is_insecure, own, challenges: Mutex::default(), warned: Mutex::default() }
    }

    /// The same, for whoever shows a certificate that names a member, too, if that is so.
    #[must_use]
    pub fn by_certificate(self, by_certificate: bool) -> Door {
        Door { by_certificate, ..self }
    }

    /// What the next request is to answer; empty if nothing needs to be shown.
    pub fn challenge(&self) -> Response {
        match self.secret {
            Some(_) => text(StatusCode::OK, &secret::hex(&self.challenges().current().name)),
            None => text(StatusCode::OK, ""),
        }
    }

    /// Whether `request` came with a certificate that names a master.
    pub fn is_of_master(request: &Request) -> bool {
        request.extensions().get::<Member>().is_some_and(|member| member.master)
    }

    /// Lets `request` of `peer` in, with its body read if it has an end.
    ///
    /// # Errors
    /// The answer to a stranger: 401 and one sentence.
    pub async fn admit(
        &self,
        request: Request,
        peer: SocketAddr,
        carries: Carries,
        whom: For,
    ) -> Result<(Request, Seal), Response> {
        let member = request.extensions().get::<Member>().copied().unwrap_or_default();
        let is_member = match whom {
            For::Masters => member.master,
            For::Agents => member.agent,
        };
        let Some(secret) = &self.secret else {
            if is_member || (self.by_certificate && self.is_insecure) {
                return Ok((request, Seal(None)));
            }
            if self.by_certificate {
                self.warn(peer, &request, "it shows no certificate that names a member");
                return Err(text(StatusCode::UNAUTHORIZED, NO_MEMBER));
            }
            let is_here = peer.ip().to_canonical().is_loopback() || self.own == Some(peer.ip().to_canonical());
            if is_here || self.is_insecure {
                return Ok((request, Seal(None)));
            }
            self.warn(peer, &request, "it is on another machine, and there is no --cluster_secret here");
            return Err(text(
                StatusCode::UNAUTHORIZED,
                "There is no secret here, so only this machine itself may use /meseta: make one with `meseta secret new FILE` and \
                 give --cluster_secret=file:///FILE to every master and agent",
            ));
        };
        match self.look(secret, &request) {
            Ok((shown, key, hash)) => match (carries, shown.body) {
                (Carries::Body(bytes_max), Some(expected)) => {
                    let (parts, body) = request.into_parts();
                    let body = read_message(&parts.headers, body, bytes_max).await.map_err(|error| error.response())?;
                    if blake3::hash(&body) != expected {
                        return Err(self.refused("The body is not the one that the key was made for"));
                    }
                    Ok((Request::from_parts(parts, Body::full(body).into()), Seal(Some((key, hash)))))
                }
                (Carries::Stream, None) => Ok((request, Seal(Some((key, hash))))),
                _ => Err(self.refused("The key does not say whether the body has an end")),
            },
            Err(Stranger::Nothing) if self.is_insecure || is_member => Ok((request, Seal(None))),
            Err(Stranger::Nothing) if self.by_certificate => {
                self.warn(
                    peer,
                    &request,
                    "it shows neither a certificate that names a member nor the cluster's secret",
                );
                Err(self.refused(NO_MEMBER))
            }
            Err(Stranger::Nothing) => {
                self.warn(peer, &request, "it does not show that it knows the cluster's secret");
                Err(self.refused("This needs the cluster's secret: give --cluster_secret=file:///PATH"))
            }
            Err(Stranger::OtherSecret) => {
                self.warn(peer, &request, "it has another secret than this cluster");
                Err(self.refused("That is not this cluster's secret: compare the files of --cluster_secret"))
            }
            Err(Stranger::Again) => Err(crate::unnoted(self.refused("The challenge has passed: answer this one"))),
        }
    }

    /// What a request shows, the key that it was made with, and the hash that says so.
    fn look(&self, secret: &Secret, request: &Request) -> Result<(Shown, [u8; 32], [u8; 32]), Stranger> {
        let header = request.headers().get(KEY).ok_or(Stranger::Nothing)?;
        let (shown, hash) = Shown::read(header).ok_or(Stranger::OtherSecret)?;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let key = secret.find(&hash, |key| shown.hash(key, request.method().as_str(), path));
        let key = *key.ok_or(Stranger::OtherSecret)?;
        if self.challenges().take(&shown) { Ok((shown, key, hash)) } else { Err(Stranger::Again) }
    }

    fn refused(&self, sentence: &str) -> Response {
        let mut response = text(StatusCode::UNAUTHORIZED, sentence);
        let challenge = HeaderValue::try_from(secret::hex(&self.challenges().current().name));
        response.headers_mut().insert(CHALLENGE, challenge.expect("digits"));
        response
    }

    fn challenges(&self) -> MutexGuard<'_, Challenges> {
        self.challenges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of one stranger now and then: they may be many.
    fn warn(&self, peer: SocketAddr, request: &Request, why: &str) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, unsaid) = &mut *warned;
        if last.is_some_and(|last| last.elapsed() < WARN_EVERY) {
            *unsaid += 1;
            return;
        }
        let path = request.uri().path();
        tracing::warn!(%peer, path, others = *unsaid, "a stranger was refused: {why}");
        (*last, *unsaid) = (Some(Instant::now()), 0);
    }
}

impl Seal {
    /// Whether the request was made by somebody who knows the secret; else it was let in for other reasons.
    pub fn is_proven(&self) -> bool {
        self.0.is_some()
    }

    /// The answer, with the proof.
    pub fn answer(&self, response: Response) -> Response {
        let Seal(Some((key, hash))) = self else { return response };
        let (mut parts, body) = response.into_parts();
        let (body, sum) = match body.into_full() {
            Ok(bytes) => {
                let sum = blake3::hash(&bytes);
                (Body::full(bytes), Some(sum))
            }
            Err(stream) => (stream, None),
        };
        let proof = secret::proof(key, hash, parts.status, sum);
        parts.headers.insert(PROOF, secret::proof_header(sum, proof));
        Response::from_parts(parts, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_counts_once_and_may_be_overtaken() {
        let mut window = Window::new();
        for (number, is_first) in
            [(1, true), (1, false), (5, true), (3, true), (3, false), (9_000, true), (4_904, false), (4_905, true)]
        {
            assert_eq!(window.take(number), is_first, "{number}");
        }
        assert!(window.take(u64::MAX) && !window.take(u64::MAX) && window.take(u64::MAX - 1));
    }
}
