use super::*;
use crate::command::Command;
use crate::testing::{Cluster, Names};
use api::internal::{FromAgent, NextIdentity, from_agent::Message};

const HOUR_MS: u64 = 3_600_000;

fn hash(of: u8) -> SecretHash {
    SecretHash([of; 32])
}

fn bytes(of: u8) -> bytes::Bytes {
    vec![of; 32].into()
}

fn proof(token: Option<u8>, identities: &[u8]) -> Option<AgentProof> {
    let identities = identities.iter().map(|of| bytes(*of)).collect();
    Some(AgentProof { join_token: token.map(bytes), identities })
}

fn asks() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.raise();
    cluster.chosen.agent_identities = true;
    cluster
}

fn ops() -> Caller {
    Caller { principal: Some("ops".into()), ..Caller::default() }
}

fn want(cluster: &mut Cluster, wanted: Joining) -> Result<Names, String> {
    cluster.run(Command::Join(wanted), &ops()).map_err(|refusal| refusal.message)
}

fn mint(cluster: &mut Cluster, of: u8, uses: u32, agent: Option<AgentKey>) -> Result<Names, String> {
    let agent_id = agent.map(|key| view::agent_id(&cluster.state, key));
    let (hash, note) = (hash(of), "rack 1".into());
    want(cluster, Joining::Mint { hash, principal: "rack1".into(), agent_id, uses, life_ms: HOUR_MS, note })
}

fn come(cluster: &mut Cluster, address: &str, token: Option<u8>, identities: &[u8]) -> Result<AgentKey, String> {
    cluster.proof = proof(token, identities);
    cluster.try_agent_at(address).map_err(|refusal| refusal.message)
}

fn back(cluster: &mut Cluster, agent: AgentKey, token: Option<u8>, identities: &[u8]) -> Result<Names, String> {
    cluster.proof = proof(token, identities);
    cluster.resume_with(agent, |_| {}).map_err(|refusal| refusal.message)
}

fn id(cluster: &Cluster, agent: AgentKey) -> String {
    view::agent_id(&cluster.state, agent)
}

fn snapshot_is_whole(cluster: &Cluster) {
    let mut bytes = Vec::new();
    cluster.state.write_snapshot(&mut bytes).unwrap();
    assert_eq!(crate::State::read_snapshot(&mut bytes.as_slice()).unwrap(), cluster.state);
}

#[test]
fn a_token_lets_so_many_agents_join_and_each_keeps_its_own_identity() {
    let mut cluster = asks();
    let why = come(&mut cluster, "a:1", None, &[]).unwrap_err();
    assert!(why.contains("--join_token"), "{why}");
    assert_eq!(mint(&mut cluster, 1, 2, None).unwrap(), ["join-token-minted"]);
    assert!(come(&mut cluster, "a:1", Some(9), &[11]).unwrap_err().contains("unknown"), "another token");
    let first = come(&mut cluster, "a:1", Some(1), &[11]).unwrap();
    let second = come(&mut cluster, "b:1", Some(1), &[12]).unwrap();
    assert!(come(&mut cluster, "c:1", Some(1), &[13]).unwrap_err().contains("used up"));
    assert!(matches!(&cluster.state.identities.of_agents[&first],
        Bound::Own { principal, token, .. } if **principal == *"rack1" && *token == JoinTokenKey(0)));
    snapshot_is_whole(&cluster);

    assert_eq!(back(&mut cluster, first, None, &[11]).unwrap(), ["agent-resumed"]);
    assert_eq!(back(&mut cluster, first, Some(1), &[11]).unwrap(), ["agent-resumed"], "the token counts once");
    let why = back(&mut cluster, first, None, &[12]).unwrap_err();
    assert!(why.contains(&format!("that of agent {}", id(&cluster, second))), "{why}");
    assert!(back(&mut cluster, first, None, &[]).unwrap_err().contains("does not show the identity"));
    assert!(come(&mut cluster, "d:1", None, &[11]).unwrap_err().contains("that of agent"), "nor as a new one");
    cluster.comes_as = ops();
    assert!(back(&mut cluster, first, None, &[]).is_err(), "nor by a credential");
}

