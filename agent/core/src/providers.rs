//! Providers of resources: programs that subscribe with the agent and have disks, or whatever they like, to offer. What a provider
//! says that it has is a part of what the agent has, as long as its stream lasts; operations on it are the provider's to make so.
//!
//! ```text
//! SUBSCRIBE ─► ProviderSubscribed ─► UPDATE_STATE ─► ProviderStated ─► the masters
//! ApplyOperation ─► ProviderOperationTaken ─► on its stream ─► UPDATE_OPERATION_STATUS ─► OperationEnded ─► the masters ─► acknowledged
//! ```
//!
//! An operation that the provider cannot have heard of is OPERATION_DROPPED: nobody needs to ask it.

use std::collections::BTreeMap;

use api::internal::apply_operation::OfProvider;
use api::internal::{self, ApplyOperation};
use api::limits::{
    AGENT_PROVIDERS_BYTES_MAX, AGENT_PROVIDERS_MAX, AGENT_WAITING_BYTES_MAX, AGENT_WAITING_MAX,
    STATUS_MESSAGE_BYTES_MAX, cut,
};
use api::v1::offer::Operation as Info;
use api::v1::{self, OperationState, OperationStatus, ResourceProviderInfo};
use event_log::{Bug, planted};
use serde::{Deserialize, Serialize};

use crate::command::{Refusal, Surroundings};
use crate::event::{Blob, Event};
use crate::model::Operation;
use crate::state::{Message, State};
use crate::status::agent_id;

/// A provider that is known: it has an id, and comes back by it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Provider {
    /// `ResourceProviderInfo`, with the id.
    pub info: Blob,
    /// Number of its stream, while it has one: what is said to it is said there.
    pub stream: Option<u64>,
    /// What it said last that it has, until its stream ends.
    pub stated: Option<Stated>,
}

/// What a provider has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stated {
    /// Names it: what is decided on other grounds is dropped.
    pub version: Vec<u8>,
    /// A `Resource` each.
    pub resources: Vec<Blob>,
}

/// Whose an operation is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Provided {
    /// The provider.
    pub provider_id: String,
    /// What the masters had heard of it.
    pub version: Vec<u8>,
    /// It was said on the provider's stream of now, or the provider said that it knows it.
    pub sent: bool,
}

impl Stated {
    fn bytes(&self) -> usize {
        self.resources.iter().map(|resource| resource.0.len()).sum()
    }
}

impl Provider {
    fn bytes(&self) -> usize {
        self.info.0.len() + self.stated.as_ref().map_or(0, Stated::bytes)
    }

    /// What it has, as it said last.
    pub fn resources(&self) -> Vec<v1::Resource> {
        self.stated.iter().flat_map(|stated| &stated.resources).map(Blob::get).collect()
    }
}

/// Those that are known.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Providers {
    /// By id.
    pub known: BTreeMap<String, Provider>,
    /// The masters can write them down, and hear of every change.
    pub told: bool,
}

impl Providers {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Providers::default()
    }

    /// One of them.
    pub fn get(&self, provider_id: &str) -> Option<&Provider> {
        self.known.get(provider_id)
    }

    /// Whether a provider is subscribed and has what the masters knew of.
    pub(crate) fn has(&self, of: &OfProvider) -> bool {
        let provider = self.get(&of.id.value).filter(|provider| provider.stream.is_some());
        let stated = provider.and_then(|provider| provider.stated.as_ref());
        stated.is_some_and(|stated| stated.version[..] == of.resource_version[..])
    }

    /// What they weigh at the masters, without one of them.
    fn bytes_without(&self, provider_id: &str) -> usize {
        self.known.iter().filter(|(id, _)| *id != provider_id).map(|(_, provider)| provider.bytes()).sum()
    }

    /// When the agent registers anew they are known still: they come back by their ids, and say what they have.
    pub(crate) fn forget(self) -> Providers {
        let known = |(id, one): (String, Provider)| (id, Provider { stream: None, stated: None, ..one });
        Providers { known: self.known.into_iter().map(known).collect(), told: false }
    }
}

/// What the masters hear of one provider. Its bytes are part of events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProviderTold {
    /// `ResourceProviderInfo`, with the id.
    pub info: Blob,
    /// It has a stream.
    pub is_subscribed: bool,
    /// What it has, if that is news: nothing, of one that is away.
    pub stated: Option<Stated>,
    /// With that, operations that it was given and that are not over.
    pub operations: Vec<Vec<u8>>,
}

/// The version of a provider that has not said one.
const NO_VERSION: [u8; 16] = [0; 16];

