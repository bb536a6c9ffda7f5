//! RecordIO: the decimal length of a record in bytes, LF, the record. Sans I/O: bytes come in, records go out.

use bytes::{Buf, Bytes, BytesMut};

/// One record, framed. Length and payload are one piece: some clients take each chunk of a body for one record.
pub fn encode(payload: &[u8]) -> Bytes {
    let mut record = Vec::with_capacity(payload.len() + 21);
    record.extend_from_slice(itoa::Buffer::new().format(payload.len()).as_bytes());
    record.push(b'\n');
    record.extend_from_slice(payload);
    Bytes::from(record)
}

/// Why bytes are not RecordIO. After an error a decoder gives nothing but the same error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Something else stands where a length should.
    #[error("Failed to decode length '{0}'")]
    Length(String),
    /// A record is longer than the decoder allows.
    #[error("a record of {length_bytes} bytes is longer than the {length_bytes_max} allowed")]
    TooLong {
        /// The record's length.
        length_bytes: u64,
        /// The decoder's limit.
        length_bytes_max: u64,
    },
}

/// Takes bytes in any pieces and gives whole records.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    /// Of the record whose length line was read.
    length: Option<usize>,
    length_bytes_max: usize,
    failed: Option<Error>,
}

/// The digits of u64::MAX.
const DIGITS_MAX: usize = 20;

impl Decoder {
    /// Records may have up to `length_bytes_max` bytes.
    pub fn new(length_bytes_max: usize) -> Self {
        Decoder { buffer: BytesMut::new(), length: None, length_bytes_max, failed: None }
    }

    /// Takes what has arrived. What was not yet asked for with [`next`](Self::next) is kept.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next whole record; None until more bytes arrive.
    #[allow(clippy::should_implement_trait)] // An iterator would end at None; here more may follow.
    pub fn next(&mut self) -> Option<Result<Bytes, Error>> {
        if let Some(error) = &self.failed {
            return Some(Err(error.clone()));
        }
        let length = match self.length {
            Some(length) => length,
            None => match self.read_length()? {
                Ok(length) => *self.length.insert(length),
                Err(error) => {
                    self.buffer.clear();
                    return Some(Err(self.failed.insert(error).clone()));
                }
            },
        };
        if self.buffer.len() < length {
            return None;
        }
        self.length = None;
        Some(Ok(self.buffer.split_to(length).freeze()))
    }

    /// Whether the bytes so far end exactly at the end of a record, as they should when a stream ends.
    pub fn is_between_records(&self) -> bool {
        self.buffer.is_empty() && self.length.is_none() && self.failed.is_none()
    }

    fn read_length(&mut self) -> Option<Result<usize, Error>> {
        let line = &self.buffer[..self.buffer.len().min(DIGITS_MAX + 1)];
        let end = match line.iter().position(|byte| !byte.is_ascii_digit()) {
            Some(end) => end,
            None if line.len() <= DIGITS_MAX => return None,
            None => line.len(),
        };
        let text = String::from_utf8_lossy(&line[..line.len().min(end + 1)]).trim_end_matches('\n').to_owned();
        if line.get(end) != Some(&b'\n') {
            return Some(Err(Error::Length(text)));
        }
        let Ok(length) = text.parse::<u64>() else { return Some(Err(Error::Length(text))) };
        let max = self.length_bytes_max;
        if length > max as u64 {
            return Some(Err(Error::TooLong { length_bytes: length, length_bytes_max: max as u64 }));
        }
        self.buffer.advance(end + 1);
        Some(Ok(length as usize))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(pieces: &[&[u8]]) -> Vec<Result<Bytes, Error>> {
        let mut decoder = Decoder::new(1000);
        let mut records = vec![];
        for piece in pieces {
            decoder.push(piece);
            while let Some(record) = decoder.next() {
                let failed = record.is_err();
                records.push(record);
                if failed {
                    return records;
                }
            }
        }
        records
    }

    #[test]
    fn a_record_is_one_piece() {
        assert_eq!(&encode(b"{\"type\":\"HEARTBEAT\"}")[..], b"20\n{\"type\":\"HEARTBEAT\"}");
        assert_eq!(&encode(b"")[..], b"0\n");
    }

    #[test]
    fn what_is_no_length_is_refused() {
        assert_eq!(decode(&[b"x\n"]), [Err(Error::Length("x".into()))]);
        assert_eq!(decode(&[b"\n"]), [Err(Error::Length("".into()))]);
        assert_eq!(decode(&[b"5\r\n"]), [Err(Error::Length("5\r".into()))]);
        assert_eq!(decode(&[b"-1\n"]), [Err(Error::Length("-".into()))]);
        assert_eq!(decode(&[b"99999999999999999999\n"]), [Err(Error::Length("99999999999999999999".into()))]);
        assert!(matches!(decode(&[&[b'1'; 30]])[..], [Err(Error::Length(_))]));
        assert_eq!(decode(&[b"1001\n"]), [Err(Error::TooLong { length_bytes: 1001, length_bytes_max: 1000 })]);
    }

    proptest! {
        #[test]
        fn records_survive_any_split(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let stream: Vec<u8> = records.iter().flat_map(|record| encode(record)).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
            let decoded: Vec<Vec<u8>> = decode(&pieces).into_iter().map(|record| record.unwrap().to_vec()).collect();
            prop_assert_eq!(decoded, records);
        }

        #[test]
        fn garbage_never_panics(garbage in prop::collection::vec(any::<u8>(), 0..100)) {
            decode(&[&garbage]);
        }
    }
}
