//! `meseta brake`: pauses allocation, or lets no new framework in, until it is released.

use std::process::ExitCode;

use api::flags::{Flag, Kind, Values};
use api::time::to_the_second;
use serde_json::{Value, json};

use crate::error::Error;
use crate::http::{self, Request};
use crate::ids::{self, text};
use crate::{say, table};

pub(crate) const FLAGS: &[Flag] = &[
    Flag::new("master", Kind::Text, "HOST:PORT of a master, or of several with commas; any will do.")
        .default("127.0.0.1:5050"),
    Flag::new("why", Kind::Text, "The reason, for whoever asks; needed to pause."),
    Flag::new("json", Kind::Bool, "Print what the master answered, as one JSON object.").default("false"),
];

pub(crate) const ABOUT: &str = "\
Pauses allocation, or lets no new framework in, until it is released. Every brake is in the log, with its reason.

  meseta brake list
  meseta brake pause all --why=...              nobody is offered anything
  meseta brake pause role NAME --why=...        nothing is offered for the role and those below it
  meseta brake pause framework ID --why=...     the framework is offered nothing
  meseta brake pause new-frameworks --why=...   only frameworks that are known may subscribe
  meseta brake release all | role NAME | framework ID | new-frameworks

What is offered already stays offered, and what runs goes on.";

pub(crate) async fn run(words: &[String], flags: Values) -> Result<ExitCode, Error> {
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (action, mut what) = match words[..] {
        [] | ["list"] => {
            let answer = http::get_json(&masters, "/brakes").await?;
            say(&if flags.bool("json") { line(&answer) } else { shown(&answer) });
            return Ok(ExitCode::SUCCESS);
        }
        [action @ ("pause" | "release"), "all"] => (action, json!({})),
        [action @ ("pause" | "release"), "role", role] => (action, json!({ "role": role })),
        [action @ ("pause" | "release"), "framework", id] => (action, json!({ "framework_id": id })),
        [action @ ("pause" | "release"), "new-frameworks"] => (action, json!({ "new_frameworks": true })),
        _ => {
            return Err(Error::Usage(format!(
                "brake {}: say list, or pause or release with all, role NAME, framework ID or new-frameworks (meseta help \
                 brake tells more)",
                words.join(" ")
            )));
        }
    };
    let why = flags.text("why").unwrap_or_default();
    if action == "pause" && why.trim().is_empty() {
        return Err(Error::Usage("brake pause needs a reason: --why=TEXT".into()));
    }
    if let Some(id) = what["framework_id"].as_str() {
        what["framework_id"] = json!(framework(&masters, id).await?);
    }
    what["why"] = json!(why);
    let call = match action {
        "pause" => json!({ "type": "PAUSE", "pause": what }),
        _ => json!({ "type": "RESUME", "resume": what }),
    };
    http::send(&masters, &Request::post("/brakes", &call)).await?.text().await?;
    Ok(ExitCode::SUCCESS)
}

/// The framework that people call `id`: whole, or without its cluster.
async fn framework(masters: &[String], id: &str) -> Result<String, Error> {
    let answer = http::get_json(masters, "/master/frameworks").await?;
    let all = answer["frameworks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let known = all.iter().map(|framework| text(&framework["id"])).find(|known| ids::is(id, known));
    Ok(known.unwrap_or(id).to_owned())
}

fn line(answer: &Value) -> String {
    format!("{}\n", api::terminal::json(&answer.to_string()))
}

fn shown(answer: &Value) -> String {
    let brakes = answer["brakes"].as_array().map(Vec::as_slice).unwrap_or_default();
    if brakes.is_empty() {
        return "Nothing is paused.\n".into();
    }
    let row = |brake: &Value| {
        let of = brake.get("role").or(brake.get("framework_id")).map_or("", text);
        vec![
            text(&brake["what"]).to_owned(),
            of.to_owned(),
            brake["since_ms"].as_u64().map(to_the_second).unwrap_or_default(),
            text(&brake["by"]).to_owned(),
            text(&brake["why"]).to_owned(),
        ]
    };
    table::render(&["PAUSED", "OF", "SINCE", "BY", "WHY"], &brakes.iter().map(row).collect::<Vec<_>>())
}
