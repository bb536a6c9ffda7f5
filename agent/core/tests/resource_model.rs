//! Operations, volumes, drains and what an agent can spare, told from outside.

mod common;

use agent_core::{Command, Effect, Event, Policy, Unreadable, resume, total};
use api::internal::{self, order};
use api::v1::offer::{Operation, operation};
use api::v1::{self, OperationState, TaskState, task_status::Reason};
use common::{Story, framework, welcome};

fn resource(text: &str) -> v1::Resource {
    let parsed = api::resources::parse(text, "*").unwrap();
    parsed.resources.to_v1(api::resources::Format::PostRefinement).remove(0)
}

fn reserved(text: &str, role: &str) -> v1::Resource {
    let mut made = resource(text);
    made.reservations.push(v1::resource::ReservationInfo {
        r#type: Some(v1::resource::reservation_info::Type::Dynamic as i32),
        role: Some(role.into()),
        ..Default::default()
    });
    made
}

fn volume(id: &str, path: &str) -> v1::Resource {
    let persistence = v1::resource::disk_info::Persistence { id: id.into(), principal: None };
    let found = v1::Volume { mode: v1::volume::Mode::Rw as i32, container_path: path.into(), ..Default::default() };
    let disk = v1::resource::DiskInfo { persistence: Some(persistence), volume: Some(found), source: None };
    v1::Resource { disk: Some(disk.into()), ..reserved("disk:64", "eng") }
}

fn operation(kind: operation::Type, volumes: Vec<v1::Resource>) -> Operation {
    let mut info =
        Operation { r#type: Some(kind as i32), id: Some(v1::OperationId { value: "o".into() }), ..Default::default() };
    match kind {
        operation::Type::Create => info.create = Some(operation::Create { volumes }),
        operation::Type::Destroy => info.destroy = Some(operation::Destroy { volumes }),
        _ => info.reserve = Some(operation::Reserve { resources: volumes, ..Default::default() }),
    }
    info
}

impl Story {
    fn apply(&mut self, name: u8, info: Operation, checkpointed: Vec<v1::Resource>) -> Vec<Effect> {
        let order = internal::ApplyOperation {
            operation: vec![name; 16].into(),
            framework_id: framework().id,
            info,
            checkpointed_resources: checkpointed,
            provider: None,
        };
        self.order(order::Order::ApplyOperation(order)).1
    }

    fn operations(&self) -> Vec<v1::OperationStatus> {
        let statuses = self.state.messages_after(0).filter_map(|message| match message.message {
            Some(internal::from_agent::Message::OperationStatus(update)) => Some(update.status),
            _ => None,
        });
        statuses.collect()
    }

    fn drain(&mut self, seconds: Option<i64>, mark_gone: bool) -> Vec<Effect> {
        let grace = seconds.map(|seconds| v1::DurationInfo { nanoseconds: seconds * 1_000_000_000 });
        let config = v1::DrainConfig { max_grace_period: grace, mark_gone: Some(mark_gone) };
        self.order(order::Order::Drain(internal::Drain { config })).1
    }

    fn launch_of(&mut self, capable: &[v1::framework_info::capability::Type], task: v1::TaskInfo) -> Option<String> {
        let capability =
            |kind: &v1::framework_info::capability::Type| v1::framework_info::Capability { r#type: Some(*kind as i32) };
        let framework_info =
            v1::FrameworkInfo { capabilities: capable.iter().map(capability).collect(), ..framework() };
        let (_, effects) =
            self.order(order::Order::Launch(internal::Launch { framework_info, task, providers: Vec::new() }));
        effects.into_iter().find_map(|effect| match effect {
            Effect::Launch { container_id } => Some(container_id),
            _ => None,
        })
    }
}

fn task(id: &str) -> v1::TaskInfo {
    v1::TaskInfo {
        name: id.into(),
        task_id: v1::TaskId { value: id.into() },
        command: Some(v1::CommandInfo { value: Some("true".into()), ..Default::default() }),
        ..Default::default()
    }
}

const AWARE: [v1::framework_info::capability::Type; 2] =
    [v1::framework_info::capability::Type::PartitionAware, v1::framework_info::capability::Type::TaskKillingState];

#[test]
fn a_reservation_is_remembered_and_over_at_once() {
    let mut story = Story::new();
    let made = reserved("cpus:1", "eng");
    let effects = story.apply(1, operation(operation::Type::Reserve, vec![made.clone()]), vec![made.clone()]);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Apply { .. })));
    assert_eq!(story.state.model.checkpointed(), std::slice::from_ref(&made));
    let told = story.operations();
    assert_eq!((told.len(), told[0].state()), (1, OperationState::OperationFinished));
    assert_eq!(told[0].operation_id.as_ref().unwrap().value, "o");
    assert_eq!(told[0].uuid.as_ref().unwrap().value.len(), 16);
    // Given again under another number, as after a restoration of the masters: once.
    let effects = story.apply(1, operation(operation::Type::Reserve, vec![made]), vec![]);
    assert_eq!((effects, story.operations().len()), (vec![Effect::AcknowledgeOrders], 1));
    assert_eq!(story.state.model.checkpointed().len(), 1);
    story.tell(Command::CoverMessages { up_to: 1, tells_of_operations: false });
    assert!(story.state.model.operations.is_empty(), "the masters know");
}

