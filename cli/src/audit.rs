//! `meseta audit`: who did what, from the log of the cluster, and who was refused what, as masters and agents noted it.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::flags::{Flag, Kind, Values};
use api::time::to_the_second;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::error::Error;
use crate::http::{self, Request};
use crate::ids::text;
use crate::sandbox::encoded;
use crate::{say, table};

pub(crate) const FLAGS: &[Flag] = &[
    Flag::new("master", Kind::Text, "HOST:PORT of a master, or of several with commas; any will do.")
        .default("127.0.0.1:5050"),
    Flag::new("of", Kind::Text, "Only what this principal did, all of it, and what it was refused."),
    Flag::new("since", Kind::Duration, "So far back, as 90mins or 7days.").default("1days"),
    Flag::new("refused", Kind::Bool, "Only what was refused.").default("false"),
    Flag::new("all", Kind::Bool, "Also what frameworks, agents and masters do all the time.").default("false"),
    Flag::new("agents", Kind::Bool, "Also what agents refused: each of them is asked.").default("false"),
    Flag::new("limit", Kind::Int, "At most so many lines, the newest.").default("1000"),
    Flag::new("json", Kind::Bool, "One JSON object a line.").default("false"),
];

pub(crate) const ABOUT: &str = "\
Who did what when, from where: calls of operators and frameworks that changed something, as the log of the cluster has
them, and what was refused, as each master noted it (with --agents: and each agent). With --acls it takes who may
ACCESS_MESOS_LOG. What was done is told in full by meseta-log cat --from=INDEX --to=INDEX, offline by
meseta-log cat --principal=NAME.

  meseta audit [--of=PRINCIPAL] [--since=1days] [--refused] [--agents]";

/// An agent that is well answers at once.
const AGENT: Duration = Duration::from_secs(5);
/// Agents that are asked at once.
const AGENTS_AT_ONCE: usize = 16;

pub(crate) async fn run(flags: Values) -> Result<ExitCode, Error> {
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let limit = flags.int("limit").and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    let limit = limit.ok_or_else(|| Error::Usage("audit: --limit is a number of lines".into()))?;
    let since = SystemTime::now() - flags.duration("since").unwrap_or_default();
    let since_ms = since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let mut wish = format!("since={since_ms}");
    if let Some(principal) = flags.text("of") {
        wish += &format!("&principal={}", encoded(principal));
    }
    let answer =
        first(&masters, &format!("{wish}&refused={}&all={}", flags.bool("refused"), flags.bool("all"))).await?;
    let mut lines: Vec<Value> = Vec::new();
    for silent in list(&answer["silent"]) {
        eprintln!("meseta: {} does not tell what it refused: {}", text(&silent["master"]), text(&silent["why"]));
    }
    let mut not_noted = answer["not_noted"].as_u64().unwrap_or(0);
    lines.extend(list(&answer["refused"]).iter().cloned());
    let mut page = answer;
    loop {
        lines.extend(list(&page["done"]).iter().cloned());
        let Some(next) = page["next"].as_u64() else { break };
        page = first(&masters, &format!("{wish}&all={}&from={next}", flags.bool("all"))).await?;
        if lines.len() > limit * 2 {
            newest(&mut lines, limit);
        }
    }
    if flags.bool("agents") {
        let (told, left) = of_agents(&masters, &wish).await?;
        lines.extend(told);
        not_noted += left;
    }
    newest(&mut lines, limit);
    if flags.bool("json") {
        lines.iter().for_each(|line| say(&format!("{}\n", api::terminal::json(&line.to_string()))));
    } else {
        say(&shown(&lines));
    }
    if not_noted > 0 {
        eprintln!("meseta: {not_noted} refusals were not noted: there were too many at once");
    }
    Ok(ExitCode::SUCCESS)
}

async fn first(masters: &[String], query: &str) -> Result<Value, Error> {
    http::get_json(masters, &format!("/master/audit?{query}")).await
}

fn newest(lines: &mut Vec<Value>, limit: usize) {
    lines.sort_by_key(|line| line["at_ms"].as_u64());
    lines.drain(..lines.len().saturating_sub(limit));
}

