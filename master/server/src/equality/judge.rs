//! Who is right when states differ: whatever most members of the quorum have.

use super::hex;
use master_core::ids::NodeId;
use master_core::state::Digests;
use serde_json::Value;
use std::collections::BTreeMap;

/// What the digests of the members show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Most members have this master's digest.
    Mine,
    /// Most members have this one, and this master has not.
    Others([u8; 32]),
    /// No digest is known to be that of most members.
    Unknown {
        /// But some differ from this master's.
        different: bool,
    },
}

/// Most of `members`, not most of those that answered: whoever stops must be sure that the others can go on.
pub(super) fn judge(members: &[NodeId], me: NodeId, mine: [u8; 32], others: &BTreeMap<NodeId, [u8; 32]>) -> Judgement {
    let mut counts: BTreeMap<[u8; 32], usize> = BTreeMap::new();
    for node in members {
        let digest = if *node == me { Some(&mine) } else { others.get(node) };
        if let Some(digest) = digest {
            *counts.entry(*digest).or_default() += 1;
        }
    }
    match counts.into_iter().find(|(_, count)| count * 2 > members.len()) {
        Some((digest, _)) if digest == mine => Judgement::Mine,
        Some((digest, _)) => Judgement::Others(digest),
        None => Judgement::Unknown { different: others.values().any(|digest| *digest != mine) },
    }
}

/// What other masters said about one index.
#[derive(Debug)]
pub(super) struct Witnesses {
    index: u64,
    digests: BTreeMap<NodeId, [u8; 32]>,
    /// Digests by section, of those that were asked.
    sections: BTreeMap<NodeId, BTreeMap<String, [u8; 32]>>,
}

impl Witnesses {
    pub(super) fn new(index: u64) -> Witnesses {
        Witnesses { index, digests: BTreeMap::new(), sections: BTreeMap::new() }
    }

    pub(super) fn digests(&self) -> &BTreeMap<NodeId, [u8; 32]> {
        &self.digests
    }

    pub(super) fn has_answered(&self, node: u64) -> bool {
        self.sections.contains_key(&NodeId(node))
    }

    pub(super) fn hear(&mut self, node: NodeId, digest: [u8; 32], sections: Vec<(String, [u8; 32])>) {
        self.digests.insert(node, digest);
        if !sections.is_empty() {
            self.sections.insert(node, sections.into_iter().collect());
        }
    }

    /// An answer of `/meseta/digest`; one that cannot be understood is none.
    pub(super) fn hear_answer(&mut self, body: &[u8]) {
        let Ok(answer) = serde_json::from_slice::<Value>(body) else { return };
        let node = answer["node"].as_str().and_then(|text| u64::from_str_radix(text, 16).ok());
        let (Some(node), Some(digest)) = (node, unhex(&answer["digest"])) else { return };
        if answer["index"].as_u64() != Some(self.index) {
            return;
        }
        let sections = answer["sections"].as_object().into_iter().flatten();
        let sections = sections.filter_map(|(name, section)| Some((name.clone(), unhex(&section["digest"])?)));
        self.hear(NodeId(node), digest, sections.collect());
    }

    /// The sections of a master that has this digest; none if only the log told of it.
    pub(super) fn sections(&self, digest: &[u8; 32]) -> BTreeMap<String, [u8; 32]> {
        let of = self.digests.iter().filter(|(_, known)| *known == digest);
        of.filter_map(|(node, _)| self.sections.get(node)).next().cloned().unwrap_or_default()
    }

    /// Where others differ from `mine`, as far as they told.
    pub(super) fn differences(&self, mine: &Digests) -> Vec<&'static str> {
        let differs = |section: &&master_core::state::SectionDigest| {
            let told = self.sections.values().filter_map(|sections| sections.get(section.name));
            told.into_iter().any(|digest| *digest != section.digest)
        };
        mine.sections.iter().filter(differs).map(|section| section.name).collect()
    }
}

fn unhex(text: &Value) -> Option<[u8; 32]> {
    let text = text.as_str().filter(|text| text.len() == 64 && text.is_ascii())?;
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
    }
    debug_assert_eq!(hex(&bytes), text);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(members: u64, others: &[(u64, u8)]) -> Judgement {
        let members: Vec<NodeId> = (1..=members).map(NodeId).collect();
        let others = others.iter().map(|(node, digest)| (NodeId(*node), [*digest; 32])).collect();
        judge(&members, NodeId(1), [0; 32], &others)
    }

    #[test]
    fn most_members_are_right() {
        assert_eq!(judged(3, &[(2, 9), (3, 9)]), Judgement::Others([9; 32]));
        assert_eq!(judged(3, &[(2, 0), (3, 9)]), Judgement::Mine);
        assert_eq!(judged(1, &[]), Judgement::Mine, "alone");
    }

    #[test]
    fn without_a_majority_nobody_is() {
        assert_eq!(judged(3, &[(2, 9)]), Judgement::Unknown { different: true }, "one against one");
        assert_eq!(judged(3, &[]), Judgement::Unknown { different: false });
        assert_eq!(judged(3, &[(2, 8), (3, 9)]), Judgement::Unknown { different: true }, "all differ");
        assert_eq!(judged(5, &[(2, 9), (3, 9)]), Judgement::Unknown { different: true }, "two of five are no majority");
        assert_eq!(judged(2, &[(7, 9)]), Judgement::Unknown { different: true }, "a stranger has no vote");
    }

    #[test]
    fn answers_are_understood_or_left_out() {
        let mut witnesses = Witnesses::new(7);
        let digest = hex(&[9; 32]);
        let answer = |index: u64, node: &str| {
            let sections = serde_json::json!({"tasks": {"entries": 1, "digest": digest}});
            serde_json::json!({"index": index, "node": node, "digest": digest, "sections": sections}).to_string()
        };
        witnesses.hear_answer(answer(8, "2").as_bytes());
        witnesses.hear_answer(b"{}");
        assert!(witnesses.digests().is_empty());
        witnesses.hear_answer(answer(7, "00000000000000ff").as_bytes());
        assert!(witnesses.has_answered(255));
        assert_eq!(witnesses.sections(&[9; 32])["tasks"], [9; 32]);
    }
}
