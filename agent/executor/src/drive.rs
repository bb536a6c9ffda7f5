//! Carries out what the tasks want, one step after the other on one thread.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use api::v1::agent::{self, Response};
use api::v1::executor::{Call, Event, call, event};
use api::v1::{self, ContainerId, TaskInfo, TaskStatus, environment};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep, timeout};

use crate::agent::Line;
use crate::surroundings::Surroundings;
use crate::tasks::{Input, Limited, Tasks, Wish};
use crate::watch;
use crate::within::Within;

/// Launches under way at once: more would only wait for the same processors.
const LAUNCHES_MAX: usize = 16;
/// Tasks that are waited for on one connection.
const WAITS_MAX: usize = 100;
/// Updates on their way at once.
const UPDATES_MAX: usize = 64;
/// Pauses before something is tried again, the first and the longest.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Time for what was said last to be acknowledged.
const FAREWELL: Duration = Duration::from_secs(60);

enum News {
    Input(Input),
    Heard(Box<Event>),
    /// The stream ended.
    Lost(String),
    /// Look for the agent.
    Subscribe,
    /// An update was not taken.
    NotSaid(String),
    /// The agent was away for too long, or what was said last was not acknowledged in time.
    GiveUp,
}

struct Driver {
    around: Rc<Surroundings>,
    calls: Rc<Line>,
    waits: Vec<Rc<Line>>,
    waiting: usize,
    launches: Rc<Semaphore>,
    news: mpsc::UnboundedSender<News>,
    updates: mpsc::UnboundedSender<TaskStatus>,
    subscription: Option<tokio::task::JoinHandle<()>>,
    lost_since: Option<Instant>,
    pause: Duration,
    watches: BTreeMap<String, Vec<tokio::task::JoinHandle<()>>>,
    /// Whether there is a stream from the agent.
    is_connected: Rc<Cell<bool>>,
}

/// Runs until there is nothing left to do; the exit code of this process.
pub fn run() -> i32 {
    let around = match Surroundings::read(|name| std::env::var(name).ok()) {
        Ok(around) => around,
        Err(why) => {
            eprintln!("meseta-default-executor: it is started by meseta-agent: {why}");
            return 1;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("meseta-default-executor: cannot start: {error}");
            return 1;
        }
    };
    LocalSet::new().block_on(&runtime, drive(around))
}

async fn drive(around: Surroundings) -> i32 {
    let (news, mut inbox) = mpsc::unbounded_channel();
    let (updates, queue) = mpsc::unbounded_channel();
    let around = Rc::new(around);
    let mut tasks = Tasks::new(&around.executor_id, || uuid::Uuid::new_v4().into_bytes());
    let mut driver = Driver {
        calls: Rc::new(Line::new(&around)),
        waits: Vec::new(),
        waiting: 0,
        launches: Rc::new(Semaphore::new(LAUNCHES_MAX)),
        around: around.clone(),
        news: news.clone(),
        updates,
        subscription: None,
        lost_since: None,
        pause: RETRY_MIN.min(around.backoff_max),
        watches: BTreeMap::new(),
        is_connected: Rc::default(),
    };
    tokio::task::spawn_local(say(around, driver.calls.clone(), queue, news));
    driver.subscribe(&tasks);
    let mut farewell = false;
    while let Some(one) = inbox.recv().await {
        match one {
            News::Input(input) => driver.take(&mut tasks, input),
            News::Heard(event) => {
                if event.r#type() == event::Type::Subscribed {
                    driver.lost_since = None;
                    driver.is_connected.set(true);
                    driver.pause = RETRY_MIN.min(driver.around.backoff_max);
                }
                if let Some(input) = read(*event) {
                    driver.take(&mut tasks, input);
                }
            }
            News::Lost(why) => driver.lose(&why),
            News::Subscribe => driver.subscribe(&tasks),
            News::NotSaid(why) => {
                // With a new stream it is said again.
                eprintln!("meseta-default-executor: the agent did not take an update: {why}");
                if let Some(subscription) = driver.subscription.take() {
                    subscription.abort();
                    driver.lose(&why);
                }
            }
            News::GiveUp if farewell => return 0,
            News::GiveUp => {
                eprintln!("meseta-default-executor: the agent was away for too long");
                return 1;
            }
        }
        if tasks.is_done() {
            if tasks.unacknowledged().next().is_none() {
                return 0;
            }
            if !std::mem::replace(&mut farewell, true) {
                driver.after(FAREWELL, News::GiveUp);
            }
        }
    }
    0
}

