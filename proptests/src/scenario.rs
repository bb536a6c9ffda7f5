//! Scenarios as data: a master and agents of their own, and steps, each of which does something or says what must come.
//! `proptests/testdata/README.md` says what the steps mean.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use api::resources::{Resource, Resources, parse};
use api::{json, v1};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Plan, READY};
use crate::framework::Framework;
use crate::http::{self, Answer, Request};
use crate::wait;
use tempfile::NamedTempFile;

/// How long one look for an event lasts: what was found meanwhile counts, too.
const LOOK: Duration = Duration::from_millis(50);
/// Between two allocation runs, unless the scenario says.
const INTERVAL_MS: u64 = 50;

/// Who is known where somebody is asked who they are: what a scenario calls them, principal, secret.
const KNOWN: [(&str, &str, &str); 2] =
    [("default", "test-principal", "test-secret"), ("second", "test-principal-2", "test-secret-2")];
/// Does not end when it is asked to, for as long as it is asked.
const UNKILLABLE: &str = "trap '' TERM; while true; do sleep 1; done";

/// Plays one, to its end.
///
/// # Panics
/// With the number of the step that did not come out as it says.
pub fn play(scenario: &Value) {
    let mut run = Run::new(scenario);
    for (number, step) in scenario["steps"].as_array().expect("steps").iter().enumerate() {
        let step = run.filled(step);
        if let Err(why) = run.step(&step) {
            panic!("{} step {}, {}: {why}", scenario["id"], number + 1, step["op"]);
        }
    }
}

type Played = Result<(), String>;

struct Run {
    cluster: Cluster,
    /// Somebody is asked who they are.
    asks: bool,
    /// The file of those who are known, for as long as a master may read it.
    _credentials: Option<NamedTempFile>,
    /// What each agent of the scenario is called here, and its id.
    agents: BTreeMap<String, (String, String)>,
    frameworks: BTreeMap<String, Player>,
    offers: BTreeMap<String, Value>,
}

/// A framework with all that it was told.
struct Player {
    speaker: Framework,
    events: Vec<Value>,
    /// Of these events it has spoken before.
    seen: usize,
    /// Updates of each task that were expected already.
    updates: BTreeMap<String, usize>,
    /// Offers that nobody took up yet, with how many came with each.
    offers: Vec<(Value, usize)>,
    rescinded: usize,
}

fn text<'a>(step: &'a Value, key: &str) -> &'a str {
    step[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.as_array().into_iter().flatten()
}

/// Text, a Resource object, or a list of such, which is their sum; without the role that they are allocated to.
fn resources(value: &Value) -> Resources {
    match value {
        Value::Null => Resources::new(),
        Value::String(text) => parse(text, "*").unwrap_or_else(|error| panic!("{text}: {error}")).resources,
        Value::Array(items) => items.iter().map(resources).fold(Resources::new(), |sum, item| sum.plus(&item)),
        one => {
            let message: v1::Resource = json::from_value(one).expect("a Resource");
            [Resource::from_v1(&message).expect("a resource")].into_iter().collect::<Resources>().unallocate()
        }
    }
}

fn is_resource(value: &Value) -> bool {
    value["name"].is_string() && ["SCALAR", "RANGES", "SET"].contains(&text(value, "type"))
}

/// Where `got` lacks something of `wanted`; an object may have more, a list has as many items.
fn lacks(wanted: &Value, got: &Value, at: &str) -> Option<String> {
    match (wanted, got) {
        (Value::Object(wanted), Value::Object(got)) => wanted
            .iter()
            .find_map(|(name, wanted)| lacks(wanted, got.get(name).unwrap_or(&Value::Null), &format!("{at}.{name}"))),
        (Value::Array(items), Value::Array(_)) if !items.is_empty() && items.iter().all(is_resource) => {
            let (wanted, got) = (resources(wanted), resources(got));
            (wanted != got).then(|| format!("{at} is {got}, not {wanted}"))
        }
        (Value::Array(wanted), Value::Array(got)) if wanted.len() == got.len() => {
            let mut pairs = wanted.iter().zip(got).enumerate();
            pairs.find_map(|(index, (wanted, got))| lacks(wanted, got, &format!("{at}[{index}]")))
        }
        (Value::Number(wanted), Value::Number(got)) if wanted.as_f64() == got.as_f64() => None,
        (wanted, got) if wanted == got => None,
        (wanted, got) => Some(format!("{at} is {got}, not {wanted}")),
    }
}

