//! Outputs of a container, copied to where the sandbox has them. Each piece that the engine gives bears its time: who
//! begins again, after a restart of the engine or of this process, goes on behind what was copied.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::{Method, header};
use http_body_util::BodyExt;

use crate::Request;
use crate::engine::Engine;
use crate::wait::{RETRY_MAX, RETRY_MIN};

/// A piece has so many bytes at most: the engine cuts lines at 16 KiB.
const PIECE_BYTES_MAX: usize = 4 << 20;
/// So long the last pieces may stay away.
const PATIENCE: Duration = Duration::from_secs(10);
/// Digits of a number behind the seconds.
const TIME_BYTES: usize = "2006-01-02T15:04:05.000000000Z".len();

/// Where outputs go, and how far they are there.
pub(crate) struct Logs {
    outputs: [Option<File>; 2],
    /// Keeps the place below.
    kept: Option<File>,
    place: Place,
}

/// How far was copied: all before a time, and so many pieces of that time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Place {
    time: String,
    pieces: u64,
}

impl Place {
    fn encode(&self) -> String {
        format!("{} {}\n", self.time, self.pieces)
    }

    fn decode(text: &str) -> Option<Place> {
        let (time, pieces) = text.lines().next()?.split_once(' ')?;
        Some(Place { time: time.to_owned(), pieces: pieces.parse().ok()? }).filter(|place| unix(&place.time).is_some())
    }
}

impl Logs {
    pub(crate) fn open(request: &Request) -> Logs {
        let output = |path: &str| File::options().append(true).custom_flags(nix::libc::O_NONBLOCK).open(path).ok();
        let path = request.folder.join(format!("{}.logs", request.container_id));
        let place = std::fs::read_to_string(&path).ok().as_deref().and_then(Place::decode).unwrap_or_default();
        let kept = File::options().write(true).create(true).truncate(false).mode(0o600).open(path).ok();
        Logs {
            outputs: [output(&request.stdout), output(&request.stderr)].map(|file| file.and_then(blocking)),
            kept,
            place,
        }
    }

    /// Copies for as long as there may be something, and longer: whoever knows that the container is over drops this.
    pub(crate) async fn follow(&mut self, engine: &Engine, name: &str) {
        let mut pause = RETRY_MIN;
        loop {
            let before = self.place.clone();
            if let Err(why) = self.copy(engine, name, true, None).await
                && why.is_for_ever()
            {
                return self.complain(&why);
            }
            pause = if self.place == before { (2 * pause).min(RETRY_MAX) } else { RETRY_MIN };
            tokio::time::sleep(pause).await;
        }
    }

    /// Copies what is left.
    pub(crate) async fn finish(&mut self, engine: &Engine, name: &str) {
        if let Err(why) = self.copy(engine, name, false, Some(PATIENCE)).await {
            self.complain(&why);
        }
    }

    fn complain(&mut self, why: &Trouble) {
        if let Some(errors) = &mut self.outputs[1] {
            let _ = writeln!(errors, "meseta: outputs of the container are not all here: {why}");
        }
    }

    async fn copy(
        &mut self,
        engine: &Engine,
        name: &str,
        follow: bool,
        patience: Option<Duration>,
    ) -> Result<(), Trouble> {
        let since = unix(&self.place.time).map_or(String::new(), |since| format!("&since={since}"));
        let follow = u8::from(follow);
        let path = format!("/containers/{name}/logs?stdout=1&stderr=1&timestamps=1&follow={follow}{since}");
        let answer = engine.open(Method::GET, &path, None);
        let answer = match patience {
            Some(patience) => tokio::time::timeout(patience, answer).await.map_err(|_| Trouble::Late)?,
            None => answer.await,
        };
        let answer = answer.map_err(Trouble::Engine)?;
        let kind = answer.headers().get(header::CONTENT_TYPE).map(|kind| kind.as_bytes().to_vec());
        // One with a terminal has one output, and nothing between the pieces but ends of lines.
        let is_raw = match kind.as_deref() {
            Some(b"application/vnd.docker.raw-stream") => has_terminal(engine, name).await,
            _ => false,
        };
        let (mut body, mut buffer) = (answer.into_body(), BytesMut::new());
        // Of the time that was reached, these were copied before.
        let mut seen = Place { time: self.place.time.clone(), pieces: 0 };
        loop {
            let frame = match patience {
                Some(patience) => tokio::time::timeout(patience, body.frame()).await.map_err(|_| Trouble::Late)?,
                None => body.frame().await,
            };
            match frame {
                None => break,
                Some(Err(_)) => return Err(Trouble::Cut),
                Some(Ok(frame)) => buffer.extend_from_slice(&frame.into_data().unwrap_or_default()),
            }
            let mut moved = false;
            while let Some((output, piece)) = next(&mut buffer, is_raw)? {
                self.take(output, &piece, &mut seen);
                moved = true;
            }
            if moved {
                self.keep();
            }
        }
        if is_raw && !buffer.is_empty() {
            let rest = buffer.split();
            self.take(0, &rest, &mut seen);
            self.keep();
        }
        Ok(())
    }

