//! Waiting for the end of a container, through restarts of the engine.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::engine::{Engine, Error, at};
use crate::logs::Logs;
use crate::{Failure, Request, name_of};

/// Pauses before the engine is asked again, the first and the longest.
pub(crate) const RETRY_MIN: Duration = Duration::from_millis(50);
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(2);
/// One wait takes so long at most: an engine that forgot to tell of an end is asked again.
const WAIT_MAX: Duration = Duration::from_secs(60);

pub(crate) async fn wait(engine: &Engine, request: &Request) -> Result<Value, Failure> {
    let name = name_of(&request.container_id);
    let mut logs = Logs::open(request);
    let end = {
        let over = over(engine, &name);
        tokio::pin!(over);
        tokio::select! {
            end = &mut over => end,
            () = logs.follow(engine, &name) => over.await,
        }
    };
    match end {
        Some(found) => {
            logs.finish(engine, &name).await;
            Ok(told(&found))
        }
        None => Ok(json!({"lost": true})),
    }
}

/// What the engine knows of a container that runs no more; none if it knows of none.
pub(crate) async fn over(engine: &Engine, name: &str) -> Option<Value> {
    let mut pause = RETRY_MIN;
    loop {
        match engine.inspect(name).await {
            Ok(found) if !runs(&found) => return Some(found),
            Ok(_) => {
                let path = format!("/containers/{name}/wait?condition=not-running");
                if engine.json_within(WAIT_MAX, Method::POST, &path, None).await.is_ok() {
                    pause = RETRY_MIN;
                    // Looked at again at once: how it ended is there.
                    if let Ok(found) = engine.inspect(name).await
                        && !runs(&found)
                    {
                        return Some(found);
                    }
                }
            }
            Err(error) if error.is_missing() => return None,
            Err(Error::Gone(_) | Error::Said(..) | Error::Odd(_)) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(RETRY_MAX);
    }
}

/// Whether something of a container runs, or will by itself.
pub(crate) fn runs(found: &Value) -> bool {
    let state = |name: &str| at(found, &["State", name]).and_then(Value::as_bool).unwrap_or(false);
    ["Running", "Paused", "Restarting"].into_iter().any(state)
}

/// How it ended.
fn told(found: &Value) -> Value {
    let Some(code) = at(found, &["State", "ExitCode"]).and_then(Value::as_i64) else { return json!({"lost": true}) };
    let is_created = at(found, &["State", "Status"]).and_then(Value::as_str) == Some("created");
    if is_created {
        return json!({"lost": true});
    }
    let mut told = json!({"exited": u8::try_from(code).unwrap_or(u8::MAX)});
    // One of its processes may have been killed for it, and the container have gone on.
    let is_short = at(found, &["State", "OOMKilled"]).and_then(Value::as_bool).unwrap_or(false) && code != 0;
    if is_short {
        let most = at(found, &["HostConfig", "Memory"]).and_then(Value::as_u64).unwrap_or(0) >> 20;
        let message = format!("Memory limit exceeded: the container may use {most} MB, and the kernel ended it");
        told["exceeded"] = json!({"resource": "mem", "message": message, "used": most});
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told() {
        let of = |state: Value| told(&json!({"State": state, "HostConfig": {"Memory": 33_554_432}}));
        assert_eq!(of(json!({"ExitCode": 3})), json!({"exited": 3}));
        assert_eq!(of(json!({"ExitCode": 0, "OOMKilled": true})), json!({"exited": 0}));
        assert_eq!(of(json!({"ExitCode": -1})), json!({"exited": 255}));
        assert_eq!(of(json!({"ExitCode": 1_i64 << 40})), json!({"exited": 255}));
        assert_eq!(of(json!({"ExitCode": 0, "Status": "created"})), json!({"lost": true}));
        assert_eq!(of(json!({})), json!({"lost": true}));
        let message = "Memory limit exceeded: the container may use 32 MB, and the kernel ended it";
        let killed = json!({"exited": 137, "exceeded": {"resource": "mem", "message": message, "used": 32}});
        assert_eq!(of(json!({"ExitCode": 137, "OOMKilled": true})), killed);
        assert!(!runs(&json!({"State": {"Running": "yes"}})));
        assert!(runs(&json!({"State": {"Paused": true}})));
    }
}
