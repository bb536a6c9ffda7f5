//! A program that runs containers in the agent's place, and how it is asked: `PROGRAM COMMAND`, one JSON object on its standard
//! input, one on its standard output. `docs/external-containerizer.md` is the whole of it.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Map, Value, json};

use crate::processes::CONTAINER;
use crate::sys::pidfd_open;

/// The version of what is said here; it is in every request.
pub const PROTOCOL: u64 = 1;
/// Where commands look for programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// An answer has so many bytes at most.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Of what a command wrote to its standard error, the last line is quoted, if it is among so many bytes.
const TAIL_BYTES_MAX: usize = 8192;
const LINE_CHARS_MAX: usize = 1000;
/// What is told of a container for its task's updates has so many bytes at most.
const TOLD_BYTES_MAX: usize = 96 << 10;
/// The longest wait for a program that was killed.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// The program, as the agent was told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Its path.
    pub path: String,
    /// Folder that is its own, of this agent: it runs there, and may keep there what it has to know.
    pub folder: String,
    /// So long a launch may take, in milliseconds.
    pub launch_ms_max: u64,
    /// So long everything else may take, but the wait for a container's end.
    pub answer_ms_max: u64,
    /// What it runs, if it is part of this release: then its sentences say enough.
    pub own: Option<String>,
}

/// The longest name of what a program of this release runs is far from this: a file that says so is damaged.
const OWN_BYTES_MAX: usize = 64;

/// How a container is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// It may clean up.
    Gently,
    /// Nothing of it stays.
    AtOnce,
}

/// Why there is no answer. Each is a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The program could not be started: nothing happened.
    NotStarted(String),
    /// It said no, and nothing is left of what was asked for.
    Refused(String),
    /// It broke, or took too long: nobody knows what happened.
    Broken(String),
}

impl Failure {
    /// The sentence.
    pub fn into_sentence(self) -> String {
        match self {
            Failure::NotStarted(sentence) | Failure::Refused(sentence) | Failure::Broken(sentence) => sentence,
        }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        io::Error::other(failure.into_sentence())
    }
}

impl Program {
    /// What every request begins with.
    pub fn request(&self) -> Map<String, Value> {
        let mut request = Map::new();
        request.insert("protocol".to_owned(), PROTOCOL.into());
        request.insert("folder".to_owned(), self.folder.clone().into());
        request
    }

    /// What every request about a container begins with.
    pub fn about(&self, container_id: &str) -> Map<String, Value> {
        let mut request = self.request();
        request.insert("container_id".to_owned(), container_id.into());
        request
    }

    /// To end a container.
    pub fn destruction(&self, container_id: &str, how: How) -> Map<String, Value> {
        let mut request = self.about(container_id);
        let how = if how == How::Gently { "gently" } else { "at_once" };
        request.insert("how".to_owned(), how.into());
        request
    }

    /// As it is kept in a file.
    pub(crate) fn encode(&self) -> String {
        let Program { path, folder, launch_ms_max, answer_ms_max, own } = self;
        let mut parts = vec![path.clone(), folder.clone(), launch_ms_max.to_string(), answer_ms_max.to_string()];
        parts.extend(own.clone());
        parts.join("\0")
    }

    /// As sentences call it.
    fn name(&self) -> String {
        match &self.own {
            Some(own) => format!("the {own} containerizer"),
            None => format!("the external containerizer {}", self.path),
        }
    }

    pub(crate) fn decode(text: &str) -> Option<Program> {
        let mut parts = text.split('\0').map(str::to_owned);
        Some(Program {
            path: parts.next().filter(|path| !path.is_empty())?,
            folder: parts.next()?,
            launch_ms_max: parts.next()?.parse().ok()?,
            answer_ms_max: parts.next()?.parse().ok()?,
            own: parts.next().filter(|own| own.len() <= OWN_BYTES_MAX),
        })
    }

