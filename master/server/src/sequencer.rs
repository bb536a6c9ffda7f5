//! The only writer of the log. Drains its inbox, decides each command against `head` (committed state plus records in
//! flight), and appends what was decided as one record while earlier records are still on their way.
//!
//! ```text
//! following ──elected──► taking office ──LeaderElected folded──► leading ──lost──► following
//!                             └────────────── lost ──────────────────────────────────┘
//! ```
//!
//! One leadership is one term. Its records are counted from 0, and once one of them failed, nobody knows how to count
//! on: the term is given up even if Raft would let this master lead on in it.
//!
//! Every answer of a batch, a refusal too, waits for the last record in flight at its decision and for a sign of
//! leadership given after the decision: until then `head` is only a belief.

use crate::ahead::{Ahead, Foreseen};
use crate::allocate::Outlook;
use crate::aside::Aside;
use crate::cause;
use crate::clock;
use crate::crashes::{self, Crashes};
use crate::delivery::Delivery;
use crate::identity::Identity;
use crate::outcome::{Outcome, TOO_LARGE};
use crate::peers::Peers;
use crate::published::{self, Published};
use crate::rehearsal::Rehearsal;
use crate::submit::{Attempt, Request, Verdict};
use crate::traces::Tracer;
use api::internal::FromAgent;
use api::limits::{BATCH_COMMANDS_MAX, COMMAND_BYTES_MAX, PEER_BYTES_MAX, RECORD_BYTES_FULL, RECORD_BYTES_MAX};
use api_http::{Admission, Refused};
use event_log::raft::{AppendError, Node, Role, Status};
use event_log::{Bug, Header, RawEvent, Record, Steady, planted};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use master_core::command::{Caller, Command};
use master_core::effect::Effect;
use master_core::event::Stored;
use master_core::ids::Connection;
use master_core::{
    Decision, Denied, Event, Options, Refusal, Reply, State, asks_for_offers, deadlines, decide_with, fold_record,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

// A record that nobody could read again, or that is too large to be sent to the others, would be the last one of the
// cluster.
const _: () = assert!(RECORD_BYTES_MAX <= event_log::limits::PROPOSAL_BYTES_MAX);
const _: () = assert!(event_log::limits::APPEND_BYTES_MAX <= PEER_BYTES_MAX);
/// Records on their way at once.
const IN_FLIGHT_MAX: usize = 8;
/// What a client may find waiting before it.
pub(crate) const INBOX_COMMANDS_MAX: usize = 4096;
/// A deadline that a decision did not move is not asked about again at once.
const DEADLINE_PACE: Duration = Duration::from_millis(100);
/// A new leader looks for what is to be forgotten soon: its flags may say other bounds than those in force.
const FORGET_FIRST: Duration = Duration::from_secs(5);
/// There may be more to be forgotten.
const FORGET_PACE: Duration = Duration::from_millis(100);
/// Between two attempts to catch up with what earlier leaderships committed.
const OFFICE_PACE: Duration = Duration::from_millis(20);
/// How long records in flight may take to tell their fate once leadership is lost.
const FAREWELL: Duration = Duration::from_secs(5);

pub(crate) struct Sequencer {
    pub(crate) node: Node,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) published: watch::Receiver<Published>,
    pub(crate) inbox: mpsc::Receiver<Request>,
    pub(crate) ahead: Arc<Ahead>,
    /// Where the allocator sees what is decided.
    pub(crate) outlook: Arc<Outlook>,
    pub(crate) delivery: Delivery,
    pub(crate) version: String,
    pub(crate) crashes: Arc<Crashes>,
    pub(crate) rehearsal: Rehearsal,
    pub(crate) peers: Arc<Peers>,
    pub(crate) clock: Arc<Steady>,
    /// What the operator chose, while this master leads.
    pub(crate) options: Options,
    /// Where the access control lists are: those of the master that leads count.
    pub(crate) admission: Arc<Admission>,
    /// Between two looks for what is to be forgotten.
    pub(crate) forget_every: Duration,
    /// Where it is told what is decided, and what becomes of it.
    pub(crate) tracer: Tracer,
}

