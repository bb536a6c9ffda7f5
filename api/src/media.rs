//! Which encoding a request is in and which its answer shall be in.

use bytes::Bytes;

use crate::budget::Budget;
use crate::json;
use crate::required::decode_protobuf_within;
use crate::wire::Wire;

/// An encoding of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Media {
    /// `application/json`
    Json,
    /// `application/x-protobuf`
    Protobuf,
}

/// The type of JSON messages.
pub const JSON: &str = "application/json";
/// The type of protobuf messages.
pub const PROTOBUF: &str = "application/x-protobuf";
/// The type of a stream of records where the record's type is named apart from it.
pub const RECORDIO: &str = "application/recordio";

/// An answer that refuses a request for its headers or body: an HTTP status and one sentence of plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// HTTP status code.
    pub status: u16,
    /// The answer's body.
    pub message: String,
}

impl Rejection {
    fn new(status: u16, message: impl Into<String>) -> Self {
        Rejection { status, message: message.into() }
    }
}

/// What a request body is: one message, or a stream of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// One message.
    Single(Media),
    /// RecordIO, each record one message.
    Streaming(Media),
}

/// How an answer that is a stream shall be labelled; the body is RecordIO in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streaming {
    /// `Content-Type` names the type of the records.
    Plain(Media),
    /// `Content-Type: application/recordio`, and `Message-Content-Type` names the type of the records.
    Recordio(Media),
}

impl Media {
    /// The value of a `Content-Type` header.
    pub fn content_type(self) -> &'static str {
        match self {
            Media::Json => JSON,
            Media::Protobuf => PROTOBUF,
        }
    }

    /// A message in this encoding.
    pub fn encode<T: Wire>(self, message: &T) -> Bytes {
        match self {
            Media::Json => json::to_vec(message).into(),
            Media::Protobuf => message.encode_to_vec().into(),
        }
    }

    /// A message in this encoding as one record of RecordIO.
    pub fn encode_record<T: Wire>(self, message: &T) -> Bytes {
        crate::recordio::encode(&self.encode(message))
    }

    /// Reads a message of a client, within [`Budget::of_body`].
    ///
    /// # Errors
    /// 400 for what is no such message, 413 for what takes too much.
    pub fn decode<T: Wire>(self, body: Bytes) -> Result<T, Rejection> {
        let mut budget = Budget::of_body(body.len());
        self.decode_within(body, &mut budget)
    }

    /// Reads a message, within `budget`.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_within<T: Wire>(self, body: Bytes, budget: &mut Budget) -> Result<T, Rejection> {
        let decoded = match self {
            Media::Json => json::from_slice_within(&body, budget).map_err(|error| error.to_string()),
            Media::Protobuf => decode_protobuf_within(body, budget).map_err(|error| error.to_string()),
        };
        let status = if budget.is_over() { 413 } else { 400 };
        decoded.map_err(|message| Rejection::new(status, message))
    }

    fn from_exact(value: &str) -> Option<Media> {
        match value {
            JSON => Some(Media::Json),
            PROTOBUF => Some(Media::Protobuf),
            _ => None,
        }
    }
}

/// The encoding of a request's body, by its `Content-Type`: exactly, so a charset behind it is refused.
pub fn request_media(content_type: Option<&str>) -> Result<Media, Rejection> {
    let value = content_type.ok_or_else(|| Rejection::new(400, "Expecting 'Content-Type' to be present"))?;
    Media::from_exact(value)
        .ok_or_else(|| Rejection::new(415, format!("Expecting 'Content-Type' of {JSON} or {PROTOBUF}")))
}

/// As [`request_media`], where a request may also be a stream of records whose type `Message-Content-Type` names.
pub fn request_body(content_type: Option<&str>, message_content_type: Option<&str>) -> Result<Body, Rejection> {
    if content_type != Some(RECORDIO) {
        let unsupported =
            || Rejection::new(415, format!("Expecting 'Content-Type' of {JSON} or {PROTOBUF} or {RECORDIO}"));
        if message_content_type.is_some() && content_type.is_some_and(|value| Media::from_exact(value).is_some()) {
            return Err(Rejection::new(
                415,
                format!("Expecting 'Message-Content-Type' to be not set for 'Content-Type' of {JSON} or {PROTOBUF}"),
            ));
        }
        let value = content_type.ok_or_else(|| Rejection::new(400, "Expecting 'Content-Type' to be present"))?;
        return Media::from_exact(value).map(Body::Single).ok_or_else(unsupported);
    }
    let value = message_content_type
        .ok_or_else(|| Rejection::new(400, "Expecting 'Message-Content-Type' to be set for streaming requests"))?;
    Media::from_exact(value).map(Body::Streaming).ok_or_else(|| {
        Rejection::new(415, format!("Expecting 'Message-Content-Type' of {JSON} or {PROTOBUF} for streaming requests"))
    })
}

/// The encoding of an answer, by the request's `Accept`. No header accepts everything. JSON comes first whatever the
/// weights say; only a weight of zero is heard.
pub fn accept(accept: Option<&str>) -> Result<Media, Rejection> {
    acceptable(accept)
        .ok_or_else(|| Rejection::new(406, format!("Expecting 'Accept' to allow '{PROTOBUF}' or '{JSON}'")))
}

