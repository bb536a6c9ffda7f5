//! Who waits for what becomes of a container.

use std::collections::BTreeMap;

use agent_core::{Limited, Told};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Those who wait, by container.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Mutex<BTreeMap<String, Vec<Waiter>>>);

#[derive(Debug)]
struct Waiter {
    /// That it runs is news, too.
    for_start: bool,
    /// What it exceeded since somebody waits.
    limited: Option<Limited>,
    sender: oneshot::Sender<Heard>,
}

/// What is heard of a container.
#[derive(Debug)]
pub(crate) struct Heard {
    /// Its start or its end.
    pub(crate) told: Told,
    /// What it exceeded, if that became known while it was waited for.
    pub(crate) limited: Option<Limited>,
}

impl Waiting {
    /// Hears of the end of a container; or of its start, whichever comes first.
    pub(crate) fn wait(&self, container_id: &str, for_start: bool) -> oneshot::Receiver<Heard> {
        let (sender, receiver) = oneshot::channel();
        let mut all = self.0.lock();
        // Who hung up waits no more.
        all.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.sender.is_closed());
            !waiters.is_empty()
        });
        all.entry(container_id.to_owned()).or_default().push(Waiter { for_start, limited: None, sender });
        receiver
    }

    /// Something became of a container.
    pub(crate) fn tell(&self, container_id: &str, told: &Told) {
        let mut all = self.0.lock();
        if let Told::Limited(limited) = told {
            for waiter in all.get_mut(container_id).into_iter().flatten() {
                waiter.limited.get_or_insert_with(|| limited.clone());
            }
            return;
        }
        let Some(waiters) = all.remove(container_id) else { return };
        let is_start = *told == Told::Runs;
        let (now, later): (Vec<_>, Vec<_>) = waiters.into_iter().partition(|waiter| !is_start || waiter.for_start);
        for Waiter { limited, sender, .. } in now {
            let _ = sender.send(Heard { told: told.clone(), limited });
        }
        if !later.is_empty() {
            all.insert(container_id.to_owned(), later);
        }
    }
}