fn read(event: Event) -> Option<Input> {
    Some(match event.r#type() {
        event::Type::Subscribed => {
            let subscribed = event.subscribed?;
            let framework = Box::new(subscribed.framework_info);
            Input::Subscribed { container_id: subscribed.container_id?, framework }
        }
        event::Type::LaunchGroup => Input::Group(event.launch_group?.task_group.tasks),
        event::Type::Launch => Input::Group(vec![event.launch?.task]),
        event::Type::Kill => {
            let kill = event.kill?;
            Input::Kill { task_id: kill.task_id.value, policy: kill.kill_policy }
        }
        event::Type::Acknowledged => {
            let acknowledged = event.acknowledged?;
            Input::Acknowledged { task_id: acknowledged.task_id.value, uuid: acknowledged.uuid.to_vec() }
        }
        event::Type::Shutdown => Input::Shutdown,
        _ => return None,
    })
}

/// Says updates: those of a task one after the other, those of several tasks together. Each is answered when the agent has it on its
/// disk, which it then has to wait for once.
async fn say(
    around: Rc<Surroundings>,
    line: Rc<Line>,
    mut queue: mpsc::UnboundedReceiver<TaskStatus>,
    news: mpsc::UnboundedSender<News>,
) {
    let mut waiting = VecDeque::new();
    loop {
        if waiting.is_empty() {
            match queue.recv().await {
                Some(status) => waiting.push_back(status),
                None => return,
            }
        }
        waiting.extend(std::iter::from_fn(|| queue.try_recv().ok()));
        let (mut said, mut later) = (JoinSet::new(), VecDeque::new());
        for status in first_of_each(&mut waiting, &mut later) {
            let update = Call { update: Some(call::Update { status }), ..around.call(call::Type::Update) };
            let line = line.clone();
            said.spawn_local(async move {
                match line.say(&update).await {
                    Ok((200..=299, _)) => None,
                    Ok((status, body)) => Some(format!("{status}: {}", String::from_utf8_lossy(&body))),
                    Err(why) => Some(why),
                }
            });
        }
        waiting = later;
        let mut failure = None;
        while let Some(answered) = said.join_next().await {
            failure = failure.or(answered.unwrap_or_else(|error| Some(error.to_string())));
        }
        if let Some(why) = failure {
            // The later ones come with the next subscription, in their order.
            waiting.clear();
            while queue.try_recv().is_ok() {}
            let _ = news.send(News::NotSaid(why));
        }
    }
}

/// The oldest update of each task, at most [`UPDATES_MAX`]; the others are `later`.
fn first_of_each(waiting: &mut VecDeque<TaskStatus>, later: &mut VecDeque<TaskStatus>) -> Vec<TaskStatus> {
    let (mut first, mut tasks) = (Vec::new(), BTreeSet::new());
    for status in waiting.drain(..) {
        if first.len() < UPDATES_MAX && tasks.insert(status.task_id.value.clone()) {
            first.push(status);
        } else {
            later.push_back(status);
        }
    }
    first
}

impl Surroundings {
    fn call(&self, kind: call::Type) -> Call {
        Call {
            executor_id: v1::ExecutorId { value: self.executor_id.clone() },
            framework_id: v1::FrameworkId { value: self.framework_id.clone() },
            r#type: Some(kind as i32),
            ..Call::default()
        }
    }
}

impl Driver {
    fn after(&self, pause: Duration, what: News) {
        let news = self.news.clone();
        tokio::task::spawn_local(async move {
            sleep(pause).await;
            let _ = news.send(what);
        });
    }

    fn subscribe(&mut self, tasks: &Tasks) {
        let unacknowledged_updates =
            tasks.unacknowledged().map(|status| call::Update { status: status.clone() }).collect();
        let unacknowledged_tasks = tasks.unacknowledged_tasks().cloned().collect();
        let subscribe = call::Subscribe { unacknowledged_tasks, unacknowledged_updates };
        let call = Call { subscribe: Some(subscribe), ..self.around.call(call::Type::Subscribe) };
        let (line, news) = (self.calls.clone(), self.news.clone());
        self.subscription = Some(tokio::task::spawn_local(async move {
            let heard = |event| drop(news.send(News::Heard(Box::new(event))));
            let why = line.subscribe(&call, heard).await;
            let _ = news.send(News::Lost(why));
        }));
    }

