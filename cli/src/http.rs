//! HTTP to masters: any of a list will do, and a 307 is followed.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use api::flags::{Flag, Kind, Values};
use api_http::dial::{DialError, Line, Signer};
use api_http::tls::{self, Tls};
use api_http::{Body, Secret};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::time::timeout;

use crate::error::Error;

/// How long an answer's head may take. Masters hold requests for a moment while they elect.
pub(crate) const ANSWER: Duration = Duration::from_secs(20);
/// For what takes as long as it takes: a new master learns everything first.
pub(crate) const LONG: Duration = Duration::from_secs(600);
/// A read that has no answer by then is asked of the next address too.
const HEDGE: Duration = Duration::from_secs(2);
/// How long a read is tried again; what was asked by then may still be answered.
const READ: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);
/// How long a follower may name a leader that is gone: an election takes less than a second.
const ELECTION: Duration = Duration::from_secs(10);
const PACE: Duration = Duration::from_millis(100);

/// The address that led to the last answer.
static LAST: Mutex<Option<String>> = Mutex::new(None);

/// Of every command that asks what is for the cluster's own members.
pub(crate) const SECRET: Flag = Flag::new(
    "cluster_secret",
    Kind::Path,
    "file:///PATH of the cluster's secret, as its masters have it (default: that of a `meseta local` at the address).",
);

/// Who this process is to masters and agents that ask: of every command that asks them something.
pub(crate) const LOGIN: [Flag; 3] = [
    Flag::new("principal", Kind::Text, "Who you are, to masters that ask; with --secret_file."),
    Flag::new(
        "secret_file",
        Kind::Path,
        "A file with the principal's secret as its first line; a secret never stands on a command line.",
    ),
    Flag::new("token_file", Kind::Path, "A file with a token as its first line, which is shown instead (Bearer)."),
];

/// `Basic ...` or `Bearer ...`, once it is known.
static AUTHORIZATION: OnceLock<http::HeaderValue> = OnceLock::new();

/// From now on everybody who is asked hears who asks.
pub(crate) fn log_in(flags: &Values) -> Result<(), Error> {
    use base64::Engine as _;
    let scheme = match (flags.path("secret_file"), flags.path("token_file")) {
        (None, None) => return Ok(()),
        (Some(_), Some(_)) => {
            return Err(Error::Usage("--secret_file and --token_file: one of them says who you are".to_owned()));
        }
        (None, Some(file)) => format!("Bearer {}", secret_of(&file)?),
        (Some(file), None) => {
            let principal = flags.text("principal").filter(|name| !name.is_empty() && !name.contains(':'));
            let principal = principal
                .ok_or_else(|| Error::Usage("--secret_file needs --principal=NAME, without a colon".to_owned()))?;
            let shown = format!("{principal}:{}", secret_of(&file)?);
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(shown))
        }
    };
    let value = http::HeaderValue::from_str(&scheme);
    let mut value = value.map_err(|_| Error::Failed("what is in --token_file is no token".to_owned()))?;
    value.set_sensitive(true);
    // The first is the one that was asked for.
    let _ = AUTHORIZATION.set(value);
    Ok(())
}

/// The first line of a file that nobody else should read.
fn secret_of(file: &std::path::Path) -> Result<String, Error> {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;
    let failed = |error: std::io::Error| Error::Failed(format!("cannot read {}: {error}", file.display()));
    let opened = std::fs::File::open(file).map_err(failed)?;
    if opened.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
        eprintln!("meseta: others can read {}: chmod 600 closes it to them", file.display());
    }
    let mut text = String::new();
    opened.take(64 << 10).read_to_string(&mut text).map_err(failed)?;
    let secret = text.lines().next().unwrap_or_default().trim_end_matches('\r');
    if secret.is_empty() {
        return Err(Error::Failed(format!("the first line of {} is empty: it would be what is shown", file.display())));
    }
    Ok(secret.to_owned())
}

/// Shows masters that this process knows the secret.
static SIGNER: OnceLock<Arc<Signer>> = OnceLock::new();

