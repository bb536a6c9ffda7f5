//! Launching on what an ACCEPT has left: what makes a task or a group valid, and what it holds.

use crate::decide::Draft;
use crate::event::{Event, ExecutorUse, GroupTask, LaunchRefused, NewExecutor, TaskGroupLaunched, TaskLaunched};
use crate::ids::{AgentKey, ExecutorId, FrameworkKey, TaskId};
use crate::resources;
use crate::validate;
use crate::view;
use api::resources::Resources;
use api::v1;
use api::v1::executor_info::Type as ExecutorType;
use api::v1::task_status::Reason;
use bytes::Bytes;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Each task of a group carries its executor: a large one in a large group would be more than anybody can hold.
const EXECUTOR_COPIES_BYTES_MAX: usize = 16 << 20;

/// The launches of one ACCEPT.
pub(crate) struct Launch {
    pub(crate) framework: FrameworkKey,
    agent: AgentKey,
    role: Arc<str>,
    /// What the operations before have left.
    pub(crate) remaining: Resources,
    /// What happens.
    pub(crate) events: Vec<Event>,
    tasks: BTreeSet<TaskId>,
    executors: BTreeMap<ExecutorId, Bytes>,
}

/// A task's executor: which, and what it adds if it is new.
struct Chosen {
    executor: ExecutorUse,
    resources: Resources,
}

impl Launch {
    pub(crate) fn new(framework: FrameworkKey, agent: AgentKey, role: Arc<str>, remaining: Resources) -> Launch {
        let (events, tasks, executors) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        Launch { framework, agent, role, remaining, events, tasks, executors }
    }

    /// LAUNCH of one task.
    pub(crate) fn task(&mut self, draft: &Draft, task: &v1::TaskInfo) {
        if let Err(why) = self.try_task(draft, task) {
            self.refuse(task, Reason::TaskInvalid, &why);
        }
    }

