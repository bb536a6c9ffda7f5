//! `meseta snapshot`: the state of a cluster as a file, and a new master from it.
//!
//! Saving is online. The file is inspected and restored by the programs that know its bytes, `meseta-log` and
//! `meseta-master`, which lie beside this one.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use api::flags::{Flag, Kind, Values};
use http_body_util::BodyExt;
use serde_json::json;

use crate::error::Error;
use crate::http::{self, Answer, Request};
use crate::ids::text;
use crate::local::beside;
use crate::say;

pub(crate) const FLAGS: &[Flag] = &[
    Flag::new("master", Kind::Text, "save: HOST:PORT of a master, or of several with commas; any will do.")
        .default("127.0.0.1:5050"),
    Flag::new("stale", Kind::Bool, "save: whatever that master has, for a cluster without a quorum.").default("false"),
    Flag::new("force", Kind::Bool, "save: over a file that is there; restore: although the old cluster answers.")
        .default("false"),
    Flag::new(
        "redact",
        Kind::Bool,
        "save: without environments, commands, labels, secrets and data; it cannot be restored.",
    )
    .default("false"),
    Flag::new("work_dir", Kind::Path, "restore: the new master's folder, empty or not there yet."),
    Flag::new("ip", Kind::Text, "restore: address that the new master will listen on.").default("127.0.0.1"),
    Flag::new("port", Kind::Int, "restore: port that the new master will listen on.").default("5050"),
    Flag::new("json", Kind::Bool, "inspect: one JSON object.").default("false"),
    http::SECRET,
];

pub(crate) const ABOUT: &str = "\
The state of a cluster as a file, and a new master from it.

  meseta snapshot save FILE --master=HOST:PORT      everything that was answered before is in it
  meseta snapshot save FILE --redact                one to be shown to others; it cannot be restored
  meseta snapshot inspect FILE                      whose it is and whether it is whole
  meseta snapshot restore FILE --work_dir=DIR --ip=IP --port=PORT
                                                    a new master, alone: start it, then `meseta masters add` others

Masters of the old cluster must not run beside a restored one.";

pub(crate) async fn run(words: &[String], flags: Values) -> Result<ExitCode, Error> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["save", file] => save(Path::new(file), &flags).await,
        ["inspect", file] => {
            if let Err(error) = fs::metadata(file) {
                return Err(Error::Failed(format!("cannot read the snapshot {file}: {error}")));
            }
            let json = flags.bool("json").then_some("--json");
            become_program("meseta-log", ["info"].into_iter().chain(json).chain([file]).map(str::to_owned))
        }
        ["restore", file] => {
            let Some(work_dir) = flags.path("work_dir") else {
                return Err(Error::Usage("snapshot restore FILE: say where, with --work_dir=DIR".into()));
            };
            nobody_answers(Path::new(file), flags.bool("force")).await?;
            let (ip, port) = (flags.text("ip").unwrap_or("127.0.0.1"), flags.int("port").unwrap_or(5050));
            let words = [
                format!("--restore={file}"),
                format!("--work_dir={}", work_dir.display()),
                format!("--ip={ip}"),
                format!("--port={port}"),
            ];
            become_program("meseta-master", words.into_iter())
        }
        [action @ ("save" | "inspect" | "restore"), ..] => {
            Err(Error::Usage(format!("snapshot {action}: name one file (meseta help snapshot tells how)")))
        }
        _ => {
            let word = words.first().copied().unwrap_or_default();
            let hint = api::nearest::did_you_mean(["save", "inspect", "restore"], word).replace('"', "'");
            let what = "say save FILE, inspect FILE or restore FILE (meseta help snapshot tells how)";
            let problem = if word.is_empty() { String::new() } else { format!("there is no '{word}'{hint}: ") };
            Err(Error::Usage(format!("snapshot: {problem}{what}")))
        }
    }
}

/// Goes on as another program.
fn become_program(program: &str, words: impl Iterator<Item = String>) -> Result<ExitCode, Error> {
    let error = Command::new(beside(program)?).args(words).exec();
    Err(Error::Failed(format!("{program} does not start: {error}")))
}

