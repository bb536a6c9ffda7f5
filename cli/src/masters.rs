//! `meseta masters`: who the masters are, and changing that while they work.

mod list;

use std::process::ExitCode;

use api::flags::{Flag, Kind, Values};
use serde_json::{Value, json};

use crate::error::Error;
use crate::http::{self, Request};
use crate::say;

pub(crate) const FLAGS: &[Flag] = &[
    Flag::new("master", Kind::Text, "HOST:PORT of a master, or of several with commas; any will do.")
        .default("127.0.0.1:5050"),
    Flag::new("json", Kind::Bool, "Print what the masters answered, as one JSON object.").default("false"),
    http::SECRET,
];

pub(crate) const ABOUT: &str = "\
Who the masters are, and changing that while they work.

  meseta masters list
  meseta masters add HOST:PORT            a master that was started with --join on an empty disk
  meseta masters remove HOST:PORT         running or dead
  meseta masters replace OLD HOST:PORT    a dead master by one that was started with --join on an empty disk
  meseta masters transfer [HOST:PORT]     lets another master lead

A master may also be named by its id, as `list` shows it. `list` asks every master itself, so it is true without a
quorum too; exit code 1 when too few answer, or nobody leads.";

const ACTIONS: [&str; 5] = ["list", "add", "remove", "replace", "transfer"];

pub(crate) async fn run(words: &[String], flags: Values) -> Result<ExitCode, Error> {
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let call = match words[..] {
        [] | ["list"] => return list::run(&masters, flags.bool("json")).await,
        ["add", address] | ["replace", _, address] if !is_address(address) => {
            return Err(Error::Usage(format!("masters {}: {address} is no HOST:PORT", words.join(" "))));
        }
        ["add", address] => json!({"action": "add", "address": address}),
        ["remove", who] => json!({"action": "remove", "address": who}),
        ["replace", old, address] => json!({"action": "replace", "old": old, "address": address}),
        ["transfer"] => json!({"action": "transfer"}),
        ["transfer", to] => json!({"action": "transfer", "address": to}),
        [action, ..] if !ACTIONS.contains(&action) => {
            let hint = api::nearest::did_you_mean(ACTIONS, action).replace('"', "'");
            return Err(Error::Usage(format!("masters: there is no '{action}'{hint} ({})", ACTIONS.join(", "))));
        }
        _ => {
            return Err(Error::Usage(format!(
                "masters {}: say list, add HOST:PORT, remove HOST:PORT, replace OLD HOST:PORT or transfer [HOST:PORT] (meseta \
                 help masters tells more)",
                words.join(" ")
            )));
        }
    };
    let answer = http::send_within(&masters, &Request::post("/meseta/masters", &call), http::LONG).await?;
    let answer = http::json(answer).await?;
    say(&if flags.bool("json") { json_line(&answer) } else { list::shown(&answer) });
    Ok(ExitCode::SUCCESS)
}

fn json_line(answer: &Value) -> String {
    format!("{}\n", api::terminal::json(&answer.to_string()))
}

fn is_address(text: &str) -> bool {
    let parts = text.rsplit_once(':');
    parts.is_some_and(|(host, port)| !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok())
}
