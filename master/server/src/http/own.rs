//! What Mesos does not have and operators ask for: brakes, reasons, who holds what, and what would have to go for a guarantee.
//! JSON; every master answers, as of an index that the leader confirms, or with `?stale=true` as of its own.

pub(super) mod audit;
mod brakes;
mod can_i;
mod explain;
mod held;
mod identities;

pub(super) use explain::role as explain_role;

use super::legacy;
use super::operator::Operators;
use super::render::shown;
use super::ui;
use crate::context::Context;
use api_http::{Method, Query, Request, Response, StatusCode, Visitor};
use auth::{Action, Need, Realm, Sight};
use event_log::host;
use master_core::State;
use serde_json::Value;
use std::sync::Arc;

/// An endpoint of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// What is paused; a POST pauses and releases.
    Brakes,
    /// Why `?role=` is not offered what it is not offered.
    Explain,
    /// Who holds what without using it.
    Holders,
    /// Which agents each framework's offer constraints leave out; Mesos has it too.
    Constraints,
    /// What would have to go so that `?role=` gets its guarantee.
    Preemption,
    /// Whether `?principal=` may do `?action=` to `?object=`.
    CanI,
    /// Pages for people, and what is below `/ui`.
    Pages,
    /// Who did what, and who was refused what.
    Audit,
    /// What agents join by and whom they are known as; a POST makes, revokes and rotates.
    Identities,
    /// What this process takes, and what its threads do.
    Process,
}

/// Every path with the methods that it takes.
pub const PATHS: &[(&str, &[&str], Endpoint)] = &[
    ("/brakes", &["GET", "POST"], Endpoint::Brakes),
    ("/explain", &["GET"], Endpoint::Explain),
    ("/holders", &["GET"], Endpoint::Holders),
    ("/allocator/offer_constraints_debug", &[], Endpoint::Constraints),
    ("/preemption", &["GET"], Endpoint::Preemption),
    ("/can-i", &["GET"], Endpoint::CanI),
    ("/ui", &["GET"], Endpoint::Pages),
    ("/audit", &["GET"], Endpoint::Audit),
    ("/identities", &["GET", "POST"], Endpoint::Identities),
    ("/process", &["GET"], Endpoint::Process),
];

/// Who is asked for what.
pub fn realm(endpoint: Endpoint) -> Realm {
    match endpoint {
        Endpoint::Brakes | Endpoint::Identities => Realm::MasterReadwrite,
        Endpoint::Explain
        | Endpoint::Holders
        | Endpoint::Constraints
        | Endpoint::Preemption
        | Endpoint::CanI
        | Endpoint::Audit
        | Endpoint::Process
        | Endpoint::Pages => Realm::MasterReadonly,
    }
}

/// What a request for `endpoint` needs, by its method.
pub fn need(endpoint: Endpoint, method: &Method) -> Need {
    match endpoint {
        // Mesos has no list for them: whoever may keep a role from getting more may pause it, whoever may end a framework that.
        Endpoint::Brakes if *method == Method::POST => {
            Need::Decides(&[Action::UpdateQuotaWithConfig, Action::TeardownFramework])
        }
        Endpoint::Brakes | Endpoint::Holders => Need::Filters(&[Action::ViewFramework, Action::ViewRole]),
        Endpoint::Constraints => Need::Filters(&[Action::ViewFramework]),
        Endpoint::Pages => {
            Need::Filters(&[Action::ViewFramework, Action::ViewTask, Action::ViewExecutor, Action::ViewRole])
        }
        // Of the role that is asked about.
        Endpoint::Explain | Endpoint::Preemption => Need::Decides(&[Action::ViewRole]),
        // It is a log as others are, and tells of everybody.
        Endpoint::Audit => Need::Asks(Action::AccessMesosLog),
        Endpoint::Process => Need::Asks(Action::ViewFlags),
        // Mesos has no list for it: whoever may end agents for good may say which may come.
        Endpoint::Identities => Need::Asks(Action::MarkAgentGone),
        // About others than oneself.
        Endpoint::CanI => Need::Decides(&[Action::ViewFlags]),
    }
}

