//! `meseta logs` and `meseta files`: what a task wrote, and what else lies in its sandbox; what masters and agents log.

use std::process::ExitCode;
use std::time::Duration;

use api::flags::{Flag, Kind, Values};
use api::terminal::plain;
use serde_json::Value;

use crate::agents;
use crate::error::Error;
use crate::http;
use crate::ids::text;
use crate::sandbox::{self, Sandbox, Tail, Task};
use crate::table;
use crate::{is_unwritten, say, write_out};

const MASTER: Flag = Flag::new("master", Kind::Text, "HOST:PORT of a master, or of several with commas; any will do.")
    .default("127.0.0.1:5050");
const FRAMEWORK: Flag =
    Flag::new("framework", Kind::Text, "Whose task, if several have one of this id: 0010, or all of it.");

pub(crate) const LOGS_FLAGS: &[Flag] = &[
    MASTER,
    FRAMEWORK,
    Flag::new("follow", Kind::Bool, "Go on with what it writes until it is over. -f is the same.").default("false"),
    Flag::new("stderr", Kind::Bool, "Its standard error instead of its standard output.").default("false"),
    Flag::new("of_master", Kind::Bool, "Instead of a task's, the log of the first of --master that answers.")
        .default("false"),
    Flag::new("of_agent", Kind::Text, "Instead of a task's, the log of this agent: S0, or all of its id."),
];

pub(crate) const LOGS_ABOUT: &str = "\
What a task wrote: its standard output, as it is, read from its agent. TASK is its id, or FRAMEWORK/ID.

  meseta logs TASK [-f] [--stderr]

Or what a master or an agent says of itself, if it writes to a file (--log_dir, --external_log_file):

  meseta logs --of_master [-f]
  meseta logs --of_agent=AGENT [-f]";

pub(crate) const FILES_FLAGS: &[Flag] = &[MASTER, FRAMEWORK];

pub(crate) const FILES_ABOUT: &str = "\
What lies in a task's sandbox, the folder that it runs in: a list, or with the PATH of a file what is in it.

  meseta files TASK [PATH]";

/// How often a file is looked at again.
const PACE: Duration = Duration::from_millis(300);
/// How often it is asked whether the task is over.
const LOOK: Duration = Duration::from_secs(2);