/// One leadership: where it is, and what it believes.
struct Leadership {
    term: u64,
    outlook: Arc<Outlook>,
    options: Options,
    admission: Arc<Admission>,
    crashes: Arc<Crashes>,
    rehearsal: Rehearsal,
    tracer: Tracer,
    /// What is due and could not be decided.
    aside: Aside,
    clock: Arc<Steady>,
    /// Number of the next record.
    n: u64,
    head: State,
    flights: FuturesOrdered<BoxFuture<'static, Result<u64, AppendError>>>,
    /// In the order of `flights`.
    batches: VecDeque<Batch>,
}

/// Answers that wait for their flight.
struct Batch {
    answers: Vec<(Request, Result<Reply, Verdictless>)>,
    /// What the access control lists refused.
    denied: Vec<Refused>,
    /// What may be lost, with the state it is told from.
    effects: Vec<Effect>,
    state: Option<Arc<State>>,
    /// When, if there is anything to commit.
    decided: Option<Instant>,
}

/// A decision as it is to be logged.
struct Attempted {
    decision: Decision,
    encoded: Vec<Stored>,
    /// In bytes of events.
    weight: usize,
}

impl Attempted {
    /// What was decided on the state that this one led to.
    fn append(&mut self, next: Attempted) {
        let Attempted { decision: Decision { events, effects, reply, state, denied }, encoded, weight } = next;
        self.decision.events.extend(events);
        self.decision.effects.extend(effects);
        self.decision.denied.extend(denied);
        (self.decision.reply, self.decision.state) = (reply, state);
        self.encoded.extend(encoded);
        self.weight += weight;
    }
}

/// A decision that appended nothing.
enum Verdictless {
    Refused(Refusal),
    Crashed,
}

impl Sequencer {
    /// Runs as long as the process.
    pub(crate) async fn run(mut self) {
        // The last term in which this master appended anything.
        let mut begun = 0;
        while let Some(term) = self.follow(begun).await {
            if !planted(Bug::HeadFromTheLastTerm) && !self.has_caught_up(term).await {
                tokio::time::sleep(OFFICE_PACE).await;
                continue;
            }
            begun = term;
            let Some(head) = self.take_office(term).await else {
                self.clock.follow();
                self.node.give_up(term);
                continue;
            };
            tracing::info!(term, "this master leads");
            let (options, clock, crashes) = (self.options.clone(), self.clock.clone(), self.crashes.clone());
            self.outlook.show(&head, true);
            let leadership = Leadership {
                outlook: self.outlook.clone(),
                term,
                options,
                admission: self.admission.clone(),
                clock,
                crashes,
                rehearsal: self.rehearsal,
                tracer: self.tracer.clone(),
                aside: Aside::default(),
                n: 1,
                head,
                flights: FuturesOrdered::new(),
                batches: VecDeque::new(),
            };
            self.lead(leadership).await;
            self.outlook.close();
            self.clock.follow();
            if !planted(Bug::TermLedTwice) {
                self.node.give_up(term);
            }
            tracing::info!(term, "this master no longer leads");
        }
    }

    /// Sends every request back until this master leads in a term after `begun`; None when nobody can ask any more.
    async fn follow(&mut self, begun: u64) -> Option<u64> {
        loop {
            {
                let status = self.status.borrow_and_update();
                let again = planted(Bug::TermLedTwice) && status.term == begun;
                if status.role == Role::Leader && (status.term > begun || again) {
                    return Some(status.term);
                }
            }
            tokio::select! {
                changed = self.status.changed() => changed.ok()?,
                request = self.inbox.recv() => not_tried(request?),
            }
        }
    }

    /// Whatever earlier leaderships committed must be here before anything is decided.
    async fn has_caught_up(&self, term: u64) -> bool {
        tokio::select! {
            index = self.node.read_index() => index.is_ok(),
            () = lost(self.status.clone(), term) => false,
        }
    }

