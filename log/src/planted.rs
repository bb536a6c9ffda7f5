//! Defects that can be switched on to see that the simulator finds them. They exist in builds with the feature
//! `planted-bugs` alone; in every other build [`planted`] is a constant `false`, and what depends on it is compiled away.

/// A defect, each modelled on one that a system of this kind has had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "described by `what`")]
pub enum Bug {
    VoteNotSynced,
    VoteForgotten,
    AckBeforeSync,
    LeaderRestored,
    ReadWithoutQuorum,
    SnapshotIndexAhead,
    GateNotInSnapshot,
    VoteForShorterLog,
    CommitBeforeQuorum,
    ConflictAccepted,
    TruncationForgotten,
    TermLedTwice,
    ForeseenMistaken,
    AnswerBeforeCommit,
    AnswerUnconfirmed,
    FollowerReadsStale,
    HeadFromTheLastTerm,
    ForwardedTwice,
    UnknownSaidUntried,
    UpdatesNotSentAgain,
    UpdatesForgottenOnResubscribe,
    NewestUpdateFirst,
    MissedEventsIgnored,
    LifeKept,
    OutboxDropped,
    OrderAcknowledgedEarly,
    OutboxReplayed,
    OffersKeptOnAgentLost,
    CountedTwiceOnReturn,
    MessagesTakenTwice,
    StreamsOfLostMasterKept,
    AcknowledgedByAnyUuid,
    MessagesForgottenUnsent,
    OrdersAcknowledgedUnsynced,
    TimeGoesBack,
    ReleaseOfNothing,
    DeadlinesAllOrNothing,
    StreamBeforeSubscription,
    ResumeFromUnsynced,
    EndedTasksKept,
    DeadlineBeforeListener,
    UnreachableKept,
    WallClockTaken,
    ConversionsForgotten,
    DrainedTooEarly,
    DrainForgottenOnReturn,
    OfferedWhileDraining,
    DestroyedByName,
    OperationsNotSentAgain,
    OperationsUnfinishedAtStart,
    RolesNotInSnapshot,
    AdmittedWhileDown,
    InverseOffersKept,
    BrakesIgnored,
    GroupTorn,
    SpareOffersKept,
    NestedNotEnded,
    EndTwiceHurries,
    LaunchTakenTwice,
    NestedNotRecovered,
    ReleaseForgotten,
    ReturnedTasksLost,
    ReturnedUpdatesLost,
    UpdateAcknowledgedUnsynced,
    ReturnNotAwaited,
    ShutdownNeverForced,
    IdentityShownUnkept,
    IdentityReplacedUnheard,
    RevokedLetIn,
    TokenUsedAgain,
    UnlistedKept,
    EndsBehindStates,
    LaunchedOnOutdated,
    AwayStillHas,
    HeldForEver,
    ProvidersOffersKept,
    NotMadeAgain,
    PublishNotAwaited,
    AcknowledgedUncommitted,
    ProvidersStreamsKept,
}

use Bug::*;

