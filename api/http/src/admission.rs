//! The front door of a daemon: every request of a client gets a [`Visitor`] here, before anything else is done with it.
//! Who they are is found out by the realm of what they ask for, and what they may by the lists that are in force at that
//! moment; files are read again when an operator says so, and a file that cannot be understood changes nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::limits::AUTH_FILE_BYTES_MAX;
use auth::{Acls, Approver, Authenticated, Authenticators, Authorizer, Credentials, Key, Principal, Realm, Subject};
use http::{HeaderValue, StatusCode, header};
use std::sync::{Mutex, PoisonError, RwLock};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::audit::{Asked, Audit, Refused};
use crate::tls::ClientName;
use crate::tokens::TokenSources;
use crate::{Query, Request, Response, text};

/// Secrets whose slow hashes are computed at once: each takes a processor and tens of megabytes for a while.
const SLOW_MAX: usize = 2;
/// So many wrong secrets a second one address may show; whoever shows more waits before each answer.
const WRONG_MAX: u32 = 100;
/// So long.
const WRONG_PACE: Duration = Duration::from_secs(1);
/// Addresses whose wrong secrets are counted at once.
const ADDRESSES_MAX: usize = 4096;
/// Between two lines about whoever was not let in.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Where what is in force comes from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file of credentials, with the flag that named it.
    pub credentials: Option<(&'static str, PathBuf)>,
    /// `--acls`: a path, or the lists themselves.
    pub acls: Option<String>,
    /// The files of the keys that bearer tokens are signed with.
    pub tokens: TokenSources,
    /// The realms that ask for a principal and its secret, or for a token.
    pub realms: Vec<Realm>,
    /// Agents may come without showing anything here: masters ask for their identities.
    pub agents_join: bool,
}

/// The door.
#[derive(Debug, Default)]
pub struct Admission {
    sources: Sources,
    now: RwLock<Arc<InForce>>,
    slow: Slow,
    refused: AtomicU64,
    forbidden: AtomicU64,
    /// When an address began to show wrong secrets, and how many it has shown since then.
    wrong: Mutex<BTreeMap<IpAddr, (Instant, u32)>>,
    told: Mutex<Option<(Instant, u64)>>,
    audit: Audit,
}

#[derive(Debug)]
struct Slow(Semaphore);

impl Default for Slow {
    fn default() -> Slow {
        Slow(Semaphore::new(SLOW_MAX))
    }
}

/// What is in force.
#[derive(Debug, Default)]
struct InForce {
    authenticators: Authenticators,
    authorizer: Authorizer,
}

/// Who asks, and what they may.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// Who was authenticated; None if nobody was asked.
    pub principal: Option<Principal>,
    /// Where from.
    pub peer: SocketAddr,
    /// What they may. It stays what it is, whatever is read later.
    pub approver: Approver,
}

impl Visitor {
    /// The name of the principal, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.principal.as_ref().and_then(|principal| principal.value.as_deref())
    }

    /// The parameters of a request of theirs. What takes credentials is not given to pages of other sites as a script: a
    /// browser would add the credentials by itself.
    pub fn query<B>(&self, request: &http::Request<B>) -> Query {
        let query = Query::of(request);
        if self.principal.is_some() { query.without("jsonp") } else { query }
    }

    /// Whether all that is known are the claims of a token.
    pub fn has_claims_alone(&self) -> bool {
        self.principal.as_ref().is_some_and(|principal| principal.value.is_none())
    }
}

impl Admission {
    /// Reads what `sources` name. With it come sentences for the operator.
    ///
    /// # Errors
    /// One sentence with the place of what is wrong.
    pub fn open(sources: Sources) -> Result<(Admission, Vec<String>), String> {
        let (in_force, warnings) = read(&sources)?;
        Ok((Admission { sources, now: RwLock::new(Arc::new(in_force)), ..Admission::default() }, warnings))
    }

    /// Reads them again. What was in force stays so if that fails. Reading blocks.
    ///
    /// # Errors
    /// As [`Admission::open`].
    pub fn reload(&self) -> Result<Vec<String>, String> {
        let (in_force, warnings) = read(&self.sources)?;
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(in_force);
        Ok(warnings)
    }

