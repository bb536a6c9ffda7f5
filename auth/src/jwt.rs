//! Bearer tokens: JSON Web Tokens, signed by HMAC-SHA256 with a key that their readers share, or by somebody whose public keys
//! are in a [`KeySet`].

use crate::authenticator::Principal;
use crate::key_set::{Algorithm, KeySet};
use api::limits::PRINCIPAL_BYTES_MAX;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde_json::{Map, Value, json};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

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
pub enum WeakKey {
    /// Too short.
    #[error("it has {0} bytes, and less than {KEY_BYTES_MIN} can be guessed")]
    Short(usize),
    /// Everybody may have it.
    #[error("it is a public key, and whoever has that could sign tokens; keys of others are for --jwt_key_set")]
    Public,
}

impl Key {
    /// The whole text is the key, but for the end of its last line.
    ///
    /// # Errors
    /// [`WeakKey`] if it is too short, or a public key.
    pub fn parse(text: &str) -> Result<Key, WeakKey> {
        let key = text.trim_end_matches(['\r', '\n']);
        let public = ["-----BEGIN PUBLIC KEY", "-----BEGIN RSA PUBLIC KEY", "-----BEGIN CERTIFICATE", "ssh-"];
        if public.iter().any(|start| key.trim_start().starts_with(start)) || KeySet::is_meant(key) {
            return Err(WeakKey::Public);
        }
        if key.len() < KEY_BYTES_MIN { Err(WeakKey::Short(key.len())) } else { Ok(Key(key.as_bytes().to_vec())) }
    }

    fn signer(&self) -> Hmac<Sha256> {
        Hmac::new_from_slice(&self.0).expect("a key of any length will do")
    }

    /// A token that claims this, without an end.
    pub fn mint(&self, claims: &BTreeMap<&str, &str>) -> String {
        self.sign(&json!(claims))
    }

    /// A token of a principal until `end_s` seconds since the epoch.
    pub fn mint_until(&self, principal: &str, end_s: u64) -> String {
        self.sign(&json!({ "sub": principal, "exp": end_s }))
    }

    fn sign(&self, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "HS256", "typ": "JWT"})), part(claims));
        let mut signer = self.signer();
        signer.update(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signer.finalize().into_bytes()))
    }

    fn signed(&self, token: &Opened<'_>) -> Result<(), String> {
        let mut signer = self.signer();
        signer.update(token.signed.as_bytes());
        // In a time that says nothing about either.
        signer.verify_slice(&token.signature).map_err(|_| "Token signature does not match".to_owned())
    }
}

/// Which tokens are believed: those that are signed with our own key, and those of somebody whose keys are in a set.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// Of HS256.
    pub key: Option<Key>,
    /// Of every other algorithm.
    pub issuer: Option<Arc<Issuer>>,
}

/// Somebody who signs tokens, and what of them is for us.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// The public parts of its keys.
    pub keys: KeySet,
    /// What `iss` must be, if that matters.
    pub name: Option<String>,
    /// What `aud` must name. Without it a token that is for somebody in particular is for somebody else.
    pub audience: Option<String>,
    /// The claim that is the principal: `sub`, most often.
    pub principal_claim: String,
}

/// Clocks differ: a token may be from so long after now, in seconds.
const NOT_BEFORE_S_MAX: f64 = 60.0;

/// A token whose signature is still to be looked at.
struct Opened<'a> {
    alg: Signing,
    kid: Option<String>,
    payload: Map<String, Value>,
    /// Header and payload, as they came.
    signed: &'a str,
    signature: Vec<u8>,
}

/// How it says that it is signed. What verifies it follows from this, and a key is never used for another algorithm.
enum Signing {
    Shared,
    Public(Algorithm),
}

/// What a token that is believed claims.
struct Payload {
    claims: Map<String, Value>,
    by_issuer: bool,
}

impl Tokens {
    /// Whether none is believed.
    pub fn is_empty(&self) -> bool {
        self.key.is_none() && self.issuer.is_none()
    }

