//! Who was refused what: a log of its own, beside what daemons say of themselves. One JSON object a line, in files that
//! nobody but the daemon's user reads, bounded by lines and bytes, and by lines a second of each address. What somebody
//! showed to be let in is never in it.
//!
//! A refusal is noted once: by the daemon whose client it is, from the answer; what the master that leads decided, by that
//! one, for the client's own master hears no reason.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api::limits::{
    AUDIT_ADDRESSES_MAX, AUDIT_ENTRIES_MAX, AUDIT_FILE_BYTES_MAX, AUDIT_FILE_LINES_MAX, AUDIT_FILES_MAX, cut, quoted,
};
use auth::{Action, Subject};
use base64::Engine as _;
use http::{HeaderValue, Method, StatusCode, Uri, header};
use serde_json::{Map, Value, json};

use crate::{Query, Request, Response, Visitor, text};

/// So many refusals of one address are written in a second; the others are counted.
const LINES_OF_ADDRESS_MAX: u32 = 10;
/// The same of all addresses together.
const LINES_MAX: u32 = 200;
const WINDOW: Duration = Duration::from_secs(1);
/// Of a name, a path or a sentence not more is kept, in bytes.
const WORD_BYTES_MAX: usize = 256;
/// Between two complaints about the disk.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// The log of refusals of a process.
#[derive(Debug, Default)]
pub struct Audit {
    /// None: it is written nowhere.
    place: Option<PathBuf>,
    writing: Mutex<Writing>,
}

#[derive(Debug, Default)]
struct Writing {
    /// None before the first line, and after the disk failed.
    file: Option<Open>,
    addresses: BTreeMap<Option<IpAddr>, Pace>,
    all: Pace,
    /// Refusals that were not written since the start.
    left_out: u64,
    complained: Option<Instant>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
    lines: u64,
}

/// How many lines since when, and how many were not written since the last one.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    began: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Pace {
    fn is_over(&self, now: Instant) -> bool {
        self.began.is_none_or(|began| now.duration_since(began) >= WINDOW)
    }

    fn take(&mut self, now: Instant, lines_max: u32) -> bool {
        if self.is_over(now) {
            (self.began, self.lines) = (Some(now), 0);
        }
        self.lines += 1;
        self.lines <= lines_max
    }
}

/// What somebody was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// The answer's status, if there was an answer of its own.
    pub status: Option<u16>,
    /// Where from: host:port.
    pub peer: Option<String>,
    /// Who it is, if that was found out.
    pub principal: Option<String>,
    /// The name that came with a secret that was not taken.
    pub claimed: Option<String>,
    /// The request's method.
    pub method: Option<String>,
    /// The request's path, without what is behind its question mark.
    pub path: Option<String>,
    /// The call's name as its protocol has it.
    pub call: Option<String>,
    /// What there was to be allowed.
    pub action: Option<&'static str>,
    /// To what.
    pub object: Option<String>,
    /// Which rule says so, or the sentence that was answered.
    pub why: String,
}

impl Refused {
    fn line(&self, at_ms: u64, left_out: u64) -> Vec<u8> {
        let mut line = Map::new();
        line.insert("at_ms".into(), at_ms.into());
        line.insert("at".into(), api::time::shown(at_ms).into());
        if let Some(status) = self.status {
            line.insert("status".into(), status.into());
        }
        let texts = [
            ("peer", self.peer.as_deref()),
            ("principal", self.principal.as_deref()),
            ("claimed", self.claimed.as_deref()),
            ("method", self.method.as_deref()),
            ("path", self.path.as_deref()),
            ("call", self.call.as_deref()),
            ("action", self.action),
            ("object", self.object.as_deref()),
            ("why", Some(self.why.as_str())),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                line.insert(name.into(), cut(text, WORD_BYTES_MAX).into());
            }
        }
        if left_out > 0 {
            line.insert("left_out".into(), left_out.into());
        }
        let mut line = Value::Object(line).to_string().into_bytes();
        line.push(b'\n');
        line
    }
}

/// Which refusals are wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Not before this.
    pub since_ms: u64,
    /// Of whoever is, or claimed to be, this one alone.
    pub principal: Option<String>,
    /// The newest of them, if they are more.
    pub lines_max: usize,
}

impl Audit {
    /// In the file `name` of `folder`, both of which are made when there is something to write. Older parts of it are beside
    /// it: `NAME.1`, `NAME.2` and so on.
    pub fn at(folder: &Path, name: &str) -> Audit {
        Audit { place: Some(folder.join(name)), ..Audit::default() }
    }

