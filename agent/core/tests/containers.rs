//! Containers within others, and those that stand alone, told from outside.

mod common;

use agent_core::{Command, Effect, Event, Limitation, Refusal, Signal, Stage, State, Told, resume};
use api::v1::agent::call::LaunchContainer;
use api::v1::task_status::{Reason, Source};
use api::v1::{Resource, TaskState};
use common::Story;

fn launch(story: &mut Story, id: &str) -> Result<Vec<Effect>, Refusal> {
    let info = Box::new(LaunchContainer::default());
    let command = Command::LaunchContainer { container_id: id.into(), info, session: false };
    story.try_tell(command).map(|(_, effects)| effects)
}

fn run(story: &mut Story, id: &str) {
    launch(story, id).unwrap();
    let tell = Effect::Tell { container_id: id.into(), told: Told::Runs };
    assert_eq!(story.start(id), [tell]);
}

fn exit(story: &mut Story, id: &str, status: Option<i32>) -> Vec<Effect> {
    story.tell(Command::ReportExit { container_id: id.into(), status }).1
}

fn kill(id: &str) -> Effect {
    Effect::Stop { container_id: id.into(), signal: Signal::Kill }
}

fn ended(id: &str, status: i32) -> Effect {
    Effect::Tell { container_id: id.into(), told: Told::Ended(Some(status)) }
}

#[test]
fn a_container_within_another_is_launched_waited_for_and_removed() {
    let mut story = Story::new();
    let parent = story.launch("t");
    let child = format!("{parent}.n1");
    assert_eq!(launch(&mut story, &child), Err(Refusal::ParentNotRunning { parent_id: parent.clone() }));
    story.start(&parent);
    run(&mut story, &child);
    assert_eq!(launch(&mut story, &child), Err(Refusal::ContainerExists));
    let remove = Command::RemoveContainer { container_id: child.clone() };
    assert_eq!(story.try_tell(remove.clone()).unwrap_err(), Refusal::ContainerRuns { nested: true });
    assert!(exit(&mut story, &child, Some(1280)).contains(&ended(&child, 1280)));
    assert_eq!(story.state.stage(&child), Some(Stage::Ended(Some(1280))), "kept for who asks");
    let kill = Command::KillContainer { container_id: child.clone() };
    assert!(matches!(story.try_tell(kill), Err(Refusal::UnknownContainer { .. })));
    assert_eq!(story.tell(remove.clone()).1, [Effect::Remove { container_id: child.clone() }]);
    assert_eq!(story.state.stage(&child), None);
    assert_eq!(story.tell(remove).0, [], "again");
    assert!(matches!(launch(&mut story, "nosuch.x"), Err(Refusal::UnknownParent { .. })));
}

#[test]
fn a_task_is_over_when_nothing_within_its_container_runs() {
    let mut story = Story::new();
    let parent = story.launch("t");
    story.start(&parent);
    let (one, two) = (format!("{parent}.a"), format!("{parent}.a.b"));
    run(&mut story, &one);
    run(&mut story, &two);
    assert_eq!(exit(&mut story, &parent, Some(0)), [kill(&one), kill(&two)]);
    assert_eq!(story.states(), [TaskState::TaskStarting, TaskState::TaskRunning]);
    assert_eq!(exit(&mut story, &parent, Some(0)), [], "told again");
    assert_eq!(launch(&mut story, &format!("{parent}.c")), Err(Refusal::ParentEnding { parent_id: parent.clone() }));
    // The inner one last.
    exit(&mut story, &one, Some(9));
    assert_eq!(story.state.stage(&one), Some(Stage::Ending));
    exit(&mut story, &two, Some(9));
    assert_eq!(story.states().last(), Some(&TaskState::TaskFinished));
    assert!(story.state.launched.is_empty());
}

#[test]
fn what_stands_alone_ends_with_the_agent_and_is_forgotten_with_its_end() {
    let mut story = Story::new();
    run(&mut story, "alone");
    run(&mut story, "alone.kid");
    assert!(exit(&mut story, "alone.kid", Some(512)).contains(&ended("alone.kid", 512)));
    assert_eq!(story.state.stage("alone.kid"), Some(Stage::Ended(Some(512))));
    assert!(exit(&mut story, "alone", Some(15)).contains(&ended("alone", 15)));
    assert!(story.state.launched.is_empty(), "both");
    run(&mut story, "again");
    assert!(story.tell(Command::Leave).1.contains(&kill("again")));
    assert!(resume(&story.state).contains(&kill("again")));
    assert!(exit(&mut story, "again", Some(9)).contains(&Effect::ReportLeft));
    assert_eq!(launch(&mut story, "late"), Err(Refusal::AgentLeaving));
}