/// A cluster that is restored beside the one that was saved has its id and its agents: both would answer for it. The
/// file knows the masters of then.
async fn nobody_answers(file: &Path, force: bool) -> Result<(), Error> {
    let output = Command::new(beside("meseta-log")?).args(["info", "--json"]).arg(file).output();
    let output = output.map_err(|error| Error::Failed(format!("meseta-log does not start: {error}")))?;
    // What is wrong with a file the one that restores it says best.
    let facts: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    for master in facts["masters"].as_array().into_iter().flatten() {
        let address = text(&master["address"]);
        let request = Request::post("/meseta/masters", &json!({"action": "list", "here": true}));
        let Ok(answer) = http::ask(address, &request, Duration::from_secs(2)).await else { continue };
        let Ok(answer) = http::json(answer).await else { continue };
        if answer["cluster_id"] != facts["cluster_id"] {
            continue;
        }
        let why =
            format!("{address} still answers for cluster {}, which this snapshot is of", text(&facts["cluster_id"]));
        if !force {
            return Err(Error::Failed(format!("{why}: stop its masters first (--force restores all the same)")));
        }
        eprintln!("meseta: {why}: its masters must not run beside a restored one");
        break;
    }
    Ok(())
}

async fn save(file: &Path, flags: &Values) -> Result<ExitCode, Error> {
    if file.exists() && !flags.bool("force") {
        return Err(Error::Failed(format!("{} is there already (--force writes over it)", file.display())));
    }
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let (stale, redact) = (flags.bool("stale"), flags.bool("redact"));
    let request = Request::get(format!("/meseta/snapshot?stale={stale}&redact={redact}"));
    let answer = http::send_within(&masters, &request, http::LONG).await?;
    if answer.status() != 200 {
        // The answer's sentence says why.
        return Err(answer.text().await.err().unwrap_or_else(|| Error::Failed("there is no snapshot".into())));
    }
    // Earlier masters do not know the word, and send everything.
    if redact && !answer.inner.headers().contains_key("meseta-snapshot-redacted") {
        return Err(Error::Failed(format!("{} cannot redact: it is of an earlier release", answer.address)));
    }
    let aside = PathBuf::from(format!("{}.part", file.display()));
    let received = receive(answer, &aside).await;
    let kept = received.and_then(|received| keep(&aside, file).map(|()| received));
    if kept.is_err() {
        let _ = fs::remove_file(&aside);
    }
    let (index, bytes) = kept?;
    let what = if redact { "redacted, " } else { "" };
    say(&format!("saved {}: {what}everything up to index {index}, {bytes} bytes\n", file.display()));
    Ok(ExitCode::SUCCESS)
}

/// An empty file for this user alone.
fn private(path: &Path) -> std::io::Result<File> {
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // It may have been there before.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Writes what arrives to `aside`, synced; its index and size, if it is what was sent.
async fn receive(answer: Answer, aside: &Path) -> Result<(String, u64), Error> {
    let address = answer.address.clone();
    let header = |name: &str| answer.inner.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (Some(index), Some(sent)) = (header("meseta-snapshot-index"), header("meseta-snapshot-crc32")) else {
        return Err(Error::Failed(format!("{address} did not answer with a snapshot")));
    };
    let failed =
        |what: &str, error: &dyn std::fmt::Display| Error::Failed(format!("{what} {}: {error}", aside.display()));
    // Everything of the cluster is in it, environments of tasks too.
    let mut file = private(aside).map_err(|error| failed("cannot create", &error))?;
    let (mut hasher, mut bytes) = (crc32fast::Hasher::new(), 0);
    let mut body = answer.inner.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Error::Failed(format!("{address} broke off its answer: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        hasher.update(&data);
        bytes += data.len() as u64;
        file.write_all(&data).map_err(|error| failed("cannot write", &error))?;
    }
    let arrived = format!("{:08x}", hasher.finalize());
    if arrived != sent {
        return Err(Error::Failed(format!("what arrived from {address} is not what it sent ({arrived}, not {sent})")));
    }
    file.sync_all().map_err(|error| failed("cannot sync", &error))?;
    Ok((index, bytes))
}

/// Gives the file its name: it is there whole or not at all.
fn keep(aside: &Path, file: &Path) -> Result<(), Error> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let kept = fs::rename(aside, file).and_then(|()| File::open(folder)?.sync_all());
    kept.map_err(|error| Error::Failed(format!("cannot write {}: {error}", file.display())))
}