    /// How many refusals were not written since the start: there were too many at once, or the disk was full.
    pub fn left_out(&self) -> u64 {
        self.lock().left_out
    }

    /// Writes a line, unless there are too many.
    pub fn note(&self, refused: &Refused) {
        let Some(place) = &self.place else { return };
        let from = refused.peer.as_ref().and_then(|peer| peer.parse::<SocketAddr>().ok()).map(|peer| peer.ip());
        let now = Instant::now();
        let mut writing = self.lock();
        let Some(before) = writing.pass(from, now) else {
            writing.left_out += 1;
            return;
        };
        if let Err(error) = writing.write(place, &refused.line(wall_ms(), before)) {
            (writing.file, writing.left_out) = (None, writing.left_out + 1);
            if writing.complained.is_none_or(|at| now.duration_since(at) >= COMPLAIN_EVERY) {
                writing.complained = Some(now);
                tracing::warn!(%error, path = %place.display(), "the log of refusals cannot be written");
            }
        }
    }

    /// What is written, the oldest first. Blocks.
    pub fn read(&self, wanted: &Wanted) -> Vec<Value> {
        let Some(place) = &self.place else { return Vec::new() };
        let mut found = VecDeque::new();
        for path in (1..AUDIT_FILES_MAX).rev().map(|age| older(place, age)).chain([place.clone()]) {
            let Ok(file) = File::open(&path) else { continue };
            // A line that was cut off by a crash is none.
            for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
                let Ok(line) = serde_json::from_slice::<Value>(&line) else { continue };
                if wanted.takes(&line) {
                    found.push_back(line);
                }
                if found.len() > wanted.lines_max {
                    found.pop_front();
                }
            }
        }
        found.into()
    }

    /// The same, as programs are told it. Blocks.
    pub fn told(&self, wanted: &Wanted) -> Value {
        json!({ "refused": self.read(wanted), "not_noted": self.left_out() })
    }

    fn lock(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wanted {
    /// By the parameters `since` (in milliseconds since 1970), `principal` and `limit`.
    ///
    /// # Errors
    /// One sentence.
    pub fn read(query: &Query) -> Result<Wanted, String> {
        let number = |name: &str, default: u64| match query.get(name) {
            None => Ok(default),
            Some(text) => {
                text.parse::<u64>().map_err(|_| format!("'{name}' is a whole number, not '{}'", quoted(text)))
            }
        };
        let most = AUDIT_ENTRIES_MAX as u64;
        let limit = number("limit", most)?;
        if limit > most {
            return Err(format!("'limit' is at most {most}"));
        }
        let principal = query.get("principal").map(str::to_owned);
        Ok(Wanted { since_ms: number("since", 0)?, principal, lines_max: limit as usize })
    }

    /// The same parameters.
    pub fn to_query(&self) -> String {
        let principal =
            self.principal.as_ref().map_or_else(String::new, |name| format!("&principal={}", encoded(name)));
        format!("since={}&limit={}{principal}", self.since_ms, self.lines_max)
    }

    fn takes(&self, line: &Value) -> bool {
        let is = |wanted: &String| line["principal"] == **wanted || line["claimed"] == **wanted;
        line["at_ms"].as_u64().is_some_and(|at_ms| at_ms >= self.since_ms) && self.principal.as_ref().is_none_or(is)
    }
}

/// For a query: whatever is not a letter or a digit as `%XX`.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

impl Writing {
    /// Whether another line of this address is written; with how many of it were not, before.
    fn pass(&mut self, from: Option<IpAddr>, now: Instant) -> Option<u64> {
        if self.addresses.len() >= AUDIT_ADDRESSES_MAX && !self.addresses.contains_key(&from) {
            self.addresses.retain(|_, pace| !pace.is_over(now));
            if self.addresses.len() >= AUDIT_ADDRESSES_MAX {
                return None;
            }
        }
        let pace = self.addresses.entry(from).or_default();
        if pace.take(now, LINES_OF_ADDRESS_MAX) && self.all.take(now, LINES_MAX) {
            return Some(std::mem::take(&mut pace.left_out));
        }
        pace.left_out += 1;
        None
    }

    fn write(&mut self, place: &Path, line: &[u8]) -> io::Result<()> {
        let mut open = match self.file.take() {
            Some(open) => open,
            None => Open::at(place)?,
        };
        if open.bytes + line.len() as u64 > AUDIT_FILE_BYTES_MAX || open.lines >= AUDIT_FILE_LINES_MAX {
            for age in (1..AUDIT_FILES_MAX).rev() {
                let younger = if age == 1 { place.to_owned() } else { older(place, age - 1) };
                match std::fs::rename(younger, older(place, age)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            open = Open::at(place)?;
        }
        open.file.write_all(line)?;
        (open.bytes, open.lines) = (open.bytes + line.len() as u64, open.lines + 1);
        self.file = Some(open);
        Ok(())
    }
}

impl Open {
    fn at(place: &Path) -> io::Result<Open> {
        if let Some(folder) = place.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let no_link = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
        let file =
            OpenOptions::new().create(true).append(true).read(true).mode(0o600).custom_flags(no_link).open(place)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("there is something else than a file"));
        }
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        let lines = if metadata.len() > AUDIT_FILE_BYTES_MAX {
            AUDIT_FILE_LINES_MAX
        } else {
            BufReader::new(&file).split(b'\n').map_while(Result::ok).count() as u64
        };
        Ok(Open { file, bytes: metadata.len(), lines })
    }
}

fn older(place: &Path, age: usize) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push(format!(".{age}"));
    name.into()
}