impl ProviderTold {
    pub(crate) fn bytes(&self) -> usize {
        let resources = self.stated.iter().flat_map(|stated| &stated.resources);
        self.info.0.len() + resources.map(|resource| resource.0.len()).sum::<usize>() + 18 * self.operations.len()
    }

    pub(crate) fn to_wire(&self) -> internal::Provider {
        let state = self.stated.as_ref().map(|stated| internal::ProviderState {
            total_resources: stated.resources.iter().map(Blob::get).collect(),
            resource_version: stated.version.clone().into(),
            operations: self.operations.iter().map(|operation| operation.clone().into()).collect(),
        });
        internal::Provider { info: self.info.get(), is_subscribed: self.is_subscribed, state }
    }
}

/// A stream was opened. Without an id in `info` the provider gets one.
pub(crate) fn subscribe(
    state: &State,
    provider_id: String,
    info: ResourceProviderInfo,
    stream: u64,
) -> Result<Vec<Event>, Refusal> {
    if state.leaving {
        return Err(Refusal::AgentLeaving);
    }
    match (&info.id, state.providers.get(&provider_id)) {
        (Some(_), None) => return Err(Refusal::UnknownProvider { provider_id }),
        (Some(_), Some(known)) => {
            let known: ResourceProviderInfo = known.info.get();
            if (&known.r#type, &known.name) != (&info.r#type, &info.name) {
                let (kind, name) = (known.r#type, known.name);
                return Err(Refusal::OtherProvider { provider_id, kind, name });
            }
        }
        (None, _) if state.providers.known.len() >= AGENT_PROVIDERS_MAX => {
            return Err(Refusal::TooManyProviders { known: state.providers.known.len() });
        }
        (None, _) => {}
    }
    let id = v1::ResourceProviderId { value: provider_id.clone() };
    let info = Blob::of(&ResourceProviderInfo { id: Some(id), ..info });
    let stated = state.providers.get(&provider_id).and_then(|provider| provider.stated.clone());
    check_room(state, &provider_id, info.0.len() + stated.map_or(0, |stated| stated.bytes()))?;
    Ok(vec![Event::ProviderSubscribed { provider_id, info, stream }])
}

/// Whether a provider may weigh so much.
fn check_room(state: &State, provider_id: &str, bytes: usize) -> Result<(), Refusal> {
    let bytes = state.providers.bytes_without(provider_id) + bytes;
    if bytes > AGENT_PROVIDERS_BYTES_MAX { Err(Refusal::ProvidersTooLarge { bytes }) } else { Ok(()) }
}

/// A stream ended, or the agent did.
pub(crate) fn lose(state: &State, provider_id: &str, stream: u64) -> Option<Event> {
    let provider = state.providers.get(provider_id).filter(|provider| provider.stream == Some(stream))?;
    provider.stream.map(|stream| Event::ProviderDisconnected { provider_id: provider_id.to_owned(), stream })
}

/// The agent was started: no provider has a stream.
pub(crate) fn lose_all(state: &State) -> impl Iterator<Item = Event> + '_ {
    let all = state.providers.known.iter().filter(|_| !planted(Bug::ProvidersStreamsKept));
    let streams = all.filter_map(|(id, provider)| Some((id, provider.stream?)));
    streams.filter_map(|(id, stream)| lose(state, id, stream))
}

/// The provider of a stream that counts.
fn speaker<'a>(state: &'a State, provider_id: &str, stream: u64) -> Result<&'a Provider, Refusal> {
    let provider = state.providers.get(provider_id).filter(|provider| provider.stream == Some(stream));
    provider.ok_or(Refusal::ProviderNotSubscribed)
}

/// What a provider has now, and which operations it knows.
pub(crate) fn state(
    state: &State,
    provider_id: String,
    stream: u64,
    stated: Stated,
    operations: &[(Vec<u8>, Option<OperationStatus>)],
    around: &mut Surroundings<'_>,
) -> Result<Vec<Event>, Refusal> {
    let provider = speaker(state, &provider_id, stream)?;
    let (messages, bytes) = (state.messages.waiting.len(), state.messages.waiting_bytes);
    if messages >= AGENT_WAITING_MAX || bytes >= AGENT_WAITING_BYTES_MAX {
        return Err(Refusal::TooManyWaiting { messages, bytes });
    }
    check_room(state, &provider_id, provider.info.0.len() + stated.bytes())?;
    let mut events = Vec::new();
    let mut heard = Vec::new();
    let is_changed = provider.stated.as_ref().is_some_and(|before| before.version != stated.version);
    for (one, provided) in open(state, &provider_id) {
        let is_lost = !provided.sent || (is_changed && provided.version != stated.version);
        match operations.iter().find(|(operation, _)| *operation == one.operation) {
            // What became of it is in what is told now: it is not to come as news afterwards.
            Some((_, Some(status))) if is_end(status) => {
                events.push(end(state, one, provided, status.clone(), around));
            }
            Some(_) if !provided.sent => heard.push(one.operation.clone()),
            Some(_) => {}
            // It was said on a stream that ended, or crosses what the provider says now, which will not do what was decided for
            // something else. The masters hear that before: they make nothing of it again.
            None if is_lost && !planted(Bug::UnlistedKept) => {
                events.push(dropped(state, one, provided, "The resource provider does not know this operation"));
            }
            None => {}
        }
    }
    if provider.stated.as_ref() != Some(&stated) || !heard.is_empty() {
        let Stated { version, resources } = stated;
        let stated = Event::ProviderStated { provider_id, version, resources, operations: heard };
        let at = if planted(Bug::EndsBehindStates) { 0 } else { events.len() };
        events.insert(at, stated);
    }
    Ok(events)
}

