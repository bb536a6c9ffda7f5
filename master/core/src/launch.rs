//! Launching on what an ACCEPT has left: what makes a task or a group valid, what it holds, and what it weighs.

use crate::accept::rules;
use crate::decide::Draft;
use crate::default_executor;
use crate::event::{Event, ExecutorUse, GroupTask, LaunchRefused, NewExecutor, TaskGroupLaunched, TaskLaunched};
use crate::ids::{AgentKey, ExecutorId, FrameworkKey, TaskId};
use crate::lengths;
use crate::permit;
use crate::resources;
use crate::same_executor;
use crate::state::Task;
use crate::task_state;
use crate::unbuilt;
use crate::validate;
use crate::view;
use api::checks::Definition;
use api::limits::{
    AGENT_EXECUTORS_BYTES_MAX, CALL_LAUNCHES_BYTES_MAX, GROUP_TASKS_MAX, ID_BYTES_MAX, LAUNCH_BYTES_MAX,
    OUTBOX_BYTES_MAX, SENTENCE_BYTES_MAX, quoted,
};
use api::resources::Resources;
use api::v1;
use api::v1::executor_info::Type as ExecutorType;
use api::v1::task_status::Reason;
use bytes::Bytes;
use prost::Message;
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The launches of one ACCEPT.
pub(crate) struct Launch {
    pub(crate) framework: FrameworkKey,
    pub(crate) agent: AgentKey,
    pub(crate) role: Arc<str>,
    /// What the operations before have left.
    pub(crate) remaining: Resources,
    /// What they made, be it still there or not.
    pub(crate) converted: Resources,
    /// What they weigh, in bytes of protobuf.
    pub(crate) operations_bytes: usize,
    /// What happens next.
    pub(crate) events: Vec<Event>,
    tasks: BTreeSet<TaskId>,
    /// Those that its tasks name, as they are on the agent or come with it.
    executors: BTreeMap<ExecutorId, Known>,
    weight: Weight,
}

/// An executor that is there, or that the same ACCEPT brings.
struct Known {
    info: Bytes,
    /// Of the info: made once, however many tasks name it.
    meaning: OnceCell<same_executor::Executor>,
}

/// What the launches of one ACCEPT add up to, in bytes.
#[derive(Default)]
struct Weight {
    /// Of this call, as orders or as events, whichever is more.
    call: usize,
    /// Of all orders that wait for the agent, those of this call with them.
    outbox: usize,
    /// Of all executors on the agent, new ones with them.
    executors: usize,
    /// What the `FrameworkInfo` adds to each order.
    framework_info: usize,
}

/// Why something is not launched.
enum No {
    /// It never could be.
    Invalid(String),
    /// Its agent has too much before it.
    Later(String),
}

impl From<String> for No {
    fn from(why: String) -> No {
        No::Invalid(why)
    }
}

/// A task's executor: which, and what it adds if it is new.
struct Chosen {
    executor: ExecutorUse,
    resources: Resources,
}

impl Launch {
    pub(crate) fn new(
        draft: &Draft,
        framework: FrameworkKey,
        agent: AgentKey,
        role: Arc<str>,
        remaining: Resources,
    ) -> Launch {
        let (events, tasks, executors) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        let known = draft.state.agents.get(agent).expect("the agent of an offer is registered");
        let speaker = draft.state.frameworks.get(framework).expect("the speaker is live");
        let weight = Weight {
            call: 0,
            outbox: known.outbox_bytes(),
            executors: known.executors.values().map(|executor| executor.info.len()).sum(),
            framework_info: speaker.info.len(),
        };
        let converted = Resources::default();
        Launch { framework, agent, role, remaining, converted, operations_bytes: 0, events, tasks, executors, weight }
    }

    /// An operation became an order of so many bytes.
    pub(crate) fn weigh_operation(&mut self, order_bytes: usize) {
        self.weight.outbox += order_bytes;
    }

    /// LAUNCH of one task.
    pub(crate) fn task(&mut self, draft: &Draft, task: &v1::TaskInfo) {
        if let Err(no) = permit::tasks(draft, self.framework, [task], None) {
            let why = format!("Principal '{}' no authorized to {}", no.principal, no.what);
            return self.refuse(task, Reason::TaskUnauthorized, &why);
        }
        if let Err(no) = self.try_task(draft, task) {
            self.refuse_no(draft, task, Reason::TaskInvalid, &no);
        }
    }