fn wall_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// Why somebody was refused, beside an answer that does not say it: it travels with that inside of the process.
#[derive(Clone, Debug)]
pub struct Reason {
    /// The call's name, if it was a call.
    pub call: Option<&'static str>,
    /// What there was to be allowed.
    pub action: Action,
    /// To what.
    pub object: Option<String>,
    /// Which rule says so.
    pub why: String,
}

impl Reason {
    /// The answer, with it.
    pub fn on(self, mut response: Response) -> Response {
        response.extensions_mut().insert(self);
        response
    }
}

/// Beside an answer that is no refusal of anybody, or was noted elsewhere.
#[derive(Clone, Copy, Debug)]
struct Noted;

/// The answer, which is not to be noted: somebody else does, or it is no more than a step of a conversation.
pub fn unnoted(mut response: Response) -> Response {
    response.extensions_mut().insert(Noted);
    response
}

impl Visitor {
    /// Whether they may do `action` to `object`.
    ///
    /// # Errors
    /// The 403 if not.
    pub fn ask(&self, action: Action, object: Option<&str>) -> Result<(), Box<Response>> {
        if self.approver.approves(action, object) { Ok(()) } else { Err(Box::new(self.forbidden(action, object))) }
    }

    /// 403, with its reason.
    pub fn forbidden(&self, action: Action, object: Option<&str>) -> Response {
        self.reason(action, object).on(text(StatusCode::FORBIDDEN, "403 Forbidden."))
    }

    /// Why they may not.
    pub fn reason(&self, action: Action, object: Option<&str>) -> Reason {
        let ruling = self.approver.rule(action, object);
        // Some actions are about more than the one object.
        let why = if ruling.allowed { "not for this object, by the lists".to_owned() } else { ruling.why };
        Reason { call: None, action, object: object.map(str::to_owned), why }
    }
}

/// What was asked and by whom, for as long as it is answered.
#[derive(Clone, Debug)]
pub struct Asked {
    method: Method,
    uri: Uri,
    peer: SocketAddr,
    shown: Option<HeaderValue>,
    subject: Option<Subject>,
}

impl Asked {
    /// By somebody who is not known yet.
    pub fn new(request: &Request, peer: SocketAddr) -> Asked {
        let shown = request.headers().get(header::AUTHORIZATION).cloned();
        Asked { method: request.method().clone(), uri: request.uri().clone(), peer, shown, subject: None }
    }

    /// It is this one.
    pub fn by(&mut self, visitor: &Visitor) {
        self.subject = Some(visitor.approver.subject().clone());
    }

    /// What the answer refuses, if it does.
    pub(crate) fn refused(&self, response: &Response) -> Option<Refused> {
        let status = response.status();
        let is_refusal = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        if !is_refusal || response.extensions().get::<Noted>().is_some() {
            return None;
        }
        // A page is no sentence.
        let is_text =
            response.headers().get(header::CONTENT_TYPE).is_some_and(|it| it.as_bytes().starts_with(b"text/plain"));
        let body = response.body().as_full().filter(|_| is_text);
        let sentence = || match body {
            // What clients are told says nothing about what was wrong; whether there was anything is known.
            Some(body) if body.starts_with(b"401 ") && self.shown.is_some() => {
                "it showed nothing that is right".to_owned()
            }
            Some(body) if body.starts_with(b"401 ") => "it showed nothing".to_owned(),
            Some(body) => String::from_utf8_lossy(body).into_owned(),
            None => status.canonical_reason().unwrap_or_default().to_owned(),
        };
        let reason = response.extensions().get::<Reason>();
        let principal = match &self.subject {
            Some(Subject::Principal(principal)) => Some(principal.to_string()),
            _ => None,
        };
        Some(Refused {
            status: Some(status.as_u16()),
            peer: Some(self.peer.to_string()),
            claimed: self.shown.as_ref().filter(|_| principal.is_none()).and_then(claimed),
            principal,
            method: Some(self.method.to_string()),
            path: Some(self.uri.path().to_owned()),
            call: reason.and_then(|reason| reason.call).map(str::to_owned),
            action: reason.map(|reason| reason.action.name()),
            object: reason.and_then(|reason| reason.object.clone()),
            why: reason.map_or_else(sentence, |reason| reason.why.clone()),
        })
    }
}

