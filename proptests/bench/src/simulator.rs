//! How fast the simulator's clusters live. It is built with virtual time, which no other program is: by its own script.

use std::process::Command;

use crate::report::{Report, Row};
use crate::{Bench, Fallible};

pub(crate) fn rows(bench: &Bench, report: &mut Report) {
    report.measure(&["sim_speed"], "the simulator", || speed(bench));
}

fn speed(bench: &Bench) -> Fallible<Vec<Row>> {
    let seeds = if bench.quick { 20 } else { 200 };
    let output = Command::new("tools/sim.sh").env("SEEDS", seeds.to_string()).output();
    let output = output.map_err(|error| format!("tools/sim.sh, from the root of the project: {error}"))?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let speed = told.split("sim_speed ").nth(1).and_then(|rest| rest.split(';').next()?.parse::<f64>().ok());
    let speed = speed.ok_or_else(|| format!("the simulator told no speed: {told}"))?;
    if !output.status.success() {
        return Err(format!("the simulator found something: {told}").into());
    }
    Ok(vec![Row::new("sim_speed", format!("{seeds} seeds on 2 threads, virtual time ÷ time"), speed, "×")])
}
