//! What tests may ask of a master beyond its flags: to stand in for an older release, or to go wrong. A release build
//! asks nobody.

use crate::cause;
use master_core::command::Command;
use master_core::{FeatureLevel, State, equality};
use std::sync::Arc;

/// How a master differs from one of this release.
#[derive(Clone, Copy, Debug)]
pub struct Rehearsal {
    /// It behaves as a release that knows the feature levels up to this one.
    pub reads: FeatureLevel,
    /// State is digested so often in a cluster whose feature level this master raises, in indexes.
    pub digest_every: u64,
    /// From this index on its fold is wrong.
    pub differs_from: Option<u64>,
    /// It crashes when it decides this: a call or command by name, or `executor-exited` for that message of an agent.
    pub crashes_on: Option<&'static str>,
}

impl Default for Rehearsal {
    fn default() -> Rehearsal {
        Rehearsal {
            reads: FeatureLevel::NEWEST,
            digest_every: equality::DIGEST_EVERY,
            differs_from: None,
            crashes_on: None,
        }
    }
}

impl Rehearsal {
    /// From `MESETA_REHEARSE_READS`, `_DIGEST_EVERY`, `_DIFFERS_FROM` and `_CRASHES_ON`, in a debug build.
    ///
    /// # Errors
    /// One sentence: a value is no number.
    pub fn from_environment(environment: &impl Fn(&str) -> Option<String>) -> Result<Rehearsal, String> {
        let mut rehearsal = Rehearsal::default();
        if !cfg!(debug_assertions) {
            return Ok(rehearsal);
        }
        let number = |name: &str| -> Result<Option<u64>, String> {
            let Some(text) = environment(name) else { return Ok(None) };
            text.parse().map(Some).map_err(|_| format!("{name} is not a number: '{text}'"))
        };
        if let Some(reads) = number("MESETA_REHEARSE_READS")? {
            let reads = u32::try_from(reads).map_err(|_| "MESETA_REHEARSE_READS is too large")?;
            rehearsal.reads = FeatureLevel(reads);
        }
        rehearsal.digest_every = number("MESETA_REHEARSE_DIGEST_EVERY")?.unwrap_or(rehearsal.digest_every);
        rehearsal.differs_from = number("MESETA_REHEARSE_DIFFERS_FROM")?;
        // Once in the life of a process.
        rehearsal.crashes_on = environment("MESETA_REHEARSE_CRASHES_ON").map(|name| &*name.leak());
        Ok(rehearsal)
    }

    /// Before a decision.
    pub(crate) fn crash(&self, command: &Command) {
        let Some(name) = self.crashes_on else { return };
        let has_exit = match command {
            Command::AgentMessages { messages, .. } => messages
                .iter()
                .any(|message| matches!(message.message, Some(api::internal::from_agent::Message::ExecutorExited(_)))),
            _ => false,
        };
        assert!(cause::name(command) != name && (name != "executor-exited" || !has_exit), "a defect was rehearsed");
    }

    /// After the record at `index`: a fold that went wrong stays wrong.
    pub(crate) fn spoil(&self, state: &mut State, index: u64) {
        if self.differs_from.is_none_or(|from| index < from) {
            return;
        }
        if let Some(node) = state.masters.keys().next().copied()
            && let Some(master) = state.masters.get_mut(&node)
            && &*master.version != "spoiled"
        {
            Arc::make_mut(master).version = "spoiled".into();
        }
    }
}