    fn try_task(&mut self, draft: &Draft, task: &v1::TaskInfo) -> Result<(), String> {
        let needed = self.check_task(draft, task)?;
        let chosen = match (&task.command, &task.executor) {
            (Some(_), None) => None,
            (None, Some(info)) => {
                match info.r#type.and_then(|number| ExecutorType::try_from(number).ok()) {
                    None | Some(ExecutorType::Custom) => {}
                    Some(ExecutorType::Default | ExecutorType::Unknown) => {
                        return Err("'ExecutorInfo.type' must be 'CUSTOM'".to_owned());
                    }
                }
                Some(self.check_executor(draft, info)?)
            }
            _ => {
                return Err(
                    "Task should have at least one (but not both) of CommandInfo or ExecutorInfo present".to_owned()
                );
            }
        };
        let own = chosen.as_ref().map(|chosen| &chosen.resources);
        self.remaining = self.without(own.into_iter().chain([&needed])).map_err(|total| {
            let remaining = &self.remaining;
            format!("Total resources {total} required by task and its executor is more than available {remaining}")
        })?;
        let task_id: TaskId = task.task_id.value.as_str().into();
        let info = self.stamped(draft, task, &needed);
        self.tasks.insert(task_id.clone());
        let executor = chosen.map(|chosen| self.keep(chosen));
        self.events.push(Event::from(TaskLaunched {
            task: (self.framework, task_id),
            agent: self.agent,
            role: self.role.clone(),
            info: info.encode_to_vec().into(),
            resources: needed,
            executor,
        }));
        Ok(())
    }

    /// LAUNCH_GROUP: all of its tasks, or none.
    pub(crate) fn group(&mut self, draft: &Draft, body: &v1::offer::operation::LaunchGroup) {
        if let Err(why) = self.try_group(draft, body) {
            for task in &body.task_group.tasks {
                self.refuse(task, Reason::TaskGroupInvalid, &why);
            }
        }
    }

    fn try_group(&mut self, draft: &Draft, body: &v1::offer::operation::LaunchGroup) -> Result<(), String> {
        let executor = &body.executor;
        match executor.r#type.and_then(|number| ExecutorType::try_from(number).ok()) {
            Some(ExecutorType::Custom) => {}
            Some(ExecutorType::Default) => {
                return Err("The DEFAULT executor is not supported by this version".to_owned());
            }
            None | Some(ExecutorType::Unknown) => return Err("'ExecutorInfo.type' must be set".to_owned()),
        }
        if body.task_group.tasks.is_empty() {
            return Ok(());
        }
        let copies = executor.encoded_len().saturating_mul(body.task_group.tasks.len());
        if copies > EXECUTOR_COPIES_BYTES_MAX {
            return Err(format!(
                "'ExecutorInfo' in each task of the group has {copies} bytes in all, more than the \
                 {EXECUTOR_COPIES_BYTES_MAX} that are allowed"
            ));
        }
        let chosen = self.check_executor(draft, executor)?;
        let mut tasks: Vec<GroupTask> = Vec::with_capacity(body.task_group.tasks.len());
        for task in &body.task_group.tasks {
            let invalid = |why: String| format!("Task '{}' is invalid: {why}", task.task_id.value);
            let needed = self.check_task(draft, task).map_err(invalid)?;
            if tasks.iter().any(|other| *other.task_id == *task.task_id.value) {
                return Err(invalid(format!("Task has duplicate ID: {}", task.task_id.value)));
            }
            if task.executor.as_ref().is_some_and(|own| own.executor_id != executor.executor_id) {
                return Err(invalid("The 'ExecutorInfo' of task differs from that of the group".to_owned()));
            }
            let task = v1::TaskInfo { executor: Some(executor.clone()), ..task.clone() };
            let info = self.stamped(draft, &task, &needed).encode_to_vec().into();
            tasks.push(GroupTask { task_id: task.task_id.value.as_str().into(), info, resources: needed });
        }
        let needed = tasks.iter().map(|task| &task.resources);
        self.remaining = self.without([&chosen.resources].into_iter().chain(needed)).map_err(|total| {
            let remaining = &self.remaining;
            format!(
                "Total resources {total} required by task group and its executor are more than available {remaining}"
            )
        })?;
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

    /// What remains without these, or their sum if they are too much. One after the other: the sum of two that want the
    /// same port is one port.
    fn without<'a>(&self, parts: impl Iterator<Item = &'a Resources>) -> Result<Resources, Resources> {
        let (mut left, mut total) = (Some(self.remaining.clone()), Resources::default());
        for part in parts {
            left = left.and_then(|left| left.checked_sub(part));
            resources::add(&mut total, part);
        }
        left.ok_or(total)
    }

    /// A launch that is not to be: TASK_ERROR, which nobody acknowledges.
    pub(crate) fn refuse(&mut self, task: &v1::TaskInfo, reason: Reason, why: &str) {
        self.events.push(refused(self.framework, task, v1::TaskState::TaskError, reason, why));
    }

    /// What is wrong with a task whatever it runs on; what it needs.
    fn check_task(&self, draft: &Draft, task: &v1::TaskInfo) -> Result<Resources, String> {
        let id = &task.task_id.value;
        validate::id(id)?;
        if self.tasks.contains(id.as_str()) || draft.state.tasks.get(&(self.framework, id.as_str().into())).is_some() {
            return Err(format!("Task has duplicate ID: {id}"));
        }
        let agent_id = view::agent_id(&draft.state, self.agent);
        if task.agent_id.value != agent_id {
            let named = &task.agent_id.value;
            return Err(format!("Task uses invalid agent {named} while agent {agent_id} is expected"));
        }
        let negative = |duration: &Option<v1::DurationInfo>| duration.as_ref().is_some_and(|d| d.nanoseconds < 0);
        if task.kill_policy.as_ref().is_some_and(|policy| negative(&policy.grace_period)) {
            return Err("Task's 'kill_policy.grace_period' must be non-negative".to_owned());
        }
        if negative(&task.max_completion_time) {
            return Err("Task's `max_completion_time` must be non-negative".to_owned());
        }
        if let Some(check) = &task.health_check {
            health_check(check).map_err(|why| format!("Task uses invalid health check: {why}"))?;
        }
        if let Some(limited) = task.limits.keys().find(|name| !matches!(name.as_str(), "cpus" | "mem")) {
            return Err(format!("Resource limits are only supported for cpus and mem, not for '{limited}'"));
        }
        if task.resources.is_empty() {
            return Err("Task uses no resources".to_owned());
        }
        let needed = resources::of_message(&task.resources, &self.role)
            .map_err(|why| format!("Task uses invalid resources: {why}"))?;
        if needed.is_empty() {
            return Err("Task uses no resources".to_owned());
        }
        Ok(needed)
    }

    fn check_executor(&self, draft: &Draft, info: &v1::ExecutorInfo) -> Result<Chosen, String> {
        let id = &info.executor_id.value;
        validate::id(id)?;
        if info.command.is_none() {
            return Err("'ExecutorInfo.command' must be set for 'CUSTOM' executor".to_owned());
        }
        if info.shutdown_grace_period.as_ref().is_some_and(|grace| grace.nanoseconds < 0) {
            return Err("ExecutorInfo's 'shutdown_grace_period' must be non-negative".to_owned());
        }
        let framework_id = view::framework_id(&draft.state, self.framework);
        if let Some(named) = info.framework_id.as_ref().filter(|named| named.value != framework_id) {
            return Err(format!(
                "ExecutorInfo has an invalid FrameworkID (Actual: {} vs Expected: {framework_id})",
                named.value
            ));
        }
        let stamped: Bytes = self.stamped_executor(draft, info).encode_to_vec().into();
        let executor_id: ExecutorId = id.as_str().into();
        let agent = draft.state.agents.get(self.agent).expect("the agent of an offer is registered");
        let running = agent.executors.get(&(self.framework, executor_id.clone())).map(|executor| &executor.info);
        match running.or_else(|| self.executors.get(&executor_id)) {
            Some(known) if *known == stamped => {
                Ok(Chosen { executor: ExecutorUse { executor_id, new: None }, resources: Resources::default() })
            }
            Some(_) => {
                Err(format!("ExecutorInfo is not compatible with existing ExecutorInfo with same ExecutorID '{id}'"))
            }
            None => {
                let needed = resources::of_message(&info.resources, &self.role)
                    .map_err(|why| format!("Executor uses invalid resources: {why}"))?;
                let new = Some(NewExecutor { info: stamped, resources: needed.clone() });
                Ok(Chosen { executor: ExecutorUse { executor_id, new }, resources: needed })
            }
        }
    }

    /// Remembers the executor for later tasks of this ACCEPT.
    fn keep(&mut self, chosen: Chosen) -> ExecutorUse {
        if let Some(new) = &chosen.executor.new {
            self.executors.insert(chosen.executor.executor_id.clone(), new.info.clone());
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

/// The event of a launch that is not to be.
pub(crate) fn refused(
    framework: FrameworkKey,
    task: &v1::TaskInfo,
    state: v1::TaskState,
    reason: Reason,
    why: &str,
) -> Event {
    Event::from(LaunchRefused {
        task: (framework, task.task_id.value.as_str().into()),
        agent_id: task.agent_id.value.as_str().into(),
        state: state as i32,
        reason: reason as i32,
        why: why.into(),
    })
}

fn health_check(check: &v1::HealthCheck) -> Result<(), String> {
    use v1::health_check::Type;
    let kind = check.r#type.and_then(|number| Type::try_from(number).ok());
    match kind {
        Some(Type::Unknown) => return Err("'UNKNOWN' is not a valid health check type".to_owned()),
        Some(Type::Command) if check.command.is_none() => {
            return Err("Expecting 'command' to be set for COMMAND health check".to_owned());
        }
        Some(Type::Http) if check.http.is_none() => {
            return Err("Expecting 'http' to be set for HTTP health check".to_owned());
        }
        Some(Type::Tcp) if check.tcp.is_none() => {
            return Err("Expecting 'tcp' to be set for TCP health check".to_owned());
        }
        _ => {}
    }
    let periods = [check.delay_seconds, check.interval_seconds, check.timeout_seconds, check.grace_period_seconds];
    if periods.into_iter().flatten().any(|seconds| seconds < 0.0) {
        return Err("Expecting its periods to be non-negative".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::{Cluster, executor, group, operation, task_info};
    use api::v1;

    fn refused(change: impl FnOnce(&mut v1::TaskInfo)) -> (String, v1::task_status::Reason) {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:2;mem:100");
        let offers = cluster.offer();
        let mut task = task_info("t", "cpus:1;mem:10");
        change(&mut task);
        assert_eq!(
            cluster.accept(framework, &offers, vec![operation(vec![task])]),
            ["offers-accepted", "launch-refused"]
        );
        let status = cluster.statuses().pop().unwrap();
        assert_eq!(status.state(), v1::TaskState::TaskError);
        (status.message().to_owned(), status.reason())
    }

    #[test]
    fn an_invalid_task_is_an_error() {
        let resources = |text: &str| task_info("t", text).resources;
        assert_eq!(
            refused(|task| task.resources = resources("cpus:9999;mem:32")),
            (
                "Total resources cpus(allocated: web):9999; mem(allocated: web):32 required by task and its executor is \
                 more than available cpus(allocated: web):2; mem(allocated: web):100"
                    .to_owned(),
                v1::task_status::Reason::TaskInvalid
            )
        );
        assert_eq!(refused(|task| task.resources.clear()).0, "Task uses no resources");
        assert_eq!(refused(|task| task.task_id.value = "a/b".into()).0, "'a/b' contains invalid characters");
        assert_eq!(
            refused(|task| task.agent_id.value = "x".into()).0,
            "Task uses invalid agent x while agent C-S0 is expected"
        );
        assert_eq!(
            refused(|task| task.command = None).0,
            "Task should have at least one (but not both) of CommandInfo or ExecutorInfo present"
        );
    }

    #[test]
    fn an_id_in_use_is_not_used_twice() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:4;mem:100");
        cluster.launch(framework, "t", "cpus:1;mem:10");
        let offers = cluster.offer();
        let launch = operation(vec![
            task_info("t", "cpus:1;mem:1"),
            task_info("u", "cpus:1;mem:1"),
            task_info("u", "cpus:1;mem:1"),
        ]);
        let names = cluster.accept(framework, &offers, vec![launch]);
        assert_eq!(names, ["offers-accepted", "launch-refused", "task-launched", "launch-refused"]);
        let messages: Vec<String> = cluster.statuses().iter().map(|status| status.message().to_owned()).collect();
        assert_eq!(messages, ["Task has duplicate ID: t", "Task has duplicate ID: u"]);
    }

    #[test]
    fn nothing_is_given_twice() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:4;mem:100;ports:[1-9]");
        let offers = cluster.offer();
        let mut same_port = group(executor("e"));
        for task in &mut same_port.launch_group.as_mut().unwrap().task_group.tasks {
            task.resources = task_info("", "cpus:1;mem:1;ports:[2-3]").resources;
        }
        assert_eq!(
            cluster.accept(framework, &offers, vec![same_port]),
            ["offers-accepted", "launch-refused", "launch-refused"]
        );
        assert_eq!(cluster.statuses().len(), 2);
    }

    #[test]
    fn a_group_goes_to_its_executor_together() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        let offers = cluster.offer();
        let names = cluster.accept(framework, &offers, vec![group(executor("e"))]);
        assert_eq!(names, ["offers-accepted", "task-group-launched"]);
        let agent = cluster.state.agents.get(agent).unwrap();
        assert_eq!(agent.used.scalar_milli("cpus"), 2500);
        assert_eq!((agent.outbox.len(), agent.executors.len()), (1, 1));

        // A later task uses the executor that is there, and pays nothing for it.
        cluster.at_ms += 10_000;
        let offers = cluster.offer();
        let task = v1::TaskInfo { command: None, executor: Some(executor("e")), ..task_info("c", "cpus:1.5;mem:1") };
        let names = cluster.accept(framework, &offers, vec![operation(vec![task])]);
        assert_eq!(names, ["offers-accepted", "task-launched"]);
    }

    #[test]
    fn a_large_executor_is_not_copied_into_a_large_group() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:4;mem:100");
        let offers = cluster.offer();
        let large = v1::ExecutorInfo { data: Some(vec![0; 9 << 20].into()), ..executor("e") };
        let names = cluster.accept(framework, &offers, vec![group(large)]);
        assert_eq!(names, ["offers-accepted", "launch-refused", "launch-refused"]);
        assert!(cluster.statuses()[0].message().starts_with("'ExecutorInfo' in each task of the group has"));
    }

    #[test]
    fn a_group_that_cannot_be_launched_is_refused_as_a_whole() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:4;mem:100");
        let offers = cluster.offer();
        let default = v1::ExecutorInfo { r#type: Some(v1::executor_info::Type::Default as i32), ..executor("e") };
        assert_eq!(
            cluster.accept(framework, &offers, vec![group(default)]),
            ["offers-accepted", "launch-refused", "launch-refused"]
        );
        let statuses = cluster.statuses();
        assert_eq!(statuses.len(), 2);
        assert_eq!(statuses[0].message(), "The DEFAULT executor is not supported by this version");
        assert_eq!(statuses[0].reason(), v1::task_status::Reason::TaskGroupInvalid);
    }
}