    /// The key that tokens are signed with, as it is in its file now. Blocks.
    pub fn key(&self) -> Option<Key> {
        self.sources.tokens.key(&mut Vec::new()).ok().flatten()
    }

    /// Whether there is anything to read again.
    pub fn has_files(&self) -> bool {
        self.sources.credentials.is_some() || self.sources.acls.is_some() || !self.sources.tokens.is_empty()
    }

    /// Whether `realm` asks who somebody is.
    pub fn asks(&self, realm: Realm) -> bool {
        self.in_force().authenticators.asks(realm)
    }

    /// The lists that are in force now.
    pub fn authorizer(&self) -> Authorizer {
        self.in_force().authorizer.clone()
    }

    /// How many were not let in since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How often somebody who was let in was refused what they wanted.
    pub fn forbidden(&self) -> u64 {
        self.forbidden.load(Ordering::Relaxed)
    }

    /// Counts an answer, if it is a 403, and notes it if it refuses anything.
    pub fn note(&self, asked: &Asked, response: &Response) {
        if response.status() == StatusCode::FORBIDDEN {
            self.forbidden.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(refused) = asked.refused(response) {
            self.audit.note(&refused);
        }
    }

    /// Somebody came whose handshake failed: a certificate of others, or none, or no TLS that is spoken here.
    pub(crate) fn not_secured(&self, peer: SocketAddr, why: &str) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.audit.note(&Refused {
            peer: Some(peer.to_string()),
            call: Some("TLS handshake".to_owned()),
            why: why.to_owned(),
            ..Refused::default()
        });
    }

    /// The same door; whoever is refused is noted in this log.
    pub fn noting(self, audit: Audit) -> Admission {
        Admission { audit, ..self }
    }

    /// The log of who was refused.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    fn in_force(&self) -> Arc<InForce> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who sends `request`, for something in `realm`; None: it is for everybody.
    ///
    /// # Errors
    /// The 401 for whoever does not say, or is not who they say.
    pub async fn admit(
        self: &Arc<Self>,
        realm: Option<Realm>,
        request: &Request,
        peer: SocketAddr,
    ) -> Result<Visitor, Box<Response>> {
        let (in_force, now_s) = (self.in_force(), event_s());
        let shown = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let certified = request.extensions().get::<ClientName>().filter(|_| shown.is_none());
        let authenticated = match realm {
            None => Ok(Authenticated::NotAsked),
            Some(Realm::MasterAgent) if self.sources.agents_join && shown.is_none() && certified.is_none() => {
                Ok(Authenticated::NotAsked)
            }
            Some(_) if let Some(ClientName(name)) = certified => {
                Ok(Authenticated::As(Principal { value: Some(name.as_ref().into()), claims: BTreeMap::new() }))
            }
            Some(realm) if in_force.authenticators.is_slow(realm, shown) => {
                let _turn = self.slow.0.acquire().await;
                let (in_force, shown) = (in_force.clone(), shown.map(<[u8]>::to_vec));
                let found = tokio::task::spawn_blocking(move || {
                    in_force.authenticators.authenticate(realm, shown.as_deref(), now_s)
                });
                match found.await {
                    Ok(found) => found,
                    Err(_) => {
                        let sentence = "It could not be found out who you are: try again";
                        return Err(Box::new(text(StatusCode::SERVICE_UNAVAILABLE, sentence)));
                    }
                }
            }
            Some(realm) => in_force.authenticators.authenticate(realm, shown, now_s),
        };
        let principal = match authenticated {
            Ok(Authenticated::NotAsked) => None,
            Ok(Authenticated::As(_)) if is_of_another_site(request) => {
                let sentence = "A page of another site may not have this done with the credentials of its reader";
                return Err(Box::new(text(StatusCode::FORBIDDEN, sentence)));
            }
            Ok(Authenticated::As(principal)) => Some(principal),
            Err(unauthorized) => {
                self.tell(realm, request, peer, shown.is_some());
                if shown.is_some() && self.is_too_often(peer.ip()) {
                    tokio::time::sleep(WRONG_PACE).await;
                }
                let mut response = text(StatusCode::UNAUTHORIZED, &unauthorized.body);
                if let Ok(challenge) = HeaderValue::from_str(&unauthorized.challenge) {
                    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
                }
                return Err(Box::new(response));
            }
        };
        let subject = match &principal {
            None => Subject::Anybody,
            Some(Principal { value: Some(value), .. }) => Subject::Principal(Arc::from(value.as_str())),
            Some(Principal { value: None, claims }) => Subject::Claims(Arc::new(claims.clone())),
        };
        Ok(Visitor { principal, peer, approver: in_force.authorizer.approver(subject) })
    }

