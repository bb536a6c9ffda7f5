//! What operators are told of an announcement: the event, encoded once however many watch.

use super::position::Position;
use crate::http::operator::messages;
use api::budget::Budget;
use api::media::Media;
use api::v1;
use api::v1::master::{Event, event};
use bytes::Bytes;
use master_core::effect::Announcement;
use master_core::state::State;
use master_core::view;
use std::sync::OnceLock;

/// One event as records of both encodings.
#[derive(Debug)]
pub struct Told {
    /// Where it is.
    pub position: Position,
    protobuf: Bytes,
    /// Made when somebody wants it.
    json: OnceLock<Bytes>,
}

impl Told {
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
            Some(Told { position, protobuf: Media::Protobuf.encode_record(&event), json: OnceLock::new() })
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
            let framework = messages::framework_alone(state.frameworks.live.get(framework)?, Some(0));
            event.framework_added = Some(event::FrameworkAdded { framework });
            event::Type::FrameworkAdded
        }
        Announcement::FrameworkUpdated { framework } => {
            let framework = messages::framework_alone(state.frameworks.live.get(framework)?, Some(0));
            event.framework_updated = Some(event::FrameworkUpdated { framework });
            event::Type::FrameworkUpdated
        }
        Announcement::FrameworkRemoved { info } => {
            let framework_info = v1::FrameworkInfo::clone(info);
            event.framework_removed = Some(event::FrameworkRemoved { framework_info });
            event::Type::FrameworkRemoved
        }
        Announcement::AgentAdded { agent } => {
            let agent = messages::agent(state, state.agents.live.get(agent)?);
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
