//! Changing who is in a quorum while it works.
//!
//! ```text
//! empty disk ──join──► waits ──add, replace──► learner ──caught up──► voter ──remove, replace──► out
//! ```
//!
//! Only the leader changes the quorum, one change at a time, and only what leaves a quorum that answers. A member is
//! its disk, not its address: a wiped disk is somebody else, who must be let in anew and cannot vote before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, Weak};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use tokio::sync::watch;

use super::network::CallError;
use super::node::{Inner, Node, NotLeader};
use super::status::Role;
use super::types::Member;
use super::wire::{Hello, Refused, Request, Response};

const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(50);
/// A learner that gets no further for this long is let go again.
const STALLED: Duration = Duration::from_secs(20);
/// A learner that lacks no more entries than this votes: the rest arrives like everything new.
const BEHIND_ENTRIES_MAX: u64 = 64;
/// How long a change may take to be committed.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Without a leader a member asks this often whether it is still one.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// A leader looks this often whether a change was left half done.
const SETTLE_EVERY: Duration = Duration::from_millis(500);

/// Why the quorum was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// Only the leader changes the quorum.
    #[error("this master does not lead")]
    NotLeader {
        /// Who leads, if that is known.
        leader: Option<Member>,
    },
    /// Another change has not ended.
    #[error("another change of the masters is under way")]
    Busy,
    /// Nobody is reached at the address.
    #[error("{address} cannot be added: it does not answer ({why})")]
    Unreachable {
        /// host:port
        address: String,
        /// What was tried.
        why: String,
    },
    /// Whoever answers there does not wait to be added.
    #[error("{address} cannot be added: {why}")]
    NotWaiting {
        /// host:port
        address: String,
        /// What it is instead.
        why: String,
    },
    /// No member has this id.
    #[error("no master of this cluster has the id {0:016x}")]
    NoSuchMember(u64),
    /// It is the only one that votes.
    #[error("{0} is the last master: without it everything would be lost")]
    Last(String),
    /// The leader is not removed while it leads.
    #[error("{0} leads: leadership must be transferred first")]
    Leads(String),
    /// What remains could commit nothing.
    #[error("without {address} only {answering} of {voters} masters would answer, and {needed} must")]
    NoQuorum {
        /// The member that was to go.
        address: String,
        /// Of those that remain.
        answering: usize,
        /// How many remain.
        voters: usize,
        /// How many must answer.
        needed: usize,
    },
    /// It got no further, and is no learner any more.
    #[error("{address} was not added: it does not catch up (it has {matched} of {last} entries)")]
    Behind {
        /// host:port
        address: String,
        /// Index up to which it has everything.
        matched: u64,
        /// Index of the leader's last entry.
        last: u64,
    },
    /// Refused by the library, with its reason.
    #[error("the masters cannot be changed now: {0}")]
    Refused(String),
    /// It may have taken effect, or may yet.
    #[error("it is not known whether the masters were changed: list them")]
    Unknown,
}

/// One member, as seen by another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Who.
    pub member: Member,
    /// Whether its disk counts for the quorum; a learner's does not.
    pub votes: bool,
    /// Whether it leads.
    pub leads: bool,
    /// Index up to which it has everything. Known to the leader alone.
    pub matched: Option<u64>,
}

impl Node {
    /// Everybody in the quorum, learners included, as this member knows it; ordered by address.
    pub fn members(&self) -> Vec<MemberStatus> {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        let leader = self.status().borrow().leader.as_ref().map(|leader| leader.node_id);
        let status = |id: u64, address: &String| MemberStatus {
            member: Member { node_id: id, address: address.clone() },
            votes: voters.contains(&id),
            leads: leader == Some(id),
            matched: match metrics.replication.as_ref() {
                Some(_) if id == self.node_id() => metrics.last_log_index,
                Some(replication) => replication.get(&id).copied().flatten().map(|matched| matched.index),
                None => None,
            },
        };
        let mut members: Vec<_> = metrics.membership_config.nodes().map(|(id, address)| status(*id, address)).collect();
        members.sort_by(|one, other| one.member.address.cmp(&other.member.address));
        members
    }

