//! The story of feature levels: which shapes of events and of State a cluster writes. A level is in force by an event,
//! and is raised only when every master reads it; until then an older release may take any master's place.
//!
//! ```text
//! level 1   what the first release writes
//! level 2   what each master reads is in the log; digests of State are in the log
//! level 3   what is large ends in steps; what is remembered has bounds: statuses, expired filters, history by flags
//! level 4   the resource model: operations, roles with quota and weights, drains, maintenance; sections of snapshots
//!           have names
//! level 5   agents join by tokens and have identities
//! level 6   agents have resource providers
//! ```

use crate::decide::{Draft, Reply};
use crate::event::{FeatureLevelRaised, MasterReads};
use crate::ids::NodeId;
use crate::refusal::{Refusal, RefusalKind};
use crate::state::State;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Which shapes of events and of State are written, or are read. Each level reads all that are below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FeatureLevel(pub u32);

impl FeatureLevel {
    /// Where every cluster begins.
    pub const FIRST: FeatureLevel = FeatureLevel(1);
    /// The highest that this release reads, and the highest that it writes.
    pub const NEWEST: FeatureLevel = FeatureLevel(6);

    /// Whether digests of State are logged.
    pub fn has_digests(self) -> bool {
        self >= FeatureLevel(2)
    }

    /// Whether what is too large for one record may be begun in one and gone on with in others.
    pub fn has_steps(self) -> bool {
        self >= FeatureLevel(3)
    }

    /// Whether what was is forgotten by bounds that level 2 does not have.
    pub fn forgets(self) -> bool {
        self >= FeatureLevel(3)
    }

    /// Whether there are operations on resources, quota, weights, drains and maintenance, and what comes with them.
    pub fn has_resource_model(self) -> bool {
        self >= FeatureLevel(4)
    }

    /// Whether agents join by tokens, have identities, and are bound to principals.
    pub fn has_identities(self) -> bool {
        self >= FeatureLevel(5)
    }

    /// Whether agents have resource providers, and operations that only these know the outcome of.
    pub fn has_providers(self) -> bool {
        self >= FeatureLevel(6)
    }

    /// Whether what each master reads is logged when it starts.
    pub fn has_reads(self) -> bool {
        self >= FeatureLevel(2)
    }
}

impl Default for FeatureLevel {
    fn default() -> FeatureLevel {
        FeatureLevel::FIRST
    }
}

impl fmt::Display for FeatureLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// From now on shapes of `level` are written. `masters` are all members of the quorum with what each said that it reads:
/// none may be left out that State believes to be alive.
pub(crate) fn raise(
    draft: &mut Draft,
    level: FeatureLevel,
    digest_every: u64,
    masters: &[(NodeId, FeatureLevel)],
) -> Result<Reply, Refusal> {
    if level <= draft.state.feature_level {
        return Ok(Reply::Empty);
    }
    let refusal = |why: String| Refusal::new(RefusalKind::Conflict, "FeatureLevel", why);
    if level > FeatureLevel::NEWEST {
        let newest = FeatureLevel::NEWEST;
        return Err(refusal(format!("Feature level {level} is above {newest}, the highest that the leader reads")));
    }
    if let Some((node, reads)) = masters.iter().find(|(_, reads)| *reads < level) {
        return Err(refusal(format!("Master {:016x} reads feature levels up to {reads}, not {level}", node.0)));
    }
    let unasked = draft
        .state
        .masters
        .iter()
        .find(|(node, master)| master.alive && !masters.iter().any(|(known, _)| known == *node));
    if let Some((_, master)) = unasked {
        return Err(refusal(format!("It is not known which feature levels master {} reads", master.address)));
    }
    let masters = masters.iter().map(|(node, reads)| MasterReads { node: *node, reads: *reads }).collect();
    draft.push(FeatureLevelRaised { level, digest_every, masters });
    Ok(Reply::Empty)
}

