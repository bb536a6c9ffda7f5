//! `meseta explain role NAME`: why a role is not offered what it is not offered, now.

use std::process::ExitCode;

use api::flags::{Flag, Kind, Values};
use serde_json::Value;

use crate::error::Error;
use crate::http;
use crate::ids::{Short, text};
use crate::sandbox::encoded;
use crate::{say, table};

pub(crate) const FLAGS: &[Flag] = &[
    Flag::new("master", Kind::Text, "HOST:PORT of a master, or of several with commas; any will do.")
        .default("127.0.0.1:5050"),
    Flag::new("json", Kind::Bool, "Print what the master answered, as one JSON object.").default("false"),
    Flag::new("full", Kind::Bool, "Ids in full, instead of the cluster's once and the rest of each.").default("false"),
];

pub(crate) const ABOUT: &str = "\
Why a role is not offered what it is not offered, now: of each of its frameworks and each agent the first reason that
the allocator has. What it was offered when, and what became of it, is told by meseta-log explain.

  meseta explain role NAME";

pub(crate) async fn run(words: &[String], flags: Values) -> Result<ExitCode, Error> {
    let role = match words {
        [what, role] if what == "role" => role,
        _ => {
            return Err(Error::Usage(
                "explain: say role NAME (meseta-log explain tells the stories of the rest)".into(),
            ));
        }
    };
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let answer = http::get_json(&masters, &format!("/explain?role={}", encoded(role))).await?;
    if flags.bool("json") {
        say(&format!("{}\n", api::terminal::json(&answer.to_string())));
    } else {
        say(&shown(&answer, flags.bool("full")));
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(answer: &Value, full: bool) -> String {
    let role = text(&answer["role"]);
    if answer["known"] == false {
        return format!("No framework is in role {role}.\n");
    }
    let (next, reasons) = (list(&answer["next"]), list(&answer["reasons"]));
    let short = Short::of(next.iter().chain(reasons).map(|one| text(&one["framework_id"])), full);
    let row = |one: &Value, why: String| {
        vec![
            short.id(text(&one["framework_id"])),
            text(&one["role"]).to_owned(),
            one["agent_id"].as_str().map_or_else(|| "all".to_owned(), |id| short.id(id)),
            text(&one["hostname"]).to_owned(),
            why,
        ]
    };
    let offered = next.iter().map(|one| row(one, format!("is next to be offered {}", text(&one["text"]))));
    let left_out = reasons.iter().map(|one| {
        let brake = one["brake"].as_str().map_or_else(String::new, |why| format!(": {why}"));
        row(one, format!("{}{brake}", text(&one["why"])))
    });
    let rows: Vec<Vec<String>> = offered.chain(left_out).collect();
    let table = table::render_with(&["FRAMEWORK", "ROLE", "AGENT", "HOSTNAME", "WHY"], &rows, &short.heading());
    let outstanding = answer["outstanding"].as_u64().unwrap_or_default();
    let plural = if outstanding == 1 { "" } else { "s" };
    format!("Role {role} has {outstanding} unanswered offer{plural}.\n{table}")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}
