//! Older shapes of events. What an old release wrote is lifted when it is read, so that the rest of the code knows one
//! shape of each; and as long as the cluster's feature level is old, the old shape is what is written.
//!
//! A shape is never changed. Its fields are the file format.

use super::*;

/// An older shape of the event `New`.
pub(super) trait Older<New>: Sized {
    /// What it says in today's words. It means the same for ever.
    fn lift(self) -> New;

    /// The event in this shape; None if it says what this shape has no words for.
    fn lower(event: &New) -> Option<Self>;
}

/// `master-started` at level 1: nobody said what a master reads.
#[derive(Serialize, Deserialize)]
pub(super) struct MasterStarted1 {
    master: Incarnation,
    address: Arc<str>,
    version: Arc<str>,
}

impl Older<MasterStarted> for MasterStarted1 {
    fn lift(self) -> MasterStarted {
        let MasterStarted1 { master, address, version } = self;
        MasterStarted { master, address, version, reads: FeatureLevel::FIRST }
    }

    fn lower(event: &MasterStarted) -> Option<MasterStarted1> {
        let MasterStarted { master, address, version, reads } = event;
        let silent = *reads == FeatureLevel::FIRST;
        silent.then(|| MasterStarted1 { master: *master, address: address.clone(), version: version.clone() })
    }
}
