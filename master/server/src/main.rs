//! `meseta-master`: one member of the quorum that keeps the cluster's log.

use api_http::{Admission, Bounds, Connections};
use auth::Realm;
use master_server::flags::{self, Asked, Flags};
use master_server::listen::listen;
use master_server::run;
use master_server::threads::Threads;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How long closing the log may take before the process ends all the same.
const CLOSING: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let asked = flags::read(std::env::args().skip(1).collect(), |name| std::env::var(name).ok());
    let ended = match asked {
        Ok(Asked::Help(text)) => {
            print!("{text}");
            Ok(())
        }
        Ok(Asked::Version) => {
            println!("meseta-master {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Ok(Asked::Run(flags)) if flags.restore().is_some() => restore(&flags),
        Ok(Asked::Run(flags)) => {
            let ended = run_master(&flags);
            event_log::raft::wait_until_closed(CLOSING);
            ended
        }
        Err(sentence) => Err(sentence),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("meseta-master: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn restore(flags: &Flags) -> Result<(), String> {
    api_http::keep_files_private();
    let file = flags.restore().ok_or("--restore names no file")?;
    println!("{}", master_server::restore::run(&flags.settings(flags.listen)?, &file)?);
    Ok(())
}

fn run_master(flags: &Flags) -> Result<(), String> {
    let files = api_http::raise_file_limit()?;
    api_http::keep_files_private();
    let log = flags.log()?;
    let configured = std::env::var("MESETA_LOG").unwrap_or_else(|_| format!("{},openraft=error", flags.log_level));
    api_http::begin_log(log, flags.log_format, &configured)?;
    for warning in flags.warnings().iter().chain(&files.warning()) {
        tracing::warn!("{warning}");
    }
    master_server::crashes::watch_panics();
    // Before the threads start: an inherited descriptor must be taken before anything else opens one.
    let listener = listen(flags.listen)?;
    let bound = listener.local_addr().map_err(|error| format!("cannot use the listening socket: {error}"))?;
    let settings = flags.settings(bound)?;
    let (admission, warnings) = Admission::open(flags.sources()?)?;
    let admission = Arc::new(admission.noting(flags.audit()));
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let what = "runs what it likes on the agents, as root where they are root";
    if let Some(warning) = api_http::open_door(bound, what).filter(|_| !admission.asks(Realm::MasterScheduler)) {
        tracing::warn!("{warning}");
    }
    // Only what is a master's: a work_dir that is none is found out later.
    if settings.work_dir.join("identity").is_file()
        && let Err(error) = api_http::close_to_others(&settings.work_dir)
    {
        tracing::warn!(%error, work_dir = %settings.work_dir.display(), "not all of it can be closed to others");
    }
    let threads = Threads::start().map_err(|error| format!("cannot start threads: {error}"))?;
    api_http::give_back_memory().map_err(|error| format!("cannot start threads: {error}"))?;
    let bounds = Bounds::of_this_process().with(flags.connections_max(), flags.address_connections_max());
    let places = Some((threads.door.handle().clone(), threads.clients.handle().clone()));
    let port = run::Port { connections: Connections::new(bounds), places, admission: admission.clone() };
    let listener = {
        let _door = threads.door.enter();
        tokio::net::TcpListener::from_std(listener)
            .map_err(|error| format!("cannot use the listening socket: {error}"))?
    };
    let ended = threads.vital.block_on(async move {
        let signals = (SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup());
        let signals = (signal(signals.0), signal(signals.1), signal(signals.2));
        let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = signals else {
            return Err("cannot listen for signals".to_owned());
        };
        let mut running = run::start(settings, listener, port).await.map_err(|error| event_log::sentence(&error))?;
        // Whoever started this process waits for the line; if they closed the pipe, they do not.
        let _ = writeln!(std::io::stdout(), "meseta-master listening on {bound}");
        let mut forming = true;
        let status = running.watch_failure();
        tokio::pin!(status);
        let removal = running.watch_removal();
        tokio::pin!(removal);
        loop {
            tokio::select! {
                why = &mut status => return Err(why),
                () = &mut removal => {
                    running.close("this master was removed from its cluster").await;
                    return Err("this master was removed from its cluster; its work_dir is of no further use".to_owned());
                }
                formed = running.formed(), if forming => {
                    formed.map_err(|error| event_log::sentence(&error))?;
                    forming = false;
                }
                _ = hangup.recv() => if api_http::reload(admission.clone()).await {
                    running.let_watchers_go();
                },
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        tracing::info!("stopping");
        running.stop().await;
        Ok(())
    });
    // What clients still wait for is not worth waiting for.
    threads.clients.shutdown_background();
    threads.door.shutdown_background();
    ended
}
