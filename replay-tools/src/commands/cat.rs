//! What happened, one line for each event: all of it, what concerns somebody, or what happens next.

use crate::Failure;
use crate::args::{Args, Usage};
use crate::output::{Output, time};
use crate::replay;
use crate::shown::Shown;
use crate::source::{Entry, Source};
use event_log::Cause;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// How often a running log is looked at again.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);

/// Which events are wanted.
#[derive(Default)]
struct Filter {
    from: u64,
    to: u64,
    name: Option<String>,
    task: Option<String>,
    agent: Option<String>,
    framework: Option<String>,
}

impl Filter {
    fn new(args: &Args) -> Result<Filter, Usage> {
        let text = |name| args.get(name).map(str::to_owned);
        Ok(Filter {
            from: args.number("from")?.unwrap_or(0),
            to: args.number("to")?.unwrap_or(u64::MAX),
            name: text("type"),
            task: text("task"),
            agent: text("agent"),
            framework: text("framework"),
        })
    }

    fn wants(&self, shown: &Shown) -> bool {
        let named = |wanted: &Option<String>, names: &[String]| {
            wanted.as_ref().is_none_or(|wanted| names.iter().any(|name| name == wanted || is_agent(wanted, name)))
        };
        self.name.as_ref().is_none_or(|name| *name == shown.name)
            && named(&self.task, &shown.touches.tasks)
            && named(&self.agent, &shown.touches.agents)
            && named(&self.framework, &shown.touches.frameworks)
    }
}

/// `CLUSTER-S3` on the wire is S3 in the log.
fn is_agent(wanted: &str, name: &str) -> bool {
    name.starts_with('S') && wanted.strip_suffix(name).is_some_and(|cluster| cluster.ends_with('-'))
}

/// `cat [DIR]`
pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let filter = Filter::new(args)?;
    list(&Source::open(&args.dir()?)?, &filter, output).map(drop)
}

/// `explain task|agent|framework ID [DIR]`
pub(crate) fn explain(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let (what, id, rest) = match args.words.as_slice() {
        [what, id, rest @ ..] => (what.as_str(), id.clone(), rest),
        _ => return Err(Usage("explain what? Name a task, an agent or a framework and its id".into()).into()),
    };
    let mut filter = Filter::new(args)?;
    match what {
        "task" => filter.task = Some(id.clone()),
        "agent" => filter.agent = Some(id.clone()),
        "framework" => filter.framework = Some(id.clone()),
        other => return Err(Usage(format!("a task, an agent or a framework can be explained, not {other:?}")).into()),
    }
    let dir = match rest {
        [] => PathBuf::from("."),
        [dir] => PathBuf::from(dir),
        [_, more, ..] => return Err(Usage(format!("one folder is enough: what is {more:?}?")).into()),
    };
    let found = list(&Source::open(&dir)?, &filter, output)?;
    if found.events == 0 {
        return Err(Failure::Damaged(format!("nothing in this log concerns the {what} {id}")));
    }
    Ok(())
}

/// `follow [DIR]`: until the reader has had enough.
pub(crate) fn follow(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let mut filter = Filter::new(args)?;
    let source = Source::open(&args.dir()?)?;
    loop {
        source.refresh()?;
        let found = list(&source, &filter, output)?;
        output.flush()?;
        if found.last_index >= filter.to {
            return Ok(());
        }
        filter.from = filter.from.max(found.last_index + 1);
        std::thread::sleep(FOLLOW_EVERY);
    }
}

/// What was gone through.
#[derive(Default)]
struct Found {
    events: u64,
    last_index: u64,
}

fn list(source: &Source, filter: &Filter, output: &mut Output) -> Result<Found, Failure> {
    let mut found = Found::default();
    let mut replay = replay::begin(source.kind());
    // A framework's id is named once, when it subscribes: to know it, one must have read that far.
    let begin = if filter.framework.is_some() || filter.task.is_some() { 0 } else { filter.from };
    for entry in source.entries(begin)? {
        let entry = entry?;
        if entry.index > filter.to {
            break;
        }
        found.last_index = entry.index;
        let events = replay.show(&entry.record);
        let events = events.map_err(|why| Failure::Damaged(format!("the record at index {}: {why}", entry.index)))?;
        if entry.index < filter.from {
            continue;
        }
        for (at, shown) in events.iter().enumerate().filter(|(_, shown)| filter.wants(shown)) {
            found.events += 1;
            let cause = entry.record.events.get(at).and_then(|raw| entry.record.causes.get(raw.cause as usize));
            print(&entry, shown, cause, output)?;
        }
    }
    Ok(found)
}

fn print(entry: &Entry, shown: &Shown, cause: Option<&Cause>, output: &mut Output) -> Result<(), Failure> {
    let header = entry.record.header;
    output.line(
        || {
            let mut line = format!("{} {} {} {shown}", entry.index, header.term, time(header.at_ms));
            if let Some(cause) = cause {
                line += &format!(" cause={}", cause.call);
                for (name, value) in [("principal", &cause.principal), ("peer", &cause.peer)] {
                    if let Some(value) = value {
                        line += &format!(" {name}={value}");
                    }
                }
            }
            line
        },
        || {
            let cause = cause.map(|cause| {
                let request_id: String = cause.request_id.iter().map(|byte| format!("{byte:02x}")).collect();
                json!({
                    "call": cause.call, "principal": cause.principal, "peer": cause.peer, "request_id": request_id
                })
            });
            json!({
                "index": entry.index, "term": header.term, "n": header.n, "at_ms": header.at_ms,
                "event": shown.name, "fields": shown.json(), "cause": cause,
            })
        },
    )?;
    Ok(())
}
