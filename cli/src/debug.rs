//! `meseta debug`: one file with everything that whoever looks for a fault asks for, and nothing that is nobody's business.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::flags::{Flag, Kind, Values};
use api::redact;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::error::Error;
use crate::http::{self, Request};
use crate::ids::text;
use crate::say;

pub(crate) const FLAGS: &[Flag] = &[
    Flag::new("master", Kind::Text, "HOST:PORT of a master, or of several with commas; the others are found.")
        .default("127.0.0.1:5050"),
    Flag::new("records", Kind::Int, "So many of the newest records of the log, with their causes.").default("1000"),
    Flag::new("agents", Kind::Int, "At most so many agents are asked, those without a connection first.").default("16"),
    Flag::new("snapshot", Kind::Bool, "Also a redacted snapshot of the state; it takes the cluster's secret.")
        .default("false"),
    Flag::new(
        "profile",
        Kind::Duration,
        "Also what everybody does with the processor for so long, where MESETA_ENABLE_PROFILER=1.",
    ),
    Flag::new("force", Kind::Bool, "Over a file that is there.").default("false"),
    http::SECRET,
];

pub(crate) const ABOUT: &str = "\
One file, a tar.gz, for whoever looks for a fault: versions, health, flags, states, metrics, logs, processes of all
masters and of some agents, the newest records of the log, who did what and who was refused. Environments, commands,
labels, secrets and data of tasks are taken out, and so are flags that may hold secrets. Logs are as they are: read
them before you give them away. What could not be had is named in README.txt inside.

  meseta debug FILE.tar.gz [--agents=16] [--records=1000] [--snapshot] [--profile=10secs]";

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// No answer is larger; a larger one is left out.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// So much of the end of a log.
const LOG_BYTES: u64 = 1 << 20;
/// Daemons that are asked at once.
const AT_ONCE: usize = 8;
/// As much as one read of a file gives.
const READ_BYTES: u64 = 64 << 10;

/// What is asked of every daemon: path, and the file that the answer becomes.
const OF_EACH: &[(&str, &str)] = &[
    ("/health", "health.txt"),
    ("/version", "version.json"),
    ("/flags", "flags.json"),
    ("/metrics/snapshot", "metrics.json"),
    ("/process", "process.json"),
    ("/system/stats.json", "machine.json"),
    ("/state", "state.json"),
];

/// What is asked of masters beside that. Each answers as it is itself.
const OF_MASTERS: &[(&str, &str)] = &[
    ("/slaves?stale=true", "agents.json"),
    ("/roles?stale=true", "roles.json"),
    ("/quota?stale=true", "quota.json"),
    ("/maintenance/schedule?stale=true", "maintenance.json"),
    ("/brakes?stale=true", "brakes.json"),
    ("/holders?stale=true", "holders.json"),
    ("/agents/away?stale=true", "agents-away.json"),
];

/// A master or an agent.
struct Daemon {
    address: String,
    /// Where in the bundle.
    folder: String,
    /// What it is asked for, and the file that the answer becomes.
    paths: Vec<(&'static str, &'static str)>,
    /// Where it serves its log.
    log: &'static str,
    /// So long it is profiled, if it is.
    profile: Option<Duration>,
}

impl Daemon {
    fn master(address: &str) -> Daemon {
        let folder = format!("masters/{}", folder(address));
        Daemon {
            address: address.to_owned(),
            folder,
            paths: [OF_EACH, OF_MASTERS].concat(),
            log: "/master/log",
            profile: None,
        }
    }

    fn agent(address: &str) -> Daemon {
        let folder = format!("agents/{}", folder(address));
        Daemon { address: address.to_owned(), folder, paths: OF_EACH.to_vec(), log: "/slave/log", profile: None }
    }
}

/// The bundle in the making.
#[derive(Default)]
struct Bundle {
    files: BTreeMap<String, Vec<u8>>,
    missing: Vec<String>,
}

