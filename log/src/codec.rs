//! The bytes of records and payloads. The only place that names bincode.
//!
//! ```text
//! record  := format u8 (1) · crc32 u32 (little endian, of format and body) · body
//! body    := term · n · at_ms · feature_level · causes · events
//! causes  := count · { call · principal? · peer? · request_id [16] }
//! events  := count · { number · version · cause · length · payload }
//! ```
//!
//! Integers are bincode's varints. A payload does not describe itself: whoever does not know an event's number and
//! version steps over it by its length.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::de::{Decode, Decoder};
use bincode::enc::{Encode, Encoder};
use bincode::error::{DecodeError, EncodeError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::{DECODE_BYTES_MAX, RECORD_BYTES_MAX};
use crate::record::{Cause, Header, RawEvent, Record};

/// The newest record format that this build reads, and the one that it writes.
pub const RECORD_FORMAT: u8 = 1;

const PREFIX_BYTES: usize = 5;

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Fewer bytes than the smallest record.
    #[error("{0} bytes are too few for a record")]
    Truncated(usize),
    /// Written by a newer release.
    #[error("the record has format {found}, this release reads formats up to {}", RECORD_FORMAT)]
    NewerFormat {
        /// Format byte of the record.
        found: u8,
    },
    /// The bytes changed since they were written.
    #[error("the checksum is {found:08x}, but should be {expected:08x}")]
    Checksum {
        /// Computed from the bytes.
        found: u32,
        /// Stored with the bytes.
        expected: u32,
    },
    /// The checksum is right but the content is not what this release can read.
    #[error("malformed content: {0}")]
    Malformed(String),
    /// Larger than what is read again: it is not written.
    #[error("a record of {0} bytes, more than can be read again")]
    TooLarge(usize),
    /// More bytes than the content needs.
    #[error("{0} bytes are left over")]
    TrailingBytes(usize),
}

type Config = Configuration<LittleEndian, Varint, Limit<DECODE_BYTES_MAX>>;

const fn config() -> Config {
    bincode::config::standard().with_limit::<DECODE_BYTES_MAX>()
}

/// Decodes with a limit that follows how much there is to read: a length inside a few bytes must not set hundreds of
/// megabytes aside. What is read honestly takes a few dozen times its bytes at most.
macro_rules! decode_within {
    ($bytes:expr, $decode:path) => {
        match $bytes.len() {
            0..SHORT_BYTES => $decode($bytes, bincode::config::standard().with_limit::<{ SHORT_BYTES * TIMES_MAX }>()),
            SHORT_BYTES..MIDDLE_BYTES => {
                $decode($bytes, bincode::config::standard().with_limit::<{ MIDDLE_BYTES * TIMES_MAX }>())
            }
            _ => $decode($bytes, config()),
        }
    };
}

const SHORT_BYTES: usize = 2 << 10;
const MIDDLE_BYTES: usize = 64 << 10;
const TIMES_MAX: usize = 512;

impl Record {
    /// The record as bytes, checksum included.
    ///
    /// # Panics
    /// If it is larger than [`RECORD_BYTES_MAX`]: nobody could read it again.
    pub fn encode(&self) -> Vec<u8> {
        self.try_encode().unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`Record::encode`].
    ///
    /// # Errors
    /// [`CodecError::TooLarge`] if nobody could read it again.
    pub fn try_encode(&self) -> Result<Vec<u8>, CodecError> {
        let payloads: usize = self.events.iter().map(|event| event.payload.len() + 8).sum();
        if payloads > RECORD_BYTES_MAX {
            return Err(CodecError::TooLarge(payloads));
        }
        let mut bytes = Vec::with_capacity(PREFIX_BYTES + 32 + self.causes.len() * 64 + payloads);
        bytes.extend_from_slice(&[RECORD_FORMAT, 0, 0, 0, 0]);
        bincode::encode_into_std_write(self, &mut bytes, config()).expect("a vector takes every byte");
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(CodecError::TooLarge(bytes.len()));
        }
        let crc = checksum(&bytes);
        bytes[1..PREFIX_BYTES].copy_from_slice(&crc.to_le_bytes());
        Ok(bytes)
    }

    /// The record that `bytes` hold.
    ///
    /// # Errors
    /// A [`CodecError`] if they hold anything but exactly one record.
    pub fn decode(bytes: &[u8]) -> Result<Record, CodecError> {
        verify(bytes)?;
        decode_all(&bytes[PREFIX_BYTES..], |body| decode_within!(body, bincode::decode_from_slice))
    }
}

