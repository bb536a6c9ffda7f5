//! The tasks of a default executor: what becomes of them, and what is wanted next. No I/O and no clock.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use agent_checks::Verdict;
use api::v1::framework_info::capability::Type as Capability;
use api::v1::task_status::{Reason, Source};
use api::v1::{
    CheckStatusInfo, ContainerId, ContainerStatus, ExecutorId, FrameworkInfo, KillPolicy, TaskId, TaskInfo,
    TaskResourceLimitation, TaskState, TaskStatus,
};

/// Time for a task to end after SIGTERM when nobody says otherwise.
const GRACE: Duration = Duration::from_secs(3);
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// The agent said who everybody is.
    Subscribed {
        /// The executor's container.
        container_id: ContainerId,
        /// Its framework.
        framework: Box<FrameworkInfo>,
    },
    /// Tasks that are launched together.
    Group(Vec<TaskInfo>),
    /// A task is to end.
    Kill {
        /// The task.
        task_id: String,
        /// How, if that was said.
        policy: Option<KillPolicy>,
    },
    /// All tasks are to end, and then the executor.
    Shutdown,
    /// The agent has an update.
    Acknowledged {
        /// Of this task.
        task_id: String,
        /// Of the update.
        uuid: Vec<u8>,
    },
    /// A task's container runs; or why it never will.
    Launched {
        /// The task.
        task_id: String,
        /// A sentence.
        failure: Option<String>,
    },
    /// A task's container ended; its wait status if anybody knows it.
    Ended {
        /// The task.
        task_id: String,
        /// Wait status.
        status: Option<i32>,
        /// What the agent knows of why.
        limited: Option<Box<Limited>>,
    },
    /// A task was looked at, as its checks say.
    Seen {
        /// The task.
        task_id: String,
        /// What is to be told.
        verdict: Verdict,
    },
    /// Patience with a task that is to end is over.
    PatienceEnded {
        /// The task.
        task_id: String,
    },
    /// The task took longer than it may.
    TimeIsUp {
        /// The task.
        task_id: String,
    },
}

/// That a container ended because it exceeded what it may use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limited {
    /// Number of the reason.
    pub reason: Option<i32>,
    /// What exceeded what, in a sentence.
    pub message: Option<String>,
    /// What was exceeded.
    pub limitation: Option<TaskResourceLimitation>,
}

/// What is wanted of the world.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    /// Tell the agent, in this order. Kept until it is acknowledged.
    Update(Box<TaskStatus>),
    /// Launch the container of a task.
    Launch {
        /// The task.
        task: Box<TaskInfo>,
        /// Its container.
        container_id: ContainerId,
    },
    /// Wait for the end of a task's container.
    Wait {
        /// The task.
        task_id: String,
        /// Its container.
        container_id: ContainerId,
    },
    /// Signal a task's container.
    Signal {
        /// Its container.
        container_id: ContainerId,
        /// The signal.
        signal: i32,
    },
    /// Look at a task that runs, as its checks say.
    Watch {
        /// The task.
        task: Box<TaskInfo>,
        /// Its container.
        container_id: ContainerId,
    },
    /// Look at a task no more.
    Unwatch {
        /// The task.
        task_id: String,
    },
    /// Say after so long that patience ended.
    EndPatience {
        /// The task.
        task_id: String,
        /// From now.
        after: Duration,
    },
    /// Say after so long that time is up.
    EndTime {
        /// The task.
        task_id: String,
        /// From now.
        after: Duration,
    },
}

struct Task {
    info: TaskInfo,
    container_id: ContainerId,
    group: u64,
    /// Its container runs, as far as is known.
    launched: bool,
    /// Its end is waited for.
    awaited: bool,
    /// It is to end. Whether SIGKILL was sent.
    killed: Option<bool>,
    time_is_up: bool,
    /// It, or another one of its group, ends because it was not healthy for too long.
    unhealthy: bool,
    /// What its checks showed last.
    check: Option<CheckStatusInfo>,
    healthy: Option<bool>,
    /// What it exceeded, once it ended for that.
    limitation: Option<TaskResourceLimitation>,
    ended: bool,
    /// The agent knows that it is here.
    acknowledged: bool,
}

