//! `meseta-executor`: stays beside one container's process. Started by the agent, not by hand.

fn main() {
    if std::env::args().any(|word| word == "--version") {
        println!("meseta-executor {}", env!("CARGO_PKG_VERSION"));
        return;
    }
    std::process::exit(supervisor::run());
}
