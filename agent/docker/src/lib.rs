//! Containers of a Docker Engine: all of `meseta-docker`, the program that supervisors and the agent ask as they ask an external
//! containerizer ([`supervisor::program`]). What a container is made of goes through the `docker` program, whose options
//! a task's parameters are and which knows registries; everything else is the engine's HTTP interface on its socket.
//!
//! ```text
//! launch   pull ─► docker create ─► start ─► its process, addresses and description
//! wait     copies the outputs to where it is told, and answers when nothing runs and all is copied
//! destroy  gently: the signal that the image names; at once: that, --docker_stop_timeout, SIGKILL
//! release  forgets the files of this program; the container stays for --docker_remove_delay
//! list, remove, usage, signal, update, check: for the agent
//! ```

mod check;
mod create;
mod destroy;
mod engine;
mod launch;
mod logs;
mod manage;
mod wait;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use engine::Engine;

pub use check::WORD as CHECK;

/// The name of the program, beside the agent's.
pub const NAME: &str = "meseta-docker";
/// What names of containers begin with.
pub const PREFIX: &str = "mesos-";
/// The label of a container that says whose it is: the folder of the agent that launched it.
pub const OWNER: &str = "meseta.agent";
/// Where the agent writes down how the engine is reached, in the program's folder.
const SETTINGS: &str = "engine.json";
/// A request has so many bytes at most.
const REQUEST_BYTES_MAX: u64 = 64 << 20;

/// How the engine is reached, and how its containers are ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The socket of the engine.
    pub socket: String,
    /// The `docker` program.
    pub docker: String,
    /// Credentials of registries: a `config.json` as the `docker` program has it.
    pub config: Option<Value>,
    /// Between the request to end and the end of what is destroyed at once.
    pub stop_timeout_ms: u64,
}

impl Settings {
    /// Writes them down for the program; only this process's user can read them.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        write_private(&folder.join(SETTINGS), serde_json::to_string(self)?.as_bytes())
    }

    fn read(folder: &Path) -> Result<Settings, String> {
        let path = folder.join(SETTINGS);
        let text = std::fs::read_to_string(&path);
        let text = text.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        serde_json::from_str(&text).map_err(|error| format!("cannot read {}: {error}", path.display()))
    }
}

/// Replaces a file that nobody else may read: there is all of it, or what was.
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    let _ = std::fs::remove_file(&draft);
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(bytes).and_then(|()| std::fs::rename(&draft, path)).inspect_err(|_| {
        let _ = std::fs::remove_file(&draft);
    })
}

/// The name of a container at the engine.
pub fn name_of(container_id: &str) -> String {
    format!("{PREFIX}{container_id}")
}

/// What is asked, whatever it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Request {
    protocol: u64,
    folder: PathBuf,
    container_id: String,
    how: String,
    signal: i32,
    stdout: String,
    stderr: String,
    sandbox: PathBuf,
    create: create::Creation,
    names: Vec<String>,
    update: Value,
}

/// What comes of a command.
enum Failure {
    /// Nothing happened and nothing is left.
    Refused(String),
    /// Nobody knows what happened.
    Broken(String),
}

impl From<engine::Error> for Failure {
    fn from(error: engine::Error) -> Failure {
        Failure::Broken(error.to_string())
    }
}

/// Carries out the command that the first argument names. Returns the exit code of this process.
pub fn run() -> i32 {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let command = words.first().map_or("", String::as_str);
    if command == check::WORD {
        return check::run(&words[1..]);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answered = match runtime {
        Ok(runtime) => read().and_then(|request| runtime.block_on(answer(command, &request))),
        Err(error) => Err(Failure::Broken(format!("cannot start: {error}"))),
    };
    let (answer, code) = match answered {
        Ok(answer) => (answer, 0),
        Err(Failure::Refused(sentence)) => (json!({ "error": sentence }), 0),
        Err(Failure::Broken(sentence)) => {
            eprintln!("{sentence}");
            return 1;
        }
    };
    if std::io::stdout().write_all(answer.to_string().as_bytes()).is_err() { 1 } else { code }
}

fn read() -> Result<Request, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .take(REQUEST_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| Failure::Refused(format!("cannot read what is asked: {error}")))?;
    let request: Request = serde_json::from_str(&text)
        .map_err(|error| Failure::Refused(format!("meseta-docker is asked by meseta-agent, in JSON: {error}")))?;
    match request.protocol {
        supervisor::program::PROTOCOL => Ok(request),
        other => Err(Failure::Refused(format!("there is no version {other} of the protocol here"))),
    }
}

async fn answer(command: &str, request: &Request) -> Result<Value, Failure> {
    let settings = Settings::read(&request.folder).map_err(Failure::Refused)?;
    let engine = Engine::new(&settings.socket);
    match command {
        "launch" => launch::launch(&engine, &settings, request).await,
        "wait" => wait::wait(&engine, request).await,
        "destroy" => destroy::destroy(&engine, &settings, request).await,
        "release" => Ok(launch::release(request)),
        "signal" => destroy::signal(&engine, request).await,
        "usage" => manage::usage(&engine, request).await,
        "update" => manage::update(&engine, request).await,
        "list" => manage::list(&engine, request).await,
        "remove" => manage::remove(&engine, request).await,
        "version" => manage::version(&engine, &settings).await,
        other => Err(Failure::Refused(format!("there is no command '{other}'"))),
    }
}
