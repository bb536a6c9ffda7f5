//! What happened, one line for each event: all of it, what concerns somebody, or what happens next.

use crate::Failure;
use crate::args::{Args, Usage};
use crate::commands::state;
use crate::output::{Output, time};
use crate::place::Place;
use crate::progress::Progress;
use crate::replay::{self, Replay};
use crate::shown::{Shown, kebab};
use crate::source::{Entry, Kind, Source};
use crate::story::{Subject, Topic};
use api::terminal::plain;
use event_log::Cause;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// How often a running log is looked at again.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);

/// Which events are wanted.
#[derive(Default)]
struct Filter {
    from: Option<Place>,
    to: Option<Place>,
    /// Any of these.
    names: Vec<String>,
    /// What they concern: each of these.
    about: Vec<About>,
    principal: Option<String>,
    call: Option<String>,
    peer: Option<String>,
    /// Calls that caused anything.
    calls: BTreeSet<String>,
}

/// Somebody or something, and whether the log knows it.
struct About {
    subject: Subject,
    seen: bool,
}

impl Filter {
    fn new(args: &Args, kind: Kind) -> Result<Filter, Usage> {
        let (from, to) = args.span()?;
        let text = |name| args.get(name).map(str::to_owned);
        let topics = [Topic::Task, Topic::Agent, Topic::Framework, Topic::Offer, Topic::Role];
        let about = topics.into_iter().filter_map(|topic| {
            let subject = Subject { topic, id: args.get(topic.word())?.to_owned() };
            Some(About { subject, seen: false })
        });
        Ok(Filter {
            from,
            to,
            names: event_names(args.get("type"), kind)?,
            about: about.collect(),
            principal: text("principal"),
            call: text("call"),
            peer: text("peer"),
            calls: BTreeSet::new(),
        })
    }

    fn wants(&mut self, shown: &Shown, cause: Option<&Cause>) -> bool {
        let mut is_about = true;
        for about in &mut self.about {
            let is_in = about.subject.is_in(&shown.touches);
            about.seen |= is_in;
            is_about &= is_in;
        }
        if let (Some(_), Some(cause)) = (&self.call, cause)
            && !self.calls.contains(&cause.call)
        {
            self.calls.insert(cause.call.clone());
        }
        let principal = cause.and_then(|cause| cause.principal.as_ref());
        let host = |peer: &String| peer.rsplit_once(':').map(|(host, _)| host.to_owned());
        let peer = cause.and_then(|cause| cause.peer.as_ref());
        let is_peer = |wanted: &String| peer.is_some_and(|peer| peer == wanted || host(peer).as_ref() == Some(wanted));
        let is_call = |wanted: &String| cause.is_some_and(|cause| cause.call.eq_ignore_ascii_case(wanted));
        is_about
            && (self.names.is_empty() || self.names.contains(&shown.name))
            && self.principal.as_ref().is_none_or(|wanted| principal == Some(wanted))
            && self.call.as_ref().is_none_or(is_call)
            && self.peer.as_ref().is_none_or(is_peer)
    }

    /// Who was asked for and never occurred: silence would say that nothing happened to them.
    fn unknown(&self) -> Option<String> {
        if let Some(About { subject, .. }) = self.about.iter().find(|about| !about.seen) {
            return Some(format!("nothing in this part of the log concerns the {} {}", subject.word(), subject.id));
        }
        let wanted = self.call.as_ref()?;
        let seen = self.calls.iter().any(|call| call.eq_ignore_ascii_case(wanted));
        let hint = api::nearest::did_you_mean(self.calls.iter().map(String::as_str), wanted);
        (!seen).then(|| format!("nothing in this part of the log was caused by a call {wanted:?}{hint}"))
    }

    /// Whether what an event concerns depends on what was read before it.
    fn needs_names(&self) -> bool {
        self.about.iter().any(|about| about.subject.topic != Topic::Agent)
    }

