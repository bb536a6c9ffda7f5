//! Beside a container that another program runs: that is asked to launch it, to wait for its end, and to destroy it, each in turn and by
//! this process alone. Signals of the agent mean the same as they do for a process of ours. It needs no agent, and outlives it: how
//! the container ended is written down before the program may forget it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::{Map, Value};

use crate::program::{Asked, Failure, How, Program, end_of, told_of_end, told_of_start};
use crate::rotate;
use crate::spec::{External, Files, Spec};
use crate::supervise::{Absence, mark_of, outputs, signal_all, user};
use crate::sys;

/// Between two attempts at what failed: the first pause, and the longest.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Attempts to destroy what a launch that broke may have begun.
const UNDO_MAX: usize = 5;
/// Between two looks for what is still to be killed, the longest.
const KILL_PAUSE_MAX: Duration = Duration::from_millis(100);

/// What became of a container.
pub(crate) enum Outcome {
    /// It was never launched, for a reason in a sentence.
    Failed(String),
    /// It ended with this wait status.
    Ended(i32),
    /// It is over, and nobody knows how it ended.
    Lost,
}

pub(crate) struct Beside<'a> {
    spec: &'a Spec,
    external: &'a External,
    signals: &'a SigSet,
    absence: &'a mut Absence,
    oom_score_adj: i32,
    /// `stderr` in the sandbox: what the program complains of.
    errors: File,
    /// `stdout` and `stderr` as they were before anything ran, or the pipes of who keeps them within bounds: nothing that a task
    /// puts in their place is written to. Until its end.
    outputs: Option<(OwnedFd, OwnedFd)>,
    logger: Option<Pid>,
    told: Option<How>,
    /// Children that have ended, with their wait status, until somebody has looked.
    ended: BTreeMap<u32, i32>,
    /// What was last said in the sandbox.
    noted: String,
}

/// How others find what this process has open.
fn own_path(fd: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())
}

/// Something that is tried again when it fails, later and later.
struct Again {
    at: Instant,
    pause: Duration,
}

impl Again {
    fn new() -> Again {
        Again { at: Instant::now(), pause: RETRY_MIN }
    }

    fn is_due(&self) -> bool {
        self.at <= Instant::now()
    }

    fn later(&mut self) {
        self.at = Instant::now() + self.pause;
        self.pause = (2 * self.pause).min(RETRY_MAX);
    }
}

