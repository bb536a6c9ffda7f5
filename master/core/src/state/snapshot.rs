//! State as bytes: for snapshots, and for the digest by which replicas compare themselves. Derived indexes are left
//! out and rebuilt.
//!
//! ```text
//! snapshot := magic · section* in the order of [`State::visit`]
//! section  := name · entry* · end          name := length u8 · text, from format 004 on
//! entry    := length u32 (little endian, > 0) · payload       end := length 0
//! ```
//!
//! What level 4 and later ones brought is in rooms of its own, each a section that is found by its name: one that is not
//! there is empty. A room whose entries change gets another name; the structs of the sections before are frozen.
//!
//! What is written is the projection for the cluster's feature level: releases that read more write the same bytes as
//! those that do not, until the level is raised. Format 001 is that of level 1, format 002 that of level 2, and so on.

use super::charged::Charged;
use super::operations::Operation;
use super::unfinished::{AgentEnd, FrameworkEnd};
use super::*;
use crate::ids::{JoinTokenKey, OperationKey, TaskId};
use serde::de::DeserializeOwned;
use std::io::{self, BufWriter, Read, Write};

const MAGIC_1: &[u8; 16] = b"meseta state 001";
const MAGIC_2: &[u8; 16] = b"meseta state 002";
const MAGIC_3: &[u8; 16] = b"meseta state 003";
const MAGIC_4: &[u8; 16] = b"meseta state 004";

/// Largest entry that is written or read, in bytes: a damaged length must not allocate more.
const ENTRY_BYTES_MAX: u32 = 256 << 20;

/// Why a snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The reader failed, or ended early.
    #[error("cannot read the snapshot")]
    Io(#[from] io::Error),
    /// Not a snapshot of State, or one of a newer release.
    #[error("these are not the bytes of a state that this release can read")]
    Foreign,
    /// A room that this release does not have.
    #[error("the snapshot has a section {0}, which this release cannot read: it needs a newer release")]
    UnknownSection(String),
    /// A state of a higher feature level.
    #[error(
        "the snapshot is of feature level {level}, and this release reads levels up to {reads}: it needs a newer release"
    )]
    Level {
        /// Of the state.
        level: FeatureLevel,
        /// The highest that is read.
        reads: FeatureLevel,
    },
    /// An entry is not what it should be.
    #[error("an entry of the snapshot is damaged")]
    Damaged(#[from] event_log::CodecError),
    /// An entry is longer than any can be.
    #[error("an entry of the snapshot has {0} bytes")]
    TooLong(u32),
}

/// What is not in a map.
#[derive(Serialize, Deserialize)]
struct Head {
    cluster_id: Arc<str>,
    at_ms: u64,
    leader: Option<Leader>,
    next_framework: u32,
    next_completed_framework: u64,
    next_agent: u64,
    next_offer: u64,
    plans: u64,
    next_completed_task: u64,
}

/// What is not in a map, from level 2 on.
#[derive(Serialize, Deserialize)]
struct Features {
    level: FeatureLevel,
    digest_every: u64,
    last_digest: Option<LoggedDigest>,
}

/// A master at level 1.
#[derive(Serialize, Deserialize)]
struct Master1 {
    incarnation: Incarnation,
    address: Arc<str>,
    version: Arc<str>,
    started_ms: u64,
    alive: bool,
}

impl Master1 {
    fn lower(master: &Master) -> Master1 {
        let Master { incarnation, address, version, started_ms, alive, reads: _ } = master.clone();
        Master1 { incarnation, address, version, started_ms, alive }
    }

    fn lift(self) -> Arc<Master> {
        let Master1 { incarnation, address, version, started_ms, alive } = self;
        Arc::new(Master { incarnation, address, version, started_ms, alive, reads: FeatureLevel::FIRST })
    }
}

/// Takes State in, section by section, each entry in its order.
pub trait Sections {
    /// A section begins; the one before it is over.
    ///
    /// # Errors
    /// Whatever ends the visit.
    fn section(&mut self, name: &'static str) -> io::Result<()>;

    /// An entry of the section: a key and its value, or what is in no map.
    ///
    /// # Errors
    /// Whatever ends the visit.
    fn entry<T: Serialize>(&mut self, entry: &T) -> io::Result<()>;
}

/// The digest of one section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionDigest {
    /// Of the section, as [`State::visit`] names it.
    pub name: &'static str,
    /// How many entries it has.
    pub entries: u64,
    /// Over the bytes of its entries.
    pub digest: [u8; 32],
}

