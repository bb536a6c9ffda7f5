//! `meseta`: the operator's and the user's command line. Talks to masters over HTTP as any client would.
//!
//! Exit codes: 0 done; 1 it failed, with one sentence on stderr; 2 the command line is wrong; 130 interrupted. Those of
//! `execute` and `task exec` are the command's own.

mod agents;
mod audit;
mod auth;
mod brake;
mod certs;
mod clusters;
mod debug;
mod drain;
mod dry_run;
mod error;
mod execute;
mod explain;
mod held;
mod http;
mod ids;
mod join;
mod launch;
mod local;
mod logs;
mod maintenance;
mod masters;
mod operations;
mod port;
mod process;
mod quota;
mod read;
mod sandbox;
mod secret;
mod shells;
mod snapshot;
mod table;
mod task;
mod tty;
mod watch;

use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use api::flags::{Flag, Kind, Values};
use error::Error;

const HELP: &str = "\
meseta: the command line of the Meseta cluster manager

Usage: meseta COMMAND [--flag=value ...]

Commands:
  local        start a whole cluster on this machine; Ctrl-C stops it
  execute      run one task, show what it writes, exit with its result
  logs         what a task wrote
  files        what lies in a task's sandbox
  task         run a command beside a task, or attach to its terminal
  state        the cluster at a glance
  agents       the agents and what they have; deactivate, reactivate, gone
  drain        empty an agent
  maintenance  when machines are to be unavailable, and which are down
  frameworks   the frameworks and what they use
  tasks        the tasks, their states, and why they ended
  roles        the roles and what they use
  quota        what roles are guaranteed and may have at most
  weights      how much roles count among their siblings
  reserve      reserve resources of an agent for a role
  unreserve    take a reservation back
  volumes      persistent volumes: list, create, grow, shrink, destroy
  operations   operations on resources that are not over
  brake        pause allocation or refuse new frameworks, and release it
  explain      why a role is not offered what it is not offered
  holders      who holds what without using it
  preemption   what would have to go so that a role gets its guarantee
  dry-run      what an operator's call would do
  snapshot     save the state of a cluster, inspect it, restore it
  auth         what somebody may do; hashes for files of credentials
  audit        who did what, and who was refused what
  join         tokens that agents join by
  identity     whom agents are known as; rotate, revoke
  debug        one file with everything for whoever looks for a fault
  masters      list, add, remove, replace masters
  secret       make what masters, agents and commands know each other by
  certs        make certificates for TLS
  completions  what a shell completes
  man          a page of the manual

meseta help COMMAND tells a command's flags. The story of a task, an
agent or a framework is told by meseta-log explain.

Exit codes: 0 done; 1 it failed; 2 the command line is wrong;
those of execute and task exec are the command's own.
";

/// What a command is and what it takes.
struct Command {
    name: &'static str,
    about: &'static str,
    flags: &'static [Flag],
    /// Whether it takes words that are no flags.
    has_words: bool,
}

impl Command {
    fn asks_masters(&self) -> bool {
        self.flags.iter().any(|flag| flag.name == "master")
    }

    /// Its own, and who asks, if it asks masters something.
    fn all_flags(&self) -> Vec<Flag> {
        let login = http::LOGIN.into_iter().filter(|_| self.asks_masters());
        let login = login.filter(|flag| self.flags.iter().all(|own| own.name != flag.name));
        let shared = clusters::flag_for(self.flags).into_iter().chain(watch::flag_for(self.name));
        self.flags.iter().cloned().chain(login).chain(shared).collect()
    }
}

const fn command(name: &'static str, about: &'static str, flags: &'static [Flag], has_words: bool) -> Command {
    Command { name, about, flags, has_words }
}

