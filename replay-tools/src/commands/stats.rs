//! What a log consists of.

use crate::Failure;
use crate::args::Args;
use crate::commands::state;
use crate::output::{Output, time};
use crate::progress::Progress;
use crate::replay;
use crate::source::{Entry, Source};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Events of one kind, or caused by one type of call.
#[derive(Clone, Copy, Default)]
struct Share {
    events: u64,
    /// Of their payloads.
    bytes: u64,
}

#[derive(Default)]
struct Stats {
    records: u64,
    /// Records without effect.
    skipped: u64,
    total: Share,
    kinds: BTreeMap<String, Share>,
    calls: BTreeMap<String, Share>,
    /// How many records have so many events.
    sizes: BTreeMap<u64, u64>,
    terms: BTreeSet<u64>,
    first: Option<(u64, u64)>,
    last: Option<(u64, u64)>,
}

/// `stats [DIR]`
pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let source = Source::open(&args.dir()?)?;
    let (from, to) = state::span(args, &source)?;
    state::tell_holes(&source, from, to)?;
    let mut stats = Stats::default();
    let mut replay = replay::begin(source.kind());
    // Where the beginning is gone, or not asked for, which records took effect is known from a snapshot on.
    let (first, unknown_to) = state::begin_before(&source, from, |content| replay.resume(content))?;
    let mut progress = Progress::new("counting", to);
    let damage = source.walk_to_damage(first, to, |entry| {
        progress.reached(entry.index);
        let effective = entry.index <= unknown_to || replay.admit(&entry);
        if entry.index >= from {
            let names = entry.names().map_err(Failure::in_record(entry.index))?;
            stats.count(&entry, names.into_iter(), effective);
        }
        Ok::<_, Failure>(())
    })?;
    drop(progress);
    output.line(|| stats.text(), || stats.json())?;
    damage.map_or(Ok(()), |damage| Err(damage.into()))
}

impl Stats {
    fn count(&mut self, entry: &Entry, names: impl Iterator<Item = String>, effective: bool) {
        let record = &entry.record;
        self.records += 1;
        self.skipped += u64::from(!effective);
        *self.sizes.entry(record.events.len() as u64).or_default() += 1;
        self.terms.insert(record.header.term);
        self.first.get_or_insert((entry.index, record.header.at_ms));
        self.last = Some((entry.index, record.header.at_ms));
        for (name, raw) in names.zip(&record.events) {
            let call = record.causes.get(raw.cause as usize).map_or("-", |cause| cause.call.as_str());
            let shares =
                [&mut self.total, self.kinds.entry(name).or_default(), self.calls.entry(call.to_owned()).or_default()];
            for share in shares {
                share.events += 1;
                share.bytes += raw.payload.len() as u64;
            }
        }
    }

    /// The number of events that `percent` of all records do not exceed.
    fn size_at(&self, percent: u64) -> u64 {
        let mut seen = 0;
        let found = self.sizes.iter().find(|(_, records)| {
            seen += **records;
            u128::from(seen) * 100 >= u128::from(self.records) * u128::from(percent)
        });
        found.map_or(0, |(size, _)| *size)
    }

    fn text(&self) -> String {
        let mut text = format!("records      {} ({} without effect)\n", self.records, self.skipped);
        let _ = writeln!(text, "events       {} with {} bytes", self.total.events, self.total.bytes);
        if let (Some((first, from)), Some((last, to))) = (self.first, self.last) {
            let seconds = to.saturating_sub(from) / 1000;
            let _ = writeln!(text, "indexes      {first} to {last}");
            let _ = writeln!(text, "time         {} to {} ({seconds} s)", time(from), time(to));
        }
        let _ = writeln!(text, "leaderships  {}", self.terms.len());
        let [half, most, all] = [50, 99, 100].map(|percent| self.size_at(percent));
        let _ = writeln!(text, "batch        {half} events in half of the records, {most} in 99 %, at most {all}");
        for (title, shares) in [("event", &self.kinds), ("cause", &self.calls)] {
            let _ = write!(text, "\n{title:<30} {:>10} {:>12}", "events", "bytes");
            let mut shares: Vec<_> = shares.iter().collect();
            shares.sort_by_key(|(_, share)| std::cmp::Reverse(share.events));
            for (name, Share { events, bytes }) in shares {
                let _ = write!(text, "\n{name:<30} {events:>10} {bytes:>12}");
            }
            text.push('\n');
        }
        text.trim_end().to_owned()
    }

    fn json(&self) -> Value {
        let table = |shares: &BTreeMap<String, Share>| {
            let row = |(name, share): (&String, &Share)| {
                (name.clone(), json!({ "events": share.events, "bytes": share.bytes }))
            };
            Value::Object(shares.iter().map(row).collect::<Map<_, _>>())
        };
        json!({
            "records": self.records, "skipped": self.skipped, "events": self.total.events, "bytes": self.total.bytes,
            "first_index": self.first.map(|(index, _)| index), "last_index": self.last.map(|(index, _)| index),
            "first_at": self.first.map(|(_, at_ms)| time(at_ms)), "last_at": self.last.map(|(_, at_ms)| time(at_ms)),
            "leaderships": self.terms.len(),
            "batch_events": { "p50": self.size_at(50), "p99": self.size_at(99), "max": self.size_at(100) },
            "by_event": table(&self.kinds), "by_cause": table(&self.calls),
        })
    }
}
