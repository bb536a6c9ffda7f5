//! What an operator does with one agent: `meseta agents deactivate|reactivate|gone`, and which agent is meant.

use serde_json::{Value, json};

use crate::error::Error;
use crate::http::{self, Request};
use crate::ids::{self, text};

/// An agent as the masters know it, registered or away.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) id: String,
    pub(crate) hostname: String,
    /// host:port
    pub(crate) address: String,
    /// `drain_info`, if it is to be empty.
    pub(crate) drain: Option<Value>,
}

/// An agent that runs now, by its id, whole or as `S0`, or by its hostname if only one agent has it.
pub(crate) async fn find(masters: &[String], wanted: &str) -> Result<Agent, Error> {
    let all = all(masters).await?;
    let by_id = all.iter().find(|agent| ids::is(wanted, &agent.id));
    let named: Vec<&Agent> = all.iter().filter(|agent| agent.hostname == wanted).collect();
    match (by_id, named.as_slice()) {
        (Some(agent), _) => Ok(agent.clone()),
        (None, [agent]) => Ok((*agent).clone()),
        (None, []) => {
            let hint = api::nearest::did_you_mean(all.iter().map(|agent| agent.hostname.as_str()), wanted);
            Err(Error::Failed(format!("no agent {wanted:?} is known{hint} (meseta agents lists them)")))
        }
        (None, several) => {
            let ids: Vec<&str> = several.iter().map(|agent| agent.id.as_str()).collect();
            Err(Error::Failed(format!("several agents are on {wanted}: name one of {}", ids.join(", "))))
        }
    }
}

/// The agent with this id; None if it is over.
pub(crate) async fn with_id(masters: &[String], id: &str) -> Result<Option<Agent>, Error> {
    Ok(all(masters).await?.into_iter().find(|agent| agent.id == id))
}

async fn all(masters: &[String]) -> Result<Vec<Agent>, Error> {
    let registered = http::get_json(masters, "/master/slaves").await?;
    let away = http::get_json(masters, "/agents/away").await.unwrap_or_default();
    let mut all: Vec<Agent> = list(&registered["slaves"])
        .iter()
        .map(|agent| Agent {
            id: text(&agent["id"]).to_owned(),
            hostname: text(&agent["hostname"]).to_owned(),
            address: text(&agent["pid"]).rsplit('@').next().unwrap_or_default().to_owned(),
            drain: agent.get("drain_info").cloned(),
        })
        .collect();
    let others = list(&away["agents"]).iter().filter(|agent| !all.iter().any(|known| agent["id"] == *known.id));
    let others: Vec<Agent> = others
        .map(|agent| Agent {
            id: text(&agent["id"]).to_owned(),
            hostname: text(&agent["hostname"]).to_owned(),
            address: text(&agent["address"]).to_owned(),
            drain: agent.get("drain_info").cloned(),
        })
        .collect();
    all.extend(others);
    Ok(all)
}

/// Has an operator's call decided: `kind` is its type, `body` what its field of the same name holds.
pub(crate) async fn call(masters: &[String], kind: &str, body: Value) -> Result<(), Error> {
    let call = json!({"type": kind, kind.to_lowercase(): body});
    http::send(masters, &Request::post("/api/v1", &call)).await?.text().await.map(drop)
}

/// `meseta agents ACTION AGENT`: a sentence.
pub(crate) async fn act(masters: &[String], words: &[&str]) -> Result<String, Error> {
    let (kind, done) = match words {
        ["deactivate", _] => ("DEACTIVATE_AGENT", "is offered to nobody; what it runs goes on"),
        ["reactivate", _] => ("REACTIVATE_AGENT", "is in use again"),
        ["gone", _] => ("MARK_AGENT_GONE", "is over for good, and so is what it ran"),
        [action, ..] if !ACTIONS.contains(action) => {
            let hint = api::nearest::did_you_mean(ACTIONS, action).replace('"', "'");
            return Err(Error::Usage(format!("agents: there is no '{action}'{hint} ({})", ACTIONS.join(", "))));
        }
        _ => return Err(Error::Usage(format!("agents {}: name one agent, as S0", words.join(" ")))),
    };
    let agent = find(masters, words[1]).await?;
    call(masters, kind, json!({"agent_id": {"value": agent.id}})).await?;
    Ok(format!("agent {} ({}) {done}\n", agent.id, agent.hostname))
}

const ACTIONS: [&str; 3] = ["deactivate", "reactivate", "gone"];

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
