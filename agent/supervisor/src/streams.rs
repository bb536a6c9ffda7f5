//! The streams of a container's process, held by its supervisor so that they outlive the agent: a terminal or pipes on one side, a
//! Unix socket on the other. Whoever connects says with its first byte what it wants:
//!
//! - `O`: all that the process writes from now on, as frames, until it has ended.
//! - `I`: to be what the process reads from. Answered with `K`, or `B` if somebody is. Then it sends frames.
//!
//! A frame is a kind ([`STDIN`], [`STDOUT`], [`STDERR`], [`WINDOW`]), the length of its content in four bytes, highest first, and the
//! content. Input without content is the end of it. Nothing is thrown away because somebody reads slowly: then the process waits;
//! who does not read at all for long is let go.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::sys;

/// What the process is to read.
pub const STDIN: u8 = 0;
/// What it wrote.
pub const STDOUT: u8 = 1;
/// What it wrote of errors.
pub const STDERR: u8 = 2;
/// Rows and columns of its terminal, two bytes each, highest first.
pub const WINDOW: u8 = 3;
/// A frame has no more content, in bytes.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// So much is kept for one that reads slowly, in bytes, before the process waits for it.
const BUFFER_BYTES_MAX: usize = 256 << 10;
/// Who reads nothing for so long is let go.
const STUCK_MAX: Duration = Duration::from_secs(30);
/// After the end, the last of the output waits so long for somebody to read it.
const FAREWELL: Duration = Duration::from_secs(10);
/// Clients at once.
const CLIENTS_MAX: usize = 64;

/// Where the streams of the supervisor with this pid and start can be reached, below the folder of sockets.
pub fn socket_name(pid: u32, start_ticks: u64) -> String {
    format!("{pid}.{start_ticks}")
}

