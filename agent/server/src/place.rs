//! Where containers of this agent run: what is to be created, out of what is known of an executor, and what brings it there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_core::{Command, Process, Signal, State, Volume, parent_of};
use agent_fetcher::Job;
use api::checks::{Definition, Target};
use api::v1::agent::call::LaunchContainer;
use api::v1::{
    CommandInfo, ContainerInfo, ExecutorInfo, FrameworkInfo, Label, Labels, TaskInfo, container_info, executor_info,
};
use api_http::{Admission, Secret};
use containers::mounts::{Mount, Place as MountedAt};
use containers::root::Root;
use containers::spec::{First, World};
use containers::users::Users;
use containers::{
    Choice, Container, Containerizer as Runs, Core, Creation, How, Limitation, Report, ids, make_sandbox,
};

use crate::config::Config;
use crate::images::{Asked, Images};
use crate::logger::Logger;
use crate::surroundings::{Containerizer, FETCH_FAILED, Inbox};
use crate::volumes::Finding;
use crate::{checks, nested, paths, promised, secrets, volumes};

/// Where an executor finds the token that it shows to its agent.
const TOKEN: &str = "MESOS_EXECUTOR_AUTHENTICATION_TOKEN";

/// The label by which a task, or an executor, asks for a containerizer by name.
const CONTAINERIZER: &str = "meseta.containerizer";

/// Where programs are looked for, when a task does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What was configured of all containers.
#[derive(Debug)]
struct Terms {
    work_dir: PathBuf,
    launcher: PathBuf,
    logger: Option<Logger>,
    /// host:port of the HTTP endpoints.
    address: String,
    ip: String,
    /// The socket that executors may talk to it through.
    executor_socket: Option<PathBuf>,
    switch_user: bool,
    environment: Vec<(String, String)>,
    grace_ms: u64,
    recovery_timeout: String,
    recovery_timeout_ms: u64,
    files: Option<u64>,
    umask: Option<u32>,
    /// What containers are of which nobody says anything.
    default_container: Option<ContainerInfo>,
    /// How containers find their volumes.
    finding: Finding,
    /// Where those with a root of their own find their sandbox.
    sandbox_directory: PathBuf,
    fetcher: PathBuf,
    /// What all fetches have in common.
    fetch: Job,
    /// What values of tasks' secrets are sealed with.
    secret: Option<Secret>,
    /// Whose key tokens of executors are signed with.
    admission: Arc<Admission>,
}

impl Terms {
    fn default_executor(&self) -> (Option<String>, Vec<String>) {
        let program = self.launcher.with_file_name(default_executor::NAME);
        (Some(program.display().to_string()), vec![default_executor::NAME.to_owned()])
    }
}

/// The machine of an agent.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    containers: Choice,
    /// Images of containers, if there are any.
    images: Option<Images>,
    terms: Arc<Terms>,
}

impl Place {
    pub(crate) fn new(config: &Config, address: &str, containers: Choice, images: Option<Images>) -> Place {
        let terms = Terms {
            work_dir: config.work_dir.clone(),
            launcher: config.launcher.clone(),
            logger: config.logger.clone(),
            address: address.to_owned(),
            ip: config.settings.ip.clone(),
            executor_socket: config.executor_socket.clone(),
            switch_user: config.values.bool("switch_user"),
            environment: config.executor_environment.clone(),
            grace_ms: config.settings.executor_shutdown_grace_ms,
            recovery_timeout: config.values.text("recovery_timeout").unwrap_or("15mins").to_owned(),
            recovery_timeout_ms: config.recovery_timeout_ms,
            files: config.task_files,
            umask: config.task_umask,
            default_container: config.default_container.clone(),
            finding: if config.isolates("filesystem/linux") { Finding::Mounts } else { Finding::Links },
            sandbox_directory: PathBuf::from(&config.isolators.filesystem.sandbox_directory),
            fetcher: config.launcher.with_file_name("meseta-fetcher"),
            fetch: fetch(config),
            secret: config.secret.clone(),
            admission: config.admission.clone(),
        };
        Place { containers, images, terms: Arc::new(terms) }
    }

