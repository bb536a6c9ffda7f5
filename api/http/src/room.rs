//! Room for the bodies of requests: what all of them take at one time in this process, as they came, unpacked and
//! decoded. Small bodies have room of their own, so that acknowledgements never wait behind somebody's megabytes.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use api::limits::{LARGE_BODIES_BYTES_MAX, SMALL_BODIES_BYTES_MAX, SMALL_BODY_BYTES_MAX};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a body waits for room before its client is told to come again.
const PATIENCE: Duration = Duration::from_secs(5);
/// What one permit stands for, in bytes.
const UNIT_BYTES: usize = 1 << 10;

/// No room came free in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "Too many calls are being read: their bodies take {bytes_max} bytes of memory, which is all they may; try again"
)]
pub struct Crowded {
    /// All that there is, in bytes.
    pub bytes_max: usize,
}

/// All the room that there is.
#[derive(Debug)]
pub(crate) struct House {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    small_bytes: usize,
    large_bytes: usize,
    patience: Duration,
}

impl House {
    fn new(small_bytes: usize, large_bytes: usize, patience: Duration) -> House {
        let semaphore = |bytes: usize| Arc::new(Semaphore::new(bytes / UNIT_BYTES));
        House { small: semaphore(small_bytes), large: semaphore(large_bytes), small_bytes, large_bytes, patience }
    }

    /// This process's.
    pub(crate) fn of_this_process() -> Arc<House> {
        static HOUSE: LazyLock<Arc<House>> =
            LazyLock::new(|| Arc::new(House::new(SMALL_BODIES_BYTES_MAX, LARGE_BODIES_BYTES_MAX, PATIENCE)));
        HOUSE.clone()
    }
}

/// What one request has of it; all of it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    house: Arc<House>,
    /// Of the body as far as it came.
    read_bytes: usize,
    small: Option<OwnedSemaphorePermit>,
    large: Option<OwnedSemaphorePermit>,
}

impl Room {
    pub(crate) fn new(house: Arc<House>) -> Room {
        Room { house, read_bytes: 0, small: None, large: None }
    }

    /// For `bytes` more of the body, or of what is unpacked from it.
    pub(crate) async fn read(&mut self, bytes: usize) -> Result<(), Crowded> {
        // Rounded together, so that a body in many pieces takes no more than one in few.
        let (before, after) = (units(self.read_bytes), units(self.read_bytes + bytes));
        self.read_bytes += bytes;
        self.take(after - before).await
    }

    /// For what a decoder may build.
    pub(crate) async fn decode(&mut self, bytes: usize) -> Result<(), Crowded> {
        self.take(units(bytes)).await
    }

    /// Gives back what a decoder did not need.
    pub(crate) fn give_back(&mut self, bytes: usize) {
        let held = if self.is_small() { &mut self.small } else { &mut self.large };
        if let Some(held) = held {
            drop(held.split(bytes / UNIT_BYTES));
        }
    }

    fn is_small(&self) -> bool {
        self.read_bytes <= SMALL_BODY_BYTES_MAX
    }

    async fn take(&mut self, units: usize) -> Result<(), Crowded> {
        if units == 0 {
            return Ok(());
        }
        let (semaphore, bytes_max) = match self.is_small() {
            true => (self.house.small.clone(), self.house.small_bytes),
            false => (self.house.large.clone(), self.house.large_bytes),
        };
        let crowded = Crowded { bytes_max };
        let units = u32::try_from(units).map_err(|_| crowded)?;
        let permit = match semaphore.clone().try_acquire_many_owned(units) {
            Ok(permit) => permit,
            Err(_) => match tokio::time::timeout(self.house.patience, semaphore.acquire_many_owned(units)).await {
                Ok(Ok(permit)) => permit,
                _ => return Err(crowded),
            },
        };
        match if self.is_small() { &mut self.small } else { &mut self.large } {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        Ok(())
    }
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;

    fn house(patience: Duration) -> Arc<House> {
        Arc::new(House::new(64 * KIB, 1024 * KIB, patience))
    }

    #[tokio::test]
    async fn small_bodies_do_not_wait_behind_large_ones() {
        let house = house(Duration::ZERO);
        let mut large = Room::new(house.clone());
        large.read(65 * KIB).await.unwrap();
        large.decode(900 * KIB).await.unwrap();
        let mut second = Room::new(house.clone());
        assert_eq!(second.read(100 * KIB).await, Err(Crowded { bytes_max: 1024 * KIB }));
        let mut small = Room::new(house.clone());
        small.read(10).await.unwrap();
        small.decode(60 * KIB).await.unwrap();
        large.give_back(800 * KIB);
        let mut third = Room::new(house.clone());
        third.read(100 * KIB).await.unwrap();
        drop((large, second, small, third));
        assert_eq!((house.small.available_permits(), house.large.available_permits()), (64, 1024), "all is back");
    }

    #[tokio::test]
    async fn who_waits_is_let_in_when_another_leaves() {
        let house = house(Duration::from_secs(3600));
        let mut first = Room::new(house.clone());
        first.read(1024 * KIB).await.unwrap();
        let mut second = Room::new(house);
        let waiting = tokio::spawn(async move { second.read(100 * KIB).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        assert_eq!(waiting.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn pieces_take_no_more_than_the_whole() {
        let house = house(Duration::ZERO);
        let mut room = Room::new(house.clone());
        for _ in 0..10 * KIB {
            room.read(1).await.unwrap();
        }
        assert_eq!(house.small.available_permits(), 54);
    }
}
