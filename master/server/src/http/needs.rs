//! The table of everything that masters and agents are asked for, with what it needs: the page of it in `docs/` is made of
//! this, and compared with it.

use super::{legacy, own};
use api::v1::{agent, executor, master, offer, scheduler};
use api_http::Method;
use auth::{Action, Need, Realm, needs};
use std::fmt::Write as _;

/// The page.
pub fn page() -> String {
    let mut page = String::from(
        "# What each call and endpoint needs\n\n\
         Made of the code, and compared with it by a test. *Asks*: refused to whoever may not, before it is looked at. *Decides*: asked for \
         what it is about, where it is decided. *Filters*: everybody in its realm may ask, and is told what they may see. How to give what \
         is needed is in [security.md](security.md).\n",
    );
    page += "\n## Endpoints of masters\n\n| path | method | realm | needs |\n|---|---|---|---|\n";
    let mut row = |path: &str, methods: &[&str], realm: Option<Realm>, need: &dyn Fn(&Method) -> Need| {
        let realm = realm.map_or("-", Realm::name);
        if methods.is_empty() {
            let _ = writeln!(page, "| `{path}` | any | {realm} | {} |", words(need(&Method::GET)));
        }
        for method in methods {
            let parsed = Method::from_bytes(method.as_bytes()).unwrap_or_default();
            let _ = writeln!(page, "| `{path}` | {method} | {realm} | {} |", words(need(&parsed)));
        }
    };
    for (path, methods, endpoint) in legacy::PATHS {
        row(path, methods, legacy::realm(endpoint), &|method| legacy::need(endpoint, method));
    }
    for (path, methods, endpoint) in own::PATHS {
        row(path, methods, Some(own::realm(*endpoint)), &|method| own::need(*endpoint, method));
    }
    let mut calls = |title: &str, rows: Vec<(&'static str, Need)>| {
        let _ = write!(page, "\n## {title}\n\n| call | needs |\n|---|---|\n");
        rows.into_iter().for_each(|(name, need)| {
            let _ = writeln!(page, "| {name} | {} |", words(need));
        });
    };
    calls(
        "Calls of operators to masters (`/api/v1`, mesos-master-readwrite)",
        every(|number| {
            let call = master::call::Type::try_from(number).ok()?;
            Some((call.as_str_name(), needs::master_call(call)))
        }),
    );
    calls(
        "Calls of frameworks (`/api/v1/scheduler`, mesos-master-scheduler)",
        every(|number| {
            let call = scheduler::call::Type::try_from(number).ok()?;
            Some((call.as_str_name(), needs::scheduler_call(call)))
        }),
    );
    calls(
        "Operations of ACCEPT",
        every(|number| {
            let operation = offer::operation::Type::try_from(number).ok()?;
            Some((operation.as_str_name(), needs::operation(operation)))
        }),
    );
    calls(
        "Calls of operators to agents (`/api/v1`, mesos-agent-readwrite)",
        every(|number| {
            let call = agent::call::Type::try_from(number).ok()?;
            Some((call.as_str_name(), needs::agent_call(call)))
        }),
    );
    calls(
        "Calls of executors (`/api/v1/executor`, mesos-agent-executor)",
        every(|number| {
            let call = executor::call::Type::try_from(number).ok()?;
            Some((call.as_str_name(), needs::executor_call(call)))
        }),
    );
    page
}

/// What enumerations have below their end, which is far below this.
fn every(one: impl Fn(i32) -> Option<(&'static str, Need)>) -> Vec<(&'static str, Need)> {
    (0..1000).filter_map(one).filter(|(name, _)| *name != "UNKNOWN").collect()
}

fn words(need: Need) -> String {
    let all = |verb: &str, actions: &[Action]| {
        format!("{verb} {}", actions.iter().map(|action| action.name()).collect::<Vec<_>>().join(", "))
    };
    match need {
        Need::Nothing => "-".to_owned(),
        Need::Asks(action) => all("asks", &[action]),
        Need::AsksPath(path) => format!("asks {} for `{path}`", Action::GetEndpointWithPath),
        Need::Decides(actions) => all("decides", actions),
        Need::Filters(actions) => all("filters", actions),
        Need::NotBuilt => "not built".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_says_what_the_code_does() {
        expect_test::expect_file!["../../../../docs/security-calls.md"].assert_eq(&super::page());
    }
}
