//! The file of `--jwt_key_set`: public keys of somebody who signs tokens, as a JSON Web Key Set (RFC 7517). A file that cannot
//! be understood is refused with the place of what is wrong. Keys that are for something else are passed over, with a
//! sentence each: whoever publishes a set publishes all that there is.

use api::limits::{KEY_SET_KEYS_MAX, quoted};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Sizes of a modulus that are taken, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// What begins a point of a curve whose coordinates are both there.
const UNCOMPRESSED: u8 = 4;

/// How a token is signed, if not with a secret that is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    const ALL: [Algorithm; 9] = [
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
        Algorithm::Ps256,
        Algorithm::Ps384,
        Algorithm::Ps512,
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::EdDsa,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Ps256 => "PS256",
            Algorithm::Ps384 => "PS384",
            Algorithm::Ps512 => "PS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::EdDsa => "EdDSA",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    fn rsa(self) -> Option<&'static RsaParameters> {
        match self {
            Algorithm::Rs256 => Some(&RSA_PKCS1_2048_8192_SHA256),
            Algorithm::Rs384 => Some(&RSA_PKCS1_2048_8192_SHA384),
            Algorithm::Rs512 => Some(&RSA_PKCS1_2048_8192_SHA512),
            Algorithm::Ps256 => Some(&RSA_PSS_2048_8192_SHA256),
            Algorithm::Ps384 => Some(&RSA_PSS_2048_8192_SHA384),
            Algorithm::Ps512 => Some(&RSA_PSS_2048_8192_SHA512),
            Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa => None,
        }
    }
}

/// Public keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<PublicKey>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PublicKey {
    kid: Option<String>,
    /// The only one that it is for, if its owner says so.
    only: Option<Algorithm>,
    material: Material,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// Why a text is no set of public keys. One sentence with the place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Nothing in it.
    #[error(r#"it has no keys; it would be {{"keys": [{{"kty": "EC", "crv": "P-256", "x": "X", "y": "Y", "kid": "NAME"}}]}}"#)]
    Empty,
    /// As OpenSSL writes keys.
    #[error("it is PEM, and a set of keys is JSON (RFC 7517)")]
    Pem,
    /// No JSON.
    #[error("it is no JSON at line {line} column {column}")]
    NoJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// Other JSON.
    #[error(r#"it is not as {{"keys": [...]}} (RFC 7517)"#)]
    OtherJson,
    /// Too many.
    #[error("it has more than {KEY_SET_KEYS_MAX} keys")]
    Many,
    /// One of them.
    #[error("key {at}: {why}")]
    One {
        /// From 1.
        at: usize,
        /// What is wrong.
        why: String,
    },
    /// None is for tokens.
    #[error("none of its keys is one that tokens are verified by: {0}")]
    NoneIsFor(String),
}

impl KeySet {
    /// Reads it, with sentences about keys that are passed over.
    ///
    /// # Errors
    /// A [`KeySetError`] with the place of what is wrong.
    pub fn parse(text: &str) -> Result<(KeySet, Vec<String>), KeySetError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.trim().is_empty() {
            return Err(KeySetError::Empty);
        }
        if text.trim_start().starts_with("-----BEGIN") {
            return Err(KeySetError::Pem);
        }
        let read: Result<Value, _> = serde_json::from_str(text);
        let value = read.map_err(|error| KeySetError::NoJson { line: error.line(), column: error.column() })?;
        let Some(all) = value.get("keys").and_then(Value::as_array) else { return Err(KeySetError::OtherJson) };
        if all.is_empty() {
            return Err(KeySetError::Empty);
        }
        if all.len() > KEY_SET_KEYS_MAX {
            return Err(KeySetError::Many);
        }
        let (mut keys, mut passed) = (Vec::new(), Vec::new());
        let mut named = BTreeSet::new();
        for (value, at) in all.iter().zip(1..) {
            match PublicKey::read(value) {
                Ok(key) => {
                    let is_new = key.kid.clone().is_none_or(|kid| named.insert((kid, key.material.kind())));
                    if !is_new {
                        let why = "an earlier key of its kind has the same 'kid'".to_owned();
                        return Err(KeySetError::One { at, why });
                    }
                    keys.push(key);
                }
                Err(Unfit::Other(why)) => passed.push(format!("key {at} is passed over: {why}")),
                Err(Unfit::Wrong(why)) => return Err(KeySetError::One { at, why }),
            }
        }
        if keys.is_empty() {
            return Err(KeySetError::NoneIsFor(passed.join("; ")));
        }
        Ok((KeySet { keys }, passed))
    }

    /// Whether a text is meant to be one, or a public key of one, right or wrong.
    pub(crate) fn is_meant(text: &str) -> bool {
        let value: Option<Value> = serde_json::from_str(text).ok();
        value.is_some_and(|value| value.get("keys").is_some() || value.get("kty").is_some_and(|kind| kind != "oct"))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Those that some key is for, each once.
    pub(crate) fn algorithms(&self) -> impl Iterator<Item = Algorithm> + '_ {
        Algorithm::ALL.into_iter().filter(|algorithm| self.keys.iter().any(|key| key.is_for(*algorithm)))
    }

    /// Whether one of those keys has signed `message` that a token with this `kid` may be signed by: those of that name, else
    /// those without a name.
    pub(crate) fn verify(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), String> {
        let is_named = kid.is_some() && self.keys.iter().any(|key| key.kid.as_deref() == kid);
        let is_meant = |key: &&PublicKey| match kid {
            None => true,
            Some(kid) if is_named => key.kid.as_deref() == Some(kid),
            Some(_) => key.kid.is_none(),
        };
        let mut fitting = self.keys.iter().filter(|key| key.is_for(algorithm)).filter(is_meant).peekable();
        if fitting.peek().is_none() {
            return Err("No key is known for the token's 'alg' and 'kid'".to_owned());
        }
        match fitting.any(|key| key.material.has_signed(algorithm, message, signature)) {
            true => Ok(()),
            false => Err("Token signature does not match".to_owned()),
        }
    }
}