/// Operations of a provider that are not over.
fn open<'a>(state: &'a State, provider_id: &'a str) -> impl Iterator<Item = (&'a Operation, &'a Provided)> + use<'a> {
    let all = state.model.operations.values().filter(|one| one.status.is_none());
    let with = all.filter_map(|one| Some((one, one.provided.as_ref()?)));
    with.filter(move |(_, provided)| provided.provider_id == provider_id)
}

/// Whether there is nothing more to come.
pub fn is_end(status: &OperationStatus) -> bool {
    use OperationState::{OperationDropped, OperationError, OperationFailed, OperationFinished};
    matches!(status.state(), OperationFinished | OperationFailed | OperationError | OperationDropped)
}

/// The masters decided an operation on what a provider has.
pub(crate) fn take(state: &State, mut order: ApplyOperation) -> Vec<Event> {
    let Some(OfProvider { id, resource_version: version }) = order.provider.take() else { return Vec::new() };
    let provider_id = id.value;
    if state.model.find(&order.operation).is_some() {
        return Vec::new();
    }
    let (operation, version) = (order.operation.to_vec(), version.to_vec());
    let provider = state.providers.get(&provider_id);
    let problem = match provider.map(|provider| (provider.stream, &provider.stated)) {
        None => Some("The resource provider is not known to its agent"),
        Some((None, _)) => Some("The resource provider is not subscribed"),
        Some((Some(_), None)) => Some("The resource provider has not said yet what it has"),
        Some((Some(_), Some(stated))) if stated.version != version => {
            Some("The resource provider's resources are not what they were when this was decided")
        }
        Some(_) => None,
    };
    let info = Blob::of(&order.info);
    let framework_id = order.framework_id.map(|id| id.value);
    let taken = Event::ProviderOperationTaken {
        operation: operation.clone(),
        framework_id,
        info,
        provider_id: provider_id.clone(),
        version,
    };
    let ended = problem.map(|problem| Event::OperationEnded {
        status: Blob::of(&own_status(
            state,
            &operation,
            &order.info,
            &provider_id,
            (OperationState::OperationDropped, problem),
        )),
        operation,
        told: true,
    });
    std::iter::once(taken).chain(ended).collect()
}

/// A provider says what became of an operation. Only an end is news, and once.
pub(crate) fn report(
    state: &State,
    (provider_id, stream): (&str, u64),
    operation: &[u8],
    status: OperationStatus,
    around: &mut Surroundings<'_>,
) -> Result<Vec<Event>, Refusal> {
    speaker(state, provider_id, stream)?;
    let known = open(state, provider_id).find(|(one, _)| one.operation == operation);
    let Some((one, provided)) = known.filter(|_| is_end(&status)) else { return Ok(Vec::new()) };
    // The masters of now know nothing of it: what it made they hear when the provider comes back and says what it has.
    let lost = lose(state, provider_id, stream).filter(|_| one.forgotten);
    Ok(std::iter::once(end(state, one, provided, status, around)).chain(lost).collect())
}

/// An operator says that a provider does not come back.
pub(crate) fn forget(state: &State, provider_id: String) -> Result<Vec<Event>, Refusal> {
    let Some(provider) = state.providers.get(&provider_id) else {
        return Err(Refusal::ProviderNotGone { provider_id, why: "Attempted to remove an unknown resource provider" });
    };
    if provider.stated.as_ref().is_some_and(|stated| !stated.resources.is_empty()) {
        return Err(Refusal::ProviderNotGone { provider_id, why: "Resource provider has resources" });
    }
    let why = "The resource provider was removed before a terminal operation status update was received";
    let gone = (OperationState::OperationGoneByOperator, why);
    let ended = open(state, &provider_id).map(|(one, provided)| ended(state, one, provided, gone));
    let ended: Vec<Event> = ended.collect();
    Ok(ended.into_iter().chain([Event::ProviderGone { provider_id }]).collect())
}

