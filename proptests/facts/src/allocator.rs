//! Facts about the allocator: a book is changed step by step, and what its runs offer is compared.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use allocator::book::Unavailability;
use allocator::{
    AgentKey, AgentProfile, Amounts, Book, Capabilities, FrameworkKey, FrameworkProfile, Options, Use, Which,
};
use api::resources::{Resources, Unfit};
use serde_json::Value;

use crate::resources::{minus, resources};
use crate::sorter::{amounts, quota, weight_micro};
use crate::{Outcome, text, texts, wanted};

/// Asks one fact.
pub(crate) fn judge(fact: &Value) -> Outcome {
    let mut world = World::new(fact);
    for (number, step) in fact["steps"].as_array().into_iter().flatten().enumerate() {
        match world.step(step) {
            Outcome::Hold => {}
            Outcome::Wrong(why) => return Outcome::Wrong(format!("step {number}: {why}")),
            other => return other,
        }
    }
    Outcome::Hold
}

/// All that one framework is offered in one run: role, agent, resources.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OfferEvent {
    framework: String,
    offers: Vec<(String, String, Resources)>,
}

#[derive(Debug)]
struct InverseEvent {
    framework: String,
    agents: Vec<String>,
}

struct World {
    book: Book,
    interval_ms: u64,
    now_ms: u64,
    /// The next periodic run.
    tick_ms: u64,
    runs: u64,
    agents: BTreeMap<String, AgentKey>,
    agents_made: u64,
    profiles: BTreeMap<String, AgentProfile>,
    /// In the order of names, which breaks ties.
    frameworks: BTreeMap<String, FrameworkKey>,
    events: VecDeque<OfferEvent>,
    inverse: VecDeque<InverseEvent>,
    /// When each agent's unavailability was set, and its start.
    unavailable: BTreeMap<String, (u64, i64)>,
    last_totals: Vec<OfferEvent>,
    active: BTreeSet<String>,
}

/// The longest refusal, in seconds: a year.
const REFUSE_SECONDS_MAX: f64 = 365.0 * 24.0 * 3600.0;
const REFUSE_SECONDS: f64 = 5.0;

impl World {
    fn new(fact: &Value) -> World {
        let said = &fact["options"];
        let mut options = Options::default();
        let excluded = texts(&said["fair_sharing_excluded_resource_names"]);
        options.excluded = excluded.into_iter().map(Into::into).collect();
        if let Some(filter) = said["filter_gpu_resources"].as_bool() {
            options.filter_gpu_resources = filter;
        }
        if let Some(least) = said["min_allocatable_resources"].as_array() {
            options.min_allocatable = least.iter().map(amounts).collect();
        }
        options.region = said["domain"]["region"].as_str().or(said["region"].as_str()).map(Arc::from);
        let interval_ms = said["allocation_interval_ms"].as_u64().unwrap_or(1000);
        // Keys in the order of names, whoever comes first.
        let mut names: BTreeSet<&str> = BTreeSet::new();
        for step in fact["steps"].as_array().into_iter().flatten() {
            names.extend(step["framework"].as_str());
            let used = step["used"].as_array().into_iter().flatten();
            names.extend(used.filter_map(|used| used["framework"].as_str()));
        }
        let frameworks = names.iter().zip(0..).map(|(name, key)| ((*name).to_owned(), FrameworkKey(key)));
        World {
            book: Book::new(options),
            interval_ms,
            now_ms: 0,
            tick_ms: interval_ms,
            runs: 0,
            agents: BTreeMap::new(),
            agents_made: 0,
            profiles: BTreeMap::new(),
            frameworks: frameworks.collect(),
            events: VecDeque::new(),
            inverse: VecDeque::new(),
            unavailable: BTreeMap::new(),
            last_totals: Vec::new(),
            active: BTreeSet::new(),
        }
    }

    fn framework(&self, step: &Value) -> FrameworkKey {
        *self.frameworks.get(text(step, "framework")).unwrap_or_else(|| panic!("no framework: {step}"))
    }

