//! The file of `--credentials`: principals and their secrets. Secrets are not kept: what is kept is a hash of each, and a
//! secret that is shown is compared by its hash, in a time that says nothing about either. No sentence of this file
//! repeats what it was made from. [`Credential`] is the other side: what somebody shows.

use api::limits::{CREDENTIALS_MAX, PRINCIPAL_BYTES_MAX};
use argon2::password_hash::{PasswordHash, PasswordHasher, SaltString};
use argon2::{Argon2, PasswordVerifier};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

/// What begins a secret that the file holds as a hash.
const HASHED: &str = "$argon2id$";
/// A hash may ask for so much memory, in KiB, and for so many passes: more is a mistake, and holds up whoever logs in.
const HASH_KIB_MAX: u32 = 256 << 10;
const HASH_PASSES_MAX: u32 = 16;

/// Principals with their secrets.
pub struct Credentials {
    known: BTreeMap<String, Known>,
    /// Whether some of them are kept as slow hashes.
    has_hashes: bool,
    /// Secrets that were found right by a slow hash, by principal: whoever calls again does not wait again.
    found: Mutex<BTreeMap<String, blake3::Hash>>,
}

enum Known {
    /// Of a secret that the file holds as it is.
    Plain(blake3::Hash),
    /// The file's own.
    Hashed(String),
}

/// Why a text holds no credentials. One sentence with the place, and never what is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// Nothing in it.
    #[error(
        r#"it is empty; it would be {{"credentials": [{{"principal": "P", "secret": "S"}}]}}, or a line for each: P S"#
    )]
    Empty,
    /// No JSON.
    #[error("it is no JSON at line {line} column {column}")]
    NoJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// Other JSON.
    #[error(
        r#"what ends at line {line} column {column} is not as {{"credentials": [{{"principal": "P", "secret": "S"}}]}}"#
    )]
    OtherJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// A line of the older form.
    #[error("line {0} is not a principal and its secret with a space between them: P S")]
    Line(usize),
    /// One of them.
    #[error("credential {at}: {why}")]
    One {
        /// From 1.
        at: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// Too many.
    #[error("it has more than {CREDENTIALS_MAX} credentials")]
    Many,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    credentials: Vec<Pair>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    principal: String,
    secret: String,
}

impl Credentials {
    /// Reads them: JSON, or the older form, a line for each.
    ///
    /// # Errors
    /// A [`CredentialsError`] with the place of what is wrong.
    pub fn parse(text: &str) -> Result<Credentials, CredentialsError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.trim().is_empty() {
            return Err(CredentialsError::Empty);
        }
        let credentials = if text.trim_start().starts_with(['{', '[']) { json(text)? } else { lines(text)? };
        if credentials.is_empty() {
            return Err(CredentialsError::Empty);
        }
        if credentials.len() > CREDENTIALS_MAX {
            return Err(CredentialsError::Many);
        }
        let mut known = BTreeMap::new();
        for (Pair { principal, secret }, at) in credentials.into_iter().zip(1..) {
            let wrong = |why| Err(CredentialsError::One { at, why });
            check_principal(&principal).map_err(|why| CredentialsError::One { at, why })?;
            let hash = match secret.as_str() {
                "" => return wrong("its secret is empty"),
                hashed if hashed.starts_with(HASHED) => match check_hash(hashed) {
                    Ok(()) => Known::Hashed(secret),
                    Err(why) => return wrong(why),
                },
                plain => Known::Plain(digest(plain)),
            };
            if known.insert(principal, hash).is_some() {
                return wrong("its principal has another secret already");
            }
        }
        let has_hashes = known.values().any(|known| matches!(known, Known::Hashed(_)));
        Ok(Credentials { known, has_hashes, found: Mutex::default() })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.known.len()
    }

    /// Whether this is the principal's secret. Takes as long for a principal that there is not.
    pub fn holds(&self, principal: &str, secret: &str) -> bool {
        let shown = digest(secret);
        match self.known.get(principal) {
            // The comparison of blake3 takes the same time whatever it finds.
            Some(Known::Plain(own)) => *own == shown,
            Some(Known::Hashed(own)) => {
                if self.was_found(principal, shown) {
                    return true;
                }
                let parsed = PasswordHash::new(own);
                let is_right =
                    parsed.is_ok_and(|own| Argon2::default().verify_password(secret.as_bytes(), &own).is_ok());
                if is_right && let Ok(mut found) = self.found.lock() {
                    found.insert(principal.to_owned(), shown);
                }
                is_right
            }
            None => {
                // As long as for one that there is.
                let _ = std::hint::black_box(digest("") == shown);
                false
            }
        }
    }

    /// Whether finding out may take long for anybody.
    pub(crate) fn has_hashes(&self) -> bool {
        self.has_hashes
    }

    /// Whether finding out takes long: tens of milliseconds, and not one microsecond.
    pub fn is_slow(&self, principal: &str, secret: &str) -> bool {
        matches!(self.known.get(principal), Some(Known::Hashed(_))) && !self.was_found(principal, digest(secret))
    }

    fn was_found(&self, principal: &str, shown: blake3::Hash) -> bool {
        self.found.lock().is_ok_and(|found| found.get(principal) == Some(&shown))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials of {}", self.known.len())
    }
}

