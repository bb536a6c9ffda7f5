//! `meseta-docker`: asks a Docker Engine for a container. Started beside a container and by the agent, not by hand.

fn main() {
    if std::env::args().any(|word| word == "--version") {
        println!("meseta-docker {}", env!("CARGO_PKG_VERSION"));
        return;
    }
    std::process::exit(agent_docker::run());
}