/// What each agent refused, and how many refusals were not noted. Those that do not answer are named.
async fn of_agents(masters: &[String], wish: &str) -> Result<(Vec<Value>, u64), Error> {
    let slaves = http::get_json(masters, "/master/slaves").await?;
    let address = |slave: &Value| text(&slave["pid"]).rsplit('@').next().unwrap_or_default().to_owned();
    let mut waiting: Vec<String> = list(&slaves["slaves"]).iter().map(address).collect();
    let (mut asked, mut all, mut not_noted) = (JoinSet::new(), Vec::new(), 0);
    loop {
        while asked.len() < AGENTS_AT_ONCE
            && let Some(address) = waiting.pop()
        {
            let request = Request::get(format!("/audit?{wish}"));
            asked.spawn(async move {
                let answer = async {
                    http::json(http::ask(&address, &request, AGENT).await?).await.map_err(|it| it.to_string())
                };
                let told: Result<Value, String> = answer.await;
                (address, told)
            });
        }
        match asked.join_next().await {
            None => return Ok((all, not_noted)),
            Some(Ok((address, Ok(told)))) => {
                not_noted += told["not_noted"].as_u64().unwrap_or(0);
                all.extend(list(&told["refused"]).iter().cloned().map(|mut line| {
                    line["agent"] = json!(address);
                    line
                }));
            }
            Some(Ok((address, Err(why)))) => {
                eprintln!("meseta: {address} does not tell what it refused: {}", api::terminal::plain(&why));
            }
            Some(Err(_)) => {}
        }
    }
}

fn shown(lines: &[Value]) -> String {
    if lines.is_empty() {
        return "Nothing was done or refused.\n".into();
    }
    let row = |line: &Value| {
        let who = match (line["principal"].as_str(), line["claimed"].as_str()) {
            (Some(principal), _) => principal.to_owned(),
            (None, Some(claimed)) => format!("{claimed}?"),
            (None, None) => "-".to_owned(),
        };
        let (what, result) = if line["why"].is_null() { done(line) } else { refused(line) };
        vec![line["at_ms"].as_u64().map(to_the_second).unwrap_or_default(), who, peer(line), what, result]
    };
    table::render(&["WHEN", "WHO", "FROM", "WHAT", "RESULT"], &lines.iter().map(row).collect::<Vec<_>>())
}

fn peer(line: &Value) -> String {
    line["peer"].as_str().unwrap_or("-").to_owned()
}

fn done(line: &Value) -> (String, String) {
    let events = line["events"].as_object().into_iter().flatten().map(|(name, count)| match count.as_u64() {
        Some(1) => name.clone(),
        _ => format!("{name} x{count}"),
    });
    let events = events.collect::<Vec<_>>().join(", ");
    let joined: Vec<&str> = list(&line["joined"]).iter().map(text).collect();
    let joined = if joined.is_empty() { String::new() } else { format!(": {}", joined.join(", ")) };
    (text(&line["call"]).to_owned(), format!("{events} at index {}{joined}", line["index"]))
}

fn refused(line: &Value) -> (String, String) {
    let call = line["call"].as_str().map(str::to_owned);
    let what = call.unwrap_or_else(|| format!("{} {}", text(&line["method"]), text(&line["path"])));
    let status = line["status"].as_u64().map_or_else(String::new, |status| format!(" {status}"));
    let object = line["object"].as_str().map_or_else(String::new, |object| format!(" '{object}'"));
    let action = line["action"].as_str().map_or_else(String::new, |action| format!(" {action}{object}"));
    let by = line["agent"].as_str().map_or_else(String::new, |agent| format!(" by agent {agent}"));
    let more = line["left_out"].as_u64().map_or_else(String::new, |count| format!(" (and {count} more before)"));
    (what, format!("refused{status}{by}{action}: {}{more}", text(&line["why"])))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_stands_beside_what_was_refused() {
        let mut lines = vec![
            json!({"at_ms": 2000, "status": 401, "peer": "10.0.0.9:1", "claimed": "root\u{1b}", "method": "GET", "path": "/state",
                "why": "no", "left_out": 3}),
            json!({"at_ms": 1000, "index": 7, "call": "UPDATE_QUOTA", "principal": "ops", "peer": "10.0.0.1:2",
                "events": {"quota-updated": 2}}),
            json!({"at_ms": 3000, "call": "UPDATE_QUOTA", "principal": "web", "peer": "10.0.0.2:3",
                "action": "UPDATE_QUOTA_WITH_CONFIG", "object": "db", "why": "update_quotas[1] refuses it"}),
        ];
        newest(&mut lines, 3);
        let shown = shown(&lines);
        let rows: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1][1..], ["ops", "10.0.0.1:2", "UPDATE_QUOTA", "quota-updated", "x2", "at", "index", "7"]);
        assert_eq!(rows[2][1..5], ["root\\x1b?", "10.0.0.9:1", "GET", "/state"]);
        assert!(shown.contains("refused 401: no (and 3 more before)"), "{shown}");
        assert!(shown.contains("refused UPDATE_QUOTA_WITH_CONFIG 'db': update_quotas[1] refuses it"), "{shown}");
        newest(&mut lines, 1);
        assert_eq!(lines[0]["at_ms"], 3000);
    }
}
