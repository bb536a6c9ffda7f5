//! The way to a master: one HTTP/2 stream, both ways.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api_http::Body;
use api_http::dial::{DialError, Line, Signer};
use api_http::tls::Tls;
use auth::Credential;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use http::HeaderValue;
use http_body_util::{BodyExt, Collected, Limited};
use tokio::time::timeout;

use crate::incoming::Chunks;

/// Opens connections to masters. A simulation has a way of its own.
pub trait Dial: Send + Sync {
    /// Sends `upward` to the master at `address` (host:port), and answers with what it says. Both end when what is answered
    /// is dropped. The error is a sentence.
    fn dial(&self, address: &str, upward: Body) -> BoxFuture<'static, Result<Chunks, String>>;
}

/// Time for each step.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest sentence of a master that does not let the agent in, in bytes.
const SENTENCE_BYTES_MAX: usize = 64 << 10;

/// Over TCP.
#[derive(Debug)]
pub(crate) struct Tcp {
    /// Shows that this agent knows the cluster's secret.
    pub(crate) signer: Option<Arc<Signer>>,
    /// How what is said is hidden from others, if it is.
    pub(crate) tls: Option<Arc<Tls>>,
    /// The file of what this agent shows to say who it is.
    pub(crate) credential: Option<PathBuf>,
}

/// What an agent shows, out of its file, with a sentence for its owner if others can read that.
///
/// # Errors
/// One sentence, which does not repeat what is in the file.
pub(crate) fn read_credential(path: &Path) -> Result<(Credential, Option<String>), String> {
    let place = format!("--credential={}", path.display());
    let (text, mode) = api_http::read_secret_file("credential", path)?;
    let credential = Credential::parse(&text).map_err(|why| format!("{place}: {why}"))?;
    let is_open = mode & 0o077 != 0;
    let warning = format!("{place}: others on this machine can read it; chmod 600 closes it to them");
    Ok((credential, is_open.then_some(warning)))
}

/// The header that says who the agent is. The file is read for each connection: who hands out credentials may change it.
async fn shown(credential: Option<PathBuf>) -> Result<Option<HeaderValue>, String> {
    let Some(path) = credential else { return Ok(None) };
    let read = tokio::task::spawn_blocking(move || read_credential(&path)).await;
    let (credential, _) = read.map_err(|_| "the file of --credential was not read".to_owned())??;
    let mut value = HeaderValue::from_str(credential.header()).map_err(|_| "--credential is fit for no header")?;
    value.set_sensitive(true);
    Ok(Some(value))
}

impl Dial for Tcp {
    fn dial(&self, address: &str, upward: Body) -> BoxFuture<'static, Result<Chunks, String>> {
        let (address, signer, tls) = (address.to_owned(), self.signer.clone(), self.tls.clone());
        let credential = self.credential.clone();
        Box::pin(async move {
            let shown = shown(credential).await?;
            let shows = shown.is_some();
            let mut line = Line::http2(&address, PATIENCE, tls.as_deref()).await.map_err(|error| error.to_string())?;
            let mut request =
                http::Request::post("/meseta/agent").header(http::header::CONTENT_TYPE, api::media::PROTOBUF);
            if let Some(shown) = shown {
                request = request.header(http::header::AUTHORIZATION, shown);
            }
            let request = request.body(upward).map_err(|error| format!("no request for {address}: {error}"))?;
            let answer = timeout(PATIENCE, line.send(signer.as_ref(), request)).await;
            let response = match answer.map_err(|_| format!("no answer in {} s", PATIENCE.as_secs()))? {
                Ok(response) => response,
                Err(DialError::Unknown { address }) => return Err(unknown(&address, shows)),
                Err(error @ (DialError::Refused { .. } | DialError::Stranger(_))) => {
                    return Err(locked(&error.to_string()));
                }
                Err(error) => return Err(error.to_string()),
            };
            if response.status() == http::StatusCode::UNAUTHORIZED
                && response.headers().contains_key(http::header::WWW_AUTHENTICATE)
            {
                return Err(unknown(&address, shows));
            }
            if response.status() == http::StatusCode::UNAUTHORIZED {
                let sentence =
                    timeout(PATIENCE, Limited::new(response.into_body(), SENTENCE_BYTES_MAX).collect()).await;
                let sentence = sentence.ok().and_then(Result::ok).map(Collected::to_bytes).unwrap_or_default();
                return Err(locked(&String::from_utf8_lossy(&sentence)));
            }
            if !response.status().is_success() {
                return Err(format!("the master answered {}", response.status()));
            }
            // What is read keeps the connection.
            let reading = (response.into_body(), line);
            Ok(stream::unfold(reading, |(mut body, line)| async move {
                loop {
                    match body.frame().await? {
                        Ok(frame) => {
                            let Ok(data) = frame.into_data() else { continue };
                            return Some((Ok(data), (body, line)));
                        }
                        Err(error) => return Some((Err(error.to_string()), (body, line))),
                    }
                }
            })
            .boxed())
        })
    }
}

/// The master lets only those in who say who they are.
fn unknown(address: &str, shows: bool) -> String {
    let why = match shows {
        true => format!("master {address} refused authentication: it does not know what is in --credential"),
        false => format!("master {address} takes agents that say who they are alone: give this one --credential=/PATH"),
    };
    tracing::warn!("{why}");
    why
}

/// Somebody has to compare two files, so it is said louder than a connection that is not there.
fn locked(why: &str) -> String {
    tracing::warn!(why, "the master and this agent do not know the same secret");
    why.to_owned()
}

/// A task that does not outlive its connection.
pub(crate) struct Task<T>(pub(crate) tokio::task::JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
