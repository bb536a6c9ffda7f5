//! An agent on a clock of its own, told from outside.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part of it")]

use agent_core::{
    Command, Effect, Event, Facts, Process, Refusal, Settings, State, Surroundings, decide, fold, part, react,
    restoring, without_useless,
};
use api::internal::{self, Order, order};
use api::v1::{self, TaskState, TaskStatus};

/// An agent on a clock of its own.
pub struct Story {
    pub state: State,
    pub at_ms: u64,
    pub seq: u64,
    pub random: u8,
}

impl Story {
    pub fn new() -> Story {
        let mut story = Story { state: State::default(), at_ms: 1_000, seq: 0, random: 0 };
        story.tell(Command::ChooseToken { token: [7; 16] });
        story.tell(welcome("S0"));
        story
    }

    pub fn try_tell(&mut self, command: Command) -> Result<(Vec<Event>, Vec<Effect>), Refusal> {
        let settings = Settings {
            ip: "10.0.0.1".into(),
            executor_registration_timeout_ms: 60_000,
            executor_reregistration_timeout_ms: 2_000,
            executor_shutdown_grace_ms: 5_000,
            launcher_dir: "/bin".into(),
            completed_executors_max: 3,
            ended_tasks_max: 200,
        };
        let mut count = self.random;
        let mut random = || {
            count = count.wrapping_add(1);
            [count; 16]
        };
        let mut around = Surroundings {
            at_ms: self.at_ms,
            settings: &settings,
            random: &mut random,
            given: &|_| Default::default(),
        };
        let events = decide(&self.state, command, &mut around)?;
        self.random = count;
        let mut effects = Vec::new();
        for event in &events {
            // What is stored is what happened.
            assert_eq!(Event::from_raw(&event.to_raw(0)).as_ref(), Ok(event));
            effects.extend(part(&self.state, event));
            fold(&mut self.state, event);
            effects.extend(react(&self.state, event));
        }
        // A shortened log leads to the same state, whatever was before.
        let mut restored = State { orders_up_to: 99, leaving: true, ..State::default() };
        for event in restoring(&self.state) {
            fold(&mut restored, &Event::from_raw(&event.to_raw(0)).unwrap());
        }
        assert_eq!(restored, self.state);
        Ok((events, without_useless(effects)))
    }

    pub fn tell(&mut self, command: Command) -> (Vec<Event>, Vec<Effect>) {
        self.try_tell(command).unwrap()
    }

    pub fn order(&mut self, order: order::Order) -> (Vec<Event>, Vec<Effect>) {
        self.seq += 1;
        self.tell(Command::TakeOrder(Box::new(Order { seq: self.seq, order: Some(order) })))
    }

    pub fn launch(&mut self, id: &str) -> String {
        let task = v1::TaskInfo {
            name: id.into(),
            task_id: v1::TaskId { value: id.into() },
            command: Some(v1::CommandInfo { value: Some("true".into()), ..Default::default() }),
            ..Default::default()
        };
        let launch = internal::Launch { framework_info: framework(), task, providers: Vec::new() };
        let (_, effects) = self.order(order::Order::Launch(launch));
        let launched = effects.into_iter().find_map(|effect| match effect {
            Effect::Launch { container_id } => Some(container_id),
            _ => None,
        });
        launched.expect("a launch")
    }

    pub fn kill(&mut self, id: &str) -> Vec<Effect> {
        let kill = internal::Kill {
            framework_id: framework().id.unwrap(),
            task_id: v1::TaskId { value: id.into() },
            kill_policy: None,
        };
        self.order(order::Order::Kill(kill)).1
    }

    pub fn start(&mut self, container_id: &str) -> Vec<Effect> {
        let process = Process { supervisor_pid: 41, start_ticks: 5, boot_id: "boot".into(), pid: 42 };
        self.tell(Command::ReportStart { container_id: container_id.into(), process, facts: Facts::default() }).1
    }

    pub fn exit(&mut self, container_id: &str, status: Option<i32>) {
        self.tell(Command::ReportExit { container_id: container_id.into(), status });
    }

    /// What waits to be told, oldest first.
    pub fn told(&self) -> Vec<TaskStatus> {
        let statuses = self.state.messages_after(0).filter_map(|message| match message.message {
            Some(internal::from_agent::Message::StatusUpdate(update)) => Some(update.status),
            _ => None,
        });
        statuses.collect()
    }

    pub fn states(&self) -> Vec<TaskState> {
        self.told().iter().map(TaskStatus::state).collect()
    }
}

pub fn framework() -> v1::FrameworkInfo {
    v1::FrameworkInfo { id: Some(v1::FrameworkId { value: "f".into() }), ..Default::default() }
}

pub fn welcome(agent_id: &str) -> Command {
    Command::AcceptWelcome {
        agent_id: agent_id.into(),
        cluster_id: "C".into(),
        received_up_to: 0,
        tells_of_operations: false,
        takes_providers: false,
    }
}
