//! What happens in a run, as text: a seed, how large the cluster is, and faults at times. A run is generated from its
//! seed; a shrunk one is kept as a file.

use std::fmt;
use std::str::FromStr;

use master_core::FeatureLevel;

use crate::random::Random;

/// A run, written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Everything that is not written follows from it.
    pub seed: u64,
    /// Masters that form the quorum.
    pub masters: u64,
    /// Machines with agents.
    pub agents: u64,
    /// Frameworks.
    pub frameworks: u64,
    /// In the order of their times.
    pub steps: Vec<(u64, Step)>,
    /// When faults end, in virtual milliseconds.
    pub calm_ms: u64,
}

/// One fault, or its end. A name is `m1` or `a2`; `leader`: whoever leads then; `busy`: the leader, as soon as something is
/// in its log that is not committed; `writing`: some master, as soon as it has written what is not flushed; `agent`: some agent,
/// likewise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The process ends, and loses what it had not flushed.
    Crash(String),
    /// It is started again.
    Start(String),
    /// The process stands still.
    Pause(String),
    /// It goes on.
    Resume(String),
    /// Nothing passes from the first to the second.
    Cut(String, String),
    /// Nothing passes between it and the other masters, either way.
    Isolate(String),
    /// Nothing passes from the other masters to it, but it is heard.
    Deafen(String),
    /// All ways are open.
    Mend,
    /// Delay in microseconds, late, lost and doubled in a thousand.
    Weather(u64, u64, u64, u64),
    /// The machine's wall clock is set forward or back by so many milliseconds.
    Clock(String, i64),
    /// Writes fail: no space.
    DiskFull(String),
    /// Flushes fail.
    DiskBroken(String),
    /// The disk works again.
    DiskWorks(String),
    /// One bit of one entry flips, while the process is down, if the others are whole.
    Flip(String),
    /// A machine with an agent stands still for so many milliseconds, whoever else is started meanwhile.
    Away(String, u64),
    /// A machine with an agent is lost with everything on it; a new one takes its name.
    Wipe(String),
    /// The leader hands over.
    Transfer,
    /// An empty master is added.
    Add(String),
    /// A master is removed.
    Remove(String),
    /// A master is lost with its disk, and an empty one takes its place.
    Replace(String, String),
    /// An operator removes a framework.
    Teardown(String),
    /// It is started again as a release that reads feature levels up to this one.
    Release(String, u64),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Crash(who) => write!(f, "crash {who}"),
            Step::Start(who) => write!(f, "start {who}"),
            Step::Pause(who) => write!(f, "pause {who}"),
            Step::Resume(who) => write!(f, "resume {who}"),
            Step::Cut(from, to) => write!(f, "cut {from} {to}"),
            Step::Isolate(who) => write!(f, "isolate {who}"),
            Step::Deafen(who) => write!(f, "deafen {who}"),
            Step::Mend => f.write_str("mend"),
            Step::Weather(delay, late, lost, doubled) => write!(f, "weather {delay} {late} {lost} {doubled}"),
            Step::Clock(who, by_ms) => write!(f, "clock {who} {by_ms}"),
            Step::DiskFull(who) => write!(f, "disk-full {who}"),
            Step::DiskBroken(who) => write!(f, "disk-broken {who}"),
            Step::DiskWorks(who) => write!(f, "disk-works {who}"),
            Step::Flip(who) => write!(f, "flip {who}"),
            Step::Away(who, ms) => write!(f, "away {who} {ms}"),
            Step::Wipe(who) => write!(f, "wipe {who}"),
            Step::Transfer => f.write_str("transfer"),
            Step::Add(who) => write!(f, "add {who}"),
            Step::Remove(who) => write!(f, "remove {who}"),
            Step::Replace(old, new) => write!(f, "replace {old} {new}"),
            Step::Teardown(who) => write!(f, "teardown {who}"),
            Step::Release(who, level) => write!(f, "release {who} {level}"),
        }
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Step, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let name = |at: usize| words.get(at).map(|word| (*word).to_owned()).ok_or(format!("'{text}' lacks a word"));
        let number = |at: usize| name(at)?.parse::<u64>().map_err(|_| format!("'{text}': not a number"));
        Ok(match name(0)?.as_str() {
            "crash" => Step::Crash(name(1)?),
            "start" => Step::Start(name(1)?),
            "pause" => Step::Pause(name(1)?),
            "resume" => Step::Resume(name(1)?),
            "cut" => Step::Cut(name(1)?, name(2)?),
            "isolate" => Step::Isolate(name(1)?),
            "deafen" => Step::Deafen(name(1)?),
            "mend" => Step::Mend,
            "weather" => Step::Weather(number(1)?, number(2)?, number(3)?, number(4)?),
            "clock" => Step::Clock(name(1)?, name(2)?.parse().map_err(|_| format!("'{text}': not a number"))?),
            "disk-full" => Step::DiskFull(name(1)?),
            "disk-broken" => Step::DiskBroken(name(1)?),
            "disk-works" => Step::DiskWorks(name(1)?),
            "flip" => Step::Flip(name(1)?),
            "away" => Step::Away(name(1)?, number(2)?),
            "wipe" => Step::Wipe(name(1)?),
            "transfer" => Step::Transfer,
            "add" => Step::Add(name(1)?),
            "remove" => Step::Remove(name(1)?),
            "replace" => Step::Replace(name(1)?, name(2)?),
            "teardown" => Step::Teardown(name(1)?),
            "release" => Step::Release(name(1)?, number(2)?),
            other => return Err(format!("no step is called '{other}'")),
        })
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scenario { seed, masters, agents, frameworks, calm_ms, steps } = self;
        writeln!(f, "seed {seed}\nmasters {masters}\nagents {agents}\nframeworks {frameworks}\ncalm {calm_ms}")?;
        steps.iter().try_for_each(|(at_ms, step)| writeln!(f, "at {at_ms} {step}"))
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Scenario, String> {
        let mut scenario =
            Scenario { seed: 0, masters: 3, agents: 2, frameworks: 2, steps: Vec::new(), calm_ms: 40_000 };
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (word, rest) = line.split_once(' ').ok_or(format!("'{line}' lacks a value"))?;
            let number = |text: &str| text.parse::<u64>().map_err(|_| format!("'{line}': not a number"));
            match word {
                "seed" => scenario.seed = number(rest)?,
                "masters" => scenario.masters = number(rest)?,
                "agents" => scenario.agents = number(rest)?,
                "frameworks" => scenario.frameworks = number(rest)?,
                "calm" => scenario.calm_ms = number(rest)?,
                "at" => {
                    let (at_ms, step) = rest.split_once(' ').ok_or(format!("'{line}' lacks a step"))?;
                    scenario.steps.push((number(at_ms)?, step.parse()?));
                }
                other => return Err(format!("no line begins with '{other}'")),
            }
        }
        Ok(scenario)
    }
}

