//! A store that is opened again by the process that had it.

use std::time::Duration;

use images::{Settings, Store};

/// Opens a store that was open before: what pulled for it may need a moment to let go.
pub(crate) fn open(settings: Settings) -> Store {
    for _ in 0..1000 {
        match Store::open(settings.clone()) {
            Err(error) if error.starts_with("Another agent uses") => std::thread::sleep(Duration::from_millis(5)),
            opened => return opened.unwrap(),
        }
    }
    panic!("somebody keeps the store open");
}
