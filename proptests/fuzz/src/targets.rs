//! What is asked: each target takes bytes and says what came of them. What must hold is asserted.

use std::cell::OnceCell;
use std::fs;
use std::path::PathBuf;

use api::budget::Budget;
use api::limits::decoded_bytes_max;
use api::resources::{Format, Limits, Quantities, Resources, parse_roles};
use api::wire::Wire;
use api::{Media, attributes, duration, flags, internal, recordio, size, v1};
use bytes::Bytes;
use event_log::{Identity, LocalLog, RawEvent, Record, read_local};
use master_core::{Event, State, fold_record};
use supervisor::spec::Spec;
use supervisor::streams;

use crate::{doors, members, seeds};

/// A decoder or parser.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// A word; its corpus is in the folder of this name.
    pub name: &'static str,
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words of the format.
    pub words: &'static [&'static [u8]],
    /// Makes checksums right.
    pub mend: Option<fn(&mut [u8])>,
    /// How much memory an input of so many bytes may take, in bytes.
    pub bytes_max: fn(usize) -> usize,
    /// Asks, and says what came of it.
    pub run: fn(&[u8]) -> String,
}

const JSON: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"null",
    b"true",
    b"false",
    b"{}",
    b"{},",
    b"[]",
    b"\"\"",
    b"\\u0000",
    b"\\ud83d",
    b"\\ude00",
    b"1e308",
    b"-0",
    b"1e-400",
    b"0.5",
    b"\"NaN\"",
    b"\"Infinity\"",
    b"\"type\":",
    b"\"value\":\"x\"",
    b"\"scalar\":{\"value\":1}",
    b"\"SCALAR\"",
    b"\"RANGES\"",
    b"\"SET\"",
    b"\"resources\":[",
    b"\"reservations\":[{\"type\":\"DYNAMIC\",\"role\":\"a\"}]",
    b"\"accept\":",
    b"\"operations\":[",
    b"\"LAUNCH\"",
    b"\"framework_id\":{\"value\":\"f\"}",
    b"\"*\"",
    b"\"a/b\"",
    b"\xff",
];
/// Of programs that operators have.
const ANSWERS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"\"",
    b"{}",
    b"[]",
    b"null",
    b"1",
    b"-1",
    b"1e400",
    b"18446744073709551616",
    b"\\n",
    b"\\u0000",
    b"\"protocol\":1",
    b"\"name\":\"n\"",
    b"\"supports\":[\"usage\"]",
    b"\"containers\":[\"c\"]",
    b"\"cpus_user_secs\":1",
    b"\"mem_rss_bytes\":1",
    b"\"ips\":[{\"address\":\"10.0.0.1/8\"}]",
    b"\"ip4\":{\"ip\":\"10.0.0.1\"}",
    b"\"dns\":{\"nameservers\":[\"10.0.0.1\"]}",
    b"\"domain\":\"d\"",
    b"\"options\":[\"o\"]",
    b"\"search\":[\"s\"]",
];
const PROTOBUF: &[&[u8]] = &[
    b"\x08",
    b"\x0a",
    b"\x12",
    b"\x1a",
    b"\x22",
    b"\x2a",
    b"\x12\x00",
    b"\x0a\x00",
    b"\x0b\x0c",
    b"\x0b",
    b"\x0c",
    b"\x0d",
    b"\x09",
    b"\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80",
    b"\x80\x00",
];
const TEXT: &[&[u8]] = &[
    b";",
    b":",
    b"cpus:",
    b"mem",
    b"ports:[",
    b"[1-2]",
    b"{a,b}",
    b"(",
    b")",
    b"(role)",
    b"-",
    b",",
    b"0.001",
    b"1e15",
    b"18446744073709551615",
    b"gpus:1",
    b"disk",
    b"*",
    b"a/b",
    b"\n",
    b" ",
    b"\xc3\xa9",
    b"[]",
    b"{}",
    b"[{\"name\":\"cpus\",\"type\":\"SCALAR\",\"scalar\":{\"value\":1}}]",
];
const BINARY: &[&[u8]] = &[
    b"\0",
    b"\x01",
    b"\xfb",
    b"\xfc",
    b"\xfd",
    b"\xfe",
    b"\xff",
    b"\xfc\xff\xff\xff\xff",
    b"\xfd\xff\xff\xff\xff\xff\xff\xff\xff",
];

