//! Members come and go while records are appended.

use super::*;

/// Appends under whoever leads, for as long as the test lasts; keeps what was acknowledged.
struct Load {
    stop: Arc<std::sync::atomic::AtomicBool>,
    task: tokio::task::JoinHandle<(Sequencer, Vec<u64>)>,
}

impl Load {
    /// `node` leads, and goes on leading.
    fn start(mut sequencer: Sequencer, from: u64) -> Load {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            let mut number = from;
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                let tickets: Vec<_> = (0..8).map(|i| (number + i, sequencer.append(number + i))).collect();
                number += 8;
                for (number, ticket) in tickets {
                    ticket.await.expect("the leader leads on");
                    acknowledged.push(number);
                }
            }
            (sequencer, acknowledged)
        });
        Load { stop, task }
    }

    async fn end(self) -> (Sequencer, Vec<u64>) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

async fn add_waiting(node: &Node, address: &str) -> Member {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        match node.add(address).await {
            // It has not said yet that it waits.
            Err(MembershipError::NotWaiting { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            added => return added.expect("added"),
        }
    }
}

#[test]
fn one_member_grows_to_three_and_a_dead_one_is_replaced_by_an_empty_disk() {
    runtime().block_on(async {
        let mut cluster = Cluster::formed(1).await;
        let (first, mut sequencer) = cluster.lead().await;
        // What an empty disk has to catch up with.
        let tickets: Vec<_> = (0..3000).map(|number| sequencer.append(number)).collect();
        for ticket in tickets {
            ticket.await.expect("committed");
        }
        let load = Load::start(sequencer, 10_000);
        for _ in 0..2 {
            let i = cluster.join().await;
            let added = add_waiting(&cluster.node(first), &address(i)).await;
            assert_eq!(added.node_id, cluster.node(i).node_id());
            assert_eq!(cluster.node(i).cluster_id(), cluster.node(first).cluster_id());
        }
        let members = cluster.node(first).members();
        assert_eq!(members.len(), 3);
        assert!(members.iter().all(|member| member.votes), "{members:?}");
        let mut acknowledged: Vec<u64> = (0..3000).collect();
        let (sequencer, numbers) = load.end().await;
        acknowledged.extend(numbers);
        // The folder is free when nobody holds the member.
        drop(sequencer);

        // The one that had everything from the beginning is lost, with its disk.
        let lost = cluster.node(first).node_id();
        cluster.stop(first).await;
        let (leader, sequencer) = cluster.lead().await;
        let load = Load::start(sequencer, 100_000);
        cluster.dirs[first] = tempfile::tempdir().unwrap();
        cluster.start_joining(first).await;
        assert_ne!(cluster.node(first).node_id(), lost, "another disk is another member");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        let replaced = loop {
            // It comes in the place of the old one, not beside it.
            let added = cluster.node(leader).add(&address(first)).await.expect_err("two masters at one address");
            let says_how = added.to_string().contains("meseta masters replace") || added.to_string().contains("--join");
            assert!(says_how, "{added}");
            match cluster.node(leader).replace(lost, &address(first)).await {
                Err(MembershipError::NotWaiting { .. }) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                replaced => break replaced.expect("replaced"),
            }
        };
        assert_eq!(replaced.node_id, cluster.node(first).node_id());
        let ids: HashSet<u64> = cluster.node(leader).members().iter().map(|it| it.member.node_id).collect();
        assert!(ids.len() == 3 && !ids.contains(&lost), "{ids:?}");
        let (mut sequencer, numbers) = load.end().await;
        acknowledged.extend(numbers);

        // It counts: with it and without another of the old ones there is a quorum.
        let other = (0..3).find(|i| *i != first && *i != leader).unwrap();
        cluster.stop(other).await;
        sequencer.append(999_999).await.expect("committed");
        acknowledged.push(999_999);
        let reference = cluster.journal(leader).numbers();
        cluster.all_applied(reference.len()).await;
        let numbers: HashSet<u64> = reference.iter().map(|(_, number)| *number).collect();
        assert!(acknowledged.iter().all(|number| numbers.contains(number)), "something acknowledged is gone");
        assert_eq!(cluster.journal(first).numbers(), reference);
    });
}

#[test]
fn a_member_that_was_removed_hears_of_it_and_disturbs_nobody() {
    runtime().block_on(async {
        let cluster = Cluster::formed(3).await;
        let (leader, mut sequencer) = cluster.lead().await;
        let (node, gone) = (cluster.node(leader), (0..3).find(|i| *i != leader).unwrap());
        let term = sequencer.term;
        assert!(matches!(node.remove(node.node_id()).await, Err(MembershipError::Leads(_))));
        assert_eq!(node.remove(7).await, Err(MembershipError::NoSuchMember(7)));
        node.remove(cluster.node(gone).node_id()).await.expect("removed");
        let removed = cluster.node(gone);
        tokio::time::timeout(Duration::from_secs(20), removed.removed()).await.expect("it hears of it");
        sequencer.append(1).await.expect("committed");
        assert_eq!(node.status().borrow().term, term, "nobody asked for an election");

        // From two to one, and no further.
        let other = node.members().into_iter().find(|it| !it.leads).unwrap().member;
        node.remove(other.node_id).await.expect("removed");
        assert!(matches!(node.remove(node.node_id()).await, Err(MembershipError::Last(_))));
        sequencer.append(2).await.expect("committed by the one that is left");
    });
}

#[test]
fn what_would_lose_the_quorum_is_refused() {
    runtime().block_on(async {
        let mut cluster = Cluster::formed(3).await;
        let (leader, mut sequencer) = cluster.lead().await;
        let node = cluster.node(leader);
        assert!(matches!(node.add("nowhere:5050").await, Err(MembershipError::Unreachable { .. })));
        let follower = (0..3).find(|i| *i != leader).unwrap();
        let refused = node.add(&address(follower)).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!("{} cannot be added: it is a master of this cluster already", address(follower))
        );
        let refused = cluster.node(follower).add("nowhere:5050").await;
        assert!(matches!(refused, Err(MembershipError::NotLeader { .. })), "{refused:?}");
        // One is down: without another one nobody could commit anything.
        cluster.stop(follower).await;
        let third = (0..3).find(|i| *i != leader && *i != follower).unwrap();
        let refused = node.remove(cluster.node(third).node_id()).await;
        assert!(
            matches!(refused, Err(MembershipError::NoQuorum { answering: 1, voters: 2, needed: 2, .. })),
            "{refused:?}"
        );
        sequencer.append(1).await.expect("the quorum is as it was");
        // The one that is down can go.
        let down = node.members().into_iter().find(|it| it.member.address == address(follower)).unwrap();
        node.remove(down.member.node_id).await.expect("removed");
        sequencer.append(2).await.expect("committed");
        assert_eq!(node.members().len(), 2);
    });
}

#[test]
fn leadership_goes_where_it_is_asked_to() {
    runtime().block_on(async {
        let cluster = Cluster::formed(3).await;
        let (leader, _) = cluster.lead().await;
        let next = (leader + 1) % 3;
        cluster.node(leader).transfer_leadership_to(cluster.node(next).node_id()).await.expect("it takes over");
        assert_eq!(cluster.lead().await.0, next);
    });
}