/// Refuses what needs shapes of level 4 until they are written. `what` begins a sentence.
pub(crate) fn check_resource_model(state: &State, what: &str) -> Result<(), Refusal> {
    if state.feature_level.has_resource_model() {
        return Ok(());
    }
    let why = format!("{what} is not possible until every master of this cluster has been upgraded");
    Err(Refusal::new(RefusalKind::Conflict, "FeatureLevel", why))
}

/// Whether a master that reads levels up to `reads` can take part.
pub(crate) fn check(draft: &Draft, address: &str, reads: FeatureLevel) -> Result<(), Refusal> {
    let level = draft.state.feature_level;
    if reads >= level {
        return Ok(());
    }
    let why = format!(
        "This cluster writes feature level {level}, and master {address} reads levels up to {reads}: it needs a newer release"
    );
    Err(Refusal::new(RefusalKind::Conflict, "FeatureLevel", why))
}

/// Refuses what no master of an older release could read, until all are newer.
pub(crate) fn needs_resource_model(state: &State, what: &str) -> Result<(), Refusal> {
    if state.feature_level.has_resource_model() {
        return Ok(());
    }
    let why = format!("{what} is not possible until every master of this cluster has been upgraded");
    Err(Refusal::new(RefusalKind::Conflict, "FeatureLevel", why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Caller, Command};
    use crate::testing::{Cluster, master};

    fn raise(cluster: &mut Cluster, level: u32, masters: &[(u64, u32)]) -> Result<Vec<&'static str>, String> {
        let masters = masters.iter().map(|(node, reads)| (NodeId(*node), FeatureLevel(*reads))).collect();
        let command = Command::RaiseFeatureLevel { level: FeatureLevel(level), digest_every: 100, masters };
        cluster.run(command, &Caller::default()).map_err(|refusal| refusal.message)
    }

    #[test]
    fn a_level_is_raised_once_and_only_when_every_master_reads_it() {
        let mut cluster = Cluster::new();
        cluster.start_master(master(2, 1));
        assert!(raise(&mut cluster, 2, &[(1, 2), (2, 1)]).unwrap_err().contains("reads feature levels up to 1, not 2"));
        assert!(raise(&mut cluster, 2, &[(1, 2)]).unwrap_err().contains("It is not known which"));
        assert!(raise(&mut cluster, 7, &[(1, 7), (2, 7)]).unwrap_err().contains("above 6"));
        assert_eq!(cluster.state.feature_level, FeatureLevel::FIRST);

        assert_eq!(raise(&mut cluster, 2, &[(1, 2), (2, 2)]).unwrap(), ["feature-level-raised"]);
        assert_eq!(cluster.state.feature_level, FeatureLevel(2));
        assert_eq!(cluster.state.masters[&NodeId(2)].reads, FeatureLevel(2));
        assert_eq!(raise(&mut cluster, 2, &[(1, 2), (2, 2)]).unwrap(), [""; 0], "once is enough");
        assert_eq!(raise(&mut cluster, 1, &[(1, 2), (2, 2)]).unwrap(), [""; 0], "and it never goes back");
    }

    #[test]
    fn a_master_that_is_lost_does_not_hold_the_others_up_but_cannot_come_back_as_it_was() {
        let mut cluster = Cluster::new();
        cluster.start_master(master(2, 1));
        cluster.lose_master(2);
        raise(&mut cluster, 2, &[(1, 2)]).unwrap();
        let start = |reads| Command::StartMaster {
            master: master(2, 2),
            address: "h:2".into(),
            version: "0.0.9".into(),
            reads: FeatureLevel(reads),
        };
        let refusal = cluster.run(start(1), &Caller::default()).unwrap_err();
        assert_eq!(
            refusal.message,
            "This cluster writes feature level 2, and master h:2 reads levels up to 1: it needs a newer release"
        );
        assert_eq!(cluster.run(start(2), &Caller::default()).unwrap(), ["master-started"]);
        assert_eq!(cluster.state.masters[&NodeId(2)].reads, FeatureLevel(2));
    }
}