#[test]
fn an_operation_of_a_framework_is_remembered_until_the_masters_say_that_it_is_over() {
    let mut story = Story::new();
    let made = reserved("cpus:1", "eng");
    let wanted = || operation(operation::Type::Reserve, vec![made.clone()]);
    for name in 1..=3 {
        story.apply(name, wanted(), vec![made.clone()]);
    }
    story.apply(4, Operation { id: None, ..wanted() }, vec![made.clone()]);
    let names = |story: &Story| story.state.model.operations.values().map(|one| one.operation[0]).collect::<Vec<_>>();
    let covered = |up_to, tells_of_operations| Command::CoverMessages { up_to, tells_of_operations };
    story.tell(Command::ForgetOperations { operations: vec![vec![1; 16]] });
    assert_eq!(names(&story), [1, 2, 3, 4], "the masters have not heard its end");
    story.tell(covered(4, true));
    assert_eq!(names(&story), [1, 2, 3], "nobody acknowledges what has no id");
    let over =
        |names: &[u8]| Command::ForgetOperations { operations: names.iter().map(|name| vec![*name; 16]).collect() };
    story.tell(over(&[1, 9]));
    assert_eq!(names(&story), [2, 3]);
    let events: Vec<Event> = agent_core::restoring(&story.state).collect();
    let mut again = agent_core::State::default();
    events.iter().for_each(|event| agent_core::fold(&mut again, event));
    assert_eq!(again, story.state, "a shortened log knows them");
    story.tell(covered(4, false));
    assert_eq!(names(&story), [0; 0], "masters that do not tell are not waited for");
}

#[test]
fn a_volume_is_made_on_the_disk_and_a_crash_in_between_is_made_good() {
    let mut story = Story::new();
    let made = volume("v", "data");
    let applied = vec![Effect::Apply { operation: vec![1; 16] }];
    let effects = story.apply(1, operation(operation::Type::Create, vec![made.clone()]), vec![made.clone()]);
    assert_eq!(effects[1..], applied);
    assert_eq!(story.operations(), []);
    assert_eq!(resume(&story.state), applied);
    let (_, effects) = story.tell(Command::ReportOperation { operation: vec![1; 16], failure: None });
    assert_eq!(effects[0], Effect::Settle { operation: vec![1; 16] });
    assert_eq!(story.operations()[0].state(), OperationState::OperationFinished);
    assert_eq!(resume(&story.state), []);
    assert_eq!(story.tell(Command::ReportOperation { operation: vec![1; 16], failure: None }), (vec![], vec![]));
    // Where the disk refuses, the masters hear why.
    story.apply(2, operation(operation::Type::Destroy, vec![made]), vec![]);
    story.tell(Command::ReportOperation { operation: vec![2; 16], failure: Some("It is stuck".into()) });
    let last = story.operations().pop().unwrap();
    assert_eq!((last.state(), last.message()), (OperationState::OperationFailed, "It is stuck"));
}

