//! Making a container, by the `docker` program: its image is there first.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::engine::{Engine, Error};
use crate::{Settings, write_private};

/// Credentials that a task brings along have so many bytes at most.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// A line of a file of variables has so many bytes at most for the `docker` program.
const LINE_BYTES_MAX: usize = 32 << 10;
/// Of what the program complains of, so much is told.
const COMPLAINT_CHARS_MAX: usize = 1000;

/// What is to be made: see `containers::docker`, which says it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Creation {
    /// The image's name.
    pub(crate) image: String,
    /// Whether it is asked for again although it is there.
    pub(crate) pull: bool,
    /// Options of `docker create`.
    pub(crate) options: Vec<String>,
    /// What follows the image.
    pub(crate) arguments: Vec<String>,
    /// `NAME=value`.
    pub(crate) environment: Vec<String>,
    /// The network as it was asked for.
    pub(crate) network_info: Option<Value>,
}

/// A folder with the credentials of registries, gone when this is dropped.
struct Credentials(PathBuf);

impl Drop for Credentials {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Brings the image here, unless it is. The error is a sentence.
pub(crate) async fn pull(
    engine: &Engine,
    settings: &Settings,
    folder: &Path,
    id: &str,
    sandbox: &Path,
    creation: &Creation,
) -> Result<(), String> {
    let image = &creation.image;
    if !is_image(image) {
        return Err(format!("'{}' is no name of an image", image.chars().take(200).collect::<String>()));
    }
    if !creation.pull {
        match engine.get(&format!("/images/{image}/json")).await {
            Ok(_) => return Ok(()),
            Err(Error::Said(404, _)) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    let credentials = credentials(settings, folder, id, sandbox)?;
    let pulled = docker(
        settings,
        Some(&credentials.0),
        &["pull".to_owned(), "--quiet".to_owned(), "--".to_owned(), image.clone()],
    )
    .await;
    pulled.map(drop).map_err(|why| format!("cannot pull the image '{image}': {why}"))
}

/// Makes the container. The error is a sentence: there is none.
pub(crate) async fn create(settings: &Settings, folder: &Path, id: &str, creation: &Creation) -> Result<(), String> {
    // What is in a file is on no command line, which everybody on the machine can read.
    let (in_file, others): (Vec<&String>, Vec<&String>) =
        creation.environment.iter().partition(|variable| fits_a_line(variable));
    let file = folder.join(format!("{id}.env"));
    let lines: String = in_file.iter().map(|variable| format!("{variable}\n")).collect();
    write_private(&file, lines.as_bytes()).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    let mut words = vec!["create".to_owned(), format!("--env-file={}", file.display())];
    words.extend(others.iter().map(|variable| format!("--env={variable}")));
    words.extend(creation.options.iter().cloned());
    words.push("--".to_owned());
    words.push(creation.image.clone());
    words.extend(creation.arguments.iter().cloned());
    let created = docker(settings, None, &words).await;
    let _ = std::fs::remove_file(&file);
    created.map(drop).map_err(|why| format!("cannot create the container: {why}"))
}

/// Runs the `docker` program to its end. The error is what it complains of.
pub(crate) async fn docker(settings: &Settings, config: Option<&Path>, words: &[String]) -> Result<String, String> {
    let socket = match settings.socket.contains("://") {
        true => settings.socket.clone(),
        false => format!("unix://{}", settings.socket),
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut command = Command::new(&settings.docker);
    command.args(["--host", &socket]);
    // Without one of its own it would look for those of whoever this agent is started by.
    command.arg("--config").arg(config.unwrap_or(Path::new("/nonexistent")));
    command.args(words).env_clear().env("PATH", path).env("HOME", "/nonexistent").kill_on_drop(true);
    let output = command.stdin(Stdio::null()).output().await;
    let output = output.map_err(|error| format!("cannot start {} (--docker): {error}", settings.docker))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(complaint(&String::from_utf8_lossy(&output.stderr)).unwrap_or_else(|| output.status.to_string()))
}

/// The sentence in what the program says: neither what it tried, nor how to use it.
fn complaint(said: &str) -> Option<String> {
    let is_news = |line: &&str| {
        !line.is_empty()
            && !["WARNING:", "See '", "Run 'docker", "Usage:", "Unable to find image", "Using default tag"]
                .iter()
                .any(|beginning| line.starts_with(beginning))
    };
    let line = said.lines().map(str::trim).find(is_news)?;
    let line = line.strip_prefix("docker: ").unwrap_or(line);
    Some(line.chars().take(COMPLAINT_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect())
}

fn is_image(name: &str) -> bool {
    let is_known = |c: char| c.is_ascii_alphanumeric() || "._-/:@+".contains(c);
    !name.is_empty() && name.len() <= 1024 && !name.starts_with(['-', '.', '/']) && name.chars().all(is_known)
}

/// Whether a file of variables can say it.
fn fits_a_line(variable: &str) -> bool {
    let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && name.chars().all(is_plain) && !value.contains(['\n', '\r']) && variable.len() <= LINE_BYTES_MAX
}

/// Those of the operator, and over them those that the task brought along in its sandbox. Of a file that somebody else wrote only
/// the credentials are taken: there is more in it that would be done by the agent's user.
fn credentials(settings: &Settings, folder: &Path, id: &str, sandbox: &Path) -> Result<Credentials, String> {
    let mut config = settings.config.clone().filter(Value::is_object).unwrap_or_else(|| json!({}));
    let brought = brought(&sandbox.join(".docker/config.json")).and_then(|found| found.get("auths").cloned());
    let brought = brought.or_else(|| brought_by_old_name(sandbox)).and_then(|found| found.as_object().cloned());
    if let (Some(brought), Some(config)) = (brought, config.as_object_mut()) {
        // Whoever is asked for credentials is asked by name for these no more.
        if let Some(helpers) = config.get_mut("credHelpers").and_then(Value::as_object_mut) {
            brought.keys().for_each(|registry| drop(helpers.remove(registry)));
        }
        if !brought.is_empty() {
            config.remove("credsStore");
        }
        let all = config.entry("auths").or_insert_with(|| json!({}));
        if let Some(all) = all.as_object_mut() {
            all.extend(brought);
        }
    }
    let path = folder.join(format!("{id}.config"));
    let credentials = Credentials(path.clone());
    let _ = std::fs::remove_dir_all(&path);
    let made = std::fs::create_dir(&path)
        .and_then(|()| write_private(&path.join("config.json"), config.to_string().as_bytes()));
    made.map(|()| credentials).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// The same without a folder, as older clients have it.
fn brought_by_old_name(sandbox: &Path) -> Option<Value> {
    let found = brought(&sandbox.join(".dockercfg"))?;
    Some(found.get("auths").cloned().unwrap_or(found))
}

fn brought(path: &Path) -> Option<Value> {
    let file = std::fs::File::options()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(CONFIG_BYTES_MAX).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok().filter(Value::is_object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_complains_of_is_one_sentence() {
        let said = "Unable to find image 'x:1' locally\ndocker: Error response from daemon: no such host.\n\nRun 'docker run --help' for more information\n";
        assert_eq!(complaint(said).unwrap(), "Error response from daemon: no such host.");
        assert_eq!(
            complaint("unknown flag: --bogus\n\nUsage:  docker create [OPTIONS]").unwrap(),
            "unknown flag: --bogus"
        );
        assert_eq!(complaint("WARNING: IPv4\n"), None);
        assert_eq!(complaint(&"x".repeat(1 << 20)).unwrap().len(), COMPLAINT_CHARS_MAX);
    }

    #[test]
    fn names_of_images() {
        for good in ["busybox", "a/b:1", "h:5000/a@sha256:0f", "docker.io/library/a_b-c:latest"] {
            assert!(is_image(good), "{good}");
        }
        for bad in ["", "-it", "--help", "../x", "/x", "a b", "a?x=1", "a\nb", "ä", "a%2f", "a#b"] {
            assert!(!is_image(bad), "{bad}");
        }
    }

    #[test]
    fn variables_of_a_file_are_those_that_it_keeps_as_they_are() {
        for good in ["A=", "A=b c ", "_A1=#x=y"] {
            assert!(fits_a_line(good), "{good}");
        }
        for bad in ["=x", "#A=b", "a b=c", "A=b\nC=d", "a.b=c"] {
            assert!(!fits_a_line(bad), "{bad}");
        }
    }

    #[test]
    fn of_a_tasks_own_file_only_credentials_are_taken() {
        let (folder, sandbox) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let own = json!({"auths": {"r1": {"auth": "o"}, "r2": {"auth": "o"}}, "credsStore": "s", "credHelpers": {"r1": "h", "r3": "h"}});
        let settings = Settings { config: Some(own.clone()), ..Settings::default() };
        let made = |settings: &Settings| {
            let credentials = credentials(settings, folder.path(), "c", sandbox.path()).unwrap();
            let path = credentials.0.join("config.json");
            let text = std::fs::read_to_string(path).unwrap();
            serde_json::from_str::<Value>(&text).unwrap()
        };
        assert_eq!(made(&settings), own);
        std::fs::write(sandbox.path().join(".dockercfg"), r#"{"r1": {"auth": "t"}}"#).unwrap();
        let merged = json!({"auths": {"r1": {"auth": "t"}, "r2": {"auth": "o"}}, "credHelpers": {"r3": "h"}});
        assert_eq!(made(&settings), merged);
        std::fs::create_dir(sandbox.path().join(".docker")).unwrap();
        let hostile = json!({"auths": {"r4": {}}, "cliPluginsExtraDirs": ["/x"], "plugins": {"p": {"hooks": "pull"}}, "credsStore": "evil"});
        std::fs::write(sandbox.path().join(".docker/config.json"), hostile.to_string()).unwrap();
        assert_eq!(made(&Settings::default()), json!({"auths": {"r4": {}}}));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