impl<'a> Beside<'a> {
    /// Makes the outputs of the container. The error is a sentence.
    pub(crate) fn new(
        spec: &'a Spec,
        external: &'a External,
        signals: &'a SigSet,
        absence: &'a mut Absence,
        oom_score_adj: i32,
    ) -> Result<Beside<'a>, String> {
        let outputs = outputs(spec, user(spec)?.as_ref())?;
        let path = Path::new(&spec.sandbox).join("stderr");
        let errors = File::options().read(true).append(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path);
        let errors = errors.map_err(|error| format!("cannot open 'stderr' in the sandbox: {error}"))?;
        let (logger, told, ended, noted) = (None, None, BTreeMap::new(), String::new());
        let outputs = Some(outputs);
        Ok(Beside { spec, external, signals, absence, oom_score_adj, errors, outputs, logger, told, ended, noted })
    }

    fn program(&self) -> &'a Program {
        &self.external.program
    }

    /// Runs the container to its end; `started` is told of its first process, if the program knows one here.
    pub(crate) fn run(&mut self, files: &Files, started: impl FnOnce(Option<u32>)) -> io::Result<Outcome> {
        let launched = self.launch()?;
        match launched {
            Ok(answer) => {
                // What is told of the start is there when that is heard; a full disk is no reason to end what runs.
                told_of_start(&answer).into_iter().for_each(|told| drop(files.write_told(&told)));
                started(answer.get("pid").and_then(Value::as_u64).and_then(|pid| u32::try_from(pid).ok()));
                let (end, exceeded) = self.watch()?;
                if end.is_none() {
                    let undone = self.undo()?;
                    self.note(undone.err());
                }
                self.end_all()?;
                exceeded.into_iter().for_each(|exceeded| drop(files.write_exceeded(&exceeded)));
                Ok(end.map_or(Outcome::Lost, Outcome::Ended))
            }
            Err(Failure::NotStarted(sentence) | Failure::Refused(sentence)) => {
                self.end_all()?;
                Ok(Outcome::Failed(sentence))
            }
            Err(Failure::Broken(mut sentence)) => {
                if let Err(failure) = self.undo()? {
                    sentence = format!("{sentence}; what it began may be left: {}", failure.into_sentence());
                }
                self.end_all()?;
                Ok(Outcome::Failed(sentence))
            }
        }
    }

    /// The end is written down: the program may forget it. What it does not forget now it is asked for when an agent is started.
    pub(crate) fn release(&mut self) -> io::Result<()> {
        let request = self.program().about(&self.spec.container_id);
        let released = self.ask("release", &request)?;
        self.note(released.err());
        self.end_all()
    }

    fn launch(&mut self) -> io::Result<Result<Value, Failure>> {
        let mut request: Map<String, Value> = serde_json::from_str(&self.external.request).unwrap_or_default();
        let sandbox = Path::new(&self.spec.sandbox);
        let (mut stdout, mut stderr) = (sandbox.join("stdout"), sandbox.join("stderr"));
        if let Some(rotation) = &self.spec.rotation {
            let failed = |sentence| Ok(Err(Failure::NotStarted(sentence)));
            let owner = match user(self.spec) {
                Ok(owner) => owner,
                Err(sentence) => return failed(sentence),
            };
            match rotate::start(rotation, sandbox, owner.as_ref(), None) {
                Ok(rotated) => {
                    // Pipes, which whoever is launched opens by their names while it is.
                    (stdout, stderr) = (own_path(&rotated.stdout).into(), own_path(&rotated.stderr).into());
                    self.logger = Some(rotated.logger);
                    self.outputs = Some((rotated.stdout, rotated.stderr));
                }
                Err(sentence) => return failed(sentence),
            }
        }
        request.insert("stdout".to_owned(), stdout.display().to_string().into());
        request.insert("stderr".to_owned(), stderr.display().to_string().into());
        let most = Duration::from_millis(self.program().launch_ms_max);
        let launched = match self.begin("launch", &request, Some(most)) {
            Ok(asked) => self.finish(asked, true)?,
            Err(failure) => Err(failure),
        };
        Ok(launched)
    }

    /// Waits for the end of the container, and ends it if somebody wants that; its wait status, if the program knows it, and
    /// what it exceeded.
    fn watch(&mut self) -> io::Result<(Option<i32>, Option<String>)> {
        let about = self.program().about(&self.spec.container_id);
        let mut following = about.clone();
        for (name, output) in self.outputs.iter().flat_map(|(out, err)| [("stdout", out), ("stderr", err)]) {
            following.insert(name.to_owned(), own_path(output).into());
        }
        let answer_max = Duration::from_millis(self.program().answer_ms_max);
        let (mut waiting, mut destroying): (Option<Asked>, Option<(How, Asked)>) = (None, None);
        let (mut wait_again, mut destroy_again) = (Again::new(), Again::new());
        let mut done: Option<How> = None;
        // Nothing is left of it by now, so that a wait for its end cannot take long.
        let mut over_by: Option<Instant> = None;
        loop {
            if waiting.is_none() && wait_again.is_due() {
                match self.begin("wait", &following, None) {
                    Ok(asked) => waiting = Some(asked),
                    Err(failure) => {
                        self.note(Some(failure));
                        wait_again.later();
                    }
                }
            }
            if let Some(how) = self.told.filter(|how| done < Some(*how))
                && destroying.is_none()
                && destroy_again.is_due()
            {
                let request = self.program().destruction(&self.spec.container_id, how);
                match self.begin("destroy", &request, Some(answer_max)) {
                    Ok(asked) => destroying = Some((how, asked)),
                    Err(failure) => {
                        self.note(Some(failure));
                        destroy_again.later();
                    }
                }
            }
            let until = |at: Instant| at.saturating_duration_since(Instant::now());
            let pauses = [
                waiting.is_none().then(|| until(wait_again.at)),
                (self.told > done && destroying.is_none()).then(|| until(destroy_again.at)),
                destroying.as_ref().and_then(|(_, asked)| asked.rest()),
                over_by.map(until),
            ];
            self.turn(pauses.into_iter().flatten().min())?;
            if let Some(asked) = waiting.take_if(|asked| self.ended.contains_key(&asked.pid())) {
                let status = self.ended.remove(&asked.pid()).unwrap_or_default();
                let malformed = asked.broken("its answer to 'wait' does not say how the container ended");
                match asked.finish(status).map(|answer| (end_of(&answer), told_of_end(&answer))) {
                    Ok((Some(end), exceeded)) => return Ok((end, exceeded)),
                    Err(failure @ Failure::Refused(_)) => {
                        self.note(Some(failure));
                        return Ok((None, None));
                    }
                    Err(failure) => self.note(Some(failure)),
                    Ok((None, _)) => self.note(Some(malformed)),
                }
                wait_again.later();
            }
            if let Some((_, asked)) = destroying.as_ref().filter(|(_, asked)| asked.is_late()) {
                asked.kill();
            }
            if let Some((how, asked)) = destroying.take_if(|(_, asked)| self.ended.contains_key(&asked.pid())) {
                let status = self.ended.remove(&asked.pid()).unwrap_or_default();
                let late = (status == 9 && asked.is_late()).then(|| asked.late());
                match late.map_or_else(|| asked.finish(status).map(drop), Err) {
                    Ok(()) => {
                        done = Some(how);
                        if how == How::AtOnce {
                            over_by = Some(Instant::now() + answer_max);
                        }
                    }
                    Err(failure) => {
                        self.note(Some(failure));
                        destroy_again.later();
                    }
                }
            }
            // Others were left to this process, and are nobody's.
            self.ended.clear();
            if over_by.is_some_and(|by| by <= Instant::now()) {
                waiting.iter().for_each(Asked::kill);
                return Ok((None, None));
            }
        }
    }

    /// Destroys what a launch that broke may have begun. The inner error is the last of those that there were.
    fn undo(&mut self) -> io::Result<Result<(), Failure>> {
        let request = self.program().destruction(&self.spec.container_id, How::AtOnce);
        let mut pause = RETRY_MIN;
        let mut last = Ok(());
        for _ in 0..UNDO_MAX {
            last = self.ask("destroy", &request)?.map(drop);
            if last.is_ok() {
                break;
            }
            std::thread::sleep(pause);
            pause = (2 * pause).min(RETRY_MAX);
        }
        Ok(last)
    }

    fn note(&mut self, failure: Option<Failure>) {
        let sentence = failure.map(Failure::into_sentence).unwrap_or_default();
        if !sentence.is_empty() && sentence != self.noted {
            let _ = writeln!(self.errors, "meseta: {sentence}");
            self.noted = sentence;
        }
    }

    fn ask(&mut self, command: &'static str, request: &Map<String, Value>) -> io::Result<Result<Value, Failure>> {
        let most = Duration::from_millis(self.program().answer_ms_max);
        match self.begin(command, request, Some(most)) {
            Ok(asked) => self.finish(asked, false),
            Err(failure) => Ok(Err(failure)),
        }
    }

    fn begin(
        &self,
        command: &'static str,
        request: &Map<String, Value>,
        most: Option<Duration>,
    ) -> Result<Asked, Failure> {
        let errors = self.errors.try_clone().map_err(|error| Failure::NotStarted(error.to_string()))?;
        let (oom_score_adj, files) = (self.oom_score_adj.to_string(), self.spec.files);
        self.program().ask(command, request, mark_of(self.spec), errors, most, |command| {
            sys::before_exec(command, move || {
                // What is launched gets what it would have got without this process.
                let _ = fs::write("/proc/self/oom_score_adj", &oom_score_adj);
                let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
                for signal in [Signal::SIGPIPE, Signal::SIGHUP, Signal::SIGINT] {
                    sys::set_action(signal, &default)?;
                }
                if let (Some(files), Ok((_, hard))) = (files, getrlimit(Resource::RLIMIT_NOFILE)) {
                    setrlimit(Resource::RLIMIT_NOFILE, files.min(hard), hard)?;
                }
                Ok(())
            });
        })
    }

    /// Waits for the answer; whoever is told to end meanwhile does not wait for what is `stoppable`.
    fn finish(&mut self, asked: Asked, stoppable: bool) -> io::Result<Result<Value, Failure>> {
        let mut failure = None;
        loop {
            if let Some(status) = self.ended.remove(&asked.pid()) {
                return Ok(failure.map_or_else(|| asked.finish(status), Err));
            }
            self.ended.clear();
            if failure.is_none() && asked.is_late() {
                failure = Some(asked.late());
                asked.kill();
            }
            if failure.is_none() && stoppable && self.told.is_some() {
                failure = Some(Failure::Broken("it was told to end while it was being launched".to_owned()));
                asked.kill();
            }
            self.turn(if failure.is_some() { None } else { asked.rest() })?;
        }
    }

    /// Waits until something has happened, or for so long.
    fn turn(&mut self, patience: Option<Duration>) -> io::Result<()> {
        if self.reap()? {
            return Ok(());
        }
        let patience = self.absence.patience().min(patience.unwrap_or(Duration::MAX));
        let told = match sys::wait_signal(self.signals, patience)? {
            Some(Signal::SIGTERM) => Some(How::Gently),
            Some(Signal::SIGUSR1) => Some(How::AtOnce),
            _ => None,
        };
        let away = self.absence.look().map(|signal| if signal == Signal::SIGKILL { How::AtOnce } else { How::Gently });
        self.told = self.told.max(told).max(away);
        self.reap().map(drop)
    }

    /// Takes note of children that have ended; whether there are any.
    fn reap(&mut self) -> io::Result<bool> {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => drop(self.ended.insert(pid.as_raw().unsigned_abs(), code << 8)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.ended.insert(pid.as_raw().unsigned_abs(), signal as i32);
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(!self.ended.is_empty()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends whatever was started on this side and is still there.
    fn end_all(&mut self) -> io::Result<()> {
        // Who keeps outputs within bounds ends when nobody can write any more.
        self.outputs = None;
        let mut pause = Duration::from_millis(1);
        loop {
            loop {
                match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::StillAlive) => break,
                    Err(Errno::ECHILD) => {
                        self.ended.clear();
                        return Ok(());
                    }
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            signal_all(Signal::SIGKILL, self.logger);
            let _ = sys::wait_signal(self.signals, pause)?;
            pause = (2 * pause).min(KILL_PAUSE_MAX);
        }
    }
}