/// A secret as a file of credentials may hold it, so that whoever reads the file cannot log in: Argon2id with the salt
/// given, which is random.
pub fn hash(secret: &str, salt: [u8; 16]) -> String {
    let salt = SaltString::encode_b64(&salt).expect("16 bytes are a salt");
    let hashed = Argon2::default().hash_password(secret.as_bytes(), &salt);
    hashed.map(|hashed| hashed.to_string()).expect("any text can be hashed")
}

fn check_principal(principal: &str) -> Result<(), &'static str> {
    match principal {
        "" => Err("its principal is empty"),
        _ if principal.len() > PRINCIPAL_BYTES_MAX => Err("its principal is longer than 1024 bytes"),
        _ if principal.contains(':') => Err("its principal has a colon in it, and nobody could log in with that"),
        _ if principal.chars().any(char::is_control) => Err("its principal has a control character in it"),
        _ => Ok(()),
    }
}

/// What a program shows to say who it is: a principal with its secret, or a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(String);

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential")
    }
}

/// Why a text is no credential to show. It is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// No such thing.
    #[error(
        r#"it is not as {{"principal": "P", "secret": "S"}}, a line P S, or {{"token": "T"}} with a token that masters believe"#
    )]
    Other,
    /// One that nobody could log in with.
    #[error("{0}")]
    Unfit(&'static str),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    token: String,
}

impl Credential {
    /// Reads it: JSON, or the older form, one line.
    ///
    /// # Errors
    /// A [`CredentialError`], which is one sentence.
    pub fn parse(text: &str) -> Result<Credential, CredentialError> {
        use base64::Engine as _;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim();
        let (principal, secret) = if text.starts_with(['{', '[']) {
            if let Ok(Token { token }) = serde_json::from_str(text) {
                let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
                return is_token.then(|| Credential(format!("Bearer {token}"))).ok_or(CredentialError::Other);
            }
            let Ok(read) = serde_json::from_str(text) else { return Err(CredentialError::Other) };
            let Pair { principal, secret } = read;
            (principal, secret)
        } else {
            let words: Vec<&str> = text.split_whitespace().collect();
            let [principal, secret] = words[..] else { return Err(CredentialError::Other) };
            (principal.to_owned(), secret.to_owned())
        };
        check_principal(&principal).map_err(CredentialError::Unfit)?;
        if secret.is_empty() {
            return Err(CredentialError::Unfit("its secret is empty"));
        }
        if secret.starts_with(HASHED) {
            return Err(CredentialError::Unfit("its secret is a hash, which only the side that is shown it can use"));
        }
        let shown = base64::engine::general_purpose::STANDARD.encode(format!("{principal}:{secret}"));
        Ok(Credential(format!("Basic {shown}")))
    }

    /// The value of the header `Authorization`.
    pub fn header(&self) -> &str {
        &self.0
    }

    /// Whether it is a secret that whoever listens could show as well, for as long as it is one.
    pub fn is_secret(&self) -> bool {
        self.0.starts_with("Basic")
    }
}

fn check_hash(text: &str) -> Result<(), &'static str> {
    let wrong = "its secret begins as a hash and is none; `meseta auth hash` makes one";
    let hash = PasswordHash::new(text).map_err(|_| wrong)?;
    let params = argon2::Params::try_from(&hash).map_err(|_| wrong)?;
    if hash.hash.is_none() || hash.salt.is_none() {
        return Err(wrong);
    }
    if params.m_cost() > HASH_KIB_MAX || params.t_cost() > HASH_PASSES_MAX {
        return Err("its hash takes more than 256 MiB or 16 passes, and whoever logs in would wait for it");
    }
    Ok(())
}

fn digest(secret: &str) -> blake3::Hash {
    blake3::Hasher::new_derive_key("Meseta 2026 a secret of --credentials").update(secret.as_bytes()).finalize()
}

fn json(text: &str) -> Result<Vec<Pair>, CredentialsError> {
    let read = serde_json::from_str::<File>(text);
    read.map(|file| file.credentials).map_err(|error| {
        // Its own words may repeat a secret.
        let (line, column) = (error.line(), error.column());
        match error.classify() {
            serde_json::error::Category::Data => CredentialsError::OtherJson { line, column },
            _ => CredentialsError::NoJson { line, column },
        }
    })
}