    /// Appends `LeaderElected` and folds it from the log: from then on `head` is what every master will have.
    async fn take_office(&mut self, term: u64) -> Option<State> {
        let (node, published) = (self.node.clone(), self.published.clone());
        let leader = self.identity.incarnation();
        let (version, options, clock) = (self.version.clone(), self.options.clone(), self.clock.clone());
        let (peers, status) = (self.peers.clone(), self.status.clone());
        let office = async move {
            let state = published.borrow().state.clone();
            let cluster_id = node.cluster_id()?;
            let command = Command::BecomeLeader { leader, term, cluster_id, version };
            let mut others = status.borrow().members.clone();
            others.retain(|member| member.node_id != leader.node.0);
            clock::ask_others(&clock, &peers, &others).await;
            clock.lead(state.at_ms);
            let at_ms = clock.now_ms();
            let decision = match decide_with(&state, &command, &Caller::default(), at_ms, options) {
                Ok(decision) => decision,
                Err(refusal) => {
                    tracing::error!(term, %refusal, "cannot take office");
                    return None;
                }
            };
            let header = Header { term, n: 0, at_ms, feature_level: decision.level().0 };
            let mut record = Record { header, ..Record::default() };
            let cause = cause::of(&command, &Caller::default(), crate::identity::random().to_be_bytes());
            let encoded = encode(&decision).inspect_err(|why| tracing::error!(term, why, "cannot take office")).ok()?;
            push_encoded(&mut record, cause, encoded);
            let index = node.append(term, record).await.ok()?;
            if planted(Bug::HeadFromTheLastTerm) {
                let mut stale = State::clone(&state);
                fold_record(&mut stale, &header, &decision.events);
                return Some(Published { state: Arc::new(stale), index });
            }
            let published = published::wait_for(&published, index).await;
            // Committed is not enough: it must have been the first record of its term, on every master.
            let leads = published.state.leader.as_ref().is_some_and(|known| known.term == term);
            leads.then_some(published)
        };
        tokio::select! {
            head = office => head.map(|published| State::clone(&published.state)),
            () = lost(self.status.clone(), term) => None,
        }
    }

    async fn lead(&mut self, mut leadership: Leadership) {
        let mut requests = Vec::with_capacity(BATCH_COMMANDS_MAX);
        let mut lost = Box::pin(lost(self.status.clone(), leadership.term));
        // When what is due is looked at again.
        let mut look = Instant::now();
        let mut forget = Instant::now() + FORGET_FIRST.min(self.forget_every);
        // The flags' bounds count from the beginning, or from when the cluster has words for them.
        let mut is_bounded = false;
        loop {
            let can_be_told = self.delivery.has_room();
            let room = leadership.flights.len() < IN_FLIGHT_MAX && can_be_told;
            let deadline = leadership.head.next_deadline();
            tokio::select! {
                Some(landed) = leadership.flights.next() => {
                    if let Err(error) = leadership.land(landed, &self.delivery) {
                        leadership.give_up(error);
                        return;
                    }
                }
                count = self.inbox.recv_many(&mut requests, BATCH_COMMANDS_MAX), if room => {
                    if count == 0 {
                        break;
                    }
                    leadership.run_batch(std::mem::take(&mut requests), &self.node, &self.ahead);
                }
                () = passed(&self.clock, deadline, look), if room && deadline.is_some() => {
                    let is_moving = leadership.run_due(&self.node, &self.ahead);
                    look = Instant::now() + if is_moving { Duration::ZERO } else { DEADLINE_PACE };
                }
                () = self.delivery.room(), if !can_be_told => {}
                () = std::future::ready(()), if room && !is_bounded && leadership.head.feature_level.forgets() => {
                    leadership.run_one(Command::Forget, &self.node, &self.ahead);
                    is_bounded = true;
                }
                () = tokio::time::sleep_until(forget), if room => {
                    let is_moving = leadership.run_one(Command::Forget, &self.node, &self.ahead);
                    forget = Instant::now() + if is_moving { FORGET_PACE } else { self.forget_every };
                }
                () = &mut lost => break,
            }
        }
        leadership.bid_farewell(&self.delivery).await;
    }
}

