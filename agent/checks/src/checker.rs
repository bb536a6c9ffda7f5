//! What follows from what was seen. Time is an argument.
//!
//! ```text
//!            failure, in grace          success
//!              ┌──────┐        ┌──────────────────────┐
//!              ▼      │        ▼                      │
//! started ─► unknown ─┴─► healthy ──failure──► unhealthy ──failures_max in a row──► the task is to end
//!              └──────────failure, not in grace──▲ └─┘ failure: told each time
//! ```

use api::checks::Definition;
use api::v1::{CheckStatusInfo, check_info, check_status_info};

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command ended by itself, with this code.
    Exited(i32),
    /// The server answered, with this status.
    Answered(u16),
    /// Whether somebody listens.
    Connected(bool),
    /// Nothing can be said: it took too long, or could not be looked at. Why, in a sentence.
    Failed(String),
}

impl Outcome {
    /// Whether that is a sign of health.
    pub fn is_healthy(&self) -> bool {
        match self {
            Outcome::Exited(code) => *code == 0,
            Outcome::Answered(status) => (200..400).contains(status),
            Outcome::Connected(is) => *is,
            Outcome::Failed(_) => false,
        }
    }

    /// As a check's status tells it; none if nothing can be said.
    fn status(&self) -> Option<CheckStatusInfo> {
        let of = |kind: check_info::Type| CheckStatusInfo { r#type: Some(kind as i32), ..CheckStatusInfo::default() };
        Some(match self {
            Outcome::Exited(code) => CheckStatusInfo {
                command: Some(check_status_info::Command { exit_code: Some(*code) }),
                ..of(check_info::Type::Command)
            },
            Outcome::Answered(status) => CheckStatusInfo {
                http: Some(check_status_info::Http { status_code: Some(u32::from(*status)) }),
                ..of(check_info::Type::Http)
            },
            Outcome::Connected(is) => CheckStatusInfo {
                tcp: Some(check_status_info::Tcp { succeeded: Some(*is) }),
                ..of(check_info::Type::Tcp)
            },
            Outcome::Failed(_) => return None,
        })
    }
}

/// What is to be told.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Nothing new.
    Nothing,
    /// A check shows something else than before.
    Status(CheckStatusInfo),
    /// A health check: whether the task is healthy, and whether it is to end because it is not.
    Health {
        /// It is.
        healthy: bool,
        /// So often it was not that it is to end.
        kill: bool,
        /// How often in a row it was not.
        failures: u32,
    },
}

/// One check or health check of one task.
#[derive(Clone, Debug)]
pub struct Checker {
    definition: Definition,
    started_ms: u64,
    due_ms: u64,
    status: Option<CheckStatusInfo>,
    healthy: Option<bool>,
    was_healthy: bool,
    failures: u32,
}

impl Checker {
    /// Of a task that started at this time, in milliseconds.
    pub fn new(definition: Definition, started_ms: u64) -> Checker {
        let due_ms = started_ms.saturating_add(definition.delay_ms);
        Checker { definition, started_ms, due_ms, status: None, healthy: None, was_healthy: false, failures: 0 }
    }

    /// Goes on where another one was, which had told this, and of so many failures in a row: it is not told again.
    pub fn knowing(mut self, status: Option<CheckStatusInfo>, healthy: Option<bool>, failures: u32) -> Checker {
        self.status = status;
        self.healthy = healthy;
        // Who is unhealthy was told so, which is not done in its grace.
        self.was_healthy = healthy.is_some();
        // Who did not write down how many there were told of one at least.
        self.failures = if healthy == Some(false) { failures.max(1) } else { failures };
        self
    }

    /// What was last to be told could not be: it is news the next time, too.
    pub fn untold(&mut self) {
        self.status = None;
        self.healthy = None;
    }

    /// What is looked at.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// When it is to be looked at, in milliseconds.
    pub fn due_ms(&self) -> u64 {
        self.due_ms
    }

