//! `meseta-fetcher`: fetches a task's files into its sandbox. Started beside a container, not by hand.

fn main() {
    if std::env::args().any(|word| word == "--version") {
        println!("meseta-fetcher {}", env!("CARGO_PKG_VERSION"));
        return;
    }
    std::process::exit(agent_fetcher::run());
}
