//! Files of tasks. They are on agents; this master asks the agent for them in its visitor's name, and the agent decides.

use super::words::{encoded, facts, table, time};
use super::{Made, Page, Refused, agents, tasks};
use crate::http::operator::Operators;
use crate::peers::PeerError;
use api::internal::{FileListed, FilePart, FilesAnswer, FilesAsked};
use api_http::{Query, READ_BYTES_MAX, Response, StatusCode, Visitor, header};
use bytes::Bytes;
use event_log::host;
use http::HeaderValue;
use master_core::{State, view};
use maud::{Markup, html};
use prost::Message as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// How long an agent may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// So much of a file is on one page, in bytes.
const PIECE_BYTES: u64 = 32 << 10;
/// So many files of a folder.
const FILES_MAX: usize = 1000;
/// Agents asked at once; downloads are among them.
pub(super) const READS_MAX: usize = 32;
/// How long a reader waits for its turn.
const PATIENCE: Duration = Duration::from_secs(4);

/// What of whose sandbox is asked for.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// host:port of the agent.
    address: String,
    framework_id: String,
    /// That of a command has the id of its task.
    executor_id: String,
    /// Which of its runs; None: the latest.
    container_id: Option<String>,
    /// Below it; empty for all.
    path: String,
}

/// What the page of a sandbox is made of.
pub(super) struct Found {
    place: Place,
    answer: FilesAnswer,
}

/// What is asked for, if whoever asks sees whose it is.
pub(super) fn place(seen: &State, framework: &str, id: &str, query: &Query) -> Option<Result<Place, Refused>> {
    let task = tasks::find(seen, framework, id)?;
    let Some(agent) = seen.agents.get(task.agent) else {
        return Some(Err((StatusCode::NOT_FOUND, "Its agent is gone, and its files with it.".to_owned())));
    };
    // The outermost container, as the newest status that names one has it, is that of the executor's run.
    let container = task.statuses.iter().rev().find_map(|status| {
        let status = api::v1::TaskStatus::decode(status.clone()).ok()?;
        let mut id = status.container_status?.container_id?;
        while let Some(parent) = id.parent.take() {
            id = *parent;
        }
        Some(id.value)
    });
    Some(Ok(Place {
        address: agent.address.to_string(),
        framework_id: view::framework_id(seen, task.framework),
        executor_id: task.executor_id.as_ref().unwrap_or(&task.task_id).to_string(),
        container_id: container,
        path: query.get("path").unwrap_or_default().trim_matches('/').to_owned(),
    }))
}

/// Asks the agent.
pub(super) async fn find(
    operators: &Operators,
    visitor: &Visitor,
    place: Place,
    query: &Query,
) -> Result<Found, Refused> {
    let _turn = turn(operators).await?;
    let offset = query.get("offset").and_then(|text| text.parse().ok());
    let answer = ask(operators, visitor.name().map(str::to_owned), &place, offset, PIECE_BYTES).await?;
    Ok(Found { place, answer })
}

async fn turn(operators: &Operators) -> Result<OwnedSemaphorePermit, Refused> {
    let turn = tokio::time::timeout(PATIENCE, operators.pages.reads.clone().acquire_owned()).await;
    let crowded = || (StatusCode::SERVICE_UNAVAILABLE, "Many read files just now: try again in a moment.".to_owned());
    turn.ok().and_then(Result::ok).ok_or_else(crowded)
}