#[test]
fn what_would_lead_elsewhere_on_the_disk_is_never_tried() {
    for (id, path) in [("..", "data"), ("a/b", "data"), ("", "data")] {
        let mut story = Story::new();
        let effects = story.apply(1, operation(operation::Type::Create, vec![volume(id, path)]), vec![]);
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Apply { .. })), "{id}");
        assert_eq!(story.operations()[0].state(), OperationState::OperationFailed);
    }
    for path in ["/data", "../data", "a/../../b", "", ".", "stdout"] {
        let mut story = Story::new();
        let launched = story.launch_of(&AWARE, v1::TaskInfo { resources: vec![volume("v", path)], ..task("t") });
        assert_eq!(launched, None, "{path}");
        assert_eq!(story.states(), [TaskState::TaskFailed]);
        assert!(story.told()[0].message().contains("container_path"), "{}", story.told()[0].message());
    }
    let mut story = Story::new();
    let resources = vec![volume("v", "data"), volume("w", "data/deeper")];
    assert_eq!(story.launch_of(&AWARE, v1::TaskInfo { resources, ..task("t") }), None);
    let resources = vec![volume("v", "data"), volume("w", "./data/")];
    assert_eq!(story.launch_of(&AWARE, v1::TaskInfo { resources, ..task("s") }), None, "two in one place");
    let resources = vec![volume("v", "data"), volume("v", "data")];
    assert!(story.launch_of(&AWARE, v1::TaskInfo { resources, ..task("same") }).is_some(), "one, twice");
    let resources = vec![volume("v", "data"), volume("w", "database/")];
    let container = story.launch_of(&AWARE, v1::TaskInfo { resources, ..task("u") }).unwrap();
    let uses = story.state.executor_of(&container).unwrap().1.volumes().unwrap();
    assert_eq!(uses.iter().map(|one| one.path.as_str()).collect::<Vec<_>>(), ["data", "database"]);
    assert_eq!((uses[0].volume.role.as_str(), uses[0].volume.id.as_str()), ("eng", "v"));
}

#[test]
fn tasks_of_one_executor_do_not_hide_each_others_volumes() {
    let mut story = Story::new();
    let executor = v1::ExecutorInfo { executor_id: v1::ExecutorId { value: "e".into() }, ..Default::default() };
    let on = |id: &str, volume: v1::Resource| v1::TaskInfo {
        command: None,
        executor: Some(executor.clone()),
        resources: vec![volume],
        ..task(id)
    };
    assert!(story.launch_of(&AWARE, on("a", volume("v", "data"))).is_some());
    story.launch_of(&AWARE, on("b", volume("w", "data")));
    assert_eq!(story.states(), [TaskState::TaskFailed]);
    assert!(
        story.told()[0].message().contains("'v' and 'w' have the same container_path"),
        "{}",
        story.told()[0].message()
    );
    story.launch_of(&AWARE, on("c", volume("w", "other")));
    assert_eq!(story.state.executor("f", "e").unwrap().volumes().unwrap().len(), 2);
}

#[test]
fn volumes_stay_when_the_agent_begins_anew_and_nobody_hears_of_what_was_under_way() {
    let mut story = Story::new();
    let made = volume("v", "data");
    story.apply(1, operation(operation::Type::Create, vec![made.clone()]), vec![made]);
    story.apply(2, operation(operation::Type::Reserve, vec![]), vec![volume("v", "data")]);
    story.drain(None, false);
    story.tell(Command::Forget);
    assert_eq!(story.state.model.checkpointed().len(), 1);
    assert_eq!(story.state.model.drain, None);
    assert_eq!(resume(&story.state), [Effect::Apply { operation: vec![1; 16] }]);
    story.tell(Command::ReportOperation { operation: vec![1; 16], failure: None });
    assert!(story.operations().is_empty() && story.state.model.operations.is_empty());
    story.tell(welcome("S1"));
}

