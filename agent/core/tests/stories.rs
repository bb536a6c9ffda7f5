//! What happens on an agent, told from outside: commands in, events and effects out.

mod common;

use agent_core::{Command, Delivery, Effect, Event, Refusal, Signal, Unreadable, Why, resume};
use api::internal::{self, Order, order};
use api::v1::{self, TaskState, TaskStatus, task_status};
use common::{Story, framework, welcome};

#[test]
fn a_command_task_lives_and_its_updates_wait_for_the_masters() {
    let mut story = Story::new();
    let container = story.launch("t");
    story.start(&container);
    story.start(&container);
    story.exit(&container, Some(0));
    story.exit(&container, Some(256));
    assert_eq!(story.states(), [TaskState::TaskStarting, TaskState::TaskRunning, TaskState::TaskFinished]);
    let told = story.told();
    assert_eq!(told[2].message(), "Command exited with status 0");
    assert_eq!(told[1].container_status.as_ref().unwrap().executor_pid, Some(41));
    assert!(story.state.containers.is_empty());
    story.tell(Command::CoverMessages { up_to: 2, tells_of_operations: false });
    assert_eq!(story.states(), [TaskState::TaskFinished]);
    story.tell(Command::CoverMessages { up_to: 99, tells_of_operations: false });
    assert!(story.told().is_empty());
}

#[test]
fn an_order_is_taken_once() {
    let mut story = Story::new();
    story.launch("t");
    let again =
        Order { seq: 1, order: Some(order::Order::ShutdownAgent(internal::ShutdownAgent { message: "".into() })) };
    assert_eq!(story.tell(Command::TakeOrder(Box::new(again))), (vec![], vec![]));
    assert_eq!(story.state.orders_up_to, 1);
}

#[test]
fn a_kill_before_the_start_is_decided_by_the_claim() {
    let mut story = Story::new();
    let container = story.launch("t");
    let stop = Effect::Stop { container_id: container.clone(), signal: Signal::Terminate };
    assert!(story.kill("t").contains(&stop));
    // The supervisor was faster: it is told when it says so.
    let mut faster = Story { state: story.state.clone(), ..story };
    assert!(faster.start(&container).contains(&stop));
    faster.exit(&container, Some(15));
    assert_eq!(faster.states().last(), Some(&TaskState::TaskKilled));
    // The agent was faster: it never ran.
    let mut story = Story::new();
    let container = story.launch("t");
    story.kill("t");
    story.tell(Command::ReportRevocation { container_id: container });
    let told = story.told();
    assert_eq!((told.len(), told[0].state()), (1, TaskState::TaskKilled));
    assert_eq!(told[0].reason(), task_status::Reason::TaskKilledDuringLaunch);
}

#[test]
fn patience_ends_at_its_deadline_also_over_a_restart() {
    let mut story = Story::new();
    let container = story.launch("t");
    story.start(&container);
    story.kill("t");
    assert_eq!(story.state.next_deadline_ms(), Some(4_000), "three seconds of grace");
    assert_eq!(resume(&story.state), [Effect::Stop { container_id: container.clone(), signal: Signal::Terminate }]);
    story.at_ms = 3_999;
    assert_eq!(story.tell(Command::PassDeadlines).1, []);
    story.at_ms = 4_000;
    let kill = Effect::Stop { container_id: container, signal: Signal::Kill };
    assert_eq!(story.tell(Command::PassDeadlines).1, std::slice::from_ref(&kill));
    assert_eq!(story.state.next_deadline_ms(), None);
    assert_eq!(resume(&story.state), [kill]);
}

#[test]
fn a_launch_that_never_was_is_made_in_another_container() {
    let mut story = Story::new();
    let container = story.launch("t");
    let (_, effects) = story.tell(Command::ReportRevocation { container_id: container.clone() });
    let [_, Effect::Launch { container_id }] = &effects[..] else { panic!("{effects:?}") };
    assert_ne!(*container_id, container);
    story.start(container_id);
    story.exit(container_id, None);
    let last = story.told().pop().unwrap();
    assert_eq!((last.state(), last.reason()), (TaskState::TaskFailed, task_status::Reason::ExecutorTerminated));
}

