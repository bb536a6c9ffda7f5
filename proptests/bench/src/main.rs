//! `meseta-bench`: measures what the project holds itself to, beside etcd where etcd does the same thing, prints a
//! table and writes JSON. docs/benchmarks.md says what each row means.

mod agents;
mod allocation;
mod containers;
mod core;
mod cycle;
mod etcd;
mod first_offer;
mod history;
mod http1;
mod images;
mod large;
mod load;
mod memory;
mod pages;
mod pause;
mod processes;
mod quorum;
mod readers;
mod report;
mod restart;
mod scheduler;
mod simulator;
mod tasks;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use load::Span;
use report::Report;

/// Every row that can be measured.
const NAMES: &[&str] = &[
    "fold_events_per_s",
    "replay_events_per_s",
    "restart_ms",
    "snapshot_pause_ms",
    "log_bytes_per_offer",
    "state_bytes_per_agent",
    "state_bytes_per_task",
    "commands_per_s",
    "guarded_commands",
    "commit_p99_ms",
    "call_p50_ms",
    "failover_commit_ms",
    "failover_state_ms",
    "agents_registered_again",
    "first_offer_ms",
    "tasks_per_s_agent",
    "isolated_tasks",
    "task_latency_ms",
    "rss_mb_master",
    "rss_mb_agent",
    "rss_mb_supervisor",
    "group_tasks_per_s",
    "nested_start_ms",
    "exec_first_byte_ms",
    "image_root_ms",
    "rss_mb_agent_busy",
    "agent_recovery_ms",
    "container_cycle_ms",
    "read_interference",
    "state_read_ms",
    "page_ms",
    "page_growth_mb",
    "narrow_state_read",
    "sim_speed",
    "alloc_first_ms",
    "alloc_steady_ms",
    "alloc_decline_ms",
    "alloc_quota_ms",
    "alloc_event_us",
];

/// A measurement, or why there is none. The reasons end on a terminal: text is enough.
type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How a run is made.
#[derive(Debug)]
struct Bench {
    /// Where load is made: one thread, so that the servers keep the rest of the machine.
    runtime: tokio::runtime::Runtime,
    quick: bool,
    /// How many agents the cluster has that loses its leader.
    agents: usize,
}

impl Bench {
    /// How long load is made.
    fn span(&self) -> Span {
        let (warm_up, measured) = if self.quick { (500, 1_500) } else { (2_000, 8_000) };
        Span { warm_up: Duration::from_millis(warm_up), measured: Duration::from_millis(measured) }
    }
}

fn main() -> ExitCode {
    let (mut only, mut quick, mut agents, mut output) = (Vec::new(), false, None, PathBuf::from("bench.json"));
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some(("--only", names)) => only.extend(names.split(',').map(str::to_owned)),
            Some(("--output", path)) => output = path.into(),
            Some(("--agents", count)) => match count.parse() {
                Ok(count) => agents = Some(count),
                Err(_) => return usage(&format!("--agents={count}: not a number")),
            },
            None if argument == "--quick" => quick = true,
            None if argument == "--help" => {
                println!(
                    "meseta-bench [--only=NAME,..] [--quick] [--agents=10000] [--output=bench.json]\n\nrows: {}",
                    NAMES.join(" ")
                );
                return ExitCode::SUCCESS;
            }
            _ => return usage(&format!("unknown argument {argument}; --help lists them")),
        }
    }
    if let Some(unknown) = only.iter().find(|name| !NAMES.contains(&name.as_str())) {
        return usage(&format!("no row is called {unknown}; there are {}", NAMES.join(", ")));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return usage(&format!("cannot start: {error}")),
    };
    // What panics is a row that could not be measured: its sentence is in the report, a backtrace says nothing more.
    std::panic::set_hook(Box::new(|_| {}));
    let agents = agents.unwrap_or(if quick { 1_000 } else { 10_000 });
    let bench = Bench { runtime, quick, agents };
    let mut report = Report::new(only);
    core::rows(&bench, &mut report);
    allocation::rows(&bench, &mut report);
    memory::rows(&bench, &mut report);
    restart::rows(&bench, &mut report);
    pause::rows(&bench, &mut report);
    quorum::rows(&bench, &mut report);
    first_offer::rows(&bench, &mut report);
    tasks::rows(&bench, &mut report);
    containers::rows(&bench, &mut report);
    cycle::rows(&bench, &mut report);
    images::rows(&bench, &mut report);
    readers::rows(&bench, &mut report);
    pages::rows(&bench, &mut report);
    large::rows(&bench, &mut report);
    simulator::rows(&bench, &mut report);
    if let Err(error) = report.finish(&output) {
        return usage(&format!("cannot write {}: {error}", output.display()));
    }
    if report.complete() { ExitCode::SUCCESS } else { ExitCode::from(2) }
}

fn usage(message: &str) -> ExitCode {
    eprintln!("meseta-bench: {message}");
    ExitCode::FAILURE
}
