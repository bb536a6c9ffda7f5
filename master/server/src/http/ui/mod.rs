//! `/ui/`: pages for people, to which browsers are sent from `/`, made here from what the visitor may see. They need no script; with it they follow the
//! cluster. With `?at=INDEX` a page shows the cluster as it was; links lead on in the same moment. Every link is relative, so that they work behind a proxy under any path, and nothing is loaded from elsewhere.

mod agents;
mod diff;
mod frameworks;
mod history;
mod overview;
mod roles;
mod sandbox;
mod tasks;
mod then;
mod words;

use super::legacy;
use super::operator::Operators;
use super::render::{as_of, shown};
use crate::context::{Context, Reading};
use api_http::{Query, Reason, Request, Response, StatusCode, Visitor, header};
use auth::{Action, Approver, Sight};
use event_log::host;
use http::HeaderValue;
use master_core::State;
use master_core::view;
use master_story::{Subject, Topic};
use maud::{DOCTYPE, Markup, html};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Nothing is loaded, run or asked but what this master serves, and nobody frames it.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Pages, by the first word of their path, as the menu has them.
const MENU: [(&str, &str); 9] = [
    ("", "Cluster"),
    ("agents", "Agents"),
    ("frameworks", "Frameworks"),
    ("tasks", "Tasks"),
    ("roles", "Roles"),
    ("offers", "Offers and holders"),
    ("maintenance", "Maintenance"),
    ("masters", "Masters"),
    ("history", "History"),
];

/// What a page is made of.
struct Page<'a> {
    context: &'a Context,
    /// What the visitor may see.
    seen: &'a State,
    /// The whole, where a rule needs it.
    whole: &'a State,
    /// What the visitor may.
    approver: &'a Approver,
    query: &'a Query,
    /// Between this page and `/ui/`: `../` so often as the path is deep.
    up: String,
    /// Whether its script may hear the event stream without being asked who it is: that is in another realm than pages are,
    /// and the browser would ask its reader again.
    hears: bool,
    /// Whether it may be out of date.
    is_stale: bool,
    index: u64,
    /// The newest index that this master can show.
    newest: u64,
    /// The moment that it is of, if not now.
    then: Option<Then>,
}

/// A moment of the past.
struct Then {
    index: u64,
    at_ms: u64,
}

/// What pages have beside State.
pub(super) struct Pages {
    moments: then::Moments,
    /// Leave to ask agents for files.
    reads: Arc<Semaphore>,
}

impl Default for Pages {
    fn default() -> Pages {
        Pages { moments: then::Moments::default(), reads: Arc::new(Semaphore::new(sandbox::READS_MAX)) }
    }
}

/// Why something is not shown: how the answer begins, and one sentence.
type Refused = (StatusCode, String);

/// What a page is made of beside State.
enum Beside {
    Nothing,
    Told(history::Told),
    Pair(Box<diff::Pair>),
    Files(sandbox::Found),
    /// It cannot be shown: how the answer begins, and one sentence.
    Absent(StatusCode, String),
}

/// A page's title and content; None if there is no such thing.
type Made = Option<(String, Markup)>;