    /// On an empty disk: waits until the leader of a running cluster adds this member. Otherwise returns at once.
    pub async fn join(&self) {
        // No list at all is what nobody else has: it says that this member waits to be added.
        *self.inner.masters.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
        while self.inner.store.is_pristine() {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Lets the member at `address` in: it learns everything first, then votes. It must wait in [`Node::join`].
    ///
    /// # Errors
    /// A [`MembershipError`]; only after `Unknown` it may be a member.
    pub async fn add(&self, address: &str) -> Result<Member, MembershipError> {
        let _one = self.inner.changing.try_lock().map_err(|_| MembershipError::Busy)?;
        let member = self.teach(address, None).await?;
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([member.node_id]))).await?;
        tracing::info!(address, node = format!("{:016x}", member.node_id), "a master was added");
        Ok(member)
    }

    /// Takes the member out. It may be dead; the leader itself cannot go.
    ///
    /// # Errors
    /// A [`MembershipError`]; only after `Unknown` it may be out.
    pub async fn remove(&self, node_id: u64) -> Result<Member, MembershipError> {
        let _one = self.inner.changing.try_lock().map_err(|_| MembershipError::Busy)?;
        let gone = self.removable(node_id).await?;
        if gone.votes {
            self.change(ChangeMembers::RemoveVoters(BTreeSet::from([node_id]))).await?;
        } else {
            self.change(ChangeMembers::RemoveNodes(BTreeSet::from([node_id]))).await?;
        }
        tracing::info!(address = gone.member.address, node = format!("{node_id:016x}"), "a master was removed");
        Ok(gone.member)
    }

    /// Lets the member at `address` in for the member `old`, in one change: the quorum is never larger or smaller. The
    /// new one may have the address of the old one.
    ///
    /// # Errors
    /// A [`MembershipError`]; only after `Unknown` it may have happened.
    pub async fn replace(&self, old: u64, address: &str) -> Result<Member, MembershipError> {
        let _one = self.inner.changing.try_lock().map_err(|_| MembershipError::Busy)?;
        let gone = self.find(old)?;
        if old == self.node_id() {
            return Err(MembershipError::Leads(gone.member.address));
        }
        let member = self.teach(address, Some(old)).await?;
        self.change(ChangeMembers::Batch(vec![
            ChangeMembers::AddVoterIds(BTreeSet::from([member.node_id])),
            ChangeMembers::RemoveVoters(BTreeSet::from([old])),
        ]))
        .await?;
        tracing::info!(old = gone.member.address, new = address, "a master was replaced");
        Ok(member)
    }

    /// Resolves when a leader says that this member is none of its cluster any more. A member without a leader asks.
    pub async fn removed(&self) {
        let mut status = self.status();
        loop {
            tokio::time::sleep(ASK_EVERY).await;
            let (contact, members) = {
                let status = status.borrow_and_update();
                (status.leader_contact, status.members.clone())
            };
            if contact || self.inner.store.is_pristine() {
                continue;
            }
            let others = members.iter().filter(|member| member.node_id != self.node_id());
            let asked = others.map(|member| self.inner.link.call(member, Request::Members, HELLO_TIMEOUT));
            for answer in futures_util::future::join_all(asked).await {
                if let Ok(Response::Members(Some(now))) = answer
                    && !now.iter().any(|member| member.node_id == self.node_id())
                {
                    return;
                }
            }
        }
    }

    /// Who is in the quorum for certain, if this member leads.
    pub(crate) async fn confirmed_members(&self) -> Option<Vec<Member>> {
        self.confirm().await.ok()?;
        Some(self.hello().members)
    }

    fn find(&self, node_id: u64) -> Result<MemberStatus, MembershipError> {
        let found = self.members().into_iter().find(|it| it.member.node_id == node_id);
        found.ok_or(MembershipError::NoSuchMember(node_id))
    }

    async fn leads(&self) -> Result<(), MembershipError> {
        self.confirm().await.map(drop).map_err(|NotLeader { leader }| MembershipError::NotLeader { leader })
    }