/// Checks format and checksum of an encoded record without decoding it.
///
/// # Errors
/// As [`Record::decode`], except for [`CodecError::Malformed`] and [`CodecError::TrailingBytes`].
pub fn verify(bytes: &[u8]) -> Result<(), CodecError> {
    if bytes.len() < PREFIX_BYTES {
        return Err(CodecError::Truncated(bytes.len()));
    }
    let expected = u32::from_le_bytes(bytes[1..PREFIX_BYTES].try_into().expect("four bytes"));
    let found = checksum(bytes);
    if found != expected {
        return Err(CodecError::Checksum { found, expected });
    }
    // After the checksum, so that a flipped bit in the format byte is not taken for a newer release.
    if bytes[0] > RECORD_FORMAT || bytes[0] == 0 {
        return Err(CodecError::NewerFormat { found: bytes[0] });
    }
    Ok(())
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..1]);
    hasher.update(&bytes[PREFIX_BYTES..]);
    hasher.finalize()
}

/// A payload of an event.
///
/// # Panics
/// If `value` cannot be serialized without names (maps of unknown length, `serde` attributes that need a
/// self-describing format): a mistake in its type, found by the first test that encodes it.
pub fn encode_payload<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, config()).expect("the type of a payload can be encoded")
}

/// As [`encode_payload`], behind one byte.
#[cfg(feature = "raft")]
pub(crate) fn encode_behind<T: Serialize + ?Sized>(first: u8, value: &T) -> Vec<u8> {
    let mut bytes = vec![first];
    bincode::serde::encode_into_std_write(value, &mut bytes, config()).expect("the type of a payload can be encoded");
    bytes
}

/// The value of a payload.
///
/// # Errors
/// A [`CodecError`] if the bytes hold anything but exactly one `T`.
pub fn decode_payload<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_all(bytes, |bytes| decode_within!(bytes, bincode::serde::decode_from_slice))
}

fn decode_all<T>(bytes: &[u8], decode: impl FnOnce(&[u8]) -> Result<(T, usize), DecodeError>) -> Result<T, CodecError> {
    let (value, used) = decode(bytes).map_err(|error| CodecError::Malformed(error.to_string()))?;
    match bytes.len() - used {
        0 => Ok(value),
        left => Err(CodecError::TrailingBytes(left)),
    }
}

// Written by hand: payloads are copied as one slice, and the order of fields below is the file format.

impl Encode for Record {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        let Header { term, n, at_ms, feature_level } = self.header;
        (term, n, at_ms, feature_level).encode(encoder)?;
        self.causes.encode(encoder)?;
        self.events.encode(encoder)
    }
}

impl<Context> Decode<Context> for Record {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let (term, n, at_ms, feature_level) = Decode::decode(decoder)?;
        let header = Header { term, n, at_ms, feature_level };
        Ok(Record { header, causes: Decode::decode(decoder)?, events: Decode::decode(decoder)? })
    }
}

impl Encode for Cause {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.call.encode(encoder)?;
        self.principal.encode(encoder)?;
        self.peer.encode(encoder)?;
        self.request_id.encode(encoder)
    }
}

impl<Context> Decode<Context> for Cause {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Ok(Cause {
            call: Decode::decode(decoder)?,
            principal: Decode::decode(decoder)?,
            peer: Decode::decode(decoder)?,
            request_id: Decode::decode(decoder)?,
        })
    }
}

impl Encode for RawEvent {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        (self.number, self.version, self.cause).encode(encoder)?;
        self.payload.encode(encoder)
    }
}

impl<Context> Decode<Context> for RawEvent {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let (number, version, cause) = Decode::decode(decoder)?;
        Ok(RawEvent { number, version, cause, payload: Decode::decode(decoder)? })
    }
}