    /// This was seen, and the look ended now.
    pub fn seen(&mut self, outcome: &Outcome, now_ms: u64) -> Verdict {
        self.due_ms = now_ms.saturating_add(self.definition.interval_ms);
        let Some(health) = self.definition.health else {
            let status = outcome.status();
            if status.is_none() || status == self.status {
                return Verdict::Nothing;
            }
            self.status = status;
            return status.map_or(Verdict::Nothing, Verdict::Status);
        };
        if outcome.is_healthy() {
            self.failures = 0;
            self.was_healthy = true;
            let is_news = self.healthy.replace(true) != Some(true);
            return if is_news {
                Verdict::Health { healthy: true, kill: false, failures: 0 }
            } else {
                Verdict::Nothing
            };
        }
        let in_grace = now_ms.saturating_sub(self.started_ms) <= health.grace_ms;
        if !self.was_healthy && health.grace_ms > 0 && in_grace {
            return Verdict::Nothing;
        }
        self.failures = self.failures.saturating_add(1);
        self.healthy = Some(false);
        Verdict::Health { healthy: false, kill: self.failures >= health.failures_max, failures: self.failures }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::checks::{Health, Target};
    use std::net::{IpAddr, Ipv4Addr};

    fn definition(health: Option<Health>) -> Definition {
        let target = Target::Tcp { ip: IpAddr::from(Ipv4Addr::LOCALHOST), port: 1 };
        Definition { target, delay_ms: 100, interval_ms: 1000, timeout: None, health }
    }

    /// What is told after each of these, a second apart.
    fn told(checker: &mut Checker, outcomes: &[Outcome]) -> Vec<String> {
        let said = |verdict| match verdict {
            Verdict::Nothing => "-".to_owned(),
            Verdict::Status(status) => {
                let code = status.command.and_then(|command| command.exit_code);
                code.map_or_else(|| format!("{:?}", status.tcp.and_then(|tcp| tcp.succeeded)), |code| code.to_string())
            }
            Verdict::Health { healthy, kill, .. } => format!("{healthy}{}", if kill { " kill" } else { "" }),
        };
        outcomes
            .iter()
            .map(|outcome| {
                let now = checker.due_ms();
                said(checker.seen(outcome, now))
            })
            .collect()
    }

    use Outcome::{Connected, Exited, Failed};

    #[test]
    fn changes_of_a_check_are_told() {
        let mut checker = Checker::new(definition(None), 0);
        assert_eq!(checker.due_ms(), 100);
        let late = Failed("late".into());
        let seen = [Exited(0), Exited(0), late, Exited(0), Exited(7), Exited(0)];
        assert_eq!(told(&mut checker, &seen), ["0", "-", "-", "-", "7", "0"]);
        assert_eq!(checker.due_ms(), 6100, "from the end of a look");
        let mut checker = Checker::new(definition(None), 0).knowing(Exited(7).status(), None, 0);
        assert_eq!(told(&mut checker, &[Exited(7), Exited(0)]), ["-", "0"]);
    }

    #[test]
    fn each_failure_of_a_health_check_is_told_and_each_change() {
        let health = Health { failures_max: 3, grace_ms: 0 };
        let mut checker = Checker::new(definition(Some(health)), 0);
        let seen = [false, true, true, false, false, true, false, false, false].map(Connected);
        assert_eq!(
            told(&mut checker, &seen),
            ["false", "true", "-", "false", "false", "true", "false", "false", "false kill"]
        );
    }

    #[test]
    fn failures_in_the_grace_do_not_count_until_it_was_healthy() {
        let health = Health { failures_max: 2, grace_ms: 5000 };
        let mut checker = Checker::new(definition(Some(health)), 0);
        let seen = [false, false, false, false, false, false, false].map(Connected);
        assert_eq!(told(&mut checker, &seen), ["-", "-", "-", "-", "-", "false", "false kill"]);
        let mut checker = Checker::new(definition(Some(health)), 0);
        assert_eq!(told(&mut checker, &[true, false, false].map(Connected)), ["true", "false", "false kill"]);
    }

    #[test]
    fn another_checker_goes_on_where_one_was() {
        let health = Health { failures_max: 2, grace_ms: 60_000 };
        let go_on = |healthy| Checker::new(definition(Some(health)), 0).knowing(None, healthy, 0);
        assert_eq!(told(&mut go_on(Some(true)), &[true, false, false].map(Connected)), ["-", "false", "false kill"]);
        assert_eq!(told(&mut go_on(Some(false)), &[Connected(false)]), ["false kill"]);
        assert_eq!(told(&mut go_on(Some(false)), &[Connected(true)]), ["true"]);
        assert_eq!(told(&mut go_on(None), &[Connected(false)]), ["-"]);
        let health = Health { failures_max: 5, grace_ms: 0 };
        let mut checker = Checker::new(definition(Some(health)), 0).knowing(None, Some(false), 3);
        assert_eq!(told(&mut checker, &[false, false].map(Connected)), ["false", "false kill"]);
    }
}