    fn lose(&mut self, why: &str) {
        self.subscription = None;
        self.is_connected.set(false);
        let since = *self.lost_since.get_or_insert_with(|| {
            eprintln!("meseta-default-executor: no stream from the agent: {why}");
            Instant::now()
        });
        if since.elapsed() >= self.around.recovery_timeout {
            let _ = self.news.send(News::GiveUp);
            return;
        }
        self.after(self.pause, News::Subscribe);
        self.pause = (2 * self.pause).min(self.around.backoff_max.max(RETRY_MIN));
    }

    fn take(&mut self, tasks: &mut Tasks, input: Input) {
        for wish in tasks.take(input) {
            match wish {
                Wish::Update(mut status) => {
                    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                    status.timestamp = Some(now.as_secs_f64());
                    let _ = self.updates.send(*status);
                }
                Wish::Launch { task, container_id } => self.launch(*task, container_id),
                Wish::Wait { task_id, container_id } => self.wait(task_id, container_id),
                Wish::Signal { container_id, signal } => self.signal(container_id, signal),
                Wish::Watch { task, container_id } => self.watch(*task, &container_id),
                Wish::Unwatch { task_id } => {
                    self.watches.remove(&task_id).into_iter().flatten().for_each(|watch| watch.abort());
                }
                Wish::EndPatience { task_id, after } => {
                    self.after(after, News::Input(Input::PatienceEnded { task_id }));
                }
                Wish::EndTime { task_id, after } => self.after(after, News::Input(Input::TimeIsUp { task_id })),
            }
        }
    }

    fn watch(&mut self, task: TaskInfo, container_id: &ContainerId) {
        let (news, task_id) = (self.news.clone(), task.task_id.value.clone());
        let seen = move |verdict| {
            let _ = news.send(News::Input(Input::Seen { task_id: task_id.clone(), verdict }));
        };
        let task_id = task.task_id.value.clone();
        let place = watch::place(&task, &self.around.sandbox, container_id, variables(&task, &self.around.ip));
        let within = Within { container_id: container_id.clone(), line: self.calls.clone() };
        let within = Some(&within).filter(|_| watch::is_within(&task));
        let watches = watch::begin(&task, &place, within, &self.is_connected, seen);
        self.watches.insert(task_id, watches);
    }

    fn launch(&self, task: TaskInfo, container_id: ContainerId) {
        let (line, news, launches) = (self.calls.clone(), self.news.clone(), self.launches.clone());
        let task_id = task.task_id.value.clone();
        // Where people look for the files of a task.
        let tasks = std::path::Path::new(&self.around.sandbox).join("tasks");
        let _ = std::fs::create_dir_all(&tasks);
        let _ = std::os::unix::fs::symlink(format!("../containers/{}", container_id.value), tasks.join(&task_id));
        let call = agent::Call {
            r#type: Some(agent::call::Type::LaunchContainer as i32),
            launch_container: Some(launch_of(task, container_id, &self.around.ip)),
            ..agent::Call::default()
        };
        tokio::task::spawn_local(async move {
            let _slot = launches.acquire().await;
            let mut pause = RETRY_MIN;
            let failure = loop {
                match line.call(&call).await {
                    Ok((200 | 202, _)) => break None,
                    Ok((500..=599, _)) | Err(_) => {}
                    Ok((_, body)) => break Some(String::from_utf8_lossy(&body).into_owned()),
                }
                // The agent is away: whether it was launched it will know.
                sleep(pause).await;
                pause = (2 * pause).min(RETRY_MAX);
            };
            let _ = news.send(News::Input(Input::Launched { task_id, failure }));
        });
    }

