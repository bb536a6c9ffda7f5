//! `GET /meseta/snapshot`: the state of the cluster as a file, to be kept elsewhere and restored on new machines.
//!
//! As of now: everything that was answered before is in it. With `?stale=true` whatever this master has will do, for a
//! cluster that has lost its quorum. The checksum of the whole file is in a header, so that a client notices whatever
//! happens to it on its way.

use crate::context::Context;
use api_http::{Query, Request, Response, StatusCode};
use event_log::raft::SnapshotInfo;
use http::HeaderValue;
use std::fs::File;
use std::io::{self, Read};

const READ_BYTES: usize = 1 << 18;

pub(super) async fn answer(context: &Context, request: Request) -> Response {
    let stale = Query::parse(request.uri().query().unwrap_or_default()).get("stale") == Some("true");
    if context.reader.read(stale).await.is_err() {
        return context.reader.no_leader();
    }
    let unavailable = |why: String| api_http::text(StatusCode::SERVICE_UNAVAILABLE, &why);
    let snapshot = match context.node.snapshot().await {
        Ok(snapshot) => snapshot,
        Err(error) => return unavailable(error.to_string()),
    };
    let path = snapshot.path.clone();
    match tokio::task::spawn_blocking(move || sum(File::open(path)?)).await {
        Ok(Ok(summed)) => file(&snapshot, summed),
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

fn file(snapshot: &SnapshotInfo, (file, size, crc): (File, u64, u32)) -> Response {
    let mut response = api_http::attachment(file, size, &format!("{}.snapshot", snapshot.index));
    let headers = response.headers_mut();
    headers.insert("meseta-snapshot-index", HeaderValue::from(snapshot.index));
    if let Ok(crc) = HeaderValue::try_from(format!("{crc:08x}")) {
        headers.insert("meseta-snapshot-crc32", crc);
    }
    response
}