/// Why a key is not in the set.
enum Unfit {
    /// It is for something else.
    Other(String),
    /// It makes no sense, or must not be here.
    Wrong(String),
}

impl PublicKey {
    fn read(value: &Value) -> Result<PublicKey, Unfit> {
        let other = |why: String| Err(Unfit::Other(why));
        let wrong = |why: &str| Unfit::Wrong(why.to_owned());
        let fields = value.as_object().ok_or_else(|| wrong("it is no object"))?;
        let text = |name: &str| match fields.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(Unfit::Wrong(format!("its '{name}' is no text"))),
        };
        let kind = text("kty")?.ok_or_else(|| wrong("it has no 'kty'"))?;
        if kind == "oct" {
            return Err(wrong("it is a secret that both sides share (kty oct), which is for --jwt_secret_key"));
        }
        if ["d", "p", "q", "dp", "dq", "qi", "oth", "priv"].iter().any(|name| fields.contains_key(*name)) {
            return Err(wrong("its private part is in it, and whoever reads this file could sign: leave it out"));
        }
        match text("use")? {
            None | Some("sig") => {}
            Some(used) => return other(format!("it is for '{}' (use)", quoted(used))),
        }
        match fields.get("key_ops") {
            None => {}
            Some(Value::Array(ops)) if ops.iter().any(|op| op == "verify") => {}
            Some(Value::Array(_)) => return other("it is not for verifying (key_ops)".to_owned()),
            Some(_) => return Err(wrong("its 'key_ops' is no list")),
        }
        let only = match text("alg")?.map(|name| (name, Algorithm::named(name))) {
            None => None,
            Some((_, Some(algorithm))) => Some(algorithm),
            Some((name, None)) => return other(format!("tokens are not verified by '{}' (alg)", quoted(name))),
        };
        let material = match (kind, text("crv")?.unwrap_or_default()) {
            ("RSA", _) => rsa(fields)?,
            ("EC", "P-256") => Material::P256(point(fields, 32)?),
            ("EC", "P-384") => Material::P384(point(fields, 48)?),
            ("OKP", "Ed25519") => Material::Ed25519(bytes(fields, "x", Some(32))?),
            ("EC" | "OKP", "") => return Err(wrong("it has no 'crv'")),
            ("EC" | "OKP", curve) => {
                return other(format!("curve '{}' is not built: P-256, P-384 and Ed25519 are", quoted(curve)));
            }
            (kind, _) => {
                return other(format!("keys of kind '{}' (kty) are not built: RSA, EC and OKP are", quoted(kind)));
            }
        };
        let key = PublicKey { kid: text("kid")?.map(str::to_owned), only, material };
        match only {
            Some(algorithm) if !key.material.can(algorithm) => {
                Err(Unfit::Wrong(format!("its 'alg' {} is not for a key of its kind", algorithm.name())))
            }
            _ => Ok(key),
        }
    }

    fn is_for(&self, algorithm: Algorithm) -> bool {
        self.material.can(algorithm) && self.only.is_none_or(|only| only == algorithm)
    }
}

impl Material {
    fn kind(&self) -> &'static str {
        match self {
            Material::Rsa { .. } => "RSA",
            Material::P256(_) | Material::P384(_) => "EC",
            Material::Ed25519(_) => "OKP",
        }
    }

    fn can(&self, algorithm: Algorithm) -> bool {
        match self {
            Material::Rsa { .. } => algorithm.rsa().is_some(),
            Material::P256(_) => algorithm == Algorithm::Es256,
            Material::P384(_) => algorithm == Algorithm::Es384,
            Material::Ed25519(_) => algorithm == Algorithm::EdDsa,
        }
    }

    fn has_signed(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let by = |how: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(how, key).verify(message, signature).is_ok()
        };
        match self {
            Material::Rsa { n, e } => {
                let verifies = |how| RsaPublicKeyComponents { n, e }.verify(how, message, signature).is_ok();
                algorithm.rsa().is_some_and(verifies)
            }
            Material::P256(key) => by(&ECDSA_P256_SHA256_FIXED, key),
            Material::P384(key) => by(&ECDSA_P384_SHA384_FIXED, key),
            Material::Ed25519(key) => by(&ED25519, key),
        }
    }
}

