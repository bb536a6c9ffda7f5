//! One look at a task.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use agent_web::Trust;
use api::checks::{Definition, Target};
use api::v1::CommandInfo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::checker::Outcome;
use crate::command::Order;

/// Where commands of checks run.
#[derive(Clone, Debug)]
pub struct Place {
    /// The program that runs them, by [`crate::command::run`], with its arguments.
    pub helper: (PathBuf, Vec<String>),
    /// Their working directory; what they say goes to `stderr` in it.
    pub sandbox: PathBuf,
    /// User to run as; empty for this process's own.
    pub user: String,
    /// `NAME=value` of the task; the command's own come behind.
    pub environment: Vec<String>,
    /// Permissions that new files do not get.
    pub umask: Option<u32>,
    /// A file that stands for the network that is looked at, and that commands run in; none for this process's.
    pub network: Option<PathBuf>,
    /// A process whose mounts they see, with the sandbox as that sees it; by default those of this one.
    pub beside: Option<u32>,
}

/// What a command may take beyond its time until it is taken for lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks, for as long as a look may take. Whoever drops this ends the command of a check, with all that came of it.
pub async fn look(definition: &Definition, place: &Place) -> Outcome {
    let looked = async {
        match (&definition.target, &place.network) {
            (Target::Command(info), _) => command(info, definition.timeout, place).await,
            (target, None) => server(target).await,
            (target, Some(network)) => server_within(target.clone(), network.clone()).await,
        }
    };
    // A command's time is told to who runs it, and what came of it must end before the next look.
    let is_command = matches!(definition.target, Target::Command(_));
    match definition.timeout.map(|timeout| if is_command { timeout + PATIENCE } else { timeout }) {
        None => looked.await,
        Some(most) => tokio::time::timeout(most, looked).await.unwrap_or_else(|_| late(definition.timeout)),
    }
}

async fn server(target: &Target) -> Outcome {
    match target {
        Target::Http { address } => match agent_web::get(address, Trust::Everybody, None).await {
            Ok(answer) => Outcome::Answered(answer.status),
            Err(error) => Outcome::Failed(error.to_string()),
        },
        Target::Tcp { ip, port } => Outcome::Connected(TcpStream::connect((*ip, *port)).await.is_ok()),
        Target::Command(_) => Outcome::Failed("a command is no server".to_owned()),
    }
}

/// The same in another network: by a thread that enters it, and ends with what it found or with who waits for that.
async fn server_within(target: Target, network: PathBuf) -> Outcome {
    let (mut found, outcome) = tokio::sync::oneshot::channel();
    let look = move || {
        let entered = std::fs::File::open(&network)
            .and_then(|network| nix::sched::setns(network, nix::sched::CloneFlags::CLONE_NEWNET).map_err(Into::into));
        let runtime = entered.and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build());
        let outcome = match runtime {
            Err(error) => Outcome::Failed(format!("cannot enter the network of the container: {error}")),
            Ok(runtime) => runtime.block_on(async {
                tokio::select! {
                    outcome = server(&target) => outcome,
                    () = found.closed() => Outcome::Failed("nobody waits for it".to_owned()),
                }
            }),
        };
        let _ = found.send(outcome);
    };
    match std::thread::Builder::new().name("check".to_owned()).spawn(look) {
        Ok(_) => outcome.await.unwrap_or_else(|_| Outcome::Failed("who looked ended without a word".to_owned())),
        Err(error) => Outcome::Failed(format!("cannot start a thread: {error}")),
    }
}

fn late(timeout: Option<Duration>) -> Outcome {
    Outcome::Failed(format!("it took longer than {} ms", timeout.unwrap_or_default().as_millis()))
}

async fn command(info: &CommandInfo, timeout: Option<Duration>, place: &Place) -> Outcome {
    let mut environment = place.environment.clone();
    for variable in info.environment.iter().flat_map(|environment| &environment.variables) {
        environment.retain(|other| other.split_once('=').is_none_or(|(name, _)| name != variable.name));
        // A secret that nobody opened is not there: an empty one would be another secret.
        environment.extend(api::secrets::value(variable).map(|value| format!("{}={value}", variable.name)));
    }
    let value = info.value().to_owned();
    let (program, arguments) = if info.shell() {
        ("/bin/sh".to_owned(), vec!["sh".to_owned(), "-c".to_owned(), value])
    } else {
        (value.clone(), if info.arguments.is_empty() { vec![value] } else { info.arguments.clone() })
    };
    let order = Order {
        program,
        arguments,
        environment,
        sandbox: place.sandbox.clone(),
        // Whoever the command names: it may do what its task may.
        user: place.user.clone(),
        umask: place.umask,
        network: place.network.clone(),
        beside: place.beside,
        timeout_ms: timeout.map(|timeout| timeout.as_millis() as u64),
    };
    let run = async {
        let mut child = tokio::process::Command::new(&place.helper.0)
            .args(&place.helper.1)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        // Held open until the answer is there: who runs the command ends it when nobody waits any more.
        let mut stdin = child.stdin.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
        let mut stdout = child.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
        stdin.write_all(&order.encode()).await?;
        let mut said = String::new();
        stdout.read_to_string(&mut said).await?;
        child.wait().await?;
        Ok::<String, std::io::Error>(said)
    };
    match run.await {
        Ok(said) => crate::command::read(&said),
        Err(error) => Outcome::Failed(format!("cannot run {}: {error}", place.helper.0.display())),
    }
}