const COMMANDS: &[Command] = &[
    command("local", local::ABOUT, local::FLAGS, false),
    command("execute", execute::ABOUT, execute::FLAGS, false),
    command("logs", logs::LOGS_ABOUT, logs::LOGS_FLAGS, true),
    command("files", logs::FILES_ABOUT, logs::FILES_FLAGS, true),
    command("task", task::ABOUT, task::FLAGS, true),
    command("state", read::STATE_ABOUT, read::FLAGS, false),
    command("agents", read::AGENTS_ABOUT, read::TABLE_FLAGS, true),
    command("drain", drain::ABOUT, drain::FLAGS, true),
    command("maintenance", maintenance::ABOUT, maintenance::FLAGS, true),
    command("frameworks", read::FRAMEWORKS_ABOUT, read::TABLE_FLAGS, false),
    command("tasks", read::TASKS_ABOUT, read::TASKS_FLAGS, true),
    command("roles", read::ROLES_ABOUT, read::FLAGS, false),
    command("quota", quota::QUOTA_ABOUT, quota::QUOTA_FLAGS, true),
    command("weights", quota::WEIGHTS_ABOUT, quota::WEIGHTS_FLAGS, true),
    command("reserve", operations::RESERVE_ABOUT, operations::RESERVE_FLAGS, true),
    command("unreserve", operations::UNRESERVE_ABOUT, operations::UNRESERVE_FLAGS, true),
    command("volumes", operations::VOLUMES_ABOUT, operations::VOLUMES_FLAGS, true),
    command("operations", operations::OPERATIONS_ABOUT, operations::OPERATIONS_FLAGS, false),
    command("brake", brake::ABOUT, brake::FLAGS, true),
    command("explain", explain::ABOUT, explain::FLAGS, true),
    command("holders", held::HOLDERS_ABOUT, held::HOLDERS_FLAGS, false),
    command("preemption", held::PREEMPTION_ABOUT, held::PREEMPTION_FLAGS, true),
    command("dry-run", dry_run::ABOUT, dry_run::FLAGS, false),
    command("snapshot", snapshot::ABOUT, snapshot::FLAGS, true),
    command("auth", auth::ABOUT, auth::FLAGS, true),
    command("audit", audit::ABOUT, audit::FLAGS, false),
    command("join", join::JOIN_ABOUT, join::JOIN_FLAGS, true),
    command("identity", join::IDENTITY_ABOUT, join::IDENTITY_FLAGS, true),
    command("debug", debug::ABOUT, debug::FLAGS, true),
    command("masters", masters::ABOUT, masters::FLAGS, true),
    command("secret", secret::ABOUT, secret::FLAGS, true),
    command("certs", certs::ABOUT, certs::FLAGS, true),
    command("completions", shells::COMPLETIONS_ABOUT, &[], true),
    command("man", shells::MAN_ABOUT, &[], true),
];

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let command = words.next();
    let words: Vec<String> = words.collect();
    let ended = run(command.as_deref(), words).and_then(|code| match LOST.get() {
        Some(error) if code == ExitCode::SUCCESS && error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::Failed(format!("cannot write the output: {error}")))
        }
        _ => Ok(code),
    });
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("meseta: {}", api::terminal::plain(&error.to_string()));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(name: Option<&str>, words: Vec<String>) -> Result<ExitCode, Error> {
    let name = match (name, words.as_slice()) {
        (None, _) => {
            eprint!("{HELP}");
            return Ok(ExitCode::from(2));
        }
        (Some("help" | "--help" | "-h"), []) => return print_help(HELP),
        (Some("--version" | "version"), _) => {
            return print_help(concat!("meseta ", env!("CARGO_PKG_VERSION"), "\n"));
        }
        (Some("help" | "--help" | "-h"), [of, ..]) => return print_help(&help_of(find(of)?)),
        (Some(name), _) => name,
    };
    let command = find(name)?;
    let flags = command.all_flags();
    // What is to be run has flags of its own.
    let (words, rest) = if command.name == "task" { task::cut(words) } else { (words, Vec::new()) };
    let words: Vec<String> = words.into_iter().map(|word| underscored(word, &flags)).collect();
    let (mut arguments, words) = if command.has_words { split(words, &flags) } else { (Vec::new(), words) };
    arguments.extend(rest);
    let set = |name: &str| std::env::var(name).ok();
    let is_remote = flags.iter().any(|flag| flag.name == clusters::FLAG.name);
    let cluster = if is_remote { clusters::Cluster::chosen(&words, &set)? } else { clusters::Cluster::default() };
    let environment = |name: &str| cluster.variable(name, &set);
    let values = api::flags::parse(&flags, words, environment, |path| std::fs::read_to_string(path));
    let values = values.map_err(|problem| Error::Usage(format!("{problem} (meseta help {name} tells all flags)")))?;
    if values.help {
        return print_help(&help_of(command));
    }
    for warning in &values.warnings {
        eprintln!("meseta: {warning}");
    }
    if name != "local" && command.flags.iter().any(|flag| flag.name == http::SECRET.name) {
        secret::show(&values)?;
    }
    http::read_tls(environment)?;
    if command.asks_masters() {
        http::log_in(&values)?;
    }
    in_runtime(watch::run(command.name, arguments, values))
}

async fn dispatch(name: &'static str, words: Vec<String>, values: Values) -> Result<ExitCode, Error> {
    match name {
        "local" => local::run(values).await,
        "execute" => execute::run(values).await,
        "logs" => logs::logs(&words, values).await,
        "files" => logs::files(&words, values).await,
        "task" => task::run(&words, values).await,
        "drain" => drain::run(&words, values).await,
        "maintenance" => maintenance::run(&words, values).await,
        "quota" => quota::quota(&words, values).await,
        "weights" => quota::weights(&words, values).await,
        "reserve" => operations::reserve(&words, values).await,
        "unreserve" => operations::unreserve(&words, values).await,
        "volumes" => operations::volumes(&words, values).await,
        "operations" => operations::operations(values).await,
        "brake" => brake::run(&words, values).await,
        "join" => join::join(&words, values).await,
        "identity" => join::identity(&words, values).await,
        "explain" => explain::run(&words, values).await,
        "holders" => held::holders(values).await,
        "preemption" => held::preemption(&words, values).await,
        "dry-run" => dry_run::run(values).await,
        "auth" => auth::run(&words, values).await,
        "audit" => audit::run(values).await,
        "debug" => debug::run(&words, values).await,
        "masters" => masters::run(&words, values).await,
        "secret" => secret::run(&words),
        "certs" => certs::run(&words, &values),
        "completions" => print_help(&shells::completions(&words, COMMANDS)?),
        "man" => print_help(&shells::man(&words, HELP)?),
        "snapshot" => snapshot::run(&words, values).await,
        _ => read::run(name, &words, values).await,
    }
}

