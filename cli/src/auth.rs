//! `meseta auth`: what somebody may do, and which rule says so; hashes that stand for secrets in files of credentials.

use std::io::Read as _;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use api::flags::{Flag, Kind, Values};
use api::limits::PRINCIPAL_BYTES_MAX;

use crate::error::Error;
use crate::http;
use crate::ids::text;
use crate::sandbox::encoded;
use crate::say;

pub(crate) const ABOUT: &str = "\
What principals may do by --acls, and files of --credentials without secrets in them.

  meseta auth can-i PRINCIPAL ACTION [OBJECT]
                           whether it may, and which rule says so; without an object: to anything of its kind.
                           - is whoever has no principal; an action is RUN_TASK, VIEW_ROLE, ...
  meseta auth token PRINCIPAL --key_file=/PATH [--for=1hrs]
                           a token that whoever has that key as --jwt_secret_key believes, for so long
  meseta auth hash         reads a secret from its input, and writes what may stand for it in --credentials

can-i exits with 0 if it may, and with 1 if not. Each master answers by its own --acls: those of the leader decide what
is changed, so the leader is the one to ask about that.";

pub(crate) const FLAGS: &[Flag] = &[
    Flag::new("master", Kind::Text, "HOST:PORT of a master, or of several with commas; one of them answers.")
        .default("127.0.0.1:5050"),
    Flag::new("key_file", Kind::Path, "token: the file of --jwt_secret_key."),
    Flag::new("for", Kind::Duration, "token: how long it is good.").default("1hrs"),
    Flag::new("json", Kind::Bool, "Print what the master answered, as one JSON object.").default("false"),
];

pub(crate) async fn run(words: &[String], flags: Values) -> Result<ExitCode, Error> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["hash"] => hash(),
        ["token", principal] => token(principal, &flags),
        ["can-i", principal, action] => can_i(principal, action, None, &flags).await,
        ["can-i", principal, action, object] => can_i(principal, action, Some(object), &flags).await,
        _ => Err(Error::Usage(format!(
            "auth {}: say can-i PRINCIPAL ACTION [OBJECT], token PRINCIPAL or hash",
            words.join(" ")
        ))),
    }
}

async fn can_i(principal: &str, action: &str, object: Option<&str>, flags: &Values) -> Result<ExitCode, Error> {
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let mut path = format!("/can-i?action={}", encoded(action));
    if principal != "-" {
        path += &format!("&principal={}", encoded(principal));
    }
    if let Some(object) = object {
        path += &format!("&object={}", encoded(object));
    }
    let answer = http::get_json(&masters, &path).await?;
    let allowed = answer["allowed"].as_bool().unwrap_or_default();
    if flags.bool("json") {
        say(&format!("{answer}\n"));
    } else {
        say(&format!("{}: {}\n", if allowed { "yes" } else { "no" }, text(&answer["why"])));
    }
    Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn token(principal: &str, flags: &Values) -> Result<ExitCode, Error> {
    let Some(path) = flags.path("key_file") else {
        return Err(Error::Usage(
            "auth token: say --key_file=/PATH, the file of the masters' --jwt_secret_key".to_owned(),
        ));
    };
    if principal.is_empty() || principal.len() > PRINCIPAL_BYTES_MAX || principal.chars().any(char::is_control) {
        return Err(Error::Usage(format!("auth token: {principal:?} is no principal")));
    }
    let text = std::fs::read_to_string(&path);
    let text = text.map_err(|error| Error::Failed(format!("cannot read {}: {error}", path.display())))?;
    let key = ::auth::Key::parse(&text).map_err(|why| Error::Failed(format!("{}: {why}", path.display())))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let good = flags.duration("for").unwrap_or_default();
    say(&format!("{}\n", key.mint_until(principal, now.saturating_add(good).as_secs())));
    Ok(ExitCode::SUCCESS)
}

fn hash() -> Result<ExitCode, Error> {
    let mut secret = String::new();
    let read = std::io::stdin().take(64 << 10).read_to_string(&mut secret);
    read.map_err(|error| Error::Failed(format!("cannot read the secret: {error}")))?;
    let secret = secret.lines().next().unwrap_or_default();
    if secret.is_empty() {
        return Err(Error::Usage("auth hash: the secret is the first line of the input, and that is empty".to_owned()));
    }
    say(&format!("{}\n", ::auth::hash(secret, *uuid::Uuid::new_v4().as_bytes())));
    Ok(ExitCode::SUCCESS)
}