fn lines(text: &str) -> Result<Vec<Pair>, CredentialsError> {
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    lines
        .map(|(line, number)| {
            let mut words = line.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some(principal), Some(secret), None) => {
                    Ok(Pair { principal: principal.to_owned(), secret: secret.to_owned() })
                }
                _ => Err(CredentialsError::Line(number)),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let json = r#"{"credentials": [{"principal": "ops", "secret": "s:1"}, {"principal": "web", "secret": "s2"}]}"#;
        for text in [json, "ops s:1\n\nweb\ts2\r\n"] {
            let credentials = Credentials::parse(text).unwrap();
            assert!(credentials.holds("ops", "s:1") && credentials.holds("web", "s2"));
            assert!(!credentials.holds("ops", "s2") && !credentials.holds("ops", "") && !credentials.holds("no", "s2"));
            assert!(!credentials.holds("", ""));
            assert_eq!(format!("{credentials:?}"), "Credentials of 2");
        }
    }

    #[test]
    fn what_somebody_shows_is_read_in_each_form() {
        for text in [r#"{"principal": "ops", "secret": "s"}"#, "ops s\n", "  ops\ts"] {
            assert_eq!(Credential::parse(text).unwrap().header(), "Basic b3BzOnM=");
        }
        assert_eq!(Credential::parse(r#"{"token": "a.b.c"}"#).unwrap().header(), "Bearer a.b.c");
        for (text, why) in [
            ("", "it is not as"),
            ("hunter2", "it is not as"),
            ("a hunter2 b", "it is not as"),
            (r#"{"credentials": [{"principal": "a", "secret": "hunter2"}]}"#, "it is not as"),
            (r#"{"token": "a hunter2"}"#, "it is not as"),
            (r#"{"token": ""}"#, "it is not as"),
            (r#"{"principal": "a", "secret": ""}"#, "its secret is empty"),
            (r#"{"principal": "", "secret": "hunter2"}"#, "its principal is empty"),
            (r#"{"principal": "a:b", "secret": "hunter2"}"#, "colon"),
            ("a $argon2id$hunter2", "its secret is a hash"),
        ] {
            let said = Credential::parse(text).unwrap_err().to_string();
            assert!(said.contains(why) && !said.contains("hunter"), "{text}: {said}");
        }
        assert_eq!(format!("{:?}", Credential::parse("ops s").unwrap()), "Credential");
    }

    #[test]
    fn a_hash_stands_for_its_secret() {
        let hashed = hash("hunter2", [7; 16]);
        assert!(hashed.starts_with(HASHED), "{hashed}");
        let credentials = Credentials::parse(&format!("ops {hashed}")).unwrap();
        assert!(credentials.is_slow("ops", "hunter2"));
        assert!(!credentials.holds("ops", "hunter") && !credentials.holds("ops", &hashed));
        assert!(credentials.holds("ops", "hunter2"));
        assert!(!credentials.is_slow("ops", "hunter2") && credentials.is_slow("ops", "hunter"), "found once is known");
        assert!(credentials.holds("ops", "hunter2") && !credentials.holds("ops", "hunter"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_and_without_what_it_says() {
        for (text, why) in [
            ("", "it is empty"),
            (r#"{"credentials": []}"#, "it is empty"),
            ("{\n\"credentials\": [hunter2]}", "it is no JSON at line 2 column 17"),
            (r#"{"credentials": ["hunter2"]}"#, "what ends at line 1 column 26 is not as"),
            (r#"{"credentials": [{"principal": "a", "secret": "hunter2", "secrets": 1}]}"#, "is not as"),
            (r#"{"credential": [{"principal": "a", "secret": "hunter2"}]}"#, "is not as"),
            (r#"[{"principal": "a", "secret": "hunter2"}]"#, "is not as"),
            (r#"{"credentials": [{"principal": "a"}]}"#, "is not as"),
            ("a b\nhunter2\n", "line 2 is not a principal and its secret"),
            ("a hunter2 c", "line 1 is not"),
            ("a hunter2\na hunter3", "credential 2: its principal has another secret already"),
            ("a:b hunter2", "credential 1: its principal has a colon in it"),
            (r#"{"credentials": [{"principal": "", "secret": "hunter2"}]}"#, "its principal is empty"),
            (r#"{"credentials": [{"principal": "a", "secret": ""}]}"#, "its secret is empty"),
            ("a $argon2id$hunter2", "begins as a hash and is none"),
        ] {
            let said = Credentials::parse(text).unwrap_err().to_string();
            assert!(said.contains(why), "{text}: {said}");
            assert!(!said.contains("hunter"), "{said}");
        }
    }
}
