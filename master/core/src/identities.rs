//! The story of who an agent is: an operator mints a token, an agent joins by it and has an identity of its own from then
//! on, which no other agent may come with, which it changes from time to time, and which an operator may revoke. An agent
//! that comes as a principal instead is bound to that one.
//!
//! ```text
//! mint ─► token (bounded life and uses) ─► agent-joined: identity ─► agent-identity-rotated ─► ...
//!                                                         └─ revoked: a token for this agent alone lets it come back
//! ```
//!
//! The log has hashes of secrets, and no secret. An agent makes its identity itself, and keeps it before it shows it.

use crate::command::{Caller, Joining};
use crate::decide::{Draft, Reply};
use crate::event::{
    AgentBound, AgentIdentityForgotten, AgentIdentityMoved, AgentIdentityRevoked, AgentIdentityRotated, AgentJoined,
    AgentRotationWanted, JoinTokenForgotten, JoinTokenMinted, JoinTokenRevoked,
};
use crate::ids::{AgentKey, JoinTokenKey, SecretHash};
use crate::lost;
use crate::permit;
use crate::refusal::{Denied, Refusal, RefusalKind};
use crate::state::State;
use crate::state::identities::Bound;
use crate::view;
use api::internal::AgentProof;
use api::limits::{
    JOIN_TOKEN_LIFE_MS_MAX, JOIN_TOKEN_USES_MAX, JOIN_TOKENS_MAX, PRINCIPAL_BYTES_MAX, SENTENCE_BYTES_MAX, quoted,
};
use auth::Action;
use std::sync::Arc;

/// The name of the refusal of an agent that shows an identity that is over: it is asked to make another.
pub const IDENTITY_OVER: &str = "IdentityOver";

/// What an operator wants of tokens and identities.
pub(crate) fn decide(draft: &mut Draft, wanted: &Joining, caller: &Caller) -> Result<Reply, Refusal> {
    if !draft.state.feature_level.has_identities() {
        let message = "Agents have no identities until every master of this cluster has been upgraded";
        return Err(Refusal::new(RefusalKind::NotImplemented, "NotImplemented", message));
    }
    // Mesos has no list about it: whoever may end agents for good may say which may come.
    permit::check_any(draft, caller, Action::MarkAgentGone)?;
    if !draft.options.agent_identities {
        let message = "Agents are not asked for identities here: give the masters --agent_identities";
        return Err(Refusal::new(RefusalKind::Conflict, "NotAsked", message));
    }
    let by = caller.principal.as_deref().map(Arc::from);
    match wanted {
        Joining::Mint { hash, principal, agent_id, uses, life_ms, note } => {
            check_length("principal", principal, PRINCIPAL_BYTES_MAX)?;
            check_length("note", note, SENTENCE_BYTES_MAX)?;
            if principal.is_empty() {
                return Err(Refusal::invalid("InvalidCall", "Expecting 'principal' not to be empty"));
            }
            if !(1..=JOIN_TOKEN_USES_MAX).contains(uses) {
                let message = format!("'uses' is {uses}, and should be from 1 to {JOIN_TOKEN_USES_MAX}");
                return Err(Refusal::invalid("InvalidCall", message));
            }
            if !(1..=JOIN_TOKEN_LIFE_MS_MAX).contains(life_ms) {
                let days = JOIN_TOKEN_LIFE_MS_MAX / 86_400_000;
                let message = format!("A token is good for more than nothing and at most {days} days");
                return Err(Refusal::invalid("InvalidCall", message));
            }
            let agent = agent_id.as_deref().map(|id| agent(&draft.state, id)).transpose()?;
            if agent.is_some() && *uses != 1 {
                return Err(Refusal::invalid("InvalidCall", "A token for one agent is used once: 'uses' is 1"));
            }
            if draft.state.identities.tokens.len() >= JOIN_TOKENS_MAX {
                let message = format!(
                    "There are {JOIN_TOKENS_MAX} join tokens that are not over, and no more are allowed: revoke some"
                );
                return Err(Refusal::new(RefusalKind::Conflict, "TooLarge", message));
            }
            draft.push(JoinTokenMinted {
                token: JoinTokenKey(draft.state.identities.next_token),
                hash: *hash,
                principal: principal.as_str().into(),
                agent,
                uses: *uses,
                until_ms: draft.at_ms.saturating_add(*life_ms),
                note: note.trim().into(),
                by,
            });
        }
        Joining::RevokeToken { token } => {
            let token = JoinTokenKey(*token);
            if !draft.state.identities.tokens.contains_key(&token) {
                return Err(Refusal::invalid("UnknownToken", format!("There is no join token {token}")));
            }
            draft.push(JoinTokenRevoked { token, by });
        }
        Joining::Rotate { agent_id } => {
            let agent = owner(&draft.state, agent_id)?;
            draft.push(AgentRotationWanted { agent, by });
        }
        Joining::Revoke { agent_id } => {
            let agent = owner(&draft.state, agent_id)?;
            draft.push(AgentIdentityRevoked { agent, by });
            if draft.state.agents.get(agent).is_some_and(|agent| agent.connection().is_some()) {
                lost::disconnect(draft, agent);
            }
        }
        Joining::Release { agent_id } => {
            let agent = agent(&draft.state, agent_id)?;
            if !matches!(draft.state.identities.of_agents.get(&agent), Some(Bound::Principal { .. })) {
                let message = format!("Agent {agent_id} is not bound to a principal");
                return Err(Refusal::invalid("NotBound", message));
            }
            draft.push(AgentIdentityForgotten { agent, by });
        }
    }
    Ok(Reply::Empty)
}

