//! Reading what a client sends.

use std::io::Read;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as HttpBody;

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
        }
    }
}

/// Reads a body of at most `limit` bytes ([`BODY_BYTES_MAX`] for calls), decompressing it if `headers` say so.
///
/// # Errors
/// A [`ReadError`], which knows what to answer.
pub async fn read_body<B>(headers: &HeaderMap, body: B, limit: usize) -> Result<Bytes, ReadError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let bytes = match Limited::new(body, limit).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(ReadError::TooLarge { limit }),
        Err(error) => return Err(ReadError::Broken(error.to_string())),
    };
    match headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"identity") => Ok(bytes),
        Some(b"gzip") => gunzip(&bytes, limit),
        Some(other) => Err(ReadError::UnknownEncoding(String::from_utf8_lossy(other).into_owned())),
    }
}

fn gunzip(packed: &[u8], limit: usize) -> Result<Bytes, ReadError> {
    let mut plain = Vec::new();
    // One byte more than allowed, to tell "exactly" from "too many" without unpacking a bomb.
    let mut reader = MultiGzDecoder::new(packed).take(limit as u64 + 1);
    reader.read_to_end(&mut plain).map_err(|error| ReadError::NotGzip(error.to_string()))?;
    if plain.len() > limit { Err(ReadError::TooLarge { limit }) } else { Ok(plain.into()) }
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
        read_body(&headers, Full::new(Bytes::from(body)), 1000).await
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
