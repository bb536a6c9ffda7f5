//! What a master without a leader knows about why: which of the others do not answer. It says so in its log, at the
//! change and every now and then, and to whoever asks for the leader.

use crate::context::Context;
use crate::peers::Peers;
use bytes::Bytes;
use event_log::raft::Member;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// An election takes less; after so long without a leader something is wrong.
const PATIENCE: Duration = Duration::from_secs(1);
/// Whoever takes longer to give a sign of life does not answer.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two lines that say the same.
const SAY_EVERY: Duration = Duration::from_secs(15);

/// Why nobody leads, as far as this master knows.
#[derive(Debug, Default)]
pub(crate) struct Outage(Mutex<Option<Silence>>);

/// Who does not answer, of how many.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Silence {
    silent: Vec<String>,
    masters: usize,
}

impl Silence {
    fn sentence(&self) -> String {
        let (answer, needed) = (self.masters.saturating_sub(self.silent.len()), self.masters / 2 + 1);
        let names = match self.silent.split_last() {
            None => return format!("all {} masters answer, but none of them leads yet", self.masters),
            Some((last, [])) => format!("{last} does not answer"),
            Some((last, others)) => format!("{} and {last} do not answer", others.join(", ")),
        };
        format!("{names} ({answer} of {} masters, {needed} needed)", self.masters)
    }
}

impl Outage {
    /// One sentence, while there is something to say.
    pub(crate) fn sentence(&self) -> Option<String> {
        self.0.lock().as_ref().map(Silence::sentence)
    }

    /// The addresses of the masters that do not answer this one, which has no leader. Empty while it has one.
    pub(crate) fn silent(&self) -> Vec<String> {
        self.0.lock().as_ref().map(|silence| silence.silent.clone()).unwrap_or_default()
    }
}

/// Looks for a leader, says when it changes or is gone, and who does not answer then.
pub(crate) async fn watch(context: Arc<Context>, peers: Arc<Peers>) {
    let status = context.node.status();
    let me = context.identity.node().0;
    let mut led_by: Option<String> = None;
    let mut since: Option<Instant> = None;
    let mut said: Option<Instant> = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let (members, term) = {
            let status = status.borrow();
            (status.members.clone(), status.term)
        };
        if let Some(leader) = context.reader.heard_leader() {
            if led_by.as_ref() != Some(&leader.address) || said.is_some() {
                match (&led_by, leader.is_me) {
                    (_, true) => {}
                    (None, _) => tracing::info!(leader = leader.address, term, "a master leads"),
                    (Some(before), _) => {
                        tracing::warn!(before, leader = leader.address, term, "another master leads now")
                    }
                }
            }
            (led_by, since, said) = (Some(leader.address), None, None);
            *context.reader.outage.0.lock() = None;
            continue;
        }
        let began = *since.get_or_insert_with(Instant::now);
        if began.elapsed() < PATIENCE || members.is_empty() {
            continue;
        }
        let silence = Silence { silent: silent(&peers, &members, me).await, masters: members.len() };
        let sentence = silence.sentence();
        let changed = context.reader.outage.0.lock().replace(silence.clone()) != Some(silence);
        if changed || said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
            let seconds = began.elapsed().as_secs();
            tracing::warn!(before = led_by.as_deref().unwrap_or("nobody"), seconds, "no leader: {sentence}");
            said = Some(Instant::now());
        }
    }
}

/// Who of the others gives no sign of life.
async fn silent(peers: &Peers, members: &[Member], me: u64) -> Vec<String> {
    let others = members.iter().filter(|member| member.node_id != me).map(|member| member.address.clone());
    let asked = others.map(|address| async move {
        let answer = peers.post(&address, "/meseta/hello", Bytes::new(), HELLO_TIMEOUT).await;
        answer.is_err().then_some(address)
    });
    futures_util::future::join_all(asked).await.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_names_who_does_not_answer_and_how_many_are_needed() {
        let say = |silent: &[&str], masters| {
            Silence { silent: silent.iter().map(|name| (*name).to_owned()).collect(), masters }.sentence()
        };
        assert_eq!(say(&["a:1", "b:2"], 3), "a:1 and b:2 do not answer (1 of 3 masters, 2 needed)");
        assert_eq!(say(&["a:1"], 2), "a:1 does not answer (1 of 2 masters, 2 needed)");
        assert_eq!(say(&["a:1", "b:2", "c:3"], 5), "a:1, b:2 and c:3 do not answer (2 of 5 masters, 3 needed)");
        assert_eq!(say(&[], 3), "all 3 masters answer, but none of them leads yet");
    }
}