fn check_length(name: &str, text: &str, bytes_max: usize) -> Result<(), Refusal> {
    match text.len() {
        bytes if bytes > bytes_max => {
            let message = format!("'{name}' has {bytes} bytes, more than the {bytes_max} that are allowed");
            Err(Refusal::invalid("TooLarge", message))
        }
        _ if text.chars().any(char::is_control) => {
            Err(Refusal::invalid("InvalidCall", format!("'{name}' has a control character in it")))
        }
        _ => Ok(()),
    }
}

fn agent(state: &State, id: &str) -> Result<AgentKey, Refusal> {
    let known = view::parse_agent_id(state, id).filter(|key| state.agents.get(*key).is_some());
    known.ok_or_else(|| Refusal::invalid("UnknownAgent", format!("No agent found with ID '{}'", quoted(id))))
}

/// An agent with an identity of its own.
fn owner(state: &State, id: &str) -> Result<AgentKey, Refusal> {
    let key = view::parse_agent_id(state, id);
    let own = key.filter(|key| matches!(state.identities.of_agents.get(key), Some(Bound::Own { .. })));
    own.ok_or_else(|| {
        Refusal::invalid("NotBound", format!("No agent with an identity of its own has the ID '{}'", quoted(id)))
    })
}

/// How an agent was let in, and what follows from it once it is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// Nobody asked, or nothing new is to be remembered.
    AsItIs,
    /// By a token: this is its identity from now on.
    By { token: JoinTokenKey, principal: Arc<str>, identity: SecretHash },
    /// By the identity that it had as another agent, which is over.
    As(AgentKey),
    /// As a principal, for the first time.
    Principal(Arc<str>),
}

/// Who comes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Comer<'a> {
    /// An agent without an id, of this address.
    New { address: &'a str, again: Option<AgentKey> },
    /// The agent that it says it is.
    Known(AgentKey),
}