#[test]
fn an_operation_that_cannot_be_read_fails() {
    let mut story = Story::new();
    let order = Unreadable {
        seq: 1,
        operation: Some((vec![1; 16], Some("o".into()))),
        sentence: "It has many bytes".into(),
        ..Unreadable::default()
    };
    let (events, _) = story.tell(Command::GiveUpOrder(Box::new(order)));
    assert_eq!(events.last().unwrap().name(), "OrderNotUnderstood");
    let told = story.operations();
    assert_eq!((told[0].state(), told[0].message()), (OperationState::OperationFailed, "It has many bytes"));
    assert_eq!(told[0].operation_id.as_ref().unwrap().value, "o");
}

#[test]
fn a_drain_kills_every_task_and_lets_none_in_until_it_is_ended() {
    let mut story = Story::new();
    let grace =
        |seconds: i64| v1::KillPolicy { grace_period: Some(v1::DurationInfo { nanoseconds: seconds * 1_000_000_000 }) };
    let policies = [("long", Some(grace(60))), ("short", Some(grace(1))), ("plain", None)];
    let mut containers = Vec::new();
    for (id, kill_policy) in policies {
        containers.push(story.launch_of(&AWARE, v1::TaskInfo { kill_policy, ..task(id) }).unwrap());
        story.start(&containers[containers.len() - 1]);
    }
    story.tell(Command::CoverMessages { up_to: 6, tells_of_operations: false });
    story.drain(Some(4), false);
    let kill_at = |story: &Story, id: &str| story.state.executor("f", id).unwrap().stop.unwrap().kill_at_ms;
    assert_eq!(["long", "short", "plain"].map(|id| kill_at(&story, id)), [5_000, 2_000, 5_000]);
    assert_eq!(story.states(), [TaskState::TaskKilling; 3]);
    assert!(story.told().iter().all(|status| status.reason() == Reason::AgentDraining));
    assert!(story.state.draining().is_some());
    // Asked again with less patience.
    story.drain(Some(2), false);
    assert_eq!(["long", "short", "plain"].map(|id| kill_at(&story, id)), [3_000, 2_000, 3_000]);
    assert_eq!(story.states().len(), 3);
    for container in &containers {
        story.exit(container, Some(15));
    }
    let last = story.told().pop().unwrap();
    assert_eq!((last.state(), last.reason()), (TaskState::TaskKilled, Reason::AgentDraining));
    assert_eq!(last.message(), "Command terminated with signal Terminated");
    assert!(story.state.draining().is_none() && story.state.model.drain.is_some());
    // What crossed it on the wire.
    assert_eq!(story.launch_of(&AWARE, task("late")), None);
    assert_eq!(story.launch_of(&[], task("later")), None);
    let states = story.states();
    assert_eq!(states[states.len() - 2..], [TaskState::TaskDropped, TaskState::TaskLost]);
    let last = story.told().pop().unwrap();
    assert_eq!(last.reason(), Reason::AgentDraining);
    assert_eq!(last.message(), "Task was received while agent was already draining");
    story.order(order::Order::EndDrain(internal::EndDrain {}));
    assert!(story.launch_of(&AWARE, task("again")).is_some());
}

#[test]
fn who_is_drained_to_be_gone_says_so_of_tasks_that_ended() {
    let mut story = Story::new();
    let (aware, plain) = (story.launch_of(&AWARE, task("a")).unwrap(), story.start(""));
    assert_eq!(plain, []);
    story.start(&aware);
    story.drain(None, true);
    assert_eq!(story.state.executor("f", "a").unwrap().stop.unwrap().kill_at_ms, 4_000, "its own patience");
    story.exit(&aware, Some(9));
    assert_eq!(story.states()[2..], [TaskState::TaskKilling, TaskState::TaskGoneByOperator]);
    assert!(story.state.containers.is_empty());
}