    /// Begins a command. `mark` names what it is about to whoever looks at processes; `errors` gets what it complains of, and is read
    /// again should it break; `before` is done to it before it is started. Without `most` it may take for ever.
    ///
    /// # Errors
    /// It did not begin.
    pub fn ask(
        &self,
        command: &'static str,
        request: &Map<String, Value>,
        mark: Option<&str>,
        errors: File,
        most: Option<Duration>,
        before: impl FnOnce(&mut Command),
    ) -> Result<Asked, Failure> {
        let begin = || -> io::Result<Asked> {
            let mut input = File::from(memfd_create("request", MFdFlags::MFD_CLOEXEC)?);
            input.write_all(&serde_json::to_vec(request)?)?;
            input.rewind()?;
            let answer = File::from(memfd_create("answer", MFdFlags::MFD_CLOEXEC)?);
            let errors_from = errors.metadata()?.len();
            let mut child = Command::new(&self.path);
            child.arg(command).current_dir(&self.folder).env_clear().env("PATH", PATH).process_group(0);
            child.envs(mark.map(|mark| (CONTAINER, mark)));
            child.stdin(input).stdout(answer.try_clone()?).stderr(Stdio::from(OwnedFd::from(errors.try_clone()?)));
            before(&mut child);
            let (child, name, begun) = (child.spawn()?, self.name(), Instant::now());
            let is_own = self.own.is_some();
            Ok(Asked { child, command, name, is_own, answer, errors, errors_from, begun, most })
        };
        begin().map_err(|error| Failure::NotStarted(format!("cannot start {}: {error}", self.name())))
    }

    /// Runs a command to its end, in a process that may have other threads and children.
    ///
    /// # Errors
    /// There is no answer.
    pub fn call(
        &self,
        command: &'static str,
        request: &Map<String, Value>,
        mark: Option<&str>,
    ) -> Result<Value, Failure> {
        let most = Duration::from_millis(self.answer_ms_max);
        self.call_within(command, request, mark, most)
    }

    /// The same, with a time of its own.
    ///
    /// # Errors
    /// There is no answer.
    pub fn call_within(
        &self,
        command: &'static str,
        request: &Map<String, Value>,
        mark: Option<&str>,
        most: Duration,
    ) -> Result<Value, Failure> {
        let errors = memfd_create("errors", MFdFlags::MFD_CLOEXEC).map(File::from);
        let errors = errors.map_err(|error| Failure::NotStarted(format!("cannot make a memfd: {error}")))?;
        let mut asked = self.ask(command, request, mark, errors, Some(most), |_| {})?;
        match asked.wait(most) {
            Ok(Some(status)) => asked.finish(status),
            Ok(None) => {
                asked.kill();
                let _ = asked.wait(KILL_PATIENCE);
                Err(asked.late())
            }
            Err(error) => {
                asked.kill();
                let _ = asked.wait(KILL_PATIENCE);
                Err(asked.broken(&format!("'{command}' cannot be waited for: {error}")))
            }
        }
    }
}

/// A command under way.
#[derive(Debug)]
pub struct Asked {
    child: Child,
    command: &'static str,
    name: String,
    is_own: bool,
    answer: File,
    errors: File,
    errors_from: u64,
    begun: Instant,
    most: Option<Duration>,
}

impl Asked {
    /// Its process, which leads a group.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What is left of its time.
    pub fn rest(&self) -> Option<Duration> {
        self.most.map(|most| most.saturating_sub(self.begun.elapsed()))
    }

    /// Whether its time is over.
    pub fn is_late(&self) -> bool {
        self.rest() == Some(Duration::ZERO)
    }

    /// Kills it, and what is in its group.
    pub fn kill(&self) {
        let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
    }

