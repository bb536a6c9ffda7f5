//! What happened to one thing, told in sentences: each event that touched it, what else decided its fate, who caused
//! each, and how it stands in the end.

mod agent;

use crate::commands::cat::{Told, cause_of};
use crate::output::time;
use crate::replay;
use crate::shown::Shown;
use crate::source::{Entry, Kind};
pub(crate) use master_story::{Sentence, Story, Subject, Topic, phrase};
use phrase::span;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read;

/// Whoever tells of one log.
pub(crate) trait Teller {
    /// Goes on from a snapshot instead of from the beginning.
    ///
    /// # Errors
    /// One sentence: it is none.
    fn resume(&mut self, from: &mut dyn Read) -> Result<(), String>;

    /// Sentences for events of an entry by their position, in order. Folds the entry.
    ///
    /// # Errors
    /// One sentence: an event cannot be read or folded.
    fn tell(&mut self, entry: &Entry) -> Result<Vec<(usize, Shown, Sentence)>, String>;

    /// Who led when the last entry was made: term and address.
    fn leader(&self) -> Option<(u64, String)>;

    /// The id of the cluster, as far as it is known: what every id on the wire begins with.
    fn cluster(&self) -> String;

    /// Whether the subject is known, even if nothing that touched it is in the log.
    fn knows(&self) -> bool;

    /// The first line: what it is.
    fn title(&self) -> String;

    /// How it stands after the last entry.
    fn ending(&self) -> Vec<String>;
}

/// For this kind of log.
pub(crate) fn teller(kind: Kind, subject: Subject) -> Box<dyn Teller> {
    match kind {
        Kind::Master => Box::new(Story::new(subject)),
        Kind::Agent => Box::new(agent::Agent::new(subject)),
    }
}

impl Teller for Story {
    fn resume(&mut self, from: &mut dyn Read) -> Result<(), String> {
        let (gate, state) = replay::read_master_snapshot(from)?;
        self.resume(gate, state);
        Ok(())
    }

    fn tell(&mut self, entry: &Entry) -> Result<Vec<(usize, Shown, Sentence)>, String> {
        self.tell(entry.term, &entry.record, replay::of_master(entry)?)
    }

    fn leader(&self) -> Option<(u64, String)> {
        self.leader()
    }

    fn cluster(&self) -> String {
        self.cluster()
    }

    fn knows(&self) -> bool {
        self.knows()
    }

    fn title(&self) -> String {
        self.title()
    }

    fn ending(&self) -> Vec<String> {
        self.ending()
    }
}

/// A sentence in its place.
pub(crate) struct Line {
    index: u64,
    at_ms: u64,
    leader: Option<(u64, String)>,
    by: Option<String>,
    sentence: Sentence,
    /// The event with all that is known about it.
    event: Value,
}

impl Line {
    /// For the event at this position of the entry.
    pub(crate) fn new(
        entry: &Entry,
        at: usize,
        shown: &Shown,
        sentence: Sentence,
        leader: Option<(u64, String)>,
    ) -> Line {
        let cause = cause_of(entry, at);
        let event = Told { entry, shown, cause, takes_effect: true }.json();
        let by = cause.map(phrase::by);
        Line { index: entry.index, at_ms: entry.record.header.at_ms, leader, by, sentence, event }
    }

    /// One object.
    pub(crate) fn json(&self) -> Value {
        let mut object = self.event.clone();
        object["sentence"] = self.sentence.text.clone().into();
        object["beside"] = self.sentence.beside.into();
        object["leader"] = match &self.leader {
            Some((term, address)) => json!({ "term": term, "address": address }),
            None => Value::Null,
        };
        object
    }
}

/// So many routine events in a row are told one by one; more are counted.
const ROUTINE_MAX: usize = 3;

/// Writes lines as they come; routine ones wait until it is known how many there are.
#[derive(Default)]
pub(crate) struct Narrator {
    waiting: Vec<Line>,
    /// Beyond those that wait: how many of each, and the last place.
    more: BTreeMap<&'static str, u64>,
    last: Option<(u64, u64)>,
    leader: Option<(u64, String)>,
    before_ms: Option<u64>,
}

impl Narrator {
    /// The text that a line leads to, if any yet.
    pub(crate) fn line(&mut self, line: Line) -> Vec<String> {
        let Some(many) = line.sentence.routine else {
            let mut text = self.rest();
            text.extend(self.write(&line));
            return text;
        };
        self.last = Some((line.index, line.at_ms));
        if self.waiting.len() < ROUTINE_MAX {
            self.waiting.push(line);
        } else {
            *self.more.entry(many).or_default() += 1;
        }
        Vec::new()
    }

    /// What still waited.
    pub(crate) fn rest(&mut self) -> Vec<String> {
        let waiting = std::mem::take(&mut self.waiting);
        let more = std::mem::take(&mut self.more);
        if more.is_empty() {
            return waiting.iter().flat_map(|line| self.write(line)).collect();
        }
        // The first is told, to show what they are like; the others are counted.
        let mut counts = more;
        for line in &waiting[1..] {
            *counts.entry(line.sentence.routine.unwrap_or("events")).or_default() += 1;
        }
        let mut text: Vec<String> = waiting.first().map(|line| self.write(line)).unwrap_or_default();
        if let Some((index, at_ms)) = self.last {
            let counts: Vec<_> = counts.iter().map(|(many, count)| format!("{many}: {count}")).collect();
            text.push(format!("{:>42}  ... and until #{index}, {}: {}.", "", time(at_ms), counts.join(", ")));
            self.before_ms = Some(at_ms);
        }
        text
    }

    fn write(&mut self, line: &Line) -> Vec<String> {
        let mut text = Vec::new();
        if line.leader.is_some() && line.leader != self.leader {
            self.leader = line.leader.clone();
            if let Some((term, address)) = &self.leader {
                text.push(format!("-- decided by master {address}, leader of term {term}"));
            }
        }
        let since = self
            .before_ms
            .map_or(String::new(), |before_ms| format!("+{}", span(line.at_ms.saturating_sub(before_ms))));
        self.before_ms = Some(line.at_ms);
        let by = line.by.as_ref().map_or(String::new(), |by| format!(" [{by}]"));
        let place = format!("#{}", line.index);
        text.push(format!("{} {since:>9} {place:>7}  {}{by}", time(line.at_ms), line.sentence.text));
        text
    }
}
