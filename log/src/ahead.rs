//! Reading ahead: what comes next is read and decoded on another thread while this one works on what came before.

use std::sync::mpsc::{SyncSender, sync_channel};

/// So many batches may wait, beside the one that is made and the one that is worked on.
const BATCHES: usize = 3;
/// A batch ends at so many items, or at so much weight.
const BATCH_ITEMS: usize = 64;
const BATCH_BYTES: usize = 256 << 10;

/// Gives `work` the items in order, which are made on a thread of their own, a few at a time: memory is bounded by what
/// they `weigh` in bytes. `work` may stop before the end.
///
/// # Panics
/// If making an item does, after `work` has returned: it has seen the items before that one.
pub fn ahead<T: Send, R>(
    items: impl Iterator<Item = T> + Send,
    weigh: impl Fn(&T) -> usize + Send,
    work: impl FnOnce(&mut dyn Iterator<Item = T>) -> R,
) -> R {
    let (sender, receiver) = sync_channel(BATCHES);
    std::thread::scope(|scope| {
        scope.spawn(move || make(items, weigh, &sender));
        // Gone before the scope waits for the other thread, which ends when nobody takes its batches any more.
        let mut items = receiver.into_iter().flatten();
        work(&mut items)
    })
}

fn make<T>(items: impl Iterator<Item = T>, weigh: impl Fn(&T) -> usize, sender: &SyncSender<Vec<T>>) {
    let (mut batch, mut bytes) = (Vec::with_capacity(BATCH_ITEMS), 0);
    for item in items {
        bytes += weigh(&item);
        batch.push(item);
        if batch.len() >= BATCH_ITEMS || bytes >= BATCH_BYTES {
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH_ITEMS));
            if sender.send(full).is_err() {
                return;
            }
            bytes = 0;
        }
    }
    // Whoever stopped early does not want the rest.
    let _ = sender.send(batch);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_in_order_and_completely() {
        for count in [0_usize, 1, 63, 64, 65, 10_000] {
            let found = ahead(0..count, |_| 1, |items| items.collect::<Vec<_>>());
            assert!(found.into_iter().eq(0..count), "{count}");
        }
    }

    #[test]
    fn heavy_items_do_not_pile_up() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let made = AtomicUsize::new(0);
        let items = (0..1000).inspect(|_| {
            made.fetch_add(1, Ordering::Relaxed);
        });
        ahead(
            items,
            |_| BATCH_BYTES,
            |items| {
                for item in items {
                    assert!(made.load(Ordering::Relaxed) <= item + BATCHES + 3, "{item}");
                }
            },
        );
    }

    #[test]
    fn work_may_stop_early() {
        assert_eq!(ahead(0_u64.., |_| 1, |items| items.nth(1000)), Some(1000));
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_is_no_end() {
        ahead((0..10).inspect(|item| assert!(*item < 5)), |_| 1, |items| items.count());
    }
}