    /// Waits for its end, for so long; its wait status.
    fn wait(&mut self, most: Duration) -> io::Result<Option<i32>> {
        let pidfd = pidfd_open(self.child.id())?;
        let until = Instant::now() + most;
        loop {
            let rest = until.saturating_duration_since(Instant::now());
            let rest = PollTimeout::try_from(rest + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], rest) {
                Ok(0) if until <= Instant::now() => return Ok(None),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return self.child.wait().map(|status| Some(status.into_raw())),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What it said, once it has ended with this wait status.
    ///
    /// # Errors
    /// It gave no answer.
    pub fn finish(self, status: i32) -> Result<Value, Failure> {
        let command = self.command;
        let length = self.answer.metadata().map_or(0, |found| found.len());
        let mut bytes = vec![0; ANSWER_BYTES_MAX.min(usize::try_from(length).unwrap_or(usize::MAX))];
        if length > ANSWER_BYTES_MAX as u64 || self.answer.read_exact_at(&mut bytes, 0).is_err() {
            return Err(self.broken(&format!("its answer to '{command}' has more than {ANSWER_BYTES_MAX} bytes")));
        }
        let text = String::from_utf8_lossy(&bytes);
        let answer = if text.trim().is_empty() { Some(json!({})) } else { serde_json::from_str(&text).ok() };
        let answer: Option<Value> = answer.filter(Value::is_object);
        if let Some(error) = answer.as_ref().and_then(|answer| answer.get("error")) {
            let sentence = error.as_str().map_or_else(|| error.to_string(), str::to_owned);
            let sentence = line(&sentence);
            return Err(Failure::Refused(match self.is_own {
                true => sentence,
                false => format!("{}: {sentence}", self.name),
            }));
        }
        match answer {
            _ if status & 0x7f != 0 => {
                Err(self.broken(&format!("'{command}' was terminated with signal {}", status & 0x7f)))
            }
            _ if status != 0 => Err(self.broken(&format!("'{command}' exited with status {}", status >> 8))),
            Some(answer) => Ok(answer),
            None => Err(self.broken(&format!("its answer to '{command}' is no JSON object"))),
        }
    }

    /// It took too long, and was ended.
    pub fn late(&self) -> Failure {
        let most = self.most.unwrap_or_default();
        let flag = match (self.command, self.is_own) {
            // As it bounds the time of everything else that is to become an executor.
            ("launch", true) => "executor_registration_timeout",
            ("launch", false) => "containerizer_launch_timeout",
            _ => "containerizer_timeout",
        };
        self.broken(&format!("'{}' took longer than {} s (--{flag})", self.command, most.as_secs_f64()))
    }

    /// It broke in this way.
    pub fn broken(&self, why: &str) -> Failure {
        let length = self.errors.metadata().map_or(0, |found| found.len());
        let from = self.errors_from.max(length.saturating_sub(TAIL_BYTES_MAX as u64));
        let mut bytes = vec![0; TAIL_BYTES_MAX];
        let read = self.errors.read_at(&mut bytes, from).unwrap_or(0);
        let text = String::from_utf8_lossy(&bytes[..read]);
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        let said = last.map_or(String::new(), |last| format!(": {}", line(last)));
        Failure::Broken(format!("{} failed: {why}{said}", self.name))
    }
}

fn line(text: &str) -> String {
    let printed = text.chars().take(LINE_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c });
    printed.collect::<String>().trim().to_owned()
}

/// What a program tells of a container that it has launched, for the updates of its task: an object with `data`, a string, and
/// `network_infos`, a list of objects. None if it tells nothing; what an update has no room for is left out.
pub fn told_of_start(answer: &Value) -> Option<String> {
    let mut told = Map::new();
    told.extend(answer.get("data").filter(|data| data.is_string()).map(|data| ("data".to_owned(), data.clone())));
    let networks = answer.get("network_infos").filter(|all| all.is_array());
    told.extend(networks.map(|all| ("network_infos".to_owned(), all.clone())));
    let fits = |text: &String| text.len() > "{}".len() && text.len() <= TOLD_BYTES_MAX;
    let text = Value::Object(told.clone()).to_string();
    Some(text).filter(fits).or_else(|| {
        // Where it is reached matters more than how it is described.
        told.remove("data");
        Some(Value::Object(told).to_string()).filter(fits)
    })
}

/// What a program tells beside a container's end: the resource that it exceeded, with `mem` or `disk` as `resource`, and a
/// sentence as `message`.
pub fn told_of_end(answer: &Value) -> Option<String> {
    let exceeded = answer.get("exceeded")?;
    let text = |name: &str| exceeded.get(name).and_then(Value::as_str);
    let told = json!({"resource": text("resource")?, "message": line(text("message")?), "used": exceeded.get("used").and_then(Value::as_f64)});
    Some(told.to_string())
}

/// How a container ended, as a program tells: its wait status; none if nobody knows. None at all if that is no answer.
pub fn end_of(answer: &Value) -> Option<Option<i32>> {
    let number = |name: &str| answer.get(name).map(Value::as_i64);
    match (number("exited"), number("signaled"), answer.get("lost")) {
        (Some(Some(code @ 0..=255)), None, None) => Some(Some((code as i32) << 8)),
        (None, Some(Some(signal @ 1..=64)), None) => Some(Some(signal as i32)),
        (None, None, Some(Value::Bool(true))) => Some(None),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn program(dir: &tempfile::TempDir, script: &str) -> Program {
        let path = dir.path().join("program");
        // Written by another process: one that is forked meanwhile would hold it open, and it could not be executed.
        let mut writer = Command::new("sh");
        writer.args(["-c", "cat > \"$1\"", "sh"]).arg(&path).stdin(Stdio::piped());
        let mut writer = writer.spawn().unwrap();
        writer.stdin.take().unwrap().write_all(format!("#!/bin/sh\n{script}\n").as_bytes()).unwrap();
        assert!(writer.wait().unwrap().success());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let (path, folder) = (path.display().to_string(), dir.path().display().to_string());
        Program { path, folder, launch_ms_max: 1000, answer_ms_max: 60_000, own: None }
    }

    fn call(script: &str) -> Result<Value, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let program = program(&dir, script);
        program.call("list", &program.request(), Some("c@/w")).map_err(|failure| match failure {
            Failure::Broken(text) => Failure::Broken(text.replace(&program.path, "P")),
            Failure::Refused(text) => Failure::Refused(text.replace(&program.path, "P")),
            other => other,
        })
    }

    #[test]
    fn a_program_is_asked_and_answers() {
        let script = r#"printf '{"command": "%s", "request": %s, "mark": "%s", "home": "%s"}' \
                     "$1" "$(cat)" "$MESETA_CONTAINER" "$HOME""#;
        let answer = call(script).unwrap();
        assert_eq!((&answer["command"], &answer["request"]["protocol"]), (&json!("list"), &json!(1)));
        assert_eq!((&answer["mark"], &answer["home"]), (&json!("c@/w"), &json!("")), "nothing is inherited");
        assert_eq!(call("exit 0"), Ok(json!({})));
        // What it leaves running does not keep the answer back.
        let begun = Instant::now();
        assert_eq!(call("sleep 60 & echo {}; (sleep 1; kill $!) & exit 0"), Ok(json!({})));
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn why_there_is_no_answer_is_said() {
        let broken = |why: &str| Err(Failure::Broken(format!("the external containerizer P failed: {why}")));
        let refused = Failure::Refused("the external containerizer P: no room".into());
        assert_eq!(call(r#"echo '{"error": "no\u0000room"}'; exit 1"#), Err(refused.clone()));
        assert_eq!(call(r#"echo '{"error": "no room"}'"#), Err(refused));
        assert_eq!(call("echo; echo it is broken >&2; exit 3"), broken("'list' exited with status 3: it is broken"));
        assert_eq!(call("kill -9 $$"), broken("'list' was terminated with signal 9"));
        assert_eq!(call("echo '[]'"), broken("its answer to 'list' is no JSON object"));
        let missing = Program { path: "/nowhere".into(), folder: "/".into(), ..Program::default() };
        assert!(matches!(missing.call("list", &missing.request(), None), Err(Failure::NotStarted(_))));
        let dir = tempfile::tempdir().unwrap();
        let slow = Program { answer_ms_max: 50, ..program(&dir, "exec sleep 1000") };
        let late = slow.call("list", &slow.request(), None).unwrap_err().into_sentence();
        assert!(late.ends_with("'list' took longer than 0.05 s (--containerizer_timeout)"), "{late}");
    }

    #[test]
    fn what_is_told_beside_a_start_and_an_end_is_bounded() {
        assert_eq!(told_of_start(&json!({"pid": 1, "data": 7, "network_infos": {}})), None);
        let told = json!({"data": "d", "network_infos": [{"name": "n"}], "other": 1});
        assert_eq!(told_of_start(&told).unwrap(), r#"{"data":"d","network_infos":[{"name":"n"}]}"#);
        let long = json!({"data": "d".repeat(TOLD_BYTES_MAX), "network_infos": []});
        assert_eq!(told_of_start(&long).unwrap(), r#"{"network_infos":[]}"#);
        assert_eq!(told_of_start(&json!({"data": "d".repeat(TOLD_BYTES_MAX)})), None);
        assert_eq!(told_of_end(&json!({"exited": 1, "exceeded": "mem"})), None);
        let told = told_of_end(&json!({"exceeded": {"resource": "mem", "message": "too\nmuch"}})).unwrap();
        assert_eq!(told, r#"{"message":"too much","resource":"mem","used":null}"#);
    }

    #[test]
    fn ends_are_told_in_one_way_each() {
        for (answer, end) in [
            (json!({"exited": 3}), Some(Some(3 << 8))),
            (json!({"signaled": 9}), Some(Some(9))),
            (json!({"lost": true}), Some(None)),
            (json!({"exited": 256}), None),
            (json!({"exited": 0, "signaled": 9}), None),
            (json!({"lost": false}), None),
            (json!({}), None),
        ] {
            assert_eq!(end_of(&answer), end, "{answer}");
        }
        for own in [None, Some("docker".to_owned())] {
            let program = Program { path: "/p".into(), folder: "/f".into(), launch_ms_max: 1, answer_ms_max: 2, own };
            assert_eq!(Program::decode(&program.encode()), Some(program));
        }
        assert_eq!(Program::decode(""), None);
    }
}