/// Decoding takes what its budget counts, lists with room to grow; then it is written and read again.
fn of_wire(length: usize) -> usize {
    8 * decoded_bytes_max(length) + (1 << 20)
}

fn of_text(length: usize) -> usize {
    2048 * length + (1 << 20)
}

/// A length inside may claim what the decoder's limit for so much to read allows, and a few lists a megabyte each.
fn of_binary(length: usize) -> usize {
    if length < 2 << 10 { 16 << 20 } else { 64 << 20 }
}

fn wire<T: Wire>(media: Media, input: &[u8]) -> Result<T, String> {
    let message: T = media.decode(Bytes::copy_from_slice(input)).map_err(|no| no.message)?;
    let written = media.encode(&message);
    let again: T = match media.decode_within(written.clone(), &mut Budget::of_message()) {
        Ok(again) => again,
        Err(no) => panic!("what was written cannot be read: {}", no.message),
    };
    assert!(media.encode(&again) == written, "what was read again is something else");
    Ok(message)
}

fn json<T: Wire>(input: &[u8]) -> String {
    wire::<T>(Media::Json, input).map_or_else(|no| no, |_| "read".to_owned())
}

fn protobuf<T: Wire>(input: &[u8]) -> String {
    wire::<T>(Media::Protobuf, input).map_or_else(|no| no, |message| kinds(&message))
}

/// Which parts a message has, so that a new one is something new.
fn kinds<T: Wire>(message: &T) -> String {
    String::from_utf8(api::json::to_vec(message)).unwrap_or_default()
}

fn validated(call: Result<v1::scheduler::Call, String>) -> String {
    match call.map(|call| master_core::validate::call(&call, None)) {
        Ok(Ok(kind)) => kind.as_str_name().to_owned(),
        Ok(Err(refusal)) => refusal.to_string(),
        Err(no) => no,
    }
}

fn records(input: &[u8]) -> String {
    let read = |pieces: usize| {
        let mut decoder = recordio::Decoder::new(1 << 10);
        let mut read = vec![];
        for piece in input.chunks(pieces) {
            decoder.push(piece);
            while let Some(record) = decoder.next() {
                let failed = record.is_err();
                read.push(record.map_err(|error| error.to_string()));
                if failed {
                    return read;
                }
            }
        }
        read
    };
    let (whole, pieces) = (read(input.len().max(1)), read(3));
    // What is wrong is told with what had come by then.
    let good = |read: &[Result<Bytes, String>]| read.iter().filter_map(|each| each.clone().ok()).collect::<Vec<_>>();
    assert_eq!(good(&whole), good(&pieces), "records depend on how they come");
    whole.last().map_or_else(String::new, |last| last.as_ref().map_or_else(Clone::clone, |_| "read".to_owned()))
}

fn resources(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let parsed = match api::resources::parse(&text, "*") {
        Ok(parsed) => parsed.resources,
        Err(no) => return no,
    };
    for format in [Format::PreRefinement, Format::PostRefinement, Format::Endpoint] {
        assert_eq!(Resources::from_v1(&parsed.to_v1(format)).as_ref(), Ok(&parsed), "{format:?}");
    }
    let mut written = vec![];
    parsed.write_state_json(&mut written);
    assert!(api::json::from_slice::<v1::Label>(&written).is_ok_and(|_| true) || written.starts_with(b"{"));
    let plain = parsed.filter(|item| item.disk.is_none()).without_reservations();
    if !plain.is_empty() {
        let again = api::resources::parse(&plain.to_string(), "*").map(|again| again.resources);
        // Names and items may hold what the text form uses between them: only what has neither comes back.
        let simple = |text: &str| text.chars().all(|each| each.is_ascii_alphanumeric());
        let is_simple = plain.iter().all(|item| {
            simple(item.name.as_str())
                && match &item.value {
                    api::resources::Value::Set(items) => items.iter().all(|item| simple(item) && !item.is_empty()),
                    _ => true,
                }
        });
        assert!(!is_simple || again.as_ref() == Ok(&plain), "{plain} is read as {again:?}");
    }
    assert!(parsed.contains(&parsed) && parsed.checked_sub(&parsed).is_some_and(|left| left.is_empty()));
    let _ =
        (parsed.find(&plain), parsed.shrink_to_quantities(&parsed.scalar_quantities(), 1), parsed.reservations().len());
    format!("{parsed}")
}