    fn begins_after(&self, entry: &Entry) -> bool {
        match self.from {
            None => false,
            Some(Place::Index(index)) => entry.index < index,
            Some(Place::Time(from)) => entry.record.header.at_ms < from,
        }
    }

    fn ends_before(&self, entry: &Entry) -> bool {
        match self.to {
            None => false,
            Some(Place::Index(index)) => entry.index > index,
            Some(Place::Time(to)) => entry.record.header.at_ms > to,
        }
    }
}

/// The names of events in `--type=NAME,NAME`; there are no others than those of the log's kind.
fn event_names(text: Option<&str>, kind: Kind) -> Result<Vec<String>, Usage> {
    let known: Vec<String> = match kind {
        Kind::Master => master_core::Event::KINDS.iter().map(|(_, _, name)| (*name).to_owned()).collect(),
        Kind::Agent => agent_core::Event::KINDS.iter().map(|(_, _, name)| kebab(name)).collect(),
    };
    let words = text.unwrap_or_default().split(',').map(str::trim).filter(|word| !word.is_empty());
    let check = |word: &str| {
        let hint = || api::nearest::did_you_mean(known.iter().map(String::as_str), word);
        let unknown =
            || Usage(format!("--type: there is no event {word:?} in {}'s log{}", kind.with_article(), hint()));
        if known.iter().any(|name| name == word) { Ok(word.to_owned()) } else { Err(unknown()) }
    };
    words.map(check).collect()
}

/// `cat [DIR]`
pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let source = Source::open(&args.dir()?)?;
    state::span(args, &source)?;
    let mut walk = Walk::new(args, source)?;
    walk.go_on(output)?;
    match walk.filter.unknown().filter(|_| walk.events == 0) {
        Some(unknown) => Err(Failure::Damaged(unknown)),
        None => Ok(()),
    }
}

/// The events that touched a subject, one line each; whether there were any.
pub(crate) fn events_of(args: &Args, source: Source, subject: &Subject, output: &mut Output) -> Result<bool, Failure> {
    state::span(args, &source)?;
    let mut walk = Walk::new(args, source)?;
    walk.filter.about.push(About { subject: subject.clone(), seen: false });
    walk.go_on(output)?;
    Ok(walk.events > 0)
}

/// `follow [DIR]`: until the reader has had enough.
pub(crate) fn follow(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let mut walk = Walk::new(args, Source::open(&args.dir()?)?)?;
    loop {
        walk.source.refresh()?;
        walk.go_on(output)?;
        output.flush()?;
        if walk.ended {
            return Ok(());
        }
        std::thread::sleep(FOLLOW_EVERY);
    }
}

/// A way through a log, from a place at which it is known what came before: to know whose an event is, one must have read
/// that far.
struct Walk {
    source: Source,
    filter: Filter,
    replay: Box<dyn Replay>,
    begun: bool,
    next: u64,
    /// Up to here the log is there, but not what it follows: which records take effect is not known.
    unknown_to: u64,
    /// Events that were shown.
    events: u64,
    /// Nothing further on can be wanted.
    ended: bool,
}

impl Walk {
    fn new(args: &Args, source: Source) -> Result<Walk, Failure> {
        let replay = replay::begin(source.kind());
        let filter = Filter::new(args, source.kind())?;
        Ok(Walk { source, filter, replay, begun: false, next: 0, unknown_to: 0, events: 0, ended: false })
    }

    /// Where the beginning is gone, or not wanted, what a snapshot knows helps to tell of what follows.
    fn begin(&mut self) -> Result<(), Failure> {
        self.begun = true;
        let from = self.filter.from.map_or(Ok(0), |from| self.source.first_at(from))?;
        let to = self.filter.to.map_or(Ok(u64::MAX), |to| self.source.index_of(to))?;
        state::tell_holes(&self.source, from, to)?;
        let begin = state::begin_before(&self.source, from, |content| self.replay.resume(content));
        (self.next, self.unknown_to) = begin.or_else(|failure| {
            eprintln!("meseta-log: {}", event_log::sentence(&failure));
            Ok::<_, Failure>((0, self.source.last_index()?))
        })?;
        Ok(())
    }

