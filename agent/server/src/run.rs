//! The program: start, signals, end.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use agent_core::{Command, EventError, LOG_DIR, LOG_KIND, LOG_VERSION, State, decode_record, fold, resume};
use api::resources::Resources;
use api_http::Serving;
use containers::isolators::{built, ordered};
use containers::{Cgroups, Choice, Containerizer, Docker, External, Isolator, Supervised};
use event_log::{Bug, Identity, LocalLog, planted};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::agent::{Agent, End};
use crate::config::{self, Asked, Config};
use crate::images::Images;
use crate::place::Place;
use crate::surroundings::{Inbox, Running, Surroundings};
use crate::{dial, executor_socket, http, masters, oversubscription, volumes};

/// Between two times that memory is given back which a burst of work has needed.
const TRIM: Duration = Duration::from_secs(10);

/// Runs the agent with the words of the command line behind the program's name.
pub fn run(words: Vec<String>) -> ExitCode {
    let config = match config::read(words) {
        Ok(Asked::Help) => {
            print!("{}", config::help());
            return ExitCode::SUCCESS;
        }
        Ok(Asked::Version) => {
            println!("meseta-agent {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Ok(Asked::Run(config)) => *config,
        Err(sentence) => return fail(&sentence),
    };
    supervisor::sys::share_heap();
    let config = match prepare(config) {
        Ok(config) => config,
        Err(sentence) => return fail(&sentence),
    };
    if let Err(sentence) = begin_log(&config) {
        return fail(&sentence);
    }
    for warning in &config.values.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(32).build();
    let ended = match runtime {
        Ok(runtime) => {
            runtime.spawn(async {
                loop {
                    tokio::time::sleep(TRIM).await;
                    let _ = tokio::task::spawn_blocking(supervisor::sys::trim_heap).await;
                }
            });
            let ended = runtime.block_on(serve(config));
            // Whatever still blocks a thread may: what matters is on the disk.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(format!("Cannot start threads: {error}")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => fail(&sentence),
    }
}

fn fail(sentence: &str) -> ExitCode {
    eprintln!("meseta-agent: {sentence}");
    ExitCode::FAILURE
}

/// What this process needs of the system; tasks get what they would have had without it.
fn prepare(mut config: Config) -> Result<Config, String> {
    containers::check_machine()?;
    let files = api_http::raise_file_limit()?;
    config.values.warnings.extend(files.warning());
    if config.values.bool("systemd_enable_support") {
        config.values.warnings.extend(crate::systemd::warning());
    }
    config.task_files = Some(files.before);
    config.task_umask = Some(api_http::keep_files_private());
    Ok(config)
}

fn begin_log(config: &Config) -> Result<(), String> {
    let log = api_http::Log::open(!config.values.bool("quiet"), config.log_file.as_deref())?;
    let level = match config.values.text("logging_level").unwrap_or("INFO") {
        "ERROR" => "error",
        "WARNING" => "warn",
        _ => "info",
    };
    let configured = std::env::var("RUST_LOG").unwrap_or_else(|_| level.to_owned());
    let format = api_http::LogFormat::parse(config.values.text("log_format"))?;
    api_http::begin_log(log, format, &configured)
}

/// Opens the log and folds it.
fn open_log(config: &Config) -> Result<(LocalLog, State), String> {
    let dir = config.work_dir.join(LOG_DIR);
    let cannot = |error: &dyn std::error::Error| {
        format!("Cannot use {}: {}", config.work_dir.display(), event_log::sentence(error))
    };
    let (log, recovered) =
        LocalLog::open(&dir, &Identity::new(LOG_KIND, LOG_VERSION)).map_err(|error| cannot(&error))?;
    let mut state = State::default();
    for record in recovered {
        let (index, record) = record.map_err(|error| cannot(&error))?;
        let events = decode_record(&record).map_err(|error| unreadable(&dir, index, &error))?;
        events.iter().for_each(|event| fold(&mut state, event));
    }
    Ok((log, state))
}

fn unreadable(dir: &Path, index: u64, error: &EventError) -> String {
    let remedy = match error {
        EventError::Unknown { .. } | EventError::Level { .. } => "; start the newer release that wrote it",
        EventError::Payload { .. } => "",
    };
    format!("Cannot read the log in {} at index {index}: {}{remedy}", dir.display(), event_log::sentence(error))
}

/// Whether there is what the masters made reservations and volumes of. The error is a sentence.
fn check_total(config: &Config, state: &State) -> Result<(), String> {
    let configured = Resources::from_v1(&config.resources).map_err(|error| error.to_string())?;
    let total = agent_core::total(&configured, &state.model.checkpointed());
    total.map(drop).map_err(|sentence| {
        format!(
            "The resources given no longer contain what was reserved or made a volume of them: {sentence}. \
             Start this agent with --resources that do; or first, with those that it had, unreserve or destroy it at the masters"
        )
    })
}

/// Whether the agent registers anew, since it describes itself in another way than it may after a restart of its machine. The
/// error is a sentence.
fn check_description(config: &Config, state: &State, boot_id: &str) -> Result<bool, String> {
    let (Some(agent_id), Some(before)) = (&state.registration.agent_id, &state.model.info) else { return Ok(false) };
    let Err(difference) = config.policy.check(&before.get(), &config.described()) else { return Ok(false) };
    // What ran is gone with it, whatever the agent is called.
    if state.clock.as_ref().is_some_and(|clock| clock.boot_id != boot_id) {
        tracing::warn!(
            agent_id,
            difference,
            "the machine was restarted, and is another one now: registering as a new agent"
        );
        return Ok(true);
    }
    let policy = match config.policy {
        agent_core::Policy::Equal => "equal",
        agent_core::Policy::Additive => "additive",
    };
    Err(format!(
        "Agent {agent_id} cannot go on as it is configured now: {difference} (--reconfiguration_policy={policy}). Start it as it \
         was, or, if nothing became less, with --reconfiguration_policy=additive; or drain it first, and start it with another --work_dir"
    ))
}

async fn serve(config: Config) -> Result<(), String> {
    // First of all: whoever is told to stop while it starts stops cleanly, a little later.
    let (mut hangup, mut terminate, mut interrupt, mut leave) = (
        signal(SignalKind::hangup()).map_err(|error| error.to_string())?,
        signal(SignalKind::terminate()).map_err(|error| error.to_string())?,
        signal(SignalKind::interrupt()).map_err(|error| error.to_string())?,
        signal(SignalKind::user_defined1()).map_err(|error| error.to_string())?,
    );
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|error| format!("Cannot listen on {}: {error}", config.listen))?;
    let bound = listener.local_addr().map_err(|error| format!("Cannot listen on {}: {error}", config.listen))?;
    let socket = config.executor_socket.as_deref().map(executor_socket::listen).transpose()?;
    let socket = socket.map(UnixListener::from_std).transpose().map_err(|error| error.to_string())?;
    let is_open = !config.admission.asks(auth::Realm::AgentReadwrite);
    if let Some(warning) = api_http::open_door(bound, "reads the files of every task").filter(|_| is_open) {
        tracing::warn!("{warning}");
    }
    if let Some(warning) = &config.secret_warning {
        tracing::warn!("{warning}");
    }
    if config.is_exposed() {
        tracing::warn!(
            "masters on other machines, and no --cluster_secret: whoever takes a master's place could have this agent run anything; \
             give it the masters' --cluster_secret=file:///PATH, or say --insecure"
        );
    }
    let (log, state) = open_log(&config)?;
    check_total(&config, &state)?;
    let groups = config.groups.as_ref().map(Cgroups::open).transpose()?;
    let isolators = isolators(&config, groups.as_ref())?;
    let (containers, pipe) =
        Supervised::open(&config.work_dir, &config.launcher, isolators, groups, &["meta", LOG_DIR])
            .map_err(|error| format!("Cannot use {}: {error}", config.work_dir.display()))?;
    let begins_anew = check_description(&config, &state, containers.boot_id())?;
    let disks = volumes::Disks::new(&config.work_dir);
    let checkpointed = state.model.checkpointed();
    disks.sweep(&volumes::roots(config.resources.iter().chain(&checkpointed)), &volumes::open(&state));
    let port = config.advertise_port.unwrap_or(bound.port());
    let address = format!("{}:{port}", config.advertise_ip);
    let external = match config.external.clone() {
        None => None,
        Some(program) => {
            let beside = containers.clone();
            let opened = tokio::task::spawn_blocking(move || External::open(beside, program)).await;
            Some(opened.map_err(|error| error.to_string())??)
        }
    };
    let docker = match config.docker.clone() {
        None => None,
        Some(terms) => {
            let (beside, program) = (containers.clone(), config.docker_program()?);
            let opened = tokio::task::spawn_blocking(move || Docker::open(beside, program, terms)).await;
            Some(opened.map_err(|error| error.to_string())??)
        }
    };
    let opened = config.images.clone().map(|settings| tokio::task::spawn_blocking(|| Images::open(settings)));
    let images = match opened {
        None => None,
        Some(opened) => Some(opened.await.map_err(|error| error.to_string())??),
    };
    let place =
        Place::new(&config, &address, choice(&config, &containers, external.as_ref(), docker.as_ref()), images.clone());
    let surroundings = Surroundings {
        log: Arc::new(log),
        dial: Box::new(dial::Tcp {
            signer: config.signer.clone(),
            tls: config.tls.clone(),
            credential: config.credential.clone(),
        }),
        containers: Box::new(place),
        volumes: Box::new(volumes::OnDisks(disks)),
    };
    let running = Running::new(config, address, state, surroundings);
    let agent = running.0.clone();
    vital(&agent, "collection of images", crate::images::collect(agent.clone()));
    vital(&agent, "collection of sandboxes", crate::gc::collect(agent.clone(), boot(&containers)));
    if let Some(log) = agent.config.values.path("external_log_file").or_else(|| agent.config.log_file.clone()) {
        // A link to the newest of many, perhaps.
        agent.files.attach("/slave/log", std::fs::canonicalize(&log).unwrap_or(log));
    }
    let known: BTreeSet<String> = {
        let state = agent.state.read();
        let launched = state.launched.live().map(|(id, _)| id);
        state.containers.keys().chain(state.remnants.keys()).chain(launched).cloned().collect()
    };
    let sweeping = containers.clone();
    let sweeping_docker = docker.clone();
    let swept = tokio::task::spawn_blocking(move || {
        sweeping.sweep(&known)?;
        sweeping_docker.map_or(Ok(()), |docker| docker.sweep(&known))?;
        if let Some(images) = images {
            images.provisioner().sweep(&known);
        }
        external.map_or(Ok(()), |external| external.sweep(&known))
    });
    swept.await.map_err(|error| error.to_string())??;
    if begins_anew {
        let _ = agent.ask(Command::Forget).await;
    }
    running.recover().await;
    // What the agent before had heard and not written down was found in files: what comes now comes after it.
    vital(&agent, "hearing of containers", containers.clone().listen(Inbox(agent.clone()).core(), pipe));
    vital(&agent, "look at containers", containers.clone().watch(Inbox(agent.clone()).core()));
    if let Some(docker) = docker {
        vital(&agent, "removal of containers", docker.tidy(Inbox(agent.clone()).core()));
    }
    if let Some(loads) = agent.config.loads {
        let interval = agent.config.correct_every;
        vital(&agent, "look at the load", oversubscription::correct(agent.clone(), loads, interval));
    }
    let (stop, stopped) = watch::channel(false);
    let handler = {
        let agent = agent.clone();
        move |request, peer| http::answer(agent.clone(), request, peer)
    };
    if let Some(socket) = socket {
        let agent = agent.clone();
        let handler = move |request, peer| http::answer_executor(agent.clone(), request, peer);
        let serving = Serving { reserved: &["/api/v1/executor"], ..Serving::new() };
        tokio::spawn(api_http::serve_local(socket, handler, stopped.clone(), serving));
    }
    // Whoever comes back is heard from here on, and has its time from here on.
    let connection = running.begin(boot(&containers));
    crate::local::start(&agent);
    // Whoever else is connected, executors find room.
    let tls = agent.config.tls.clone();
    if let Some(tls) = tls.clone() {
        tls.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        vital(&agent, "look after certificates", tls.follow());
    }
    let noting = Some(agent.config.admission.clone());
    let serving = Serving { reserved: &["/api/v1/executor"], tls, plain_from_here: true, noting, ..Serving::new() };
    let server = tokio::spawn(api_http::serve_with(listener, handler, stopped, serving));
    println!("meseta-agent listening on {}:{}", agent.config.listen.ip(), bound.port());

    let mut end = agent.end.subscribe();
    // It may be over by now: the connection to the masters began before.
    end.mark_changed();
    let ended = loop {
        tokio::select! {
            _ = hangup.recv() => drop(api_http::reload(agent.config.admission.clone()).await),
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = leave.recv() => {
                tracing::info!("leaving for good");
                agent.submit(Command::Leave);
            }
            changed = end.changed() => {
                let why = end.borrow_and_update().clone();
                match (changed, why) {
                    (Ok(()), Some(End::Left)) => {
                        masters::wait_for_farewell(&agent).await;
                        break Ok(());
                    }
                    (Ok(()), Some(End::Failed(sentence))) => break Err(sentence),
                    (Ok(()), None) => {}
                    (Err(_), _) => break Ok(()),
                }
            }
        }
    };
    connection.abort();
    let _ = stop.send(true);
    // Streams of executors end with their senders; then the server has nothing to wait for.
    agent.streams.lock().clear();
    let _ = server.await;
    ended
}

/// Work without which the agent would only look alive. If it panics the process ends at once; if it ends by itself, and did
/// not say why, the agent does.
pub(crate) fn vital(
    agent: &Arc<Agent>,
    what: &'static str,
    work: impl Future<Output = ()> + Send + 'static,
) -> tokio::task::JoinHandle<()> {
    let agent = agent.clone();
    event_log::vital::spawn("meseta-agent", what, async move {
        work.await;
        agent.fail(format!("The agent cannot go on: its {what} has ended"));
    })
}

/// Those of `--containerizers`, in its order.
fn choice(config: &Config, supervised: &Supervised, external: Option<&External>, docker: Option<&Docker>) -> Choice {
    let one = |name: &str| -> Arc<dyn Containerizer> {
        match (name, external, docker) {
            (config::EXTERNAL, Some(external), _) => Arc::new(external.clone()),
            (config::DOCKER, _, Some(docker)) => Arc::new(docker.clone()),
            _ => Arc::new(supervised.clone()),
        }
    };
    Choice::of(config::containerizers(&config.values).map(one).collect())
}

/// Those of `--isolation`. The error is a sentence.
fn isolators(config: &Config, groups: Option<&Cgroups>) -> Result<Vec<Box<dyn Isolator>>, String> {
    let named = config.values.text("isolation").unwrap_or_default().split(',').map(str::trim);
    let names = ordered(named, groups)?;
    if let Some(groups) = groups {
        names.iter().try_for_each(|name| containers::isolators::cgroups::check(groups, name))?;
        if names.contains(&"cgroups/perf_event") {
            containers::isolators::cgroups::check_events(groups, &config.isolators.sampling)?;
        }
    }
    if names.contains(&"gpu/nvidia") {
        containers::isolators::GpuNvidia::check(&config.isolators.gpus)?;
    }
    if names.contains(&"network/cni") {
        containers::isolators::NetworkCni::check(&config.isolators.cni)?;
    }
    let mut settings = config.isolators.clone();
    if names.contains(&"network/port_mapping") {
        settings.port_mapping.machine = Some(containers::isolators::PortMapping::open(&settings.port_mapping)?);
    }
    let disks =
        config.resources.iter().filter_map(|one| one.disk.as_ref()?.source.as_ref()?.path.as_ref()?.root.as_ref());
    let folders: Vec<PathBuf> = disks.map(|root| config.work_dir.join(root)).chain([config.work_dir.clone()]).collect();
    let has_users = names.contains(&"namespaces/user");
    if has_users {
        let folders = folders.iter().map(PathBuf::as_path);
        containers::isolators::NamespacesUser::check(&config.isolators.users, folders)?;
    }
    for folder in &folders {
        volumes::keep(folder, has_users)
            .map_err(|error| format!("Cannot keep volumes in {} from others: {error}", folder.display()))?;
    }
    if names.contains(&"disk/xfs") {
        folders.iter().try_for_each(|folder| containers::isolators::DiskXfs::check(&config.isolators.xfs, folder))?;
    }
    if names.contains(&"volume/csi") {
        containers::isolators::VolumeCsi::check(&config.isolators.csi)?;
    }
    if names.contains(&"docker/volume") {
        containers::isolators::DockerVolume::check(&config.isolators.docker_volume)?;
    }
    if names.contains(&"filesystem/linux") {
        containers::mounts::check_machine().map_err(|why| format!("Cannot use filesystem/linux: {why}"))?;
    }
    Ok(names.into_iter().filter_map(|name| built(name, &settings, groups).flatten()).collect())
}

/// The start of this machine, and milliseconds since then.
fn boot(containers: &Supervised) -> (String, u64) {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = uptime.split(' ').next().and_then(|seconds| seconds.parse::<f64>().ok()).unwrap_or(0.0);
    (containers.boot_id().to_owned(), (seconds * 1000.0) as u64)
}

/// Finds everything again that an earlier agent had.
pub(crate) async fn recover(agent: &Arc<Agent>) {
    let (live, remnants, effects) = {
        let state = agent.state.read();
        for (framework_id, framework) in &state.frameworks {
            framework.completed.iter().chain(framework.executors.values()).for_each(|executor| {
                agent.attach(framework_id, executor);
            });
        }
        // Those within others first: these wait for them.
        let launched = state.launched.live().map(|(id, _)| id).filter(|_| !planted(Bug::NestedNotRecovered));
        let live: Vec<String> = launched.rev().chain(state.containers.keys()).cloned().collect();
        let remnants: Vec<String> = state.remnants.keys().cloned().collect();
        (live, remnants, resume(&state))
    };
    if !live.is_empty() || !remnants.is_empty() {
        tracing::info!(containers = live.len(), remnants = remnants.len(), "looking for what ran before");
    }
    if planted(Bug::DeadlineBeforeListener) {
        agent.submit(Command::Restart { boot: Default::default() });
    }
    // Before anything is launched: it is to see what was ordered before.
    let (operations, effects): (Vec<_>, Vec<_>) =
        effects.into_iter().partition(|effect| matches!(effect, agent_core::Effect::Apply { .. }));
    operations.into_iter().for_each(|effect| crate::agent::perform(agent, effect));
    let inbox = Inbox(agent.clone());
    live.iter().chain(&remnants).for_each(|container_id| agent.containers.recover(&inbox, container_id));
    for effect in effects {
        crate::agent::perform(agent, effect);
    }
    // Everything found is in the log before anybody asks.
    let _ = agent.ask(Command::Settle).await;
    let millis = u64::try_from(agent.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    agent.recovered_ms.store(millis, std::sync::atomic::Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::surroundings::Terms;
    use agent_core::{Blob, Clock, Registration, Settings};
    use api::v1::AgentInfo;

    #[test]
    fn only_after_a_restart_of_its_machine_another_agent_begins_anew() {
        let settings = Settings {
            ip: "127.0.0.1".into(),
            executor_registration_timeout_ms: 1,
            executor_reregistration_timeout_ms: 1,
            executor_shutdown_grace_ms: 1,
            launcher_dir: String::new(),
            completed_executors_max: 1,
            ended_tasks_max: 1,
        };
        let (hostname, masters, resources) = ("h".to_owned(), Vec::new(), Vec::new());
        let config = Terms { hostname, masters, resources, settings, log_bytes_max: 1, identity: None }.config();
        let config = config.unwrap();
        let mut state = State::default();
        let info = |hostname: &str| Some(Blob::of(&AgentInfo { hostname: hostname.into(), ..config.described() }));
        state.registration = Registration { agent_id: Some("S0".into()), ..Registration::default() };
        state.clock = Some(Clock { boot_id: "first".into(), ..Clock::default() });
        assert_eq!(check_description(&config, &state, "first"), Ok(false), "an earlier release did not write it down");
        state.model.info = info("h");
        assert_eq!(check_description(&config, &state, "second"), Ok(false), "it keeps its id");
        state.model.info = info("g");
        let sentence = check_description(&config, &state, "first").unwrap_err();
        assert!(sentence.contains("the hostname changed from 'g' to 'h'"), "{sentence}");
        assert_eq!(check_description(&config, &state, "second"), Ok(true));
    }
}