    /// What a container is, also where nobody said it.
    fn described(&self, state: &State, container_id: &str) -> Container {
        let mut container = promised::container(&self.terms.work_dir, state, container_id);
        container.written = self.images.as_ref().map(|images| images.provisioner().written(container_id));
        if container.info.is_none()
            && let Some(default) = &self.terms.default_container
            && let Some((_, executor)) = state.executor_of(container_id)
        {
            let mut info = default.clone();
            // It is a program of this machine, and has its root.
            if executor.info.get::<ExecutorInfo>().r#type() == executor_info::Type::Default {
                info.mesos = None;
            }
            container.info = Some(Box::new(info));
        }
        container
    }

    /// What is to run a container of which the agent knows. None if there is nothing that would.
    fn runs(&self, state: &State, container: &Container) -> Option<&dyn Runs> {
        let task = state.executor_of(&container.id).map(|(_, executor)| {
            let task = executor.tasks.values().next().filter(|_| executor.is_command);
            task.map_or_else(|| executor.info.get::<ExecutorInfo>().labels, |task| task.info.get::<TaskInfo>().labels)
        });
        let labels: Vec<(String, String)> = task.flatten().iter().flat_map(|all| &all.labels).map(pair).collect();
        let containerizer = named(&labels);
        let creation = Creation { container: container.clone(), labels, containerizer, ..Creation::default() };
        self.containers.for_new(&creation).ok()
    }

    /// Whom users of a container are on the machine, if it has some of its own. The error is a sentence.
    fn users(&self, state: &State, container_id: &str) -> Result<Option<Users>, String> {
        self.runs(state, &self.described(state, container_id)).map_or(Ok(None), |one| one.users(container_id))
    }

    /// Which images a container asks for that this agent is to run itself. The error is a sentence.
    fn asks(&self, agent: &Inbox, container_id: &str) -> Result<Option<(Images, Asked)>, String> {
        let Some(images) = &self.images else { return Ok(None) };
        let state = agent.state();
        if state.launched.all.get(container_id).is_some_and(|one| one.session) {
            return Ok(None);
        }
        let container = self.described(&state, container_id);
        let Some(info) = container.info.clone() else { return Ok(None) };
        // Another one has images of its own, or none.
        if self.runs(&state, &container).is_none_or(|one| one.name() != "mesos") {
            return Ok(None);
        }
        let asked = images.asked(&info, self.terms.secret.as_ref(), &secrets::owner(&state, container_id))?;
        Ok(Some((images.clone(), asked)))
    }

    /// What the image of a container says of its process, if it has one.
    fn image(&self, container_id: &str) -> Option<images::Process> {
        self.images.as_ref()?.root(container_id).map(|(_, process)| process)
    }

    /// Makes the sandbox of an executor and describes its container. None if it is wanted no more; the error is a sentence.
    fn prepare(&self, agent: &Inbox, container_id: &str) -> Result<Option<Creation>, String> {
        let state = agent.state();
        let Some((framework_id, executor)) = state.executor_of(container_id) else { return Ok(None) };
        let (framework_id, executor) = (framework_id.to_owned(), executor.clone());
        let framework: FrameworkInfo = state.frameworks[&framework_id].info.get();
        let agent_id = state.registration.agent_id.clone().unwrap_or_default();
        let links = volumes::Links::of(&executor, &state);
        let mut described = self.described(&state, container_id);
        let users = self.users(&state, container_id)?;
        drop(state);
        let info: ExecutorInfo = executor.info.get();
        let task: Option<TaskInfo> =
            executor.tasks.values().next().filter(|_| executor.is_command).map(|task| task.info.get());
        let command = task.as_ref().map_or(&info.command, |task| &task.command).clone().unwrap_or_default();
        let user = self.user(&command, &framework.user);
        let terms = &self.terms;
        let sandbox = paths::sandbox(&terms.work_dir, &agent_id, &framework_id, &executor);
        make_sandbox(&terms.work_dir, &terms.work_dir, &sandbox, &user, users, true)
            .map_err(|error| format!("cannot make the sandbox: {error}"))?;
        links?.make(&terms.work_dir, &sandbox, terms.finding, users)?;
        if let Some(info) = &mut described.info {
            secrets::opened_container(terms.secret.as_ref(), info, &framework_id);
        }
        agent.attach(&framework_id, &executor);
        let is_default = info.r#type() == executor_info::Type::Default;
        let container = described.info.as_deref();
        let (program, arguments) = match is_default {
            true => terms.default_executor(),
            // What its image runs need not be said.
            false if is_docker(container) => (None, command.arguments.clone()),
            false => arguments(&command, self.image(container_id).as_ref())?,
        };
        let labels = task.as_ref().map_or(&info.labels, |task| &task.labels).as_ref();
        let mut brings = command.clone();
        task.iter().for_each(|task| api::checks::bring(task, &mut brings));
        let first = self.first(container_id, &brings, labels, (&user, users), &sandbox)?;
        let rotation = terms.logger.as_ref().map(|logger| logger.of(&command)).transpose()?;
        let (streams, rlimits) = (nested::streams(container, false), nested::rlimits(container));
        let ids = [agent_id.as_str(), framework_id.as_str(), executor.executor_id.as_str()];
        let mut environment = self.environment(ids, container_id, &info, task.as_ref(), &command, &sandbox)?;
        if let Some(key) = terms.admission.key().filter(|_| !executor.is_command) {
            let claims = [("fid", &*framework_id), ("eid", &*executor.executor_id), ("cid", container_id)];
            environment.push(format!("{TOKEN}={}", key.mint(&claims.into())));
        }
        let all: Vec<(String, String)> = labels.iter().flat_map(|all| &all.labels).map(pair).collect();
        Ok(Some(Creation {
            container: described,
            containerizer: named(&all),
            labels: all,
            checked: task.as_ref().is_some_and(has_commands),
            user,
            program,
            arguments,
            environment,
            files: terms.files,
            umask: terms.umask,
            // Executors of frameworks know themselves how long to wait.
            away_ms_max: executor.is_command.then_some(terms.recovery_timeout_ms),
            grace_ms: Some(terms.grace_ms),
            joins: Vec::new(),
            world: self.world(container_id, terms.executor_socket.as_deref().filter(|_| !executor.is_command)),
            enters: Vec::new(),
            first,
            rlimits,
            rotation: rotation.filter(|_| streams.is_none()),
            streams,
            command: Some(command),
            images: Vec::new(),
            scratch: None,
        }))
    }

    /// What its process sees of files, as far as its image says it; with a socket of the machine, if it needs that.
    fn world(&self, container_id: &str, socket: Option<&Path>) -> World {
        let Some((root, process)) = self.images.as_ref().and_then(|images| images.root(container_id)) else {
            return World::default();
        };
        let root = Root { path: root.display().to_string(), ..Root::default() };
        let folder = Some(process.working_dir).filter(|folder| !folder.is_empty());
        let directory = folder.map(|folder| format!("/{}", folder.trim_start_matches('/')));
        let socket = socket.map(|socket| MountedAt::absolute(socket.display().to_string()));
        let mounts = socket.map(|socket| Mount::bind(socket.clone(), socket)).into_iter().collect();
        World { root: Some(root), directory, mounts, ..World::default() }
    }

    /// Where the commands of checks run: beside the task's, as that does. None if it runs no more.
    fn beside(&self, agent: &Inbox, container_id: &str) -> Option<agent_checks::Place> {
        let (framework_id, executor) = agent.executor_of(container_id)?;
        let state = agent.state();
        let framework: FrameworkInfo = state.frameworks.get(&framework_id)?.info.get();
        let agent_id = state.registration.agent_id.clone().unwrap_or_default();
        drop(state);
        let (info, terms): (ExecutorInfo, _) = (executor.info.get(), &self.terms);
        let task: TaskInfo = executor.tasks.values().next()?.info.get();
        let command = task.command.clone().unwrap_or_default();
        let sandbox = paths::sandbox(&terms.work_dir, &agent_id, &framework_id, &executor);
        let ids = [agent_id.as_str(), framework_id.as_str(), executor.executor_id.as_str()];
        let process = executor.process.as_ref().map(to_containers);
        if let Some(inside) = self.containers.of_container(container_id).inside(container_id, process.as_ref()) {
            let is_apart = task.container.as_ref().is_some_and(|container| !is_on_machines_network(container));
            return Some(agent_checks::Place {
                helper: inside.helper,
                user: String::new(),
                sandbox,
                // What runs within has all of the container's.
                environment: Vec::new(),
                umask: None,
                network: inside.network.filter(|_| is_apart),
                beside: None,
            });
        }
        let mut environment = self.environment(ids, container_id, &info, Some(&task), &command, &sandbox).ok()?;
        environment.push(format!("{}={container_id}@{}", containers::processes::CONTAINER, terms.work_dir.display()));
        // Whatever is mounted for the task: volumes, and its root.
        let has_mounts = terms.finding == Finding::Mounts;
        let has_root = self.images.as_ref().is_some_and(|images| images.root(container_id).is_some());
        Some(agent_checks::Place {
            helper: (terms.launcher.clone(), vec![agent_checks::command::WORD.to_owned()]),
            user: self.user(&command, &framework.user),
            sandbox: if has_root { terms.sandbox_directory.clone() } else { sandbox },
            environment,
            umask: terms.umask,
            network: process.and_then(|process| network_of(process.pid)),
            beside: executor.process.as_ref().map(|process| process.pid).filter(|_| has_mounts),
        })
    }

    /// What is done before its process runs: what it brings along is fetched.
    fn first(
        &self,
        container_id: &str,
        command: &CommandInfo,
        labels: Option<&Labels>,
        (user, users): (&str, Option<Users>),
        sandbox: &Path,
    ) -> Result<Option<First>, String> {
        let items = agent_fetcher::items(command, labels).map_err(|sentence| format!("Could not fetch: {sentence}"))?;
        if items.is_empty() {
            return Ok(None);
        }
        let ids = users.map(|users| ids(user, Some(users))).transpose()?;
        let job = Job { sandbox: sandbox.to_owned(), user: user.to_owned(), ids, items, ..self.terms.fetch.clone() };
        Ok(Some(First {
            program: self.terms.fetcher.display().to_string(),
            input: job.encode(),
            failure: format!("{FETCH_FAILED} '{container_id}'"),
        }))
    }

    /// The same for a container that was launched by call.
    fn prepare_launched(&self, agent: &Inbox, container_id: &str) -> Result<Option<Creation>, String> {
        let (state, terms) = (agent.state(), &self.terms);
        let Some(container) = state.launched.all.get(container_id) else { return Ok(None) };
        let info: LaunchContainer = container.info.get();
        let mut command = info.command.clone().unwrap_or_default();
        let labels = api::checksums::taken(&mut command);
        let user = if terms.switch_user { container.user.clone() } else { String::new() };
        let sandbox = paths::of_container(&terms.work_dir, &state, container_id);
        let parent = parent_of(container_id);
        let above = parent.map(|parent| paths::of_container(&terms.work_dir, &state, parent));
        let executor = container_id.split('.').next().and_then(|root| state.executor_of(root));
        let uses = if container.session { Ok(Vec::new()) } else { agent_core::uses(&info.resources) };
        let of_executor = match executor {
            Some((_, executor)) if uses.as_ref().is_ok_and(|uses| !uses.is_empty()) => executor.volumes(),
            _ => Ok(Vec::new()),
        };
        let (session, variables) = (container.session, self.variables(&state, container_id));
        let mut described = self.described(&state, container_id);
        let users = self.users(&state, container_id)?;
        if let Some(info) = &mut described.info {
            secrets::opened_container(terms.secret.as_ref(), info, &secrets::owner(&state, container_id));
        }
        drop(state);
        if !session {
            let above = above.as_ref().unwrap_or(&terms.work_dir);
            make_sandbox(&terms.work_dir, above, &sandbox, &user, users, false)
                .map_err(|error| format!("cannot make the sandbox: {error}"))?;
            volumes::link_within(&terms.work_dir, &sandbox, &uses?, &of_executor?, terms.finding, users)?;
        }
        let image = self.image(container_id);
        let launch = arguments(&command, image.as_ref()).map_err(|why| format!("cannot execute it: {why}"));
        let (program, arguments) = launch?;
        let first = self.first(container_id, &command, Some(&labels), (&user, users), &sandbox)?;
        let streams = nested::streams(info.container.as_ref(), session);
        let rotation = terms.logger.as_ref().map(|logger| logger.of(&command)).transpose()?;
        let variables = variables?;
        Ok(Some(Creation {
            container: described,
            user,
            program,
            arguments,
            environment: variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
            files: terms.files,
            umask: terms.umask,
            // What stands alone waits for its agent for ever.
            away_ms_max: parent.map(|_| terms.recovery_timeout_ms),
            grace_ms: Some(terms.grace_ms),
            joins: Vec::new(),
            world: self.world(container_id, None),
            enters: Vec::new(),
            rlimits: nested::rlimits(info.container.as_ref()),
            first,
            streams,
            rotation: rotation.filter(|_| streams.is_none()),
            containerizer: None,
            labels: Vec::new(),
            checked: false,
            command: Some(command),
            images: Vec::new(),
            scratch: None,
        }))
    }

    /// The environment of a container. A session has that of what it is within, too. The error is a sentence.
    fn variables(&self, state: &State, container_id: &str) -> Result<BTreeMap<String, String>, String> {
        let sandbox = || paths::of_container(&self.terms.work_dir, state, container_id);
        if let Some((framework_id, executor)) = state.executor_of(container_id) {
            let info: ExecutorInfo = executor.info.get();
            let task: Option<TaskInfo> =
                executor.tasks.values().next().filter(|_| executor.is_command).map(|task| task.info.get());
            let command = task.as_ref().map_or(&info.command, |task| &task.command).clone().unwrap_or_default();
            let agent_id = state.registration.agent_id.as_deref().unwrap_or_default();
            let ids = [agent_id, framework_id, executor.executor_id.as_str()];
            let all = self.environment(ids, container_id, &info, task.as_ref(), &command, &sandbox())?;
            let pair = |one: &String| one.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
            return Ok(all.iter().filter_map(pair).collect());
        }
        let Some(container) = state.launched.all.get(container_id) else { return Ok(BTreeMap::new()) };
        let mut variables = match parent_of(container_id) {
            Some(parent) if container.session => self.variables(state, parent)?,
            _ => self.variables_of_image(container_id),
        };
        if parent_of(container_id).is_none() || !container.session {
            variables.insert("MESOS_SANDBOX".to_owned(), sandbox().display().to_string());
        }
        let mut command = container.info.get::<LaunchContainer>().command.unwrap_or_default();
        api::checksums::taken(&mut command);
        let owner = secrets::owner(state, container_id);
        for variable in command.environment.iter().flat_map(|environment| &environment.variables) {
            let value = secrets::value(self.terms.secret.as_ref(), variable, &owner)?;
            variables.insert(variable.name.clone(), value);
        }
        Ok(variables)
    }

    fn user(&self, command: &CommandInfo, default: &str) -> String {
        match &command.user {
            _ if !self.terms.switch_user => String::new(),
            Some(user) => user.clone(),
            None => default.to_owned(),
        }
    }

    /// Where programs are, and what the image of a container says besides.
    fn variables_of_image(&self, container_id: &str) -> BTreeMap<String, String> {
        let image = self.image(container_id).unwrap_or_default();
        let said = image.env.iter().filter_map(|variable| variable.split_once('='));
        let said = said.map(|(name, value)| (name.to_owned(), value.to_owned()));
        [("PATH".to_owned(), PATH.to_owned())].into_iter().chain(said).collect()
    }

    /// Nothing of the agent's own environment: what a task sees must not depend on who started the agent. The error is a sentence.
    fn environment(
        &self,
        [agent_id, framework_id, executor_id]: [&str; 3],
        container_id: &str,
        info: &ExecutorInfo,
        task: Option<&TaskInfo>,
        command: &CommandInfo,
        sandbox: &Path,
    ) -> Result<Vec<String>, String> {
        let terms = &self.terms;
        let mut variables = self.variables_of_image(container_id);
        let mut set = |name: &str, value: String| variables.insert(name.to_owned(), value);
        for (name, value) in &terms.environment {
            set(name, value.clone());
        }
        let grace = info.shutdown_grace_period.as_ref().map_or_else(
            || Duration::from_millis(terms.grace_ms),
            |grace| Duration::from_nanos(u64::try_from(grace.nanoseconds).unwrap_or(0)),
        );
        set("LIBPROCESS_IP", terms.ip.clone());
        set("LIBPROCESS_PORT", "0".to_owned());
        set("MESOS_AGENT_ENDPOINT", terms.address.clone());
        // Tasks survive a restart of the agent whether their framework asked for it or not.
        set("MESOS_CHECKPOINT", "1".to_owned());
        set("MESOS_DIRECTORY", sandbox.display().to_string());
        if let Some(socket) = &terms.executor_socket {
            set("MESOS_DOMAIN_SOCKET", socket.display().to_string());
        }
        set("MESOS_EXECUTOR_ID", executor_id.to_owned());
        set("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", api::duration::format(grace));
        set("MESOS_FRAMEWORK_ID", framework_id.to_owned());
        set("MESOS_HTTP_COMMAND_EXECUTOR", "0".to_owned());
        set("MESOS_RECOVERY_TIMEOUT", terms.recovery_timeout.clone());
        set("MESOS_SANDBOX", sandbox.display().to_string());
        set("MESOS_SLAVE_ID", agent_id.to_owned());
        set("MESOS_SLAVE_PID", format!("slave(1)@{}", terms.address));
        set("MESOS_SUBSCRIPTION_BACKOFF_MAX", "2secs".to_owned());
        if let Some(task) = task {
            set("MESOS_TASK_ID", task.task_id.value.clone());
        }
        let resources = task.map_or(&info.resources, |task| &task.resources);
        if let Some(allocation) = resources.first().and_then(|resource| resource.allocation_info.as_ref()) {
            set("MESOS_ALLOCATION_ROLE", allocation.role().to_owned());
        }
        for variable in command.environment.iter().flat_map(|environment| &environment.variables) {
            set(&variable.name, secrets::value(terms.secret.as_ref(), variable, framework_id)?);
        }
        Ok(variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
    }
}