/// Who an agent is that comes: the caller as whom its registration is decided, and what is to be remembered of it.
pub(crate) fn admit(
    draft: &Draft,
    caller: &Caller,
    proof: Option<&AgentProof>,
    comer: Comer<'_>,
) -> Result<(Caller, Admitted), Refusal> {
    if !draft.options.agent_identities {
        return Ok((caller.clone(), Admitted::AsItIs));
    }
    if !draft.state.feature_level.has_identities() {
        // Nobody comes by what cannot be remembered; a principal is one without it.
        return match &caller.principal {
            Some(_) => Ok((caller.clone(), Admitted::AsItIs)),
            None => {
                let why = "Agents have no identities until every master of this cluster has been upgraded";
                Err(Refusal::new(RefusalKind::Forbidden, "FeatureLevel", why))
            }
        };
    }
    let identities = &draft.state.identities;
    let read = |bytes: &bytes::Bytes| <[u8; 32]>::try_from(bytes.as_ref()).ok().map(SecretHash);
    let shown: Vec<SecretHash> = proof.into_iter().flat_map(|proof| &proof.identities).filter_map(read).collect();
    let token = proof.and_then(|proof| proof.join_token.as_ref()).and_then(read);
    let key = match comer {
        Comer::New { again, .. } => again,
        Comer::Known(key) => Some(key),
    };
    let bound = key.and_then(|key| identities.of_agents.get(&key));
    let named = |principal: &Arc<str>| Caller { principal: Some(principal.to_string()), ..caller.clone() };
    // By its own identity.
    if let Some(Bound::Own { hash, principal, until_ms, .. }) = bound
        && shown.contains(hash)
        && draft.at_ms < *until_ms
    {
        return Ok((named(principal), Admitted::AsItIs));
    }
    if let Some(Bound::Revoked { hash, .. }) = bound
        && event_log::planted(event_log::Bug::RevokedLetIn)
        && shown.contains(hash)
    {
        return Ok((caller.clone(), Admitted::AsItIs));
    }
    // By that of an agent that is over, or is as good as over.
    let anothers =
        shown.iter().find_map(|hash| identities.by_hash.get(hash).copied().filter(|owner| Some(*owner) != key));
    if let Some(owner) = anothers {
        let is_here = |address: &str| {
            draft.state.agents.get(owner).is_none_or(|agent| agent.connection().is_none() && *agent.address == *address)
        };
        return match (comer, identities.of_agents.get(&owner)) {
            (Comer::New { address, .. }, Some(Bound::Own { principal, until_ms, .. }))
                if is_here(address) && draft.at_ms < *until_ms && bound.is_none() =>
            {
                Ok((named(principal), Admitted::As(owner)))
            }
            _ => Err(deny(
                draft,
                caller,
                key,
                format!(
                    "The identity that the agent shows is that of agent {}: each agent joins by a token and keeps its own",
                    view::agent_id(&draft.state, owner)
                ),
            )),
        };
    }
    // By a token.
    if let Some(hash) = token {
        let mut over = identities.of_agents.values().filter_map(|bound| match bound {
            Bound::Revoked { hash, .. } => Some(hash),
            Bound::Own { .. } | Bound::Principal { .. } => None,
        });
        let found = identities.token(&hash).filter(|(_, token)| token.is_good(draft.at_ms));
        let is_used = shown.first().is_some_and(|first| {
            over.any(|hash| hash == first) || matches!(bound, Some(Bound::Own { hash, .. }) if hash == first)
        });
        return match (found, shown.first()) {
            (None, _) if bound.is_none() && caller.principal.is_some() => by_principal(draft, caller, key, bound),
            (None, _) => Err(deny(draft, caller, key, "The join token is unknown, used up, over or revoked".into())),
            (Some((_, token)), _) if !fits(token.agent, key, bound) => Err(deny(draft, caller, key, match token.agent {
                Some(of) => format!("The join token is for agent {} alone", view::agent_id(&draft.state, of)),
                None => "An agent that is known as somebody comes back by a join token for it alone: meseta join mint --agent=ID"
                    .into(),
            })),
            (Some(_), None) => Err(deny(draft, caller, key, "The agent shows no identity to join with".into())),
            (Some(_), Some(_)) if is_used => Err(Refusal {
                name: IDENTITY_OVER,
                ..deny(draft, caller, key, "The identity that the agent shows is over: it has to make another".into())
            }),
            (Some((key, token)), Some(identity)) => Ok((
                named(&token.principal),
                Admitted::By { token: key, principal: token.principal.clone(), identity: *identity },
            )),
        };
    }
    by_principal(draft, caller, key, bound)
}

/// Whether a token for this agent, or for new ones, is good for whoever comes.
fn fits(token: Option<AgentKey>, comer: Option<AgentKey>, bound: Option<&Bound>) -> bool {
    match token {
        Some(agent) => comer == Some(agent),
        None => bound.is_none(),
    }
}