#[test]
fn an_agent_answers_to_one_name_and_may_begin_anew() {
    let mut story = Story::new();
    let container = story.launch("t");
    story.start(&container);
    let other = Refusal::OtherIdentity { found: "S1".into(), expected: "S0".into() };
    assert_eq!(story.try_tell(welcome("S1")).map(drop), Err(other));
    let (_, effects) = story.tell(Command::Forget);
    assert_eq!(effects, [Effect::Stop { container_id: container.clone(), signal: Signal::Kill }]);
    assert_eq!((story.state.orders_up_to, story.told().len()), (0, 0));
    story.tell(welcome("S1"));
    story.exit(&container, Some(9));
    assert!(story.state.remnants.is_empty() && story.told().is_empty());
}

/// The masters count an executor with its resources from its first task on: they hear of its end also if it never ran.
#[test]
fn an_executor_that_never_ran_is_said_to_have_ended() {
    let exits = |story: &Story| {
        let exited = |message: &internal::FromAgent| {
            matches!(message.message, Some(internal::from_agent::Message::ExecutorExited(_)))
        };
        story.state.messages_after(0).filter(exited).count()
    };
    let launch = |value: &str, container: Option<Box<v1::ContainerInfo>>| {
        let executor = v1::ExecutorInfo {
            executor_id: v1::ExecutorId { value: "e".into() },
            command: Some(v1::CommandInfo { value: Some(value.into()), ..Default::default() }),
            container,
            ..Default::default()
        };
        let task_id = v1::TaskId { value: "t".into() };
        let task = v1::TaskInfo { task_id, executor: Some(executor), ..Default::default() };
        order::Order::Launch(internal::Launch { framework_info: framework(), task, providers: Vec::new() })
    };
    let mut story = Story::new();
    let container = v1::ContainerInfo { tty_info: Some(v1::TtyInfo::default()), ..Default::default() };
    story.order(launch("true", Some(Box::new(container))));
    assert_eq!((story.states(), exits(&story)), (vec![TaskState::TaskFailed], 1));
    let mut story = Story::new();
    let (_, effects) = story.order(launch("/nosuch", None));
    let container_id = effects.into_iter().find_map(|effect| match effect {
        Effect::Launch { container_id } => Some(container_id),
        _ => None,
    });
    let message = "cannot execute".to_owned();
    story.tell(Command::ReportLaunchFailure { container_id: container_id.expect("a launch"), message });
    assert_eq!((story.states(), exits(&story)), (vec![TaskState::TaskFailed], 1));
}

#[test]
fn a_task_that_waits_for_its_executor_fails_with_it() {
    let mut story = with_executor(&["t1", "t2"]);
    let container_id = story.state.executor("f", "e").unwrap().container_id.clone();
    story.exit(&container_id, Some(0));
    let told = story.told();
    assert_eq!(told.len(), 2);
    for status in told {
        assert_eq!((status.state(), status.reason()), (TaskState::TaskFailed, task_status::Reason::ExecutorTerminated));
    }
}

/// A custom executor `e` whose container runs, with these tasks in its hands or on their way.
fn with_executor(tasks: &[&str]) -> Story {
    let mut story = Story::new();
    for task_id in tasks {
        story.launch_on_executor(task_id);
    }
    let container_id = story.state.executor("f", "e").unwrap().container_id.clone();
    story.start(&container_id);
    story
}

impl Story {
    fn launch_on_executor(&mut self, task_id: &str) -> (Vec<Event>, Vec<Effect>) {
        let executor = v1::ExecutorInfo {
            executor_id: v1::ExecutorId { value: "e".into() },
            command: Some(v1::CommandInfo { value: Some("true".into()), ..Default::default() }),
            ..Default::default()
        };
        let task_id = v1::TaskId { value: task_id.into() };
        let task = v1::TaskInfo { task_id, executor: Some(executor), ..Default::default() };
        self.order(order::Order::Launch(internal::Launch { framework_info: framework(), task, providers: Vec::new() }))
    }

