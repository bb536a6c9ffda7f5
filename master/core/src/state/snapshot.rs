//! State as bytes: for snapshots, and for the digest by which replicas compare themselves. Derived indexes are left
//! out and rebuilt.
//!
//! ```text
//! snapshot := magic · section head · sections of each map in turn
//! section  := entry* · end          entry := length u32 (little endian, > 0) · payload       end := length 0
//! ```

use super::*;
use serde::de::DeserializeOwned;
use std::io::{self, BufWriter, Read, Write};

const MAGIC: &[u8; 16] = b"meseta state 001";

/// Largest entry that is read, in bytes: a damaged length must not allocate more.
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

impl State {
    /// Writes everything that is not derived. The same State is always the same bytes.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_snapshot(&self, writer: &mut dyn Write) -> io::Result<()> {
        let mut writer = BufWriter::with_capacity(1 << 16, writer);
        let out = &mut writer;
        out.write_all(MAGIC)?;
        let head = Head {
            cluster_id: self.cluster_id.clone(),
            at_ms: self.at_ms,
            leader: self.leader.clone(),
            next_framework: self.frameworks.next,
            next_completed_framework: self.frameworks.next_completed,
            next_agent: self.agents.next,
            next_offer: self.offers.next,
            plans: self.offers.plans,
            next_completed_task: self.tasks.next_completed,
        };
        section(out, [head])?;
        section(out, self.masters.iter())?;
        section(out, self.frameworks.live.iter())?;
        section(out, self.frameworks.by_id.iter())?;
        section(out, self.frameworks.completed.iter())?;
        section(out, self.agents.live.iter())?;
        section(out, self.agents.by_token.iter())?;
        section(out, self.agents.gone.iter())?;
        section(out, self.offers.live.iter())?;
        section(out, self.tasks.live.iter())?;
        section(out, self.tasks.completed.iter())?;
        writer.flush()
    }

    /// Reads what [`State::write_snapshot`] wrote.
    ///
    /// # Errors
    /// A [`SnapshotError`] if the bytes are anything else.
    pub fn read_snapshot(reader: &mut dyn Read) -> Result<State, SnapshotError> {
        let mut reader = io::BufReader::with_capacity(1 << 16, reader);
        let mut magic = [0; MAGIC.len()];
        reader.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(SnapshotError::Foreign);
        }
        let input = &mut reader;
        let head: Head = entries(input)?.pop().ok_or(SnapshotError::Foreign)?;
        let mut state = State {
            cluster_id: head.cluster_id,
            at_ms: head.at_ms,
            leader: head.leader,
            masters: map(input)?,
            frameworks: Frameworks {
                live: map(input)?,
                by_id: map(input)?,
                completed: map(input)?,
                next_completed: head.next_completed_framework,
                next: head.next_framework,
                by_role: OrdSet::new(),
            },
            agents: Agents {
                live: map(input)?,
                by_token: map(input)?,
                gone: map(input)?,
                next: head.next_agent,
                by_address: OrdSet::new(),
            },
            offers: Offers {
                live: map(input)?,
                next: head.next_offer,
                plans: head.plans,
                by_agent: OrdSet::new(),
                by_framework: OrdSet::new(),
            },
            tasks: Tasks {
                live: map(input)?,
                completed: map(input)?,
                next_completed: head.next_completed_task,
                by_agent: OrdSet::new(),
                completed_counts: OrdMap::new(),
            },
            deadlines: OrdSet::new(),
        };
        state.rebuild();
        Ok(state)
    }

    /// A fingerprint of everything that is not derived.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        self.write_snapshot(&mut hasher).expect("a hasher takes every byte");
        *hasher.finalize().as_bytes()
    }

    /// Makes the derived indexes anew.
    pub(crate) fn rebuild(&mut self) {
        self.frameworks.by_role = OrdSet::new();
        self.deadlines = OrdSet::new();
        for framework in self.frameworks.live.values() {
            for role in framework.roles.keys() {
                self.frameworks.by_role.insert((role.clone(), framework.key));
            }
            if let Some(deadline_ms) = framework.failover_deadline_ms {
                self.deadlines.insert((deadline_ms, Deadline::Framework(framework.key)));
            }
        }
        self.agents.by_address = self.agents.live.values().map(|agent| (agent.address.clone(), agent.key)).collect();
        for agent in self.agents.live.values() {
            if let AgentLiveness::Disconnected { deadline_ms, .. } = agent.liveness {
                self.deadlines.insert((deadline_ms, Deadline::Agent(agent.key)));
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
        self.tasks.completed_counts = OrdMap::new();
        for (framework, _) in self.tasks.completed.keys() {
            *self.tasks.completed_counts.entry(*framework).or_insert(0) += 1;
        }
    }
}

fn section<T: Serialize>(out: &mut impl Write, entries: impl IntoIterator<Item = T>) -> io::Result<()> {
    for entry in entries {
        let payload = event_log::encode_payload(&entry);
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(&payload)?;
    }
    out.write_all(&0_u32.to_le_bytes())
}

fn entries<T: DeserializeOwned>(input: &mut impl Read) -> Result<Vec<T>, SnapshotError> {
    let mut entries = Vec::new();
    let mut payload = Vec::new();
    loop {
        let mut length = [0; 4];
        input.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length == 0 {
            return Ok(entries);
        }
        if length > ENTRY_BYTES_MAX {
            return Err(SnapshotError::TooLong(length));
        }
        payload.resize(length as usize, 0);
        input.read_exact(&mut payload)?;
        entries.push(event_log::decode_payload(&payload)?);
    }
}

fn map<K: DeserializeOwned + Ord + Clone, V: DeserializeOwned + Clone>(
    input: &mut impl Read,
) -> Result<OrdMap<K, V>, SnapshotError> {
    Ok(entries::<(K, V)>(input)?.into_iter().collect())
}