    fn agent(&self, step: &Value) -> AgentKey {
        *self.agents.get(text(step, "agent")).unwrap_or_else(|| panic!("no agent: {step}"))
    }

    fn run(&mut self, agents: Option<&[AgentKey]>) {
        self.runs += 1;
        let only: Option<BTreeSet<AgentKey>> = agents.map(|agents| agents.iter().copied().collect());
        let which = only.as_ref().map_or(Which::All, Which::Only);
        let run = self.book.run(self.now_ms, self.runs, which);
        let name_of = |key: AgentKey| {
            self.agents.iter().find(|(_, each)| **each == key).map_or_else(String::new, |(name, _)| name.clone())
        };
        for (name, key) in &self.frameworks {
            let mut event = OfferEvent { framework: name.clone(), offers: Vec::new() };
            for ((framework, role), offers) in &run.offers {
                if framework == key {
                    let offers = offers.iter();
                    event.offers.extend(
                        offers.map(|offer| (role.to_string(), name_of(offer.agent), offer.resources.unallocate())),
                    );
                }
            }
            if !event.offers.is_empty() {
                event.offers.sort();
                self.events.push_back(event);
            }
            let agents: Vec<String> =
                run.inverse.iter().filter(|(of, _)| of == key).map(|(_, agent)| name_of(*agent)).collect();
            if !agents.is_empty() {
                self.inverse.push_back(InverseEvent { framework: name.clone(), agents });
            }
        }
    }

    fn step(&mut self, step: &Value) -> Outcome {
        match text(step, "op") {
            "add_agent" => self.add_agent(step),
            "update_agent" => self.update_agent(step),
            "remove_agent" => {
                let key = self.agent(step);
                self.book.remove_agent(key);
                self.agents.remove(text(step, "agent"));
            }
            "add_resource_provider" => {
                let key = self.agent(step);
                let total = self.book.total(key).cloned().unwrap_or_default();
                self.book.set_total(key, total.plus(&resources(&step["total"])));
                self.use_on(key, &step["used"]);
            }
            "add_framework" => self.add_framework(step),
            "update_framework" => {
                let key = self.framework(step);
                let mut profile = self.profile(step);
                if step["capabilities"].is_null() {
                    profile.capabilities = self.capabilities(key);
                }
                self.book.update_framework(key, profile);
            }
            "remove_framework" => {
                let key = self.framework(step);
                self.active.remove(text(step, "framework"));
                self.book.remove_framework(key);
            }
            "activate_framework" | "deactivate_framework" => {
                let key = self.framework(step);
                let active = text(step, "op") == "activate_framework";
                self.book.set_active(key, active);
                if active {
                    self.run(None);
                }
            }
            "suppress" | "revive" => {
                let key = self.framework(step);
                let mut roles: Vec<String> = texts(&step["roles"]).into_iter().map(str::to_owned).collect();
                if roles.is_empty() {
                    roles = self.book.roles_of(key).iter().map(|role| role.to_string()).collect();
                }
                let revive = text(step, "op") == "revive";
                for role in &roles {
                    if revive { self.book.revive(key, role) } else { self.book.suppress(key, role) }
                }
                if revive {
                    self.run(None);
                }
            }
            "set_quota" => self.book.set_quota(text(step, "role"), quota(step)),
            "set_weight" => self.book.set_weight(text(step, "role"), weight_micro(step)),
            "set_whitelist" => {
                let hostnames = &step["hostnames"];
                let names = texts(hostnames).into_iter().map(Arc::from).collect();
                self.book.set_whitelist((!hostnames.is_null()).then_some(names));
            }
            "set_unavailability" => {
                let key = self.agent(step);
                self.set_unavailable(text(step, "agent"), step["start_in_ms"].as_i64());
                self.run(Some(&[key]));
            }
            "recover" => self.recover(step, &step["resources"], step["refuse_seconds"].as_f64()),
            "convert_allocation" => return self.convert(step),
            "operate_available" => return self.operate(step),
            "settle" | "expect_alive" => {}
            "advance" => self.advance(step["ms"].as_u64().unwrap_or_default()),
            "expect" => return self.expect(&step["events"]),
            "expect_one_of" => return self.expect_one_of(step),
            "expect_none" => return wanted(self.events.is_empty(), || format!("there are {:?}", self.events)),
            "expect_count" => {
                let count = self.events.len() as u64;
                self.events.clear();
                return wanted(step["events"] == count, || format!("{count} events, not {}", step["events"]));
            }
            "expect_totals" => return self.expect_totals(step),
            "recover_last" => {
                for event in std::mem::take(&mut self.last_totals) {
                    for (role, agent, held) in event.offers {
                        let (framework, agent) = (self.frameworks[&event.framework], self.agents[&agent]);
                        self.give_back(framework, agent, &role, &held);
                        self.refuse(framework, agent, &role, &held, step["refuse_seconds"].as_f64());
                    }
                }
            }
            "take_turns" => return self.take_turns(step),
            "expect_inverse" => return self.expect_inverse(step),
            "expect_no_inverse" => return wanted(self.inverse.is_empty(), || format!("there are {:?}", self.inverse)),
            "expect_metrics" => {
                let figures = self.metrics();
                for (key, expected) in step["equal"].as_object().into_iter().flatten() {
                    let (is, expected) = (figures.get(key), expected.as_f64().unwrap_or(f64::NAN));
                    if is.is_none_or(|is| (is - expected).abs() > 1e-9) {
                        return Outcome::Wrong(format!("{key} is {is:?}, not {expected}"));
                    }
                }
                let there: Vec<&str> =
                    texts(&step["absent"]).into_iter().filter(|key| figures.contains_key(*key)).collect();
                return wanted(there.is_empty(), || format!("there are {there:?}"));
            }
            "expect_metrics_same" => {
                let figures = self.metrics();
                let values: Vec<Option<&f64>> = texts(&step["keys"]).into_iter().map(|key| figures.get(key)).collect();
                let same = values.windows(2).all(|pair| pair[0] == pair[1]) && values.iter().all(Option::is_some);
                return wanted(same, || format!("{values:?}"));
            }
            other => return Outcome::Cannot(format!("there is no step {other}")),
        }
        Outcome::Hold
    }

