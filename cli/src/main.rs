//! `meseta`: the operator's and the user's command line. Talks to masters over HTTP as any client would.
//!
//! Exit codes: 0 done; 1 it failed, with one sentence on stderr; 2 the command line is wrong; 130 interrupted.

mod error;
mod execute;
mod http;
mod launch;
mod local;
mod masters;
mod port;
mod process;
mod read;
mod snapshot;
mod table;

use std::process::ExitCode;

use error::Error;

const HELP: &str = "\
meseta: the command line of the Meseta cluster manager

Usage: meseta COMMAND [--flag=value ...]

Commands:
  local        start a whole cluster on this machine; Ctrl-C stops it
  execute      run one task, follow its states, exit with its result
  state        the cluster at a glance
  agents       the agents and what they have
  frameworks   the frameworks and what they use
  tasks        the tasks and their states
  roles        the roles and what they use
  snapshot     save the state of a cluster, inspect it, restore it on a new machine
  masters      list, add, remove, replace masters; transfer leadership

meseta COMMAND --help tells a command's flags.
";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let command = words.next();
    let words: Vec<String> = words.collect();
    match run(command.as_deref(), words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("meseta: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command: Option<&str>, words: Vec<String>) -> Result<ExitCode, Error> {
    let (flags, about) = match command {
        None | Some("help" | "--help" | "-h") => return print_help(HELP),
        Some("--version" | "version") => return print_help(concat!("meseta ", env!("CARGO_PKG_VERSION"), "\n")),
        Some("local") => (local::FLAGS, local::ABOUT),
        Some("execute") => (execute::FLAGS, execute::ABOUT),
        Some("masters") => (masters::FLAGS, masters::ABOUT),
        Some("snapshot") => (snapshot::FLAGS, snapshot::ABOUT),
        Some("state" | "agents" | "frameworks" | "tasks" | "roles") => (read::FLAGS, ""),
        Some(name) => return Err(Error::Usage(format!("there is no command '{name}' (meseta help lists them)"))),
    };
    let name = command.unwrap_or_default();
    let has_words = matches!(name, "masters" | "snapshot");
    let (arguments, words) = if has_words { masters::split(words) } else { (Vec::new(), words) };
    let environment = |name: &str| std::env::var(name).ok();
    let values = api::flags::parse(flags, words, environment, |path| std::fs::read_to_string(path));
    let values = values.map_err(|problem| Error::Usage(format!("{problem} (meseta {name} --help tells all flags)")))?;
    if values.help {
        let about = if about.is_empty() { read::about(name) } else { about };
        let help = api::flags::help(&format!("meseta {name} [--flag=value ...]"), flags);
        return print_help(&format!("{about}\n\n{help}"));
    }
    for warning in &values.warnings {
        eprintln!("meseta: {warning}");
    }
    match name {
        "local" => in_runtime(local::run(values)),
        "execute" => in_runtime(execute::run(values)),
        "masters" => in_runtime(masters::run(&arguments, values)),
        "snapshot" => in_runtime(snapshot::run(&arguments, values)),
        _ => in_runtime(read::run(name, values)),
    }
}

fn print_help(text: &str) -> Result<ExitCode, Error> {
    say(text);
    Ok(ExitCode::SUCCESS)
}

/// One thread: `local` starts its children from it, and they are told when that thread ends.
fn in_runtime(work: impl Future<Output = Result<ExitCode, Error>>) -> Result<ExitCode, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Error::Failed(format!("cannot start: {error}")))?.block_on(work)
}

/// Prints; whoever stopped reading (`meseta tasks | head`) is not told more.
pub(crate) fn say(text: &str) {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
