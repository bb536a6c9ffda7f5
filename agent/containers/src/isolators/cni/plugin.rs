//! How plugins are asked: a program each, with what it is told on its standard input, and JSON as its answer.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::{Map, Value};

use super::config::plugin;

/// So long a plugin may take.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_millis(20);
/// An answer has so many bytes at most.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Where plugins look for programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Of which container a plugin is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct About<'a> {
    pub(super) container_id: &'a str,
    /// A file that stands for its network; none if there is none any more.
    pub(super) namespace: Option<&'a Path>,
    pub(super) interface: &'a str,
    pub(super) dirs: &'a [PathBuf],
}

/// Joins a network: its plugins one after the other, each with what the one before answered.
pub(super) fn add(told: &[Map<String, Value>], about: About<'_>) -> Result<Value, String> {
    let mut answer = Value::Null;
    for config in told {
        answer = ask("ADD", &with(config, &answer), about)?;
    }
    Ok(answer)
}

/// Leaves it, the other way round.
pub(super) fn delete(told: &[Map<String, Value>], answer: &Value, about: About<'_>) -> Result<(), String> {
    told.iter().rev().try_for_each(|config| ask("DEL", &with(config, answer), about).map(drop))
}

fn with(config: &Map<String, Value>, answer: &Value) -> Map<String, Value> {
    let mut config = config.clone();
    if !answer.is_null() {
        config.insert("prevResult".to_owned(), answer.clone());
    }
    config
}

fn memory(what: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(what, MFdFlags::MFD_CLOEXEC)?))
}

fn text(file: &mut File) -> String {
    let mut text = Vec::new();
    let _ = file.rewind().and_then(|()| file.take(ANSWER_BYTES_MAX).read_to_end(&mut text));
    String::from_utf8_lossy(&text).trim().to_owned()
}

fn ask(command: &str, config: &Map<String, Value>, about: About<'_>) -> Result<Value, String> {
    let kind = config.get("type").and_then(Value::as_str).unwrap_or_default();
    let path =
        plugin(kind, about.dirs).ok_or_else(|| format!("there is no plugin '{kind}' in --network_cni_plugins_dir"))?;
    let dirs: Vec<String> = about.dirs.iter().map(|dir| dir.display().to_string()).collect();
    let run = || -> io::Result<(Option<i32>, String, String)> {
        let (mut input, mut out, mut errors) = (memory("config")?, memory("answer")?, memory("errors")?);
        input.write_all(&serde_json::to_vec(config)?)?;
        input.rewind()?;
        let mut child = Command::new(&path)
            .env_clear()
            .env("PATH", PATH)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", about.container_id)
            .env("CNI_NETNS", about.namespace.unwrap_or(Path::new("")))
            .env("CNI_IFNAME", about.interface)
            .env("CNI_PATH", dirs.join(":"))
            .stdin(Stdio::from(input))
            .stdout(out.try_clone()?)
            .stderr(errors.try_clone()?)
            .spawn()?;
        let (begun, mut pause) = (Instant::now(), Duration::from_millis(1));
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status.code();
            }
            if begun.elapsed() > PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
                return Err(io::Error::other(format!("it took longer than {} s", PATIENCE.as_secs())));
            }
            std::thread::sleep(pause);
            pause = (2 * pause).min(PAUSE_MAX);
        };
        Ok((status, text(&mut out), text(&mut errors)))
    };
    match run() {
        Err(error) => Err(format!("cannot run the CNI plugin '{}': {error}", path.display())),
        Ok((Some(0), answer, _)) if answer.is_empty() => Ok(Value::Null),
        Ok((Some(0), answer, _)) => serde_json::from_str(&answer)
            .map_err(|error| format!("the CNI plugin '{}' answered no JSON: {error}", path.display())),
        Ok((_, answer, errors)) => {
            let said = serde_json::from_str::<Value>(&answer).ok();
            let said = said.as_ref().and_then(|said| said.get("msg")?.as_str()).unwrap_or(&answer);
            Err(format!("the CNI plugin '{}' failed: {said} {errors}", path.display()).trim_end().to_owned())
        }
    }
}