fn small_texts(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let told = [
        attributes::parse(&text).map(|read| attributes::to_state_json(&read).to_string()),
        Quantities::parse(&text).map(|read| read.to_string()),
        Limits::parse(&text).map(|read| read.to_string()),
        parse_roles(&text).map(|roles| roles.concat()),
        size::parse(&text).map(|bytes| bytes.to_string()),
        duration::parse(&text).map(|time| format!("{time:?}")),
    ];
    let _ = api_http::Query::parse(&text);
    told.map(|told| told.unwrap_or_else(|no| no)).concat()
}

fn command_line(input: &[u8]) -> String {
    use flags::Kind;
    let flag = |name, kind| flags::Flag {
        name,
        kind,
        default: None,
        required: false,
        help: "",
        aliases: &["older"],
        variable: None,
        idle: false,
    };
    let known = [
        flag("bool", Kind::Bool),
        flag("int", Kind::Int),
        flag("double", Kind::Double),
        flag("duration", Kind::Duration),
        flag("bytes", Kind::Bytes),
    ];
    let words = String::from_utf8_lossy(input).split(' ').map(str::to_owned).collect::<Vec<_>>();
    let read = |_: &std::path::Path| Ok("1".to_owned());
    match flags::parse(&known, words, |_| None, read) {
        Ok(values) => values.iter().map(|(name, _)| name).collect(),
        Err(error) => error.to_string(),
    }
}

/// The checksum behind the first byte of a record.
fn mend_record(input: &mut [u8]) {
    if input.len() >= 5 {
        input[0] = 1;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&input[..1]);
        hasher.update(&input[5..]);
        input[1..5].copy_from_slice(&hasher.finalize().to_le_bytes());
    }
}

fn record(input: &[u8]) -> String {
    match Record::decode(input) {
        Ok(record) => {
            assert_eq!(Record::decode(&record.encode()).as_ref(), Ok(&record), "what was written is something else");
            let of_master = master_core::decode_record(&record).map(|events| events.len());
            let of_agent = agent_core::decode_record(&record).map(|events| events.len());
            format!("{of_master:?} {of_agent:?}")
        }
        Err(error) => error.to_string(),
    }
}

/// An event as it is in a record: number, version, payload.
fn parts(input: &[u8]) -> Option<(u16, u16, &[u8])> {
    let (head, payload) = input.split_at_checked(4)?;
    Some((u16::from_le_bytes([head[0], head[1]]), u16::from_le_bytes([head[2], head[3]]), payload))
}

fn master_event(input: &[u8]) -> String {
    let Some((number, version, payload)) = parts(input) else { return String::new() };
    match Event::decode(number, version, payload) {
        Ok(event) => {
            let (number, version, payload) = event.encode();
            assert!(Event::decode(number, version, &payload).as_ref() == Ok(&event), "another event is read again");
            event.name().to_owned()
        }
        Err(error) => format!("{error} {:?}", std::error::Error::source(&error).map(ToString::to_string)),
    }
}

fn agent_event(input: &[u8]) -> String {
    let Some((number, version, payload)) = parts(input) else { return String::new() };
    match agent_core::Event::from_raw(&RawEvent { number, version, cause: 0, payload: payload.to_vec() }) {
        Ok(event) => {
            let again = agent_core::Event::from_raw(&event.to_raw(0));
            assert!(again.as_ref() == Ok(&event), "another event is read again");
            event.name().to_owned()
        }
        Err(error) => format!("{error} {:?}", std::error::Error::source(&error).map(ToString::to_string)),
    }
}

