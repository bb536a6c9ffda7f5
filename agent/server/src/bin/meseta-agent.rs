//! `meseta-agent`: runs tasks for a cluster's masters.

fn main() -> std::process::ExitCode {
    agent_server::run(std::env::args().skip(1).collect())
}
