//! What the members of one cluster share: a secret, and what they say to each other to show that they know it.
//!
//! Nothing of the secret is sent. A server gives out a challenge, a random number of its own; whoever asks sends a keyed
//! hash over that, a counter, the method, the path and the body. The answer carries a keyed hash over that of the request,
//! so that nobody without the secret can take a server's place either. No clock is asked: clocks need not agree.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use blake3::Hash;
use http::{HeaderValue, StatusCode};

/// Header of a request: who shows that it knows the secret.
pub(crate) const KEY: &str = "meseta-key";
/// Header of an answer: the server knows it, too.
pub(crate) const PROOF: &str = "meseta-proof";
/// Header of a 401: what a request is to answer.
pub(crate) const CHALLENGE: &str = "meseta-challenge";
/// Where challenges are given out.
pub const CHALLENGE_PATH: &str = "/meseta/challenge";

/// A shorter secret can be guessed, in bytes.
pub const SECRET_BYTES_MIN: usize = 16;
/// A line of the file is no longer, in bytes.
const SECRET_BYTES_MAX: usize = 1024;
/// Secrets that are taken at the same time.
const SECRETS_MAX: usize = 4;

/// A file of secrets is no longer, in bytes: as many lines as are taken, as long as they may be, with room for their ends.
const FILE_BYTES_MAX: u64 = 8192;
/// Some editors write it before the first letter.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Random bits that name a challenge, or whoever answers it.
pub(crate) type Random = [u8; 16];

/// The secrets of a cluster: the first is shown, each is taken.
#[derive(Clone)]
pub struct Secret {
    keys: Vec<[u8; 32]>,
    /// The mode of the file it was read from, if others than its owner may do something to that.
    exposed: Option<u32>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

/// Why there is no secret. No sentence repeats what it was read from: that may be the secret itself.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Not a file.
    #[error("--cluster_secret names a file, file:///PATH, and never holds the secret itself")]
    NoFile,
    /// It cannot be read.
    #[error("cannot read the file of --cluster_secret")]
    Unreadable(#[source] io::Error),
    /// A device, a pipe, a folder.
    #[error("what --cluster_secret names is no regular file")]
    NoRegularFile,
    /// Far too long.
    #[error("the file of --cluster_secret has more than {FILE_BYTES_MAX} bytes")]
    Large,
    /// No text that people write.
    #[error("the file of --cluster_secret is no text: it has NULs, control characters or no UTF-8 in it")]
    NoText,
    /// Nothing in it.
    #[error("the file of --cluster_secret is empty: `meseta secret new FILE` makes one")]
    Empty,
    /// Too short, or too long.
    #[error("a line of the file of --cluster_secret has {0} bytes, not {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX}")]
    Length(usize),
    /// Too many.
    #[error("the file of --cluster_secret has more than {SECRETS_MAX} lines, each of which is a secret")]
    Many,
}

impl Secret {
    /// One secret a line; the first is shown to others, all are taken from them.
    ///
    /// # Errors
    /// A [`SecretError`], which is one sentence.
    pub fn parse(text: &str) -> Result<Secret, SecretError> {
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        let is_odd = |letter: char| letter.is_control() && !"\t\r\n".contains(letter) || letter == BYTE_ORDER_MARK;
        if text.contains(is_odd) {
            return Err(SecretError::NoText);
        }
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if lines.iter().any(|line| line.contains(char::is_control)) {
            return Err(SecretError::NoText);
        }
        if let Some(odd) = lines.iter().find(|line| !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&line.len())) {
            return Err(SecretError::Length(odd.len()));
        }
        match lines.len() {
            0 => Err(SecretError::Empty),
            1..=SECRETS_MAX => {
                let key = |line: &&str| blake3::derive_key("meseta: the secret of a cluster, 1", line.as_bytes());
                Ok(Secret { keys: lines.iter().map(key).collect(), exposed: None })
            }
            _ => Err(SecretError::Many),
        }
    }

