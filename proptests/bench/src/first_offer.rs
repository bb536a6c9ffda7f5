//! How long a framework waits for its first offer, on a cluster that has nothing else to do.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proptests::cluster::Plan;
use serde_json::{Value, json};

use crate::agents::Agents;
use crate::http1::Connection;
use crate::readers::median;
use crate::report::{Report, Row};
use crate::scheduler::Framework;
use crate::{Bench, Fallible};

/// An offer that takes longer never comes.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two rounds: what they leave behind is over by then.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) fn rows(bench: &Bench, report: &mut Report) {
    report.measure(&["first_offer_ms"], "the first offer of a framework", || {
        let rounds = if bench.quick { 7 } else { 25 };
        let mut rows = Vec::new();
        for count in [1, 3] {
            let cluster = Plan::new().masters(count).start();
            let masters: Vec<SocketAddr> = cluster.masters().iter().map(|name| cluster.address(name)).collect();
            let leader = cluster.address(&cluster.leader());
            let (first, again) = bench.runtime.block_on(async {
                let _agents = Agents::register(&masters, 1, 4.0, 1024.0).await?;
                measure(leader, rounds).await
            })?;
            let masters = if count == 1 { "1 master".to_owned() } else { format!("{count} masters") };
            let row = |what: &str, times| {
                let params = format!("{masters}, 1 agent, {what}, median of {rounds}");
                Row::new("first_offer_ms", params, median(times), "ms")
            };
            rows.push(row("SUBSCRIBE on a new connection to OFFERS", first));
            rows.push(row("REVIVE to OFFERS", again));
        }
        Ok(rows)
    });
}

/// In milliseconds: of each round from SUBSCRIBE, and from REVIVE after all was declined.
async fn measure(master: SocketAddr, rounds: usize) -> Fallible<(Vec<f64>, Vec<f64>)> {
    let (mut first, mut again) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let began = Instant::now();
        let mut framework = Framework::subscribe(master, &format!("first-{round}")).await?;
        let ids = offer_ids(&mut framework).await?;
        first.push(milliseconds(began));
        let mut calls = Connection::open(master).await?;
        let filters = json!({"refuse_seconds": 3600.0});
        let decline = json!({"type": "DECLINE", "decline": {"offer_ids": ids, "filters": filters}});
        say(&mut calls, &framework, decline).await?;
        tokio::time::sleep(PAUSE).await;
        let began = Instant::now();
        say(&mut calls, &framework, json!({"type": "REVIVE"})).await?;
        offer_ids(&mut framework).await?;
        again.push(milliseconds(began));
        say(&mut calls, &framework, json!({"type": "TEARDOWN"})).await?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok((first, again))
}

async fn say(calls: &mut Connection, framework: &Framework, call: Value) -> Fallible<()> {
    let status = calls.call(&framework.request(call)).await?;
    if status == 202 { Ok(()) } else { Err(format!("a call is answered {status}").into()) }
}

/// What the next OFFERS holds.
async fn offer_ids(framework: &mut Framework) -> Fallible<Vec<Value>> {
    let next = async {
        loop {
            let event = framework.event().await?;
            if event["type"] == "OFFERS" {
                let offers = event["offers"]["offers"].as_array().cloned().unwrap_or_default();
                return Ok(offers.into_iter().map(|offer| offer["id"].clone()).collect());
            }
        }
    };
    tokio::time::timeout(PATIENCE, next).await.map_err(|_| "no offer came")?
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}
