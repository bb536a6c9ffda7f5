//! From the header of a request to who sent it. Each realm has its authenticators; a realm without any lets everybody in
//! as nobody in particular, whatever they show.

use crate::credentials::Credentials;
use crate::jwt::Tokens;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What is protected together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Realm {
    /// What masters tell.
    MasterReadonly,
    /// What changes something at masters, and all of their v1 calls.
    MasterReadwrite,
    /// Frameworks.
    MasterScheduler,
    /// Agents. Mesos has no realm for them, as they do not come by HTTP there.
    MasterAgent,
    /// What agents tell.
    AgentReadonly,
    /// What changes something at agents, and all of their v1 calls.
    AgentReadwrite,
    /// Executors.
    AgentExecutor,
}

impl Realm {
    /// Its name, as clients are told.
    pub fn name(self) -> &'static str {
        match self {
            Realm::MasterReadonly => "mesos-master-readonly",
            Realm::MasterReadwrite => "mesos-master-readwrite",
            Realm::MasterScheduler => "mesos-master-scheduler",
            Realm::MasterAgent => "meseta-master-agent",
            Realm::AgentReadonly => "mesos-agent-readonly",
            Realm::AgentReadwrite => "mesos-agent-readwrite",
            Realm::AgentExecutor => "mesos-agent-executor",
        }
    }
}

/// Who was authenticated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Principal {
    /// The name, if there is one.
    pub value: Option<String>,
    /// What a token claims beside that.
    pub claims: BTreeMap<String, String>,
}

/// What became of a request at the door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authenticated {
    /// It is in a realm that asks nobody.
    NotAsked,
    /// It is from this one.
    As(Principal),
}

/// What somebody is told who is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unauthorized {
    /// The header `WWW-Authenticate`.
    pub challenge: String,
    /// The body.
    pub body: String,
}

/// Which realms ask for what.
#[derive(Clone, Debug, Default)]
pub struct Authenticators {
    realms: BTreeMap<Realm, Vec<Authenticator>>,
}

#[derive(Clone, Debug)]
enum Authenticator {
    Basic(Arc<Credentials>),
    Bearer(Tokens),
}

/// Why one authenticator does not know who it is: more for its challenge, if there is something to say.
struct Failed(String);

impl Authenticators {
    /// Asks in `realm` for a principal and its secret.
    #[must_use]
    pub fn basic(mut self, realm: Realm, credentials: Arc<Credentials>) -> Authenticators {
        self.realms.entry(realm).or_default().push(Authenticator::Basic(credentials));
        self
    }

    /// Asks in `realm` for a token, behind those that were asked for before.
    #[must_use]
    pub fn bearer(mut self, realm: Realm, tokens: Tokens) -> Authenticators {
        self.realms.entry(realm).or_default().push(Authenticator::Bearer(tokens));
        self
    }

    /// Whether `realm` asks.
    pub fn asks(&self, realm: Realm) -> bool {
        self.realms.contains_key(&realm)
    }

    /// Who sent the request with this `Authorization`, at `now_s` seconds since the epoch.
    ///
    /// # Errors
    /// [`Unauthorized`], if nobody knows; it says nothing about what was wrong with a name or a secret.
    pub fn authenticate(&self, realm: Realm, header: Option<&[u8]>, now_s: u64) -> Result<Authenticated, Unauthorized> {
        let Some(authenticators) = self.realms.get(&realm) else { return Ok(Authenticated::NotAsked) };
        let header = header.and_then(|header| std::str::from_utf8(header).ok()).unwrap_or_default();
        let mut failed = Vec::new();
        for authenticator in authenticators {
            match authenticator.authenticate(header, now_s) {
                Ok(principal) => return Ok(Authenticated::As(principal)),
                Err(Failed(more)) => failed.push((authenticator, more)),
            }
        }
        let challenge = failed.iter().map(|(one, more)| format!("{one} realm=\"{}\"{more}", realm.name()));
        let body = match &failed[..] {
            [_] => "401 Unauthorized.".to_owned(),
            several => {
                let parts =
                    several.iter().map(|(one, _)| format!("\"{one}\" authenticator returned:\n401 Unauthorized."));
                parts.collect::<Vec<_>>().join("\n\n")
            }
        };
        Err(Unauthorized { challenge: challenge.collect::<Vec<_>>().join(","), body })
    }

    /// Whether finding out takes long, and is not for a thread that serves.
    pub fn is_slow(&self, realm: Realm, header: Option<&[u8]>) -> bool {
        let Some(header) = header.and_then(|header| std::str::from_utf8(header).ok()) else { return false };
        self.realms.get(&realm).into_iter().flatten().any(|authenticator| match authenticator {
            Authenticator::Basic(credentials) => {
                credentials.has_hashes()
                    && basic(header).is_some_and(|(principal, secret)| credentials.is_slow(&principal, &secret))
            }
            Authenticator::Bearer(_) => false,
        })
    }
}

