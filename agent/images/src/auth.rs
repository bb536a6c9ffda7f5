//! Who may pull: what Docker's configuration says about registries, and what a registry asks for.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::reference::HUB_HOST;

/// Users and passwords of registries, by the host.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials(BTreeMap<String, String>);

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[derive(Deserialize)]
struct One {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
}

impl Credentials {
    /// Reads `{"auths": {"https://HOST": {"auth": BASE64}}}`, or what is in there alone, as older files have it.
    ///
    /// # Errors
    /// A sentence, which never repeats a secret.
    pub fn parse(text: &str) -> Result<Credentials, String> {
        let wrong = |why: &str| format!("it is no configuration of Docker: {why}");
        let all: serde_json::Value = serde_json::from_str(text).map_err(|_| wrong("it is no JSON"))?;
        let all = all.as_object().ok_or_else(|| wrong("it is no JSON object"))?;
        let is_old = !all.contains_key("auths") && all.values().any(|one| one.get("auth").is_some());
        let asks_programs = ["credsStore", "credHelpers"].into_iter().find(|name| all.contains_key(*name));
        let auths = if is_old { Some(all) } else { all.get("auths").and_then(|auths| auths.as_object()) };
        let mut found = BTreeMap::new();
        for (place, one) in auths.into_iter().flatten() {
            let host = host(place);
            let one =
                One::deserialize(one).map_err(|_| wrong(&format!("what it says about '{host}' is not readable")))?;
            if !one.identitytoken.is_empty() {
                return Err(format!("a registry's identity token is not used by this release, and '{host}' has one"));
            }
            let auth = match (one.auth.is_empty(), one.username.is_empty()) {
                (false, _) => one.auth,
                (true, false) => STANDARD.encode(format!("{}:{}", one.username, one.password)),
                (true, true) => match asks_programs {
                    None => continue,
                    Some(name) => {
                        return Err(format!(
                            "programs are not asked for passwords by this release, and '{host}' needs one by its {name}"
                        ));
                    }
                },
            };
            let is_pair = STANDARD.decode(&auth).is_ok_and(|pair| pair.contains(&b':'));
            if !is_pair {
                return Err(wrong(&format!("'auth' of '{host}' is not a user, a colon and a password in base64")));
            }
            found.insert(host, auth);
        }
        Ok(Credentials(found))
    }

    /// The value of `Authorization` for a registry, if there is one.
    pub(crate) fn basic(&self, registry: &str) -> Option<String> {
        self.0.get(&host(registry)).map(|auth| format!("Basic {auth}"))
    }

    /// Tells two of them apart, without a secret.
    pub(crate) fn key(&self) -> String {
        let all: String = self.0.iter().map(|(host, auth)| format!("{host}\0{auth}\0")).collect();
        crate::digest::Digest::of(all.as_bytes()).hex()
    }
}

/// The host of a registry, however its place is written.
fn host(place: &str) -> String {
    let rest = place.split_once("://").map_or(place, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or_default() {
        "docker.io" | "index.docker.io" => HUB_HOST.to_owned(),
        host => host.to_owned(),
    }
}

/// How a registry wants to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// With a user and a password.
    Basic,
    /// With a token, which somebody else gives out.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// Reads one of `WWW-Authenticate`.
    pub(crate) fn parse(text: &str) -> Option<Challenge> {
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut named = parameters(rest);
        let realm = named.remove("realm")?;
        Some(Challenge::Bearer { realm, service: named.remove("service"), scope: named.remove("scope") })
    }

    /// Where the token is asked for, if it is one, for pulling from a repository.
    pub(crate) fn address(&self, repository: &str) -> Option<String> {
        let Challenge::Bearer { realm, service, scope } = self else { return None };
        let scope = scope.clone().unwrap_or_else(|| format!("repository:{repository}:pull"));
        let query = [("service", service.as_deref()), ("scope", Some(scope.as_str()))];
        let query: Vec<String> =
            query.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", escaped(value?)))).collect();
        let separator = if realm.contains('?') { '&' } else { '?' };
        Some(format!("{realm}{separator}{}", query.join("&")))
    }
}

/// `name="value", name=value`
fn parameters(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text.trim_start_matches([',', ' ']);
    while let Some((name, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => {
                let mut value = String::new();
                let mut chars = quoted.char_indices();
                let mut end = quoted.len();
                while let Some((at, c)) = chars.next() {
                    match c {
                        '"' => {
                            end = at + 1;
                            break;
                        }
                        '\\' => value.extend(chars.next().map(|(_, c)| c)),
                        c => value.push(c),
                    }
                }
                (value, &quoted[end..])
            }
            None => {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        found.insert(name.trim().to_ascii_lowercase(), value);
        rest = after.trim_start_matches([',', ' ']);
    }
    found
}

fn escaped(text: &str) -> String {
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b',');
    text.bytes().map(|byte| if is_plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_wrote_is_read() {
        let pair = STANDARD.encode("me:secret");
        let file = format!(
            r#"{{"auths": {{"https://index.docker.io/v1/": {{"auth": "{pair}"}}, "h:5000": {{"username": "me", "password": "secret"}}, "none": {{}}}}, "HttpHeaders": {{}}}}"#
        );
        let read = Credentials::parse(&file).unwrap();
        for registry in ["docker.io", "https://registry-1.docker.io", "h:5000"] {
            assert_eq!(read.basic(registry), Some(format!("Basic {pair}")), "{registry}");
        }
        assert_eq!((read.basic("none"), read.basic("h")), (None, None));
        assert!(!format!("{read:?}").contains(&pair));
        let old = Credentials::parse(&format!(r#"{{"https://h/v1": {{"auth": "{pair}", "email": "e"}}}}"#)).unwrap();
        assert!(old.basic("h").is_some() && old.key() != read.key());
        assert_eq!(Credentials::parse("{}"), Ok(Credentials::default()));
        for (text, why) in [
            ("secret", "it is no JSON"),
            (r#"{"auths": {"h": {"auth": "secret"}}}"#, "in base64"),
            (r#"{"auths": {"h": {"identitytoken": "secret"}}}"#, "identity token"),
            (r#"{"auths": {"h": {}}, "credsStore": "secretservice"}"#, "by its credsStore"),
            (r#"{"auths": {"h": 7}}"#, "is not readable"),
        ] {
            let error = Credentials::parse(text).unwrap_err();
            assert!(error.contains(why) && !error.contains("\"secret\""), "{error}");
        }
    }

    #[test]
    fn what_registries_ask_for() {
        let asked = r#"Bearer realm="https://a/token",service="r.e,g",scope="repository:x/y:pull,push""#;
        let address = Challenge::parse(asked).unwrap().address("z").unwrap();
        assert_eq!(address, "https://a/token?service=r.e,g&scope=repository:x/y:pull,push");
        let short = Challenge::parse("bearer realm=http://a/t?u=1").unwrap();
        assert_eq!(short.address("z").unwrap(), "http://a/t?u=1&scope=repository:z:pull");
        assert_eq!(Challenge::parse("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!((Challenge::parse("Digest x=1"), Challenge::parse("Bearer")), (None, None));
        assert_eq!(parameters(r#"a="b\"c", d=e, f"#).get("a").unwrap(), "b\"c");
    }
}
