//! Tests with an engine.

use std::path::Path;

use crate::common::{Master, RealAgent};
use crate::engine::Engine;

/// Runs a test with an engine, where there can be one.
pub(crate) fn with_engine(what: &str, flags: &[&str], test: impl AsyncFnOnce(&mut Engine)) {
    let Some(mut engine) = Engine::start(what, flags) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test(&mut engine));
}

impl Engine {
    pub(crate) fn agent(&self, master: &Master, work_dir: &Path, more: &[&str]) -> RealAgent {
        let socket = format!("--docker_socket={}", self.socket());
        let mut flags = vec![socket.as_str()];
        if !more.iter().any(|flag| flag.starts_with("--containerizers")) {
            flags.push("--containerizers=mesos,docker");
        }
        if !more.iter().any(|flag| flag.starts_with("--resources")) {
            flags.push("--resources=cpus:4;mem:1024;disk:1024;ports:[31000-31999]");
        }
        flags.extend(more);
        RealAgent::start(&master.address, work_dir, &flags)
    }
}
