//! What operators are told of an announcement: the event, encoded once however many watch.

use super::position::Position;
use crate::http::operator::messages;
use api::budget::Budget;
use api::media::Media;
use api::v1;
use api::v1::master::{Event, event};
use auth::Sight;
use bytes::Bytes;
use master_core::effect::Announcement;
use master_core::ids::FrameworkKey;
use master_core::state::State;
use master_core::{seen, view};
use std::sync::OnceLock;

/// One event as records of both encodings.
#[derive(Debug)]
pub struct Told {
    /// Where it is.
    pub position: Position,
    about: About,
    protobuf: Bytes,
    /// Made when somebody wants it.
    json: OnceLock<Bytes>,
}

/// Whom it is about: who may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum About {
    /// A task of this user, of a framework of that one.
    Task { user: String, framework: String },
    /// A framework of this user.
    Framework { user: String },
    /// An agent with what it has: who may not see all roles sees less of it.
    Agent,
    /// Something that is told to everybody.
    Nobody,
}

impl Told {
    /// The record for whoever sees this much; None: they are not told.
    pub fn record_for(&self, media: Media, sight: Option<&Sight>) -> Option<Bytes> {
        let Some(sight) = sight else { return Some(self.record(media)) };
        match &self.about {
            About::Task { user, framework } => {
                let is_seen = sight.frameworks.passes(Some(framework)) && sight.tasks.passes(Some(user));
                is_seen.then(|| self.record(media))
            }
            About::Framework { user } => sight.frameworks.passes(Some(user)).then(|| self.record(media)),
            About::Agent if !sight.roles.passes_all() => {
                let mut event = self.event();
                if let Some(added) = &mut event.agent_added {
                    messages::hide(&mut added.agent, sight);
                }
                Some(media.encode_record(&event))
            }
            About::Agent | About::Nobody => Some(self.record(media)),
        }
    }

    /// All that the record at `index` led to, after which State was `state`. What is over already has a number, too, but
    /// no event.
    pub fn of<'a>(
        index: u64,
        state: &'a State,
        announcements: impl IntoIterator<Item = &'a Announcement>,
    ) -> impl Iterator<Item = Told> {
        announcements.into_iter().zip(0..).filter_map(move |(announcement, number)| {
            let position = Position::at(index, number);
            let event = Event { log_position: Some(position.to_wire()), ..event_of(state, announcement)? };
            let about = about(state, announcement);
            Some(Told { position, about, protobuf: Media::Protobuf.encode_record(&event), json: OnceLock::new() })
        })
    }

    /// One record, framing included.
    pub fn record(&self, media: Media) -> Bytes {
        match media {
            Media::Protobuf => self.protobuf.clone(),
            Media::Json => self.json.get_or_init(|| media.encode_record(&self.event())).clone(),
        }
    }

    /// What it holds in memory, in bytes, as protobuf; as JSON it may be three times as much.
    pub fn bytes(&self) -> usize {
        self.protobuf.len()
    }

    /// What it says.
    pub fn event(&self) -> Event {
        let payload = self.protobuf.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        // It was encoded above.
        api::decode_protobuf_within(self.protobuf.slice(payload..), &mut Budget::endless()).unwrap_or_default()
    }
}

fn about(state: &State, announcement: &Announcement) -> About {
    let user_of = |key: &FrameworkKey| {
        let live = state.frameworks.live.get(key);
        let completed = state.frameworks.completed.values().rev().map(|completed| &completed.framework);
        let known = live.or_else(|| completed.into_iter().find(|framework| framework.key == *key));
        known.map(|framework| seen::framework_user(framework)).unwrap_or_default()
    };
    match announcement {
        Announcement::TaskAdded { framework, task_id } | Announcement::TaskUpdated { framework, task_id, .. } => {
            let of_framework = user_of(framework);
            let live = state.tasks.live.get(&(*framework, task_id.clone()));
            let ended = || {
                let ended = state.tasks.completed.range((*framework, 0)..=(*framework, u64::MAX)).rev();
                ended.map(|(_, task)| task).find(|task| task.task_id == *task_id)
            };
            let task = live.or_else(ended);
            let user = task.map_or_else(|| of_framework.clone(), |task| seen::task_user(task, &of_framework));
            About::Task { user, framework: of_framework }
        }
        Announcement::FrameworkAdded { framework } | Announcement::FrameworkUpdated { framework } => {
            About::Framework { user: user_of(framework) }
        }
        Announcement::FrameworkRemoved { info } => About::Framework { user: info.user.clone() },
        Announcement::AgentAdded { .. } => About::Agent,
        Announcement::AgentRemoved { .. } | Announcement::OperationEnded { .. } => About::Nobody,
    }
}

/// What is announced as an event; none if it is over already.
fn event_of(state: &State, announcement: &Announcement) -> Option<Event> {
    let mut event = Event::default();
    let kind = match announcement {
        Announcement::TaskAdded { framework, task_id } => {
            let task = state.tasks.live.get(&(*framework, task_id.clone()))?;
            event.task_added = Some(event::TaskAdded { task: view::task(state, task) });
            event::Type::TaskAdded
        }
        Announcement::TaskUpdated { framework, state: task_state, status, .. } => {
            let framework_id = v1::FrameworkId { value: view::framework_id(state, *framework) };
            let status = v1::TaskStatus::clone(status);
            event.task_updated = Some(event::TaskUpdated { framework_id, status, state: *task_state as i32 });
            event::Type::TaskUpdated
        }
        Announcement::FrameworkAdded { framework } => {
            let framework = messages::framework_alone(state, state.frameworks.live.get(framework)?, Some(0));
            event.framework_added = Some(event::FrameworkAdded { framework });
            event::Type::FrameworkAdded
        }
        Announcement::FrameworkUpdated { framework } => {
            let framework = messages::framework_alone(state, state.frameworks.live.get(framework)?, Some(0));
            event.framework_updated = Some(event::FrameworkUpdated { framework });
            event::Type::FrameworkUpdated
        }
        Announcement::FrameworkRemoved { info } => {
            let framework_info = v1::FrameworkInfo::clone(info);
            event.framework_removed = Some(event::FrameworkRemoved { framework_info });
            event::Type::FrameworkRemoved
        }
        Announcement::AgentAdded { agent } => {
            let agent = messages::agent(state, state.agents.live.get(agent)?, None);
            event.agent_added = Some(event::AgentAdded { agent });
            event::Type::AgentAdded
        }
        Announcement::AgentRemoved { agent } => {
            let agent_id = v1::AgentId { value: view::agent_id(state, *agent) };
            event.agent_removed = Some(event::AgentRemoved { agent_id });
            event::Type::AgentRemoved
        }
        // Watchers do not hear of it.
        Announcement::OperationEnded { .. } => return None,
    };
    event.set_type(kind);
    Some(event)
}