#[test]
fn an_answer_that_was_lost_costs_no_second_use() {
    let mut cluster = asks();
    mint(&mut cluster, 1, 1, None).unwrap();
    cluster.proof = proof(Some(1), &[11]);
    let agent = cluster.agent_with_token(77, "cpus:1;mem:100");
    assert_eq!(cluster.try_agent_with_token(77, "cpus:1;mem:100").unwrap(), agent);
    assert_eq!(cluster.state.identities.tokens[&JoinTokenKey(0)].used, 1);
}

#[test]
fn an_identity_is_rotated_before_it_ends_and_when_an_operator_wants() {
    let mut cluster = asks();
    cluster.chosen.identity_life_ms = 10 * HOUR_MS;
    mint(&mut cluster, 1, 1, None).unwrap();
    let agent = come(&mut cluster, "a:1", Some(1), &[11]).unwrap();
    let now_ms = cluster.at_ms;
    assert_eq!(told(&cluster.state, agent, now_ms + HOUR_MS), Some((hash(11), 4 * HOUR_MS)));
    let agent_id = id(&cluster, agent);
    assert_eq!(want(&mut cluster, Joining::Rotate { agent_id }).unwrap(), ["agent-rotation-wanted"]);
    assert_eq!(told(&cluster.state, agent, now_ms), Some((hash(11), 0)));
    let next =
        |of| vec![FromAgent { seq: None, message: Some(Message::NextIdentity(NextIdentity { hash: bytes(of) })) }];
    assert_eq!(cluster.agent_says(agent, next(21)).unwrap(), ["agent-identity-rotated"]);
    assert_eq!(cluster.agent_says(agent, next(21)).unwrap(), [""; 0], "once");
    assert_eq!(told(&cluster.state, agent, now_ms), Some((hash(21), 5 * HOUR_MS)));
    assert!(back(&mut cluster, agent, None, &[11]).is_err(), "the old one is over");
    // It had not heard of it: it shows both.
    assert_eq!(back(&mut cluster, agent, None, &[21, 11]).unwrap(), ["agent-resumed"]);
    cluster.at_ms += 10 * HOUR_MS;
    let why = back(&mut cluster, agent, None, &[21]).unwrap_err();
    assert!(why.contains("that is over"), "{why}");
    snapshot_is_whole(&cluster);
}

#[test]
fn whoever_was_revoked_comes_back_by_a_token_for_it_alone_and_with_another_identity() {
    let mut cluster = asks();
    mint(&mut cluster, 1, 5, None).unwrap();
    let agent = come(&mut cluster, "a:1", Some(1), &[11]).unwrap();
    let agent_id = id(&cluster, agent);
    let revoked = want(&mut cluster, Joining::Revoke { agent_id: agent_id.clone() }).unwrap();
    assert_eq!(revoked, ["agent-identity-revoked", "agent-disconnected"]);
    assert!(back(&mut cluster, agent, None, &[11]).unwrap_err().contains("was revoked"));
    assert!(back(&mut cluster, agent, Some(1), &[31]).unwrap_err().contains("for it alone"));
    mint(&mut cluster, 2, 1, Some(agent)).unwrap();
    assert!(come(&mut cluster, "b:1", Some(2), &[32]).unwrap_err().contains("is for agent"));
    assert!(back(&mut cluster, agent, Some(2), &[11]).unwrap_err().contains("make another"));
    assert!(come(&mut cluster, "c:1", Some(1), &[11]).unwrap_err().contains("make another"), "nor as a new one");
    assert_eq!(back(&mut cluster, agent, Some(2), &[31]).unwrap(), ["agent-resumed", "agent-joined"]);
    assert!(want(&mut cluster, Joining::Revoke { agent_id: "C-S9".into() }).is_err());
    assert_eq!(want(&mut cluster, Joining::RevokeToken { token: 0 }).unwrap(), ["join-token-revoked"]);
    assert!(come(&mut cluster, "d:1", Some(1), &[33]).unwrap_err().contains("revoked"));
}

