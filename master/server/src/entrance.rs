//! What is asked before a master takes part: whether strangers are kept out, whether the others find it where it is, and
//! whether its disk belongs to the cluster that its flags speak of.

use crate::context::Context;
use crate::peers::Peers;
use crate::run::{RunError, Settings};
use api::internal;
use api_http::Secret;
use bytes::Bytes;
use event_log::raft::Node;
use prost::Message;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::time::Duration;

/// Between two questions to the master that --join names.
const ASK_EVERY: Duration = Duration::from_secs(1);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Masters that reach each other over a network share a secret or know each other's certificates, unless an operator says in
/// words that they need none.
pub(crate) fn check(settings: &Settings, is_quorum: bool) -> Result<(), RunError> {
    let names_masters = settings.tls.as_ref().is_some_and(|tls| tls.names_masters());
    let is_closed = settings.listen.ip().to_canonical().is_loopback() || settings.secret.is_some() || names_masters;
    let is_open = !is_closed && !settings.insecure;
    if is_open && is_quorum {
        return Err(RunError::Exposed(settings.listen));
    }
    Ok(())
}

/// What an operator is to know about who is let in.
pub(crate) fn say(settings: &Settings) {
    if let Some(warning) = settings.secret.as_ref().and_then(Secret::warning) {
        tracing::warn!("{warning}");
    }
    if settings.listen.ip().to_canonical().is_loopback() {
        return;
    }
    let listen = settings.listen;
    match (&settings.secret, settings.insecure) {
        (Some(_), false) => {}
        (None, false) if settings.tls.as_ref().is_some_and(|tls| tls.names_members()) => {}
        (_, true) => tracing::warn!(
            %listen,
            "--insecure: whoever reaches this port can vote, change the masters, read every task and take an agent's place"
        ),
        (None, false) => tracing::warn!(
            %listen,
            "no --cluster_secret: agents, masters and operators on other machines are refused; `meseta secret new FILE` makes one, \
             --cluster_secret=file:///FILE gives it to masters, agents and commands"
        ),
    }
}

/// A quorum's member is where the others look for it.
pub(crate) fn find_address(settings: &Settings, node: &Node) -> Result<(), RunError> {
    let members = node.members();
    let me = members.iter().find(|known| known.member.node_id == node.node_id());
    let Some(known) = me.map(|known| &known.member.address).filter(|_| members.len() > 1) else { return Ok(()) };
    if is_reached_at(settings, known) {
        return Ok(());
    }
    Err(RunError::Moved { known: known.clone(), given: settings.address.member.clone() })
}

/// Whether `known` may be another name of this master's address. Names that lead nowhere now are given the benefit of the doubt.
fn is_reached_at(settings: &Settings, known: &str) -> bool {
    let address = &settings.address;
    if *known == address.member || *known == format!("{}:{}", address.hostname, address.port) {
        return true;
    }
    let has_port = |port: u16| known.rsplit_once(':').is_some_and(|(_, text)| text.parse() == Ok(port));
    if !has_port(address.port) {
        return false;
    }
    // On every address of this machine, of which this may be one.
    if settings.listen.ip().is_unspecified() && has_port(settings.listen.port()) {
        return true;
    }
    known.to_socket_addrs().map_or(true, |mut found| found.any(|it| it.ip() == address.ip))
}

/// The list of masters counts on an empty disk alone: a warning if another is given than the disk has.
pub(crate) fn say_what_is_not_read(masters: &[String], node: &Node) {
    let mut members: Vec<String> = node.members().into_iter().map(|known| known.member.address).collect();
    if members.is_empty() || masters.len() < 2 {
        return;
    }
    let mut listed = masters.to_vec();
    members.sort();
    listed.sort();
    if members != listed {
        tracing::warn!(
            masters = masters.join(","),
            members = members.join(","),
            cluster_id = node.cluster_id().unwrap_or_default(),
            "--masters is read on an empty disk alone, and this one belongs to a cluster of other members: `meseta masters add`, \
             `replace` and `remove` change them"
        );
    }
}

/// A disk that belongs to another cluster than the master that `--join` names is not what its operator thinks.
pub(crate) async fn meet(context: Arc<Context>, peers: Arc<Peers>, join: Option<String>) {
    let own = context.node.cluster_id();
    let (Some(join), Some(own)) = (join, own.filter(|_| !context.node.members().is_empty())) else {
        return;
    };
    loop {
        if let Some(theirs) = cluster_at(&peers, &join).await {
            if theirs != own {
                context.fail(format!(
                    "--join={join} is a master of cluster {theirs}, and the disk {} belongs to cluster {own}: give it an empty \
                     --work_dir to be added there, or start it without --join",
                    context.flags.get("work_dir").map_or("", String::as_str)
                ));
            }
            return;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn cluster_at(peers: &Peers, address: &str) -> Option<String> {
    let answer = peers.post(address, "/meseta/hello", Bytes::new(), ASK_TIMEOUT).await;
    let (_, body) = answer.ok().filter(|(status, _)| status.is_success())?;
    internal::Hello::decode(body).ok()?.cluster_id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{self, Asked};

    fn settings(words: &str, bound: &str) -> Settings {
        let words = format!("--work_dir=/d {words}").split_whitespace().map(str::to_owned).collect();
        match flags::read(words, |_| None).unwrap() {
            Asked::Run(flags) => flags.settings(bound.parse().unwrap()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_quorum_that_others_reach_needs_a_secret_or_a_word() {
        let refused = check(&settings("", "10.0.0.1:5050"), true).unwrap_err().to_string();
        for says in ["10.0.0.1:5050", "meseta secret new", "--cluster_secret=file://", "--insecure"] {
            assert!(refused.contains(says), "{refused}");
        }
        assert!(check(&settings("", "0.0.0.0:5050"), true).is_err());
        assert!(check(&settings("", "0.0.0.0:5050"), false).is_ok(), "alone it lets its own machine in");
        assert!(check(&settings("--insecure", "10.0.0.1:5050"), true).is_ok());
        for loopback in ["127.0.0.1:5050", "127.3.2.1:5050", "[::1]:5050"] {
            assert!(check(&settings("", loopback), true).is_ok());
        }
    }

    #[test]
    fn a_member_is_found_under_any_name_of_its_address() {
        let here = settings("--hostname=m1.example", "127.0.0.1:5050");
        for name in ["127.0.0.1:5050", "localhost:5050", "m1.example:5050", "no.such.name.invalid:5050"] {
            assert!(is_reached_at(&here, name), "{name}");
        }
        for name in ["127.0.0.1:5051", "10.0.0.1:5050", "m1.example:5051"] {
            assert!(!is_reached_at(&here, name), "{name}");
        }
        let everywhere = settings("", "0.0.0.0:5050");
        assert!(is_reached_at(&everywhere, "10.9.9.9:5050") && !is_reached_at(&everywhere, "10.9.9.9:5051"));
    }
}