/// Every defect: its name and what it does.
pub const BUGS: &[(Bug, &str, &str)] = &[
    (VoteNotSynced, "vote-not-synced", "a vote is answered before it is on the disk (Raft systems)"),
    (
        VoteForgotten,
        "vote-forgotten",
        "a restarted member does not know its vote, and votes again in the term (Raft systems)",
    ),
    (AckBeforeSync, "ack-before-sync", "entries are acknowledged before they are on the disk (Raft systems)"),
    (
        LeaderRestored,
        "leader-restored",
        "a restarted leader leads on in its term without its unsynced tail (openraft's default)",
    ),
    (
        ReadWithoutQuorum,
        "read-without-quorum",
        "a leader confirms itself without asking anybody (etcd, Consul: stale reads)",
    ),
    (SnapshotIndexAhead, "snapshot-index-ahead", "a snapshot names one entry more than it holds (Raft systems)"),
    (GateNotInSnapshot, "gate-not-in-snapshot", "a snapshot does not hold the position of the gate (ours)"),
    (VoteForShorterLog, "vote-for-shorter-log", "a vote is given to a candidate that lacks entries (Raft systems)"),
    (CommitBeforeQuorum, "commit-before-quorum", "a follower takes all that it was sent for committed (Raft systems)"),
    (
        ConflictAccepted,
        "conflict-accepted",
        "a follower without the entry before says that it has appended (Raft systems)",
    ),
    (
        TruncationForgotten,
        "truncation-forgotten",
        "entries of a lost leadership are not cut off before others are appended (Raft systems)",
    ),
    (TermLedTwice, "term-led-twice", "one term is led twice after a short loss of contact (ours)"),
    (ForeseenMistaken, "foreseen-mistaken", "the state foreseen for a lost record is taken for that of another (ours)"),
    (AnswerBeforeCommit, "answer-before-commit", "a call is answered when its record is proposed (many)"),
    (
        AnswerUnconfirmed,
        "answer-unconfirmed",
        "a refusal is answered by a leader that may be none any more (etcd: stale reads)",
    ),
    (
        FollowerReadsStale,
        "follower-reads-stale",
        "a follower answers a read before it has folded what was committed (many)",
    ),
    (
        HeadFromTheLastTerm,
        "head-from-the-last-term",
        "a new leader decides before it has folded the records of the one before (ours)",
    ),
    (
        ForwardedTwice,
        "forwarded-twice",
        "a forwarded call without an answer is sent again as if it had not arrived (many)",
    ),
    (
        UnknownSaidUntried,
        "unknown-said-untried",
        "records in flight at the loss of leadership are said to be untried (many)",
    ),
    (UpdatesNotSentAgain, "updates-not-sent-again", "an update without acknowledgement is not sent again (Mesos)"),
    (
        UpdatesForgottenOnResubscribe,
        "updates-forgotten-on-resubscribe",
        "a framework that comes back is not told what it missed (Mesos: updates lost on failover)",
    ),
    (NewestUpdateFirst, "newest-update-first", "the newest update is delivered, not the oldest (Mesos: out of order)"),
    (MissedEventsIgnored, "missed-events-ignored", "a master that catches up by a snapshot keeps its streams (ours)"),
    (LifeKept, "life-kept", "a master that was given up goes on as if it had not been (Mesos: double registration)"),
    (OutboxDropped, "outbox-dropped", "what was ordered is forgotten when the agent comes back (Mesos: launches lost)"),
    (OrderAcknowledgedEarly, "order-acknowledged-early", "one order more than acknowledged is forgotten (ours)"),
    (
        OutboxReplayed,
        "outbox-replayed",
        "a returning agent is given orders again that it has, and takes them (Mesos: launched twice)",
    ),
    (OffersKeptOnAgentLost, "offers-kept-on-agent-lost", "offers of an agent that is away are not taken back (Mesos)"),
    (
        CountedTwiceOnReturn,
        "counted-twice-on-return",
        "the tasks of a returning agent are counted again (Mesos: double counting)",
    ),
    (
        MessagesTakenTwice,
        "messages-taken-twice",
        "a message of an agent is taken again when it is sent again (Mesos: duplicate updates)",
    ),
    (StreamsOfLostMasterKept, "streams-of-lost-master-kept", "what a lost master held counts as connected (ours)"),
    (AcknowledgedByAnyUuid, "acknowledged-by-any-uuid", "an acknowledgement counts for whatever update waits (Mesos)"),
    (
        MessagesForgottenUnsent,
        "messages-forgotten-unsent",
        "an agent forgets updates that no master has committed (Mesos: updates lost)",
    ),
    (OrdersAcknowledgedUnsynced, "orders-taken-unlogged", "an agent does not write down which orders it took (Mesos)"),
    (TimeGoesBack, "time-goes-back", "a leader decides at the time of its own clock (many)"),
    (
        ReleaseOfNothing,
        "release-of-nothing",
        "an executor with nothing of its own that ends behind its last task ends every decision about it (ours)",
    ),
    (
        DeadlinesAllOrNothing,
        "deadlines-all-or-nothing",
        "something due that cannot be decided keeps everything due behind it waiting (ours)",
    ),
    (
        StreamBeforeSubscription,
        "stream-before-subscription",
        "a stream counts before its subscription was decided: a task handed over on it is declared lost, and runs (ours)",
    ),
    (
        ResumeFromUnsynced,
        "resume-from-unsynced",
        "an agent returns without a task whose end is not on its disk yet: it is declared lost (ours)",
    ),
    (EndedTasksKept, "ended-tasks-kept", "an agent remembers every task of an executor that lives on (ours)"),
    (
        DeadlineBeforeListener,
        "deadline-before-listener",
        "executors' time to return ends before the agent can be reached (ours)",
    ),
    (UnreachableKept, "unreachable-kept", "agents that are unreachable are remembered for ever (ours)"),
    (WallClockTaken, "wall-clock-taken", "a leader's clock that is set forward ends what has hours left (many)"),
    (
        ConversionsForgotten,
        "conversions-forgotten",
        "an agent that comes back has what it was configured with, and no reservation or volume more (Mesos)",
    ),
    (DrainedTooEarly, "drained-too-early", "an agent is drained as soon as it was told to (ours)"),
    (
        DrainForgottenOnReturn,
        "drain-forgotten-on-return",
        "an agent that comes back is offered while it drains (Mesos)",
    ),
    (OfferedWhileDraining, "offered-while-draining", "an agent that drains is offered all the same (ours)"),
    (DestroyedByName, "destroyed-by-name-only", "a volume that is destroyed leaves its data behind (Mesos)"),
    (OperationsNotSentAgain, "operations-not-sent-again", "what became of an operation is told once (Mesos)"),
    (
        OperationsUnfinishedAtStart,
        "operations-unfinished-at-start",
        "an operation that an agent had begun when it ended is not gone on with (ours)",
    ),
    (RolesNotInSnapshot, "roles-not-in-snapshot", "quota and weights are not in a snapshot (ours)"),
    (AdmittedWhileDown, "admitted-while-down", "an agent of a machine that is down is admitted (Mesos)"),
    (
        InverseOffersKept,
        "inverse-offers-kept",
        "who was asked to leave an agent is not told that the schedule is another (ours)",
    ),
    (BrakesIgnored, "brakes-ignored", "what an operator has paused is offered all the same (ours)"),
    (GroupTorn, "group-torn", "an agent takes only the first task of a group (ours)"),
    (SpareOffersKept, "spare-offers-kept", "what an agent can spare no more is offered on (Mesos)"),
    (
        NestedNotEnded,
        "nested-not-ended",
        "what is within a container is not ended with it, nor waited for (Mesos: orphans)",
    ),
    (EndTwiceHurries, "end-told-twice", "an end that is told twice is not waited with for what is within (ours)"),
    (LaunchTakenTwice, "launch-taken-twice", "a container that there is already is launched again (Mesos)"),
    (NestedNotRecovered, "nested-not-recovered", "an agent that is started again looks for executors alone (Mesos)"),
    (ReleaseForgotten, "release-forgotten", "files of containers that are over are left behind (Mesos)"),
    (
        ReturnedTasksLost,
        "returned-tasks-lost",
        "what an executor that comes back says it has is not listened to (Mesos)",
    ),
    (ReturnedUpdatesLost, "returned-updates-lost", "the updates that it says again are not written (Mesos)"),
    (
        UpdateAcknowledgedUnsynced,
        "update-acknowledged-unsynced",
        "an executor's update is acknowledged before it is in the log (Mesos)",
    ),
    (ReturnNotAwaited, "return-not-awaited", "an executor that does not come back is waited for without end (Mesos)"),
    (
        ShutdownNeverForced,
        "shutdown-never-forced",
        "an executor that does not end when it is asked to is not ended (Mesos)",
    ),
    (IdentityShownUnkept, "identity-shown-unkept", "an agent shows an identity that is not on its disk (many)"),
    (
        IdentityReplacedUnheard,
        "identity-replaced-unheard",
        "an agent forgets its identity before it heard that the next one counts (many)",
    ),
    (RevokedLetIn, "revoked-let-in", "an agent whose identity was revoked is let in by it (many)"),
    (TokenUsedAgain, "token-used-again", "agents that join by a token are not counted (many)"),
    (
        UnlistedKept,
        "unlisted-kept",
        "an operation that its provider does not know when it comes back is waited for (Mesos)",
    ),
    (
        EndsBehindStates,
        "ends-behind-states",
        "what a provider has is told before the ends of the operations that are in it (Mesos)",
    ),
    (LaunchedOnOutdated, "launched-on-outdated", "a task is launched on what its resource provider had before (Mesos)"),
    (AwayStillHas, "away-still-has", "what a resource provider that is away had is offered on (Mesos)"),
    (HeldForEver, "held-for-ever", "what an operation took that failed is not given back (ours)"),
    (ProvidersOffersKept, "providers-offers-kept", "what a resource provider has no more is offered on (Mesos)"),
    (
        NotMadeAgain,
        "not-made-again",
        "what a resource provider says takes the place of what was decided meanwhile (Mesos)",
    ),
    (PublishNotAwaited, "publish-not-awaited", "a task runs before what it uses of a provider's is ready (Mesos)"),
    (
        AcknowledgedUncommitted,
        "acknowledged-uncommitted",
        "the end of an operation is acknowledged to its provider before the masters have it (Mesos)",
    ),
    (
        ProvidersStreamsKept,
        "providers-streams-kept",
        "an agent that is started again takes its resource providers for subscribed (ours)",
    ),
];

#[cfg(feature = "planted-bugs")]
static PLANTED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(usize::MAX);

/// Switches a defect on, or all of them off, in this process.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    let at = bug.and_then(|bug| BUGS.iter().position(|(known, ..)| *known == bug));
    PLANTED.store(at.unwrap_or(usize::MAX), std::sync::atomic::Ordering::SeqCst);
}

/// Whether a defect is switched on.
#[cfg(feature = "planted-bugs")]
pub fn planted(bug: Bug) -> bool {
    let at = PLANTED.load(std::sync::atomic::Ordering::Relaxed);
    BUGS.get(at).is_some_and(|(known, ..)| *known == bug)
}

/// Never: this build has no planted defects.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn planted(_: Bug) -> bool {
    false
}
