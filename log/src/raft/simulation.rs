//! Whole quorums in virtual time: slow flushes, lost and late messages, members cut off, and crashes that lose what was
//! not flushed. Everything follows from one seed.
//!
//! What must hold: no two members ever apply different records at one index; what was acknowledged is there at the end,
//! on everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::async_runtime::AsyncRuntime;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::storage::Snapshot;
use openraft::{Config, OptionalSend, Raft, RaftNetworkFactory, RaftNetworkV2};
use openraft_rt_sim::SimRuntime;

use super::log_store::{Flushed, Flusher, LogStore};
use super::machine::{Applier, Committed, Machine, WriteSnapshot};
use super::node::{Options, config};
use super::snapshots::{SnapshotFile, Snapshots};
use super::types::{Clid, Data, Vote, quorum_types};
use crate::record::{Header, Record};
use crate::store::memory::Memory;

quorum_types!(
    /// The types of a simulated member.
    Sim,
    SimRuntime
);

type SimRaft = Raft<Sim, Applier<Sim>>;

const MEMBERS: u64 = 3;

/// A stream of random numbers (splitmix64).
struct Random(Mutex<u64>);

impl Random {
    fn below(&self, bound: u64) -> u64 {
        let mut state = lock(&self.0);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    async fn pause(&self, micros_max: u64) {
        SimRuntime::sleep(Duration::from_micros(self.below(micros_max))).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What everybody sees.
struct World {
    seed: u64,
    random: Random,
    /// By member: its present life, if it is up.
    up: Mutex<BTreeMap<u64, (u64, SimRaft)>>,
    cut: Mutex<BTreeSet<u64>>,
    /// (term, number) of the record applied at an index, by whoever came first.
    truth: Mutex<BTreeMap<u64, (u64, u64)>>,
    acknowledged: Mutex<BTreeSet<u64>>,
    snapshots: Snapshots,
    config: Arc<Config>,
}

/// Compares what its member applies with what others did.
struct Witness {
    world: Arc<World>,
    applied: Arc<Mutex<BTreeMap<u64, u64>>>,
}

impl Machine for Witness {
    fn apply(&mut self, entries: Vec<Committed>) {
        for Committed { index, term, record } in entries {
            let mine = (term, record.header.n);
            let truth = *lock(&self.world.truth).entry(index).or_insert(mine);
            assert_eq!(truth, mine, "two records at index {index}: seed {}", self.world.seed);
            lock(&self.applied).insert(index, record.header.n);
        }
    }

    fn snapshot(&self) -> WriteSnapshot {
        Box::new(|_| Ok(()))
    }

    fn restore(&mut self, _: u64, _: &mut dyn Read) -> Result<(), String> {
        Err("no snapshots here".into())
    }
}

/// Flushes late, for everybody who asked meanwhile.
struct SlowFlusher {
    world: Arc<World>,
    disk: Arc<Memory>,
    waiting: Arc<Mutex<(Vec<Flushed>, bool)>>,
}

impl Flusher for SlowFlusher {
    fn request(&self, done: Flushed) {
        let mut waiting = lock(&self.waiting);
        waiting.0.push(done);
        if std::mem::replace(&mut waiting.1, true) {
            return;
        }
        let (world, disk, queue) = (self.world.clone(), self.disk.clone(), self.waiting.clone());
        let _detached = SimRuntime::spawn(async move {
            loop {
                let asked = {
                    let mut waiting = lock(&queue);
                    if waiting.0.is_empty() {
                        waiting.1 = false;
                        return;
                    }
                    std::mem::take(&mut waiting.0)
                };
                let mark = disk.begin_flush();
                // Now and then a disk takes its time.
                world.random.pause(if world.random.below(20) == 0 { 60_000 } else { 3_000 }).await;
                let flushed = disk.end_flush(mark);
                for done in asked {
                    done(flushed.as_ref().map_or_else(|error| Err(io::Error::other(error.to_string())), |()| Ok(())));
                }
            }
        });
    }
}

struct SimLinks {
    world: Arc<World>,
    me: u64,
    life: u64,
}

impl RaftNetworkFactory<Sim> for SimLinks {
    type Network = SimPeer;

    async fn new_client(&mut self, target: u64, _: &String) -> SimPeer {
        SimPeer { world: self.world.clone(), me: self.me, life: self.life, target }
    }
}

struct SimPeer {
    world: Arc<World>,
    me: u64,
    life: u64,
    target: u64,
}

fn lost() -> Unreachable<Sim> {
    Unreachable::from_string("lost")
}

impl SimPeer {
    fn life_of(&self, id: u64) -> Option<u64> {
        lock(&self.world.up).get(&id).map(|(life, _)| *life)
    }

    /// The target, if a message gets through now.
    fn reach(&self) -> Result<(u64, SimRaft), Unreachable<Sim>> {
        let cut = lock(&self.world.cut);
        let dead = self.life_of(self.me) != Some(self.life);
        if dead || cut.contains(&self.me) || cut.contains(&self.target) || self.world.random.below(100) == 0 {
            return Err(lost());
        }
        lock(&self.world.up).get(&self.target).cloned().ok_or_else(lost)
    }

    /// Sends, lets the target work, and brings the answer back: each may be late or lost.
    async fn call<T: Send, F: Future<Output = Option<T>> + Send>(
        &self,
        work: impl FnOnce(SimRaft) -> F + Send,
    ) -> Result<T, Unreachable<Sim>> {
        let exchange = async {
            self.world.random.pause(4_000).await;
            let (life, raft) = self.reach()?;
            let answer = work(raft).await.ok_or_else(lost)?;
            self.world.random.pause(4_000).await;
            self.reach()?;
            if self.life_of(self.target) == Some(life) { Ok(answer) } else { Err(lost()) }
        };
        SimRuntime::timeout(Duration::from_millis(200), exchange).await.unwrap_or_else(|_| Err(lost()))
    }
}

impl RaftNetworkV2<Sim> for SimPeer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Sim>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Sim>, RPCError<Sim>> {
        Ok(self.call(|raft| async move { raft.append_entries(request).await.ok() }).await?)
    }

    async fn vote(&mut self, request: VoteRequest<Sim>, _: RPCOption) -> Result<VoteResponse<Sim>, RPCError<Sim>> {
        Ok(self.call(|raft| async move { raft.vote(request).await.ok() }).await?)
    }

    async fn pre_vote(&mut self, request: VoteRequest<Sim>, _: RPCOption) -> Result<VoteResponse<Sim>, RPCError<Sim>> {
        Ok(self.call(|raft| async move { raft.pre_vote(request).await.ok() }).await?)
    }

    async fn full_snapshot(
        &mut self,
        _: Vote,
        _: Snapshot<Clid, u64, String, SnapshotFile>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Sim>, StreamingError<Sim>> {
        Err(lost().into())
    }
}

/// A member across its lives.
struct Member {
    id: u64,
    life: u64,
    disk: Arc<Memory>,
    applied: Arc<Mutex<BTreeMap<u64, u64>>>,
}

impl Member {
    async fn start(&mut self, world: &Arc<World>) -> SimRaft {
        self.life += 1;
        self.applied = Arc::default();
        let waiting = Arc::default();
        let flusher = SlowFlusher { world: world.clone(), disk: self.disk.clone(), waiting };
        let store = LogStore::open(self.disk.clone(), Box::new(flusher)).expect("readable");
        assert!(store.committed() <= store.last(), "committed entries are gone: seed {}", world.seed);
        let witness = Witness { world: world.clone(), applied: self.applied.clone() };
        let applier = Applier::new(Box::new(witness), world.snapshots.clone());
        let links = SimLinks { world: world.clone(), me: self.id, life: self.life };
        let raft = SimRaft::new(self.id, world.config.clone(), links, store, applier).await.expect("starts");
        lock(&world.up).insert(self.id, (self.life, raft.clone()));
        raft
    }

    fn crash(&mut self, world: &World) {
        let Some((_, raft)) = lock(&world.up).remove(&self.id) else { return };
        self.disk = self.disk.crash(|unflushed| world.random.below(unflushed as u64 + 1) as usize);
        let _detached = SimRuntime::spawn(async move { raft.shutdown().await });
    }
}

/// Clients: each write goes to a random member; those that are acknowledged count.
fn spawn_write(world: &Arc<World>, number: u64) {
    let ups: Vec<SimRaft> = lock(&world.up).values().map(|(_, raft)| raft.clone()).collect();
    if ups.is_empty() {
        return;
    }
    let leader = ups.iter().find(|raft| raft.is_leader());
    let raft = leader.cloned().unwrap_or_else(|| ups[world.random.below(ups.len() as u64) as usize].clone());
    let world = world.clone();
    let _detached = SimRuntime::spawn(async move {
        let data = Data::new(Record { header: Header { n: number, ..Header::default() }, ..Record::default() });
        if raft.client_write(data).await.is_ok() {
            lock(&world.acknowledged).insert(number);
        }
    });
}

async fn run(world: Arc<World>) -> usize {
    let mut members: Vec<Member> =
        (1..=MEMBERS).map(|id| Member { id, life: 0, disk: Arc::default(), applied: Arc::default() }).collect();
    let mut rafts = Vec::new();
    for member in &mut members {
        rafts.push(member.start(&world).await);
    }
    let everybody: BTreeMap<u64, String> = (1..=MEMBERS).map(|id| (id, String::new())).collect();
    rafts[0].initialize(everybody).await.expect("forms");
    drop(rafts);

    let mut number = 0;
    for _ in 0..25 {
        for _ in 0..world.random.below(30) {
            number += 1;
            spawn_write(&world, number);
            world.random.pause(8_000).await;
        }
        let victim = world.random.below(MEMBERS) as usize;
        match world.random.below(4) {
            0 => lock(&world.cut).clear(),
            1 => {
                lock(&world.cut).insert(victim as u64 + 1);
            }
            _ => {
                // Most of all the leader: it has sent out what it has not flushed.
                let leader = members
                    .iter()
                    .position(|member| lock(&world.up).get(&member.id).is_some_and(|(_, raft)| raft.is_leader()));
                let victim = leader.filter(|_| world.random.below(3) > 0).unwrap_or(victim);
                members[victim].crash(&world);
                // Often back before anybody noticed.
                let away = if world.random.below(2) == 0 { 20_000 } else { 800_000 };
                world.random.pause(away).await;
                members[victim].start(&world).await;
            }
        }
    }

    // Peace: everybody gets to know everything.
    lock(&world.cut).clear();
    let last = number + 1;
    for _ in 0..2_000 {
        if !lock(&world.acknowledged).contains(&last) {
            spawn_write(&world, last);
        }
        SimRuntime::sleep(Duration::from_millis(20)).await;
        if members.iter().all(|member| lock(&member.applied).values().any(|number| *number == last)) {
            break;
        }
    }
    let logs: Vec<BTreeMap<u64, u64>> = members.iter().map(|member| lock(&member.applied).clone()).collect();
    let shortest = logs.iter().filter_map(|log| log.keys().next_back()).min().copied().unwrap_or(0);
    for log in &logs {
        assert!(log.values().any(|number| *number == last), "somebody never catches up: seed {}", world.seed);
        assert!(log.range(..=shortest).eq(logs[0].range(..=shortest)), "logs differ: seed {}", world.seed);
    }
    let present: BTreeSet<u64> = logs[0].values().copied().collect();
    let acknowledged = lock(&world.acknowledged).clone();
    let gone: Vec<_> = acknowledged.iter().filter(|number| **number < last && !present.contains(number)).collect();
    assert!(gone.is_empty(), "acknowledged and gone: {gone:?}: seed {}", world.seed);
    for member in &mut members {
        member.crash(&world);
    }
    acknowledged.len()
}

fn simulate(seed: u64, snapshots: &Snapshots, config: Arc<Config>) -> usize {
    let world = Arc::new(World {
        seed,
        random: Random(Mutex::new(seed)),
        up: Mutex::default(),
        cut: Mutex::default(),
        truth: Mutex::default(),
        acknowledged: Mutex::default(),
        snapshots: snapshots.clone(),
        config,
    });
    SimRuntime::with_seed(seed).block_on(run(world))
}

/// `SEED=n` runs one seed; `SEEDS=n` another number of them.
#[test]
fn crashes_that_lose_unflushed_entries_lose_nothing_acknowledged() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path().to_owned()).unwrap();
    let config = config(&Options::default()).unwrap();
    let seeds = number("SEED").map_or(0..number("SEEDS").unwrap_or(20), |seed| seed..seed + 1);
    let acknowledged: usize = seeds.map(|seed| simulate(seed, &snapshots, config.clone())).sum();
    assert!(acknowledged > 0, "the simulation does nothing");
}