    /// Counts a wrong secret.
    fn is_too_often(&self, from: IpAddr) -> bool {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_over = |began: &Instant| now.duration_since(*began) >= WRONG_PACE;
        if wrong.len() >= ADDRESSES_MAX && !wrong.contains_key(&from) {
            wrong.retain(|_, (began, _)| !is_over(began));
            // Very many at once: whoever is new among them waits, too.
            if wrong.len() >= ADDRESSES_MAX {
                return true;
            }
        }
        let (began, count) = wrong.entry(from).or_insert((now, 0));
        if is_over(began) {
            (*began, *count) = (now, 0);
        }
        *count += 1;
        *count > WRONG_MAX
    }

    /// One line a second at most, about somebody who was not let in; what they showed is not in it.
    fn tell(&self, realm: Option<Realm>, request: &Request, peer: SocketAddr, has_shown: bool) {
        let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, before) = told.map_or((None, 0), |(at, before)| (Some(at), before));
        if last.is_some_and(|at| at.elapsed() < TELL_EVERY) {
            return;
        }
        *told = Some((Instant::now(), refused));
        let (realm, others) = (realm.map_or("", Realm::name), refused - before - 1);
        let what = if has_shown { "showed nothing that is right" } else { "showed nothing" };
        let (method, path) = (request.method(), api::limits::quoted(request.uri().path()));
        tracing::warn!(%peer, realm, %method, %path, others, "not let in: {what}");
    }
}

/// Reads again who is let in and what they may, and says in the log what came of it. True if something else may be in force
/// now.
pub async fn reload(admission: Arc<Admission>) -> bool {
    if !admission.has_files() {
        tracing::info!(
            "told to read files again (SIGHUP), and there are none of credentials, keys of tokens or access control lists"
        );
        return false;
    }
    match tokio::task::spawn_blocking(move || admission.reload()).await {
        Ok(Ok(warnings)) => {
            warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            tracing::info!("credentials, keys of tokens and access control lists were read again");
            true
        }
        Ok(Err(why)) => {
            tracing::error!("{why}; what was in force stays so");
            false
        }
        Err(panic) => {
            tracing::error!(%panic, "credentials, keys of tokens and access control lists were not read again");
            false
        }
    }
}

/// Whether a browser says that a page of another site has something done: it adds the credentials by itself.
fn is_of_another_site(request: &Request) -> bool {
    let is_read = matches!(*request.method(), http::Method::GET | http::Method::HEAD);
    let from = request.headers().get("sec-fetch-site").map(HeaderValue::as_bytes);
    !is_read && matches!(from, Some(b"cross-site" | b"same-site"))
}

/// Seconds since the epoch: tokens say until when they are good.
fn event_s() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

