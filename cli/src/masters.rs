//! `meseta masters`: who the masters are, and changing that while they work.

use std::process::ExitCode;

use api::flags::{Flag, Kind, Values};
use serde_json::{Value, json};

use crate::error::Error;
use crate::http::{self, Request};
use crate::say;
use crate::table;

pub(crate) const FLAGS: &[Flag] = &[
    Flag::new("master", Kind::Text, "HOST:PORT of a master, or of several with commas; any will do.")
        .default("127.0.0.1:5050"),
    Flag::new("json", Kind::Bool, "Print what the master answered, as one JSON object.").default("false"),
];

pub(crate) const ABOUT: &str = "\
Who the masters are, and changing that while they work.

  meseta masters list
  meseta masters add HOST:PORT            a master that was started with --join on an empty disk
  meseta masters remove HOST:PORT         running or dead
  meseta masters replace OLD HOST:PORT    a dead master by one that was started with --join on an empty disk
  meseta masters transfer [HOST:PORT]     lets another master lead

A master may also be named by its id, as `list` shows it.";

/// The words that are no flags, and the flags.
pub(crate) fn split(words: Vec<String>) -> (Vec<String>, Vec<String>) {
    words.into_iter().partition(|word| !word.starts_with('-'))
}

pub(crate) async fn run(words: &[String], flags: Values) -> Result<ExitCode, Error> {
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let call = match words[..] {
        [] | ["list"] => json!({"action": "list"}),
        ["add", address] | ["replace", _, address] if !is_address(address) => {
            return Err(Error::Usage(format!("masters {}: {address} is no HOST:PORT", words.join(" "))));
        }
        ["add", address] => json!({"action": "add", "address": address}),
        ["remove", who] => json!({"action": "remove", "address": who}),
        ["replace", old, address] => json!({"action": "replace", "old": old, "address": address}),
        ["transfer"] => json!({"action": "transfer"}),
        ["transfer", to] => json!({"action": "transfer", "address": to}),
        _ => {
            return Err(Error::Usage(format!(
                "masters {}: say list, add HOST:PORT, remove HOST:PORT, replace OLD HOST:PORT or transfer [HOST:PORT] (meseta \
                 masters --help tells more)",
                words.join(" ")
            )));
        }
    };
    let request = Request { path: "/meseta/masters".into(), body: Some(call.to_string()), stream_id: None };
    let patience = if matches!(words[..], [] | ["list"]) { http::ANSWER } else { http::LONG };
    let answer = http::send_within(&masters, &request, patience).await?;
    let address = answer.address.clone();
    let text = answer.text().await?;
    let answer: Value = serde_json::from_str(&text)
        .map_err(|error| Error::Failed(format!("{address} did not answer with JSON: {error}")))?;
    say(&if flags.bool("json") { format!("{answer}\n") } else { shown(&answer) });
    Ok(ExitCode::SUCCESS)
}

fn is_address(text: &str) -> bool {
    let parts = text.rsplit_once(':');
    parts.is_some_and(|(host, port)| !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok())
}

fn shown(answer: &Value) -> String {
    if answer["masters"].as_array().is_some_and(Vec::is_empty) {
        return "this master waits to be added to a cluster: ask one that is in it\n".to_owned();
    }
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let rows: Vec<Vec<String>> = answer["masters"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|master| {
            let alive = if master["alive"] == true { "yes" } else { "no" };
            let index = master["index"].as_u64().map_or("-".to_owned(), |index| index.to_string());
            vec![
                text(&master["address"]),
                text(&master["role"]),
                alive.into(),
                text(&master["version"]),
                master["reads"].as_u64().map_or("-".to_owned(), |level| level.to_string()),
                index,
                text(&master["id"]),
            ]
        })
        .collect();
    let mut shown = table::render(&["ADDRESS", "ROLE", "ALIVE", "VERSION", "READS", "INDEX", "ID"], &rows);
    if answer["leader"].is_null() {
        shown += "nobody leads\n";
    }
    if let Some(level) = answer["feature_level"].as_u64() {
        let why = answer["feature_level_waits_for"].as_str().map(|why| format!(", not raised: {why}"));
        shown += &format!("feature level {level}{}\n", why.unwrap_or_default());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_as_a_table() {
        let masters = json!([
            {"address": "a:1", "id": "0f", "role": "leader", "alive": true, "version": "0.1.0", "reads": 2, "index": 7},
            {"address": "b:1", "id": "0e", "role": "learner", "alive": false, "version": null, "index": null},
        ]);
        let why = "b:1 does not answer";
        let answer = json!({"masters": masters, "leader": "a:1", "feature_level": 1, "feature_level_waits_for": why});
        assert_eq!(
            shown(&answer),
            "ADDRESS  ROLE     ALIVE  VERSION  READS  INDEX  ID\na:1      leader   yes    0.1.0    2      7      0f\n\
             b:1      learner  no     -        -      -      0e\n\
             feature level 1, not raised: b:1 does not answer\n"
        );
    }
}
