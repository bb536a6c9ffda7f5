//! Large records: whoever leads goes on to lead while they are on their way.

use super::*;
use std::collections::VecDeque;

/// What the launches of one call to a master may weigh.
const RECORD_BYTES: usize = 6 << 20;
const RECORDS: u64 = 10;

impl Sequencer {
    fn append_large(&mut self, number: u64) -> event_log::raft::Ticket {
        let header = Header { term: self.term, n: self.n, ..Header::default() };
        self.n += 1;
        let mut payload = number.to_le_bytes().to_vec();
        payload.resize(RECORD_BYTES, 7);
        let events = vec![RawEvent { number: 1, version: 1, cause: 0, payload }];
        self.node.append(self.term, Record { header, causes: vec![], events })
    }
}

/// Tens of megabytes in few records, as fast as they are taken, on two threads that all members share. A machine that is
/// busy with other tests may cost one leadership; it cost one for almost every record.
#[test]
fn large_records_do_not_cost_the_leadership() {
    runtime().block_on(async {
        let cluster = Cluster::formed(3).await;
        let mut committed = 0;
        let (_, mut sequencer) = cluster.lead().await;
        let before = sequencer.term;
        while committed < RECORDS {
            let mut flights: VecDeque<_> = (committed..RECORDS).map(|number| sequencer.append_large(number)).collect();
            let mut lost = false;
            while let Some(flight) = flights.pop_front() {
                match flight.await {
                    Ok(_) if !lost => committed += 1,
                    Ok(_) => {}
                    Err(_) => lost = true,
                }
            }
            if lost {
                sequencer = cluster.lead().await.1;
            }
        }
        let terms = cluster.leader().await.1.term - before;
        assert!(terms <= 1, "{terms} leaderships were lost");
    });
}

/// What could be written and never be sent is refused, and harms nobody behind it.
#[test]
fn a_record_that_no_message_carries_is_refused() {
    runtime().block_on(async {
        let cluster = Cluster::formed(1).await;
        let (_, mut sequencer) = cluster.lead().await;
        let payload = vec![0; event_log::limits::PROPOSAL_BYTES_MAX + 1];
        let header = Header { term: sequencer.term, n: sequencer.n, ..Header::default() };
        let events = vec![RawEvent { number: 1, version: 1, cause: 0, payload }];
        let refused = sequencer.node.append(sequencer.term, Record { header, causes: vec![], events }).await;
        assert!(matches!(refused, Err(AppendError::TooLarge(_))), "{refused:?}");
        sequencer.append(1).await.expect("committed");
    });
}