impl Leadership {
    fn run_batch(&mut self, requests: Vec<Request>, node: &Node, ahead: &Ahead) {
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            self.run_record(&mut requests, node, ahead);
        }
    }

    /// Decides requests until there are no more or their record is full.
    fn run_record(&mut self, requests: &mut impl Iterator<Item = Request>, node: &Node, ahead: &Ahead) {
        let earliest_ms = if planted(Bug::TimeGoesBack) { 0 } else { self.head.at_ms };
        let at_ms = self.clock.now_ms().max(earliest_ms);
        let header = Header { term: self.term, n: self.n, at_ms, feature_level: self.head.feature_level.0 };
        let mut record = Record { header, ..Record::default() };
        let mut events: Vec<Event> = Vec::new();
        let mut batch =
            Batch { answers: Vec::new(), denied: Vec::new(), effects: Vec::new(), state: None, decided: None };
        let mut bytes = 0;
        while bytes < RECORD_BYTES_FULL
            && let Some(request) = requests.next()
        {
            let Attempt { command, caller, request_id } = &request.attempt;
            let began = self.tracer.now();
            let attempt = self.attempt(&self.head, command, caller, at_ms);
            if began.is_some() {
                let call = ("call", cause::name(command).to_owned());
                let events = attempt.as_ref().map_or(0, |attempted| attempted.decision.events.len());
                self.tracer.part("decide", began, *request_id, vec![call, ("events", events.to_string())]);
            }
            self.note_due(command, &attempt);
            let decided = attempt.as_ref().ok().map(|attempted| &attempted.decision.events[..]);
            self.crashes.counters().count_command(&self.head, command, decided);
            let answer = attempt.map(|Attempted { decision, encoded, weight }| {
                let Decision { events: decided, effects, reply, state, denied } = decision;
                batch.denied.extend(audited(command, caller, &denied));
                if !decided.is_empty() {
                    self.head = state;
                    bytes += weight;
                    push_encoded(&mut record, cause::of(command, caller, *request_id), encoded);
                    events.extend(decided);
                }
                batch.effects.extend(effects);
                reply
            });
            if let Err(Verdictless::Refused(refusal)) = &answer {
                batch.denied.extend(audited(command, caller, &refusal.denied));
            }
            batch.answers.push((request, answer));
        }
        if !batch.effects.is_empty() {
            batch.state = Some(Arc::new(self.head.clone()));
        }
        let flight: BoxFuture<'static, Result<u64, AppendError>> = if events.is_empty() {
            // Nothing to commit, yet the answers tell of a state: it must be that of a leader, and one that leads now.
            let (node, term) = (node.clone(), self.term);
            Box::pin(async move {
                if planted(Bug::AnswerUnconfirmed) {
                    return Ok(node.status().borrow().applied);
                }
                node.confirm_term(term).await.map_err(|_| AppendError::Unknown)
            })
        } else {
            tracing::trace!(term = self.term, n = self.n, events = events.len(), "record");
            // Raised within the record, perhaps: it is read by whoever reads the last of its events.
            record.header.feature_level = self.head.feature_level.0;
            batch.decided = Some(Instant::now());
            self.outlook.show(&self.head, events.iter().any(asks_for_offers));
            ahead.push(Foreseen { term: self.term, n: self.n, state: self.head.clone(), events });
            self.n += 1;
            let ticket = node.append(self.term, record);
            if planted(Bug::AnswerBeforeCommit) {
                let index = node.status().borrow().applied;
                Box::pin(async move { Ok(index) })
            } else {
                Box::pin(ticket)
            }
        };
        self.flights.push_back(flight);
        self.batches.push_back(batch);
    }

    /// By what is decided now: files are read again while this master leads.
    fn options(&self) -> Options {
        Options { authorizer: self.admission.authorizer(), ..self.options.clone() }
    }

    /// A decision on `state` as it is to be logged, or why there is none. Nothing has happened yet.
    fn attempt(&self, state: &State, command: &Command, caller: &Caller, at_ms: u64) -> Result<Attempted, Verdictless> {
        match self.decide(state, command, caller, at_ms) {
            Err(Verdictless::Crashed) => match command {
                Command::AgentMessages { agent_id, connection, messages } => {
                    let one_by_one = messages.iter().map(|message| (agent_id.as_str(), *connection, message));
                    self.salvage(state, one_by_one, caller, at_ms)
                }
                _ => Err(Verdictless::Crashed),
            },
            attempt => attempt,
        }
    }

    fn decide(&self, state: &State, command: &Command, caller: &Caller, at_ms: u64) -> Result<Attempted, Verdictless> {
        let decided = crashes::catch(|| {
            self.rehearsal.crash(command);
            let decision = decide_with(state, command, caller, at_ms, self.options())?;
            let encoded = encode(&decision);
            Ok((decision, encoded))
        });
        let crashed = |why: &str| {
            self.crashes.note(&named(command), caller, why);
            Verdictless::Crashed
        };
        let (decision, encoded) =
            decided.map_err(|why| crashed(&why))?.map_err(|refusal: Refusal| Verdictless::Refused(refusal))?;
        let encoded = encoded.map_err(|why| crashed(&why))?;
        let weight: usize = encoded.iter().map(|(.., payload)| payload.len()).sum();
        check_weight(weight).map_err(Verdictless::Refused)?;
        Ok(Attempted { decision, encoded, weight })
    }

    /// What an agent says is sent again until it is taken. So that one message that cannot be decided does not silence its
    /// agent for ever, each is decided by itself, and that one counts as said and means nothing.
    fn salvage<'a>(
        &self,
        state: &State,
        messages: impl Iterator<Item = (&'a str, Connection, &'a FromAgent)>,
        caller: &Caller,
        at_ms: u64,
    ) -> Result<Attempted, Verdictless> {
        let mut whole: Option<Attempted> = None;
        for (agent_id, connection, message) in messages {
            let state = whole.as_ref().map_or(state, |whole| &whole.decision.state);
            let one = |message| {
                let command =
                    Command::AgentMessages { agent_id: agent_id.to_owned(), connection, messages: vec![message] };
                self.decide(state, &command, caller, at_ms)
            };
            let mute = || FromAgent { seq: message.seq, message: None };
            let next = match one(message.clone()) {
                Err(Verdictless::Crashed) => one(mute()),
                attempt => attempt,
            };
            match (next, &mut whole) {
                (Ok(next), Some(whole)) => whole.append(next),
                (Ok(next), None) => whole = Some(next),
                // What came before the refusal happened: the agent is told the rest again.
                (Err(_), Some(_)) => break,
                (Err(why), None) => return Err(why),
            }
        }
        whole.ok_or(Verdictless::Crashed)
    }

    /// Decides what is due, as much as one record takes. False if nothing came of it: then there is no hurry.
    fn run_due(&mut self, node: &Node, ahead: &Ahead) -> bool {
        let (now, at_ms) = (Instant::now(), self.clock.now_ms().max(self.head.at_ms));
        let due = deadlines::due(&self.head, at_ms, &self.options, |what| self.aside.turn(what, now));
        if due.is_empty() {
            return false;
        }
        let n = self.n;
        let mut requests = due.into_iter().map(|due| unasked(Command::PassDeadline { due }));
        self.run_record(&mut requests, node, ahead);
        self.n > n
    }

    /// Decides a command of its own. False if nothing came of it.
    fn run_one(&mut self, command: Command, node: &Node, ahead: &Ahead) -> bool {
        let n = self.n;
        self.run_record(&mut std::iter::once(unasked(command)), node, ahead);
        self.n > n
    }

    /// Something due that comes to nothing is set aside, so that it is not asked about all the time.
    fn note_due(&mut self, command: &Command, attempt: &Result<Attempted, Verdictless>) {
        let Command::PassDeadline { due } = command else { return };
        let why = match attempt {
            Ok(attempted) if !attempted.decision.events.is_empty() => return self.aside.take_back(due),
            Ok(_) => "nothing came of it".to_owned(),
            Err(Verdictless::Refused(refusal)) => refusal.message.clone(),
            Err(Verdictless::Crashed) => "its decision crashed".to_owned(),
        };
        let again_s = self.aside.put(due, Instant::now()).as_secs();
        self.crashes.note_set_aside();
        tracing::error!(what = ?due.items(), why, again_s, "something due is set aside; everything else goes on");
    }

    /// Answers the oldest batch, whose flight ended.
    fn land(&mut self, landed: Result<u64, AppendError>, delivery: &Delivery) -> Result<(), AppendError> {
        let index = landed?;
        let Some(batch) = self.batches.pop_front() else { return Ok(()) };
        if let Some(decided) = batch.decided {
            self.crashes.counters().count_commit(decided.elapsed());
        }
        if let Some(state) = batch.state {
            delivery.ephemeral(state, batch.effects);
        }
        batch.denied.iter().for_each(|denied| self.admission.audit().note(denied));
        for (request, answer) in batch.answers {
            if answer.is_ok() && self.tracer.now().is_some() {
                let began = batch.decided.map(Instant::into_std);
                let attributes = vec![("index", index.to_string()), ("term", self.term.to_string())];
                self.tracer.part("append", began, request.attempt.request_id, attributes);
            }
            let outcome = match answer {
                Ok(Reply::Refused(refusal)) => Outcome::Refused(refusal.into()),
                Ok(reply) => Outcome::Done { index, reply },
                Err(Verdictless::Refused(refusal)) => Outcome::Refused(refusal.into()),
                Err(Verdictless::Crashed) => Outcome::Crashed,
            };
            // Whoever does not wait any more does not need the answer.
            let _ = request.reply.send(Verdict::Ended(outcome));
        }
        Ok(())
    }

    /// The oldest flight failed: nothing behind it can take effect either, but only `NotLeader` says that it never
    /// will itself.
    fn give_up(self, error: AppendError) {
        let never = matches!(error, AppendError::NotLeader { .. }) || planted(Bug::UnknownSaidUntried);
        tracing::info!(term = self.term, %error, batches = self.batches.len(), "records in flight were given up");
        for (request, _) in self.batches.into_iter().flat_map(|batch| batch.answers) {
            if never {
                not_tried(request);
            } else {
                let _ = request.reply.send(Verdict::Ended(Outcome::Unknown));
            }
        }
    }

    /// Leadership is lost: what was committed all the same is answered, the rest is unknown.
    async fn bid_farewell(mut self, delivery: &Delivery) {
        let deadline = Instant::now() + FAREWELL;
        loop {
            match tokio::time::timeout_at(deadline, self.flights.next()).await {
                Ok(None) => return,
                Ok(Some(landed)) => {
                    if let Err(error) = self.land(landed, delivery) {
                        return self.give_up(error);
                    }
                }
                Err(_) => return self.give_up(AppendError::Unknown),
            }
        }
    }
}

