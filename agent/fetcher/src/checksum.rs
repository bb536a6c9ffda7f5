//! What a file must be: an addition to Mesos, told by a label of the task or the executor.

use std::collections::BTreeMap;
use std::io::{self, Read};

use api::checksums::LABEL;
use api::v1::Labels;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256, Sha512};

/// A digest of the whole file, as it was fetched, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Checksum {
    /// 64 digits.
    Sha256(String),
    /// 128 digits.
    Sha512(String),
}

impl Checksum {
    /// Reads `sha256:HEX` or `sha512:HEX`.
    pub fn parse(text: &str) -> Option<Checksum> {
        let (name, digits) = text.trim().split_once(':')?;
        let digits = digits.to_ascii_lowercase();
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        match (name, digits.len()) {
            ("sha256", 64) if is_hex => Some(Checksum::Sha256(digits)),
            ("sha512", 128) if is_hex => Some(Checksum::Sha512(digits)),
            _ => None,
        }
    }

    /// What is found in place of it, if the file is another one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn differs(&self, file: impl Read) -> io::Result<Option<String>> {
        let (expected, found) = match self {
            Checksum::Sha256(expected) => (expected, digest::<Sha256>(file)?),
            Checksum::Sha512(expected) => (expected, digest::<Sha512>(file)?),
        };
        Ok((*expected != found).then_some(found))
    }
}

fn digest<D: Digest>(mut file: impl Read) -> io::Result<String> {
    let mut digest = D::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => digest.update(&buffer[..count]),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// By URI, each with whether anybody asked for it. The error is a sentence.
pub(crate) fn of(labels: Option<&Labels>) -> Result<BTreeMap<String, (Checksum, bool)>, String> {
    let mut checksums = BTreeMap::new();
    for label in labels.iter().flat_map(|labels| &labels.labels) {
        let Some(uri) = label.key.strip_prefix(LABEL) else { continue };
        let checksum = label.value.as_deref().and_then(Checksum::parse).ok_or_else(|| {
            format!(
                "The label '{}' has no checksum of the form sha256:HEX or sha512:HEX",
                api::limits::quoted(&label.key)
            )
        })?;
        checksums.insert(uri.trim().to_owned(), (checksum, false));
    }
    Ok(checksums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_it_must_be_or_not() {
        let hello = "2CF24DBA5FB0A30E26E83B2AC5B9E29E1B161E5C1FA7425E73043362938B9824";
        let checksum = Checksum::parse(&format!("sha256:{hello}")).unwrap();
        assert_eq!(checksum.differs(&b"hello"[..]).unwrap(), None);
        let found = checksum.differs(&b"hellp"[..]).unwrap().unwrap();
        assert_eq!(found.len(), 64);
        assert_eq!(Checksum::parse("sha256:00"), None);
        assert_eq!(Checksum::parse(&format!("sha512:{hello}")), None);
    }
}