#[test]
fn an_agent_whose_id_is_over_is_another_one_by_the_same_identity() {
    let mut cluster = asks();
    mint(&mut cluster, 1, 5, None).unwrap();
    let agent = come(&mut cluster, "a:1", Some(1), &[11]).unwrap();
    cluster.agent_disconnected(agent);
    assert!(come(&mut cluster, "b:1", None, &[11]).is_err(), "from elsewhere it is a copy");
    let next = come(&mut cluster, "a:1", None, &[11]).unwrap();
    assert!(cluster.state.identities.of_agents.get(&agent).is_none());
    assert!(matches!(&cluster.state.identities.of_agents[&next], Bound::Own { .. }));
    cluster.mark_gone(next);
    assert!(cluster.state.identities.of_agents.is_empty(), "an operator wanted its end");
    assert!(come(&mut cluster, "a:1", None, &[11]).is_err());
}

#[test]
fn an_agent_that_comes_as_a_principal_is_bound_to_it() {
    let mut cluster = asks();
    cluster.proof = None;
    let as_one = |name: &str| Caller { principal: Some(name.into()), ..Caller::default() };
    let agent = cluster.try_agent_as(&as_one("rack1"), "cpus:1;mem:100").unwrap();
    cluster.comes_as = as_one("rack2");
    let why = cluster.resume_with(agent, |_| {}).unwrap_err().message;
    assert!(why.contains("bound to principal 'rack1', and comes as 'rack2'"), "{why}");
    cluster.comes_as = as_one("rack1");
    assert_eq!(cluster.resume_with(agent, |_| {}).unwrap(), ["agent-resumed"]);
    let agent_id = id(&cluster, agent);
    assert_eq!(want(&mut cluster, Joining::Release { agent_id }).unwrap(), ["agent-identity-forgotten"]);
    cluster.comes_as = as_one("rack2");
    assert_eq!(cluster.resume_with(agent, |_| {}).unwrap(), ["agent-resumed", "agent-bound"]);
    // As before, with masters that do not ask.
    cluster.chosen.agent_identities = false;
    cluster.comes_as = Caller::default();
    assert_eq!(cluster.resume_with(agent, |_| {}).unwrap(), ["agent-resumed"]);
}

#[test]
fn what_is_over_is_forgotten() {
    let mut cluster = asks();
    cluster.chosen.identity_life_ms = HOUR_MS;
    mint(&mut cluster, 1, 5, None).unwrap();
    let agent = come(&mut cluster, "a:1", Some(1), &[11]).unwrap();
    cluster.agent_disconnected(agent);
    mint(&mut cluster, 2, 1, None).unwrap();
    come(&mut cluster, "a:1", Some(2), &[12]).unwrap();
    assert_eq!(cluster.state.identities.of_agents.len(), 2, "one of an agent that is over");
    cluster.at_ms += HOUR_MS;
    let forgotten = ["join-token-forgotten", "join-token-forgotten", "agent-identity-forgotten"];
    assert_eq!(cluster.forget(), forgotten);
    assert_eq!(cluster.forget(), [""; 0]);
}

#[test]
fn what_is_asked_has_bounds_and_needs_whoever_may() {
    let mut cluster = Cluster::new();
    cluster.chosen.agent_identities = true;
    assert!(mint(&mut cluster, 1, 1, None).unwrap_err().contains("has been upgraded"));
    assert!(come(&mut cluster, "a:1", Some(1), &[1]).unwrap_err().contains("has been upgraded"));
    cluster.raise();
    for (uses, life_ms) in [(0, 1), (JOIN_TOKEN_USES_MAX + 1, 1), (1, 0), (1, JOIN_TOKEN_LIFE_MS_MAX + 1)] {
        let mint =
            Joining::Mint { hash: hash(1), principal: "p".into(), agent_id: None, uses, life_ms, note: String::new() };
        assert!(want(&mut cluster, mint).is_err(), "{uses} {life_ms}");
    }
    let acls = r#"{"mark_agents_gone": [{"principals": {"values": ["root"]}, "agents": {"type": "ANY"}},
                                        {"principals": {"type": "ANY"}, "agents": {"type": "NONE"}}]}"#;
    cluster.chosen.authorizer = auth::Authorizer::new(auth::Acls::parse(acls).unwrap());
    let caller = Caller { peer: Some("10.0.0.1:1".into()), ..ops() };
    let revoke = Command::Join(Joining::RevokeToken { token: 0 });
    assert_eq!(cluster.run(revoke, &caller).unwrap_err().kind, RefusalKind::Forbidden);
    cluster.chosen.agent_identities = false;
    assert!(mint(&mut cluster, 1, 1, None).unwrap_err().contains("--agent_identities"));
}
