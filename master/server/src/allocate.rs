//! The allocator's clock: plans are made off the writer, from a clone of the state that it decides on, and come back as a
//! command that is decided like any other. What a plan was made from need not be committed yet: the offers come behind it.

use crate::allocations::Shared;
use crate::context::Reader;
use crate::flags::AllocatorSettings;
use crate::flags::allocator::hostnames;
use event_log::{Steady, host};
use master_core::State;
use master_core::command::{Caller, Command};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Reasons that come soon after a plan make one plan together: within so many times what that took, and this long at most. The
/// first after a quiet time is not kept waiting.
const GATHER: u32 = 4;
const GATHER_MAX: Duration = Duration::from_millis(2);

/// How often the whitelist is read again.
const WHITELIST_READ: Duration = Duration::from_secs(5);

/// What there is to plan from, while this master leads.
#[derive(Default)]
pub(crate) struct Outlook {
    head: Mutex<Option<State>>,
    changed: Notify,
}

impl Outlook {
    /// This is decided, and nothing before it is looked at any more. Whoever plans has a reason to, if `asks_for_offers`.
    pub(crate) fn show(&self, head: &State, asks_for_offers: bool) {
        *self.head.lock() = Some(head.clone());
        if asks_for_offers {
            self.changed.notify_one();
        }
    }

    /// This master does not lead.
    pub(crate) fn close(&self) {
        *self.head.lock() = None;
    }

    fn head(&self) -> Option<State> {
        self.head.lock().clone()
    }
}

/// Makes a plan every `interval`, and soon after a reason, as long as this master leads. What the plans are made from is
/// kept from one to the next and follows the state, so that each costs what has changed.
pub(crate) async fn run(
    reader: Reader,
    clock: Arc<Steady>,
    outlook: Arc<Outlook>,
    interval: Duration,
    settings: AllocatorSettings,
    allocations: Shared,
) {
    let mut options = settings.options;
    let mut read_at = Instant::now();
    let mut next_at = Instant::now();
    loop {
        let mut asked_at = None;
        tokio::select! {
            () = outlook.changed.notified() => {
                asked_at = Some(Instant::now());
                if Instant::now() < next_at {
                    tokio::time::sleep_until(next_at).await;
                }
            }
            () = tokio::time::sleep(interval) => {}
        }
        let Some(head) = outlook.head() else {
            allocations.forget();
            continue;
        };
        let began = Instant::now();
        if let Some(path) = settings.whitelist.as_ref().filter(|_| began - read_at >= WHITELIST_READ) {
            read_at = began;
            match hostnames(path) {
                Ok(hosts) => options.whitelist = Some(hosts),
                Err(why) => tracing::warn!(%why, "the whitelist stays as it was"),
            }
        }
        let (whitelist, at_ms) = (options.whitelist.clone(), clock.now_ms());
        let (shared, options) = (allocations.clone(), options.clone());
        let planned = host::blocking(move || {
            shared.with_ledger(&head, &options, |ledger| {
                ledger.set_whitelist(whitelist);
                ledger.plan(at_ms)
            })
        });
        let planned = planned.await;
        let took = began.elapsed();
        // Reasons may come faster than large clusters can be planned: leave time for everything else.
        next_at = Instant::now() + (GATHER * took).min(GATHER_MAX.max(took));
        match planned {
            Ok(plan) => {
                allocations.ran(took, asked_at.map_or(Duration::ZERO, |asked_at| began - asked_at));
                if !plan.is_empty() {
                    // The outcome does not matter: what was not offered now is found by the next plan.
                    let _ = reader.submit(Command::MakeOffers { plan }, Caller::default()).await;
                }
            }
            // What it was made from is gone with it: the next is made from nothing.
            Err(error) => tracing::error!(%error, "the allocator failed"),
        }
    }
}
