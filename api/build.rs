//! Compiles the schema in `proto/` with a pure-Rust compiler: no protoc to install.

#[path = "build/json.rs"]
mod json;
#[path = "build/model.rs"]
mod model;
#[path = "build/names.rs"]
mod names;

use std::error::Error;
use std::path::Path;

const FILES: &[&str] = &[
    "proto/mesos/v1/mesos.proto",
    "proto/mesos/v1/agent/agent.proto",
    "proto/mesos/v1/allocator/allocator.proto",
    "proto/mesos/v1/executor/executor.proto",
    "proto/mesos/v1/maintenance/maintenance.proto",
    "proto/mesos/v1/master/master.proto",
    "proto/mesos/v1/quota/quota.proto",
    "proto/mesos/v1/resource_provider/resource_provider.proto",
    "proto/mesos/v1/scheduler/scheduler.proto",
    "proto/meseta/internal.proto",
];

/// Large, and mostly not there: a struct holds a pointer to them, so that a list of such structs stays small.
const BOXED: &[&str] = &[
    ".mesos.v1.Resource.disk",
    ".mesos.v1.TaskInfo.container",
    ".mesos.v1.TaskInfo.health_check",
    ".mesos.v1.TaskInfo.check",
    ".mesos.v1.TaskInfo.discovery",
    ".mesos.v1.Task.container",
    ".mesos.v1.Task.health_check",
    ".mesos.v1.Task.discovery",
    ".mesos.v1.ExecutorInfo.container",
    ".mesos.v1.Offer.Operation.launch_group",
    ".mesos.v1.Offer.Operation.grow_volume",
    ".mesos.v1.Offer.Operation.shrink_volume",
    ".mesos.v1.Offer.Operation.create_disk",
    ".mesos.v1.Offer.Operation.destroy_disk",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("wire.rs"), json::generate(&model::Model::new(&descriptors)))?;
    let mut config = prost_build::Config::new();
    // Maps in key order: what we write must not depend on a hash.
    config.btree_map(["."]).bytes(["."]);
    for field in BOXED {
        config.boxed(field);
    }
    config.include_file("schema.rs");
    config.compile_fds(descriptors)?;
    Ok(())
}