/// As [`accept`], for a stream that may also be asked for as `application/recordio`, with the type of its records in
/// `Message-Accept`.
pub fn accept_stream(accept: Option<&str>, message_accept: Option<&str>) -> Result<Streaming, Rejection> {
    if let Some(media) = acceptable(accept) {
        if message_accept.is_some() {
            let text = format!("Expecting 'Message-Accept' to be not set for 'Accept' of {JSON} or {PROTOBUF}");
            return Err(Rejection::new(406, text));
        }
        return Ok(Streaming::Plain(media));
    }
    if !allows(accept, RECORDIO) {
        return Err(Rejection::new(
            406,
            format!("Expecting 'Accept' to allow '{PROTOBUF}' or '{JSON}' or '{RECORDIO}'"),
        ));
    }
    acceptable(message_accept)
        .map(Streaming::Recordio)
        .ok_or_else(|| Rejection::new(406, format!("Expecting 'Message-Accept' to allow '{PROTOBUF}' or '{JSON}'")))
}

fn acceptable(accept: Option<&str>) -> Option<Media> {
    [Media::Json, Media::Protobuf].into_iter().find(|media| allows(accept, media.content_type()))
}

/// Whether an `Accept` header allows a type: by its exact name, `type/*` or `*/*`, in any letter case. A refusal by
/// the exact name weighs more than a star.
fn allows(accept: Option<&str>, media_type: &str) -> bool {
    let Some(accept) = accept else { return true };
    let family = media_type.split('/').next().unwrap_or_default();
    let mut verdict = None;
    for entry in accept.split(',') {
        let mut parts = entry.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let rank = if name.eq_ignore_ascii_case(media_type) {
            3
        } else if name.strip_suffix("/*").is_some_and(|name| name.eq_ignore_ascii_case(family)) {
            2
        } else if name == "*/*" || name == "*" {
            1
        } else {
            continue;
        };
        let weight = parts.find_map(|part| {
            let (key, value) = part.split_once('=')?;
            key.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse::<f32>().unwrap_or(1.0))
        });
        let allowed = weight.unwrap_or(1.0) > 0.0;
        if verdict.is_none_or(|(before, _)| rank > before) {
            verdict = Some((rank, allowed));
        }
    }
    verdict.is_some_and(|(_, allowed)| allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_requests() {
        assert_eq!(request_media(Some("application/json")), Ok(Media::Json));
        assert_eq!(request_media(Some("application/x-protobuf")), Ok(Media::Protobuf));
        let none = request_media(None).expect_err("none");
        assert_eq!((none.status, none.message.as_str()), (400, "Expecting 'Content-Type' to be present"));
        for other in ["text/plain", "application/json; charset=utf-8", "Application/JSON", "application/recordio"] {
            let other = request_media(Some(other)).expect_err(other);
            assert_eq!(other.status, 415);
            assert_eq!(other.message, "Expecting 'Content-Type' of application/json or application/x-protobuf");
        }
    }

    #[test]
    fn types_of_answers() {
        for json in [None, Some("application/json"), Some("*/*"), Some("application/*"), Some("APPLICATION/JSON")] {
            assert_eq!(accept(json), Ok(Media::Json), "{json:?}");
        }
        assert_eq!(accept(Some("text/html, application/json;q=0.5")), Ok(Media::Json));
        assert_eq!(accept(Some("application/x-protobuf, application/json;q=0.1")), Ok(Media::Json));
        assert_eq!(accept(Some("application/x-protobuf")), Ok(Media::Protobuf));
        assert_eq!(accept(Some("application/json;q=0, */*")), Ok(Media::Protobuf));
        for neither in ["text/html", "application/json;q=0", "application/recordio", "", "application/json;q=0.0"] {
            let neither = accept(Some(neither)).expect_err(neither);
            assert_eq!(neither.status, 406);
            assert_eq!(neither.message, "Expecting 'Accept' to allow 'application/x-protobuf' or 'application/json'");
        }
    }

    #[test]
    fn types_of_streams() {
        assert_eq!(accept_stream(Some(RECORDIO), Some(JSON)), Ok(Streaming::Recordio(Media::Json)));
        assert_eq!(accept_stream(Some(RECORDIO), None), Ok(Streaming::Recordio(Media::Json)));
        assert_eq!(accept_stream(Some(PROTOBUF), None), Ok(Streaming::Plain(Media::Protobuf)));
        assert_eq!(accept_stream(Some(JSON), Some(JSON)).map_err(|error| error.status), Err(406));
        assert_eq!(accept_stream(Some("text/html"), None).map_err(|error| error.status), Err(406));
        assert_eq!(request_body(Some(RECORDIO), Some(JSON)), Ok(Body::Streaming(Media::Json)));
        assert_eq!(request_body(Some(RECORDIO), None).map_err(|error| error.status), Err(400));
        assert_eq!(request_body(Some(JSON), None), Ok(Body::Single(Media::Json)));
    }
}
