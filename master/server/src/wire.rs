//! Commands and outcomes between masters: what is submitted here is decided on the leader.

use crate::outcome::{Outcome, Refused, kind_of};
use api::{internal, v1};
use bytes::Bytes;
use master_core::command::{Caller, Command, Joining, What};
use master_core::ids::{
    AgentKey, Connection, ConnectionId, FrameworkKey, Incarnation, IncarnationId, NodeId, SecretHash,
};
use master_core::{FeatureLevel, Reply};
use prost::Message;

/// A submission that cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Expecting a submission with {0}")]
pub(crate) struct Malformed(&'static str);

/// The message for `command`, if it is one that a master may submit on behalf of others; the rest is the leader's own.
pub(crate) fn submission(
    cluster_id: &str,
    origin: Incarnation,
    command: &Command,
    caller: &Caller,
    request_id: [u8; 16],
) -> Option<internal::Submission> {
    use internal::submission::Command as Wire;
    let wire = match command {
        Command::Subscribe { connection, subscribe, framework_id } => Wire::FrameworkCall(internal::FrameworkCall {
            call: v1::scheduler::Call {
                framework_id: framework_id.clone().map(|value| v1::FrameworkId { value }),
                r#type: Some(v1::scheduler::call::Type::Subscribe as i32),
                subscribe: Some(subscribe.clone()),
                ..Default::default()
            },
            stream_id: Some(crate::identity::connection_text(connection.id)),
        }),
        Command::FrameworkCall { stream_id, call } => {
            Wire::FrameworkCall(internal::FrameworkCall { call: (**call).clone(), stream_id: stream_id.clone() })
        }
        Command::FrameworkDisconnected { framework_id, connection, by_master } => {
            Wire::FrameworkDisconnected(internal::FrameworkDisconnected {
                framework_id: v1::FrameworkId { value: framework_id.clone() },
                stream_id: crate::identity::connection_text(connection.id),
                by_master: Some(*by_master),
            })
        }
        Command::RegisterAgent { connection, register } => Wire::AgentHello(internal::AgentHello {
            connection: id_bytes(connection.id.0),
            hello: Some(internal::agent_hello::Hello::Register(register.clone())),
        }),
        Command::ResumeAgent { connection, resume } => Wire::AgentHello(internal::AgentHello {
            connection: id_bytes(connection.id.0),
            hello: Some(internal::agent_hello::Hello::Resume(resume.clone())),
        }),
        Command::AgentMessages { agent_id, connection, messages } => Wire::AgentMessages(internal::AgentMessages {
            agent_id: v1::AgentId { value: agent_id.clone() },
            connection: id_bytes(connection.id.0),
            messages: messages.clone(),
        }),
        Command::AgentDisconnected { agent_id, connection } => Wire::AgentDisconnected(internal::AgentDisconnected {
            agent_id: v1::AgentId { value: agent_id.clone() },
            connection: id_bytes(connection.id.0),
        }),
        Command::OperatorCall { call } => Wire::OperatorCall((**call).clone()),
        Command::StartMaster { address, version, reads, .. } => Wire::MasterStarted(internal::MasterStarted {
            address: address.clone(),
            version: version.clone(),
            reads_level: Some(reads.0),
        }),
        Command::Brake { what, release, why } => {
            let (role, framework_id) = match what {
                What::Role(role) => (Some(role.clone()), None),
                What::Framework(id) => (None, Some(id.clone())),
                What::Allocation | What::NewFrameworks => (None, None),
            };
            Wire::Brake(internal::Brake {
                release: Some(*release),
                why: Some(why.clone()),
                role,
                framework_id,
                new_frameworks: Some(*what == What::NewFrameworks),
            })
        }
        Command::Join(wanted) => Wire::Joining(internal::Joining { wanted: Some(joining(wanted)) }),
        Command::LoseMaster { master } if *master == origin => Wire::MasterStopping(internal::MasterStopping {}),
        Command::LoseMaster { .. }
        | Command::BecomeLeader { .. }
        | Command::RaiseFeatureLevel { .. }
        | Command::LogDigest { .. }
        | Command::PassDeadline { .. }
        | Command::Forget
        | Command::MakeOffers { .. }
        | Command::RemoveFramework { .. } => return None,
    };
    Some(internal::Submission {
        cluster_id: cluster_id.to_owned(),
        origin: incarnation_to_wire(origin),
        cause: internal::Cause {
            principal: caller.principal.clone(),
            peer: caller.peer.clone(),
            request_id: Some(Bytes::copy_from_slice(&request_id)),
        },
        command: Some(wire),
    })
}

/// The command that a submission carries, with who is behind it.
pub(crate) fn command(submission: internal::Submission) -> Result<(Command, Caller, [u8; 16]), Malformed> {
    use internal::submission::Command as Wire;
    let origin = incarnation(&submission.origin).ok_or(Malformed("an origin"))?;
    let connection = |id: Option<u128>| {
        let id = ConnectionId(id.ok_or(Malformed("a connection of 16 bytes"))?);
        Ok(Connection { at: origin, id })
    };
    let stream = |text: &str| connection(crate::identity::parse_connection(text).map(|id| id.0));
    let command = match submission.command.ok_or(Malformed("a known command"))? {
        Wire::FrameworkCall(internal::FrameworkCall { call, stream_id }) => match call.subscribe {
            Some(subscribe) if call.r#type == Some(v1::scheduler::call::Type::Subscribe as i32) => Command::Subscribe {
                connection: stream(stream_id.as_deref().unwrap_or_default())?,
                subscribe,
                framework_id: call.framework_id.map(|id| id.value),
            },
            _ => Command::FrameworkCall { stream_id, call: Box::new(call) },
        },
        Wire::FrameworkDisconnected(gone) => Command::FrameworkDisconnected {
            framework_id: gone.framework_id.value,
            connection: stream(&gone.stream_id)?,
            by_master: gone.by_master.unwrap_or_default(),
        },
        Wire::OperatorCall(call) => Command::OperatorCall { call: Box::new(call) },
        Wire::AgentHello(hello) => {
            let connection = connection(id_of(&hello.connection))?;
            match hello.hello.ok_or(Malformed("a register or resume"))? {
                internal::agent_hello::Hello::Register(register) => Command::RegisterAgent { connection, register },
                internal::agent_hello::Hello::Resume(resume) => Command::ResumeAgent { connection, resume },
            }
        }
        Wire::AgentMessages(batch) => Command::AgentMessages {
            agent_id: batch.agent_id.value,
            connection: connection(id_of(&batch.connection))?,
            messages: batch.messages,
        },
        Wire::AgentDisconnected(gone) => Command::AgentDisconnected {
            agent_id: gone.agent_id.value,
            connection: connection(id_of(&gone.connection))?,
        },
        Wire::MasterStarted(started) => {
            let reads = started.reads_level.map_or(FeatureLevel::FIRST, FeatureLevel);
            Command::StartMaster { master: origin, address: started.address, version: started.version, reads }
        }
        Wire::Brake(brake) => {
            let what = match (brake.role, brake.framework_id) {
                _ if brake.new_frameworks == Some(true) => What::NewFrameworks,
                (Some(role), _) => What::Role(role),
                (None, Some(id)) => What::Framework(id),
                (None, None) => What::Allocation,
            };
            Command::Brake { what, release: brake.release.unwrap_or_default(), why: brake.why.unwrap_or_default() }
        }
        Wire::Joining(wanted) => Command::Join(wanted_joining(wanted).ok_or(Malformed("something about tokens"))?),
        Wire::MasterStopping(_) => Command::LoseMaster { master: origin },
    };
    let cause = submission.cause;
    let request_id = cause.request_id.as_deref().and_then(|id| id.try_into().ok()).unwrap_or_default();
    Ok((command, Caller { principal: cause.principal, peer: cause.peer }, request_id))
}