    fn metrics(&self) -> BTreeMap<String, f64> {
        let figures = self.book.metrics().into_iter();
        let mut figures: BTreeMap<String, f64> =
            figures.map(|(key, figure)| (key, figure.numerator as f64 / figure.denominator as f64)).collect();
        figures.insert("allocator/mesos/allocation_runs".to_owned(), self.runs as f64);
        for key in ["allocator/mesos/event_queue_dispatches", "allocator/event_queue_dispatches"] {
            figures.insert(key.to_owned(), 0.0);
        }
        figures
    }

    // Agents.

    fn agent_profile(&self, step: &Value, before: AgentProfile) -> AgentProfile {
        let mut profile = before;
        match &step["capabilities"] {
            Value::Null => {}
            Value::Array(_) => {
                let able = texts(&step["capabilities"]);
                profile.multi_role = able.contains(&"MULTI_ROLE");
                profile.hierarchical_role = able.contains(&"HIERARCHICAL_ROLE");
            }
            _ => (profile.multi_role, profile.hierarchical_role) = (true, true),
        }
        if let Some(attributes) = step["attributes"].as_str() {
            let parsed = api::attributes::parse(attributes);
            profile.attributes = parsed.unwrap_or_else(|why| panic!("{attributes}: {why}")).into();
        }
        if let Some(hostname) = step["hostname"].as_str() {
            profile.hostname = hostname.into();
        }
        let domain = &step["domain"]["fault_domain"];
        if let Some(region) = step["region"].as_str().or(domain["region"]["name"].as_str()) {
            profile.region = Some(region.into());
        }
        profile
    }