/// How fetches are configured. Of the agent's own environment, what says where its clients and authorities are.
fn fetch(config: &Config) -> Job {
    const VARIABLES: [&str; 7] =
        ["PATH", "HOME", "JAVA_HOME", "HADOOP_HOME", "HADOOP_CONF_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR"];
    let text = |name: &str| config.values.text(name).unwrap_or_default().to_owned();
    Job {
        cache_dir: config.fetcher_cache(),
        cache_bytes_max: config.values.bytes("fetcher_cache_size").unwrap_or(0),
        stall_timeout_ms: config.values.duration("fetcher_stall_timeout").map_or(0, |most| most.as_millis() as u64),
        unpacked_bytes_max: config.values.bytes("fetcher_unpacked_size").unwrap_or(u64::MAX),
        frameworks_home: text("frameworks_home"),
        hadoop_home: text("hadoop_home"),
        environment: VARIABLES
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
            .collect(),
        ..Job::default()
    }
}

/// Brings a container into being: its sandbox first, then what runs in it.
async fn launch(place: Place, agent: Inbox, container_id: String) {
    let provided = async {
        agent.publish(&container_id).await?;
        match place.asks(&agent, &container_id)? {
            None => Ok(Some(Vec::new())),
            Some((images, asked)) => {
                let users = place.users(&agent.state(), &container_id)?;
                images.provide(&agent, &container_id, asked, users).await
            }
        }
    };
    let volumes = match provided.await {
        Ok(Some(volumes)) => volumes,
        // Ended meanwhile.
        Ok(None) => return place.release(container_id),
        Err(message) => {
            return place.containers.of_container(&container_id).give_up(agent.core(), &container_id, message);
        }
    };
    let (preparing, inbox, id) = (place.clone(), agent.clone(), container_id.clone());
    let prepare = move || match preparing.prepare(&inbox, &id)? {
        None => preparing.prepare_launched(&inbox, &id),
        prepared => Ok(prepared),
    };
    let prepared = tokio::task::spawn_blocking(prepare).await;
    match prepared.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(Some(creation)) => match place.containers.for_new(&creation) {
            Ok(containerizer) => {
                let scratch = place.images.as_ref().and_then(|images| images.scratch(&container_id));
                containerizer.create(agent.core(), Creation { images: volumes, scratch, ..creation });
            }
            Err(message) => place.containers.of_container(&container_id).give_up(agent.core(), &container_id, message),
        },
        // Ended meanwhile.
        Ok(None) => place.release(container_id),
        Err(message) => place.containers.of_container(&container_id).give_up(agent.core(), &container_id, message),
    }
}