    fn subscribe(&mut self, stream: u64, has: &[&str]) -> (Vec<Event>, Vec<Effect>) {
        let unacknowledged_tasks = has.iter().map(|id| (*id).to_owned()).collect();
        let (framework_id, executor_id) = ("f".into(), "e".into());
        self.tell(Command::SubscribeExecutor { framework_id, executor_id, stream, unacknowledged_tasks })
    }

    fn try_to_update(&mut self, task_id: &str, state: TaskState) -> Result<(Vec<Event>, Vec<Effect>), Refusal> {
        self.random = self.random.wrapping_add(1);
        let status = TaskStatus {
            task_id: v1::TaskId { value: task_id.into() },
            state: state as i32,
            uuid: Some([vec![self.random; 8], (self.state.messages.up_to).to_le_bytes().to_vec()].concat().into()),
            ..Default::default()
        };
        let (framework_id, executor_id) = ("f".into(), "e".into());
        self.try_tell(Command::UpdateTask { framework_id, executor_id, status: Box::new(status) })
    }

    fn restart(&mut self, at_ms: u64, since_boot_ms: u64) -> Vec<Event> {
        self.at_ms = at_ms;
        self.tell(Command::Restart { boot: ("boot".into(), since_boot_ms) }).0
    }
}

fn launches(effects: &[Effect]) -> Vec<(u64, &str)> {
    effects.iter().filter_map(launch_of).collect()
}

fn launch_of(effect: &Effect) -> Option<(u64, &str)> {
    match effect {
        Effect::Deliver { stream, delivery: Delivery::Launch { task_ids, .. }, .. } => Some((*stream, &task_ids[0])),
        _ => None,
    }
}

/// A task that is launched while its executor is just subscribing is handed over by the subscription, and not lost.
#[test]
fn a_stream_counts_from_its_subscription() {
    let mut story = with_executor(&["t1"]);
    // The executor's call is on its way; the launch is decided first.
    let (_, effects) = story.launch_on_executor("t2");
    assert_eq!(launches(&effects), []);
    let (_, effects) = story.subscribe(1, &[]);
    assert_eq!(launches(&effects), [(1, "t1"), (1, "t2")]);
    assert_eq!(story.states(), [] as [TaskState; 0]);
    let (_, effects) = story.launch_on_executor("t3");
    assert_eq!(launches(&effects), [(1, "t3")]);

    // It subscribes again: what was said on the first stream and did not arrive is lost, what it has goes on.
    let (events, effects) = story.subscribe(2, &["t1", "t3"]);
    assert_eq!(launches(&effects), []);
    let (framework_id, executor_id) = ("f".to_owned(), "e".to_owned());
    assert!(effects.contains(&Effect::HangUp { framework_id, executor_id, stream: 1 }), "{effects:?}");
    assert_eq!(events.iter().filter(|event| event.name() == "StatusWritten").count(), 1);
    assert_eq!(story.told().pop().unwrap().task_id.value, "t2");
    // The first stream's end comes late and changes nothing.
    let lose = |stream| Command::LoseExecutor { framework_id: "f".into(), executor_id: "e".into(), stream };
    assert_eq!(story.tell(lose(1)), (vec![], vec![]));
    assert_eq!(launches(&story.launch_on_executor("t4").1), [(2, "t4")]);
    // Without a stream a task waits for the next one.
    story.tell(lose(2));
    assert_eq!(launches(&story.launch_on_executor("t5").1), []);
    assert_eq!(launches(&story.subscribe(3, &["t1", "t3", "t4"]).1), [(3, "t5")]);
    assert_eq!(story.told().len(), 1);
}