    fn add_agent(&mut self, step: &Value) {
        let name = text(step, "agent").to_owned();
        let key = AgentKey(self.agents_made);
        self.agents_made += 1;
        let able = AgentProfile {
            hostname: name.as_str().into(),
            multi_role: true,
            hierarchical_role: true,
            ..AgentProfile::default()
        };
        let profile = self.agent_profile(step, able);
        self.profiles.insert(name.clone(), profile.clone());
        self.agents.insert(name.clone(), key);
        self.book.add_agent(key, profile, resources(&step["total"]));
        self.use_on(key, &step["used"]);
        if let Some(start_in_ms) = step["unavailable_in_ms"].as_i64() {
            self.set_unavailable(&name, Some(start_in_ms));
        }
        self.run(Some(&[key]));
    }

    fn use_on(&mut self, agent: AgentKey, used: &Value) {
        for used in used.as_array().into_iter().flatten() {
            let framework = self.framework(used);
            let role = used["role"].as_str();
            let mut held = resources(&used["resources"]);
            if let Some(role) = role {
                held = held.allocate(role);
            }
            self.book.hold(agent, framework, role, &held, Use::Work, 1);
        }
    }

    fn update_agent(&mut self, step: &Value) {
        let (name, key) = (text(step, "agent").to_owned(), self.agent(step));
        let profile = self.agent_profile(step, self.profiles[&name].clone());
        self.profiles.insert(name, profile.clone());
        let mut changed = self.book.set_profile(key, profile);
        if !step["total"].is_null() {
            changed |= self.book.set_total(key, resources(&step["total"]));
        }
        if changed {
            self.run(Some(&[key]));
        }
    }

    fn set_unavailable(&mut self, name: &str, start_in_ms: Option<i64>) {
        let start_ms = start_in_ms.map(|start_in_ms| self.now_ms as i64 + start_in_ms);
        let unavailability =
            start_ms.map(|start_ms| Unavailability { start_ns: start_ms * 1_000_000, duration_ns: None });
        self.book.set_unavailability(self.agents[name], unavailability);
        self.unavailable.insert(name.to_owned(), (self.now_ms, start_ms.unwrap_or_default()));
    }

    // Frameworks.

    fn profile(&self, step: &Value) -> FrameworkProfile {
        let able = texts(&step["capabilities"]);
        let can = |name: &str| able.contains(&name);
        let least = step["min_allocatable"].as_object().into_iter().flatten();
        FrameworkProfile {
            roles: texts(&step["roles"]).into_iter().map(Arc::from).collect(),
            capabilities: Capabilities {
                multi_role: true,
                // The peer's own tests do not name it, and nothing of theirs is refined.
                reservation_refinement: can("RESERVATION_REFINEMENT"),
                revocable_resources: can("REVOCABLE_RESOURCES"),
                gpu_resources: can("GPU_RESOURCES"),
                shared_resources: can("SHARED_RESOURCES"),
                region_aware: can("REGION_AWARE"),
            },
            min_allocatable: least
                .map(|(role, least)| {
                    let least: Vec<Amounts> = least.as_array().into_iter().flatten().map(amounts).collect();
                    (Arc::from(role.as_str()), least)
                })
                .collect(),
            constraints: Default::default(),
        }
    }

    fn capabilities(&self, key: FrameworkKey) -> Capabilities {
        self.book.framework_profile(key).map(|profile| profile.capabilities).unwrap_or_default()
    }

    fn add_framework(&mut self, step: &Value) {
        let key = self.framework(step);
        let active = step["active"].as_bool().unwrap_or(true);
        self.book.add_framework(key, self.profile(step), active);
        for used in step["used"].as_array().into_iter().flatten() {
            if let Some(agent) = self.agents.get(text(used, "agent")) {
                self.book.acknowledge(*agent, key, text(used, "role"));
            }
        }
        if active {
            self.run(None);
        }
    }

    // Holding and giving back.

