//! Stories of providers of resources: what the masters hear of them, and what becomes of operations on what they have.

mod common;

use agent_core::{Blob, Command, Effect, Event, Refusal, Said, Stated};
use api::internal::{self, from_agent, order};
use api::resources::{Format, Resource, Value};
use api::v1::offer::{Operation, operation};
use api::v1::{self, OperationState, OperationStatus, ResourceProviderInfo};
use common::{Story, framework, welcome};

const P: &str = "p";

fn info(id: Option<&str>) -> ResourceProviderInfo {
    ResourceProviderInfo {
        id: id.map(|id| v1::ResourceProviderId { value: id.into() }),
        r#type: "org.example.disks".into(),
        name: "a".into(),
        ..Default::default()
    }
}

fn disk() -> v1::Resource {
    v1::Resource {
        provider_id: Some(v1::ResourceProviderId { value: P.into() }),
        ..Resource::new("disk", Value::Scalar(64_000)).to_v1(Format::PostRefinement)
    }
}

fn create_disk() -> Operation {
    Operation {
        r#type: Some(operation::Type::CreateDisk as i32),
        id: Some(v1::OperationId { value: "o".into() }),
        create_disk: Some(Box::new(operation::CreateDisk { source: disk(), ..Default::default() })),
        ..Default::default()
    }
}

fn status(state: OperationState, uuid: u8) -> OperationStatus {
    OperationStatus {
        state: state as i32,
        uuid: Some(v1::Uuid { value: vec![uuid; 16].into() }),
        converted_resources: vec![disk()],
        ..Default::default()
    }
}

/// Whether a provider is subscribed, and its disks, version and operations if that is news.
type Heard = (bool, Option<(usize, u8, Vec<u8>)>);

impl Story {
    fn of_takers() -> Story {
        let mut story = Story::new();
        let Command::AcceptWelcome { agent_id, cluster_id, received_up_to, tells_of_operations, .. } = welcome("S0")
        else {
            panic!("a welcome")
        };
        story.tell(Command::AcceptWelcome {
            agent_id,
            cluster_id,
            received_up_to,
            tells_of_operations,
            takes_providers: true,
        });
        story
    }

    fn subscribe(&mut self, id: Option<&str>, stream: u64) -> Result<Vec<Effect>, Refusal> {
        let command = Command::SubscribeProvider { provider_id: P.into(), info: Box::new(info(id)), stream };
        self.try_tell(command).map(|(_, effects)| effects)
    }

    fn says(
        &mut self,
        stream: u64,
        version: u8,
        operations: &[(u8, Option<OperationStatus>)],
    ) -> Result<Vec<Event>, Refusal> {
        let operations = operations.iter().map(|(name, status)| (vec![*name; 16], status.clone())).collect();
        let stated = Stated { version: vec![version; 16], resources: vec![Blob::of(&disk())] };
        let command = Command::StateProvider { provider_id: P.into(), stream, stated, operations };
        self.try_tell(command).map(|(events, _)| events)
    }

    fn apply(&mut self, name: u8, version: u8) -> Vec<Effect> {
        let provider = internal::apply_operation::OfProvider {
            id: v1::ResourceProviderId { value: P.into() },
            resource_version: vec![version; 16].into(),
        };
        let order = internal::ApplyOperation {
            operation: vec![name; 16].into(),
            framework_id: framework().id,
            info: create_disk(),
            checkpointed_resources: Vec::new(),
            provider: Some(provider),
        };
        self.order(order::Order::ApplyOperation(order)).1
    }

    fn reports(&mut self, stream: u64, name: u8, status: OperationStatus) -> usize {
        let command = Command::ReportProviderOperation {
            provider_id: P.into(),
            stream,
            operation: vec![name; 16],
            status: Box::new(status),
        };
        self.tell(command).0.len()
    }

    fn lose(&mut self, stream: u64) {
        self.tell(Command::LoseProvider { provider_id: P.into(), stream });
    }

    /// What the masters heard last of providers.
    fn last(&self) -> Option<Vec<Heard>> {
        let lists = self.state.messages_after(0).filter_map(|message| match message.message {
            Some(from_agent::Message::Providers(list)) => Some(list.providers),
            _ => None,
        });
        let shown = |one: &internal::Provider| {
            let state = one.state.as_ref().map(|state| {
                let names = state.operations.iter().map(|name| name[0]).collect();
                (state.total_resources.len(), state.resource_version[0], names)
            });
            (one.is_subscribed, state)
        };
        lists.last().map(|list| list.iter().map(shown).collect())
    }

