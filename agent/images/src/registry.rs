//! A registry of images, over http or https: manifests and blobs, asked for as it wants to be asked.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use agent_web::{Address, Answer, Trust};
use http::Method;
use http::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use parking_lot::Mutex;
use serde::Deserialize;

use crate::auth::{Challenge, Credentials};
use crate::digest::{Digest, Digester};
use crate::manifest::{ACCEPTED, MANIFEST_BYTES_MAX};

/// Largest answer of who gives out tokens, in bytes.
const TOKEN_BYTES_MAX: u64 = 1 << 20;
/// Largest part of an answer that is repeated in a sentence, in bytes.
const SAID_BYTES_MAX: u64 = 16 << 10;

/// A repository of a registry, as somebody sees it.
pub(crate) struct Repository {
    /// `http[s]://HOST[:PORT]`
    base: String,
    name: String,
    basic: Option<String>,
    patience: Option<Duration>,
    /// What was found to be shown to it.
    shown: Mutex<Option<HeaderValue>>,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Repository {
    pub(crate) fn new(base: &str, name: &str, credentials: &Credentials, patience: Option<Duration>) -> Repository {
        let basic = credentials.basic(base);
        Repository { base: base.to_owned(), name: name.to_owned(), basic, patience, shown: Mutex::default() }
    }

    /// A manifest, by its digest or by a tag. The error is a sentence.
    pub(crate) async fn manifest(&self, version: &str, expected: Option<Digest>) -> Result<Vec<u8>, String> {
        let path = format!("/v2/{}/manifests/{version}", self.name);
        let mut answer = self.ask(&path, ACCEPTED).await?;
        let said = answer.headers.get("docker-content-digest").and_then(|digest| digest.to_str().ok());
        let said = said.and_then(|digest| Digest::parse(digest).ok());
        let bytes = read(&mut answer, MANIFEST_BYTES_MAX, "its manifest").await?;
        let found = Digest::of(&bytes);
        match [expected, said].into_iter().flatten().find(|expected| *expected != found) {
            Some(expected) => Err(format!("its manifest has the digest {found}, and not {expected}")),
            None => Ok(bytes),
        }
    }

    /// Some bytes of known digest. The error is a sentence.
    pub(crate) async fn bytes(&self, digest: Digest, bytes_max: u64, what: &str) -> Result<Vec<u8>, String> {
        let mut answer = self.ask(&self.blob_path(digest), "*/*").await?;
        let bytes = read(&mut answer, bytes_max, what).await?;
        let found = Digest::of(&bytes);
        if found == digest { Ok(bytes) } else { Err(format!("{what} has the digest {found}, and not {digest}")) }
    }

    /// A blob of known digest and size, into a new file. The error is a sentence.
    pub(crate) async fn blob(&self, digest: Digest, size: u64, to: &Path) -> Result<(), String> {
        let write = |error: std::io::Error| format!("cannot write '{}': {error}", to.display());
        let mut file = std::fs::File::create_new(to).map_err(write)?;
        let mut answer = self.ask(&self.blob_path(digest), "*/*").await?;
        if answer.length.is_some_and(|length| length != size) {
            let length = answer.length.unwrap_or_default();
            return Err(format!("the layer {digest} has {length} bytes, and its manifest says {size}"));
        }
        let (mut bytes, mut digester) = (0, Digester::default());
        while let Some(piece) = answer.next().await.map_err(|error| error.to_string())? {
            bytes += piece.len() as u64;
            if bytes > size {
                return Err(format!("the layer {digest} has more than the {size} bytes that its manifest says"));
            }
            digester.update(&piece);
            file.write_all(&piece).map_err(write)?;
        }
        let found = digester.digest();
        if found == digest { Ok(()) } else { Err(format!("the layer {digest} came with the digest {found}")) }
    }

    fn blob_path(&self, digest: Digest) -> String {
        format!("/v2/{}/blobs/{digest}", self.name)
    }

    /// Asks, and once more with what it wants to see.
    async fn ask(&self, path: &str, accept: &'static str) -> Result<Answer, String> {
        let answer = self.ask_once(path, accept).await?;
        if answer.status != 401 {
            return self.check(answer, path).await;
        }
        let all = answer.headers.get_all(WWW_AUTHENTICATE);
        let asked: Vec<Challenge> =
            all.iter().filter_map(|one| one.to_str().ok()).filter_map(Challenge::parse).collect();
        let shown = self.authenticate(&asked).await?;
        *self.shown.lock() = Some(shown);
        let answer = self.ask_once(path, accept).await?;
        self.check(answer, path).await
    }

    async fn ask_once(&self, path: &str, accept: &'static str) -> Result<Answer, String> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        if let Some(shown) = self.shown.lock().clone() {
            headers.insert(AUTHORIZATION, shown);
        }
        let address = format!("{}{path}", self.base);
        agent_web::ask(Method::GET, &address, Trust::Machine, self.patience, headers)
            .await
            .map_err(|error| error.to_string())
    }

