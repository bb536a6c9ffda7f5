//! Forming a quorum from members whose disks are all empty.
//!
//! ```text
//! every member          Hello to all others, again and again
//! first in sorted order all empty, all lists equal ─► Adopt (cluster id, members) to all ─► begins the log
//! the others            store it, wait for the log to begin
//! ```
//!
//! A member that stored a cluster id but never voted nor received an entry still counts as empty: nothing can have been
//! committed without it being asked, so the first may begin again after a crash in the middle.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use openraft::errors::{InitializeError, RaftError};

use super::node::Node;
use super::types::Member;
use super::wire::{Hello, Refused, Request, Response};
use crate::host;

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(100);
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a quorum does not form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormError {
    /// The list of masters lacks this one.
    #[error("the list of masters ({masters}) does not contain this one ({me})")]
    NotListed {
        /// The list.
        masters: String,
        /// This member's address.
        me: String,
    },
    /// The list names a master twice.
    #[error("the list of masters names {0} twice")]
    ListedTwice(String),
    /// Another member was started with another list.
    #[error("{address} was started with another list of masters ({theirs}) than this one ({ours})")]
    ListsDiffer {
        /// The other member.
        address: String,
        /// Its list.
        theirs: String,
        /// This member's list.
        ours: String,
    },
    /// The others form a cluster already, and this disk is not part of it.
    #[error(
        "{address} belongs to the running cluster {cluster_id}, and this master's disk is empty: start it with \
         --join={address} instead of --masters, then `meseta masters replace LOST ADDRESS` lets it take the place of a master \
         that is lost"
    )]
    ClusterRunning {
        /// The member that said so.
        address: String,
        /// Its cluster.
        cluster_id: String,
    },
    /// Another member speaks another protocol.
    #[error("{address} cannot take part: {why}")]
    Refused {
        /// The other member.
        address: String,
        /// Its reason.
        why: String,
    },
    /// The disk failed, or this member was stopped.
    #[error("the quorum cannot be stored: {0}")]
    Storage(String),
}

