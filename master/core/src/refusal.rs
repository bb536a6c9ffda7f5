//! Why someone may not have it. The core knows no HTTP: the server gives each kind its status. The texts are what
//! clients of Mesos see and match on.

use auth::Action;

/// A reason, with the sentence for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of no it is.
    pub kind: RefusalKind,
    /// The stable name of the reason, as in metrics and explanations: `UnknownFramework`, ...
    pub name: &'static str,
    /// One sentence.
    pub message: String,
    /// What the access control lists refused on the way to it: for a log of that, and for nobody who called.
    pub denied: Vec<Denied>,
}

/// Something that the access control lists do not let somebody do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Who would have done it; None: whoever has no principal.
    pub principal: Option<String>,
    /// What.
    pub action: Action,
    /// To what; None: to nothing of its kind in particular.
    pub object: Option<String>,
    /// Which entry says so.
    pub why: String,
}

/// The kinds of no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The call is malformed or names what is not there.
    Invalid,
    /// The caller may not, or is not connected.
    Forbidden,
    /// The named thing does not exist.
    NotFound,
    /// It contradicts what is.
    Conflict,
    /// Known to the protocol, not to this version.
    NotImplemented,
    /// Something else is under way; it may be tried again.
    Busy,
    /// A SUBSCRIBE that is answered on its stream by an ERROR event, after which the stream ends.
    OnStream,
    /// The new connection's holder is a master whose life is over as the cluster knows it: nothing happened, and it may be
    /// tried again at any master.
    HolderOver,
    /// An agent must stop: the sentence is for its operator.
    StopAgent,
    /// An agent will never be welcome again: it must end what runs, and stop.
    EndAgent,
    /// An agent belongs to another cluster: it may try the other masters that it was given.
    OtherCluster,
    /// An agent must forget its id and register anew.
    RegisterAnew,
    /// The caller's connection is not the current one: what it says no longer counts.
    StaleConnection,
}

/// The name of what the access control lists refuse.
pub const UNAUTHORIZED: &str = "Unauthorized";

/// Every name of a refusal.
pub const NAMES: &[&str] = &[
    "AgentAway",
    "AgentGone",
    "AgentVersion",
    "AgentsBehind",
    "BeingMarkedGone",
    "BeingRemoved",
    "CannotDrain",
    "DomainRequired",
    "FeatureLevel",
    "FrameworkRemoved",
    "FrameworksRefused",
    "IdentityOver",
    "InMaintenance",
    "InvalidCall",
    "InvalidFramework",
    "InvalidMachines",
    "InvalidQuota",
    "InvalidOperation",
    "InvalidResources",
    "InvalidToken",
    "InvalidWeight",
    "LogLost",
    "MachineDown",
    "MasterOver",
    "MissingMessages",
    "NoQuota",
    "NoStreamId",
    "NotASubscription",
    "NotAsked",
    "NotBound",
    "NotBuilt",
    "NotDeactivated",
    "NotFree",
    "NotImplemented",
    "NotPaused",
    "NotSubscribed",
    "OtherCluster",
    "OtherPrincipal",
    "OtherStream",
    "OverLimit",
    "Overcommitted",
    "StaleConnection",
    "StillDraining",
    "StillHeld",
    "StillSettling",
    "TooLarge",
    "TooSmall",
    UNAUTHORIZED,
    "UnknownAgent",
    "UnknownCall",
    "UnknownDomain",
    "UnknownFramework",
    "UnknownToken",
];

impl Refusal {
    /// A refusal of this kind. The name is one of [`NAMES`].
    pub fn new(kind: RefusalKind, name: &'static str, message: impl Into<String>) -> Refusal {
        debug_assert!(NAMES.contains(&name), "{name} is not among the names of refusals");
        Refusal { kind, name, message: message.into(), denied: Vec::new() }
    }

    /// Malformed, or names what is not there.
    pub fn invalid(name: &'static str, message: impl Into<String>) -> Refusal {
        Refusal::new(RefusalKind::Invalid, name, message)
    }
}