/// Answers a request for `endpoint`.
pub async fn answer(
    operators: &Arc<Operators>,
    (endpoint, methods): (Endpoint, &'static [&'static str]),
    rest: Vec<String>,
    request: Request,
    visitor: &Visitor,
) -> Response {
    if !methods.is_empty() && !methods.contains(&request.method().as_str()) {
        return api_http::method_not_allowed(methods, request.method());
    }
    if !operators.context.wait_ready().await {
        return super::not_ready(&operators.context);
    }
    if let Need::Asks(action) = need(endpoint, request.method())
        && let Err(refused) = visitor.ask(action, None)
    {
        return *refused;
    }
    if endpoint == Endpoint::Brakes && request.method() == Method::POST {
        return brakes::change(operators, request, visitor).await;
    }
    if endpoint == Endpoint::Identities && request.method() == Method::POST {
        return identities::change(operators, request, visitor).await;
    }
    if endpoint == Endpoint::Pages {
        return ui::answer(operators, rest, &request, visitor).await;
    }
    let query = Query::of(&request);
    if endpoint == Endpoint::Process {
        let told = host::blocking(api_http::vitals).await;
        return api_http::json(&told.unwrap_or_default());
    }
    if endpoint == Endpoint::Audit {
        return audit::answer(operators, &query).await;
    }
    if endpoint == Endpoint::CanI {
        return can_i::answer(&operators.context.admission.authorizer(), visitor, &query);
    }
    let Ok(reading) = operators.context.reader.read(query.get("stale") == Some("true")).await else {
        return legacy::no_leader(&operators.context);
    };
    let (state, approver) = (reading.state.clone(), visitor.approver.clone());
    if let Some(role) = query.get("role").filter(|_| matches!(endpoint, Endpoint::Explain | Endpoint::Preemption))
        && let Err(refused) = visitor.ask(Action::ViewRole, Some(role))
    {
        return *refused;
    }
    // Large clusters are walked elsewhere than where requests are served.
    let context = operators.context.clone();
    let told = host::blocking(move || told(&context, state, approver.sight().as_deref(), endpoint, &query)).await;
    let response = match told {
        Ok(Ok(value)) => api_http::json(&value),
        Ok(Err(sentence)) => api_http::text(StatusCode::BAD_REQUEST, &sentence),
        Err(_) => api_http::text(StatusCode::INTERNAL_SERVER_ERROR, "It could not be found out"),
    };
    super::render::as_of(&reading, response)
}

fn told(
    context: &Context,
    state: Arc<State>,
    sight: Option<&Sight>,
    endpoint: Endpoint,
    query: &Query,
) -> Result<Value, String> {
    let seen = &shown(state.clone(), sight);
    match endpoint {
        Endpoint::Brakes => Ok(brakes::list(seen)),
        Endpoint::Identities => Ok(identities::list(&state)),
        Endpoint::Explain => {
            let at_ms = context.clock.now_ms().max(state.at_ms);
            Ok(explain::role(&state, seen, at_ms, &context.allocator, role(query)?))
        }
        Endpoint::Constraints => Ok(held::constraints(seen)),
        Endpoint::Holders => Ok(held::holders(seen)),
        // Answered elsewhere.
        Endpoint::CanI | Endpoint::Pages | Endpoint::Audit | Endpoint::Process => {
            Err("Say who may what: ?principal=NAME&action=ACTION&object=NAME".to_owned())
        }
        Endpoint::Preemption => Ok(held::preemption(seen, role(query)?)),
    }
}

fn role(query: &Query) -> Result<&str, String> {
    let role = query.get("role").filter(|role| !role.is_empty());
    role.ok_or_else(|| "Say for which role: ?role=NAME".to_owned())
}