fn specs() -> Vec<Vec<u8>> {
    let spec = Spec {
        container_id: "a.b".into(),
        arguments: vec!["sh".into(), "-c".into(), "true".into()],
        environment: vec!["A=b".into()],
        umask: Some(0o22),
        joins: vec!["/c".into()],
        sockets: Some("/s".into()),
        terminal: Some((24, 80)),
        session: true,
        ..Spec::default()
    };
    vec![spec.encode().expect("no NUL")]
}

/// What a supervisor is told.
fn launch_spec(input: &[u8]) -> String {
    let Some(spec) = Spec::decode(input) else { return "none".to_owned() };
    let written = spec.encode().expect("what was between NULs has none");
    assert_eq!(Spec::decode(&written).as_ref(), Some(&spec), "another description is read again");
    format!("{} arguments", spec.arguments.len())
}

fn frames() -> Vec<Vec<u8>> {
    vec![[streams::frame(streams::STDIN, b"ls"), streams::frame(streams::WINDOW, &[0, 24, 0, 80])].concat()]
}

/// What the streams of a process are told.
fn frame(input: &[u8]) -> String {
    let (mut buffer, mut taken) = (input.to_vec(), 0);
    loop {
        match streams::take_frame(&mut buffer) {
            Ok(Some((_, content))) => {
                assert!(content.len() <= streams::FRAME_BYTES_MAX);
                taken += 1;
            }
            Ok(None) => return format!("{taken} frames"),
            Err(why) => return why.to_owned(),
        }
    }
}

fn master_snapshot(input: &[u8]) -> String {
    match State::read_snapshot(&mut &*input) {
        Ok(state) => {
            let mut written = vec![];
            state.write_snapshot(&mut written).expect("a vector takes every byte");
            assert!(State::read_snapshot(&mut &written[..]).is_ok(), "what was written cannot be read");
            "read".to_owned()
        }
        Err(error) => format!("{error} {:?}", std::error::Error::source(&error).map(ToString::to_string)),
    }
}

fn segment(input: &[u8]) -> String {
    thread_local! {
        static PLACE: OnceCell<(tempfile::TempDir, PathBuf)> = const { OnceCell::new() };
    }
    PLACE.with(|place| {
        let (dir, file) = place.get_or_init(|| {
            let dir = tempfile::tempdir().expect("a folder");
            let file = write_log(&dir);
            (dir, file)
        });
        fs::write(file, input).expect("a segment");
        let log = match read_local(dir.path()) {
            Ok(log) => log,
            Err(error) => return error.to_string().replace(&dir.path().display().to_string(), ""),
        };
        log.last().map_or_else(String::new, |last| match last {
            Ok(_) => "read".to_owned(),
            Err(error) => error.to_string().replace(&dir.path().display().to_string(), ""),
        })
    })
}

/// A log of a few records; where its one segment is.
fn write_log(dir: &tempfile::TempDir) -> PathBuf {
    let (log, _) = LocalLog::open(dir.path(), &Identity::new("fuzz", 1)).expect("a log");
    log.append_all(seeds::records("agent/core").into_iter().take(5).collect()).wait().expect("written");
    drop(log);
    let files = fs::read_dir(dir.path()).expect("a folder").map(|entry| entry.expect("an entry").path());
    files.filter(|path| path.extension().is_some_and(|it| it == "segment")).max().expect("a segment")
}

fn events(core: &str) -> Vec<Vec<u8>> {
    let all = seeds::records(core).into_iter().flat_map(|record| record.events);
    all.map(|event| [&event.number.to_le_bytes()[..], &event.version.to_le_bytes(), &event.payload].concat()).collect()
}