/// All of them.
pub struct Tasks {
    executor_id: String,
    own: Option<ContainerId>,
    tells_killing: bool,
    tasks: BTreeMap<String, Task>,
    groups: u64,
    /// Not acknowledged, oldest first.
    updates: VecDeque<TaskStatus>,
    leaving: bool,
    ids: Box<dyn FnMut() -> [u8; 16]>,
}

impl std::fmt::Debug for Tasks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tasks").field("tasks", &self.tasks.keys()).finish_non_exhaustive()
    }
}

impl Task {
    /// Its end is to be heard of, once.
    fn wait(&mut self, wishes: &mut Vec<Wish>) {
        if !std::mem::replace(&mut self.awaited, true) {
            let (task_id, container_id) = (self.info.task_id.value.clone(), self.container_id.clone());
            wishes.push(Wish::Wait { task_id, container_id });
        }
    }
}

fn uuid_text(mut bytes: [u8; 16]) -> String {
    // Version 4, variant 1.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    uuid::Uuid::from_bytes(bytes).to_string()
}

fn grace(policy: Option<&KillPolicy>) -> Option<Duration> {
    let nanoseconds = policy?.grace_period.as_ref()?.nanoseconds;
    Some(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0)))
}

fn is_checked(info: &TaskInfo) -> bool {
    info.check.is_some() || info.health_check.is_some()
}

fn is_of_check(reason: Reason) -> bool {
    matches!(reason, Reason::TaskCheckStatusUpdated | Reason::TaskHealthCheckStatusUpdated)
}

impl Tasks {
    /// None yet. `ids` gives random bytes, new ones each time.
    pub fn new(executor_id: &str, ids: impl FnMut() -> [u8; 16] + 'static) -> Tasks {
        Tasks {
            executor_id: executor_id.to_owned(),
            own: None,
            tells_killing: false,
            tasks: BTreeMap::new(),
            groups: 0,
            updates: VecDeque::new(),
            leaving: false,
            ids: Box::new(ids),
        }
    }

    /// Updates that are not acknowledged, oldest first.
    pub fn unacknowledged(&self) -> impl Iterator<Item = &TaskStatus> {
        self.updates.iter()
    }

    /// Tasks that the agent may think never arrived.
    pub fn unacknowledged_tasks(&self) -> impl Iterator<Item = &TaskInfo> {
        self.tasks.values().filter(|task| !task.acknowledged).map(|task| &task.info)
    }

    /// Whether there was something to do, and it is done.
    pub fn is_done(&self) -> bool {
        (self.groups > 0 || self.leaving) && self.tasks.values().all(|task| task.ended)
    }

    /// The tasks that are not over, and their containers.
    pub fn live(&self) -> impl Iterator<Item = (&String, &ContainerId)> {
        self.tasks.iter().filter(|(_, task)| !task.ended).map(|(id, task)| (id, &task.container_id))
    }

