//! `--watch`: what a command shows, again and again until Ctrl-C.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use api::flags::{Flag, Kind, Values};

use crate::error::Error;

/// Commands that only look.
const LOOKING: [&str; 8] = ["state", "agents", "frameworks", "tasks", "roles", "operations", "holders", "explain"];
/// Masters are to do something else as well.
const PACE_MIN: Duration = Duration::from_millis(200);
/// Home, and everything below it is cleared.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// The flag, for commands that only look.
pub(crate) fn flag_for(command: &str) -> Option<Flag> {
    let help = "Show it again so often (2secs) until Ctrl-C; what fails meanwhile is said, and it goes on.";
    LOOKING.contains(&command).then(|| Flag::new("watch", Kind::Duration, help))
}

/// Does what was asked, once or again and again.
pub(crate) async fn run(name: &'static str, words: Vec<String>, values: Values) -> Result<ExitCode, Error> {
    let every = LOOKING.contains(&name).then(|| values.duration("watch")).flatten();
    let Some(every) = every else { return crate::dispatch(name, words, values).await };
    if name == "agents" && !words.is_empty() {
        return Err(Error::Usage(
            "--watch looks at agents and does nothing to them: meseta agents --watch=2secs".into(),
        ));
    }
    let is_terminal = std::io::stdout().is_terminal();
    loop {
        if is_terminal {
            crate::say(CLEAR);
        }
        match crate::dispatch(name, words.clone(), values.clone()).await {
            Ok(_) => {}
            Err(error @ Error::Usage(_)) => return Err(error),
            Err(error) => eprintln!("meseta: {}", api::terminal::plain(&error.to_string())),
        }
        if crate::is_unwritten() {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(every.max(PACE_MIN)).await;
    }
}
