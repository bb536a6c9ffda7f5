//! What agents join by and are known by, as secrets and as the hashes of them that the log has. Secrets are random and
//! long, so that a fast hash is enough; each kind has a hash of its own, so that one is none of the other.

/// What the text of a join token begins with.
const PREFIX: &str = "meseta-join-";
const OF_TOKENS: &str = "meseta 2026 join token of an agent";
const OF_IDENTITIES: &str = "meseta 2026 identity of an agent";

/// 32 random bytes, from whoever makes UUIDs.
pub fn random_secret(random: impl Fn() -> u128) -> [u8; 32] {
    let (one, other) = (random(), random());
    // What is not random in a UUID is spread.
    blake3::hash(&[one.to_le_bytes(), other.to_le_bytes()].concat()).into()
}

/// The text of a new token.
pub fn new_join_token(random: impl Fn() -> u128) -> String {
    let digits: String = random_secret(random).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{PREFIX}{digits}")
}

/// The token in a file: its first line.
///
/// # Errors
/// One sentence, which does not repeat what is in the file.
pub fn read_join_token(text: &str) -> Result<&str, &'static str> {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let digits = line.strip_prefix(PREFIX).filter(|digits| digits.len() == 64);
    match digits.is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit())) {
        true => Ok(line),
        false => Err("its first line is no join token: it begins with meseta-join-, as `meseta join mint` tells it"),
    }
}

/// The hash of a token's text.
pub fn join_token_hash(text: &[u8]) -> [u8; 32] {
    blake3::derive_key(OF_TOKENS, text)
}

/// The hash of an identity.
pub fn identity_hash(secret: &[u8]) -> [u8; 32] {
    blake3::derive_key(OF_IDENTITIES, secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_made() {
        let random = || uuid::Uuid::new_v4().as_u128();
        let token = new_join_token(random);
        assert_eq!(read_join_token(&format!("\n {token} \nmore")), Ok(token.as_str()));
        for wrong in ["", "x", &token[1..], &token[..70], "ops secret"] {
            assert!(read_join_token(wrong).unwrap_err().contains("no join token"));
        }
        assert_ne!(join_token_hash(b"x"), identity_hash(b"x"));
        assert_ne!(random_secret(random), random_secret(random));
    }
}