    fn wait(&mut self, task_id: String, container_id: ContainerId) {
        if self.waiting.is_multiple_of(WAITS_MAX) {
            self.waits.push(Rc::new(Line::new(&self.around)));
        }
        self.waiting += 1;
        let (line, news) = (self.waits[self.waits.len() - 1].clone(), self.news.clone());
        let call = agent::Call {
            r#type: Some(agent::call::Type::WaitContainer as i32),
            wait_container: Some(agent::call::WaitContainer { container_id }),
            ..agent::Call::default()
        };
        tokio::task::spawn_local(async move {
            let mut pause = RETRY_MIN;
            let (status, limited) = loop {
                match line.call(&call).await {
                    Ok((200, body)) => match api::decode_protobuf::<Response>(body) {
                        Ok(answer) => break how_it_ended(answer.wait_container.unwrap_or_default()),
                        Err(error) => eprintln!("meseta-default-executor: an answer cannot be read: {error}"),
                    },
                    Ok((404, _)) => break (None, None),
                    Ok(_) | Err(_) => {}
                }
                sleep(pause).await;
                pause = (2 * pause).min(RETRY_MAX);
            };
            let _ = news.send(News::Input(Input::Ended { task_id, status, limited }));
        });
    }

    fn signal(&self, container_id: ContainerId, signal: i32) {
        let line = self.calls.clone();
        let kill = agent::call::KillContainer { container_id, signal: Some(signal) };
        let call = agent::Call {
            r#type: Some(agent::call::Type::KillContainer as i32),
            kill_container: Some(kill),
            ..agent::Call::default()
        };
        tokio::task::spawn_local(async move {
            let mut pause = RETRY_MIN;
            // Not there any more is as good as ended: whoever waits for it hears of it.
            while !matches!(timeout(RETRY_MAX * 10, line.call(&call)).await, Ok(Ok((200 | 404, _)))) {
                sleep(pause).await;
                pause = (2 * pause).min(RETRY_MAX);
            }
        });
    }
}

/// Wait status, and what the container exceeded if it ended for that.
fn how_it_ended(ended: agent::response::WaitContainer) -> (Option<i32>, Option<Box<Limited>>) {
    let is_failed = ended.state == Some(v1::TaskState::TaskFailed as i32);
    let limited = Limited { reason: ended.reason, message: ended.message, limitation: ended.limitation };
    (ended.exit_status, is_failed.then(|| Box::new(limited)))
}

/// What a task finds in its environment, beside what it brings along.
fn variables(task: &TaskInfo, ip: &str) -> BTreeMap<&'static str, String> {
    let allocation = task.resources.first().and_then(|resource| resource.allocation_info.as_ref());
    let role = allocation.and_then(|allocation| allocation.role.clone());
    let variables = [("MESOS_CONTAINER_IP", Some(ip.to_owned())), ("MESOS_ALLOCATION_ROLE", role)];
    variables.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn launch_of(task: TaskInfo, container_id: ContainerId, ip: &str) -> agent::call::LaunchContainer {
    let known = variables(&task, ip);
    let mut command = task.command.clone().unwrap_or_default();
    api::checks::bring(&task, &mut command);
    api::checksums::give(task.labels.as_ref(), &mut command);
    let environment = command.environment.get_or_insert_default();
    let own = known.into_iter().map(|(name, value)| environment::Variable {
        name: name.to_owned(),
        value: Some(value),
        ..environment::Variable::default()
    });
    environment.variables.splice(0..0, own.collect::<Vec<_>>());
    agent::call::LaunchContainer {
        container_id,
        command: Some(command),
        resources: task.resources,
        container: task.container.map(|container| *container),
        limits: task.limits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_of_one_task_go_one_after_the_other() {
        let update = |(task_id, message): &(&str, &str)| TaskStatus {
            task_id: v1::TaskId { value: (*task_id).to_owned() },
            message: Some((*message).to_owned()),
            ..TaskStatus::default()
        };
        let mut waiting: VecDeque<TaskStatus> =
            [("a", "1"), ("b", "1"), ("a", "2"), ("b", "2"), ("c", "1"), ("a", "3")].iter().map(update).collect();
        let mut rounds = Vec::new();
        while !waiting.is_empty() {
            let mut later = VecDeque::new();
            let said = first_of_each(&mut waiting, &mut later);
            let said: Vec<String> = said.iter().map(|one| format!("{}{}", one.task_id.value, one.message())).collect();
            rounds.push(said.join(" "));
            waiting = later;
        }
        assert_eq!(rounds, ["a1 b1 c1", "a2 b2", "a3"]);
        let mut many: VecDeque<TaskStatus> = (0..2 * UPDATES_MAX).map(|n| update(&(&format!("t{n}"), "1"))).collect();
        let mut later = VecDeque::new();
        assert_eq!(first_of_each(&mut many, &mut later).len(), UPDATES_MAX);
        assert_eq!(later.len(), UPDATES_MAX);
    }
}