fn joining(wanted: &Joining) -> internal::joining::Wanted {
    use internal::joining::{Mint, Wanted};
    let id = |id: &String| v1::AgentId { value: id.clone() };
    match wanted {
        Joining::Mint { hash, principal, agent_id, uses, life_ms, note } => Wanted::Mint(Mint {
            hash: Bytes::copy_from_slice(&hash.0),
            principal: principal.clone(),
            agent_id: agent_id.as_ref().map(id),
            uses: *uses,
            life_ms: *life_ms,
            note: note.clone(),
        }),
        Joining::RevokeToken { token } => Wanted::RevokeToken(*token),
        Joining::Rotate { agent_id } => Wanted::Rotate(id(agent_id)),
        Joining::Revoke { agent_id } => Wanted::Revoke(id(agent_id)),
        Joining::Release { agent_id } => Wanted::Release(id(agent_id)),
    }
}

fn wanted_joining(message: internal::Joining) -> Option<Joining> {
    use internal::joining::Wanted;
    Some(match message.wanted? {
        Wanted::Mint(mint) => Joining::Mint {
            hash: SecretHash(mint.hash.as_ref().try_into().ok()?),
            principal: mint.principal,
            agent_id: mint.agent_id.map(|id| id.value),
            uses: mint.uses,
            life_ms: mint.life_ms,
            note: mint.note,
        },
        Wanted::RevokeToken(token) => Joining::RevokeToken { token },
        Wanted::Rotate(id) => Joining::Rotate { agent_id: id.value },
        Wanted::Revoke(id) => Joining::Revoke { agent_id: id.value },
        Wanted::Release(id) => Joining::Release { agent_id: id.value },
    })
}

