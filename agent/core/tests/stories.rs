//! What happens on an agent, told from outside: commands in, events and effects out.

use std::collections::BTreeSet;

use agent_core::{
    Command, Effect, Event, Process, Refusal, Settings, Signal, State, Surroundings, decide, fold, react, resume,
};
use api::internal::{self, Order, order};
use api::v1::{self, TaskState, TaskStatus, task_status};
use event_log::{decode_payload, encode_payload};

/// An agent on a clock of its own.
struct Story {
    state: State,
    at_ms: u64,
    seq: u64,
    random: u8,
    connected: BTreeSet<(String, String)>,
}

impl Story {
    fn new() -> Story {
        let mut story = Story { state: State::default(), at_ms: 1_000, seq: 0, random: 0, connected: BTreeSet::new() };
        story.tell(Command::ChooseToken { token: [7; 16] });
        story.tell(welcome("S0"));
        story
    }

    fn try_tell(&mut self, command: Command) -> Result<(Vec<Event>, Vec<Effect>), Refusal> {
        let settings = Settings {
            ip: "10.0.0.1".into(),
            executor_registration_timeout_ms: 60_000,
            executor_reregistration_timeout_ms: 2_000,
            executor_shutdown_grace_ms: 5_000,
            launcher_dir: "/bin".into(),
        };
        let mut count = self.random;
        let mut random = || {
            count += 1;
            [count; 16]
        };
        let mut around =
            Surroundings { at_ms: self.at_ms, settings: &settings, connected: &self.connected, random: &mut random };
        let events = decide(&self.state, command, &mut around)?;
        self.random = count;
        let mut effects = Vec::new();
        for event in &events {
            // What is stored is what happened.
            assert_eq!(Event::from_raw(&event.to_raw(0)).as_ref(), Ok(event));
            fold(&mut self.state, event);
            effects.extend(react(&self.state, event));
        }
        // The state itself can be stored too.
        let stored: State = decode_payload(&encode_payload(&self.state)).unwrap();
        assert_eq!(stored, self.state);
        Ok((events, effects))
    }

    fn tell(&mut self, command: Command) -> (Vec<Event>, Vec<Effect>) {
        self.try_tell(command).unwrap()
    }

    fn order(&mut self, order: order::Order) -> (Vec<Event>, Vec<Effect>) {
        self.seq += 1;
        self.tell(Command::TakeOrder(Box::new(Order { seq: self.seq, order: Some(order) })))
    }

    fn launch(&mut self, id: &str) -> String {
        let task = v1::TaskInfo {
            name: id.into(),
            task_id: v1::TaskId { value: id.into() },
            command: Some(v1::CommandInfo { value: Some("true".into()), ..Default::default() }),
            ..Default::default()
        };
        let launch = internal::Launch { framework_info: framework(), task };
        let (_, effects) = self.order(order::Order::Launch(launch));
        let launched = effects.into_iter().find_map(|effect| match effect {
            Effect::Launch { container_id } => Some(container_id),
            _ => None,
        });
        launched.expect("a launch")
    }

    fn kill(&mut self, id: &str) -> Vec<Effect> {
        let kill = internal::Kill {
            framework_id: framework().id.unwrap(),
            task_id: v1::TaskId { value: id.into() },
            kill_policy: None,
        };
        self.order(order::Order::Kill(kill)).1
    }

    fn start(&mut self, container_id: &str) -> Vec<Effect> {
        let process = Process { supervisor_pid: 41, start_ticks: 5, boot_id: "boot".into(), pid: 42 };
        self.tell(Command::ReportStart { container_id: container_id.into(), process }).1
    }

    fn exit(&mut self, container_id: &str, status: Option<i32>) {
        self.tell(Command::ReportExit { container_id: container_id.into(), status });
    }

    /// What waits to be told, oldest first.
    fn told(&self) -> Vec<TaskStatus> {
        let statuses = self.state.messages_after(0).filter_map(|message| match message.message {
            Some(internal::from_agent::Message::StatusUpdate(update)) => Some(update.status),
            _ => None,
        });
        statuses.collect()
    }

    fn states(&self) -> Vec<TaskState> {
        self.told().iter().map(TaskStatus::state).collect()
    }
}

fn framework() -> v1::FrameworkInfo {
    v1::FrameworkInfo { id: Some(v1::FrameworkId { value: "f".into() }), ..Default::default() }
}

fn welcome(agent_id: &str) -> Command {
    Command::AcceptWelcome { agent_id: agent_id.into(), cluster_id: "C".into(), received_up_to: 0 }
}

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
    story.tell(Command::CoverMessages { up_to: 2 });
    assert_eq!(story.states(), [TaskState::TaskFinished]);
    story.tell(Command::CoverMessages { up_to: 99 });
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
    let mut faster = Story { state: story.state.clone(), connected: BTreeSet::new(), ..story };
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
    let launch = |value: &str, uris: Vec<v1::command_info::Uri>| {
        let executor = v1::ExecutorInfo {
            executor_id: v1::ExecutorId { value: "e".into() },
            command: Some(v1::CommandInfo { value: Some(value.into()), uris, ..Default::default() }),
            ..Default::default()
        };
        let task_id = v1::TaskId { value: "t".into() };
        let task = v1::TaskInfo { task_id, executor: Some(executor), ..Default::default() };
        order::Order::Launch(internal::Launch { framework_info: framework(), task })
    };
    let mut story = Story::new();
    story.order(launch("true", vec![v1::command_info::Uri { value: "http://h/x".into(), ..Default::default() }]));
    assert_eq!((story.states(), exits(&story)), (vec![TaskState::TaskFailed], 1));
    let mut story = Story::new();
    let (_, effects) = story.order(launch("/nosuch", vec![]));
    let container_id = effects.into_iter().find_map(|effect| match effect {
        Effect::Launch { container_id } => Some(container_id),
        _ => None,
    });
    let message = "cannot execute".to_owned();
    story.tell(Command::ReportLaunchFailure { container_id: container_id.expect("a launch"), message });
    assert_eq!((story.states(), exits(&story)), (vec![TaskState::TaskFailed], 1));
}