#[test]
fn executors_have_their_time_from_when_they_can_return() {
    let mut story = with_executor(&["t1"]);
    let due = |story: &Story| story.state.executor("f", "e").unwrap().register_by_ms;
    assert_eq!(due(&story), Some(61_000));
    // It could not have come while the agent was away.
    story.restart(100_000, 100_000);
    assert_eq!(due(&story), Some(160_000));
    story.subscribe(1, &[]);
    assert_eq!(due(&story), None);
    story.restart(200_000, 200_000);
    assert_eq!(due(&story), Some(202_000));
    assert_eq!(story.state.executor("f", "e").unwrap().stream, None);
    story.restart(300_000, 300_000);
    assert_eq!(due(&story), Some(302_000), "a time that passed while it looked around is given again");
    story.at_ms = 302_000;
    let (_, effects) = story.tell(Command::PassDeadlines);
    let container_id = story.state.executor("f", "e").unwrap().container_id.clone();
    assert_eq!(effects, [Effect::Stop { container_id, signal: Signal::Kill }], "and is not asked as well");
    assert_eq!(story.state.executor("f", "e").unwrap().stop.unwrap().why, Why::ReregistrationTimeout);
}

/// A clock that is set while the agent is away ends nothing early and nothing late.
#[test]
fn what_is_due_moves_with_the_clock() {
    const HOUR: u64 = 3_600_000;
    for (now_ms, due_ms) in [(12_000 + HOUR, 13_000 + HOUR), (12_000 - 11_000, 2_000), (12_000, 13_000)] {
        let mut story = Story::new();
        story.restart(10_000, 50_000);
        let container = story.launch("t");
        story.start(&container);
        story.kill("t");
        assert_eq!(story.state.next_deadline_ms(), Some(13_000));
        story.restart(now_ms, 52_000);
        assert_eq!(story.state.next_deadline_ms(), Some(due_ms), "the machine has gone on for two seconds");
    }
    // A machine that was started again has a clock of its own.
    let mut story = Story::new();
    story.restart(10_000, 50_000);
    let container = story.launch("t");
    story.start(&container);
    story.kill("t");
    story.restart(HOUR, 1_000);
    assert_eq!(story.state.next_deadline_ms(), Some(13_000));
}

#[test]
fn what_has_ended_is_forgotten_by_bounds() {
    let mut story = with_executor(&["first"]);
    story.subscribe(1, &[]);
    for n in 0..300 {
        let task_id = format!("t{n}");
        story.launch_on_executor(&task_id);
        story.try_to_update(&task_id, TaskState::TaskFinished).unwrap();
        story.tell(Command::CoverMessages { up_to: u64::MAX, tells_of_operations: false });
    }
    let tasks = &story.state.executor("f", "e").unwrap().tasks;
    assert_eq!(tasks.len(), 201, "what lives stays");
    assert!(tasks.contains_key("first") && tasks.contains_key("t100") && !tasks.contains_key("t99"));
    // States come and go; the latest are kept.
    for n in 0..100 {
        let state = if n % 2 == 0 { TaskState::TaskRunning } else { TaskState::TaskStarting };
        story.try_to_update("first", state).unwrap();
    }
    assert_eq!(story.state.executor("f", "e").unwrap().tasks["first"].statuses.len(), 32);

    let mut story = Story::new();
    let mut forgotten = Vec::new();
    for n in 0..5 {
        let container = story.launch(&format!("t{n}"));
        story.start(&container);
        let (_, effects) = story.tell(Command::ReportExit { container_id: container, status: Some(0) });
        forgotten.extend(effects.into_iter().filter_map(|effect| match effect {
            Effect::ForgetFiles { executor: Some((executor_id, _)), .. } => Some(executor_id),
            _ => None,
        }));
    }
    assert_eq!(forgotten, ["t0", "t1"], "their files too");
    assert_eq!(story.state.frameworks["f"].completed.len(), 3);
}

