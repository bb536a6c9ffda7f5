//! What someone wants of an agent, why they may not have it, and what a decision may look at besides State.

use std::collections::BTreeSet;

use api::internal::Order;
use api::limits::AGENT_PROVIDERS_BYTES_MAX;
use api::v1::agent::call::LaunchContainer;
use api::v1::task_status::Reason;
use api::v1::{AgentInfo, CheckStatusInfo, OperationStatus, Resource, ResourceProviderInfo, TaskStatus};

use crate::providers::Stated;
use crate::state::Process;

/// What someone wants.
#[derive(Clone, Debug)]
pub enum Command {
    /// Register under this token.
    ChooseToken {
        /// Random.
        token: [u8; 16],
    },
    /// A master welcomed the agent.
    AcceptWelcome {
        /// The agent's id.
        agent_id: String,
        /// Of the cluster.
        cluster_id: String,
        /// Messages committed.
        received_up_to: u64,
        /// They tell when an operation is over for its framework, too.
        tells_of_operations: bool,
        /// They can write down what providers of resources have.
        takes_providers: bool,
    },
    /// An order of the masters; one that is known already is passed over.
    TakeOrder(Box<Order>),
    /// An order that cannot be taken: what can be said of it is said, and the later ones keep coming.
    GiveUpOrder(Box<Unreadable>),
    /// The masters committed messages.
    CoverMessages {
        /// Up to here.
        up_to: u64,
        /// They tell when an operation is over for its framework, too.
        tells_of_operations: bool,
    },
    /// Operations are over for the masters.
    ForgetOperations {
        /// Names of them; others are passed over.
        operations: Vec<Vec<u8>>,
    },
    /// A container's process runs.
    ReportStart {
        /// The container.
        container_id: String,
        /// Its processes.
        process: Process,
        /// What else is known of it.
        facts: Facts,
    },
    /// A container could not be launched, and never will be.
    ReportLaunchFailure {
        /// The container.
        container_id: String,
        /// Why, for the framework.
        message: String,
    },
    /// The agent itself claimed the container's launch: nothing ran in it, nothing will.
    ReportRevocation {
        /// The container.
        container_id: String,
    },
    /// A container ended.
    ReportExit {
        /// The container.
        container_id: String,
        /// Wait status of its first process; none if nobody saw it end.
        status: Option<i32>,
    },
    /// An executor's stream was opened.
    SubscribeExecutor {
        /// Its framework.
        framework_id: String,
        /// The executor.
        executor_id: String,
        /// Number of the stream, counted since the agent was started, from 1.
        stream: u64,
        /// Tasks that it has and that it got no acknowledgement for.
        unacknowledged_tasks: BTreeSet<String>,
    },
    /// An executor's stream ended.
    LoseExecutor {
        /// Its framework.
        framework_id: String,
        /// The executor.
        executor_id: String,
        /// Number of the stream.
        stream: u64,
    },
    /// An executor's task has a new state.
    UpdateTask {
        /// Its framework.
        framework_id: String,
        /// The executor.
        executor_id: String,
        /// As the executor sent it.
        status: Box<TaskStatus>,
    },
    /// What the disk made of an operation.
    ReportOperation {
        /// Names it.
        operation: Vec<u8>,
        /// Why it could not be done, in a sentence.
        failure: Option<String>,
    },
    /// A provider's stream was opened.
    SubscribeProvider {
        /// Its id: of one that is known, or a new one.
        provider_id: String,
        /// With the id, if the provider says that it is known.
        info: Box<ResourceProviderInfo>,
        /// Number of the stream, counted since the agent was started, from 1.
        stream: u64,
    },
    /// A provider's stream ended.
    LoseProvider {
        /// The provider.
        provider_id: String,
        /// Number of the stream.
        stream: u64,
    },
    /// A provider says what it has.
    StateProvider {
        /// The provider.
        provider_id: String,
        /// Number of its stream.
        stream: u64,
        /// What it has.
        stated: Stated,
        /// Operations that it knows, with what became of them if it said that.
        operations: Vec<(Vec<u8>, Option<OperationStatus>)>,
    },
    /// A provider says what became of an operation.
    ReportProviderOperation {
        /// The provider.
        provider_id: String,
        /// Number of its stream.
        stream: u64,
        /// Names the operation.
        operation: Vec<u8>,
        /// What.
        status: Box<OperationStatus>,
    },
    /// A provider does not come back.
    ForgetProvider {
        /// The provider.
        provider_id: String,
    },
    /// A container has exceeded what it may use, and is to end.
    ReportLimitation {
        /// The container.
        container_id: String,
        /// What it exceeded.
        limitation: Box<Limitation>,
    },
    /// What an executor's tasks use could not be brought into its sandbox.
    ReportUpdateFailure {
        /// Its container.
        container_id: String,
    },
    /// Somebody launches a container within another, or one that stands alone.
    LaunchContainer {
        /// Its id: a path.
        container_id: String,
        /// As it was asked for.
        info: Box<LaunchContainer>,
        /// It ends with the call.
        session: bool,
    },
    /// Somebody ends a container that was launched by call.
    KillContainer {
        /// The container.
        container_id: String,
    },
    /// Nobody asks for the end of a container any more.
    RemoveContainer {
        /// The container.
        container_id: String,
    },
    /// A check of a command's task, or its health check, has seen something new.
    ReportCheck {
        /// The container.
        container_id: String,
        /// What.
        seen: Seen,
    },
    /// The agent describes itself so.
    Describe(Box<AgentInfo>),
    /// The agent can spare these, which are revocable.
    Spare {
        /// None of them if it needs all that it has.
        resources: Vec<Resource>,
    },
    /// The agent is overloaded: executors of others give way.
    Preempt {
        /// Framework and executor.
        executors: Vec<(String, String)>,
    },
    /// It is `State::next_deadline_ms`, or later.
    PassDeadlines,
    /// Nothing: the answer comes when all that was wanted before is in the log.
    Settle,
    /// The agent was started, and can be reached from now on.
    Restart {
        /// The start of the machine, and milliseconds since then.
        boot: (String, u64),
    },
    /// End everything, for good.
    Leave,
    /// Begin anew: the masters do not want this agent's past.
    Forget,
}

