//! `meseta dry-run`: what an operator's call would do.

use std::process::ExitCode;

use api::flags::{Flag, Kind, Values};
use serde_json::Value;

use crate::error::Error;
use crate::http::{self, Request};
use crate::ids::text;
use crate::say;

pub(crate) const FLAGS: &[Flag] = &[
    Flag::new("master", Kind::Text, "HOST:PORT of a master, or of several with commas; any will do.")
        .default("127.0.0.1:5050"),
    Flag::new("call", Kind::Content, "The call as JSON, or a file of it. Required."),
    Flag::new("json", Kind::Bool, "Print what the master answered, as one JSON object.").default("false"),
];

pub(crate) const ABOUT: &str = "\
What an operator's call would do, as of an index: the events that it would write, or why it would be refused. Nothing
changes.

  meseta dry-run --call='{\"type\":\"TEARDOWN\",\"teardown\":{\"framework_id\":{\"value\":\"...\"}}}'

Exit code 1 if the call would be refused.";

pub(crate) async fn run(flags: Values) -> Result<ExitCode, Error> {
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let call = flags.text("call").ok_or_else(|| Error::Usage("dry-run needs --call".into()))?;
    let call: Value =
        serde_json::from_str(call).map_err(|error| Error::Usage(format!("--call is no JSON: {error}")))?;
    let answer = http::json(http::send(&masters, &Request::post("/api/v1?dry_run=true", &call)).await?).await?;
    let is_refused = !answer["refusal"].is_null();
    say(&if flags.bool("json") { format!("{}\n", api::terminal::json(&answer.to_string())) } else { shown(&answer) });
    Ok(if is_refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn shown(answer: &Value) -> String {
    let call = text(&answer["dry_run"]);
    let mut shown = match answer["refusal"].as_object() {
        Some(refusal) => {
            format!(
                "{call} would be refused at index {}: {} {}.\n",
                answer["index"],
                refusal["status"],
                text(&refusal["message"])
            )
        }
        None => format!("{call} would do this at index {}:\n", answer["index"]),
    };
    let events = answer["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    for event in events {
        shown += &format!("  {}\n", api::terminal::plain(text(event)));
    }
    if events.is_empty() && answer["refusal"].is_null() {
        shown += "  nothing: it is so already\n";
    }
    if answer["goes_on"] == true {
        shown += "  and goes on in further records\n";
    }
    shown
}