#[test]
fn so_much_waits_for_the_masters_and_then_only_ends() {
    let mut story = with_executor(&["t1"]);
    story.subscribe(1, &[]);
    let message = agent_core::Message::Leaving;
    for _ in 0..api::limits::AGENT_WAITING_MAX {
        story.state.messages.up_to += 1;
        story.state.messages.waiting.insert(story.state.messages.up_to, message.clone());
        story.state.messages.waiting_bytes += message.bytes();
    }
    let refused = story.try_to_update("t1", TaskState::TaskRunning);
    assert!(matches!(refused, Err(Refusal::TooManyWaiting { .. })), "{refused:?}");
    let unknown = story.try_to_update("nobody", TaskState::TaskFinished);
    assert!(matches!(unknown, Err(Refusal::TooManyWaiting { .. })), "{unknown:?}");
    story.try_to_update("t1", TaskState::TaskFinished).unwrap();
    assert_eq!(story.states(), [TaskState::TaskFinished]);
    let up_to = story.state.messages.up_to;
    story.tell(Command::CoverMessages { up_to, tells_of_operations: false });
    assert_eq!(story.state.messages.waiting_bytes, 0);
    story.try_to_update("nobody", TaskState::TaskFinished).unwrap();
}

#[test]
fn an_executor_speaks_of_its_own_tasks_and_of_what_it_may() {
    let mut story = with_executor(&["own"]);
    story.subscribe(1, &[]);
    story.launch("command");
    let refused = story.try_to_update("command", TaskState::TaskFinished).unwrap_err();
    assert_eq!(refused.to_string(), "Task 'command' is not one of executor 'e'");
    story.try_to_update("nobody", TaskState::TaskRunning).unwrap();
    for state in [TaskState::TaskStaging, TaskState::TaskUnreachable, TaskState::TaskUnknown] {
        let refused = story.try_to_update("own", state).unwrap_err();
        assert_eq!(refused, Refusal::NotAnExecutorsState { state: state.as_str_name() });
    }
    let say = |uuid: Option<usize>, timestamp| {
        let status = TaskStatus {
            task_id: v1::TaskId { value: "own".into() },
            state: TaskState::TaskRunning as i32,
            uuid: uuid.map(|bytes| vec![9; bytes].into()),
            timestamp: Some(timestamp),
            ..Default::default()
        };
        Command::UpdateTask { framework_id: "f".into(), executor_id: "e".into(), status: Box::new(status) }
    };
    for uuid in [None, Some(3), Some(17)] {
        let refused = story.try_tell(say(uuid, 1.0)).unwrap_err();
        assert_eq!(refused, Refusal::InvalidUuid { bytes: uuid.unwrap_or(0) });
    }
    assert_eq!(story.state.executor("f", "e").unwrap().tasks["own"].state, TaskState::TaskStaging as i32);
    story.tell(say(Some(16), f64::NAN));
    assert_eq!(story.told().pop().unwrap().timestamp, Some(1.0), "the agent's own time");
}

#[test]
fn who_leaves_again_says_so_once() {
    let mut story = Story::new();
    let container = story.launch("t");
    story.start(&container);
    let (_, effects) = story.tell(Command::Leave);
    assert!(!effects.contains(&Effect::ReportLeft), "something runs");
    story.exit(&container, Some(15));
    let waiting = story.state.messages.waiting.len();
    assert_eq!(story.state.messages.waiting.values().next_back(), Some(&agent_core::Message::Leaving));
    let (_, effects) = story.tell(Command::Leave);
    assert_eq!((effects, story.state.messages.waiting.len()), (vec![Effect::ReportLeft], waiting));
}