/// Fingerprints of a State, as a whole and section by section: where two states differ, they tell in which map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Over the sections' names and digests.
    pub total: [u8; 32],
    /// In the order of [`State::visit`].
    pub sections: Vec<SectionDigest>,
}

impl State {
    /// Shows everything that is not derived, as the cluster's feature level has it. Equal states show the same.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn visit(&self, out: &mut impl Sections) -> io::Result<()> {
        out.section("head")?;
        out.entry(&Head {
            cluster_id: self.cluster_id.clone(),
            at_ms: self.at_ms,
            leader: self.leader.clone(),
            next_framework: self.frameworks.next,
            next_completed_framework: self.frameworks.next_completed,
            next_agent: self.agents.next,
            next_offer: self.offers.next,
            plans: self.offers.plans,
            next_completed_task: self.tasks.next_completed,
        })?;
        if self.feature_level > FeatureLevel::FIRST {
            out.section("features")?;
            let (level, digest_every) = (self.feature_level, self.digest_every);
            out.entry(&Features { level, digest_every, last_digest: self.last_digest.clone() })?;
            visit(out, "masters", &self.masters)?;
        } else {
            out.section("masters")?;
            self.masters.iter().try_for_each(|(node, master)| out.entry(&(node, Master1::lower(master))))?;
        }
        if self.feature_level.forgets() {
            // A framework has as many filters as roles and agents: each is an entry of its own.
            out.section("frameworks")?;
            self.frameworks
                .live
                .iter()
                .try_for_each(|(key, framework)| out.entry(&(key, framework.without_filters())))?;
            out.section("filters")?;
            self.frameworks.live.iter().try_for_each(|(key, framework)| {
                let of_role = |(role, state): (&Arc<str>, &RoleState)| {
                    let entry = |(agent, filter): (&AgentKey, &RoleFilter)| out.entry(&(key, role, agent, filter));
                    state.filters.iter().try_for_each(entry)
                };
                framework.roles.iter().try_for_each(of_role)
            })?;
        } else {
            visit(out, "frameworks", &self.frameworks.live)?;
        }
        visit(out, "framework ids", &self.frameworks.by_id)?;
        visit(out, "completed frameworks", &self.frameworks.completed)?;
        visit(out, "agents", &self.agents.live)?;
        visit(out, "agent tokens", &self.agents.by_token)?;
        visit(out, "gone agents", &self.agents.gone)?;
        visit(out, "offers", &self.offers.live)?;
        visit(out, "tasks", &self.tasks.live)?;
        visit(out, "completed tasks", &self.tasks.completed)?;
        if self.feature_level.has_steps() {
            visit(out, "ending frameworks", &self.unfinished.frameworks)?;
            visit(out, "ending agents", &self.unfinished.agents)?;
            visit(out, "returning agents", &self.unfinished.returns)?;
            out.section("history")?;
            out.entry(&self.history)?;
        }
        if self.feature_level.has_resource_model() {
            self.visit_rooms(out)?;
        }
        Ok(())
    }

    fn magic(&self) -> &'static [u8; 16] {
        match self.feature_level {
            FeatureLevel::FIRST => MAGIC_1,
            FeatureLevel(2) => MAGIC_2,
            FeatureLevel(3) => MAGIC_3,
            _ => MAGIC_4,
        }
    }

    /// Writes everything that is not derived. The same State is always the same bytes.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_snapshot(&self, writer: &mut dyn Write) -> io::Result<()> {
        self.write_snapshot_with(writer, ENTRY_BYTES_MAX)
    }

    fn write_snapshot_with(&self, writer: &mut dyn Write, entry_bytes_max: u32) -> io::Result<()> {
        let out = BufWriter::with_capacity(1 << 16, writer);
        let has_names = self.feature_level.has_resource_model();
        let mut writer = Writer { out, has_names, open: false, section: "", entry_bytes_max };
        writer.out.write_all(self.magic())?;
        self.visit(&mut writer)?;
        writer.end()?;
        writer.out.flush()
    }

    /// Reads what [`State::write_snapshot`] wrote.
    ///
    /// # Errors
    /// A [`SnapshotError`] if the bytes are anything else.
    pub fn read_snapshot(reader: &mut dyn Read) -> Result<State, SnapshotError> {
        State::read_snapshot_at(reader, FeatureLevel::NEWEST)
    }

    /// Reads what [`State::write_snapshot`] wrote, as a release reads it that knows the levels up to `reads`.
    ///
    /// # Errors
    /// As [`State::read_snapshot`].
    pub fn read_snapshot_at(reader: &mut dyn Read, reads: FeatureLevel) -> Result<State, SnapshotError> {
        let input = &mut Input::new(reader)?;
        let head: Head = entries(input, "head")?.pop().ok_or(SnapshotError::Foreign)?;
        let (features, masters) = if input.level == FeatureLevel::FIRST {
            let masters = entries::<(NodeId, Master1)>(input, "masters")?;
            let features = Features { level: FeatureLevel::FIRST, digest_every: 0, last_digest: None };
            (features, masters.into_iter().map(|(node, master)| (node, master.lift())).collect())
        } else {
            let features: Features = entries(input, "features")?.pop().ok_or(SnapshotError::Foreign)?;
            if features.level > reads {
                return Err(SnapshotError::Level { level: features.level, reads });
            }
            (features, map(input, "masters")?)
        };
        let mut state = State {
            cluster_id: head.cluster_id,
            at_ms: head.at_ms,
            leader: head.leader,
            feature_level: features.level,
            digest_every: features.digest_every,
            last_digest: features.last_digest,
            masters,
            frameworks: Frameworks {
                live: if input.level.forgets() { frameworks(input)? } else { map(input, "frameworks")? },
                by_id: map(input, "framework ids")?,
                completed: map(input, "completed frameworks")?,
                next_completed: head.next_completed_framework,
                next: head.next_framework,
                by_role: OrdSet::new(),
            },
            agents: Agents {
                live: map(input, "agents")?,
                by_token: map(input, "agent tokens")?,
                gone: map(input, "gone agents")?,
                next: head.next_agent,
                by_address: OrdSet::new(),
                charged: Charged::default(),
            },
            offers: Offers {
                live: map(input, "offers")?,
                next: head.next_offer,
                plans: head.plans,
                by_agent: OrdSet::new(),
                by_framework: OrdSet::new(),
            },
            tasks: Tasks {
                live: map(input, "tasks")?,
                completed: map(input, "completed tasks")?,
                next_completed: head.next_completed_task,
                by_agent: OrdSet::new(),
                completed_counts: OrdMap::new(),
            },
            ..State::default()
        };
        if input.level.has_steps() {
            let frameworks = map(input, "ending frameworks")?;
            let (agents, returns) = (map(input, "ending agents")?, map(input, "returning agents")?);
            state.unfinished = Unfinished { frameworks, agents, returns };
            state.history = entries(input, "history")?.pop().ok_or(SnapshotError::Foreign)?;
        }
        if input.level.has_resource_model() {
            while let Some(name) = input.name()? {
                state.read_room(&name, input)?;
            }
            if event_log::planted(event_log::Bug::RolesNotInSnapshot) {
                state.roles = Roles::default();
            }
        }
        state.rebuild();
        Ok(state)
    }

    /// Reads what [`State::write_snapshot`] wrote, entry by entry, and keeps nothing of it.
    ///
    /// # Errors
    /// As [`State::read_snapshot`], which then fails too.
    pub fn check_snapshot(reader: &mut dyn Read) -> Result<(), SnapshotError> {
        let input = &mut Input::new(reader)?;
        skim::<Head>(input, "head")?;
        if input.level == FeatureLevel::FIRST {
            skim::<(NodeId, Master1)>(input, "masters")?;
        } else {
            skim::<Features>(input, "features")?;
            skim::<(NodeId, Arc<Master>)>(input, "masters")?;
        }
        skim::<(FrameworkKey, Arc<Framework>)>(input, "frameworks")?;
        if input.level.forgets() {
            skim::<Filter>(input, "filters")?;
        }
        skim::<(Arc<str>, FrameworkKey)>(input, "framework ids")?;
        skim::<(u64, Arc<CompletedFramework>)>(input, "completed frameworks")?;
        skim::<(AgentKey, Arc<Agent>)>(input, "agents")?;
        skim::<(u128, AgentKey)>(input, "agent tokens")?;
        skim::<(AgentKey, GoneAgent)>(input, "gone agents")?;
        skim::<(OfferKey, Arc<Offer>)>(input, "offers")?;
        skim::<((FrameworkKey, TaskId), Arc<Task>)>(input, "tasks")?;
        skim::<((FrameworkKey, u64), Arc<Task>)>(input, "completed tasks")?;
        if input.level.has_steps() {
            skim::<(FrameworkKey, FrameworkEnd)>(input, "ending frameworks")?;
            skim::<(AgentKey, AgentEnd)>(input, "ending agents")?;
            skim::<(AgentKey, u64)>(input, "returning agents")?;
            skim::<History>(input, "history")?;
        }
        if input.level.has_resource_model() {
            while let Some(name) = input.name()? {
                State::skim_room(&name, input)?;
            }
        }
        input.end()
    }

    /// A fingerprint of everything that is not derived.
    pub fn digest(&self) -> [u8; 32] {
        self.digests().total
    }

    /// Fingerprints of everything that is not derived.
    pub fn digests(&self) -> Digests {
        let mut digester = Digester::default();
        self.visit(&mut digester).expect("a hasher takes every entry");
        digester.finish(self.magic())
    }

    /// Makes the derived indexes anew.
    pub(crate) fn rebuild(&mut self) {
        self.constraints.rebuild();
        self.identities.rebuild();
        self.frameworks.by_role = OrdSet::new();
        self.deadlines = self.unfinished.deadlines();
        for framework in self.frameworks.live.values() {
            for role in framework.roles.keys() {
                self.frameworks.by_role.insert((role.clone(), framework.key));
            }
            if let Some(deadline_ms) = framework.failover_deadline_ms {
                self.deadlines.insert((deadline_ms, Deadline::Framework(framework.key)));
            }
        }
        self.agents.by_address = self.agents.live.values().map(|agent| (agent.address.clone(), agent.key)).collect();
        self.agents.charged = Charged::default();
        self.agents.keep_charged(self.roles.has_limits());
        for agent in self.agents.live.values() {
            if let AgentLiveness::Disconnected { deadline_ms, .. } = agent.liveness {
                self.deadlines.insert((deadline_ms, Deadline::Agent(agent.key)));
            }
        }
        self.maintenance.rebuild();
        for (key, offer) in &self.maintenance.inverse_offers {
            if let Some(expires_ms) = offer.expires_ms {
                self.deadlines.insert((expires_ms, Deadline::InverseOffer(*key)));
            }
        }
        self.offers.by_agent = OrdSet::new();
        self.offers.by_framework = OrdSet::new();
        for offer in self.offers.live.clone().values() {
            self.offers.index(offer);
            if let Some(expires_ms) = offer.expires_ms {
                self.deadlines.insert((expires_ms, Deadline::Offer(offer.key)));
            }
        }
        self.tasks.by_agent =
            self.tasks.live.values().map(|task| (task.agent, task.framework, task.task_id.clone())).collect();
        self.operations.rebuild();
        self.tasks.completed_counts = OrdMap::new();
        for (framework, _) in self.tasks.completed.keys() {
            *self.tasks.completed_counts.entry(*framework).or_insert(0) += 1;
        }
    }
}