impl Containerizer for Place {
    fn launch(&self, agent: &Inbox, container_id: String) {
        tokio::spawn(launch(self.clone(), agent.clone(), container_id));
    }

    fn stop(&self, agent: &Inbox, container_id: String, signal: Signal) {
        let how = match signal {
            Signal::Terminate => How::Gently,
            Signal::Kill => How::AtOnce,
        };
        self.containers.of_container(&container_id).destroy(agent.core(), &container_id, how);
    }

    fn release(&self, container_id: String) {
        self.containers.of_container(&container_id).release(&container_id);
        self.images.iter().for_each(|images| images.destroy(container_id.clone()));
    }

    fn images(&self) -> Option<&Images> {
        self.images.as_ref()
    }

    fn recover(&self, agent: &Inbox, container_id: &str) {
        let container = self.described(&agent.state(), container_id);
        self.containers.of_container(container_id).recover(agent.core(), &container);
    }

    fn check(&self, agent: &Inbox, container_id: String) {
        let Some(beside) = self.beside(agent, &container_id) else { return };
        checks::begin(agent, &container_id, beside);
    }

    fn named(&self, agent_id: &str) {
        let agents = self.terms.work_dir.join("slaves");
        let latest = agents.join("latest");
        let _ = fs::create_dir_all(&agents);
        let _ = fs::remove_file(&latest);
        let _ = symlink(agent_id, latest);
    }

