//! A snapshot on its way in: chunks in order, into a file aside.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use super::snapshots::Snapshots;

/// At most one snapshot is received at a time: a transfer that begins takes the place of one that broke off.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    current: Option<Transfer>,
}

#[derive(Debug)]
struct Transfer {
    id: u64,
    path: PathBuf,
    file: File,
    /// Where the next chunk belongs, in bytes.
    next: u64,
}

impl Incoming {
    /// Takes one chunk; the file's path when it was the last.
    pub(crate) fn take(
        &mut self,
        snapshots: &Snapshots,
        id: u64,
        offset: u64,
        bytes: &[u8],
        last: bool,
    ) -> io::Result<Option<PathBuf>> {
        if offset == 0 {
            self.give_up();
            let path = snapshots.incoming(id);
            let file = File::create(&path)?;
            self.current = Some(Transfer { id, path, file, next: 0 });
        }
        let current = self.current.as_mut().filter(|current| current.id == id && current.next == offset);
        let current = current.ok_or_else(|| io::Error::other("a chunk of a snapshot came out of order"))?;
        if let Err(error) = current.file.write_all(bytes) {
            self.give_up();
            return Err(error);
        }
        current.next += bytes.len() as u64;
        Ok(if last { self.current.take().map(|transfer| transfer.path) } else { None })
    }

    fn give_up(&mut self) {
        if let Some(transfer) = self.current.take() {
            tracing::info!(bytes = transfer.next, "a snapshot was received in part only; it begins anew");
            // If it stays, the next start removes it.
            let _ = std::fs::remove_file(&transfer.path);
        }
    }
}