    /// One piece: its time, a space, and what was written.
    fn take(&mut self, output: usize, piece: &[u8], seen: &mut Place) {
        let (time, text) = match piece.get(..TIME_BYTES).and_then(|time| std::str::from_utf8(time).ok()) {
            Some(time) if unix(time).is_some() && piece.get(TIME_BYTES) == Some(&b' ') => {
                (time, &piece[TIME_BYTES + 1..])
            }
            _ => ("", piece),
        };
        if !time.is_empty() {
            if seen.time == time {
                seen.pieces += 1;
            } else {
                *seen = Place { time: time.to_owned(), pieces: 1 };
            }
            if self.place.time == time {
                if seen.pieces <= self.place.pieces {
                    return;
                }
                self.place.pieces = seen.pieces;
            } else {
                self.place = seen.clone();
            }
        }
        // A disk that is full takes no more of it, as it would have told the task.
        if let Some(file) = &mut self.outputs[output.min(1)] {
            let _ = file.write_all(text);
        }
    }

    fn keep(&self) {
        if let Some(kept) = &self.kept {
            let _ = kept.write_all_at(self.place.encode().as_bytes(), 0);
        }
    }
}

/// Why not all is copied.
enum Trouble {
    Engine(crate::engine::Error),
    Cut,
    Late,
    Odd,
}

impl Trouble {
    /// Whether it makes no sense to ask again.
    fn is_for_ever(&self) -> bool {
        use crate::engine::Error;
        // A driver of logs that cannot be read.
        matches!(self, Trouble::Engine(Error::Said(400 | 501, _))) || matches!(self, Trouble::Odd)
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Engine(error) => error.fmt(f),
            Trouble::Cut => write!(f, "the Docker Engine ended the conversation"),
            Trouble::Late => write!(f, "the Docker Engine said nothing for {} s", PATIENCE.as_secs()),
            Trouble::Odd => write!(f, "the Docker Engine's answer cannot be read"),
        }
    }
}

async fn has_terminal(engine: &Engine, name: &str) -> bool {
    let found = engine.inspect(name).await.unwrap_or_default();
    crate::engine::at(&found, &["Config", "Tty"]).and_then(serde_json::Value::as_bool).unwrap_or(false)
}

/// Files that wait for nobody were opened; what is written waits for who reads a pipe.
fn blocking(file: File) -> Option<File> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND)).ok()?;
    Some(file)
}

/// The next piece: which output, and what. None if it is not all there.
fn next(buffer: &mut BytesMut, is_raw: bool) -> Result<Option<(usize, BytesMut)>, Trouble> {
    if is_raw {
        let end = buffer.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let end = end.or((buffer.len() > PIECE_BYTES_MAX).then_some(buffer.len()));
        return Ok(end.map(|end| (0, buffer.split_to(end))));
    }
    let Some(head) = buffer.get(..8) else { return Ok(None) };
    let (output, length) = (head[0], u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize);
    if output > 3 || length > PIECE_BYTES_MAX {
        return Err(Trouble::Odd);
    }
    if buffer.len() < 8 + length {
        return Ok(None);
    }
    buffer.advance(8);
    Ok(Some((usize::from(output == 2), buffer.split_to(length))))
}

