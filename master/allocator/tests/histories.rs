//! Random histories of small worlds: what a run offers by looking at what has changed is what it offers by looking at
//! everything, at every step; nothing is offered twice, and no role gets more than its limit.

use allocator::dice::Dice;
use allocator::{
    AgentKey, AgentProfile, Amounts, Book, Capabilities, FrameworkKey, FrameworkProfile, Options, Quota, Sorting, Use,
    Which, WhyNot,
};
use api::resources::{Limits, Quantities, Resources, parse};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const ROLES: [&str; 5] = ["a", "a/x", "a/y", "b", "c"];

fn resources(text: &str) -> Resources {
    parse(text, "*").expect(text).resources
}

/// What a framework holds of an agent for a role.
type Held = (AgentKey, FrameworkKey, Arc<str>, Resources, Use);

struct World {
    dice: Dice,
    book: Book,
    at_ms: u64,
    seed: u64,
    agents: u64,
    frameworks: u32,
    held: Vec<Held>,
    limits: BTreeMap<&'static str, Limits>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut dice = Dice::new(seed);
        let mut options = Options { limits_hold_below: true, ..Options::default() };
        match seed % 4 {
            1 => options.min_allocatable.clear(),
            2 => options.role_sorter = Sorting::Random,
            3 => {
                options.region = Some("here".into());
                options.framework_sorter =
                    if dice.roll().is_multiple_of(2) { Sorting::Random } else { Sorting::DominantShare };
            }
            _ => {}
        }
        let book = Book::new(options);
        World { dice, book, at_ms: 0, seed, agents: 0, frameworks: 0, held: vec![], limits: BTreeMap::new() }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.dice.roll() % bound
    }

    fn one_of<'a>(&mut self, texts: &[&'a str]) -> &'a str {
        texts[self.below(texts.len() as u64) as usize]
    }

    fn agent(&mut self) -> AgentKey {
        AgentKey(self.below(self.agents.max(1)))
    }

    fn framework(&mut self) -> FrameworkKey {
        FrameworkKey(self.below(self.frameworks.max(1).into()) as u32)
    }

    fn total(&mut self) -> Resources {
        let text = self.one_of(&[
            "cpus:4;mem:400",
            "cpus:2;mem:100;disk:50;ports:[1-9]",
            "cpus:1;mem:64;cpus(a):2;mem(a):100",
            "cpus:2;mem:64;disk(a/x):10;gpus:1",
            "mem:31;tapes:3",
            "cpus:8;mem:1000;cpus(b):1",
        ]);
        let mut total = resources(text);
        if self.below(6) == 0 {
            let mut revocable = resources("cpus:2").as_slice()[0].clone();
            revocable.revocable = true;
            total.add_one(revocable);
        }
        if self.below(6) == 0 {
            let mut volume = resources("disk(a):7").as_slice()[0].clone();
            volume.shared = true;
            total.add_one(volume);
        }
        total
    }

    fn profile(&mut self) -> FrameworkProfile {
        let mut roles: BTreeSet<Arc<str>> = BTreeSet::new();
        for _ in 0..=self.below(3) {
            roles.insert(self.one_of(&ROLES).into());
        }
        let min_allocatable = match self.below(5) {
            0 => roles.iter().map(|role| (role.clone(), vec![])).collect(),
            1 => roles.iter().map(|role| (role.clone(), vec![amounts("cpus:3"), amounts("tapes:1")])).collect(),
            _ => BTreeMap::new(),
        };
        let capabilities = Capabilities {
            multi_role: self.below(8) > 0,
            reservation_refinement: self.below(2) == 0,
            revocable_resources: self.below(2) == 0,
            gpu_resources: self.below(2) == 0,
            shared_resources: self.below(2) == 0,
            region_aware: self.below(2) == 0,
        };
        FrameworkProfile { roles, capabilities, min_allocatable, ..FrameworkProfile::default() }
    }

    fn agent_profile(&mut self) -> AgentProfile {
        AgentProfile {
            hostname: self.one_of(&["h1", "h2"]).into(),
            region: [None, Some("here"), Some("there")][self.below(3) as usize].map(Arc::from),
            multi_role: self.below(8) > 0,
            hierarchical_role: self.below(8) > 0,
            ..AgentProfile::default()
        }
    }

    fn drop_held(&mut self, is_gone: impl Fn(&Held) -> bool) {
        self.held.retain(|held| !is_gone(held));
    }

    fn step(&mut self) {
        match self.below(26) {
            0..=2 => {
                let (key, profile, total) = (AgentKey(self.agents), self.agent_profile(), self.total());
                self.agents += 1;
                self.book.add_agent(key, profile, total);
            }
            3 => {
                let key = self.agent();
                self.book.remove_agent(key);
                self.drop_held(|held| held.0 == key);
            }
            4 | 5 => {
                let (key, profile) = (FrameworkKey(self.frameworks), self.profile());
                self.frameworks += 1;
                let active = self.below(5) > 0;
                self.book.add_framework(key, profile, active);
            }
            6 => {
                let key = self.framework();
                self.book.remove_framework(key);
                self.drop_held(|held| held.1 == key);
            }
            7 => {
                let (key, profile) = (self.framework(), self.profile());
                self.book.update_framework(key, profile);
            }
            8 => {
                let (key, active) = (self.framework(), self.below(2) == 0);
                self.book.set_active(key, active);
            }
            9 => {
                let (key, role) = (self.framework(), self.one_of(&ROLES));
                self.book.suppress(key, role);
            }
            10 => {
                let (key, role) = (self.framework(), self.one_of(&ROLES));
                self.book.revive(key, role);
            }
            11 => {
                let (role, weight) = (self.one_of(&ROLES), 1 + self.below(3_000_000));
                self.book.set_weight(role, weight);
            }
            12 => {
                let role = self.one_of(&["a", "b", "c"]);
                // No guarantee is above its limit.
                let pair = self.one_of(&[
                    "/",
                    "/cpus:4",
                    "cpus:2;mem:200/cpus:2;mem:300",
                    "mem:100;tapes:1/mem:500",
                    "cpus:3/",
                ]);
                let (guarantees, limits) = pair.split_once('/').expect("a pair");
                let limits = Limits::parse(limits).expect("limits");
                self.limits.insert(role, limits.clone());
                self.book.set_quota(role, Quota { guarantees: amounts(guarantees), limits });
            }
            13 => {
                let (key, total) = (self.agent(), self.total());
                self.book.set_total(key, total);
            }
            14 => {
                let (key, profile) = (self.agent(), self.agent_profile());
                self.book.set_profile(key, profile);
            }
            15 => {
                let (key, closed) = (self.agent(), self.below(2) == 0);
                self.book.set_closed(key, closed.then_some(WhyNot::AgentDeactivated));
            }
            16 => {
                let only = self.below(3) == 0;
                self.book.set_whitelist(only.then(|| BTreeSet::from(["h1".into()])));
            }
            17 => {
                let paused = self.below(3) == 0;
                let role: Arc<str> = self.one_of(&ROLES).into();
                self.book.set_paused_roles(if paused { BTreeSet::from([role]) } else { BTreeSet::new() });
            }
            _ => {
                // What is held goes back, often with a wish not to see it again.
                for _ in 0..=self.below(3) {
                    if self.held.is_empty() {
                        break;
                    }
                    let at = self.below(self.held.len() as u64) as usize;
                    let (agent, framework, role, held, usage) = self.held.swap_remove(at);
                    self.book.release(agent, framework, Some(&role), &held, usage, 0);
                    if self.below(3) > 0 {
                        let until_ms = self.at_ms + 1 + self.below(5000);
                        self.book.refuse(agent, framework, &role, &held, until_ms);
                    }
                }
            }
        }
    }

    /// A run as it is made, beside one that looks at everything.
    fn run(&mut self) {
        self.at_ms += self.below(1500);
        self.seed += 1;
        let mut whole = self.book.clone();
        whole.look_at_all();
        let before: BTreeMap<&str, Amounts> = self.limits.keys().map(|r| (*r, self.book.tree().consumed(r))).collect();
        let run = self.book.run(self.at_ms, self.seed, Which::All);
        let reference = whole.run(self.at_ms, self.seed, Which::All);
        assert_eq!(run.offers, reference.offers, "world {}, {} ms", self.seed, self.at_ms);
        assert_eq!(run.inverse, reference.inverse);
        for ((framework, role), offers) in &run.offers {
            for offer in offers {
                let taken = offer.resources.unallocate().non_shared();
                let total = self.book.total(offer.agent).expect("the agent is there");
                assert!(total.contains(&taken), "{taken} of {total}");
                self.held.push((offer.agent, *framework, role.clone(), offer.resources.clone(), Use::Offer));
            }
        }
        for (role, limits) in &self.limits {
            let after = self.book.tree().consumed(role);
            for (name, limit) in limits.iter() {
                let (before, after) = (before[role].get(name), after.get(name));
                assert!(after <= before.max(limit.into()), "{role}: {after} of {limit}");
            }
        }
        if self.below(4) == 0 {
            // A proposal that nobody followed: all of it is proposed again.
            self.held.truncate(self.held.len() - run.offers.values().map(Vec::len).sum::<usize>());
            self.book.take_back(&run);
            let again = self.book.run(self.at_ms, self.seed, Which::All);
            assert_eq!(run.offers, again.offers);
            self.book.take_back(&again);
        }
    }
}

fn amounts(text: &str) -> Amounts {
    Amounts::from(&Quantities::parse(text).expect(text))
}

#[test]
fn looking_at_what_changed_is_looking_at_everything() {
    for seed in 0..400 {
        let mut world = World::new(seed);
        for _ in 0..120 {
            world.step();
            if world.below(3) == 0 {
                world.run();
            }
        }
    }
}