    /// What the masters heard became of operations.
    fn ends(&self) -> Vec<(u8, OperationState, String)> {
        let ends = self.state.messages_after(0).filter_map(|message| match message.message {
            Some(from_agent::Message::OperationStatus(said)) => {
                let of = said.status.resource_provider_id.clone().map(|id| id.value);
                assert_eq!(of.as_deref(), Some(P));
                Some((said.operation[0], said.status.state(), said.status.message().to_owned()))
            }
            _ => None,
        });
        ends.collect()
    }
}

fn sent(effects: &[Effect]) -> Vec<(u64, Said)> {
    let said = effects.iter().filter_map(|effect| match effect {
        Effect::Provide { stream, said, .. } => Some((*stream, said.clone())),
        _ => None,
    });
    said.collect()
}

/// A launch of what uses version `version` of the provider, and why there is none.
fn launch(story: &mut Story, id: &str, version: u8) -> Option<String> {
    let provider = internal::apply_operation::OfProvider {
        id: v1::ResourceProviderId { value: P.into() },
        resource_version: vec![version; 16].into(),
    };
    let task = v1::TaskInfo {
        name: id.into(),
        task_id: v1::TaskId { value: id.into() },
        command: Some(v1::CommandInfo { value: Some("true".into()), ..Default::default() }),
        ..Default::default()
    };
    let launch = internal::Launch { framework_info: framework(), task, providers: vec![provider] };
    let (_, effects) = story.order(order::Order::Launch(launch));
    if effects.iter().any(|effect| matches!(effect, Effect::Launch { .. })) {
        return None;
    }
    let messages = story.state.messages_after(0).filter_map(|message| match message.message {
        Some(from_agent::Message::StatusUpdate(update)) if update.status.task_id.value == id => Some(update.status),
        _ => None,
    });
    let status = messages.last().expect("an update");
    assert_eq!((status.state(), status.reason()), (v1::TaskState::TaskLost, v1::task_status::Reason::InvalidOffers));
    Some(status.message().to_owned())
}

fn apply(name: u8) -> Said {
    Said::Apply { operation: vec![name; 16] }
}

#[test]
fn the_masters_hear_what_a_provider_has_as_long_as_its_stream_lasts() {
    let mut story = Story::of_takers();
    story.subscribe(None, 1).unwrap();
    assert_eq!(story.last(), Some(vec![(true, None)]), "it has said nothing yet");
    assert_eq!(story.says(1, 7, &[]).unwrap().len(), 1);
    assert_eq!(story.last(), Some(vec![(true, Some((1, 7, vec![])))]));
    assert_eq!(story.says(1, 7, &[]).unwrap(), [], "that is known");
    story.lose(1);
    assert_eq!(story.last(), Some(vec![(false, Some((0, 0, vec![])))]));
    story.lose(1);
    // It comes back by its id. Another stream ends the one before, and what it had stays until it says more.
    story.subscribe(Some(P), 2).unwrap();
    story.says(2, 8, &[]).unwrap();
    let effects = story.subscribe(Some(P), 3).unwrap();
    assert!(effects.contains(&Effect::LetGo { provider_id: P.into(), below: Some(3) }), "{effects:?}");
    assert_eq!(story.last(), Some(vec![(true, None)]));
    assert_eq!(story.says(2, 9, &[]), Err(Refusal::ProviderNotSubscribed));
    story.lose(2);
    assert_eq!(story.state.providers.known[P].stream, Some(3));
    story.says(3, 9, &[]).unwrap();
    // When the agent is started nobody has a stream.
    story.tell(Command::Restart { boot: ("boot".into(), 1) });
    assert_eq!(story.last(), Some(vec![(false, Some((0, 0, vec![])))]));
}

#[test]
fn masters_that_cannot_write_providers_down_hear_of_them_when_they_can() {
    let mut story = Story::new();
    story.subscribe(None, 1).unwrap();
    story.says(1, 7, &[]).unwrap();
    assert_eq!(story.last(), None);
    let taken = Command::AcceptWelcome {
        agent_id: "S0".into(),
        cluster_id: "C".into(),
        received_up_to: 0,
        tells_of_operations: true,
        takes_providers: true,
    };
    assert_eq!(story.tell(taken.clone()).0, [Event::ProvidersTaken {}]);
    assert_eq!(story.last(), Some(vec![(true, Some((1, 7, vec![])))]));
    assert_eq!(story.tell(taken.clone()).0, [], "once");
    // An agent that registers anew tells them anew; they say themselves what they have.
    let (_, effects) = story.tell(Command::Forget);
    assert!(effects.contains(&Effect::LetGo { provider_id: P.into(), below: None }));
    story.tell(taken);
    assert_eq!(story.last(), Some(vec![(false, Some((0, 0, vec![])))]));
}

