//! What is due and could not be decided: set aside, and tried again after a pause that doubles.

use master_core::deadlines::{Due, Turn};
use master_core::state::Deadline;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// The first pause.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// The longest one.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Of one leadership.
#[derive(Debug, Default)]
pub(crate) struct Aside(BTreeMap<Deadline, Again>);

#[derive(Debug)]
struct Again {
    at: Instant,
    pause: Duration,
}

impl Aside {
    /// Whether it is to be decided now.
    pub(crate) fn turn(&self, what: &Deadline, now: Instant) -> Turn {
        match self.0.get(what) {
            None => Turn::Together,
            Some(again) if again.at > now => Turn::Later,
            Some(_) => Turn::Alone,
        }
    }

    /// It was decided.
    pub(crate) fn take_back(&mut self, due: &Due) {
        if !self.0.is_empty() {
            self.0.retain(|what, _| !due.items().contains(what));
        }
    }

    /// It could not be decided. How long until it is tried again.
    pub(crate) fn put(&mut self, due: &Due, now: Instant) -> Duration {
        let mut longest = PAUSE_FIRST;
        for what in due.items() {
            let pause = self.0.get(what).map_or(PAUSE_FIRST, |before| (before.pause * 2).min(PAUSE_MAX));
            self.0.insert(*what, Again { at: now + pause, pause });
            longest = longest.max(pause);
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::scripted::Cluster;
    use master_core::Options;
    use master_core::deadlines::due;

    #[test]
    fn what_fails_again_and_again_is_tried_less_and_less() {
        let mut cluster = Cluster::new();
        let (_, connection) = cluster.framework("f", &["web"]);
        let framework_id = cluster.state.frameworks.live.values().next().unwrap().id.to_string();
        let by_master = false;
        cluster.run(master_core::Command::FrameworkDisconnected { framework_id, connection, by_master });
        let at_ms = cluster.state.next_deadline().unwrap();
        let found = due(&cluster.state, at_ms, &Options::default(), |_| Turn::Together).pop().unwrap();
        let what = found.items()[0];
        let (mut aside, mut now) = (Aside::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let pause = aside.put(&found, now);
            assert_eq!(aside.turn(&what, now), Turn::Later);
            now += pause;
            assert_eq!(aside.turn(&what, now), Turn::Alone);
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        aside.take_back(&found);
        assert_eq!(aside.turn(&what, now), Turn::Together);
    }
}
