//! `meseta join` and `meseta identity`: tokens that agents join by, and whom agents are known as.

use std::process::ExitCode;

use api::flags::{Flag, Kind, Values};
use api::time::to_the_second;
use serde_json::{Value, json};

use crate::error::Error;
use crate::http::{self, Request};
use crate::ids::{self, Short, text};
use crate::{say, table};

pub(crate) const JOIN_FLAGS: &[Flag] = &[
    Flag::new("master", Kind::Text, "HOST:PORT of a master, or of several with commas; any will do.")
        .default("127.0.0.1:5050"),
    Flag::new("for", Kind::Duration, "So long a new token is good, at most 30days.").default("1hrs"),
    Flag::new("uses", Kind::Int, "So many agents may join by it.").default("1"),
    Flag::new("as", Kind::Text, "The principal that they are, for access control lists.").default("agents"),
    Flag::new("agent", Kind::Text, "It is for this agent alone, which comes back by it."),
    Flag::new("note", Kind::Text, "What it is for, for whoever asks."),
    Flag::new("json", Kind::Bool, "Print what the master answered, as one JSON object.").default("false"),
];

pub(crate) const JOIN_ABOUT: &str = "\
Tokens that agents join by, with masters that have --agent_identities. A token is told once, on stdout: write it to the
file that the agent's --join_token names. The cluster keeps its hash alone.

  meseta join mint [--for=1hrs] [--uses=1] [--as=PRINCIPAL] [--note=TEXT]
  meseta join mint --agent=ID       for an agent that was revoked, or that is known already
  meseta join list
  meseta join revoke TOKEN          as J3";

pub(crate) const IDENTITY_FLAGS: &[Flag] = &[
    Flag::new("master", Kind::Text, "HOST:PORT of a master, or of several with commas; any will do.")
        .default("127.0.0.1:5050"),
    Flag::new("json", Kind::Bool, "Print what the master answered, as one JSON object.").default("false"),
];

pub(crate) const IDENTITY_ABOUT: &str = "\
Whom agents are known as, with masters that have --agent_identities: which token they joined by, or which principal they
are bound to.

  meseta identity list
  meseta identity rotate AGENT      the agent makes another one now, and not at half of its life
  meseta identity revoke AGENT      it is let in again by a token for it alone (meseta join mint --agent=AGENT)
  meseta identity release AGENT     it may come as another principal than the one that it came as first";

