//! Calls that last as long as their streams: sessions, and whoever attaches to the streams of a container's process.

use std::sync::Arc;
use std::time::Duration;

use agent_core::{Command, Process, path};
use api::limits::FRAMES_BYTES;
use api::media::{Body as Kind, Media, Rejection, Streaming, accept_stream, request_body};
use api::recordio::Decoder;
use api::v1::DurationInfo;
use api::v1::agent::call::LaunchContainer;
use api::v1::agent::call::attach_container_input::Type as InputType;
use api::v1::agent::process_io::{Control, Data, control, data};
use api::v1::agent::{Call, ProcessIo, call, process_io};
use api_http::{HeaderMap, Incoming, Response, StatusCode, StreamSender, Visitor, empty, header, text};
use containers::streams::{FRAME_BYTES_MAX, STDERR, STDIN, WINDOW, frame, take_frame};
use event_log::host;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;

use crate::agent::Agent;
use crate::nested;
use crate::permit;

/// What stands where a length should is repeated up to so many bytes.
const LINE_BYTES_MAX: usize = 64;
/// Records of output that wait for a client that reads slowly; then the process waits.
const RECORDS_MAX: usize = 64;

fn header_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn rejected(rejection: &Rejection) -> Response {
    text(StatusCode::from_u16(rejection.status).unwrap_or(StatusCode::BAD_REQUEST), &rejection.message)
}

fn failed(sentence: &str) -> Response {
    text(StatusCode::INTERNAL_SERVER_ERROR, sentence)
}

/// Whether a call is a stream of records.
pub(crate) fn is_stream(headers: &HeaderMap) -> bool {
    header_of(headers, header::CONTENT_TYPE.as_str()) == Some("application/recordio")
}

/// How the client takes a stream of output.
fn wanted(headers: &HeaderMap) -> Result<Streaming, Box<Response>> {
    let accept = header_of(headers, header::ACCEPT.as_str());
    accept_stream(accept, header_of(headers, "message-accept")).map_err(|rejection| Box::new(rejected(&rejection)))
}

async fn connect(agent: &Arc<Agent>, container_id: &str, process: Process) -> Result<UnixStream, String> {
    let (connecting, id) = (agent.clone(), container_id.to_owned());
    let connected = tokio::task::spawn_blocking(move || connecting.containers.connect(&id, &process)).await;
    let stream = connected.map_err(|error| error.to_string())?;
    let stream = stream.and_then(|stream| stream.set_nonblocking(true).map(|()| stream));
    stream
        .and_then(UnixStream::from_std)
        .map_err(|error| format!("Cannot connect with container {container_id}: {error}"))
}

/// The answer that `body` is.
fn streaming(wanted: Streaming, body: api_http::Body) -> Response {
    match wanted {
        Streaming::Plain(media) => api_http::streaming(media.content_type(), body),
        Streaming::Recordio(media) => {
            let mut response = api_http::streaming("application/recordio", body);
            let kind = api_http::HeaderValue::from_static(media.content_type());
            response.headers_mut().insert("message-content-type", kind);
            response
        }
    }
}

fn media_of(wanted: &Streaming) -> Media {
    match wanted {
        Streaming::Plain(media) | Streaming::Recordio(media) => *media,
    }
}

