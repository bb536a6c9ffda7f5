//! Where this process does its work. Raft, the sequencer, the masters among each other and agents' sessions have threads
//! of their own, with a higher priority where that is allowed; clients have others. Whatever clients ask for, a heartbeat
//! does not wait behind it. One thread more accepts connections and looks who it is: a master that lost its connection
//! gets the next one however busy clients keep theirs, and a flood of connections keeps busy nobody else.

use nix::libc::{PRIO_PROCESS, getpriority, setpriority};
use tokio::runtime::{Builder, Runtime};

/// How much sooner vital threads get their turn.
const NICE: i32 = -10;
/// A stack has room for much deeper recursion than anything here has. Only what is used takes memory.
const STACK_BYTES: usize = 8 << 20;
/// Threads for work of clients that blocks, such as reading files and writing large answers.
const BLOCKING_MAX: usize = 64;

/// The sets of threads.
#[derive(Debug)]
pub struct Threads {
    /// For what keeps the cluster alive.
    pub vital: Runtime,
    /// For clients.
    pub clients: Runtime,
    /// For whoever is not known yet.
    pub door: Runtime,
}

impl Threads {
    /// Starts them. Afterwards the calling thread, and all that it starts, has the higher priority.
    ///
    /// # Errors
    /// The operating system's, if it has no threads to give.
    pub fn start() -> std::io::Result<Threads> {
        // Even on one processor: one thread that is held up must not hold up the other.
        let workers = std::thread::available_parallelism().map_or(2, |count| usize::from(count).max(2));
        let clients = Builder::new_multi_thread()
            .worker_threads(workers)
            .max_blocking_threads(BLOCKING_MAX)
            .thread_name("clients")
            .thread_stack_size(STACK_BYTES)
            // A blocking thread is started by whoever needs it, vital or not.
            .on_thread_start(be_patient)
            .enable_all()
            .build()?;
        hurry();
        let vital = Builder::new_multi_thread()
            .worker_threads(workers)
            .thread_name("vital")
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()?;
        let door = Builder::new_multi_thread().worker_threads(1).thread_name("door").enable_all().build()?;
        Ok(Threads { vital, clients, door })
    }
}

/// The priority that whoever started this process chose for it.
fn usual() -> i32 {
    static USUAL: std::sync::OnceLock<i32> = std::sync::OnceLock::new();
    // SAFETY: a plain system call on numbers, about this thread alone.
    *USUAL.get_or_init(|| unsafe { getpriority(PRIO_PROCESS, 0) })
}

/// Asks for a higher priority, for this thread and every one to come from it: on a busy machine a heartbeat that waits for
/// its turn looks like a master that is gone. Whoever chose one for this process knows better.
fn hurry() {
    if usual() == 0 && !nice(NICE) {
        tracing::debug!("no higher priority: that takes root, or CAP_SYS_NICE");
    }
}

/// Takes the higher priority back, which a thread may have from the one that started it.
fn be_patient() {
    if !nice(usual()) {
        tracing::debug!("a thread keeps its priority");
    }
}

/// Whether this thread has that priority now.
fn nice(priority: i32) -> bool {
    // SAFETY: a plain system call on numbers, about this thread alone.
    unsafe { setpriority(PRIO_PROCESS, 0, priority) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_ask_for_does_not_run_where_the_cluster_is_kept_alive() {
        let threads = Threads::start().unwrap();
        let at = |runtime: &Runtime| {
            let (worker, blocking) = (
                runtime.spawn(async { (std::thread::current().name().map(str::to_owned), priority()) }),
                runtime.spawn_blocking(|| (std::thread::current().name().map(str::to_owned), priority())),
            );
            runtime.block_on(async { (worker.await.unwrap(), blocking.await.unwrap()) })
        };
        let (vital, clients) = (at(&threads.vital), at(&threads.clients));
        assert_eq!((vital.0.0.as_deref(), clients.0.0.as_deref()), (Some("vital"), Some("clients")));
        assert!(vital.0.1 <= clients.0.1 && clients.0.1 == usual() && clients.1.1 == usual());
        assert_eq!(vital.0.1, vital.1.1);
    }

    fn priority() -> i32 {
        // SAFETY: a plain system call on numbers, about this thread alone.
        unsafe { getpriority(PRIO_PROCESS, 0) }
    }
}