pub(crate) async fn join(words: &[String], flags: Values) -> Result<ExitCode, Error> {
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [] | ["list"] => {
            let answer = http::get_json(&masters, "/identities").await?;
            say(&if flags.bool("json") { line(&answer) } else { tokens(&answer) });
        }
        ["mint"] => {
            let life = flags.duration("for").unwrap_or_default();
            let mut wanted = json!({
                "principal": flags.text("as").unwrap_or_default(),
                "uses": flags.int("uses").and_then(|uses| u64::try_from(uses).ok()).unwrap_or_default(),
                "life_secs": life.as_secs(),
                "note": flags.text("note").unwrap_or_default(),
            });
            if let Some(id) = flags.text("agent") {
                wanted["agent_id"] = json!(agent(&masters, id).await?);
            }
            let answer = change(&masters, "MINT_JOIN_TOKEN", wanted).await?;
            let answer: Value = serde_json::from_str(&answer)
                .map_err(|_| Error::Failed("the master answered with something else".to_owned()))?;
            if flags.bool("json") {
                say(&line(&answer));
            } else {
                say(&format!("{}\n", text(&answer["join_token"])));
            }
        }
        ["revoke", token] => {
            let number = token.trim_start_matches(['J', 'j']).parse::<u64>();
            let number = number.map_err(|_| Error::Usage(format!("join revoke {token}: tokens are as J3")))?;
            change(&masters, "REVOKE_JOIN_TOKEN", json!({ "token": number })).await?;
        }
        _ => {
            let said = words.join(" ");
            return Err(Error::Usage(format!(
                "join {said}: say mint, list or revoke TOKEN (meseta help join tells more)"
            )));
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn identity(words: &[String], flags: Values) -> Result<ExitCode, Error> {
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (kind, id) = match words[..] {
        [] | ["list"] => {
            let answer = http::get_json(&masters, "/identities").await?;
            say(&if flags.bool("json") { line(&answer) } else { identities(&answer) });
            return Ok(ExitCode::SUCCESS);
        }
        ["rotate", id] => ("ROTATE_IDENTITY", id),
        ["revoke", id] => ("REVOKE_IDENTITY", id),
        ["release", id] => ("RELEASE_AGENT", id),
        _ => {
            let said = words.join(" ");
            return Err(Error::Usage(format!(
                "identity {said}: say list, or rotate, revoke or release with an AGENT (meseta help identity tells more)"
            )));
        }
    };
    let id = agent(&masters, id).await?;
    change(&masters, kind, json!({ "agent_id": id })).await?;
    Ok(ExitCode::SUCCESS)
}

async fn change(masters: &[String], kind: &str, wanted: Value) -> Result<String, Error> {
    let mut call = json!({ "type": kind });
    call[kind.to_ascii_lowercase()] = wanted;
    http::send(masters, &Request::post("/identities", &call)).await?.text().await
}

/// The agent that people call `id`: whole, or without its cluster.
async fn agent(masters: &[String], id: &str) -> Result<String, Error> {
    let answer = http::get_json(masters, "/identities").await?;
    let bound = list(&answer["identities"]).iter().map(|one| text(&one["agent_id"])).find(|known| ids::is(id, known));
    if let Some(known) = bound {
        return Ok(known.to_owned());
    }
    let slaves = http::get_json(masters, "/master/slaves").await?;
    let known = list(&slaves["slaves"]).iter().map(|agent| text(&agent["id"])).find(|known| ids::is(id, known));
    Ok(known.unwrap_or(id).to_owned())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn line(answer: &Value) -> String {
    format!("{}\n", api::terminal::json(&answer.to_string()))
}

fn time(value: &Value) -> String {
    value.as_u64().map(to_the_second).unwrap_or_default()
}

fn tokens(answer: &Value) -> String {
    let all = list(&answer["join_tokens"]);
    if all.is_empty() {
        return "There are no join tokens.\n".into();
    }
    let short = Short::of(all.iter().map(|token| text(&token["agent_id"])), false);
    let row = |token: &Value| {
        vec![
            format!("J{}", token["token"]),
            format!("{} of {}", token["used"], token["uses"]),
            time(&token["until_ms"]),
            text(&token["principal"]).to_owned(),
            short.id(text(&token["agent_id"])),
            text(&token["by"]).to_owned(),
            text(&token["note"]).to_owned(),
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    table::render(&["TOKEN", "USED", "UNTIL", "AS", "AGENT", "BY", "NOTE"], &rows)
}

fn identities(answer: &Value) -> String {
    let all = list(&answer["identities"]);
    if all.is_empty() {
        return "No agent is known as somebody.\n".into();
    }
    let short = Short::of(all.iter().map(|one| text(&one["agent_id"])), false);
    let row = |one: &Value| {
        let (how, until) = match text(&one["is"]) {
            "OWN" => (format!("joined by J{}", one["join_token"]), time(&one["until_ms"])),
            "REVOKED" => ("revoked".to_owned(), String::new()),
            _ => ("bound to its principal".to_owned(), String::new()),
        };
        let registered = if one["registered"] == true { "" } else { " (over)" };
        vec![
            format!("{}{registered}", short.id(text(&one["agent_id"]))),
            text(&one["principal"]).to_owned(),
            how,
            time(&one["since_ms"]),
            until,
        ]
    };
    table::render(&["AGENT", "AS", "HOW", "SINCE", "UNTIL"], &all.iter().map(row).collect::<Vec<_>>())
}
