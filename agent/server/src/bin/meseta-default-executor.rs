//! `meseta-default-executor`: runs groups of tasks. Started by the agent, not by hand. A program of its own, so that
//! `meseta-executor`, of which there is one beside each task, stays small.

fn main() {
    if std::env::args().any(|word| word == "--version") {
        println!("meseta-default-executor {}", env!("CARGO_PKG_VERSION"));
        return;
    }
    // Beside the command of a check, for as long as one look takes.
    if std::env::args().nth(1).is_some_and(|word| word == agent_checks::command::WORD) {
        std::process::exit(agent_checks::command::run());
    }
    std::process::exit(default_executor::run());
}