pub(crate) async fn run(words: &[String], flags: Values) -> Result<ExitCode, Error> {
    let [file] = words else { return Err(Error::Usage("debug: name one file, as cluster.tar.gz".into())) };
    let file = PathBuf::from(file);
    if file.exists() && !flags.bool("force") {
        return Err(Error::Failed(format!("{} is there already (--force writes over it)", file.display())));
    }
    let number = |name: &str| flags.int(name).and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
    let given = http::addresses(flags.text("master").unwrap_or_default())?;
    let mut bundle = Bundle::default();
    let masters = bundle.masters(&given).await;
    let agents = bundle.agents(&masters, number("agents") as usize).await;
    let daemons = masters.iter().map(|it| Daemon::master(it)).chain(agents.iter().map(|it| Daemon::agent(it)));
    let profile = flags.duration("profile").filter(|profile| !profile.is_zero());
    bundle.ask_all(daemons.map(|daemon| Daemon { profile, ..daemon }).collect()).await;
    if bundle.files.is_empty() {
        return Err(Error::Failed(format!("nobody answers at {}: there is nothing to write", given.join(", "))));
    }
    bundle.records(&masters, number("records")).await;
    if flags.bool("snapshot") {
        bundle.get(&masters, "/meseta/snapshot?stale=true&redact=true", "redacted.snapshot").await;
    }
    let missing = bundle.missing.len();
    let bytes = bundle.write(&file)?;
    let left_out = if missing == 0 {
        String::new()
    } else {
        format!("; {missing} things could not be had, see README.txt inside")
    };
    say(&format!("wrote {}, {bytes} bytes{left_out}\n", file.display()));
    Ok(ExitCode::SUCCESS)
}

impl Bundle {
    fn put(&mut self, name: &str, content: impl Into<Vec<u8>>) {
        self.files.insert(name.to_owned(), content.into());
    }

    fn miss(&mut self, what: &str, why: &str) {
        self.missing.push(format!("{what}: {why}"));
    }

    /// All masters, as those that were given know them; those alone if they do not tell.
    async fn masters(&mut self, given: &[String]) -> Vec<String> {
        let mut all = given.to_vec();
        for address in given {
            let request = Request::post("/meseta/masters", &json!({"action": "list", "here": true}));
            match ask(address, &request).await {
                Ok(body) => {
                    let told: Value = serde_json::from_slice(&body).unwrap_or_default();
                    self.put(&format!("masters/{}/masters.json", folder(address)), pretty(&told));
                    all.extend(list(&told["masters"]).iter().map(|master| text(&master["address"]).to_owned()));
                }
                Err(why) => self.miss(&format!("{address} /meseta/masters (who the masters are)"), &why),
            }
        }
        all.sort();
        all.dedup();
        all
    }

    /// Addresses of so many agents. Those that are not well come first.
    async fn agents(&mut self, masters: &[String], most: usize) -> Vec<String> {
        for address in masters {
            let Ok(body) = ask(address, &Request::get("/slaves?stale=true")).await else { continue };
            let told: Value = serde_json::from_slice(&body).unwrap_or_default();
            let mut agents: Vec<&Value> = list(&told["slaves"]).iter().collect();
            agents.sort_by_key(|agent| agent["active"] == true);
            if agents.len() > most {
                self.miss("agents", &format!("{most} of {} were asked (--agents)", agents.len()));
            }
            let address = |agent: &&Value| text(&agent["pid"]).rsplit('@').next().unwrap_or_default().to_owned();
            return agents.iter().take(most).map(address).collect();
        }
        self.miss("agents", "no master tells who they are");
        Vec::new()
    }

    async fn ask_all(&mut self, daemons: Vec<Daemon>) {
        let mut waiting = daemons.into_iter();
        let mut asked: JoinSet<Bundle> = JoinSet::new();
        loop {
            while asked.len() < AT_ONCE
                && let Some(daemon) = waiting.next()
            {
                asked.spawn(async move {
                    let mut part = Bundle::default();
                    part.daemon(&daemon).await;
                    part
                });
            }
            match asked.join_next().await {
                None => return,
                Some(Ok(part)) => {
                    self.files.extend(part.files);
                    self.missing.extend(part.missing);
                }
                Some(Err(_)) => {}
            }
        }
    }

