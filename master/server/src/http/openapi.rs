//! `/help/openapi.json`: what a master is asked and answers, as OpenAPI describes it. Made of the tables that requests are
//! routed and read by.

use super::{legacy, own};
use api::openapi::{Calls, Endpoint, Schemas, document};
use api::v1::{master, scheduler};
use serde_json::Value;

/// Parameters in the query of `path`.
fn parameters(path: &str) -> &'static [&'static str] {
    match path {
        "/tasks" => &["limit", "offset", "order", "framework_id", "task_id", "stale", "jsonp"],
        "/frameworks" => &["framework_id", "stale", "jsonp"],
        "/slaves" => &["slave_id", "stale", "jsonp"],
        "/explain" | "/preemption" => &["role", "stale"],
        "/can-i" => &["principal", "action", "object"],
        "/audit" => &["since", "from", "principal", "refused", "all", "limit", "stale"],
        "/logging/toggle" => &["level", "duration"],
        "/metrics/snapshot" => &["timeout", "jsonp"],
        "/help" => &["format"],
        "/state"
        | "/state-summary"
        | "/roles"
        | "/quota"
        | "/weights"
        | "/maintenance/schedule"
        | "/maintenance/status"
        | "/registrar(1)/registry" => &["stale", "jsonp"],
        "/agents/away" | "/brakes" | "/holders" | "/identities" | "/allocator/offer_constraints_debug" => &["stale"],
        _ => &[],
    }
}

/// The document.
pub(crate) fn told() -> Value {
    let mut schemas = Schemas::default();
    let calls = [
        Calls {
            path: "/api/v1",
            body: schemas.calls::<master::Call>("Master"),
            answer: schemas.of::<master::Response>("Master"),
        },
        Calls {
            path: "/api/v1/scheduler",
            body: schemas.calls::<scheduler::Call>("Scheduler"),
            answer: schemas.of::<scheduler::Event>("Scheduler"),
        },
    ];
    let of_mesos = legacy::PATHS.iter().map(|(path, methods, _)| (*path, *methods));
    let paths = of_mesos.chain(own::PATHS.iter().map(|(path, methods, _)| (*path, *methods)));
    let endpoints: Vec<Endpoint> = paths
        .map(|(path, methods)| {
            let methods: &[&str] = if methods.is_empty() { &["GET"] } else { methods };
            Endpoint { path, methods, parameters: parameters(path) }
        })
        .collect();
    document("Meseta master", env!("CARGO_PKG_VERSION"), &endpoints, &calls, schemas)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_path_is_in_it() {
        let told = super::told();
        for path in ["/api/v1", "/api/v1/scheduler", "/state", "/registrar(1)/registry", "/audit", "/ui"] {
            assert!(told["paths"][path].is_object(), "{path}");
        }
        assert!(told["paths"]["/quota"]["delete"].is_object());
        assert!(told["components"]["schemas"]["TaskInfo"].is_object());
    }
}
