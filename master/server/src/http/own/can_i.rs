//! `GET /can-i?principal=NAME&action=ACTION&object=NAME`: whether somebody may, by the lists of this master, and which
//! entry says so. Without a principal it is about whoever has none; without an object, about anything of its kind.
//! Everybody may ask about themselves; about others whoever may see flags, `--acls` among them.

use api_http::{Query, Response, StatusCode, Visitor};
use auth::{Action, Authorizer, Ruling, Subject};
use serde_json::json;

pub(super) fn answer(authorizer: &Authorizer, visitor: &Visitor, query: &Query) -> Response {
    let wrong = |sentence: &str| api_http::text(StatusCode::BAD_REQUEST, sentence);
    let Some(name) = query.get("action").filter(|name| !name.is_empty()) else {
        return wrong("Say what: ?action=RUN_TASK, VIEW_ROLE, ...");
    };
    let Some(action) = Action::named(name) else {
        let hint = api::nearest::did_you_mean(Action::ALL.iter().map(|action| action.name()), name);
        return wrong(&format!("There is no action '{}'{hint}", api::limits::quoted(name)));
    };
    let (principal, object) = (query.get("principal"), query.get("object"));
    if principal != visitor.name()
        && let Err(refused) = visitor.ask(Action::ViewFlags, None)
    {
        return *refused;
    }
    let Ruling { allowed, entry, why } = authorizer.approver(Subject::named(principal)).rule(action, object);
    api_http::json(&json!({
        "principal": principal,
        "action": action.name(),
        "object": object,
        "allowed": allowed,
        "list": entry.map(|(list, _)| list.field()),
        "entry": entry.map(|(_, at)| at),
        "why": why,
    }))
}
