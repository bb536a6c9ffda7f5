//! `GET /meseta/snapshot`: the state of the cluster as a file, to be kept elsewhere and restored on new machines.
//!
//! As of now: everything that was answered before is in it. With `?stale=true` whatever this master has will do, for a
//! cluster that has lost its quorum. With `?redact=true` it is one to be shown to others: without what frameworks told their
//! programs, and refused by whoever restores. The checksum of the whole file is in a header, so that a client notices whatever
//! happens to it on its way.

use crate::context::Context;
use api_http::{Query, Request, Response, StatusCode};
use event_log::raft::{SnapshotInfo, rewrite_snapshot};
use http::HeaderValue;
use master_core::{FeatureLevel, State, redact};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const READ_BYTES: usize = 1 << 18;

pub(super) async fn answer(context: &Context, request: Request) -> Response {
    let query = Query::of(&request);
    let (stale, redact) = (query.get("stale") == Some("true"), query.get("redact") == Some("true"));
    if context.reader.read(stale).await.is_err() {
        return context.reader.no_leader();
    }
    let unavailable = |why: String| api_http::text(StatusCode::SERVICE_UNAVAILABLE, &why);
    let snapshot = match context.node.snapshot().await {
        Ok(snapshot) => snapshot,
        Err(error) => return unavailable(error.to_string()),
    };
    let (path, reads) = (snapshot.path.clone(), context.levels.own.reads);
    let read = move || sum(if redact { redacted(&path, reads)? } else { File::open(path)? });
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(summed)) => file(&snapshot, summed, redact),
        Ok(Err(error)) => unavailable(format!("the snapshot cannot be read: {error}")),
        Err(_) => unavailable("the snapshot cannot be read".into()),
    }
}

/// A file with its size in bytes and its checksum. Opened once: a newer snapshot may take its place meanwhile.
fn sum(mut file: File) -> io::Result<(File, u64, u32)> {
    let mut hasher = crc32fast::Hasher::new();
    let (mut buffer, mut size) = (vec![0; READ_BYTES], 0);
    loop {
        let got = file.read(&mut buffer)?;
        if got == 0 {
            return Ok((file, size, hasher.finalize()));
        }
        hasher.update(&buffer[..got]);
        size += got as u64;
    }
}

/// A copy of the snapshot at `path` that may be given away. It has no name any more when this returns.
fn redacted(path: &Path, reads: FeatureLevel) -> io::Result<File> {
    let copy = path.with_extension(format!("redacted-{:032x}", crate::identity::random()));
    let written = rewrite_snapshot(path, &copy, redact::DIGEST, |old, new| {
        // The position of the log's gate stands before the state.
        let mut gate = [0; 16];
        old.read_exact(&mut gate)?;
        let state = State::read_snapshot_at(old, reads).map_err(io::Error::other)?;
        new.write_all(&gate)?;
        redact::redacted(&state).write_snapshot(new)
    });
    let opened = written.map_err(io::Error::other).and_then(|()| File::open(&copy));
    let _ = std::fs::remove_file(&copy);
    opened
}

fn file(snapshot: &SnapshotInfo, (file, size, crc): (File, u64, u32), redact: bool) -> Response {
    let mut response = api_http::attachment(file, size, &format!("{}.snapshot", snapshot.index));
    let headers = response.headers_mut();
    headers.insert("meseta-snapshot-index", HeaderValue::from(snapshot.index));
    if redact {
        headers.insert("meseta-snapshot-redacted", HeaderValue::from_static("true"));
    }
    if let Ok(crc) = HeaderValue::try_from(format!("{crc:08x}")) {
        headers.insert("meseta-snapshot-crc32", crc);
    }
    response
}
