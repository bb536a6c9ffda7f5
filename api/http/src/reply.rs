//! Answers, with the texts and headers that Mesos's clients know.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::{Body, Response};

/// Content type of every text.
pub const TEXT_PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// Smaller answers are not worth compressing.
const GZIP_BYTES_MIN: usize = 1024;
/// Larger ones take longer than a thread that serves has for one client.
const GZIP_BYTES_HERE: usize = 32 << 10;

/// An answer with a body of the type given.
pub fn bytes(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer in one sentence; every error is one.
pub fn text(status: StatusCode, body: &str) -> Response {
    bytes(status, TEXT_PLAIN, body.to_owned())
}

/// An answer without a body, as accepted calls get it.
pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// 200 with a JSON value.
pub fn json(value: &serde_json::Value) -> Response {
    json_bytes(value.to_string())
}

/// 200 with JSON that is already written.
pub fn json_bytes(body: impl Into<Bytes>) -> Response {
    bytes(StatusCode::OK, JSON, body)
}

/// 405: `allow` is what would have been right.
pub fn method_not_allowed(allow: &[&str], got: &Method) -> Response {
    let expected = allow.iter().map(|method| format!("'{method}'")).collect::<Vec<_>>().join(", ");
    let sentence = format!("405 Method Not Allowed. Expecting one of {{ {expected} }}, but received '{got}'.");
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, &sentence);
    let allow = HeaderValue::from_str(&allow.join(", ")).expect("method names are ASCII");
    response.headers_mut().insert(header::ALLOW, allow);
    response
}

/// 404 of a path that nobody serves.
pub fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "404 Not Found.")
}

/// 200 with a body that is written while it is sent.
pub fn streaming(content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Wraps a JSON answer into a call of the function `name`, if a name was asked for (`?jsonp=name`).
pub fn jsonp(response: Response, name: Option<&str>) -> Response {
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == JSON);
    let Some(name) = name.filter(|_| is_json) else { return response };
    let (mut parts, body) = response.into_parts();
    match body.into_full() {
        Err(body) => Response::from_parts(parts, body),
        Ok(json) => {
            parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/javascript"));
            let mut wrapped = Vec::with_capacity(json.len() + name.len() + 2);
            for part in [name.as_bytes(), b"(", &json, b")"] {
                wrapped.extend_from_slice(part);
            }
            Response::from_parts(parts, Body::full(wrapped))
        }
    }
}

/// Whether the client takes gzip.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|offer| {
        let (name, parameters) = offer.split_once(';').unwrap_or((offer, ""));
        let refused = parameters.trim().strip_prefix("q=").is_some_and(|q| q.trim().parse() == Ok(0.0));
        matches!(name.trim().to_ascii_lowercase().as_str(), "gzip" | "x-gzip" | "*") && !refused
    })
}

/// Compresses an answer that is worth it, a large one away from the threads that serve. Streams stay as they are: a
/// record must not wait for the next one.
pub(crate) async fn gzip(response: Response) -> Response {
    let has_encoding = response.headers().contains_key(header::CONTENT_ENCODING);
    let (mut parts, body) = response.into_parts();
    let body = match body.into_full() {
        Err(body) => body,
        Ok(plain) if has_encoding || plain.len() < GZIP_BYTES_MIN => Body::full(plain),
        Ok(plain) => {
            let packed = if plain.len() < GZIP_BYTES_HERE {
                pack(&plain)
            } else {
                let large = plain.clone();
                tokio::task::spawn_blocking(move || pack(&large)).await.ok().flatten()
            };
            match packed {
                None => Body::full(plain),
                Some(packed) => {
                    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                    parts.headers.remove(header::CONTENT_LENGTH);
                    Body::full(packed)
                }
            }
        }
    };
    Response::from_parts(parts, body)
}

fn pack(plain: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::fast());
    encoder.write_all(plain).and_then(|()| encoder.finish()).ok()
}