/// The events of a decision in the shapes of its feature level. An error is a defect of ours: nothing of it may be
/// appended.
fn encode(decision: &Decision) -> Result<Vec<Stored>, String> {
    let level = decision.level();
    let missing = |event: &Event| format!("feature level {level} has no shape for {}", event.name());
    decision.events.iter().map(|event| event.encode_at(level).ok_or_else(|| missing(event))).collect()
}

/// A command as operators are told of it.
fn named(command: &Command) -> String {
    let name = cause::name(command);
    match command {
        Command::PassDeadline { due } => format!("{name} of {:?}", due.items().first()),
        Command::AgentMessages { agent_id, .. } => format!("{name} of {agent_id}"),
        _ => name.to_owned(),
    }
}

/// What the access control lists refused to a caller, for the log of that.
fn audited(command: &Command, caller: &Caller, denied: &[Denied]) -> impl Iterator<Item = Refused> {
    denied.iter().map(move |denied| Refused {
        peer: caller.peer.clone(),
        principal: denied.principal.clone(),
        call: Some(cause::name(command).to_owned()),
        action: Some(denied.action.name()),
        object: denied.object.clone(),
        why: denied.why.clone(),
        ..Refused::default()
    })
}

/// Whether events of so many bytes can be one command's.
fn check_weight(bytes: usize) -> Result<(), Refusal> {
    if bytes <= COMMAND_BYTES_MAX {
        return Ok(());
    }
    let message =
        format!("What follows from this call has {bytes} bytes, more than the {COMMAND_BYTES_MAX} of a record");
    Err(Refusal::invalid(TOO_LARGE, message))
}