fn visit<K: Serialize + Ord, V: Serialize>(
    out: &mut impl Sections,
    name: &'static str,
    map: &OrdMap<K, V>,
) -> io::Result<()> {
    out.section(name)?;
    map.iter().try_for_each(|entry| out.entry(&entry))
}

macro_rules! rooms {
    ($(map $level:literal $name:literal $($path:ident).+: $key:ty => $value:ty;)* $(one $of:literal $single:literal $($field:ident).+: $type:ty;)*) => {
        impl State {
            /// What level 4 and later ones brought: maps, entry by entry, and what is in no map.
            fn visit_rooms(&self, out: &mut impl Sections) -> io::Result<()> {
                $(if self.feature_level >= FeatureLevel($level) {
                    visit(out, $name, &self.$($path).+)?;
                })*
                $(if self.feature_level >= FeatureLevel($of) {
                    out.section($single)?;
                    out.entry(&self.$($field).+)?;
                })*
                Ok(())
            }

            fn read_room(&mut self, name: &str, input: &mut Input<'_>) -> Result<(), SnapshotError> {
                match name {
                    $($name => self.$($path).+ = rest::<($key, $value)>(input)?.into_iter().collect(),)*
                    $($single => self.$($field).+ = rest(input)?.pop().ok_or(SnapshotError::Foreign)?,)*
                    _ => return Err(SnapshotError::UnknownSection(name.to_owned())),
                }
                Ok(())
            }

            fn skim_room(name: &str, input: &mut Input<'_>) -> Result<(), SnapshotError> {
                match name {
                    $($name => each(input, |_: ($key, $value)| {}),)*
                    $($single => each(input, |_: $type| {}),)*
                    _ => Err(SnapshotError::UnknownSection(name.to_owned())),
                }
            }
        }
    };
}