/// The name in `Basic ...`. What is no name and secret may be a secret.
fn claimed(shown: &HeaderValue) -> Option<String> {
    let (scheme, encoded) = shown.to_str().ok()?.split_once(' ')?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let (name, _) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    (scheme.eq_ignore_ascii_case("basic") && !name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(peer: &str, why: &str) -> Refused {
        Refused { status: Some(401), peer: Some(peer.to_owned()), why: why.to_owned(), ..Refused::default() }
    }

    fn all(audit: &Audit) -> Vec<Value> {
        audit.read(&Wanted { lines_max: usize::MAX, ..Wanted::default() })
    }

    #[test]
    fn whoever_tries_often_fills_no_disk_and_hides_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::at(&dir.path().join("new"), "refused");
        let mut writing = Writing::default();
        let (guesser, other, now) =
            (Some(IpAddr::from([10, 0, 0, 1])), Some(IpAddr::from([10, 0, 0, 2])), Instant::now());
        let written = (0..100).filter(|_| writing.pass(guesser, now).is_some()).count();
        assert_eq!(written, LINES_OF_ADDRESS_MAX as usize);
        assert_eq!(writing.pass(other, now), Some(0));
        // Once there is room for it, the next line says how many there were.
        assert_eq!(writing.pass(guesser, now + WINDOW), Some(90));
        audit.note(&of("10.0.0.2:1", "no"));
        assert_eq!((all(&audit).len(), audit.left_out()), (1, 0));
        let mode = std::fs::metadata(dir.path().join("new/refused")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn so_many_addresses_are_told_apart() {
        let (mut writing, now) = (Writing::default(), Instant::now());
        for at in 0..AUDIT_ADDRESSES_MAX + 10 {
            writing.pass(Some(IpAddr::from(u32::try_from(at).unwrap().to_be_bytes())), now);
        }
        assert_eq!(writing.addresses.len(), AUDIT_ADDRESSES_MAX);
        writing.pass(None, now + WINDOW);
        assert_eq!(writing.addresses.len(), 1);
    }

    #[test]
    fn old_parts_go() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("refused");
        let mut writing = Writing::default();
        let line = of("10.0.0.1:1", &"x".repeat(WORD_BYTES_MAX)).line(7, 0);
        let lines = AUDIT_FILE_BYTES_MAX / line.len() as u64 * (AUDIT_FILES_MAX as u64 + 1);
        for _ in 0..lines {
            writing.write(&place, &line).unwrap();
        }
        let files: Vec<u64> = dir.path().read_dir().unwrap().map(|it| it.unwrap().metadata().unwrap().len()).collect();
        assert_eq!(files.len(), AUDIT_FILES_MAX);
        assert!(files.iter().all(|bytes| *bytes <= AUDIT_FILE_BYTES_MAX));
        // Another start goes on where that ended.
        assert_eq!(Open::at(&place).unwrap().lines, writing.file.unwrap().lines);
        std::os::unix::fs::symlink("/dev/null", dir.path().join("link")).unwrap();
        assert!(Open::at(&dir.path().join("link")).is_err());
    }

    #[test]
    fn what_is_wanted_is_told_to_others() {
        let wanted = Wanted { since_ms: 7, principal: Some("a&b=ü".into()), lines_max: 9 };
        let read = Wanted::read(&Query::parse(&wanted.to_query())).unwrap();
        assert_eq!((read.since_ms, read.principal, read.lines_max), (7, wanted.principal, 9));
    }

    #[test]
    fn what_was_shown_is_not_in_it() {
        let name = |text: &str| {
            let encoded = base64::engine::general_purpose::STANDARD.encode(text);
            claimed(&HeaderValue::try_from(format!("Basic {encoded}")).unwrap())
        };
        assert_eq!(name("ops:hunter2").as_deref(), Some("ops"));
        assert_eq!(name("hunter2"), None);
        assert_eq!(claimed(&HeaderValue::from_static("Bearer a.b.c")), None);
    }
}