    fn link(&self, agent: &Inbox, container_id: &str) -> Result<(), String> {
        let state = agent.state();
        let Some((framework_id, executor)) = state.executor_of(container_id) else { return Ok(()) };
        let agent_id = state.registration.agent_id.as_deref().unwrap_or_default();
        let sandbox = paths::sandbox(&self.terms.work_dir, agent_id, framework_id, executor);
        let links = volumes::Links::of(executor, &state);
        let users = self.users(&state, container_id)?;
        let found = (!executor.is_command).then(|| {
            let container = promised::container(&self.terms.work_dir, &state, container_id);
            let is_to_come = |one: &&containers::Volume| {
                Volume::of(&one.resource).is_ok_and(|volume| state.model.is_to_come(&volume))
            };
            let to_come: Vec<PathBuf> =
                container.volumes.iter().filter(is_to_come).map(|one| one.place.clone()).collect();
            let before = executor.volumes_before().into_iter();
            let over: Vec<(String, PathBuf)> =
                before.map(|one| (one.path, volumes::path(&self.terms.work_dir, &one.volume))).collect();
            (container, to_come, over)
        });
        drop(state);
        if let Some((mut container, to_come, over)) = found {
            // The task that uses it is handed over behind the order that makes it.
            container.volumes.retain(|one| !to_come.contains(&one.place) || one.place.exists());
            self.containers.of_container(container_id).find_volumes(&container, &over)?;
        }
        let finding = match self.terms.finding {
            Finding::Mounts => Finding::Either,
            other => other,
        };
        links?.make(&self.terms.work_dir, &sandbox, finding, users)
    }