fn read(sources: &Sources) -> Result<(InForce, Vec<String>), String> {
    let mut warnings = Vec::new();
    let mut authenticators = Authenticators::default();
    if let Some((flag, path)) = &sources.credentials {
        let (file, mode) = file(flag, path)?;
        let credentials = Credentials::parse(&file).map_err(|why| format!("--{flag}={}: {why}", path.display()))?;
        if mode & 0o007 != 0 {
            warnings.push(format!(
                "--{flag}={}: everybody on this machine can read it; chmod 600 closes it to others",
                path.display()
            ));
        }
        let credentials = Arc::new(credentials);
        for realm in &sources.realms {
            authenticators = authenticators.basic(*realm, credentials.clone());
        }
    }
    let tokens = sources.tokens.read(&mut warnings)?;
    for realm in sources.realms.iter().filter(|_| !tokens.is_empty()) {
        authenticators = authenticators.bearer(*realm, tokens.clone());
    }
    let authorizer = match &sources.acls {
        None => Authorizer::default(),
        Some(given) => {
            let (place, text) = match given.trim_start().starts_with('{') {
                true => ("--acls".to_owned(), given.clone()),
                false => (format!("--acls={given}"), file("acls", Path::new(given))?.0),
            };
            let acls = Acls::parse(&text).map_err(|why| format!("{place}: {why}"))?;
            warnings.extend(acls.warnings().iter().map(|warning| format!("{place}: {warning}")));
            Authorizer::new(acls)
        }
    };
    Ok((InForce { authenticators, authorizer }, warnings))
}

/// The text of a file of secrets that `flag` names, and its mode.
///
/// # Errors
/// One sentence, which does not repeat what is in the file.
pub fn file(flag: &str, path: &Path) -> Result<(String, u32), String> {
    use std::io::Read as _;
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    let wrong = |why: &dyn std::fmt::Display| format!("--{flag}={}: {why}", path.display());
    let open = std::fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let file = open.map_err(|error| wrong(&format_args!("cannot be read: {error}")))?;
    let metadata = file.metadata().map_err(|error| wrong(&format_args!("cannot be read: {error}")))?;
    if !metadata.is_file() {
        return Err(wrong(&"is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(AUTH_FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| wrong(&format_args!("cannot be read: {error}")))?;
    if bytes.len() as u64 > AUTH_FILE_BYTES_MAX {
        return Err(wrong(&format_args!("has more than {AUTH_FILE_BYTES_MAX} bytes")));
    }
    // The bytes may be secrets: they are not repeated.
    let text = String::from_utf8(bytes).map_err(|_| wrong(&"is no text in UTF-8"))?;
    Ok((text, metadata.permissions().mode()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(dir: &Path, credentials: &str, acls: &str) -> Sources {
        let path = dir.join("credentials");
        std::fs::write(&path, credentials).unwrap();
        Sources {
            agents_join: false,
            credentials: Some(("credentials", path)),
            acls: Some(acls.to_owned()),
            tokens: TokenSources::default(),
            realms: vec![Realm::MasterReadonly],
        }
    }

    #[test]
    fn what_cannot_be_read_opens_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let wrong =
            |credentials: &str, acls: &str| Admission::open(sources(dir.path(), credentials, acls)).unwrap_err();
        let said = wrong("hunter2", "{}");
        assert!(said.contains("/credentials: line 1 is not a principal") && !said.contains("hunter2"), "{said}");
        assert!(wrong("a b", r#"{"view_role": []}"#).starts_with("--acls: there is no 'view_role'"));
        let missing = dir.path().join("none");
        let said = wrong("a b", missing.to_str().unwrap());
        assert!(said.ends_with("/none: cannot be read: No such file or directory (os error 2)"), "{said}");
        assert!(wrong("a b", dir.path().to_str().unwrap()).ends_with("is no regular file"));
    }

    #[test]
    fn whoever_guesses_is_slowed_down_and_nobody_else() {
        let admission = Admission::default();
        let (guesser, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let slowed = (0..WRONG_MAX + 5).filter(|_| admission.is_too_often(guesser)).count();
        assert!((1..=5).contains(&slowed), "{slowed}");
        assert!(!admission.is_too_often(other));
    }

    #[test]
    fn a_wrong_file_keeps_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let acls = dir.path().join("acls");
        std::fs::write(&acls, r#"{"permissive": false}"#).unwrap();
        let admission = Admission::open(sources(dir.path(), "a b", acls.to_str().unwrap())).unwrap().0;
        let before = admission.authorizer();
        std::fs::write(&acls, "{").unwrap();
        assert!(admission.reload().unwrap_err().contains("line 1"));
        assert_eq!(admission.authorizer(), before);
        std::fs::write(&acls, "{}").unwrap();
        assert!(admission.reload().is_ok());
        assert_ne!(admission.authorizer(), before);
    }
}