    /// Whom a token is about, at `now_s` seconds since the epoch: its principal, if it names one, and what else it claims.
    ///
    /// # Errors
    /// What is wrong with it, as clients know it.
    pub fn read(&self, token: &str, now_s: u64) -> Result<Principal, String> {
        let payload = self.payload(token, now_s).map_err(|why| format!("Invalid JWT: {why}"))?;
        let claim = match &self.issuer {
            Some(issuer) if payload.by_issuer => issuer.principal_claim.as_str(),
            _ => "sub",
        };
        let mut claims = payload.claims;
        claims.remove("exp");
        let value = match claims.remove(claim) {
            None => None,
            Some(Value::String(name)) if is_name(&name) => Some(name),
            Some(_) => return Err(format!("Invalid JWT: Token '{}' is no name of a principal", plain(claim))),
        };
        if value.is_none() && claims.is_empty() {
            return Err("JWT claims missing".to_owned());
        }
        let text = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        Ok(Principal { value, claims: claims.into_iter().map(|(name, value)| (name, text(value))).collect() })
    }

    fn payload(&self, token: &str, now_s: u64) -> Result<Payload, String> {
        let opened = self.open(token)?;
        check_times(&opened.payload, now_s)?;
        let by_issuer = match (&opened.alg, &self.key, &self.issuer) {
            (Signing::Shared, Some(key), _) => key.signed(&opened).map(|()| false)?,
            (Signing::Public(algorithm), _, Some(issuer)) => {
                let message = opened.signed.as_bytes();
                issuer.keys.verify(*algorithm, opened.kid.as_deref(), message, &opened.signature)?;
                issuer.is_for_us(&opened.payload).map(|()| true)?
            }
            // What is opened is of an algorithm that there is a key for.
            _ => return Err("Unsupported token algorithm".to_owned()),
        };
        Ok(Payload { claims: opened.payload, by_issuer })
    }

    /// The names of algorithms that are taken.
    fn taken(&self) -> Vec<&'static str> {
        let shared = self.key.iter().map(|_| "HS256");
        let public = self.issuer.iter().flat_map(|issuer| issuer.keys.algorithms()).map(Algorithm::name);
        shared.chain(public).collect()
    }

    fn open<'a>(&self, token: &'a str) -> Result<Opened<'a>, String> {
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
        let alg = match head.get("alg") {
            None => return Err("Failed to locate 'alg' in token JSON header".to_owned()),
            Some(Value::String(alg)) => self.signing(alg)?,
            Some(_) => return Err("Token 'alg' field is not a string".to_owned()),
        };
        if let Some(kind) = head.get("typ")
            && kind != "JWT"
            && !(kind == "at+jwt" && matches!(alg, Signing::Public(_)))
        {
            return Err("Token 'typ' does not match, expected \"JWT\"".to_owned());
        }
        if head.contains_key("crit") {
            return Err("Token 'crit' names what is not understood here".to_owned());
        }
        let kid = match head.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err("Token 'kid' field is not a string".to_owned()),
        };
        let payload = object(payload, "payload")?;
        let signed = &token[..token.len() - signature.len() - 1];
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| "Failed to decode token signature".to_owned())?;
        Ok(Opened { alg, kid, payload, signed, signature })
    }

    fn signing(&self, alg: &str) -> Result<Signing, String> {
        if alg == "HS256" && self.key.is_some() {
            return Ok(Signing::Shared);
        }
        let public = Algorithm::named(alg).filter(|algorithm| {
            self.issuer.as_ref().is_some_and(|issuer| issuer.keys.algorithms().any(|one| one == *algorithm))
        });
        public.map(Signing::Public).ok_or_else(|| match alg {
            "none" => {
                let expected: Vec<String> = self.taken().iter().map(|name| format!("\"{name}\"")).collect();
                format!("Token 'alg' value \"none\" does not match, expected {}", expected.join(" or "))
            }
            alg => format!("Unsupported token algorithm: {}", plain(alg)),
        })
    }
}

impl Issuer {
    fn is_for_us(&self, claims: &Map<String, Value>) -> Result<(), String> {
        if let Some(name) = &self.name
            && claims.get("iss").and_then(Value::as_str) != Some(name)
        {
            return Err("Token 'iss' is not the one that is believed here".to_owned());
        }
        let names = |audience: &str| match claims.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(several)) => several.iter().any(|one| one == audience),
            _ => false,
        };
        match &self.audience {
            Some(audience) if !names(audience) => Err("Token 'aud' does not name this cluster".to_owned()),
            None if claims.contains_key("aud") => {
                Err("Token 'aud' names somebody, and this cluster has no name to compare it with".to_owned())
            }
            _ => Ok(()),
        }
    }
}

