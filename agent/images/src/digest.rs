//! What content is known by.

use std::fmt;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

/// `sha256:` and 64 digits. There are other algorithms, which nobody uses for images.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// As it is written.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(text: &str) -> Result<Digest, String> {
        let shown = || api::limits::quoted(text).escape_debug().to_string();
        let (algorithm, digits) =
            text.split_once(':').ok_or_else(|| format!("'{}' is no digest: it names no algorithm", shown()))?;
        if algorithm != "sha256" {
            return Err(format!("the digest '{}' is not of sha256, the algorithm that is read here", shown()));
        }
        Digest::of_hex(digits).ok_or_else(|| format!("'{}' is no digest: sha256 has 64 digits", shown()))
    }

    /// By its digits, which are small ones.
    pub(crate) fn of_hex(digits: &str) -> Option<Digest> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() != 64 || !digits.bytes().all(is_digit) {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Digest(bytes))
    }

    /// Its digits.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Counts and digests what is read through it.
pub(crate) struct Through<R, S = Sha256> {
    reader: R,
    state: S,
    /// Bytes so far.
    pub(crate) bytes: u64,
}

impl<R: Read> Through<R> {
    pub(crate) fn new(reader: R) -> Through<R> {
        Through::of(reader)
    }

    /// Of all that was read.
    pub(crate) fn digest(self) -> Digest {
        self.digest_of().1
    }

    /// The same, and what it was read from.
    pub(crate) fn digest_of(self) -> (R, Digest) {
        (self.reader, Digest(self.state.finalize().into()))
    }
}

impl<R, S: sha2::Digest> Through<R, S> {
    /// By another algorithm, perhaps.
    pub(crate) fn of(reader: R) -> Through<R, S> {
        Through { reader, state: S::new(), bytes: 0 }
    }

    /// The digits of all that was read.
    pub(crate) fn digits(self) -> String {
        self.state.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl<R: Read, S: sha2::Digest> Read for Through<R, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.state.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

/// The same of what is told piece by piece.
#[derive(Default)]
pub(crate) struct Digester(Sha256);

impl Digester {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn digest(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_as_they_are_written() {
        let digest = Digest::of(b"");
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!((digest.to_string().as_str(), Digest::parse(text)), (text, Ok(digest)));
        for (wrong, why) in [
            ("e3b0", "names no algorithm"),
            ("sha512:00", "is not of sha256"),
            ("sha256:00", "has 64 digits"),
            (&text.to_uppercase().replace("SHA", "sha"), "has 64 digits"),
            (&format!("sha256:{}", "é".repeat(32)), "has 64 digits"),
        ] {
            assert!(Digest::parse(wrong).unwrap_err().contains(why), "{wrong}");
        }
    }
}
