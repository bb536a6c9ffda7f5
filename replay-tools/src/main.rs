//! `meseta-log`: reads the log of a master or an agent, running or not, and tells what happened.
//!
//! Exit codes: 0 done; 1 it failed or the log is damaged, with one sentence on stderr; 2 the command line is wrong.

mod args;
mod commands;
mod output;
mod place;
mod progress;
mod render;
mod replay;
mod select;
mod source;
mod story;

use args::{Args, Flag, Usage};
use master_story::{messages, names, shown};
use output::Output;
use source::SourceError;
use std::io;
use std::process::ExitCode;

/// Events are made on one thread and dropped on another, of which the system's allocator makes a bottleneck.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The command line is wrong.
    #[error(transparent)]
    Usage(#[from] Usage),
    /// The log cannot be opened or read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It can be read, but it is not what it should be.
    #[error("{0}")]
    Damaged(String),
    /// A file for the output could not be made.
    #[error("cannot write {0}")]
    File(String, #[source] io::Error),
    /// The output could not be written.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}

impl Failure {
    /// For what is wrong with the record at `index`.
    fn in_record(index: u64) -> impl Fn(String) -> Failure {
        move |why| Failure::Damaged(format!("the record at index {index}: {why}"))
    }
}

struct Command {
    name: &'static str,
    words: &'static str,
    help: &'static str,
    flags: &'static [Flag],
    run: fn(&Args, &mut Output) -> Result<(), Failure>,
}

const JSON: Flag = Flag { name: "json", value: None, help: "one JSON object a line" };
const HELP: Flag = Flag { name: "help", value: None, help: "what this command does" };
const AT: Flag =
    Flag { name: "at", value: Some("PLACE"), help: "after the record at this place; the last one if not given" };
const FROM: Flag = Flag { name: "from", value: Some("PLACE"), help: "begin here" };
const TO: Flag = Flag { name: "to", value: Some("PLACE"), help: "end here" };
const SELECT: Flag = Flag {
    name: "select",
    value: Some("PATH"),
    help: "this part of the state: names joined by dots, \"count\" for a number of entries",
};
const TYPE: Flag = Flag { name: "type", value: Some("NAME,..."), help: "only events of these names" };
const FULL: Flag = Flag { name: "full", value: None, help: "ids in full, not the cluster's once and the rest of each" };
const TASK: Flag = Flag { name: "task", value: Some("ID"), help: "only what concerns this task" };
const AGENT: Flag = Flag { name: "agent", value: Some("ID"), help: "only what concerns this agent" };
const FRAMEWORK: Flag = Flag { name: "framework", value: Some("ID"), help: "only what concerns this framework" };
const EQUALS: Flag = Flag { name: "equals", value: Some("VALUE"), help: "the part is this number or text" };
const AT_LEAST: Flag = Flag { name: "at-least", value: Some("N"), help: "the part is a number and not less" };
const AT_MOST: Flag = Flag { name: "at-most", value: Some("N"), help: "the part is a number and not more" };
const FORMAT: Flag =
    Flag { name: "format", value: Some("jsonl|csv|parquet"), help: "JSON lines unless told otherwise" };
const OUT: Flag = Flag { name: "out", value: Some("FILE"), help: "write it there instead of to the standard output" };
const OFFER: Flag = Flag { name: "offer", value: Some("ID"), help: "only what concerns this offer" };
const ROLE: Flag = Flag { name: "role", value: Some("NAME"), help: "only what concerns this role" };
const PRINCIPAL: Flag = Flag { name: "principal", value: Some("NAME"), help: "only what this principal caused" };
const CALL: Flag = Flag { name: "call", value: Some("NAME"), help: "only what this type of call caused" };
const PEER: Flag =
    Flag { name: "peer", value: Some("ADDRESS"), help: "only what this address caused, with or without port" };
const WEIGHTS: Flag =
    Flag { name: "weights", value: Some("ROLE=N,..."), help: "other weights of roles; 1 for those not named" };
const ROLES: Flag =
    Flag { name: "roles", value: Some("ROLE=NAME,..."), help: "roles by other names, or places in the tree" };
const LIMITS: Flag = Flag {
    name: "limits",
    value: Some("ROLE=NAME:AMOUNT;...,..."),
    help: "other limits of roles by quota, and nothing guaranteed unless said; none: no quota",
};
const GUARANTEES: Flag = Flag {
    name: "guarantees",
    value: Some("ROLE=NAME:AMOUNT;...,..."),
    help: "other guarantees of roles, and no limits unless said; none: no quota",
};
const POLICY: Flag =
    Flag { name: "policy", value: Some("drf|random"), help: "how the next role and framework is found" };
const EVENTS: Flag = Flag { name: "events", value: None, help: "the events that touched it, as cat shows them" };
const EVERY: Flag = Flag {
    name: "every",
    value: Some("N"),
    help: "check the invariants at every Nth record (1 until record 10,000, then 100)",
};

const COMMANDS: &[Command] = &[
    Command {
        name: "info",
        words: "[DIR]",
        help: "whose log it is and how far it goes",
        flags: &[JSON, HELP],
        run: commands::info::run,
    },
    Command {
        name: "cat",
        words: "[DIR]",
        help: "one line for each event: index, term, time, name, fields, cause",
        flags: &[FROM, TO, TYPE, TASK, AGENT, FRAMEWORK, OFFER, ROLE, PRINCIPAL, CALL, PEER, JSON, HELP],
        run: commands::cat::run,
    },
    Command {
        name: "state",
        words: "[DIR]",
        help: "the state after a record, and its digest",
        flags: &[AT, SELECT, JSON, HELP],
        run: commands::state::run,
    },
    Command {
        name: "diff",
        words: "A B [DIR]",
        help: "what is different in the state between two places, or in two folders at the same place",
        flags: &[AT, JSON, HELP],
        run: commands::diff::run,
    },
    Command {
        name: "explain",
        words: "task|agent|framework|offer|role ID [DIR]",
        help: "its story: what touched it, who caused that, why it was refused, how it stands",
        flags: &[FROM, TO, EVENTS, FULL, JSON, HELP],
        run: commands::explain::run,
    },
    Command {
        name: "verify",
        words: "[DIR]",
        help: "checksums, order, every event, invariants; the digest of the state at the end",
        flags: &[TO, EVERY, JSON, HELP],
        run: commands::verify::run,
    },
    Command {
        name: "stats",
        words: "[DIR]",
        help: "events and bytes by kind and cause, records, batches, time",
        flags: &[FROM, TO, JSON, HELP],
        run: commands::stats::run,
    },
    Command {
        name: "bisect",
        words: "[DIR]",
        help: "the first index at which an invariant fails, or what is asked of a part of the state is true",
        flags: &[SELECT, EQUALS, AT_LEAST, AT_MOST, FROM, TO, JSON, HELP],
        run: commands::bisect::run,
    },
    Command {
        name: "whatif",
        words: "[DIR]",
        help: "what would have been offered with other weights, quotas, roles or policy, plan by plan",
        flags: &[WEIGHTS, LIMITS, GUARANTEES, ROLES, POLICY, FROM, TO, JSON, HELP],
        run: commands::whatif::run,
    },
    Command {
        name: "export",
        words: "[DIR]",
        help: "every event with its record and cause, for other programs",
        flags: &[FORMAT, OUT, FROM, TO, HELP],
        run: commands::export::run,
    },
    Command {
        name: "follow",
        words: "[DIR]",
        help: "as cat, and goes on with what happens next",
        flags: &[FROM, TO, TYPE, TASK, AGENT, FRAMEWORK, OFFER, ROLE, PRINCIPAL, CALL, PEER, JSON, HELP],
        run: commands::cat::follow,
    },
];

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let name = words.next();
    match name.as_deref() {
        None => {
            eprint!("{}", help());
            return ExitCode::from(2);
        }
        Some("help" | "--help" | "-h") => {
            let of = words.next();
            let Some(command) = of.as_deref().map(find) else {
                print!("{}", help());
                return ExitCode::SUCCESS;
            };
            return match command {
                Ok(command) => {
                    print!("{}", help_of(command));
                    ExitCode::SUCCESS
                }
                Err(problem) => wrong(&problem),
            };
        }
        Some("--version" | "version") => {
            println!("meseta-log {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let command = match find(name.as_deref().unwrap_or_default()) {
        Ok(command) => command,
        Err(problem) => return wrong(&problem),
    };
    // What a fold panics about is told in our own words.
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = Args::parse(words, command.flags).map_err(Failure::from).and_then(|args| {
        if args.has("help") {
            print!("{}", help_of(command));
            return Ok(());
        }
        let mut output = Output::new(args.has("json"));
        (command.run)(&args, &mut output)?;
        Ok(output.finish()?)
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Usage(usage)) => wrong(&format!("{usage} (meseta-log help {} tells more)", command.name)),
        Err(failure) => {
            eprintln!("meseta-log: {}", api::terminal::plain(&event_log::sentence(&failure)));
            ExitCode::FAILURE
        }
    }
}

fn find(name: &str) -> Result<&'static Command, String> {
    COMMANDS.iter().find(|command| command.name == name).ok_or_else(|| {
        let hint = api::nearest::did_you_mean(COMMANDS.iter().map(|command| command.name), name);
        format!("there is no command {name:?}{hint} (meseta-log help lists all)")
    })
}

/// The command line is wrong: one sentence.
fn wrong(problem: &str) -> ExitCode {
    eprintln!("meseta-log: {}", api::terminal::plain(problem));
    ExitCode::from(2)
}

fn help() -> String {
    let mut text = String::from(
        "meseta-log: what happened, from the log of a master or an agent, running or not\n\n\
         Usage: meseta-log COMMAND [--flag=value ...] [DIR]\n\n\
         DIR is a work_dir; without one it is the current folder.\n\
         A PLACE is an index, a time (2026-11-20T23:13:28Z, or 23:13 of the\n\
         last 24 hours), a date, -5m for five minutes ago, or @ and seconds\n\
         since 1970. Times are UTC.\n\nCommands:\n",
    );
    for Command { name, words, help, .. } in COMMANDS {
        text += &format!("  {name} {words}\n      {help}\n");
    }
    text + "\nmeseta-log help COMMAND tells a command's flags. Exit codes: 0 done;\n\
            1 it failed or the log is damaged; 2 the command line is wrong.\n"
}

fn help_of(command: &Command) -> String {
    let Command { name, words, help, flags, .. } = command;
    let mut text = format!("Usage: meseta-log {name} [--flag=value ...] {words}\n\n{help}\n\n");
    for Flag { name, value, help } in *flags {
        let value = value.map_or(String::new(), |value| format!("={value}"));
        text += &format!("  {:<18} {help}\n", format!("--{name}{value}"));
    }
    text
}