    /// Reads what `--cluster_secret` names: `file:///PATH`, or an absolute path, of a regular file.
    ///
    /// # Errors
    /// A [`SecretError`], which is one sentence.
    pub fn read(flag: &str) -> Result<Secret, SecretError> {
        let path = Path::new(flag.strip_prefix("file://").unwrap_or(flag));
        if !path.is_absolute() {
            return Err(SecretError::NoFile);
        }
        // A pipe would have us wait for somebody who writes.
        let no_wait = nix::libc::O_NONBLOCK;
        let file = File::options().read(true).custom_flags(no_wait).open(path).map_err(SecretError::Unreadable)?;
        let metadata = file.metadata().map_err(SecretError::Unreadable)?;
        if !metadata.is_file() {
            return Err(SecretError::NoRegularFile);
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(SecretError::Unreadable)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(SecretError::Large);
        }
        let secret = Secret::parse(std::str::from_utf8(&bytes).map_err(|_| SecretError::NoText)?)?;
        let mode = metadata.permissions().mode() & 0o777;
        Ok(Secret { exposed: Some(mode).filter(|mode| mode & 0o077 != 0), ..secret })
    }

    /// A sentence for its owner, if others on this machine can get at the file that it was read from.
    pub fn warning(&self) -> Option<String> {
        let mode = self.exposed?;
        Some(format!(
            "the file of --cluster_secret is open to others on this machine (mode {mode:03o}): chmod 600 closes it"
        ))
    }

    /// The text of a new one.
    pub fn mint() -> String {
        hex(&random()) + &hex(&random())
    }

    /// The key that is shown.
    pub(crate) fn first(&self) -> &[u8; 32] {
        &self.keys[0]
    }

    /// Those that are taken.
    pub(crate) fn all(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.keys.iter()
    }

    /// The key under which `hash` is the one that `of` has. The comparison takes equally long however much is equal.
    pub(crate) fn find(&self, hash: &[u8; 32], of: impl Fn(&[u8; 32]) -> Hash) -> Option<&[u8; 32]> {
        self.keys.iter().find(|key| of(key) == *hash)
    }
}

/// What a request shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) challenge: Random,
    /// Whoever asks, and how often it has.
    pub(crate) session: Random,
    pub(crate) counter: u64,
    /// Of the whole body; None of one without an end.
    pub(crate) body: Option<Hash>,
}

impl Shown {
    /// Over everything that is shown, and what is asked.
    pub(crate) fn hash(&self, key: &[u8; 32], method: &str, path: &str) -> Hash {
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(b"meseta request 1");
        hasher.update(&self.challenge).update(&self.session).update(&self.counter.to_be_bytes());
        for text in [method, path] {
            hasher.update(&(text.len() as u64).to_be_bytes()).update(text.as_bytes());
        }
        update_body(&mut hasher, self.body);
        hasher.finalize()
    }

    /// `challenge.session.counter.body.hash`
    pub(crate) fn header(&self, hash: Hash) -> HeaderValue {
        let Shown { challenge, session, counter, body } = self;
        let text = format!("{}.{}.{counter}.{}.{hash}", hex(challenge), hex(session), body_text(*body));
        HeaderValue::try_from(text).expect("digits, dots and dashes")
    }

    pub(crate) fn read(header: &HeaderValue) -> Option<(Shown, [u8; 32])> {
        let mut words = header.to_str().ok()?.split('.');
        let (challenge, session) = (unhex(words.next()?)?, unhex(words.next()?)?);
        let counter = words.next()?.parse().ok()?;
        let body = body_of(words.next()?)?;
        let hash = *Hash::from_hex(words.next()?).ok()?.as_bytes();
        words.next().is_none().then_some((Shown { challenge, session, counter, body }, hash))
    }
}

/// What an answer to the request with `hash` shows: over that, the status and the body.
pub(crate) fn proof(key: &[u8; 32], request: &[u8; 32], status: StatusCode, body: Option<Hash>) -> Hash {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(b"meseta answer 1").update(request).update(&status.as_u16().to_be_bytes());
    update_body(&mut hasher, body);
    hasher.finalize()
}

/// `body.hash`
pub(crate) fn proof_header(body: Option<Hash>, hash: Hash) -> HeaderValue {
    HeaderValue::try_from(format!("{}.{hash}", body_text(body))).expect("digits, dots and dashes")
}

pub(crate) fn read_proof(header: &HeaderValue) -> Option<(Option<Hash>, [u8; 32])> {
    let (body, hash) = header.to_str().ok()?.split_once('.')?;
    Some((body_of(body)?, *Hash::from_hex(hash).ok()?.as_bytes()))
}

fn update_body(hasher: &mut blake3::Hasher, body: Option<Hash>) {
    match body {
        Some(hash) => hasher.update(&[1]).update(hash.as_bytes()),
        None => hasher.update(&[0]),
    };
}