    /// One master or agent.
    async fn daemon(&mut self, Daemon { address, folder, paths, log, profile }: &Daemon) {
        for (path, name) in paths {
            // A follower would send elsewhere; what it knows itself is wanted.
            let path = if *path == "/state" { "/state?stale=true" } else { path };
            match ask(address, &Request::get(path)).await {
                Ok(body) => match serde_json::from_slice::<Value>(&body) {
                    Ok(mut value) => {
                        redact::message(&mut value);
                        self.put(&format!("{folder}/{name}"), pretty(&value));
                    }
                    // No JSON: health has no words, and needs none.
                    Err(_) => {
                        self.put(&format!("{folder}/{name}"), if body.is_empty() { b"200\n".to_vec() } else { body })
                    }
                },
                Err(why) => {
                    self.miss(&format!("{address} {path}"), &why);
                    if name.starts_with("health") {
                        // Who does not say that it lives says nothing else either.
                        return;
                    }
                }
            }
        }
        if let Some(lasts) = profile {
            match profiled(address, *lasts).await {
                Ok(profile) => self.put(&format!("{folder}/profile.pb"), profile),
                Err(why) => self.miss(&format!("{address} /profiler (its profile)"), &why),
            }
        }
        match tail(address, log).await {
            Ok(log) => self.put(&format!("{folder}/log.txt"), log),
            Err(why) => self.miss(&format!("{address} {log} (its log; --log_dir or --external_log_file)"), &why),
        }
    }

    /// The end of the log with its causes, and who was refused.
    async fn records(&mut self, masters: &[String], records: u64) {
        let mut lines = Vec::new();
        for address in masters {
            let first = format!("/audit?stale=true&all=true&limit=1000&from={}", u64::MAX >> 1);
            let last = match index(address, &first).await {
                Ok(last) => last,
                Err(why) => {
                    self.miss(&format!("{address} /audit (the newest records)"), &why);
                    continue;
                }
            };
            let mut next = Some(last.saturating_sub(records.saturating_sub(1)).max(1));
            while let Some(from) = next {
                let path = format!("/audit?stale=true&all=true&limit=1000&from={from}");
                let Ok(page) = ask(address, &Request::get(path)).await else { break };
                let page: Value = serde_json::from_slice(&page).unwrap_or_default();
                for line in list(&page["done"]) {
                    lines.extend_from_slice(format!("{line}\n").as_bytes());
                }
                next = page["next"].as_u64();
            }
            self.put("records.jsonl", lines);
            break;
        }
        self.get(masters, "/audit?stale=true&refused=true", "refused.json").await;
    }

    /// What the first master that answers says.
    async fn get(&mut self, masters: &[String], path: &str, name: &str) {
        let mut why = "no master answers".to_owned();
        for address in masters {
            match ask(address, &Request::get(path)).await {
                Ok(body) => return self.put(name, body),
                Err(error) => why = format!("{address}: {error}"),
            }
        }
        self.miss(path, &why);
    }