const REPLY_AGENT: u8 = 1;
const REPLY_FRAMEWORK: u8 = 2;
const REPLY_OPERATOR: u8 = 3;

/// The message for an outcome.
pub(crate) fn answer(outcome: Outcome) -> internal::Answer {
    use internal::answer::Answer as Wire;
    let wire = match outcome {
        Outcome::Done { index, reply } => Wire::Done(internal::Done { index, payload: reply_bytes(&reply) }),
        Outcome::Refused(refused) => Wire::Refusal(internal::Refusal {
            status: refused.number(),
            message: refused.message,
            name: Some(refused.name.into_owned()),
        }),
        Outcome::Crashed => Wire::Refusal(internal::Refusal { status: 500, message: String::new(), name: None }),
        Outcome::Unknown | Outcome::Untried => Wire::Unknown(internal::Unknown { leader: None }),
    };
    internal::Answer { answer: Some(wire) }
}

/// The outcome that an answer carries; what cannot be understood is unknown.
pub(crate) fn outcome(answer: internal::Answer) -> Outcome {
    use internal::answer::Answer as Wire;
    match answer.answer {
        Some(Wire::Done(done)) => match reply(done.payload.as_deref()) {
            Some(reply) => Outcome::Done { index: done.index, reply },
            None => Outcome::Unknown,
        },
        Some(Wire::Refusal(refusal)) if refusal.status == 500 => Outcome::Crashed,
        Some(Wire::Refusal(refusal)) => Outcome::Refused(Refused {
            kind: kind_of(refusal.status, refusal.name.as_deref().unwrap_or_default()),
            name: refusal.name.unwrap_or_default().into(),
            message: refusal.message,
        }),
        Some(Wire::Unknown(_)) | None => Outcome::Unknown,
    }
}

fn reply_bytes(reply: &Reply) -> Option<Bytes> {
    let (kind, body) = match reply {
        // The sequencer has made an outcome of its own of a refusal.
        Reply::Empty | Reply::Refused(_) => return None,
        Reply::Agent { agent } => (REPLY_AGENT, agent.0.to_be_bytes().to_vec()),
        Reply::Framework { framework } => (REPLY_FRAMEWORK, framework.0.to_be_bytes().to_vec()),
        Reply::Operator(response) => (REPLY_OPERATOR, response.encode_to_vec()),
    };
    Some([&[kind], &body[..]].concat().into())
}

