//! The allocator's clock: plans are made off the writer, from a clone of the committed state, and come back as a
//! command that is decided like any other.

use crate::context::Reader;
use event_log::{Steady, host};
use master_core::allocator::{self, Options};
use master_core::command::{Caller, Command};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Reasons that come together make one plan.
const GATHER: Duration = Duration::from_millis(2);

/// Makes a plan every `interval`, and soon after a reason, as long as this master leads.
pub(crate) async fn run(reader: Reader, clock: Arc<Steady>, wake: Arc<Notify>, interval: Duration, options: Options) {
    let options = Arc::new(options);
    loop {
        tokio::select! {
            () = wake.notified() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(interval) => {}
        }
        if !reader.leader().is_some_and(|leader| leader.is_me) {
            continue;
        }
        let began = Instant::now();
        let (state, _) = reader.state();
        let (options, at_ms) = (options.clone(), clock.now_ms());
        let plan = host::blocking(move || {
            let plan = allocator::plan(&state, at_ms, &options);
            // Who is to leave an agent is asked when offers are made, whether or not there are any.
            let is_needed = !plan.is_empty() || master_core::inverse_offers_are_due(&state, at_ms);
            is_needed.then_some(plan)
        });
        let plan = plan.await;
        let took = began.elapsed();
        match plan {
            Ok(Some(plan)) => {
                // The outcome does not matter: what was not offered now is found by the next plan.
                let _ = reader.submit(Command::MakeOffers { plan }, Caller::default()).await;
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "the allocator failed"),
        }
        // Reasons may come faster than large clusters can be planned: leave time for everything else.
        tokio::time::sleep(took).await;
    }
}