    /// Makes whoever waits at `address` a learner, and waits until it has caught up. It may have the address of the member
    /// in whose place it comes.
    async fn teach(&self, address: &str, instead_of: Option<u64>) -> Result<Member, MembershipError> {
        self.leads().await?;
        let member = self.candidate(address, instead_of).await?;
        let me = Member { node_id: self.node_id(), address: self.inner.options.address.clone() };
        let cluster_id = self.cluster_id().unwrap_or_default();
        let adopt = Request::Adopt { cluster_id, members: vec![me, member.clone()] };
        if let Err(error) = self.inner.link.call(&member, adopt, HELLO_TIMEOUT).await {
            return Err(MembershipError::Unreachable { address: address.into(), why: error.to_string() });
        }
        let nodes = BTreeMap::from([(member.node_id, member.address.clone())]);
        self.change(ChangeMembers::AddNodes(nodes)).await?;
        if let Err(error) = self.caught_up(&member).await {
            if let Err(left) = self.change(ChangeMembers::RemoveNodes(BTreeSet::from([member.node_id]))).await {
                tracing::warn!(address, error = %left, "a learner that did not catch up is still there");
            }
            return Err(error);
        }
        Ok(member)
    }

    /// Who waits at `address` to be added.
    async fn candidate(&self, address: &str, instead_of: Option<u64>) -> Result<Member, MembershipError> {
        let anyone = Member { node_id: 0, address: address.into() };
        let hello: Hello = match self.inner.link.call(&anyone, Request::Hello, HELLO_TIMEOUT).await {
            Ok(Response::Hello(hello)) => hello,
            Ok(_) => return Err(MembershipError::Unreachable { address: address.into(), why: "no answer".into() }),
            Err(error @ CallError::Refused { refused: Refused::OtherVersion(_), .. }) => {
                return Err(MembershipError::NotWaiting { address: address.into(), why: error.to_string() });
            }
            Err(error) => return Err(MembershipError::Unreachable { address: address.into(), why: error.to_string() }),
        };
        let refuse = |why: String| Err(MembershipError::NotWaiting { address: address.into(), why });
        // The address that it gives itself is the one that all others will use.
        let member = Member { node_id: hello.member.node_id, address: hello.member.address };
        match self.find(member.node_id) {
            Ok(known) if known.votes => return refuse("it is a master of this cluster already".into()),
            // A learner whose leader was lost before it voted.
            Ok(known) => return Ok(known.member),
            Err(_) => {}
        }
        let mut others = self.members().into_iter().filter(|it| it.votes && Some(it.member.node_id) != instead_of);
        if let Some(former) = others.find(|it| it.member.address == member.address) {
            let former = former.member.node_id;
            return refuse(format!(
                "it is the address of master {former:016x}: if its disk is lost, `meseta masters replace {address} {address}` lets the new one take its place"
            ));
        }
        if !hello.pristine {
            let cluster_id = hello.cluster_id.unwrap_or_default();
            return refuse(format!(
                "its disk belongs to cluster {cluster_id} already; a master is added with an empty work_dir and --join"
            ));
        }
        if hello.cluster_id.is_some() && hello.cluster_id != self.cluster_id() {
            return refuse("it waits to be part of another cluster".into());
        }
        if hello.masters.is_none_or(|masters| !masters.is_empty()) {
            return refuse("it was not started with --join".into());
        }
        Ok(member)
    }