// The level from which on it is written, and a map by its key and value, or one value that is in no map, of at least a
// byte. What is derived is skipped by serde.
rooms! {
    map 4 "drains" drains.by_agent: AgentKey => super::drains::Drain;
    map 4 "machines" maintenance.machines: super::maintenance::MachineKey => super::maintenance::Machine;
    map 4 "inverse offers" maintenance.inverse_offers: OfferKey => super::maintenance::InverseOffer;
    map 4 "inverse answers" maintenance.answers: (AgentKey, FrameworkKey) => super::maintenance::Answer;
    map 4 "oversubscribed" oversubscribed.by_agent: AgentKey => api::resources::Resources;
    map 4 "turns" turns.counts: (FrameworkKey, Arc<str>) => u64;
    map 4 "more filters" refusals.more: (FrameworkKey, Arc<str>, AgentKey) => Vec<RoleFilter>;
    map 4 "offer constraints" constraints.said: FrameworkKey => bytes::Bytes;
    map 4 "quotas" roles.quotas: Arc<str> => Arc<roles::Quota>;
    map 4 "weights" roles.weights: Arc<str> => roles::Weight;
    map 4 "held since" held.since: held::HeldKey => u64;
    map 4 "brakes" brakes.pulled: brakes::Brake => brakes::Pulled;
    map 4 "operations" operations.live: OperationKey => Arc<Operation>;
    map 5 "join tokens" identities.tokens: JoinTokenKey => identities::JoinToken;
    map 5 "identities" identities.of_agents: AgentKey => identities::Bound;
    map 6 "providers" providers.by_agent: AgentKey => Vec<super::providers::Provider>;
    map 6 "operations of providers" operations.of_providers: OperationKey => Arc<super::operations::OfProvider>;
    one 4 "maintenance windows" maintenance.windows: Vec<super::maintenance::Window>;
    one 4 "next operation" operations.next: u64;
    one 5 "next join token" identities.next_token: u64;
}