fn reply(payload: Option<&[u8]>) -> Option<Reply> {
    let Some((kind, body)) = payload.and_then(<[u8]>::split_first) else { return Some(Reply::Empty) };
    Some(match *kind {
        REPLY_AGENT => Reply::Agent { agent: AgentKey(u64::from_be_bytes(body.try_into().ok()?)) },
        REPLY_FRAMEWORK => Reply::Framework { framework: FrameworkKey(u32::from_be_bytes(body.try_into().ok()?)) },
        REPLY_OPERATOR => Reply::Operator(Box::new(v1::master::Response::decode(body).ok()?)),
        _ => return None,
    })
}

/// An incarnation as masters tell it to each other.
pub(crate) fn incarnation_to_wire(incarnation: Incarnation) -> internal::Incarnation {
    internal::Incarnation { node_id: incarnation.node.0, id: id_bytes(incarnation.id.0) }
}

/// The incarnation that a message names.
pub(crate) fn incarnation(wire: &internal::Incarnation) -> Option<Incarnation> {
    Some(Incarnation { node: NodeId(wire.node_id), id: IncarnationId(id_of(&wire.id)?) })
}

pub(crate) fn id_bytes(id: u128) -> Bytes {
    Bytes::copy_from_slice(&id.to_be_bytes())
}

pub(crate) fn id_of(bytes: &[u8]) -> Option<u128> {
    Some(u128::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incarnation_of(node: u64) -> Incarnation {
        Incarnation { node: NodeId(node), id: IncarnationId(77) }
    }

    fn there_and_back(command: Command) -> Command {
        let caller = Caller { principal: Some("ops".into()), peer: Some("10.0.0.1:4".into()) };
        let wire = submission("c", incarnation_of(3), &command, &caller, [9; 16]).expect("a submission");
        let wire = internal::Submission::decode(&wire.encode_to_vec()[..]).unwrap();
        let (command, same_caller, request_id) = super::command(wire).unwrap();
        assert_eq!((same_caller, request_id), (caller, [9; 16]));
        command
    }

    #[test]
    fn a_subscription_keeps_its_stream_and_its_master() {
        let connection = Connection { at: incarnation_of(3), id: ConnectionId(u128::MAX - 5) };
        let framework_id = Some("f".to_owned());
        let sent = Command::Subscribe { connection, subscribe: Default::default(), framework_id };
        match there_and_back(sent) {
            Command::Subscribe { connection: same, framework_id, .. } => {
                assert_eq!((same, framework_id.as_deref()), (connection, Some("f")));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn whose_fault_the_end_of_a_stream_was_is_told() {
        let connection = Connection { at: incarnation_of(3), id: ConnectionId(5) };
        for by_master in [false, true] {
            let sent = Command::FrameworkDisconnected { framework_id: "f".into(), connection, by_master };
            match there_and_back(sent) {
                Command::FrameworkDisconnected { by_master: same, .. } => assert_eq!(same, by_master),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_master_can_give_up_itself_but_nobody_else() {
        let caller = Caller::default();
        let other = Command::LoseMaster { master: incarnation_of(4) };
        assert!(submission("c", incarnation_of(3), &other, &caller, [0; 16]).is_none());
        let own = there_and_back(Command::LoseMaster { master: incarnation_of(3) });
        assert!(matches!(own, Command::LoseMaster { master } if master == incarnation_of(3)));
    }

    #[test]
    fn outcomes_survive_the_way_back() {
        let done = Outcome::Done { index: 7, reply: Reply::Agent { agent: AgentKey(9) } };
        assert!(matches!(
            outcome(answer(done)),
            Outcome::Done { index: 7, reply: Reply::Agent { agent: AgentKey(9) } }
        ));
        assert!(matches!(outcome(answer(Outcome::Unknown)), Outcome::Unknown));
        assert!(matches!(outcome(answer(Outcome::Crashed)), Outcome::Crashed));
    }
}
