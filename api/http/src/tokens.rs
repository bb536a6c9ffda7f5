//! Which bearer tokens are believed, as flags of masters and agents say it.

use std::path::PathBuf;
use std::sync::Arc;

use api::flags::{Flag, Kind, Values};
use auth::{Issuer, Key, KeySet, Tokens};

use crate::admission::file;

/// The flags of tokens of others, the same on masters and agents. Those of Mesos are in their own tables.
pub const FLAGS: &[Flag] = &[
    Flag::new(
        "jwt_key_set",
        Kind::Path,
        "A file of the public keys of whoever signs bearer tokens (JSON Web Key Set), beside --jwt_secret_key: RS256 to RS512, PS256 to \
         PS512, ES256, ES384 and EdDSA. Taken wherever secrets are; read again on SIGHUP.",
    ),
    Flag::new(
        "jwt_issuer",
        Kind::Text,
        "What the claim `iss` of those tokens must be; without it that does not matter.",
    ),
    Flag::new(
        "jwt_audience",
        Kind::Text,
        "What the claim `aud` of those tokens must name; without it, tokens that have one are for somebody else.",
    ),
    Flag::new("jwt_principal_claim", Kind::Text, "The claim of those tokens that names the principal (sub)."),
];

/// Where what is believed comes from.
#[derive(Clone, Debug, Default)]
pub struct TokenSources {
    /// The file of the key that HS256 tokens are signed with.
    pub key: Option<PathBuf>,
    /// The file of the keys of somebody else.
    pub key_set: Option<PathBuf>,
    issuer: Option<String>,
    audience: Option<String>,
    principal_claim: Option<String>,
}

impl TokenSources {
    /// As flags say it.
    ///
    /// # Errors
    /// One sentence: what would narrow who is let in must not be passed over.
    pub fn of(values: &Values) -> Result<TokenSources, String> {
        let sources = TokenSources {
            key: values.path("jwt_secret_key"),
            key_set: values.path("jwt_key_set"),
            issuer: values.text("jwt_issuer").map(str::to_owned),
            audience: values.text("jwt_audience").map(str::to_owned),
            principal_claim: values.text("jwt_principal_claim").map(str::to_owned),
        };
        for (flag, value) in [
            ("jwt_issuer", &sources.issuer),
            ("jwt_audience", &sources.audience),
            ("jwt_principal_claim", &sources.principal_claim),
        ] {
            match value.as_deref() {
                None => {}
                Some("") => return Err(format!("--{flag} is empty")),
                Some(_) if sources.key_set.is_none() => {
                    return Err(format!("--{flag} is about tokens of --jwt_key_set, which is not given"));
                }
                Some(_) => {}
            }
        }
        Ok(sources)
    }

    /// Whether no token is believed.
    pub fn is_empty(&self) -> bool {
        self.key.is_none() && self.key_set.is_none()
    }

    pub(crate) fn read(&self, warnings: &mut Vec<String>) -> Result<Tokens, String> {
        Ok(Tokens { key: self.key(warnings)?, issuer: self.issuer(warnings)?.map(Arc::new) })
    }

    pub(crate) fn key(&self, warnings: &mut Vec<String>) -> Result<Option<Key>, String> {
        let Some(path) = &self.key else { return Ok(None) };
        let place = format!("--jwt_secret_key={}", path.display());
        let (text, mode) = file("jwt_secret_key", path)?;
        if mode & 0o007 != 0 {
            warnings.push(format!("{place}: everybody on this machine can read it; chmod 600 closes it to others"));
        }
        Key::parse(&text).map(Some).map_err(|why| format!("{place}: {why}"))
    }

    fn issuer(&self, warnings: &mut Vec<String>) -> Result<Option<Issuer>, String> {
        let Some(path) = &self.key_set else { return Ok(None) };
        let place = format!("--jwt_key_set={}", path.display());
        let (text, mode) = file("jwt_key_set", path)?;
        let (keys, passed) = KeySet::parse(&text).map_err(|why| format!("{place}: {why}"))?;
        if mode & 0o022 != 0 {
            warnings.push(format!("{place}: others can write it, and so add keys of their own; chmod 644 ends that"));
        }
        warnings.extend(passed.iter().map(|why| format!("{place}: {why}")));
        Ok(Some(Issuer {
            keys,
            name: self.issuer.clone(),
            audience: self.audience.clone(),
            principal_claim: self.principal_claim.clone().unwrap_or_else(|| "sub".to_owned()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Result<TokenSources, String> {
        let words = words.split_whitespace().map(str::to_owned);
        let key = Flag::new("jwt_secret_key", Kind::Path, "As both daemons have it.");
        let flags = [FLAGS, &[key]].concat();
        let values = api::flags::parse(&flags, words, |_| None, |_| Ok(String::new()));
        TokenSources::of(&values.map_err(|error| error.to_string())?)
    }

    #[test]
    fn what_narrows_is_refused_where_it_would_not() {
        for words in ["--jwt_issuer=i", "--jwt_audience=a", "--jwt_principal_claim=email"] {
            assert!(read(words).unwrap_err().contains("--jwt_key_set, which is not given"), "{words}");
            assert!(read(&format!("{words} --jwt_key_set=/k")).is_ok(), "{words}");
        }
        assert_eq!(read("--jwt_key_set=/k --jwt_audience=").unwrap_err(), "--jwt_audience is empty");
        assert!(read("").unwrap().is_empty() && !read("--jwt_key_set=/k").unwrap().is_empty());
    }

    #[test]
    fn files_are_judged_with_their_place() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let sources = read(&format!("--jwt_key_set={}", path.display())).unwrap();
        let wrong = sources.read(&mut Vec::new()).unwrap_err();
        assert!(wrong.contains("/keys: cannot be read: No such file"), "{wrong}");
        std::fs::write(&path, "{\"keys\": [{\"kty\": \"oct\"}]}").unwrap();
        let wrong = sources.read(&mut Vec::new()).unwrap_err();
        assert!(wrong.starts_with("--jwt_key_set=/") && wrong.contains("/keys: key 1: it is a secret"), "{wrong}");
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let ed = format!(r#"{{"kty": "OKP", "crv": "Ed25519", "x": "{x}"}}"#);
        std::fs::write(&path, format!(r#"{{"keys": [{ed}, {{"kty": "AKP"}}]}}"#)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let mut warnings = Vec::new();
        assert_eq!(sources.read(&mut warnings).unwrap().issuer.unwrap().keys.count(), 1);
        assert!(warnings[0].contains("others can write it") && warnings[1].contains("key 2 is passed over"));
    }
}
