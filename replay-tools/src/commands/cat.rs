//! What happened, one line for each event: all of it, what concerns somebody, or what happens next.

use crate::Failure;
use crate::args::{Args, Usage};
use crate::commands::state;
use crate::output::{Output, time};
use crate::place::Place;
use crate::progress::Progress;
use crate::replay::{self, Replay};
use crate::shown::Shown;
use crate::source::{Entry, Source};
use crate::story::{Subject, Topic};
use event_log::Cause;
use serde_json::{Value, json};
use std::time::Duration;

/// How often a running log is looked at again.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);

/// Which events are wanted.
#[derive(Default)]
struct Filter {
    from: Option<Place>,
    to: Option<Place>,
    name: Option<String>,
    task: Option<String>,
    agent: Option<String>,
    framework: Option<String>,
    offer: Option<String>,
    role: Option<String>,
    principal: Option<String>,
    call: Option<String>,
    peer: Option<String>,
}

impl Filter {
    fn new(args: &Args) -> Result<Filter, Usage> {
        let text = |name| args.get(name).map(str::to_owned);
        Ok(Filter {
            from: args.place("from")?,
            to: args.place("to")?,
            name: text("type"),
            task: text("task"),
            agent: text("agent"),
            framework: text("framework"),
            offer: text("offer"),
            role: text("role"),
            principal: text("principal"),
            call: text("call"),
            peer: text("peer"),
        })
    }

    fn wants(&self, shown: &Shown, cause: Option<&Cause>) -> bool {
        let named = |wanted: &Option<String>, names: &[String], on_wire: bool| {
            let is = |wanted: &String, name: &String| name == wanted || on_wire && is_on_wire(wanted, name);
            wanted.as_ref().is_none_or(|wanted| names.iter().any(|name| is(wanted, name)))
        };
        let principal = cause.and_then(|cause| cause.principal.as_ref());
        let host = |peer: &String| peer.rsplit_once(':').map(|(host, _)| host.to_owned());
        let peer = cause.and_then(|cause| cause.peer.as_ref());
        let is_peer = |wanted: &String| peer.is_some_and(|peer| peer == wanted || host(peer).as_ref() == Some(wanted));
        self.name.as_ref().is_none_or(|name| *name == shown.name)
            && named(&self.task, &shown.touches.tasks, false)
            && named(&self.agent, &shown.touches.agents, true)
            && named(&self.framework, &shown.touches.frameworks, false)
            && named(&self.offer, &shown.touches.offers, true)
            && named(&self.role, &shown.touches.roles, false)
            && self.principal.as_ref().is_none_or(|wanted| principal == Some(wanted))
            && self.call.as_ref().is_none_or(|wanted| cause.is_some_and(|cause| cause.call == *wanted))
            && self.peer.as_ref().is_none_or(is_peer)
    }

    /// Whether what an event concerns depends on what was read before it.
    fn needs_names(&self) -> bool {
        [&self.task, &self.framework, &self.offer, &self.role].into_iter().any(Option::is_some)
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

/// `CLUSTER-S3` on the wire is S3 in the log, `CLUSTER-O7` is O7.
fn is_on_wire(wanted: &str, name: &str) -> bool {
    wanted.strip_suffix(name).is_some_and(|cluster| cluster.ends_with('-'))
}

/// `cat [DIR]`
pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    Walk::new(Source::open(&args.dir()?)?, Filter::new(args)?).go_on(output)
}

/// The events that touched a subject, one line each; whether there were any.
pub(crate) fn events_of(args: &Args, source: Source, subject: &Subject, output: &mut Output) -> Result<bool, Failure> {
    let mut filter = Filter::new(args)?;
    let wanted = match subject.topic {
        Topic::Task => &mut filter.task,
        Topic::Agent => &mut filter.agent,
        Topic::Framework => &mut filter.framework,
        Topic::Offer => &mut filter.offer,
        Topic::Role => &mut filter.role,
    };
    *wanted = Some(subject.id.clone());
    let mut walk = Walk::new(source, filter);
    walk.go_on(output)?;
    Ok(walk.events > 0)
}

/// `follow [DIR]`: until the reader has had enough.
pub(crate) fn follow(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let mut walk = Walk::new(Source::open(&args.dir()?)?, Filter::new(args)?);
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

/// A way through a log, from its beginning: to know whose an event is, one must have read that far.
struct Walk {
    source: Source,
    filter: Filter,
    replay: Box<dyn Replay>,
    next: u64,
    /// Up to here the log is there, but not what it follows: which records take effect is not known.
    unknown_to: u64,
    /// Events that were shown.
    events: u64,
    /// Nothing further on can be wanted.
    ended: bool,
}

impl Walk {
    fn new(source: Source, filter: Filter) -> Walk {
        let replay = replay::begin(source.kind());
        Walk { source, filter, replay, next: 0, unknown_to: 0, events: 0, ended: false }
    }

    /// Where the beginning is gone, what a snapshot knows helps to tell of what follows.
    fn begin(&mut self) -> Result<(), Failure> {
        let gone = state::oldest(&self.source, |content| self.replay.resume(content));
        self.unknown_to = gone.or_else(|failure| {
            eprintln!("meseta-log: {}", event_log::sentence(&failure));
            self.source.last_index()
        })?;
        Ok(())
    }

    /// Shows what is wanted, up to where the log ends now.
    fn go_on(&mut self, output: &mut Output) -> Result<(), Failure> {
        if self.next == 0 {
            self.begin()?;
        }
        let begins_at = self.source.begins_at()?;
        if self.next > 0 && begins_at > self.next {
            let next = self.next;
            eprintln!(
                "meseta-log: the log was shortened: what happened from index {next} to {} is gone",
                begins_at - 1
            );
        }
        let Walk { source, filter, replay, next, unknown_to, events: shown_events, ended } = self;
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
                let events = replay.show(&entry);
                let events =
                    events.map_err(|why| Failure::Damaged(format!("the record at index {}: {why}", entry.index)))?;
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
        line
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
