//! A snapshot's content exchanged for another that is made of it: for copies that are given away.

use std::io::{self, Read, Write};
use std::path::Path;

use super::snapshot_file;
use crate::disk::OpenError;

/// Writes the file `to` with what `content` makes of the content of the snapshot at `from`. It covers the same entries of the
/// same cluster, and says `digest` of its state.
///
/// # Errors
/// An [`OpenError`] if `from` is damaged, or `to` cannot be written.
pub fn rewrite_snapshot(
    from: &Path,
    to: &Path,
    digest: &[u8],
    content: impl FnOnce(&mut dyn Read, &mut dyn Write) -> io::Result<()>,
) -> Result<(), OpenError> {
    snapshot_file::verify(from).map_err(OpenError::io("read", from))?;
    let (file, mut old) = snapshot_file::open(from).map_err(OpenError::io("read", from))?;
    let written = snapshot_file::write(to, &file.head, file.cluster_id.as_deref(), |new| {
        content(&mut old, new)?;
        Ok(digest.to_vec())
    });
    written.map_err(OpenError::io("write", to))
}