/// From now on what is for the cluster's own members is asked with the secret that `flag` names.
pub(crate) fn show_secret(flag: &str) -> Result<(), Error> {
    let secret = Secret::read(flag).map_err(|error| match std::error::Error::source(&error) {
        Some(source) => Error::Usage(format!("{error}: {source}")),
        None => Error::Usage(error.to_string()),
    })?;
    if let Some(warning) = secret.warning() {
        eprintln!("meseta: {warning}");
    }
    // The first is the one that was asked for.
    let _ = SIGNER.set(Arc::new(Signer::new(secret, false)));
    Ok(())
}

/// How what is said is hidden from others, if it is: as the variables say that libprocess reads.
static TLS: OnceLock<Option<Arc<Tls>>> = OnceLock::new();

/// Reads those variables.
///
/// # Errors
/// One sentence.
pub(crate) fn read_tls(environment: impl Fn(&str) -> Option<String>) -> Result<(), Error> {
    let values = api::flags::parse(tls::FLAGS, [], tls::old_names(environment), |path| std::fs::read_to_string(path));
    let values = values.map_err(|error| Error::Usage(error.to_string()))?;
    let tls = tls::Settings::read(&values, false).and_then(Tls::load).map_err(Error::Usage)?;
    let _ = TLS.set(tls);
    Ok(())
}

/// A request, ready to be sent to any master.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    /// JSON, posted; a GET without.
    pub(crate) body: Option<String>,
    pub(crate) stream_id: Option<String>,
}

/// An answer whose body is still to be read, and who gave it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) address: String,
    pub(crate) inner: http::Response<Incoming>,
}

impl Request {
    pub(crate) fn get(path: impl Into<String>) -> Request {
        Request { path: path.into(), body: None, stream_id: None }
    }

    pub(crate) fn post(path: impl Into<String>, body: &Value) -> Request {
        Request { path: path.into(), body: Some(body.to_string()), stream_id: None }
    }
}

/// Splits `--master=H:P,H:P`.
pub(crate) fn addresses(text: &str) -> Result<Vec<String>, Error> {
    let list: Vec<String> = text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(with_port).collect();
    if let Some(url) = list.iter().find(|word| word.contains('/')) {
        let bare = url.split_once("//").map_or(url.as_str(), |(_, after)| after).split('/').next().unwrap_or_default();
        return Err(Error::Usage(format!("--master={text}: give HOST:PORT without http:// and path, as {bare}")));
    }
    if list.is_empty() {
        return Err(Error::Usage(format!("--master={text}: give HOST:PORT, or several with commas")));
    }
    Ok(list)
}

fn with_port(address: &str) -> String {
    if address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        address.to_owned()
    } else {
        format!("{address}:5050")
    }
}

/// Asks each master in turn until one answers; follows redirects, and waits out an election.
pub(crate) async fn send(masters: &[String], request: &Request) -> Result<Answer, Error> {
    send_within(masters, request, ANSWER).await
}

/// [`send`], with a limit of its own on the time until an answer begins.
pub(crate) async fn send_within(masters: &[String], request: &Request, limit: Duration) -> Result<Answer, Error> {
    let start = tokio::time::Instant::now();
    loop {
        let mut reasons = Reasons::default();
        let mut electing = false;
        for master in masters {
            match follow(master, request, limit).await {
                Ok(answer) => return Ok(answer),
                Err(trouble) => {
                    electing |= matches!(trouble, Trouble::LeaderGone { .. });
                    reasons.add(master, &trouble);
                }
            }
        }
        if !electing || start.elapsed() > ELECTION {
            return Err(reasons.error(masters));
        }
        tokio::time::sleep(PACE).await;
    }
}