/// The file format.
struct Writer<W: Write> {
    out: BufWriter<W>,
    has_names: bool,
    open: bool,
    section: &'static str,
    entry_bytes_max: u32,
}

impl<W: Write> Writer<W> {
    fn end(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.open, false) { self.out.write_all(&0_u32.to_le_bytes()) } else { Ok(()) }
    }
}

impl<W: Write> Sections for Writer<W> {
    fn section(&mut self, name: &'static str) -> io::Result<()> {
        self.end()?;
        (self.open, self.section) = (true, name);
        if self.has_names {
            let length = u8::try_from(name.len()).map_err(io::Error::other)?;
            self.out.write_all(&[length])?;
            self.out.write_all(name.as_bytes())?;
        }
        Ok(())
    }

    fn entry<T: Serialize>(&mut self, entry: &T) -> io::Result<()> {
        let payload = event_log::encode_payload(entry);
        let bytes = payload.len();
        // What could not be read again must not be the base of anything: the log stays instead.
        let length = u32::try_from(bytes).ok().filter(|length| *length <= self.entry_bytes_max);
        let length = length.ok_or_else(|| {
            let most = self.entry_bytes_max;
            io::Error::other(format!(
                "an entry of {} has {bytes} bytes, more than the {most} that are read",
                self.section
            ))
        })?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&payload)
    }
}

