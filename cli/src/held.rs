//! `meseta holders` and `meseta preemption`: who holds what without using it, and what would have to go for a guarantee.

use std::process::ExitCode;

use api::flags::{Flag, Kind, Values};
use api::time::to_the_second;
use serde_json::Value;

use crate::error::Error;
use crate::http;
use crate::ids::{Short, text};
use crate::sandbox::encoded;
use crate::{say, table};

const MASTER: Flag = Flag::new("master", Kind::Text, "HOST:PORT of a master, or of several with commas; any will do.")
    .default("127.0.0.1:5050");
const JSON: Flag =
    Flag::new("json", Kind::Bool, "Print what the master answered, as one JSON object.").default("false");
const FULL: Flag =
    Flag::new("full", Kind::Bool, "Ids in full, instead of the cluster's once and the rest of each.").default("false");

pub(crate) const HOLDERS_FLAGS: &[Flag] = &[MASTER, JSON, FULL];
pub(crate) const PREEMPTION_FLAGS: &[Flag] = &[MASTER, JSON];

pub(crate) const HOLDERS_ABOUT: &str = "\
Who holds what without using it, and since when: offers that their frameworks have not answered, reservations and
volumes that no task uses, executors without tasks.";

pub(crate) const PREEMPTION_ABOUT: &str = "\
What would have to go so that a role gets what is guaranteed to it: what is free comes first, then offers to others,
then tasks of others, the youngest first. Nothing is done.

  meseta preemption ROLE";

pub(crate) async fn holders(flags: Values) -> Result<ExitCode, Error> {
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let answer = http::get_json(&masters, "/holders").await?;
    say(&if flags.bool("json") { line(&answer) } else { holders_shown(&answer, flags.bool("full")) });
    Ok(ExitCode::SUCCESS)
}

fn holders_shown(answer: &Value, full: bool) -> String {
    let all = list(&answer["holders"]);
    if all.is_empty() {
        return "Nothing is held without being used.\n".into();
    }
    let short = Short::of(all.iter().map(|holder| text(&holder["agent_id"])), full);
    let row = |holder: &Value| {
        vec![
            text(&holder["what"]).to_owned(),
            short.id(text(&holder["id"])),
            short.id(text(&holder["framework_id"])),
            text(&holder["role"]).to_owned(),
            short.id(text(&holder["agent_id"])),
            text(&holder["hostname"]).to_owned(),
            holder["since_ms"].as_u64().map_or_else(|| "-".to_owned(), to_the_second),
            text(&holder["text"]).to_owned(),
        ]
    };
    let heading = ["WHAT", "ID", "FRAMEWORK", "ROLE", "AGENT", "HOSTNAME", "SINCE", "RESOURCES"];
    table::render_with(&heading, &all.iter().map(row).collect::<Vec<_>>(), &short.heading())
}

pub(crate) async fn preemption(words: &[String], flags: Values) -> Result<ExitCode, Error> {
    let [role] = words else { return Err(Error::Usage("preemption: say for which role".into())) };
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let answer = http::get_json(&masters, &format!("/preemption?role={}", encoded(role))).await?;
    say(&if flags.bool("json") { line(&answer) } else { preemption_shown(&answer) });
    Ok(ExitCode::SUCCESS)
}

fn preemption_shown(answer: &Value) -> String {
    let role = text(&answer["role"]);
    let amount = |name: &str| amounts(&answer[name]);
    let mut shown = format!("Role {role}: {} guaranteed, {} held.\n", amount("guarantee"), amount("consumed"));
    if answer["lacking"].as_object().is_none_or(serde_json::Map::is_empty) {
        return shown + "It lacks nothing.\n";
    }
    shown += &format!("It lacks {}; {} of that is free.\n", amount("lacking"), amount("free"));
    let (offers, tasks) = (list(&answer["offers"]), list(&answer["tasks"]));
    let row = |what: &str, one: &Value, id: &str| {
        let field = |name: &str| text(&one[name]).to_owned();
        vec![
            what.to_owned(),
            field(id),
            field("framework_id"),
            field("role"),
            field("agent_id"),
            field("text"),
            field("why"),
        ]
    };
    let offers = offers.iter().map(|offer| row("take back", offer, "id"));
    let rows: Vec<Vec<String>> = offers.chain(tasks.iter().map(|task| row("end", task, "task_id"))).collect();
    if !rows.is_empty() {
        shown += &table::render(&["DO", "WHAT", "FRAMEWORK", "ROLE", "AGENT", "RESOURCES", "WHY"], &rows);
    }
    if answer["still_lacking"].as_object().is_some_and(|lacking| !lacking.is_empty()) {
        shown += &format!("Even then it lacks {}.\n", amount("still_lacking"));
    }
    shown
}

/// `cpus:2; mem:10`
fn amounts(value: &Value) -> String {
    let all: Vec<String> =
        value.as_object().into_iter().flatten().map(|(name, amount)| format!("{name}:{amount}")).collect();
    if all.is_empty() { "nothing".into() } else { all.join("; ") }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn line(answer: &Value) -> String {
    format!("{}\n", api::terminal::json(&answer.to_string()))
}