/// Milliseconds in which a master is given up.
const LONG_MS: (u64, u64) = (12_000, 20_000);

impl Scenario {
    /// The run of a seed.
    pub fn generate(seed: u64) -> Scenario {
        let mut random = Random::new(seed, "scenario");
        let masters = if random.permille(150) { 5 } else { 3 };
        let (agents, frameworks) = (random.range(2, 4), random.range(1, 3));
        let calm_ms = random.range(25_000, 45_000);
        let mut plan =
            Plan { random, steps: Vec::new(), masters, agents, frameworks, next_master: masters + 1, changes: 0 };
        if plan.random.permille(300) {
            plan.upgrade(calm_ms);
        }
        let mut at_ms = plan.random.range(1_500, 4_000);
        while at_ms < calm_ms {
            at_ms = plan.fault(at_ms, calm_ms);
            at_ms += if plan.random.permille(200) { plan.random.range(5, 300) } else { plan.random.range(300, 4_000) };
        }
        let mut steps = plan.steps;
        steps.sort_by_key(|(at_ms, _)| *at_ms);
        Scenario { seed, masters, agents, frameworks, steps, calm_ms }
    }
}

struct Plan {
    random: Random,
    steps: Vec<(u64, Step)>,
    masters: u64,
    agents: u64,
    frameworks: u64,
    next_master: u64,
    changes: u64,
}

impl Plan {
    fn master(&mut self) -> String {
        if self.random.permille(450) { "leader".into() } else { format!("m{}", 1 + self.random.below(self.masters)) }
    }

    fn agent(&mut self) -> String {
        format!("a{}", 1 + self.random.below(self.agents))
    }

    /// How long a fault lasts, in milliseconds: often shorter than anybody notices.
    fn length(&mut self) -> u64 {
        match self.random.below(3) {
            0 => self.random.range(1, 60),
            1 => self.random.range(60, 1_500),
            _ if self.random.permille(80) => self.random.range(LONG_MS.0, LONG_MS.1),
            _ => self.random.range(1_500, 9_000),
        }
    }