#[test]
fn tasks_that_wait_for_their_executor_are_killed_where_they_wait() {
    let mut story = Story::new();
    let executor = v1::ExecutorInfo { executor_id: v1::ExecutorId { value: "e".into() }, ..Default::default() };
    for id in ["a", "b"] {
        let task = v1::TaskInfo { command: None, executor: Some(executor.clone()), ..task(id) };
        story.launch_of(&AWARE, task);
    }
    story.drain(Some(4), false);
    assert_eq!(story.states(), [TaskState::TaskKilled; 2]);
    assert!(story.told().iter().all(|status| status.reason() == Reason::AgentDraining));
}

#[test]
fn who_runs_on_what_others_need_gives_way_at_once() {
    let mut story = Story::new();
    let containers = [story.launch_of(&AWARE, task("a")).unwrap(), story.launch_of(&[], task("b")).unwrap()];
    story.start(&containers[0]);
    let executors = ["a", "b", "c"].map(|id| ("f".to_owned(), id.to_owned())).to_vec();
    let (_, effects) = story.tell(Command::Preempt { executors: executors.clone() });
    let kill = |id: &String| Effect::Stop { container_id: id.clone(), signal: agent_core::Signal::Kill };
    assert!(containers.iter().all(|id| effects.contains(&kill(id))));
    assert_eq!(story.tell(Command::Preempt { executors }), (vec![], vec![]), "they are ending");
    story.exit(&containers[0], Some(9));
    let last = story.told().pop().unwrap();
    assert_eq!(last.reason(), Reason::ContainerPreempted);
    assert_eq!(last.message(), "Container preempted by QoS correction");
    // The last description of the framework has no capabilities.
    assert_eq!(last.state(), TaskState::TaskLost);
}

#[test]
fn what_can_be_spared_is_told() {
    let mut story = Story::new();
    let spare = |text: &str| v1::Resource { revocable: Some(Default::default()), ..resource(text) };
    assert_eq!(story.tell(Command::Spare { resources: vec![] }), (vec![], vec![]), "nobody ever spoke of any");
    let resources = vec![spare("cpus:2")];
    let (events, _) = story.tell(Command::Spare { resources: resources.clone() });
    assert_eq!(events.len(), 1);
    assert_eq!(story.tell(Command::Spare { resources: resources.clone() }).0.len(), 1, "at every welcome");
    let told = story.state.messages_after(0).last().unwrap().message.unwrap();
    let oversubscribed = internal::Oversubscribed { resources };
    assert_eq!(told, internal::from_agent::Message::Oversubscribed(oversubscribed));
    assert_eq!(story.tell(Command::Spare { resources: vec![] }).0.len(), 1);
    assert_eq!(story.tell(Command::Spare { resources: vec![] }), (vec![], vec![]), "they know");
}

#[test]
fn what_was_converted_must_find_what_it_was_made_of() {
    let configured = api::resources::parse("cpus:4;disk(old):100;disk:100", "*").unwrap().resources;
    let made = [reserved("cpus:1", "eng"), volume("v", "data")];
    let found = total(&configured, &made).unwrap();
    assert_eq!(found.reserved_by("eng").scalar_milli("disk"), 64_000);
    assert_eq!(found.unreserved().scalar_milli("disk"), 36_000);
    assert_eq!(found.scalar_milli("cpus"), 4_000);
    let less = api::resources::parse("cpus:4;disk:32", "*").unwrap().resources;
    let sentence = total(&less, &made).unwrap_err();
    assert!(sentence.contains("[v:data]") && sentence.contains("disk:64"), "{sentence}");
    // One that refines a static reservation.
    let mut refined = reserved("disk:50", "old");
    refined.reservations[0].r#type = Some(v1::resource::reservation_info::Type::Static as i32);
    refined.reservations.push(v1::resource::ReservationInfo {
        r#type: Some(v1::resource::reservation_info::Type::Dynamic as i32),
        role: Some("old/new".into()),
        ..Default::default()
    });
    assert_eq!(total(&configured, &[refined]).unwrap().reserved_by("old").scalar_milli("disk"), 50_000);
}