#[test]
fn what_cannot_be_launched_leaves_nothing_behind() {
    let mut story = Story::new();
    launch(&mut story, "c").unwrap();
    let failed = |message: &str| Command::ReportLaunchFailure { container_id: "c".into(), message: message.into() };
    let told = Effect::Tell { container_id: "c".into(), told: Told::Failed("there is no user 'x'".into()) };
    assert!(story.tell(failed("there is no user 'x'")).1.contains(&told));
    assert_eq!(story.state.stage("c"), None);
    launch(&mut story, "c").unwrap();
    let missing = failed("cannot execute '/nosuch': No such file or directory");
    assert!(story.tell(missing).1.contains(&ended("c", 256_256)), "it ran, and ended");
    // An order to end that comes before the start is carried out with it.
    launch(&mut story, "d").unwrap();
    assert_eq!(story.tell(Command::KillContainer { container_id: "d".into() }).1, [kill("d")]);
    assert!(story.start("d").contains(&kill("d")));
}

/// A launch that is given up while the one around it ends is what that one waits for.
#[test]
fn who_waits_for_one_that_is_never_launched_ends_with_it() {
    for given_up in [
        Command::ReportRevocation { container_id: "a.b".into() },
        Command::ReportLaunchFailure { container_id: "a.b".into(), message: "there is no user 'x'".into() },
    ] {
        let mut story = Story::new();
        run(&mut story, "a");
        launch(&mut story, "a.b").unwrap();
        assert_eq!(exit(&mut story, "a", Some(15)), [kill("a.b")]);
        assert_eq!(story.state.stage("a"), Some(Stage::Ending));
        assert!(story.tell(given_up).1.contains(&ended("a", 15)));
        assert!(story.state.launched.is_empty());
    }
}

#[test]
fn sessions_end_with_the_agent_and_a_past_that_is_forgotten_with_all_that_runs() {
    let mut story = Story::new();
    run(&mut story, "a");
    let info = Box::new(LaunchContainer::default());
    story.tell(Command::LaunchContainer { container_id: "a.s".into(), info, session: true });
    story.start("a.s");
    let restarted = story.tell(Command::Restart { boot: ("boot".into(), 1) });
    assert_eq!(restarted.1, [kill("a.s")]);
    let forgotten = story.tell(Command::Forget);
    assert_eq!(forgotten.1, [kill("a"), kill("a.s")]);
    assert_eq!(story.state.remnants.len(), 2);
    assert_eq!(story.state, State { remnants: story.state.remnants.clone(), ..clean(&story) });
    let ended = story.tell(Command::ReportExit { container_id: "a".into(), status: None });
    assert_eq!(ended.0, [Event::RemnantEnded { container_id: "a".into() }]);
}

fn clean(story: &Story) -> State {
    State { clock: story.state.clock.clone(), ..State::default() }
}

fn exceed(story: &mut Story, id: &str) -> Vec<Effect> {
    let resources = vec![Resource { name: "disk".into(), ..Resource::default() }];
    let limitation = Limitation { reason: Reason::ContainerLimitationDisk, message: "Too much".into(), resources };
    story.tell(Command::ReportLimitation { container_id: id.into(), limitation: Box::new(limitation) }).1
}

#[test]
fn a_task_whose_container_exceeds_what_it_may_use_fails_with_what_that_was() {
    let mut story = Story::new();
    let id = story.launch("t");
    story.start(&id);
    let effects = exceed(&mut story, &id);
    assert!(matches!(&effects[0], Effect::Tell { told: Told::Limited(limited), .. } if limited.message == "Too much"));
    assert!(effects.contains(&kill(&id)), "{effects:?}");
    assert_eq!(exceed(&mut story, &id), [], "once");
    // An agent that is started meanwhile knows it.
    assert!(resume(&story.state).contains(&kill(&id)));
    exit(&mut story, &id, Some(9));
    let status = story.told().pop().unwrap();
    assert_eq!((status.state(), status.source()), (TaskState::TaskFailed, Source::Agent));
    assert_eq!((status.reason(), status.message()), (Reason::ContainerLimitationDisk, "Too much"));
    assert_eq!(status.limitation.unwrap().resources[0].name, "disk");
    assert!(story.state.launched.is_empty(), "and nothing is kept of it");
    assert_eq!(exceed(&mut story, &id), []);
}

#[test]
fn what_a_container_within_another_exceeded_is_kept_with_its_end() {
    let mut story = Story::new();
    let parent = story.launch("t");
    story.start(&parent);
    let child = format!("{parent}.n1");
    run(&mut story, &child);
    assert_eq!(exceed(&mut story, &child)[1..], [kill(&child)]);
    exit(&mut story, &child, Some(9));
    assert_eq!(story.state.launched.limited[&child].reason, Reason::ContainerLimitationDisk as i32);
    assert_eq!(story.states().last(), Some(&TaskState::TaskRunning), "its task runs on");
    story.tell(Command::RemoveContainer { container_id: child.clone() });
    assert!(story.state.launched.is_empty());
    // What is being ended for another reason is.
    run(&mut story, &child);
    story.tell(Command::KillContainer { container_id: child.clone() });
    assert_eq!(exceed(&mut story, &child), []);
}