/// A time as the engine wants it back: seconds since 1970 with nine digits behind.
pub(crate) fn unix(time: &str) -> Option<String> {
    let bytes = time.as_bytes();
    let is_time = time.is_ascii() && bytes.len() == TIME_BYTES && bytes[TIME_BYTES - 1] == b'Z';
    let number = |from: usize, to: usize| time.get(from..to)?.parse::<u32>().ok().map(i64::from);
    if !is_time || bytes[19] != b'.' {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second, nanos) = (number(11, 13)?, number(14, 16)?, number(17, 19)?, number(20, 29)?);
    // Days since 1970 of the Gregorian calendar, whose years begin in March for this.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    (seconds >= 0).then(|| format!("{seconds}.{nanos:09}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn framed(output: u8, text: &str) -> Vec<u8> {
        let mut bytes = vec![output, 0, 0, 0];
        bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        bytes.extend(text.as_bytes());
        bytes
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(unix("1970-01-01T00:00:00.000000000Z").unwrap(), "0.000000000");
        assert_eq!(unix("2026-11-30T11:03:10.787963385Z").unwrap(), "1796036590.787963385");
        assert_eq!(unix("2024-02-29T23:59:59.000000001Z").unwrap(), "1709251199.000000001");
        for bad in [
            "",
            "2026-11-30T11:03:10Z",
            "yyyy-11-30T11:03:10.787963385Z",
            "2026-11-30T11:03:10.78796338ZZ",
            "1969-01-01T00:00:00.000000000Z",
        ] {
            assert_eq!(unix(bad), None, "{bad}");
        }
    }

    #[test]
    fn pieces_are_cut_as_they_were_sent() {
        let mut buffer = BytesMut::from(&[framed(1, "ab"), framed(2, "c"), vec![1, 0, 0]].concat()[..]);
        let mut taken = || next(&mut buffer, false).ok().unwrap().map(|(output, text)| (output, text.to_vec()));
        assert_eq!(taken(), Some((0, b"ab".to_vec())));
        assert_eq!(taken(), Some((1, b"c".to_vec())));
        assert_eq!(taken(), None);
        for hostile in [&[9, 0, 0, 0, 0, 0, 0, 0][..], &[1, 0, 0, 0, 255, 255, 255, 255]] {
            assert!(next(&mut BytesMut::from(hostile), false).is_err());
        }
        let mut buffer = BytesMut::from(&b"a\nb"[..]);
        assert_eq!(next(&mut buffer, true).ok().unwrap().unwrap().1, &b"a\n"[..]);
        assert!(next(&mut buffer, true).ok().unwrap().is_none());
    }

    #[test]
    fn who_begins_again_goes_on_behind_what_was_copied() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        ["stdout", "stderr"].iter().for_each(|name| fs::write(path(name), "").unwrap());
        let request = Request {
            folder: dir.path().to_owned(),
            container_id: "c".into(),
            stdout: path("stdout"),
            stderr: path("stderr"),
            ..Request::default()
        };
        let at = |second: u32, text: &str| format!("2026-11-30T11:03:{second:02}.000000000Z {text}").into_bytes();
        let all = [(0, at(1, "a\n")), (0, at(2, "b")), (1, at(2, "c\n")), (0, at(2, "d\n")), (0, at(3, "e\n"))];
        for count in 0..=all.len() {
            let mut logs = Logs::open(&request);
            // The engine begins with all that bears the time that was reached.
            let from = all.iter().position(|(_, piece)| piece.starts_with(logs.place.time.as_bytes())).unwrap_or(0);
            let mut seen = Place { time: logs.place.time.clone(), pieces: 0 };
            all[from..count.max(from)].iter().for_each(|(output, piece)| logs.take(*output, piece, &mut seen));
            logs.keep();
        }
        assert_eq!(fs::read_to_string(path("stdout")).unwrap(), "a\nbd\ne\n");
        assert_eq!(fs::read_to_string(path("stderr")).unwrap(), "c\n");
        let mut logs = Logs::open(&request);
        logs.take(0, b"no time", &mut Place::default());
        assert!(fs::read_to_string(path("stdout")).unwrap().ends_with("no time"));
    }
}
