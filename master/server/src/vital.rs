//! Work without which a master would only look alive: see [`event_log::vital`].

use tokio::task::JoinHandle;

const PROGRAM: &str = "meseta-master";

/// A task that `what` depends on.
pub(crate) fn spawn(what: &'static str, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    event_log::vital::spawn(PROGRAM, what, work)
}

/// A thread that `what` depends on.
///
/// # Errors
/// The operating system's, if it has no thread to give.
pub(crate) fn thread(what: &'static str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    event_log::vital::thread(PROGRAM, what, work)
}