    /// What follows.
    pub fn take(&mut self, input: Input) -> Vec<Wish> {
        let mut wishes = Vec::new();
        match input {
            Input::Subscribed { container_id, framework } => {
                self.own = Some(container_id);
                let killing = Some(Capability::TaskKillingState as i32);
                self.tells_killing = framework.capabilities.iter().any(|have| have.r#type == killing);
            }
            Input::Group(tasks) => self.launch(tasks, &mut wishes),
            Input::Kill { task_id, policy } => self.kill(&task_id, policy.as_ref(), true, &mut wishes),
            Input::Shutdown => {
                self.leaving = true;
                let live: Vec<String> = self.live().map(|(id, _)| id.clone()).collect();
                live.iter().for_each(|id| self.kill(id, None, true, &mut wishes));
            }
            Input::Acknowledged { task_id, uuid } => {
                self.updates.retain(|status| status.uuid.as_ref().is_none_or(|one| one[..] != uuid[..]));
                if let Some(task) = self.tasks.get_mut(&task_id) {
                    task.acknowledged = true;
                }
            }
            Input::Launched { task_id, failure } => self.launched(&task_id, failure, &mut wishes),
            Input::Ended { task_id, status, limited } => self.ended(&task_id, status, limited, &mut wishes),
            Input::Seen { task_id, verdict } => self.seen(&task_id, verdict, &mut wishes),
            Input::PatienceEnded { task_id } => self.force(&task_id, &mut wishes),
            Input::TimeIsUp { task_id } => {
                if let Some(task) = self.tasks.get_mut(&task_id).filter(|task| !task.ended && task.killed.is_none()) {
                    task.time_is_up = true;
                    // Nobody asked for its end: it is not being killed for the framework.
                    self.kill(&task_id, None, false, &mut wishes);
                }
            }
        }
        wishes
    }

    fn launch(&mut self, group: Vec<TaskInfo>, wishes: &mut Vec<Wish>) {
        self.groups += 1;
        let mut ids = Vec::new();
        for info in group {
            let task_id = info.task_id.value.clone();
            if self.tasks.contains_key(&task_id) {
                continue;
            }
            let parent = self.own.clone().map(Box::new);
            let container_id = ContainerId { value: uuid_text((self.ids)()), parent };
            let task = Task {
                info,
                container_id,
                group: self.groups,
                launched: false,
                awaited: false,
                killed: None,
                time_is_up: false,
                unhealthy: false,
                check: None,
                healthy: None,
                limitation: None,
                ended: false,
                acknowledged: false,
            };
            self.tasks.insert(task_id.clone(), task);
            self.update(&task_id, TaskState::TaskStarting, None, None, wishes);
            ids.push(task_id);
        }
        for id in ids {
            let task = &self.tasks[&id];
            wishes.push(Wish::Launch { task: Box::new(task.info.clone()), container_id: task.container_id.clone() });
        }
    }

    /// When all of a group run they are said to; one that cannot run takes the others with it.
    fn launched(&mut self, task_id: &str, failure: Option<String>, wishes: &mut Vec<Wish>) {
        let Some(task) = self.tasks.get_mut(task_id).filter(|task| !task.ended && !task.launched) else { return };
        let group = task.group;
        if let Some(why) = failure {
            task.ended = true;
            let (state, reason) = match task.killed {
                Some(_) => (TaskState::TaskKilled, None),
                None => (TaskState::TaskFailed, Some(Reason::ContainerLaunchFailed)),
            };
            let why = format!("Failed to launch container: {why}");
            self.update(task_id, state, reason, Some(&why), wishes);
            return self.end_group(group, wishes);
        }
        task.launched = true;
        // The order to end came while it was being launched.
        if task.killed.is_some() {
            task.wait(wishes);
            wishes.push(Wish::Signal { container_id: task.container_id.clone(), signal: SIGTERM });
        }
        let of_group = || self.tasks.iter().filter(move |(_, task)| task.group == group);
        if of_group().any(|(_, task)| !task.launched) {
            return;
        }
        let ids: Vec<String> =
            of_group().filter(|(_, task)| !task.ended && task.killed.is_none()).map(|(id, _)| id.clone()).collect();
        for id in ids {
            // That it runs is said before its end.
            self.update(&id, TaskState::TaskRunning, None, None, wishes);
            self.tasks.entry(id.clone()).and_modify(|task| task.wait(wishes));
            let limit = self.tasks[&id].info.max_completion_time.as_ref().map_or(0, |limit| limit.nanoseconds);
            if let Some(nanoseconds) = u64::try_from(limit).ok().filter(|limit| *limit > 0) {
                wishes.push(Wish::EndTime { task_id: id.clone(), after: Duration::from_nanos(nanoseconds) });
            }
            let task = &self.tasks[&id];
            if is_checked(&task.info) {
                let container_id = task.container_id.clone();
                wishes.push(Wish::Watch { task: Box::new(task.info.clone()), container_id });
            }
        }
    }

    fn kill(&mut self, task_id: &str, policy: Option<&KillPolicy>, is_told: bool, wishes: &mut Vec<Wish>) {
        let Some(task) = self.tasks.get_mut(task_id).filter(|task| !task.ended) else { return };
        let after = grace(policy).or_else(|| grace(task.info.kill_policy.as_ref())).unwrap_or(GRACE);
        let (container_id, launched) = (task.container_id.clone(), task.launched);
        let is_first = task.killed.is_none();
        if launched {
            task.wait(wishes);
        }
        if is_first {
            task.killed = Some(false);
            // Nobody looks at what is ending.
            if launched && is_checked(&task.info) {
                wishes.push(Wish::Unwatch { task_id: task_id.to_owned() });
            }
            if self.tells_killing && is_told {
                self.update(task_id, TaskState::TaskKilling, None, None, wishes);
            }
            if launched {
                wishes.push(Wish::Signal { container_id, signal: SIGTERM });
            }
        }
        // A later one may shorten the time; one that would be longer comes behind the first.
        wishes.push(Wish::EndPatience { task_id: task_id.to_owned(), after });
    }

    fn force(&mut self, task_id: &str, wishes: &mut Vec<Wish>) {
        let Some(task) = self.tasks.get_mut(task_id).filter(|task| !task.ended && task.killed == Some(false)) else {
            return;
        };
        if !task.launched {
            // As soon as there is something to kill.
            let (task_id, after) = (task_id.to_owned(), Duration::from_millis(100));
            return wishes.push(Wish::EndPatience { task_id, after });
        }
        task.killed = Some(true);
        wishes.push(Wish::Signal { container_id: task.container_id.clone(), signal: SIGKILL });
    }

    fn ended(&mut self, task_id: &str, status: Option<i32>, limited: Option<Box<Limited>>, wishes: &mut Vec<Wish>) {
        let Some(task) = self.tasks.get_mut(task_id).filter(|task| !task.ended) else { return };
        task.ended = true;
        let group = task.group;
        if task.killed.is_none() && is_checked(&task.info) {
            wishes.push(Wish::Unwatch { task_id: task_id.to_owned() });
        }
        let mut message = status.map_or("Nobody saw how the command ended".to_owned(), api::exit::describe);
        let (state, reason) = match (&limited, task.time_is_up, task.killed.is_some(), status) {
            (Some(limited), ..) => {
                let reason = limited.reason.and_then(|reason| Reason::try_from(reason).ok());
                (TaskState::TaskFailed, reason.or(Some(Reason::ContainerLimitation)))
            }
            (None, true, ..) => (TaskState::TaskFailed, Some(Reason::MaxCompletionTimeReached)),
            (None, false, true, _) => (TaskState::TaskKilled, None),
            (None, false, false, Some(0)) => (TaskState::TaskFinished, None),
            (None, false, false, _) => (TaskState::TaskFailed, None),
        };
        if let Some(limited) = limited {
            message = [Some(message), limited.message].into_iter().flatten().collect::<Vec<_>>().join(": ");
            task.limitation = limited.limitation;
        }
        self.update(task_id, state, reason, Some(&message), wishes);
        if state != TaskState::TaskFinished {
            self.end_group(group, wishes);
        }
    }

    /// A group lives and dies together. Others are none of its business.
    fn end_group(&mut self, group: u64, wishes: &mut Vec<Wish>) {
        let others = self.tasks.iter().filter(|(_, task)| task.group == group && !task.ended && task.killed.is_none());
        let others: Vec<String> = others.map(|(id, _)| id.clone()).collect();
        others.iter().for_each(|id| self.kill(id, None, true, wishes));
    }

    /// What its checks show is told; a task that is not healthy for too long ends, and its group with it.
    fn seen(&mut self, task_id: &str, verdict: Verdict, wishes: &mut Vec<Wish>) {
        let Some(task) = self.tasks.get_mut(task_id).filter(|task| !task.ended && task.killed.is_none()) else {
            return;
        };
        let (reason, kill) = match verdict {
            Verdict::Nothing => return,
            Verdict::Status(status) => {
                task.check = Some(status);
                (Reason::TaskCheckStatusUpdated, false)
            }
            Verdict::Health { healthy, kill, .. } => {
                task.healthy = Some(healthy);
                (Reason::TaskHealthCheckStatusUpdated, kill)
            }
        };
        let group = task.group;
        self.update(task_id, TaskState::TaskRunning, Some(reason), None, wishes);
        if kill {
            self.tasks.values_mut().filter(|task| task.group == group).for_each(|task| task.unhealthy = true);
            self.kill(task_id, None, true, wishes);
        }
    }

    fn update(
        &mut self,
        task_id: &str,
        state: TaskState,
        reason: Option<Reason>,
        message: Option<&str>,
        wishes: &mut Vec<Wish>,
    ) {
        let task = &self.tasks[task_id];
        let container_id = task.container_id.clone();
        let is_seen = reason.is_some_and(is_of_check);
        let unseen = || task.info.check.as_ref().map(|check| api::checks::empty(check));
        let check_status = if is_seen { task.check.or_else(unseen) } else { unseen() };
        let healthy = match state {
            TaskState::TaskKilled => task.unhealthy.then_some(false),
            _ => task.healthy.filter(|_| is_seen),
        };
        let status = TaskStatus {
            task_id: TaskId { value: task_id.to_owned() },
            state: state as i32,
            message: message.map(str::to_owned),
            source: Some(Source::Executor as i32),
            reason: reason.map(|reason| reason as i32),
            executor_id: Some(ExecutorId { value: self.executor_id.clone() }),
            uuid: Some((self.ids)().to_vec().into()),
            check_status,
            healthy,
            limitation: task.limitation.clone(),
            container_status: Some(ContainerStatus { container_id: Some(container_id), ..ContainerStatus::default() }),
            ..TaskStatus::default()
        };
        self.updates.push_back(status.clone());
        wishes.push(Wish::Update(Box::new(status)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::v1::DurationInfo;

    fn tasks() -> Tasks {
        let mut count = 0;
        let mut tasks = Tasks::new("e", move || {
            count += 1;
            [count; 16]
        });
        let killing = api::v1::framework_info::Capability { r#type: Some(Capability::TaskKillingState as i32) };
        let framework = FrameworkInfo { capabilities: vec![killing], ..FrameworkInfo::default() };
        let container_id = ContainerId { value: "own".into(), parent: None };
        assert!(tasks.take(Input::Subscribed { container_id, framework: Box::new(framework) }).is_empty());
        tasks
    }

    fn info(id: &str) -> TaskInfo {
        TaskInfo { name: id.into(), task_id: TaskId { value: id.into() }, ..TaskInfo::default() }
    }

    fn launched(id: &str) -> Input {
        Input::Launched { task_id: id.into(), failure: None }
    }

    fn ended(id: &str, status: i32) -> Input {
        Input::Ended { task_id: id.into(), status: Some(status), limited: None }
    }

    /// In short: updates as `a RUNNING`, signals as `signal 15`, the rest by its kind.
    fn told(wishes: &[Wish]) -> Vec<String> {
        let short = |wish: &Wish| match wish {
            Wish::Update(status) => format!("{} {}", status.task_id.value, &status.state().as_str_name()[5..]),
            Wish::Launch { task, .. } => format!("launch {}", task.task_id.value),
            Wish::Wait { task_id, .. } => format!("wait {task_id}"),
            Wish::Signal { signal, .. } => format!("signal {signal}"),
            Wish::EndPatience { task_id, after } => format!("patience {task_id} {}ms", after.as_millis()),
            Wish::EndTime { task_id, after } => format!("time {task_id} {}ms", after.as_millis()),
            Wish::Watch { task, .. } => format!("watch {}", task.task_id.value),
            Wish::Unwatch { task_id } => format!("unwatch {task_id}"),
        };
        wishes.iter().map(short).collect()
    }

    #[test]
    fn a_group_starts_runs_and_ends() {
        let mut tasks = tasks();
        let all = tasks.take(Input::Group(vec![info("a"), info("b")]));
        assert_eq!(told(&all), ["a STARTING", "b STARTING", "launch a", "launch b"]);
        assert_eq!(told(&tasks.take(launched("b"))), [""; 0], "nothing is said before all run");
        assert_eq!(told(&tasks.take(launched("a"))), ["a RUNNING", "wait a", "b RUNNING", "wait b"]);
        assert_eq!(told(&tasks.take(ended("a", 0))), ["a FINISHED"]);
        assert!(!tasks.is_done());
        assert_eq!(tasks.unacknowledged_tasks().count(), 2);
        assert_eq!(told(&tasks.take(ended("b", 0))), ["b FINISHED"]);
        assert!(tasks.is_done());
        let uuids: Vec<_> = tasks.unacknowledged().map(|one| (one.task_id.value.clone(), one.uuid.clone())).collect();
        assert_eq!(uuids.len(), 6);
        for (task_id, uuid) in uuids {
            tasks.take(Input::Acknowledged { task_id, uuid: uuid.unwrap().to_vec() });
        }
        assert_eq!((tasks.unacknowledged().count(), tasks.unacknowledged_tasks().count()), (0, 0));
    }

    #[test]
    fn a_task_that_fails_takes_its_group_along_and_no_other() {
        let mut tasks = tasks();
        tasks.take(Input::Group(vec![info("a"), info("b")]));
        tasks.take(Input::Group(vec![info("c")]));
        for id in ["a", "b", "c"] {
            tasks.take(launched(id));
        }
        let failed = tasks.take(ended("a", 3 << 8));
        assert_eq!(told(&failed), ["a FAILED", "b KILLING", "signal 15", "patience b 3000ms"]);
        assert!(matches!(&failed[0], Wish::Update(status) if status.message() == "Command exited with status 3"));
        let patience = || Input::PatienceEnded { task_id: "b".into() };
        assert_eq!(told(&tasks.take(patience())), ["signal 9"]);
        assert_eq!(told(&tasks.take(patience())), [""; 0]);
        assert_eq!(told(&tasks.take(ended("b", 9))), ["b KILLED"]);
        assert_eq!(tasks.live().count(), 1);
    }

    #[test]
    fn all_are_launched_or_none() {
        let mut tasks = tasks();
        tasks.take(Input::Group(vec![info("a"), info("b"), info("c")]));
        tasks.take(launched("a"));
        let failure = Some("there is no user 'x'".to_owned());
        let failed = tasks.take(Input::Launched { task_id: "b".into(), failure });
        let killed = ["b FAILED", "wait a", "a KILLING", "signal 15", "patience a 3000ms"];
        let later = ["c KILLING", "patience c 3000ms"];
        assert_eq!(told(&failed), [&killed[..], &later].concat(), "c runs not yet");
        assert_eq!(told(&tasks.take(launched("c"))), ["wait c", "signal 15"]);
        assert_eq!(told(&tasks.take(ended("a", 15))), ["a KILLED"]);
        assert_eq!(told(&tasks.take(ended("c", 15))), ["c KILLED"]);
        assert!(tasks.is_done());
    }

    #[test]
    fn policies_and_time_are_kept() {
        let mut tasks = tasks();
        let nanoseconds = |nanoseconds| Some(DurationInfo { nanoseconds });
        let policy = KillPolicy { grace_period: nanoseconds(1_000_000_000) };
        let limited = TaskInfo { max_completion_time: nanoseconds(1_500_000_000), ..info("a") };
        tasks.take(Input::Group(vec![limited, TaskInfo { kill_policy: Some(policy), ..info("b") }]));
        tasks.take(launched("a"));
        assert_eq!(told(&tasks.take(launched("b"))), ["a RUNNING", "wait a", "time a 1500ms", "b RUNNING", "wait b"]);
        let up = tasks.take(Input::TimeIsUp { task_id: "a".into() });
        assert_eq!(told(&up), ["signal 15", "patience a 3000ms"], "and it is not said to be killed");
        let ended = tasks.take(ended("a", 15));
        assert_eq!(told(&ended), ["a FAILED", "b KILLING", "signal 15", "patience b 1000ms"]);
        assert!(matches!(&ended[0], Wish::Update(one) if one.reason() == Reason::MaxCompletionTimeReached));
        let shorter = KillPolicy { grace_period: nanoseconds(0) };
        let again = tasks.take(Input::Kill { task_id: "b".into(), policy: Some(shorter) });
        assert_eq!(told(&again), ["patience b 0ms"]);
    }

    #[test]
    fn what_a_container_exceeded_is_told() {
        let mut tasks = tasks();
        tasks.take(Input::Group(vec![info("a")]));
        tasks.take(launched("a"));
        let limitation = Some(TaskResourceLimitation { resources: vec![Default::default()] });
        let reason = Some(Reason::ContainerLimitationMemory as i32);
        let limited = Limited { reason, message: Some("Too much".into()), limitation: limitation.clone() };
        let ended = Input::Ended { task_id: "a".into(), status: Some(9), limited: Some(Box::new(limited)) };
        let told = tasks.take(ended);
        let Some(Wish::Update(status)) = told.first() else { panic!("{told:?}") };
        assert_eq!((status.state(), status.reason()), (TaskState::TaskFailed, Reason::ContainerLimitationMemory));
        assert_eq!(status.limitation, limitation);
        assert!(status.message().ends_with(": Too much"), "{}", status.message());
    }

    #[test]
    fn who_is_unhealthy_takes_its_group_along() {
        let mut tasks = tasks();
        let health_check = Some(Box::default());
        tasks.take(Input::Group(vec![TaskInfo { health_check, ..info("a") }, info("b")]));
        tasks.take(launched("a"));
        assert_eq!(told(&tasks.take(launched("b"))), ["a RUNNING", "wait a", "watch a", "b RUNNING", "wait b"]);
        let seen = |healthy, kill| {
            let verdict = Verdict::Health { healthy, kill, failures: u32::from(!healthy) };
            Input::Seen { task_id: "a".into(), verdict }
        };
        let well = tasks.take(seen(true, false));
        assert!(
            matches!(&well[..], [Wish::Update(one)] if one.healthy == Some(true) && one.reason() == Reason::TaskHealthCheckStatusUpdated)
        );
        let ill = tasks.take(seen(false, true));
        assert_eq!(told(&ill), ["a RUNNING", "unwatch a", "a KILLING", "signal 15", "patience a 3000ms"]);
        assert!(tasks.take(seen(false, true)).is_empty(), "once");
        let ended_a = tasks.take(ended("a", 15));
        assert_eq!(told(&ended_a), ["a KILLED", "b KILLING", "signal 15", "patience b 3000ms"]);
        assert!(matches!(&ended_a[0], Wish::Update(one) if one.healthy == Some(false)));
        assert_eq!(told(&tasks.take(ended("b", 15))), ["b KILLED"]);
    }

    #[test]
    fn an_executor_that_is_shut_down_ends_what_it_has() {
        let mut tasks = tasks();
        assert!(!tasks.is_done(), "it waits for its first group");
        tasks.take(Input::Group(vec![info("a")]));
        tasks.take(launched("a"));
        assert_eq!(told(&tasks.take(Input::Shutdown)), ["a KILLING", "signal 15", "patience a 3000ms"]);
        tasks.take(ended("a", 15));
        assert!(tasks.is_done());
    }
}