impl Node {
    /// Makes this member part of a quorum of `masters` (host:port each), in which it is `me`. On a disk whose quorum
    /// formed this returns at once. On an empty disk: alone when nobody else is listed; otherwise once every listed
    /// member answered that its disk is empty and that it has the same list. Waits for those that are not up yet.
    ///
    /// # Errors
    /// A [`FormError`] that waiting does not cure.
    pub async fn form(&self, masters: &[String], me: &str) -> Result<(), FormError> {
        if !self.inner.store.is_pristine() {
            return Ok(());
        }
        let mut sorted = masters.to_vec();
        sorted.sort();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(FormError::ListedTwice(twice[0].clone()));
        }
        if !sorted.iter().any(|address| address == me) {
            return Err(FormError::NotListed { masters: sorted.join(","), me: me.into() });
        }
        *self.inner.masters.lock().unwrap_or_else(PoisonError::into_inner) = Some(sorted.clone());
        let mut said = String::new();
        loop {
            let waiting = self.form_round(&sorted, me).await?;
            let Some(waiting) = waiting else { return Ok(()) };
            if waiting != said {
                tracing::info!("forming a quorum: {waiting}");
                said = waiting;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One attempt; what it waits for, if anything.
    async fn form_round(&self, masters: &[String], me: &str) -> Result<Option<String>, FormError> {
        if !self.inner.store.is_pristine() {
            return Ok(None);
        }
        let mut members = vec![Member { node_id: self.node_id(), address: me.into() }];
        let mut waiting = None;
        let mut cluster_id = self.cluster_id();
        let asked = masters.iter().filter(|address| *address != me).map(|address| self.ask(address));
        for answer in futures_util::future::join_all(asked).await {
            match answer? {
                Err(address) => waiting = Some(format!("waiting for {address}")),
                Ok(hello) => {
                    waiting = self.judge(&hello, masters)?.or(waiting);
                    cluster_id = cluster_id.or(hello.cluster_id);
                    members.push(hello.member);
                }
            }
        }
        if waiting.is_some() {
            return Ok(waiting);
        }
        if masters[0] != me {
            return Ok(Some(format!("{} coordinates", masters[0])));
        }
        let cluster_id = cluster_id.unwrap_or_else(|| uuid::Uuid::from_u128(host::random()).to_string());
        for member in members.iter().filter(|member| member.node_id != self.node_id()) {
            let request = Request::Adopt { cluster_id: cluster_id.clone(), members: members.clone() };
            match self.inner.link.call(member, request, HELLO_TIMEOUT).await {
                Ok(Response::Adopted) => {}
                Ok(_) => return Ok(Some(format!("{} answered another question", member.address))),
                Err(error) => return Ok(Some(error.to_string())),
            }
        }
        self.adopt(&cluster_id, &members).map_err(|refused| FormError::Storage(refused.to_string()))?;
        let nodes: BTreeMap<u64, String> = members.into_iter().map(|it| (it.node_id, it.address)).collect();
        tracing::info!(cluster_id, members = nodes.len(), "the quorum forms");
        match self.inner.raft.initialize(nodes).await {
            // Another member has voted meanwhile: the log begins without us.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(None),
            Err(error) => Err(FormError::Storage(error.to_string())),
        }
    }

    /// What the member at `address` says of itself, or its address if it does not answer.
    async fn ask(&self, address: &str) -> Result<Result<Hello, String>, FormError> {
        let to = Member { node_id: 0, address: address.into() };
        match self.inner.link.call(&to, Request::Hello, HELLO_TIMEOUT).await {
            Ok(Response::Hello(hello)) => Ok(Ok(hello)),
            Err(super::network::CallError::Refused { address, refused: refused @ Refused::OtherVersion(_) }) => {
                Err(FormError::Refused { address, why: refused.to_string() })
            }
            _ => Ok(Err(address.to_owned())),
        }
    }

    /// What must happen before the member can take part in forming, if anything.
    fn judge(&self, hello: &Hello, masters: &[String]) -> Result<Option<String>, FormError> {
        let address = &hello.member.address;
        if !hello.pristine {
            let ours = hello.members.iter().any(|member| member.node_id == self.node_id());
            // A vote without entries: the first asks for it while the log begins.
            if ours || hello.members.is_empty() {
                return Ok(Some(format!("waiting for the log to begin at {address}")));
            }
            let cluster_id = hello.cluster_id.clone().unwrap_or_default();
            return Err(FormError::ClusterRunning { address: address.clone(), cluster_id });
        }
        match &hello.masters {
            None => Ok(Some(format!("{address} is starting"))),
            Some(theirs) if theirs != masters => Err(FormError::ListsDiffer {
                address: address.clone(),
                theirs: theirs.join(","),
                ours: masters.join(","),
            }),
            Some(_) => Ok(None),
        }
    }

    /// Stores to which cluster this member belongs, as long as its log has not begun.
    pub(crate) fn adopt(&self, cluster_id: &str, members: &[Member]) -> Result<(), Refused> {
        let mut identity = self.inner.identity.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = self.cluster_id();
        if mine.as_deref() == Some(cluster_id) {
            return Ok(());
        }
        if !self.inner.store.is_pristine() {
            return Err(Refused::OtherCluster(mine));
        }
        if !members.iter().any(|member| member.node_id == self.node_id()) {
            return Err(Refused::OtherMember(self.node_id()));
        }
        let mut changed = identity.clone();
        changed.fields.retain(|(name, _)| name != "cluster");
        changed.fields.push(("cluster".into(), cluster_id.into()));
        changed.write(&self.inner.options.dir).map_err(|error| Refused::Failed(error.to_string()))?;
        *identity = changed;
        self.inner.snapshots.belong_to(Some(cluster_id.into()));
        self.inner.archive.belong_to(Some(cluster_id));
        *self.inner.link.cluster_id.write().unwrap_or_else(PoisonError::into_inner) = Some(cluster_id.into());
        Ok(())
    }
}
