//! How much this process logs. An operator has it log more for a while; it falls back by itself.

use crate::{Log, Query, Response, StatusCode, empty, parse_timeout, text};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, reload};

/// As what lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// Entries of systemd's journal, with fields; what goes to a file is for people.
    Journald,
}

impl LogFormat {
    /// By the value of a flag.
    ///
    /// # Errors
    /// One sentence.
    pub fn parse(text: Option<&str>) -> Result<LogFormat, String> {
        match text {
            None | Some("text") => Ok(LogFormat::Text),
            Some("json") => Ok(LogFormat::Json),
            Some("journald") => Ok(LogFormat::Journald),
            Some(other) => Err(format!("--log_format is text, json or journald, not '{other}'")),
        }
    }
}

/// What a line is about has this before its name in the journal: `MESETA_TERM=7`.
const FIELDS: &str = "MESETA";

/// What more than the configured is logged, of the crates that say much.
const MORE: &str = "debug,openraft=error,hyper=info,hyper_util=info,h2=info,rustls=info";
const MUCH_MORE: &str = "trace,openraft=info,hyper=info,hyper_util=info,h2=info,rustls=info";
const EVERYTHING: &str = "trace";

/// A process has one log.
static LOGGED: Mutex<Logged> = Mutex::new(Logged { level: 0, turn: 0, apply: None });

struct Logged {
    /// 0 is what was configured.
    level: u32,
    /// Of the last that set a level: it alone says when that ends.
    turn: u64,
    /// None where nothing is logged.
    apply: Option<Box<dyn Fn(u32) + Send>>,
}

/// Begins to log what `configured` lets through, in the words of the `tracing` filters. Does nothing if the log is
/// nowhere, or has begun.
///
/// # Errors
/// One sentence: there is no journal.
pub fn begin_log(log: Log, format: LogFormat, configured: &str) -> Result<(), String> {
    if log.is_nowhere() && format != LogFormat::Journald {
        return Ok(());
    }
    let journal = match format {
        LogFormat::Journald => {
            let journal = tracing_journald::layer();
            let why = |error| format!("--log_format=journald: the journal of systemd cannot be reached: {error}");
            Some(journal.map_err(why)?.with_field_prefix(Some(FIELDS.to_owned())))
        }
        LogFormat::Text | LogFormat::Json => None,
    };
    let shared = log.clone();
    let writer = move || shared.clone();
    let builder = tracing_subscriber::fmt().with_ansi(false).with_writer(writer);
    let configured = configured.to_owned();
    let filter = EnvFilter::new(&configured);
    let apply: Box<dyn Fn(u32) + Send> = match format {
        LogFormat::Text => {
            let builder = builder.with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            if builder.try_init().is_err() {
                return Ok(());
            }
            Box::new(move |level| drop(handle.reload(EnvFilter::new(directives(&configured, level)))))
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            if builder.try_init().is_err() {
                return Ok(());
            }
            Box::new(move |level| drop(handle.reload(EnvFilter::new(directives(&configured, level)))))
        }
        LogFormat::Journald => {
            let (filter, handle) = reload::Layer::new(filter);
            let file = log.file_alone();
            let text = (!file.is_nowhere())
                .then(|| tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || file.clone()));
            if tracing_subscriber::registry().with(filter).with(journal).with(text).try_init().is_err() {
                return Ok(());
            }
            Box::new(move |level| drop(handle.reload(EnvFilter::new(directives(&configured, level)))))
        }
    };
    lock().apply = Some(apply);
    Ok(())
}

/// How much is logged beyond what was configured: 0 is nothing.
pub fn log_level() -> u32 {
    lock().level
}

/// Logs more (1: what happens; 2: in detail; from 3 on everything that libraries say, too), or again what was configured
/// (0). After `duration` it is that anyway; whoever set a level last says when. Call it inside of a runtime.
pub fn set_log_level(level: u32, duration: Duration) {
    let turn = {
        let mut logged = lock();
        logged.set(level);
        logged.turn += 1;
        logged.turn
    };
    tracing::info!(verbosity = level, ?duration, "the level of this log was set");
    if level > 0 {
        tokio::spawn(async move {
            tokio::time::sleep(duration).await;
            let mut logged = lock();
            if logged.turn == turn {
                logged.set(0);
            }
        });
    }
}

/// `/logging/toggle`: what the level is, or a new one for a while.
pub fn toggle_log_level(query: &Query) -> Response {
    let wrong = |sentence: String| text(StatusCode::BAD_REQUEST, &sentence);
    match (query.get("level"), query.get("duration")) {
        (None, None) => text(StatusCode::OK, &format!("{}\n", log_level())),
        (Some(_), None) => wrong("Expecting 'duration=value' in query.\n".to_owned()),
        (None, Some(_)) => wrong("Expecting 'level=value' in query.\n".to_owned()),
        (Some(level), Some(duration)) => {
            let Ok(level) = level.parse::<i64>() else {
                return wrong(format!("Failed to convert '{level}' to number.\n"));
            };
            let Ok(level) = u32::try_from(level) else { return wrong(format!("Invalid level '{level}'.\n")) };
            match parse_timeout(duration) {
                Ok(duration) => {
                    set_log_level(level, duration);
                    empty(StatusCode::OK)
                }
                Err(sentence) => wrong(sentence.replacen("Invalid timeout", "Invalid duration", 1)),
            }
        }
    }
}

impl Logged {
    fn set(&mut self, level: u32) {
        self.level = level;
        if let Some(apply) = &self.apply {
            apply(level);
        }
    }
}

fn directives(configured: &str, level: u32) -> &str {
    match level {
        0 => configured,
        1 => MORE,
        2 => MUCH_MORE,
        _ => EVERYTHING,
    }
}

fn lock() -> std::sync::MutexGuard<'static, Logged> {
    LOGGED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn ask(query: &str) -> StatusCode {
        toggle_log_level(&Query::parse(query)).status()
    }

    /// One test of all: a process has one log.
    #[tokio::test(start_paused = true)]
    async fn more_is_logged_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        begin_log(Log::open(false, Some(&path)).unwrap(), LogFormat::Json, "info").unwrap();
        assert_eq!(LogFormat::parse(Some("journald")), Ok(LogFormat::Journald));
        assert!(LogFormat::parse(Some("xml")).unwrap_err().contains("text, json or journald"));
        let logged = |word: &str| {
            tracing::debug!(word, "said");
            let mut text = String::new();
            std::fs::File::open(&path).unwrap().read_to_string(&mut text).unwrap();
            let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            lines.iter().any(|line| line["word"] == word && line["level"] == "DEBUG")
        };
        assert!(!logged("before"));
        for wrong in
            ["level=1", "duration=1secs", "level=x&duration=1secs", "level=-1&duration=1secs", "level=1&duration=x"]
        {
            assert_eq!(ask(wrong), StatusCode::BAD_REQUEST, "{wrong}");
        }
        assert_eq!(ask("level=1&duration=10secs"), StatusCode::OK);
        assert!(logged("while") && log_level() == 1);
        // The last one says when it ends.
        set_log_level(2, Duration::from_secs(60));
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(logged("longer") && log_level() == 2);
        tokio::time::sleep(Duration::from_secs(31)).await;
        assert!(!logged("after") && log_level() == 0);
        assert_eq!(ask(""), StatusCode::OK);
    }
}
