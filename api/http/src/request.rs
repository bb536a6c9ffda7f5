//! Reading what a client sends.

use std::io::Read;
use std::pin::pin;

use api::Media;
use api::budget::Budget;
use api::limits::decoded_bytes_max;
use api::media::Rejection;
use api::wire::Wire;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Body as HttpBody;
use tokio::sync::Semaphore;

use crate::room::{Crowded, House, Room};
use crate::{Response, text};

pub use api::limits::BODY_BYTES_MAX;

/// Why a body could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// More bytes than the limit.
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// Said to be gzip, but is not.
    NotGzip(String),
    /// An encoding other than gzip.
    UnknownEncoding(String),
    /// The client went away.
    Broken(String),
    /// Others leave no room for it.
    Crowded(Crowded),
}

impl From<Crowded> for ReadError {
    fn from(error: Crowded) -> ReadError {
        ReadError::Crowded(error)
    }
}

impl ReadError {
    /// What to answer.
    pub fn response(&self) -> Response {
        match self {
            ReadError::TooLarge { limit } => {
                text(StatusCode::PAYLOAD_TOO_LARGE, &format!("The body is larger than {limit} bytes"))
            }
            ReadError::NotGzip(error) => {
                text(StatusCode::BAD_REQUEST, &format!("Failed to decompress the body as gzip: {error}"))
            }
            ReadError::UnknownEncoding(encoding) => {
                let sentence = format!("Expecting 'Content-Encoding' of gzip, but received '{encoding}'");
                text(StatusCode::UNSUPPORTED_MEDIA_TYPE, &sentence)
            }
            ReadError::Broken(error) => text(StatusCode::BAD_REQUEST, &format!("Failed to read the body: {error}")),
            ReadError::Crowded(error) => text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        }
    }
}

/// Larger bodies take longer to decode than a thread that serves has for one client.
const DECODED_HERE_BYTES: usize = 128 << 10;
/// So many large bodies are decoded at once.
static DECODES: Semaphore = Semaphore::const_new(2);

/// A body that was read whole. Until it is dropped it has its room among all bodies of this process, and so has what was
/// decoded from it: keep it until the request is answered.
#[derive(Debug)]
pub struct Received {
    bytes: Bytes,
    room: Room,
}

impl Received {
    /// The message that it is, which may take so much memory as [`api::budget::Budget::of_body`] says.
    ///
    /// # Errors
    /// 400 for what is no such message, 413 for what takes too much, 503 if others leave no room for it.
    pub async fn decode<T: Wire + Send + 'static>(&mut self, media: Media) -> Result<T, Rejection> {
        let bytes = std::mem::take(&mut self.bytes);
        let most = decoded_bytes_max(bytes.len());
        let crowded = |error: Crowded| Rejection { status: 503, message: error.to_string() };
        self.room.decode(most).await.map_err(crowded)?;
        let decode = move || {
            let mut budget = Budget::of_body(bytes.len());
            (media.decode_within(bytes, &mut budget), budget.spent_bytes())
        };
        let (message, spent) = if most <= decoded_bytes_max(DECODED_HERE_BYTES) {
            decode()
        } else {
            // Away from the threads that serve, which have other clients; and not on all processors at once.
            let _turn = DECODES.acquire().await;
            let failed = |_| (Err(Rejection { status: 500, message: "The body could not be decoded".into() }), 0);
            tokio::task::spawn_blocking(decode).await.unwrap_or_else(failed)
        };
        self.room.give_back(most.saturating_sub(spent));
        message
    }
}

impl std::ops::Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a client's body of at most `limit` bytes ([`BODY_BYTES_MAX`] for calls), decompressing it if `headers` say so.
/// It waits a moment for room among all bodies of this process.
///
/// # Errors
/// A [`ReadError`], which knows what to answer.
pub async fn read_body<B>(headers: &HeaderMap, body: B, limit: usize) -> Result<Received, ReadError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut room = Room::new(House::of_this_process());
    let bytes = read(headers, body, limit, Some(&mut room)).await?;
    Ok(Received { bytes, room })
}

/// As [`read_body`], of another process of the cluster, which waits for nobody.
///
/// # Errors
/// A [`ReadError`], which knows what to answer.
pub async fn read_message<B>(headers: &HeaderMap, body: B, limit: usize) -> Result<Bytes, ReadError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    read(headers, body, limit, None).await
}

async fn read<B>(headers: &HeaderMap, body: B, limit: usize, mut room: Option<&mut Room>) -> Result<Bytes, ReadError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let packed = match headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"identity") => false,
        Some(b"gzip") => true,
        Some(other) => return Err(ReadError::UnknownEncoding(String::from_utf8_lossy(other).into_owned())),
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(ReadError::TooLarge { limit });
    }
    let mut body = pin!(body);
    let (mut pieces, mut length) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ReadError::Broken(error.into().to_string()))?;
        let Ok(piece) = frame.into_data() else { continue };
        length += piece.len();
        if length > limit {
            return Err(ReadError::TooLarge { limit });
        }
        if let Some(room) = &mut room {
            room.read(piece.len()).await?;
        }
        pieces.push(piece);
    }
    let bytes = match pieces.len() {
        0 | 1 => pieces.pop().unwrap_or_default(),
        _ => pieces.concat().into(),
    };
    if packed { gunzip(&bytes, limit, room).await } else { Ok(bytes) }
}

/// So much is unpacked at a time.
const UNPACKED_BYTES: usize = 64 << 10;

async fn gunzip(packed: &[u8], limit: usize, mut room: Option<&mut Room>) -> Result<Bytes, ReadError> {
    let mut plain = Vec::new();
    let mut reader = MultiGzDecoder::new(packed);
    loop {
        let before = plain.len();
        // One byte more than allowed, to tell "exactly" from "too many" without unpacking a bomb.
        let most = UNPACKED_BYTES.min(limit + 1 - before);
        let mut reader = Read::by_ref(&mut reader).take(most as u64);
        reader.read_to_end(&mut plain).map_err(|error| ReadError::NotGzip(error.to_string()))?;
        let came = plain.len() - before;
        if plain.len() > limit {
            return Err(ReadError::TooLarge { limit });
        }
        if came == 0 {
            return Ok(plain.into());
        }
        if let Some(room) = &mut room {
            room.read(came).await?;
        }
        // Others wait for this thread, too.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use http_body_util::Full;
    use std::io::Write;

    async fn read(encoding: Option<&'static str>, body: Vec<u8>) -> Result<Bytes, ReadError> {
        let mut headers = HeaderMap::new();
        if let Some(encoding) = encoding {
            headers.insert(header::CONTENT_ENCODING, encoding.parse().unwrap());
        }
        let body = read_body(&headers, Full::new(Bytes::from(body)), 1000).await?;
        Ok(Bytes::copy_from_slice(&body))
    }

    fn packed(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[tokio::test]
    async fn bodies_are_limited_before_and_after_decompression() {
        assert_eq!(read(None, vec![7; 1000]).await.unwrap().len(), 1000);
        assert_eq!(read(None, vec![7; 1001]).await, Err(ReadError::TooLarge { limit: 1000 }));
        assert_eq!(read(Some("gzip"), packed(&[7; 1000])).await.unwrap().len(), 1000);
        assert_eq!(read(Some("gzip"), packed(&[7; 1_000_000])).await, Err(ReadError::TooLarge { limit: 1000 }));
        assert!(matches!(read(Some("gzip"), vec![1, 2, 3]).await, Err(ReadError::NotGzip(_))));
        assert!(matches!(read(Some("br"), vec![1]).await, Err(ReadError::UnknownEncoding(_))));
    }
}
