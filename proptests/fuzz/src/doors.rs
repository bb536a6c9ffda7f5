//! What is read before anybody is let in: files of credentials, keys and access control lists, and the header that says who asks.

use auth::{
    Acls, Action, Authenticated, Authenticators, Authorizer, Credentials, Issuer, Key, KeySet, Realm, Subject, Tokens,
};
use std::sync::Arc;

const KEY: &str = "a key of some length";
const KEY_SET: &str = include_str!("../../../auth/testdata/jwt/keys.json");
const TOKENS: &str = include_str!("../../../auth/testdata/jwt/tokens.tsv");

/// Inputs to begin with.
pub(crate) fn credentials_seeds() -> Vec<Vec<u8>> {
    let texts = [r#"{"credentials":[{"principal":"a","secret":"b"},{"principal":"c","secret":"d"}]}"#, "a b\nc d\n"];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

/// Both forms.
pub(crate) fn credentials(input: &[u8]) -> String {
    match Credentials::parse(&String::from_utf8_lossy(input)) {
        Err(why) => why.to_string(),
        Ok(credentials) => {
            // Whatever is in it, nobody comes in with nothing.
            assert!(!credentials.holds("", "") && !credentials.holds("nobody", ""));
            format!("{credentials:?}")
        }
    }
}

/// Inputs to begin with.
pub(crate) fn acls_seeds() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"permissive":false,"view_roles":[{"principals":{"values":["a"]},"roles":{"values":["b","c/%"]}}]}"#,
        r#"{"run_tasks":[{"principals":{"type":"ANY"},"users":{"type":"NONE"}}],"set_quotas":[]}"#,
        r#"{"get_endpoints":[{"principals":{"type":"NONE"},"paths":{"values":["/containers"]}}]}"#,
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

/// What is read answers, and each answer has a reason that says the same.
pub(crate) fn acls(input: &[u8]) -> String {
    let acls = match Acls::parse(&String::from_utf8_lossy(input)) {
        Err(why) => return why.to_string(),
        Ok(acls) => acls,
    };
    let authorizer = Authorizer::new(acls);
    let mut answers = String::new();
    for principal in [None, Some("a"), Some("b")] {
        let approver = authorizer.approver(Subject::named(principal));
        for action in Action::ALL {
            for object in [None, Some("a"), Some("c/d")] {
                let allowed = approver.approves(*action, object);
                assert_eq!(approver.rule(*action, object).allowed, allowed, "{action} {object:?}");
                answers.push(if allowed { '1' } else { '0' });
            }
        }
    }
    answers
}

/// Inputs to begin with.
pub(crate) fn key_set_seeds() -> Vec<Vec<u8>> {
    let one = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"a","use":"sig"}]}"#;
    [KEY_SET, one].map(|text| text.as_bytes().to_vec()).into()
}

/// Keys that are read verify nothing that nobody has signed.
pub(crate) fn key_set(input: &[u8]) -> String {
    let (keys, passed) = match KeySet::parse(&String::from_utf8_lossy(input)) {
        Err(why) => return why.to_string(),
        Ok(read) => read,
    };
    let said = format!("{} {passed:?}", keys.count());
    let issuer = Issuer { keys, name: None, audience: None, principal_claim: "sub".to_owned() };
    let tokens = Tokens { key: None, issuer: Some(Arc::new(issuer)) };
    for unsigned in ["eyJhbGciOiJub25lIn0.eyJzdWIiOiJvcHMifQ.", "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJvcHMifQ.AA"] {
        assert!(tokens.read(unsigned, 0).is_err());
    }
    said
}

/// Inputs to begin with.
pub(crate) fn header_seeds() -> Vec<Vec<u8>> {
    let key = Key::parse(KEY).expect("a key");
    let token = format!("Bearer {}", key.mint(&[("cid", "c")].into()));
    let named = format!("Bearer {}", key.mint(&[("sub", "web")].into()));
    let mut seeds = vec!["Basic YTpi".to_owned(), "Basic YTpjOmQ=".to_owned(), token, named];
    let of_issuer = TOKENS.lines().filter_map(|line| line.split_once('\t'));
    seeds.extend(of_issuer.map(|(_, token)| format!("Bearer {token}")));
    seeds.into_iter().map(String::into_bytes).collect()
}

/// Who it is, or the challenge, which is fit for a header.
pub(crate) fn header(input: &[u8]) -> String {
    let credentials = Arc::new(Credentials::parse("a b").expect("credentials"));
    let key = Key::parse(KEY).expect("a key");
    let realm = Realm::AgentReadwrite;
    let (keys, _) = KeySet::parse(KEY_SET).expect("keys");
    let issuer = Issuer { keys, name: None, audience: None, principal_claim: "sub".to_owned() };
    let tokens = Tokens { key: Some(key), issuer: Some(Arc::new(issuer)) };
    let door = Authenticators::default().basic(realm, credentials).bearer(realm, tokens);
    match door.authenticate(realm, Some(input), 1000) {
        Ok(Authenticated::As(principal)) => format!("{principal:?}"),
        Ok(Authenticated::NotAsked) => unreachable!("it asks"),
        Err(no) => {
            assert!(no.challenge.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{:?}", no.challenge);
            no.challenge
        }
    }
}
