//! Who waits for what becomes of a container.

use std::collections::BTreeMap;

use agent_core::Told;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Those who wait, by container.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Mutex<BTreeMap<String, Vec<Waiter>>>);

#[derive(Debug)]
struct Waiter {
    /// That it runs is news, too.
    for_start: bool,
    sender: oneshot::Sender<Told>,
}

impl Waiting {
    /// Hears of the end of a container; or of its start, whichever comes first.
    pub(crate) fn wait(&self, container_id: &str, for_start: bool) -> oneshot::Receiver<Told> {
        let (sender, receiver) = oneshot::channel();
        let mut all = self.0.lock();
        // Who hung up waits no more.
        all.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.sender.is_closed());
            !waiters.is_empty()
        });
        all.entry(container_id.to_owned()).or_default().push(Waiter { for_start, sender });
        receiver
    }

    /// Something became of a container.
    pub(crate) fn tell(&self, container_id: &str, told: &Told) {
        let mut all = self.0.lock();
        let Some(waiters) = all.remove(container_id) else { return };
        let is_start = *told == Told::Runs;
        let (now, later): (Vec<_>, Vec<_>) = waiters.into_iter().partition(|waiter| !is_start || waiter.for_start);
        now.into_iter().for_each(|waiter| drop(waiter.sender.send(told.clone())));
        if !later.is_empty() {
            all.insert(container_id.to_owned(), later);
        }
    }
}