    fn try_task(&mut self, draft: &Draft, task: &v1::TaskInfo) -> Result<(), No> {
        let needed = self.check_task(draft, task, task.executor.is_none())?;
        let chosen = match (&task.command, &task.executor) {
            (Some(_), None) => None,
            (None, Some(info)) => {
                match info.r#type.and_then(|number| ExecutorType::try_from(number).ok()) {
                    None | Some(ExecutorType::Custom) => {}
                    Some(ExecutorType::Default | ExecutorType::Unknown) => {
                        return Err("'ExecutorInfo.type' must be 'CUSTOM'".to_owned().into());
                    }
                }
                Some(self.check_executor(draft, info)?)
            }
            _ => {
                let why = "Task should have at least one (but not both) of CommandInfo or ExecutorInfo present";
                return Err(why.to_owned().into());
            }
        };
        if let Some(chosen) = &chosen {
            let both = needed.plus(&chosen.resources);
            if rules::overlap([&needed, &chosen.resources]) {
                let own = &chosen.resources;
                let why = format!(
                    "There are overlapping resources in the task resources {needed} and executor resources {own}"
                );
                return Err(why.into());
            }
            rules::unique_volumes(&both)
                .map_err(|why| format!("Task and its executor use duplicate persistence ID: {why}"))?;
            rules::one_kind(&both)
                .map_err(|why| format!("Task and its executor mix revocable and non-revocable resources: {why}"))?;
        }
        if default_executor::shares_cgroups(task.container.as_deref()) == Some(false) {
            let why = "Only tasks in a task group may have 'share_cgroups' set to 'false'";
            return Err(why.to_owned().into());
        }
        self.can_limit(draft, task)?;
        let info: Bytes = self.stamped(draft, task, &needed).encode_to_vec().into();
        let weight = self.weighed("TaskInfo", &[&info], 0, chosen.as_ref())?;
        let own = chosen.as_ref().map(|chosen| &chosen.resources);
        self.remaining = self.without(own.into_iter().chain([&needed])).map_err(|total| {
            let remaining = &self.remaining;
            format!("Total resources {total} required by task and its executor is more than available {remaining}")
        })?;
        self.weight = weight;
        let task_id: TaskId = task.task_id.value.as_str().into();
        self.tasks.insert(task_id.clone());
        let executor = chosen.map(|chosen| self.keep(chosen));
        self.events.push(Event::from(TaskLaunched {
            task: (self.framework, task_id),
            agent: self.agent,
            role: self.role.clone(),
            info,
            resources: needed,
            executor,
        }));
        Ok(())
    }

    /// LAUNCH_GROUP: all of its tasks, or none.
    pub(crate) fn group(&mut self, draft: &Draft, body: &v1::offer::operation::LaunchGroup) {
        let tasks = &body.task_group.tasks;
        if let Err(no) = permit::tasks(draft, self.framework, tasks, Some(&body.executor)) {
            let why = format!("Task '{}' is not authorized to{}", no.task_id, no.what);
            return tasks.iter().for_each(|task| self.refuse(task, Reason::TaskGroupUnauthorized, &why));
        }
        if let Err(no) = self.try_group(draft, body) {
            for task in &body.task_group.tasks {
                self.refuse_no(draft, task, Reason::TaskGroupInvalid, &no);
            }
        }
    }

    fn try_group(&mut self, draft: &Draft, body: &v1::offer::operation::LaunchGroup) -> Result<(), No> {
        let executor = &body.executor;
        match executor.r#type.and_then(|number| ExecutorType::try_from(number).ok()) {
            Some(ExecutorType::Custom) => default_executor::check_container(executor)?,
            Some(ExecutorType::Default) => default_executor::check(executor)?,
            Some(ExecutorType::Unknown) => return Err("Unknown executor type".to_owned().into()),
            None => return Err("'ExecutorInfo.type' must be set".to_owned().into()),
        }
        let number = body.task_group.tasks.len();
        if number == 0 {
            return Ok(());
        }
        lengths::count("tasks in one group", number, GROUP_TASKS_MAX)?;
        // Each task carries the executor: told before all of them are made.
        let copies = executor.encoded_len().saturating_mul(number);
        if copies > LAUNCH_BYTES_MAX {
            let why = format!(
                "'ExecutorInfo' in each task of the group has {copies} bytes in all, more than the \
                 {LAUNCH_BYTES_MAX} that are allowed"
            );
            return Err(why.into());
        }
        let chosen = self.check_executor(draft, executor)?;
        let meaning = same_executor::Executor::new(executor, &self.role);
        let is_default = executor.r#type == Some(ExecutorType::Default as i32);
        let before = self.shares_cgroups(draft, &chosen.executor.executor_id);
        default_executor::check_group(&body.task_group.tasks, before)?;
        let (mut tasks, mut ids): (Vec<GroupTask>, BTreeSet<&str>) = (Vec::with_capacity(number), BTreeSet::new());
        for task in &body.task_group.tasks {
            let invalid = |why: String| format!("Task '{}' is invalid: {why}", quoted(&task.task_id.value));
            let needed = self.check_task(draft, task, is_default).map_err(invalid)?;
            default_executor::check_task(task).map_err(invalid)?;
            if !ids.insert(&task.task_id.value) {
                return Err(invalid(format!("Task has duplicate ID: {}", task.task_id.value)).into());
            }
            if let Some(own) = &task.executor {
                let own = v1::ExecutorInfo { framework_id: executor.framework_id.clone(), ..own.clone() };
                if let Some(field) = same_executor::Executor::new(&own, &self.role).differs(&meaning) {
                    let (task, executor) = (quoted(&task.task_id.value), &executor.executor_id.value);
                    let why = format!(
                        "The `ExecutorInfo` of task '{task}' is different from executor '{executor}': '{field}' differs"
                    );
                    return Err(why.into());
                }
            }
            let task = v1::TaskInfo { executor: Some(executor.clone()), ..task.clone() };
            let info = self.stamped(draft, &task, &needed).encode_to_vec().into();
            tasks.push(GroupTask { task_id: task.task_id.value.as_str().into(), info, resources: needed });
        }
        for task in &body.task_group.tasks {
            self.can_limit(draft, task)
                .map_err(|why| format!("Task '{}' is invalid: {why}", quoted(&task.task_id.value)))?;
        }
        let all = tasks.iter().fold(chosen.resources.clone(), |sum, task| sum.plus(&task.resources));
        rules::unique_volumes(&all)
            .map_err(|why| format!("Task group and executor use duplicate persistence ID: {why}"))?;
        rules::one_kind(&all)
            .map_err(|why| format!("Task group and executor mix revocable and non-revocable resources: {why}"))?;
        if rules::overlap(tasks.iter().map(|task| &task.resources).chain([&chosen.resources])) {
            let own = &chosen.resources;
            let why = format!(
                "There are overlapping resources in the task group's task resources and/or executor resources {own}: they are \
                 {all} in all"
            );
            return Err(why.into());
        }
        // The order of a group has the executor beside the tasks.
        let executor_bytes = self.stamped_executor(draft, executor).encoded_len();
        let infos: Vec<&Bytes> = tasks.iter().map(|task| &task.info).collect();
        let weight = self.weighed("TaskGroupInfo", &infos, executor_bytes, Some(&chosen))?;
        let needed = tasks.iter().map(|task| &task.resources);
        self.remaining = self.without([&chosen.resources].into_iter().chain(needed)).map_err(|total| {
            let remaining = &self.remaining;
            format!(
                "Total resources {total} required by task group and its executor are more than available {remaining}"
            )
        })?;
        self.weight = weight;
        self.tasks.extend(tasks.iter().map(|task| task.task_id.clone()));
        let executor = self.keep(chosen);
        self.events.push(Event::from(TaskGroupLaunched {
            framework: self.framework,
            agent: self.agent,
            role: self.role.clone(),
            executor,
            tasks,
        }));
        Ok(())
    }

    /// What all launches weigh with this one, which has these tasks and in its order so many bytes beside them, or why it
    /// is too much.
    fn weighed(&self, what: &str, tasks: &[&Bytes], beside: usize, chosen: Option<&Chosen>) -> Result<Weight, No> {
        let new = chosen.and_then(|chosen| chosen.executor.new.as_ref()).map_or(0, |new| new.info.len());
        let bytes: usize = tasks.iter().map(|task| task.len()).sum();
        if bytes > LAUNCH_BYTES_MAX {
            let why = format!(
                "'{what}' has {bytes} bytes with its 'ExecutorInfo', more than the {LAUNCH_BYTES_MAX} that are allowed"
            );
            return Err(why.into());
        }
        let order = bytes + beside + self.weight.framework_info;
        let weight = Weight {
            call: self.weight.call + order.max(bytes + new),
            outbox: self.weight.outbox + order,
            executors: self.weight.executors + new,
            framework_info: self.weight.framework_info,
        };
        if weight.call > CALL_LAUNCHES_BYTES_MAX {
            let why = format!(
                "The launches of this call have more than the {CALL_LAUNCHES_BYTES_MAX} bytes that are allowed: launch \
                 fewer tasks with one call"
            );
            return Err(No::Later(why));
        }
        if weight.outbox > OUTBOX_BYTES_MAX {
            let why = format!(
                "The agent has not taken its earlier orders yet, and there is no room for more than {OUTBOX_BYTES_MAX} \
                 bytes of them: try again later"
            );
            return Err(No::Later(why));
        }
        if weight.executors > AGENT_EXECUTORS_BYTES_MAX {
            let why = format!(
                "'ExecutorInfo' of all executors on the agent would have {} bytes, more than the \
                 {AGENT_EXECUTORS_BYTES_MAX} that are allowed",
                weight.executors
            );
            return Err(No::Later(why));
        }
        Ok(weight)
    }

    /// What remains without these, or their sum if they are too much. One after the other: the sum of two that want the
    /// same port is one port. What is shared remains, however many use it.
    fn without<'a>(&self, parts: impl Iterator<Item = &'a Resources>) -> Result<Resources, Resources> {
        let (mut left, mut total) = (Some(self.remaining.clone()), Resources::default());
        for part in parts {
            let has_shared = part.shared().iter().all(|shared| self.remaining.count(shared) > 0);
            left = left.filter(|_| has_shared).and_then(|left| left.checked_sub(&part.non_shared()));
            resources::add(&mut total, part);
        }
        left.ok_or(total)
    }

    fn refuse_no(&mut self, draft: &Draft, task: &v1::TaskInfo, reason: Reason, no: &No) {
        match no {
            No::Invalid(why) => self.refuse(task, reason, why),
            No::Later(why) => {
                let speaker = draft.state.frameworks.get(self.framework).expect("the speaker is live");
                let state = task_state::lost_or(v1::TaskState::TaskDropped, speaker);
                self.events.push(refused(self.framework, task, state, Reason::AgentDisconnected, why));
            }
        }
    }

    /// A launch that is not to be: TASK_ERROR, which nobody acknowledges.
    pub(crate) fn refuse(&mut self, task: &v1::TaskInfo, reason: Reason, why: &str) {
        self.events.push(refused(self.framework, task, v1::TaskState::TaskError, reason, why));
    }

    /// What is wrong with a task whatever it runs on; what it needs. `nested`: in a container of its own.
    fn check_task(&self, draft: &Draft, task: &v1::TaskInfo, nested: bool) -> Result<Resources, String> {
        let id = &task.task_id.value;
        validate::id(id)?;
        let known = draft.state.tasks.get(&(self.framework, id.as_str().into()));
        if known.is_some_and(|task| task.unreachable_ms.is_some()) {
            return Err(format!("Task reuses the ID of an unreachable task: {id}"));
        }
        if self.tasks.contains(id.as_str()) || known.is_some() {
            return Err(format!("Task has duplicate ID: {id}"));
        }
        lengths::task(task)?;
        let agent_id = view::agent_id(&draft.state, self.agent);
        if task.agent_id.value != agent_id {
            let named = quoted(&task.agent_id.value);
            return Err(format!("Task uses invalid agent {named} while agent {agent_id} is expected"));
        }
        let negative = |duration: &Option<v1::DurationInfo>| duration.as_ref().is_some_and(|d| d.nanoseconds < 0);
        if task.kill_policy.as_ref().is_some_and(|policy| negative(&policy.grace_period)) {
            return Err("Task's 'kill_policy.grace_period' must be non-negative".to_owned());
        }
        if negative(&task.max_completion_time) {
            return Err("Task's `max_completion_time` must be non-negative".to_owned());
        }
        if let Some(check) = &task.check {
            Definition::check(check).map_err(|why| format!("Task uses invalid check: {why}"))?;
        }
        if let Some(check) = &task.health_check {
            Definition::health(check).map_err(|why| format!("Task uses invalid health check: {why}"))?;
        }
        unbuilt::task(task, nested)?;
        if let Some(command) = &task.command {
            runs_something("Task", command, task.container.as_deref())?;
        }
        if task.resources.is_empty() {
            return Err("Task uses no resources".to_owned());
        }
        // A nought is named, too: `disk:0` alone is a task that needs nothing.
        let needed = resources::of_message(&task.resources, &self.role);
        let needed = needed.map_err(|why| format!("Task uses invalid resources: {why}"))?;
        rules::any(needed.as_slice()).map_err(|why| format!("Task uses invalid resources: {why}"))?;
        rules::unique_volumes(&needed).map_err(|why| format!("Task uses duplicate persistence ID: {why}"))?;
        rules::one_allocation(&needed).map_err(|why| format!("Invalid task resources: {why}"))?;
        rules::one_kind(&needed).map_err(|why| format!("Task mixes revocable and non-revocable resources: {why}"))?;
        check_limits(task, &needed)?;
        Ok(needed)
    }

    /// Whether the agent bounds a task by limits of its own, if it has any: one that does not would ignore them.
    fn can_limit(&self, draft: &Draft, task: &v1::TaskInfo) -> Result<(), String> {
        let agent = draft.state.agents.get(self.agent);
        match task.limits.is_empty() || agent.is_some_and(|agent| agent.has_capability("TASK_RESOURCE_LIMITS")) {
            true => Ok(()),
            false => Err("Agent is not capable of handling task resource limits".to_owned()),
        }
    }

    /// Whether the tasks that an executor has share its control group, if it has any.
    fn shares_cgroups(&self, draft: &Draft, executor: &ExecutorId) -> Option<bool> {
        let launched = self.events.iter().rev().find_map(|event| match event {
            Event::TaskGroupLaunched(group) if group.executor.executor_id == *executor => {
                group.tasks.first().map(|task| &task.info)
            }
            Event::TaskLaunched(launched) => {
                launched.executor.as_ref().filter(|used| used.executor_id == *executor).map(|_| &launched.info)
            }
            _ => None,
        });
        let is_its = |task: &&Arc<Task>| {
            task.framework == self.framework && task.executor_id.as_ref() == Some(executor) && !task.is_terminal()
        };
        let has = || draft.state.tasks.on(self.agent).find(is_its).map(|task| &task.info);
        let info = v1::TaskInfo::decode(launched.or_else(has)?.clone()).unwrap_or_default();
        Some(default_executor::shares_cgroups(info.container.as_deref()).unwrap_or(true))
    }

    fn check_executor(&mut self, draft: &Draft, info: &v1::ExecutorInfo) -> Result<Chosen, String> {
        let id = &info.executor_id.value;
        validate::id(id)?;
        lengths::executor(info)?;
        match &info.command {
            None if info.r#type == Some(ExecutorType::Default as i32) => {}
            None => return Err("'ExecutorInfo.command' must be set for 'CUSTOM' executor".to_owned()),
            Some(command) => runs_something("Executor", command, info.container.as_deref())?,
        }
        if default_executor::shares_cgroups(info.container.as_deref()) == Some(true) {
            let why = "The 'share_cgroups' field cannot be set to 'true' on executor containers";
            return Err(why.to_owned());
        }
        if info.shutdown_grace_period.as_ref().is_some_and(|grace| grace.nanoseconds < 0) {
            return Err("ExecutorInfo's 'shutdown_grace_period' must be non-negative".to_owned());
        }
        let framework_id = view::framework_id(&draft.state, self.framework);
        if let Some(named) = info.framework_id.as_ref().filter(|named| named.value != framework_id) {
            return Err(format!(
                "ExecutorInfo has an invalid FrameworkID (Actual: {} vs Expected: {framework_id})",
                quoted(&named.value)
            ));
        }
        unbuilt::executor(info)?;
        let stamped = self.stamped_executor(draft, info);
        let bytes: Bytes = stamped.encode_to_vec().into();
        let executor_id: ExecutorId = id.as_str().into();
        if !self.executors.contains_key(&executor_id) {
            let agent = draft.state.agents.get(self.agent).expect("the agent of an offer is registered");
            if let Some(running) = agent.executors.get(&(self.framework, executor_id.clone())) {
                self.executors.insert(executor_id.clone(), Known::new(running.info.clone()));
            }
        }
        let Some(known) = self.executors.get(&executor_id) else {
            let needed = resources::of_message(&info.resources, &self.role)
                .map_err(|why| format!("Executor uses invalid resources: {why}"))?;
            rules::any(needed.as_slice()).map_err(|why| format!("Executor uses invalid resources: {why}"))?;
            rules::unique_volumes(&needed).map_err(|why| format!("Executor uses duplicate persistence ID: {why}"))?;
            rules::one_allocation(&needed).map_err(|why| format!("Invalid executor resources: {why}"))?;
            let mixed = |why| format!("Executor mixes revocable and non-revocable resources: {why}");
            rules::one_kind(&needed).map_err(mixed)?;
            if !needed.shared().is_empty() {
                return Err(format!("Executor resources {needed} should not contain any shared resources"));
            }
            let new = Some(NewExecutor { info: bytes, resources: needed.clone() });
            return Ok(Chosen { executor: ExecutorUse { executor_id, new }, resources: needed });
        };
        if known.info != bytes {
            let meaning = known.meaning.get_or_init(|| same_executor::Executor::decode(&known.info, &self.role));
            if let Some(field) = same_executor::Executor::new(&stamped, &self.role).differs(meaning) {
                return Err(format!(
                    "ExecutorInfo is not compatible with existing ExecutorInfo with same ExecutorID '{id}': '{field}' \
                     differs"
                ));
            }
        }
        Ok(Chosen { executor: ExecutorUse { executor_id, new: None }, resources: Resources::default() })
    }

    /// Remembers the executor for later tasks of this ACCEPT.
    fn keep(&mut self, chosen: Chosen) -> ExecutorUse {
        if let Some(new) = &chosen.executor.new {
            self.executors.insert(chosen.executor.executor_id.clone(), Known::new(new.info.clone()));
        }
        chosen.executor
    }

    /// The task as its agent gets it: with the framework's id on its executor, and resources with their role.
    fn stamped(&self, draft: &Draft, task: &v1::TaskInfo, needed: &Resources) -> v1::TaskInfo {
        v1::TaskInfo {
            executor: task.executor.as_ref().map(|info| self.stamped_executor(draft, info)),
            resources: resources::to_message(needed),
            ..task.clone()
        }
    }

    fn stamped_executor(&self, draft: &Draft, info: &v1::ExecutorInfo) -> v1::ExecutorInfo {
        let value = view::framework_id(&draft.state, self.framework);
        v1::ExecutorInfo { framework_id: Some(v1::FrameworkId { value }), ..info.clone() }
    }
}