/// Answers `request`, whose path goes on with `rest` behind `/ui`.
pub(super) async fn answer(
    operators: &Arc<Operators>,
    rest: Vec<String>,
    request: &Request,
    visitor: &Visitor,
) -> Response {
    match rest.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["style.css"] => return file("text/css; charset=utf-8", include_str!("style.css")),
        ["live.js"] => return file("text/javascript; charset=utf-8", include_str!("live.js")),
        _ => {}
    }
    let reader = &operators.context.reader;
    let reading = match reader.read(Query::of(request).get("stale") == Some("true")).await {
        Ok(reading) => reading,
        // While nobody leads people look all the more.
        Err(_) => match reader.read(true).await {
            Ok(reading) => reading,
            Err(_) => return legacy::no_leader(&operators.context),
        },
    };
    let (context, approver, query) = (operators.context.clone(), visitor.approver.clone(), Query::of(request));
    let (up, newest) = (up(request.uri().path(), rest.len()), reading.index);
    let (reading, then, mut beside) = match moment(operators, &query, newest).await {
        Ok(None) => (reading, None, Beside::Nothing),
        Ok(Some((index, state))) => {
            let then = Then { index, at_ms: state.at_ms };
            (Reading { state: Arc::new(state), index, staleness: None }, Some(then), Beside::Nothing)
        }
        Err((status, sentence)) => (reading, None, Beside::Absent(status, sentence)),
    };
    if matches!(beside, Beside::Nothing) {
        beside = look_back(operators, &rest, &query, &reading, &approver).await;
    }
    let words: Vec<&str> = rest.iter().map(String::as_str).collect();
    if let ["tasks", framework, id, what @ ("files" | "read" | "download")] = words[..]
        && matches!(beside, Beside::Nothing)
    {
        let (state, sight, query) = (reading.state.clone(), approver.sight(), query.clone());
        let (framework, id) = (framework.to_owned(), id.to_owned());
        let placing = {
            let query = query.clone();
            host::blocking(move || sandbox::place(&shown(state, sight.as_deref()), &framework, &id, &query))
        };
        match (placing.await.unwrap_or_default(), what) {
            (None, "files") => {}
            (None, _) => return api_http::not_found(),
            (Some(Ok(place)), "read") => return fresh(sandbox::read(operators, visitor, place, &query).await),
            (Some(Ok(place)), "download") => return fresh(sandbox::download(operators, visitor, place).await),
            (Some(Ok(place)), _) => {
                let found = sandbox::find(operators, visitor, place, &query).await;
                beside = found.map_or_else(|(status, why)| Beside::Absent(status, why), Beside::Files);
            }
            (Some(Err((status, why))), _) => beside = Beside::Absent(status, why),
        }
    }
    // What is noted of it is the sentence, not the page.
    let refused = match &beside {
        Beside::Absent(StatusCode::FORBIDDEN, why) => {
            Some(Reason { call: None, action: Action::AccessSandbox, object: None, why: why.clone() })
        }
        _ => None,
    };
    let (state, hears) = (reading.state.clone(), visitor.principal.is_none());
    let (is_stale, index) = (reading.staleness.is_some(), reading.index);
    let made = host::blocking(move || {
        let seen = shown(state.clone(), approver.sight().as_deref());
        let page = Page {
            context: &context,
            seen: &seen,
            whole: &state,
            approver: &approver,
            query: &query,
            up,
            hears,
            is_stale,
            index,
            newest,
            then,
        };
        page.made(&rest, &beside)
    });
    match made.await {
        Ok((status, markup)) => {
            let response = whole(&reading, status, markup);
            match refused {
                Some(reason) => reason.on(response),
                None => response,
            }
        }
        Err(_) => api_http::text(StatusCode::INTERNAL_SERVER_ERROR, "The page could not be made"),
    }
}

/// The moment that the page is asked for, if it is not now.
async fn moment(operators: &Operators, query: &Query, newest: u64) -> Result<Option<(u64, State)>, Refused> {
    let Some(index) = index(query, "at", newest)? else { return Ok(None) };
    let state = operators.pages.moments.at(&operators.context.node, index).await;
    state.map(|(_, state)| Some((index, state))).map_err(absent)
}

/// An index of the log that the query names.
fn index(query: &Query, name: &str, newest: u64) -> Result<Option<u64>, Refused> {
    let Some(text) = query.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    match text.parse() {
        Ok(index) if index <= newest => Ok(Some(index)),
        Ok(_) => {
            let sentence = format!("That is not yet: the log is at index {newest}.");
            Err((StatusCode::NOT_FOUND, sentence))
        }
        Err(_) => {
            let sentence = format!("'{name}' is an index of the log: a number.");
            Err((StatusCode::BAD_REQUEST, sentence))
        }
    }
}

fn absent(why: then::Absent) -> Refused {
    use then::Absent;
    match why {
        Absent::Crowded => {
            (StatusCode::SERVICE_UNAVAILABLE, "Others are looking back just now: try again in a moment.".to_owned())
        }
        Absent::UnderWay { reached, index } => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "That is far from a snapshot: events up to index {reached} of {index} were looked at. Ask again to go on."
            ),
        ),
        Absent::Gone { first } => (
            StatusCode::GONE,
            format!(
                "This master does not have that any more: its log begins at index {first}. Another master may have it."
            ),
        ),
        Absent::Failed(why) => (StatusCode::INTERNAL_SERVER_ERROR, format!("The log cannot be read: {why}")),
    }
}