impl Command {
    /// A name for the record of causes.
    pub fn name(&self) -> &'static str {
        match self {
            Command::ChooseToken { .. } => "choose-token",
            Command::AcceptWelcome { .. } => "welcome",
            Command::TakeOrder(_) | Command::GiveUpOrder(_) => "order",
            Command::CoverMessages { .. } => "received",
            Command::ForgetOperations { .. } => "operations-over",
            Command::ReportStart { .. } => "started",
            Command::ReportLaunchFailure { .. } => "launch-failed",
            Command::ReportRevocation { .. } => "revoked",
            Command::ReportExit { .. } => "exited",
            Command::SubscribeExecutor { .. } => "executor-subscribe",
            Command::LoseExecutor { .. } => "executor-lost",
            Command::UpdateTask { .. } => "executor-update",
            Command::ReportOperation { .. } => "operation-done",
            Command::SubscribeProvider { .. } => "provider-subscribe",
            Command::LoseProvider { .. } => "provider-lost",
            Command::StateProvider { .. } => "provider-state",
            Command::ReportProviderOperation { .. } => "provider-operation",
            Command::ForgetProvider { .. } => "provider-gone",
            Command::ReportLimitation { .. } => "limited",
            Command::ReportUpdateFailure { .. } => "update-failed",
            Command::LaunchContainer { .. } => "launch-container",
            Command::KillContainer { .. } => "kill-container",
            Command::RemoveContainer { .. } => "remove-container",
            Command::ReportCheck { .. } => "checked",
            Command::Describe(_) => "describe",
            Command::Spare { .. } => "spare",
            Command::Preempt { .. } => "preempt",
            Command::PassDeadlines => "deadline",
            Command::Settle => "settle",
            Command::Restart { .. } => "restart",
            Command::Leave => "leave",
            Command::Forget => "forget",
        }
    }
}

/// What who runs a container tells of its start, for the updates of its task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its description, as the first update that it runs has it.
    pub data: Option<String>,
}

/// What checks have to tell.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// A check shows this now.
    Check(Box<CheckStatusInfo>),
    /// A health check.
    Health {
        /// Whether the task is healthy.
        healthy: bool,
        /// Whether it is to end because it is not.
        kill: bool,
        /// How often in a row it was not.
        failures: u32,
    },
}

/// That a container exceeded what it may use.
#[derive(Clone, Debug, PartialEq)]
pub struct Limitation {
    /// Why its tasks fail.
    pub reason: Reason,
    /// What exceeded what, in a sentence.
    pub message: String,
    /// What was exceeded.
    pub resources: Vec<Resource>,
}

/// What is known of an order that cannot be taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unreadable {
    /// Number of the order.
    pub seq: u64,
    /// The framework that it is for, if that could be read.
    pub framework_id: Option<String>,
    /// The custom executor that it would have started.
    pub executor_id: Option<String>,
    /// Tasks that it would have launched.
    pub task_ids: Vec<String>,
    /// The operation that it is: its name, and the id that its framework gave it.
    pub operation: Option<(Vec<u8>, Option<String>)>,
    /// Why, in a sentence.
    pub sentence: String,
}