    /// The whole bundle as a file; its bytes.
    fn write(self, file: &Path) -> Result<u64, Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let taken = api::time::to_the_second(u64::try_from(now.as_millis()).unwrap_or_default());
        let names: Vec<&str> = self.files.keys().map(String::as_str).collect();
        let missing = if self.missing.is_empty() { "nothing".to_owned() } else { self.missing.join("\n  ") };
        let readme = format!(
            "Taken by meseta {} at {taken}.\n\nValues of environment variables and labels, commands, secrets, data and what identifies users \
             in URIs\nwere replaced by {} or left out. Logs (log.txt) are as they were written.\n\nIn it:\n  {}\n\nCould not be had:\n  {missing}\n",
            env!("CARGO_PKG_VERSION"),
            redact::REDACTED,
            names.join("\n  "),
        );
        let failed = |error: std::io::Error| Error::Failed(format!("cannot write {}: {error}", file.display()));
        let aside = PathBuf::from(format!("{}.part", file.display()));
        let written = || -> std::io::Result<u64> {
            let out = File::options().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
            out.set_permissions(fs::Permissions::from_mode(0o600))?;
            let mut archive = tar::Builder::new(GzEncoder::new(out, Compression::default()));
            let files = self.files.iter().map(|(name, content)| (name.as_str(), content.as_slice()));
            for (name, content) in [("README.txt", readme.as_bytes())].into_iter().chain(files) {
                let mut header = tar::Header::new_gnu();
                header.set_size(content.len() as u64);
                header.set_mode(0o600);
                header.set_mtime(now.as_secs());
                archive.append_data(&mut header, format!("meseta-debug/{name}"), content)?;
            }
            let mut out = archive.into_inner()?.finish()?;
            out.flush()?;
            out.sync_all()?;
            fs::rename(&aside, file)?;
            Ok(fs::metadata(file)?.len())
        };
        let written = written();
        if written.is_err() {
            let _ = fs::remove_file(&aside);
        }
        written.map_err(failed)
    }
}

/// The whole answer of one daemon.
async fn ask(address: &str, request: &Request) -> Result<Vec<u8>, String> {
    let answer = http::ask(address, request, PATIENCE).await?;
    let status = answer.status();
    let mut body = answer.inner.into_body();
    let mut all = Vec::new();
    let read = async {
        while let Some(frame) = body.frame().await {
            let data =
                frame.map_err(|error| format!("it broke off its answer: {error}"))?.into_data().unwrap_or_default();
            if all.len() + data.len() > ANSWER_BYTES_MAX {
                return Err(format!("its answer has more than {ANSWER_BYTES_MAX} bytes"));
            }
            all.extend_from_slice(&data);
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, read).await.map_err(|_| "it takes too long".to_owned())??;
    match status {
        200 => Ok(all),
        status => {
            Err(format!("{status} {}", api::terminal::plain(&api::limits::quoted(&String::from_utf8_lossy(&all)))))
        }
    }
}

/// The index of the log that this answer is of.
async fn index(address: &str, path: &str) -> Result<u64, String> {
    let answer = http::ask(address, &Request::get(path), PATIENCE).await?;
    let index = answer.inner.headers().get("meseta-index").and_then(|index| index.to_str().ok()?.parse().ok());
    index.ok_or_else(|| format!("it answers {}", answer.status()))
}

/// The end of a file that a daemon serves.
async fn tail(address: &str, path: &str) -> Result<Vec<u8>, String> {
    let path = crate::sandbox::encoded(path);
    let read = |offset: i64, length: u64| {
        let path = format!("/files/read?path={path}&offset={offset}&length={length}");
        async move {
            Ok::<Value, String>(serde_json::from_slice(&ask(address, &Request::get(path)).await?).unwrap_or_default())
        }
    };
    let size = read(-1, 0).await?["offset"].as_u64().unwrap_or(0);
    let (mut at, mut all) = (size.saturating_sub(LOG_BYTES), Vec::new());
    while at < size {
        let part = read(i64::try_from(at).unwrap_or(i64::MAX), READ_BYTES).await?;
        let data = text(&part["data"]);
        if data.is_empty() {
            break;
        }
        all.extend_from_slice(data.as_bytes());
        at += READ_BYTES;
    }
    Ok(all)
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

/// An address as the name of a folder.
fn folder(address: &str) -> String {
    address.replace(['/', '\\'], "_")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What a daemon does with its processor for a while, as pprof reads it.
async fn profiled(address: &str, lasts: Duration) -> Result<Vec<u8>, String> {
    ask(address, &Request::get("/profiler/start")).await?;
    tokio::time::sleep(lasts).await;
    ask(address, &Request::get("/profiler/stop")).await
}