fn body_text(body: Option<Hash>) -> String {
    body.map_or_else(|| "-".to_owned(), |hash| hash.to_hex().to_string())
}

fn body_of(text: &str) -> Option<Option<Hash>> {
    if text == "-" { Some(None) } else { Hash::from_hex(text).ok().map(Some) }
}

pub(crate) fn hex(bytes: &Random) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Option<Random> {
    let digits = text.as_bytes();
    if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    Some(u128::from_str_radix(text, 16).ok()?.to_be_bytes())
}

/// Nobody else has the same.
pub(crate) fn random() -> Random {
    *uuid::Uuid::new_v4().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_secret_is_refused_and_never_repeated() {
        let secret = "correct horse battery";
        for (text, says) in [
            ("", "is empty"),
            (" \n\n", "is empty"),
            ("short", "has 5 bytes"),
            (&"x".repeat(1025), "has 1025 bytes"),
            (&format!("{secret}\n").repeat(5), "more than 4 lines"),
            (&"\0".repeat(64), "is no text"),
            ("correct horse\tbattery", "is no text"),
            ("\u{feff}\u{feff}correct horse battery", "is no text"),
        ] {
            let error = Secret::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let error = Secret::read(secret).unwrap_err().to_string();
        assert!(error.contains("file:///PATH") && !error.contains(secret), "{error}");
        assert_eq!(Secret::parse(&format!("\u{feff}{secret}\r\n")).unwrap().keys, Secret::parse(secret).unwrap().keys);
        assert!(!Secret::read("/no/such/file").unwrap_err().to_string().contains("/no/such"));
        assert!(Secret::parse(&Secret::mint()).is_ok() && Secret::mint() != Secret::mint());
        assert_eq!(format!("{:?}", Secret::parse(secret).unwrap()), "Secret");
    }

    #[test]
    fn only_a_short_regular_file_is_read_and_one_that_others_can_read_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("long"), "x".repeat(8193)).unwrap();
        nix::unistd::mkfifo(path("pipe").as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (name, says) in [
            ("/dev/zero", "no regular file"),
            (&path("pipe"), "no regular file"),
            (&path(""), "no regular file"),
            (&path("long"), "more than 8192 bytes"),
        ] {
            let error = Secret::read(name).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        for (mode, is_open) in [(0o600, false), (0o400, false), (0o644, true), (0o620, true)] {
            std::fs::write(path("s"), Secret::mint()).unwrap();
            std::fs::set_permissions(path("s"), std::fs::Permissions::from_mode(mode)).unwrap();
            let warning = Secret::read(&path("s")).unwrap().warning();
            assert_eq!(warning.is_some(), is_open, "{warning:?}");
            std::fs::remove_file(path("s")).unwrap();
        }
    }

    #[test]
    fn each_line_is_a_secret_and_the_first_is_shown() {
        let (old, new) = ("the old one, long enough", "the new one, long enough");
        let both = Secret::parse(&format!("{new}\n{old}\n")).unwrap();
        assert_eq!(both.first(), Secret::parse(new).unwrap().first());
        let shown = Shown { challenge: [1; 16], session: [2; 16], counter: 3, body: None };
        let of = |key: &[u8; 32]| shown.hash(key, "POST", "/p");
        let by_old = of(Secret::parse(old).unwrap().first());
        assert_eq!(both.find(by_old.as_bytes(), of), Some(&both.keys[1]));
        assert_eq!(Secret::parse(new).unwrap().find(by_old.as_bytes(), of), None);
    }

    #[test]
    fn the_hash_covers_everything() {
        let key = *Secret::parse("one that is long enough").unwrap().first();
        let shown = Shown { challenge: [1; 16], session: [2; 16], counter: 3, body: Some(blake3::hash(b"x")) };
        let hash = shown.hash(&key, "POST", "/p");
        for other in [
            Shown { challenge: [9; 16], ..shown },
            Shown { session: [9; 16], ..shown },
            Shown { counter: 4, ..shown },
            Shown { body: None, ..shown },
            Shown { body: Some(blake3::hash(b"y")), ..shown },
        ] {
            assert_ne!(other.hash(&key, "POST", "/p"), hash);
        }
        assert_ne!(shown.hash(&key, "POST/", "p"), hash);
        assert_ne!(shown.hash(&key, "GET", "/p"), hash);
        assert_eq!(Shown::read(&shown.header(hash)), Some((shown, *hash.as_bytes())));
    }
}