#[test]
fn a_description_may_change_as_the_policy_says() {
    let info = |resources: &str, attributes: &str| v1::AgentInfo {
        hostname: "h".into(),
        port: Some(5051),
        resources: api::resources::parse(resources, "*")
            .unwrap()
            .resources
            .to_v1(api::resources::Format::PostRefinement),
        attributes: api::attributes::parse(attributes).unwrap(),
        ..Default::default()
    };
    let before = info("cpus:4;ports:[1-10];sets:{a,b}", "rack:r1;cores:[0-3]");
    let domain = |zone: &str| v1::DomainInfo {
        fault_domain: Some(v1::domain_info::FaultDomain {
            region: v1::domain_info::fault_domain::RegionInfo { name: "r".into() },
            zone: v1::domain_info::fault_domain::ZoneInfo { name: zone.into() },
        }),
    };
    // What it is now, and whether that is equal, or more.
    let cases = [
        (info("ports:[1-10];cpus:2;sets:{b,a};cpus:2", "cores:[0-3];rack:r1"), [true, true]),
        (info("cpus:5;ports:[1-12];sets:{a,b,c};gpus:1", "rack:r1;cores:[0-5];zone:z"), [false, true]),
        (info("cpus:3;ports:[1-10];sets:{a,b}", "rack:r1;cores:[0-3]"), [false, false]),
        (info("cpus:4;ports:[2-10];sets:{a,b}", "rack:r1;cores:[0-3]"), [false, false]),
        (info("cpus:4;ports:[1-10];sets:{a}", "rack:r1;cores:[0-3]"), [false, false]),
        (info("cpus:4;ports:[1-10]", "rack:r1;cores:[0-3]"), [false, false]),
        (info("cpus(r):4;ports:[1-10];sets:{a,b}", "rack:r1;cores:[0-3]"), [false, false]),
        (info("cpus:4;ports:[1-10];sets:{a,b}", "rack:r2;cores:[0-3]"), [false, false]),
        (info("cpus:4;ports:[1-10];sets:{a,b}", "rack:r1;cores:[1-3]"), [false, false]),
        (info("cpus:4;ports:[1-10];sets:{a,b}", "rack:r1;cores:4"), [false, false]),
        (info("cpus:4;ports:[1-10];sets:{a,b}", "rack:r1"), [false, false]),
        (v1::AgentInfo { hostname: "g".into(), ..before.clone() }, [false, false]),
        (v1::AgentInfo { port: Some(5052), ..before.clone() }, [false, false]),
        (v1::AgentInfo { port: None, ..before.clone() }, [true, true]),
        (v1::AgentInfo { domain: Some(domain("z")), ..before.clone() }, [false, true]),
    ];
    for (now, expected) in cases {
        let found = [Policy::Equal, Policy::Additive].map(|policy| policy.check(&before, &now).is_ok());
        assert_eq!(found, expected, "{now:?}");
    }
    let placed = v1::AgentInfo { domain: Some(domain("z")), ..before.clone() };
    let moved = v1::AgentInfo { domain: Some(domain("y")), ..before.clone() };
    let sentence = Policy::Additive.check(&placed, &moved).unwrap_err();
    assert_eq!(sentence, "the domain changed from 'r/z' to 'r/y'");
    assert!(Policy::Additive.check(&placed, &before).is_err());
    let mut story = Story::new();
    assert_eq!(story.tell(Command::Describe(Box::new(before.clone()))).0.len(), 1);
    assert_eq!(story.tell(Command::Describe(Box::new(before))).0, Vec::<Event>::new());
}