    /// What is to be shown, as one of these asks for it.
    async fn authenticate(&self, asked: &[Challenge]) -> Result<HeaderValue, String> {
        let host = self.base.split_once("://").map_or("", |(_, host)| host);
        let none = || {
            format!(
                "{host} wants to know who asks, and there is no password for it in --docker_config nor with the image"
            )
        };
        let value = |text: &str| {
            let mut value = HeaderValue::from_str(text).map_err(|_| format!("{host} gave out a token that is none"))?;
            value.set_sensitive(true);
            Ok(value)
        };
        if let Some(address) = asked.iter().find_map(|one| one.address(&self.name)) {
            let place =
                Address::parse(&address).map_err(|error| format!("{host} names no place of tokens: {error}"))?;
            let mut headers = HeaderMap::new();
            if let Some(basic) = &self.basic {
                if self.base.starts_with("https:") && !place.is_secure {
                    return Err(format!(
                        "{host} wants a password to be sent to {} as it is, without TLS",
                        place.place()
                    ));
                }
                headers.insert(AUTHORIZATION, value(basic)?);
            }
            let answer = agent_web::ask(Method::GET, &address, Trust::Machine, self.patience, headers).await;
            let mut answer = answer.map_err(|error| format!("no token was given out: {error}"))?;
            if answer.status != 200 {
                let who = if self.basic.is_some() { "" } else { "; there is no password for it" };
                return Err(format!("{} gave out no token, but status {}{who}", place.place(), answer.status));
            }
            let bytes = read(&mut answer, TOKEN_BYTES_MAX, "a token").await?;
            let token: Token = serde_json::from_slice(&bytes)
                .map_err(|_| format!("{} gave out a token that cannot be read", place.place()))?;
            let token = if token.token.is_empty() { token.access_token } else { token.token };
            return value(&format!("Bearer {token}"));
        }
        if asked.contains(&Challenge::Basic) {
            return value(self.basic.as_ref().ok_or_else(none)?);
        }
        Err(format!("{host} wants to know who asks, in a way that is not known here"))
    }

    async fn check(&self, mut answer: Answer, path: &str) -> Result<Answer, String> {
        let status = answer.status;
        if status == 200 {
            return Ok(answer);
        }
        let host = self.base.split_once("://").map_or("", |(_, host)| host);
        let what = match status {
            401 | 403 => format!("{host} does not let it be pulled"),
            404 => format!("{host} does not have it"),
            429 => format!("{host} was asked too often"),
            _ => format!("{host} answers {path} with an error"),
        };
        let said = read(&mut answer, SAID_BYTES_MAX, "an error").await.unwrap_or_default();
        let said: serde_json::Value = serde_json::from_slice(&said).unwrap_or_default();
        let said =
            said["errors"][0]["message"].as_str().map(|text| format!(": {}", api::limits::quoted(text).escape_debug()));
        Err(format!("{what} (status {status}{})", said.unwrap_or_default()))
    }
}

/// All of an answer. The error is a sentence.
async fn read(answer: &mut Answer, bytes_max: u64, what: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(piece) = answer.next().await.map_err(|error| error.to_string())? {
        if (bytes.len() + piece.len()) as u64 > bytes_max {
            return Err(format!("{what} has more than {bytes_max} bytes"));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}