/// By what it showed at the door: a credential, a token or a certificate.
fn by_principal(
    draft: &Draft,
    caller: &Caller,
    key: Option<AgentKey>,
    bound: Option<&Bound>,
) -> Result<(Caller, Admitted), Refusal> {
    let id = || key.map_or_else(String::new, |key| view::agent_id(&draft.state, key));
    match (bound, &caller.principal) {
        (Some(Bound::Principal { principal, .. }), Some(shown)) if **principal == *shown => {
            Ok((caller.clone(), Admitted::AsItIs))
        }
        (Some(Bound::Principal { principal, .. }), shown) => {
            let shown = shown.as_ref().map_or("nobody in particular".into(), |shown| format!("'{}'", quoted(shown)));
            Err(deny(draft, caller, key, format!(
                "Agent {} is bound to principal '{}', and comes as {shown}: meseta identity release lets it come as another",
                id(),
                quoted(principal)
            )))
        }
        (Some(Bound::Revoked { .. }), _) => Err(deny(draft, caller, key, format!(
            "The identity of agent {} was revoked: a join token for it alone lets it come back",
            id()
        ))),
        (Some(Bound::Own { .. }), _) => Err(deny(draft, caller, key, format!(
            "Agent {} does not show the identity that it has, or that is over: a join token for it alone lets it come back",
            id()
        ))),
        (None, Some(principal)) => Ok((caller.clone(), Admitted::Principal(principal.as_str().into()))),
        (None, None) => Err(deny(
            draft,
            caller,
            key,
            "Agents have identities here, and this one has none: give it --join_token=/PATH with a token of meseta join mint"
                .into(),
        )),
    }
}

/// The sentence for whoever is not let in, which is noted among refusals.
fn deny(draft: &Draft, caller: &Caller, key: Option<AgentKey>, why: String) -> Refusal {
    let object = key.map(|key| view::agent_id(&draft.state, key));
    draft.deny(Denied { principal: caller.principal.clone(), action: Action::RegisterAgent, object, why: why.clone() });
    Refusal::new(RefusalKind::Forbidden, crate::refusal::UNAUTHORIZED, why)
}

/// Remembers how an agent was let in, now that it is registered.
pub(crate) fn bind(draft: &mut Draft, agent: AgentKey, admitted: Admitted) {
    match admitted {
        Admitted::AsItIs => {}
        Admitted::By { token, principal, identity } => {
            let until_ms = draft.at_ms.saturating_add(draft.options.identity_life_ms);
            draft.push(AgentJoined { agent, token, principal, identity, until_ms });
        }
        Admitted::As(from) => draft.push(AgentIdentityMoved { from, agent }),
        Admitted::Principal(principal) => draft.push(AgentBound { agent, principal }),
    }
}

/// A connected agent will show another identity from now on.
pub(crate) fn rotate(draft: &mut Draft, agent: AgentKey, identity: &[u8]) {
    let Ok(identity) = <[u8; 32]>::try_from(identity).map(SecretHash) else { return };
    let identities = &draft.state.identities;
    let is_own = matches!(identities.of_agents.get(&agent), Some(Bound::Own { .. }));
    if is_own && !identities.by_hash.contains_key(&identity) {
        let until_ms = draft.at_ms.saturating_add(draft.options.identity_life_ms);
        draft.push(AgentIdentityRotated { agent, identity, until_ms });
    }
}

/// Tokens that are over, and identities of agents that are, some at a time.
pub(crate) fn forget(draft: &mut Draft) {
    let at_ms = draft.at_ms;
    let max = draft.options.step_events.saturating_sub(draft.events());
    let identities = &draft.state.identities;
    let over = identities.tokens.iter().filter(|(_, token)| token.until_ms <= at_ms);
    let tokens: Vec<JoinTokenKey> = over.map(|(key, _)| *key).take(max).collect();
    let is_over = |(agent, bound): &(&AgentKey, &Bound)| match bound {
        Bound::Own { until_ms, .. } => *until_ms <= at_ms && draft.state.agents.get(**agent).is_none(),
        Bound::Revoked { .. } | Bound::Principal { .. } => false,
    };
    let of_agents = identities.of_agents.iter().filter(is_over);
    let agents: Vec<AgentKey> = of_agents.map(|(agent, _)| *agent).take(max - tokens.len()).collect();
    tokens.into_iter().for_each(|token| draft.push(JoinTokenForgotten { token }));
    agents.into_iter().for_each(|agent| draft.push(AgentIdentityForgotten { agent, by: None }));
}

/// What an agent is told of its identity at `now_ms`: its hash, and in how many milliseconds it is to have another one.
pub fn told(state: &State, agent: AgentKey, now_ms: u64) -> Option<(SecretHash, u64)> {
    match state.identities.of_agents.get(&agent)? {
        Bound::Own { hash, since_ms, until_ms, rotate, .. } => {
            let half_ms = since_ms + until_ms.saturating_sub(*since_ms) / 2;
            Some((*hash, if *rotate { 0 } else { half_ms.saturating_sub(now_ms) }))
        }
        Bound::Revoked { .. } | Bound::Principal { .. } => None,
    }
}

#[cfg(test)]
#[path = "identities/tests.rs"]
mod tests;