    /// One fault. From when on others may come: what ends them would end a long one, too.
    fn fault(&mut self, at_ms: u64, calm_ms: u64) -> u64 {
        let end_ms = (at_ms + self.length()).min(calm_ms);
        let mut push = |at_ms, step| self.steps.push((at_ms, step));
        match self.random.below(48) {
            0..=8 => {
                let who = self.master();
                self.steps.push((at_ms, Step::Crash(who)));
                // Whoever it was: everybody who is down is started.
                self.steps.push((end_ms, Step::Start("all".into())));
            }
            9..=12 => {
                let who = self.master();
                self.steps.push((at_ms, Step::Isolate(who)));
                self.steps.push((end_ms, Step::Mend));
            }
            13..=14 => {
                let who = self.master();
                self.steps.push((at_ms, Step::Deafen(who)));
                self.steps.push((end_ms, Step::Mend));
            }
            15..=16 => {
                let (from, to) = (self.master(), self.master());
                self.steps.push((at_ms, Step::Cut(from, to)));
                self.steps.push((end_ms, Step::Mend));
            }
            17 => {
                let (agent, master) = (self.agent(), self.master());
                let (from, to) = if self.random.permille(500) { (agent, master) } else { (master, agent) };
                self.steps.push((at_ms, Step::Cut(from, to)));
                self.steps.push((end_ms, Step::Mend));
            }
            18..=20 => {
                let who = self.master();
                self.steps.push((at_ms, Step::Pause(who)));
                self.steps.push((end_ms, Step::Resume("all".into())));
            }
            21..=22 => {
                let late = self.random.below(30);
                let (lost, doubled) = (self.random.below(60), self.random.below(60));
                let delay = if self.random.permille(300) { 30_000 } else { 3_000 };
                push(at_ms, Step::Weather(delay, late, lost, doubled));
                push(end_ms, Step::Weather(2_000, 0, 0, 0));
            }
            23 => {
                let who = self.master();
                // Seconds, or hours.
                let most_ms = if self.random.permille(500) { 60_000 } else { 36_000_000 };
                let by_ms = self.random.range(0, 2 * most_ms) as i64 - most_ms as i64;
                self.steps.push((at_ms, Step::Clock(who, by_ms)));
            }
            24 => {
                let who = self.master();
                let step = if self.random.permille(500) { Step::DiskFull(who) } else { Step::DiskBroken(who) };
                self.steps.push((at_ms, step));
                self.steps.push((end_ms, Step::DiskWorks("all".into())));
                self.steps.push((end_ms, Step::Start("all".into())));
            }
            25..=27 => {
                let who = self.agent();
                self.steps.push((at_ms, Step::Crash(who)));
                self.steps.push((end_ms, Step::Start("all".into())));
            }
            28 => {
                let who = self.agent();
                self.steps.push((at_ms, Step::Pause(who)));
                // Long enough for masters to give it up, now and then.
                let end_ms = if self.random.permille(300) { (at_ms + 30_000).min(calm_ms) } else { end_ms };
                self.steps.push((end_ms, Step::Resume("all".into())));
            }
            29 => push(at_ms, Step::Transfer),
            30 if self.random.permille(300) => {
                let who = self.agent();
                self.steps.push((at_ms, Step::Wipe(who)));
            }
            31 if self.random.permille(300) => {
                let who = format!("f{}", 1 + self.random.below(self.frameworks));
                self.steps.push((at_ms, Step::Teardown(who)));
            }
            32 if self.changes < 3 => self.change(at_ms),
            33..=35 => self.election(at_ms, calm_ms),
            36..=37 => {
                // The power fails for everybody.
                for number in 1..=self.masters {
                    self.steps.push((at_ms, Step::Crash(format!("m{number}"))));
                }
                self.steps.push((end_ms, Step::Start("all".into())));
            }
            38 => {
                // The leader is heard by nobody for about as long as a lease.
                let end_ms = (at_ms + self.random.range(200, 2_500)).min(calm_ms);
                self.steps.push((at_ms, Step::Isolate("leader".into())));
                self.steps.push((end_ms, Step::Mend));
            }
            39 if self.random.permille(60) => {
                // For so long that its masters forget it.
                let (who, length_ms) = (self.agent(), self.random.range(85_000, 110_000));
                self.steps.push((at_ms, Step::Away(who, length_ms)));
            }
            39 if self.random.permille(250) => {
                // For so long that its masters call it unreachable, and no longer.
                let (who, length_ms) = (self.agent(), self.random.range(27_000, 45_000));
                self.steps.push((at_ms, Step::Away(who, length_ms)));
            }
            40..=43 => {
                // Leadership is lost with records under way, whose callers hear nothing or from another.
                let who = "busy".to_owned();
                let end_ms = (at_ms + self.random.range(300, 4_000)).min(calm_ms);
                let (fault, end) = match self.random.below(3) {
                    0 => (Step::Pause(who), Step::Resume("all".into())),
                    1 => (Step::Isolate(who), Step::Mend),
                    _ => (Step::Deafen(who), Step::Mend),
                };
                self.steps.push((at_ms, fault));
                self.steps.push((end_ms, end));
            }
            44 if self.random.permille(300) => {
                let who = self.master();
                self.steps.push((at_ms, Step::Flip(who)));
                self.steps.push((end_ms, Step::Start("all".into())));
            }
            45..=46 => {
                // For long enough to be behind, not long enough to let go of the streams that it holds.
                let who = format!("m{}", 1 + self.random.below(self.masters));
                let end_ms = (at_ms + self.random.range(1_500, 4_900)).min(calm_ms);
                self.steps.push((at_ms, Step::Isolate(who)));
                self.steps.push((end_ms, Step::Mend));
                return end_ms;
            }
            47 => {
                // What an agent has just decided is undone, again and again.
                let mut crash_ms = at_ms;
                for _ in 0..self.random.range(2, 7) {
                    let back_ms = crash_ms + self.random.range(1, 400);
                    if back_ms >= calm_ms {
                        break;
                    }
                    self.steps.push((crash_ms, Step::Crash("agent".into())));
                    self.steps.push((back_ms, Step::Start("all".into())));
                    crash_ms = back_ms + self.random.range(100, 2_500);
                }
            }
            _ => {}
        }
        if end_ms >= at_ms + LONG_MS.0 { end_ms } else { at_ms }
    }