#[derive(Default)]
struct Digester {
    sections: Vec<SectionDigest>,
    hasher: blake3::Hasher,
}

impl Digester {
    fn end(&mut self) {
        if let Some(section) = self.sections.last_mut() {
            section.digest = *self.hasher.finalize().as_bytes();
            self.hasher.reset();
        }
    }

    fn finish(mut self, magic: &[u8; 16]) -> Digests {
        self.end();
        let mut hasher = blake3::Hasher::new();
        hasher.update(magic);
        for SectionDigest { name, entries, digest } in &self.sections {
            hasher.update(name.as_bytes()).update(&[0]).update(&entries.to_le_bytes()).update(digest);
        }
        Digests { total: *hasher.finalize().as_bytes(), sections: self.sections }
    }
}

impl Sections for Digester {
    fn section(&mut self, name: &'static str) -> io::Result<()> {
        self.end();
        self.sections.push(SectionDigest { name, entries: 0, digest: [0; 32] });
        Ok(())
    }

    fn entry<T: Serialize>(&mut self, entry: &T) -> io::Result<()> {
        let payload = event_log::encode_payload(entry);
        self.hasher.update(&(payload.len() as u64).to_le_bytes()).update(&payload);
        if let Some(section) = self.sections.last_mut() {
            section.entries += 1;
        }
        Ok(())
    }
}

/// A filter: whose, for which role, of which agent.
type Filter = (FrameworkKey, Arc<str>, AgentKey, RoleFilter);

/// A snapshot that is read.
struct Input<'a> {
    reader: io::BufReader<&'a mut dyn Read>,
    /// Of the format.
    level: FeatureLevel,
}