/// A read, which may be asked twice: while nobody answers, the next address is asked too, and the first answer counts.
/// A master that stands still, or whose leader does, costs two seconds and not the whole patience.
pub(crate) async fn read(masters: &[String], request: &Request) -> Result<Answer, Error> {
    let end = tokio::time::Instant::now() + READ;
    let left = || end.saturating_duration_since(tokio::time::Instant::now());
    let mut asked = tokio::task::JoinSet::new();
    let mut reasons = Reasons::default();
    // Who answered the last time is asked first: one that stands still costs its two seconds once.
    let mut order = masters.to_vec();
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner).clone();
    order.sort_by_key(|master| Some(master) != last.as_ref());
    let mut next = order.iter().cycle();
    // Every address hears it once; after that only what may heal is tried again, as a lost leadership does.
    let (mut tries, mut may_heal) = (0, false);
    // A large answer takes its time, and asking for it again makes it slower: less and less often.
    let mut pause = HEDGE;
    loop {
        if (tries < masters.len() || may_heal && !left().is_zero())
            && let Some(master) = next.next().cloned()
        {
            let request = request.clone();
            tries += 1;
            asked.spawn(async move {
                let outcome = follow(&master, &request, ANSWER).await;
                (master, outcome)
            });
        }
        let ended = tokio::select! {
            ended = asked.join_next() => ended,
            () = tokio::time::sleep(pause) => {
                may_heal = true;
                if tries >= masters.len() {
                    pause *= 2;
                }
                continue;
            }
        };
        match ended {
            None => return Err(reasons.error(masters)),
            Some(Ok((master, Ok(answer)))) => {
                *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(master);
                return Ok(answer);
            }
            Some(Ok((master, Err(trouble)))) => {
                may_heal |= matches!(trouble, Trouble::LeaderGone { .. });
                reasons.add(&master, &trouble);
            }
            Some(Err(_)) => {}
        }
        if tries >= masters.len() {
            tokio::time::sleep(PACE).await;
        }
    }
}

/// A read of one address alone, whose head must come within `limit`. No redirect is followed.
pub(crate) async fn ask(address: &str, request: &Request, limit: Duration) -> Result<Answer, String> {
    let answer = async { send_to(&mut connect(address).await?, address, request).await };
    timeout(limit, answer).await.map_err(|_| format!("no answer within {} s", limit.as_secs()))?
}

/// Why there is no answer.
enum Trouble {
    /// A master answered, but the leader that it named could not be reached: nothing was sent to it.
    LeaderGone {
        leader: String,
        why: String,
    },
    /// Whoever it is, the one asked or the leader that it named, took the request and is silent.
    Silent {
        leader: Option<String>,
    },
    Other(String),
}

/// What was heard of each address last.
#[derive(Default)]
struct Reasons(Vec<(String, String)>);

impl Reasons {
    fn add(&mut self, master: &str, trouble: &Trouble) {
        let why = match trouble {
            Trouble::LeaderGone { leader, why } => {
                format!("the leader that it named, {leader}, does not answer: {why}")
            }
            Trouble::Silent { leader: Some(leader) } => format!("the leader that it named, {leader}, takes too long"),
            Trouble::Silent { leader: None } => "it takes too long".to_owned(),
            Trouble::Other(why) => why.clone(),
        };
        self.0.retain(|(known, _)| known != master);
        self.0.push((master.to_owned(), why));
    }

    fn error(self, masters: &[String]) -> Error {
        let same = self.0.windows(2).all(|pair| pair[0].1 == pair[1].1);
        let reason = match self.0.as_slice() {
            [] => "it takes too long".to_owned(),
            [(_, why), ..] if same && self.0.len() == masters.len() => why.clone(),
            each => each.iter().map(|(master, why)| format!("{master}: {why}")).collect::<Vec<_>>().join("; "),
        };
        let refused = !self.0.is_empty() && self.0.iter().all(|(_, why)| why.starts_with("Connection refused"));
        Error::Unreachable { masters: masters.join(", "), reason, refused }
    }
}

async fn follow(master: &str, request: &Request, limit: Duration) -> Result<Answer, Trouble> {
    let mut address = master.to_owned();
    for hop in 0..5 {
        let mut line = connect(&address).await.map_err(|why| match hop {
            0 => Trouble::Other(why),
            _ => Trouble::LeaderGone { leader: address.clone(), why },
        })?;
        let answer = timeout(limit, send_to(&mut line, &address, request)).await;
        let named = || (hop > 0).then(|| address.clone());
        let answer = answer.map_err(|_| Trouble::Silent { leader: named() })?.map_err(Trouble::Other)?;
        if answer.inner.status() != http::StatusCode::TEMPORARY_REDIRECT {
            return Ok(answer);
        }
        let location = answer.inner.headers().get(http::header::LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| Trouble::Other("a redirect without a location".into()))?;
        let after = location.split_once("//").map_or(location, |(_, after)| after);
        address = after.split('/').next().unwrap_or_default().to_owned();
    }
    Err(Trouble::Other("redirected in circles".into()))
}