fn dropped(state: &State, one: &Operation, provided: &Provided, why: &str) -> Event {
    ended(state, one, provided, (OperationState::OperationDropped, why))
}

fn ended(state: &State, one: &Operation, provided: &Provided, what: (OperationState, &str)) -> Event {
    let status = own_status(state, &one.operation, &one.info.get(), &provided.provider_id, what);
    Event::OperationEnded { operation: one.operation.clone(), status: Blob::of(&status), told: !one.forgotten }
}

/// What the agent itself says became of an operation: of these the operation's name is the name, too.
fn own_status(
    state: &State,
    operation: &[u8],
    info: &Info,
    provider_id: &str,
    (what, why): (OperationState, &str),
) -> OperationStatus {
    OperationStatus {
        operation_id: info.id.clone(),
        state: what as i32,
        message: Some(why.to_owned()),
        uuid: Some(v1::Uuid { value: operation.to_vec().into() }),
        agent_id: agent_id(state),
        resource_provider_id: Some(v1::ResourceProviderId { value: provider_id.to_owned() }),
        ..OperationStatus::default()
    }
}

/// What a provider says, with what it does not know.
fn end(
    state: &State,
    one: &Operation,
    provided: &Provided,
    status: OperationStatus,
    around: &mut Surroundings<'_>,
) -> Event {
    let uuid = status.uuid.filter(|uuid| uuid.value.len() == 16);
    let mut message = status.message;
    if let Some(message) = &mut message {
        message.truncate(cut(message, STATUS_MESSAGE_BYTES_MAX).len());
    }
    let status = OperationStatus {
        operation_id: one.info.get::<Info>().id,
        uuid: Some(uuid.unwrap_or_else(|| v1::Uuid { value: (around.random)().to_vec().into() })),
        agent_id: agent_id(state),
        resource_provider_id: Some(v1::ResourceProviderId { value: provided.provider_id.clone() }),
        message,
        ..status
    };
    Event::OperationEnded { operation: one.operation.clone(), status: Blob::of(&status), told: !one.forgotten }
}

impl State {
    /// A provider said what it has.
    pub(crate) fn state_provider(&mut self, provider_id: &str, stated: Stated, operations: &[Vec<u8>]) {
        self.model.send_again(provider_id, |one| operations.contains(&one.operation));
        if let Some(provider) = self.providers.known.get_mut(provider_id) {
            provider.stated = Some(stated);
        }
        self.tell_providers(|id| id == provider_id);
    }

    /// What is told of providers, with what those have of whom that is news.
    pub(crate) fn tell_providers(&mut self, is_news: impl Fn(&str) -> bool) {
        if !self.providers.told {
            return;
        }
        let told = |(id, provider): (&String, &Provider)| {
            let nothing = || Stated { version: NO_VERSION.to_vec(), resources: Vec::new() };
            // One that has come back and has not said what it has keeps what it had.
            let stated = match (&provider.stated, provider.stream) {
                (None, None) => Some(nothing()),
                (stated, _) => stated.clone(),
            };
            let stated = stated.filter(|_| is_news(id));
            let operations = open(self, id).filter(|_| stated.is_some()).map(|(one, _)| one.operation.clone());
            let operations = operations.collect();
            ProviderTold { info: provider.info.clone(), is_subscribed: provider.stream.is_some(), stated, operations }
        };
        let providers = self.providers.known.iter().map(told).collect();
        self.number(Message::Providers { providers });
    }

    /// A provider has another stream, or none.
    pub(crate) fn change_stream(&mut self, provider_id: &str, stream: Option<u64>) {
        self.model.unsend(provider_id);
        if let Some(provider) = self.providers.known.get_mut(provider_id) {
            provider.stream = stream;
            let is_kept = stream.is_some() || planted(Bug::AwayStillHas);
            provider.stated = provider.stated.take().filter(|_| is_kept);
        }
        self.tell_providers(|id| id == provider_id && stream.is_none());
    }

    /// The provider's status by which it is told that an operation is over for the masters: whose it is, and both names.
    pub(crate) fn acknowledgement(&self, one: &Operation) -> Option<(String, Vec<u8>, Vec<u8>)> {
        let provided = one.provided.as_ref()?;
        let status: OperationStatus = one.status.as_ref()?.get();
        let uuid = status.uuid?.value.to_vec();
        (uuid != one.operation).then(|| (provided.provider_id.clone(), one.operation.clone(), uuid))
    }
}
