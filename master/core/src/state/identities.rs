//! Tokens that agents may join by, and whom agents are known as. Of secrets there are hashes alone.

use crate::event::{AgentJoined, JoinTokenMinted};
use crate::ids::{AgentKey, JoinTokenKey, SecretHash};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Tokens that agents may join by, and whom agents are known as.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Identities {
    /// Those that were neither revoked nor forgotten.
    pub tokens: OrdMap<JoinTokenKey, JoinToken>,
    /// Whom agents are known as; of one that is over as long as it may come back as another.
    pub of_agents: OrdMap<AgentKey, Bound>,
    /// The key of the next token.
    pub next_token: u64,
    /// Whose an identity is. Derived.
    #[serde(skip)]
    pub by_hash: OrdMap<SecretHash, AgentKey>,
}

/// What an agent may join by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Of its text.
    pub hash: SecretHash,
    /// Whom agents are that join by it.
    pub principal: Arc<str>,
    /// The only agent that it is for, which comes back by it; None: for new ones.
    pub agent: Option<AgentKey>,
    /// So many agents may join by it.
    pub uses_max: u32,
    /// So many have.
    pub used: u32,
    /// It is good until then, in milliseconds since the epoch.
    pub until_ms: u64,
    /// What the operator said that it is for; may be empty.
    pub note: Arc<str>,
    /// The operator, if known.
    pub by: Option<Arc<str>>,
    /// In milliseconds since the epoch.
    pub minted_ms: u64,
}

impl JoinToken {
    /// Whether an agent may still join by it.
    pub fn is_good(&self, at_ms: u64) -> bool {
        self.used < self.uses_max && at_ms < self.until_ms
    }
}

/// Whom an agent is known as. Times are in milliseconds since the epoch.
#[allow(missing_docs)]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bound {
    /// Whoever shows this identity, which it has since it joined by a token and changes from time to time.
    Own {
        hash: SecretHash,
        principal: Arc<str>,
        token: JoinTokenKey,
        joined_ms: u64,
        since_ms: u64,
        until_ms: u64,
        /// An operator wants another one.
        rotate: bool,
    },
    /// Nobody, until it comes by a token that is for it alone: an operator revoked this identity.
    Revoked { hash: SecretHash, by: Option<Arc<str>>, since_ms: u64 },
    /// Whoever comes as the principal that it came as first: by a credential, a token or a certificate.
    Principal { principal: Arc<str>, since_ms: u64 },
}

impl Identities {
    /// The token with this hash.
    pub fn token(&self, hash: &SecretHash) -> Option<(JoinTokenKey, &JoinToken)> {
        self.tokens.iter().find(|(_, token)| token.hash == *hash).map(|(key, token)| (*key, token))
    }

    pub(crate) fn mint(&mut self, event: &JoinTokenMinted, at_ms: u64) {
        let JoinTokenMinted { token, hash, principal, agent, uses, until_ms, note, by } = event.clone();
        let minted =
            JoinToken { hash, principal, agent, uses_max: uses, used: 0, until_ms, note, by, minted_ms: at_ms };
        self.tokens.insert(token, minted);
        self.next_token = self.next_token.max(token.0 + 1);
    }

    pub(crate) fn join(&mut self, event: &AgentJoined, at_ms: u64) {
        if let Some(token) = self.tokens.get_mut(&event.token) {
            token.used += u32::from(!event_log::planted(event_log::Bug::TokenUsedAgain));
        }
        let own = Bound::Own {
            hash: event.identity,
            principal: event.principal.clone(),
            token: event.token,
            joined_ms: at_ms,
            since_ms: at_ms,
            until_ms: event.until_ms,
            rotate: false,
        };
        self.bind(event.agent, own);
    }

    pub(crate) fn bind(&mut self, agent: AgentKey, bound: Bound) {
        self.forget(agent);
        if let Bound::Own { hash, .. } = &bound {
            self.by_hash.insert(*hash, agent);
        }
        self.of_agents.insert(agent, bound);
    }

    pub(crate) fn forget(&mut self, agent: AgentKey) -> Option<Bound> {
        let bound = self.of_agents.remove(&agent)?;
        if let Bound::Own { hash, .. } = &bound {
            self.by_hash.remove(hash);
        }
        Some(bound)
    }

    /// What one agent was known as is what another one is.
    pub(crate) fn hand_over(&mut self, from: AgentKey, to: AgentKey) {
        if let Some(bound) = self.forget(from) {
            self.bind(to, bound);
        }
    }

    pub(crate) fn rotate(&mut self, agent: AgentKey, identity: SecretHash, ends_ms: u64, at_ms: u64) {
        if let Some(Bound::Own { principal, token, joined_ms, .. }) = self.forget(agent) {
            let (hash, since_ms, until_ms, rotate) = (identity, at_ms, ends_ms, false);
            self.bind(agent, Bound::Own { hash, principal, token, joined_ms, since_ms, until_ms, rotate });
        }
    }

    pub(crate) fn want_rotation(&mut self, agent: AgentKey) {
        if let Some(Bound::Own { rotate, .. }) = self.of_agents.get_mut(&agent) {
            *rotate = true;
        }
    }

    pub(crate) fn revoke(&mut self, agent: AgentKey, by: Option<Arc<str>>, at_ms: u64) {
        if let Some(Bound::Own { hash, .. }) = self.forget(agent) {
            self.bind(agent, Bound::Revoked { hash, by, since_ms: at_ms });
        }
    }

    /// An agent is over. Its own identity may let it come back as another, unless an operator wanted its end.
    pub(crate) fn end(&mut self, agent: AgentKey, by_operator: bool) {
        let is_own = matches!(self.of_agents.get(&agent), Some(Bound::Own { .. }));
        if by_operator || !is_own {
            self.forget(agent);
        }
    }

    pub(crate) fn rebuild(&mut self) {
        let own = self.of_agents.iter().filter_map(|(agent, bound)| match bound {
            Bound::Own { hash, .. } => Some((*hash, *agent)),
            Bound::Revoked { .. } | Bound::Principal { .. } => None,
        });
        self.by_hash = own.collect();
    }
}