async fn ask(
    operators: &Operators,
    principal: Option<String>,
    place: &Place,
    offset: Option<u64>,
    length: u64,
) -> Result<FilesAnswer, Refused> {
    let Place { address, framework_id, executor_id, container_id, path } = place.clone();
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let asked = FilesAsked { principal, framework_id, executor_id, container_id, path, offset, length };
    let body = Bytes::from(asked.encode_to_vec());
    let peers = operators.context.reader.submitter.peers();
    let (status, body) = peers.post(&address, "/meseta/files", body, TIMEOUT).await.map_err(|error| {
        let why = match error {
            PeerError::Unreachable(_) => {
                "cannot be reached from this master, or does not take its word (--cluster_secret)"
            }
            PeerError::Silent(_) => "does not answer",
            PeerError::Stranger(_) => "does not show that it knows the cluster's secret (--cluster_secret)",
        };
        (StatusCode::BAD_GATEWAY, format!("The agent at {address} {why}."))
    })?;
    let answer = (status == StatusCode::OK).then(|| FilesAnswer::decode(body).ok()).flatten();
    let answer = answer.ok_or_else(|| {
        let why = if status == StatusCode::UNAUTHORIZED {
            "does not take this master's word"
        } else {
            "gives no files to masters"
        };
        (StatusCode::BAD_GATEWAY, format!("The agent at {address} {why}: it answers {status}."))
    })?;
    match answer.refused {
        Some(refused) => {
            let status = u16::try_from(refused.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
            // That it is this agent who asks for a name, no name that the browser knows would help.
            let status = status.filter(|status| *status != StatusCode::UNAUTHORIZED).unwrap_or(StatusCode::FORBIDDEN);
            Err((status, format!("{}.", refused.message.trim_end_matches('.'))))
        }
        None => Ok(answer),
    }
}

/// A part of a file as it is, for whoever follows it: `Meseta-Offset` is where it begins, `Meseta-Size` how large the file is.
pub(super) async fn read(operators: &Operators, visitor: &Visitor, place: Place, query: &Query) -> Response {
    match find(operators, visitor, place, query).await {
        Ok(Found { answer: FilesAnswer { part: Some(part), .. }, .. }) => {
            let mut response = api_http::bytes(StatusCode::OK, "text/plain; charset=utf-8", part.data);
            for (name, value) in [("meseta-offset", part.offset), ("meseta-size", part.size)] {
                response.headers_mut().insert(header::HeaderName::from_static(name), HeaderValue::from(value));
            }
            response
        }
        Ok(_) => api_http::text(StatusCode::BAD_REQUEST, "It is a folder"),
        Err((status, sentence)) => api_http::text(status, &sentence),
    }
}

/// A whole file, to be saved.
pub(super) async fn download(operators: &Arc<Operators>, visitor: &Visitor, place: Place) -> Response {
    let turn = match turn(operators).await {
        Ok(turn) => turn,
        Err((status, sentence)) => return api_http::text(status, &sentence),
    };
    let principal = visitor.name().map(str::to_owned);
    let first = match ask(operators, principal.clone(), &place, Some(0), READ_BYTES_MAX as u64).await {
        Ok(FilesAnswer { part: Some(part), .. }) => part,
        Ok(_) => return api_http::text(StatusCode::BAD_REQUEST, "It is a folder"),
        Err((status, sentence)) => return api_http::text(status, &sentence),
    };
    let FilePart { data, size, .. } = first;
    let (sender, response) = api_http::attachment_of(size, place.path.rsplit('/').next().unwrap_or_default());
    let operators = operators.clone();
    host::spawn(async move {
        let _turn = turn;
        let (mut data, mut offset) = (data, 0);
        loop {
            data.truncate(usize::try_from(size - offset).unwrap_or(usize::MAX));
            offset += data.len() as u64;
            // A file that shrank meanwhile ends the connection: its length was already said.
            if data.is_empty() || sender.send(data).await.is_err() || offset >= size {
                return;
            }
            let next = ask(&operators, principal.clone(), &place, Some(offset), READ_BYTES_MAX as u64).await;
            let Ok(FilesAnswer { part: Some(part), .. }) = next else { return };
            data = part.data;
        }
    });
    response
}

/// The page of a folder or a file.
pub(super) fn show(page: &Page<'_>, (framework, id): (&str, &str), found: &Found) -> Made {
    let Found { place, answer } = found;
    let task = tasks::find(page.seen, framework, id)?;
    let to = |path: &str| page.link(&["tasks", framework, id, "files"], &[("path", path)]);
    let parts: Vec<&str> = place.path.split('/').filter(|part| !part.is_empty()).collect();
    let of_agent = format!(
        "//{}/files/browse?path={}",
        place.address,
        encoded(&format!(
            "/frameworks/{}/executors/{}/runs/latest/{}",
            place.framework_id, place.executor_id, place.path
        ))
    );
    let pairs = [
        ("Task", html! { a href=(page.link(&["tasks", framework, id], &[])) { (id) } }),
        ("Agent", agents::link(page, task.agent)),
        ("At the agent", html! { a href=(of_agent) rel="noreferrer" { "as JSON" } ", if your browser reaches it" }),
    ];
    let content = html! {
        (facts(&pairs))
        nav aria-label="Folders" class="parts" {
            a href=(to("")) aria-current=[parts.is_empty().then_some("page")] { "sandbox" }
            @for (number, part) in parts.iter().enumerate() {
                " / "
                a href=(to(&parts[..=number].join("/"))) aria-current=[(number + 1 == parts.len()).then_some("page")] { (part) }
            }
        }
        @match &answer.part {
            Some(part) => (file(page, (framework, id), place, part)),
            None => (folder(page, place, &answer.entries, &to)),
        }
    };
    Some((format!("Files of task {id}"), content))
}

fn folder(page: &Page<'_>, place: &Place, entries: &[FileListed], to: &dyn Fn(&str) -> String) -> Markup {
    let wanted = |entry: &&FileListed| super::words::is_found(page, &[&entry.name]);
    let rows: Vec<Markup> = entries
        .iter()
        .filter(wanted)
        .take(FILES_MAX)
        .map(|entry| {
            let path =
                if place.path.is_empty() { entry.name.clone() } else { format!("{}/{}", place.path, entry.name) };
            let is_folder = entry.mode.starts_with('d');
            html! { tr {
                th scope="row" { a href=(to(&path)) { (entry.name) @if is_folder { "/" } } }
                td { code { (entry.mode) } }
                td { (entry.user) }
                td { @if !is_folder { (entry.size) } }
                td { (time(u64::try_from(entry.mtime_secs).unwrap_or(0).saturating_mul(1000))) }
            } }
        })
        .collect();
    html! {
        @if entries.len() > FILES_MAX {
            p class="warning" { "The first " (FILES_MAX) " of " (entries.len()) ": search for the others." }
            form method="get" role="search" {
                (super::words::hidden("path", &place.path))
                label for="q" { "Name" }
                input id="q" name="q" type="search" value=(page.query.get("q").unwrap_or_default());
                button { "Find" }
            }
        }
        (table("Files", &["Name", "Mode", "Owner", "Bytes", "Changed"], &rows))
    }
}

fn file(page: &Page<'_>, (framework, id): (&str, &str), place: &Place, part: &FilePart) -> Markup {
    let (offset, size, path) = (part.offset, part.size, place.path.as_str());
    let end = offset + part.data.len() as u64;
    let link = |what: &str, more: &[(&str, &str)]| {
        let mut query = vec![("path", path)];
        query.extend(more);
        page.link(&["tasks", framework, id, what], &query)
    };
    let at = |offset: u64| link("files", &[("offset", &offset.to_string())]);
    html! {
        p { "Bytes " (offset) " to " span id="end" { (end) } " of " span id="size" { (size) } ". "
            a href=(link("download", &[])) { "Download" } }
        nav aria-label="Parts of the file" class="parts" {
            @if offset > 0 { a href=(at(0)) { "Beginning" } " " a rel="prev" href=(at(offset.saturating_sub(PIECE_BYTES))) { "Before" } " " }
            @if end < size { a rel="next" href=(at(end)) { "After" } " " }
            a href=(link("files", &[])) { "End" }
        }
        @if end >= size {
            p { label class="scripted" hidden { input id="follow" type="checkbox" checked; " follow it" } }
        }
        pre id="file" tabindex="0" role="region" aria-label={ "Text of " (path) } data-read=(link("read", &[])) data-end=(end) {
            (String::from_utf8_lossy(&part.data))
        }
    }
}