fn bytes(fields: &Map<String, Value>, name: &str, length: Option<usize>) -> Result<Vec<u8>, Unfit> {
    let text = fields.get(name).and_then(Value::as_str);
    let text = text.ok_or_else(|| Unfit::Wrong(format!("it has no '{name}', or that is no text")))?;
    let bytes = URL_SAFE_NO_PAD.decode(text);
    let bytes = bytes.map_err(|_| Unfit::Wrong(format!("its '{name}' is not base64url without padding")))?;
    match length {
        Some(length) if bytes.len() != length => {
            Err(Unfit::Wrong(format!("its '{name}' has {} bytes, not {length}", bytes.len())))
        }
        _ => Ok(bytes),
    }
}

fn point(fields: &Map<String, Value>, length: usize) -> Result<Vec<u8>, Unfit> {
    let (x, y) = (bytes(fields, "x", Some(length))?, bytes(fields, "y", Some(length))?);
    Ok([vec![UNCOMPRESSED], x, y].concat())
}

/// A modulus and an exponent that some signature could be right by.
fn rsa(fields: &Map<String, Value>) -> Result<Material, Unfit> {
    let number = |name: &str| {
        let bytes = bytes(fields, name, None)?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Ok(bytes[zeros..].to_vec())
    };
    let (n, e) = (number("n")?, number("e")?);
    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    let (least, most) = (RSA_BITS.start(), RSA_BITS.end());
    if !RSA_BITS.contains(&bits) {
        return Err(Unfit::Wrong(format!("its modulus 'n' has {bits} bits, not {least} to {most}")));
    }
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    if !is_odd(&n) || !is_odd(&e) || e == [1] || e.len() > 4 {
        return Err(Unfit::Wrong("its 'n' and 'e' are no public key of RSA".to_owned()));
    }
    Ok(Material::Rsa { n, e })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set() -> Value {
        serde_json::from_str(include_str!("../testdata/jwt/keys.json")).unwrap()
    }

    #[test]
    fn keys_for_something_else_are_passed_over_and_said() {
        let (keys, passed) = KeySet::parse(&set().to_string()).unwrap();
        assert_eq!(keys.count(), 5);
        let names: Vec<&str> = keys.algorithms().map(Algorithm::name).collect();
        assert_eq!(names, ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]);
        assert_eq!(
            passed,
            [
                "key 6 is passed over: curve 'P-521' is not built: P-256, P-384 and Ed25519 are",
                "key 7 is passed over: it is for 'enc' (use)"
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let with = |at: usize, name: &str, value: Value| {
            let mut set = set();
            set["keys"][at][name] = value;
            set.to_string()
        };
        for (text, why) in [
            (String::new(), "it has no keys"),
            (r#"{"keys": []}"#.into(), "it has no keys"),
            ("-----BEGIN PUBLIC KEY-----".into(), "it is PEM"),
            ("{\n\"keys\": x}".into(), "it is no JSON at line 2 column 9"),
            ("[]".into(), "it is not as"),
            (r#"{"kty": "RSA"}"#.into(), "it is not as"),
            (r#"{"keys": {}}"#.into(), "it is not as"),
            (r#"{"keys": [1]}"#.into(), "key 1: it is no object"),
            (r#"{"keys": [{}]}"#.into(), "key 1: it has no 'kty'"),
            (r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#.into(), "key 1: it is a secret that both sides share"),
            (r#"{"keys": [{"kty": "EC"}]}"#.into(), "key 1: it has no 'crv'"),
            (r#"{"keys": [{"kty": "AKP"}]}"#.into(), "none of its keys is one that tokens are verified by: key 1"),
            (with(0, "d", json!("AQAB")), "key 1: its private part is in it"),
            (with(0, "n", json!("AQAB")), "key 1: its modulus 'n' has 17 bits, not 2048 to 8192"),
            (with(0, "e", json!("AQ")), "key 1: its 'n' and 'e' are no public key"),
            (with(0, "e", json!(65537)), "key 1: it has no 'e', or that is no text"),
            (with(0, "alg", json!("ES256")), "key 1: its 'alg' ES256 is not for a key of its kind"),
            (with(0, "kid", json!("pss")), "key 2: an earlier key of its kind has the same 'kid'"),
            (with(2, "x", json!("a+b=")), "key 3: its 'x' is not base64url"),
            (with(2, "y", json!("AQAB")), "key 3: its 'y' has 3 bytes, not 32"),
            (with(4, "x", json!("AQAB")), "key 5: its 'x' has 3 bytes, not 32"),
            (with(1, "key_ops", json!("verify")), "key 2: its 'key_ops' is no list"),
            (json!({ "keys": vec![set()["keys"][4].clone(); 101] }).to_string(), "it has more than 100 keys"),
        ] {
            let said = KeySet::parse(&text).unwrap_err().to_string();
            assert!(said.contains(why), "{text}: {said}");
            assert!(!said.contains("AQAB") && !said.contains("c2VjcmV0"), "{said}");
        }
    }
}