impl<'a> Input<'a> {
    fn new(reader: &'a mut dyn Read) -> Result<Input<'a>, SnapshotError> {
        let mut reader = io::BufReader::with_capacity(1 << 16, reader);
        let mut magic = [0; MAGIC_1.len()];
        reader.read_exact(&mut magic)?;
        let level = [MAGIC_1, MAGIC_2, MAGIC_3, MAGIC_4].iter().position(|known| **known == magic);
        let level = u32::try_from(level.ok_or(SnapshotError::Foreign)?).unwrap_or_default() + 1;
        Ok(Input { reader, level: FeatureLevel(level) })
    }

    /// The name of the next section; None at the end.
    fn name(&mut self) -> Result<Option<String>, SnapshotError> {
        let mut length = [0];
        if self.reader.read(&mut length)? == 0 {
            return Ok(None);
        }
        let mut name = vec![0; length[0].into()];
        self.reader.read_exact(&mut name)?;
        String::from_utf8(name).map(Some).map_err(|_| SnapshotError::Foreign)
    }

    /// The next section is this one.
    fn begin(&mut self, name: &'static str) -> Result<(), SnapshotError> {
        if self.level.has_resource_model() && self.name()?.as_deref() != Some(name) {
            return Err(SnapshotError::Foreign);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), SnapshotError> {
        if self.reader.read(&mut [0])? == 0 { Ok(()) } else { Err(SnapshotError::Foreign) }
    }
}

/// Frameworks with their filters, which are a section of their own.
fn frameworks(input: &mut Input<'_>) -> Result<OrdMap<FrameworkKey, Arc<Framework>>, SnapshotError> {
    let mut frameworks: OrdMap<FrameworkKey, Arc<Framework>> = map(input, "frameworks")?;
    input.begin("filters")?;
    each(input, |(key, role, agent, filter): Filter| {
        let framework = frameworks.get_mut(&key).map(Arc::make_mut);
        if let Some(role) = framework.and_then(|framework| framework.roles.get_mut(&role)) {
            role.filters.insert(agent, filter);
        }
    })?;
    Ok(frameworks)
}

fn skim<T: DeserializeOwned>(input: &mut Input<'_>, name: &'static str) -> Result<(), SnapshotError> {
    input.begin(name)?;
    each(input, |_: T| {})
}

fn entries<T: DeserializeOwned>(input: &mut Input<'_>, name: &'static str) -> Result<Vec<T>, SnapshotError> {
    input.begin(name)?;
    rest(input)
}

fn map<K: DeserializeOwned + Ord + Clone, V: DeserializeOwned + Clone>(
    input: &mut Input<'_>,
    name: &'static str,
) -> Result<OrdMap<K, V>, SnapshotError> {
    Ok(entries::<(K, V)>(input, name)?.into_iter().collect())
}

/// The entries of a section that has begun.
fn rest<T: DeserializeOwned>(input: &mut Input<'_>) -> Result<Vec<T>, SnapshotError> {
    let mut entries = Vec::new();
    each(input, |entry| entries.push(entry))?;
    Ok(entries)
}

/// Reads the entries of a section that has begun.
fn each<T: DeserializeOwned>(input: &mut Input<'_>, mut take: impl FnMut(T)) -> Result<(), SnapshotError> {
    let mut payload = Vec::new();
    loop {
        let mut length = [0; 4];
        input.reader.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length == 0 {
            return Ok(());
        }
        if length > ENTRY_BYTES_MAX {
            return Err(SnapshotError::TooLong(length));
        }
        // As it comes: a length alone sets nothing aside.
        payload.clear();
        if input.reader.by_ref().take(length.into()).read_to_end(&mut payload)? < length as usize {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        take(event_log::decode_payload(&payload)?);
    }
}

#[cfg(test)]
mod tests {
    use crate::state::State;
    use crate::testing::Cluster;

    #[test]
    fn what_no_master_could_read_again_is_not_written() {
        let mut cluster = Cluster::new();
        cluster.subscribe_with(|info| info.hostname = Some("x".repeat(200)));
        let mut bytes = Vec::new();
        let why = cluster.state.write_snapshot_with(&mut bytes, 200).unwrap_err().to_string();
        assert!(why.starts_with("an entry of frameworks has ") && why.contains("more than the 200"), "{why}");
        bytes.clear();
        cluster.state.write_snapshot_with(&mut bytes, 1_000).unwrap();
        State::check_snapshot(&mut bytes.as_slice()).unwrap();
        assert!(State::check_snapshot(&mut &bytes[..bytes.len() - 1]).is_err());
        let middle = bytes.len() / 2;
        bytes[middle..middle + 4].fill(0xff);
        bytes.truncate(middle + 4);
        assert!(State::check_snapshot(&mut bytes.as_slice()).is_err());
    }

    #[test]
    fn sections_have_names_and_a_newer_one_is_named() {
        let mut cluster = Cluster::new();
        cluster.raise();
        cluster.subscribe();
        let mut bytes = Vec::new();
        cluster.state.write_snapshot(&mut bytes).unwrap();
        assert_eq!(State::read_snapshot(&mut bytes.as_slice()).unwrap(), cluster.state);
        State::check_snapshot(&mut bytes.as_slice()).unwrap();
        bytes.extend(b"\x05tides\0\0\0\0");
        for why in
            [State::read_snapshot(&mut bytes.as_slice()).map(|_| ()), State::check_snapshot(&mut bytes.as_slice())]
        {
            let why = why.unwrap_err().to_string();
            assert_eq!(
                why,
                "the snapshot has a section tides, which this release cannot read: it needs a newer release"
            );
        }
    }

    #[test]
    fn a_framework_with_many_filters_is_many_entries() {
        let mut cluster = Cluster::new();
        cluster.raise();
        let framework = cluster.subscribe();
        for _ in 0..500 {
            cluster.agent("cpus:1;mem:100");
        }
        let offers = cluster.offer();
        cluster.decline(framework, &offers, Some(3600.0));
        let mut bytes = Vec::new();
        cluster.state.write_snapshot_with(&mut bytes, 2_000).unwrap();
        assert_eq!(State::read_snapshot(&mut bytes.as_slice()).unwrap(), cluster.state);
        State::check_snapshot(&mut bytes.as_slice()).unwrap();
    }
}