impl Known {
    fn new(info: Bytes) -> Known {
        Known { info, meaning: OnceCell::new() }
    }
}

/// All that a task names, and its executor.
pub(crate) fn resources_of(task: &v1::TaskInfo) -> impl Iterator<Item = &v1::Resource> {
    task.resources.iter().chain(task.executor.iter().flat_map(|executor| &executor.resources))
}

/// The event of a launch that is not to be.
pub(crate) fn refused(
    framework: FrameworkKey,
    task: &v1::TaskInfo,
    state: v1::TaskState,
    reason: Reason,
    why: &str,
) -> Event {
    let why = api::limits::cut(why, SENTENCE_BYTES_MAX);
    Event::from(LaunchRefused {
        task: (framework, task.task_id.value.as_str().into()),
        agent_id: api::limits::cut(&task.agent_id.value, ID_BYTES_MAX).into(),
        state: state as i32,
        reason: reason as i32,
        why: why.into(),
    })
}

/// A task may use more than it holds for itself, of what can be limited.
fn check_limits(task: &v1::TaskInfo, needed: &Resources) -> Result<(), String> {
    if task.limits.keys().any(|name| !matches!(name.as_str(), "cpus" | "mem")) {
        return Err("Only cpus and mem may be included in a task's resource limits".to_owned());
    }
    for (name, long, short) in [("cpus", "CPU", "cpu"), ("mem", "memory", "memory")] {
        let Some(limit) = task.limits.get(name) else { continue };
        let wanted = needed.scalar_milli(name);
        if wanted == 0 {
            return Err(format!("When a {long} limit is specified, a {long} request must also be specified"));
        }
        if limit.value.is_nan() || limit.value * 1000.0 < wanted as f64 {
            return Err(format!("The {short} limit must be greater than or equal to the {short} request"));
        }
    }
    Ok(())
}

/// A shell without a line would end at once, and well. What the image of a container runs need not be said.
fn runs_something(whose: &str, command: &v1::CommandInfo, container: Option<&v1::ContainerInfo>) -> Result<(), String> {
    let docker = v1::container_info::Type::Docker as i32;
    let is_image = |container: &v1::ContainerInfo| {
        container.r#type == docker || container.mesos.as_ref().is_some_and(|mesos| mesos.image.is_some())
    };
    if !command.shell() && container.is_some_and(is_image) {
        return Ok(());
    }
    let what = if command.shell() { "the shell command" } else { "the path of the executable" };
    match command.value {
        Some(_) => Ok(()),
        None => Err(format!("{whose} uses invalid command: 'value' must be set, it is {what}")),
    }
}

#[cfg(test)]
mod answers;
#[cfg(test)]
mod tests;
