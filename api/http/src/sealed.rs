//! Values of tasks' secrets, sealed with the secret that the members of a cluster share: logs, snapshots and answers have them in
//! this form only. The same value is sealed the same way again, for the same framework: executors are compared by what they bring.

use api::secrets::SEALED;
use blake3::derive_key;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::secret::Secret;

fn key(key: &[u8; 32]) -> LessSafeKey {
    let key = derive_key("meseta: values of the secrets of tasks, 1", key);
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).expect("a key of that length"))
}

/// Of the value and who it is for: no two have the same.
fn nonce(key: &[u8; 32], value: &[u8], owner: &str) -> [u8; NONCE_LEN] {
    let key = derive_key("meseta: nonces of the secrets of tasks, 1", key);
    let mut hasher = blake3::Hasher::new_keyed(&key);
    hasher.update(&(owner.len() as u64).to_be_bytes()).update(owner.as_bytes()).update(value);
    let mut nonce = [0; NONCE_LEN];
    hasher.finalize_xof().fill(&mut nonce);
    nonce
}

impl Secret {
    /// Seals a value for an owner, a framework by its id.
    pub fn seal(&self, value: &[u8], owner: &str) -> Vec<u8> {
        let nonce = nonce(self.first(), value, owner);
        let mut bytes = value.to_vec();
        let sealing = key(self.first());
        sealing
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(owner.as_bytes()), &mut bytes)
            .expect("a secret is not as long as that");
        [SEALED, &nonce, &bytes].concat()
    }

    /// The value that was sealed for this owner, with any of the secrets; none if it was not.
    pub fn open_sealed(&self, sealed: &[u8], owner: &str) -> Option<Vec<u8>> {
        let (nonce, bytes) = sealed.strip_prefix(SEALED)?.split_at_checked(NONCE_LEN)?;
        self.all().find_map(|one| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut bytes = bytes.to_vec();
            let value = key(one).open_in_place(nonce, Aad::from(owner.as_bytes()), &mut bytes).ok()?;
            Some(value.to_vec())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_opened_for_whom_it_was_sealed_with_any_of_the_secrets() {
        let (old, new) = ("the old secret of the cluster", "the new secret of the cluster");
        let before = Secret::parse(old).unwrap();
        let sealed = before.seal(b"hunter2", "F-0001");
        assert!(api::secrets::is_sealed(&sealed) && !sealed.windows(7).any(|bytes| bytes == b"hunter2"));
        assert_eq!(before.open_sealed(&sealed, "F-0001").as_deref(), Some(&b"hunter2"[..]));
        assert_eq!(before.open_sealed(&sealed, "F-0002"), None, "it is another's");
        assert_eq!(sealed, before.seal(b"hunter2", "F-0001"));
        assert_ne!(sealed, before.seal(b"hunter2", "F-0002"));
        let both = Secret::parse(&format!("{new}\n{old}")).unwrap();
        assert!(both.open_sealed(&sealed, "F-0001").is_some());
        assert_eq!(Secret::parse(new).unwrap().open_sealed(&sealed, "F-0001"), None);
        let mut broken = sealed.clone();
        *broken.last_mut().unwrap() ^= 1;
        assert_eq!(before.open_sealed(&broken, "F-0001"), None);
        for length in 0..sealed.len() {
            assert_eq!(before.open_sealed(&sealed[..length], "F-0001"), None);
        }
        assert_eq!(before.open_sealed(&before.seal(b"", "F"), "F"), Some(Vec::new()));
    }
}