fn written(kind: data::Type, bytes: Vec<u8>) -> ProcessIo {
    let data = Data { r#type: Some(kind as i32), data: Some(bytes.into()) };
    ProcessIo { r#type: Some(process_io::Type::Data as i32), data: Some(data), ..ProcessIo::default() }
}

fn heartbeat(interval: Duration) -> ProcessIo {
    let nanoseconds = i64::try_from(interval.as_nanos()).unwrap_or(i64::MAX);
    let heartbeat = control::Heartbeat { interval: Some(DurationInfo { nanoseconds }) };
    let control =
        Control { r#type: Some(control::Type::Heartbeat as i32), heartbeat: Some(heartbeat), ..Control::default() };
    ProcessIo { r#type: Some(process_io::Type::Control as i32), control: Some(control), ..ProcessIo::default() }
}

/// Passes on what a process writes until it has ended, or the client is gone.
async fn pass(mut from: OwnedReadHalf, sender: &StreamSender, media: Media, interval: Duration) {
    let mut clock = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
    let mut buffer = Vec::new();
    loop {
        let mut bytes = [0; 16 << 10];
        tokio::select! {
            biased;
            () = sender.closed() => return,
            read = from.read(&mut bytes) => match read {
                Ok(count) if count > 0 => buffer.extend_from_slice(&bytes[..count]),
                _ => return,
            },
            _ = clock.tick() => {
                if sender.send(media.encode_record(&heartbeat(interval))).await.is_err() {
                    return;
                }
            }
        }
        while let Ok(Some((kind, content))) = take_frame(&mut buffer) {
            let kind = if kind == STDERR { data::Type::Stderr } else { data::Type::Stdout };
            if sender.send(media.encode_record(&written(kind, content))).await.is_err() {
                return;
            }
        }
    }
}

fn interval(agent: &Agent) -> Duration {
    let configured = agent.config.values.duration("http_heartbeat_interval");
    configured.filter(|interval| !interval.is_zero()).unwrap_or(Duration::from_secs(30))
}

/// ATTACH_CONTAINER_OUTPUT
pub(crate) async fn output(agent: &Arc<Agent>, headers: &HeaderMap, call: &Call) -> Response {
    let wanted = match wanted(headers) {
        Ok(wanted) => wanted,
        Err(response) => return *response,
    };
    let id = call.attach_container_output.as_ref().map(|call| path(&call.container_id)).unwrap_or_default();
    let process = match nested::attachable(agent, &id) {
        Ok(process) => process,
        Err(sentence) => return failed(&sentence),
    };
    match listen(agent, &id, process).await {
        Ok(from) => {
            let (sender, body) = api_http::stream(RECORDS_MAX);
            let (media, interval) = (media_of(&wanted), interval(agent));
            host::spawn(async move { pass(from, &sender, media, interval).await });
            streaming(wanted, body)
        }
        Err(sentence) => failed(&sentence),
    }
}

async fn listen(agent: &Arc<Agent>, container_id: &str, process: Process) -> Result<OwnedReadHalf, String> {
    let mut stream = connect(agent, container_id, process).await?;
    stream.write_all(b"O").await.map_err(|error| error.to_string())?;
    let (from, to) = stream.into_split();
    // It stays open for writing: its end would be taken for ours.
    to.forget();
    Ok(from)
}

/// LAUNCH_NESTED_CONTAINER_SESSION: a container that lasts as long as the client listens.
pub(crate) async fn session(agent: &Arc<Agent>, headers: &HeaderMap, call: &Call) -> Response {
    let wanted = match wanted(headers) {
        Ok(wanted) => wanted,
        Err(response) => return *response,
    };
    let (agent, info) = (agent.clone(), nested::launched(call));
    let (answer, answered) = tokio::sync::oneshot::channel();
    // Whoever hangs up before there is an answer ends what is being launched, too: this does not end with who asks.
    host::spawn(async move {
        let _ = answer.send(begin(&agent, info, wanted).await);
    });
    answered.await.unwrap_or_else(|_| nested::ending())
}

/// Begins a session. It ends with its answer.
async fn begin(agent: &Arc<Agent>, info: LaunchContainer, wanted: Streaming) -> Response {
    let value = info.command.as_ref().and_then(|command| command.value.clone()).unwrap_or_default();
    let (media, interval) = (media_of(&wanted), interval(agent));
    let container_id = match nested::launch(agent, info, true).await {
        Ok(container_id) => container_id,
        Err(response) => return response,
    };
    let (sender, body) = api_http::stream(RECORDS_MAX);
    let process = agent.state.read().process(&container_id).cloned();
    let Some(process) = process else {
        // It ran, and ended, before anybody could listen: there was nothing to run.
        let why = format!("Failed to execute '{value}': No such file or directory\n");
        let _ = sender.try_send(media.encode_record(&written(data::Type::Stderr, why.into_bytes())));
        return streaming(wanted, body);
    };
    let from = match listen(agent, &container_id, process).await {
        Ok(from) => from,
        Err(sentence) => {
            agent.submit(Command::KillContainer { container_id });
            return failed(&sentence);
        }
    };
    let agent = agent.clone();
    host::spawn(async move {
        pass(from, &sender, media, interval).await;
        // Whoever hangs up ends it. If it has ended already, nobody minds.
        agent.submit(Command::KillContainer { container_id });
    });
    streaming(wanted, body)
}

/// ATTACH_CONTAINER_INPUT: first the container, then what its process is to read. The answer comes when that is over.
pub(crate) async fn input(agent: &Arc<Agent>, headers: &HeaderMap, body: Incoming, visitor: &Visitor) -> Response {
    let content_type = header_of(headers, header::CONTENT_TYPE.as_str());
    let media = match request_body(content_type, header_of(headers, "message-content-type")) {
        Ok(Kind::Streaming(media) | Kind::Single(media)) => media,
        Err(rejection) => {
            // In this call it is streamed anyway.
            let message = rejection.message.replace(" for streaming requests", "");
            let keep = rejection.status != 415;
            return rejected(&if keep { rejection } else { Rejection { message, ..rejection } });
        }
    };
    let mut records = Records { body, decoder: Decoder::new(FRAMES_BYTES), media, line: None };
    let first = match records.next().await {
        Ok(Some(call)) => call,
        Ok(None) => return text(StatusCode::BAD_REQUEST, "Expecting 'attach_container_input.type' to be CONTAINER_ID"),
        Err(response) => return *response,
    };
    if first.r#type() != call::Type::AttachContainerInput {
        let name = first.r#type().as_str_name();
        let sentence = format!("Streaming 'Content-Type' application/recordio is not supported for {name} call");
        return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, &sentence);
    }
    let asked = first.clone();
    let container_id = first
        .attach_container_input
        .filter(|input| input.r#type() == InputType::ContainerId)
        .and_then(|input| input.container_id);
    let Some(container_id) = container_id else {
        return text(StatusCode::BAD_REQUEST, "Expecting 'attach_container_input.type' to be CONTAINER_ID");
    };
    if let Err(refused) = permit::call(agent, visitor, &asked) {
        return *refused;
    }
    let id = path(&container_id);
    let process = match nested::attachable(agent, &id) {
        Ok(process) => process,
        Err(sentence) => return failed(&sentence),
    };
    let mut stream = match connect(agent, &id, process).await {
        Ok(stream) => stream,
        Err(sentence) => return failed(&sentence),
    };
    let mut answer = [0];
    let asked = match stream.write_all(b"I").await {
        Ok(()) => stream.read_exact(&mut answer).await.map(drop),
        Err(error) => Err(error),
    };
    match (asked, answer) {
        (Ok(()), [b'K']) => {}
        (Ok(()), _) => {
            let sentence = format!("Somebody else is attached to the input of container {id}");
            return text(StatusCode::CONFLICT, &sentence);
        }
        (Err(_), _) => return failed("Disconnected"),
    }
    let (mut from, mut to) = stream.into_split();
    let mut end = [0];
    loop {
        let record = tokio::select! {
            // It says nothing more: what there is to read is its end.
            _ = from.read(&mut end) => return empty(StatusCode::OK),
            record = records.next() => record,
        };
        let call = match record {
            Ok(Some(call)) => call,
            // Detached.
            Ok(None) => return empty(StatusCode::OK),
            Err(response) => return *response,
        };
        for frame in frames(call) {
            if to.write_all(&frame).await.is_err() {
                return empty(StatusCode::OK);
            }
        }
    }
}

/// What one record means to the process; nothing for heartbeats.
fn frames(call: Call) -> Vec<Vec<u8>> {
    let Some(io) = call.attach_container_input.and_then(|input| input.process_io) else { return Vec::new() };
    match (io.r#type(), io.data, io.control) {
        (process_io::Type::Data, Some(data), _) => {
            let bytes = data.data.unwrap_or_default();
            match bytes.is_empty() {
                true => vec![frame(STDIN, &[])],
                false => bytes.chunks(FRAME_BYTES_MAX).map(|part| frame(STDIN, part)).collect(),
            }
        }
        (process_io::Type::Control, _, Some(control)) if control.r#type() == control::Type::TtyInfo => {
            let Some(size) = control.tty_info.and_then(|tty| tty.window_size) else { return Vec::new() };
            let bytes = |number: u32| u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes();
            vec![frame(WINDOW, &[bytes(size.rows), bytes(size.columns)].concat())]
        }
        _ => Vec::new(),
    }
}

/// The calls of a stream as they come.
struct Records {
    body: Incoming,
    decoder: Decoder,
    media: Media,
    /// The first line of what came last.
    line: Option<String>,
}

impl Records {
    /// The next one; none at the end. The error is the answer.
    async fn next(&mut self) -> Result<Option<Call>, Box<Response>> {
        loop {
            match self.decoder.next() {
                Some(Ok(record)) => {
                    let call = self.media.decode(record).map_err(|rejection| Box::new(rejected(&rejection)))?;
                    return Ok(Some(call));
                }
                Some(Err(error)) => {
                    let why = match (&error, self.line.take()) {
                        (api::recordio::Error::Length(text), line) => {
                            let text = line.filter(|line| line.starts_with(text)).unwrap_or(text.clone());
                            format!("Failed to decode length '{text}': Failed to convert '{text}' to number")
                        }
                        (other, _) => other.to_string(),
                    };
                    return Err(Box::new(failed(&format!("Decoder failure: {why}"))));
                }
                None => {}
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    let bytes = frame.into_data().unwrap_or_default();
                    // Told whole when it is no length.
                    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
                    let is_short = line.len() <= LINE_BYTES_MAX;
                    self.line = is_short.then(|| String::from_utf8_lossy(line).into_owned());
                    self.decoder.push(&bytes);
                }
                Some(Err(_)) | None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::v1::agent::call::AttachContainerInput;
    use api::v1::{TtyInfo, tty_info};

    fn input(io: ProcessIo) -> Call {
        let input = AttachContainerInput {
            r#type: Some(InputType::ProcessIo as i32),
            process_io: Some(io),
            ..AttachContainerInput::default()
        };
        Call { attach_container_input: Some(input), ..Call::default() }
    }

    #[test]
    fn records_become_frames() {
        let typed = |bytes: &[u8]| frames(input(written(data::Type::Stdin, bytes.to_vec())));
        assert_eq!(typed(b"ls"), [frame(STDIN, b"ls")]);
        assert_eq!(typed(b""), [frame(STDIN, b"")], "the end of the input");
        assert_eq!(typed(&vec![7; FRAME_BYTES_MAX + 1]).len(), 2);
        let window_size = Some(tty_info::WindowSize { rows: 50, columns: 132 });
        let control = Control {
            r#type: Some(control::Type::TtyInfo as i32),
            tty_info: Some(TtyInfo { window_size }),
            ..Control::default()
        };
        let resized = ProcessIo {
            r#type: Some(process_io::Type::Control as i32),
            control: Some(control),
            ..ProcessIo::default()
        };
        assert_eq!(frames(input(resized)), [frame(WINDOW, &[0, 50, 0, 132])]);
        assert!(frames(input(heartbeat(Duration::from_secs(30)))).is_empty());
        assert!(frames(Call::default()).is_empty());
    }
}
