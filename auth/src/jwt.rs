//! Bearer tokens: JSON Web Tokens, signed by HMAC-SHA256 with a key that their readers share.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde_json::{Map, Value, json};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::fmt;

/// A shorter key can be guessed, in bytes.
const KEY_BYTES_MIN: usize = 16;

/// What tokens are signed with.
#[derive(Clone)]
pub struct Key(Vec<u8>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// Why a text is no key. It is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has {0} bytes, and less than {KEY_BYTES_MIN} can be guessed")]
pub struct WeakKey(usize);

impl Key {
    /// The whole text is the key, but for the end of its last line.
    ///
    /// # Errors
    /// [`WeakKey`] if it is too short.
    pub fn parse(text: &str) -> Result<Key, WeakKey> {
        let key = text.trim_end_matches(['\r', '\n']).as_bytes();
        if key.len() < KEY_BYTES_MIN { Err(WeakKey(key.len())) } else { Ok(Key(key.to_vec())) }
    }

    fn signer(&self) -> Hmac<Sha256> {
        Hmac::new_from_slice(&self.0).expect("a key of any length will do")
    }

    /// A token that claims this, without an end.
    pub fn mint(&self, claims: &BTreeMap<&str, &str>) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "HS256", "typ": "JWT"})), part(&json!(claims)));
        let mut signer = self.signer();
        signer.update(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signer.finalize().into_bytes()))
    }

    /// What a token claims, at `now_s` seconds since the epoch.
    ///
    /// # Errors
    /// What is wrong with it, as clients know it.
    pub fn read(&self, token: &str, now_s: u64) -> Result<BTreeMap<String, String>, String> {
        self.claims(token, now_s).map_err(|why| format!("Invalid JWT: {why}"))
    }

    fn claims(&self, token: &str, now_s: u64) -> Result<BTreeMap<String, String>, String> {
        let parts: Vec<&str> = token.split('.').collect();
        let [header, payload, signature] = parts[..] else {
            return Err(format!("Expected 3 components in token, got {}", parts.len()));
        };
        let object = |part: &str, what: &str| -> Result<Map<String, Value>, String> {
            let wrong = || format!("Failed to decode token {what}");
            let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| wrong())?;
            serde_json::from_slice(&bytes).map_err(|_| wrong())
        };
        let head = object(header, "header")?;
        match head.get("alg") {
            None => return Err("Failed to locate 'alg' in token JSON header".to_owned()),
            Some(Value::String(alg)) if alg == "HS256" => {}
            Some(Value::String(alg)) if alg == "none" => {
                return Err("Token 'alg' value \"none\" does not match, expected \"HS256\"".to_owned());
            }
            Some(Value::String(alg)) => return Err(format!("Unsupported token algorithm: {}", plain(alg))),
            Some(_) => return Err("Token 'alg' field is not a string".to_owned()),
        }
        if let Some(kind) = head.get("typ")
            && kind != "JWT"
        {
            return Err("Token 'typ' does not match, expected \"JWT\"".to_owned());
        }
        let payload_object = object(payload, "payload")?;
        match payload_object.get("exp") {
            None => {}
            Some(Value::Number(end)) => {
                let end = end.as_f64().unwrap_or_default();
                if end < now_s as f64 {
                    return Err(format!("Token has expired: exp({end}) < now({now_s})"));
                }
            }
            Some(_) => return Err("JSON payload 'exp' field is not a number".to_owned()),
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| "Failed to decode token signature".to_owned())?;
        let mut signer = self.signer();
        signer.update(header.as_bytes());
        signer.update(b".");
        signer.update(payload.as_bytes());
        // In a time that says nothing about either.
        signer.verify_slice(&signature).map_err(|_| "Token signature does not match".to_owned())?;
        let text = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        Ok(payload_object
            .into_iter()
            .filter(|(name, _)| name != "exp")
            .map(|(name, value)| (name, text(value)))
            .collect())
    }
}

/// Fit for a header.
fn plain(text: &str) -> String {
    text.chars().filter(|letter| letter.is_ascii_graphic() && *letter != '"').take(32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::parse("a key of some length\n").unwrap()
    }

    fn token(header: Value, payload: Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&payload));
        let mut signer = key().signer();
        signer.update(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signer.finalize().into_bytes()))
    }

    #[test]
    fn what_is_minted_is_read() {
        let minted = key().mint(&[("cid", "c"), ("eid", "e")].into());
        let claims = key().read(&minted, 7).unwrap();
        assert_eq!(claims, [("cid".to_owned(), "c".to_owned()), ("eid".to_owned(), "e".to_owned())].into());
        let other = Key::parse("another key of some length").unwrap();
        assert_eq!(other.read(&minted, 7).unwrap_err(), "Invalid JWT: Token signature does not match");
        assert_eq!(
            format!("{:?} {}", key(), Key::parse("short").unwrap_err()),
            "Key it has 5 bytes, and less than 16 can be guessed"
        );
    }

    #[test]
    fn what_is_wrong_is_said_as_known() {
        let hs256 = json!({"alg": "HS256", "typ": "JWT"});
        for (token, why) in [
            ("abc".to_owned(), "Expected 3 components in token, got 1"),
            ("a.b".to_owned(), "Expected 3 components in token, got 2"),
            (token(json!({"alg": "none"}), json!({})), "Token 'alg' value \"none\" does not match, expected \"HS256\""),
            (token(json!({"alg": "HS512"}), json!({})), "Unsupported token algorithm: HS512"),
            (token(json!({"typ": "JWT"}), json!({})), "Failed to locate 'alg' in token JSON header"),
            (token(hs256.clone(), json!({"exp": 1000})), "Token has expired: exp(1000) < now(1001)"),
            (token(hs256.clone(), json!({"exp": "soon"})), "JSON payload 'exp' field is not a number"),
        ] {
            assert_eq!(key().read(&token, 1001).unwrap_err(), format!("Invalid JWT: {why}"));
        }
        assert_eq!(
            key().read(&token(hs256, json!({"exp": 1001, "n": 3})), 1001).unwrap(),
            [("n".to_owned(), "3".to_owned())].into()
        );
    }
}
