//! `meseta-executor`: stays beside one container's process. Started by the agent, not by hand.

fn main() {
    if std::env::args().any(|word| word == "--version") {
        println!("meseta-executor {}", env!("CARGO_PKG_VERSION"));
        return;
    }
    // Beside the command of a check, for as long as one look takes.
    if std::env::args().nth(1).is_some_and(|word| word == agent_checks::command::WORD) {
        std::process::exit(agent_checks::command::run());
    }
    std::process::exit(supervisor::run());
}
