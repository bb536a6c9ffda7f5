//! What the agent says in the environment.

use std::time::Duration;

/// Who the executor is, and where its agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// host:port of the agent.
    pub agent: String,
    /// Path of a socket that leads to the agent, too, if there is one.
    pub socket: Option<String>,
    /// Its framework.
    pub framework_id: String,
    /// Its own id.
    pub executor_id: String,
    /// The folder it runs in.
    pub sandbox: String,
    /// The address that its tasks are reached at.
    pub ip: String,
    /// So long it waits for an agent that is away.
    pub recovery_timeout: Duration,
    /// Longest first pause before it looks for its agent again.
    pub backoff_max: Duration,
}

impl Surroundings {
    /// Out of variables. The error is a sentence.
    ///
    /// # Errors
    /// One is missing or makes no sense.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Surroundings, String> {
        let text = |name: &str| get(name).filter(|value| !value.is_empty()).ok_or_else(|| format!("{name} is not set"));
        let duration = |name: &str, default: &str| {
            let value = get(name).unwrap_or_else(|| default.to_owned());
            api::duration::parse(&value).map_err(|error| format!("{name}={value}: {error}"))
        };
        Ok(Surroundings {
            agent: text("MESOS_AGENT_ENDPOINT")?,
            socket: get("MESOS_DOMAIN_SOCKET").filter(|path| !path.is_empty()),
            framework_id: text("MESOS_FRAMEWORK_ID")?,
            executor_id: text("MESOS_EXECUTOR_ID")?,
            sandbox: text("MESOS_SANDBOX")?,
            ip: get("LIBPROCESS_IP").unwrap_or_else(|| "127.0.0.1".to_owned()),
            recovery_timeout: duration("MESOS_RECOVERY_TIMEOUT", "15mins")?,
            backoff_max: duration("MESOS_SUBSCRIPTION_BACKOFF_MAX", "2secs")?,
        })
    }
}
