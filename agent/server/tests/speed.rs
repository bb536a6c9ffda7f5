//! How long a task takes and how many an agent runs. Prints what it measured; the bounds are far above what an idle
//! machine shows, because tests run on busy ones. `cargo test --release --test speed -- --ignored --nocapture`

mod common;

use std::time::Instant;

use api::v1::TaskState;
use common::{Master, RealAgent, task};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn tasks_are_fast() {
    let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
    let agent = RealAgent::start(&master.address, dir.path(), &["--logging_level=ERROR"]);
    master.launch(task("warm", "true"));
    master.update("warm", TaskState::TaskFinished).await;
    let (mut running, mut finished) = (Vec::new(), Vec::new());
    for n in 0..50 {
        let (id, begin) = (format!("one{n}"), Instant::now());
        master.launch(task(&id, "true"));
        master.update(&id, TaskState::TaskRunning).await;
        running.push(begin.elapsed());
        master.update(&id, TaskState::TaskFinished).await;
        finished.push(begin.elapsed());
    }
    running.sort();
    finished.sort();
    let begin = Instant::now();
    for n in 0..500 {
        master.launch(task(&format!("many{n}"), "true"));
    }
    for n in 0..500 {
        master.update(&format!("many{n}"), TaskState::TaskFinished).await;
    }
    let rate = 500.0 / begin.elapsed().as_secs_f64();
    let status = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        text.lines().find(|line| line.starts_with("VmRSS")).unwrap().to_owned()
    };
    master.launch(task("sleeper", "sleep 1000"));
    let sleeper = master.update("sleeper", TaskState::TaskRunning).await;
    let supervisor = sleeper.container_status.unwrap().executor_pid.unwrap();
    println!("median: running {:?}, finished {:?}; {rate:.0} tasks/s", running[25], finished[25]);
    println!("agent {}; supervisor {}", status(agent.child.id()), status(supervisor));
    master.kill("sleeper");
    master.update("sleeper", TaskState::TaskKilled).await;
}