    fn remove(&self, agent: &Inbox, container_id: String) {
        let sandbox = paths::of_container(&self.terms.work_dir, &agent.state(), &container_id);
        tokio::task::spawn_blocking(move || match fs::remove_dir_all(&sandbox) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(sandbox = %sandbox.display(), %error, "cannot delete the sandbox of a container");
            }
            _ => {}
        });
    }

    fn signal(&self, container_id: &str, process: &Process, signal: i32) -> std::io::Result<bool> {
        self.containers.of_container(container_id).signal(container_id, &to_containers(process), signal)
    }

    fn connect(&self, container_id: &str, process: &Process) -> std::io::Result<std::os::unix::net::UnixStream> {
        self.containers.of_container(container_id).connect(&to_containers(process))
    }

    fn update(&self, agent: &Inbox, container_id: &str) {
        let container = self.described(&agent.state(), container_id);
        self.containers.of_container(container_id).update(&container);
    }

    fn given(&self, container_id: &str) -> api::v1::ContainerStatus {
        self.containers.of_container(container_id).status(container_id)
    }

    fn numbers(&self, set: &mut dyn FnMut(&str, f64)) {
        self.containers.numbers(set);
    }

    fn usage(&self, state: &State, container_id: &str) -> containers::Usage {
        let container = self.described(state, container_id);
        self.containers.of_container(container_id).usage(&container)
    }
}