/// `meseta logs TASK`
pub(crate) async fn logs(words: &[String], flags: Values) -> Result<ExitCode, Error> {
    if flags.bool("of_master") || flags.text("of_agent").is_some() {
        if !words.is_empty() || flags.bool("of_master") && flags.text("of_agent").is_some() {
            return Err(Error::Usage("logs: name one of a task, --of_master and --of_agent".into()));
        }
        return daemon(&flags).await;
    }
    let [name] = words else { return Err(Error::Usage("logs: name one task (meseta tasks lists them)".into())) };
    let (masters, task, sandbox) = find(name, &flags).await?;
    let file = if flags.bool("stderr") { "stderr" } else { "stdout" };
    let mut tail = Tail::new(&sandbox, file);
    let is_there = if flags.bool("follow") {
        follow(&masters, &task, &sandbox, &mut tail).await?
    } else {
        tail.pump(&sandbox, write_out).await?
    };
    if !is_there {
        return Err(missing(file, &task, &sandbox));
    }
    if tail.offset() == 0 && file == "stdout" {
        let errors = sandbox.read(&sandbox.path("stderr"), 0).await?.unwrap_or_default();
        if !errors.is_empty() {
            eprintln!("meseta: {} wrote nothing to stdout, but something to stderr (--stderr shows it)", plain(name));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The log of a master or an agent.
async fn daemon(flags: &Values) -> Result<ExitCode, Error> {
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let served = |keeper, agent: String, folder: &str| {
        let (host, directory) = (agent.clone(), folder.to_owned());
        Sandbox { keeper, agent, host, directory, is_live: true }
    };
    let keepers = match flags.text("of_agent") {
        Some(wanted) => vec![served("agent", agents::find(&masters, wanted).await?.address, "/slave")],
        None => masters.iter().map(|master| served("master", master.clone(), "/master")).collect(),
    };
    let mut last = None;
    for keeper in keepers {
        let mut tail = Tail::new(&keeper, "log");
        match tail.pump(&keeper, write_out).await {
            Ok(true) => {}
            Ok(false) => {
                let Sandbox { keeper, agent, .. } = keeper;
                let why = "writes its log to no file: start it with --log_dir";
                return Err(Error::Failed(format!("the {keeper} at {agent} {why}")));
            }
            Err(error) => {
                last = Some(error);
                continue;
            }
        }
        let mut told = false;
        while flags.bool("follow") && !is_unwritten() {
            tokio::time::sleep(PACE).await;
            match tail.pump(&keeper, write_out).await {
                Ok(_) => told = false,
                Err(error) if !std::mem::replace(&mut told, true) => eprintln!("meseta: {error}; trying on"),
                Err(_) => {}
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    Err(last.unwrap_or_else(|| Error::Usage("logs: name a master (--master)".into())))
}

/// Until its executor has ended and all of the file was read, or nobody has what is printed; whether there was such a
/// file. An agent that does not answer may be starting again.
async fn follow(masters: &[String], task: &Task, sandbox: &Sandbox, tail: &mut Tail) -> Result<bool, Error> {
    let mut is_there = tail.pump(sandbox, write_out).await?;
    let mut is_live = sandbox.is_live;
    let mut next_look = tokio::time::Instant::now() + LOOK;
    let mut told = false;
    loop {
        match tail.pump(sandbox, write_out).await {
            Ok(found) => (told, is_there) = (false, found),
            Err(error) if !std::mem::replace(&mut told, true) => eprintln!("meseta: {error}; trying on"),
            Err(_) => {}
        }
        if !is_live || is_unwritten() {
            return Ok(is_there || tail.offset() > 0);
        }
        tokio::time::sleep(PACE).await;
        if tokio::time::Instant::now() >= next_look {
            next_look = tokio::time::Instant::now() + LOOK;
            if let Ok(now) = task.sandbox(masters).await {
                is_live = now.is_live && now.directory == sandbox.directory;
            } else if let Ok(now) = sandbox::find_task(masters, &task.id, Some(&task.framework_id)).await {
                is_live = !sandbox::is_terminal(&now.state);
            }
        }
    }
}

/// `meseta files TASK [PATH]`
pub(crate) async fn files(words: &[String], flags: Values) -> Result<ExitCode, Error> {
    let (name, path) = match words {
        [name] => (name, ""),
        [name, path] => (name, path.trim_matches('/')),
        _ => return Err(Error::Usage("files: name one task, and at most one path in its sandbox".into())),
    };
    let (_, task, sandbox) = find(name, &flags).await?;
    let missing = || missing(path, &task, &sandbox);
    if !path.is_empty() && !is_folder(&sandbox, path).await?.ok_or_else(missing)? {
        // What its folder lists may be a link that leads out of the sandbox.
        let is_there = Tail::new(&sandbox, path).pump(&sandbox, write_out).await?;
        return if is_there { Ok(ExitCode::SUCCESS) } else { Err(missing()) };
    }
    let entries = sandbox.list(&sandbox.path(path)).await?.ok_or_else(missing)?;
    say(&format!("{}\n{}", plain(&format!("{}:{}", sandbox.host, sandbox.path(path))), listing(&entries)));
    Ok(ExitCode::SUCCESS)
}

fn missing(path: &str, task: &Task, sandbox: &Sandbox) -> Error {
    Error::Failed(format!("there is no {path:?} in the sandbox of {} ({})", task.id, sandbox.shown()))
}

/// What its folder says of it; none if it is not there.
async fn is_folder(sandbox: &Sandbox, path: &str) -> Result<Option<bool>, Error> {
    let (folder, _) = path.rsplit_once('/').unwrap_or(("", path));
    let entries = sandbox.list(&sandbox.path(folder)).await?.unwrap_or_default();
    let own = sandbox.path(path);
    let entry = entries.iter().find(|entry| text(&entry["path"]) == own);
    Ok(entry.map(|entry| mode(entry) & TYPE == FOLDER))
}

async fn find(name: &str, flags: &Values) -> Result<(Vec<String>, Task, Sandbox), Error> {
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let task = sandbox::find_task(&masters, name, flags.text("framework")).await?;
    let sandbox = task.sandbox(&masters).await?;
    Ok((masters, task, sandbox))
}

const TYPE: u64 = 0o170_000;
const FOLDER: u64 = 0o040_000;

fn mode(entry: &Value) -> u64 {
    whole(&entry["mode"])
}

/// Large numbers are texts in protobuf's JSON.
fn whole(value: &Value) -> u64 {
    value.as_u64().or_else(|| text(value).parse().ok()).unwrap_or(0)
}

fn listing(entries: &[Value]) -> String {
    let row = |entry: &Value| {
        let path = text(&entry["path"]);
        let name = path.rsplit('/').next().unwrap_or_default();
        let slash = if mode(entry) & TYPE == FOLDER { "/" } else { "" };
        let modified = api::time::to_the_second(whole(&entry["mtime"]["nanoseconds"]) / 1_000_000);
        vec![whole(&entry["size"]).to_string(), modified, text(&entry["uid"]).to_owned(), format!("{name}{slash}")]
    };
    table::render(&["SIZE", "MODIFIED", "USER", "NAME"], &entries.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn a_sandbox_as_a_table() {
        let entries = [
            json!({"path": "/s/d", "mode": 0o040_755, "size": 4096, "uid": "root", "mtime": {"nanoseconds": 0}}),
            json!({"path": "/s/o\u{1b}", "mode": 0o100_644, "size": "6", "uid": "root",
                "mtime": {"nanoseconds": 1_795_216_408_000_000_000_u64}}),
        ];
        assert_eq!(
            super::listing(&entries),
            "SIZE  MODIFIED              USER  NAME\n4096  1970-01-01T00:00:00Z  root  d/\n   \
             6  2026-11-20T23:13:28Z  root  o\\x1b\n"
        );
    }
}
