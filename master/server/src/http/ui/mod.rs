//! `/ui/`: pages for people, to which browsers are sent from `/`, made here from what the visitor may see. They need no script; with it they follow the
//! cluster. Every link is relative, so that they work behind a proxy under any path, and nothing is loaded from elsewhere.

mod agents;
mod frameworks;
mod overview;
mod roles;
mod tasks;
mod words;

use super::legacy;
use super::operator::Operators;
use super::render::{as_of, shown};
use crate::context::{Context, Reading};
use api_http::{Query, Request, Response, StatusCode, Visitor, header};
use auth::Approver;
use event_log::host;
use http::HeaderValue;
use master_core::State;
use maud::{DOCTYPE, Markup, html};
use std::sync::Arc;

/// Nothing is loaded, run or asked but what this master serves, and nobody frames it.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Pages, by the first word of their path, as the menu has them.
const MENU: [(&str, &str); 8] = [
    ("", "Cluster"),
    ("agents", "Agents"),
    ("frameworks", "Frameworks"),
    ("tasks", "Tasks"),
    ("roles", "Roles"),
    ("offers", "Offers and holders"),
    ("maintenance", "Maintenance"),
    ("masters", "Masters"),
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
    let (context, approver) = (operators.context.clone(), visitor.approver.clone());
    let (query, up, state) = (Query::of(request), up(request.uri().path(), rest.len()), reading.state.clone());
    let (is_stale, index, hears) = (reading.staleness.is_some(), reading.index, visitor.principal.is_none());
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
        };
        page.made(&rest)
    });
    match made.await {
        Ok((status, markup)) => whole(&reading, status, markup),
        Err(_) => api_http::text(StatusCode::INTERNAL_SERVER_ERROR, "The page could not be made"),
    }
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
    let mut response = api_http::bytes(status, "text/html; charset=utf-8", markup.into_string());
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    as_of(reading, guarded(response))
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
    fn made(&self, path: &[String]) -> (StatusCode, Markup) {
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        let made = match words[..] {
            [] => Some(overview::cluster(self)),
            ["agents"] => Some(agents::list(self)),
            ["agents", id] => agents::one(self, id),
            ["frameworks"] => Some(frameworks::list(self)),
            ["frameworks", id] => frameworks::one(self, id),
            ["tasks"] => Some(tasks::list(self)),
            ["tasks", framework, id] => tasks::one(self, framework, id),
            ["roles"] => Some(roles::list(self)),
            // A role's path goes on as the role does.
            ["roles", ..] => roles::one(self, &path[1..].join("/")),
            ["offers"] => Some(roles::offers(self)),
            ["maintenance"] => Some(overview::maintenance(self)),
            ["masters"] => Some(overview::masters(self)),
            _ => None,
        };
        let place = words.first().copied().unwrap_or_default();
        match made {
            Some((title, content)) => (StatusCode::OK, self.frame(place, &title, content)),
            None => {
                let content = html! { p { "There is no such page, or what it was about is no longer known." } };
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
                    script src={ (self.up) "live.js" } data-index=(self.index) data-api=[self.hears.then(|| format!("{}../api/v1", self.up))] defer {}
                }
                body {
                    a class="skip" href="#content" { "Skip to content" }
                    header {
                        nav aria-label="Pages" {
                            ul {
                                @for (path, name) in MENU {
                                    li {
                                        a href=(self.link(path)) aria-current=[(path == place).then_some("page")] { (name) }
                                    }
                                }
                            }
                        }
                    }
                    main id="content" tabindex="-1" {
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

    /// A link to a page: `agents/ID`, its words encoded.
    fn link(&self, path: &str) -> String {
        let link = format!("{}{path}", self.up);
        if link.is_empty() { "./".to_owned() } else { link }
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