fn check_times(claims: &Map<String, Value>, now_s: u64) -> Result<(), String> {
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(time)) => Ok(Some(time.as_f64().unwrap_or_default())),
        Some(_) => Err(format!("JSON payload '{name}' field is not a number")),
    };
    if let Some(end) = time("exp")?
        && end < now_s as f64
    {
        return Err(format!("Token has expired: exp({end}) < now({now_s})"));
    }
    if let Some(begin) = time("nbf")?
        && begin > now_s as f64 + NOT_BEFORE_S_MAX
    {
        return Err(format!("Token is not good yet: nbf({begin}) > now({now_s})"));
    }
    Ok(())
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= PRINCIPAL_BYTES_MAX && !text.chars().any(char::is_control)
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

    fn own() -> Tokens {
        Tokens { key: Some(key()), issuer: None }
    }

    fn issuer() -> Issuer {
        let (keys, _) = KeySet::parse(include_str!("../testdata/jwt/keys.json")).unwrap();
        Issuer { keys, name: None, audience: None, principal_claim: "sub".into() }
    }

    fn of(issuer: Issuer) -> Tokens {
        Tokens { key: None, issuer: Some(Arc::new(issuer)) }
    }

    /// Made by another implementation.
    fn of_issuer(name: &str) -> &'static str {
        let mut tokens = include_str!("../testdata/jwt/tokens.tsv").lines().filter_map(|line| line.split_once('\t'));
        tokens.find(|(known, _)| *known == name).expect(name).1
    }

    fn part(value: &Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    fn signed_by(key: &[u8], header: &Value, payload: &Value) -> String {
        let signed = format!("{}.{}", part(header), part(payload));
        let mut signer = Key(key.to_vec()).signer();
        signer.update(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signer.finalize().into_bytes()))
    }

    fn token(header: &Value, payload: &Value) -> String {
        signed_by(&key().0, header, payload)
    }

    #[test]
    fn what_is_minted_is_read() {
        let minted = key().mint(&[("cid", "c"), ("eid", "e")].into());
        let claims = own().read(&minted, 7).unwrap().claims;
        assert_eq!(claims, [("cid".to_owned(), "c".to_owned()), ("eid".to_owned(), "e".to_owned())].into());
        let ending = key().mint_until("ops", 9);
        assert_eq!(own().read(&ending, 9).unwrap().value.as_deref(), Some("ops"));
        assert!(own().read(&ending, 10).unwrap_err().contains("has expired"));
        let other = Tokens { key: Some(Key::parse("another key of some length").unwrap()), issuer: None };
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
            (
                token(&json!({"alg": "none"}), &json!({})),
                "Token 'alg' value \"none\" does not match, expected \"HS256\"",
            ),
            (token(&json!({"alg": "HS512"}), &json!({})), "Unsupported token algorithm: HS512"),
            (token(&json!({"alg": "RS256"}), &json!({})), "Unsupported token algorithm: RS256"),
            (token(&json!({"typ": "JWT"}), &json!({})), "Failed to locate 'alg' in token JSON header"),
            (token(&hs256, &json!({"exp": 1000})), "Token has expired: exp(1000) < now(1001)"),
            (token(&hs256, &json!({"exp": "soon"})), "JSON payload 'exp' field is not a number"),
            (token(&hs256, &json!({"nbf": 2000})), "Token is not good yet: nbf(2000) > now(1001)"),
            (token(&hs256, &json!({"nbf": "soon"})), "JSON payload 'nbf' field is not a number"),
            (token(&hs256, &json!({"sub": ""})), "Token 'sub' is no name of a principal"),
            (token(&hs256, &json!({"sub": "a\n"})), "Token 'sub' is no name of a principal"),
        ] {
            assert_eq!(own().read(&token, 1001).unwrap_err(), format!("Invalid JWT: {why}"));
        }
        assert_eq!(own().read(&token(&hs256, &json!({"exp": 1001})), 1001).unwrap_err(), "JWT claims missing");
        assert_eq!(
            own().read(&token(&hs256, &json!({"exp": 1001, "nbf": 1060, "n": 3})), 1001).unwrap().claims,
            [("n".to_owned(), "3".to_owned()), ("nbf".to_owned(), "1060".to_owned())].into()
        );
    }

    #[test]
    fn tokens_of_others_are_read_by_their_keys() {
        let read = |name: &str| of(issuer()).read(of_issuer(name), 2000);
        for name in ["rs256", "rs512", "ps256", "es256", "es384", "eddsa-without-kid"] {
            assert_eq!(read(name).unwrap().value.as_deref(), Some("ops"), "{name}");
        }
        for (name, why) in [
            ("rs512-of-a-key-for-rs256", "No key is known for the token's 'alg' and 'kid'"),
            ("eddsa-of-another-key", "Token signature does not match"),
            ("eddsa-of-an-unknown-kid", "No key is known for the token's 'alg' and 'kid'"),
            ("es256-by-the-kid-of-another", "No key is known for the token's 'alg' and 'kid'"),
            ("crit", "Token 'crit' names what is not understood here"),
            ("odd-sub", "Token 'sub' is no name of a principal"),
            ("eddsa", "Token 'aud' names somebody, and this cluster has no name to compare it with"),
        ] {
            assert_eq!(read(name).unwrap_err(), format!("Invalid JWT: {why}"), "{name}");
        }
        let executor = read("executor").unwrap();
        assert_eq!((executor.value, executor.claims["cid"].as_str()), (None, "C"));
        let late = of(issuer()).read(of_issuer("rs256"), 4_102_444_801).unwrap_err();
        assert_eq!(late, "Invalid JWT: Token has expired: exp(4102444800) < now(4102444801)");
        let early = of(issuer()).read(of_issuer("es256"), 939).unwrap_err();
        assert_eq!(early, "Invalid JWT: Token is not good yet: nbf(1000) > now(939)");
    }

    #[test]
    fn a_token_is_for_whom_it_names() {
        let us = |name: &str, audience: &str| {
            let (name, audience) = (Some(name.to_owned()), Some(audience.to_owned()));
            Issuer { name, audience, ..issuer() }
        };
        let read = |issuer: Issuer, token: &str| of(issuer).read(of_issuer(token), 2000);
        let right = read(us("https://issuer.example", "meseta"), "eddsa").unwrap();
        assert_eq!(right.value.as_deref(), Some("ops"));
        for (name, audience, token, why) in [
            ("https://issuer.exampl", "meseta", "eddsa", "'iss' is not the one"),
            ("https://issuer.example", "mesetas", "eddsa", "'aud' does not name this cluster"),
            ("https://issuer.example", "meseta", "es384", "'iss' is not the one"),
        ] {
            let said = read(us(name, audience), token).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        let by_mail = Issuer { principal_claim: "email".into(), ..issuer() };
        assert_eq!(read(by_mail.clone(), "email").unwrap().value.as_deref(), Some("ops@example"));
        assert_eq!(read(by_mail, "rs256").unwrap().value, None, "and `sub` is another claim then");
    }

    #[test]
    fn an_algorithm_is_never_the_senders_choice() {
        // Signed with what everybody can read, as if that were a secret that is shared.
        let keys = include_str!("../testdata/jwt/keys.json");
        let set: Value = serde_json::from_str(keys).unwrap();
        let coordinate = URL_SAFE_NO_PAD.decode(set["keys"][4]["x"].as_str().unwrap()).unwrap();
        let both = Tokens { key: Some(key()), issuer: Some(Arc::new(issuer())) };
        let (header, payload) = (json!({"alg": "HS256", "kid": "ed"}), json!({"sub": "ops"}));
        for public in [keys.as_bytes(), keys.trim_end().as_bytes(), &coordinate] {
            let forged = signed_by(public, &header, &payload);
            assert_eq!(of(issuer()).read(&forged, 0).unwrap_err(), "Invalid JWT: Unsupported token algorithm: HS256");
            assert_eq!(both.read(&forged, 0).unwrap_err(), "Invalid JWT: Token signature does not match");
        }
        assert_eq!(both.read(&key().mint(&[("sub", "web")].into()), 0).unwrap().value.as_deref(), Some("web"));
        assert_eq!(both.read(of_issuer("es384"), 0).unwrap().value.as_deref(), Some("ops"));
        // By our own key, as if it were the other's.
        let swapped = signed_by(&key().0, &json!({"alg": "EdDSA", "kid": "ed"}), &payload);
        assert_eq!(both.read(&swapped, 0).unwrap_err(), "Invalid JWT: Token signature does not match");
        for alg in ["none", "None", "NONE", "nOnE"] {
            let unsigned = format!("{}.{}.", part(&json!({ "alg": alg })), part(&payload));
            assert!(both.read(&unsigned, 0).is_err() && of(issuer()).read(&unsigned, 0).is_err(), "{alg}");
        }
        let stripped = format!("{}.", of_issuer("es384").rsplit_once('.').unwrap().0);
        assert!(both.read(&stripped, 0).is_err());
        for public in [keys, "-----BEGIN PUBLIC KEY-----\nMFkw\n", "-----BEGIN CERTIFICATE-----\nMFkw\n"] {
            assert_eq!(Key::parse(public).unwrap_err(), WeakKey::Public);
        }
    }
}
