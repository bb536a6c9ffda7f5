//! A new member's folder from a snapshot: the same cluster's state, a quorum of one on a disk of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use super::network::rand_u64;
use super::open::{self, ENTRIES, SNAPSHOTS, storage};
use super::snapshot_file::{self, Head, SnapshotFile};
use super::snapshots::Snapshots;
use super::types::{Members, StoredMembers, from_place};
use crate::codec;
use crate::disk::{self, IdentityFile, OpenError};
use crate::mark::Mark;
use crate::store::rocks::Rocks;
use crate::store::{Batch, Disk, Meta};

/// What a folder was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The cluster's id, as before.
    pub cluster_id: String,
    /// The new member's number.
    pub node_id: u64,
    /// Index of the last entry that is in the snapshot: the log goes on behind it.
    pub index: u64,
}

/// Makes the folder `dir`, which must be empty or not there, from the snapshot at `file`. The new member, reached at
/// `address` (host:port), is the only one of its quorum; members of the quorum that the snapshot is from are not in it. What
/// breaks off in the middle leaves a folder without an identity, which nobody opens.
///
/// # Errors
/// An [`OpenError`]: the folder is not empty or cannot be written, the snapshot is damaged or does not say whose it is.
pub fn restore(dir: &Path, file: &Path, address: &str) -> Result<Restored, OpenError> {
    let of = snapshot_file::verify(file).map_err(OpenError::io("read", file))?;
    let Some(cluster_id) = of.cluster_id.clone() else {
        let (path, why) = (file.to_owned(), "it does not say which cluster it is from".to_owned());
        return Err(OpenError::DamagedFile { path, why, remedy: "save one with this release" });
    };
    fs::create_dir_all(dir).map_err(OpenError::io("create", dir))?;
    if fs::read_dir(dir).map_err(OpenError::io("read", dir))?.next().is_some() {
        return Err(OpenError::NotEmpty { dir: dir.to_owned() });
    }
    disk::check_surroundings(dir, &open::identity())?;
    let lock = disk::claim(dir)?;
    let node_id = rand_u64();
    let (term, index) = of.head.last;

    let members: BTreeMap<u64, String> = [(node_id, address.to_owned())].into();
    let alone = Members::new(vec![[node_id].into()], members);
    let alone = alone.map_err(|error| OpenError::Storage { dir: dir.to_owned(), why: error.to_string() })?;
    let last = from_place(of.head.last);
    let head = Head::new(last, &StoredMembers::new(Some(last), alone));
    let snapshots_dir = dir.join(SNAPSHOTS);
    let snapshots = Snapshots::open(snapshots_dir.clone()).map_err(OpenError::io("create", &snapshots_dir))?;
    snapshots.belong_to(Some(cluster_id.clone()));
    // What it is a copy of was written by a master, and read again by it.
    let check = Box::new(|_: &mut dyn Read| Ok(()));
    let copied = snapshots.create(head, Box::new(move |out: &mut dyn Write| copy(&of, out)), check);
    copied.map_err(OpenError::io("write a snapshot in", &snapshots_dir))?;

    let mark = Mark::begin(dir, index).map_err(OpenError::io("write", dir))?;
    let entries = Rocks::open(&dir.join(ENTRIES), lock, mark).map_err(storage(dir))?;
    let place = codec::encode_payload(&Some((term, index)));
    // It has voted in the snapshot's term: the next is its own.
    let vote = codec::encode_payload(&(term, node_id, false));
    let meta = vec![(Meta::Vote, vote), (Meta::Committed, place.clone()), (Meta::Purged, place)];
    let written = entries.write(Batch { meta, ..Batch::default() }).and_then(|()| entries.flush());
    written.map_err(storage(dir))?;

    let field = |name: &str, value: String| (name.to_owned(), value);
    let fields = vec![
        field("node", format!("{node_id:016x}")),
        field("cluster", cluster_id.clone()),
        field("restored", index.to_string()),
    ];
    let identity = IdentityFile { identity: open::identity(), fields };
    identity.write(dir).map_err(OpenError::io("write the identity of", dir))?;
    Ok(Restored { cluster_id, node_id, index })
}

fn copy(of: &SnapshotFile, out: &mut dyn Write) -> io::Result<Vec<u8>> {
    let (_, mut content) = snapshot_file::open(&of.path)?;
    io::copy(&mut content, out)?;
    Ok(of.digest.clone())
}
