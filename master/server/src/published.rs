//! The committed state as readers on this master see it.

use master_core::State;
use std::sync::Arc;
use tokio::sync::watch;

/// State after the record at `index`, and every record before it.
#[derive(Clone, Debug)]
pub struct Published {
    /// The fold of everything up to `index`.
    pub state: Arc<State>,
    /// The last Raft index folded here.
    pub index: u64,
}

impl Published {
    /// Nothing folded yet.
    pub fn empty() -> Published {
        Published { state: Arc::new(State::default()), index: 0 }
    }
}

/// Waits until this master has folded everything up to `index`.
pub(crate) async fn wait_for(published: &watch::Receiver<Published>, index: u64) -> Published {
    let mut published = published.clone();
    if let Ok(now) = published.wait_for(|now| now.index >= index).await {
        return now.clone();
    }
    // The applier ends with the process; whoever waits then has nobody left to answer to.
    std::future::pending().await
}