/// Why they may not have it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// What this release does not know it does not take: the masters keep it until one that knows it does.
    #[error("order {seq} is of a kind that this release does not know")]
    UnknownOrder {
        /// Number of the order.
        seq: u64,
    },
    /// The agent has no such framework.
    #[error("Framework cannot be found")]
    UnknownFramework,
    /// The framework has no such executor here.
    #[error("Executor cannot be found")]
    UnknownExecutor,
    /// The status is of a task that another executor of the framework has.
    #[error("Task '{task_id}' is not one of executor '{executor_id}'")]
    OtherExecutorsTask {
        /// The task.
        task_id: String,
        /// Who spoke of it.
        executor_id: String,
    },
    /// An update that could not be acknowledged, since it cannot be told from others.
    #[error("Expecting 'uuid' to have 16 bytes, but it has {bytes}")]
    InvalidUuid {
        /// So many.
        bytes: usize,
    },
    /// A state that is not an executor's to report.
    #[error("Received {state} from executor, which is not allowed")]
    NotAnExecutorsState {
        /// Name of the state.
        state: &'static str,
    },
    /// So much waits for the masters that only ends of tasks are still written down.
    #[error("{messages} updates of {bytes} bytes wait for a master to take them: try again later")]
    TooManyWaiting {
        /// So many.
        messages: usize,
        /// What they weigh.
        bytes: u64,
    },
    /// The id is in use.
    #[error("there is a container of this id already")]
    ContainerExists,
    /// Everything ends.
    #[error("The agent is leaving")]
    AgentLeaving,
    /// A container cannot be within what is not there.
    #[error("Parent container {parent_id} does not exist")]
    UnknownParent {
        /// What it was to be within.
        parent_id: String,
    },
    /// A container cannot be within what is only being launched.
    #[error("Parent container {parent_id} is not running yet")]
    ParentNotRunning {
        /// What it was to be within.
        parent_id: String,
    },
    /// A container cannot be within what is being ended.
    #[error("Parent container {parent_id} is in 'DESTROYING' state")]
    ParentEnding {
        /// What it was to be within.
        parent_id: String,
    },
    /// There is no room for one more.
    #[error("{live} containers that were launched by call run on this agent, and more are not allowed")]
    TooManyContainers {
        /// So many run.
        live: usize,
    },
    /// There is none that could be ended.
    #[error("Container '{container_id}' cannot be found (or is already killed)")]
    UnknownContainer {
        /// The container.
        container_id: String,
    },
    /// What runs is not removed.
    #[error("{} container has not terminated yet", if *nested { "Nested" } else { "Standalone" })]
    ContainerRuns {
        /// Whether it is within another.
        nested: bool,
    },
    /// Who has an id was given it here.
    #[error("Resource provider '{provider_id}' is not known to this agent")]
    UnknownProvider {
        /// The id.
        provider_id: String,
    },
    /// Who has an id is what it was.
    #[error("Resource provider '{provider_id}' is known as '{kind}.{name}'")]
    OtherProvider {
        /// The id.
        provider_id: String,
        /// Its type.
        kind: String,
        /// Its name.
        name: String,
    },
    /// There is no room for one more.
    #[error(
        "{known} resource providers are known to this agent, and more are not allowed: mark those gone that do not come back"
    )]
    TooManyProviders {
        /// So many are.
        known: usize,
    },
    /// What providers are and have goes to the masters as a whole.
    #[error(
        "The resource providers of this agent would have {bytes} bytes of descriptions and resources, more than the {AGENT_PROVIDERS_BYTES_MAX} that are allowed"
    )]
    ProvidersTooLarge {
        /// So many.
        bytes: usize,
    },
    /// The call is of a stream that does not count.
    #[error("Resource provider is not subscribed")]
    ProviderNotSubscribed,
    /// It cannot be marked gone.
    #[error("Could not mark resource provider '{provider_id}' as gone: {why}")]
    ProviderNotGone {
        /// The provider.
        provider_id: String,
        /// Why not.
        why: &'static str,
    },
    /// The masters no longer know what they said they had: they were restored from an older snapshot.
    #[error("the masters have messages up to {found} only, after they had acknowledged {acknowledged}")]
    MastersForgot {
        /// As the masters say.
        found: u64,
        /// As the log says.
        acknowledged: u64,
    },
    /// The masters call the agent by another name than its log.
    #[error("the masters know this agent as {found}, its log as {expected}")]
    OtherIdentity {
        /// As the masters say.
        found: String,
        /// As the log says.
        expected: String,
    },
}

/// What was configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address that tasks without a network of their own are reached at.
    pub ip: String,
    /// Time for an executor to subscribe.
    pub executor_registration_timeout_ms: u64,
    /// Time for executors to come back after the agent was started again.
    pub executor_reregistration_timeout_ms: u64,
    /// Time for an executor to end by itself.
    pub executor_shutdown_grace_ms: u64,
    /// Where the supervisor of command tasks is, as shown to users.
    pub launcher_dir: String,
    /// Ended executors that are remembered of each framework.
    pub completed_executors_max: u32,
    /// Ended tasks that are remembered of each live executor.
    pub ended_tasks_max: usize,
}

/// What a decision may look at besides State: everything here comes from the world.
pub struct Surroundings<'a> {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// What was configured.
    pub settings: &'a Settings,
    /// Random bytes, new ones at each call.
    pub random: &'a mut dyn FnMut() -> [u8; 16],
    /// What a container was given on this machine, by its id.
    pub given: &'a dyn Fn(&str) -> api::v1::ContainerStatus,
}

impl Surroundings<'_> {
    /// A random id, as text.
    pub(crate) fn random_id(&mut self) -> String {
        uuid_text((self.random)())
    }
}

/// The text of a UUID that is random.
pub fn uuid_text(mut random: [u8; 16]) -> String {
    // Version 4, variant 1, so that tools take it for what it is.
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

impl std::fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").field("at_ms", &self.at_ms).finish_non_exhaustive()
    }
}