/// What the pages about the past are made of.
async fn look_back(
    operators: &Operators,
    rest: &[String],
    query: &Query,
    reading: &Reading,
    approver: &Approver,
) -> Beside {
    let words: Vec<&str> = rest.iter().map(String::as_str).collect();
    let found = match words[..] {
        ["history"] => told(operators, Subject::everything(), query, reading, approver).await,
        ["explain", "role", ..] => {
            let role = words[2..].join("/");
            if !approver.approves(Action::ViewRole, Some(&role)) {
                return Beside::Nothing;
            }
            told(operators, Subject { topic: Topic::Role, id: role }, query, reading, approver).await
        }
        ["explain", "task", framework, id] => {
            let subject = Subject { topic: Topic::Task, id: format!("{framework}/{id}") };
            told(operators, subject, query, reading, approver).await
        }
        ["explain", "agent", id] => {
            told(operators, Subject { topic: Topic::Agent, id: id.to_owned() }, query, reading, approver).await
        }
        ["explain", "framework", id] => {
            told(operators, Subject { topic: Topic::Framework, id: id.to_owned() }, query, reading, approver).await
        }
        ["diff"] => pair(operators, query, reading.index, approver.sight()).await,
        _ => Ok(Beside::Nothing),
    };
    found.unwrap_or_else(|(status, sentence)| Beside::Absent(status, sentence))
}

async fn told(
    operators: &Operators,
    subject: Subject,
    query: &Query,
    reading: &Reading,
    approver: &Approver,
) -> Result<Beside, Refused> {
    let to = index(query, "until", reading.index)?.unwrap_or(reading.index);
    let from = match index(query, "from", reading.index)? {
        Some(from) => from,
        None if subject.topic == Topic::Cluster => to.saturating_sub(history::LINE_ENTRIES - 1),
        None => beginning(operators, &subject, &reading.state, to).await?,
    };
    if from > to {
        return Err((StatusCode::BAD_REQUEST, "'from' is after 'until'.".to_owned()));
    }
    let sight = approver.sight();
    // What the log alone knows is for those who may read logs.
    let hears_causes = sight.is_none() && approver.approves(Action::AccessMesosLog, None);
    let asked = history::Asked { subject, from, to, sight, hears_causes };
    history::tell(&operators.pages.moments, &operators.context.node, asked).await.map(Beside::Told).map_err(absent)
}

/// Where the story of something begins: when it came to be, as far as that is known; that of a task is told whole.
async fn beginning(operators: &Operators, subject: &Subject, state: &State, to: u64) -> Result<u64, Refused> {
    let began_ms = match subject.topic {
        Topic::Task => subject.id.split_once('/').and_then(|(framework, id)| {
            let key = view::parse_framework_id(state, framework)?;
            let live = state.tasks.of(key).find(|task| *task.task_id == *id);
            let task = live.or_else(|| state.tasks.completed_of(key).find(|task| *task.task_id == *id))?;
            Some(task.launched_ms)
        }),
        Topic::Agent => {
            let agent = view::parse_agent_id(state, &subject.id).and_then(|key| state.agents.get(key));
            agent.map(|agent| agent.registered_ms)
        }
        Topic::Framework => state.frameworks.by_id(&subject.id).map(|framework| framework.registered_ms),
        _ => None,
    };
    let latest = to.saturating_sub(history::STORY_ENTRIES);
    let Some(began_ms) = began_ms else { return Ok(latest) };
    let node = operators.context.node.clone();
    let turn = operators.pages.moments.turn().await.map_err(absent)?;
    let began = then::blocking(turn, move || then::first_at(&node, to, began_ms)).await.map_err(absent)?;
    Ok(if subject.topic == Topic::Task { began } else { began.max(latest) })
}