fn push_encoded(record: &mut Record, cause: event_log::Cause, events: Vec<Stored>) {
    let index = u32::try_from(record.causes.len()).expect("a batch has few causes");
    record.causes.push(cause);
    record.events.extend(events.into_iter().map(|(number, version, payload)| RawEvent {
        number,
        version,
        cause: index,
        payload,
    }));
}

fn not_tried(request: Request) {
    let _ = request.reply.send(Verdict::NotTried(Box::new(request.attempt)));
}

/// A command of the sequencer's own; nobody waits for its answer.
fn unasked(command: Command) -> Request {
    let attempt = Attempt { command, caller: Caller::default(), request_id: crate::identity::random().to_be_bytes() };
    Request { attempt, reply: oneshot::channel().0 }
}

/// Resolves when this node no longer leads in `term`.
async fn lost(mut status: watch::Receiver<Status>, term: u64) {
    let _ = status.wait_for(|status| status.role != Role::Leader || status.term != term).await;
}

/// Resolves when `deadline_ms` has passed, but not before `earliest`.
async fn passed(clock: &Steady, deadline_ms: Option<u64>, earliest: Instant) {
    let wait = Duration::from_millis(deadline_ms.unwrap_or(u64::MAX).saturating_sub(clock.now_ms()).min(3_600_000));
    tokio::time::sleep_until(earliest.max(Instant::now() + wait)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_master_could_read_again_is_refused() {
        assert!(check_weight(COMMAND_BYTES_MAX).is_ok());
        assert_eq!(check_weight(COMMAND_BYTES_MAX + 1).unwrap_err().name, "TooLarge");
    }
}