#[test]
fn an_id_is_good_for_who_was_given_it() {
    let mut story = Story::of_takers();
    assert!(matches!(story.subscribe(Some(P), 1), Err(Refusal::UnknownProvider { .. })));
    story.subscribe(None, 1).unwrap();
    let other = ResourceProviderInfo { name: "b".into(), ..info(Some(P)) };
    let command = Command::SubscribeProvider { provider_id: P.into(), info: Box::new(other), stream: 2 };
    let refused = story.try_tell(command).unwrap_err();
    assert_eq!(refused.to_string(), "Resource provider 'p' is known as 'org.example.disks.a'");
    for number in 1..api::limits::AGENT_PROVIDERS_MAX {
        let provider_id = format!("p{number}");
        story.tell(Command::SubscribeProvider { provider_id, info: Box::new(info(None)), stream: 2 });
    }
    let command = Command::SubscribeProvider { provider_id: "more".into(), info: Box::new(info(None)), stream: 2 };
    assert!(matches!(story.try_tell(command), Err(Refusal::TooManyProviders { .. })));
    let large = vec![Blob(vec![0; api::limits::AGENT_PROVIDERS_BYTES_MAX])];
    let stated = Stated { version: vec![1; 16], resources: large };
    let command = Command::StateProvider { provider_id: P.into(), stream: 1, stated, operations: Vec::new() };
    assert!(matches!(story.try_tell(command), Err(Refusal::ProvidersTooLarge { .. })));
}

#[test]
fn an_operation_goes_to_its_provider_and_ends_by_it() {
    let mut story = Story::of_takers();
    story.subscribe(None, 1).unwrap();
    assert_eq!(sent(&story.apply(1, 7)), [(1, apply(1))]);
    assert_eq!(story.ends()[0].1, OperationState::OperationDropped, "it has not said what it has");
    story.says(1, 7, &[]).unwrap();
    assert_eq!(sent(&story.apply(2, 7)), [(1, apply(2))]);
    story.apply(3, 6);
    assert_eq!((story.ends().len(), story.ends()[1].0, story.ends()[1].1), (2, 3, OperationState::OperationDropped));
    // Only an end is news, and once.
    assert_eq!(story.reports(1, 2, status(OperationState::OperationPending, 1)), 0);
    assert_eq!(story.reports(1, 9, status(OperationState::OperationFinished, 1)), 0, "of which nobody knows");
    assert_eq!(story.reports(1, 2, status(OperationState::OperationFinished, 12)), 1);
    assert_eq!(story.reports(1, 2, status(OperationState::OperationFinished, 12)), 0);
    assert_eq!(story.ends()[2], (2, OperationState::OperationFinished, String::new()));
    // It is acknowledged when its framework has: until then it is remembered.
    let up_to = story.state.messages.up_to;
    let (_, effects) = story.tell(Command::CoverMessages { up_to, tells_of_operations: true });
    assert_eq!(sent(&effects), []);
    let (_, effects) = story.tell(Command::ForgetOperations { operations: vec![vec![1; 16], vec![2; 16]] });
    assert_eq!(sent(&effects), [(1, Said::Acknowledge { operation: vec![2; 16], status: vec![12; 16] })]);
}

#[test]
fn what_a_provider_that_comes_back_does_not_know_is_dropped() {
    let mut story = Story::of_takers();
    story.subscribe(None, 1).unwrap();
    story.says(1, 7, &[]).unwrap();
    (1..=3).for_each(|name| drop(story.apply(name, 7)));
    assert_eq!(story.says(1, 7, &[]).unwrap(), [], "they are on their way");
    story.lose(1);
    assert_eq!(story.last(), Some(vec![(false, Some((0, 0, vec![1, 2, 3])))]));
    story.subscribe(Some(P), 2).unwrap();
    // One it has, one is done, and of one it never heard. Ends are told before what it has.
    let done = status(OperationState::OperationFinished, 5);
    let events = story.says(2, 8, &[(1, None), (2, Some(done.clone()))]).unwrap();
    assert!(matches!(events.last(), Some(Event::ProviderStated { .. })), "{events:?}");
    let ends = story.ends();
    assert_eq!((ends[0].0, ends[0].1), (2, OperationState::OperationFinished));
    assert_eq!((ends[1].0, ends[1].1), (3, OperationState::OperationDropped));
    assert_eq!(story.last(), Some(vec![(true, Some((1, 8, vec![1])))]));
    assert_eq!(story.reports(2, 2, done), 0, "that was told");
    assert_eq!(story.says(2, 8, &[]).unwrap(), [], "it has heard of it on this stream");
}