fn find(name: &str) -> Result<&'static Command, Error> {
    COMMANDS.iter().find(|command| command.name == name).ok_or_else(|| {
        let hint = api::nearest::did_you_mean(COMMANDS.iter().map(|command| command.name), name).replace('"', "'");
        Error::Usage(format!("there is no command '{name}'{hint} (meseta help lists them)"))
    })
}

fn help_of(command: &Command) -> String {
    let Command { name, about, .. } = command;
    format!("{about}\n\n{}", api::flags::help(&format!("meseta {name} [--flag=value ...]"), &command.all_flags()))
}

/// `--mark-gone` is `--mark_gone`: other programs write it so.
fn underscored(word: String, flags: &[Flag]) -> String {
    let Some(text) = word.strip_prefix("--") else { return word };
    let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
    let ours = name.replace('-', "_");
    let is_flag = |name: &str| flags.iter().any(|flag| flag.name == name);
    if is_flag(name) || !is_flag(&ours) { word } else { format!("--{ours}{value}") }
}

/// The words that are no flags, and the flags with their values. `-f` is --follow where there is one.
fn split(words: Vec<String>, flags: &[Flag]) -> (Vec<String>, Vec<String>) {
    let (mut others, mut flagged) = (Vec::new(), Vec::new());
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        if word == "-f" && flags.iter().any(|flag| flag.name == "follow") {
            flagged.push("--follow".to_owned());
        } else if let Some(name) = word.strip_prefix("--") {
            let takes_next = flags.iter().any(|flag| flag.name == name && flag.kind != Kind::Bool);
            flagged.push(word);
            flagged.extend(takes_next.then(|| words.next_if(|next| !next.starts_with("--"))).flatten());
        } else if word.starts_with('-') && word.len() > 1 {
            flagged.push(word);
        } else {
            others.push(word);
        }
    }
    (others, flagged)
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
    // Our lines are lines, wherever a task stopped writing.
    let end = if IN_A_LINE.swap(false, Ordering::Relaxed) { "\n" } else { "" };
    print(format!("{end}{text}").as_bytes());
}

/// Whether what a task wrote last did not end its line.
static IN_A_LINE: AtomicBool = AtomicBool::new(false);

/// What a task wrote, as it is.
pub(crate) fn write_out(data: &[u8]) {
    IN_A_LINE.store(data.last().is_some_and(|byte| *byte != b'\n'), Ordering::Relaxed);
    print(data);
}

/// Why something that was printed was not written, the first time.
static LOST: OnceLock<io::Error> = OnceLock::new();

/// A command that goes on until it is over is told by [`is_unwritten`]; the others end a moment later anyway.
fn print(data: &[u8]) {
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(data).and_then(|()| stdout.flush()) {
        let _ = LOST.set(error);
    }
}

/// Whether nobody has what is printed any more.
pub(crate) fn is_unwritten() -> bool {
    LOST.get().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_flags_are_told_apart() {
        let split = |line: &str| super::split(line.split_whitespace().map(str::to_owned).collect(), logs::LOGS_FLAGS);
        let (words, flags) = split("-f t1 --master h:1 --stderr --framework=0010");
        assert_eq!(words, ["t1"]);
        assert_eq!(flags, ["--follow", "--master", "h:1", "--stderr", "--framework=0010"]);
    }

    #[test]
    fn a_flag_may_be_written_with_dashes() {
        let written = |word: &str| underscored(word.to_owned(), drain::FLAGS);
        assert_eq!(written("--ignore-role=a-b"), "--ignore_role=a-b");
        assert_eq!(written("--mark-gone"), "--mark_gone");
        assert_eq!(written("--no-wait"), "--no-wait");
        assert_eq!(written("S0-x"), "S0-x");
    }

    #[test]
    fn every_command_is_in_the_help() {
        for Command { name, about, .. } in COMMANDS {
            assert!(HELP.contains(&format!("\n  {name} ")), "{name}");
            assert!(about.lines().all(|line| line.len() <= 120), "{name}");
        }
        assert!(find("framewroks").is_err_and(|error| error.to_string().contains("did you mean 'frameworks'?")));
    }
}
