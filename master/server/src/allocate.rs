//! The allocator's clock: plans are made off the writer, from a clone of the committed state, and come back as a
//! command that is decided like any other.

use crate::context::Reader;
use crate::flags::AllocatorSettings;
use crate::flags::allocator::hostnames;
use event_log::{Steady, host};
use master_core::allocator::Ledger;
use master_core::command::{Caller, Command};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Reasons that come so soon after a plan make one plan together. The first after a quiet time is not kept waiting.
const GATHER: Duration = Duration::from_millis(2);

/// How often the whitelist is read again.
const WHITELIST_READ: Duration = Duration::from_secs(5);

/// Makes a plan every `interval`, and soon after a reason, as long as this master leads. What the plans are made from is
/// kept from one to the next and follows the state, so that each costs what has changed.
pub(crate) async fn run(
    reader: Reader,
    clock: Arc<Steady>,
    wake: Arc<Notify>,
    interval: Duration,
    settings: AllocatorSettings,
) {
    let mut kept: Option<Ledger> = None;
    let mut options = settings.options;
    let mut read_at = Instant::now();
    let mut planned_at: Option<Instant> = None;
    loop {
        tokio::select! {
            () = wake.notified() => {
                if planned_at.is_some_and(|at| at.elapsed() < GATHER) {
                    tokio::time::sleep(GATHER).await;
                }
            }
            () = tokio::time::sleep(interval) => {}
        }
        if !reader.leader().is_some_and(|leader| leader.is_me) {
            // Nothing is kept for a leadership that may never come.
            kept = None;
            continue;
        }
        let began = Instant::now();
        if let Some(path) = settings.whitelist.as_ref().filter(|_| began - read_at >= WHITELIST_READ) {
            read_at = began;
            match hostnames(path) {
                Ok(hosts) => options.whitelist = Some(hosts),
                Err(why) => tracing::warn!(%why, "the whitelist stays as it was"),
            }
        }
        let (state, _) = reader.state();
        let (whitelist, at_ms) = (options.whitelist.clone(), clock.now_ms());
        let mut ledger = kept.take().unwrap_or_else(|| Ledger::new(&options));
        let planned = host::blocking(move || {
            ledger.set_whitelist(whitelist);
            ledger.follow(&state);
            let plan = ledger.plan(at_ms);
            // Who is to leave an agent is asked when offers are made, whether or not there are any.
            let is_needed = !plan.is_empty() || master_core::inverse_offers_are_due(&state, at_ms);
            (ledger, is_needed.then_some(plan))
        });
        let planned = planned.await;
        let took = began.elapsed();
        planned_at = Some(Instant::now());
        match planned {
            Ok((ledger, plan)) => {
                kept = Some(ledger);
                if let Some(plan) = plan {
                    // The outcome does not matter: what was not offered now is found by the next plan.
                    let _ = reader.submit(Command::MakeOffers { plan }, Caller::default()).await;
                }
            }
            // What it was made from is gone with it: the next is made from nothing.
            Err(error) => tracing::error!(%error, "the allocator failed"),
        }
        // Reasons may come faster than large clusters can be planned: leave time for everything else.
        if took >= Duration::from_millis(1) {
            tokio::time::sleep(took).await;
        }
    }
}
