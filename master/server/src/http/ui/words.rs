//! What pages have in common.

use super::Page;
use api::resources::{Quantities, Resources};
use master_core::State;
use master_core::state::brakes::Brake;
use master_core::view;
use maud::{Markup, html};
use std::time::{Duration, UNIX_EPOCH};

/// Rows of a table at once.
pub(super) const ROWS: usize = 100;

/// A time in milliseconds since the epoch.
pub(super) fn time(ms: u64) -> Markup {
    let text = UNIX_EPOCH
        .checked_add(Duration::from_millis(ms))
        // What HTTP has no words for is later than anybody asks.
        .filter(|_| ms < 253_402_300_800_000)
        .map(httpdate::fmt_http_date);
    html! { time { (text.unwrap_or_else(|| format!("{ms} ms"))) } }
}

/// How much of what.
pub(super) fn amounts(resources: &Resources) -> Quantities {
    resources.quantities().into_iter().collect()
}

/// What is paused.
pub(super) fn brake(state: &State, brake: &Brake) -> String {
    match brake {
        Brake::Allocation => "nobody is offered anything".to_owned(),
        Brake::Role(role) => format!("role {role} is offered nothing"),
        Brake::Framework(key) => format!("framework {} is offered nothing", view::framework_id(state, *key)),
        Brake::NewFrameworks => "new frameworks are refused".to_owned(),
    }
}

/// One word of a path.
pub(super) fn encoded(word: &str) -> String {
    let mut all = String::with_capacity(word.len());
    for byte in word.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => all.push(char::from(byte)),
            _ => all.push_str(&format!("%{byte:02X}")),
        }
    }
    all
}

/// A state of a task, marked by whether it is well.
pub(super) fn state(name: &str) -> Markup {
    let class = match name {
        "TASK_RUNNING" | "TASK_FINISHED" => "good",
        "TASK_STAGING" | "TASK_STARTING" | "TASK_KILLING" | "TASK_KILLED" => "calm",
        _ => "bad",
    };
    html! { span class=(class) { (name) } }
}

/// A table with its caption; `rows` are `tr`.
pub(super) fn table(caption: &str, heads: &[&str], rows: &[Markup]) -> Markup {
    html! {
        div class="wide" tabindex="0" role="region" aria-label=(caption) {
            table {
                caption { (caption) }
                thead { tr { @for head in heads { th scope="col" { (head) } } } }
                tbody {
                    @for row in rows { (row) }
                    @if rows.is_empty() { tr { td colspan=(heads.len()) { "None." } } }
                }
            }
        }
    }
}

/// Pairs of what it is and how it is.
pub(super) fn facts(pairs: &[(&str, Markup)]) -> Markup {
    html! { dl { @for (name, value) in pairs { dt { (name) } dd { (value) } } } }
}

/// Part of a long list, as the query asks for it, with what leads to the others.
pub(super) struct Part {
    /// How many come before it.
    pub(super) skip: usize,
    number: usize,
}

impl Part {
    pub(super) fn of(page: &Page<'_>) -> Part {
        let number = page.query.get("page").and_then(|text| text.parse().ok()).unwrap_or(1).clamp(1, 1_000_000);
        Part { skip: (number - 1) * ROWS, number }
    }

    /// Links to the page before and the one after, of so many items.
    pub(super) fn links(&self, page: &Page<'_>, total: usize) -> Markup {
        let kept: String = ["q", "state", "all", "at"]
            .into_iter()
            .filter_map(|name| Some(format!("&{name}={}", encoded(page.query.get(name)?))))
            .collect();
        let to = |number: usize| format!("?page={number}{kept}");
        let last = total.div_ceil(ROWS).max(1);
        html! {
            @if last > 1 {
                nav aria-label="Parts of the list" class="parts" {
                    @if self.number > 1 { a rel="prev" href=(to(self.number - 1)) { "Before" } " " }
                    "Page " (self.number) " of " (last) ", " (total) " in all "
                    @if self.number < last { a rel="next" href=(to(self.number + 1)) { "After" } }
                }
            }
        }
    }
}

/// What a form says without asking.
pub(super) fn hidden(name: &str, value: &str) -> Markup {
    html! { input type="hidden" name=(name) value=(value); }
}

/// A field to search by, as a form that needs no script.
pub(super) fn search(page: &Page<'_>, what: &str) -> Markup {
    html! {
        form method="get" role="search" {
            label for="q" { (what) }
            input id="q" name="q" type="search" value=(page.query.get("q").unwrap_or_default());
            @if let Some(then) = &page.then { (hidden("at", &then.index.to_string())) }
            button { "Find" }
        }
    }
}

/// Whether one of the texts has what is searched for.
pub(super) fn is_found(page: &Page<'_>, texts: &[&str]) -> bool {
    let wanted = page.query.get("q").unwrap_or_default().to_lowercase();
    wanted.is_empty() || texts.iter().any(|text| text.to_lowercase().contains(&wanted))
}