pub(crate) fn to_containers(process: &Process) -> containers::Process {
    let Process { supervisor_pid, start_ticks, boot_id, pid } = process.clone();
    containers::Process { supervisor_pid, start_ticks, boot_id, pid }
}

impl Core for Inbox {
    fn report(&self, report: Report) {
        self.count_fetch(&report);
        self.submit(match report {
            Report::Started { container_id, process, facts } => {
                let containers::Process { supervisor_pid, start_ticks, boot_id, pid } = process;
                let process = Process { supervisor_pid, start_ticks, boot_id, pid };
                let facts = agent_core::Facts { data: facts.data };
                Command::ReportStart { container_id, process, facts }
            }
            Report::Limited { container_id, limitation } => {
                let Limitation { reason, message, resources } = limitation;
                let limitation = Box::new(agent_core::Limitation { reason, message, resources });
                Command::ReportLimitation { container_id, limitation }
            }
            Report::Ended { container_id, status } => Command::ReportExit { container_id, status },
            Report::Failed { container_id, message } => Command::ReportLaunchFailure { container_id, message },
            Report::Revoked { container_id } => Command::ReportRevocation { container_id },
        });
    }

    fn awaits(&self, container_id: &str) -> bool {
        self.has_container(container_id)
    }

    fn count_failure(&self) {
        self.count_launch_error();
    }

