//! Ending a container.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::engine::{Engine, Error, at};
use crate::wait::{over, runs};
use crate::{Failure, Request, Settings, name_of};

/// That it was asked to end, and has time, is written here.
fn asked(request: &Request) -> PathBuf {
    request.folder.join(format!("{}.gently", request.container_id))
}

/// That it is to end at once, and was asked only now.
fn stopping(request: &Request) -> PathBuf {
    request.folder.join(format!("{}.stopping", request.container_id))
}

pub(crate) async fn destroy(engine: &Engine, settings: &Settings, request: &Request) -> Result<Value, Failure> {
    let name = name_of(&request.container_id);
    if request.how == "gently" {
        let _ = File::create(asked(request));
        ask(engine, &name).await?;
        return Ok(json!({}));
    }
    let timeout = Duration::from_millis(settings.stop_timeout_ms);
    if !timeout.is_zero() && !asked(request).exists() {
        // Nobody has asked it before. Whoever is told again to end it, by an agent that is started again perhaps, waits for what is
        // left of the time.
        let path = stopping(request);
        if File::create_new(&path).is_ok()
            && let Err(error) = ask(engine, &name).await
        {
            let _ = std::fs::remove_file(&path);
            return Err(error.into());
        }
        let age = std::fs::metadata(&path).and_then(|found| found.modified()).ok().and_then(|at| at.elapsed().ok());
        let left = timeout.saturating_sub(age.unwrap_or_default());
        let _ = tokio::time::timeout(left, over(engine, &name)).await;
    }
    end(engine, &name).await?;
    Ok(json!({}))
}

/// Sends the signal that the image, or a parameter, names for this.
async fn ask(engine: &Engine, name: &str) -> Result<(), Error> {
    let found = match engine.inspect(name).await {
        Err(error) if error.is_missing() => return Ok(()),
        found => found?,
    };
    let signal = at(&found, &["Config", "StopSignal"]).and_then(Value::as_str).filter(|name| is_signal(name));
    send(engine, name, signal.unwrap_or("SIGTERM")).await.map(drop)
}

fn is_signal(name: &str) -> bool {
    !name.is_empty() && name.len() < 16 && name.chars().all(|c| c.is_ascii_alphanumeric() || "+-".contains(c))
}

/// Whether there was a process to send it to.
async fn send(engine: &Engine, name: &str, signal: &str) -> Result<bool, Error> {
    match engine.post(&format!("/containers/{name}/kill?signal={signal}"), None).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_missing() || error.is_conflict() => Ok(false),
        // Older engines say this of one that does not run.
        Err(Error::Said(500, message)) if message.contains("is not running") => Ok(false),
        Err(error) => Err(error),
    }
}

/// When this is done, nothing of it runs.
pub(crate) async fn end(engine: &Engine, name: &str) -> Result<(), Error> {
    send(engine, name, "SIGKILL").await?;
    let found = match engine.inspect(name).await {
        Err(error) if error.is_missing() => return Ok(()),
        found => found?,
    };
    if at(&found, &["State", "Status"]).and_then(Value::as_str) == Some("created") {
        // It never ran, and nobody is to start it. What is starting it at this moment is waited for, and ended with it.
        return engine.remove(name, true).await;
    }
    if runs(&found) {
        over(engine, name).await;
    }
    Ok(())
}

pub(crate) async fn signal(engine: &Engine, request: &Request) -> Result<Value, Failure> {
    let name = name_of(&request.container_id);
    let sent = send(engine, &name, &request.signal.to_string()).await?;
    Ok(json!({ "sent": sent }))
}