    async fn caught_up(&self, member: &Member) -> Result<(), MembershipError> {
        let (mut best, mut since) = (None, tokio::time::Instant::now());
        loop {
            let metrics = self.inner.raft.metrics().borrow_watched().clone();
            let Some(replication) = metrics.replication else {
                return Err(MembershipError::NotLeader { leader: self.status().borrow().leader.clone() });
            };
            let matched = replication.get(&member.node_id).copied().flatten().map(|matched| matched.index);
            let last = metrics.last_log_index.unwrap_or(0);
            if matched.is_some_and(|matched| matched + BEHIND_ENTRIES_MAX >= last) {
                return Ok(());
            }
            if matched > best {
                (best, since) = (matched, tokio::time::Instant::now());
            }
            if since.elapsed() > STALLED {
                let (address, matched) = (member.address.clone(), best.unwrap_or(0));
                return Err(MembershipError::Behind { address, matched, last });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The member, if those that remain without it are a quorum that answers.
    async fn removable(&self, node_id: u64) -> Result<MemberStatus, MembershipError> {
        self.leads().await?;
        let gone = self.find(node_id)?;
        let address = gone.member.address.clone();
        let rest: Vec<Member> = self
            .members()
            .into_iter()
            .filter(|it| it.votes && it.member.node_id != node_id)
            .map(|it| it.member)
            .collect();
        if rest.is_empty() {
            return Err(MembershipError::Last(address));
        }
        if node_id == self.node_id() {
            return Err(MembershipError::Leads(address));
        }
        let asked = rest.iter().filter(|member| member.node_id != self.node_id());
        let asked = asked.map(|member| self.inner.link.call(member, Request::Hello, HELLO_TIMEOUT));
        let answers = futures_util::future::join_all(asked).await;
        let answering = 1 + answers.iter().filter(|answer| answer.is_ok()).count();
        let (voters, needed) = (rest.len(), rest.len() / 2 + 1);
        if answering < needed {
            return Err(MembershipError::NoQuorum { address, answering, voters, needed });
        }
        Ok(gone)
    }

    /// Takes the second step of a change that a leader left half done, if this member leads.
    async fn settle(&self) {
        if self.status().borrow().role != Role::Leader {
            return;
        }
        if let Some(member) = self.moved() {
            self.move_to(member).await;
        }
        if !self.is_between() {
            return;
        }
        // Whoever changes the masters now finishes that themselves.
        let Ok(_one) = self.inner.changing.try_lock() else { return };
        if !self.is_between() {
            return;
        }
        // Nobody more is to vote: what remains of the change is its second step.
        match self.change(ChangeMembers::AddVoterIds(BTreeSet::new())).await {
            Ok(()) => tracing::info!("a change of the masters that was left half done is finished"),
            Err(error) => tracing::info!(%error, "a change of the masters is still half done"),
        }
    }

    /// This member at its address of today, if it is the only one and has moved: restored elsewhere, or with another
    /// address on its machine. Where there are others, they must find it, and whoever moves is replaced.
    fn moved(&self) -> Option<Member> {
        let members = self.members();
        let [alone] = &members[..] else { return None };
        let address = &self.inner.options.address;
        let is_elsewhere = alone.member.node_id == self.node_id() && alone.member.address != *address;
        is_elsewhere.then(|| Member { node_id: self.node_id(), address: address.clone() })
    }

    async fn move_to(&self, member: Member) {
        let Ok(_one) = self.inner.changing.try_lock() else { return };
        let nodes = BTreeMap::from([(member.node_id, member.address.clone())]);
        match self.change(ChangeMembers::SetNodes(nodes)).await {
            Ok(()) => tracing::info!(address = member.address, "this master, which is alone, has another address now"),
            Err(error) => tracing::info!(%error, "the address of this master is still the old one"),
        }
    }

    /// Whether the first of a change's two steps was taken, and not the second.
    fn is_between(&self) -> bool {
        self.inner.raft.metrics().borrow_watched().membership_config.membership().get_joint_config().len() > 1
    }

    async fn change(&self, change: ChangeMembers<u64, String>) -> Result<(), MembershipError> {
        // Who is no voter any more is out.
        let changed = self.inner.raft.change_membership(change, false);
        match tokio::time::timeout(COMMIT_TIMEOUT, changed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                tracing::debug!(leader = ?to.leader_id, "leadership was lost while the masters were changed");
                Err(MembershipError::Unknown)
            }
            Ok(Err(RaftError::APIError(error))) => Err(MembershipError::Refused(error.to_string())),
            Ok(Err(RaftError::Fatal(_))) | Err(_) => Err(MembershipError::Unknown),
        }
    }
}

/// Finishes what an earlier leader left half done, for as long as the member is there. Between the two steps of a change
/// both the old and the new voters must agree to everything: that is safe, but nobody meant it to last.
pub(crate) async fn settle(member: Weak<Inner>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SETTLE_EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        match member.upgrade() {
            Some(inner) => Node { inner }.settle().await,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Committed, Machine, Options, Transport, TransportError, WriteSnapshot};
    use super::*;
    use bytes::Bytes;
    use futures_util::future::BoxFuture;
    use std::collections::HashMap;
    use std::io::{Read, Write};
    use std::sync::{Arc, Mutex};

    /// Members in one process, by address.
    #[derive(Clone, Default)]
    struct Net(Arc<Mutex<HashMap<String, Node>>>);

    impl Transport for Net {
        fn send(&self, to: &Member, body: Bytes, _: Duration) -> BoxFuture<'_, Result<Bytes, TransportError>> {
            let (node, address) = (self.0.lock().unwrap().get(&to.address).cloned(), to.address.clone());
            Box::pin(async move {
                match node {
                    Some(node) => Ok(node.handle(body).await),
                    None => Err(TransportError::Unreachable { address, why: "it is down".into() }),
                }
            })
        }
    }

    struct Nothing;

    impl Machine for Nothing {
        fn apply(&mut self, _: Vec<Committed>) {}

        fn snapshot(&self) -> WriteSnapshot {
            Box::new(|_: &mut dyn Write| Ok(Vec::new()))
        }

        fn restore(&mut self, _: u64, _: &mut dyn Read) -> Result<(), String> {
            Ok(())
        }
    }

    async fn until(what: &str, mut condition: impl FnMut() -> bool) {
        let limit = tokio::time::Instant::now() + Duration::from_secs(30);
        while !condition() {
            assert!(tokio::time::Instant::now() < limit, "waited in vain: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_next_leader_finishes_what_the_last_one_left_half_done() {
        let net = Net::default();
        let dirs: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
        let masters: Vec<String> = (0..3).map(|i| format!("m{i}")).collect();
        let mut nodes = Vec::new();
        for (i, dir) in dirs.iter().enumerate() {
            let options = Options::new(dir.path().join("log"), format!("m{i}"));
            let node = Node::open(options, Arc::new(net.clone()), Nothing).await.unwrap();
            net.0.lock().unwrap().insert(format!("m{i}"), node.clone());
            nodes.push(node);
        }
        let joining = tokio::spawn({
            let node = nodes[3].clone();
            async move { node.join().await }
        });
        let forming = nodes[..3].iter().enumerate().map(|(i, node)| node.form(&masters, masters[i].as_str()));
        futures_util::future::join_all(forming).await.into_iter().for_each(|formed| formed.unwrap());
        let leads = |node: &Node| node.status().borrow().role == Role::Leader;
        until("a leader", || nodes.iter().any(leads)).await;
        let leader = nodes.iter().position(leads).unwrap();

        let fourth = nodes[leader].teach("m3", None).await.unwrap();
        joining.await.unwrap();
        {
            // The leader is cut short after the first step: nobody waits for its answer, so nobody takes the second.
            let _one = nodes[leader].inner.changing.lock().await;
            let add = ChangeMembers::AddVoterIds(BTreeSet::from([fourth.node_id]));
            let mut cut_short = Box::pin(nodes[leader].inner.raft.change_membership(add, false));
            assert!(futures_util::poll!(&mut cut_short).is_pending());
            until("the first step", || nodes[leader].is_between()).await;
            drop(cut_short);
        }
        net.0.lock().unwrap().remove(&format!("m{leader}"));
        nodes[leader].shutdown().await;
        let rest: Vec<&Node> = nodes.iter().enumerate().filter(|(i, _)| *i != leader).map(|(_, node)| node).collect();
        until("another leader", || rest.iter().any(|node| leads(node))).await;
        until("the second step", || rest.iter().all(|node| !node.is_between())).await;
        let voters = rest[0].members().into_iter().filter(|it| it.votes).count();
        assert_eq!(voters, 4, "{:?}", rest[0].members());
        for node in rest {
            node.shutdown().await;
        }
    }
}
