//! Who did it and with which call: stored beside the events, so that the log alone answers "who, when, why".

use api::v1;
use event_log::Cause;
use master_core::command::{Caller, Command};

/// The cause that `command` is for its events.
pub(crate) fn of(command: &Command, caller: &Caller, request_id: [u8; 16]) -> Cause {
    Cause { call: name(command).to_owned(), principal: caller.principal.clone(), peer: caller.peer.clone(), request_id }
}

/// The call's name as its protocol has it, or the command's own.
pub(crate) fn name(command: &Command) -> &'static str {
    match command {
        Command::Subscribe { .. } => "SUBSCRIBE",
        Command::FrameworkCall { call, .. } => call
            .r#type
            .and_then(|number| v1::scheduler::call::Type::try_from(number).ok())
            .map_or("UNKNOWN", |kind| kind.as_str_name()),
        Command::FrameworkDisconnected { .. } => "framework-disconnected",
        Command::RegisterAgent { .. } => "register-agent",
        Command::ResumeAgent { .. } => "resume-agent",
        Command::AgentMessages { .. } => "agent-messages",
        Command::AgentDisconnected { .. } => "agent-disconnected",
        Command::OperatorCall { call } => call
            .r#type
            .and_then(|number| v1::master::call::Type::try_from(number).ok())
            .map_or("UNKNOWN", |kind| kind.as_str_name()),
        Command::BecomeLeader { .. } => "become-leader",
        Command::StartMaster { .. } => "start-master",
        Command::LoseMaster { .. } => "lose-master",
        Command::RaiseFeatureLevel { .. } => "raise-feature-level",
        Command::LogDigest { .. } => "log-digest",
        Command::PassDeadline { .. } => "deadline-passed",
        Command::Forget => "forget",
        Command::MakeOffers { .. } => "make-offers",
        Command::Brake { release, .. } => {
            if *release {
                "RESUME"
            } else {
                "PAUSE"
            }
        }
        Command::Join(wanted) => wanted.name(),
        Command::RemoveFramework { .. } => "remove-framework",
    }
}
