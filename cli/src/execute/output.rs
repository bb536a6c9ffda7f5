//! What the task writes, on our own standard output and error while it runs.

use std::io::Write as _;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use crate::error::Error;
use crate::sandbox::{Sandbox, Tail, Task};
use crate::write_out;

/// How often the files are looked at again.
const PACE: Duration = Duration::from_millis(200);
/// The sandbox of a task that begins is there in a moment.
const FIND: Duration = Duration::from_secs(5);
/// How long what a task left may take to arrive.
const DRAIN: Duration = Duration::from_secs(20);

/// The output of one task, under way.
pub(super) struct Output {
    end: Option<oneshot::Sender<()>>,
    ended: Option<oneshot::Receiver<Ended>>,
}

/// After the last of it.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) sandbox: Option<Sandbox>,
}

impl Output {
    /// Begins to look for the sandbox of `task`; with `stream` what it writes is shown.
    pub(super) fn start(masters: Vec<String>, task: Task, stream: bool) -> Output {
        let (end, over) = oneshot::channel();
        let (told, ended) = oneshot::channel();
        tokio::spawn(async move {
            let _ = told.send(run(&masters, &task, stream, over).await);
        });
        Output { end: Some(end), ended: Some(ended) }
    }

    /// The task is over: the rest of what it wrote is shown.
    pub(super) async fn finish(&mut self) -> Ended {
        let Some((end, ended)) = self.end.take().zip(self.ended.take()) else { return Ended::default() };
        let _ = end.send(());
        match timeout(DRAIN, ended).await {
            Ok(ended) => ended.unwrap_or_default(),
            Err(_) => {
                eprintln!("meseta: the rest of the task's output does not come; meseta logs may show it later");
                Ended::default()
            }
        }
    }
}

async fn run(masters: &[String], task: &Task, stream: bool, mut over: oneshot::Receiver<()>) -> Ended {
    let Some(sandbox) = find(masters, task, &mut over).await else { return Ended::default() };
    if !stream {
        let _ = over.await;
        return Ended { sandbox: Some(sandbox) };
    }
    let (mut stdout, mut stderr) = (Tail::new(&sandbox, "stdout"), Tail::new(&sandbox, "stderr"));
    let mut told = false;
    loop {
        // What was written before the end was there before it is read.
        let is_over = !matches!(over.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        match pump(&sandbox, &mut stdout, &mut stderr).await {
            Ok(()) => told = false,
            Err(error) if is_over || !std::mem::replace(&mut told, true) => {
                eprintln!("meseta: {error}: the task's output is not shown{}", if is_over { "" } else { " for now" });
            }
            Err(_) => {}
        }
        if is_over {
            return Ended { sandbox: Some(sandbox) };
        }
        tokio::select! {
            () = sleep(PACE) => {}
            _ = &mut over => over.close(),
        }
    }
}

/// The agent may not have it yet; if the task ended, one look must do.
async fn find(masters: &[String], task: &Task, over: &mut oneshot::Receiver<()>) -> Option<Sandbox> {
    let start = Instant::now();
    loop {
        let is_over = !matches!(over.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        match task.sandbox(masters).await {
            Ok(sandbox) => return Some(sandbox),
            Err(error) if is_over || start.elapsed() > FIND => {
                if !is_over {
                    eprintln!("meseta: {error}: its output is not shown");
                }
                return None;
            }
            Err(_) => sleep(PACE).await,
        }
    }
}

async fn pump(sandbox: &Sandbox, stdout: &mut Tail, stderr: &mut Tail) -> Result<(), Error> {
    stdout.pump(sandbox, write_out).await?;
    stderr.pump(sandbox, |data| drop(std::io::stderr().write_all(data))).await?;
    Ok(())
}