    fn give_back(&mut self, framework: FrameworkKey, agent: AgentKey, role: &str, bare: &Resources) {
        let held = bare.allocate(role);
        let (offered, _) = self.book.holding(agent, framework, role);
        // What was offered first; what tasks use is the rest.
        let (first, rest) = (offered.intersection(&held), minus(&held, &offered));
        self.book.release(agent, framework, Some(role), &first, Use::Offer, 0);
        self.book.release(agent, framework, Some(role), &rest, Use::Work, 0);
    }

    fn refuse(&mut self, framework: FrameworkKey, agent: AgentKey, role: &str, held: &Resources, seconds: Option<f64>) {
        let Some(seconds) = seconds else { return };
        let seconds = if seconds < 0.0 || seconds.is_nan() { REFUSE_SECONDS } else { seconds.min(REFUSE_SECONDS_MAX) };
        let refuse_ms = (seconds * 1000.0).round() as u64;
        if refuse_ms == 0 {
            return;
        }
        let mut until_ms = self.now_ms + refuse_ms.max(self.interval_ms);
        // It outlives the first periodic run.
        if until_ms == self.tick_ms {
            until_ms += 1;
        }
        self.book.refuse(agent, framework, role, held, until_ms);
    }

    fn recover(&mut self, step: &Value, value: &Value, seconds: Option<f64>) {
        let (framework, role) = (self.framework(step), text(step, "role"));
        let Some(agent) = self.agents.get(text(step, "agent")).copied() else { return };
        if !self.book.has_framework(framework) {
            return;
        }
        let bare = resources(value);
        if bare.is_empty() {
            return;
        }
        self.give_back(framework, agent, role, &bare);
        self.refuse(framework, agent, role, &bare, seconds);
    }

    /// What an operation takes away, and what it puts in its place.
    fn conversion(&self, step: &Value, from: &Resources) -> Result<(Resources, Resources), Unfit> {
        if text(step, "kind") == "REPLACE" {
            return Ok((resources(&step["consumed"]), resources(&step["produced"])));
        }
        let after = operation(step, from)?;
        Ok((minus(from, &after), minus(&after, from)))
    }

    fn convert(&mut self, step: &Value) -> Outcome {
        let (framework, agent, role) = (self.framework(step), self.agent(step), text(step, "role"));
        let (offered, used) = self.book.holding(agent, framework, role);
        let held = offered.plus(&used).unallocate();
        let done = self
            .conversion(step, &held)
            .and_then(|(consumed, produced)| self.book.convert(agent, framework, role, &consumed, &produced));
        wanted(done.is_ok(), || format!("{done:?}"))
    }

    fn operate(&mut self, step: &Value) -> Outcome {
        let agent = self.agent(step);
        let done = self.book.operate(agent, |from| match text(step, "kind") {
            "REPLACE" => from.replace(&resources(&step["consumed"]), &resources(&step["produced"])),
            _ => operation(step, from),
        });
        let expected = step["expect"].as_str().unwrap_or("ok") == "ok";
        wanted(done.is_ok() == expected, || format!("{done:?}"))
    }

    // Time.

    fn advance(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        while self.tick_ms <= until_ms {
            self.now_ms = self.tick_ms;
            self.tick_ms += self.interval_ms;
            self.run(None);
        }
        self.now_ms = until_ms;
    }

    // Expectations.

    fn event(&self, value: &Value) -> OfferEvent {
        let offers = value["offers"].as_array().into_iter().flatten();
        let offer = |offer: &Value| {
            (text(offer, "role").to_owned(), text(offer, "agent").to_owned(), resources(&offer["resources"]))
        };
        let mut offers: Vec<(String, String, Resources)> = offers.map(offer).collect();
        offers.sort();
        OfferEvent { framework: text(value, "framework").to_owned(), offers }
    }

    fn take(&mut self, count: usize) -> Vec<OfferEvent> {
        self.events.drain(..count.min(self.events.len())).collect()
    }