/// A path of a socket in a folder that is short enough for the kernel, whatever the folder's own; for as long as `dir` is open.
pub fn short_path(dir: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

/// One frame.
pub fn frame(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&u32::try_from(content.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(content);
    bytes
}

/// Takes the first whole frame off a buffer.
///
/// # Errors
/// It is longer than a frame may be.
pub fn take_frame(buffer: &mut Vec<u8>) -> Result<Option<(u8, Vec<u8>)>, &'static str> {
    let Some(head) = buffer.first_chunk::<5>().copied() else { return Ok(None) };
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > FRAME_BYTES_MAX {
        return Err("a frame is too long");
    }
    if buffer.len() < 5 + length {
        return Ok(None);
    }
    let content = buffer[5..5 + length].to_vec();
    buffer.drain(..5 + length);
    Ok(Some((head[0], content)))
}

struct Output {
    stream: UnixStream,
    buffer: VecDeque<u8>,
    stuck: Option<Instant>,
}

struct InputFrom {
    stream: UnixStream,
    buffer: Vec<u8>,
}

/// The supervisor's side.
pub(crate) struct Streams {
    listener: UnixListener,
    path: PathBuf,
    signals: SignalFd,
    /// What the process reads from; the terminal is both.
    into: Option<File>,
    out_of: Vec<(u8, File)>,
    is_terminal: bool,
    log: Option<File>,
    /// Nothing is read before somebody listens.
    waits: bool,
    undecided: Vec<UnixStream>,
    outputs: Vec<Output>,
    input: Option<InputFrom>,
    pending: VecDeque<u8>,
    /// The end of the input is in `pending`.
    closing: bool,
}

impl Streams {
    /// Ready to be connected to; the process's side follows.
    pub(crate) fn open(dir: &str, name: &str, signals: &SigSet) -> io::Result<Streams> {
        let folder = File::open(dir)?;
        let path = PathBuf::from(dir).join(name);
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(short_path(&folder, name))?;
        listener.set_nonblocking(true)?;
        let signals = SignalFd::with_flags(signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Streams {
            listener,
            path,
            signals,
            into: None,
            out_of: Vec::new(),
            is_terminal: false,
            log: None,
            waits: false,
            undecided: Vec::new(),
            outputs: Vec::new(),
            input: None,
            pending: VecDeque::new(),
            closing: false,
        })
    }

    /// The process's side: its terminal, or its pipes. `log` gets all of it, too; without one nothing is read before somebody listens.
    pub(crate) fn join(&mut self, into: OwnedFd, out_of: Vec<(u8, OwnedFd)>, is_terminal: bool, log: Option<File>) {
        let files: Vec<(u8, File)> = out_of.into_iter().map(|(kind, fd)| (kind, File::from(fd))).collect();
        let into = File::from(into);
        files.iter().map(|(_, file)| file).chain([&into]).for_each(|file| {
            let _ = sys::set_nonblocking(file);
        });
        (self.into, self.out_of, self.is_terminal) = (Some(into), files, is_terminal);
        (self.waits, self.log) = (log.is_none(), log);
    }

    fn holds(&self) -> bool {
        (self.waits && self.outputs.is_empty()) || self.outputs.iter().any(|one| one.buffer.len() > BUFFER_BYTES_MAX)
    }

    /// Passes on what there is until a signal comes, or `patience` ends.
    pub(crate) fn wait(&mut self, patience: Duration) -> io::Result<Option<Signal>> {
        let until = Instant::now() + patience;
        loop {
            if let Some(signal) = self.signal()? {
                return Ok(Some(signal));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.step(left)?;
        }
    }

    fn signal(&mut self) -> io::Result<Option<Signal>> {
        match self.signals.read_signal() {
            Ok(Some(info)) => Ok(i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok())),
            Ok(None) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for one thing or more to happen, and does what there is to do then.
    fn step(&mut self, patience: Duration) -> io::Result<()> {
        let holds = self.holds();
        let (reads, writes) = (PollFlags::POLLIN, PollFlags::POLLOUT);
        {
            let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(self.signals.as_fd(), reads)];
            fds.push(PollFd::new(self.listener.as_fd(), reads));
            if !holds {
                fds.extend(self.out_of.iter().map(|(_, file)| PollFd::new(file.as_fd(), reads)));
            }
            if let Some(into) = self.into.as_ref().filter(|_| !self.pending.is_empty()) {
                fds.push(PollFd::new(into.as_fd(), writes));
            }
            fds.extend(self.undecided.iter().map(|one| PollFd::new(one.as_fd(), reads)));
            fds.extend(self.outputs.iter().map(|one| {
                PollFd::new(one.stream.as_fd(), if one.buffer.is_empty() { reads } else { reads | writes })
            }));
            if let Some(input) = self.input.as_ref().filter(|_| self.pending.is_empty()) {
                fds.push(PollFd::new(input.stream.as_fd(), reads));
            }
            let millis = u16::try_from(patience.as_millis().clamp(1, 1000)).unwrap_or(1000);
            match poll(&mut fds, PollTimeout::from(millis)) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // In this order: whoever was attached and left makes room for the next.
        self.feed();
        self.meet();
        if !holds {
            self.drink();
        }
        self.flush();
        Ok(())
    }

    /// Who came, and what they want.
    fn meet(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let clients = self.undecided.len() + self.outputs.len();
            if clients < CLIENTS_MAX && stream.set_nonblocking(true).is_ok() {
                self.undecided.push(stream);
            }
        }
        for mut stream in std::mem::take(&mut self.undecided) {
            let mut first = [0];
            match stream.read(&mut first) {
                Ok(1) if first == *b"O" => {
                    self.outputs.push(Output { stream, buffer: VecDeque::new(), stuck: None });
                }
                Ok(1) if first == *b"I" && self.input.is_none() => {
                    let told = stream.write_all(b"K").is_ok();
                    self.input = told.then(|| InputFrom { stream, buffer: Vec::new() });
                }
                Ok(1) if first == *b"I" => drop(stream.write_all(b"B")),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.undecided.push(stream),
                _ => {}
            }
        }
    }

    /// What the process is to read.
    fn feed(&mut self) {
        while !self.pending.is_empty() {
            let Some(into) = &mut self.into else {
                self.pending.clear();
                break;
            };
            match into.write(self.pending.as_slices().0) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // It closed its input.
                Err(_) => self.pending.clear(),
            }
        }
        if self.closing && !self.is_terminal {
            self.into = None;
        }
        let Some(input) = &mut self.input else { return };
        let mut bytes = [0; 16 << 10];
        let is_over = match input.stream.read(&mut bytes) {
            Ok(0) => true,
            Ok(count) => {
                input.buffer.extend_from_slice(&bytes[..count]);
                false
            }
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        };
        loop {
            match take_frame(&mut input.buffer) {
                Ok(Some((STDIN, content))) if content.is_empty() => self.closing = true,
                Ok(Some((STDIN, content))) => self.pending.extend(content),
                Ok(Some((WINDOW, content))) => {
                    if let (Some(into), &[a, b, c, d]) = (&self.into, &content[..]) {
                        let _ = sys::set_window(into, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) if !is_over => return,
                Ok(None) | Err(_) => break,
            }
        }
        self.input = None;
    }

    /// What the process wrote.
    fn drink(&mut self) {
        let mut bytes = [0; 16 << 10];
        let mut at = 0;
        while at < self.out_of.len() {
            let (kind, file) = &mut self.out_of[at];
            match file.read(&mut bytes) {
                Ok(count) if count > 0 => {
                    let frame = frame(*kind, &bytes[..count]);
                    self.outputs.iter_mut().for_each(|one| one.buffer.extend(&frame));
                    if let Some(log) = &mut self.log {
                        let _ = log.write_all(&bytes[..count]);
                    }
                    at += 1;
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => at += 1,
                // Nobody has the other end any more; for a terminal that is an error.
                Ok(_) | Err(_) => drop(self.out_of.remove(at)),
            }
        }
    }

    fn flush(&mut self) {
        let now = Instant::now();
        self.outputs.retain_mut(|one| {
            while !one.buffer.is_empty() {
                match one.stream.write(one.buffer.as_slices().0) {
                    Ok(count) => {
                        one.buffer.drain(..count);
                        one.stuck = None;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        return one.stuck.get_or_insert(now).elapsed() < STUCK_MAX;
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => return false,
                }
            }
            // It says nothing: what there is to read is its end.
            !matches!(one.stream.read(&mut [0]), Ok(0))
        });
        if !self.outputs.is_empty() {
            self.waits = false;
        }
    }

    /// The process has ended, and all that came of it: what they wrote last is passed on. If it `was_told` to end, nobody comes any more
    /// who has not come yet.
    pub(crate) fn finish(mut self, was_told: bool) {
        let began = Instant::now();
        self.waits &= !was_told;
        self.input = None;
        self.pending.clear();
        let is_done = |streams: &Streams| {
            !streams.waits && streams.out_of.is_empty() && streams.outputs.iter().all(|one| one.buffer.is_empty())
        };
        while !is_done(&self) && began.elapsed() < FAREWELL {
            if self.step(Duration::from_millis(50)).is_err() {
                break;
            }
            self.waits &= !matches!(self.signal(), Ok(Some(Signal::SIGUSR1)));
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_whole() {
        let mut buffer = [frame(STDOUT, b"out"), frame(STDIN, b""), frame(WINDOW, &[0, 50, 0, 132])].concat();
        let rest = buffer.split_off(5);
        assert_eq!(take_frame(&mut buffer), Ok(None));
        buffer.extend(rest);
        assert_eq!(take_frame(&mut buffer), Ok(Some((STDOUT, b"out".to_vec()))));
        assert_eq!(take_frame(&mut buffer), Ok(Some((STDIN, Vec::new()))));
        assert_eq!(take_frame(&mut buffer), Ok(Some((WINDOW, vec![0, 50, 0, 132]))));
        assert_eq!(take_frame(&mut buffer), Ok(None));
        assert!(take_frame(&mut vec![1, 0xff, 0, 0, 0]).is_err());
    }

    #[test]
    fn a_socket_is_reached_however_long_its_folders_name_is() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(200));
        std::fs::create_dir(&long).unwrap();
        let streams = Streams::open(long.to_str().unwrap(), "7.8", &SigSet::empty()).unwrap();
        let folder = File::open(&long).unwrap();
        UnixStream::connect(short_path(&folder, "7.8")).unwrap();
        drop(streams);
        assert!(UnixStream::connect(short_path(&folder, "7.8")).is_err());
    }
}