    /// The leader is gone, and while another is elected masters crash and are back at once.
    fn election(&mut self, at_ms: u64, calm_ms: u64) {
        self.steps.push((at_ms, Step::Crash("leader".into())));
        if self.random.permille(500) {
            // Votes are on their way for so long that two stand at once.
            self.steps.push((at_ms, Step::Weather(self.random.range(5_000, 120_000), 0, 0, 0)));
        }
        let mut crash_ms = at_ms + self.random.range(100, 900);
        for _ in 0..self.random.range(2, 8) {
            let who = match self.random.permille(600) {
                true => "writing".into(),
                false => format!("m{}", 1 + self.random.below(self.masters)),
            };
            let back_ms = crash_ms + self.random.range(1, 15);
            if back_ms >= calm_ms {
                break;
            }
            self.steps.push((crash_ms, Step::Crash(who)));
            self.steps.push((back_ms, Step::Start("all".into())));
            crash_ms = back_ms + self.random.range(1, 250);
        }
        let end_ms = (crash_ms + 100).min(calm_ms);
        self.steps.push((end_ms, Step::Start("all".into())));
        self.steps.push((end_ms, Step::Weather(2_000, 0, 0, 0)));
    }

    /// The cluster begins as an older release, and every master is brought to the newer one, some there and back.
    fn upgrade(&mut self, calm_ms: u64) {
        let newest = u64::from(FeatureLevel::NEWEST.0);
        let older = self.random.range(1, newest - 1);
        let newer = self.random.range(older + 1, newest);
        for number in 1..=self.masters {
            let who = format!("m{number}");
            self.steps.push((0, Step::Release(who.clone(), older)));
            let at_ms = self.random.range(3_000, calm_ms);
            self.steps.push((at_ms, Step::Release(who.clone(), newer)));
            if self.random.permille(200) {
                self.steps.push((at_ms + 1_000, Step::Release(who.clone(), older)));
                self.steps.push((at_ms + 4_000, Step::Release(who, newer)));
            }
        }
    }

    /// Of the masters.
    fn change(&mut self, at_ms: u64) {
        self.changes += 1;
        let new = format!("m{}", self.next_master);
        match self.random.below(3) {
            0 => {
                self.next_master += 1;
                self.steps.push((at_ms, Step::Add(new)));
            }
            1 => {
                let who = self.master();
                self.steps.push((at_ms, Step::Remove(who)));
            }
            _ => {
                self.next_master += 1;
                let who = self.master();
                self.steps.push((at_ms, Step::Replace(who, new)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_survives_being_written() {
        for seed in 0..200 {
            let scenario = Scenario::generate(seed);
            assert_eq!(scenario.to_string().parse::<Scenario>(), Ok(scenario));
        }
    }
}