impl Authenticator {
    fn authenticate(&self, header: &str, now_s: u64) -> Result<Principal, Failed> {
        match self {
            Authenticator::Basic(credentials) => {
                let shown = basic(header).filter(|(principal, secret)| credentials.holds(principal, secret));
                let value = shown.map(|(principal, _)| principal).ok_or_else(|| Failed(String::new()))?;
                Ok(Principal { value: Some(value), claims: BTreeMap::new() })
            }
            Authenticator::Bearer(tokens) => bearer(header, tokens, now_s).map_err(|why| {
                Failed(match why {
                    None => String::new(),
                    Some(why) => format!(", error=\"invalid_token\", error_description=\"{why}\""),
                })
            }),
        }
    }
}

impl fmt::Display for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Authenticator::Basic(_) => f.write_str("Basic"),
            Authenticator::Bearer(_) => f.write_str("Bearer"),
        }
    }
}

/// Principal and secret of `Basic BASE64`: one space, and the scheme as it is written here, as clients of Mesos have it.
fn basic(header: &str) -> Option<(String, String)> {
    let decoded = STANDARD.decode(header.strip_prefix("Basic ")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (principal, secret) = text.split_once(':')?;
    Some((principal.to_owned(), secret.to_owned()))
}

/// Whoever holds a token: by the claim that names a principal, if there is one, else by what it claims. The error is None
/// where no token is shown.
fn bearer(header: &str, tokens: &Tokens, now_s: u64) -> Result<Principal, Option<String>> {
    if header.is_empty() {
        return Err(None);
    }
    let (scheme, token) = header.split_once(' ').ok_or(None)?;
    if scheme != "Bearer" {
        // What another authenticator is asked for is not said to be a token.
        let is_word = scheme.len() <= 32 && scheme.bytes().all(|letter| letter.is_ascii_alphanumeric());
        let is_known = scheme == "Basic" || !is_word;
        return Err((!is_known).then(|| format!("Scheme '{scheme}' unsupported")));
    }
    tokens.read(token, now_s).map_err(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jwt::Key;

    fn authenticators() -> Authenticators {
        let credentials = Arc::new(Credentials::parse("ops secret").unwrap());
        Authenticators::default().basic(Realm::MasterReadwrite, credentials)
    }

    #[test]
    fn only_the_right_header_is_let_in() {
        let asked = |header: &str| authenticators().authenticate(Realm::MasterReadwrite, Some(header.as_bytes()), 0);
        let ops = Principal { value: Some("ops".into()), ..Principal::default() };
        assert_eq!(asked("Basic b3BzOnNlY3JldA=="), Ok(Authenticated::As(ops)));
        let no = Unauthorized {
            challenge: "Basic realm=\"mesos-master-readwrite\"".into(),
            body: "401 Unauthorized.".into(),
        };
        for wrong in [
            "Basic b3BzOndyb25n",
            "Basic bm9ib2R5OnNlY3JldA==",
            "Basic b3Bz",
            "Basic b3BzOg==",
            "Bearer abc",
            "Digest username=\"ops\"",
            "basic b3BzOnNlY3JldA==",
            "Basic !!!",
            "Basic",
            "",
            "Basic  b3BzOnNlY3JldA==",
            "Basic b3BzOnNlOmNyZXQ=",
        ] {
            assert_eq!(asked(wrong), Err(no.clone()), "{wrong}");
        }
        assert_eq!(authenticators().authenticate(Realm::MasterReadwrite, None, 0), Err(no));
    }

    #[test]
    fn tokens_are_taken_beside_secrets() {
        let key = Key::parse("a key of some length").unwrap();
        let tokens = Tokens { key: Some(key.clone()), issuer: None };
        let both = authenticators().bearer(Realm::MasterReadwrite, tokens);
        let asked = |header: &str| both.authenticate(Realm::MasterReadwrite, Some(header.as_bytes()), 0);
        let of = |claims: &[(&str, &str)]| format!("Bearer {}", key.mint(&claims.iter().copied().collect()));
        let Ok(Authenticated::As(holder)) = asked(&of(&[("cid", "c")])) else { panic!() };
        assert_eq!((holder.value, holder.claims["cid"].as_str()), (None, "c"));
        let Ok(Authenticated::As(named)) = asked(&of(&[("sub", "web")])) else { panic!() };
        assert_eq!(named.value.as_deref(), Some("web"));
        assert!(asked("Basic b3BzOnNlY3JldA==").is_ok());
        let no = asked("Bearer x").unwrap_err();
        assert_eq!(
            no.challenge,
            "Basic realm=\"mesos-master-readwrite\",Bearer realm=\"mesos-master-readwrite\", error=\"invalid_token\", \
             error_description=\"Invalid JWT: Expected 3 components in token, got 1\""
        );
        assert_eq!(
            no.body,
            "\"Basic\" authenticator returned:\n401 Unauthorized.\n\n\"Bearer\" authenticator returned:\n401 Unauthorized."
        );
        assert!(asked(&of(&[])).unwrap_err().challenge.ends_with("error_description=\"JWT claims missing\""));
        assert!(asked("bearer x").unwrap_err().challenge.ends_with("\"Scheme 'bearer' unsupported\""));
        assert!(asked("").unwrap_err().challenge.ends_with(",Bearer realm=\"mesos-master-readwrite\""));
    }

    #[test]
    fn a_realm_that_asks_nobody_does_not_look() {
        let asked = authenticators().authenticate(Realm::MasterReadonly, Some(b"Basic !!!"), 0);
        assert_eq!(asked, Ok(Authenticated::NotAsked));
    }
}