async fn pair(operators: &Operators, query: &Query, newest: u64, sight: Option<Arc<Sight>>) -> Result<Beside, Refused> {
    let to = index(query, "to", newest)?.unwrap_or(newest);
    let from = index(query, "from", newest)?.unwrap_or(to.saturating_sub(history::LINE_ENTRIES));
    let at = async |index| {
        let state = operators.pages.moments.at(&operators.context.node, index).await;
        let (state, sight) = (state.map_err(absent)?.1, sight.clone());
        let seen = host::blocking(move || State::clone(&shown(Arc::new(state), sight.as_deref()))).await;
        seen.map_err(|panic| absent(then::Absent::Failed(panic.to_string())))
    };
    let (before, after) = (at(from).await?, at(to).await?);
    Ok(Beside::Pair(Box::new(diff::Pair { from, before, to, after })))
}

/// Where a browser that asks for nothing in particular finds the pages. Everybody else hears from `/` what Mesos answers.
pub(super) fn from_root(request: &Request) -> Option<Response> {
    let accepted = request.headers().get(header::ACCEPT)?.to_str().ok()?;
    let path = request.uri().path();
    if !accepted.contains("text/html") || !["", "/master"].contains(&path.trim_end_matches('/')) {
        return None;
    }
    let mut response = api_http::empty(StatusCode::FOUND);
    let place = HeaderValue::try_from(up(path, 0)).ok()?;
    response.headers_mut().insert(header::LOCATION, place);
    Some(response)
}

fn whole(reading: &Reading, status: StatusCode, markup: Markup) -> Response {
    let response = api_http::bytes(status, "text/html; charset=utf-8", markup.into_string());
    as_of(reading, fresh(response))
}

/// For now, and for whoever asked.
fn fresh(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    guarded(response)
}

fn file(content_type: &'static str, text: &'static str) -> Response {
    let mut response = api_http::bytes(StatusCode::OK, content_type, text);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
    guarded(response)
}