    fn fail(&self, sentence: String) {
        self.0.fail(sentence);
    }
}

fn pair(label: &Label) -> (String, String) {
    (label.key.clone(), label.value.clone().unwrap_or_default())
}

/// Whether commands are run beside a task, to look at it.
fn has_commands(task: &TaskInfo) -> bool {
    let check = task.check.as_ref().map(|check| Definition::check(check));
    let health = task.health_check.as_ref().map(|check| Definition::health(check));
    [check, health].into_iter().flatten().flatten().any(|one| matches!(one.target, Target::Command(_)))
}

fn is_docker(container: Option<&ContainerInfo>) -> bool {
    container.is_some_and(|container| container.r#type == container_info::Type::Docker as i32)
}

/// The network of a process, if it is not the machine's.
fn network_of(pid: u32) -> Option<PathBuf> {
    let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
    let (its, own) = (fs::read_link(&path).ok()?, fs::read_link("/proc/self/ns/net").ok()?);
    (its != own).then_some(path)
}

/// Whether a container of a Docker Engine is reached where the machine is.
fn is_on_machines_network(container: &ContainerInfo) -> bool {
    let docker = container.docker.as_ref();
    let is_net = |one: &&api::v1::Parameter| one.key == "net" || one.key == "network";
    match docker.and_then(|docker| docker.parameters.iter().find(is_net)) {
        Some(parameter) => parameter.value == "host",
        None => docker.is_none_or(|docker| docker.network() == container_info::docker_info::Network::Host),
    }
}

/// The containerizer that is asked for by name.
fn named(labels: &[(String, String)]) -> Option<String> {
    labels.iter().find(|(key, _)| key == CONTAINERIZER).map(|(_, value)| value.clone())
}

/// The program, unless it is the first argument, and the arguments as it sees them; of the image where the command does not say.
fn arguments(command: &CommandInfo, image: Option<&images::Process>) -> Result<(Option<String>, Vec<String>), String> {
    if let Some(image) = image {
        let launch = images::command(command.shell(), command.value.as_deref(), &command.arguments, image)?;
        return Ok((launch.program, launch.arguments));
    }
    let value = command.value.clone().unwrap_or_default();
    if command.shell() {
        return Ok((None, vec!["/bin/sh".to_owned(), "-c".to_owned(), value]));
    }
    match (value.is_empty(), command.arguments.is_empty()) {
        (true, _) => Err("the command has no value".to_owned()),
        (false, true) => Ok((None, vec![value])),
        (false, false) => Ok((Some(value), command.arguments.clone())),
    }
}
