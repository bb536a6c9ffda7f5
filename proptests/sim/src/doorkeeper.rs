//! Who lets agents in, where agents have identities: mints tokens and leaves them on machines, revokes and rotates identities,
//! and lets those come back whom it revoked, or who were away for longer than their identity is good.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use event_log::host::Host;
use master_core::ids::SecretHash;
use master_core::state::identities::Bound;
use master_core::{State, view};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::timeout;

use crate::net::Net;
use crate::random::Random;
use crate::world::{EPOCH_MS, World};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a machine has before anybody left a token on it.
pub const NO_TOKEN: &str = "meseta-join-0000000000000000000000000000000000000000000000000000000000000000";
/// The name of the file in which a machine has its token.
pub const TOKEN: &str = "token";

/// A machine, as whoever lets agents in sees it.
#[derive(Clone, Debug)]
pub struct Door {
    /// Where its agent keeps who it is.
    pub folder: PathBuf,
    /// As whom its agent is registered.
    pub agent_id: Option<String>,
}

/// One for all machines.
pub struct Doorkeeper {
    world: Arc<World>,
    net: Net,
    masters: Arc<Mutex<Vec<String>>>,
    doors: Arc<Mutex<Vec<Door>>>,
    random: Random,
    /// The last token for no agent in particular.
    last: Option<String>,
}

impl Doorkeeper {
    /// Starts it.
    pub fn start(world: &Arc<World>, net: &Net, masters: Arc<Mutex<Vec<String>>>, doors: Arc<Mutex<Vec<Door>>>) {
        let mut random = world.random("doorkeeper");
        let host = Host::new(random.number(), EPOCH_MS, 0);
        let keeper = Doorkeeper { world: world.clone(), net: net.clone(), masters, doors, random, last: None };
        host.spawn(keeper.run());
    }

    async fn run(mut self) {
        loop {
            tokio::time::sleep(Duration::from_millis(self.random.range(200, 2_500))).await;
            let is_quiet = self.world.is_quiet();
            let doors = self.doors.lock().clone();
            for door in doors {
                if is_quiet || self.random.permille(700) {
                    self.let_in(&door).await;
                }
            }
            if !is_quiet {
                self.interfere().await;
            }
        }
    }

    /// The newest state that anybody has seen.
    fn state(&self) -> State {
        self.world.oracle.lock().truth.last().map(|truth| truth.state.clone()).unwrap_or_default()
    }

    /// Leaves a token on a machine whose agent cannot come in without.
    async fn let_in(&mut self, door: &Door) {
        let state = self.state();
        let now_ms = EPOCH_MS + self.world.now_ms();
        let key = door.agent_id.as_ref().map(|id| view::parse_agent_id(&state, id));
        let bound = key.flatten().and_then(|key| state.identities.of_agents.get(&key));
        let of = match (key, bound) {
            (None, _) => None,
            (Some(key), Some(Bound::Own { until_ms, .. })) if *until_ms <= now_ms => key,
            (Some(key), Some(Bound::Revoked { .. })) => key,
            _ => return,
        };
        let is_good = |text: &str| {
            let hash = SecretHash(api_http::join_token_hash(text.as_bytes()));
            let found = state.identities.token(&hash);
            found.is_some_and(|(_, token)| token.agent == of && token.is_good(now_ms))
        };
        let path = door.folder.join(TOKEN);
        if std::fs::read_to_string(&path).is_ok_and(|text| is_good(&text)) {
            return;
        }
        // Now and then one that others have used up.
        let is_kept = |text: &String| is_good(text) || (!self.world.is_quiet() && self.random.clone().permille(300));
        let token = match self.last.clone().filter(|text| of.is_none() && is_kept(text)) {
            Some(text) => text,
            None => {
                let uses = if of.is_some() { 1 } else { self.random.range(1, 3) };
                let life_s = self.random.range(3, 40);
                let alone = door.agent_id.as_ref().filter(|_| of.is_some());
                let alone = alone.map(|id| format!(r#", "agent_id": "{id}""#)).unwrap_or_default();
                let mint = format!(r#""uses": {uses}, "life_secs": {life_s}{alone}"#);
                let Some(answer) = self.ask("MINT_JOIN_TOKEN", &mint).await else { return };
                let Some(token) = answer["join_token"].as_str() else { return };
                if of.is_none() {
                    self.last = Some(token.to_owned());
                }
                token.to_owned()
            }
        };
        if let Err(error) = std::fs::write(&path, token) {
            self.world.violated("identities", format!("a token cannot be left: {error}"));
        }
    }

    /// Identities are changed and taken away, and tokens.
    async fn interfere(&mut self) {
        let state = self.state();
        let choice = self.random.below(20);
        let agents: Vec<String> = state.identities.of_agents.keys().map(|key| view::agent_id(&state, *key)).collect();
        let tokens: Vec<u64> = state.identities.tokens.keys().map(|key| key.0).collect();
        let (agent, token) = (self.random.pick(&agents).cloned(), self.random.pick(&tokens).copied());
        let of_agent = agent.map(|id| format!(r#""agent_id": "{id}""#));
        match (choice, of_agent, token) {
            (0..=2, Some(agent), _) => self.ask("ROTATE_IDENTITY", &agent).await,
            (3, Some(agent), _) => self.ask("REVOKE_IDENTITY", &agent).await,
            (4, Some(agent), _) if self.random.permille(200) => self.ask("RELEASE_AGENT", &agent).await,
            (5, _, Some(token)) => self.ask("REVOKE_JOIN_TOKEN", &format!(r#""token": {token}"#)).await,
            _ => None,
        };
    }

    /// What is answered, if it was done.
    async fn ask(&mut self, kind: &str, fields: &str) -> Option<Value> {
        let masters = self.masters.lock().clone();
        let master = self.random.pick(&masters).cloned()?;
        let body = format!(r#"{{"type": "{kind}", "{}": {{{fields}}}}}"#, kind.to_ascii_lowercase());
        let headers = [("content-type", "application/json".to_owned())];
        let asked = self.net.post("doorkeeper", &master, "/identities", &headers, Bytes::from(body));
        let answer = timeout(PATIENCE, asked).await.ok().and_then(Result::ok);
        let status = answer.as_ref().map(|(status, _)| status.as_u16());
        self.world.trace(format_args!("{kind} of {fields} at {master} is answered {status:?}"));
        let (_, body) = answer.filter(|(status, _)| status.is_success())?;
        Some(serde_json::from_slice(&body).unwrap_or_default())
    }
}
