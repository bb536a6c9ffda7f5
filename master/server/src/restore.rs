//! A new master from a saved snapshot: `--restore=FILE` makes a work_dir and ends.

use crate::run::Settings;
use event_log::raft::{read_snapshot, restore};
use master_core::{State, redact};
use std::io::Read;
use std::path::Path;

/// Makes the work_dir of `settings` from the snapshot at `file`; one sentence for the operator.
///
/// # Errors
/// One sentence: what is wrong with the file or the folder. Nothing was changed if it is the file.
pub fn run(settings: &Settings, file: &Path) -> Result<String, String> {
    check(settings, file)?;
    let restored =
        restore(&settings.work_dir, file, &settings.address.member).map_err(|error| event_log::sentence(&error))?;
    Ok(format!(
        "{} holds cluster {} as of index {}, with this master alone; start it without --restore, and let others in with \
         `meseta masters add`. Masters of the old cluster must not run any more.",
        settings.work_dir.display(),
        restored.cluster_id,
        restored.index
    ))
}

/// Whether it holds a state that this release can read, and the one that was saved.
fn check(settings: &Settings, file: &Path) -> Result<(), String> {
    let reader = read_snapshot(file).map_err(|error| event_log::sentence(&error))?;
    let snapshots = reader.snapshots().map_err(|error| event_log::sentence(&error))?;
    let Some(snapshot) = snapshots.first() else { return Err(format!("{} holds no snapshot", file.display())) };
    if snapshot.digest == redact::DIGEST {
        return Err(format!(
            "{} is redacted: what tasks are told is not in it, so it is good for looking at (meseta-log) and for no cluster. \
             Restore one that was saved without --redact",
            file.display()
        ));
    }
    let mut content = reader.open_snapshot(snapshot).map_err(|error| event_log::sentence(&error))?;
    let foreign = |why: &dyn std::error::Error| {
        format!("{} does not hold a master's state: {}", file.display(), event_log::sentence(why))
    };
    // The position of the log's gate stands before the state.
    content.read_exact(&mut [0; 16]).map_err(|error| foreign(&error))?;
    let state = State::read_snapshot_at(&mut content, settings.rehearsal.reads).map_err(|error| foreign(&error))?;
    if !snapshot.digest.is_empty() && snapshot.digest != state.digest() {
        return Err(format!("{} does not hold the state that was saved: its digest is another", file.display()));
    }
    Ok(())
}