#[test]
fn what_crosses_another_version_is_dropped_before_the_masters_hear_of_that() {
    let mut story = Story::of_takers();
    story.subscribe(None, 1).unwrap();
    story.says(1, 7, &[]).unwrap();
    (1..=3).for_each(|name| drop(story.apply(name, 7)));
    // Two it has, one of them since before; what is upon the version of now is on its way.
    story.says(1, 8, &[(1, None), (2, None)]).unwrap();
    let ends: Vec<(u8, OperationState)> = story.ends().into_iter().map(|(name, state, _)| (name, state)).collect();
    assert_eq!(ends, [(3, OperationState::OperationDropped)]);
    assert_eq!(story.last(), Some(vec![(true, Some((1, 8, vec![1, 2])))]));
    story.apply(4, 8);
    assert_eq!(story.says(1, 8, &[(1, None), (2, None)]).unwrap(), []);
    assert_eq!(story.reports(1, 3, status(OperationState::OperationDropped, 3)), 0, "that was told");
    assert_eq!(story.reports(1, 4, status(OperationState::OperationFinished, 4)), 1);
}

#[test]
fn what_masters_of_before_wanted_is_seen_in_what_the_provider_says_anew() {
    let mut story = Story::of_takers();
    story.subscribe(None, 1).unwrap();
    story.says(1, 7, &[]).unwrap();
    story.apply(1, 7);
    story.tell(Command::Forget);
    let Command::AcceptWelcome { agent_id, cluster_id, received_up_to, tells_of_operations, .. } = welcome("S1") else {
        panic!("a welcome")
    };
    story.tell(Command::AcceptWelcome {
        agent_id,
        cluster_id,
        received_up_to,
        tells_of_operations,
        takes_providers: true,
    });
    story.subscribe(Some(P), 2).unwrap();
    story.says(2, 7, &[(1, None)]).unwrap();
    assert_eq!(story.last(), Some(vec![(true, Some((1, 7, vec![1])))]));
    // Nobody hears of its end; so its provider is to say what there is now, under the same version.
    assert_eq!(story.reports(2, 1, status(OperationState::OperationFinished, 5)), 2);
    assert_eq!(story.ends(), []);
    assert_eq!(story.last(), Some(vec![(false, Some((0, 0, vec![])))]));
    story.subscribe(Some(P), 3).unwrap();
    assert_eq!(story.says(3, 7, &[(1, Some(status(OperationState::OperationFinished, 5)))]).unwrap().len(), 1);
    assert_eq!(story.last(), Some(vec![(true, Some((1, 7, vec![])))]));
}

#[test]
fn a_provider_is_gone_when_it_has_nothing_and_its_operations_with_it() {
    let mut story = Story::of_takers();
    story.subscribe(None, 1).unwrap();
    story.says(1, 7, &[]).unwrap();
    let gone = || Command::ForgetProvider { provider_id: P.into() };
    let refused = story.try_tell(gone()).unwrap_err().to_string();
    assert_eq!(refused, "Could not mark resource provider 'p' as gone: Resource provider has resources");
    story.apply(1, 7);
    story.lose(1);
    story.tell(gone());
    assert_eq!(story.ends()[0].1, OperationState::OperationGoneByOperator);
    assert_eq!(story.last(), Some(vec![]));
    assert!(matches!(story.subscribe(Some(P), 2), Err(Refusal::UnknownProvider { .. })));
    assert!(matches!(story.try_tell(gone()), Err(Refusal::ProviderNotGone { .. })));
    story.apply(2, 7);
    assert_eq!(story.ends()[1].1, OperationState::OperationDropped);
}

#[test]
fn what_is_launched_on_what_a_provider_had_is_dropped() {
    let mut story = Story::of_takers();
    let outdated = || Some("Task assumes outdated resource state".to_owned());
    assert_eq!(launch(&mut story, "unknown", 7), outdated());
    story.subscribe(None, 1).unwrap();
    assert_eq!(launch(&mut story, "silent", 7), outdated());
    story.says(1, 7, &[]).unwrap();
    assert_eq!(launch(&mut story, "known", 7), None);
    assert_eq!(launch(&mut story, "other", 6), outdated());
    story.lose(1);
    assert_eq!(launch(&mut story, "away", 7), outdated());
}