fn guarded(mut response: Response) -> Response {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// From a page to `/ui/`, whatever is before that in the path.
fn up(path: &str, depth: usize) -> String {
    let is_folder = path.ends_with('/');
    match depth {
        0 => match path.trim_end_matches('/').rsplit('/').next() {
            Some("ui") if is_folder => String::new(),
            Some("ui") => "ui/".to_owned(),
            Some(last) if !is_folder => format!("{last}/ui/"),
            _ => "ui/".to_owned(),
        },
        _ => "../".repeat(depth - usize::from(!is_folder)),
    }
}

impl Page<'_> {
    fn made(&self, path: &[String], beside: &Beside) -> (StatusCode, Markup) {
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        let place = match words.first().copied().unwrap_or_default() {
            "explain" | "diff" => "history",
            place => place,
        };
        if let Beside::Absent(status, sentence) = beside {
            let content = html! { p class="warning" role="alert" { (sentence) } };
            return (*status, self.frame(place, "Not shown", content));
        }
        let made = match words[..] {
            [] => Some(overview::cluster(self)),
            ["agents"] => Some(agents::list(self)),
            ["agents", id] => agents::one(self, id),
            ["frameworks"] => Some(frameworks::list(self)),
            ["frameworks", id] => frameworks::one(self, id),
            ["tasks"] => Some(tasks::list(self)),
            ["tasks", framework, id] => tasks::one(self, framework, id),
            ["tasks", framework, id, "files"] => match beside {
                Beside::Files(found) => sandbox::show(self, (framework, id), found),
                _ => None,
            },
            ["roles"] => Some(roles::list(self)),
            // A role's path goes on as the role does.
            ["roles", ..] => roles::one(self, &path[1..].join("/")),
            ["offers"] => Some(roles::offers(self)),
            ["maintenance"] => Some(overview::maintenance(self)),
            ["masters"] => Some(overview::masters(self)),
            ["history"] | ["explain", ..] | ["diff"] => match beside {
                Beside::Told(told) if told.topic == Topic::Cluster => Some(history::line(self, told)),
                Beside::Told(told) => history::story(self, told),
                Beside::Pair(pair) => Some(diff::show(self, pair)),
                _ => None,
            },
            _ => None,
        };
        match made {
            Some((title, content)) => (StatusCode::OK, self.frame(place, &title, content)),
            None => {
                let was = if self.then.is_some() { "was not known then" } else { "is no longer known" };
                let content = html! { p { "There is no such page, or what it is about " (was) "." } };
                (StatusCode::NOT_FOUND, self.frame(place, "Not found", content))
            }
        }
    }

    fn frame(&self, place: &str, title: &str, content: Markup) -> Markup {
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (title) " - Meseta" }
                    link rel="stylesheet" href={ (self.up) "style.css" };
                    // What was does not change.
                    @if self.then.is_none() && place != "history" {
                        script src={ (self.up) "live.js" } data-index=(self.index) data-api=[self.hears.then(|| format!("{}../api/v1", self.up))] defer {}
                    }
                }
                body class=[self.then.is_some().then_some("then")] {
                    a class="skip" href="#content" { "Skip to content" }
                    header {
                        nav aria-label="Pages" {
                            ul {
                                @for (path, name) in MENU {
                                    li {
                                        a href=(self.link(if path.is_empty() { &[] } else { std::slice::from_ref(&path) }, &[])) aria-current=[(path == place).then_some("page")] { (name) }
                                    }
                                }
                            }
                        }
                    }
                    main id="content" tabindex="-1" {
                        (self.past())
                        h1 { (title) }
                        @if self.is_stale {
                            p class="warning" role="alert" {
                                "Nobody confirms that this is the newest: this master answers as of index " (self.index) "."
                            }
                        }
                        @for (brake, pulled) in &self.seen.brakes.pulled {
                            p class="warning" {
                                "Brake: " (words::brake(self.seen, brake)) " since " (words::time(pulled.since_ms))
                                @if !pulled.why.is_empty() { ": " (pulled.why) }
                            }
                        }
                        (content)
                    }
                    footer {
                        p { "As of index " (self.index) " of the log. Times are UTC. " span id="live" role="status" {} }
                    }
                }
            }
        }
    }

    /// Says that this was, and leads to what was before, and to now.
    fn past(&self) -> Markup {
        let Some(Then { index, at_ms }) = self.then else { return html! {} };
        html! {
            p class="past" role="note" {
                strong { "This is the past: " } "the cluster as of index " (index) ", " (words::time(at_ms)) ". "
                @if index > 0 { a href={ "?at=" (index - 1) } { "Before" } " " }
                @if index < self.newest { a href={ "?at=" (index + 1) } { "After" } " " }
                a href=(self.to(&["history"], &[("until", &index.to_string())], None)) { "What happened" } " "
                a href="?" { "Now" }
            }
        }
    }

    /// A link to a page in the same moment: the words of its path, then what it is asked.
    fn link(&self, words: &[&str], query: &[(&str, &str)]) -> String {
        self.to(words, query, self.then.as_ref().map(|then| then.index))
    }

    fn to(&self, words: &[&str], query: &[(&str, &str)], at: Option<u64>) -> String {
        let path: Vec<String> = words.iter().map(|word| words::encoded(word)).collect();
        let mut link = format!("{}{}", self.up, path.join("/"));
        if link.is_empty() {
            "./".clone_into(&mut link);
        }
        let at = at.filter(|_| query.iter().all(|(name, _)| *name != "at")).map(|at| ("at", at.to_string()));
        let pairs = query.iter().map(|(name, value)| (*name, *value));
        let pairs = pairs.chain(at.iter().map(|(name, value)| (*name, value.as_str())));
        for (number, (name, value)) in pairs.enumerate() {
            let mark = if number == 0 { '?' } else { '&' };
            link += &format!("{mark}{name}={}", words::encoded(value));
        }
        link
    }
}

#[cfg(test)]
mod tests {
    use super::up;

    #[test]
    fn every_page_finds_the_others() {
        for (path, depth, expected) in [
            ("/", 0, "ui/"),
            ("/ui", 0, "ui/"),
            ("/ui/", 0, ""),
            ("/master/ui", 0, "ui/"),
            ("/master", 0, "master/ui/"),
            ("/master/", 0, "ui/"),
            ("/ui/agents", 1, ""),
            ("/ui/agents/", 1, "../"),
            ("/ui/agents/S0", 2, "../"),
            ("/master/ui/tasks/F/t", 3, "../../"),
        ] {
            assert_eq!(up(path, depth), expected, "{path}");
        }
    }
}
