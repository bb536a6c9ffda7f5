//! The story of one thing, or, with `--events`, the events that touched it as they are stored.

use crate::Failure;
use crate::args::{Args, Usage};
use crate::commands::{cat, state};
use crate::output::Output;
use crate::place::Place;
use crate::progress::Progress;
use crate::source::{Entry, Source};
use crate::story::{Line, Narrator, Subject, teller};
use serde_json::json;
use std::path::PathBuf;

/// `explain task|agent|framework|offer|role ID [DIR]`
pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let (subject, rest) = match args.words.as_slice() {
        [topic, id, rest @ ..] => (Subject::new(topic, id)?, rest),
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
        let (word, id) = (subject.word(), &subject.id);
        return Err(Failure::Damaged(format!("nothing in this log concerns the {word} {id}")));
    }
    Ok(())
}

/// Whether there was anything to tell.
fn tell(args: &Args, source: &Source, subject: &Subject, output: &mut Output) -> Result<bool, Failure> {
    let (from, to) = (args.place("from")?, args.place("to")?);
    let to = to.map(|to| source.index_of(to)).transpose()?.unwrap_or(u64::MAX).min(source.last_index()?);
    let mut story = teller(source.kind(), subject.clone());
    let gone = state::oldest(source, |content| story.resume(content))?;
    if gone > 0 {
        eprintln!("meseta-log: what happened up to index {gone} is known by its outcome only");
    }
    // The title says what the end knows, so lines wait for it; a terminal sees how far it is.
    let mut lines = Vec::new();
    let mut progress = Progress::new("reading", to);
    source.walk(if gone > 0 { gone + 1 } else { 0 }, |entries| {
        for entry in entries {
            let entry = entry?;
            if entry.index > to {
                break;
            }
            progress.reached(entry.index);
            let sentences = story.tell(&entry);
            let sentences =
                sentences.map_err(|why| Failure::Damaged(format!("the record at index {}: {why}", entry.index)))?;
            if is_early(from, &entry) {
                continue;
            }
            for (at, shown, sentence) in sentences {
                lines.push(Line::new(&entry, at, &shown, sentence, story.leader()));
            }
        }
        Ok::<_, Failure>(())
    })?;
    drop(progress);
    if lines.is_empty() {
        return Ok(false);
    }
    let ending = story.ending();
    if output.is_json() {
        for line in &lines {
            output.line(String::new, || line.json())?;
        }
        output.line(String::new, || json!({ "index": to, "title": story.title(), "ending": ending }))?;
        return Ok(true);
    }
    let mut narrator = Narrator::default();
    let mut text = vec![story.title(), String::new()];
    for line in lines {
        text.append(&mut narrator.line(line));
    }
    text.append(&mut narrator.rest());
    text.push(String::new());
    text.extend(ending);
    for line in text {
        output.line(|| line, || serde_json::Value::Null)?;
    }
    Ok(true)
}

fn is_early(from: Option<Place>, entry: &Entry) -> bool {
    match from {
        None => false,
        Some(Place::Index(from)) => entry.index < from,
        Some(Place::Time(from)) => entry.record.header.at_ms < from,
    }
}