#[test]
fn an_order_that_cannot_be_read_is_taken_and_its_tasks_are_in_error() {
    let mut story = Story::new();
    let order = Unreadable {
        seq: 1,
        framework_id: Some("f".into()),
        executor_id: Some("e".into()),
        task_ids: vec!["a".into(), "b".into()],
        operation: None,
        sentence: "It has many bytes".into(),
    };
    let (events, effects) = story.tell(Command::GiveUpOrder(Box::new(order.clone())));
    assert!(effects.contains(&Effect::AcknowledgeOrders));
    assert_eq!(events.last().unwrap().name(), "OrderNotUnderstood");
    assert_eq!(story.states(), [TaskState::TaskError; 2]);
    assert_eq!(story.told()[0].message(), "It has many bytes");
    assert_eq!(story.state.messages.waiting.len(), 3, "and the executor that they would have started is over");
    assert_eq!(story.tell(Command::GiveUpOrder(Box::new(order))), (vec![], vec![]), "once");
    // A kind that a newer master gives is not taken: the masters keep it.
    let refused = story.try_tell(Command::TakeOrder(Box::new(Order { seq: 2, order: None })));
    assert_eq!(refused, Err(Refusal::UnknownOrder { seq: 2 }));
    assert_eq!(story.state.orders_up_to, 1);
}

/// Its container's start may be reported later than it calls: after a recovery, say.
#[test]
fn whoever_has_subscribed_runs() {
    let mut story = Story::new();
    story.launch_on_executor("t1");
    let container_id = story.state.executor("f", "e").unwrap().container_id.clone();
    let within =
        Command::LaunchContainer { container_id: format!("{container_id}.n"), info: Box::default(), session: false };
    assert!(matches!(story.try_tell(within.clone()), Err(Refusal::ParentNotRunning { .. })));
    story.subscribe(1, &[]);
    story.try_tell(within).unwrap();
    assert_eq!(story.state.stage(&container_id), Some(agent_core::Stage::Running));
}

/// It waits for nothing any more, and would do so for ever.
#[test]
fn an_executor_that_lost_all_that_it_was_started_for_ends() {
    let stops = |events: &[Event]| events.iter().filter(|event| event.name() == "StopRequested").count();
    let mut story = with_executor(&["t1", "t2"]);
    story.subscribe(1, &[]);
    assert_eq!(stops(&story.subscribe(2, &["t1"]).0), 0, "t1 has arrived");
    let mut story = with_executor(&["t1"]);
    story.subscribe(1, &[]);
    assert_eq!(stops(&story.subscribe(2, &[]).0), 1);
}

#[test]
fn what_a_launch_asks_for_and_would_not_get_is_refused_by_name() {
    let refused = |task: v1::TaskInfo| {
        let mut story = Story::new();
        let task_id = v1::TaskId { value: "t".into() };
        let task = v1::TaskInfo { task_id, ..task };
        story.order(order::Order::Launch(internal::Launch {
            framework_info: framework(),
            task,
            providers: Vec::new(),
        }));
        let told = story.told();
        assert_eq!((told.len(), told[0].state()), (1, TaskState::TaskFailed));
        told[0].message().strip_prefix("Failed to launch container: ").expect("a refusal").to_owned()
    };
    let command = || v1::CommandInfo { value: Some("true".into()), ..Default::default() };
    let label = v1::Label { key: "meseta.containerizer".into(), value: Some("external".into()) };
    let executor = v1::ExecutorInfo {
        executor_id: v1::ExecutorId { value: "e".into() },
        command: Some(command()),
        ..Default::default()
    };
    let labeled = v1::TaskInfo {
        executor: Some(executor),
        labels: Some(v1::Labels { labels: vec![label] }),
        ..Default::default()
    };
    let terminal = v1::ContainerInfo { tty_info: Some(v1::TtyInfo::default()), ..Default::default() };
    let of_executor = v1::TaskInfo {
        executor: Some(v1::ExecutorInfo {
            container: Some(Box::new(terminal)),
            labels: None,
            ..labeled.executor.clone().unwrap()
        }),
        ..Default::default()
    };
    assert_eq!(refused(of_executor), "terminals of executors are not supported by this agent");
    assert_eq!(
        refused(labeled),
        "a label meseta.containerizer of a task that its executor does not have is not supported by this agent"
    );
}