fn snapshots() -> Vec<Vec<u8>> {
    let mut state = State::default();
    let mut found = vec![];
    for record in seeds::records("master/core") {
        fold_record(&mut state, &record.header, &master_core::decode_record(&record).expect("events"));
        let mut bytes = vec![];
        state.write_snapshot(&mut bytes).expect("a vector takes every byte");
        found.push(bytes);
    }
    found
}

const ARCHIVES: &[&[u8]] = &[
    b"../",
    b"/etc/",
    b"..",
    b"./",
    b"d/",
    b"l",
    b"1",
    b"2",
    b"3",
    b"L",
    b"K",
    b"x",
    b"g",
    b"S",
    b"ustar",
    b"PK\x01\x02",
    b"PK\x05\x06",
];
const URIS: &[&[u8]] = &[
    b"http://",
    b"https://",
    b"file://",
    b"hdfs://",
    b"/",
    b"..",
    b"@",
    b":",
    b"?",
    b"#",
    b"[::1]",
    b"%2f",
    b"\0",
    b"'",
    b" ",
];

fn uris() -> Vec<Vec<u8>> {
    let text = [
        "http://me:pass@h.example:80/a/b.tgz?x=1#y",
        "file://localhost/a/b",
        "//h/x",
        "../x",
        "s3a://bucket/x",
        "https://[::1]/",
    ];
    text.into_iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn texts() -> Vec<Vec<u8>> {
    let text = [
        "cpus:2;mem(role):1024;ports:[31000-32000, 1-2];disks:{a,b};gpus:1",
        "rack:r12; level:10 ;cores:[0-3,5-6]\nurl:http://a:80/b",
        "[{\"name\":\"disk\",\"type\":\"SCALAR\",\"scalar\":{\"value\":10},\"disk\":{\"source\":{\"type\":\"MOUNT\",\"mount\":{\"root\":\"/m\"}}}}]",
        "a,b/c,*",
        "12mins",
        "2GB",
        "a=1&b=x%20y+z",
        "--int=3 --no-bool --duration 5secs --bytes=1KB --double=0.5 --older=file:///x",
        "20\n{\"type\":\"HEARTBEAT\"}3\nabc0\n",
    ];
    text.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// All of them.
pub fn targets() -> Vec<Target> {
    macro_rules! both {
        ($($name:literal $type:ty),* $(,)?) => {
            [$(
                Target { name: concat!($name, "-json"), seeds: seeds::json::<$type>, words: JSON, mend: None, bytes_max: of_wire, run: json::<$type> },
                Target { name: concat!($name, "-protobuf"), seeds: seeds::protobuf::<$type>, words: PROTOBUF, mend: None, bytes_max: of_wire, run: protobuf::<$type> },
            )*]
        };
    }
    macro_rules! inner {
        ($($name:literal $type:ty),* $(,)?) => {
            [$(Target { name: $name, seeds: seeds::protobuf::<$type>, words: PROTOBUF, mend: None, bytes_max: of_wire, run: protobuf::<$type> },)*]
        };
    }
    let text = |name, run| Target { name, seeds: texts, words: TEXT, mend: None, bytes_max: of_text, run };
    let binary = |name, seeds, run| Target { name, seeds, words: BINARY, mend: None, bytes_max: of_binary, run };
    let mut all = vec![
        Target {
            name: "scheduler-call",
            seeds: seeds::json::<v1::scheduler::Call>,
            words: JSON,
            mend: None,
            bytes_max: of_wire,
            run: |input| validated(wire(Media::Json, input)),
        },
        text("recordio", records),
        text("resources", resources),
        text("texts", small_texts),
        text("flags", command_line),
        Target {
            mend: Some(mend_record),
            ..binary("record", || seeds::records("master/core").iter().map(Record::encode).collect(), record)
        },
        binary("master-event", || events("master/core"), master_event),
        binary("agent-event", || events("agent/core"), agent_event),
        binary("master-snapshot", snapshots, master_snapshot),
        Target {
            mend: Some(members::mend_snapshot),
            ..binary("snapshot-file", members::snapshot, members::read_snapshot)
        },
        Target {
            mend: Some(members::mend_archive),
            ..binary("archive-segment", members::archive, members::read_archive)
        },
        Target { mend: Some(members::mend_log), ..binary("raft-log", members::log, members::read_log) },
        Target { seeds: doors::acls_seeds, words: JSON, ..text("acls", doors::acls) },
        Target { seeds: doors::credentials_seeds, words: JSON, ..text("credentials", doors::credentials) },
        Target { seeds: doors::key_set_seeds, words: JSON, ..text("key_set", doors::key_set) },
        Target { seeds: doors::header_seeds, ..text("authorization", doors::header) },
        binary("launch-spec", specs, launch_spec),
        binary("frames", frames, frame),
        binary(
            "segment",
            || {
                let dir = tempfile::tempdir().expect("a folder");
                vec![fs::read(write_log(&dir)).expect("a segment")]
            },
            segment,
        ),
    ];
    macro_rules! archives {
        ($($name:literal $file:literal),* $(,)?) => {
            [$(Target {
                name: $name,
                seeds: || crate::tasks::archives(include_bytes!(concat!("../testdata/", $file))),
                words: ARCHIVES,
                mend: $file.ends_with(".tar").then_some(crate::tasks::mend_tar),
                // What decoders may hold of what came before.
                bytes_max: |_| 320 << 20,
                run: |input| crate::tasks::archive($file, input),
            },)*]
        };
    }
    all.extend(archives! {
        "archive-tar" "archive.tar",
        "archive-pax" "archive-pax.tar",
        "archive-tgz" "archive.tgz",
        "archive-tbz2" "archive.tbz2",
        "archive-txz" "archive.txz",
        "archive-tzst" "archive.tzst",
        "archive-gz" "archive.gz",
        "archive-zip" "archive.zip",
    });
    all.push(Target {
        name: "image-layer",
        seeds: || crate::tasks::archives(include_bytes!("../testdata/archive-pax.tar")),
        words: ARCHIVES,
        mend: Some(crate::tasks::mend_tar),
        bytes_max: |_| 320 << 20,
        run: crate::tasks::layer,
    });
    all.push(Target { seeds: crate::tasks::image_names, words: URIS, ..text("image-name", crate::tasks::image_name) });
    all.push(Target {
        seeds: crate::tasks::docker_configs,
        words: JSON,
        ..text("docker-config", crate::tasks::docker_config)
    });
    all.push(Target { seeds: uris, words: URIS, ..text("uri", crate::tasks::uri) });
    all.push(Target {
        seeds: crate::tasks::containerizer_answers,
        words: ANSWERS,
        ..text("containerizer-answer", crate::tasks::containerizer_answer)
    });
    all.push(Target {
        seeds: crate::tasks::network_answers,
        words: ANSWERS,
        ..text("network-answer", crate::tasks::network_answer)
    });
    all.push(Target {
        name: "check",
        seeds: seeds::protobuf::<v1::CheckInfo>,
        words: PROTOBUF,
        mend: None,
        bytes_max: of_wire,
        run: crate::tasks::check,
    });
    all.push(Target {
        name: "health-check",
        seeds: seeds::protobuf::<v1::HealthCheck>,
        words: PROTOBUF,
        mend: None,
        bytes_max: of_wire,
        run: crate::tasks::check,
    });
    all.extend(both! {
        "scheduler" v1::scheduler::Call,
        "operator" v1::master::Call,
        "executor" v1::executor::Call,
        "agent" v1::agent::Call,
        "agent-answer" v1::agent::Response,
        "process-io" v1::agent::ProcessIo,
        "executor-event" v1::executor::Event,
        "scheduler-event" v1::scheduler::Event,
        "operator-event" v1::master::Event,
        "operator-answer" v1::master::Response,
    });
    all.extend(inner! {
        "inner-submission" internal::Submission,
        "inner-answer" internal::Answer,
        "inner-deliver" internal::Deliver,
        "inner-from-agent" internal::FromAgent,
        "inner-to-agent" internal::ToAgent,
        "inner-hello" internal::Hello,
    });
    all
}
