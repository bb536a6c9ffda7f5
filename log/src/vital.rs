//! Work without which a process would only look alive: it would go on to accept calls and hold connections, and nothing
//! would come of it. If such work panics the process ends, and others take over, or it is started again.

use crate::host;
use futures_util::FutureExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokio::task::JoinHandle;

/// A task that `what` of `program` depends on.
pub fn spawn(
    program: &'static str,
    what: &'static str,
    work: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    host::spawn(async move {
        if AssertUnwindSafe(work).catch_unwind().await.is_err() {
            halt(program, what);
        }
    })
}

/// A thread that `what` of `program` depends on.
///
/// # Errors
/// The operating system's, if it has no thread to give.
pub fn thread(program: &'static str, what: &'static str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let guarded = move || {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            halt(program, what);
        }
    };
    std::thread::Builder::new().name(what.into()).spawn(guarded).map(|_| ())
}

fn halt(program: &str, what: &str) -> ! {
    tracing::error!(what, "stopping: work that this process depends on has failed");
    eprintln!("{program}: its {what} failed by a defect. This process stops.");
    host::exit(1)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// Runs itself in a process of its own, where it may end the process.
    fn ends_its_process(test: &str, fails: impl FnOnce()) {
        const INSIDE: &str = "MESETA_TEST_INSIDE";
        if std::env::var_os(INSIDE).is_some() {
            fails();
            // Much later than the failure, and still much earlier than never.
            std::thread::sleep(std::time::Duration::from_secs(60));
            return;
        }
        let program = std::env::current_exe().unwrap();
        let output = Command::new(program).args(["--exact", test, "--nocapture"]).env(INSIDE, "1").output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("meseta-x: its delivery failed by a defect."), "{told}");
    }

    #[test]
    fn a_thread_that_fails_ends_the_process() {
        ends_its_process("vital::tests::a_thread_that_fails_ends_the_process", || {
            super::thread("meseta-x", "delivery", || panic!("a defect")).unwrap();
        });
    }

    #[test]
    fn a_task_that_fails_ends_the_process() {
        ends_its_process("vital::tests::a_task_that_fails_ends_the_process", || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let _ = super::spawn("meseta-x", "delivery", async { panic!("a defect") }).await;
            });
        });
    }
}