impl Player {
    fn take(&mut self, event: Value) {
        match text(&event, "type") {
            "OFFERS" => {
                let offers: Vec<Value> = list(&event["offers"]["offers"]).cloned().collect();
                let count = offers.len();
                self.offers.extend(offers.into_iter().map(|offer| (offer, count)));
            }
            "RESCIND" => {
                self.rescinded += 1;
                self.offers.retain(|(offer, _)| offer["id"] != event["rescind"]["offer_id"]);
            }
            "UPDATE" => self.speaker.acknowledge(&event["update"]["status"]),
            _ => {}
        }
        self.events.push(event);
    }

    /// The first that `found` gives, of what there is and what comes.
    fn wait<T>(&mut self, what: &str, mut found: impl FnMut(&mut Player) -> Option<T>) -> Result<T, String> {
        let start = std::time::Instant::now();
        loop {
            if let Some(found) = found(self) {
                return Ok(found);
            }
            if start.elapsed() > READY {
                let events: Vec<String> = self.events.iter().rev().take(4).map(Value::to_string).collect();
                return Err(format!("{what} did not come; the last events: {}", events.join("\n")));
            }
            if let Some(event) = self.speaker.event(LOOK) {
                self.take(event);
            }
        }
    }

    fn update(&mut self, task: &str) -> Result<Value, String> {
        let at = self.updates.get(task).copied().unwrap_or_default();
        let status = self.wait(&format!("an update of {task}"), |player| {
            let updates = player.events.iter().filter(|event| event["type"] == "UPDATE");
            let mut of_task =
                updates.map(|event| &event["update"]["status"]).filter(|it| it["task_id"]["value"] == task);
            of_task.nth(at).cloned()
        })?;
        self.updates.insert(task.to_owned(), at + 1);
        Ok(status)
    }
}

impl Run {
    fn new(scenario: &Value) -> Run {
        let mut flags = scenario["master"].as_object().cloned().unwrap_or_default();
        // Both are so, always.
        flags.remove("registry");
        flags.remove("authenticate_frameworks");
        let asks = flags.contains_key("acls") || list(&scenario["steps"]).any(|step| step.get("auth").is_some());
        if asks {
            for door in ["readonly", "readwrite", "frameworks"] {
                flags.entry(format!("authenticate_http_{door}")).or_insert(true.into());
            }
            let known = KNOWN.map(|(_, principal, secret)| json!({"principal": principal, "secret": secret}));
            flags.entry("credentials").or_insert_with(|| json!({"credentials": known}));
        }
        if flags.get("authenticate_http_frameworks").is_some_and(|is_on| *is_on == true) {
            flags.insert("http_framework_authenticators".to_owned(), "basic".into());
        }
        flags.retain(|_, value| !value.is_null());
        let credentials = flags.get("credentials").map(|known| {
            let mut file = NamedTempFile::new().expect("a file");
            file.write_all(known.to_string().as_bytes()).expect("credentials");
            file
        });
        if let Some(file) = &credentials {
            flags.insert("credentials".to_owned(), file.path().to_str().expect("UTF-8").into());
        }
        let interval = flags.remove("allocation_interval_ms").and_then(|ms| ms.as_u64()).unwrap_or(INTERVAL_MS);
        let mut plan = Plan::new().master_flag(&format!("--allocation_interval={interval}ms"));
        if list(&scenario["steps"]).any(|step| step["op"] == "wait_unreachable") {
            plan = plan.master_flag("--agent_ping_timeout=1secs").master_flag("--max_agent_ping_timeouts=2");
        }
        for (name, value) in &flags {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            plan = plan.master_flag(&format!("--{name}={value}"));
        }
        let nobody = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Run {
            cluster: plan.start(),
            asks,
            _credentials: credentials,
            agents: nobody.0,
            frameworks: nobody.1,
            offers: nobody.2,
        }
    }