    fn expect(&mut self, events: &Value) -> Outcome {
        let mut expected: Vec<OfferEvent> =
            events.as_array().into_iter().flatten().map(|event| self.event(event)).collect();
        let mut are = self.take(expected.len());
        let by_name = |event: &OfferEvent| (event.framework.clone(), event.offers.clone());
        expected.sort_by_key(by_name);
        are.sort_by_key(by_name);
        wanted(are == expected, || format!("{are:?}, not {expected:?}"))
    }

    fn expect_one_of(&mut self, step: &Value) -> Outcome {
        let before = self.events.clone();
        let mut last = Outcome::Cannot("there are no alternatives".to_owned());
        for alternative in step["alternatives"].as_array().into_iter().flatten() {
            self.events.clone_from(&before);
            last = self.expect(alternative);
            if last == Outcome::Hold {
                return last;
            }
        }
        last
    }

    fn expect_totals(&mut self, step: &Value) -> Outcome {
        let (names, role) = (texts(&step["frameworks"]), text(step, "role"));
        let events = self.take(names.len());
        let mut missing: BTreeSet<&str> = names.into_iter().collect();
        let mut sum = Amounts::default();
        for event in &events {
            if !missing.remove(event.framework.as_str()) {
                return Outcome::Wrong(format!("{} is offered something", event.framework));
            }
            for (of, _, held) in &event.offers {
                if of != role {
                    return Outcome::Wrong(format!("something is for {of}"));
                }
                sum.add(&Amounts::of_scalars(held));
            }
        }
        self.last_totals = events;
        let expected = Amounts::of_scalars(&resources(&step["sum"]));
        wanted(missing.is_empty() && sum == expected, || format!("{sum:?}, not {expected:?}; without {missing:?}"))
    }

    fn take_turns(&mut self, step: &Value) -> Outcome {
        let (role, name, held) = (text(step, "role"), text(step, "agent"), resources(&step["resources"]));
        let mut tally: BTreeMap<String, u64> = BTreeMap::new();
        for turn in 0..step["times"].as_u64().unwrap_or_default() {
            let Some(event) = self.events.pop_front() else {
                return Outcome::Wrong(format!("nobody is offered anything in turn {turn}"));
            };
            if event.offers != [(role.to_owned(), name.to_owned(), held.clone())] {
                return Outcome::Wrong(format!("turn {turn}: {event:?}"));
            }
            let (framework, agent) = (self.frameworks[&event.framework], self.agents[name]);
            self.give_back(framework, agent, role, &held);
            *tally.entry(event.framework).or_default() += 1;
            self.advance(step["advance_ms"].as_u64().unwrap_or_default());
        }
        let expected = step["expect_tally"].as_object().into_iter().flatten();
        let holds = expected.clone().all(|(name, count)| *count == tally.get(name).copied().unwrap_or_default());
        wanted(holds, || format!("{tally:?}, not {:?}", step["expect_tally"]))
    }

    fn expect_inverse(&mut self, step: &Value) -> Outcome {
        let Some(event) = self.inverse.pop_front() else {
            return Outcome::Wrong("nobody is asked for anything".to_owned());
        };
        let has = |name: &str| event.agents.iter().any(|agent| agent == name);
        let start_in_ms = step["start_in_ms"].as_i64();
        let starts = event.agents.iter().all(|name| {
            let starts_in = self.unavailable.get(name).map(|(set_ms, start_ms)| start_ms - *set_ms as i64);
            start_in_ms.is_none() || starts_in == start_in_ms
        });
        let holds = event.framework == text(step, "framework")
            && texts(&step["agents_include"]).into_iter().all(has)
            && !texts(&step["agents_exclude"]).into_iter().any(has)
            && resources(&step["resources"]).is_empty()
            && starts;
        wanted(holds, || format!("{event:?}"))
    }
}

fn operation(step: &Value, from: &Resources) -> Result<Resources, Unfit> {
    let what = resources(&step["resources"]);
    match text(step, "kind") {
        "RESERVE" => from.reserve(&what),
        "UNRESERVE" => from.unreserve(&what),
        "CREATE" => from.create(&what),
        "DESTROY" => from.destroy(&what),
        other => panic!("there is no operation {other}"),
    }
}
