//! What every master does with committed records: fold, react, deliver to whoever is connected here.

use crate::ahead::Ahead;
use crate::delivery::Delivery;
use crate::equality::Equality;
use crate::http::metrics::Counters;
use crate::published::Published;
use crate::rehearsal::Rehearsal;
use crate::witness::Witness;
use event_log::raft::{CheckSnapshot, Committed, Machine, WriteSnapshot};
use event_log::{Bug, Gate, Steady, planted};
use master_core::effect::Effect;
use master_core::equality::digest_due;
use master_core::{Event, EventError, FeatureLevel, State, decode_record_at, fold_record, react};
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;

/// The fold of the committed log on this master.
pub(crate) struct Applier {
    state: State,
    gate: Gate,
    index: u64,
    /// Index of the last record, whether it took effect or not.
    last: u64,
    ahead: Arc<Ahead>,
    published: watch::Sender<Published>,
    /// Set once this process can hold connections: what was committed before that concerns none of them.
    delivery: Arc<OnceLock<Delivery>>,
    /// Effects of records up to here were not delivered, as far as delivery was not told yet.
    undelivered: Option<u64>,
    /// What is to be delivered once it is published: whoever is woken by an effect finds its cause in State.
    deliveries: Vec<Delivered>,
    equality: Arc<Equality>,
    clock: Arc<Steady>,
    rehearsal: Rehearsal,
    witness: Option<Arc<dyn Witness>>,
    counters: Arc<Counters>,
}

/// What a record led to.
struct Delivered {
    index: u64,
    state: Arc<State>,
    effects: Vec<Effect>,
    undelivered: Option<u64>,
}

impl Applier {
    pub(crate) fn new(
        ahead: Arc<Ahead>,
        published: watch::Sender<Published>,
        delivery: Arc<OnceLock<Delivery>>,
        equality: Arc<Equality>,
        clock: Arc<Steady>,
        rehearsal: Rehearsal,
        witness: Option<Arc<dyn Witness>>,
    ) -> Applier {
        let (state, gate, undelivered) = (State::default(), Gate::default(), Some(0));
        let (index, last) = (0, 0);
        Applier {
            state,
            gate,
            index,
            last,
            ahead,
            published,
            delivery,
            undelivered,
            deliveries: Vec::new(),
            equality,
            clock,
            rehearsal,
            witness,
            counters: Arc::default(),
        }
    }

    /// What happens is counted in `counters`, once this process can hold connections.
    pub(crate) fn counting(self, counters: Arc<Counters>) -> Applier {
        Applier { counters, ..self }
    }

    fn apply_record(&mut self, entry: &Committed) {
        let header = &entry.record.header;
        if let Some(due) = digest_due(&self.state, self.last, entry.index) {
            self.equality.digest(due, self.state.clone());
        }
        self.last = entry.index;
        if !self.gate.admit(entry.term, header) {
            tracing::info!(index = entry.index, term = header.term, n = header.n, "a record takes no effect");
            if let Some(witness) = &self.witness {
                witness.applied(entry, false, &self.state);
            }
            return;
        }
        let events = match self.ahead.take(header.term, header.n) {
            Some(foreseen) => {
                self.state = foreseen.state;
                foreseen.events
            }
            None => self.fold(entry),
        };
        self.clock.observe(header.at_ms);
        self.rehearsal.spoil(&mut self.state, entry.index);
        for event in &events {
            if let Event::StateDigested(event) = event {
                self.equality.logged(event);
            }
        }
        if let Some(witness) = &self.witness {
            witness.applied(entry, true, &self.state);
        }
        if self.delivery.get().is_none() {
            self.undelivered = Some(entry.index);
            return;
        }
        events.iter().for_each(|event| self.counters.count_event(&self.state, event));
        let effects: Vec<_> = events.iter().flat_map(|event| react(&self.state, event)).collect();
        if !effects.is_empty() {
            let state = Arc::new(self.state.clone());
            let undelivered = self.undelivered.take();
            self.deliveries.push(Delivered { index: entry.index, state, effects, undelivered });
        }
    }

    fn deliver(&mut self) {
        let Some(delivery) = self.delivery.get() else { return };
        for Delivered { index, state, effects, undelivered } in self.deliveries.drain(..) {
            delivery.committed(index, state, effects, undelivered);
        }
    }

    fn fold(&mut self, entry: &Committed) -> Vec<Event> {
        let events = match decode_record_at(&entry.record, self.rehearsal.reads) {
            Ok(events) => events,
            Err(error) => halt(entry.index, &self.unreadable(&error)),
        };
        let folded = catch_unwind(AssertUnwindSafe(|| fold_record(&mut self.state, &entry.record.header, &events)));
        if folded.is_err() {
            let names: Vec<_> = events.iter().map(Event::name).collect();
            halt(entry.index, &format!("folding {} broke an invariant", names.join(", ")));
        }
        events
    }