    /// What somebody says who they are: `auth` is what the scenario calls them, or an object with principal and secret;
    /// null for nobody. Where nobody is asked, nobody says it.
    fn authorization(&self, auth: &Value) -> Option<String> {
        let known = |name: &str| KNOWN.into_iter().find(|one| one.0 == name);
        match auth {
            _ if !self.asks => None,
            Value::Object(_) => Some(http::basic(text(auth, "principal"), text(auth, "secret"))),
            Value::String(name) => known(name).map(|(_, principal, secret)| http::basic(principal, secret)),
            _ => None,
        }
    }

    /// What the master answers the first of those whom it knows.
    fn told(&self, request: Request) -> Option<Value> {
        let request = request.authorized(self.authorization(&json!("default")).as_deref());
        let answer = http::send(self.cluster.address("m0"), &request).ok()?;
        (answer.status() == 200).then(|| answer.json())
    }

    /// `$agent:a1`, `$framework:f1` and `$offer:o1` are their ids.
    fn filled(&self, value: &Value) -> Value {
        match value {
            Value::Object(fields) => fields
                .iter()
                .map(|(name, field)| (name.clone(), self.filled(field)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            Value::Array(items) => items.iter().map(|item| self.filled(item)).collect(),
            Value::String(text) if text.contains('$') => {
                let agents = self.agents.iter().map(|(name, (_, id))| ("agent", name, id.clone()));
                let frameworks = self.frameworks.iter().map(|(name, one)| ("framework", name, one.speaker.id.clone()));
                let id = |offer: &Value| offer["id"]["value"].as_str().unwrap_or_default().to_owned();
                let offers = self.offers.iter().map(|(name, offer)| ("offer", name, id(offer)));
                let all = agents.chain(frameworks).chain(offers);
                all.fold(text.clone(), |text, (kind, name, id)| text.replace(&format!("${kind}:{name}"), &id)).into()
            }
            other => other.clone(),
        }
    }

    fn step(&mut self, step: &Value) -> Played {
        match text(step, "op") {
            "start_agent" => self.start_agent(step),
            "stop_agent" | "disconnect_agent" => self.stop_agent(step),
            "restart_agent" => self.restart_agent(step),
            "wait_unreachable" => self.until_metric("master/slaves_unreachable", |count| count > 0.0),
            "expect_agent_shutdown" => {
                let (name, _) = self.agents[text(step, "agent")].clone();
                self.cluster.wait_end(&name);
                Ok(())
            }
            "restart_master" => {
                // Both of its doors, at once.
                self.cluster.kill("m0");
                for (flag, value) in step["flags"].as_object().into_iter().flatten() {
                    self.cluster.set_flag("m0", flag, value.as_str());
                }
                self.cluster.restart("m0");
                wait::until("a master that serves", READY, || self.told(Request::get("/slaves")));
                Ok(())
            }
            "expect_agent_told" => self.agent_told(step),
            "expect_json_empty" => self.json_empty(step),
            "http" => self.http(step),
            "expect_metrics" => self.metrics(step),
            "subscribe" | "resubscribe" => self.subscribe(step),
            _ => self.by_framework(step),
        }
    }

    // agents

    fn metric(&self, name: &str) -> f64 {
        let told = self.told(Request::get("/metrics/snapshot")).unwrap_or_default();
        told[name].as_f64().unwrap_or_default()
    }

    fn until_metric(&self, name: &str, is_there: impl Fn(f64) -> bool) -> Played {
        wait::until(name, READY, || is_there(self.metric(name)).then_some(()));
        Ok(())
    }

    fn start_agent(&mut self, step: &Value) -> Played {
        let name = self.cluster.add_agent(text(step, "resources"));
        let port = self.cluster.address(&name).port();
        let id = wait::until("an agent that registered", READY, || {
            let listed = self.listed(port)?;
            listed["agent_info"]["id"]["value"].as_str().map(str::to_owned)
        });
        self.agents.insert(text(step, "agent").to_owned(), (name, id));
        Ok(())
    }

    /// What GET_AGENTS says of the agent on `port`.
    fn listed(&self, port: u16) -> Option<Value> {
        let told = self.told(Request::post_json("/api/v1", r#"{"type": "GET_AGENTS"}"#))?;
        list(&told["get_agents"]["agents"]).find(|agent| agent["agent_info"]["port"] == port).cloned()
    }

    /// Until the agent has what it was told, or has done it.
    fn agent_told(&self, step: &Value) -> Played {
        let (name, _) = &self.agents[text(step, "agent")];
        let port = self.cluster.address(name).port();
        wait::until(&format!("{name} to be told to {}", text(step, "what")), READY, || {
            let is_done = || self.listed(port).is_some_and(|agent| agent["drain_info"]["state"] == "DRAINED");
            (self.cluster.log(name).to_lowercase().contains(text(step, "what")) || is_done()).then_some(())
        });
        Ok(())
    }

    fn stop_agent(&mut self, step: &Value) -> Played {
        let before = self.metric("master/slaves_connected");
        let (name, _) = self.agents[text(step, "agent")].clone();
        self.cluster.kill(&name);
        self.until_metric("master/slaves_connected", |count| count < before)
    }

    fn restart_agent(&mut self, step: &Value) -> Played {
        let before = self.metric("master/slaves_connected");
        let (name, _) = self.agents[text(step, "agent")].clone();
        let given = ["resources", "attributes", "reconfiguration_policy"];
        for (flag, value) in given.iter().filter_map(|flag| Some((flag, step[flag].as_str()?))) {
            self.cluster.set_flag(&name, flag, Some(value));
        }
        self.cluster.restart(&name);
        if step["expect"] == "refused" {
            let ended = self.cluster.wait_end(&name);
            return if ended.success() { Err(format!("{name} {ended}")) } else { Ok(()) };
        }
        self.until_metric("master/slaves_connected", |count| count > before)
    }

    // what anybody asks

    fn http(&self, step: &Value) -> Played {
        let wanted = &step["expect"];
        let body = match &step["form"] {
            Value::Object(fields) => {
                let pair = |(name, value): (&String, &Value)| {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    let escaped: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
                    format!("{name}={escaped}")
                };
                fields.iter().map(pair).collect::<Vec<_>>().join("&")
            }
            _ if step["json_body"].is_null() => text(step, "raw_body").to_owned(),
            _ => step["json_body"].to_string(),
        };
        let kind = if step["form"].is_object() { "application/x-www-form-urlencoded" } else { "application/json" };
        let mut request =
            Request { method: text(step, "method").into(), path: text(step, "path").into(), ..Request::default() };
        if !body.is_empty() {
            request = request.header("Content-Type", kind);
        }
        if request.path.starts_with("/api/") {
            request = request.header("Accept", "application/json");
        }
        request.body = body.into_bytes();
        // Who does not say who asks is the first of those who are known.
        let auth = step.get("auth").cloned().unwrap_or_else(|| json!("default"));
        let request = request.authorized(self.authorization(&auth).as_deref());
        let at = step["on_agent"].as_str().map_or("m0", |agent| &self.agents[agent].0);
        let ask = || {
            let answer = http::send(self.cluster.address(at), &request).map_err(|error| error.to_string())?;
            is_answered(step, &answer)
        };
        if step["eventually"] != true {
            return ask();
        }
        wait::until(&format!("{}: {wanted}", text(step, "path")), READY, || ask().ok());
        Ok(())
    }

    fn json_empty(&self, step: &Value) -> Played {
        let told = self.told(Request::get(text(step, "path"))).ok_or("no answer")?;
        let found = list(&told[text(step, "field")]).next();
        found.map_or(Ok(()), |one| Err(one.to_string()))
    }

    fn metrics(&self, step: &Value) -> Played {
        wait::until(&format!("metrics {step}"), READY, || {
            let told = self.told(Request::get("/metrics/snapshot"))?;
            let are_equal = lacks(step.get("equal").unwrap_or(&json!({})), &told, "$").is_none();
            (are_equal && list(&step["absent"]).all(|name| told.get(name.as_str().unwrap_or_default()).is_none()))
                .then_some(())
        });
        Ok(())
    }

    // frameworks

    fn subscribe(&mut self, step: &Value) -> Played {
        let name = text(step, "framework");
        let capabilities = list(&step["capabilities"]).map(|one| one.as_str().unwrap_or_default());
        let capabilities = ["MULTI_ROLE", "RESERVATION_REFINEMENT"].into_iter().chain(capabilities);
        let capabilities: Vec<Value> = capabilities.map(|one| json!({ "type": one })).collect();
        let mut info = json!({"user": "root", "name": name, "roles": step["roles"], "capabilities": capabilities,
            "principal": "test-principal", "checkpoint": step["checkpoint"] == true, "failover_timeout": 3600.0});
        for field in ["principal", "failover_timeout"] {
            if let Some(value) = step.get(field) {
                info[field] = value.clone();
            }
        }
        if info["principal"].is_null() {
            info.as_object_mut().expect("an object").remove("principal");
        }
        let secret = KNOWN.into_iter().find(|one| info["principal"] == one.1).or(Some(KNOWN[0]));
        let shown = secret.filter(|_| self.asks && step["authenticate"] != false);
        let shown = shown.map(|(_, principal, secret)| http::basic(principal, secret));
        if let Some(before) = self.frameworks.remove(name) {
            info["id"] = json!({"value": before.speaker.id});
        }
        let speaker = match Framework::try_subscribe_as(self.cluster.address("m0"), &info, shown) {
            Ok(_) if step["expect"] == "error" => return Err("it subscribed".to_owned()),
            Ok(speaker) => speaker,
            Err(_) if step["expect"] == "error" => return Ok(()),
            Err(why) => return Err(why),
        };
        let (events, offers) = (Vec::new(), Vec::new());
        let player = Player { speaker, events, seen: 0, updates: BTreeMap::new(), offers, rescinded: 0 };
        self.frameworks.insert(name.to_owned(), player);
        Ok(())
    }

    /// So many allocation runs later: whatever they led to was told.
    fn after_runs(&mut self, name: &str, runs: f64) -> Played {
        let until = self.metric("allocator/mesos/allocation_runs") + runs;
        self.until_metric("allocator/mesos/allocation_runs", |count| count >= until)?;
        let player = self.frameworks.get_mut(name).expect("a framework");
        while let Some(event) = player.speaker.event(LOOK) {
            player.take(event);
        }
        Ok(())
    }

    fn by_framework(&mut self, step: &Value) -> Played {
        let name = text(step, "framework").to_owned();
        let agent = self.agents.get(text(step, "agent")).map(|(_, id)| id.clone());
        let offer = self.offers.get(text(step, "offer")).cloned().unwrap_or_default();
        if text(step, "op") == "expect_no_offer" {
            self.after_runs(&name, 3.0)?;
        }
        if text(step, "op") == "expect_no_event" {
            self.after_runs(&name, 1.0)?;
        }
        let player = self.frameworks.get_mut(&name).ok_or("no such framework")?;
        let task = text(step, "task");
        match text(step, "op") {
            "expect_offer" | "next_offer" => {
                let wanted = format!("an offer {step}");
                let found = player.wait(&wanted, |player| {
                    let of = |offer: &Value| agent.as_ref().is_none_or(|id| offer["agent_id"]["value"] == **id);
                    let at = player.offers.iter().position(|(offer, count)| of(offer) && fits(step, offer, *count))?;
                    Some(player.offers.remove(at).0)
                })?;
                let kept = step["save_as"].as_str().map(str::to_owned);
                kept.map(|kept| self.offers.insert(kept, found));
            }
            "expect_offers" | "expect_first_offers" => {
                let least = step.get("min").or(step.get("count")).and_then(Value::as_u64).unwrap_or(1);
                let most = step.get("max").or(step.get("count")).and_then(Value::as_u64).unwrap_or(u64::MAX);
                let event = player.wait("an event with offers", |player| {
                    let (first, count) = player.offers.first().cloned()?;
                    player.offers.drain(..count.min(player.offers.len()));
                    Some((first, count as u64))
                })?;
                if !(least..=most).contains(&event.1) {
                    return Err(format!("{} offers in the event", event.1));
                }
                let held = event.0["resources"].clone();
                for (kind, wanted) in step["first_offer_scalars"].as_object().into_iter().flatten() {
                    let of_kind = list(&held).filter(|one| one["name"] == **kind);
                    let sum: f64 = of_kind.filter_map(|one| one["scalar"]["value"].as_f64()).sum();
                    if Some(sum) != wanted.as_f64() {
                        return Err(format!("{kind}:{sum} in the first offer"));
                    }
                }
            }
            "expect_no_offer" if player.offers.is_empty() => {}
            "expect_no_offer" => return Err(format!("{:?}", player.offers)),
            "forget_offers" => player.offers.clear(),
            "accept" => {
                let mut accept = json!({"offer_ids": [offer["id"]], "operations": operations(step, &offer)});
                if step["refuse_seconds"].is_number() {
                    accept["filters"] = json!({"refuse_seconds": step["refuse_seconds"]});
                }
                player.speaker.call(json!({"type": "ACCEPT", "accept": accept}));
            }
            "decline" => player.speaker.call(json!({"type": "DECLINE", "decline":
                {"offer_ids": [offer["id"]], "filters": {"refuse_seconds": step["refuse_seconds"]}}})),
            "suppress" => player.speaker.call(json!({"type": "SUPPRESS"})),
            "revive" => player.speaker.call(json!({"type": "REVIVE"})),
            "teardown" => player.speaker.teardown(),
            "kill" => player.speaker.call(json!({"type": "KILL", "kill": {"task_id": {"value": task}}})),
            "call" => {
                let answer = player.speaker.try_call(step["call"].clone());
                let wanted = step.get("expect").cloned().unwrap_or_else(|| json!({"status": 202}));
                if wanted["status"] != answer.status() || !answer.text().contains(text(&wanted, "body_contains")) {
                    return Err(format!("{} {}", answer.status(), answer.text()));
                }
            }
            "expect_updates" => {
                for state in list(&step["states"]) {
                    while player.update(task)?["state"] != *state {}
                }
            }
            "expect_update" => {
                let status = player.update(task)?;
                let mut part = json!({"state": step["state"]});
                if step["reason"].is_string() {
                    part["reason"] = step["reason"].clone();
                }
                lacks(&part, &status, "status").map_or(Ok(()), Err)?;
                if !text(&status, "message").contains(text(step, "message_contains")) {
                    return Err(status.to_string());
                }
                if let Some(message) = step.get("message").filter(|message| status["message"] != **message) {
                    return Err(format!("{status}, not {message}"));
                }
            }
            "expect_rescinds" => {
                let count = step["count"].as_u64().unwrap_or_default() as usize;
                player.wait("a rescinded offer", |player| (player.rescinded >= count).then_some(()))?;
                if player.rescinded != count {
                    return Err(format!("{} offers are rescinded", player.rescinded));
                }
                player.rescinded = 0;
            }
            "mark" => {
                while let Some(event) = player.speaker.event(LOOK) {
                    player.take(event);
                }
                player.seen = player.events.len();
            }
            "expect_event" => {
                let part = step.get("json_contains").cloned().unwrap_or_else(|| json!({}));
                let at = player.wait(&format!("{} {part}", step["type"]), |player| {
                    let mut rest = player.events.iter().enumerate().skip(player.seen);
                    let is_it = |event: &Value| {
                        event["type"] == step["type"]
                            && lacks(&part, event, "$").is_none()
                            && event.to_string().contains(text(step, "message_contains"))
                    };
                    rest.find(|(_, event)| is_it(event)).map(|it| it.0)
                })?;
                player.seen = at + 1;
                let inverse = player.events[at]["inverse_offers"]["inverse_offers"][0].clone();
                let kept = step["save_inverse"].as_str().map(str::to_owned);
                kept.map(|kept| self.offers.insert(kept, inverse));
            }
            "expect_no_event" => {
                if let Some(event) = player.events[player.seen..].iter().find(|event| event["type"] == step["type"]) {
                    return Err(event.to_string());
                }
            }
            other => return Err(format!("there is no step {other}")),
        }
        Ok(())
    }
}

/// Whether an answer is what a step says.
fn is_answered(step: &Value, answer: &Answer) -> Played {
    let wanted = &step["expect"];
    let said = answer.text();
    if wanted["status"] != answer.status() {
        return Err(format!("{} {said}", answer.status()));
    }
    let kind = answer.head.header("content-type");
    if wanted["content_type"].as_str().is_some_and(|wanted| Some(wanted) != kind) {
        return Err(format!("{kind:?} {said}"));
    }
    if wanted["body"].as_str().is_some_and(|body| body != said) || !said.contains(text(wanted, "body_contains")) {
        return Err(said);
    }
    let told: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let differs = |json: &Value, told: &Value| lacks(json, told, "$").or_else(|| lacks(told, json, "$"));
    if let Some(why) = wanted.get("json").and_then(|json| differs(json, &told)) {
        return Err(format!("{told}: {why}"));
    }
    for (path, above) in wanted["json_greater"].as_object().into_iter().flatten() {
        let at = format!("/{}", path.replace(['.', '['], "/").replace(']', ""));
        if told.pointer(&at).and_then(Value::as_f64) <= above.as_f64() {
            return Err(format!("{path} is not above {above}: {told}"));
        }
    }
    if let Some(fields) = step["json_fields_equal"].as_object() {
        let named: serde_json::Map<_, _> = told.as_object().cloned().unwrap_or_default();
        let named = named.into_iter().filter(|(name, _)| fields.contains_key(name)).collect();
        differs(&step["json_fields_equal"], &Value::Object(named)).map_or(Ok(()), Err)?;
    }
    if step["weights_equal"].is_object() {
        let pairs = list(&told).map(|one| (text(one, "role").to_owned(), one["weight"].clone()));
        differs(&step["weights_equal"], &Value::Object(pairs.collect())).map_or(Ok(()), Err)?;
    }
    wanted.get("json_contains").and_then(|part| lacks(part, &told, "$")).map_or(Ok(()), Err)
}

/// Whether an offer is what a step says.
fn fits(step: &Value, offer: &Value, count: usize) -> bool {
    let held = resources(&offer["resources"]);
    let volumes = step.get("volumes_equal").map(resources);
    held.contains(&resources(&step["contains"]))
        && list(&step["not_contains"]).all(|value| !held.contains(&resources(value)))
        && volumes.is_none_or(|volumes| held.persistent_volumes() == volumes)
        && step["count"].as_u64().is_none_or(|wanted| wanted == count as u64)
}

/// Operations as the API has them; LAUNCH is short for a command task.
fn operations(step: &Value, offer: &Value) -> Vec<Value> {
    let launch = |task: &Value| {
        let all = || offer["resources"].clone();
        let some = || resources(&task["resources"]).to_v1(api::resources::Format::PostRefinement);
        let held = if task["resources"] == "$offer" { all() } else { some().iter().map(json::to_value).collect() };
        let mut info = json!({"name": task["id"], "task_id": {"value": task["id"]}, "agent_id": offer["agent_id"],
            "resources": held, "command": {"value": task["command"]}});
        if task["command"] == "$unkillable" {
            info["command"]["value"] = UNKILLABLE.into();
            info["kill_policy"] = json!({"grace_period": {"nanoseconds": 600_000_000_000_u64}});
        }
        for (name, value) in task["with"].as_object().into_iter().flatten() {
            info[name] = value.clone();
        }
        info.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
        json!({"type": "LAUNCH", "launch": {"task_infos": [info]}})
    };
    let of = |one: &Value| if one["type"] == "LAUNCH" { launch(&one["task"]) } else { one.clone() };
    list(&step["operations"]).map(of).collect()
}