    /// Shows what is wanted, up to where the log ends now.
    fn go_on(&mut self, output: &mut Output) -> Result<(), Failure> {
        let is_first = !self.begun;
        if is_first {
            self.begin()?;
        }
        let begins_at = self.source.begins_at()?;
        if !is_first && begins_at > self.next {
            let next = self.next;
            eprintln!(
                "meseta-log: the log was shortened: what happened from index {next} to {} is gone",
                begins_at - 1
            );
        }
        let Walk { source, filter, replay, next, unknown_to, events: shown_events, ended, .. } = self;
        let mut progress = Progress::beside_output("reading", source.last_index()?);
        source.walk(*next, |entries| {
            for entry in entries {
                let entry = entry?;
                progress.reached(entry.index);
                let takes_effect = entry.index <= *unknown_to || replay.admit(&entry);
                // The time of a record that has no effect may be ahead of those after it.
                if filter.ends_before(&entry) {
                    *ended = takes_effect || matches!(filter.to, Some(Place::Index(_)));
                    if *ended {
                        break;
                    }
                    continue;
                }
                *next = entry.index + 1;
                *ended = matches!(filter.to, Some(Place::Index(to)) if entry.index >= to);
                let early = filter.begins_after(&entry);
                if early && !filter.needs_names() {
                    continue;
                }
                let events = replay.show(&entry).map_err(Failure::in_record(entry.index))?;
                for (at, shown) in events.iter().enumerate().filter(|_| !early) {
                    let cause = cause_of(&entry, at);
                    if filter.wants(shown, cause) {
                        *shown_events += 1;
                        let told = Told { entry: &entry, shown, cause, takes_effect };
                        output.line(|| told.text(), || told.json())?;
                    }
                }
            }
            Ok(())
        })
    }
}

/// Who caused the event at this position of a record.
pub(crate) fn cause_of(entry: &Entry, at: usize) -> Option<&Cause> {
    entry.record.events.get(at).and_then(|raw| entry.record.causes.get(raw.cause as usize))
}

/// An event with all that is known about it.
pub(crate) struct Told<'a> {
    /// The record in its place.
    pub entry: &'a Entry,
    /// The event itself.
    pub shown: &'a Shown,
    /// Who caused it.
    pub cause: Option<&'a Cause>,
    /// False if the record was left behind by a leadership that was over.
    pub takes_effect: bool,
}

impl Told<'_> {
    /// One line.
    pub(crate) fn text(&self) -> String {
        let header = self.entry.record.header;
        let mut line = format!("{} {} {} {}", self.entry.index, header.term, time(header.at_ms), self.shown);
        if let Some(cause) = self.cause {
            line += &format!(" cause={}", cause.call);
            for (name, value) in [("principal", &cause.principal), ("peer", &cause.peer)] {
                if let Some(value) = value {
                    line += &format!(" {name}={value}");
                }
            }
        }
        if !self.takes_effect {
            line += " (without effect: its leadership was over)";
        }
        plain(&line).into_owned()
    }

    /// One object.
    pub(crate) fn json(&self) -> Value {
        let header = self.entry.record.header;
        let cause = self.cause.map(|cause| {
            let request_id = request_id(cause);
            json!({ "call": cause.call, "principal": cause.principal, "peer": cause.peer, "request_id": request_id })
        });
        json!({
            "index": self.entry.index, "term": header.term, "n": header.n, "at_ms": header.at_ms,
            "at": time(header.at_ms), "event": self.shown.name, "fields": self.shown.json(), "cause": cause,
            "takes_effect": self.takes_effect,
        })
    }
}

/// As in traces: 32 hexadecimal digits.
fn request_id(cause: &Cause) -> String {
    cause.request_id.iter().map(|byte| format!("{byte:02x}")).collect()
}