    /// Why a committed record cannot be read, and what can be done about it.
    fn unreadable(&self, error: &EventError) -> String {
        let own = env!("CARGO_PKG_VERSION");
        let leader = self.state.leader.as_ref().and_then(|leader| self.state.masters.get(&leader.master.node));
        match error {
            EventError::Malformed { .. } => format!("its events cannot be read: {error}"),
            EventError::Level { .. } | EventError::Unknown { .. } => format!(
                "{error} ({own}). A newer release wrote it, and a feature level once raised stays: start {} or a \
                 release after it",
                leader.map_or("the release of the other masters".into(), |master| format!(
                    "the release of the master that led, {}, which is {},",
                    master.address, master.version
                ))
            ),
        }
    }

    fn publish(&self) {
        self.published.send_replace(Published { state: Arc::new(self.state.clone()), index: self.index });
    }
}

impl Machine for Applier {
    fn apply(&mut self, entries: Vec<Committed>) {
        let Some(last) = entries.last().map(|entry| entry.index) else { return };
        entries.iter().for_each(|entry| self.apply_record(entry));
        self.index = last;
        self.publish();
        self.deliver();
    }

    fn snapshot(&self) -> WriteSnapshot {
        let (state, (term, n)) = (self.state.clone(), self.gate.position());
        Box::new(move |out| {
            out.write_all(&term.to_be_bytes())?;
            out.write_all(&n.to_be_bytes())?;
            state.write_snapshot(out)?;
            Ok(state.digest().to_vec())
        })
    }

    fn check_snapshot(&self) -> CheckSnapshot {
        Box::new(|from| {
            let mut gate = [0; 16];
            from.read_exact(&mut gate).map_err(|error| error.to_string())?;
            State::check_snapshot(from).map_err(|error| error.to_string())
        })
    }

    fn restore(&mut self, index: u64, from: &mut dyn Read) -> Result<(), String> {
        (self.state, self.gate) = read_snapshot(from, self.rehearsal.reads)?;
        self.clock.observe(self.state.at_ms);
        (self.index, self.last) = (index, index);
        self.undelivered = Some(index);
        self.publish();
        if let Some(witness) = &self.witness {
            witness.restored(index, &self.state);
        }
        // The events between were never seen here, so nobody here was told of them.
        if let Some(delivery) = self.delivery.get().filter(|_| !planted(Bug::MissedEventsIgnored)) {
            let state = Arc::new(self.state.clone());
            delivery.close_all_after(state, "this master caught up by a snapshot");
        }
        Ok(())
    }
}

/// What [`Machine::snapshot`] of an [`Applier`] wrote.
pub(crate) fn read_snapshot(from: &mut dyn Read, reads: FeatureLevel) -> Result<(State, Gate), String> {
    let mut number = || -> Result<u64, String> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes).map_err(|error| format!("the snapshot ends early: {error}"))?;
        Ok(u64::from_be_bytes(bytes))
    };
    let (term, n) = (number()?, number()?);
    let state = State::read_snapshot_at(from, reads).map_err(|error| error.to_string())?;
    let n = if planted(Bug::GateNotInSnapshot) { 0 } else { n };
    Ok((state, Gate::resume(term, n)))
}

/// A committed fact is no opinion: a master that cannot fold it must not serve anything that comes after.
fn halt(index: u64, why: &str) -> ! {
    tracing::error!(index, why, "stopping: a committed record cannot be folded");
    eprintln!("meseta-master: the record at index {index} is committed, but {why}. This master stops.");
    event_log::host::exit(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use event_log::{Cause, Header, RawEvent, Record};
    use master_core::event::AgentDrainEnded;
    use master_core::ids::AgentKey;

    /// As many as need a while.
    const RECORDS: u64 = 500;

    fn ended(n: u64) -> Committed {
        let level = FeatureLevel::NEWEST;
        let event = Event::from(AgentDrainEnded { agent: AgentKey(1) });
        let (number, version, payload) = event.encode_at(level).unwrap();
        let record = Record {
            header: Header { term: 1, n, at_ms: n, feature_level: level.0 },
            causes: vec![Cause::default()],
            events: vec![RawEvent { number, version, cause: 0, payload }],
        };
        Committed { index: n + 1, term: 1, record: Arc::new(record) }
    }

    #[tokio::test]
    async fn who_is_woken_finds_in_state_what_woke_him() {
        let (published, reader) = watch::channel(Published::empty());
        let (delivery, woken) = Delivery::told();
        let delivery = Arc::new(OnceLock::from(delivery));
        let (equality, _logged) = Equality::start();
        let (ahead, clock) = (Arc::new(Ahead::default()), Arc::new(Steady::new()));
        let mut applier = Applier::new(ahead, published, delivery, equality, clock, Rehearsal::default(), None);
        let watcher = std::thread::spawn(move || {
            let mut woken = woken;
            let mut seen = Vec::new();
            while let Some(index) = woken() {
                seen.push((index, reader.borrow().index));
            }
            seen
        });
        applier.apply((0..RECORDS).map(ended).collect());
        drop(applier);
        let seen = watcher.join().unwrap();
        assert_eq!(seen.len() as u64, RECORDS);
        assert!(seen.iter().all(|(index, published)| published >= index), "{seen:?}");
    }
}
