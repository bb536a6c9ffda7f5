//! The story of one thing, or, with `--events`, the events that touched it as they are stored.

use crate::Failure;
use crate::args::{Args, Usage};
use crate::commands::{cat, state};
use crate::output::Output;
use crate::place::Place;
use crate::progress::Progress;
use crate::source::{Entry, Source};
use crate::story::{Line, Narrator, Subject, Topic, teller};
use api::terminal::plain;
use serde_json::json;
use std::path::PathBuf;

/// `explain task|agent|framework|offer|role ID [DIR]`
pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let (subject, rest) = match args.words.as_slice() {
        [topic, id, rest @ ..] => (Subject::new(topic, id).map_err(Usage)?, rest),
        _ => return Err(Usage("explain what? Name a task, an agent, a framework, an offer or a role".into()).into()),
    };
    let dir = match rest {
        [] => PathBuf::from("."),
        [dir] => PathBuf::from(dir),
        [_, more, ..] => return Err(Usage(format!("one folder is enough: what is {more:?}?")).into()),
    };
    let source = Source::open(&dir)?;
    let told = if args.has("events") {
        cat::events_of(args, source, &subject, output)?
    } else {
        tell(args, &source, &subject, output)?
    };
    if !told {
        let Subject { id, topic } = &subject;
        let word = topic.word();
        // Silence has a reason, too.
        let hint = match topic {
            Topic::Task => {
                ": nobody tried to launch it; ask explain framework or explain role why it was offered nothing that fits"
            }
            _ => "",
        };
        return Err(Failure::Damaged(format!("nothing in this log concerns the {word} {id}{hint}")));
    }
    Ok(())
}

/// Whether there was anything to tell.
fn tell(args: &Args, source: &Source, subject: &Subject, output: &mut Output) -> Result<bool, Failure> {
    let (from, _) = args.span()?;
    let (_, to) = state::span(args, source)?;
    let mut story = teller(source.kind(), subject.clone());
    let gone = state::oldest(source, |content| story.resume(content))?;
    if gone > 0 {
        eprintln!("meseta-log: what happened up to index {gone} is known by its outcome only");
    }
    // The title says what the end knows, so lines wait for it; a terminal sees how far it is.
    let mut lines = Vec::new();
    let mut progress = Progress::new("reading", to);
    // What came before damage can be told.
    let damage = source.walk_to_damage(if gone > 0 { gone + 1 } else { 0 }, to, |entry| {
        progress.reached(entry.index);
        let sentences = story.tell(&entry).map_err(Failure::in_record(entry.index))?;
        if !is_early(from, &entry) {
            for (at, shown, sentence) in sentences {
                lines.push(Line::new(&entry, at, &shown, sentence, story.leader()));
            }
        }
        Ok::<_, Failure>(())
    })?;
    drop(progress);
    let damage = damage.map_or(Ok(()), |damage| Err(damage.into()));
    // With a snapshot alone there may be an outcome to tell, and no lines.
    if lines.is_empty() && !story.knows() {
        return damage.map(|()| false);
    }
    let ending = story.ending();
    if output.is_json() {
        for line in &lines {
            output.line(String::new, || line.json())?;
        }
        output.line(String::new, || json!({ "index": to, "title": story.title(), "ending": ending }))?;
        return damage.map(|()| true);
    }
    let mut narrator = Narrator::default();
    let short = Short::new(story.cluster(), args.has("full"));
    let mut text = vec![short.title(&story.title()), String::new()];
    for line in lines {
        text.append(&mut narrator.line(line));
    }
    text.append(&mut narrator.rest());
    text.push(String::new());
    text.extend(ending);
    for line in text {
        output.line(|| plain(&short.line(&line)).into_owned(), || serde_json::Value::Null)?;
    }
    damage.map(|()| true)
}

/// There is one cluster in a log: its id is told once, and every other id without it.
struct Short {
    prefix: Option<String>,
}

impl Short {
    fn new(cluster: String, full: bool) -> Short {
        Short { prefix: Some(cluster).filter(|cluster| !full && cluster.len() > 8).map(|cluster| cluster + "-") }
    }

    fn title(&self, title: &str) -> String {
        let cluster = self.prefix.as_ref().map(|prefix| prefix.trim_end_matches('-'));
        cluster.map_or_else(|| title.to_owned(), |cluster| format!("{}, in cluster {cluster}", self.line(title)))
    }

    fn line(&self, line: &str) -> String {
        self.prefix.as_ref().map_or_else(|| line.to_owned(), |prefix| line.replace(prefix, ""))
    }
}

fn is_early(from: Option<Place>, entry: &Entry) -> bool {
    match from {
        None => false,
        Some(Place::Index(from)) => entry.index < from,
        Some(Place::Time(from)) => entry.record.header.at_ms < from,
    }
}