async fn connect(address: &str) -> Result<Line, String> {
    Line::http1(address, CONNECT, TLS.get().and_then(Option::as_deref)).await.map_err(|error| match error {
        DialError::Unreachable { why, .. } => why,
        other => other.to_string(),
    })
}

/// A call whose answer lasts, or whose body does.
pub(crate) async fn stream(
    address: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Body,
) -> Result<http::Response<Incoming>, String> {
    let mut builder = http::Request::builder().method(http::Method::POST).uri(path);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    if let Some(shown) = AUTHORIZATION.get() {
        builder = builder.header(http::header::AUTHORIZATION, shown);
    }
    let message = builder.body(body).map_err(|error| error.to_string())?;
    let mut line = connect(address).await?;
    line.send(None, message).await.map_err(|error| error.to_string())
}

async fn send_to(line: &mut Line, address: &str, request: &Request) -> Result<Answer, String> {
    let mut builder = http::Request::builder().uri(&request.path).header(http::header::ACCEPT, "application/json");
    if let Some(stream_id) = &request.stream_id {
        builder = builder.header("Mesos-Stream-Id", stream_id);
    }
    // What is for the cluster's own members has another door.
    if let Some(shown) = AUTHORIZATION.get().filter(|_| !request.path.starts_with("/meseta/")) {
        builder = builder.header(http::header::AUTHORIZATION, shown);
    }
    let message = match &request.body {
        Some(body) => builder
            .method(http::Method::POST)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Body::full(body.clone())),
        None => builder.body(Body::empty()),
    };
    let message = message.map_err(|error| error.to_string())?;
    let noted = || request.path.starts_with("/meseta/").then(|| crate::secret::noted(address)).flatten();
    let signer = SIGNER.get().cloned().or_else(noted);
    let inner = line.send(signer.as_ref(), message).await.map_err(|error| error.to_string())?;
    Ok(Answer { address: address.to_owned(), inner })
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.inner.status().as_u16()
    }

    /// The whole body as text; an error unless the status is one of success.
    pub(crate) async fn text(self) -> Result<String, Error> {
        let (status, address) = (self.inner.status(), self.address);
        let body = self.inner.into_body().collect().await;
        let body = body.map_err(|error| Error::Failed(format!("{address} broke off its answer: {error}")))?.to_bytes();
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        if status.is_success() {
            return Ok(text);
        }
        let message = if text.is_empty() { status.canonical_reason().unwrap_or("no reason").to_owned() } else { text };
        Err(Error::Refused { address, status: status.as_u16(), message })
    }
}

/// The JSON that a master answers a read with.
pub(crate) async fn read_json(masters: &[String], request: &Request) -> Result<Value, Error> {
    let answer = read(masters, request).await?;
    if answer.status() == 404 && request.path.starts_with("/master/") {
        let address = answer.address;
        return Err(Error::Failed(format!("{address} is no master: an agent listens there, or another program")));
    }
    json(answer).await
}

/// A GET of JSON.
pub(crate) async fn get_json(masters: &[String], path: &str) -> Result<Value, Error> {
    read_json(masters, &Request::get(path)).await
}

/// The body as JSON; an error unless the status is one of success.
pub(crate) async fn json(answer: Answer) -> Result<Value, Error> {
    let address = answer.address.clone();
    let text = answer.text().await?;
    serde_json::from_str(&text).map_err(|error| Error::Failed(format!("{address} did not answer with JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_or_explained() {
        assert_eq!(addresses("a:1, b").expect("two"), ["a:1", "b:5050"]);
        let said = |text| addresses(text).expect_err("none").to_string();
        assert!(said("http://h:5050/").ends_with("without http:// and path, as h:5050"), "{}", said("http://h:5050/"));
        assert!(said("").contains("give HOST:PORT"));
    }

    #[test]
    fn each_address_has_its_reason() {
        let mut reasons = Reasons::default();
        reasons.add("a:1", &Trouble::Other("Connection refused".into()));
        reasons.add("b:1", &Trouble::Silent { leader: Some("c:1".into()) });
        let masters = ["a:1".to_owned(), "b:1".to_owned()];
        assert_eq!(
            reasons.error(&masters).to_string(),
            "no answer from a:1, b:1: a:1: Connection refused; b:1: the leader that it named, c:1, takes too long"
        );
    }
}
