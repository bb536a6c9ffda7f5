//! `/help`: what a daemon answers, by the names that Mesos's help has for its parts.

use crate::{Query, Response, StatusCode, bytes, json, text};
use serde_json::json;

/// An endpoint, told to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topic {
    /// The part of the daemon: `master`, `metrics`.
    pub process: &'static str,
    /// Its path within that part: `/state`.
    pub name: &'static str,
    /// What it answers.
    pub text: &'static str,
}

/// Of what every daemon has.
const SHARED: &[Topic] = &[
    topic("files", "/browse", "The files of a folder: path."),
    topic("files", "/debug", "Which virtual paths there are, and where they lead."),
    topic("files", "/download", "A file as it is: path."),
    topic("files", "/read", "A part of a file: path, offset, length."),
    topic("help", "/", "These pages; format=json for programs."),
    topic("logging", "/toggle", "The level of the log, or another for a while: level (1 to 3), duration."),
    topic("metrics", "/prometheus", "Everything that is counted and measured, as Prometheus reads it."),
    topic("metrics", "/snapshot", "Everything that is counted and measured: timeout."),
    topic("profiler", "/start", "Begins a profile of the processor's time, with MESETA_ENABLE_PROFILER=1."),
    topic("profiler", "/stop", "Ends the profile and tells it, as pprof reads it."),
    topic("system", "/stats.json", "Load, processors and memory of the machine."),
    topic("version", "/", "What was built, and when."),
];

const fn topic(process: &'static str, name: &'static str, text: &'static str) -> Topic {
    Topic { process, name, text }
}

/// Answers `/help/...`; `rest` is what follows `/help`.
pub fn help(topics: &[Topic], rest: &[String], query: &Query) -> Response {
    let mut topics: Vec<&Topic> = SHARED.iter().chain(topics).collect();
    topics.sort_by_key(|topic| (topic.process, topic.name));
    let none = |name: &str| text(StatusCode::BAD_REQUEST, &format!("No help available for '/{name}'.\n"));
    let Some((process, name)) = rest.split_first() else {
        return if query.get("format") == Some("json") { index(&topics) } else { page("Help", &topics) };
    };
    topics.retain(|topic| topic.process == process);
    if topics.is_empty() {
        return none(process);
    }
    if !name.is_empty() {
        let name = name.join("/");
        topics.retain(|topic| topic.name.trim_start_matches('/') == name);
        if topics.is_empty() {
            return none(&format!("{process}/{name}"));
        }
    }
    page(topics[0].process, &topics)
}

fn index(topics: &[&Topic]) -> Response {
    let processes = topics.chunk_by(|one, other| one.process == other.process).map(|of_process| {
        let endpoints: Vec<_> =
            of_process.iter().map(|topic| json!({ "name": topic.name, "text": topic.text })).collect();
        json!({ "id": of_process[0].process, "endpoints": endpoints })
    });
    json(&json!({ "processes": processes.collect::<Vec<_>>() }))
}

fn page(title: &str, topics: &[&Topic]) -> Response {
    let row = |topic: &&Topic| {
        let Topic { process, name, text } = topic;
        format!("<dt><a href=\"/help/{process}{name}\"><code>/{process}{name}</code></a></dt><dd>{text}</dd>\n")
    };
    let rows: String = topics.iter().map(row).collect();
    let html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
         <body><h1>{title}</h1>\n<dl>\n{rows}</dl>\n</body></html>\n"
    );
    bytes(StatusCode::OK, "text/html", html)
}

/// `/__processes__`: the parts that the help has; nothing waits in them.
pub fn processes(topics: &[Topic]) -> Response {
    let mut parts: Vec<&str> = SHARED.iter().chain(topics).map(|topic| topic.process).collect();
    parts.sort_unstable();
    parts.dedup();
    json(&parts.into_iter().map(|id| json!({ "events": [], "id": id })).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(path: &str, query: &str) -> (StatusCode, String) {
        let rest: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let topics = [topic("master", "/state", "Everything."), topic("master", "/api/v1", "Calls.")];
        let response = help(&topics, &rest, &Query::parse(query));
        let kind = response.headers()[crate::header::CONTENT_TYPE].to_str().unwrap().to_owned();
        (response.status(), kind)
    }

    #[test]
    fn pages_are_there_for_what_there_is() {
        for path in ["", "master", "master/state", "master/api/v1", "metrics/snapshot"] {
            assert_eq!(ask(path, ""), (StatusCode::OK, "text/html".to_owned()), "{path}");
        }
        assert_eq!(ask("", "format=json"), (StatusCode::OK, "application/json".to_owned()));
        assert_eq!(ask("master/state", "format=json").1, "text/html");
        assert_eq!(ask("nosuch", "").0, StatusCode::BAD_REQUEST);
        assert_eq!(ask("master/nosuch", "").0, StatusCode::BAD_REQUEST);
    }
}
